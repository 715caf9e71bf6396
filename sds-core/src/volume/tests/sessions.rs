//! Opening, sharing, closing, losing a session.
use super::world::*;
use crate::control::{ClientToMdm, MdmToClient, OpenError};
use crate::error::Status;
use crate::id::SessionGeneration;
use crate::machine::Token;
use crate::unit::{ByteCount, Nanos};
use crate::view::SessionMode;
use crate::volume::interface::{Event, Input, Outcome, Request};

fn ask_open(world: &mut World, mode: SessionMode) -> Token {
    let token = world.token();
    world.step(Input::Open { token, volume: "demo", mode, force: false, io_timeout: None });
    token
}

fn ask_close(world: &mut World) -> Token {
    let token = world.token();
    world.step(Input::Close { token, volume: VOLUME });
    token
}

#[test]
fn an_open_waits_for_the_mdm_and_is_put_again_on_each_connection() {
    let mut world = World::new();
    let token = ask_open(&mut world, SessionMode::Exclusive);
    assert!(world.control.is_empty());
    world.welcome();
    let first = world.asked_open().expect("put");
    world.step(Input::Mdm { up: false });
    world.control.clear();
    world.welcome();
    assert_eq!(world.asked_open(), Some(first));
    world.grant(first, 1);
    assert!(matches!(world.opened[..], [(answered, Ok(volume))] if answered == token && volume.id == VOLUME));
    world.hear(&MdmToClient::Opened { request: first, result: Err(OpenError::NoVolume { name: "demo".into() }) });
    assert_eq!(world.opened.len(), 1, "a second answer is for nobody");
}

#[test]
fn a_grant_counts_when_its_view_has_come() {
    let mut world = World::new();
    world.welcome();
    ask_open(&mut world, SessionMode::Exclusive);
    let request = world.asked_open().expect("put");
    world.hear_granted(request, 1, 12);
    assert!(world.opened.is_empty());
    world.show(view(12, 1));
    assert_eq!(world.opened.len(), 1);
}

/// Simulator seed 23000512: requests of such a session waited for good.
#[test]
fn a_session_taken_over_before_its_grant_came_is_fenced_at_once() {
    let mut world = World::new();
    world.welcome();
    ask_open(&mut world, SessionMode::Exclusive);
    let request = world.asked_open().expect("put");
    world.show(view(12, 2));
    world.hear_granted(request, 1, 11);
    assert_eq!((world.opened.len(), world.events.as_slice()), (1, [Event::Fenced { volume: VOLUME }].as_slice()));
    let write = world.write(0, &[1; 4096]);
    assert_eq!(world.outcome(write), Some(Err(Status::Fenced)));
    world.assert_idle();
}

#[test]
fn busy_is_handed_on() {
    let mut world = World::new();
    world.welcome();
    let token = ask_open(&mut world, SessionMode::Exclusive);
    let busy = OpenError::Busy { name: "demo".into(), holder: "other".into(), since: "now".into() };
    world.hear(&MdmToClient::Opened { request: world.asked_open().expect("put"), result: Err(busy.clone()) });
    assert_eq!(world.opened, [(token, Err(busy))]);
}

#[test]
fn users_share_one_session_and_the_last_one_closes_it() {
    let mut world = World::open();
    let second = ask_open(&mut world, SessionMode::Exclusive);
    assert_eq!(world.opened.pop().map(|(token, result)| (token, result.is_ok())), Some((second, true)));
    let reader = ask_open(&mut world, SessionMode::ReadOnly);
    assert!(matches!(world.opened.pop(), Some((token, Err(OpenError::Refused { .. }))) if token == reader));
    let first_close = ask_close(&mut world);
    assert_eq!(world.closed, [first_close]);
    let last_close = ask_close(&mut world);
    world.settle();
    world.hear(&MdmToClient::Closed { request: world.asked_close().expect("given back") });
    assert_eq!(world.closed, [first_close, last_close]);
    assert_eq!(world.client.volumes().count(), 0);
    world.assert_idle();
}

#[test]
fn two_opens_at_once_are_one_session() {
    let mut world = World::new();
    world.welcome();
    ask_open(&mut world, SessionMode::Exclusive);
    ask_open(&mut world, SessionMode::Exclusive);
    let opens = world.control.iter().filter(|message| matches!(message, ClientToMdm::Open { .. })).count();
    assert_eq!(opens, 1, "a second grant would fence the first");
    world.grant(world.asked_open().expect("put"), 1);
    assert_eq!(world.opened.len(), 2);
}

#[test]
fn a_close_waits_for_requests_and_flushes() {
    let mut world = World::open();
    let write = world.write(0, &[1; 4096]);
    ask_close(&mut world);
    let late = world.read(0, 4096);
    assert_eq!(world.outcome(late), Some(Err(Status::NoVolume)), "no new requests while closing");
    let reopen = ask_open(&mut world, SessionMode::Exclusive);
    assert_eq!(world.asked_close(), None);
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)));
    let close = world.asked_close().expect("after write and flush");
    assert_eq!(world.asked_open(), None, "the next open waits for the close");
    world.hear(&MdmToClient::Closed { request: close });
    assert_eq!(world.closed.len(), 1);
    world.grant(world.asked_open().expect("now"), 2);
    assert!(matches!(world.opened[..], [(token, Ok(_))] if token == reopen));
    world.assert_idle();
}

