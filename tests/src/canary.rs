//! Seeded bugs, to show that the checkers catch what they are for. They live in the simulated shell
//! and network, so the product carries no switch for them.

use core::fmt;
use core::str::FromStr;

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
}

impl Canary {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::DurableFlagDropped,
        Self::FlushIgnored,
        Self::WriteLost,
        Self::ByteFlipped,
        Self::ChecksumForged,
        Self::FenceLifted,
        Self::AcknowledgedEarly,
        Self::GhostDelivered,
    ];

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
        }
    }
}

impl fmt::Display for Canary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// No canary has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no canary is named {name:?}; the canaries are {}", Canary::ALL.map(Canary::name).join(", "))]
pub struct UnknownCanary {
    /// What was asked for.
    pub name: String,
}

impl FromStr for Canary {
    type Err = UnknownCanary;

    fn from_str(name: &str) -> Result<Self, UnknownCanary> {
        Self::ALL.into_iter().find(|canary| canary.name() == name).ok_or_else(|| UnknownCanary { name: name.to_owned() })
    }
}
