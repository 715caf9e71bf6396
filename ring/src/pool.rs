//! The memory of all payloads of a loop: one region, three sizes of buffers, use counts, budgets.
//!
//! Invariants: a buffer is free only when its last use has ended, and the loop itself holds one use
//! for every disk and socket request in flight, so the kernel never writes into a free buffer; a
//! class never takes what is reserved for a higher one (`Client` < `Replicate` < `Internal`); nothing
//! is allocated after `new`.
//!
//! What a machine must keep to, and debug builds check: it does not look at bytes that a request in
//! flight writes, nor change bytes that a request in flight reads.

use crate::error::RingError;
use crate::region::Region;
use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::limits::FRAME_PAYLOAD_BYTES_MAX;

/// Buffer sizes, smallest first.
pub const BUFFER_BYTES: [u32; 3] = [4 * 1024, 32 * 1024, FRAME_PAYLOAD_BYTES_MAX];

const SIZES: usize = BUFFER_BYTES.len();

/// The least memory a loop can make progress with: a few buffers of each size for each class.
pub const POOL_BYTES_MIN: usize = 4 << 20;

/// How much memory, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Bytes of all buffers together.
    pub bytes: usize,
    /// Thousandths of each size that `Client` may not take.
    pub above_client_per_mille: u16,
    /// Thousandths of each size that neither `Client` nor `Replicate` may take.
    pub above_replicate_per_mille: u16,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { bytes: 64 << 20, above_client_per_mille: 300, above_replicate_per_mille: 150 }
    }
}

#[derive(Debug)]
struct Size {
    bytes: u32,
    /// First buffer id of this size.
    first: u32,
    count: u32,
    /// Where the first one lies.
    base: usize,
    /// Free ones; the last freed is the next given, while it is still in the cache.
    free: Vec<u32>,
    /// Buffers that stay for higher classes: [`BufferClass`] by number.
    reserved: [usize; 3],
}

/// What the pool has handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStatistics {
    /// Bytes of all buffers.
    pub total_bytes: u64,
    /// Bytes of buffers in use.
    pub used_bytes: u64,
    /// Allocations refused because a class had used up its budget.
    pub refused: u64,
}

/// All buffers of a loop.
#[derive(Debug)]
pub struct BufferPool {
    region: Region,
    sizes: [Size; SIZES],
    uses: Vec<u32>,
    zero_base: usize,
    refused: u64,
    /// An allocation was refused and its machine waits to be woken.
    starved: bool,
    /// A buffer was freed since.
    relieved: bool,
    #[cfg(debug_assertions)]
    in_flight: Vec<InFlight>,
}

/// A range that the kernel works on.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InFlight {
    span: Span,
    writes: bool,
}

impl BufferPool {
    /// Maps and touches the memory.
    ///
    /// # Errors
    /// When it is too little to work with, or not to be had.
    pub fn new(options: &PoolOptions) -> Result<Self, RingError> {
        if options.bytes < POOL_BYTES_MIN {
            return Err(RingError::PoolTooSmall { bytes: options.bytes, minimum: POOL_BYTES_MIN });
        }
        let zero_bytes = crate::limits::ZERO_AREA_BYTES as usize;
        // A quarter each for small and middle ones, half for the largest: 64 MiB give 4,096 + 512 + 256.
        let shares = [options.bytes / 4, options.bytes / 4, options.bytes / 2];
        let (mut first, mut base) = (0_u32, 0_usize);
        let sizes = std::array::from_fn(|index| {
            let bytes = BUFFER_BYTES[index];
            let count = u32::try_from(shares[index] / bytes as usize).unwrap_or(u32::MAX >> 2).max(8);
            let share = |per_mille: u16| (count as usize * usize::from(per_mille.min(900))).div_ceil(1000);
            let size = Size {
                bytes,
                first,
                count,
                base,
                // Lowest first: a lightly used pool stays in few pages.
                free: (first..first + count).rev().collect(),
                reserved: [share(options.above_client_per_mille), share(options.above_replicate_per_mille), 0],
            };
            first += count;
            base += count as usize * bytes as usize;
            size
        });
        let region = Region::new(base + zero_bytes)?;
        Ok(Self {
            region,
            sizes,
            uses: vec![0; first as usize],
            zero_base: base,
            refused: 0,
            starved: false,
            relieved: false,
            #[cfg(debug_assertions)]
            in_flight: Vec::new(),
        })
    }

    fn size_of(&self, buffer: BufferId) -> &Size {
        let [small, middle, large] = &self.sizes;
        let id = buffer.get();
        if id < middle.first {
            small
        } else if id < large.first {
            middle
        } else {
            large
        }
    }

    /// Bytes of a buffer: its size class, which may be more than was asked for.
    #[must_use]
    pub fn capacity(&self, buffer: BufferId) -> u32 {
        self.size_of(buffer).bytes
    }

