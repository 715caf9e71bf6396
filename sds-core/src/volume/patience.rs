//! Requests that may not wait for ever: how a session with an `io_timeout` gives them up.
//!
//! A request that was given up is answered `NotReady`, and nothing of it is sent any more. What *was* sent may land yet: it keeps its
//! place among the changes of its blocks, so that a later change of them is not undone by it, until its answer comes, its link
//! breaks (the next connection has a higher number, I10) or it would be sent again. Until then it takes its place in the
//! table, which bounds how many there are.
//!
//! Invariants: a request is answered once; without an `io_timeout` nothing here does anything.
//!
//! Must not know: why a request waits.

use super::exchange::{Exchange, State};
use super::interface::{Effect, Event};
use super::request::Origin;
use super::{Client, Turn};
use crate::buffer::Buffers;
use crate::collections::OpId;
use crate::error::Status;
use crate::id::VolumeId;
use crate::unit::Nanos;

impl Client {
    /// A request was taken.
    pub(super) fn note_patience(&mut self, volume: VolumeId, now: Nanos) {
        if let Some(limit) = self.sessions.get(&volume).and_then(|session| session.io_timeout) {
            self.wake_by(now.plus(limit));
        }
    }

    /// Whether nothing more is to be sent for a request.
    pub(super) fn is_given_up(&self, request: OpId) -> bool {
        self.requests.get(request).is_some_and(|request| request.given_up)
    }

    /// Gives up what has waited for too long.
    pub(super) fn patience_timers(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if self.sessions.values().all(|session| session.io_timeout.is_none()) {
            return;
        }
        let mut next = Nanos::NEVER;
        for (id, request) in self.requests.iter() {
            let limit = self.sessions.get(&request.volume).and_then(|session| session.io_timeout);
            match limit.filter(|_| !request.given_up).map(|limit| request.since.plus(limit)) {
                Some(at) if at <= turn.now => self.ending.push(id),
                Some(at) => next = next.min(at),
                None => {}
            }
        }
        let mut told: Option<VolumeId> = None;
        for id in &self.ending {
            let Some(request) = self.requests.get_mut(*id) else { continue };
            // In the list already: something of it came back in this step.
            if core::mem::replace(&mut request.given_up, true) {
                continue;
            }
            request.error.get_or_insert(Status::NotReady);
            match request.origin {
                Origin::User(token) => turn.out.push(Effect::Complete { token, result: Err(Status::NotReady) }),
                Origin::Closing => {}
            }
            if told != Some(request.volume) {
                told = Some(request.volume);
                turn.out.push(Effect::Event(Event::TimedOut { volume: request.volume }));
            }
        }
        self.wake_by(next);
        if told.is_some() {
            self.look_at_silent();
        }
    }

    /// Links that were kept for what has been given up need not wait for their next turn.
    fn look_at_silent(&mut self) {
        for index in self.servers.indices() {
            let server = self.servers.get_mut(index);
            if server.told && server.silent_at < Nanos::NEVER {
                server.silent_at = Nanos::ZERO;
            }
        }
    }

    /// Ends what is not on a link of requests that were given up.
    pub(super) fn end_given_up(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if self.ending.is_empty() {
            return;
        }
        while let Some(request) = self.ending.pop() {
            // Ending one may free others, of requests that are on the list themselves.
            while let Some(id) = self.unsent_of(request) {
                self.finish(id, Err(Status::NotReady), turn);
            }
        }
        self.drop_ended();
    }

    fn unsent_of(&self, request: OpId) -> Option<OpId> {
        let unsent = |exchange: &Exchange| exchange.request == request && !matches!(exchange.state, State::Sent(_));
        self.exchanges.iter().find(|(_, exchange)| unsent(exchange)).map(|(id, _)| id)
    }
}
