//! The NBD server on the loop: listeners, connections, exports; between [`crate::nbd`] and the machine.
//!
//! Invariants: connections are bounded, and so is each (its machine's limits); a connection whose
//! machine takes no bytes is not read from; a volume is open from the first connection that uses it
//! to the last (the machine counts); what a connection has in flight when its socket ends is waited
//! for before its place is used again.
//!
//! What this must not know: how NBD is spoken, how volumes are reached.

use crate::cluster::nanos;
use crate::nbd::{Connection, Effect, ExportError, ExportInfo, Limits, Out, Purpose, Want};
use crate::users::{Asker, Backlog, Question, Questions};
use sds_core::buffer::Buffers;
use sds_core::collections::Map;
use sds_core::control::{OpenError, VolumeLine};
use sds_core::error::Status;
use sds_core::id::VolumeId;
use sds_core::machine::{Outbox, Token};
use sds_core::unit::Nanos;
use sds_core::view::SessionMode;
use sds_core::volume::interface::{OpenVolume, Outcome};
use sds_ring::{Address, ListenerId, Payload, RingError, StreamEvent, StreamId, Turn};
use std::sync::Arc;
use std::time::Duration;

/// Connections of one server unless it is told otherwise.
pub const NBD_CONNECTIONS_DEFAULT: usize = 256;
/// How long a client may leave its replies unread while others lack the memory that they hold.
const UNREAD_MAX: Nanos = Nanos::from_millis(10_000);
/// Pause between two looks at unread replies, and after a connection was closed for them: its buffers
/// are back by then.
const UNREAD_CHECK: Nanos = Nanos::from_millis(1_000);
const UNREAD_CHECK_AFTER_CLOSE: Nanos = Nanos::from_millis(6_000);
/// How long a client may haggle before it must use an export.
const HANDSHAKE_MAX: Nanos = Nanos::from_millis(30_000);

/// Which volumes are offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exports {
    /// Every volume that nobody else has open; in shared and read-only mode every volume.
    All,
    /// These; the first is the default export.
    Named(Vec<String>),
}

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct NbdOptions {
    /// Where to listen.
    pub listen: Vec<Address>,
    /// What to offer.
    pub exports: Exports,
    /// How the volumes are opened. What is not opened exclusively is offered though others have it open.
    pub mode: SessionMode,
    /// Take volumes over that others have open.
    pub force: bool,
    /// After which requests that no good copy serves fail with EIO; `None`: they wait for ever, as on a hard-mounted disk.
    pub io_timeout: Option<Duration>,
    /// Most connections at once, over all listeners; below 65,536.
    pub connections_max: usize,
}

impl NbdOptions {
    /// Every volume, on one address.
    #[must_use]
    pub fn on(address: Address) -> Self {
        let listen = vec![address];
        Self {
            listen,
            exports: Exports::All,
            mode: SessionMode::Exclusive,
            force: false,
            io_timeout: None,
            connections_max: NBD_CONNECTIONS_DEFAULT,
        }
    }

    /// Whether a volume is offered that others have open. Opening it may still be refused: the MDM knows in which mode they have it.
    const fn offers_busy(&self) -> bool {
        match self.mode {
            SessionMode::Exclusive => false,
            SessionMode::Shared | SessionMode::ReadOnly => true,
        }
    }
}

impl Exports {
    fn offer(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|offered| offered == name),
        }
    }

    fn unknown(&self, name: &str) -> ExportError {
        match self {
            Self::All => ExportError::Unknown(format!("no volume is named {name:?}")),
            Self::Named(names) => ExportError::Unknown(format!("{name:?} is not offered here; there are: {}", names.join(", "))),
        }
    }
}

/// What a connection has asked and waits for.
#[derive(Debug)]
enum Pending {
    List,
    /// The default export.
    Default(Purpose),
    Describe(String),
    Use(String),
}

