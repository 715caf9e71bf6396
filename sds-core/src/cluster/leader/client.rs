//! Clients: sessions asked for, confirmed and given back; who is silent.
//!
//! Invariant I3: `Opened` is said only when every server that is primary for a shard of the volume's
//! pool has confirmed the version that made the session, so that whoever was fenced is fenced everywhere.

use super::{Effect, Event, Leader, Party, Pending};
use crate::cluster::{Bound, Change, OpenSession, Outcome, Refusal};
use crate::control::{CONTROL_VERSION, ClientToMdm, MdmToClient, OpenError, Opened, VolumeLine};
use crate::id::{ClientId, MapVersion, SessionGeneration, Ticket, VolumeId};
use crate::limits::{SESSIONS_PER_VOLUME_MAX, TEXT_BYTES_MAX};
use crate::machine::{LinkId, Outbox};
use crate::unit::Nanos;
use crate::view::SessionMode;

/// A link to a client.
#[derive(Debug)]
pub(super) struct ClientLink {
    pub(super) client: ClientId,
    ticket: Ticket,
    name: String,
    pub(super) sent: MapVersion,
}

/// When a client was heard of.
#[derive(Debug)]
pub(super) struct ClientSeen {
    link: Option<LinkId>,
    heard: Nanos,
}

/// A committed session that data servers have not all confirmed.
#[derive(Debug)]
pub(super) struct PendingOpen {
    opened: Opened,
    until: Nanos,
}

impl Leader {
    pub(super) fn client_said(&mut self, link: LinkId, message: ClientToMdm, out: &mut Outbox<Effect>) {
        if let ClientToMdm::Hello { version, client, ticket, name } = message {
            return self.hello(link, version, client, ticket, name, out);
        }
        let Some(Party::Client(party)) = self.links.get(&link) else {
            return self.refuse_client(link, "its first message is not Hello".to_owned(), out);
        };
        let client = party.client;
        if let Some(seen) = self.clients.get_mut(&client) {
            seen.heard = self.clock.now;
        }
        match message {
            ClientToMdm::Hello { .. } => unreachable!("answered above"),
            ClientToMdm::Open { request, volume, mode, force } => self.open(link, request, volume, mode, force, out),
            ClientToMdm::Close { request, volume, generation } => {
                self.opens.retain(|_, open| open.opened.generation != generation);
                let change = Change::CloseSession { volume, client, generation };
                if let Err(pending) = self.propose(change, Pending::Close { link, request }, out) {
                    self.give_up(pending, out);
                }
            }
            ClientToMdm::List { request } => {
                let volumes = self.list(client);
                out.push(Effect::ToClient { link, message: MdmToClient::Volumes { request, volumes } });
            }
            ClientToMdm::Pull { at_least } => {
                if let Some(reason) = self.is_ahead(link, at_least, out) {
                    return self.refuse_client(link, reason, out);
                }
                if let Some(Party::Client(party)) = self.links.get_mut(&link) {
                    party.sent = MapVersion::default();
                }
                self.push_views(out);
            }
            ClientToMdm::Heartbeat => {}
        }
    }

    fn hello(&mut self, link: LinkId, version: u32, client: ClientId, ticket: Ticket, name: String, out: &mut Outbox<Effect>) {
        if version != CONTROL_VERSION {
            let reason = format!("it speaks control protocol {version}, this MDM speaks {CONTROL_VERSION}; install matching versions");
            return self.refuse_client(link, reason, out);
        }
        if client.is_nil() || name.len() > TEXT_BYTES_MAX || self.links.contains_key(&link) {
            let reason = format!("its Hello has no identity, a name over {TEXT_BYTES_MAX} bytes, or is not the first message");
            return self.refuse_client(link, reason, out);
        }
        if self.cluster.system().is_nil() {
            return self.refuse_client(link, "the system is not initialised yet; try again".to_owned(), out);
        }
        let before = self.clients.insert(client, ClientSeen { link: Some(link), heard: self.clock.now }).and_then(|seen| seen.link);
        if let Some(before) = before {
            self.drop_link(before, out);
        }
        out.push(Effect::Event(Event::ClientConnected { link, name: name.clone() }));
        self.links.insert(link, Party::Client(ClientLink { client, ticket, name, sent: MapVersion::default() }));
        out.push(Effect::ToClient { link, message: MdmToClient::Welcome { system: self.cluster.system() } });
        self.push_views(out);
    }

    fn open(&mut self, link: LinkId, request: u64, volume: String, mode: SessionMode, force: bool, out: &mut Outbox<Effect>) {
        let Some(Party::Client(party)) = self.links.get(&link) else { return };
        let change = Change::OpenSession(OpenSession {
            orphans: self.orphans_of(&volume),
            volume: volume.clone(),
            client: party.client,
            ticket: party.ticket,
            holder: party.name.clone(),
            mode,
            force,
        });
        if let Err(pending) = self.propose(change, Pending::Open { link, request, name: volume }, out) {
            self.give_up(pending, out);
        }
    }

    /// The log has decided about an open.
    pub(super) fn session_committed(
        &mut self,
        link: LinkId,
        request: u64,
        name: String,
        result: Result<Outcome, Refusal>,
        out: &mut Outbox<Effect>,
    ) {
        let error = match result {
            Ok(Outcome::SessionOpened(opened)) => {
                if self.links.contains_key(&link) {
                    let until = self.clock.now.plus(self.options.confirm_wait);
                    self.opens.insert((link, request), PendingOpen { opened, until });
                }
                return;
            }
            Ok(other) => unreachable!("an open was answered with {other:?}"),
            Err(Refusal::NoVolume { name }) => OpenError::NoVolume { name },
            Err(Refusal::Busy { name, holder, since }) => OpenError::Busy { name, holder, since },
            Err(Refusal::TooMany(Bound::Sessions)) => {
                OpenError::TooManySessions { name, max: u32::try_from(SESSIONS_PER_VOLUME_MAX).unwrap_or(u32::MAX) }
            }
            Err(other) => {
                out.push(Effect::Event(Event::OpenRefused { volume: name.clone(), reason: other.to_string() }));
                OpenError::NotRecorded { name }
            }
        };
        self.to_client(link, MdmToClient::Opened { request, result: Err(error) }, out);
    }

