//! What a refusal leads to: another try, or a final error.
use super::world::*;
use crate::checksum::{Checksum, ChecksumList};
use crate::control::ClientToMdm;
use crate::error::Status;
use crate::id::{Epoch, MapVersion};
use crate::limits::PAYLOAD_RETRIES_MAX;
use crate::unit::{ByteOffset, Nanos};
use crate::volume::interface::{Event, Input, Outcome};
use crate::wire::{Body, Frame, Header, Opcode};

#[test]
fn a_stale_map_is_fetched_and_the_write_sent_again_with_the_new_epoch() {
    let mut world = World::open();
    let write = world.write(0, &[7; 4096]);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::MapStale);
    let newest = MapVersion::new(world.version + 1);
    assert!(world.control.contains(&ClientToMdm::Pull { at_least: newest }), "{:?}", world.control);
    assert!(world.sent.is_empty(), "nothing is sent until there is a newer view");
    let mut newer = view(newest.get(), 1);
    for shard in &mut newer.pools[0].shards {
        shard.epoch = Epoch::new(4);
    }
    world.show(newer);
    assert_eq!(world.sent[0].1.header.epoch, Epoch::new(4));
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)));
    world.assert_idle();
}

#[test]
fn a_map_that_never_comes_is_asked_for_again() {
    let mut world = World::open();
    world.read(0, 4096);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::MapStale);
    world.pass(Nanos::from_millis(999));
    assert!(world.sent.is_empty());
    world.pass(Nanos::from_millis(2));
    assert_eq!(world.sent.len(), 1);
}

#[test]
fn not_ready_is_tried_again_with_growing_pauses() {
    let mut world = World::open();
    let read = world.read(0, 4096);
    world.connect_all();
    let mut tries = 0;
    for _ in 0..1000 {
        if !world.sent.is_empty() {
            let sent = world.take_sent();
            world.refuse(sent, Status::NotReady);
            tries += 1;
        }
        world.pass(Nanos::from_millis(1));
    }
    assert!((30..=36).contains(&tries), "2, 4, 8, 16, 32, 32, … ms: {tries} tries in a second");
    world.pass(Nanos::from_millis(100));
    world.settle();
    assert_eq!(world.outcome(read), Some(Ok(Outcome::Zeroes)));
    world.assert_idle();
}

#[test]
fn final_statuses_go_to_the_user() {
    for status in [Status::NoSpace, Status::DeviceFailed, Status::Corrupt, Status::Invalid, Status::NoVolume] {
        let mut world = World::open();
        let write = world.write(0, &[7; 4096]);
        world.connect_all();
        let sent = world.take_sent();
        world.refuse(sent, status);
        assert_eq!(world.outcome(write), Some(Err(status)));
        world.assert_idle();
    }
}

#[test]
fn a_failed_device_is_told_once_until_it_serves_again() {
    let mut world = World::open();
    let told = |world: &World| world.events.iter().filter(|event| matches!(event, Event::DeviceFailed { .. })).count();
    for expected in 1..=2 {
        for _ in 0..3 {
            let read = world.read(0, 4096);
            world.connect_all();
            let sent = world.take_sent();
            let device = sent.1.header.device;
            world.refuse(sent, Status::DeviceFailed);
            assert_eq!(world.outcome(read), Some(Err(Status::DeviceFailed)));
            assert!(world.events.iter().any(|event| matches!(event, Event::DeviceFailed { device: named, .. } if *named == device)));
            assert_eq!(told(&world), expected);
        }
        world.read(0, 4096);
        world.settle();
    }
    world.assert_idle();
}

#[test]
fn a_device_that_lets_requests_wait_for_long_is_told() {
    let mut world = World::open();
    let told = |world: &World| world.events.iter().filter(|event| matches!(event, Event::DeviceNotReady { .. })).count();
    let read = world.read(0, 4096);
    world.connect_all();
    for (until, expected) in [(900, 0), (2_000, 1), (10_900, 1), (12_000, 2)] {
        while world.now < Nanos::from_millis(until) {
            if !world.sent.is_empty() {
                let sent = world.take_sent();
                world.refuse(sent, Status::NotReady);
            }
            world.pass(Nanos::from_millis(10));
        }
        assert_eq!(told(&world), expected, "after {until} ms");
    }
    world.pass(Nanos::from_millis(200));
    world.settle();
    assert_eq!(world.outcome(read), Some(Ok(Outcome::Zeroes)));
    world.assert_idle();
}

#[test]
fn an_unreadable_block_is_named() {
    let mut world = World::open();
    world.read((1 << 20) + 8192, 4096);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::Corrupt);
    assert!(world.events.contains(&Event::Unreadable { volume: VOLUME, offset: ByteOffset::new((1 << 20) + 8192) }));
}

#[test]
fn a_write_whose_payload_was_damaged_is_sent_again() {
    let mut world = World::open();
    let write = world.write(0, &[7; 4096]);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::PayloadDamaged);
    assert_eq!(world.outcome(write), None);
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)));
    world.assert_idle();
}

/// A reply whose bytes do not match their checksum.
fn damaged_reply(world: &mut World, frame: &Frame) -> Frame {
    let span = world.buffer_of(&[1; 4096]);
    let mut checksums = ChecksumList::EMPTY;
    checksums.push(Checksum::new(12345));
    Frame::with_payload(Header { opcode: Opcode::ReadReply, ..frame.header }, span, checksums)
}

#[test]
fn damaged_bytes_never_reach_the_user() {
    let mut world = World::open();
    world.write(0, &[7; 4096]);
    world.settle();
    let read = world.read(0, 4096);
    for _ in 0..PAYLOAD_RETRIES_MAX {
        let (link, frame) = world.take_sent();
        let reply = damaged_reply(&mut world, &frame);
        world.step(Input::Frame { link, frame: &reply });
        assert_eq!(world.outcome(read), None);
    }
    assert_eq!(world.events.len(), usize::from(PAYLOAD_RETRIES_MAX));
    world.settle();
    assert_eq!(world.bytes_read(read, 4096), vec![7; 4096], "the undamaged answer counts");
    let read = world.read(0, 4096);
    for _ in 0..=PAYLOAD_RETRIES_MAX {
        let (link, frame) = world.take_sent();
        let reply = damaged_reply(&mut world, &frame);
        world.step(Input::Frame { link, frame: &reply });
    }
    assert_eq!(world.outcome(read), Some(Err(Status::Corrupt)), "in the end it is an error, never wrong data");
    world.assert_idle();
}

#[test]
fn an_answer_of_the_wrong_kind_or_to_nothing_is_dropped() {
    let mut world = World::open();
    let read = world.read(0, 4096);
    world.connect_all();
    let (link, frame) = world.take_sent();
    let wrong = Frame::bare(Header { opcode: Opcode::WriteReply, ..frame.header });
    world.step(Input::Frame { link, frame: &wrong });
    assert_eq!(world.outcome(read), None);
    let reply = damaged_reply(&mut world, &frame);
    let nobody = Frame { header: Header { request: crate::id::RequestId::new(0xffff_ff00), ..reply.header }, ..reply };
    assert!(matches!(nobody.body, Body::Payload { .. }));
    world.step(Input::Frame { link, frame: &nobody });
    assert_eq!(world.client.stale_answers(), 2);
    world.answer((link, frame));
    assert_eq!(world.outcome(read), Some(Ok(Outcome::Zeroes)));
    world.assert_idle();
}
