//! Two storage nodes that lose each other, restart, lose power, and become one again.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod pair_rig;
mod replica_rig;

use pair_rig::Pair;
use pair_rig::user::User;
use proptest::prelude::*;
use sds_core::unit::*;

const MS: fn(u64) -> Nanos = Nanos::from_millis;

#[test]
fn a_new_pair_settles_and_serves() {
    let mut pair = Pair::governed();
    let mut user = User::default();
    user.write(&mut pair, 0, 3);
    pair.run();
    user.collect(&mut pair);
    user.check(&mut pair, 0, 3);
    pair.assert_one(4);
}

#[test]
fn a_secondary_that_was_away_is_given_what_it_missed_and_no_more() {
    let mut pair = Pair::governed();
    let mut user = User::default();
    for block in 0..12 {
        (0..4).for_each(|extent| user.write(&mut pair, extent, block));
        pair.run();
        user.collect(&mut pair);
    }
    // At rest: everything is sealed.
    pair.run_for(MS(3000));
    pair.kill(1, false);
    pair.run_for(MS(200));
    for block in 0..5 {
        user.write(&mut pair, 2, block);
    }
    pair.run_for(MS(200));
    user.collect(&mut pair);
    pair.start(1);
    pair.heal();
    assert_eq!(pair.nodes[0].replica.status().resync.bytes_sent, 5 * 4096);
    user.check_all(&mut pair);
    pair.assert_one(4);
}

#[test]
fn writes_go_on_while_a_copy_joins() {
    let mut pair = Pair::governed();
    let mut user = User::default();
    for block in 0..12 {
        (0..4).for_each(|extent| user.write(&mut pair, extent, block));
        pair.run();
        user.collect(&mut pair);
    }
    pair.kill(1, true);
    pair.run_for(MS(200));
    pair.start(1);
    for round in 0..200 {
        user.write(&mut pair, round % 4, round % 12);
        for _ in 0..round % 17 {
            pair.step();
        }
        user.collect(&mut pair);
    }
    pair.heal();
    user.collect(&mut pair);
    user.check_all(&mut pair);
    pair.assert_one(4);
}

#[test]
fn what_a_dead_primary_did_not_pass_on_is_not_kept_when_it_returns() {
    let mut pair = Pair::governed();
    let mut user = User::default();
    user.write(&mut pair, 1, 1);
    pair.run();
    user.collect(&mut pair);
    // The wire is cut: only the primary has the second write.
    pair.held[1] = true;
    user.write(&mut pair, 1, 1);
    for _ in 0..50 {
        pair.step_disk(0);
        let now = pair.nodes[0].now.plus(MS(1));
        pair.nodes[0].now = now;
        pair.nodes[0].input(sds_core::replica::interface::Input::Wake);
    }
    pair.kill(0, false);
    pair.held[1] = false;
    user.forget(0);
    pair.run_for(MS(3000));
    assert_eq!(User::primary(&pair, 1).0, 1, "the secondary was promoted");
    user.check(&mut pair, 1, 1);
    pair.start(0);
    pair.heal();
    user.check_all(&mut pair);
    pair.assert_one(4);
}

#[test]
fn both_copies_settle_after_everything_was_killed() {
    for power in [false, true] {
        let mut pair = Pair::governed();
        let mut user = User::default();
        for block in 0..6 {
            (0..4).for_each(|extent| user.write(&mut pair, extent, block));
            pair.run();
            user.collect(&mut pair);
        }
        for round in 0..30 {
            user.write(&mut pair, round % 4, round % 12);
            pair.step();
        }
        user.collect(&mut pair);
        pair.kill(0, power);
        pair.kill(1, power);
        (0..2).for_each(|at| user.forget(at));
        if power {
            user.power_lost();
        }
        pair.start(0);
        pair.run_for(MS(500));
        pair.start(1);
        pair.heal();
        user.check_all(&mut pair);
        pair.assert_one(4);
    }
}

/// A trim that frees its extent at the primary, and never gets to the secondary.
fn trim_at_the_primary_only(pair: &mut Pair, user: &mut User, extent: u32, block: u32) {
    pair.held[1] = true;
    user.trim(pair, extent, block);
    for _ in 0..60 {
        while pair.step_disk(0) {}
        let now = pair.nodes[0].now.plus(MS(1));
        pair.nodes[0].now = now;
        pair.nodes[0].input(sds_core::replica::interface::Input::Wake);
    }
    pair.held[1] = false;
}

/// One block in each of four extents, at rest.
fn one_block_each() -> (Pair, User) {
    let mut pair = Pair::governed();
    let mut user = User::default();
    (0..4).for_each(|extent| user.write(&mut pair, extent, 3));
    pair.run();
    user.collect(&mut pair);
    pair.run_for(MS(3000));
    (pair, user)
}

