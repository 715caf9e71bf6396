//! A client machine that has warmed up allocates nothing for a request, whatever it is.

mod counting;

use counting::allocations;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::control::{ClientToMdm, MdmToClient, Opened};
use sds_core::id::{
    ClientId, DeviceId, Epoch, Incarnation, MapVersion, PoolId, SdsId, SessionGeneration, ShardSequence, SystemId, Ticket, TreeId, VolumeId,
};
use sds_core::machine::{LinkId, Outbox, Token};
use sds_core::map::{InSync, Member, ShardEntry, ShardMap};
use sds_core::stripe::Stripe;
use sds_core::unit::{ByteCount, ByteOffset, Nanos};
use sds_core::view::{DeviceView, SdsView, SessionMode, SessionView, ViewUpdate, VolumeView};
use sds_core::volume::Client;
use sds_core::volume::interface::{ClientOptions, Effect, Input, Outcome, Request};
use sds_core::wire::{BLOCK_STATUS_BYTES, Body, CacheId, CacheIds, Flags, Frame, Header, Opcode};
use sds_ring::{BufferPool, PoolOptions};

const SERVERS: u32 = 3;
const SIZE: u64 = 1 << 30;
const VOLUME: VolumeId = VolumeId::new(1);
const REQUESTS: usize = 64;

struct World {
    client: Client,
    pool: BufferPool,
    out: Outbox<Effect>,
    now: u64,
    random: u64,
    sent: Vec<(LinkId, Frame)>,
    /// What comes out beside frames and completions.
    connects: Vec<SdsId>,
    opens: Vec<u64>,
    completed: u64,
    in_flight: usize,
}

fn view() -> ViewUpdate {
    let entry = |shard: u32| ShardEntry {
        epoch: Epoch::new(1),
        in_sync: InSync::sole(Member { device: DeviceId::new(shard % SERVERS + 1), incarnation: Incarnation::new(1) }),
        first_sequence: ShardSequence::new(1),
        ..ShardEntry::default()
    };
    let (client, ticket, generation) = (ClientId::new(1), Ticket::new(1), SessionGeneration::new(1));
    ViewUpdate {
        system: SystemId::new(1),
        version: MapVersion::new(2),
        pools: vec![ShardMap { pool: PoolId::new(1), shards: (0..4096).map(entry).collect() }],
        volumes: Some(vec![VolumeView {
            id: VOLUME,
            name: "demo".into(),
            tree: TreeId::new(1),
            pool: PoolId::new(1),
            size: ByteCount::new(SIZE),
            stripe: Stripe::default(),
            sessions: vec![SessionView { client, ticket, generation, mode: SessionMode::Exclusive }],
        }]),
        servers: Some((
            (1..=SERVERS).map(|id| DeviceView { id: DeviceId::new(id), sds: SdsId::new(id) }).collect(),
            (1..=SERVERS)
                .map(|id| SdsView { id: SdsId::new(id), name: format!("sds{id}"), addresses: vec![format!("10.0.0.{id}:1")] })
                .collect(),
        )),
        deleted_trees: None,
    }
}

