//! The view: all that data servers and clients need of the MDM's state, at one version.
//!
//! Invariant: a receiver only moves to a higher version; whatever is not in an update is as it was.
//! Must not know: how the MDM stores or decides any of it.

use crate::id::{ClientId, DeviceId, MapVersion, PoolId, SdsId, SessionGeneration, SystemId, Ticket, TreeId, VolumeId};
use crate::map::ShardMap;
use crate::stripe::Stripe;
use crate::unit::ByteCount;
use serde::{Deserialize, Serialize};

/// What may be done in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SessionMode {
    /// One writer; the default.
    Exclusive,
    /// Each client has its own, none fences another.
    Shared,
    /// Reads only; fences nobody.
    ReadOnly,
}

/// A client's right to a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// Whose.
    pub client: ClientId,
    /// What proves it at an SDS.
    pub ticket: Ticket,
    /// Fences those below (for exclusive sessions: of the volume; for shared: of the same client).
    pub generation: SessionGeneration,
    /// What it allows.
    pub mode: SessionMode,
}

/// A volume as data servers and clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeView {
    /// Its id.
    pub id: VolumeId,
    /// Its name, unique in the system.
    pub name: String,
    /// The tree its extents belong to.
    pub tree: TreeId,
    /// Its pool.
    pub pool: PoolId,
    /// Its size, a multiple of 4 KiB.
    pub size: ByteCount,
    /// Its layout.
    pub stripe: Stripe,
    /// Live sessions.
    pub sessions: Vec<SessionView>,
}

/// A device and the server that owns it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// Its server.
    pub sds: SdsId,
}

/// A data server and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SdsView {
    /// Its id.
    pub id: SdsId,
    /// Its name, for people.
    pub name: String,
    /// `host:port` of its data port, best first.
    pub addresses: Vec<String>,
}

/// Everything that changed since the version the receiver had; lists replace, they do not merge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewUpdate {
    /// The system.
    pub system: SystemId,
    /// The version it brings the receiver to.
    pub version: MapVersion,
    /// Pools whose shard map changed, whole.
    pub pools: Vec<ShardMap>,
    /// All volumes, if any of them or a session changed.
    pub volumes: Option<Vec<VolumeView>>,
    /// All devices and servers, if any changed.
    pub servers: Option<(Vec<DeviceView>, Vec<SdsView>)>,
    /// All trees whose volumes were deleted and that some device has not yet freed, if any changed.
    /// Data servers free their extents and answer `TreesFreed` per device; clients get `None`.
    pub deleted_trees: Option<Vec<TreeId>>,
}
