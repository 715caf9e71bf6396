//! The record log's writer: what waits to be written, what is in flight, which positions are known.
//!
//! A record's position (LSN) is the sequence of the log block that holds it. One block is in flight;
//! the next waits for company, at most `group_commit_wait`, until it holds half of the writes
//! outstanding, and never when it would be alone.
//!
//! Invariants: sequences are handed out in order and blocks written in order; `resolved ≤ completed`;
//! `flushed ≤ resolved`; used blocks never exceed the ring, and clients leave a reserve for the rest.
//! What this must not know: requests (it hands notes back), the cache, the device.

use crate::buffer::BufferId;
use crate::checksum::Checksum;
use crate::collections::OpId;
use crate::format::log_block::{LogHeader, RECORDS_BYTES};
use crate::unit::Nanos;
use std::collections::VecDeque;

/// What to do when the block that holds a record has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The record of a write, zero, or sequence reservation.
    Request(OpId),
    /// The record of a write whose data goes out now: it came with the activation of its extent.
    Held(OpId),
    /// The `activated` record of the extent in a frame.
    Activated {
        /// The frame.
        frame: u32,
        /// The slot it held.
        slot: u32,
    },
    /// The `allocated` record of a slot.
    Allocated {
        /// The slot.
        slot: u32,
    },
    /// A statement of positions that flushes wait for.
    Statement,
}

/// Records not yet sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    pub(super) records: Vec<u8>,
    pub(super) count: u16,
    /// Writes and zeroes among them.
    pub(super) writes: u32,
    pub(super) durable: bool,
    pub(super) urgent: bool,
    pub(super) notes: Vec<Note>,
}

/// The block in flight.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) header: LogHeader,
    pub(super) buffer: BufferId,
    pub(super) durable: bool,
    pub(super) checksum: Checksum,
    pub(super) pending: Pending,
}

/// The writer's state.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    ring: u64,
    /// First position not contained in the checkpoint.
    start: u64,
    /// Sequence of the next block to be sent.
    next: u64,
    pending: VecDeque<Pending>,
    spare: Vec<Pending>,
    pub(super) in_flight: Option<InFlight>,
    completed: u64,
    resolved: u64,
    /// Position, writes whose data has not completed; from `resolved + 1` on.
    unresolved: VecDeque<u32>,
    previous: Checksum,
    pub(super) wait_until: Option<Nanos>,
    /// Resolved position stated by a completed block.
    pub(super) logged_resolved: u64,
    /// Flushed position stated by a completed block.
    pub(super) stated_flushed: u64,
    /// Flushed position stated by a durable block.
    pub(super) logged_flushed: u64,
    /// Newest block written through.
    written_through: u64,
}

impl Log {
    /// A log whose last used position is `last`, all of it contained in the checkpoint.
    pub(super) fn new(ring: u32, last: u64) -> Self {
        Self {
            ring: u64::from(ring),
            start: last + 1,
            next: last + 1,
            completed: last,
            resolved: last,
            logged_resolved: last,
            stated_flushed: last,
            logged_flushed: last,
            ..Self::default()
        }
    }

    /// Every record at or below has completed, with its data.
    pub(super) const fn resolved(&self) -> u64 {
        self.resolved
    }

    /// The last block that has completed.
    pub(super) const fn completed(&self) -> u64 {
        self.completed
    }

    /// The newest block that was written through: it is on the medium, those before it need not be.
    pub(super) const fn written_through(&self) -> u64 {
        self.written_through
    }

    /// No record has a position above this.
    pub(super) fn last(&self) -> u64 {
        self.next + self.pending.len() as u64 - 1
    }

    /// Blocks that can still be used.
    pub(super) fn room(&self) -> u64 {
        self.ring - (self.next + self.pending.len() as u64 - self.start)
    }

    /// Blocks in use.
    pub(super) fn used(&self) -> u64 {
        self.ring - self.room()
    }

    /// Blocks of the ring.
    pub(super) const fn ring(&self) -> u64 {
        self.ring
    }

    /// Blocks that requests leave for seals, frees, statements and what is already accepted.
    pub(super) fn reserve(&self) -> u64 {
        (self.ring / 8).max(8)
    }

    /// Records up to `checkpoint` are contained in it.
    pub(super) fn trim(&mut self, checkpoint: u64) {
        assert!(checkpoint <= self.resolved, "only resolved records are contained in a checkpoint");
        self.start = self.start.max(checkpoint + 1);
    }

