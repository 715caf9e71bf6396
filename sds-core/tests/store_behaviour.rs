//! What a store does for its users, on a disk in memory.
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "a test's own small numbers")]

mod store_rig;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::Checksum;
use sds_core::exchange::{BLOCK_ENTRY_BYTES, BLOCKS_BYTES, BlockEntry, EXTENT_ENTRY_BYTES, ExtentEntry};
use sds_core::exchange::{PLAN_BYTES, PLAN_ENTRY_BYTES, PlanEntry};
use sds_core::format::Geometry;
use sds_core::format::descriptor::Content;
use sds_core::format::geometry::Home;
use sds_core::id::ShardSequence;
use sds_core::store::interface::*;
use sds_core::unit::*;
use store_rig::*;

const MIB: u64 = 1 << 20;

fn fresh(device_bytes: u64, log_blocks: u32) -> Rig {
    Rig::open(formatted(device_bytes, log_blocks), options(device_bytes))
}

#[test]
fn what_was_written_is_read_and_the_rest_is_zero() {
    let mut rig = fresh(8 * MIB, 64);
    assert!(rig.store.is_open());
    rig.write(key(3), 5, &fill(1), 1).unwrap();
    assert_eq!(rig.read(key(3), 4, 3).unwrap(), [zeroes(), fill(1), zeroes()].concat());
    assert_eq!(rig.read(key(9), 0, 1).unwrap(), zeroes());
    assert_eq!(rig.pool.in_use, 0, "every buffer is given back");
}

#[test]
fn a_closed_store_opens_with_everything_and_nothing_unsettled() {
    let mut rig = fresh(8 * MIB, 64);
    for extent in 0..4 {
        rig.write(key(extent), extent as u8, &fill(u64::from(extent)), 1 + u64::from(extent)).unwrap();
    }
    rig.zero(key(2), 2, 1, 10, false).unwrap();
    rig.close().unwrap();
    assert!(!rig.store.is_open());
    let mut rig = Rig::open(rig.disk, options(8 * MIB));
    assert_eq!(rig.opened().unwrap().unsettled, 0);
    assert_eq!(rig.read(key(1), 1, 1).unwrap(), fill(1));
    assert_eq!(rig.read(key(2), 2, 1).unwrap(), zeroes());
    assert_eq!(rig.store.statistics().capacity.used.get(), 4 * MIB);
    assert_eq!(rig.pool.in_use, 0);
}

#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    let mut rig = fresh(8 * MIB, 64);
    for round in 0..50_u64 {
        rig.write(key((round % 3) as u32), (round % 7) as u8, &fill(round), 1 + round).unwrap();
    }
    let mut rig = Rig::open(rig.disk, options(8 * MIB));
    assert!(rig.opened().unwrap().unsettled > 0);
    for (extent, block) in (0..3_u64).flat_map(|extent| (0..7_u64).map(move |block| (extent, block))) {
        let newest = (0..50_u64).rev().find(|round| round % 3 == extent && round % 7 == block).unwrap();
        assert_eq!(rig.read(key(extent as u32), block as u8, 1).unwrap(), fill(newest));
    }
    assert_eq!(rig.store.statistics().faults, Default::default());
}

#[test]
fn a_quiet_device_seals_its_extents() {
    let mut rig = fresh(8 * MIB, 64);
    rig.write(key(0), 0, &fill(1), 1).unwrap();
    assert_eq!(rig.store.statistics().active_extents, 1);
    rig.rest();
    assert_eq!(rig.store.statistics().active_extents, 0);
    let mut rig = Rig::open(rig.disk, options(8 * MIB));
    assert_eq!(rig.opened().unwrap().unsettled, 0);
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), fill(1));
}

