//! The model: what can happen next, and what must always hold.

use crate::copy::Half;
use crate::rule::Rule;
use crate::scenario::{Scenario, Start};
use crate::state::{CLIENTS, Client, Mdm, Message, SERVERS, Server, Spent, State, device, server};
use sds_core::id::{ConnectionNumber, Epoch, Incarnation, MapVersion, SessionGeneration, ShardSequence};
use sds_core::map::{InSync, Lapsed, Member, ShardEntry};
use sds_core::protocol::lease::Terms;
use sds_core::protocol::settle;
use sds_core::unit::Nanos;
use stateright::{Model, Property};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Sequences reserved for an epoch.
pub(crate) const STRIDE: u64 = 8;
/// In ticks: a grace longer than a lease by the tick that clocks may drift.
pub(crate) const TERMS: Terms = Terms { lease: Nanos::new(1), grace: Nanos::new(2) };

/// How the process at the device ended, as to the write in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Left {
    /// Whatever was at the device completed.
    Whole,
    /// The last write, not acknowledged, left nothing.
    Nothing,
    /// It left only its data.
    Data,
    /// It left only its record.
    Record,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A client begins its next operation, its map so many epochs behind.
    Begin(usize, u32),
    /// A client sends its operation again over a new connection.
    Retry(usize),
    /// A client asks for a session.
    Open(usize),
    /// A client's process dies and is started again.
    ClientCrash(usize),
    /// A message arrives.
    Deliver(Message),
    /// The primary answers the read it holds.
    AnswerRead(usize),
    /// A server flushes for the primary.
    FlushOn(usize, usize),
    /// The connection to the peer breaks and is made again.
    Reconnect(usize),
    /// A server flushes and seals.
    Seal(usize),
    /// A member proposes a set without the other.
    ProposeShrink(usize),
    /// The primary proposes to change roles.
    ProposeSwap(usize),
    /// The primary copies the block to its joiner, or finds that it need not.
    CopyBlock(usize),
    /// The primary proposes its joiner.
    ProposeGrow(usize),
    /// A primary gives up the joiner that it has proposed.
    ProposeDrop(usize),
    /// A member settles.
    Settle(usize),
    /// The primary says that both have settled.
    ProposeSettled(usize),
    /// A server takes the MDM's newest map.
    Pull(usize),
    /// A secondary or joiner grants a lease.
    Grant(usize),
    /// The MDM lets a replica join.
    Join(usize),
    /// The MDM forms the set anew after all have restarted.
    Reform,
    /// The MDM lets a copy go on alone: the other has not come back.
    Alone(usize),
    /// A server's process dies.
    Crash(usize, Left),
    /// A server's power is cut; one of the ways that can end.
    PowerCut(usize, Left, usize),
    /// A server's power is cut and its device forgets even what was flushed.
    Forget(usize),
    /// A server comes back.
    Restart(usize),
    /// Time passes.
    Tick,
    /// A server's clock runs ahead.
    Drift(usize),
}

/// A scenario, with or without a rule.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// The bounds.
    pub scenario: Scenario,
    /// The rule that is switched off.
    pub dropped: Option<Rule>,
    /// Makes the search run dry when its time is over.
    pub bell: Arc<Bell>,
}

/// Rings when a search has taken too long. With one thread stateright looks at no clock of its own.
#[derive(Debug)]
pub struct Bell {
    at: Instant,
    armed: AtomicBool,
}

impl Bell {
    /// Rings at `at`.
    #[must_use]
    pub fn new(at: Instant) -> Self {
        Self { at, armed: AtomicBool::new(true) }
    }

    /// Rings no more: what was found is told by walking through the model again.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    fn rings(&self) -> bool {
        self.armed.load(Ordering::Relaxed) && Instant::now() >= self.at
    }
}

impl Protocol {
    pub(crate) fn on(&self, rule: Rule) -> bool {
        self.dropped != Some(rule)
    }

    /// Whether a server is this member; without I6 the device is enough.
    pub(crate) fn same(&self, member: Member, own: Member) -> bool {
        member == own || (!self.on(Rule::MemberIncarnation) && member.device == own.device)
    }

    pub(crate) fn is_primary(&self, state: &State, at: usize) -> bool {
        state.entry(at).in_sync.primary().is_some_and(|primary| self.same(primary, state.member(at)))
    }

    pub(crate) fn is_member(&self, state: &State, at: usize) -> bool {
        state.entry(at).in_sync.members().iter().any(|member| self.same(*member, state.member(at)))
    }

    pub(crate) fn is_joiner(&self, state: &State, at: usize) -> bool {
        state.entry(at).joining.is_some_and(|joiner| self.same(joiner, state.member(at)))
    }

