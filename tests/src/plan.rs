//! One seed's run, drawn before it starts: who is there, what is asked, what goes wrong and how often.
//!
//! Every seed enables its own subset of troubles (Groce et al., "Swarm testing", 2012): rare
//! combinations are reached sooner than by enabling everything always.
//!
//! Invariants: with one copy of each block a fault that destroys data destroys only bytes that the checker
//! is told of; with two copies a good one is always left, as far as [`REPLICATION`] says that it can be
//! told from the other; everything else must be survived by every run.

use crate::buffers::Budgets;
use crate::disk::Profile;
use crate::prng::Prng;
use crate::workload::{Mix, VolumeSpec};
use sds_core::map::Copies;
use sds_core::unit::Nanos;

/// Which roles share a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each its own process on its own host.
    Apart,
    /// All servers and the first client in one process (`sdsctl up`).
    Embedded,
    /// Client *i* in the process of server *i*.
    HyperConverged,
}

/// What data servers can do about a shard that has lost a copy; each step includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Replication {
    /// Nothing: data servers are not restarted.
    Whole,
    /// The other copy goes on; the lost one stays out.
    Degrades,
    /// A lost copy comes back in sync.
    Returns,
    /// Both copies may restart, or lose power, at the same time.
    Settles,
}

/// What drawn runs of two copies ask for. **Raised by one line when the data servers can do more.**
pub const REPLICATION: Replication = Replication::Settles;

/// Clients keep account of what is not flushed by shard, so that a flush goes to who has the shard now, and asks what both
/// copies have kept. **Not yet:** they do so by device.
pub const FLUSHES_FOLLOW_SHARDS: bool = true;

/// A copy that fell out of a shard without its server having restarted comes back by itself. **Not yet:** it does when its server
/// registers again, so the end of a run makes all of them register.
pub const LIVE_COPIES_REJOIN: bool = true;

/// Mean nanoseconds between two troubles of a kind; `None`: never in this run.
pub type Every = Option<u64>;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// A process is killed and started again.
    pub crash: Every,
    /// A host, or every host, loses power.
    pub power_cut: Every,
    /// A link breaks.
    pub link_loss: Every,
    /// A process does nothing for a while.
    pub pause: Every,
    /// The MDM is away for a while.
    pub mdm_loss: Every,
    /// A control connection breaks.
    pub control_loss: Every,
    /// A server is stopped cleanly and started again.
    pub clean_restart: Every,
    /// A device is slow for a while.
    pub slow_disk: Every,
    /// A device answers nothing for longer than is waited for it.
    pub hung_disk: Every,
    /// A device whose host lost power is found as it was a while before.
    pub old_disk: Every,
    /// A byte of a data block at rest changes.
    pub flip: Every,
    /// A data write is acknowledged and not done.
    pub lost_write: Every,
    /// A data write goes to another data block.
    pub misdirected_write: Every,
    /// A data block at rest cannot be read.
    pub latent_error: Every,
    /// A write or flush fails: the device's life is over until its process is started again.
    pub write_error: Every,
    /// A user gives its volume back and opens it again.
    pub reopen: Every,
    /// A frame's payload is damaged under way.
    pub damaged_payload: Every,
    /// Nothing gets from one process to another, or to or from the MDM, for a while; one way or both.
    pub cut: Every,
    /// Who proposes a change of shards next, or whom it is about, is cut off, paused or killed at that moment.
    pub ambush: Every,
    /// A secondary wakes up and takes its primary for silent, which cannot hear of what comes of it.
    pub false_silence: Every,
    /// A server is asked to give shards to their secondaries, however things stand.
    pub hand_over: Every,
    /// A read fails, ends early or brings a wrong bit, and is right when it is done again.
    pub transient_read: Every,
    /// One of a device's superblocks is damaged.
    pub damaged_superblock: Every,
    /// A volume is deleted and made anew.
    pub deletion: Every,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many copies of each block there are.
    pub copies: Copies,
    /// What is asked of two copies.
    pub replication: Replication,
    /// Number of data servers.
    pub servers: usize,
    /// Fault set of each.
    pub fault_sets: Vec<usize>,
    /// Number of clients.
    pub clients: usize,
    /// Devices of each server.
    pub devices: usize,
    /// Who shares a process.
    pub layout: Layout,
    /// Extents of each device.
    pub extents: u32,
    /// Blocks of each device's record log.
    pub log_blocks: u32,
    /// Kind of device.
    pub profile: Profile,
    /// Shards of the pool.
    pub shards: u32,
    /// Volumes.
    pub volumes: Vec<VolumeSpec>,
    /// Which volume each client works on.
    pub works_on: Vec<usize>,
    /// Whether each client only reads.
    pub read_only: Vec<bool>,
    /// What is asked.
    pub mix: Mix,
    /// Most requests a user has outstanding.
    pub depth: usize,
    /// Memory of each process.
    pub budgets: Budgets,
    /// How long troubles last; after it everything heals.
    pub duration: Nanos,
    /// Requests after which a user only waits for the end.
    pub requests_per_client: u64,
    /// Mean one-way delay between processes.
    pub network_ns: u64,
    /// By how much clocks of hosts and the MDM's are fast or slow at most, in thousandths; at most [`DRIFT_MAX`].
    pub drift: u64,
    /// What goes wrong.
    pub troubles: Troubles,
    /// Whether devices may be too small for what is written.
    pub may_be_full: bool,
    /// How long a log block may wait for company.
    pub group_commit_wait: Nanos,
    /// How long after its last write an extent is sealed.
    pub seal_after: Nanos,
    /// Memory for descriptor pages.
    pub descriptor_cache_bytes: usize,
}

