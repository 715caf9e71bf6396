//! The per-block history checker and the check of every answer that was an error.
//!
//! Promises held here (architecture.md): an acknowledged write is not lost by crashes of processes;
//! a flushed one not by power cuts; each 4 KiB block is linearizable, whatever the connections did;
//! a fenced session writes nothing once the take-over was answered (I3); bytes that were never
//! written are never read; errors are answered only where something is wrong.
//!
//! Must not know: machines, formats, messages. It sees a [`History`] and nothing else.

mod block;
mod content;
pub mod invariants;
#[cfg(test)]
mod tests;

use crate::history::{Action, Answer, History, Mark, Moment, Op};
use crate::pattern::digest;
use block::{Effect, Event, Fault, Search};
use content::Source;
use sds_core::error::Status;
use sds_core::unit::BLOCK_BYTES;
use std::collections::{BTreeMap, BTreeSet};

/// What a run was entitled to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Devices may be full.
    pub no_space: bool,
    /// A flush may report a loss, or fail, where another copy has kept everything.
    pub needless_flush_failure: bool,
}

/// Something that must not have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What, with the operations that show it.
    pub story: String,
}

/// What the checkers found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// In order of blocks; empty if all is well.
    pub violations: Vec<Violation>,
    /// Blocks looked at.
    pub blocks: u64,
    /// Blocks whose history had too many possibilities.
    pub undecided: u64,
}

type BlockKey = (u32, u64);
type BlockEvents = Vec<(u64, Event)>;

/// Checks a history. `place_of` says which blocks share their copies; `None` when no device holds the block
/// yet.
#[must_use]
pub fn check(history: &History, allowance: Allowance, place_of: impl Fn(u32, u64) -> Option<u32>) -> Verdict {
    let mut verdict = Verdict::default();
    check_errors(history, allowance, &place_of, &mut verdict);
    let damaged: BTreeSet<BlockKey> = history
        .marks()
        .iter()
        .filter_map(|(_, mark)| match mark {
            Mark::Damaged { volume, lba } => Some((*volume, *lba)),
            Mark::PowerCut { .. } | Mark::Opened { .. } | Mark::TakeOver { .. } | Mark::Kept { .. } | Mark::DeviceTrouble { .. } => None,
        })
        .collect();
    let flushes = flush_events(history);
    for ((volume, lba), mut events) in block_events(history) {
        verdict.blocks += 1;
        let place = place_of(volume, lba);
        let mut cuts = false;
        for (moment, mark) in history.marks() {
            let event = match mark {
                Mark::PowerCut { place: cut } if Some(*cut) == place => {
                    cuts = true;
                    Event::PowerCut
                }
                Mark::Opened { volume: opened, session } if *opened == volume => Event::Fence { below: session.0 },
                Mark::Kept { volume: kept, lba: block } if (*kept, *block) == (volume, lba) && damaged.contains(&(volume, lba)) => {
                    Event::Unknown
                }
                Mark::PowerCut { .. }
                | Mark::Opened { .. }
                | Mark::TakeOver { .. }
                | Mark::Kept { .. }
                | Mark::Damaged { .. }
                | Mark::DeviceTrouble { .. } => continue,
            };
            events.push((moment.order, event));
        }
        if cuts && let Some(flushes) = flushes.get(&volume) {
            events.extend(flushes);
        }
        events.sort_by_key(|(order, _)| *order);
        check_block(history, (volume, lba), cuts, &events, &mut verdict);
    }
    verdict
}

fn check_block(history: &History, (volume, lba): BlockKey, cuts: bool, events: &BlockEvents, verdict: &mut Verdict) {
    let mut search = Search::new(volume, lba, cuts);
    for (order, event) in events {
        let Err(fault) = search.on(*order, *event) else { continue };
        let story = match fault {
            Fault::Undecided => {
                verdict.undecided += 1;
                return;
            }
            Fault::FlushLied { asked } => {
                format!("volume {volume} block {lba}: the flush asked at moment {asked} succeeded for a write that a power cut had eaten")
            }
            Fault::Impossible { op, could_hold } => {
                let read = &history.ops()[op as usize];
                let seen = origin_of(history, read, (volume, lba));
                let holds = could_hold.join(" | ");
                format!(
                    "volume {volume} block {lba}: no order of events explains operation {op} ({read}); it saw {seen}; the block could hold: {holds}"
                )
            }
        };
        verdict.violations.push(Violation { story: format!("{story}\n{}", block_story(history, (volume, lba), *order)) });
        return;
    }
}

