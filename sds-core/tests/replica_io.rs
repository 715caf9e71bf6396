//! Reads and writes at a storage node: what is served, in which order, and what is refused.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod replica_rig;

use proptest::prelude::*;
use replica_rig::*;
use sds_core::error::Status;
use sds_core::id::*;
use sds_core::machine::LinkId;
use sds_core::replica::interface::{Event, Input};
use sds_core::unit::*;
use sds_core::wire::*;
use std::collections::BTreeMap;

const B: u32 = BLOCK_BYTES;

fn serving() -> (Node, LinkId) {
    let mut node = Node::serving();
    let link = node.login(ALICE, 1);
    (node, link)
}

#[test]
fn written_blocks_read_back_with_version_and_cache_id() {
    let (mut node, link) = serving();
    let bytes: Vec<u8> = (0..3 * BLOCK).map(|at| (at / 7) as u8).collect();
    let first = node.write(link, 2, 8 * B, &bytes);
    let first = node.finish(first);
    assert_eq!((first.status(), first.header.opcode), (Status::Ok, Opcode::WriteReply));
    assert_eq!(first.header.epoch, Epoch::new(1));
    assert_eq!(first.cache_ids.as_slice().len(), 1);
    assert_eq!(first.cache_ids.as_slice()[0].device, DEVICE_ID);
    assert_ne!(first.cache_ids.as_slice()[0].boot, 0, "the cache is volatile");
    let second = node.write(link, 2, 8 * B, &bytes);
    let second = node.finish(second);
    assert!(second.header.sequence > first.header.sequence, "one shard, one order");
    assert!(first.header.sequence.get() > 0, "0 is before the first");
    assert_eq!(node.contents(link, 2, 8 * B, 3 * B), bytes);
    assert_eq!(node.contents(link, 2, 9 * B, B), bytes[BLOCK..2 * BLOCK]);
    node.assert_idle();
}

#[test]
fn unwritten_blocks_are_answered_without_payload() {
    let (mut node, link) = serving();
    let request = node.read(link, 0, 0, 4 * B);
    let answer = node.finish(request);
    assert_eq!(answer.status(), Status::Ok);
    assert!(answer.header.flags.contains(Flags::ALL_ZERO) && answer.bytes.is_empty());
    node.assert_idle();
}

#[test]
fn a_fragment_changes_its_bytes_and_no_others() {
    let (mut node, link) = serving();
    let request = node.write(link, 1, 0, &block(0x11));
    node.finish(request);
    let request = node.fragment(link, 1, 512, &[0x22; 1024]);
    assert_eq!(node.finish(request).status(), Status::Ok);
    let mut expected = block(0x11);
    expected[512..1536].fill(0x22);
    assert_eq!(node.contents(link, 1, 0, B), expected);
    // And on a block that was never written.
    let request = node.fragment(link, 1, 10 * B + 4095, &[0x33]);
    assert_eq!(node.finish(request).status(), Status::Ok);
    let mut expected = block(0);
    expected[4095] = 0x33;
    assert_eq!(node.contents(link, 1, 10 * B, B), expected);
    node.assert_idle();
}

#[test]
fn fragments_of_one_block_sent_together_all_land() {
    let (mut node, link) = serving();
    let requests: Vec<_> = (0..8_u32).map(|at| node.fragment(link, 1, at * 512, &[at as u8 + 1; 512])).collect();
    for request in requests {
        assert_eq!(node.finish(request).status(), Status::Ok);
    }
    let expected: Vec<u8> = (0..8).flat_map(|at| [at + 1; 512]).collect();
    assert_eq!(node.contents(link, 1, 0, B), expected);
}

#[test]
fn a_read_waits_for_the_overlapping_write_and_no_other() {
    let (mut node, link) = serving();
    for at in [0, 8] {
        let request = node.write(link, 1, at * B, &block(1));
        node.finish(request);
    }
    let write = node.write(link, 1, 0, &block(2));
    let disk_requests = node.sent.len();
    assert!(disk_requests > 0, "the write is at the disk");
    let overlapping = node.read(link, 1, 0, 2 * B);
    assert_eq!(node.sent.len(), disk_requests, "the read waits");
    let apart = node.read(link, 1, 8 * B, B);
    assert!(node.sent.len() > disk_requests, "this one does not");
    while node.answer(apart).is_none() {
        node.complete(node.sent.len() - 1);
    }
    assert!(node.answer(write).is_none());
    let answer = node.finish(overlapping);
    assert_eq!(answer.bytes[..BLOCK], block(2));
    assert!(node.answer(write).is_some());
    node.assert_idle();
}

