//! A shard is given to its secondary although nobody has failed: drained, stopped, proposed, in this order.
//!
//! Invariants: nothing is asked of the MDM before everything that was begun is complete on both copies, so that the copies are the same when
//! the roles change; from then on nothing is served in this epoch, since nobody knows when the MDM will have committed. What
//! is not drained in [`DRAIN_MAX`] is served on, and nothing was asked.
//!
//! Must not know: who decides which copy is to lead.

use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::id::{Epoch, PoolId, ShardId};
use crate::limits::HAND_OVERS_PER_MESSAGE_MAX;
use crate::replica::request::Stage;
use crate::replica::view::pair::{HandOver, Side};
use crate::replica::{Phase, Replica, Turn};
use crate::unit::Nanos;

/// How long a shard begins nothing, at most, for what it has begun to end.
const DRAIN_MAX: Nanos = Nanos::from_millis(300);

impl Replica {
    /// The MDM would have these shards led by their secondaries.
    pub(in crate::replica) fn hand_over(&mut self, shards: &[(PoolId, ShardId, Epoch)], turn: &mut Turn<'_, impl Buffers>) {
        if self.phase != Phase::Running {
            return;
        }
        for (pool, shard, epoch) in shards.iter().take(HAND_OVERS_PER_MESSAGE_MAX) {
            let is_asked = self.view.epoch(*pool, *shard) == *epoch && self.view.is_settled(*pool, *shard);
            let Some(pair) = self.view.pair_mut(*pool, *shard).filter(|_| is_asked) else { continue };
            let is_well = pair.side == Side::Primary && pair.joiner.is_none() && pair.broken.is_none();
            if is_well && pair.hand_over.is_none() {
                pair.hand_over = Some(HandOver::Draining { until: turn.now.plus(DRAIN_MAX) });
                self.hand_over.push((*pool, *shard));
            }
        }
    }

    /// Looks which shards are drained.
    pub(in crate::replica) fn tend_hand_over(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if self.hand_over.is_empty() {
            return;
        }
        let mut shards = core::mem::take(&mut self.hand_over);
        let busy = self.busy_shards();
        let mut gave_up = false;
        shards.retain(|(pool, shard)| {
            let next = self.view.next_sequence(*pool, *shard).get();
            // What is another configuration's is drained by nobody any more.
            let Some(pair) = self.view.pair_mut(*pool, *shard) else { return false };
            let Some(HandOver::Draining { until }) = pair.hand_over else { return false };
            let (peer, is_well) = (pair.peer, pair.broken.is_none());
            let all_is_over = pair.window.resolved().get() + 1 >= next && !busy.contains(&(*pool, *shard));
            if is_well && (all_is_over || bugs::is(Bug::SwapNotDrained)) {
                pair.hand_over = Some(HandOver::Proposed);
                self.propose_soon(peer);
                return false;
            }
            let goes_on = is_well && turn.now < until;
            if !goes_on {
                pair.hand_over = None;
                gave_up = true;
            }
            goes_on
        });
        self.hand_over = shards;
        if gave_up {
            self.unpark(turn);
        }
    }

    /// When draining is given up at the latest.
    pub(in crate::replica) fn hand_over_deadline(&self) -> Option<Nanos> {
        let pairs = self.hand_over.iter().filter_map(|(pool, shard)| self.view.pair(*pool, *shard));
        let ends = pairs.filter_map(|pair| match pair.hand_over {
            Some(HandOver::Draining { until }) => Some(until),
            Some(HandOver::Proposed) | None => None,
        });
        ends.min()
    }

    /// Shards with requests that hold or await their blocks, or with copies that are being compared.
    fn busy_shards(&self) -> Vec<(PoolId, ShardId)> {
        let begun = |stage| matches!(stage, Stage::NeedsLock | Stage::Queued | Stage::InStore);
        let requests = self.requests.iter().map(|(_, request)| request).filter(|request| begun(request.stage));
        let routes = requests.filter_map(|request| request.route).map(|route| (route.pool, route.shard));
        routes.chain(self.resync.shards_under_way()).collect()
    }
}
