//! Damaged blocks where two copies are kept: what is read is right or an error, and is repaired from wherever it is right.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod pair_rig;
mod replica_rig;

use pair_rig::Pair;
use pair_rig::user::User;
use replica_rig::*;
use sds_core::error::Status;
use sds_core::id::RequestId;
use sds_core::machine::LinkId;
use sds_core::protocol::membership::Change;
use sds_core::replica::interface::Event;
use sds_core::unit::*;
use sds_core::wire::*;

const MS: fn(u64) -> Nanos = Nanos::from_millis;

/// Two nodes with blocks of 1, 2, 3, … in extent 0, at rest.
fn written(blocks: u8) -> (Pair, LinkId) {
    let mut pair = Pair::governed();
    let alice = pair.nodes[0].login(ALICE, 1);
    for number in 1..=blocks {
        let request = pair.nodes[0].write(alice, 0, u32::from(number - 1) * BLOCK_BYTES, &block(number));
        pair.run();
        assert_eq!(pair.nodes[0].answer(request).unwrap().status(), Status::Ok);
    }
    pair.run_for(MS(3000));
    (pair, alice)
}

fn ask(pair: &mut Pair, alice: LinkId, first: u32, count: u32) -> RequestId {
    let epoch = pair.governor().entries[shard(0).get() as usize].epoch;
    let header = Header { epoch, ..pair.nodes[0].header(Opcode::Read, 0, first * BLOCK_BYTES, count * BLOCK_BYTES) };
    pair.nodes[0].send(alice, header)
}

fn step(pair: &mut Pair, steps: u32) {
    (0..steps).for_each(|_| {
        let _ = pair.step();
    });
}

fn read(pair: &mut Pair, alice: LinkId, first: u32, count: u32) -> Result<Vec<u8>, Status> {
    let request = ask(pair, alice, first, count);
    pair.run_for(MS(300));
    let answer = pair.nodes[0].answer(request).expect("answered");
    if answer.status() == Status::Ok { Ok(answer.bytes) } else { Err(answer.status()) }
}

fn contents(range: core::ops::RangeInclusive<u8>) -> Vec<u8> {
    range.flat_map(block).collect()
}

fn repaired(pair: &Pair) -> u64 {
    pair.nodes[0].replica.status().resync.repaired
}

#[test]
fn a_damaged_block_is_read_right_and_repaired() {
    let (mut pair, alice) = written(8);
    assert!(pair.nodes[0].disks[0].flip_first_of(3));
    assert_eq!(read(&mut pair, alice, 0, 8), Ok(contents(1..=8)));
    assert_eq!(repaired(&pair), 1, "one block was damaged, and one is written");
    assert!(pair.nodes[0].events.iter().any(|event| matches!(event, Event::Repaired { blocks: 1, lost: 0, .. })));
    let mismatches = pair.nodes[0].replica.devices()[0].statistics.faults.data_mismatches;
    assert_eq!(mismatches, 1, "it is counted");
    assert_eq!(read(&mut pair, alice, 2, 1), Ok(contents(3..=3)));
    assert_eq!((repaired(&pair), pair.nodes[0].replica.devices()[0].statistics.faults.data_mismatches), (1, mismatches), "for good");
    pair.nodes.iter().for_each(Node::assert_idle);
}

#[test]
fn a_block_damaged_on_both_copies_is_an_error_and_its_neighbours_are_not() {
    let (mut pair, alice) = written(4);
    assert!(pair.nodes[0].disks[0].flip_first_of(2));
    assert!(pair.nodes[1].disks[0].flip_first_of(2));
    assert_eq!(read(&mut pair, alice, 1, 1), Err(Status::Corrupt));
    for (at, value) in [(0, 1), (2, 3), (3, 4)] {
        assert_eq!(read(&mut pair, alice, at, 1), Ok(block(value)));
    }
    assert_eq!(repaired(&pair), 0, "nothing is invented");
    // A new write makes it whole again.
    let request = pair.nodes[0].write(alice, 0, BLOCK_BYTES, &block(9));
    pair.run();
    assert_eq!(pair.nodes[0].answer(request).unwrap().status(), Status::Ok);
    assert_eq!(read(&mut pair, alice, 1, 1), Ok(block(9)));
    pair.nodes.iter().for_each(Node::assert_idle);
}