#[test]
fn the_log_wraps_under_load_and_checkpoints_behind_it() {
    let mut rig = fresh(16 * MIB, 32);
    for round in 0..2000_u64 {
        rig.write(key((round % 11) as u32), (round % 13) as u8, &fill(round), 1 + round).unwrap();
    }
    let mut rig = Rig::open(rig.disk, options(16 * MIB));
    for (extent, block) in (0..11_u64).flat_map(|extent| (0..13_u64).map(move |block| (extent, block))) {
        let newest = (0..2000_u64).rev().find(|round| round % 11 == extent && round % 13 == block).unwrap();
        assert_eq!(rig.read(key(extent as u32), block as u8, 1).unwrap(), fill(newest));
    }
}

#[test]
fn dirty_descriptors_wait_for_the_log_while_each_has_a_frame() {
    let mut rig = fresh(8 * MIB, 64);
    let before = rig.store.statistics().metadata_writes;
    let extents = rig.store.statistics().capacity.total.get() / MIB;
    for extent in 0..extents {
        rig.write(key(extent as u32), 0, &fill(extent), 1 + extent).unwrap();
    }
    assert_eq!(rig.store.statistics().metadata_writes, before, "no frame can run short, and the log is nowhere near full");
}

#[test]
fn a_full_device_refuses_first_writes_and_takes_them_after_a_trim() {
    let mut rig = fresh(4 * MIB, 32);
    let extents = rig.store.statistics().capacity.total.get() / MIB;
    for extent in 0..extents as u32 {
        rig.write(key(extent), 0, &fill(u64::from(extent)), 1 + u64::from(extent)).unwrap();
    }
    assert_eq!(rig.write(key(99), 0, &fill(1), 100), Err(StoreError::NoSpace));
    assert_eq!(rig.read(key(1), 0, 1).unwrap(), fill(1));
    rig.zero(key(1), 0, 256, 101, true).unwrap();
    assert_eq!(rig.store.statistics().capacity.reclaimable.get(), MIB);
    rig.write(key(99), 7, &fill(5), 102).unwrap();
    assert_eq!(rig.read(key(99), 0, 1).unwrap(), zeroes(), "a former owner's bytes are never seen");
    assert_eq!(rig.read(key(1), 0, 1).unwrap(), zeroes());
    let mut rig = Rig::open(rig.disk, options(4 * MIB));
    assert_eq!(rig.read(key(99), 7, 1).unwrap(), fill(5));
    assert_eq!(rig.read(key(99), 0, 1).unwrap(), zeroes());
}

#[test]
fn freeing_a_tree_gives_back_all_its_extents() {
    let mut rig = fresh(8 * MIB, 32);
    for extent in 0..5 {
        rig.write(key(extent), 0, &fill(u64::from(extent)), 1 + u64::from(extent)).unwrap();
    }
    let other = ExtentKey { tree: sds_core::id::TreeId::new(8), ..key(0) };
    rig.write(other, 0, &fill(77), 9).unwrap();
    let token = rig.request(Request::FreeTree { tree: key(0).tree });
    rig.drain();
    assert_eq!(rig.reply(token), Ok(Outcome::Done));
    assert_eq!(rig.store.statistics().capacity.used.get(), MIB);
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), zeroes());
    assert_eq!(rig.read(other, 0, 1).unwrap(), fill(77));
}

#[test]
fn a_flipped_byte_in_a_sealed_extent_is_an_error_for_that_block_only() {
    let mut rig = fresh(8 * MIB, 32);
    rig.write(key(0), 0, &[fill(1), fill(2)].concat(), 1).unwrap();
    rig.close().unwrap();
    let mut disk = rig.disk;
    let piece = disk.pieces().into_iter().find(|piece| disk.get_durable(*piece).unwrap()[..] == fill(1)[..]).unwrap();
    assert!(disk.flip(piece, 100));
    let mut rig = Rig::open(disk, options(8 * MIB));
    assert!(matches!(rig.read(key(0), 0, 1), Err(StoreError::Mismatch { block: 0, .. })));
    assert_eq!(rig.read(key(0), 1, 1).unwrap(), fill(2));
    assert_eq!(rig.store.statistics().faults.data_mismatches, 1);
    rig.write(key(0), 0, &fill(3), 5).unwrap();
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), fill(3), "a rewrite heals it");
}

