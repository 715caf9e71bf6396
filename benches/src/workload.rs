//! The jobs: what is read and written, how deep, and how it is named in tables.

/// Direction and order of accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Random reads.
    RandomRead,
    /// Random writes.
    RandomWrite,
    /// 70 % random reads, 30 % random writes.
    RandomMixed,
    /// Reads from start to end.
    SequentialRead,
    /// Writes from start to end.
    SequentialWrite,
}

/// One job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// What it does.
    pub access: Access,
    /// Bytes per request.
    pub block_bytes: u32,
    /// Requests outstanding.
    pub depth: u32,
    /// Whether each write is followed by a flush.
    pub flush_each: bool,
    /// Only this much of the volume, if less than all.
    pub region_bytes: Option<u64>,
    /// At most this many requests a second.
    pub rate: Option<u32>,
    /// Whether a second of deep random writes over the same bytes comes right before, so that what is
    /// measured is steady state: where writes go, extents are active already.
    pub warm: bool,
}

impl Workload {
    /// Whether it writes.
    #[must_use]
    pub const fn writes(&self) -> bool {
        match self.access {
            Access::RandomRead | Access::SequentialRead => false,
            Access::RandomWrite | Access::RandomMixed | Access::SequentialWrite => true,
        }
    }

    /// Whether it does nothing but write, so that write amplification has a meaning.
    #[must_use]
    pub const fn only_writes(&self) -> bool {
        match self.access {
            Access::RandomWrite | Access::SequentialWrite => true,
            Access::RandomRead | Access::RandomMixed | Access::SequentialRead => false,
        }
    }

    /// Latency at depth 1 is mostly how deep the CPUs sleep: keep them awake.
    #[must_use]
    pub const fn wants_spinners(&self) -> bool {
        self.depth == 1
    }

    /// Bandwidth and not operations is what such a job is about.
    #[must_use]
    pub const fn is_bandwidth(&self) -> bool {
        self.block_bytes >= 128 * 1024
    }

    /// fio's name for the access.
    #[must_use]
    pub const fn fio_rw(&self) -> &'static str {
        match self.access {
            Access::RandomRead => "randread",
            Access::RandomWrite => "randwrite",
            Access::RandomMixed => "randrw",
            Access::SequentialRead => "read",
            Access::SequentialWrite => "write",
        }
    }
}

const KIB4: u32 = 4 << 10;
const KIB128: u32 = 128 << 10;
const MIB1: u32 = 1 << 20;

const fn job(name: &'static str, title: &'static str, access: Access, block_bytes: u32, depth: u32) -> Workload {
    Workload { name, title, access, block_bytes, depth, flush_each: false, region_bytes: None, rate: None, warm: false }
}

const fn warm(job: Workload) -> Workload {
    Workload { warm: true, ..job }
}

/// What comes before a warm job.
#[must_use]
pub const fn warm_up(of: &Workload) -> Workload {
    Workload { region_bytes: of.region_bytes, ..job("warm-up", "warm-up", Access::RandomWrite, KIB4, 32) }
}

/// Every job, in the order of the tables.
pub const WORKLOADS: [Workload; 14] = [
    job("read-4k-qd1", "4 KiB random read, depth 1", Access::RandomRead, KIB4, 1),
    warm(job("write-4k-qd1", "4 KiB random write, depth 1", Access::RandomWrite, KIB4, 1)),
    job("write-4k-qd1-cold", "4 KiB random write, depth 1, after a pause", Access::RandomWrite, KIB4, 1),
    Workload { flush_each: true, ..warm(job("write-flush-4k-qd1", "4 KiB random write + flush, depth 1", Access::RandomWrite, KIB4, 1)) },
    job("read-4k-qd32", "4 KiB random read, depth 32", Access::RandomRead, KIB4, 32),
    warm(job("write-4k-qd32", "4 KiB random write, depth 32", Access::RandomWrite, KIB4, 32)),
    Workload {
        region_bytes: Some(64 << 20),
        ..warm(job("write-4k-qd32-near", "4 KiB random write within 64 MiB, depth 32", Access::RandomWrite, KIB4, 32))
    },
    warm(job("write-4k-qd96", "4 KiB random write, depth 96", Access::RandomWrite, KIB4, 96)),
    warm(job("mixed-4k-qd32", "4 KiB random 70 % read 30 % write, depth 32", Access::RandomMixed, KIB4, 32)),
    job("read-128k-qd8", "128 KiB sequential read, depth 8", Access::SequentialRead, KIB128, 8),
    job("write-128k-qd8", "128 KiB sequential write, depth 8", Access::SequentialWrite, KIB128, 8),
    job("read-1m-qd8", "1 MiB sequential read, depth 8", Access::SequentialRead, MIB1, 8),
    job("write-1m-qd8", "1 MiB sequential write, depth 8", Access::SequentialWrite, MIB1, 8),
    job("write-1m-qd1", "1 MiB sequential write, depth 1", Access::SequentialWrite, MIB1, 1),
];

/// The job of that name.
#[must_use]
pub fn workload(name: &str) -> Option<Workload> {
    WORKLOADS.into_iter().find(|workload| workload.name == name)
}
