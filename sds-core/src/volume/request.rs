//! Users' requests: checked, cut into exchanges, completed.
//!
//! Invariants: a request has at least one exchange in flight until it completes, and more only while
//! there are spare ones; its write buffer is released just before it completes; what is checked here
//! (range, shape, mode) never has to be refused by a server.
//!
//! Must not know: links.

use super::dirty::Mark;
use super::exchange::{Ask, Exchange, Place, State};
use super::interface::{Effect, Outcome, Request};
use super::piece::{self, DataPiece};
use super::session::{Phase, Session};
use super::topology::DeviceIndex;
use super::{Client, Turn};
use crate::buffer::{Buffers, Span};
use crate::bugs::{self, Bug};
use crate::checksum::ChecksumList;
use crate::collections::OpId;
use crate::error::Status;
use crate::id::{Epoch, ExtentIndex, MapVersion, ShardId, VolumeId};
use crate::machine::Token;
use crate::unit::{BLOCK_BYTES, ByteOffset, Nanos};
use crate::view::SessionMode;

/// Whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    User(Token),
    /// The flush of a session that is being closed.
    Closing,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct UserRequest {
    pub(super) origin: Origin,
    pub(super) volume: VolumeId,
    pub(super) request: Request,
    pub(super) since: Nanos,
    /// Next exchange to make, and how many there are (a flush counts dirty shards; those of one device are one).
    step: u32,
    steps: u32,
    flush: Round,
    /// Exchanges in flight.
    outstanding: u32,
    /// First failure.
    pub(super) error: Option<Status>,
    /// It has been answered, because it took too long; nothing more is sent for it.
    pub(super) given_up: bool,
    /// It was waited for when a flush told of a loss.
    waits_through_a_loss: bool,
}

/// How far a flush reaches, and which round of asking devices it is in. Means nothing to other requests.
#[derive(Clone, Copy, Debug)]
struct Round {
    mark: Mark,
    number: u64,
}

/// Where an exchange goes and what it asks.
#[derive(Clone, Copy)]
struct Plan {
    extent: ExtentIndex,
    offset: u32,
    len: u32,
    ask: Ask,
}

impl Client {
    /// Takes a request from a user.
    pub(super) fn accept(&mut self, token: Token, volume: VolumeId, request: Request, turn: &mut Turn<'_, impl Buffers>) {
        let checked = match self.sessions.get(&volume) {
            None => Err(Status::NoVolume),
            Some(session) => match session.phase {
                Phase::Open => check(session, request),
                Phase::Fenced => Err(Status::Fenced),
                Phase::Draining | Phase::Flushing | Phase::Returning => Err(Status::NoVolume),
            },
        };
        let room = if self.free_requests() == 0 { Err(Status::NotReady) } else { Ok(()) };
        match checked.and(room) {
            Ok(()) => {
                self.user_requests += 1;
                self.start(Origin::User(token), volume, request, turn);
            }
            Err(status) => {
                release_payload(request, turn);
                turn.out.push(Effect::Complete { token, result: Err(status) });
            }
        }
    }

    /// Starts a checked request, for which there is room.
    pub(super) fn start(&mut self, origin: Origin, volume: VolumeId, request: Request, turn: &mut Turn<'_, impl Buffers>) {
        let Some(session) = self.sessions.get_mut(&volume) else { unreachable!("the caller has found it") };
        session.requests += 1;
        let steps = match request {
            Request::Read { .. } | Request::Write { .. } | Request::Status { .. } => 1,
            Request::Zero { offset, len, .. } => piece::extents_touched(session.stripe, offset, len),
            Request::Flush => session.dirty.len(),
        };
        let flush = Round { mark: session.dirty.mark(), number: session.dirty.begin_round() };
        let fresh = UserRequest {
            origin,
            volume,
            request,
            since: turn.now,
            step: 0,
            steps,
            flush,
            outstanding: 0,
            error: None,
            given_up: false,
            waits_through_a_loss: false,
        };
        let Ok(id) = self.requests.insert(fresh) else { unreachable!("the caller has made sure of the room") };
        self.note_patience(volume, turn.now);
        self.advance(id, turn);
    }

