//! Pools of two copies: where the copies go, what is committed for their shards, and over random histories.

use super::*;
use crate::id::ShardId;
use crate::limits::{SEQUENCE_HEADROOM, SEQUENCE_RESERVATION};
use crate::map::{Lapsed, Member, ShardEntry};
use crate::placement::PlacementError;
use crate::protocol::membership::{Change as Rule, Proposal, Refused};
use std::collections::BTreeSet;

pub(super) const PAIRS: &str = "pairs";
const SHARDS: u32 = 16;

fn paired(uuid: u128) -> RegisterDevice {
    RegisterDevice { pool: PAIRS.to_owned(), ..device(uuid) }
}

impl Test {
    /// A pool of two copies over servers of one device each; device and server have the same number.
    fn pairs(servers: u128) -> Self {
        let mut test = Self::bare();
        test.apply(Change::CreatePool { name: PAIRS.to_owned(), shards: SHARDS, copies: Copies::Two }).expect("a pool");
        for sds in 1..=servers {
            test.register(register(sds, 100, vec![paired(10 + sds)])).expect("registers");
        }
        test
    }

    fn pairs_with_volume(servers: u128) -> Self {
        let mut test = Self::pairs(servers);
        test.create(CreateVolume { pool: PAIRS.to_owned(), ..create("one", GIB) }).expect("is made");
        test
    }

    fn entries(&self) -> Vec<ShardEntry> {
        self.cluster.pool_by_name(PAIRS).expect("there").1.map.shards.clone()
    }
}

#[test]
fn two_copies_are_in_different_fault_sets() {
    let test = Test::pairs_with_volume(3);
    let entries = test.entries();
    assert_eq!(entries.len(), SHARDS as usize);
    let mut primaries = BTreeSet::new();
    for entry in entries {
        let [primary, secondary] = entry.in_sync.members() else { panic!("{entry:?}") };
        assert_ne!(primary.device, secondary.device, "I11");
        primaries.insert(primary.device);
    }
    assert_eq!(primaries.len(), 3, "every device is primary of some");
}

