//! The simulator's only source of chance: xoshiro256** seeded through SplitMix64.
//!
//! Invariant: the numbers are a function of the seed and of nothing else, on every platform and for
//! ever; a printed seed replays. Independent streams ([`Prng::fork`]) keep one part's draws from
//! shifting another's.
//!
//! Sources: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (2018); Steele,
//! Lea, Flood, "Fast splittable pseudorandom number generators" (2014).

use core::ops::Range;

/// A stream of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prng {
    state: [u64; 4],
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Prng {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut counter = seed;
        let mut next = || {
            counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(counter)
        };
        Self { state: [next(), next(), next(), next()] }
    }

    /// A stream of its own for a part, independent of how much this one is used afterwards.
    #[must_use]
    pub fn fork(&mut self, label: u64) -> Self {
        Self::new(self.next_u64() ^ mix(label))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        let [s0, s1, s2, s3] = self.state;
        let result = s1.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (s2, s3) = (s2 ^ s0, s3 ^ s1);
        self.state = [s0 ^ s3, s1 ^ s2, s2 ^ (s1 << 17), s3.rotate_left(45)];
        result
    }

    /// A number below `bound`, with a bias of at most `bound` in 2⁶⁴.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below zero");
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// A number of a range.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// An index below `len`.
    ///
    /// # Panics
    /// If `len` is zero.
    #[expect(clippy::cast_possible_truncation, reason = "below a usize")]
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True in `hits` of `of` cases.
    pub fn chance(&mut self, hits: u64, of: u64) -> bool {
        self.below(of) < hits
    }

    /// One of several.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    /// A span of nanoseconds around `mean`: mostly below it, sometimes several times it, never over 16 times.
    pub fn delay(&mut self, mean: u64) -> u64 {
        let stretch = match self.below(100) {
            0..=79 => 2,
            80..=95 => 4,
            _ => 16,
        };
        1 + self.below(mean.max(1) * stretch / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut prng = Prng::new(1);
        let first: Vec<u64> = (0..3).map(|_| prng.next_u64()).collect();
        let mut again = Prng::new(1);
        assert_eq!(first, (0..3).map(|_| again.next_u64()).collect::<Vec<_>>());
        assert_ne!(first[0], Prng::new(2).next_u64());
        // SplitMix64's published first output for seed 0.
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn numbers_keep_to_their_range_and_reach_its_ends() {
        let mut prng = Prng::new(7);
        let draws: Vec<u64> = (0..1_000).map(|_| prng.within(3..7)).collect();
        assert!(draws.iter().all(|draw| (3..7).contains(draw)));
        assert!(draws.contains(&3) && draws.contains(&6));
    }
}
