//! Metadata blocks of a device. The input stands in a block behind its frame, which is sealed: what is looked for are
//! fields that pass a checksum and still cannot be, as another version, a bug or a bit flip in memory may leave them.

use crate::memory::{NOTHING, bounded};
use sds_core::checksum::{Checksum, ChecksumList};
use sds_core::format::block::{self, Block, FIELDS_START, Kind};
use sds_core::format::descriptor::{BlockInfo, Content, Descriptor};
use sds_core::format::geometry::{Geometry, Home};
use sds_core::format::index_page;
use sds_core::format::log_block;
use sds_core::format::record::{self, Record};
use sds_core::format::superblock::{Choice, Superblock, choose};
use sds_core::id::{DeviceUuid, ShardSequence};
use sds_core::limits::SEQUENCE_MAX;
use sds_core::unit::{BLOCK_BYTES, BLOCKS_PER_EXTENT, BlockIndex, ByteOffset};

/// Whose blocks they are.
pub const DEVICE: DeviceUuid = DeviceUuid::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
/// Where they stand.
pub const LOCATION: ByteOffset = ByteOffset::new(3 * BLOCK_BYTES as u64);

/// A sealed block with these fields.
fn sealed(fields: &[u8], kind: Kind, device: DeviceUuid) -> Block {
    let mut bytes = [0; block::BYTES];
    let count = fields.len().min(block::BYTES - FIELDS_START);
    bytes[FIELDS_START..FIELDS_START + count].copy_from_slice(&fields[..count]);
    block::seal(&mut bytes, kind, device, LOCATION);
    bytes
}

