//! What a storage node tells its shell about itself; plain numbers and texts, read at any time.
//!
//! Must not know: how the shell sends them on (heartbeats, metrics, logs).

use super::interface::DeviceSlot;
use crate::control::{Capacity, DeviceState, FaultCounts};
use crate::id::{BootId, DeviceId, DeviceUuid, MapVersion, ShardSequence, SystemId};
use crate::store::interface::Statistics;
use crate::unit::Nanos;

/// Recent faults kept for people, a device.
pub const RECENT_FAULTS_MAX: usize = 16;

/// A device as it is now; with its path and pool, which the shell knows, a [`crate::control::DeviceReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The shell's name for it.
    pub slot: DeviceSlot,
    /// Its identity; nil while it has not been read.
    pub uuid: DeviceUuid,
    /// Its system; nil while it has not been read.
    pub system: SystemId,
    /// The MDM's name for it, once registered.
    pub device: Option<DeviceId>,
    /// What it is doing.
    pub state: DeviceState,
    /// Its space.
    pub capacity: Capacity,
    /// No sequence at or above this has been used on it.
    pub sequence_ceiling: ShardSequence,
    /// Its volatile cache, named by the boot of its host; nil where it has none.
    pub cache: BootId,
    /// What went wrong so far.
    pub faults: FaultCounts,
    /// The most recent data faults, oldest first, at most [`RECENT_FAULTS_MAX`].
    pub recent_faults: Vec<String>,
    /// The store's own numbers.
    pub statistics: Statistics,
}

/// A storage node as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// View applied.
    pub version: MapVersion,
    /// Links open, whether or not they have said hello.
    pub links: usize,
    /// Requests accepted and not answered.
    pub requests: usize,
    /// Of these, requests that wait for a newer view.
    pub parked: usize,
    /// Extents with blocks that somebody holds or waits for.
    pub locked: usize,
    /// Sweeps under way: settling, resync, repair.
    pub sweeps: usize,
    /// Shard configurations offered by views with a lower epoch than the one applied, and refused (I1).
    /// Anything but zero means that the MDM went back in time.
    pub epochs_refused: u64,
    /// Age of the oldest disk request in flight at the last step; zero when there is none.
    pub oldest_disk_request: Nanos,
    /// What settling and resyncing has done.
    pub resync: ResyncCounts,
}

/// What sweeps have done in this process life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResyncCounts {
    /// Extents looked at.
    pub extents: u64,
    /// Bytes given to the other copy.
    pub bytes_sent: u64,
    /// Bytes taken from the other copy.
    pub bytes_taken: u64,
    /// Blocks kept though no record names their bytes.
    pub unrecorded: u64,
    /// Blocks that no copy had good bytes of.
    pub lost: u64,
    /// Damaged blocks repaired from the other copy.
    pub repaired: u64,
    /// Sweeps begun.
    pub begun: u64,
    /// Sweeps that came to their end.
    pub finished: u64,
}
