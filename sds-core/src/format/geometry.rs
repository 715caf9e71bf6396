//! Where everything lies on a device of a given size.
//!
//! ```text
//! superblock 0 | superblock 1 | record log | index home A | index home B | descriptors (A,B per slot) | data … | superblock 2 | superblock 3
//! ```
//!
//! Invariants: regions do not overlap and lie inside the device; everything is 4 KiB aligned; the
//! layout is a function of (device blocks, log blocks, extents), which the superblock states, so two
//! versions of this program never disagree. What this must not know: contents of any block.

use crate::format::index_page::ENTRIES_PER_PAGE;
use crate::unit::{BLOCK_BYTES, BLOCKS_PER_EXTENT, BlockIndex, ByteCount, ByteOffset};

/// Superblock copies on a device: two at its head, two at its tail.
pub const SUPERBLOCK_COPIES: u32 = 4;
/// Fewest blocks of a record log.
pub const LOG_BLOCKS_MIN: u32 = 32;
/// Most blocks of a record log (512 MiB): recovery holds at most this much in memory.
pub const LOG_BLOCKS_MAX: u32 = 128 * 1024;
/// Most extents of a device (2 PiB of data): slots fit 31 bits.
pub const EXTENTS_MAX: u32 = 1 << 31;

const HEAD_COPIES: u64 = 2;
const TAIL_COPIES: u64 = 2;
const BLOCK: u64 = BLOCK_BYTES as u64;

const _: () = assert!(HEAD_COPIES + TAIL_COPIES == SUPERBLOCK_COPIES as u64);

/// Which of two places on the device holds the current version of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Home {
    /// The first.
    #[default]
    A,
    /// The second.
    B,
}

impl Home {
    /// The one that may be overwritten while this one is current.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 or 1.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// From 0 or 1.
    #[must_use]
    pub const fn from_number(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::A),
            1 => Some(Self::B),
            _ => None,
        }
    }
}

/// Why a device cannot hold a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// No room for a log and one extent.
    #[error("a device of {device_bytes} bytes is too small: at least {needed_bytes} are needed with a log of {log_blocks} blocks")]
    TooSmall {
        /// The device.
        device_bytes: u64,
        /// Least size.
        needed_bytes: u64,
        /// Log asked for.
        log_blocks: u32,
    },
    /// Log size out of bounds.
    #[error("a record log has {LOG_BLOCKS_MIN} to {LOG_BLOCKS_MAX} blocks, not {log_blocks}")]
    Log {
        /// Log asked for.
        log_blocks: u32,
    },
    /// More extents than the device can hold, or none.
    #[error("{extents} extents do not fit a device of {device_bytes} bytes")]
    Extents {
        /// Stated.
        extents: u32,
        /// The device.
        device_bytes: u64,
    },
}

/// The layout of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    device_blocks: u64,
    log_blocks: u32,
    extents: u32,
}

const fn index_pages(extents: u32) -> u32 {
    extents.div_ceil(ENTRIES_PER_PAGE)
}

const fn blocks_needed(log_blocks: u32, extents: u64) -> u64 {
    let index = 2 * extents.div_ceil(ENTRIES_PER_PAGE as u64);
    SUPERBLOCK_COPIES as u64 + log_blocks as u64 + index + extents * (2 + BLOCKS_PER_EXTENT as u64)
}

impl Geometry {
    /// The smallest there is: one extent. Stands in where no device is known yet.
    pub(crate) const SMALLEST: Self = Self { device_blocks: blocks_needed(LOG_BLOCKS_MIN, 1), log_blocks: LOG_BLOCKS_MIN, extents: 1 };

    /// The log a device gets unless told otherwise: 1/32 of it, between 1 MiB and 512 MiB, and never
    /// more than an eighth of a very small device. 1/32 makes a checkpoint of every descriptor page
    /// cost less than a fifth of the log blocks that led to it (docs/on-disk-format.md).
    #[must_use]
    pub fn log_blocks_default(device_bytes: ByteCount) -> u32 {
        let blocks = device_bytes.get() / BLOCK;
        let wanted = (blocks / 32).clamp(256, u64::from(LOG_BLOCKS_MAX)).min((blocks / 8).max(u64::from(LOG_BLOCKS_MIN)));
        u32::try_from(wanted).unwrap_or(LOG_BLOCKS_MAX)
    }

