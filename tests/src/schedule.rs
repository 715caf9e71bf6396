//! The virtual clock, the clocks of hosts that run beside it, and the queue of what is going to happen.
//!
//! Invariants: time never goes back; two things due at the same time happen in the order in which
//! they were scheduled, so a run is a function of its seed.

use crate::prng::Prng;
use core::cmp::Reverse;
use sds_core::unit::Nanos;
use std::collections::BinaryHeap;

/// A clock that runs a little fast or slow; every host has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drifting {
    /// How many thousandths of a second it shows for each that passes.
    per_mille: u64,
}

impl Drifting {
    /// One that is fast or slow by at most so many thousandths.
    pub fn draw(most: u64, chance: &mut Prng) -> Self {
        Self { per_mille: 1_000 - most + chance.below(2 * most + 1) }
    }

    /// What it shows at a time.
    #[must_use]
    pub const fn shows(self, at: Nanos) -> Nanos {
        Nanos::new(at.get() / 1_000 * self.per_mille + at.get() % 1_000 * self.per_mille / 1_000)
    }

    /// From when on it shows at least this.
    #[must_use]
    pub const fn when(self, shown: Nanos) -> Nanos {
        let (whole, rest) = (shown.get() / self.per_mille, shown.get() % self.per_mille);
        // Never early: a timer fires after its time.
        Nanos::new((whole * 1_000).saturating_add((rest * 1_000).div_ceil(self.per_mille) + 1))
    }
}

#[derive(Debug)]
struct Due<E> {
    at: Nanos,
    order: u64,
    event: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Due<E> {}

impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What is going to happen, and what time it is.
#[derive(Debug)]
pub struct Schedule<E> {
    now: Nanos,
    order: u64,
    queue: BinaryHeap<Reverse<Due<E>>>,
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { now: Nanos::ZERO, order: 0, queue: BinaryHeap::new() }
    }
}

impl<E> Schedule<E> {
    /// The time.
    #[must_use]
    pub const fn now(&self) -> Nanos {
        self.now
    }

    /// Makes an event happen at `at`, or now if that has passed.
    pub fn at(&mut self, at: Nanos, event: E) {
        self.order += 1;
        self.queue.push(Reverse(Due { at: at.max(self.now), order: self.order, event }));
    }

    /// Makes an event happen `nanos` from now.
    pub fn after(&mut self, nanos: u64, event: E) {
        self.at(self.now.plus(Nanos::new(nanos)), event);
    }

    /// Moves the clock to the next event and takes it.
    pub fn next_event(&mut self) -> Option<E> {
        let Reverse(due) = self.queue.pop()?;
        assert!(due.at >= self.now, "time never goes back");
        self.now = due.at;
        Some(due.event)
    }

    /// How many events wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is going to happen any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_by_order_of_scheduling() {
        let mut schedule = Schedule::default();
        schedule.after(20, 'c');
        schedule.after(10, 'a');
        schedule.after(10, 'b');
        assert_eq!(schedule.next_event(), Some('a'));
        schedule.at(Nanos::ZERO, 'x');
        assert_eq!(schedule.next_event(), Some('b'));
        assert_eq!(schedule.next_event(), Some('x'));
        assert_eq!(schedule.now(), Nanos::new(10));
        assert_eq!(schedule.next_event(), Some('c'));
        assert_eq!(schedule.next_event(), None);
    }
}
