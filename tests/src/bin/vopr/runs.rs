//! What `vopr` runs: one seed, many, a seeded bug, a seed file.

use crate::tell::{Aftermath, Totals, replay_line, summary, tell_one, tell_violations};
use sds_core::map::Copies;
use sds_tests::canary::{Canary, QUICK_SEEDS};
use sds_tests::run::{Case, Report, run, run_again, run_seed};
use sds_tests::seed_file::{COMMIT, SeedFile, SeedFileError};
use sds_tests::trace::Telling;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// From so many seeds on it is told what was not reached.
const SEEDS_THAT_REACH_MOST: u64 = 100;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Which bugs are seeded.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Which {
    /// All that this build has.
    All,
    /// Those that must be caught within a hundred seeds.
    Quick,
}

/// Whether a run with a bug in it, or without, is a success.
fn verdict(case: &Case, report: &Report) -> ExitCode {
    if report.violations.is_empty() == case.canary.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

pub(crate) fn run_one(case: &Case, telling: Telling, aftermath: &Aftermath) -> ExitCode {
    let (report, recording) = run(case, telling);
    tell_one(&report);
    if !report.violations.is_empty() {
        aftermath.tell(case, &report, &recording);
    }
    summary(&report);
    verdict(case, &report)
}

pub(crate) fn replay(path: &Path, telling: Telling) -> Result<ExitCode, SeedFileError> {
    let file = SeedFile::read(path)?;
    let case = file.case().map_err(|reason| SeedFileError::Form { path: path.to_owned(), reason })?;
    if file.commit != COMMIT {
        println!("{} was written at commit {}, this is {COMMIT}: it may not replay", path.display(), file.commit);
    }
    let (_, recording) = run(&case, Telling::Silent);
    let report = run_again(&case, &recording, &file.kept(), telling);
    tell_one(&report);
    if report.violations.is_empty() {
        println!("it does not fail; it did so with: {}", file.violation);
    } else {
        tell_violations(&report);
    }
    summary(&report);
    Ok(verdict(&case, &report))
}

pub(crate) fn run_many(seeds: Range<u64>, copies: Option<Copies>, keep_going: bool, reach_all: bool, aftermath: &Aftermath) -> ExitCode {
    let count = seeds.end - seeds.start;
    let mut totals = Totals::default();
    let began = Instant::now();
    let mut told = began;
    for seed in seeds {
        let case = Case { seed, copies, canary: None };
        let (report, recording) = run(&case, Telling::Silent);
        totals.add(&report);
        if !report.violations.is_empty() {
            aftermath.tell(&case, &report, &recording);
            if !keep_going {
                break;
            }
        }
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            let rate = totals.seeds as f64 / began.elapsed().as_secs_f64() * 3600.0;
            println!("… {} ({rate:.0} seeds an hour, {} blocks undecided)", totals.line(), totals.undecided);
        }
    }
    if totals.undecided > 0 {
        println!("{} blocks had too many possibilities and were not decided", totals.undecided);
    }
    let reached = totals.tell_reached(reach_all || count >= SEEDS_THAT_REACH_MOST);
    println!("{}", totals.line());
    if totals.failed == 0 && (reached || !reach_all) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The seeds that it took to catch a bug, and what gave it away.
fn catch(canary: Canary, copies: Option<Copies>, start: u64, within: u64) -> Result<(u64, Report), u64> {
    let copies = copies.or(canary.copies());
    for seed in start..start.saturating_add(within) {
        let report = run_seed(seed, copies, Some(canary), Telling::Silent);
        if !report.violations.is_empty() {
            return Ok((seed - start + 1, report));
        }
    }
    Err(within)
}

pub(crate) fn run_canary(canary: Canary, copies: Option<Copies>, start: u64, within: u64) -> ExitCode {
    match catch(canary, copies, start, within) {
        Ok((seeds, report)) => {
            tell_violations(&report);
            let case = Case { seed: report.seed, copies: copies.or(canary.copies()), canary: Some(canary) };
            println!("{}", replay_line(&case));
            println!("canary {canary} was caught after {seeds} seeds");
            ExitCode::SUCCESS
        }
        Err(seeds) => {
            println!("canary {canary} was NOT caught within {seeds} seeds");
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn run_canaries(which: Which, copies: Option<Copies>, start: u64) -> ExitCode {
    let all = Canary::all().into_iter().filter(|canary| match which {
        Which::All => true,
        Which::Quick => canary.within() <= QUICK_SEEDS,
    });
    let (mut caught, mut missed) = (0, Vec::new());
    for canary in all {
        match catch(canary, copies, start, canary.within()) {
            Ok((seeds, report)) => {
                caught += 1;
                let first = report.violations[0].lines().next().unwrap_or_default();
                println!("{canary:36} caught after {seeds:4} of {:4} seeds: {first}", canary.within());
            }
            Err(seeds) => {
                println!("{canary:36} NOT CAUGHT within {seeds} seeds");
                missed.push(canary.name());
            }
        }
    }
    println!("canaries={} caught={caught} missed={}", caught + missed.len(), missed.len());
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
