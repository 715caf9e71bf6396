//! The small model of two copies: every sequence of a few operations on two blocks of one extent, sent to two stores and
//! acknowledged when both are done; a crash of one or both, by process or power, at every point, with every subset of what was
//! not flushed or not complete; with and without one storage fault. Then the copies meet, as the nodes have them meet: through
//! the stores' own requests, by `protocol::settle` and by the product's own `decide`.
//!
//! The two stores meet only in what was issued and done where. So the images of one store are enumerated once ([`histories`],
//! [`images`]), and every two of them that can occur together are joined ([`both`], [`serving`], [`meeting`]).
//!
//! A fault is a flipped bit, a lost write (the last of a place never happened) or a misdirected one (it went to the next
//! place, over what was there), of any piece that was ever written: data, log, descriptor page, index page, superblock ([`faults`]).
//! It strikes one copy, as it is found after its crash; or, while a copy serves alone, its data.
//!
//! **Promised**, and checked for each block, read at either copy as its primary would (what cannot be read there is repaired from
//! the other, or given up to it):
//! - (a) *one copy crashes and the other serves*: every read returns the block's current content, while one serves alone (it writes
//!   or trims once more), when the other has joined, when joining was cut short by another crash and done again, and when the
//!   joined copy serves alone. An error is allowed in one case: the copy that serves alone is struck in that block; and then it
//!   is none if the other certainly has the content. The copies are equal at the end.
//! - (b) *both lose power*: the last flushed value, or one written or in flight after it.
//! - (c) *no more than one loses power*: the last acknowledged value, or one in flight.
//! - *with one fault*, (b) and (c) hold of a block of which that leaves one value, and it can be read. It is (c) if the copy without the
//!   fault has kept its cache; otherwise (b), as what it lost is nowhere. So: flushed data of a block not written since is right.
//! - of other blocks, with one fault: one of these values, or an error, or bytes that settling has counted as in doubt; the last only
//!   if a copy lost power. Both copies say the same.
//! - all of that again after settling was cut short after any disk operation, by both processes, by either alone (the other has time
//!   to seal), by the power of both (then (b)), and done again; and a power cut after settling takes nothing of it.
//!
//! **Not promised**: a trim that freed its extent leaves no evidence. If the log of the other copy loses its last blocks to a fault
//! before the MDM has heard of them, and both restart, what was there before the trim may be back, on both copies. Likewise a copy that
//! goes when the other one has sealed the extent, and it has not: if its log then loses its last block, nobody looks at the extent, and it
//! returns with what was there before. So such faults are not tried on it in (a).
//!
//! A copy whose device does not open is replaced by an empty one and joins. One whose log ended before a flushed position that it had stated is tried
//! both ways: the MDM was told of it in time, or not.
//!
//! **Bounds**: one operation of all kinds from all three starts, every fault on every image; two of the kinds that interact most, every
//! fault on one image of each class. Counts are printed, and for each kind of fault and region asserted not to be zero. Joins are cut
//! short for one in so many. More: `SDS_PAIR_DEPTH=2 cargo test --release -p sds-core --test store_pair -- --nocapture`.
//!
//! [`negative`] breaks one rule at a time: each must be noticed.
#![expect(clippy::disallowed_methods, reason = "the bound comes from the environment")]
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "a test's own small numbers")]

mod both;
mod copies;
/// The product's own decision, which is private to `replica::resync`.
#[path = "../../src/replica/resync/decide.rs"]
#[allow(dead_code, reason = "what a visit needs of it, and more")]
mod decide;
mod faults;
mod histories;
mod images;
mod meeting;
mod negative;
mod promises;
mod serving;
#[path = "../store_rig/mod.rs"]
mod store_rig;
mod unsettled;

/// No rule of the product is broken here, whatever it was built with.
mod bugs {
    pub(crate) use sds_core::bugs::Bug;

    pub(crate) const fn is(_: Bug) -> bool {
        false
    }
}

// Where `decide` looks for what it uses.
use sds_core::{checksum, exchange, format, id, limits, protocol, store, unit};

use both::Outcomes;
use faults::{KINDS, REGIONS, Region};
use histories::*;
use images::{Strike, Tally};
use negative::Broken;

fn depth() -> usize {
    std::env::var("SDS_PAIR_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(1)
}

type Run = fn(Start, &[Op], Strike, u64, Broken) -> (Outcomes, Tally, Option<String>);

fn explore_all(run: Run, from: Start, histories: &[Vec<Op>], strike: Strike, interrupt_every: u64) {
    let (mut outcomes, mut tally) = (Outcomes::default(), Tally::default());
    for ops in histories {
        let (more, images, violation) = run(from, ops, strike, interrupt_every, Broken::Nothing);
        assert!(violation.is_none(), "{}", violation.unwrap());
        outcomes.add(&more);
        tally.add(&images);
    }
    println!("{from:?}, {} histories, {} images; faults struck:\n{}{outcomes}", histories.len(), tally.images, tally.lines());
    assert!(outcomes.joined > 0 && outcomes.interrupted > 0);
    for (kind, region) in KINDS.into_iter().flat_map(|kind| REGIONS.map(|region| (kind, region))) {
        let (struck, _) = tally.struck.get(&(kind, region)).copied().unwrap_or_default();
        let joined = outcomes.faults.get(&(kind, region)).copied().unwrap_or(0);
        // Without a checkpoint there is no descriptor page; a superblock's copies make up for one that is struck.
        let is_there = region != Region::Descriptor || from == Start::Closed;
        assert_eq!(struck > 0, is_there, "{kind:?} {region:?} was tried");
        assert_eq!(joined > 0, is_there && region != Region::Superblock, "{kind:?} {region:?} was seen by copies that met");
    }
}

/// All operations, or more of them; the deeper, the fewer images and joins are looked at twice.
fn all(run: Run, from: Start, interrupt_every: u64) {
    let depth = depth();
    let (strike, every) =
        if depth > 1 { (Strike::Classes(&REGIONS), 16 * interrupt_every) } else { (Strike::All(&REGIONS), interrupt_every) };
    explore_all(run, from, &sequences(ALL, depth), strike, every);
}

#[test]
fn two_copies_with_nothing_crash_and_settle() {
    all(both::run, Start::Fresh, 8);
}

#[test]
fn two_copies_with_data_in_pages_crash_and_settle() {
    all(both::run, Start::Closed, 256);
}

#[test]
fn two_copies_with_data_in_the_log_crash_and_settle() {
    all(both::run, Start::Sealed, 128);
}

#[test]
fn two_copies_crash_in_two_operations_and_settle() {
    for ops in [[W0, W0], [W0, Op::Flush], [W1, Op::Trim]] {
        explore_all(both::run, Start::Closed, &[ops.to_vec()], Strike::Classes(&REGIONS), 256);
    }
}

#[test]
fn one_copy_with_nothing_crashes_while_the_other_serves() {
    all(serving::run, Start::Fresh, 8);
}

#[test]
fn one_copy_with_data_in_pages_crashes_while_the_other_serves() {
    all(serving::run, Start::Closed, 128);
}

#[test]
fn one_copy_with_data_in_the_log_crashes_while_the_other_serves() {
    all(serving::run, Start::Sealed, 128);
}

#[test]
fn one_copy_crashes_in_two_operations_while_the_other_serves() {
    for ops in [[W0, Op::Flush], [Op::Trim, W0]] {
        explore_all(serving::run, Start::Closed, &[ops.to_vec()], Strike::Classes(&REGIONS), 512);
    }
}
