//! A storage node and its store that have warmed up allocate nothing for a request, whatever it is, nor
//! for what goes on behind requests: activation, sealing, checkpoints, descriptors read and evicted,
//! extents freed and given out again.

mod counting;

use counting::allocations;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::collections::OpId;
use sds_core::error::Status;
use sds_core::id::{
    BootId, ClientId, ConnectionNumber, DeviceId, DeviceUuid, Epoch, ExtentIndex, Incarnation, MapVersion, PoolId, RequestId, SdsId,
    SessionGeneration, SystemId, Ticket, TreeId, VolumeId,
};
use sds_core::machine::{DiskResult, LinkId, Outbox};
use sds_core::map::{InSync, Member, ShardEntry, ShardMap};
use sds_core::replica::Replica;
use sds_core::replica::interface::{DeviceSlot, Effect, Input, ReplicaOptions};
use sds_core::shard::shard_of;
use sds_core::store::format::{FormatOptions, plan};
use sds_core::store::interface::{Statistics, StoreOptions};
use sds_core::stripe::Stripe;
use sds_core::unit::{BLOCK_BYTES, ByteCount, ByteOffset, EXTENT_BYTES, Nanos};
use sds_core::view::{SessionMode, SessionView, ViewUpdate, VolumeView};
use sds_core::wire::{Body, CacheIds, Flags, Frame, Header, Hello, Opcode, Party};
use sds_ring::{BufferPool, PoolOptions};

const SYSTEM: SystemId = SystemId::new(1);
const BOOT: BootId = BootId::new(1);
const CLIENT: ClientId = ClientId::new(1);
const TICKET: Ticket = Ticket::new(1);
const VOLUME: VolumeId = VolumeId::new(1);
const TREE: TreeId = TreeId::new(1);
const DEVICE: DeviceId = DeviceId::new(1);
const SLOT: DeviceSlot = DeviceSlot(0);
const LINK: LinkId = LinkId::new(1);
const SHARDS: u32 = 16;
/// More than the descriptors that the cache holds.
const EXTENTS: u32 = 320;
const DEVICE_BYTES: u64 = 360 << 20;
const REQUESTS: usize = 64;

/// A disk operation under way.
type Sent = (OpId, Option<(ByteOffset, Span, bool)>);

struct World {
    replica: Replica,
    pool: BufferPool,
    disk: Vec<u8>,
    out: Outbox<Effect>,
    sent: Vec<Sent>,
    now: u64,
    random: u64,
    request: u64,
    in_flight: usize,
    answered: u64,
    failed: u64,
}

fn view() -> ViewUpdate {
    let member = Member { device: DEVICE, incarnation: Incarnation::new(1) };
    let entry = ShardEntry { epoch: Epoch::new(1), in_sync: InSync::sole(member), ..ShardEntry::default() };
    let session = SessionView { client: CLIENT, ticket: TICKET, generation: SessionGeneration::new(1), mode: SessionMode::Exclusive };
    ViewUpdate {
        system: SYSTEM,
        version: MapVersion::new(2),
        pools: vec![ShardMap { pool: PoolId::new(1), shards: vec![entry; SHARDS as usize] }],
        volumes: Some(vec![VolumeView {
            id: VOLUME,
            name: "demo".into(),
            tree: TREE,
            pool: PoolId::new(1),
            size: ByteCount::new(u64::from(EXTENTS) * u64::from(EXTENT_BYTES)),
            stripe: Stripe::default(),
            sessions: vec![session],
        }]),
        servers: None,
        deleted_trees: None,
    }
}

