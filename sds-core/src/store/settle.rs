//! Settling a block of an unsettled extent without another copy: a pure decision.
//!
//! Bytes that match a record (or the descriptor) are that version. Bytes that match none are, in a
//! block that held data before, some write whose record is missing: kept, counted. In a block that
//! held none, they are that only if the log vouches for the first write; otherwise its data may never
//! have landed and the bytes are a former owner's: the block goes back to what it was.
//! Bytes from before a write that the log vouches for are there only if the device lost that write: kept, counted.
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
    /// What about it is not certain.
    pub doubt: Option<Doubt>,
}

/// Why a block may not be what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Its bytes match no record that can stand, and were kept.
    Kept,
    /// Its first write is recorded, its bytes are others, and the log does not vouch for it: taken for one that never landed.
    Dismissed,
}

/// Decides a block from its state before the first candidate, the candidates in the order of the log,
/// and the checksum of the bytes on the medium (`None` if they cannot be read: the newest record then
/// stands, and a read of the block will fail).
#[must_use]
pub fn settle_alone(base: BlockInfo, candidates: &[Candidate], medium: Option<Checksum>, evidence: &Evidence) -> Decision {
    let recorded = |candidate: &Candidate| BlockInfo { content: Content::Data, checksum: candidate.checksum, version: candidate.version };
    let certain = |info| Decision { info, doubt: None };
    let Some(medium) = medium else {
        return certain(candidates.last().map_or(base, recorded));
    };
    let version = candidates.last().map_or(base.version, |newest| newest.version);
    let unknown = Decision { info: BlockInfo { content: Content::Data, checksum: medium, version }, doubt: Some(Doubt::Kept) };
    // What was there before a write that the log vouches for is not there any more, unless the device lost that write.
    let vouched = candidates.iter().rposition(|candidate| evidence.vouches_for(candidate.lsn));
    if let Some(place) = candidates.iter().rposition(|candidate| candidate.checksum == medium) {
        return if vouched.is_none_or(|vouched| place >= vouched) { certain(recorded(&candidates[place])) } else { unknown };
    }
    match base.content {
        Content::Data | Content::Unreadable if base.checksum == medium && vouched.is_none() => {
            certain(BlockInfo { content: Content::Data, ..base })
        }
        Content::Data => unknown,
        Content::Unreadable => certain(BlockInfo { version, ..base }),
        Content::Unwritten | Content::Zero => match candidates.first() {
            Some(first) if evidence.vouches_for(first.lsn) => unknown,
            Some(_) => Decision { info: base, doubt: Some(Doubt::Dismissed) },
            None => certain(base),
        },
    }
}

/// What stands in the descriptor of a block that will be settled with the other copy: its newest record, whatever the
/// medium holds; that is asked when the copies meet. But where there was no data before the records, and the log
/// does not vouch for the first of them, the bytes are nobody's: only now is that known, and the block is what it was.
#[must_use]
pub fn settle_later(base: BlockInfo, candidates: &[Candidate], medium: Option<Checksum>, evidence: &Evidence) -> BlockInfo {
    let Some(newest) = candidates.last() else { return base };
    let record = BlockInfo { content: Content::Data, checksum: newest.checksum, version: newest.version };
    if base.content.holds_data() {
        return record;
    }
    let alone = settle_alone(base, candidates, medium, evidence).info;
    if alone.content.holds_data() { record } else { alone }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: BlockInfo = BlockInfo { content: Content::Data, checksum: Checksum::new(1), version: ShardSequence::new(1) };
    const HISTORY: [Candidate; 2] = [
        Candidate { version: ShardSequence::new(2), checksum: Checksum::new(2), lsn: 10 },
        Candidate { version: ShardSequence::new(3), checksum: Checksum::new(3), lsn: 20 },
    ];

    fn after_power_loss(flushed: u64, medium: u32) -> Decision {
        settle_alone(BEFORE, &HISTORY, Some(Checksum::new(medium)), &Evidence { power_lost: true, flushed, resolved: 20 })
    }

    #[test]
    fn bytes_of_any_record_that_nothing_newer_vouches_for_are_that_version() {
        for (medium, version) in [(1, 1), (2, 2), (3, 3)] {
            let decision = after_power_loss(9, medium);
            assert_eq!((decision.info.version, decision.doubt), (ShardSequence::new(version), None));
        }
    }

    #[test]
    fn settling_later_keeps_the_newest_record_but_for_bytes_that_are_nobodys() {
        let unflushed = Evidence { power_lost: true, flushed: 9, resolved: 20 };
        let later = |base, medium| settle_later(base, &HISTORY, medium, &unflushed).version.get();
        assert_eq!(later(BEFORE, None), 3);
        let unwritten = BlockInfo::default();
        for (medium, version) in [(2, 3), (3, 3), (7, 0)] {
            assert_eq!(later(unwritten, Some(Checksum::new(medium))), version, "medium {medium}");
        }
        assert_eq!(settle_later(BEFORE, &[], None, &unflushed), BEFORE);
    }

    #[test]
    fn bytes_from_before_a_flushed_write_are_kept_and_counted() {
        let kept = Some(Doubt::Kept);
        for (flushed, medium, doubt) in [(10, 1, kept), (10, 2, None), (20, 2, kept), (20, 3, None)] {
            let decision = after_power_loss(flushed, medium);
            assert_eq!((decision.info.checksum, decision.doubt), (Checksum::new(medium), doubt), "flushed up to {flushed}");
        }
        let process_died = Evidence { power_lost: false, flushed: 0, resolved: 20 };
        assert_eq!(settle_alone(BEFORE, &HISTORY, Some(Checksum::new(2)), &process_died).doubt, kept, "a resolved write is on the medium");
    }
}
