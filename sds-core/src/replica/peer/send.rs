//! What goes to the other copy: writes, zeroes, flushes; and what comes of it.
//!
//! Invariants: a request keeps its lock and its bytes until both copies are complete, or the
//! configuration no longer asks for the other one; it is answered when `protocol::acknowledge` says so
//! (I2, I5); a copy that refuses what the other may have applied leaves the set before anybody hears of it.

use super::{Forward, LinkState, PeerIndex};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::collections::OpId;
use crate::error::Status;
use crate::id::{Epoch, PoolId, RequestId, ShardId, ShardSequence, Version, VolumeId};
use crate::limits::{REPLICATE_FANOUT_MAX, REQUESTS_PER_CONNECTION_MAX};
use crate::map::Member;
use crate::protocol::acknowledge::{may_acknowledge, needed};
use crate::replica::admit::is_of_this_map;
use crate::replica::answer::Answer;
use crate::replica::interface::{DeviceSlot, Effect};
use crate::replica::request::{Half, Kind, Request, Room, Route, Stage};
use crate::replica::view::pair::{Broken, JoinStage, Pair, Side};
use crate::replica::{Replica, Turn};
use crate::unit::{BLOCK_BYTES, Nanos};
use crate::wire::{Body, Flags, Frame, Header, Opcode};

/// Pause before what a peer could not take now is sent again.
const RETRY_PAUSE: Nanos = Nanos::from_millis(20);

impl Replica {
    /// A write of ours has its version: to the other copy with it, if there is one.
    pub(in crate::replica) fn forward_write(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get(op) else { return };
        let Some(route) = request.route else { unreachable!("routed before") };
        let sequence = request.version.map(|version| version.sequence).unwrap_or_default();
        let Some(pair) = self.view.pair_mut(route.pool, route.shard) else { return };
        let (peer, member, since) = (pair.peer, pair.other, pair.since);
        let goes = match pair.joiner {
            None | Some(JoinStage::Flushing | JoinStage::Proposed) => true,
            Some(JoinStage::Apart) => false,
            Some(JoinStage::Sweeping) => self.resync.goes_to_joiner(route.slot, member, route.shard, route.key),
        };
        if !goes {
            return;
        }
        pair.hold(sequence, route.key);
        let id = self.forward(op, peer, member, since, false);
        if let Some(request) = self.requests.get_mut(op) {
            request.forward = Some(id);
            request.other = Some((member, since));
            request.remote = Half::Pending;
        }
        self.send_forwards(peer, turn);
    }

    /// Whether a shard's next write is near enough to its oldest unresolved one to be kept account of.
    pub(in crate::replica) fn has_room_to_forward(&self, route: &Route) -> bool {
        if self.peers.is_empty() {
            return true;
        }
        let next = self.view.next_sequence(route.pool, route.shard);
        // One lost peer, while the MDM is away, shall not take the table from the shards of the others.
        let share = self.options.requests_max.max(2) * 3 / 4;
        let pair = self.view.pair(route.pool, route.shard);
        pair.is_none_or(|pair| pair.window.has_room(next) && self.peers.get(pair.peer).waiting < share.max(1))
    }

    /// A flush goes to every device that has second copies of what is here; `false` when there is no room for that.
    pub(in crate::replica) fn forward_flush(&mut self, op: OpId, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) -> bool {
        let count = self.view.partners().iter().filter(|partner| partner.slot == slot).count();
        if count == 0 {
            return true;
        }
        // The rest of the table is the writes'.
        if self.peers.flushes + count > REPLICATE_FANOUT_MAX {
            return false;
        }
        for place in 0..self.view.partners().len() {
            let partner = self.view.partners()[place];
            if partner.slot == slot {
                let _ = self.forward(op, partner.peer, partner.other, Epoch::default(), true);
                self.send_forwards(partner.peer, turn);
            }
        }
        if let Some(request) = self.requests.get_mut(op) {
            request.remote = Half::Pending;
            request.flushes_left = count;
        }
        true
    }

