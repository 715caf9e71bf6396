//! What becomes of one extent when two copies of it have met, or one is alone: which blocks are copied which way,
//! and the plan each copy takes. Pure; the rule for each block is `protocol::settle` and `protocol::resync`.
//!
//! Invariants: both plans describe the same contents; a block whose bytes a copy lacks is copied to it before
//! its plan; whatever is not recorded alike on both gets the new version on both (I8, I12).
//!
//! Must not know: where the lists come from, how plans are carried out.

use crate::bugs::{self, Bug};
use crate::checksum::Checksum;
use crate::exchange::{BLOCK_ENTRY_BYTES, BlockEntry, EntryFault, Medium, PLAN_ENTRY_BYTES, PlanEntry};
use crate::format::descriptor::Content;
use crate::id::ShardSequence;
use crate::limits::FRAME_BLOCKS_MAX;
use crate::protocol::resync::must_copy;
use crate::protocol::settle::{Exhibit, Plan, Record, Side, settle, settle_alone, settle_joiner};
use crate::store::interface::BlockSet;
use crate::unit::BLOCKS_PER_EXTENT;

const BLOCKS: usize = BLOCKS_PER_EXTENT as usize;

/// What a copy says of the blocks of an extent.
pub(super) type List = Box<[BlockEntry; BLOCKS]>;

/// A list as it travels.
///
/// # Errors
/// If the bytes are no block list.
pub(super) fn decode_list(bytes: &[u8]) -> Result<List, EntryFault> {
    let mut list = not_held();
    for (place, entry) in list.iter_mut().zip(bytes.chunks(BLOCK_ENTRY_BYTES as usize)) {
        *place = BlockEntry::decode(entry)?;
    }
    Ok(list)
}

/// The list of a copy that does not hold the extent.
pub(super) fn not_held() -> List {
    Box::new([BlockEntry::default(); BLOCKS])
}

/// Blocks whose bytes go from one copy to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// From ours to the other's; else the other way.
    pub(super) from_own: bool,
    pub(super) first: u8,
    /// At most a frame's worth.
    pub(super) count: u16,
    /// Not below that of any block of it.
    pub(super) version: ShardSequence,
}

/// What becomes of an extent.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    /// In the order of the blocks.
    pub(super) runs: Vec<Run>,
    /// What the bytes of each copied block must be.
    pub(super) checksums: Box<[Checksum; BLOCKS]>,
    /// For each copy, if it takes one.
    pub(super) own: Option<Box<[PlanEntry; BLOCKS]>>,
    pub(super) other: Option<Box<[PlanEntry; BLOCKS]>>,
    /// Blocks kept though no record names their bytes.
    pub(super) unrecorded: u32,
    /// Blocks of which no copy has good bytes.
    pub(super) lost: u32,
    /// Not below any version in the plans.
    pub(super) version: ShardSequence,
}

impl Decision {
    fn new(version: ShardSequence) -> Self {
        let checksums = Box::new([Checksum::ZERO_BLOCK; BLOCKS]);
        Self { runs: Vec::new(), checksums, own: None, other: None, unrecorded: 0, lost: 0, version }
    }

    fn copy(&mut self, block: usize, from_own: bool, checksum: Checksum, version: ShardSequence) {
        self.checksums[block] = checksum;
        if let Some(run) = self.runs.last_mut()
            && (run.from_own, run.version, usize::from(run.first) + usize::from(run.count)) == (from_own, version, block)
            && u32::from(run.count) < FRAME_BLOCKS_MAX
        {
            run.count += 1;
        } else {
            self.runs.push(Run { from_own, first: u8::try_from(block).unwrap_or(u8::MAX), count: 1, version });
        }
    }

    /// Makes a run into runs of one block: some of it could not be read, and which is not known.
    pub(super) fn split(&mut self, at: usize) {
        let run = self.runs[at];
        let singly = (0..run.count).map(|place| Run { first: run.first + u8::try_from(place).unwrap_or(0), count: 1, ..run });
        self.runs.splice(at..=at, singly);
    }

