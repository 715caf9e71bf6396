//! The wire codec: round trips, totality, damage, shapes, golden files.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use proptest::prelude::*;
use sds_core::buffer::{BufferId, Span};
use sds_core::checksum::{Checksum, ChecksumList};
use sds_core::error::Status;
use sds_core::exchange::{BLOCKS_BYTES, EXTENT_ENTRY_BYTES, PLAN_BYTES};
use sds_core::id::*;
use sds_core::limits::FRAME_PAYLOAD_BYTES_MAX;
use sds_core::unit::{BLOCK_BYTES, EXTENT_BYTES};
use sds_core::wire::*;
use std::path::PathBuf;

const OPCODES: [Opcode; 30] = [
    Opcode::Hello,
    Opcode::HelloReply,
    Opcode::Read,
    Opcode::ReadReply,
    Opcode::Write,
    Opcode::WriteFragment,
    Opcode::WriteReply,
    Opcode::Zero,
    Opcode::Flush,
    Opcode::FlushReply,
    Opcode::BlockStatus,
    Opcode::BlockStatusReply,
    Opcode::Replicate,
    Opcode::ReplicateZero,
    Opcode::ReplicateReply,
    Opcode::ReplicateFlush,
    Opcode::ReplicateFlushReply,
    Opcode::Beacon,
    Opcode::Grant,
    Opcode::Extents,
    Opcode::ExtentsReply,
    Opcode::Blocks,
    Opcode::BlocksReply,
    Opcode::Medium,
    Opcode::MediumReply,
    Opcode::Copy,
    Opcode::Settle,
    Opcode::FreeExtent,
    Opcode::ResyncReply,
    Opcode::Resolved,
];

/// A header whose fields all differ, so that two that were swapped are noticed.
fn header(opcode: Opcode) -> Header {
    Header {
        opcode,
        flags: Flags::NONE,
        connection: ConnectionNumber::new(0x0102_0304_0506_0708),
        request: RequestId::new(0x1112_1314_1516_1718),
        generation: SessionGeneration::new(0x2122_2324_2526_2728),
        volume: VolumeId::new(0x3132_3334),
        layer: LayerId::new(0x4142_4344),
        extent: ExtentIndex::new(0x5152_5354),
        offset: 2 * BLOCK_BYTES,
        length: 3 * BLOCK_BYTES,
        epoch: Epoch::new(0x6162_6364),
        sequence: ShardSequence::new(0x7172_7374_7576_7778),
        resolved: ShardSequence::new(0x8182_8384_8586_8788),
        map_version: MapVersion::new(0x9192_9394_9596_9798),
        shard: ShardId::new(0xa1a2_a3a4),
        device: DeviceId::new(0xb1b2_b3b4),
        status: Status::Ok,
    }
}

fn span(len: u32) -> Span {
    Span::whole(BufferId::new(9), len)
}

fn checksums(count: u32) -> ChecksumList {
    let mut list = ChecksumList::EMPTY;
    for number in 0..count {
        list.push(Checksum::new(0xc000_0000 + number));
    }
    list
}

fn with_payload(header: Header, len: u32) -> Frame {
    Frame::with_payload(header, span(len), checksums(len.div_ceil(BLOCK_BYTES)))
}

fn one_cache_id() -> CacheIds {
    CacheIds::one(CacheId { device: DeviceId::new(0xd1), boot: 0xd2d3_d4d5_d6d7_d8d9 })
}

fn two_cache_ids() -> CacheIds {
    let mut ids = one_cache_id();
    assert!(ids.push(CacheId { device: DeviceId::new(0xe1), boot: 0 }));
    ids
}

fn hello(party: Party) -> Frame {
    let hello = Hello { version_min: 1, version_max: 3, system: SystemId::new(0xf0f1_f2f3 << 64), party };
    Frame { header: Header { offset: 0, length: 0, ..header(Opcode::Hello) }, cache_ids: CacheIds::NONE, body: Body::Hello(hello) }
}

fn peer(incarnation: u64) -> Party {
    Party::Peer {
        sds: SdsId::new(0xa5a6_a7a8),
        incarnation: Incarnation::new(incarnation),
        addressed: Incarnation::new(0xb5b6_b7b8_b9ba_bbbc),
    }
}

