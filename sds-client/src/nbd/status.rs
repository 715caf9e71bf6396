//! Block status: bitmaps of pieces become runs of `base:allocation`. Pure.
//!
//! Invariant: runs cover the answered part of the request without a gap, neighbours differ, and
//! there are at most [`DESCRIPTORS_MAX`].

use super::constants::{STATE_HOLE, STATE_ZERO};

/// Most descriptors of one reply; a client asks again for the rest.
pub(super) const DESCRIPTORS_MAX: usize = 1024;
const BLOCK: u64 = sds_core::unit::BLOCK_BYTES as u64;

/// One run: bytes and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) len: u32,
    pub(super) flags: u32,
}

/// The runs of the block status request being answered.
#[derive(Debug, Default)]
pub(super) struct Runs {
    /// Range asked for.
    offset: u64,
    end: u64,
    limit: usize,
    runs: Vec<Run>,
}

impl Runs {
    pub(super) fn start(&mut self, offset: u64, len: u32, one: bool) {
        self.runs.clear();
        self.runs.reserve_exact(DESCRIPTORS_MAX);
        (self.offset, self.end) = (offset, offset + u64::from(len));
        self.limit = if one { 1 } else { DESCRIPTORS_MAX };
    }

    /// Adds a piece, which starts where the last ended, on a block boundary at or before the range.
    /// Bit i of `data` is block i. Says whether there is room for more.
    #[expect(clippy::cast_possible_truncation, reason = "a run is clipped to the request, whose length is 32 bits")]
    pub(super) fn add(&mut self, start: u64, len: u32, data: &[u64; 4]) -> bool {
        for block in 0..u64::from(len) / BLOCK {
            let holds_data = data[block as usize / 64] >> (block % 64) & 1 == 1;
            let flags = if holds_data { 0 } else { STATE_HOLE | STATE_ZERO };
            let from = (start + block * BLOCK).max(self.offset);
            let to = (start + (block + 1) * BLOCK).min(self.end);
            let bytes = (to - from) as u32;
            let full = self.runs.len() == self.limit;
            match self.runs.last_mut() {
                Some(run) if run.flags == flags => run.len += bytes,
                Some(_) | None if full => return false,
                Some(_) | None => self.runs.push(Run { len: bytes, flags }),
            }
        }
        true
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }
}
