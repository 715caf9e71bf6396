//! Two storage nodes of which one has a disk that does not answer.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod pair_rig;
mod replica_rig;

use pair_rig::user::User;
use pair_rig::{Pair, member};
use replica_rig::ALICE;
use sds_core::control::DeviceState;
use sds_core::error::Status;
use sds_core::id::ConnectionNumber;
use sds_core::replica::interface::{Event, ReplicaOptions};
use sds_core::unit::*;
use sds_core::wire::{Header, Opcode};

const MS: fn(u64) -> Nanos = Nanos::from_millis;
const HANG: Nanos = ReplicaOptions::DISK_HANG_DEFAULT;

/// A clean pair with something on it.
fn written() -> (Pair, User) {
    let mut pair = Pair::governed();
    let mut user = User::default();
    for block in 0..6 {
        (0..4).for_each(|extent| user.write(&mut pair, extent, block));
        pair.run();
        user.collect(&mut pair);
    }
    pair.run_for(MS(2500));
    (pair, user)
}

fn is_hung(pair: &Pair, at: usize) -> bool {
    pair.nodes[at].replica.devices()[0].state == DeviceState::Hung
}

fn said(pair: &Pair, at: usize, wanted: bool) -> bool {
    pair.nodes[at].events.iter().any(|event| matches!(event, Event::DeviceHung { hung, .. } if *hung == wanted))
}

#[test]
fn a_secondary_whose_disk_hangs_leaves_and_returns() {
    let (mut pair, mut user) = written();
    pair.hung[1] = true;
    (0..4).for_each(|extent| user.write(&mut pair, extent, 1));
    pair.run_for(Nanos::new(HANG.get() - 500_000_000));
    user.collect(&mut pair);
    assert!(user.waits() == 4 && !is_hung(&pair, 1), "within the policy it is waited for");
    pair.run_for(MS(1000));
    user.collect(&mut pair);
    assert!(user.waits() == 0 && is_hung(&pair, 1) && said(&pair, 1, true));
    assert!(pair.governor().entries.iter().all(|entry| entry.in_sync.members() == [member(0)]));
    (0..4).for_each(|extent| user.write(&mut pair, extent, 2));
    pair.run_for(MS(100));
    user.collect(&mut pair);
    assert_eq!(user.waits(), 0);
    pair.hung[1] = false;
    pair.heal();
    assert!(said(&pair, 1, false));
    user.check_all(&mut pair);
    pair.assert_one(4);
}

#[test]
fn a_primary_whose_disk_hangs_is_replaced_by_its_secondary() {
    let (mut pair, mut user) = written();
    pair.hung[0] = true;
    (0..4).for_each(|extent| user.write(&mut pair, extent, 1));
    pair.run_for(Nanos::new(HANG.get() + 1_500_000_000));
    assert!(pair.governor().entries.iter().all(|entry| entry.in_sync.members() == [member(1)]));
    assert_eq!(user.waits(), 4, "what is at the disk is not answered");
    // As a client does: what it asked the former primary goes to the new one.
    user.forget(0);
    user.check_all(&mut pair);
    (0..4).for_each(|extent| user.write(&mut pair, extent, 2));
    pair.run_for(MS(100));
    user.collect(&mut pair);
    assert_eq!(user.waits(), 0, "served at once: the old primary has confirmed that it is none");
    pair.hung[0] = false;
    pair.heal();
    user.check_all(&mut pair);
    pair.assert_one(4);
}

#[test]
fn a_joiner_whose_disk_hangs_is_waited_for_no_longer_than_a_member() {
    for steps in 0..120 {
        let (mut pair, mut user) = written();
        pair.kill(1, false);
        pair.run_for(MS(200));
        (0..4).for_each(|extent| (0..6).for_each(|block| user.write(&mut pair, extent, block)));
        pair.run_for(MS(200));
        user.collect(&mut pair);
        pair.start(1);
        (0..steps).for_each(|_| {
            let _ = pair.step();
        });
        pair.hung[1] = true;
        (0..4).for_each(|extent| user.write(&mut pair, extent, 7));
        pair.run_for(Nanos::new(HANG.get() + 500_000_000));
        user.collect(&mut pair);
        assert_eq!(user.waits(), 0, "hung after {steps} steps");
        pair.hung[1] = false;
        pair.heal();
        user.check_all(&mut pair);
        pair.assert_one(4);
    }
}

