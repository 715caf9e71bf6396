//! One copy crashes and the other goes on serving, alone, with at most one storage fault on either: it reads, writes and
//! trims; the crashed one returns, joins, and may crash again while it does; then it has to serve alone itself.
//!
//! No read ever returns bytes that are not the block's current content.
//!
//! What this must not know: how a joiner is brought up to date.

use crate::both::{Outcomes, Reads, blank, come_back, read};
use crate::copies::{Copy, Steps};
use crate::faults::{self, Region};
use crate::histories::*;
use crate::images::{Crash, Found, Image, Images, Strike, Tally};
use crate::meeting;
use crate::negative::Broken;
use sds_core::checksum::Checksum;
use sds_core::store::interface::{Bond, Input};
use std::collections::BTreeSet;

/// What the copy that goes on does alone.
const ALONE: [Option<Op>; 5] = [None, Some(W0), Some(W1), Some(Op::Zero), Some(Op::Trim)];
/// Its number, for its sequence and its values.
const ALONE_NUMBER: usize = 40;
/// That of a write while the crashed copy joins for the second time.
const LATER_NUMBER: usize = 41;

/// The copy that goes on, when the other one returns.
#[derive(Clone)]
struct Survivor {
    copy: Copy,
    current: [u64; 2],
    /// The last operation that touched each block; `None` for what was there before.
    last: [Option<usize>; 2],
    /// Blocks that a storage fault has hit here.
    damaged: [bool; 2],
    /// Operations of the history that it has.
    has: usize,
    /// It had sealed the extent when the other went.
    sealed: bool,
    what: String,
}

/// All returns of one history.
struct Returns<'a> {
    ops: &'a [Op],
    broken: Broken,
    interrupt_every: u64,
    seen: BTreeSet<(usize, usize, u64, bool)>,
    outcomes: Outcomes,
    violation: Option<String>,
}

/// Explores a history and has each image of the copy that crashed return to each state of the one that went on.
pub(crate) fn run(from: Start, ops: &[Op], strike: Strike, interrupt_every: u64, broken: Broken) -> (Outcomes, Tally, Option<String>) {
    let images = Images::of(start(from), ops, strike, broken);
    let mut returns = Returns { ops, broken, interrupt_every, seen: BTreeSet::new(), outcomes: Outcomes::default(), violation: None };
    let mut survivors = Vec::new();
    for has in 0..=ops.len() {
        returns.survivors(from, has, strike != Strike::None, &mut survivors);
    }
    let mut found: Vec<(Crash, &Found)> = Vec::new();
    for image in &images.all {
        let class = (image.crash, &image.found);
        let name = found.iter().position(|known| *known == class).unwrap_or_else(|| {
            found.push(class);
            found.len() - 1
        });
        for (number, survivor) in survivors.iter().enumerate() {
            let two_faults = image.is_faulty() && survivor.damaged.contains(&true);
            if !two_faults && can_survive(ops, image, survivor) {
                returns.return_of(image, name, survivor, number);
            }
            if returns.violation.is_some() {
                return (returns.outcomes, images.tally, returns.violation);
            }
        }
    }
    (returns.outcomes, images.tally, None)
}

/// Whether one copy can have had so many operations when the other crashed: each was sent when those that it overlaps were
/// complete on both. One that reached only the copy that is lost may never come; one that reached only the other does. What is sealed is
/// complete on both.
fn can_survive(ops: &[Op], image: &Image, survivor: &Survivor) -> bool {
    let (issued, has) = (image.moment.issued, survivor.has);
    if survivor.sealed {
        // Not promised if the log of the other loses its end: it does not know what it lacks, and nobody asks.
        let log_is_struck = image.faults.iter().any(|(_, region)| *region == Region::Log);
        return issued == has && (0..has).all(|number| image.moment.has_done(number)) && !log_is_struck;
    }
    let waited = |later: usize| (0..later).all(|earlier| !overlap(ops[earlier], ops[later]) || image.moment.has_done(earlier));
    (issued..has).all(waited) && has + 1 >= issued && has <= issued + 1 && (has..issued).all(|number| !image.moment.has_done(number))
}

