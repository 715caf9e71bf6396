//! What comes in on a stream: a staging area for heads and small payloads, and large payloads
//! received straight into their buffers.
//!
//! Invariants: bytes are given out once and in order; the staging area is not touched while a receive
//! into it is in flight; a small payload takes a buffer only when all of it has come, so a slow sender
//! holds none.

use crate::error::RingError;
use crate::limits::{STAGING_AFTER_PAYLOAD_BYTES, STAGING_BYTES};
use crate::pool::BufferPool;
use crate::region::Region;
use crate::ring::{Completion, Ring, Target, with_target};
use crate::role::Closed;
use crate::tag::{Kind, Tag};
use io_uring::opcode;
use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::limits::RECEIVE_IN_PLACE_BYTES;

/// A payload that was asked for and has not been given.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    class: BufferClass,
    start: u32,
    len: u32,
    buffer: Option<BufferId>,
    done: u32,
}

/// What a receive in flight fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InFlight {
    No,
    Staging,
    /// A part of a pool buffer; the loop has begun a use for it.
    Payload(Span),
    /// As `Payload`, but nobody wants it any more.
    Abandoned(Span),
}

/// Result of asking for a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// There it is.
    Ready(Span),
    /// More bytes must come.
    Waiting,
    /// No buffer is free.
    NoBuffer,
}

/// Result of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// New bytes in the staging area.
    Bytes,
    /// More of a payload.
    Payload,
}

#[derive(Debug)]
pub(crate) struct Incoming {
    staging: Region,
    start: usize,
    end: usize,
    wanted: Option<Wanted>,
    in_flight: InFlight,
    /// The last payload went straight to its place.
    bulk: bool,
    /// The kernel said that there is more, or has not said: try at once rather than wait for a poll.
    likely: bool,
}

impl Incoming {
    pub(crate) fn new() -> Result<Self, RingError> {
        Ok(Self::with_staging(Region::new(STAGING_BYTES)?))
    }

    /// With the staging area of a stream that is gone.
    pub(crate) const fn with_staging(staging: Region) -> Self {
        Self { staging, start: 0, end: 0, wanted: None, in_flight: InFlight::No, bulk: false, likely: false }
    }

    /// The staging area, for another stream.
    pub(crate) fn into_staging(self) -> Region {
        self.staging
    }

    pub(crate) const fn is_in_flight(&self) -> bool {
        !matches!(self.in_flight, InFlight::No)
    }

