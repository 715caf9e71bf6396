//! One direction of a connection: things arrive in order, each after a delay, or not at all.
//!
//! Invariant: nothing overtakes anything; at most one pump is scheduled for a pipe at a time.

use sds_core::unit::Nanos;
use std::collections::VecDeque;

/// Things under way.
#[derive(Debug)]
pub struct Pipe<T> {
    queue: VecDeque<(Nanos, T)>,
    last: Nanos,
    pumping: bool,
}

impl<T> Default for Pipe<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), last: Nanos::ZERO, pumping: false }
    }
}

impl<T> Pipe<T> {
    /// Sends a thing that arrives at `at` or right behind the one before it. If the answer is a time,
    /// the caller calls [`Self::arrive`] then.
    #[must_use]
    pub fn push(&mut self, at: Nanos, thing: T) -> Option<Nanos> {
        self.last = self.last.max(at);
        self.queue.push_back((self.last, thing));
        if self.pumping {
            return None;
        }
        self.pumping = true;
        Some(self.last)
    }

    /// What arrives next, to look at before it is taken.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.queue.front().map(|(_, thing)| thing)
    }

    /// Takes what has arrived. If the second answer is a time, the caller calls again then.
    pub fn arrive(&mut self) -> (Option<T>, Option<Nanos>) {
        let thing = self.queue.pop_front().map(|(_, thing)| thing);
        let next = self.queue.front().map(|(at, _)| *at);
        self.pumping = next.is_some();
        (thing, next)
    }

    /// Things under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Loses all but the first `keep` things, and delays those by up to `late` each.
    pub fn cut(&mut self, keep: usize, mut late: impl FnMut() -> u64) -> Vec<T> {
        let lost = self.queue.split_off(keep.min(self.queue.len())).into_iter().map(|(_, thing)| thing).collect();
        let mut last = Nanos::ZERO;
        for (at, _) in &mut self.queue {
            *at = at.plus(Nanos::new(late())).max(last);
            last = *at;
        }
        self.last = self.queue.back().map_or(self.last, |(at, _)| *at);
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_arrive_in_order_whatever_their_delays() {
        let mut pipe = Pipe::default();
        assert_eq!(pipe.push(Nanos::new(20), 'a'), Some(Nanos::new(20)));
        assert_eq!(pipe.push(Nanos::new(10), 'b'), None);
        assert_eq!(pipe.arrive(), (Some('a'), Some(Nanos::new(20))));
        assert_eq!(pipe.arrive(), (Some('b'), None));
        assert_eq!(pipe.arrive(), (None, None));
        assert_eq!(pipe.push(Nanos::new(30), 'c'), Some(Nanos::new(30)));
    }

    #[test]
    fn a_cut_loses_the_end_and_delays_the_rest() {
        let mut pipe = Pipe::default();
        for thing in 0..4 {
            let _ = pipe.push(Nanos::new(thing), thing);
        }
        assert_eq!(pipe.cut(2, || 5), [2, 3]);
        assert_eq!(pipe.arrive(), (Some(0), Some(Nanos::new(6))));
    }
}
