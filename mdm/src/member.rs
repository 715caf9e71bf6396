//! The task that owns the leader machine and the log: every input comes here, every effect leaves here.
//!
//! Invariant: one input at a time, and all its effects before the next. The inputs' channel is bounded:
//! whoever brings inputs waits. A party's queue is bounded, too: who does not take what it is told is
//! disconnected, and told everything again when it comes back.
//! Must not know: encodings, HTTP.

use crate::events;
use crate::log::{Leadership, LogEvent, LogIndex, ProposeError, ReadBarrier, Recovered, ReplicatedLog};
use sds_core::cluster::leader::{ApiReply, ApiRequest, Clock, Effect, Event, Input, Leader, LeaderOptions, ProposalId};
use sds_core::cluster::{Cluster, Command, FormatError};
use sds_core::control::{ClientToMdm, MdmToClient, MdmToSds, SdsToMdm};
use sds_core::machine::{LinkId, Outbox, Token};
use sds_core::unit::Nanos;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Inputs on their way.
const INPUTS_MAX: usize = 1024;
/// Messages on their way to one party.
pub(crate) const OUTGOING_MAX: usize = 256;

/// What comes from outside.
#[derive(Debug)]
pub(crate) enum Message {
    /// A party connected and will be sent to through this.
    Linked { link: LinkId, sender: mpsc::Sender<Outgoing> },
    /// A data server said something.
    Sds { link: LinkId, message: SdsToMdm },
    /// A client said something.
    Client { link: LinkId, message: ClientToMdm },
    /// A party is gone.
    Unlinked { link: LinkId },
    /// An operator asks.
    Api { request: ApiRequest, answer: oneshot::Sender<ApiReply> },
}

/// What goes to a party.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Sds(MdmToSds),
    Client(MdmToClient),
}

type Barrier = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), ProposeError>> + Send>> + Send + Sync>;

/// Asks a running MDM what operators ask, without HTTP. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    inputs: mpsc::Sender<Message>,
    barrier: Barrier,
}

impl fmt::Debug for Api {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Api").finish_non_exhaustive()
    }
}

/// This member cannot answer: it does not lead, or it is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this MDM member does not lead, or is stopping; ask another one, or try again")]
pub struct NotLeading;

impl Api {
    /// Asks.
    ///
    /// # Errors
    /// When this member cannot answer.
    pub async fn request(&self, request: ApiRequest) -> Result<ApiReply, NotLeading> {
        let reads = match request {
            ApiRequest::CreateVolume(_)
            | ApiRequest::DeleteVolume { .. }
            | ApiRequest::CreatePool { .. }
            | ApiRequest::ForceShard { .. } => false,
            ApiRequest::Volume { .. } | ApiRequest::Volumes | ApiRequest::Pools | ApiRequest::Status => true,
            ApiRequest::Shards(_) | ApiRequest::Shard { .. } | ApiRequest::Audit => true,
        };
        if reads {
            (self.barrier)().await.map_err(|_| NotLeading)?;
        }
        let (answer, reply) = oneshot::channel();
        self.inputs.send(Message::Api { request, answer }).await.map_err(|_| NotLeading)?;
        match reply.await {
            Ok(reply) => Ok(reply),
            Err(_) if reads => Err(NotLeading),
            // It was taken in, and may be committed yet.
            Err(_) => Ok(ApiReply::Unknown),
        }
    }
}

/// Whether this member leads, with the state either way.
enum Role {
    Follower(Box<Cluster>),
    Leader(Box<Leader>),
    /// Between the two, inside one function.
    Changing,
}

pub(crate) struct Member<L: ReplicatedLog> {
    log: L,
    role: Role,
    /// The log has said whether this member leads.
    knows_leadership: bool,
    options: LeaderOptions,
    snapshot_entries: u64,
    applied: LogIndex,
    since_snapshot: u64,
    inputs: mpsc::Receiver<Message>,
    out: Outbox<Effect>,
    links: BTreeMap<LinkId, mpsc::Sender<Outgoing>>,
    answers: BTreeMap<Token, oneshot::Sender<ApiReply>>,
    tokens: u64,
    started: Instant,
}

