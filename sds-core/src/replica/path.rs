//! A request's way to the store: checked, given room, given its blocks, given a sequence, submitted.
//!
//! What keeps it from standing still: room is taken before the lock, so whoever holds a lock needs no
//! buffer any more; fragments, which hold a buffer (their payload) while they wait for another, have a
//! reserve of one; a lock's holder waits only for the store or for a reservation, which the store
//! carries out with buffers of its own class.
//!
//! Invariants: whoever has waited is checked again before it goes on (I3); a version is given out just
//! before the store gets the write, so what never was in the store never had one.

use super::admit::{self, Verdict};
use super::answer::Answer;
use super::devices::Errand;
use super::interface::DeviceSlot;
use super::links::PartyId;
use super::locks::{Access, Holder};
use super::request::{Half, Kind, Request, Room, Route, Stage};
use super::resync::list::LIST_BYTES;
use super::{Phase, Replica, Turn};
use crate::buffer::{BufferClass, Buffers};
use crate::bugs::{self, Bug};
use crate::collections::OpId;
use crate::error::Status;
use crate::exchange::BLOCKS_BYTES;
use crate::id::{MapVersion, PoolId, ShardId, ShardSequence, Version};
use crate::store::interface as store;
use crate::unit::{BLOCK_BYTES, Nanos};
use crate::wire::{BLOCK_STATUS_BYTES, Flags};
use std::collections::VecDeque;

impl Replica {
    /// Checks a request and carries it on as far as it gets. `deadline`: of its parking, if it was parked.
    pub(super) fn admit(&mut self, op: OpId, deadline: Option<Nanos>, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get(op) else { return };
        match self.check(request) {
            Verdict::Serve(route) => {
                if let Some(request) = self.requests.get_mut(op) {
                    request.route = Some(route);
                    request.stage = Stage::New;
                }
                match self.take_replicate(op, &route, turn) {
                    None => self.prepare(op, turn),
                    Some(Ok(())) => self.finish(op, Answer::Done, turn),
                    Some(Err(status)) => self.finish(op, Answer::Refused(status), turn),
                }
            }
            Verdict::Refuse(status) => self.finish(op, Answer::Refused(status), turn),
            Verdict::Park { pull, late } => self.park(op, deadline, pull, late, turn),
        }
    }

    fn check(&self, request: &Request) -> Verdict {
        let PartyId::Client(client) = request.party else {
            return self.check_question(request, self.check_peer(request));
        };
        let verdict = admit::check(request.kind, &request.header, &request.cache_ids, client, &self.view, &self.devices);
        match verdict {
            Verdict::Serve(route) if !self.peers.is_empty() && !self.may_serve_now(request.kind, &route) => {
                Verdict::Park { pull: None, late: Status::NotReady }
            }
            // The other copy is about to be all that counts: nobody hears of ours.
            Verdict::Refuse(Status::DeviceFailed) if self.has_other_copy(request) => Verdict::Park { pull: None, late: Status::NotReady },
            Verdict::Serve(_) | Verdict::Refuse(_) | Verdict::Park { .. } => verdict,
        }
    }

    /// Whether what a request asks for has, or had until now, another copy in sync.
    pub(super) fn has_other_copy(&self, request: &Request) -> bool {
        let header = &request.header;
        let pool = self.view.volume(header.volume).map(|volume| volume.pool);
        pool.is_some_and(|pool| admit::has_another_copy(pool, header.shard, &self.view))
    }

    pub(super) fn park(
        &mut self,
        op: OpId,
        deadline: Option<Nanos>,
        pull: Option<MapVersion>,
        late: Status,
        turn: &mut Turn<'_, impl Buffers>,
    ) {
        let deadline = deadline.unwrap_or(turn.now.plus(self.options.map_wait));
        // Half of the table at most waits for views, so that the rest can go on.
        let crowded = self.parked.len() >= self.requests_max() / 2;
        if self.phase != Phase::Running {
            return self.finish(op, Answer::Refused(Status::Stopping), turn);
        }
        if deadline <= turn.now || crowded {
            return self.finish(op, Answer::Refused(if crowded { Status::NotReady } else { late }), turn);
        }
        if let Some(request) = self.requests.get_mut(op) {
            request.stage = Stage::Parked { deadline };
            // Without the lock, what a fragment was merged with may change: it will be read again.
            request.merged = None;
            if let Some(lock) = request.lock.take() {
                self.locks.release(lock);
            }
        }
        self.parked.push_back(op);
        if let Some(version) = pull {
            self.pull(version, turn);
        }
    }

    fn requests_max(&self) -> usize {
        self.options.requests_max.max(2)
    }

