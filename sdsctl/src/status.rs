//! `sdsctl status`: the system at a glance.

use crate::api::{Api, ApiError};
use crate::cli::Output;
use crate::table::{Table, size};
use crate::{json, pool, typed, volume};
use sds_core::cluster::report::{DeviceStateStatus, DeviceStatus, SdsState, SdsStatus, SystemStatus};

pub(crate) fn run(api: &Api, output: Output) -> Result<String, ApiError> {
    let answer = api.get("/status")?;
    match output {
        Output::Json => Ok(json(&answer)),
        Output::Table => Ok(render(&typed(answer)?)),
    }
}

fn render(status: &SystemStatus) -> String {
    let mut text = format!("system {}, metadata version {}\n\n", status.system, status.version);
    let mut mdm = Table::new(&["MDM", "ROLE", "CONTROL", "API", "VERSION"]);
    for member in &status.mdm {
        let cells = [&member.name, &member.role, &member.control_address, &member.api_address, &member.program];
        mdm.row(cells.map(Clone::clone));
    }
    text.push_str(&mdm.render());
    text.push('\n');
    if status.sds.is_empty() {
        text.push_str("no data server has registered yet; start one: sds --config sds.toml\n");
    } else {
        text.push_str(&servers(&status.sds));
        text.push('\n');
        text.push_str(&devices(&status.sds));
    }
    text.push('\n');
    text.push_str(&pool::list(&status.pools));
    text.push('\n');
    text.push_str(&volume::list(&status.volumes));
    text.push('\n');
    if status.alerts.is_empty() {
        text.push_str("nothing needs attention\n");
    } else {
        for alert in &status.alerts {
            text.push_str(&format!("! {alert}\n"));
        }
    }
    for device in status.sds.iter().flat_map(|sds| &sds.devices) {
        for fault in &device.recent_faults {
            text.push_str(&format!("! {}: {fault}\n", device.path));
        }
    }
    text
}

fn servers(servers: &[SdsStatus]) -> String {
    let mut table = Table::new(&["SDS", "STATE", "ADDRESS", "FAULT SET", ">LIFE", ">LAST HEARD", ">DEVICES"]);
    for sds in servers {
        let state = match sds.state {
            SdsState::Up if sds.loop_stalled => "stalled",
            SdsState::Up if !sds.up_to_date => "up, catching up",
            SdsState::Up => "up",
            SdsState::Stopping => "stopping",
            SdsState::Down => "down",
        };
        table.row([
            sds.name.clone(),
            state.to_owned(),
            sds.addresses.join(", "),
            sds.fault_set.clone(),
            sds.incarnation.to_string(),
            sds.last_heartbeat_ms.map_or_else(|| "never".to_owned(), age),
            sds.devices.len().to_string(),
        ]);
    }
    table.render()
}

fn devices(servers: &[SdsStatus]) -> String {
    let mut table = Table::new(&["DEVICE", ">NUMBER", "SDS", "STATE", "POOL", ">RAW", ">USED", ">SHARDS", ">FAULTS"]);
    for (sds, device) in servers.iter().flat_map(|sds| sds.devices.iter().map(move |device| (sds, device))) {
        let faults = &device.faults;
        let faults = faults.data_mismatches + faults.metadata_mismatches + faults.unsettled_kept + faults.io_errors;
        table.row([
            device.path.clone(),
            device.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            sds.name.clone(),
            state(device),
            device.pool.clone(),
            size(device.raw_bytes),
            size(device.used_bytes + device.reclaimable_bytes),
            device.shards.to_string(),
            faults.to_string(),
        ]);
    }
    table.render()
}

fn state(device: &DeviceStatus) -> String {
    match &device.state {
        DeviceStateStatus::Opening { done_per_mille } => format!("opening, {} %", done_per_mille / 10),
        DeviceStateStatus::Open => "open".to_owned(),
        // Why is said below, among what needs attention.
        DeviceStateStatus::Failed { .. } => "failed".to_owned(),
        DeviceStateStatus::Hung => "hung".to_owned(),
        DeviceStateStatus::Missing => "missing".to_owned(),
        DeviceStateStatus::Unreachable => "unreachable".to_owned(),
    }
}

fn age(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{}.{} s ago", ms / 1000, ms % 1000 / 100),
        10_000..600_000 => format!("{} s ago", ms / 1000),
        _ => format!("{} min ago", ms / 60_000),
    }
}
