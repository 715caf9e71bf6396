//! `sdsctl shard …` and `sdsctl audit`.

use crate::api::{Api, ApiError, segment};
use crate::cli::{Output, ShardCommand, ShardName, ShardStateArg};
use crate::table::Table;
use crate::{json, typed};
use sds_core::cluster::report::{AuditStatus, CopyStatus, ShardState, ShardStatus};
use serde_json::json;

pub(crate) fn run(api: &Api, output: Output, command: &ShardCommand) -> Result<String, ApiError> {
    match command {
        ShardCommand::List { pool, state, device, limit } => {
            let mut query = format!("/shards?limit={limit}");
            if let Some(pool) = pool {
                query.push_str(&format!("&pool={}", segment(pool)?));
            }
            if let Some(state) = state {
                query.push_str(&format!("&state={}", name(of(*state))));
            }
            if let Some(device) = device {
                query.push_str(&format!("&device={device}"));
            }
            let answer = api.get(&query)?;
            match output {
                Output::Json => Ok(json(&answer)),
                Output::Table => {
                    let more = answer["more"].as_u64().unwrap_or(0);
                    Ok(list(&typed::<Vec<ShardStatus>>(answer["shards"].clone())?, more))
                }
            }
        }
        ShardCommand::Show { shard } => {
            let answer = api.get(&path(shard)?)?;
            match output {
                Output::Json => Ok(json(&answer)),
                Output::Table => Ok(details(&typed(answer)?)),
            }
        }
        ShardCommand::Force { shard, device, reason } => {
            let answer = api.post(&format!("{}/force", path(shard)?), &json!({"device": device, "reason": reason}), None)?;
            match output {
                Output::Json => Ok(json(&answer)),
                Output::Table => {
                    let shard: ShardStatus = typed(answer)?;
                    Ok(format!(
                        "shard {}/{} goes on with the copy of device {device} alone, at epoch {}",
                        shard.pool, shard.shard, shard.epoch
                    ))
                }
            }
        }
    }
}

pub(crate) fn audit(api: &Api, output: Output) -> Result<String, ApiError> {
    let answer = api.get("/audit")?;
    match output {
        Output::Json => Ok(json(&answer["audit"])),
        Output::Table => {
            let entries: Vec<AuditStatus> = typed(answer["audit"].clone())?;
            if entries.is_empty() {
                return Ok("nothing was done that might have lost data\n".to_owned());
            }
            let line = |entry: &AuditStatus| format!("{}  {} ({})\n", entry.time, entry.action, reason(entry));
            Ok(entries.iter().map(line).collect())
        }
    }
}

fn reason(entry: &AuditStatus) -> &str {
    if entry.reason.is_empty() { "no reason was given" } else { &entry.reason }
}

fn path(shard: &ShardName) -> Result<String, ApiError> {
    Ok(format!("/pools/{}/shards/{}", segment(&shard.pool)?, shard.number))
}

const fn of(state: ShardStateArg) -> ShardState {
    match state {
        ShardStateArg::Clean => ShardState::Clean,
        ShardStateArg::Degraded => ShardState::Degraded,
        ShardStateArg::Rebuilding => ShardState::Rebuilding,
        ShardStateArg::Unavailable => ShardState::Unavailable,
    }
}

const fn name(state: ShardState) -> &'static str {
    match state {
        ShardState::Clean => "clean",
        ShardState::Degraded => "degraded",
        ShardState::Rebuilding => "rebuilding",
        ShardState::Unavailable => "unavailable",
    }
}

fn list(shards: &[ShardStatus], more: u64) -> String {
    if shards.is_empty() {
        return "no shard fits; a pool's shards are placed when its first volume is made\n".to_owned();
    }
    let mut table = Table::new(&["SHARD", "STATE", ">EPOCH", "IN SYNC", "JOINING", "FELL OUT", "WAITS FOR"]);
    for shard in shards {
        table.row([
            format!("{}/{}", shard.pool, shard.shard),
            name(shard.state).to_owned(),
            shard.epoch.to_string(),
            shard.in_sync.iter().map(short).collect::<Vec<_>>().join(", "),
            shard.joining.as_ref().map_or_else(|| "-".to_owned(), short),
            shard.lapsed.as_ref().map_or_else(|| "-".to_owned(), short),
            shard.waits_for.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let mut text = table.render();
    if more > 0 {
        text.push_str(&format!("and {more} more; --limit shows more of them, --pool, --state and --device fewer\n"));
    }
    text
}

fn short(copy: &CopyStatus) -> String {
    format!("{} ({})", copy.device, copy.sds)
}

fn details(shard: &ShardStatus) -> String {
    let mut text = format!(
        "shard      {}/{}\nstate      {}\nepoch      {} (of metadata version {})\n",
        shard.pool,
        shard.shard,
        name(shard.state),
        shard.epoch,
        shard.made_at
    );
    if shard.cache_lost_in > 0 {
        text.push_str(&format!("unflushed  what was acknowledged before epoch {} and not flushed may be gone\n", shard.cache_lost_in));
    }
    if let Some(waits_for) = &shard.waits_for {
        text.push_str(&format!("waits for  {waits_for}\n"));
    }
    let mut table = Table::new(&["COPY", ">DEVICE", "SDS", "PATH", ">LIFE", ">LIFE NOW", "STATE", "CACHE"]);
    let roles = ["primary", "secondary"].into_iter().zip(&shard.in_sync);
    let others = shard.joining.iter().map(|copy| ("joining", copy)).chain(shard.lapsed.iter().map(|copy| ("fell out", copy)));
    for (role, copy) in roles.chain(others) {
        table.row([
            role.to_owned(),
            copy.device.to_string(),
            copy.sds.clone(),
            copy.path.clone(),
            if copy.incarnation == 0 { "-".to_owned() } else { copy.incarnation.to_string() },
            copy.incarnation_now.to_string(),
            copy.state.clone(),
            if copy.cache_lost { "lost" } else { "-" }.to_owned(),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render());
    if let Some(complete) = shard.lapsed_complete {
        text.push_str(&format!("the copy that fell out is known to be complete up to sequence {complete}\n"));
    }
    text
}
