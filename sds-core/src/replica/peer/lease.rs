//! Beacons and grants, silence, and what is proposed to the MDM when a copy is lost.
//!
//! Invariants: a grant counts only for who has a view at least as new as the newest that changed a shard
//! of the two, so a promoted secondary never extends the old primary's lease (I9); nothing is assumed of
//! a proposal until the view that holds it comes (I4, I5).

use super::{LinkState, PeerIndex};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::id::{PoolId, ShardId, ShardSequence};
use crate::limits::PROPOSALS_PER_MESSAGE_MAX;
use crate::machine::LinkId;
use crate::map::Member;
use crate::protocol::lease::may_answer_read;
use crate::protocol::membership::{Change, Proposal, Standing};
use crate::replica::interface::{DeviceSlot, Effect};
use crate::replica::links::PartyId;
use crate::replica::request::{Kind, Route};
use crate::replica::view::pair::{Broken, HandOver, JoinStage, Pair, Side};
use crate::replica::{Phase, Replica, Turn};
use crate::unit::Nanos;
use crate::wire::{Frame, Header, Opcode};

/// How often a primary asks for its lease.
const BEACON_EVERY: Nanos = Nanos::from_millis(200);
/// Silence after which a peer is taken for lost.
const SILENCE_MAX: Nanos = Nanos::from_millis(1000);
/// Pause before a proposal is made again.
const PROPOSE_EVERY: Nanos = Nanos::from_millis(1000);

/// Shards that a secondary is told of at one beacon.
const TOLD_AT_ONCE_MAX: usize = 1024;

const _: () = assert!(BEACON_EVERY.get() * 4 <= SILENCE_MAX.get(), "one lost beacon is no silence");

/// What a peer does not do. It may do the other: a server that leads nothing just now asks for nothing, and answers.
#[derive(Clone, Copy)]
struct Silence {
    /// As the secondary of shards that we lead.
    no_answers: bool,
    /// As the primary of shards that we follow.
    no_requests: bool,
}

impl Replica {
    /// Does what time asks for: links, beacons, proposals.
    pub(in crate::replica) fn tend_peers(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if turn.now < self.peers.due || self.identity.is_none() {
            return;
        }
        self.peers.due = Nanos::NEVER;
        for index in self.peers.indices() {
            // The last beacon of one that leads nothing any more goes out before its link is closed.
            self.send_beacon(index, turn);
            self.tend_peer_link(index, turn);
            self.send_forwards(index, turn);
            self.tell_resolved(index, turn);
            self.propose_losses(index, turn);
        }
        let confirmed_more = core::mem::take(&mut self.peers.confirmed_more);
        match self.peers.grace_due {
            Some(over) if turn.now >= over => {
                self.peers.grace_due = None;
                self.unpark(turn);
            }
            Some(over) => {
                self.peers.wake_by(over);
                if confirmed_more {
                    self.unpark(turn);
                }
            }
            None => {}
        }
    }

    fn send_beacon(&mut self, index: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let peer = self.peers.get_mut(index);
        let LinkState::Ready { link, number } = peer.state else { return };
        // At once, and once more after the last: what has been taken from us is ours no longer, and that ends the other's grace.
        let confirms = peer.led_before && peer.changed_at > peer.confirms;
        peer.confirms = peer.changed_at;
        if confirms {
            peer.beacon_due = turn.now;
        } else if peer.leads == 0 {
            return;
        }
        if turn.now >= peer.beacon_due {
            peer.beacon_due = turn.now.plus(BEACON_EVERY);
            peer.tell_due = true;
            let mut header = Header::new(Opcode::Beacon);
            header.connection = number;
            header.sequence = ShardSequence::new(turn.now.get());
            header.map_version = self.view.version();
            turn.out.push(Effect::Send { link, frame: Frame::bare(header) });
        }
        let due = self.peers.get(index).beacon_due;
        self.peers.wake_by(due);
    }

