//! The requests of programs on the loop: cut into pieces, copied to or from buffers, put together.
//!
//! Invariants: an operation has at most [`PIECES_MAX`] pieces in flight; it is answered once, after its
//! last piece; the first failure stops it from making more. A dropped future does not stop its
//! operation, only the answer goes nowhere.
//!
//! What this must not know: sessions, sockets.

use crate::command::{Io, IoAsk};
use crate::users::Backlog;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::collections::{OpId, SlotTable};
use sds_core::error::Status;
use sds_core::machine::Token;
use sds_core::volume::interface::{Outcome, Request};
use sds_core::volume::piece::{self, DataPiece, ReadPieces, TrimPieces, WritePieces, ZeroPiece, ZeroPieces};
use std::collections::VecDeque;

/// Pieces of one operation in flight.
const PIECES_MAX: u32 = 32;

/// What is left to issue.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Read(ReadPieces),
    Write(WritePieces),
    Zero(ZeroPieces),
    Trim(TrimPieces),
    Flush(bool),
}

#[derive(Debug)]
struct Operation {
    io: Io,
    cut: Cut,
    exhausted: bool,
    outstanding: u32,
    error: Option<Status>,
}

/// A piece in flight.
#[derive(Clone, Copy, Debug)]
struct Piece {
    operation: OpId,
    /// Where its bytes go.
    at: usize,
}

/// All operations.
#[derive(Debug)]
pub(crate) struct Library {
    operations: SlotTable<Operation>,
    pieces: SlotTable<Piece>,
    /// Operations that could not get a buffer, first come first.
    starved: VecDeque<OpId>,
}

impl Library {
    pub(crate) fn new(operations_max: usize) -> Self {
        Self {
            operations: SlotTable::with_capacity(operations_max),
            pieces: SlotTable::with_capacity(operations_max * PIECES_MAX as usize),
            starved: VecDeque::new(),
        }
    }

    /// Operations in flight.
    pub(crate) fn len(&self) -> usize {
        self.operations.len()
    }

    /// Takes an operation; its permit has made sure that there is room.
    pub(crate) fn begin(&mut self, io: Io, buffers: &mut impl Buffers, backlog: &mut Backlog) {
        let cut = match &io.ask {
            IoAsk::Read { .. } => Cut::Read(piece::reads(io.stripe, io.offset, io.len)),
            IoAsk::Write { .. } => Cut::Write(piece::writes(io.stripe, io.offset, io.len)),
            IoAsk::Zero { .. } => Cut::Zero(piece::zeroes(io.stripe, io.offset, io.len)),
            IoAsk::Trim { .. } => Cut::Trim(piece::trims(io.stripe, io.offset, io.len)),
            IoAsk::Flush { .. } => Cut::Flush(true),
        };
        let operation = Operation { io, cut, exhausted: false, outstanding: 0, error: None };
        match self.operations.insert(operation) {
            Ok(id) => self.advance(id, buffers, backlog),
            Err(refused) => answer(refused, Some(Status::NotReady)),
        }
    }

    /// A piece is done.
    pub(crate) fn complete(&mut self, token: Token, result: Result<Outcome, Status>, buffers: &mut impl Buffers, backlog: &mut Backlog) {
        let Some(Piece { operation: id, at }) = self.pieces.remove(OpId::from_bits(token.get())) else {
            if let Ok(Outcome::Data(Span { buffer, .. })) = result {
                buffers.release(buffer);
            }
            return;
        };
        let Some(operation) = self.operations.get_mut(id) else { return };
        operation.outstanding -= 1;
        match result {
            Ok(Outcome::Data(span)) => {
                if let IoAsk::Read { into, .. } = &mut operation.io.ask
                    && let Some(place) = into.get_mut(at..at + span.len as usize)
                {
                    place.copy_from_slice(buffers.bytes(span));
                }
                buffers.release(span.buffer);
            }
            Ok(Outcome::Done | Outcome::Zeroes | Outcome::Status(_)) => {}
            Err(status) => {
                operation.error.get_or_insert(status);
            }
        }
        self.advance(id, buffers, backlog);
    }

