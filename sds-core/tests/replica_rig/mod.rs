//! A storage node on disks in memory: its buffers by class, its links, an MDM that is a few fields.
//!
//! What this must not know: any rule of the node.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "shared by several test binaries"
)]

use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::collections::OpId;
use sds_core::error::Status;
use sds_core::id::*;
use sds_core::machine::{DiskResult, LinkId, Outbox};
use sds_core::map::{InSync, Member, ShardEntry, ShardMap};
use sds_core::protocol::membership::Proposal;
use sds_core::replica::Replica;
use sds_core::replica::interface::*;
use sds_core::shard::shard_of;
use sds_core::store::format::{FormatOptions, plan};
use sds_core::store::interface::StoreOptions;
use sds_core::stripe::Stripe;
use sds_core::unit::*;
use sds_core::view::{SessionMode, SessionView, ViewUpdate, VolumeView};
use sds_core::wire::*;
use std::collections::{BTreeMap, VecDeque};

pub const BLOCK: usize = BLOCK_BYTES as usize;
pub const SYSTEM: SystemId = SystemId::new(0x5157);
pub const DEVICE: DeviceUuid = DeviceUuid::new(0xd0d0_0001);
pub const BOOT: BootId = BootId::new(1);
pub const SHARDS: u32 = 8;
pub const VOLUME: VolumeId = VolumeId::new(3);
pub const TREE: TreeId = TreeId::new(30);
pub const POOL: PoolId = PoolId::new(1);
pub const DEVICE_ID: DeviceId = DeviceId::new(7);
pub const ALICE: ClientId = ClientId::new(0xa11ce);
pub const BOB: ClientId = ClientId::new(0xb0b);
pub const DEVICE_BYTES: u64 = 64 << 20;
/// Links from here on go to another node.
pub const PEER_LINKS: u64 = 1_000_000;
pub const MAP_WAIT: Nanos = Nanos::from_millis(500);

pub fn ticket(client: ClientId) -> Ticket {
    Ticket::new(client.get() ^ 0x5eed)
}

/// A disk with a volatile cache, in pieces of 4 KiB.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    bytes: u64,
    durable: BTreeMap<u64, Vec<u8>>,
    cache: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    /// With an empty store on it.
    pub fn formatted() -> Self {
        Self::formatted_of(DEVICE_BYTES)
    }

    /// The same, of this size.
    pub fn formatted_of(bytes: u64) -> Self {
        let device_bytes = ByteCount::new(bytes);
        let options = FormatOptions { device_bytes, system: SYSTEM, device: DEVICE, boot: BOOT, log_blocks: Some(64) };
        let plan = plan(&options).expect("fits");
        let mut disk = Self { bytes, ..Self::default() };
        for (offset, block) in plan.index_blocks().chain(plan.superblocks()) {
            disk.write(offset.get() / BLOCK as u64, block.as_slice(), true);
        }
        disk
    }

    fn read(&self, piece: u64) -> Option<&Vec<u8>> {
        self.cache.get(&piece).or_else(|| self.durable.get(&piece))
    }

    fn write(&mut self, piece: u64, bytes: &[u8], durable: bool) {
        self.cache.insert(piece, bytes.to_vec());
        if durable {
            let bytes = self.cache.remove(&piece).unwrap();
            self.durable.insert(piece, bytes);
        }
    }

    fn flush(&mut self) {
        self.durable.append(&mut self.cache);
    }

    /// Power is lost: nothing of the cache is kept.
    pub fn cut(&mut self) {
        self.cache.clear();
    }

    /// Flips a bit of every descriptor page.
    pub fn flip_descriptors(&mut self) -> usize {
        self.flush();
        let pages = self.durable.values_mut().filter(|piece| piece.starts_with(b"sdsDESCR"));
        pages.map(|piece| piece[2000] ^= 0x10).count()
    }

    /// Flips a bit of a piece that is all of this value; `false` when there is none.
    pub fn flip_first_of(&mut self, value: u8) -> bool {
        self.flush();
        let piece = self.durable.values_mut().find(|piece| piece.iter().all(|byte| *byte == value));
        piece.is_some_and(|piece| {
            piece[100] ^= 0x10;
            true
        })
    }
}

