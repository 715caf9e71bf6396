//! What happens at each bound.

use super::rig::{Rig, export, option_bytes, pattern, request_bytes};
use crate::nbd::{Limits, OUTPUT_SEGMENTS_HIGH, READ_BYTES_MIN, Want};

const MIB: u64 = 1 << 20;

#[test]
fn requests_beyond_the_bound_wait_unread() {
    let mut rig = Rig::ready(export(MIB), false, Limits { requests: 4, ..Limits::default() });
    let bytes: Vec<u8> = (0..10).flat_map(|cookie| request_bytes(0, 0, cookie, 0, 4096, &[])).collect();
    rig.send(&bytes);
    assert_eq!(rig.requests.len(), 4);
    assert_eq!(rig.connection.want(), Want::Nothing);
    assert_eq!(rig.backlog(), 6 * 28);
    rig.complete(0, None);
    assert_eq!((rig.requests.len(), rig.backlog()), (4, 5 * 28));
    rig.run();
    assert_eq!(rig.backlog(), 0);
    assert_eq!(rig.connection.want(), Want::Staging);
}

#[test]
fn pieces_beyond_the_bound_wait() {
    let mut rig = Rig::ready(export(MIB), true, Limits { pieces: 3, ..Limits::default() });
    rig.request(0, 0, 1, 0, 1 << 20, &[]);
    rig.request(6, 0, 2, 1, 40_000, &[]);
    assert_eq!(rig.requests.len(), 3);
    rig.request(1, 0, 3, 0, 65_536, &pattern(0, 65_536));
    assert_eq!(rig.requests.len(), 3);
    assert_eq!(rig.connection.want(), Want::Nothing, "the write waits for a piece");
    while !rig.requests.is_empty() {
        assert!(rig.requests.len() <= 3);
        rig.complete(0, None);
    }
    assert_eq!(rig.backlog(), 0);
    assert_eq!(rig.connection.requests(), 0);
}

#[test]
fn a_write_waits_for_a_buffer_and_goes_on_when_there_is_one() {
    let mut rig = Rig::simple(MIB);
    rig.pool.budget = 2;
    rig.request(1, 0, 1, 0, 65_536, &pattern(5, 65_536));
    assert_eq!(rig.requests.len(), 2);
    assert_eq!(rig.connection.want(), Want::Nothing);
    assert_eq!(rig.backlog(), 32_768);
    rig.run();
    assert_eq!(rig.error(), 0);
    assert_eq!(rig.volume[..65_536], pattern(5, 65_536));
    // Fragments of a zeroing need one, too.
    rig.pool.budget = 0;
    rig.request(6, 0, 1, 10, 100, &[]);
    assert!(rig.requests.is_empty());
    rig.pool.budget = 1;
    rig.push();
    rig.run();
    assert_eq!(rig.error(), 0);
}

/// Replies to options were queued for as long as options came (fuzz target `nbd_connection`).
#[test]
fn a_client_that_haggles_and_never_reads_is_bounded() {
    let mut rig = Rig::new(Limits::default());
    rig.greet(3);
    let bytes: Vec<u8> = (0..10_000).flat_map(|_| option_bytes(99, &[])).collect();
    let mut out = sds_core::machine::Outbox::new();
    let used = rig.connection.receive(&bytes, &mut rig.pool, &mut out);
    assert!(used < bytes.len(), "it is not read any more");
    assert!(rig.connection.output_segments() <= OUTPUT_SEGMENTS_HIGH + 2, "one more reply at most");
    assert_eq!(rig.connection.want(), Want::Nothing);
    assert_eq!(rig.connection.receive(&bytes[used..], &mut rig.pool, &mut out), 0);
    rig.take_output();
    assert_eq!(rig.connection.want(), Want::Staging);
    rig.send(&bytes[used..]);
    assert_eq!((rig.backlog(), rig.option_replies().len()), (0, 10_000));
}

#[test]
fn a_client_that_never_reads_is_bounded() {
    let limits = Limits { read_bytes: READ_BYTES_MIN, ..Limits::default() };
    let mut rig = Rig::ready(export(4 * MIB), false, limits);
    rig.holds.fill(true);
    let mut out = sds_core::machine::Outbox::new();
    let bytes: Vec<u8> = (0..10_000_u64).flat_map(|cookie| request_bytes(0, 0, cookie, cookie % 30 * 4096, 65_536, &[])).collect();
    let mut unused = &bytes[..];
    loop {
        let used = rig.connection.receive(unused, &mut rig.pool, &mut out);
        unused = &unused[used..];
        let issued: Vec<_> = out.drain().collect();
        for effect in &issued {
            let crate::nbd::Effect::Request { token, request } = effect else { panic!("{effect:?}") };
            rig.requests.push_back((*token, *request));
        }
        if used == 0 && rig.requests.is_empty() {
            break;
        }
        while !rig.requests.is_empty() {
            rig.complete_untaken(0, None);
        }
    }
    assert!(unused.len() > 9_000 * 28, "most of it is left with the client");
    assert!(rig.pool.total() as u64 <= READ_BYTES_MIN, "{}", rig.pool.total());
    // It reads after all: everything is answered.
    let mut answered = 0;
    loop {
        rig.take_output();
        answered += rig.incoming.len();
        rig.incoming.clear();
        let used = rig.connection.receive(unused, &mut rig.pool, &mut out);
        unused = &unused[used..];
        for effect in out.drain() {
            let crate::nbd::Effect::Request { token, request } = effect else { panic!("{effect:?}") };
            rig.requests.push_back((token, request));
        }
        if rig.requests.is_empty() && !rig.connection.has_output() {
            break;
        }
        while !rig.requests.is_empty() {
            rig.complete_untaken(0, None);
        }
    }
    assert_eq!((unused.len(), answered), (0, 10_000 * (16 + 65_536)));
    assert_eq!(rig.pool.in_use(), 0);
}

#[test]
fn refused_requests_whose_errors_are_not_read_are_bounded() {
    let mut rig = Rig::structured(MIB);
    let mut out = sds_core::machine::Outbox::new();
    let bad = request_bytes(99, 0, 1, 0, 0, &[]).repeat(100_000);
    let used = rig.connection.receive(&bad, &mut rig.pool, &mut out);
    assert!(used < 28 * OUTPUT_SEGMENTS_HIGH * 2, "{used}");
    assert_eq!(rig.connection.want(), Want::Nothing);
    rig.take_output();
    assert_eq!(rig.connection.want(), Want::Staging);
}

#[test]
fn a_whole_read_never_waits_for_itself() {
    // Several reads that each need a large part of the budget before a byte of them may leave.
    let mut info = export(8 * MIB);
    info.stripe = sds_core::stripe::Stripe::default();
    let limits = Limits { read_bytes: READ_BYTES_MIN, pieces: 1000, ..Limits::default() };
    let mut rig = Rig::ready(info, false, limits);
    rig.holds.fill(true);
    for cookie in 0..8 {
        rig.request(0, 0, cookie, cookie * 4096, 3 << 20, &[]);
    }
    rig.request(0, 0, 100, 1, 7 << 20, &[]);
    while !rig.requests.is_empty() {
        rig.complete(rig.requests.len() - 1, None);
    }
    assert_eq!(rig.replies().len(), 9);
}

#[test]
fn in_flight_slots_are_used_again() {
    let mut rig = Rig::ready(export(MIB), false, Limits { requests: 2, ..Limits::default() });
    for cookie in 0..100_000 {
        rig.request(3, 0, cookie, 0, 0, &[]);
        rig.complete(0, None);
        assert_eq!(rig.error(), 0);
    }
}
