//! Pools of two copies: states of shards, proposals, what operators see and may force.

use super::*;

/// Two servers on links 1 and 2 with a pool of two copies, 8 shards and a volume "one".
fn with_pairs() -> Test {
    let mut test = Test::start(Cluster::new());
    test.pass(10_000);
    let pool = ApiRequest::CreatePool { name: "pairs".to_owned(), shards: 8, copies: Copies::Two };
    assert!(matches!(test.api(pool), ApiReply::PoolCreated(_)));
    (1..=2).for_each(|sds| test.register(sds, u128::from(sds), 7, vec![paired(sds, DeviceState::Open)]));
    let ApiRequest::CreateVolume(volume) = create("one") else { unreachable!("it creates a volume") };
    let reply = test.api(ApiRequest::CreateVolume(CreateVolume { pool: "pairs".to_owned(), ..volume }));
    assert!(matches!(reply, ApiReply::VolumeCreated { new: true, .. }), "{reply:?}");
    test
}

fn paired(uuid: u64, state: DeviceState) -> DeviceReport {
    DeviceReport { pool: "pairs".to_owned(), ..device(uuid, state) }
}

impl Test {
    fn pairs(&self) -> (PoolId, Vec<ShardEntry>) {
        let (id, pool) = self.leader.cluster().pool_by_name("pairs").expect("there");
        (id, pool.map.shards.clone())
    }

    /// Time passes; one server sends heartbeats.
    fn pass_pairs(&mut self, ms: u64, link: u64) {
        for turn in 0..ms / 500 {
            self.now_ms += 500;
            let devices = vec![paired(link, DeviceState::Open)];
            self.sds(link, SdsToMdm::Heartbeat { loop_turns: turn, oldest_disk_request_ms: 0, devices });
            self.step(Input::Wake);
        }
    }

    /// Time passes in large steps; one server sends heartbeats over this link.
    fn pass_pairs_over(&mut self, ms: u64, link: u64, device: u64) {
        for turn in 0..ms / 500 {
            self.now_ms += 500;
            let devices = vec![paired(device, DeviceState::Open)];
            self.sds(link, SdsToMdm::Heartbeat { loop_turns: 1_000_000 + self.now_ms + turn, oldest_disk_request_ms: 0, devices });
            self.step(Input::Wake);
        }
    }

    /// The device of this link asks for every shard without the other.
    fn shrink_all(&mut self, link: u64) {
        let (pool, shards) = self.pairs();
        let change = crate::protocol::membership::Change::Shrink { complete: ShardSequence::new(1) };
        let own = |entry: &ShardEntry| entry.in_sync.members().iter().copied().find(|member| u64::from(member.device.get()) == link);
        let proposals = shards
            .iter()
            .zip(0..)
            .map(|(entry, shard)| (pool, ShardId::new(shard), Proposal { base: entry.epoch, proposer: own(entry), change }));
        self.sds(link, SdsToMdm::Propose { proposals: proposals.collect() });
    }
}

#[test]
fn a_server_goes_on_alone_with_all_its_shards_in_one_entry_of_the_log() {
    let mut test = with_pairs();
    let mut report = paired(2, DeviceState::Open);
    report.sequence_ceiling = ShardSequence::new(12_345);
    test.sds(2, SdsToMdm::Heartbeat { loop_turns: 1, oldest_disk_request_ms: 0, devices: vec![report] });
    let version = test.leader.cluster().version();
    let before = test.pairs().1;
    test.shrink_all(2);
    assert_eq!(test.leader.cluster().version().get(), version.get() + 1);
    for (now, then) in test.pairs().1.iter().zip(&before) {
        assert_eq!(now.in_sync.members().iter().map(|member| member.device.get()).collect::<Vec<_>>(), [2]);
        let takes_over = now.in_sync.primary() != then.in_sync.primary();
        let first = if takes_over { 12_345 + crate::limits::SEQUENCE_HEADROOM } else { 12_345 };
        assert_eq!(now.first_sequence.get(), first, "above what it has said since it registered");
    }
    assert!(matches!(test.to_sds.last(), Some((_, MdmToSds::View(view))) if view.pools.len() == 1));
}

