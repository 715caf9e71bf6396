//! What writes write: bytes that name the write and the place they belong to.
//!
//! Invariant: two different (write, volume, offset) give different bytes with near certainty, so a
//! read tells which writes it saw, and bytes of another place or time are never taken for right ones.

use crate::prng::mix;
use sds_core::unit::BLOCK_BYTES;

/// Names one write of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64);

const WORD: usize = 8;

fn key(stamp: Stamp, volume: u32) -> u64 {
    mix(stamp.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(volume) << 48))
}

fn word(key: u64, index: u64) -> u64 {
    mix(key ^ index.wrapping_mul(0xd134_2543_de82_ef95))
}

/// Fills `bytes`, which start at volume byte `offset`, with what the write named `stamp` has there.
pub fn fill(bytes: &mut [u8], stamp: Stamp, volume: u32, offset: u64) {
    let key = key(stamp, volume);
    let mut index = offset / WORD as u64;
    #[expect(clippy::cast_possible_truncation, reason = "below the word size")]
    let skip = (offset % WORD as u64) as usize;
    let head = if skip == 0 { 0 } else { (WORD - skip).min(bytes.len()) };
    let (first, rest) = bytes.split_at_mut(head);
    if head > 0 {
        first.copy_from_slice(&word(key, index).to_le_bytes()[skip..skip + head]);
        index += 1;
    }
    for chunk in rest.chunks_mut(WORD) {
        let value = word(key, index).to_le_bytes();
        chunk.copy_from_slice(&value[..chunk.len()]);
        index += 1;
    }
}

/// Whether `bytes` at volume byte `offset` are what the write wrote there.
#[must_use]
pub fn matches(bytes: &[u8], stamp: Stamp, volume: u32, offset: u64) -> bool {
    let mut expected = [0_u8; BLOCK_BYTES as usize];
    let mut offset = offset;
    bytes.chunks(BLOCK_BYTES as usize).all(|chunk| {
        let expected = &mut expected[..chunk.len()];
        fill(expected, stamp, volume, offset);
        offset += chunk.len() as u64;
        expected == chunk
    })
}

/// The first eight bytes a write puts at a block-aligned offset; what the fault atlas knows data by.
#[must_use]
pub fn first_word(stamp: Stamp, volume: u32, offset: u64) -> u64 {
    word(key(stamp, volume), offset / WORD as u64)
}

/// A 64-bit digest, for telling contents apart cheaply. Not cryptographic.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(WORD);
    for chunk in &mut chunks {
        let value = u64::from_le_bytes(chunk.try_into().expect("exact chunks"));
        hash = (hash.rotate_left(23) ^ value).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }
    let mut last = [0_u8; WORD];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    mix((hash.rotate_left(23) ^ u64::from_le_bytes(last)).wrapping_mul(0x9fb2_1c65_1e98_df25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_the_bytes_of_the_whole() {
        let mut whole = [0_u8; 256];
        fill(&mut whole, Stamp(3), 1, 4096);
        for (start, end) in [(0, 256), (3, 5), (7, 100), (8, 16), (250, 256)] {
            let mut part = vec![0_u8; end - start];
            fill(&mut part, Stamp(3), 1, 4096 + start as u64);
            assert_eq!(part, whole[start..end]);
            assert!(matches(&part, Stamp(3), 1, 4096 + start as u64));
            assert!(!matches(&whole, Stamp(4), 1, 4096));
        }
        assert_eq!(u64::from_le_bytes(whole[..8].try_into().expect("eight")), first_word(Stamp(3), 1, 4096));
    }

    #[test]
    fn a_digest_sees_every_byte_and_the_length() {
        let zeroes = [0_u8; 100];
        assert_ne!(digest(&zeroes), digest(&zeroes[..99]));
        for place in [0, 50, 99] {
            let mut changed = zeroes;
            changed[place] = 1;
            assert_ne!(digest(&zeroes), digest(&changed));
        }
    }
}
