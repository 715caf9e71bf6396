//! The descriptor cache: a bounded arena of frames, each holding the descriptor of one extent.
//!
//! Invariants: an active extent is resident; a dirty, pinned, active, loading or checkpointing frame
//! is never given to another extent; a frame is in at most one of the three lists (idle: may be taken,
//! least recently used first; active: may be sealed, by last write; held: active, and a write is unresolved on the other copy). Memory is bounded by the frame count.
//! What this must not know: how pages are read or written; the log.

use crate::format::descriptor::Descriptor;
use crate::id::ShardSequence;
use crate::store::interface::BlockSet;
use crate::unit::Nanos;

const NONE: u32 = u32::MAX;

/// Whether writes to an extent may be in flight as far as the log knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activity {
    /// Sealed, or never written in this life.
    #[default]
    Idle,
    /// Its `activated` record is on the way.
    Activating,
    /// Its `activated` record is durable.
    Active,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Residence {
    /// Nothing.
    #[default]
    Empty,
    /// Waiting for a buffer to read the page into.
    Wanted,
    /// The page is being read.
    Loading,
    /// The descriptor.
    Resident,
    /// The page could not be read; requests that wait are told, then the frame is given up.
    Unreadable {
        /// Linux error number.
        errno: i32,
    },
    /// The page is not the one the index names; likewise.
    Damaged,
}

/// Which list a frame is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Member {
    #[default]
    Neither,
    Idle,
    Active,
    Held,
}

/// One extent's descriptor and its state in this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    pub(super) slot: u32,
    pub(super) residence: Residence,
    pub(super) activity: Activity,
    pub(super) descriptor: Descriptor,
    /// Blocks that take space.
    pub(super) data_blocks: u16,
    /// Requests that rely on this frame staying.
    pub(super) pins: u32,
    /// Writes and zeroes issued and not applied.
    pub(super) in_flight: u32,
    /// First position not contained in the page on the device, if any.
    pub(super) dirty_since: Option<u64>,
    /// No record of the extent is above this position.
    pub(super) newest_lsn: u64,
    /// A checkpoint has taken its image but not yet written it.
    pub(super) checkpointing: bool,
    /// Blocks whose first write is at or below `uncovered_lsn` and may not be vouched for by the log yet.
    pub(super) uncovered: BlockSet,
    pub(super) uncovered_lsn: u64,
    /// No first write of a block in `uncovered` is below this.
    pub(super) uncovered_from: u64,
    pub(super) last_write: Nanos,
    /// Rises with every write: tells a seal that the extent was not quiet.
    pub(super) stamp: u64,
    /// Newest write that the other copy may lack: not to be sealed before it is resolved.
    pub(super) held: Option<ShardSequence>,
    /// Free the extent when nothing pins it, if it holds no data then.
    pub(super) free_wanted: bool,
    member: Member,
    before: u32,
    after: u32,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, len: 0 }
    }
}

/// The cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    frames: Vec<Frame>,
    empty: Vec<u32>,
    capacity: usize,
    idle: List,
    active: List,
    held: List,
    dirty: u32,
}

/// Frames that a store has whatever its budget. Few, so that tests on small devices see descriptors come and go.
const FRAMES_MIN: usize = 32;

impl Pages {
    /// As many frames as fit the budget, at least [`FRAMES_MIN`] unless the device has fewer extents.
    pub(super) fn new(budget_bytes: usize, extents: u32) -> Self {
        let capacity = (budget_bytes / size_of::<Frame>()).max(FRAMES_MIN).min(extents as usize);
        Self { frames: Vec::with_capacity(capacity), empty: Vec::with_capacity(capacity), capacity, ..Self::default() }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Frames in use or used before; checkpoints walk them by number.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.frames.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self, frame: u32) -> &Frame {
        &self.frames[frame as usize]
    }

    pub(super) fn get_mut(&mut self, frame: u32) -> &mut Frame {
        &mut self.frames[frame as usize]
    }

    pub(super) fn active_count(&self) -> u32 {
        self.active.len + self.held.len
    }

    pub(super) fn dirty_count(&self) -> u32 {
        self.dirty
    }

    /// The active extent that was quiet the longest, of those that may be sealed.
    pub(super) fn quietest(&self) -> Option<u32> {
        (self.active.head != NONE).then_some(self.active.head)
    }

    /// The next one in that order.
    pub(super) fn after(&self, frame: u32) -> Option<u32> {
        let after = self.get(frame).after;
        (after != NONE).then_some(after)
    }

    /// A frame for a slot: a new one, or the least recently used that `may_take` agrees to. Gives the
    /// slot it was taken from, whose entry must forget it.
    pub(super) fn take(&mut self, slot: u32, may_take: impl Fn(&Frame) -> bool) -> Option<(u32, Option<u32>)> {
        let (frame, former) = if let Some(frame) = self.empty.pop() {
            (frame, None)
        } else if self.frames.len() < self.capacity {
            self.frames.push(Frame { before: NONE, after: NONE, ..Frame::default() });
            (self.len() - 1, None)
        } else {
            let mut candidate = self.idle.head;
            let mut looked = 0;
            while candidate != NONE && looked < 8 && !may_take(self.get(candidate)) {
                candidate = self.get(candidate).after;
                looked += 1;
            }
            if candidate == NONE || !may_take(self.get(candidate)) {
                return None;
            }
            self.unlink(candidate);
            (candidate, Some(self.get(candidate).slot))
        };
        let entry = self.get_mut(frame);
        assert!(entry.pins == 0 && entry.dirty_since.is_none() && !entry.checkpointing, "a frame in use is not taken");
        entry.slot = slot;
        entry.residence = Residence::Empty;
        entry.activity = Activity::Idle;
        entry.uncovered = BlockSet::default();
        entry.uncovered_lsn = 0;
        entry.uncovered_from = 0;
        entry.free_wanted = false;
        entry.in_flight = 0;
        entry.held = None;
        Some((frame, former))
    }

