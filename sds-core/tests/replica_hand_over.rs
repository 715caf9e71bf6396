//! A shard is given to its secondary although nobody has failed.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod pair_rig;
mod replica_rig;

use pair_rig::user::User;
use pair_rig::{Pair, member};
use replica_rig::*;
use sds_core::id::*;
use sds_core::replica::interface::Input;
use sds_core::unit::*;

const MS: fn(u64) -> Nanos = Nanos::from_millis;

fn written() -> (Pair, User) {
    let mut pair = Pair::governed();
    let mut user = User::default();
    for block in 0..6 {
        (0..4).for_each(|extent| user.write(&mut pair, extent, block));
        pair.run();
        user.collect(&mut pair);
    }
    pair.run_for(MS(500));
    (pair, user)
}

/// The MDM asks a node for all its shards, at the epochs they have.
fn ask(pair: &mut Pair, at: usize) {
    let entries = pair.governor().entries.iter().zip(0..).map(|(entry, shard)| (POOL, ShardId::new(shard), entry.epoch));
    let shards: Vec<_> = entries.collect();
    pair.nodes[at].input(Input::HandOver { shards: &shards });
}

fn leads(pair: &mut Pair, at: usize) -> bool {
    pair.governor().entries.iter().all(|entry| entry.in_sync.members() == [member(at), member(1 - at)])
}

#[test]
fn roles_change_and_the_new_primary_serves_at_once() {
    let (mut pair, mut user) = written();
    for round in 0..4 {
        let (from, to) = (round % 2, 1 - round % 2);
        ask(&mut pair, from);
        pair.run_for(MS(20));
        assert!(leads(&mut pair, to), "round {round}");
        user.write(&mut pair, 1, 2);
        pair.run_for(MS(20));
        user.collect(&mut pair);
        assert_eq!(user.waits(), 0, "no grace is waited out: the former primary has confirmed");
        user.check_all(&mut pair);
    }
    pair.assert_one(4);
}

#[test]
fn what_was_begun_is_complete_on_both_before_the_mdm_is_asked() {
    // With everything that can be under way, cut off at each step.
    for steps in 0..60 {
        let (mut pair, mut user) = written();
        (0..4).for_each(|extent| (0..3).for_each(|block| user.write(&mut pair, extent, block)));
        (0..steps).for_each(|_| {
            let _ = pair.step();
        });
        ask(&mut pair, 0);
        (0..4).for_each(|extent| user.write(&mut pair, extent, 5));
        pair.run_for(MS(100));
        assert!(leads(&mut pair, 1), "after {steps} steps");
        user.collect(&mut pair);
        user.forget(0);
        user.check_all(&mut pair);
        pair.assert_one(4);
    }
}

#[test]
fn what_cannot_be_drained_is_served_on() {
    let (mut pair, mut user) = written();
    pair.hung[1] = true;
    user.write(&mut pair, 0, 1);
    pair.run_for(MS(10));
    ask(&mut pair, 0);
    user.write(&mut pair, 0, 2);
    pair.run_for(MS(200));
    user.collect(&mut pair);
    assert_eq!((user.waits(), User::primary(&pair, 0).0), (2, 0));
    pair.run_for(MS(200));
    pair.hung[1] = false;
    pair.run_for(MS(200));
    user.collect(&mut pair);
    assert_eq!((user.waits(), User::primary(&pair, 0).0), (0, 0), "given up; it may be asked for again");
    pair.assert_one(4);
}

#[test]
fn nothing_is_served_between_the_proposal_and_the_next_epoch() {
    let (mut pair, mut user) = written();
    pair.governor().decides = false;
    ask(&mut pair, 0);
    user.write(&mut pair, 0, 1);
    pair.run_for(MS(400));
    user.collect(&mut pair);
    // Told to come again: the MDM may have committed already.
    assert_eq!(pair.nodes[0].replica.status().requests, 1, "it waits for the view");
    pair.run_for(MS(400));
    user.collect(&mut pair);
    user.write(&mut pair, 0, 1);
    pair.governor().decides = true;
    pair.run_for(MS(1500));
    assert!(leads(&mut pair, 1));
    user.collect(&mut pair);
    user.forget(0);
    user.check_all(&mut pair);
    pair.assert_one(4);
}

#[test]
fn a_secondary_that_dies_during_it_leaves_the_primary_serving() {
    for decided in [false, true] {
        let (mut pair, mut user) = written();
        pair.governor().decides = decided;
        ask(&mut pair, 0);
        if decided {
            pair.run_for(MS(20));
        } else {
            let _ = pair.step();
        }
        pair.kill(1, false);
        pair.governor().decides = true;
        pair.run_for(MS(3000));
        user.collect(&mut pair);
        user.forget(0);
        user.forget(1);
        user.check_all(&mut pair);
        user.write(&mut pair, 0, 1);
        pair.run_for(MS(100));
        user.collect(&mut pair);
        assert_eq!(user.waits(), 0);
    }
}

#[test]
fn wishes_for_other_epochs_and_of_who_is_no_primary_change_nothing() {
    let (mut pair, mut user) = written();
    ask(&mut pair, 1);
    let late: Vec<_> = pair.governor().entries.iter().zip(0..).map(|(_, shard)| (POOL, ShardId::new(shard), Epoch::new(0))).collect();
    pair.nodes[0].input(Input::HandOver { shards: &late });
    let unknown = [(PoolId::new(99), ShardId::new(1), Epoch::new(1)), (POOL, ShardId::new(9999), Epoch::new(1))];
    pair.nodes[0].input(Input::HandOver { shards: &unknown });
    user.write(&mut pair, 0, 1);
    pair.run_for(MS(20));
    user.collect(&mut pair);
    assert_eq!(user.waits(), 0);
    pair.run_for(MS(2000));
    assert!(leads(&mut pair, 0));
    assert_eq!(pair.governor().refused, 0, "nothing was asked for");
}