    /// Lays a device out with as many extents as fit.
    ///
    /// # Errors
    /// If not even one fits, or the log size is out of bounds.
    pub fn for_device(device_bytes: ByteCount, log_blocks: u32) -> Result<Self, GeometryError> {
        if !(LOG_BLOCKS_MIN..=LOG_BLOCKS_MAX).contains(&log_blocks) {
            return Err(GeometryError::Log { log_blocks });
        }
        let device_blocks = device_bytes.get() / BLOCK;
        let free = device_blocks.saturating_sub(blocks_needed(log_blocks, 0));
        // Each extent costs 258 blocks and a 1/126 share of two index pages; a share of a page is a
        // whole page, so the estimate may be one too many, never more than a few too few.
        let per_extent = 2 + u64::from(BLOCKS_PER_EXTENT);
        let entries = u64::from(ENTRIES_PER_PAGE);
        let estimate = u128::from(free) * u128::from(entries) / u128::from(per_extent * entries + 2);
        let mut extents = u64::try_from(estimate).unwrap_or(u64::MAX).min(u64::from(EXTENTS_MAX));
        while extents > 0 && blocks_needed(log_blocks, extents) > device_blocks {
            extents -= 1;
        }
        while extents < u64::from(EXTENTS_MAX) && blocks_needed(log_blocks, extents + 1) <= device_blocks {
            extents += 1;
        }
        match u32::try_from(extents) {
            Ok(extents) if extents > 0 => Ok(Self { device_blocks, log_blocks, extents }),
            Ok(_) | Err(_) => Err(GeometryError::TooSmall {
                device_bytes: device_bytes.get(),
                needed_bytes: blocks_needed(log_blocks, 1) * BLOCK,
                log_blocks,
            }),
        }
    }

    /// The layout a superblock states.
    ///
    /// # Errors
    /// If it does not fit the device size it states.
    pub fn stated(device_bytes: ByteCount, log_blocks: u32, extents: u32) -> Result<Self, GeometryError> {
        if !(LOG_BLOCKS_MIN..=LOG_BLOCKS_MAX).contains(&log_blocks) {
            return Err(GeometryError::Log { log_blocks });
        }
        let device_blocks = device_bytes.get() / BLOCK;
        if extents == 0 || extents > EXTENTS_MAX || blocks_needed(log_blocks, u64::from(extents)) > device_blocks {
            return Err(GeometryError::Extents { extents, device_bytes: device_bytes.get() });
        }
        Ok(Self { device_blocks, log_blocks, extents })
    }

    /// Bytes the store uses: the device's size rounded down to whole blocks.
    #[must_use]
    pub const fn device_bytes(&self) -> ByteCount {
        ByteCount::new(self.device_blocks * BLOCK)
    }

    /// Blocks of the log ring.
    #[must_use]
    pub const fn log_blocks(&self) -> u32 {
        self.log_blocks
    }

    /// Extent slots.
    #[must_use]
    pub const fn extents(&self) -> u32 {
        self.extents
    }

    /// Pages of one index home.
    #[must_use]
    pub const fn index_pages(&self) -> u32 {
        index_pages(self.extents)
    }

    /// Place of a superblock copy (0..=3).
    #[must_use]
    pub const fn superblock(&self, copy: u32) -> ByteOffset {
        Self::superblock_of(self.device_bytes(), copy)
    }

    /// Place of a superblock copy on a device of this size, before its geometry is known.
    #[must_use]
    pub const fn superblock_of(device_bytes: ByteCount, copy: u32) -> ByteOffset {
        let blocks = device_bytes.get() / BLOCK;
        let block = if (copy as u64) < HEAD_COPIES { copy as u64 } else { blocks.saturating_sub(SUPERBLOCK_COPIES as u64 - copy as u64) };
        ByteOffset::new(block * BLOCK)
    }

    /// Place of a block of the log ring (0..log_blocks).
    #[must_use]
    pub const fn log_position(&self, position: u32) -> ByteOffset {
        ByteOffset::new((HEAD_COPIES + position as u64) * BLOCK)
    }

    /// Place of the log block with a sequence.
    #[must_use]
    pub const fn log_block(&self, sequence: u64) -> ByteOffset {
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of a u32")]
        self.log_position((sequence % self.log_blocks as u64) as u32)
    }

    const fn index_start(&self) -> u64 {
        HEAD_COPIES + self.log_blocks as u64
    }

    /// Place of an index page in a home.
    #[must_use]
    pub const fn index_page(&self, home: Home, page: u32) -> ByteOffset {
        let home = home.number() as u64 * self.index_pages() as u64;
        ByteOffset::new((self.index_start() + home + page as u64) * BLOCK)
    }

    const fn descriptor_start(&self) -> u64 {
        self.index_start() + 2 * self.index_pages() as u64
    }

    /// Place of a slot's two descriptor homes, adjacent: one 8 KiB read gets both.
    #[must_use]
    pub const fn descriptor_pair(&self, slot: u32) -> ByteOffset {
        ByteOffset::new((self.descriptor_start() + 2 * slot as u64) * BLOCK)
    }

    /// Place of one descriptor home of a slot.
    #[must_use]
    pub const fn descriptor(&self, slot: u32, home: Home) -> ByteOffset {
        ByteOffset::new((self.descriptor_start() + 2 * slot as u64 + home.number() as u64) * BLOCK)
    }

    const fn data_start(&self) -> u64 {
        self.descriptor_start() + 2 * self.extents as u64
    }

    /// Place of a data block.
    #[must_use]
    pub const fn data(&self, slot: u32, block: BlockIndex) -> ByteOffset {
        let block = self.data_start() + slot as u64 * BLOCKS_PER_EXTENT as u64 + block.get() as u64;
        ByteOffset::new(block * BLOCK)
    }

    /// Bytes of all extents.
    #[must_use]
    pub const fn capacity(&self) -> ByteCount {
        ByteCount::new(self.extents as u64 * BLOCKS_PER_EXTENT as u64 * BLOCK)
    }
}
