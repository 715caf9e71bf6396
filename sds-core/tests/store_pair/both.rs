//! Both copies crash, each at a point of its own and in its own way, at most one storage fault on one of them: every pair of images
//! that can meet is settled, read, cut off and read again; and settled once more after a crash in the midst of it.
//!
//! What this must not know: how copies settle.

use crate::copies::{Copy, Steps};
use crate::faults::{Kind, Region};
use crate::histories::{BLOCKS, Op, Start, blank_device, start};
use crate::images::{Crash, Found, Image, Images, Strike, Tally};
use crate::meeting::{self, Report};
use crate::negative::Broken;
use crate::promises::{allowed, can_meet, ever};
use sds_core::store::interface::StoreError;
use std::collections::{BTreeMap, BTreeSet};

/// Who counts when the copies meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Both.
    Pair,
    /// The first; the second joins it, and nothing is known to be complete on it.
    FirstAlone,
}

/// How a block reads at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reads {
    /// One of the values it ever had.
    As(u64),
    /// Something else.
    Other,
    Error,
}

/// What cuts settling short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Processes,
    /// `landed`: what was under way is on the medium.
    Power {
        landed: bool,
    },
    OneProcess {
        dies: usize,
    },
}

const ENDS: [End; 5] =
    [End::Processes, End::Power { landed: true }, End::Power { landed: false }, End::OneProcess { dies: 0 }, End::OneProcess { dies: 1 }];

/// What came of the pairs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) met: u64,
    pub(crate) joined: u64,
    pub(crate) interrupted: u64,
    /// Blocks that were right only after a repair.
    pub(crate) repaired: u64,
    /// Blocks that nobody knew any more, and that said so.
    pub(crate) errors: u64,
    /// Blocks with bytes that were not promised, and that were counted as in doubt.
    pub(crate) doubtful: u64,
    /// Blocks whose trim came undone: a freed extent leaves no evidence, and the other copy's log lost its end.
    pub(crate) undone: u64,
    /// Pairs with a fault of each kind that showed.
    pub(crate) faults: BTreeMap<(Kind, Region), u64>,
}

impl Outcomes {
    pub(crate) fn add(&mut self, other: &Self) {
        self.met += other.met;
        self.joined += other.joined;
        self.interrupted += other.interrupted;
        self.repaired += other.repaired;
        self.errors += other.errors;
        self.doubtful += other.doubtful;
        self.undone += other.undone;
        for (what, count) in &other.faults {
            *self.faults.entry(*what).or_default() += count;
        }
    }
}

impl core::fmt::Display for Outcomes {
    fn fmt(&self, to: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        writeln!(to, "  joins {} of {} that can meet, cut short {}", self.joined, self.met, self.interrupted)?;
        writeln!(
            to,
            "  blocks repaired {}, errors {}, in doubt {}, trims undone {}",
            self.repaired, self.errors, self.doubtful, self.undone
        )?;
        write!(to, "  with a fault that shows: {:?}", self.faults)
    }
}

/// All pairs of one history.
pub(crate) struct Pairs<'a> {
    start: Start,
    ops: &'a [Op],
    broken: Broken,
    /// One in so many joins is interrupted.
    interrupt_every: u64,
    seen: BTreeSet<Joined>,
    pub(crate) outcomes: Outcomes,
    pub(crate) violation: Option<String>,
}

/// What a join depends on: the classes of both images, and what is allowed of them.
type Joined = (usize, usize, [Vec<u64>; 2], [bool; 2]);

/// What is promised of two images that meet.
#[derive(Clone)]
struct Promise {
    allowed: [Vec<u64>; 2],
    /// The same if the power of both goes before they have settled.
    after_power: [Vec<u64>; 2],
    /// The block must be one of these, and readable; otherwise it may be an error, or be counted as in doubt.
    firm: [bool; 2],
    /// A copy lost power, or does when both settle: then bytes of no record may be a newer write's.
    may_doubt: bool,
    /// One copy has freed the extent, and the log of the other has lost its end to a fault.
    may_come_undone: bool,
    what: String,
}

