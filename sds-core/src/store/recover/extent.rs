//! One touched extent after the other: its page is loaded, the log applied, an unsettled extent's data
//! read and settled, and the new page written to the home that the index does not name.
//!
//! The per-block histories that settling needs ([`History`]) are made from the page and the log here;
//! settling against another copy will take them from the same place.
//! What this must not know: how records were found; who asked.

use super::replay::Place;
use super::scan::Scan;
use super::{Part, Stage};
use crate::buffer::{BufferClass, Buffers, Span};
use crate::bugs::{self, Bug};
use crate::checksum::Checksum;
use crate::format::descriptor::{BlockInfo, Content, Descriptor, PageHeader};
use crate::format::geometry::Home;
use crate::format::index_page::PageName;
use crate::format::record::{self, Record};
use crate::store::interface::{BlockSet, Event};
use crate::store::options::CHUNK_BYTES;
use crate::store::read::{decode_page, named_home};
use crate::store::settle::{Candidate, Doubt, Evidence, settle_alone, settle_later};
use crate::store::write::blocks;
use crate::store::{Context, Effect, Phase, Purpose, Store};
use crate::unit::{BLOCK_BYTES, BLOCKS_PER_EXTENT, BlockIndex};

const BLOCKS_PER_CHUNK: u16 = 32;
const BLOCKS: u16 = 256;

const _: () = assert!(BLOCKS_PER_CHUNK as u32 * BLOCK_BYTES == CHUNK_BYTES && BLOCKS as u32 == BLOCKS_PER_EXTENT);

/// Every block of an extent: its state before the records that count, and these records.
#[derive(Clone, Debug, Default)]
struct History {
    /// State before the first candidate.
    base: Descriptor,
    candidates: Vec<(u8, Candidate)>,
}

impl History {
    /// Continues the page in `base` with a record. A zero makes what came before it irrelevant, and so does a failed write.
    fn add(&mut self, lsn: u64, record: &Record<'_>) {
        match record {
            Record::Written { first, version, checksums, .. } => {
                let count = u16::try_from(checksums.len()).unwrap_or(BLOCKS);
                for (block, checksum) in blocks(*first, count).zip(checksums.iter()) {
                    // The page may contain records above the position it states.
                    if self.base.is_older_than(block, version.sequence) {
                        self.candidates.push((block, Candidate { version: version.sequence, checksum, lsn }));
                    }
                }
            }
            Record::Unreadable { first, version, checksums, .. } => {
                let count = u16::try_from(checksums.len()).unwrap_or(BLOCKS);
                for (block, checksum) in blocks(*first, count).zip(checksums.iter()) {
                    if self.base.is_older_than(block, version.sequence) {
                        self.base.set(block, BlockInfo { content: Content::Unreadable, checksum, version: version.sequence });
                        self.candidates.retain(|(of, _)| *of != block);
                    }
                }
            }
            Record::Zero { range, version, .. } => {
                let mut zeroed = BlockSet::default();
                for block in blocks(range.first, range.count) {
                    if self.base.is_older_than(block, version.sequence) {
                        zeroed.insert(block);
                        let info = BlockInfo { content: Content::Zero, checksum: Checksum::new(0), version: version.sequence };
                        self.base.set(block, info);
                    }
                }
                self.candidates.retain(|(of, _)| !zeroed.contains(*of) || bugs::is(Bug::ZeroNotReplayed));
            }
            Record::Allocated { .. } | Record::Activated { .. } | Record::Sealed { .. } | Record::Freed { .. } | Record::Ceiling { .. } => {
            }
        }
    }

    /// Whether the page or a record names these bytes of a block.
    fn names(&self, block: u8, found: Checksum) -> bool {
        let before = self.base.get(block);
        let named = self.candidates.iter().filter(|(of, _)| *of == block).map(|(_, candidate)| candidate.checksum);
        (before.content.holds_data() && before.checksum == found) || named.into_iter().any(|checksum| checksum == found)
    }