impl Returns<'_> {
    /// Every state of the copy that goes on after so many operations.
    fn survivors(&mut self, from: Start, has: usize, faults: bool, out: &mut Vec<Survivor>) {
        let mut node = start(from);
        let (mut current, mut last) = (BLOCKS.map(|block| value_at(from, block)), [None; 2]);
        for (number, op) in self.ops.iter().enumerate().take(has) {
            let token = send(&mut node.rig, *op, number);
            node.rig.drain();
            node.rig.reply(token).unwrap();
            note(*op, number, number, &mut current, &mut last);
        }
        let mut sealed = node.clone();
        resolve(&mut sealed.rig, sequence_of(ALONE_NUMBER));
        sealed.rig.rest();
        // It is alone: what it has is all that counts.
        if self.broken != Broken::NothingInQuestion {
            node.rig.input(Input::Parted);
        }
        resolve(&mut node.rig, sequence_of(ALONE_NUMBER));
        let base = Survivor {
            copy: Copy { rig: node.rig, lost: false },
            current,
            last,
            damaged: [false; 2],
            has,
            sealed: false,
            what: format!("{from:?} {:?}, of which the one that goes on has {has}", self.ops),
        };
        for rests in [false, true] {
            for op in ALONE {
                let mut survivor = base.clone();
                survivor.goes_on(op, rests);
                self.check_alone(&mut survivor);
                out.push(survivor);
            }
        }
        if has > 0 {
            sealed.rig.input(Input::Parted);
            let what = format!("{}, sealed", base.what);
            for op in ALONE {
                let mut survivor = base.clone();
                (survivor.copy.rig, survivor.sealed, survivor.what) = (sealed.rig.clone(), true, what.clone());
                survivor.goes_on(op, false);
                self.check_alone(&mut survivor);
                out.push(survivor);
            }
        }
        if !faults {
            return;
        }
        let mut damages: Vec<[Checksum; 2]> = Vec::new();
        for fault in faults::all_on(&base.copy.rig.disk, &[Region::Data]) {
            for op in ALONE {
                let mut survivor = base.clone();
                survivor.copy.rig.disk.flush();
                if !fault.strike(&mut survivor.copy.rig.disk) {
                    continue;
                }
                let sums = survivor.copy.sums();
                survivor.damaged = BLOCKS.map(|block| sums[block] != Checksum::of(&bytes_of(survivor.current[block])));
                if survivor.damaged == [false; 2] || (op == ALONE[0] && damages.contains(&sums)) {
                    break;
                }
                damages.push(sums);
                survivor.what += &format!(", {fault:?}");
                survivor.goes_on(op, false);
                self.check_alone(&mut survivor);
                *self.outcomes.faults.entry((fault.kind, fault.region)).or_default() += 1;
                out.push(survivor);
            }
        }
    }

    /// While it is alone, a block reads as it is, or is an error where it is damaged.
    fn check_alone(&mut self, survivor: &mut Survivor) {
        for block in BLOCKS {
            let fine = match survivor.copy.read(block) {
                Ok(bytes) => bytes == bytes_of(survivor.current[block]),
                Err(_) => survivor.damaged[block],
            };
            if !fine {
                self.violation = Some(format!("{}: alone, block {block} is not {}", survivor.what, survivor.current[block]));
            }
        }
    }

    fn return_of(&mut self, image: &Image, name: usize, survivor: &Survivor, number: usize) {
        self.outcomes.met += 1;
        for what in &image.faults {
            *self.outcomes.faults.entry(*what).or_default() += 1;
        }
        // Up to where all is known to be complete on the lost copy: at most as far as it is, perhaps less.
        let complete = (0..self.ops.len()).take_while(|number| image.moment.has_done(*number)).count();
        let complete = if complete == 0 { FIRST_SEQUENCE } else { sequence_of(complete - 1) };
        for (complete, knows) in [(complete, true), (complete, false), (FIRST_SEQUENCE, true)] {
            // What the MDM knows of a log that ends too early, it knows if it was told in time.
            let forgets = image.forgot() && knows;
            let complete = if forgets || image.found == Found::Refused { 0 } else { complete };
            if self.violation.is_none() && self.seen.insert((name, number, complete, forgets)) {
                self.outcomes.joined += 1;
                self.judge(image, survivor, complete);
            }
        }
    }

    fn judge(&mut self, image: &Image, survivor: &Survivor, complete: u64) {
        let what = format!(
            "{}\n{:?} {:?} {:?}: {:?}, complete up to {complete}",
            survivor.what, image.crash, image.moment, image.faults, image.found
        );
        let returned = image.copy().unwrap_or_else(blank);
        let mut copies = [survivor.copy.clone(), returned.clone()];
        let mut steps = Steps::all();
        let _ = self.join(&mut copies, complete, &mut steps);
        if !self.check(&mut copies, image, survivor, &what) {
            return;
        }
        if !self.outcomes.joined.is_multiple_of(self.interrupt_every) {
            return;
        }
        for left in 0..steps.done {
            let mut survivor = survivor.clone();
            let mut copies = [survivor.copy.clone(), returned.clone()];
            if self.join(&mut copies, complete, &mut Steps::only(left)).is_some() {
                continue;
            }
            self.outcomes.interrupted += 1;
            let [own, joiner] = copies;
            survivor.copy = own;
            // What it was asked last is done whatever becomes of the joiner; it goes on, and perhaps has time to seal.
            survivor.copy.rig.drain();
            survivor.goes_on_at((left % 2 == 0).then_some(W1), LATER_NUMBER, left % 4 > 1);
            let crash = if left % 3 == 0 { Crash::Process } else { Crash::Power };
            let what = format!("{what}\njoining was cut short by {crash:?} after {left} disk operations");
            let Some(joiner) = come_back(joiner, crash, left % 3 == 1) else {
                self.violation = Some(format!("{what}: it does not open"));
                return;
            };
            let mut copies = [survivor.copy.clone(), joiner];
            let _ = self.join(&mut copies, complete, &mut Steps::all());
            if !self.check(&mut copies, image, &survivor, &what) {
                return;
            }
        }
    }

    fn join(&self, copies: &mut [Copy; 2], complete: u64, steps: &mut Steps) -> Option<meeting::Report> {
        if self.broken == Broken::JoinerWins {
            copies.swap(0, 1);
        }
        let report = meeting::join(copies, complete, 3000, steps, self.broken);
        if self.broken == Broken::JoinerWins {
            copies.swap(0, 1);
        }
        report
    }

    /// Both are in sync: whoever serves, the block reads as it is.
    fn check(&mut self, copies: &mut [Copy; 2], image: &Image, survivor: &Survivor, what: &str) -> bool {
        for block in BLOCKS {
            let current = survivor.current[block];
            let values = [current];
            // The copy that returned, alone: what it cannot read it says.
            let mut alone = copies[1].clone();
            let reads = match alone.value(block, &values) {
                Ok(value) => value.map_or(Reads::Other, Reads::As),
                Err(_) => Reads::Error,
            };
            let may_fail = image.is_faulty() || survivor.damaged[block];
            if reads != Reads::As(current) && !(may_fail && reads == Reads::Error) {
                self.violation = Some(format!("{what}\nthe copy that returned reads {reads:?} in block {block}, not {current}"));
                return false;
            }
            // Both: an error is left only where the copy that went on was damaged, and the other had lost the bytes, too.
            for side in [0, 1] {
                let reads = read(copies, side, block, &values, self.broken, &mut self.outcomes.repaired);
                if reads == Reads::As(current) {
                    continue;
                }
                self.outcomes.errors += 1;
                if reads != Reads::Error || !survivor.damaged[block] || had(self.ops, image, survivor, block) {
                    self.violation = Some(format!("{what}\ncopy {side} of two reads {reads:?} in block {block}, not {current}"));
                    return false;
                }
            }
        }
        let lists = copies.each_mut().map(Copy::blocks);
        let [Ok((own, own_held)), Ok((other, other_held))] = lists else { panic!("a copy that was read has a descriptor") };
        let alike = |block: usize| survivor.damaged[block] || own[block].record() == other[block].record();
        let alike = BLOCKS.into_iter().all(alike);
        if own_held && other_held && !alike {
            self.violation = Some(format!("{what}\nthe copies differ: {:?} {:?}", &own[..2], &other[..2]));
            return false;
        }
        true
    }
}

