//! Formatting a device: what to write where, and what is there already.
//!
//! The shell reads the first [`PROBE_BYTES`], calls [`probe`], refuses anything but `Blank` unless it
//! was told to, writes every block of [`FormatPlan::index_blocks`], flushes, writes those of
//! [`FormatPlan::superblocks`], flushes. A device is a store from the second superblock on, so a
//! format that was cut short leaves a blank device or an openable one.
//!
//! What this must not know: how devices are opened; a running store.

use crate::format::block::{self, Block, BlockFault};
use crate::format::geometry::{Geometry, GeometryError, Home, SUPERBLOCK_COPIES};
use crate::format::index_page::{self, ENTRIES_PER_PAGE};
use crate::format::superblock::Superblock;
use crate::id::{BootId, DeviceUuid, ShardSequence, SystemId};
use crate::unit::{ByteCount, ByteOffset};

/// Bytes from the start of a device that tell what it holds: past the superblock of btrfs at 64 KiB.
pub const PROBE_BYTES: usize = 128 * 1024;
/// Checkpoint number of a fresh store.
pub const FIRST_CHECKPOINT: u64 = 1;

/// What to format.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// Bytes of the device.
    pub device_bytes: ByteCount,
    /// System it will belong to.
    pub system: SystemId,
    /// Its identity, freshly drawn: blocks of an earlier life must not check under it.
    pub device: DeviceUuid,
    /// The host's boot.
    pub boot: BootId,
    /// Blocks of the record log, or the default for the size.
    pub log_blocks: Option<u32>,
}

/// A layout and the blocks that make it.
#[derive(Clone, Debug)]
pub struct FormatPlan {
    superblock: Superblock,
}

/// Lays out a device.
///
/// # Errors
/// If it is too small, or the log size is out of bounds.
pub fn plan(options: &FormatOptions) -> Result<FormatPlan, GeometryError> {
    let log_blocks = options.log_blocks.unwrap_or_else(|| Geometry::log_blocks_default(options.device_bytes));
    let geometry = Geometry::for_device(options.device_bytes, log_blocks)?;
    Ok(FormatPlan {
        superblock: Superblock {
            device: options.device,
            system: options.system,
            sequence: 1,
            incarnation: 0,
            boot: options.boot,
            compatible: 0,
            geometry,
            checkpoint: FIRST_CHECKPOINT,
            checkpoint_lsn: 0,
            sequence_ceiling: ShardSequence::new(0),
            index_home: Home::A,
        },
    })
}

impl FormatPlan {
    /// The layout.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.superblock.geometry
    }

    /// The empty index, to be written and flushed first. Two blocks at places a superblock will
    /// take are zeroed before, so that a previous store is gone before the new one is there.
    pub fn index_blocks(&self) -> impl Iterator<Item = (ByteOffset, Block)> + '_ {
        let geometry = &self.superblock.geometry;
        let wiped = (0..SUPERBLOCK_COPIES).map(move |copy| (geometry.superblock(copy), [0; block::BYTES]));
        wiped.chain((0..geometry.index_pages()).map(move |page| {
            let mut bytes = [0; block::BYTES];
            let location = geometry.index_page(Home::A, page);
            index_page::start(&mut bytes, page, FIRST_CHECKPOINT, entries_in_page(geometry, page));
            index_page::finish(&mut bytes, self.superblock.device, location);
            (location, bytes)
        }))
    }

    /// The superblocks, to be written after the rest was flushed, and flushed themselves.
    pub fn superblocks(&self) -> impl Iterator<Item = (ByteOffset, Block)> + '_ {
        (0..SUPERBLOCK_COPIES).map(|copy| {
            let location = self.superblock.geometry.superblock(copy);
            (location, self.superblock.to_block(location))
        })
    }
}

/// Slots that an index page covers: all of it but for the last page.
#[must_use]
pub fn entries_in_page(geometry: &Geometry, page: u32) -> u32 {
    geometry.extents().saturating_sub(page.saturating_mul(ENTRIES_PER_PAGE)).min(ENTRIES_PER_PAGE)
}

