//! Striping: volume bytes ↔ (extent, byte in extent). Pure arithmetic, both ways.
//!
//! A stripe set is `width` extents. Inside it, consecutive stripe units go round the extents: unit 0
//! to extent 0, unit 1 to extent 1, …, unit `width` to extent 0 again, so what one extent holds of a
//! contiguous range inside one stripe set is itself contiguous.
//!
//! Invariant: `locate` and `volume_offset` are inverse to each other over the whole address space.

use crate::bugs::{self, Bug};
use crate::id::ExtentIndex;
use crate::limits::{FRAME_PAYLOAD_BYTES_MAX, STRIPE_UNIT_BYTES_DEFAULT, STRIPE_WIDTH_DEFAULT, STRIPE_WIDTH_MAX, VOLUME_BYTES_MAX};
use crate::unit::{BLOCK_BYTES, ByteOffset, EXTENT_BYTES};
use serde::{Deserialize, Serialize};

/// How a volume is striped; fixed at its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Received")]
pub struct Stripe {
    unit: u32,
    width: u32,
}

/// A layout as it came in a message, not looked at yet.
#[derive(Deserialize)]
struct Received {
    unit: u32,
    width: u32,
}

impl TryFrom<Received> for Stripe {
    type Error = StripeError;

    fn try_from(received: Received) -> Result<Self, StripeError> {
        Self::new(received.unit, received.width)
    }
}

/// Why a stripe layout is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// The unit does not fit.
    #[error("stripe unit {0} must be a power of two from 4096 to 1048576 bytes")]
    Unit(u32),
    /// The width does not fit.
    #[error("stripe width {0} must be from 1 to {STRIPE_WIDTH_MAX} extents")]
    Width(u32),
}

/// A place on an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which extent of the volume.
    pub extent: ExtentIndex,
    /// Byte inside it, below [`EXTENT_BYTES`].
    pub offset: u32,
}

impl Default for Stripe {
    fn default() -> Self {
        Self { unit: STRIPE_UNIT_BYTES_DEFAULT, width: STRIPE_WIDTH_DEFAULT }
    }
}

impl Stripe {
    /// A layout of `unit` bytes (power of two, 4 KiB to 1 MiB) over `width` extents.
    ///
    /// # Errors
    /// When either is out of range.
    pub const fn new(unit: u32, width: u32) -> Result<Self, StripeError> {
        if !unit.is_power_of_two() || unit < BLOCK_BYTES || unit > EXTENT_BYTES {
            return Err(StripeError::Unit(unit));
        }
        if width == 0 || width > STRIPE_WIDTH_MAX {
            return Err(StripeError::Width(width));
        }
        Ok(Self { unit, width })
    }

    /// Stripe unit in bytes.
    #[must_use]
    pub const fn unit(self) -> u32 {
        self.unit
    }

    /// Extents of a stripe set.
    #[must_use]
    pub const fn width(self) -> u32 {
        self.width
    }

    /// Bytes of a stripe set.
    #[must_use]
    pub const fn set_bytes(self) -> u64 {
        self.width as u64 * EXTENT_BYTES as u64
    }

    /// Where a volume byte lives.
    ///
    /// # Panics
    /// If the offset is beyond the largest volume.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each quotient is bounded by the assertion or by the extent size")]
    pub fn locate(self, offset: ByteOffset) -> Place {
        let offset = match offset.get() {
            wide if bugs::is(Bug::SectorIn32Bits) => wide % (1 << 41),
            wide if bugs::is(Bug::BlockIn32Bits) => wide % (1 << 44),
            wide => wide,
        };
        assert!(offset < VOLUME_BYTES_MAX, "volume offsets are checked against the volume's size first");
        let (set, within) = (offset / self.set_bytes(), offset % self.set_bytes());
        let unit_number = within / u64::from(self.unit);
        let (row, column) = (unit_number / u64::from(self.width), unit_number % u64::from(self.width));
        Place {
            extent: ExtentIndex::new((set * u64::from(self.width) + column) as u32),
            offset: (row * u64::from(self.unit) + within % u64::from(self.unit)) as u32,
        }
    }

    /// Which volume byte lives at a place; the inverse of [`Self::locate`].
    #[must_use]
    pub const fn volume_offset(self, place: Place) -> ByteOffset {
        let extent = place.extent.get() as u64;
        let (set, column) = (extent / self.width as u64, extent % self.width as u64);
        let (row, rest) = (place.offset as u64 / self.unit as u64, place.offset as u64 % self.unit as u64);
        ByteOffset::new(set * self.set_bytes() + (row * self.width as u64 + column) * self.unit as u64 + rest)
    }

    /// Bytes from `offset` to the next boundary a single payload frame must not cross: the end of
    /// its stripe unit, or of a run of the largest payload inside it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a piece is at most one frame payload")]
    pub fn piece_room(self, offset: ByteOffset) -> u32 {
        let piece =
            if self.unit < FRAME_PAYLOAD_BYTES_MAX && !bugs::is(Bug::PieceCrossesStripeUnit) { self.unit } else { FRAME_PAYLOAD_BYTES_MAX };
        piece - (offset.get() % piece as u64) as u32
    }
}
