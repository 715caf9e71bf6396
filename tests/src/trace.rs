//! The story of a run: a hash of every event always, readable lines when asked for.
//!
//! Invariant: the hash depends on what happened and in which order, never on whether lines are kept;
//! the same seed twice gives the same hash.

use crate::prng::mix;
use core::fmt;
use sds_core::unit::Nanos;
use std::io::Write;

/// How much of the story is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// The hash only.
    Silent,
    /// A line per event on standard output.
    Aloud,
}

/// The story so far.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    telling: Telling,
}

impl Trace {
    /// An empty story.
    #[must_use]
    pub const fn new(telling: Telling) -> Self {
        Self { hash: 0, events: 0, telling }
    }

    /// Adds an event: numbers that identify it go into the hash, the line is made only if it is told.
    pub fn note(&mut self, now: Nanos, numbers: &[u64], line: impl FnOnce() -> String) {
        self.events += 1;
        self.hash = mix(self.hash ^ now.get());
        for number in numbers {
            self.hash = mix(self.hash.rotate_left(5) ^ number);
        }
        self.tell(now, line);
    }

    /// A line that is not part of the hash.
    pub fn tell(&self, now: Nanos, line: impl FnOnce() -> String) {
        match self.telling {
            Telling::Silent => {}
            // Whoever reads the story may stop reading.
            Telling::Aloud => drop(writeln!(std::io::stdout().lock(), "{} {}", Stamp(now), line())),
        }
    }

    /// Hash of the story.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Number of events.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// Whether lines are told.
    #[must_use]
    pub fn is_aloud(&self) -> bool {
        self.telling == Telling::Aloud
    }
}

/// A time as people read it: seconds with nine digits.
#[derive(Clone, Copy, Debug)]
pub struct Stamp(pub Nanos);

impl fmt::Display for Stamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:4}.{:09}", self.0.get() / 1_000_000_000, self.0.get() % 1_000_000_000)
    }
}