#[test]
fn what_has_no_other_copy_waits_for_its_disk() {
    let (mut pair, mut user) = written();
    pair.kill(1, false);
    pair.run_for(MS(200));
    pair.hung[0] = true;
    user.write(&mut pair, 0, 1);
    pair.run_for(MS(30_000));
    user.collect(&mut pair);
    assert!(is_hung(&pair, 0) && user.waits() == 1, "no error while the disk may answer");
    // One that comes now waits with it.
    user.write(&mut pair, 1, 1);
    pair.run_for(MS(1000));
    user.collect(&mut pair);
    assert_eq!(user.waits(), 2);
    pair.hung[0] = false;
    pair.run_for(MS(100));
    user.collect(&mut pair);
    assert_eq!(user.waits(), 0);
    user.check_all(&mut pair);
    pair.start(1);
    pair.heal();
    pair.assert_one(4);
}

#[test]
fn links_that_break_while_a_disk_hangs_bring_nothing_back() {
    for (hung, other) in [(0, 1), (1, 0)] {
        let (mut pair, mut user) = written();
        pair.hung[hung] = true;
        (0..4).for_each(|extent| user.write(&mut pair, extent, 1));
        pair.run_for(MS(3000));
        pair.cut();
        pair.run_for(Nanos::new(HANG.get() + 3_000_000_000));
        assert!(pair.governor().entries.iter().all(|entry| entry.in_sync.members() == [member(other)]));
        user.forget(hung);
        user.forget(other);
        (0..4).for_each(|extent| user.write(&mut pair, extent, 1));
        pair.run_for(MS(500));
        user.collect(&mut pair);
        assert_eq!(user.waits(), 0);
        pair.hung[hung] = false;
        pair.heal();
        user.check_all(&mut pair);
        pair.assert_one(4);
    }
}

#[test]
fn a_disk_that_answers_before_the_mdm_decides_leaves_the_copies_one() {
    for hung in 0..2 {
        let (mut pair, mut user) = written();
        pair.governor().decides = false;
        pair.hung[hung] = true;
        (0..4).for_each(|extent| user.write(&mut pair, extent, 1));
        pair.run_for(Nanos::new(HANG.get() + 3_000_000_000));
        user.collect(&mut pair);
        assert_eq!(user.waits(), 4, "I5: nothing is acknowledged before the MDM knows");
        pair.hung[hung] = false;
        pair.run_for(MS(2000));
        pair.governor().decides = true;
        pair.run_for(MS(2000));
        user.collect(&mut pair);
        assert!(user.waits() == 0 || hung == 0, "the primary goes on");
        user.forget(hung);
        pair.heal();
        user.check_all(&mut pair);
        pair.assert_one(4);
    }
}

#[test]
fn both_disks_may_hang_and_one_stays() {
    let (mut pair, mut user) = written();
    pair.hung = [true; 2];
    (0..4).for_each(|extent| user.write(&mut pair, extent, 1));
    pair.run_for(Nanos::new(HANG.get() + 5_000_000_000));
    assert!(pair.governor().entries.iter().all(|entry| !entry.in_sync.members().is_empty()), "I7");
    pair.hung = [false; 2];
    pair.run_for(MS(3000));
    user.collect(&mut pair);
    user.forget(0);
    user.forget(1);
    pair.heal();
    user.check_all(&mut pair);
    pair.assert_one(4);
}

