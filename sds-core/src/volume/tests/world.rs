//! A client, its memory, an MDM and data servers that do what the test says.
use crate::buffer::{BufferClass, BufferId, Buffers, Span};
use crate::checksum::ChecksumList;
use crate::collections::Map;
use crate::control::{ClientToMdm, MdmToClient, OpenError, Opened};
use crate::error::Status;
use crate::id::{
    ClientId, DeviceId, Epoch, ExtentIndex, Incarnation, MapVersion, PoolId, SdsId, SessionGeneration, ShardSequence, SystemId, Ticket,
    TreeId, VolumeId,
};
use crate::machine::{LinkId, Outbox, Token};
use crate::map::{InSync, Member, ShardEntry, ShardMap};
use crate::stripe::Stripe;
use crate::unit::{ByteCount, ByteOffset, EXTENT_BYTES, Nanos};
use crate::view::{DeviceView, SdsView, SessionMode, SessionView, ViewUpdate, VolumeView};
use crate::volume::Client;
use crate::volume::interface::{ClientOptions, Effect, Event, Input, OpenVolume, Outcome, Request};
use crate::wire::{Body, CacheId, CacheIds, Flags, Frame, Header, Opcode};

pub(super) const SYSTEM: SystemId = SystemId::new(77);
pub(super) const ME: ClientId = ClientId::new(5);
pub(super) const VOLUME: VolumeId = VolumeId::new(9);
pub(super) const SIZE: u64 = 64 << 20;
pub(super) const FIRST_CONNECTION: u64 = 1000;
pub(super) const SHARDS: u32 = 16;
/// Devices 1..=3 on servers 1..=3, one each.
pub(super) const SERVERS: u32 = 3;

/// Memory that checks its uses.
#[derive(Debug, Default)]
pub(super) struct Pool {
    buffers: Vec<(Vec<u8>, u32)>,
}

impl Pool {
    pub(super) fn in_use(&self) -> usize {
        self.buffers.iter().filter(|(_, uses)| *uses > 0).count()
    }

    pub(super) fn uses(&self, buffer: BufferId) -> u32 {
        self.buffers[buffer.get() as usize].1
    }
}

impl Buffers for Pool {
    fn allocate(&mut self, _: BufferClass, len: u32) -> Option<BufferId> {
        let len = len as usize;
        if let Some(free) = self.buffers.iter().position(|(bytes, uses)| *uses == 0 && bytes.len() >= len) {
            self.buffers[free].1 = 1;
            return Some(BufferId::new(free as u32));
        }
        self.buffers.push((vec![0xee; len], 1));
        Some(BufferId::new(self.buffers.len() as u32 - 1))
    }

    fn retain(&mut self, buffer: BufferId) {
        assert!(self.uses(buffer) > 0, "retain of a free buffer");
        self.buffers[buffer.get() as usize].1 += 1;
    }

    fn release(&mut self, buffer: BufferId) {
        assert!(self.uses(buffer) > 0, "release of a free buffer");
        self.buffers[buffer.get() as usize].1 -= 1;
    }

    fn bytes(&self, span: Span) -> &[u8] {
        assert!(self.uses(span.buffer) > 0, "bytes of a free buffer");
        &self.buffers[span.buffer.get() as usize].0[span.start as usize..][..span.len as usize]
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        assert!(self.uses(span.buffer) == 1, "only a sole holder writes");
        &mut self.buffers[span.buffer.get() as usize].0[span.start as usize..][..span.len as usize]
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) client: Client,
    pub(super) pool: Pool,
    out: Outbox<Effect>,
    pub(super) now: Nanos,
    next_link: u64,
    next_token: u64,
    pub(super) version: u64,
    /// Frames sent and not yet answered; each holds its buffer.
    pub(super) sent: Vec<(LinkId, Frame)>,
    pub(super) hellos: Vec<(LinkId, Frame)>,
    pub(super) connects: Vec<SdsId>,
    pub(super) control: Vec<ClientToMdm>,
    pub(super) completed: Vec<(Token, Result<Outcome, Status>)>,
    pub(super) opened: Vec<(Token, Result<OpenVolume, OpenError>)>,
    pub(super) closed: Vec<Token>,
    pub(super) events: Vec<Event>,
    pub(super) links_closed: Vec<LinkId>,
    /// What the servers hold, by extent.
    extents: Map<ExtentIndex, Vec<u8>>,
    pub(super) boot: u64,
}