    /// Makes the next exchanges of a request, or completes it.
    pub(super) fn advance(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        while let Some(request) = self.requests.get_mut(id) {
            // After a failure a zero stops; a flush still reaches the devices that are left.
            let stops = request.given_up || request.error.is_some() && !matches!(request.request, Request::Flush);
            if request.step == request.steps || stops {
                if request.outstanding > 0 {
                    return;
                }
                if self.begins_anew(id) {
                    continue;
                }
                return self.complete(id, Outcome::Done, turn);
            }
            if request.outstanding > 0 && self.spare == 0 {
                return;
            }
            let step = request.step;
            request.step += 1;
            let (volume, asked, round) = (request.volume, request.request, request.flush);
            if let Some(plan) = self.plan(volume, asked, round, step, turn) {
                self.launch(id, volume, plan, turn);
            }
        }
    }

    /// A flush of which some shards moved meanwhile asks again, where they are now; `true` if it does.
    fn begins_anew(&mut self, id: OpId) -> bool {
        let Some(request) = self.requests.get_mut(id).filter(|request| matches!(request.request, Request::Flush)) else { return false };
        let Some(session) = self.sessions.get_mut(&request.volume) else { return false };
        if request.given_up || request.error.is_some() || !session.dirty.has_unflushed(request.flush.mark) {
            return false;
        }
        request.flush.number = session.dirty.begin_round();
        (request.step, request.steps) = (0, session.dirty.len());
        true
    }

    /// The exchange that is a request's `step`; `None` if there is nothing to do (a device that has been asked).
    fn plan(&mut self, volume: VolumeId, request: Request, round: Round, step: u32, turn: &Turn<'_, impl Buffers>) -> Option<Plan> {
        let Some(session) = self.sessions.get_mut(&volume) else { unreachable!("a request's session stays") };
        let stripe = session.stripe;
        Some(match request {
            Request::Read { offset, len } => {
                let head = into_block(offset);
                let place = stripe.locate(ByteOffset::new(offset.get() - u64::from(head)));
                let len = (head + len).next_multiple_of(BLOCK_BYTES);
                Plan { extent: place.extent, offset: place.offset, len, ask: Ask::Read }
            }
            Request::Write { offset, span, durable } => {
                let place = stripe.locate(offset);
                let checksums = ChecksumList::of_blocks(turn.buffers.bytes(span));
                let whole = DataPiece { offset, len: span.len }.is_whole_blocks();
                let ask = if whole { Ask::Write { span, checksums, durable } } else { Ask::Fragment { span, checksums, durable } };
                Plan { extent: place.extent, offset: place.offset, len: span.len, ask }
            }
            Request::Zero { offset, len, trim, durable } => {
                let range = piece::extent_range(stripe, offset, len, step);
                let extent = stripe.locate(range.first).extent;
                Plan { extent, offset: range.offset, len: range.len, ask: Ask::Zero { trim, durable } }
            }
            Request::Status { offset, len } => {
                let place = stripe.locate(offset);
                Plan { extent: place.extent, offset: place.offset, len, ask: Ask::Status }
            }
            Request::Flush => {
                let shard = session.dirty.at(step)?;
                // Where there is nobody to ask now, the shard is asked about by itself, when there is.
                if let Some(route) = self.topology.route_shard(session.pool, shard)
                    && !session.dirty.ask(if bugs::is(Bug::FlushAsksOneDevice) { DeviceIndex::new(0) } else { route.device }, round.number)
                {
                    return None;
                }
                Plan { extent: ExtentIndex::new(0), offset: 0, len: 0, ask: Ask::Flush { shard, mark: round.mark } }
            }
        })
    }

