//! The simulator's buffer pool: real bytes, and a witness against misuse.
//!
//! It notices what a shell could only suffer from: a buffer freed, written or handed out while a
//! disk or socket still works on it; a write by one of several holders; a use released twice; uses
//! left over when everything is done. Notices are collected, not panicked on, so a run tells its story.
//!
//! Must not know: what the bytes mean.

use crate::prng::mix;
use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::limits::FRAME_PAYLOAD_BYTES_MAX;
use std::collections::VecDeque;

/// Sizes of buffers, as in the ring's pool: requests are rounded up to one of them.
const SIZES: [u32; 3] = [4096, 32 * 1024, FRAME_PAYLOAD_BYTES_MAX];

/// What works on a span right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// A disk or socket reads the bytes: nobody may change them.
    Reading,
    /// A disk writes the bytes: nobody may change or look at them.
    Filling,
}

/// Names some work on a buffer until it is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    span: Span,
    serial: u64,
}

impl Pin {
    /// The bytes under work.
    #[must_use]
    pub const fn span(self) -> Span {
        self.span
    }
}

#[derive(Debug)]
struct Slot {
    bytes: Vec<u8>,
    class: BufferClass,
    uses: u32,
    pins: Vec<(u64, Span, Work)>,
}

/// Bytes each class may hold at once.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// [`BufferClass::Client`].
    pub client: u64,
    /// [`BufferClass::Replicate`].
    pub replicate: u64,
    /// [`BufferClass::Internal`].
    pub internal: u64,
}

impl Budgets {
    const fn of(&self, class: BufferClass) -> u64 {
        match class {
            BufferClass::Client => self.client,
            BufferClass::Replicate => self.replicate,
            BufferClass::Internal => self.internal,
        }
    }
}

/// The pool of one process.
#[derive(Debug)]
pub struct SimBuffers {
    slots: Vec<Slot>,
    free: [VecDeque<u32>; SIZES.len()],
    held: [u64; 3],
    budgets: Budgets,
    serial: u64,
    garbage: u8,
    starved: bool,
    freed_after_starving: bool,
    faults: Vec<String>,
}

const fn overlap(one: Span, other: Span) -> bool {
    one.buffer.get() == other.buffer.get() && one.start < other.start + other.len && other.start < one.start + one.len
}

const fn class_index(class: BufferClass) -> usize {
    match class {
        BufferClass::Client => 0,
        BufferClass::Replicate => 1,
        BufferClass::Internal => 2,
    }
}

impl SimBuffers {
    /// An empty pool with these budgets; `garbage` is what fresh buffers are filled from.
    #[must_use]
    pub fn new(budgets: Budgets, garbage: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: [const { VecDeque::new() }; SIZES.len()],
            held: [0; 3],
            budgets,
            serial: 0,
            garbage: mix(garbage).to_le_bytes()[0] | 1,
            starved: false,
            freed_after_starving: false,
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < 16 {
            self.faults.push(text);
        }
    }

    /// Says that a disk or socket reads these bytes until [`Self::end`].
    pub fn begin_reading(&mut self, span: Span) -> Pin {
        self.begin(span, Work::Reading)
    }

    /// Says that a disk fills these bytes until [`Self::end`].
    pub fn begin_filling(&mut self, span: Span) -> Pin {
        self.begin(span, Work::Filling)
    }

    fn begin(&mut self, span: Span, work: Work) -> Pin {
        self.serial += 1;
        let serial = self.serial;
        let Some(slot) = self.slots.get_mut(span.buffer.get() as usize).filter(|slot| slot.uses > 0) else {
            self.fault(format!("work begins on {span:?}, which nobody holds"));
            return Pin { span, serial };
        };
        let clash = slot.pins.iter().any(|(_, other, kind)| overlap(span, *other) && (*kind == Work::Filling || work == Work::Filling));
        let outside = span.start as usize + span.len as usize > slot.bytes.len();
        slot.pins.push((serial, span, work));
        if clash {
            self.fault(format!("{work:?} of {span:?} overlaps other work on the same bytes"));
        }
        if outside {
            self.fault(format!("{span:?} does not lie inside its buffer"));
        }
        Pin { span, serial }
    }

    /// The work on a span is over.
    pub fn end(&mut self, pin: Pin) {
        let found = self.slots.get_mut(pin.span.buffer.get() as usize).and_then(|slot| {
            let place = slot.pins.iter().position(|(serial, ..)| *serial == pin.serial)?;
            Some(slot.pins.swap_remove(place))
        });
        if found.is_none() {
            self.fault(format!("work on {:?} ended on a buffer that was freed meanwhile", pin.span));
        }
    }

    /// Fills a span as a disk would, whatever else holds the buffer.
    pub fn fill(&mut self, pin: Pin, write: impl FnOnce(&mut [u8])) {
        let span = pin.span;
        if let Some(slot) = self.slots.get_mut(span.buffer.get() as usize) {
            let range = span.start as usize..(span.start + span.len) as usize;
            if let Some(bytes) = slot.bytes.get_mut(range) {
                write(bytes);
            }
        }
    }

    /// The bytes of a span for a harness that only looks.
    #[must_use]
    pub fn peek(&self, span: Span) -> &[u8] {
        &self.slots[span.buffer.get() as usize].bytes[span.start as usize..(span.start + span.len) as usize]
    }

    /// Whether buffers were freed after an allocation had failed, since this was last asked.
    pub fn take_freed_after_starving(&mut self) -> bool {
        core::mem::take(&mut self.freed_after_starving)
    }

    /// Misuse noticed since this was last asked.
    pub fn take_faults(&mut self) -> Vec<String> {
        core::mem::take(&mut self.faults)
    }

