//! Links of the world: connecting, sending, arriving, breaking.

use super::{Event, World};
use crate::buffers::Pin;
use crate::canary::Canary;
use crate::mdm::Role;
use crate::network::{Arrival, End, ProcessIndex, Side, to_bytes};
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::Checksum;
use sds_core::id::SdsId;
use sds_core::machine::LinkId;
use sds_core::replica::interface as replica;
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

/// How long a receiver without a buffer waits before it tries again.
const NO_BUFFER_NS: u64 = 50_000;

impl World {
    /// A client's connect comes to its server.
    pub(super) fn connect_arrives(&mut self, client: usize, life: u64, sds: SdsId, server: Option<usize>) {
        let from = self.clients[client].process;
        if !self.is_alive(from, life) {
            return;
        }
        let up = server.filter(|server| {
            let process = self.servers[*server].process;
            self.processes[process.0].alive && self.servers[*server].machine.is_some()
        });
        let Some(server) = up else {
            return self.step_client(client, volume::Input::ConnectFailed { sds });
        };
        let to = self.servers[server].process;
        let end = |process: ProcessIndex, role: usize, life: u64| End { process, role, life, open: false };
        let link = self.network.connect(end(from, client, life), end(to, server, self.processes[to.0].life));
        let now = self.now();
        self.trace.note(now, &[4, client as u64, server as u64, link.get()], || {
            format!("client {client} links to server {server}: link {}", link.get())
        });
        self.clients[client].links.push((link, sds));
        let there = self.network_delay();
        let back = there + self.network_delay();
        self.send_arrival(link, Side::Server, there, Arrival::Linked);
        self.send_arrival(link, Side::Client, back, Arrival::Linked);
    }

    fn send_arrival(&mut self, link: LinkId, to: Side, delay: u64, arrival: Arrival) {
        let at = self.now().plus(sds_core::unit::Nanos::new(delay));
        let Some(known) = self.network.get_mut(link) else { return };
        if let Some(at) = known.pipe_to(to).push(at, arrival) {
            self.schedule.at(at, Event::Link { link, side: to });
        }
    }