    fn forward(&mut self, op: OpId, peer: PeerIndex, member: Member, since: Epoch, is_flush: bool) -> OpId {
        let serial = self.peers.next_serial;
        self.peers.next_serial += 1;
        self.peers.flushes += usize::from(is_flush);
        self.peers.get_mut(peer).waiting += usize::from(!is_flush);
        let forward = Forward { op, peer, member, since, serial, is_flush, sent: false };
        let Ok(id) = self.peers.forwards.insert(forward) else { unreachable!("one a request, and flushes look first") };
        self.peers.get_mut(peer).queue.push_back(id);
        id
    }

    /// A request ends: nothing is to be sent for it any more.
    pub(in crate::replica) fn stop_forwarding(&mut self, op: OpId, request: &Request) {
        if let Some(id) = request.forward {
            self.peers.remove_forward(id);
        }
        if request.flushes_left > 0 {
            let left: Vec<_> = self.peers.forwards.iter().filter(|(_, forward)| forward.op == op).map(|(id, _)| id).collect();
            for id in left {
                self.peers.remove_forward(id);
            }
        }
    }

    /// Sends what waits for a peer, as far as its link takes it.
    pub(in crate::replica) fn send_forwards(&mut self, index: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        loop {
            let peer = self.peers.get_mut(index);
            let LinkState::Ready { link, number } = peer.state else { return };
            if peer.outstanding >= REQUESTS_PER_CONNECTION_MAX || peer.queue.is_empty() {
                return;
            }
            if turn.now < peer.paused_until {
                let until = peer.paused_until;
                return self.peers.wake_by(until);
            }
            let Some(id) = peer.queue.pop_front() else { return };
            let Some(forward) = self.peers.forwards.get(id).copied() else { continue };
            let Some(request) = self.requests.get(forward.op) else { unreachable!("a request takes its forwards with it") };
            let Some(mut frame) = self.frame_of(request, &forward) else {
                // The configuration no longer asks for it; the request ends when its own copy is complete.
                self.peers.remove_forward(id);
                if let Some(request) = self.requests.get_mut(forward.op) {
                    (request.forward, request.other) = (None, None);
                }
                self.progress(forward.op, turn);
                continue;
            };
            frame.header.connection = number;
            frame.header.request = RequestId::new(id.bits());
            if let Body::Payload { span, .. } = frame.body {
                turn.buffers.retain(span.buffer);
            }
            if let Some(forward) = self.peers.forwards.get_mut(id) {
                forward.sent = true;
            }
            self.peers.get_mut(index).outstanding += 1;
            turn.out.push(Effect::Send { link, frame });
        }
    }

    fn frame_of(&self, request: &Request, forward: &Forward) -> Option<Frame> {
        let route = request.route?;
        let durable = request.header.flags.bits() & Flags::DURABLE.bits();
        let opcode = match request.kind {
            Kind::Write | Kind::Fragment => Opcode::Replicate,
            Kind::Zero => Opcode::ReplicateZero,
            Kind::Flush => Opcode::ReplicateFlush,
            Kind::Read | Kind::BlockStatus | Kind::Replicate | Kind::ReplicateZero | Kind::ReplicateFlush => {
                unreachable!("only a client's changes and flushes are forwarded")
            }
            Kind::Extents | Kind::Blocks | Kind::Medium | Kind::Copy | Kind::Settle | Kind::FreeExtent => {
                unreachable!("only a client's changes and flushes are forwarded")
            }
        };
        let mut header = Header { device: forward.member.device, map_version: self.view.version(), ..Header::new(opcode) };
        if request.kind == Kind::Flush {
            return Some(Frame::bare(header));
        }
        let version = request.version?;
        let pair = self.view.pair(route.pool, route.shard).filter(|pair| (pair.other, pair.since) == (forward.member, forward.since))?;
        if pair.joiner == Some(JoinStage::Apart) {
            return None;
        }
        header.volume = VolumeId::new(route.key.tree.get());
        header.layer = route.key.layer;
        header.extent = route.key.extent;
        header.shard = route.shard;
        header.offset = u32::from(route.range.first.get()) * BLOCK_BYTES;
        header.length = u32::from(route.range.count) * BLOCK_BYTES;
        // The present epoch: a pair goes on into it with what is under way.
        (header.epoch, header.sequence) = (self.view.epoch(route.pool, route.shard), version.sequence);
        header.resolved = pair.window.resolved();
        header.flags = Flags::from_bits(durable);
        Some(match request.kind {
            Kind::Zero => {
                header.flags = request.header.flags;
                Frame::bare(header)
            }
            Kind::Fragment => Frame::with_payload(header, request.room.map(Room::span)?, request.merged?),
            _ => {
                let (span, checksums) = request.payload?;
                Frame::with_payload(header, span, checksums)
            }
        })
    }