fn le_u32(block: &Block, at: usize) -> u32 {
    block[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn le_u64(block: &Block, at: usize) -> u64 {
    block[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A superblock copy.
pub fn superblock(data: &[u8]) {
    assert!(Superblock::decode(data, LOCATION).is_err(), "a block is 4 KiB");
    let mut device = [0; 16];
    let stated = data.get(4..20).unwrap_or_default();
    device[..stated.len()].copy_from_slice(stated);
    let bytes = sealed(data, Kind::Superblock, DeviceUuid::new(u128::from_le_bytes(device)));
    let decoded = bounded(&bytes, NOTHING, || Superblock::decode(&bytes, LOCATION));
    let Ok(found) = decoded else { return };
    assert_eq!(Superblock::decode(&found.to_block(LOCATION), LOCATION), Ok(found), "a superblock comes back");
    check_geometry(&found.geometry);
    let none = || Err(block::BlockFault::Magic);
    assert_eq!(choose(&[Ok(found), none(), Ok(found), none()]), Choice::Found(found));
    assert_eq!(choose(&[Ok(found), none(), none(), none()]), Choice::Damaged);
}

/// Regions follow each other inside the device.
fn check_geometry(geometry: &Geometry) {
    let (slot, page) = (geometry.extents() - 1, geometry.index_pages() - 1);
    let last = u8::try_from(BLOCKS_PER_EXTENT - 1).unwrap_or(u8::MAX);
    let places = [
        geometry.superblock(0),
        geometry.superblock(1),
        geometry.log_position(0),
        geometry.log_position(geometry.log_blocks() - 1),
        geometry.index_page(Home::A, 0),
        geometry.index_page(Home::B, page),
        geometry.descriptor(0, Home::A),
        geometry.descriptor(slot, Home::B),
        geometry.data(0, BlockIndex::new(0)),
        geometry.data(slot, BlockIndex::new(last)),
        geometry.superblock(2),
        geometry.superblock(3),
    ];
    assert!(places.is_sorted_by(|one, other| one < other), "{geometry:?}: {places:?}");
    assert!(geometry.superblock(3).get() + u64::from(BLOCK_BYTES) <= geometry.device_bytes().get());
}

/// A block of the record log, and the records in it.
pub fn log_block(data: &[u8]) {
    assert!(log_block::decode(data, DEVICE, LOCATION).is_err() || data.len() == block::BYTES);
    let _ = (log_block::is_of_device(data, DEVICE), record::decode(data).is_ok());
    let bytes = sealed(data, Kind::Log, DEVICE);
    let Ok(found) = bounded(&bytes, NOTHING, || log_block::decode(&bytes, DEVICE, LOCATION)) else { return };
    let mut packed = Vec::new();
    let mut count = 0;
    for (at, record) in log_block::records(found.packed) {
        assert_eq!(at, packed.len(), "records are told with their places");
        put(&mut packed, &record);
        count += 1;
    }
    assert_eq!((count, &packed[..]), (found.header.records, found.packed), "records encode to the bytes they came from");
    let mut again = [0; block::BYTES];
    log_block::encode(&mut again, &found.header, &packed, DEVICE, LOCATION);
    let decoded = log_block::decode(&again, DEVICE, LOCATION).map(|again| (again.header, again.packed));
    assert_eq!(decoded, Ok((found.header, found.packed)), "a log block comes back");
    assert!(log_block::is_of_device(&again, DEVICE));
}

fn put(out: &mut Vec<u8>, record: &Record<'_>) {
    let list = |checksums: &record::Packed<'_>| {
        assert!(!checksums.is_empty() && checksums.len() == checksums.iter().count());
        let mut list = ChecksumList::EMPTY;
        checksums.iter().for_each(|checksum| list.push(checksum));
        list
    };
    match *record {
        Record::Allocated { slot, key } => record::put_allocated(out, slot, key),
        Record::Activated { slot } => record::put_activated(out, slot),
        Record::Sealed { slot } => record::put_sealed(out, slot),
        Record::Written { slot, first, version, checksums } => record::put_written(out, slot, first, version, &list(&checksums)),
        Record::Unreadable { slot, first, version, checksums } => record::put_unreadable(out, slot, first, version, &list(&checksums)),
        Record::Zero { slot, range, version, free } => record::put_zero(out, slot, range, version, free),
        Record::Freed { slot } => record::put_freed(out, slot),
        Record::Ceiling { ceiling } => record::put_ceiling(out, ceiling),
    }
}

/// A page of the extent index.
pub fn index_page(data: &[u8]) {
    let bytes = sealed(data, Kind::Index, DEVICE);
    let (page, checkpoint, entries) = (le_u32(&bytes, 12), le_u64(&bytes, 16), le_u32(&bytes, 24));
    let decode = |bytes: &[u8], page| {
        let mut found = [None; index_page::ENTRIES_PER_PAGE as usize];
        let mut count = 0;
        let decoded = index_page::decode(bytes, DEVICE, LOCATION, page, checkpoint, entries, |place, entry| {
            assert_eq!(place, count, "slots are told in order");
            count += 1;
            found[place as usize] = entry;
        });
        decoded.map(|()| (count, found))
    };
    assert!(decode(&bytes, page.wrapping_add(1)).is_err(), "another page than was asked for");
    let Ok((count, found)) = bounded(&bytes, NOTHING, || decode(&bytes, page)) else { return };
    assert_eq!(count, entries);
    let mut again = [0; block::BYTES];
    index_page::start(&mut again, page, checkpoint, entries);
    for (place, entry) in (0..).zip(&found) {
        if let Some(entry) = entry {
            index_page::put_entry(&mut again, place, entry);
        }
    }
    index_page::finish(&mut again, DEVICE, LOCATION);
    assert_eq!(decode(&again, page), Ok((count, found)), "an index page comes back");
}

/// A descriptor page; the last bytes of the input write one of its blocks anew.
pub fn descriptor(data: &[u8]) {
    let bytes = sealed(data, Kind::Descriptor, DEVICE);
    let mut found = Descriptor::default();
    let decoded = bounded(&bytes, NOTHING, || found.decode(&bytes, DEVICE, LOCATION));
    let Ok((header, _)) = decoded else { return };
    let mut again = [0; block::BYTES];
    let mut other = Descriptor::default();
    let checksum = found.encode(&header, &mut again, DEVICE, LOCATION);
    assert_eq!(other.decode(&again, DEVICE, LOCATION), Ok((header, checksum)));
    assert_eq!(other, found, "a descriptor page comes back");
    let newest = found.newest();
    for block in 0..=u8::MAX {
        let info = found.get(block);
        assert!(info.version <= newest);
        assert!(!found.is_older_than(block, info.version) || info.content == Content::Unwritten);
    }
    assert!(u32::from(found.data_blocks()) <= BLOCKS_PER_EXTENT);

    let Some((rest, sequence)) = data.split_last_chunk() else { return };
    let version = ShardSequence::new(u64::from_le_bytes(*sequence) % SEQUENCE_MAX);
    let block = rest.last().copied().unwrap_or(0);
    let is_news = found.is_older_than(block, version);
    let info = BlockInfo { content: Content::Data, checksum: Checksum::new(7), version };
    found.set(block, info);
    // A version below the page's base is told as the base.
    let kept = found.get(block);
    let told = (kept.content, kept.checksum) == (info.content, info.checksum) && kept.version >= version;
    assert!(!is_news || told, "what is news is kept");
    let checksum = found.encode(&header, &mut again, DEVICE, LOCATION);
    assert_eq!(other.decode(&again, DEVICE, LOCATION), Ok((header, checksum)), "a page that was written to can be read again");
    assert_eq!(other, found);
}
