//! One device: the extent store. Knows no epoch rule, no peer, no session.
//!
//! In-place 4 KiB data, external checksums, one record log. See `docs/on-disk-format.md`.
//! This file holds the machine's state and hands each input to the file that knows it: [`recover`]
//! before the store is open; `write`, `zero`, `read`, `flush`, `exchange` for requests; `log`, `seal`,
//! `checkpoint`, `close` for what goes on behind them.
//!
//! Invariants: the descriptor in memory changes only when both data and record of a write have
//! completed, and the reply comes after; after a device failure nothing is sent to the device.

mod checkpoint;
mod close;
mod exchange;
mod flush;
pub mod format;
pub mod interface;
mod log;
mod options;
mod pages;
mod read;
mod recover;
mod seal;
pub mod settle;
mod slots;
mod work;
mod write;
mod zero;

use crate::buffer::{BufferClass, BufferId, Buffers, Span};
use crate::bugs::{self, Bug};
use crate::collections::{OpId, SlotTable};
use crate::format::geometry::Geometry;
use crate::format::log_block;
use crate::format::superblock::Superblock;
use crate::id::{DeviceUuid, LogSequence, SystemId};
use crate::machine::{DiskResult, Outbox};
use crate::unit::{BLOCK_BYTES, ByteOffset, Nanos};
use interface::{Effect, Event, Input, OpenFault, Outcome, Statistics, StoreError, StoreOptions};
use log::{InFlight, Log, Note};
use pages::{Activity, Pages};
use slots::Slots;
use std::collections::VecDeque;
use work::Work;

/// What a step may use.
struct Context<'a, B> {
    now: Nanos,
    buffers: &'a mut B,
    out: &'a mut Outbox<Effect>,
}

/// Where the store is in its life.
#[derive(Clone, Debug)]
enum Phase {
    /// `Input::Open` has not come.
    New,
    /// Looking at the device.
    Recovering(Box<recover::Recovery>),
    /// Serving.
    Open,
    /// Finishing what was asked; the request that closes it.
    Closing(close::Closing),
    /// Closed cleanly.
    Closed,
    /// The device could not be opened.
    Refused,
    /// The device failed.
    Failed {
        /// Linux error number.
        errno: i32,
    },
}

/// Why a disk operation was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Data(OpId),
    Read(OpId),
    Page { frame: u32, again: bool },
    Judge { request: OpId, first: u8 },
    Log,
    Flush,
    Checkpoint(checkpoint::Part),
    Recover(recover::Part),
}

/// A disk operation in flight. Holds a use of its buffer.
#[derive(Clone, Copy, Debug)]
struct DiskOp {
    purpose: Purpose,
    span: Option<Span>,
    issued: Nanos,
}

/// The machine of one device.
#[derive(Clone, Debug)]
pub struct Store {
    options: StoreOptions,
    phase: Phase,
    /// The newest on the device; a placeholder until recovery has read one.
    superblock: Superblock,
    ops: SlotTable<DiskOp>,
    works: SlotTable<Work>,
    /// Requests that wait for something; looked at again when `retry` is set.
    stalled: VecDeque<OpId>,
    retry: bool,
    /// Writes and zeroes issued and not yet applied.
    outstanding: u32,
    /// Durable writes issued and not yet applied.
    durable_outstanding: u32,
    /// Plans applied and not yet durable.
    plans: u32,
    slots: Slots,
    pages: Pages,
    /// Frames whose page is to be read as soon as there is a buffer.
    loads: VecDeque<u32>,
    short_of_frames: bool,
    log: Log,
    flusher: flush::Flusher,
    sealer: seal::Sealer,
    checkpoint: checkpoint::Checkpoint,
    last_write: Nanos,
    now: Nanos,
    /// There is work left that needs no input.
    again: bool,
    statistics: Statistics,
}

impl Store {
    /// A store that has not looked at its device yet; `Input::Open` comes first.
    #[must_use]
    pub fn new(options: StoreOptions) -> Self {
        let requests = options.requests_max.clamp(1, 1 << 20);
        Self {
            phase: Phase::New,
            superblock: recover::placeholder(),
            ops: SlotTable::with_capacity(2 * requests + options::INTERNAL_OPS),
            works: SlotTable::with_capacity(requests),
            stalled: VecDeque::with_capacity(requests),
            retry: false,
            outstanding: 0,
            durable_outstanding: 0,
            plans: 0,
            slots: Slots::default(),
            pages: Pages::default(),
            loads: VecDeque::new(),
            short_of_frames: false,
            log: Log::default(),
            flusher: flush::Flusher::default(),
            sealer: seal::Sealer::default(),
            checkpoint: checkpoint::Checkpoint::default(),
            last_write: Nanos::ZERO,
            now: Nanos::ZERO,
            again: false,
            statistics: Statistics::default(),
            options,
        }
    }

