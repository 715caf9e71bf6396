//! Makes a failing run smaller: leaves out faults and wishes as long as it still fails in the same way.
//!
//! After Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002): halves are left out first, then quarters, and
//! so on to single ones.
//!
//! Must not know: how a run is told again ([`crate::retell`]).

use crate::retell::{Kept, Recording};
use crate::run::{Case, Report, run_again};
use crate::trace::Telling;

/// A run that fails, with little in it.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What is left.
    pub kept: Kept,
    /// Its verdict.
    pub report: Report,
    /// How many runs that took.
    pub runs: usize,
}

/// Shrinks a failing run within so many runs. `None` if it does not fail in the same way when it is told again.
#[must_use]
pub fn shrink(case: &Case, failed: &Report, recording: &Recording, runs_max: usize) -> Option<Shrunk> {
    let wanted = likeness(failed);
    let run = |kept: &Kept| run_again(case, recording, kept, Telling::Silent);
    let mut best = recording.all();
    let mut report = run(&best);
    if likeness(&report) != wanted {
        return None;
    }
    let mut runs = 1;
    let mut smaller = |best: &mut Kept, kept: Kept, runs: &mut usize| {
        if *runs >= runs_max {
            return false;
        }
        *runs += 1;
        let tried = run(&kept);
        let fails = likeness(&tried) == wanted;
        if fails {
            (*best, report) = (kept, tried);
        }
        fails
    };
    loop {
        let before = (best.faults.len(), best.wishes.len());
        let faults: Vec<usize> = best.faults.iter().copied().collect();
        reduce(faults, |left| {
            let kept = Kept { faults: left.iter().copied().collect(), wishes: best.wishes.clone() };
            smaller(&mut best, kept, &mut runs)
        });
        let wishes: Vec<(usize, u64)> = best.wishes.iter().copied().collect();
        reduce(wishes, |left| {
            let kept = Kept { faults: best.faults.clone(), wishes: left.iter().copied().collect() };
            smaller(&mut best, kept, &mut runs)
        });
        // What one made superfluous may let go of more of the other.
        if (best.faults.len(), best.wishes.len()) == before || runs >= runs_max {
            break;
        }
    }
    Some(Shrunk { kept: best, report, runs })
}

/// Leaves out parts of `all` for as long as what is left still fails.
fn reduce<T: Clone>(all: Vec<T>, mut still_fails: impl FnMut(&[T]) -> bool) {
    let mut left = all;
    let mut part = left.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < left.len() {
            let to = (from + part).min(left.len());
            let without: Vec<T> = left[..from].iter().chain(&left[to..]).cloned().collect();
            if still_fails(&without) {
                left = without;
            } else {
                from = to;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
}

/// What kind of failure it is: its first words, without numbers. Empty if there is none.
fn likeness(report: &Report) -> String {
    const LETTERS: usize = 40;
    let first = report.violations.first().and_then(|story| story.lines().next()).unwrap_or_default();
    first.chars().filter(|letter| !letter.is_ascii_digit()).take(LETTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_left_out() {
        let mut left: Vec<u32> = Vec::new();
        let mut runs = 0;
        reduce((0..1000).collect(), |tried| {
            runs += 1;
            let fails = [17, 18, 900].iter().all(|needed| tried.contains(needed));
            if fails {
                left = tried.to_vec();
            }
            fails
        });
        assert_eq!(left, [17, 18, 900]);
        assert!(runs < 150, "{runs} runs");
    }
}
