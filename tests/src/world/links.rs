//! Links of the world: connecting, sending, arriving, breaking.

use super::{Event, World};
use crate::buffers::Pin;
use crate::canary::Canary;
use crate::mdm::Role;
use crate::network::{Arrival, End, Party, ProcessIndex, Side, to_bytes};
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::Checksum;
use sds_core::id::SdsId;
use sds_core::machine::LinkId;
use sds_core::replica::interface as replica;
use sds_core::unit::Nanos;
use sds_core::volume::interface as volume;
use sds_core::wire::{Body, Frame, Opcode, decode_head};

/// A write frame that a canary will deliver again.
#[derive(Debug)]
pub(crate) struct Ghost {
    server: usize,
    client: usize,
    head: Vec<u8>,
    payload: Vec<u8>,
}

/// How long links to a host without power look as if they were up, at most.
const DARK_NS: u64 = 4_000_000_000;
/// How long a receiver without a buffer waits before it tries again.
const NO_BUFFER_NS: u64 = 50_000;

/// How long a connect is tried, and how often: nobody answers for a host without power, or across a cut.
const CONNECT_NS: u64 = 5_000_000_000;
const CONNECT_AGAIN_NS: u64 = 1_000_000_000;
/// A cut way is tried again after its end within this time.
const RESEND_NS: u64 = 200_000_000;

/// Somebody's wish for a link to a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connecting {
    pub(super) from: Role,
    pub(super) life: u64,
    pub(super) sds: SdsId,
    /// Of the address; `None` if nobody has it.
    pub(super) server: Option<usize>,
    pub(super) give_up_at: Nanos,
}

/// How a connect ends.
enum Reached {
    Server(usize),
    /// No process listens there.
    Refused,
    Silence,
}

impl World {
    pub(super) fn process_of_role(&self, role: Role) -> ProcessIndex {
        match role {
            Role::Server(server) => self.servers[server].process,
            Role::Client(client) => self.clients[client].process,
        }
    }

    /// A role wants a link to the server at one of these addresses.
    pub(super) fn connect(&mut self, from: Role, sds: SdsId, addresses: &[String]) {
        let server = addresses.iter().find_map(|address| server_at(address));
        let life = self.processes[self.process_of_role(from).0].life;
        let give_up_at = self.now().plus(Nanos::new(CONNECT_NS));
        let delay = self.network_delay();
        self.schedule.after(delay, Event::Connect(Connecting { from, life, sds, server, give_up_at }));
    }

    fn reach(&self, from: Role, server: Option<usize>) -> Reached {
        let Some(server) = server else { return Reached::Refused };
        let ends = [self.process_of_role(from), self.servers[server].process].map(Party::Process);
        let is_cut = |from, to| self.network.cut_until(from, to, self.now()).is_some();
        let process = &self.processes[self.servers[server].process.0];
        if is_cut(ends[0], ends[1]) || is_cut(ends[1], ends[0]) || self.hosts[process.host].is_dark {
            Reached::Silence
        } else if process.alive && self.servers[server].machine.is_some() {
            Reached::Server(server)
        } else {
            Reached::Refused
        }
    }

    /// A connect comes to its server, or not.
    pub(super) fn connect_arrives(&mut self, connecting: Connecting) {
        let Connecting { from: role, life, sds, server, give_up_at } = connecting;
        let from = self.process_of_role(role);
        if !self.is_alive(from, life) {
            return;
        }
        let server = match self.reach(role, server) {
            Reached::Server(server) => server,
            Reached::Refused => return self.connect_failed(role, sds, true),
            Reached::Silence if self.now() < give_up_at => {
                return self.schedule.after(CONNECT_AGAIN_NS, Event::Connect(connecting));
            }
            Reached::Silence => return self.connect_failed(role, sds, false),
        };
        let to = self.servers[server].process;
        let end = |process: ProcessIndex, role: Role, life: u64| End { process, role, life, open: false };
        let listener = end(to, Role::Server(server), self.processes[to.0].life);
        let link = self.network.connect(end(from, role, life), listener, sds);
        let now = self.now();
        self.trace.note(now, &[4, from.0 as u64, server as u64, link.get()], || {
            format!("{role:?} links to server {server}: link {}", link.get())
        });
        if let Role::Client(client) = role {
            self.clients[client].links.push(link);
        }
        let there = self.network_delay();
        let back = there + self.network_delay();
        self.send_arrival(link, Side::Listener, there, Arrival::Linked);
        self.send_arrival(link, Side::Caller, back, Arrival::Linked);
    }

