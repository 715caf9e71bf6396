//! Links and who is at their other end.
//!
//! A link must say hello within [`HELLO_WAIT`]; its client must be known by id and ticket, or its peer by
//! its server id and life; and of one party's links only the one with the highest connection number lives (I10): a higher number closes
//! the lower link at once, but is answered only when everything the closed one had in the store is
//! resolved. A party sends nothing between its hello and the answer.
//!
//! Must not know: what requests do.

use super::interface::{Effect, Event};
use crate::collections::Map;
use crate::error::Status;
use crate::id::{ClientId, ConnectionNumber, Incarnation, MapVersion, SdsId};
use crate::machine::{LinkId, Outbox};
use crate::protocol::fence::{self, ConnectionFence};
use crate::unit::Nanos;
use crate::wire::{Frame, Header, Hello, Opcode, PROTOCOL_VERSION};
use std::collections::VecDeque;

/// How long a new link may take to say hello.
pub(super) const HELLO_WAIT: Nanos = Nanos::from_millis(10_000);

/// Who is at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PartyId {
    /// A client.
    Client(ClientId),
    /// A data server, with writes of shards that it is the primary of.
    Peer(SdsId),
}

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Has said nothing yet.
    New,
    /// Said hello; the view does not know its client (yet).
    Asking { hello: Hello, header: Header },
    /// Let in; requests of the client's former link are still in the store.
    Waiting { party: PartyId, header: Header },
    /// Let in and told so.
    Serving { party: PartyId, connection: ConnectionNumber },
}

/// A link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) state: LinkState,
    /// When it is dropped (`New`) or answered (`Asking`) at the latest.
    deadline: Nanos,
    /// Requests accepted and not answered.
    pub(super) outstanding: usize,
}

/// What is remembered of a party that has been let in.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Of a client 0: its numbers rise over all its lives.
    life: Incarnation,
    highest: ConnectionNumber,
    link: Option<LinkId>,
    /// Requests of closed links that are still in the store.
    unresolved: usize,
}

/// What letting a client in came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Its number is not above `highest`.
    TooLow { highest: ConnectionNumber },
    /// It is the party's link now; `former` was, and is to be closed.
    In { former: Option<LinkId> },
}

/// All links and parties.
#[derive(Debug)]
pub(super) struct Links {
    links: Map<LinkId, Link>,
    parties: Map<PartyId, Known>,
    /// Deadlines of links that came, and of hellos that were kept, each in order; outdated once a
    /// link has moved on, gone with the link.
    hello_due: VecDeque<(Nanos, LinkId)>,
    answer_due: VecDeque<(Nanos, LinkId)>,
    links_max: usize,
}

