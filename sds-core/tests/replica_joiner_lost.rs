//! A copy that returns and is lost again, or hears late, at every step of its return.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod pair_rig;
mod replica_rig;

use pair_rig::user::User;
use pair_rig::{Pair, member};
use sds_core::map::InSync;
use sds_core::unit::*;

const MS: fn(u64) -> Nanos = Nanos::from_millis;

/// Starts a copy that was away while something was written, and lets so many steps of its return pass.
fn returning(steps: usize) -> (Pair, User) {
    let mut pair = Pair::governed();
    let mut user = User::default();
    (0..4).for_each(|extent| user.write(&mut pair, extent, 5));
    pair.run();
    user.collect(&mut pair);
    pair.kill(1, false);
    pair.run_for(MS(300));
    (0..4).for_each(|extent| user.write(&mut pair, extent, 6));
    pair.run_for(MS(100));
    user.collect(&mut pair);
    pair.start(1);
    for _ in 0..steps {
        if !pair.step() {
            pair.run_for(Nanos::from_micros(200));
        }
    }
    (pair, user)
}

#[test]
fn a_flush_does_not_wait_for_a_joiner_that_is_lost() {
    for steps in 0..160 {
        let (mut pair, mut user) = returning(steps);
        pair.governor().decides = false;
        let (at, request) = user.begin_flush(&mut pair);
        (0..3).for_each(|_| {
            let _ = pair.step();
        });
        pair.kill(1, false);
        pair.run_for(MS(1500));
        let answered = pair.nodes[at].answer(request).is_some();
        // What had been proposed is needed until the MDM has decided.
        pair.governor().decides = true;
        pair.run_for(MS(1500));
        assert!(answered || pair.nodes[at].answer(request).is_some(), "after {steps} steps");
    }
}

#[test]
fn a_flush_is_answered_though_no_view_comes() {
    let mut waited = 0;
    for steps in 0..160 {
        let (mut pair, mut user) = returning(steps);
        let before = pair.governor().entries.clone();
        let (at, request) = user.begin_flush(&mut pair);
        pair.kill(1, false);
        pair.governor().decides = false;
        pair.run_for(MS(1500));
        let proposed = pair.nodes[0].proposals.iter().any(|(.., proposal)| proposal.base == before[0].epoch);
        if proposed {
            waited += 1;
        } else {
            assert!(pair.nodes[at].answer(request).is_some(), "after {steps} steps");
        }
    }
    assert!(waited < 160, "not all had been proposed");
}

#[test]
fn a_joiner_that_fails_after_it_was_proposed_is_dropped() {
    for steps in (0..160).step_by(3) {
        let (mut pair, mut user) = returning(steps);
        pair.governor().decides = false;
        pair.run_for(MS(300));
        pair.hung[1] = true;
        (0..4).for_each(|extent| user.write(&mut pair, extent, 7));
        pair.run_for(MS(11_000));
        pair.governor().decides = true;
        pair.run_for(MS(2500));
        user.collect(&mut pair);
        assert_eq!(user.waits(), 0, "after {steps} steps: {:?}", pair.governor().entries[0]);
        assert!(pair.governor().entries.iter().all(|entry| entry.in_sync == InSync::sole(member(0))));
        pair.hung[1] = false;
        pair.heal();
        user.check_all(&mut pair);
    }
}

#[test]
fn a_secondary_that_hears_late_of_its_epoch_still_learns_that_it_is_settled() {
    let (mut pair, mut user) = returning(0);
    pair.heal();
    pair.kill(0, true);
    pair.kill(1, true);
    user.forget(0);
    user.forget(1);
    user.power_lost();
    pair.start(0);
    pair.start(1);
    let settles = |pair: &mut Pair| pair.governor().entries.iter().all(|entry| entry.cache_lost.contains(&true));
    assert!(settles(&mut pair), "for settling only");
    // The next epoch is made, and the secondary does not hear of it for some seconds.
    let mut steps = 0;
    while settles(&mut pair) && steps < 100_000 {
        pair.governor().hears[1] = false;
        if !pair.step() {
            pair.run_for(MS(1));
        }
        steps += 1;
    }
    pair.run_for(MS(4000));
    pair.governor().hears[1] = true;
    pair.publish();
    pair.run_for(MS(1000));
    assert!(pair.governor().is_clean(), "{:?}", pair.governor().entries[0]);
    pair.kill(0, false);
    pair.run_for(MS(3000));
    let alone = InSync::sole(pair.governor().lives[1]);
    assert!(pair.governor().entries.iter().all(|entry| entry.in_sync == alone), "it knows that it is settled, and may go on alone");
    user.check_all(&mut pair);
}
