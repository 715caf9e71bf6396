//! A store on a disk in memory: buffers with counted uses, a volatile cache of 4 KiB pieces, counted
//! writes, and requests completed when the test says so.
//!
//! What this must not know: any rule of the store.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "shared by several test binaries"
)]

use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::checksum::{Checksum, ChecksumList};
use sds_core::collections::OpId;
use sds_core::format::log_block;
use sds_core::id::*;
use sds_core::machine::{DiskResult, Outbox, Token};
use sds_core::store::Store;
use sds_core::store::format::{FormatOptions, plan};
use sds_core::store::interface::*;
use sds_core::unit::*;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

pub const BLOCK: usize = BLOCK_BYTES as usize;
/// A piece's bytes and a short name for them, for comparing images.
#[derive(Debug)]
pub struct Bytes {
    pub name: u64,
    bytes: [u8; BLOCK],
}

impl core::ops::Deref for Bytes {
    type Target = [u8; BLOCK];
    fn deref(&self) -> &[u8; BLOCK] {
        &self.bytes
    }
}

pub type Piece = Rc<Bytes>;

pub fn piece_of(bytes: &[u8]) -> Piece {
    Rc::new(Bytes { name: name_of(bytes), bytes: bytes.try_into().unwrap() })
}

/// The part of an image's hash that one piece makes.
pub fn part_of(piece: u64, bytes: &Piece) -> u64 {
    (bytes.name ^ piece.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
}

fn name_of(bytes: &[u8]) -> u64 {
    let mut name = 0xcbf2_9ce4_8422_2325_u64;
    for chunk in bytes.chunks_exact(8) {
        name = (name ^ u64::from_le_bytes(chunk.try_into().unwrap())).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
    name
}

#[derive(Clone, Debug, Default)]
struct Slot {
    bytes: Vec<u8>,
    uses: u32,
    internal: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Pool {
    slots: Vec<Slot>,
    free: Vec<u32>,
    pub in_use: usize,
    pub internal_in_use: usize,
    pub limit: usize,
    /// Budget of the store's own buffers.
    pub internal_limit: usize,
}

impl Pool {
    pub fn new(limit: usize) -> Self {
        Self { limit, internal_limit: limit, ..Self::default() }
    }
}

impl Buffers for Pool {
    fn allocate(&mut self, class: BufferClass, len: u32) -> Option<BufferId> {
        let internal = class == BufferClass::Internal;
        if internal && self.internal_in_use >= self.internal_limit {
            return None;
        }
        self.in_use += 1;
        self.internal_in_use += usize::from(internal);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        // Old contents stay: a machine must not rely on zeroes.
        slot.bytes.resize(slot.bytes.len().max(len as usize), 0xa5);
        slot.uses = 1;
        slot.internal = internal;
        Some(BufferId::new(index))
    }

    fn retain(&mut self, buffer: BufferId) {
        let slot = &mut self.slots[buffer.get() as usize];
        assert!(slot.uses > 0, "a free buffer is not retained");
        slot.uses += 1;
    }

    fn release(&mut self, buffer: BufferId) {
        let slot = &mut self.slots[buffer.get() as usize];
        assert!(slot.uses > 0, "a buffer is released once per use");
        slot.uses -= 1;
        if slot.uses == 0 {
            self.in_use -= 1;
            self.internal_in_use -= usize::from(slot.internal);
            self.free.push(buffer.get());
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.slots[span.buffer.get() as usize].bytes[span.start as usize..(span.start + span.len) as usize]
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.slots[span.buffer.get() as usize].bytes[span.start as usize..(span.start + span.len) as usize]
    }
}

/// A disk whose writes stay in a volatile cache until flushed.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    durable: BTreeMap<u64, Piece>,
    /// Hash of the durable pieces.
    pub sum: u64,
    /// Values written since the last flush, oldest first, per piece.
    cache: BTreeMap<u64, Vec<Piece>>,
    /// When a piece was last written, and what it held before.
    former: BTreeMap<u64, (u64, Option<Piece>)>,
    /// Every value a piece was given, and when.
    given: BTreeMap<u64, Vec<(u64, Piece)>>,
    order: u64,
    pub writes: u64,
    pub bytes_written: u64,
    pub flushes: u64,
}

impl Disk {
    fn set(&mut self, piece: u64, bytes: Option<Piece>) {
        if let Some(bytes) = &bytes {
            self.sum = self.sum.wrapping_add(part_of(piece, bytes));
        }
        let old = match bytes {
            Some(bytes) => self.durable.insert(piece, bytes),
            None => self.durable.remove(&piece),
        };
        if let Some(old) = old {
            self.sum = self.sum.wrapping_sub(part_of(piece, &old));
        }
    }

    pub fn read(&self, piece: u64) -> Option<&Piece> {
        self.cache.get(&piece).and_then(|values| values.last()).or_else(|| self.durable.get(&piece))
    }

    pub fn write(&mut self, piece: u64, bytes: Piece, durable: bool) {
        let former = self.read(piece).cloned();
        self.order += 1;
        self.former.insert(piece, (self.order, former));
        self.given.entry(piece).or_default().push((self.order, bytes.clone()));
        if durable {
            self.cache.remove(&piece);
            self.set(piece, Some(bytes));
        } else {
            self.cache.entry(piece).or_default().push(bytes);
        }
    }

    pub fn flush(&mut self) {
        for (piece, mut values) in core::mem::take(&mut self.cache) {
            self.set(piece, values.pop());
        }
    }

    /// The last write of a piece never happened.
    pub fn lose(&mut self, piece: u64) -> bool {
        match self.former.get(&piece).cloned() {
            Some((_, former)) => {
                self.put(piece, former);
                true
            }
            None => false,
        }
    }

    /// The last write of a piece went to the one after it. Not if that was written later: then
    /// nothing is left of the fault but a lost write.
    pub fn misdirect(&mut self, piece: u64) -> bool {
        let order = |piece| self.former.get(&piece).map_or(0, |(order, _)| *order);
        if order(piece) < order(piece + 1) {
            return false;
        }
        let bytes = self.get_durable(piece);
        let lost = self.lose(piece);
        self.put(piece + 1, bytes);
        lost
    }

    /// Every value that a piece was given, oldest first, and when.
    pub fn given(&self, piece: u64) -> &[(u64, Piece)] {
        self.given.get(&piece).map_or(&[], Vec::as_slice)
    }

    /// Values written since the last flush, by piece.
    pub fn cached(&self) -> &BTreeMap<u64, Vec<Piece>> {
        &self.cache
    }

    /// Pieces that a flush has reached.
    pub fn durable(&self) -> &BTreeMap<u64, Piece> {
        &self.durable
    }

    /// Pieces whose fate a power cut decides, with how many values each may take.
    pub fn unflushed(&self) -> Vec<(u64, usize)> {
        self.cache.iter().map(|(piece, values)| (*piece, values.len() + 1)).collect()
    }

    /// Power comes back: each unflushed piece has the chosen value (0 is the durable one).
    pub fn cut(&mut self, mut choose: impl FnMut(u64, usize) -> usize) {
        for (piece, values) in core::mem::take(&mut self.cache) {
            let choice = choose(piece, values.len() + 1);
            if choice > 0 {
                self.set(piece, Some(values[choice - 1].clone()));
            }
        }
    }

    pub fn flip(&mut self, piece: u64, byte: usize) -> bool {
        self.flush();
        let Some(bytes) = self.durable.get(&piece) else { return false };
        let mut changed = ***bytes;
        changed[byte] ^= 0x10;
        self.set(piece, Some(piece_of(&changed)));
        true
    }

    pub fn pieces(&self) -> Vec<u64> {
        self.durable.keys().copied().collect()
    }

    pub fn put(&mut self, piece: u64, bytes: Option<Piece>) {
        self.cache.remove(&piece);
        self.set(piece, bytes);
    }

    pub fn get_durable(&self, piece: u64) -> Option<Piece> {
        self.durable.get(&piece).cloned()
    }
}

pub const SYSTEM: SystemId = SystemId::new(0x5157);
pub const DEVICE: DeviceUuid = DeviceUuid::new(0xd0d0_0001);
pub const BOOT: BootId = BootId::new(1);

pub fn options(device_bytes: u64) -> StoreOptions {
    StoreOptions {
        device_bytes: ByteCount::new(device_bytes),
        system: SYSTEM,
        boot: BOOT,
        volatile_cache: true,
        descriptor_cache_bytes: 1 << 20,
        requests_max: 256,
        group_commit_wait: Nanos::from_micros(300),
        seal_after: Nanos::from_millis(1000),
    }
}

pub fn formatted(device_bytes: u64, log_blocks: u32) -> Disk {
    let plan = plan(&FormatOptions {
        device_bytes: ByteCount::new(device_bytes),
        system: SYSTEM,
        device: DEVICE,
        boot: BOOT,
        log_blocks: Some(log_blocks),
    })
    .expect("fits");
    let mut disk = Disk::default();
    for (offset, block) in plan.index_blocks().chain(plan.superblocks()) {
        disk.write(offset.get() / BLOCK as u64, piece_of(&block), true);
    }
    disk
}

/// A disk operation that has been sent and not completed.
#[derive(Clone, Debug)]
pub enum Sent {
    Read { op: OpId, offset: u64, span: Span },
    Write { op: OpId, offset: u64, span: Span, durable: bool },
    Flush { op: OpId },
}

/// Breaks a rule on purpose, to show that a test notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    #[default]
    None,
    /// Flushes complete without flushing.
    FlushLies,
    /// Durable writes are cached like others.
    DurableLies,
    /// Log blocks state no flushed and no resolved position.
    NoPositions,
    /// A power cut is taken for a process death.
    SameBoot,
}

/// A store, its disk, its buffers and its requests.
#[derive(Clone)]
pub struct Rig {
    pub store: Store,
    pub disk: Disk,
    pub pool: Pool,
    pub now: Nanos,
    pub sent: VecDeque<Sent>,
    pub replies: BTreeMap<u64, Result<Outcome, StoreError>>,
    pub events: Vec<Event>,
    pub sabotage: Sabotage,
    /// Of the writes and zeroes sent.
    pub bond: Bond,
    /// Fails the next write at or above this offset with this error.
    pub fail_write: Option<(u64, u64, i32)>,
    /// Reads that touch this range of bytes fail with this error.
    pub fail_read: Option<(u64, u64, i32)>,
    spans: BTreeMap<u64, Span>,
    next_token: u64,
    /// Checksum of the last log block, where sabotage changes it.
    previous: Checksum,
}

impl Rig {
    pub fn new(disk: Disk, options: StoreOptions) -> Self {
        Self {
            store: Store::new(options),
            disk,
            pool: Pool::new(4096),
            now: Nanos::from_millis(1),
            sent: VecDeque::new(),
            replies: BTreeMap::new(),
            events: Vec::new(),
            sabotage: Sabotage::None,
            bond: Bond::None,
            fail_write: None,
            fail_read: None,
            spans: BTreeMap::new(),
            next_token: 1,
            previous: Checksum::new(0),
        }
    }

    /// Opens a store, settling alone if asked for.
    pub fn open(disk: Disk, options: StoreOptions) -> Self {
        let mut rig = Self::new(disk, options);
        rig.start();
        rig
    }

    pub fn start(&mut self) {
        self.input(Input::Open);
        self.drain();
        let unsettled = self.events.iter().any(|event| matches!(event, Event::Opened(opened) if opened.unsettled > 0));
        if unsettled {
            let token = self.request(Request::SettleAlone);
            self.drain();
            assert_eq!(self.replies.remove(&token), Some(Ok(Outcome::Done)), "settling alone ends");
        }
    }

    pub fn opened(&self) -> Option<&Opened> {
        self.events.iter().find_map(|event| match event {
            Event::Opened(opened) => Some(opened),
            _ => None,
        })
    }

    pub fn open_fault(&self) -> Option<&OpenFault> {
        self.events.iter().find_map(|event| match event {
            Event::OpenFailed(fault) => Some(fault),
            _ => None,
        })
    }

    pub fn input(&mut self, input: Input) {
        let mut out = Outbox::new();
        self.store.step(self.now, input, &mut self.pool, &mut out);
        let effects: Vec<Effect> = out.drain().collect();
        for effect in effects {
            match effect {
                Effect::Read { op, offset, span } => self.sent.push_back(Sent::Read { op, offset: offset.get(), span }),
                Effect::Write { op, offset, span, durable } => {
                    assert!(offset.is_block_aligned() && span.len.is_multiple_of(BLOCK_BYTES), "aligned");
                    if self.sabotage == Sabotage::NoPositions {
                        self.forget_positions(offset, span);
                    }
                    self.sent.push_back(Sent::Write { op, offset: offset.get(), span, durable });
                }
                Effect::Flush { op } => self.sent.push_back(Sent::Flush { op }),
                Effect::Reply { token, result } => {
                    let old = self.replies.insert(token.get(), result);
                    assert!(old.is_none(), "one reply per request");
                }
                Effect::Event(event) => self.events.push(event),
            }
        }
    }

    fn forget_positions(&mut self, offset: ByteOffset, span: Span) {
        let bytes = self.pool.bytes(span).to_vec();
        if let Ok(block) = log_block::decode(&bytes, DEVICE, offset) {
            let header = log_block::LogHeader { flushed: 0, resolved: 0, previous: self.previous, ..block.header };
            self.previous = log_block::encode(self.pool.bytes_mut(span), &header, block.packed, DEVICE, offset);
        }
    }

    pub fn request(&mut self, request: Request) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.input(Input::Request { token: Token::new(token), request });
        token
    }

    /// Pieces of a sent write: place and bytes.
    pub fn pieces_of(&self, sent: &Sent) -> Vec<(u64, Piece)> {
        match sent {
            Sent::Write { offset, span, .. } => {
                let bytes = self.pool.bytes(*span);
                bytes.chunks(BLOCK).enumerate().map(|(index, piece)| (offset / BLOCK as u64 + index as u64, piece_of(piece))).collect()
            }
            Sent::Read { .. } | Sent::Flush { .. } => Vec::new(),
        }
    }

    /// Carries out and completes one sent operation.
    pub fn complete(&mut self, index: usize) {
        let sent = self.sent.remove(index).expect("sent");
        let mut result = DiskResult::Done;
        let op = match &sent {
            Sent::Read { op, offset, span } => {
                let first = offset / BLOCK as u64;
                for index in 0..u64::from(span.len / BLOCK_BYTES) {
                    let value = self.disk.read(first + index).cloned();
                    let part = span.part(index as u32 * BLOCK_BYTES, BLOCK_BYTES);
                    match value {
                        Some(value) => self.pool.bytes_mut(part).copy_from_slice(&value[..]),
                        None => self.pool.bytes_mut(part).fill(0),
                    }
                }
                if let Some((from, to, errno)) = self.fail_read
                    && *offset < to
                    && from < *offset + u64::from(span.len)
                {
                    result = DiskResult::Error { errno };
                }
                *op
            }
            Sent::Write { op, durable, offset, .. } => {
                self.disk.writes += 1;
                if let Some((from, to, errno)) = self.fail_write
                    && (from..to).contains(offset)
                {
                    result = DiskResult::Error { errno };
                } else {
                    let through = *durable && self.sabotage != Sabotage::DurableLies;
                    for (piece, bytes) in self.pieces_of(&sent) {
                        self.disk.bytes_written += BLOCK as u64;
                        self.disk.write(piece, bytes, through);
                    }
                }
                *op
            }
            Sent::Flush { op } => {
                self.disk.flushes += 1;
                if self.sabotage != Sabotage::FlushLies {
                    self.disk.flush();
                }
                *op
            }
        };
        self.input(Input::Disk { op, result });
    }

    /// Completes everything in order, with the clock moved to deadlines no later than `until`.
    pub fn run_until(&mut self, until: Nanos) {
        loop {
            if !self.sent.is_empty() {
                self.complete(0);
                continue;
            }
            match self.store.deadline() {
                Some(due) if due <= until => {
                    self.now = self.now.max(due);
                    self.input(Input::Wake);
                }
                _ => {
                    self.now = self.now.max(until);
                    return;
                }
            }
        }
    }

    /// Completes everything that needs no waiting longer than a log block's.
    pub fn drain(&mut self) {
        self.run_until(self.now.plus(Nanos::from_millis(1)));
    }

    pub fn reply(&mut self, token: u64) -> Result<Outcome, StoreError> {
        if let Some(span) = self.spans.remove(&token) {
            self.pool.release(span.buffer);
        }
        self.replies.remove(&token).expect("a reply")
    }

    pub fn send_write(&mut self, key: ExtentKey, first: u8, bytes: &[u8], sequence: u64, durable: bool) -> u64 {
        let buffer = self.pool.allocate(BufferClass::Client, bytes.len() as u32).expect("room");
        let span = Span::whole(buffer, bytes.len() as u32);
        self.pool.bytes_mut(span).copy_from_slice(bytes);
        let token = self.request(Request::Write {
            key,
            range: BlockRange { first: BlockIndex::new(first), count: (bytes.len() / BLOCK) as u16 },
            span,
            checksums: ChecksumList::of_blocks(bytes),
            version: version(sequence),
            durable,
            bond: self.bond,
        });
        self.spans.insert(token, span);
        token
    }

    pub fn write(&mut self, key: ExtentKey, first: u8, bytes: &[u8], sequence: u64) -> Result<Outcome, StoreError> {
        let token = self.send_write(key, first, bytes, sequence, false);
        self.drain();
        self.reply(token)
    }

    pub fn send_zero(&mut self, key: ExtentKey, first: u8, count: u16, sequence: u64, free: bool) -> u64 {
        let range = BlockRange { first: BlockIndex::new(first), count };
        self.request(Request::Zero { key, range, version: version(sequence), free, durable: false, bond: self.bond })
    }

    pub fn zero(&mut self, key: ExtentKey, first: u8, count: u16, sequence: u64, free: bool) -> Result<Outcome, StoreError> {
        let token = self.send_zero(key, first, count, sequence, free);
        self.drain();
        self.reply(token)
    }

    pub fn read(&mut self, key: ExtentKey, first: u8, count: u16) -> Result<Vec<u8>, StoreError> {
        let len = u32::from(count) * BLOCK_BYTES;
        let buffer = self.pool.allocate(BufferClass::Client, len).expect("room");
        let span = Span::whole(buffer, len);
        self.pool.bytes_mut(span).fill(0xee);
        let token = self.request(Request::Read { key, range: BlockRange { first: BlockIndex::new(first), count }, span });
        self.drain();
        let bytes = self.pool.bytes(span).to_vec();
        self.pool.release(buffer);
        match self.reply(token)? {
            Outcome::Read { checksums, .. } => {
                assert!(checksums.match_blocks(&bytes), "checksums are of the bytes delivered");
                Ok(bytes)
            }
            other => panic!("a read answered {other:?}"),
        }
    }

    pub fn flush(&mut self) -> Result<Outcome, StoreError> {
        let token = self.request(Request::Flush);
        self.drain();
        self.reply(token)
    }

    /// Lets a quiet store seal.
    pub fn rest(&mut self) {
        self.run_until(self.now.plus(Nanos::from_millis(3000)));
    }

    pub fn close(&mut self) -> Result<Outcome, StoreError> {
        let token = self.request(Request::Close);
        self.drain();
        self.reply(token)
    }
}

pub fn version(sequence: u64) -> Version {
    Version { sequence: ShardSequence::new(sequence), epoch: Epoch::new(1) }
}

pub fn key(extent: u32) -> ExtentKey {
    ExtentKey { tree: TreeId::new(7), extent: ExtentIndex::new(extent), layer: LayerId::new(0) }
}

/// A block's worth of a recognisable value.
pub fn fill(value: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&value.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    bytes
}

pub fn zeroes() -> Vec<u8> {
    vec![0; BLOCK]
}
