//! What a loop owns besides its roles: ring, memory, disks, listeners, streams, and the events that
//! wait to be delivered.
//!
//! Invariant: a failure of the ring itself is kept in `fault` and ends the loop; nothing here panics
//! because of what a disk or a peer did.

use super::LoopOptions;
use super::endpoints::{Endpoint, Endpoints};
use super::turn::ListenerId;
use crate::address::Address;
use crate::disk::{Disk, DiskId, Operation, Requests};
use crate::error::RingError;
use crate::limits::{DISKS_MAX, LISTENERS_MAX};
use crate::pool::BufferPool;
use crate::region::Region;
use crate::ring::{Ring, Target, with_target};
use crate::role::{Closed, Protocol, RoleIndex};
use crate::stream::{State, Stream, socket};
use crate::tag::{Kind, Tag};
use crate::waker::Shared;
use io_uring::{opcode, squeue, types};
use sds_core::unit::Nanos;
use sds_core::wire::Frame;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// How long a connection attempt to one address may take.
const CONNECT_TIMEOUT: Nanos = Nanos::from_millis(5_000);
/// How long a closed stream may take to send what is queued.
const FINISH_TIMEOUT: Nanos = Nanos::from_millis(5_000);
/// Pause after an accept failed (no descriptors left).
const ACCEPT_PAUSE: Nanos = Nanos::from_millis(100);
/// How long the end of a loop waits for requests in flight.
const DRAIN_TIMEOUT: Nanos = Nanos::from_millis(30_000);

/// Something to tell a role about one of its streams or links.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "frames are the common case, and a box would be an allocation per I/O")]
pub(super) enum News {
    /// It is up: accepted (`None`) or connected.
    Up { listener: Option<ListenerId>, connect: Option<u64> },
    /// It could not be made.
    ConnectFailed { connect: u64, reason: Closed },
    /// A frame from a role of this loop.
    Frame(Frame),
    /// Look at its bytes again.
    Resume,
    /// It takes more.
    Writable,
    /// It is gone. Local: the other end closed, and this one is to be taken away.
    Closed { reason: Option<Closed> },
}

/// For whom.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) role: RoleIndex,
    pub(super) protocol: Protocol,
    pub(super) id: u64,
    pub(super) news: News,
}

#[derive(Debug)]
pub(super) struct Listener {
    fd: Option<OwnedFd>,
    role: RoleIndex,
    protocol: Protocol,
    /// An accept is in flight; the descriptor stays open until it has ended.
    armed: bool,
    retry: Option<Nanos>,
    /// Its role has ended.
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) ring: Ring,
    pub(super) pool: BufferPool,
    pub(super) now: Nanos,
    pub(super) disks: Vec<Disk>,
    pub(super) requests: Requests,
    pub(super) endpoints: Endpoints,
    pub(super) listeners: Vec<Listener>,
    /// Addresses that lead to a role of this loop.
    pub(super) local: Vec<(Address, RoleIndex)>,
    pub(super) events: VecDeque<Event>,
    /// Streams to look at before sleeping.
    dirty: Vec<u32>,
    /// Streams that wait for a buffer.
    pub(super) starved: Vec<u64>,
    /// Streams with a time limit (connecting, finishing).
    timed: Vec<u64>,
    /// Staging areas of streams that are gone.
    spare_staging: Vec<Region>,
    pub(super) shared: Arc<Shared>,
    wake_word: Box<[u8; 8]>,
    pub(super) fault: Option<RingError>,
}

impl Core {
    pub(super) fn new(options: &LoopOptions, pool: BufferPool, shared: Arc<Shared>) -> Result<Self, RingError> {
        let mut ring = Ring::new(options.optional_features)?;
        if options.optional_features {
            let (base, bytes) = pool.whole();
            // SAFETY: pool and ring are dropped together, the pool's mapping after the ring's last request (`Loop::drop`).
            if let Err(error) = unsafe { ring.register_memory(base, bytes) } {
                tracing::info!(
                    %error,
                    "buffers are not registered with io_uring (costs some CPU): raise RLIMIT_MEMLOCK above {bytes} bytes to have it"
                );
            }
        }
        Ok(Self {
            ring,
            pool,
            now: crate::clock::now(),
            disks: Vec::new(),
            requests: Requests::new(),
            endpoints: Endpoints::new(options.streams_max),
            listeners: Vec::new(),
            local: Vec::new(),
            events: VecDeque::with_capacity(256),
            dirty: Vec::with_capacity(256),
            starved: Vec::with_capacity(64),
            timed: Vec::with_capacity(64),
            spare_staging: Vec::new(),
            shared,
            wake_word: Box::new([0; 8]),
            fault: None,
        })
    }

