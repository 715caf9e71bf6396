//! The frame header.
//!
//! ```text
//! offset size field
//!      0    4 magic "SDS1"
//!      4    1 protocol version
//!      5    1 opcode
//!      6    2 flags
//!      8    8 connection number
//!     16    8 request id
//!     24    8 session generation
//!     32    4 volume
//!     36    4 layer
//!     40    4 extent
//!     44    4 offset, bytes inside the extent
//!     48    4 length, bytes asked for or written
//!     52    4 epoch
//!     56    8 sequence
//!     64    8 resolved up to
//!     72    8 map version
//!     80    4 shard
//!     84    4 device
//!     88    4 payload length
//!     92    2 status
//!     94    1 checksum count
//!     95    1 cache id count
//!     96    4 checksum of what stands between header and payload (block checksums, cache ids, hello)
//!    100    4 checksum of bytes 0..100
//! ```

use crate::buffer::BufferClass;
use crate::error::Status;
use crate::id::{
    ConnectionNumber, DeviceId, Epoch, ExtentIndex, LayerId, MapVersion, RequestId, SessionGeneration, ShardId, ShardSequence, VolumeId,
};

/// Bytes of a header on the wire.
pub const HEADER_BYTES: usize = 104;
/// Version this code speaks.
pub const PROTOCOL_VERSION: u8 = 1;

/// What a frame asks or answers. Numbers 32 and up are between data servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// First frame of a connection, from the connecting side.
    Hello = 1,
    /// Its answer; `status` says whether it was accepted, `length` the protocol version to speak.
    HelloReply = 2,
    /// Whole blocks of one extent, please.
    Read = 3,
    /// The blocks, or the status why not.
    ReadReply = 4,
    /// Whole blocks of one extent.
    Write = 5,
    /// Less than a block, inside one block.
    WriteFragment = 6,
    /// Answer to `Write`, `WriteFragment` and `Zero`.
    WriteReply = 7,
    /// Whole blocks become zero; with [`Flags::TRIM`] their space may be freed.
    Zero = 8,
    /// Make durable what was acknowledged on `device`.
    Flush = 9,
    /// Answer to `Flush`.
    FlushReply = 10,
    /// Which blocks of a range hold data?
    BlockStatus = 11,
    /// A payload of 32 bytes: four little-endian `u64`, bit i says that block i *of the extent* holds
    /// data (bits outside the range asked for mean nothing).
    BlockStatusReply = 12,
    /// Whole blocks of one extent, as the primary has versioned them.
    Replicate = 32,
    /// Whole blocks become zero on the other copy too; with [`Flags::TRIM`] their space may be freed.
    ReplicateZero = 33,
    /// Answer to `Replicate` and `ReplicateZero`.
    ReplicateReply = 34,
    /// Make durable what the other copy's `device` has completed.
    ReplicateFlush = 35,
    /// Answer to `ReplicateFlush`.
    ReplicateFlushReply = 36,
    /// A primary asks for its lease; `sequence` is its clock.
    Beacon = 37,
    /// Answer to `Beacon`: `sequence` echoed, `map_version` the newest that changed a shard of the two.
    Grant = 38,
    /// Which extents does `device` hold, from the slot `sequence` on?
    Extents = 39,
    /// `length` bytes of extent entries ([`crate::exchange`]); `sequence` is the slot to go on at, 0 after the last.
    ExtentsReply = 40,
    /// What are the blocks of one extent?
    Blocks = 41,
    /// A block list ([`crate::exchange`]), or nothing if the extent is not held.
    BlocksReply = 42,
    /// Blocks of one extent as they are on the medium, please, whatever is recorded.
    Medium = 43,
    /// Them.
    MediumReply = 44,
    /// The primary's bytes for blocks of an extent that is being settled or resynced; `sequence` is not below any of theirs.
    Copy = 45,
    /// The plan for an extent ([`crate::exchange`]), to be durable before the answer; `sequence` is not below any in it.
    Settle = 46,
    /// Free one extent.
    FreeExtent = 47,
    /// Answer to `Copy`, `Settle` and `FreeExtent`.
    ResyncReply = 48,
    /// The shard is settled, and everything up to `resolved` is over. Has no answer.
    Resolved = 49,
}