    /// A machine sends a frame; its buffer's use has passed to the shell.
    pub(super) fn send_frame(&mut self, from: ProcessIndex, link: LinkId, by: Side, mut frame: Frame) {
        let life = self.processes[from.0].life;
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
        if self.canary == Some(Canary::FenceLifted) && by == Side::Client {
            let newest = self.newest_session.get(header.volume.get() as usize).copied().unwrap_or(0);
            if header.generation.get() > 0 && newest > 0 {
                frame.header.generation = sds_core::id::SessionGeneration::new(newest.max(header.generation.get()));
            }
        }
        if local {
            return self.send_arrival(link, by.other(), 200, Arrival::Handed(frame));
        }
        let mut arrival = to_bytes(&frame, &self.processes[from.0].buffers);
        if let Some(span) = span {
            // The socket takes the bytes in its own time.
            let pin = self.processes[from.0].buffers.begin_reading(span);
            let time = self.chance.below(delay) + 1;
            self.schedule.after(time, Event::Sent { process: from, life, pin });
            self.spoil(&frame, &mut arrival);
        }
        self.send_arrival(link, by.other(), delay, arrival);
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
            Some(Arrival::Handed(frame)) if alive && end.open => self.deliver(link, side, end.role, &frame),
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
                match side {
                    Side::Server => self.step_server(end.role, replica::Input::Linked { link }),
                    Side::Client => {
                        let Some((_, sds)) = self.clients[end.role].links.iter().find(|(known, _)| *known == link).copied() else { return };
                        self.step_client(end.role, volume::Input::Linked { sds, link });
                        self.deliver_ghosts(end.role);
                    }
                }
            }
            Some(Arrival::Unlinked) => {
                let open = core::mem::take(&mut self.network.get_mut(link).expect("looked up above").end_mut(side).open);
                if alive && open {
                    let now = self.now();
                    self.trace.note(now, &[6, link.get(), side as u64], || format!("link {} is gone for its {side:?}", link.get()));
                    match side {
                        Side::Server => self.step_server(end.role, replica::Input::Unlinked { link }),
                        Side::Client => {
                            self.clients[end.role].links.retain(|(known, _)| *known != link);
                            self.step_client(end.role, volume::Input::Unlinked { link });
                        }
                    }
                }
                self.network.forget_if_over(link);
            }
            Some(Arrival::Bytes { head, payload }) if alive && end.open => self.deliver_bytes(link, side, end, &head, None, payload),
            Some(Arrival::Linked | Arrival::Bytes { .. }) => {}
        }
    }

    fn pump(&mut self, link: LinkId, side: Side, next: Option<sds_core::unit::Nanos>) {
        if let Some(at) = next {
            self.schedule.at(at, Event::Link { link, side });
        }
    }

    fn deliver_bytes(&mut self, link: LinkId, side: Side, end: End, head: &[u8], span: Option<Span>, payload: Vec<u8>) {
        match decode_head(head) {
            Ok(Some((decoded, used))) if used == head.len() => {
                let frame = decoded.into_frame(span);
                self.remember_ghost(side, end, &frame, head, payload);
                self.deliver(link, side, end.role, &frame);
            }
            other => self.violate(format!("a frame that was encoded cannot be decoded: {other:?}")),
        }
    }

    fn deliver(&mut self, link: LinkId, side: Side, role: usize, frame: &Frame) {
        match side {
            Side::Server => self.step_server(role, replica::Input::Frame { link, frame }),
            Side::Client => self.step_client(role, volume::Input::Frame { link, frame }),
        }
    }

    /// The canary of a ghost write keeps some write frames.
    fn remember_ghost(&mut self, side: Side, end: End, frame: &Frame, head: &[u8], payload: Vec<u8>) {
        if self.canary == Some(Canary::GhostDelivered)
            && side == Side::Server
            && frame.header.opcode == Opcode::Write
            && self.chance.chance(1, 4)
        {
            let client = self.clients.iter().position(|client| {
                client.links.iter().any(|(link, _)| self.network.get(*link).is_some_and(|link| link.end(Side::Server) == end))
            });
            if let Some(client) = client {
                self.ghosts.push(Ghost { server: end.role, client, head: head.to_vec(), payload });
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
            let newest =
                self.clients[client].links.iter().rev().map(|(link, _)| *link).find(|link| {
                    self.network.get(*link).is_some_and(|known| known.end(Side::Server).role == ghost.server && !known.broken)
                });
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
            self.send_arrival(link, Side::Server, delay, Arrival::Bytes { head: bytes[..used].to_vec(), payload: ghost.payload });
        }
    }

    /// A machine closes a link: what it sent before arrives, what comes to it is thrown away.
    pub(super) fn close_link(&mut self, link: LinkId, by: Side) {
        let Some(known) = self.network.get_mut(link) else { return };
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
        self.send_arrival(link, by.other(), delay, Arrival::Unlinked);
    }

    /// A link breaks. Of what is under way each way the first part still arrives, perhaps late.
    pub(super) fn break_link(&mut self, link: LinkId) {
        let late = *self.chance.pick(&[1, 1_000_000, 50_000_000, 400_000_000]);
        let now = self.now();
        self.trace.note(now, &[8, link.get()], || format!("link {} breaks", link.get()));
        for side in [Side::Client, Side::Server] {
            let Some(known) = self.network.get_mut(link) else { return };
            known.broken = true;
            let under_way = known.pipe_to(side).len();
            // The client may wait for `Linked` for ever otherwise.
            let keep = self.chance.index(under_way + 1).max(usize::from(!known.end(side).open));
            let late = if side == Side::Server { late } else { 1 };
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
            for side in [Side::Client, Side::Server] {
                let Some(known) = self.network.get_mut(link) else { continue };
                if known.end(side).process == process && !self.processes[process.0].alive {
                    known.end_mut(side).open = false;
                    let _ = known.pipe_to(side).cut(0, || 0);
                } else if !was_broken {
                    let under_way = known.pipe_to(side).len();
                    let keep = self.chance.index(under_way + 1).max(usize::from(!known.end(side).open));
                    let _ = known.pipe_to(side).cut(keep, || 0);
                    let delay = self.network_delay();
                    self.send_arrival(link, side, delay, Arrival::Unlinked);
                }
            }
            self.network.forget_if_over(link);
        }
        let clients = self.processes[process.0].clients.clone();
        for client in clients {
            self.clients[client].links.clear();
        }
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

pub(super) fn payload_of(frame: &Frame) -> Option<Span> {
    match frame.body {
        Body::Payload { span, .. } => Some(span),
        Body::Empty | Body::Hello(_) => None,
    }
}

/// The budget a payload is received from, as in the ring: answers before requests.
fn class_of(head: &[u8]) -> BufferClass {
    match decode_head(head) {
        Ok(Some((decoded, _))) => match decoded.header().opcode {
            Opcode::ReadReply | Opcode::BlockStatusReply | Opcode::Replicate => BufferClass::Replicate,
            Opcode::Hello
            | Opcode::HelloReply
            | Opcode::Read
            | Opcode::Write
            | Opcode::WriteFragment
            | Opcode::WriteReply
            | Opcode::Zero
            | Opcode::Flush
            | Opcode::FlushReply
            | Opcode::BlockStatus
            | Opcode::ReplicateZero
            | Opcode::ReplicateReply
            | Opcode::ReplicateFlush
            | Opcode::ReplicateFlushReply
            | Opcode::Beacon
            | Opcode::Grant => BufferClass::Client,
        },
        Ok(None) | Err(_) => BufferClass::Client,
    }
}
