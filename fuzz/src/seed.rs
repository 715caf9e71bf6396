//! Inputs to start from, made by the encoders of the product: `cargo run -p sds-fuzz --bin seeds` writes them.
//!
//! Invariant: deterministic, so that writing them again changes nothing unless a format has.

use crate::disk::{DEVICE, LOCATION};
use sds_core::buffer::{BufferId, Span};
use sds_core::checksum::{Checksum, ChecksumList};
use sds_core::cluster::{Change, Cluster, Command, CreateVolume, Heard, OpenSession, RegisterDevice, RegisterSds};
use sds_core::codec::encode_framed;
use sds_core::control::{
    CONTROL_VERSION, Capacity, ClientToMdm, DeviceReport, DeviceState, FaultCounts, MdmToClient, MdmToSds, OpenError, Opened, SdsToMdm,
    VolumeLine,
};
use sds_core::error::Status;
use sds_core::exchange::{BlockEntry, ExtentEntry, Medium, PlanEntry};
use sds_core::format::block::{BYTES, FIELDS_START};
use sds_core::format::descriptor::{BlockInfo, Content, Descriptor, PageHeader};
use sds_core::format::geometry::{Geometry, Home};
use sds_core::format::index_page::{self, IndexEntry, PageName};
use sds_core::format::log_block::{self, LogHeader};
use sds_core::format::record;
use sds_core::format::superblock::Superblock;
use sds_core::id::{
    BootId, ClientId, DeviceId, DeviceUuid, Epoch, ExtentIndex, Incarnation, LayerId, LogSequence, MapVersion, PoolId, SdsId, SdsUuid,
    SessionGeneration, ShardId, ShardSequence, SystemId, Ticket, TreeId, Version, VolumeId,
};
use sds_core::map::{Copies, InSync, Lapsed, Member, ShardEntry, ShardMap};
use sds_core::protocol::membership::{self, Proposal};
use sds_core::store::interface::{BlockRange, ExtentKey};
use sds_core::stripe::Stripe;
use sds_core::unit::{BlockIndex, ByteCount};
use sds_core::view::{DeviceView, SdsView, SessionMode, SessionView, ViewUpdate, VolumeView};
use sds_core::wire::{Body, CacheId, CacheIds, Flags, Frame, HEAD_BYTES_MAX, Header, Hello, Opcode, PROTOCOL_VERSION, Party, encode_head};
use serde::Serialize;

/// A first byte that chooses, and bytes.
fn tagged(tag: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[tag], bytes.as_ref()].concat()
}

fn frame(header: Header, body: Body, cache_ids: CacheIds) -> Vec<u8> {
    let mut bytes = [0; HEAD_BYTES_MAX];
    let used = encode_head(&Frame { header, cache_ids, body }, &mut bytes);
    bytes[..used].to_vec()
}