#[test]
fn an_extent_that_only_one_copy_has_freed_is_one_again_after_both_restarted() {
    let (mut pair, mut user) = one_block_each();
    trim_at_the_primary_only(&mut pair, &mut user, 1, 3);
    for at in 0..2 {
        pair.kill(at, false);
        user.forget(at);
    }
    (0..2).for_each(|at| pair.start(at));
    pair.heal();
    user.check_all(&mut pair);
    pair.assert_one(4);
}

#[test]
fn an_extent_that_a_dead_primary_had_freed_is_given_to_it_again() {
    let (mut pair, mut user) = one_block_each();
    trim_at_the_primary_only(&mut pair, &mut user, 1, 3);
    pair.kill(0, false);
    user.forget(0);
    pair.run_for(MS(3000));
    user.check(&mut pair, 1, 3);
    pair.start(0);
    pair.heal();
    user.check_all(&mut pair);
    pair.assert_one(4);
}

/// The copy that has an extent settled takes its plan first: were it last, a crash between the two would leave copies that differ,
/// and that nobody lists. So both are killed once more after every single step of settling.
#[test]
fn settling_that_is_cut_short_anywhere_is_begun_anew() {
    for steps in 0..160 {
        let mut pair = Pair::governed();
        let mut user = User::default();
        for block in 0..4 {
            user.write(&mut pair, 1, block);
        }
        pair.run();
        user.collect(&mut pair);
        pair.run_for(MS(3000));
        // Zeroes at the primary only: no bytes go to the other copy before its plan.
        trim_at_the_primary_only(&mut pair, &mut user, 1, 2);
        for round in 0..2 {
            for at in 0..2 {
                pair.kill(at, false);
                user.forget(at);
            }
            (0..2).for_each(|at| pair.start(at));
            if round == 0 {
                for _ in 0..steps {
                    if !pair.step() {
                        pair.run_for(MS(1));
                    }
                }
            }
        }
        pair.heal();
        user.check_all(&mut pair);
        pair.assert_one(4);
    }
}

/// A write that is in the store when the lists are made is in none of them.
#[test]
fn a_write_that_was_under_way_when_a_copy_began_to_join_is_on_both() {
    let (mut pair, mut user) = one_block_each();
    pair.kill(1, false);
    pair.run_for(MS(1500));
    let before = pair.nodes[0].replica.devices()[0].statistics.data_writes;
    user.write(&mut pair, 2, 3);
    pair.start(1);
    // The primary's disk does nothing meanwhile.
    for _ in 0..300 {
        while pair.step_mdm() || pair.step_disk(1) || (0..2).any(|at| pair.connect(at)) || (0..2).any(|to| pair.deliver(to)) {}
        for node in &mut pair.nodes {
            node.now = node.now.plus(MS(1));
            node.input(sds_core::replica::interface::Input::Wake);
        }
    }
    pair.heal();
    assert_eq!(pair.nodes[0].replica.devices()[0].statistics.data_writes, before + 1, "it was in the store");
    pair.assert_one(4);
}

/// While the MDM is away a primary keeps what it could not pass on for as long as it takes: it is never sealed.
#[test]
fn what_was_not_passed_on_for_long_is_still_in_question_when_its_primary_returns() {
    let (mut pair, mut user) = one_block_each();
    pair.governor().decides = false;
    pair.held[1] = true;
    user.write(&mut pair, 2, 3);
    pair.run_for(MS(5000));
    pair.kill(0, false);
    user.forget(0);
    pair.governor().decides = true;
    pair.held[1] = false;
    pair.run_for(MS(3000));
    user.check(&mut pair, 2, 3);
    pair.start(0);
    pair.heal();
    user.check_all(&mut pair);
    pair.assert_one(4);
}

/// The same without any restart: it was cut off, and has been replaced.
#[test]
fn a_primary_that_was_cut_off_gives_up_what_it_did_not_pass_on() {
    let (mut pair, mut user) = one_block_each();
    pair.governor().hears[0] = false;
    pair.held = [true; 2];
    user.write(&mut pair, 2, 3);
    pair.run_for(MS(4000));
    assert_eq!(User::primary(&pair, 2).0, 1, "the other was promoted");
    pair.governor().hears[0] = true;
    pair.held = [false; 2];
    pair.publish();
    pair.heal();
    user.forget(0);
    user.check_all(&mut pair);
    pair.assert_one(4);
}