    /// A peer has answered.
    pub(super) fn take_forwarded(&mut self, index: PeerIndex, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
        let id = OpId::from_bits(frame.header.request.get());
        let peer = self.peers.get_mut(index);
        peer.outstanding = peer.outstanding.saturating_sub(1);
        // An answer to what is no longer asked for only makes room.
        let Some(forward) = self.peers.forwards.get(id).copied().filter(|forward| forward.peer == index && forward.sent) else {
            return self.send_forwards(index, turn);
        };
        let status = frame.header.status;
        if status == Status::Stopping {
            self.peer_has_ended(index);
        } else {
            self.peers.get_mut(index).answered = turn.now;
        }
        match status {
            Status::MapStale | Status::NotReady | Status::Stopping | Status::PayloadDamaged => {
                if frame.header.map_version > self.view.version() {
                    self.pull(frame.header.map_version, turn);
                }
                self.send_later(id, index, turn.now);
            }
            _ if status != Status::Ok && forward.is_flush => {
                // Its device is no good: it leaves the sets, and this flush then does without it.
                self.break_partner(forward.member);
                self.send_later(id, index, turn.now);
            }
            _ => {
                self.peers.remove_forward(id);
                if let Some(request) = self.requests.get_mut(forward.op) {
                    request.flushes_left = request.flushes_left.saturating_sub(1);
                    if request.flushes_left == 0 {
                        request.remote = if status == Status::Ok { Half::Done } else { Half::Refused(status) };
                        request.remote_cache = frame.cache_ids.as_slice().first().copied();
                    }
                    self.progress(forward.op, turn);
                }
            }
        }
        self.send_forwards(index, turn);
    }

    fn send_later(&mut self, id: OpId, index: PeerIndex, now: Nanos) {
        if let Some(forward) = self.peers.forwards.get_mut(id) {
            forward.sent = false;
        }
        let peer = self.peers.get_mut(index);
        peer.queue.push_back(id);
        peer.paused_until = now.plus(RETRY_PAUSE);
        let until = peer.paused_until;
        self.peers.wake_by(until);
    }

    fn break_partner(&mut self, member: Member) {
        let shared = self.view.pairs().filter(|(.., pair)| pair.other == member && pair.broken.is_none());
        let shared: Vec<_> = shared.map(|(pool, shard, ..)| (pool, shard)).collect();
        for (pool, shard) in shared {
            self.break_pair(pool, shard, Broken::Other);
        }
    }