impl Links {
    pub(super) fn new(links_max: usize) -> Self {
        Self { links: Map::default(), parties: Map::default(), hello_due: VecDeque::new(), answer_due: VecDeque::new(), links_max }
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// A party connected; `false` when there are too many.
    pub(super) fn add(&mut self, link: LinkId, now: Nanos) -> bool {
        if self.links.len() >= self.links_max {
            return false;
        }
        let deadline = now.plus(HELLO_WAIT);
        self.links.insert(link, Link { state: LinkState::New, deadline, outstanding: 0 });
        self.hello_due.push_back((deadline, link));
        true
    }

    pub(super) fn get(&self, link: LinkId) -> Option<&Link> {
        self.links.get(&link)
    }

    pub(super) fn get_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&link)
    }

    /// Forgets a link. Its requests are the caller's to look after.
    pub(super) fn remove(&mut self, link: LinkId) -> Option<Link> {
        let gone = self.links.remove(&link)?;
        self.hello_due.retain(|(_, due)| *due != link);
        self.answer_due.retain(|(_, due)| *due != link);
        match gone.state {
            LinkState::New | LinkState::Asking { .. } => {}
            LinkState::Waiting { party, .. } | LinkState::Serving { party, .. } => {
                if let Some(known) = self.parties.get_mut(&party)
                    && known.link == Some(link)
                {
                    known.link = None;
                }
            }
        }
        Some(gone)
    }

    /// Keeps a hello until its client is known.
    pub(super) fn ask(&mut self, link: LinkId, hello: Hello, header: Header, deadline: Nanos) {
        if let Some(kept) = self.links.get_mut(&link) {
            kept.state = LinkState::Asking { hello, header };
            kept.deadline = deadline;
            self.answer_due.push_back((deadline, link));
        }
    }

    /// The links that wait for their client to become known.
    pub(super) fn asking(&self) -> Vec<(LinkId, Hello, Header)> {
        let mut asking: Vec<_> = self
            .links
            .iter()
            .filter_map(|(id, link)| match link.state {
                LinkState::Asking { hello, header } => Some((*id, hello, header)),
                LinkState::New | LinkState::Waiting { .. } | LinkState::Serving { .. } => None,
            })
            .collect();
        asking.sort_unstable_by_key(|(id, ..)| *id);
        asking
    }

    /// Lets a known party in over a link, if its connection number is higher than all before in its life (I10),
    /// and its life is not a former one (I3).
    pub(super) fn enter(&mut self, link: LinkId, party: PartyId, life: Incarnation, header: Header) -> Entry {
        let known = self.parties.entry(party).or_default();
        let newer_life = life > known.life;
        if life < known.life || !(newer_life || fence::connection(known.highest, header.connection) == ConnectionFence::Newer) {
            return Entry::TooLow { highest: known.highest };
        }
        (known.life, known.highest) = (life, header.connection);
        let former = known.link.replace(link);
        if let Some(entered) = self.links.get_mut(&link) {
            entered.state = LinkState::Waiting { party, header };
        }
        Entry::In { former }
    }

    /// A party's link, once it is let in, and the life it is of.
    pub(super) fn of(&self, party: PartyId) -> Option<(LinkId, Incarnation)> {
        let known = self.parties.get(&party)?;
        known.link.map(|link| (link, known.life))
    }

    /// The link of a party that waits and may be served now: nothing of the party is unresolved.
    pub(super) fn ready(&mut self, party: PartyId) -> Option<(LinkId, Header)> {
        let known = self.parties.get(&party)?;
        if known.unresolved > 0 {
            return None;
        }
        let id = known.link?;
        let link = self.links.get_mut(&id)?;
        match link.state {
            LinkState::Waiting { party, header } => {
                link.state = LinkState::Serving { party, connection: header.connection };
                Some((id, header))
            }
            LinkState::New | LinkState::Asking { .. } | LinkState::Serving { .. } => None,
        }
    }

    /// A request in the store has lost its link.
    pub(super) fn orphaned(&mut self, party: PartyId) {
        self.parties.entry(party).or_default().unresolved += 1;
    }

    /// Such a request is resolved.
    pub(super) fn resolved(&mut self, party: PartyId) {
        let Some(known) = self.parties.get_mut(&party) else { unreachable!("a party with unresolved requests is remembered") };
        assert!(known.unresolved > 0, "I10: resolved once for each orphaned request");
        known.unresolved -= 1;
    }

    /// Forgets clients that nothing remembers: no session, no link, nothing unresolved.
    pub(super) fn forget_clients(&mut self, has_session: impl Fn(ClientId) -> bool) {
        self.parties.retain(|id, known| match id {
            PartyId::Client(client) => known.link.is_some() || known.unresolved > 0 || has_session(*client),
            // There are few, and their former lives must stay fenced.
            PartyId::Peer(_) => true,
        });
    }

    /// A link whose time to say hello, or to be answered, is over.
    pub(super) fn overdue(&mut self, now: Nanos) -> Option<(LinkId, LinkState)> {
        for queue in [&mut self.hello_due, &mut self.answer_due] {
            while let Some((due, id)) = queue.front().copied() {
                if due > now {
                    break;
                }
                queue.pop_front();
                let Some(link) = self.links.get(&id) else { continue };
                match link.state {
                    LinkState::New | LinkState::Asking { .. } if link.deadline <= now => return Some((id, link.state)),
                    LinkState::New | LinkState::Asking { .. } | LinkState::Waiting { .. } | LinkState::Serving { .. } => {}
                }
            }
        }
        None
    }

    /// When [`Self::overdue`] may have something; early for links that have moved on.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let hello = self.hello_due.front().map(|(due, _)| *due);
        let answer = self.answer_due.front().map(|(due, _)| *due);
        [hello, answer].into_iter().flatten().min()
    }
}

/// The answer to a hello.
pub(super) fn hello_reply(request: &Header, status: Status, connection: ConnectionNumber, version: MapVersion) -> Frame {
    let mut header = Header::new(Opcode::HelloReply);
    header.connection = connection;
    header.request = request.request;
    header.status = status;
    header.map_version = version;
    header.length = u32::from(PROTOCOL_VERSION);
    Frame::bare(header)
}

/// Tells that a link is dropped and why.
pub(super) fn refuse(link: LinkId, reason: &'static str, out: &mut Outbox<Effect>) {
    out.push(Effect::Close { link });
    out.push(Effect::Event(Event::LinkRefused { link, reason }));
}
