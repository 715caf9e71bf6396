//! Outgoing bytes: replies encoded, and the queue of segments a shell gathers into one `sendmsg`.
//!
//! Invariants: segments leave in the order they were queued; a [`Out::Data`] carries one use of its
//! buffer, which passes to whoever takes the segment; short replies that follow each other share a
//! segment. Must not know: requests, sockets.

use super::constants::{CHUNK_DONE, CHUNK_MAGIC, ChunkType, ErrorCode, SIMPLE_REPLY_MAGIC};
use sds_core::buffer::{Buffers, Span};
use std::collections::VecDeque;

/// Bytes an [`Out::Header`] can hold.
pub const HEADER_BYTES_MAX: usize = 62;
/// Most segments [`Output::take`] hands over at once (below the kernel's `IOV_MAX` of 1024).
pub const SEND_SEGMENTS_MAX: usize = 256;
/// Bytes after which [`Output::take`] stops.
pub const SEND_BYTES_MAX: u64 = 1 << 20;
/// Segments the queue has room for without growing.
const SEGMENTS_CAPACITY: usize = 2048;

/// Some bytes held inline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderBytes {
    len: u8,
    bytes: [u8; HEADER_BYTES_MAX],
}

impl HeaderBytes {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Takes what fits and returns how much that was.
    #[expect(clippy::cast_possible_truncation, reason = "bounded by HEADER_BYTES_MAX")]
    fn append(&mut self, more: &[u8]) -> usize {
        let start = usize::from(self.len);
        let count = more.len().min(HEADER_BYTES_MAX - start);
        self.bytes[start..start + count].copy_from_slice(&more[..count]);
        self.len += count as u8;
        count
    }
}

/// One segment of the outgoing stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// Bytes held inline.
    Header(HeaderBytes),
    /// Bytes of a buffer; one use of it passes along, to be released once they are sent.
    Data(Span),
    /// That many zero bytes, sent from wherever the shell keeps some.
    Zeroes(u32),
}

const _: () = assert!(size_of::<Out>() == 64, "a segment is one cache line");

impl Out {
    /// Bytes it stands for.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub const fn len(&self) -> u32 {
        match self {
            Self::Header(header) => header.len as u32,
            Self::Data(span) => span.len,
            Self::Zeroes(count) => *count,
        }
    }
}

/// The outgoing stream of one connection.
#[derive(Debug)]
pub struct Output {
    segments: VecDeque<Out>,
}

impl Default for Output {
    fn default() -> Self {
        Self { segments: VecDeque::with_capacity(SEGMENTS_CAPACITY) }
    }
}

impl Output {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// How many segments wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.len()
    }

    /// Queues bytes.
    pub fn push_bytes(&mut self, mut bytes: &[u8]) {
        if let Some(Out::Header(last)) = self.segments.back_mut() {
            bytes = &bytes[last.append(bytes)..];
        }
        while !bytes.is_empty() {
            let mut header = HeaderBytes { len: 0, bytes: [0; HEADER_BYTES_MAX] };
            bytes = &bytes[header.append(bytes)..];
            self.segments.push_back(Out::Header(header));
        }
    }

    /// Queues bytes of a buffer, with one use of it.
    pub fn push_data(&mut self, span: Span) {
        assert!(span.len > 0, "a piece of a read has bytes");
        self.segments.push_back(Out::Data(span));
    }

    /// Queues zero bytes.
    pub fn push_zeroes(&mut self, count: u32) {
        match self.segments.back_mut() {
            Some(Out::Zeroes(last)) if last.checked_add(count).is_some() => *last += count,
            Some(Out::Header(_) | Out::Data(_) | Out::Zeroes(_)) | None => self.segments.push_back(Out::Zeroes(count)),
        }
    }

    /// Moves segments to `batch`, at least one if there is one, until the batch holds
    /// [`SEND_SEGMENTS_MAX`] segments or [`SEND_BYTES_MAX`] bytes; returns the bytes of buffers moved.
    pub fn take(&mut self, batch: &mut Vec<Out>) -> u64 {
        let (mut total, mut held) = (0, 0);
        while batch.len() < SEND_SEGMENTS_MAX && total < SEND_BYTES_MAX {
            let Some(segment) = self.segments.pop_front() else { break };
            total += u64::from(segment.len());
            if let Out::Data(span) = segment {
                held += super::held_bytes(span.len);
            }
            batch.push(segment);
        }
        held
    }

    /// Drops everything.
    pub fn clear(&mut self, buffers: &mut impl Buffers) {
        for segment in self.segments.drain(..) {
            if let Out::Data(span) = segment {
                buffers.release(span.buffer);
            }
        }
    }

    /// A simple reply; what follows it is its payload.
    pub fn simple(&mut self, cookie: u64, error: Option<ErrorCode>) {
        let mut header = [0_u8; 16];
        header[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        header[4..8].copy_from_slice(&error.map_or(0, |code| code as u32).to_be_bytes());
        header[8..].copy_from_slice(&cookie.to_be_bytes());
        self.push_bytes(&header);
    }

    /// Head of a chunk with `len` bytes of payload to follow.
    pub fn chunk(&mut self, cookie: u64, kind: ChunkType, done: bool, len: u32) {
        let mut header = [0_u8; 20];
        header[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        header[4..6].copy_from_slice(&if done { CHUNK_DONE } else { 0 }.to_be_bytes());
        header[6..8].copy_from_slice(&(kind as u16).to_be_bytes());
        header[8..16].copy_from_slice(&cookie.to_be_bytes());
        header[16..].copy_from_slice(&len.to_be_bytes());
        self.push_bytes(&header);
    }

    /// A content chunk's head: `len` bytes of data from `offset` follow.
    pub fn data_chunk(&mut self, cookie: u64, done: bool, offset: u64, len: u32) {
        self.chunk(cookie, ChunkType::OffsetData, done, len + 8);
        self.push_bytes(&offset.to_be_bytes());
    }

    /// A content chunk that says that `len` bytes from `offset` are zero.
    pub fn hole_chunk(&mut self, cookie: u64, done: bool, offset: u64, len: u32) {
        self.chunk(cookie, ChunkType::OffsetHole, done, 12);
        self.push_bytes(&offset.to_be_bytes());
        self.push_bytes(&len.to_be_bytes());
    }

    /// The last chunk of a failed request.
    #[expect(clippy::cast_possible_truncation, reason = "messages are short texts of this program")]
    pub fn error_chunk(&mut self, cookie: u64, code: ErrorCode, message: &str, offset: Option<u64>) {
        let len = 6 + message.len() as u32;
        let (kind, len) = if offset.is_some() { (ChunkType::ErrorOffset, len + 8) } else { (ChunkType::Error, len) };
        self.chunk(cookie, kind, true, len);
        self.push_bytes(&(code as u32).to_be_bytes());
        self.push_bytes(&(message.len() as u16).to_be_bytes());
        self.push_bytes(message.as_bytes());
        if let Some(offset) = offset {
            self.push_bytes(&offset.to_be_bytes());
        }
    }
}