fn options(boot: u128, bytes: u64, requests_max: usize) -> StoreOptions {
    StoreOptions {
        device_bytes: ByteCount::new(bytes),
        system: SYSTEM,
        boot: BootId::new(boot),
        volatile_cache: true,
        descriptor_cache_bytes: 1 << 20,
        requests_max,
        group_commit_wait: Nanos::from_micros(300),
        seal_after: Nanos::from_millis(1000),
    }
}

/// Memory with a budget for clients and one for the rest.
#[derive(Debug)]
pub struct Pool {
    slots: Vec<(Vec<u8>, u32, bool)>,
    free: Vec<u32>,
    pub client_limit: usize,
    pub client_used: usize,
    pub internal_used: usize,
    /// Spans at the disk, and whether it writes into them.
    in_flight: Vec<(Span, bool)>,
}

impl Pool {
    fn used(&mut self, of_client: bool) -> &mut usize {
        if of_client { &mut self.client_used } else { &mut self.internal_used }
    }

    fn check_access(&self, span: Span, writes: bool) {
        assert!(self.slots[span.buffer.get() as usize].1 > 0, "a free buffer is not touched");
        let clash = self.in_flight.iter().find(|(other, other_writes)| {
            let overlap = other.buffer == span.buffer && other.start < span.start + span.len && span.start < other.start + other.len;
            overlap && (writes || *other_writes)
        });
        assert!(clash.is_none(), "{span:?} is touched while {clash:?} is at the disk");
    }
}

impl Buffers for Pool {
    fn allocate(&mut self, class: BufferClass, len: u32) -> Option<BufferId> {
        let of_client = class == BufferClass::Client;
        if of_client && self.client_used >= self.client_limit {
            return None;
        }
        *self.used(of_client) += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((Vec::new(), 0, false));
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.0.resize(slot.0.len().max(len as usize).next_multiple_of(BLOCK), 0xa5);
        (slot.1, slot.2) = (1, of_client);
        Some(BufferId::new(index))
    }

    fn retain(&mut self, buffer: BufferId) {
        let slot = &mut self.slots[buffer.get() as usize];
        assert!(slot.1 > 0, "a free buffer is not retained");
        slot.1 += 1;
    }