/// Heads of frames of each shape.
#[must_use]
pub fn wire() -> Vec<Vec<u8>> {
    let of = |opcode, length| Header { length, epoch: Epoch::new(3), shard: ShardId::new(9), ..Header::new(opcode) };
    let payload = |len: u32| {
        let mut checksums = ChecksumList::EMPTY;
        (0..len.div_ceil(4096)).for_each(|block| checksums.push(Checksum::new(block)));
        Body::Payload { span: Span::whole(BufferId::new(1), len), checksums }
    };
    let id = CacheId { device: DeviceId::new(4), boot: 5 };
    let two = || {
        let mut ids = CacheIds::one(id);
        assert!(ids.push(id));
        ids
    };
    let hello =
        |party| Body::Hello(Hello { version_min: PROTOCOL_VERSION, version_max: PROTOCOL_VERSION, system: SystemId::new(7), party });
    let client = Party::Client { client: ClientId::new(1), ticket: Ticket::new(2) };
    let peer = Party::Peer { sds: SdsId::new(1), incarnation: Incarnation::new(2), addressed: Incarnation::new(3) };
    let durable = |header: Header| Header { flags: Flags::DURABLE, ..header };
    let zero = Header { flags: Flags::DURABLE.with(Flags::TRIM), ..of(Opcode::Zero, 8192) };
    vec![
        frame(Header::new(Opcode::Hello), hello(client), CacheIds::NONE),
        frame(Header::new(Opcode::Hello), hello(peer), CacheIds::NONE),
        frame(of(Opcode::HelloReply, 1), Body::Empty, CacheIds::NONE),
        frame(of(Opcode::Read, 4096), Body::Empty, CacheIds::NONE),
        frame(of(Opcode::ReadReply, 8192), payload(8192), two()),
        frame(Header { flags: Flags::ALL_ZERO, ..of(Opcode::ReadReply, 4096) }, Body::Empty, CacheIds::one(id)),
        frame(Header { status: Status::MapStale, ..of(Opcode::ReadReply, 4096) }, Body::Empty, CacheIds::NONE),
        frame(durable(of(Opcode::Write, 128 << 10)), payload(128 << 10), CacheIds::NONE),
        frame(Header { offset: 100, ..of(Opcode::WriteFragment, 200) }, payload(200), CacheIds::NONE),
        frame(of(Opcode::WriteReply, 4096), Body::Empty, two()),
        frame(zero, Body::Empty, CacheIds::NONE),
        frame(of(Opcode::Flush, 0), Body::Empty, two()),
        frame(of(Opcode::BlockStatusReply, 4096), payload(32), CacheIds::NONE),
        frame(of(Opcode::Replicate, 4096), payload(4096), CacheIds::NONE),
        frame(of(Opcode::ReplicateReply, 4096), Body::Empty, CacheIds::one(id)),
        frame(of(Opcode::ExtentsReply, 48), payload(48), CacheIds::NONE),
        frame(of(Opcode::BlocksReply, 6144), payload(6144), CacheIds::NONE),
        frame(of(Opcode::Settle, 0), payload(4096), CacheIds::NONE),
        frame(of(Opcode::Beacon, 0), Body::Empty, CacheIds::NONE),
    ]
}

const KEY: ExtentKey = ExtentKey { tree: TreeId::new(1), extent: ExtentIndex::new(2), layer: LayerId::new(0) };

/// Entries of each kind.
#[must_use]
pub fn exchange() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for newest in [None, Some(ShardSequence::new(77))] {
        let mut bytes = [0; 24];
        ExtentEntry { key: KEY, unsettled: newest.is_some(), damaged: newest.is_none(), newest }.encode(&mut bytes);
        inputs.push(tagged(0, bytes));
    }
    for (content, medium) in
        [(Content::Unwritten, Medium::NotAsked), (Content::Data, Medium::Read(Checksum::new(9))), (Content::Unreadable, Medium::Unreadable)]
    {
        let mut bytes = [0; 24];
        let info = BlockInfo { content, checksum: Checksum::new(5), version: ShardSequence::new(6) };
        BlockEntry { info, medium }.encode(&mut bytes);
        inputs.push(tagged(1, bytes));
    }
    let version = ShardSequence::new(8);
    for plan in
        [PlanEntry::AsRecorded, PlanEntry::Zero(version), PlanEntry::Data(version, Checksum::new(9)), PlanEntry::Quarantined(version)]
    {
        let mut bytes = [0; 16];
        plan.encode(&mut bytes);
        inputs.push(tagged(2, bytes));
    }
    inputs
}

/// The fields of a block: what stands behind its frame, without the zeroes at its end.
fn fields(block: &[u8]) -> Vec<u8> {
    let end = block.iter().rposition(|byte| *byte != 0).map_or(FIELDS_START, |last| last + 1);
    block[FIELDS_START..end].to_vec()
}

/// Superblocks of a small and of a large device.
#[must_use]
pub fn superblock() -> Vec<Vec<u8>> {
    let sizes = [(64 << 20, 32), (1_u64 << 40, 128 << 10)];
    let geometries = sizes.iter().filter_map(|(bytes, log)| Geometry::for_device(ByteCount::new(*bytes), *log).ok());
    let superblock = |geometry| Superblock {
        device: DEVICE,
        system: SystemId::new(7),
        sequence: 3,
        incarnation: 4,
        boot: BootId::new(5),
        compatible: 0,
        geometry,
        checkpoint: 6,
        checkpoint_lsn: 7,
        sequence_ceiling: ShardSequence::new(8),
        index_home: Home::B,
    };
    geometries.map(|geometry| fields(&superblock(geometry).to_block(LOCATION))).collect()
}