/// What the start of a device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Only zeroes.
    Blank,
    /// A store.
    Ours {
        /// Of this system.
        system: SystemId,
        /// With this identity.
        device: DeviceUuid,
        /// Bytes it was formatted for.
        device_bytes: ByteCount,
    },
    /// Something else.
    Foreign {
        /// What it looks like, for people.
        what: &'static str,
    },
}

struct Magic {
    at: usize,
    bytes: &'static [u8],
    what: &'static str,
}

const MAGICS: &[Magic] = &[
    Magic { at: 0x438, bytes: &[0x53, 0xef], what: "an ext2, ext3 or ext4 file system" },
    Magic { at: 0, bytes: b"XFSB", what: "an XFS file system" },
    Magic { at: 0x1_0040, bytes: b"_BHRfS_M", what: "a btrfs file system" },
    Magic { at: 0x400, bytes: &[0x10, 0x20, 0xf5, 0xf2], what: "an f2fs file system" },
    Magic { at: 0, bytes: b"LUKS\xba\xbe", what: "a LUKS volume" },
    Magic { at: 0x200, bytes: b"LABELONE", what: "an LVM physical volume" },
    Magic { at: 0, bytes: b"LABELONE", what: "an LVM physical volume" },
    Magic { at: 0x1000, bytes: &[0xfc, 0x4e, 0x2b, 0xa9], what: "a member of a Linux software RAID" },
    Magic { at: 0, bytes: &[0xfc, 0x4e, 0x2b, 0xa9], what: "a member of a Linux software RAID" },
    Magic { at: 0xff6, bytes: b"SWAPSPACE2", what: "swap space" },
    Magic { at: 0, bytes: b"bluestore block device", what: "a Ceph BlueStore device" },
    Magic { at: 0, bytes: b"QFI\xfb", what: "a qcow2 image" },
    Magic { at: 3, bytes: b"NTFS    ", what: "an NTFS file system" },
    Magic { at: 0x36, bytes: b"FAT", what: "a FAT file system" },
    Magic { at: 0x52, bytes: b"FAT32", what: "a FAT file system" },
    Magic { at: 0x8001, bytes: b"CD001", what: "an ISO 9660 image" },
    Magic { at: 0x1018, bytes: &[0xc6, 0x85, 0x73, 0xf6], what: "a bcache device" },
    Magic { at: 0x200, bytes: b"EFI PART", what: "a GPT partition table" },
    Magic { at: 0x1000, bytes: b"EFI PART", what: "a GPT partition table" },
    Magic { at: 0x1fe, bytes: &[0x55, 0xaa], what: "an MBR partition table or a boot sector" },
];

/// Recognises what a device holds from its first bytes ([`PROBE_BYTES`], or all of a smaller device).
#[must_use]
pub fn probe(head: &[u8]) -> Probe {
    let copy = |number: u32| {
        let location = Geometry::superblock_of(ByteCount::new(u64::MAX), number);
        let start = usize::try_from(location.get()).unwrap_or(usize::MAX);
        let bytes = head.get(start..start.saturating_add(block::BYTES)).unwrap_or(&[]);
        (bytes, Superblock::decode(bytes, location))
    };
    let mut damaged = false;
    for number in 0..2 {
        match copy(number) {
            (_, Ok(found)) => {
                let Superblock { system, device, geometry, .. } = found;
                return Probe::Ours { system, device, device_bytes: geometry.device_bytes() };
            }
            (_, Err(BlockFault::Checksum | BlockFault::Features(_) | BlockFault::Field(_))) => damaged = true,
            (_, Err(BlockFault::Length(_) | BlockFault::Magic)) => {}
        }
    }
    if damaged {
        return Probe::Foreign { what: "a store of this software, damaged or of a newer version" };
    }
    for magic in MAGICS {
        if head.get(magic.at..magic.at + magic.bytes.len()) == Some(magic.bytes) {
            return Probe::Foreign { what: magic.what };
        }
    }
    if head.iter().all(|byte| *byte == 0) { Probe::Blank } else { Probe::Foreign { what: "data of an unknown kind" } }
}