/// Which write a read's bytes come from, if one alone explains them.
fn origin_of(history: &History, read: &Op, (volume, lba): BlockKey) -> String {
    let Some((_, Answer::Data(seen))) = &read.answered else { return "what its answer says".to_owned() };
    let Some(seen) = seen.iter().find(|seen| seen.lba == lba) else { return "nothing of this block".to_owned() };
    let mut bytes = [0_u8; BLOCK_BYTES as usize];
    let part = &mut bytes[..seen.len as usize];
    if digest(part) == seen.digest {
        return "zeroes".to_owned();
    }
    for (index, op) in history.ops().iter().enumerate() {
        if let Action::Write(stamp) = op.action {
            crate::pattern::fill(part, stamp, volume, lba * u64::from(BLOCK_BYTES) + u64::from(seen.start));
            if digest(part) == seen.digest {
                return format!("operation {index} ({op})");
            }
        }
    }
    "bytes of no single write".to_owned()
}

/// The last operations on a block before a moment.
fn block_story(history: &History, (volume, lba): BlockKey, until: u64) -> String {
    let (from, to) = (lba * u64::from(BLOCK_BYTES), (lba + 1) * u64::from(BLOCK_BYTES));
    let mut lines: Vec<(u64, String)> = Vec::new();
    for (index, op) in history.ops().iter().enumerate() {
        let touches = op.volume == volume && (op.action == Action::Flush || (op.offset < to && from < op.offset + op.len));
        if touches && op.asked.order <= until {
            lines.push((op.asked.order, format!("    op {index}: {op}")));
        }
    }
    for (moment, mark) in history.marks() {
        if moment.order <= until {
            lines.push((moment.order, format!("    {} {mark:?}", crate::trace::Stamp(moment.time))));
        }
    }
    lines.sort();
    let skip = lines.len().saturating_sub(24);
    lines.into_iter().skip(skip).map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// Flush answers by volume.
fn flush_events(history: &History) -> BTreeMap<u32, BlockEvents> {
    let mut events: BTreeMap<u32, BlockEvents> = BTreeMap::new();
    let losses: Vec<(&Op, Moment)> = history
        .ops()
        .iter()
        .filter_map(|op| match &op.answered {
            Some((answered, Answer::Failed(Status::FlushLost))) => Some((op, *answered)),
            Some(_) | None => None,
        })
        .collect();
    for op in history.ops().iter().filter(|op| op.action == Action::Flush) {
        let Some((answered, answer)) = &op.answered else { continue };
        let event = match answer {
            Answer::Done => {
                let beside_a_loss = losses.iter().any(|(loss, at)| loss.volume == op.volume && loss.asked < *answered && op.asked < *at);
                Event::Flushed { asked: op.asked.order, session: op.session.0, honest: !beside_a_loss }
            }
            Answer::Failed(Status::FlushLost) => Event::FlushLost,
            Answer::Failed(_) | Answer::Data(_) | Answer::Holes(_) => continue,
        };
        events.entry(op.volume).or_default().push((answered.order, event));
    }
    events
}

/// Asks and answers, block by block, for every block that is read or written with data.
fn block_events(history: &History) -> BTreeMap<BlockKey, BlockEvents> {
    let block = u64::from(BLOCK_BYTES);
    let mut blocks: BTreeMap<BlockKey, BlockEvents> = BTreeMap::new();
    for op in history.ops() {
        let named = match (&op.action, &op.answered) {
            (Action::Write(_), _) | (Action::Read, Some((_, Answer::Data(_)))) => op.offset / block..(op.offset + op.len).div_ceil(block),
            (Action::Read | Action::Zero | Action::Flush | Action::Status, _) => continue,
        };
        for lba in named {
            blocks.entry((op.volume, lba)).or_default();
        }
    }
    for (index, op) in history.ops().iter().enumerate() {
        let index = u32::try_from(index).expect("OpIndex is a u32");
        let mut add = |lba: u64, effect: Effect| {
            let Some(events) = blocks.get_mut(&(op.volume, lba)) else { return };
            let Some(end) = ending(op, index) else { return };
            events.push((op.asked.order, Event::Ask { op: index, effect, session: op.session.0 }));
            events.extend(end);
        };
        match (op.action, &op.answered) {
            (Action::Write(stamp), _) => each_block(op, |lba, start, end| {
                add(lba, Effect::Write { start, end, source: Source::Write(stamp) });
            }),
            (Action::Zero, _) => each_block(op, |lba, start, end| add(lba, Effect::Write { start, end, source: Source::Zero })),
            (Action::Read, Some((_, Answer::Data(seen)))) => {
                for seen in seen {
                    add(seen.lba, Effect::Read { start: seen.start, len: seen.len, digest: seen.digest });
                }
            }
            (Action::Status, Some((_, Answer::Holes(holes)))) => {
                let zero = digest(&[0; BLOCK_BYTES as usize]);
                for lba in holes {
                    add(*lba, Effect::Read { start: 0, len: BLOCK_BYTES, digest: zero });
                }
            }
            (Action::Read | Action::Status | Action::Flush, _) => {}
        }
    }
    blocks
}

fn each_block(op: &Op, mut visit: impl FnMut(u64, u32, u32)) {
    let block = u64::from(BLOCK_BYTES);
    for lba in op.offset / block..(op.offset + op.len).div_ceil(block) {
        let within = |byte: u64| u32::try_from(byte.clamp(lba * block, (lba + 1) * block) - lba * block).expect("inside a block");
        visit(lba, within(op.offset), within(op.offset + op.len));
    }
}

/// How an operation ends for the search: `None` when it certainly did nothing, an empty list when
/// only a fence or the end of the run bounds it.
fn ending(op: &Op, index: u32) -> Option<Vec<(u64, Event)>> {
    let Some((moment, answer)) = &op.answered else { return Some(Vec::new()) };
    match answer {
        Answer::Done | Answer::Data(_) | Answer::Holes(_) => Some(vec![(moment.order, Event::Answer { op: index, durable: op.durable })]),
        Answer::Failed(status) => match status {
            // Refused before anything was touched, or retried after an attempt that can no longer land (I10).
            Status::NoSpace | Status::Corrupt => Some(vec![(moment.order, Event::GiveUp { op: index })]),
            Status::Invalid | Status::PastEnd | Status::NoVolume | Status::ReadOnly => None,
            Status::Ok
            | Status::Fenced
            | Status::MapStale
            | Status::NotReady
            | Status::DeviceFailed
            | Status::PayloadDamaged
            | Status::FlushLost
            | Status::Stopping => Some(Vec::new()),
        },
    }
}

/// Every error must have a cause that was there before it.
fn check_errors(history: &History, allowance: Allowance, place_of: &impl Fn(u32, u64) -> Option<u32>, verdict: &mut Verdict) {
    for (index, op) in history.ops().iter().enumerate() {
        let Some((answered, Answer::Failed(status))) = &op.answered else { continue };
        let touches = |volume: u32, lba: u64| {
            let block = u64::from(BLOCK_BYTES);
            op.volume == volume && lba * block < op.offset + op.len && op.offset < (lba + 1) * block
        };
        let any = |cause: &dyn Fn(&Mark) -> bool| history.marks().iter().any(|(at, mark)| at < answered && cause(mark));
        let cut_or_trouble = |mark: &Mark| match mark {
            Mark::PowerCut { .. } | Mark::DeviceTrouble { .. } => true,
            Mark::Damaged { .. } | Mark::Kept { .. } | Mark::Opened { .. } | Mark::TakeOver { .. } => false,
        };
        let explained = match status {
            Status::Corrupt => any(&|mark| matches!(mark, Mark::Damaged { volume, lba } if touches(*volume, *lba))),
            Status::Fenced => {
                any(&|mark| matches!(mark, Mark::TakeOver { volume, client } if *volume == op.volume && *client != op.client))
            }
            Status::FlushLost => op.action == Action::Flush && (allowance.needless_flush_failure || any(&cut_or_trouble)),
            // Less than a block is written, whatever the bytes are.
            Status::NoSpace => {
                allowance.no_space
                    && (matches!(op.action, Action::Write(_)) || op.len < u64::from(BLOCK_BYTES) && op.action == Action::Zero)
            }
            Status::DeviceFailed if any(&|mark| matches!(mark, Mark::Damaged { volume, lba } if touches(*volume, *lba))) => true,
            Status::DeviceFailed if op.action == Action::Flush && allowance.needless_flush_failure => true,
            Status::DeviceFailed => {
                let block = u64::from(BLOCK_BYTES);
                let lbas = op.offset / block..(op.offset + op.len).div_ceil(block);
                any(&|mark| match mark {
                    Mark::DeviceTrouble { place } => {
                        op.action == Action::Flush || lbas.clone().any(|lba| place_of(op.volume, lba) == Some(*place))
                    }
                    Mark::PowerCut { .. } | Mark::Damaged { .. } | Mark::Kept { .. } | Mark::Opened { .. } | Mark::TakeOver { .. } => false,
                })
            }
            Status::Ok
            | Status::Invalid
            | Status::PastEnd
            | Status::NoVolume
            | Status::MapStale
            | Status::NotReady
            | Status::PayloadDamaged
            | Status::ReadOnly
            | Status::Stopping => false,
        };
        if !explained {
            verdict.violations.push(Violation { story: format!("operation {index} failed without a cause: {op}") });
        }
    }
}