/// Simulator seed 22001384: the shard stayed degraded for good.
#[test]
fn the_only_copy_goes_on_bringing_a_joiner_in_when_its_disk_answers_again() {
    let (mut pair, mut user) = written();
    pair.kill(1, false);
    pair.run_for(MS(1500));
    (0..4).for_each(|extent| user.write(&mut pair, extent, 1));
    pair.run_for(MS(500));
    user.collect(&mut pair);
    assert_eq!(user.waits(), 0);
    pair.hung[0] = true;
    pair.start(1);
    pair.run_for(MS(20));
    // The MDM does not hear of it: otherwise it would begin another epoch.
    pair.governor().decides = false;
    pair.run_for(Nanos::new(HANG.get() + 1_000_000_000));
    assert!(is_hung(&pair, 0), "the sweep has asked its store");
    // What was begun is given up.
    pair.cut();
    pair.run_for(MS(500));
    pair.hung[0] = false;
    pair.run_for(MS(100));
    pair.governor().decides = true;
    pair.heal();
    user.check_all(&mut pair);
    pair.assert_one(4);
}

/// Simulator seed 28000589: a damaged block read as an error while the other copy had it.
#[test]
fn a_damaged_block_of_a_shard_that_is_being_given_up_is_for_the_other_copy_to_read() {
    let (mut pair, mut user) = written();
    pair.governor().decides = false;
    pair.hung[0] = true;
    user.write(&mut pair, 0, 1);
    pair.run_for(Nanos::new(HANG.get() + 1_000_000_000));
    assert!(is_hung(&pair, 0));
    pair.hung[0] = false;
    pair.run_for(MS(500));
    user.collect(&mut pair);
    assert!(pair.nodes[0].disks[0].flip_first_of(1), "what was written to the first block of all");
    let alice = pair.nodes[0].login(ALICE, 500);
    let header = pair.nodes[0].header(Opcode::Read, 0, 0, BLOCK_BYTES);
    let request = pair.nodes[0].send(alice, Header { connection: ConnectionNumber::new(500), ..header });
    pair.run_for(MS(500));
    assert!(pair.nodes[0].answer(request).is_none(), "it waits for the MDM");
    pair.governor().decides = true;
    pair.heal();
    user.check_all(&mut pair);
}

/// Simulator seed 26002677: the primary did not hear that its joiner had been taken in, and told clients that the shard's device had failed.
#[test]
fn who_has_proposed_a_joiner_does_not_speak_for_the_shard_when_its_device_fails() {
    let (mut pair, mut user) = written();
    pair.kill(1, false);
    pair.run_for(MS(1500));
    user.forget(1);
    user.write(&mut pair, 0, 1);
    pair.run_for(MS(500));
    user.collect(&mut pair);
    pair.start(1);
    pair.hung[1] = true;
    pair.run_for(MS(500));
    pair.governor().decides = false;
    pair.hung[1] = false;
    pair.run_for(MS(2000));
    assert!(!pair.nodes[0].proposals.is_empty(), "the joiner has everything, and is proposed");
    let (alice, number) = (pair.nodes[0].login(ALICE, 500), ConnectionNumber::new(500));
    pair.nodes[0].fail_writes_from = Some(0);
    let epoch = pair.governor().entries[replica_rig::shard(0).get() as usize].epoch;
    for (opcode, bytes) in [(Opcode::Write, vec![9; BLOCK_BYTES as usize]), (Opcode::Read, Vec::new())] {
        let header = Header { epoch, connection: number, ..pair.nodes[0].header(opcode, 0, 2 * BLOCK_BYTES, BLOCK_BYTES) };
        let request = if bytes.is_empty() { pair.nodes[0].send(alice, header) } else { pair.nodes[0].send_bytes(alice, header, &bytes) };
        pair.run_for(MS(2500));
        let status = pair.nodes[0].answer(request).map(|answer| answer.status());
        assert!(matches!(status, None | Some(Status::NotReady)), "{status:?}: the joiner may be a member by now");
    }
    pair.governor().decides = true;
    pair.run_for(MS(5000));
    user.forget(0);
    assert!(pair.governor().entries.iter().all(|entry| entry.in_sync.members().iter().all(|known| known.device == member(1).device)));
    (0..4).for_each(|extent| user.check(&mut pair, extent, 0));
}
