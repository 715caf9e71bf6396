//! Which of a shard's latest writes are over: at the primary those complete on both copies, at the
//! secondary those applied.
//!
//! Invariants: everything up to `resolved` is over and stays so; nothing above `resolved` plus
//! [`REPLICATE_WINDOW`] is ever let in, so the memory is fixed.

use crate::id::ShardSequence;
use crate::limits::REPLICATE_WINDOW;

const WORDS: usize = (REPLICATE_WINDOW / 64) as usize;

/// A shard's latest sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::replica) struct Window {
    resolved: u64,
    /// A ring: bit `sequence % REPLICATE_WINDOW` of each sequence above `resolved`.
    above: [u64; WORDS],
}

impl Window {
    /// Everything up to `resolved` is over.
    pub(in crate::replica) const fn above(resolved: ShardSequence) -> Self {
        Self { resolved: resolved.get(), above: [0; WORDS] }
    }

    /// Up to where everything is over.
    pub(in crate::replica) const fn resolved(&self) -> ShardSequence {
        ShardSequence::new(self.resolved)
    }

    /// Whether a sequence is low enough to be kept account of.
    pub(in crate::replica) const fn has_room(&self, sequence: ShardSequence) -> bool {
        sequence.get() <= self.resolved.saturating_add(REPLICATE_WINDOW)
    }

    /// Whether a write is over.
    pub(in crate::replica) const fn contains(&self, sequence: ShardSequence) -> bool {
        sequence.get() <= self.resolved || (self.has_room(sequence) && self.bit(sequence.get()))
    }

    /// A write is over; what it leaves below stays open.
    pub(in crate::replica) fn insert(&mut self, sequence: ShardSequence) {
        let sequence = sequence.get();
        if sequence > self.resolved && self.has_room(ShardSequence::new(sequence)) {
            self.above[Self::word(sequence)] |= 1 << (sequence % 64);
        }
    }

    /// A write is over, and with it everything below the next open one.
    pub(in crate::replica) fn resolve(&mut self, sequence: ShardSequence) {
        self.insert(sequence);
        while self.bit(self.resolved + 1) {
            self.advance_to(ShardSequence::new(self.resolved + 1));
        }
    }

    /// The other side says that everything up to `resolved` is over; it never goes back.
    pub(in crate::replica) fn advance_to(&mut self, resolved: ShardSequence) {
        let resolved = resolved.get();
        if resolved >= self.resolved.saturating_add(REPLICATE_WINDOW) {
            (self.resolved, self.above) = (resolved, [0; WORDS]);
        }
        while self.resolved < resolved {
            self.resolved += 1;
            self.above[Self::word(self.resolved)] &= !(1 << (self.resolved % 64));
        }
    }

    const fn word(sequence: u64) -> usize {
        (sequence % REPLICATE_WINDOW / 64) as usize
    }

    const fn bit(&self, sequence: u64) -> bool {
        self.above[Self::word(sequence)] & (1 << (sequence % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a plain set, over several laps of the ring.
        #[test]
        fn a_window_is_a_set_with_a_floor(start in 0_u64..5000, steps in proptest::collection::vec((0_u8..3, 0_u64..REPLICATE_WINDOW + 100), 0..300)) {
            let mut window = Window::above(ShardSequence::new(start));
            let (mut floor, mut set) = (start, BTreeSet::new());
            for (kind, ahead) in steps {
                let sequence = floor + ahead;
                match kind {
                    0 => window.insert(ShardSequence::new(sequence)),
                    1 => window.resolve(ShardSequence::new(sequence)),
                    _ => window.advance_to(ShardSequence::new(sequence)),
                }
                if kind < 2 && ahead > 0 && ahead <= REPLICATE_WINDOW { set.insert(sequence); }
                if kind == 1 { while set.contains(&(floor + 1)) { floor += 1; } }
                if kind == 2 { floor = sequence; }
                set.retain(|kept| *kept > floor);
                prop_assert_eq!(window.resolved().get(), floor);
                for probe in floor.saturating_sub(2)..floor + REPLICATE_WINDOW + 2 {
                    prop_assert_eq!(window.contains(ShardSequence::new(probe)), probe <= floor || set.contains(&probe));
                }
            }
        }
    }
}
