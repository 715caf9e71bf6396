//! Results on their way to the client.
//!
//! Invariants: a request is answered exactly once, after its last piece has completed; a simple
//! reply that says "no error" is followed by all of its bytes or by the end of the connection; a
//! chunk marked as the last is the last.

use super::connection::{Connection, Phase};
use super::constants::{CONTEXT_ALLOCATION_ID, ChunkType, ErrorCode, error_of};
use super::inflight::{Failure, Held, Pending, PieceName};
use super::issue::BLOCK;
use super::request::{Action, Delivery, read_piece};
use super::{CloseReason, Effect, held_bytes};
use sds_core::buffer::Buffers;
use sds_core::error::Status;
use sds_core::machine::{Outbox, Token};
use sds_core::volume::interface::Outcome;

impl Connection {
    /// A piece is done. One use of a buffer of [`Outcome::Data`] passes to the connection.
    ///
    /// # Panics
    /// If the token is not one of this connection's requests in flight, or the outcome is not of its kind.
    pub fn complete(&mut self, token: Token, result: Result<Outcome, Status>, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        let name = PieceName::from_bits(token.get());
        assert_eq!(token.get() >> 48, u64::from(self.tag), "a completion goes to the connection that asked");
        self.pieces -= 1;
        match self.phase {
            Phase::Closed(_) => {
                if let Ok(Outcome::Data(span)) = result {
                    buffers.release(span.buffer);
                }
                return;
            }
            Phase::Handshake(_) | Phase::Transmission | Phase::Finishing(_) => {}
        }
        let Some(pending) = self.table.of_piece(name) else { panic!("a completion names a request in flight") };
        pending.done += 1;
        match pending.action {
            Action::Write { .. } | Action::Zero { .. } | Action::Flush => {
                if let Err(status) = result {
                    let offset = pending.offset;
                    pending.failure.get_or_insert(Failure { status, offset });
                }
                if pending.is_complete() {
                    let pending = self.table.remove(name.slot);
                    self.answer_done(&pending);
                }
            }
            Action::Read { delivery: Delivery::Chunks } => self.deliver_chunk(name, result),
            Action::Read { delivery: Delivery::Whole | Delivery::Stream } => self.deliver_in_order(name, result, buffers),
            Action::Status { .. } => self.deliver_status(name, result),
        }
        self.issue(buffers, out);
    }

    /// Answers a request that has no payload.
    fn answer_done(&mut self, pending: &Pending) {
        match pending.failure {
            None => self.output.simple(pending.cookie, None),
            Some(failure) => self.answer_failure(pending, failure),
        }
    }

    fn answer_failure(&mut self, pending: &Pending, failure: Failure) {
        let (code, message) = match (failure.status, pending.action) {
            // The specification wants ENOSPC for writes there.
            (Status::PastEnd, Action::Write { .. }) => (ErrorCode::NoSpace, error_of(failure.status).1),
            (status, _) => error_of(status),
        };
        let offset = match pending.action {
            Action::Flush => None,
            Action::Read { .. } | Action::Write { .. } | Action::Zero { .. } | Action::Status { .. } => Some(failure.offset),
        };
        self.answer_error(pending.cookie, code, message, offset);
    }

    pub(super) fn answer_error(&mut self, cookie: u64, code: ErrorCode, message: &'static str, offset: Option<u64>) {
        if self.negotiated.structured {
            self.output.error_chunk(cookie, code, message, offset);
        } else {
            self.output.simple(cookie, Some(code));
        }
    }

