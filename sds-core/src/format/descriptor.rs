//! Descriptor page: what each of an extent's 256 blocks is.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..12 | frame (magic `sdsDESCR`, checksum) |
//! | 12..16 | slot |
//! | 16..20 | tree |
//! | 20..24 | extent |
//! | 24..28 | layer |
//! | 28..32 | zero |
//! | 32..40 | page LSN L: every record of this extent at or below L is included |
//! | 40..48 | version base |
//! | 48..64 | zero (room for a smaller allocation unit) |
//! | 64..1088 | checksum u32 of each block |
//! | 1088..2112 | version of each block: sequence − base, u32; 0 means at or older than the base |
//! | 2112..2368 | state of each block: 0 unwritten, 1 zero, 2 data, 3 data that a failed write left unreadable |
//! | 2368..4096 | zero |
//!
//! Sequences of one extent belong to one shard and are never reused, so a version's sequence names it.
//! What this must not know: the cache; the log.

use crate::checksum::Checksum;
use crate::format::block::{self, BlockFault, Kind, get_u32, get_u64, put_u32, put_u64};
use crate::id::{DeviceUuid, ExtentIndex, LayerId, ShardSequence, TreeId};
use crate::store::interface::ExtentKey;
use crate::unit::{BLOCKS_PER_EXTENT, ByteOffset};

const BLOCKS: usize = BLOCKS_PER_EXTENT as usize;
const CHECKSUMS_START: usize = 64;
const VERSIONS_START: usize = CHECKSUMS_START + 4 * BLOCKS;
const STATES_START: usize = VERSIONS_START + 4 * BLOCKS;

const _: () = assert!(STATES_START + BLOCKS <= block::BYTES);

/// How far below a new version the base is put when it moves: out-of-order completions within this
/// span keep their exact versions.
const REBASE_SLACK: u64 = 1 << 31;

/// What a block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Content {
    /// Never written since the extent was allocated.
    #[default]
    Unwritten = 0,
    /// Reads zero.
    Zero = 1,
    /// Data with a checksum.
    Data = 2,
    /// A write to it failed: nobody knows what its bytes are.
    Unreadable = 3,
}

impl Content {
    pub(crate) const fn from_byte(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Unwritten),
            1 => Some(Self::Zero),
            2 => Some(Self::Data),
            3 => Some(Self::Unreadable),
            _ => None,
        }
    }

    /// Whether the block takes space: its bytes matter.
    #[must_use]
    pub const fn holds_data(self) -> bool {
        match self {
            Self::Unwritten | Self::Zero => false,
            Self::Data | Self::Unreadable => true,
        }
    }
}

/// One block's description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockInfo {
    /// What it is.
    pub content: Content,
    /// Checksum of its data; zero without data.
    pub checksum: Checksum,
    /// Newest version, or the base if it is older than can be said.
    pub version: ShardSequence,
}

/// The blocks of one extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    base: u64,
    checksums: [Checksum; BLOCKS],
    versions: [u32; BLOCKS],
    contents: [Content; BLOCKS],
}

impl Default for Descriptor {
    fn default() -> Self {
        Self { base: 0, checksums: [Checksum::new(0); BLOCKS], versions: [0; BLOCKS], contents: [Content::Unwritten; BLOCKS] }
    }
}

impl Descriptor {
    /// A block.
    #[must_use]
    pub fn get(&self, block: u8) -> BlockInfo {
        let block = usize::from(block);
        BlockInfo {
            content: self.contents[block],
            checksum: self.checksums[block],
            version: ShardSequence::new(self.base + u64::from(self.versions[block])),
        }
    }

    /// What a block is.
    #[must_use]
    pub fn content(&self, block: u8) -> Content {
        self.contents[usize::from(block)]
    }