    /// The other in-sync member, as its server.
    pub(crate) fn other(&self, state: &State, at: usize) -> Option<usize> {
        state.entry(at).in_sync.members().iter().map(|member| server(member.device)).find(|other| *other != at)
    }

    /// Whether a server has a part in the scenario.
    fn takes_part(&self, at: usize) -> bool {
        at < 2 || self.scenario.joiners & (1 << at) != 0
    }

    /// Whether every client has had all of its answers.
    fn is_answered(&self, state: &State) -> bool {
        state
            .clients
            .iter()
            .zip(self.scenario.scripts)
            .all(|(client, script)| client.fenced || (client.op.is_none() && usize::from(client.begun) >= script.len()))
    }

    /// Takes messages off the network that their receiver would refuse now and ever: fences only rise.
    fn forget_refused(&self, state: &mut State) {
        let (servers, newest) = (&state.servers, state.mdm.newest().epoch);
        state.network.retain(|message| match message {
            Message::Request { to, origin, epoch, .. } => {
                !((self.on(Rule::FenceConnection) && origin.connection < servers[*to].connections[origin.client])
                    || (self.on(Rule::FenceEpochClient) && *epoch < servers[*to].epoch))
            }
            Message::Replicate { to, connection, epoch, .. } => {
                !((self.on(Rule::FenceEpochPeer) && *epoch < servers[*to].epoch)
                    || (self.on(Rule::PeerOrder) && *connection < servers[*to].peer_seen))
            }
            Message::Complete { to, epoch, .. } | Message::Grant { to, epoch, .. } => *epoch >= servers[*to].epoch,
            Message::Propose(proposal) => !self.on(Rule::CompareAndSwap) || proposal.base >= newest,
        });
    }

    fn ends(&self, state: &State, at: usize, left: Left) -> usize {
        let (copy, half) = self.torn(state, at, left);
        copy.power_cuts(half).len()
    }

    /// The copy and the half write that a crash starts from.
    pub(crate) fn torn(&self, state: &State, at: usize, left: Left) -> (crate::copy::Copy, Option<Half>) {
        let mut copy = state.servers[at].copy.clone();
        let Some(stamp) = self.in_flight(state, at) else { return (copy, None) };
        if left == Left::Whole {
            return (copy, None);
        }
        if copy.cached.last() == Some(&stamp) {
            copy.cached.pop();
        }
        match left {
            Left::Whole | Left::Nothing => (copy, None),
            Left::Data => (copy, Some(Half::Data(stamp))),
            Left::Record => (copy, Some(Half::Record(stamp))),
        }
    }

