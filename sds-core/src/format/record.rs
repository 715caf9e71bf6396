//! Records of the log: what happened to extents and blocks, packed one after another in a log block.
//!
//! | kind | bytes after the kind byte |
//! | --- | --- |
//! | 1 allocated | slot u32, tree u32, extent u32, layer u32 |
//! | 2 activated | slot u32 |
//! | 3 sealed | slot u32 |
//! | 4 written | first block u8, blocks u8 (1..=32), slot u32, sequence u64, epoch u32, a checksum u32 per block |
//! | 5 zero | flags u8 (1: space may be given back), first block u8, blocks−1 u8, slot u32, sequence u64, epoch u32 |
//! | 6 freed | slot u32 |
//! | 7 ceiling | sequence u64 |
//! | 8 unreadable | as 4: the device failed this write's data |
//!
//! The layer is the extent's (its `allocated` record or index entry says it), and whether a write was
//! the first of its block follows from the block's state before it: neither is repeated per write.
//! A 4 KiB write takes 23 bytes. What this must not know: the log; replay.

use crate::checksum::{Checksum, ChecksumList};
use crate::format::block::{BlockFault, get_u32, get_u64};
use crate::id::{Epoch, ExtentIndex, LayerId, ShardSequence, TreeId, Version};
use crate::limits::FRAME_BLOCKS_MAX;
use crate::store::interface::{BlockRange, ExtentKey};
use crate::unit::{BLOCKS_PER_EXTENT, BlockIndex};

/// Longest record: a write of the most blocks.
pub const RECORD_BYTES_MAX: usize = WRITTEN_BYTES + 4 * FRAME_BLOCKS_MAX as usize;
const WRITTEN_BYTES: usize = 19;
const ZERO_BYTES: usize = 20;
const SLOT_BYTES: usize = 5;
const ALLOCATED_BYTES: usize = 17;
const CEILING_BYTES: usize = 9;

/// Checksums of a written record, still packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a>(&'a [u8]);

impl Packed<'_> {
    /// How many blocks were written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// Never true for a decoded record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checksum of each block, in order.
    pub fn iter(&self) -> impl Iterator<Item = Checksum> + '_ {
        self.0.chunks_exact(4).map(|bytes| Checksum::new(get_u32(bytes, 0)))
    }
}

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The slot belongs to `key` from here on; all its blocks are unwritten.
    Allocated {
        /// Slot.
        slot: u32,
        /// Owner.
        key: ExtentKey,
    },
    /// Writes to the extent may be in flight from here on.
    Activated {
        /// Slot.
        slot: u32,
    },
    /// Everything recorded of the extent before is durable and nothing is in flight.
    Sealed {
        /// Slot.
        slot: u32,
    },
    /// Blocks were written.
    Written {
        /// Slot.
        slot: u32,
        /// First block.
        first: BlockIndex,
        /// Version of all of them.
        version: Version,
        /// Checksum of each.
        checksums: Packed<'a>,
    },
    /// The data of a recorded write failed: its blocks cannot be read until they are written again.
    Unreadable {
        /// Slot.
        slot: u32,
        /// First block.
        first: BlockIndex,
        /// Version of the write.
        version: Version,
        /// Checksum of each block as it should have become.
        checksums: Packed<'a>,
    },
    /// Blocks became zero.
    Zero {
        /// Slot.
        slot: u32,
        /// Which.
        range: BlockRange,
        /// Version of all of them.
        version: Version,
        /// Their space may be given back.
        free: bool,
    },
    /// The slot belongs to nobody.
    Freed {
        /// Slot.
        slot: u32,
    },
    /// No shard sequence at or above this has been used.
    Ceiling {
        /// The ceiling.
        ceiling: ShardSequence,
    },
}

fn put_slot(out: &mut Vec<u8>, kind: u8, slot: u32) {
    out.push(kind);
    out.extend_from_slice(&slot.to_le_bytes());
}

/// Appends an `allocated` record.
pub fn put_allocated(out: &mut Vec<u8>, slot: u32, key: ExtentKey) {
    put_slot(out, 1, slot);
    out.extend_from_slice(&key.tree.get().to_le_bytes());
    out.extend_from_slice(&key.extent.get().to_le_bytes());
    out.extend_from_slice(&key.layer.get().to_le_bytes());
}

/// Appends an `activated` record.
pub fn put_activated(out: &mut Vec<u8>, slot: u32) {
    put_slot(out, 2, slot);
}

/// Appends a `sealed` record.
pub fn put_sealed(out: &mut Vec<u8>, slot: u32) {
    put_slot(out, 3, slot);
}

/// Appends a `written` record.
pub fn put_written(out: &mut Vec<u8>, slot: u32, first: BlockIndex, version: Version, checksums: &ChecksumList) {
    put_blocks(out, 4, slot, first, version, checksums);
}

