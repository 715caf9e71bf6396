//! A member against a log that a test plays: leadership that comes and goes, proposals that are lost.

use super::*;
use sds_core::cluster::report::PoolStatus;
use sds_core::cluster::{Change, Refusal};
use sds_core::id::SystemId;
use sds_core::map::Copies;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

type Cuts = Arc<Mutex<Vec<(LogIndex, Vec<u8>)>>>;

/// A log whose every event is made by the test.
struct PlayedLog {
    events: mpsc::UnboundedReceiver<LogEvent>,
    proposals: mpsc::UnboundedSender<(ProposalId, Vec<u8>)>,
    cuts: Cuts,
    barrier: PlayedBarrier,
    full: Arc<AtomicBool>,
}

#[derive(Clone)]
struct PlayedBarrier(watch::Receiver<bool>);

impl ReadBarrier for PlayedBarrier {
    async fn wait(&self) -> Result<(), ProposeError> {
        if *self.0.borrow() { Ok(()) } else { Err(ProposeError::NotLeader) }
    }
}

impl ReplicatedLog for PlayedLog {
    type Barrier = PlayedBarrier;

    fn propose(&mut self, proposal: ProposalId, entry: Vec<u8>) -> Result<(), ProposeError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(ProposeError::Full);
        }
        self.proposals.send((proposal, entry)).map_err(|_| ProposeError::NotLeader)
    }

    async fn next(&mut self) -> LogEvent {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    fn cut(&mut self, index: LogIndex, snapshot: Vec<u8>) {
        self.cuts.lock().expect("not poisoned").push((index, snapshot));
    }

    fn barrier(&self) -> PlayedBarrier {
        self.barrier.clone()
    }

    async fn close(self) {}
}

/// A member, and the other end of its log.
struct Test {
    events: mpsc::UnboundedSender<LogEvent>,
    proposals: mpsc::UnboundedReceiver<(ProposalId, Vec<u8>)>,
    cuts: Cuts,
    may_read: watch::Sender<bool>,
    inputs: mpsc::Sender<Message>,
    api: Api,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<Result<(), String>>,
    index: u64,
    full: Arc<AtomicBool>,
}

impl Test {
    fn start(recovered: &Recovered) -> Self {
        let (events, event_receiver) = mpsc::unbounded_channel();
        let (proposal_sender, proposals) = mpsc::unbounded_channel();
        let (may_read, reads) = watch::channel(true);
        let cuts = Cuts::default();
        let full = Arc::new(AtomicBool::new(false));
        let log = PlayedLog {
            events: event_receiver,
            proposals: proposal_sender,
            cuts: cuts.clone(),
            barrier: PlayedBarrier(reads),
            full: full.clone(),
        };
        let options = LeaderOptions::new(SystemId::new(1));
        let (member, inputs, api) = Member::new(log, recovered, options, 4).expect("its own metadata");
        let (stop, stopping) = watch::channel(false);
        let running = tokio::spawn(member.run(stopping));
        let index = replay(recovered).expect("its own metadata").1.0;
        Self { events, proposals, cuts, may_read, inputs, api, stop, running, index, full }
    }

    /// A leader of a new system.
    async fn leading() -> Self {
        let mut test = Self::start(&Recovered::default());
        test.tell(LogEvent::Leadership(Leadership::Leader));
        test.commit_next().await;
        test
    }

    fn tell(&self, event: LogEvent) {
        self.events.send(event).expect("it runs");
    }

    async fn next_proposal(&mut self) -> (ProposalId, Vec<u8>) {
        tokio::time::timeout(Duration::from_secs(10), self.proposals.recv()).await.expect("in time").expect("it runs")
    }

    async fn commit_next(&mut self) {
        let (proposal, entry) = self.next_proposal().await;
        self.index += 1;
        self.tell(LogEvent::Committed { index: LogIndex(self.index), proposal: Some(proposal), entry });
    }

    /// An entry of another leader.
    fn commit_foreign(&mut self, change: Change) {
        self.index += 1;
        let entry = Command { unix_ms: 5, change }.encode().expect("encodes");
        self.tell(LogEvent::Committed { index: LogIndex(self.index), proposal: None, entry });
    }

    fn ask(&self, name: &str) -> tokio::task::JoinHandle<Result<ApiReply, NotLeading>> {
        let (api, name) = (self.api.clone(), name.to_owned());
        tokio::spawn(async move { api.request(ApiRequest::CreatePool { name, shards: 8, copies: Copies::One }).await })
    }

    async fn pools(&self) -> Result<Vec<PoolStatus>, NotLeading> {
        match self.api.request(ApiRequest::Pools).await? {
            ApiReply::Pools(pools) => Ok(pools),
            other => panic!("{other:?}"),
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("in time") });
}

#[test]
fn nothing_is_answered_before_it_is_committed() {
    run(async {
        let mut test = Test::leading().await;
        let answer = test.ask("fast");
        let (proposal, entry) = test.next_proposal().await;
        assert_eq!(test.pools().await.expect("answers").len(), 1);
        assert!(!answer.is_finished());
        test.index += 1;
        test.tell(LogEvent::Committed { index: LogIndex(test.index), proposal: Some(proposal), entry });
        assert!(matches!(answer.await.expect("runs"), Ok(ApiReply::PoolCreated(_))));
        assert_eq!(test.pools().await.expect("answers").len(), 2);
    });
}

