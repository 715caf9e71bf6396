//! Changes of one block are in flight one at a time.
use super::world::*;
use crate::collections::Map;
use crate::error::Status;
use crate::unit::{ByteOffset, Nanos};
use crate::volume::interface::{Outcome, Request};
use proptest::prelude::*;

#[test]
fn an_overlapping_write_waits_for_the_earlier_one() {
    let mut world = World::open();
    let first = world.write(0, &[1; 8192]);
    let second = world.write(4096, &[2; 8192]);
    let apart = world.write(16384, &[3; 4096]);
    world.connect_all();
    assert_eq!(world.sent.len(), 2, "the first, and the one apart");
    let sent = world.take_sent();
    world.answer(sent);
    assert_eq!(world.outcome(first), Some(Ok(Outcome::Done)));
    assert_eq!(world.sent.len(), 2);
    world.settle();
    assert_eq!((world.outcome(second), world.outcome(apart)), (Some(Ok(Outcome::Done)), Some(Ok(Outcome::Done))));
    world.assert_idle();
}

/// A, whose answer was lost, is sent again; were B sent before A's fate is known, a reader could see
/// A, B, A.
#[test]
fn a_write_sent_again_cannot_undo_a_later_acknowledged_one() {
    let mut world = World::open();
    let first = world.write(0, &[1; 4096]);
    let second = world.write(0, &[2; 4096]);
    world.connect_all();
    let (link, frame) = world.sent[0];
    world.obey(&frame);
    world.lose(link);
    world.pass(Nanos::from_millis(10));
    world.connect_all();
    assert_eq!(world.sent.len(), 1, "only the first");
    world.settle();
    assert_eq!((world.outcome(first), world.outcome(second)), (Some(Ok(Outcome::Done)), Some(Ok(Outcome::Done))));
    let read = world.read(0, 4096);
    world.settle();
    assert_eq!(world.bytes_read(read, 4096), vec![2; 4096]);
}

#[test]
fn fragments_of_one_block_are_ordered_and_reads_are_not_held() {
    let mut world = World::open();
    world.write(0, &[1; 512]);
    world.write(512, &[2; 512]);
    world.read(0, 4096);
    world.connect_all();
    assert_eq!(world.sent.len(), 2, "one fragment and the read");
    world.settle();
    assert_eq!(world.completed.len(), 3);
}

#[test]
fn a_failed_write_lets_the_next_one_go() {
    let mut world = World::open();
    let first = world.write(0, &[1; 4096]);
    let second = world.write(0, &[2; 4096]);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::NoSpace);
    assert_eq!(world.outcome(first), Some(Err(Status::NoSpace)));
    world.settle();
    assert_eq!(world.outcome(second), Some(Ok(Outcome::Done)));
    world.assert_idle();
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Write(u64, u64),
    Zero(u64, u64),
    /// Answer the frame at this place of those outstanding.
    Answer(usize),
    Lose,
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u64..24, 1_u64..6).prop_map(|(block, blocks)| Op::Write(block, blocks)),
        1 => (0_u64..24, 1_u64..48).prop_map(|(block, blocks)| Op::Zero(block, blocks)),
        4 => (0_usize..8).prop_map(Op::Answer),
        1 => Just(Op::Lose),
    ]
}

fn no_block_is_in_flight_twice(world: &World) {
    let mut seen = Map::default();
    for (_, frame) in &world.sent {
        for block in frame.header.offset / 4096..(frame.header.offset + frame.header.length) / 4096 {
            assert_eq!(seen.insert((frame.header.extent, block), ()), None, "two changes of a block in flight");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_two_changes_of_a_block_are_ever_in_flight(ops in proptest::collection::vec(ops(), 1..60)) {
        let mut world = World::open();
        let mut asked = 0;
        for op in ops {
            match op {
                Op::Write(block, blocks) if world.client.free_requests() > 0 => {
                    let blocks = blocks.min(16 - block % 16);
                    world.write(block * 4096, &vec![block as u8; blocks as usize * 4096]);
                    asked += 1;
                }
                Op::Zero(block, blocks) if world.client.free_requests() > 0 => {
                    world.request(Request::Zero { offset: ByteOffset::new(block * 4096), len: blocks * 4096, trim: false, durable: false });
                    asked += 1;
                }
                Op::Answer(nth) if !world.sent.is_empty() => {
                    let sent = world.sent.remove(nth % world.sent.len());
                    world.answer(sent);
                }
                Op::Lose if !world.sent.is_empty() => {
                    let link = world.sent[0].0;
                    world.lose(link);
                    world.pass(Nanos::from_millis(1000));
                }
                Op::Write(..) | Op::Zero(..) | Op::Answer(_) | Op::Lose => {}
            }
            world.connect_all();
            no_block_is_in_flight_twice(&world);
        }
        world.settle();
        prop_assert_eq!(world.completed.len(), asked);
        world.assert_idle();
        prop_assert!(world.client.order.is_empty());
    }
}
