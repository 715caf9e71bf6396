//! The shell of a client: what `sdc` does around its machine, in virtual time.

use super::user::User;
use super::{Event, World};
use crate::mdm::{Role, Up};
use crate::network::ProcessIndex;
use sds_core::id::{ClientId, ConnectionNumber, Ticket};
use sds_core::machine::LinkId;
use sds_core::unit::Nanos;
use sds_core::volume::Client;
use sds_core::volume::interface::{ClientOptions, Effect, Event as Told, Input};
use sds_core::wire::Opcode;

/// A client and what its shell keeps.
#[derive(Debug)]
pub(crate) struct ClientNode {
    pub(crate) process: ProcessIndex,
    id: ClientId,
    ticket: Ticket,
    pub(crate) machine: Option<Box<Client>>,
    pub(crate) wake_at: Option<Nanos>,
    pub(crate) control: Option<LinkId>,
    pub(crate) links: Vec<LinkId>,
    numbers: Vec<(LinkId, ConnectionNumber)>,
    pub(crate) user: User,
}

impl ClientNode {
    pub(crate) fn new(process: ProcessIndex, id: ClientId, ticket: Ticket, user: User) -> Self {
        Self { process, id, ticket, machine: None, wake_at: None, control: None, links: Vec::new(), numbers: Vec::new(), user }
    }

    /// The connection number that the client gave a link.
    pub(super) fn connection_of(&self, link: LinkId) -> Option<ConnectionNumber> {
        self.numbers.iter().find(|(known, _)| *known == link).map(|(_, number)| *number)
    }
}

impl World {
    pub(super) fn start_client(&mut self, client: usize, life: u64) {
        let now = self.now();
        let node = &mut self.clients[client];
        let options = ClientOptions {
            client: node.id,
            ticket: node.ticket,
            name: format!("client-{client} life {life}"),
            first_connection: 1 + now.get(),
            requests_max: 64,
            reconnect_pause: (Nanos::from_millis(5), Nanos::from_millis(500)),
        };
        node.machine = Some(Box::new(Client::new(options)));
        node.wake_at = None;
        node.links.clear();
        node.numbers.clear();
        node.user.process_started();
        let delay = self.chance.below(20_000_000);
        self.schedule.after(delay, Event::ConnectControl { role: Role::Client(client), life });
        self.schedule.after(delay + 1, Event::User { client, life });
    }

    pub(super) fn stop_client(&mut self, client: usize) {
        let node = &mut self.clients[client];
        node.machine = None;
        node.control = None;
        node.wake_at = None;
        node.links.clear();
        node.user.process_died();
    }

    pub(super) fn step_client(&mut self, client: usize, input: Input<'_>) {
        let process = self.clients[client].process;
        let now = self.clock_of(process);
        let Some(machine) = &mut self.clients[client].machine else { return };
        let mut out = core::mem::take(&mut self.client_out);
        machine.step(now, input, &mut self.processes[process.0].buffers, &mut out);
        self.after_step(process);
        let dies = core::mem::take(&mut self.processes[process.0].dies_in_step) && self.may_end(process);
        let survive = if dies { self.chance.index(out.len() + 1) } else { usize::MAX };
        for (number, effect) in out.drain().enumerate() {
            if number < survive {
                self.client_effect(client, effect);
            }
        }
        self.client_out = out;
        if dies {
            self.kill_process(process);
            self.restart_later(process);
            return;
        }
        let deadline = self.clients[client].machine.as_ref().and_then(|machine| machine.deadline());
        let Some(at) = deadline else { return };
        // A timer fires after its time, never at it.
        let at = self.processes[process.0].clock.when(at).max(self.now()).plus(Nanos::new(1_000));
        let node = &mut self.clients[client];
        if node.wake_at.is_none_or(|known| at < known) {
            node.wake_at = Some(at);
            let life = self.processes[node.process.0].life;
            self.schedule.at(at, Event::Wake { role: Role::Client(client), life });
        }
    }

    fn client_effect(&mut self, client: usize, effect: Effect) {
        match effect {
            Effect::Control(message) => self.tell_mdm(Role::Client(client), Up::Client(message)),
            Effect::Connect { sds, addresses } => self.connect(Role::Client(client), sds, &addresses),
            Effect::Send { link, frame } => {
                if frame.header.opcode == Opcode::Hello {
                    self.clients[client].numbers.push((link, frame.header.connection));
                }
                self.send_frame(Role::Client(client), link, frame);
            }
            Effect::CloseLink { link } => self.close_link(link, Role::Client(client)),
            Effect::Complete { token, result } => self.user_completed(client, token, result),
            Effect::Opened { token, result } => self.user_opened(client, token, result),
            Effect::Closed { token } => self.user_closed(client, token),
            Effect::Volumes { .. } => {}
            Effect::Event(event) => self.client_told(client, &event),
        }
    }

    fn client_told(&mut self, client: usize, event: &Told) {
        let now = self.now();
        self.trace.note(now, &[11, client as u64], || format!("client {client}: {event:?}"));
        self.seen(event);
        match event {
            Told::FlushLost { .. } => {}
            // Before the system has a name; the MDM closes the connection, and the shell comes again.
            Told::Refused { reason } if reason.contains("not initialised yet") => {}
            Told::Refused { reason } => self.violate(format!("client {client} was refused: {reason}")),
            Told::PayloadDamaged { .. } => {
                if self.plan.troubles.damaged_payload.is_none() {
                    self.violate(format!("client {client} saw a damaged payload, and none was damaged"));
                }
            }
            Told::Fenced { volume } => self.user_fenced(client, *volume),
            Told::Waiting { .. }
            | Told::Silent { .. }
            | Told::TimedOut { .. }
            | Told::Reached { .. }
            | Told::DeviceNotReady { .. }
            | Told::DeviceFailed { .. }
            | Told::LinkRefused { .. }
            | Told::CloseFlushFailed { .. }
            | Told::Unreadable { .. } => {}
        }
    }
}
