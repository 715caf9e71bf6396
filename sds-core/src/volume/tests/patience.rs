//! Requests of a session with an `io_timeout`: given up in time, and never a ghost.
use super::world::*;
use crate::error::Status;
use crate::machine::Token;
use crate::unit::{ByteOffset, Nanos};
use crate::view::SessionMode;
use crate::volume::interface::{Event, Input, Outcome, Request};
use crate::volume::{LinkStatus, WaitsFor};

const LIMIT: Nanos = Nanos::from_millis(3_000);

fn impatient() -> World {
    let mut world = World::new();
    world.welcome();
    let mode = SessionMode::Exclusive;
    world.step(Input::Open { token: Token::new(0), volume: "demo", mode, force: false, io_timeout: Some(LIMIT) });
    let request = world.asked_open().expect("put");
    world.grant(request, 1);
    world.opened.clear();
    world
}

const GIVEN_UP: Option<Result<Outcome, Status>> = Some(Err(Status::NotReady));

#[test]
fn what_cannot_be_sent_fails_after_the_io_timeout_and_not_before() {
    let mut world = impatient();
    let requests = [world.read(0, 4096), world.write(0, &[1; 4096]), world.write(0, &[2; 4096]), world.request(Request::Flush)];
    let zero = Request::Zero { offset: ByteOffset::new(0), len: 1 << 20, trim: false, durable: false };
    let zero = world.request(zero);
    world.pass(Nanos::from_millis(2_999));
    assert!(world.completed.is_empty());
    world.pass(Nanos::from_millis(2));
    for request in requests.into_iter().chain([zero]) {
        assert_eq!(world.outcome(request), GIVEN_UP);
    }
    assert!(world.events.contains(&Event::TimedOut { volume: VOLUME }));
    world.assert_idle();
    world.connect_all();
    assert!(world.sent.is_empty(), "nothing of what was given up is sent");
    let write = world.write(0, &[3; 4096]);
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)), "the volume goes on");
}

#[test]
fn without_a_timeout_requests_wait_for_ever() {
    let mut world = World::open();
    let read = world.read(0, 4096);
    world.pass(Nanos::from_millis(3_600_000));
    assert_eq!(world.outcome(read), None);
}

/// A write that was given up may land yet: a later write of the block must not be overtaken by it (I10).
#[test]
fn a_later_write_waits_until_the_one_given_up_cannot_land() {
    let mut world = impatient();
    let slow = world.write(0, &[1; 4096]);
    world.connect_all();
    let (link, first) = world.take_sent();
    // Something else is answered, so the link is not silent.
    for _ in 0..6 {
        world.pass(Nanos::from_millis(501));
        world.read(4096, 4096);
        let sent = world.take_sent();
        world.answer(sent);
    }
    assert_eq!(world.outcome(slow), GIVEN_UP);
    let later = world.write(0, &[2; 4096]);
    assert!(world.sent.is_empty(), "the first is on its way still");
    world.answer((link, first));
    assert_eq!(world.outcome(slow), None, "answered once");
    world.settle();
    assert_eq!(world.outcome(later), Some(Ok(Outcome::Done)));
    world.completed.clear();
    let read = world.read(0, 4096);
    world.settle();
    assert_eq!(world.bytes_read(read, 4096), [2; 4096]);
    world.assert_idle();
}

#[test]
fn a_broken_link_ends_what_was_given_up_without_sending_it_again() {
    let mut world = impatient();
    let (write, read) = (world.write(0, &[1; 4096]), world.read(0, 4096));
    world.connect_all();
    let link = world.sent[0].0;
    // It is silent from the first second on, so it is let go as soon as nobody waits.
    world.pass(Nanos::from_millis(3_001));
    assert_eq!((world.outcome(write), world.outcome(read)), (GIVEN_UP, GIVEN_UP));
    assert_eq!(world.links_closed, [link], "with it goes the memory that its frames held");
    for (_, frame) in std::mem::take(&mut world.sent) {
        world.drop_payload(&frame);
    }
    world.assert_idle();
    let later = world.write(0, &[2; 4096]);
    world.pass(Nanos::from_millis(10));
    world.connect_all();
    assert_eq!(world.sent.len(), 1, "only the later one, over a higher connection");
    world.settle();
    assert_eq!(world.outcome(later), Some(Ok(Outcome::Done)));
    world.assert_idle();
}

#[test]
fn a_late_answer_to_a_read_given_up_leaks_nothing() {
    let mut world = impatient();
    world.write(0, &[1; 4096]);
    world.settle();
    let read = world.read(0, 4096);
    let sent = world.take_sent();
    for _ in 0..6 {
        world.pass(Nanos::from_millis(501));
        world.read(4096, 4096);
        let other = world.take_sent();
        world.answer(other);
    }
    assert_eq!(world.outcome(read), GIVEN_UP);
    world.answer(sent);
    assert_eq!(world.outcome(read), None);
    world.completed.clear();
    world.assert_idle();
}

#[test]
fn a_close_does_not_wait_longer_than_the_io_timeout() {
    let mut world = impatient();
    let token = world.token();
    world.step(Input::Close { token, volume: VOLUME });
    world.pass(Nanos::from_millis(3_001));
    assert!(world.events.contains(&Event::CloseFlushFailed { volume: VOLUME, status: Status::NotReady }));
    assert!(world.asked_close().is_some());
    world.assert_idle();
}

#[test]
fn the_most_patient_user_of_a_session_decides() {
    let mut world = impatient();
    let mode = SessionMode::Exclusive;
    world.step(Input::Open { token: Token::new(1), volume: "demo", mode, force: false, io_timeout: None });
    let read = world.read(0, 4096);
    world.pass(Nanos::from_millis(60_000));
    assert_eq!(world.outcome(read), None);
}

#[test]
fn what_a_request_waits_for_is_named() {
    let mut world = World::open();
    world.write(0, &[1; 4096]);
    let server = world.connects[0];
    let second = Nanos::from_millis(1000);
    assert!(world.client.stuck(world.now, second).is_empty(), "it has not waited yet");
    world.pass(second);
    let [stuck] = world.client.stuck(world.now, second)[..] else { panic!("one volume") };
    assert_eq!((stuck.volume, stuck.waits_for), (VOLUME, WaitsFor::Server { sds: server, link: LinkStatus::Connecting }));
    assert!(stuck.shard.is_some());
    world.connect_all();
    let [stuck] = world.client.stuck(world.now, second)[..] else { panic!("one volume") };
    assert_eq!(stuck.waits_for, WaitsFor::Server { sds: server, link: LinkStatus::Ready });
    let sent = world.take_sent();
    let device = sent.1.header.device;
    world.refuse(sent, Status::NotReady);
    let [stuck] = world.client.stuck(world.now, second)[..] else { panic!("one volume") };
    assert_eq!(stuck.waits_for, WaitsFor::Device { device, sds: server });
}
