//! One client: splits, routes, retries and fences the I/O of its volumes.
//!
//! A user's request becomes one *exchange* (a frame and its answer), or, for zeroes and flushes, one
//! an extent or device. The way of an exchange:
//!
//! ```text
//! accept ─► order (earlier changes of the same blocks first) ─► route ─► server's queue ─► link
//!                                                  ▲                          │ link lost: again, in order
//!                                                  └── pause (newer map) ◄────┴─► answer ─► request complete
//! ```
//!
//! Invariants:
//! - a request ends in exactly one `Complete`, and everything that can be retried has been: a server
//!   that cannot be reached is waited for ([`interface::Event::Waiting`] says so), without limit unless the session has an `io_timeout`;
//! - a retried change is in flight alone among those that share a block with it, and only on the
//!   newest connection (I10; [`order`] says why both are needed);
//! - nothing is sent in a session that is known to be fenced (I3), and each frame names the newest
//!   epoch known (I2 is the server's);
//! - tables and queues are bounded by [`ClientOptions::requests_max`]; a warm machine does not allocate.
//!
//! Must not know: sockets, NBD, how the bytes of a request are put together from pieces.

pub mod interface;
pub mod piece;

mod dirty;
mod exchange;
mod link;
mod mdm;
mod order;
mod patience;
mod reply;
mod request;
mod route;
mod server;
mod session;
mod silence;
mod stuck;
mod topology;
mod trouble;

#[cfg(test)]
mod tests;

pub use server::{LinkStatus, ServerStatus};
pub use stuck::{Stuck, WaitsFor};

use crate::buffer::Buffers;
use crate::collections::{Map, OpId, SlotTable};
use crate::id::{MapVersion, VolumeId};
use crate::limits::{VOLUME_FANOUT_MAX, VOLUME_REQUESTS_MAX};
use crate::machine::Outbox;
use crate::unit::Nanos;
use exchange::Exchange;
use interface::{ClientOptions, Effect, Input, OpenVolume};
use mdm::{Mdm, Question};
use order::Order;
use request::UserRequest;
use server::Servers;
use session::{Session, Terms};
use topology::Topology;
use trouble::Troubles;

/// Flushes of closing sessions that may run beside the users' requests.
const CLOSING_FLUSHES_MAX: usize = 16;

/// The client machine.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
    topology: Topology,
    servers: Servers,
    mdm: Mdm,
    questions: Vec<Question>,
    next_question: u64,
    sessions: Map<VolumeId, Session>,
    requests: SlotTable<UserRequest>,
    /// Those of `requests` that a user made (the others flush closing sessions).
    user_requests: usize,
    exchanges: SlotTable<Exchange>,
    /// Exchanges that may still be made beyond one a request.
    spare: usize,
    order: Order,
    /// Exchanges in `State::Paused`.
    paused: Vec<OpId>,
    /// Exchanges whose last blocker is gone, to be routed before the step ends.
    unblocked: Vec<OpId>,
    /// Requests that were given up, of which something unsent may be left. Empty between steps.
    ending: Vec<OpId>,
    next_connection: u64,
    next_serial: u64,
    /// Newest version asked for.
    pulled: MapVersion,
    /// Not after the first thing that has a time.
    wake_at: Nanos,
    stale_answers: u64,
    /// Devices that do not serve.
    troubles: Troubles,
}

/// What one step may use.
struct Turn<'a, B> {
    now: Nanos,
    buffers: &'a mut B,
    out: &'a mut Outbox<Effect>,
}

