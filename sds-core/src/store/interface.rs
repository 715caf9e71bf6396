//! What the store is asked, what it answers, what it wants done. Shared by the store, the replica
//! that drives it, and the simulator.

use crate::buffer::Span;
use crate::checksum::{Checksum, ChecksumList};
use crate::collections::OpId;
use crate::control::{Capacity, FaultCounts};
use crate::id::{BootId, DeviceUuid, ExtentIndex, LayerId, LogSequence, ShardSequence, SystemId, TreeId, Version};
use crate::machine::{DiskResult, Token};
use crate::unit::{BLOCKS_PER_EXTENT, BlockIndex, ByteCount, ByteOffset, Nanos};

/// Whose extent it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtentKey {
    /// Volume tree.
    pub tree: TreeId,
    /// Extent of the tree.
    pub extent: ExtentIndex,
    /// Snapshot layer, 0 for now.
    pub layer: LayerId,
}

/// Whole blocks of one extent: `first .. first + count`, `count` from 1 to 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// First block.
    pub first: BlockIndex,
    /// How many.
    pub count: u16,
}

impl BlockRange {
    /// All blocks of an extent.
    #[expect(clippy::cast_possible_truncation, reason = "256")]
    pub const WHOLE: Self = Self { first: BlockIndex::ZERO, count: BLOCKS_PER_EXTENT as u16 };
}

/// What a store can be told about its device and policy when it is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Bytes of the device.
    pub device_bytes: ByteCount,
    /// System the device must belong to; nil accepts any (and reports it).
    pub system: SystemId,
    /// The host's boot: equal to the one in the superblock means no power was lost since.
    pub boot: BootId,
    /// Whether the device may lose acknowledged writes on a power cut.
    pub volatile_cache: bool,
    /// Memory for descriptor pages, in bytes. At least 32 pages.
    pub descriptor_cache_bytes: usize,
    /// Most requests the store holds at once.
    pub requests_max: usize,
    /// How long a log block may wait for company.
    pub group_commit_wait: Nanos,
    /// How long after its last write an extent on a quiet device is sealed.
    pub seal_after: Nanos,
}

/// A request to the store. The caller keeps overlapping requests apart (one uncompleted overwrite per
/// block; a read never overlaps a write in flight) and keeps its use of every buffer until the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Whole blocks. `checksums` are of the span's blocks, already verified by the caller.
    Write {
        /// Whose.
        key: ExtentKey,
        /// Where.
        range: BlockRange,
        /// The bytes.
        span: Span,
        /// Of each block.
        checksums: ChecksumList,
        /// Version of all of them.
        version: Version,
        /// Data and record durable before the reply.
        durable: bool,
        /// What it is to the other copy.
        bond: Bond,
    },
    /// Whole blocks become zero; an extent without any other block is freed if `free`.
    Zero {
        /// Whose.
        key: ExtentKey,
        /// Where.
        range: BlockRange,
        /// Version of all of them.
        version: Version,
        /// Space may be given back.
        free: bool,
        /// Record durable before the reply.
        durable: bool,
        /// What it is to the other copy.
        bond: Bond,
    },
    /// Whole blocks into `span`, each verified; unwritten and zero blocks are filled with zeroes.
    Read {
        /// Whose.
        key: ExtentKey,
        /// Where.
        range: BlockRange,
        /// Room for them.
        span: Span,
    },
    /// Everything replied to before this request was made is durable after the reply.
    Flush,
    /// Which blocks of the range hold data.
    Status {
        /// Whose.
        key: ExtentKey,
        /// Where.
        range: BlockRange,
    },
    /// Free every extent of a tree (its volume was deleted). Replies when the records are written.
    FreeTree {
        /// Whose.
        tree: TreeId,
    },
    /// Free one extent, whatever it holds: the copy that counts does not have it. Replies when the record is written;
    /// it is durable after the next flush. Done at once if there is no such extent.
    FreeExtent {
        /// Whose.
        key: ExtentKey,
    },
    /// Which extents the device holds, in the order of its slots, into `span` ([`crate::exchange::ExtentEntry`]). An
    /// extent held from the first of these requests to the last is named once; one freed or allocated meanwhile may be missed.
    Extents {
        /// Slot to go on at: 0, then `next` of the last answer.
        from: u32,
        /// Room for at least one entry.
        span: Span,
    },
    /// Every block of one extent into `span` ([`crate::exchange::BlockEntry`]), as written so far.
    Blocks {
        /// Whose.
        key: ExtentKey,
        /// Room for [`crate::exchange::BLOCKS_BYTES`].
        span: Span,
    },
    /// Reserve sequences: nothing at or above `ceiling` has been used; durable before the reply.
    ReserveSequence {
        /// The new ceiling.
        ceiling: ShardSequence,
    },
    /// Blocks of one extent into `span` as they are on the medium, not compared with what is recorded; the reply has
    /// their checksums. For an extent that is not settled: what the other copy takes from here.
    Medium {
        /// Whose.
        key: ExtentKey,
        /// Where.
        range: BlockRange,
        /// Room for them.
        span: Span,
    },
    /// What every block of an extent that either copy holds unsettled is from now on ([`crate::exchange::PlanEntry`]). Durable
    /// before the reply, all of it or nothing. Done at once if the store does not have the extent, unless blocks of it are lost:
    /// then it is given a place to say so. Blocks that take the other copy's bytes have been written before ([`Bond::Settling`]).
    Settle {
        /// Whose.
        key: ExtentKey,
        /// A [`crate::exchange::PLAN_BYTES`] plan.
        span: Span,
    },
    /// After recovery, when no other copy exists: settle every unsettled extent from what is here.
    SettleAlone,
    /// After recovery, when another copy exists: open, and refuse reads and writes of each unsettled extent
    /// until it has been settled by itself. They stay unsettled through any crash and clean stop before that.
    SettleLater,
    /// Flush, seal, checkpoint and take no more requests.
    Close,
}