    /// Buffers were freed.
    pub(crate) fn buffers_freed(&mut self, buffers: &mut impl Buffers, backlog: &mut Backlog) {
        for _ in 0..self.starved.len() {
            let Some(id) = self.starved.pop_front() else { return };
            self.advance(id, buffers, backlog);
        }
    }

    /// Issues what may be issued, and answers when all is done.
    fn advance(&mut self, id: OpId, buffers: &mut impl Buffers, backlog: &mut Backlog) {
        let Some(operation) = self.operations.get_mut(id) else { return };
        while operation.outstanding < PIECES_MAX && !operation.exhausted && operation.error.is_none() {
            let mut ahead = operation.cut;
            let (request, at) = match next(&mut ahead, &operation.io, buffers) {
                Next::Piece(request, at) => (request, at),
                Next::NoBuffer => {
                    if !self.starved.contains(&id) {
                        self.starved.push_back(id);
                    }
                    return;
                }
                Next::End => {
                    operation.exhausted = true;
                    break;
                }
            };
            operation.cut = ahead;
            operation.outstanding += 1;
            let Ok(piece) = self.pieces.insert(Piece { operation: id, at }) else { unreachable!("each operation has room for its pieces") };
            backlog.push(Token::new(piece.bits()), operation.io.volume, request);
        }
        if operation.outstanding == 0
            && let Some(done) = self.operations.remove(id)
        {
            let error = done.error;
            answer(done, error);
        }
    }
}

enum Next {
    Piece(Request, usize),
    NoBuffer,
    End,
}

/// The next piece as a request; a write's bytes are copied into a buffer.
fn next(cut: &mut Cut, io: &Io, buffers: &mut impl Buffers) -> Next {
    let place = |offset: sds_core::unit::ByteOffset| usize::try_from(offset.get() - io.offset.get()).unwrap_or(usize::MAX);
    match cut {
        Cut::Read(pieces) => match pieces.next() {
            Some(DataPiece { offset, len }) => Next::Piece(Request::Read { offset, len }, place(offset)),
            None => Next::End,
        },
        Cut::Write(pieces) => match pieces.next() {
            Some(DataPiece { offset, len }) => {
                let IoAsk::Write { from, durable, .. } = &io.ask else { return Next::End };
                let Some(span) = filled(len, buffers, |bytes| bytes.copy_from_slice(&from[place(offset)..place(offset) + len as usize]))
                else {
                    return Next::NoBuffer;
                };
                Next::Piece(Request::Write { offset, span, durable: *durable }, 0)
            }
            None => Next::End,
        },
        Cut::Zero(pieces) => {
            let IoAsk::Zero { durable, .. } = io.ask else { return Next::End };
            match pieces.next() {
                Some(ZeroPiece::Blocks { offset, len }) => Next::Piece(Request::Zero { offset, len, trim: false, durable }, 0),
                Some(ZeroPiece::Fragment { offset, len }) => match filled(len, buffers, |bytes| bytes.fill(0)) {
                    Some(span) => Next::Piece(Request::Write { offset, span, durable }, 0),
                    None => Next::NoBuffer,
                },
                None => Next::End,
            }
        }
        Cut::Trim(pieces) => match pieces.next() {
            Some(piece) => Next::Piece(Request::Zero { offset: piece.offset, len: piece.len, trim: true, durable: false }, 0),
            None => Next::End,
        },
        Cut::Flush(due) => {
            if std::mem::take(due) {
                Next::Piece(Request::Flush, 0)
            } else {
                Next::End
            }
        }
    }
}

fn filled(len: u32, buffers: &mut impl Buffers, fill: impl FnOnce(&mut [u8])) -> Option<Span> {
    let span = Span::whole(buffers.allocate(BufferClass::Client, len)?, len);
    fill(buffers.bytes_mut(span));
    Some(span)
}

/// Tells the program; it may have lost interest.
fn answer(operation: Operation, error: Option<Status>) {
    let result = error.map_or(Ok(()), Err);
    let Io { ask, permit, .. } = operation.io;
    drop(permit);
    match ask {
        IoAsk::Read { into, reply } => drop(reply.send(result.map(|()| into))),
        IoAsk::Write { reply, .. } | IoAsk::Zero { reply, .. } | IoAsk::Trim { reply } | IoAsk::Flush { reply } => drop(reply.send(result)),
    }
}