    /// Uses of a buffer.
    #[must_use]
    pub fn uses(&self, buffer: BufferId) -> u32 {
        self.uses.get(buffer.get() as usize).copied().unwrap_or(0)
    }

    fn offset(&self, span: Span) -> usize {
        let size = self.size_of(span.buffer);
        let index = span.buffer.get() - size.first;
        let end = span.start.checked_add(span.len);
        assert!(index < size.count && end.is_some_and(|end| end <= size.bytes), "a span lies inside its buffer: {span:?}");
        assert!(self.uses[span.buffer.get() as usize] > 0, "bytes of a buffer that nobody uses: {span:?}");
        size.base + index as usize * size.bytes as usize + span.start as usize
    }

    /// Numbers of what is in use.
    #[must_use]
    pub fn statistics(&self) -> PoolStatistics {
        let mut statistics = PoolStatistics { refused: self.refused, ..PoolStatistics::default() };
        for size in &self.sizes {
            statistics.total_bytes += u64::from(size.count) * u64::from(size.bytes);
            statistics.used_bytes += (size.count as usize - size.free.len()) as u64 * u64::from(size.bytes);
        }
        statistics
    }

    /// Copies between two buffers, or from one part to another of the same.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn copy(&mut self, from: Span, to: Span) {
        assert_eq!(from.len, to.len, "a copy has one length");
        let (source, target) = (self.offset(from), self.offset(to));
        let len = from.len as usize;
        assert!(source.abs_diff(target) >= len || source == target, "the two parts of a copy do not overlap");
        if source < target {
            let span = self.region.slice_mut(source, target + len - source);
            let (head, tail) = span.split_at_mut(target - source);
            tail.copy_from_slice(&head[..len]);
        } else if target < source {
            let span = self.region.slice_mut(target, source + len - target);
            let (head, tail) = span.split_at_mut(source - target);
            head[..len].copy_from_slice(tail);
        }
    }

    /// Whether a refused machine can try again now.
    pub(crate) const fn has_relief(&self) -> bool {
        self.starved && self.relieved
    }

    /// As `has_relief`, and resets it.
    pub(crate) fn take_relief(&mut self) -> bool {
        let relief = self.starved && self.relieved;
        if relief {
            self.starved = false;
            self.relieved = false;
        }
        relief
    }

    /// Address of a span for a request, which must hold a use until it completes ([`Self::begin`]).
    pub(crate) fn pointer(&self, span: Span) -> *mut u8 {
        self.region.pointer(self.offset(span), span.len as usize)
    }

    /// Address of `len` bytes that are zero and stay so.
    pub(crate) fn zeroes(&self, len: u32) -> *const u8 {
        self.region.pointer(self.zero_base, len as usize)
    }

    /// Address and size of all of it, to register.
    pub(crate) fn whole(&self) -> (*mut u8, usize) {
        (self.region.pointer(0, self.region.bytes()), self.region.bytes())
    }

    /// Where a span lies from the start of the region: tells its registered part.
    pub(crate) fn position(&self, span: Span) -> usize {
        self.offset(span)
    }

    /// A request of the kernel begins: the loop takes a use of its own.
    pub(crate) fn begin(&mut self, span: Span, writes: bool) {
        #[cfg(debug_assertions)]
        {
            let clash = self.in_flight.iter().find(|other| (writes || other.writes) && overlap(other.span, span));
            assert!(clash.is_none(), "{span:?} is given to the kernel while {clash:?} is in flight");
            self.in_flight.push(InFlight { span, writes });
        }
        #[cfg(not(debug_assertions))]
        let _ = writes;
        self.retain(span.buffer);
    }

    /// It has ended.
    pub(crate) fn end(&mut self, span: Span, writes: bool) {
        #[cfg(debug_assertions)]
        {
            let ended = InFlight { span, writes };
            let place = self.in_flight.iter().position(|other| *other == ended);
            self.in_flight.swap_remove(place.expect("only what began ends"));
        }
        #[cfg(not(debug_assertions))]
        let _ = writes;
        self.release(span.buffer);
    }

    #[cfg(debug_assertions)]
    fn check_access(&self, span: Span, writes: bool) {
        let clash = self.in_flight.iter().find(|other| (writes || other.writes) && overlap(other.span, span));
        assert!(clash.is_none(), "{span:?} is touched (write: {writes}) while {clash:?} is in flight");
    }
}

#[cfg(debug_assertions)]
fn overlap(one: Span, other: Span) -> bool {
    one.buffer == other.buffer && one.start < other.start + other.len && other.start < one.start + one.len
}

impl Buffers for BufferPool {
    fn allocate(&mut self, class: BufferClass, len: u32) -> Option<BufferId> {
        // A size that has run out borrows from the next larger one, within the same reserve.
        for size in self.sizes.iter_mut().filter(|size| size.bytes >= len) {
            if size.free.len() > size.reserved[class as usize]
                && let Some(id) = size.free.pop()
            {
                self.uses[id as usize] = 1;
                return Some(BufferId::new(id));
            }
        }
        self.refused += 1;
        self.starved = true;
        self.relieved = false;
        None
    }

