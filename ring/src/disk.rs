//! Disk requests in flight: who waits for each, which buffer it holds, when it began.
//!
//! Invariants: the oldest request is known at any time in O(1) (the heartbeat reports its age: a hung
//! disk must not look healthy); a request holds a use of its buffer until its completion.

use crate::limits::DISK_REQUESTS_MAX;
use crate::ring::Target;
use crate::role::RoleIndex;
use sds_core::buffer::Span;
use sds_core::machine::DiskResult;
use sds_core::unit::{ByteOffset, Nanos};
use std::os::fd::OwnedFd;

/// A disk of a loop, named by [`crate::Turn::add_disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskId(pub(crate) u16);

/// An open device.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Keeps the descriptor open, and with it the device's lock, until the loop ends.
    #[expect(dead_code, reason = "owned for its drop")]
    pub(crate) fd: OwnedFd,
    pub(crate) target: Target,
}

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Read { offset: ByteOffset, span: Span },
    Write { offset: ByteOffset, span: Span, durable: bool },
    Flush,
}

impl Operation {
    /// The buffer it holds and whether the kernel writes to it.
    pub(crate) const fn span(self) -> Option<(Span, bool)> {
        match self {
            Self::Read { span, .. } => Some((span, true)),
            Self::Write { span, .. } => Some((span, false)),
            Self::Flush => None,
        }
    }

    /// What a completion's number means.
    pub(crate) fn outcome(self, result: i32) -> DiskResult {
        let Ok(bytes) = u32::try_from(result) else {
            return DiskResult::Error { errno: result.saturating_neg() };
        };
        match self.span() {
            Some((span, _)) if bytes != span.len => DiskResult::Short { bytes },
            Some(_) | None => DiskResult::Done,
        }
    }
}

/// One request in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) role: RoleIndex,
    pub(crate) disk: DiskId,
    pub(crate) tag: u64,
    pub(crate) operation: Operation,
    pub(crate) started: Nanos,
    /// How often the kernel has asked for it to be tried again.
    pub(crate) retries: u8,
    older: u32,
    newer: u32,
}

const NONE: u32 = u32::MAX;

/// All requests in flight, linked from oldest to newest.
#[derive(Debug)]
pub(crate) struct Requests {
    slots: Vec<Option<Request>>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::with_capacity(1024), free: Vec::with_capacity(1024), oldest: NONE, newest: NONE }
    }

    pub(crate) fn insert(&mut self, role: RoleIndex, disk: DiskId, tag: u64, operation: Operation, started: Nanos) -> u32 {
        let request = Some(Request { role, disk, tag, operation, started, retries: 0, older: self.newest, newer: NONE });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = request;
                slot
            }
            None => {
                assert!(self.slots.len() < DISK_REQUESTS_MAX, "machines bound their disk requests below the loop's bound");
                self.slots.push(request);
                u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
            }
        };
        match self.slots.get_mut(self.newest as usize).and_then(Option::as_mut) {
            Some(before) => before.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
        slot
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Request> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Request> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Request> {
        let request = self.slots.get_mut(slot as usize)?.take()?;
        match self.slots.get_mut(request.older as usize).and_then(Option::as_mut) {
            Some(older) => older.newer = request.newer,
            None => self.oldest = request.newer,
        }
        match self.slots.get_mut(request.newer as usize).and_then(Option::as_mut) {
            Some(newer) => newer.older = request.older,
            None => self.newest = request.older,
        }
        self.free.push(slot);
        Some(request)
    }

    /// When the oldest one began.
    pub(crate) fn oldest(&self) -> Option<Nanos> {
        self.get(self.oldest).map(|request| request.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_request_is_known_whatever_order_they_end_in() {
        let mut requests = Requests::new();
        let mut insert = |time| requests.insert(RoleIndex::new(0), DiskId(0), time, Operation::Flush, Nanos::new(time));
        let slots: Vec<u32> = (1..=4).map(&mut insert).collect();
        assert_eq!(requests.oldest(), Some(Nanos::new(1)));
        requests.remove(slots[1]);
        assert_eq!(requests.oldest(), Some(Nanos::new(1)));
        requests.remove(slots[0]);
        assert_eq!(requests.oldest(), Some(Nanos::new(3)));
        requests.remove(slots[3]);
        let again = requests.insert(RoleIndex::new(0), DiskId(0), 9, Operation::Flush, Nanos::new(9));
        assert_eq!(requests.oldest(), Some(Nanos::new(3)));
        requests.remove(slots[2]);
        assert_eq!(requests.oldest(), Some(Nanos::new(9)));
        assert_eq!(requests.remove(again).map(|request| request.tag), Some(9));
        assert_eq!(requests.oldest(), None);
        assert!(requests.remove(again).is_none());
    }

    #[test]
    fn a_short_completion_is_not_done() {
        let span = Span::whole(sds_core::buffer::BufferId::new(0), 4096);
        let read = Operation::Read { offset: ByteOffset::ZERO, span };
        assert_eq!(read.outcome(4096), DiskResult::Done);
        assert_eq!(read.outcome(512), DiskResult::Short { bytes: 512 });
        assert_eq!(read.outcome(-5), DiskResult::Error { errno: 5 });
        assert_eq!(Operation::Flush.outcome(0), DiskResult::Done);
    }
}
