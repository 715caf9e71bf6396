//! What another data server says that cannot be: it is refused, and changes nothing.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod pair_rig;
mod replica_rig;

use pair_rig::{Pair, member, sds};
use replica_rig::*;
use sds_core::error::Status;
use sds_core::id::*;
use sds_core::limits::{SEQUENCE_HEADROOM, SEQUENCE_MAX};
use sds_core::machine::LinkId;
use sds_core::map::InSync;
use sds_core::protocol::membership::Change;
use sds_core::replica::interface::Input;
use sds_core::unit::*;
use sds_core::wire::*;

const MS: fn(u64) -> Nanos = Nanos::from_millis;

fn data_writes(pair: &Pair) -> u64 {
    pair.nodes[1].replica.devices()[0].statistics.data_writes
}

/// A write of Alice's as it goes to the secondary, taken off the wire, and the request.
fn replicate(pair: &mut Pair) -> (Flight, RequestId) {
    let alice = pair.nodes[0].login(ALICE, 1);
    replicate_of(pair, alice)
}

/// The same over a link that is there.
fn replicate_of(pair: &mut Pair, alice: LinkId) -> (Flight, RequestId) {
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    pair.collect();
    let place = pair.flights[1].iter().position(|flight| flight.frame.header.opcode == Opcode::Replicate).unwrap();
    (pair.flights[1].remove(place).unwrap(), request)
}

/// What the secondary answers to a frame.
fn answer(pair: &mut Pair, flight: &Flight) -> Status {
    pair.arrive(1, flight);
    pair.run();
    pair.nodes[1]
        .flights
        .iter()
        .chain(&pair.flights[0])
        .find(|sent| sent.frame.header.request == flight.frame.header.request)
        .map_or_else(|| panic!("answered"), |sent| sent.frame.header.status)
}

fn refused(change: impl FnOnce(&mut Header), expected: Status) {
    let mut pair = Pair::serving();
    let before = data_writes(&pair);
    let (mut flight, _) = replicate(&mut pair);
    change(&mut flight.frame.header);
    // The primary is not to hear of it.
    pair.held[0] = true;
    assert_eq!(answer(&mut pair, &flight), expected);
    assert_eq!(data_writes(&pair), before, "nothing is applied");
    assert!(pair.nodes[1].replica.devices()[0].sequence_ceiling.get() < 1 << 40, "nothing is reserved for it");
}

#[test]
fn a_sequence_that_no_primary_is_at_is_refused() {
    refused(|header| header.sequence = ShardSequence::new(u64::MAX - 1), Status::Invalid);
    refused(|header| header.sequence = ShardSequence::new(header.sequence.get() + 2 * SEQUENCE_HEADROOM), Status::Invalid);
}

#[test]
fn what_cannot_be_over_yet_is_not_believed_to_be() {
    refused(|header| header.resolved = ShardSequence::new(header.sequence.get() + 1_000_000), Status::Invalid);
}

#[test]
fn an_extent_of_another_shard_is_refused() {
    refused(|header| header.extent = ExtentIndex::new(1), Status::Invalid);
    refused(|header| header.volume = VolumeId::new(31), Status::Invalid);
}

#[test]
fn what_a_visit_that_was_given_up_still_reads_is_not_written_meanwhile() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let (first, _) = replicate_of(&mut pair, alice);
    pair.arrive(1, &first);
    pair.run();
    let (second, _) = replicate_of(&mut pair, alice);
    let question = RequestId::new(1 << 63 | 5);
    let header = Header { opcode: Opcode::Medium, request: question, ..second.frame.header };
    let medium = Flight { link: second.link, frame: Frame::bare(header), bytes: Vec::new() };
    pair.arrive(1, &medium);
    assert_eq!(pair.nodes[1].sent.len(), 1, "it is read from the medium");
    pair.arrive(1, &second);
    assert_eq!(pair.nodes[1].sent.len(), 1, "the write waits for whoever reads where it goes");
    pair.nodes[1].drain();
    let answers: Vec<u64> = pair.nodes[1].flights.iter().map(|flight| flight.frame.header.request.get()).collect();
    assert_eq!(answers, [question.get(), second.frame.header.request.get()]);
}

#[test]
fn a_replayed_frame_of_an_older_epoch_is_refused() {
    refused(|header| header.epoch = Epoch::new(0), Status::MapStale);
}

fn hello(pair: &mut Pair, from: SdsId, life: u64, number: u64) -> Option<Status> {
    let link = LinkId::new(700);
    pair.nodes[1].input(Input::Linked { link });
    let party = Party::Peer { sds: from, incarnation: Incarnation::new(life), addressed: member(1).incarnation };
    let header = Header { connection: ConnectionNumber::new(number), ..Header::new(Opcode::Hello) };
    let frame = Frame { header, cache_ids: CacheIds::NONE, body: Body::Hello(Hello::ours(SYSTEM, party)) };
    pair.nodes[1].input(Input::Frame { link, frame: &frame });
    pair.run_for(MAP_WAIT.plus(MS(10)));
    pair.nodes[1].answers.pop_back().map(|answer| answer.status())
}