    /// Looks again at everything that waits for a newer state.
    pub(super) fn unpark(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        for _ in 0..self.parked.len() {
            let Some(op) = self.parked.pop_front() else { break };
            self.admit_parked(op, turn);
        }
    }

    fn admit_parked(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get(op) else { return };
        match request.stage {
            Stage::Parked { deadline } => self.admit(op, Some(deadline), turn),
            Stage::New | Stage::NeedsRoom | Stage::NeedsLock | Stage::Queued | Stage::InStore => {}
        }
    }

    /// Answers what has waited too long.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        self.expire_links(turn);
        while let Some(op) = self.parked.front().copied() {
            match self.requests.get(op).map(|request| request.stage) {
                Some(Stage::Parked { deadline }) if deadline > turn.now => break,
                Some(Stage::Parked { .. } | Stage::New | Stage::NeedsRoom | Stage::NeedsLock | Stage::Queued | Stage::InStore) | None => {
                    self.parked.pop_front();
                    self.admit_parked(op, turn);
                }
            }
        }
    }

    /// Payload verified, room taken, blocks asked for.
    fn prepare(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get_mut(op) else { return };
        if let (Some((span, checksums)), false) = (&request.payload, request.verified) {
            if matches!(request.kind, Kind::Write | Kind::Replicate | Kind::Copy | Kind::Settle) && !span.start.is_multiple_of(BLOCK_BYTES)
            {
                return self.finish(op, Answer::Refused(Status::Invalid), turn);
            }
            if !checksums.match_blocks(turn.buffers.bytes(*span)) && !bugs::is(Bug::PayloadNotVerifiedByServer) {
                Self::tell_damage(request.link, turn);
                return self.finish(op, Answer::Refused(Status::PayloadDamaged), turn);
            }
            request.verified = true;
        }
        let (kind, has_room) = (request.kind, request.room.is_some());
        if !has_room
            && kind.is_of_peer()
            && let Some(len) = room_needed(kind, request.header.length)
        {
            // Whoever asks has a lock: it waits for nobody's buffers, and asks again.
            let Some(buffer) = turn.buffers.allocate(BufferClass::Replicate, len) else {
                return self.finish(op, Answer::Refused(Status::NotReady), turn);
            };
            let Some(request) = self.requests.get_mut(op) else { return };
            request.room = Some(Room { buffer, len, from_reserve: false });
        } else if !has_room && let Some(len) = room_needed(kind, request.header.length) {
            let waiting = if kind == Kind::Fragment { &self.fragments_without_room } else { &self.readers_without_room };
            let room = if waiting.is_empty() { self.take_room(kind, len, turn) } else { None };
            let Some(request) = self.requests.get_mut(op) else { return };
            request.room = room;
            if room.is_none() {
                request.stage = Stage::NeedsRoom;
                let waiting = if kind == Kind::Fragment { &mut self.fragments_without_room } else { &mut self.readers_without_room };
                waiting.push_back(op);
                return;
            }
        }
        self.lock(op, turn);
    }

    fn take_room(&mut self, kind: Kind, len: u32, turn: &mut Turn<'_, impl Buffers>) -> Option<Room> {
        if let Some(buffer) = turn.buffers.allocate(BufferClass::Client, len) {
            return Some(Room { buffer, len, from_reserve: false });
        }
        if kind != Kind::Fragment || self.reserve_taken {
            return None;
        }
        let buffer = turn.buffers.allocate(BufferClass::Internal, len)?;
        self.reserve_taken = true;
        Some(Room { buffer, len, from_reserve: true })
    }

    /// Gives room to those that wait for it, in order, as far as there is some; `false` when nobody
    /// got any.
    pub(super) fn give_room(&mut self, turn: &mut Turn<'_, impl Buffers>) -> bool {
        let fragments = self.give_room_to(|replica| &mut replica.fragments_without_room, turn);
        let readers = self.give_room_to(|replica| &mut replica.readers_without_room, turn);
        fragments || readers
    }

    fn give_room_to(&mut self, waiting: impl Fn(&mut Self) -> &mut VecDeque<OpId>, turn: &mut Turn<'_, impl Buffers>) -> bool {
        let mut gave = false;
        while let Some(op) = waiting(self).front().copied() {
            let needed = self.requests.get(op).map(|request| (request.kind, room_needed(request.kind, request.header.length)));
            if let Some((kind, Some(len))) = needed {
                let Some(room) = self.take_room(kind, len, turn) else { return gave };
                if let Some(request) = self.requests.get_mut(op) {
                    request.room = Some(room);
                }
            }
            waiting(self).pop_front();
            gave = true;
            self.admit(op, None, turn);
        }
        gave
    }

    fn lock(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get_mut(op) else { return };
        let Some(route) = request.route else { unreachable!("a request is routed before it is prepared") };
        let (range, access) = match request.kind {
            Kind::Read | Kind::BlockStatus => (route.range, Access::Shared),
            Kind::Write | Kind::Fragment | Kind::Zero | Kind::Replicate | Kind::ReplicateZero | Kind::Copy => {
                (route.range, Access::Exclusive)
            }
            // The primary keeps others off the extent while it visits it; but of a visit that it gave up, something may still be under way.
            Kind::Medium => (route.range, Access::Shared),
            Kind::Blocks => (store::BlockRange::WHOLE, Access::Shared),
            Kind::Settle | Kind::FreeExtent => (store::BlockRange::WHOLE, Access::Exclusive),
            Kind::Flush | Kind::ReplicateFlush | Kind::Extents => return self.enqueue(op, route.slot, turn),
        };
        let (lock, granted) = self.locks.acquire(Holder::Request(op), route.key, range, access);
        request.lock = Some(lock);
        if granted {
            self.enqueue(op, route.slot, turn);
        } else {
            request.stage = Stage::NeedsLock;
        }
    }

    /// Goes on with a request that has waited in `from`, after another check.
    pub(super) fn resume(&mut self, op: OpId, from: Stage, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get(op) else { return };
        if request.stage != from {
            return;
        }
        match self.check(request) {
            Verdict::Serve(route) => {
                if let Some(request) = self.requests.get_mut(op) {
                    assert!(request.route.is_none_or(|former| former.key == route.key), "an extent keeps its name");
                    request.route = Some(route);
                }
                self.enqueue(op, route.slot, turn);
            }
            Verdict::Refuse(status) => self.finish(op, Answer::Refused(status), turn),
            Verdict::Park { pull, late } => self.park(op, None, pull, late, turn),
        }
    }

    /// To the store, or behind those that wait for it.
    pub(super) fn enqueue(&mut self, op: OpId, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get_mut(op) else { return };
        request.stage = Stage::Queued;
        let Some(device) = self.devices.get_mut(slot) else { unreachable!("a route names a device") };
        if device.has_room() {
            self.submit(op, slot, turn);
        } else {
            device.queue.push_back(op);
        }
    }

    /// Lets waiting requests into a store as far as it has room.
    pub(super) fn pump(&mut self, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) {
        while let Some(device) = self.devices.get_mut(slot) {
            if !device.has_room() {
                return;
            }
            if let Some(op) = device.owed.pop_front() {
                self.submit_owed(op, turn);
                continue;
            }
            let Some(op) = device.queue.pop_front() else { return };
            self.resume(op, Stage::Queued, turn);
        }
    }

    fn submit(&mut self, op: OpId, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get(op) else { return };
        let Some(route) = request.route else { unreachable!("routed before") };
        let reads_first = request.kind == Kind::Fragment && request.merged.is_none();
        if matches!(request.kind, Kind::Replicate | Kind::Copy) && !self.has_place_for(&route) {
            // The last places here are promised to writes that their other copies have by now.
            if request.kind == Kind::Copy {
                self.cannot_settle(op);
            }
            return self.finish(op, Answer::Refused(Status::NoSpace), turn);
        }
        if let Some(version) = request.version.filter(|_| request.kind.is_of_peer()) {
            // What a primary has numbered is below our own durable ceiling before it is applied.
            let above = self.is_above_ceiling(slot, version);
            self.reserve(slot, version.sequence, turn);
            if above && self.is_above_ceiling(slot, version) {
                if let Some(device) = self.devices.get_mut(slot) {
                    device.unsequenced.push_back(op);
                }
                return;
            }
        } else if request.kind.changes() && !request.kind.is_of_peer() && !reads_first && request.version.is_none() {
            if !self.has_room_to_forward(&route) {
                return self.finish(op, Answer::Refused(Status::NotReady), turn);
            }
            let other_first = request.kind != Kind::Zero && self.is_first_write(&route);
            if other_first && !self.has_place_for(&route) {
                return self.finish(op, Answer::Refused(Status::NoSpace), turn);
            }
            let Some(version) = self.take_version(&route, slot, turn) else {
                if let Some(device) = self.devices.get_mut(slot) {
                    device.unsequenced.push_back(op);
                }
                return;
            };
            if let Some(request) = self.requests.get_mut(op) {
                request.version = Some(version);
            }
            if !self.peers.is_empty() {
                self.forward_write(op, turn);
            }
            if other_first && self.wait_for_other(op) {
                return;
            }
        } else if request.kind == Kind::Flush
            && !self.peers.is_empty()
            && !bugs::is(Bug::FlushStaysHere)
            && !self.forward_flush(op, slot, turn)
        {
            return self.finish(op, Answer::Refused(Status::NotReady), turn);
        }
        self.submit_here(op, turn);
    }

    /// Gives a request to the store, which has room for it.
    pub(super) fn submit_here(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get_mut(op) else { return };
        let Some(route) = request.route else { unreachable!("routed before") };
        let slot = route.slot;
        request.stage = Stage::InStore;
        request.local = Half::Pending;
        let bond = if request.forward.is_some() || request.kind.is_replicate() { store::Bond::Held } else { store::Bond::None };
        let command = command(request, &route, bond);
        self.devices.submit(slot, op, command, turn);
    }

    /// The next version of a shard, or `None` while its device's ceiling is being raised.
    fn take_version(&mut self, route: &Route, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) -> Option<Version> {
        let sequence = self.take_sequence_of(route.pool, route.shard, slot, turn)?;
        Some(Version { sequence, epoch: route.epoch })
    }

    pub(super) fn take_sequence_of(
        &mut self,
        pool: PoolId,
        shard: ShardId,
        slot: DeviceSlot,
        turn: &mut Turn<'_, impl Buffers>,
    ) -> Option<ShardSequence> {
        let device = self.devices.get(slot)?;
        let taken = self.view.take_sequence(pool, shard, device.ceiling);
        let next = match taken {
            Ok(sequence) | Err(sequence) => sequence,
        };
        self.reserve(slot, next, turn);
        taken.ok()
    }

    /// Raises a device's ceiling well before `next` reaches it.
    pub(super) fn reserve(&mut self, slot: DeviceSlot, next: ShardSequence, turn: &mut Turn<'_, impl Buffers>) {
        let Some(device) = self.devices.get_mut(slot) else { return };
        let Some(ceiling) = device.ceiling_wanted(next) else { return };
        device.reserving = Some(ceiling);
        self.devices.run(slot, Errand::Reserve, store::Request::ReserveSequence { ceiling }, turn);
    }
}