    fn connect_failed(&mut self, role: Role, sds: SdsId, refused: bool) {
        match role {
            Role::Server(server) => self.step_server(server, replica::Input::PeerConnectFailed { sds, refused }),
            Role::Client(client) => self.step_client(client, volume::Input::ConnectFailed { sds }),
        }
    }

    /// An end is told something that happens to itself, or that no cut can hold up.
    fn send_arrival(&mut self, link: LinkId, to: Side, delay: u64, arrival: Arrival) {
        let at = self.now().plus(Nanos::new(delay));
        let Some(known) = self.network.get_mut(link) else { return };
        if let Some(at) = known.pipe_to(to).push(at, arrival) {
            self.schedule.at(at, Event::Link { link, side: to });
        }
    }

    /// Something is sent to an end by the other one.
    fn send_across(&mut self, link: LinkId, to: Side, delay: u64, arrival: Arrival) {
        let Some(known) = self.network.get(link) else { return };
        let [from, to_party] = [to.other(), to].map(|side| Party::Process(known.end(side).process));
        let held = self.network.cut_until(from, to_party, self.now());
        let delay = match held {
            Some(until) => until.since(self.now()).get() + self.chance.below(RESEND_NS) + delay,
            None => delay,
        };
        self.send_arrival(link, to, delay, arrival);
    }

    /// A machine sends a frame; its buffer's use has passed to the shell.
    pub(super) fn send_frame(&mut self, role: Role, link: LinkId, mut frame: Frame) {
        let from = self.process_of_role(role);
        let life = self.processes[from.0].life;
        let by = self.network.get(link).map_or(Side::Caller, |known| known.side_of(role));
        let usable = self.network.get(link).is_some_and(|known| {
            let end = known.end(by);
            !known.broken && end.open && end.process == from && end.life == life
        });
        let span = payload_of(&frame);
        let now = self.now();
        let header = frame.header;
        self.trace.note(now, &[5, link.get(), header.opcode as u64, header.request.get(), u64::from(header.offset)], || {
            format!(
                "{by:?} of link {} sends {:?} request {} volume {} extent {} [{}, +{}) seq {} {:?}{}",
                link.get(),
                header.opcode,
                header.request,
                header.volume,
                header.extent,
                header.offset,
                header.length,
                header.sequence,
                header.status,
                if usable { "" } else { " (dropped: no link)" }
            )
        });
        self.seen(&header.opcode);
        self.seen(&header.status);
        self.watch_frame(role, link, &frame, usable);
        if !usable {
            if let Some(span) = span {
                self.processes[from.0].buffers.release(span.buffer);
            }
            return;
        }
        if let Err(error) = frame.check() {
            return self.violate(format!("{by:?} of link {} made a frame that is none: {error} ({frame:?})", link.get()));
        }
        let delay = self.network_delay();
        let local = self.network.get(link).is_some_and(crate::network::Link::is_local);
        if self.canary == Some(Canary::FenceLifted) && matches!(role, Role::Client(_)) {
            let newest = self.newest_session.get(header.volume.get() as usize).copied().unwrap_or(0);
            if header.generation.get() > 0 && newest > 0 {
                frame.header.generation = sds_core::id::SessionGeneration::new(newest.max(header.generation.get()));
            }
        }
        if local {
            return self.send_across(link, by.other(), 200, Arrival::Handed(frame));
        }
        if matches!(header.opcode, Opcode::Write | Opcode::WriteFragment | Opcode::Zero | Opcode::Replicate) {
            self.await_link_loss(link);
        }
        let mut arrival = to_bytes(&frame, &self.processes[from.0].buffers);
        if let Some(span) = span {
            // The socket takes the bytes in its own time.
            let pin = self.processes[from.0].buffers.begin_reading(span);
            let time = self.chance.below(delay) + 1;
            self.schedule.after(time, Event::Sent { process: from, life, pin });
            self.spoil(&frame, &mut arrival);
        }
        self.send_across(link, by.other(), delay, arrival);
    }

