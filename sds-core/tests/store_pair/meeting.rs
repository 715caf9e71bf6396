//! Two copies are made one, as `replica::resync` does it with the extents of a sweep: listed, compared, bytes copied, plans
//! taken. What is decided is decided by the product's own `decide`; what is here is the order of things, and rules that are
//! broken on purpose.
//!
//! In each pair the first copy is our own, the one that drives: the primary's, or the one in sync. Everything may be cut
//! short after a number of disk operations: then the answer is `None`.
//!
//! What this must not know: what ought to come of it.

use crate::copies::{Copy, Listed, Steps};
use crate::decide::{self, Decision, List, Party};
use crate::histories::BLOCKS;
use crate::negative::Broken;
use crate::store_rig::key;
use sds_core::checksum::Checksum;
use sds_core::exchange::PlanEntry;
use sds_core::format::descriptor::Content;
use sds_core::id::ShardSequence;
use sds_core::store::interface::{BlockSet, Bond, Input};

/// What was noticed on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Blocks kept though no record names their bytes.
    pub(crate) unrecorded: u32,
    /// Blocks of which no copy has good bytes.
    pub(crate) lost: u32,
    /// Blocks that took the other copy's bytes for damaged ones.
    pub(crate) repaired: u32,
}

/// What an own or other copy says of the extent.
struct Told {
    listed: Option<Listed>,
    list: List,
    held: bool,
    damaged: bool,
}

fn told(copy: &mut Copy) -> Told {
    let listed = copy.listed();
    match copy.blocks() {
        Ok((list, held)) => Told { listed, list, held, damaged: false },
        Err(_) => Told { listed, list: decide::not_held(), held: true, damaged: true },
    }
}

impl Told {
    fn unsettled(&self) -> bool {
        self.listed.is_some_and(|listed| listed.unsettled)
    }

    fn freed(&mut self) {
        (self.list, self.held, self.damaged) = (decide::not_held(), false, false);
    }
}

/// Both members have restarted.
pub(crate) fn pair(copies: &mut [Copy; 2], version: u64, steps: &mut Steps, broken: Broken) -> Option<Report> {
    let mut told = copies.each_mut().map(told);
    let either = told.iter().any(Told::unsettled);
    if !either && told[0].listed.is_some() == told[1].listed.is_some() {
        return Some(Report::default());
    }
    let lost = if broken == Broken::CacheKept { [false; 2] } else { copies.each_ref().map(|copy| copy.lost) };
    for side in BLOCKS.into_iter().filter(|_| broken == Broken::DamagedCounts) {
        if told[side].damaged {
            copies[side].free(steps)?;
            told[side].freed();
        }
    }
    assert!(told.iter().all(|told| !told.damaged), "it would give the shard up");
    if !told[0].held && !told[1].held {
        return Some(Report::default());
    }
    let decide = |own: &Told, other: &Told| {
        let party = |told, cache_lost| -> Party<'_> {
            let told: &Told = told;
            Party { list: &told.list, cache_lost, unsettled: told.unsettled() }
        };
        decide::pair(&party(own, lost[0]), &party(other, lost[1]), ShardSequence::new(version))
    };
    let decision = place(copies, &mut told, &decide, steps, broken)?;
    give_plans(copies, &told, &decision, steps, broken)?;
    Some(Report { unrecorded: decision.unrecorded, lost: decision.lost, repaired: 0 })
}

/// The second copy joins the first, which serves; all up to `complete` is known to be complete on it.
pub(crate) fn join(copies: &mut [Copy; 2], complete: u64, version: u64, steps: &mut Steps, broken: Broken) -> Option<Report> {
    let mut told = copies.each_mut().map(told);
    let newer = told[0].listed.is_some_and(|own| own.newest.is_none_or(|newest| newest > complete));
    let either = told.iter().any(Told::unsettled) && broken != Broken::JoinerNotAsked;
    let one_sided = told[0].listed.is_some() != told[1].listed.is_some();
    if either || one_sided || newer {
        if told[1].damaged {
            copies[1].free(steps)?;
            told[1].freed();
        }
        let decision = if told[0].damaged {
            Decision::quarantine_other(ShardSequence::new(version))
        } else if !told[0].held {
            if told[1].held {
                copies[1].free(steps)?;
            }
            copies[1].flush(steps)?;
            return Some(Report::default());
        } else {
            let must_take = told[1].held && told[1].unsettled();
            let decide = |own: &Told, other: &Told| decide::join(&own.list, &other.list, ShardSequence::new(complete), must_take);
            place(copies, &mut told, &decide, steps, broken)?
        };
        let says_lost = decision.lost > 0 && broken != Broken::LostNotTold;
        if decision.other.is_some() && (told[1].held || !decision.runs.is_empty() || says_lost) {
            give_plans(copies, &told, &decision, steps, broken)?;
        }
        copies[0].rig.input(Input::Compared { key: key(0) });
        copies[1].flush(steps)?;
        return Some(Report { unrecorded: decision.unrecorded, lost: decision.lost, repaired: 0 });
    }
    copies[1].flush(steps)?;
    Some(Report::default())
}

