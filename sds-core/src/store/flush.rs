//! Device flushes: one in flight, shared by all that wait; the flushed position; statements of it.
//!
//! Invariants: a flush vouches only for what had completed when it was sent; a request's flush is
//! sent only once everything acknowledged before the request is resolved, so that the flushed
//! position covers it; a device without a volatile cache is never flushed.
//! What this must not know: what the waiting do afterwards.

use super::interface::{Effect, Outcome, Request};
use super::work::Stage;
use super::{Context, OpId, Purpose, Store};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};

/// Who waits for a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A flush request or a durable write.
    Request(OpId),
    /// The sealer.
    Seal,
    /// The checkpoint.
    Checkpoint,
    /// Freed slots wanted for reuse.
    Reclaim,
}

/// Waiters that are no request: one of each kind.
const WAITERS_OWN: usize = 3;

/// Flushes in flight and wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Flusher {
    /// Everything up to here is durable (a volatile cache; otherwise it is the resolved position).
    pub(super) flushed: u64,
    /// Where the log ended when the store opened.
    pub(super) log_end: u64,
    /// Highest position acknowledged.
    pub(super) acknowledged: u64,
    /// Highest first-write position of a block overwritten before the log vouched for it.
    pub(super) overwritten: u64,
    in_flight: Option<Flight>,
    now: Vec<Waiter>,
    next: Vec<(u64, Waiter)>,
    /// Flush requests that wait until a durable block states this flushed position.
    stating: Vec<(u64, OpId)>,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    resolved: u64,
    stated: u64,
}

impl Flusher {
    /// A device everything of which is durable up to `position`, with room for all that may wait.
    pub(super) fn new(position: u64, requests: usize) -> Self {
        let waiters = requests + WAITERS_OWN;
        Self {
            flushed: position,
            log_end: position,
            acknowledged: position,
            now: Vec::with_capacity(waiters),
            next: Vec::with_capacity(waiters),
            stating: Vec::with_capacity(requests),
            ..Self::default()
        }
    }

    /// Asks for a flush sent from now on, once everything up to `needs` is resolved.
    pub(super) fn want(&mut self, needs: u64, waiter: Waiter) {
        self.next.push((needs, waiter));
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight.is_none() && self.next.is_empty() && self.stating.is_empty()
    }
}

impl Store {
    pub(super) fn advance_flush<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId) {
        if !self.options.volatile_cache || bugs::is(Bug::FlushNotSent) {
            return self.reply(cx, id, Ok(Outcome::Done));
        }
        self.flush_for(id, self.flusher.acknowledged);
    }

    pub(super) fn flush_for(&mut self, id: OpId, needs: u64) {
        if let Some(work) = self.works.get_mut(id) {
            work.stage = Stage::Flushing;
        }
        self.flusher.want(needs, Waiter::Request(id));
    }

    /// Freed slots are wanted: their records must become durable.
    pub(super) fn want_reclaim(&mut self) {
        let asked = self.flusher.next.iter().any(|(_, waiter)| *waiter == Waiter::Reclaim) || self.flusher.now.contains(&Waiter::Reclaim);
        if !asked {
            self.flusher.want(0, Waiter::Reclaim);
        }
    }

    pub(super) fn pump_flush<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        // There may be room for a statement by now that there was none for before.
        self.answer_stated(cx);
        if self.flusher.in_flight.is_some() || self.flusher.next.is_empty() {
            return false;
        }
        let resolved = self.log.resolved();
        let Flusher { now, next, .. } = &mut self.flusher;
        next.retain(|(needs, waiter)| {
            let ready = *needs <= resolved;
            if ready {
                now.push(*waiter);
            }
            !ready
        });
        if now.is_empty() {
            return false;
        }
        self.flusher.in_flight = Some(Flight { resolved, stated: self.log.stated_flushed });
        if self.options.volatile_cache {
            self.statistics.flushes += 1;
            let op = self.send(cx, Purpose::Flush, None);
            cx.out.push(Effect::Flush { op });
        } else {
            self.flush_done(cx, Ok(()));
        }
        true
    }

    pub(super) fn flush_done<B: Buffers>(&mut self, cx: &mut Context<'_, B>, result: Result<(), i32>) {
        let Some(flight) = self.flusher.in_flight.take() else { return };
        if let Err(errno) = result {
            return self.fail(cx, errno);
        }
        self.flusher.flushed = self.flusher.flushed.max(flight.resolved);
        self.log.logged_flushed = self.log.logged_flushed.max(flight.stated);
        let mut waiters = core::mem::take(&mut self.flusher.now);
        for waiter in waiters.drain(..) {
            match waiter {
                Waiter::Request(id) => self.flushed_for(cx, id, flight.resolved),
                Waiter::Seal => self.sealer.flushed(),
                Waiter::Checkpoint => self.checkpoint.flushed(),
                Waiter::Reclaim => {}
            }
        }
        self.flusher.now = waiters;
        self.slots.reclaim(self.flushed());
        self.retry = true;
    }

    fn flushed_for<B: Buffers>(&mut self, cx: &mut Context<'_, B>, id: OpId, position: u64) {
        let is_flush = self.works.get(id).is_some_and(|work| matches!(work.request, Request::Flush));
        // Coverage (see `write`): an overwrite may be in flight over a first write that this flush
        // made durable, and the log does not say so yet.
        if is_flush && self.options.volatile_cache && self.flusher.overwritten > self.log.logged_flushed {
            self.flusher.stating.push((position, id));
            self.log.ensure_statement(0, Some(position));
        } else {
            self.done(cx, id);
        }
    }

    /// Answers the flushes whose position a durable block has stated.
    pub(super) fn answer_stated<B: Buffers>(&mut self, cx: &mut Context<'_, B>) {
        if self.flusher.stating.is_empty() {
            return;
        }
        let logged = self.log.logged_flushed;
        while let Some(place) = self.flusher.stating.iter().position(|(position, _)| *position <= logged) {
            let (_, id) = self.flusher.stating.remove(place);
            self.done(cx, id);
        }
        if let Some(position) = self.flusher.stating.iter().map(|(position, _)| *position).max() {
            self.log.ensure_statement(0, Some(position));
        }
    }
}
