//! Seeded bugs, to show that the checkers catch what they are for: those of the simulated shell and network, for which the product
//! carries no switch, and those of the machines (`sds_core::bugs`), which are there only in a build for them.

use core::fmt;
use core::str::FromStr;
use sds_core::bugs::{self, Bug};
use sds_core::map::Copies;

/// What is caught within so many seeds is tried by every run of the tests.
pub const QUICK_SEEDS: u64 = 100;

/// A bug of the simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// Durable writes reach the device's volatile cache only.
    DurableFlagDropped,
    /// Flushes are acknowledged and not done.
    FlushIgnored,
    /// Now and then a data write is acknowledged and not done, and nobody is told.
    WriteLost,
    /// Now and then a byte of a data block changes, and nobody is told.
    ByteFlipped,
    /// Now and then a payload changes after its checksum was made, and the checksum with it.
    ChecksumForged,
    /// The shell stamps every request with its volume's newest session, so nobody is fenced.
    FenceLifted,
    /// Disk writes are acknowledged when they are submitted; a crash loses those in flight.
    AcknowledgedEarly,
    /// Now and then a write frame of a lost link is delivered again over the next one.
    GhostDelivered,
    /// A rule of the machines is not kept.
    Rule(Bug),
}

impl Canary {
    /// Those of the shell.
    pub const SHELL: [Self; 8] = [
        Self::DurableFlagDropped,
        Self::FlushIgnored,
        Self::WriteLost,
        Self::ByteFlipped,
        Self::ChecksumForged,
        Self::FenceLifted,
        Self::AcknowledgedEarly,
        Self::GhostDelivered,
    ];

    /// All that can be seeded in this build.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let rules = Bug::ALL.iter().copied().filter(|_| bugs::AVAILABLE).map(Self::Rule);
        Self::SHELL.into_iter().chain(rules).collect()
    }

    /// Within how many seeds it must be caught, from seed 0 on. Those within [`QUICK_SEEDS`] are tried by every run of the tests.
    #[must_use]
    pub const fn within(self) -> u64 {
        match self {
            // Three times what was seen, and more (docs/simulation.md).
            Self::Rule(Bug::WrittenWhileListedForgotten | Bug::RestartForgetsGrants) => 2_000,
            Self::Rule(Bug::ActivationNotDurable) => 1_000,
            Self::Rule(
                Bug::FlushStaysHere
                | Bug::RefusalTakenForDone
                | Bug::LapsedAtLastSent
                | Bug::GraceNotWaitedOut
                | Bug::CheckpointForgetsActive,
            ) => 600,
            Self::Rule(Bug::FlushLossIgnored | Bug::UnforwardedWriteKept | Bug::CacheLossNotSeen) => 200,
            Self::DurableFlagDropped => 200,
            Self::Rule(Bug::DurableWriteNotDurable | Bug::WritesOverlap | Bug::JoinerNotSettled) => 200,
            Self::Rule(Bug::FlushErrorIgnored | Bug::ShortWriteTakenAsDone | Bug::CacheLossIgnored | Bug::FlushCoversLaterWrites) => 400,
            Self::Rule(
                Bug::SealedWhileWritten | Bug::CheckpointBeforeItsIndex | Bug::LogReclaimedBeforeCheckpoint | Bug::RecoveryStopsAtGap,
            ) => 2_000,
            _ => QUICK_SEEDS,
        }
    }

    /// With how many copies of each block it is looked for; `None`: with as many as each seed says.
    #[must_use]
    pub const fn copies(self) -> Option<Copies> {
        match self {
            Self::Rule(bug) if bug.is_of_two_copies() => Some(Copies::Two),
            _ => None,
        }
    }

    /// The rule that it switches off in the machines.
    #[must_use]
    pub const fn rule(self) -> Option<Bug> {
        match self {
            Self::Rule(bug) => Some(bug),
            _ => None,
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DurableFlagDropped => "durable-flag-dropped",
            Self::FlushIgnored => "flush-ignored",
            Self::WriteLost => "write-lost",
            Self::ByteFlipped => "byte-flipped",
            Self::ChecksumForged => "checksum-forged",
            Self::FenceLifted => "fence-lifted",
            Self::AcknowledgedEarly => "acknowledged-early",
            Self::GhostDelivered => "ghost-delivered",
            Self::Rule(bug) => bug.name(),
        }
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// No canary has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownCanary {
    /// It needs another build.
    #[error("{name} is a rule of the machines, which this build cannot switch off: build with --features seeded-bugs")]
    NotInThisBuild {
        /// What was asked for.
        name: String,
    },
    /// There is none.
    #[error("no canary is named {name:?}; the canaries are {}", names())]
    NoSuch {
        /// What was asked for.
        name: String,
    },
}

fn names() -> String {
    Canary::all().into_iter().map(Canary::name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Canary {
    type Err = UnknownCanary;

    fn from_str(name: &str) -> Result<Self, UnknownCanary> {
        let name_is = |canary: &Self| canary.name() == name;
        if let Some(found) = Self::all().into_iter().find(name_is) {
            return Ok(found);
        }
        let name = name.to_owned();
        if Bug::ALL.iter().any(|bug| bug.name() == name) {
            return Err(UnknownCanary::NotInThisBuild { name });
        }
        Err(UnknownCanary::NoSuch { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With what it switches off, what notices it and after how many seeds.
    #[test]
    fn every_bug_is_in_the_document() {
        let document = include_str!("../../docs/simulation.md");
        let missing: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).filter(|name| !document.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "docs/simulation.md does not tell of {missing:?}");
    }
}