    fn launch(&mut self, id: OpId, volume: VolumeId, plan: Plan, turn: &mut Turn<'_, impl Buffers>) {
        let Plan { extent, offset, len, ask } = plan;
        let exchange = Exchange {
            request: id,
            volume,
            extent,
            offset,
            len,
            ask,
            state: State::Blocked,
            device: DeviceIndex::new(0),
            shard: ShardId::new(0),
            epoch: Epoch::new(0),
            sent_at: MapVersion::new(0),
            serial: self.next_serial,
            damaged: 0,
            pauses: 0,
            place: Place::default(),
        };
        self.next_serial += 1;
        let changes_blocks = exchange.ask.changes_blocks();
        let Ok(made) = self.exchanges.insert(exchange) else { unreachable!("one a request and the spare ones fit") };
        if let Some(request) = self.requests.get_mut(id) {
            request.outstanding += 1;
            if request.outstanding > 1 {
                self.spare -= 1;
            }
        }
        if !changes_blocks || self.order.enter(&mut self.exchanges, made) {
            self.submit(made, turn);
        }
    }

    /// Takes an exchange out of everything; those it kept back are in `unblocked` then.
    fn retire(&mut self, id: OpId) -> Option<Exchange> {
        let exchange = self.exchanges.remove(id)?;
        if let Some(request) = self.requests.get_mut(exchange.request) {
            request.outstanding -= 1;
            if request.outstanding > 0 {
                self.spare += 1;
            }
        }
        if exchange.ask.changes_blocks() {
            self.order.leave(&mut self.exchanges, id, &exchange, &mut self.unblocked);
        }
        Some(exchange)
    }

    /// An exchange has its final answer.
    pub(super) fn finish(&mut self, id: OpId, result: Result<Outcome, Status>, turn: &mut Turn<'_, impl Buffers>) {
        let Some(exchange) = self.retire(id) else { return };
        self.submit_unblocked(turn);
        let Some(request) = self.requests.get_mut(exchange.request) else { return };
        match result {
            Ok(outcome @ (Outcome::Data(_) | Outcome::Zeroes | Outcome::Status(_))) => self.complete(exchange.request, outcome, turn),
            Ok(Outcome::Done) => self.advance(exchange.request, turn),
            Err(status) => {
                // The first is told, unless it would hide that acknowledged writes are gone.
                if status == Status::FlushLost {
                    request.error = Some(status);
                }
                request.error.get_or_insert(status);
                self.advance(exchange.request, turn);
            }
        }
    }

    pub(super) fn submit_unblocked(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        // Submitting sends or queues; it ends no exchange, so nothing is added meanwhile.
        for index in 0..self.unblocked.len() {
            self.submit(self.unblocked[index], turn);
        }
        self.unblocked.clear();
    }

    /// A flush of a volume's session tells of a loss: parts of what is waited for may be lost with it. Applications cut large writes
    /// into several, so that all of them count.
    pub(super) fn note_loss(&mut self, volume: VolumeId) {
        let waits = |request: &UserRequest| match request.request {
            Request::Write { durable, .. } | Request::Zero { durable, .. } => request.volume == volume && !durable,
            Request::Read { .. } | Request::Flush | Request::Status { .. } => false,
        };
        let waiting: Vec<OpId> = self.requests.iter().filter(|(_, request)| waits(request)).map(|(id, _)| id).collect();
        for id in waiting {
            if let Some(request) = self.requests.get_mut(id) {
                request.waits_through_a_loss = true;
            }
        }
    }

    fn complete(&mut self, id: OpId, outcome: Outcome, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.remove(id) else { return };
        assert!(request.outstanding == 0, "a request completes after its exchanges");
        release_payload(request.request, turn);
        if let (true, Outcome::Data(Span { buffer, .. })) = (request.given_up, outcome) {
            turn.buffers.release(buffer);
        }
        let result = request.error.map_or(Ok(outcome), Err);
        if let Some(session) = self.sessions.get_mut(&request.volume) {
            session.requests -= 1;
            if request.waits_through_a_loss {
                session.dirty.waited_through_a_loss();
            }
        }
        match request.origin {
            Origin::User(token) => {
                self.user_requests -= 1;
                if !request.given_up {
                    turn.out.push(Effect::Complete { token, result });
                }
                self.go_on_closing(request.volume, turn);
            }
            Origin::Closing => {
                self.closing_flushed(request.volume, result.map(|_| ()), turn);
                self.next_closing(turn);
            }
        }
    }

