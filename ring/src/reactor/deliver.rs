//! Completions and messages on their way to roles.
//!
//! Invariant: whatever cannot be delivered (its link is gone) gives its buffer back.

use super::Loop;
use super::core::{Core, Event, News};
use super::endpoints::Endpoint;
use crate::limits::{LOCAL_MESSAGES_PER_TURN, OUTGOING_LOW_BYTES};
use crate::ring::Completion;
use crate::role::{Closed, LinkEvent, Protocol, RoleIndex, StreamEvent, StreamId, Wake};
use crate::stream::{Arrival, State, Taken};
use crate::tag::{Kind, Tag};
use sds_core::buffer::Buffers;
use sds_core::machine::LinkId;
use sds_core::wire::decode_head;
use sds_core::wire::{Body, Frame};

/// How often the kernel may ask for a disk request to be tried again before that counts as its answer.
const RETRIES_MAX: u8 = 16;

const fn is_transient(result: i32) -> bool {
    result == -libc::EAGAIN || result == -libc::EINTR
}

impl Loop {
    /// One completion of the ring.
    pub(super) fn dispatch(&mut self, completion: Completion) {
        let Some(tag) = Tag::from_user_data(completion.user_data) else {
            tracing::error!(user_data = completion.user_data, "a completion that nobody asked for");
            return;
        };
        match tag.kind {
            Kind::Disk => self.disk_ended(tag.slot, completion.result),
            Kind::Receive => self.received(tag.slot, completion),
            Kind::Send => self.core.sent(tag.slot, completion.result),
            Kind::Connect => self.core.connect_ended(tag.slot, completion.result),
            Kind::Accept => self.core.accepted(tag.slot as usize, completion.result, completion.more()),
            Kind::Wake => self.woken(),
            Kind::Cancel => {}
        }
    }

    fn disk_ended(&mut self, slot: u32, result: i32) {
        if is_transient(result)
            && let Some(request) = self.core.requests.get_mut(slot).filter(|request| request.retries < RETRIES_MAX)
        {
            request.retries += 1;
            return self.core.submit_disk(slot);
        }
        let Some(request) = self.core.requests.remove(slot) else { return };
        if let Some((span, writes)) = request.operation.span() {
            self.core.pool.end(span, writes);
        }
        let (role, mut turn) = self.role(request.role);
        role.on_disk(&mut turn, request.tag, request.operation.outcome(result));
    }

    fn woken(&mut self) {
        self.core.watch_wakes();
        let bits = self.core.shared.take_roles();
        for index in 0..self.roles.0.len() {
            if bits & (1 << index) != 0 {
                let (role, mut turn) = self.role(RoleIndex::new(index));
                role.on_wake(&mut turn, Wake::Notified);
            }
        }
    }

    fn received(&mut self, slot: u32, completion: Completion) {
        let core = &mut *self.core;
        let Some(stream) = core.endpoints.stream_mut(slot) else { return };
        let arrival = stream.on_received(completion, &mut core.pool);
        if !stream.is_open() {
            return core.free_if_done(slot);
        }
        match arrival {
            Ok(Arrival::Bytes | Arrival::Payload) => {
                core.mark(slot);
                self.resume(slot);
            }
            Err(reason) => core.fail(slot, reason),
        }
    }

    /// Shows a stream's owner what has come.
    fn resume(&mut self, slot: u32) {
        let Some(stream) = self.core.endpoints.stream(slot) else { return };
        let (role, protocol) = (stream.role, stream.protocol);
        match protocol {
            Protocol::Frames => {
                let link = LinkId::new(self.core.endpoints.id(slot));
                while let Some(frame) = self.core.next_frame(slot) {
                    let (role, mut turn) = self.role(role);
                    role.on_link(&mut turn, link, LinkEvent::Frame(&frame));
                }
            }
            Protocol::Raw => {
                if let Some(event) = self.core.raw_event(slot) {
                    let id = StreamId(self.core.endpoints.id(slot));
                    let (role, mut turn) = self.role(role);
                    role.on_stream(&mut turn, id, event);
                    self.core.close_if_stuck(slot);
                }
            }
        }
        self.core.mark(slot);
    }

    /// Hands out what waits, until there is nothing or the bound of a turn is reached.
    pub(super) fn deliver_all(&mut self) {
        for _ in 0..LOCAL_MESSAGES_PER_TURN {
            let Some(event) = self.core.events.pop_front() else { return };
            self.deliver(event);
        }
    }

