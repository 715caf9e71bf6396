//! The one checksum of the system: CRC-32 (IEEE 802.3), made at the client, checked at every hop.
//!
//! Invariant: no other module computes a checksum by another way, so changing the function is one file.

use crate::limits::FRAME_BLOCKS_MAX;
use crate::unit::BLOCK_BYTES;
use serde::{Deserialize, Serialize};

/// Checksum of some bytes, or of one 4 KiB block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checksum(u32);

impl Checksum {
    /// Checksum of a block of zeroes: what stands for a block that is zero or unwritten.
    pub const ZERO_BLOCK: Self = Self(0xc71c_0011);

    /// Checksum of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32fast::hash(bytes))
    }

    /// Checksum of several pieces as if they stood one after the other.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize())
    }

    /// From its stored form.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// Its stored form.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Checksums of the blocks of one frame's payload, in order; no heap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChecksumList {
    items: [Checksum; FRAME_BLOCKS_MAX as usize],
    count: u8,
}

impl ChecksumList {
    /// None.
    pub const EMPTY: Self = Self { items: [Checksum(0); FRAME_BLOCKS_MAX as usize], count: 0 };

    /// One checksum per whole block of `bytes`; a last piece shorter than a block gets one of its own.
    ///
    /// # Panics
    /// If `bytes` is longer than a frame may carry.
    #[must_use]
    pub fn of_blocks(bytes: &[u8]) -> Self {
        let mut list = Self::EMPTY;
        for block in bytes.chunks(BLOCK_BYTES as usize) {
            list.push(Checksum::of(block));
        }
        list
    }

    /// Adds one at the end.
    ///
    /// # Panics
    /// If it is full.
    pub fn push(&mut self, checksum: Checksum) {
        assert!(u32::from(self.count) < FRAME_BLOCKS_MAX, "a frame carries at most {FRAME_BLOCKS_MAX} blocks");
        self.items[usize::from(self.count)] = checksum;
        self.count += 1;
    }

    /// Whether each block of `bytes` has the checksum listed for it.
    #[must_use]
    pub fn match_blocks(&self, bytes: &[u8]) -> bool {
        self.first_mismatch(bytes).is_none()
    }

    /// The first block of `bytes` whose checksum is not the listed one; a wrong count is a mismatch
    /// at the first block that one side lacks.
    #[must_use]
    pub fn first_mismatch(&self, bytes: &[u8]) -> Option<usize> {
        let blocks = bytes.len().div_ceil(BLOCK_BYTES as usize);
        if blocks != usize::from(self.count) {
            return Some(blocks.min(usize::from(self.count)));
        }
        bytes.chunks(BLOCK_BYTES as usize).zip(self.as_slice()).position(|(block, expected)| Checksum::of(block) != *expected)
    }

    /// The checksums.
    #[must_use]
    pub fn as_slice(&self) -> &[Checksum] {
        &self.items[..usize::from(self.count)]
    }

    /// The checksums, writable in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [Checksum] {
        &mut self.items[..usize::from(self.count)]
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl core::fmt::Debug for ChecksumList {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_list().entries(self.as_slice()).finish()
    }
}

impl Default for ChecksumList {
    fn default() -> Self {
        Self::EMPTY
    }
}