#[test]
fn a_flush_that_fails_at_close_is_told() {
    let mut world = World::open();
    ask_close(&mut world);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::DeviceFailed);
    world.settle();
    assert!(world.events.contains(&Event::CloseFlushFailed { volume: VOLUME, status: Status::DeviceFailed }));
    assert!(world.asked_close().is_some());
}

#[test]
fn a_fenced_session_ends_every_request_wherever_it_is() {
    let mut world = World::open();
    world.write(0, &[1; 4096]);
    world.write(0, &[2; 4096]);
    world.read(1 << 20, 4096);
    world.request(Request::Zero { offset: crate::unit::ByteOffset::new(0), len: 1 << 20, trim: false, durable: false });
    world.request(Request::Flush);
    world.write(3 << 20, &[3; 4096]);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::Fenced);
    assert_eq!(world.completed.len(), 6);
    assert!(world.completed.drain(..).all(|(_, result)| result == Err(Status::Fenced)));
    assert_eq!(world.events, [Event::Fenced { volume: VOLUME }]);
    // What had been sent is answered late, for nobody.
    world.settle();
    assert!(world.completed.is_empty());
    let write = world.write(0, &[1; 4096]);
    assert_eq!(world.outcome(write), Some(Err(Status::Fenced)));
    world.assert_idle();
    let again = ask_open(&mut world, SessionMode::Exclusive);
    assert!(matches!(world.opened.pop(), Some((token, Err(OpenError::Refused { .. }))) if token == again), "its users must let go first");
    ask_close(&mut world);
    assert_eq!(world.closed.len(), 1);
    assert_eq!(world.asked_close(), None, "there is nothing to give back");
}

#[test]
fn a_view_without_our_session_fences() {
    let mut world = World::open();
    let write = world.write(0, &[1; 4096]);
    world.show(view(world.version + 1, 2));
    assert_eq!(world.outcome(write), Some(Err(Status::Fenced)));
    world.assert_idle();
}

#[test]
fn a_fence_during_the_closing_flush_ends_the_close() {
    let mut world = World::open();
    ask_close(&mut world);
    world.show(view(world.version + 1, 2));
    assert_eq!(world.closed.len(), 1);
    assert_eq!(world.asked_close(), None);
    world.settle();
    world.assert_idle();
}

#[test]
fn a_grown_volume_can_be_used_at_once() {
    let mut world = World::open();
    let read = world.read(SIZE, 4096);
    assert_eq!(world.outcome(read), Some(Err(Status::PastEnd)));
    let mut grown = view(world.version + 1, 1);
    grown.volumes.as_mut().expect("there")[0].size = ByteCount::new(SIZE * 2);
    world.show(grown);
    let read = world.read(SIZE, 4096);
    world.settle();
    assert_eq!(world.outcome(read), Some(Ok(Outcome::Zeroes)));
}

#[test]
fn a_read_only_session_does_not_write() {
    let mut world = World::new();
    world.welcome();
    ask_open(&mut world, SessionMode::ReadOnly);
    let request = world.asked_open().expect("put");
    world.show(view(world.version + 1, 1));
    let opened = crate::control::Opened {
        volume: VOLUME,
        generation: SessionGeneration::new(1),
        mode: SessionMode::ReadOnly,
        version: crate::id::MapVersion::new(world.version),
    };
    world.hear(&MdmToClient::Opened { request, result: Ok(opened) });
    let write = world.write(0, &[1; 4096]);
    assert_eq!(world.outcome(write), Some(Err(Status::ReadOnly)));
    world.assert_idle();
}

#[test]
fn requests_go_on_without_the_mdm() {
    let mut world = World::open();
    world.step(Input::Mdm { up: false });
    let write = world.write(0, &[1; 4096]);
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)));
    world.pass(Nanos::from_millis(2000));
    assert!(world.control.is_empty(), "no heartbeat to nobody");
}

#[test]
fn signs_of_life_are_regular() {
    let mut world = World::open();
    world.pass(Nanos::from_millis(10_000));
    let beats = world.control.iter().filter(|message| matches!(message, ClientToMdm::Heartbeat)).count();
    assert_eq!(beats, 20);
}

#[test]
fn an_mdm_of_another_system_is_refused() {
    let mut world = World::open();
    world.step(Input::Mdm { up: false });
    world.step(Input::Mdm { up: true });
    world.hear(&MdmToClient::Welcome { system: crate::id::SystemId::new(78) });
    assert!(matches!(world.events[..], [Event::Refused { .. }]));
    assert!(!world.client.mdm_is_up());
}

#[test]
fn a_refused_client_says_so_to_whoever_opens() {
    let mut world = World::new();
    ask_open(&mut world, SessionMode::Exclusive);
    world.step(Input::Mdm { up: true });
    world.hear(&MdmToClient::Refused { reason: "too old".into() });
    assert!(matches!(&world.opened[..], [(_, Err(OpenError::Refused { reason, .. }))] if reason == "too old"));
}