/// Explores a history and joins its images.
pub(crate) fn run(from: Start, ops: &[Op], strike: Strike, interrupt_every: u64, broken: Broken) -> (Outcomes, Tally, Option<String>) {
    let images = Images::of(start(from), ops, strike, broken);
    let mut pairs =
        Pairs { start: from, ops, broken, interrupt_every, seen: BTreeSet::new(), outcomes: Outcomes::default(), violation: None };
    let mut found: Vec<(Crash, &Found)> = Vec::new();
    let names: Vec<usize> = images
        .all
        .iter()
        .map(|image| {
            let class = (image.crash, &image.found);
            found.iter().position(|known| *known == class).unwrap_or_else(|| {
                found.push(class);
                found.len() - 1
            })
        })
        .collect();
    for (one, first) in images.all.iter().zip(&names) {
        for (other, second) in images.all.iter().zip(&names) {
            if !(one.is_faulty() && other.is_faulty()) && can_meet(ops, &one.moment, &other.moment) {
                pairs.meet([one, other], [*first, *second]);
            }
            if pairs.violation.is_some() {
                return (pairs.outcomes, images.tally, pairs.violation);
            }
        }
    }
    (pairs.outcomes, images.tally, None)
}

impl Pairs<'_> {
    fn promise(&self, images: [&Image; 2]) -> Promise {
        let moments = [&images[0].moment, &images[1].moment];
        let lost = images.map(|image| image.crash == Crash::Power);
        let after = |power| allowed(self.start, self.ops, moments, power);
        let faulty = images.iter().position(|image| image.is_faulty());
        // With a fault on one copy, what the other has lost with its cache is nowhere.
        let allowed = after(faulty.map_or(lost == [true, true], |faulty| lost[1 - faulty]));
        let firm = BLOCKS.map(|block| faulty.is_none() || allowed[block].len() == 1);
        let what = format!("{:?} {:?}", self.start, self.ops)
            + &images.map(|image| format!("\n{:?} {:?} {:?}: {:?}", image.crash, image.moment, image.faults, image.found)).concat();
        let holds = |image: &Image| matches!(image.found, Found::Open { held: true, .. });
        let may_come_undone = faulty.is_some_and(|faulty| {
            let (struck, other) = (images[faulty], images[1 - faulty]);
            struck.faults.iter().any(|(_, region)| *region == Region::Log) && holds(struck) && !holds(other)
        });
        Promise { allowed, after_power: after(true), firm, may_doubt: lost.contains(&true), may_come_undone, what }
    }

    fn meet(&mut self, images: [&Image; 2], names: [usize; 2]) {
        self.outcomes.met += 1;
        for what in images.iter().flat_map(|image| &image.faults) {
            *self.outcomes.faults.entry(*what).or_default() += 1;
        }
        let promise = self.promise(images);
        if !self.seen.insert((names[0], names[1], promise.allowed.clone(), promise.firm)) {
            return;
        }
        self.outcomes.joined += 1;
        let alone = |first: usize| {
            let second = images[1 - first].copy().unwrap_or_else(blank);
            [images[first].copy().unwrap_or_else(|| unreachable!("one fault refuses one device")), second]
        };
        // A device that cannot be opened is replaced; one whose loss of memory the MDM knows of joins the other.
        // So does one that cannot say what it holds: it gives the shard up.
        let is_out = |image: &Image| matches!(image.found, Found::Refused | Found::Damaged { .. });
        for side in BLOCKS {
            if (is_out(images[side]) && self.broken != Broken::DamagedCounts) || images[side].forgot() {
                self.judge(&alone(1 - side), Standing::FirstAlone, &promise);
            }
        }
        if let [Some(one), Some(other)] = images.map(Image::copy)
            && (!images.into_iter().any(is_out) || self.broken == Broken::DamagedCounts)
        {
            self.judge(&[one, other], Standing::Pair, &promise);
        }
    }

    fn judge(&mut self, copies: &[Copy; 2], standing: Standing, promise: &Promise) {
        if self.violation.is_some() {
            return;
        }
        let mut met = copies.clone();
        let mut steps = Steps::all();
        let report = settle(&mut met, standing, 2000, &mut steps, self.broken).unwrap_or_else(|| unreachable!("as many steps as it takes"));
        let Some(found) = self.read_both(&mut met, &promise.allowed, promise, &report, &format!("{standing:?} settled")) else { return };
        // Settled is settled: a power cut takes nothing of it.
        let only = found.map(|reads| match reads {
            Reads::As(value) => vec![value],
            Reads::Other | Reads::Error => Vec::new(),
        });
        let again = met.each_mut().map(|copy| {
            copy.rig.disk.cut(|_, _| 0);
            Copy::open(copy.rig.disk.clone(), Crash::Power, 3)
        });
        let [Some(one), Some(other)] = again else {
            self.violation = Some(format!("{}\n{standing:?}: a copy does not open after a second power cut", promise.what));
            return;
        };
        let mut met = [one, other];
        let _ = settle(&mut met, standing, 3000, &mut Steps::all(), self.broken);
        if self.read_both(&mut met, &only, promise, &report, &format!("{standing:?} after a second power cut")).is_none() {
            return;
        }
        if self.outcomes.joined.is_multiple_of(self.interrupt_every) {
            self.interrupt(copies, standing, promise, &report, steps.done);
        }
    }

    /// Settling is cut short after each disk operation, in every way, and done again.
    fn interrupt(&mut self, copies: &[Copy; 2], standing: Standing, promise: &Promise, first: &Report, operations: usize) {
        for steps in 0..operations {
            let mut met = copies.clone();
            let finished = settle(&mut met, standing, 2000, &mut Steps::only(steps), self.broken);
            assert!(finished.is_none(), "it was cut short");
            for end in ENDS {
                if self.violation.is_none() {
                    self.settle_again(met.clone(), standing, promise, first, end, steps);
                }
            }
        }
    }

    fn settle_again(&mut self, met: [Copy; 2], standing: Standing, promise: &Promise, first: &Report, end: End, steps: usize) {
        self.outcomes.interrupted += 1;
        let what = format!("{standing:?} cut short by {end:?} after {steps} disk operations");
        let [one, other] = met;
        let again = [(0, one), (1, other)].map(|(side, mut copy)| match end {
            End::OneProcess { dies } if side != dies => {
                // It lives, and has time to seal before the other is back.
                copy.rig.drain();
                copy.rig.rest();
                Some(copy)
            }
            End::OneProcess { .. } | End::Processes => come_back(copy, Crash::Process, false),
            End::Power { landed } => come_back(copy, Crash::Power, landed),
        });
        let [Some(one), Some(other)] = again else {
            self.violation = Some(format!("{}\n{what}: a copy does not open", promise.what));
            return;
        };
        let mut met = [one, other];
        let mut steps = Steps::all();
        let mut report =
            settle(&mut met, standing, 3000, &mut steps, self.broken).unwrap_or_else(|| unreachable!("as many steps as it takes"));
        report.unrecorded += first.unrecorded;
        let cut = matches!(end, End::Power { .. });
        let allowed = if cut { &promise.after_power } else { &promise.allowed };
        let promise = &Promise { may_doubt: promise.may_doubt || cut, ..promise.clone() };
        let _ = self.read_both(&mut met, allowed, promise, &report, &what);
    }

    /// Both copies are read, and repaired where they have to be, each as if it were the primary's.
    fn read_both(
        &mut self,
        copies: &mut [Copy; 2],
        allowed: &[Vec<u64>; 2],
        promise: &Promise,
        report: &Report,
        what: &str,
    ) -> Option<[Reads; 2]> {
        let mut found = [Reads::Error; 2];
        for block in BLOCKS {
            let values = ever(self.start, self.ops, block);
            let mut reads = [Reads::Error; 2];
            for (side, result) in reads.iter_mut().enumerate() {
                *result = read(copies, side, block, &values, self.broken, &mut self.outcomes.repaired);
            }
            let is_right = |reads: Reads| matches!(reads, Reads::As(value) if allowed[block].contains(&value));
            let fine = match reads[0] {
                _ if reads[0] != reads[1] => false,
                right if is_right(right) => true,
                Reads::As(_) if promise.may_come_undone => {
                    self.outcomes.undone += 1;
                    true
                }
                Reads::Error => {
                    self.outcomes.errors += 1;
                    !promise.firm[block]
                }
                Reads::As(_) | Reads::Other => {
                    self.outcomes.doubtful += 1;
                    !promise.firm[block] && promise.may_doubt && (report.unrecorded > 0 || allowed[block].is_empty())
                }
            };
            if !fine {
                let firm = promise.firm[block];
                self.violation =
                    Some(format!("{}\n{what}: block {block} reads {reads:?}, allowed {allowed:?}, firm {firm}, {report:?}", promise.what));
                return None;
            }
            found[block] = reads[0];
        }
        Some(found)
    }
}

