//! Settling with another copy: telling what this one holds, its extents and the blocks of one, and taking a plan.
//!
//! Invariants: nothing is changed by asking; one answer looks at a bounded number of slots; an extent that is
//! unsettled in memory is unsettled in the index of every checkpoint, and no `sealed` record is written for it, until a
//! checkpoint that contains its plan has committed. In memory there is nothing of an unsettled extent but
//! this: its descriptor holds its newest records, its medium is read when asked for.
//! What this must not know: who asks; what is decided from it (`protocol::settle`, `protocol::resync`).

use super::interface::{ExtentKey, Outcome, Request, StoreError};
use super::options::{CHUNK_BYTES, EXTENTS_SLOTS};
use super::pages::{Activity, Residence};
use super::slots::{NO_FRAME, SlotState, Standing};
use super::work::{Access, Stage, Work};
use super::write::Entry;
use super::{Context, OpId, Purpose, Store};
use crate::buffer::{BufferClass, Buffers, Span};
use crate::checksum::Checksum;
use crate::exchange::{BLOCK_ENTRY_BYTES, BlockEntry, EXTENT_ENTRY_BYTES, ExtentEntry, Medium, PLAN_ENTRY_BYTES, PlanEntry};
use crate::format::descriptor::BlockInfo;
use crate::id::ShardSequence;
use crate::unit::{BLOCK_BYTES, BLOCKS_PER_EXTENT, BlockIndex};

const BLOCKS_PER_CHUNK: u32 = CHUNK_BYTES / BLOCK_BYTES;
#[expect(clippy::cast_possible_truncation, reason = "256")]
const BLOCKS: u16 = BLOCKS_PER_EXTENT as u16;

