//! One storage fault on the device of one copy: a flipped bit, the last write of a place that never happened or went to
//! the next place, in each region of the device.
//!
//! What this must not know: what a store makes of it.

use crate::histories::{device_bytes, geometry};
use crate::store_rig::*;
use sds_core::format::geometry::Home;
use sds_core::unit::BlockIndex;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Flip,
    Lost,
    Misdirected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Region {
    Data,
    Log,
    Descriptor,
    Index,
    Superblock,
}

pub(crate) const KINDS: [Kind; 3] = [Kind::Flip, Kind::Lost, Kind::Misdirected];
pub(crate) const REGIONS: [Region; 5] = [Region::Data, Region::Log, Region::Descriptor, Region::Index, Region::Superblock];

/// A fault of one 4 KiB piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) region: Region,
    piece: u64,
    /// For a flip.
    byte: usize,
}

pub(crate) fn region_of(piece: u64) -> Region {
    let geometry = geometry();
    let at = piece * BLOCK as u64;
    if piece < 2 || at >= device_bytes() - 2 * BLOCK as u64 {
        Region::Superblock
    } else if at < geometry.index_page(Home::A, 0).get() {
        Region::Log
    } else if at < geometry.descriptor(0, Home::A).get() {
        Region::Index
    } else if at < geometry.data(0, BlockIndex::new(0)).get() {
        Region::Descriptor
    } else {
        Region::Data
    }
}

/// Every fault that a device may have whose pieces were all written in one way or another.
pub(crate) fn all_on(disk: &Disk, regions: &[Region]) -> Vec<Fault> {
    let mut out = Vec::new();
    for piece in disk.pieces() {
        let region = region_of(piece);
        if !regions.contains(&region) {
            continue;
        }
        // In a log block also a byte by which a damaged one is known to be this device's.
        let bytes: &[usize] = if region == Region::Log { &[70, 53] } else { &[70] };
        out.extend(bytes.iter().map(|byte| Fault { kind: Kind::Flip, region, piece, byte: *byte }));
        out.extend([Kind::Lost, Kind::Misdirected].map(|kind| Fault { kind, region, piece, byte: 0 }));
    }
    out
}

/// When a piece was given the value that it has, and what it had before; `None` if nobody gave it that.
fn last_write(disk: &Disk, piece: u64) -> Option<(u64, Option<Piece>)> {
    let value = disk.get_durable(piece)?;
    let given = disk.given(piece);
    let Some(place) = given.iter().rposition(|(_, bytes)| bytes.name == value.name) else {
        // A write that had not completed.
        return Some((u64::MAX, given.last().map(|(_, bytes)| bytes.clone())));
    };
    Some((given[place].0, place.checked_sub(1).map(|before| given[before].1.clone())))
}

impl Fault {
    /// Does it to a device whose contents are all durable; `false` where there is nothing that it could change.
    pub(crate) fn strike(&self, disk: &mut Disk) -> bool {
        match self.kind {
            Kind::Flip => disk.flip(self.piece, self.byte),
            Kind::Lost => {
                let Some((_, before)) = last_write(disk, self.piece) else { return false };
                disk.put(self.piece, before);
                true
            }
            Kind::Misdirected => {
                let Some((order, before)) = last_write(disk, self.piece) else { return false };
                let next = self.piece + 1;
                // What was written there later hides it: then this is a lost write.
                let hidden = last_write(disk, next).is_some_and(|(later, _)| later > order);
                if hidden || next * BLOCK as u64 >= device_bytes() {
                    return false;
                }
                let bytes = disk.get_durable(self.piece);
                disk.put(self.piece, before);
                disk.put(next, bytes);
                true
            }
        }
    }
}
