//! Two storage nodes with the two copies of every shard, and the wires between them.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod pair_rig;
mod replica_rig;

use pair_rig::{Pair, member};
use proptest::prelude::*;
use replica_rig::*;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::error::Status;
use sds_core::id::*;
use sds_core::machine::LinkId;
use sds_core::map::{InSync, ShardEntry};
use sds_core::protocol::membership::Change;
use sds_core::replica::interface::Input;
use sds_core::unit::*;
use sds_core::wire::*;

const MS: fn(u64) -> Nanos = Nanos::from_millis;

fn data_writes(pair: &Pair, node: usize) -> u64 {
    pair.nodes[node].replica.devices()[0].statistics.data_writes
}

/// Runs the disk of one node and delivers nothing.
fn disks_only(pair: &mut Pair, node: usize) {
    while pair.step_disk(node) {}
    pair.nodes[node].now = pair.nodes[node].now.plus(MS(1));
    pair.nodes[node].input(Input::Wake);
    while pair.step_disk(node) {}
}

fn status_of(pair: &mut Pair, request: RequestId) -> Option<Status> {
    pair.nodes[0].answer(request).map(|answer| answer.status())
}

#[test]
fn a_write_is_acknowledged_when_both_copies_are_complete() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    disks_only(&mut pair, 0);
    assert!(pair.nodes[0].answer(request).is_none(), "I2: one copy is none");
    pair.run();
    let answer = pair.nodes[0].answer(request).expect("both are complete");
    assert_eq!(answer.status(), Status::Ok);
    let devices: Vec<_> = answer.cache_ids.as_slice().iter().map(|id| id.device).collect();
    assert_eq!(devices, [member(0).device, member(1).device], "the answer names what keeps each copy");

    // The other way round: the other copy is complete first.
    let request = pair.nodes[0].write(alice, 1, 0, &block(8));
    while pair.deliver(1) {}
    disks_only(&mut pair, 1);
    while pair.deliver(0) {}
    assert!(pair.nodes[0].answer(request).is_none());
    pair.run();
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
    pair.nodes.iter().for_each(Node::assert_idle);
}

#[test]
fn fragments_zeroes_and_flushes_go_to_both_copies() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let write = pair.nodes[0].write(alice, 0, 0, &[block(1), block(2), block(3)].concat());
    pair.run();
    assert_eq!(status_of(&mut pair, write), Some(Status::Ok));
    let fragment = pair.nodes[0].fragment(alice, 0, 512, &[9; 512]);
    let zero = pair.nodes[0].header(Opcode::Zero, 0, BLOCK_BYTES, BLOCK_BYTES);
    let zero = pair.nodes[0].send(alice, zero);
    pair.run();
    assert_eq!((status_of(&mut pair, fragment), status_of(&mut pair, zero)), (Some(Status::Ok), Some(Status::Ok)));
    let flush = Header { device: member(0).device, offset: 0, length: 0, ..pair.nodes[0].header(Opcode::Flush, 0, 0, 0) };
    let flush = pair.nodes[0].send(alice, flush);
    disks_only(&mut pair, 0);
    assert!(pair.nodes[0].answer(flush).is_none(), "the other copy is not flushed");
    pair.run();
    assert_eq!(status_of(&mut pair, flush), Some(Status::Ok));
    // What was flushed is on both media.
    pair.nodes[1].disks[0].cut();
    assert_same_contents(pair);
}

fn assert_same_contents(mut pair: Pair) {
    for at in 0..2 {
        pair.place(9, InSync::sole(member(at)), 1 << 40, None);
        pair.push_to(&[at]);
    }
    pair.cut();
    pair.held = [true; 2];
    pair.run_for(MS(1500));
    let first = pair.contents_alone(0, 9, 2, 8);
    assert_eq!(first, pair.contents_alone(1, 9, 2, 8), "the copies are one");
}

#[test]
fn a_write_whose_answer_is_lost_is_sent_again_and_applied_once() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let before = data_writes(&pair, 1);
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    while pair.deliver(1) {}
    disks_only(&mut pair, 1);
    pair.cut();
    assert!(pair.nodes[0].answer(request).is_none());
    pair.run();
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
    assert_eq!(data_writes(&pair, 1), before + 1, "each sequence once");
}