    fn open(&mut self) -> &mut Pending {
        assert!(self.room() > 0, "the log's reserve covers what is accepted");
        let mut fresh = self.spare.pop().unwrap_or_default();
        fresh.records.clear();
        fresh.notes.clear();
        (fresh.count, fresh.writes, fresh.durable, fresh.urgent) = (0, 0, false, false);
        self.pending.push_back(fresh);
        self.unresolved.push_back(0);
        let last = self.pending.len() - 1;
        &mut self.pending[last]
    }

    /// The block that a record of `bytes` goes to, and its position.
    pub(super) fn place(&mut self, bytes: usize) -> (u64, &mut Pending) {
        let fits = self.pending.back().is_some_and(|last| last.records.len() + bytes <= RECORDS_BYTES);
        if !fits {
            self.open();
        }
        let place = self.pending.len() - 1;
        (self.next + place as u64, &mut self.pending[place])
    }

    /// Counts a write whose record is at `lsn` as unresolved until its data completes.
    pub(super) fn expect_data(&mut self, lsn: u64) {
        let place = usize::try_from(lsn - self.resolved - 1).unwrap_or(usize::MAX);
        self.unresolved[place] += 1;
    }

    /// Data of a write with its record at `lsn` has completed (or failed for good).
    pub(super) fn data_done(&mut self, lsn: u64) {
        let place = usize::try_from(lsn - self.resolved - 1).unwrap_or(usize::MAX);
        assert!(self.unresolved[place] > 0, "a write's data completes once");
        self.unresolved[place] -= 1;
        self.advance();
    }

    fn advance(&mut self) {
        while self.resolved < self.completed && self.unresolved.front() == Some(&0) {
            self.unresolved.pop_front();
            self.resolved += 1;
        }
    }

    /// Whether a block waits.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether nothing waits or is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_none()
    }

    /// Whether the first waiting block should go now; if not, `wait_until` says when it must.
    pub(super) fn is_due(&mut self, now: Nanos, outstanding: u32, wait: Nanos) -> bool {
        if self.in_flight.is_some() {
            return false;
        }
        let Some(first) = self.pending.front() else { return false };
        let enough = first.writes.saturating_mul(2) >= outstanding;
        if first.urgent || self.pending.len() > 1 || enough {
            return true;
        }
        let until = *self.wait_until.get_or_insert(now.plus(wait));
        now >= until
    }

    /// Takes the first waiting block to be sent.
    pub(super) fn take(&mut self, incarnation: u64, flushed: u64) -> Option<(LogHeader, Pending)> {
        let pending = self.pending.pop_front()?;
        let header = LogHeader {
            sequence: self.next,
            incarnation,
            flushed,
            resolved: self.resolved,
            previous: self.previous,
            records: pending.count,
        };
        self.next += 1;
        self.wait_until = None;
        Some((header, pending))
    }

    /// The block in flight has completed: its notes are to be worked off, then [`Self::settle`] called.
    pub(super) fn complete(&mut self) -> Option<InFlight> {
        let done = self.in_flight.take()?;
        assert!(done.header.sequence == self.completed + 1, "blocks complete in order");
        self.completed = done.header.sequence;
        self.previous = done.checksum;
        self.logged_resolved = self.logged_resolved.max(done.header.resolved);
        self.stated_flushed = self.stated_flushed.max(done.header.flushed);
        if done.durable {
            self.logged_flushed = self.logged_flushed.max(done.header.flushed);
            self.written_through = done.header.sequence;
        }
        Some(done)
    }

    /// After the notes of a completed block: positions move, its memory is kept for the next.
    pub(super) fn settle(&mut self, mut pending: Pending) {
        self.advance();
        pending.records.clear();
        pending.notes.clear();
        self.spare.push(pending);
    }

    /// Makes sure that a block will state the resolved position (and, if `durable`, the flushed one,
    /// durably) as it is now. Nothing when one in flight already does or there is no room.
    pub(super) fn ensure_statement(&mut self, resolved: u64, flushed: Option<u64>) {
        let durable = flushed.is_some();
        if let Some(sent) = &self.in_flight
            && sent.header.resolved >= resolved
            && flushed.is_none_or(|flushed| sent.durable && sent.header.flushed >= flushed)
        {
            return;
        }
        if self.pending.is_empty() {
            if self.room() <= 2 {
                return;
            }
            self.open();
        }
        if let Some(first) = self.pending.front_mut() {
            first.urgent = true;
            first.durable |= durable;
            if !first.notes.contains(&Note::Statement) {
                first.notes.push(Note::Statement);
            }
        }
    }
}
