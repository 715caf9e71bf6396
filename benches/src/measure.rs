//! Rounds: every system runs the same job right after the others, and what one run came to.
//!
//! Invariants: a set of samples is of one job and one round, one sample a system, taken one after the
//! other; a set during which too much time was stolen is taken again, a bounded number of times, and if
//! it never was quiet the quietest attempt is kept and says so.

use crate::error::BenchError;
use crate::fio::{self, FioResult};
use crate::host::{MachineTime, Spinners};
use crate::system::{System, SystemKind};
use crate::usage::Usage;
use crate::workload::{Workload, warm_up};
use std::time::Duration;

/// More stolen time than this, and a set is taken again.
pub const STOLEN_SHARE_MAX: f64 = 0.10;
/// How often a set is taken at most.
pub const ATTEMPTS_MAX: u32 = 3;
/// How long our own servers may still work after the last write was answered.
const TRAILING_WORK: Duration = Duration::from_millis(1500);

/// One job on one system in one round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Of which system.
    pub system: SystemKind,
    /// What fio saw.
    pub fio: FioResult,
    /// What the server processes used meanwhile.
    pub server: Usage,
    /// What the whole machine spent meanwhile.
    pub machine: MachineTime,
    /// Whether spinners ran, so that the machine's busy time says nothing.
    pub spinners: bool,
}

/// One job in one round.
#[derive(Clone, Debug)]
pub struct SampleSet {
    /// Which job.
    pub workload: Workload,
    /// Which round, from 0.
    pub round: u32,
    /// Which attempt was kept, from 1.
    pub attempt: u32,
    /// One a system.
    pub samples: Vec<Sample>,
}

/// A figure of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Requests per second.
    Iops,
    /// Bytes per second.
    Bandwidth,
    /// Mean latency, µs.
    Mean,
    /// Median latency, µs.
    P50,
    /// 99th percentile, µs.
    P99,
    /// 99.9th percentile, µs.
    P999,
    /// CPU-µs of the server processes per request.
    ServerCpu,
    /// CPU-µs of fio per request.
    FioCpu,
    /// CPU-µs of server and fio per request.
    TotalCpu,
    /// CPU-µs of the whole machine per request.
    MachineCpu,
    /// Page faults of the server processes per request.
    Faults,
}

impl Figure {
    /// All that results keep.
    pub const ALL: [Self; 11] = [
        Self::Iops,
        Self::Bandwidth,
        Self::Mean,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::ServerCpu,
        Self::FioCpu,
        Self::TotalCpu,
        Self::MachineCpu,
        Self::Faults,
    ];

    /// Its key in JSON; units last.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Iops => "iops",
            Self::Bandwidth => "bandwidth_bytes_per_s",
            Self::Mean => "latency_mean_us",
            Self::P50 => "latency_p50_us",
            Self::P99 => "latency_p99_us",
            Self::P999 => "latency_p999_us",
            Self::ServerCpu => "cpu_server_us_per_io",
            Self::FioCpu => "cpu_fio_us_per_io",
            Self::TotalCpu => "cpu_total_us_per_io",
            Self::MachineCpu => "cpu_machine_us_per_io",
            Self::Faults => "page_faults_per_io",
        }
    }

    /// Whether more of it is better.
    #[must_use]
    pub const fn more_is_better(self) -> bool {
        match self {
            Self::Iops | Self::Bandwidth => true,
            Self::Mean
            | Self::P50
            | Self::P99
            | Self::P999
            | Self::ServerCpu
            | Self::FioCpu
            | Self::TotalCpu
            | Self::MachineCpu
            | Self::Faults => false,
        }
    }
}

impl Sample {
    /// One of its figures; `None` where it has no meaning (no server, spinners running).
    #[must_use]
    pub fn figure(&self, figure: Figure) -> Option<f64> {
        let requests = self.fio.requests;
        let served = self.system != SystemKind::Bound;
        match figure {
            Figure::Iops => Some(self.fio.iops),
            Figure::Bandwidth => Some(self.fio.bandwidth),
            Figure::Mean => Some(self.fio.mean_us),
            Figure::P50 => Some(self.fio.p50_us),
            Figure::P99 => Some(self.fio.p99_us),
            Figure::P999 => Some(self.fio.p999_us),
            Figure::ServerCpu => served.then(|| self.server.cpu_us / requests),
            Figure::FioCpu => Some(self.fio.cpu_us / requests),
            Figure::TotalCpu => Some((self.server.cpu_us + self.fio.cpu_us) / requests),
            Figure::MachineCpu => (!self.spinners).then(|| self.machine.busy_us / requests),
            Figure::Faults => served.then(|| self.server.minor_faults as f64 / requests),
        }
    }
}

