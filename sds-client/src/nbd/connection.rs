//! One connection: takes bytes apart into requests and keeps what they need until they are answered.
//!
//! Invariants: see [`super`]. The three halves are files of their own: incoming bytes here, pieces
//! going to the volume in [`super::issue`], results coming back in [`super::deliver`].

use super::constants::{ChunkType, Command, ErrorCode};
use super::export::{ExportError, ExportInfo};
use super::handshake::{Handshake, Progress};
use super::inflight::{Pending, Table};
use super::reply::{Out, Output};
use super::request::{Action, Delivery, Negotiated, REQUEST_BYTES, RawRequest, Verdict, judge, read_piece, write_piece};
use super::status::Runs;
use super::{CloseReason, Effect, Limits, OUTPUT_SEGMENTS_HIGH, READ_BYTES_MIN, Want};
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::limits::RECEIVE_IN_PLACE_BYTES;
use sds_core::machine::Outbox;
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) enum Phase {
    Handshake(Box<Handshake>),
    Transmission,
    /// No more requests; what is accepted is finished and answered.
    Finishing(CloseReason),
    /// Nothing is sent any more; only completions are awaited.
    Closed(CloseReason),
}

/// What the next bytes are.
#[derive(Debug)]
pub(super) enum Inbound {
    /// A request.
    Header,
    /// Payload of the request in this slot; no buffer could be had yet for the rest of it.
    Starved { slot: u16 },
    /// Payload of the request in this slot, going to this piece, of which `filled` bytes are there.
    Payload { slot: u16, piece: Span, filled: u32 },
    /// Payload of a refused write.
    Discard { left: u32, cookie: u64, code: ErrorCode, message: &'static str },
}

/// One client connection. Drive it as [`super`] says.
#[derive(Debug)]
pub struct Connection {
    pub(super) tag: u16,
    pub(super) limits: Limits,
    pub(super) phase: Phase,
    pub(super) export: Option<ExportInfo>,
    pub(super) negotiated: Negotiated,
    pub(super) inbound: Inbound,
    pub(super) output: Output,
    pub(super) table: Table,
    /// Requests with pieces left to issue, first come first.
    pub(super) waiting: VecDeque<u16>,
    /// The block status request being answered, and its runs.
    pub(super) status_of: Option<u16>,
    pub(super) runs: Runs,
    /// Pieces the volume is working on.
    pub(super) pieces: usize,
    /// Buffer bytes of reads issued and not yet taken.
    pub(super) read_bytes: u64,
    stopping: bool,
    carry: [u8; REQUEST_BYTES],
    carried: usize,
}

impl Connection {
    /// A fresh connection, its greeting queued. `tag` is unique among the shell's connections.
    ///
    /// # Panics
    /// If a limit is 0 or `read_bytes` is below [`READ_BYTES_MIN`].
    #[must_use]
    pub fn new(tag: u16, limits: Limits) -> Self {
        assert!(limits.requests > 0 && limits.pieces > 0, "a connection without room for a request does nothing");
        assert!(limits.read_bytes >= READ_BYTES_MIN, "a read sent as a whole must fit");
        let mut output = Output::default();
        Self {
            tag,
            limits,
            phase: Phase::Handshake(Box::new(Handshake::new(&mut output))),
            export: None,
            negotiated: Negotiated::default(),
            inbound: Inbound::Header,
            output,
            table: Table::new(limits.requests),
            waiting: VecDeque::with_capacity(usize::from(limits.requests)),
            status_of: None,
            runs: Runs::default(),
            pieces: 0,
            read_bytes: 0,
            stopping: false,
            carry: [0; REQUEST_BYTES],
            carried: 0,
        }
    }

    /// The export in use, from its opening on.
    #[must_use]
    pub const fn export(&self) -> Option<&ExportInfo> {
        self.export.as_ref()
    }

    /// Whether the client still haggles; a shell may limit how long.
    #[must_use]
    pub const fn is_in_handshake(&self) -> bool {
        matches!(self.phase, Phase::Handshake(_))
    }

    /// Whether nothing is in flight at the volume.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.pieces == 0
    }