/// A device whose log ends there, all of it flushed.
fn at(position: u64) -> DeviceReport {
    let position = LogSequence::new(position);
    DeviceReport { flushed: position, log_end: position, ..paired(1, DeviceState::Open) }
}

fn forgot(event: &Event) -> bool {
    matches!(event, Event::Cluster(crate::cluster::Event::DeviceForgot { .. }))
}

#[test]
fn what_a_device_flushed_since_it_registered_is_remembered_for_its_next_life() {
    let mut test = with_pairs();
    test.sds(1, SdsToMdm::Heartbeat { loop_turns: 1, oldest_disk_request_ms: 0, devices: vec![at(70)] });
    test.unlink(1);
    test.register(11, 1, 8, vec![at(69)]);
    assert!(test.events.iter().any(forgot), "{:?}", test.events);
}

/// A server registers before its devices are open: what was heard of them in the life before must be known still when they are.
#[test]
fn what_a_device_flushed_is_remembered_while_it_opens() {
    let mut test = with_pairs();
    test.sds(1, SdsToMdm::Heartbeat { loop_turns: 1, oldest_disk_request_ms: 0, devices: vec![at(70)] });
    test.unlink(1);
    let opening = DeviceReport { uuid: DeviceUuid::default(), ..paired(1, DeviceState::Opening { done_per_mille: 0 }) };
    test.register(11, 1, 8, vec![opening.clone()]);
    test.sds(11, SdsToMdm::Heartbeat { loop_turns: 1, oldest_disk_request_ms: 0, devices: vec![opening] });
    assert!(!test.events.iter().any(forgot));
    test.register(11, 1, 8, vec![at(69)]);
    assert!(test.events.iter().any(forgot), "{:?}", test.events);
    // Once is enough.
    test.events.clear();
    test.unlink(11);
    test.register(12, 1, 9, vec![at(69)]);
    assert!(!test.events.iter().any(forgot), "{:?}", test.events);
}

/// What heartbeats told one leader is known to the next one, once the server has come back without its device.
#[test]
fn what_a_device_flushed_is_remembered_by_another_leader() {
    let mut test = with_pairs();
    test.sds(1, SdsToMdm::Heartbeat { loop_turns: 1, oldest_disk_request_ms: 0, devices: vec![at(70)] });
    test.unlink(1);
    let opening = DeviceReport { uuid: DeviceUuid::default(), ..paired(1, DeviceState::Opening { done_per_mille: 0 }) };
    test.register(11, 1, 8, vec![opening]);
    let mut next = Test::start(test.leader.cluster().clone());
    next.register(12, 1, 8, vec![at(69)]);
    assert!(next.events.iter().any(forgot), "{:?}", next.events);
}

#[test]
fn proposals_of_others_and_too_many_are_refused() {
    let mut test = with_pairs();
    let before = test.pairs().1;
    let (pool, shards) = test.pairs();
    let change = crate::protocol::membership::Change::Shrink { complete: ShardSequence::new(1) };
    let proposer = shards[0].in_sync.members().iter().copied().find(|member| member.device.get() == 2);
    let proposal = (pool, ShardId::new(0), Proposal { base: shards[0].epoch, proposer, change });
    test.sds(1, SdsToMdm::Propose { proposals: vec![proposal] });
    let refused = |event: &Event| matches!(event, Event::Cluster(crate::cluster::Event::ProposalsRefused { .. }));
    assert!(test.events.iter().any(refused));
    assert_eq!(test.pairs().1, before);
    test.sds(1, SdsToMdm::Propose { proposals: vec![proposal; PROPOSALS_PER_MESSAGE_MAX + 1] });
    assert!(test.refused(1).expect("refused").contains("65536 are allowed"));
    test.sds(9, SdsToMdm::Propose { proposals: vec![proposal] });
    assert!(test.refused(9).expect("refused").contains("not Register"));
}