/// Starts a copy that has lost its power, and does something after so many steps of its return.
fn while_it_returns(steps: usize, deed: impl FnOnce(&mut Pair, &mut User)) -> (Pair, User) {
    let (mut pair, mut user) = one_block_each();
    (0..4).for_each(|extent| user.write(&mut pair, extent, 5));
    pair.run();
    user.collect(&mut pair);
    pair.kill(1, true);
    pair.run_for(MS(300));
    pair.start(1);
    for _ in 0..steps {
        if !pair.step() {
            pair.run_for(Nanos::from_micros(200));
        }
    }
    deed(&mut pair, &mut user);
    (pair, user)
}

#[test]
fn writes_at_any_moment_of_a_return_are_on_both_copies() {
    for steps in 0..250 {
        let (mut pair, mut user) = while_it_returns(steps, |pair, user| {
            (0..4).for_each(|extent| user.write(pair, extent, 5));
            (0..4).for_each(|extent| user.trim(pair, extent, 3));
        });
        pair.heal();
        user.collect(&mut pair);
        pair.kill(0, false);
        user.forget(0);
        pair.run_for(MS(3000));
        user.check_all(&mut pair);
    }
}

/// A flush before the joiner is needed does not reach it: it flushes by itself before it becomes a member.
#[test]
fn what_was_flushed_while_a_copy_returned_is_durable_on_it() {
    let mut flushed = 0;
    for steps in 0..250 {
        let (mut pair, mut user) = while_it_returns(steps, |pair, user| {
            (0..4).for_each(|extent| user.write(pair, extent, 5));
            pair.run_for(MS(2));
            flushed += usize::from(user.flush(pair));
        });
        while !pair.governor().is_clean() {
            if !pair.step() {
                pair.run_for(Nanos::from_micros(200));
            }
        }
        user.collect(&mut pair);
        pair.kill(0, false);
        user.forget(0);
        // It goes on alone, and then its power fails.
        for _ in 0..40 {
            pair.run_for(MS(50));
            if User::primary(&pair, 0).0 == 1 {
                break;
            }
        }
        pair.kill(1, true);
        user.forget(1);
        user.power_lost();
        pair.start(1);
        pair.run_for(MS(2000));
        user.check_all(&mut pair);
    }
    assert!(flushed > 100, "flushes came through while it returned: {flushed}");
}

#[derive(Clone, Debug)]
enum Deed {
    Write { extent: u32, block: u32 },
    Trim { extent: u32, block: u32 },
    Steps(usize),
    Wait(u64),
    Cut,
    Kill { at: usize, power: bool },
    Start,
    Flush,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        20 => (0_u32..4, 0_u32..12).prop_map(|(extent, block)| Deed::Write { extent, block }),
        3 => (0_u32..4, 0_u32..12).prop_map(|(extent, block)| Deed::Trim { extent, block }),
        20 => (1_usize..60).prop_map(Deed::Steps),
        4 => (1_u64..800).prop_map(Deed::Wait),
        1 => Just(Deed::Cut),
        2 => (0_usize..2, any::<bool>()).prop_map(|(at, power)| Deed::Kill { at, power }),
        3 => Just(Deed::Start),
        1 => Just(Deed::Flush),
    ]
}

/// Carries a history out. Power is lost only by everything at once, if `everything`; else by one node while the other has both copies' word.
fn run(deeds: &[Deed], everything: bool) {
    let mut pair = Pair::governed();
    let mut user = User::default();
    for deed in deeds {
        user.collect(&mut pair);
        match *deed {
            Deed::Write { extent, block } => user.write(&mut pair, extent, block),
            Deed::Trim { extent, block } => user.trim(&mut pair, extent, block),
            Deed::Steps(count) => (0..count).for_each(|_| {
                pair.step();
            }),
            Deed::Wait(millis) => pair.run_for(MS(millis)),
            Deed::Cut => pair.cut(),
            Deed::Kill { at, power } => {
                let up = !pair.refuses[0] && !pair.refuses[1];
                if !up {
                    continue;
                }
                if everything && power {
                    for at in 0..2 {
                        pair.kill(at, true);
                        user.forget(at);
                    }
                    user.power_lost();
                } else {
                    // A lone copy that loses power loses what was not flushed.
                    let power = power && pair.governor().is_clean();
                    pair.kill(at, power);
                    user.forget(at);
                }
            }
            Deed::Start => {
                if let Some(at) = (0..2).find(|at| pair.refuses[*at]) {
                    pair.start(at);
                }
            }
            Deed::Flush => {}
        }
    }
    for at in 0..2 {
        if pair.refuses[at] {
            pair.start(at);
        }
    }
    pair.heal();
    user.collect(&mut pair);
    user.check_all(&mut pair);
    pair.assert_one(4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_by_one_node_at_a_time(deeds in proptest::collection::vec(deed(), 1..120)) {
        run(&deeds, false);
    }

    #[test]
    fn copies_are_one_after_everything_lost_its_power(deeds in proptest::collection::vec(deed(), 1..120)) {
        run(&deeds, true);
    }
}
