//! What the scenarios of the simulator have in common: worlds whose users do only what the story says.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "test harness")]

use sds_core::map::Copies;
use sds_core::unit::Nanos;
use sds_tests::history::Answer;
use sds_tests::plan::Plan;
use sds_tests::run::report;
use sds_tests::trace::Telling;
use sds_tests::workload::Wish;
use sds_tests::world::{UserState, World};

pub const BLOCK: u64 = 4096;
pub const MILLISECOND: u64 = 1_000_000;
pub const SECOND: u64 = 1_000_000_000;

/// The plan, with time for a story of so many seconds.
pub fn lasting(plan: Plan, seconds: u64) -> Plan {
    Plan { duration: Nanos::new(seconds * SECOND), ..plan }
}

/// A world in which nobody does anything by itself; no volume is open.
pub fn scripted(plan: Plan, seed: u64) -> World {
    let mut world = World::new(plan, seed, None, Telling::Silent);
    for client in 0..world.clients() {
        world.take_over_user(client);
    }
    world
}

/// The same; the first user has its volume open.
#[track_caller]
pub fn opened(plan: Plan, seed: u64) -> World {
    let mut world = scripted(plan, seed);
    assert!(world.open(0, false), "seed {seed}: the volume opens: {:?}", world.violations());
    world
}

pub fn write(offset: u64, len: u64) -> Wish {
    Wish::Write { offset, len, durable: false }
}

pub fn read(offset: u64, len: u64) -> Wish {
    Wish::Read { offset, len }
}

pub fn trim(offset: u64, len: u64) -> Wish {
    Wish::Zero { offset, len, trim: true, durable: false }
}

#[track_caller]
pub fn done(world: &mut World, client: usize, wish: Wish) {
    for answer in world.ask_and_wait(client, wish) {
        assert!(
            matches!(answer, Some(Answer::Done | Answer::Data(_) | Answer::Holes(_))),
            "{wish:?} of client {client} succeeds, not {answer:?}: {:?}",
            world.violations()
        );
    }
}

pub fn volume_of(world: &World, client: usize) -> u32 {
    match world.user(client) {
        UserState::Open { volume, .. } => volume.id.get(),
        other => panic!("the volume of client {client} is open, not {other:?}"),
    }
}

/// What everybody saw can be explained, and nothing was noticed on the way.
#[track_caller]
pub fn is_explained(world: &World, seed: u64) {
    let report = report(seed, world);
    assert!(report.violations.is_empty(), "seed {seed}: {}", report.violations.join("\n"));
    assert_eq!(report.undecided, 0, "seed {seed}: everything can be decided");
    assert!(report.blocks > 0, "seed {seed}: something was checked");
}

/// Goes through the end of the run: all copies come back, everybody closes and stops, nothing leaks, copies are equal, all is
/// read back.
#[track_caller]
pub fn ends_well(mut world: World, seed: u64) {
    let compares = world.copies() == Copies::Two;
    world.end_troubles();
    world.run();
    is_explained(&world, seed);
    assert!(!compares || report(seed, &world).counts.copies_compared > 0, "seed {seed}: copies were compared");
}
