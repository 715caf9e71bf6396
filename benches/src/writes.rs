//! What random writes cost one data server: rate and latency, and, counted, what reaches the device.
//!
//! A write goes to an *active* extent or makes it active first, with a durable record of its own
//! (docs/on-disk-format.md). At most [`ACTIVE_EXTENTS`] are active at once, so the jobs come in two
//! kinds: over a range that fits them, and over the whole volume, which must not.
//!
//! Invariant: counts are differences over a job alone; what precedes and follows it is told apart.
//! What this must not know: how the store decides any of it.

use crate::daemon::Daemon;
use crate::error::BenchError;
use crate::fio::{self, FioResult};
use crate::ours::{Shape, processes};
use crate::system::{Place, Target};
use crate::usage::Usage;
use crate::workload::{Access, Workload, warm_up};
use std::path::PathBuf;
use std::time::Duration;

/// Most extents of 1 MiB that a store keeps active (its `options::ACTIVE_MAX`; less with less memory).
pub const ACTIVE_EXTENTS: u64 = 4096;
/// The range that fits the active extents, with room to spare.
pub const WITHIN_BYTES: u64 = 3 << 30;
/// A server logs its counters twice a second; after this long its log has everything up to now, and
/// nothing has been sealed yet.
const COUNTERS_LAG: Duration = Duration::from_millis(600);
/// Extents are sealed a second after the last write; by now all are.
const REST: Duration = Duration::from_secs(4);

const SHAPE: Shape = Shape { name: "writes", servers: 1, device_bytes: 0, copies: 1, log: "info,counters=debug" };

/// One job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// Depth 32 over what fits.
    Within,
    /// Depth 32 over the whole volume.
    Whole,
    /// Depth 16 over what fits.
    Deep16,
    /// Depth 64 over what fits.
    Deep64,
    /// Depth 1 over what fits, all of it active.
    Single,
    /// Depth 1 over the first GiB, ten writes a second, all of it at rest before.
    Slow,
}

impl Job {
    /// All of them, in the order of a round: the pair whose ratio counts is adjacent.
    pub const ALL: [Self; 6] = [Self::Within, Self::Whole, Self::Deep16, Self::Deep64, Self::Single, Self::Slow];

    /// For people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Within => "depth 32, within the active extents",
            Self::Whole => "depth 32, whole volume",
            Self::Deep16 => "depth 16, within",
            Self::Deep64 => "depth 64, within",
            Self::Single => "depth 1, within, warm",
            Self::Slow => "depth 1, 10 a second, at rest before",
        }
    }

    const fn workload(self) -> Workload {
        let (depth, region_bytes) = match self {
            Self::Within => (32, Some(WITHIN_BYTES)),
            Self::Whole => (32, None),
            Self::Deep16 => (16, Some(WITHIN_BYTES)),
            Self::Deep64 => (64, Some(WITHIN_BYTES)),
            Self::Single => (1, Some(WITHIN_BYTES)),
            Self::Slow => (1, Some(1 << 30)),
        };
        let rate = match self {
            Self::Slow => Some(10),
            Self::Within | Self::Whole | Self::Deep16 | Self::Deep64 | Self::Single => None,
        };
        Workload {
            name: "random-write",
            title: self.title(),
            access: Access::RandomWrite,
            block_bytes: 4096,
            depth,
            flush_each: false,
            region_bytes,
            rate,
            warm: rate.is_none(),
        }
    }
}

/// What a store has done since it was opened, as its server logs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Data writes.
    pub data: u64,
    /// Blocks of the record log.
    pub log: u64,
    /// Pages of descriptors, index and superblocks.
    pub metadata: u64,
    /// Device flushes.
    pub flushes: u64,
    /// Activations, each in a durable log block that others share.
    pub activations: u64,
}

impl Counters {
    fn since(self, earlier: Self) -> Self {
        Self {
            data: self.data.saturating_sub(earlier.data),
            log: self.log.saturating_sub(earlier.log),
            metadata: self.metadata.saturating_sub(earlier.metadata),
            flushes: self.flushes.saturating_sub(earlier.flushes),
            activations: self.activations.saturating_sub(earlier.activations),
        }
    }

