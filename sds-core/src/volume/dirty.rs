//! What a session has written and not flushed, a shard at a time.
//!
//! A flush goes to the shards' present primaries, which flush their own devices and those of the other copies. Whether it
//! may succeed depends on whether the copies have kept what was acknowledged: a shard's configuration names the newest epoch
//! that began with no copy's volatile cache kept, and an unflushed write of an older epoch may be gone
//! (`protocol::acknowledge::flush_may_succeed`). So the *oldest* epoch of a shard's unflushed writes is what counts.
//! A session takes over what the one before it did not flush, so every shard is dirty from its start; of
//! which epoch that is it learns from the first answer, also of a read: it may have seen what only that epoch's caches hold.
//!
//! Invariants: a shard is dirty from the completion of a write on it until a flush, sent after that completion, has
//! succeeded at the shard's primary of the newest map; a loss is reported by one flush and then forgotten. But whoever waits for a
//! write meanwhile does not know yet that part of it was complete, and may be what is lost: it is reported once more, by the first flush
//! that covers what was waited for.

use super::topology::DeviceIndex;
use crate::bugs::{self, Bug};
use crate::id::{Epoch, ShardId};
use crate::protocol::acknowledge::flush_may_succeed;
use core::ops::RangeInclusive;

#[derive(Clone, Copy, Debug, Default)]
struct Shard {
    /// Number of the newest write completed, or of the suspicion; 0 if it is clean.
    written: u64,
    /// No unflushed write has a lower number.
    first: u64,
    /// Epoch of the oldest unflushed write; `None` while nothing of this session relies on it.
    oldest: Option<Epoch>,
    /// Epoch of the newest write, and the number of the first write of that epoch.
    newest: Option<Epoch>,
    newest_since: u64,
}

/// How far a flush reaches: the writes that were complete when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

/// What a flush has found to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    Nothing,
    /// Some acknowledged write.
    Found,
    /// What was found before, for those who waited for a write then.
    Again,
}

/// A session's unflushed writes.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    shards: Vec<Shard>,
    /// Numbers of shards that are dirty.
    list: Vec<u32>,
    written: u64,
    /// A loss is told again by a flush that covers the first of these writes, and by later ones as far as they cover more of them.
    again: Option<RangeInclusive<u64>>,
    /// For each device, the flush that last asked it.
    asked: Vec<u64>,
    flushes: u64,
}

impl Dirty {
    /// What was written before this session may be unflushed, at epochs that nobody knows.
    pub(super) fn suspect_all(&mut self, shards: usize) {
        for shard in 0..u32::try_from(shards).unwrap_or(u32::MAX) {
            self.touch(ShardId::new(shard));
        }
    }

    fn touch(&mut self, shard: ShardId) -> (&mut Shard, u64) {
        let index = shard.get() as usize;
        if self.shards.len() <= index {
            self.shards.resize(index + 1, Shard::default());
        }
        self.written += 1;
        let known = &mut self.shards[index];
        if known.written == 0 {
            known.first = self.written;
            self.list.push(shard.get());
        }
        known.written = self.written;
        (known, self.written)
    }

    /// A write that was not asked to be durable is complete, accepted at this epoch.
    pub(super) fn wrote(&mut self, shard: ShardId, epoch: Epoch) {
        let (known, number) = self.touch(shard);
        known.oldest.get_or_insert(epoch);
        if known.newest != Some(epoch) {
            known.newest = Some(epoch);
            known.newest_since = number;
        }
    }

    /// A read was answered at this epoch. On a dirty shard it may have seen what only the caches of that epoch hold, written by a
    /// session before this one: they are relied on from the first contact.
    pub(super) fn saw(&mut self, shard: ShardId, epoch: Epoch) {
        let Some(known) = self.shards.get_mut(shard.get() as usize) else { return };
        if known.written > 0 && known.oldest.is_none() {
            known.oldest = Some(epoch);
            known.newest = Some(epoch);
            known.newest_since = known.written;
        }
    }

    pub(super) fn is_clean(&self) -> bool {
        self.list.is_empty()
    }

    /// Everything complete so far.
    pub(super) const fn mark(&self) -> Mark {
        Mark(self.written)
    }

    /// Whether anything up to `mark` is still to be flushed.
    pub(super) fn has_unflushed(&self, mark: Mark) -> bool {
        self.list.iter().any(|shard| self.shards[*shard as usize].first <= mark.0)
    }

    /// Shards that are dirty.
    #[expect(clippy::cast_possible_truncation, reason = "shards are numbered in 32 bits")]
    pub(super) fn len(&self) -> u32 {
        self.list.len() as u32
    }

    /// The dirty shard at a place in the list, if there is one.
    pub(super) fn at(&self, place: u32) -> Option<ShardId> {
        self.list.get(place as usize).copied().map(ShardId::new)
    }

    /// A round of a flush begins; gives its number.
    pub(super) fn begin_round(&mut self) -> u64 {
        self.flushes += 1;
        self.flushes
    }

    /// Whether a device has not been asked in this round yet; it has been, then.
    pub(super) fn ask(&mut self, device: DeviceIndex, round: u64) -> bool {
        if self.asked.len() <= device.get() {
            self.asked.resize(device.get() + 1, 0);
        }
        core::mem::replace(&mut self.asked[device.get()], round) != round
    }

