//! The client on a loop: feeds the machine with what happens and does what it wants done.
//!
//! Invariants: the machine is stepped once an event; its effects are carried out at the end of the
//! turn, so replies and frames of one turn leave together; no protocol decision is made here.
//!
//! What this must not know: what frames, pieces and NBD mean.

use crate::command::{ClientStatus, Command, MdmState, Shared};
use crate::control::{ControlEnd, FromMdm};
use crate::events;
use crate::identity::Identity;
use crate::users::Users;
use sds_core::id::SdsId;
use sds_core::machine::{DiskResult, LinkId, Outbox};
use sds_core::unit::Nanos;
use sds_core::volume::Client;
use sds_core::volume::interface::{ClientOptions, Effect, Event, Input};
use sds_ring::{Address, LinkEvent, Protocol, Role, StreamEvent, StreamId, Turn, Wake};
use std::sync::Arc;
use std::time::Duration;

/// From what age on a status names a request.
const STUCK_AGE: Nanos = Nanos::from_millis(1000);

/// A client as a role of a loop. Made by [`crate::Cluster`].
#[derive(Debug)]
pub struct ClientRole {
    machine: Client,
    out: Outbox<Effect>,
    users: Users,
    control: ControlEnd,
    shared: Arc<Shared>,
    /// Holds the lock of the state directory.
    _identity: Identity,
    links: Vec<(LinkId, SdsId)>,
    mdm_was_up: bool,
    /// When to stop without having finished.
    give_up_at: Option<Nanos>,
    ended: bool,
}

impl ClientRole {
    pub(crate) fn new(options: ClientOptions, identity: Identity, control: ControlEnd, shared: Arc<Shared>) -> Self {
        Self {
            machine: Client::new(options),
            out: Outbox::new(),
            users: Users::new(crate::command::OPERATIONS_MAX),
            control,
            shared,
            _identity: identity,
            links: Vec::new(),
            mdm_was_up: false,
            give_up_at: None,
            ended: false,
        }
    }

    fn step(&mut self, cx: &mut Turn<'_>, input: Input<'_>) {
        let now = cx.now();
        self.machine.step(now, input, cx.pool(), &mut self.out);
    }

    /// Everything that follows from what has happened.
    fn run(&mut self, cx: &mut Turn<'_>) {
        loop {
            let mut acted = !self.out.is_empty();
            for effect in self.out.drain() {
                match effect {
                    Effect::Control(message) => self.control.say(message),
                    Effect::Connect { sds, addresses } => {
                        let addresses = addresses.iter().filter_map(|text| text.parse::<Address>().ok()).collect();
                        cx.connect(Protocol::Frames, u64::from(sds.get()), addresses);
                    }
                    Effect::Send { link, frame } => cx.send_frame(link, &frame),
                    Effect::CloseLink { link } => cx.close_link(link),
                    Effect::Complete { token, result } => self.users.complete(token, result, cx),
                    Effect::Opened { token, result } => self.users.opened(token, result, cx),
                    Effect::Closed { token } => self.users.closed(token),
                    Effect::Volumes { token, volumes } => self.users.listed(token, volumes, cx),
                    Effect::Event(event) => {
                        events::log(&event);
                        if let Event::Refused { reason } = event {
                            self.shared.mdm.send_replace(MdmState::Refused(reason));
                        }
                    }
                }
            }
            let Users { server, backlog, questions, .. } = &mut self.users;
            acted |= server.drive_dirty(cx, backlog, questions);
            server.reap_all(questions);
            acted |= self.users.feed(&mut self.machine, &mut self.out, cx);
            if !acted {
                break;
            }
        }
        let up = self.machine.mdm_is_up();
        if std::mem::replace(&mut self.mdm_was_up, up) != up {
            self.shared.mdm.send_replace(if up { MdmState::Up } else { MdmState::Waiting });
        }
        self.end_if_stopped(cx);
    }

    fn end_if_stopped(&mut self, cx: &mut Turn<'_>) {
        let Some(give_up_at) = self.give_up_at.filter(|_| !self.ended) else { return };
        let given_up = cx.now() >= give_up_at;
        if given_up {
            let volumes = self.machine.volumes().count();
            let requests = self.machine.requests_in_flight();
            tracing::warn!(volumes, requests, "stopping without having finished: servers or the MDM do not answer");
        }
        if given_up || self.users.has_stopped() {
            self.ended = true;
            for (link, _) in self.links.drain(..) {
                cx.close_link(link);
            }
            self.shared.end();
        }
    }