#[test]
fn blocks_damaged_here_and_there_are_each_repaired() {
    let (mut pair, alice) = written(16);
    for value in [1, 5, 6, 16] {
        assert!(pair.nodes[0].disks[0].flip_first_of(value));
    }
    assert_eq!(read(&mut pair, alice, 0, 16), Ok(contents(1..=16)));
    assert_eq!(repaired(&pair), 4);
}

#[test]
fn a_fragment_of_a_damaged_block_is_merged_with_what_is_right() {
    let (mut pair, alice) = written(4);
    assert!(pair.nodes[0].disks[0].flip_first_of(2));
    let fragment = pair.nodes[0].fragment(alice, 0, BLOCK_BYTES + 512, &[9; 512]);
    pair.run_for(MS(300));
    assert_eq!(pair.nodes[0].answer(fragment).unwrap().status(), Status::Ok);
    let mut expected = block(2);
    expected[512..1024].fill(9);
    assert_eq!(read(&mut pair, alice, 1, 1), Ok(expected));
}

#[test]
fn many_readers_of_a_damaged_block_wait_for_one_repair() {
    let (mut pair, alice) = written(4);
    assert!(pair.nodes[0].disks[0].flip_first_of(2));
    let requests: Vec<_> = (0..10).map(|_| pair.nodes[0].read(alice, 0, BLOCK_BYTES, BLOCK_BYTES)).collect();
    pair.run_for(MS(300));
    for request in requests {
        assert_eq!(pair.nodes[0].answer(request).unwrap().bytes, block(2));
    }
    assert_eq!(repaired(&pair), 1);
}

#[test]
fn without_the_other_copy_a_damaged_block_is_an_error() {
    let (mut pair, alice) = written(4);
    pair.kill(1, false);
    pair.run_for(MS(1500));
    assert!(pair.nodes[0].disks[0].flip_first_of(2));
    assert_eq!(read(&mut pair, alice, 1, 1), Err(Status::Corrupt));
}

#[test]
fn a_joiner_that_was_proposed_helps_before_its_epoch_is_learnt() {
    let (mut pair, alice) = written(4);
    pair.kill(1, false);
    pair.run_for(MS(1500));
    pair.start(1);
    while pair.governor().entries[shard(0).get() as usize].joining.is_none() {
        if !pair.step() {
            pair.run_for(MS(1));
        }
    }
    pair.governor().decides = false;
    pair.run_for(MS(300));
    assert!(pair.nodes[0].proposals.iter().any(|(.., proposal)| proposal.change == Change::Grow), "it has everything");
    assert!(pair.nodes[0].disks[0].flip_first_of(2));
    assert_eq!(read(&mut pair, alice, 1, 1), Ok(contents(2..=2)));
    assert_eq!(repaired(&pair), 1);
}

fn rejoin(pair: &mut Pair) {
    pair.start(1);
    for _ in 0..100 {
        pair.run_for(MS(100));
        if pair.governor().is_clean() {
            return;
        }
    }
    panic!("the copy does not come back: {:?}", pair.governor().entries[0]);
}

#[test]
fn a_block_that_is_damaged_while_a_copy_is_away_does_not_keep_it_away() {
    let (mut pair, alice) = written(8);
    pair.kill(1, false);
    pair.run_for(MS(1500));
    // One that the other has as well, one that only we had.
    let epoch = pair.governor().entries[shard(0).get() as usize].epoch;
    for (at, value) in [(2_u32, 43_u8), (3, 44), (4, 45)] {
        let header = Header { epoch, ..pair.nodes[0].header(Opcode::Write, 0, at * BLOCK_BYTES, BLOCK_BYTES) };
        let request = pair.nodes[0].send_bytes(alice, header, &block(value));
        pair.run();
        assert_eq!(pair.nodes[0].answer(request).unwrap().status(), Status::Ok);
    }
    pair.run_for(MS(3000));
    assert!(pair.nodes[0].disks[0].flip_first_of(44));
    rejoin(&mut pair);
    assert_eq!(read(&mut pair, alice, 3, 1), Err(Status::Corrupt), "nobody has it");
    assert_eq!(read(&mut pair, alice, 2, 1), Ok(block(43)), "its neighbours in the same run are copied");
    assert_eq!(read(&mut pair, alice, 4, 1), Ok(block(45)));
    // And they are on the other copy, which goes on alone.
    pair.kill(0, false);
    pair.run_for(MS(3000));
    let epoch = pair.governor().entries[shard(0).get() as usize].epoch;
    let link = pair.nodes[1].login(ALICE, 60);
    for (at, expected) in [(2, Ok(43)), (3, Err(Status::DeviceFailed)), (4, Ok(45)), (5, Ok(6))] {
        let header = Header {
            epoch,
            connection: sds_core::id::ConnectionNumber::new(60),
            ..pair.nodes[1].header(Opcode::Read, 0, at * BLOCK_BYTES, BLOCK_BYTES)
        };
        let request = pair.nodes[1].send(link, header);
        pair.run_for(MS(100));
        let answer = pair.nodes[1].answer(request).expect("answered");
        let found = if answer.status() == Status::Ok { Ok(answer.bytes[0]) } else { Err(answer.status()) };
        assert_eq!(found, expected, "block {at}: never the older bytes");
    }
}