    /// Buffers that somebody still holds: (buffer, class, bytes, uses).
    pub fn held(&self) -> impl Iterator<Item = (BufferId, BufferClass, usize, u32)> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.uses > 0).map(|(index, slot)| {
            let index = u32::try_from(index).expect("made from a u32");
            (BufferId::new(index), slot.class, slot.bytes.len(), slot.uses)
        })
    }

    /// Bytes a class holds now.
    #[must_use]
    pub fn held_bytes(&self, class: BufferClass) -> u64 {
        self.held[class_index(class)]
    }

    /// How many uses a buffer has.
    #[must_use]
    pub fn uses(&self, buffer: BufferId) -> u32 {
        self.slots.get(buffer.get() as usize).map_or(0, |slot| slot.uses)
    }
}

impl Buffers for SimBuffers {
    fn allocate(&mut self, class: BufferClass, len: u32) -> Option<BufferId> {
        let Some(size_class) = SIZES.iter().position(|size| *size >= len) else {
            self.fault(format!("a buffer of {len} bytes was asked for; the largest has {FRAME_PAYLOAD_BYTES_MAX}"));
            return None;
        };
        let size = SIZES[size_class];
        let held = &mut self.held[class_index(class)];
        if *held + u64::from(size) > self.budgets.of(class) {
            self.starved = true;
            return None;
        }
        *held += u64::from(size);
        // Oldest first, so that a use after release is not hidden by an idle buffer.
        let index = self.free[size_class].pop_front().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("budgets keep the pool small");
            self.slots.push(Slot { bytes: vec![0; size as usize], class, uses: 0, pins: Vec::new() });
            index
        });
        let garbage = self.garbage;
        let slot = &mut self.slots[index as usize];
        slot.bytes.fill(garbage);
        slot.class = class;
        slot.uses = 1;
        Some(BufferId::new(index))
    }

    fn retain(&mut self, buffer: BufferId) {
        match self.slots.get_mut(buffer.get() as usize) {
            Some(slot) if slot.uses > 0 => slot.uses += 1,
            Some(_) | None => self.fault(format!("{buffer:?} retained, which nobody holds")),
        }
    }

    fn release(&mut self, buffer: BufferId) {
        let Some(slot) = self.slots.get_mut(buffer.get() as usize).filter(|slot| slot.uses > 0) else {
            self.fault(format!("{buffer:?} released, which nobody holds"));
            return;
        };
        slot.uses -= 1;
        if slot.uses > 0 {
            return;
        }
        let size = slot.bytes.len();
        let pinned = slot.pins.first().copied();
        slot.pins.clear();
        self.held[class_index(slot.class)] -= size as u64;
        let size_class = SIZES.iter().position(|known| *known as usize == size).expect("made with a known size");
        self.free[size_class].push_back(buffer.get());
        if core::mem::take(&mut self.starved) {
            self.freed_after_starving = true;
        }
        if let Some((_, span, work)) = pinned {
            self.fault(format!("{buffer:?} freed while {work:?} of {span:?} was in flight"));
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        self.peek(span)
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        let slot = &self.slots[span.buffer.get() as usize];
        let uses = slot.uses;
        let busy = slot.pins.iter().any(|(_, other, _)| overlap(span, *other));
        if uses == 0 {
            self.fault(format!("{span:?} written by somebody who does not hold it"));
        }
        if busy {
            self.fault(format!("{span:?} written while a disk or socket works on it"));
        }
        &mut self.slots[span.buffer.get() as usize].bytes[span.start as usize..(span.start + span.len) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> SimBuffers {
        SimBuffers::new(Budgets { client: 64 * 1024, replicate: 0, internal: 64 * 1024 }, 1)
    }

    #[test]
    fn a_class_stops_at_its_budget_and_says_when_there_is_room() {
        let mut pool = pool();
        let first = pool.allocate(BufferClass::Client, 30_000).expect("within budget");
        let second = pool.allocate(BufferClass::Client, 30_000).expect("within budget");
        assert_eq!(pool.allocate(BufferClass::Client, 1), None);
        assert!(pool.allocate(BufferClass::Internal, 4096).is_some());
        pool.release(first);
        assert!(pool.take_freed_after_starving());
        pool.release(second);
        assert!(!pool.take_freed_after_starving());
        assert!(pool.take_faults().is_empty());
    }

    #[test]
    fn freeing_a_buffer_in_flight_is_noticed() {
        let mut pool = pool();
        let buffer = pool.allocate(BufferClass::Client, 4096).expect("within budget");
        let _pin = pool.begin_reading(Span::whole(buffer, 4096));
        pool.release(buffer);
        assert_eq!(pool.take_faults().len(), 1);
    }

    #[test]
    fn changing_a_buffer_in_flight_is_noticed() {
        let mut pool = pool();
        let buffer = pool.allocate(BufferClass::Client, 8192).expect("within budget");
        let pin = pool.begin_reading(Span::whole(buffer, 4096));
        pool.bytes_mut(Span { buffer, start: 4096, len: 4096 })[0] = 1;
        assert!(pool.take_faults().is_empty(), "the other half is free to use");
        pool.bytes_mut(Span { buffer, start: 0, len: 1 })[0] = 1;
        assert_eq!(pool.take_faults().len(), 1);
        pool.end(pin);
        pool.bytes_mut(Span { buffer, start: 0, len: 1 })[0] = 1;
        assert!(pool.take_faults().is_empty());
    }

    #[test]
    fn a_double_release_and_a_leak_are_noticed() {
        let mut pool = pool();
        let buffer = pool.allocate(BufferClass::Client, 4096).expect("within budget");
        assert_eq!(pool.held().count(), 1);
        pool.release(buffer);
        assert_eq!(pool.held().count(), 0);
        pool.release(buffer);
        assert_eq!(pool.take_faults().len(), 1);
    }
}