impl SampleSet {
    /// Largest stolen share among its samples.
    #[must_use]
    pub fn stolen_share(&self) -> f64 {
        self.samples.iter().map(|sample| sample.machine.stolen_share()).fold(0.0, f64::max)
    }

    /// A figure of one system.
    #[must_use]
    pub fn figure(&self, system: SystemKind, figure: Figure) -> Option<f64> {
        self.samples.iter().find(|sample| sample.system == system)?.figure(figure)
    }
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes of the volume.
    pub size: u64,
    /// How long each job runs.
    pub seconds: u64,
}

/// Takes one set; the system that starts moves on by one each round.
///
/// # Errors
/// When fio or a system fails.
pub fn take_set(systems: &mut [System], workload: Workload, round: u32, plan: Plan) -> Result<SampleSet, BenchError> {
    let mut best: Option<SampleSet> = None;
    for attempt in 1..=ATTEMPTS_MAX {
        let mut samples = Vec::with_capacity(systems.len());
        for index in 0..systems.len() {
            let place = (index + round as usize) % systems.len();
            samples.push(take(&mut systems[place], &workload, plan)?);
        }
        let set = SampleSet { workload, round, attempt, samples };
        let quiet = set.stolen_share() <= STOLEN_SHARE_MAX;
        if best.as_ref().is_none_or(|best| set.stolen_share() < best.stolen_share()) {
            best = Some(set);
        }
        if quiet {
            break;
        }
        eprintln!("    more than {:.0} % of the time was stolen in attempt {attempt}", STOLEN_SHARE_MAX * 100.0);
    }
    best.ok_or_else(|| BenchError::parse("the plan", "no attempt was made"))
}

fn take(system: &mut System, workload: &Workload, plan: Plan) -> Result<Sample, BenchError> {
    system.check()?;
    let spinners = workload.wants_spinners().then(|| Spinners::start(plan.seconds + 30)).transpose()?;
    let pids = system.pids();
    if workload.warm {
        fio::run(&system.target, &warm_up(workload), plan.size, 1)?;
    }
    let (machine, server) = (MachineTime::now()?, Usage::of(&pids)?);
    let fio = fio::run(&system.target, workload, plan.size, plan.seconds)?;
    if workload.writes() && system.kind.is_ours() {
        // Extents are sealed a second after their last write: that work is counted as ours, and must not
        // be done on the next system's time.
        std::thread::sleep(TRAILING_WORK);
    }
    let sample = Sample {
        system: system.kind,
        fio,
        server: Usage::of(&pids)?.since(server),
        machine: MachineTime::now()?.since(machine),
        spinners: spinners.is_some(),
    };
    drop(spinners);
    if workload.writes() {
        // What one system left in the page cache must not be written back on the next one's time.
        rustix::fs::sync();
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WORKLOADS;

    pub(crate) fn sample(system: SystemKind, requests: f64, cpu_us: f64) -> Sample {
        Sample {
            system,
            fio: FioResult { requests, iops: requests, ..FioResult::default() },
            server: Usage { cpu_us, ..Usage::default() },
            machine: MachineTime { busy_us: 0.0, stolen_us: 5.0, total_us: 100.0 },
            spinners: true,
        }
    }

    #[test]
    fn figures_without_a_meaning_are_none() {
        let bound = sample(SystemKind::Bound, 10.0, 0.0);
        assert_eq!(bound.figure(Figure::ServerCpu), None, "fio on a file has no server");
        assert_eq!(bound.figure(Figure::MachineCpu), None, "spinners keep the machine busy");
        assert_eq!(sample(SystemKind::QemuNbd, 10.0, 50.0).figure(Figure::ServerCpu), Some(5.0));
    }

    #[test]
    fn a_set_is_as_disturbed_as_its_most_disturbed_sample() {
        let mut quiet = sample(SystemKind::Bound, 1.0, 1.0);
        quiet.machine.stolen_us = 0.0;
        let set = SampleSet { workload: WORKLOADS[0], round: 0, attempt: 1, samples: vec![quiet, sample(SystemKind::QemuNbd, 1.0, 1.0)] };
        assert!((set.stolen_share() - 0.05).abs() < 1e-9);
    }
}
