//! Pieces on their way to the volume.
//!
//! Invariants: requests are served first come first, except that one with [`WINDOW`] pieces in flight
//! (or waiting for an earlier one) lets others pass. At most one read that is sent as a whole is partly issued, so what
//! holds the read budget is always on its way out: no request waits for itself.

use super::Effect;
use super::connection::Connection;
use super::inflight::{Held, PieceName};
use super::request::{Action, Delivery, read_piece};
use super::{WINDOW, held_bytes};
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::machine::{Outbox, Token};
use sds_core::unit::{BLOCK_BYTES, ByteOffset};
use sds_core::volume::interface::Request;
use sds_core::volume::piece::{self, StatusPiece, ZeroPiece};

pub(super) const BLOCK: u64 = BLOCK_BYTES as u64;
/// Most pieces of one block status request; a client asks again for the rest.
const STATUS_PIECES_MAX: u32 = 2048;

/// How far issuing a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Issued {
    /// All of it.
    All,
    /// Its own earlier pieces come first.
    Later,
    /// The connection is at a bound.
    AtBound,
}

impl Connection {
    /// Issues what may be issued.
    pub(super) fn issue(&mut self, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        for _ in 0..self.waiting.len() {
            let Some(&slot) = self.waiting.front() else { return };
            match self.issue_request(slot, buffers, out) {
                Issued::All => {
                    self.waiting.pop_front();
                }
                Issued::Later => self.waiting.rotate_left(1),
                Issued::AtBound => return,
            }
        }
    }

    fn issue_request(&mut self, slot: u16, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) -> Issued {
        loop {
            let pending = self.table.get_mut(slot);
            if pending.next == pending.end {
                return Issued::All;
            }
            if self.pieces >= self.limits.pieces {
                return Issued::AtBound;
            }
            let waits_in_order = pending.window.is_some() && (pending.issued - pending.emitted) as usize >= WINDOW;
            if waits_in_order || (pending.issued - pending.done) as usize >= WINDOW {
                return Issued::Later;
            }
            let Some(export) = &self.export else { unreachable!("transmission has an export") };
            let (stripe, at) = (export.stripe, pending.next);
            let offset = ByteOffset::new(at);
            #[expect(clippy::cast_possible_truncation, reason = "a request's length is 32 bits")]
            let left = (pending.end - at) as u32;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "no request has 65,536 pieces: 4 GiB are 4,096 stripe sets at most, 32 MiB 8,193 blocks"
            )]
            let (len, piece, request) = match pending.action {
                Action::Read { delivery } => {
                    let len = read_piece(stripe, at, left);
                    if self.read_bytes + held_bytes(len) > self.limits.read_bytes {
                        return Issued::AtBound;
                    }
                    self.read_bytes += held_bytes(len);
                    let piece = match delivery {
                        Delivery::Chunks => (at / BLOCK - pending.offset / BLOCK) as u16,
                        Delivery::Whole | Delivery::Stream => pending.issued as u16,
                    };
                    (len, piece, Request::Read { offset, len })
                }
                Action::Zero { trim, durable } => {
                    let Some(next) = piece::zeroes(stripe, offset, u64::from(left)).next() else { unreachable!("some is left") };
                    let (len, request) = match next {
                        ZeroPiece::Blocks { len, .. } => (len as u32, Request::Zero { offset, len, trim, durable }),
                        ZeroPiece::Fragment { len, .. } => {
                            let Some(buffer) = buffers.allocate(BufferClass::Client, len) else { return Issued::AtBound };
                            let span = Span::whole(buffer, len);
                            buffers.bytes_mut(span).fill(0);
                            (len, Request::Write { offset, span, durable })
                        }
                    };
                    (len, pending.issued as u16, request)
                }
                Action::Status { one } => {
                    match self.status_of {
                        Some(owner) if owner != slot => return Issued::Later,
                        Some(_) => {}
                        None => {
                            self.status_of = Some(slot);
                            self.runs.start(pending.offset, pending.len, one);
                        }
                    }
                    let Some(StatusPiece { len, .. }) = piece::statuses(stripe, offset, pending.end - at).next() else {
                        unreachable!("some is left")
                    };
                    if pending.issued + 1 >= STATUS_PIECES_MAX {
                        pending.end = at + u64::from(len);
                    }
                    (len, pending.issued as u16, Request::Status { offset, len })
                }
                Action::Flush => (1, 0, Request::Flush),
                Action::Write { .. } => unreachable!("writes are issued as their payload comes"),
            };
            let name = PieceName { slot, generation: pending.generation, piece };
            let (number, window) = (pending.issued, pending.window);
            pending.next += u64::from(len);
            pending.issued += 1;
            if let Some(window) = window {
                *self.table.held(window, number) = Held::Issued { len };
            }
            self.pieces += 1;
            out.push(Effect::Request { token: self.token(name), request });
        }
    }

    /// Issues a filled piece of a write; says whether that was the last.
    pub(super) fn issue_write(&mut self, slot: u16, span: Span, out: &mut Outbox<Effect>) -> bool {
        let pending = self.table.get_mut(slot);
        let Action::Write { durable } = pending.action else { unreachable!("payload belongs to a write") };
        #[expect(clippy::cast_possible_truncation, reason = "32 MiB have at most 8,193 pieces")]
        let name = PieceName { slot, generation: pending.generation, piece: pending.issued as u16 };
        let request = Request::Write { offset: ByteOffset::new(pending.next), span, durable };
        pending.next += u64::from(span.len);
        pending.issued += 1;
        let last = pending.next == pending.end;
        self.pieces += 1;
        out.push(Effect::Request { token: self.token(name), request });
        last
    }

    fn token(&self, name: PieceName) -> Token {
        Token::new((u64::from(self.tag) << 48) | name.bits())
    }
}
