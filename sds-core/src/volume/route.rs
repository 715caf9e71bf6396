//! Takes an exchange to its server: route, queue, send; and back to the start after a pause.
//!
//! Invariants: epoch, map version and generation are filled in when the frame is sent, from the newest
//! view; an exchange is in at most one queue, or paused, or on one link.
//!
//! Must not know: what answers mean.

use super::exchange::{Ask, Exchange, State};
use super::interface::{Effect, Event};
use super::server::{LinkState, ServerIndex};
use super::topology::Route;
use super::{Client, Turn};
use crate::buffer::{Buffers, Span};
use crate::checksum::ChecksumList;
use crate::collections::OpId;
use crate::id::{ConnectionNumber, MapVersion, RequestId};
use crate::machine::LinkId;
use crate::protocol::lease::Terms;
use crate::unit::Nanos;
use crate::wire::{Flags, Frame, Header, Opcode};

/// Pause of an exchange that a server told to wait: the first; the longest while a failover may be the reason, which is what the
/// client adds to it at most; the longest after.
const PAUSE_FIRST: Nanos = Nanos::from_millis(2);
const PAUSE_FAILOVER_MAX: Nanos = Nanos::from_millis(32);
const PAUSE_MAX: Nanos = Nanos::from_millis(100);
/// Pauses of a failover: two seconds in all, more than the grace that a promoted copy waits out.
const PAUSES_FAILOVER: u8 = 66;
const _: () = assert!(
    PAUSE_FAILOVER_MAX.get() * (PAUSES_FAILOVER as u64 - 5) > Terms::DEFAULT.grace.get() + Terms::DEFAULT.lease.get() / 2,
    "a failover is over before the pauses grow"
);
/// How long to wait for a newer view before the server is asked again all the same.
const VIEW_WAIT_MAX: Nanos = Nanos::from_millis(1000);
/// When to say that requests wait for a server, first and from then on.
pub(super) const TELL_FIRST: Nanos = Nanos::from_millis(1000);
pub(super) const TELL_EVERY: Nanos = Nanos::from_millis(10_000);

impl Client {
    /// Where an exchange goes by the newest view.
    pub(super) fn route_of(&self, exchange: &Exchange) -> Option<Route> {
        match exchange.ask {
            Ask::Flush { shard, .. } => {
                let session = self.sessions.get(&exchange.volume)?;
                self.topology.route_shard(session.pool, shard)
            }
            Ask::Read | Ask::Write { .. } | Ask::Fragment { .. } | Ask::Zero { .. } | Ask::Status => {
                let session = self.sessions.get(&exchange.volume)?;
                self.topology.route(session.pool, session.tree, exchange.extent)
            }
        }
    }

    /// Routes an exchange and sends it, or queues it.
    pub(super) fn submit(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        if self.is_given_up(exchange.request) {
            self.ending.push(exchange.request);
            self.set_state(id, State::Routing);
            return;
        }
        let Some(route) = self.route_of(exchange) else {
            self.pause(id, MapVersion::new(0), turn);
            return;
        };
        self.set_state(id, State::Queued(route.server));
        self.servers.get_mut(route.server).queue.push_back(id);
        self.pump(route.server, turn);
    }

    pub(super) fn set_state(&mut self, id: OpId, state: State) {
        if let Some(exchange) = self.exchanges.get_mut(id) {
            exchange.state = state;
        }
    }

