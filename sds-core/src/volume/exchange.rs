//! One frame's worth of work: what is asked of which extent or device, and how far it has come.
//!
//! Invariant: an exchange is `Sent` on at most one link, and its answer is believed only from that one.

use super::dirty::Mark;
use super::server::ServerIndex;
use super::topology::DeviceIndex;
use crate::buffer::Span;
use crate::checksum::ChecksumList;
use crate::collections::OpId;
use crate::id::{Epoch, ExtentIndex, MapVersion, ShardId, VolumeId};
use crate::unit::{BLOCK_BYTES, Nanos};
use crate::wire::Opcode;

/// What a frame asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// Whole blocks.
    Read,
    /// Whole blocks; the checksums are made once and kept for sending again.
    Write { span: Span, checksums: ChecksumList, durable: bool },
    /// Part of a block.
    Fragment { span: Span, checksums: ChecksumList, durable: bool },
    /// Whole blocks become zero.
    Zero { trim: bool, durable: bool },
    /// Which blocks hold data.
    Status,
    /// Everything up to the mark, at the shard's primary and of all shards that have the same.
    Flush { shard: ShardId, mark: Mark },
}

impl Ask {
    /// What the answer must be.
    pub(super) const fn reply(&self) -> Opcode {
        match self {
            Self::Read => Opcode::ReadReply,
            Self::Write { .. } | Self::Fragment { .. } | Self::Zero { .. } => Opcode::WriteReply,
            Self::Status => Opcode::BlockStatusReply,
            Self::Flush { .. } => Opcode::FlushReply,
        }
    }

    /// Whether it changes blocks, and so keeps its place among others that do.
    pub(super) const fn changes_blocks(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Fragment { .. } | Self::Zero { .. } => true,
            Self::Read | Self::Status | Self::Flush { .. } => false,
        }
    }
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Earlier changes of the same blocks come first.
    Blocked,
    /// Ready to be routed.
    Routing,
    /// In the server's queue.
    Queued(ServerIndex),
    /// On the server's link.
    Sent(ServerIndex),
    /// Until the time comes, or a view of that version.
    Paused { until: Nanos, at_least: MapVersion },
}

#[derive(Clone, Debug)]
pub(super) struct Exchange {
    /// The user's request it is part of.
    pub(super) request: OpId,
    pub(super) volume: VolumeId,
    pub(super) extent: ExtentIndex,
    /// First byte in the extent.
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) ask: Ask,
    pub(super) state: State,
    /// Device it was last sent to, for which shard, at which epoch and map.
    pub(super) device: DeviceIndex,
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    pub(super) sent_at: MapVersion,
    /// Order of creation, for sending again in order.
    pub(super) serial: u64,
    /// How often its payload arrived damaged.
    pub(super) damaged: u8,
    /// How often it was told to wait.
    pub(super) pauses: u8,
    /// Place among the changes of its extent; kept by [`super::order`].
    pub(super) place: Place,
}

/// Links of the list of changes of one extent, oldest first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) earlier: Option<OpId>,
    pub(super) later: Option<OpId>,
    /// Earlier ones that overlap and are not done.
    pub(super) blockers: u32,
}

impl Exchange {
    /// First block, and the first block after, in the extent.
    pub(super) const fn blocks(&self) -> (u32, u32) {
        (self.offset / BLOCK_BYTES, (self.offset + self.len).div_ceil(BLOCK_BYTES))
    }

    /// Whether it touches one of these blocks.
    pub(super) const fn touches(&self, (first, end): (u32, u32)) -> bool {
        let (own_first, own_end) = self.blocks();
        own_first < end && first < own_end
    }
}
