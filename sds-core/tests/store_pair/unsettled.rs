//! Single behaviours of a store with an extent that is not settled.
//!
//! What this must not know: another copy.

use crate::copies::{Copy, Steps};
use crate::histories::{FIRST_BOOT, Start, pair_options, resolve, start};
use crate::images::Crash;
use crate::store_rig::*;
use sds_core::checksum::Checksum;
use sds_core::exchange::PlanEntry;
use sds_core::format::descriptor::Content;
use sds_core::id::ShardSequence;
use sds_core::store::interface::*;

fn after_a_process_died(disk: Disk) -> Copy {
    Copy::open(disk, Crash::Process, FIRST_BOOT).unwrap()
}

fn plan_of(first: PlanEntry) -> Box<[PlanEntry; 256]> {
    let mut plan = Box::new([PlanEntry::AsRecorded; 256]);
    plan[0] = first;
    plan
}

#[test]
fn a_quarantined_block_is_unreadable_until_it_is_written() {
    let mut node = start(Start::Closed);
    node.rig.write(key(0), 0, &fill(1), 50).unwrap();
    let mut copy = after_a_process_died(node.rig.disk);
    assert!(copy.listed().unwrap().unsettled);
    copy.take_plan(&plan_of(PlanEntry::Quarantined(ShardSequence::new(2000))), &mut Steps::all());
    copy.rig.disk.cut(|_, _| 0);
    let mut rig = Rig::open(copy.rig.disk, pair_options(3));
    assert_eq!(rig.opened().unwrap().unsettled, 0);
    assert_eq!(rig.read(key(0), 0, 1), Err(StoreError::Device { errno: 5 }));
    assert_eq!(rig.read(key(0), 1, 1).unwrap(), fill(5002));
    rig.write(key(0), 0, &fill(2), 3000).unwrap();
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), fill(2));
}

/// Else it would read as zeroes.
#[test]
fn a_lost_block_of_an_extent_that_was_never_there_is_unreadable() {
    let mut copy = after_a_process_died(start(Start::Fresh).rig.disk);
    copy.take_plan(&plan_of(PlanEntry::AsRecorded), &mut Steps::all());
    assert_eq!(copy.listed(), None, "a plan that loses nothing needs no place");
    copy.take_plan(&plan_of(PlanEntry::Quarantined(ShardSequence::new(2000))), &mut Steps::all());
    copy.rig.disk.cut(|_, _| 0);
    let mut rig = Rig::open(copy.rig.disk, pair_options(3));
    assert_eq!(rig.read(key(0), 0, 1), Err(StoreError::Device { errno: 5 }));
    assert_eq!(rig.read(key(0), 1, 1).unwrap(), zeroes());
}

#[test]
fn an_unsettled_extent_stays_so_through_a_clean_stop_and_others_serve() {
    let mut node = start(Start::Fresh);
    node.rig.write(key(0), 0, &fill(1), 50).unwrap();
    let mut copy = after_a_process_died(node.rig.disk);
    copy.rig.write(key(1), 0, &fill(9), 51).unwrap();
    copy.write(1, &fill(3), 52, Bond::Settling, &mut Steps::all());
    copy.rig.rest();
    assert_eq!(copy.rig.store.statistics().active_extents, 1, "what came from the other copy is not sealed before its plan");
    copy.rig.bond = Bond::None;
    assert_eq!(copy.rig.zero(key(0), 0, 1, 60, false), Err(StoreError::Unsettled));
    copy.rig.close().unwrap();
    let mut copy = after_a_process_died(copy.rig.disk);
    assert!(copy.listed().unwrap().unsettled);
    let (list, _) = copy.blocks().unwrap();
    assert_eq!(
        [list[0], list[1]].map(|entry| (entry.info.content, entry.bytes_held())),
        [(Content::Data, Some(Checksum::of(&fill(1)))), (Content::Data, Some(Checksum::of(&fill(3))))]
    );
    assert_eq!(copy.rig.read(key(1), 0, 1).unwrap(), fill(9));
    copy.take_plan(&plan_of(PlanEntry::AsRecorded), &mut Steps::all());
    assert_eq!(copy.rig.read(key(0), 1, 1).unwrap(), fill(3));
}

#[test]
fn what_was_active_when_the_other_copy_went_is_in_question_until_it_is_compared() {
    let mut node = start(Start::Closed);
    node.rig.write(key(0), 0, &fill(1), 50).unwrap();
    let mut copy = Copy { rig: node.rig, lost: false };
    copy.rig.input(Input::Parted);
    resolve(&mut copy.rig, 50);
    copy.rig.rest();
    assert_eq!(copy.rig.store.statistics().active_extents, 0);
    assert!(copy.listed().unwrap().unsettled, "sealed or not");
    copy.rig.input(Input::Compared { key: key(0) });
    assert!(!copy.listed().unwrap().unsettled);
}