    /// A write that was waited for when a loss was told is complete now.
    pub(super) fn waited_through_a_loss(&mut self) {
        let first = self.again.as_ref().map_or(self.written, |again| *again.start());
        self.again = Some(first..=self.written);
    }

    /// A flush up to `mark` succeeded for those shards that `covered` gives the newest loss of.
    pub(super) fn flushed(&mut self, mark: Mark, covered: impl Fn(ShardId) -> Option<Epoch>) -> Loss {
        let mut lost = false;
        let again = self.again.as_ref().is_some_and(|again| *again.start() <= mark.0);
        if again {
            self.again = self.again.take().map(|again| mark.0 + 1..=*again.end()).filter(|rest| !rest.is_empty());
        }
        let Self { shards, list, .. } = self;
        list.retain(|number| {
            let Some(cache_lost_in) = covered(ShardId::new(*number)) else { return true };
            let known = &mut shards[*number as usize];
            // Told once: what is left relies on what it is written to from now on.
            lost |= !bugs::is(Bug::CacheLossIgnored) && known.oldest.is_some_and(|oldest| !flush_may_succeed(oldest, cache_lost_in));
            if known.written <= mark.0 || bugs::is(Bug::FlushCoversLaterWrites) {
                *known = Shard::default();
                return false;
            }
            if mark.0 + 1 >= known.newest_since {
                known.oldest = known.newest;
            }
            known.first = known.first.max(mark.0 + 1);
            true
        });
        match (lost, again) {
            (true, _) => Loss::Found,
            (false, true) => Loss::Again,
            (false, false) => Loss::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId::new(3);

    fn flush(dirty: &mut Dirty, mark: Mark, lost_in: u32) -> bool {
        dirty.flushed(mark, |shard| (shard == SHARD).then_some(Epoch::new(lost_in))) != Loss::Nothing
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_was_sent() {
        let mut dirty = Dirty::default();
        dirty.wrote(SHARD, Epoch::new(1));
        let mark = dirty.mark();
        dirty.wrote(SHARD, Epoch::new(1));
        assert!(!flush(&mut dirty, mark, 0));
        assert!(!dirty.is_clean(), "the second write came after the mark");
        assert!(!dirty.has_unflushed(mark));
        let mark = dirty.mark();
        assert!(dirty.has_unflushed(mark));
        assert!(!flush(&mut dirty, mark, 0));
        assert!(dirty.is_clean());
    }

    #[test]
    fn a_flush_relies_on_the_oldest_epoch_and_tells_of_its_loss_once() {
        let mut dirty = Dirty::default();
        dirty.wrote(SHARD, Epoch::new(1));
        dirty.wrote(SHARD, Epoch::new(2));
        let mark = dirty.mark();
        assert!(flush(&mut dirty, mark, 2), "a newer write must not hide what the older one lost");
        assert!(dirty.is_clean());
        dirty.wrote(SHARD, Epoch::new(2));
        let mark = dirty.mark();
        assert!(!flush(&mut dirty, mark, 2), "what was lost before it concerns it not");
    }

    #[test]
    fn each_flush_that_covers_what_was_waited_for_tells_of_the_loss_again() {
        let mut dirty = Dirty::default();
        let mut marks = Vec::new();
        for _ in 0..2 {
            dirty.wrote(SHARD, Epoch::new(2));
            dirty.waited_through_a_loss();
            marks.push(dirty.mark());
        }
        let mut flushed = |mark| dirty.flushed(mark, |_| Some(Epoch::new(0)));
        let told = [flushed(Mark(0)), flushed(marks[0]), flushed(marks[0]), flushed(marks[1]), flushed(marks[1])];
        assert_eq!(told, [Loss::Nothing, Loss::Again, Loss::Nothing, Loss::Again, Loss::Nothing]);
    }

    #[test]
    fn after_a_partial_flush_the_newer_epoch_counts() {
        let mut dirty = Dirty::default();
        dirty.wrote(SHARD, Epoch::new(1));
        let first = dirty.mark();
        dirty.wrote(SHARD, Epoch::new(2));
        assert!(!flush(&mut dirty, first, 0));
        let mark = dirty.mark();
        assert!(!flush(&mut dirty, mark, 2));
    }

    #[test]
    fn a_fresh_session_relies_on_the_epoch_it_first_read_at() {
        let mut dirty = Dirty::default();
        dirty.saw(SHARD, Epoch::new(1));
        assert!(dirty.is_clean(), "a read alone makes nothing dirty");
        dirty.suspect_all(4);
        assert_eq!(dirty.len(), 4);
        dirty.saw(SHARD, Epoch::new(1));
        dirty.saw(SHARD, Epoch::new(2));
        let mark = dirty.mark();
        assert!(flush(&mut dirty, mark, 2));
        assert_eq!(dirty.len(), 3);
        assert_eq!(dirty.flushed(mark, |_| Some(Epoch::new(9))), Loss::Nothing, "nothing relied on the others");
        assert!(dirty.is_clean());
    }

    #[test]
    fn a_shard_that_was_not_covered_stays_dirty() {
        let mut dirty = Dirty::default();
        dirty.wrote(SHARD, Epoch::new(1));
        let mark = dirty.mark();
        assert_eq!(dirty.flushed(mark, |_| None), Loss::Nothing);
        assert!(dirty.has_unflushed(mark));
    }
}