#[test]
fn a_failed_data_write_leaves_that_block_unreadable_and_the_device_serving() {
    let mut rig = fresh(8 * MIB, 32);
    rig.write(key(0), 0, &[fill(1), fill(2)].concat(), 1).unwrap();
    let geometry = Geometry::for_device(ByteCount::new(8 * MIB), 32).unwrap();
    rig.fail_write = Some((geometry.data(0, BlockIndex::new(0)).get(), u64::MAX, 5));
    assert_eq!(rig.write(key(0), 1, &fill(3), 2), Err(StoreError::Device { errno: 5 }));
    rig.fail_write = None;
    assert_eq!(rig.read(key(0), 1, 1), Err(StoreError::Device { errno: 5 }));
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), fill(1));
    rig.write(key(0), 1, &fill(4), 3).unwrap();
    assert_eq!(rig.read(key(0), 1, 1).unwrap(), fill(4));
}

/// The slot had another owner before, whose bytes still lie there.
#[test]
fn a_failed_first_write_stays_unreadable_after_a_crash() {
    let mut rig = fresh(8 * MIB, 32);
    rig.write(key(0), 0, &fill(7), 1).unwrap();
    rig.zero(key(0), 0, 256, 2, true).unwrap();
    rig.flush().unwrap();
    let geometry = Geometry::for_device(ByteCount::new(8 * MIB), 32).unwrap();
    for extent in 1..geometry.extents() {
        rig.write(key(extent), 0, &fill(u64::from(extent)), u64::from(2 + extent)).unwrap();
    }
    // The last free slot is that of the former owner.
    let data = geometry.data(0, BlockIndex::new(0)).get();
    rig.fail_write = Some((data, data + u64::from(geometry.extents()) * MIB, 5));
    assert_eq!(rig.write(key(100), 0, &fill(8), 100), Err(StoreError::Device { errno: 5 }));
    rig.fail_write = None;
    rig.write(key(1), 1, &fill(9), 101).unwrap();
    let mut rig = Rig::open(rig.disk, options(8 * MIB));
    assert_eq!(rig.read(key(100), 0, 1), Err(StoreError::Device { errno: 5 }), "neither the former owner's bytes nor zeroes");
    rig.write(key(100), 0, &fill(10), 102).unwrap();
    assert_eq!(rig.read(key(100), 0, 1).unwrap(), fill(10));
}

#[test]
fn an_unreadable_sector_in_a_descriptor_page_costs_that_extent_only() {
    let mut rig = fresh(8 * MIB, 32);
    for extent in 0..3 {
        rig.write(key(extent), 0, &fill(u64::from(extent)), u64::from(1 + extent)).unwrap();
    }
    rig.close().unwrap();
    let geometry = Geometry::for_device(ByteCount::new(8 * MIB), 32).unwrap();
    let mut readable = 0;
    for home in [Home::A, Home::B] {
        for unsettled in [false, true] {
            let mut rig = Rig::open(rig.disk.clone(), options(8 * MIB));
            if unsettled {
                rig.write(key(1), 1, &fill(9), 9).unwrap();
            }
            let place = geometry.descriptor(1, home).get();
            let mut rig = Rig::new(rig.disk, options(8 * MIB));
            rig.fail_read = Some((place, place + 1, 5));
            rig.start();
            assert!(rig.store.is_open(), "the device goes on");
            assert_eq!(rig.read(key(0), 0, 1).unwrap(), fill(0));
            assert_eq!(rig.read(key(2), 0, 1).unwrap(), fill(2));
            match rig.read(key(1), 0, 1) {
                Ok(bytes) => {
                    assert_eq!(bytes, fill(1));
                    readable += u32::from(!unsettled);
                }
                Err(error) => assert!(matches!(error, StoreError::Descriptor | StoreError::Device { errno: 5 }), "{error}"),
            }
        }
    }
    assert_eq!(readable, 1, "in the home that the index does not name the sector does not matter");
}