#[test]
fn a_repair_that_a_broken_link_cuts_short_is_tried_again() {
    for steps in 0..40 {
        let (mut pair, alice) = written(4);
        assert!(pair.nodes[0].disks[0].flip_first_of(3));
        let request = ask(&mut pair, alice, 0, 4);
        step(&mut pair, steps);
        pair.cut();
        pair.run_for(MS(700));
        let first = pair.nodes[0].answer(request).expect("answered");
        assert!(matches!(first.status(), Status::Ok | Status::NotReady), "the other copy is right: {:?} after {steps}", first.status());
        assert_eq!(read(&mut pair, alice, 0, 4), Ok(contents(1..=4)), "after {steps}");
    }
}

/// What describes an extent is lost on the primary: the other copy takes the shard over, and gives it back what it had.
#[test]
fn an_extent_that_nobody_can_describe_here_is_read_from_the_other_copy_and_replaced() {
    for damaged in 0..2 {
        let (mut pair, _) = written(8);
        // Until pages are written, all of it is in the log: opening it again does that.
        for _ in 0..2 {
            pair.kill(0, false);
            pair.kill(1, false);
            pair.start(0);
            pair.start(1);
            pair.run_for(MS(3000));
        }
        pair.kill(0, false);
        pair.kill(1, false);
        assert!(pair.nodes[damaged].disks[0].flip_descriptors() > 0);
        pair.start(0);
        pair.start(1);
        let mut user = User::default();
        for _ in 0..30 {
            pair.run_for(MS(100));
        }
        if damaged == 1 {
            // Nobody reads at a secondary: the next write finds it out.
            user.write(&mut pair, 0, 9);
            pair.run_for(MS(1500));
            user.collect(&mut pair);
        }
        for block in 0..8 {
            user.expect(0, block, u8::try_from(block + 1).unwrap());
            user.check(&mut pair, 0, block);
        }
        for _ in 0..100 {
            if pair.governor().is_clean() {
                break;
            }
            pair.run_for(MS(100));
        }
        assert!(pair.governor().is_clean(), "{:?}", pair.governor().entries[shard(0).get() as usize]);
        // Both have all of it now.
        for lost in [1 - damaged, damaged] {
            pair.kill(lost, false);
            user.forget(lost);
            pair.run_for(MS(3000));
            user.check_all(&mut pair);
            pair.start(lost);
            for _ in 0..50 {
                pair.run_for(MS(100));
            }
            assert!(pair.governor().is_clean());
        }
    }
}

/// Simulator seed 2019211: a sole copy keeps the damaged bytes of an extent that it holds unsettled, and says so, even if the other copy
/// registers in the middle and the settling is begun anew.
#[test]
fn what_is_settled_in_doubt_is_told_though_settling_is_begun_anew() {
    for steps in 0..60 {
        let (mut pair, mut user) = (Pair::governed(), User::default());
        (0..3).for_each(|block| user.write(&mut pair, 0, block));
        pair.run();
        pair.kill(1, false);
        pair.run_for(MS(1500));
        user.write(&mut pair, 0, 3);
        pair.run_for(MS(20));
        user.collect(&mut pair);
        pair.kill(0, false);
        assert!(pair.nodes[0].disks[0].flip_first_of(1), "the first write's bytes lie there");
        pair.start(0);
        step(&mut pair, steps);
        pair.start(1);
        pair.heal();
        let told = pair.nodes[0].events.iter().any(|event| matches!(event, Event::SettledInDoubt { unrecorded: 1, .. }));
        assert!(told, "after {steps} steps: {:?}", pair.nodes[0].events);
        assert_eq!(pair.nodes[0].replica.status().resync.unrecorded, 1, "and counted, once");
    }
}

