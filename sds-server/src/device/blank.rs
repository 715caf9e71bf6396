//! Making a store where there is none: a file is written once, then formatted.
//!
//! Why written and not merely allocated: the first write into an allocated but unwritten part of a
//! file changes the file system's own metadata, which costs more than the write itself and is not
//! durable with it.
//!
//! Invariant: a file that has its full size has been written in full, so a start that was cut short
//! goes on where it stopped.

use super::open::{Aligned, OpenDevice};
use super::{DeviceError, check_size};
use crate::config::{DeviceConfig, Size};
use sds_core::id::{BootId, DeviceUuid, SystemId};
use sds_core::store::format::{FormatOptions, plan};
use sds_core::unit::{ByteCount, ByteOffset};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Told how far the writing is, in thousandths; an answer of `false` stops it.
pub type Progress<'a> = dyn FnMut(u16) -> bool + 'a;

/// Bytes of one write.
const CHUNK_BYTES: usize = 4 << 20;

fn failed(config: &DeviceConfig, what: &'static str, source: io::Error) -> DeviceError {
    match source.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT | rustix::io::Errno::FBIG) => {
            DeviceError::NoRoom { path: config.path.clone(), size: config.size.unwrap_or_default() }
        }
        Some(_) | None => DeviceError::Io { path: config.path.clone(), what, source },
    }
}

/// Brings a blank file to its configured size, every byte written. Nothing to do for a block device.
pub(crate) fn write_once(device: &mut OpenDevice, config: &DeviceConfig, progress: &mut Progress<'_>) -> Result<(), DeviceError> {
    if !device.is_file {
        return Ok(());
    }
    let size = config.size.map_or(device.bytes.get(), Size::bytes).max(device.bytes.get());
    check_size(config, ByteCount::new(size))?;
    let mut offset = if device.is_sparse { 0 } else { device.bytes.get() };
    if offset == size {
        return Ok(());
    }
    let path = config.path.display();
    tracing::info!(device = %path, size = %Size::new(size), "writing the file once");
    let zeroes = Aligned::new(CHUNK_BYTES);
    let mut shown = None;
    while offset < size {
        let len = usize::try_from(size - offset).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        device.file.write_all_at(&zeroes.bytes()[..len], offset).map_err(|source| failed(config, "writing it once", source))?;
        offset += len as u64;
        let done = u16::try_from(u128::from(offset) * 1000 / u128::from(size)).unwrap_or(1000);
        if shown != Some(done) {
            shown = Some(done);
            if !progress(done) {
                return Err(DeviceError::Stopped { path: config.path.clone() });
            }
        }
    }
    device.file.sync_all().map_err(|source| failed(config, "flushing it", source))?;
    sync_directory(config)?;
    (device.bytes, device.is_sparse) = (ByteCount::new(size), false);
    Ok(())
}

/// Makes the file's name durable.
fn sync_directory(config: &DeviceConfig) -> Result<(), DeviceError> {
    let parent = config.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|source| failed(config, "flushing its directory", source))
}

/// Writes an empty store of a system, with a fresh identity.
pub(crate) fn format(device: &OpenDevice, config: &DeviceConfig, system: SystemId, boot: BootId) -> Result<DeviceUuid, DeviceError> {
    if device.is_file {
        // Also where an earlier start wrote the file and was killed before it came to this.
        sync_directory(config)?;
    }
    let uuid = DeviceUuid::new(crate::identity::random());
    let options = FormatOptions { device_bytes: device.bytes, system, device: uuid, boot, log_blocks: None };
    let plan = plan(&options).map_err(|source| DeviceError::Size { path: config.path.clone(), source })?;
    tracing::info!(device = %config.path.display(), %uuid, %system, "formatting");
    write_blocks(&device.file, plan.index_blocks()).map_err(|source| failed(config, "formatting it", source))?;
    device.file.sync_all().map_err(|source| failed(config, "flushing it", source))?;
    write_blocks(&device.file, plan.superblocks()).map_err(|source| failed(config, "formatting it", source))?;
    device.file.sync_all().map_err(|source| failed(config, "flushing it", source))?;
    Ok(uuid)
}

/// Writes blocks, neighbours together.
fn write_blocks(file: &File, blocks: impl Iterator<Item = (ByteOffset, [u8; 4096])>) -> io::Result<()> {
    let mut chunk = Aligned::new(1 << 20);
    let (mut start, mut len) = (0, 0);
    for (offset, block) in blocks {
        if len > 0 && (offset.get() != start + len as u64 || len == chunk.bytes().len()) {
            file.write_all_at(&chunk.bytes()[..len], start)?;
            len = 0;
        }
        if len == 0 {
            start = offset.get();
        }
        chunk.bytes_mut()[len..len + block.len()].copy_from_slice(&block);
        len += block.len();
    }
    file.write_all_at(&chunk.bytes()[..len], start)
}
