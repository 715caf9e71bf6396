//! Who is served by a storage node: epochs, incarnations, sessions, connections, views.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod replica_rig;

use replica_rig::*;
use sds_core::error::Status;
use sds_core::id::*;
use sds_core::limits::{REQUESTS_PER_CONNECTION_MAX, SEQUENCE_RESERVATION};
use sds_core::machine::LinkId;
use sds_core::replica::interface::{Event, Input};
use sds_core::unit::*;
use sds_core::view::SessionMode;
use sds_core::wire::*;

const B: u32 = BLOCK_BYTES;

fn serving() -> (Node, LinkId) {
    let mut node = Node::serving();
    let link = node.login(ALICE, 1);
    (node, link)
}

fn at_epoch(node: &mut Node, epoch: u32) -> Header {
    Header { epoch: Epoch::new(epoch), ..node.header(Opcode::Read, 1, 0, B) }
}

#[test]
fn a_lower_epoch_is_answered_with_ours() {
    let (mut node, link) = serving();
    node.place(4, 1);
    node.push();
    let header = at_epoch(&mut node, 3);
    let request = node.send(link, header);
    let answer = node.finish(request);
    assert_eq!((answer.status(), answer.header.epoch), (Status::MapStale, Epoch::new(4)));
    assert_eq!(answer.header.map_version, node.view.version);
    let header = at_epoch(&mut node, 4);
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Ok);
}

#[test]
fn a_higher_epoch_waits_for_the_view_which_is_asked_for_once() {
    let (mut node, link) = serving();
    node.pulls.clear();
    let ahead = MapVersion::new(node.view.version.get() + 1);
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let header = Header { map_version: ahead, ..at_epoch(&mut node, 2) };
            node.send(link, header)
        })
        .collect();
    assert_eq!(node.pulls, [node.view.version], "once, and by what it has itself: what a frame claims may be nobody's version");
    assert_eq!(node.replica.status().parked, 5);
    node.place(2, 1);
    node.push();
    for request in requests {
        assert_eq!(node.answer(request).expect("answered").status(), Status::Ok);
    }
    node.assert_idle();
}

#[test]
fn a_view_that_does_not_come_in_time_is_not_ready() {
    let (mut node, link) = serving();
    let header = at_epoch(&mut node, 2);
    let request = node.send(link, header);
    node.run_until(node.now.plus(Nanos::from_millis(499)));
    assert!(node.answer(request).is_none());
    node.run_until(node.now.plus(Nanos::from_millis(2)));
    assert_eq!(node.answer(request).expect("answered").status(), Status::NotReady);
    node.assert_idle();
}

#[test]
fn a_shard_of_a_former_incarnation_is_not_served() {
    let mut node = Node::opened(vec![Disk::formatted()], 2);
    node.register();
    node.place(1, 1);
    node.push();
    let link = node.login(ALICE, 1);
    let header = at_epoch(&mut node, 1);
    let request = node.send(link, header);
    node.drain();
    assert!(node.answer(request).is_none(), "I6: not in this life");
    node.place(2, 2);
    node.push();
    assert_eq!(node.answer(request).expect("answered").status(), Status::MapStale);
    let header = at_epoch(&mut node, 2);
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Ok);
}

#[test]
fn a_shard_of_another_device_is_not_served() {
    let (mut node, link) = serving();
    node.view.pools[0].shards.iter_mut().for_each(|entry| {
        let elsewhere = sds_core::map::Member { device: DeviceId::new(99), incarnation: Incarnation::new(1) };
        (entry.in_sync, entry.epoch) = (sds_core::map::InSync::sole(elsewhere), Epoch::new(2));
    });
    node.push();
    let header = at_epoch(&mut node, 1);
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::MapStale);
    let header = at_epoch(&mut node, 2);
    let request = node.send(link, header);
    // It may be a device of ours that has not been opened and registered yet, so the client waits.
    node.run_until(node.now.plus(MAP_WAIT));
    assert_eq!(node.finish(request).status(), Status::NotReady);
}