/// Simulator seed 7001638: another block of a read is damaged while the first one is repaired.
#[test]
fn a_read_is_repaired_again_if_another_block_is_damaged_meanwhile() {
    for steps in 0..40 {
        let (mut pair, alice) = written(8);
        assert!(pair.nodes[0].disks[0].flip_first_of(3));
        let request = ask(&mut pair, alice, 0, 8);
        step(&mut pair, steps);
        pair.nodes[0].disks[0].flip_first_of(6);
        pair.run_for(MS(300));
        let answer = pair.nodes[0].answer(request).expect("answered");
        assert_eq!((answer.status(), &answer.bytes), (Status::Ok, &contents(1..=8)), "after {steps} steps");
        pair.nodes.iter().for_each(Node::assert_idle);
    }
}

/// Found by the pair model: the joiner had nothing of the extent, so there was nothing that its plan could have said it of.
#[test]
fn a_lost_block_of_an_extent_that_a_joiner_never_had_is_an_error_there_and_not_zeroes() {
    let (mut pair, alice) = written(2);
    pair.kill(1, false);
    pair.run_for(MS(1500));
    let epoch = pair.governor().entries[shard(0).get() as usize].epoch;
    let header = Header { epoch, ..pair.nodes[0].header(Opcode::Write, 1, 0, BLOCK_BYTES) };
    let request = pair.nodes[0].send_bytes(alice, header, &block(77));
    pair.run();
    let first = pair.nodes[0].answer(request).unwrap();
    assert_eq!(first.status(), Status::Ok);
    pair.run_for(MS(3000));
    assert!(pair.nodes[0].disks[0].flip_first_of(77));
    rejoin(&mut pair);
    pair.kill(0, false);
    pair.run_for(MS(3000));
    let epoch = pair.governor().entries[shard(0).get() as usize].epoch;
    let link = pair.nodes[1].login(ALICE, 60);
    let connection = sds_core::id::ConnectionNumber::new(60);
    let header = Header { epoch, connection, ..pair.nodes[1].header(Opcode::Read, 1, 0, BLOCK_BYTES) };
    let request = pair.nodes[1].send(link, header);
    pair.run_for(MS(100));
    assert_eq!(pair.nodes[1].answer(request).expect("answered").status(), Status::DeviceFailed);
}

/// Found by the pair model: it was freed first, and then passed for one that had been trimmed.
#[test]
fn a_copy_that_cannot_describe_an_extent_counts_for_nothing_when_both_settle() {
    let mut replaced = [0; 2];
    for (damaged, steps) in (0..2).flat_map(|damaged| (0..40).step_by(5).map(move |steps| (damaged, steps))) {
        let mut pair = Pair::governed();
        let mut user = User::default();
        for block in 0..6 {
            user.write(&mut pair, 0, block);
            pair.run();
            user.collect(&mut pair);
        }
        // Until pages are written, all of it is in the log: opening it again does that.
        for _ in 0..2 {
            (0..2).for_each(|node| pair.kill(node, false));
            (0..2).for_each(|node| user.forget(node));
            (0..2).for_each(|node| pair.start(node));
            pair.heal();
        }
        for block in 0..4 {
            user.write(&mut pair, 0, block);
        }
        for _ in 0..steps {
            pair.step();
        }
        user.collect(&mut pair);
        (0..2).for_each(|node| pair.kill(node, false));
        (0..2).for_each(|node| user.forget(node));
        assert!(pair.nodes[damaged].disks[0].flip_descriptors() > 0);
        (0..2).for_each(|node| pair.start(node));
        pair.heal();
        user.check_all(&mut pair);
        assert!(pair.governor().is_clean(), "damaged {damaged}, {steps} steps");
        // If nothing of the extent was under way, nobody has looked at it.
        if pair.nodes.iter().any(|node| node.events.iter().any(|event| matches!(event, Event::ExtentGivenUp { .. }))) {
            replaced[damaged] += 1;
            pair.assert_one(1);
        }
    }
    assert!(replaced.iter().all(|count| *count > 0), "{replaced:?}");
}
