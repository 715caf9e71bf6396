//! `sdsctl pool …`.

use crate::api::{Api, ApiError};
use crate::cli::{Output, PoolCommand};
use crate::table::{Table, percent, size};
use crate::{json, typed};
use sds_core::cluster::report::PoolStatus;
use serde_json::json;

pub(crate) fn run(api: &Api, output: Output, command: &PoolCommand) -> Result<String, ApiError> {
    match command {
        PoolCommand::Create { name, shards, copies } => {
            let made = api.post("/pools", &json!({"name": name, "shards": shards, "copies": copies}), None)?;
            Ok(match output {
                Output::Json => json(&made),
                Output::Table => format!("pool {name:?} is there; name it in the device sections of sds.toml: pool = {name:?}"),
            })
        }
        PoolCommand::List => {
            let answer = api.get("/pools")?;
            match output {
                Output::Json => Ok(json(&answer["pools"])),
                Output::Table => Ok(list(&typed::<Vec<PoolStatus>>(answer["pools"].clone())?)),
            }
        }
    }
}

/// Pools as a table.
pub(crate) fn list(pools: &[PoolStatus]) -> String {
    let mut table = Table::new(&["POOL", ">COPIES", ">DEVICES", ">RAW", ">USED", ">FREE", ">FULL", ">PROMISED", "SHARDS"]);
    for pool in pools {
        let counts = pool.shards;
        let states = [
            (counts.clean, "clean"),
            (counts.rebuilding, "rebuilding"),
            (counts.degraded, "degraded"),
            (counts.unavailable, "unavailable"),
        ];
        let shards: Vec<String> =
            states.into_iter().filter(|(count, _)| *count > 0).map(|(count, state)| format!("{count} {state}")).collect();
        let shards = if counts.total == 0 { "placed with the first volume".to_owned() } else { shards.join(", ") };
        table.row([
            pool.name.clone(),
            pool.copies.count().to_string(),
            pool.devices.to_string(),
            size(pool.raw_bytes),
            size(pool.used_bytes + pool.reclaimable_bytes),
            size(pool.free_bytes),
            percent(pool.raw_bytes.saturating_sub(pool.free_bytes), pool.raw_bytes),
            size(pool.provisioned_bytes),
            shards,
        ]);
    }
    table.render()
}
