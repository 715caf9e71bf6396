//! Behaviour of the committed state, command by command, and over random histories.

mod replication;

use super::*;
use crate::control::{Capacity, Opened};
use crate::id::{BootId, ClientId, Epoch, Incarnation, LogSequence, SdsUuid, SessionGeneration, ShardSequence, Ticket};
use crate::limits::{SESSIONS_PER_VOLUME_MAX, SHARDS_PER_POOL_DEFAULT, VOLUME_BYTES_MAX};
use crate::unit::ByteCount;
use crate::view::{SessionMode, ViewUpdate};
use proptest::prelude::*;
use std::collections::BTreeMap;

const GIB: u64 = 1 << 30;
const SYSTEM: SystemId = SystemId::new(0x5157);

fn device(uuid: u128) -> RegisterDevice {
    RegisterDevice {
        uuid: DeviceUuid::new(uuid),
        path: format!("/dev/{uuid}"),
        pool: DEFAULT_POOL.to_owned(),
        open: true,
        capacity: Capacity { total: ByteCount::new(GIB), ..Capacity::default() },
        sequence_ceiling: ShardSequence::default(),
        flushed: LogSequence::default(),
        log_end: LogSequence::default(),
        cache: BootId::default(),
    }
}

fn register(sds: u128, life: u128, devices: Vec<RegisterDevice>) -> RegisterSds {
    RegisterSds {
        sds: SdsUuid::new(sds),
        system: SystemId::default(),
        name: format!("node-{sds}"),
        addresses: vec![format!("127.0.0.1:{}", 9000 + sds)],
        fault_set: format!("node-{sds}"),
        life,
        devices,
        movable: Vec::new(),
        heard: Vec::new(),
    }
}

fn create(name: &str, size: u64) -> CreateVolume {
    CreateVolume {
        name: name.to_owned(),
        size: ByteCount::new(size),
        pool: DEFAULT_POOL.to_owned(),
        stripe_unit: 128 << 10,
        stripe_width: 8,
        key: None,
    }
}

fn open(volume: &str, client: u128, mode: SessionMode) -> OpenSession {
    OpenSession {
        volume: volume.to_owned(),
        client: ClientId::new(client),
        ticket: Ticket::new(client + 1000),
        holder: format!("host-{client}/1"),
        mode,
        force: false,
        orphans: Vec::new(),
    }
}

/// A cluster and a clock of one second a command.
struct Test {
    cluster: Cluster,
    unix_ms: u64,
    events: Vec<Event>,
}

impl Test {
    fn bare() -> Self {
        let mut test = Self { cluster: Cluster::new(), unix_ms: 1_795_376_040_000, events: Vec::new() };
        test.apply(Change::Initialise { system: SYSTEM }).expect("a new system");
        test
    }

    /// Three servers of one device each.
    fn new() -> Self {
        let mut test = Self::bare();
        for sds in 1..=3 {
            test.register(register(sds, 100 + sds, vec![device(10 + sds)])).expect("registers");
        }
        test
    }

    fn with_volume() -> Self {
        let mut test = Self::new();
        test.create(create("one", GIB)).expect("is made");
        test
    }

    fn apply(&mut self, change: Change) -> Result<Outcome, Refusal> {
        self.unix_ms += 1000;
        let before = self.cluster.clone();
        let (result, events) = self.cluster.apply(&Command { unix_ms: self.unix_ms, change });
        assert_eq!(self.cluster.fault(), None);
        if result.is_err() {
            assert_eq!(self.cluster, before, "a refused command changes nothing");
        }
        self.events = events;
        result
    }

    fn register(&mut self, register: RegisterSds) -> Result<Outcome, Refusal> {
        self.apply(Change::RegisterSds(register))
    }

    fn create(&mut self, create: CreateVolume) -> Result<Outcome, Refusal> {
        self.apply(Change::CreateVolume(create))
    }