    fn hear(&mut self, cx: &mut Turn<'_>) {
        while let Some(heard) = self.control.hear() {
            match heard {
                FromMdm::Up { .. } => self.step(cx, Input::Mdm { up: true }),
                FromMdm::Down => self.step(cx, Input::Mdm { up: false }),
                FromMdm::Said(message) => self.step(cx, Input::Control(&message)),
            }
        }
    }

    fn obey(&mut self, cx: &mut Turn<'_>) {
        while let Some(command) = self.shared.next() {
            match command {
                Command::Status { reply } => drop(reply.send(self.status(cx))),
                Command::Stop { patience } => {
                    let patience = Nanos::new(u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX));
                    self.give_up_at = Some(cx.now().plus(patience));
                    self.users.stop();
                }
                Command::Open { .. } | Command::Close { .. } | Command::List { .. } | Command::Io(_) | Command::ServeNbd { .. } => {
                    self.users.command(command, cx);
                }
            }
        }
    }

    fn status(&self, cx: &mut Turn<'_>) -> ClientStatus {
        let memory = cx.pool().statistics();
        ClientStatus {
            mdm_is_up: self.machine.mdm_is_up(),
            map_version: self.machine.map_version().get(),
            volumes: self.machine.volumes().collect(),
            requests: self.machine.requests_in_flight(),
            oldest_request: self.machine.oldest_request(cx.now()).map(|age| Duration::from_nanos(age.get())),
            stuck: self.machine.stuck(cx.now(), STUCK_AGE),
            servers: self.machine.servers().collect(),
            nbd_connections: self.users.server.connections(),
            buffer_bytes: (memory.used_bytes, memory.total_bytes),
        }
    }
}

impl Role for ClientRole {
    fn start(&mut self, _cx: &mut Turn<'_>) {}

    fn on_disk(&mut self, _cx: &mut Turn<'_>, tag: u64, result: DiskResult) {
        unreachable!("a client has no disks: tag {tag}, {result:?}");
    }

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        let server = |number: u64| SdsId::new(u32::try_from(number).unwrap_or(0));
        match event {
            LinkEvent::Linked { connect: Some(number) } => {
                self.links.push((link, server(number)));
                self.step(cx, Input::Linked { sds: server(number), link });
            }
            // A client listens for no links.
            LinkEvent::Linked { connect: None } => cx.close_link(link),
            LinkEvent::ConnectFailed { connect, reason } => {
                tracing::debug!(sds = connect, %reason, "a data server cannot be reached");
                self.step(cx, Input::ConnectFailed { sds: server(connect) });
            }
            LinkEvent::Frame(frame) => self.step(cx, Input::Frame { link, frame }),
            LinkEvent::Writable => {}
            LinkEvent::Unlinked { reason } => {
                if let Some(place) = self.links.iter().position(|(known, _)| *known == link) {
                    let (_, sds) = self.links.swap_remove(place);
                    if let Some(reason) = reason {
                        tracing::info!(%sds, %reason, "the connection to a data server is lost; its requests are sent again");
                    }
                }
                self.step(cx, Input::Unlinked { link });
            }
        }
    }

    fn on_stream(&mut self, cx: &mut Turn<'_>, stream: StreamId, event: StreamEvent) {
        let Users { server, backlog, questions, .. } = &mut self.users;
        server.on_stream(stream, event, cx, backlog, questions);
    }

    fn on_wake(&mut self, cx: &mut Turn<'_>, wake: Wake) {
        match wake {
            Wake::Deadline => {
                self.step(cx, Input::Wake);
                self.users.server.timers(cx);
            }
            Wake::Buffers => {
                self.step(cx, Input::Wake);
                let Users { library, server, backlog, .. } = &mut self.users;
                library.buffers_freed(cx.pool(), backlog);
                server.mark_all();
            }
            Wake::Notified => {
                self.hear(cx);
                self.obey(cx);
            }
        }
    }

    fn end_of_turn(&mut self, cx: &mut Turn<'_>) {
        self.run(cx);
    }

    fn deadline(&self) -> Option<Nanos> {
        if self.ended {
            return None;
        }
        [self.machine.deadline(), self.users.server.deadline(), self.give_up_at].into_iter().flatten().min()
    }

    fn stopped(&self) -> bool {
        self.ended
    }
}

impl Drop for ClientRole {
    /// Also when the loop ended by itself: nobody waits for an answer that cannot come.
    fn drop(&mut self) {
        self.shared.end();
    }
}
