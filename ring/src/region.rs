//! Page-aligned memory that the kernel may be told about: mapped once, touched once, never moved.
//!
//! Invariant: the mapping lives as long as the `Region`, and every access is inside it.

use crate::error::RingError;
use std::ptr::NonNull;
use std::{io, slice};

/// An anonymous private mapping, all its pages present.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

const HUGE_PAGE_BYTES: usize = 2 << 20;

impl Region {
    /// Maps and touches `bytes` (rounded up to pages). A first touch of a page costs 4 µs on a virtual
    /// machine, so it is done here and not under a request; huge pages are asked for and make it 10× cheaper.
    pub(crate) fn new(bytes: usize) -> Result<Self, RingError> {
        let bytes = bytes.next_multiple_of(4096).max(4096);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(RingError::Memory { bytes, source: io::Error::last_os_error() });
        }
        let Some(base) = NonNull::new(raw.cast::<u8>()) else {
            return Err(RingError::Memory { bytes, source: io::Error::from_raw_os_error(libc::ENOMEM) });
        };
        let region = Self { base, bytes };
        if bytes >= HUGE_PAGE_BYTES {
            // SAFETY: the range is the mapping just made; the advice changes no content.
            unsafe { libc::madvise(raw, bytes, libc::MADV_HUGEPAGE) };
        }
        // SAFETY: the range is the mapping just made; populating changes no content.
        let populated = unsafe { libc::madvise(raw, bytes, libc::MADV_POPULATE_WRITE) };
        if populated != 0 {
            let error = io::Error::last_os_error();
            // Before Linux 5.14 the advice is unknown: touch by hand.
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(RingError::Memory { bytes, source: error });
            }
            for offset in (0..bytes).step_by(4096) {
                // SAFETY: inside the mapping, of which nobody else knows yet.
                unsafe { region.base.add(offset).write_volatile(0) };
            }
        }
        Ok(region)
    }

    /// Its size.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Address of a byte for the kernel. The range must lie inside.
    ///
    /// # Panics
    /// If it does not.
    pub(crate) fn pointer(&self, offset: usize, len: usize) -> *mut u8 {
        self.check(offset, len);
        // SAFETY: `check` keeps the result inside the mapping.
        unsafe { self.base.add(offset).as_ptr() }
    }

    fn check(&self, offset: usize, len: usize) {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.bytes), "bytes {offset}+{len} of a region of {}", self.bytes);
    }

    /// Bytes to read.
    pub(crate) fn slice(&self, offset: usize, len: usize) -> &[u8] {
        self.check(offset, len);
        // SAFETY: inside the mapping, initialised (zero pages), and borrowed from `self`, so no `slice_mut`
        // lives beside it. The kernel does not write here meanwhile: whoever submits a request that writes
        // keeps its owner from looking until the completion (pool.rs and stream/ say how).
        unsafe { slice::from_raw_parts(self.base.as_ptr().add(offset), len) }
    }

    /// Bytes to write.
    pub(crate) fn slice_mut(&mut self, offset: usize, len: usize) -> &mut [u8] {
        self.check(offset, len);
        // SAFETY: as in `slice`, and `&mut self` makes this the only borrow.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr().add(offset), len) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this address and size and is unmapped once. Owners drop a
        // region only when no request that names it is in flight (`Reactor::drop`).
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zero_and_keeps_what_is_written() {
        let mut region = Region::new(10_000).expect("memory");
        assert_eq!(region.bytes(), 12_288);
        assert!(region.slice(0, 12_288).iter().all(|byte| *byte == 0));
        region.slice_mut(4095, 11).copy_from_slice(b"over a page");
        assert_eq!(region.slice(4095, 11), b"over a page");
    }

    #[test]
    #[should_panic(expected = "of a region")]
    fn an_access_past_the_end_is_caught() {
        let region = Region::new(4096).expect("memory");
        let _ = region.slice(4090, 7);
    }
}