#[test]
fn a_failed_log_write_ends_the_devices_life() {
    let mut rig = fresh(8 * MIB, 32);
    rig.write(key(0), 0, &fill(1), 1).unwrap();
    rig.fail_write = Some((0, 34 * 4096, 5));
    assert_eq!(rig.write(key(0), 1, &fill(3), 2), Err(StoreError::Device { errno: 5 }));
    assert!(rig.events.contains(&Event::DeviceFailed { errno: 5 }));
    assert_eq!(rig.read(key(0), 0, 1), Err(StoreError::Device { errno: 5 }));
    assert_eq!(rig.pool.in_use, 0);
}

#[test]
fn a_log_block_that_could_not_be_written_is_not_told_to_be_on_the_medium() {
    let mut rig = fresh(8 * MIB, 32);
    rig.write(key(0), 0, &fill(1), 1).unwrap();
    let flushed = rig.store.statistics().flushed;
    rig.fail_write = Some((0, 34 * 4096, 5));
    let token = rig.request(Request::ReserveSequence { ceiling: ShardSequence::new(1 << 30) });
    rig.drain();
    assert_eq!(rig.reply(token), Err(StoreError::Device { errno: 5 }));
    assert_eq!(rig.store.statistics().flushed, flushed, "or the device would be held to have forgotten it (I13)");
}

#[test]
fn a_flush_makes_everything_acknowledged_survive_a_power_cut() {
    let mut rig = fresh(8 * MIB, 32);
    for block in 0..20_u8 {
        rig.write(key(0), block, &fill(u64::from(block)), 1 + u64::from(block)).unwrap();
    }
    rig.flush().unwrap();
    rig.write(key(0), 3, &fill(333), 50).unwrap();
    rig.disk.cut(|_, _| 0);
    let mut later = options(8 * MIB);
    later.boot = sds_core::id::BootId::new(2);
    let mut rig = Rig::open(rig.disk, later);
    assert!(rig.opened().unwrap().power_lost);
    for block in 0..20_u8 {
        assert_eq!(rig.read(key(0), block, 1).unwrap(), fill(u64::from(block)));
    }
}

#[test]
fn a_durable_zero_outlives_a_power_cut_where_a_trim_before_it_freed_the_extent() {
    let mut rig = fresh(8 * MIB, 32);
    rig.write(key(0), 0, &fill(1), 1).unwrap();
    rig.flush().unwrap();
    rig.zero(key(0), 0, 256, 2, true).unwrap();
    let range = BlockRange { first: BlockIndex::new(0), count: 1 };
    let token = rig.request(Request::Zero { key: key(0), range, version: version(3), free: false, durable: true, bond: Bond::None });
    rig.drain();
    rig.reply(token).unwrap();
    rig.disk.cut(|_, _| 0);
    let mut rig = Rig::open(rig.disk, StoreOptions { boot: sds_core::id::BootId::new(2), ..options(8 * MIB) });
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), zeroes());
}

#[test]
fn a_durable_write_survives_a_power_cut_without_a_flush() {
    let mut rig = fresh(8 * MIB, 32);
    for sequence in 1..4 {
        let token = rig.send_write(key(0), 1, &fill(sequence), sequence, true);
        rig.drain();
        rig.reply(token).unwrap();
    }
    rig.disk.cut(|_, _| 0);
    let mut rig = Rig::open(rig.disk, StoreOptions { boot: sds_core::id::BootId::new(2), ..options(8 * MIB) });
    assert_eq!(rig.read(key(0), 1, 1).unwrap(), fill(3));
}

