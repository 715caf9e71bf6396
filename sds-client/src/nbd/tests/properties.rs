//! Any bytes, any order, any failure.

use super::rig::{Reply, Rig, be32, be64, export, option_bytes, request_bytes};
use crate::nbd::{Limits, READ_BYTES_MIN};
use proptest::prelude::*;
use sds_core::error::Status;
use std::collections::{BTreeMap, BTreeSet};

const SIZE: u64 = 512 * 1024;

#[derive(Clone, Debug)]
struct Wish {
    command: u16,
    flags: u16,
    offset: u64,
    len: u32,
}

fn wish() -> impl Strategy<Value = Wish> {
    let command = prop_oneof![4 => Just(0_u16), 4 => Just(1_u16), 1 => Just(3_u16), 2 => Just(4_u16), 2 => Just(6_u16), 2 => Just(7_u16)];
    let len = prop_oneof![Just(512_u32), Just(4096), Just(65_536), 1_u32..300_000];
    (command, any::<u8>(), prop_oneof![0..SIZE, (0..SIZE / 4096).prop_map(|block| block * 4096)], len).prop_map(
        |(command, bits, offset, len)| {
            let allowed = [0b101, 0b1, 0, 0b1, 0b1, 0, 0b1_0011, 0b1001][usize::from(command)];
            let len = if command == 3 { 0 } else { len.min(u32::try_from(SIZE - offset).expect("small")) };
            Wish { command, flags: u16::from(bits) & allowed, offset: if command == 3 { 0 } else { offset }, len }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_at_all_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..4000), greeted in any::<bool>()) {
        let mut rig = Rig::new(Limits::default());
        if greeted {
            rig.greet(3);
        }
        rig.send(&bytes);
        rig.connection.disconnect(&mut rig.pool);
        prop_assert_eq!(rig.pool.in_use(), 0);
    }

    #[test]
    fn any_options_do_no_harm(options in proptest::collection::vec((0_u32..13, proptest::collection::vec(any::<u8>(), 0..60)), 0..20)) {
        let mut rig = Rig::new(Limits::default());
        rig.greet(3);
        for (option, payload) in options {
            rig.send(&option_bytes(option, &payload));
        }
    }

    #[test]
    fn damaged_requests_do_no_harm(
        wishes in proptest::collection::vec(wish(), 1..10),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        structured in any::<bool>(),
    ) {
        let mut rig = Rig::ready(export(SIZE), structured, Limits::default());
        let mut bytes = Vec::new();
        for (cookie, wish) in (0..).zip(wishes) {
            let payload = if wish.command == 1 { vec![1; wish.len as usize] } else { Vec::new() };
            bytes.extend(request_bytes(wish.command, wish.flags, cookie, wish.offset, wish.len, &payload));
        }
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        rig.send(&bytes);
        rig.run();
        rig.connection.disconnect(&mut rig.pool);
        rig.run();
        prop_assert!(rig.connection.is_idle());
        prop_assert_eq!(rig.pool.in_use(), 0);
    }

    /// Requests cut into arbitrary segments, completed in arbitrary order, with arbitrary failures and
    /// a small pool: each is answered once, well-formed, and reads give what the volume had then.
    #[test]
    fn every_request_is_answered_once(
        wishes in proptest::collection::vec(wish(), 1..40),
        cuts in proptest::collection::vec(1_usize..50_000, 1..8),
        order in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..40), 1..64),
        structured in any::<bool>(),
        requests in 1_u16..9,
        pieces in 1_usize..20,
        budget in 1_usize..6,
    ) {
        let mut rig = Rig::ready(export(SIZE), structured, Limits { requests, pieces, read_bytes: READ_BYTES_MIN });
        rig.pool.budget = budget;
        // Each block tells its number, so that reads check themselves; writes write the same bytes.
        for (index, byte) in rig.volume.iter_mut().enumerate() {
            *byte = stamp(index as u64);
        }
        rig.holds.fill(true);
        let mut bytes = Vec::new();
        for (cookie, wish) in (0..).zip(&wishes) {
            let payload = if wish.command == 1 { (wish.offset..wish.offset + u64::from(wish.len)).map(stamp).collect() } else { Vec::new() };
            // Zeroing would change what reads give: here it becomes a flush.
            if matches!(wish.command, 4 | 6) {
                bytes.extend(request_bytes(3, 0, cookie, 0, 0, &[]));
            } else {
                bytes.extend(request_bytes(wish.command, wish.flags, cookie, wish.offset, wish.len, &payload));
            }
            if wish.command == 0 {
                rig.expect_read(cookie, wish.len);
            }
        }
        let (mut sent, mut turn, mut failed) = (0, 0, BTreeSet::new());
        while sent < bytes.len() || !rig.requests.is_empty() {
            if sent < bytes.len() && rig.backlog() == 0 {
                let end = (sent + cuts[turn % cuts.len()]).min(bytes.len());
                rig.send(&bytes[sent..end]);
                sent = end;
            }
            if !rig.requests.is_empty() {
                let (index, fate) = &order[turn % order.len()];
                let nth = index.index(rig.requests.len());
                let failure = (*fate == 0).then_some(Status::DeviceFailed);
                if failure.is_some() {
                    failed.insert(rig.requests[nth].0);
                }
                rig.complete(nth, failure);
            }
            turn += 1;
        }
        check(&mut rig, &wishes, structured, !failed.is_empty())?;
    }
}

