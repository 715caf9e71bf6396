//! How long a loop looks for completions before it sleeps.
//!
//! A sleeping virtual CPU takes ~50 µs to wake, so looking a little longer pays when the next
//! completion is near; it must not cost an idle process anything nor take the CPU from neighbours.
//! The rule: spin only if recent waits were mostly shorter than the budget, and stop for a while
//! after spins that found nothing.

use sds_core::unit::Nanos;

/// Bounds of the spinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpinPolicy {
    /// Longest single spin; zero never spins.
    pub budget: Nanos,
}

impl Default for SpinPolicy {
    fn default() -> Self {
        Self { budget: Nanos::from_micros(10) }
    }
}

/// The adaptive part.
#[derive(Debug)]
pub(crate) struct Spinner {
    policy: SpinPolicy,
    /// Smoothed wait for the next completion, as an eighth-weight average, in ns.
    wait_ns: u64,
    /// Spins in a row that found nothing.
    misses: u32,
    /// Sleeps to make before the next try.
    pause: u32,
}

const MISSES_MAX: u32 = 10;

impl Spinner {
    pub(crate) const fn new(policy: SpinPolicy) -> Self {
        Self { policy, wait_ns: u64::MAX, misses: 0, pause: 0 }
    }

    /// How long to spin now.
    pub(crate) fn budget(&mut self) -> Option<Nanos> {
        if self.policy.budget == Nanos::ZERO || self.wait_ns > self.policy.budget.get() {
            return None;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        Some(self.policy.budget)
    }

    /// A wait (spun or slept) has ended after this long.
    pub(crate) fn waited(&mut self, wait: Nanos, spun: bool) {
        let wait_ns = wait.get().min(1_000_000);
        self.wait_ns = if self.wait_ns == u64::MAX { wait_ns } else { self.wait_ns - self.wait_ns / 8 + wait_ns / 8 };
        if spun {
            self.misses = 0;
        }
    }

    /// A spin found nothing: the next tries come ever later, up to every 1,024th sleep.
    pub(crate) fn missed(&mut self) {
        self.misses = (self.misses + 1).min(MISSES_MAX);
        self.pause = 1 << self.misses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_loop_does_not_spin() {
        let mut spinner = Spinner::new(SpinPolicy::default());
        assert_eq!(spinner.budget(), None);
        for _ in 0..100 {
            spinner.waited(Nanos::from_millis(500), false);
            assert_eq!(spinner.budget(), None);
        }
    }

    #[test]
    fn short_waits_make_it_spin_and_misses_make_it_rarer() {
        let mut spinner = Spinner::new(SpinPolicy::default());
        for _ in 0..100 {
            spinner.waited(Nanos::from_micros(2), false);
        }
        assert!(spinner.budget().is_some());
        let mut tries = 0;
        for _ in 0..1000 {
            if spinner.budget().is_some() {
                tries += 1;
                spinner.missed();
            }
        }
        assert!(tries < 12, "{tries}");
    }

    #[test]
    fn zero_budget_never_spins() {
        let mut spinner = Spinner::new(SpinPolicy { budget: Nanos::ZERO });
        spinner.waited(Nanos::ZERO, true);
        assert_eq!(spinner.budget(), None);
    }
}
