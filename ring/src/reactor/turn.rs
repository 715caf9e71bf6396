//! What a role can do in its turn.
//!
//! Invariant: nothing here waits; what is asked for is submitted with everything else at the end of
//! the turn. Names of things that are gone are ignored (and give their buffers back).

use super::core::{Core, News};
use super::endpoints::Endpoint;
use crate::address::Address;
use crate::disk::{DiskId, Operation};
use crate::error::RingError;
use crate::limits::{OUTGOING_HIGH_BYTES, OUTGOING_MAX_BYTES};
use crate::pool::BufferPool;
use crate::role::{Closed, Protocol, RoleIndex, StreamId};
use crate::stream::{Payload, Taken};
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::machine::LinkId;
use sds_core::unit::{ByteOffset, Nanos};
use sds_core::wire::{Body, Frame};
use sds_core::wire::{HEAD_BYTES_MAX, HeadBytes, encode_head};
use std::os::fd::OwnedFd;

/// A listening socket of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub(crate) u8);

/// A role's access to its loop for the time of one call.
#[derive(Debug)]
pub struct Turn<'a> {
    core: &'a mut Core,
    role: RoleIndex,
}

impl<'a> Turn<'a> {
    pub(super) const fn new(core: &'a mut Core, role: RoleIndex) -> Self {
        Self { core, role }
    }

