//! Opening a device: superblocks → index → the whole log ring → owners → (settling) → descriptors →
//! checkpoint → open.
//!
//! Invariants: nothing that the current superblock leads to is overwritten before the checkpoint
//! that ends recovery has committed, so recovery may be cut short anywhere and starts over; memory and
//! work are bounded by the log and the unsettled extents, not by the data. The superblock's boot id
//! changes only with that checkpoint: a second crash before it must still count as the first one's.
//! What this must not know: requests other than `SettleAlone` and `SettleLater`.

mod extent;
mod replay;
mod scan;

use super::interface::{Event, OpenFault, Opened, Outcome, Request, StoreError};
use super::log::Log;
use super::options::{CHUNK_BYTES, RECOVERY_READS};
use super::pages::Pages;
use super::slots::Standing;
use super::{Context, Effect, OpId, Phase, Purpose, Slots, Store, flush};
use crate::buffer::{BufferClass, Buffers, Span};
use crate::format::geometry::{Geometry, Home, SUPERBLOCK_COPIES};
use crate::format::index_page::{self, ENTRIES_PER_PAGE};
use crate::format::superblock::{Choice, Superblock, choose};
use crate::format::{BlockFault, block};
use crate::id::{BootId, DeviceUuid, ShardSequence, SystemId};
use crate::unit::{BLOCK_BYTES, ByteCount, ByteOffset};

/// Which operation of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Superblock(u32),
    Repair,
    Index { page: u32 },
    Scan { position: u32 },
    Flush,
    Page { again: bool },
    Data { first: u8, again: bool },
    PageWrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Superblocks,
    Repair,
    Index,
    Scan,
    Flush,
    WaitForSettling,
    Extents,
    Checkpoint,
}

/// Recovery under way.
#[derive(Clone, Debug)]
pub(super) struct Recovery {
    stage: Stage,
    copies: [Result<Superblock, BlockFault>; SUPERBLOCK_COPIES as usize],
    /// Size the tail copies were looked for at.
    tail: ByteCount,
    errno: Option<i32>,
    in_flight: usize,
    /// Next page, position or copy to read.
    next: u32,
    /// What was wrong with the index or the ring first, and whether they have been read once more for that.
    fault: Option<OpenFault>,
    looked_again: bool,
    power_lost: bool,
    scan: scan::Scan,
    /// Slots whose `unsettled` flag is set in the index.
    flagged: Vec<u32>,
    replay: replay::Replay,
    extent: extent::Extent,
    announced: bool,
    settling: Option<OpId>,
    /// Unsettled extents are left so.
    later: bool,
}

impl Recovery {
    pub(super) fn waits_for_settling(&self) -> bool {
        self.stage == Stage::WaitForSettling
    }
}

/// What stands in until a superblock has been read; never written.
pub(super) fn placeholder() -> Superblock {
    Superblock {
        device: DeviceUuid::new(0),
        system: SystemId::new(0),
        sequence: 0,
        incarnation: 0,
        boot: BootId::new(0),
        compatible: 0,
        geometry: Geometry::SMALLEST,
        checkpoint: 0,
        checkpoint_lsn: 0,
        sequence_ceiling: ShardSequence::new(0),
        index_home: Home::A,
    }
}

impl Store {
    /// Recovery in progress; asked only in that phase.
    fn recovery(&mut self) -> Option<&mut Recovery> {
        match &mut self.phase {
            Phase::Recovering(recovery) => Some(recovery),
            Phase::New | Phase::Open | Phase::Closing(_) | Phase::Closed | Phase::Refused | Phase::Failed { .. } => None,
        }
    }