#[test]
fn a_peer_that_has_no_copy_of_anything_here_is_not_let_in() {
    assert_ne!(hello(&mut Pair::serving(), SdsId::new(9), 1, 5), Some(Status::Ok));
    assert_ne!(hello(&mut Pair::serving(), sds(0), 99, 5), Some(Status::Ok), "nor one in a life that the map does not name");
    let mut alone = Pair::apart();
    alone.place(1, InSync::sole(member(1)), 1, None);
    alone.push_to(&[0, 1]);
    assert_ne!(hello(&mut alone, sds(0), 1, 5), Some(Status::Ok), "where pools keep one copy nobody is a peer");
}

#[test]
fn a_connection_number_that_leaves_no_room_for_another_is_refused() {
    assert_eq!(hello(&mut Pair::serving(), sds(0), 1, u64::MAX), Some(Status::Invalid));
    let mut pair = Pair::serving();
    assert_eq!(hello(&mut pair, sds(0), 1, 1 << 40), Some(Status::Ok), "a high one is believed");
    pair.cut();
    pair.run_for(MS(2500));
    let alice = pair.nodes[0].login(ALICE, 1);
    let request = pair.nodes[0].write(alice, 0, 0, &block(1));
    pair.run_for(MS(500));
    assert_eq!(pair.nodes[0].answer(request).map(|answer| answer.status()), Some(Status::Ok), "and the true peer comes in above it");
}

#[test]
fn a_write_to_a_deleted_volume_is_answered_and_not_applied() {
    let mut pair = Pair::serving();
    let before = data_writes(&pair);
    let (flight, _) = replicate(&mut pair);
    pair.version += 1;
    pair.nodes[1].view.volumes = Some(Vec::new());
    pair.nodes[1].view.deleted_trees = Some(vec![TREE]);
    pair.push_to(&[1]);
    pair.held[0] = true;
    assert_eq!(answer(&mut pair, &flight), Status::Ok);
    assert_eq!(data_writes(&pair), before);
    let header = Header { opcode: Opcode::Copy, request: RequestId::new(77), ..flight.frame.header };
    let copy = Flight { frame: Frame { header, ..flight.frame }, ..flight };
    assert_eq!(answer(&mut pair, &copy), Status::NoVolume);
    assert_eq!(data_writes(&pair), before);
}

#[test]
fn a_peer_that_refuses_every_greeting_is_no_sign_of_life() {
    let mut pair = Pair::serving();
    // Its process has been started again at once: it answers, but it is not the one that is meant.
    let disk = pair.nodes[1].disks.remove(0);
    let mut again = Node::opened(vec![disk], 9);
    (again.sds, again.first_device, again.now) = (sds(1), member(1).device, pair.nodes[1].now);
    again.view = pair.nodes[1].view.clone();
    again.register();
    pair.nodes[1] = again;
    pair.cut();
    pair.run_for(MS(300));
    let proposals = &pair.nodes[0].proposals;
    assert!(
        !proposals.is_empty() && proposals.iter().all(|(.., proposal)| matches!(proposal.change, Change::Shrink { .. })),
        "{proposals:?}"
    );
}

#[test]
fn a_server_that_stops_yields_at_once() {
    let mut pair = Pair::serving();
    pair.nodes[0].input(Input::Stop);
    pair.run();
    let yields = pair.nodes[0].proposals.iter().filter(|(.., proposal)| matches!(proposal.change, Change::Yield { .. })).count();
    assert_eq!(yields, SHARDS as usize);
}

/// Its secondary has just lost its power, or comes back in another life: nobody could take over.
#[test]
fn a_server_that_stops_beside_one_that_is_lost_finishes_what_it_has_begun() {
    for returns in [false, true] {
        let mut pair = Pair::governed();
        let alice = pair.nodes[0].login(ALICE, 1);
        pair.kill(1, true);
        pair.refuses[1] = false;
        pair.held = [true; 2];
        if returns {
            pair.start(1);
        }
        let request = pair.nodes[0].write(alice, 0, 0, &block(7));
        pair.nodes[0].input(Input::Stop);
        pair.run_for(MS(5000));
        assert!(pair.nodes[0].answer(request).is_some(), "returns: {returns}");
        let stopped = pair.nodes[0].events.iter().any(|event| matches!(event, sds_core::replica::interface::Event::Stopped));
        assert!(stopped, "returns: {returns}: {:?}", pair.governor().entries[0]);
    }
}