    fn deliver_chunk(&mut self, name: PieceName, result: Result<Outcome, Status>) {
        let Some(export) = &self.export else { unreachable!("transmission has an export") };
        let pending = self.table.get_mut(name.slot);
        let offset = match name.piece {
            0 => pending.offset,
            blocks => (pending.offset / BLOCK + u64::from(blocks)) * BLOCK,
        };
        #[expect(clippy::cast_possible_truncation, reason = "a request's length is 32 bits")]
        let len = read_piece(export.stripe, offset, (pending.offset + u64::from(pending.len) - offset) as u32);
        if let Err(status) = result {
            pending.failure.get_or_insert(Failure { status, offset });
        }
        let (cookie, complete) = (pending.cookie, pending.is_complete());
        let last = complete && pending.failure.is_none();
        match result {
            Ok(Outcome::Data(span)) => {
                assert_eq!(span.len, len, "a read gives as many bytes as were asked for");
                self.output.data_chunk(cookie, last, offset, len);
                self.output.push_data(span);
            }
            Ok(Outcome::Zeroes) => {
                self.read_bytes -= held_bytes(len);
                self.output.hole_chunk(cookie, last, offset, len);
            }
            Ok(Outcome::Done | Outcome::Status(_)) => panic!("a read is completed with bytes"),
            Err(_) => self.read_bytes -= held_bytes(len),
        }
        if complete {
            let pending = self.table.remove(name.slot);
            if let Some(failure) = pending.failure {
                self.answer_failure(&pending, failure);
            }
        }
    }

    fn deliver_in_order(&mut self, name: PieceName, result: Result<Outcome, Status>, buffers: &mut impl Buffers) {
        let pending = self.table.get_mut(name.slot);
        let Some(window) = pending.window else {
            self.deliver_only_piece(name.slot, result);
            return;
        };
        let at_once = pending.action == Action::Read { delivery: Delivery::Stream };
        let place = self.table.held(window, u32::from(name.piece));
        let Held::Issued { len } = *place else { panic!("a piece is completed once") };
        *place = match result {
            Ok(Outcome::Data(span)) => {
                assert_eq!(span.len, len, "a read gives as many bytes as were asked for");
                Held::Data(span)
            }
            Ok(Outcome::Zeroes) => Held::Zeroes { len },
            Ok(Outcome::Done | Outcome::Status(_)) => panic!("a read is completed with bytes"),
            Err(_) => Held::Failed,
        };
        if !matches!(place, Held::Data(_)) {
            self.read_bytes -= held_bytes(len);
        }
        let pending = self.table.get_mut(name.slot);
        if let Err(status) = result {
            let offset = pending.offset;
            pending.failure.get_or_insert(Failure { status, offset });
        }
        match pending.failure {
            Some(_) if pending.emitted > 0 => self.close(CloseReason::LateReadError, buffers),
            Some(failure) => {
                // Nothing of it was sent: no more is issued, and it is answered when the rest has come.
                pending.end = pending.next;
                if pending.is_complete() {
                    self.waiting.retain(|slot| *slot != name.slot);
                    self.read_bytes -= self.table.release_window(window, buffers);
                    let pending = self.table.remove(name.slot);
                    self.answer_failure(&pending, failure);
                }
            }
            None if at_once || pending.is_complete() => self.send_in_order(name.slot, window),
            None => {}
        }
    }

    /// A read of one piece.
    fn deliver_only_piece(&mut self, slot: u16, result: Result<Outcome, Status>) {
        let mut pending = self.table.remove(slot);
        match result {
            Ok(Outcome::Data(span)) => {
                assert_eq!(span.len, pending.len, "a read gives as many bytes as were asked for");
                self.begin_bytes(&pending);
                self.output.push_data(span);
            }
            Ok(Outcome::Zeroes) => {
                self.read_bytes -= held_bytes(pending.len);
                self.begin_bytes(&pending);
                self.output.push_zeroes(pending.len);
            }
            Ok(Outcome::Done | Outcome::Status(_)) => panic!("a read is completed with bytes"),
            Err(status) => {
                self.read_bytes -= held_bytes(pending.len);
                pending.failure = Some(Failure { status, offset: pending.offset });
                self.answer_done(&pending);
            }
        }
    }

