//! Is one block's history linearizable, and did power cuts and flushes keep their word?
//!
//! A just-in-time search in the manner of Wing and Gong (1993) and Lowe (2017): a *candidate* is a
//! content the block may hold together with the set of unanswered operations that have taken effect
//! already. Asking adds an operation; an answer keeps only the candidates in which the operation can
//! have taken effect; no candidate left is a violation. Since a read changes nothing, a pending read
//! that fits is taken at once, and only writes branch.
//!
//! Each candidate carries a *trail*: the contents a power cut may fall back to. It shrinks when a
//! flush or a durable write is answered. Where two ways lead to one candidate, their trails are
//! joined: the checker may accept too much, never too little.
//!
//! Must not know: how the store works.

use super::content::{ContentId, Contents, Source, ZERO};
use sds_core::unit::BLOCK_BYTES;
use std::collections::BTreeMap;

/// An operation, as far as it concerns the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Saw this digest of these bytes.
    Read { start: u32, len: u32, digest: u64 },
    /// Put these bytes there.
    Write { start: u32, end: u32, source: Source },
}

/// What happens to the block, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// An operation starts.
    Ask { op: u32, effect: Effect, session: u32 },
    /// It took effect before this.
    Answer { op: u32, durable: bool },
    /// It took effect before this or never will.
    GiveUp { op: u32 },
    /// What was answered before `asked` is durable. It also says that nothing has been lost which its own session had
    /// been answered, or had found there when it first got an answer about the block; `honest` is false when another flush at the same time reported a
    /// loss (then this one need not).
    Flushed { asked: u64, session: u32, honest: bool },
    /// A flush reported that unflushed data is gone.
    FlushLost,
    /// Power was lost.
    PowerCut,
    /// Every session below is fenced: its unanswered operations took effect before this or never will.
    Fence { below: u32 },
    /// A store kept bytes that no record names, in a block known to be damaged.
    Unknown,
}

/// What was found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The operation's answer fits no order of events.
    Impossible { op: u32, could_hold: Vec<String> },
    /// The flush asked at this moment reported success for writes that a power cut had eaten.
    FlushLied { asked: u64 },
    /// Too many possibilities: not decided.
    Undecided,
}

#[derive(Clone, Copy, Debug)]
struct TrailEntry {
    content: ContentId,
    /// Earliest and latest place in the order at which it was reached, over all ways that led here.
    first: u64,
    last: u64,
    /// Answers of the writes that came later.
    superseded: Option<Superseded>,
}

/// Answers of later writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Superseded {
    first: u64,
    last: u64,
    /// Who got the last one.
    session: u32,
}

#[derive(Clone, Debug, Default)]
struct Candidate {
    /// In the order of contents.
    trail: Vec<TrailEntry>,
    /// Writes that have taken effect and are not answered yet: slot, place in the order.
    applied: Vec<(u32, u64)>,
    /// A power cut took back writes that had been answered.
    loss: Option<Superseded>,
}

impl Candidate {
    fn join(&mut self, other: &Self) {
        self.trail = merge(core::mem::take(&mut self.trail), &other.trail);
        for (slot, place) in &other.applied {
            match self.applied.iter_mut().find(|mine| mine.0 == *slot) {
                Some(mine) => mine.1 = mine.1.min(*place),
                None => self.applied.push((*slot, *place)),
            }
        }
        self.loss = later(self.loss, other.loss);
    }

    fn reach(&mut self, content: ContentId, place: u64) {
        match self.trail.binary_search_by_key(&content, |entry| entry.content) {
            Ok(at) => {
                self.trail[at].last = place;
                self.trail[at].superseded = None;
            }
            Err(at) => self.trail.insert(at, TrailEntry { content, first: place, last: place, superseded: None }),
        }
    }
}

/// Both trails in one. Each is in the order of its contents: joining is most of the search's work.
fn merge(mine: Vec<TrailEntry>, other: &[TrailEntry]) -> Vec<TrailEntry> {
    let mut joined = Vec::with_capacity(mine.len().max(other.len()));
    let mut other = other.iter().peekable();
    for mut entry in mine {
        while let Some(earlier) = other.next_if(|theirs| theirs.content < entry.content) {
            joined.push(*earlier);
        }
        if let Some(theirs) = other.next_if(|theirs| theirs.content == entry.content) {
            entry.first = entry.first.min(theirs.first);
            entry.last = entry.last.max(theirs.last);
            entry.superseded = later(entry.superseded, theirs.superseded);
        }
        joined.push(entry);
    }
    joined.extend(other);
    joined
}

/// The more permissive of two: `None` means never.
fn later(one: Option<Superseded>, other: Option<Superseded>) -> Option<Superseded> {
    let (one, other) = (one?, other?);
    let newest = if one.last >= other.last { one } else { other };
    Some(Superseded { first: one.first.max(other.first), ..newest })
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    op: u32,
    effect: Effect,
    session: u32,
    /// Its answer says nothing any more (a power cut with too many ways).
    excused: bool,
}

type Key = (ContentId, u64);
type Candidates = BTreeMap<Key, Candidate>;