/// One frame of each kind, by the name of its golden file.
fn examples() -> Vec<(&'static str, Frame)> {
    let client = Party::Client { client: ClientId::new(0xabcd << 100), ticket: Ticket::new(0x1234 << 99) };
    vec![
        ("hello_client", hello(client)),
        ("hello_peer", hello(peer(u64::MAX))),
        ("hello_reply", Frame::bare(Header { offset: 0, length: 1, ..header(Opcode::HelloReply) })),
        ("read", Frame::bare(header(Opcode::Read))),
        ("read_reply", with_payload(header(Opcode::ReadReply), 3 * BLOCK_BYTES)),
        ("read_reply_zero", Frame::bare(Header { flags: Flags::ALL_ZERO, ..header(Opcode::ReadReply) })),
        ("read_reply_corrupt", Frame::bare(Header { status: Status::Corrupt, ..header(Opcode::ReadReply) })),
        ("write", with_payload(Header { flags: Flags::DURABLE, ..header(Opcode::Write) }, 3 * BLOCK_BYTES)),
        (
            "write_largest",
            with_payload(Header { offset: 0, length: FRAME_PAYLOAD_BYTES_MAX, ..header(Opcode::Write) }, FRAME_PAYLOAD_BYTES_MAX),
        ),
        ("write_fragment", with_payload(Header { offset: BLOCK_BYTES + 512, length: 1024, ..header(Opcode::WriteFragment) }, 1024)),
        ("write_reply", Frame { cache_ids: two_cache_ids(), ..Frame::bare(header(Opcode::WriteReply)) }),
        ("zero", Frame::bare(Header { flags: Flags::TRIM.with(Flags::DURABLE), offset: 0, length: EXTENT_BYTES, ..header(Opcode::Zero) })),
        ("flush", Frame { cache_ids: two_cache_ids(), ..Frame::bare(header(Opcode::Flush)) }),
        ("flush_reply_lost", Frame::bare(Header { status: Status::FlushLost, ..header(Opcode::FlushReply) })),
        ("block_status", Frame::bare(header(Opcode::BlockStatus))),
        ("block_status_reply", with_payload(header(Opcode::BlockStatusReply), BLOCK_STATUS_BYTES)),
        ("replicate", with_payload(Header { flags: Flags::DURABLE, ..header(Opcode::Replicate) }, 3 * BLOCK_BYTES)),
        ("replicate_zero", Frame::bare(Header { flags: Flags::TRIM, offset: 0, length: EXTENT_BYTES, ..header(Opcode::ReplicateZero) })),
        ("replicate_reply", Frame { cache_ids: one_cache_id(), ..Frame::bare(header(Opcode::ReplicateReply)) }),
        ("replicate_reply_stale", Frame::bare(Header { status: Status::MapStale, ..header(Opcode::ReplicateReply) })),
        ("replicate_flush", Frame::bare(header(Opcode::ReplicateFlush))),
        ("replicate_flush_reply", Frame { cache_ids: one_cache_id(), ..Frame::bare(header(Opcode::ReplicateFlushReply)) }),
        ("beacon", Frame::bare(header(Opcode::Beacon))),
        ("grant", Frame::bare(header(Opcode::Grant))),
        ("extents", Frame::bare(header(Opcode::Extents))),
        ("extents_reply", with_payload(Header { length: 3 * EXTENT_ENTRY_BYTES, ..header(Opcode::ExtentsReply) }, 72)),
        ("blocks", Frame::bare(header(Opcode::Blocks))),
        ("blocks_reply", with_payload(Header { length: BLOCKS_BYTES, ..header(Opcode::BlocksReply) }, BLOCKS_BYTES)),
        ("blocks_reply_not_held", Frame::bare(Header { length: 0, ..header(Opcode::BlocksReply) })),
        ("medium", Frame::bare(header(Opcode::Medium))),
        ("medium_reply", with_payload(header(Opcode::MediumReply), 3 * BLOCK_BYTES)),
        ("copy", with_payload(header(Opcode::Copy), 3 * BLOCK_BYTES)),
        ("settle", with_payload(header(Opcode::Settle), PLAN_BYTES)),
        ("free_extent", Frame::bare(header(Opcode::FreeExtent))),
        ("resync_reply", Frame::bare(header(Opcode::ResyncReply))),
        ("resolved", Frame::bare(header(Opcode::Resolved))),
    ]
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut head = [0xa5; HEAD_BYTES_MAX];
    let used = encode_head(frame, &mut head);
    head[..used].to_vec()
}

