//! A client's or a peer's request from acceptance to answer.
//!
//! Stages: `Parked` (a newer view must come) → `NeedsRoom` → `NeedsLock` → `Queued` (the store takes
//! no more, or no sequence is reserved) → `InStore`, twice for a fragment. A request that has never been
//! in the store can be dropped without trace; one that is there must be seen to its end (I10).
//!
//! Invariant: a request owns the buffers named in it, and gives each back exactly once.

use super::interface::DeviceSlot;
use super::links::PartyId;
use super::locks::LockId;
use crate::buffer::{BufferId, Span};
use crate::checksum::ChecksumList;
use crate::collections::OpId;
use crate::error::Status;
use crate::id::{Epoch, PoolId, ShardId, Version};
use crate::machine::LinkId;
use crate::map::Member;
use crate::store::interface::{BlockRange, ExtentKey};
use crate::unit::Nanos;
use crate::wire::{CacheId, CacheIds, Header, Opcode};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Fragment,
    Zero,
    Flush,
    BlockStatus,
    /// A primary's write, to its secondary.
    Replicate,
    /// A primary's zeroes, to its secondary.
    ReplicateZero,
    /// A primary's flush, to a secondary's device.
    ReplicateFlush,
    /// A primary's question: which extents are held.
    Extents,
    /// What the blocks of one are.
    Blocks,
    /// Their bytes as they are on the medium.
    Medium,
    /// A primary's bytes for an extent that is settled or resynced.
    Copy,
    /// The plan for it.
    Settle,
    /// It is to be freed.
    FreeExtent,
}

impl Kind {
    /// Of a request's opcode; `None` of an answer's or a hello's.
    pub(super) const fn of(opcode: Opcode) -> Option<Self> {
        match opcode {
            Opcode::Read => Some(Self::Read),
            Opcode::Write => Some(Self::Write),
            Opcode::WriteFragment => Some(Self::Fragment),
            Opcode::Zero => Some(Self::Zero),
            Opcode::Flush => Some(Self::Flush),
            Opcode::BlockStatus => Some(Self::BlockStatus),
            Opcode::Hello | Opcode::HelloReply | Opcode::ReadReply | Opcode::WriteReply | Opcode::FlushReply | Opcode::BlockStatusReply => {
                None
            }
            Opcode::Replicate => Some(Self::Replicate),
            Opcode::ReplicateZero => Some(Self::ReplicateZero),
            Opcode::ReplicateFlush => Some(Self::ReplicateFlush),
            Opcode::ReplicateReply | Opcode::ReplicateFlushReply | Opcode::Beacon | Opcode::Grant => None,
            Opcode::Extents => Some(Self::Extents),
            Opcode::Blocks => Some(Self::Blocks),
            Opcode::Medium => Some(Self::Medium),
            Opcode::Copy => Some(Self::Copy),
            Opcode::Settle => Some(Self::Settle),
            Opcode::FreeExtent => Some(Self::FreeExtent),
            Opcode::ExtentsReply | Opcode::BlocksReply | Opcode::MediumReply | Opcode::ResyncReply | Opcode::Resolved => None,
        }
    }

    /// Opcode of its answer.
    pub(super) const fn answer(self) -> Opcode {
        match self {
            Self::Read => Opcode::ReadReply,
            Self::Write | Self::Fragment | Self::Zero => Opcode::WriteReply,
            Self::Flush => Opcode::FlushReply,
            Self::BlockStatus => Opcode::BlockStatusReply,
            Self::Replicate | Self::ReplicateZero => Opcode::ReplicateReply,
            Self::ReplicateFlush => Opcode::ReplicateFlushReply,
            Self::Extents => Opcode::ExtentsReply,
            Self::Blocks => Opcode::BlocksReply,
            Self::Medium => Opcode::MediumReply,
            Self::Copy | Self::Settle | Self::FreeExtent => Opcode::ResyncReply,
        }
    }

