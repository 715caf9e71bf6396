//! Commands, their flags and their errors.

use super::rig::{Reply, Rig, be32, be64, export, pattern, request_bytes};
use crate::nbd::{CloseReason, ExportInfo, Limits, Want};
use sds_core::error::Status;
use sds_core::volume::interface::Request;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;
const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;
const MIB: u64 = 1 << 20;

fn write(rig: &mut Rig, offset: u64, bytes: &[u8]) {
    rig.request(WRITE, 0, 99, offset, u32::try_from(bytes.len()).expect("small"), bytes);
    rig.run();
    assert_eq!(rig.error(), 0);
}

#[test]
fn what_was_written_is_read_at_any_alignment() {
    for structured in [false, true] {
        let mut rig = Rig::ready(export(MIB), structured, Limits::default());
        for (offset, len) in [(0, 4096), (512, 512), (4095, 2), (16_383, 70_000), (1, 1), (100_000, 300_001), (MIB - 1, 1), (0, MIB)] {
            let bytes = pattern(offset, usize::try_from(len).expect("small"));
            write(&mut rig, offset, &bytes);
            rig.request(READ, 0, 5, offset, u32::try_from(len).expect("small"), &[]);
            rig.run();
            assert_eq!(assemble(&mut rig, offset, len), bytes, "{structured} {offset} {len}");
            assert_eq!(rig.volume[usize::try_from(offset).expect("small")..][..bytes.len()], bytes);
        }
        assert_eq!(rig.pool.in_use(), 0);
        assert_eq!(rig.connection.requests(), 0);
    }
}

/// The bytes of the one read there is an answer for.
fn assemble(rig: &mut Rig, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0xaa; usize::try_from(len).expect("small")];
    let replies = rig.replies();
    let last = replies.len() - 1;
    for (index, reply) in replies.into_iter().enumerate() {
        match reply {
            Reply::Simple { error, data, .. } => {
                assert_eq!((error, last), (0, 0));
                return data;
            }
            Reply::Chunk { done, kind, payload, .. } => {
                assert_eq!(done, index == last);
                let at = usize::try_from(be64(&payload) - offset).expect("small");
                match kind {
                    1 => bytes[at..at + payload.len() - 8].copy_from_slice(&payload[8..]),
                    2 => bytes[at..at + be32(&payload[8..]) as usize].fill(0),
                    other => panic!("chunk type {other}"),
                }
            }
        }
    }
    bytes
}