impl Client {
    /// A client that knows nothing yet.
    ///
    /// # Panics
    /// If `requests_max` is zero or above [`VOLUME_REQUESTS_MAX`].
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        assert!((1..=VOLUME_REQUESTS_MAX).contains(&options.requests_max), "a client may hold 1 to {VOLUME_REQUESTS_MAX} requests");
        let requests = options.requests_max + CLOSING_FLUSHES_MAX;
        let exchanges = requests + VOLUME_FANOUT_MAX;
        Self {
            topology: Topology::default(),
            servers: Servers::new(options.reconnect_pause.0, exchanges),
            mdm: Mdm::Down,
            questions: Vec::new(),
            next_question: 1,
            sessions: Map::default(),
            requests: SlotTable::with_capacity(requests),
            user_requests: 0,
            exchanges: SlotTable::with_capacity(exchanges),
            spare: VOLUME_FANOUT_MAX,
            order: Order::with_capacity(exchanges),
            paused: Vec::with_capacity(exchanges),
            unblocked: Vec::with_capacity(exchanges),
            ending: Vec::new(),
            next_connection: options.first_connection,
            next_serial: 0,
            pulled: MapVersion::new(0),
            wake_at: Nanos::NEVER,
            stale_answers: 0,
            troubles: Troubles::default(),
            options,
        }
    }

    /// The one entry; see [`crate::machine`].
    pub fn step(&mut self, now: Nanos, input: Input<'_>, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        let turn = &mut Turn { now, buffers, out };
        match input {
            Input::Mdm { up } => self.mdm_changed(up, turn),
            Input::Control(message) => self.hear(message, turn),
            Input::Open { token, volume, mode, force, io_timeout } => self.open(token, volume, Terms { mode, force, io_timeout }, turn),
            Input::Close { token, volume } => self.close(token, volume, turn),
            Input::List { token } => self.list(token, turn),
            Input::Request { token, volume, request } => self.accept(token, volume, request, turn),
            Input::Linked { sds, link } => self.linked(sds, link, turn),
            Input::ConnectFailed { sds } => self.connect_failed(sds, turn),
            Input::Unlinked { link } => self.unlinked(link, turn),
            Input::Frame { link, frame } => self.frame(link, frame, turn),
            Input::Wake => {}
        }
        if now >= self.wake_at {
            self.run_timers(turn);
        }
        self.end_given_up(turn);
    }

    /// When to call `step` with [`Input::Wake`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        (self.wake_at < Nanos::NEVER).then_some(self.wake_at)
    }

    /// How many more requests it takes now; with none, stop reading from the users.
    #[must_use]
    pub fn free_requests(&self) -> usize {
        self.options.requests_max - self.user_requests
    }

    /// Requests taken and not completed.
    #[must_use]
    pub const fn requests_in_flight(&self) -> usize {
        self.user_requests
    }

    /// Age of the oldest request. Looks at all of them: for status pages.
    #[must_use]
    pub fn oldest_request(&self, now: Nanos) -> Option<Nanos> {
        self.requests.iter().map(|(_, request)| now.since(request.since)).max()
    }

    /// Volumes open now.
    pub fn volumes(&self) -> impl Iterator<Item = OpenVolume> {
        self.sessions.values().filter_map(Session::as_open)
    }

    /// An open volume as it is now (its size may have grown).
    #[must_use]
    pub fn volume(&self, volume: VolumeId) -> Option<OpenVolume> {
        self.sessions.get(&volume).and_then(Session::as_open)
    }

    /// Servers known, and how it stands with each.
    pub fn servers(&self) -> impl Iterator<Item = ServerStatus> {
        self.servers.iter().map(server::Server::status)
    }

    /// Version of the newest view.
    #[must_use]
    pub const fn map_version(&self) -> MapVersion {
        self.topology.version()
    }

    /// Whether the MDM is connected and has accepted this client.
    #[must_use]
    pub const fn mdm_is_up(&self) -> bool {
        match self.mdm {
            Mdm::Up { .. } => true,
            Mdm::Down | Mdm::Greeting => false,
        }
    }

    /// Answers that came for nothing in flight (of sessions fenced meanwhile), or were malformed.
    #[must_use]
    pub const fn stale_answers(&self) -> u64 {
        self.stale_answers
    }

    /// Connection number that the next connection will get: keep it for `first_connection`.
    #[must_use]
    pub const fn next_connection(&self) -> u64 {
        self.next_connection
    }

    fn wake_by(&mut self, at: Nanos) {
        self.wake_at = self.wake_at.min(at);
    }

    fn run_timers(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        self.wake_at = Nanos::NEVER;
        self.mdm_timers(turn);
        self.patience_timers(turn);
        self.pause_timers(turn);
        self.link_timers(turn);
    }
}
