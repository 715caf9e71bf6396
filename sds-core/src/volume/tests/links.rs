//! Links come and go; requests wait and are sent again.
use super::world::*;
use crate::error::Status;
use crate::id::{ConnectionNumber, SdsId};
use crate::machine::LinkId;
use crate::unit::Nanos;
use crate::volume::LinkStatus;
use crate::volume::interface::{Event, Input, Outcome};
use crate::wire::{Frame, Header, Opcode};

#[test]
fn unanswered_requests_are_sent_again_in_order_over_a_higher_connection() {
    let mut world = World::open();
    let writes: Vec<_> = (0..5_u8).map(|at| world.write(u64::from(at) * 4096, &[at + 1; 4096])).collect();
    world.connect_all();
    let first: Vec<Frame> = world.sent.iter().map(|(_, frame)| *frame).collect();
    let link = world.sent[0].0;
    // The third was applied, but its answer is lost.
    let third = world.sent[2].1;
    world.obey(&third);
    world.lose(link);
    assert!(world.connects.is_empty(), "there is a pause first");
    world.pass(Nanos::from_millis(10));
    world.connect_all();
    let second: Vec<Frame> = world.sent.iter().map(|(_, frame)| *frame).collect();
    assert_eq!(second.len(), 5);
    for (before, after) in first.iter().zip(&second) {
        assert_eq!(before.header.connection, ConnectionNumber::new(FIRST_CONNECTION));
        assert_eq!(after.header.connection, ConnectionNumber::new(FIRST_CONNECTION + 1), "I10: a higher number");
        assert_eq!((before.header.request, before.body), (after.header.request, after.body));
    }
    world.settle();
    assert!(writes.into_iter().all(|write| world.outcome(write) == Some(Ok(Outcome::Done))));
    world.assert_idle();
}

/// The server hangs; its device is moved to another; then the link breaks, and the server never comes back.
#[test]
fn what_was_sent_to_a_server_whose_device_moved_goes_to_its_new_server() {
    let mut world = World::open();
    let write = world.write(0, &[1; 4096]);
    world.connect_all();
    let (link, frame) = world.sent[0];
    let mut moved = view(world.version + 1, 1);
    let other = SdsId::new(1 + frame.header.device.get() % SERVERS);
    for device in moved.servers.as_mut().into_iter().flat_map(|(devices, _)| devices) {
        device.sds = other;
    }
    world.show(moved);
    world.lose(link);
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)), "without the server that is gone");
}

#[test]
fn a_refused_connection_number_is_learned_from() {
    let mut world = World::open();
    world.write(0, &[1; 4096]);
    let sds = world.connects.remove(0);
    let link = LinkId::new(77);
    world.step(Input::Linked { sds, link });
    world.hellos.clear();
    let highest = ConnectionNumber::new(FIRST_CONNECTION + 1_000_000);
    let header = Header { connection: highest, status: Status::Invalid, ..Header::new(Opcode::HelloReply) };
    world.step(Input::Frame { link, frame: &Frame::bare(header) });
    world.pass(Nanos::from_millis(10));
    let sds = world.connects.remove(0);
    world.step(Input::Linked { sds, link: LinkId::new(78) });
    let (_, hello) = world.hellos.pop().expect("a greeting");
    assert!(hello.header.connection > highest);
}

#[test]
fn an_answer_over_a_lost_link_is_not_believed() {
    let mut world = World::open();
    let write = world.write(0, &[1; 4096]);
    world.connect_all();
    let (link, frame) = world.sent[0];
    world.lose(link);
    let late = Frame::bare(Header { opcode: Opcode::WriteReply, ..frame.header });
    world.step(Input::Frame { link, frame: &late });
    assert_eq!(world.outcome(write), None);
    world.pass(Nanos::from_millis(10));
    world.settle();
    assert_eq!(world.outcome(write), Some(Ok(Outcome::Done)));
    world.assert_idle();
}