/// A log block with no record, and one with a record of each kind.
#[must_use]
pub fn log_block() -> Vec<Vec<u8>> {
    let version = Version { sequence: ShardSequence::new(100), epoch: Epoch::new(2) };
    let mut checksums = ChecksumList::EMPTY;
    (0..3).for_each(|block| checksums.push(Checksum::new(block)));
    let mut all = Vec::new();
    record::put_allocated(&mut all, 1, KEY);
    record::put_activated(&mut all, 1);
    record::put_written(&mut all, 1, BlockIndex::new(250), version, &checksums);
    record::put_unreadable(&mut all, 1, BlockIndex::new(0), version, &checksums);
    record::put_zero(&mut all, 1, BlockRange { first: BlockIndex::new(3), count: 253 }, version, true);
    record::put_sealed(&mut all, 1);
    record::put_freed(&mut all, 1);
    record::put_ceiling(&mut all, ShardSequence::new(1 << 20));
    let block = |records: u16, packed: &[u8]| {
        let header = LogHeader { sequence: 33, incarnation: 4, flushed: 30, resolved: 32, previous: Checksum::new(9), records };
        let mut bytes = [0; BYTES];
        log_block::encode(&mut bytes, &header, packed, DEVICE, LOCATION);
        fields(&bytes)
    };
    vec![block(0, &[]), block(8, &all)]
}

/// An index page with entries of each shape.
#[must_use]
pub fn index_page() -> Vec<Vec<u8>> {
    let page = PageName { home: Home::B, lsn: 12, checksum: Checksum::new(13) };
    let entries = [
        IndexEntry { key: KEY, page: None, unsettled: true, damaged: false },
        IndexEntry { key: KEY, page: Some(page), unsettled: false, damaged: false },
        IndexEntry { key: KEY, page: Some(PageName { home: Home::A, ..page }), unsettled: true, damaged: true },
    ];
    let mut bytes = [0; BYTES];
    index_page::start(&mut bytes, 2, 6, 4);
    for (place, entry) in (0..).zip(&entries) {
        index_page::put_entry(&mut bytes, place, entry);
    }
    index_page::finish(&mut bytes, DEVICE, LOCATION);
    vec![fields(&bytes)]
}

/// Descriptor pages, new and written to.
#[must_use]
pub fn descriptor() -> Vec<Vec<u8>> {
    let header = PageHeader { slot: 1, key: KEY, lsn: 12 };
    let mut descriptor = Descriptor::default();
    let mut bytes = [0; BYTES];
    descriptor.encode(&header, &mut bytes, DEVICE, LOCATION);
    let new = fields(&bytes);
    for (block, content, sequence) in [(0, Content::Data, 5), (1, Content::Zero, 1 << 40), (255, Content::Unreadable, (1 << 40) + 1)] {
        descriptor.set(block, BlockInfo { content, checksum: Checksum::new(3), version: ShardSequence::new(sequence) });
    }
    descriptor.encode(&header, &mut bytes, DEVICE, LOCATION);
    vec![new, fields(&bytes)]
}

fn framed<T: Serialize>(way: u8, message: &T) -> Vec<u8> {
    tagged(way, encode_framed(message).unwrap_or_default())
}

const MEMBER: Member = Member { device: DeviceId::new(1), incarnation: Incarnation::new(2) };
const OTHER: Member = Member { device: DeviceId::new(2), incarnation: Incarnation::new(3) };

fn device_report(state: DeviceState) -> DeviceReport {
    DeviceReport {
        uuid: DeviceUuid::new(3),
        path: "/dev/sdb".to_owned(),
        pool: "default".to_owned(),
        state,
        capacity: Capacity { total: ByteCount::new(1 << 30), ..Capacity::default() },
        sequence_ceiling: ShardSequence::new(1 << 20),
        flushed: LogSequence::new(4),
        log_end: LogSequence::new(5),
        cache: BootId::new(6),
        faults: FaultCounts { io_errors: 1, ..FaultCounts::default() },
        recent_faults: vec!["volume 3".to_owned()],
    }
}

