//! A device, opened with O_DIRECT and locked.

use super::DeviceError;
use super::medium::Medium;
use crate::config::DeviceConfig;
use rustix::fs::{FileType, FlockOperation, OFlags};
use rustix::io::Errno;
use sds_core::unit::ByteCount;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the requests of a process that died may hold the device.
const LOCK_WAIT: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// An open device.
#[derive(Debug)]
pub(crate) struct OpenDevice {
    pub(crate) file: File,
    pub(crate) path: std::path::PathBuf,
    /// Now; of a file that is still to be written, less than it shall have.
    pub(crate) bytes: ByteCount,
    pub(crate) is_file: bool,
    /// A file with holes.
    pub(crate) is_sparse: bool,
    pub(crate) medium: Medium,
}

/// Opens and locks; makes a file that is not there if a size is given. Waits for the lock while the
/// requests of a process that died hold it.
pub(crate) fn open(config: &DeviceConfig, stopped: &dyn Fn() -> bool) -> Result<OpenDevice, DeviceError> {
    let path = &config.path;
    let exists = match std::fs::metadata(path) {
        Ok(_) => true,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(source) => return Err(DeviceError::Io { path: path.clone(), what: "looking for it", source }),
    };
    match (exists, config.size) {
        (false, None) => return Err(DeviceError::Missing { path: path.clone() }),
        (false, Some(size)) => super::check_size(config, ByteCount::new(size.bytes()))?,
        (true, _) => {}
    }
    let file_type = if exists { file_type(path)? } else { FileType::RegularFile };
    let mut flags = OFlags::DIRECT | OFlags::CLOEXEC;
    match file_type {
        FileType::RegularFile => {}
        // On a block device O_EXCL means: nothing else (a mount, a RAID) holds it.
        FileType::BlockDevice => flags |= OFlags::EXCL,
        FileType::Directory => return Err(DeviceError::Kind { path: path.clone(), what: "a directory" }),
        FileType::CharacterDevice => return Err(DeviceError::Kind { path: path.clone(), what: "a character device" }),
        FileType::Fifo => return Err(DeviceError::Kind { path: path.clone(), what: "a pipe" }),
        FileType::Socket => return Err(DeviceError::Kind { path: path.clone(), what: "a socket" }),
        FileType::Symlink | FileType::Unknown => return Err(DeviceError::Kind { path: path.clone(), what: "something odd" }),
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(!exists).mode(0o600).custom_flags(flags.bits().cast_signed());
    let mut file = patiently(config, stopped, || options.open(path))?.map_err(|source| refusal(config, source))?;
    lock(config, &file, stopped)?;
    let end = file.seek(SeekFrom::End(0)).map_err(|source| io(config, "finding its size", source))?;
    let stat = rustix::fs::fstat(&file).map_err(|error| io(config, "looking at it", error.into()))?;
    let is_file = file_type == FileType::RegularFile;
    let medium = Medium::of_device(if is_file { stat.st_dev } else { stat.st_rdev });
    check_sectors(config, &medium)?;
    let held = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    // A device is used in whole blocks.
    let bytes = ByteCount::new(end - end % 4096);
    Ok(OpenDevice { file, path: path.clone(), bytes, is_file, is_sparse: is_file && held < bytes.get(), medium })
}

fn file_type(path: &Path) -> Result<FileType, DeviceError> {
    let stat =
        rustix::fs::stat(path).map_err(|error| DeviceError::Io { path: path.to_owned(), what: "looking at it", source: error.into() })?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn io(config: &DeviceConfig, what: &'static str, source: std::io::Error) -> DeviceError {
    DeviceError::Io { path: config.path.clone(), what, source }
}

fn refusal(config: &DeviceConfig, source: std::io::Error) -> DeviceError {
    let path = config.path.clone();
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => DeviceError::ReadOnly { path, source },
        Some(Errno::BUSY) => DeviceError::Busy { path },
        Some(Errno::INVAL) => DeviceError::NoDirect { path },
        Some(_) | None => DeviceError::Io { path, what: "opening it", source },
    }
}

fn lock(config: &DeviceConfig, file: &File, stopped: &dyn Fn() -> bool) -> Result<(), DeviceError> {
    let locked = patiently(config, stopped, || rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).map_err(Into::into))?;
    locked.map_err(|source| {
        let path = config.path.clone();
        if is_held(&source) { DeviceError::Locked { path } } else { io(config, "locking it", source) }
    })
}

fn is_held(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::BUSY | Errno::WOULDBLOCK))
}

/// Tries until the device is not held any more: the kernel gives up what a process held, O_EXCL and lock alike,
/// only when the last of its requests has ended, some time after the process has.
fn patiently<T>(
    config: &DeviceConfig,
    stopped: &dyn Fn() -> bool,
    attempt: impl Fn() -> std::io::Result<T>,
) -> Result<std::io::Result<T>, DeviceError> {
    let begin = Instant::now();
    let mut said = false;
    loop {
        match attempt() {
            Err(error) if is_held(&error) && begin.elapsed() < LOCK_WAIT => {
                if stopped() {
                    return Err(DeviceError::Stopped { path: config.path.clone() });
                }
                if !said {
                    tracing::warn!(device = %config.path.display(), "waiting for it: another process, or requests of one that died, hold it");
                    said = true;
                }
                std::thread::sleep(LOCK_RETRY);
            }
            result => return Ok(result),
        }
    }
}

pub(super) fn check_sectors(config: &DeviceConfig, medium: &Medium) -> Result<(), DeviceError> {
    let path = || config.path.clone();
    let largest = medium.logical_sector.max(medium.physical_sector).unwrap_or(0);
    if medium.read_only {
        return Err(DeviceError::RefusesWrites { path: path() });
    }
    if largest > 4096 {
        return Err(DeviceError::LargeSectors { path: path(), bytes: largest });
    }
    match medium.physical_sector {
        Some(bytes) if bytes < 4096 && !config.allow_small_sectors => Err(DeviceError::SmallSectors { path: path(), bytes }),
        Some(_) | None => Ok(()),
    }
}

impl OpenDevice {
    /// Reads bytes (all of them multiples of 4 KiB); what lies past the end reads zero.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, DeviceError> {
        let mut buffer = Aligned::new(len);
        let available = usize::try_from(self.bytes.get().saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let target = &mut buffer.bytes_mut()[..available];
        let result = self.file.read_exact_at(target, offset);
        result.map_err(|source| DeviceError::Io { path: self.path.clone(), what: "reading it", source })?;
        Ok(buffer.bytes().to_vec())
    }
}

/// Memory that O_DIRECT takes, without `unsafe`: part of a vector that is longer than it need be.
#[derive(Debug)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
