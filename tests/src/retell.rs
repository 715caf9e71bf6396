//! A run told again with less in it: the faults of the first telling at the same times, each with the chance it had, and only
//! those faults and wishes that are kept.
//!
//! Invariant: a run told again with everything kept is the run. What a fault drew is not drawn from what the rest of the world draws
//! from, so that to leave one out moves no other one; what follows from it (messages, delays) may well be different.

use crate::prng::Prng;
use crate::world::Trouble;
use sds_core::unit::Nanos;
use std::collections::BTreeSet;

/// A fault of a run: when it came, and the chance before and after it.
#[derive(Clone, Debug)]
pub struct Firing {
    /// When.
    pub at: Nanos,
    /// Of what kind.
    pub trouble: Trouble,
    pub(crate) before: Prng,
    pub(crate) after: Prng,
}

/// What happened in a run, as far as it can be left out.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Faults, in their order.
    pub firings: Vec<Firing>,
    /// Wishes of each client.
    pub wishes: Vec<u64>,
}

/// What of a run is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Faults, by number.
    pub faults: BTreeSet<usize>,
    /// Wishes: of which client, and its number.
    pub wishes: BTreeSet<(usize, u64)>,
}

impl Recording {
    /// Everything.
    #[must_use]
    pub fn all(&self) -> Kept {
        let wishes = self.wishes.iter().enumerate().flat_map(|(client, count)| (0..*count).map(move |number| (client, number)));
        Kept { faults: (0..self.firings.len()).collect(), wishes: wishes.collect() }
    }
}

/// A run that is told again.
#[derive(Clone, Debug)]
pub struct Retelling {
    /// The faults of the first telling.
    pub firings: Vec<Firing>,
    /// What is kept.
    pub kept: Kept,
}
