//! Extent index page: 126 slots of 32 bytes, all of one checkpoint.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..12 | frame (magic `sdsINDEX`, checksum) |
//! | 12..16 | page number |
//! | 16..24 | checkpoint number: an older page here is a lost write, and a fault |
//! | 24..28 | entries in this page |
//! | 28..32 | zero |
//! | 32.. | entries |
//! | 4064..4096 | zero |
//!
//! Entry: tree u32, extent u32, layer u32, descriptor checksum u32, descriptor LSN u64, flags u32
//! (1 allocated, 2 has a descriptor page, 4 its home is B, 8 unsettled, 16 descriptor known damaged),
//! zero u32.
//!
//! What this must not know: the slots' life; when a checkpoint is taken.

use crate::checksum::Checksum;
use crate::format::block::{self, BlockFault, Kind, get_u32, get_u64, put_u32, put_u64};
use crate::format::geometry::Home;
use crate::id::{DeviceUuid, ExtentIndex, LayerId, TreeId};
use crate::store::interface::ExtentKey;
use crate::unit::ByteOffset;

/// Slots in one page.
pub const ENTRIES_PER_PAGE: u32 = 126;
/// Bytes of a slot's entry.
pub const ENTRY_BYTES: usize = 32;
const ENTRIES_START: usize = 32;

const _: () = assert!(ENTRIES_START + ENTRIES_PER_PAGE as usize * ENTRY_BYTES <= block::BYTES);

const ALLOCATED: u32 = 1;
const HAS_PAGE: u32 = 2;
const HOME_B: u32 = 4;
const UNSETTLED: u32 = 8;
const DAMAGED: u32 = 16;
const KNOWN: u32 = ALLOCATED | HAS_PAGE | HOME_B | UNSETTLED | DAMAGED;

/// Where an extent's descriptor page is and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageName {
    /// Which home.
    pub home: Home,
    /// LSN it must state.
    pub lsn: u64,
    /// Checksum it must have.
    pub checksum: Checksum,
}

/// An allocated slot's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Whose extent it is.
    pub key: ExtentKey,
    /// Its descriptor page; none before its first checkpoint.
    pub page: Option<PageName>,
    /// It was active (or waiting to be settled) at the checkpoint.
    pub unsettled: bool,
    /// Its descriptor page was found damaged; its blocks cannot be judged until it is freed.
    pub damaged: bool,
}

/// Starts an encoded page; entries are put with [`put_entry`], then [`finish`] seals it.
pub fn start(block: &mut [u8], page: u32, checkpoint: u64, entries: u32) {
    block.fill(0);
    put_u32(block, 12, page);
    put_u64(block, 16, checkpoint);
    put_u32(block, 24, entries);
}

/// Puts a slot's entry; a free slot's is left zero.
pub fn put_entry(block: &mut [u8], place: u32, entry: &IndexEntry) {
    let at = ENTRIES_START + place as usize * ENTRY_BYTES;
    let mut flags = ALLOCATED;
    put_u32(block, at, entry.key.tree.get());
    put_u32(block, at + 4, entry.key.extent.get());
    put_u32(block, at + 8, entry.key.layer.get());
    if let Some(page) = entry.page {
        flags |= HAS_PAGE;
        match page.home {
            Home::A => {}
            Home::B => flags |= HOME_B,
        }
        put_u32(block, at + 12, page.checksum.get());
        put_u64(block, at + 16, page.lsn);
    }
    if entry.unsettled {
        flags |= UNSETTLED;
    }
    if entry.damaged {
        flags |= DAMAGED;
    }
    put_u32(block, at + 24, flags);
}

/// Seals a page.
pub fn finish(block: &mut [u8], device: DeviceUuid, location: ByteOffset) {
    block::seal(block, Kind::Index, device, location);
}

/// Checks a page and hands each of its slots, in order, to `each`.
///
/// # Errors
/// What is wrong with it; then `each` may have been called for some slots.
pub fn decode(
    bytes: &[u8],
    device: DeviceUuid,
    location: ByteOffset,
    page: u32,
    checkpoint: u64,
    entries: u32,
    mut each: impl FnMut(u32, Option<IndexEntry>),
) -> Result<(), BlockFault> {
    block::check(bytes, Kind::Index, device, location)?;
    if get_u32(bytes, 12) != page {
        return Err(BlockFault::Field("page number"));
    }
    if get_u64(bytes, 16) != checkpoint {
        return Err(BlockFault::Field("checkpoint number"));
    }
    if get_u32(bytes, 24) != entries || entries > ENTRIES_PER_PAGE {
        return Err(BlockFault::Field("entries"));
    }
    for place in 0..entries {
        let at = ENTRIES_START + place as usize * ENTRY_BYTES;
        let flags = get_u32(bytes, at + 24);
        if flags & !KNOWN != 0 || (flags & ALLOCATED == 0 && flags != 0) {
            return Err(BlockFault::Field("flags"));
        }
        if flags & ALLOCATED == 0 {
            each(place, None);
            continue;
        }
        let key = ExtentKey {
            tree: TreeId::new(get_u32(bytes, at)),
            extent: ExtentIndex::new(get_u32(bytes, at + 4)),
            layer: LayerId::new(get_u32(bytes, at + 8)),
        };
        let page = (flags & HAS_PAGE != 0).then(|| PageName {
            home: if flags & HOME_B == 0 { Home::A } else { Home::B },
            lsn: get_u64(bytes, at + 16),
            checksum: Checksum::new(get_u32(bytes, at + 12)),
        });
        each(place, Some(IndexEntry { key, page, unsettled: flags & UNSETTLED != 0, damaged: flags & DAMAGED != 0 }));
    }
    Ok(())
}
