//! One seed from beginning to end, and its verdict.

use crate::canary::Canary;
use crate::marks::Marks;
use crate::plan::Plan;
use crate::prng::{Prng, mix};
use crate::retell::{Kept, Recording, Retelling};
use crate::trace::Telling;
use crate::world::{Counts, World};
use sds_core::map::Copies;
use sds_core::unit::Nanos;

/// What came of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What must not have happened; empty if all is well.
    pub violations: Vec<String>,
    /// Blocks whose history could not be decided.
    pub undecided: u64,
    /// Blocks that were checked.
    pub blocks: u64,
    /// Virtual time.
    pub simulated: Nanos,
    /// What was counted.
    pub counts: Counts,
    /// What was reached.
    pub marks: Marks,
    /// Hash of everything that happened.
    pub hash: u64,
    /// How much that was.
    pub events: u64,
}

/// The plan of a seed: with one copy of each block or two, as the seed says, or as it is told.
#[must_use]
pub fn plan_of(seed: u64, copies: Option<Copies>) -> Plan {
    let plan = Plan::draw(&mut Prng::new(mix(seed ^ 0x5d5_0001)));
    let mut chance = Prng::new(mix(seed ^ 0x5d5_0002));
    let drawn = if chance.chance(1, 2) { Copies::Two } else { Copies::One };
    match copies.unwrap_or(drawn) {
        Copies::One => plan,
        Copies::Two => plan.with_two_copies(&mut chance),
    }
}

/// A run: what it is drawn from, and what is built into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// Only with so many copies; otherwise as the seed says.
    pub copies: Option<Copies>,
    /// A bug.
    pub canary: Option<Canary>,
}

/// Runs a seed.
#[must_use]
pub fn run_seed(seed: u64, copies: Option<Copies>, canary: Option<Canary>, telling: Telling) -> Report {
    run(&Case { seed, copies, canary }, telling).0
}

/// Runs a case; also gives what can be left out of it.
#[must_use]
pub fn run(case: &Case, telling: Telling) -> (Report, Recording) {
    tell(case, telling, None)
}

/// Tells a run again, with what is kept of it.
#[must_use]
pub fn run_again(case: &Case, recording: &Recording, kept: &Kept, telling: Telling) -> Report {
    tell(case, telling, Some(Retelling { firings: recording.firings.clone(), kept: kept.clone() })).0
}

fn tell(case: &Case, telling: Telling, retelling: Option<Retelling>) -> (Report, Recording) {
    let Case { seed, copies, canary } = *case;
    let plan = plan_of(seed, copies);
    #[cfg(feature = "seeded-bugs")]
    sds_core::bugs::seed(canary.and_then(Canary::rule));
    if telling == Telling::Aloud {
        println!("seed {seed}: {plan:?}");
    }
    let mut world = World::told(plan, seed, canary, telling, retelling);
    world.run();
    (report(seed, &world), world.recording())
}

/// The verdict on a world that has ended.
#[must_use]
pub fn report(seed: u64, world: &World) -> Report {
    let verdict = world.check();
    let mut violations = world.violations().to_vec();
    violations.extend(verdict.violations.into_iter().map(|violation| violation.story));
    Report {
        seed,
        violations,
        undecided: verdict.undecided,
        blocks: verdict.blocks,
        simulated: world.now(),
        counts: world.counts(),
        marks: world.marks().clone(),
        hash: world.trace().hash(),
        events: world.trace().events(),
    }
}
