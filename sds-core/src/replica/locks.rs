//! Range locks: who may touch which blocks of an extent now, and who is next.
//!
//! A read shares its blocks, everything else has them alone. Overlapping requests are granted in the
//! order they came, waiting ones included, so a steady stream of reads cannot starve a write.
//! Invariants: of two overlapping holders none is exclusive; what is freed is granted in the same
//! call; the table's memory is taken at the start.
//!
//! Must not know: what holders do with their blocks.

use crate::bugs::{self, Bug};
use crate::collections::{Map, OpId};
use crate::store::interface::{BlockRange, ExtentKey};
use std::collections::VecDeque;

const NONE: u32 = u32::MAX;

/// Whether others may hold the same blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// With other readers.
    Shared,
    /// Alone.
    Exclusive,
}

/// Who stands in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A request.
    Request(OpId),
    /// A visit of a resync.
    Visit(OpId),
}

/// A place in the line for some blocks; given back with [`RangeLocks::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LockId(u32);

#[derive(Clone, Copy, Debug)]
struct Node {
    holder: Holder,
    key: ExtentKey,
    blocks: Blocks,
    access: Access,
    granted: bool,
    before: u32,
    after: u32,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    first: u32,
    last: u32,
    waiting: u32,
}

/// All lines, one an extent that has any.
#[derive(Debug)]
pub(super) struct RangeLocks {
    nodes: Vec<Node>,
    free: Vec<u32>,
    lines: Map<ExtentKey, Line>,
    granted: VecDeque<Holder>,
    capacity: usize,
}

impl RangeLocks {
    /// Room for one lock of each of `capacity` requests.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            nodes: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            lines: Map::with_capacity_and_hasher(capacity * 2, Default::default()),
            granted: VecDeque::with_capacity(capacity),
            capacity,
        }
    }

    /// Joins the line; `true` when the blocks are held now, else `op` comes out of
    /// [`Self::next_granted`] later.
    pub(super) fn acquire(&mut self, holder: Holder, key: ExtentKey, range: BlockRange, access: Access) -> (LockId, bool) {
        let blocks = Blocks::of(range);
        let line = self.lines.get(&key).copied().unwrap_or(Line { first: NONE, last: NONE, waiting: 0 });
        let mut taken = Taken::default();
        let mut index = line.first;
        while index != NONE {
            let node = &self.nodes[index as usize];
            taken.add(node.blocks, node.access);
            index = node.after;
        }
        let granted = !taken.conflicts(blocks, access);
        let index = self.place(Node { holder, key, blocks, access, granted, before: line.last, after: NONE });
        if line.last != NONE {
            self.nodes[line.last as usize].after = index;
        }
        let first = if line.first == NONE { index } else { line.first };
        self.lines.insert(key, Line { first, last: index, waiting: line.waiting + u32::from(!granted) });
        (LockId(index), granted)
    }

    /// Leaves the line, whether held or waiting; whoever is let in by that comes out of
    /// [`Self::next_granted`].
    pub(super) fn release(&mut self, lock: LockId) {
        let node = self.nodes[lock.0 as usize];
        let Some(line) = self.lines.get_mut(&node.key) else { unreachable!("a lock stands in its extent's line") };
        if node.before == NONE {
            line.first = node.after;
        } else {
            self.nodes[node.before as usize].after = node.after;
        }
        if node.after == NONE {
            line.last = node.before;
        } else {
            self.nodes[node.after as usize].before = node.before;
        }
        line.waiting -= u32::from(!node.granted);
        let (first, waiting) = (line.first, line.waiting);
        self.free.push(lock.0);
        if first == NONE {
            self.lines.remove(&node.key);
        } else if waiting > 0 {
            self.grant(node.key, first);
        }
    }

    /// The next of those whose wait is over.
    pub(super) fn next_granted(&mut self) -> Option<Holder> {
        self.granted.pop_front()
    }

    /// Extents with a line.
    pub(super) fn lines(&self) -> usize {
        self.lines.len()
    }

    fn grant(&mut self, key: ExtentKey, first: u32) {
        let mut taken = Taken::default();
        let mut index = first;
        let mut newly = 0;
        while index != NONE {
            let node = &mut self.nodes[index as usize];
            if !node.granted && !taken.conflicts(node.blocks, node.access) {
                node.granted = true;
                newly += 1;
                self.granted.push_back(node.holder);
            }
            taken.add(node.blocks, node.access);
            index = node.after;
        }
        if let Some(line) = self.lines.get_mut(&key) {
            line.waiting -= newly;
        }
    }

    fn place(&mut self, node: Node) -> u32 {
        if let Some(index) = self.free.pop() {
            self.nodes[index as usize] = node;
            return index;
        }
        assert!(self.nodes.len() < self.capacity, "each request holds at most one lock");
        #[expect(clippy::cast_possible_truncation, reason = "the capacity is a slot table's, below 2^24")]
        let index = self.nodes.len() as u32;
        self.nodes.push(node);
        index
    }
}

/// The 256 blocks of an extent as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Blocks([u64; 4]);

impl Blocks {
    fn of(range: BlockRange) -> Self {
        let (start, end) = (u32::from(range.first.get()), u32::from(range.first.get()) + u32::from(range.count));
        let mut words = [0; 4];
        let mut base = 0;
        for word in &mut words {
            let low = start.clamp(base, base + 64) - base;
            let high = end.clamp(base, base + 64) - base;
            if high > low {
                let width = high - low;
                *word = if width == 64 { u64::MAX } else { ((1 << width) - 1) << low };
            }
            base += 64;
        }
        Self(words)
    }

