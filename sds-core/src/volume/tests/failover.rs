//! A primary dies or falls silent and the other copy takes over: each request is sent again once and completed once.
use super::world::*;
use crate::error::Status;
use crate::id::{DeviceId, Epoch, SdsId};
use crate::machine::{LinkId, Token};
use crate::map::{InSync, Member};
use crate::unit::Nanos;
use crate::view::ViewUpdate;
use crate::volume::interface::{Input, Outcome, Request};
use crate::wire::{Frame, Opcode};

/// The next view, in which another device is the primary of every shard that `dead` was the primary of.
fn without(world: &World, dead: DeviceId) -> ViewUpdate {
    let mut next = view(world.version + 1, 1);
    for shard in &mut next.pools[0].shards {
        let primary = shard.in_sync.primary().expect("there is one");
        if primary.device == dead {
            shard.epoch = Epoch::new(4);
            shard.in_sync = InSync::sole(Member { device: DeviceId::new(1 + dead.get() % SERVERS), ..primary });
        }
    }
    next
}

/// Five writes on their way to one server: its link, its device, the frames.
fn five_writes(world: &mut World) -> (Vec<Token>, LinkId, DeviceId, Vec<Frame>) {
    let writes = (0..5_u8).map(|at| world.write(u64::from(at) * 4096, &[at + 1; 4096])).collect();
    world.connect_all();
    let frames: Vec<Frame> = world.sent.iter().map(|(_, frame)| *frame).collect();
    (writes, world.sent[0].0, frames[0].header.device, frames)
}

fn all_done_once(world: &mut World, writes: Vec<Token>) {
    assert!(writes.into_iter().all(|write| world.outcome(write) == Some(Ok(Outcome::Done))));
    assert!(world.completed.is_empty(), "once each: {:?}", world.completed);
}

#[test]
fn writes_in_flight_to_a_killed_primary_are_sent_once_each_to_the_new_one() {
    let mut world = World::open();
    let (writes, link, dead, frames) = five_writes(&mut world);
    world.lose(link);
    world.show(without(&world, dead));
    world.connect_all();
    let again: Vec<Frame> = world.sent.iter().map(|(_, frame)| *frame).collect();
    assert_eq!(again.len(), frames.len(), "in the step of the view, no timer");
    for (before, after) in frames.iter().zip(&again) {
        assert_eq!((after.header.extent, after.header.offset), (before.header.extent, before.header.offset), "in order");
        assert_eq!(after.header.epoch, Epoch::new(4), "the former epoch is fenced where it may still arrive");
        assert_ne!(after.header.device, dead);
        assert!(after.header.connection > before.header.connection);
    }
    world.settle();
    all_done_once(&mut world, writes);
    world.assert_idle();
}

/// A host that is cut off, a process that is stopped: no reset comes.
#[test]
fn writes_to_a_silent_primary_move_with_the_view_and_its_late_answers_are_nobodys() {
    let mut world = World::open();
    let (writes, link, dead, _) = five_writes(&mut world);
    let old: Vec<_> = std::mem::take(&mut world.sent);
    world.show(without(&world, dead));
    world.connect_all();
    assert_eq!(world.sent.len(), 5, "the old connection stands, and is not waited for");
    assert!(world.links_closed.is_empty());
    let before = world.client.stale_answers();
    for (at, sent) in old.into_iter().enumerate() {
        if at % 2 == 0 { world.answer(sent) } else { world.refuse(sent, Status::MapStale) }
    }
    assert_eq!(world.client.stale_answers(), before + 5);
    assert!(world.completed.is_empty(), "an answer from the former primary acknowledges nothing any more");
    world.settle();
    all_done_once(&mut world, writes);
    world.lose(link);
    world.pass(Nanos::from_millis(2_000));
    assert!(world.sent.is_empty() && world.completed.is_empty(), "its late reset sends nothing again");
    world.assert_idle();
}