    /// Says at each beacon what is over and has not been said, so that the secondary can seal, and knows that it is settled.
    fn tell_resolved(&mut self, index: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let LinkState::Ready { link, number } = self.peers.get(index).state else { return };
        if !core::mem::take(&mut self.peers.get_mut(index).tell_due) {
            return;
        }
        let version = self.view.version();
        let to_tell = |pair: &mut Pair| pair.next_telling().filter(|_| pair.side == Side::Primary && pair.joiner.is_none());
        for (shard, epoch, other, resolved) in self.view.tell_with(index, to_tell).take(TOLD_AT_ONCE_MAX) {
            let header = Header {
                connection: number,
                device: other.device,
                shard,
                epoch,
                resolved,
                map_version: version,
                ..Header::new(Opcode::Resolved)
            };
            turn.out.push(Effect::Send { link, frame: Frame::bare(header) });
        }
    }

    /// A sweep has ended: the secondaries are told soon.
    pub(in crate::replica) fn tell_resolved_soon(&mut self) {
        for index in self.peers.indices() {
            self.peers.get_mut(index).tell_due = true;
        }
        self.peers.due = Nanos::ZERO;
    }

    /// Something is to be proposed about shards shared with a peer.
    pub(in crate::replica) fn propose_soon(&mut self, index: PeerIndex) {
        let peer = self.peers.get_mut(index);
        (peer.broken, peer.propose_due) = (true, Nanos::ZERO);
        self.peers.due = Nanos::ZERO;
    }

    /// A primary asks for its lease.
    pub(in crate::replica) fn take_beacon(&mut self, link: LinkId, party: PartyId, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
        let PartyId::Peer(sds) = party else { unreachable!("clients send no beacons") };
        if matches!(self.phase, Phase::Closing | Phase::Stopped) {
            return;
        }
        // One that shares nothing with us has no lease to ask for.
        let Some(index) = self.peers.find(sds) else { return };
        let peer = self.peers.get_mut(index);
        peer.asked = turn.now;
        self.peers.confirmed(index, frame.header.map_version);
        let peer = self.peers.get_mut(index);
        peer.granted.grant(turn.now);
        peer.granted_at = turn.now;
        let mut header = frame.header;
        header.opcode = Opcode::Grant;
        header.map_version = peer.changed_at;
        turn.out.push(Effect::Send { link, frame: Frame::bare(header) });
        if frame.header.map_version > self.view.version() {
            self.pull(frame.header.map_version, turn);
        }
    }

    pub(super) fn take_grant(&mut self, index: PeerIndex, header: &Header, turn: &mut Turn<'_, impl Buffers>) {
        // What changed for it by then is known to it: what was taken from it, too.
        self.peers.confirmed(index, header.map_version);
        let peer = self.peers.get_mut(index);
        peer.answered = turn.now;
        if core::mem::replace(&mut peer.seen_change, header.map_version) != header.map_version {
            // What it was told for epochs that it did not know yet was lost on it.
            self.view.pairs_mut().filter(|pair| pair.peer == index).for_each(Pair::tell_again);
        }
        let view = self.view.version();
        if header.map_version > view {
            return self.pull(header.map_version, turn);
        }
        let echoed = Nanos::new(header.sequence.get());
        // From the future: of no clock of ours.
        if echoed <= turn.now {
            self.peers.get_mut(index).lease.renew(echoed);
            self.unpark(turn);
        }
    }

    /// Our member of a shard on this device.
    pub(in crate::replica) fn own_member(&self, slot: DeviceSlot) -> Option<Member> {
        let device = self.devices.get(slot)?.id?;
        Some(Member { device, incarnation: self.identity?.incarnation })
    }