#[derive(Debug)]
struct Slot {
    machine: Connection,
    /// Never used again; names the connection in questions.
    serial: u64,
    offer: Arc<NbdOptions>,
    /// Gone once the socket is.
    stream: Option<StreamId>,
    volume: Option<VolumeId>,
    pending: Option<Pending>,
    since: Nanos,
    /// A payload is being received into a buffer of the machine.
    receiving: bool,
    paused: bool,
    /// Since when its client takes no replies, and how many allocations had been refused then.
    unread: Option<(Nanos, u64)>,
    /// The socket is being closed.
    closing: bool,
    dirty: bool,
}

/// All listeners and connections.
#[derive(Debug, Default)]
pub(crate) struct Server {
    listeners: Vec<(ListenerId, Arc<NbdOptions>)>,
    /// A connection's tag is its place plus one.
    slots: Vec<Option<Slot>>,
    free: Vec<u16>,
    by_stream: Map<StreamId, u16>,
    live: usize,
    next_serial: u64,
    /// Places of connections to look at.
    dirty: Vec<u16>,
    effects: Outbox<Effect>,
    taken: Vec<Effect>,
    batch: Vec<Out>,
    check_handshakes_at: Option<Nanos>,
    check_unread_at: Option<Nanos>,
    stopping: bool,
}

impl Server {
    /// Whether a request is of an NBD connection.
    pub(crate) const fn owns(token: Token) -> bool {
        token.get() >> 48 != 0
    }

    pub(crate) const fn connections(&self) -> usize {
        self.live
    }

    pub(crate) fn deadline(&self) -> Option<Nanos> {
        [self.check_handshakes_at, self.check_unread_at].into_iter().flatten().min()
    }

    /// Starts to listen, everywhere or nowhere; the addresses with the real ports.
    pub(crate) fn listen(&mut self, options: NbdOptions, cx: &mut Turn<'_>) -> Result<Vec<Address>, RingError> {
        let offer = Arc::new(options);
        let mut bound = Vec::with_capacity(offer.listen.len());
        for (listener, address) in cx.listen_all_raw(&offer.listen)? {
            self.listeners.push((listener, offer.clone()));
            bound.push(address);
        }
        Ok(bound)
    }

    /// Something happened on a socket.
    pub(crate) fn on_stream(
        &mut self,
        stream: StreamId,
        event: StreamEvent,
        cx: &mut Turn<'_>,
        backlog: &mut Backlog,
        questions: &mut Questions,
    ) {
        match event {
            StreamEvent::Accepted { listener } => self.accept(stream, listener, cx, backlog, questions),
            StreamEvent::Readable | StreamEvent::Writable => {
                if let Some(place) = self.by_stream.get(&stream).copied() {
                    self.drive(place, cx, backlog, questions);
                }
            }
            StreamEvent::Received(span) => {
                cx.pool().release(span.buffer);
                let Some(place) = self.by_stream.get(&stream).copied() else { return };
                if let Some(slot) = self.slot(place) {
                    slot.receiving = false;
                }
                if let Some(Some(slot)) = self.slots.get_mut(usize::from(place)) {
                    slot.machine.received_in_place(span.len, cx.pool(), &mut self.effects);
                }
                self.drive(place, cx, backlog, questions);
            }
            StreamEvent::Closed { reason } => {
                let Some(place) = self.by_stream.remove(&stream) else { return };
                if let Some(slot) = self.slot(place) {
                    slot.stream = None;
                    slot.machine.disconnect(cx.pool());
                    let why = slot.machine.close_reason().map(|reason| reason.to_string());
                    let how = reason.map(|reason| reason.to_string());
                    tracing::debug!(connection = slot.serial, why, socket = how, "NBD connection ended");
                }
                self.reap(place, questions);
            }
            StreamEvent::Connected { .. } | StreamEvent::ConnectFailed { .. } => {}
        }
    }