fn view() -> ViewUpdate {
    let pair =
        ShardEntry { epoch: Epoch::new(1), in_sync: InSync::pair(MEMBER, OTHER), made_at: MapVersion::new(1), ..ShardEntry::default() };
    let sole = ShardEntry {
        in_sync: InSync::sole(MEMBER),
        joining: Some(OTHER),
        lapsed: Some(Lapsed { device: DeviceId::new(2), complete: ShardSequence::new(9) }),
        ..pair
    };
    let session = SessionView {
        client: ClientId::new(1),
        ticket: Ticket::new(2),
        generation: SessionGeneration::new(3),
        mode: SessionMode::Exclusive,
    };
    ViewUpdate {
        system: SystemId::new(7),
        version: MapVersion::new(3),
        pools: vec![ShardMap { pool: PoolId::new(1), shards: vec![pair, sole] }],
        volumes: Some(vec![volume_view(vec![session])]),
        servers: Some((
            vec![DeviceView { id: DeviceId::new(1), sds: SdsId::new(1) }],
            vec![SdsView { id: SdsId::new(1), name: "a".to_owned(), addresses: vec!["h:1".to_owned()] }],
        )),
        deleted_trees: Some(vec![TreeId::new(5)]),
    }
}

fn volume_view(sessions: Vec<SessionView>) -> VolumeView {
    VolumeView {
        id: VolumeId::new(1),
        name: "disk".to_owned(),
        tree: TreeId::new(1),
        pool: PoolId::new(1),
        size: ByteCount::new(1 << 20),
        stripe: Stripe::default(),
        sessions,
    }
}

fn proposals() -> Vec<(PoolId, ShardId, Proposal)> {
    let complete = ShardSequence::new(9);
    let changes = [
        membership::Change::Shrink { complete },
        membership::Change::Yield { complete },
        membership::Change::Grow,
        membership::Change::Swap,
        membership::Change::Join { joiner: OTHER },
        membership::Change::Reform,
        membership::Change::Settled,
        membership::Change::Alone { member: MEMBER, forced: true },
    ];
    let proposal = |change| Proposal { base: Epoch::new(1), proposer: Some(MEMBER), change };
    changes.into_iter().map(|change| (PoolId::new(1), ShardId::new(2), proposal(change))).collect()
}

/// Every message between the MDM and a data server.
#[must_use]
pub fn control_sds() -> Vec<Vec<u8>> {
    let states = [DeviceState::Opening { done_per_mille: 500 }, DeviceState::Open, DeviceState::Hung];
    let failed = DeviceState::Failed { reason: "gone".to_owned() };
    let register = SdsToMdm::Register {
        version: CONTROL_VERSION,
        sds: SdsUuid::new(7),
        system: SystemId::new(9),
        name: "a".to_owned(),
        addresses: vec!["h:1".to_owned()],
        fault_set: "r".to_owned(),
        life: 1 << 100,
        devices: vec![device_report(failed)],
    };
    let devices: Vec<_> = states.into_iter().map(device_report).collect();
    let version = MapVersion::new(300);
    vec![
        framed(0, &register),
        framed(0, &SdsToMdm::Heartbeat { loop_turns: 70_000, oldest_disk_request_ms: 1, devices }),
        framed(0, &SdsToMdm::Confirm { version }),
        framed(0, &SdsToMdm::Pull { at_least: version }),
        framed(0, &SdsToMdm::Leaving),
        framed(0, &SdsToMdm::TreesFreed { device: DeviceId::new(1), trees: vec![TreeId::new(2)] }),
        framed(0, &SdsToMdm::Propose { proposals: proposals() }),
        framed(
            1,
            &MdmToSds::Registered {
                system: SystemId::new(1),
                sds: SdsId::new(2),
                incarnation: Incarnation::new(3),
                devices: vec![(DeviceUuid::new(3), DeviceId::new(4))],
            },
        ),
        framed(1, &MdmToSds::Refused { reason: "no".to_owned() }),
        framed(1, &MdmToSds::View(view())),
        framed(1, &MdmToSds::HandOver { shards: vec![(PoolId::new(1), ShardId::new(2), Epoch::new(3))] }),
    ]
}