    fn push(&mut self, entry: squeue::Entry, tag: Tag) {
        // SAFETY: every caller names memory that lives until the completion: the wake word is boxed in `self`, spans have
        // a use of their own, polls and accepts name none; descriptors stay open until their requests have ended.
        let result = unsafe { self.ring.push(entry, tag) };
        self.check(result);
    }

    pub(super) fn check(&mut self, result: Result<(), RingError>) {
        if let Err(fault) = result {
            self.fault.get_or_insert(fault);
        }
    }

    /// Waits for the eventfd.
    pub(super) fn watch_wakes(&mut self) {
        let entry = opcode::Read::new(types::Fd(self.shared.raw_fd()), self.wake_word.as_mut_ptr(), 8).build();
        self.push(entry, Tag::new(Kind::Wake, 0));
    }

    // Disks.

    pub(super) fn add_disk(&mut self, fd: OwnedFd) -> Result<DiskId, RingError> {
        let id = u16::try_from(self.disks.len()).ok().filter(|id| usize::from(*id) < DISKS_MAX);
        let Some(id) = id else { return Err(RingError::TooMany { what: "disks", limit: DISKS_MAX }) };
        let target = self.ring.register_file(fd.as_raw_fd());
        self.disks.push(Disk { fd, target });
        Ok(DiskId(id))
    }

    pub(super) fn disk(&mut self, role: RoleIndex, disk: DiskId, tag: u64, operation: Operation) {
        if let Some((span, writes)) = operation.span() {
            self.pool.begin(span, writes);
        }
        let slot = self.requests.insert(role, disk, tag, operation, self.now);
        self.submit_disk(slot);
    }

    /// Submits (again) a disk request of the table.
    pub(super) fn submit_disk(&mut self, slot: u32) {
        let Some(request) = self.requests.get(slot) else { return };
        let target = self.disks[usize::from(request.disk.0)].target;
        let entry = match request.operation {
            Operation::Read { offset, span } => {
                let pointer = self.pool.pointer(span);
                match self.ring.registered_part(self.pool.position(span), span.len as usize) {
                    Some(part) => {
                        with_target!(target, |fd| opcode::ReadFixed::new(fd, pointer, span.len, part).offset(offset.get()).build())
                    }
                    None => with_target!(target, |fd| opcode::Read::new(fd, pointer, span.len).offset(offset.get()).build()),
                }
            }
            Operation::Write { offset, span, durable } => {
                let pointer = self.pool.pointer(span).cast_const();
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                match self.ring.registered_part(self.pool.position(span), span.len as usize) {
                    Some(part) => with_target!(target, |fd| {
                        opcode::WriteFixed::new(fd, pointer, span.len, part).offset(offset.get()).rw_flags(flags).build()
                    }),
                    None => {
                        with_target!(target, |fd| opcode::Write::new(fd, pointer, span.len).offset(offset.get()).rw_flags(flags).build())
                    }
                }
            }
            Operation::Flush => {
                with_target!(target, |fd| opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build())
            }
        };
        self.push(entry, Tag::new(Kind::Disk, slot));
    }

    // Listeners.

    pub(super) fn listen(&mut self, role: RoleIndex, address: &Address, protocol: Protocol) -> Result<(ListenerId, Address), RingError> {
        if self.listeners.len() >= LISTENERS_MAX {
            return Err(RingError::TooMany { what: "listeners", limit: LISTENERS_MAX });
        }
        let (fd, bound) = socket::listen(address).map_err(|source| RingError::Listen { address: address.clone(), source })?;
        Ok((self.add_listener(role, fd, protocol), bound))
    }

