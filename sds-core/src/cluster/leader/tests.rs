//! Behaviour of the leader against an ideal log, message by message.

mod pairs;

use super::*;
use crate::cluster::report::{DeviceStateStatus, SdsState, ShardState, SystemStatus};
use crate::cluster::{CreateVolume, Refusal};
use crate::control::{
    CONTROL_VERSION, Capacity, ClientToMdm, DeviceReport, DeviceState, FaultCounts, MdmToClient, MdmToSds, OpenError, SdsToMdm, VolumeLine,
};
use crate::id::{DeviceUuid, Incarnation, LogSequence, PoolId, SdsUuid, ShardId, ShardSequence, SystemId, Ticket};
use crate::limits::PROPOSALS_PER_MESSAGE_MAX;
use crate::map::{Copies, ShardEntry};
use crate::protocol::membership::Proposal;
use crate::unit::ByteCount;
use crate::view::SessionMode;

const SYSTEM: SystemId = SystemId::new(0x5157);

/// A leader, an ideal log, and what it told whom.
struct Test {
    leader: Leader,
    out: Outbox<Effect>,
    now_ms: u64,
    /// Proposals that the log holds back while `hold` is set.
    held: Vec<(ProposalId, Command)>,
    hold: bool,
    to_sds: Vec<(u64, MdmToSds)>,
    to_client: Vec<(u64, MdmToClient)>,
    closed: Vec<u64>,
    answers: Vec<(u64, ApiReply)>,
    events: Vec<Event>,
}

impl Test {
    fn start(cluster: Cluster) -> Self {
        let options = LeaderOptions::new(SYSTEM);
        let mut test = Self {
            leader: Leader::new(cluster, options, Clock::default()),
            out: Outbox::new(),
            now_ms: 0,
            held: Vec::new(),
            hold: false,
            to_sds: Vec::new(),
            to_client: Vec::new(),
            closed: Vec::new(),
            answers: Vec::new(),
            events: Vec::new(),
        };
        test.step(Input::Wake);
        test
    }

    /// Past the time in which it holds nobody for dead, with three servers on links 1 to 3.
    fn new() -> Self {
        let mut test = Self::start(Cluster::new());
        test.pass(10_000);
        for sds in 1..=3 {
            test.register(sds, u128::from(sds), 7, vec![device(sds, DeviceState::Open)]);
        }
        test
    }

    /// And with a volume "one", which all servers know.
    fn with_volume() -> Self {
        let mut test = Self::new();
        let reply = test.api(create("one"));
        assert!(matches!(reply, ApiReply::VolumeCreated { new: true, .. }), "{reply:?}");
        test.confirm_all();
        test
    }

    fn step(&mut self, input: Input) {
        let clock = Clock { now: Nanos::from_millis(self.now_ms), unix_ms: 1_795_376_040_000 + self.now_ms };
        self.leader.step(clock, input, &mut self.out);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut committed = Vec::new();
        for effect in self.out.drain() {
            match effect {
                Effect::Propose { proposal, command } if self.hold => self.held.push((proposal, command)),
                Effect::Propose { proposal, command } => committed.push((proposal, command)),
                Effect::ToSds { link, message } => self.to_sds.push((link.get(), message)),
                Effect::ToClient { link, message } => self.to_client.push((link.get(), message)),
                Effect::Close { link } => self.closed.push(link.get()),
                Effect::Answer { token, reply } => self.answers.push((token.get(), reply)),
                Effect::Event(event) => self.events.push(event),
            }
        }
        for (proposal, command) in committed {
            self.step(Input::Committed { proposal: Some(proposal), command });
        }
    }

    fn release(&mut self) {
        self.hold = false;
        for (proposal, command) in std::mem::take(&mut self.held) {
            self.step(Input::Committed { proposal: Some(proposal), command });
        }
    }