/// The only copy has restarted.
pub(crate) fn alone(copy: &mut Copy, version: u64, steps: &mut Steps) -> Option<Report> {
    let told = told(copy);
    if !told.unsettled() || told.damaged {
        return Some(Report::default());
    }
    let decision = decide::alone(&told.list, ShardSequence::new(version));
    if let Some(plan) = &decision.own {
        copy.take_plan(plan, steps)?;
    }
    Some(Report { unrecorded: decision.unrecorded, lost: decision.lost, repaired: 0 })
}

/// A block that could not be read at the first copy takes the bytes of the second.
pub(crate) fn repair(copies: &mut [Copy; 2], block: usize, broken: Broken) -> Report {
    let mut told = copies.each_mut().map(told);
    let info = told[0].list[block].info;
    let found = Checksum::of(&copies[0].medium(block));
    let mut damaged = BlockSet::default();
    if info.content == Content::Data && found != info.checksum {
        damaged.insert(block as u8);
    }
    if broken == Broken::RepairsUnverified {
        let bytes = copies[1].medium(block);
        copies[0].write(block, &bytes, info.version.get(), Bond::None, &mut Steps::all());
        return Report { repaired: 1, ..Report::default() };
    }
    let decide = |own: &Told, other: &Told| decide::repair(&own.list, &other.list, &damaged);
    let decision =
        place(copies, &mut told, &decide, &mut Steps::all(), broken).unwrap_or_else(|| unreachable!("as many steps as it takes"));
    Report { repaired: decision.runs.len() as u32, lost: decision.lost, unrecorded: 0 }
}

/// Decides, and brings bytes to where they lack; bytes that are not what they were said to be are as good as none, and
/// it is decided again.
fn place(
    copies: &mut [Copy; 2],
    told: &mut [Told; 2],
    decide: &dyn Fn(&Told, &Told) -> Decision,
    steps: &mut Steps,
    broken: Broken,
) -> Option<Decision> {
    'again: loop {
        let decision = decide(&told[0], &told[1]);
        for run in &decision.runs {
            let (from, to, plan) = if run.from_own { (0, 1, &decision.other) } else { (1, 0, &decision.own) };
            let seals = broken == Broken::SettlingSealed && !told[to].unsettled();
            let bond = if plan.is_none() || seals { Bond::None } else { Bond::Settling };
            for block in (usize::from(run.first)..).take(usize::from(run.count)) {
                let bytes = copies[from].medium(block);
                if Checksum::of(&bytes) != decision.checksums[block] {
                    decide::spoil(&mut told[from].list, block);
                    continue 'again;
                }
                copies[to].write(block, &bytes, run.version.get(), bond, steps)?;
            }
        }
        return Some(decision);
    }
}

/// The copy that has the extent settled comes before one that has it unsettled or did not have it: while that one's plan is
/// not durable, the extent stays in the exchange whatever happens.
fn give_plans(copies: &mut [Copy; 2], told: &[Told; 2], decision: &Decision, steps: &mut Steps, broken: Broken) -> Option<()> {
    let keeps = |told: &Told| !told.held || told.unsettled();
    let other_first = keeps(&told[0]) && !keeps(&told[1]);
    let order = if other_first == (broken != Broken::UnsettledFirst) { [1, 0] } else { [0, 1] };
    for side in order {
        let plan: &Option<Box<[PlanEntry; 256]>> = if side == 0 { &decision.own } else { &decision.other };
        if let Some(plan) = plan {
            copies[side].take_plan(plan, steps)?;
        }
    }
    Some(())
}