/// The state that a log has brought about.
///
/// # Errors
/// When what it keeps is not commands, or of a newer version.
pub(crate) fn replay(recovered: &Recovered) -> Result<(Cluster, LogIndex), FormatError> {
    let (mut applied, mut cluster) = match &recovered.snapshot {
        Some((index, snapshot)) => (*index, Cluster::decode(snapshot)?),
        None => (LogIndex::default(), Cluster::new()),
    };
    for (index, entry) in &recovered.entries {
        let _ = cluster.apply(&Command::decode(entry)?);
        applied = *index;
    }
    Ok((cluster, applied))
}

impl<L: ReplicatedLog> Member<L> {
    /// A member that starts from a recovered log, and what reaches it.
    pub(crate) fn new(
        log: L,
        recovered: &Recovered,
        options: LeaderOptions,
        snapshot_entries: u64,
    ) -> Result<(Self, mpsc::Sender<Message>, Api), FormatError> {
        let (cluster, applied) = replay(recovered)?;
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        let barrier = log.barrier();
        let api = Api {
            inputs: sender.clone(),
            barrier: Arc::new(move || {
                let barrier = barrier.clone();
                Box::pin(async move { barrier.wait().await })
            }),
        };
        let member = Self {
            log,
            role: Role::Follower(Box::new(cluster)),
            knows_leadership: false,
            options,
            snapshot_entries,
            applied,
            since_snapshot: u64::try_from(recovered.entries.len()).unwrap_or(u64::MAX),
            inputs,
            out: Outbox::new(),
            links: BTreeMap::new(),
            answers: BTreeMap::new(),
            tokens: 0,
            started: Instant::now(),
        };
        Ok((member, sender, api))
    }

