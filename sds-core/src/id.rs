//! Names of things: who issues each, and how long it stays unique.
//!
//! Invariant: an id is never reused for another thing within one system.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Wraps a raw number.
            #[must_use]
            pub const fn new(raw: $inner) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}", self.0)
            }
        }
    };
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u128);

        impl $name {
            /// From its 128 bits; the shell draws them at random.
            #[must_use]
            pub const fn new(raw: u128) -> Self {
                Self(raw)
            }

            /// Its 128 bits.
            #[must_use]
            pub const fn get(self) -> u128 {
                self.0
            }

            /// Whether this is the nil id (all bits zero), which names nothing.
            #[must_use]
            pub const fn is_nil(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                let b = self.0;
                write!(
                    formatter,
                    "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                    (b >> 96) & 0xffff_ffff,
                    (b >> 80) & 0xffff,
                    (b >> 64) & 0xffff,
                    (b >> 48) & 0xffff,
                    b & 0xffff_ffff_ffff
                )
            }
        }
    };
}

uuid!(
    /// One deployed cluster; drawn when its first MDM is initialised.
    SystemId
);
uuid!(
    /// One formatted device; drawn when it is formatted.
    DeviceUuid
);
uuid!(
    /// One client's durable identity; drawn once and kept in its state directory.
    ClientId
);
uuid!(
    /// One data server's durable identity; drawn once and kept in its state directory.
    SdsUuid
);
uuid!(
    /// A host's boot, hashed from the kernel's boot id: equal means no power was lost between.
    BootId
);

/// What a client shows an SDS to prove that the MDM let it in. Secret: never printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticket(u128);

impl Ticket {
    /// From its 128 random bits.
    #[must_use]
    pub const fn new(raw: u128) -> Self {
        Self(raw)
    }

    /// Its 128 bits, for the wire only.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Ticket(…)")
    }
}

id!(
    /// A storage pool, issued by the MDM.
    PoolId(u32)
);
id!(
    /// A volume, issued by the MDM; 0 names none.
    VolumeId(u32)
);
id!(
    /// A tree of a volume and its snapshots, issued by the MDM; owns extents; 0 names none.
    TreeId(u32)
);
id!(
    /// A snapshot layer of a tree; always 0 for now.
    LayerId(u32)
);
id!(
    /// An extent of a volume: volume address space in 1 MiB units, after striping.
    ExtentIndex(u32)
);
id!(
    /// A data server, issued by the MDM; 0 names none.
    SdsId(u32)
);
id!(
    /// A device in the system, issued by the MDM; 0 names none.
    DeviceId(u32)
);
id!(
    /// A shard's number in its pool, below the pool's shard count.
    ShardId(u32)
);
id!(
    /// Version of one shard's configuration, issued only by the MDM (I1); 0 is before the first.
    Epoch(u32)
);
id!(
    /// One SDS process life, issued by the MDM at its start (I6).
    Incarnation(u64)
);
id!(
    /// Fences the sessions before it (I3); issued by the MDM; 0 is none.
    SessionGeneration(u64)
);
id!(
    /// Number of a connection between two parties; a higher one closes the lower (I10).
    ConnectionNumber(u64)
);
id!(
    /// A request's number on one connection, chosen by the requester.
    RequestId(u64)
);
id!(
    /// Version of everything the MDM tells (shard maps, volumes, sessions); only grows.
    MapVersion(u64)
);
id!(
    /// Place of a write in its shard's order; runs on across epochs, never reused; 0 is before the first.
    ShardSequence(u64)
);
id!(
    /// Place of a block in a device's record log.
    LogSequence(u64)
);

impl Epoch {
    /// Moves to a later epoch.
    ///
    /// # Panics
    /// If `next` is not later: epochs never go back (I1).
    pub fn advance_to(&mut self, next: Self) {
        assert!(next > *self, "I1: epoch {self} cannot become {next}");
        *self = next;
    }
}

/// When a write happened, as its shard's primary ordered it. Totally ordered by sequence; the epoch
/// rises with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Place in the shard's order.
    pub sequence: ShardSequence,
    /// Configuration it was accepted under.
    pub epoch: Epoch,
}
