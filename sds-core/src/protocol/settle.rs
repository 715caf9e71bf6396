//! Which bytes of a block win when two copies meet after a crash (I8, I12): a pure decision for each block of an
//! extent that either holds unsettled.
//!
//! Asked before the first read of the extent when both members restarted ([`settle`]), and for a joiner before
//! it is proposed ([`settle_joiner`]). Every outcome that is not recorded on both copies gets a new record at the new
//! epoch before the first read. The decision is stable: asked again after one copy has taken the outcome, it is the same.
//! The copy flushes after it took the outcome and before it serves; what is complete on the other is known when both have.
//! A zero or unwritten state counts as the checksum that stands for it, not raw bytes.

use crate::bugs::{self, Bug};
use crate::checksum::Checksum;
use crate::id::Version;
use crate::map::ShardEntry;

/// A recorded write of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Record {
    /// Its version.
    pub version: Version,
    /// Checksum of its bytes.
    pub checksum: Checksum,
}

/// What one copy brings to the exchange.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit<'a> {
    /// Its records of the block, oldest first; the first is the state the extent was activated with.
    pub records: &'a [Record],
    /// Checksum of the bytes on its medium; `None` if they cannot be read.
    pub medium: Option<Checksum>,
    /// The volatile cache was lost since the last epoch both served: [`ShardEntry::has_lost_cache`].
    pub cache_lost: bool,
}

impl Exhibit<'_> {
    fn record_of_medium(&self) -> Option<Record> {
        self.records.iter().rev().copied().find(|record| Some(record.checksum) == self.medium)
    }

    fn records_of(&self, checksum: Checksum) -> impl Iterator<Item = Record> + '_ {
        self.records.iter().rev().copied().filter(move |record| record.checksum == checksum)
    }

    fn newest(&self) -> Option<Record> {
        self.records.last().copied()
    }
}

/// One of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The primary's.
    Primary,
    /// The secondary's.
    Secondary,
}

/// What becomes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plan {
    /// Both copies take the bytes on the medium of `from`.
    Take {
        /// Whose bytes.
        from: Side,
        /// Their checksum.
        checksum: Checksum,
        /// They match no record and were kept: counted.
        unrecorded: bool,
    },
    /// No healthy history leads here: reads fail until the block is overwritten, with an alarm.
    Quarantine,
}

/// Whether an epoch is for settling only: a member came into it without its volatile cache. Nothing is acknowledged or read in it.
/// When both members have settled and flushed, its primary asks for the next ([`super::membership::Change::Settled`]), and
/// that one is served. So if the set must be formed again before, it is known which caches count: had the epoch been served, a
/// cache lost before it would count no more, and nobody could tell.
#[must_use]
pub fn is_for_settling(entry: &ShardEntry) -> bool {
    entry.cache_lost.contains(&true) && !bugs::is(Bug::ServedWhileSettling)
}

fn take(from: Side, checksum: Checksum) -> Plan {
    Plan::Take { from, checksum, unrecorded: false }
}

fn keep(from: Side, checksum: Checksum) -> Plan {
    Plan::Take { from, checksum, unrecorded: true }
}

/// One copy alone: the sole member, or the one whose cache survived when the other's did not. It keeps the bytes on its medium.
#[must_use]
pub fn settle_alone(side: Side, copy: &Exhibit<'_>) -> Plan {
    match (copy.medium, copy.record_of_medium()) {
        (Some(medium), Some(_)) => take(side, medium),
        (Some(medium), None) => keep(side, medium),
        (None, _) => Plan::Quarantine,
    }
}

/// The cache of one survived and the other's did not. All that was acknowledged is recorded on the survivor, so bytes of no record there are
/// those of a write that nobody was told of, or damage: what it recorded last counts, or what the other recorded later, if the other has that.
fn settle_survivor((side, survivor): (Side, &Exhibit<'_>), (other_side, other): (Side, &Exhibit<'_>)) -> Plan {
    let counts = |record: &Record| Some(*record) >= survivor.newest() && Some(record.checksum) == other.medium;
    let good = survivor.newest().into_iter().chain(other.newest()).find(counts);
    match (survivor.record_of_medium(), good) {
        (None, Some(record)) => take(other_side, record.checksum),
        (Some(_), _) | (None, None) => settle_alone(side, survivor),
    }
}

/// Both members restarted.
#[must_use]
pub fn settle(primary: &Exhibit<'_>, secondary: &Exhibit<'_>) -> Plan {
    // A cache that survived holds all that was acknowledged; the logs of the other would only mislead.
    match (primary.cache_lost, secondary.cache_lost) {
        (false, true) if primary.medium.is_some() => return settle_survivor((Side::Primary, primary), (Side::Secondary, secondary)),
        (true, false) if secondary.medium.is_some() => return settle_survivor((Side::Secondary, secondary), (Side::Primary, primary)),
        _ => {}
    }
    let sides = [(Side::Primary, primary), (Side::Secondary, secondary)];
    // 1. The newest version recorded in either log, wherever its bytes lie.
    let newest = primary.newest().max(secondary.newest());
    for (side, copy) in sides {
        if let (Some(newest), Some(medium)) = (newest, copy.medium)
            && newest.checksum == medium
        {
            return take(side, medium);
        }
    }
    // 2. Equal bytes.
    if let (Some(first), Some(second)) = (primary.medium, secondary.medium)
        && first == second
    {
        let recorded = primary.record_of_medium().or(secondary.record_of_medium()).is_some();
        return Plan::Take { from: Side::Primary, checksum: first, unrecorded: !recorded };
    }
    // 3. Bytes of a record not older than the newest that both logs hold; the newest of them.
    let common = primary.records.iter().rev().copied().find(|record| secondary.records.contains(record));
    let lost = primary.cache_lost || secondary.cache_lost;
    let recorded = sides
        .into_iter()
        .filter_map(|(side, copy)| {
            let medium = copy.medium?;
            let record = primary.records_of(medium).chain(secondary.records_of(medium)).max()?;
            (Some(record) >= common).then_some((record, side, medium))
        })
        .max_by_key(|(record, side, _)| (*record, *side == Side::Primary));
    // 4. No boot id changed: no healthy history leads here.
    if !lost {
        return recorded.map_or(Plan::Quarantine, |(_, side, medium)| take(side, medium));
    }
    // After power cuts: 3., if it found any; else bytes of no record (a newer write's) before bytes of an older record, and the
    // primary's first.
    let unrecorded =
        |copy: &Exhibit<'_>| copy.medium.filter(|medium| sides.iter().all(|(_, side)| side.records_of(*medium).next().is_none()));
    if let Some((_, side, medium)) = recorded {
        return take(side, medium);
    }
    for (side, copy) in sides {
        if let Some(medium) = unrecorded(copy) {
            return keep(side, medium);
        }
    }
    for (side, copy) in sides {
        if let Some(medium) = copy.medium {
            return keep(side, medium);
        }
    }
    Plan::Quarantine
}

/// Whether a joiner's block differs from the in-sync copy's and must be copied. Only the in-sync copy's record counts.
#[must_use]
pub fn settle_joiner(in_sync: Record, joiner: &Exhibit<'_>) -> bool {
    joiner.newest() != Some(in_sync) || joiner.medium != Some(in_sync.checksum)
}