#[test]
fn an_epoch_is_not_served_by_a_map_older_than_the_one_that_made_it() {
    let (mut node, link) = serving();
    node.place(5, 1);
    let later = MapVersion::new(node.view.version.get() + 100);
    node.view.pools.iter_mut().flat_map(|pool| &mut pool.shards).for_each(|entry| entry.made_at = later);
    node.push();
    assert_eq!(node.replica.status().epochs_refused, u64::from(SHARDS), "I3: sessions made before it may not be known here");
    let header = at_epoch(&mut node, 5);
    let request = node.send(link, header);
    node.run_until(node.now.plus(MAP_WAIT));
    assert_eq!(node.finish(request).status(), Status::NotReady);
    node.view.version = later;
    node.push();
    let header = at_epoch(&mut node, 5);
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Ok);
}

#[test]
fn views_and_epochs_do_not_go_back() {
    let (mut node, link) = serving();
    node.place(5, 1);
    node.push();
    let newest = node.view.version;
    let mut old = node.view.clone();
    old.version = MapVersion::new(newest.get() - 1);
    old.volumes = Some(Vec::new());
    node.input(Input::View(&old));
    assert_eq!(node.confirmed.last(), Some(&newest), "an older view changes nothing");
    assert_eq!(node.replica.status().version, newest);
    node.place(4, 1);
    node.push();
    assert_eq!(node.replica.status().epochs_refused, u64::from(SHARDS), "I1");
    let header = at_epoch(&mut node, 5);
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Ok);
}

#[test]
fn a_view_is_confirmed_once_it_is_enforced() {
    let (mut node, link) = serving();
    node.volume().sessions = vec![session(BOB, 6, SessionMode::Exclusive)];
    node.push();
    assert_eq!(node.confirmed.last(), Some(&node.view.version));
    for opcode in [Opcode::Read, Opcode::Zero, Opcode::BlockStatus] {
        let header = node.header(opcode, 1, 0, B);
        let request = node.send(link, header);
        assert_eq!(node.finish(request).status(), Status::Fenced, "I3");
    }
    let request = node.write(link, 1, 0, &block(1));
    assert_eq!(node.finish(request).status(), Status::Fenced);
    node.assert_idle();
}

#[test]
fn a_write_that_waited_for_a_lock_is_fenced_when_its_session_ends_meanwhile() {
    let (mut node, link) = serving();
    let accepted = node.write(link, 1, 0, &block(1));
    let waiting = node.write(link, 1, 0, &block(2));
    node.volume().sessions = vec![session(BOB, 6, SessionMode::Exclusive)];
    node.view.version = MapVersion::new(node.view.version.get() + 1);
    let view = node.view.clone();
    node.input(Input::View(&view));
    assert_eq!(node.finish(accepted).status(), Status::Ok, "what was in the store is seen to its end");
    assert_eq!(node.finish(waiting).status(), Status::Fenced);
    let bob = node.login(BOB, 1);
    let header = Header { generation: SessionGeneration::new(6), ..node.header(Opcode::Read, 1, 0, B) };
    let request = node.send(bob, header);
    assert_eq!(node.finish(request).bytes, block(1));
    node.assert_idle();
}

#[test]
fn a_generation_from_a_newer_view_waits_for_it() {
    let (mut node, link) = serving();
    let ahead = MapVersion::new(node.view.version.get() + 1);
    let generation = SessionGeneration::new(8);
    let header = Header { generation, map_version: ahead, ..node.header(Opcode::Read, 1, 0, B) };
    let request = node.send(link, header);
    node.drain();
    assert!(node.answer(request).is_none());
    node.volume().sessions = vec![session(ALICE, 8, SessionMode::Exclusive)];
    node.push();
    assert_eq!(node.answer(request).expect("answered").status(), Status::Ok);
    // A sender that is not ahead and claims too much is fenced in the end.
    let header = Header { generation: SessionGeneration::new(80), ..node.header(Opcode::Read, 1, 0, B) };
    let request = node.send(link, header);
    node.run_until(node.now.plus(MAP_WAIT));
    assert_eq!(node.answer(request).expect("answered").status(), Status::Fenced);
}

