//! The state as operators read it: what the API answers and `sdsctl` prints.
//!
//! Field names are stable: scripts rely on them. Sizes are bytes, ages are milliseconds, times are
//! RFC 3339 in UTC, identities are UUIDs as text.

use crate::control::FaultCounts;
use crate::map::Copies;
use serde::{Deserialize, Serialize};

/// The whole system at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemStatus {
    /// The system's UUID.
    pub system: String,
    /// Version of the metadata.
    pub version: u64,
    /// Members of the MDM.
    pub mdm: Vec<MdmStatus>,
    /// Data servers, by id.
    pub sds: Vec<SdsStatus>,
    /// Storage pools, by id.
    pub pools: Vec<PoolStatus>,
    /// Volumes, by name.
    pub volumes: Vec<VolumeStatus>,
    /// What needs attention, in words; empty when all is well.
    pub alerts: Vec<String>,
}

/// A member of the MDM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MdmStatus {
    /// Its name.
    pub name: String,
    /// What it is: `primary`, `secondary` or `tiebreaker`.
    pub role: String,
    /// Where data servers and clients reach it.
    pub control_address: String,
    /// Where its API is.
    pub api_address: String,
    /// Its program's version.
    pub program: String,
}

/// Whether a data server is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SdsState {
    /// It was heard of lately.
    Up,
    /// It said that it is stopping, and is still there.
    Stopping,
    /// It was not heard of lately.
    Down,
}

/// A data server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SdsStatus {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uuid: String,
    /// `host:port`s of its data port.
    pub addresses: Vec<String>,
    /// Fault set it is in.
    pub fault_set: String,
    /// Whether it is there.
    pub state: SdsState,
    /// Its process life.
    pub incarnation: u64,
    /// Age of the last sign of life; absent if there was none since this MDM leads.
    pub last_heartbeat_ms: Option<u64>,
    /// Its data loop makes no turns.
    pub loop_stalled: bool,
    /// Age of its oldest disk request.
    pub oldest_disk_request_ms: u64,
    /// It has confirmed the newest metadata.
    pub up_to_date: bool,
    /// Its devices.
    pub devices: Vec<DeviceStatus>,
}

/// What a device is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum DeviceStateStatus {
    /// It is being recovered or formatted.
    Opening {
        /// How far, in thousandths.
        done_per_mille: u16,
    },
    /// It serves.
    Open,
    /// It does not serve.
    Failed {
        /// Why, and the way out.
        reason: String,
    },
    /// A disk request of it does not end. It serves again when that has ended.
    Hung,
    /// Its server does not report it.
    Missing,
    /// Its server is down.
    Unreachable,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its id; absent until it has served once.
    pub id: Option<u32>,
    /// Its identity; nil if it could not be read.
    pub uuid: String,
    /// Where it is on its host.
    pub path: String,
    /// Its pool.
    pub pool: String,
    /// What it is doing.
    pub state: DeviceStateStatus,
    /// Its space.
    pub raw_bytes: u64,
    /// In use.
    pub used_bytes: u64,
    /// Freed, not yet given out again.
    pub reclaimable_bytes: u64,
    /// Shards it holds, in sync or not.
    pub shards: u32,
    /// What went wrong in its server's process life.
    pub faults: FaultCounts,
    /// The most recent data faults.
    pub recent_faults: Vec<String>,
}

/// Shards of a pool, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardCounts {
    /// All; 0 until the pool's first volume is made.
    pub total: u32,
    /// Served, with as many copies in sync as the pool keeps.
    pub clean: u32,
    /// Served, with a copy less in sync, or one whose server is not there.
    pub degraded: u32,
    /// Served, with a copy less in sync while another joins.
    pub rebuilding: u32,
    /// Not served: their primary's device or its server is not there.
    pub unavailable: u32,
}

/// How a shard is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShardState {
    /// With as many copies in sync as the pool keeps.
    Clean,
    /// With a copy less in sync, or one whose server is not there.
    Degraded,
    /// With a copy less in sync while another joins.
    Rebuilding,
    /// Not at all: its primary's device or its server is not there.
    Unavailable,
}

/// A copy of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// Its device.
    pub device: u32,
    /// Where that is on its host.
    pub path: String,
    /// Its data server's name.
    pub sds: String,
    /// The life in which it is a member; 0 for one that fell out.
    pub incarnation: u64,
    /// The newest life of its device.
    pub incarnation_now: u64,
    /// Whether it does its part in that life: `serves`, `restarted`, `opening`, `failed`, `gone`.
    pub state: String,
    /// It came into this epoch without its volatile cache.
    pub cache_lost: bool,
}

/// A shard's configuration, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its pool.
    pub pool: String,
    /// Its number in the pool.
    pub shard: u32,
    /// How it is served.
    pub state: ShardState,
    /// Its epoch.
    pub epoch: u32,
    /// Version of the metadata that made it.
    pub made_at: u64,
    /// Copies in sync, the primary first.
    pub in_sync: Vec<CopyStatus>,
    /// The copy that is being brought in.
    pub joining: Option<CopyStatus>,
    /// The copy that fell out last.
    pub lapsed: Option<CopyStatus>,
    /// Last sequence known complete on that one.
    pub lapsed_complete: Option<u64>,
    /// The newest epoch that began with no cache kept; 0: none did.
    pub cache_lost_in: u32,
    /// Why it is not clean and what it waits for, in words; absent when it is.
    pub waits_for: Option<String>,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// When (RFC 3339, UTC).
    pub time: String,
    /// What.
    pub action: String,
    /// Why.
    pub reason: String,
}

/// What a pool may have lost, in shards, each time counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossCounts {
    /// Went on with one copy because the other had not come back for too long.
    pub alone: u64,
    /// Of these, may lack writes that were acknowledged and not flushed.
    pub unflushed: u64,
    /// Forced by an operator to a copy that lacked something, or may have.
    pub forced: u64,
}

/// A storage pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// How many copies of each shard it keeps.
    pub copies: Copies,
    /// Devices that hold (or would hold) its shards.
    pub devices: u32,
    /// Their space.
    pub raw_bytes: u64,
    /// In use.
    pub used_bytes: u64,
    /// Freed, not yet given out again.
    pub reclaimable_bytes: u64,
    /// Free.
    pub free_bytes: u64,
    /// Promised to volumes.
    pub provisioned_bytes: u64,
    /// Its shards.
    pub shards: ShardCounts,
    /// What it may have lost.
    #[serde(default)]
    pub losses: LossCounts,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its size.
    pub size_bytes: u64,
    /// Space its extents use; absent where data servers do not report it.
    pub allocated_bytes: Option<u64>,
    /// Stripe unit in bytes.
    pub stripe_unit: u32,
    /// Extents of a stripe set.
    pub stripe_width: u32,
    /// When it was made.
    pub created: String,
    /// Who has it open.
    pub sessions: Vec<SessionStatus>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The client's identity.
    pub client: String,
    /// Host and process.
    pub holder: String,
    /// `exclusive`, `shared` or `read_only`.
    pub mode: String,
    /// Its generation.
    pub generation: u64,
    /// Since when.
    pub since: String,
    /// Its client was silent for so long that others may take the volume over.
    pub orphaned: bool,
}
