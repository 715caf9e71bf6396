//! Writes: activation, the parallel pair of data and record, and what makes a first write judgeable.
//!
//! **Coverage.** After a crash the bytes of a block whose first write is in the log, but which match
//! no record, are either what was there before (the data never landed: the block was never written)
//! or a later write whose record is missing (the block holds data). The log tells which only if it
//! states that the first write was resolved (for a process death) or flushed (for a power cut). So an
//! overwrite of such a block waits until a completed log block states the first write resolved, and,
//! if it is flushed already, a durable one states it flushed. A flush that covers a first write under
//! an overwrite still in flight is answered after such a statement (`flush`). Until then the frame
//! keeps the block in `uncovered` and is not evicted.
//!
//! **Held.** The write that activates an extent puts its record beside the `activated` one and sends its
//! data when their block has completed: a durable log block and then the data, instead of a durable
//! log block and then data and a log block. To whoever recovers it is a write whose record was faster
//! than its data.
//!
//! **A write that failed** is recorded as unreadable before it is answered: its own record is there already.
//!
//! What this must not know: other kinds of requests; recovery.

use super::interface::{BlockSet, Bond, ExtentKey, Request, StoreError};
use super::log::Note;
use super::options::DURABLE_SHARED;
use super::pages::Activity;
use super::slots::NO_FRAME;
use super::work::{Access, Stage};
use super::{Context, OpId, Phase, Purpose, Store};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::checksum::Checksum;
use crate::format::descriptor::{BlockInfo, Content};
use crate::format::record;
use crate::id::Version;
use crate::store::interface::Outcome;
use crate::unit::BlockIndex;

/// Activity of an extent that a request wants to write to.
pub(super) enum Entry {
    /// Go on, in this frame.
    Ready(u32),
    /// Likewise, but the extent is active only when the log block that is being filled has completed:
    /// a record may go with it, data must wait for it.
    Activating(u32),
    /// Wait; the request has been put aside.
    Wait,
    /// There is no such extent.
    Unallocated,
    /// It cannot be.
    Fail(StoreError),
}