/// Whether the copy that crashed certainly had what a block is now: nothing was under way there, and nothing has come since.
fn had(ops: &[Op], image: &Image, survivor: &Survivor, block: usize) -> bool {
    let mut sent = (0..image.moment.issued).filter(|number| touched(ops[*number])[block]);
    match survivor.last[block] {
        None => sent.next().is_none(),
        Some(last) if last >= ALONE_NUMBER || image.crash == Crash::Power || !image.moment.has_done(last) => false,
        Some(last) => sent.all(|number| number <= last && image.moment.has_done(number)),
    }
}

fn note(op: Op, number: usize, value: usize, current: &mut [u64; 2], last: &mut [Option<usize>; 2]) {
    for block in BLOCKS.into_iter().filter(|block| touched(op)[*block]) {
        (current[block], last[block]) = (value_after(op, value, block), Some(number));
    }
}

impl Survivor {
    fn goes_on(&mut self, op: Option<Op>, rests: bool) {
        self.goes_on_at(op, ALONE_NUMBER, rests);
        self.what += &format!("; then alone {op:?}, rests {rests}");
    }

    fn goes_on_at(&mut self, op: Option<Op>, number: usize, rests: bool) {
        self.copy.rig.bond = Bond::None;
        if let Some(op) = op {
            let token = send(&mut self.copy.rig, op, number);
            self.copy.rig.drain();
            self.copy.rig.reply(token).unwrap();
            note(op, number, number, &mut self.current, &mut self.last);
            for block in BLOCKS.into_iter().filter(|block| touched(op)[*block]) {
                self.damaged[block] = false;
            }
        }
        if rests {
            self.copy.rig.rest();
        }
    }
}