    /// Whether it changes blocks.
    pub(super) const fn changes(self) -> bool {
        match self {
            Self::Write | Self::Fragment | Self::Zero | Self::Replicate | Self::ReplicateZero => true,
            Self::Copy | Self::Settle | Self::FreeExtent => true,
            Self::Read | Self::Flush | Self::BlockStatus | Self::ReplicateFlush => false,
            Self::Extents | Self::Blocks | Self::Medium => false,
        }
    }

    /// Whether it is one of a primary that settles or resyncs.
    pub(super) const fn is_question(self) -> bool {
        matches!(self, Self::Extents | Self::Blocks | Self::Medium | Self::Copy | Self::Settle | Self::FreeExtent)
    }

    /// Whether it is a primary's write that has a sequence of its own.
    pub(super) const fn is_replicate(self) -> bool {
        matches!(self, Self::Replicate | Self::ReplicateZero)
    }

    /// Whether it is a primary's, to its secondary.
    pub(super) const fn is_of_peer(self) -> bool {
        match self {
            Self::Replicate | Self::ReplicateZero | Self::ReplicateFlush => true,
            Self::Extents | Self::Blocks | Self::Medium | Self::Copy | Self::Settle | Self::FreeExtent => true,
            Self::Read | Self::Write | Self::Fragment | Self::Zero | Self::Flush | Self::BlockStatus => false,
        }
    }
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Just taken in, or about to be checked again.
    New,
    /// Waits for a newer view until `deadline`.
    Parked { deadline: Nanos },
    /// Waits for a buffer. Holds no lock: a lock is only held by those that have all their buffers.
    NeedsRoom,
    /// Waits in line for its blocks.
    NeedsLock,
    /// Has its blocks; waits for the store to take more, or for a sequence.
    Queued,
    /// The store has it.
    InStore,
}

/// A checked request's place in the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) slot: DeviceSlot,
    /// For a flush, that of the default extent.
    pub(super) key: ExtentKey,
    /// Blocks touched, whole ones around a fragment; for a flush, meaningless.
    pub(super) range: BlockRange,
    pub(super) pool: PoolId,
    pub(super) shard: ShardId,
    /// Epoch it was accepted at (I2).
    pub(super) epoch: Epoch,
}

/// How one copy of a write, or of a flush, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// It is not asked for it.
    Idle,
    Pending,
    Done,
    Refused(Status),
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) header: Header,
    pub(super) cache_ids: CacheIds,
    pub(super) party: PartyId,
    /// Where the answer goes; `None` once the link is gone.
    pub(super) link: Option<LinkId>,
    pub(super) stage: Stage,
    pub(super) route: Option<Route>,
    pub(super) lock: Option<LockId>,
    /// What came with it.
    pub(super) payload: Option<(Span, ChecksumList)>,
    /// Its bytes were compared with their checksums.
    pub(super) verified: bool,
    /// Room for what is read, or for a fragment's merged block.
    pub(super) room: Option<Room>,
    /// A fragment's block is merged, this is its checksum.
    pub(super) merged: Option<ChecksumList>,
    /// Given to it when it went to the store.
    pub(super) version: Option<Version>,
    /// Our copy.
    pub(super) local: Half,
    /// The other copy.
    pub(super) remote: Half,
    /// Whose that is, and the epoch with which that pair began.
    pub(super) other: Option<(Member, Epoch)>,
    /// What keeps the other copy until it is flushed.
    pub(super) remote_cache: Option<CacheId>,
    /// The write on its way to the other copy.
    pub(super) forward: Option<OpId>,
    /// How often blocks of it have been repaired from the other copy; `REPAIRS_PER_READ_MAX` when that could not help.
    pub(super) repairs: u8,
    /// The other copy is asked first: ours has kept room for it ([`super::peer`]).
    pub(super) other_first: bool,
    /// Devices of others that have not answered a flush yet.
    pub(super) flushes_left: usize,
}

/// A buffer of a request's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) buffer: BufferId,
    pub(super) len: u32,
    /// Taken from the reserve that keeps fragments going when clients hold all client buffers.
    pub(super) from_reserve: bool,
}

impl Room {
    pub(super) const fn span(self) -> Span {
        Span::whole(self.buffer, self.len)
    }
}
