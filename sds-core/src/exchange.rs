//! What two copies of a shard tell each other about what they hold: the bytes of an extent list and of a block list.
//!
//! The store writes them into a buffer of whoever asks ([`crate::store::interface::Request`]), and they travel as
//! payload; little endian, entries of one size, no header: how many there are is said beside them.
//!
//! Extent entry, 24 bytes:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..4 | tree |
//! | 4..8 | extent |
//! | 8..12 | layer |
//! | 12..16 | flags: 1 unsettled, 2 descriptor damaged, 4 newest version known |
//! | 16..24 | newest version of its blocks (sequence), 0 if not known |
//!
//! Block entry, 24 bytes, one for each of the extent's 256 blocks in order:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | state: 0 unwritten, 1 zero, 2 data, 3 unreadable |
//! | 1 | the medium: 0 not asked, 1 read, 2 cannot be read |
//! | 2..4 | zero |
//! | 4..8 | checksum recorded, 0 without data |
//! | 8..16 | version recorded (sequence) |
//! | 16..20 | checksum of the bytes on the medium if they were read, otherwise 0 |
//! | 20..24 | zero |
//!
//! Plan entry, 16 bytes, one for each of the extent's 256 blocks in order:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | what: 0 as recorded, 1 zero, 2 data, 3 quarantined |
//! | 1..4 | zero |
//! | 4..8 | checksum of data, otherwise 0 |
//! | 8..16 | version (sequence), 0 if as recorded |
//!
//! What this must not know: who asks; what is decided from it.

use crate::checksum::Checksum;
use crate::format::block::{get_u32, get_u64, put_u32, put_u64};
use crate::format::descriptor::{BlockInfo, Content};
use crate::id::{Epoch, ExtentIndex, LayerId, ShardSequence, TreeId, Version};
use crate::protocol::settle::Record;
use crate::store::interface::ExtentKey;
use crate::unit::BLOCKS_PER_EXTENT;

/// Bytes of an extent entry.
pub const EXTENT_ENTRY_BYTES: u32 = 24;
/// Bytes of a block entry.
pub const BLOCK_ENTRY_BYTES: u32 = 24;
/// Bytes of the block list of one extent.
pub const BLOCKS_BYTES: u32 = BLOCKS_PER_EXTENT * BLOCK_ENTRY_BYTES;

/// Bytes of a plan entry.
pub const PLAN_ENTRY_BYTES: u32 = 16;
/// Bytes of the plan for one extent.
pub const PLAN_BYTES: u32 = BLOCKS_PER_EXTENT * PLAN_ENTRY_BYTES;

const _: () = assert!(BLOCKS_BYTES <= crate::limits::FRAME_PAYLOAD_BYTES_MAX, "a block list fits a frame");

const UNSETTLED: u32 = 1;
const DAMAGED: u32 = 2;
const NEWEST_KNOWN: u32 = 4;

/// Why bytes are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {0} of an exchanged entry cannot be")]
pub struct EntryFault(&'static str);

/// An extent that a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentEntry {
    /// Whose.
    pub key: ExtentKey,
    /// Unsettled since before the store's last start.
    pub unsettled: bool,
    /// Its descriptor page is damaged or lost: nothing but freeing it helps.
    pub damaged: bool,
    /// Newest version of its blocks, if the descriptor is in memory; otherwise its blocks must be asked for.
    pub newest: Option<ShardSequence>,
}

impl ExtentEntry {
    /// Writes the entry into its bytes.
    ///
    /// # Panics
    /// If `bytes` are fewer than [`EXTENT_ENTRY_BYTES`].
    pub fn encode(&self, bytes: &mut [u8]) {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        put_u32(bytes, 0, self.key.tree.get());
        put_u32(bytes, 4, self.key.extent.get());
        put_u32(bytes, 8, self.key.layer.get());
        let flags = flag(self.unsettled, UNSETTLED) | flag(self.damaged, DAMAGED) | flag(self.newest.is_some(), NEWEST_KNOWN);
        put_u32(bytes, 12, flags);
        put_u64(bytes, 16, self.newest.map_or(0, ShardSequence::get));
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// If the bytes are no entry; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryFault> {
        if bytes.len() < EXTENT_ENTRY_BYTES as usize {
            return Err(EntryFault("length"));
        }
        let (flags, newest) = (get_u32(bytes, 12), get_u64(bytes, 16));
        let known = flags & NEWEST_KNOWN != 0;
        if flags & !(UNSETTLED | DAMAGED | NEWEST_KNOWN) != 0 || (!known && newest != 0) {
            return Err(EntryFault("flags"));
        }
        Ok(Self {
            key: ExtentKey {
                tree: TreeId::new(get_u32(bytes, 0)),
                extent: ExtentIndex::new(get_u32(bytes, 4)),
                layer: LayerId::new(get_u32(bytes, 8)),
            },
            unsettled: flags & UNSETTLED != 0,
            damaged: flags & DAMAGED != 0,
            newest: known.then_some(ShardSequence::new(newest)),
        })
    }
}

