//! The log ring as it was found: every valid block newer than the checkpoint, and what they state.
//!
//! A missing block at or below a flushed position stated by any block is corruption; above it a power
//! cut may leave gaps. Without a power cut there are no gaps at all: blocks complete in order.
//! What this must not know: what records mean.

use crate::bugs::{self, Bug};
use crate::checksum::Checksum;
use crate::format::BlockFault;
use crate::format::log_block;
use crate::format::superblock::Superblock;
use crate::store::interface::OpenFault;

/// One block of the log.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) sequence: u64,
    flushed: u64,
    resolved: u64,
    previous: Checksum,
    checksum: Checksum,
    pub(super) packed: Vec<u8>,
}

/// What the ring holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    /// In order of sequence once finished.
    pub(super) blocks: Vec<Found>,
    /// Positions whose block is of this device and does not check.
    damaged: Vec<u32>,
    /// Highest sequence found, or the checkpoint's.
    pub(super) last: u64,
    /// Highest positions stated.
    pub(super) flushed: u64,
    pub(super) resolved: u64,
}

impl Scan {
    /// Takes the block at a position of the ring.
    pub(super) fn take(&mut self, superblock: &Superblock, position: u32, bytes: &[u8]) {
        let ring = u64::from(superblock.geometry.log_blocks());
        let location = superblock.geometry.log_position(position);
        match log_block::decode(bytes, superblock.device, location) {
            Ok(found) => {
                let header = found.header;
                let ours = header.sequence % ring == u64::from(position)
                    && header.sequence > superblock.checkpoint_lsn
                    && header.sequence - superblock.checkpoint_lsn <= ring
                    && header.incarnation == superblock.incarnation;
                if ours {
                    self.blocks.push(Found {
                        sequence: header.sequence,
                        flushed: header.flushed,
                        resolved: header.resolved,
                        previous: header.previous,
                        checksum: found.checksum,
                        packed: found.packed.to_vec(),
                    });
                }
            }
            Err(BlockFault::Checksum | BlockFault::Field(_)) => {
                if log_block::is_of_device(bytes, superblock.device) {
                    self.damaged.push(position);
                }
            }
            Err(BlockFault::Length(_) | BlockFault::Magic | BlockFault::Features(_)) => {}
        }
    }

    /// Sorts what was found and judges what is missing.
    pub(super) fn finish(&mut self, superblock: &Superblock, power_lost: bool) -> Result<(), OpenFault> {
        self.blocks.sort_unstable_by_key(|block| block.sequence);
        let checkpoint = superblock.checkpoint_lsn;
        if bugs::is(Bug::NewestLogBlockDropped) {
            self.blocks.pop();
        }
        if bugs::is(Bug::RecoveryStopsAtGap) {
            let whole = self.blocks.iter().zip(checkpoint + 1..).take_while(|(block, expected)| block.sequence == *expected).count();
            self.blocks.truncate(whole);
        }
        self.last = self.blocks.last().map_or(checkpoint, |block| block.sequence);
        self.flushed = self.blocks.iter().map(|block| block.flushed).fold(checkpoint, u64::max);
        self.resolved = self.blocks.iter().map(|block| block.resolved).fold(checkpoint, u64::max);
        let whole = if power_lost { self.flushed } else { self.last };
        let missing = |sequence| OpenFault::Log { sequence, flushed: whole };
        let mut expected = checkpoint + 1;
        let mut before: Option<&Found> = None;
        for block in &self.blocks {
            if block.sequence > expected && expected <= whole {
                return Err(missing(expected));
            }
            if let Some(before) = before
                && before.sequence + 1 == block.sequence
                && block.previous != before.checksum
            {
                return Err(missing(before.sequence));
            }
            expected = block.sequence + 1;
            before = Some(block);
        }
        if expected <= whole {
            return Err(missing(expected));
        }
        // Without a power cut no block is half there: a damaged one where the next belongs was the last.
        let next = (self.last + 1) % u64::from(superblock.geometry.log_blocks());
        if !power_lost && self.damaged.iter().any(|position| u64::from(*position) == next) {
            return Err(OpenFault::Log { sequence: self.last + 1, flushed: whole });
        }
        Ok(())
    }

    /// The blocks are no longer needed.
    pub(super) fn forget(&mut self) {
        self.blocks = Vec::new();
        self.damaged = Vec::new();
    }
}
