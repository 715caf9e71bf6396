//! The checkpoint: what the log says is moved to descriptor pages and the index, and the log is reclaimed.
//!
//! Order, each step after the one before has completed: image the descriptors that lack a record at or
//! below the target → flush (no page on the device may name data that is not durable) → write the
//! images to the homes the current index does not name → … next images … → write the whole index to
//! its other home → flush → write the four superblocks → flush → the log up to the target is free.
//!
//! Invariants: nothing the current superblock leads to is overwritten; a page is written at most once
//! per checkpoint; an extent that is active has its `unsettled` flag in the index, which stands for
//! its `activated` record when that is reclaimed; nothing here adds to the log, so reclaim never
//! waits for itself. What this must not know: requests.

use super::flush::Waiter;
use super::interface::OpenFault;
use super::options::{CHECKPOINT_WRITES, CHUNK_BYTES, IMAGE_BUFFERS, IMAGES_PER_BUFFER, IMAGES_PER_STEP, INDEX_WRITES};
use super::pages::{Activity, Residence};
use super::slots::{NO_FRAME, SlotState, Standing};
use super::{Context, Phase, Purpose, Store};
use crate::buffer::{BufferClass, BufferId, Buffers, Span};
use crate::bugs::{self, Bug};
use crate::format::descriptor::PageHeader;
use crate::format::geometry::{Home, SUPERBLOCK_COPIES};
use crate::format::index_page::{self, ENTRIES_PER_PAGE, PageName};
use crate::format::superblock::Superblock;
use crate::unit::BLOCK_BYTES;

/// Pages in one index write.
pub(super) const CHUNK_PAGES: u32 = CHUNK_BYTES / BLOCK_BYTES;

/// Which write of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The image with this number in the batch.
    Image(usize),
    /// A chunk of the index.
    Index,
    /// A superblock copy.
    Superblock,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Imaging,
    FlushingImages,
    WritingImages,
    WritingIndex,
    FlushingIndex,
    WritingSuperblocks,
    FlushingSuperblocks,
}

#[derive(Clone, Copy, Debug)]
struct Image {
    slot: u32,
    tenancy: u64,
    frame: u32,
    name: PageName,
}

/// The checkpoint under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    stage: Stage,
    /// Asked for regardless of need: by recovery and by closing.
    forced: bool,
    /// Checkpoints completed in this life.
    pub(super) done: u64,
    superblock: Option<Superblock>,
    cursor: u32,
    images: Vec<Image>,
    buffers: Vec<BufferId>,
    issued: usize,
    in_flight: usize,
    flushed: bool,
    index_page: u32,
}

impl Checkpoint {
    pub(super) fn flushed(&mut self) {
        self.flushed = true;
    }

    pub(super) fn force(&mut self) {
        self.forced = true;
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.stage == Stage::Idle && !self.forced
    }

    /// Gives back the buffers it holds: the store is at its end.
    pub(super) fn release<B: Buffers>(&mut self, buffers: &mut B) {
        for buffer in self.buffers.drain(..) {
            buffers.release(buffer);
        }
    }
}

