//! Control connections of the world, and the MDM at their other end.

use super::{Event, World, copies};
use crate::checker::invariants::Cause;
use crate::mdm::{Down, Role, Up};
use crate::network::Party;
use sds_core::cluster::Change;
use sds_core::cluster::leader::{Effect, Event as MdmEvent, Input};
use sds_core::codec;
use sds_core::control::{MdmToClient, MdmToSds};
use sds_core::machine::LinkId;
use sds_core::replica::interface as replica;
use sds_core::unit::Nanos;
use sds_core::volume::interface as volume;

/// The pool of every run.
pub(super) const POOL: &str = "sim";
const COMMIT_NS: u64 = 2_000_000;

impl World {
    pub(super) fn start_mdm(&mut self) {
        let now = self.now();
        self.mdm.start(now);
        self.mdm_wake = None;
        self.trace.note(now, &[20], || "the MDM leads".to_owned());
        self.step_mdm(Input::Wake);
    }

    pub(super) fn stop_mdm(&mut self) {
        let now = self.now();
        self.trace.note(now, &[21], || "the MDM is away".to_owned());
        let chance = &mut self.chance;
        let mut applied = Vec::new();
        self.mdm.stop(|| chance.chance(1, 2), |cluster, command| applied.push((copies::shards_of(cluster), copies::cause_of(command))));
        for (shards, cause) in applied {
            self.watch_commit_of(&shards, &cause);
        }
        self.configuration_may_have_changed();
        self.operating = None;
        for connection in self.mdm.whole() {
            self.break_control(connection);
        }
        let away = self.chance.below(8_000_000_000);
        self.schedule.after(away, Event::StartMdm);
    }

    pub(super) fn step_mdm(&mut self, input: Input) {
        let now = self.now();
        for effect in self.mdm.step(now, input) {
            self.mdm_effect(effect);
        }
        if let Some(at) = self.mdm.deadline() {
            let at = at.max(now).plus(Nanos::new(1_000));
            if self.mdm_wake.is_none_or(|known| at < known) {
                self.mdm_wake = Some(at);
                self.schedule.at(at, Event::WakeMdm { term: self.mdm.term() });
            }
        }
    }

    pub(super) fn wake_mdm(&mut self, term: u64) {
        if term == self.mdm.term() && self.mdm.is_up() {
            self.mdm_wake = None;
            self.step_mdm(Input::Wake);
        }
    }

    pub(super) fn commit(&mut self, term: u64) {
        if term != self.mdm.term() || !self.mdm.is_up() {
            return;
        }
        if let Some(input) = self.mdm.commit_next() {
            let now = self.now();
            self.trace.note(now, &[22], || format!("committed: {input:?}"));
            let cause = match &input {
                Input::Committed { command, .. } => copies::cause_of(command),
                Input::Wake
                | Input::Sds { .. }
                | Input::Client { .. }
                | Input::Unlinked { .. }
                | Input::Api { .. }
                | Input::Lost { .. } => Cause::Other,
            };
            self.step_mdm(input);
            self.watch_commit(&cause);
            self.configuration_may_have_changed();
        }
    }