    pub(super) fn open<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        match self.phase {
            Phase::New => {}
            Phase::Recovering(_) | Phase::Open | Phase::Closing(_) | Phase::Closed | Phase::Refused | Phase::Failed { .. } => return,
        }
        cx.out.push(Effect::Event(Event::Opening { done_per_mille: 0 }));
        self.phase = Phase::Recovering(Box::new(Recovery {
            stage: Stage::Superblocks,
            copies: [Err(BlockFault::Magic); SUPERBLOCK_COPIES as usize],
            tail: self.options.device_bytes,
            errno: None,
            in_flight: 0,
            next: 0,
            fault: None,
            looked_again: false,
            power_lost: false,
            scan: scan::Scan::default(),
            flagged: Vec::new(),
            replay: replay::Replay::default(),
            extent: extent::Extent::default(),
            announced: false,
            settling: None,
            later: false,
        }));
    }

    pub(super) fn pump_recovery<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        // Bounded: each round sends something, moves a stage, or stops.
        for _ in 0..64 {
            let Some(stage) = self.recovery().map(|recovery| recovery.stage) else { return };
            let moved = match stage {
                Stage::Superblocks => self.read_superblocks(cx),
                Stage::Repair => self.repair_superblocks(cx),
                Stage::Index => self.read_index(cx),
                Stage::Scan => self.read_ring(cx),
                Stage::Flush | Stage::WaitForSettling => false,
                Stage::Extents => self.pump_extent(cx),
                Stage::Checkpoint => {
                    let mut moved = self.pump_checkpoint(cx);
                    moved |= self.pump_flush(cx);
                    if self.checkpoint.done > 0 {
                        return self.opened(cx);
                    }
                    moved
                }
            };
            if !moved {
                return;
            }
        }
        self.again = true;
    }

    fn read_superblocks<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let device_bytes = self.options.device_bytes;
        let Some(recovery) = self.recovery() else { return false };
        let (copy, tail) = (recovery.next, recovery.tail);
        if copy < SUPERBLOCK_COPIES {
            if tail.get() < u64::from(BLOCK_BYTES * SUPERBLOCK_COPIES) {
                self.refuse_open(cx, OpenFault::Blank);
                return false;
            }
            return self.recover_read(cx, Part::Superblock(copy), Geometry::superblock_of(tail, copy), BLOCK_BYTES);
        }
        if recovery.in_flight > 0 {
            return false;
        }
        // A device that has grown has its tail copies where its end was.
        let stated = recovery.copies.iter().flatten().map(|superblock| superblock.geometry.device_bytes()).find(|stated| *stated < tail);
        if let Some(stated) = stated
            && tail.get() - stated.get() >= u64::from(BLOCK_BYTES)
            && recovery.copies.iter().flatten().count() < SUPERBLOCK_COPIES as usize
            && recovery.tail == device_bytes
        {
            recovery.tail = stated;
            recovery.next = 2;
            return true;
        }
        self.superblocks_read(cx);
        true
    }

    fn superblocks_read<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        let Some(recovery) = self.recovery() else { return };
        let errno = recovery.errno;
        let device = |errno| OpenFault::Device { errno, offset: ByteOffset::new(0) };
        let fault = match choose(&recovery.copies) {
            Choice::Found(superblock) => return self.superblock_found(cx, superblock),
            Choice::Newer(features) => OpenFault::Newer { features },
            Choice::Blank => errno.map_or(OpenFault::Blank, device),
            Choice::Damaged => errno.map_or(OpenFault::Superblock, device),
        };
        self.refuse_open(cx, fault);
    }

    fn superblock_found<B: Buffers>(&mut self, cx: &mut Context<'_, B>, superblock: Superblock) {
        let expected = superblock.geometry.device_bytes();
        if expected > self.options.device_bytes {
            return self.refuse_open(cx, OpenFault::Truncated { found: self.options.device_bytes, expected });
        }
        if !self.options.system.is_nil() && superblock.system != self.options.system {
            let fault = OpenFault::OtherSystem { found: superblock.system, expected: self.options.system };
            return self.refuse_open(cx, fault);
        }
        self.superblock = superblock;
        self.slots = Slots::new(superblock.geometry.extents());
        let power_lost = self.options.volatile_cache && superblock.boot != self.options.boot;
        if let Some(recovery) = self.recovery() {
            recovery.power_lost = power_lost;
            recovery.next = 0;
            recovery.stage = Stage::Repair;
        }
        cx.out.push(Effect::Event(Event::Opening { done_per_mille: 50 }));
    }

    /// Brings every copy to the chosen superblock. With two copies of it beside two of an older one,
    /// a crash between the next four writes could leave the older one the majority, after what it
    /// leads to was overwritten. The flush before the first page is written makes this durable.
    fn repair_superblocks<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let superblock = self.superblock;
        let Some(recovery) = self.recovery() else { return false };
        let copy = recovery.next;
        if copy == SUPERBLOCK_COPIES {
            if recovery.in_flight > 0 {
                return false;
            }
            recovery.next = 0;
            recovery.stage = Stage::Index;
            return true;
        }
        if recovery.copies[copy as usize] == Ok(superblock) {
            recovery.next += 1;
            return true;
        }
        let Some(buffer) = cx.buffers.allocate(BufferClass::Internal, BLOCK_BYTES) else { return false };
        recovery.next += 1;
        recovery.in_flight += 1;
        let span = Span::whole(buffer, BLOCK_BYTES);
        let offset = superblock.geometry.superblock(copy);
        superblock.encode(offset, cx.buffers.bytes_mut(span));
        self.statistics.metadata_writes += 1;
        self.send_write(cx, Purpose::Recover(Part::Repair), offset, span, false);
        Self::give_back(cx, buffer);
        true
    }

    fn read_index<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let (pages, home) = (self.geometry().index_pages(), self.superblock.index_home);
        let Some(recovery) = self.recovery() else { return false };
        let page = recovery.next;
        if page < pages {
            let count = (pages - page).min(CHUNK_BYTES / BLOCK_BYTES);
            let offset = self.geometry().index_page(home, page);
            return self.recover_read(cx, Part::Index { page }, offset, count * BLOCK_BYTES);
        }
        if recovery.in_flight > 0 {
            return false;
        }
        if let Some(fault) = recovery.fault.take() {
            return self.look_again(cx, fault);
        }
        recovery.next = 0;
        recovery.stage = Stage::Scan;
        cx.out.push(Effect::Event(Event::Opening { done_per_mille: 200 }));
        true
    }

    fn index_read<B: Buffers>(&mut self, cx: &mut Context<'_, B>, first: u32, span: Span) {
        let superblock = self.superblock;
        for number in 0..span.len / BLOCK_BYTES {
            let page = first + number;
            let location = superblock.geometry.index_page(superblock.index_home, page);
            let entries = super::format::entries_in_page(&superblock.geometry, page);
            let bytes = cx.buffers.bytes(span.part(number * BLOCK_BYTES, BLOCK_BYTES));
            let slots = &mut self.slots;
            let mut flagged = Vec::new();
            let decoded = index_page::decode(bytes, superblock.device, location, page, superblock.checkpoint, entries, |place, entry| {
                if let Some(entry) = entry {
                    let slot = page * ENTRIES_PER_PAGE + place;
                    slots.load(slot, &entry);
                    if entry.unsettled {
                        flagged.push(slot);
                    }
                }
            });
            if decoded.is_err() {
                self.statistics.faults.metadata_mismatches += 1;
                if let Some(recovery) = self.recovery() {
                    recovery.fault.get_or_insert(OpenFault::Index { page, checkpoint: superblock.checkpoint });
                }
                return;
            }
            if let Some(recovery) = self.recovery() {
                recovery.flagged.append(&mut flagged);
            }
        }
    }

    fn read_ring<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let superblock = self.superblock;
        let ring = superblock.geometry.log_blocks();
        let Some(recovery) = self.recovery() else { return false };
        let position = recovery.next;
        if position < ring {
            let count = (ring - position).min(CHUNK_BYTES / BLOCK_BYTES);
            let offset = self.geometry().log_position(position);
            return self.recover_read(cx, Part::Scan { position }, offset, count * BLOCK_BYTES);
        }
        if recovery.in_flight > 0 {
            return false;
        }
        let judged = match recovery.fault.take() {
            Some(fault) => Err(fault),
            None => recovery.scan.finish(&superblock, recovery.power_lost),
        };
        match judged {
            Ok(()) => {
                self.ring_read(cx);
                true
            }
            Err(fault) => self.look_again(cx, fault),
        }
    }

    /// Index and ring are read once more before the device is given up: what was read wrong once may be right the second time.
    fn look_again<B: Buffers>(&mut self, cx: &mut Context<'_, B>, fault: OpenFault) -> bool {
        let Some(recovery) = self.recovery() else { return false };
        if core::mem::replace(&mut recovery.looked_again, true) {
            self.refuse_open(cx, fault);
            return false;
        }
        (recovery.stage, recovery.next) = (Stage::Index, 0);
        recovery.scan = scan::Scan::default();
        recovery.flagged.clear();
        true
    }

    /// The whole ring is known and whole: replay owners, then make everything on the medium durable.
    fn ring_read<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        let (superblock, volatile) = (self.superblock, self.options.volatile_cache);
        let Phase::Recovering(recovery) = &mut self.phase else { return };
        match replay::replay(&mut self.slots, &recovery.scan, &recovery.flagged, superblock.sequence_ceiling) {
            Err(fault) => self.refuse_open(cx, fault),
            Ok(replay) => {
                self.superblock.sequence_ceiling = replay.ceiling;
                recovery.replay = replay;
                recovery.stage = Stage::Flush;
                cx.out.push(Effect::Event(Event::Opening { done_per_mille: 500 }));
                if volatile {
                    recovery.in_flight += 1;
                    self.statistics.flushes += 1;
                    let op = self.send(cx, Purpose::Recover(Part::Flush), None);
                    cx.out.push(Effect::Flush { op });
                } else {
                    self.medium_durable(cx);
                }
            }
        }
    }

    /// What pages will name is durable from here on: they may be written.
    fn medium_durable<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        let Some(recovery) = self.recovery() else { return };
        if recovery.replay.unsettled > 0 {
            recovery.stage = Stage::WaitForSettling;
            self.announce(cx);
        } else {
            recovery.stage = Stage::Extents;
        }
    }

    fn announce<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        let superblock = self.superblock;
        let Some(recovery) = self.recovery() else { return };
        recovery.announced = true;
        // Where the log ended is told with the registration, and how it is to be settled may depend on that.
        let log_end = recovery.scan.last;
        let opened = Opened {
            device: superblock.device,
            system: superblock.system,
            sequence_ceiling: superblock.sequence_ceiling,
            unsettled: recovery.replay.unsettled,
            power_lost: recovery.power_lost,
        };
        self.flusher.log_end = log_end;
        cx.out.push(Effect::Event(Event::Opened(opened)));
    }

    /// `SettleAlone` or `SettleLater` has come.
    pub(super) fn settle_requested<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        let later = self.works.get(id).is_some_and(|work| work.request == Request::SettleLater);
        match self.recovery() {
            Some(recovery) if recovery.stage == Stage::WaitForSettling => {
                recovery.later = later;
                recovery.settling = Some(id);
                recovery.stage = Stage::Extents;
            }
            // An open store settles one extent after the other, by plan.
            Some(_) | None => {
                let refused = !later && self.slots.any_unsettled();
                self.reply(cx, id, if refused { Err(StoreError::Unsettled) } else { Ok(Outcome::Done) });
            }
        }
    }

    /// Every touched extent has its page: a checkpoint makes them current.
    fn begin_last_checkpoint(&mut self) {
        let (ring, extents) = (self.geometry().log_blocks(), self.geometry().extents());
        let budget = self.options.descriptor_cache_bytes;
        let Phase::Recovering(recovery) = &mut self.phase else { return };
        let last = recovery.scan.last;
        recovery.stage = Stage::Checkpoint;
        recovery.scan.forget();
        if recovery.later {
            for touched in recovery.replay.touched.iter().filter(|touched| touched.unsettled) {
                self.slots.get_mut(touched.slot).standing = Standing::Unsettled;
            }
        }
        self.log = Log::new(ring, last);
        self.flusher = flush::Flusher::new(last, self.options.requests_max);
        self.pages = Pages::new(budget, extents);
        self.superblock.incarnation += 1;
        self.superblock.boot = self.options.boot;
        self.checkpoint.force();
    }

    fn opened<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        let Some(recovery) = self.recovery() else { return };
        let (announced, settling) = (recovery.announced, recovery.settling);
        if !announced {
            self.announce(cx);
        }
        self.phase = Phase::Open;
        self.last_write = cx.now;
        if let Some(id) = settling {
            self.reply(cx, id, Ok(Outcome::Done));
        }
    }

    /// Sends a read of the recovery, if there is a buffer and not too much in flight.
    fn recover_read<B: Buffers>(&mut self, cx: &mut Context<'_, B>, part: Part, offset: ByteOffset, bytes: u32) -> bool {
        let Some(recovery) = self.recovery() else { return false };
        if recovery.in_flight >= RECOVERY_READS {
            return false;
        }
        let Some(buffer) = cx.buffers.allocate(BufferClass::Internal, bytes) else { return false };
        recovery.in_flight += 1;
        recovery.next += match part {
            Part::Superblock(_) => 1,
            Part::Index { .. } | Part::Scan { .. } => bytes / BLOCK_BYTES,
            Part::Flush | Part::Repair | Part::Page { .. } | Part::Data { .. } | Part::PageWrite => 0,
        };
        self.send_read(cx, Purpose::Recover(part), offset, Span::whole(buffer, bytes));
        Self::give_back(cx, buffer);
        true
    }

    pub(super) fn recover_done<B: Buffers>(&mut self, cx: &mut Context<'_, B>, part: Part, span: Option<Span>, result: Result<(), i32>) {
        let superblock = self.superblock;
        let Phase::Recovering(recovery) = &mut self.phase else { return };
        recovery.in_flight -= 1;
        let offset = match part {
            Part::Superblock(copy) => {
                let location = Geometry::superblock_of(recovery.tail, copy);
                recovery.copies[copy as usize] = match (result, span) {
                    (Ok(()), Some(span)) => Superblock::decode(cx.buffers.bytes(span), location),
                    (Ok(()), None) => Err(BlockFault::Length(0)),
                    // One unreadable copy of four is survived like a damaged one.
                    (Err(errno), _) => {
                        recovery.errno = Some(errno);
                        Err(BlockFault::Length(block::BYTES))
                    }
                };
                return;
            }
            Part::Page { again } => return self.extent_page_read(cx, again, span, result),
            Part::Data { first, again } => return self.extent_data_read(cx, first, again, span, result),
            Part::Index { page } => superblock.geometry.index_page(superblock.index_home, page),
            Part::Scan { position } => superblock.geometry.log_position(position),
            Part::Flush | Part::Repair | Part::PageWrite => ByteOffset::new(0),
        };
        if let Err(errno) = result {
            let fault = OpenFault::Device { errno, offset };
            return match part {
                Part::Index { .. } | Part::Scan { .. } => _ = recovery.fault.get_or_insert(fault),
                _ => self.refuse_open(cx, fault),
            };
        }
        match (part, span) {
            (Part::Index { page }, Some(span)) => self.index_read(cx, page, span),
            (Part::Scan { position }, Some(span)) => {
                for number in 0..span.len / BLOCK_BYTES {
                    let bytes = cx.buffers.bytes(span.part(number * BLOCK_BYTES, BLOCK_BYTES));
                    recovery.scan.take(&superblock, position + number, bytes);
                }
            }
            (Part::Flush, _) => self.medium_durable(cx),
            (Part::PageWrite, _) => self.extent_written(),
            (Part::Index { .. } | Part::Scan { .. } | Part::Superblock(_) | Part::Repair | Part::Page { .. } | Part::Data { .. }, _) => {}
        }
    }
}
