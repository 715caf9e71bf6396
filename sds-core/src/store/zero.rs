//! Zeroes, freeing of extents and trees, and the sequence ceiling: requests that are records only.
//!
//! An extent is freed when a zero that may give space back leaves no block with data in it. Its slot
//! is given out again once the record that freed it is flushed (`slots`).
//! What this must not know: data writes; how the log is written.

use super::interface::{ExtentKey, Outcome, Request};
use super::log::Note;
use super::options::FREE_TREE_SLOTS;
use super::pages::{Activity, Residence};
use super::slots::{NO_FRAME, SlotState};
use super::work::Stage;
use super::write::Entry;
use super::{Context, OpId, Store};
use crate::buffer::Buffers;
use crate::format::record;
use crate::id::{ShardSequence, TreeId};

/// Log blocks that seals and frees leave for what is accepted already.
const LEFT_FREE: u64 = 4;

impl Store {
    pub(super) fn advance_zero<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        let Some(work) = self.works.get(id) else { return };
        let Request::Zero { key, range, version, free, durable, bond } = work.request else { return };
        if self.slots.find(key).is_none() {
            return self.absent_zero(cx, id, durable);
        }
        let frame = match self.enter(cx, id, key) {
            Entry::Ready(frame) => frame,
            Entry::Wait => return,
            Entry::Activating(_) => return self.stall(id),
            Entry::Unallocated => return self.absent_zero(cx, id, durable),
            Entry::Fail(error) => return self.reply(cx, id, Err(error)),
        };
        let slot = self.pages.get(frame).slot;
        let (lsn, pending) = self.log.place(20);
        record::put_zero(&mut pending.records, slot, range, version, free);
        pending.count += 1;
        pending.writes += 1;
        pending.notes.push(Note::Request(id));
        if durable {
            (pending.durable, pending.urgent) = (true, true);
        }
        self.hold(frame, version, bond);
        self.issued(id, frame, lsn, durable, Stage::Writing { data: Some(Ok(())), recorded: false, through: true });
    }

    /// There is no extent to zero. What took it away may not be durable yet: a durable zero waits for that.
    fn absent_zero<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, durable: bool) {
        if durable && self.options.volatile_cache {
            self.flush_for(id, self.flusher.acknowledged);
        } else {
            self.reply(cx, id, Ok(Outcome::Done));
        }
    }

    /// Takes an extent from its owner. Nothing pins its frame.
    pub(super) fn free_extent(&mut self, slot: u32) -> u64 {
        let frame = self.slots.get(slot).frame;
        let (lsn, pending) = self.log.place(5);
        record::put_freed(&mut pending.records, slot);
        pending.count += 1;
        if frame != NO_FRAME {
            self.pages.drop_frame(frame);
        }
        self.slots.free(slot, lsn);
        lsn
    }

    /// Frees the extent of a key. Its record is on the medium when the next flush has ended, and replayed across gaps.
    pub(super) fn advance_free_extent<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, key: ExtentKey) {
        let Some(work) = self.works.get(id) else { return };
        if let Stage::Freed { lsn } = work.stage {
            if self.log.completed() >= lsn {
                return self.reply(cx, id, Ok(Outcome::Done));
            }
            return self.stall(id);
        }
        let Some(slot) = self.slots.find(key) else { return self.reply(cx, id, Ok(Outcome::Done)) };
        if self.is_busy(slot) || self.log.room() <= LEFT_FREE {
            return self.stall(id);
        }
        let lsn = self.free_extent(slot);
        if let Some(work) = self.works.get_mut(id) {
            work.stage = Stage::Freed { lsn };
        }
        self.stall(id);
    }

    /// Whether a request relies on the slot's frame, or a record that names it is on the way.
    fn is_busy(&self, slot: u32) -> bool {
        let frame = self.slots.get(slot).frame;
        frame != NO_FRAME && {
            let frame = self.pages.get(frame);
            frame.pins > 0 || frame.activity == Activity::Activating || matches!(frame.residence, Residence::Wanted | Residence::Loading)
        }
    }

    /// Walks the slots a bounded way; the caller comes again while there are more.
    pub(super) fn advance_free_tree<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, tree: TreeId) {
        let Some(work) = self.works.get(id) else { return };
        let Stage::Freeing { mut slot, mut lsn } = work.stage else { return };
        let end = slot.saturating_add(FREE_TREE_SLOTS).min(self.slots.count());
        let mut blocked = false;
        while slot < end {
            let entry = self.slots.get(slot);
            let ours = entry.key.tree == tree && matches!(entry.state, SlotState::Allocated | SlotState::Pending);
            if ours {
                let busy = entry.frame != NO_FRAME && {
                    let frame = self.pages.get(entry.frame);
                    frame.pins > 0 || frame.activity == Activity::Activating
                };
                if busy || self.log.room() <= LEFT_FREE {
                    blocked = true;
                    break;
                }
                lsn = self.free_extent(slot);
            }
            slot += 1;
        }
        if let Some(work) = self.works.get_mut(id) {
            work.stage = Stage::Freeing { slot, lsn };
        }
        let finished = slot == self.slots.count() && self.log.completed() >= lsn;
        if finished {
            return self.reply(cx, id, Ok(Outcome::Done));
        }
        self.stall(id);
        // More slots to look at need no event; a full log or an unwritten record does.
        self.retry |= !blocked && slot < self.slots.count();
    }

    pub(super) fn advance_reserve<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, ceiling: ShardSequence) {
        if self.log.room() <= LEFT_FREE {
            return self.stall(id);
        }
        self.superblock.sequence_ceiling = self.superblock.sequence_ceiling.max(ceiling);
        let (_, pending) = self.log.place(9);
        record::put_ceiling(&mut pending.records, ceiling);
        pending.count += 1;
        (pending.durable, pending.urgent) = (true, true);
        pending.notes.push(Note::Request(id));
        if let Some(work) = self.works.get_mut(id) {
            work.stage = Stage::Recording;
        }
        let _ = cx;
    }
}
