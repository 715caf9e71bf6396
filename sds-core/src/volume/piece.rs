//! Cuts a user's request into pieces that one frame (or one zero request) can carry.
//!
//! Invariants: the pieces of a request are in order, do not overlap and together are the request
//! (for trims: its whole blocks; for status: the whole blocks that cover it). Pure arithmetic: no
//! piece is stored anywhere, an iterator is a few words and can be cloned to count first.
//!
//! | request | pieces |
//! | --- | --- |
//! | [`writes`] | whole blocks up to a payload's boundary, and fragments (unaligned edges, each inside one block) |
//! | [`reads`] | anything up to a payload's boundary: the machine reads the whole blocks and returns the part |
//! | [`zeroes`] | whole blocks inside one stripe set; unaligned edges are fragments to be *written* as zero bytes |
//! | [`trims`] | whole blocks inside one stripe set; unaligned edges are dropped (a trim is advice) |
//! | [`statuses`] | whole blocks inside one stripe unit, rounded outwards |
//!
//! What this must not know: sessions, shards, servers.

use crate::buffer::Span;
use crate::bugs::{self, Bug};
use crate::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::stripe::Stripe;
use crate::unit::{BLOCK_BYTES, ByteOffset, EXTENT_BYTES};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Part of a read or write: at most one frame's payload, inside one stripe unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPiece {
    /// First byte in the volume.
    pub offset: ByteOffset,
    /// Bytes, 1..=[`FRAME_PAYLOAD_BYTES_MAX`].
    pub len: u32,
}

impl DataPiece {
    /// Whether it is whole blocks (a fragment lies inside one block and is not all of it).
    #[must_use]
    pub const fn is_whole_blocks(self) -> bool {
        self.offset.get().is_multiple_of(BLOCK) && self.len.is_multiple_of(BLOCK_BYTES)
    }
}

/// Part of a write-zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroPiece {
    /// Whole blocks inside one stripe set: for [`crate::volume::interface::Request::Zero`].
    Blocks {
        /// First byte in the volume.
        offset: ByteOffset,
        /// Bytes.
        len: u64,
    },
    /// Part of one block: write `len` zero bytes with [`crate::volume::interface::Request::Write`].
    Fragment {
        /// First byte in the volume.
        offset: ByteOffset,
        /// Bytes, 1..4096.
        len: u32,
    },
}

/// Whole blocks inside one stripe set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimPiece {
    /// First byte in the volume.
    pub offset: ByteOffset,
    /// Bytes.
    pub len: u64,
}

/// Whole blocks of one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentRange {
    /// A volume byte of the extent: its first byte in the range.
    pub first: ByteOffset,
    /// First byte inside the extent.
    pub offset: u32,
    /// Bytes inside the extent.
    pub len: u32,
}

/// A range being cut: what is left of it.
#[derive(Clone, Copy, Debug)]
struct Rest {
    stripe: Stripe,
    next: u64,
    end: u64,
}

impl Rest {
    const fn new(stripe: Stripe, offset: ByteOffset, len: u64) -> Self {
        Self { stripe, next: offset.get(), end: offset.get().saturating_add(len) }
    }

    const fn left(&self) -> u64 {
        self.end - self.next
    }

    /// Takes `len` bytes, which are left.
    fn take(&mut self, len: u64) -> ByteOffset {
        debug_assert!(len > 0 && len <= self.left(), "a piece is part of what is left");
        let at = ByteOffset::new(self.next);
        self.next += len;
        at
    }

    fn take_data(&mut self, len: u64) -> DataPiece {
        debug_assert!(len <= u64::from(FRAME_PAYLOAD_BYTES_MAX), "one frame's payload");
        #[expect(clippy::cast_possible_truncation, reason = "at most one frame's payload")]
        let short = len as u32;
        DataPiece { offset: self.take(len), len: short }
    }

    fn room(&self) -> u64 {
        u64::from(self.stripe.piece_room(ByteOffset::new(self.next)))
    }

    /// Bytes before the next whole block, if the range ends first or there are any.
    fn head(&self) -> Option<u64> {
        let into = self.next % BLOCK;
        if into != 0 { Some((BLOCK - into).min(self.left())) } else { (self.left() < BLOCK).then(|| self.left()) }
    }
}

/// Iterator of [`writes`].
#[derive(Clone, Copy, Debug)]
pub struct WritePieces(Rest);

/// Pieces of a write: whole blocks, and fragments inside one block.
#[must_use]
pub const fn writes(stripe: Stripe, offset: ByteOffset, len: u64) -> WritePieces {
    WritePieces(Rest::new(stripe, offset, len))
}

impl Iterator for WritePieces {
    type Item = DataPiece;

    fn next(&mut self) -> Option<DataPiece> {
        let rest = &mut self.0;
        if rest.left() == 0 {
            return None;
        }
        let len = rest.head().unwrap_or_else(|| rest.room().min(rest.left() / BLOCK * BLOCK));
        Some(rest.take_data(len))
    }
}

/// Iterator of [`reads`].
#[derive(Clone, Copy, Debug)]
pub struct ReadPieces(Rest);

/// Pieces of a read, of any alignment.
#[must_use]
pub const fn reads(stripe: Stripe, offset: ByteOffset, len: u64) -> ReadPieces {
    ReadPieces(Rest::new(stripe, offset, len))
}

impl Iterator for ReadPieces {
    type Item = DataPiece;

    fn next(&mut self) -> Option<DataPiece> {
        let rest = &mut self.0;
        if rest.left() == 0 {
            return None;
        }
        let len = rest.room().min(rest.left());
        Some(rest.take_data(len))
    }
}