    /// Damages a payload under way, if this is the moment for it.
    fn spoil(&mut self, frame: &Frame, arrival: &mut Arrival) {
        let Arrival::Bytes { head, payload } = arrival else { return };
        let is_write = matches!(frame.header.opcode, Opcode::Write | Opcode::WriteFragment);
        if self.take_armed_payload(payload.len()) {
            let byte = self.chance.index(payload.len());
            payload[byte] ^= 1 << self.chance.below(8);
            let now = self.now();
            self.trace.tell(now, || format!("a byte of the payload of request {} changes under way", frame.header.request));
        }
        if self.canary == Some(Canary::ChecksumForged) && is_write && self.chance.chance(1, 50) {
            let Body::Payload { mut checksums, .. } = frame.body else { return };
            payload[0] ^= 0x10;
            for (checksum, block) in checksums.as_mut_slice().iter_mut().zip(payload.chunks(4096)) {
                *checksum = Checksum::of(block);
            }
            let span = Span { buffer: sds_core::buffer::BufferId::new(0), start: 0, len: u32::try_from(payload.len()).unwrap_or(0) };
            let forged = Frame { body: Body::Payload { span, checksums }, ..*frame };
            let mut bytes = [0; sds_core::wire::HEAD_BYTES_MAX];
            let used = sds_core::wire::encode_head(&forged, &mut bytes);
            *head = bytes[..used].to_vec();
        }
    }

    /// A socket has taken a payload: the shell's use ends.
    pub(super) fn sent(&mut self, process: ProcessIndex, life: u64, pin: Pin) {
        if !self.is_alive(process, life) {
            return;
        }
        let buffers = &mut self.processes[process.0].buffers;
        buffers.end(pin);
        buffers.release(pin.span().buffer);
        self.after_step(process);
    }

    /// Something arrives at an end of a link.
    pub(super) fn link_arrives(&mut self, link: LinkId, side: Side) {
        let Some(known) = self.network.get_mut(link) else { return };
        let end = known.end(side);
        let alive = self.processes[end.process.0].alive && self.processes[end.process.0].life == end.life;
        if alive
            && end.open
            && let Some(Arrival::Bytes { head, payload }) = known.pipe_to(side).front()
            && !payload.is_empty()
        {
            let (class, len) = (class_of(head), u32::try_from(payload.len()).expect("one frame's payload"));
            let Some(buffer) = self.processes[end.process.0].buffers.allocate(class, len) else {
                // The receiver has no memory: the bytes stay in the socket.
                return self.schedule.after(NO_BUFFER_NS, Event::Link { link, side });
            };
            let span = Span::whole(buffer, len);
            let Some(known) = self.network.get_mut(link) else { return };
            let (arrival, next) = known.pipe_to(side).arrive();
            self.pump(link, side, next);
            let Some(Arrival::Bytes { head, payload }) = arrival else { return };
            self.processes[end.process.0].buffers.bytes_mut(span).copy_from_slice(&payload);
            return self.deliver_bytes(link, side, end, &head, Some(span), payload);
        }
        let Some(known) = self.network.get_mut(link) else { return };
        let (arrival, next) = known.pipe_to(side).arrive();
        self.pump(link, side, next);
        match arrival {
            None => {}
            Some(Arrival::Handed(frame)) if alive && end.open => self.deliver(link, end.role, &frame),
            Some(Arrival::Handed(frame)) => {
                if alive && let Some(span) = payload_of(&frame) {
                    self.processes[end.process.0].buffers.release(span.buffer);
                    self.after_step(end.process);
                }
            }
            Some(Arrival::Linked) if alive => {
                if let Some(known) = self.network.get_mut(link) {
                    known.end_mut(side).open = true;
                }
                let sds = self.network.get(link).expect("looked up above").sds;
                match (side, end.role) {
                    (Side::Listener, Role::Server(server)) => self.step_server(server, replica::Input::Linked { link }),
                    (Side::Caller, Role::Server(server)) => self.step_server(server, replica::Input::PeerLinked { sds, link }),
                    (Side::Caller, Role::Client(client)) => {
                        self.step_client(client, volume::Input::Linked { sds, link });
                        self.deliver_ghosts(client);
                    }
                    (Side::Listener, Role::Client(_)) => unreachable!("clients do not listen"),
                }
            }
            Some(Arrival::Unlinked) => {
                let open = core::mem::take(&mut self.network.get_mut(link).expect("looked up above").end_mut(side).open);
                if alive && open {
                    let now = self.now();
                    self.trace.note(now, &[6, link.get(), side as u64], || format!("link {} is gone for its {side:?}", link.get()));
                    match end.role {
                        Role::Server(server) => self.step_server(server, replica::Input::Unlinked { link }),
                        Role::Client(client) => {
                            self.clients[client].links.retain(|known| *known != link);
                            self.step_client(client, volume::Input::Unlinked { link });
                        }
                    }
                }
                self.network.forget_if_over(link);
            }
            Some(Arrival::Bytes { head, payload }) if alive && end.open => self.deliver_bytes(link, side, end, &head, None, payload),
            Some(Arrival::Linked | Arrival::Bytes { .. }) => {}
        }
    }

