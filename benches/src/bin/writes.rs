//! `writes`: measures and counts what random writes cost one data server, and holds the figures to their bounds.

use clap::Parser;
use sds_benches::error::BenchError;
use sds_benches::host;
use sds_benches::statistics::{median, ratios};
use sds_benches::system::Place;
use sds_benches::writes::{ACTIVE_EXTENTS, Bench, Job, Run, WITHIN_BYTES};
use std::path::PathBuf;
use std::process::ExitCode;

/// Random 4 KiB writes to one data server with one device: within the active extents, over all of the
/// volume, deep, at depth 1, and slow. Prints medians over the rounds and what is counted per write.
///
/// Build first with `cargo build --release`. Needs fio, libnbd-bin, and somewhat more than SIZE of disk.
/// Fails if a bound is missed.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Rounds; in each, every job runs once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds each job runs.
    #[arg(long, default_value_t = 3)]
    runtime: u64,
    /// GiB of the volume; the device is an eighth and 512 MiB larger.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(5..=1024))]
    size_gib: u64,
    /// Directory of the device, state and logs; give one on the disk to be measured.
    #[arg(long, default_value = "target/writes")]
    dir: PathBuf,
    /// Directory of our binaries.
    #[arg(long, default_value = "target/release")]
    bin_dir: PathBuf,
}

/// A figure, what it must be, and whether less is better.
struct Bound {
    title: &'static str,
    value: f64,
    bound: f64,
    at_most: bool,
}

impl Bound {
    fn is_met(&self) -> bool {
        if self.at_most { self.value <= self.bound } else { self.value >= self.bound }
    }
}

fn main() -> ExitCode {
    match writes(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("writes: {error}");
            ExitCode::FAILURE
        }
    }
}

fn writes(arguments: &Arguments) -> Result<bool, BenchError> {
    std::fs::create_dir_all(&arguments.dir).map_err(BenchError::file("create", &arguments.dir))?;
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(BenchError::file("resolve", path));
    let place = Place { dir: absolute(&arguments.dir)?, bin_dir: absolute(&arguments.bin_dir)?, size: arguments.size_gib << 30 };
    eprintln!("starting and filling");
    let mut bench = Bench::start(&place)?;
    let mut runs = Vec::new();
    for round in 0..arguments.rounds.max(1) {
        eprintln!("round {} of {}", round + 1, arguments.rounds.max(1));
        for job in Job::ALL {
            let run = bench.run(job, arguments.runtime.max(1))?;
            eprintln!("  {:<40} {:>7.0} IOPS, amplification {:.2}", job.title(), run.fio.iops, run.amplification);
            runs.push(run);
        }
    }
    let resident = bench.resident_bytes()?;
    drop(bench);
    println!("machine: {}; {} rounds of {} s", host::description(), arguments.rounds.max(1), arguments.runtime.max(1));
    println!(
        "volume {} GiB on one device of one sds; {ACTIVE_EXTENTS} extents of 1 MiB may be active, \"within\" is {} GiB\n",
        arguments.size_gib,
        WITHIN_BYTES >> 30
    );
    print_table(&runs);
    let mib: Vec<String> = resident.iter().map(|bytes| format!("{} MiB", bytes >> 20)).collect();
    println!("\nresident after it, mdm, sds, sdc: {}\n", mib.join(", "));
    let bounds = bounds(&runs);
    for bound in &bounds {
        let (sign, verdict) = (if bound.at_most { "≤" } else { "≥" }, if bound.is_met() { "met" } else { "MISSED" });
        println!("{:<66} {:.3}, {sign} {}: {verdict}", bound.title, bound.value, bound.bound);
    }
    Ok(bounds.iter().all(Bound::is_met))
}

fn medians(runs: &[Run], job: Job, figure: impl Fn(&Run) -> f64) -> f64 {
    let values: Vec<f64> = runs.iter().filter(|run| run.job == job).map(figure).collect();
    median(&values).unwrap_or(f64::NAN)
}

fn print_table(runs: &[Run]) {
    println!("| job | IOPS | p50 µs | p99 µs | bytes to device ÷ written | log blocks | other metadata pages | flushes | activations |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for job in Job::ALL {
        let of = |figure: &dyn Fn(&Run) -> f64| medians(runs, job, figure);
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.3} | {:.3} | {:.3} | {:.4} | {:.3} |",
            job.title(),
            of(&|run| run.fio.iops),
            of(&|run| run.fio.p50_us),
            of(&|run| run.fio.p99_us),
            of(&|run| run.amplification),
            of(&|run| run.per_write(run.counters.log)),
            of(&|run| run.per_write(run.counters.metadata)),
            of(&|run| run.per_write(run.counters.flushes)),
            of(&|run| run.per_write(run.counters.activations)),
        );
    }
    println!("\nThe last four are counts per write. An activation is one record; those that wait together share a durable log block.");
}

fn bounds(runs: &[Run]) -> Vec<Bound> {
    let rates = |job: Job| runs.iter().filter(move |run| run.job == job).map(|run| run.fio.iops);
    let pairs: Vec<(f64, f64)> = rates(Job::Whole).zip(rates(Job::Within)).collect();
    let amplification = |job: Job| medians(runs, job, |run| run.amplification);
    let at_most = |title, job, bound| Bound { title, value: amplification(job), bound, at_most: true };
    vec![
        Bound {
            title: "rate over the whole volume ÷ rate within the active extents",
            value: median(&ratios(&pairs)).unwrap_or(f64::NAN),
            bound: 0.5,
            at_most: false,
        },
        at_most("bytes to the device ÷ bytes written, depth 16", Job::Deep16, 1.25),
        at_most("bytes to the device ÷ bytes written, depth 32", Job::Within, 1.25),
        at_most("bytes to the device ÷ bytes written, depth 64", Job::Deep64, 1.25),
        at_most("bytes to the device ÷ bytes written, depth 1", Job::Single, 2.1),
    ]
}
