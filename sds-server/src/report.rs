//! What passes between the data loop and the control task, and how devices are reported to the MDM.
//!
//! Invariant: both queues are bounded. A view that does not fit is dropped: the gap in versions makes
//! the machine pull. Everything else is kept by its sender until it fits.

use crate::config::DeviceConfig;
use sds_core::control::{Capacity, DeviceReport, DeviceState, FaultCounts};
use sds_core::id::{
    BootId, DeviceId, DeviceUuid, Epoch, Incarnation, LogSequence, MapVersion, PoolId, SdsId, ShardId, ShardSequence, SystemId, TreeId,
};
use sds_core::protocol::membership::Proposal;
use sds_core::replica::DeviceStatus;
use sds_core::replica::interface::DeviceSlot;
use sds_core::store::interface::StoreOptions;
use sds_core::view::ViewUpdate;
use std::os::fd::OwnedFd;

/// Messages to the role that wait to be taken.
pub(crate) const TO_ROLE_MAX: usize = 256;
/// Messages from the role that wait to be taken.
pub(crate) const FROM_ROLE_MAX: usize = 256;

/// From the control task to the role.
#[derive(Debug)]
pub(crate) enum ToRole {
    /// A device is ready: open its store.
    AddDevice { slot: DeviceSlot, file: OwnedFd, options: StoreOptions },
    /// The MDM knows us.
    Registered { system: SystemId, sds: SdsId, incarnation: Incarnation, devices: Vec<(DeviceUuid, DeviceId)> },
    /// Newer state.
    View(Box<ViewUpdate>),
    /// Shards to be given to their secondaries.
    HandOver(Vec<(PoolId, ShardId, Epoch)>),
    /// Tell how you are.
    Report,
    /// Stop in order.
    Stop,
}

/// From the role to the control task.
#[derive(Debug)]
pub(crate) enum FromRole {
    /// (Re-)register; the devices as they are now.
    Register(Vec<DeviceStatus>),
    /// This version is enforced.
    Confirm(MapVersion),
    /// Ask for a view.
    Pull(MapVersion),
    /// Trees that a device has freed.
    TreesFreed(DeviceId, Vec<TreeId>),
    /// New configurations of shards are asked for; the devices as they are now.
    Propose(Vec<DeviceStatus>, Vec<(PoolId, ShardId, Proposal)>),
    /// The answer to `Report`.
    Report(Vec<DeviceStatus>),
    /// All stores are closed.
    Stopped,
}

/// How far a device is on its way to the role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is being opened, written once or formatted.
    Opening { done_per_mille: u16 },
    /// It cannot be used.
    Failed { reason: String },
    /// The role has it.
    Added,
}

/// The devices as the MDM is told.
pub(crate) fn device_reports(configs: &[DeviceConfig], stages: &[Stage], statuses: &[DeviceStatus]) -> Vec<DeviceReport> {
    let mut reports = Vec::with_capacity(configs.len());
    for ((config, stage), slot) in configs.iter().zip(stages).zip(0_u16..) {
        let mut report = DeviceReport {
            uuid: DeviceUuid::default(),
            path: config.path.display().to_string(),
            pool: config.pool.clone(),
            state: DeviceState::Opening { done_per_mille: 0 },
            capacity: Capacity::default(),
            sequence_ceiling: ShardSequence::new(0),
            flushed: LogSequence::default(),
            log_end: LogSequence::default(),
            cache: BootId::default(),
            faults: FaultCounts::default(),
            recent_faults: Vec::new(),
        };
        match stage {
            Stage::Opening { done_per_mille } => report.state = DeviceState::Opening { done_per_mille: *done_per_mille },
            Stage::Failed { reason } => report.state = DeviceState::Failed { reason: reason.clone() },
            Stage::Added => {
                if let Some(status) = statuses.iter().find(|status| status.slot == DeviceSlot(slot)) {
                    report.uuid = status.uuid;
                    report.state = status.state.clone();
                    report.capacity = status.capacity;
                    report.sequence_ceiling = status.sequence_ceiling;
                    report.flushed = status.statistics.flushed;
                    report.log_end = status.statistics.log_end;
                    report.cache = status.cache;
                    report.faults = status.faults;
                    report.recent_faults.clone_from(&status.recent_faults);
                }
            }
        }
        reports.push(report);
    }
    reports
}