    fn deliver(&mut self, event: Event) {
        let Event { role, protocol, id, news } = event;
        let alive = self.core.endpoints.slot(id);
        match protocol {
            Protocol::Frames => {
                let link = LinkId::new(id);
                match news {
                    News::Up { connect, .. } => {
                        if alive.is_some() {
                            self.tell_link(role, link, LinkEvent::Linked { connect });
                        }
                    }
                    News::ConnectFailed { connect, reason } => self.tell_link(role, link, LinkEvent::ConnectFailed { connect, reason }),
                    News::Frame(frame) => {
                        if alive.is_some() {
                            self.tell_link(role, link, LinkEvent::Frame(&frame));
                        } else {
                            self.core.give_back(&frame);
                        }
                    }
                    News::Resume => {
                        if let Some(slot) = alive {
                            self.resume(slot);
                        }
                    }
                    News::Writable => {
                        if alive.is_some() {
                            self.tell_link(role, link, LinkEvent::Writable);
                        }
                    }
                    News::Closed { reason } => {
                        // A local end is taken away here, after the frames that were sent before the close.
                        if let Some((slot, Endpoint::Local { .. })) = self.core.endpoints.endpoint(id) {
                            self.core.endpoints.remove(slot);
                        }
                        self.tell_link(role, link, LinkEvent::Unlinked { reason });
                    }
                }
            }
            Protocol::Raw => {
                let event = match news {
                    News::Up { listener: Some(listener), .. } => StreamEvent::Accepted { listener },
                    News::Up { connect, .. } => StreamEvent::Connected { connect: connect.unwrap_or(0) },
                    News::Resume => {
                        if let Some(slot) = alive {
                            self.resume(slot);
                        }
                        return;
                    }
                    News::Writable => StreamEvent::Writable,
                    News::ConnectFailed { connect, reason } => StreamEvent::ConnectFailed { connect, reason },
                    News::Closed { reason } => StreamEvent::Closed { reason },
                    News::Frame(frame) => return self.core.give_back(&frame),
                };
                let (role, mut turn) = self.role(role);
                role.on_stream(&mut turn, StreamId(id), event);
            }
        }
    }

    fn tell_link(&mut self, role: RoleIndex, link: LinkId, event: LinkEvent<'_>) {
        let (role, mut turn) = self.role(role);
        role.on_link(&mut turn, link, event);
    }
}

impl Core {
    /// A send has ended.
    pub(super) fn sent(&mut self, slot: u32, result: i32) {
        let target = self.target(slot);
        let Some(stream) = self.endpoints.stream_mut(slot) else { return };
        match stream.outgoing.complete(slot, target, result, &mut self.ring, &mut self.pool) {
            Err(fault) => self.check(Err(fault)),
            Ok(Err(reason)) => self.fail(slot, reason),
            Ok(Ok(_)) => self.sent_some(slot),
        }
        self.free_if_done(slot);
    }

    fn sent_some(&mut self, slot: u32) {
        let Some(stream) = self.endpoints.stream_mut(slot) else { return };
        if matches!(stream.state, State::Finishing { .. }) && stream.outgoing.is_idle() {
            return self.kill(slot);
        }
        let (role, protocol) = (stream.role, stream.protocol);
        let relieved = stream.is_open() && stream.outgoing.queued() <= OUTGOING_LOW_BYTES;
        let resume = relieved && std::mem::take(&mut stream.throttled);
        let writable = relieved && std::mem::take(&mut stream.wants_writable);
        let id = self.endpoints.id(slot);
        if resume {
            self.tell(role, protocol, id, News::Resume);
        }
        if writable {
            self.tell(role, protocol, id, News::Writable);
        }
        self.mark(slot);
    }

    /// The next whole frame of a stream.
    fn next_frame(&mut self, slot: u32) -> Option<Frame> {
        let id = self.endpoints.id(slot);
        let stream = self.endpoints.stream_mut(slot)?;
        if !stream.is_open() || stream.paused || stream.throttled {
            return None;
        }
        let taken = if stream.incoming.is_waiting() {
            stream.incoming.progress(&mut self.pool)
        } else {
            match decode_head(stream.incoming.available()) {
                Ok(Some((head, used))) => {
                    stream.incoming.consume(used);
                    if head.payload_len() == 0 {
                        return Some(head.into_frame(None));
                    }
                    stream.head = Some(head);
                    stream.incoming.want(head.header().opcode.payload_class(), 0, head.payload_len(), &mut self.pool)
                }
                Ok(None) => return None,
                Err(error) => {
                    self.fail(slot, Closed::Frame(error));
                    return None;
                }
            }
        };
        match taken {
            Taken::Ready(span) => stream.head.take().map(|head| head.into_frame(Some(span))),
            Taken::Waiting => None,
            Taken::NoBuffer => {
                self.starved.push(id);
                None
            }
        }
    }

    /// What to tell the owner of a raw stream on which something has come.
    fn raw_event(&mut self, slot: u32) -> Option<StreamEvent> {
        let id = self.endpoints.id(slot);
        let stream = self.endpoints.stream_mut(slot)?;
        if !stream.is_open() || stream.paused || stream.throttled {
            return None;
        }
        if !stream.incoming.is_waiting() {
            return (!stream.incoming.available().is_empty()).then_some(StreamEvent::Readable);
        }
        match stream.incoming.progress(&mut self.pool) {
            Taken::Ready(span) => Some(StreamEvent::Received(span)),
            Taken::Waiting => None,
            Taken::NoBuffer => {
                self.starved.push(id);
                None
            }
        }
    }

    /// Closes a stream whose owner leaves more bytes unread than are kept.
    fn close_if_stuck(&mut self, slot: u32) {
        let stuck = self.endpoints.stream(slot).is_some_and(|stream| !stream.paused && stream.incoming.is_stuck());
        if stuck {
            self.fail(slot, Closed::Unread);
        }
    }

    /// Ends the use that an undeliverable frame carries.
    pub(super) fn give_back(&mut self, frame: &Frame) {
        if let Body::Payload { span, .. } = &frame.body {
            self.pool.release(span.buffer);
        }
    }
}