    /// Empties a frame: its extent is gone, or its page could not be had.
    pub(super) fn drop_frame(&mut self, frame: u32) {
        self.unlink(frame);
        self.clean(frame);
        let entry = self.get_mut(frame);
        assert!(entry.pins == 0 && entry.in_flight == 0, "a frame in use is not dropped");
        entry.residence = Residence::Empty;
        entry.activity = Activity::Idle;
        entry.checkpointing = false;
        entry.free_wanted = false;
        entry.held = None;
        self.empty.push(frame);
    }

    /// The frame's page lacks the records from `lsn` on.
    pub(super) fn soil(&mut self, frame: u32, lsn: u64) {
        let entry = self.get_mut(frame);
        let since = entry.dirty_since;
        entry.dirty_since = Some(since.map_or(lsn, |since| since.min(lsn)));
        if since.is_none() {
            self.dirty += 1;
        }
        self.relist(frame);
    }

    /// The frame's page has been imaged.
    pub(super) fn clean(&mut self, frame: u32) {
        if self.get_mut(frame).dirty_since.take().is_some() {
            self.dirty -= 1;
        }
    }

    pub(super) fn pin(&mut self, frame: u32) {
        self.get_mut(frame).pins += 1;
        self.relist(frame);
    }

    pub(super) fn unpin(&mut self, frame: u32) {
        let entry = self.get_mut(frame);
        assert!(entry.pins > 0, "a pin is taken off once");
        entry.pins -= 1;
        self.relist(frame);
    }

    pub(super) fn set_activity(&mut self, frame: u32, activity: Activity) {
        self.get_mut(frame).activity = activity;
        self.relist(frame);
    }

    /// A write to the extent: it becomes the last in the order of quiet.
    pub(super) fn touch(&mut self, frame: u32, now: Nanos) {
        let entry = self.get_mut(frame);
        entry.last_write = now;
        entry.stamp += 1;
        self.unlink(frame);
        self.relist(frame);
    }

    /// A write that the other copy may lack.
    pub(super) fn hold(&mut self, frame: u32, version: ShardSequence) {
        let entry = self.get_mut(frame);
        entry.held = entry.held.max(Some(version));
        self.relist(frame);
    }

    /// Every held write up to `version` is resolved. Quiet counts from now.
    pub(super) fn release(&mut self, frame: u32, version: ShardSequence, now: Nanos) {
        let entry = self.get_mut(frame);
        if entry.held.is_some_and(|held| held <= version) {
            entry.held = None;
            entry.last_write = entry.last_write.max(now);
            self.relist(frame);
        }
    }

    /// No write is held any more: the store closes. Gives the slots of those that were.
    pub(super) fn release_all(&mut self) -> Vec<u32> {
        let mut slots = Vec::new();
        while self.held.head != NONE {
            let frame = self.held.head;
            slots.push(self.get(frame).slot);
            self.get_mut(frame).held = None;
            self.relist(frame);
        }
        slots
    }

    /// Puts a frame into the list it belongs to now.
    pub(super) fn relist(&mut self, frame: u32) {
        let entry = self.get(frame);
        let wanted = match entry.activity {
            Activity::Active if entry.held.is_some() => Member::Held,
            Activity::Active => Member::Active,
            Activity::Activating => Member::Neither,
            Activity::Idle => match entry.residence {
                Residence::Resident if entry.pins == 0 && entry.dirty_since.is_none() && !entry.checkpointing => Member::Idle,
                Residence::Empty
                | Residence::Wanted
                | Residence::Loading
                | Residence::Resident
                | Residence::Unreadable { .. }
                | Residence::Damaged => Member::Neither,
            },
        };
        if wanted == entry.member {
            return;
        }
        self.unlink(frame);
        let list = match wanted {
            Member::Neither => return,
            Member::Idle => &mut self.idle,
            Member::Active => &mut self.active,
            Member::Held => &mut self.held,
        };
        let tail = list.tail;
        list.tail = frame;
        list.len += 1;
        if tail == NONE {
            list.head = frame;
        } else {
            self.frames[tail as usize].after = frame;
        }
        let entry = &mut self.frames[frame as usize];
        entry.before = tail;
        entry.after = NONE;
        entry.member = wanted;
    }

    fn unlink(&mut self, frame: u32) {
        let entry = self.get(frame);
        let (before, after) = (entry.before, entry.after);
        let list = match entry.member {
            Member::Neither => return,
            Member::Idle => &mut self.idle,
            Member::Active => &mut self.active,
            Member::Held => &mut self.held,
        };
        list.len -= 1;
        if before == NONE {
            list.head = after;
        } else {
            self.frames[before as usize].after = after;
        }
        if after == NONE {
            match self.frames[frame as usize].member {
                Member::Neither => {}
                Member::Idle => self.idle.tail = before,
                Member::Active => self.active.tail = before,
                Member::Held => self.held.tail = before,
            }
        } else {
            self.frames[after as usize].before = before;
        }
        let entry = &mut self.frames[frame as usize];
        entry.member = Member::Neither;
        entry.before = NONE;
        entry.after = NONE;
    }
}