    /// Whether the medium has a say in what a block is: not yet, if it held data and is settled later.
    fn needs_medium(&self, block: u8, later: bool) -> bool {
        if self.base.content(block).holds_data() {
            return !later;
        }
        self.candidates.iter().any(|(of, _)| *of == block)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// The next extent is to be begun.
    #[default]
    Next,
    /// Its page is to be read.
    Load,
    Loading,
    /// Page and log are together.
    Loaded,
    /// Data is being read; the next chunk starts at this block.
    Reading(u16),
    /// The page can be written.
    Settled,
    Writing,
}

/// Work on the extents.
#[derive(Clone, Debug, Default)]
pub(super) struct Extent {
    step: Step,
    /// Number in the list of touched extents.
    number: usize,
    history: History,
    medium: Vec<Option<Checksum>>,
    scratch: Vec<Candidate>,
    name: Option<PageName>,
}

impl Store {
    /// The slot being worked on and whether it is unsettled.
    fn current(&mut self) -> Option<(u32, bool)> {
        let recovery = self.recovery()?;
        let touched = recovery.replay.touched.get(recovery.extent.number)?;
        Some((touched.slot, touched.unsettled))
    }

    fn set_step(&mut self, step: Step) {
        if let Some(recovery) = self.recovery() {
            recovery.extent.step = step;
        }
    }

    pub(super) fn pump_extent<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let Some((slot, unsettled)) = self.current() else {
            if self.recovery().is_some_and(|recovery| recovery.stage == Stage::Extents) {
                self.begin_last_checkpoint();
                return true;
            }
            return false;
        };
        let Some(step) = self.recovery().map(|recovery| recovery.extent.step) else { return false };
        match step {
            Step::Next => {
                let damaged = self.slots.get(slot).damaged;
                let has_page = self.slots.get(slot).page.is_some();
                let Some(recovery) = self.recovery() else { return false };
                recovery.extent.history = History::default();
                recovery.extent.medium.clear();
                recovery.extent.medium.resize(usize::from(BLOCKS), None);
                if damaged {
                    self.finish_extent();
                } else {
                    self.set_step(if has_page { Step::Load } else { Step::Loaded });
                }
                true
            }
            Step::Load => {
                let offset = self.geometry().descriptor_pair(slot);
                if self.recover_read(cx, Part::Page { again: false }, offset, 2 * BLOCK_BYTES) {
                    self.set_step(Step::Loading);
                    return true;
                }
                false
            }
            Step::Loading | Step::Writing => false,
            Step::Loaded => {
                self.apply_log(slot);
                self.set_step(if unsettled { Step::Reading(0) } else { Step::Settled });
                true
            }
            Step::Reading(next) => self.read_extent(cx, slot, next),
            Step::Settled => self.write_page(cx, slot, unsettled),
        }
    }

    fn finish_extent(&mut self) {
        if let Some(recovery) = self.recovery() {
            recovery.extent.number += 1;
            recovery.extent.step = Step::Next;
        }
    }

    pub(super) fn extent_page_read<B: Buffers>(
        &mut self,
        cx: &mut Context<'_, B>,
        again: bool,
        span: Option<Span>,
        result: Result<(), i32>,
    ) {
        let (Some((slot, _)), Some(span)) = (self.current(), span) else { return };
        let superblock = self.superblock;
        let entry = *self.slots.get(slot);
        let Some(name) = entry.page else { return };
        let location = superblock.geometry.descriptor(slot, name.home);
        let half = named_home(span, name.home);
        let good = result.is_ok()
            && self.recovery().is_some_and(|recovery| {
                let base = &mut recovery.extent.history.base;
                decode_page(base, cx.buffers.bytes(half), superblock.device, location, slot, entry.key, &name)
            });
        if good {
            return self.set_step(Step::Loaded);
        }
        if !again {
            // The home that counts alone: the other may be a sector that cannot be read.
            if !self.recover_read(cx, Part::Page { again: true }, location, BLOCK_BYTES) {
                self.set_step(Step::Load);
            }
            return;
        }
        // The records go with the checkpoint, so the extent stays damaged whatever a later read finds.
        self.slots.get_mut(slot).damaged = true;
        self.statistics.faults.metadata_mismatches += 1;
        cx.out.push(Effect::Event(Event::DescriptorMismatch { key: entry.key }));
        self.finish_extent();
    }

