//! Sessions: a client's rights to volumes, from open to close or fence.
//!
//! Invariants: one session a volume at a client, shared by its users; requests are taken only while it
//! is open; a fenced session stays, and answers `Fenced`, until each of its users has closed it; a
//! session is given back after its requests have ended and its writes were flushed.
//!
//! Must not know: how requests travel.

use super::dirty::Dirty;
use super::interface::{Effect, Event, OpenVolume, Request};
use super::mdm::{Ask, OpenState};
use super::request::Origin;
use super::topology::{KnownVolume, PoolIndex};
use super::{Client, Turn};
use crate::buffer::Buffers;
use crate::control::{OpenError, Opened};
use crate::error::Status;
use crate::id::{SessionGeneration, TreeId, VolumeId};
use crate::machine::Token;
use crate::stripe::Stripe;
use crate::unit::{ByteCount, Nanos};
use crate::view::SessionMode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// No new requests; waits for those in flight.
    Draining,
    /// The closing flush is on its way.
    Flushing,
    /// The MDM is being told.
    Returning,
    /// Taken over, or its volume is gone.
    Fenced,
}

/// On what terms a volume is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) mode: SessionMode,
    pub(super) force: bool,
    pub(super) io_timeout: Option<Nanos>,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) volume: VolumeId,
    name: String,
    pub(super) generation: SessionGeneration,
    pub(super) mode: SessionMode,
    /// After which requests are given up; `None` for never.
    pub(super) io_timeout: Option<Nanos>,
    pub(super) tree: TreeId,
    pub(super) pool: PoolIndex,
    pub(super) size: ByteCount,
    pub(super) stripe: Stripe,
    pub(super) dirty: Dirty,
    /// Opens not yet closed.
    users: u32,
    /// Requests in flight.
    pub(super) requests: u32,
    pub(super) phase: Phase,
    closers: Vec<Token>,
}

impl Session {
    pub(super) fn as_open(&self) -> Option<OpenVolume> {
        match self.phase {
            Phase::Open => Some(OpenVolume { id: self.volume, size: self.size, stripe: self.stripe, mode: self.mode }),
            Phase::Draining | Phase::Flushing | Phase::Returning | Phase::Fenced => None,
        }
    }

    fn take_facts(&mut self, known: KnownVolume) {
        self.tree = known.tree;
        self.pool = known.pool;
        self.size = known.size;
        self.stripe = known.stripe;
    }
}

impl Client {
    pub(super) fn open(&mut self, token: Token, name: &str, terms: Terms, turn: &mut Turn<'_, impl Buffers>) {
        let Terms { mode, io_timeout, .. } = terms;
        let refusal = |reason: &str| Err(OpenError::Refused { name: name.to_owned(), reason: reason.to_owned() });
        let held = match self.sessions.values_mut().find(|session| session.name == name) {
            Some(session) => match session.phase {
                Phase::Open if session.mode == mode => {
                    session.users += 1;
                    session.io_timeout = session.io_timeout.zip(io_timeout).map(|(one, other)| one.max(other));
                    let volume = OpenVolume { id: session.volume, size: session.size, stripe: session.stripe, mode };
                    turn.out.push(Effect::Opened { token, result: Ok(volume) });
                    return;
                }
                Phase::Open => {
                    let result = refusal("this client has it open in another mode; close it first");
                    turn.out.push(Effect::Opened { token, result });
                    return;
                }
                Phase::Fenced => {
                    let result = refusal("this client's session was taken over; close it first");
                    turn.out.push(Effect::Opened { token, result });
                    return;
                }
                Phase::Draining | Phase::Flushing | Phase::Returning => true,
            },
            None => self.is_opening(name),
        };
        let state = if held { OpenState::Held } else { OpenState::Asked };
        self.ask(Ask::Open { token, name: name.to_owned(), terms, state }, turn);
    }

