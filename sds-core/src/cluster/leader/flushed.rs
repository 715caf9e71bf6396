//! What devices were last heard to have made durable: by that it is seen, when one comes back, whether it has forgotten something (I13).
//!
//! Invariants: only registered devices are kept, and only their own server is believed; a position outlives that server's
//! registrations without the device, which come first while it still opens, and is given up only when the device was found to have forgotten.
//!
//! Not here: another leader knows what has been put into the log since, by registrations of its server and by whatever was decided about it.

use super::Leader;
use crate::cluster;
use crate::control::{DeviceReport, DeviceState};
use crate::id::{DeviceId, LogSequence, SdsId};
use std::collections::BTreeMap;

/// The newest flushed position heard of each device.
pub(super) type FlushedHeard = BTreeMap<DeviceId, LogSequence>;

impl Leader {
    /// A server tells of its devices.
    pub(super) fn note_flushed(&mut self, sds: SdsId, reports: &[DeviceReport]) {
        for report in reports.iter().filter(|report| matches!(report.state, DeviceState::Open | DeviceState::Hung)) {
            let known = self.cluster.device_by_uuid(report.uuid);
            if let Some((device, _)) = known.filter(|(_, record)| record.sds == sds) {
                let heard = self.flushed.entry(device).or_default();
                *heard = report.flushed.max(*heard);
            }
        }
    }

    /// The newest flushed position known of a device: 0 if it is not known. If it comes back with less, it has forgotten (I13).
    #[must_use]
    pub fn flushed_heard(&self, device: DeviceId) -> LogSequence {
        let recorded = self.cluster.device(device).map(|record| record.flushed).unwrap_or_default();
        self.flushed.get(&device).copied().unwrap_or_default().max(recorded)
    }

    /// What a device has forgotten is nothing that it could forget again.
    pub(super) fn note_forgotten(&mut self, event: &cluster::Event) {
        if let cluster::Event::DeviceForgot { device, .. } = event {
            self.flushed.remove(device);
        }
    }
}
