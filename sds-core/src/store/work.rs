//! Requests held by the store: taking them in, waiting, and getting at the descriptor they need.
//!
//! Invariants: a request is in exactly one place: stalled, or waiting for an operation, a record or
//! a flush that names it; its frame is pinned from the moment it has one until its reply.
//! What this must not know: what the request does once it has its descriptor.

use super::interface::{Bond, Effect, ExtentKey, Outcome, Request, StoreError};
use super::pages::{Activity, Residence};
use super::slots::{NO_FRAME, Standing};
use super::{Context, OpId, Phase, Purpose, Store};
use crate::buffer::{BufferClass, Buffers, Span};
use crate::bugs::{self, Bug};
use crate::format::descriptor::Descriptor;
use crate::machine::Token;
use crate::unit::BLOCK_BYTES;

/// How often a read has been tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// All of it, for the first time.
    First,
    /// All of it once more.
    Again,
    /// Block by block, those that hold data: this one of the range.
    Singly {
        /// Counted from the start of the range.
        place: u16,
    },
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for something the store goes on with by itself.
    Waiting,
    /// A write or zero is issued.
    Writing {
        /// The data's fate; `Some` at once for a zero.
        data: Option<Result<(), i32>>,
        /// Its record has completed.
        recorded: bool,
        /// Data and record are written through.
        through: bool,
    },
    /// A write's data failed; waits for the record that says so.
    Spoiling {
        /// Linux error number.
        errno: i32,
        /// Position of the write's own record.
        written: u64,
    },
    /// A read's data is under way or here.
    Reading {
        /// How it ended.
        data: Option<Result<(), i32>>,
        /// Which attempt it is.
        attempt: Attempt,
    },
    /// Waits for a flush or a statement.
    Flushing,
    /// Waits for a record.
    Recording,
    /// Walks the slots to free a tree.
    Freeing {
        /// Next slot to look at.
        slot: u32,
        /// Position of the last record made.
        lsn: u64,
    },
    /// Reads an unsettled extent's data to tell its checksums.
    Judging {
        /// Next block to look at.
        next: u16,
        /// Blocks before this are read one by one: their chunk cannot be read.
        singly: u16,
        /// A read is under way.
        reading: bool,
    },
    /// An extent's plan is in its descriptor; waits for a checkpoint.
    Settling {
        /// The checkpoint under way contains it.
        taken: bool,
    },
    /// The extent is freed; waits for the record.
    Freed {
        /// Its position.
        lsn: u64,
    },
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) token: Token,
    pub(super) request: Request,
    pub(super) stage: Stage,
    /// Pinned.
    pub(super) frame: Option<u32>,
    /// Position of its record.
    pub(super) lsn: u64,
}

/// What a request finds at its extent.
pub(super) enum Access {
    /// No extent: everything reads zero.
    Unallocated,
    /// The descriptor is in this frame, pinned.
    Resident(u32),
    /// The descriptor is being read into this frame, pinned.
    Loading,
    /// No frame is free.
    NoFrame,
    /// The descriptor cannot be had.
    Fail(StoreError),
}

/// Whether a request is for extents that are not settled, too.
const fn may_be_unsettled(request: &Request) -> bool {
    match request {
        Request::Write { bond, .. } | Request::Zero { bond, .. } => matches!(bond, Bond::Settling),
        Request::Blocks { .. } | Request::Medium { .. } | Request::Settle { .. } => true,
        Request::Read { .. }
        | Request::Flush
        | Request::Status { .. }
        | Request::FreeTree { .. }
        | Request::FreeExtent { .. }
        | Request::Extents { .. }
        | Request::ReserveSequence { .. }
        | Request::SettleAlone
        | Request::SettleLater
        | Request::Close => false,
    }
}

