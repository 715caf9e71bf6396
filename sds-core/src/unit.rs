//! Units as types: a byte offset is not a block number is not an extent index.
//!
//! Invariant: the only arithmetic offered is arithmetic that means something. Nothing here wraps;
//! every operation that could overflow is checked and says so.

use serde::{Deserialize, Serialize};

/// Bytes in one block: the unit of checksums, versions and linearizability.
pub const BLOCK_BYTES: u32 = 4096;
/// Bytes in one extent: the unit of allocation and of metadata on a device.
pub const EXTENT_BYTES: u32 = 1 << 20;
/// Blocks in one extent.
pub const BLOCKS_PER_EXTENT: u32 = EXTENT_BYTES / BLOCK_BYTES;

const _: () = assert!(BLOCKS_PER_EXTENT == 256, "a block's place in its extent is a u8");

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// Zero of this unit.
            pub const ZERO: Self = Self(0);

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

        impl core::fmt::Display for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(formatter, "{}", self.0)
            }
        }
    };
}

unit!(
    /// A block's number in its volume (4 KiB blocks from the volume's start).
    Lba(u64)
);
unit!(
    /// A number of 4 KiB blocks.
    BlockCount(u64)
);
unit!(
    /// A position in bytes, in a volume or on a device as the context says.
    ByteOffset(u64)
);
unit!(
    /// A length in bytes.
    ByteCount(u64)
);
unit!(
    /// A block's number inside its extent, 0..=255.
    BlockIndex(u8)
);

impl ByteOffset {
    /// This position moved forward, or `None` past 2⁶⁴.
    #[must_use]
    pub const fn checked_add(self, count: ByteCount) -> Option<Self> {
        match self.0.checked_add(count.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Whether this position is a multiple of the block size.
    #[must_use]
    pub const fn is_block_aligned(self) -> bool {
        self.0.is_multiple_of(BLOCK_BYTES as u64)
    }
}

impl ByteCount {
    /// Whether this length is a multiple of the block size.
    #[must_use]
    pub const fn is_block_aligned(self) -> bool {
        self.0.is_multiple_of(BLOCK_BYTES as u64)
    }

    /// The blocks needed to hold this many bytes.
    #[must_use]
    pub const fn blocks_up(self) -> BlockCount {
        BlockCount(self.0.div_ceil(BLOCK_BYTES as u64))
    }
}

impl BlockCount {
    /// The bytes of this many blocks, or `None` past 2⁶⁴.
    #[must_use]
    pub const fn bytes(self) -> Option<ByteCount> {
        match self.0.checked_mul(BLOCK_BYTES as u64) {
            Some(bytes) => Some(ByteCount(bytes)),
            None => None,
        }
    }
}

/// A point in time of the machine's clock, in nanoseconds since an arbitrary start; never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(u64);

impl Nanos {
    /// The arbitrary start.
    pub const ZERO: Self = Self(0);
    /// A time that is never reached.
    pub const NEVER: Self = Self(u64::MAX);

    /// From raw nanoseconds.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// From microseconds.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// From milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Raw nanoseconds.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This time plus a span (itself a `Nanos`), stopping at `NEVER`.
    #[must_use]
    pub const fn plus(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// The span since an earlier time; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}
