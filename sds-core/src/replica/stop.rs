//! A clean stop: refuse, finish, close.
//!
//! Invariant: a store is closed only when no request and no errand is in it; a store that is still
//! being opened has taken nothing and is left as it is.

use super::devices::{Errand, State};
use super::interface::{Effect, Event};
use super::{Phase, Replica, Turn};
use crate::buffer::Buffers;
use crate::store::interface as store;

impl Replica {
    pub(super) fn begin_stop(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if self.phase != Phase::Running {
            return;
        }
        self.phase = Phase::Draining;
        self.end_sweeps(turn);
        // The other copies go on without ours at once, instead of when our port is closed.
        for slot in self.devices.slots() {
            self.break_pairs_of(slot);
        }
        self.ask_again(turn);
        // Parked requests are answered `Stopping` when they would be parked again.
        self.unpark(turn);
    }

    /// Takes the next step of a stop when it can be taken; `false` when not.
    pub(super) fn continue_stop(&mut self, turn: &mut Turn<'_, impl Buffers>) -> bool {
        match self.phase {
            Phase::Running | Phase::Stopped => false,
            Phase::Draining => {
                let busy = |state: &State| *state == State::Settling;
                let errands = self.devices.iter().any(|d| busy(&d.state) || d.reserving.is_some() || d.freeing.is_some());
                if !self.requests.is_empty() || errands || !self.resync.is_idle() {
                    return false;
                }
                self.phase = Phase::Closing;
                for slot in self.devices.slots() {
                    let Some(device) = self.devices.get_mut(slot) else { continue };
                    if device.state == State::Open {
                        device.state = State::Closing;
                        self.devices.run(slot, Errand::Close, store::Request::Close, turn);
                    }
                }
                true
            }
            Phase::Closing => {
                if self.devices.iter().any(|device| device.state == State::Closing) {
                    return false;
                }
                self.phase = Phase::Stopped;
                turn.out.push(Effect::Event(Event::Stopped));
                true
            }
        }
    }
}