    /// Listens on all of the addresses or on none: every socket is bound before the first accept is
    /// submitted, so that after a failure nothing is in flight on those that were.
    pub(super) fn listen_all(
        &mut self,
        role: RoleIndex,
        addresses: &[Address],
        protocol: Protocol,
    ) -> Result<Vec<(ListenerId, Address)>, RingError> {
        if addresses.len() > LISTENERS_MAX.saturating_sub(self.listeners.len()) {
            return Err(RingError::TooMany { what: "listeners", limit: LISTENERS_MAX });
        }
        let mut sockets: Vec<(OwnedFd, Address)> = Vec::with_capacity(addresses.len());
        for address in addresses {
            match socket::listen(address) {
                Ok(socket) => sockets.push(socket),
                Err(source) => {
                    for (_, bound) in sockets {
                        if let Address::Unix(path) = bound {
                            // Ours, made a moment ago; if it is gone already, so much the better.
                            let _ = std::fs::remove_file(path);
                        }
                    }
                    return Err(RingError::Listen { address: address.clone(), source });
                }
            }
        }
        Ok(sockets.into_iter().map(|(fd, bound)| (self.add_listener(role, fd, protocol), bound)).collect())
    }

    fn add_listener(&mut self, role: RoleIndex, fd: OwnedFd, protocol: Protocol) -> ListenerId {
        let slot = self.listeners.len();
        self.listeners.push(Listener { fd: Some(fd), role, protocol, armed: false, retry: None, closed: false });
        self.arm_listener(slot);
        ListenerId(u8::try_from(slot).unwrap_or(u8::MAX))
    }

    fn arm_listener(&mut self, slot: usize) {
        let Some(listener) = self.listeners.get_mut(slot) else { return };
        listener.retry = None;
        let Some(fd) = listener.fd.as_ref().map(|fd| types::Fd(fd.as_raw_fd())) else { return };
        listener.armed = true;
        let entry = if self.ring.features().multishot_accept {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build()
        } else {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build()
        };
        self.push(entry, Tag::new(Kind::Accept, u32::try_from(slot).unwrap_or(u32::MAX)));
    }

    /// A listener has something, or its accept has ended.
    pub(super) fn accepted(&mut self, slot: usize, result: i32, more: bool) {
        use std::os::fd::FromRawFd;
        let Some(listener) = self.listeners.get_mut(slot) else { return };
        let (role, protocol) = (listener.role, listener.protocol);
        if !more {
            listener.armed = false;
        }
        if listener.closed {
            if result >= 0 {
                // SAFETY: as below; it is closed at once.
                drop(unsafe { OwnedFd::from_raw_fd(result) });
            }
            if !more {
                listener.fd = None;
            }
            return;
        }
        if result < 0 {
            tracing::warn!(errno = -result, "a connection could not be accepted; trying again");
            if !more {
                listener.retry = Some(self.now.plus(ACCEPT_PAUSE));
            }
            return;
        }
        // SAFETY: the completion of an accept hands over a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(result) };
        socket::tune(&fd, protocol);
        match self.new_stream(role, protocol, State::Dead) {
            Some(slot_new) => {
                let id = self.endpoints.id(slot_new);
                if let Some((stream, ring)) = self.stream_and_ring(slot_new) {
                    stream.open(ring, fd);
                }
                self.mark(slot_new);
                let listener = ListenerId(u8::try_from(slot).unwrap_or(u8::MAX));
                self.tell(role, protocol, id, News::Up { listener: Some(listener), connect: None });
            }
            None => tracing::warn!(limit = self.endpoints.limit(), "a connection is refused: as many as allowed are open"),
        }
        if !more {
            self.arm_listener(slot);
        }
    }

    // Streams.

    pub(super) fn tell(&mut self, role: RoleIndex, protocol: Protocol, id: u64, news: News) {
        self.events.push_back(Event { role, protocol, id, news });
    }

    pub(super) fn stream_and_ring(&mut self, slot: u32) -> Option<(&mut Stream, &mut Ring)> {
        Some((self.endpoints.stream_mut(slot)?, &mut self.ring))
    }