#[test]
fn shards_of_two_copies_are_counted_by_state() {
    let mut test = with_pairs();
    let counts = |test: &mut Test| {
        let pool = test.status().pools.into_iter().find(|pool| pool.name == "pairs").expect("there");
        (pool.shards.clean, pool.shards.degraded, pool.shards.rebuilding, pool.shards.unavailable)
    };
    assert_eq!(counts(&mut test), (8, 0, 0, 0));
    test.unlink(2);
    test.pass_pairs(3_500, 1);
    assert_eq!(counts(&mut test), (0, 4, 0, 4), "each device is primary of half of them");
    test.shrink_all(1);
    assert_eq!(counts(&mut test), (0, 8, 0, 0));
    assert!(test.status().alerts.iter().any(|alert| alert.contains("8 are degraded")), "{:?}", test.status().alerts);
    test.register(12, 2, 8, vec![paired(2, DeviceState::Open)]);
    assert_eq!(counts(&mut test), (0, 0, 8, 0));
    assert!(!test.status().alerts.iter().any(|alert| alert.contains("holds no shard")), "it joins: {:?}", test.status().alerts);
    let (pool, shards) = test.pairs();
    let change = crate::protocol::membership::Change::Grow;
    let grow = |(entry, shard): (&ShardEntry, u32)| {
        (pool, ShardId::new(shard), Proposal { base: entry.epoch, proposer: entry.in_sync.primary(), change })
    };
    let proposals = shards.iter().zip(0..).map(grow).collect();
    test.sds(1, SdsToMdm::Propose { proposals });
    assert_eq!(counts(&mut test), (8, 0, 0, 0));
}