    /// Requests accepted and not yet answered.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.table.len()
    }

    /// Segments of replies that wait to be taken.
    #[must_use]
    pub fn output_segments(&self) -> usize {
        self.output.len()
    }

    /// Why it is ending, if it is.
    #[must_use]
    pub const fn close_reason(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Handshake(_) | Phase::Transmission => None,
            Phase::Finishing(reason) | Phase::Closed(reason) => Some(reason),
        }
    }

    /// What to receive next.
    #[must_use]
    pub fn want(&self) -> Want {
        match &self.phase {
            Phase::Handshake(_) if self.stopping && self.output.is_empty() => Want::Close,
            Phase::Handshake(handshake) if handshake.is_awaiting() => Want::Nothing,
            Phase::Handshake(_) if self.output.len() >= OUTPUT_SEGMENTS_HIGH => Want::Nothing,
            Phase::Handshake(_) => Want::Staging,
            Phase::Transmission if self.stopping && self.is_drained() => Want::Close,
            Phase::Transmission => match self.inbound {
                Inbound::Header if self.accepts() => Want::Staging,
                Inbound::Header | Inbound::Starved { .. } => Want::Nothing,
                Inbound::Payload { piece, filled, .. } if piece.len - filled >= RECEIVE_IN_PLACE_BYTES => {
                    Want::InPlace(piece.part(filled, piece.len - filled))
                }
                Inbound::Payload { .. } | Inbound::Discard { .. } => Want::Staging,
            },
            Phase::Finishing(_) if self.is_drained() => Want::Close,
            Phase::Finishing(_) => Want::Nothing,
            Phase::Closed(_) => Want::Close,
        }
    }

    fn is_drained(&self) -> bool {
        let between_requests = match self.inbound {
            Inbound::Header => true,
            Inbound::Starved { .. } | Inbound::Payload { .. } | Inbound::Discard { .. } => false,
        };
        self.table.is_empty() && self.output.is_empty() && between_requests
    }

    /// Whether another request may be looked at.
    fn accepts(&self) -> bool {
        !self.table.is_full() && self.output.len() < OUTPUT_SEGMENTS_HIGH
    }

    /// Takes staged bytes; returns how many were used. The rest is given again later (see [`super`]).
    pub fn receive(&mut self, bytes: &[u8], buffers: &mut impl Buffers, out: &mut Outbox<Effect>) -> usize {
        let mut rest = bytes;
        loop {
            match &mut self.phase {
                Phase::Handshake(handshake) => match handshake.receive(&mut rest, &mut self.output, self.stopping) {
                    Progress::More | Progress::Awaiting => break,
                    Progress::Ask(effect) => {
                        out.push(effect);
                        break;
                    }
                    Progress::Finish => self.phase = Phase::Finishing(CloseReason::Finished),
                    Progress::Close(reason) => self.close(reason, buffers),
                },
                Phase::Transmission => {
                    if !self.receive_step(&mut rest, buffers, out) {
                        break;
                    }
                }
                Phase::Finishing(_) | Phase::Closed(_) => {
                    // What follows a farewell or garbage is not looked at.
                    rest = &[];
                    break;
                }
            }
        }
        self.issue(buffers, out);
        bytes.len() - rest.len()
    }

    /// One step of the transmission phase; false when it needs more bytes or is at a bound.
    fn receive_step(&mut self, rest: &mut &[u8], buffers: &mut impl Buffers, out: &mut Outbox<Effect>) -> bool {
        match self.inbound {
            Inbound::Header => {
                if rest.is_empty() || !self.accepts() {
                    return false;
                }
                let Some(header) = self.next_header(rest) else { return false };
                match RawRequest::decode(&header) {
                    Some(raw) => self.admit(&raw, buffers),
                    None => self.close(CloseReason::BadRequestMagic, buffers),
                }
                true
            }
            Inbound::Starved { slot } => self.begin_piece(slot, buffers),
            Inbound::Payload { piece, filled, .. } => {
                if rest.is_empty() {
                    return false;
                }
                let count = rest.len().min((piece.len - filled) as usize);
                let (head, tail) = rest.split_at(count);
                #[expect(clippy::cast_possible_truncation, reason = "at most a piece")]
                let len = count as u32;
                buffers.bytes_mut(piece.part(filled, len)).copy_from_slice(head);
                *rest = tail;
                self.filled(len, buffers, out);
                true
            }
            Inbound::Discard { left, cookie, code, message } => {
                let count = rest.len().min(left as usize);
                *rest = &rest[count..];
                #[expect(clippy::cast_possible_truncation, reason = "at most `left`")]
                let left = left - count as u32;
                if left > 0 {
                    self.inbound = Inbound::Discard { left, cookie, code, message };
                    return false;
                }
                self.inbound = Inbound::Header;
                self.answer_error(cookie, code, message, None);
                true
            }
        }
    }

    fn next_header(&mut self, rest: &mut &[u8]) -> Option<[u8; REQUEST_BYTES]> {
        if self.carried == 0
            && let Some((header, tail)) = rest.split_first_chunk()
        {
            *rest = tail;
            return Some(*header);
        }
        let count = rest.len().min(REQUEST_BYTES - self.carried);
        self.carry[self.carried..self.carried + count].copy_from_slice(&rest[..count]);
        *rest = &rest[count..];
        self.carried += count;
        if self.carried < REQUEST_BYTES {
            return None;
        }
        self.carried = 0;
        Some(self.carry)
    }

    /// Decides on a request and, if it is to be done, gives it a place.
    fn admit(&mut self, raw: &RawRequest, buffers: &mut impl Buffers) {
        let Some(export) = &self.export else { unreachable!("transmission has an export") };
        let cookie = raw.cookie;
        match judge(raw, export, self.negotiated, self.stopping) {
            Verdict::Disconnect => self.phase = Phase::Finishing(CloseReason::Finished),
            Verdict::Refuse(code, message) if raw.payload_len() > 0 => {
                self.inbound = Inbound::Discard { left: raw.payload_len(), cookie, code, message };
            }
            Verdict::Refuse(code, message) => self.answer_error(cookie, code, message, None),
            Verdict::Nothing if raw.command == Command::Read as u16 && self.negotiated.structured => {
                self.output.chunk(cookie, ChunkType::None, true, 0);
            }
            Verdict::Nothing => self.output.simple(cookie, None),
            Verdict::Run { action, offset, len } => {
                let stripe = export.stripe;
                let windowed = match action {
                    Action::Read { delivery: Delivery::Chunks } | Action::Write { .. } | Action::Zero { .. } | Action::Flush => false,
                    Action::Read { delivery: Delivery::Whole } => read_piece(stripe, offset, len) < len,
                    Action::Read { delivery: Delivery::Stream } | Action::Status { .. } => true,
                };
                let next = match action {
                    Action::Status { .. } => offset / super::issue::BLOCK * super::issue::BLOCK,
                    Action::Read { .. } | Action::Write { .. } | Action::Zero { .. } | Action::Flush => offset,
                };
                let end = match action {
                    Action::Status { .. } => (offset + u64::from(len)).next_multiple_of(super::issue::BLOCK),
                    // A flush has one piece and no bytes: it is issued when `next` is below `end`.
                    Action::Flush => 1,
                    Action::Read { .. } | Action::Write { .. } | Action::Zero { .. } => offset + u64::from(len),
                };
                let pending = Pending {
                    generation: 0,
                    cookie,
                    action,
                    offset,
                    len,
                    next,
                    end,
                    issued: 0,
                    done: 0,
                    emitted: 0,
                    emitted_bytes: 0,
                    failure: None,
                    window: None,
                };
                let slot = self.table.insert(pending, windowed);
                match action {
                    Action::Write { .. } => {
                        self.inbound = Inbound::Starved { slot };
                        self.begin_piece(slot, buffers);
                    }
                    Action::Read { .. } | Action::Zero { .. } | Action::Flush | Action::Status { .. } => self.waiting.push_back(slot),
                }
            }
        }
    }

    /// Gets a buffer for the next piece of a write; false if there is none or too many pieces are in flight.
    fn begin_piece(&mut self, slot: u16, buffers: &mut impl Buffers) -> bool {
        if self.pieces >= self.limits.pieces {
            return false;
        }
        let pending = self.table.get_mut(slot);
        let Some(export) = &self.export else { unreachable!("transmission has an export") };
        #[expect(clippy::cast_possible_truncation, reason = "a request's length is 32 bits")]
        let left = (pending.end - pending.next) as u32;
        let len = write_piece(export.stripe, pending.next, left);
        let Some(buffer) = buffers.allocate(BufferClass::Client, len) else { return false };
        self.inbound = Inbound::Payload { slot, piece: Span::whole(buffer, len), filled: 0 };
        true
    }

    /// Bytes were received into the span that `want` named.
    ///
    /// # Panics
    /// If `want` named none, or a shorter one.
    pub fn received_in_place(&mut self, len: u32, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        match self.phase {
            // The connection ended while the receive was in flight.
            Phase::Finishing(_) | Phase::Closed(_) => return,
            Phase::Transmission | Phase::Handshake(_) => {}
        }
        self.filled(len, buffers, out);
        self.issue(buffers, out);
    }

    fn filled(&mut self, len: u32, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        let Inbound::Payload { slot, piece, filled } = self.inbound else { panic!("bytes in place belong to a payload") };
        assert!(len <= piece.len - filled, "no more bytes than the span has");
        let filled = filled + len;
        if filled < piece.len {
            self.inbound = Inbound::Payload { slot, piece, filled };
            return;
        }
        self.inbound = if self.issue_write(slot, piece, out) { Inbound::Header } else { Inbound::Starved { slot } };
        if let Inbound::Starved { slot } = self.inbound {
            self.begin_piece(slot, buffers);
        }
    }

    /// Answer to [`Effect::ListExports`]: names and descriptions.
    pub fn listed(&mut self, exports: &[(String, String)]) {
        if let Phase::Handshake(handshake) = &mut self.phase {
            handshake.listed(exports, &mut self.output);
        }
    }

    /// Answer to [`Effect::OpenExport`], or the failure of [`Effect::ListExports`]. Returns whether the
    /// export is in use from now on (not when it was only described, or the connection has ended).
    pub fn opened(&mut self, result: Result<ExportInfo, ExportError>, buffers: &mut impl Buffers) -> bool {
        let Phase::Handshake(handshake) = &mut self.phase else { return false };
        match result {
            Ok(export) => {
                let Some(negotiated) = handshake.opened(&export, &mut self.output) else { return false };
                self.negotiated = negotiated;
                self.export = Some(export);
                self.phase = Phase::Transmission;
                true
            }
            Err(error) => {
                match handshake.refused(&error, &mut self.output) {
                    Progress::Close(reason) => self.close(reason, buffers),
                    Progress::More | Progress::Ask(_) | Progress::Awaiting | Progress::Finish => {}
                }
                false
            }
        }
    }

    /// Moves queued output to `batch`, up to one send's worth.
    pub fn take_output(&mut self, batch: &mut Vec<Out>) {
        let held = self.output.take(batch);
        assert!(held <= self.read_bytes, "only reads hold buffers in the output");
        self.read_bytes -= held;
    }

    /// Whether [`Self::take_output`] would give something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// No new requests: they are answered `ESHUTDOWN`, options likewise. `want` says close when the
    /// accepted ones are answered.
    pub const fn shut_down(&mut self) {
        self.stopping = true;
    }

    /// The socket is gone (or will be closed now, by the shell's own decision).
    pub fn disconnect(&mut self, buffers: &mut impl Buffers) {
        self.close(CloseReason::Lost, buffers);
    }

    /// Ends the connection: gives back all buffers that are not with the volume.
    pub(super) fn close(&mut self, reason: CloseReason, buffers: &mut impl Buffers) {
        let reason = match self.phase {
            Phase::Closed(_) => return,
            // It had already said farewell.
            Phase::Finishing(first) => first,
            Phase::Handshake(_) | Phase::Transmission => reason,
        };
        self.phase = Phase::Closed(reason);
        if let Inbound::Payload { piece, .. } = self.inbound {
            buffers.release(piece.buffer);
        }
        self.inbound = Inbound::Header;
        self.output.clear(buffers);
        self.waiting.clear();
        self.table.release_all(buffers);
        self.read_bytes = 0;
    }
}
