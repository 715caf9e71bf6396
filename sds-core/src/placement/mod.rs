//! Where the shards of a new pool go: a pure planner.
//!
//! Invariants: the two copies of a shard are in different fault sets (I11); each device gets its
//! share by weight, to within one replica; consecutive shards are on different servers, and on
//! different devices of a server, as far as the weights allow; the same input gives the same plan.
//!
//! How: each device is owed a *quota* of replicas by weight ([`quota`]); then the shards are dealt one
//! after the other, each to whom the most is owed at that point ([`deal`]), so that everybody's
//! shards are spread evenly over the sequence.
//! Must not know: epochs, pools, what is stored.

mod deal;
mod quota;

#[cfg(test)]
mod tests;

use crate::id::{DeviceId, SdsId};
use crate::limits::IN_SYNC_MAX;
use std::collections::BTreeSet;

/// A device that can take shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The device.
    pub device: DeviceId,
    /// Its server.
    pub sds: SdsId,
    /// Number of the fault set its server is in.
    pub fault_set: u32,
    /// How much it should take, relative to the others: its bytes.
    pub weight: u64,
}

/// Where the copies of one shard are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Homes {
    /// The primary's device.
    pub primary: DeviceId,
    /// The secondary's, with two copies.
    pub secondary: Option<DeviceId>,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// No device has any weight.
    #[error("no device has room")]
    NoDevice,
    /// The copies would have to share a fault set.
    #[error("{copies} copies need {copies} fault sets, and there are {have}; add a data server in another fault set")]
    TooFewFaultSets {
        /// Copies asked for.
        copies: usize,
        /// Fault sets there are.
        have: usize,
    },
    /// A number of copies that is not supported.
    #[error("{0} copies of a shard cannot be placed; 1 and 2 can")]
    Copies(usize),
}

/// A plan for `shards` shards of `copies` copies (1 or 2) over the targets.
///
/// # Errors
/// When no device has weight, or the copies of a shard would share a fault set.
pub fn place(targets: &[Target], shards: u32, copies: usize) -> Result<Vec<Homes>, PlacementError> {
    if copies == 0 || copies > IN_SYNC_MAX {
        return Err(PlacementError::Copies(copies));
    }
    let mut targets: Vec<Target> = targets.iter().copied().filter(|target| target.weight > 0).collect();
    targets.sort_by_key(|target| (target.sds, target.device));
    if targets.is_empty() {
        return Err(PlacementError::NoDevice);
    }
    let have = targets.iter().map(|target| target.fault_set).collect::<BTreeSet<_>>().len();
    if have < copies {
        return Err(PlacementError::TooFewFaultSets { copies, have });
    }
    let quotas = quota::quotas(&targets, u64::from(shards), copies);
    Ok(deal::deal(&targets, &quotas, shards, copies))
}