    fn slot(&mut self, place: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(place))?.as_mut()
    }

    fn accept(&mut self, stream: StreamId, listener: ListenerId, cx: &mut Turn<'_>, backlog: &mut Backlog, questions: &mut Questions) {
        let offer = self.listeners.iter().find(|(id, _)| *id == listener).map(|(_, offer)| offer.clone());
        let Some(offer) = offer.filter(|_| !self.stopping) else { return cx.close(stream) };
        if self.live >= offer.connections_max {
            tracing::warn!(limit = offer.connections_max, "an NBD connection was refused: there are as many as may be");
            return cx.close(stream);
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None => match u16::try_from(self.slots.len()) {
                Ok(place) if place < u16::MAX => {
                    self.slots.push(None);
                    place
                }
                Ok(_) | Err(_) => return cx.close(stream),
            },
        };
        self.next_serial += 1;
        self.live += 1;
        self.slots[usize::from(place)] = Some(Slot {
            machine: Connection::new(place + 1, Limits::default()),
            serial: self.next_serial,
            offer,
            stream: Some(stream),
            volume: None,
            pending: None,
            since: cx.now(),
            receiving: false,
            paused: false,
            unread: None,
            closing: false,
            dirty: false,
        });
        self.by_stream.insert(stream, place);
        self.check_handshakes_at.get_or_insert(cx.now().plus(HANDSHAKE_MAX));
        self.drive(place, cx, backlog, questions);
    }

    /// Looks at a connection soon.
    fn mark(&mut self, place: u16) {
        let Some(slot) = self.slot(place) else { return };
        if !std::mem::replace(&mut slot.dirty, true) {
            self.dirty.push(place);
        }
    }

    /// Looks at every connection soon: buffers were freed.
    pub(crate) fn mark_all(&mut self) {
        for place in 0..self.slots.len() {
            self.mark(u16::try_from(place).unwrap_or(u16::MAX));
        }
    }

    /// Looks at the connections on which something has changed; whether there were any.
    pub(crate) fn drive_dirty(&mut self, cx: &mut Turn<'_>, backlog: &mut Backlog, questions: &mut Questions) -> bool {
        let driven = !self.dirty.is_empty();
        while let Some(place) = self.dirty.pop() {
            if let Some(slot) = self.slot(place) {
                slot.dirty = false;
                self.drive(place, cx, backlog, questions);
            }
        }
        driven
    }

    /// Moves bytes both ways until nothing moves.
    fn drive(&mut self, place: u16, cx: &mut Turn<'_>, backlog: &mut Backlog, questions: &mut Questions) {
        loop {
            let Some(Some(slot)) = self.slots.get_mut(usize::from(place)) else { return };
            let Some(stream) = slot.stream.filter(|_| !slot.closing) else { return };
            let mut moved = false;
            while slot.machine.has_output() && !cx.stream_wants_pause(stream) {
                slot.machine.take_output(&mut self.batch);
                send(&mut self.batch, stream, cx);
                slot.unread = None;
                moved = true;
            }
            if slot.machine.has_output() && slot.unread.is_none() {
                let now = cx.now();
                slot.unread = Some((now, cx.pool().statistics().refused));
                self.check_unread_at.get_or_insert(now.plus(UNREAD_CHECK));
            }
            match slot.machine.want() {
                Want::Close => {
                    slot.closing = true;
                    cx.close(stream);
                    return;
                }
                Want::InPlace(_) | Want::Staging | Want::Nothing if slot.receiving => {}
                Want::InPlace(span) => {
                    cx.pool().retain(span.buffer);
                    match cx.receive_into(stream, span) {
                        Some(span) => {
                            cx.pool().release(span.buffer);
                            slot.machine.received_in_place(span.len, cx.pool(), &mut self.effects);
                            moved = true;
                        }
                        None => slot.receiving = true,
                    }
                }
                Want::Staging | Want::Nothing => {
                    let (bytes, pool) = cx.available_and_pool(stream);
                    let (staged, used) = (bytes.len(), slot.machine.receive(bytes, pool, &mut self.effects));
                    cx.consume(stream, used);
                    moved |= used > 0;
                    if slot.paused != (used < staged) {
                        slot.paused = used < staged;
                        cx.pause(stream, slot.paused);
                    }
                }
            }
            moved |= self.handle_effects(place, cx, backlog, questions);
            if !moved {
                return;
            }
        }
    }

    /// Hands on what a connection wants done; whether there was anything.
    fn handle_effects(&mut self, place: u16, cx: &mut Turn<'_>, backlog: &mut Backlog, questions: &mut Questions) -> bool {
        if self.effects.is_empty() {
            return false;
        }
        let mut taken = std::mem::take(&mut self.taken);
        taken.extend(self.effects.drain());
        if let Some(slot) = self.slot(place) {
            for effect in taken.drain(..) {
                match effect {
                    Effect::Request { token, request } => match slot.volume {
                        Some(volume) => backlog.push(token, volume, request),
                        None => unreachable!("requests come after an export is opened"),
                    },
                    Effect::ListExports => slot.ask(Pending::List, questions),
                    Effect::OpenExport { name, purpose } => slot.open_export(name, purpose, cx, questions),
                }
            }
        }
        self.taken = taken;
        true
    }

    /// A piece of a connection is done.
    pub(crate) fn complete(&mut self, token: Token, result: Result<Outcome, Status>, cx: &mut Turn<'_>, backlog: &mut Backlog) {
        let place = (token.get() >> 48) as u16 - 1;
        let Some(Some(slot)) = self.slots.get_mut(usize::from(place)) else {
            unreachable!("a connection's place is kept until its pieces are done")
        };
        slot.machine.complete(token, result, cx.pool(), &mut self.effects);
        let volume = slot.volume;
        for effect in self.effects.drain() {
            match (effect, volume) {
                (Effect::Request { token, request }, Some(volume)) => backlog.push(token, volume, request),
                (Effect::Request { .. } | Effect::ListExports | Effect::OpenExport { .. }, _) => {
                    unreachable!("a completion leads to more pieces of a volume in use, and to nothing else")
                }
            }
        }
        self.mark(place);
    }

    /// Answer to a connection's open; whether the session is used from now on.
    pub(crate) fn opened(&mut self, serial: u64, result: Result<OpenVolume, OpenError>, cx: &mut Turn<'_>) -> bool {
        let Some(place) = self.place_of(serial) else { return false };
        let Some(slot) = self.slot(place) else { return false };
        let Some(Pending::Use(name)) = slot.pending.take() else { return false };
        let used = match result {
            Ok(volume) => {
                let read_only = match volume.mode {
                    SessionMode::ReadOnly => true,
                    SessionMode::Exclusive | SessionMode::Shared => false,
                };
                let (size, stripe) = (volume.size.get(), volume.stripe);
                let info = ExportInfo { name, description: String::new(), size, read_only, stripe };
                let used = slot.stream.is_some() && slot.machine.opened(Ok(info), cx.pool());
                slot.volume = used.then_some(volume.id);
                used
            }
            Err(error) => {
                tracing::warn!(volume = name, %error, "an NBD client was refused");
                let refusal = match error {
                    OpenError::NoVolume { .. } => ExportError::Unknown(error.to_string()),
                    OpenError::Busy { .. }
                    | OpenError::NotConfirmed { .. }
                    | OpenError::TooManySessions { .. }
                    | OpenError::NotRecorded { .. }
                    | OpenError::Refused { .. } => ExportError::Refused(error.to_string()),
                };
                slot.machine.opened(Err(refusal), cx.pool());
                false
            }
        };
        self.mark(place);
        used
    }

    /// Answer to a connection's question for volumes.
    pub(crate) fn listed(&mut self, serial: u64, volumes: &[VolumeLine], cx: &mut Turn<'_>, questions: &mut Questions) {
        let Some(place) = self.place_of(serial) else { return };
        if let Some(slot) = self.slot(place) {
            slot.listed(volumes, cx, questions);
        }
        self.mark(place);
    }

    fn place_of(&self, serial: u64) -> Option<u16> {
        let place = self.slots.iter().position(|slot| slot.as_ref().is_some_and(|slot| slot.serial == serial))?;
        u16::try_from(place).ok()
    }

    /// Frees the place of a connection that has ended, and lets go of its volume.
    fn reap(&mut self, place: u16, questions: &mut Questions) {
        let Some(entry) = self.slots.get_mut(usize::from(place)) else { return };
        let Some(slot) = entry.take_if(|slot| slot.stream.is_none() && slot.machine.is_idle()) else { return };
        if let Some(volume) = slot.volume {
            questions.push(Question::Close { volume, asker: Asker::Close(None) });
        }
        self.free.push(place);
        self.live -= 1;
    }

    /// Lets go of connections that have ended while pieces were in flight.
    pub(crate) fn reap_all(&mut self, questions: &mut Questions) {
        if self.by_stream.len() < self.live {
            for place in 0..self.slots.len() {
                self.reap(u16::try_from(place).unwrap_or(u16::MAX), questions);
            }
        }
    }

    /// Closes connections that haggle for too long, or keep memory from others.
    pub(crate) fn timers(&mut self, cx: &mut Turn<'_>) {
        let now = cx.now();
        self.close_unread(now, cx);
        if self.check_handshakes_at.is_none_or(|at| now < at) {
            return;
        }
        self.check_handshakes_at = None;
        for slot in self.slots.iter_mut().flatten().filter(|slot| slot.machine.is_in_handshake()) {
            let until = slot.since.plus(HANDSHAKE_MAX);
            match slot.stream {
                // While the MDM is asked, it is not the client who takes long.
                Some(stream) if now >= until && slot.pending.is_none() && !slot.closing => {
                    tracing::warn!(connection = slot.serial, "an NBD client did not finish its handshake in time");
                    slot.closing = true;
                    cx.close(stream);
                }
                Some(_) | None => {
                    let next = until.max(now.plus(Nanos::from_millis(1000)));
                    self.check_handshakes_at = Some(self.check_handshakes_at.map_or(next, |at| at.min(next)));
                }
            }
        }
    }

    /// Closes the connection whose client has left its replies unread for longest, if their buffers
    /// were missing elsewhere meanwhile: one client that stands still must not stop the others.
    fn close_unread(&mut self, now: Nanos, cx: &mut Turn<'_>) {
        if self.check_unread_at.is_none_or(|at| now < at) {
            return;
        }
        self.check_unread_at = None;
        let refused = cx.pool().statistics().refused;
        let waiting = self.slots.iter_mut().flatten().filter(|slot| !slot.closing);
        let Some((since, before, slot)) =
            waiting.filter_map(|slot| slot.unread.map(|(since, before)| (since, before, slot))).min_by_key(|(since, ..)| *since)
        else {
            return;
        };
        let mut pause = UNREAD_CHECK;
        if let Some(stream) = slot.stream
            && now >= since.plus(UNREAD_MAX)
            && refused > before
        {
            tracing::warn!(
                connection = slot.serial,
                "an NBD client does not read its replies while others lack memory; it is disconnected"
            );
            slot.closing = true;
            cx.close(stream);
            pause = UNREAD_CHECK_AFTER_CLOSE;
        }
        self.check_unread_at = Some(now.plus(pause));
    }

    /// Finishes what is accepted, takes nothing new.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        for slot in self.slots.iter_mut().flatten() {
            slot.machine.shut_down();
        }
        self.mark_all();
    }
}

