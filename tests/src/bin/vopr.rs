//! `vopr`: runs the simulator over seeds and says what it found.
//!
//! Named after TigerBeetle's Viewstamped Operation Replicator, which is named after WOPR.

use clap::Parser;
use sds_core::map::Copies;
use sds_tests::canary::{Canary, QUICK_SEEDS};
use sds_tests::marks::{Marks, expected};
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
    /// How many seeds to run; with --canary, how many at most, if not as many as that bug states.
    #[arg(long, value_name = "N", conflicts_with = "seed")]
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
    /// Seed one bug after the other, each until it is caught: all of them, or those that are caught quickly.
    #[arg(long, value_name = "WHICH", conflicts_with_all = ["seed", "canary", "seeds"])]
    canaries: Option<Which>,
    /// Fail if anything that runs are to reach was not reached: a kind of fault, an event, a frame.
    #[arg(long, requires = "seeds")]
    reach_all: bool,
    /// Go on after a seed has failed.
    #[arg(long)]
    keep_going: bool,
}

/// Which bugs are seeded.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    /// All that this build has.
    All,
    /// Those that must be caught within a hundred seeds.
    Quick,
}

fn copies(text: &str) -> Result<Copies, String> {
    let count: u8 = text.parse().map_err(|error| format!("{error}"))?;
    Copies::try_from(count).map_err(|error| error.to_string())
}

/// Violations of one seed that are printed.
const VIOLATIONS_TOLD: usize = 4;
/// From so many seeds on it is told what was not reached.
const SEEDS_THAT_REACH_MOST: u64 = 100;
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Sums over seeds.
#[derive(Default)]
struct Totals {
    seeds: u64,
    failed: u64,
    undecided: u64,
    simulated_ns: u128,
    ops: u64,
    marks: Marks,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.failed += u64::from(!report.violations.is_empty());
        self.undecided += report.undecided;
        self.simulated_ns += u128::from(report.simulated.get());
        self.ops += report.counts.ops;
        self.marks.add(&report.marks);
    }

    /// Faults by kind, and how much of what can be reached was.
    fn tell_reached(&self, missing_told: bool) -> bool {
        let faults: Vec<String> = self.marks.area("fault").map(|(name, count)| format!("{name} {count}")).collect();
        println!("faults: {}", faults.join(", "));
        let (missing, all) = (self.marks.missing(), expected().count());
        println!("marks={}/{all}", all - missing.len());
        if missing_told && !missing.is_empty() {
            println!("not reached: {}", missing.join(", "));
        }
        missing.is_empty()
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
        ambushes,
        changes,
        hand_overs,
        looked_for,
        copies_compared,
        ops: _,
    } = report.counts;
    println!(
        "seed {seed}: hash {:016x}, {} events, {} blocks checked, {} undecided; {done} requests succeeded, {opens} opens, {crashes} \
         crashes, {power_cuts} power cuts, {link_losses} lost links, {cuts} cuts, {ambushes} ambushes, {faults} storage faults, {repaired} blocks repaired, {damaged_at_rest} left damaged, {changes} changes of shards, {hand_overs} hand-overs asked for, \
         {looked_for} writes looked for, {copies_compared} pairs compared",
        report.hash, report.events, report.blocks, report.undecided
    );
    if !report.violations.is_empty() {
        tell_failure(&report, copies, None);
    }
    println!("{}", totals.line());
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_many(start: u64, seeds: u64, copies: Option<Copies>, keep_going: bool, reach_all: bool) -> ExitCode {
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
    let reached = totals.tell_reached(reach_all || seeds >= SEEDS_THAT_REACH_MOST);
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

fn run_canary(canary: Canary, copies: Option<Copies>, start: u64, within: u64) -> ExitCode {
    match catch(canary, copies, start, within) {
        Ok((seeds, report)) => {
            tell_failure(&report, copies, Some(canary));
            println!("canary {canary} was caught after {seeds} seeds");
            ExitCode::SUCCESS
        }
        Err(seeds) => {
            println!("canary {canary} was NOT caught within {seeds} seeds");
            ExitCode::FAILURE
        }
    }
}

fn run_canaries(which: Which, copies: Option<Copies>, start: u64) -> ExitCode {
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(which) = arguments.canaries {
        return run_canaries(which, arguments.copies, arguments.start);
    }
    match (arguments.canary, arguments.seed) {
        (Some(canary), _) => run_canary(canary, arguments.copies, arguments.start, arguments.seeds.unwrap_or(canary.within())),
        (None, Some(seed)) => run_one(seed, arguments.copies, if arguments.trace { Telling::Aloud } else { Telling::Silent }),
        (None, None) => {
            run_many(arguments.start, arguments.seeds.unwrap_or(100), arguments.copies, arguments.keep_going, arguments.reach_all)
        }
    }
}