/// What reads with a lease bear: of two clocks one may run half as fast again as the other (the grace is that much longer than the
/// lease), and 1.15 is less than 1.5 times 0.85.
pub const DRIFT_MAX: u64 = 150;

const SECOND: u64 = 1_000_000_000;
/// Names the stream from which troubles are drawn that came later.
const LATER_KINDS: u64 = 0x1a7e;

impl Plan {
    /// Draws the run of a seed.
    #[must_use]
    pub fn draw(chance: &mut Prng) -> Self {
        let servers = usize::try_from(if chance.chance(1, 4) { chance.within(1..3) } else { chance.within(3..9) }).expect("small");
        let clients = usize::try_from(chance.within(1..5)).expect("small");
        let devices = if chance.chance(1, 4) { 2 } else { 1 };
        let layout = *chance.pick(&[Layout::Apart, Layout::Apart, Layout::Embedded, Layout::HyperConverged]);
        let volumes: Vec<VolumeSpec> =
            (0..chance.within(1..3)).map(|number| VolumeSpec::draw(format!("volume-{number}"), chance)).collect();
        let works_on = (0..clients).map(|_| chance.index(volumes.len())).collect();
        let may_be_full = chance.chance(1, 6);
        let profile = Profile {
            read_ns: chance.within(20_000..200_000),
            write_ns: chance.within(20_000..300_000),
            flush_ns: chance.within(50_000..3_000_000),
            volatile_cache: !chance.chance(1, 6),
        };
        let frames = chance.within(16..128);
        Self {
            copies: Copies::One,
            replication: REPLICATION,
            servers,
            fault_sets: (0..servers).collect(),
            clients,
            devices,
            layout,
            extents: u32::try_from(if may_be_full { chance.within(2..10) } else { chance.within(80..160) }).expect("small"),
            log_blocks: u32::try_from(*chance.pick(&[32, 40, 64, 256])).expect("small"),
            profile,
            shards: u32::try_from(*chance.pick(&[1, 4, 16, 64])).expect("small"),
            volumes,
            works_on,
            read_only: (0..clients).map(|client| client > 0 && chance.chance(1, 4)).collect(),
            mix: Mix::draw(chance),
            depth: usize::try_from(*chance.pick(&[1, 2, 8, 32])).expect("small"),
            budgets: Budgets { client: frames << 17, replicate: frames << 17, internal: 24 << 20 },
            duration: Nanos::new(chance.within(60 * SECOND..75 * SECOND)),
            requests_per_client: chance.within(1_000..6_000) / clients as u64 + 200,
            network_ns: *chance.pick(&[5_000, 50_000, 500_000]),
            drift: *chance.pick(&[0, 1, DRIFT_MAX]),
            troubles: Troubles::draw(chance),
            may_be_full,
            group_commit_wait: Nanos::from_micros(300),
            seal_after: Nanos::from_millis(1_000),
            descriptor_cache_bytes: *chance.pick(&[0, 1024 * 4096]),
        }
    }