    /// The MDM has granted a session, and its view is here.
    pub(super) fn opened(&mut self, token: Token, name: &str, terms: Terms, opened: &Opened, turn: &mut Turn<'_, impl Buffers>) {
        let Some(known) = self.topology.volume(opened.volume).copied() else {
            // Deleted between the grant and the view.
            turn.out.push(Effect::Opened { token, result: Err(OpenError::NoVolume { name: name.to_owned() }) });
            return;
        };
        self.fence(opened.volume, turn);
        let mut dirty = Dirty::default();
        dirty.suspect_all(self.topology.shard_count(known.pool));
        let session = Session {
            volume: opened.volume,
            name: name.to_owned(),
            generation: opened.generation,
            mode: opened.mode,
            io_timeout: terms.io_timeout,
            tree: known.tree,
            pool: known.pool,
            size: known.size,
            stripe: known.stripe,
            dirty,
            users: 1,
            requests: 0,
            phase: Phase::Open,
            closers: Vec::new(),
        };
        let volume = OpenVolume { id: session.volume, size: session.size, stripe: session.stripe, mode: session.mode };
        self.sessions.insert(opened.volume, session);
        turn.out.push(Effect::Opened { token, result: Ok(volume) });
        if known.own != Some(opened.generation) {
            // Taken over before the answer came: no view that is still to come would say so.
            self.fence(opened.volume, turn);
        }
    }

    pub(super) fn close(&mut self, token: Token, volume: VolumeId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(session) = self.sessions.get_mut(&volume) else {
            turn.out.push(Effect::Closed { token });
            return;
        };
        session.users = session.users.saturating_sub(1);
        if session.users > 0 {
            turn.out.push(Effect::Closed { token });
            return;
        }
        session.closers.push(token);
        match session.phase {
            Phase::Open => {
                session.phase = Phase::Draining;
                self.go_on_closing(volume, turn);
            }
            Phase::Fenced => self.forget(volume, turn),
            Phase::Draining | Phase::Flushing | Phase::Returning => {}
        }
    }

    /// Takes a closing session as far as it can go now.
    pub(super) fn go_on_closing(&mut self, volume: VolumeId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(session) = self.sessions.get_mut(&volume) else { return };
        if session.phase != Phase::Draining || session.requests > 0 {
            return;
        }
        if session.dirty.is_clean() {
            self.give_back(volume, turn);
        } else if !self.requests.is_full() {
            session.phase = Phase::Flushing;
            self.start(Origin::Closing, volume, Request::Flush, turn);
        }
    }

    /// The closing flush ended.
    pub(super) fn closing_flushed(&mut self, volume: VolumeId, result: Result<(), Status>, turn: &mut Turn<'_, impl Buffers>) {
        if self.sessions.get(&volume).is_none_or(|session| session.phase != Phase::Flushing) {
            // Fenced meanwhile: there is nothing to give back.
            return;
        }
        if let Err(status) = result {
            turn.out.push(Effect::Event(Event::CloseFlushFailed { volume, status }));
        }
        self.give_back(volume, turn);
    }

    fn give_back(&mut self, volume: VolumeId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(session) = self.sessions.get_mut(&volume) else { return };
        session.phase = Phase::Returning;
        let generation = session.generation;
        self.ask(Ask::Close { volume, generation }, turn);
    }

    /// The MDM has taken the session back.
    pub(super) fn closed(&mut self, volume: VolumeId, generation: SessionGeneration, turn: &mut Turn<'_, impl Buffers>) {
        let returned =
            self.sessions.get(&volume).is_some_and(|session| session.generation == generation && session.phase == Phase::Returning);
        if returned {
            self.forget(volume, turn);
        }
    }

    fn forget(&mut self, volume: VolumeId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(session) = self.sessions.remove(&volume) else { return };
        assert!(session.requests == 0, "a session ends after its requests");
        for token in session.closers {
            turn.out.push(Effect::Closed { token });
        }
        self.retry_held(&session.name, turn);
    }

    /// Somebody else has the volume, or nobody: everything in flight ends (I3).
    pub(super) fn fence(&mut self, volume: VolumeId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(session) = self.sessions.get_mut(&volume) else { return };
        if session.phase == Phase::Fenced {
            return;
        }
        session.phase = Phase::Fenced;
        turn.out.push(Effect::Event(Event::Fenced { volume }));
        self.fail_all(volume, Status::Fenced, turn);
        let closing = self.sessions.get(&volume).is_some_and(|session| session.users == 0);
        if closing {
            self.forget(volume, turn);
        }
    }

    /// Holds the sessions against a newer view.
    pub(super) fn review_sessions(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let mut lost = Vec::new();
        for session in self.sessions.values_mut() {
            match self.topology.volume(session.volume) {
                Some(known) if known.own == Some(session.generation) => session.take_facts(*known),
                // While it is being given back, the view may already lack it.
                Some(_) | None if session.phase == Phase::Returning => {}
                Some(_) | None => lost.push(session.volume),
            }
        }
        for volume in lost {
            self.fence(volume, turn);
        }
    }
}