impl World {
    fn new() -> Self {
        let uuid = DeviceUuid::new(7);
        let device_bytes = ByteCount::new(DEVICE_BYTES);
        // A small log, so that checkpoints come often.
        let formatted =
            plan(&FormatOptions { device_bytes, system: SYSTEM, device: uuid, boot: BOOT, log_blocks: Some(64) }).expect("fits");
        let mut disk = vec![0; usize::try_from(DEVICE_BYTES).expect("fits")];
        for (offset, block) in formatted.index_blocks().chain(formatted.superblocks()) {
            at(&mut disk, offset, BLOCK_BYTES).copy_from_slice(&block);
        }
        let mut world = Self {
            replica: Replica::new(ReplicaOptions {
                boot: BOOT,
                links_max: 4,
                requests_max: 256,
                map_wait: Nanos::from_millis(500),
                disk_hang: ReplicaOptions::DISK_HANG_DEFAULT,
                trust_refused: true,
            }),
            pool: BufferPool::new(&PoolOptions { bytes: 32 << 20, ..PoolOptions::default() }).expect("memory"),
            disk,
            out: Outbox::new(),
            sent: Vec::with_capacity(1024),
            now: 1,
            random: 0x9e37_79b9_7f4a_7c15,
            request: 1,
            in_flight: 0,
            answered: 0,
            failed: 0,
        };
        let options = StoreOptions {
            device_bytes,
            system: SYSTEM,
            boot: BOOT,
            volatile_cache: true,
            descriptor_cache_bytes: 0,
            requests_max: 256,
            group_commit_wait: Nanos::from_micros(300),
            seal_after: Nanos::from_millis(1000),
        };
        world.step(Input::AddDevice { slot: SLOT, options });
        world.drain();
        world.step(Input::Registered { system: SYSTEM, sds: SdsId::new(1), incarnation: Incarnation::new(1), devices: &[(uuid, DEVICE)] });
        world.step(Input::View(&view()));
        world.drain();
        world.step(Input::Linked { link: LINK });
        let mut header = Header::new(Opcode::Hello);
        header.connection = ConnectionNumber::new(1);
        header.map_version = MapVersion::new(2);
        let hello = Hello::ours(SYSTEM, Party::Client { client: CLIENT, ticket: TICKET });
        let frame = Frame { header, cache_ids: CacheIds::NONE, body: Body::Hello(hello) };
        world.in_flight = 1;
        world.step(Input::Frame { link: LINK, frame: &frame });
        assert_eq!((world.answered, world.failed), (1, 0), "let in");
        world
    }

    fn random(&mut self, below: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from(self.random % u64::from(below)).expect("below a u32")
    }