    fn retain(&mut self, buffer: BufferId) {
        let uses = &mut self.uses[buffer.get() as usize];
        assert!(*uses > 0, "a use is added to a buffer in use");
        *uses += 1;
    }

    fn release(&mut self, buffer: BufferId) {
        let uses = &mut self.uses[buffer.get() as usize];
        assert!(*uses > 0, "a use is ended that exists");
        *uses -= 1;
        if *uses == 0 {
            let id = buffer.get();
            let place = usize::from(id >= self.sizes[1].first) + usize::from(id >= self.sizes[2].first);
            self.sizes[place].free.push(id);
            self.relieved = true;
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        #[cfg(debug_assertions)]
        self.check_access(span, false);
        self.region.slice(self.offset(span), span.len as usize)
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        #[cfg(debug_assertions)]
        self.check_access(span, true);
        let offset = self.offset(span);
        self.region.slice_mut(offset, span.len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> BufferPool {
        BufferPool::new(&PoolOptions { bytes: POOL_BYTES_MIN, ..PoolOptions::default() }).expect("memory")
    }

    #[test]
    fn a_buffer_is_free_only_after_its_last_use() {
        let mut pool = pool();
        let buffer = pool.allocate(BufferClass::Client, 4096).expect("free");
        pool.retain(buffer);
        pool.release(buffer);
        pool.bytes_mut(Span::whole(buffer, 4096)).fill(7);
        let other = pool.allocate(BufferClass::Client, 4096).expect("free");
        assert_ne!(buffer, other);
        pool.release(buffer);
        assert_eq!(pool.allocate(BufferClass::Client, 1), Some(buffer), "the last freed is the next given");
    }

    #[test]
    fn clients_cannot_eat_what_others_need() {
        let mut pool = pool();
        while pool.allocate(BufferClass::Client, 4096).is_some() {}
        assert!(pool.allocate(BufferClass::Replicate, 4096).is_some());
        while pool.allocate(BufferClass::Replicate, 4096).is_some() {}
        for _ in 0..16 {
            assert!(pool.allocate(BufferClass::Internal, 4096).is_some());
            assert!(pool.allocate(BufferClass::Internal, 131_072).is_some() || pool.sizes[2].free.is_empty());
        }
    }

    #[test]
    fn relief_comes_once_after_a_refusal_and_a_release() {
        let mut pool = pool();
        let mut held = Vec::new();
        while let Some(buffer) = pool.allocate(BufferClass::Client, 131_072) {
            held.push(buffer);
        }
        assert!(!pool.take_relief());
        pool.release(held.pop().expect("some were there"));
        assert!(pool.take_relief());
        assert!(!pool.take_relief());
    }

    #[test]
    fn every_buffer_has_its_own_aligned_bytes() {
        let mut pool = pool();
        let mut held = Vec::new();
        for len in BUFFER_BYTES {
            while let Some(buffer) = pool.allocate(BufferClass::Internal, len) {
                let span = Span::whole(buffer, pool.capacity(buffer));
                assert_eq!(pool.pointer(span) as usize % 4096, 0);
                let stamp = buffer.get().to_le_bytes()[0];
                pool.bytes_mut(span).fill(stamp);
                held.push(span);
            }
        }
        for span in &held {
            let stamp = span.buffer.get().to_le_bytes()[0];
            assert!(pool.bytes(*span).iter().all(|byte| *byte == stamp));
        }
        assert_eq!(pool.statistics().used_bytes, pool.statistics().total_bytes);
    }

    #[test]
    fn copies_go_both_ways() {
        let mut pool = pool();
        let one = pool.allocate(BufferClass::Internal, 4096).expect("free");
        let two = pool.allocate(BufferClass::Internal, 4096).expect("free");
        pool.bytes_mut(Span::whole(one, 4)).copy_from_slice(b"abcd");
        pool.copy(Span::whole(one, 4), Span { buffer: two, start: 100, len: 4 });
        pool.copy(Span { buffer: two, start: 100, len: 4 }, Span { buffer: one, start: 8, len: 4 });
        assert_eq!(pool.bytes(Span { buffer: one, start: 8, len: 4 }), b"abcd");
    }

    #[test]
    #[should_panic(expected = "in flight")]
    fn touching_bytes_that_the_kernel_writes_is_caught() {
        let mut pool = pool();
        let buffer = pool.allocate(BufferClass::Internal, 4096).expect("free");
        pool.begin(Span::whole(buffer, 4096), true);
        let _ = pool.bytes(Span::whole(buffer, 10));
    }

    #[test]
    #[should_panic(expected = "inside its buffer")]
    fn a_span_past_its_buffer_is_caught() {
        let mut pool = pool();
        let buffer = pool.allocate(BufferClass::Internal, 4096).expect("free");
        let _ = pool.bytes(Span { buffer, start: 4000, len: 97 });
    }
}
