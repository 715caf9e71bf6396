//! Devices: opened, locked, judged, written once, formatted; then handed to the data loop.
//!
//! Invariants: nothing that holds anything but zeroes is overwritten unless the configuration says
//! `force`; a store of this system never is; the lock is held from before the first look until the
//! process ends.
//!
//! What this must not know: what a store does with its device; the MDM.

mod blank;
mod medium;
mod open;

pub use blank::Progress;
pub(crate) use blank::{format, write_once};
pub use medium::Medium;
pub(crate) use open::{OpenDevice, open};

use crate::config::{DeviceConfig, FormatPolicy, Size};
use sds_core::format::block::BlockFault;
use sds_core::format::geometry::{Geometry, GeometryError, SUPERBLOCK_COPIES};
use sds_core::format::superblock::{Choice, Superblock, choose};
use sds_core::id::SystemId;
use sds_core::store::format::{PROBE_BYTES, Probe, probe};
use sds_core::store::interface::OpenFault;
use sds_core::unit::ByteCount;
use std::io;
use std::path::PathBuf;

/// Why a device cannot be used. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nothing is there.
    #[error("{}: no such device or file; give `size` to have a file created", path.display())]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// Neither a file nor a block device.
    #[error("{}: is {what}, neither a file nor a block device", path.display())]
    Kind {
        /// Where.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It cannot be written.
    #[error("{}: is read-only ({source}); make it writable for this user, or use another device", path.display())]
    ReadOnly {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something else has it.
    #[error("{}: is in use (mounted, or part of something else); use another device, or stop what uses it", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
    /// Another process holds the lock.
    #[error("{}: another process has it open as a device; stop that process", path.display())]
    Locked {
        /// Where.
        path: PathBuf,
    },
    /// The file system cannot do direct I/O.
    #[error("{}: its file system does not take O_DIRECT (tmpfs does not); put it on another", path.display())]
    NoDirect {
        /// Where.
        path: PathBuf,
    },
    /// Sectors that a power cut may tear.
    #[error(
        "{}: its physical sectors have {bytes} bytes, so a power cut can tear a 4 KiB block; set `allow_small_sectors = true` to \
         accept that (a torn block is noticed when it is read)", path.display()
    )]
    SmallSectors {
        /// Where.
        path: PathBuf,
        /// Their size.
        bytes: u32,
    },
    /// It can be opened for writing, but would refuse it.
    #[error("{}: the device is read-only; make it writable (`blockdev --setrw`) or use another one", path.display())]
    RefusesWrites {
        /// Where.
        path: PathBuf,
    },
    /// Sectors that 4 KiB requests do not fit.
    #[error("{}: its sectors have {bytes} bytes; only up to 4096 are supported", path.display())]
    LargeSectors {
        /// Where.
        path: PathBuf,
        /// Their size.
        bytes: u32,
    },
    /// It cannot hold a store.
    #[error("{}: {source}", path.display())]
    Size {
        /// Where.
        path: PathBuf,
        /// Why.
        source: GeometryError,
    },
    /// It holds something else.
    #[error("{}: holds {what}; use another device, or set `format = \"force\"` to lose that", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What it looks like.
        what: &'static str,
    },
    /// It is blank and may not be formatted.
    #[error("{}: is blank, and `format = \"never\"`; set `format = \"if-blank\"` to use it", path.display())]
    Blank {
        /// Where.
        path: PathBuf,
    },
    /// Its store cannot be opened.
    #[error("{}: {fault}", path.display())]
    Store {
        /// Where.
        path: PathBuf,
        /// Why.
        fault: OpenFault,
    },
    /// The file system is too full to hold it.
    #[error("{}: its file system has no room for {size}; free some space or lower `size`", path.display())]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// What it should have.
        size: Size,
    },
    /// Any other failure.
    #[error("{}: {what}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What was attempted.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server is stopping.
    #[error("{}: stopped before it was ready", path.display())]
    Stopped {
        /// Where.
        path: PathBuf,
    },
}

/// What a device holds, as far as that decides what to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A store of this system.
    Ours(SystemId),
    /// Nothing.
    Blank,
    /// Something that the configuration says to overwrite, unless it is a store of our system.
    Condemned(Option<SystemId>),
}

/// Judges a device by its superblocks, its first bytes and its last bytes.
pub(crate) fn judge(device: &OpenDevice, config: &DeviceConfig) -> Result<Content, DeviceError> {
    let force = match config.format {
        FormatPolicy::Force => true,
        FormatPolicy::Never | FormatPolicy::IfBlank => false,
    };
    let fault = |fault| DeviceError::Store { path: config.path.clone(), fault };
    let copies = superblocks(device)?;
    match choose(&copies) {
        Choice::Found(superblock) if force => return Ok(Content::Condemned(Some(superblock.system))),
        Choice::Found(superblock) => {
            let (found, expected) = (device.bytes, superblock.geometry.device_bytes());
            if found.get() < expected.get() {
                return Err(fault(OpenFault::Truncated { found, expected }));
            }
            return Ok(Content::Ours(superblock.system));
        }
        Choice::Newer(_) | Choice::Damaged if force => return Ok(Content::Condemned(None)),
        Choice::Newer(features) => return Err(fault(OpenFault::Newer { features })),
        Choice::Damaged => return Err(damaged(config)),
        Choice::Blank => {}
    }
    let head = device.read(0, PROBE_BYTES)?;
    let found = match probe(&head) {
        Probe::Ours { .. } => return Err(damaged(config)),
        Probe::Foreign { what } => Some(what),
        Probe::Blank => {
            let tail = device.read(device.bytes.get().saturating_sub(PROBE_BYTES as u64), PROBE_BYTES)?;
            tail.iter().any(|byte| *byte != 0).then_some("data at its end")
        }
    };
    match (found, config.format) {
        (Some(_), FormatPolicy::Force) => Ok(Content::Condemned(None)),
        (Some(what), FormatPolicy::Never | FormatPolicy::IfBlank) => Err(DeviceError::Foreign { path: config.path.clone(), what }),
        (None, FormatPolicy::Never) => Err(DeviceError::Blank { path: config.path.clone() }),
        (None, FormatPolicy::IfBlank | FormatPolicy::Force) => Ok(Content::Blank),
    }
}

type Copies = [Result<Superblock, BlockFault>; SUPERBLOCK_COPIES as usize];

/// The four places where a device of this size has its superblocks.
fn superblocks(device: &OpenDevice) -> Result<Copies, DeviceError> {
    let mut copies = [Err(BlockFault::Magic); SUPERBLOCK_COPIES as usize];
    for (copy, number) in copies.iter_mut().zip(0_u32..) {
        let location = Geometry::superblock_of(device.bytes, number);
        if location.get() + 4096 <= device.bytes.get() {
            *copy = Superblock::decode(&device.read(location.get(), 4096)?, location);
        }
    }
    Ok(copies)
}

/// A store whose superblock copies do not agree.
fn damaged(config: &DeviceConfig) -> DeviceError {
    DeviceError::Store { path: config.path.clone(), fault: OpenFault::Superblock }
}

/// The size of a device that is to be made, or that is there.
pub(crate) fn check_size(config: &DeviceConfig, bytes: ByteCount) -> Result<(), DeviceError> {
    match Geometry::for_device(bytes, Geometry::log_blocks_default(bytes)) {
        Ok(_) => Ok(()),
        Err(source) => Err(DeviceError::Size { path: config.path.clone(), source }),
    }
}

#[cfg(test)]
mod tests;
