//! Replaying owners: which slots belong to whom, which extents are unsettled, which records touch them.
//!
//! Records are replayed in the order of the log, across gaps. A record of a slot that is free then is
//! passed over: its extent was freed by a record that the index already contains.
//! What this must not know: descriptor pages; how an extent's blocks come out.

use super::scan::Scan;
use crate::bugs::{self, Bug};
use crate::collections::Map;
use crate::format::log_block;
use crate::format::record::Record;
use crate::id::ShardSequence;
use crate::store::interface::OpenFault;
use crate::store::slots::{SlotState, Slots};

/// Place of a record: block in the scan, byte in its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) block: u32,
    pub(super) byte: u16,
}

/// A slot the log has something to say about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touched {
    pub(super) slot: u32,
    pub(super) unsettled: bool,
    /// Its records: a part of `Replay::records`.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What the log comes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Replay {
    pub(super) ceiling: ShardSequence,
    /// Extents that must be settled.
    pub(super) unsettled: u32,
    pub(super) touched: Vec<Touched>,
    /// By slot, then in the order of the log.
    pub(super) records: Vec<(u32, Place)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Life {
    unsettled: bool,
    /// Records before this place are of a former owner.
    since: Option<Place>,
    touched: bool,
}

/// Replays the scanned log over the owners that the index gave.
pub(super) fn replay(slots: &mut Slots, scan: &Scan, flagged: &[u32], ceiling: ShardSequence) -> Result<Replay, OpenFault> {
    let mut lives: Map<u32, Life> = Map::default();
    for slot in flagged {
        lives.insert(*slot, Life { unsettled: true, ..Life::default() });
    }
    let mut out = Replay { ceiling, ..Replay::default() };
    for (block, found) in (0_u32..).zip(&scan.blocks) {
        for (byte, record) in log_block::records(&found.packed) {
            let place = Place { block, byte: u16::try_from(byte).unwrap_or(u16::MAX) };
            let slot = match record {
                Record::Allocated { slot, .. }
                | Record::Activated { slot }
                | Record::Sealed { slot }
                | Record::Written { slot, .. }
                | Record::Unreadable { slot, .. }
                | Record::Zero { slot, .. }
                | Record::Freed { slot } => slot,
                Record::Ceiling { ceiling } => {
                    if !bugs::is(Bug::CeilingNotReplayed) {
                        out.ceiling = out.ceiling.max(ceiling);
                    }
                    continue;
                }
            };
            if slot >= slots.count() {
                return Err(OpenFault::Log { sequence: found.sequence, flushed: scan.flushed });
            }
            let owned = slots.get(slot).state == SlotState::Allocated;
            match record {
                Record::Allocated { slot, key } => {
                    if slots.replay_allocated(slot, key, found.sequence) {
                        lives.insert(slot, Life { since: Some(place), ..Life::default() });
                    }
                }
                Record::Freed { slot } => {
                    slots.replay_freed(slot);
                    lives.remove(&slot);
                }
                Record::Activated { slot } if owned => lives.entry(slot).or_default().unsettled = true,
                Record::Sealed { slot } if owned => lives.entry(slot).or_default().unsettled = false,
                Record::Written { slot, .. } | Record::Unreadable { slot, .. } | Record::Zero { slot, .. } if owned => {
                    let life = lives.entry(slot).or_default();
                    // Whether or not its `activated` record is among those that were found.
                    (life.touched, life.unsettled) = (true, true);
                    out.records.push((slot, place));
                }
                Record::Activated { .. }
                | Record::Sealed { .. }
                | Record::Written { .. }
                | Record::Unreadable { .. }
                | Record::Zero { .. }
                | Record::Ceiling { .. } => {}
            }
        }
    }
    slots.finish_load();
    out.records.retain(|(slot, place)| {
        let owned = slots.get(*slot).state == SlotState::Allocated;
        owned && lives.get(slot).is_some_and(|life| life.since.is_none_or(|since| *place >= since))
    });
    out.records.sort_unstable();
    let mut touched: Vec<(u32, Life)> = lives
        .into_iter()
        .filter(|(slot, life)| (life.unsettled || life.touched) && slots.get(*slot).state == SlotState::Allocated)
        .collect();
    touched.sort_unstable_by_key(|(slot, _)| *slot);
    let mut start = 0;
    for (slot, life) in touched {
        let count = out.records[start..].iter().take_while(|(of, _)| *of == slot).count();
        out.touched.push(Touched { slot, unsettled: life.unsettled, start, end: start + count });
        start += count;
        out.unsettled += u32::from(life.unsettled);
    }
    Ok(out)
}
