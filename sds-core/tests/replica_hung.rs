//! Two storage nodes of which one has a disk that does not answer.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod pair_rig;
mod replica_rig;

use pair_rig::user::User;
use pair_rig::{Pair, member};
use sds_core::control::DeviceState;
use sds_core::replica::interface::{Event, ReplicaOptions};
use sds_core::unit::*;

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

fn heal(pair: &mut Pair) {
    for _ in 0..200 {
        pair.run_for(MS(100));
        if pair.governor().is_clean() {
            return pair.run_for(MS(100));
        }
    }
    panic!("not clean: {:?}", pair.governor().entries[0]);
}

/// The copies are one, block by block, as either would serve them alone.
fn assert_one(pair: &mut Pair) {
    pair.run_for(MS(1500));
    pair.mdm = None;
    let lives = [0, 1].map(|at| sds_core::map::Member { device: member(at).device, incarnation: pair.nodes[at].incarnation });
    pair.held = [true; 2];
    pair.cut();
    for (at, life) in lives.into_iter().enumerate() {
        pair.place(9999, sds_core::map::InSync::sole(life), 1 << 40, None);
        pair.push_to(&[at]);
    }
    pair.run_for(MS(1500));
    let first = pair.contents_alone(0, 9999, 4, 12);
    assert!(first == pair.contents_alone(1, 9999, 4, 12), "the copies are one");
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
    heal(&mut pair);
    assert!(said(&pair, 1, false));
    user.check_all(&mut pair);
    assert_one(&mut pair);
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
    heal(&mut pair);
    user.check_all(&mut pair);
    assert_one(&mut pair);
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
        heal(&mut pair);
        user.check_all(&mut pair);
        assert_one(&mut pair);
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
    heal(&mut pair);
    assert_one(&mut pair);
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
        heal(&mut pair);
        user.check_all(&mut pair);
        assert_one(&mut pair);
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
        heal(&mut pair);
        user.check_all(&mut pair);
        assert_one(&mut pair);
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
    heal(&mut pair);
    user.check_all(&mut pair);
    assert_one(&mut pair);
}

/// What a joiner still has to do for a sweep that was given up is over before the next one looks at it.
#[test]
fn a_sweep_begun_anew_waits_for_what_the_last_one_left() {
    for steps in (0..140).step_by(2) {
        for (slow, trims) in [(4, false), (9, true), (14, false), (20, true)] {
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
            // Its disk stands still, with writes on their way to it, and nothing is heard of it for longer than is waited.
            pair.hung[1] = true;
            (0..4).for_each(|extent| (0..2).for_each(|block| user.write(&mut pair, extent, 6 + block)));
            pair.run_for(MS(50));
            pair.held[0] = true;
            pair.run_for(MS(1300));
            pair.held[0] = false;
            user.collect(&mut pair);
            for extent in 0..4 {
                (0..2).for_each(
                    |block| if trims { user.trim(&mut pair, extent, 6 + block) } else { user.write(&mut pair, extent, 6 + block) },
                );
            }
            // It answers, slowly, while the next sweep goes on.
            for _ in 0..200 {
                pair.hung[1] = true;
                pair.run();
                pair.hung[1] = false;
                for _ in 0..slow {
                    let _ = pair.step_disk(1);
                }
                pair.run_for(MS(10));
            }
            user.collect(&mut pair);
            heal(&mut pair);
            user.check_all(&mut pair);
            assert_one(&mut pair);
        }
    }
}