/// Every message between the MDM and a client.
#[must_use]
pub fn control_client() -> Vec<Vec<u8>> {
    let (request, name) = (1, || "disk".to_owned());
    let errors = [
        OpenError::NoVolume { name: name() },
        OpenError::Busy { name: name(), holder: "h".to_owned(), since: "s".to_owned() },
        OpenError::NotConfirmed { name: name(), waiting: vec!["a".to_owned()] },
        OpenError::TooManySessions { name: name(), max: 256 },
        OpenError::NotRecorded { name: name() },
        OpenError::Refused { name: name(), reason: "r".to_owned() },
    ];
    let (volume, generation, mode) = (VolumeId::new(1), SessionGeneration::new(2), SessionMode::Shared);
    let opened = Opened { volume, generation, mode, version: MapVersion::new(3) };
    let hello =
        ClientToMdm::Hello { version: CONTROL_VERSION, client: ClientId::new(1), ticket: Ticket::new(1 << 90), name: "h".to_owned() };
    let line = VolumeLine { volume: volume_view(Vec::new()), busy: Some("h".to_owned()) };
    let mut inputs = vec![
        framed(0, &hello),
        framed(0, &ClientToMdm::Open { request, volume: name(), mode: SessionMode::ReadOnly, force: true }),
        framed(0, &ClientToMdm::Close { request, volume, generation }),
        framed(0, &ClientToMdm::List { request }),
        framed(0, &ClientToMdm::Pull { at_least: MapVersion::new(3) }),
        framed(0, &ClientToMdm::Heartbeat),
        framed(1, &MdmToClient::Welcome { system: SystemId::new(1) }),
        framed(1, &MdmToClient::Refused { reason: "r".to_owned() }),
        framed(1, &MdmToClient::Opened { request, result: Ok(opened) }),
        framed(1, &MdmToClient::Closed { request }),
        framed(1, &MdmToClient::Volumes { request, volumes: vec![line] }),
        framed(1, &MdmToClient::View(view())),
    ];
    inputs.extend(errors.into_iter().map(|error| framed(1, &MdmToClient::Opened { request, result: Err(error) })));
    inputs
}

/// A history of a small system, one change of each kind.
fn history() -> Vec<Change> {
    let device = |number: u32| RegisterDevice {
        uuid: DeviceUuid::new(u128::from(number)),
        path: "/d".to_owned(),
        pool: "default".to_owned(),
        open: true,
        capacity: Capacity { total: ByteCount::new(1 << 30), ..Capacity::default() },
        sequence_ceiling: ShardSequence::new(1),
        flushed: LogSequence::new(0),
        log_end: LogSequence::new(0),
        cache: BootId::new(1),
    };
    let register = |number: u32, pool: &str| {
        let devices = vec![RegisterDevice { pool: pool.to_owned(), ..device(number) }];
        Change::RegisterSds(RegisterSds {
            sds: SdsUuid::new(u128::from(number)),
            system: SystemId::new(1),
            name: format!("n{number}"),
            addresses: vec!["h:1".to_owned()],
            fault_set: format!("f{number}"),
            life: u128::from(number),
            devices,
            movable: Vec::new(),
            heard: vec![Heard { member: MEMBER, ceiling: ShardSequence::new(1), flushed: LogSequence::new(2) }],
        })
    };
    let volume = |name: &str, pool: &str| {
        let (name, pool, key) = (name.to_owned(), pool.to_owned(), Some("k".to_owned() + name));
        Change::CreateVolume(CreateVolume { name, size: ByteCount::new(1 << 20), pool, stripe_unit: 4096, stripe_width: 2, key })
    };
    let open = OpenSession {
        volume: "b".to_owned(),
        client: ClientId::new(5),
        ticket: Ticket::new(6),
        holder: "h".to_owned(),
        mode: SessionMode::Exclusive,
        force: false,
        orphans: vec![SessionGeneration::new(9)],
    };
    let heard = vec![Heard { member: MEMBER, ceiling: ShardSequence::new(10), flushed: LogSequence::new(3) }];
    vec![
        Change::Initialise { system: SystemId::new(1) },
        Change::CreatePool { name: "two".to_owned(), shards: 4, copies: Copies::Two },
        Change::CreatePool { name: "one".to_owned(), shards: 2, copies: Copies::One },
        register(1, "two"),
        register(2, "two"),
        register(3, "one"),
        volume("a", "one"),
        volume("b", "two"),
        Change::OpenSession(open),
        Change::DeleteVolume { name: "a".to_owned(), orphans: Vec::new() },
        Change::Propose { sds: SdsId::new(1), heard: heard.clone(), proposals: proposals() },
        Change::GoOnAlone { survivor: MEMBER, absent: OTHER, heard: heard.clone() },
        Change::ForceShard { pool: "two".to_owned(), shard: 1, device: DeviceId::new(1), gone: vec![OTHER], heard, reason: "r".to_owned() },
        Change::CloseSession { volume: VolumeId::new(2), client: ClientId::new(5), generation: SessionGeneration::new(1) },
        Change::TreesFreed { sds: SdsId::new(3), device: DeviceId::new(3), trees: vec![TreeId::new(1)] },
    ]
}