const CANDIDATES_MAX: usize = 20_000;
const SLOTS: usize = 64;
/// Writes in flight at a power cut up to which each may or may not have to be done again.
const AGAIN_MAX: u32 = 6;

pub(super) struct Search {
    contents: Contents,
    candidates: Candidates,
    pending: [Option<Pending>; SLOTS],
    /// Whether trails are needed at all.
    cuts: bool,
    /// The newest session that was answered about this block: it knows the cache that the block is in.
    seen_by: u32,
}

enum Goal {
    Slot(usize),
    Everything,
}

impl Search {
    pub(super) fn new(volume: u32, lba: u64, cuts: bool) -> Self {
        let mut candidate = Candidate::default();
        candidate.reach(ZERO, 0);
        Self {
            contents: Contents::new(volume, lba),
            candidates: BTreeMap::from([((ZERO, 0), candidate)]),
            pending: [None; SLOTS],
            cuts,
            seen_by: 0,
        }
    }

    fn slot_of(&self, op: u32) -> Option<usize> {
        self.pending.iter().position(|pending| pending.is_some_and(|pending| pending.op == op))
    }

    fn write_mask(&self) -> u64 {
        let mut mask = 0;
        for (slot, pending) in self.pending.iter().enumerate() {
            if let Some(Pending { effect: Effect::Write { .. }, .. }) = pending {
                mask |= 1 << slot;
            }
        }
        mask
    }

    /// Takes the pending reads that fit.
    fn take_reads(&mut self, (content, done): Key) -> Key {
        let mut done = done;
        for slot in 0..SLOTS {
            if done & (1 << slot) == 0
                && let Some(Pending { effect: Effect::Read { start, len, digest }, .. }) = self.pending[slot]
                && self.contents.matches(content, start, len, digest)
            {
                done |= 1 << slot;
            }
        }
        (content, done)
    }

    /// Every candidate that can be reached by letting pending writes take effect: all of them, or
    /// those in which one operation has.
    fn explore(&mut self, order: u64, goal: &Goal) -> Result<Candidates, Fault> {
        let writes = self.write_mask();
        let mut layers: Vec<Candidates> = vec![Candidates::new(); writes.count_ones() as usize + 2];
        for (key, candidate) in core::mem::take(&mut self.candidates) {
            let key = self.take_reads(key);
            add(&mut layers[(key.1 & writes).count_ones() as usize], key, candidate);
        }
        let mut found = Candidates::new();
        let mut count = 0;
        for depth in 0..layers.len() {
            for (key, candidate) in core::mem::take(&mut layers[depth]) {
                count += 1;
                if count > CANDIDATES_MAX {
                    return Err(Fault::Undecided);
                }
                let reached = match goal {
                    Goal::Slot(slot) => key.1 & (1 << slot) != 0,
                    Goal::Everything => false,
                };
                if !reached {
                    for slot in 0..SLOTS {
                        let Some(Pending { effect: Effect::Write { start, end, source }, .. }) = self.pending[slot] else { continue };
                        if key.1 & (1 << slot) != 0 {
                            continue;
                        }
                        let content = self.contents.apply(key.0, start, end, source);
                        let next = self.take_reads((content, key.1 | (1 << slot)));
                        let mut changed = candidate.clone();
                        let place = order * SLOTS as u64 + depth as u64;
                        changed.applied.push((u32::try_from(slot).expect("below 64"), place));
                        if self.cuts {
                            changed.reach(content, place);
                        }
                        if start == 0 && end == BLOCK_BYTES {
                            changed.loss = None;
                        }
                        add(&mut layers[depth + 1], next, changed);
                    }
                }
                match goal {
                    Goal::Slot(_) if !reached => {}
                    Goal::Slot(_) | Goal::Everything => add(&mut found, key, candidate),
                }
            }
        }
        Ok(found)
    }

    /// Forgets an operation in every candidate.
    fn retire(&mut self, slot: usize) {
        self.pending[slot] = None;
        let slot_number = u32::try_from(slot).expect("below 64");
        for ((content, done), mut candidate) in core::mem::take(&mut self.candidates) {
            candidate.applied.retain(|(applied, _)| *applied != slot_number);
            add(&mut self.candidates, (content, done & !(1 << slot)), candidate);
        }
    }

    fn describe(&self) -> Vec<String> {
        let mut contents: Vec<ContentId> = self.candidates.keys().map(|key| key.0).collect();
        contents.dedup();
        contents.iter().take(8).map(|content| self.contents.describe(*content)).collect()
    }