#[test]
fn a_damaged_payload_is_refused_and_changes_nothing() {
    let (mut node, link) = serving();
    let request = node.write(link, 1, 0, &block(1));
    node.finish(request);
    for (opcode, length) in [(Opcode::Write, B), (Opcode::WriteFragment, 100)] {
        let header = node.header(opcode, 1, 0, length);
        let (bytes, meant) = (vec![2; length as usize], vec![3; length as usize]);
        let request = node.send_damaged(link, header, &bytes, &meant);
        assert_eq!(node.finish(request).status(), Status::PayloadDamaged);
    }
    assert_eq!(node.events.iter().filter(|event| **event == Event::PayloadDamaged { link }).count(), 2);
    assert_eq!(node.contents(link, 1, 0, B), block(1));
    node.assert_idle();
}

#[test]
fn zeroed_and_trimmed_blocks_read_zero_and_are_told_so() {
    let (mut node, link) = serving();
    let request = node.write(link, 1, 0, &vec![7; 8 * BLOCK]);
    node.finish(request);
    let header = Header { flags: Flags::NONE, ..node.header(Opcode::Zero, 1, B, 2 * B) };
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Ok);
    let status = node.header(Opcode::BlockStatus, 1, 0, EXTENT_BYTES);
    let request = node.send(link, status);
    let answer = node.finish(request);
    assert_eq!(answer.bytes.len(), BLOCK_STATUS_BYTES as usize);
    assert_eq!(answer.bytes[0], 0b1111_1001, "blocks 1 and 2 hold no data");
    assert!(answer.bytes[1..].iter().all(|byte| *byte == 0));
    assert_eq!(node.contents(link, 1, B, 2 * B), vec![0; 2 * BLOCK]);

    let used = node.replica.devices()[0].capacity.used;
    let header = Header { flags: Flags::TRIM, ..node.header(Opcode::Zero, 1, 0, EXTENT_BYTES) };
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Ok);
    assert_eq!(used.get() - node.replica.devices()[0].capacity.used.get(), u64::from(EXTENT_BYTES), "the extent is given back");
    assert_eq!(node.contents(link, 1, 0, 8 * B), vec![0; 8 * BLOCK]);
    node.assert_idle();
}

#[test]
fn a_flush_makes_acknowledged_writes_survive_a_power_cut() {
    let (mut node, link) = serving();
    let request = node.write(link, 1, 0, &block(9));
    let cache = node.finish(request).cache_ids;
    let mut header = node.header(Opcode::Flush, 0, 0, 0);
    header.device = DEVICE_ID;
    node.input(Input::Frame { link, frame: &Frame { cache_ids: cache, ..Frame::bare(header) } });
    let answer = node.finish(header.request);
    assert_eq!((answer.status(), answer.cache_ids), (Status::Ok, cache));

    let mut disk = node.disks.remove(0);
    disk.cut();
    let mut node = Node::opened(vec![disk], 2);
    node.register();
    node.install();
    let link = node.login(ALICE, 1);
    assert_eq!(node.contents(link, 1, 0, B), block(9));
}

#[test]
fn a_flush_that_relies_on_another_boot_is_lost() {
    let (mut node, link) = serving();
    for (relied_on, expected) in [(1234, Status::FlushLost), (0, Status::FlushLost)] {
        let mut header = node.header(Opcode::Flush, 0, 0, 0);
        header.device = DEVICE_ID;
        let cache_ids = CacheIds::one(CacheId { device: DEVICE_ID, boot: relied_on });
        node.input(Input::Frame { link, frame: &Frame { cache_ids, ..Frame::bare(header) } });
        assert_eq!(node.finish(header.request).status(), expected);
    }
    // Relying on nothing asks for nothing.
    let mut header = node.header(Opcode::Flush, 0, 0, 0);
    header.device = DEVICE_ID;
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Ok);
}