#[test]
fn who_is_back_goes_on_alone_after_the_wait_and_not_before() {
    let mut test = with_pairs();
    (1..=2).for_each(|link| test.unlink(link));
    test.pass(4_000);
    test.register(11, 1, 8, vec![paired(1, DeviceState::Open)]);
    let before = test.pairs().1;
    test.pass_pairs_over(599_000, 11, 1);
    assert_eq!(test.pairs().1, before, "ten minutes are not over");
    let ApiReply::Shard(shard) = test.api(ApiRequest::Shard { pool: "pairs".to_owned(), shard: 0 }) else { panic!("a shard") };
    let waits_for = shard.waits_for.expect("it waits");
    assert!(waits_for.contains(r#"device 2 of "node-2" to come back; device 1 of "node-1" goes on alone in"#), "{waits_for}");
    test.pass_pairs_over(3_000, 11, 1);
    for entry in test.pairs().1 {
        assert_eq!(entry.in_sync.members().iter().map(|member| member.device.get()).collect::<Vec<_>>(), [1]);
        assert_eq!(entry.epoch.get(), 2, "once");
    }
    let ApiReply::Audit(audit) = test.api(ApiRequest::Audit) else { panic!("the audit log") };
    assert!(audit[0].action.contains(r#"data server "node-1" of device 1 went on alone with 8 shards"#), "{audit:?}");
    // The other comes back and joins.
    test.register(12, 2, 8, vec![paired(2, DeviceState::Open)]);
    assert!(test.pairs().1.iter().all(|entry| entry.joining.is_some_and(|joining| joining.device.get() == 2)));
}

#[test]
fn the_wait_begins_anew_when_the_other_was_there_or_another_leads() {
    let mut test = with_pairs();
    test.unlink(2);
    test.unlink(1);
    test.pass(4_000);
    test.register(11, 1, 8, vec![paired(1, DeviceState::Open)]);
    test.pass_pairs_over(400_000, 11, 1);
    // It shows itself, and is opening still.
    test.register(12, 2, 8, vec![paired(2, DeviceState::Opening { done_per_mille: 3 })]);
    test.pass_pairs_over(3_500, 11, 1);
    test.pass_pairs_over(400_000, 11, 1);
    assert!(test.pairs().1.iter().all(|entry| entry.in_sync.members().len() == 2));
    // Another leader: it has heard of nobody, and holds nobody for gone before one timeout of its own.
    let mut next = Test::start(test.leader.cluster().clone());
    next.register(11, 1, 8, vec![paired(1, DeviceState::Open)]);
    next.pass_pairs_over(500_000, 11, 1);
    assert!(next.pairs().1.iter().all(|entry| entry.in_sync.members().len() == 2));
    next.pass_pairs_over(110_000, 11, 1);
    assert!(next.pairs().1.iter().all(|entry| entry.in_sync.members().len() == 1));
}

#[test]
fn without_a_wait_only_an_operator_lets_a_copy_go_on_alone() {
    let mut test = with_pairs();
    test.leader.options.lone_start_wait = None;
    (1..=2).for_each(|link| test.unlink(link));
    test.pass(4_000);
    test.register(11, 1, 8, vec![paired(1, DeviceState::Open)]);
    test.pass_pairs_over(1_000_000, 11, 1);
    let before = test.pairs().1;
    assert!(before.iter().all(|entry| entry.in_sync.members().len() == 2));
    let force = |device: u32| ApiRequest::ForceShard {
        pool: "pairs".to_owned(),
        shard: 3,
        device: DeviceId::new(device),
        reason: "rack 2 is lost".to_owned(),
    };
    assert!(matches!(test.api(force(7)), ApiReply::Refused(Refusal::Force { .. })));
    assert_eq!(test.pairs().1, before, "a refused command changes nothing");
    let ApiReply::Shard(shard) = test.api(force(1)) else { panic!("forced") };
    assert_eq!((shard.in_sync.len(), shard.in_sync[0].device, shard.epoch), (1, 1, 2));
    assert_eq!(test.pairs().1.iter().filter(|entry| entry.in_sync.members().len() == 1).count(), 1, "that one only");
}

#[test]
fn a_copy_is_not_forced_past_one_that_is_there() {
    let mut test = with_pairs();
    let force = ApiRequest::ForceShard { pool: "pairs".to_owned(), shard: 0, device: DeviceId::new(1), reason: String::new() };
    let ApiReply::Refused(refusal) = test.api(force.clone()) else { panic!("refused") };
    assert!(refusal.to_string().contains(r#"device 2 of data server "node-2" is in sync and there"#), "{refusal}");
    // A leader that has just begun does not know yet.
    let mut next = Test::start(test.leader.cluster().clone());
    next.register(11, 1, 8, vec![paired(1, DeviceState::Open)]);
    assert!(matches!(next.api(force.clone()), ApiReply::Refused(Refusal::Force { .. })));
    next.pass_pairs_over(3_500, 11, 1);
    let to_the_one_gone = ApiRequest::ForceShard { pool: "pairs".to_owned(), shard: 0, device: DeviceId::new(2), reason: String::new() };
    let ApiReply::Refused(refusal) = next.api(to_the_one_gone) else { panic!("refused") };
    assert!(refusal.to_string().contains("it does not serve"), "{refusal}");
    assert!(matches!(next.api(force), ApiReply::Shard(_)));
}

#[test]
fn shards_are_listed_by_pool_state_and_device() {
    let mut test = with_pairs();
    let list = |test: &mut Test, query: ShardQuery| match test.api(ApiRequest::Shards(query)) {
        ApiReply::Shards { shards, more } => (shards, more),
        other => panic!("{other:?}"),
    };
    let all = ShardQuery { limit: 5, ..ShardQuery::default() };
    let (shards, more) = list(&mut test, all.clone());
    assert_eq!((shards.len(), more, shards[0].state), (5, 3, ShardState::Clean));
    assert_eq!(shards[0].waits_for, None);
    test.unlink(2);
    test.pass_pairs(3_500, 1);
    test.shrink_all(1);
    let degraded = ShardQuery { state: Some(ShardState::Degraded), device: Some(DeviceId::new(2)), limit: 100, ..all.clone() };
    let (shards, more) = list(&mut test, degraded);
    assert_eq!((shards.len(), more), (8, 0));
    let shard = &shards[0];
    assert_eq!((shard.in_sync[0].sds.as_str(), shard.in_sync[0].state.as_str()), ("node-1", "serves"));
    assert_eq!(shard.lapsed.as_ref().map(|lapsed| (lapsed.device, lapsed.state.as_str())), Some((2, "gone")));
    assert_eq!(shard.waits_for.as_deref(), Some(r#"device 2 of "node-2", which fell out, to come back"#));
    assert!(list(&mut test, ShardQuery { state: Some(ShardState::Clean), ..all.clone() }).0.is_empty());
    assert!(list(&mut test, ShardQuery { pool: Some("default".to_owned()), ..all.clone() }).0.is_empty());
    let refused = |test: &mut Test, query| matches!(test.api(ApiRequest::Shards(query)), ApiReply::Refused(_));
    assert!(refused(&mut test, ShardQuery { pool: Some("none".to_owned()), ..all.clone() }));
    assert!(refused(&mut test, ShardQuery { device: Some(DeviceId::new(99)), ..all }));
    let none = ApiRequest::Shard { pool: "pairs".to_owned(), shard: 8 };
    assert!(matches!(test.api(none), ApiReply::Refused(Refusal::NoShard { shards: 8, .. })));
}

#[test]
fn an_open_waits_for_every_primary_and_for_one_that_takes_over() {
    let mut test = with_pairs();
    test.hello(9, 9);
    test.open(9, 1, false);
    test.confirm(1);
    assert_eq!(test.opened(9, 1), None, "both are primaries");
    test.shrink_all(1);
    assert!(test.opened(9, 1).expect("answered").is_ok(), "the other is none any more");
    test.unlink(2);
    test.open(9, 2, true);
    assert_eq!(test.opened(9, 2), None);
    test.confirm(1);
    assert!(test.opened(9, 2).expect("answered").is_ok());
}

#[test]
fn too_much_in_flight_is_answered() {
    let mut test = Test::with_volume();
    test.hold = true;
    for token in 0..=PROPOSALS_MAX as u64 {
        let request = ApiRequest::DeleteVolume { name: format!("v{token}") };
        test.step(Input::Api { token: Token::new(token), request });
    }
    assert_eq!(test.answers, [(PROPOSALS_MAX as u64, ApiReply::Overloaded)]);
    test.release();
    assert_eq!(test.answers.len(), PROPOSALS_MAX + 1);
}

impl Test {
    /// Time passes; both servers send heartbeats.
    fn pass_both(&mut self, ms: u64) {
        for turn in 0..ms / 500 {
            self.now_ms += 500;
            for link in 1..=2 {
                let devices = vec![paired(link, DeviceState::Open)];
                self.sds(link, SdsToMdm::Heartbeat { loop_turns: 5_000 + turn, oldest_disk_request_ms: 0, devices });
            }
            self.step(Input::Wake);
        }
    }

    /// The primary of every shard asks for this change.
    fn primaries_ask(&mut self, change: crate::protocol::membership::Change) {
        let (pool, shards) = self.pairs();
        for (entry, shard) in shards.iter().zip(0..) {
            let proposer = entry.in_sync.primary();
            let link = proposer.map_or(0, |member| u64::from(member.device.get()));
            self.sds(
                link,
                SdsToMdm::Propose { proposals: vec![(pool, ShardId::new(shard), Proposal { base: entry.epoch, proposer, change })] },
            );
        }
    }

    fn hand_overs(&mut self) -> Vec<(u64, usize)> {
        let wishes = self.to_sds.iter().filter_map(|(link, message)| match message {
            MdmToSds::HandOver { shards } => Some((*link, shards.len())),
            _ => None,
        });
        wishes.collect()
    }
}

#[test]
fn primaries_are_evened_out_when_all_has_been_well_for_a_while() {
    let mut test = with_pairs();
    test.pass_both(20_000);
    assert_eq!(test.hand_overs(), [], "what was just dealt out is even");
    // One leads everything: what a return of the other leaves behind.
    test.shrink_all(2);
    test.pass_both(20_000);
    assert_eq!(test.hand_overs(), [], "never while degraded");
    test.primaries_ask(crate::protocol::membership::Change::Grow);
    assert!(test.pairs().1.iter().all(|entry| entry.in_sync.members().len() == 2));
    test.pass_both(4_000);
    assert_eq!(test.hand_overs(), [], "it may not last");
    test.pass_both(3_000);
    assert_eq!(test.hand_overs(), [(2, 4)], "half of them, of the server that leads all");
    test.pass_both(3_000);
    assert_eq!(test.hand_overs().len(), 1, "time to do it");
    test.pass_both(3_000);
    assert_eq!(test.hand_overs().len(), 2, "asked again for what was not done");
}

#[test]
fn a_copy_in_sync_whose_device_is_being_opened_is_not_gone() {
    let mut test = with_pairs();
    test.shrink_all(2);
    test.unlink(2);
    test.pass_pairs(3_500, 1);
    // As a server reports it before its superblock is read: no identity, only the path.
    let opening = |path: String, state| DeviceReport { uuid: DeviceUuid::default(), path, ..paired(2, state) };
    let path = paired(2, DeviceState::Open).path;
    test.register(12, 2, 8, vec![opening(path.clone(), DeviceState::Opening { done_per_mille: 100 })]);
    let force = ApiRequest::ForceShard { pool: "pairs".to_owned(), shard: 0, device: DeviceId::new(1), reason: String::new() };
    let ApiReply::Refused(refusal) = test.api(force.clone()) else { panic!("I7: it will be there in a moment") };
    assert!(refusal.to_string().contains("is in sync and there"), "{refusal}");
    let ApiReply::Shard(shard) = test.api(ApiRequest::Shard { pool: "pairs".to_owned(), shard: 0 }) else { panic!("a shard") };
    assert_eq!((shard.state, shard.in_sync[0].state.as_str()), (ShardState::Unavailable, "opening"));
    let devices = &test.status().sds[1].devices;
    assert_eq!(devices.len(), 1, "one row: {devices:?}");
    // It cannot be opened: then it is for the operator to say.
    let failed = DeviceState::Failed { reason: "no such file".to_owned() };
    test.sds(12, SdsToMdm::Heartbeat { loop_turns: 9, oldest_disk_request_ms: 0, devices: vec![opening(path, failed.clone())] });
    assert!(matches!(&test.status().sds[1].devices[0].state, DeviceStateStatus::Failed { reason } if reason == "no such file"));
    assert!(matches!(test.api(force), ApiReply::Shard(_)));
}

#[test]
fn a_server_out_of_the_mdms_sight_keeps_its_copies_as_long_as_its_partner_does_not_complain() {
    let mut test = with_pairs();
    test.unlink(2);
    test.pass_pairs(1_000_000, 1);
    assert!(test.pairs().1.iter().all(|entry| entry.in_sync.members().len() == 2), "its partner has not restarted, and may ask by itself");
    // One that owes settling may not ask for more than to be formed again.
    let (pool, shards) = test.pairs();
    let change = crate::protocol::membership::Change::Reform;
    let own = |entry: &ShardEntry| entry.in_sync.members().iter().copied().find(|member| member.device.get() == 1);
    for _ in 0..700 {
        let asked = shards
            .iter()
            .zip(0..)
            .map(|(entry, shard)| (pool, ShardId::new(shard), Proposal { base: entry.epoch, proposer: own(entry), change }));
        test.sds(1, SdsToMdm::Propose { proposals: asked.collect() });
        test.pass_pairs(1_000, 1);
    }
    assert!(test.pairs().1.iter().all(|entry| entry.in_sync.members().len() == 1));
}

#[test]
fn no_lone_start_is_asked_for_that_cannot_be() {
    let mut test = with_pairs();
    let at = |position: u64| {
        let position = LogSequence::new(position);
        DeviceReport { flushed: position, log_end: position, ..paired(1, DeviceState::Open) }
    };
    test.sds(1, SdsToMdm::Heartbeat { loop_turns: 1, oldest_disk_request_ms: 0, devices: vec![at(70)] });
    (1..=2).for_each(|link| test.unlink(link));
    test.pass(4_000);
    test.register(11, 1, 8, vec![at(69)]);
    let version = test.leader.cluster().version();
    for turn in 0..1400 {
        test.now_ms += 500;
        test.sds(11, SdsToMdm::Heartbeat { loop_turns: 100 + turn, oldest_disk_request_ms: 0, devices: vec![at(69)] });
        test.step(Input::Wake);
    }
    assert_eq!(test.leader.cluster().version(), version, "it has forgotten what it flushed (I13)");
    let ApiReply::Shard(shard) = test.api(ApiRequest::Shard { pool: "pairs".to_owned(), shard: 0 }) else { panic!("a shard") };
    let waits_for = shard.waits_for.expect("it waits");
    assert!(!waits_for.contains("goes on alone"), "{waits_for}");
}
