//! A stand-in for the MDM that says what a test wants, and a client that speaks the data protocol over
//! a plain socket.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use sds_core::buffer::{BufferId, Span};
use sds_core::checksum::ChecksumList;
use sds_core::codec::{LENGTH_BYTES, decode, encode_framed, framed_length};
use sds_core::control::{DeviceReport, DeviceState, MdmToSds, SdsToMdm, Speaker};
use sds_core::id::{
    ClientId, ConnectionNumber, DeviceId, DeviceUuid, Epoch, ExtentIndex, Incarnation, MapVersion, PoolId, RequestId, SdsId,
    SessionGeneration, SystemId, Ticket, TreeId, VolumeId,
};
use sds_core::map::{InSync, Member, ShardEntry, ShardMap};
use sds_core::shard::shard_of;
use sds_core::stripe::Stripe;
use sds_core::unit::ByteCount;
use sds_core::view::{DeviceView, SdsView, SessionMode, SessionView, ViewUpdate, VolumeView};
use sds_core::wire::hello::Party;
use sds_core::wire::{Body, Frame, HEAD_BYTES_MAX, Header, Hello, Opcode, decode_head, encode_head};
use sds_server::{DeviceConfig, NodeConfig, Size};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

pub const SYSTEM: SystemId = SystemId::new(0x5157);
pub const INCARNATION: Incarnation = Incarnation::new(3);
pub const SHARDS: u32 = 8;
pub const WAIT: Duration = Duration::from_secs(20);

/// A configuration with devices of 16 MiB in a directory.
pub fn config(directory: &Path, devices: usize, mdm: &FakeMdm) -> NodeConfig {
    let mut config = NodeConfig::new(directory.join("state"));
    config.listen = "127.0.0.1:0".parse().expect("an address");
    config.mdm = vec![mdm.address()];
    config.memory = Size::new(32 << 20);
    for index in 0..devices {
        let mut device = DeviceConfig::file(directory.join(format!("disk{index}")), Size::new(64 << 20));
        device.allow_small_sectors = true;
        config.devices.push(device);
    }
    config
}

/// A directory on a disk: /tmp may be a tmpfs.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(option_env!("CARGO_TARGET_TMPDIR").unwrap_or(".")).expect("a directory")
}

pub struct FakeMdm {
    listener: TcpListener,
}

impl FakeMdm {
    pub fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").expect("a port") }
    }

    pub fn address(&self) -> String {
        self.listener.local_addr().expect("bound").to_string()
    }

    /// Waits for a data server to connect.
    pub fn accept(&self) -> SdsConnection {
        let (mut stream, _) = self.listener.accept().expect("accepts");
        stream.set_read_timeout(Some(WAIT)).expect("set");
        let mut preamble = [0; Speaker::PREAMBLE_BYTES];
        stream.read_exact(&mut preamble).expect("a preamble");
        assert_eq!(Speaker::from_preamble(preamble), Some(Speaker::Sds));
        SdsConnection { stream }
    }
}

pub struct SdsConnection {
    stream: TcpStream,
}

/// What a Register says.
#[derive(Debug)]
pub struct Registration {
    pub system: SystemId,
    pub sds: u128,
    pub life: u128,
    pub addresses: Vec<String>,
    pub devices: Vec<DeviceReport>,
}

impl SdsConnection {
    pub fn try_receive(&mut self) -> std::io::Result<SdsToMdm> {
        let mut length = [0; LENGTH_BYTES];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; framed_length(length).expect("believable")];
        self.stream.read_exact(&mut body)?;
        Ok(decode(&body).expect("decodes"))
    }

    pub fn receive(&mut self) -> SdsToMdm {
        self.try_receive().expect("a message")
    }

    pub fn send(&mut self, message: &MdmToSds) {
        self.stream.write_all(&encode_framed(message).expect("fits")).expect("sent");
    }

    /// The next Register that satisfies `wanted`; heartbeats in between are passed over.
    pub fn register(&mut self, wanted: impl Fn(&Registration) -> bool) -> Registration {
        let end = Instant::now() + WAIT;
        while Instant::now() < end {
            if let SdsToMdm::Register { system, sds, life, addresses, devices, .. } = self.receive() {
                let registration = Registration { system, sds: sds.get(), life, addresses, devices };
                if wanted(&registration) {
                    return registration;
                }
            }
        }
        panic!("no such registration");
    }

    /// Answers with ids 1, 2, … in order of UUID.
    pub fn registered(&mut self, registration: &Registration) -> Vec<(DeviceUuid, DeviceId)> {
        let mut uuids: Vec<DeviceUuid> = registration.devices.iter().map(|device| device.uuid).filter(|uuid| !uuid.is_nil()).collect();
        uuids.sort_unstable();
        let devices: Vec<_> = uuids.into_iter().zip((1..).map(DeviceId::new)).collect();
        let message = MdmToSds::Registered { system: SYSTEM, sds: SdsId::new(1), incarnation: INCARNATION, devices: devices.clone() };
        self.send(&message);
        devices
    }

    /// Goes through a start: registers until all devices are open, gives the view, waits for its confirmation.
    pub fn bring_up(&mut self, version: u64) -> Registration {
        let first = self.register(|_| true);
        self.registered(&first);
        let open = |registration: &Registration| registration.devices.iter().all(|device| device.state == DeviceState::Open);
        let registration = if open(&first) { first } else { self.register(open) };
        self.registered(&registration);
        self.send(&MdmToSds::View(view(version, &registration)));
        self.confirmed(version);
        registration
    }

    pub fn confirmed(&mut self, version: u64) {
        loop {
            match self.receive() {
                SdsToMdm::Confirm { version: confirmed } if confirmed >= MapVersion::new(version) => return,
                _ => {}
            }
        }
    }
}