#[test]
fn blocks_past_the_end_are_refused_exactly() {
    let (mut node, link) = serving();
    // 1 MiB + 3 blocks: extent 0 holds the first unit and one more row, by the default stripe.
    node.volume().size = ByteCount::new((1 << 20) + 3 * u64::from(B));
    node.push();
    let unit = sds_core::limits::STRIPE_UNIT_BYTES_DEFAULT;
    for (offset, length, expected) in
        [(unit, 3 * B, Status::Ok), (unit, 4 * B, Status::PastEnd), (unit + 3 * B, B, Status::PastEnd), (0, unit, Status::Ok)]
    {
        let request = node.read(link, 0, offset, length);
        assert_eq!(node.finish(request).status(), expected, "{offset} + {length}");
    }
    let request = node.write(link, 1, unit, &block(1));
    assert_eq!(node.finish(request).status(), Status::PastEnd);
    let request = node.read(link, u32::MAX, 0, B);
    assert_eq!(node.finish(request).status(), Status::PastEnd);
}

#[test]
fn a_request_for_a_layer_is_refused_while_there_are_no_snapshots() {
    let (mut node, link) = serving();
    let mut header = node.header(Opcode::Read, 1, 0, B);
    header.layer = LayerId::new(1);
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Invalid);
}

#[test]
fn a_request_for_another_shard_or_volume_is_refused() {
    let (mut node, link) = serving();
    let mut header = node.header(Opcode::Read, 1, 0, B);
    header.shard = ShardId::new((header.shard.get() + 1) % SHARDS);
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::Invalid);
    let mut header = node.header(Opcode::Read, 1, 0, B);
    header.volume = VolumeId::new(99);
    let request = node.send(link, header);
    assert_eq!(node.finish(request).status(), Status::NoVolume);
}

#[test]
fn a_misshapen_request_of_a_local_role_is_refused() {
    let (mut node, link) = serving();
    for header in [node.header(Opcode::Read, 1, 1, B), node.header(Opcode::Read, 1, 0, 0), node.header(Opcode::Zero, 1, B, EXTENT_BYTES)] {
        let request = node.send(link, header);
        assert_eq!(node.finish(request).status(), Status::Invalid);
    }
    let header = node.header(Opcode::Write, 1, 0, 2 * B);
    let request = node.send_bytes(link, header, &block(1));
    assert_eq!(node.finish(request).status(), Status::Invalid);
    node.assert_idle();
}

#[test]
fn reads_without_room_wait_and_go_on_in_order() {
    let (mut node, link) = serving();
    let request = node.write(link, 1, 0, &block(1));
    node.finish(request);
    node.pool.client_limit = 0;
    let reads: Vec<_> = (0..3).map(|_| node.read(link, 1, 0, B)).collect();
    // They hold no lock, so a write passes.
    let write = node.write(link, 1, 0, &block(2));
    assert_eq!(node.finish(write).status(), Status::Ok);
    assert!(reads.iter().all(|read| node.answer(*read).is_none()));
    node.pool.client_limit = 1;
    node.input(Input::Wake);
    for read in reads {
        let answer = node.finish(read);
        assert_eq!(answer.bytes, block(2));
        node.input(Input::Wake);
    }
    node.assert_idle();
}

#[test]
fn fragments_go_on_when_clients_hold_all_client_buffers() {
    let (mut node, link) = serving();
    node.pool.client_limit = 0;
    let requests: Vec<_> = (0..6_u32).map(|at| node.fragment(link, 1, at * B + 7, &[9; 99])).collect();
    for request in requests {
        assert_eq!(node.finish(request).status(), Status::Ok);
    }
    node.assert_idle();
}

