//! Every format on the device: round trips, total decoders, golden files, geometry.
//!
//! The golden files are version 1 of the format: a change that alters one breaks devices in the field.
//! `SDS_BLESS=1 cargo test -p sds-core --test format` writes them anew, for a new version only.
#![allow(clippy::disallowed_methods, reason = "golden files, and whether to write them")]
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "a test's own small numbers")]

use proptest::prelude::*;
use sds_core::checksum::{Checksum, ChecksumList};
use sds_core::format::block::{self, Block, BlockFault};
use sds_core::format::descriptor::{BlockInfo, Content, Descriptor, PageHeader};
use sds_core::format::geometry::{Geometry, GeometryError, Home};
use sds_core::format::index_page::{self, IndexEntry, PageName};
use sds_core::format::log_block::{self, LogHeader};
use sds_core::format::record::{self, Record};
use sds_core::format::superblock::{Choice, Superblock, choose};
use sds_core::id::*;
use sds_core::store::format::{FormatOptions, PROBE_BYTES, Probe, plan, probe};
use sds_core::store::interface::{BlockRange, ExtentKey};
use sds_core::unit::*;

const DEVICE: DeviceUuid = DeviceUuid::new(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
const SYSTEM: SystemId = SystemId::new(0x5157_0000_0000_0000_0000_0000_0000_0001);

fn at(block: u64) -> ByteOffset {
    ByteOffset::new(block * 4096)
}

fn key(tree: u32, extent: u32) -> ExtentKey {
    ExtentKey { tree: TreeId::new(tree), extent: ExtentIndex::new(extent), layer: LayerId::new(0) }
}

fn version(sequence: u64) -> Version {
    Version { sequence: ShardSequence::new(sequence), epoch: Epoch::new(3) }
}

fn superblock() -> Superblock {
    Superblock {
        device: DEVICE,
        system: SYSTEM,
        sequence: 9,
        incarnation: 4,
        boot: BootId::new(0xb007),
        compatible: 0,
        geometry: Geometry::for_device(ByteCount::new(64 << 20), 256).unwrap(),
        checkpoint: 5,
        checkpoint_lsn: 1234,
        sequence_ceiling: ShardSequence::new(1 << 20),
        index_home: Home::B,
    }
}

fn records() -> Vec<u8> {
    let mut out = Vec::new();
    let mut checksums = ChecksumList::EMPTY;
    checksums.push(Checksum::new(0xdead_beef));
    record::put_allocated(&mut out, 7, key(1, 2));
    record::put_activated(&mut out, 7);
    record::put_written(&mut out, 7, BlockIndex::new(9), version(77), &checksums);
    record::put_zero(&mut out, 7, BlockRange { first: BlockIndex::new(0), count: 256 }, version(78), true);
    record::put_sealed(&mut out, 7);
    record::put_freed(&mut out, 7);
    record::put_ceiling(&mut out, ShardSequence::new(99));
    out
}

fn log_block() -> Block {
    let mut bytes = [0xff; block::BYTES];
    let header = LogHeader { sequence: 1235, incarnation: 4, flushed: 1230, resolved: 1233, previous: Checksum::new(5), records: 7 };
    log_block::encode(&mut bytes, &header, &records(), DEVICE, at(3));
    bytes
}

fn descriptor() -> Descriptor {
    let mut descriptor = Descriptor::default();
    let info =
        |content, checksum, sequence| BlockInfo { content, checksum: Checksum::new(checksum), version: ShardSequence::new(sequence) };
    descriptor.set(0, info(Content::Data, 0x1111, 10));
    descriptor.set(1, info(Content::Zero, 0, 11));
    descriptor.set(255, info(Content::Unreadable, 0x2222, 12));
    descriptor
}

fn descriptor_page() -> Block {
    let mut bytes = [0xff; block::BYTES];
    descriptor().encode(&PageHeader { slot: 7, key: key(1, 2), lsn: 1234 }, &mut bytes, DEVICE, at(40));
    bytes
}

fn index_page() -> Block {
    let mut bytes = [0xff; block::BYTES];
    index_page::start(&mut bytes, 0, 5, 126);
    let page = PageName { home: Home::B, lsn: 1234, checksum: Checksum::new(0xabcd) };
    index_page::put_entry(&mut bytes, 0, &IndexEntry { key: key(1, 2), page: Some(page), unsettled: true, damaged: false });
    index_page::put_entry(&mut bytes, 125, &IndexEntry { key: key(1, 3), page: None, unsettled: false, damaged: true });
    index_page::finish(&mut bytes, DEVICE, at(20));
    bytes
}

/// Offset and bytes of every run that is not zero: readable, and small.
fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        if chunk.iter().any(|byte| *byte != 0) {
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            out += &format!("{:04x} {}\n", line * 16, hex.join(" "));
        }
    }
    out
}

