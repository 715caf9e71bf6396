//! What stores say to requests, and how requests end.
//!
//! Invariants: a request ends once: its lock, its buffers and its place on its link are given back
//! together; a request that lost its link while in the store is seen to its end without an answer (I10).

use super::admit::{DeviceTable, Serving};
use super::interface::{DeviceSlot, Effect};
use super::request::{Half, Kind, Request, Stage};
use super::{Replica, Turn};
use crate::buffer::{Buffers, Span};
use crate::bugs::{self, Bug};
use crate::checksum::{Checksum, ChecksumList};
use crate::collections::OpId;
use crate::error::Status;
use crate::exchange::{BLOCKS_BYTES, EXTENT_ENTRY_BYTES};
use crate::limits::REPAIRS_PER_READ_MAX;
use crate::machine::LinkId;
use crate::store::interface::{BlockSet, Outcome, StoreError};
use crate::unit::BLOCK_BYTES;
use crate::wire::{BLOCK_STATUS_BYTES, Body, CacheIds, Flags, Frame};

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not done.
    Refused(Status),
    /// Written, zeroed, flushed.
    Done,
    /// Read; the bytes are in the request's room.
    Bytes(ChecksumList),
    /// Read; no block holds data.
    Zeroes,
    /// Which blocks hold data.
    Blocks(BlockSet),
    /// So many bytes of the request's room; of a list, the slot to go on at.
    Lists { len: u32, next: u32 },
}

impl Replica {
    /// A store has answered a request.
    pub(super) fn take_outcome(
        &mut self,
        slot: DeviceSlot,
        op: OpId,
        result: Result<Outcome, StoreError>,
        turn: &mut Turn<'_, impl Buffers>,
    ) {
        if let Some(device) = self.devices.get_mut(slot) {
            device.came_back();
        }
        let may_answer = self.peers.is_empty() || self.may_answer(op);
        let other_goes_on =
            self.devices.serving(slot) == Serving::Failed && self.requests.get(op).is_some_and(|request| self.has_other_copy(request));
        let repairable = result.is_err_and(|error| self.may_repair(op, error));
        let other_replaces = result.is_err_and(|error| self.is_for_the_other(op, error));
        let Some(request) = self.requests.get_mut(op) else { unreachable!("I10: what is in the store is never dropped") };
        let reads_first = request.kind == Kind::Fragment && request.merged.is_none();
        let waits_for_other = request.remote != Half::Idle;
        request.local = match result {
            Ok(_) => Half::Done,
            Err(error) => Half::Refused(status_of(error)),
        };
        if bugs::is(Bug::LockEndsWithOwnCopy)
            && waits_for_other
            && let Some(lock) = request.lock.take()
        {
            self.locks.release(lock);
        }
        let (party_waits, has_version) = (request.link.is_some(), request.version.is_some());
        match (request.kind, result) {
            (_, _) if waits_for_other => self.progress(op, turn),
            (Kind::Read | Kind::BlockStatus, Ok(_)) if party_waits && !may_answer => {
                // The lease ran out under the read, or the shard went elsewhere: it never happened (I9).
                self.park(op, None, None, Status::NotReady, turn);
            }
            (Kind::Replicate | Kind::ReplicateZero, Ok(Outcome::Done)) => {
                if let (Some(route), Some(version)) = (request.route, request.version) {
                    self.applied(&route, version);
                    self.release_late(&route, version, turn);
                }
                self.finish(op, Answer::Done, turn);
            }
            (Kind::ReplicateFlush | Kind::Copy | Kind::Settle | Kind::FreeExtent, Ok(Outcome::Done)) => self.finish(op, Answer::Done, turn),
            (Kind::Read | Kind::BlockStatus | Kind::Fragment, Err(_)) if party_waits && other_goes_on && !has_version => {
                // As if it had come a moment later.
                self.park(op, None, None, Status::NotReady, turn);
            }
            (_, Err(_)) if repairable => self.repair(op, turn),
            (_, Err(_)) if other_replaces => self.give_shard_up(op, turn),
            // Nobody has its bytes: that is said of these blocks, not of the device.
            (Kind::Read | Kind::Fragment, Err(StoreError::Device { .. })) if request.repairs >= REPAIRS_PER_READ_MAX && !has_version => {
                self.finish(op, Answer::Refused(Status::Corrupt), turn);
            }
            (Kind::Blocks, Err(error @ StoreError::Descriptor)) | (Kind::Copy, Err(error @ StoreError::NoSpace)) => {
                self.cannot_settle(op);
                self.refused_here(op, status_of(error), turn);
            }
            (_, Err(error)) => self.refused_here(op, status_of(error), turn),
            (Kind::Extents, Ok(Outcome::Extents { count, next })) => {
                self.finish(op, Answer::Lists { len: count * EXTENT_ENTRY_BYTES, next: next.unwrap_or(0) }, turn);
            }
            (Kind::Blocks, Ok(Outcome::Blocks { held })) => {
                self.finish(op, Answer::Lists { len: if held { BLOCKS_BYTES } else { 0 }, next: 0 }, turn);
            }
            (Kind::Medium, Ok(Outcome::Read { checksums, .. })) => self.finish(op, Answer::Bytes(checksums), turn),
            (Kind::Fragment, Ok(Outcome::Read { .. })) if reads_first && request.link.is_none() => {
                // Nobody waits for it and nothing has been changed: as if it had never come.
                self.finish(op, Answer::Refused(Status::NotReady), turn);
            }
            (Kind::Fragment, Ok(Outcome::Read { .. })) if reads_first => {
                request.merged = Some(merge(request, turn));
                // The second half enters the store like a request that has waited: checked again.
                request.stage = Stage::Queued;
                self.resume(op, Stage::Queued, turn);
            }
            (Kind::Read, Ok(Outcome::Read { all_zero: true, .. })) => self.finish(op, Answer::Zeroes, turn),
            (Kind::Read, Ok(Outcome::Read { checksums, all_zero: false })) => self.finish(op, Answer::Bytes(checksums), turn),
            (Kind::BlockStatus, Ok(Outcome::Status { data })) => self.finish(op, Answer::Blocks(data), turn),
            (Kind::Flush, Ok(Outcome::Done)) => self.flush_done(op, turn),
            (Kind::Write | Kind::Fragment | Kind::Zero, Ok(Outcome::Done)) => self.resolve(op, Answer::Done, turn),
            (
                Kind::Read
                | Kind::Write
                | Kind::Fragment
                | Kind::Zero
                | Kind::Flush
                | Kind::BlockStatus
                | Kind::Replicate
                | Kind::ReplicateZero
                | Kind::ReplicateFlush
                | Kind::Extents
                | Kind::Blocks
                | Kind::Medium
                | Kind::Copy
                | Kind::Settle
                | Kind::FreeExtent,
                Ok(
                    outcome @ (Outcome::Done
                    | Outcome::Read { .. }
                    | Outcome::Status { .. }
                    | Outcome::Extents { .. }
                    | Outcome::Blocks { .. }),
                ),
            ) => unreachable!("a store answers what it was asked, not {:?} with {outcome:?}", request.kind),
        }
        self.pump(slot, turn);
    }

