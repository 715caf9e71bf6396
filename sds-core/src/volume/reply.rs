//! Answers: believed only from the link they were asked on, checked, turned into outcomes or into
//! another try.
//!
//! Invariants: bytes are given to a user only after their checksums matched here; every path that does
//! not pass a frame's buffer on releases it; a final outcome ends the exchange.
//!
//! Must not know: how exchanges are routed.

use super::dirty::Loss;
use super::exchange::{Ask, Exchange, State};
use super::interface::{Effect, Event, Outcome, Request};
use super::server::{LinkState, ServerIndex};
use super::{Client, Turn};
use crate::buffer::{Buffers, Span};
use crate::bugs::{self, Bug};
use crate::checksum::ChecksumList;
use crate::collections::OpId;
use crate::error::Status;
use crate::id::MapVersion;
use crate::limits::PAYLOAD_RETRIES_MAX;
use crate::machine::LinkId;
use crate::stripe::Place;
use crate::unit::BLOCK_BYTES;
use crate::wire::{BLOCK_STATUS_BYTES, Body, Flags, Frame, Opcode};

/// An answer's payload, as far as it can be believed.
enum Payload {
    /// None was due.
    Nothing,
    /// As asked for.
    Bytes(Span),
    /// All zero.
    Zeroes,
    /// Blocks of the extent that hold data.
    Set([u64; 4]),
    /// Not what was asked for, or not what its checksums say.
    Damaged,
}

impl Client {
    pub(super) fn frame(&mut self, link: LinkId, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
        let span = match frame.body {
            Body::Payload { span, .. } => Some(span),
            Body::Empty | Body::Hello(_) => None,
        };
        let passed_on = self.take_frame(link, frame, turn);
        if let Some(Span { buffer, .. }) = span.filter(|_| !passed_on) {
            turn.buffers.release(buffer);
        }
    }

    /// Takes a frame in; whether its buffer was passed on to a user.
    fn take_frame(&mut self, link: LinkId, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) -> bool {
        let Some(index) = self.servers.by_link(link) else {
            self.stale_answers += 1;
            return false;
        };
        if frame.header.opcode == Opcode::HelloReply {
            self.greeted(index, &frame.header, turn);
            return false;
        }
        let server = self.servers.get_mut(index);
        server.outstanding = server.outstanding.saturating_sub(1);
        self.note_heard(index, turn);
        let id = OpId::from_bits(frame.header.request.get());
        let passed_on = match self.exchanges.get(id) {
            Some(exchange) if exchange.state == State::Sent(index) && exchange.ask.reply() == frame.header.opcode => {
                self.answered(id, index, link, frame, turn)
            }
            Some(_) | None => {
                self.stale_answers += 1;
                false
            }
        };
        let server = self.servers.get(index);
        match server.state {
            LinkState::Ready { link, draining: true, .. } if server.outstanding == 0 => self.drop_link(link, turn),
            LinkState::Ready { .. } | LinkState::Down { .. } | LinkState::Connecting | LinkState::Greeting { .. } => self.pump(index, turn),
        }
        passed_on
    }

    fn answered(&mut self, id: OpId, index: ServerIndex, link: LinkId, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) -> bool {
        match frame.header.status {
            Status::Ok => return self.answered_ok(id, link, frame, turn),
            Status::MapStale => {
                self.pull(frame.header.map_version, turn);
                self.pause(id, frame.header.map_version, turn);
            }
            Status::NotReady => {
                self.note_not_ready(id, index, turn);
                self.pause(id, MapVersion::new(0), turn);
            }
            Status::Stopping => {
                self.set_state(id, State::Queued(index));
                self.servers.get_mut(index).queue.push_front(id);
                self.server_stops(index, turn);
            }
            Status::PayloadDamaged => self.damaged(id, link, turn),
            Status::Fenced => {
                if let Some(volume) = self.exchanges.get(id).map(|exchange| exchange.volume) {
                    self.fence(volume, turn);
                }
            }
            Status::FlushLost => self.flush_lost(id, Loss::Found, turn),
            Status::Corrupt => self.unreadable(id, turn),
            Status::DeviceFailed => {
                self.note_failed(id, index, turn);
                self.finish(id, Err(Status::DeviceFailed), turn);
            }
            status @ (Status::Invalid | Status::PastEnd | Status::NoVolume | Status::NoSpace | Status::ReadOnly) => {
                self.finish(id, Err(status), turn);
            }
        }
        false
    }

    /// Never in silence: what the application hears is one EIO.
    fn flush_lost(&mut self, id: OpId, loss: Loss, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(volume) = self.exchanges.get(id).map(|exchange| exchange.volume) {
            if loss == Loss::Found {
                self.note_loss(volume);
            }
            turn.out.push(Effect::Event(Event::FlushLost { volume }));
        }
        self.finish(id, Err(Status::FlushLost), turn);
    }