    fn plan(side: &mut Option<Box<[PlanEntry; BLOCKS]>>, block: usize, entry: PlanEntry) {
        side.get_or_insert_with(|| Box::new([PlanEntry::AsRecorded; BLOCKS]))[block] = entry;
    }

    /// Every block of the other copy is lost: ours cannot be read.
    pub(super) fn quarantine_other(version: ShardSequence) -> Self {
        let mut decision = Self::new(version);
        decision.other = Some(Box::new([PlanEntry::Quarantined(version); BLOCKS]));
        decision.lost = BLOCKS_PER_EXTENT;
        decision
    }
}

/// Bytes of a plan.
pub(super) fn encode_plan(plan: &[PlanEntry; BLOCKS], bytes: &mut [u8]) {
    for (entry, place) in plan.iter().zip(bytes.chunks_mut(PLAN_ENTRY_BYTES as usize)) {
        entry.encode(place);
    }
}

/// A joiner is given what it misses. `complete`: last sequence known complete on it. `must_take`: it takes a plan whatever it says.
pub(super) fn join(own: &List, other: &List, complete: ShardSequence, must_take: bool) -> Decision {
    let newest = own.iter().map(|entry| entry.info.version).max().unwrap_or_default();
    let mut decision = Decision::new(newest);
    for block in 0..BLOCKS {
        let (ours, theirs) = (&own[block], &other[block]);
        let (record, medium) = (theirs.record(), evidence(theirs));
        let exhibit = Exhibit { records: &[record], medium, cache_lost: false };
        let differs = settle_joiner(ours.record(), &exhibit) && !bugs::is(Bug::JoinerNotSettled);
        let keeps = bugs::is(Bug::UnforwardedWriteKept) && theirs.info.version > ours.info.version;
        if !must_copy(ours.info.version, complete, differs) || keeps {
            continue;
        }
        let (version, checksum) = (ours.info.version, ours.info.checksum);
        let entry = match ours.info.content {
            Content::Data if ours.medium == Medium::Unreadable && medium == Some(checksum) => {
                // Ours are damaged, and the bytes that are right lie there (I12).
                decision.copy(block, false, checksum, version);
                PlanEntry::Data(version, checksum)
            }
            Content::Data if ours.medium == Medium::Unreadable => {
                decision.lost += 1;
                PlanEntry::Quarantined(version)
            }
            Content::Data => {
                decision.copy(block, true, checksum, newest);
                PlanEntry::Data(version, checksum)
            }
            Content::Unwritten | Content::Zero => PlanEntry::Zero(version),
            Content::Unreadable => {
                decision.lost += 1;
                PlanEntry::Quarantined(version)
            }
        };
        Decision::plan(&mut decision.other, block, entry);
    }
    if must_take && decision.other.is_none() {
        decision.other = Some(Box::new([PlanEntry::AsRecorded; BLOCKS]));
    }
    decision
}

/// One side of a pair that meets again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Party<'a> {
    pub(super) list: &'a List,
    pub(super) cache_lost: bool,
    pub(super) unsettled: bool,
}

