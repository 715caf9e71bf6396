//! The MDM of the simulation: the real leader machine in front of an ideal log.
//!
//! The log keeps every proposal, or loses it when the MDM goes down first; what was under way then is
//! in it or not. Control connections are ordered, and what crosses them is encoded and decoded.
//!
//! Must not know: what a command means.

use crate::pipe::Pipe;
use crate::schedule::Drifting;
use sds_core::cluster::Cluster;
use sds_core::cluster::Command;
use sds_core::cluster::leader::{Clock, Effect, Input, Leader, LeaderOptions, ProposalId};
use sds_core::control::{ClientToMdm, MdmToClient, MdmToSds, SdsToMdm};
use sds_core::id::{DeviceId, LogSequence, SystemId};
use sds_core::machine::{LinkId, Outbox};
use sds_core::unit::Nanos;
use std::collections::BTreeMap;

/// A client or server of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Of the servers.
    Server(usize),
    /// Of the clients.
    Client(usize),
}

/// What goes up to the MDM.
#[derive(Clone, Debug)]
pub enum Up {
    /// From a server.
    Sds(SdsToMdm),
    /// From a client.
    Client(ClientToMdm),
    /// The connection is gone.
    Gone,
}

/// What comes down from the MDM.
#[derive(Clone, Debug)]
pub enum Down {
    /// The connection is up.
    Here,
    /// To a server.
    Sds(MdmToSds),
    /// To a client.
    Client(MdmToClient),
    /// The connection is gone.
    Gone,
}

/// A control connection.
#[derive(Debug)]
pub struct Connection {
    /// Who connected.
    pub role: Role,
    /// In which life of its process.
    pub life: u64,
    /// To the MDM.
    pub up: Pipe<Up>,
    /// From the MDM.
    pub down: Pipe<Down>,
    /// Nothing that is sent arrives any more.
    pub broken: bool,
}

#[derive(Debug)]
enum State {
    Leading(Box<Leader>),
    Away(Box<Cluster>),
}

/// The MDM.
#[derive(Debug)]
pub struct Mdm {
    state: State,
    options: LeaderOptions,
    /// The clock of its host.
    drift: Drifting,
    connections: BTreeMap<LinkId, Connection>,
    next: u64,
    /// Under way into the log.
    proposals: Vec<(ProposalId, Command)>,
    /// Terms so far; a proposal of an earlier one has no name any more.
    term: u64,
    out: Outbox<Effect>,
}

/// Milliseconds since 1970 at the start of every run.
const EPOCH_MS: u64 = 1_800_000_000_000;

fn clock(now: Nanos) -> Clock {
    Clock { now, unix_ms: EPOCH_MS + now.get() / 1_000_000 }
}

impl Mdm {
    /// Starts to lead.
    #[must_use]
    pub fn new(system: SystemId, drift: Drifting) -> Self {
        let state = State::Away(Box::new(Cluster::new()));
        let options = LeaderOptions::new(system);
        Self { state, options, drift, connections: BTreeMap::new(), next: 0, proposals: Vec::new(), term: 0, out: Outbox::new() }
    }

    /// The committed state.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        match &self.state {
            State::Leading(leader) => leader.cluster(),
            State::Away(cluster) => cluster,
        }
    }

    /// The newest flushed position that it has heard of a device.
    #[must_use]
    pub fn flushed_of(&self, device: DeviceId) -> LogSequence {
        match &self.state {
            State::Leading(leader) => leader.flushed_heard(device),
            State::Away(_) => LogSequence::default(),
        }
    }

    /// Whether it can be reached.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Leading(_))
    }

    /// The term it is in; proposals of earlier ones are ended.
    #[must_use]
    pub const fn term(&self) -> u64 {
        self.term
    }

    /// Comes up, with everything the log holds.
    pub fn start(&mut self, now: Nanos) {
        let state = core::mem::replace(&mut self.state, State::Away(Box::default()));
        self.state = match state {
            State::Leading(leader) => State::Leading(leader),
            State::Away(cluster) => {
                self.term += 1;
                State::Leading(Box::new(Leader::new(*cluster, self.options.clone(), clock(self.drift.shows(now)))))
            }
        };
    }

    /// Goes down. Of the proposals under way those for which `keep` says so get into the log; `applied` is told of each.
    pub fn stop(&mut self, mut keep: impl FnMut() -> bool, mut applied: impl FnMut(&Cluster, &Command)) {
        let state = core::mem::replace(&mut self.state, State::Away(Box::default()));
        let mut cluster = match state {
            State::Leading(leader) => leader.into_cluster(),
            State::Away(cluster) => *cluster,
        };
        for (_, command) in core::mem::take(&mut self.proposals) {
            if keep() {
                let _ = cluster.apply(&command);
                applied(&cluster, &command);
            }
        }
        self.state = State::Away(Box::new(cluster));
    }

    /// Takes an input in and gives what it wants done; nothing while it is down.
    pub fn step(&mut self, now: Nanos, input: Input) -> Vec<Effect> {
        let State::Leading(leader) = &mut self.state else { return Vec::new() };
        leader.step(clock(self.drift.shows(now)), input, &mut self.out);
        self.out.drain().collect()
    }

    /// When it wants to be woken.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        match &self.state {
            State::Leading(leader) => leader.deadline().map(|at| self.drift.when(at)),
            State::Away(_) => None,
        }
    }

    /// A proposal is on its way.
    pub fn propose(&mut self, proposal: ProposalId, command: Command) {
        self.proposals.push((proposal, command));
    }

    /// The oldest proposal under way is in the log.
    pub fn commit_next(&mut self) -> Option<Input> {
        if self.proposals.is_empty() {
            return None;
        }
        let (proposal, command) = self.proposals.remove(0);
        Some(Input::Committed { proposal: Some(proposal), command })
    }

    /// A party connects.
    pub fn connect(&mut self, role: Role, life: u64) -> LinkId {
        self.next += 1;
        let id = LinkId::new(self.next);
        self.connections.insert(id, Connection { role, life, up: Pipe::default(), down: Pipe::default(), broken: false });
        id
    }

    /// A connection.
    pub fn connection(&mut self, id: LinkId) -> Option<&mut Connection> {
        self.connections.get_mut(&id)
    }

    /// Connections that are not broken, oldest first.
    #[must_use]
    pub fn whole(&self) -> Vec<LinkId> {
        self.connections.iter().filter(|(_, connection)| !connection.broken).map(|(id, _)| *id).collect()
    }

    /// Forgets a broken connection on which nothing is under way.
    pub fn forget_if_over(&mut self, id: LinkId) {
        if self.connections.get(&id).is_some_and(|known| known.broken && known.up.is_empty() && known.down.is_empty()) {
            self.connections.remove(&id);
        }
    }
}
