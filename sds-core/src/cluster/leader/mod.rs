//! The leader: proposes commands, tells data servers and clients the view, answers operators.
//!
//! It owns the [`Cluster`] while it leads, and beside it the *soft state*: who is connected, who was
//! heard of when, who has confirmed which version. Soft state is lost with the leadership and made
//! anew from what the parties say; nothing that must survive is in it. The simulator runs this machine
//! against an ideal log.
//!
//! Invariants: nobody is told of a change before it is committed; a client is told `Opened` only when
//! every server that is primary for a shard of the volume's pool has confirmed the session's version
//! (I3); a leader holds nobody for dead before one full timeout of its own time.
//! Must not know: sockets, encodings, the log's storage, HTTP.

mod alone;
mod api;
mod client;
mod flushed;
mod interface;
mod roles;
mod sds;
mod shards;
mod status;

#[cfg(test)]
mod tests;

pub use interface::{ApiReply, ApiRequest, Clock, Effect, Event, Input, LONE_START_WAIT, LeaderOptions, ProposalId, ShardQuery};

use crate::cluster::{Change, Cluster, Command, Recipient};
use crate::control::{MdmToClient, MdmToSds, OpenError};
use crate::id::{ClientId, DeviceId, MapVersion, SdsId, VolumeId};
use crate::machine::{LinkId, Outbox, Token};
use crate::unit::Nanos;
use crate::view::ViewUpdate;
use alone::Wait;
use client::{ClientLink, ClientSeen, PendingOpen};
use flushed::FlushedHeard;
use roles::Roles;
use sds::{Node, SdsLink, WaitingRegistration};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Proposals in flight; beyond it requests are answered `Overloaded`, and parties try again.
pub const PROPOSALS_MAX: usize = 1024;
/// How often time is looked at.
const TICK: Nanos = Nanos::from_millis(250);

/// Who is at the other end of a link.
#[derive(Debug)]
enum Party {
    Sds(SdsLink),
    Client(ClientLink),
}

/// What waits for a proposal's fate.
#[derive(Debug)]
enum Pending {
    /// Nobody.
    Nothing,
    /// A registration over this link.
    Register { link: LinkId },
    /// A client's open.
    Open { link: LinkId, request: u64, name: String },
    /// A client's close.
    Close { link: LinkId, request: u64 },
    /// An operator.
    Api { token: Token },
}

/// The leader's machine.
#[derive(Debug)]
pub struct Leader {
    cluster: Cluster,
    options: LeaderOptions,
    clock: Clock,
    started: Nanos,
    ticked: Nanos,
    initialising: bool,
    links: BTreeMap<LinkId, Party>,
    nodes: BTreeMap<SdsId, Node>,
    clients: BTreeMap<ClientId, ClientSeen>,
    waiting: BTreeMap<LinkId, WaitingRegistration>,
    /// Copies that wait for the other: who, and for whom.
    waits: BTreeMap<(DeviceId, DeviceId), Wait>,
    looked_at_pairs: Nanos,
    /// Devices that asked for shards to be formed again, and when they did last.
    reform_wishes: BTreeMap<DeviceId, Nanos>,
    flushed: FlushedHeard,
    roles: Roles,
    opens: BTreeMap<(LinkId, u64), PendingOpen>,
    pending: BTreeMap<ProposalId, Pending>,
    proposed: u64,
}

impl Leader {
    /// Starts to lead with the state that the log has brought about. Call `step` with `Wake` next.
    #[must_use]
    pub fn new(cluster: Cluster, options: LeaderOptions, clock: Clock) -> Self {
        Self {
            cluster,
            options,
            clock,
            started: clock.now,
            ticked: clock.now,
            initialising: false,
            links: BTreeMap::new(),
            nodes: BTreeMap::new(),
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waits: BTreeMap::new(),
            looked_at_pairs: clock.now,
            reform_wishes: BTreeMap::new(),
            flushed: FlushedHeard::new(),
            roles: Roles::default(),
            opens: BTreeMap::new(),
            pending: BTreeMap::new(),
            proposed: 0,
        }
    }

    /// The committed state.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Stops leading: gives the committed state back, forgets the rest.
    #[must_use]
    pub fn into_cluster(self) -> Cluster {
        self.cluster
    }