    /// Whether a payload was asked for and has not been given.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.wanted.is_some()
    }

    /// Bytes that have come and were not consumed. Empty while a payload is waited for.
    pub(crate) fn available(&self) -> &[u8] {
        if self.wanted.is_some() {
            return &[];
        }
        // The receive in flight, if any, writes behind `end`.
        self.staging.slice(self.start, self.end - self.start)
    }

    /// Takes bytes that have been looked at.
    pub(crate) fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "only bytes that have come are consumed");
        self.start += count;
    }

    /// Asks for the next `len` bytes in a buffer, from `start` on.
    pub(crate) fn want(&mut self, class: BufferClass, start: u32, len: u32, pool: &mut BufferPool) -> Taken {
        assert!(self.wanted.is_none(), "one payload at a time");
        assert!(len > 0, "a payload has bytes");
        self.wanted = Some(Wanted { class, start, len, buffer: None, done: 0 });
        self.progress(pool)
    }

    /// Asks for the next bytes in a span that its owner has chosen; one use of its buffer passes along.
    pub(crate) fn want_into(&mut self, span: Span, pool: &mut BufferPool) -> Taken {
        assert!(self.wanted.is_none(), "one payload at a time");
        assert!(span.len >= RECEIVE_IN_PLACE_BYTES, "less than that is read ahead, and copied");
        let Span { buffer, start, len } = span;
        self.wanted = Some(Wanted { class: BufferClass::Client, start, len, buffer: Some(buffer), done: 0 });
        self.progress(pool)
    }

    /// Goes on with the payload that was asked for.
    pub(crate) fn progress(&mut self, pool: &mut BufferPool) -> Taken {
        let Some(mut wanted) = self.wanted else { return Taken::Waiting };
        let staged = self.end - self.start;
        let small = wanted.len < RECEIVE_IN_PLACE_BYTES;
        if small && staged < wanted.len as usize {
            return Taken::Waiting;
        }
        let buffer = match wanted.buffer {
            Some(buffer) => buffer,
            None => match pool.allocate(wanted.class, wanted.start + wanted.len) {
                Some(buffer) => buffer,
                None => return Taken::NoBuffer,
            },
        };
        wanted.buffer = Some(buffer);
        let rest = wanted.len - wanted.done;
        #[expect(clippy::cast_possible_truncation, reason = "the staging area is smaller than 4 GiB")]
        let take = rest.min(staged as u32);
        if take > 0 && !matches!(self.in_flight, InFlight::Payload(_)) {
            let part = Span { buffer, start: wanted.start + wanted.done, len: take };
            pool.bytes_mut(part).copy_from_slice(self.staging.slice(self.start, take as usize));
            self.start += take as usize;
            wanted.done += take;
        }
        if wanted.done < wanted.len {
            self.wanted = Some(wanted);
            return Taken::Waiting;
        }
        self.wanted = None;
        self.bulk = !small;
        Taken::Ready(Span { buffer, start: wanted.start, len: wanted.len })
    }

    /// Submits a receive if none is in flight and there is room for its bytes.
    pub(crate) fn begin(&mut self, slot: u32, target: Target, ring: &mut Ring, pool: &mut BufferPool) -> Result<(), RingError> {
        if self.is_in_flight() {
            return Ok(());
        }
        let tag = Tag::new(Kind::Receive, slot);
        if let Some(Wanted { start, len, buffer: Some(buffer), done, .. }) = self.wanted {
            let span = Span { buffer, start: start + done, len: len - done };
            let pointer = pool.pointer(span);
            pool.begin(span, true);
            self.in_flight = InFlight::Payload(span);
            let entry =
                with_target!(target, |fd| opcode::Recv::new(fd, pointer, span.len).flags(libc::MSG_WAITALL).ioprio(self.hint()).build());
            // SAFETY: `pool.begin` added a use that ends at the completion, so the bytes stay this request's own.
            return unsafe { ring.push(entry, tag) };
        }
        if self.wanted.is_some_and(|wanted| wanted.len >= RECEIVE_IN_PLACE_BYTES) {
            // It waits for a buffer.
            return Ok(());
        }
        self.make_room();
        let room = STAGING_BYTES - self.end;
        if room == 0 {
            return Ok(());
        }
        let limit = if self.bulk { room.min(STAGING_AFTER_PAYLOAD_BYTES) } else { room };
        let pointer = self.staging.pointer(self.end, limit);
        self.in_flight = InFlight::Staging;
        #[expect(clippy::cast_possible_truncation, reason = "the staging area is smaller than 4 GiB")]
        let entry = with_target!(target, |fd| opcode::Recv::new(fd, pointer, limit as u32).ioprio(self.hint()).build());
        // SAFETY: the staging area is mapped until `into_staging` after the completion; its bytes behind `end` are
        // not looked at, and `make_room` moves nothing, while `in_flight` says `Staging`.
        unsafe { ring.push(entry, tag) }
    }

    /// Whether all of the staging area holds bytes that its owner has not consumed.
    pub(crate) fn is_stuck(&self) -> bool {
        self.wanted.is_none() && self.end - self.start == STAGING_BYTES
    }

    /// Saves the first try of a receive when nothing is known to have come.
    fn hint(&self) -> u16 {
        // IORING_RECVSEND_POLL_FIRST (Linux 5.19)
        if self.likely { 0 } else { 1 }
    }

    /// Moves what is left to the front when there is little room behind it.
    fn make_room(&mut self) {
        let len = self.end - self.start;
        if len == 0 {
            (self.start, self.end) = (0, 0);
        } else if STAGING_BYTES - self.end < STAGING_BYTES / 2 && self.start > 0 {
            self.staging.slice_mut(0, self.end).copy_within(self.start.., 0);
            (self.start, self.end) = (0, len);
        }
    }

    /// A receive has ended.
    pub(crate) fn complete(&mut self, completion: Completion, pool: &mut BufferPool) -> Result<Arrival, Closed> {
        let in_flight = std::mem::replace(&mut self.in_flight, InFlight::No);
        match in_flight {
            InFlight::Payload(span) => pool.end(span, true),
            InFlight::Abandoned(span) => {
                pool.end(span, true);
                return Err(Closed::Peer);
            }
            InFlight::Staging | InFlight::No => {}
        }
        self.likely = completion.socket_has_more();
        let count = match usize::try_from(completion.result) {
            Ok(0) => return Err(Closed::Peer),
            Ok(count) => count,
            Err(_) => return Err(Closed::Error { errno: completion.result.saturating_neg() }),
        };
        if let (InFlight::Payload(_), Some(wanted)) = (in_flight, &mut self.wanted) {
            wanted.done += u32::try_from(count).unwrap_or(u32::MAX);
            assert!(wanted.done <= wanted.len, "the kernel fills no more than it was given");
            return Ok(Arrival::Payload);
        }
        if self.bulk && count == STAGING_AFTER_PAYLOAD_BYTES {
            self.bulk = false;
        }
        self.end += count;
        assert!(self.end <= STAGING_BYTES, "the kernel fills no more than it was given");
        Ok(Arrival::Bytes)
    }

    /// Gives up: a buffer that no receive fills is freed now, one that a receive fills when it completes.
    pub(crate) fn abandon(&mut self, pool: &mut BufferPool) {
        if let Some(buffer) = self.wanted.take().and_then(|wanted| wanted.buffer) {
            pool.release(buffer);
        }
        if let InFlight::Payload(span) = self.in_flight {
            self.in_flight = InFlight::Abandoned(span);
        }
        (self.start, self.end) = if self.is_in_flight() { (self.end, self.end) } else { (0, 0) };
    }
}