    fn release(&mut self, buffer: BufferId) {
        let slot = &mut self.slots[buffer.get() as usize];
        assert!(slot.1 > 0, "a buffer is released once per use");
        slot.1 -= 1;
        if slot.1 == 0 {
            assert!(self.in_flight.iter().all(|(span, _)| span.buffer != buffer), "a buffer at the disk is not freed");
            slot.0.fill(0xdd);
            let of_client = slot.2;
            *self.used(of_client) -= 1;
            self.free.push(buffer.get());
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        self.check_access(span, false);
        &self.slots[span.buffer.get() as usize].0[span.start as usize..(span.start + span.len) as usize]
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        self.check_access(span, true);
        &mut self.slots[span.buffer.get() as usize].0[span.start as usize..(span.start + span.len) as usize]
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Sent {
    Read { op: OpId, offset: u64, span: Span },
    Write { op: OpId, offset: u64, span: Span, durable: bool },
    Flush { op: OpId },
}

/// A frame under way to another node, its bytes beside it.
#[derive(Clone, Debug)]
pub struct Flight {
    pub link: LinkId,
    pub frame: Frame,
    pub bytes: Vec<u8>,
}

/// An answer as a client sees it; its buffer is back in the pool.
#[derive(Clone, Debug)]
pub struct Answer {
    pub link: LinkId,
    pub header: Header,
    pub cache_ids: CacheIds,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> Status {
        self.header.status
    }
}

pub struct Node {
    pub replica: Replica,
    /// Requests that a store takes at a time.
    pub store_requests: usize,
    pub disks: Vec<Disk>,
    pub pool: Pool,
    pub now: Nanos,
    pub sent: VecDeque<(DeviceSlot, Sent)>,
    pub answers: VecDeque<Answer>,
    pub closed: Vec<LinkId>,
    pub registers: usize,
    /// Servers that a link is wanted to.
    pub connects: Vec<SdsId>,
    pub proposals: Vec<(PoolId, ShardId, Proposal)>,
    /// Frames sent over links to another node, with their bytes.
    pub flights: Vec<Flight>,
    pub sds: SdsId,
    pub first_device: DeviceId,
    pub confirmed: Vec<MapVersion>,
    pub pulls: Vec<MapVersion>,
    pub freed: Vec<(DeviceId, Vec<TreeId>)>,
    pub events: Vec<Event>,
    /// Writes at or above this offset of a device fail.
    pub fail_writes_from: Option<u64>,
    pub view: ViewUpdate,
    pub incarnation: Incarnation,
    /// The host's boot.
    pub boot: u128,
    /// The boot in which this life began.
    pub boot_before: u128,
    out: Outbox<Effect>,
    next_link: u64,
    next_request: u64,
}

pub fn session(client: ClientId, generation: u64, mode: SessionMode) -> SessionView {
    SessionView { client, ticket: ticket(client), generation: SessionGeneration::new(generation), mode }
}

pub fn shard(extent: u32) -> ShardId {
    shard_of(TREE, ExtentIndex::new(extent), SHARDS)
}

impl Node {
    /// A node on fresh disks that has its registration and view and serves.
    pub fn serving() -> Self {
        let mut node = Self::opened(vec![Disk::formatted()], 1);
        node.register();
        node.install();
        node
    }

    /// A node that has opened its disks and knows no MDM.
    pub fn opened(disks: Vec<Disk>, incarnation: u64) -> Self {
        let mut node = Self::new(disks, incarnation, 64);
        node.add_devices();
        node.drain();
        node
    }

    pub fn new(disks: Vec<Disk>, incarnation: u64, requests_max: usize) -> Self {
        Self::trusting(disks, incarnation, requests_max, true)
    }

    /// The same, with that policy about ports that refuse.
    pub fn trusting(disks: Vec<Disk>, incarnation: u64, requests_max: usize, trust_refused: bool) -> Self {
        let replica = Replica::new(ReplicaOptions {
            boot: BOOT,
            links_max: 8,
            requests_max,
            map_wait: MAP_WAIT,
            disk_hang: ReplicaOptions::DISK_HANG_DEFAULT,
            trust_refused,
        });
        let volume = VolumeView {
            id: VOLUME,
            name: "demo".to_owned(),
            tree: TREE,
            pool: POOL,
            size: ByteCount::new(16 << 20),
            stripe: Stripe::default(),
            sessions: vec![session(ALICE, 5, SessionMode::Exclusive)],
        };
        let view = ViewUpdate {
            system: SYSTEM,
            version: MapVersion::new(10),
            pools: Vec::new(),
            volumes: Some(vec![volume]),
            servers: None,
            deleted_trees: None,
        };
        Self {
            replica,
            store_requests: 256,
            disks,
            pool: Pool { slots: Vec::new(), free: Vec::new(), client_limit: 1000, client_used: 0, internal_used: 0, in_flight: Vec::new() },
            now: Nanos::from_millis(1),
            sent: VecDeque::new(),
            answers: VecDeque::new(),
            closed: Vec::new(),
            registers: 0,
            connects: Vec::new(),
            proposals: Vec::new(),
            flights: Vec::new(),
            sds: SdsId::new(1),
            first_device: DEVICE_ID,
            confirmed: Vec::new(),
            pulls: Vec::new(),
            freed: Vec::new(),
            events: Vec::new(),
            fail_writes_from: None,
            view,
            incarnation: Incarnation::new(incarnation),
            boot: BOOT.get(),
            boot_before: BOOT.get(),
            out: Outbox::new(),
            next_link: 1,
            next_request: 1,
        }
    }

    /// Requests and links are numbered on from those of a former life.
    pub fn next_numbers_from(&mut self, former: &Self) {
        (self.next_link, self.next_request) = (former.next_link, former.next_request);
    }

    pub fn add_devices(&mut self) {
        for slot in 0..self.disks.len() as u16 {
            self.add_device(slot);
        }
    }

    pub fn add_device(&mut self, slot: u16) {
        let bytes = self.disks[usize::from(slot)].bytes;
        self.input(Input::AddDevice { slot: DeviceSlot(slot), options: options(self.boot, bytes, self.store_requests) });
    }

    pub fn register(&mut self) {
        let uuids: Vec<_> = self.replica.devices().iter().filter(|device| !device.uuid.is_nil()).map(|device| device.uuid).collect();
        let ids: Vec<_> = uuids.iter().enumerate().map(|(at, uuid)| (*uuid, DeviceId::new(self.first_device.get() + at as u32))).collect();
        self.input(Input::Registered { system: SYSTEM, sds: self.sds, incarnation: self.incarnation, devices: &ids });
    }

    /// All shards on our first device at this epoch, from the device's ceiling on.
    pub fn place(&mut self, epoch: u32, incarnation: u64) {
        let ceiling = self.replica.devices()[0].sequence_ceiling;
        let entry = ShardEntry {
            epoch: Epoch::new(epoch),
            in_sync: InSync::sole(Member { device: DEVICE_ID, incarnation: Incarnation::new(incarnation) }),
            first_sequence: ceiling,
            ..ShardEntry::default()
        };
        self.view.pools = vec![ShardMap { pool: POOL, shards: vec![entry; SHARDS as usize] }];
    }

    /// Places shards at epoch 1 for this incarnation and pushes the view.
    pub fn install(&mut self) {
        self.place(1, self.incarnation.get());
        self.push();
    }

    /// Pushes the view at the next version.
    pub fn push(&mut self) {
        self.view.version = MapVersion::new(self.view.version.get() + 1);
        let view = self.view.clone();
        self.input(Input::View(&view));
        self.drain();
    }

    pub fn volume(&mut self) -> &mut VolumeView {
        &mut self.view.volumes.as_mut().unwrap()[0]
    }

    pub fn input(&mut self, input: Input<'_>) {
        self.replica.step(self.now, input, &mut self.pool, &mut self.out);
        let effects: Vec<Effect> = self.out.drain().collect();
        for effect in effects {
            match effect {
                Effect::DiskRead { slot, op, offset, span } => {
                    self.pool.in_flight.push((span, true));
                    self.sent.push_back((slot, Sent::Read { op, offset: offset.get(), span }));
                }
                Effect::DiskWrite { slot, op, offset, span, durable } => {
                    self.pool.in_flight.push((span, false));
                    self.sent.push_back((slot, Sent::Write { op, offset: offset.get(), span, durable }));
                }
                Effect::DiskFlush { slot, op } => self.sent.push_back((slot, Sent::Flush { op })),
                Effect::Send { link, frame } => self.take(link, frame),
                Effect::Close { link } => self.closed.push(link),
                Effect::Connect { sds, .. } => self.connects.push(sds),
                Effect::Propose { proposals } => self.proposals.extend(proposals),
                Effect::Register => self.registers += 1,
                Effect::Confirm { version } => self.confirmed.push(version),
                Effect::Pull { at_least } => self.pulls.push(at_least),
                Effect::TreesFreed { device, trees } => self.freed.push((device, trees)),
                Effect::Event(event) => self.events.push(event),
            }
        }
    }

    fn take(&mut self, link: LinkId, frame: Frame) {
        // Over the wire and back, as a remote client would have it.
        let mut head = [0; HEAD_BYTES_MAX];
        let length = encode_head(&frame, &mut head);
        let (decoded, used) = decode_head(&head[..length]).expect("what a node sends is a frame").expect("whole");
        assert_eq!(used, length);
        assert_eq!(decoded.header(), &frame.header);
        let bytes = match frame.body {
            Body::Payload { span, checksums } => {
                let bytes = self.pool.bytes(span).to_vec();
                assert!(checksums.match_blocks(&bytes), "answers are whole");
                self.pool.release(span.buffer);
                bytes
            }
            Body::Empty | Body::Hello(_) => Vec::new(),
        };
        if link.get() >= PEER_LINKS {
            self.flights.push(Flight { link, frame, bytes });
        } else {
            self.answers.push_back(Answer { link, header: frame.header, cache_ids: frame.cache_ids, bytes });
        }
    }

    /// Carries out and completes one sent disk request.
    pub fn complete(&mut self, index: usize) {
        let (slot, sent) = self.sent.remove(index).expect("sent");
        match sent {
            Sent::Read { span, .. } | Sent::Write { span, .. } => {
                let at = self.pool.in_flight.iter().position(|(other, _)| *other == span).unwrap();
                self.pool.in_flight.swap_remove(at);
            }
            Sent::Flush { .. } => {}
        }
        let disk = &mut self.disks[usize::from(slot.0)];
        let mut result = DiskResult::Done;
        let op = match sent {
            Sent::Read { op, offset, span } => {
                for (at, part) in self.pool.bytes_mut(span).chunks_mut(BLOCK).enumerate() {
                    match disk.read(offset / BLOCK as u64 + at as u64) {
                        Some(piece) => part.copy_from_slice(&piece[..]),
                        None => part.fill(0),
                    }
                }
                op
            }
            Sent::Write { op, offset, span, durable } => {
                if self.fail_writes_from.is_some_and(|from| offset >= from) {
                    result = DiskResult::Error { errno: 5 };
                } else {
                    for (at, part) in self.pool.bytes(span).chunks(BLOCK).enumerate() {
                        disk.write(offset / BLOCK as u64 + at as u64, part, durable);
                    }
                }
                op
            }
            Sent::Flush { op } => {
                disk.flush();
                op
            }
        };
        self.input(Input::Disk { slot, op, result });
    }

    /// Completes everything in order, with the clock moved to deadlines no later than `until`.
    pub fn run_until(&mut self, until: Nanos) {
        loop {
            if !self.sent.is_empty() {
                self.complete(0);
            } else if let Some(due) = self.replica.deadline().filter(|due| *due <= until) {
                self.now = self.now.max(due);
                self.input(Input::Wake);
            } else {
                self.now = self.now.max(until);
                return;
            }
        }
    }

    /// Completes what takes no longer than the wait of a log block.
    pub fn drain(&mut self) {
        self.run_until(self.now.plus(Nanos::from_millis(1)));
    }

    pub fn connect(&mut self) -> LinkId {
        let link = LinkId::new(self.next_link);
        self.next_link += 1;
        self.input(Input::Linked { link });
        link
    }

    pub fn hello(&mut self, link: LinkId, client: ClientId, number: u64) {
        let party = Party::Client { client, ticket: ticket(client) };
        let mut header = Header::new(Opcode::Hello);
        header.connection = ConnectionNumber::new(number);
        header.map_version = self.view.version;
        let frame = Frame { header, cache_ids: CacheIds::NONE, body: Body::Hello(Hello::ours(SYSTEM, party)) };
        self.input(Input::Frame { link, frame: &frame });
    }

    /// A link that has said hello and been let in.
    pub fn login(&mut self, client: ClientId, number: u64) -> LinkId {
        let link = self.connect();
        self.hello(link, client, number);
        let answer = self.answers.pop_back().expect("an answer to the hello");
        assert_eq!((answer.link, answer.header.opcode, answer.status()), (link, Opcode::HelloReply, Status::Ok));
        link
    }

    /// Header of a request of Alice over her connection 1, right in every way.
    pub fn header(&mut self, opcode: Opcode, extent: u32, offset: u32, length: u32) -> Header {
        let mut header = Header::new(opcode);
        header.connection = ConnectionNumber::new(1);
        header.request = RequestId::new(self.next_request);
        self.next_request += 1;
        header.generation = SessionGeneration::new(5);
        header.volume = VOLUME;
        header.extent = ExtentIndex::new(extent);
        header.offset = offset;
        header.length = length;
        header.epoch = Epoch::new(1);
        header.map_version = self.view.version;
        header.shard = shard(extent);
        header
    }

    pub fn send(&mut self, link: LinkId, header: Header) -> RequestId {
        self.input(Input::Frame { link, frame: &Frame::bare(header) });
        header.request
    }

    pub fn send_bytes(&mut self, link: LinkId, header: Header, bytes: &[u8]) -> RequestId {
        self.send_damaged(link, header, bytes, bytes)
    }

    /// Sends bytes with the checksums of others.
    pub fn send_damaged(&mut self, link: LinkId, header: Header, bytes: &[u8], meant: &[u8]) -> RequestId {
        let checksums = ChecksumList::of_blocks(meant);
        // Receiving has memory of its own here, so that a test can starve the node alone.
        let limit = core::mem::replace(&mut self.pool.client_limit, usize::MAX);
        let buffer = self.pool.allocate(BufferClass::Client, bytes.len() as u32).unwrap();
        self.pool.client_limit = limit;
        let span = Span::whole(buffer, bytes.len() as u32);
        self.pool.bytes_mut(span).copy_from_slice(bytes);
        self.input(Input::Frame { link, frame: &Frame::with_payload(header, span, checksums) });
        header.request
    }

    pub fn write(&mut self, link: LinkId, extent: u32, offset: u32, bytes: &[u8]) -> RequestId {
        let header = self.header(Opcode::Write, extent, offset, bytes.len() as u32);
        self.send_bytes(link, header, bytes)
    }

    pub fn fragment(&mut self, link: LinkId, extent: u32, offset: u32, bytes: &[u8]) -> RequestId {
        let header = self.header(Opcode::WriteFragment, extent, offset, bytes.len() as u32);
        self.send_bytes(link, header, bytes)
    }

    pub fn read(&mut self, link: LinkId, extent: u32, offset: u32, length: u32) -> RequestId {
        let header = self.header(Opcode::Read, extent, offset, length);
        self.send(link, header)
    }

    /// The answer to a request, if it has come.
    pub fn answer(&mut self, request: RequestId) -> Option<Answer> {
        let at = self.answers.iter().position(|answer| answer.header.request == request)?;
        self.answers.remove(at)
    }

    /// The answer to a request, after all disk requests have completed.
    pub fn finish(&mut self, request: RequestId) -> Answer {
        self.drain();
        self.answer(request).expect("answered")
    }

    /// Bytes of blocks, whether they came or were all zero.
    pub fn contents(&mut self, link: LinkId, extent: u32, offset: u32, length: u32) -> Vec<u8> {
        let request = self.read(link, extent, offset, length);
        let answer = self.finish(request);
        assert_eq!(answer.status(), Status::Ok);
        if answer.header.flags.contains(Flags::ALL_ZERO) { vec![0; length as usize] } else { answer.bytes }
    }

    /// Nothing is held for any client.
    pub fn assert_idle(&self) {
        assert_eq!(self.replica.status().requests, 0, "no request is left");
        assert_eq!(self.pool.client_used, 0, "no buffer is left");
    }
}

pub fn block(value: u8) -> Vec<u8> {
    vec![value; BLOCK]
}