#[test]
fn a_device_that_forgot_a_durable_write_is_told_from_one_that_did_not() {
    let mut rig = fresh(8 * MIB, 64);
    rig.write(key(0), 0, &fill(1), 1).unwrap();
    rig.flush().unwrap();
    let before = rig.disk.clone();
    let token = rig.send_write(key(0), 0, &fill(2), 2, true);
    rig.drain();
    rig.reply(token).unwrap();
    let flushed = rig.store.statistics().flushed;
    rig.disk.cut(|_, _| 0);
    let kept = Rig::open(rig.disk, options(8 * MIB)).store.statistics().log_end;
    let forgot = Rig::open(before, options(8 * MIB)).store.statistics().log_end;
    assert!(kept >= flushed && forgot < flushed, "I13: it tells {flushed:?}, and comes back with {kept:?} or {forgot:?}");
}

#[test]
fn sequences_stay_below_a_reserved_ceiling_after_a_power_cut() {
    let mut rig = fresh(8 * MIB, 32);
    let ceiling = ShardSequence::new(1 << 30);
    let token = rig.request(Request::ReserveSequence { ceiling });
    rig.drain();
    rig.reply(token).unwrap();
    rig.disk.cut(|_, _| 0);
    let rig = Rig::open(rig.disk, options(8 * MIB));
    assert_eq!(rig.opened().unwrap().sequence_ceiling, ceiling);
}

fn room(rig: &mut Rig, bytes: u32) -> Span {
    Span::whole(rig.pool.allocate(BufferClass::Replicate, bytes).unwrap(), bytes)
}

#[test]
fn a_held_extent_is_not_sealed_before_its_last_write_is_resolved() {
    let mut rig = fresh(8 * MIB, 64);
    rig.bond = Bond::Held;
    rig.write(key(0), 0, &fill(1), 1).unwrap();
    rig.write(key(0), 1, &fill(2), 2).unwrap();
    rig.bond = Bond::None;
    rig.write(key(1), 0, &fill(3), 3).unwrap();
    rig.rest();
    assert_eq!(rig.store.statistics().active_extents, 1, "the other one is sealed");
    assert_eq!(rig.store.deadline(), None, "nothing is due while it is held");
    assert_eq!(Rig::open(rig.disk.clone(), options(8 * MIB)).opened().unwrap().unsettled, 1);
    rig.input(Input::Resolved { key: key(0), version: version(1) });
    rig.input(Input::Resolved { key: key(5), version: version(1) });
    rig.rest();
    assert_eq!(rig.store.statistics().active_extents, 1, "its last write is not resolved");
    rig.input(Input::Resolved { key: key(0), version: version(2) });
    rig.rest();
    assert_eq!(rig.store.statistics().active_extents, 0);
    assert_eq!(Rig::open(rig.disk.clone(), options(8 * MIB)).opened().unwrap().unsettled, 0);
}

#[test]
fn closing_leaves_unsettled_what_the_other_copy_may_lack() {
    let mut rig = fresh(8 * MIB, 64);
    rig.bond = Bond::Held;
    for extent in 0..3 {
        rig.write(key(extent), 0, &fill(1), 1).unwrap();
    }
    rig.input(Input::Resolved { key: key(1), version: version(1) });
    rig.close().unwrap();
    assert_eq!(Rig::open(rig.disk, options(8 * MIB)).opened().unwrap().unsettled, 2);
}