pub(super) fn stripe() -> Stripe {
    Stripe::new(64 << 10, 4).expect("in range")
}

pub(super) fn view(version: u64, generation: u64) -> ViewUpdate {
    let member = |shard: u32| Member { device: DeviceId::new(1 + shard % SERVERS), incarnation: Incarnation::new(1) };
    let shards = (0..SHARDS).map(|shard| ShardEntry {
        epoch: Epoch::new(3),
        in_sync: InSync::sole(member(shard)),
        first_sequence: ShardSequence::new(1),
        ..ShardEntry::default()
    });
    let session =
        SessionView { client: ME, ticket: Ticket::new(1), generation: SessionGeneration::new(generation), mode: SessionMode::Exclusive };
    ViewUpdate {
        system: SYSTEM,
        version: MapVersion::new(version),
        pools: vec![ShardMap { pool: PoolId::new(1), shards: shards.collect() }],
        volumes: Some(vec![VolumeView {
            id: VOLUME,
            name: "demo".into(),
            tree: TreeId::new(4),
            pool: PoolId::new(1),
            size: ByteCount::new(SIZE),
            stripe: stripe(),
            sessions: if generation == 0 { vec![] } else { vec![session] },
        }]),
        servers: Some((
            (1..=SERVERS).map(|id| DeviceView { id: DeviceId::new(id), sds: SdsId::new(id) }).collect(),
            (1..=SERVERS)
                .map(|id| SdsView { id: SdsId::new(id), name: format!("sds{id}"), addresses: vec![format!("127.0.0.1:97{id}")] })
                .collect(),
        )),
        deleted_trees: None,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with_requests_max(64)
    }

    pub(super) fn with_requests_max(requests_max: usize) -> Self {
        let client = Client::new(ClientOptions {
            client: ME,
            ticket: Ticket::new(1),
            name: "test".into(),
            first_connection: FIRST_CONNECTION,
            requests_max,
            reconnect_pause: (Nanos::from_millis(10), Nanos::from_millis(1000)),
        });
        Self {
            client,
            pool: Pool::default(),
            out: Outbox::new(),
            now: Nanos::from_millis(1),
            next_link: 1,
            next_token: 1,
            version: 10,
            sent: vec![],
            hellos: vec![],
            connects: vec![],
            control: vec![],
            completed: vec![],
            opened: vec![],
            closed: vec![],
            events: vec![],
            links_closed: vec![],
            extents: Map::default(),
            boot: 1,
        }
    }

    /// A world with the volume open in generation 1.
    pub(super) fn open() -> Self {
        Self::with_requests_max(64).opened()
    }

    pub(super) fn opened(mut self) -> Self {
        self.welcome();
        self.step(Input::Open { token: Token::new(0), volume: "demo", mode: SessionMode::Exclusive, force: false, io_timeout: None });
        let request = self.asked_open().expect("the open is put to the MDM");
        self.grant(request, 1);
        assert!(self.opened.pop().expect("answered").1.is_ok());
        self.control.clear();
        self
    }

    pub(super) fn welcome(&mut self) {
        self.step(Input::Mdm { up: true });
        self.hear(&MdmToClient::Welcome { system: SYSTEM });
    }

    pub(super) fn hear(&mut self, message: &MdmToClient) {
        self.step(Input::Control(message));
    }

    pub(super) fn show(&mut self, view: ViewUpdate) {
        self.version = view.version.get();
        self.hear(&MdmToClient::View(view));
    }

    pub(super) fn asked_open(&self) -> Option<u64> {
        self.control.iter().rev().find_map(|message| match message {
            ClientToMdm::Open { request, .. } => Some(*request),
            _ => None,
        })
    }

    pub(super) fn asked_close(&self) -> Option<u64> {
        self.control.iter().rev().find_map(|message| match message {
            ClientToMdm::Close { request, .. } => Some(*request),
            _ => None,
        })
    }

    pub(super) fn grant(&mut self, request: u64, generation: u64) {
        self.show(view(self.version + 1, generation));
        self.hear_granted(request, generation, self.version);
    }

    /// The MDM's answer to an open, which comes by itself: with a view of this version or a later one.
    pub(super) fn hear_granted(&mut self, request: u64, generation: u64, version: u64) {
        let opened = Opened {
            volume: VOLUME,
            generation: SessionGeneration::new(generation),
            mode: SessionMode::Exclusive,
            version: MapVersion::new(version),
        };
        self.hear(&MdmToClient::Opened { request, result: Ok(opened) });
    }

    pub(super) fn step(&mut self, input: Input<'_>) {
        self.client.step(self.now, input, &mut self.pool, &mut self.out);
        for effect in self.out.drain() {
            match effect {
                Effect::Control(message) => self.control.push(message),
                Effect::Connect { sds, addresses } => {
                    assert!(!addresses.is_empty());
                    self.connects.push(sds);
                }
                Effect::Send { link, frame } if frame.header.opcode == Opcode::Hello => self.hellos.push((link, frame)),
                Effect::Send { link, frame } => {
                    frame.check().expect("a frame keeps the rules of its opcode");
                    self.sent.push((link, frame));
                }
                Effect::CloseLink { link } => self.links_closed.push(link),
                Effect::Complete { token, result } => self.completed.push((token, result)),
                Effect::Opened { token, result } => self.opened.push((token, result)),
                Effect::Closed { token } => self.closed.push(token),
                Effect::Volumes { .. } => {}
                Effect::Event(event) => self.events.push(event),
            }
        }
    }

    /// Lets time pass, waking the client at each deadline.
    pub(super) fn pass(&mut self, span: Nanos) {
        let end = self.now.plus(span);
        while let Some(at) = self.client.deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.step(Input::Wake);
        }
        self.now = end;
    }

    /// Answers every connect and greeting that is due.
    pub(super) fn connect_all(&mut self) {
        for sds in std::mem::take(&mut self.connects) {
            self.link_up(sds);
        }
    }

    pub(super) fn link_up(&mut self, sds: SdsId) -> LinkId {
        let link = LinkId::new(self.next_link);
        self.next_link += 1;
        self.step(Input::Linked { sds, link });
        let (greeted, hello) = self.hellos.pop().expect("a greeting");
        assert_eq!(greeted, link);
        let header = Header { connection: hello.header.connection, length: 1, ..Header::new(Opcode::HelloReply) };
        self.step(Input::Frame { link, frame: &Frame::bare(header) });
        link
    }

    pub(super) fn lose(&mut self, link: LinkId) {
        for (on, frame) in std::mem::take(&mut self.sent) {
            if on == link {
                self.drop_payload(&frame);
            } else {
                self.sent.push((on, frame));
            }
        }
        self.step(Input::Unlinked { link });
    }

    pub(super) fn drop_payload(&mut self, frame: &Frame) {
        if let Body::Payload { span, .. } = frame.body {
            self.pool.release(span.buffer);
        }
    }

    pub(super) fn token(&mut self) -> Token {
        self.next_token += 1;
        Token::new(self.next_token)
    }

    pub(super) fn request(&mut self, request: Request) -> Token {
        let token = self.token();
        self.step(Input::Request { token, volume: VOLUME, request });
        token
    }

    pub(super) fn buffer_of(&mut self, bytes: &[u8]) -> Span {
        let buffer = self.pool.allocate(BufferClass::Client, bytes.len() as u32).expect("unbounded");
        let span = Span::whole(buffer, bytes.len() as u32);
        self.pool.bytes_mut(span).copy_from_slice(bytes);
        span
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Token {
        let span = self.buffer_of(bytes);
        self.request(Request::Write { offset: ByteOffset::new(offset), span, durable: false })
    }

    pub(super) fn read(&mut self, offset: u64, len: u32) -> Token {
        self.request(Request::Read { offset: ByteOffset::new(offset), len })
    }

    /// Takes the outcome of a request, if it is complete.
    pub(super) fn outcome(&mut self, token: Token) -> Option<Result<Outcome, Status>> {
        let at = self.completed.iter().position(|(completed, _)| *completed == token)?;
        Some(self.completed.remove(at).1)
    }

    /// The bytes of a completed read; its buffer is released.
    pub(super) fn bytes_read(&mut self, token: Token, len: usize) -> Vec<u8> {
        match self.outcome(token).expect("complete").expect("no error") {
            Outcome::Data(span) => {
                assert_eq!(span.len as usize, len);
                let bytes = self.pool.bytes(span).to_vec();
                self.pool.release(span.buffer);
                bytes
            }
            Outcome::Zeroes => vec![0; len],
            other @ (Outcome::Done | Outcome::Status(_)) => panic!("a read came to {other:?}"),
        }
    }

    fn extent(&mut self, extent: ExtentIndex) -> &mut Vec<u8> {
        self.extents.entry(extent).or_insert_with(|| vec![0; EXTENT_BYTES as usize])
    }

    /// Does what a frame asks; the answer.
    pub(super) fn obey(&mut self, frame: &Frame) -> Frame {
        let header = frame.header;
        let range = header.offset as usize..(header.offset + header.length) as usize;
        let reply = |opcode| Frame::bare(Header { opcode, flags: Flags::NONE, ..header });
        let mut written = reply(Opcode::WriteReply);
        written.cache_ids = CacheIds::one(CacheId { device: header.device, boot: self.boot });
        match header.opcode {
            Opcode::Write | Opcode::WriteFragment => {
                let Body::Payload { span, checksums } = frame.body else { panic!("a write has bytes") };
                assert!(checksums.match_blocks(self.pool.bytes(span)));
                let bytes = self.pool.bytes(span).to_vec();
                self.extent(header.extent)[range].copy_from_slice(&bytes);
                written
            }
            Opcode::Zero => {
                self.extent(header.extent)[range].fill(0);
                written
            }
            Opcode::Read => {
                let bytes = self.extent(header.extent)[range].to_vec();
                if bytes.iter().all(|byte| *byte == 0) {
                    return Frame::bare(Header { opcode: Opcode::ReadReply, flags: Flags::ALL_ZERO, ..header });
                }
                let span = self.buffer_of(&bytes);
                Frame::with_payload(Header { opcode: Opcode::ReadReply, ..header }, span, ChecksumList::of_blocks(&bytes))
            }
            Opcode::Flush => reply(Opcode::FlushReply),
            Opcode::BlockStatus => {
                let blocks: Vec<bool> = self.extent(header.extent).chunks(4096).map(|block| block.iter().any(|byte| *byte != 0)).collect();
                let mut set = [0_u8; 32];
                for (block, _) in blocks.iter().enumerate().filter(|(_, data)| **data) {
                    set[block / 8] |= 1 << (block % 8);
                }
                let span = self.buffer_of(&set);
                Frame::with_payload(Header { opcode: Opcode::BlockStatusReply, ..header }, span, ChecksumList::of_blocks(&set))
            }
            _ => panic!("a client does not send {:?}", header.opcode),
        }
    }

    /// Takes the oldest frame sent.
    pub(super) fn take_sent(&mut self) -> (LinkId, Frame) {
        self.sent.remove(0)
    }

    /// Answers a frame as a good server does.
    pub(super) fn answer(&mut self, (link, frame): (LinkId, Frame)) {
        let reply = self.obey(&frame);
        self.drop_payload(&frame);
        self.step(Input::Frame { link, frame: &reply });
    }

    /// Answers a frame with a refusal.
    pub(super) fn refuse(&mut self, (link, frame): (LinkId, Frame), status: Status) {
        self.drop_payload(&frame);
        let opcode = match frame.header.opcode {
            Opcode::Read => Opcode::ReadReply,
            Opcode::Flush => Opcode::FlushReply,
            Opcode::BlockStatus => Opcode::BlockStatusReply,
            _ => Opcode::WriteReply,
        };
        let map_version = if status == Status::MapStale { MapVersion::new(self.version + 1) } else { frame.header.map_version };
        let header = Header { opcode, status, map_version, flags: Flags::NONE, ..frame.header };
        self.step(Input::Frame { link, frame: &Frame::bare(header) });
    }

    /// Connects and answers until nothing is left to answer.
    pub(super) fn settle(&mut self) {
        loop {
            self.connect_all();
            if self.sent.is_empty() {
                return;
            }
            let sent = self.take_sent();
            self.answer(sent);
        }
    }

    /// Nothing is left over: no buffer, no request.
    pub(super) fn assert_idle(&self) {
        assert_eq!(self.pool.in_use(), 0, "buffers leaked");
        assert_eq!(self.client.requests_in_flight(), 0);
        assert!(self.client.exchanges.is_empty(), "exchanges leaked");
        assert_eq!(self.client.spare, crate::limits::VOLUME_FANOUT_MAX, "spare exchanges leaked");
    }
}