    /// Answers every open that all primaries have confirmed.
    pub(super) fn check_opens(&mut self, out: &mut Outbox<Effect>) {
        if self.opens.is_empty() {
            return;
        }
        let done: Vec<(LinkId, u64)> =
            self.opens.iter().filter(|(_, open)| self.unconfirmed(&open.opened).is_empty()).map(|(key, _)| *key).collect();
        for (link, request) in done {
            if let Some(open) = self.opens.remove(&(link, request)) {
                self.to_client(link, MdmToClient::Opened { request, result: Ok(open.opened) }, out);
            }
        }
    }

    /// Servers that must enforce a session and have not said that they do.
    fn unconfirmed(&self, opened: &Opened) -> Vec<String> {
        let has = |sds| self.nodes.get(&sds).is_some_and(|node| node.confirmed >= opened.version);
        let waits = self.cluster.primaries_of(opened.volume).into_iter().filter(|sds| !has(*sds));
        waits.map(|sds| self.cluster.server(sds).map_or_else(|| sds.to_string(), |server| server.name.clone())).collect()
    }

    /// Gives up opens that took too long, and their sessions with them.
    pub(super) fn tick_opens(&mut self, out: &mut Outbox<Effect>) {
        let late: Vec<(LinkId, u64)> = self.opens.iter().filter(|(_, open)| open.until <= self.clock.now).map(|(key, _)| *key).collect();
        for (link, request) in late {
            let Some(PendingOpen { opened, .. }) = self.opens.remove(&(link, request)) else { continue };
            let (name, waiting) = (self.volume_name(opened.volume), self.unconfirmed(&opened));
            out.push(Effect::Event(Event::OpenNotConfirmed { volume: name.clone(), waiting: waiting.clone() }));
            let result = Err(OpenError::NotConfirmed { name, waiting });
            self.to_client(link, MdmToClient::Opened { request, result }, out);
            if let Some(Party::Client(party)) = self.links.get(&link) {
                let change = Change::CloseSession { volume: opened.volume, client: party.client, generation: opened.generation };
                // Without room for it the session stays with a client that may always take it back.
                let _ = self.propose(change, Pending::Nothing, out);
            }
        }
    }

    fn list(&self, client: ClientId) -> Vec<VolumeLine> {
        let line = |id: VolumeId| {
            let mut view = self.cluster.volume_view_for(id, client)?;
            for session in &mut view.sessions {
                session.ticket = Ticket::default();
            }
            Some(VolumeLine { busy: self.holder_but(id, client), volume: view })
        };
        self.cluster.volumes().filter_map(|(id, _)| line(id)).collect()
    }

    /// Who else holds a volume so that it cannot be opened exclusively.
    fn holder_but(&self, id: VolumeId, client: ClientId) -> Option<String> {
        let blocks = |mode: SessionMode| match mode {
            SessionMode::Exclusive | SessionMode::Shared => true,
            SessionMode::ReadOnly => false,
        };
        let sessions = &self.cluster.volume(id)?.sessions;
        let held = sessions.iter().find(|session| session.client != client && blocks(session.mode) && !self.is_silent(session.client));
        held.map(|session| session.holder.clone())
    }

    /// Whether a client was silent for so long that its sessions are orphaned.
    pub(super) fn is_silent(&self, client: ClientId) -> bool {
        let heard = self.clients.get(&client).map_or(self.started, |seen| seen.heard);
        self.clock.now.since(heard) >= self.options.client_silence
    }

    /// Sessions of a volume whose clients are silent.
    pub(super) fn orphans_of(&self, volume: &str) -> Vec<SessionGeneration> {
        let Some((_, volume)) = self.cluster.volume_by_name(volume) else { return Vec::new() };
        volume.sessions.iter().filter(|session| self.is_silent(session.client)).map(|session| session.generation).collect()
    }

    /// Forgets clients that are silent: not to be known is to be silent since the start, and that is
    /// then long ago.
    pub(super) fn tick_clients(&mut self, out: &mut Outbox<Effect>) {
        let silent: Vec<ClientId> = self.clients.keys().copied().filter(|client| self.is_silent(*client)).collect();
        for client in silent {
            if let Some(link) = self.clients.remove(&client).and_then(|seen| seen.link) {
                self.drop_link(link, out);
            }
        }
    }

    pub(super) fn client_unlinked(&mut self, link: LinkId, client: ClientId) {
        self.opens.retain(|(other, _), _| *other != link);
        if let Some(seen) = self.clients.get_mut(&client).filter(|seen| seen.link == Some(link)) {
            seen.link = None;
        }
    }

    pub(super) fn to_client(&self, link: LinkId, message: MdmToClient, out: &mut Outbox<Effect>) {
        if matches!(self.links.get(&link), Some(Party::Client(_))) {
            out.push(Effect::ToClient { link, message });
        }
    }

    fn refuse_client(&mut self, link: LinkId, reason: String, out: &mut Outbox<Effect>) {
        out.push(Effect::Event(Event::Refused { link, reason: reason.clone() }));
        out.push(Effect::ToClient { link, message: MdmToClient::Refused { reason } });
        self.drop_link(link, out);
    }
}
