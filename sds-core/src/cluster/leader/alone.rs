//! Who is held for gone, and for how long a copy that is there waits for the other.
//!
//! Invariants: nobody is gone before one full timeout of this leader's own time; a wait is counted by this leader's clock alone, from the
//! first moment at which it saw one of two copies there and the other gone, and begins anew when that changes or another leads:
//! a clock that is set forward lets nobody start alone.

use super::{Effect, Leader, Pending};
use crate::cluster::Change;
use crate::control::DeviceState;
use crate::id::DeviceId;
use crate::machine::Outbox;
use crate::map::Member;
use crate::unit::Nanos;
use std::collections::BTreeSet;

/// How often pairs are looked at.
const LOOK_EVERY: Nanos = Nanos::from_millis(1_000);
/// How long after it was asked for once a lone start is asked for again.
const AGAIN_AFTER: Nanos = Nanos::from_millis(5_000);

/// A copy that waits for the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) since: Nanos,
    asked: Option<Nanos>,
}

impl Leader {
    /// The device in the life in which it was registered last.
    pub(super) fn registered_member(&self, device: DeviceId) -> Option<Member> {
        self.cluster.device(device).map(|record| Member { device, incarnation: record.incarnation })
    }

    /// Whether a device is held for gone: its server was not heard of for long enough, or does not bring it.
    pub(super) fn is_gone(&self, device: DeviceId) -> bool {
        let Some(record) = self.cluster.device(device) else { return true };
        let Some(node) = self.nodes.get(&record.sds) else {
            return self.clock.now.since(self.started) >= self.options.sds_down_after;
        };
        let comes = |state: &DeviceState| matches!(state, DeviceState::Open | DeviceState::Opening { .. });
        !node.up || !node.devices.iter().any(|report| report.uuid == record.uuid && comes(&report.state))
    }

    /// Since when this device has waited for that one.
    pub(super) fn waits_since(&self, survivor: DeviceId, absent: DeviceId) -> Option<Nanos> {
        self.waits.get(&(survivor, absent)).map(|wait| wait.since)
    }

    /// Lets copies go on alone whose partner has not come back for as long as the policy says.
    pub(super) fn tick_alone(&mut self, out: &mut Outbox<Effect>) {
        let Some(patience) = self.options.lone_start_wait else { return };
        if self.clock.now < self.looked_at_pairs.plus(LOOK_EVERY) {
            return;
        }
        let now = self.clock.now;
        self.looked_at_pairs = now;
        let pairs = self.broken_pairs();
        self.waits.retain(|pair, _| pairs.contains(pair));
        for (survivor, absent) in pairs {
            let wait = self.waits.entry((survivor, absent)).or_insert(Wait { since: now, asked: None });
            let due = now.since(wait.since) >= patience && wait.asked.is_none_or(|asked| now.since(asked) >= AGAIN_AFTER);
            if !due {
                continue;
            }
            wait.asked = Some(now);
            let (Some(survivor), Some(absent)) = (self.registered_member(survivor), self.registered_member(absent)) else { continue };
            let ceilings = self.ceilings_heard([survivor.device, absent.device].into());
            // If there is no room for the proposal, it is made again.
            let _ = self.propose(Change::GoOnAlone { survivor, absent, ceilings }, Pending::Nothing, out);
        }
    }

    /// Pairs in sync of which the first is there and the second is gone.
    fn broken_pairs(&self) -> BTreeSet<(DeviceId, DeviceId)> {
        let entries = self.cluster.pools().flat_map(|(_, pool)| &pool.map.shards);
        let pairs: BTreeSet<(DeviceId, DeviceId)> = entries
            .filter_map(|entry| match entry.in_sync.members() {
                [first, second] => Some((first.device, second.device)),
                _ => None,
            })
            .flat_map(|(first, second)| [(first, second), (second, first)])
            .collect();
        let serves = |device: DeviceId| self.cluster.device(device).is_some_and(|record| self.serves(record));
        pairs.into_iter().filter(|(first, second)| serves(*first) && self.is_gone(*second)).collect()
    }
}
