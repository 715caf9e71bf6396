//! What processes have used so far, as `/proc` says.
//!
//! Invariant: only differences of two readings of the same processes mean anything, except resident memory.

use crate::error::BenchError;
use std::path::PathBuf;

/// Resources of one or several processes since they started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system time, in microseconds.
    pub cpu_us: f64,
    /// Page faults served without a disk.
    pub minor_faults: u64,
    /// Bytes that reached the block layer on behalf of the processes.
    pub written_bytes: u64,
    /// Memory resident now, in bytes.
    pub resident_bytes: u64,
}

impl Usage {
    /// Sum over processes.
    ///
    /// # Errors
    /// When one of them has ended or `/proc` says something unexpected.
    pub fn of(pids: &[u32]) -> Result<Self, BenchError> {
        let mut sum = Self::default();
        for pid in pids {
            let (cpu_us, minor_faults) = stat(&read(*pid, "stat")?)?;
            sum.cpu_us += cpu_us;
            sum.minor_faults += minor_faults;
            sum.written_bytes += field(&read(*pid, "io")?, "write_bytes:")?;
            sum.resident_bytes += field(&read(*pid, "status")?, "VmRSS:")? * 1024;
        }
        Ok(sum)
    }

    /// What was used since `earlier`; memory is as it is now.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_us: self.cpu_us - earlier.cpu_us,
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

fn read(pid: u32, name: &str) -> Result<String, BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/{name}"));
    std::fs::read_to_string(&path).map_err(BenchError::file("read", path))
}

/// CPU time in microseconds and minor faults from `/proc/PID/stat` (proc_pid_stat(5): fields 10, 14, 15).
fn stat(text: &str) -> Result<(f64, u64), BenchError> {
    // The command name is in parentheses and may hold anything, so count from the last one.
    let rest = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let number = |field: usize| {
        let value = rest.split(' ').nth(field - 3).and_then(|value| value.parse::<u64>().ok());
        value.ok_or_else(|| BenchError::parse("/proc/PID/stat", format!("field {field} of {text:?}")))
    };
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok(((number(14)? + number(15)?) as f64 * 1e6 / ticks_per_second, number(10)?))
}

fn field(text: &str, name: &str) -> Result<u64, BenchError> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next()).and_then(|value| value.parse().ok());
    value.ok_or_else(|| BenchError::parse("/proc", format!("no {name} in {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_command_name_with_parentheses() {
        let text = "42 (a) (b) c) S 1 2 3 4 5 6 700 8 9 10 11 12 0 0 20 0 1 0 100 0 0\n";
        let (cpu_us, faults) = stat(text).expect("well-formed");
        assert_eq!(faults, 700);
        assert!((cpu_us - 23.0 * 1e6 / rustix::param::clock_ticks_per_second() as f64).abs() < 1.0);
    }

    #[test]
    fn own_process_has_memory_and_used_cpu_grows() {
        let pid = [std::process::id()];
        let before = Usage::of(&pid).expect("own process");
        let mut sum = 0_u64;
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 50 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = Usage::of(&pid).expect("own process").since(before);
        assert!(used.resident_bytes > 0);
        assert!(used.cpu_us > 0.0 && sum > 0);
    }

    #[test]
    fn an_ended_process_is_an_error() {
        assert!(Usage::of(&[u32::MAX]).is_err());
    }
}