    fn mdm_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Propose { proposal, command } => {
                self.seen(&command.change);
                if let Change::Propose { proposals, .. } = &command.change {
                    proposals.iter().for_each(|(.., proposal)| self.seen(&proposal.change));
                }
                self.mdm.propose(proposal, through_codec(&command));
                let delay = self.chance.delay(COMMIT_NS);
                self.schedule.after(delay, Event::Commit { term: self.mdm.term() });
            }
            Effect::ToSds { link, message } => self.control_send_down(link, Down::Sds(through_codec(&message))),
            Effect::ToClient { link, message } => self.control_send_down(link, Down::Client(through_codec(&message))),
            Effect::Close { link } => {
                if let Some(connection) = self.mdm.connection(link) {
                    connection.broken = true;
                }
                self.control_send_down(link, Down::Gone);
            }
            Effect::Answer { token, reply } => self.operator_answered(token, reply),
            Effect::Event(event) => {
                self.seen(&event);
                if let MdmEvent::Cluster(event) = &event {
                    self.seen(event);
                    if let sds_core::cluster::Event::ShardsChanged { shards, .. } = event {
                        self.counts.changes += u64::from(*shards);
                    }
                }
                let now = self.now();
                self.trace.note(now, &[23], || format!("mdm: {event:?}"));
            }
        }
    }

    fn control_send_down(&mut self, link: LinkId, message: Down) {
        let Some(role) = self.mdm.connection(link).map(|connection| connection.role) else { return };
        let at = self.control_arrival(Party::Mdm, Party::Process(self.process_of_role(role)));
        let Some(connection) = self.mdm.connection(link) else { return };
        if connection.broken && !matches!(message, Down::Gone) {
            return;
        }
        if let Some(at) = connection.down.push(at, message) {
            self.schedule.at(at, Event::ControlDown(link));
        }
    }

    /// When something sent now arrives.
    fn control_arrival(&mut self, from: Party, to: Party) -> Nanos {
        let delay = self.network_delay();
        let held = self.network.cut_until(from, to, self.now());
        held.unwrap_or(self.now()).plus(Nanos::new(delay))
    }

    /// A role connects; it is told when it has come through.
    pub(super) fn connect_control(&mut self, role: Role, life: u64) {
        let (process, known) = match role {
            Role::Server(server) => (self.servers[server].process, self.servers[server].control),
            Role::Client(client) => (self.clients[client].process, self.clients[client].control),
        };
        if !self.is_alive(process, life) || known.is_some() {
            return;
        }
        let here = Party::Process(process);
        let is_cut =
            [(here, Party::Mdm), (Party::Mdm, here)].iter().any(|(from, to)| self.network.cut_until(*from, *to, self.now()).is_some());
        if !self.mdm.is_up() || is_cut {
            let delay = 50_000_000 + self.chance.below(400_000_000);
            return self.schedule.after(delay, Event::ConnectControl { role, life });
        }
        let link = self.mdm.connect(role, life);
        match role {
            Role::Server(server) => {
                self.servers[server].control = Some(link);
                self.servers[server].greeted = false;
            }
            Role::Client(client) => self.clients[client].control = Some(link),
        }
        self.control_send_down(link, Down::Here);
    }

    /// A role says something to the MDM, if it is connected.
    pub(super) fn tell_mdm(&mut self, role: Role, message: Up) {
        let (link, greeted) = match role {
            Role::Server(server) => (self.servers[server].control, self.servers[server].greeted),
            Role::Client(client) => (self.clients[client].control, true),
        };
        let Some(link) = link.filter(|_| greeted) else { return };
        let at = self.control_arrival(Party::Process(self.process_of_role(role)), Party::Mdm);
        let Some(connection) = self.mdm.connection(link).filter(|connection| !connection.broken) else { return };
        if let Some(at) = connection.up.push(at, message) {
            self.schedule.at(at, Event::ControlUp(link));
        }
    }

    pub(super) fn control_up(&mut self, link: LinkId) {
        let Some(connection) = self.mdm.connection(link) else { return };
        let (message, next) = connection.up.arrive();
        if let Some(at) = next {
            self.schedule.at(at, Event::ControlUp(link));
        }
        let now = self.now();
        match message {
            None => {}
            Some(Up::Sds(message)) => {
                self.trace.note(now, &[24, link.get()], || format!("to mdm over {}: {}", link.get(), short(&message)));
                self.step_mdm(Input::Sds { link, message: through_codec(&message) });
            }
            Some(Up::Client(message)) => {
                self.trace.note(now, &[25, link.get()], || format!("to mdm over {}: {}", link.get(), short(&message)));
                self.step_mdm(Input::Client { link, message: through_codec(&message) });
            }
            Some(Up::Gone) => {
                self.step_mdm(Input::Unlinked { link });
                self.mdm.forget_if_over(link);
            }
        }
    }

    pub(super) fn control_down(&mut self, link: LinkId) {
        let Some(connection) = self.mdm.connection(link) else { return };
        let (role, life) = (connection.role, connection.life);
        let process = match role {
            Role::Server(server) => self.servers[server].process,
            Role::Client(client) => self.clients[client].process,
        };
        let until = self.processes[process.0].paused_until;
        if until > self.schedule.now() {
            return self.schedule.at(until, Event::ControlDown(link));
        }
        let Some(connection) = self.mdm.connection(link) else { return };
        let (message, next) = connection.down.arrive();
        if let Some(at) = next {
            self.schedule.at(at, Event::ControlDown(link));
        }
        let current = match role {
            Role::Server(server) => self.servers[server].control,
            Role::Client(client) => self.clients[client].control,
        };
        if self.is_alive(process, life) && current == Some(link) {
            match (role, message) {
                (_, None) => {}
                (Role::Server(server), Some(Down::Here)) => {
                    self.servers[server].greeted = true;
                    self.register(server);
                }
                (Role::Client(client), Some(Down::Here)) => self.step_client(client, volume::Input::Mdm { up: true }),
                (Role::Server(server), Some(Down::Sds(message))) => self.server_hears(server, message),
                (Role::Client(client), Some(Down::Client(message))) => self.client_hears(client, &message),
                (_, Some(Down::Gone)) => {
                    match role {
                        Role::Server(server) => self.servers[server].control = None,
                        Role::Client(client) => {
                            self.clients[client].control = None;
                            self.step_client(client, volume::Input::Mdm { up: false });
                        }
                    }
                    let delay = 10_000_000 + self.chance.below(300_000_000);
                    self.schedule.after(delay, Event::ConnectControl { role, life });
                }
                (Role::Server(_), Some(Down::Client(_))) | (Role::Client(_), Some(Down::Sds(_))) => {
                    self.violate(format!("{role:?} was told what is not for it"));
                }
            }
        }
        self.mdm.forget_if_over(link);
    }

    fn server_hears(&mut self, server: usize, message: MdmToSds) {
        let now = self.now();
        self.trace.note(now, &[26, server as u64], || format!("mdm to server {server}: {}", short(&message)));
        match message {
            MdmToSds::Registered { system, sds, incarnation, devices } => {
                self.step_server(server, replica::Input::Registered { system, sds, incarnation, devices: &devices });
            }
            MdmToSds::HandOver { shards } => {
                self.counts.hand_overs += shards.len() as u64;
                self.step_server(server, replica::Input::HandOver { shards: &shards });
            }
            MdmToSds::View(update) => self.step_server(server, replica::Input::View(&update)),
            // A heartbeat of the former life came late, over a way that had been cut; the shell comes again.
            MdmToSds::Refused { reason } if self.counts.cuts > 0 && reason.contains("has the same identity") => {}
            MdmToSds::Refused { reason } => self.violate(format!("server {server} was refused: {reason}")),
        }
    }

    fn client_hears(&mut self, client: usize, message: &MdmToClient) {
        let now = self.now();
        self.trace.note(now, &[27, client as u64], || format!("mdm to client {client}: {}", short(message)));
        if let MdmToClient::Opened { result: Ok(opened), .. } = message {
            let newest = &mut self.newest_session;
            let place = opened.volume.get() as usize;
            if newest.len() <= place {
                newest.resize(place + 1, 0);
            }
            newest[place] = newest[place].max(opened.generation.get());
            self.clients[client].user.granted = Some((opened.volume.get(), opened.generation.get()));
        }
        self.step_client(client, volume::Input::Control(message));
    }

    /// A control connection breaks; each side learns of it in its own time.
    pub(super) fn break_control(&mut self, link: LinkId) {
        let Some(connection) = self.mdm.connection(link) else { return };
        connection.broken = true;
        let (up, down) = (connection.up.len(), connection.down.len());
        let (keep_up, keep_down) = (self.chance.index(up + 1), self.chance.index(down + 1));
        let late = *self.chance.pick(&[1, 1_000_000, 1_000_000_000]);
        let at = self.now().plus(Nanos::new(self.chance.below(late)));
        let Some(connection) = self.mdm.connection(link) else { return };
        let _ = connection.up.cut(keep_up, || 0);
        let _ = connection.down.cut(keep_down.max(1), || 0);
        let up = connection.up.push(at, Up::Gone);
        let down = connection.down.push(at, Down::Gone);
        if let Some(at) = up {
            self.schedule.at(at, Event::ControlUp(link));
        }
        if let Some(at) = down {
            self.schedule.at(at, Event::ControlDown(link));
        }
    }

    /// The connections of a dead process break.
    pub(super) fn break_controls_of(&mut self, servers: &[usize], clients: &[usize]) {
        let links: Vec<LinkId> = servers
            .iter()
            .filter_map(|server| self.servers[*server].control)
            .chain(clients.iter().filter_map(|client| self.clients[*client].control))
            .collect();
        for link in links {
            if self.mdm.connection(link).is_some_and(|connection| !connection.broken) {
                self.break_control(link);
            }
        }
    }
}

/// A message as it comes out at the other end.
fn through_codec<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) -> T {
    let bytes = codec::encode(message).expect("control messages of a small world are small");
    codec::decode(&bytes).expect("what was encoded can be decoded")
}

/// A message cut to a readable length.
pub(super) fn short(message: &impl core::fmt::Debug) -> String {
    let mut text = format!("{message:?}");
    if text.len() > 400 {
        let end = (0..=400).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
