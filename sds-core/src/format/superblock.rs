//! Superblock: who the device is, where things are, and which checkpoint is current.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..12 | frame (magic `sdsSUPER`, checksum) |
//! | 12..16 | format version, 1 |
//! | 16..32 | device UUID (first, because the checksum of every other block needs it) |
//! | 32..48 | system UUID |
//! | 48..56 | superblock sequence: the newest with at least two valid copies wins |
//! | 56..64 | store incarnation of the log blocks after the checkpoint |
//! | 64..80 | boot id of the host that wrote those log blocks |
//! | 80..88 | compatible feature bits: a program that does not know them may open |
//! | 88..96 | incompatible feature bits: it may not |
//! | 96..104 | device bytes |
//! | 104..108 | log blocks |
//! | 108..112 | extents |
//! | 112..120 | checkpoint number |
//! | 120..128 | checkpoint position: log blocks up to it are contained in index and descriptors |
//! | 128..136 | sequence ceiling |
//! | 136 | index home of the checkpoint, 0 or 1 |
//! | 137..4096 | zero |
//!
//! What this must not know: how many copies there are and which is chosen (`choose` is told them all).

use crate::format::block::{self, Block, BlockFault, Kind, get_u32, get_u64, get_u128, put_u32, put_u64, put_u128};
use crate::format::geometry::{Geometry, Home, SUPERBLOCK_COPIES};
use crate::id::{BootId, DeviceUuid, ShardSequence, SystemId};
use crate::unit::{ByteCount, ByteOffset};

/// Version of the format.
pub const FORMAT_VERSION: u32 = 1;
/// Incompatible features this version knows.
pub const INCOMPATIBLE_KNOWN: u64 = 0;

/// A superblock's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The device.
    pub device: DeviceUuid,
    /// Its system.
    pub system: SystemId,
    /// Rises with every superblock written.
    pub sequence: u64,
    /// Store life whose log blocks follow the checkpoint.
    pub incarnation: u64,
    /// Host boot in which those log blocks were written.
    pub boot: BootId,
    /// Compatible feature bits.
    pub compatible: u64,
    /// Layout.
    pub geometry: Geometry,
    /// Number every index page of the checkpoint carries.
    pub checkpoint: u64,
    /// Last log block the checkpoint contains.
    pub checkpoint_lsn: u64,
    /// No shard sequence at or above this had been used.
    pub sequence_ceiling: ShardSequence,
    /// Where the checkpoint's index is.
    pub index_home: Home,
}

impl Superblock {
    /// The block for one place.
    pub fn encode(&self, location: ByteOffset, block: &mut [u8]) {
        block.fill(0);
        put_u32(block, 12, FORMAT_VERSION);
        put_u128(block, 16, self.device.get());
        put_u128(block, 32, self.system.get());
        put_u64(block, 48, self.sequence);
        put_u64(block, 56, self.incarnation);
        put_u128(block, 64, self.boot.get());
        put_u64(block, 80, self.compatible);
        put_u64(block, 88, 0);
        put_u64(block, 96, self.geometry.device_bytes().get());
        put_u32(block, 104, self.geometry.log_blocks());
        put_u32(block, 108, self.geometry.extents());
        put_u64(block, 112, self.checkpoint);
        put_u64(block, 120, self.checkpoint_lsn);
        put_u64(block, 128, self.sequence_ceiling.get());
        block[136] = self.index_home.number();
        block::seal(block, Kind::Superblock, self.device, location);
    }

    /// The block for one place, by value.
    #[must_use]
    pub fn to_block(&self, location: ByteOffset) -> Block {
        let mut bytes = [0; block::BYTES];
        self.encode(location, &mut bytes);
        bytes
    }

    /// From a block read at a place.
    ///
    /// # Errors
    /// What is wrong with it; `Features` if only a newer program can read it.
    pub fn decode(bytes: &[u8], location: ByteOffset) -> Result<Self, BlockFault> {
        if bytes.len() != block::BYTES {
            return Err(BlockFault::Length(bytes.len()));
        }
        let device = DeviceUuid::new(get_u128(bytes, 16));
        block::check(bytes, Kind::Superblock, device, location)?;
        let incompatible = get_u64(bytes, 88);
        if incompatible & !INCOMPATIBLE_KNOWN != 0 {
            return Err(BlockFault::Features(incompatible & !INCOMPATIBLE_KNOWN));
        }
        if get_u32(bytes, 12) != FORMAT_VERSION {
            return Err(BlockFault::Field("format version"));
        }
        let geometry = Geometry::stated(ByteCount::new(get_u64(bytes, 96)), get_u32(bytes, 104), get_u32(bytes, 108))
            .map_err(|_| BlockFault::Field("geometry"))?;
        Ok(Self {
            device,
            system: SystemId::new(get_u128(bytes, 32)),
            sequence: get_u64(bytes, 48),
            incarnation: get_u64(bytes, 56),
            boot: BootId::new(get_u128(bytes, 64)),
            compatible: get_u64(bytes, 80),
            geometry,
            checkpoint: get_u64(bytes, 112),
            checkpoint_lsn: get_u64(bytes, 120),
            sequence_ceiling: ShardSequence::new(get_u64(bytes, 128)),
            index_home: Home::from_number(bytes[136]).ok_or(BlockFault::Field("index home"))?,
        })
    }
}

/// What four superblock copies amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one is current.
    Found(Superblock),
    /// No copy carries our magic.
    Blank,
    /// A copy needs a newer program.
    Newer(u64),
    /// Some copies are ours, but no two valid ones agree.
    Damaged,
}

/// The newest superblock that at least two of the copies state. Fewer could be a leftover of an
/// older life, or the first of four writes that a crash cut short; then the older one still holds.
#[must_use]
pub fn choose(copies: &[Result<Superblock, BlockFault>; SUPERBLOCK_COPIES as usize]) -> Choice {
    let mut best: Option<Superblock> = None;
    let mut ours = false;
    for (place, copy) in copies.iter().enumerate() {
        match copy {
            Ok(superblock) => {
                ours = true;
                let twice = copies.iter().enumerate().any(|(other, copy)| other != place && copy.as_ref() == Ok(superblock));
                if twice && best.is_none_or(|best| superblock.sequence > best.sequence) {
                    best = Some(*superblock);
                }
            }
            Err(BlockFault::Features(features)) => return Choice::Newer(*features),
            Err(BlockFault::Magic) => {}
            Err(BlockFault::Length(_) | BlockFault::Checksum | BlockFault::Field(_)) => ours = true,
        }
    }
    match best {
        Some(superblock) => Choice::Found(superblock),
        None if ours => Choice::Damaged,
        None => Choice::Blank,
    }
}