    fn pump(&mut self, link: LinkId, side: Side, next: Option<Nanos>) {
        if let Some(at) = next {
            self.schedule.at(at, Event::Link { link, side });
        }
    }

    fn deliver_bytes(&mut self, link: LinkId, side: Side, end: End, head: &[u8], span: Option<Span>, payload: Vec<u8>) {
        match decode_head(head) {
            Ok(Some((decoded, used))) if used == head.len() => {
                let frame = decoded.into_frame(span);
                self.remember_ghost(side, end, &frame, head, payload);
                self.deliver(link, end.role, &frame);
            }
            other => self.violate(format!("a frame that was encoded cannot be decoded: {other:?}")),
        }
    }

    fn deliver(&mut self, link: LinkId, role: Role, frame: &Frame) {
        match role {
            Role::Server(server) => self.step_server(server, replica::Input::Frame { link, frame }),
            Role::Client(client) => self.step_client(client, volume::Input::Frame { link, frame }),
        }
    }

    /// The canary of a ghost write keeps some write frames.
    fn remember_ghost(&mut self, side: Side, end: End, frame: &Frame, head: &[u8], payload: Vec<u8>) {
        if self.canary == Some(Canary::GhostDelivered)
            && side == Side::Listener
            && frame.header.opcode == Opcode::Write
            && self.chance.chance(1, 4)
        {
            let client = self.clients.iter().position(|client| {
                client.links.iter().any(|link| self.network.get(*link).is_some_and(|link| link.end(Side::Listener) == end))
            });
            if let (Some(client), Role::Server(server)) = (client, end.role) {
                self.ghosts.push(Ghost { server, client, head: head.to_vec(), payload });
                if self.ghosts.len() > 8 {
                    self.ghosts.remove(0);
                }
            }
        }
    }

    /// The canary delivers old write frames as if they had come over the newest link.
    fn deliver_ghosts(&mut self, client: usize) {
        if self.canary != Some(Canary::GhostDelivered) {
            return;
        }
        let ghosts: Vec<Ghost> = self.ghosts.extract_if(.., |ghost| ghost.client == client).collect();
        for ghost in ghosts {
            let goes_there = |link: &LinkId| {
                let known = self.network.get(*link);
                known.is_some_and(|known| known.end(Side::Listener).role == Role::Server(ghost.server) && !known.broken)
            };
            let newest = self.clients[client].links.iter().rev().copied().find(goes_there);
            let Some(link) = newest else { continue };
            let Ok(Some((decoded, _))) = decode_head(&ghost.head) else { continue };
            let span = Span { buffer: sds_core::buffer::BufferId::new(0), start: 0, len: decoded.payload_len() };
            let mut frame = decoded.into_frame(Some(span));
            if let Some(number) = self.clients[client].connection_of(link) {
                frame.header.connection = number;
            }
            let mut bytes = [0; sds_core::wire::HEAD_BYTES_MAX];
            let used = sds_core::wire::encode_head(&frame, &mut bytes);
            let delay = 20_000_000 + self.network_delay();
            self.send_arrival(link, Side::Listener, delay, Arrival::Bytes { head: bytes[..used].to_vec(), payload: ghost.payload });
        }
    }

    /// A machine closes a link: what it sent before arrives, what comes to it is thrown away.
    pub(super) fn close_link(&mut self, link: LinkId, role: Role) {
        let Some(known) = self.network.get_mut(link) else { return };
        let by = known.side_of(role);
        if !known.end(by).open && known.broken {
            return;
        }
        known.broken = true;
        let lost = known.pipe_to(by).cut(0, || 0);
        self.throw_away(link, by, lost);
        let now = self.now();
        self.trace.note(now, &[7, link.get(), by as u64], || format!("link {} is closed by its {by:?}", link.get()));
        let delay = self.network_delay();
        self.send_arrival(link, by, 1_000, Arrival::Unlinked);
        self.send_across(link, by.other(), delay, Arrival::Unlinked);
    }