    fn apply_log(&mut self, slot: u32) {
        let contained = self.slots.get(slot).page.map_or(0, |page| page.lsn);
        let Some(recovery) = self.recovery() else { return };
        let Some(touched) = recovery.replay.touched.get(recovery.extent.number).copied() else { return };
        for (_, place) in &recovery.replay.records[touched.start..touched.end] {
            if let Some((lsn, record)) = record_at(&recovery.scan, *place)
                && lsn > contained
            {
                recovery.extent.history.add(lsn, &record);
            }
        }
    }

    fn read_extent<B: Buffers>(&mut self, cx: &mut Context<'_, B>, slot: u32, next: u16) -> bool {
        let Some(recovery) = self.recovery() else { return false };
        let history = &recovery.extent.history;
        let chunk = (next..BLOCKS)
            .step_by(usize::from(BLOCKS_PER_CHUNK))
            .filter_map(|first| u8::try_from(first).ok())
            .find(|first| blocks(BlockIndex::new(*first), BLOCKS_PER_CHUNK).any(|block| history.needs_medium(block, recovery.later)));
        match chunk {
            Some(first) => {
                let offset = self.geometry().data(slot, BlockIndex::new(first));
                let sent = self.recover_read(cx, Part::Data { first, again: false }, offset, CHUNK_BYTES);
                if sent {
                    self.set_step(Step::Reading(u16::from(first) + BLOCKS_PER_CHUNK));
                }
                sent
            }
            None if recovery.in_flight > 0 => false,
            None => {
                recovery.extent.step = Step::Settled;
                true
            }
        }
    }

    pub(super) fn extent_data_read<B: Buffers>(
        &mut self,
        cx: &mut Context<'_, B>,
        first: u8,
        again: bool,
        span: Option<Span>,
        result: Result<(), i32>,
    ) {
        let (Some((slot, _)), Some(span)) = (self.current(), span) else { return };
        let geometry = self.superblock.geometry;
        let Some(recovery) = self.recovery() else { return };
        if result.is_ok() {
            #[expect(clippy::cast_possible_truncation, reason = "at most a chunk")]
            let count = (span.len / BLOCK_BYTES) as u16;
            for (place, block) in (0_u32..).zip(blocks(BlockIndex::new(first), count)) {
                let bytes = cx.buffers.bytes(span.part(place * BLOCK_BYTES, BLOCK_BYTES));
                recovery.extent.medium[usize::from(block)] = Some(Checksum::of(bytes));
            }
        }
        // A chunk that cannot be read is read block by block: one bad block says nothing about its neighbours. So is one with bytes that nothing
        // names: they may be right the second time, and what is kept now counts from here on.
        let Extent { history, medium, .. } = &recovery.extent;
        let end = u16::from(first) + BLOCKS_PER_CHUNK;
        let mut needed = (u16::from(first)..end)
            .filter_map(|block| u8::try_from(block).ok())
            .filter(|block| history.needs_medium(*block, recovery.later));
        if result.is_ok() && !again && needed.all(|block| medium[usize::from(block)].is_some_and(|found| history.names(block, found))) {
            return;
        }
        let chunk = u16::from(first) / BLOCKS_PER_CHUNK * BLOCKS_PER_CHUNK;
        let next = u16::from(first) + u16::from(again);
        let needed = (next..chunk + BLOCKS_PER_CHUNK)
            .filter_map(|block| u8::try_from(block).ok())
            .find(|block| recovery.extent.history.needs_medium(*block, recovery.later));
        if let Some(block) = needed {
            recovery.in_flight += 1;
            let start = u32::from(u16::from(block) - chunk) * BLOCK_BYTES;
            let part = Span { buffer: span.buffer, start, len: BLOCK_BYTES };
            let offset = geometry.data(slot, BlockIndex::new(block));
            self.send_read(cx, Purpose::Recover(Part::Data { first: block, again: true }), offset, part);
        }
    }

