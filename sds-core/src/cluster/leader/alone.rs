//! Who is held for gone, and for how long a copy that is there waits for the other.
//!
//! Invariants: nobody is gone before one full timeout of this leader's own time; a wait is counted by this leader's clock alone, from the
//! first moment at which it saw one of two copies there and the other gone, and begins anew when that changes or another leads:
//! a clock that is set forward lets nobody start alone.

use super::status::report_of;
use super::{Effect, Leader, Pending};
use crate::cluster::Change;
use crate::control::{DeviceReport, DeviceState};
use crate::id::{DeviceId, PoolId, ShardId};
use crate::machine::Outbox;
use crate::map::Member;
use crate::protocol::membership::{self, Proposal};
use crate::unit::Nanos;
use std::collections::BTreeSet;

/// How often pairs are looked at.
const LOOK_EVERY: Nanos = Nanos::from_millis(1_000);
/// How long after it was asked for once a lone start is asked for again.
const AGAIN_AFTER: Nanos = Nanos::from_millis(5_000);

/// How long a wish to form shards again says that its device owes settling; it is repeated every second.
const WISH_LASTS: Nanos = Nanos::from_millis(5_000);

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
        let comes = |report: &DeviceReport| matches!(report.state, DeviceState::Open | DeviceState::Opening { .. });
        !node.up || !report_of(node, record).is_some_and(comes)
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
        self.reform_wishes.retain(|_, at| now.since(*at) < WISH_LASTS);
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
            let heard = self.heard_of([survivor.device, absent.device].into());
            // If there is no room for the proposal, it is made again.
            let _ = self.propose(Change::GoOnAlone { survivor, absent, heard }, Pending::Nothing, out);
        }
    }

    /// A device asks for shards to be formed again with a member that has not come back: it has restarted with it and may not ask for
    /// more.
    pub(super) fn note_reform_wishes(&mut self, proposals: &[(PoolId, ShardId, Proposal)]) {
        let reform = |proposal: &Proposal| matches!(proposal.change, membership::Change::Reform);
        // Servers name the devices: only those that are registered are kept, so no server makes this grow.
        let devices: BTreeSet<DeviceId> = proposals
            .iter()
            .filter_map(|(.., proposal)| proposal.proposer.filter(|_| reform(proposal)).map(|proposer| proposer.device))
            .filter(|device| self.cluster.device(*device).is_some())
            .collect();
        self.reform_wishes.extend(devices.into_iter().map(|device| (device, self.clock.now)));
    }

    /// Pairs in sync of which the first is there and may not ask to go on alone by itself, having restarted or being unsettled, and the second
    /// is gone. Who may ask does, if its partner is lost; if it does not, the partner may only be out of the MDM's sight.
    fn broken_pairs(&self) -> BTreeSet<(DeviceId, DeviceId)> {
        let serves = |device: DeviceId| self.cluster.device(device).is_some_and(|record| self.serves(record));
        let wishes = |device: DeviceId| self.reform_wishes.get(&device).is_some_and(|at| self.clock.now.since(*at) < WISH_LASTS);
        let may_not_ask = |member: Member| wishes(member.device) || self.registered_member(member.device).is_some_and(|now| now != member);
        let mut pairs = BTreeSet::new();
        for entry in self.cluster.pools().flat_map(|(_, pool)| &pool.map.shards) {
            let [first, second] = entry.in_sync.members() else { continue };
            for (survivor, absent) in [(*first, *second), (*second, *first)] {
                let pair = (survivor.device, absent.device);
                if !pairs.contains(&pair) && may_not_ask(survivor) && serves(survivor.device) && self.is_gone(absent.device) {
                    pairs.insert(pair);
                }
            }
        }
        let would_change =
            |(survivor, absent): &(DeviceId, DeviceId)| match (self.registered_member(*survivor), self.registered_member(*absent)) {
                (Some(survivor), Some(absent)) => self.cluster.may_go_alone(survivor, absent),
                _ => false,
            };
        pairs.retain(would_change);
        pairs
    }
}
