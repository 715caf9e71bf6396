//! What comes over links: hellos, requests, and what does not belong there.
//!
//! Invariants: nothing of a link is looked at before its hello was accepted; a frame of another
//! connection number than the link's is never served (I10); a buffer that came with a frame that is
//! not served is given back here.

use super::interface::{Effect, Event};
use super::links::{self, Entry, LinkState, PartyId};
use super::request::{Half, Kind, Request, Stage};
use super::{Phase, Replica, Turn};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::error::Status;
use crate::id::{Incarnation, MapVersion};
use crate::limits::REQUESTS_PER_CONNECTION_MAX;
use crate::machine::LinkId;
use crate::wire::{Body, Flags, Frame, Header, Hello, Opcode, Party};

/// Highest connection number that is believed: one more must always be possible.
pub(super) const CONNECTIONS_MAX: u64 = u64::MAX / 2;

impl Replica {
    pub(super) fn take_link(&mut self, link: LinkId, turn: &mut Turn<'_, impl Buffers>) {
        if !self.links.add(link, turn.now) {
            links::refuse(link, "as many links as this server takes are open", turn.out);
        }
    }

    /// The shell says that a link is gone.
    pub(super) fn lose_link(&mut self, link: LinkId, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(index) = self.peers.by_link(link) {
            self.peer_link_failed(index, turn);
        } else if self.links.remove(link).is_some() {
            self.abandon_requests(link, turn);
            self.peers.look_soon();
        }
    }

    /// A link is not to be served any longer.
    pub(super) fn drop_link(&mut self, link: LinkId, reason: &'static str, turn: &mut Turn<'_, impl Buffers>) {
        links::refuse(link, reason, turn.out);
        self.lose_link(link, turn);
    }

    pub(super) fn take_frame(&mut self, link: LinkId, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
        // A frame of a link closed here may have been on its way.
        let Some(known) = self.links.get(link) else {
            return match self.peers.by_link(link) {
                Some(index) => self.take_peer_frame(index, frame, turn),
                None => release_body(frame, turn),
            };
        };
        let reason = match known.state {
            LinkState::New => match (frame.body, frame.check()) {
                (Body::Hello(hello), Ok(())) => return self.take_hello(link, frame.header, hello, turn),
                (Body::Hello(_) | Body::Empty | Body::Payload { .. }, _) => "the first frame is not a hello",
            },
            LinkState::Asking { .. } | LinkState::Waiting { .. } => "a frame came before the hello was answered",
            LinkState::Serving { connection, .. } if frame.header.connection != connection => "a frame of another connection number",
            LinkState::Serving { party, .. } => match (Kind::of(frame.header.opcode), party) {
                (Some(kind), PartyId::Client(_)) if !kind.is_of_peer() => return self.take_request(link, party, kind, frame, turn),
                (Some(kind), PartyId::Peer(sds)) if kind.is_of_peer() => {
                    self.peers.heard(sds, turn.now);
                    return self.take_request(link, party, kind, frame, turn);
                }
                (None, PartyId::Peer(_)) if frame.header.opcode == Opcode::Resolved => {
                    return self.take_resolved(party, &frame.header, turn);
                }
                (None, PartyId::Peer(_)) if frame.header.opcode == Opcode::Beacon => return self.take_beacon(link, party, frame, turn),
                (Some(_) | None, _) => "a frame that is not a request of such a party",
            },
        };
        release_body(frame, turn);
        self.drop_link(link, reason, turn);
    }

    fn take_request(&mut self, link: LinkId, party: PartyId, kind: Kind, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
        let Some(known) = self.links.get_mut(link) else { unreachable!("found above") };
        let of_peer = kind.is_of_peer();
        let own_requests = self.requests.len() - self.peer_requests;
        // A draining server still takes what a peer needs that may have writes of ours in turn.
        let serves = self.phase == Phase::Running || (of_peer && self.phase == Phase::Draining && own_requests > 0);
        let share = self.options.requests_max.max(2);
        let is_full = if of_peer { self.peer_requests >= share } else { own_requests >= share };
        let refusal = if !serves {
            Some(Status::Stopping)
        } else if known.outstanding >= REQUESTS_PER_CONNECTION_MAX || is_full {
            Some(Status::NotReady)
        } else if frame.check().is_err() {
            Some(Status::Invalid)
        } else {
            None
        };
        if let Some(status) = refusal {
            release_body(frame, turn);
            let header = self.reply_header(kind, &frame.header, status);
            turn.out.push(Effect::Send { link, frame: Frame::bare(header) });
            return;
        }
        known.outstanding += 1;
        self.peer_requests += usize::from(of_peer);
        let request = Request {
            kind,
            header: frame.header,
            cache_ids: frame.cache_ids,
            party,
            link: Some(link),
            stage: Stage::New,
            route: None,
            lock: None,
            payload: match frame.body {
                Body::Payload { span, checksums } => Some((span, checksums)),
                Body::Empty | Body::Hello(_) => None,
            },
            verified: false,
            room: None,
            merged: None,
            version: None,
            local: Half::Idle,
            remote: Half::Idle,
            other: None,
            remote_cache: None,
            forward: None,
            other_first: false,
            flushes_left: 0,
            repairs: 0,
        };
        let Ok(op) = self.requests.insert(request) else { unreachable!("looked at above") };
        self.admit(op, None, turn);
    }

    fn take_hello(&mut self, link: LinkId, header: Header, hello: Hello, turn: &mut Turn<'_, impl Buffers>) {
        match self.judge_hello(&header, &hello) {
            Judgement::In(party, life) => self.enter(link, party, life, header, turn),
            Judgement::Out(status, reason) => self.refuse_hello(link, &header, status, reason, turn),
            Judgement::Unknown => {
                self.links.ask(link, hello, header, turn.now.plus(self.options.map_wait));
                if self.identity.is_some() {
                    self.pull(header.map_version.max(self.view.version()), turn);
                }
            }
        }
    }