/// What the medium says about a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Medium {
    /// It was not asked: the extent is settled, or the block holds no data.
    #[default]
    NotAsked,
    /// Checksum of the bytes there.
    Read(Checksum),
    /// They cannot be read.
    Unreadable,
}

/// A block of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockEntry {
    /// The newest record of it.
    pub info: BlockInfo,
    /// The bytes, in an unsettled extent.
    pub medium: Medium,
}

impl BlockEntry {
    /// Writes the entry into its bytes.
    ///
    /// # Panics
    /// If `bytes` are fewer than [`BLOCK_ENTRY_BYTES`].
    pub fn encode(&self, bytes: &mut [u8]) {
        let (medium, checksum) = match self.medium {
            Medium::NotAsked => (0, 0),
            Medium::Read(checksum) => (1, checksum.get()),
            Medium::Unreadable => (2, 0),
        };
        bytes[..4].copy_from_slice(&[self.info.content as u8, medium, 0, 0]);
        put_u32(bytes, 4, self.info.checksum.get());
        put_u64(bytes, 8, self.info.version.get());
        put_u32(bytes, 16, checksum);
        put_u32(bytes, 20, 0);
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// If the bytes are no entry; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryFault> {
        if bytes.len() < BLOCK_ENTRY_BYTES as usize {
            return Err(EntryFault("length"));
        }
        let medium = match (bytes[1], get_u32(bytes, 16)) {
            (0, 0) => Medium::NotAsked,
            (1, checksum) => Medium::Read(Checksum::new(checksum)),
            (2, 0) => Medium::Unreadable,
            _ => return Err(EntryFault("medium")),
        };
        let content = Content::from_byte(bytes[0]).ok_or(EntryFault("state"))?;
        let version = ShardSequence::new(get_u64(bytes, 8));
        Ok(Self { info: BlockInfo { content, checksum: Checksum::new(get_u32(bytes, 4)), version }, medium })
    }

    /// The newest record, as [`crate::protocol::settle`] takes it. The epoch is left out on both sides: a shard's
    /// sequences are never used twice, so the sequence names the write.
    #[must_use]
    pub fn record(&self) -> Record {
        let checksum = if self.info.content.holds_data() { self.info.checksum } else { Checksum::ZERO_BLOCK };
        Record { version: Version { sequence: self.info.version, epoch: Epoch::new(0) }, checksum }
    }

    /// Checksum of what this copy has in the block, for [`crate::protocol::settle::Exhibit`]: a block without data has zeroes,
    /// and one of a settled extent what is recorded.
    #[must_use]
    pub fn bytes_held(&self) -> Option<Checksum> {
        match (self.info.content, self.medium) {
            (Content::Unwritten | Content::Zero, _) => Some(Checksum::ZERO_BLOCK),
            (Content::Data | Content::Unreadable, Medium::Read(checksum)) => Some(checksum),
            (Content::Data, Medium::NotAsked) => Some(self.info.checksum),
            (Content::Unreadable, Medium::NotAsked) | (Content::Data | Content::Unreadable, Medium::Unreadable) => None,
        }
    }
}

/// What a block of an extent that is being settled becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlanEntry {
    /// What is recorded stands, and is what the medium holds.
    #[default]
    AsRecorded,
    /// Zeroes.
    Zero(ShardSequence),
    /// The bytes on the medium, which have this checksum, at this version.
    Data(ShardSequence, Checksum),
    /// Nobody knows: reads fail until it is written.
    Quarantined(ShardSequence),
}