#[test]
fn a_read_only_session_reads_and_does_not_write() {
    let (mut node, link) = serving();
    node.volume().sessions.push(session(BOB, 6, SessionMode::ReadOnly));
    node.push();
    let bob = node.login(BOB, 1);
    let generation = SessionGeneration::new(6);
    for (opcode, expected) in [(Opcode::Read, Status::Ok), (Opcode::Zero, Status::ReadOnly)] {
        let header = Header { generation, ..node.header(opcode, 1, 0, B) };
        let request = node.send(bob, header);
        assert_eq!(node.finish(request).status(), expected);
    }
    let header = Header { generation, ..node.header(Opcode::Write, 1, 0, B) };
    let request = node.send_bytes(bob, header, &block(1));
    assert_eq!(node.finish(request).status(), Status::ReadOnly);
    // And it fences nobody.
    let request = node.write(link, 1, 0, &block(1));
    assert_eq!(node.finish(request).status(), Status::Ok);
}

#[test]
fn a_higher_connection_waits_until_what_the_lower_had_accepted_is_resolved() {
    let (mut node, old) = serving();
    let accepted = node.write(old, 1, 0, &block(1));
    let waiting = node.write(old, 1, 0, &block(2));
    let new = node.connect();
    node.hello(new, ALICE, 2);
    assert_eq!(node.closed, [old]);
    assert!(node.answers.is_empty(), "I10: no answer before the old write is resolved");
    node.drain();
    let answer = node.answers.pop_front().expect("now");
    assert_eq!((answer.link, answer.header.opcode, answer.status()), (new, Opcode::HelloReply, Status::Ok));
    assert!(node.answer(accepted).is_none() && node.answer(waiting).is_none(), "nothing goes to the closed link");
    let header = Header { connection: ConnectionNumber::new(2), ..node.header(Opcode::Read, 1, 0, B) };
    let request = node.send(new, header);
    assert_eq!(node.finish(request).bytes, block(1), "the one that waited never happened");
    // What still arrives over the old link is dropped, with its buffer.
    let late = node.write(old, 1, 0, &block(3));
    node.drain();
    assert!(node.answer(late).is_none());
    node.assert_idle();
}

#[test]
fn a_lower_or_equal_connection_is_refused_and_told_the_highest() {
    let (mut node, link) = serving();
    let newer = node.connect();
    node.hello(newer, ALICE, 5);
    node.answers.clear();
    for number in [4, 5] {
        let late = node.connect();
        node.hello(late, ALICE, number);
        let answer = node.answers.pop_front().expect("refused");
        assert_eq!((answer.status(), answer.header.connection.get()), (Status::Invalid, 5));
        assert!(node.closed.contains(&late));
    }
    assert!(node.closed.contains(&link) && !node.closed.contains(&newer));
}

#[test]
fn the_highest_connection_is_remembered_while_its_client_has_a_session() {
    let (mut node, _) = serving();
    let link = node.connect();
    node.hello(link, ALICE, 5);
    node.input(Input::Unlinked { link });
    node.push();
    node.answers.clear();
    let late = node.connect();
    node.hello(late, ALICE, 4);
    assert_eq!(node.answers.pop_front().expect("refused").status(), Status::Invalid, "I3");
}

#[test]
fn a_lost_link_drops_what_waits_and_finishes_what_is_in_the_store() {
    let (mut node, link) = serving();
    node.write(link, 1, 0, &block(1));
    node.write(link, 1, 0, &block(2));
    node.fragment(link, 1, 9, &[7; 9]);
    node.input(Input::Unlinked { link });
    assert_eq!(node.replica.status().requests, 1);
    let link = node.connect();
    node.hello(link, ALICE, 2);
    assert!(node.answers.is_empty());
    node.drain();
    assert_eq!(node.answers.pop_front().expect("let in").status(), Status::Ok);
    let header = Header { connection: ConnectionNumber::new(2), ..node.header(Opcode::Read, 1, 0, B) };
    let request = node.send(link, header);
    assert_eq!(node.finish(request).bytes, block(1));
    node.assert_idle();
}

