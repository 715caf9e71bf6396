//! The end of a sweep: shards serve, or a joiner that has everything becomes a member.
//!
//! The order of growing (`protocol::resync`): the joiner is needed first, by acknowledgements, leases and flushes; then
//! it flushes; then it is proposed. That is said again until another epoch is learnt.
//!
//! Must not know: how extents were made the same.

use super::ask::Owner;
use super::{Need, Replica, Step};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::collections::OpId;
use crate::protocol::resync::Progress;
use crate::replica::Turn;
use crate::replica::interface::Effect;
use crate::replica::view::pair::JoinStage;
use crate::wire::{Header, Opcode};

impl Replica {
    /// Nothing of a sweep is left to be visited.
    pub(super) fn all_visited(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(sweep) = self.resync.sweeps.get_mut(id) else { return };
        let event = sweep.done();
        match sweep.need {
            Need::Alone | Need::Pair => {
                for (shard, epoch) in &sweep.shards {
                    self.view.sweep_settled(sweep.pool, *shard, *epoch);
                }
                let peer = sweep.other.map(|(_, peer)| peer);
                self.sweep_done(id, turn);
                if let Some(peer) = peer {
                    // Shards that were for settling only are served in their next epoch.
                    self.propose_soon(peer);
                }
                turn.out.push(Effect::Event(event));
                self.tell_resolved_soon();
                self.unpark(turn);
            }
            Need::Repair => {
                self.repair_is_over(id);
                self.sweep_done(id, turn);
                self.unpark(turn);
            }
            Need::Join => {
                sweep.step = Step::Flushing;
                self.set_join_stage(id, JoinStage::Flushing);
                if bugs::is(Bug::JoinerNotFlushed) {
                    return self.joiner_flushed(id, turn);
                }
                self.flush_joiner(id, turn);
            }
        }
    }

    fn sweep_done(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let _ = self.end_sweep(id, turn);
        self.resync.counts.finished += 1;
        self.resync.look = true;
    }

    pub(super) fn flush_joiner(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some((other, peer)) = self.resync.sweeps.get(id).and_then(|sweep| sweep.other) else { return };
        let header = Header { device: other.device, ..Header::new(Opcode::ReplicateFlush) };
        let asked = self.ask_other(Owner::Sweep(id), peer, header, None, turn);
        if let Some(sweep) = self.resync.sweeps.get_mut(id) {
            sweep.asking = asked;
        }
        if !asked {
            self.resync.retry_by(turn.now.plus(super::RETRY));
        }
    }

    /// The joiner has made durable all that it was given.
    pub(super) fn joiner_flushed(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(sweep) = self.resync.sweeps.get(id) else { return };
        let progress = Progress { missing: sweep.pending.len() as u64, flushed: true, needed: sweep.step == Step::Flushing };
        assert!(progress.may_propose(), "I4: needed, then flushed, then proposed");
        let event = sweep.done();
        let peer = sweep.other.map(|(_, peer)| peer);
        self.set_join_stage(id, JoinStage::Proposed);
        self.sweep_done(id, turn);
        turn.out.push(Effect::Event(event));
        if let Some(peer) = peer {
            self.propose_soon(peer);
        }
    }
}