/// One command of each kind.
#[must_use]
pub fn command() -> Vec<Vec<u8>> {
    history().into_iter().filter_map(|change| Command { unix_ms: 1000, change }.encode().ok()).collect()
}

/// The state after each change of the history.
#[must_use]
pub fn snapshot() -> Vec<Vec<u8>> {
    let mut cluster = Cluster::default();
    let mut inputs = Vec::new();
    for change in history() {
        let (result, _) = cluster.apply(&Command { unix_ms: 1000, change });
        if result.is_ok() {
            inputs.extend(cluster.encode());
        }
    }
    inputs
}

/// An option as it is sent.
#[must_use]
pub fn nbd_option_bytes(option: u32, payload: &[u8]) -> Vec<u8> {
    [&sds_client::nbd::constants::OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &length(payload), payload].concat()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Payload of `INFO` and `GO`.
#[must_use]
pub fn nbd_info_payload(name: &str, requests: &[u16]) -> Vec<u8> {
    let count = u16::try_from(requests.len()).unwrap_or(u16::MAX);
    let requests: Vec<u8> = requests.iter().flat_map(|request| request.to_be_bytes()).collect();
    [&length(name.as_bytes())[..], name.as_bytes(), &count.to_be_bytes(), &requests].concat()
}

/// Payload of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[must_use]
pub fn nbd_meta_payload(name: &str, queries: &[&str]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).unwrap_or(u32::MAX);
    let queries: Vec<u8> = queries.iter().flat_map(|query| [&length(query.as_bytes())[..], query.as_bytes()].concat()).collect();
    [&length(name.as_bytes())[..], name.as_bytes(), &count.to_be_bytes(), &queries].concat()
}

/// Payloads of options.
#[must_use]
pub fn nbd_option() -> Vec<Vec<u8>> {
    vec![
        tagged(0, nbd_info_payload("disk", &[])),
        tagged(0, nbd_info_payload("", &[1, 2, 3, 0, 9])),
        tagged(1, nbd_meta_payload("disk", &["base:"])),
        tagged(1, nbd_meta_payload("disk", &[])),
        tagged(2, nbd_meta_payload("disk", &["qemu:dirty-bitmap:x", "base:allocation"])),
        tagged(3, "disk"),
    ]
}

fn nbd_request_bytes(command: u16, flags: u16, offset: u64, len: u32, payload: &[u8]) -> Vec<u8> {
    let magic = sds_client::nbd::constants::REQUEST_MAGIC.to_be_bytes();
    let cookie = 0x1122_3344_5566_7788_u64.to_be_bytes();
    [&magic[..], &flags.to_be_bytes(), &command.to_be_bytes(), &cookie, &offset.to_be_bytes(), &len.to_be_bytes(), payload].concat()
}

/// A request of each kind.
fn nbd_requests() -> Vec<Vec<u8>> {
    vec![
        nbd_request_bytes(0, 0, 4096, 8192, &[]),
        nbd_request_bytes(0, 4, 100, 300_000, &[]),
        nbd_request_bytes(1, 1, 4000, 200, &[7; 200]),
        nbd_request_bytes(3, 0, 0, 0, &[]),
        nbd_request_bytes(4, 0, 1, 20_000, &[]),
        nbd_request_bytes(6, 2, 10, 100_000, &[]),
        nbd_request_bytes(7, 8, 0, 65_536, &[]),
        nbd_request_bytes(7, 0, 5000, 1, &[]),
        nbd_request_bytes(2, 0, 0, 0, &[]),
    ]
}