    fn open(&mut self, open: OpenSession) -> Result<Opened, Refusal> {
        match self.apply(Change::OpenSession(open))? {
            Outcome::SessionOpened(opened) => Ok(opened),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, name: &str) -> Result<Outcome, Refusal> {
        self.apply(Change::DeleteVolume { name: name.to_owned(), orphans: Vec::new() })
    }

    fn incarnation(&self, sds: u32) -> Incarnation {
        self.cluster.server(SdsId::new(sds)).expect("known").incarnation
    }

    fn entries_of(&self, device: u32) -> Vec<crate::map::ShardEntry> {
        let (_, pool) = self.cluster.pools().next().expect("the default pool");
        let held = |entry: &&crate::map::ShardEntry| entry.in_sync.primary().is_some_and(|member| member.device == DeviceId::new(device));
        pool.map.shards.iter().filter(held).copied().collect()
    }
}

#[test]
fn nothing_is_done_before_the_system_has_a_name() {
    let mut cluster = Cluster::new();
    let command = Command { unix_ms: 1, change: Change::CreateVolume(create("a", 4096)) };
    assert_eq!(cluster.apply(&command).0, Err(Refusal::NotInitialised));
    assert_eq!(cluster, Cluster::new());
}

#[test]
fn the_first_name_stays() {
    let mut test = Test::bare();
    let outcome = test.apply(Change::Initialise { system: SystemId::new(2) });
    assert_eq!(outcome, Ok(Outcome::Initialised { system: SYSTEM }));
    assert_eq!(test.cluster.system(), SYSTEM);
    assert!(test.cluster.pool_by_name(DEFAULT_POOL).is_some());
}

#[test]
fn one_life_has_one_incarnation() {
    let mut test = Test::with_volume();
    let (incarnation, version) = (test.incarnation(1), test.cluster.version());
    let again = test.register(register(1, 101, vec![device(11)])).expect("registers");
    assert!(matches!(again, Outcome::Registered { incarnation: i, .. } if i == incarnation));
    assert_eq!(test.cluster.version(), version, "nothing to tell");
    assert!(test.events.is_empty());
    assert!(test.entries_of(1).iter().all(|entry| entry.epoch == Epoch::new(1)));
}

#[test]
fn a_new_life_advances_every_shard_of_its_devices_in_one_batch() {
    let mut test = Test::with_volume();
    let (version, before) = (test.cluster.version(), test.entries_of(1).len());
    let others = (test.entries_of(2), test.entries_of(3));
    let mut back = device(11);
    back.sequence_ceiling = ShardSequence::new(1 << 20);
    test.register(register(1, 999, vec![back])).expect("registers");
    let entries = test.entries_of(1);
    assert_eq!(entries.len(), before);
    for entry in entries {
        assert_eq!(entry.epoch, Epoch::new(2));
        assert_eq!(entry.first_sequence, ShardSequence::new(1 << 20));
        assert_eq!(entry.in_sync.primary().expect("a primary").incarnation, test.incarnation(1));
    }
    assert_eq!((test.entries_of(2), test.entries_of(3)), others);
    assert_eq!(test.cluster.version().get(), version.get() + 1);
    assert!(test.events.contains(&Event::ShardsAdvanced { device: DeviceId::new(1), shards: u32::try_from(before).expect("few") }));
}

#[test]
fn a_device_that_failed_keeps_its_shards_and_gets_a_new_epoch_when_it_opens() {
    let mut test = Test::with_volume();
    let before = test.entries_of(1);
    let mut failed = device(11);
    failed.open = false;
    failed.capacity = Capacity::default();
    test.register(register(1, 101, vec![failed.clone()])).expect("registers");
    assert_eq!(test.entries_of(1), before);
    assert!(!test.cluster.device(DeviceId::new(1)).expect("known").open);
    assert_eq!(test.cluster.device(DeviceId::new(1)).expect("known").capacity.total.get(), GIB, "what it last said");
    // In the next life it is still being opened at first.
    test.register(register(1, 102, vec![failed])).expect("registers");
    assert_eq!(test.entries_of(1), before);
    test.register(register(1, 102, vec![device(11)])).expect("registers");
    assert!(test.entries_of(1).iter().all(|entry| entry.epoch == Epoch::new(2)));
}

#[test]
fn a_device_not_reported_any_more_does_not_serve() {
    let mut test = Test::new();
    test.register(register(1, 102, Vec::new())).expect("registers");
    assert!(!test.cluster.device(DeviceId::new(1)).expect("known").open);
    assert_eq!(test.cluster.pool_devices(PoolId::new(1)).len(), 2);
}

#[test]
fn a_blank_device_that_does_not_serve_yet_gets_no_id() {
    let mut test = Test::bare();
    let mut opening = device(11);
    opening.open = false;
    let outcome = test.register(register(1, 1, vec![opening])).expect("registers");
    assert!(matches!(outcome, Outcome::Registered { ref devices, .. } if devices.is_empty()));
    assert_eq!(test.cluster.devices().count(), 0);
}

#[test]
fn a_device_moves_with_its_shards_when_its_server_is_gone() {
    let mut test = Test::with_volume();
    let shards = test.entries_of(1).len();
    let mut moved = register(2, 202, vec![device(12), device(11)]);
    let refused = test.register(moved.clone());
    assert_eq!(
        refused,
        Err(Refusal::DeviceElsewhere { device: DeviceUuid::new(11), path: "/dev/11".to_owned(), elsewhere: "node-1".to_owned() })
    );
    moved.movable = vec![DeviceUuid::new(11)];
    test.register(moved).expect("registers");
    assert_eq!(test.cluster.device(DeviceId::new(1)).expect("known").sds, SdsId::new(2));
    assert!(test.cluster.server(SdsId::new(1)).is_none(), "it has nothing left");
    let entries = test.entries_of(1);
    assert_eq!(entries.len(), shards);
    assert!(entries.iter().all(|entry| entry.epoch == Epoch::new(2)));
    assert!(test.events.contains(&Event::DeviceMoved { device: DeviceId::new(1), from: SdsId::new(1), to: SdsId::new(2) }));
}

#[test]
fn wrong_registrations_are_refused_by_name() {
    let mut test = Test::new();
    let mut other = register(4, 1, vec![device(14)]);
    other.system = SystemId::new(1);
    assert!(matches!(test.register(other), Err(Refusal::OtherSystem { ours: SYSTEM, .. })));
    let twice = register(4, 1, vec![device(14), device(14)]);
    assert!(matches!(test.register(twice), Err(Refusal::DeviceTwice { .. })));
    let mut unknown = register(4, 1, vec![device(14)]);
    unknown.devices[0].pool = "fast".to_owned();
    let refusal = test.register(unknown).expect_err("no such pool");
    assert_eq!(refusal.to_string(), r#"no pool is named "fast"; the pools are ["default"]"#);
    test.apply(Change::CreatePool { name: "fast".to_owned(), shards: 8, copies: Copies::One }).expect("a pool");
    let mut changed = register(1, 101, vec![device(11)]);
    changed.devices[0].pool = "fast".to_owned();
    assert!(matches!(test.register(changed), Err(Refusal::DevicePool { .. })));
    let mut nowhere = register(4, 1, Vec::new());
    nowhere.addresses.clear();
    assert!(matches!(test.register(nowhere), Err(Refusal::Addresses { count: 0, .. })));
    assert!(matches!(test.register(register(0, 1, Vec::new())), Err(Refusal::SdsNil { .. })));
    for name in ["", "two words", "tab\t", "ü", &"a".repeat(64)] {
        let named = RegisterSds { name: name.to_owned(), ..register(4, 1, Vec::new()) };
        assert!(matches!(test.register(named), Err(Refusal::Name { what: "data server", .. })), "{name:?}");
    }
    let named = RegisterSds { name: "_rack/4:node".to_owned(), ..register(4, 1, Vec::new()) };
    assert!(test.register(named).is_ok());
    let many = (100..200).map(device).collect();
    assert_eq!(test.register(register(4, 1, many)), Err(Refusal::TooMany(Bound::DevicesOfSds)));
}

#[test]
fn a_device_that_lost_its_past_is_told() {
    let mut test = Test::with_volume();
    let mut back = device(11);
    back.sequence_ceiling = ShardSequence::new(500);
    test.register(register(1, 2, vec![back])).expect("registers");
    test.register(register(1, 3, vec![device(11)])).expect("registers");
    assert!(test.events.contains(&Event::DeviceWentBack { device: DeviceId::new(1) }));
    assert!(test.entries_of(1).iter().all(|entry| entry.first_sequence == ShardSequence::new(500)), "sequences are never reused");
}

#[test]
fn the_first_volume_places_the_pools_shards() {
    let mut test = Test::new();
    assert!(test.cluster.pool(PoolId::new(1)).expect("default").map.shards.is_empty());
    test.create(create("one", GIB)).expect("is made");
    let counts: Vec<usize> = (1..=3).map(|device| test.entries_of(device).len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), SHARDS_PER_POOL_DEFAULT as usize);
    assert!(counts.iter().all(|count| (1365..=1366).contains(count)), "{counts:?}");
    let map = test.cluster.pool(PoolId::new(1)).expect("default").map.clone();
    test.create(create("two", GIB)).expect("is made");
    assert_eq!(test.cluster.pool(PoolId::new(1)).expect("default").map, map);
}

#[test]
fn bad_volumes_are_refused_with_the_way_out() {
    let mut test = Test::new();
    for name in ["", "-a", ".a", "a/b", "a b", "ä", "a\n", &"a".repeat(64)] {
        assert!(matches!(test.create(create(name, GIB)), Err(Refusal::Name { what: "volume", .. })), "{name:?}");
    }
    for name in ["a", "A.b_c-9", "0", &"a".repeat(63)] {
        test.create(create(name, 4096)).expect("a good name");
    }
    assert_eq!(test.create(create("a", GIB)), Err(Refusal::VolumeExists { name: "a".to_owned() }));
    assert_eq!(test.create(create("b", 0)), Err(Refusal::SizeZero));
    let unaligned = test.create(create("b", 5000)).expect_err("not whole blocks");
    assert_eq!(unaligned.to_string(), "size 5000 is not a multiple of 4096 bytes; the nearest that are: 4096 and 8192");
    assert!(matches!(test.create(create("b", VOLUME_BYTES_MAX + 4096)), Err(Refusal::SizeTooLarge { .. })));
    assert!(matches!(test.create(create("b", u64::MAX)), Err(Refusal::SizeTooLarge { .. })));
    let room = 30 * GIB - 4 * 4096;
    match test.create(create("b", 30 * GIB)) {
        Err(Refusal::OverProvisioned { room: told, .. }) => assert_eq!(told.get(), room),
        other => panic!("{other:?}"),
    }
    test.create(create("b", room)).expect("what it said would fit");
    assert!(matches!(test.create(create("c", 4096)), Err(Refusal::OverProvisioned { .. })));
    let mut stripe = create("c", 4096);
    stripe.stripe_unit = 3000;
    assert!(matches!(test.create(stripe), Err(Refusal::Stripe(_))));
    let mut pool = create("c", 4096);
    pool.pool = "nowhere".to_owned();
    assert!(matches!(test.create(pool), Err(Refusal::NoPool { .. })));
    assert!(matches!(Test::bare().create(create("a", 4096)), Err(Refusal::PoolWithoutDevices { .. })));
}

#[test]
fn a_repeated_request_with_its_key_is_answered_as_the_first_time() {
    let mut test = Test::new();
    let keyed = CreateVolume { key: Some("k1".to_owned()), ..create("one", GIB) };
    let first = test.create(keyed.clone()).expect("is made");
    let Outcome::VolumeCreated { volume, new: true } = first else { panic!("{first:?}") };
    let version = test.cluster.version();
    assert_eq!(test.create(keyed.clone()), Ok(Outcome::VolumeCreated { volume, new: false }));
    assert_eq!(test.cluster.version(), version);
    let other = CreateVolume { size: ByteCount::new(2 * GIB), ..keyed };
    assert_eq!(test.create(other), Err(Refusal::KeyReused { name: "one".to_owned() }));
}

#[test]
fn an_exclusive_session_is_alone() {
    let mut test = Test::with_volume();
    let first = test.open(open("one", 1, SessionMode::Exclusive)).expect("opens");
    for mode in [SessionMode::Exclusive, SessionMode::Shared] {
        let refusal = test.open(open("one", 2, mode)).expect_err("busy");
        assert!(matches!(&refusal, Refusal::Busy { holder, .. } if holder == "host-1/1"), "{refusal:?}");
        assert!(refusal.to_string().contains("since 2026-11-22T19:34:"), "{refusal}");
    }
    let reader = test.open(open("one", 2, SessionMode::ReadOnly)).expect("reads");
    assert!(reader.generation > first.generation);
    let forced = test.open(OpenSession { force: true, ..open("one", 3, SessionMode::Exclusive) }).expect("takes over");
    assert!(forced.generation > reader.generation);
    let sessions = &test.cluster.volume_by_name("one").expect("there").1.sessions;
    let clients: Vec<u128> = sessions.iter().map(|session| session.client.get()).collect();
    assert_eq!(clients, [2, 3], "the reader stays, the writer is fenced");
    assert!(matches!(test.open(open("none", 1, SessionMode::Exclusive)), Err(Refusal::NoVolume { .. })));
}

#[test]
fn a_client_takes_its_own_session_back_at_once() {
    let mut test = Test::with_volume();
    let first = test.open(open("one", 1, SessionMode::Exclusive)).expect("opens");
    let second = test.open(open("one", 1, SessionMode::Exclusive)).expect("opens again");
    assert!(second.generation > first.generation);
    assert_eq!(test.cluster.volume_by_name("one").expect("there").1.sessions.len(), 1);
    let close = |generation| Change::CloseSession { volume: first.volume, client: ClientId::new(1), generation };
    test.apply(close(first.generation)).expect("is gone already");
    assert_eq!(test.cluster.volume_by_name("one").expect("there").1.sessions.len(), 1);
    test.apply(close(second.generation)).expect("closes");
    assert!(test.cluster.volume_by_name("one").expect("there").1.sessions.is_empty());
}

#[test]
fn shared_sessions_fence_nobody_and_are_bounded() {
    let mut test = Test::with_volume();
    let max = SESSIONS_PER_VOLUME_MAX as u128;
    let mut last = SessionGeneration::default();
    for client in 1..=max {
        last = test.open(open("one", client, SessionMode::Shared)).expect("opens").generation;
    }
    assert_eq!(test.cluster.volume_by_name("one").expect("there").1.sessions.len(), SESSIONS_PER_VOLUME_MAX);
    assert_eq!(test.open(open("one", max + 1, SessionMode::Shared)), Err(Refusal::TooMany(Bound::Sessions)));
    let over_orphan = OpenSession { orphans: vec![last], ..open("one", max + 1, SessionMode::Shared) };
    test.open(over_orphan).expect("an orphan makes room");
    assert!(matches!(test.open(open("one", 1, SessionMode::Exclusive)), Err(Refusal::Busy { .. })));
}

#[test]
fn an_orphan_is_taken_over_without_force() {
    let mut test = Test::with_volume();
    let first = test.open(open("one", 1, SessionMode::Exclusive)).expect("opens");
    let taken = OpenSession { orphans: vec![first.generation], ..open("one", 2, SessionMode::Exclusive) };
    assert!(test.open(taken).expect("takes over").generation > first.generation);
    assert!(test.events.iter().any(|event| matches!(event, Event::SessionFenced { generation, .. } if *generation == first.generation)));
}

#[test]
fn an_open_volume_is_not_deleted() {
    let mut test = Test::with_volume();
    let first = test.open(open("one", 1, SessionMode::ReadOnly)).expect("opens");
    let refusal = test.delete("one").expect_err("is open");
    assert!(refusal.to_string().starts_with(r#"volume "one" cannot be deleted: it is open by host-1/1 since 2026-"#), "{refusal}");
    assert_eq!(test.delete("two"), Err(Refusal::NoVolume { name: "two".to_owned() }));
    test.apply(Change::DeleteVolume { name: "one".to_owned(), orphans: vec![first.generation] }).expect("its client is silent");
    assert!(test.cluster.volume_by_name("one").is_none());
}

#[test]
fn a_deleted_tree_is_told_until_every_device_has_freed_it() {
    let mut test = Test::with_volume();
    let tree = test.cluster.volume_by_name("one").expect("there").1.tree;
    let before = test.cluster.version();
    test.delete("one").expect("is deleted");
    let view = test.cluster.view_since(before, Recipient::Sds).expect("news");
    assert_eq!(view.deleted_trees, Some(vec![tree]));
    assert_eq!(view.volumes, Some(Vec::new()));
    assert_eq!(test.cluster.view_since(before, Recipient::Client(ClientId::new(1))).expect("news").deleted_trees, None);
    let freed = |sds, device| Change::TreesFreed { sds: SdsId::new(sds), device: DeviceId::new(device), trees: vec![tree] };
    assert!(matches!(test.apply(freed(1, 2)), Err(Refusal::NotOwner { .. })));
    test.apply(freed(1, 1)).expect("noted");
    test.apply(freed(1, 1)).expect("again");
    test.apply(freed(2, 2)).expect("noted");
    assert_eq!(test.cluster.deleted_trees().count(), 1);
    test.apply(freed(3, 3)).expect("noted");
    assert_eq!(test.cluster.deleted_trees().count(), 0);
    let view = test.cluster.view_since(before, Recipient::Sds).expect("news");
    assert_eq!(view.deleted_trees, Some(Vec::new()));
    test.create(create("one", GIB)).expect("the name is free");
    assert_ne!(test.cluster.volume_by_name("one").expect("there").1.tree, tree, "trees are never reused");
}

#[test]
fn a_client_sees_no_session_but_its_own() {
    let mut test = Test::with_volume();
    test.open(open("one", 1, SessionMode::Shared)).expect("opens");
    test.open(open("one", 2, SessionMode::Shared)).expect("opens");
    let sessions =
        |recipient| test.cluster.view_since(MapVersion::default(), recipient).expect("all").volumes.expect("all")[0].sessions.len();
    assert_eq!(sessions(Recipient::Sds), 2);
    assert_eq!(sessions(Recipient::Client(ClientId::new(2))), 1);
    assert_eq!(sessions(Recipient::Client(ClientId::new(3))), 0);
}

#[test]
fn time_never_goes_back() {
    let mut test = Test::with_volume();
    let now = test.cluster.unix_ms();
    let (result, _) = test.cluster.apply(&Command { unix_ms: 5, change: Change::CreateVolume(create("two", 4096)) });
    result.expect("is made");
    assert_eq!(test.cluster.unix_ms(), now);
    assert_eq!(test.cluster.volume_by_name("two").expect("there").1.created_ms, now);
}

#[test]
fn newer_formats_and_nonsense_are_refused() {
    let test = Test::with_volume();
    let mut bytes = test.cluster.encode().expect("small");
    assert_eq!(Cluster::decode(&bytes).expect("its own"), test.cluster);
    bytes[0] = 2;
    assert!(matches!(Cluster::decode(&bytes), Err(FormatError::Version { found: 2, known: 5 })), "of an older program");
    bytes[0] = 6;
    assert!(matches!(Cluster::decode(&bytes), Err(FormatError::Version { found: 6, known: 5 })));
    assert!(Cluster::decode(&[]).is_err());
    assert!(Cluster::decode(&[5, 2, 3]).is_err());
    let command = Command { unix_ms: 9, change: Change::Initialise { system: SYSTEM } };
    let mut bytes = command.encode().expect("small");
    assert_eq!(Command::decode(&bytes).expect("its own"), command);
    bytes[0] = 2;
    assert!(matches!(Command::decode(&bytes), Err(FormatError::Version { found: 2, known: 6 })));
    assert!(Command::decode(&bytes[..1]).is_err());
}

/// What a recipient has after applying updates: lists replace.
#[derive(Debug, Default, PartialEq)]
struct Receiver {
    version: MapVersion,
    pools: BTreeMap<PoolId, crate::map::ShardMap>,
    volumes: Vec<crate::view::VolumeView>,
    servers: (Vec<crate::view::DeviceView>, Vec<crate::view::SdsView>),
    deleted: Vec<TreeId>,
}

impl Receiver {
    fn take(&mut self, update: ViewUpdate) {
        assert!(update.version > self.version);
        self.version = update.version;
        self.pools.extend(update.pools.into_iter().map(|map| (map.pool, map)));
        self.volumes = update.volumes.unwrap_or(std::mem::take(&mut self.volumes));
        self.servers = update.servers.unwrap_or(std::mem::take(&mut self.servers));
        self.deleted = update.deleted_trees.unwrap_or(std::mem::take(&mut self.deleted));
    }
}

fn mode() -> impl Strategy<Value = SessionMode> {
    prop::sample::select(vec![SessionMode::Exclusive, SessionMode::Shared, SessionMode::ReadOnly])
}

fn generations() -> impl Strategy<Value = Vec<SessionGeneration>> {
    prop::collection::vec((0_u64..40).prop_map(SessionGeneration::new), 0..6)
}

fn change() -> impl Strategy<Value = Change> {
    let volume = || prop::sample::select(vec!["a", "b", "c", "d-"]).prop_map(str::to_owned);
    let pool = || prop::sample::select(vec![DEFAULT_POOL, "fast", "none"]).prop_map(str::to_owned);
    let a_device = (10_u128..16, any::<bool>(), 0_u64..3, pool()).prop_map(|(uuid, open, ceiling, pool)| RegisterDevice {
        open,
        pool: if pool == "none" { DEFAULT_POOL.to_owned() } else { pool },
        sequence_ceiling: ShardSequence::new(ceiling * 1000),
        ..device(uuid)
    });
    let registers = (1_u128..4, 0_u128..4, prop::collection::vec(a_device, 0..4), any::<bool>()).prop_map(|(sds, life, devices, moves)| {
        let movable = if moves { devices.iter().map(|device| device.uuid).collect() } else { Vec::new() };
        Change::RegisterSds(RegisterSds { movable, ..register(sds, life, devices) })
    });
    let creates = (volume(), prop::sample::select(vec![0, 4096, GIB, 9 * GIB, 5000]), pool(), prop::option::of(0_u8..3)).prop_map(
        |(name, size, pool, key)| Change::CreateVolume(CreateVolume { pool, key: key.map(|key| key.to_string()), ..create(&name, size) }),
    );
    let opens =
        (volume(), 1_u128..5, mode(), prop::bool::weighted(0.2), generations()).prop_map(|(volume, client, mode, force, orphans)| {
            Change::OpenSession(OpenSession { force, orphans, ..open(&volume, client, mode) })
        });
    let closes = (1_u32..6, 1_u128..5, 0_u64..40).prop_map(|(volume, client, generation)| Change::CloseSession {
        volume: VolumeId::new(volume),
        client: ClientId::new(client),
        generation: SessionGeneration::new(generation),
    });
    let freed = (1_u32..4, 1_u32..7, prop::collection::vec((1_u32..8).prop_map(TreeId::new), 0..4))
        .prop_map(|(sds, device, trees)| Change::TreesFreed { sds: SdsId::new(sds), device: DeviceId::new(device), trees });
    prop_oneof![
        4 => registers,
        4 => creates,
        2 => (volume(), generations()).prop_map(|(name, orphans)| Change::DeleteVolume { name, orphans }),
        5 => opens,
        2 => closes,
        2 => freed,
        1 => Just(Change::CreatePool { name: "fast".to_owned(), shards: 16, copies: Copies::One }),
    ]
}

/// What may only rise.
fn monotone(before: &Cluster, after: &Cluster) {
    assert!(after.version() >= before.version());
    assert!(after.unix_ms() >= before.unix_ms());
    for (id, pool) in before.pools() {
        let now = &after.pool(id).expect("pools stay").map.shards;
        for (old, new) in pool.map.shards.iter().zip(now) {
            assert!(new.epoch >= old.epoch, "I1");
            assert!(new.first_sequence >= old.first_sequence);
            assert!(new.epoch > old.epoch || new == old, "I1: a change of a shard is a new epoch");
        }
        assert!(now.len() >= pool.map.shards.len());
    }
    for (id, server) in before.servers() {
        assert!(after.server(id).is_none_or(|now| now.incarnation >= server.incarnation), "I6");
    }
}

/// A server that was up before another took its device and died takes it back in the life it had: its
/// incarnation must still rise for that device (I6). Found by `any_history_keeps_the_invariants`.
#[test]
fn a_device_taken_over_within_one_life_brings_a_new_incarnation() {
    let mut cluster = Cluster::new();
    cluster.apply(&Command { unix_ms: 0, change: Change::Initialise { system: SYSTEM } }).0.expect("a new system");
    let mut apply = |change| cluster.apply(&Command { unix_ms: 0, change }).0.expect("allowed");
    let incarnation = |outcome| match outcome {
        Outcome::Registered { incarnation, .. } => incarnation,
        other => panic!("not registered: {other:?}"),
    };
    let early = incarnation(apply(Change::RegisterSds(register(3, 1, Vec::new()))));
    let late = incarnation(apply(Change::RegisterSds(register(1, 1, vec![device(10)]))));
    apply(Change::CreateVolume(create("a", GIB)));
    let movable = vec![DeviceUuid::new(10)];
    let taken = incarnation(apply(Change::RegisterSds(RegisterSds { movable, ..register(3, 1, vec![device(10)]) })));
    assert!(early < late && late < taken);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_history_keeps_the_invariants(history in prop::collection::vec((0_u64..1_000_000, change()), 1..60)) {
        let mut cluster = Cluster::new();
        cluster.apply(&Command { unix_ms: 0, change: Change::Initialise { system: SYSTEM } }).0.expect("a new system");
        let mut twin = cluster.clone();
        let mut receiver = Receiver::default();
        receiver.take(cluster.view_since(MapVersion::default(), Recipient::Sds).expect("all"));
        let mut lazy = Receiver::default();
        let mut generation = SessionGeneration::default();
        for (step, (unix_ms, change)) in history.into_iter().enumerate() {
            let command = Command { unix_ms, change };
            // What the log keeps is what was proposed, and every member comes to the same.
            let read = Command::decode(&command.encode().expect("small")).expect("its own");
            prop_assert_eq!(&read, &command);
            let before = cluster.clone();
            let (result, events) = cluster.apply(&command);
            prop_assert_eq!(&twin.apply(&read), &(result.clone(), events));
            prop_assert_eq!(&twin, &cluster);
            prop_assert_eq!(cluster.fault(), None);
            monotone(&before, &cluster);
            if result.is_err() {
                prop_assert_eq!(&cluster, &before);
            }
            if let Ok(Outcome::SessionOpened(opened)) = result {
                prop_assert!(opened.generation > generation, "I3");
                generation = opened.generation;
                prop_assert_eq!(opened.version, cluster.version());
            }
            if let Some(update) = cluster.view_since(receiver.version, Recipient::Sds) {
                receiver.take(update);
            }
            if step % 7 == 6 {
                if let Some(update) = cluster.view_since(lazy.version, Recipient::Sds) {
                    lazy.take(update);
                }
                twin = Cluster::decode(&cluster.encode().expect("small")).expect("its own");
                prop_assert_eq!(&twin, &cluster);
            }
        }
        let mut whole = Receiver::default();
        whole.take(cluster.view_since(MapVersion::default(), Recipient::Sds).expect("all"));
        if let Some(update) = cluster.view_since(lazy.version, Recipient::Sds) {
            lazy.take(update);
        }
        prop_assert_eq!(&receiver, &whole);
        prop_assert_eq!(&lazy, &whole);
    }

    #[test]
    fn no_bytes_break_the_decoders(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Cluster::decode(&bytes);
        let _ = Command::decode(&bytes);
        let _ = crate::codec::decode::<crate::control::SdsToMdm>(&bytes);
        let _ = crate::codec::decode::<crate::control::ClientToMdm>(&bytes);
    }
}