    fn judge_hello(&self, header: &Header, hello: &Hello) -> Judgement {
        if self.phase != Phase::Running {
            return Judgement::Out(Status::Stopping, "the server is stopping");
        }
        if hello.agreed_version().is_none() {
            return Judgement::Out(Status::Invalid, "no protocol version in common");
        }
        if header.connection.get() == 0 || header.connection.get() > CONNECTIONS_MAX {
            return Judgement::Out(Status::Invalid, "a connection number out of bounds");
        }
        let Some(identity) = self.identity else { return Judgement::Unknown };
        if hello.system != identity.system {
            return Judgement::Out(Status::Invalid, "a party of another system");
        }
        match hello.party {
            Party::Client { client, ticket } if self.view.knows(client, ticket) => {
                Judgement::In(PartyId::Client(client), Incarnation::new(0))
            }
            Party::Peer { addressed, .. } if !self.is_for_us(addressed) => {
                Judgement::Out(Status::MapStale, "a peer that means another life of this server")
            }
            // Only who has the other copy of something here, in the life that the map names.
            Party::Peer { sds, incarnation, .. } if self.view.shares_with(sds, incarnation) => {
                Judgement::In(PartyId::Peer(sds), incarnation)
            }
            Party::Client { .. } | Party::Peer { .. } => Judgement::Unknown,
        }
    }

    /// Looks again at the hellos that wait for their client to become known.
    pub(super) fn ask_again(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        for (link, hello, header) in self.links.asking() {
            match self.judge_hello(&header, &hello) {
                Judgement::In(party, life) => self.enter(link, party, life, header, turn),
                Judgement::Out(status, reason) => self.refuse_hello(link, &header, status, reason, turn),
                Judgement::Unknown => {}
            }
        }
    }

    fn enter(&mut self, link: LinkId, party: PartyId, life: Incarnation, header: Header, turn: &mut Turn<'_, impl Buffers>) {
        match self.links.enter(link, party, life, header) {
            Entry::TooLow { highest } => {
                let frame = links::hello_reply(&header, Status::Invalid, highest, self.view.version());
                turn.out.push(Effect::Send { link, frame });
                self.drop_link(link, "a newer connection of this party was here before", turn);
            }
            Entry::In { former } => {
                if let PartyId::Peer(sds) = party {
                    self.peers.lives(sds);
                }
                if let Some(former) = former.filter(|_| !bugs::is(Bug::FormerConnectionServed)) {
                    self.drop_link(former, "its party has a newer connection", turn);
                }
                self.serve_if_ready(party, turn);
            }
        }
    }

    /// Answers the hello of a party whose former requests are all resolved (I10).
    pub(super) fn serve_if_ready(&mut self, party: PartyId, turn: &mut Turn<'_, impl Buffers>) {
        if let Some((link, header)) = self.links.ready(party) {
            let frame = links::hello_reply(&header, Status::Ok, header.connection, self.view.version());
            turn.out.push(Effect::Send { link, frame });
        }
    }

    pub(super) fn refuse_hello(
        &mut self,
        link: LinkId,
        header: &Header,
        status: Status,
        reason: &'static str,
        turn: &mut Turn<'_, impl Buffers>,
    ) {
        let frame = links::hello_reply(header, status, header.connection, self.view.version());
        turn.out.push(Effect::Send { link, frame });
        self.drop_link(link, reason, turn);
    }

    /// Drops links that said nothing, and answers hellos whose client has not become known, in time.
    pub(super) fn expire_links(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        while let Some((link, state)) = self.links.overdue(turn.now) {
            match state {
                LinkState::New => self.drop_link(link, "no hello came in time", turn),
                LinkState::Asking { header, .. } => {
                    // Fencing takes knowledge at least as new as the client's.
                    let version = self.view.version();
                    let knows_better = version > MapVersion::default() && version >= header.map_version;
                    let status = if knows_better { Status::Fenced } else { Status::NotReady };
                    self.refuse_hello(link, &header, status, "no session of this client and ticket, or no such server", turn);
                }
                LinkState::Waiting { .. } | LinkState::Serving { .. } => unreachable!("only links that wait to enter are overdue"),
            }
        }
    }

    /// Header of the answer to a request.
    pub(super) fn reply_header(&self, kind: Kind, request: &Header, status: Status) -> Header {
        let mut header = *request;
        header.opcode = kind.answer();
        header.flags = Flags::NONE;
        header.status = status;
        header.map_version = self.view.version();
        if kind.is_of_peer() {
            if status == Status::MapStale
                && let Some(pool) = self.view.pool_of(request.device, request.shard)
            {
                header.epoch = self.view.epoch(pool, request.shard);
            }
        } else if status == Status::MapStale
            && let Some(volume) = self.view.volume(request.volume)
        {
            header.epoch = self.view.epoch(volume.pool, request.shard);
        }
        header
    }

    /// Tells the shell that a payload did not match its checksums.
    pub(super) fn tell_damage(link: Option<LinkId>, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(link) = link {
            turn.out.push(Effect::Event(Event::PayloadDamaged { link }));
        }
    }
}

enum Judgement {
    In(PartyId, Incarnation),
    Out(Status, &'static str),
    Unknown,
}

pub(super) fn release_body(frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
    match frame.body {
        Body::Payload { span, .. } => turn.buffers.release(span.buffer),
        Body::Empty | Body::Hello(_) => {}
    }
}