    /// The last that a log tells.
    fn parse(log: &str) -> Option<Self> {
        let line = log.lines().rev().find(|line| line.contains("device counters"))?;
        let number = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        Some(Self {
            data: number("data_writes")?,
            log: number("log_writes")?,
            metadata: number("metadata_writes")?,
            flushes: number("flushes")?,
            activations: number("activations")?,
        })
    }
}

/// One run of one job.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Which.
    pub job: Job,
    /// What fio saw.
    pub fio: FioResult,
    /// Bytes the server sent to the block layer while the job ran ÷ bytes the job wrote.
    pub amplification: f64,
    /// What the store did while it ran.
    pub counters: Counters,
}

impl Run {
    /// Something counted, per write.
    #[must_use]
    pub fn per_write(&self, count: u64) -> f64 {
        count as f64 / self.fio.requests
    }
}

/// One data server with one device, and a client, running.
#[derive(Debug)]
pub struct Bench {
    daemons: Vec<Daemon>,
    target: Target,
    size: u64,
    server_log: PathBuf,
}

impl Bench {
    /// Starts it and writes the volume once.
    ///
    /// # Errors
    /// When a program is missing, does not become ready, or the fill fails.
    pub fn start(place: &Place) -> Result<Self, BenchError> {
        let shape = Shape { device_bytes: place.size / 8 * 9 + (512 << 20), ..SHAPE };
        let (daemons, uri) = processes(place, &shape, None)?;
        let target = Target::Nbd(uri);
        fio::prefill(&target, place.size)?;
        Ok(Self { daemons, target, size: place.size, server_log: shape.server_log(place, 1) })
    }

    fn server(&self) -> Result<Usage, BenchError> {
        // In the order of `processes`: mdm, sds, sdc.
        Usage::of(&[self.daemons[1].pid()])
    }

    /// Resident bytes of `mdm`, `sds` and `sdc`.
    ///
    /// # Errors
    /// When one has ended.
    pub fn resident_bytes(&self) -> Result<Vec<u64>, BenchError> {
        self.daemons.iter().map(|daemon| Ok(Usage::of(&[daemon.pid()])?.resident_bytes)).collect()
    }

    fn counters(&self) -> Result<Counters, BenchError> {
        let log = std::fs::read_to_string(&self.server_log).map_err(BenchError::file("read", &self.server_log))?;
        Counters::parse(&log).ok_or_else(|| BenchError::parse("the server's log", "no line of counters"))
    }

    /// Runs a job; a warm one after a second of deep writes over the same range, any other after a rest.
    ///
    /// # Errors
    /// When fio or a daemon fails.
    pub fn run(&mut self, job: Job, seconds: u64) -> Result<Run, BenchError> {
        self.daemons.iter_mut().try_for_each(Daemon::check)?;
        let workload = job.workload();
        if workload.warm {
            fio::run(&self.target, &warm_up(&workload), self.size, 1)?;
            std::thread::sleep(COUNTERS_LAG);
        } else {
            std::thread::sleep(REST);
        }
        let counted = self.counters()?;
        let before = self.server()?;
        let fio = fio::run(&self.target, &workload, self.size, seconds)?;
        let used = self.server()?.since(before);
        std::thread::sleep(COUNTERS_LAG);
        let counters = self.counters()?.since(counted);
        Ok(Run { job, fio, amplification: used.written_bytes as f64 / (fio.requests * 4096.0), counters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counters_of_a_log_are_read() {
        let line = |data: u64| {
            format!(
                "2026-01-01T00:00:00Z DEBUG device counters node=\"sds1\" slot=0 data_writes={data} log_writes=3 metadata_writes=4 \
                 flushes=5 activations=6 active_extents=7\n"
            )
        };
        let expected = Counters { data: 9, log: 3, metadata: 4, flushes: 5, activations: 6 };
        assert_eq!(Counters::parse(&format!("{}other\n{}INFO stopped\n", line(1), line(9))), Some(expected));
        assert_eq!(Counters::parse("INFO nothing\n"), None);
    }
}