    /// The write that may be at the device now: the primary's unanswered one, or a frame that has come.
    fn in_flight(&self, state: &State, at: usize) -> Option<crate::copy::Stamp> {
        let own = &state.servers[at];
        if own.copy.image.is_some() {
            return None;
        }
        let primary = own.pending.iter().find(|write| !write.answered && !write.copy && own.copy.cached.last() == Some(&write.stamp));
        let coming = || {
            state.network.iter().find_map(|message| match message {
                Message::Replicate { to, epoch, stamp, copy: false, .. }
                    if *to == at && *epoch == own.epoch && stamp.sequence() > own.last =>
                {
                    Some(*stamp)
                }
                _ => None,
            })
        };
        primary.map(|write| write.stamp).or_else(coming)
    }

    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let scenario = &self.scenario;
        for (at, own) in state.servers.iter().enumerate() {
            if !own.up {
                if scenario.restarts {
                    actions.push(Action::Restart(at));
                }
                continue;
            }
            if !self.takes_part(at) {
                continue;
            }
            let mut lefts = vec![Left::Whole];
            if scenario.halves && self.in_flight(state, at).is_some() {
                lefts.extend([Left::Nothing, Left::Data, Left::Record]);
            }
            for left in lefts {
                if state.spent.crashes < scenario.crashes {
                    actions.push(Action::Crash(at, left));
                }
                if state.spent.power_cuts < scenario.power_cuts {
                    actions.extend((0..self.ends(state, at, left)).map(|end| Action::PowerCut(at, left, end)));
                }
            }
            if state.spent.amnesia < scenario.amnesia && state.spent.power_cuts < scenario.power_cuts {
                actions.push(Action::Forget(at));
            }
        }
        if scenario.leases {
            if state.clocks.iter().all(|clock| *clock < scenario.ticks) {
                actions.push(Action::Tick);
            }
            for at in 0..2 {
                if !state.drifted[at] && state.clocks[at] < scenario.ticks {
                    actions.push(Action::Drift(at));
                }
            }
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let life = Incarnation::new(1);
        let member = |at| Member { device: device(at), incarnation: life };
        let first = ShardSequence::new(STRIDE);
        let map = MapVersion::new(1);
        let epoch = Epoch::new(1);
        let entry = match self.scenario.start {
            Start::Pair => ShardEntry {
                epoch,
                in_sync: InSync::pair(member(0), member(1)),
                first_sequence: first,
                made_at: map,
                ..ShardEntry::default()
            },
            Start::Joining | Start::Sole => ShardEntry {
                epoch,
                in_sync: InSync::sole(member(0)),
                joining: (self.scenario.start == Start::Joining).then(|| member(1)),
                lapsed: Some(Lapsed { device: device(1), complete: ShardSequence::new(0) }),
                first_sequence: first,
                made_at: map,
                ..ShardEntry::default()
            },
        };
        let generation = SessionGeneration::new(1);
        let own = Server {
            up: true,
            life,
            epoch,
            map,
            generation,
            settled: true,
            cache_lost: false,
            copy: crate::copy::Copy::default(),
            last: 0,
            resolved: 0,
            partner_complete: 0,
            pending: Vec::new(),
            reading: None,
            flushing: None,
            connections: [ConnectionNumber::new(0); CLIENTS],
            peer_out: ConnectionNumber::new(1),
            peer_seen: ConnectionNumber::new(1),
            shrinking: false,
            growing: None,
            stopped: false,
            copied: false,
            joiner_flushed: false,
            lease: sds_core::protocol::lease::Lease::default(),
            granted: sds_core::protocol::lease::Granted::default(),
        };
        let client = |generation| Client {
            generation,
            opening: false,
            fenced: false,
            begun: 0,
            op: None,
            connection: ConnectionNumber::new(1),
            unflushed: None,
        };
        vec![State {
            mdm: Mdm {
                history: Arc::new(vec![entry]),
                map,
                generation,
                lives: [life; SERVERS],
                amnesic: [false; SERVERS],
                cache_lost_in: [Incarnation::new(0); SERVERS],
            },
            servers: [own.clone(), own.clone(), own],
            clients: [client(generation), client(if self.scenario.exclusive { SessionGeneration::new(0) } else { generation })],
            network: Vec::new(),
            clocks: [0; SERVERS],
            drifted: [false; SERVERS],
            spent: Spent::default(),
            acknowledged: 0,
            excused: 0,
            quarantined: false,
            monitor: crate::monitor::Monitor::default(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // A broken history is not pursued, nor one in which nobody will ask anything any more.
        if self.bell.rings() || !state.monitor.holds() || (self.scenario.until_answered && self.is_answered(state)) {
            return;
        }
        let (scenario, spent) = (&self.scenario, &state.spent);
        for (at, client) in state.clients.iter().enumerate() {
            match client.op {
                None if client.opening => {}
                None if client.generation.get() == 0 && spent.opens < scenario.opens => actions.push(Action::Open(at)),
                None if client.generation.get() == 0 => {}
                None if usize::from(client.begun) < scenario.scripts[at].len() => {
                    let behind = if scenario.stale_clients { state.mdm.newest().epoch.get() } else { 1 };
                    actions.extend((0..behind).map(|behind| Action::Begin(at, behind)));
                }
                None => {}
                Some(_) => {
                    if spent.retries < scenario.retries {
                        actions.push(Action::Retry(at));
                    }
                    if spent.client_crashes < scenario.client_crashes {
                        actions.push(Action::ClientCrash(at));
                    }
                }
            }
        }
        actions.extend(state.network.iter().map(|message| Action::Deliver(*message)));
        for (at, own) in state.servers.iter().enumerate().filter(|(at, own)| own.up && self.takes_part(*at)) {
            let primary = self.is_primary(state, at);
            if own.map < state.mdm.map {
                actions.push(Action::Pull(at));
            }
            if own.reading.is_some() {
                actions.push(Action::AnswerRead(at));
            }
            if let Some(flush) = &own.flushing {
                actions.extend((0..SERVERS).filter(|target| flush.done & (1 << target) == 0).map(|target| Action::FlushOn(at, target)));
            }
            if !own.settled {
                actions.push(Action::Settle(at));
            }
            if spent.reconnects < scenario.reconnects && !own.pending.is_empty() {
                actions.push(Action::Reconnect(at));
            }
            if scenario.seals && own.copy.active && own.settled {
                actions.push(Action::Seal(at));
            }
            if own.epoch.get() < scenario.epochs {
                if !own.shrinking && (self.other(state, at).is_some()) {
                    actions.push(Action::ProposeShrink(at));
                }
                if primary && settle::is_for_settling(state.entry(at)) {
                    actions.push(Action::ProposeSettled(at));
                }
                if primary && spent.swaps < scenario.swaps {
                    actions.push(Action::ProposeSwap(at));
                }
                if primary && state.entry(at).joining.is_some() {
                    if !own.copied {
                        actions.push(Action::CopyBlock(at));
                    }
                    actions.push(if own.growing.is_none() { Action::ProposeGrow(at) } else { Action::ProposeDrop(at) });
                }
            }
            if scenario.leases && spent.grants < scenario.grants && !primary {
                actions.push(Action::Grant(at));
            }
            if scenario.joiners & (1 << at) != 0 && state.mdm.history.len() < scenario.epochs as usize {
                actions.push(Action::Join(at));
            }
        }
        if state.mdm.history.len() < scenario.epochs as usize && scenario.restarts {
            actions.push(Action::Reform);
        }
        if scenario.lone_starts && state.mdm.history.len() < scenario.epochs as usize {
            actions.extend((0..2).filter(|at| state.servers[*at].up).map(Action::Alone));
        }
        self.faults(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.apply(&mut state, action).then_some(())?;
        self.confirm_opens(&mut state);
        self.forget_refused(&mut state);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("every read, flush and fence is explained", |_, state: &State| state.monitor.holds()),
            Property::always("two good copies are equal", |model: &Self, state: &State| model.copies_agree(state)),
            Property::always("an acknowledged write is on every in-sync copy", |_, state: &State| acknowledged_is_everywhere(state)),
            Property::always("no healthy history quarantines", |_, state: &State| !state.quarantined),
        ]
    }
}

impl Protocol {
    fn apply(&self, state: &mut State, action: Action) -> bool {
        match action {
            Action::Begin(client, behind) => self.begin(state, client, behind),
            Action::Retry(client) => self.retry(state, client),
            Action::Open(client) => self.open(state, client),
            Action::ClientCrash(client) => self.client_crash(state, client),
            Action::Deliver(message) => self.deliver(state, message),
            Action::AnswerRead(at) => self.answer_read(state, at),
            Action::FlushOn(at, target) => self.flush_on(state, at, target),
            Action::Reconnect(at) => self.reconnect(state, at),
            Action::Seal(at) => self.seal(state, at),
            Action::ProposeShrink(at) => self.propose_shrink(state, at),
            Action::ProposeSwap(at) => self.propose_swap(state, at),
            Action::CopyBlock(at) => self.copy_block(state, at),
            Action::ProposeGrow(at) => self.propose_grow(state, at),
            Action::ProposeDrop(at) => self.propose_drop(state, at),
            Action::Settle(at) => self.settle(state, at),
            Action::ProposeSettled(at) => self.propose_settled(state, at),
            Action::Pull(at) => self.pull(state, at),
            Action::Grant(at) => self.grant(state, at),
            Action::Join(at) => self.join(state, at),
            Action::Reform => self.reform(state),
            Action::Alone(at) => self.alone(state, at),
            Action::Crash(at, left) => self.crash(state, at, left),
            Action::PowerCut(at, left, end) => self.power_cut(state, at, left, end),
            Action::Forget(at) => self.forget(state, at),
            Action::Restart(at) => self.restart(state, at),
            Action::Tick => {
                state.clocks.iter_mut().for_each(|clock| *clock += 1);
                true
            }
            Action::Drift(at) => {
                state.clocks[at] += 1;
                state.drifted[at] = true;
                true
            }
        }
    }

    /// I8: with the newest configuration of two served by both and no write under way, the copies are equal.
    fn copies_agree(&self, state: &State) -> bool {
        let entry = state.mdm.newest();
        let [primary, secondary] = entry.in_sync.members() else { return true };
        let (first, second) = (&state.servers[server(primary.device)], &state.servers[server(secondary.device)]);
        let serves = |own: &Server, member: &Member| {
            own.up && own.epoch == entry.epoch && own.life == member.incarnation && own.settled && own.copy.image.is_none()
        };
        if !serves(first, primary) || !serves(second, secondary) || !first.pending.is_empty() {
            return true;
        }
        first.copy.current().value == second.copy.current().value
    }
}

/// I2, I4: whoever is in sync, or could be promoted, holds what was acknowledged.
fn acknowledged_is_everywhere(state: &State) -> bool {
    state.mdm.newest().in_sync.members().iter().all(|member| {
        let own = &state.servers[server(member.device)];
        own.life != member.incarnation || own.copy.image.is_some() || own.copy.current().sequence() >= state.acknowledged
    })
}