    fn write_page<B: Buffers>(&mut self, cx: &mut Context<'_, B>, slot: u32, unsettled: bool) -> bool {
        let Some(buffer) = cx.buffers.allocate(BufferClass::Internal, BLOCK_BYTES) else { return false };
        let superblock = self.superblock;
        let entry = *self.slots.get(slot);
        let Phase::Recovering(recovery) = &mut self.phase else { return false };
        let later = recovery.later;
        let Extent { history, medium, scratch, .. } = &mut recovery.extent;
        let evidence = Evidence { power_lost: recovery.power_lost, flushed: recovery.scan.flushed, resolved: recovery.scan.resolved };
        let History { base, candidates } = history;
        if unsettled && !bugs::is(Bug::UnsettledTakenAsSealed) {
            candidates.sort_by_key(|(block, _)| *block);
            let mut rest = candidates.as_slice();
            for block in blocks(BlockIndex::new(0), BLOCKS) {
                let count = rest.iter().take_while(|(of, _)| *of == block).count();
                scratch.clear();
                scratch.extend(rest[..count].iter().map(|(_, candidate)| *candidate));
                rest = &rest[count..];
                let before = base.get(block);
                if !before.content.holds_data() && scratch.is_empty() {
                    continue;
                }
                if later {
                    base.set(block, settle_later(before, scratch, medium[usize::from(block)], &evidence));
                    continue;
                }
                let decision = settle_alone(before, scratch, medium[usize::from(block)], &evidence);
                base.set(block, decision.info);
                match decision.doubt {
                    None => {}
                    Some(Doubt::Kept) => {
                        self.statistics.faults.unsettled_kept += 1;
                        cx.out.push(Effect::Event(Event::UnsettledKept { key: entry.key, block }));
                    }
                    Some(Doubt::Dismissed) => cx.out.push(Effect::Event(Event::UnsettledDismissed { key: entry.key, block })),
                }
            }
        } else {
            // Sealed: everything recorded is there.
            for (block, candidate) in candidates.iter() {
                let info = BlockInfo { content: Content::Data, checksum: candidate.checksum, version: candidate.version };
                base.set(*block, info);
            }
        }
        let home = entry.page.map_or(Home::A, |page| page.home.other());
        let location = superblock.geometry.descriptor(slot, home);
        let span = Span::whole(buffer, BLOCK_BYTES);
        let lsn = recovery.scan.last;
        let header = PageHeader { slot, key: entry.key, lsn };
        let checksum = base.encode(&header, cx.buffers.bytes_mut(span), superblock.device, location);
        recovery.extent.name = Some(PageName { home, lsn, checksum });
        recovery.extent.step = Step::Writing;
        recovery.in_flight += 1;
        self.statistics.metadata_writes += 1;
        self.send_write(cx, Purpose::Recover(Part::PageWrite), location, span, false);
        Self::give_back(cx, buffer);
        true
    }

    pub(super) fn extent_written(&mut self) {
        let Some((slot, _)) = self.current() else { return };
        let name = self.recovery().and_then(|recovery| recovery.extent.name.take());
        self.slots.get_mut(slot).page = name;
        self.finish_extent();
    }
}

fn record_at(scan: &Scan, place: Place) -> Option<(u64, Record<'_>)> {
    let block = scan.blocks.get(place.block as usize)?;
    let (record, _) = record::decode(block.packed.get(usize::from(place.byte)..)?).ok()?;
    Some((block.sequence, record))
}