/// Both copies have restarted; `own` is the primary's. `version` is new.
pub(super) fn pair(own: &Party<'_>, other: &Party<'_>, version: ShardSequence) -> Decision {
    let mut decision = Decision::new(version);
    for block in 0..BLOCKS {
        let (ours, theirs) = (&own.list[block], &other.list[block]);
        let records = [ours.record(), theirs.record()];
        let primary = Exhibit { records: &records[..1], medium: evidence(ours), cache_lost: own.cache_lost };
        let secondary = Exhibit { records: &records[1..], medium: evidence(theirs), cache_lost: other.cache_lost };
        let alike = records[0] == records[1] && is_sound(ours, records[0]) && is_sound(theirs, records[1]);
        if alike || bugs::is(Bug::SettleSkipped) {
            continue;
        }
        match settle(&primary, &secondary) {
            Plan::Take { from, checksum, unrecorded } => {
                decision.unrecorded += u32::from(unrecorded);
                let (winner, loser) = match from {
                    Side::Primary => (ours, theirs),
                    Side::Secondary => (theirs, ours),
                };
                let has_data = winner.info.content.holds_data();
                if has_data && !(loser.info.content.holds_data() && loser.bytes_held() == Some(checksum)) {
                    decision.copy(block, from == Side::Primary, checksum, version);
                }
                let entry = if has_data { PlanEntry::Data(version, checksum) } else { PlanEntry::Zero(version) };
                Decision::plan(&mut decision.own, block, entry);
                Decision::plan(&mut decision.other, block, entry);
            }
            Plan::Quarantine => {
                decision.lost += 1;
                Decision::plan(&mut decision.own, block, PlanEntry::Quarantined(version));
                Decision::plan(&mut decision.other, block, PlanEntry::Quarantined(version));
            }
        }
    }
    // Whoever has it unsettled takes a plan even if nothing changes: that is what settles it.
    for (side, party) in [(&mut decision.own, own), (&mut decision.other, other)] {
        if party.unsettled && side.is_none() {
            *side = Some(Box::new([PlanEntry::AsRecorded; BLOCKS]));
        }
    }
    decision
}

/// The bytes a copy has to show. Where a write failed, or nobody knew what is right, bytes of no record are still nobody's.
fn evidence(entry: &BlockEntry) -> Option<Checksum> {
    let held = entry.bytes_held();
    match entry.info.content {
        Content::Unreadable => held.filter(|held| *held == entry.info.checksum),
        Content::Unwritten | Content::Zero | Content::Data => held,
    }
}

/// Whether a copy's bytes are what it has recorded, and may be read.
fn is_sound(entry: &BlockEntry, record: Record) -> bool {
    entry.info.content != Content::Unreadable && entry.bytes_held() == Some(record.checksum)
}

/// The only copy there is keeps what it has, every block at the new version: the absent copy will be given all of it.
pub(super) fn alone(own: &List, version: ShardSequence) -> Decision {
    let mut decision = Decision::new(version);
    for (block, entry) in own.iter().enumerate() {
        let records = [entry.record()];
        let exhibit = Exhibit { records: &records, medium: evidence(entry), cache_lost: false };
        let planned = match settle_alone(Side::Primary, &exhibit) {
            Plan::Take { checksum, unrecorded, .. } => {
                decision.unrecorded += u32::from(unrecorded);
                let has_data = entry.info.content.holds_data();
                if has_data { PlanEntry::Data(version, checksum) } else { PlanEntry::Zero(version) }
            }
            Plan::Quarantine => {
                decision.lost += 1;
                PlanEntry::Quarantined(version)
            }
        };
        Decision::plan(&mut decision.own, block, planned);
    }
    decision
}

/// Damaged blocks of our copy take the bytes that the other one holds for the same record (I12).
pub(super) fn repair(own: &List, other: &List, damaged: &BlockSet) -> Decision {
    let mut decision = Decision::new(ShardSequence::default());
    for (block, (ours, theirs)) in own.iter().zip(other.iter()).enumerate() {
        if !u8::try_from(block).is_ok_and(|number| damaged.contains(number)) {
            continue;
        }
        let same = theirs.info.content == Content::Data && theirs.record() == ours.record();
        if same && evidence(theirs) == Some(ours.info.checksum) {
            decision.copy(block, false, ours.info.checksum, ours.info.version);
        } else {
            decision.lost += 1;
        }
    }
    decision
}

