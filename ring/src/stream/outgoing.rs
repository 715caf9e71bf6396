//! What goes out on a stream: heads copied together, payloads gathered from where they lie, one send
//! in flight.
//!
//! Invariants: bytes leave in the order they were queued; every payload's use ends after the send that
//! carried its last byte; the batch in flight is not changed until it is out.

use crate::error::RingError;
use crate::limits::{GATHER_MAX, HEAD_BYTES_MAX, ZERO_AREA_BYTES};
use crate::pool::BufferPool;
use crate::ring::{Ring, Target, with_target};
use crate::role::Closed;
use crate::tag::{Kind, Tag};
use io_uring::opcode;
use sds_core::buffer::{Buffers, Span};

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing.
    None,
    /// Bytes of a buffer, of which one use passes to the stream.
    Span(Span),
    /// This many zero bytes, from nobody's buffer.
    Zeroes(u32),
}

#[derive(Clone, Copy, Debug)]
enum Segment {
    /// `len` bytes of the batch's heads.
    Head {
        start: usize,
        len: usize,
    },
    Span(Span),
    Zeroes(u32),
}

/// What is sent together.
#[derive(Debug, Default)]
struct Batch {
    heads: Vec<u8>,
    segments: Vec<Segment>,
    bytes: usize,
}