    /// Ends a request whose copies are complete, as far as the configuration asks for them.
    pub(in crate::replica) fn progress(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get(op) else { return };
        if request.other_first {
            return self.progress_first_write(op, turn);
        }
        let (Some(route), Half::Done | Half::Refused(_)) = (request.route, request.local) else { return };
        let (local, remote, other) = (request.local, request.remote, request.other);
        if request.kind == Kind::Flush {
            return match (local, remote) {
                (Half::Refused(status), _) => self.refused_here(op, status, turn),
                (_, Half::Pending) => {}
                (_, Half::Idle | Half::Done | Half::Refused(_)) => self.flush_done(op, turn),
            };
        }
        let (Some(own), Some(entry)) = (self.own_member(route.slot), self.view.entry(route.pool, route.shard).copied()) else { return };
        if entry.in_sync.primary() != Some(own) {
            // Another is the primary now: it is for the client to ask there.
            return self.finish(op, Answer::Refused(Status::MapStale), turn);
        }
        let pair = self.view.pair(route.pool, route.shard);
        let is_of_this_pair = pair.is_some_and(|pair| other == Some((pair.other, pair.since)));
        // What has been sent to a joiner is waited for as long as it is kept up to date.
        let sweeping = pair.filter(|pair| is_of_this_pair && pair.joiner == Some(JoinStage::Sweeping)).map(|pair| pair.other);
        let joiner = pair.and_then(Pair::needed_joiner).or(sweeping).filter(|_| !bugs::is(Bug::JoinerNotAwaited));
        let needs_other = needed(&entry, joiner).any(|member| member != own);
        let complete = |member: Member| {
            let unheard_of = bugs::is(Bug::AcknowledgedBeforeDegrade) && pair.is_some_and(|pair| !self.peers.get(pair.peer).is_ready());
            let refused = bugs::is(Bug::RefusalTakenForDone) && matches!(remote, Half::Refused(_));
            if member == own { local == Half::Done } else { is_of_this_pair && (remote == Half::Done || unheard_of || refused) }
        };
        match (local, remote) {
            _ if may_acknowledge(&entry, joiner, complete) => self.resolve(op, Answer::Done, turn),
            _ if needs_other && !is_of_this_pair => {
                // Sent to a pair that is no more: it is for the client to ask again.
                self.resolve(op, Answer::Refused(Status::MapStale), turn);
            }
            (Half::Refused(status), _) if !needs_other => self.resolve(op, Answer::Refused(status), turn),
            // A write that a device failed has left its blocks unreadable there: that copy has to leave.
            (Half::Refused(Status::DeviceFailed | Status::Corrupt), Half::Refused(_)) => {
                self.break_pair(route.pool, route.shard, Broken::Own);
            }
            (Half::Refused(_), Half::Refused(Status::DeviceFailed | Status::Corrupt)) => {
                self.break_pair(route.pool, route.shard, Broken::Other);
            }
            // Neither has changed anything.
            (Half::Refused(status), Half::Refused(_)) => self.resolve(op, Answer::Refused(status), turn),
            (Half::Refused(_), Half::Done) => self.break_pair(route.pool, route.shard, Broken::Own),
            // What its blocks held is gone here; whoever waits for the other's word may be left with that.
            (Half::Refused(Status::DeviceFailed), Half::Idle | Half::Pending) => self.break_pair(route.pool, route.shard, Broken::Own),
            (_, Half::Refused(_)) => self.break_pair(route.pool, route.shard, Broken::Other),
            (_, Half::Idle | Half::Pending | Half::Done) => {}
        }
    }

    /// Our own copy has refused. While another is in sync, nobody is told of a device that failed: that copy will answer.
    pub(in crate::replica) fn refused_here(&mut self, op: OpId, status: Status, turn: &mut Turn<'_, impl Buffers>) {
        let elsewhere = status == Status::DeviceFailed
            && self.requests.get(op).is_some_and(|request| !request.kind.is_of_peer() && self.has_other_copy(request));
        self.resolve(op, Answer::Refused(if elsewhere { Status::NotReady } else { status }), turn);
    }

    /// A flush is complete on every device it went to; whether those were the right ones is looked at last.
    pub(in crate::replica) fn flush_done(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get(op) else { return };
        let current = request.route.is_none_or(|route| is_of_this_map(&request.header, route.pool, &self.view));
        let answer = if current { Answer::Done } else { Answer::Refused(Status::MapStale) };
        self.finish(op, answer, turn);
    }

    /// A write is over on all copies that count.
    pub(in crate::replica) fn resolve(&mut self, op: OpId, answer: Answer, turn: &mut Turn<'_, impl Buffers>) {
        let request = self.requests.get(op);
        let was_forwarded = request.is_some_and(|request| request.remote != Half::Idle);
        let over = request.and_then(|request| Some((request.route?, request.version?)));
        if let Some((route, version)) = over
            && let Some(pair) = self.view.pair_mut(route.pool, route.shard)
            && pair.side == Side::Primary
        {
            pair.window.resolve(version.sequence);
            self.release_resolved(route.pool, route.shard, turn);
        }
        if let Some((route, version)) = over.filter(|_| was_forwarded) {
            self.release_late(&route, version, turn);
        }
        self.finish(op, answer, turn);
    }