impl Store {
    pub(super) fn pump_checkpoint<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        match self.checkpoint.stage {
            Stage::Idle => self.begin_checkpoint(),
            Stage::Imaging => self.take_images(cx),
            Stage::FlushingImages => self.after_flush(Stage::WritingImages),
            Stage::WritingImages => self.write_images(cx),
            Stage::WritingIndex => self.write_index(cx),
            Stage::FlushingIndex => self.after_flush(Stage::WritingSuperblocks),
            Stage::WritingSuperblocks => self.write_superblocks(cx),
            Stage::FlushingSuperblocks => self.commit(cx),
        }
    }

    fn begin_checkpoint(&mut self) -> bool {
        let target = self.log.resolved();
        let gain = target.saturating_sub(self.superblock.checkpoint_lsn);
        let log_full = self.log.used() * 8 > self.log.ring() * 5 && gain * 2 >= self.log.used();
        let dirty = self.pages.dirty_count() as usize;
        // A cache with a frame for every extent never runs short: dirty pages then wait for the log.
        let may_run_short = self.pages.capacity() < self.slots.count() as usize;
        let cache_full = may_run_short && dirty * 2 > self.pages.capacity() && gain > 0;
        let wanted = self.short_of_frames && dirty > 0 && gain > 0;
        if !(self.checkpoint.forced || log_full || cache_full || wanted) {
            return false;
        }
        self.checkpoint.forced = false;
        self.checkpoint.superblock = Some(Superblock {
            sequence: self.superblock.sequence + 1,
            checkpoint: self.superblock.checkpoint + 1,
            checkpoint_lsn: target,
            index_home: if bugs::is(Bug::IndexHomeKept) { self.superblock.index_home } else { self.superblock.index_home.other() },
            ..self.superblock
        });
        self.take_plans();
        self.checkpoint.cursor = 0;
        self.checkpoint.index_page = 0;
        self.checkpoint.stage = Stage::Imaging;
        true
    }

    fn target(&self) -> u64 {
        self.checkpoint.superblock.map_or(0, |superblock| superblock.checkpoint_lsn)
    }

    /// Images a bounded number of pages into the write buffer.
    fn take_images<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let (target, lsn, device) = (self.target(), self.log.resolved(), self.superblock.device);
        let mut taken = 0;
        let mut full = false;
        while self.checkpoint.cursor < self.pages.len() && taken < IMAGES_PER_STEP {
            let frame = self.checkpoint.cursor;
            let entry = self.pages.get(frame);
            if entry.residence != Residence::Resident || entry.dirty_since.is_none_or(|since| since > target) {
                self.checkpoint.cursor += 1;
                continue;
            }
            let place = self.checkpoint.images.len() % IMAGES_PER_BUFFER;
            if place == 0 {
                let room = self.checkpoint.buffers.len() < IMAGE_BUFFERS;
                match room.then(|| cx.buffers.allocate(BufferClass::Internal, CHUNK_BYTES)).flatten() {
                    Some(buffer) => self.checkpoint.buffers.push(buffer),
                    None => {
                        full = true;
                        break;
                    }
                }
            }
            let slot = entry.slot;
            let owner = *self.slots.get(slot);
            let home = owner.page.map_or(Home::A, |page| if bugs::is(Bug::DescriptorHomeKept) { page.home } else { page.home.other() });
            let location = self.superblock.geometry.descriptor(slot, home);
            let Some(span) = self.image_span(self.checkpoint.images.len()) else { break };
            let header = PageHeader { slot, key: owner.key, lsn };
            let checksum = self.pages.get(frame).descriptor.encode(&header, cx.buffers.bytes_mut(span), device, location);
            let name = PageName { home, lsn, checksum };
            self.checkpoint.images.push(Image { slot, tenancy: owner.tenancy, frame, name });
            self.pages.get_mut(frame).checkpointing = true;
            self.pages.clean(frame);
            self.pages.relist(frame);
            self.checkpoint.cursor += 1;
            taken += 1;
        }
        let finished = self.checkpoint.cursor >= self.pages.len();
        if finished && self.checkpoint.images.is_empty() {
            self.checkpoint.stage = Stage::WritingIndex;
            return true;
        }
        // Without a buffer but with images: write what there is; without either: wait for a buffer.
        if finished || (full && !self.checkpoint.images.is_empty()) {
            self.want_checkpoint_flush(Stage::FlushingImages);
            return true;
        }
        taken > 0
    }

    fn image_span(&self, image: usize) -> Option<Span> {
        let buffer = *self.checkpoint.buffers.get(image / IMAGES_PER_BUFFER)?;
        let start = u32::try_from(image % IMAGES_PER_BUFFER).ok()? * BLOCK_BYTES;
        Some(Span { buffer, start, len: BLOCK_BYTES })
    }

    fn want_checkpoint_flush(&mut self, stage: Stage) {
        self.checkpoint.flushed = stage == Stage::FlushingIndex && bugs::is(Bug::CheckpointBeforeItsIndex)
            || stage == Stage::FlushingSuperblocks && bugs::is(Bug::LogReclaimedBeforeCheckpoint);
        self.checkpoint.stage = stage;
        if !self.checkpoint.flushed {
            self.flusher.want(0, Waiter::Checkpoint);
        }
    }

    fn after_flush(&mut self, next: Stage) -> bool {
        if !self.checkpoint.flushed {
            return false;
        }
        self.checkpoint.issued = 0;
        self.checkpoint.stage = next;
        true
    }

    fn write_images<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let mut moved = false;
        while self.checkpoint.in_flight < CHECKPOINT_WRITES {
            let number = self.checkpoint.issued;
            let Some(image) = self.checkpoint.images.get(number).copied() else { break };
            let Some(span) = self.image_span(number) else { break };
            self.checkpoint.issued += 1;
            self.checkpoint.in_flight += 1;
            self.statistics.metadata_writes += 1;
            let offset = self.geometry().descriptor(image.slot, image.name.home);
            self.send_write(cx, Purpose::Checkpoint(Part::Image(number)), offset, span, false);
            moved = true;
        }
        if self.checkpoint.in_flight == 0 && self.checkpoint.issued == self.checkpoint.images.len() {
            self.checkpoint.images.clear();
            self.checkpoint.release(cx.buffers);
            self.checkpoint.stage = Stage::Imaging;
            moved = true;
        }
        moved
    }

    fn write_index<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let Some(superblock) = self.checkpoint.superblock else { return false };
        let pages = self.geometry().index_pages();
        let page = self.checkpoint.index_page;
        if page >= pages {
            if self.checkpoint.in_flight > 0 {
                return false;
            }
            self.want_checkpoint_flush(Stage::FlushingIndex);
            return true;
        }
        if self.checkpoint.in_flight >= INDEX_WRITES {
            return false;
        }
        let count = (pages - page).min(CHUNK_PAGES);
        let Some(buffer) = cx.buffers.allocate(BufferClass::Internal, count * BLOCK_BYTES) else { return false };
        let span = Span::whole(buffer, count * BLOCK_BYTES);
        for number in 0..count {
            let part = span.part(number * BLOCK_BYTES, BLOCK_BYTES);
            self.encode_index_page(cx.buffers.bytes_mut(part), &superblock, page + number);
        }
        self.checkpoint.index_page += count;
        self.checkpoint.in_flight += 1;
        self.statistics.metadata_writes += u64::from(count);
        let offset = self.geometry().index_page(superblock.index_home, page);
        self.send_write(cx, Purpose::Checkpoint(Part::Index), offset, span, false);
        Self::give_back(cx, buffer);
        true
    }

    fn encode_index_page(&self, block: &mut [u8], superblock: &Superblock, page: u32) {
        let entries = super::format::entries_in_page(self.geometry(), page);
        index_page::start(block, page, superblock.checkpoint, entries);
        for place in 0..entries {
            let slot = page * ENTRIES_PER_PAGE + place;
            let owner = self.slots.get(slot);
            let active = owner.frame != NO_FRAME && self.pages.get(owner.frame).activity != Activity::Idle;
            let unsettled = (active && !bugs::is(Bug::CheckpointForgetsActive)) || owner.standing == Standing::Unsettled;
            if let Some(entry) = self.slots.entry(slot, unsettled) {
                index_page::put_entry(block, place, &entry);
            }
        }
        index_page::finish(block, superblock.device, self.geometry().index_page(superblock.index_home, page));
    }

    fn write_superblocks<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        if self.checkpoint.issued == 0 {
            let Some(buffer) = cx.buffers.allocate(BufferClass::Internal, SUPERBLOCK_COPIES * BLOCK_BYTES) else { return false };
            // The ceiling may have risen since the checkpoint began.
            let ceiling = self.superblock.sequence_ceiling;
            let Some(superblock) = &mut self.checkpoint.superblock else { return false };
            superblock.sequence_ceiling = ceiling;
            let superblock = *superblock;
            for copy in 0..SUPERBLOCK_COPIES {
                let span = Span { buffer, start: copy * BLOCK_BYTES, len: BLOCK_BYTES };
                let offset = self.geometry().superblock(copy);
                superblock.encode(offset, cx.buffers.bytes_mut(span));
                self.checkpoint.issued += 1;
                self.checkpoint.in_flight += 1;
                self.statistics.metadata_writes += 1;
                self.send_write(cx, Purpose::Checkpoint(Part::Superblock), offset, span, false);
            }
            Self::give_back(cx, buffer);
            return true;
        }
        if self.checkpoint.in_flight > 0 {
            return false;
        }
        self.want_checkpoint_flush(Stage::FlushingSuperblocks);
        true
    }

    fn commit<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        if !self.checkpoint.flushed {
            return false;
        }
        let ceiling = self.superblock.sequence_ceiling;
        if let Some(superblock) = self.checkpoint.superblock.take() {
            self.superblock = Superblock { sequence_ceiling: ceiling, ..superblock };
            self.log.trim(superblock.checkpoint_lsn);
        }
        self.checkpoint.stage = Stage::Idle;
        self.checkpoint.done += 1;
        self.plans_durable(cx);
        self.retry = true;
        true
    }

    pub(super) fn checkpoint_written<B: Buffers>(&mut self, cx: &mut Context<'_, B>, part: Part, result: Result<(), i32>) {
        self.checkpoint.in_flight = self.checkpoint.in_flight.saturating_sub(1);
        if let Err(errno) = result {
            if matches!(self.phase, Phase::Recovering(_)) {
                let offset = self.geometry().superblock(0);
                return self.refuse_open(cx, OpenFault::Device { errno, offset });
            }
            return self.fail(cx, errno);
        }
        match part {
            Part::Image(number) => {
                let Some(image) = self.checkpoint.images.get(number).copied() else { return };
                let owner = self.slots.get_mut(image.slot);
                // The extent may have been freed meanwhile, and its frame given to another.
                if owner.state == SlotState::Allocated && owner.tenancy == image.tenancy && owner.frame == image.frame {
                    owner.page = Some(image.name);
                    self.pages.get_mut(image.frame).checkpointing = false;
                    self.pages.relist(image.frame);
                    self.retry |= !self.stalled.is_empty();
                }
            }
            Part::Index | Part::Superblock => {}
        }
    }
}

const _: () = assert!(IMAGES_PER_BUFFER as u64 * BLOCK_BYTES as u64 == CHUNK_BYTES as u64);