impl Store {
    pub(super) fn advance_extents<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, from: u32, span: Span) {
        let end = from.saturating_add(EXTENTS_SLOTS).min(self.slots.count());
        let room = span.len / EXTENT_ENTRY_BYTES;
        let mut slot = from;
        let mut count = 0;
        while slot < end && count < room {
            let owner = self.slots.get(slot);
            if matches!(owner.state, SlotState::Allocated | SlotState::Pending) {
                let frame = (owner.frame != NO_FRAME).then(|| self.pages.get(owner.frame));
                let resident = frame.filter(|frame| frame.residence == Residence::Resident);
                let newest = resident.map(|frame| frame.descriptor.newest());
                // What the other copy may lack, or may have forgotten, is as much in question as what a crash left.
                let held = resident.is_some_and(|frame| frame.held.is_some());
                let unsettled = owner.standing != Standing::Settled || owner.questioned || held;
                let entry = ExtentEntry { key: owner.key, unsettled, damaged: owner.damaged, newest };
                entry.encode(cx.buffers.bytes_mut(span.part(count * EXTENT_ENTRY_BYTES, EXTENT_ENTRY_BYTES)));
                count += 1;
            }
            slot += 1;
        }
        let next = (slot < self.slots.count()).then_some(slot);
        self.reply(cx, id, Ok(Outcome::Extents { count, next }));
    }

    /// Every active extent is in question from now on. Remembered in memory: after a restart those that are unsettled
    /// then get new versions.
    pub(super) fn parted(&mut self) {
        for frame in 0..self.pages.len() {
            let entry = self.pages.get(frame);
            if entry.activity != Activity::Idle {
                self.slots.get_mut(entry.slot).questioned = true;
            }
        }
    }

    pub(super) fn compared(&mut self, key: ExtentKey) {
        if let Some(slot) = self.slots.find(key) {
            self.slots.get_mut(slot).questioned = false;
        }
    }

    pub(super) fn advance_blocks<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, key: ExtentKey, span: Span) {
        match self.works.get(id).map(|work| work.stage) {
            Some(Stage::Judging { reading: false, .. }) => return self.judge(cx, id),
            Some(Stage::Waiting) => {}
            _ => return,
        }
        let frame = match self.access(cx, id, key) {
            Access::Loading | Access::NoFrame => return self.stall(id),
            Access::Fail(error) => return self.reply(cx, id, Err(error)),
            Access::Unallocated => None,
            Access::Resident(frame) => Some(frame),
        };
        for block in blocks_from(0) {
            let info = frame.map_or_else(BlockInfo::default, |frame| self.pages.get(frame).descriptor.get(block));
            BlockEntry { info, ..BlockEntry::default() }.encode(cx.buffers.bytes_mut(entry_of(span, block)));
        }
        let unsettled = frame.is_some_and(|frame| self.slots.get(self.pages.get(frame).slot).standing != Standing::Settled);
        if !unsettled {
            return self.reply(cx, id, Ok(Outcome::Blocks { held: frame.is_some() }));
        }
        self.set_stage(id, Stage::Judging { next: 0, singly: 0, reading: false });
        self.judge(cx, id);
    }

    fn set_stage(&mut self, id: OpId, stage: Stage) {
        if let Some(work) = self.works.get_mut(id) {
            work.stage = stage;
        }
    }

    /// Reads the next blocks of an unsettled extent that hold data: a chunk at once, and again singly where it cannot be read or is not what is
    /// recorded.
    fn judge<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        let Some(work) = self.works.get(id).copied() else { return };
        let (Stage::Judging { next, singly, .. }, Some(frame)) = (work.stage, work.frame) else { return };
        let entry = self.pages.get(frame);
        let Some(first) = blocks_from(next).find(|block| entry.descriptor.content(*block).holds_data()) else {
            return self.reply(cx, id, Ok(Outcome::Blocks { held: true }));
        };
        let offset = self.geometry().data(entry.slot, BlockIndex::new(first));
        let count = if u16::from(first) < singly { 1 } else { BLOCKS_PER_CHUNK.min(u32::from(BLOCKS) - u32::from(first)) };
        let Some(buffer) = cx.buffers.allocate(BufferClass::Internal, count * BLOCK_BYTES) else { return self.stall(id) };
        self.set_stage(id, Stage::Judging { next, singly, reading: true });
        self.send_read(cx, Purpose::Judge { request: id, first }, offset, Span::whole(buffer, count * BLOCK_BYTES));
        Self::give_back(cx, buffer);
    }

    pub(super) fn judged<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, first: u8, read: Option<Span>, result: Result<(), i32>) {
        let (Some(work), Some(read)) = (self.works.get(id).copied(), read) else { return };
        let (Request::Blocks { span, .. }, Stage::Judging { singly, .. }, Some(frame)) = (work.request, work.stage, work.frame) else {
            return;
        };
        let count = read.len / BLOCK_BYTES;
        let end = u16::from(first) + u16::try_from(count).unwrap_or(BLOCKS);
        let descriptor = &self.pages.get(frame).descriptor;
        let is_recorded = |(place, block): (u32, u8)| {
            let info = descriptor.get(block);
            !info.content.holds_data() || Checksum::of(cx.buffers.bytes(read.part(place * BLOCK_BYTES, BLOCK_BYTES))) == info.checksum
        };
        let is_first = u16::from(first) >= singly;
        if is_first && (result.is_err() || !(0..count).zip(blocks_from(u16::from(first))).all(is_recorded)) {
            self.set_stage(id, Stage::Judging { next: u16::from(first), singly: end, reading: false });
            return self.judge(cx, id);
        }
        for (place, block) in (0..count).zip(blocks_from(u16::from(first))) {
            let info = self.pages.get(frame).descriptor.get(block);
            if info.content.holds_data() {
                let bytes = read.part(place * BLOCK_BYTES, BLOCK_BYTES);
                let medium = if result.is_ok() { Medium::Read(Checksum::of(cx.buffers.bytes(bytes))) } else { Medium::Unreadable };
                BlockEntry { info, medium }.encode(cx.buffers.bytes_mut(entry_of(span, block)));
            }
        }
        self.set_stage(id, Stage::Judging { next: end, singly, reading: false });
        self.judge(cx, id);
    }

    /// Puts a plan into the extent's descriptor and has a checkpoint write it: its images follow a flush, and its
    /// superblocks switch page and flag at once, so the extent is settled whole or not at all.
    pub(super) fn advance_settle<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, key: ExtentKey, span: Span) {
        match self.works.get(id).map(|work| work.stage) {
            Some(Stage::Waiting) => {}
            _ => return,
        }
        let frame = match self.access(cx, id, key) {
            Access::Loading | Access::NoFrame => return self.stall(id),
            Access::Fail(error) => return self.reply(cx, id, Err(error)),
            Access::Unallocated if self.says_lost(cx, span) => match self.allocate(id, key) {
                Entry::Ready(_) | Entry::Activating(_) | Entry::Wait | Entry::Unallocated => return,
                Entry::Fail(error) => return self.reply(cx, id, Err(error)),
            },
            Access::Unallocated => return self.reply(cx, id, Ok(Outcome::Done)),
            Access::Resident(frame) if self.is_in_motion(frame) || self.is_ahead(frame) => return self.stall(id),
            Access::Resident(frame) => frame,
        };
        match self.slots.get(self.pages.get(frame).slot).standing {
            Standing::Settling => return self.stall(id),
            Standing::Settled | Standing::Unsettled => {}
        }
        let plan = |block| PlanEntry::decode(cx.buffers.bytes(plan_of(span, block)));
        if blocks_from(0).any(|block| plan(block).is_err()) {
            return self.reply(cx, id, Err(StoreError::Plan));
        }
        let entry = self.pages.get_mut(frame);
        for (block, info) in blocks_from(0).filter_map(|block| Some((block, plan(block).ok()?.info()?))) {
            entry.descriptor.set(block, info);
        }
        entry.data_blocks = entry.descriptor.data_blocks();
        self.pages.release(frame, ShardSequence::new(u64::MAX), self.now);
        self.pages.soil(frame, self.log.resolved());
        self.set_stage(id, Stage::Settling { taken: false });
        self.plans += 1;
        self.checkpoint.force();
    }

    /// Whether a plan says of a block that it is lost: then the extent has to be there to say it.
    fn says_lost<B: Buffers>(&self, cx: &Context<'_, B>, span: Span) -> bool {
        let plan = |block| PlanEntry::decode(cx.buffers.bytes(plan_of(span, block)));
        blocks_from(0).any(|block| matches!(plan(block), Ok(PlanEntry::Quarantined(_))))
    }

    /// Whether a write to the extent, or the record that gives it its place, is on the way.
    fn is_in_motion(&self, frame: u32) -> bool {
        let entry = self.pages.get(frame);
        entry.in_flight > 0 || entry.activity == Activity::Activating
    }

    /// Whether the extent has records above what an image of its page would state. A plan may give a block an older version than a
    /// record has, so recovery must not add any of them to the page that holds the plan.
    fn is_ahead(&self, frame: u32) -> bool {
        self.pages.get(frame).newest_lsn > self.log.resolved()
    }

    /// A checkpoint begins: it contains every plan there is.
    pub(super) fn take_plans(&mut self) {
        self.move_plans(false, |work| work.stage = Stage::Settling { taken: true }, Standing::Settling);
    }

    /// The checkpoint has ended.
    pub(super) fn plans_durable<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        for id in self.move_plans(true, |_| {}, Standing::Settled) {
            self.plans -= 1;
            self.done(cx, id);
        }
    }

    fn move_plans(&mut self, taken: bool, change: impl Fn(&mut Work), standing: Standing) -> Vec<OpId> {
        if self.plans == 0 {
            return Vec::new();
        }
        let wanted = Stage::Settling { taken };
        let ids: Vec<OpId> = self.works.iter().filter(|(_, work)| work.stage == wanted).map(|(id, _)| id).collect();
        for id in &ids {
            let Some(work) = self.works.get_mut(*id) else { continue };
            change(work);
            let Some(frame) = work.frame else { continue };
            self.slots.get_mut(self.pages.get(frame).slot).standing = standing;
        }
        ids
    }
}

fn entry_of(span: Span, block: u8) -> Span {
    span.part(u32::from(block) * BLOCK_ENTRY_BYTES, BLOCK_ENTRY_BYTES)
}

fn plan_of(span: Span, block: u8) -> Span {
    span.part(u32::from(block) * PLAN_ENTRY_BYTES, PLAN_ENTRY_BYTES)
}

fn blocks_from(first: u16) -> impl Iterator<Item = u8> {
    (first..BLOCKS).map_while(|block| u8::try_from(block).ok())
}
