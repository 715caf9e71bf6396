//! `failover`: what clients notice when a data server of a system with two copies dies, and what its return costs.

use clap::Parser;
use sds_benches::daemon::Daemon;
use sds_benches::error::BenchError;
use sds_benches::fio;
use sds_benches::host;
use sds_benches::network::{Cut, Network};
use sds_benches::ours::{self, Shape};
use sds_benches::system::{Place, Target};
use sds_benches::workload::{Workload, workload};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Kills a data server (kill -9) in the middle of mixed random I/O, again and again, and prints the slowest request of each; then what
/// it takes to bring a server back that missed 256 MiB of overwrites; then the same with hosts that are cut off without a word.
///
/// Build first with `cargo build --release`. Needs fio and libnbd-bin. Fails if a bound is missed.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// Kills.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Hosts cut off silently. Needs root, `ip` and `nft`; 0 does without.
    #[arg(long, default_value_t = 10)]
    cuts: u32,
    /// Directory of devices, state and logs.
    #[arg(long, default_value = "target/failover")]
    dir: PathBuf,
    /// Directory of our binaries.
    #[arg(long, default_value = "target/release")]
    bin_dir: PathBuf,
}

const SERVERS: u64 = 3;
const SIZE: u64 = 1 << 30;
const SHAPE: Shape = Shape { name: "failover", servers: SERVERS, device_bytes: 2 << 30, copies: 2, log: "info" };
/// Each server on a host of its own.
const ON_HOSTS: Shape = Shape { name: "failover-hosts", ..SHAPE };
/// No request may take longer because a server died.
const GAP_MS_MAX: f64 = 500.0;
/// The same of a host that is cut off.
const CUT_MS_MAX: f64 = 2500.0;
/// How long it is.
const CUT_FOR: Duration = Duration::from_secs(4);
/// What is overwritten while a server is away.
const MISSED: u64 = 256 << 20;
/// The server's absence.
const AWAY: Duration = Duration::from_secs(30);
const CLEAN_SECONDS_MAX: f64 = 10.0;
const SENT_MAX: f64 = 1.2;