    /// Runs until told to stop; what was committed is durable then.
    ///
    /// # Errors
    /// When the log cannot go on, in words; the process should end.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), String> {
        let result = loop {
            let wake = self.wake_at();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break Ok(()),
                event = self.log.next() => {
                    if let Err(reason) = self.logged(event) {
                        break Err(reason);
                    }
                }
                Some(message) = self.inputs.recv(), if self.takes_inputs() => self.take(message),
                () = tokio::time::sleep_until(wake) => self.step(Input::Wake),
            }
        };
        self.links.clear();
        self.answers.clear();
        self.log.close().await;
        result
    }

    fn clock(&self) -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock {
            now: Nanos::new(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)),
            unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn wake_at(&self) -> Instant {
        let deadline = match &self.role {
            Role::Leader(leader) => leader.deadline(),
            Role::Follower(_) | Role::Changing => None,
        };
        deadline.map_or_else(|| Instant::now() + Duration::from_secs(3600), |at| self.started + Duration::from_nanos(at.get()))
    }

    /// Whoever comes waits until it is known who leads, and until a new system has its name.
    fn takes_inputs(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.is_ready(),
            Role::Follower(_) | Role::Changing => self.knows_leadership,
        }
    }

    fn logged(&mut self, event: LogEvent) -> Result<(), String> {
        match event {
            LogEvent::Committed { index, proposal, entry } => {
                assert!(index.0 == self.applied.0 + 1, "the log tells its entries in order, each once");
                // Only commands were ever proposed: anything else is a log of a newer member.
                let command = Command::decode(&entry).map_err(|error| format!("entry {} of the log: {error}", index.0))?;
                self.applied = index;
                self.since_snapshot += 1;
                match &mut self.role {
                    Role::Leader(_) => self.step(Input::Committed { proposal, command }),
                    Role::Follower(cluster) => {
                        let _ = cluster.apply(&command);
                    }
                    Role::Changing => unreachable!("a role changes inside one function"),
                }
                self.snapshot();
            }
            LogEvent::Lost { proposal } => self.step(Input::Lost { proposal }),
            LogEvent::Leadership(leadership) => {
                self.knows_leadership = true;
                match leadership {
                    Leadership::Leader => self.lead(),
                    Leadership::Follower => self.follow(),
                }
            }
            LogEvent::Failed { reason } => return Err(reason),
        }
        Ok(())
    }

    fn lead(&mut self) {
        let clock = self.clock();
        self.role = match std::mem::replace(&mut self.role, Role::Changing) {
            Role::Follower(cluster) => Role::Leader(Box::new(Leader::new(*cluster, self.options.clone(), clock))),
            other @ (Role::Leader(_) | Role::Changing) => other,
        };
        tracing::info!(applied = self.applied.0, "leading");
        self.step(Input::Wake);
    }

    fn follow(&mut self) {
        self.role = match std::mem::replace(&mut self.role, Role::Changing) {
            Role::Leader(leader) => Role::Follower(Box::new(leader.into_cluster())),
            other @ (Role::Follower(_) | Role::Changing) => other,
        };
        tracing::warn!("not leading any more");
        // Everybody finds the new leader by connecting again.
        self.links.clear();
        self.answers.clear();
    }

    fn snapshot(&mut self) {
        if self.since_snapshot < self.snapshot_entries {
            return;
        }
        let cluster = match &self.role {
            Role::Leader(leader) => leader.cluster(),
            Role::Follower(cluster) => cluster,
            Role::Changing => return,
        };
        self.since_snapshot = 0;
        match cluster.encode() {
            Ok(snapshot) => self.log.cut(self.applied, snapshot),
            Err(error) => tracing::error!(%error, "no snapshot can be made, the log will grow"),
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Linked { link, sender } => {
                // Dropped at once where nobody leads: the party looks for another member.
                if matches!(self.role, Role::Leader(_)) {
                    self.links.insert(link, sender);
                }
            }
            Message::Sds { link, message } if self.links.contains_key(&link) => self.step(Input::Sds { link, message }),
            Message::Client { link, message } if self.links.contains_key(&link) => self.step(Input::Client { link, message }),
            Message::Sds { .. } | Message::Client { .. } => {}
            Message::Unlinked { link } => {
                if self.links.remove(&link).is_some() {
                    self.step(Input::Unlinked { link });
                }
            }
            Message::Api { request, answer } => {
                if matches!(self.role, Role::Leader(_)) {
                    self.tokens += 1;
                    let token = Token::new(self.tokens);
                    self.answers.insert(token, answer);
                    self.step(Input::Api { token, request });
                }
            }
        }
    }

    fn step(&mut self, input: Input) {
        let clock = self.clock();
        let Role::Leader(leader) = &mut self.role else { return };
        leader.step(clock, input, &mut self.out);
        self.carry_out();
    }

    /// Carries out what the machine wants, and what it wants because of that.
    fn carry_out(&mut self) {
        while !self.out.is_empty() {
            let effects: Vec<Effect> = self.out.drain().collect();
            let mut again = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Propose { proposal, command } => {
                        if let Err(reason) = self.propose(proposal, &command) {
                            tracing::warn!(reason, "a proposal was not made");
                            again.push(Input::Lost { proposal });
                        }
                    }
                    Effect::ToSds { link, message } => again.extend(self.send(link, Outgoing::Sds(message))),
                    Effect::ToClient { link, message } => again.extend(self.send(link, Outgoing::Client(message))),
                    // What is queued still goes out: the connection ends when its queue has run dry.
                    Effect::Close { link } => drop(self.links.remove(&link)),
                    Effect::Answer { token, reply } => {
                        if let Some(answer) = self.answers.remove(&token) {
                            let _ = answer.send(reply);
                        }
                    }
                    Effect::Event(event) => log_event(&event),
                }
            }
            let clock = self.clock();
            let Role::Leader(leader) = &mut self.role else { return };
            for input in again {
                leader.step(clock, input, &mut self.out);
            }
        }
    }

    fn propose(&mut self, proposal: ProposalId, command: &Command) -> Result<(), String> {
        let entry = command.encode().map_err(|error| error.to_string())?;
        self.log.propose(proposal, entry).map_err(|error| error.to_string())
    }

    /// Queues a message; a party that does not keep up is disconnected, which is an input again.
    fn send(&mut self, link: LinkId, message: Outgoing) -> Option<Input> {
        let sender = self.links.get(&link)?;
        if sender.try_send(message).is_ok() {
            return None;
        }
        tracing::warn!(link = link.get(), "disconnected: it does not take what it is told");
        self.links.remove(&link);
        Some(Input::Unlinked { link })
    }
}

fn log_event(event: &Event) {
    events::log(event);
}

#[cfg(test)]
mod tests;