#[test]
fn a_write_that_never_arrived_is_sent_again() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    pair.cut();
    pair.run();
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
    assert_same_contents(pair);
}

#[test]
fn bytes_damaged_between_the_servers_are_sent_again() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    pair.collect();
    pair.flights[1].iter_mut().find(|flight| !flight.bytes.is_empty()).unwrap().bytes[77] ^= 1;
    pair.run_for(MS(50));
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
    assert_same_contents(pair);
}

#[test]
fn a_lower_epoch_is_refused_by_the_secondary() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let before = data_writes(&pair, 1);
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[1]);
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    pair.run_for(MS(100));
    assert!(pair.nodes[0].answer(request).is_none(), "I3");
    assert_eq!(data_writes(&pair, 1), before);
    assert!(!pair.nodes[0].pulls.is_empty(), "the old primary asks for a newer view");
    pair.push_to(&[0]);
    pair.run();
    assert_eq!(status_of(&mut pair, request), Some(Status::MapStale));
    pair.nodes[0].assert_idle();
}

#[test]
fn a_higher_epoch_waits_at_the_secondary_for_the_view() {
    let mut pair = Pair::apart();
    pair.place(1, InSync::pair(member(0), member(1)), 1, None);
    pair.push_to(&[0]);
    // It has the servers, but not the shards.
    let shards = core::mem::take(&mut pair.nodes[1].view.pools);
    pair.nodes[1].view.version = MapVersion::new(pair.version - 1);
    let view = pair.nodes[1].view.clone();
    pair.nodes[1].input(Input::View(&view));
    pair.nodes[1].view.pools = shards;
    pair.run();
    let alice = pair.nodes[0].login(ALICE, 1);
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    pair.run_for(MS(100));
    assert!(pair.nodes[0].answer(request).is_none());
    pair.push_to(&[1]);
    pair.run_for(MS(100));
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
}

#[test]
fn a_secondary_serves_no_client() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[1].login(ALICE, 1);
    let old = Header { epoch: Epoch::new(0), ..pair.nodes[1].header(Opcode::Read, 0, 0, BLOCK_BYTES) };
    let old = pair.nodes[1].send(alice, old);
    let same = pair.nodes[1].read(alice, 0, 0, BLOCK_BYTES);
    pair.run_for(MAP_WAIT);
    assert_eq!(pair.nodes[1].answer(old).unwrap().status(), Status::MapStale);
    assert_eq!(pair.nodes[1].answer(same).unwrap().status(), Status::NotReady);
}

#[test]
fn a_lost_secondary_holds_acknowledgements_up_until_the_view_that_drops_it() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let first = pair.nodes[0].write(alice, 0, 0, &block(6));
    pair.run();
    assert_eq!(status_of(&mut pair, first), Some(Status::Ok));
    pair.refuses[1] = true;
    pair.cut();
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    pair.run_for(MS(500));
    assert!(pair.nodes[0].answer(request).is_none(), "I5: degrade before acknowledging");
    let proposals = core::mem::take(&mut pair.nodes[0].proposals);
    assert_eq!(proposals.len(), SHARDS as usize, "one a shard, once");
    for (_, at, proposal) in &proposals {
        assert_eq!((proposal.base, proposal.proposer), (Epoch::new(1), Some(member(0))));
        let Change::Shrink { complete } = proposal.change else { panic!("{proposal:?}") };
        assert!(*at != shard(0) || complete.get() == 1, "the first write is complete there, the second is not");
    }
    pair.run_for(MS(1000));
    assert_eq!(pair.nodes[0].proposals.len(), SHARDS as usize, "and again after a second");
    pair.place(2, InSync::sole(member(0)), 1000, None);
    pair.push_to(&[0]);
    pair.run();
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
    pair.nodes[0].assert_idle();
}

#[test]
fn silence_is_loss_on_both_sides() {
    let mut pair = Pair::serving();
    pair.held = [true; 2];
    pair.run_for(MS(700));
    assert!(pair.nodes.iter().all(|node| node.proposals.is_empty()));
    pair.run_for(MS(600));
    for node in &pair.nodes {
        assert_eq!(node.proposals.len(), SHARDS as usize);
    }
}