    fn may_answer(&self, op: OpId) -> bool {
        self.requests.get(op).and_then(|request| request.route).is_some_and(|route| self.may_read(&route))
    }

    /// Ends a request: answers it if its link is there, and gives back all it has.
    pub(super) fn finish(&mut self, op: OpId, answer: Answer, turn: &mut Turn<'_, impl Buffers>) {
        let Some(mut request) = self.requests.remove(op) else { return };
        self.peer_requests -= usize::from(request.kind.is_of_peer());
        self.stop_forwarding(op, &request);
        self.end_wait_for_other(&mut request);
        if let Some(lock) = request.lock.take() {
            self.locks.release(lock);
        }
        if let Some(link) = request.link {
            let frame = self.reply(&mut request, answer, turn);
            turn.out.push(Effect::Send { link, frame });
            if let Some(link) = self.links.get_mut(link) {
                link.outstanding -= 1;
            }
            self.give_back(&mut request, turn);
        } else {
            self.give_back(&mut request, turn);
            self.links.resolved(request.party);
            self.serve_if_ready(request.party, turn);
        }
    }

    /// Looks after the requests of a link that is gone: those in the store go on to their end, the
    /// rest never happened.
    pub(super) fn abandon_requests(&mut self, link: LinkId, turn: &mut Turn<'_, impl Buffers>) {
        let mut abandoned = core::mem::take(&mut self.scratch);
        abandoned.extend(self.requests.iter().filter(|(_, request)| request.link == Some(link)).map(|(op, _)| op));
        for op in abandoned.drain(..) {
            let Some(request) = self.requests.get_mut(op) else { continue };
            match request.stage {
                Stage::InStore => {
                    request.link = None;
                    self.links.orphaned(request.party);
                }
                Stage::New | Stage::Parked { .. } | Stage::NeedsRoom | Stage::NeedsLock | Stage::Queued => {
                    let Some(mut request) = self.requests.remove(op) else { continue };
                    self.peer_requests -= usize::from(request.kind.is_of_peer());
                    if let Some(lock) = request.lock.take() {
                        self.locks.release(lock);
                    }
                    self.give_back(&mut request, turn);
                }
            }
        }
        self.scratch = abandoned;
        // Queues may not grow by the dead of each new link while a disk stands still.
        self.parked.retain(|op| self.requests.get(*op).is_some());
        self.readers_without_room.retain(|op| self.requests.get(*op).is_some());
        self.fragments_without_room.retain(|op| self.requests.get(*op).is_some());
        for device in self.devices.iter_mut() {
            device.queue.retain(|op| self.requests.get(*op).is_some());
            device.unsequenced.retain(|op| self.requests.get(*op).is_some());
        }
    }

