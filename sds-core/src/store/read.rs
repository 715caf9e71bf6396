//! Reads: data in parallel with the descriptor, every block verified; one re-read, then an error. Before a
//! device's error is passed on, the blocks that hold data are read one by one: a sector that nobody wrote
//! to and that cannot be read spoils nothing.
//!
//! Invariants: bytes that do not match are never delivered; what is not data is filled with zeroes,
//! whatever the medium holds there (a former owner's bytes, for one).
//! What this must not know: writes; the log.

use super::interface::{BlockRange, BlockSet, Event, ExtentKey, Outcome, Request, StoreError};
use super::pages::Residence;
use super::work::{Access, Attempt, Stage};
use super::write::blocks;
use super::{Context, Effect, OpId, Purpose, Store};
use crate::buffer::{Buffers, Span};
use crate::bugs::{self, Bug};
use crate::checksum::{Checksum, ChecksumList};
use crate::format::descriptor::{Content, Descriptor};
use crate::format::geometry::Home;
use crate::unit::{BLOCK_BYTES, BlockIndex};

/// Linux `EIO`.
const EIO: i32 = 5;

impl Store {
    pub(super) fn advance_read<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        let Some(work) = self.works.get(id).copied() else { return };
        let (Request::Read { key, range, span } | Request::Medium { key, range, span }) = work.request else { return };
        let raw = matches!(work.request, Request::Medium { .. });
        let data = match work.stage {
            Stage::Waiting => None,
            Stage::Reading { data: None, .. } => return,
            Stage::Reading { data: Some(result), attempt } => Some((result, attempt)),
            Stage::Writing { .. }
            | Stage::Spoiling { .. }
            | Stage::Flushing
            | Stage::Recording
            | Stage::Freeing { .. }
            | Stage::Freed { .. } => return,
            Stage::Judging { .. } | Stage::Settling { .. } => return,
        };
        match self.access(cx, id, key) {
            Access::Unallocated => self.deliver_zero(cx, id, range, span),
            Access::NoFrame => self.stall(id),
            Access::Fail(error) => self.reply(cx, id, Err(error)),
            Access::Loading if data.is_none() => self.read_data(cx, id, range, span, Attempt::First),
            Access::Loading => self.stall(id),
            Access::Resident(frame) => {
                let descriptor = &self.pages.get(frame).descriptor;
                let contents = || blocks(range.first, range.count).map(|block| descriptor.content(block));
                if !raw && contents().any(|content| content == Content::Unreadable) {
                    return self.reply(cx, id, Err(StoreError::Device { errno: EIO }));
                }
                if contents().all(|content| !content.holds_data()) {
                    return self.deliver_zero(cx, id, range, span);
                }
                let data_from =
                    |place: u16| (place..range.count).zip(contents().skip(usize::from(place))).find(|(_, content)| content.holds_data());
                match data {
                    None => self.read_data(cx, id, range, span, Attempt::First),
                    Some((Err(_), Attempt::First)) => self.read_data(cx, id, range, span, Attempt::Again),
                    Some((Err(errno), Attempt::Again)) => match data_from(0) {
                        Some((place, _)) if !contents().all(Content::holds_data) => {
                            self.read_data(cx, id, range, span, Attempt::Singly { place });
                        }
                        Some(_) | None => self.reply(cx, id, Err(StoreError::Device { errno })),
                    },
                    Some((Err(errno), Attempt::Singly { .. })) => self.reply(cx, id, Err(StoreError::Device { errno })),
                    Some((Ok(()), attempt @ Attempt::Singly { place })) => match data_from(place + 1) {
                        Some((place, _)) => self.read_data(cx, id, range, span, Attempt::Singly { place }),
                        None => self.deliver(cx, id, frame, range, span, attempt),
                    },
                    Some((Ok(()), attempt)) => self.deliver(cx, id, frame, range, span, attempt),
                }
            }
        }
    }

    fn read_data<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, range: BlockRange, span: Span, attempt: Attempt) {
        let Some(work) = self.works.get_mut(id) else { return };
        let Some(frame) = work.frame else { return };
        work.stage = Stage::Reading { data: None, attempt };
        let slot = self.pages.get(frame).slot;
        let (place, count) = match attempt {
            Attempt::First | Attempt::Again => (0, range.count),
            Attempt::Singly { place } => (place, 1),
        };
        let first = u16::from(range.first.get()) + place;
        let Ok(first) = u8::try_from(first) else { unreachable!("a range ends inside its extent") };
        let offset = self.geometry().data(slot, BlockIndex::new(first));
        let part = span.part(u32::from(place) * BLOCK_BYTES, u32::from(count) * BLOCK_BYTES);
        self.send_read(cx, Purpose::Read(id), offset, part);
    }

    pub(super) fn data_read<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, result: Result<(), i32>) {
        let Some(work) = self.works.get_mut(id) else { return };
        let Stage::Reading { data, .. } = &mut work.stage else { return };
        *data = Some(result);
        self.advance(cx, id);
    }

    fn deliver_zero<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, range: BlockRange, span: Span) {
        let mut checksums = ChecksumList::EMPTY;
        let zero = Checksum::ZERO_BLOCK;
        for _ in 0..range.count {
            checksums.push(zero);
        }
        cx.buffers.bytes_mut(span.part(0, u32::from(range.count) * BLOCK_BYTES)).fill(0);
        self.reply(cx, id, Ok(Outcome::Read { checksums, all_zero: true }));
    }

    fn deliver<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, frame: u32, range: BlockRange, span: Span, attempt: Attempt) {
        let Some(work) = self.works.get(id) else { return };
        let (Request::Read { key, .. } | Request::Medium { key, .. }) = work.request else { return };
        let raw = matches!(work.request, Request::Medium { .. });
        let mut checksums = ChecksumList::EMPTY;
        for (place, block) in (0_u32..).zip(blocks(range.first, range.count)) {
            let info = self.pages.get(frame).descriptor.get(block);
            let part = span.part(place * BLOCK_BYTES, BLOCK_BYTES);
            match info.content {
                Content::Data | Content::Unreadable if raw => {
                    let found = Checksum::of(cx.buffers.bytes(part));
                    if found != info.checksum && attempt == Attempt::First {
                        return self.read_data(cx, id, range, span, Attempt::Again);
                    }
                    checksums.push(found);
                }
                Content::Unwritten | Content::Zero if bugs::is(Bug::NoDataNotZeroed) => {
                    checksums.push(Checksum::of(cx.buffers.bytes(part)));
                }
                Content::Unwritten | Content::Zero | Content::Unreadable => {
                    cx.buffers.bytes_mut(part).fill(0);
                    checksums.push(Checksum::ZERO_BLOCK);
                }
                Content::Data => {
                    let found = Checksum::of(cx.buffers.bytes(part));
                    self.statistics.blocks_verified += 1;
                    if found != info.checksum && !bugs::is(Bug::ChecksumNotVerified) {
                        if attempt == Attempt::First {
                            return self.read_data(cx, id, range, span, Attempt::Again);
                        }
                        self.statistics.faults.data_mismatches += 1;
                        cx.out.push(Effect::Event(Event::DataMismatch { key, block }));
                        return self.reply(cx, id, Err(StoreError::Mismatch { block, expected: info.checksum, found }));
                    }
                    checksums.push(found);
                }
            }
        }
        self.reply(cx, id, Ok(Outcome::Read { checksums, all_zero: false }));
    }

    pub(super) fn advance_status<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, key: ExtentKey, range: BlockRange) {
        let mut data = BlockSet::default();
        match self.access(cx, id, key) {
            Access::Unallocated => {}
            Access::Loading | Access::NoFrame => return self.stall(id),
            Access::Fail(error) => return self.reply(cx, id, Err(error)),
            Access::Resident(frame) => {
                let descriptor = &self.pages.get(frame).descriptor;
                for block in blocks(range.first, range.count).filter(|block| descriptor.content(*block).holds_data()) {
                    data.insert(block);
                }
            }
        }
        self.reply(cx, id, Ok(Outcome::Status { data }));
    }

    /// A descriptor page has been read (both homes at once; the named one alone when that failed).
    pub(super) fn page_read<B: Buffers>(
        &mut self,
        cx: &mut Context<'_, B>,
        frame: u32,
        again: bool,
        span: Option<Span>,
        result: Result<(), i32>,
    ) {
        let Some(span) = span else { return };
        let slot = self.pages.get(frame).slot;
        let good = result.is_ok() && {
            let device = self.superblock.device;
            let entry = self.slots.get(slot);
            entry.page.is_some_and(|name| {
                let home = named_home(span, name.home);
                let location = self.superblock.geometry.descriptor(slot, name.home);
                let page = self.pages.get_mut(frame);
                decode_page(&mut page.descriptor, cx.buffers.bytes(home), device, location, slot, entry.key, &name)
            })
        };
        self.retry = true;
        if good {
            let entry = self.pages.get_mut(frame);
            entry.data_blocks = entry.descriptor.data_blocks();
            entry.residence = Residence::Resident;
            self.pages.relist(frame);
            return;
        }
        if !again && let Some(name) = self.slots.get(slot).page {
            // The home that counts alone: the other may be a sector that cannot be read.
            let offset = self.geometry().descriptor(slot, name.home);
            return self.send_read(cx, Purpose::Page { frame, again: true }, offset, span.part(0, BLOCK_BYTES));
        }
        let residence = match result {
            Err(errno) => Residence::Unreadable { errno },
            Ok(()) => {
                let entry = self.slots.get_mut(slot);
                entry.damaged = true;
                let key = entry.key;
                self.statistics.faults.metadata_mismatches += 1;
                cx.out.push(Effect::Event(Event::DescriptorMismatch { key }));
                Residence::Damaged
            }
        };
        let entry = self.pages.get_mut(frame);
        entry.residence = residence;
        // Nobody waits: the requests that wanted it are gone. Pin once so that the common way drops it.
        self.pages.pin(frame);
        self.unpin(frame);
    }
}

/// Where the page that the index names is in what was read: both homes, or that one.
pub(super) fn named_home(read: Span, home: Home) -> Span {
    read.part(if read.len > BLOCK_BYTES && home != Home::A { BLOCK_BYTES } else { 0 }, BLOCK_BYTES)
}

/// Whether bytes are exactly the page the index names; if so `descriptor` holds it.
pub(super) fn decode_page(
    descriptor: &mut Descriptor,
    bytes: &[u8],
    device: crate::id::DeviceUuid,
    location: crate::unit::ByteOffset,
    slot: u32,
    key: ExtentKey,
    name: &crate::format::index_page::PageName,
) -> bool {
    descriptor
        .decode(bytes, device, location)
        .is_ok_and(|(header, checksum)| header.slot == slot && header.key == key && header.lsn == name.lsn && checksum == name.checksum)
}
