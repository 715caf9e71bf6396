//! Servers that were asked and say nothing, and servers that are back: how long a client takes to notice.
use super::world::*;
use crate::control::ClientToMdm;
use crate::error::Status;
use crate::id::{Epoch, MapVersion};
use crate::unit::Nanos;
use crate::volume::interface::{Event, Input, Outcome};

fn pulls(world: &World) -> usize {
    world.control.iter().filter(|message| matches!(message, ClientToMdm::Pull { .. })).count()
}

fn silences(world: &World) -> usize {
    world.events.iter().filter(|event| matches!(event, Event::Silent { requests: 1, .. })).count()
}

#[test]
fn a_silent_server_is_asked_about_and_nothing_more() {
    let mut world = World::open();
    let write = world.write(0, &[1; 4096]);
    world.connect_all();
    world.pass(Nanos::from_millis(999));
    assert_eq!((pulls(&world), silences(&world)), (0, 0));
    world.pass(Nanos::from_millis(2));
    assert_eq!((pulls(&world), silences(&world)), (1, 1));
    world.pass(Nanos::from_millis(10_000));
    assert_eq!((pulls(&world), silences(&world)), (2, 2), "and again every ten seconds");
    assert!(world.links_closed.is_empty(), "a slow disk is no reason to lose a connection");
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)));
    assert!(matches!(world.events.last(), Some(Event::Reached { .. })));
    world.assert_idle();
}

#[test]
fn a_server_that_answers_anything_is_not_silent() {
    let mut world = World::open();
    let slow = world.write(0, &[1; 4096]);
    world.connect_all();
    for _ in 0..10 {
        world.pass(Nanos::from_millis(500));
        world.read(4096, 4096);
        let sent = world.sent.remove(1);
        world.answer(sent);
    }
    assert_eq!((pulls(&world), silences(&world)), (0, 0));
    world.settle();
    assert_eq!(world.outcome(slow), Some(Ok(Outcome::Done)));
}

#[test]
fn silence_is_told_without_the_mdm_too() {
    let mut world = World::open();
    world.step(Input::Mdm { up: false });
    world.read(0, 4096);
    world.connect_all();
    world.pass(Nanos::from_millis(1100));
    assert_eq!((pulls(&world), silences(&world)), (0, 1));
}

/// A fenced session's requests were given up: their frames must not keep memory for as long as the host is away.
#[test]
fn a_silent_link_that_nobody_waits_for_is_let_go() {
    let mut world = World::open();
    world.write(0, &[1; 4096]);
    world.connect_all();
    let link = world.sent[0].0;
    world.show(view(world.version + 1, 2));
    world.pass(Nanos::from_millis(1001));
    assert_eq!(world.links_closed, [link]);
    assert_eq!(pulls(&world), 0);
}

#[test]
fn a_copy_being_promoted_is_asked_every_32_ms() {
    let mut world = World::open();
    let write = world.write(0, &[1; 4096]);
    world.connect_all();
    let mut longest = Nanos::ZERO;
    // The grace of a promoted copy, and then some.
    while world.now < Nanos::from_millis(1_600) {
        let sent = world.take_sent();
        world.refuse(sent, Status::NotReady);
        let refused_at = world.now;
        while world.sent.is_empty() {
            world.pass(Nanos::from_millis(1));
        }
        longest = longest.max(world.now.since(refused_at));
    }
    assert!(longest <= Nanos::from_millis(33), "{longest:?} from when it would have served");
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)));
}

#[test]
fn a_server_long_away_is_tried_at_once_when_a_view_comes() {
    let mut world = World::open();
    let read = world.read(0, 4096);
    for _ in 0..20_000 {
        for sds in std::mem::take(&mut world.connects) {
            world.step(Input::ConnectFailed { sds });
        }
        world.pass(Nanos::from_millis(1));
    }
    let mut newer = view(world.version + 1, 1);
    for shard in &mut newer.pools[0].shards {
        shard.epoch = Epoch::new(4);
    }
    world.show(newer);
    world.pass(Nanos::from_millis(11));
    assert_eq!(world.connects.len(), 1, "its pause had grown to a second");
    world.settle();
    assert_eq!(world.outcome(read), Some(Ok(Outcome::Zeroes)));
}

#[test]
fn a_pushed_view_ends_the_wait_for_it_at_once() {
    let mut world = World::open();
    world.read(0, 4096);
    world.connect_all();
    let sent = world.take_sent();
    world.refuse(sent, Status::MapStale);
    assert!(world.control.contains(&ClientToMdm::Pull { at_least: MapVersion::new(world.version + 1) }));
    world.pass(Nanos::from_millis(3));
    world.show(view(world.version + 1, 1));
    assert_eq!(world.sent.len(), 1, "no timer is waited for");
}
