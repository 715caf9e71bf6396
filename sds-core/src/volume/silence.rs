//! Servers that were asked and say nothing: no reset comes from a host that is cut off or from a process that is stopped.
//!
//! Invariants: nothing is concluded from silence but that the MDM may know more: it is asked, and whoever is waited for is named. Whether a
//! server is lost is for its peers and the MDM to say, and the view that says so sends its requests elsewhere. A silent link is let go
//! only when nobody waits for its answers any more, for the memory that its unsent frames hold. That loses nothing: the
//! next connection has a higher number (I10).
//!
//! Must not know: what was asked.

use super::exchange::{Exchange, State};
use super::interface::{Effect, Event};
use super::route::TELL_EVERY;
use super::server::{LinkState, ServerIndex};
use super::{Client, Turn};
use crate::buffer::Buffers;
use crate::control::ClientToMdm;
use crate::unit::Nanos;

/// How long a server may leave everything unanswered before the MDM is asked. Views are pushed at once, and a cut host is committed as
/// lost in about this time: the question only makes up for a push that got lost.
const SILENCE_MAX: Nanos = Nanos::from_millis(1000);

impl Client {
    /// Something was sent to a server.
    pub(super) fn note_sent(&mut self, index: ServerIndex, now: Nanos) {
        let server = self.servers.get_mut(index);
        if server.silent_at == Nanos::NEVER {
            server.silent_at = now.plus(SILENCE_MAX);
            self.wake_by(now.plus(SILENCE_MAX));
        }
    }

    /// A server has answered something.
    pub(super) fn note_heard<B>(&mut self, index: ServerIndex, turn: &mut Turn<'_, B>) {
        let server = self.servers.get_mut(index);
        // No timer is moved: it finds the later time when it comes.
        server.silent_at = if server.outstanding > 0 { turn.now.plus(SILENCE_MAX) } else { Nanos::NEVER };
        if core::mem::take(&mut server.told) {
            let reached = Event::Reached { sds: server.id };
            turn.out.push(Effect::Event(reached));
        }
    }

    /// Asks about those that have been silent for too long.
    pub(super) fn silence_timer(&mut self, index: ServerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let server = self.servers.get(index);
        let LinkState::Ready { link, .. } = server.state else { return };
        if turn.now < server.silent_at {
            let at = server.silent_at;
            if at < Nanos::NEVER {
                self.wake_by(at);
            }
            return;
        }
        let waits = |exchange: &Exchange| exchange.state == State::Sent(index) && !self.is_given_up(exchange.request);
        let requests = self.exchanges.iter().filter(|(_, exchange)| waits(exchange)).count();
        if requests == 0 {
            return self.drop_link(link, turn);
        }
        let again_at = turn.now.plus(TELL_EVERY);
        let server = self.servers.get_mut(index);
        server.silent_at = again_at;
        server.told = true;
        let silent = Event::Silent { sds: server.id, requests };
        self.wake_by(again_at);
        turn.out.push(Effect::Event(silent));
        if self.mdm_is_up() {
            turn.out.push(Effect::Control(ClientToMdm::Pull { at_least: self.topology.version() }));
        }
    }
}