    /// Tells the store of a shard's held writes that are over.
    fn release_resolved(&mut self, pool: PoolId, shard: ShardId, turn: &mut Turn<'_, impl Buffers>) {
        let epoch = self.view.epoch(pool, shard);
        let (view, devices) = (&mut self.view, &mut self.devices);
        let Some(pair) = view.pair_mut(pool, shard) else { return };
        let slot = pair.slot;
        pair.release_resolved(|key, sequence| devices.resolved(slot, key, Version { sequence, epoch }, turn));
    }

    /// Held writes of pairs that are no more are let go; what a copy that is gone may not know any more is in question.
    pub(in crate::replica) fn release_former(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let left = self.view.take_left();
        for slot in left.parted {
            self.devices.parted(slot, turn);
        }
        for (slot, key, sequence) in left.released {
            self.devices.resolved(slot, key, Version { sequence, epoch: Epoch::default() }, turn);
        }
    }

    /// A held write has ended at the store after its pair was no more: a copy that goes on lets go of it, as of those before.
    pub(in crate::replica) fn release_late(&mut self, route: &Route, version: Version, turn: &mut Turn<'_, impl Buffers>) {
        if self.view.pair(route.pool, route.shard).is_some_and(|pair| pair.since <= version.epoch) {
            return;
        }
        let entry = self.view.entry(route.pool, route.shard);
        let is_member = self.own_member(route.slot).is_some_and(|own| entry.is_some_and(|entry| entry.in_sync.members().contains(&own)));
        if is_member {
            self.devices.resolved(route.slot, route.key, version, turn);
        }
    }

    /// The primary says up to where all is over, and so that the shard is settled.
    pub(in crate::replica) fn heard_resolved(
        &mut self,
        pool: PoolId,
        shard: ShardId,
        resolved: ShardSequence,
        turn: &mut Turn<'_, impl Buffers>,
    ) {
        let epoch = self.view.epoch(pool, shard);
        let Some(pair) = self.view.pair_mut(pool, shard) else { return };
        pair.window.advance_to(resolved);
        if pair.joiner.is_none() {
            self.view.set_settled(pool, shard, epoch);
        }
        self.release_resolved(pool, shard, turn);
    }

    /// A joiner has refused what it was given, or our own copy has: it begins anew.
    pub(super) fn abandon_sweeps_after_refusal(&mut self, peer: PeerIndex) {
        self.resync.refused.push(peer);
        self.resync.look_soon();
    }

    /// Looks again at everything that waits for another copy: the configuration has changed.
    pub(in crate::replica) fn progress_all(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let mut waiting = core::mem::take(&mut self.scratch);
        let waits = |request: &Request| request.stage == Stage::InStore && request.remote != Half::Idle;
        waiting.extend(self.requests.iter().filter(|(_, request)| waits(request)).map(|(op, _)| op));
        for op in waiting.drain(..) {
            self.progress(op, turn);
        }
        self.scratch = waiting;
    }

    /// Flushes need no device any more that has no second copy of ours.
    pub(in crate::replica) fn drop_flushes_of_former_partners(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let former = |forward: &Forward| forward.is_flush && !self.view.partners().iter().any(|partner| partner.other == forward.member);
        let gone: Vec<_> =
            self.peers.forwards.iter().filter(|(_, forward)| former(forward)).map(|(id, forward)| (id, forward.op)).collect();
        for (id, op) in gone {
            let Some(request) = self.requests.get_mut(op) else { continue };
            request.flushes_left = request.flushes_left.saturating_sub(1);
            if request.flushes_left == 0 {
                request.remote = Half::Done;
            }
            self.peers.remove_forward(id);
            self.progress(op, turn);
        }
    }
}