impl World {
    fn new() -> Self {
        let client = Client::new(ClientOptions {
            client: ClientId::new(1),
            ticket: Ticket::new(1),
            name: "steady".into(),
            first_connection: 1,
            requests_max: REQUESTS,
            reconnect_pause: (Nanos::from_millis(10), Nanos::from_millis(1000)),
        });
        let pool = BufferPool::new(&PoolOptions { bytes: 32 << 20, ..PoolOptions::default() }).expect("memory");
        let mut world = Self {
            client,
            pool,
            out: Outbox::new(),
            now: 1,
            random: 0x9e37_79b9_7f4a_7c15,
            sent: Vec::with_capacity(1024),
            connects: vec![],
            opens: vec![],
            completed: 0,
            in_flight: 0,
        };
        world.step(Input::Mdm { up: true });
        world.step(Input::Control(&MdmToClient::Welcome { system: SystemId::new(1) }));
        world.step(Input::Open { token: Token::new(1), volume: "demo", mode: SessionMode::Exclusive, force: false, io_timeout: None });
        world.step(Input::Control(&MdmToClient::View(view())));
        let opened =
            Opened { volume: VOLUME, generation: SessionGeneration::new(1), mode: SessionMode::Exclusive, version: MapVersion::new(2) };
        let request = world.opens[0];
        world.step(Input::Control(&MdmToClient::Opened { request, result: Ok(opened) }));
        assert_eq!(world.client.volumes().count(), 1);
        world
    }

    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn step(&mut self, input: Input<'_>) {
        self.now += 1000;
        self.client.step(Nanos::new(self.now), input, &mut self.pool, &mut self.out);
        for effect in self.out.drain() {
            match effect {
                Effect::Send { link, frame } => self.sent.push((link, frame)),
                Effect::Connect { sds, .. } => self.connects.push(sds),
                Effect::Complete { result, .. } => {
                    self.completed += 1;
                    self.in_flight -= 1;
                    if let Outcome::Data(span) = result.expect("no error") {
                        self.pool.release(span.buffer);
                    }
                }
                Effect::Control(ClientToMdm::Open { request, .. }) => self.opens.push(request),
                Effect::Control(_) | Effect::Opened { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        while let Some(sds) = self.connects.pop() {
            self.step(Input::Linked { sds, link: LinkId::new(u64::from(sds.get())) });
        }
    }

    /// A request of any kind, often of blocks that others are changing.
    fn ask(&mut self) {
        let block = if self.random(2) == 0 { self.random(32) } else { self.random(SIZE / 4096 / 32) * 32 };
        let offset = ByteOffset::new(block * 4096);
        let request = match self.random(20) {
            0..8 => Request::Read { offset, len: 4096 },
            8..15 => Request::Write { offset, span: self.payload(4096), durable: false },
            15 => Request::Write { offset, span: self.payload(512), durable: true },
            16 => Request::Zero { offset: ByteOffset::new(block / 2048 * 2048 * 4096), len: 8 << 20, trim: true, durable: false },
            17 => Request::Status { offset, len: 4096 },
            18 => Request::Write { offset: ByteOffset::new(block / 32 * 32 * 4096), span: self.payload(128 << 10), durable: false },
            _ => Request::Flush,
        };
        self.in_flight += 1;
        self.step(Input::Request { token: Token::new(7), volume: VOLUME, request });
    }

    fn payload(&mut self, len: u32) -> Span {
        let span = Span::whole(self.pool.allocate(BufferClass::Client, len).expect("enough memory"), len);
        self.pool.bytes_mut(span).fill(3);
        span
    }

    fn answer(&mut self) {
        let nth = self.random(self.sent.len() as u64);
        let (link, Frame { header, body, .. }) = self.sent.swap_remove(usize::try_from(nth).expect("small"));
        if let Body::Payload { span, .. } = body {
            self.pool.release(span.buffer);
        }
        let bare = |opcode| Frame::bare(Header { opcode, flags: Flags::NONE, ..header });
        let reply = match header.opcode {
            Opcode::Hello => Frame::bare(Header { length: 1, ..bare(Opcode::HelloReply).header }),
            Opcode::Read => self.with_bytes(bare(Opcode::ReadReply).header, header.length),
            Opcode::BlockStatus => self.with_bytes(bare(Opcode::BlockStatusReply).header, BLOCK_STATUS_BYTES),
            Opcode::Flush => bare(Opcode::FlushReply),
            _ => Frame { cache_ids: CacheIds::one(CacheId { device: header.device, boot: 1 }), ..bare(Opcode::WriteReply) },
        };
        self.step(Input::Frame { link, frame: &reply });
    }

    fn with_bytes(&mut self, header: Header, len: u32) -> Frame {
        let span = self.payload(len);
        Frame::with_payload(header, span, ChecksumList::of_blocks(self.pool.bytes(span)))
    }

    /// Completes this many requests with many in flight; the allocations it took.
    fn run(&mut self, requests: u64) -> u64 {
        let (end, before) = (self.completed + requests, allocations());
        while self.completed < end {
            if self.in_flight < REQUESTS && self.random(3) > 0 {
                self.ask();
            } else if !self.sent.is_empty() {
                self.answer();
            }
        }
        allocations() - before
    }
}

#[test]
fn a_warm_client_machine_allocates_nothing() {
    let mut world = World::new();
    assert!(world.run(20_000) > 0, "the count counts");
    let allocations = world.run(50_000);
    assert_eq!(allocations, 0, "in 50,000 requests");
}
