//! What `vopr` says: sums, one run's numbers, and what is done about a run that failed.

use sds_tests::marks::{Marks, expected};
use sds_tests::retell::Recording;
use sds_tests::run::{Case, Report};
use sds_tests::seed_file::{COMMIT, SeedFile};
use sds_tests::shrink::{Shrunk, shrink};
use sds_tests::world::Counts;
use std::path::PathBuf;

/// Violations of one seed that are printed.
const VIOLATIONS_TOLD: usize = 4;
const VOPR: &str = "cargo run --release -p sds-tests --bin vopr --";

/// Sums over seeds.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) seeds: u64,
    pub(crate) failed: u64,
    pub(crate) undecided: u64,
    pub(crate) simulated_ns: u128,
    pub(crate) ops: u64,
    pub(crate) marks: Marks,
}

impl Totals {
    pub(crate) fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.failed += u64::from(!report.violations.is_empty());
        self.undecided += report.undecided;
        self.simulated_ns += u128::from(report.simulated.get());
        self.ops += report.counts.ops;
        self.marks.add(&report.marks);
    }

    /// Faults by kind, and how much of what can be reached was.
    pub(crate) fn tell_reached(&self, missing_told: bool) -> bool {
        let faults: Vec<String> = self.marks.area("fault").map(|(name, count)| format!("{name} {count}")).collect();
        println!("faults: {}", faults.join(", "));
        let (missing, all) = (self.marks.missing(), expected().count());
        println!("marks={}/{all}", all - missing.len());
        if missing_told && !missing.is_empty() {
            println!("not reached: {}", missing.join(", "));
        }
        missing.is_empty()
    }

    pub(crate) fn line(&self) -> String {
        format!("seeds={} failed={} simulated={} ops={}", self.seeds, self.failed, duration(self.simulated_ns), self.ops)
    }
}

/// Virtual time as people read it.
fn duration(nanos: u128) -> String {
    let seconds = nanos / 1_000_000_000;
    match seconds {
        0..=599 => format!("{seconds}s"),
        600..=35_999 => format!("{}m", seconds / 60),
        36_000..=1_727_999 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What is done about a run that failed.
pub(crate) struct Aftermath {
    /// Runs that shrinking may take.
    pub(crate) shrink: usize,
    pub(crate) seed_files: PathBuf,
}

pub(crate) fn tell_violations(report: &Report) {
    println!("seed {} failed at {} of virtual time:", report.seed, duration(u128::from(report.simulated.get())));
    for violation in report.violations.iter().take(VIOLATIONS_TOLD) {
        println!("  {violation}");
    }
    if report.violations.len() > VIOLATIONS_TOLD {
        println!("  … and {} more", report.violations.len() - VIOLATIONS_TOLD);
    }
}

/// The command that runs a case again.
pub(crate) fn replay_line(case: &Case) -> String {
    let copies = case.copies.map(|copies| format!("--copies {} ", copies.count())).unwrap_or_default();
    let canary = case.canary.map(|canary| format!("--canary {canary} ")).unwrap_or_default();
    format!("  replay at commit {COMMIT}: {VOPR} {copies}{canary}--seed {} --trace", case.seed)
}

impl Aftermath {
    /// Says what was wrong and how to see it again, and makes it smaller.
    pub(crate) fn tell(&self, case: &Case, report: &Report, recording: &Recording) {
        tell_violations(report);
        println!("{}", replay_line(case));
        if self.shrink == 0 {
            return;
        }
        let (faults, wishes) = (recording.firings.len(), recording.wishes.iter().sum::<u64>());
        println!("  making it smaller, in at most {} runs …", self.shrink);
        let Some(Shrunk { kept, report, runs }) = shrink(case, report, recording, self.shrink) else {
            println!("  it does not fail in the same way when it is told again, and was not made smaller");
            return;
        };
        let path = self.seed_files.join(format!("seed-{}.json", case.seed));
        let first = report.violations.first().map(String::as_str).unwrap_or_default();
        match SeedFile::new(case, &kept, first).write(&path) {
            Ok(()) => println!(
                "  {} of {faults} faults and {} of {wishes} requests do ({runs} runs): {VOPR} --replay {} --trace",
                kept.faults.len(),
                kept.wishes.len(),
                path.display()
            ),
            Err(error) => println!("  {error}"),
        }
    }
}

pub(crate) fn tell_one(report: &Report) {
    let Counts {
        repaired,
        damaged_at_rest,
        crashes,
        power_cuts,
        opens,
        deletions,
        faults,
        link_losses,
        done,
        cuts,
        ambushes,
        changes,
        hand_overs,
        looked_for,
        copies_compared,
        ops: _,
    } = report.counts;
    println!(
        "seed {}: hash {:016x}, {} events, {} blocks checked, {} undecided; {done} requests succeeded, {opens} opens, {deletions} volumes deleted, {crashes} \
         crashes, {power_cuts} power cuts, {link_losses} lost links, {cuts} cuts, {ambushes} ambushes, {faults} storage faults, {repaired} blocks repaired, {damaged_at_rest} left damaged, {changes} changes of shards, {hand_overs} hand-overs asked for, \
         {looked_for} writes looked for, {copies_compared} pairs compared",
        report.seed, report.hash, report.events, report.blocks, report.undecided
    );
}

pub(crate) fn summary(report: &Report) {
    let mut totals = Totals::default();
    totals.add(report);
    println!("{}", totals.line());
}
