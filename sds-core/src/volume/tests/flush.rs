//! What a flush covers, where it goes and when it fails.
use super::world::*;
use crate::error::Status;
use crate::id::Epoch;
use crate::unit::{ByteOffset, Nanos};
use crate::volume::interface::{Outcome, Request};
use crate::wire::{CacheIds, Opcode};

/// A world whose session has nothing unflushed.
fn clean() -> World {
    let mut world = World::open();
    world.request(Request::Flush);
    world.settle();
    world.completed.clear();
    world
}

#[test]
fn a_fresh_session_flushes_every_device_of_the_pool_once() {
    let mut world = World::open();
    let flush = world.request(Request::Flush);
    world.connect_all();
    assert_eq!(world.sent.len(), SERVERS as usize);
    assert!(world.sent.iter().all(|(_, frame)| frame.header.opcode == Opcode::Flush && frame.cache_ids == CacheIds::NONE));
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
    let again = world.request(Request::Flush);
    assert_eq!(world.outcome(again), Some(Ok(Outcome::Done)), "nothing is left to flush");
    world.assert_idle();
}

#[test]
fn a_flush_goes_to_the_devices_written_since_the_last() {
    let mut world = clean();
    world.write(0, &[1; 4096]);
    world.settle();
    let flush = world.request(Request::Flush);
    assert_eq!(world.sent.len(), 1);
    let (link, frame) = world.take_sent();
    assert_eq!(frame.header.epoch, Epoch::new(3), "it names the shard it asks about, as the map has it");
    world.answer((link, frame));
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
}

#[test]
fn a_write_in_flight_is_not_covered_and_keeps_its_device_dirty() {
    let mut world = clean();
    world.write(0, &[1; 4096]);
    world.settle();
    world.write(4096, &[1; 4096]);
    let flush = world.request(Request::Flush);
    // The write's answer comes before the flush's.
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
    world.request(Request::Flush);
    assert_eq!(world.sent.len(), 1, "the second write is flushed by the second flush");
    world.settle();
    world.completed.clear();
    world.assert_idle();
}

#[test]
fn a_durable_write_leaves_nothing_to_flush() {
    let mut world = clean();
    let span = world.buffer_of(&[1; 4096]);
    world.request(Request::Write { offset: ByteOffset::new(0), span, durable: true });
    world.settle();
    let flush = world.request(Request::Flush);
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
}

#[test]
fn a_lost_flush_fails_once() {
    let mut world = clean();
    world.write(0, &[1; 4096]);
    world.settle();
    let flush = world.request(Request::Flush);
    let sent = world.take_sent();
    world.refuse(sent, Status::FlushLost);
    assert_eq!(world.outcome(flush), Some(Err(Status::FlushLost)));
    let flush = world.request(Request::Flush);
    assert_eq!(world.sent[0].1.cache_ids, CacheIds::NONE, "it relies on the lost cache no more");
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
}

/// Shows a view in which every shard is at the next epoch, begun without any copy's cache if `lost`.
fn next_epoch(world: &mut World, lost: bool) {
    let mut next = view(world.version + 1, 1);
    for entry in &mut next.pools[0].shards {
        entry.epoch = Epoch::new(4);
        entry.cache_lost_in = if lost { Epoch::new(4) } else { Epoch::new(0) };
    }
    next.volumes = None;
    world.show(next);
}

#[test]
fn a_reboot_between_two_writes_is_not_hidden_by_the_second() {
    let mut world = clean();
    world.write(0, &[1; 4096]);
    world.settle();
    next_epoch(&mut world, true);
    world.write(4096, &[1; 4096]);
    world.settle();
    let flush = world.request(Request::Flush);
    world.settle();
    assert_eq!(world.outcome(flush), Some(Err(Status::FlushLost)));
    let flush = world.request(Request::Flush);
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)), "told once");
}

#[test]
fn a_loss_is_told_again_to_who_waited_for_a_write_when_it_was_told() {
    let mut world = clean();
    world.write(0, &[1; 4096]);
    world.settle();
    next_epoch(&mut world, true);
    let flush = world.request(Request::Flush);
    let asked = world.take_sent();
    // It may be the rest of what was written first.
    let rest = world.write(4096, &[1; 4096]);
    world.answer(asked);
    assert_eq!(world.outcome(flush), Some(Err(Status::FlushLost)));
    world.settle();
    assert_eq!(world.outcome(rest), Some(Ok(Outcome::Done)));
    for told in [Err(Status::FlushLost), Ok(Outcome::Done)] {
        world.write(8192, &[1; 4096]);
        world.settle();
        let flush = world.request(Request::Flush);
        world.settle();
        assert_eq!(world.outcome(flush), Some(told), "once more, and no more");
    }
}

#[test]
fn an_epoch_that_kept_a_copy_s_cache_loses_nothing() {
    let mut world = clean();
    world.write(0, &[1; 4096]);
    world.settle();
    next_epoch(&mut world, false);
    let flush = world.request(Request::Flush);
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
}

#[test]
fn what_is_written_after_a_loss_is_flushed() {
    let mut world = clean();
    next_epoch(&mut world, true);
    world.write(0, &[1; 4096]);
    world.settle();
    let flush = world.request(Request::Flush);
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
}

#[test]
fn a_flush_that_an_older_map_answered_is_asked_again() {
    let mut world = clean();
    world.write(0, &[1; 4096]);
    world.settle();
    let flush = world.request(Request::Flush);
    let sent = world.take_sent();
    next_epoch(&mut world, false);
    world.answer(sent);
    assert_eq!(world.outcome(flush), None, "some shards may have been elsewhere already");
    assert_eq!(world.sent.len(), 1);
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
}

#[test]
fn one_failed_device_fails_the_flush_and_the_others_are_flushed_all_the_same() {
    let mut world = World::open();
    let flush = world.request(Request::Flush);
    world.connect_all();
    let sent = world.take_sent();
    let failed = sent.1.header.device;
    world.refuse(sent, Status::DeviceFailed);
    world.settle();
    assert_eq!(world.outcome(flush), Some(Err(Status::DeviceFailed)));
    world.request(Request::Flush);
    assert_eq!(world.sent.len(), 1);
    assert_eq!(world.sent[0].1.header.device, failed, "only the failed one is still dirty");
}

#[test]
fn a_failed_device_does_not_hide_that_writes_are_lost() {
    let mut world = World::open();
    let flush = world.request(Request::Flush);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::DeviceFailed);
    let sent = world.take_sent();
    world.refuse(sent, Status::FlushLost);
    world.settle();
    assert_eq!(world.outcome(flush), Some(Err(Status::FlushLost)), "told once, so it must be told");
}

#[test]
fn a_flush_survives_the_loss_of_its_link() {
    let mut world = clean();
    world.write(0, &[1; 4096]);
    world.settle();
    let flush = world.request(Request::Flush);
    let link = world.sent[0].0;
    world.lose(link);
    world.pass(Nanos::from_millis(10));
    world.settle();
    assert_eq!(world.outcome(flush), Some(Ok(Outcome::Done)));
    world.completed.clear();
    world.assert_idle();
}