#[test]
fn a_lost_proposal_is_answered_as_unknown() {
    run(async {
        let mut test = Test::leading().await;
        let answer = test.ask("fast");
        let (proposal, _) = test.next_proposal().await;
        test.tell(LogEvent::Lost { proposal });
        assert_eq!(answer.await.expect("runs"), Ok(ApiReply::Unknown));
    });
}

#[test]
fn who_loses_the_lead_answers_nobody_and_drops_everybody() {
    run(async {
        let mut test = Test::leading().await;
        let (sender, mut outgoing) = mpsc::channel(4);
        test.inputs.send(Message::Linked { link: LinkId::new(1), sender }).await.expect("it runs");
        let answer = test.ask("fast");
        test.next_proposal().await;
        test.tell(LogEvent::Leadership(Leadership::Follower));
        assert_eq!(answer.await.expect("runs"), Ok(ApiReply::Unknown), "the next leader may commit it");
        assert!(outgoing.recv().await.is_none(), "the connection is to be closed");
        assert_eq!(test.pools().await, Err(NotLeading));
        // What others commit meanwhile is known when it leads again.
        test.commit_foreign(Change::CreatePool { name: "other".to_owned(), shards: 8, copies: Copies::One });
        test.tell(LogEvent::Leadership(Leadership::Leader));
        while test.pools().await.is_err() {}
        let names: Vec<String> = test.pools().await.expect("answers").into_iter().map(|pool| pool.name).collect();
        assert_eq!(names, ["default", "other"]);
        let answer = test.ask("other");
        test.commit_next().await;
        assert!(matches!(answer.await.expect("runs"), Ok(ApiReply::Refused(Refusal::PoolExists { .. }))));
    });
}

#[test]
fn a_read_behind_a_closed_barrier_is_refused() {
    run(async {
        let test = Test::leading().await;
        test.may_read.send(false).expect("it runs");
        assert_eq!(test.pools().await, Err(NotLeading));
    });
}

#[test]
fn a_log_that_takes_nothing_is_tried_again() {
    run(async {
        let mut test = Test::start(&Recovered::default());
        test.full.store(true, Ordering::Relaxed);
        test.tell(LogEvent::Leadership(Leadership::Leader));
        // The system has no name yet, so requests wait.
        assert!(tokio::time::timeout(Duration::from_millis(600), test.pools()).await.is_err());
        test.full.store(false, Ordering::Relaxed);
        test.commit_next().await;
        assert_eq!(test.pools().await.expect("answers").len(), 1);
        test.full.store(true, Ordering::Relaxed);
        assert_eq!(test.ask("fast").await.expect("runs"), Ok(ApiReply::Unknown));
        test.stop.send(true).expect("it runs");
        assert_eq!(test.running.await.expect("runs"), Ok(()));
    });
}

#[test]
fn a_log_that_failed_ends_the_member() {
    run(async {
        let test = Test::leading().await;
        test.tell(LogEvent::Failed { reason: "fsync".to_owned() });
        assert_eq!(test.running.await.expect("runs"), Err("fsync".to_owned()));
        assert_eq!(test.api.request(ApiRequest::Status).await, Err(NotLeading));
    });
}

#[test]
fn snapshots_and_entries_bring_about_the_same_state() {
    run(async {
        let mut test = Test::leading().await;
        let mut entries = Vec::new();
        for number in 0..6 {
            let answer = test.ask(&format!("p{number}"));
            let (proposal, entry) = test.next_proposal().await;
            test.index += 1;
            entries.push((LogIndex(test.index), entry.clone()));
            test.tell(LogEvent::Committed { index: LogIndex(test.index), proposal: Some(proposal), entry });
            answer.await.expect("runs").expect("answers");
        }
        let (cut, snapshot) = test.cuts.lock().expect("not poisoned").first().cloned().expect("one was made");
        assert_eq!(cut, LogIndex(4), "after so many entries");
        let rest = entries.into_iter().filter(|(index, _)| *index > cut).collect();
        let recovered = Recovered { snapshot: Some((cut, snapshot)), entries: rest };
        let again = Test::start(&recovered);
        again.tell(LogEvent::Leadership(Leadership::Leader));
        assert_eq!(again.pools().await.expect("answers"), test.pools().await.expect("answers"));
    });
}

#[test]
fn metadata_of_a_newer_member_stops_this_one() {
    run(async {
        let test = Test::leading().await;
        test.tell(LogEvent::Committed { index: LogIndex(test.index + 1), proposal: None, entry: vec![9, 0, 0] });
        let reason = test.running.await.expect("runs").expect_err("it cannot go on");
        assert!(reason.contains("is of format 9"), "{reason}");
        let recovered = Recovered { snapshot: None, entries: vec![(LogIndex(1), vec![9])] };
        assert!(replay(&recovered).is_err());
    });
}
