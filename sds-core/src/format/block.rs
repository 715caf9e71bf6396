//! The frame common to every metadata block: magic, checksum, little-endian fields.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..8 | magic, one per kind of block |
//! | 8..12 | CRC-32 of: device UUID, byte offset on the device, bytes 0..8, bytes 12..4096 |
//! | 12.. | fields of the kind |
//!
//! The device and the location are covered but not stored: a block that was written to another
//! place, or left by another device's life, does not check. What this must not know: any kind's fields.

use crate::checksum::Checksum;
use crate::id::DeviceUuid;
use crate::unit::{BLOCK_BYTES, ByteOffset};

/// Bytes of a metadata block.
pub const BYTES: usize = BLOCK_BYTES as usize;
/// A metadata block.
pub type Block = [u8; BYTES];
/// First byte of a kind's own fields.
pub const FIELDS_START: usize = 12;

/// Kinds of metadata blocks, by the magic at their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Superblock copy.
    Superblock,
    /// Block of the record log.
    Log,
    /// Page of the extent index.
    Index,
    /// Descriptor page of an extent.
    Descriptor,
}

impl Kind {
    /// The eight bytes at the start of a block of this kind.
    #[must_use]
    pub const fn magic(self) -> [u8; 8] {
        match self {
            Self::Superblock => *b"sdsSUPER",
            Self::Log => *b"sdsRECLG",
            Self::Index => *b"sdsINDEX",
            Self::Descriptor => *b"sdsDESCR",
        }
    }
}

/// Why 4 KiB are not the block they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// Not 4 KiB.
    #[error("a metadata block has 4096 bytes, not {0}")]
    Length(usize),
    /// Another kind of block, or none.
    #[error("the block does not start with the magic of its kind")]
    Magic,
    /// Damaged, misplaced, or of another device.
    #[error("the block's checksum does not match its bytes and place")]
    Checksum,
    /// A field that passed the checksum has a value no version writes.
    #[error("field `{0}` of the block has a value that is not allowed")]
    Field(&'static str),
    /// Made by a newer format.
    #[error("the block needs format features {0:#x}")]
    Features(u64),
}

fn checksum(block: &[u8], device: DeviceUuid, location: ByteOffset) -> Checksum {
    Checksum::of_parts(&[&device.get().to_le_bytes(), &location.get().to_le_bytes(), &block[..8], &block[FIELDS_START..]])
}

/// Writes magic and checksum; the last thing done to a block.
///
/// # Panics
/// If the slice is not 4 KiB: callers slice their own buffers.
pub fn seal(block: &mut [u8], kind: Kind, device: DeviceUuid, location: ByteOffset) -> Checksum {
    assert_eq!(block.len(), BYTES, "a metadata block is 4 KiB");
    block[..8].copy_from_slice(&kind.magic());
    let sum = checksum(block, device, location);
    put_u32(block, 8, sum.get());
    sum
}

/// Checks magic and checksum and gives the checksum back.
///
/// # Errors
/// Length, magic or checksum.
pub fn check(block: &[u8], kind: Kind, device: DeviceUuid, location: ByteOffset) -> Result<Checksum, BlockFault> {
    if block.len() != BYTES {
        return Err(BlockFault::Length(block.len()));
    }
    if block[..8] != kind.magic() {
        return Err(BlockFault::Magic);
    }
    let sum = checksum(block, device, location);
    if get_u32(block, 8) != sum.get() {
        return Err(BlockFault::Checksum);
    }
    Ok(sum)
}

pub(crate) fn array<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

pub(crate) fn get_u32(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(block, at))
}

pub(crate) fn get_u16(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(block, at))
}

pub(crate) fn get_u64(block: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(block, at))
}

pub(crate) fn get_u128(block: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array(block, at))
}

pub(crate) fn put_u16(block: &mut [u8], at: usize, value: u16) {
    block[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(block: &mut [u8], at: usize, value: u32) {
    block[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(block: &mut [u8], at: usize, value: u64) {
    block[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u128(block: &mut [u8], at: usize, value: u128) {
    block[at..at + 16].copy_from_slice(&value.to_le_bytes());
}
