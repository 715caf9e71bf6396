//! What clients do: begin, send again, take sessions, crash.

use crate::model::Protocol;
use crate::monitor::Outcome;
use crate::rule::Rule;
use crate::state::{Message, Origin, State, server};
use sds_core::id::{ConnectionNumber, Epoch, MapVersion, SessionGeneration};

impl Protocol {
    pub(crate) fn begin(&self, state: &mut State, at: usize, behind: u32) -> bool {
        let client = &state.clients[at];
        let Some(op) = self.scenario.scripts[at].get(usize::from(client.begun)).copied() else { return false };
        if client.op.is_some() || client.opening || client.generation.get() == 0 {
            return false;
        }
        let client = &mut state.clients[at];
        client.begun += 1;
        client.op = Some(op);
        // A fenced client does not know it; whatever it begins now must never take effect.
        if !client.fenced {
            state.monitor.invoke(at, op);
        }
        self.request(state, at, behind);
        true
    }

    pub(crate) fn retry(&self, state: &mut State, at: usize) -> bool {
        if state.clients[at].op.is_none() || state.spent.retries >= self.scenario.retries {
            return false;
        }
        state.spent.retries += 1;
        let client = &mut state.clients[at];
        client.connection = ConnectionNumber::new(client.connection.get() + 1);
        self.request(state, at, 0);
        true
    }

    fn request(&self, state: &mut State, at: usize, behind: u32) {
        let client = state.clients[at];
        let entry = state.mdm.at(Epoch::new(state.mdm.newest().epoch.get() - behind));
        let (Some(op), Some(primary)) = (client.op, entry.in_sync.primary()) else { return };
        let to = server(primary.device);
        state.send(Message::Request {
            to,
            life: state.servers[to].life,
            origin: Origin { client: at, connection: client.connection, serial: client.begun },
            generation: client.generation,
            epoch: entry.epoch,
            oldest: client.unflushed.unwrap_or(entry.epoch),
            op,
        });
    }

    pub(crate) fn open(&self, state: &mut State, at: usize) -> bool {
        let client = &state.clients[at];
        if !self.scenario.exclusive
            || state.spent.opens >= self.scenario.opens
            || client.op.is_some()
            || client.opening
            || client.generation.get() != 0
        {
            return false;
        }
        state.spent.opens += 1;
        state.mdm.generation = SessionGeneration::new(state.mdm.generation.get() + 1);
        state.mdm.map = MapVersion::new(state.mdm.map.get() + 1);
        state.clients[at].generation = state.mdm.generation;
        state.clients[at].opening = true;
        true
    }

    /// An open returns once the current primary has confirmed a map that has it.
    pub(crate) fn confirm_opens(&self, state: &mut State) {
        for at in 0..state.clients.len() {
            let client = state.clients[at];
            if !client.opening {
                continue;
            }
            let newest = *state.mdm.newest();
            let primary = newest.in_sync.primary().map(|primary| server(primary.device));
            let confirmed = primary.is_some_and(|primary| {
                let own = &state.servers[primary];
                own.up && own.epoch == newest.epoch && own.generation >= client.generation
            });
            if confirmed || !self.on(Rule::OpenWaits) {
                state.clients[at].opening = false;
                for other in 0..state.clients.len() {
                    state.monitor.fence(other);
                    state.clients[other].fenced |= other != at;
                }
            }
        }
    }

    pub(crate) fn client_crash(&self, state: &mut State, at: usize) -> bool {
        if state.spent.client_crashes >= self.scenario.client_crashes || state.clients[at].op.is_none() {
            return false;
        }
        state.spent.client_crashes += 1;
        let client = &mut state.clients[at];
        client.op = None;
        client.generation = SessionGeneration::new(0);
        client.connection = ConnectionNumber::new(client.connection.get() + 1);
        true
    }

    /// A server answers; lost unless the connection is still the client's newest.
    pub(crate) fn answer(&self, state: &mut State, origin: Origin, outcome: Outcome, epoch: Epoch) {
        let client = &mut state.clients[origin.client];
        if client.op.is_none() || client.connection != origin.connection || client.begun != origin.serial {
            return;
        }
        client.op = None;
        if client.fenced {
            return;
        }
        match outcome {
            Outcome::Done
                if matches!(self.scenario.scripts[origin.client][usize::from(origin.serial) - 1], crate::monitor::Op::Write(_)) =>
            {
                client.unflushed = client.unflushed.or(Some(epoch));
            }
            Outcome::Done | Outcome::Eio => client.unflushed = None,
            Outcome::Read(_) => {}
        }
        state.monitor.respond(origin.client, outcome);
    }
}