impl Opcode {
    /// From its wire form.
    #[must_use]
    pub const fn from_wire(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Hello,
            2 => Self::HelloReply,
            3 => Self::Read,
            4 => Self::ReadReply,
            5 => Self::Write,
            6 => Self::WriteFragment,
            7 => Self::WriteReply,
            8 => Self::Zero,
            9 => Self::Flush,
            10 => Self::FlushReply,
            11 => Self::BlockStatus,
            12 => Self::BlockStatusReply,
            32 => Self::Replicate,
            33 => Self::ReplicateZero,
            34 => Self::ReplicateReply,
            35 => Self::ReplicateFlush,
            36 => Self::ReplicateFlushReply,
            37 => Self::Beacon,
            38 => Self::Grant,
            39 => Self::Extents,
            40 => Self::ExtentsReply,
            41 => Self::Blocks,
            42 => Self::BlocksReply,
            43 => Self::Medium,
            44 => Self::MediumReply,
            45 => Self::Copy,
            46 => Self::Settle,
            47 => Self::FreeExtent,
            48 => Self::ResyncReply,
            49 => Self::Resolved,
            _ => return None,
        })
    }

    /// Its wire form.
    #[must_use]
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// Whose budget its payload is received on. An answer never waits for buffers that requests hold: the answer that
    /// frees those may stand behind it; and one to a resync, under whose lock requests wait, for nothing but its like.
    #[must_use]
    pub const fn payload_class(self) -> BufferClass {
        match self {
            Self::ReadReply | Self::BlockStatusReply | Self::Replicate | Self::Copy | Self::Settle => BufferClass::Replicate,
            Self::ExtentsReply | Self::BlocksReply | Self::MediumReply => BufferClass::Internal,
            Self::Hello | Self::HelloReply | Self::Read | Self::Write | Self::WriteFragment | Self::WriteReply => BufferClass::Client,
            Self::Zero | Self::Flush | Self::FlushReply | Self::BlockStatus | Self::ReplicateZero => BufferClass::Client,
            Self::ReplicateReply | Self::ReplicateFlush | Self::ReplicateFlushReply | Self::Beacon => BufferClass::Client,
            Self::Grant | Self::Extents | Self::Blocks | Self::Medium | Self::FreeExtent | Self::ResyncReply => BufferClass::Client,
            Self::Resolved => BufferClass::Client,
        }
    }
}

/// Bits that modify an opcode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// Durable before the answer (FUA).
    pub const DURABLE: Self = Self(1);
    /// `Zero` may free the space.
    pub const TRIM: Self = Self(1 << 1);
    /// `ReadReply` without payload: every block asked for reads as zero.
    pub const ALL_ZERO: Self = Self(1 << 2);
    /// Every bit that has a meaning.
    pub const KNOWN: Self = Self(0b111);

    /// From its bits.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Names what has kept an acknowledged write: the device, and the boot of its host where the cache is volatile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheId {
    /// The device.
    pub device: DeviceId,
    /// Hash of the host's boot id; 0 where the device has no volatile cache.
    pub boot: u64,
}

/// Up to two cache ids, one a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheIds {
    ids: [CacheId; 2],
    count: u8,
}

impl CacheIds {
    /// None.
    pub const NONE: Self = Self { ids: [CacheId { device: DeviceId::new(0), boot: 0 }; 2], count: 0 };

    /// One copy's.
    #[must_use]
    pub const fn one(id: CacheId) -> Self {
        Self { ids: [id, CacheId { device: DeviceId::new(0), boot: 0 }], count: 1 }
    }

    /// Adds one; `false` when both places are taken.
    #[must_use]
    pub fn push(&mut self, id: CacheId) -> bool {
        let Some(place) = self.ids.get_mut(usize::from(self.count)) else { return false };
        *place = id;
        self.count += 1;
        true
    }

    /// The ids.
    #[must_use]
    pub fn as_slice(&self) -> &[CacheId] {
        &self.ids[..usize::from(self.count).min(2)]
    }
}

/// A decoded header. Payload length, checksum count and cache id count follow from the frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub opcode: Opcode,
    /// How.
    pub flags: Flags,
    /// The connection it belongs to (I10).
    pub connection: ConnectionNumber,
    /// Request, echoed in the answer.
    pub request: RequestId,
    /// Session it is done in (I3).
    pub generation: SessionGeneration,
    /// Volume.
    pub volume: VolumeId,
    /// Snapshot stamp of the client, 0 for now.
    pub layer: LayerId,
    /// Extent of the volume.
    pub extent: ExtentIndex,
    /// First byte inside the extent.
    pub offset: u32,
    /// Bytes asked for, written, zeroed.
    pub length: u32,
    /// Epoch the sender believes (I2), or the receiver has, in an answer.
    pub epoch: Epoch,
    /// Sequence of the write, in its answer and in replication.
    pub sequence: ShardSequence,
    /// Every sequence up to this is resolved (replication).
    pub resolved: ShardSequence,
    /// View the sender has; in an answer of `MapStale`, the version to fetch.
    pub map_version: MapVersion,
    /// Shard of the extent.
    pub shard: ShardId,
    /// Device addressed.
    pub device: DeviceId,
    /// Outcome, in answers.
    pub status: Status,
}

impl Header {
    /// A header of this opcode with everything else zero.
    #[must_use]
    pub const fn new(opcode: Opcode) -> Self {
        Self {
            opcode,
            flags: Flags::NONE,
            connection: ConnectionNumber::new(0),
            request: RequestId::new(0),
            generation: SessionGeneration::new(0),
            volume: VolumeId::new(0),
            layer: LayerId::new(0),
            extent: ExtentIndex::new(0),
            offset: 0,
            length: 0,
            epoch: Epoch::new(0),
            sequence: ShardSequence::new(0),
            resolved: ShardSequence::new(0),
            map_version: MapVersion::new(0),
            shard: ShardId::new(0),
            device: DeviceId::new(0),
            status: Status::Ok,
        }
    }
}