    /// A link breaks. Of what is under way each way the first part still arrives, perhaps late.
    pub(super) fn break_link(&mut self, link: LinkId) {
        let late = *self.chance.pick(&[1, 1_000_000, 50_000_000, 400_000_000]);
        let now = self.now();
        self.trace.note(now, &[8, link.get()], || format!("link {} breaks", link.get()));
        let of_peers = self.network.get(link).is_some_and(|known| matches!(known.end(Side::Caller).role, Role::Server(_)));
        for side in [Side::Caller, Side::Listener] {
            let Some(known) = self.network.get_mut(link) else { return };
            known.broken = true;
            let under_way = known.pipe_to(side).len();
            // The caller may wait for `Linked` for ever otherwise.
            let keep = self.chance.index(under_way + 1).max(usize::from(!known.end(side).open));
            // Requests and answers of peers may both come when the next link is up already.
            let late = if side == Side::Listener || of_peers { late } else { 1 };
            let chance = &mut self.chance;
            let lost = known.pipe_to(side).cut(keep, || chance.below(late));
            self.throw_away(link, side, lost);
            let delay = self.network_delay() + self.chance.below(late);
            self.send_arrival(link, side, delay, Arrival::Unlinked);
        }
        self.counts.link_losses += 1;
    }

    /// Frames handed over inside a process carry a use of their buffer.
    fn throw_away(&mut self, link: LinkId, to: Side, lost: Vec<Arrival>) {
        let Some(end) = self.network.get(link).map(|known| known.end(to)) else { return };
        if !self.is_alive(end.process, end.life) {
            return;
        }
        for arrival in lost {
            if let Arrival::Handed(frame) = arrival
                && let Some(span) = payload_of(&frame)
            {
                self.processes[end.process.0].buffers.release(span.buffer);
            }
        }
    }

    /// A process has died: its links break; the bytes it had sent may still arrive.
    pub(super) fn break_links_of(&mut self, process: ProcessIndex) {
        for link in self.network.of(process) {
            let Some(known) = self.network.get_mut(link) else { continue };
            let was_broken = core::mem::replace(&mut known.broken, true);
            for side in [Side::Caller, Side::Listener] {
                let Some(known) = self.network.get_mut(link) else { continue };
                if known.end(side).process == process && !self.processes[process.0].alive {
                    known.end_mut(side).open = false;
                    let _ = known.pipe_to(side).cut(0, || 0);
                } else if !was_broken {
                    let under_way = known.pipe_to(side).len();
                    let keep = self.chance.index(under_way + 1).max(usize::from(!known.end(side).open));
                    let _ = known.pipe_to(side).cut(keep, || 0);
                    let delay = self.death_shows_after(process);
                    self.send_across(link, side, delay, Arrival::Unlinked);
                }
            }
            self.network.forget_if_over(link);
        }
        let clients = self.processes[process.0].clients.clone();
        for client in clients {
            self.clients[client].links.clear();
        }
    }

    /// When the other end of a link notices that a process is dead: at once, or, of a host without power, only when the host is
    /// back and knows nothing of the link.
    fn death_shows_after(&mut self, process: ProcessIndex) -> u64 {
        let delay = self.network_delay();
        if self.hosts[self.processes[process.0].host].is_dark { delay + self.chance.below(DARK_NS) } else { delay }
    }

    /// A machine's deadline.
    pub(super) fn wake(&mut self, role: Role, life: u64) {
        match role {
            Role::Server(server) => {
                if self.is_alive(self.servers[server].process, life) {
                    self.servers[server].wake_at = None;
                    self.step_server(server, replica::Input::Wake);
                }
            }
            Role::Client(client) => {
                if self.is_alive(self.clients[client].process, life) {
                    self.clients[client].wake_at = None;
                    self.step_client(client, volume::Input::Wake);
                }
            }
        }
    }
}

/// The server that listens at an address.
fn server_at(address: &str) -> Option<usize> {
    address.strip_prefix("sds-")?.split(':').next()?.parse().ok()
}

pub(super) fn payload_of(frame: &Frame) -> Option<Span> {
    match frame.body {
        Body::Payload { span, .. } => Some(span),
        Body::Empty | Body::Hello(_) => None,
    }
}

/// The budget a payload is received from, as in the ring: answers before requests.
fn class_of(head: &[u8]) -> BufferClass {
    match decode_head(head) {
        Ok(Some((decoded, _))) => decoded.header().opcode.payload_class(),
        Ok(None) | Err(_) => BufferClass::Client,
    }
}