#[test]
fn the_memory_of_frames_to_a_silent_former_primary_is_given_back() {
    let mut world = World::open();
    let (writes, link, dead, _) = five_writes(&mut world);
    let old = std::mem::take(&mut world.sent);
    world.show(without(&world, dead));
    world.settle();
    all_done_once(&mut world, writes);
    world.pass(Nanos::from_millis(1_001));
    assert_eq!(world.links_closed, [link], "nobody waits for it any more");
    for (_, frame) in old {
        world.drop_payload(&frame);
    }
    world.assert_idle();
}

#[test]
fn an_overlapping_write_stays_behind_one_that_moved() {
    let mut world = World::open();
    let first = world.write(0, &[1; 4096]);
    let second = world.write(0, &[2; 4096]);
    world.connect_all();
    let (_, frame) = world.take_sent();
    world.drop_payload(&frame);
    world.show(without(&world, frame.header.device));
    world.connect_all();
    assert_eq!(world.sent.len(), 1);
    let sent = world.take_sent();
    world.answer(sent);
    assert_eq!(world.outcome(first), Some(Ok(Outcome::Done)));
    world.settle();
    assert_eq!(world.outcome(second), Some(Ok(Outcome::Done)));
    let read = world.read(0, 4096);
    world.settle();
    assert_eq!(world.bytes_read(read, 4096), [2; 4096]);
    world.assert_idle();
}

#[test]
fn reads_move_too_and_wait_for_the_copy_that_takes_over() {
    let mut world = World::open();
    let read = world.read(0, 4096);
    world.connect_all();
    let (_, frame) = world.take_sent();
    world.show(without(&world, frame.header.device));
    world.connect_all();
    for _ in 0..20 {
        let sent = world.take_sent();
        assert_eq!(sent.1.header.opcode, Opcode::Read);
        world.refuse(sent, Status::NotReady);
        assert!(world.completed.is_empty(), "the grace is waited out, not told");
        world.pass(Nanos::from_millis(33));
    }
    world.settle();
    assert_eq!(world.outcome(read), Some(Ok(Outcome::Zeroes)));
    world.assert_idle();
}

#[test]
fn a_former_primary_that_says_so_is_left_when_the_view_comes() {
    let mut world = World::open();
    let write = world.write(0, &[1; 4096]);
    world.connect_all();
    let sent = world.take_sent();
    let dead = sent.1.header.device;
    world.refuse(sent, Status::MapStale);
    world.show(without(&world, dead));
    world.connect_all();
    assert_ne!(world.sent[0].1.header.device, dead);
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)));
}

/// Without the MDM there is no view, so everything waits; its primary comes back, or the MDM does.
#[test]
fn without_the_mdm_requests_wait_and_go_on_with_the_first_view() {
    let mut world = World::open();
    let (writes, link, dead, _) = five_writes(&mut world);
    world.step(Input::Mdm { up: false });
    world.lose(link);
    for _ in 0..5_000 {
        for sds in std::mem::take(&mut world.connects) {
            assert_eq!(sds, SdsId::new(dead.get()));
            world.step(Input::ConnectFailed { sds });
        }
        world.pass(Nanos::from_millis(1));
    }
    assert!(world.completed.is_empty());
    world.welcome();
    world.show(without(&world, dead));
    world.connects.retain(|sds| *sds != SdsId::new(dead.get()));
    world.settle();
    all_done_once(&mut world, writes);
    world.assert_idle();
}

#[test]
fn a_flush_after_a_failover_succeeds_without_the_server_that_died() {
    let mut world = World::open();
    world.request(Request::Flush);
    world.settle();
    world.completed.clear();
    let (writes, link, dead, _) = five_writes(&mut world);
    world.lose(link);
    world.show(without(&world, dead));
    world.settle();
    all_done_once(&mut world, writes);
    let flush = world.request(Request::Flush);
    assert!(world.sent.iter().all(|(_, frame)| frame.header.opcode == Opcode::Flush && frame.header.device != dead));
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
    world.assert_idle();
}