/// Iterator of [`zeroes`].
#[derive(Clone, Copy, Debug)]
pub struct ZeroPieces(Rest);

/// Pieces of a write-zeroes.
#[must_use]
pub const fn zeroes(stripe: Stripe, offset: ByteOffset, len: u64) -> ZeroPieces {
    ZeroPieces(Rest::new(stripe, offset, len))
}

impl Iterator for ZeroPieces {
    type Item = ZeroPiece;

    fn next(&mut self) -> Option<ZeroPiece> {
        let rest = &mut self.0;
        if rest.left() == 0 {
            return None;
        }
        if let Some(head) = rest.head() {
            let DataPiece { offset, len } = rest.take_data(head);
            return Some(ZeroPiece::Fragment { offset, len });
        }
        let set = rest.stripe.set_bytes();
        let len = (set - rest.next % set).min(rest.left() / BLOCK * BLOCK);
        Some(ZeroPiece::Blocks { offset: rest.take(len), len })
    }
}

/// Iterator of [`trims`].
#[derive(Clone, Copy, Debug)]
pub struct TrimPieces(ZeroPieces);

/// Pieces of a trim: unaligned edges are left as they are.
#[must_use]
pub const fn trims(stripe: Stripe, offset: ByteOffset, len: u64) -> TrimPieces {
    TrimPieces(zeroes(stripe, offset, len))
}

impl Iterator for TrimPieces {
    type Item = TrimPiece;

    fn next(&mut self) -> Option<TrimPiece> {
        // At most two fragments stand in the way: the edges.
        loop {
            match self.0.next()? {
                ZeroPiece::Blocks { offset, len } => return Some(TrimPiece { offset, len }),
                ZeroPiece::Fragment { .. } => {}
            }
        }
    }
}

/// Iterator of [`statuses`].
#[derive(Clone, Copy, Debug)]
pub struct StatusPieces(Rest);

/// Pieces of a block status: the whole blocks that cover the range, cut at stripe units. The first
/// may begin before the range and the last end after it.
#[must_use]
pub const fn statuses(stripe: Stripe, offset: ByteOffset, len: u64) -> StatusPieces {
    let mut rest = Rest::new(stripe, offset, len);
    if len > 0 {
        rest.next -= rest.next % BLOCK;
        rest.end = match rest.end.checked_next_multiple_of(BLOCK) {
            Some(end) => end,
            None => u64::MAX - u64::MAX % BLOCK,
        };
    }
    StatusPieces(rest)
}

/// Whole blocks inside one stripe unit; at most 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPiece {
    /// First byte in the volume.
    pub offset: ByteOffset,
    /// Bytes.
    pub len: u32,
}

impl Iterator for StatusPieces {
    type Item = StatusPiece;

    fn next(&mut self) -> Option<StatusPiece> {
        let rest = &mut self.0;
        if rest.left() == 0 {
            return None;
        }
        let unit = u64::from(rest.stripe.unit());
        let len = (unit - rest.next % unit).min(rest.left());
        #[expect(clippy::cast_possible_truncation, reason = "at most one stripe unit")]
        let short = len as u32;
        Some(StatusPiece { offset: rest.take(len), len: short })
    }
}

/// How many extents a range inside one stripe set touches.
///
/// # Panics
/// If the range is empty.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "at most the stripe's width")]
pub const fn extents_touched(stripe: Stripe, offset: ByteOffset, len: u64) -> u32 {
    assert!(len > 0, "an empty range touches nothing");
    let unit = stripe.unit() as u64;
    let units = (offset.get() + len - 1) / unit - offset.get() / unit + 1;
    if units < stripe.width() as u64 { units as u32 } else { stripe.width() }
}

/// What a range inside one stripe set is on the `nth` extent it touches (in the order it gets to
/// them): one contiguous run, by the way stripes are laid out.
///
/// # Panics
/// If the range is empty or not inside one stripe set, or `nth` is not below [`extents_touched`].
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "bounded by the extent's size")]
pub fn extent_range(stripe: Stripe, offset: ByteOffset, len: u64, nth: u32) -> ExtentRange {
    assert!(nth < extents_touched(stripe, offset, len), "only extents that the range touches");
    let set = stripe.set_bytes();
    let (unit, width) = (u64::from(stripe.unit()), u64::from(stripe.width()));
    let start = offset.get() % set;
    let last = start + len - 1;
    assert!(last < set, "a range inside one stripe set");
    let (first_unit, last_unit) = (start / unit, last / unit);
    // First and last unit of this extent's column in the range.
    let enters = first_unit + u64::from(nth);
    let leaves = enters + (last_unit - enters) / width * width;
    let from = enters / width * unit + if enters == first_unit { start % unit } else { 0 };
    let to = leaves / width * unit + if leaves == last_unit && !bugs::is(Bug::ZeroPastItsEnd) { last % unit + 1 } else { unit };
    debug_assert!(from < to && to <= u64::from(EXTENT_BYTES), "a run of one extent");
    let first = if enters == first_unit { offset.get() } else { offset.get() - start + enters * unit };
    ExtentRange { first: ByteOffset::new(first), offset: from as u32, len: (to - from) as u32 }
}

/// The part of `span` that holds `piece` of a request that begins at `request` and whose bytes are the span.
///
/// # Panics
/// If the piece is not part of the request.
#[must_use]
pub fn span_of(request: ByteOffset, span: Span, piece: DataPiece) -> Span {
    let within = u32::try_from(piece.offset.get() - request.get()).expect("a piece lies inside its request");
    span.part(within, piece.len)
}

#[cfg(test)]
mod tests;