/// What a write is to the other copy of its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Bond {
    /// There is no other copy, or it has the write already: the extent may be sealed.
    #[default]
    None,
    /// The write is on its way to the other copy: the extent is not sealed before [`Input::Resolved`] has named this
    /// version or a later one, or the store closes.
    Held,
    /// Bytes of the other copy for an extent that is not settled, or lacks them: it is not sealed, and is in question, until its plan is
    /// durable.
    Settling,
}

/// State of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlockState {
    /// Never written in this extent.
    Unwritten = 0,
    /// Reads zero.
    Zero = 1,
    /// Has data.
    Data = 2,
}

/// A set of the 256 blocks of an extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockSet(pub [u64; 4]);

impl BlockSet {
    /// Adds a block.
    pub fn insert(&mut self, block: u8) {
        self.0[usize::from(block >> 6)] |= 1 << (block & 63);
    }

    /// Whether a block is in it.
    #[must_use]
    pub const fn contains(&self, block: u8) -> bool {
        self.0[(block >> 6) as usize] & (1 << (block & 63)) != 0
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// How many blocks are in it.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// What a request came to, when it came to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A write, zero, flush, free, reservation, settling or closing is done.
    Done,
    /// A read: checksum of each block, in order. `all_zero`: no block of the range holds data (then
    /// the span was filled with zeroes all the same).
    Read {
        /// Of each block as delivered.
        checksums: ChecksumList,
        /// No block holds data.
        all_zero: bool,
    },
    /// Blocks (numbered in the extent) of the range that hold data.
    Status {
        /// The set.
        data: BlockSet,
    },
    /// The span holds this many entries.
    Extents {
        /// Perhaps none, though there are more.
        count: u32,
        /// Slot to go on at; `None` after the last.
        next: Option<u32>,
    },
    /// The span holds an entry a block.
    Blocks {
        /// Whether the store has the extent; if not, every block is unwritten.
        held: bool,
    },
}

/// Why a request failed. Nothing was changed unless it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No free extent.
    #[error("no free extent on the device")]
    NoSpace,
    /// The bytes of a block are not what was written and cannot be had from elsewhere.
    #[error("block {block} does not match its checksum (stored {expected:?}, read {found:?})")]
    Mismatch {
        /// In the extent.
        block: u8,
        /// Recorded.
        expected: Checksum,
        /// Of the bytes.
        found: Checksum,
    },
    /// The extent's descriptor page is not the one the index names: its blocks cannot be judged.
    #[error("descriptor page of the extent is damaged or lost")]
    Descriptor,
    /// The device failed this request (and, for a write or flush, its life in this process is over).
    #[error("device error {errno}")]
    Device {
        /// Linux error number, 0 for a short completion.
        errno: i32,
    },
    /// The extent must be settled with the other copy first.
    #[error("the extent is not settled with the other copy yet")]
    Unsettled,
    /// The bytes of a plan are none.
    #[error("the plan for settling the extent cannot be read")]
    Plan,
    /// The store is not open, or closing.
    #[error("the store is not open")]
    NotOpen,
    /// More requests than it was opened for: try again after a reply.
    #[error("the store has as many requests as it takes")]
    Busy,
}

/// Why a device cannot be opened. Its text tells the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenFault {
    /// Nothing of ours on it.
    #[error("the device holds no store; format it first")]
    Blank,
    /// A store of another system.
    #[error("the device belongs to system {found}, this is system {expected}; use another device or format it by force")]
    OtherSystem {
        /// On the device.
        found: SystemId,
        /// Ours.
        expected: SystemId,
    },
    /// Fewer than two superblock copies agree.
    #[error("fewer than two of the four superblock copies are valid; the device was overwritten or is failing")]
    Superblock,
    /// A format newer than this program.
    #[error("the device has format features {features:#x} that this version does not know; use a newer version")]
    Newer {
        /// The unknown incompatible bits.
        features: u64,
    },
    /// The device is smaller than its superblock says.
    #[error("the device has {found} bytes but its store needs {expected}; was it truncated?")]
    Truncated {
        /// Now.
        found: ByteCount,
        /// When formatted.
        expected: ByteCount,
    },
    /// A log block at or below a flushed position is missing.
    #[error(
        "record log block {sequence} is damaged or missing though it was flushed (position {flushed}); the device's records cannot be trusted"
    )]
    Log {
        /// Which block.
        sequence: u64,
        /// The flushed position that a later block states.
        flushed: u64,
    },
    /// An index page is damaged or from another checkpoint.
    #[error("extent index page {page} is damaged or not of checkpoint {checkpoint}")]
    Index {
        /// Which page.
        page: u32,
        /// The checkpoint the superblock names.
        checkpoint: u64,
    },
    /// The device failed while it was read.
    #[error("device error {errno} at byte {offset} while opening")]
    Device {
        /// Linux error number, 0 for a short completion.
        errno: i32,
        /// Where.
        offset: ByteOffset,
    },
}