    fn overlaps(self, other: Self) -> bool {
        self.0.iter().zip(other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    fn add(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine |= theirs;
        }
    }
}

/// What stands earlier in a line.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    by_anyone: Blocks,
    exclusively: Blocks,
}

impl Taken {
    fn add(&mut self, blocks: Blocks, access: Access) {
        self.by_anyone.add(blocks);
        match access {
            Access::Shared => {}
            Access::Exclusive => self.exclusively.add(blocks),
        }
    }

    fn conflicts(&self, blocks: Blocks, access: Access) -> bool {
        match access {
            Access::Shared => self.exclusively.overlaps(blocks) && !bugs::is(Bug::ReadDuringWrite),
            Access::Exclusive if bugs::is(Bug::WritesOverlap) => self.by_anyone.overlaps(blocks) && !self.exclusively.overlaps(blocks),
            Access::Exclusive => self.by_anyone.overlaps(blocks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::BlockIndex;
    use proptest::prelude::*;

    fn op(number: u64) -> Holder {
        Holder::Request(OpId::from_bits(number))
    }

    const fn range(first: u8, count: u16) -> BlockRange {
        BlockRange { first: BlockIndex::new(first), count }
    }

    #[test]
    fn readers_share_and_a_writer_waits_for_all_of_them() {
        let mut locks = RangeLocks::with_capacity(4);
        let key = ExtentKey::default();
        let (a, granted) = locks.acquire(op(1), key, range(0, 8), Access::Shared);
        assert!(granted);
        let (b, granted) = locks.acquire(op(2), key, range(4, 8), Access::Shared);
        assert!(granted);
        let (c, granted) = locks.acquire(op(3), key, range(7, 1), Access::Exclusive);
        assert!(!granted);
        locks.release(a);
        assert_eq!(locks.next_granted(), None);
        locks.release(b);
        assert_eq!(locks.next_granted(), Some(op(3)));
        locks.release(c);
        assert_eq!(locks.lines(), 0);
    }

    #[test]
    fn a_reader_does_not_overtake_a_waiting_writer() {
        let mut locks = RangeLocks::with_capacity(4);
        let key = ExtentKey::default();
        let (a, _) = locks.acquire(op(1), key, range(0, 1), Access::Shared);
        let (b, granted) = locks.acquire(op(2), key, range(0, 1), Access::Exclusive);
        assert!(!granted);
        let (_, granted) = locks.acquire(op(3), key, range(0, 1), Access::Shared);
        assert!(!granted);
        locks.release(a);
        assert_eq!((locks.next_granted(), locks.next_granted()), (Some(op(2)), None));
        locks.release(b);
        assert_eq!(locks.next_granted(), Some(op(3)));
    }

    #[test]
    fn a_waiter_that_gives_up_lets_those_behind_it_in() {
        let mut locks = RangeLocks::with_capacity(4);
        let key = ExtentKey::default();
        let _reader = locks.acquire(op(1), key, range(0, 1), Access::Shared);
        let (writer, _) = locks.acquire(op(2), key, range(0, 2), Access::Exclusive);
        let (_, granted) = locks.acquire(op(3), key, range(1, 1), Access::Shared);
        assert!(!granted);
        locks.release(writer);
        assert_eq!(locks.next_granted(), Some(op(3)));
    }

    proptest! {
        /// Against the plain definition: granted exactly when nobody earlier in line conflicts.
        #[test]
        fn grants_are_what_the_definition_says(steps in proptest::collection::vec((0_u8..3, any::<u8>(), 1_u16..=256, any::<bool>(), 0_usize..8), 1..80)) {
            struct Model { op: Holder, lock: LockId, extent: u32, first: u32, end: u32, exclusive: bool, granted: bool }
            let mut locks = RangeLocks::with_capacity(128);
            let mut line: Vec<Model> = Vec::new();
            for (number, (extent, first, count, exclusive, victim)) in steps.into_iter().enumerate() {
                if victim < 3 && !line.is_empty() {
                    let model = line.remove(victim % line.len());
                    locks.release(model.lock);
                } else {
                    let count = count.min(256 - u16::from(first));
                    let key = ExtentKey { extent: crate::id::ExtentIndex::new(u32::from(extent)), ..ExtentKey::default() };
                    let access = if exclusive { Access::Exclusive } else { Access::Shared };
                    let op = op(number as u64);
                    let (lock, granted) = locks.acquire(op, key, range(first, count), access);
                    line.push(Model { op, lock, extent: u32::from(extent), first: u32::from(first), end: u32::from(first) + u32::from(count), exclusive, granted });
                }
                while let Some(op) = locks.next_granted() {
                    let model = line.iter_mut().find(|model| model.op == op).expect("only those in line are granted");
                    prop_assert!(!model.granted, "granted twice");
                    model.granted = true;
                }
                for (place, model) in line.iter().enumerate() {
                    let conflict = line[..place].iter().any(|earlier| {
                        earlier.extent == model.extent && earlier.first < model.end && model.first < earlier.end && (earlier.exclusive || model.exclusive)
                    });
                    prop_assert_eq!(model.granted, !conflict);
                }
            }
        }
    }
}