impl Store {
    /// Makes sure that the extent of a write or zero is resident and durably active.
    pub(super) fn enter<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, key: ExtentKey) -> Entry {
        if self.log.room() <= self.log.reserve() {
            self.stall(id);
            return Entry::Wait;
        }
        let access = self.access(cx, id, key);
        let frame = match access {
            Access::Unallocated => return Entry::Unallocated,
            Access::Fail(error) => return Entry::Fail(error),
            Access::NoFrame => {
                self.stall(id);
                return Entry::Wait;
            }
            // Activation and load go on in parallel.
            Access::Loading | Access::Resident(_) => match self.works.get(id).and_then(|work| work.frame) {
                Some(frame) => frame,
                None => return Entry::Fail(StoreError::Descriptor),
            },
        };
        match self.pages.get(frame).activity {
            Activity::Active => {}
            Activity::Activating => {
                self.stall(id);
                return Entry::Wait;
            }
            Activity::Idle => {
                self.activate(frame);
                if let Access::Resident(_) = access {
                    return Entry::Activating(frame);
                }
                self.stall(id);
                return Entry::Wait;
            }
        }
        match access {
            Access::Resident(_) => Entry::Ready(frame),
            Access::Loading | Access::Unallocated | Access::NoFrame | Access::Fail(_) => {
                self.stall(id);
                Entry::Wait
            }
        }
    }

    fn activate(&mut self, frame: u32) {
        let slot = self.pages.get(frame).slot;
        let (_, pending) = self.log.place(5);
        record::put_activated(&mut pending.records, slot);
        pending.count += 1;
        (pending.durable, pending.urgent) = (!bugs::is(Bug::ActivationNotDurable), true);
        pending.notes.push(Note::Activated { frame, slot });
        self.pages.set_activity(frame, Activity::Activating);
        self.statistics.activations += 1;
    }

    /// Gives the key an extent and activates it, in one log block.
    pub(super) fn allocate(&mut self, id: OpId, key: ExtentKey) -> Entry {
        if !self.slots.has_free() {
            if self.slots.has_reclaimable() {
                self.want_reclaim();
                self.stall(id);
                return Entry::Wait;
            }
            return Entry::Fail(StoreError::NoSpace);
        }
        let Some(frame) = self.slots.next_free().and_then(|slot| self.take_frame(slot)) else {
            self.stall(id);
            return Entry::Wait;
        };
        let (lsn, _) = self.log.place(17 + 5);
        let Some(slot) = self.slots.allocate(key, lsn) else { return Entry::Fail(StoreError::NoSpace) };
        self.adopt(slot, frame);
        let (_, pending) = self.log.place(17 + 5);
        record::put_allocated(&mut pending.records, slot, key);
        pending.count += 1;
        pending.notes.push(Note::Allocated { slot });
        self.activate(frame);
        self.pin_for(id, frame);
        self.stall(id);
        Entry::Wait
    }

    pub(super) fn advance_write<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        let Some(work) = self.works.get(id) else { return };
        let Request::Write { key, range, checksums, version, durable, bond, .. } = work.request else { return };
        let (frame, held) = match self.enter(cx, id, key) {
            Entry::Ready(frame) => (frame, false),
            Entry::Activating(frame) => (frame, !bugs::is(Bug::ActivationNotAwaited)),
            Entry::Wait => return,
            Entry::Fail(error) => return self.reply(cx, id, Err(error)),
            Entry::Unallocated => match self.allocate(id, key) {
                Entry::Ready(_) | Entry::Activating(_) | Entry::Wait | Entry::Unallocated => return,
                Entry::Fail(error) => return self.reply(cx, id, Err(error)),
            },
        };
        let logged_flushed = self.log.logged_flushed;
        let entry = self.pages.get_mut(frame);
        if entry.uncovered_lsn <= logged_flushed && !entry.uncovered.is_empty() {
            entry.uncovered = BlockSet::default();
        }
        let (slot, first_lsn, from_lsn) = (entry.slot, entry.uncovered_lsn, entry.uncovered_from);
        let mut fresh = false;
        let mut uncovered = false;
        for block in blocks(range.first, range.count) {
            fresh |= !entry.descriptor.content(block).holds_data();
            uncovered |= entry.descriptor.content(block).holds_data() && entry.uncovered.contains(block);
        }
        if uncovered {
            // Some first write of the extent may be flushed while another is not: what is flushed is
            // vouched for before the overwrite, what is not by the flush that will make it durable.
            let flushed = self.flushed().min(first_lsn);
            let promised = flushed >= from_lsn && logged_flushed < flushed;
            if self.log.logged_resolved < first_lsn || promised {
                if self.log.resolved() >= first_lsn {
                    self.log.ensure_statement(first_lsn, promised.then_some(flushed));
                }
                self.stall(id);
                return;
            }
            self.flusher.overwritten = self.flusher.overwritten.max(first_lsn);
        }
        // Written through only where the state before is vouched for; otherwise the flush does it.
        let through = durable && !fresh && !uncovered && self.durable_outstanding < DURABLE_SHARED;
        let (lsn, pending) = self.log.place(19 + 4 * checksums.len());
        record::put_written(&mut pending.records, slot, range.first, version, &checksums);
        pending.count += 1;
        pending.writes += 1;
        pending.notes.push(if held { Note::Held(id) } else { Note::Request(id) });
        if through {
            (pending.durable, pending.urgent) = (true, true);
        }
        self.log.expect_data(lsn);
        self.hold(frame, version, bond);
        self.issued(id, frame, lsn, durable, Stage::Writing { data: None, recorded: false, through });
        if !held {
            self.send_data(cx, id);
        }
    }

    /// Keeps the extent of a held write from being sealed; so it stays in the exchange, too, while a plan for it is outstanding.
    pub(super) fn hold(&mut self, frame: u32, version: Version, bond: Bond) {
        let holds = match bond {
            Bond::None => false,
            Bond::Held | Bond::Settling => true,
        };
        // A store that closes releases everything, what it still issues included.
        if holds && matches!(self.phase, Phase::Open) {
            self.pages.hold(frame, version.sequence);
        }
    }

    /// The other copy has what was held of an extent.
    pub(super) fn resolved(&mut self, key: ExtentKey, version: Version) {
        let frame = self.slots.find(key).map_or(NO_FRAME, |slot| self.slots.get(slot).frame);
        if frame != NO_FRAME {
            self.pages.release(frame, version.sequence, self.now);
        }
    }

    /// Sends the data of a write whose record has its place in the log.
    pub(super) fn send_data<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        let Some(work) = self.works.get(id) else { return };
        let (Request::Write { range, span, .. }, Stage::Writing { through, .. }, Some(frame)) = (work.request, work.stage, work.frame)
        else {
            return;
        };
        let entry = self.pages.get(frame);
        let active = entry.activity == Activity::Active || bugs::is(Bug::ActivationNotAwaited);
        assert!(active, "data goes to active extents only");
        let offset = self.geometry().data(entry.slot, range.first);
        self.statistics.data_writes += 1;
        self.send_write(cx, Purpose::Data(id), offset, span, through);
    }

    /// Notes that a write or zero is on its way.
    pub(super) fn issued(&mut self, id: OpId, frame: u32, lsn: u64, durable: bool, stage: Stage) {
        if let Some(work) = self.works.get_mut(id) {
            work.stage = stage;
            work.lsn = lsn;
        }
        self.outstanding += 1;
        self.durable_outstanding += u32::from(durable);
        self.last_write = self.now;
        let entry = self.pages.get_mut(frame);
        entry.in_flight += 1;
        entry.newest_lsn = entry.newest_lsn.max(lsn);
        self.pages.touch(frame, self.now);
    }

    pub(super) fn data_written<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, result: Result<(), i32>) {
        let Some(work) = self.works.get_mut(id) else { return };
        let Stage::Writing { data, recorded, .. } = &mut work.stage else { return };
        *data = Some(result);
        let (recorded, lsn) = (*recorded, work.lsn);
        match result {
            Ok(()) => {
                if recorded || bugs::is(Bug::RecordNotAwaited) {
                    self.apply(cx, id, Ok(()));
                }
                self.log.data_done(lsn);
            }
            Err(errno) if recorded => self.spoil(id, errno),
            Err(_) => {}
        }
        self.retry |= !self.stalled.is_empty();
    }

    /// Records that a write's data failed. Until that is done the write is not resolved: were it vouched for
    /// before, whatever lies there would pass for it after a crash.
    fn spoil(&mut self, id: OpId, errno: i32) {
        let Some(work) = self.works.get_mut(id) else { return };
        let (Request::Write { range, checksums, version, .. }, Some(frame)) = (work.request, work.frame) else { return };
        let slot = self.pages.get(frame).slot;
        let (lsn, pending) = self.log.place(19 + 4 * checksums.len());
        record::put_unreadable(&mut pending.records, slot, range.first, version, &checksums);
        pending.count += 1;
        pending.notes.push(Note::Request(id));
        pending.urgent = true;
        work.stage = Stage::Spoiling { errno, written: work.lsn };
        work.lsn = lsn;
        let entry = self.pages.get_mut(frame);
        entry.newest_lsn = entry.newest_lsn.max(lsn);
    }

    /// The record of a request has completed.
    pub(super) fn recorded<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        let Some(work) = self.works.get_mut(id) else { return };
        match &mut work.stage {
            Stage::Writing { data, recorded, .. } => {
                *recorded = true;
                match *data {
                    None => {}
                    Some(Ok(())) => self.apply(cx, id, Ok(())),
                    Some(Err(errno)) => self.spoil(id, errno),
                }
            }
            Stage::Spoiling { errno, written } => {
                let (errno, written) = (*errno, *written);
                self.apply(cx, id, Err(errno));
                self.log.data_done(written);
                self.retry |= !self.stalled.is_empty();
            }
            Stage::Recording => self.done(cx, id),
            Stage::Waiting | Stage::Reading { .. } | Stage::Flushing | Stage::Freeing { .. } | Stage::Freed { .. } => {}
            Stage::Judging { .. } | Stage::Settling { .. } => {}
        }
    }

    /// Both halves have completed: the descriptor changes, then the request is answered.
    fn apply<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, data: Result<(), i32>) {
        let Some(work) = self.works.get(id).copied() else { return };
        let Some(frame) = work.frame else { return };
        let through = matches!(work.stage, Stage::Writing { through: true, .. });
        let entry = self.pages.get_mut(frame);
        let durable = match work.request {
            Request::Write { range, checksums, version, durable, .. } => {
                let content = if data.is_ok() { Content::Data } else { Content::Unreadable };
                for (block, checksum) in blocks(range.first, range.count).zip(checksums.as_slice()) {
                    if !entry.descriptor.content(block).holds_data() {
                        entry.data_blocks += 1;
                        entry.uncovered_from = if entry.uncovered.is_empty() { work.lsn } else { entry.uncovered_from.min(work.lsn) };
                        entry.uncovered.insert(block);
                        entry.uncovered_lsn = entry.uncovered_lsn.max(work.lsn);
                    }
                    entry.descriptor.set(block, BlockInfo { content, checksum: *checksum, version: version.sequence });
                }
                entry.free_wanted = false;
                durable
            }
            Request::Zero { range, version, free, durable, .. } => {
                for block in blocks(range.first, range.count) {
                    entry.data_blocks -= u16::from(entry.descriptor.content(block).holds_data());
                    entry
                        .descriptor
                        .set(block, BlockInfo { content: Content::Zero, checksum: Checksum::new(0), version: version.sequence });
                }
                entry.free_wanted = free && (entry.data_blocks == 0 || bugs::is(Bug::TrimFreesTooMuch));
                durable
            }
            Request::Read { .. }
            | Request::Flush
            | Request::Status { .. }
            | Request::FreeTree { .. }
            | Request::FreeExtent { .. }
            | Request::Extents { .. }
            | Request::Blocks { .. }
            | Request::ReserveSequence { .. }
            | Request::Medium { .. }
            | Request::Settle { .. }
            | Request::SettleAlone
            | Request::SettleLater
            | Request::Close => return,
        };
        entry.in_flight -= 1;
        self.pages.soil(frame, work.lsn);
        self.outstanding -= 1;
        self.durable_outstanding -= u32::from(durable);
        self.flusher.acknowledged = self.flusher.acknowledged.max(work.lsn);
        match data {
            Err(errno) => self.reply(cx, id, Err(StoreError::Device { errno })),
            Ok(()) if durable && !through && self.options.volatile_cache => self.flush_for(id, work.lsn),
            Ok(()) => self.reply(cx, id, Ok(Outcome::Done)),
        }
    }
}

/// Blocks of a range, by number in the extent.
pub(super) fn blocks(first: BlockIndex, count: u16) -> impl Iterator<Item = u8> {
    let start = u16::from(first.get());
    (start..start.saturating_add(count)).map_while(|block| u8::try_from(block).ok())
}