    /// Whether the system has a name. Before that every party and operator would be refused: better
    /// to let them wait, it is one commit away.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        !self.cluster.system().is_nil()
    }

    /// When `Wake` is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        let idle = self.is_ready() && self.links.is_empty() && self.nodes.is_empty() && self.clients.is_empty() && self.opens.is_empty();
        (!idle).then(|| self.ticked.plus(TICK))
    }

    /// Takes one input in.
    pub fn step(&mut self, clock: Clock, input: Input, out: &mut Outbox<Effect>) {
        self.clock = Clock { now: clock.now.max(self.clock.now), unix_ms: clock.unix_ms };
        if self.cluster.system().is_nil() && !self.initialising {
            self.initialising = true;
            let system = self.options.system_if_new;
            let _ = self.propose(Change::Initialise { system }, Pending::Nothing, out);
        }
        match input {
            Input::Sds { link, message } => self.sds_said(link, message, out),
            Input::Client { link, message } => self.client_said(link, message, out),
            Input::Unlinked { link } => self.unlinked(link, out),
            Input::Api { token, request } => self.operator_asks(token, request, out),
            Input::Committed { proposal, command } => self.committed(proposal, &command, out),
            Input::Lost { proposal } => self.lost(proposal, out),
            Input::Wake => {}
        }
        if self.clock.now >= self.ticked.plus(TICK) {
            self.ticked = self.clock.now;
            self.tick_nodes(out);
            self.tick_clients(out);
            self.tick_opens(out);
            self.tick_waiting(out);
            self.tick_alone(out);
            self.tick_roles(out);
        }
    }

    /// Proposes a change, or says that too much is in flight.
    fn propose(&mut self, change: Change, pending: Pending, out: &mut Outbox<Effect>) -> Result<(), Pending> {
        if self.pending.len() >= PROPOSALS_MAX {
            return Err(pending);
        }
        self.proposed += 1;
        let proposal = ProposalId::new(self.proposed);
        self.pending.insert(proposal, pending);
        out.push(Effect::Propose { proposal, command: Command { unix_ms: self.clock.unix_ms, change } });
        Ok(())
    }

    fn committed(&mut self, proposal: Option<ProposalId>, command: &Command, out: &mut Outbox<Effect>) {
        let (result, events) = self.cluster.apply(command);
        for event in events {
            self.note_forgotten(&event);
            out.push(Effect::Event(Event::Cluster(event)));
        }
        match proposal.and_then(|proposal| self.pending.remove(&proposal)).unwrap_or(Pending::Nothing) {
            Pending::Register { link } => {
                // The server learns its name before the view that mentions it.
                self.registered(link, result, out);
                self.push_views(out);
            }
            Pending::Nothing => self.push_views(out),
            Pending::Open { link, request, name } => {
                self.push_views(out);
                self.session_committed(link, request, name, result, out);
            }
            Pending::Close { link, request } => {
                self.push_views(out);
                self.to_client(link, MdmToClient::Closed { request }, out);
            }
            Pending::Api { token } => {
                self.push_views(out);
                let reply = self.api_reply(result);
                out.push(Effect::Answer { token, reply });
            }
        }
        self.check_opens(out);
    }

    fn lost(&mut self, proposal: ProposalId, out: &mut Outbox<Effect>) {
        let pending = self.pending.remove(&proposal).unwrap_or(Pending::Nothing);
        self.give_up(pending, out);
    }

    /// Tells whoever waits that the proposal was not made, or that its fate is unknown.
    fn give_up(&mut self, pending: Pending, out: &mut Outbox<Effect>) {
        match pending {
            // If it was the initialisation, the next step proposes it again.
            Pending::Nothing => self.initialising = !self.cluster.system().is_nil(),
            // Without the link it comes back and registers again.
            Pending::Register { link } => self.drop_link(link, out),
            Pending::Open { link, request, name } => {
                let result = Err(OpenError::NotRecorded { name });
                self.to_client(link, MdmToClient::Opened { request, result }, out);
            }
            Pending::Close { link, .. } => self.drop_link(link, out),
            Pending::Api { token } => out.push(Effect::Answer { token, reply: ApiReply::Unknown }),
        }
    }

    /// Tells every party what it does not know yet.
    fn push_views(&mut self, out: &mut Outbox<Effect>) {
        let version = self.cluster.version();
        let mut made: BTreeMap<MapVersion, ViewUpdate> = BTreeMap::new();
        for (link, party) in &mut self.links {
            match party {
                Party::Sds(server) => {
                    if server.sds.is_none() || server.sent >= version {
                        continue;
                    }
                    let update = match made.entry(server.sent) {
                        Entry::Occupied(entry) => entry.get().clone(),
                        Entry::Vacant(entry) => {
                            let Some(update) = self.cluster.view_since(server.sent, Recipient::Sds) else { continue };
                            entry.insert(update).clone()
                        }
                    };
                    server.sent = version;
                    out.push(Effect::ToSds { link: *link, message: MdmToSds::View(update) });
                }
                Party::Client(client) => {
                    let Some(update) = self.cluster.view_since(client.sent, Recipient::Client(client.client)) else { continue };
                    client.sent = version;
                    out.push(Effect::ToClient { link: *link, message: MdmToClient::View(update) });
                }
            }
        }
    }

    /// A link is gone, or is to be treated so.
    fn unlinked(&mut self, link: LinkId, out: &mut Outbox<Effect>) {
        match self.links.remove(&link) {
            Some(Party::Sds(server)) => self.sds_unlinked(link, &server, out),
            Some(Party::Client(client)) => self.client_unlinked(link, client.client),
            None => {}
        }
        self.waiting.remove(&link);
        self.tick_waiting(out);
    }

    /// Closes a link and forgets it.
    fn drop_link(&mut self, link: LinkId, out: &mut Outbox<Effect>) {
        out.push(Effect::Close { link });
        self.unlinked(link, out);
    }

    /// A party has seen more than we have: our disk went back in time, or it is of another system.
    fn is_ahead(&self, link: LinkId, theirs: MapVersion, out: &mut Outbox<Effect>) -> Option<String> {
        let ours = self.cluster.version();
        if theirs <= ours {
            return None;
        }
        out.push(Effect::Event(Event::WentBack { link, theirs, ours }));
        Some(format!(
            "this MDM's metadata went back in time: it is at version {ours}, and version {theirs} was seen; restore its newest data directory"
        ))
    }

    fn volume_name(&self, id: VolumeId) -> String {
        self.cluster.volume(id).map(|volume| volume.name.clone()).unwrap_or_default()
    }
}
