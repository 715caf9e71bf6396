//! What the kernel tells of the medium below a file or block device: sector sizes, volatile cache.
//!
//! Invariant: what is not known is not guessed to be safe: an unknown cache counts as volatile.

use std::fs;
use std::path::{Path, PathBuf};

/// Facts of a medium, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Medium {
    /// Bytes that one request must be a multiple of.
    pub logical_sector: Option<u32>,
    /// Bytes that are written as a whole or not at all.
    pub physical_sector: Option<u32>,
    /// Whether completed writes may be lost in a power cut.
    pub volatile_cache: Option<bool>,
    /// Whether it refuses writes, though it can be opened for them.
    pub read_only: bool,
}

impl Medium {
    /// Of the block device with this number, or of the disk that it is a partition of.
    #[must_use]
    pub fn of_device(device: u64) -> Self {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        Self::of_directory(&PathBuf::from(format!("/sys/dev/block/{major}:{minor}")))
    }

    /// From a block device's directory in sysfs.
    #[must_use]
    pub fn of_directory(directory: &Path) -> Self {
        // A partition's directory lies inside its disk's, which has the queue.
        let queue = [directory.join("queue"), directory.join("../queue")].into_iter().find(|queue| queue.is_dir());
        let Some(queue) = queue else { return Self::default() };
        let text = |name: &str| fs::read_to_string(queue.join(name)).ok().map(|text| text.trim().to_owned());
        let number = |name: &str| text(name).and_then(|text| text.parse().ok());
        let volatile_cache = match text("write_cache").as_deref() {
            Some("write through") => Some(false),
            Some("write back") => Some(true),
            Some(_) | None => None,
        };
        // The partition's own, if it is one.
        let read_only = fs::read_to_string(directory.join("ro")).is_ok_and(|text| text.trim() == "1");
        Self { logical_sector: number("logical_block_size"), physical_sector: number("physical_block_size"), volatile_cache, read_only }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysfs(physical: &str, cache: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        let queue = directory.path().join("queue");
        fs::create_dir_all(directory.path().join("sda1")).expect("made");
        fs::create_dir(&queue).expect("made");
        fs::write(queue.join("logical_block_size"), "512\n").expect("written");
        fs::write(queue.join("physical_block_size"), physical).expect("written");
        fs::write(queue.join("write_cache"), cache).expect("written");
        directory
    }

    #[test]
    fn a_partition_has_its_disks_medium() {
        let directory = sysfs("4096\n", "write back\n");
        let medium = Medium::of_directory(&directory.path().join("sda1"));
        let expected = Medium { logical_sector: Some(512), physical_sector: Some(4096), volatile_cache: Some(true), read_only: false };
        assert_eq!(medium, expected);
        assert_eq!(Medium::of_directory(directory.path()), medium);
        fs::write(directory.path().join("sda1/ro"), "1\n").expect("written");
        assert!(Medium::of_directory(&directory.path().join("sda1")).read_only);
        assert!(!Medium::of_directory(directory.path()).read_only, "the disk is not");
    }

    #[test]
    fn what_is_not_there_is_not_known() {
        assert_eq!(Medium::of_directory(Path::new("/nowhere")), Medium::default());
        let directory = sysfs("512\n", "odd\n");
        assert_eq!(Medium::of_directory(directory.path()).volatile_cache, None);
    }
}