    fn give_back(&mut self, request: &mut Request, turn: &mut Turn<'_, impl Buffers>) {
        if let Some((span, _)) = request.payload.take() {
            turn.buffers.release(span.buffer);
        }
        if let Some(room) = request.room.take() {
            turn.buffers.release(room.buffer);
            self.reserve_taken &= !room.from_reserve;
        }
    }

    fn reply(&self, request: &mut Request, answer: Answer, turn: &mut Turn<'_, impl Buffers>) -> Frame {
        let status = match answer {
            Answer::Refused(status) => status,
            Answer::Done | Answer::Bytes(_) | Answer::Zeroes | Answer::Blocks(_) | Answer::Lists { .. } => Status::Ok,
        };
        let mut frame = Frame::bare(self.reply_header(request.kind, &request.header, status));
        match answer {
            Answer::Refused(_) => {}
            Answer::Zeroes => frame.header.flags = Flags::ALL_ZERO,
            Answer::Bytes(checksums) => frame.body = Body::Payload { span: take_room(request), checksums },
            Answer::Blocks(data) => {
                let span = take_room(request);
                assert_eq!(span.len, BLOCK_STATUS_BYTES, "its room was made for it");
                let bytes = turn.buffers.bytes_mut(span);
                for (place, word) in bytes.chunks_exact_mut(8).zip(data.0) {
                    place.copy_from_slice(&word.to_le_bytes());
                }
                let checksums = ChecksumList::of_blocks(bytes);
                frame.body = Body::Payload { span, checksums };
            }
            Answer::Lists { len, next } => {
                frame.header.length = len;
                if request.kind == Kind::Extents {
                    frame.header.sequence = crate::id::ShardSequence::new(u64::from(next));
                }
                if len > 0 {
                    let span = take_room(request).part(0, len);
                    frame.body = Body::Payload { span, checksums: ChecksumList::of_blocks(turn.buffers.bytes(span)) };
                }
            }
            Answer::Done => {
                if let Some(version) = request.version {
                    frame.header.sequence = version.sequence;
                    frame.header.epoch = version.epoch;
                }
            }
        }
        // Of a read as well: what it saw may rest in this cache, written by a session before this one.
        if status == Status::Ok
            && !request.kind.is_question()
            && let Some(device) = request.route.and_then(|route| self.devices.get(route.slot))
        {
            let cache = device.cache_id();
            frame.cache_ids = CacheIds::one(cache);
            frame.header.device = cache.device;
            if let Some(other) = request.remote_cache.filter(|_| request.kind.changes()) {
                let fits = frame.cache_ids.push(other);
                assert!(fits, "one a copy");
            }
        }
        frame
    }
}

/// The use of the room's buffer passes to the frame. Only client buffers: what is read is never in the reserve.
fn take_room(request: &mut Request) -> Span {
    let Some(room) = request.room.take() else { unreachable!("a read has room") };
    assert!(!room.from_reserve, "the reserve is for fragments");
    room.span()
}

/// Lays a fragment over the block read, and makes the block's checksum.
fn merge(request: &Request, turn: &mut Turn<'_, impl Buffers>) -> ChecksumList {
    let (Some((span, _)), Some(room)) = (request.payload, request.room) else { unreachable!("a fragment has both") };
    let mut copy = [0; BLOCK_BYTES as usize];
    let fragment = &mut copy[..span.len as usize];
    fragment.copy_from_slice(turn.buffers.bytes(span));
    let start = (request.header.offset % BLOCK_BYTES) as usize;
    let block = turn.buffers.bytes_mut(room.span());
    if bugs::is(Bug::FragmentNotMerged) {
        block.fill(0);
    }
    block[start..start + fragment.len()].copy_from_slice(fragment);
    let mut checksums = ChecksumList::EMPTY;
    checksums.push(Checksum::of(block));
    checksums
}

/// The outcome as a client is told it. A store refuses for space before it changes anything; a primary asks the other copy
/// before its own store ([`super::peer`]).
const fn status_of(error: StoreError) -> Status {
    match error {
        StoreError::NoSpace => Status::NoSpace,
        StoreError::Mismatch { .. } | StoreError::Descriptor => Status::Corrupt,
        StoreError::Device { .. } | StoreError::NotOpen => Status::DeviceFailed,
        StoreError::Busy | StoreError::Unsettled => Status::NotReady,
        StoreError::Plan => Status::DeviceFailed,
    }
}