/// The gather list of the send in flight. Raw pointers into the batch's heads and into the pool.
#[derive(Debug)]
struct Gather {
    vectors: Vec<libc::iovec>,
    message: Box<libc::msghdr>,
    /// First vector that is not out yet.
    next: usize,
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    filling: Batch,
    sending: Batch,
    gather: Gather,
    in_flight: bool,
    /// Nobody wants the rest to be sent.
    abandoned: bool,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        // SAFETY: all-zero is a valid `msghdr`: null pointers with zero lengths.
        let message: libc::msghdr = unsafe { std::mem::zeroed() };
        let batch = || Batch { heads: Vec::with_capacity(16 << 10), segments: Vec::with_capacity(128), bytes: 0 };
        Self {
            filling: batch(),
            sending: batch(),
            gather: Gather { vectors: Vec::with_capacity(128), message: Box::new(message), next: 0 },
            in_flight: false,
            abandoned: false,
        }
    }

    pub(crate) const fn is_in_flight(&self) -> bool {
        self.in_flight
    }

    /// Bytes queued and in flight.
    pub(crate) const fn queued(&self) -> usize {
        self.filling.bytes + self.sending.bytes
    }

    /// Whether there is nothing to send.
    pub(crate) const fn is_idle(&self) -> bool {
        !self.in_flight && self.queued() == 0
    }

    /// Queues a head and what follows it.
    pub(crate) fn push(&mut self, head: &[u8], payload: Payload) {
        assert!(head.len() <= HEAD_BYTES_MAX, "a head is short");
        let batch = &mut self.filling;
        if !head.is_empty() {
            let start = batch.heads.len();
            batch.heads.extend_from_slice(head);
            match batch.segments.last_mut() {
                Some(Segment::Head { len, .. }) => *len += head.len(),
                Some(Segment::Span(_) | Segment::Zeroes(_)) | None => batch.segments.push(Segment::Head { start, len: head.len() }),
            }
            batch.bytes += head.len();
        }
        match payload {
            Payload::None => {}
            Payload::Span(span) => {
                batch.segments.push(Segment::Span(span));
                batch.bytes += span.len as usize;
            }
            Payload::Zeroes(count) => {
                let mut rest = count;
                while rest > 0 {
                    let piece = rest.min(ZERO_AREA_BYTES);
                    batch.segments.push(Segment::Zeroes(piece));
                    rest -= piece;
                }
                batch.bytes += count as usize;
            }
        }
    }

    /// Submits what is queued if no send is in flight.
    pub(crate) fn begin(&mut self, slot: u32, target: Target, ring: &mut Ring, pool: &mut BufferPool) -> Result<(), RingError> {
        if self.in_flight || self.filling.bytes == 0 {
            return Ok(());
        }
        std::mem::swap(&mut self.filling, &mut self.sending);
        let Gather { vectors, next, .. } = &mut self.gather;
        vectors.clear();
        *next = 0;
        let vector = |base: *const u8, len: usize| libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len };
        for segment in &self.sending.segments {
            vectors.push(match *segment {
                Segment::Head { start, len } => vector(self.sending.heads[start..start + len].as_ptr(), len),
                Segment::Span(span) => {
                    pool.begin(span, false);
                    vector(pool.pointer(span), span.len as usize)
                }
                Segment::Zeroes(len) => vector(pool.zeroes(len), len as usize),
            });
        }
        self.submit(slot, target, ring)
    }

    fn submit(&mut self, slot: u32, target: Target, ring: &mut Ring) -> Result<(), RingError> {
        let Gather { vectors, message, next } = &mut self.gather;
        let vectors = &mut vectors[*next..];
        // A stream with nothing behind this send need not wait for company; the kernel finishes a short one (MSG_WAITALL).
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match vectors {
            [one] => {
                let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
                with_target!(target, |fd| opcode::Send::new(fd, one.iov_base.cast_const().cast(), len).flags(flags).build())
            }
            several => {
                message.msg_iov = several.as_mut_ptr();
                message.msg_iovlen = several.len().min(GATHER_MAX);
                let message: *const libc::msghdr = &raw const **message;
                with_target!(target, |fd| opcode::SendMsg::new(fd, message).flags(flags.cast_unsigned()).build())
            }
        };
        self.in_flight = true;
        // SAFETY: message, vectors and heads live in boxes and vectors of `self` that are not touched while `in_flight`,
        // and `self` is kept until the completion; spans have a use of their own; the zero area lives with the pool.
        unsafe { ring.push(entry, Tag::new(Kind::Send, slot)) }
    }

    /// A send has ended. `Ok(true)`: the whole batch is out.
    pub(crate) fn complete(
        &mut self,
        slot: u32,
        target: Target,
        result: i32,
        ring: &mut Ring,
        pool: &mut BufferPool,
    ) -> Result<Result<bool, Closed>, RingError> {
        self.in_flight = false;
        if self.abandoned {
            self.finish(pool);
            return Ok(Ok(true));
        }
        let Ok(mut sent) = usize::try_from(result) else {
            return Ok(Err(Closed::Error { errno: result.saturating_neg() }));
        };
        if sent == 0 {
            return Ok(Err(Closed::Peer));
        }
        self.sending.bytes -= sent.min(self.sending.bytes);
        let Gather { vectors, next, .. } = &mut self.gather;
        while let Some(vector) = vectors.get_mut(*next) {
            if sent < vector.iov_len {
                vector.iov_base = vector.iov_base.wrapping_byte_add(sent);
                vector.iov_len -= sent;
                break;
            }
            sent -= vector.iov_len;
            *next += 1;
        }
        if *next < vectors.len() {
            self.submit(slot, target, ring)?;
            return Ok(Ok(false));
        }
        self.finish(pool);
        Ok(Ok(true))
    }

    /// Ends the uses of the batch that is out (or given up).
    fn finish(&mut self, pool: &mut BufferPool) {
        for segment in self.sending.segments.drain(..) {
            if let Segment::Span(span) = segment {
                pool.end(span, false);
                pool.release(span.buffer);
            }
        }
        self.gather.vectors.clear();
        self.gather.next = 0;
        self.sending.heads.clear();
        self.sending.bytes = 0;
    }

    /// Gives up: what is queued is freed now, what is in flight when it completes.
    pub(crate) fn abandon(&mut self, pool: &mut BufferPool) {
        self.abandoned = true;
        for segment in self.filling.segments.drain(..) {
            if let Segment::Span(span) = segment {
                pool.release(span.buffer);
            }
        }
        self.filling.heads.clear();
        self.filling.bytes = 0;
        if !self.in_flight {
            self.finish(pool);
        }
    }
}