    fn step(&mut self, input: Input<'_>) {
        self.now += 1000;
        self.replica.step(Nanos::new(self.now), input, &mut self.pool, &mut self.out);
        for effect in self.out.drain() {
            match effect {
                Effect::DiskRead { op, offset, span, .. } => self.sent.push((op, Some((offset, span, false)))),
                Effect::DiskWrite { op, offset, span, .. } => self.sent.push((op, Some((offset, span, true)))),
                Effect::DiskFlush { op, .. } => self.sent.push((op, None)),
                Effect::Send { frame, .. } => {
                    if let Body::Payload { span, .. } = frame.body {
                        self.pool.release(span.buffer);
                    }
                    self.in_flight -= 1;
                    self.answered += 1;
                    self.failed += u64::from(frame.header.status != Status::Ok);
                }
                Effect::Register | Effect::Confirm { .. } | Effect::Event(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Ends one disk operation, any of those under way.
    fn complete(&mut self) {
        let nth = self.random(u32::try_from(self.sent.len()).expect("few")) as usize;
        let (op, transfer) = self.sent.swap_remove(nth);
        match transfer {
            Some((offset, span, true)) => at(&mut self.disk, offset, span.len).copy_from_slice(self.pool.bytes(span)),
            Some((offset, span, false)) => self.pool.bytes_mut(span).copy_from_slice(at(&mut self.disk, offset, span.len)),
            None => {}
        }
        self.step(Input::Disk { slot: SLOT, op, result: DiskResult::Done });
    }

    /// Until no operation is under way and no deadline is near.
    fn drain(&mut self) {
        loop {
            if !self.sent.is_empty() {
                self.complete();
            } else if self.replica.deadline().is_some_and(|due| due <= Nanos::new(self.now).plus(Nanos::from_millis(10))) {
                self.wake();
            } else {
                return;
            }
        }
    }

    fn wake(&mut self) {
        let due = self.replica.deadline().map_or(self.now, Nanos::get);
        self.now = self.now.max(due);
        self.step(Input::Wake);
    }

    /// A request of any kind, often of blocks that others are changing.
    fn ask(&mut self) {
        let extent = if self.random(2) == 0 { self.random(4) } else { self.random(EXTENTS) };
        let block = self.random(256);
        let (opcode, first, blocks, flags) = match self.random(40) {
            0..12 => (Opcode::Read, block, 1, Flags::NONE),
            12..14 => (Opcode::Read, block & !31, 32, Flags::NONE),
            14..28 => (Opcode::Write, block, 1, Flags::NONE),
            28..30 => (Opcode::Write, block & !31, 32, Flags::NONE),
            30 => (Opcode::Write, block, 1, Flags::DURABLE),
            31..33 => (Opcode::WriteFragment, block, 0, Flags::NONE),
            33 => (Opcode::Zero, block & !15, 16, Flags::NONE),
            34..36 => (Opcode::Zero, 0, 256, Flags::TRIM),
            36 => (Opcode::BlockStatus, 0, 256, Flags::NONE),
            _ => (Opcode::Flush, 0, 0, Flags::NONE),
        };
        let length = if opcode == Opcode::WriteFragment { 512 } else { blocks * BLOCK_BYTES };
        let extent = if opcode == Opcode::Flush { 0 } else { extent };
        let mut header = Header::new(opcode);
        header.connection = ConnectionNumber::new(1);
        header.request = RequestId::new(self.request);
        header.generation = SessionGeneration::new(1);
        header.volume = VOLUME;
        header.extent = ExtentIndex::new(extent);
        header.offset = first * BLOCK_BYTES;
        header.length = length;
        header.flags = flags;
        header.epoch = Epoch::new(1);
        header.map_version = MapVersion::new(2);
        header.shard = shard_of(TREE, ExtentIndex::new(extent), SHARDS);
        header.device = if opcode == Opcode::Flush { DEVICE } else { header.device };
        self.request += 1;
        let frame = match opcode {
            Opcode::Write | Opcode::WriteFragment => {
                let span = Span::whole(self.pool.allocate(BufferClass::Client, length).expect("enough memory"), length);
                self.pool.bytes_mut(span).fill(3);
                Frame::with_payload(header, span, ChecksumList::of_blocks(self.pool.bytes(span)))
            }
            _ => Frame::bare(header),
        };
        self.in_flight += 1;
        self.step(Input::Frame { link: LINK, frame: &frame });
    }

    /// Completes this many requests with many in flight, now and then after a rest in which extents are
    /// sealed; the allocations it took.
    fn run(&mut self, requests: u64) -> u64 {
        let (end, before) = (self.answered + requests, allocations());
        while self.answered < end {
            if self.random(5000) == 0 {
                while self.in_flight > 0 || self.replica.deadline().is_some() {
                    if self.sent.is_empty() { self.wake() } else { self.complete() }
                }
            }
            if self.in_flight < REQUESTS && self.random(3) > 0 {
                self.ask();
            } else if self.sent.is_empty() {
                self.wake();
            } else {
                self.complete();
            }
        }
        allocations() - before
    }

    fn statistics(&self) -> Statistics {
        self.replica.devices()[0].statistics
    }
}

fn at(disk: &mut [u8], offset: ByteOffset, len: u32) -> &mut [u8] {
    let start = usize::try_from(offset.get()).expect("inside a disk in memory");
    &mut disk[start..start + len as usize]
}

#[test]
fn a_warm_node_and_its_store_allocate_nothing() {
    let mut world = World::new();
    assert!(world.run(60_000) > 0, "the count counts");
    let before = world.statistics();
    let allocations = world.run(60_000);
    let after = world.statistics();
    assert_eq!(world.failed, 0, "nothing is refused");
    assert!(after.activations > before.activations + 1000, "extents were activated, and sealed before that");
    assert!(after.metadata_writes > before.metadata_writes + 1000, "there were checkpoints");
    assert!(after.flushes > before.flushes + 1000, "the device was flushed");
    assert_eq!(allocations, 0, "in 60,000 requests");
}