#[test]
fn a_fragment_whose_link_is_lost_while_its_block_is_read_changes_nothing() {
    let (mut node, link) = serving();
    let request = node.write(link, 1, 0, &block(1));
    node.finish(request);
    // A block whose data must be read from the disk.
    node.fragment(link, 1, 9, &[7; 9]);
    assert_eq!(node.sent.len(), 1, "the block is being read");
    node.input(Input::Unlinked { link });
    node.drain();
    node.assert_idle();
    let link = node.login(ALICE, 2);
    let header = Header { connection: ConnectionNumber::new(2), ..node.header(Opcode::Read, 1, 0, B) };
    let request = node.send(link, header);
    assert_eq!(node.finish(request).bytes, block(1));
}

#[test]
fn a_client_that_becomes_known_in_time_is_let_in() {
    let mut node = Node::serving();
    node.pulls.clear();
    let link = node.connect();
    node.hello(link, BOB, 1);
    assert!(node.answers.is_empty());
    assert_eq!(node.pulls.len(), 1);
    node.volume().sessions.push(session(BOB, 6, SessionMode::Shared));
    node.push();
    assert_eq!(node.answers.pop_front().expect("answered").status(), Status::Ok);
}

#[test]
fn an_unknown_client_is_fenced_only_on_knowledge_as_new_as_its_own() {
    let mut node = Node::serving();
    let link = node.connect();
    node.hello(link, BOB, 1);
    node.run_until(node.now.plus(MAP_WAIT));
    assert_eq!(node.answers.pop_front().expect("answered").status(), Status::Fenced);
    assert_eq!(node.closed, [link]);
    let link = node.connect();
    node.view.version = MapVersion::new(99);
    node.hello(link, BOB, 1);
    node.run_until(node.now.plus(MAP_WAIT));
    assert_eq!(node.answers.pop_front().expect("answered").status(), Status::NotReady);
}

#[test]
fn a_node_without_registration_asks_clients_to_wait() {
    let mut node = Node::opened(vec![Disk::formatted()], 1);
    let link = node.connect();
    node.hello(link, ALICE, 1);
    node.drain();
    assert!(node.answers.is_empty());
    node.register();
    node.install();
    assert_eq!(node.answers.pop_front().expect("answered").status(), Status::Ok);
}

#[test]
fn hellos_that_do_not_fit_are_refused() {
    let mut node = Node::serving();
    let client = Party::Client { client: ALICE, ticket: ticket(ALICE) };
    let wrong_ticket = Party::Client { client: ALICE, ticket: ticket(BOB) };
    let peer = |addressed| Party::Peer { sds: SdsId::new(2), incarnation: Incarnation::new(1), addressed: Incarnation::new(addressed) };
    let system = SYSTEM;
    let cases = [
        (Hello { version_min: 2, version_max: 9, system, party: client }, 1, Status::Invalid),
        (Hello::ours(SystemId::new(1), client), 1, Status::Invalid),
        (Hello::ours(system, peer(9)), 1, Status::MapStale),
        // Of a server that no view knows.
        (Hello::ours(system, peer(1)), 1, Status::Fenced),
        (Hello::ours(system, client), 0, Status::Invalid),
        (Hello::ours(system, wrong_ticket), 1, Status::Fenced),
    ];
    for (hello, number, expected) in cases {
        let link = node.connect();
        let header = Header { connection: ConnectionNumber::new(number), ..Header::new(Opcode::Hello) };
        let frame = Frame { header, cache_ids: CacheIds::NONE, body: Body::Hello(hello) };
        node.input(Input::Frame { link, frame: &frame });
        node.run_until(node.now.plus(MAP_WAIT));
        let answer = node.answers.pop_front().expect("answered");
        assert_eq!((answer.status(), answer.link), (expected, link));
        assert_eq!(node.closed.last(), Some(&link));
    }
    node.login(ALICE, 1);
}

#[test]
fn a_link_that_does_not_keep_to_the_order_is_dropped_with_its_buffers() {
    let mut node = Node::serving();
    // A request first.
    let link = node.connect();
    node.write(link, 1, 0, &block(1));
    assert_eq!(node.closed, [link]);
    // A request before the hello is answered.
    let link = node.connect();
    node.hello(link, BOB, 1);
    node.write(link, 1, 0, &block(1));
    assert_eq!(node.closed.last(), Some(&link));
    // Another connection's number; an answer instead of a request.
    let header = Header { connection: ConnectionNumber::new(77), ..node.header(Opcode::Read, 1, 0, B) };
    let number = |number| ConnectionNumber::new(number);
    let link = node.login(ALICE, 1);
    node.send(link, header);
    assert_eq!(node.closed.last(), Some(&link));
    let link = node.login(ALICE, 2);
    node.send(link, Header { connection: number(2), ..Header::new(Opcode::WriteReply) });
    assert_eq!(node.closed.last(), Some(&link));
    // Nothing at all.
    let link = node.connect();
    node.run_until(node.now.plus(Nanos::from_millis(10_000)));
    assert_eq!(node.closed.last(), Some(&link));
    assert_eq!(node.replica.status().links, 0);
    node.assert_idle();
}