/// Notes that the bytes of a block could not be had where they were said to be.
pub(super) fn spoil(list: &mut List, block: usize) {
    list[block].medium = Medium::Unreadable;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::descriptor::BlockInfo;

    const fn data(version: u64, checksum: u32) -> BlockEntry {
        let info = BlockInfo { content: Content::Data, checksum: Checksum::new(checksum), version: ShardSequence::new(version) };
        BlockEntry { info, medium: Medium::NotAsked }
    }

    fn list(entries: &[BlockEntry]) -> List {
        let mut list = not_held();
        list[..entries.len()].copy_from_slice(entries);
        list
    }

    fn damaged(blocks: &[u8]) -> BlockSet {
        let mut set = BlockSet::default();
        blocks.iter().for_each(|block| set.insert(*block));
        set
    }

    #[test]
    fn a_repair_takes_only_what_our_own_record_names() {
        let own = list(&[data(5, 50), data(6, 60), data(7, 70), data(8, 80)]);
        let other = list(&[data(5, 50), data(5, 60), data(7, 71), data(8, 80)]);
        let decision = repair(&own, &other, &damaged(&[0, 1, 2]));
        let version = ShardSequence::new(5);
        assert_eq!(decision.runs, [Run { from_own: false, first: 0, count: 1, version }], "I12: the same version and the same checksum");
        assert_eq!((decision.lost, decision.own.is_none(), decision.other.is_none()), (2, true, true));
    }

    #[test]
    fn a_repair_keeps_each_block_s_version() {
        let entries = [data(5, 50), data(5, 51), data(6, 60)];
        let runs = repair(&list(&entries), &list(&entries), &damaged(&[0, 1, 2])).runs;
        assert_eq!(runs.iter().map(|run| (run.first, run.count, run.version.get())).collect::<Vec<_>>(), [(0, 2, 5), (2, 1, 6)]);
    }

    #[test]
    fn a_run_of_which_some_cannot_be_read_is_read_block_by_block() {
        let entries = [data(5, 50), data(5, 51), data(5, 52)];
        let mut decision = repair(&list(&entries), &list(&entries), &damaged(&[0, 1, 2]));
        decision.split(0);
        assert_eq!(decision.runs.iter().map(|run| (run.first, run.count)).collect::<Vec<_>>(), [(0, 1), (1, 1), (2, 1)]);
    }

    #[test]
    fn a_joiner_is_given_what_is_newer_and_what_differs() {
        let own = list(&[data(5, 50), data(9, 90), data(6, 60), BlockEntry::default()]);
        let other = list(&[data(5, 50), data(9, 90), data(6, 61), data(4, 40)]);
        let decision = join(&own, &other, ShardSequence::new(8), false);
        let copied: Vec<_> = decision.runs.iter().map(|run| (run.first, run.count)).collect();
        assert_eq!(copied, [(1, 2)], "above what is complete, whatever it says it has; and other bytes");
        let plan = decision.other.expect("it takes one");
        assert_eq!(plan[0], PlanEntry::AsRecorded);
        assert_eq!(plan[3], PlanEntry::Zero(ShardSequence::new(0)), "what was never passed on goes");
    }

    #[test]
    fn blocks_of_no_record_stay_nobody_s() {
        let mut failed = data(5, 50);
        failed.info.content = Content::Unreadable;
        failed.medium = Medium::Read(Checksum::new(77));
        let decision = alone(&list(&[failed]), ShardSequence::new(9));
        assert_eq!(decision.own.expect("a plan")[0], PlanEntry::Quarantined(ShardSequence::new(9)));
        assert_eq!(decision.lost, 1);
    }

    #[test]
    fn both_plans_of_a_pair_say_the_same() {
        let unsettled = |version, checksum, medium| BlockEntry { medium: Medium::Read(Checksum::new(medium)), ..data(version, checksum) };
        let own = list(&[unsettled(5, 50, 50), unsettled(7, 70, 60), unsettled(8, 80, 80)]);
        let other = list(&[unsettled(5, 50, 50), unsettled(6, 60, 60), unsettled(6, 60, 60)]);
        let party = |list| Party { list, cache_lost: false, unsettled: true };
        let version = ShardSequence::new(9);
        let decision = pair(&party(&own), &party(&other), version);
        let (own, other) = (decision.own.expect("a plan"), decision.other.expect("a plan"));
        assert_eq!(own[..], other[..]);
        assert_eq!(own[0], PlanEntry::AsRecorded);
        assert_eq!(own[1], PlanEntry::Data(version, Checksum::new(60)), "equal bytes");
        assert_eq!(decision.runs, [Run { from_own: true, first: 2, count: 1, version }], "the newest record whose bytes are there");
    }
}
