//! Rules broken on purpose, in what the tests send and in what the devices hold: each must be noticed, or the model says
//! nothing.
//!
//! What this must not know: the stores. Nothing is broken inside them.

use crate::both;
use crate::faults::{REGIONS, Region};
use crate::histories::*;
use crate::images::Strike;
use crate::serving;
use crate::store_rig::*;
use sds_core::format::descriptor::Descriptor;
use sds_core::format::geometry::Home;
use sds_core::format::{index_page, log_block};
use sds_core::unit::ByteOffset;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Broken {
    #[default]
    Nothing,
    /// Each copy settles alone.
    NoSettle,
    /// The copy that has the extent unsettled takes its plan first.
    UnsettledFirst,
    /// Nobody remembers which cache was lost.
    CacheKept,
    /// A copy that cannot say what it holds is freed, and counts as one that was trimmed.
    DamagedCounts,
    /// Bytes of the other copy may be sealed before their plan has come.
    SettlingSealed,
    /// What a joiner holds unsettled is not looked at, nor what is in question.
    JoinerNotAsked,
    /// The copy that returns counts, not the one in sync.
    JoinerWins,
    /// Blocks that are lost are not told to a joiner that has nothing of their extent.
    LostNotTold,
    /// Who goes on alone forgets what was under way when the other went.
    NothingInQuestion,
    /// A repair takes the other's bytes whatever they are.
    RepairsUnverified,
    /// Reads are not compared with what is recorded.
    ReadsUnverified,
    /// The index names whatever descriptor page is there.
    IndexAgrees,
    /// The log ends at its flushed position, whatever comes after.
    LogCut,
}

impl Broken {
    /// Changes what a store finds on its device, as if it did not look at what is changed.
    pub(crate) fn deceive(self, disk: &mut Disk) {
        match self {
            Self::IndexAgrees => name_what_is_there(disk),
            Self::LogCut => cut_log(disk),
            Self::Nothing
            | Self::NoSettle
            | Self::UnsettledFirst
            | Self::CacheKept
            | Self::DamagedCounts
            | Self::SettlingSealed
            | Self::JoinerNotAsked
            | Self::JoinerWins
            | Self::LostNotTold
            | Self::NothingInQuestion
            | Self::RepairsUnverified
            | Self::ReadsUnverified => {}
        }
    }
}

/// Where the one slot of the extent has its entry in an index page (`index_page`): after the page's own fields.
const ENTRY: usize = 32;

fn name_what_is_there(disk: &mut Disk) {
    for home in [Home::A, Home::B] {
        let at = geometry().index_page(home, 0);
        let piece = at.get() / BLOCK as u64;
        let Some(page) = disk.get_durable(piece) else { continue };
        let mut page = **page;
        for slot in 0..2_u32 {
            let entry = ENTRY + slot as usize * index_page::ENTRY_BYTES;
            let named = if page[entry + 24] & 4 == 0 { Home::A } else { Home::B };
            let place = geometry().descriptor(slot, named);
            let Some(found) = disk.get_durable(place.get() / BLOCK as u64) else { continue };
            if let Ok((header, checksum)) = Descriptor::default().decode(&found[..], DEVICE, place) {
                page[entry + 12..entry + 16].copy_from_slice(&checksum.get().to_le_bytes());
                page[entry + 16..entry + 24].copy_from_slice(&header.lsn.to_le_bytes());
            }
        }
        index_page::finish(&mut page, DEVICE, at);
        disk.put(piece, Some(piece_of(&page)));
    }
}

fn cut_log(disk: &mut Disk) {
    let blocks: Vec<(u64, u64, u64)> = disk
        .pieces()
        .into_iter()
        .filter_map(|piece| {
            let bytes = disk.get_durable(piece)?;
            let block = log_block::decode(&bytes[..], DEVICE, ByteOffset::new(piece * BLOCK as u64)).ok()?;
            Some((piece, block.header.sequence, block.header.flushed))
        })
        .collect();
    let flushed = blocks.iter().map(|(_, _, flushed)| *flushed).max().unwrap_or(0);
    for (piece, _, _) in blocks.iter().filter(|(_, sequence, _)| *sequence > flushed) {
        disk.put(*piece, None);
    }
}