#[test]
fn pieces_of_a_write_are_one_frame_each() {
    let mut rig = Rig::simple(MIB);
    rig.request(WRITE, FUA, 1, 4000, 40_000, &pattern(1, 40_000));
    let pieces: Vec<_> = rig
        .log
        .iter()
        .map(|request| match request {
            Request::Write { offset, span, durable: true } => (offset.get(), span.len),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pieces, [(4000, 96), (4096, 12_288), (16_384, 16_384), (32_768, 8192), (40_960, 3040)]);
    assert!(rig.replies().is_empty());
    rig.run();
    assert_eq!(rig.error(), 0);
}

#[test]
fn a_write_is_issued_piece_by_piece_as_it_arrives() {
    let mut rig = Rig::simple(MIB);
    let bytes = request_bytes(WRITE, 0, 1, 0, 32_768, &pattern(3, 32_768));
    rig.send(&bytes[..28 + 16_383]);
    assert_eq!(rig.requests.len(), 0);
    rig.send(&bytes[28 + 16_383..28 + 16_384]);
    assert_eq!(rig.requests.len(), 1);
    rig.complete(0, None);
    assert!(rig.replies().is_empty(), "not answered before all of it is written");
    rig.send(&bytes[28 + 16_384..]);
    rig.run();
    assert_eq!(rig.error(), 0);
}

#[test]
fn long_payload_is_wanted_in_place() {
    let mut info = export(4 * MIB);
    info.stripe = sds_core::stripe::Stripe::default();
    let mut rig = Rig::ready(info, false, Limits::default());
    rig.send(&request_bytes(WRITE, 0, 1, 0, 256 * 1024, &[]));
    let Want::InPlace(span) = rig.connection.want() else { panic!("{:?}", rig.connection.want()) };
    assert_eq!((span.start, span.len), (0, 128 * 1024));
    let bytes = pattern(9, 256 * 1024);
    rig.send(&bytes[..128 * 1024 - 100]);
    assert_eq!(rig.connection.want(), Want::Staging, "what little is left comes with what follows");
    rig.send(&bytes[128 * 1024 - 100..]);
    rig.run();
    assert_eq!(rig.error(), 0);
    assert_eq!(rig.volume[..256 * 1024], bytes);
}

#[test]
fn flush_trim_and_zeroes_reach_the_volume_with_their_flags() {
    let mut rig = Rig::simple(8 * MIB);
    rig.request(FLUSH, FUA, 1, 0, 0, &[]);
    rig.request(TRIM, 0, 2, 100, 10_000, &[]);
    rig.request(ZEROES, FUA | NO_HOLE, 3, 0, 8192, &[]);
    rig.request(ZEROES, FAST_ZERO, 4, 2 * MIB - 4096, 8192, &[]);
    let bytes = |request: &Request| match request {
        Request::Zero { offset, len, trim, durable } => (offset.get(), *len, *trim, *durable),
        other => panic!("{other:?}"),
    };
    assert_eq!(rig.log[0], Request::Flush);
    assert_eq!(bytes(&rig.log[1]), (4096, 4096, true, false), "whole blocks inside the range");
    assert_eq!(bytes(&rig.log[2]), (0, 8192, false, true));
    assert_eq!(bytes(&rig.log[3]), (2 * MIB - 4096, 4096, true, false), "cut at the stripe set");
    assert_eq!(bytes(&rig.log[4]), (2 * MIB, 4096, true, false));
    rig.run();
    assert_eq!(rig.replies().len(), 4);
}

#[test]
fn unaligned_zeroes_write_fragments_and_unaligned_trims_skip_them() {
    let mut rig = Rig::simple(MIB);
    write(&mut rig, 0, &pattern(1, 65_536));
    let before = rig.volume.clone();
    rig.request(TRIM, 0, 1, 4097, 8000, &[]);
    rig.run();
    assert_eq!(rig.error(), 0);
    assert_eq!(rig.volume[..8192], before[..8192]);
    assert_eq!(rig.volume[8192..12_096], before[8192..12_096], "the range ends inside this block");
    rig.request(ZEROES, 0, 2, 5000, 20_000, &[]);
    rig.run();
    assert_eq!(rig.error(), 0);
    assert_eq!(rig.volume[..5000], before[..5000]);
    assert_eq!(rig.volume[5000..25_000], [0; 20_000]);
    assert_eq!(rig.volume[25_000..65_536], before[25_000..65_536]);
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn the_longest_zeroing_is_done_in_bounded_steps() {
    let mut info = export(1 << 40);
    info.stripe = sds_core::stripe::Stripe::new(4096, 1).expect("valid");
    let mut rig = Rig::ready(info, false, Limits::default());
    rig.request(TRIM, 0, 1, 4096, u32::MAX, &[]);
    let mut pieces = 0;
    while let Some((token, _)) = rig.requests.pop_front() {
        assert!(rig.requests.len() < 256);
        pieces += 1;
        let mut out = sds_core::machine::Outbox::new();
        rig.connection.complete(token, Ok(sds_core::volume::interface::Outcome::Done), &mut rig.pool, &mut out);
        rig.requests.extend(out.drain().map(|effect| match effect {
            crate::nbd::Effect::Request { token, request } => (token, request),
            other => panic!("{other:?}"),
        }));
    }
    rig.take_output();
    assert_eq!(rig.error(), 0);
    assert_eq!(pieces, 4096, "4 GiB of stripe sets of 1 MiB, less the last block");
}

#[test]
fn bad_requests_get_their_error_and_the_connection_lives() {
    for structured in [false, true] {
        let mut rig = Rig::ready(export(MIB), structured, Limits::default());
        let status = if structured { STATUS } else { 99 };
        let huge = 40 << 20;
        for (command, flags, offset, len, error) in [
            (READ, 0, MIB, 1, 22),
            (READ, 0, MIB - 1, 2, 22),
            (READ, 0, u64::MAX, 1, 22),
            (READ, 0, 0, huge, 22),
            (READ, NO_HOLE, 0, 512, 22),
            (TRIM, 0, MIB - 4096, 8192, 22),
            (TRIM, REQ_ONE, 0, 4096, 22),
            (ZEROES, 0, MIB, 1, 28),
            (ZEROES, DF, 0, 4096, 22),
            (FLUSH, 0, 0, 4096, 22),
            (FLUSH, 0, 4096, 0, 22),
            (FLUSH, FAST_ZERO, 0, 0, 22),
            (status, 0, 0, 0, 22),
            (status, 0, MIB, 4096, 22),
            (status, DF, 0, 4096, 22),
            (5, 0, 0, 4096, 22),
            (8, 0, 0, 0, 22),
            (0xffff, 0, 0, 0, 22),
            (READ, 0x8000, 0, 512, 22),
        ] {
            rig.request(command, flags, 3, offset, len, &[]);
            assert_eq!(rig.error(), error, "{command} {flags} {offset} {len}");
        }
        assert!(rig.log.is_empty(), "none of it reached the volume");
        write(&mut rig, 0, b"still alive");
    }
}

#[test]
fn the_payload_of_a_refused_write_is_skipped() {
    let mut rig = Rig::simple(MIB);
    for (flags, offset, len, error) in [(0, MIB - 4096, 8192, 28), (DF, 0, 4096, 22), (0, u64::MAX, 4096, 28)] {
        rig.request(WRITE, flags, 3, offset, len, &vec![1; len as usize]);
        assert_eq!(rig.error(), error);
    }
    let mut info = export(MIB);
    info.size = 1 << 40;
    let mut rig = Rig::ready(info, false, Limits::default());
    let len = (32 << 20) + 1;
    rig.send(&request_bytes(WRITE, 0, 3, 0, len, &[]));
    rig.send(&vec![1; len as usize - 1]);
    assert!(rig.replies().is_empty(), "answered after its payload");
    rig.send(&[1]);
    assert_eq!(rig.error(), 22);
    assert_eq!((rig.log.len(), rig.pool.bytes_max), (0, 0));
}

#[test]
fn a_read_only_export_refuses_changes() {
    let mut rig = Rig::ready(ExportInfo { read_only: true, ..export(MIB) }, false, Limits::default());
    rig.request(WRITE, 0, 1, 0, 512, &[1; 512]);
    assert_eq!(rig.error(), 1);
    for command in [TRIM, ZEROES] {
        rig.request(command, 0, 1, 0, 4096, &[]);
        assert_eq!(rig.error(), 1);
    }
    rig.request(FLUSH, 0, 1, 0, 0, &[]);
    rig.run();
    assert_eq!(rig.error(), 0);
}

#[test]
fn requests_of_no_bytes_do_nothing_and_succeed() {
    for structured in [false, true] {
        let mut rig = Rig::ready(export(MIB), structured, Limits::default());
        for command in [WRITE, TRIM, ZEROES] {
            rig.request(command, 0, 4, MIB, 0, &[]);
            assert_eq!(rig.error(), 0);
        }
        rig.request(READ, 0, 4, 0, 0, &[]);
        let expected = if structured {
            Reply::Chunk { cookie: 4, done: true, kind: 0, payload: Vec::new() }
        } else {
            Reply::Simple { cookie: 4, error: 0, data: Vec::new() }
        };
        assert_eq!(rig.replies(), [expected]);
        assert!(rig.log.is_empty());
    }
}

#[test]
fn a_trim_of_less_than_a_block_succeeds_without_effect() {
    let mut rig = Rig::simple(MIB);
    for (offset, len) in [(1, 4095), (0, 4095), (4000, 200), (MIB - 10, 10)] {
        rig.request(TRIM, 0, 4, offset, len, &[]);
        assert_eq!(rig.error(), 0);
    }
    assert!(rig.log.is_empty());
}

#[test]
fn failures_are_answered_with_the_codes_of_the_specification() {
    for structured in [false, true] {
        let mut rig = Rig::ready(export(MIB), structured, Limits::default());
        for (status, code) in [
            (Status::Corrupt, 5),
            (Status::NoSpace, 28),
            (Status::Fenced, 108),
            (Status::ReadOnly, 1),
            (Status::FlushLost, 5),
            (Status::DeviceFailed, 5),
            (Status::Stopping, 108),
        ] {
            rig.request(WRITE, 0, 1, 0, 65_536, &pattern(0, 65_536));
            assert_eq!(rig.requests.len(), 4);
            rig.complete(2, Some(status));
            assert!(rig.replies().is_empty(), "answered after its last piece");
            rig.run();
            assert_eq!(rig.error(), code);
            for command in [READ, FLUSH, ZEROES] {
                rig.request(command, 0, 1, 0, if command == FLUSH { 0 } else { 4096 }, &[]);
                rig.complete(0, Some(status));
                assert_eq!(rig.error(), code);
            }
        }
        assert_eq!(rig.pool.in_use(), 0);
    }
}

#[test]
fn a_simple_read_with_a_bad_piece_sends_no_data() {
    let mut rig = Rig::simple(MIB);
    write(&mut rig, 0, &pattern(0, 65_536));
    for bad in 0..4 {
        rig.request(READ, 0, 1, 0, 65_536, &[]);
        rig.complete(bad, Some(Status::Corrupt));
        rig.run();
        assert_eq!(rig.replies(), [Reply::Simple { cookie: 1, error: 5, data: Vec::new() }]);
    }
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn a_structured_read_with_a_bad_piece_sends_the_rest_and_names_it() {
    let mut rig = Rig::structured(MIB);
    write(&mut rig, 0, &pattern(0, 65_536));
    rig.request(READ, 0, 1, 0, 65_536, &[]);
    rig.complete(1, Some(Status::Corrupt));
    rig.run();
    let replies = rig.replies();
    assert_eq!(replies.len(), 4);
    let Reply::Chunk { done: true, kind: 0x8002, payload, .. } = &replies[3] else { panic!("{replies:?}") };
    assert_eq!(be32(payload), 5);
    assert_eq!(be64(&payload[payload.len() - 8..]), 16_384, "the offset of what failed");
    for reply in &replies[..3] {
        let Reply::Chunk { done: false, kind: 1, payload, .. } = reply else { panic!("{reply:?}") };
        assert_ne!(be64(payload), 16_384);
    }
}

#[test]
fn structured_reads_go_out_as_they_come_with_holes_as_holes() {
    let mut rig = Rig::structured(MIB);
    write(&mut rig, 16_384, &pattern(0, 16_384));
    rig.request(READ, 0, 1, 100, 40_000, &[]);
    rig.complete(2, None);
    rig.complete(1, None);
    rig.complete(0, None);
    let kinds: Vec<_> = rig
        .replies()
        .into_iter()
        .map(|reply| match reply {
            Reply::Chunk { done, kind, payload, .. } => (done, kind, be64(&payload)),
            Reply::Simple { .. } => panic!("reads are structured now"),
        })
        .collect();
    assert_eq!(kinds, [(false, 2, 32_768), (false, 1, 16_384), (true, 2, 100)]);
}

#[test]
fn a_read_with_df_is_one_chunk_with_its_zeroes() {
    let mut rig = Rig::structured(MIB);
    let bytes = pattern(0, 16_384);
    write(&mut rig, 16_384, &bytes);
    rig.request(READ, DF, 1, 100, 65_536, &[]);
    for nth in [3, 2, 1, 0, 0] {
        assert!(rig.replies().is_empty());
        rig.complete(nth, None);
    }
    let replies = rig.replies();
    let [Reply::Chunk { done: true, kind: 1, payload, .. }] = replies.as_slice() else { panic!("{replies:?}") };
    assert_eq!((be64(payload), payload.len()), (100, 65_536 + 8));
    assert_eq!(payload[8 + 16_284..][..16_384], bytes);
    // Too long to wait for as a whole.
    rig.request(READ, DF, 1, 0, 1 << 20, &[]);
    assert_eq!(rig.error(), 75);
}

#[test]
fn df_is_supported_up_to_64_kib_at_any_stripe() {
    for unit in [4096, 8192, 1 << 20] {
        let mut info = export(MIB);
        info.stripe = sds_core::stripe::Stripe::new(unit, 3).expect("valid");
        let mut rig = Rig::ready(info, true, Limits::default());
        rig.request(READ, DF, 1, 4095, 65_536, &[]);
        rig.run();
        assert!(matches!(rig.replies().as_slice(), [Reply::Chunk { done: true, kind: 1, .. }]));
    }
}

#[test]
fn df_without_structured_replies_is_invalid() {
    let mut rig = Rig::simple(MIB);
    rig.request(READ, DF, 1, 0, 4096, &[]);
    assert_eq!(rig.error(), 22);
}

#[test]
fn a_long_simple_read_is_streamed_in_order() {
    let mut rig = Rig::simple(2 * MIB);
    let bytes = pattern(0, 2 << 20);
    write(&mut rig, 0, &bytes);
    rig.log.clear();
    rig.request(READ, 0, 1, 5, (2 << 20) - 10, &[]);
    assert_eq!(rig.requests.len(), 32, "no more than a window of pieces");
    rig.complete(1, None);
    assert!(rig.incoming.is_empty(), "the first piece is missing");
    rig.complete(0, None);
    assert_eq!(rig.incoming.len(), 16 + 16_379 + 16_384);
    while !rig.requests.is_empty() {
        rig.complete(rig.requests.len() / 2, None);
    }
    assert_eq!(rig.data(), bytes[5..(2 << 20) - 5]);
}

#[test]
fn a_long_simple_read_that_fails_late_ends_the_connection() {
    let mut rig = Rig::simple(2 * MIB);
    write(&mut rig, 0, &pattern(0, 2 << 20));
    // Before anything was sent it is an error like any other.
    rig.request(READ, 0, 1, 0, 2 << 20, &[]);
    rig.complete(3, Some(Status::Corrupt));
    rig.run();
    assert_eq!(rig.error(), 5);
    rig.request(READ, 0, 1, 0, 2 << 20, &[]);
    rig.complete(0, None);
    rig.complete(3, Some(Status::Corrupt));
    assert_eq!(rig.connection.close_reason(), Some(CloseReason::LateReadError));
    assert_eq!(rig.connection.want(), Want::Close);
    assert!(!rig.connection.is_idle());
    rig.run();
    assert!(rig.connection.is_idle());
    assert_eq!(rig.pool.in_use(), 0);
}

fn runs(rig: &mut Rig) -> Vec<(u32, u32)> {
    let replies = rig.replies();
    let [Reply::Chunk { done: true, kind: 5, payload, .. }] = replies.as_slice() else { panic!("{replies:?}") };
    assert_eq!(be32(payload), 1, "the context's number");
    payload[4..].chunks_exact(8).map(|run| (be32(run), be32(&run[4..]))).collect()
}

#[test]
fn block_status_merges_runs_across_pieces() {
    let mut rig = Rig::structured(MIB);
    write(&mut rig, 8192, &pattern(0, 40_960));
    rig.request(STATUS, 0, 1, 0, 1 << 20, &[]);
    while !rig.requests.is_empty() {
        rig.complete(rig.requests.len() - 1, None);
    }
    assert_eq!(runs(&mut rig), [(8192, 3), (40_960, 0), ((1 << 20) - 49_152, 3)]);
    // An unaligned query starts at its offset and ends at its end.
    rig.request(STATUS, 0, 1, 8000, 300, &[]);
    rig.run();
    assert_eq!(runs(&mut rig), [(192, 3), (108, 0)]);
    rig.request(STATUS, REQ_ONE, 1, 8200, 900_000, &[]);
    rig.run();
    assert_eq!(runs(&mut rig), [(40_952, 0)]);
}

#[test]
fn block_status_stops_at_its_bound_and_answers_what_it_has() {
    let mut rig = Rig::structured(16 * MIB);
    for block in (0..4096).step_by(2) {
        rig.holds[block] = true;
    }
    rig.request(STATUS, 0, 1, 0, 16 << 20, &[]);
    rig.run();
    let answer = runs(&mut rig);
    assert_eq!(answer.len(), 1024);
    assert!(answer.iter().enumerate().all(|(index, run)| *run == (4096, if index % 2 == 0 { 0 } else { 3 })));
    // Two at once are answered one after the other.
    rig.request(STATUS, 0, 2, 0, 8192, &[]);
    rig.request(STATUS, REQ_ONE, 3, 0, 8192, &[]);
    assert_eq!(rig.requests.len(), 1);
    rig.run();
    assert_eq!(rig.replies().len(), 2);
}

#[test]
fn block_status_that_fails_is_an_error() {
    let mut rig = Rig::structured(MIB);
    rig.request(STATUS, 0, 1, 0, 1 << 20, &[]);
    rig.complete(5, Some(Status::DeviceFailed));
    rig.run();
    assert_eq!(rig.error(), 5);
    rig.request(STATUS, 0, 1, 0, 4096, &[]);
    rig.run();
    assert_eq!(runs(&mut rig), [(4096, 3)]);
}

#[test]
fn replies_come_as_requests_complete_not_as_they_came() {
    let mut rig = Rig::simple(MIB);
    rig.request(READ, 0, 1, 0, 4096, &[]);
    rig.request(READ, 0, 2, 4096, 4096, &[]);
    rig.complete(1, None);
    assert!(matches!(rig.reply(), Some(Reply::Simple { cookie: 2, .. })));
    rig.complete(0, None);
    assert!(matches!(rig.reply(), Some(Reply::Simple { cookie: 1, .. })));
}

#[test]
fn disconnect_finishes_what_was_accepted() {
    let mut rig = Rig::simple(MIB);
    rig.request(WRITE, 0, 1, 0, 4096, &pattern(0, 4096));
    rig.request(DISC, 0, 2, 0, 0, &[]);
    rig.send(b"whatever follows is not looked at");
    assert_eq!(rig.connection.want(), Want::Nothing);
    rig.run();
    assert_eq!(rig.error(), 0);
    assert_eq!(rig.connection.want(), Want::Close);
    assert_eq!(rig.connection.close_reason(), Some(CloseReason::Finished));
}

#[test]
fn garbage_ends_the_connection_and_gives_buffers_back() {
    let mut rig = Rig::simple(MIB);
    write(&mut rig, 0, &pattern(0, 65_536));
    rig.request(READ, 0, 1, 0, 65_536, &[]);
    rig.complete(2, None);
    rig.send(&[0x55; 28]);
    assert_eq!(rig.connection.close_reason(), Some(CloseReason::BadRequestMagic));
    assert_eq!(rig.pool.in_use(), 0);
    assert!(!rig.connection.is_idle());
    rig.run();
    assert!(rig.connection.is_idle());
    assert_eq!(rig.pool.in_use(), 0);
    assert!(rig.incoming.is_empty());
}

#[test]
fn a_client_that_vanishes_in_a_write_leaves_nothing_behind() {
    let mut rig = Rig::simple(MIB);
    let bytes = request_bytes(WRITE, 0, 1, 0, 65_536, &pattern(3, 65_536));
    rig.send(&bytes[..30_000]);
    assert_eq!(rig.requests.len(), 1);
    assert_eq!(rig.pool.in_use(), 2);
    rig.connection.disconnect(&mut rig.pool);
    assert_eq!(rig.connection.close_reason(), Some(CloseReason::Lost));
    assert_eq!(rig.pool.in_use(), 1, "the piece that the volume has");
    rig.run();
    assert_eq!(rig.pool.in_use(), 0);
    assert!(rig.connection.is_idle());
}

#[test]
fn a_stopping_server_finishes_what_was_accepted_and_refuses_the_rest() {
    let mut rig = Rig::simple(MIB);
    rig.request(WRITE, 0, 1, 0, 4096, &pattern(0, 4096));
    rig.connection.shut_down();
    rig.request(WRITE, 0, 2, 0, 4096, &pattern(0, 4096));
    rig.request(READ, 0, 3, 0, 4096, &[]);
    assert_eq!(rig.replies().iter().map(|reply| matches!(reply, Reply::Simple { error: 108, .. })).collect::<Vec<_>>(), [true, true]);
    assert_ne!(rig.connection.want(), Want::Close);
    rig.run();
    assert_eq!(rig.error(), 0);
    assert_eq!(rig.connection.want(), Want::Close);
}