#[test]
fn a_plan_outlives_a_crash_whatever_else_was_being_written() {
    let mut rig = fresh(8 * MIB, 64);
    rig.write(key(0), 0, &fill(1), 1).unwrap();
    rig.write(key(1), 0, &fill(2), 2).unwrap();
    // A slow write to another extent holds back what an image of a page may state.
    let slow = rig.send_write(key(1), 1, &fill(3), 3, false);
    let is_slow = |rig: &Rig, sent: &Sent| rig.pieces_of(sent).iter().any(|(_, piece)| piece[..] == fill(3)[..]);
    let complete_others = |rig: &mut Rig| {
        while let Some(index) = rig.sent.iter().position(|sent| !is_slow(rig, sent)) {
            rig.complete(index);
        }
        rig.now = rig.now.plus(Nanos::from_millis(1));
        rig.input(Input::Wake);
        rig.sent.iter().all(|sent| is_slow(rig, sent))
    };
    // What a joiner is given has the version of the newest block among it; the plan that follows says which is whose.
    let copied = rig.send_write(key(0), 0, &fill(4), 9, false);
    while !complete_others(&mut rig) {}
    rig.reply(copied).unwrap();
    let span = room(&mut rig, PLAN_BYTES);
    let mut plan = [PlanEntry::AsRecorded; 256];
    plan[0] = PlanEntry::Data(ShardSequence::new(5), Checksum::of(&fill(4)));
    for (entry, place) in plan.iter().zip(rig.pool.bytes_mut(span).chunks_mut(PLAN_ENTRY_BYTES as usize)) {
        entry.encode(place);
    }
    let settled = rig.request(Request::Settle { key: key(0), span });
    while !complete_others(&mut rig) {}
    if !rig.replies.contains_key(&settled) {
        rig.drain();
        rig.reply(slow).unwrap();
    }
    assert_eq!(rig.reply(settled), Ok(Outcome::Done));
    let mut again = Rig::open(rig.disk, options(8 * MIB));
    let span = room(&mut again, BLOCKS_BYTES);
    let token = again.request(Request::Blocks { key: key(0), span });
    again.drain();
    assert_eq!(again.reply(token), Ok(Outcome::Blocks { held: true }));
    let first = BlockEntry::decode(&again.pool.bytes(span)[..BLOCK_ENTRY_BYTES as usize]).unwrap();
    assert_eq!(first.info.version.get(), 5, "not the version of a record that the plan has replaced");
}

#[test]
fn extents_are_listed_a_bounded_part_at_a_time() {
    let mut rig = fresh(16 * MIB, 64);
    for extent in 0..5 {
        rig.write(key(extent), 7, &fill(1), 10 + u64::from(extent)).unwrap();
    }
    let span = room(&mut rig, 2 * EXTENT_ENTRY_BYTES);
    let mut found = Vec::new();
    let mut from = Some(0);
    while let Some(slot) = from {
        let token = rig.request(Request::Extents { from: slot, span });
        let Ok(Outcome::Extents { count, next }) = rig.reply(token) else { panic!("a list") };
        assert!(count <= 2);
        for bytes in rig.pool.bytes(span).chunks(EXTENT_ENTRY_BYTES as usize).take(count as usize) {
            found.push(ExtentEntry::decode(bytes).unwrap());
        }
        from = next;
    }
    let newest = |entry: &ExtentEntry| entry.newest.unwrap().get();
    assert_eq!(
        found.iter().map(|entry| (entry.key.extent.get(), newest(entry))).collect::<Vec<_>>(),
        [(0, 10), (1, 11), (2, 12), (3, 13), (4, 14)]
    );
    rig.pool.release(span.buffer);
}

#[test]
fn the_blocks_of_an_extent_are_told_with_state_version_and_checksum() {
    let mut rig = fresh(8 * MIB, 64);
    rig.write(key(0), 3, &fill(1), 10).unwrap();
    rig.write(key(0), 4, &fill(2), 11).unwrap();
    rig.zero(key(0), 4, 1, 12, false).unwrap();
    let span = room(&mut rig, BLOCKS_BYTES);
    let token = rig.request(Request::Blocks { key: key(0), span });
    rig.drain();
    assert_eq!(rig.reply(token), Ok(Outcome::Blocks { held: true }));
    let entries: Vec<BlockEntry> =
        rig.pool.bytes(span).chunks(BLOCK_ENTRY_BYTES as usize).map(|bytes| BlockEntry::decode(bytes).unwrap()).collect();
    assert_eq!(entries.len(), 256);
    let told = |block: usize| (entries[block].info.content, entries[block].info.version.get(), entries[block].bytes_held());
    assert_eq!(told(2), (Content::Unwritten, 0, Some(Checksum::ZERO_BLOCK)));
    assert_eq!(told(3), (Content::Data, 10, Some(Checksum::of(&fill(1)))));
    assert_eq!(told(4), (Content::Zero, 12, Some(Checksum::ZERO_BLOCK)));
    let token = rig.request(Request::Blocks { key: key(9), span });
    assert_eq!(rig.reply(token), Ok(Outcome::Blocks { held: false }));
    rig.pool.release(span.buffer);
}