impl Slot {
    fn ask(&mut self, pending: Pending, questions: &mut Questions) {
        let asker = Asker::Nbd(self.serial);
        questions.push(match &pending {
            Pending::Use(name) => Question::Open {
                name: name.clone(),
                mode: self.offer.mode,
                force: self.offer.force,
                io_timeout: self.offer.io_timeout.map(nanos),
                asker,
            },
            Pending::List | Pending::Default(_) | Pending::Describe(_) => Question::List { asker },
        });
        self.pending = Some(pending);
    }

    fn open_export(&mut self, name: String, purpose: Purpose, cx: &mut Turn<'_>, questions: &mut Questions) {
        if name.is_empty() {
            return self.ask(Pending::Default(purpose), questions);
        }
        if !self.offer.exports.offer(&name) {
            let unknown = self.offer.exports.unknown(&name);
            self.machine.opened(Err(unknown), cx.pool());
            return;
        }
        let pending = match purpose {
            Purpose::Describe => Pending::Describe(name),
            Purpose::Use => Pending::Use(name),
        };
        self.ask(pending, questions);
    }

    fn listed(&mut self, volumes: &[VolumeLine], cx: &mut Turn<'_>, questions: &mut Questions) {
        let offer = self.offer.clone();
        let offered = |line: &&VolumeLine| (line.busy.is_none() || offer.offers_busy()) && offer.exports.offer(&line.volume.name);
        match self.pending.take() {
            Some(Pending::List) => {
                let exports: Vec<_> = volumes.iter().filter(offered).map(|line| (line.volume.name.clone(), String::new())).collect();
                self.machine.listed(&exports);
            }
            Some(Pending::Default(purpose)) => {
                let mut candidates = volumes.iter().filter(offered).map(|line| &line.volume.name);
                let chosen = match (&offer.exports, candidates.next(), candidates.next()) {
                    (Exports::Named(names), _, _) => names.first(),
                    (Exports::All, Some(only), None) => Some(only),
                    (Exports::All, Some(_) | None, Some(_) | None) => None,
                };
                match (chosen, purpose) {
                    (Some(name), Purpose::Use) => self.ask(Pending::Use(name.clone()), questions),
                    (Some(name), Purpose::Describe) => self.describe(name, volumes, cx),
                    (None, Purpose::Use | Purpose::Describe) => {
                        let reason = "there is no default export: name one of those that LIST shows".to_owned();
                        self.machine.opened(Err(ExportError::Unknown(reason)), cx.pool());
                    }
                }
            }
            Some(Pending::Describe(name)) => self.describe(&name, volumes, cx),
            Some(Pending::Use(_)) | None => {}
        }
    }