pub fn all_open(registration: &Registration) -> bool {
    registration.devices.iter().all(|device| device.state == DeviceState::Open)
}

/// Volume 1 of 8 MiB with one session, its shards on all devices of the server in turn.
pub fn view(version: u64, registration: &Registration) -> ViewUpdate {
    let device_count = u32::try_from(registration.devices.len()).expect("few");
    let entry = |shard: u32| ShardEntry {
        epoch: Epoch::new(1),
        in_sync: InSync::sole(Member { device: DeviceId::new(1 + shard % device_count), incarnation: INCARNATION }),
        first_sequence: registration.devices.iter().map(|device| device.sequence_ceiling).max().unwrap_or_default(),
        ..ShardEntry::default()
    };
    ViewUpdate {
        system: SYSTEM,
        version: MapVersion::new(version),
        pools: vec![ShardMap { pool: PoolId::new(1), shards: (0..SHARDS).map(entry).collect() }],
        volumes: Some(vec![VolumeView {
            id: VolumeId::new(1),
            name: "one".to_owned(),
            tree: TreeId::new(1),
            pool: PoolId::new(1),
            size: ByteCount::new(8 << 20),
            stripe: Stripe::new(128 << 10, 8).expect("a layout"),
            sessions: vec![SessionView {
                client: ClientId::new(77),
                ticket: Ticket::new(78),
                generation: SessionGeneration::new(1),
                mode: SessionMode::Exclusive,
            }],
        }]),
        servers: Some((
            (1..=device_count).map(|id| DeviceView { id: DeviceId::new(id), sds: SdsId::new(1) }).collect(),
            vec![SdsView { id: SdsId::new(1), name: "n".to_owned(), addresses: registration.addresses.clone() }],
        )),
        deleted_trees: None,
    }
}

/// A client on a plain socket.
pub struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
    next: u64,
    connection: ConnectionNumber,
    version: MapVersion,
}

impl Client {
    /// Connects and says hello.
    pub fn hello(address: &str, connection: u64, version: u64) -> Self {
        let mut client = Self::silent(address, connection, version);
        let mut header = Header::new(Opcode::Hello);
        header.connection = client.connection;
        let party = Party::Client { client: ClientId::new(77), ticket: Ticket::new(78) };
        let hello = Hello { version_min: 1, version_max: 1, system: SYSTEM, party };
        client.send(&Frame { header, cache_ids: sds_core::wire::CacheIds::NONE, body: Body::Hello(hello) }, &[]);
        let (reply, _) = client.receive();
        assert_eq!((reply.opcode, reply.status), (Opcode::HelloReply, sds_core::error::Status::Ok));
        client
    }

    /// Connects and says nothing.
    pub fn silent(address: &str, connection: u64, version: u64) -> Self {
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(WAIT)).expect("set");
        let (connection, version) = (ConnectionNumber::new(connection), MapVersion::new(version));
        Self { stream, bytes: Vec::new(), next: 1, connection, version }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub fn send(&mut self, frame: &Frame, payload: &[u8]) {
        let mut head = [0; HEAD_BYTES_MAX];
        let len = encode_head(frame, &mut head);
        let mut bytes = head[..len].to_vec();
        bytes.extend_from_slice(payload);
        self.stream.write_all(&bytes).expect("sent");
    }

    pub fn receive(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some((head, used)) = decode_head(&self.bytes).expect("frames") {
                let len = head.payload_len() as usize;
                if self.bytes.len() >= used + len {
                    let payload = self.bytes[used..used + len].to_vec();
                    self.bytes.drain(..used + len);
                    return (*head.header(), payload);
                }
            }
            let mut chunk = [0; 65_536];
            let count = self.stream.read(&mut chunk).expect("reads");
            assert!(count > 0, "the server keeps the connection");
            self.bytes.extend_from_slice(&chunk[..count]);
        }
    }

    pub fn header(&mut self, opcode: Opcode, extent: u32, offset: u32, length: u32) -> Header {
        let mut header = Header::new(opcode);
        let shard = shard_of(TreeId::new(1), ExtentIndex::new(extent), SHARDS);
        header.connection = self.connection;
        header.request = RequestId::new(self.next);
        self.next += 1;
        header.generation = SessionGeneration::new(1);
        header.volume = VolumeId::new(1);
        header.extent = ExtentIndex::new(extent);
        (header.offset, header.length) = (offset, length);
        header.epoch = Epoch::new(1);
        header.map_version = self.version;
        header.shard = shard;
        header
    }

    pub fn begin_write(&mut self, extent: u32, offset: u32, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("short");
        let header = self.header(Opcode::Write, extent, offset, len);
        let span = Span::whole(BufferId::new(0), len);
        self.send(&Frame::with_payload(header, span, ChecksumList::of_blocks(bytes)), bytes);
    }

    pub fn write(&mut self, extent: u32, offset: u32, bytes: &[u8]) -> sds_core::error::Status {
        self.begin_write(extent, offset, bytes);
        self.receive().0.status
    }

    pub fn begin_read(&mut self, extent: u32, offset: u32, len: u32) {
        let header = self.header(Opcode::Read, extent, offset, len);
        self.send(&Frame::bare(header), &[]);
    }

    /// The bytes; zeroes where there are none.
    pub fn read(&mut self, extent: u32, offset: u32, len: u32) -> Result<Vec<u8>, sds_core::error::Status> {
        self.begin_read(extent, offset, len);
        let (header, payload) = self.receive();
        match header.status {
            sds_core::error::Status::Ok if payload.is_empty() => Ok(vec![0; len as usize]),
            sds_core::error::Status::Ok => Ok(payload),
            status => Err(status),
        }
    }
}