#[test]
fn a_freed_extent_stays_freed_after_a_flush_and_a_power_cut() {
    let mut rig = fresh(8 * MIB, 64);
    rig.write(key(0), 0, &fill(1), 1).unwrap();
    rig.write(key(1), 0, &fill(2), 2).unwrap();
    for extent in [0, 6] {
        let token = rig.request(Request::FreeExtent { key: key(extent) });
        rig.drain();
        assert_eq!(rig.reply(token), Ok(Outcome::Done), "also one that is not there");
    }
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), zeroes());
    rig.flush().unwrap();
    rig.disk.cut(|_, _| 0);
    let mut rig = Rig::open(rig.disk, StoreOptions { boot: sds_core::id::BootId::new(2), ..options(8 * MIB) });
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), zeroes());
    assert_eq!(rig.read(key(1), 0, 1).unwrap(), fill(2));
    assert_eq!(rig.store.statistics().capacity.used.get(), MIB);
}

#[expect(clippy::cast_precision_loss, reason = "a ratio of small counts")]
fn amplification(depth: u64, rounds: u64, extents: u64, device: u64) -> f64 {
    let mut rig = Rig::open(formatted(device, Geometry::log_blocks_default(ByteCount::new(device))), options(device));
    let mut sequence = 0;
    let mut random = 12345_u64;
    // The extents exist before: preallocated, as a volume in use is.
    for extent in 0..extents {
        sequence += 1;
        rig.write(key(extent as u32), 255, &fill(1), sequence).unwrap();
    }
    let before = rig.disk.writes;
    let mut waiting: Vec<(u64, (u64, u64))> = Vec::new();
    let mut done = 0;
    while done < rounds {
        while (waiting.len() as u64) < depth {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = ((random >> 33) % extents, (random >> 20) % 255);
            if waiting.iter().any(|(_, other)| *other == place) {
                continue;
            }
            sequence += 1;
            let token = rig.send_write(key(place.0 as u32), place.1 as u8, &fill(sequence), sequence, false);
            waiting.push((token, place));
        }
        // Each disk request takes as long as any other.
        let turn = rig.sent.len();
        for _ in 0..turn {
            rig.complete(0);
        }
        rig.now = rig.now.plus(Nanos::from_micros(60));
        if turn == 0 || rig.store.deadline().is_some_and(|due| due <= rig.now) {
            rig.now = rig.now.max(rig.store.deadline().unwrap_or(rig.now));
            rig.input(Input::Wake);
        }
        waiting.retain(|(token, _)| {
            let replied = rig.replies.contains_key(token);
            if replied {
                rig.reply(*token).unwrap();
                done += 1;
            }
            !replied
        });
    }
    (rig.disk.writes - before) as f64 / done as f64
}

#[test]
fn write_amplification_is_at_most_two_and_a_tenth_alone_and_a_quarter_over_one_in_company() {
    let alone = amplification(1, 6000, 16, 64 * MIB);
    let company = amplification(16, 30000, 16, 64 * MIB);
    let crowd = amplification(64, 30000, 16, 64 * MIB);
    println!("writes per write: depth 1 {alone:.3}, depth 16 {company:.3}, depth 64 {crowd:.3}");
    assert!(alone <= 2.1, "depth 1: {alone}");
    assert!(company <= 1.25, "depth 16: {company}");
    assert!(crowd <= 1.25, "depth 64: {crowd}");
}
