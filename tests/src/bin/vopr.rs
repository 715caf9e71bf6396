//! `vopr`: runs the simulator over seeds and says what it found.
//!
//! Named after TigerBeetle's Viewstamped Operation Replicator, which is named after WOPR.

use clap::Parser;
use sds_core::map::Copies;
use sds_tests::canary::Canary;
use sds_tests::run::{Report, run_seed};
use sds_tests::trace::Telling;
use sds_tests::world::Counts;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs the whole store in virtual time, one seed after the other, and checks every answer.
#[derive(Debug, Parser)]
#[command(
    name = "vopr",
    after_help = "Examples:\n  vopr --seeds 1000                 a thousand seeds\n  vopr --seed 42 --trace            the story of one seed\n  \
                  vopr --canary flush-ignored       shows that a seeded bug is caught"
)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, value_name = "N", conflicts_with_all = ["seed", "canary"])]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, value_name = "S", default_value_t = 0)]
    start: u64,
    /// Run this seed only.
    #[arg(long, value_name = "X", conflicts_with = "canary")]
    seed: Option<u64>,
    /// Print what happens, line by line (with --seed).
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Only with so many copies of each block: 1 or 2. Otherwise each seed has its own number.
    #[arg(long, value_name = "N", value_parser = copies)]
    copies: Option<Copies>,
    /// Build this bug into the simulated world and stop when it is caught.
    #[arg(long, value_name = "NAME")]
    canary: Option<Canary>,
    /// Go on after a seed has failed.
    #[arg(long)]
    keep_going: bool,
}

fn copies(text: &str) -> Result<Copies, String> {
    let count: u8 = text.parse().map_err(|error| format!("{error}"))?;
    Copies::try_from(count).map_err(|error| error.to_string())
}

/// Seeds within which a canary must be caught.
const CANARY_SEEDS: u64 = 200;
/// Violations of one seed that are printed.
const VIOLATIONS_TOLD: usize = 4;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Sums over seeds.
#[derive(Default)]
struct Totals {
    seeds: u64,
    failed: u64,
    undecided: u64,
    simulated_ns: u128,
    ops: u64,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.failed += u64::from(!report.violations.is_empty());
        self.undecided += report.undecided;
        self.simulated_ns += u128::from(report.simulated.get());
        self.ops += report.counts.ops;
    }

    fn line(&self) -> String {
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

fn tell_failure(report: &Report, copies: Option<Copies>, canary: Option<Canary>) {
    println!("seed {} failed at {} of virtual time:", report.seed, duration(u128::from(report.simulated.get())));
    for violation in report.violations.iter().take(VIOLATIONS_TOLD) {
        println!("  {violation}");
    }
    if report.violations.len() > VIOLATIONS_TOLD {
        println!("  … and {} more", report.violations.len() - VIOLATIONS_TOLD);
    }
    if canary.is_none() {
        let copies = copies.map(|copies| format!("--copies {} ", copies.count())).unwrap_or_default();
        println!("  replay: cargo run --release -p sds-tests --bin vopr -- {copies}--seed {} --trace", report.seed);
    }
}

fn run_one(seed: u64, copies: Option<Copies>, telling: Telling) -> ExitCode {
    let report = run_seed(seed, copies, None, telling);
    let mut totals = Totals::default();
    totals.add(&report);
    let Counts {
        repaired,
        damaged_at_rest,
        crashes,
        power_cuts,
        opens,
        faults,
        link_losses,
        done,
        cuts,
        changes,
        hand_overs,
        looked_for,
        copies_compared,
        ops: _,
    } = report.counts;
    println!(
        "seed {seed}: hash {:016x}, {} events, {} blocks checked, {} undecided; {done} requests succeeded, {opens} opens, {crashes} \
         crashes, {power_cuts} power cuts, {link_losses} lost links, {cuts} cuts, {faults} storage faults, {repaired} blocks repaired, {damaged_at_rest} left damaged, {changes} changes of shards, {hand_overs} hand-overs asked for, \
         {looked_for} writes looked for, {copies_compared} pairs compared",
        report.hash, report.events, report.blocks, report.undecided
    );
    if !report.violations.is_empty() {
        tell_failure(&report, copies, None);
    }
    println!("{}", totals.line());
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_many(start: u64, seeds: u64, copies: Option<Copies>, keep_going: bool) -> ExitCode {
    let mut totals = Totals::default();
    let began = Instant::now();
    let mut told = began;
    for seed in start..start.saturating_add(seeds) {
        let report = run_seed(seed, copies, None, Telling::Silent);
        totals.add(&report);
        if !report.violations.is_empty() {
            tell_failure(&report, copies, None);
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
    println!("{}", totals.line());
    if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_canary(canary: Canary, copies: Option<Copies>, start: u64) -> ExitCode {
    let mut totals = Totals::default();
    for seed in start..start.saturating_add(CANARY_SEEDS) {
        let report = run_seed(seed, copies, Some(canary), Telling::Silent);
        totals.add(&report);
        if !report.violations.is_empty() {
            tell_failure(&report, copies, Some(canary));
            println!("canary {canary} was caught after {} seeds", totals.seeds);
            println!("{}", totals.line());
            return ExitCode::SUCCESS;
        }
    }
    println!("canary {canary} was NOT caught within {CANARY_SEEDS} seeds");
    println!("{}", totals.line());
    ExitCode::FAILURE
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.canary, arguments.seed) {
        (Some(canary), _) => run_canary(canary, arguments.copies, arguments.start),
        (None, Some(seed)) => run_one(seed, arguments.copies, if arguments.trace { Telling::Aloud } else { Telling::Silent }),
        (None, None) => run_many(arguments.start, arguments.seeds.unwrap_or(100), arguments.copies, arguments.keep_going),
    }
}