    fn new_stream(&mut self, role: RoleIndex, protocol: Protocol, state: State) -> Option<u32> {
        if self.endpoints.is_full() {
            return None;
        }
        let incoming = match self.spare_staging.pop() {
            Some(staging) => crate::stream::Incoming::with_staging(staging),
            None => crate::stream::Incoming::new().ok()?,
        };
        self.endpoints.insert(Endpoint::Stream(Box::new(Stream::new(role, protocol, state, incoming))))
    }

    /// Begins to connect a role to the first of some addresses that answers.
    pub(super) fn connect(&mut self, role: RoleIndex, protocol: Protocol, number: u64, addresses: Vec<Address>) {
        if protocol == Protocol::Frames
            && let Some((_, other)) = self.local.iter().find(|(address, _)| addresses.contains(address))
        {
            return self.connect_local(role, number, *other);
        }
        let targets = crate::role::Targets { addresses, next: 0 };
        let state = State::Connecting { number, targets, expires: self.now };
        match self.new_stream(role, protocol, state) {
            Some(slot) => {
                self.timed.push(self.endpoints.id(slot));
                self.try_next_address(slot, Closed::NoAnswer);
            }
            None => {
                let reason = Closed::Error { errno: libc::EMFILE };
                self.tell(role, protocol, 0, News::ConnectFailed { connect: number, reason });
            }
        }
    }

    fn connect_local(&mut self, role: RoleIndex, number: u64, other: RoleIndex) {
        match self.endpoints.insert_pair(role, other) {
            Some((mine, theirs)) => {
                self.tell(other, Protocol::Frames, theirs, News::Up { listener: None, connect: None });
                self.tell(role, Protocol::Frames, mine, News::Up { listener: None, connect: Some(number) });
            }
            None => {
                let reason = Closed::Error { errno: libc::EMFILE };
                self.tell(role, Protocol::Frames, 0, News::ConnectFailed { connect: number, reason });
            }
        }
    }

