//! `vopr`: runs the simulator over seeds and says what it found.
//!
//! Named after TigerBeetle's Viewstamped Operation Replicator, which is named after WOPR.

mod runs;
mod tell;

use clap::{CommandFactory, Parser};
use runs::{Which, replay, run_canaries, run_canary, run_many, run_one};
use sds_core::map::Copies;
use sds_tests::canary::Canary;
use sds_tests::run::Case;
use sds_tests::trace::Telling;
use std::path::PathBuf;
use std::process::ExitCode;
use tell::Aftermath;

/// Runs the whole store in virtual time, one seed after the other, and checks every answer.
#[derive(Debug, Parser)]
#[command(
    name = "vopr",
    after_help = "Examples:\n  vopr --seeds 1000                 a thousand seeds\n  vopr --seed 42 --trace            the story of one seed\n  \
                  vopr --canary flush-ignored       shows that a seeded bug is caught"
)]
struct Arguments {
    /// How many seeds to run; with --canary, how many at most, if not as many as that bug states.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "seed")]
    seeds: Option<u64>,
    /// The first of them; 0 if not given.
    #[arg(long, value_name = "S", value_parser = number, allow_hyphen_values = true, conflicts_with = "seed")]
    start: Option<u64>,
    /// Run this seed only.
    #[arg(long, value_name = "X", value_parser = number, allow_hyphen_values = true)]
    seed: Option<u64>,
    /// Print what happens, line by line (with --seed or --replay).
    #[arg(long)]
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
    #[arg(long, requires = "seeds", conflicts_with_all = ["seed", "canary"])]
    reach_all: bool,
    /// Go on after a seed has failed.
    #[arg(long, conflicts_with_all = ["seed", "canary", "canaries"])]
    keep_going: bool,
    /// Runs that may be spent on making a failing seed smaller: fewer faults, fewer requests; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 200, conflicts_with_all = ["canaries", "replay"])]
    shrink: usize,
    /// Where the seed files of failing runs are written.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/vopr", conflicts_with_all = ["canaries", "replay"])]
    seed_files: PathBuf,
    /// Run what a seed file holds.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds", "start", "copies", "canary", "canaries", "keep_going", "reach_all"])]
    replay: Option<PathBuf>,
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("a seed is a whole number from 0 to {}", u64::MAX))
}

fn copies(text: &str) -> Result<Copies, String> {
    let count: u8 = text.parse().map_err(|error| format!("{error}"))?;
    Copies::try_from(count).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Arguments { copies, canary, .. } = arguments;
    let telling = if arguments.trace { Telling::Aloud } else { Telling::Silent };
    let start = arguments.start.unwrap_or_default();
    if arguments.trace && arguments.seed.is_none() && arguments.replay.is_none() {
        let missing = clap::error::ErrorKind::MissingRequiredArgument;
        Arguments::command().error(missing, "--trace tells the story of one run: give it --seed X or --replay FILE").exit();
    }
    if let Some(path) = &arguments.replay {
        return replay(path, telling).unwrap_or_else(|error| {
            eprintln!("vopr: {error}");
            ExitCode::from(2)
        });
    }
    if let Some(which) = arguments.canaries {
        return run_canaries(which, copies, start);
    }
    let aftermath = Aftermath { shrink: arguments.shrink, seed_files: arguments.seed_files };
    match (canary, arguments.seed) {
        (_, Some(seed)) => run_one(&Case { seed, copies, canary }, telling, &aftermath),
        (Some(canary), None) => run_canary(canary, copies, start, arguments.seeds.unwrap_or(canary.within())),
        (None, None) => {
            let seeds = start..start.saturating_add(arguments.seeds.unwrap_or(100));
            run_many(seeds, copies, arguments.keep_going, arguments.reach_all, &aftermath)
        }
    }
}
