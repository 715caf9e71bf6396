//! Which pieces of a device hold which block of a volume, told by their bytes alone.
//!
//! Every write of the run stamps its bytes, so a piece whose first word is one that some write put at
//! the start of a block is that block (or an old copy of it). With one copy of each block, faults that
//! destroy data are aimed at such pieces only, and the checker is told.
//!
//! Must not know: the store's layout.

use crate::disk::Piece;
use crate::pattern::{Stamp, first_word};
use sds_core::unit::BLOCK_BYTES;
use std::collections::BTreeMap;

/// A block of a volume.
pub type BlockKey = (u32, u64);

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Atlas {
    words: BTreeMap<u64, BlockKey>,
}

impl Atlas {
    /// A write will put its bytes at `offset .. offset + len` of a volume.
    pub fn note(&mut self, stamp: Stamp, volume: u32, offset: u64, len: u64) {
        let block = u64::from(BLOCK_BYTES);
        for lba in offset.div_ceil(block)..(offset + len).div_ceil(block) {
            if lba * block + 8 <= offset + len {
                self.words.insert(first_word(stamp, volume, lba * block), (volume, lba));
            }
        }
    }

    /// The block whose bytes these are.
    #[must_use]
    pub fn identify(&self, piece: &Piece) -> Option<BlockKey> {
        let word = u64::from_le_bytes(piece[..8].try_into().expect("a piece is longer"));
        self.words.get(&word).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern;

    #[test]
    fn a_piece_is_known_by_its_first_word() {
        let mut atlas = Atlas::default();
        atlas.note(Stamp(1), 1, 4000, 8192);
        let mut piece = [0; BLOCK_BYTES as usize];
        assert_eq!(atlas.identify(&piece), None);
        pattern::fill(&mut piece, Stamp(1), 1, 4096);
        assert_eq!(atlas.identify(&piece), Some((1, 1)));
        pattern::fill(&mut piece, Stamp(1), 1, 0);
        assert_eq!(atlas.identify(&piece), None, "the write did not reach the start of block 0");
        pattern::fill(&mut piece[..4000], Stamp(1), 1, 8192);
        assert_eq!(atlas.identify(&piece), Some((1, 2)));
    }
}