#[test]
fn bounds_are_answered() {
    let mut node = Node::new(vec![Disk::formatted()], 1, 2 * REQUESTS_PER_CONNECTION_MAX);
    node.add_devices();
    node.drain();
    node.register();
    node.install();
    let link = node.login(ALICE, 1);
    let requests: Vec<_> = (0..=REQUESTS_PER_CONNECTION_MAX).map(|_| node.write(link, 1, 0, &block(1))).collect();
    let last = node.answer(*requests.last().unwrap()).expect("one too many is answered at once");
    assert_eq!(last.status(), Status::NotReady);
    for request in &requests[..REQUESTS_PER_CONNECTION_MAX] {
        assert_eq!(node.finish(*request).status(), Status::Ok);
    }
    let links: Vec<_> = (0..8).map(|_| node.connect()).collect();
    assert_eq!(node.closed, [links[7]], "eight links at most, one of them Alice's");
    node.assert_idle();
}

#[test]
fn parked_requests_take_at_most_half_of_the_table() {
    let (mut node, link) = serving();
    let requests: Vec<_> = (0..40)
        .map(|_| {
            let header = at_epoch(&mut node, 2);
            node.send(link, header)
        })
        .collect();
    assert_eq!(node.replica.status().parked, 32);
    let answered = requests.iter().filter(|request| node.answer(**request).is_some_and(|answer| answer.status() == Status::NotReady));
    assert_eq!(answered.count(), 8);
    let request = node.read(link, 1, 0, B);
    assert_eq!(node.finish(request).status(), Status::Ok);
}

#[test]
fn sequences_are_never_given_out_twice_across_restarts() {
    let (mut node, link) = serving();
    let mut highest = 0;
    for extent in 0..4 {
        let request = node.write(link, extent, 0, &block(1));
        highest = highest.max(node.finish(request).header.sequence.get());
    }
    // The process dies; its disk is found as it is.
    let mut again = Node::opened(vec![node.disks.remove(0)], 2);
    let ceiling = again.replica.devices()[0].sequence_ceiling.get();
    assert!(ceiling > highest && ceiling <= highest + 2 * SEQUENCE_RESERVATION, "ceiling {ceiling}, used {highest}");
    again.register();
    again.place(2, 2);
    again.push();
    let link = again.login(ALICE, 1);
    let header = Header { epoch: Epoch::new(2), ..again.header(Opcode::Write, 0, 0, B) };
    let request = again.send_bytes(link, header, &block(2));
    let answer = again.finish(request);
    assert_eq!(answer.status(), Status::Ok);
    assert!(answer.header.sequence.get() >= ceiling);
    assert!(again.replica.devices()[0].sequence_ceiling > answer.header.sequence, "reserved before it was used");
}

#[test]
fn a_write_waits_for_its_sequence_to_be_reserved() {
    let (mut node, link) = serving();
    // Its extent is active, so that nothing but the sequence is waited for.
    let request = node.write(link, 0, 0, &block(1));
    node.finish(request);
    // The next epoch starts far above what this device has reserved.
    let far = 10 * SEQUENCE_RESERVATION;
    node.view.pools[0].shards.iter_mut().for_each(|entry| {
        (entry.epoch, entry.first_sequence) = (Epoch::new(2), ShardSequence::new(far));
    });
    node.view.version = MapVersion::new(node.view.version.get() + 1);
    let view = node.view.clone();
    node.input(Input::View(&view));
    let header = Header { epoch: Epoch::new(2), ..node.header(Opcode::Write, 0, 9 * B, B) };
    let at_disk = node.sent.len();
    let request = node.send_bytes(link, header, &block(2));
    assert_eq!(node.sent.len(), at_disk, "the write is not at the disk before its sequence is reserved");
    assert!(node.replica.devices()[0].sequence_ceiling.get() < far);
    let answer = node.finish(request);
    assert_eq!((answer.status(), answer.header.sequence.get()), (Status::Ok, far));
    assert!(node.replica.devices()[0].sequence_ceiling.get() > far);
}