fn command(request: &Request, route: &Route, bond: store::Bond) -> store::Request {
    let (key, range) = (route.key, route.range);
    let durable = request.header.flags.contains(Flags::DURABLE) && !bugs::is(Bug::DurableWriteNotDurable);
    let room = || request.room.map(Room::span).unwrap_or_else(|| unreachable!("room is taken before the lock"));
    let version = || request.version.unwrap_or_else(|| unreachable!("given out just before"));
    match request.kind {
        Kind::Read => store::Request::Read { key, range, span: room() },
        Kind::Write | Kind::Replicate => {
            let Some((span, checksums)) = request.payload else { unreachable!("a write's shape was checked") };
            store::Request::Write { key, range, span, checksums, version: version(), durable, bond }
        }
        Kind::Fragment => match request.merged {
            None => store::Request::Read { key, range, span: room() },
            Some(checksums) => store::Request::Write { key, range, span: room(), checksums, version: version(), durable, bond },
        },
        Kind::Zero | Kind::ReplicateZero => {
            let free = request.header.flags.contains(Flags::TRIM);
            store::Request::Zero { key, range, version: version(), free, durable, bond }
        }
        Kind::Flush | Kind::ReplicateFlush => store::Request::Flush,
        Kind::BlockStatus => store::Request::Status { key, range },
        Kind::Extents => {
            // What no slot has names none; the answer is empty.
            store::Request::Extents { from: u32::try_from(request.header.sequence.get()).unwrap_or(u32::MAX), span: room() }
        }
        Kind::Blocks => store::Request::Blocks { key, span: room() },
        Kind::Medium => store::Request::Medium { key, range, span: room() },
        Kind::Copy => {
            let Some((span, checksums)) = request.payload else { unreachable!("its shape was checked") };
            store::Request::Write { key, range, span, checksums, version: version(), durable, bond: store::Bond::Settling }
        }
        Kind::Settle => {
            let Some((span, _)) = request.payload else { unreachable!("its shape was checked") };
            store::Request::Settle { key, span }
        }
        Kind::FreeExtent => store::Request::FreeExtent { key },
    }
}

/// Bytes a request needs besides what came with it.
const fn room_needed(kind: Kind, length: u32) -> Option<u32> {
    match kind {
        Kind::Read => Some(length),
        Kind::Fragment => Some(BLOCK_BYTES),
        Kind::BlockStatus => Some(BLOCK_STATUS_BYTES),
        Kind::Extents => Some(LIST_BYTES),
        Kind::Blocks => Some(BLOCKS_BYTES),
        Kind::Medium => Some(length),
        Kind::Write | Kind::Zero | Kind::Flush | Kind::Replicate | Kind::ReplicateZero | Kind::ReplicateFlush => None,
        Kind::Copy | Kind::Settle | Kind::FreeExtent => None,
    }
}