    /// Whether a read may go to the disk, or be answered, now.
    pub(in crate::replica) fn may_read(&self, route: &Route) -> bool {
        let (Some(own), Some(entry)) = (self.own_member(route.slot), self.view.entry(route.pool, route.shard)) else { return false };
        let pair = self.view.pair(route.pool, route.shard);
        let lease = pair.map(|pair| self.peers.get(pair.peer).lease).unwrap_or_default();
        may_answer_read(entry, own, pair.and_then(Pair::needed_joiner), &lease, self.now, &self.peers.terms)
    }

    /// Whether a shard's leases allow it (I9).
    pub(in crate::replica) fn may_serve_now(&self, kind: Kind, route: &Route) -> bool {
        match kind {
            Kind::Flush => true,
            Kind::Read | Kind::BlockStatus => self.begins(route) && self.may_read(route),
            Kind::Write | Kind::Fragment | Kind::Zero => self.begins(route),
            Kind::Replicate | Kind::ReplicateZero | Kind::ReplicateFlush => unreachable!("of a peer"),
            Kind::Extents | Kind::Blocks | Kind::Medium | Kind::Copy | Kind::Settle | Kind::FreeExtent => unreachable!("of a peer"),
        }
    }

    /// Whether a shard's requests are begun: it is not to be given away, nor still another's by its lease.
    fn begins(&self, route: &Route) -> bool {
        let kept = self.view.pair(route.pool, route.shard).is_none_or(|pair| {
            pair.hand_over.is_none() || (bugs::is(Bug::ServedAfterSwapProposed) && pair.hand_over == Some(HandOver::Proposed))
        });
        kept && self.grace_is_over(route)
    }

    fn grace_is_over(&self, route: &Route) -> bool {
        self.view.grace_is_over(route.pool, route.shard, self.now, &self.peers)
    }

    /// The two copies of a shard have come apart: one of them has to leave the set.
    pub(in crate::replica) fn break_pair(&mut self, pool: PoolId, shard: ShardId, broken: Broken) {
        let Some(pair) = self.view.pair_mut(pool, shard) else { return };
        let peer = pair.peer;
        if matches!(pair.joiner, Some(JoinStage::Apart | JoinStage::Sweeping | JoinStage::Flushing)) {
            // It is no member yet: what it has been given is given anew.
            self.abandon_sweeps_after_refusal(peer);
        } else if pair.broken.is_none() {
            pair.broken = Some(broken);
            self.propose_soon(peer);
        }
    }

    /// A device of ours does not do what it should: its shards go on without it. Where there is no copy but a joiner, which is no member
    /// yet, nobody could: that waits.
    pub(in crate::replica) fn break_pairs_of(&mut self, slot: DeviceSlot) {
        let of_it = |pair: &&mut Pair| pair.slot == slot && pair.broken != Some(Broken::Own);
        for pair in self.view.pairs_mut().filter(of_it).filter(|pair| pair.joiner.is_none_or(|stage| stage == JoinStage::Proposed)) {
            pair.broken = Some(Broken::Own);
            let peer = self.peers.get_mut(pair.peer);
            (peer.broken, peer.propose_due) = (true, Nanos::ZERO);
            self.peers.due = Nanos::ZERO;
        }
    }