#[test]
fn too_few_fault_sets_are_refused_by_name() {
    let mut test = Test::pairs(2);
    for sds in 1..=2 {
        let together = RegisterSds { fault_set: "rack".to_owned(), ..register(sds, 100, vec![paired(10 + sds)]) };
        test.register(together).expect("registers");
    }
    let refusal = test.create(CreateVolume { pool: PAIRS.to_owned(), ..create("one", GIB) }).expect_err("one fault set");
    assert!(matches!(refusal, Refusal::Placement { error: PlacementError::TooFewFaultSets { copies: 2, have: 1 }, .. }), "{refusal:?}");
    assert!(refusal.to_string().contains(r#"pool "pairs""#) && refusal.to_string().contains("2 copies need 2 fault sets, and there are 1"));
}

#[test]
fn two_copies_halve_the_room() {
    let mut test = Test::pairs(3);
    let volume = |size| CreateVolume { pool: PAIRS.to_owned(), ..create("one", size) };
    match test.create(volume(16 * GIB)) {
        Err(Refusal::OverProvisioned { room, copies: 2, .. }) => assert_eq!(room.get(), 15 * GIB),
        other => panic!("{other:?}"),
    }
    test.create(volume(15 * GIB)).expect("what it said would fit");
}

impl Test {
    fn entry(&self, shard: u32) -> ShardEntry {
        self.entries()[shard as usize]
    }

    /// A shard of which this device is the secondary.
    fn shard_with_secondary(&self, device: u32) -> u32 {
        let is = |entry: &ShardEntry| entry.in_sync.members()[1].device == DeviceId::new(device);
        u32::try_from(self.entries().iter().position(is).expect("one of them")).expect("few")
    }

    fn pool_id(&self) -> PoolId {
        self.cluster.pool_by_name(PAIRS).expect("there").0
    }

    /// The server of the proposing device asks.
    fn ask(&mut self, shard: u32, proposer: Member, change: Rule) -> Result<(), ProposalFault> {
        let base = self.entry(shard).epoch;
        let proposal = Proposal { base, proposer: Some(proposer), change };
        self.ask_all(SdsId::new(proposer.device.get()), vec![(self.pool_id(), ShardId::new(shard), proposal)])
    }

    fn ask_all(&mut self, sds: SdsId, proposals: Vec<(PoolId, ShardId, Proposal)>) -> Result<(), ProposalFault> {
        self.apply(Change::Propose { sds, heard: Vec::new(), proposals }).expect("never refused as a whole");
        let refused = self.events.iter().find_map(|event| match event {
            Event::ProposalsRefused { fault, .. } => Some(*fault),
            _ => None,
        });
        refused.map_or(Ok(()), Err)
    }

    /// The server comes back in another life.
    fn restart(&mut self, device: u32, life: u128) {
        let sds = u128::from(device);
        self.register(register(sds, life, vec![paired(10 + sds)])).expect("registers");
    }

    fn member(&self, device: u32) -> Member {
        let device = DeviceId::new(device);
        Member { device, incarnation: self.cluster.device(device).expect("known").incarnation }
    }
}

fn shrink(complete: u64) -> Rule {
    Rule::Shrink { complete: ShardSequence::new(complete) }
}

#[test]
fn a_restarted_member_changes_nothing_until_the_other_asks_and_then_joins_at_once() {
    let mut test = Test::pairs_with_volume(3);
    let shard = test.shard_with_secondary(2);
    let before = test.entries();
    test.restart(2, 101);
    assert_eq!(test.entries(), before, "the one that lives on asks");
    let [primary, secondary] = *before[shard as usize].in_sync.members() else { panic!("two copies") };
    // The one that restarted may not ask: it is another life than the entry's.
    assert_eq!(test.ask(shard, secondary, shrink(0)), Err(ProposalFault::Rule(Refused::OtherLife)));
    assert_eq!(test.ask(shard, test.member(2), shrink(0)), Err(ProposalFault::Rule(Refused::NotInSync)));
    let version = test.cluster.version();
    test.ask(shard, primary, shrink(7)).expect("committed");
    let entry = test.entry(shard);
    assert_eq!(entry.in_sync.members(), [primary]);
    assert_eq!(entry.lapsed, Some(Lapsed { device: DeviceId::new(2), complete: ShardSequence::new(7) }));
    assert_eq!(entry.joining, Some(test.member(2)), "it is there already");
    assert_eq!(entry.epoch, Epoch::new(3), "two configurations in one command");
    assert_eq!(test.cluster.version().get(), version.get() + 1);
    test.ask(shard, primary, Rule::Grow).expect("committed");
    assert_eq!(test.entry(shard).in_sync.members(), [primary, test.member(2)]);
    assert_eq!((test.entry(shard).joining, test.entry(shard).lapsed), (None, None));
}

#[test]
fn a_member_that_fell_out_joins_at_once_and_again_when_it_registers() {
    let mut test = Test::pairs_with_volume(3);
    let shard = test.shard_with_secondary(2);
    let primary = test.entry(shard).in_sync.members()[0];
    test.ask(shard, primary, shrink(7)).expect("committed");
    assert_eq!(
        (test.entry(shard).joining, test.entry(shard).epoch),
        (Some(test.member(2)), Epoch::new(3)),
        "it lives, as far as anybody knows"
    );
    test.restart(2, 101);
    assert_eq!((test.entry(shard).joining, test.entry(shard).epoch), (Some(test.member(2)), Epoch::new(4)));
    assert!(test.events.contains(&Event::ShardsJoining { device: DeviceId::new(2), shards: 1 }));
    // Once more: the joiner of the newest life replaces the one before.
    test.restart(2, 102);
    assert_eq!((test.entry(shard).joining, test.entry(shard).epoch), (Some(test.member(2)), Epoch::new(5)));
    let epoch = test.entry(shard).epoch;
    test.restart(2, 102);
    assert_eq!(test.entry(shard).epoch, epoch, "nothing new");
}

#[test]
fn a_replica_does_not_join_from_the_fault_set_of_the_copy_it_would_join() {
    let mut test = Test::pairs_with_volume(3);
    let shard = test.shard_with_secondary(2);
    let primary = test.entry(shard).in_sync.members()[0];
    let fault_set = format!("node-{}", primary.device);
    test.register(RegisterSds { fault_set, ..register(2, 101, vec![paired(12)]) }).expect("registers");
    test.ask(shard, primary, shrink(0)).expect("committed");
    assert_eq!(test.entry(shard).joining, None, "I11");
    test.restart(2, 102);
    assert_eq!(test.entry(shard).joining, Some(test.member(2)));
    // Nor is it grown by one that has moved there since.
    let fault_set = format!("node-{}", primary.device);
    test.register(RegisterSds { fault_set, ..register(2, 102, vec![paired(12)]) }).expect("registers");
    assert_eq!(test.ask(shard, primary, Rule::Grow), Err(ProposalFault::Rule(Refused::SameFaultSet)));
    test.restart(2, 102);
    test.ask(shard, primary, Rule::Grow).expect("committed");
}

#[test]
fn a_secondary_that_takes_over_begins_far_above_what_it_knows() {
    let mut test = Test::pairs_with_volume(2);
    let secondary = test.entry(0).in_sync.members()[1];
    let proposal = Proposal { base: Epoch::new(1), proposer: Some(secondary), change: shrink(900) };
    let heard = vec![Heard { member: secondary, ceiling: ShardSequence::new(5_000), flushed: LogSequence::default() }];
    let proposals = vec![(test.pool_id(), ShardId::new(0), proposal)];
    test.apply(Change::Propose { sds: SdsId::new(secondary.device.get()), heard, proposals }).expect("applied");
    assert_eq!(test.entry(0).in_sync.members(), [secondary]);
    assert_eq!(test.entry(0).first_sequence.get(), 5_000 + SEQUENCE_HEADROOM);
}

#[test]
fn when_all_members_have_restarted_the_shard_is_formed_again() {
    let mut test = Test::pairs_with_volume(2);
    let before = test.entries();
    test.restart(1, 101);
    assert_eq!(test.entries(), before);
    let mut back = paired(12);
    back.sequence_ceiling = ShardSequence::new(1 << 20);
    test.register(register(2, 101, vec![back])).expect("registers");
    for (now, then) in test.entries().iter().zip(&before) {
        let lives = then.in_sync.members().iter().map(|member| test.member(member.device.get()));
        assert_eq!(now.in_sync.members(), lives.collect::<Vec<_>>(), "same devices, newest lives");
        assert_eq!((now.epoch, now.first_sequence), (Epoch::new(2), ShardSequence::new(1 << 20)));
    }
}

#[test]
fn an_epoch_names_the_version_that_made_it() {
    let mut test = Test::pairs_with_volume(2);
    let version = test.cluster.version();
    assert!(test.entries().iter().all(|entry| entry.made_at == version), "placed");
    let secondary = test.entry(0).in_sync.members()[1];
    test.ask(0, secondary, shrink(0)).expect("committed");
    assert_eq!((test.entry(0).made_at, test.entry(1).made_at), (test.cluster.version(), version));
    test.restart(secondary.device.get(), 101);
    test.restart(3 - secondary.device.get(), 101);
    assert!(test.entries().iter().any(|entry| entry.made_at == test.cluster.version()));
}

impl Test {
    /// The server comes back in another life, its host in this boot (0: its device has no volatile cache).
    fn comes_back(&mut self, device: u32, life: u128, boot: u128) {
        let sds = u128::from(device);
        let report = RegisterDevice { cache: BootId::new(boot), ..paired(10 + sds) };
        self.register(register(sds, life, vec![report])).expect("registers");
    }
}

#[test]
fn a_shard_formed_again_says_whose_cache_was_lost_and_since_when_no_cache_was_kept() {
    // By the boots before and after of the two hosts.
    for (first, second, lost) in
        [((5, 5), (6, 6), [false; 2]), ((5, 7), (6, 6), [true, false]), ((5, 7), (6, 8), [true; 2]), ((0, 7), (6, 8), [false, true])]
    {
        let mut test = Test::pairs(2);
        test.comes_back(1, 101, first.0);
        test.comes_back(2, 101, second.0);
        test.create(CreateVolume { pool: PAIRS.to_owned(), ..create("one", GIB) }).expect("is made");
        test.comes_back(1, 102, first.1);
        test.comes_back(2, 102, second.1);
        for entry in test.entries() {
            let of = |member: &Member| lost[member.device.get() as usize - 1];
            let members: Vec<bool> = entry.in_sync.members().iter().map(of).collect();
            assert_eq!(entry.cache_lost.to_vec(), members, "{first:?} {second:?}");
            assert_eq!(entry.cache_lost_in, Epoch::new(if lost == [true; 2] { 2 } else { 0 }));
        }
    }
}

#[test]
fn a_cache_lost_in_a_life_that_formed_nothing_is_still_lost() {
    let mut test = Test::pairs(2);
    test.comes_back(1, 101, 5);
    test.comes_back(2, 101, 6);
    test.create(CreateVolume { pool: PAIRS.to_owned(), ..create("one", GIB) }).expect("is made");
    // Its power is cut, then only its process dies, while the other is away.
    test.comes_back(1, 102, 7);
    test.comes_back(1, 103, 7);
    test.comes_back(2, 102, 6);
    let entry = test.entry(0);
    assert!(entry.has_lost_cache(test.member(1)) && !entry.has_lost_cache(test.member(2)), "{entry:?}");
    let primary = entry.in_sync.primary().expect("there is one");
    test.ask(0, primary, Rule::Settled).expect("both have settled");
    assert_eq!((test.entry(0).cache_lost, test.entry(0).epoch), ([false; 2], Epoch::new(3)));
    test.comes_back(1, 104, 7);
    test.comes_back(2, 103, 9);
    let entry = test.entry(0);
    assert!(!entry.has_lost_cache(test.member(1)) && entry.has_lost_cache(test.member(2)), "{entry:?}");
    assert_eq!(entry.cache_lost_in, Epoch::new(0));
}

#[test]
fn one_copy_that_lost_its_cache_says_so_in_its_epoch() {
    let mut test = Test::with_volume();
    let cached = |boot| vec![RegisterDevice { cache: BootId::new(boot), ..device(11) }];
    for (life, boot, lost_in) in [(200, 5, 0), (201, 5, 0), (202, 6, 4), (203, 6, 4)] {
        test.register(register(1, life, cached(boot))).expect("registers");
        assert!(test.entries_of(1).iter().all(|entry| entry.cache_lost_in == Epoch::new(lost_in)), "life {life}");
    }
}

/// A device that has told of a flushed position since it registered.
fn said(member: Member, flushed: u64) -> Heard {
    Heard { member, ceiling: ShardSequence::default(), flushed: LogSequence::new(flushed) }
}

/// Both members restart, and the first comes back with an older log.
fn forgetful(found: u64, heard: u64) -> Test {
    let mut test = Test::pairs_with_volume(2);
    let report = |uuid, at| RegisterDevice { flushed: LogSequence::new(at), log_end: LogSequence::new(at), ..paired(uuid) };
    test.register(register(1, 100, vec![report(11, 50)])).expect("registers");
    let heard = vec![said(test.member(1), heard)];
    test.register(RegisterSds { heard, ..register(1, 101, vec![report(11, found)]) }).expect("registers");
    test.restart(2, 101);
    test
}

#[test]
fn a_device_that_has_forgotten_is_left_out_and_joins_complete_up_to_nothing() {
    for (found, heard, forgets) in [(49, 0, true), (50, 0, false), (60, 0, false), (60, 61, true), (0, 70, true)] {
        let test = forgetful(found, heard);
        for entry in test.entries() {
            let members: Vec<u32> = entry.in_sync.members().iter().map(|member| member.device.get()).collect();
            if forgets {
                assert_eq!((members, entry.joining), (vec![2], Some(test.member(1))), "I13: {found} {heard}");
                assert_eq!(entry.lapsed, Some(Lapsed { device: DeviceId::new(1), complete: ShardSequence::new(0) }));
            } else {
                assert_eq!((members.len(), entry.joining), (2, None), "{found} {heard}");
            }
        }
    }
}

/// What heartbeats have told is recorded with what is decided, so that it outlives the leader who heard it; and a position of a life that is
/// over by then is not taken for one of the life that has begun (simulator seed 43001944).
#[test]
fn what_was_heard_is_recorded_with_what_is_decided_and_only_of_the_present_life() {
    let mut test = Test::pairs_with_volume(2);
    let (first, second) = (test.member(1), test.member(2));
    let ask = |test: &mut Test, heard: Vec<Heard>| {
        let proposals = Vec::new();
        test.apply(Change::Propose { sds: SdsId::new(2), heard, proposals }).expect("never refused as a whole");
    };
    let flushed = |test: &Test, device: u32| test.cluster.device(DeviceId::new(device)).expect("registered").flushed.get();
    ask(&mut test, vec![said(first, 70), said(second, 30)]);
    assert_eq!((flushed(&test, 1), flushed(&test, 2)), (70, 30));
    ask(&mut test, vec![said(first, 60)]);
    assert_eq!(flushed(&test, 1), 70);
    // Its server comes back without it, and then with it, having forgotten.
    test.register(register(1, 101, Vec::new())).expect("registers");
    let report = |at| RegisterDevice { flushed: LogSequence::new(at), log_end: LogSequence::new(at), ..paired(11) };
    test.register(register(1, 101, vec![report(69)])).expect("registers");
    assert_eq!((flushed(&test, 1), test.member(1).incarnation == first.incarnation), (69, false));
    ask(&mut test, vec![said(first, 70)]);
    assert_eq!(flushed(&test, 1), 69);
}

#[test]
fn what_is_flushed_after_opening_does_not_hide_what_was_forgotten() {
    let mut test = Test::pairs_with_volume(2);
    let report = |flushed, log_end| RegisterDevice { flushed: LogSequence::new(flushed), log_end: LogSequence::new(log_end), ..paired(11) };
    test.register(register(1, 100, vec![report(50, 10)])).expect("registers");
    test.register(register(1, 101, vec![report(55, 49)])).expect("registers");
    let forgot = |event: &Event| matches!(event, Event::DeviceForgot { flushed, found, .. } if (flushed.get(), found.get()) == (50, 49));
    assert!(test.events.iter().any(forgot), "{:?}", test.events);
    // The same life again, and the next one, which has what the last one had.
    test.register(register(1, 101, vec![report(60, 49)])).expect("registers");
    assert!(!test.events.iter().any(|event| matches!(event, Event::DeviceForgot { .. })));
    test.register(register(1, 102, vec![report(60, 60)])).expect("registers");
    assert!(!test.events.iter().any(|event| matches!(event, Event::DeviceForgot { .. })));
}

#[test]
fn a_device_that_hung_serves_again_in_the_life_it_had() {
    let mut test = Test::pairs_with_volume(2);
    let report = |open, flushed| RegisterDevice { open, flushed: LogSequence::new(flushed), log_end: LogSequence::new(10), ..paired(11) };
    test.register(register(1, 100, vec![report(true, 50)])).expect("registers");
    test.register(register(1, 100, vec![report(false, 50)])).expect("registers");
    for shard in 0..SHARDS {
        test.ask(shard, test.member(1), Rule::Yield { complete: ShardSequence::new(7) }).expect("committed");
    }
    assert!(test.entries().iter().all(|entry| entry.joining.is_none()), "it does not serve");
    test.register(register(1, 100, vec![report(true, 50)])).expect("registers");
    assert!(!test.events.iter().any(|event| matches!(event, Event::DeviceForgot { .. })), "its log ended there when this life began");
    let complete = Some(Lapsed { device: DeviceId::new(1), complete: ShardSequence::new(7) });
    for entry in test.entries() {
        assert_eq!((entry.joining, entry.lapsed), (Some(test.member(1)), complete), "it is given what it missed, and no more");
    }
}

#[test]
fn a_device_that_has_forgotten_and_then_got_everything_is_a_member_like_any() {
    let mut test = forgetful(49, 0);
    for shard in 0..SHARDS {
        test.ask(shard, test.member(2), Rule::Grow).expect("committed");
    }
    let report = RegisterDevice { flushed: LogSequence::new(60), log_end: LogSequence::new(60), ..paired(11) };
    test.register(register(1, 102, vec![report])).expect("registers");
    test.restart(2, 102);
    for entry in test.entries() {
        assert_eq!(entry.in_sync.members().len(), 2, "{entry:?}");
    }
}

#[test]
fn the_only_copy_that_has_forgotten_is_not_taken_back_unless_the_pool_keeps_one() {
    let mut test = Test::pairs_with_volume(2);
    for shard in 0..SHARDS {
        test.ask(shard, test.member(1), shrink(0)).expect("committed");
    }
    let report = |at| RegisterDevice { flushed: LogSequence::new(at), log_end: LogSequence::new(at), ..paired(11) };
    test.register(register(1, 101, vec![report(50)])).expect("registers");
    let before = test.entries();
    test.register(register(1, 102, vec![report(49)])).expect("registers");
    assert_eq!(test.entries(), before, "I7: an operator may force it");
    let mut test = Test::with_volume();
    for (life, flushed) in [(200, 50), (201, 49)] {
        let device = RegisterDevice { flushed: LogSequence::new(flushed), log_end: LogSequence::new(flushed), ..device(11) };
        test.register(register(1, life, vec![device])).expect("registers");
    }
    assert!(test.entries_of(1).iter().all(|entry| entry.epoch == Epoch::new(3)), "it is all there is");
}

#[test]
fn a_failed_device_gives_up_and_does_not_join_before_it_opens_again() {
    let mut test = Test::pairs_with_volume(2);
    let [primary, secondary] = *test.entry(0).in_sync.members() else { panic!("two copies") };
    let uuid = 10 + u128::from(primary.device.get());
    let failed = RegisterDevice { open: false, ..paired(uuid) };
    test.register(register(uuid - 10, 100, vec![failed.clone()])).expect("registers");
    assert_eq!(test.ask(0, primary, shrink(0)), Err(ProposalFault::Rule(Refused::OtherLife)), "it does not serve");
    test.ask(0, primary, Rule::Yield { complete: ShardSequence::new(3) }).expect("committed");
    assert_eq!((test.entry(0).in_sync.members(), test.entry(0).joining), (&[secondary][..], None));
    test.register(register(uuid - 10, 101, vec![failed])).expect("registers");
    assert_eq!(test.entry(0).joining, None);
    test.restart(primary.device.get(), 101);
    assert_eq!(test.entry(0).joining, Some(test.member(primary.device.get())));
}

#[test]
fn one_batch_is_one_version_and_what_is_refused_is_told() {
    let mut test = Test::pairs_with_volume(2);
    let (version, pool) = (test.cluster.version(), test.pool_id());
    let of_one: Vec<_> = (0..SHARDS).filter(|shard| test.entry(*shard).in_sync.members()[0].device == DeviceId::new(1)).collect();
    let mut proposals: Vec<_> = of_one
        .iter()
        .map(|shard| (pool, ShardId::new(*shard), Proposal { base: Epoch::new(1), proposer: Some(test.member(1)), change: shrink(0) }))
        .collect();
    proposals.push(proposals[0]);
    proposals.push((pool, ShardId::new(SHARDS), proposals[0].2));
    proposals.push((pool, ShardId::new(0), Proposal { proposer: None, change: Rule::Reform, ..proposals[0].2 }));
    let shards = u32::try_from(of_one.len()).expect("few");
    let applied = test.apply(Change::Propose { sds: SdsId::new(1), heard: Vec::new(), proposals });
    assert_eq!(applied, Ok(Outcome::Proposed { committed: shards, refused: 3 }));
    assert_eq!(test.cluster.version().get(), version.get() + 1);
    let faults: Vec<_> = test.events.iter().filter(|event| matches!(event, Event::ProposalsRefused { shards: 1, .. })).collect();
    assert_eq!(faults.len(), 3, "{:?}", test.events);
    assert!(test.events.contains(&Event::ShardsChanged { sds: SdsId::new(1), shards }));
    let told = test.cluster.view_since(version, Recipient::Sds).expect("news");
    assert_eq!(told.pools.iter().map(|map| map.pool).collect::<Vec<_>>(), [pool]);
    // Nothing but refusals is no version.
    let version = test.cluster.version();
    assert_eq!(
        test.ask_all(SdsId::new(2), vec![(pool, ShardId::new(99), Proposal { base: Epoch::new(1), proposer: None, change: Rule::Grow })]),
        Err(ProposalFault::NoShard)
    );
    assert_eq!(test.cluster.version(), version);
}

impl Test {
    fn force(&mut self, shard: u32, device: u32, gone: &[u32]) -> Result<Outcome, Refusal> {
        self.apply(Change::ForceShard {
            pool: PAIRS.to_owned(),
            shard,
            device: DeviceId::new(device),
            gone: gone.iter().map(|device| self.member(*device)).collect(),
            heard: Vec::new(),
            reason: "its server burnt".to_owned(),
        })
    }

    fn losses(&self) -> state::Losses {
        self.cluster.pool_by_name(PAIRS).expect("there").1.losses
    }
}

#[test]
fn who_is_back_goes_on_alone_with_all_shards_that_it_shares_with_the_one_that_is_not() {
    for (boot, unflushed) in [(6, 0), (7, 1)] {
        let mut test = Test::pairs(3);
        test.comes_back(2, 101, 6);
        test.create(CreateVolume { pool: PAIRS.to_owned(), ..create("one", GIB) }).expect("is made");
        let before = test.entries();
        let absent = test.member(1);
        test.comes_back(2, 102, boot);
        let survivor = test.member(2);
        let shared: Vec<usize> =
            (0..before.len()).filter(|at| alone::is_pair_of(&before[*at], DeviceId::new(1), DeviceId::new(2))).collect();
        let shards = u32::try_from(shared.len()).expect("few");
        let outcome = test.apply(Change::GoOnAlone { survivor, absent, heard: Vec::new() });
        assert_eq!(outcome, Ok(Outcome::WentAlone { shards }));
        for (at, (then, now)) in before.iter().zip(test.entries()).enumerate() {
            if shared.contains(&at) {
                assert_eq!(now.in_sync.members(), [survivor]);
                assert_eq!((now.lapsed.map(|lapsed| lapsed.device), now.epoch), (Some(absent.device), Epoch::new(2)));
                assert!(
                    now.first_sequence > then.first_sequence
                        || now.in_sync.primary().map(|own| own.device) == then.in_sync.primary().map(|own| own.device)
                );
            } else {
                assert_eq!(now, *then);
            }
        }
        let losses = test.losses();
        assert_eq!((losses.alone, losses.unflushed, losses.forced), (u64::from(shards), u64::from(shards) * unflushed, 0));
        assert_eq!(test.cluster.audit().count(), 1);
        // The other comes back and joins what went on.
        test.comes_back(1, 101, 5);
        assert_eq!(test.entries().iter().filter(|entry| entry.joining == Some(test.member(1))).count(), shared.len());
    }
}

#[test]
fn a_lone_start_that_comes_late_does_nothing() {
    let mut test = Test::pairs_with_volume(2);
    let absent = test.member(1);
    test.restart(2, 101);
    let survivor = test.member(2);
    test.restart(1, 101);
    let before = test.entries();
    assert_eq!(test.apply(Change::GoOnAlone { survivor, absent, heard: Vec::new() }), Ok(Outcome::WentAlone { shards: 0 }));
    assert_eq!((test.entries(), test.cluster.audit().count()), (before, 0), "it has registered since");
}

#[test]
fn a_copy_that_fell_out_is_forced_when_the_only_one_in_sync_is_gone() {
    let mut test = Test::pairs_with_volume(2);
    let [primary, secondary] = *test.entry(0).in_sync.members() else { panic!("two copies") };
    test.ask(0, primary, shrink(7)).expect("committed");
    let stale = secondary.device.get();
    let refusal = test.force(0, stale, &[]).expect_err("the other is there");
    assert!(matches!(&refusal, Refusal::Force { fault: ForceFault::InSync { device, .. }, .. } if *device == primary.device), "{refusal}");
    let refusal = test.force(0, primary.device.get(), &[]).expect_err("it serves");
    assert!(matches!(refusal, Refusal::Force { fault: ForceFault::Serves, .. }));
    assert_eq!(test.force(0, stale, &[primary.device.get()]), Ok(Outcome::ShardForced { pool: test.pool_id(), shard: 0 }));
    let entry = test.entry(0);
    assert_eq!((entry.in_sync.members(), entry.epoch, entry.cache_lost_in), (&[secondary][..], Epoch::new(4), Epoch::new(4)));
    assert!(entry.first_sequence.get() >= SEQUENCE_HEADROOM);
    assert_eq!((test.losses().forced, test.losses().alone), (1, 0));
    let audit: Vec<_> = test.cluster.audit().cloned().collect();
    assert!(audit[0].action.contains("shard pairs/0 was forced to data server") && audit[0].reason == "its server burnt", "{audit:?}");
    assert!(test.events.iter().any(|event| matches!(event, Event::ShardForced { shard: 0, lost: true, .. })));
    let refusal = test.force(0, stale, &[stale]).expect_err("its server is down");
    assert!(matches!(refusal, Refusal::Force { fault: ForceFault::NotServing, .. }), "{refusal}");
    // Who is no copy, what does not serve, what is not there.
    let mut test = Test::pairs_with_volume(3);
    let strange = (1..=3).find(|device| !test.entry(0).in_sync.members().contains(&test.member(*device))).expect("a third");
    let others: Vec<u32> = (1..=3).filter(|device| *device != strange).collect();
    let refusal = test.force(0, strange, &others).expect_err("it has nothing of it");
    assert!(matches!(refusal, Refusal::Force { fault: ForceFault::NoCopy, .. }), "{refusal}");
    assert!(matches!(test.force(0, 9, &[]), Err(Refusal::Force { fault: ForceFault::NotServing, .. })));
    assert!(matches!(test.force(SHARDS, 1, &[]), Err(Refusal::NoShard { shards: SHARDS, .. })));
}

#[test]
fn a_sole_copy_that_is_forced_though_it_forgot_vouches_for_nothing_on_one_that_fell_out() {
    let mut test = Test::pairs_with_volume(2);
    let [primary, secondary] = *test.entry(0).in_sync.members() else { panic!("two copies") };
    let server = primary.device.get();
    let uuid = u128::from(10 + server);
    let report = |at: u64| RegisterDevice { flushed: LogSequence::new(at), log_end: LogSequence::new(at), ..paired(uuid) };
    test.register(register(u128::from(server), 100, vec![report(50)])).expect("registers");
    test.ask(0, primary, shrink(7)).expect("committed");
    test.register(register(u128::from(server), 101, vec![report(49)])).expect("registers");
    assert_eq!(test.entry(0).in_sync.members(), [primary], "I13: not taken back by itself");
    test.force(0, server, &[]).expect("by an operator");
    let entry = test.entry(0);
    assert_eq!(entry.in_sync.members(), [test.member(server)]);
    let complete = Some(Lapsed { device: secondary.device, complete: ShardSequence::new(0) });
    assert_eq!(entry.lapsed, complete, "I12: what it has since may differ from what the other has at the same versions");
}

/// A move of the random history.
#[derive(Clone, Debug)]
enum Move {
    /// A server's process comes back; its device serves or not, and has forgotten something or not.
    Restart { server: u32, open: bool, forgets: bool },
    /// It says the same again.
    Repeat { server: u32 },
    /// Some device asks something of a shard; `stale` is by how much its epoch and its life are old.
    Ask { server: u32, shard: u32, change: Rule, stale: u32 },
    /// The first goes on alone, the second is held for gone.
    Alone { survivor: u32, absent: u32 },
    /// The shard's primary, while it serves, uses sequences.
    Write { shard: u32, count: u64 },
}

fn a_move() -> impl Strategy<Value = Move> {
    let change = prop_oneof![
        4 => (0_u64..100).prop_map(shrink),
        1 => (0_u64..100).prop_map(|complete| Rule::Yield { complete: ShardSequence::new(complete) }),
        4 => Just(Rule::Grow),
        2 => Just(Rule::Swap),
        2 => Just(Rule::Reform),
        2 => Just(Rule::Settled),
        1 => (1_u32..5, 1_u64..9).prop_map(|(device, life)| Rule::Join {
            joiner: Member { device: DeviceId::new(device), incarnation: Incarnation::new(life) }
        }),
    ];
    prop_oneof![
        2 => (1_u32..5, prop::bool::weighted(0.8), prop::bool::weighted(0.2)).prop_map(|(server, open, forgets)| Move::Restart { server, open, forgets }),
        1 => (1_u32..5).prop_map(|server| Move::Repeat { server }),
        8 => (1_u32..5, 0..SHARDS, change, prop::sample::select(vec![0_u32, 0, 0, 0, 1]))
            .prop_map(|(server, shard, change, stale)| Move::Ask { server, shard, change, stale }),
        1 => (1_u32..5, 1_u32..5).prop_map(|(survivor, absent)| Move::Alone { survivor, absent }),
        3 => (0..SHARDS, 1_u64..SEQUENCE_RESERVATION / 2).prop_map(|(shard, count)| Move::Write { shard, count }),
    ]
}

/// A cluster, and what the devices know that the MDM does not.
struct World {
    test: Test,
    lives: [(u128, bool); 5],
    /// By device number: its flushed position.
    flushed: [u64; 5],
    /// By device number: the ceiling it has reserved, and the one it reported last.
    ceilings: [(u64, u64); 5],
    /// By shard: the last sequence used.
    used: [u64; SHARDS as usize],
}

impl World {
    fn report(&mut self, device: usize) -> RegisterDevice {
        self.ceilings[device].1 = self.ceilings[device].0;
        let mut report = paired(10 + device as u128);
        report.open = self.lives[device].1;
        report.sequence_ceiling = ShardSequence::new(self.ceilings[device].0);
        report.flushed = LogSequence::new(self.flushed[device]);
        report.log_end = report.flushed;
        report
    }

    fn register(&mut self, server: u32) {
        let device = self.report(server as usize);
        let life = self.lives[server as usize].0;
        self.test.register(register(u128::from(server), life, vec![device])).expect("registers");
    }

    /// A primary that serves takes writes: each member reserves before it takes one. The secondary may lag a little.
    fn write(&mut self, shard: u32, count: u64) {
        let entry = self.test.entry(shard);
        let Some(primary) = entry.in_sync.primary().filter(|member| self.lives[member.device.get() as usize].1) else { return };
        if self.test.member(primary.device.get()) != primary {
            return;
        }
        let used = &mut self.used[shard as usize];
        *used = (*used).max(entry.first_sequence.get()) + count;
        for member in entry.in_sync.members() {
            let lag = if *member == primary { 0 } else { 1000 };
            let ceiling = &mut self.ceilings[member.device.get() as usize];
            if ceiling.0 <= used.saturating_sub(lag) {
                ceiling.0 = used.saturating_sub(lag) + SEQUENCE_RESERVATION;
            }
        }
    }

    fn ask(&mut self, server: u32, shard: u32, change: Rule, stale: u32) {
        let entry = self.test.entry(shard);
        let present = self.test.member(server);
        let proposer = Member { incarnation: Incarnation::new(present.incarnation.get() - u64::from(stale.min(1))), ..present };
        let proposal = Proposal { base: Epoch::new(entry.epoch.get() - stale), proposer: Some(proposer), change };
        // What has been heard since: all but the newest reservation.
        let heard = self.heard(|ceilings| ceilings.1.max(ceilings.0.saturating_sub(SEQUENCE_RESERVATION)));
        let proposals = vec![(self.test.pool_id(), ShardId::new(shard), proposal)];
        let result = self.test.apply(Change::Propose { sds: SdsId::new(server), heard, proposals });
        if stale > 0 || matches!(change, Rule::Join { .. }) {
            assert_eq!(result, Ok(Outcome::Proposed { committed: 0, refused: 1 }), "I1, I6");
        }
    }

    fn heard(&self, ceiling: impl Fn((u64, u64)) -> u64) -> Vec<Heard> {
        let of = |device: u32| (self.test.member(device), ShardSequence::new(ceiling(self.ceilings[device as usize])));
        (1..5).map(of).map(|(member, ceiling)| Heard { member, ceiling, flushed: LogSequence::default() }).collect()
    }

    fn go_on_alone(&mut self, survivor: u32, absent: u32) {
        let (survivor, absent) = (self.test.member(survivor), self.test.member(absent));
        let heard = self.heard(|ceilings| ceilings.0);
        self.test.apply(Change::GoOnAlone { survivor, absent, heard }).expect("never refused");
    }

    fn check(&self, before: &[ShardEntry]) {
        for ((number, then), now) in before.iter().enumerate().zip(self.test.entries()) {
            if *then == now {
                continue;
            }
            let steps = now.epoch.get() - then.epoch.get();
            assert!((1..=2).contains(&steps), "I1: {then:?} became {now:?}");
            assert!(steps == 1 || now.joining.is_some(), "the second is a joiner's");
            let members = now.in_sync.members();
            assert!(!members.is_empty(), "I7");
            if let [primary, secondary] = members {
                assert_ne!(primary.device, secondary.device, "I11: each is a fault set");
            }
            let device_of = |member: &Member| member.device;
            let held = |device: DeviceId| then.in_sync.members().iter().map(device_of).any(|member| member == device);
            for member in members {
                assert!(held(member.device) || then.joining == Some(*member), "I6: {then:?} became {now:?}");
                let old = then.in_sync.members().iter().find(|old| old.device == member.device);
                let forgot_in = self.test.cluster.device(member.device).expect("known").forgot_in;
                let forgot = old.is_some_and(|old| old != member && forgot_in > Some(old.incarnation));
                assert!(!forgot, "I13: {then:?} became {now:?}");
            }
            let went_on = members.iter().any(|member| then.in_sync.members().contains(member));
            let all_new = then.in_sync.members().iter().all(|old| self.test.member(old.device.get()).incarnation > old.incarnation);
            let alone =
                then.in_sync.members().len() == 2 && members.len() == 1 && now.lapsed.is_some_and(|lapsed| lapsed.complete.get() == 0);
            assert!(went_on || all_new || alone, "I7: somebody who has it all goes on, unless all have restarted: {then:?} became {now:?}");
            assert!(now.first_sequence >= then.first_sequence);
            let goes_on = now.in_sync.primary() == then.in_sync.primary();
            assert!(goes_on || now.first_sequence.get() > self.used[number], "sequences are never reused: {then:?} became {now:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_history_of_two_copies_keeps_the_invariants(history in prop::collection::vec(a_move(), 1..120)) {
        let test = Test::pairs_with_volume(4);
        let mut world = World { test, lives: [(100, true); 5], flushed: [1000; 5], ceilings: [(0, 0); 5], used: [0; SHARDS as usize] };
        for step in history {
            let before = world.test.entries();
            match step {
                Move::Restart { server, open, forgets } => {
                    let life = &mut world.lives[server as usize];
                    *life = (life.0 + 1, open);
                    let flushed = &mut world.flushed[server as usize];
                    *flushed = if forgets { *flushed - 1 } else { *flushed + 1 };
                    world.register(server);
                }
                Move::Repeat { server } => world.register(server),
                Move::Ask { server, shard, change, stale } => world.ask(server, shard, change, stale),
                Move::Alone { survivor, absent } => world.go_on_alone(survivor, absent),
                Move::Write { shard, count } => world.write(shard, count),
            }
            world.check(&before);
        }
        let copy = Cluster::decode(&world.test.cluster.encode().expect("small")).expect("its own");
        prop_assert_eq!(&copy, &world.test.cluster);
    }
}