    /// When this turn began.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.core.now
    }

    /// The memory, for the machine.
    pub fn pool(&mut self) -> &mut BufferPool {
        &mut self.core.pool
    }

    /// `io_uring_enter` calls of the loop so far.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.core.ring.enters()
    }

    /// When the oldest disk request of the loop began.
    #[must_use]
    pub fn oldest_disk_request(&self) -> Option<Nanos> {
        self.core.requests.oldest()
    }

    // Disks.

    /// Takes an open device (O_DIRECT) into the loop, which keeps it open until it ends.
    ///
    /// # Errors
    /// When there are as many as fit.
    pub fn add_disk(&mut self, fd: OwnedFd) -> Result<DiskId, RingError> {
        self.core.add_disk(fd)
    }

    /// Reads device bytes into a span; [`crate::Role::on_disk`] gets `tag`.
    pub fn disk_read(&mut self, disk: DiskId, offset: ByteOffset, span: Span, tag: u64) {
        self.core.disk(self.role, disk, tag, Operation::Read { offset, span });
    }

    /// Writes a span; if `durable`, it survives a power cut once it has completed.
    pub fn disk_write(&mut self, disk: DiskId, offset: ByteOffset, span: Span, durable: bool, tag: u64) {
        self.core.disk(self.role, disk, tag, Operation::Write { offset, span, durable });
    }

    /// Makes everything that has completed on the disk durable.
    pub fn disk_flush(&mut self, disk: DiskId, tag: u64) {
        self.core.disk(self.role, disk, tag, Operation::Flush);
    }

    // Links and streams.

    /// Listens for connections. The answer has the real port where 0 was asked for. An address of
    /// [`Protocol::Frames`] also leads roles of this loop here, without a socket.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub fn listen(&mut self, address: &Address, protocol: Protocol) -> Result<(ListenerId, Address), RingError> {
        let (id, bound) = self.core.listen(self.role, address, protocol)?;
        if protocol == Protocol::Frames {
            self.announce(bound.clone());
        }
        Ok((id, bound))
    }

    /// Listens on raw bytes at all of the addresses, or, if one of them cannot be had, at none.
    pub fn listen_all_raw(&mut self, addresses: &[Address]) -> Result<Vec<(ListenerId, Address)>, RingError> {
        self.core.listen_all(self.role, addresses, Protocol::Raw)
    }

    /// Says that an address (as the MDM tells it to others) leads to this role.
    pub fn announce(&mut self, address: Address) {
        self.core.local.push((address, self.role));
    }

    /// Connects to the first address that answers; a role of this loop that listens on one of them is
    /// reached without a socket. The event carries `number`; until then there is nothing to name.
    pub fn connect(&mut self, protocol: Protocol, number: u64, addresses: Vec<Address>) {
        self.core.connect(self.role, protocol, number, addresses);
    }

    /// Sends a frame; takes one use of its buffer. Dropped if the link is gone.
    pub fn send_frame(&mut self, link: LinkId, frame: &Frame) {
        let id = link.get();
        match self.core.endpoints.endpoint(id) {
            Some((_, Endpoint::Local { peer, .. })) => {
                let peer = *peer;
                match self.core.endpoints.endpoint(peer) {
                    Some((_, Endpoint::Local { role, .. })) => {
                        let role = *role;
                        self.core.tell(role, Protocol::Frames, peer, News::Frame(*frame));
                    }
                    Some((_, Endpoint::Stream(_) | Endpoint::Free)) | None => self.core.give_back(frame),
                }
            }
            Some((slot, Endpoint::Stream(_))) => {
                let mut head: HeadBytes = [0; HEAD_BYTES_MAX];
                let len = encode_head(frame, &mut head);
                let payload = match &frame.body {
                    Body::Payload { span, .. } => Payload::Span(*span),
                    Body::Empty | Body::Hello(_) => Payload::None,
                };
                self.push(slot, &head[..len], payload);
            }
            Some((_, Endpoint::Free)) | None => self.core.give_back(frame),
        }
    }

    /// Closes a link once what was sent on it is out; nothing more is received. `Unlinked` follows.
    pub fn close_link(&mut self, link: LinkId) {
        let id = link.get();
        match self.core.endpoints.endpoint(id) {
            Some((slot, Endpoint::Local { peer, .. })) => {
                let peer = *peer;
                self.core.close_local(slot, peer);
            }
            Some((slot, Endpoint::Stream(_))) => self.core.finish(slot),
            Some((_, Endpoint::Free)) | None => {}
        }
    }

    /// Queues bytes on a raw stream: `head` is copied, one use of a payload's buffer is taken. Bounded: ask
    /// [`Self::wants_pause`] before going on; a stream whose owner does not is closed in the end.
    pub fn send(&mut self, stream: StreamId, head: &[u8], payload: Payload) {
        match self.core.endpoints.endpoint(stream.0) {
            Some((slot, Endpoint::Stream(_))) => self.push(slot, head, payload),
            Some((_, Endpoint::Local { .. } | Endpoint::Free)) | None => self.drop_payload(payload),
        }
    }

    fn push(&mut self, slot: u32, head: &[u8], payload: Payload) {
        let Some(stream) = self.core.endpoints.stream_mut(slot).filter(|stream| stream.is_open()) else {
            return self.drop_payload(payload);
        };
        stream.outgoing.push(head, payload);
        let queued = stream.outgoing.queued();
        // Whoever does not read its answers is not read from.
        stream.throttled |= queued > OUTGOING_HIGH_BYTES;
        self.core.mark(slot);
        if queued > OUTGOING_MAX_BYTES {
            self.core.fail(slot, Closed::Overrun);
        }
    }

    fn drop_payload(&mut self, payload: Payload) {
        if let Payload::Span(span) = payload {
            self.core.pool.release(span.buffer);
        }
    }

    /// Closes a raw stream once what was sent on it is out; nothing more is received. `Closed` follows.
    pub fn close(&mut self, stream: StreamId) {
        if let Some((slot, Endpoint::Stream(_))) = self.core.endpoints.endpoint(stream.0) {
            self.core.finish(slot);
        }
    }

    /// Whether so much is queued on a link that its owner should hold back what it has for it. If so,
    /// `Writable` comes when it can go on.
    pub fn wants_pause(&mut self, link: LinkId) -> bool {
        self.wants_pause_id(link.get())
    }

    /// As [`Self::wants_pause`], for a raw stream.
    pub fn stream_wants_pause(&mut self, stream: StreamId) -> bool {
        self.wants_pause_id(stream.0)
    }

    fn wants_pause_id(&mut self, id: u64) -> bool {
        let Some(stream) = self.core.endpoints.slot(id).and_then(|slot| self.core.endpoints.stream_mut(slot)) else { return false };
        let full = stream.outgoing.queued() > OUTGOING_HIGH_BYTES;
        stream.wants_writable |= full;
        full
    }

    /// Bytes that have come on a raw stream and were not consumed; empty while a payload is waited for.
    #[must_use]
    pub fn available(&self, stream: StreamId) -> &[u8] {
        let stream = self.core.endpoints.slot(stream.0).and_then(|slot| self.core.endpoints.stream(slot));
        stream.filter(|stream| stream.is_open()).map_or(&[], |stream| stream.incoming.available())
    }

    /// As [`Self::available`], and the memory to put them into.
    pub fn available_and_pool(&mut self, stream: StreamId) -> (&[u8], &mut BufferPool) {
        let core = &mut *self.core;
        let stream = core.endpoints.slot(stream.0).and_then(|slot| core.endpoints.stream(slot));
        (stream.filter(|stream| stream.is_open()).map_or(&[], |stream| stream.incoming.available()), &mut core.pool)
    }

    /// Takes bytes of [`Self::available`].
    ///
    /// # Panics
    /// If more are taken than there are.
    pub fn consume(&mut self, stream: StreamId, count: usize) {
        if let Some(stream) = self.core.endpoints.slot(stream.0).and_then(|slot| self.core.endpoints.stream_mut(slot)) {
            stream.incoming.consume(count);
        }
    }

    /// Asks for the next `len` bytes of a raw stream (at least 1) in a buffer, from byte `start` of it on
    /// (together at most 128 KiB). Either they are there at once, with one use, or `Received` follows
    /// when they have come and a buffer is free; until then nothing else is to be read.
    ///
    /// # Panics
    /// If a payload is already waited for.
    pub fn receive(&mut self, stream: StreamId, class: BufferClass, start: u32, len: u32) -> Option<Span> {
        let core = &mut *self.core;
        let slot = core.endpoints.slot(stream.0)?;
        let entry = core.endpoints.stream_mut(slot).filter(|stream| stream.is_open())?;
        match entry.incoming.want(class, start, len, &mut core.pool) {
            Taken::Ready(span) => Some(span),
            Taken::Waiting => None,
            Taken::NoBuffer => {
                core.starved.push(stream.0);
                None
            }
        }
    }

    /// As [`Self::receive`], into a span that its owner has chosen, of at least 64 KiB. Takes one use of its
    /// buffer and gives it back with the bytes; if the stream ends first, the use ends with it.
    ///
    /// # Panics
    /// If a payload is already waited for, or the span is shorter.
    pub fn receive_into(&mut self, stream: StreamId, span: Span) -> Option<Span> {
        let core = &mut *self.core;
        let open = core.endpoints.slot(stream.0).and_then(|slot| core.endpoints.stream_mut(slot)).filter(|stream| stream.is_open());
        let Some(entry) = open else {
            core.pool.release(span.buffer);
            return None;
        };
        match entry.incoming.want_into(span, &mut core.pool) {
            Taken::Ready(span) => Some(span),
            Taken::Waiting | Taken::NoBuffer => None,
        }
    }

    /// Stops or goes on reading from a raw stream. Going on brings `Readable` if bytes are left.
    pub fn pause(&mut self, stream: StreamId, paused: bool) {
        let Some(slot) = self.core.endpoints.slot(stream.0) else { return };
        let Some(entry) = self.core.endpoints.stream_mut(slot) else { return };
        if std::mem::replace(&mut entry.paused, paused) && !paused {
            let (role, protocol) = (entry.role, entry.protocol);
            self.core.tell(role, protocol, stream.0, News::Resume);
            self.core.mark(slot);
        }
    }
}