    fn answered_ok(&mut self, id: OpId, link: LinkId, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) -> bool {
        let Some(exchange) = self.exchanges.get(id) else { return false };
        let payload = believe(exchange, frame, turn.buffers);
        self.note_serves(id);
        if !matches!(payload, Payload::Damaged) {
            let loss = self.note_durability(id);
            if loss != Loss::Nothing {
                // The flush goes on to what is left.
                self.flush_lost(id, loss, turn);
                return false;
            }
        }
        match payload {
            Payload::Damaged => {
                self.damaged(id, link, turn);
                false
            }
            Payload::Nothing => {
                self.finish(id, Ok(Outcome::Done), turn);
                false
            }
            Payload::Zeroes => {
                self.finish(id, Ok(Outcome::Zeroes), turn);
                false
            }
            Payload::Set(extent) => {
                let Some((first, end)) = self.exchanges.get(id).map(Exchange::blocks) else { return false };
                self.finish(id, Ok(Outcome::Status(part_of_set(extent, first, end))), turn);
                false
            }
            Payload::Bytes(span) => {
                let asked = self.exchanges.get(id).and_then(|exchange| self.requests.get(exchange.request)).map(|request| request.request);
                let Some(Request::Read { offset, len }) = asked else { unreachable!("only reads are answered with bytes") };
                #[expect(clippy::cast_possible_truncation, reason = "below 4096")]
                let head = (offset.get() % u64::from(BLOCK_BYTES)) as u32;
                self.finish(id, Ok(Outcome::Data(span.part(head, len))), turn);
                true
            }
        }
    }

    /// Keeps account of what a flush must cover, or has covered, and of the epochs that what was seen is of.
    fn note_durability(&mut self, id: OpId) -> Loss {
        let Some(exchange) = self.exchanges.get(id) else { return Loss::Nothing };
        let Some(session) = self.sessions.get_mut(&exchange.volume) else { return Loss::Nothing };
        let (shard, epoch, pool) = (exchange.shard, exchange.epoch, session.pool);
        match exchange.ask {
            Ask::Write { durable: false, .. } | Ask::Fragment { durable: false, .. } | Ask::Zero { durable: false, .. } => {
                if !bugs::is(Bug::WriteNotAccountedFor) {
                    session.dirty.wrote(shard, epoch);
                }
                Loss::Nothing
            }
            Ask::Write { .. } | Ask::Fragment { .. } | Ask::Zero { .. } => Loss::Nothing,
            Ask::Read | Ask::Status => {
                session.dirty.saw(shard, epoch);
                Loss::Nothing
            }
            // Of an older map: some shards may have been elsewhere already. Whatever is left is asked for again.
            Ask::Flush { .. } if exchange.sent_at < self.topology.changed(pool) => Loss::Nothing,
            Ask::Flush { mark, .. } => session.dirty.flushed(mark, |other| self.topology.flushed_with(pool, shard, other)),
        }
    }

    /// A payload was damaged on its way: once more, a few times.
    fn damaged(&mut self, id: OpId, link: LinkId, turn: &mut Turn<'_, impl Buffers>) {
        turn.out.push(Effect::Event(Event::PayloadDamaged { link }));
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.damaged += 1;
        if exchange.damaged > PAYLOAD_RETRIES_MAX {
            self.unreadable(id, turn);
        } else {
            exchange.state = State::Routing;
            self.submit(id, turn);
        }
    }

    fn unreadable(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(exchange) = self.exchanges.get(id) {
            let offset = self
                .sessions
                .get(&exchange.volume)
                .map(|session| session.stripe.volume_offset(Place { extent: exchange.extent, offset: exchange.offset }));
            if let Some(offset) = offset {
                turn.out.push(Effect::Event(Event::Unreadable { volume: exchange.volume, offset }));
            }
        }
        self.finish(id, Err(Status::Corrupt), turn);
    }
}

/// Holds an `Ok` answer against what was asked.
fn believe(exchange: &Exchange, frame: &Frame, buffers: &impl Buffers) -> Payload {
    let verified = |span: Span, checksums: &ChecksumList, len: u32| {
        span.len == len && (checksums.match_blocks(buffers.bytes(span)) || bugs::is(Bug::PayloadNotVerifiedByClient))
    };
    match (exchange.ask, &frame.body) {
        (Ask::Read, Body::Payload { span, checksums }) if verified(*span, checksums, exchange.len) => Payload::Bytes(*span),
        (Ask::Read, Body::Empty) if frame.header.flags.contains(Flags::ALL_ZERO) => Payload::Zeroes,
        (Ask::Status, Body::Payload { span, checksums }) if verified(*span, checksums, BLOCK_STATUS_BYTES) => {
            let mut set = [0_u64; 4];
            for (word, bytes) in set.iter_mut().zip(buffers.bytes(*span).chunks_exact(8)) {
                *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            }
            Payload::Set(set)
        }
        (Ask::Read | Ask::Status, Body::Empty | Body::Payload { .. } | Body::Hello(_)) => Payload::Damaged,
        (Ask::Write { .. } | Ask::Fragment { .. } | Ask::Zero { .. } | Ask::Flush { .. }, _) => Payload::Nothing,
    }
}

/// Bits `first..end` of an extent's set, moved down to bit 0.
fn part_of_set(extent: [u64; 4], first: u32, end: u32) -> [u64; 4] {
    let mut part = [0_u64; 4];
    for (to, from) in (first..end).enumerate() {
        let bit = extent[from as usize / 64] >> (from % 64) & 1;
        part[to / 64] |= bit << (to % 64);
    }
    part
}
