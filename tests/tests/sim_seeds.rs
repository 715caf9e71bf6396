//! A fixed set of seeds for every run of the tests, and proof that the checkers bite.

use sds_core::map::Copies;
use sds_tests::canary::Canary;
use sds_tests::retell::Kept;
use sds_tests::run::{Case, Report, run_again, run_seed};
use sds_tests::seed_file::SeedFile;
use sds_tests::shrink::{Shrunk, shrink};
use sds_tests::trace::Telling;

/// Runs some seeds; each failure says how to replay it.
fn run(seeds: core::ops::Range<u64>) {
    let mut failed = Vec::new();
    let (mut done, mut blocks, mut undecided) = (0, 0, 0);
    for seed in seeds.clone() {
        let report = run_seed(seed, None, None, Telling::Silent);
        done += report.counts.done;
        blocks += report.blocks;
        undecided += report.undecided;
        if !report.violations.is_empty() {
            println!("seed {seed}: {}", report.violations.join("\n"));
            println!("replay: cargo run --release -p sds-tests --bin vopr -- --seed {seed} --trace");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} failed");
    assert!(done > 500 * (seeds.end - seeds.start), "the users got something done: {done} requests");
    assert!(undecided * 1_000 <= blocks, "nearly every block is decided: {undecided} of {blocks} were not");
}

// In four parts, so that they run beside each other.

#[test]
fn seeds_0_to_50_pass() {
    run(0..50);
}

#[test]
fn seeds_50_to_100_pass() {
    run(50..100);
}

#[test]
fn seeds_100_to_150_pass() {
    run(100..150);
}

#[test]
fn seeds_150_to_200_pass() {
    run(150..200);
}

#[test]
fn every_canary_is_caught() {
    for canary in Canary::SHELL {
        let caught = (0..100).find(|seed| !run_seed(*seed, None, Some(canary), Telling::Silent).violations.is_empty());
        assert!(caught.is_some(), "canary {canary} lived through 100 seeds");
    }
}

/// Dropped durable flags take many seeds (82 of one day): both caches must be lost soon after a durable write.
#[test]
fn canaries_are_caught_with_two_copies() {
    for canary in Canary::SHELL.into_iter().filter(|canary| *canary != Canary::DurableFlagDropped) {
        let caught = (0..100).find(|seed| !run_seed(*seed, Some(Copies::Two), Some(canary), Telling::Silent).violations.is_empty());
        assert!(caught.is_some(), "canary {canary} lived through 100 seeds of two copies");
    }
}

#[test]
fn an_unknown_canary_is_answered_with_the_names_of_those_there_are() {
    let error = "none-such".parse::<Canary>().expect_err("no canary has this name").to_string();
    assert!(Canary::SHELL.iter().all(|canary| error.contains(canary.name())), "{error}");
}

#[test]
fn a_run_told_again_with_everything_is_the_run() {
    for seed in 0..12 {
        let case = Case { seed, copies: None, canary: None };
        let (report, recording) = sds_tests::run::run(&case, Telling::Silent);
        assert!(!recording.firings.is_empty() || report.counts.crashes == 0, "seed {seed}: its faults are known");
        assert_eq!(run_again(&case, &recording, &recording.all(), Telling::Silent).hash, report.hash, "seed {seed}");
    }
}

#[test]
fn a_failing_run_is_made_smaller_and_fails_again_from_its_seed_file() {
    let failing = |seed: &u64| {
        let case = Case { seed: *seed, copies: None, canary: Some(Canary::FlushIgnored) };
        let (report, recording) = sds_tests::run::run(&case, Telling::Silent);
        (!report.violations.is_empty()).then_some((case, report, recording))
    };
    let (case, report, recording) = (0..100).find_map(|seed| failing(&seed)).expect("it is caught");
    let Shrunk { kept, report: small, .. } = shrink(&case, &report, &recording, 60).expect("it fails again");
    let all = recording.all();
    assert!(kept.faults.len() < all.faults.len() && kept.wishes.len() < all.wishes.len(), "{kept:?}");
    assert!(!small.violations.is_empty());
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("failing/seed.json");
    SeedFile::new(&case, &kept, &small.violations[0]).write(&path).expect("writes");
    let file = SeedFile::read(&path).expect("reads");
    let again = run_again(&file.case().expect("known"), &recording, &file.kept(), Telling::Silent);
    assert_eq!((again.hash, again.violations), (small.hash, small.violations));
}

#[test]
fn what_is_left_out_of_a_run_does_not_happen() {
    let faults = |report: &Report| {
        let counts = report.counts;
        counts.crashes + counts.power_cuts + counts.cuts + counts.ambushes + counts.faults
    };
    let mut seen = 0;
    for seed in 0..6 {
        let case = Case { seed, copies: None, canary: None };
        let (report, recording) = sds_tests::run::run(&case, Telling::Silent);
        seen += faults(&report);
        let calm = run_again(&case, &recording, &Kept { faults: [].into(), ..recording.all() }, Telling::Silent);
        assert_eq!((faults(&calm), calm.violations), (0, Vec::new()), "seed {seed}");
        let idle = run_again(&case, &recording, &Kept { wishes: [].into(), ..recording.all() }, Telling::Silent);
        assert_eq!((idle.counts.ops, idle.violations), (0, Vec::new()), "seed {seed}");
    }
    assert!(seen > 0, "there was something to leave out");
}