/// A device without a store takes the place of one that cannot be opened.
pub(crate) fn blank() -> Copy {
    Copy::open(blank_device(), Crash::Process, 1).unwrap_or_else(|| unreachable!("it was formatted"))
}

/// The copies are made one, by who counts.
pub(crate) fn settle(copies: &mut [Copy; 2], standing: Standing, version: u64, steps: &mut Steps, broken: Broken) -> Option<Report> {
    match standing {
        _ if broken == Broken::NoSettle => {
            let mut report = Report::default();
            for copy in copies {
                report.unrecorded += meeting::alone(copy, version, steps)?.unrecorded;
            }
            Some(report)
        }
        Standing::Pair => meeting::pair(copies, version, steps, broken),
        Standing::FirstAlone => {
            let report = meeting::alone(&mut copies[0], version, steps)?;
            meeting::join(copies, 0, version + 10, steps, broken)?;
            Some(report)
        }
    }
}

/// A copy whose process or power went in the midst of something. `landed`: what was under way is on the medium.
pub(crate) fn come_back(copy: Copy, crash: Crash, landed: bool) -> Option<Copy> {
    let Copy { mut rig, lost } = copy;
    if landed {
        for sent in rig.sent.clone() {
            for (piece, bytes) in rig.pieces_of(&sent) {
                rig.disk.write(piece, bytes, false);
            }
        }
    }
    rig.disk.cut(|_, options| if landed || crash == Crash::Process { options - 1 } else { 0 });
    let mut copy = Copy::open(rig.disk, crash, 4)?;
    // Remembered until the copies have settled.
    copy.lost |= lost;
    Some(copy)
}