    /// Proposes what follows from a peer's silence, or from copies that have come apart.
    fn propose_losses(&mut self, index: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let peer = self.peers.get(index);
        let is_ready = matches!(peer.state, LinkState::Ready { .. });
        let comes_to_us = self.links.of(PartyId::Peer(peer.sds)).is_some();
        let no_answers = peer.leads > 0 && (peer.ended || turn.now.since(peer.answered) >= SILENCE_MAX || (!is_ready && peer.refused));
        let quiet = turn.now.since(peer.asked) >= SILENCE_MAX || (!comes_to_us && (peer.refused || peer.ended));
        let no_requests = peer.follows > 0 && quiet;
        let (leads, follows, answered, asked) = (peer.leads, peer.follows, peer.answered, peer.asked);
        if !no_answers && leads > 0 {
            self.peers.wake_by(answered.plus(SILENCE_MAX));
        }
        if !no_requests && follows > 0 {
            self.peers.wake_by(asked.plus(SILENCE_MAX));
        }
        let silence = Silence { no_answers, no_requests };
        if no_answers {
            self.abandon_sweeps(index, turn);
        }
        if self.phase != Phase::Running && self.phase != Phase::Draining || !(no_answers || no_requests || self.peers.get(index).broken) {
            return;
        }
        let due = self.peers.get(index).propose_due;
        if turn.now < due {
            return self.peers.wake_by(due);
        }
        let proposals = self.losses(index, silence);
        let peer = self.peers.get_mut(index);
        // Looked at again until the view has changed what is proposed.
        peer.broken = !proposals.is_empty();
        if !proposals.is_empty() {
            peer.propose_due = turn.now.plus(PROPOSE_EVERY);
            let due = peer.propose_due;
            self.peers.wake_by(due);
            for some in proposals.chunks(PROPOSALS_PER_MESSAGE_MAX) {
                turn.out.push(Effect::Propose { proposals: some.to_vec() });
            }
        }
    }

    /// Whether a device of ours does what it is asked.
    fn serves_from(&self, slot: DeviceSlot) -> bool {
        self.devices.get(slot).is_some_and(|device| device.is_open() && !device.is_hung)
    }

    fn losses(&self, index: PeerIndex, silence: Silence) -> Vec<(PoolId, ShardId, Proposal)> {
        let shared = self.view.pairs().filter(|(.., pair)| pair.peer == index);
        let lost = |pair: &Pair| match pair.side {
            Side::Primary => silence.no_answers,
            Side::Secondary => silence.no_requests,
        };
        let present = self.peers.get(index).addressed;
        // Some shard may name a life of the peer that is over already by what another says.
        let gone = |pair: &Pair| lost(pair) || pair.other.incarnation < present;
        let mut proposals: Vec<_> = shared
            .filter_map(|(pool, shard, base, pair)| {
                let numbered = self.view.next_sequence(pool, shard).get().saturating_sub(1);
                let complete = if bugs::is(Bug::LapsedAtLastSent) { ShardSequence::new(numbered) } else { pair.window.resolved() };
                let settled = self.view.is_settled(pool, shard);
                let change = match (pair.joiner, pair.broken) {
                    // What has been proposed is needed until another epoch is learnt: if it is lost, until that one.
                    (Some(JoinStage::Proposed), broken) if pair.side == Side::Primary => {
                        if broken.is_some() || gone(pair) {
                            Change::Drop
                        } else {
                            Change::Grow
                        }
                    }
                    (Some(_), _) => return None,
                    // To who has restarted nothing can be left.
                    // One that only stops goes on without who is lost, as long as it has to: nobody could take over.
                    (None, Some(Broken::Own)) if pair.other.incarnation >= present && !(lost(pair) && self.serves_from(pair.slot)) => {
                        Change::Yield { complete }
                    }
                    (None, Some(Broken::Other)) => Change::Shrink { complete },
                    // If the other has restarted: both begin anew. If not, it is refused.
                    (None, _) if gone(pair) && !settled => Change::Reform,
                    (None, _) if gone(pair) => Change::Shrink { complete },
                    (None, None) if pair.hand_over == Some(HandOver::Proposed) => Change::Swap,
                    (None, None) if pair.settle_done => Change::Settled,
                    (None, _) => return None,
                };
                let may = !matches!(change, Change::Shrink { .. }) || Standing { in_sync: true, settled }.may_ask_to_shrink();
                may.then_some((pool, shard, Proposal { base, proposer: Some(pair.own), change }))
            })
            .collect();
        proposals.sort_unstable();
        proposals
    }

    /// The version that a view brought changed shards: what waited for that goes on.
    pub(in crate::replica) fn pairs_changed(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if !self.peers.is_empty() {
            self.drop_flushes_of_former_partners(turn);
            self.progress_all(turn);
        }
    }
}
