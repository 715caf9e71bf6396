//! The one vocabulary of I/O outcomes that crosses machines and the wire.
//!
//! Invariant: codes are stable; a new outcome gets a new number, an old number is never given a new
//! meaning. Anything a remote acts on is here; anything only a person reads is in the error type of
//! its own crate.

use serde::{Deserialize, Serialize};

/// How a request ended. `repr(u16)` is its form on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u16)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// The request itself is wrong (range, alignment, length, opcode). Do not retry.
    Invalid = 1,
    /// The range lies past the end of the volume.
    PastEnd = 2,
    /// No such volume at this SDS even at the newest map.
    NoVolume = 3,
    /// No space left for a first write. Nothing was changed.
    NoSpace = 4,
    /// A newer session generation holds the volume: this client is fenced (I3). Do not retry.
    Fenced = 5,
    /// The sender's map is older than ours: fetch at least the version in the reply, then retry.
    MapStale = 6,
    /// Our map is older than the sender's and the newer one has not come yet: retry later.
    NotReady = 7,
    /// The bytes do not match their checksum and no good copy is reachable.
    Corrupt = 8,
    /// The device failed or is gone.
    DeviceFailed = 9,
    /// The payload arrived damaged: send it again.
    PayloadDamaged = 10,
    /// Unflushed data that this flush relied on is gone; reported once.
    FlushLost = 11,
    /// The session is read only.
    ReadOnly = 12,
    /// The server is stopping: reconnect and retry.
    Stopping = 13,
}

impl Status {
    /// From its wire form.
    #[must_use]
    pub const fn from_wire(raw: u16) -> Option<Self> {
        Some(match raw {
            0 => Self::Ok,
            1 => Self::Invalid,
            2 => Self::PastEnd,
            3 => Self::NoVolume,
            4 => Self::NoSpace,
            5 => Self::Fenced,
            6 => Self::MapStale,
            7 => Self::NotReady,
            8 => Self::Corrupt,
            9 => Self::DeviceFailed,
            10 => Self::PayloadDamaged,
            11 => Self::FlushLost,
            12 => Self::ReadOnly,
            13 => Self::Stopping,
            _ => return None,
        })
    }

    /// Its wire form.
    #[must_use]
    pub const fn to_wire(self) -> u16 {
        self as u16
    }
}