#[test]
fn one_device_that_cannot_be_opened_does_not_keep_the_others_from_serving() {
    let mut node = Node::opened(vec![Disk::formatted(), Disk::default()], 1);
    assert_eq!(node.registers, 2, "told about each");
    let devices = node.replica.devices();
    assert_eq!((devices[0].state.clone(), devices[0].uuid), (sds_core::control::DeviceState::Open, DEVICE));
    assert!(
        matches!(&devices[1].state, sds_core::control::DeviceState::Failed { reason } if reason.contains("format")),
        "{:?}",
        devices[1]
    );
    node.register();
    node.install();
    let link = node.login(ALICE, 1);
    let request = node.write(link, 1, 0, &block(1));
    assert_eq!(node.finish(request).status(), Status::Ok);
}

#[test]
fn a_device_that_fails_answers_everything_and_says_why() {
    let (mut node, link) = serving();
    node.fail_writes_from = Some(0);
    let requests: Vec<_> = (0..6).map(|at| node.write(link, 1, (at % 2) * B, &block(1))).collect();
    for request in requests {
        assert_eq!(node.finish(request).status(), Status::DeviceFailed);
    }
    let request = node.read(link, 1, 0, B);
    assert_eq!(node.finish(request).status(), Status::DeviceFailed);
    let state = node.replica.devices()[0].state.clone();
    assert!(matches!(&state, sds_core::control::DeviceState::Failed { reason } if reason.contains("device error 5")), "{state:?}");
    assert_eq!(node.registers, 2);
    node.assert_idle();
}

#[test]
fn a_device_known_by_its_superblock_that_cannot_be_opened_is_not_waited_for() {
    let (mut node, link) = serving();
    let request = node.write(link, 1, 0, &block(1));
    node.finish(request);
    let mut again = Node::new(vec![node.disks.remove(0)], 2, 64);
    again.fail_writes_from = Some(0);
    again.add_devices();
    again.drain();
    again.register();
    // Its shards stay where they were: in its former life.
    again.place(1, 1);
    again.push();
    let device = &again.replica.devices()[0];
    assert!(matches!(device.state, sds_core::control::DeviceState::Failed { .. }), "{device:?}");
    assert_eq!(device.uuid, DEVICE, "its superblock was read");
    let link = again.login(ALICE, 1);
    let request = again.read(link, 1, 0, B);
    assert_eq!(again.answer(request).expect("at once").status(), Status::DeviceFailed);
    // A newer configuration may still come to explain a higher epoch.
    let header = at_epoch(&mut again, 2);
    let request = again.send(link, header);
    assert!(again.answer(request).is_none());
    again.run_until(again.now.plus(Nanos::from_millis(10_000)));
    assert_eq!(again.finish(request).status(), Status::NotReady);
    again.assert_idle();
}

#[test]
fn a_device_of_a_former_life_that_has_not_failed_is_waited_for() {
    let (mut node, _) = serving();
    let mut again = Node::opened(vec![node.disks.remove(0)], 2);
    again.register();
    again.place(1, 1);
    again.push();
    let link = again.login(ALICE, 1);
    let request = again.read(link, 1, 0, B);
    assert!(again.answer(request).is_none());
    again.run_until(again.now.plus(Nanos::from_millis(10_000)));
    assert_eq!(again.finish(request).status(), Status::NotReady);
}