    fn describe(&mut self, name: &str, volumes: &[VolumeLine], cx: &mut Turn<'_>) {
        let result = match volumes.iter().find(|line| line.volume.name == name) {
            None => Err(self.offer.exports.unknown(name)),
            Some(VolumeLine { busy: Some(holder), .. }) if !self.offer.force && !self.offer.offers_busy() => {
                Err(ExportError::Refused(format!("volume {name:?} is open by {holder}")))
            }
            Some(VolumeLine { volume, .. }) => Ok(ExportInfo {
                name: volume.name.clone(),
                description: String::new(),
                size: volume.size.get(),
                read_only: self.offer.mode == SessionMode::ReadOnly,
                stripe: volume.stripe,
            }),
        };
        self.machine.opened(result, cx.pool());
    }
}

/// Queues a batch on a socket: each run of head bytes goes with the payload after it.
fn send(batch: &mut Vec<Out>, stream: StreamId, cx: &mut Turn<'_>) {
    for segment in batch.drain(..) {
        match segment {
            Out::Header(bytes) => cx.send(stream, bytes.as_slice(), Payload::None),
            Out::Data(span) => cx.send(stream, &[], Payload::Span(span)),
            Out::Zeroes(count) => cx.send(stream, &[], Payload::Zeroes(count)),
        }
    }
}