    /// What comes before the bytes of a read that is sent in order.
    fn begin_bytes(&mut self, pending: &Pending) {
        if self.negotiated.structured {
            self.output.data_chunk(pending.cookie, true, pending.offset, pending.len);
        } else {
            self.output.simple(pending.cookie, None);
        }
    }

    /// Sends what has come of a read, in order, and ends it after its last piece.
    fn send_in_order(&mut self, slot: u16, window: u16) {
        loop {
            let pending = *self.table.get_mut(slot);
            if pending.emitted == pending.issued {
                break;
            }
            let place = self.table.held(window, pending.emitted);
            let held = *place;
            let len = match held {
                Held::Issued { .. } => break,
                Held::Data(span) => span.len,
                Held::Zeroes { len } => len,
                Held::Empty | Held::Status { .. } | Held::Failed => unreachable!("a read without a failure holds bytes or zeroes"),
            };
            *place = Held::Empty;
            if pending.emitted == 0 {
                self.begin_bytes(&pending);
            }
            if let Held::Data(span) = held {
                self.output.push_data(span);
            } else {
                self.output.push_zeroes(len);
            }
            let pending = self.table.get_mut(slot);
            pending.emitted += 1;
            pending.emitted_bytes += u64::from(len);
        }
        if self.table.get_mut(slot).is_complete() {
            let pending = self.table.remove(slot);
            assert_eq!(pending.emitted_bytes, u64::from(pending.len), "a read is answered with all of its bytes");
        }
    }

    fn deliver_status(&mut self, name: PieceName, result: Result<Outcome, Status>) {
        let pending = self.table.get_mut(name.slot);
        let Some(window) = pending.window else { unreachable!("block status has a window") };
        if let Err(status) = result {
            let offset = pending.offset;
            pending.failure.get_or_insert(Failure { status, offset });
            pending.end = pending.next;
        }
        let place = self.table.held(window, u32::from(name.piece));
        let Held::Issued { len } = *place else { panic!("a piece is completed once") };
        *place = match result {
            Ok(Outcome::Status(data)) => Held::Status { len, data },
            Ok(Outcome::Done | Outcome::Data(_) | Outcome::Zeroes) => panic!("block status is completed with a bitmap"),
            Err(_) => Held::Failed,
        };
        self.merge_status(name.slot, window);
        let pending = self.table.get_mut(name.slot);
        if !pending.is_complete() {
            return;
        }
        self.waiting.retain(|slot| *slot != name.slot);
        let pending = self.table.remove(name.slot);
        self.status_of = None;
        if let Some(failure) = pending.failure {
            self.answer_failure(&pending, failure);
            return;
        }
        let runs = self.runs.runs();
        #[expect(clippy::cast_possible_truncation, reason = "bounded by DESCRIPTORS_MAX")]
        let bytes = 4 + 8 * runs.len() as u32;
        self.output.chunk(pending.cookie, ChunkType::BlockStatus, true, bytes);
        self.output.push_bytes(&CONTEXT_ALLOCATION_ID.to_be_bytes());
        for run in runs {
            self.output.push_bytes(&run.len.to_be_bytes());
            self.output.push_bytes(&run.flags.to_be_bytes());
        }
    }

    /// Merges the bitmaps that have come, in order; stops issuing when no more runs are wanted.
    fn merge_status(&mut self, slot: u16, window: u16) {
        loop {
            let pending = *self.table.get_mut(slot);
            if pending.emitted == pending.issued {
                return;
            }
            let Held::Status { len, data } = *self.table.held(window, pending.emitted) else { return };
            let start = pending.offset / BLOCK * BLOCK + pending.emitted_bytes;
            let more = self.runs.add(start, len, &data);
            if !more {
                // What else is in flight is awaited and not looked at.
                *self.table.held(window, pending.emitted) = Held::Empty;
                let pending = self.table.get_mut(slot);
                pending.end = pending.next;
                return;
            }
            let pending = self.table.get_mut(slot);
            pending.emitted += 1;
            pending.emitted_bytes += u64::from(len);
        }
    }
}