/// Requests to an export of 256 blocks.
#[must_use]
pub fn nbd_request() -> Vec<Vec<u8>> {
    let prefix = |flags| tagged(flags, 256_u64.to_be_bytes());
    nbd_requests().iter().map(|request| [&prefix(6)[..], &request[..28]].concat()).collect()
}

/// Conversations: haggling only, requests only, and both.
#[must_use]
pub fn nbd_connection() -> Vec<Vec<u8>> {
    let flags = 3_u32.to_be_bytes();
    let haggling = [
        &flags[..],
        &nbd_option_bytes(99, b"what"),
        &nbd_option_bytes(3, &[]),
        &nbd_option_bytes(8, &[]),
        &nbd_option_bytes(6, &nbd_info_payload("disk", &[1, 2, 3])),
        &nbd_option_bytes(9, &nbd_meta_payload("disk", &[])),
        &nbd_option_bytes(10, &nbd_meta_payload("", &["base:allocation"])),
        &nbd_option_bytes(5, &[]),
        &nbd_option_bytes(7, &nbd_info_payload("nothing", &[])),
    ]
    .concat();
    let requests = nbd_requests().concat();
    let choose = nbd_option_bytes(7, &nbd_info_payload("", &[]));
    let unread: Vec<u8> = (0..40).flat_map(|_| nbd_option_bytes(5, &[])).collect();
    vec![
        [&[0, 255][..], &haggling, &choose, &requests].concat(),
        [&[0, 1][..], &flags, &nbd_option_bytes(1, b"disk"), &requests].concat(),
        [&[0, 8][..], &haggling, &nbd_option_bytes(2, &[])].concat(),
        [&[1, 64][..], &flags, &unread].concat(),
        [&[2, 3][..], &requests].concat(),
        [&[3, 64][..], &requests].concat(),
        [&[6, 255][..], &requests].concat(),
        [&[7, 255][..], &requests].concat(),
        [&[9, 64][..], &flags, &unread].concat(),
    ]
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The documented example without its comments, the shortest file, and mistakes.
#[must_use]
pub fn config_sds() -> Vec<Vec<u8>> {
    let example = uncommented(include_str!("../../docs/operating/sds.toml"));
    texts(&[
        &example,
        "state_dir='s'\n[[device]]\npath='p'\nsize=4294967296\nvolatile_cache=true\n",
        "state_dir='s'\nlisten='unix:/s'\nadvertise=['1.2.3.4:5']\nfault_set='r'\n",
        "state_dir='s'\nlisten='0.0.0.0:1'\n",
        "state_dir='s'\nmemory='1 MiB'\n",
        "state_dir='s'\nmdm=['h']\n",
        "state_dir='s'\ncolour=1\n",
    ])
}

/// The same of the MDM.
#[must_use]
pub fn config_mdm() -> Vec<Vec<u8>> {
    let example = uncommented(include_str!("../../docs/operating/mdm.toml"));
    texts(&[&example, "data_dir='d'", "data_dir='d'\napi='127.0.0.1:9700'", "data_dir='d'\nname='two words'", "data_dir=1"])
}

fn uncommented(text: &str) -> String {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Bodies and queries.
#[must_use]
pub fn rest() -> Vec<Vec<u8>> {
    vec![
        tagged(0, "key\n{\"name\":\"v\",\"size_bytes\":4096}"),
        tagged(0, "\n{\"name\":\"v\",\"size_bytes\":1,\"pool\":\"p\",\"stripe_unit\":4096,\"stripe_width\":2}"),
        tagged(1, "{\"name\":\"p\",\"shards\":64,\"copies\":2}"),
        tagged(1, "{\"name\":\"\\u00e4\",\"copies\":3}"),
        tagged(2, "{\"device\":1,\"reason\":\"why\"}"),
        tagged(3, "pool=default&state=degraded&device=1&limit=10"),
        tagged(3, "limit=0&pool=%41"),
    ]
}

/// Sizes and addresses, right and wrong.
#[must_use]
pub fn values() -> Vec<Vec<u8>> {
    texts(&[
        "4096",
        "512 MiB",
        "16g",
        "1tb",
        "8388607 TiB",
        "9223372036854775807",
        "99999999999999999999",
        "1.5G",
        "127.0.0.1:9710",
        "[::1]:9710",
        "[fe80::1%3]:80",
        "localhost:80",
        "unix:/run/sds.sock",
        "unix:",
    ])
}
