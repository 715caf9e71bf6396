//! Things that are counted and not timed: device writes, system calls and page faults per request,
//! memory, and what idle processes cost. Taken once, after the rounds.

use crate::error::BenchError;
use crate::fio;
use crate::measure::Plan;
use crate::system::{System, SystemKind};
use crate::usage::Usage;
use crate::workload::{Workload, warm_up, workload};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What follows writes (records, seals, checkpoints, write-back) gets this long before writes are read off.
const SETTLE: Duration = Duration::from_secs(4);

/// Jobs that are counted.
const COUNTED: [&str; 6] = ["read-4k-qd1", "write-4k-qd1", "read-4k-qd32", "write-4k-qd32", "write-4k-qd96", "write-1m-qd8"];

/// Counts of one job on one system.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Of which system.
    pub system: SystemKind,
    /// Of which job.
    pub workload: Workload,
    /// Bytes the processes sent to the block layer ÷ bytes written by the client while the job ran, for
    /// jobs that only write.
    pub amplification: Option<f64>,
    /// The same from a pause before it to a pause after it: with what comes first and what comes after.
    pub amplification_whole: Option<f64>,
    /// System calls per request; `None` where `perf` cannot count them.
    pub syscalls: Option<f64>,
    /// Page faults per request.
    pub faults: f64,
    /// Resident memory after it, in bytes.
    pub resident_bytes: u64,
}

/// What a system costs when nobody uses it.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Of which system.
    pub system: SystemKind,
    /// Its processes.
    pub processes: usize,
    /// Percent of one core, all processes together.
    pub core_percent: f64,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
}

/// Counts every counted job that is among `wanted`, on every system that has a server.
///
/// # Errors
/// When fio or a system fails.
pub fn count_all(systems: &mut [System], wanted: &[Workload], plan: Plan) -> Result<Vec<Count>, BenchError> {
    let mut counts = Vec::new();
    for job in COUNTED.into_iter().filter_map(workload).filter(|job| wanted.contains(job)) {
        for system in systems.iter_mut().filter(|system| system.kind != SystemKind::Bound) {
            system.check()?;
            counts.push(count(system, job, plan)?);
        }
    }
    Ok(counts)
}

fn count(system: &System, job: Workload, plan: Plan) -> Result<Count, BenchError> {
    let pids = system.pids();
    // Warm-up: buffers, caches and connections that steady state has already.
    fio::run(&system.target, &job, plan.size, 1)?;
    std::thread::sleep(SETTLE);
    let paused = Usage::of(&pids)?;
    let warmed = if job.warm {
        fio::run(&system.target, &warm_up(&job), plan.size, 1)?.requests * f64::from(warm_up(&job).block_bytes)
    } else {
        0.0
    };
    let before = Usage::of(&pids)?;
    let counter = SyscallCounter::start(&pids, plan.seconds);
    let result = fio::run(&system.target, &job, plan.size, plan.seconds)?;
    let during = Usage::of(&pids)?.since(before);
    let syscalls = counter.and_then(SyscallCounter::finish);
    std::thread::sleep(SETTLE);
    let whole = Usage::of(&pids)?.since(paused);
    let written = result.requests * f64::from(job.block_bytes);
    Ok(Count {
        system: system.kind,
        workload: job,
        amplification: job.only_writes().then(|| during.written_bytes as f64 / written),
        amplification_whole: job.only_writes().then(|| whole.written_bytes as f64 / (written + warmed)),
        syscalls: syscalls.map(|calls| calls / result.requests),
        faults: during.minor_faults as f64 / result.requests,
        resident_bytes: whole.resident_bytes,
    })
}

/// What every system uses while nothing is asked of it.
///
/// # Errors
/// When a system has ended.
pub fn idle(systems: &mut [System], time: Duration) -> Result<Vec<Idle>, BenchError> {
    std::thread::sleep(SETTLE);
    let read = |system: &mut System| Usage::of(&system.pids());
    let before = systems.iter_mut().map(read).collect::<Result<Vec<_>, _>>()?;
    std::thread::sleep(time);
    let mut idle = Vec::new();
    for (system, before) in systems.iter_mut().zip(before) {
        let used = read(system)?.since(before);
        if system.kind != SystemKind::Bound {
            let core_percent = used.cpu_us / (time.as_secs_f64() * 1e6) * 100.0;
            idle.push(Idle { system: system.kind, processes: system.pids().len(), core_percent, resident_bytes: used.resident_bytes });
        }
    }
    Ok(idle)
}

/// `perf stat` on the entry of every system call of some processes, for as long as a job runs.
struct SyscallCounter(std::process::Child);

impl SyscallCounter {
    fn start(pids: &[u32], seconds: u64) -> Option<Self> {
        let list = pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        // Longer than the job, so that all of it is inside; nothing is asked of the system around it.
        let time = (seconds + 2).to_string();
        let mut command = Command::new("perf");
        command.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &list, "--", "sleep", &time]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        std::thread::sleep(Duration::from_millis(300));
        Some(Self(child))
    }

    fn finish(self) -> Option<f64> {
        let output = self.0.wait_with_output().ok()?;
        parse_perf(&String::from_utf8_lossy(&output.stderr))
    }
}

fn parse_perf(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?;
    line.split(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_says_a_number_or_that_it_cannot() {
        assert_eq!(parse_perf("1234,,raw_syscalls:sys_enter,100,100.00,,\n"), Some(1234.0));
        assert_eq!(parse_perf("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(parse_perf("event syntax error"), None);
    }

    #[test]
    fn every_counted_job_exists() {
        assert!(COUNTED.into_iter().all(|name| workload(name).is_some()));
    }
}
