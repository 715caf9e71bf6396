//! The shard map: who holds each shard, at which epoch.
//!
//! Invariant I1: an entry's epoch only rises, by the MDM. Invariant I6: membership is of (device,
//! incarnation). The map's cost is O(shards), whatever the volumes hold.

use crate::id::{DeviceId, Epoch, Incarnation, MapVersion, PoolId, ShardId, ShardSequence};
use crate::limits::IN_SYNC_MAX;
use serde::{Deserialize, Serialize};

/// How many copies of each of its shards a pool keeps; a number wherever it is stored, sent or typed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Copies {
    /// A lost device loses what was on it.
    #[default]
    One,
    /// In two fault sets.
    Two,
}

/// A number of copies that no pool can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pool keeps 1 or 2 copies of its shards, not {0}")]
pub struct CopiesError(pub u8);

impl Copies {
    /// The number.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

impl TryFrom<u8> for Copies {
    type Error = CopiesError;

    fn try_from(count: u8) -> Result<Self, CopiesError> {
        match count {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            other => Err(CopiesError(other)),
        }
    }
}

impl From<Copies> for u8 {
    fn from(copies: Copies) -> Self {
        match copies {
            Copies::One => 1,
            Copies::Two => 2,
        }
    }
}

const _: () = assert!(Copies::Two.count() == IN_SYNC_MAX);

/// A device in the life of its SDS process that vouches for it (I6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// The device.
    pub device: DeviceId,
    /// The process life.
    pub incarnation: Incarnation,
}

/// Replicas in sync; the first is the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InSync {
    members: [Member; IN_SYNC_MAX],
    count: u8,
}

impl InSync {
    /// One copy.
    #[must_use]
    pub const fn sole(primary: Member) -> Self {
        Self { members: [primary, Member { device: DeviceId::new(0), incarnation: Incarnation::new(0) }], count: 1 }
    }

    /// Two copies.
    #[must_use]
    pub const fn pair(primary: Member, secondary: Member) -> Self {
        Self { members: [primary, secondary], count: 2 }
    }

    /// The members, primary first.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members[..usize::from(self.count).min(IN_SYNC_MAX)]
    }

    /// The primary.
    #[must_use]
    pub fn primary(&self) -> Option<Member> {
        self.members().first().copied()
    }
}

/// A replica that was in sync once, and how far it is known to be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lapsed {
    /// The device.
    pub device: DeviceId,
    /// Last sequence known complete on it.
    pub complete: ShardSequence,
}

/// One shard's configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Version of this configuration.
    pub epoch: Epoch,
    /// Who acknowledges.
    pub in_sync: InSync,
    /// Who is being brought in.
    pub joining: Option<Member>,
    /// Who fell out last.
    pub lapsed: Option<Lapsed>,
    /// First sequence of this epoch, above every one that an earlier epoch can have used.
    pub first_sequence: ShardSequence,
    /// Version of the map at which this configuration was committed: nobody serves it by an older one
    /// ([`crate::protocol::fence::may_serve_epoch`]).
    pub made_at: MapVersion,
    /// Newest epoch that began with no in-sync copy's volatile cache kept; 0 for none. What was acknowledged before it and not
    /// flushed may be gone ([`crate::protocol::acknowledge::flush_may_succeed`]).
    pub cache_lost_in: Epoch,
    /// Which of the members, in the order of `in_sync`, have lost their volatile caches since an epoch of this shard was last
    /// served. Only of two copies; a set with one is for settling only ([`crate::protocol::settle::is_for_settling`]).
    pub cache_lost: [bool; IN_SYNC_MAX],
}

impl ShardEntry {
    /// Every device that it names: members, the joiner, the one that fell out, each once.
    pub fn devices(&self) -> impl Iterator<Item = DeviceId> + '_ {
        let fell_out =
            self.lapsed.map(|lapsed| lapsed.device).filter(|device| self.joining.is_none_or(|joining| joining.device != *device));
        self.in_sync.members().iter().copied().chain(self.joining).map(|member| member.device).chain(fell_out)
    }

    /// Whether this member has lost its volatile cache since an epoch of this shard was last served.
    #[must_use]
    pub fn has_lost_cache(&self, member: Member) -> bool {
        self.in_sync.members().iter().zip(self.cache_lost).any(|(other, lost)| lost && *other == member)
    }
}

/// The shards of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    /// The pool.
    pub pool: PoolId,
    /// By shard number; empty until the pool's shards are placed.
    pub shards: Vec<ShardEntry>,
}

impl ShardMap {
    /// A shard's configuration.
    #[must_use]
    pub fn entry(&self, shard: ShardId) -> Option<&ShardEntry> {
        self.shards.get(shard.get() as usize)
    }

    /// How many shards the pool has.
    #[must_use]
    pub fn shard_count(&self) -> u32 {
        u32::try_from(self.shards.len()).unwrap_or(u32::MAX)
    }
}