/// Both copies crash in such a history, with these faults, and every joining is cut short.
fn noticed(broken: Broken, start: Start, ops: &[Op], strike: Strike) -> String {
    let (.., violation) = both::run(start, ops, strike, 1, broken);
    violation.unwrap_or_else(|| panic!("{broken:?} was not noticed"))
}

/// One of them, and no joining is cut short.
fn noticed_by_one(broken: Broken, start: Start, ops: &[Op], strike: Strike) -> String {
    let (.., violation) = serving::run(start, ops, strike, u64::MAX, broken);
    violation.unwrap_or_else(|| panic!("{broken:?} was not noticed"))
}

#[test]
fn copies_that_settle_each_alone_differ() {
    let what = noticed(Broken::NoSettle, Start::Closed, &[W0], Strike::None);
    assert!(what.contains("reads"), "an unacknowledged write is on one copy only");
}

#[test]
fn an_extent_whose_only_unsettled_copy_is_settled_first_is_forgotten() {
    let what = noticed(Broken::UnsettledFirst, Start::Closed, &[Op::Zero], Strike::None);
    assert!(what.contains("cut short"), "nobody lists it any more after a crash between the two");
}

#[test]
fn a_lost_cache_that_nobody_remembers_is_noticed() {
    let (.., violation) = both::run(Start::Closed, &[Op::Trim], Strike::None, u64::MAX, Broken::CacheKept);
    assert!(violation.is_some());
}

#[test]
fn a_damaged_copy_that_counts_as_trimmed_is_noticed() {
    noticed(Broken::DamagedCounts, Start::Closed, &[W0], Strike::All(&[Region::Descriptor]));
}

#[test]
fn bytes_of_the_other_copy_sealed_before_their_plan_are_noticed() {
    noticed(Broken::SettlingSealed, Start::Closed, &[Op::Trim], Strike::None);
}

#[test]
fn a_joiner_that_is_not_asked_what_it_holds_is_noticed() {
    noticed_by_one(Broken::JoinerNotAsked, Start::Closed, &[W0], Strike::None);
}

#[test]
fn a_joiner_that_wins_is_noticed() {
    noticed_by_one(Broken::JoinerWins, Start::Closed, &[W0], Strike::None);
}

#[test]
fn a_lost_block_that_a_joiner_is_not_told_of_is_noticed() {
    let what = noticed_by_one(Broken::LostNotTold, Start::Fresh, &[W0], Strike::All(&[Region::Data]));
    assert!(what.contains("the copy that returned reads Other"), "it has zeroes: {what}");
}

#[test]
fn a_copy_that_lost_the_record_of_its_last_activation_is_noticed_if_nothing_is_in_question() {
    noticed_by_one(Broken::NothingInQuestion, Start::Sealed, &[W0], Strike::All(&[Region::Log]));
}

#[test]
fn a_repair_that_takes_any_bytes_is_noticed() {
    noticed_by_one(Broken::RepairsUnverified, Start::Closed, &[W0], Strike::All(&[Region::Data]));
}

#[test]
fn a_read_that_compares_nothing_is_noticed() {
    noticed(Broken::ReadsUnverified, Start::Closed, &[Op::Flush], Strike::All(&[Region::Data]));
}

#[test]
fn a_lost_descriptor_write_that_the_index_does_not_tell_is_noticed() {
    noticed(Broken::IndexAgrees, Start::Closed, &[Op::Flush], Strike::All(&[Region::Descriptor]));
}

#[test]
fn a_log_that_is_cut_at_its_flushed_position_is_noticed() {
    noticed(Broken::LogCut, Start::Closed, &[W0], Strike::None);
}

#[test]
fn none_of_this_is_noticed_when_nothing_is_broken() {
    for ops in [&[Op::Trim][..], &[Op::Flush]] {
        assert_eq!(both::run(Start::Closed, ops, Strike::Classes(&REGIONS), 64, Broken::Nothing).2, None);
        assert_eq!(serving::run(Start::Closed, ops, Strike::Classes(&REGIONS), 64, Broken::Nothing).2, None);
    }
}