    /// A closing flush has ended: another session may have waited for its place.
    fn next_closing(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let waits = |session: &&Session| session.phase == Phase::Draining && session.requests == 0;
        if let Some(volume) = self.sessions.values().find(waits).map(|session| session.volume) {
            self.go_on_closing(volume, turn);
        }
    }

    /// Ends every request of a volume.
    pub(super) fn fail_all(&mut self, volume: VolumeId, status: Status, turn: &mut Turn<'_, impl Buffers>) {
        let mut doomed: Vec<OpId> = self.exchanges.iter().filter(|(_, exchange)| exchange.volume == volume).map(|(id, _)| id).collect();
        for id in doomed.drain(..) {
            self.retire(id);
        }
        // Whatever these kept back was of the same volume.
        self.unblocked.clear();
        doomed.extend(self.requests.iter().filter(|(_, request)| request.volume == volume).map(|(id, _)| id));
        for id in doomed {
            if let Some(request) = self.requests.get_mut(id) {
                request.error = Some(status);
            }
            self.complete(id, Outcome::Done, turn);
        }
        self.drop_ended();
    }
}

const fn into_block(offset: ByteOffset) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "below 4096")]
    let into = (offset.get() % BLOCK_BYTES as u64) as u32;
    into
}

fn release_payload(request: Request, turn: &mut Turn<'_, impl Buffers>) {
    match request {
        Request::Write { span: Span { buffer, .. }, .. } => turn.buffers.release(buffer),
        Request::Read { .. } | Request::Zero { .. } | Request::Flush | Request::Status { .. } => {}
    }
}

/// Whether a request may be made in this session.
fn check(session: &Session, request: Request) -> Result<(), Status> {
    let inside = |offset: ByteOffset, len: u64| match offset.get().checked_add(len) {
        Some(end) if end <= session.size.get() => Ok(()),
        Some(_) | None => Err(Status::PastEnd),
    };
    let whole = |offset: ByteOffset, len: u64| offset.is_block_aligned() && len.is_multiple_of(u64::from(BLOCK_BYTES));
    let shape = |fits: bool| if fits { Ok(()) } else { Err(Status::Invalid) };
    let writable = match session.mode {
        SessionMode::Exclusive | SessionMode::Shared => Ok(()),
        SessionMode::ReadOnly => Err(Status::ReadOnly),
    };
    let stripe = session.stripe;
    match request {
        Request::Read { offset, len } => {
            inside(offset, len.into())?;
            shape(len > 0 && len <= stripe.piece_room(offset))
        }
        Request::Write { offset, span, durable: _ } => {
            writable?;
            inside(offset, span.len.into())?;
            let blocks = whole(offset, span.len.into()) && span.start.is_multiple_of(BLOCK_BYTES) && span.len <= stripe.piece_room(offset);
            shape(span.len > 0 && (blocks || span.len < BLOCK_BYTES && into_block(offset) + span.len <= BLOCK_BYTES))
        }
        Request::Zero { offset, len, trim: _, durable: _ } => {
            writable?;
            inside(offset, len)?;
            let set = stripe.set_bytes();
            shape(len > 0 && whole(offset, len) && offset.get() % set + len <= set)
        }
        Request::Status { offset, len } => {
            inside(offset, len.into())?;
            let unit = u64::from(stripe.unit());
            shape(len > 0 && whole(offset, len.into()) && offset.get() % unit + u64::from(len) <= unit)
        }
        Request::Flush => Ok(()),
    }
}