/// Appends an `unreadable` record.
pub fn put_unreadable(out: &mut Vec<u8>, slot: u32, first: BlockIndex, version: Version, checksums: &ChecksumList) {
    put_blocks(out, 8, slot, first, version, checksums);
}

fn put_blocks(out: &mut Vec<u8>, kind: u8, slot: u32, first: BlockIndex, version: Version, checksums: &ChecksumList) {
    #[expect(clippy::cast_possible_truncation, reason = "a list holds at most 32")]
    let count = checksums.len() as u8;
    out.extend_from_slice(&[kind, first.get(), count]);
    out.extend_from_slice(&slot.to_le_bytes());
    put_version(out, version);
    for checksum in checksums.as_slice() {
        out.extend_from_slice(&checksum.get().to_le_bytes());
    }
}

/// Appends a `zero` record.
pub fn put_zero(out: &mut Vec<u8>, slot: u32, range: BlockRange, version: Version, free: bool) {
    #[expect(clippy::cast_possible_truncation, reason = "a range has 1 to 256 blocks")]
    let last = range.count.saturating_sub(1) as u8;
    out.extend_from_slice(&[5, u8::from(free), range.first.get(), last]);
    out.extend_from_slice(&slot.to_le_bytes());
    put_version(out, version);
}

/// Appends a `freed` record.
pub fn put_freed(out: &mut Vec<u8>, slot: u32) {
    put_slot(out, 6, slot);
}

/// Appends a `ceiling` record.
pub fn put_ceiling(out: &mut Vec<u8>, ceiling: ShardSequence) {
    out.push(7);
    out.extend_from_slice(&ceiling.get().to_le_bytes());
}

fn put_version(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(&version.sequence.get().to_le_bytes());
    out.extend_from_slice(&version.epoch.get().to_le_bytes());
}

fn get_version(bytes: &[u8], at: usize) -> Version {
    Version { sequence: ShardSequence::new(get_u64(bytes, at)), epoch: Epoch::new(get_u32(bytes, at + 8)) }
}

fn take(bytes: &[u8], count: usize) -> Result<&[u8], BlockFault> {
    bytes.get(..count).ok_or(BlockFault::Field("record length"))
}

/// The first record of some bytes and what follows it.
///
/// # Errors
/// If the bytes do not start with a record; never panics.
pub fn decode(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), BlockFault> {
    let kind = *bytes.first().ok_or(BlockFault::Field("record length"))?;
    let (record, used) = match kind {
        1 => {
            let body = take(bytes, ALLOCATED_BYTES)?;
            let key = ExtentKey {
                tree: TreeId::new(get_u32(body, 5)),
                extent: ExtentIndex::new(get_u32(body, 9)),
                layer: LayerId::new(get_u32(body, 13)),
            };
            (Record::Allocated { slot: get_u32(body, 1), key }, ALLOCATED_BYTES)
        }
        2 => (Record::Activated { slot: get_u32(take(bytes, SLOT_BYTES)?, 1) }, SLOT_BYTES),
        3 => (Record::Sealed { slot: get_u32(take(bytes, SLOT_BYTES)?, 1) }, SLOT_BYTES),
        4 | 8 => {
            let head = take(bytes, WRITTEN_BYTES)?;
            let count = usize::from(head[2]);
            if count == 0 || count > FRAME_BLOCKS_MAX as usize || usize::from(head[1]) + count > BLOCKS_PER_EXTENT as usize {
                return Err(BlockFault::Field("record blocks"));
            }
            let used = WRITTEN_BYTES + 4 * count;
            let body = take(bytes, used)?;
            let (slot, first, version) = (get_u32(body, 3), BlockIndex::new(body[1]), get_version(body, 7));
            let checksums = Packed(&body[WRITTEN_BYTES..]);
            let record = if kind == 4 {
                Record::Written { slot, first, version, checksums }
            } else {
                Record::Unreadable { slot, first, version, checksums }
            };
            (record, used)
        }
        5 => {
            let body = take(bytes, ZERO_BYTES)?;
            let count = u16::from(body[3]) + 1;
            if body[1] > 1 || u32::from(body[2]) + u32::from(count) > BLOCKS_PER_EXTENT {
                return Err(BlockFault::Field("record blocks"));
            }
            let range = BlockRange { first: BlockIndex::new(body[2]), count };
            (Record::Zero { slot: get_u32(body, 4), range, version: get_version(body, 8), free: body[1] == 1 }, ZERO_BYTES)
        }
        6 => (Record::Freed { slot: get_u32(take(bytes, SLOT_BYTES)?, 1) }, SLOT_BYTES),
        7 => (Record::Ceiling { ceiling: ShardSequence::new(get_u64(take(bytes, CEILING_BYTES)?, 1)) }, CEILING_BYTES),
        _ => return Err(BlockFault::Field("record kind")),
    };
    Ok((record, &bytes[used..]))
}