    /// Sends what a server's link takes; if there is no link, sees to it that there will be one.
    pub(super) fn pump(&mut self, index: ServerIndex, turn: &mut Turn<'_, impl Buffers>) {
        while let Some((link, number)) = self.servers.get(index).sendable() {
            let Some(id) = self.servers.get_mut(index).queue.pop_front() else { return };
            let Some(exchange) = self.exchanges.get(id).filter(|exchange| exchange.state == State::Queued(index)) else { continue };
            match self.route_of(exchange) {
                Some(route) if route.server == index => self.send(id, link, number, route, turn),
                // The view has moved it since it was queued.
                Some(_) | None => {
                    self.set_state(id, State::Routing);
                    self.submit(id, turn);
                }
            }
        }
        if self.servers.get(index).queue.is_empty() {
            return;
        }
        match self.servers.get(index).state {
            LinkState::Down { not_before } if turn.now >= not_before => self.connect(index, turn),
            LinkState::Down { not_before } => self.wake_by(not_before),
            LinkState::Connecting | LinkState::Greeting { .. } => {}
            LinkState::Ready { .. } => return,
        }
        let server = self.servers.get_mut(index);
        if server.tell_at == Nanos::NEVER {
            server.tell_at = turn.now.plus(if server.told { TELL_EVERY } else { TELL_FIRST });
        }
        let tell_at = server.tell_at;
        self.wake_by(tell_at);
    }

    fn connect(&mut self, index: ServerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let server = self.servers.get_mut(index);
        server.state = LinkState::Connecting;
        turn.out.push(Effect::Connect { sds: server.id, addresses: server.addresses.clone() });
    }

    fn send(&mut self, id: OpId, link: LinkId, number: ConnectionNumber, route: Route, turn: &mut Turn<'_, impl Buffers>) {
        let map_version = self.topology.version();
        let device = self.topology.device_id(route.device);
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let Some(session) = self.sessions.get(&exchange.volume) else { return };
        exchange.state = State::Sent(route.server);
        (exchange.device, exchange.shard, exchange.epoch, exchange.sent_at) = (route.device, route.shard, route.epoch, map_version);
        let header = Header {
            connection: number,
            request: RequestId::new(id.bits()),
            generation: session.generation,
            volume: exchange.volume,
            extent: exchange.extent,
            offset: exchange.offset,
            length: exchange.len,
            epoch: route.epoch,
            map_version,
            shard: route.shard,
            device,
            ..Header::new(Opcode::Read)
        };
        let frame = frame(header, exchange.ask, turn.buffers);
        self.servers.get_mut(route.server).outstanding += 1;
        self.note_sent(route.server, turn.now);
        turn.out.push(Effect::Send { link, frame });
    }

    /// Tries an exchange again after a while, or as soon as there is a view of that version.
    pub(super) fn pause(&mut self, id: OpId, at_least: MapVersion, turn: &mut Turn<'_, impl Buffers>) {
        let version = self.topology.version();
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        let longest = if exchange.pauses < PAUSES_FAILOVER { PAUSE_FAILOVER_MAX } else { PAUSE_MAX };
        let pause = if at_least > version { VIEW_WAIT_MAX } else { Nanos::new(PAUSE_FIRST.get() << exchange.pauses.min(6)).min(longest) };
        exchange.pauses = exchange.pauses.saturating_add(1);
        let until = turn.now.plus(pause);
        exchange.state = State::Paused { until, at_least };
        self.paused.push(id);
        self.wake_by(until);
    }

    /// Tries those whose pause is over.
    pub(super) fn pause_timers(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let now = turn.now;
        self.resume(|until, _| until <= now, turn);
    }

    fn resume(&mut self, over: impl Fn(Nanos, MapVersion) -> bool, turn: &mut Turn<'_, impl Buffers>) {
        // Trying again may pause again, at the end of the list: those are not looked at now.
        let mut kept = 0;
        for index in 0..self.paused.len() {
            let id = self.paused[index];
            let Some(State::Paused { until, at_least }) = self.exchanges.get(id).map(|exchange| exchange.state) else { continue };
            if over(until, at_least) {
                self.set_state(id, State::Routing);
                self.unblocked.push(id);
            } else {
                self.wake_by(until);
                self.paused[kept] = id;
                kept += 1;
            }
        }
        self.paused.truncate(kept);
        self.submit_unblocked(turn);
    }