#[test]
fn a_peer_that_answers_is_not_lost_where_it_only_answers() {
    let mut pair = Pair::serving();
    // Node 1 is to lead one shard, and does not hear of it: it asks for nothing, and answers all the same.
    pair.place(1, InSync::pair(member(0), member(1)), 1, None);
    let led = InSync::pair(member(1), member(0));
    pair.nodes[0].view.pools[0].shards[1] = ShardEntry { epoch: Epoch::new(2), in_sync: led, ..pair.nodes[0].view.pools[0].shards[1] };
    pair.push_to(&[0]);
    pair.run_for(MS(3000));
    let proposals = &pair.nodes[0].proposals;
    assert!(
        !proposals.is_empty() && proposals.iter().all(|(_, at, _)| *at == ShardId::new(1)),
        "only of the silent primary: {proposals:?}"
    );
}

#[test]
fn a_read_without_a_lease_waits_for_one() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    pair.held[0] = true;
    pair.run_for(MS(900));
    let request = pair.nodes[0].read(alice, 0, 0, BLOCK_BYTES);
    pair.run_for(MS(50));
    assert!(pair.nodes[0].answer(request).is_none(), "I9");
    pair.held[0] = false;
    pair.run_for(MS(250));
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
}

#[test]
fn a_lease_that_ends_under_a_read_keeps_its_answer_back() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    pair.run();
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
    pair.held[0] = true;
    let request = pair.nodes[0].read(alice, 0, 0, BLOCK_BYTES);
    assert_eq!(pair.nodes[0].sent.len(), 1, "it is at the disk");
    pair.nodes[0].now = pair.nodes[0].now.plus(MS(900));
    pair.step_disk(0);
    assert!(pair.nodes[0].answer(request).is_none(), "I9: looked at again before the reply");
    pair.held[0] = false;
    pair.run_for(MS(250));
    let answer = pair.nodes[0].answer(request).unwrap();
    assert_eq!((answer.status(), answer.bytes), (Status::Ok, block(7)));
    pair.nodes[0].assert_idle();
}

/// Of the promoted second node: the status of a read at the new epoch, after `span`.
fn read_at_the_promoted(pair: &mut Pair, number: u64, span: Nanos) -> Option<Status> {
    let alice = pair.nodes[1].login(ALICE, number);
    let header = pair.nodes[1].header(Opcode::Read, 0, 0, BLOCK_BYTES);
    let header = Header { connection: ConnectionNumber::new(number), epoch: Epoch::new(2), ..header };
    let request = pair.nodes[1].send(alice, header);
    pair.run_for(span);
    pair.nodes[1].answer(request).map(|answer| answer.status())
}

#[test]
fn a_promoted_secondary_waits_out_the_grace() {
    let mut pair = Pair::serving();
    pair.held = [true; 2];
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[1]);
    assert_eq!(read_at_the_promoted(&mut pair, 1, MS(400)), None);
    assert_eq!(read_at_the_promoted(&mut pair, 2, MS(600)), Some(Status::NotReady));
    assert_eq!(read_at_the_promoted(&mut pair, 3, MS(250)), Some(Status::Ok), "1.2 s after its last grant");
}

/// Simulator seed 22000274: it had granted a lease, was promoted, and was killed and started again before the grace was over.
#[test]
fn a_promoted_copy_that_restarts_waits_out_what_its_former_life_granted() {
    let mut pair = promoted_and_restarted();
    assert_eq!(read_at_the_restarted(&mut pair, 101, MS(1150)), Some(Status::NotReady), "I9: the old primary may still answer reads");
    assert_eq!(read_at_the_restarted(&mut pair, 102, MS(100)), Some(Status::Ok), "1.2 s after it began");
}

#[test]
fn a_restarted_copy_waits_no_longer_when_the_old_primary_knows() {
    let mut pair = promoted_and_restarted();
    pair.governor().hears[0] = true;
    pair.publish();
    pair.held = [false; 2];
    pair.run_for(MS(400));
    assert_eq!(read_at_the_restarted(&mut pair, 101, MS(100)), Some(Status::Ok));
}