    /// Whether a record of this version is news to the block.
    #[must_use]
    pub fn is_older_than(&self, block: u8, version: ShardSequence) -> bool {
        let place = usize::from(block);
        match (self.contents[place], self.versions[place]) {
            (Content::Unwritten, 0) => true,
            (Content::Unwritten | Content::Zero | Content::Data | Content::Unreadable, offset) => {
                version.get() > self.base + u64::from(offset)
            }
        }
    }

    /// Describes a block anew.
    pub fn set(&mut self, block: u8, info: BlockInfo) {
        let sequence = info.version.get();
        if sequence.saturating_sub(self.base) > u64::from(u32::MAX) {
            self.rebase(sequence - REBASE_SLACK);
        }
        let place = usize::from(block);
        self.contents[place] = info.content;
        self.checksums[place] = info.checksum;
        self.versions[place] = u32::try_from(sequence.saturating_sub(self.base)).unwrap_or(u32::MAX);
    }

    fn rebase(&mut self, base: u64) {
        for offset in &mut self.versions {
            let sequence = self.base + u64::from(*offset);
            *offset = u32::try_from(sequence.saturating_sub(base)).unwrap_or(u32::MAX);
        }
        self.base = base;
    }

    /// Newest version of any block, or the base if all are older than can be said.
    #[must_use]
    pub fn newest(&self) -> ShardSequence {
        ShardSequence::new(self.base + u64::from(self.versions.iter().copied().max().unwrap_or(0)))
    }

    /// How many blocks take space.
    #[must_use]
    pub fn data_blocks(&self) -> u16 {
        self.contents.iter().map(|content| u16::from(content.holds_data())).sum()
    }

    /// Encodes the page for one place and gives its checksum, which the index states.
    pub fn encode(&self, page: &PageHeader, block: &mut [u8], device: DeviceUuid, location: ByteOffset) -> Checksum {
        block.fill(0);
        put_u32(block, 12, page.slot);
        put_u32(block, 16, page.key.tree.get());
        put_u32(block, 20, page.key.extent.get());
        put_u32(block, 24, page.key.layer.get());
        put_u64(block, 32, page.lsn);
        put_u64(block, 40, self.base);
        for place in 0..BLOCKS {
            put_u32(block, CHECKSUMS_START + 4 * place, self.checksums[place].get());
            put_u32(block, VERSIONS_START + 4 * place, self.versions[place]);
            block[STATES_START + place] = self.contents[place] as u8;
        }
        block::seal(block, Kind::Descriptor, device, location)
    }

    /// Decodes a page read from a place into `self`; gives its header and checksum.
    ///
    /// # Errors
    /// What is wrong with it; then `self` holds nothing meaningful.
    pub fn decode(&mut self, bytes: &[u8], device: DeviceUuid, location: ByteOffset) -> Result<(PageHeader, Checksum), BlockFault> {
        let checksum = block::check(bytes, Kind::Descriptor, device, location)?;
        self.base = get_u64(bytes, 40);
        if self.base > u64::MAX - u64::from(u32::MAX) {
            return Err(BlockFault::Field("version base"));
        }
        for place in 0..BLOCKS {
            self.checksums[place] = Checksum::new(get_u32(bytes, CHECKSUMS_START + 4 * place));
            self.versions[place] = get_u32(bytes, VERSIONS_START + 4 * place);
            self.contents[place] = Content::from_byte(bytes[STATES_START + place]).ok_or(BlockFault::Field("block state"))?;
        }
        let key = ExtentKey {
            tree: TreeId::new(get_u32(bytes, 16)),
            extent: ExtentIndex::new(get_u32(bytes, 20)),
            layer: LayerId::new(get_u32(bytes, 24)),
        };
        Ok((PageHeader { slot: get_u32(bytes, 12), key, lsn: get_u64(bytes, 32) }, checksum))
    }
}

/// Whose page it is and how much of the log it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// The extent's slot.
    pub slot: u32,
    /// Its owner.
    pub key: ExtentKey,
    /// Every record of the extent at or below is included.
    pub lsn: u64,
}