#[test]
fn the_buffer_of_a_write_is_kept_until_it_is_complete() {
    let mut world = World::open();
    let span = world.buffer_of(&[1; 4096]);
    world.request(crate::volume::interface::Request::Write { offset: crate::unit::ByteOffset::new(0), span, durable: false });
    world.connect_all();
    assert_eq!(world.pool.uses(span.buffer), 2, "the machine's, and the frame's");
    let link = world.sent[0].0;
    world.lose(link);
    assert_eq!(world.pool.uses(span.buffer), 1, "kept for sending again");
    world.pass(Nanos::from_millis(10));
    world.settle();
    assert_eq!(world.pool.uses(span.buffer), 0);
}

#[test]
fn a_server_that_cannot_be_reached_is_waited_for_and_named() {
    let mut world = World::open();
    let read = world.read(0, 4096);
    let mut tries = 0;
    for _ in 0..30_000 {
        for sds in std::mem::take(&mut world.connects) {
            tries += 1;
            world.step(Input::ConnectFailed { sds });
        }
        world.pass(Nanos::from_millis(1));
    }
    assert!((30..45).contains(&tries), "10, 20, 40, … 1000 ms: {tries} tries in 30 s");
    let waiting: Vec<_> = world.events.iter().filter(|event| matches!(event, Event::Waiting { requests: 1, .. })).collect();
    assert_eq!(waiting.len(), 3, "after 1, 11 and 21 seconds: {waiting:?}");
    world.pass(Nanos::from_millis(1000));
    world.settle();
    assert_eq!(world.outcome(read), Some(Ok(Outcome::Zeroes)));
    assert!(matches!(world.events.last(), Some(Event::Reached { .. })));
    world.assert_idle();
}

#[test]
fn a_server_that_does_not_answer_the_greeting_is_left() {
    let mut world = World::open();
    world.read(0, 4096);
    let sds = world.connects.pop().expect("connects");
    let link = LinkId::new(500);
    world.step(Input::Linked { sds, link });
    world.pass(Nanos::from_millis(5000));
    assert_eq!(world.links_closed, [link]);
    world.pass(Nanos::from_millis(20));
    assert_eq!(world.connects, [sds]);
}

#[test]
fn a_refused_greeting_is_told_and_tried_again() {
    let mut world = World::open();
    world.read(0, 4096);
    let sds = world.connects.pop().expect("connects");
    let link = LinkId::new(500);
    world.step(Input::Linked { sds, link });
    let refusal = Frame::bare(Header { status: Status::Fenced, ..Header::new(Opcode::HelloReply) });
    world.step(Input::Frame { link, frame: &refusal });
    assert_eq!(world.links_closed, [link]);
    assert!(world.events.contains(&Event::LinkRefused { sds, status: Status::Fenced }));
    world.pass(Nanos::from_millis(10));
    assert_eq!(world.connects, [sds]);
}

#[test]
fn a_stopping_server_is_let_go_and_found_again() {
    let mut world = World::open();
    let (first, second) = (world.write(0, &[1; 4096]), world.write(4096, &[2; 4096]));
    world.connect_all();
    let link = world.sent[0].0;
    let sent = world.take_sent();
    world.refuse(sent, Status::Stopping);
    assert!(world.links_closed.is_empty(), "the second is still unanswered");
    let sent = world.take_sent();
    world.answer(sent);
    assert_eq!(world.outcome(second), Some(Ok(Outcome::Done)));
    assert_eq!(world.links_closed, [link]);
    assert!(world.sent.is_empty());
    world.pass(Nanos::from_millis(10));
    world.settle();
    assert_eq!(world.outcome(first), Some(Ok(Outcome::Done)));
    world.assert_idle();
}

#[test]
fn a_link_nobody_asked_for_is_closed() {
    let mut world = World::open();
    world.step(Input::Linked { sds: SdsId::new(1), link: LinkId::new(7) });
    assert_eq!(world.links_closed, [LinkId::new(7)]);
    assert!(world.client.servers().all(|server| server.link == LinkStatus::Down));
}