fn payload_of(frame: &Frame) -> Option<Span> {
    match frame.body {
        Body::Payload { span, .. } => Some(span),
        Body::Empty | Body::Hello(_) => None,
    }
}

fn assert_round_trip(frame: &Frame) {
    let bytes = encoded(frame);
    for end in 0..bytes.len() {
        assert_eq!(decode_head(&bytes[..end]), Ok(None), "{end} bytes of {frame:?}");
    }
    let (head, used) = decode_head(&bytes).expect("a frame").expect("whole");
    assert_eq!((used, head.payload_len()), (bytes.len(), payload_of(frame).map_or(0, |span| span.len)));
    assert_eq!(head.into_frame(payload_of(frame)), *frame);
    // What follows is not looked at.
    let mut more = bytes.clone();
    more.extend([0xff; 40]);
    assert_eq!(decode_head(&more), Ok(Some((head, used))));
}

#[test]
fn every_kind_of_frame_comes_back_as_it_was() {
    for (_, frame) in examples() {
        assert_round_trip(&frame);
    }
}

#[test]
fn golden_files_hold() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire");
    for (name, frame) in examples() {
        let text: String = encoded(&frame)
            .chunks(16)
            .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ") + "\n")
            .collect();
        let path = folder.join(name).with_extension("hex");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(text, golden, "the bytes of {name} have changed: other versions would not understand them");
    }
}

#[test]
fn any_flipped_bit_of_a_head_is_an_error() {
    for (name, frame) in examples() {
        let bytes = encoded(&frame);
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1 << bit;
                assert!(decode_head(&damaged).is_err(), "bit {bit} of byte {place} of {name}");
            }
        }
    }
}

#[test]
fn something_else_is_refused_at_its_first_byte() {
    let cases: [(&[u8], [u8; 4]); 3] = [(b"GET / HTTP/1.1", *b"GET "), (b"N", [b'N', 0, 0, 0]), (b"SDS2", *b"SDS2")];
    for (bytes, found) in cases {
        assert_eq!(decode_head(bytes), Err(WireError::Magic { found }));
    }
}

