//! Settling a block of an unsettled extent without another copy: a pure decision.
//!
//! Bytes that match a record (or the descriptor) are that version. Bytes that match none are, in a
//! block that held data before, some write whose record is missing: kept, counted. In a block that
//! held none, they are that only if the log vouches for the first write; otherwise its data may never
//! have landed and the bytes are a former owner's: the block goes back to what it was.
//! What vouches: after a process death the resolved position, after a power cut the flushed one
//! (`write` makes sure that no overwrite was issued, and no flush answered, before the log said so).
//! What this must not know: where the histories come from.

use crate::checksum::Checksum;
use crate::format::descriptor::{BlockInfo, Content};
use crate::id::ShardSequence;

/// A recorded write of the block since it last was zeroed or its extent allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its version.
    pub version: ShardSequence,
    /// Checksum of its bytes.
    pub checksum: Checksum,
    /// Position of its record.
    pub lsn: u64,
}

/// What is known of how the store's last life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Completed but unflushed writes may be gone.
    pub power_lost: bool,
    /// Highest flushed position that any log block states.
    pub flushed: u64,
    /// Highest resolved position that any log block states.
    pub resolved: u64,
}

impl Evidence {
    fn vouches_for(&self, lsn: u64) -> bool {
        lsn <= if self.power_lost { self.flushed } else { self.resolved }
    }
}

/// What the block is from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its description.
    pub info: BlockInfo,
    /// Its bytes match no record and were kept.
    pub kept: bool,
}

/// Decides a block from its state before the first candidate, the candidates in the order of the log,
/// and the checksum of the bytes on the medium (`None` if they cannot be read: the newest record then
/// stands, and a read of the block will fail).
#[must_use]
pub fn settle_alone(base: BlockInfo, candidates: &[Candidate], medium: Option<Checksum>, evidence: &Evidence) -> Decision {
    let recorded = |candidate: &Candidate| BlockInfo { content: Content::Data, checksum: candidate.checksum, version: candidate.version };
    let certain = |info| Decision { info, kept: false };
    let Some(medium) = medium else {
        return certain(candidates.last().map_or(base, recorded));
    };
    if let Some(candidate) = candidates.iter().rev().find(|candidate| candidate.checksum == medium) {
        return certain(recorded(candidate));
    }
    let version = candidates.last().map_or(base.version, |newest| newest.version);
    let unknown = Decision { info: BlockInfo { content: Content::Data, checksum: medium, version }, kept: true };
    match base.content {
        Content::Data | Content::Unreadable if base.checksum == medium => certain(BlockInfo { content: Content::Data, ..base }),
        Content::Data => unknown,
        Content::Unreadable => certain(BlockInfo { version, ..base }),
        Content::Unwritten | Content::Zero => match candidates.first() {
            Some(first) if evidence.vouches_for(first.lsn) => unknown,
            Some(_) | None => certain(base),
        },
    }
}