    /// Makes it a run of two copies.
    #[must_use]
    pub fn with_two_copies(mut self, chance: &mut Prng) -> Self {
        self.copies = Copies::Two;
        self.servers = self.servers.max(2);
        // A device that fails a write and a loss of the other copy are two faults at once: each run has one kind.
        if chance.chance(1, 2) {
            self.replication = self.replication.min(Replication::Returns);
        } else if self.replication == Replication::Settles {
            self.troubles.write_error = None;
        }
        let sets = usize::try_from(chance.within(2..self.servers as u64 + 1)).expect("small");
        self.fault_sets = (0..self.servers).map(|server| server % sets).collect();
        if self.layout == Layout::Embedded && self.replication < Replication::Settles {
            self.layout = Layout::HyperConverged;
        }
        let troubles = &mut self.troubles;
        let restarts = self.replication >= Replication::Degrades;
        for trouble in [&mut troubles.power_cut, &mut troubles.clean_restart, &mut troubles.write_error] {
            *trouble = trouble.filter(|_| restarts);
        }
        self
    }

    /// A quiet run for named scenarios of two copies: as [`Plan::quiet`], with two servers.
    #[must_use]
    pub fn quiet_pair() -> Self {
        Self { copies: Copies::Two, servers: 2, fault_sets: vec![0, 1], ..Self::quiet() }
    }

    /// A quiet run for named scenarios: one server, one client, one volume of 3 MiB, no trouble.
    #[must_use]
    pub fn quiet() -> Self {
        let volume =
            VolumeSpec { name: "volume-0".into(), size: 3 << 20, stripe_unit: 128 << 10, stripe_width: 2, spots: vec![(0, 64 << 10)] };
        Self {
            copies: Copies::One,
            replication: REPLICATION,
            servers: 1,
            fault_sets: (0..8).collect(),
            clients: 1,
            devices: 1,
            layout: Layout::Apart,
            extents: 16,
            log_blocks: 64,
            profile: Profile { read_ns: 100_000, write_ns: 100_000, flush_ns: 1_000_000, volatile_cache: true },
            shards: 4,
            volumes: vec![volume],
            works_on: vec![0],
            read_only: vec![false],
            mix: Mix { read: 40, write: 40, zero: 5, trim: 5, flush: 5, status: 5, durable_per_mille: 50, aligned_per_mille: 700 },
            depth: 8,
            budgets: Budgets { client: 8 << 20, replicate: 8 << 20, internal: 24 << 20 },
            duration: Nanos::new(10 * SECOND),
            requests_per_client: 500,
            network_ns: 50_000,
            drift: 0,
            troubles: Troubles::default(),
            may_be_full: false,
            group_commit_wait: Nanos::from_micros(300),
            seal_after: Nanos::from_millis(1_000),
            descriptor_cache_bytes: 256 * 4096,
        }
    }
}

impl Troubles {
    fn draw(chance: &mut Prng) -> Self {
        // Kinds that came later have a stream of their own, so that a seed keeps what else it draws.
        let mut later = chance.clone().fork(LATER_KINDS);
        let mut later = |likely: u64, from: u64, to: u64| later.chance(likely, 100).then(|| later.within(from * SECOND..to * SECOND));
        let mut every = |likely: u64, from: u64, to: u64| chance.chance(likely, 100).then(|| chance.within(from * SECOND..to * SECOND));
        Self {
            crash: every(60, 2, 15),
            power_cut: every(45, 4, 25),
            link_loss: every(50, 1, 10),
            pause: every(30, 3, 20),
            mdm_loss: every(25, 10, 30),
            control_loss: every(30, 5, 20),
            clean_restart: every(20, 10, 30),
            slow_disk: every(25, 5, 20),
            hung_disk: every(15, 15, 40),
            old_disk: every(30, 6, 15),
            flip: every(15, 5, 20),
            lost_write: every(15, 5, 20),
            misdirected_write: every(10, 5, 20),
            latent_error: every(10, 5, 20),
            write_error: every(10, 15, 40),
            reopen: every(40, 4, 20),
            damaged_payload: every(15, 2, 10),
            cut: every(30, 3, 20),
            ambush: every(35, 1, 6),
            false_silence: every(15, 6, 20),
            hand_over: every(40, 1, 6),
            transient_read: later(15, 1, 6),
            damaged_superblock: later(15, 5, 30),
            deletion: later(20, 8, 30),
        }
    }
}