/// Encodes what must not be encoded: changes bytes of a good head and makes its header checksum right.
fn forged(frame: &Frame, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = encoded(frame);
    change(&mut bytes[..100]);
    let checksum = Checksum::of(&bytes[..100]).get();
    bytes[100..104].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn well_formed_nonsense_is_refused_by_name() {
    let read = Frame::bare(header(Opcode::Read));
    let write = with_payload(header(Opcode::Write), 3 * BLOCK_BYTES);
    let reply = Frame { cache_ids: two_cache_ids(), ..Frame::bare(header(Opcode::WriteReply)) };
    let set32 = |at: usize, value: u32| move |bytes: &mut [u8]| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let refused = |bytes: Vec<u8>| decode_head(&bytes).expect_err("nonsense");
    assert_eq!(refused(forged(&read, |bytes| bytes[4] = 2)), WireError::Version { found: 2 });
    for opcode in [0, 13, 31, 50, 255] {
        assert_eq!(refused(forged(&read, |bytes| bytes[5] = opcode)), WireError::Opcode { found: opcode });
    }
    assert!(matches!(refused(forged(&read, |bytes| bytes[7] = 0x80)), WireError::Flags { found: 0x8000, .. }));
    assert!(matches!(refused(forged(&read, |bytes| bytes[6] = 1)), WireError::Flags { found: 1, .. }), "a read is not durable");
    assert!(matches!(refused(forged(&read, |bytes| bytes[92] = 14)), WireError::Status { found: 14, .. }));
    assert!(matches!(refused(forged(&read, |bytes| bytes[92] = 1)), WireError::Status { found: 1, .. }), "a request has no outcome");
    // A payload longer than allowed, though header and range agree on it.
    let too_long = FRAME_PAYLOAD_BYTES_MAX + BLOCK_BYTES;
    let forge = |bytes: &mut [u8]| {
        set32(48, too_long)(bytes);
        set32(88, too_long)(bytes);
    };
    assert!(matches!(refused(forged(&write, forge)), WireError::Range { .. }));
    assert!(matches!(refused(forged(&write, set32(88, u32::MAX))), WireError::PayloadLength { found: u32::MAX, .. }));
    assert!(matches!(refused(forged(&write, |bytes| bytes[94] = 2)), WireError::ChecksumCount { found: 2, .. }));
    assert!(matches!(refused(forged(&write, |bytes| bytes[94] = 255)), WireError::ChecksumCount { found: 255, .. }));
    assert!(matches!(refused(forged(&write, |bytes| bytes[95] = 1)), WireError::CacheIdCount { found: 1, .. }));
    assert!(matches!(refused(forged(&reply, |bytes| bytes[95] = 3)), WireError::CacheIdCount { found: 3, .. }));
    assert!(matches!(refused(forged(&reply, set32(96, 0))), WireError::TailChecksum { expected: 0, .. }));
    assert!(matches!(refused(forged(&read, set32(88, 4096))), WireError::PayloadLength { found: 4096, .. }));
}

#[test]
fn ranges_that_leave_their_extent_or_block_are_refused() {
    let cases = [
        (Opcode::Read, 0, 0),
        (Opcode::Read, 1, BLOCK_BYTES),
        (Opcode::Read, 0, 100),
        (Opcode::Read, EXTENT_BYTES, BLOCK_BYTES),
        (Opcode::Read, EXTENT_BYTES - BLOCK_BYTES, 2 * BLOCK_BYTES),
        (Opcode::Read, u32::MAX - BLOCK_BYTES + 1, BLOCK_BYTES),
        (Opcode::Read, 0, FRAME_PAYLOAD_BYTES_MAX + BLOCK_BYTES),
        (Opcode::Zero, BLOCK_BYTES, EXTENT_BYTES),
        (Opcode::Zero, 0, 512),
        (Opcode::BlockStatus, 0, 2 * EXTENT_BYTES),
        (Opcode::Replicate, 512, BLOCK_BYTES),
        (Opcode::Replicate, 0, FRAME_PAYLOAD_BYTES_MAX + BLOCK_BYTES),
        (Opcode::ReplicateZero, BLOCK_BYTES, EXTENT_BYTES),
    ];
    for (opcode, offset, length) in cases {
        let frame = Frame::bare(Header { offset, length, ..header(opcode) });
        assert_eq!(frame.check(), Err(WireError::Range { opcode, offset, length }));
    }
    let opcode = Opcode::WriteFragment;
    for (offset, length) in [(0, BLOCK_BYTES), (1, BLOCK_BYTES), (BLOCK_BYTES - 1, 2), (EXTENT_BYTES, 1), (u32::MAX, 1)] {
        let frame = with_payload(Header { offset, length, ..header(opcode) }, length);
        assert_eq!(frame.check(), Err(WireError::Range { opcode, offset, length }));
    }
    for (offset, length) in [(0, BLOCK_BYTES - 1), (1, BLOCK_BYTES - 1), (EXTENT_BYTES - 1, 1)] {
        assert_eq!(with_payload(Header { offset, length, ..header(opcode) }, length).check(), Ok(()));
    }
}

#[test]
fn bodies_that_do_not_go_with_their_opcode_are_refused() {
    let body = |opcode| Err(WireError::Body { opcode });
    assert_eq!(Frame::bare(header(Opcode::Hello)).check(), body(Opcode::Hello));
    let Body::Hello(inner) = hello(peer(1)).body else { unreachable!() };
    let frame = Frame { body: Body::Hello(inner), ..Frame::bare(header(Opcode::Read)) };
    assert_eq!(frame.check(), body(Opcode::Read));
    assert_eq!(Frame::with_payload(header(Opcode::Write), span(0), ChecksumList::EMPTY).check(), body(Opcode::Write));
    let bytes_with_failure = with_payload(Header { status: Status::Corrupt, ..header(Opcode::ReadReply) }, 3 * BLOCK_BYTES);
    assert!(matches!(bytes_with_failure.check(), Err(WireError::PayloadLength { .. })));
}

/// A hello whose tail is changed, with both checksums made right.
fn forged_hello(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let frame = hello(peer(5));
    let mut bytes = encoded(&frame);
    change(&mut bytes[HEADER_BYTES..]);
    let tail = Checksum::of(&bytes[HEADER_BYTES..]).get();
    bytes[96..100].copy_from_slice(&tail.to_le_bytes());
    let checksum = Checksum::of(&bytes[..100]).get();
    bytes[100..104].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn a_hello_of_an_unknown_party_is_refused() {
    assert!(decode_head(&forged_hello(|_| {})).unwrap().is_some());
    let cases: [fn(&mut [u8]); 4] = [|tail| tail[2] = 0, |tail| tail[2] = 3, |tail| tail[7] = 1, |tail| tail[40 + 4] = 1];
    for (number, change) in cases.into_iter().enumerate() {
        assert!(matches!(decode_head(&forged_hello(change)), Err(WireError::Hello { .. })), "case {number}");
    }
}

#[test]
fn versions_are_agreed_on_where_ranges_meet() {
    let with = |version_min, version_max| Hello { version_min, version_max, system: SystemId::new(1), party: peer(1) };
    assert_eq!(with(1, 1).agreed_version(), Some(1));
    assert_eq!(with(0, 9).agreed_version(), Some(1));
    for (low, high) in [(2, 9), (0, 0), (9, 0)] {
        assert_eq!(with(low, high).agreed_version(), None);
    }
}

prop_compose! {
    fn any_header()(
        opcode in proptest::sample::select(&OPCODES[..]),
        a in any::<[u64; 5]>(),
        b in any::<[u32; 6]>(),
        first in 0_u32..256,
        blocks in 1_u32..=256,
        fragment in (0_u32..BLOCK_BYTES, 1_u32..BLOCK_BYTES),
        flags in any::<u16>(),
        status in 0_u16..14,
    ) -> Header {
        let (offset, length) = match opcode {
            Opcode::WriteFragment => (first * BLOCK_BYTES + fragment.0, fragment.1.min(BLOCK_BYTES - fragment.0)),
            Opcode::Read | Opcode::ReadReply | Opcode::Write | Opcode::Replicate | Opcode::Copy | Opcode::Medium | Opcode::MediumReply => (first * BLOCK_BYTES, blocks.min(32).min(256 - first) * BLOCK_BYTES),
            Opcode::Zero | Opcode::BlockStatus | Opcode::ReplicateZero => (first * BLOCK_BYTES, blocks.min(256 - first) * BLOCK_BYTES),
            Opcode::Hello | Opcode::HelloReply | Opcode::WriteReply | Opcode::Flush | Opcode::FlushReply | Opcode::BlockStatusReply => (b[4], b[5]),
            Opcode::ReplicateReply | Opcode::ReplicateFlush | Opcode::ReplicateFlushReply | Opcode::Beacon | Opcode::Grant => (b[4], b[5]),
            Opcode::Extents | Opcode::Blocks | Opcode::Settle | Opcode::FreeExtent | Opcode::ResyncReply | Opcode::Resolved => (b[4], b[5]),
            Opcode::ExtentsReply => (b[4], blocks * EXTENT_ENTRY_BYTES),
            Opcode::BlocksReply => (b[4], BLOCKS_BYTES),
        };
        let answer = matches!(opcode, Opcode::HelloReply | Opcode::ReadReply | Opcode::WriteReply | Opcode::FlushReply | Opcode::BlockStatusReply)
            || matches!(opcode, Opcode::ReplicateReply | Opcode::ReplicateFlushReply | Opcode::Grant)
            || matches!(opcode, Opcode::ExtentsReply | Opcode::BlocksReply | Opcode::MediumReply | Opcode::ResyncReply);
        let status = if answer { Status::from_wire(status).unwrap() } else { Status::Ok };
        let allowed = match opcode {
            Opcode::Write | Opcode::WriteFragment | Opcode::Replicate => Flags::DURABLE,
            Opcode::Zero | Opcode::ReplicateZero => Flags::DURABLE.with(Flags::TRIM),
            Opcode::ReadReply if status == Status::Ok => Flags::ALL_ZERO,
            _ => Flags::NONE,
        };
        Header {
            opcode,
            flags: Flags::from_bits(flags & allowed.bits()),
            connection: ConnectionNumber::new(a[0]),
            request: RequestId::new(a[1]),
            generation: SessionGeneration::new(a[2]),
            volume: VolumeId::new(b[0]),
            layer: LayerId::new(b[1]),
            extent: ExtentIndex::new(b[2]),
            offset,
            length,
            epoch: Epoch::new(b[3]),
            sequence: ShardSequence::new(a[3]),
            resolved: ShardSequence::new(a[4]),
            map_version: MapVersion::new(a[0] ^ a[1]),
            shard: ShardId::new(b[0] ^ b[1]),
            device: DeviceId::new(b[2] ^ b[3]),
            status,
        }
    }
}

prop_compose! {
    fn any_frame()(
        header in any_header(),
        sums in any::<[u32; 32]>(),
        caches in proptest::collection::vec((any::<u32>(), any::<u64>()), 0..=2),
        party in any::<(bool, u128, u128)>(),
        versions in any::<(u8, u8)>(),
    ) -> Frame {
        let payload = match header.opcode {
            Opcode::Write | Opcode::WriteFragment | Opcode::Replicate | Opcode::Copy => header.length,
            Opcode::Settle => PLAN_BYTES,
            Opcode::ExtentsReply | Opcode::BlocksReply | Opcode::MediumReply if header.status == Status::Ok => header.length,
            Opcode::ReadReply if header.status == Status::Ok && header.flags == Flags::NONE => header.length,
            Opcode::BlockStatusReply if header.status == Status::Ok => BLOCK_STATUS_BYTES,
            _ => 0,
        };
        let mut list = ChecksumList::EMPTY;
        for sum in &sums[..payload.div_ceil(BLOCK_BYTES) as usize] {
            list.push(Checksum::new(*sum));
        }
        let mut frame = if payload > 0 { Frame::with_payload(header, span(payload), list) } else { Frame::bare(header) };
        if matches!(header.opcode, Opcode::WriteReply | Opcode::Flush | Opcode::FlushReply) {
            for (device, boot) in caches {
                assert!(frame.cache_ids.push(CacheId { device: DeviceId::new(device), boot }));
            }
        }
        if let (Opcode::ReplicateReply | Opcode::ReplicateFlushReply, true) = (header.opcode, party.0) {
            frame.cache_ids = one_cache_id();
        }
        if header.opcode == Opcode::Hello {
            let party = if party.0 {
                Party::Client { client: ClientId::new(party.1), ticket: Ticket::new(party.2) }
            } else {
                let (incarnation, addressed) = (Incarnation::new(party.1 as u64), Incarnation::new((party.1 >> 64) as u64));
                Party::Peer { sds: SdsId::new(party.2 as u32), incarnation, addressed }
            };
            frame.body = Body::Hello(Hello { version_min: versions.0, version_max: versions.1, system: SystemId::new(sums[0].into()), party });
        }
        frame
    }
}

proptest! {
    #[test]
    fn any_frame_comes_back_as_it_was(frame in any_frame()) {
        assert_round_trip(&frame);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode_head(&bytes);
    }

    /// Past magic and checksum, whatever the fields say: a frame that keeps to the rules, or an error.
    #[test]
    fn random_fields_give_a_frame_that_keeps_the_rules_or_an_error(
        mut bytes in proptest::collection::vec(any::<u8>(), 104..400),
        opcode in prop_oneof![0_u8..14, 31_u8..40],
        tame in any::<[bool; 6]>(),
    ) {
        bytes[..4].copy_from_slice(&MAGIC);
        (bytes[4], bytes[5]) = (1, opcode);
        if tame[0] { bytes[6..8].fill(0); }
        if tame[1] { bytes[92..94].fill(0); }
        if tame[2] { bytes[45] &= 0xf0; bytes[44] = 0; bytes[46..48].fill(0); bytes[48..52].copy_from_slice(&[0, 0x10, 0, 0]); }
        if tame[3] { bytes[88..92].copy_from_slice(&[0, 0x10, 0, 0]); bytes[94] = 1; }
        if tame[4] { bytes[88..92].fill(0); bytes[94] = 0; }
        if tame[5] { bytes[95] = 0; }
        let checksum = Checksum::of(&bytes[..100]).get();
        bytes[100..104].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(Some((head, used))) = decode_head(&bytes) {
            prop_assert!(used <= HEAD_BYTES_MAX && head.payload_len() <= FRAME_PAYLOAD_BYTES_MAX);
            let frame = head.into_frame((head.payload_len() > 0).then(|| span(head.payload_len())));
            prop_assert_eq!(frame.check(), Ok(()));
            prop_assert_eq!(&encoded(&frame)[..], &bytes[..used]);
        }
    }

    #[test]
    fn any_changed_byte_of_a_head_is_an_error(frame in any_frame(), place in any::<proptest::sample::Index>(), change in 1_u8..) {
        let mut bytes = encoded(&frame);
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        prop_assert!(decode_head(&bytes).is_err());
    }
}
