//! Keeps changes of the same block apart: a write, fragment or zero is not sent while an earlier one
//! that shares a block with it is unanswered.
//!
//! Why: a change whose link broke is sent again (I10 makes that safe on one connection after the
//! other), so it may land twice. If A and B overlapped in flight, the store could go A, B (seen by a
//! reader), A again: not a history of single changes. With A alone in flight, landing twice is
//! landing once. The server's range locks cannot do this: they order what arrives, and A's second
//! arrival is new to them.
//!
//! A change that is *not sent yet* may be overtaken by a later one: neither has been acknowledged
//! before the other began, so both orders are allowed. In a shared session other clients' writes are
//! not known here; there the guarantee is per block and without readers in between.
//!
//! Invariant: per (volume, extent) the changes form a list, oldest first; `blockers` of each counts
//! the earlier ones of the list that overlap it; those with none may be in flight. Cost: one walk of
//! the extent's list at the start and end of each change.

use super::exchange::Exchange;
use crate::collections::{Map, OpId, SlotTable};
use crate::id::{ExtentIndex, VolumeId};

#[derive(Clone, Copy, Debug)]
struct Chain {
    oldest: OpId,
    newest: OpId,
}

#[derive(Debug)]
pub(super) struct Order {
    chains: Map<(VolumeId, ExtentIndex), Chain>,
}

impl Order {
    /// For at most `capacity` changes at once.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        // Twice: a table at most half full cleans out its tombstones in place, without allocating.
        Self { chains: Map::with_capacity_and_hasher(capacity * 2, Default::default()) }
    }

    /// Adds the change `id` as the newest of its extent; whether it may go ahead at once.
    pub(super) fn enter(&mut self, exchanges: &mut SlotTable<Exchange>, id: OpId) -> bool {
        let Some(entering) = exchanges.get(id) else { unreachable!("the caller has just made it") };
        let (key, blocks) = ((entering.volume, entering.extent), entering.blocks());
        let Some(chain) = self.chains.get_mut(&key) else {
            self.chains.insert(key, Chain { oldest: id, newest: id });
            return true;
        };
        let mut blockers = 0;
        let mut at = Some(chain.newest);
        while let Some(earlier) = at.and_then(|earlier| exchanges.get(earlier)) {
            blockers += u32::from(earlier.touches(blocks));
            at = earlier.place.earlier;
        }
        let newest = core::mem::replace(&mut chain.newest, id);
        if let Some(earlier) = exchanges.get_mut(newest) {
            earlier.place.later = Some(id);
        }
        if let Some(entering) = exchanges.get_mut(id) {
            entering.place.earlier = Some(newest);
            entering.place.blockers = blockers;
        }
        blockers == 0
    }

    /// Takes the finished change `gone` (already out of the table, named `id`) out of its list, and
    /// puts those that waited for nothing else into `free`, oldest first.
    pub(super) fn leave(&mut self, exchanges: &mut SlotTable<Exchange>, id: OpId, gone: &Exchange, free: &mut Vec<OpId>) {
        let key = (gone.volume, gone.extent);
        let (earlier, later) = (gone.place.earlier, gone.place.later);
        match (earlier, later) {
            (None, None) => {
                self.chains.remove(&key);
                return;
            }
            (Some(earlier), None) => self.set_ends(key, |chain| chain.newest = earlier),
            (None, Some(later)) => self.set_ends(key, |chain| chain.oldest = later),
            (Some(_), Some(_)) => {}
        }
        if let Some(neighbour) = earlier.and_then(|earlier| exchanges.get_mut(earlier)) {
            assert!(neighbour.place.later == Some(id), "the list is whole");
            neighbour.place.later = later;
        }
        if let Some(neighbour) = later.and_then(|later| exchanges.get_mut(later)) {
            assert!(neighbour.place.earlier == Some(id), "the list is whole");
            neighbour.place.earlier = earlier;
        }
        let mut at = later;
        while let Some((waiting_id, waiting)) = at.and_then(|at| exchanges.get_mut(at).map(|waiting| (at, waiting))) {
            if waiting.touches(gone.blocks()) {
                waiting.place.blockers -= 1;
                if waiting.place.blockers == 0 {
                    free.push(waiting_id);
                }
            }
            at = waiting.place.later;
        }
    }

    fn set_ends(&mut self, key: (VolumeId, ExtentIndex), change: impl FnOnce(&mut Chain)) {
        match self.chains.get_mut(&key) {
            Some(chain) => change(chain),
            None => unreachable!("a change in a list has a list"),
        }
    }
}

#[cfg(test)]
impl Order {
    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }
}