fn golden(name: &str, bytes: &[u8]) {
    let path = format!("{}/tests/golden/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let now = dump(bytes);
    if std::env::var_os("SDS_BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let then = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(then, now, "{name} is not what version 1 of the format writes");
}

#[test]
fn blocks_are_what_version_1_writes() {
    golden("superblock", &superblock().to_block(at(0)));
    golden("log-block", &log_block());
    golden("descriptor-page", &descriptor_page());
    golden("index-page", &index_page());
}

#[test]
fn a_record_of_one_block_is_small() {
    let mut checksums = ChecksumList::EMPTY;
    checksums.push(Checksum::new(1));
    let mut out = Vec::new();
    record::put_written(&mut out, 1, BlockIndex::new(2), version(3), &checksums);
    assert!(out.len() <= 32, "{} bytes", out.len());
}

#[test]
fn records_come_back_in_order() {
    let bytes = log_block();
    let decoded = log_block::decode(&bytes, DEVICE, at(3)).unwrap();
    let kinds: Vec<String> = log_block::records(decoded.packed)
        .map(|(_, record)| format!("{record:?}").split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(kinds, ["Allocated", "Activated", "Written", "Zero", "Sealed", "Freed", "Ceiling"]);
    let written = log_block::records(decoded.packed).nth(2).unwrap().1;
    let Record::Written { slot, first, version: found, checksums } = written else { panic!("{written:?}") };
    assert_eq!((slot, first.get(), found), (7, 9, version(77)));
    assert_eq!(checksums.iter().collect::<Vec<_>>(), [Checksum::new(0xdead_beef)]);
}

#[test]
fn a_block_does_not_check_elsewhere_or_under_another_device() {
    let other = DeviceUuid::new(1);
    assert_eq!(log_block::decode(&log_block(), DEVICE, at(4)).unwrap_err(), BlockFault::Checksum);
    assert_eq!(log_block::decode(&log_block(), other, at(3)).unwrap_err(), BlockFault::Checksum);
    assert_eq!(log_block::decode(&descriptor_page(), DEVICE, at(40)).unwrap_err(), BlockFault::Magic);
    let page = index_page();
    let older = index_page::decode(&page, DEVICE, at(20), 0, 6, 126, |_, _| {});
    assert_eq!(older, Err(BlockFault::Field("checkpoint number")));
    assert_eq!(Superblock::decode(&superblock().to_block(at(0)), at(1)).unwrap_err(), BlockFault::Checksum);
}

#[test]
fn the_newest_superblock_with_two_copies_wins() {
    let old = superblock();
    let new = Superblock { sequence: 10, ..old };
    let bad = Err(BlockFault::Checksum);
    assert_eq!(choose(&[Ok(new), Ok(new), Ok(old), Ok(old)]), Choice::Found(new));
    assert_eq!(choose(&[Ok(new), Ok(old), Ok(old), Ok(old)]), Choice::Found(old));
    assert_eq!(choose(&[Ok(new), bad, bad, Ok(new)]), Choice::Found(new));
    assert_eq!(choose(&[Ok(new), bad, bad, Ok(old)]), Choice::Damaged);
    assert_eq!(choose(&[Err(BlockFault::Magic); 4]), Choice::Blank);
    assert_eq!(choose(&[Ok(old), Ok(old), Err(BlockFault::Features(8)), Ok(old)]), Choice::Newer(8));
}

#[test]
fn versions_survive_a_move_of_their_base() {
    let mut descriptor = descriptor();
    let late = ShardSequence::new(1 << 40);
    descriptor.set(2, BlockInfo { content: Content::Data, checksum: Checksum::new(1), version: late });
    assert_eq!(descriptor.get(2).version, late);
    assert!(descriptor.is_older_than(0, ShardSequence::new((1 << 40) - 5)));
    assert!(!descriptor.is_older_than(0, ShardSequence::new(10)), "a version at or below the base is not news");
    assert!(!descriptor.is_older_than(2, late));
}

#[test]
fn probing_names_what_is_there() {
    let blank = vec![0; PROBE_BYTES];
    assert_eq!(probe(&blank), Probe::Blank);
    let with = |offset: usize, bytes: &[u8]| {
        let mut head = blank.clone();
        head[offset..offset + bytes.len()].copy_from_slice(bytes);
        probe(&head)
    };
    let what = |probe| match probe {
        Probe::Foreign { what } => what,
        Probe::Blank | Probe::Ours { .. } => panic!("{probe:?}"),
    };
    assert!(what(with(0x438, &[0x53, 0xef])).contains("ext4"));
    assert!(what(with(0, b"XFSB")).contains("XFS"));
    assert!(what(with(0x200, b"LABELONE")).contains("LVM"));
    assert!(what(with(0x200, b"EFI PART")).contains("GPT"));
    assert!(what(with(0x1fe, &[0x55, 0xaa])).contains("MBR"));
    assert!(what(with(0x1_0040, b"_BHRfS_M")).contains("btrfs"));
    assert!(what(with(PROBE_BYTES - 1, &[1])).contains("unknown"));
    let ours = superblock().to_block(at(0));
    assert_eq!(with(0, &ours), Probe::Ours { system: SYSTEM, device: DEVICE, device_bytes: ByteCount::new(64 << 20) });
    // One copy damaged: still ours. Both: not to be formatted over without being told.
    let mut damaged = ours;
    damaged[200] ^= 1;
    assert!(matches!(with(0, &[damaged, superblock().to_block(at(1))].concat()), Probe::Ours { .. }));
    assert!(what(with(0, &damaged)).contains("damaged"));
}

#[test]
fn a_device_too_small_or_a_log_out_of_bounds_is_refused() {
    let make = |device_bytes: u64, log_blocks| {
        let options =
            FormatOptions { device_bytes: ByteCount::new(device_bytes), system: SYSTEM, device: DEVICE, boot: BootId::new(1), log_blocks };
        plan(&options).map(|plan| plan.geometry().extents())
    };
    assert!(matches!(make(1 << 20, None), Err(GeometryError::TooSmall { .. })));
    assert!(matches!(make(0, None), Err(GeometryError::TooSmall { .. })));
    assert!(matches!(make(64 << 20, Some(31)), Err(GeometryError::Log { .. })));
    assert_eq!(make(2 << 20, Some(32)), Ok(1));
    assert!(make(8 << 20, None).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn any_bytes_give_a_value_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..5000), seed in any::<u64>()) {
        let place = at(seed % 1000);
        let _ = Superblock::decode(&bytes, place);
        let _ = log_block::decode(&bytes, DEVICE, place);
        let _ = Descriptor::default().decode(&bytes, DEVICE, place);
        let _ = index_page::decode(&bytes, DEVICE, place, 0, 1, 126, |_, _| {});
        let _ = record::decode(&bytes);
        let _ = probe(&bytes);
        // The same fields behind a good checksum: the field checks must stand alone.
        if bytes.len() >= block::BYTES {
            for kind in [block::Kind::Superblock, block::Kind::Log, block::Kind::Index, block::Kind::Descriptor] {
                let mut page = bytes[..block::BYTES].to_vec();
                let device = DeviceUuid::new(u128::from_le_bytes(page[16..32].try_into().unwrap()));
                block::seal(&mut page, kind, device, place);
                let _ = Superblock::decode(&page, place);
                let _ = log_block::decode(&page, device, place);
                let _ = Descriptor::default().decode(&page, device, place);
                let _ = index_page::decode(&page, device, place, 0, 1, 126, |_, _| {});
            }
        }
    }

    #[test]
    fn any_flip_of_a_metadata_block_is_noticed(bit in 0..4096_usize * 8) {
        let flip = |mut block: Block| {
            block[bit / 8] ^= 1 << (bit % 8);
            block
        };
        prop_assert!(Superblock::decode(&flip(superblock().to_block(at(0))), at(0)).is_err());
        prop_assert!(log_block::decode(&flip(log_block()), DEVICE, at(3)).is_err());
        prop_assert!(Descriptor::default().decode(&flip(descriptor_page()), DEVICE, at(40)).is_err());
        let index = index_page::decode(&flip(index_page()), DEVICE, at(20), 0, 5, 126, |_, _| ());
        prop_assert!(index.is_err());
    }

    #[test]
    fn superblocks_round_trip(sequence in any::<u64>(), incarnation in any::<u64>(), lsn in any::<u64>(), mib in 4..100_000_u64, b in any::<bool>()) {
        let geometry = Geometry::for_device(ByteCount::new(mib << 20), 256).unwrap();
        let index_home = if b { Home::B } else { Home::A };
        let superblock = Superblock { sequence, incarnation, checkpoint_lsn: lsn, geometry, index_home, ..superblock() };
        prop_assert_eq!(Superblock::decode(&superblock.to_block(at(1)), at(1)), Ok(superblock));
    }

    #[test]
    fn descriptors_round_trip(blocks in proptest::collection::vec((any::<u8>(), 0..4_u8, any::<u32>(), 1..1_u64 << 48), 0..300), lsn in any::<u64>()) {
        let mut descriptor = Descriptor::default();
        for (block, content, checksum, sequence) in blocks {
            let content = [Content::Unwritten, Content::Zero, Content::Data, Content::Unreadable][usize::from(content)];
            descriptor.set(block, BlockInfo { content, checksum: Checksum::new(checksum), version: ShardSequence::new(sequence) });
            prop_assert_eq!(descriptor.get(block).checksum, Checksum::new(checksum));
        }
        let header = PageHeader { slot: 3, key: key(4, 5), lsn };
        let mut bytes = [0; block::BYTES];
        let written = descriptor.encode(&header, &mut bytes, DEVICE, at(9));
        let mut back = Descriptor::default();
        prop_assert_eq!(back.decode(&bytes, DEVICE, at(9)), Ok((header, written)));
        prop_assert_eq!(back, descriptor);
    }

    #[test]
    fn index_entries_round_trip(entries in proptest::collection::vec(proptest::option::of((any::<u32>(), any::<u32>(), any::<Option<(bool, u64, u32)>>(), any::<bool>(), any::<bool>())), 1..=126)) {
        let entries: Vec<Option<IndexEntry>> = entries
            .into_iter()
            .map(|entry| entry.map(|(tree, extent, page, unsettled, damaged)| IndexEntry {
                key: key(tree, extent),
                page: page.map(|(b, lsn, checksum)| PageName {
                    home: if b { Home::B } else { Home::A },
                    lsn,
                    checksum: Checksum::new(checksum),
                }),
                unsettled,
                damaged,
            }))
            .collect();
        let count = entries.len() as u32;
        let mut bytes = [0; block::BYTES];
        index_page::start(&mut bytes, 8, 2, count);
        for (place, entry) in (0..).zip(&entries) {
            if let Some(entry) = entry {
                index_page::put_entry(&mut bytes, place, entry);
            }
        }
        index_page::finish(&mut bytes, DEVICE, at(7));
        let mut back = Vec::new();
        index_page::decode(&bytes, DEVICE, at(7), 8, 2, count, |_, entry| back.push(entry)).unwrap();
        prop_assert_eq!(back, entries);
    }

    #[test]
    fn records_round_trip(slot in any::<u32>(), first in 0..225_u8, sums in proptest::collection::vec(any::<u32>(), 1..=31), sequence in any::<u64>()) {
        let mut list = ChecksumList::EMPTY;
        sums.iter().for_each(|sum| list.push(Checksum::new(*sum)));
        let mut bytes = Vec::new();
        record::put_written(&mut bytes, slot, BlockIndex::new(first), version(sequence), &list);
        let length = bytes.len();
        prop_assert!(length <= record::RECORD_BYTES_MAX);
        let (record, rest) = record::decode(&bytes).unwrap();
        prop_assert!(rest.is_empty());
        let Record::Written { slot: slot_back, first: first_back, version: version_back, checksums } = record else { panic!("{record:?}") };
        prop_assert_eq!((slot_back, first_back.get(), version_back), (slot, first, version(sequence)));
        prop_assert_eq!(checksums.iter().map(Checksum::get).collect::<Vec<_>>(), sums);
        // Any shorter piece of it is a fault, not a panic.
        for cut in 0..length {
            prop_assert!(record::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn regions_do_not_overlap(bytes in (2_u64 << 20)..(1 << 46), log in 32..4096_u32) {
        if let Ok(geometry) = Geometry::for_device(ByteCount::new(bytes), log) {
            let last = geometry.extents() - 1;
            let pages = geometry.index_pages();
            let order = [
                geometry.superblock(0), geometry.superblock(1), geometry.log_position(0), geometry.log_position(log - 1),
                geometry.index_page(Home::A, 0), geometry.index_page(Home::B, 0), geometry.descriptor_pair(0),
                geometry.descriptor(0, Home::B), geometry.data(0, BlockIndex::new(0)), geometry.data(last, BlockIndex::new(255)),
                geometry.superblock(2), geometry.superblock(3),
            ];
            prop_assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", order);
            prop_assert!(geometry.index_page(Home::A, pages - 1) < geometry.index_page(Home::B, 0));
            prop_assert!(geometry.index_page(Home::B, pages - 1) < geometry.descriptor_pair(0));
            prop_assert!(geometry.descriptor(last, Home::B) < geometry.data(0, BlockIndex::new(0)));
            prop_assert!(geometry.superblock(3).get() + 4096 <= bytes);
            // No room for another extent is left.
            let left = geometry.superblock(2).get() - geometry.data(last, BlockIndex::new(255)).get();
            prop_assert!(left < 262 * 4096, "{left} bytes unused");
        }
    }
}