    /// Takes one input.
    pub fn step(&mut self, now: Nanos, input: Input, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        self.now = now;
        let cx = &mut Context { now, buffers, out };
        match input {
            Input::Open => self.open(cx),
            Input::Request { token, request } => self.accept(cx, token, request),
            Input::Disk { op, result } => self.disk_done(cx, op, result),
            Input::Wake => self.retry = true,
            Input::Resolved { key, version } => self.resolved(key, version),
            Input::Parted => self.parted(),
            Input::Compared { key } => self.compared(key),
        }
        self.pump(cx);
    }

    /// When `Input::Wake` is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        if self.again {
            return Some(self.now);
        }
        match self.phase {
            Phase::Open | Phase::Closing(_) => {
                let group = if self.log.has_pending() && self.log.in_flight.is_none() { self.log.wait_until } else { None };
                [group, self.seal_due()].into_iter().flatten().min()
            }
            Phase::New | Phase::Recovering(_) | Phase::Closed | Phase::Refused | Phase::Failed { .. } => None,
        }
    }

    /// Numbers about itself.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics {
            capacity: self.slots.capacity(),
            active_extents: u64::from(self.pages.active_count()),
            flushed: LogSequence::new(self.flushed().max(self.log.written_through())),
            log_end: LogSequence::new(self.flusher.log_end),
            ..self.statistics
        }
    }

    /// Whose device it is, once a superblock of this system was found good; known also when the rest
    /// could not be opened.
    #[must_use]
    pub fn identity(&self) -> Option<(DeviceUuid, SystemId)> {
        (!self.superblock.device.is_nil()).then_some((self.superblock.device, self.superblock.system))
    }

    /// Whether it takes reads and writes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether an extent has its place here, or is being given one.
    #[must_use]
    pub fn holds(&self, key: interface::ExtentKey) -> bool {
        self.slots.find(key).is_some()
    }

    /// Extents that can still be given a place.
    #[must_use]
    pub fn free_extents(&self) -> u64 {
        let capacity = self.slots.capacity();
        (capacity.total.get() - capacity.used.get()) / u64::from(crate::unit::EXTENT_BYTES)
    }

    /// When the oldest disk request in flight was made; `None` when there is none.
    #[must_use]
    pub fn oldest_disk_request(&self) -> Option<Nanos> {
        self.ops.iter().map(|(_, op)| op.issued).min()
    }

    fn geometry(&self) -> &Geometry {
        &self.superblock.geometry
    }

    /// Every log block at or below, and the data its records speak of, is durable.
    fn flushed(&self) -> u64 {
        if self.options.volatile_cache { self.flusher.flushed } else { self.log.resolved() }
    }

    /// Goes on with everything that can go on, until nothing moves.
    fn pump<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        self.again = false;
        match self.phase {
            Phase::Recovering(_) => {
                self.pump_recovery(cx);
                return;
            }
            Phase::Open | Phase::Closing(_) => {}
            Phase::New | Phase::Closed | Phase::Refused | Phase::Failed { .. } => return,
        }
        // Each round may enable the next (a flush that needs no device completes at once); what is
        // left after a few waits for the caller's next turn.
        for _ in 0..8 {
            let mut moved = self.pump_stalled(cx);
            moved |= self.pump_loads(cx);
            moved |= self.pump_close(cx);
            moved |= self.pump_seal(cx);
            moved |= self.pump_checkpoint(cx);
            moved |= self.pump_flush(cx);
            moved |= self.pump_log(cx);
            self.slots.reclaim(self.flushed());
            if !matches!(self.phase, Phase::Open | Phase::Closing(_)) || !moved {
                return;
            }
        }
        self.again = true;
    }

    /// Sends an operation to the device. The operation takes a use of its own of the span's buffer.
    fn send<B: Buffers>(&mut self, cx: &mut Context<'_, B>, purpose: Purpose, span: Option<Span>) -> OpId {
        if let Some(span) = span
            && !bugs::is(Bug::BufferNotHeld)
        {
            cx.buffers.retain(span.buffer);
        }
        match self.ops.insert(DiskOp { purpose, span, issued: cx.now }) {
            Ok(op) => op,
            Err(_) => unreachable!("the table has room for every request and every internal operation"),
        }
    }

    fn send_read<B: Buffers>(&mut self, cx: &mut Context<'_, B>, purpose: Purpose, offset: ByteOffset, span: Span) {
        let op = self.send(cx, purpose, Some(span));
        cx.out.push(Effect::Read { op, offset, span });
    }

    fn send_write<B: Buffers>(&mut self, cx: &mut Context<'_, B>, purpose: Purpose, offset: ByteOffset, span: Span, durable: bool) {
        let op = self.send(cx, purpose, Some(span));
        cx.out.push(Effect::Write { op, offset, span, durable: durable && self.options.volatile_cache });
    }

    /// An operation ended.
    fn disk_done<B: Buffers>(&mut self, cx: &mut Context<'_, B>, op: OpId, result: DiskResult) {
        let Some(done) = self.ops.remove(op) else {
            cx.out.push(Effect::Event(Event::StaleCompletion));
            return;
        };
        let result = match result {
            DiskResult::Done => Ok(()),
            DiskResult::Error { .. } if bugs::is(Bug::WriteErrorIgnored) && done.purpose != Purpose::Flush => Ok(()),
            DiskResult::Error { .. } if bugs::is(Bug::FlushErrorIgnored) && done.purpose == Purpose::Flush => Ok(()),
            DiskResult::Error { errno } => Err(errno),
            DiskResult::Short { .. } if bugs::is(Bug::ShortWriteTakenAsDone) => Ok(()),
            DiskResult::Short { .. } => Err(0),
        };
        if result.is_err() {
            self.statistics.faults.io_errors += 1;
        }
        match self.phase {
            Phase::Open | Phase::Closing(_) | Phase::Recovering(_) => match done.purpose {
                Purpose::Data(id) => self.data_written(cx, id, result),
                Purpose::Read(id) => self.data_read(cx, id, result),
                Purpose::Page { frame, again } => self.page_read(cx, frame, again, done.span, result),
                Purpose::Judge { request, first } => self.judged(cx, request, first, done.span, result),
                Purpose::Log => self.log_written(cx, result),
                Purpose::Flush => self.flush_done(cx, result),
                Purpose::Checkpoint(part) => self.checkpoint_written(cx, part, result),
                Purpose::Recover(part) => self.recover_done(cx, part, done.span, result),
            },
            Phase::New | Phase::Closed | Phase::Refused | Phase::Failed { .. } => {}
        }
        if let Some(span) = done.span.filter(|_| !bugs::is(Bug::BufferNotHeld)) {
            cx.buffers.release(span.buffer);
        }
    }

    /// Sends the next log block if it is time.
    fn pump_log<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        if !self.log.is_due(cx.now, self.outstanding, self.options.group_commit_wait) {
            return false;
        }
        let Some(buffer) = cx.buffers.allocate(BufferClass::Internal, BLOCK_BYTES) else { return false };
        let flushed = self.flushed();
        let Some((header, pending)) = self.log.take(self.superblock.incarnation, flushed) else {
            cx.buffers.release(buffer);
            return false;
        };
        let span = Span::whole(buffer, BLOCK_BYTES);
        let offset = self.geometry().log_block(header.sequence);
        let checksum = log_block::encode(cx.buffers.bytes_mut(span), &header, &pending.records, self.superblock.device, offset);
        let durable = pending.durable || !self.options.volatile_cache;
        self.log.in_flight = Some(InFlight { header, buffer, durable, checksum, pending });
        self.statistics.log_writes += 1;
        self.send_write(cx, Purpose::Log, offset, span, durable);
        true
    }

    fn log_written<B: Buffers>(&mut self, cx: &mut Context<'_, B>, result: Result<(), i32>) {
        if let Err(errno) = result {
            return self.fail(cx, errno);
        }
        let Some(done) = self.log.complete() else { return };
        cx.buffers.release(done.buffer);
        for note in &done.pending.notes {
            match *note {
                Note::Request(id) => self.recorded(cx, id),
                Note::Held(id) => {
                    self.recorded(cx, id);
                    self.send_data(cx, id);
                }
                Note::Activated { frame, slot } => {
                    let entry = self.pages.get(frame);
                    if entry.slot == slot && entry.activity == Activity::Activating {
                        self.pages.get_mut(frame).last_write = cx.now;
                        self.pages.set_activity(frame, Activity::Active);
                    }
                }
                Note::Allocated { slot } => self.slots.allocated(slot),
                Note::Statement => {}
            }
        }
        self.log.settle(done.pending);
        self.retry = true;
        self.answer_stated(cx);
    }

    /// The device's life in this process is over: everything pending is told.
    fn fail<B: Buffers>(&mut self, cx: &mut Context<'_, B>, errno: i32) {
        self.phase = Phase::Failed { errno };
        cx.out.push(Effect::Event(Event::DeviceFailed { errno }));
        self.answer_all(cx, StoreError::Device { errno });
        self.checkpoint.release(cx.buffers);
        if let Some(sent) = self.log.in_flight.take() {
            cx.buffers.release(sent.buffer);
        }
    }

    fn refuse_open<B: Buffers>(&mut self, cx: &mut Context<'_, B>, fault: OpenFault) {
        self.phase = Phase::Refused;
        cx.out.push(Effect::Event(Event::OpenFailed(fault)));
        self.answer_all(cx, StoreError::NotOpen);
        self.checkpoint.release(cx.buffers);
    }

    fn answer_all<B: Buffers>(&mut self, cx: &mut Context<'_, B>, error: StoreError) {
        self.stalled.clear();
        let ids: Vec<OpId> = self.works.iter().map(|(id, _)| id).collect();
        for id in ids {
            if let Some(work) = self.works.remove(id) {
                cx.out.push(Effect::Reply { token: work.token, result: Err(error) });
            }
        }
    }

    fn reply<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, result: Result<Outcome, StoreError>) {
        if let Some(work) = self.works.remove(id) {
            cx.out.push(Effect::Reply { token: work.token, result });
            if let Some(frame) = work.frame {
                self.unpin(frame);
            }
            self.retry |= !self.stalled.is_empty();
        }
    }

    /// A buffer the machine is done with.
    fn give_back<B: Buffers>(cx: &mut Context<'_, B>, buffer: BufferId) {
        cx.buffers.release(buffer);
    }
}