/// Simulator seed 26002920: the primary was cut off from the MDM meanwhile, and went on with its old numbers.
#[test]
fn a_primary_that_missed_epochs_numbers_as_the_newest_says() {
    let mut pair = Pair::serving();
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[1]);
    pair.place(4, InSync::pair(member(0), member(1)), 5000, None);
    pair.push_to(&[0, 1]);
    pair.run_for(MS(300));
    let before = pair.nodes[1].replica.devices()[0].statistics.data_writes;
    let alice = pair.nodes[0].login(ALICE, 7);
    let header = pair.nodes[0].header(Opcode::Write, 0, 0, BLOCK_BYTES);
    let header = Header { connection: ConnectionNumber::new(7), epoch: Epoch::new(4), ..header };
    let request = pair.nodes[0].send_bytes(alice, header, &block(7));
    pair.run_for(MS(500));
    assert_eq!(status_of(&mut pair, request), Some(Status::Ok));
    assert_eq!(pair.nodes[1].replica.devices()[0].statistics.data_writes, before + 1, "the other copy has it, too");
}

/// The second node is promoted, and at once in its next life; the first one is cut off.
fn promoted_and_restarted() -> Pair {
    let mut pair = Pair::governed();
    pair.held = [true; 2];
    pair.governor().hears[0] = false;
    pair.run_for(MS(1050));
    pair.kill(1, false);
    pair.start(1);
    let entry = pair.governor().entries[0];
    assert_eq!((entry.in_sync.members().len(), entry.in_sync.primary().unwrap().device), (1, member(1).device));
    pair
}

fn read_at_the_restarted(pair: &mut Pair, number: u64, span: Nanos) -> Option<Status> {
    let epoch = pair.governor().entries[0].epoch;
    let alice = pair.nodes[1].login(ALICE, number);
    let header = pair.nodes[1].header(Opcode::Read, 0, 0, BLOCK_BYTES);
    let header = Header { connection: ConnectionNumber::new(number), epoch, ..header };
    let request = pair.nodes[1].send(alice, header);
    pair.run_for(span);
    pair.nodes[1].answer(request).map(|answer| answer.status())
}

/// Found by cutting hosts off: what waited for the grace waited for `map_wait` instead when a beacon had come that confirmed nothing of it.
#[test]
fn a_beacon_that_ends_no_grace_does_not_make_its_end_forgotten() {
    let mut pair = Pair::serving();
    pair.held = [true; 2];
    // A newer view, but older than the one by which the second node is promoted.
    pair.place(1, InSync::pair(member(0), member(1)), 1, None);
    pair.push_to(&[0]);
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[1]);
    pair.run_for(MS(800));
    pair.held[1] = false;
    assert_eq!(read_at_the_promoted(&mut pair, 1, MS(420)), Some(Status::Ok), "1.2 s after its last grant");
}

#[test]
fn a_refused_port_ends_the_grace() {
    let mut pair = Pair::serving();
    pair.refuses[0] = true;
    pair.dead[0] = true;
    pair.cut();
    pair.run();
    assert_eq!(pair.nodes[1].proposals.len(), SHARDS as usize, "and makes the secondary propose at once");
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[1]);
    assert_eq!(read_at_the_promoted(&mut pair, 1, MS(10)), Some(Status::Ok));
}

#[test]
fn a_peer_that_says_hello_lives_whatever_its_port_said() {
    let mut pair = Pair::serving();
    pair.refuses[0] = true;
    pair.cut();
    pair.run();
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[1]);
    assert_ne!(read_at_the_promoted(&mut pair, 1, MS(10)), Some(Status::Ok), "it may still have its lease");
}