    /// Time passes; nobody says anything.
    fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.now_ms = until.min(self.now_ms + 250);
            self.step(Input::Wake);
        }
    }

    /// Time passes; these servers and clients send heartbeats.
    fn pass_alive(&mut self, ms: u64, servers: &[u64], clients: &[u64]) {
        for turn in 0..ms / 500 {
            self.now_ms += 500;
            for link in servers {
                self.heartbeat(*link, turn);
            }
            for link in clients {
                self.client(*link, ClientToMdm::Heartbeat);
            }
            self.step(Input::Wake);
        }
    }

    fn heartbeat(&mut self, link: u64, loop_turns: u64) {
        let devices = vec![device(link, DeviceState::Open)];
        self.sds(link, SdsToMdm::Heartbeat { loop_turns, oldest_disk_request_ms: 0, devices });
    }

    fn sds(&mut self, link: u64, message: SdsToMdm) {
        self.step(Input::Sds { link: LinkId::new(link), message });
    }

    fn client(&mut self, link: u64, message: ClientToMdm) {
        self.step(Input::Client { link: LinkId::new(link), message });
    }

    fn unlink(&mut self, link: u64) {
        self.step(Input::Unlinked { link: LinkId::new(link) });
    }

    fn register(&mut self, link: u64, sds: u128, life: u128, devices: Vec<DeviceReport>) {
        let message = SdsToMdm::Register {
            version: CONTROL_VERSION,
            sds: SdsUuid::new(sds),
            system: SystemId::default(),
            name: format!("node-{sds}"),
            addresses: vec!["127.0.0.1:9710".to_owned()],
            fault_set: format!("node-{sds}"),
            life,
            devices,
        };
        self.sds(link, message);
    }

    fn hello(&mut self, link: u64, client: u128) {
        let (client, ticket) = (ClientId::new(client), Ticket::new(client));
        self.client(link, ClientToMdm::Hello { version: CONTROL_VERSION, client, ticket, name: format!("host-{link}/1") });
    }

    fn open(&mut self, link: u64, request: u64, force: bool) {
        self.client(link, ClientToMdm::Open { request, volume: "one".to_owned(), mode: SessionMode::Exclusive, force });
    }

    fn confirm(&mut self, link: u64) {
        let version = self.leader.cluster().version();
        self.sds(link, SdsToMdm::Confirm { version });
    }

    fn confirm_all(&mut self) {
        (1..=3).for_each(|link| self.confirm(link));
    }

    fn api(&mut self, request: ApiRequest) -> ApiReply {
        self.step(Input::Api { token: Token::new(1), request });
        self.answers.pop().expect("an answer").1
    }

    fn status(&mut self) -> SystemStatus {
        match self.api(ApiRequest::Status) {
            ApiReply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn opened(&self, link: u64, request: u64) -> Option<Result<crate::control::Opened, OpenError>> {
        self.to_client.iter().find_map(|(to, message)| match message {
            MdmToClient::Opened { request: of, result } if *to == link && *of == request => Some(result.clone()),
            _ => None,
        })
    }

    fn registered(&self, link: u64) -> Option<Incarnation> {
        self.to_sds.iter().rev().find_map(|(to, message)| match message {
            MdmToSds::Registered { incarnation, .. } if *to == link => Some(*incarnation),
            _ => None,
        })
    }

    fn refused(&self, link: u64) -> Option<String> {
        self.to_sds.iter().find_map(|(to, message)| match message {
            MdmToSds::Refused { reason } if *to == link => Some(reason.clone()),
            _ => None,
        })
    }
}

fn device(uuid: u64, state: DeviceState) -> DeviceReport {
    DeviceReport {
        uuid: DeviceUuid::new(u128::from(uuid)),
        path: format!("/data/{uuid}"),
        pool: "default".to_owned(),
        state,
        capacity: Capacity { total: ByteCount::new(1 << 30), used: ByteCount::new(1 << 20), reclaimable: ByteCount::ZERO },
        sequence_ceiling: ShardSequence::default(),
        flushed: LogSequence::default(),
        log_end: LogSequence::default(),
        cache: crate::id::BootId::default(),
        faults: FaultCounts::default(),
        recent_faults: Vec::new(),
    }
}

fn create(name: &str) -> ApiRequest {
    ApiRequest::CreateVolume(CreateVolume {
        name: name.to_owned(),
        size: ByteCount::new(1 << 30),
        pool: "default".to_owned(),
        stripe_unit: 128 << 10,
        stripe_width: 8,
        key: None,
    })
}

#[test]
fn the_first_leader_names_the_system_once() {
    let test = Test::start(Cluster::new());
    assert_eq!(test.leader.cluster().system(), SYSTEM);
    let cluster = test.leader.into_cluster();
    let version = cluster.version();
    assert_eq!(Test::start(cluster).leader.cluster().version(), version);
}

#[test]
fn a_server_learns_its_name_before_the_view() {
    let test = Test::new();
    let mine: Vec<_> = test.to_sds.iter().filter(|(link, _)| *link == 1).map(|(_, message)| message).collect();
    assert!(matches!(mine[0], MdmToSds::Registered { system: SYSTEM, .. }));
    let MdmToSds::View(view) = mine[1] else { panic!("{:?}", mine[1]) };
    assert!(view.volumes.is_some() && view.servers.is_some() && view.deleted_trees.is_some(), "all of it at first");
    let MdmToSds::View(view) = mine[2] else { panic!("{:?}", mine[2]) };
    assert!(view.pools.is_empty() && view.volumes.is_none(), "then what changed: {view:?}");
    assert_eq!(view.servers.as_ref().expect("another server came").1.len(), 2);
}

#[test]
fn nobody_is_told_what_is_not_committed() {
    let mut test = Test::with_volume();
    test.hello(9, 9);
    let (sds, clients) = (test.to_sds.len(), test.to_client.len());
    test.hold = true;
    test.open(9, 1, false);
    test.pass(500);
    assert_eq!((test.to_sds.len(), test.to_client.len()), (sds, clients));
    test.release();
    assert_eq!(test.to_sds.len(), sds + 3);
}

#[test]
fn an_open_is_answered_when_every_primary_has_confirmed() {
    let mut test = Test::with_volume();
    test.hello(9, 9);
    test.open(9, 1, false);
    test.confirm(1);
    test.confirm(2);
    assert_eq!(test.opened(9, 1), None);
    // An older version does not count.
    let old = MapVersion::new(test.leader.cluster().version().get() - 1);
    test.sds(3, SdsToMdm::Confirm { version: old });
    assert_eq!(test.opened(9, 1), None);
    test.confirm(3);
    let opened = test.opened(9, 1).expect("answered").expect("opened");
    assert_eq!(opened.version, test.leader.cluster().version());
    let view = test.to_client.iter().position(|(_, message)| matches!(message, MdmToClient::View(view) if view.version == opened.version));
    let answer = test.to_client.iter().position(|(_, message)| matches!(message, MdmToClient::Opened { .. }));
    assert!(view.expect("told") < answer.expect("answered"), "the view comes first");
}

#[test]
fn a_confirmation_of_a_former_life_does_not_count() {
    let mut test = Test::with_volume();
    test.hello(9, 9);
    test.open(9, 1, false);
    test.confirm(1);
    test.unlink(1);
    test.register(11, 1, 8, vec![device(1, DeviceState::Open)]);
    test.confirm(2);
    test.confirm(3);
    assert_eq!(test.opened(9, 1), None);
    test.confirm(11);
    assert!(test.opened(9, 1).expect("answered").is_ok());
}

#[test]
fn an_open_that_is_not_confirmed_is_given_up_and_names_who_was_waited_for() {
    let mut test = Test::with_volume();
    test.hello(9, 9);
    test.open(9, 1, false);
    test.confirm(1);
    test.confirm(3);
    test.pass_alive(9_500, &[1, 3], &[9]);
    assert_eq!(test.opened(9, 1), None);
    test.pass_alive(1_000, &[1, 3], &[9]);
    let error = test.opened(9, 1).expect("answered").expect_err("given up");
    assert_eq!(error, OpenError::NotConfirmed { name: "one".to_owned(), waiting: vec!["node-2".to_owned()] });
    let (_, volume) = test.leader.cluster().volume_by_name("one").expect("there");
    assert!(volume.sessions.is_empty(), "nobody holds it");
}

#[test]
fn busy_is_for_others_until_the_holder_is_silent() {
    let mut test = Test::with_volume();
    test.hello(8, 8);
    test.open(8, 1, false);
    test.confirm_all();
    let first = test.opened(8, 1).expect("answered").expect("opened");
    test.hello(9, 9);
    test.open(9, 1, false);
    assert!(matches!(test.opened(9, 1), Some(Err(OpenError::Busy { holder, .. })) if holder == "host-8/1"));
    // Its process dies and comes back: it gets its own at once.
    test.unlink(8);
    test.hello(18, 8);
    test.open(18, 1, false);
    test.confirm_all();
    let second = test.opened(18, 1).expect("answered").expect("opened");
    assert!(second.generation > first.generation);
    // It goes silent.
    test.unlink(18);
    test.pass_alive(59_500, &[1, 2, 3], &[9]);
    test.open(9, 2, false);
    assert!(matches!(test.opened(9, 2), Some(Err(OpenError::Busy { .. }))));
    test.pass_alive(1_000, &[1, 2, 3], &[9]);
    test.open(9, 3, false);
    test.confirm_all();
    assert!(test.opened(9, 3).expect("answered").expect("opened").generation > second.generation);
}

#[test]
fn force_takes_over_from_a_live_holder() {
    let mut test = Test::with_volume();
    test.hello(8, 8);
    test.open(8, 1, false);
    test.confirm_all();
    test.hello(9, 9);
    test.open(9, 1, true);
    test.confirm_all();
    assert!(test.opened(9, 1).expect("answered").is_ok());
    let last = test.to_client.iter().rev().find_map(|(link, message)| match message {
        MdmToClient::View(view) if *link == 8 => view.volumes.clone(),
        _ => None,
    });
    assert!(last.expect("told")[0].sessions.is_empty(), "the former holder sees that it has none");
}

#[test]
fn a_new_leader_holds_no_client_for_silent_before_its_time() {
    let mut test = Test::with_volume();
    test.hello(8, 8);
    test.open(8, 1, false);
    test.confirm_all();
    let mut test = Test::start(test.leader.into_cluster());
    (1..=3).for_each(|sds| test.register(sds, u128::from(sds), 7, vec![device(sds, DeviceState::Open)]));
    test.hello(9, 9);
    test.pass_alive(59_000, &[1, 2, 3], &[9]);
    test.open(9, 1, false);
    assert!(matches!(test.opened(9, 1), Some(Err(OpenError::Busy { .. }))));
    test.pass_alive(1_500, &[1, 2, 3], &[9]);
    test.open(9, 2, false);
    test.confirm_all();
    assert!(test.opened(9, 2).expect("answered").is_ok());
}

#[test]
fn a_list_names_who_else_has_a_volume_and_shows_no_ticket() {
    let mut test = Test::with_volume();
    test.hello(8, 8);
    test.open(8, 1, false);
    test.confirm_all();
    test.hello(9, 9);
    let mut list = |link| -> Vec<VolumeLine> {
        test.client(link, ClientToMdm::List { request: 5 });
        match test.to_client.pop() {
            Some((_, MdmToClient::Volumes { request: 5, volumes })) => volumes,
            other => panic!("{other:?}"),
        }
    };
    let other = list(9);
    assert_eq!((other.len(), other[0].busy.as_deref()), (1, Some("host-8/1")));
    let own = list(8);
    assert_eq!(own[0].busy, None);
    assert_eq!(own[0].volume.sessions[0].ticket, Ticket::default());
}

#[test]
fn a_session_is_given_back() {
    let mut test = Test::with_volume();
    test.hello(8, 8);
    test.open(8, 1, false);
    test.confirm_all();
    let opened = test.opened(8, 1).expect("answered").expect("opened");
    test.client(8, ClientToMdm::Close { request: 2, volume: opened.volume, generation: opened.generation });
    assert!(test.to_client.contains(&(8, MdmToClient::Closed { request: 2 })));
    assert_eq!(test.api(ApiRequest::DeleteVolume { name: "one".to_owned() }), ApiReply::VolumeDeleted);
}

#[test]
fn a_restarted_server_gets_a_new_incarnation_at_once() {
    let mut test = Test::new();
    let first = test.registered(1).expect("registered");
    test.unlink(1);
    test.register(11, 1, 8, vec![device(1, DeviceState::Open)]);
    assert!(test.registered(11).expect("registered") > first);
}

#[test]
fn a_reconnected_server_keeps_its_incarnation_and_its_old_link_is_closed() {
    let mut test = Test::new();
    let first = test.registered(1).expect("registered");
    test.register(11, 1, 7, vec![device(1, DeviceState::Open)]);
    assert_eq!(test.registered(11), Some(first));
    assert_eq!(test.closed, [1]);
}

#[test]
fn a_second_process_with_a_live_identity_is_refused() {
    let mut test = Test::new();
    test.register(11, 1, 8, Vec::new());
    assert_eq!((test.registered(11), test.refused(11)), (None, None), "it waits");
    test.pass_alive(1_000, &[1, 2, 3], &[]);
    assert!(test.refused(11).expect("refused").contains("same identity"));
    assert!(test.closed.contains(&11));
}

#[test]
fn what_a_dead_process_had_sent_does_not_speak_for_it() {
    let mut test = Test::new();
    test.pass_alive(3_000, &[2, 3], &[]);
    // What had waited in the network comes now, and goes on coming.
    test.heartbeat(1, 1);
    test.now_ms += 2;
    test.register(11, 1, 8, Vec::new());
    test.now_ms += 2;
    test.heartbeat(1, 2);
    assert_eq!((test.registered(11), test.refused(11)), (None, None), "it waits");
    test.unlink(1);
    assert!(test.registered(11).is_some());
}

#[test]
fn a_second_process_is_let_in_once_the_first_is_silent() {
    let mut test = Test::new();
    test.register(11, 1, 8, vec![device(1, DeviceState::Open)]);
    test.pass_alive(2_500, &[2, 3], &[]);
    assert_eq!(test.registered(11), None);
    test.pass_alive(1_000, &[2, 3], &[]);
    assert!(test.registered(11).is_some());
}

#[test]
fn a_copied_device_is_refused_while_the_original_lives() {
    let mut test = Test::new();
    test.register(14, 4, 1, vec![device(1, DeviceState::Open)]);
    test.pass_alive(1_000, &[1, 2, 3], &[]);
    assert!(test.refused(14).expect("refused").contains(r#"served by live data server "node-1""#));
    // The server stops: now the device may move.
    test.unlink(1);
    test.register(15, 4, 1, vec![device(1, DeviceState::Open)]);
    assert!(test.registered(15).is_some());
}

#[test]
fn right_after_a_start_a_device_does_not_move_before_its_server_had_time_to_come() {
    let test = Test::new();
    let mut test = Test::start(test.leader.into_cluster());
    test.register(14, 4, 1, vec![device(1, DeviceState::Open)]);
    test.pass(1_000);
    assert_eq!(test.registered(14), None);
    // The owner comes and has it.
    test.register(1, 1, 7, vec![device(1, DeviceState::Open)]);
    test.pass_alive(500, &[1], &[]);
    assert!(test.refused(14).is_some());
}

#[test]
fn wrong_parties_are_refused() {
    let mut test = Test::with_volume();
    test.heartbeat(20, 1);
    assert!(test.refused(20).is_some());
    test.client(21, ClientToMdm::Heartbeat);
    assert!(test.closed.contains(&21));
    let hello = ClientToMdm::Hello { version: 99, client: ClientId::new(1), ticket: Ticket::new(1), name: String::new() };
    test.client(22, hello);
    assert!(matches!(test.to_client.last(), Some((22, MdmToClient::Refused { reason })) if reason.contains("99")));
    // Somebody who has seen the future.
    test.sds(1, SdsToMdm::Pull { at_least: MapVersion::new(9_999) });
    assert!(test.refused(1).expect("refused").contains("went back in time"));
    assert!(test.events.iter().any(|event| matches!(event, Event::WentBack { .. })));
}

#[test]
fn a_pull_is_answered_from_what_was_confirmed() {
    let mut test = Test::with_volume();
    test.to_sds.clear();
    let version = test.leader.cluster().version();
    test.register(11, 1, 7, vec![device(1, DeviceState::Open)]);
    test.sds(2, SdsToMdm::Pull { at_least: version });
    assert!(!test.to_sds.iter().any(|(link, _)| *link == 2), "it has all");
    test.hello(9, 9);
    test.to_client.clear();
    test.client(9, ClientToMdm::Pull { at_least: version });
    assert!(matches!(&test.to_client[..], [(9, MdmToClient::View(view))] if view.volumes.is_some()));
}

#[test]
fn freed_trees_are_committed_once() {
    let mut test = Test::with_volume();
    let tree = test.leader.cluster().volume_by_name("one").expect("there").1.tree;
    assert_eq!(test.api(ApiRequest::DeleteVolume { name: "one".to_owned() }), ApiReply::VolumeDeleted);
    test.hold = true;
    test.sds(1, SdsToMdm::TreesFreed { device: DeviceId::new(1), trees: vec![tree, crate::id::TreeId::new(99)] });
    assert_eq!(test.held.len(), 1);
    test.release();
    test.hold = true;
    test.sds(1, SdsToMdm::TreesFreed { device: DeviceId::new(1), trees: vec![tree] });
    assert!(test.held.is_empty(), "known already");
    test.release();
    for sds in 2..=3 {
        let device = DeviceId::new(u32::try_from(sds).expect("small"));
        test.sds(sds, SdsToMdm::TreesFreed { device, trees: vec![tree] });
    }
    assert_eq!(test.leader.cluster().deleted_trees().count(), 0);
}

#[test]
fn the_status_tells_up_from_down() {
    let mut test = Test::with_volume();
    let status = test.status();
    assert!(status.alerts.is_empty(), "{:?}", status.alerts);
    assert_eq!((status.pools[0].shards.total, status.pools[0].shards.clean), (4096, 4096));
    assert_eq!((status.pools[0].raw_bytes, status.pools[0].used_bytes), (3 << 30, 3 << 20));
    assert_eq!(status.pools[0].free_bytes, (3 << 30) - (3 << 20));
    test.unlink(1);
    assert_eq!(test.status().sds[0].state, SdsState::Up, "it may come back at once");
    test.pass_alive(3_500, &[2, 3], &[]);
    let status = test.status();
    assert_eq!(status.sds[0].state, SdsState::Down);
    assert_eq!(status.sds[0].devices[0].state, DeviceStateStatus::Unreachable);
    assert!((1365..=1366).contains(&status.pools[0].shards.unavailable));
    assert!(status.alerts.iter().any(|alert| alert == r#"data server "node-1" is down"#), "{:?}", status.alerts);
    assert!(test.events.iter().any(|event| matches!(event, Event::SdsDown { left: false, .. })));
}

#[test]
fn a_server_that_leaves_is_down_when_it_is_gone() {
    let mut test = Test::new();
    test.sds(1, SdsToMdm::Leaving);
    assert_eq!(test.status().sds[0].state, SdsState::Stopping);
    test.unlink(1);
    assert_eq!(test.status().sds[0].state, SdsState::Down);
}

#[test]
fn a_stalled_loop_and_a_failed_device_are_shown() {
    let mut test = Test::with_volume();
    for _ in 0..5 {
        test.now_ms += 500;
        test.heartbeat(1, 0);
        test.heartbeat(2, test.now_ms);
        let failed = device(3, DeviceState::Failed { reason: "read error".to_owned() });
        test.sds(3, SdsToMdm::Heartbeat { loop_turns: test.now_ms, oldest_disk_request_ms: 12_000, devices: vec![failed] });
    }
    let status = test.status();
    assert!(status.sds[0].loop_stalled && !status.sds[1].loop_stalled);
    assert_eq!(status.sds[2].devices[0].state, DeviceStateStatus::Failed { reason: "read error".to_owned() });
    assert!((2730..=2732).contains(&status.pools[0].shards.unavailable), "{:?}", status.pools[0].shards);
    let alerts = status.alerts.join("\n");
    for expected in ["its data loop is stalled", "a disk request hangs", "failed: read error", "shards are unavailable"] {
        assert!(alerts.contains(expected), "{expected} in {alerts}");
    }
    test.now_ms += 500;
    test.heartbeat(1, 1);
    assert!(!test.status().sds[0].loop_stalled);
}

#[test]
fn a_device_that_is_not_known_yet_is_shown() {
    let mut test = Test::new();
    let opening = device(0, DeviceState::Opening { done_per_mille: 250 });
    test.register(4, 4, 1, vec![opening]);
    let status = test.status();
    let shown = &status.sds[3].devices[0];
    assert_eq!((shown.id, &shown.state), (None, &DeviceStateStatus::Opening { done_per_mille: 250 }));
}

#[test]
fn a_lost_proposal_is_answered() {
    let mut test = Test::with_volume();
    test.hello(9, 9);
    test.hold = true;
    test.open(9, 1, false);
    test.step(Input::Api { token: Token::new(5), request: create("two") });
    let held: Vec<_> = test.held.drain(..).collect();
    for (proposal, _) in held {
        test.step(Input::Lost { proposal });
    }
    assert_eq!(test.opened(9, 1), Some(Err(OpenError::NotRecorded { name: "one".to_owned() })));
    assert_eq!(test.answers, [(5, ApiReply::Unknown)]);
}