fn main() -> ExitCode {
    match failover(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("failover: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Bench {
    place: Place,
    shape: Shape,
    api: String,
    /// `mdm`, the data servers, `sdc`.
    daemons: Vec<Option<Daemon>>,
    /// Dropped after what runs on it.
    network: Option<Network>,
    target: Target,
}

impl Bench {
    /// Starts a system and writes all of its volume.
    fn start_all(place: Place, shape: Shape, network: Option<Network>) -> Result<Self, BenchError> {
        let (daemons, uri) = ours::processes(&place, &shape, network.as_ref())?;
        let api = ours::api(&place, &shape)?;
        let daemons = daemons.into_iter().map(Some).collect();
        let bench = Self { place, shape, network, api, daemons, target: Target::Nbd(uri) };
        fio::prefill(&bench.target, SIZE)?;
        Ok(bench)
    }

    /// Mixed random I/O for so many seconds, begun two seconds ago when this returns.
    fn load(&self, seconds: u64) -> std::thread::JoinHandle<Result<fio::FioResult, BenchError>> {
        let target = self.target.clone();
        let load = std::thread::spawn(move || fio::run(&target, &job("mixed-4k-qd32"), SIZE, seconds));
        std::thread::sleep(Duration::from_secs(2));
        load
    }

    fn wait_until_clean(&mut self, seconds: u64) -> Result<(), BenchError> {
        let Self { place, api, daemons, .. } = self;
        let Some(mdm) = daemons.first_mut().and_then(Option::as_mut) else { unreachable!("it runs all the time") };
        mdm.wait_until(seconds, || ours::clean_shards(place, api).is_some_and(|(clean, total)| total > 0 && clean == total))
    }

    fn place_of(number: u64) -> usize {
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    fn kill(&mut self, number: u64) {
        if let Some(daemon) = self.daemons[Self::place_of(number)].take() {
            daemon.kill();
        }
    }

    fn start(&mut self, number: u64) -> Result<(), BenchError> {
        self.daemons[Self::place_of(number)] = Some(ours::server(&self.place, &self.shape, number, self.network.as_ref())?);
        Ok(())
    }

    /// Bytes that a server's log, which begins anew with its process, says it sent to bring other copies up to date.
    fn sent_by(&self, number: u64) -> u64 {
        let log = std::fs::read_to_string(self.shape.server_log(&self.place, number)).unwrap_or_default();
        let values = log.split("bytes=").skip(1).map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
        values.filter_map(|digits| digits.parse::<u64>().ok()).sum()
    }

    /// The same of all that are not killed.
    fn sent_by_survivors(&self) -> u64 {
        (2..=SERVERS).map(|number| self.sent_by(number)).sum()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        while let Some(daemon) = self.daemons.pop() {
            drop(daemon);
        }
    }
}

fn failover(arguments: &Arguments) -> Result<bool, BenchError> {
    std::fs::create_dir_all(&arguments.dir).map_err(BenchError::file("create", &arguments.dir))?;
    let absolute = |path: &PathBuf| std::path::absolute(path).map_err(BenchError::file("resolve", path));
    let place = Place { dir: absolute(&arguments.dir)?, bin_dir: absolute(&arguments.bin_dir)?, size: SIZE };
    println!("{}\n", host::description());
    let mut bench = Bench::start_all(place.clone(), SHAPE, None)?;

    let fast = arguments.kills == 0 || tell("kill", kills(&mut bench, arguments.kills)?, GAP_MS_MAX);
    let back = come_back(&mut bench)?;
    drop(bench);
    let silent = arguments.cuts == 0 || {
        let mut bench = Bench::start_all(place, ON_HOSTS, Some(Network::new(ours::host_of(SERVERS) + 1)?))?;
        tell("cut", cuts(&mut bench, arguments.cuts)?, CUT_MS_MAX)
    };
    Ok(fast && back && silent)
}

/// Prints the slowest request of each; whether all are within the bound.
fn tell(what: &str, mut slowest: Vec<f64>, bound: f64) -> bool {
    slowest.sort_by(f64::total_cmp);
    let (median, worst) = (slowest[slowest.len() / 2], slowest[slowest.len() - 1]);
    println!("slowest request of each {what}, ms: {}", slowest.iter().map(|ms| format!("{ms:.0}")).collect::<Vec<_>>().join(" "));
    let met = worst <= bound;
    println!("{} {what}s: median {median:.0} ms, worst {worst:.0} ms (bound {bound}): {}", slowest.len(), verdict(met));
    met
}

const fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

fn job(name: &str) -> Workload {
    workload(name).unwrap_or_else(|| unreachable!("a job of the table"))
}

/// The slowest request of each kill, in milliseconds.
fn kills(bench: &mut Bench, count: u32) -> Result<Vec<f64>, BenchError> {
    let mut slowest = Vec::new();
    for round in 0..count {
        bench.wait_until_clean(120)?;
        let load = bench.load(5);
        let victim = 1 + u64::from(round) % SERVERS;
        bench.kill(victim);
        let result = load.join().unwrap_or_else(|_| unreachable!("fio's thread does not panic"))?;
        slowest.push(result.max_us / 1e3);
        eprintln!("kill {}: server {victim}, slowest request {:.0} ms", round + 1, result.max_us / 1e3);
        bench.start(victim)?;
    }
    bench.wait_until_clean(120)?;
    Ok(slowest)
}

/// The slowest request of each host that is cut off without a word, in milliseconds.
fn cuts(bench: &mut Bench, count: u32) -> Result<Vec<f64>, BenchError> {
    let mut slowest = Vec::new();
    for round in 0..count {
        bench.wait_until_clean(120)?;
        let load = bench.load(8);
        let victim = 1 + u64::from(round) % SERVERS;
        let Some(network) = &bench.network else { unreachable!("it was started on one") };
        network.cut(ours::host_of(victim), Cut::Off)?;
        std::thread::sleep(CUT_FOR);
        network.mend(ours::host_of(victim))?;
        let result = load.join().unwrap_or_else(|_| unreachable!("fio's thread does not panic"))?;
        slowest.push(result.max_us / 1e3);
        eprintln!("cut {}: host of server {victim}, slowest request {:.0} ms", round + 1, result.max_us / 1e3);
    }
    bench.wait_until_clean(120)?;
    Ok(slowest)
}

/// A server is away for a while, and 256 MiB are overwritten meanwhile.
fn come_back(bench: &mut Bench) -> Result<bool, BenchError> {
    // At rest, so that nothing but what is missed is in question.
    std::thread::sleep(Duration::from_secs(5));
    let before = bench.sent_by_survivors();
    bench.kill(1);
    let gone = Instant::now();
    fio::prefill(&bench.target, MISSED)?;
    std::thread::sleep(AWAY.saturating_sub(gone.elapsed()));
    let start = Instant::now();
    bench.start(1)?;
    std::thread::sleep(Duration::from_millis(500));
    bench.wait_until_clean(120)?;
    let seconds = start.elapsed().as_secs_f64();
    let sent = bench.sent_by_survivors() - before + bench.sent_by(1);
    // Two thirds of all shards have a copy there, and as much of what was written.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let (sent_mib, missed_mib) = (sent as f64 / 1048576.0, MISSED as f64 / 1048576.0 * 2.0 / 3.0);
    let (lean, quick) = (sent_mib <= missed_mib * SENT_MAX, seconds <= CLEAN_SECONDS_MAX);
    println!(
        "back after {} s with {missed_mib:.0} MiB missed: {sent_mib:.0} MiB sent (bound {SENT_MAX} × that): {}",
        AWAY.as_secs(),
        verdict(lean)
    );
    println!("clean {seconds:.1} s after it was started (bound {CLEAN_SECONDS_MAX}): {}", verdict(quick));
    Ok(lean && quick)
}