#[test]
fn a_refused_port_says_nothing_where_it_is_not_trusted() {
    let mut pair = Pair::apart_trusting([DEVICE_BYTES; 2], false).placed();
    pair.refuses = [true; 2];
    pair.cut();
    pair.run_for(MS(700));
    assert!((0..2).all(|at| pair.nodes[at].proposals.is_empty()), "it may be a firewall's word");
    pair.run_for(MS(400));
    assert!((0..2).all(|at| pair.nodes[at].proposals.len() == SHARDS as usize), "silence says it");
    let mut pair = Pair::apart_trusting([DEVICE_BYTES; 2], false).placed();
    pair.refuses[0] = true;
    pair.cut();
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[1]);
    assert_eq!(read_at_the_promoted(&mut pair, 1, MS(1000)), Some(Status::NotReady), "the old primary may have its lease");
    assert_eq!(read_at_the_promoted(&mut pair, 2, MS(250)), Some(Status::Ok), "1.2 s after its last grant");
}

#[test]
fn a_grant_of_a_promoted_secondary_is_worth_nothing_to_the_old_primary() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[1]);
    pair.run_for(MS(900));
    let request = pair.nodes[0].read(alice, 0, 0, BLOCK_BYTES);
    pair.run_for(MS(300));
    assert!(pair.nodes[0].answer(request).is_none(), "I9: its beacons are answered, but by a newer view");
}

#[test]
fn a_peer_that_means_another_life_is_turned_away() {
    let mut pair = Pair::serving();
    for (number, incarnation, addressed, expected) in
        [(9, 1, 7, Status::MapStale), (1, 1, 2, Status::Invalid), (u64::MAX, 1, 2, Status::Invalid)]
    {
        let link = LinkId::new(500 + number % 100 + addressed + incarnation);
        pair.nodes[1].input(Input::Linked { link });
        let (incarnation, addressed) = (Incarnation::new(incarnation), Incarnation::new(addressed));
        let hello = Hello::ours(SYSTEM, Party::Peer { sds: SdsId::new(1), incarnation, addressed });
        let header = Header { connection: ConnectionNumber::new(number), ..Header::new(Opcode::Hello) };
        pair.nodes[1].input(Input::Frame { link, frame: &Frame { header, cache_ids: CacheIds::NONE, body: Body::Hello(hello) } });
        assert_eq!(pair.nodes[1].answers.pop_back().expect("an answer").status(), expected);
    }
}

#[test]
fn a_client_may_not_speak_as_a_peer() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[1].login(ALICE, 1);
    let header = pair.nodes[1].header(Opcode::ReplicateZero, 0, 0, BLOCK_BYTES);
    pair.nodes[1].send(alice, header);
    assert!(pair.nodes[1].closed.contains(&alice));
}

#[test]
fn a_device_that_fails_at_the_primary_yields() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    pair.nodes[0].fail_writes_from = Some(0);
    let request = pair.nodes[0].write(alice, 0, 0, &block(7));
    pair.run_for(MS(20));
    assert!(pair.nodes[0].answer(request).is_none(), "it must not say that it failed: the other copy has it");
    assert!(pair.nodes[0].proposals.iter().all(|(.., proposal)| matches!(proposal.change, Change::Yield { .. })));
    assert_eq!(pair.nodes[0].proposals.len(), SHARDS as usize);
    pair.place(2, InSync::sole(member(1)), 1000, None);
    pair.push_to(&[0, 1]);
    pair.run();
    assert_eq!(status_of(&mut pair, request), Some(Status::MapStale));
}

#[derive(Clone, Debug)]
enum Deed {
    Write { extent: u32, block: u32, blocks: u32, value: u8 },
    Fragment { extent: u32, block: u32, value: u8 },
    Zero { extent: u32, block: u32, blocks: u32 },
    Read { extent: u32, block: u32 },
    Flush,
    Disk(usize),
    Deliver(usize),
    Lose(usize),
    Cut,
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let place = (0_u32..2, 0_u32..6);
    prop_oneof![
        6 => (place.clone(), 1_u32..=2, any::<u8>()).prop_map(|((extent, block), blocks, value)| Deed::Write { extent, block, blocks, value }),
        2 => (place.clone(), any::<u8>()).prop_map(|((extent, block), value)| Deed::Fragment { extent, block, value }),
        2 => (place.clone(), 1_u32..=2).prop_map(|((extent, block), blocks)| Deed::Zero { extent, block, blocks }),
        2 => place.prop_map(|(extent, block)| Deed::Read { extent, block }),
        1 => Just(Deed::Flush),
        12 => (0_usize..2).prop_map(Deed::Disk),
        12 => (0_usize..2).prop_map(Deed::Deliver),
        1 => (0_usize..2).prop_map(Deed::Lose),
        1 => Just(Deed::Cut),
        2 => (1_u64..3000).prop_map(Deed::Wait),
    ]
}

