//! Links to servers: connecting, greeting, losing them.
//!
//! Invariants: every connection gets a number above all before it (I10); on the loss of a link all that
//! was sent on it and is unanswered goes back to the head of the queue, in the order it was made, and
//! is sent again on the next; a server is tried again after a pause that grows, never given up.

use super::exchange::State;
use super::interface::{Effect, Event};
use super::server::{LinkState, ServerIndex};
use super::{Client, Turn};
use crate::buffer::Buffers;
use crate::collections::OpId;
use crate::error::Status;
use crate::id::{ConnectionNumber, SdsId};
use crate::machine::LinkId;
use crate::unit::Nanos;
use crate::wire::{Body, CacheIds, Frame, Header, Hello, Opcode, PROTOCOL_VERSION, Party};

/// How long a server may take to answer the greeting.
const GREETING_MAX: Nanos = Nanos::from_millis(5000);

impl Client {
    pub(super) fn linked(&mut self, sds: SdsId, link: LinkId, turn: &mut Turn<'_, impl Buffers>) {
        let awaited = self.servers.find(sds).filter(|index| self.servers.get(*index).state == LinkState::Connecting);
        let (Some(index), Some(system)) = (awaited, self.topology.system()) else {
            turn.out.push(Effect::CloseLink { link });
            return;
        };
        let number = ConnectionNumber::new(self.next_connection);
        self.next_connection += 1;
        let give_up_at = turn.now.plus(GREETING_MAX);
        self.wake_by(give_up_at);
        self.servers.link(link, index);
        self.servers.get_mut(index).state = LinkState::Greeting { link, number, give_up_at };
        let party = Party::Client { client: self.options.client, ticket: self.options.ticket };
        let header = Header { connection: number, map_version: self.topology.version(), ..Header::new(Opcode::Hello) };
        let frame = Frame { header, cache_ids: CacheIds::NONE, body: Body::Hello(Hello::ours(system, party)) };
        turn.out.push(Effect::Send { link, frame });
    }

    pub(super) fn connect_failed(&mut self, sds: SdsId, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(index) = self.servers.find(sds).filter(|index| self.servers.get(*index).state == LinkState::Connecting) {
            self.link_failed(index, turn);
        }
    }

    pub(super) fn unlinked(&mut self, link: LinkId, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(index) = self.servers.unlink(link) {
            self.link_failed(index, turn);
        }
    }

    /// Closes a link of ours and goes on without it.
    pub(super) fn drop_link(&mut self, link: LinkId, turn: &mut Turn<'_, impl Buffers>) {
        turn.out.push(Effect::CloseLink { link });
        self.unlinked(link, turn);
    }

    fn link_failed(&mut self, index: ServerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let longest = self.options.reconnect_pause.1;
        let server = self.servers.get_mut(index);
        server.state = LinkState::Down { not_before: turn.now.plus(server.pause) };
        server.pause = Nanos::new(server.pause.get().saturating_mul(2)).min(longest);
        server.outstanding = 0;
        server.silent_at = Nanos::NEVER;
        self.requeue_sent(index);
        self.unqueue(index);
        self.submit_unblocked(turn);
        self.pump(index, turn);
    }

    /// What was sent and is unanswered goes back to the head of the queue; where the view has moved it
    /// meanwhile, it is taken on from there.
    fn requeue_sent(&mut self, index: ServerIndex) {
        let sent = self.exchanges.iter().filter(|(_, exchange)| exchange.state == State::Sent(index));
        let mut sent: Vec<(u64, OpId)> = sent.map(|(id, exchange)| (exchange.serial, id)).collect();
        sent.sort_unstable();
        for (_, id) in sent.into_iter().rev() {
            self.set_state(id, State::Queued(index));
            self.servers.get_mut(index).queue.push_front(id);
        }
    }

    pub(super) fn greeted(&mut self, index: ServerIndex, header: &Header, turn: &mut Turn<'_, impl Buffers>) {
        let LinkState::Greeting { link, number, .. } = self.servers.get(index).state else {
            self.stale_answers += 1;
            return;
        };
        if header.status != Status::Ok || header.length != u32::from(PROTOCOL_VERSION) {
            if header.status == Status::Invalid {
                // The highest number this server has seen of us: our clock may have gone back.
                self.next_connection = self.next_connection.max(header.connection.get().saturating_add(1));
            }
            let waits_for_map = matches!(header.status, Status::NotReady | Status::MapStale);
            if !waits_for_map {
                let sds = self.servers.get(index).id;
                turn.out.push(Effect::Event(Event::LinkRefused { sds, status: header.status }));
            }
            self.drop_link(link, turn);
            return;
        }
        let first_pause = self.options.reconnect_pause.0;
        let server = self.servers.get_mut(index);
        server.state = LinkState::Ready { link, number, draining: false };
        server.pause = first_pause;
        server.tell_at = Nanos::NEVER;
        if core::mem::take(&mut server.told) {
            let reached = Event::Reached { sds: server.id };
            turn.out.push(Effect::Event(reached));
        }
        self.pump(index, turn);
    }

    /// The server stops: nothing more on this link; when the rest is answered, it is let go.
    pub(super) fn server_stops(&mut self, index: ServerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let server = self.servers.get_mut(index);
        if let LinkState::Ready { link, number, .. } = server.state {
            server.state = LinkState::Ready { link, number, draining: true };
            if server.outstanding == 0 {
                self.drop_link(link, turn);
            }
        }
    }

    pub(super) fn link_timers(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        for index in self.servers.indices() {
            match self.servers.get(index).state {
                LinkState::Greeting { link, give_up_at, .. } if turn.now >= give_up_at => self.drop_link(link, turn),
                LinkState::Greeting { give_up_at, .. } => self.wake_by(give_up_at),
                LinkState::Down { .. } => self.pump(index, turn),
                LinkState::Ready { .. } => self.silence_timer(index, turn),
                LinkState::Connecting => {}
            }
            self.tell_waiting(index, turn);
        }
    }
}
