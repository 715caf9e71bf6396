//! `sdsctl volume …`.

use crate::api::{Api, ApiError, segment};
use crate::cli::{Output, VolumeCommand};
use crate::table::{Table, size};
use crate::{json, typed};
use sds_core::cluster::report::{SessionStatus, VolumeStatus};
use sds_server::Size;
use serde_json::{Value, json};

pub(crate) fn run(api: &Api, output: Output, command: &VolumeCommand) -> Result<String, ApiError> {
    match command {
        VolumeCommand::Create { name, size, pool, stripe_unit, stripe_width, idempotency_key } => {
            let mut body = json!({"name": name, "size_bytes": size.bytes(), "pool": pool});
            if let Some(unit) = stripe_unit {
                body["stripe_unit"] = Value::from(stripe_bytes(*unit)?);
            }
            if let Some(width) = stripe_width {
                body["stripe_width"] = Value::from(*width);
            }
            let made = api.post("/volumes", &body, idempotency_key.as_deref())?;
            show(output, made, |volume| format!("volume {:?} of {} is there", volume.name, crate::table::size(volume.size_bytes)))
        }
        VolumeCommand::List => {
            let answer = api.get("/volumes")?;
            match output {
                Output::Json => Ok(json(&answer["volumes"])),
                Output::Table => Ok(list(&typed::<Vec<VolumeStatus>>(answer["volumes"].clone())?)),
            }
        }
        VolumeCommand::Show { name } => show(output, api.get(&format!("/volumes/{}", segment(name)?))?, |volume| details(&volume)),
        VolumeCommand::Delete { name } => {
            api.delete(&format!("/volumes/{}", segment(name)?))?;
            Ok(match output {
                Output::Json => json(&json!({"deleted": name})),
                Output::Table => format!("volume {name:?} is deleted"),
            })
        }
    }
}

/// The API takes the unit as a 32-bit number; anything larger is out of range anyway.
fn stripe_bytes(unit: Size) -> Result<u32, ApiError> {
    u32::try_from(unit.bytes())
        .map_err(|_| ApiError::Usage(format!("stripe unit {unit} is too large; it must be a power of two from 4 KiB to 1 MiB")))
}

fn show(output: Output, answer: Value, text: impl FnOnce(VolumeStatus) -> String) -> Result<String, ApiError> {
    match output {
        Output::Json => Ok(json(&answer)),
        Output::Table => Ok(text(typed(answer)?)),
    }
}

/// Volumes as a table.
pub(crate) fn list(volumes: &[VolumeStatus]) -> String {
    if volumes.is_empty() {
        return "there is no volume; make one with `sdsctl volume create NAME --size SIZE`\n".to_owned();
    }
    let mut table = Table::new(&["NAME", ">SIZE", "POOL", "STRIPE", "CREATED", "OPEN BY"]);
    for volume in volumes {
        table.row([
            volume.name.clone(),
            size(volume.size_bytes),
            volume.pool.clone(),
            stripe(volume),
            volume.created.clone(),
            match volume.sessions.as_slice() {
                [] => "-".to_owned(),
                [one] => holder(one),
                [first, rest @ ..] => format!("{} and {} more", holder(first), rest.len()),
            },
        ]);
    }
    table.render()
}

fn stripe(volume: &VolumeStatus) -> String {
    format!("{} × {}", size(volume.stripe_unit.into()), volume.stripe_width)
}

fn holder(session: &SessionStatus) -> String {
    if session.orphaned { format!("{} (silent)", session.holder) } else { session.holder.clone() }
}

fn details(volume: &VolumeStatus) -> String {
    let mut text = format!(
        "name       {}\nid         {}\nsize       {} ({} bytes)\npool       {}\nstripe     {}\ncreated    {}\n",
        volume.name,
        volume.id,
        size(volume.size_bytes),
        volume.size_bytes,
        volume.pool,
        stripe(volume),
        volume.created
    );
    if let Some(allocated) = volume.allocated_bytes {
        text.push_str(&format!("allocated  {}\n", size(allocated)));
    }
    if volume.sessions.is_empty() {
        text.push_str("open by    nobody\n");
        return text;
    }
    let mut table = Table::new(&["OPEN BY", "MODE", "SINCE", ">GENERATION", "CLIENT"]);
    for session in &volume.sessions {
        let generation = session.generation.to_string();
        table.row([holder(session), session.mode.clone(), session.since.clone(), generation, session.client.clone()]);
    }
    text.push('\n');
    text.push_str(&table.render());
    text
}
