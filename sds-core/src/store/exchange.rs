//! Telling another copy what this one holds: its extents, and the blocks of one.
//!
//! Invariant: nothing is changed by asking; one answer looks at a bounded number of slots.
//! What this must not know: who asks; what is decided from it (`protocol::settle`, `protocol::resync`).

use super::interface::{ExtentKey, Outcome};
use super::options::EXTENTS_SLOTS;
use super::pages::Residence;
use super::slots::{NO_FRAME, SlotState};
use super::work::Access;
use super::write::blocks;
use super::{Context, OpId, Store};
use crate::buffer::{Buffers, Span};
use crate::exchange::{BLOCK_ENTRY_BYTES, BlockEntry, EXTENT_ENTRY_BYTES, ExtentEntry};
use crate::format::descriptor::BlockInfo;
use crate::unit::{BLOCKS_PER_EXTENT, BlockIndex};

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
                let entry = ExtentEntry { key: owner.key, unsettled: false, damaged: owner.damaged, newest };
                entry.encode(cx.buffers.bytes_mut(span.part(count * EXTENT_ENTRY_BYTES, EXTENT_ENTRY_BYTES)));
                count += 1;
            }
            slot += 1;
        }
        let next = (slot < self.slots.count()).then_some(slot);
        self.reply(cx, id, Ok(Outcome::Extents { count, next }));
    }

    pub(super) fn advance_blocks<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, key: ExtentKey, span: Span) {
        let frame = match self.access(cx, id, key) {
            Access::Loading | Access::NoFrame => return self.stall(id),
            Access::Fail(error) => return self.reply(cx, id, Err(error)),
            Access::Unallocated => None,
            Access::Resident(frame) => Some(frame),
        };
        for block in blocks(BlockIndex::new(0), BLOCKS) {
            let info = frame.map_or_else(BlockInfo::default, |frame| self.pages.get(frame).descriptor.get(block));
            let entry = BlockEntry { info, ..BlockEntry::default() };
            entry.encode(cx.buffers.bytes_mut(span.part(u32::from(block) * BLOCK_ENTRY_BYTES, BLOCK_ENTRY_BYTES)));
        }
        self.reply(cx, id, Ok(Outcome::Blocks { held: frame.is_some() }));
    }
}
