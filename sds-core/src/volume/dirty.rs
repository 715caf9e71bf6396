//! What a session has written and not flushed, a device at a time.
//!
//! A write's answer names the caches that hold it; a flush names the caches it relies on, and the
//! server refuses (`FlushLost`) when it is no longer that cache. So the *oldest* name of unflushed
//! writes is what counts: were a host rebooted between two writes, the newer name would hide the loss.
//! A session takes over what the one before it did not flush, so a device is dirty from its start; which
//! cache that is in it learns from the first answer, also of a read.
//!
//! Invariants: a device is dirty from the completion of a write on it until a flush, sent after that
//! completion, has succeeded; a loss is reported by one flush and then forgotten.

use super::topology::DeviceIndex;
use crate::wire::CacheIds;

#[derive(Clone, Copy, Debug, Default)]
struct Device {
    /// Writes completed, ever (a fresh session starts at one: what came before it may be unflushed).
    written: u64,
    /// Writes known to be flushed.
    flushed: u64,
    /// Caches of the oldest unflushed write, where its answer named any.
    oldest: CacheIds,
    /// Caches of the newest write, and the write that first named them.
    newest: CacheIds,
    newest_since: u64,
}

/// How far a flush reaches: the writes that were complete when it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

#[derive(Debug, Default)]
pub(super) struct Dirty {
    devices: Vec<Device>,
}

impl Dirty {
    fn device_mut(&mut self, index: DeviceIndex) -> &mut Device {
        if self.devices.len() <= index.get() {
            self.devices.resize(index.get() + 1, Device::default());
        }
        &mut self.devices[index.get()]
    }

    /// What was written before this session may be unflushed, in a cache that nobody knows.
    pub(super) fn suspect(&mut self, index: DeviceIndex) {
        let device = self.device_mut(index);
        device.written = device.flushed + 1;
    }

    /// A write that was not asked to be durable is complete.
    pub(super) fn wrote(&mut self, index: DeviceIndex, caches: CacheIds) {
        let device = self.device_mut(index);
        device.written += 1;
        if device.oldest.as_slice().is_empty() {
            device.oldest = caches;
        }
        if device.newest != caches {
            device.newest = caches;
            device.newest_since = device.written;
        }
    }

    /// A read was answered from these caches. On a dirty device it may have seen what only they hold, written
    /// by a session before this one: they are relied on from the first contact.
    pub(super) fn saw(&mut self, index: DeviceIndex, caches: CacheIds) {
        let device = self.device_mut(index);
        if device.flushed != device.written && device.oldest.as_slice().is_empty() {
            device.oldest = caches;
            device.newest = caches;
            device.newest_since = device.written;
        }
    }

    /// Devices to look at, dirty or not.
    #[expect(clippy::cast_possible_truncation, reason = "device numbers are 32 bits")]
    pub(super) fn len(&self) -> u32 {
        self.devices.len() as u32
    }

    pub(super) fn is_clean(&self) -> bool {
        self.devices.iter().all(|device| device.flushed == device.written)
    }

    /// The mark and the caches for a flush sent now; `None` if the device is clean.
    pub(super) fn mark(&self, index: DeviceIndex) -> Option<(Mark, CacheIds)> {
        let device = self.devices.get(index.get())?;
        (device.flushed != device.written).then_some((Mark(device.written), device.oldest))
    }

    /// A flush up to `mark` succeeded.
    pub(super) fn flushed(&mut self, index: DeviceIndex, mark: Mark) {
        let device = self.device_mut(index);
        if mark.0 <= device.flushed {
            return;
        }
        device.flushed = mark.0;
        device.forget_up_to(mark);
    }

    /// A flush up to `mark` has told of a loss: it is told once. What is left is flushed by the next.
    pub(super) fn lost(&mut self, index: DeviceIndex, mark: Mark) {
        let device = self.device_mut(index);
        device.forget_up_to(mark);
        if device.flushed == device.written {
            device.flushed -= 1;
        }
    }
}

impl Device {
    fn forget_up_to(&mut self, mark: Mark) {
        if mark.0 >= self.written {
            self.oldest = CacheIds::NONE;
            self.newest = CacheIds::NONE;
            self.newest_since = self.written + 1;
        } else if mark.0 + 1 >= self.newest_since {
            self.oldest = self.newest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeviceId;
    use crate::wire::CacheId;

    const DEVICE: DeviceIndex = DeviceIndex::new(3);

    fn boot(boot: u64) -> CacheIds {
        CacheIds::one(CacheId { device: DeviceId::new(7), boot })
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_was_sent() {
        let mut dirty = Dirty::default();
        dirty.wrote(DEVICE, boot(1));
        let (mark, caches) = dirty.mark(DEVICE).expect("dirty");
        assert_eq!(caches, boot(1));
        dirty.wrote(DEVICE, boot(1));
        dirty.flushed(DEVICE, mark);
        assert!(!dirty.is_clean(), "the second write came after the mark");
        let (mark, caches) = dirty.mark(DEVICE).expect("dirty");
        assert_eq!(caches, boot(1), "the second write relies on its cache");
        dirty.flushed(DEVICE, mark);
        assert!(dirty.is_clean());
        assert_eq!(dirty.mark(DEVICE), None);
    }

    #[test]
    fn a_flush_relies_on_the_oldest_cache() {
        let mut dirty = Dirty::default();
        dirty.wrote(DEVICE, boot(1));
        dirty.wrote(DEVICE, boot(2));
        let (mark, caches) = dirty.mark(DEVICE).expect("dirty");
        assert_eq!(caches, boot(1), "a newer boot must not hide what the older one lost");
        dirty.lost(DEVICE, mark);
        let (mark, caches) = dirty.mark(DEVICE).expect("still to be flushed");
        assert_eq!(caches, CacheIds::NONE, "a loss is told once");
        dirty.flushed(DEVICE, mark);
        assert!(dirty.is_clean());
    }

    #[test]
    fn after_a_partial_flush_the_newer_cache_counts() {
        let mut dirty = Dirty::default();
        dirty.wrote(DEVICE, boot(1));
        let (mark, _) = dirty.mark(DEVICE).expect("dirty");
        dirty.wrote(DEVICE, boot(2));
        dirty.flushed(DEVICE, mark);
        assert_eq!(dirty.mark(DEVICE).expect("dirty").1, boot(2));
    }

    #[test]
    fn a_fresh_session_relies_on_the_cache_it_first_read_from() {
        let mut dirty = Dirty::default();
        dirty.saw(DEVICE, boot(1));
        assert_eq!(dirty.mark(DEVICE), None, "a read alone makes nothing dirty");
        dirty.suspect(DEVICE);
        dirty.saw(DEVICE, boot(1));
        dirty.saw(DEVICE, boot(2));
        let (mark, caches) = dirty.mark(DEVICE).expect("dirty");
        assert_eq!(caches, boot(1));
        dirty.lost(DEVICE, mark);
        let (mark, caches) = dirty.mark(DEVICE).expect("still to be flushed");
        assert_eq!(caches, CacheIds::NONE);
        dirty.flushed(DEVICE, mark);
        assert!(dirty.is_clean());
    }

    #[test]
    fn a_fresh_session_is_dirty_and_relies_on_nothing() {
        let mut dirty = Dirty::default();
        dirty.suspect(DEVICE);
        dirty.suspect(DEVICE);
        let (mark, caches) = dirty.mark(DEVICE).expect("dirty");
        assert_eq!(caches, CacheIds::NONE);
        dirty.flushed(DEVICE, mark);
        assert!(dirty.is_clean());
    }
}