#[test]
fn a_copy_that_cannot_be_opened_does_not_speak_for_the_device() {
    let (mut node, _) = serving();
    let disk = node.disks.remove(0);
    let mut again = Node::new(vec![disk, Disk::formatted()], 2, 64);
    again.fail_writes_from = Some(0);
    again.add_device(0);
    again.drain();
    again.fail_writes_from = None;
    again.add_device(1);
    again.drain();
    assert_eq!(again.replica.devices()[0].uuid, again.replica.devices()[1].uuid);
    again.input(Input::Registered {
        system: SYSTEM,
        sds: SdsId::new(1),
        incarnation: Incarnation::new(2),
        devices: &[(DEVICE, DEVICE_ID)],
    });
    again.place(2, 2);
    again.push();
    let link = again.login(ALICE, 1);
    let header = at_epoch(&mut again, 2);
    let request = again.send(link, header);
    assert_eq!(again.finish(request).status(), Status::Ok);
}

#[test]
fn a_deleted_tree_is_freed_once_it_is_named_and_no_volume_has_it() {
    let (mut node, link) = serving();
    for extent in 0..3 {
        let request = node.write(link, extent, 0, &block(1));
        node.finish(request);
    }
    let used = |node: &Node| node.replica.devices()[0].capacity.used.get();
    assert_eq!(used(&node), 3 << 20);
    // Named by mistake while its volume is there: not freed.
    node.view.deleted_trees = Some(vec![TREE]);
    node.push();
    assert_eq!((used(&node), node.freed.len()), (3 << 20, 0));
    // Its volume gone but the tree not named: not freed.
    let volumes = node.view.volumes.replace(Vec::new());
    node.view.deleted_trees = Some(Vec::new());
    node.push();
    assert_eq!((used(&node), node.freed.len()), (3 << 20, 0));
    node.view.deleted_trees = Some(vec![TREE]);
    node.push();
    assert_eq!(node.freed, [(DEVICE_ID, vec![TREE])]);
    assert_eq!(used(&node), 0);
    // Told again when it is asked again, and forgotten when it is no longer named.
    node.register();
    assert_eq!(node.freed.len(), 2);
    node.view.deleted_trees = Some(Vec::new());
    node.push();
    node.register();
    assert_eq!(node.freed.len(), 2);
    drop(volumes);
}

#[test]
fn a_stop_answers_everything_and_closes_the_stores() {
    let (mut node, link) = serving();
    let accepted = node.write(link, 1, 0, &block(1));
    let queued = node.write(link, 1, 0, &block(2));
    let header = at_epoch(&mut node, 2);
    let parked = node.send(link, header);
    let asking = node.connect();
    node.hello(asking, BOB, 1);
    node.input(Input::Stop);
    assert_eq!(node.answer(parked).expect("at once").status(), Status::Stopping);
    assert!(node.closed.contains(&asking));
    let refused = node.read(link, 1, 0, B);
    assert_eq!(node.answer(refused).expect("at once").status(), Status::Stopping);
    assert!(!node.events.contains(&Event::Stopped));
    node.drain();
    for request in [accepted, queued] {
        assert_eq!(node.answer(request).expect("finished").status(), Status::Ok);
    }
    assert_eq!(node.events.last(), Some(&Event::Stopped));
    assert!(node.sent.is_empty());
    node.assert_idle();
    assert_eq!(node.pool.internal_used, 0, "the stores gave their memory back");
    // What was closed cleanly has nothing to settle.
    let again = Node::opened(vec![node.disks.remove(0)], 2);
    let unsettled = again.events.iter().find_map(|event| match event {
        Event::Store { event: sds_core::store::interface::Event::Opened(opened), .. } => Some(opened.unsettled),
        _ => None,
    });
    assert_eq!(unsettled, Some(0));
}

#[test]
fn a_killed_node_settles_alone_and_has_everything_acknowledged() {
    let (mut node, link) = serving();
    let requests: Vec<_> = (0..16_u32).map(|at| node.write(link, at % 4, at * B, &block(at as u8 + 1))).collect();
    for request in requests {
        assert_eq!(node.finish(request).status(), Status::Ok);
    }
    let mut again = Node::opened(vec![node.disks.remove(0)], 2);
    again.register();
    again.place(2, 2);
    again.push();
    let link = again.login(ALICE, 1);
    for at in 0..16_u32 {
        let header = Header { epoch: Epoch::new(2), ..again.header(Opcode::Read, at % 4, at * B, B) };
        let request = again.send(link, header);
        assert_eq!(again.finish(request).bytes, block(at as u8 + 1));
    }
    again.assert_idle();
}