fn do_it(pair: &mut Pair, alice: LinkId, deed: &Deed) -> Option<RequestId> {
    let node = &mut pair.nodes[0];
    match *deed {
        Deed::Write { extent, block, blocks, value } => {
            let bytes = vec![value; (blocks * BLOCK_BYTES) as usize];
            return Some(node.write(alice, extent, block * BLOCK_BYTES, &bytes));
        }
        Deed::Fragment { extent, block, value } => return Some(node.fragment(alice, extent, block * BLOCK_BYTES + 100, &[value; 300])),
        Deed::Zero { extent, block, blocks } => {
            let header = node.header(Opcode::Zero, extent, block * BLOCK_BYTES, blocks * BLOCK_BYTES);
            return Some(node.send(alice, header));
        }
        Deed::Read { extent, block } => return Some(node.read(alice, extent, block * BLOCK_BYTES, BLOCK_BYTES)),
        Deed::Flush => {
            let header = Header { device: member(0).device, ..node.header(Opcode::Flush, 0, 0, 0) };
            return Some(node.send(alice, header));
        }
        Deed::Disk(at) => {
            pair.step_disk(at);
        }
        Deed::Deliver(to) => {
            pair.deliver(to);
        }
        Deed::Lose(to) => {
            // A link loses the tail of what is under way, never one frame of the middle.
            pair.collect();
            let kept = pair.flights[to].len() / 2;
            pair.flights[to].truncate(kept);
            while pair.deliver(to) {}
            pair.cut();
        }
        Deed::Cut => pair.cut(),
        Deed::Wait(micros) => {
            let now = pair.now().plus(Nanos::from_micros(micros));
            for node in &mut pair.nodes {
                node.now = now;
                node.input(Input::Wake);
            }
        }
    }
    while pair.connect(0) || pair.connect(1) {}
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn both_copies_are_one_after_any_run(deeds in proptest::collection::vec(deed(), 1..160)) {
        let mut pair = Pair::serving();
        let alice = pair.nodes[0].login(ALICE, 1);
        let mut requests = Vec::new();
        for deed in &deeds {
            requests.extend(do_it(&mut pair, alice, deed));
        }
        pair.run_for(MS(400));
        for request in requests {
            let status = status_of(&mut pair, request);
            prop_assert!(status == Some(Status::Ok) || status == Some(Status::NotReady), "{:?}", status);
        }
        pair.nodes.iter().for_each(Node::assert_idle);
        prop_assert!(pair.nodes.iter().all(|node| node.pool.internal_used < 200), "buffers leak");
        assert_same_contents(pair);
    }
}

#[test]
fn many_writes_at_once_stay_within_bounds() {
    let mut pair = Pair::serving();
    let alice = pair.nodes[0].login(ALICE, 1);
    let requests: Vec<_> =
        (0..80_u32).map(|number| pair.nodes[0].write(alice, number % 2, number / 2 * BLOCK_BYTES, &block(number as u8))).collect();
    pair.run();
    let statuses: Vec<_> = requests.into_iter().map(|request| status_of(&mut pair, request).unwrap()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == Status::Ok).count(), 48, "as many as one peer is given of what the node takes");
    // A payload of its own for the pool's sake: nothing of the peers' classes is left.
    let node = &mut pair.nodes[1];
    let before = node.pool.internal_used;
    let buffer = node.pool.allocate(BufferClass::Replicate, BLOCK_BYTES).unwrap();
    assert_eq!(ChecksumList::of_blocks(node.pool.bytes(Span::whole(buffer, BLOCK_BYTES))).len(), 1);
    node.pool.release(buffer);
    assert_eq!(node.pool.internal_used, before);
    assert_same_contents(pair);
}