fn stamp(index: u64) -> u8 {
    (index.wrapping_mul(31) + index / 4096 * 7).to_le_bytes()[0]
}

fn check(rig: &mut Rig, wishes: &[Wish], structured: bool, any_failed: bool) -> Result<(), TestCaseError> {
    prop_assert_eq!(rig.pool.in_use(), 0);
    if let Some(reason) = rig.connection.close_reason() {
        prop_assert!(any_failed && !structured, "{}", reason);
        return Ok(());
    }
    prop_assert_eq!((rig.backlog(), rig.connection.requests()), (0, 0));
    let mut covered: BTreeMap<u64, u64> = BTreeMap::new();
    let mut answered = BTreeSet::new();
    for reply in rig.replies() {
        match reply {
            Reply::Simple { cookie, error, data } => {
                prop_assert!(answered.insert(cookie));
                let wish = &wishes[usize::try_from(cookie).expect("small")];
                prop_assert!(!(structured && wish.command == 0), "reads are structured");
                prop_assert!(error == 0 || any_failed || (!structured && matches!(wish.command, 0 | 7)), "{} {:?}", error, wish);
                if error == 0 && wish.command == 0 {
                    prop_assert!(data.iter().zip(wish.offset..).all(|(byte, at)| *byte == stamp(at)));
                }
            }
            Reply::Chunk { cookie, done, kind, payload } => {
                prop_assert!(structured && !answered.contains(&cookie));
                let wish = &wishes[usize::try_from(cookie).expect("small")];
                match kind {
                    1 => {
                        let at = be64(&payload);
                        prop_assert!(payload[8..].iter().zip(at..).all(|(byte, at)| *byte == stamp(at)));
                        *covered.entry(cookie).or_default() += payload.len() as u64 - 8;
                    }
                    5 => prop_assert!(payload.len() >= 12),
                    0x8001 | 0x8002 => prop_assert!(any_failed || matches!(be32(&payload), 75), "{:?}", wish),
                    other => prop_assert!(false, "chunk type {}", other),
                }
                if done {
                    answered.insert(cookie);
                    if kind == 1 {
                        prop_assert_eq!(covered[&cookie], u64::from(wish.len));
                    }
                }
            }
        }
    }
    prop_assert_eq!(answered.len(), wishes.len());
    Ok(())
}
