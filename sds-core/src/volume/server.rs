//! One data server as a client sees it: its link's state, what is outstanding on it, what waits for it.
//!
//! Invariants: at most one link a server; each connection has a number above all before it (I10);
//! requests outstanding on a link never exceed [`REQUESTS_PER_CONNECTION_MAX`], what a fenced session
//! left unanswered included: the count falls only when an answer comes or the link ends.
//!
//! Must not know: what the queued frames say.

use crate::collections::{Map, OpId};
use crate::id::{ConnectionNumber, SdsId};
use crate::limits::REQUESTS_PER_CONNECTION_MAX;
use crate::machine::LinkId;
use crate::unit::Nanos;
use crate::view::SdsView;
use std::collections::VecDeque;

/// A server's number at this client: dense, given once, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServerIndex(usize);

/// How it stands with a server, for status pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkStatus {
    /// Not connected; nothing waits, or the pause before the next try runs.
    Down,
    /// Being connected.
    Connecting,
    /// Connected, the greeting is not answered yet.
    Greeting,
    /// In use.
    Ready,
}

/// One server, for status pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Which.
    pub sds: SdsId,
    /// Its link.
    pub link: LinkStatus,
    /// Requests sent and not answered.
    pub outstanding: usize,
    /// Requests that wait to be sent.
    pub waiting: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Down {
        not_before: Nanos,
    },
    Connecting,
    Greeting {
        link: LinkId,
        number: ConnectionNumber,
        give_up_at: Nanos,
    },
    /// `draining`: the server said that it stops; nothing more is sent on this link.
    Ready {
        link: LinkId,
        number: ConnectionNumber,
        draining: bool,
    },
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) id: SdsId,
    pub(super) addresses: Vec<String>,
    pub(super) state: LinkState,
    /// Pause before the next try, should this one fail.
    pub(super) pause: Nanos,
    /// Frames on the link that have no answer yet.
    pub(super) outstanding: usize,
    /// Frames to send, in order.
    pub(super) queue: VecDeque<OpId>,
    /// When to say (again) that requests wait; `NEVER` while none does.
    pub(super) tell_at: Nanos,
    /// When it will have left everything unanswered for too long; `NEVER` while nothing is.
    pub(super) silent_at: Nanos,
    /// Whether it has been said that requests wait, since the server was last heard.
    pub(super) told: bool,
}

impl Server {
    /// The link and number to send on, if one more frame may be sent now.
    pub(super) fn sendable(&self) -> Option<(LinkId, ConnectionNumber)> {
        match self.state {
            LinkState::Ready { link, number, draining: false } if self.outstanding < REQUESTS_PER_CONNECTION_MAX => Some((link, number)),
            LinkState::Ready { .. } | LinkState::Down { .. } | LinkState::Connecting | LinkState::Greeting { .. } => None,
        }
    }

    pub(super) fn status(&self) -> ServerStatus {
        let link = match self.state {
            LinkState::Down { .. } => LinkStatus::Down,
            LinkState::Connecting => LinkStatus::Connecting,
            LinkState::Greeting { .. } => LinkStatus::Greeting,
            LinkState::Ready { .. } => LinkStatus::Ready,
        };
        ServerStatus { sds: self.id, link, outstanding: self.outstanding, waiting: self.queue.len() }
    }
}

#[derive(Debug)]
pub(super) struct Servers {
    list: Vec<Server>,
    numbers: Map<SdsId, ServerIndex>,
    links: Map<LinkId, ServerIndex>,
    first_pause: Nanos,
    queue_capacity: usize,
}

impl Servers {
    pub(super) fn new(first_pause: Nanos, queue_capacity: usize) -> Self {
        Self { list: Vec::new(), numbers: Map::default(), links: Map::default(), first_pause, queue_capacity }
    }

    /// Takes a server's addresses from the view.
    pub(super) fn learn(&mut self, view: &SdsView) {
        if let Some(index) = self.find(view.id) {
            self.get_mut(index).addresses.clone_from(&view.addresses);
            return;
        }
        let index = ServerIndex(self.list.len());
        self.numbers.insert(view.id, index);
        self.list.push(Server {
            id: view.id,
            addresses: view.addresses.clone(),
            state: LinkState::Down { not_before: Nanos::ZERO },
            pause: self.first_pause,
            outstanding: 0,
            queue: VecDeque::with_capacity(self.queue_capacity),
            tell_at: Nanos::NEVER,
            silent_at: Nanos::NEVER,
            told: false,
        });
    }

    pub(super) fn find(&self, id: SdsId) -> Option<ServerIndex> {
        self.numbers.get(&id).copied()
    }

    pub(super) fn by_link(&self, link: LinkId) -> Option<ServerIndex> {
        self.links.get(&link).copied()
    }

    pub(super) fn link(&mut self, link: LinkId, server: ServerIndex) {
        self.links.insert(link, server);
    }

    pub(super) fn unlink(&mut self, link: LinkId) -> Option<ServerIndex> {
        self.links.remove(&link)
    }

    pub(super) fn get(&self, index: ServerIndex) -> &Server {
        &self.list[index.0]
    }

    pub(super) fn get_mut(&mut self, index: ServerIndex) -> &mut Server {
        &mut self.list[index.0]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Server> {
        self.list.iter()
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = ServerIndex> + use<> {
        (0..self.list.len()).map(ServerIndex)
    }
}
