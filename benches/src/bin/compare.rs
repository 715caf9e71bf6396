//! `compare`: measures this project and its peers side by side and writes table, JSON and plot.

use clap::Parser;
use sds_benches::counters;
use sds_benches::error::BenchError;
use sds_benches::fio;
use sds_benches::host;
use sds_benches::measure::{Plan, take_set};
use sds_benches::plot;
use sds_benches::report::{self, Results};
use sds_benches::system::{Place, System, SystemKind};
use sds_benches::workload::{WORKLOADS, Workload, workload};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Measures this project and its peers on this machine, alternately, and prints ratios to qemu-nbd.
///
/// Build first with `cargo build --release`. Needs fio, qemu-utils, nbdkit and libnbd-bin (`ci/install`
/// brings them), and about four times SIZE of disk. Everything runs on loopback.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "Examples:\n  cargo run --release --bin compare -- --quick\n  cargo run --release --bin compare -- --write-results\n  \
                  cargo run --release --bin compare -- --systems qemu-nbd,ours-one --workloads read-4k-qd1"
)]
struct Arguments {
    /// Rounds; in each, every system runs every job once.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Seconds each job runs.
    #[arg(long, default_value_t = 3)]
    runtime: u64,
    /// Size of the volume, e.g. 4G or 512M.
    #[arg(long, default_value = "4G", value_parser = parse_size)]
    size: u64,
    /// Which systems, separated by commas.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<SystemKind>,
    /// Which jobs, separated by commas; `--workloads help` lists them.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// One round of one second over 256 MiB, to see that everything works. Not for quoting.
    #[arg(long)]
    quick: bool,
    /// Leave out what is counted and not timed (write amplification, system calls, idle cost).
    #[arg(long)]
    no_counters: bool,
    /// Directory of test files, devices, logs and results; give one on the disk to be measured.
    #[arg(long, default_value = "target/compare")]
    dir: PathBuf,
    /// Directory of our binaries.
    #[arg(long, default_value = "target/release")]
    bin_dir: PathBuf,
    /// Also write benches/RESULTS.md, RESULTS.json and RESULTS.svg.
    #[arg(long)]
    write_results: bool,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        unit => return Err(format!("unknown unit {unit:?}; use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size; write it like 512M or 4G"))?;
    let size = number.checked_mul(1 << shift).filter(|size| *size >= 128 << 20 && size.is_multiple_of(1 << 20));
    size.ok_or_else(|| format!("{text:?} must be a multiple of 1 MiB and at least 128 MiB"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.workloads.iter().any(|name| name == "help") {
        WORKLOADS.iter().for_each(|workload| println!("{:<20} {}", workload.name, workload.title));
        return ExitCode::SUCCESS;
    }
    match compare(&arguments) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: &Arguments) -> Result<String, BenchError> {
    let jobs = jobs(&arguments.workloads)?;
    let mut kinds = if arguments.systems.is_empty() { SystemKind::ALL.to_vec() } else { arguments.systems.clone() };
    kinds.sort_unstable();
    kinds.dedup();
    let (rounds, seconds, size) =
        if arguments.quick { (1, 1, 256 << 20) } else { (arguments.rounds.max(1), arguments.runtime.max(1), arguments.size) };
    std::fs::create_dir_all(&arguments.dir).map_err(BenchError::file("create", &arguments.dir))?;
    let absolute = |path: &Path| std::path::absolute(path).map_err(BenchError::file("resolve", path));
    let place = Place { dir: absolute(&arguments.dir)?, bin_dir: absolute(&arguments.bin_dir)?, size };

    let mut systems = Vec::new();
    for kind in &kinds {
        eprintln!("starting and filling {}", kind.title());
        systems.push(System::start(*kind, &place)?);
    }
    let plan = Plan { size, seconds };
    let mut sets = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for job in &jobs {
            let set = take_set(&mut systems, *job, round, plan)?;
            eprintln!("{}", report::progress(&set));
            sets.push(set);
        }
    }
    let (mut counts, mut idle) = (Vec::new(), Vec::new());
    if !arguments.no_counters {
        eprintln!("counting");
        counts = counters::count_all(&mut systems, &jobs, plan)?;
        idle = counters::idle(&mut systems, Duration::from_secs(if arguments.quick { 2 } else { 20 }))?;
    }
    drop(systems);

    let head = head(arguments, rounds, plan, &place);
    let results = Results { head, systems: kinds, workloads: jobs, sets, counts, idle };
    write(&results, &place.dir, "results")?;
    if arguments.write_results {
        write(&results, Path::new("benches"), "RESULTS")?;
    }
    Ok(report::markdown(&results, "results.svg"))
}

fn jobs(names: &[String]) -> Result<Vec<Workload>, BenchError> {
    if names.is_empty() {
        return Ok(WORKLOADS.to_vec());
    }
    let find = |name: &String| workload(name).ok_or_else(|| BenchError::parse("--workloads", format!("{name:?} is none; try `help`")));
    names.iter().map(find).collect()
}

fn head(arguments: &Arguments, rounds: u32, plan: Plan, place: &Place) -> Vec<(String, String)> {
    let version = |program: &str| fio::first_line(Path::new(program), "--version");
    let mut method = format!("{rounds} rounds, {} s a job, {} MiB volume", plan.seconds, plan.size >> 20);
    if arguments.quick {
        method.push_str("; a quick run: not for quoting");
    }
    vec![
        ("machine".into(), host::description()),
        ("method".into(), method),
        ("peers".into(), format!("{}; {}; {}", fio::version(), version("qemu-nbd"), version("nbdkit"))),
        ("ours".into(), fio::first_line(&place.bin_dir.join("sdsctl"), "--version")),
    ]
}

fn write(results: &Results, dir: &Path, stem: &str) -> Result<(), BenchError> {
    let save = |extension: &str, text: &str| {
        let path = dir.join(format!("{stem}.{extension}"));
        std::fs::write(&path, text).map_err(BenchError::file("write", path))
    };
    save("md", &report::markdown(results, &format!("{stem}.svg")))?;
    save("json", &format!("{:#}\n", report::json(results)))?;
    save("svg", &plot::svg(results))
}