impl Store {
    /// Takes a request in.
    pub(super) fn accept<B: Buffers>(&mut self, cx: &mut Context<'_, B>, token: Token, request: Request) {
        let refused = match (&self.phase, &request) {
            (Phase::Open, _) => None,
            (Phase::Recovering(recovery), Request::SettleAlone | Request::SettleLater) if recovery.waits_for_settling() => None,
            (Phase::Failed { errno }, _) => Some(StoreError::Device { errno: *errno }),
            (Phase::New | Phase::Recovering(_) | Phase::Closing(_) | Phase::Closed | Phase::Refused, _) => Some(StoreError::NotOpen),
        };
        let refused = refused.or(self.works.is_full().then_some(StoreError::Busy));
        if let Some(error) = refused {
            cx.out.push(Effect::Reply { token, result: Err(error) });
            return;
        }
        let stage = match request {
            Request::FreeTree { .. } => Stage::Freeing { slot: 0, lsn: 0 },
            Request::Write { .. }
            | Request::Zero { .. }
            | Request::Read { .. }
            | Request::Flush
            | Request::Status { .. }
            | Request::FreeExtent { .. }
            | Request::Extents { .. }
            | Request::Blocks { .. }
            | Request::ReserveSequence { .. }
            | Request::Medium { .. }
            | Request::Settle { .. }
            | Request::SettleAlone
            | Request::SettleLater
            | Request::Close => Stage::Waiting,
        };
        let Ok(id) = self.works.insert(Work { token, request, stage, frame: None, lsn: 0 }) else { return };
        self.advance(cx, id);
    }