    /// A newer view: everything not sent is routed anew, and what was sent to a server that is not asked for it any more is sent
    /// again where it is: what it was sent for can no longer land there and count (I3, I10). A late answer is to no question.
    pub(super) fn reroute(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        for index in self.servers.indices() {
            self.unqueue(index);
        }
        let moved = |exchange: &Exchange| match exchange.state {
            State::Sent(server) => self.route_of(exchange).is_some_and(|route| route.server != server),
            State::Blocked | State::Routing | State::Queued(_) | State::Paused { .. } => false,
        };
        let mut moved: Vec<(u64, OpId)> =
            self.exchanges.iter().filter(|(_, exchange)| moved(exchange)).map(|(id, exchange)| (exchange.serial, id)).collect();
        moved.sort_unstable();
        for (_, id) in moved {
            self.set_state(id, State::Routing);
            self.unblocked.push(id);
        }
        self.submit_unblocked(turn);
        let version = self.topology.version();
        self.resume(|_, at_least| at_least <= version, turn);
        self.connect_sooner(turn);
    }

    /// What a newer view says may be that a server is back: those that are needed are tried soon, however long they were away.
    fn connect_sooner(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let first_pause = self.options.reconnect_pause.0;
        let soon = turn.now.plus(first_pause);
        for index in self.servers.indices() {
            let server = self.servers.get_mut(index);
            if let LinkState::Down { not_before } = &mut server.state
                && *not_before > soon
                && !server.queue.is_empty()
            {
                *not_before = soon;
                server.pause = first_pause;
                self.wake_by(soon);
            }
        }
    }

    /// Takes what waits for a server out of its queue, to be routed anew, in its order.
    pub(super) fn unqueue(&mut self, index: ServerIndex) {
        while let Some(id) = self.servers.get_mut(index).queue.pop_front() {
            let Some(exchange) = self.exchanges.get_mut(id) else { continue };
            exchange.state = State::Routing;
            self.unblocked.push(id);
        }
    }

    /// Takes the exchanges that have ended out of the queues, so that queues stay bounded by what is
    /// in flight.
    pub(super) fn drop_ended(&mut self) {
        for index in self.servers.indices() {
            let exchanges = &self.exchanges;
            self.servers.get_mut(index).queue.retain(|id| exchanges.get(*id).is_some());
        }
        let exchanges = &self.exchanges;
        self.paused.retain(|id| exchanges.get(*id).is_some());
    }

    /// Says who is waited for.
    pub(super) fn tell_waiting(&mut self, index: ServerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let server = self.servers.get_mut(index);
        if matches!(server.state, LinkState::Ready { draining: false, .. }) || server.queue.is_empty() {
            server.tell_at = Nanos::NEVER;
            return;
        }
        if turn.now >= server.tell_at {
            server.told = true;
            server.tell_at = turn.now.plus(TELL_EVERY);
            let waiting = Event::Waiting { sds: server.id, requests: server.queue.len() };
            turn.out.push(Effect::Event(waiting));
        }
        let tell_at = server.tell_at;
        self.wake_by(tell_at);
    }
}

/// The frame for an exchange; it takes one more use of the payload's buffer, so that the bytes stay
/// until the request is complete and can be sent again.
fn frame(header: Header, ask: Ask, buffers: &mut impl Buffers) -> Frame {
    let durable = |durable: bool| if durable { Flags::DURABLE } else { Flags::NONE };
    let mut payload = |opcode, span: Span, checksums: ChecksumList, flags| {
        buffers.retain(span.buffer);
        Frame::with_payload(Header { opcode, flags, ..header }, span, checksums)
    };
    match ask {
        Ask::Read => Frame::bare(Header { opcode: Opcode::Read, ..header }),
        Ask::Write { span, checksums, durable: asked } => payload(Opcode::Write, span, checksums, durable(asked)),
        Ask::Fragment { span, checksums, durable: asked } => payload(Opcode::WriteFragment, span, checksums, durable(asked)),
        Ask::Zero { trim, durable: asked } => {
            let flags = durable(asked).with(if trim { Flags::TRIM } else { Flags::NONE });
            Frame::bare(Header { opcode: Opcode::Zero, flags, ..header })
        }
        Ask::Status => Frame::bare(Header { opcode: Opcode::BlockStatus, ..header }),
        Ask::Flush { .. } => Frame::bare(Header { opcode: Opcode::Flush, ..header }),
    }
}