impl PlanEntry {
    /// Writes the entry into its bytes.
    ///
    /// # Panics
    /// If `bytes` are fewer than [`PLAN_ENTRY_BYTES`].
    pub fn encode(&self, bytes: &mut [u8]) {
        let (what, checksum, version) = match *self {
            Self::AsRecorded => (0, 0, 0),
            Self::Zero(version) => (1, 0, version.get()),
            Self::Data(version, checksum) => (2, checksum.get(), version.get()),
            Self::Quarantined(version) => (3, 0, version.get()),
        };
        bytes[..4].copy_from_slice(&[what, 0, 0, 0]);
        put_u32(bytes, 4, checksum);
        put_u64(bytes, 8, version);
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// If the bytes are no entry; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryFault> {
        if bytes.len() < PLAN_ENTRY_BYTES as usize {
            return Err(EntryFault("length"));
        }
        let version = ShardSequence::new(get_u64(bytes, 8));
        match (bytes[0], get_u32(bytes, 4), version.get()) {
            (0, 0, 0) => Ok(Self::AsRecorded),
            (1, 0, _) => Ok(Self::Zero(version)),
            (2, checksum, _) => Ok(Self::Data(version, Checksum::new(checksum))),
            (3, 0, _) => Ok(Self::Quarantined(version)),
            _ => Err(EntryFault("plan")),
        }
    }

    /// The block's new description, if there is one.
    #[must_use]
    pub fn info(&self) -> Option<BlockInfo> {
        let (content, checksum, version) = match *self {
            Self::AsRecorded => return None,
            Self::Zero(version) => (Content::Zero, Checksum::new(0), version),
            Self::Data(version, checksum) => (Content::Data, checksum, version),
            Self::Quarantined(version) => (Content::Unreadable, Checksum::new(0), version),
        };
        Some(BlockInfo { content, checksum, version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_that_stands_for_zeroes_is_that_of_a_zero_block() {
        assert_eq!(Checksum::ZERO_BLOCK, Checksum::of(&[0; 4096]));
    }

    #[test]
    fn an_extent_entry_has_its_documented_bytes_and_comes_back() {
        let key = ExtentKey { tree: TreeId::new(1), extent: ExtentIndex::new(2), layer: LayerId::new(3) };
        let entry = ExtentEntry { key, unsettled: true, damaged: false, newest: Some(ShardSequence::new(0x0102)) };
        let mut bytes = [0xff; EXTENT_ENTRY_BYTES as usize];
        entry.encode(&mut bytes);
        assert_eq!(bytes, [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ExtentEntry::decode(&bytes), Ok(entry));
        bytes[12] = 8;
        assert!(ExtentEntry::decode(&bytes).is_err());
        assert!(ExtentEntry::decode(&bytes[..23]).is_err());
    }

    #[test]
    fn a_plan_entry_has_its_documented_bytes_and_comes_back() {
        let version = ShardSequence::new(0x0102);
        for entry in
            [PlanEntry::AsRecorded, PlanEntry::Zero(version), PlanEntry::Data(version, Checksum::new(9)), PlanEntry::Quarantined(version)]
        {
            let mut bytes = [0xff; PLAN_ENTRY_BYTES as usize];
            entry.encode(&mut bytes);
            assert_eq!(PlanEntry::decode(&bytes), Ok(entry));
            if let PlanEntry::Data(..) = entry {
                assert_eq!(bytes, [2, 0, 0, 0, 9, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
            }
            bytes[0] = 4;
            assert!(PlanEntry::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_block_entry_has_its_documented_bytes_and_comes_back() {
        let info = BlockInfo { content: Content::Data, checksum: Checksum::new(9), version: ShardSequence::new(0x0304) };
        for medium in [Medium::NotAsked, Medium::Read(Checksum::new(7)), Medium::Unreadable] {
            let entry = BlockEntry { info, medium };
            let mut bytes = [0xff; BLOCK_ENTRY_BYTES as usize];
            entry.encode(&mut bytes);
            assert_eq!(BlockEntry::decode(&bytes), Ok(entry));
            if medium == Medium::Read(Checksum::new(7)) {
                assert_eq!(bytes, [2, 1, 0, 0, 9, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
            }
            bytes[0] = 4;
            assert!(BlockEntry::decode(&bytes).is_err());
        }
    }
}