    /// Goes on with a request as far as it can.
    pub(super) fn advance<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        let Some(work) = self.works.get(id) else { return };
        match work.request {
            Request::Write { .. } => self.advance_write(cx, id),
            Request::Zero { .. } => self.advance_zero(cx, id),
            Request::Read { .. } | Request::Medium { .. } => self.advance_read(cx, id),
            Request::Status { key, range } => self.advance_status(cx, id, key, range),
            Request::Flush => self.advance_flush(cx, id),
            Request::FreeTree { tree } => self.advance_free_tree(cx, id, tree),
            Request::FreeExtent { key } => self.advance_free_extent(cx, id, key),
            Request::Extents { from, span } => self.advance_extents(cx, id, from, span),
            Request::Blocks { key, span } => self.advance_blocks(cx, id, key, span),
            Request::ReserveSequence { ceiling } => self.advance_reserve(cx, id, ceiling),
            Request::Settle { key, span } => self.advance_settle(cx, id, key, span),
            Request::SettleAlone | Request::SettleLater => self.settle_requested(cx, id),
            Request::Close => self.close_requested(id),
        }
    }

    /// Puts a request aside until something has moved.
    pub(super) fn stall(&mut self, id: OpId) {
        self.stalled.push_back(id);
    }

    /// Looks again at what waits, once each.
    pub(super) fn pump_stalled<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        if !core::mem::take(&mut self.retry) || self.stalled.is_empty() {
            return false;
        }
        self.short_of_frames = false;
        let before = self.stalled.len();
        for _ in 0..before {
            if let Some(id) = self.stalled.pop_front() {
                self.advance(cx, id);
            }
        }
        self.stalled.len() < before
    }

    /// The descriptor of a request's extent, brought in if need be. Pins it for the request.
    pub(super) fn access<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, key: ExtentKey) -> Access {
        let Some(work) = self.works.get(id) else { return Access::Unallocated };
        let settling = may_be_unsettled(&work.request);
        let frame = match work.frame {
            Some(frame) => frame,
            None => {
                let Some(slot) = self.slots.find(key) else { return Access::Unallocated };
                if self.slots.get(slot).standing != Standing::Settled && !settling {
                    return Access::Fail(StoreError::Unsettled);
                }
                if self.slots.get(slot).damaged {
                    return Access::Fail(StoreError::Descriptor);
                }
                let frame = match self.slots.get(slot).frame {
                    NO_FRAME => match self.attach(slot) {
                        Some(frame) => frame,
                        None => return Access::NoFrame,
                    },
                    frame => frame,
                };
                self.pin_for(id, frame);
                frame
            }
        };
        self.pump_loads(cx);
        match self.pages.get(frame).residence {
            Residence::Resident => Access::Resident(frame),
            Residence::Empty | Residence::Wanted | Residence::Loading => Access::Loading,
            Residence::Unreadable { errno } => Access::Fail(StoreError::Device { errno }),
            Residence::Damaged => Access::Fail(StoreError::Descriptor),
        }
    }

    pub(super) fn pin_for(&mut self, id: OpId, frame: u32) {
        if let Some(work) = self.works.get_mut(id) {
            work.frame = Some(frame);
            self.pages.pin(frame);
        }
    }

    /// A frame for a slot, if one is free; its former slot forgets it.
    pub(super) fn take_frame(&mut self, slot: u32) -> Option<u32> {
        let logged = self.log.logged_flushed;
        // A block's first write that only memory vouches for must not be forgotten (see `write`).
        let taken = self.pages.take(slot, |frame| frame.uncovered.is_empty() || frame.uncovered_lsn <= logged);
        let Some((frame, former)) = taken else {
            self.short_of_frames = true;
            return None;
        };
        if let Some(former) = former {
            self.slots.get_mut(former).frame = NO_FRAME;
        }
        Some(frame)
    }

    /// Gives a taken frame to a slot. The page is read unless the extent has none yet.
    pub(super) fn adopt(&mut self, slot: u32, frame: u32) {
        self.slots.get_mut(slot).frame = frame;
        let entry = self.pages.get_mut(frame);
        // The extent may have been here before.
        entry.newest_lsn = self.log.last();
        match self.slots.get(slot).page {
            None => {
                entry.descriptor = Descriptor::default();
                entry.data_blocks = 0;
                entry.residence = Residence::Resident;
            }
            Some(_) => {
                entry.residence = Residence::Wanted;
                self.loads.push_back(frame);
            }
        }
    }

    fn attach(&mut self, slot: u32) -> Option<u32> {
        let frame = self.take_frame(slot)?;
        self.adopt(slot, frame);
        Some(frame)
    }

    /// Reads the pages that are wanted, as far as there are buffers.
    pub(super) fn pump_loads<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let mut moved = false;
        while let Some(frame) = self.loads.front().copied() {
            if self.pages.get(frame).residence != Residence::Wanted {
                self.loads.pop_front();
                continue;
            }
            let Some(buffer) = cx.buffers.allocate(BufferClass::Internal, 2 * BLOCK_BYTES) else { break };
            self.loads.pop_front();
            self.pages.get_mut(frame).residence = Residence::Loading;
            let offset = self.geometry().descriptor_pair(self.pages.get(frame).slot);
            self.send_read(cx, Purpose::Page { frame, again: false }, offset, Span::whole(buffer, 2 * BLOCK_BYTES));
            Self::give_back(cx, buffer);
            moved = true;
        }
        moved
    }

    /// A request no longer needs a frame. An extent left without data is freed now, if that was wanted.
    pub(super) fn unpin(&mut self, frame: u32) {
        self.pages.unpin(frame);
        let entry = self.pages.get(frame);
        if entry.pins > 0 {
            return;
        }
        let slot = entry.slot;
        match entry.residence {
            Residence::Unreadable { .. } | Residence::Damaged => {
                self.slots.get_mut(slot).frame = NO_FRAME;
                self.pages.drop_frame(frame);
            }
            Residence::Resident => {
                let empty = entry.free_wanted && (entry.data_blocks == 0 || bugs::is(Bug::TrimFreesTooMuch)) && entry.in_flight == 0;
                if empty && entry.activity != Activity::Activating && self.log.room() > 1 {
                    self.free_extent(slot);
                }
            }
            Residence::Empty | Residence::Wanted | Residence::Loading => {}
        }
    }

    pub(super) fn done<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        self.reply(cx, id, Ok(Outcome::Done));
    }
}