/// Reads a block at one side, with the other's help.
pub(crate) fn read(copies: &mut [Copy; 2], side: usize, block: usize, values: &[u64], broken: Broken, repaired: &mut u64) -> Reads {
    let named = |result: Result<Option<u64>, StoreError>| match result {
        Ok(value) => value.map_or(Reads::Other, Reads::As),
        Err(_) => Reads::Error,
    };
    if broken == Broken::ReadsUnverified {
        let bytes = copies[side].medium(block);
        let value = values.iter().copied().find(|value| bytes == crate::histories::bytes_of(*value));
        return value.map_or(Reads::Other, Reads::As);
    }
    let first = copies[side].value(block, values);
    if first.is_ok() {
        return named(first);
    }
    if side == 1 {
        copies.swap(0, 1);
    }
    if first == Err(StoreError::Descriptor) {
        // It gives the shard up, and joins the other copy.
        copies.swap(0, 1);
        let _ = meeting::join(copies, 0, 5000, &mut Steps::all(), broken);
        copies.swap(0, 1);
        *repaired += 1;
    } else {
        *repaired += u64::from(meeting::repair(copies, block, broken).repaired);
    }
    let again = copies[0].value(block, values);
    if side == 1 {
        copies.swap(0, 1);
    }
    named(again)
}