    /// Tries a connecting stream's next address; fails it when there is none.
    fn try_next_address(&mut self, slot: u32, mut reason: Closed) {
        let now = self.now;
        loop {
            let Some(stream) = self.endpoints.stream_mut(slot) else { return };
            let State::Connecting { targets, expires, .. } = &mut stream.state else { return };
            let Some(address) = targets.addresses.get(targets.next) else {
                return self.fail(slot, reason);
            };
            targets.next += 1;
            *expires = now.plus(CONNECT_TIMEOUT);
            match socket::connect(address) {
                Ok(fd) => {
                    let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), u32::from(libc::POLLOUT.cast_unsigned())).build();
                    stream.fd = Some(fd);
                    stream.connecting = true;
                    return self.push(entry, Tag::new(Kind::Connect, slot));
                }
                Err(error) => reason = Closed::Error { errno: error.raw_os_error().unwrap_or(libc::EIO) },
            }
        }
    }

    /// A connection attempt has come through, failed or been cancelled.
    pub(super) fn connect_ended(&mut self, slot: u32, result: i32) {
        use std::os::fd::AsFd;
        let Some((stream, ring)) = self.stream_and_ring(slot) else { return };
        stream.connecting = false;
        let State::Connecting { number, .. } = &stream.state else { return self.free_if_done(slot) };
        let (number, protocol) = (*number, stream.protocol);
        let outcome = match stream.fd.take() {
            Some(fd) if result >= 0 => socket::connected(fd.as_fd(), protocol).map(|()| fd),
            Some(_) | None => Err(if result == -libc::ECANCELED { libc::ETIMEDOUT } else { result.saturating_neg() }),
        };
        match outcome {
            Ok(fd) => {
                stream.open(ring, fd);
                let role = stream.role;
                let id = self.endpoints.id(slot);
                self.mark(slot);
                self.tell(role, protocol, id, News::Up { listener: None, connect: Some(number) });
            }
            Err(errno) => self.try_next_address(slot, Closed::Error { errno }),
        }
    }

    /// Puts a stream on the list of those to look at before sleeping.
    pub(super) fn mark(&mut self, slot: u32) {
        if let Some(stream) = self.endpoints.stream_mut(slot)
            && !stream.dirty
        {
            stream.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Submits what streams have to send and to receive.
    pub(super) fn begin_dirty(&mut self) {
        for index in 0..self.dirty.len() {
            let slot = self.dirty[index];
            let Some(stream) = self.endpoints.stream_mut(slot) else { continue };
            stream.dirty = false;
            let result = stream.begin(slot, &mut self.ring, &mut self.pool);
            self.check(result);
        }
        self.dirty.clear();
    }

    /// A stream has failed: its role hears of it, and it is taken apart.
    pub(super) fn fail(&mut self, slot: u32, reason: Closed) {
        let Some(stream) = self.endpoints.stream_mut(slot) else { return };
        let (role, protocol) = (stream.role, stream.protocol);
        let news = match &stream.state {
            State::Connecting { number, .. } => Some(News::ConnectFailed { connect: *number, reason }),
            State::Open => Some(News::Closed { reason: Some(reason) }),
            State::Finishing { .. } | State::Dead => None,
        };
        if let Some(news) = news {
            let id = self.endpoints.id(slot);
            self.tell(role, protocol, id, news);
        }
        self.kill(slot);
    }

    /// A role lets go of a stream: what is queued is still sent.
    pub(super) fn finish(&mut self, slot: u32) {
        let expires = self.now.plus(FINISH_TIMEOUT);
        let Some(stream) = self.endpoints.stream_mut(slot) else { return };
        if !stream.is_open() {
            return;
        }
        stream.state = State::Finishing { expires };
        let (role, protocol, idle) = (stream.role, stream.protocol, stream.outgoing.is_idle());
        let id = self.endpoints.id(slot);
        self.tell(role, protocol, id, News::Closed { reason: None });
        if idle {
            self.kill(slot);
        } else {
            self.timed.push(id);
            self.mark(slot);
        }
    }

    pub(super) fn kill(&mut self, slot: u32) {
        if let Some(stream) = self.endpoints.stream_mut(slot) {
            let cancel = stream.connecting;
            stream.kill(&mut self.pool);
            if cancel {
                let entry = opcode::AsyncCancel::new(Tag::new(Kind::Connect, slot).to_user_data()).build();
                self.push(entry, Tag::new(Kind::Cancel, slot));
            }
        }
        self.free_if_done(slot);
    }

    /// Frees a dead stream's place once nothing of it is in flight.
    pub(super) fn free_if_done(&mut self, slot: u32) {
        let done = self.endpoints.stream_mut(slot).is_some_and(|stream| matches!(stream.state, State::Dead) && !stream.is_busy());
        if done && let Some(stream) = self.endpoints.remove_stream(slot) {
            if stream.fd.is_some() {
                self.ring.forget_file(stream.target);
            }
            self.spare_staging.push(stream.incoming.into_staging());
        }
    }

    /// Ends what has taken too long; tries listeners again.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        let mut index = 0;
        while index < self.timed.len() {
            let slot = self.endpoints.slot(self.timed[index]);
            let state = slot.and_then(|slot| Some((slot, &self.endpoints.stream(slot)?.state)));
            match state {
                Some((_, State::Connecting { expires, .. } | State::Finishing { expires })) if *expires > now => index += 1,
                Some((slot, State::Finishing { .. })) => {
                    self.timed.swap_remove(index);
                    self.kill(slot);
                }
                Some((slot, State::Connecting { .. })) => {
                    index += 1;
                    self.cancel_connect(slot);
                }
                Some((_, State::Open | State::Dead)) | None => {
                    self.timed.swap_remove(index);
                }
            }
        }
        for slot in 0..self.listeners.len() {
            if self.listeners[slot].retry.is_some_and(|retry| retry <= now) {
                self.arm_listener(slot);
            }
        }
    }

    /// The attempt ends with ECANCELED and the next address is tried.
    fn cancel_connect(&mut self, slot: u32) {
        let next = self.now.plus(CONNECT_TIMEOUT);
        if let Some(stream) = self.endpoints.stream_mut(slot)
            && let State::Connecting { expires, .. } = &mut stream.state
        {
            *expires = next;
            let entry = opcode::AsyncCancel::new(Tag::new(Kind::Connect, slot).to_user_data()).build();
            self.push(entry, Tag::new(Kind::Cancel, slot));
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Nanos> {
        let streams = self.timed.iter().filter_map(|id| match &self.endpoints.stream(self.endpoints.slot(*id)?)?.state {
            State::Connecting { expires, .. } | State::Finishing { expires } => Some(*expires),
            State::Open | State::Dead => None,
        });
        streams.chain(self.listeners.iter().filter_map(|listener| listener.retry)).min()
    }

    /// Buffers were freed: streams that wait for one go on.
    pub(super) fn retry_starved(&mut self) {
        for id in std::mem::take(&mut self.starved) {
            if let Some(stream) = self.endpoints.slot(id).and_then(|slot| self.endpoints.stream(slot)) {
                let (role, protocol) = (stream.role, stream.protocol);
                self.tell(role, protocol, id, News::Resume);
            }
        }
    }

    /// A role has ended: its listeners, streams and links end with it.
    pub(super) fn retire(&mut self, role: RoleIndex) {
        self.local.retain(|(_, owner)| *owner != role);
        for slot in 0..self.listeners.len() {
            let listener = &mut self.listeners[slot];
            if listener.role == role && !listener.closed {
                listener.closed = true;
                listener.retry = None;
                if listener.armed {
                    let tag = Tag::new(Kind::Accept, u32::try_from(slot).unwrap_or(u32::MAX));
                    self.push(opcode::AsyncCancel::new(tag.to_user_data()).build(), Tag::new(Kind::Cancel, 0));
                } else {
                    listener.fd = None;
                }
            }
        }
        for slot in 0..self.endpoints.places() {
            match self.endpoints.owner(slot) {
                Some((owner, None)) if owner == role => self.finish(slot),
                Some((owner, Some(peer))) if owner == role => self.close_local(slot, peer),
                Some(_) | None => {}
            }
        }
    }

    /// Takes one end of a local link away and tells the other.
    pub(super) fn close_local(&mut self, slot: u32, peer: u64) {
        let (owner, id) = (self.endpoints.owner(slot), self.endpoints.id(slot));
        self.endpoints.remove(slot);
        if let Some((_, Endpoint::Local { role, .. })) = self.endpoints.endpoint(peer) {
            let role = *role;
            self.tell(role, Protocol::Frames, peer, News::Closed { reason: Some(Closed::Peer) });
        }
        if let Some((owner, _)) = owner {
            self.tell(owner, Protocol::Frames, id, News::Closed { reason: None });
        }
    }

    /// Whether nothing waits to be delivered or looked at.
    pub(super) fn is_quiet(&self) -> bool {
        self.events.is_empty()
    }

    /// Ends everything: streams, accepts, the watch for wakes; waits for what is in flight.
    pub(super) fn drain(&mut self) {
        for slot in 0..self.endpoints.places() {
            self.kill(slot);
        }
        self.events.clear();
        self.push(opcode::AsyncCancel::new(Tag::new(Kind::Wake, 0).to_user_data()).build(), Tag::new(Kind::Cancel, 0));
        for slot in 0..self.listeners.len() {
            if self.listeners[slot].armed {
                let tag = Tag::new(Kind::Accept, u32::try_from(slot).unwrap_or(u32::MAX));
                self.push(opcode::AsyncCancel::new(tag.to_user_data()).build(), Tag::new(Kind::Cancel, 0));
            }
        }
        let end = crate::clock::now().plus(DRAIN_TIMEOUT);
        let mut completions = Vec::new();
        while self.ring.in_flight() > 0 && crate::clock::now() < end {
            if self.ring.submit_and_wait(Some(Nanos::from_millis(1_000))).is_err() {
                return;
            }
            self.ring.reap(&mut completions, usize::MAX);
            completions.clear();
        }
    }

    /// Target of a stream, for completions that submit again.
    pub(super) fn target(&self, slot: u32) -> Target {
        self.endpoints.stream(slot).map_or(Target::Plain(-1), |stream| stream.target)
    }
}