#[test]
fn a_promoted_secondary_serves_at_once_when_the_old_primary_has_confirmed() {
    let mut pair = Pair::serving();
    pair.place(2, InSync::sole(member(1)), 1 << 30, None);
    pair.push_to(&[1]);
    let read = |pair: &mut Pair, number| {
        let link = pair.nodes[1].login(ALICE, number);
        let header = pair.nodes[1].header(Opcode::Read, 0, 0, BLOCK_BYTES);
        let header = Header { epoch: Epoch::new(2), connection: ConnectionNumber::new(number), ..header };
        let request = pair.nodes[1].send(link, header);
        pair.run_for(MS(100));
        pair.nodes[1].answer(request).map(|answer| answer.status())
    };
    pair.held = [true; 2];
    assert_eq!(read(&mut pair, 50), None, "the old primary may hold a lease");
    pair.held = [false; 2];
    pair.push_to(&[0]);
    pair.run_for(MS(50));
    assert_eq!(read(&mut pair, 51), Some(Status::Ok), "long before the grace is over");
}

#[test]
fn a_flush_that_a_change_of_the_map_overtakes_is_asked_again() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let flush = Header { device: member(0).device, offset: 0, length: 0, ..pair.nodes[0].header(Opcode::Flush, 0, 0, 0) };
    pair.held[1] = true;
    let flush = pair.nodes[0].send(alice, flush);
    pair.run_for(MS(20));
    assert!(pair.nodes[0].answer(flush).is_none(), "the other copy has not flushed");
    pair.place(2, InSync::sole(member(0)), 1 << 30, None);
    pair.push_to(&[0]);
    pair.run_for(MS(20));
    assert_eq!(pair.nodes[0].answer(flush).unwrap().status(), Status::MapStale);
    // And one that comes by the older map.
    let mut late = Header { device: member(0).device, offset: 0, length: 0, ..pair.nodes[0].header(Opcode::Flush, 0, 0, 0) };
    (late.map_version, late.epoch) = (MapVersion::new(pair.version - 1), Epoch::new(2));
    let late = pair.nodes[0].send(alice, late);
    pair.run_for(MS(20));
    assert_eq!(pair.nodes[0].answer(late).unwrap().status(), Status::MapStale);
}

/// The secondary is told that it has fallen out and joins, and has one write of its primary's at its disk, which stands still.
fn joiner_with_a_write_at_its_disk() -> (Pair, Flight) {
    let mut pair = Pair::serving();
    let (mut write, _) = replicate(&mut pair);
    pair.held[0] = true;
    pair.place(2, InSync::sole(member(0)), 1000, None);
    pair.nodes[1].view.pools.iter_mut().flat_map(|pool| &mut pool.shards).for_each(|entry| entry.joining = Some(member(1)));
    pair.push_to(&[1]);
    pair.run();
    write.frame.header.epoch = Epoch::new(2);
    write.frame.header.sequence = ShardSequence::new(1001);
    pair.hung[1] = true;
    pair.arrive(1, &write);
    pair.run();
    (pair, write)
}

fn ask_for_extents(pair: &mut Pair, write: &Flight, number: u64) -> Status {
    let Header { device, shard, connection, .. } = write.frame.header;
    let request = RequestId::new(9_000 + number);
    let header = Header { device, shard, connection, request, map_version: MapVersion::new(pair.version), ..Header::new(Opcode::Extents) };
    answer(pair, &Flight { link: write.link, frame: Frame::bare(header), ..write.clone() })
}

#[test]
fn a_joiner_tells_what_it_holds_only_when_nothing_of_a_former_sweep_is_left() {
    let (mut pair, write) = joiner_with_a_write_at_its_disk();
    assert_eq!(ask_for_extents(&mut pair, &write, 1), Status::NotReady, "it would land behind the back of who asks");
    pair.hung[1] = false;
    pair.run();
    assert_eq!(ask_for_extents(&mut pair, &write, 2), Status::Ok);
}

#[test]
fn a_joiner_follows_however_much_was_written_without_it() {
    let (mut pair, mut write) = joiner_with_a_write_at_its_disk();
    pair.hung[1] = false;
    pair.run();
    let header = &mut write.frame.header;
    (header.request, header.sequence) = (RequestId::new(77), ShardSequence::new(1001 + 5 * SEQUENCE_HEADROOM));
    header.resolved = ShardSequence::new(header.sequence.get() - 1);
    assert_eq!(answer(&mut pair, &write), Status::Ok);
    let header = &mut write.frame.header;
    (header.request, header.sequence) = (RequestId::new(78), ShardSequence::new(SEQUENCE_MAX));
    assert_eq!(answer(&mut pair, &write), Status::Invalid, "but numbering must be able to go on");
}
