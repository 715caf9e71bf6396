//! The extent index in memory: whose extent each slot is, which are free, where descriptor pages are.
//!
//! Invariants: a key maps to at most one slot; a freed slot is given out only after the position of
//! the record that freed it is flushed; `used + reclaimable + free = all`.
//! What this must not know: descriptor contents, the log's encoding, requests.

use crate::collections::Map;
use crate::control::Capacity;
use crate::format::index_page::{IndexEntry, PageName};
use crate::store::interface::ExtentKey;
use crate::unit::{ByteCount, EXTENT_BYTES};
use std::collections::VecDeque;

/// No frame of the descriptor cache.
pub(super) const NO_FRAME: u32 = u32::MAX;

/// What a slot is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Nobody's.
    #[default]
    Free,
    /// Given to a key whose `allocated` record is not durable yet.
    Pending,
    /// A key's.
    Allocated,
    /// Freed by a record that is not known durable yet.
    Reclaimable,
}

/// Whether an extent may be read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Yes.
    #[default]
    Settled,
    /// Not before it is settled with the other copy. In the index this is its `unsettled` flag.
    Unsettled,
    /// The checkpoint under way settles it.
    Settling,
}

/// One slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) key: ExtentKey,
    pub(super) state: SlotState,
    /// The descriptor page is not what it should be; sticks until the extent is freed.
    pub(super) damaged: bool,
    pub(super) standing: Standing,
    /// It was active when another copy went, and has not been compared since.
    pub(super) questioned: bool,
    pub(super) page: Option<PageName>,
    /// Position of its `allocated` record in this life, 0 for an earlier one: tells tenants apart.
    pub(super) tenancy: u64,
    /// Its descriptor in the cache, or [`NO_FRAME`].
    pub(super) frame: u32,
}

const FREE: Slot = Slot {
    key: ExtentKey { tree: crate::id::TreeId::new(0), extent: crate::id::ExtentIndex::new(0), layer: crate::id::LayerId::new(0) },
    state: SlotState::Free,
    damaged: false,
    standing: Standing::Settled,
    questioned: false,
    page: None,
    tenancy: 0,
    frame: NO_FRAME,
};

/// All slots of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    by_key: Map<ExtentKey, u32>,
    free: Vec<u32>,
    reclaimable: VecDeque<(u64, u32)>,
}

impl Slots {
    /// All free; memory for the whole device is taken now.
    pub(super) fn new(extents: u32) -> Self {
        let count = extents as usize;
        Self {
            slots: vec![FREE; count],
            by_key: Map::with_capacity_and_hasher(count, core::hash::BuildHasherDefault::default()),
            free: Vec::with_capacity(count),
            reclaimable: VecDeque::new(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn find(&self, key: ExtentKey) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn has_reclaimable(&self) -> bool {
        !self.reclaimable.is_empty()
    }

    /// The slot that will be given out next.
    pub(super) fn next_free(&self) -> Option<u32> {
        self.free.last().copied()
    }

    /// Whether any extent waits to be settled. Looks at all of them.
    pub(super) fn any_unsettled(&self) -> bool {
        self.slots.iter().any(|slot| slot.standing != Standing::Settled)
    }

    /// Gives a free slot to a key that has none.
    pub(super) fn allocate(&mut self, key: ExtentKey, tenancy: u64) -> Option<u32> {
        assert!(!self.by_key.contains_key(&key), "an extent is allocated once");
        let slot = self.free.pop()?;
        *self.get_mut(slot) = Slot { key, state: SlotState::Pending, tenancy, ..FREE };
        self.by_key.insert(key, slot);
        Some(slot)
    }

    /// The `allocated` record of a slot is durable.
    pub(super) fn allocated(&mut self, slot: u32) {
        let entry = self.get_mut(slot);
        match entry.state {
            SlotState::Pending => entry.state = SlotState::Allocated,
            // Freed again before its record landed.
            SlotState::Free | SlotState::Allocated | SlotState::Reclaimable => {}
        }
    }

    /// Takes a slot from its key by a record at `lsn`.
    pub(super) fn free(&mut self, slot: u32, lsn: u64) {
        let key = self.get(slot).key;
        self.by_key.remove(&key);
        *self.get_mut(slot) = Slot { state: SlotState::Reclaimable, ..FREE };
        self.reclaimable.push_back((lsn, slot));
    }

    /// Everything up to `flushed` is durable.
    pub(super) fn reclaim(&mut self, flushed: u64) {
        while let Some((lsn, slot)) = self.reclaimable.front().copied() {
            if lsn > flushed {
                break;
            }
            self.reclaimable.pop_front();
            *self.get_mut(slot) = FREE;
            self.free.push(slot);
        }
    }

    /// A slot's entry of the index on the device: a slot whose record is not durable is free there.
    pub(super) fn entry(&self, slot: u32, unsettled: bool) -> Option<IndexEntry> {
        let entry = self.get(slot);
        match entry.state {
            SlotState::Allocated => Some(IndexEntry { key: entry.key, page: entry.page, unsettled, damaged: entry.damaged }),
            SlotState::Free | SlotState::Pending | SlotState::Reclaimable => None,
        }
    }

    /// Recovery: a slot as the index on the device has it.
    pub(super) fn load(&mut self, slot: u32, entry: &IndexEntry) {
        *self.get_mut(slot) = Slot { key: entry.key, state: SlotState::Allocated, damaged: entry.damaged, page: entry.page, ..FREE };
        // Two slots may name one key when the older was freed while the index was written; the
        // records after the checkpoint decide, and `finish_load` drops the loser.
        self.by_key.insert(entry.key, slot);
    }

    /// Recovery: replays `allocated`. A slot that holds the key already in this tenancy keeps its page.
    /// Whether the slot starts anew.
    pub(super) fn replay_allocated(&mut self, slot: u32, key: ExtentKey, lsn: u64) -> bool {
        let former = self.get(slot).key;
        if self.by_key.get(&former) == Some(&slot) {
            self.by_key.remove(&former);
        }
        self.by_key.insert(key, slot);
        let entry = self.get_mut(slot);
        let same = entry.state == SlotState::Allocated && entry.key == key && entry.page.is_some_and(|page| page.lsn >= lsn);
        if !same {
            *entry = Slot { key, state: SlotState::Allocated, ..FREE };
        }
        !same
    }

    /// Recovery: replays `freed`.
    pub(super) fn replay_freed(&mut self, slot: u32) {
        let key = self.get(slot).key;
        if self.by_key.get(&key) == Some(&slot) {
            self.by_key.remove(&key);
        }
        *self.get_mut(slot) = FREE;
    }

    /// Recovery: owners are final. A slot whose key went to a later one is free; the free list is made
    /// so that low slots are given out first.
    pub(super) fn finish_load(&mut self) {
        self.free.clear();
        for slot in (0..self.count()).rev() {
            let entry = *self.get(slot);
            let kept = match entry.state {
                SlotState::Allocated => self.by_key.get(&entry.key) == Some(&slot),
                SlotState::Free | SlotState::Pending | SlotState::Reclaimable => false,
            };
            if !kept {
                *self.get_mut(slot) = FREE;
                self.free.push(slot);
            }
        }
    }

    pub(super) fn capacity(&self) -> Capacity {
        let bytes = |extents: usize| ByteCount::new(extents as u64 * u64::from(EXTENT_BYTES));
        Capacity { total: bytes(self.slots.len()), used: bytes(self.by_key.len()), reclaimable: bytes(self.reclaimable.len()) }
    }
}
