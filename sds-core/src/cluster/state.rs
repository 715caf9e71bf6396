//! The records of the cluster's state: what survives, as it is kept in a snapshot.
//!
//! Invariant: everything here is a function of the commands applied, in order; ordered maps only.
//! Must not know: who is connected, who is alive, what time it is.

use crate::control::Capacity;
use crate::id::{
    BootId, ClientId, DeviceId, DeviceUuid, Incarnation, LogSequence, MapVersion, PoolId, SdsId, SdsUuid, SessionGeneration, ShardSequence,
    SystemId, Ticket, TreeId, VolumeId,
};
use crate::map::{Copies, ShardMap};
use crate::stripe::Stripe;
use crate::unit::ByteCount;
use crate::view::SessionMode;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// All that the MDM must not forget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) system: SystemId,
    pub(super) unix_ms: u64,
    pub(super) issued: Issued,
    pub(super) versions: Versions,
    pub(super) pools: BTreeMap<PoolId, Pool>,
    pub(super) servers: BTreeMap<SdsId, Server>,
    pub(super) devices: BTreeMap<DeviceId, Device>,
    pub(super) volumes: BTreeMap<VolumeId, Volume>,
    pub(super) deleted_trees: BTreeMap<TreeId, DeletedTree>,
    pub(super) volume_names: BTreeMap<String, VolumeId>,
    pub(super) device_uuids: BTreeMap<DeviceUuid, DeviceId>,
    /// Oldest first, at most [`crate::limits::AUDIT_ENTRIES_MAX`].
    pub(super) audit: VecDeque<AuditEntry>,
}

/// The last number given out, of each kind. None is ever given out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issued {
    pub(super) pool: u32,
    pub(super) sds: u32,
    pub(super) device: u32,
    pub(super) volume: u32,
    pub(super) tree: u32,
    pub(super) incarnation: u64,
    pub(super) generation: u64,
}

/// The version of the whole and the last version that changed each part (pools keep their own).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    pub(super) current: MapVersion,
    pub(super) volumes: MapVersion,
    pub(super) servers: MapVersion,
    pub(super) deleted_trees: MapVersion,
}

/// A storage pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How many shards it has, once placed.
    pub shards: u32,
    /// How many copies of each.
    pub copies: Copies,
    /// Its shards; empty until its first volume is made.
    pub map: ShardMap,
    /// Version that changed the map last.
    pub changed: MapVersion,
    /// What may have been lost.
    pub losses: Losses,
}

/// Shards of a pool that went on with a copy that may lack something, each time counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Went on with one copy because the other had not come back for too long.
    pub alone: u64,
    /// Of these, had lost their caches: writes that were acknowledged and not flushed may be gone.
    pub unflushed: u64,
    /// Were forced by an operator to a copy that lacked acknowledged writes, or may have.
    pub forced: u64,
}

/// Something that was done and that somebody may want to know of later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub unix_ms: u64,
    /// What, in words.
    pub action: String,
    /// Why, in the words of who did it.
    pub reason: String,
}

/// A data server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its durable identity.
    pub uuid: SdsUuid,
    /// Its name, for people.
    pub name: String,
    /// `host:port`s of its data port, best first.
    pub addresses: Vec<String>,
    /// Fault set it is in.
    pub fault_set: String,
    /// Its process life, as it named it.
    pub life: u128,
    /// Its process life, as we named it.
    pub incarnation: Incarnation,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its identity.
    pub uuid: DeviceUuid,
    /// Its server.
    pub sds: SdsId,
    /// Where it is on its host, for people.
    pub path: String,
    /// Its pool.
    pub pool: PoolId,
    /// The life of its server in which it opened last (I6).
    pub incarnation: Incarnation,
    /// Whether it served when its server registered last.
    pub open: bool,
    /// Its space when its server registered last.
    pub capacity: Capacity,
    /// No sequence at or above this had been used, as far as it has been told.
    pub sequence_ceiling: ShardSequence,
    /// The newest flushed position of its log that has been told since it forgot last; 0: not known.
    pub flushed: LogSequence,
    /// The last life that it began with less than it had flushed. A member of an earlier life is amnesic (I13).
    pub forgot_in: Option<Incarnation>,
    /// Its volatile cache when it opened last, named by the boot of its host; nil: it had none.
    pub cache: BootId,
    /// The last life that it began without the volatile cache of the one before. A member of an earlier life has lost its cache.
    pub cache_lost_in: Option<Incarnation>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Owns its extents.
    pub tree: TreeId,
    /// Its pool.
    pub pool: PoolId,
    /// Its size.
    pub size: ByteCount,
    /// Its layout.
    pub stripe: Stripe,
    /// Key of the request that made it.
    pub key: Option<String>,
    /// When it was made.
    pub created_ms: u64,
    /// Its sessions, oldest first.
    pub sessions: Vec<Session>,
}

/// One client's right to a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose.
    pub client: ClientId,
    /// What proves it.
    pub ticket: Ticket,
    /// Host and process, for people.
    pub holder: String,
    /// What it allows.
    pub mode: SessionMode,
    /// Its generation.
    pub generation: SessionGeneration,
    /// Since when.
    pub since_ms: u64,
}

/// A tree whose volume was deleted and whose extents are not all freed yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTree {
    /// Where it was.
    pub pool: PoolId,
    /// Devices that have not said yet that they hold nothing of it.
    pub pending: BTreeSet<DeviceId>,
}