    /// Goes on by one event.
    pub(super) fn on(&mut self, order: u64, event: Event) -> Result<(), Fault> {
        match event {
            Event::Ask { op, effect, session } => {
                let Some(slot) = self.pending.iter().position(Option::is_none) else { return Err(Fault::Undecided) };
                self.pending[slot] = Some(Pending { op, effect, session, excused: false });
                Ok(())
            }
            Event::Answer { op, durable } => self.answer(order, op, durable),
            Event::GiveUp { op } => {
                let Some(slot) = self.slot_of(op) else { return Ok(()) };
                self.candidates = self.explore(order, &Goal::Everything)?;
                self.retire(slot);
                Ok(())
            }
            Event::Flushed { asked, session, honest } => {
                if honest {
                    self.candidates.retain(|_, candidate| candidate.loss.is_none_or(|loss| loss.last >= asked || loss.session != session));
                    if self.candidates.is_empty() {
                        return Err(Fault::FlushLied { asked });
                    }
                }
                for candidate in self.candidates.values_mut() {
                    candidate.trail.retain(|entry| entry.superseded.is_none_or(|superseded| superseded.first >= asked));
                }
                Ok(())
            }
            Event::FlushLost => {
                for candidate in self.candidates.values_mut() {
                    candidate.loss = None;
                }
                Ok(())
            }
            Event::PowerCut => self.power_cut(order),
            Event::Fence { below } => {
                let fenced: Vec<usize> =
                    (0..SLOTS).filter(|slot| self.pending[*slot].is_some_and(|pending| pending.session < below)).collect();
                if !fenced.is_empty() {
                    self.candidates = self.explore(order, &Goal::Everything)?;
                }
                for slot in fenced {
                    self.retire(slot);
                }
                // The new session made no promise about what the old one lost.
                self.on(order, Event::FlushLost)
            }
            Event::Unknown => {
                let wild = self.contents.wild();
                for ((_, done), mut candidate) in core::mem::take(&mut self.candidates) {
                    candidate.trail.clear();
                    candidate.reach(wild, order * SLOTS as u64);
                    candidate.loss = None;
                    add(&mut self.candidates, (wild, done), candidate);
                }
                Ok(())
            }
        }
    }

    fn answer(&mut self, order: u64, op: u32, durable: bool) -> Result<(), Fault> {
        let Some(slot) = self.slot_of(op) else { return Ok(()) };
        let Some(pending) = self.pending[slot] else { return Ok(()) };
        self.seen_by = self.seen_by.max(pending.session);
        if pending.excused {
            self.candidates = self.explore(order, &Goal::Everything)?;
        } else {
            let could_hold = self.describe();
            let found = self.explore(order, &Goal::Slot(slot))?;
            if found.is_empty() {
                return Err(Fault::Impossible { op, could_hold });
            }
            self.candidates = found;
        }
        if self.cuts && matches!(pending.effect, Effect::Write { .. }) {
            let slot_number = u32::try_from(slot).expect("below 64");
            for ((content, _), candidate) in &mut self.candidates {
                let Some((_, place)) = candidate.applied.iter().find(|(applied, _)| *applied == slot_number).copied() else { continue };
                for entry in candidate.trail.iter_mut().filter(|entry| entry.last < place) {
                    let superseded = |earlier: Option<Superseded>| Superseded {
                        first: earlier.map_or(order, |earlier| earlier.first),
                        last: order,
                        session: pending.session,
                    };
                    if entry.content == *content {
                        // What the block holds is older than this write: a power cut took it while its answer was on its way.
                        candidate.loss = Some(superseded(candidate.loss));
                    } else {
                        entry.superseded = Some(superseded(entry.superseded));
                    }
                }
                if durable {
                    candidate.trail.retain(|entry| entry.last >= place);
                }
            }
        }
        self.retire(slot);
        Ok(())
    }

    /// The block falls back to a content of its trail; a write in flight may have landed, and one
    /// that had taken effect may have to be done again by its client's retry.
    fn power_cut(&mut self, order: u64) -> Result<(), Fault> {
        let reached = self.explore(order, &Goal::Everything)?;
        let writes = self.write_mask();
        let excuse = writes.count_ones() > AGAIN_MAX;
        if excuse {
            for pending in self.pending.iter_mut().flatten() {
                pending.excused |= matches!(pending.effect, Effect::Write { .. });
            }
        }
        let seen_by = self.seen_by;
        for ((_, done), candidate) in reached {
            let applied = done & writes;
            for entry in &candidate.trail {
                let superseded = entry.superseded.map(|superseded| Superseded { session: superseded.session.max(seen_by), ..superseded });
                // All subsets of the writes that had taken effect stay so; the rest will be done again.
                let mut kept = if excuse { 0 } else { applied };
                loop {
                    let key = (entry.content, (done & !writes) | kept);
                    let mut fallen = Candidate { trail: Vec::new(), applied: Vec::new(), loss: superseded.or(candidate.loss) };
                    fallen.reach(entry.content, entry.last);
                    fallen.applied.extend(candidate.applied.iter().filter(|(slot, _)| kept & (1 << slot) != 0));
                    add(&mut self.candidates, key, fallen);
                    if kept == 0 {
                        break;
                    }
                    kept = (kept - 1) & applied;
                }
            }
        }
        if self.candidates.len() > CANDIDATES_MAX { Err(Fault::Undecided) } else { Ok(()) }
    }
}

fn add(to: &mut Candidates, key: Key, candidate: Candidate) {
    match to.get_mut(&key) {
        Some(known) => known.join(&candidate),
        None => {
            to.insert(key, candidate);
        }
    }
}