/// What recovery found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The device.
    pub device: DeviceUuid,
    /// Its system.
    pub system: SystemId,
    /// No sequence at or above this has been used.
    pub sequence_ceiling: ShardSequence,
    /// Extents that must be settled (with the other copy, or alone) before they are served.
    pub unsettled: u32,
    /// Whether power was lost since it was last open (its boot id differs and its cache is volatile).
    pub power_lost: bool,
}

/// What a store reports besides replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Recovery goes on; from 0 to 1000.
    Opening {
        /// Thousandths.
        done_per_mille: u16,
    },
    /// Recovery is done. If `unsettled` is not zero, only `SettleAlone` or `SettleLater` is accepted next.
    Opened(Opened),
    /// The device cannot be opened; the store does nothing more.
    OpenFailed(OpenFault),
    /// A data block was not what was written.
    DataMismatch {
        /// Whose.
        key: ExtentKey,
        /// Which block of the extent.
        block: u8,
    },
    /// A descriptor page was not the one the index names.
    DescriptorMismatch {
        /// Whose.
        key: ExtentKey,
    },
    /// Settling alone kept bytes that match no record.
    UnsettledKept {
        /// Whose.
        key: ExtentKey,
        /// Which block.
        block: u8,
    },
    /// Settling alone took a block's first write, which is recorded, for one whose data never landed: usual after a
    /// power cut. Were the bytes damaged instead, one copy could not tell.
    UnsettledDismissed {
        /// Whose.
        key: ExtentKey,
        /// Which block.
        block: u8,
    },
    /// A write or flush failed: the device's life in this process is over; everything is refused.
    DeviceFailed {
        /// Linux error number, 0 for a short completion.
        errno: i32,
    },
    /// A completion for an operation that is not in flight; dropped.
    StaleCompletion,
}

/// Input of a step.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// Start recovery; once, first.
    Open,
    /// A request.
    Request {
        /// Given back with the reply.
        token: Token,
        /// What.
        request: Request,
    },
    /// A disk request ended.
    Disk {
        /// Which.
        op: OpId,
        /// How.
        result: DiskResult,
    },
    /// The deadline has come, or buffers were freed.
    Wake,
    /// The other copy has every held write of the extent up to this version, or does not count any more. Costs
    /// nothing and has no answer; unknown extents and old versions are passed over.
    Resolved {
        /// Whose.
        key: ExtentKey,
        /// The newest write resolved.
        version: Version,
    },
    /// Another copy of something here is gone, and this one goes on: what was written since the last seals is in question until
    /// it has been compared, sealed or not. The other's device may have lost the very record that it was written to.
    Parted,
    /// The other copy has been made the same in this extent.
    Compared {
        /// Whose.
        key: ExtentKey,
    },
}

/// What a step wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read device bytes into a span (both 4 KiB aligned).
    Read {
        /// Comes back with the completion.
        op: OpId,
        /// Where on the device.
        offset: ByteOffset,
        /// Into.
        span: Span,
    },
    /// Write a span (both 4 KiB aligned).
    Write {
        /// Comes back with the completion.
        op: OpId,
        /// Where on the device.
        offset: ByteOffset,
        /// From.
        span: Span,
        /// Durable before completion (FUA / `RWF_DSYNC`).
        durable: bool,
    },
    /// Make everything completed so far durable.
    Flush {
        /// Comes back with the completion.
        op: OpId,
    },
    /// Answer to a request.
    Reply {
        /// Of the request.
        token: Token,
        /// How it went.
        result: Result<Outcome, StoreError>,
    },
    /// Something to tell.
    Event(Event),
}

/// Numbers a store keeps about itself; read by the shell at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Space.
    pub capacity: Capacity,
    /// Faults.
    pub faults: FaultCounts,
    /// Data writes sent to the device (requests, not blocks).
    pub data_writes: u64,
    /// Log blocks written.
    pub log_writes: u64,
    /// Descriptor, index and superblock pages written.
    pub metadata_writes: u64,
    /// Flushes sent.
    pub flushes: u64,
    /// Extents active now.
    pub active_extents: u64,
    /// Writes that had to wait for an activation.
    pub activations: u64,
    /// Blocks read and verified.
    pub blocks_verified: u64,
    /// Newest block of the record log that is known to be on the medium, flushed or written through; 0 until the store has opened. What
    /// it and those before it speak of may still be in the device's cache.
    pub flushed: LogSequence,
    /// Where the record log ended when the store opened; 0 before.
    pub log_end: LogSequence,
}
