//! The machine itself: its CPU time as `/proc/stat` says (stolen time among it), its description, and
//! the idle-class spinners that keep its CPUs awake while latency at depth 1 is measured.

use crate::error::BenchError;
use std::process::{Child, Command, Stdio};

/// CPU time of the whole machine since boot, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MachineTime {
    /// Spent running anything (user, nice, system, interrupts).
    pub busy_us: f64,
    /// Taken by the hypervisor for others.
    pub stolen_us: f64,
    /// Everything, idle time included.
    pub total_us: f64,
}

impl MachineTime {
    /// Now.
    ///
    /// # Errors
    /// When `/proc/stat` cannot be read.
    pub fn now() -> Result<Self, BenchError> {
        let text = std::fs::read_to_string("/proc/stat").map_err(BenchError::file("read", "/proc/stat"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, BenchError> {
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let ticks: Vec<f64> = line.unwrap_or_default().split_whitespace().filter_map(|value| value.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guest time is inside user.
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = ticks[..] else {
            return Err(BenchError::parse("/proc/stat", format!("{text:?}")));
        };
        let tick_us = 1e6 / rustix::param::clock_ticks_per_second() as f64;
        let busy = user + nice + system + irq + softirq;
        Ok(Self { busy_us: busy * tick_us, stolen_us: steal * tick_us, total_us: (busy + idle + iowait + steal) * tick_us })
    }

    /// What passed since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            busy_us: self.busy_us - earlier.busy_us,
            stolen_us: self.stolen_us - earlier.stolen_us,
            total_us: self.total_us - earlier.total_us,
        }
    }

    /// Share of time that was stolen, 0 to 1.
    #[must_use]
    pub fn stolen_share(self) -> f64 {
        if self.total_us > 0.0 { self.stolen_us / self.total_us } else { 0.0 }
    }
}

/// One idle-class busy loop on each CPU, so that no CPU sleeps so deep that waking it dominates what is
/// measured. They run only when nothing else wants the CPU, and end with this value (or by themselves).
#[derive(Debug)]
pub struct Spinners(Vec<Child>);

impl Spinners {
    /// Starts them; `seconds` bounds their life should this process die.
    ///
    /// # Errors
    /// When `chrt` and `taskset` (util-linux) cannot be started.
    pub fn start(seconds: u64) -> Result<Self, BenchError> {
        let mut spinners = Self(Vec::new());
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        for cpu in 0..cpus {
            let child = Command::new("timeout")
                .args([&seconds.to_string(), "chrt", "-i", "0", "taskset", "-c", &cpu.to_string(), "sh", "-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .map_err(|cause| BenchError::Start { program: "timeout chrt taskset".into(), cause })?;
            spinners.0.push(child);
        }
        Ok(spinners)
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // `timeout` passes the signal on to the loop; a kill would leave the loop running.
            crate::daemon::terminate(child.id());
            let _reaped = child.wait();
        }
    }
}

/// A line about the machine for the head of a report.
#[must_use]
pub fn description() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let after_colon = |line: &str| line.split_once(':').map(|(_, value)| value.trim().to_owned());
    let model = cpu_info.lines().find(|line| line.starts_with("model name")).and_then(after_colon).unwrap_or_else(|| "unknown CPU".into());
    let cpus = cpu_info.lines().filter(|line| line.starts_with("processor")).count();
    let memory_kib: u64 = read("/proc/meminfo")
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(1))
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cpus} × {model}, {} GiB, Linux {}", memory_kib.div_ceil(1 << 20), kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_everything() {
        let before = MachineTime::parse("cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1 1 1\n").expect("well-formed");
        let after = MachineTime::parse("cpu  150 0 120 1010 5 3 2 10 0 0\n").expect("well-formed");
        let passed = after.since(before);
        assert!((passed.stolen_share() - 0.1).abs() < 1e-9, "10 of 100 ticks: {passed:?}");
        assert!((passed.busy_us / passed.total_us - 0.75).abs() < 1e-9);
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(MachineTime::parse("cpu  1 2 3").is_err());
        assert!(MachineTime::parse("").is_err());
    }
}
