//! Beacons and grants, silence, and what is proposed to the MDM when a copy is lost.
//!
//! Invariants: a grant counts only for who has a view at least as new as the newest that changed a shard
//! of the two, so a promoted secondary never extends the old primary's lease (I9); nothing is assumed of
//! a proposal until the view that holds it comes (I4, I5).

use super::{LinkState, PeerIndex};
use crate::buffer::Buffers;
use crate::id::{PoolId, ShardId, ShardSequence};
use crate::limits::PROPOSALS_PER_MESSAGE_MAX;
use crate::machine::LinkId;
use crate::map::Member;
use crate::protocol::lease::may_answer_read;
use crate::protocol::membership::{Change, Proposal, Standing};
use crate::replica::interface::{DeviceSlot, Effect};
use crate::replica::links::PartyId;
use crate::replica::request::{Kind, Route};
use crate::replica::view::pair::Broken;
use crate::replica::{Phase, Replica, Turn};
use crate::unit::Nanos;
use crate::wire::{Frame, Header, Opcode};

/// How often a primary asks for its lease.
const BEACON_EVERY: Nanos = Nanos::from_millis(200);
/// Silence after which a peer is taken for lost.
const SILENCE_MAX: Nanos = Nanos::from_millis(1000);
/// Pause before a proposal is made again.
const PROPOSE_EVERY: Nanos = Nanos::from_millis(1000);

const _: () = assert!(BEACON_EVERY.get() * 4 <= SILENCE_MAX.get(), "one lost beacon is no silence");

impl Replica {
    /// Does what time asks for: links, beacons, proposals.
    pub(in crate::replica) fn tend_peers(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if turn.now < self.peers.due || self.identity.is_none() {
            return;
        }
        self.peers.due = Nanos::NEVER;
        for index in self.peers.indices() {
            self.tend_peer_link(index, turn);
            self.send_beacon(index, turn);
            self.send_forwards(index, turn);
            self.propose_losses(index, turn);
        }
        match self.peers.grace_due {
            Some(over) if turn.now >= over => {
                self.peers.grace_due = None;
                self.unpark(turn);
            }
            Some(over) => self.peers.wake_by(over),
            None => {}
        }
    }

    fn send_beacon(&mut self, index: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let peer = self.peers.get_mut(index);
        let LinkState::Ready { link, number } = peer.state else { return };
        if peer.leads == 0 {
            return;
        }
        if turn.now >= peer.beacon_due {
            peer.beacon_due = turn.now.plus(BEACON_EVERY);
            let mut header = Header::new(Opcode::Beacon);
            header.connection = number;
            header.sequence = ShardSequence::new(turn.now.get());
            header.map_version = self.view.version();
            turn.out.push(Effect::Send { link, frame: Frame::bare(header) });
        }
        let due = self.peers.get(index).beacon_due;
        self.peers.wake_by(due);
    }

    /// A primary asks for its lease.
    pub(in crate::replica) fn take_beacon(&mut self, link: LinkId, party: PartyId, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
        let PartyId::Peer(sds) = party else { unreachable!("clients send no beacons") };
        if matches!(self.phase, Phase::Closing | Phase::Stopped) {
            return;
        }
        let index = self.peers.index(sds, turn.now);
        let peer = self.peers.get_mut(index);
        peer.asked = turn.now;
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
        may_answer_read(entry, own, None, &lease, self.now, &self.peers.terms)
    }

    /// Whether a shard's leases allow it (I9).
    pub(in crate::replica) fn may_serve_now(&self, kind: Kind, route: &Route) -> bool {
        match kind {
            Kind::Flush => true,
            Kind::Read | Kind::BlockStatus => self.grace_is_over(route) && self.may_read(route),
            Kind::Write | Kind::Fragment | Kind::Zero => self.grace_is_over(route),
            Kind::Replicate | Kind::ReplicateZero | Kind::ReplicateFlush => unreachable!("of a peer"),
        }
    }

    fn grace_is_over(&self, route: &Route) -> bool {
        self.view.grace_is_over(route.pool, route.shard, self.now, &self.peers)
    }

    /// The two copies of a shard have come apart: one of them has to leave the set.
    pub(in crate::replica) fn break_pair(&mut self, pool: PoolId, shard: ShardId, broken: Broken) {
        let Some(pair) = self.view.pair_mut(pool, shard) else { return };
        if pair.broken.is_none() {
            pair.broken = Some(broken);
            let peer = self.peers.get_mut(pair.peer);
            (peer.broken, peer.propose_due) = (true, Nanos::ZERO);
            self.peers.due = Nanos::ZERO;
        }
    }

    /// A device of ours has failed: its shards go on without it.
    pub(in crate::replica) fn break_pairs_of(&mut self, slot: DeviceSlot) {
        for pair in self.view.pairs_mut().filter(|pair| pair.slot == slot) {
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
        let no_answers = peer.leads > 0 && (turn.now.since(peer.answered) >= SILENCE_MAX || (!is_ready && peer.refused));
        let no_requests = peer.follows > 0 && (turn.now.since(peer.asked) >= SILENCE_MAX || (!comes_to_us && peer.refused));
        let (leads, follows, answered, asked) = (peer.leads, peer.follows, peer.answered, peer.asked);
        if !no_answers && leads > 0 {
            self.peers.wake_by(answered.plus(SILENCE_MAX));
        }
        if !no_requests && follows > 0 {
            self.peers.wake_by(asked.plus(SILENCE_MAX));
        }
        let lost = no_answers || no_requests;
        if self.phase != Phase::Running && self.phase != Phase::Draining || !(lost || self.peers.get(index).broken) {
            return;
        }
        let due = self.peers.get(index).propose_due;
        if turn.now < due {
            return self.peers.wake_by(due);
        }
        let proposals = self.losses(index, lost);
        let peer = self.peers.get_mut(index);
        // Looked at again until the view has changed what is proposed.
        peer.broken = !proposals.is_empty();
        peer.propose_due = turn.now.plus(PROPOSE_EVERY);
        let due = peer.propose_due;
        if !proposals.is_empty() {
            self.peers.wake_by(due);
            for some in proposals.chunks(PROPOSALS_PER_MESSAGE_MAX) {
                turn.out.push(Effect::Propose { proposals: some.to_vec() });
            }
        }
    }

    fn losses(&self, index: PeerIndex, lost: bool) -> Vec<(PoolId, ShardId, Proposal)> {
        let shared = self.view.pairs().filter(|(.., pair)| pair.peer == index);
        let mut proposals: Vec<_> = shared
            .filter_map(|(pool, shard, base, pair)| {
                let complete = pair.window.resolved();
                let change = match pair.broken {
                    Some(Broken::Own) => Change::Yield { complete },
                    Some(Broken::Other) => Change::Shrink { complete },
                    None if lost => Change::Shrink { complete },
                    None => return None,
                };
                let settled = self.devices.get(pair.slot).is_some_and(|device| device.state == crate::replica::devices::State::Open);
                let may = pair.broken == Some(Broken::Own) || Standing { in_sync: true, settled }.may_ask_to_shrink();
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