#[test]
fn a_bad_block_is_an_error_for_that_block_alone_and_is_named() {
    let (mut node, link) = serving();
    let request = node.write(link, 1, 0, &vec![0xee; 2 * BLOCK]);
    node.finish(request);
    // Sealed, so that the medium can be judged.
    node.run_until(node.now.plus(Nanos::from_millis(5000)));
    assert!(node.disks[0].flip_first_of(0xee));
    let request = node.read(link, 1, 0, B);
    assert_eq!(node.finish(request).status(), Status::Corrupt);
    assert_eq!(node.contents(link, 1, B, B), block(0xee));
    let device = &node.replica.devices()[0];
    assert_eq!(device.faults.data_mismatches, 1);
    assert_eq!(device.recent_faults.len(), 1);
    assert!(device.recent_faults[0].contains("volume 3 (demo) extent 1 block 0"), "{}", device.recent_faults[0]);
    // A fragment cannot be merged into it, a whole block heals it.
    let request = node.fragment(link, 1, 5, &[1, 2, 3]);
    assert_eq!(node.finish(request).status(), Status::Corrupt);
    let request = node.write(link, 1, 0, &block(4));
    assert_eq!(node.finish(request).status(), Status::Ok);
    assert_eq!(node.contents(link, 1, 0, B), block(4));
    node.assert_idle();
}

#[derive(Clone, Debug)]
enum Step {
    Write { first: u32, blocks: u32, value: u8 },
    Fragment { at: u32, len: u32, value: u8 },
    Zero { first: u32, blocks: u32, trim: bool },
    Read { first: u32, blocks: u32 },
    Complete { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u32..4, 1_u32..4, any::<u8>()).prop_map(|(first, blocks, value)| Step::Write { first, blocks, value }),
        (0_u32..4 * B, 1_u32..B, any::<u8>()).prop_map(|(at, len, value)| Step::Fragment { at, len, value }),
        (0_u32..4, 1_u32..4, any::<bool>()).prop_map(|(first, blocks, trim)| Step::Zero { first, blocks, trim }),
        (0_u32..4, 1_u32..4).prop_map(|(first, blocks)| Step::Read { first, blocks }),
        any::<usize>().prop_map(|which| Step::Complete { which }),
        any::<usize>().prop_map(|which| Step::Complete { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Overlapping requests take effect in the order they came, whatever order the disk completes in:
    /// each read returns what all requests before it, and none after it, have left.
    #[test]
    fn overlapping_requests_take_effect_in_order(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut node, link) = serving();
        let mut model = vec![0_u8; 8 * BLOCK];
        let mut expected: BTreeMap<RequestId, Option<Vec<u8>>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Write { first, blocks, value } => {
                    let bytes = vec![value; (blocks * B) as usize];
                    expected.insert(node.write(link, 1, first * B, &bytes), None);
                    model[(first * B) as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
                Step::Fragment { at, len, value } => {
                    let len = len.min(B - at % B).min(B - 1);
                    expected.insert(node.fragment(link, 1, at, &vec![value; len as usize]), None);
                    model[at as usize..][..len as usize].fill(value);
                }
                Step::Zero { first, blocks, trim } => {
                    let mut header = node.header(Opcode::Zero, 1, first * B, blocks * B);
                    header.flags = if trim { Flags::TRIM } else { Flags::NONE };
                    expected.insert(node.send(link, header), None);
                    model[(first * B) as usize..][..(blocks * B) as usize].fill(0);
                }
                Step::Read { first, blocks } => {
                    let bytes = model[(first * B) as usize..][..(blocks * B) as usize].to_vec();
                    expected.insert(node.read(link, 1, first * B, blocks * B), Some(bytes));
                }
                Step::Complete { which } if !node.sent.is_empty() => {
                    let which = which % node.sent.len();
                    node.complete(which);
                }
                Step::Complete { .. } => {
                    let due = node.replica.deadline().unwrap_or(node.now);
                    node.now = node.now.max(due.min(node.now.plus(Nanos::from_millis(1))));
                    node.input(Input::Wake);
                }
            }
        }
        node.drain();
        for (request, bytes) in expected {
            let answer = node.answer(request).expect("answered");
            prop_assert_eq!(answer.status(), Status::Ok);
            if let Some(bytes) = bytes {
                let zero = answer.header.flags.contains(Flags::ALL_ZERO);
                let same = if zero { bytes.iter().all(|byte| *byte == 0) } else { answer.bytes == bytes };
                prop_assert!(same);
            }
        }
        prop_assert_eq!(node.contents(link, 1, 0, 8 * B), model);
        node.assert_idle();
    }
}
