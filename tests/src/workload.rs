//! What the clients ask for: a small, hot address space with heavy overlap, at the places where
//! arithmetic breaks (the start, 2 TiB, 16 TiB, the end), in sizes from one byte to several frames.
//!
//! Must not know: machines. It draws requests; the world sends them.

use crate::prng::Prng;
use sds_core::unit::BLOCK_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// 2 TiB and 16 TiB, where 32-bit sector and block numbers end.
const EDGES: [u64; 2] = [2 << 40, 16 << 40];

/// A volume of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// Stripe unit in bytes.
    pub stripe_unit: u32,
    /// Stripe width in extents.
    pub stripe_width: u32,
    /// Hot ranges: first byte and bytes.
    pub spots: Vec<(u64, u64)>,
}

/// How often each kind of request is made; parts of their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Reads.
    pub read: u64,
    /// Writes.
    pub write: u64,
    /// Write-zeroes.
    pub zero: u64,
    /// Trims.
    pub trim: u64,
    /// Flushes.
    pub flush: u64,
    /// Block status.
    pub status: u64,
    /// Of a thousand writes and zeroes, those that are durable before their answer.
    pub durable_per_mille: u64,
    /// Of a thousand requests, those that keep to whole blocks.
    pub aligned_per_mille: u64,
}

/// A request as a user would make it, of any alignment and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Read.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Write.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// FUA.
        durable: bool,
    },
    /// Write zeroes, or trim.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Space may be freed.
        trim: bool,
        /// FUA.
        durable: bool,
    },
    /// Flush.
    Flush,
    /// Block status.
    Status {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl VolumeSpec {
    /// Draws a volume.
    #[must_use]
    pub fn draw(name: String, chance: &mut Prng) -> Self {
        let stripe_unit = 4096 << chance.below(9);
        let stripe_width = *chance.pick(&[1, 2, 3, 4, 8]);
        let size = match chance.below(4) {
            0 => 3 << 20,
            1 => (8 << 20) + BLOCK * chance.below(64),
            2 => EDGES[0] + (64 << 20),
            _ => EDGES[1] + (64 << 20) + BLOCK * chance.below(1000),
        };
        let mut spots = vec![(0, BLOCK * chance.within(2..24))];
        for edge in EDGES {
            if size > edge {
                let before = BLOCK * chance.below(8);
                spots.push((edge - before, before + BLOCK * chance.within(1..8)));
            }
        }
        let tail = BLOCK * chance.within(1..8);
        spots.push((size - tail, tail));
        // A place on the seam of two stripe sets, as far as the volume reaches.
        let seam = u64::from(stripe_width) << 20;
        if size > seam + 8 * BLOCK {
            spots.push((seam - 2 * BLOCK, 6 * BLOCK));
        }
        Self { name, size, stripe_unit, stripe_width, spots }
    }

    fn range(&self, chance: &mut Prng, len_max: u64, aligned: bool) -> (u64, u64) {
        let (start, bytes) = *chance.pick(&self.spots);
        let (offset, len) = if aligned {
            let first = chance.below(bytes.div_ceil(BLOCK));
            (start + first * BLOCK, BLOCK * chance.within(1..len_max / BLOCK + 1))
        } else {
            let offset = start + chance.below(bytes);
            let grain = *chance.pick(&[1, 512, 512, 512]);
            let offset = offset / grain * grain;
            (offset, grain * chance.within(1..(len_max / grain).min(4096) + 1))
        };
        (offset, len.min(self.size - offset))
    }

    /// Draws a request.
    pub fn wish(&self, mix: &Mix, chance: &mut Prng) -> Wish {
        // Mostly a few blocks, now and then several frames.
        let len_max = match chance.below(20) {
            0 => 300 * 1024,
            1..=3 => 64 * 1024,
            4..=9 => 4 * BLOCK,
            _ => BLOCK,
        };
        let aligned = chance.chance(mix.aligned_per_mille, 1000);
        let (offset, len) = self.range(chance, len_max, aligned);
        let durable = chance.chance(mix.durable_per_mille, 1000);
        let kinds = [mix.read, mix.write, mix.zero, mix.trim, mix.flush, mix.status];
        let mut draw = chance.below(kinds.iter().sum());
        let kind = kinds
            .iter()
            .position(|part| {
                let hit = draw < *part;
                draw = draw.wrapping_sub(*part);
                hit
            })
            .unwrap_or(0);
        match kind {
            1 => Wish::Write { offset, len, durable },
            2 => Wish::Zero { offset, len, trim: false, durable },
            3 => Wish::Zero { offset, len, trim: true, durable },
            4 => Wish::Flush,
            5 => Wish::Status { offset, len },
            _ => Wish::Read { offset, len },
        }
    }
}

impl Mix {
    /// Draws a mix.
    #[must_use]
    pub fn draw(chance: &mut Prng) -> Self {
        Self {
            read: chance.within(10..60),
            write: chance.within(20..60),
            zero: *chance.pick(&[0, 3, 10]),
            trim: *chance.pick(&[0, 3, 10]),
            flush: *chance.pick(&[0, 2, 6, 15]),
            status: *chance.pick(&[0, 3]),
            durable_per_mille: *chance.pick(&[0, 30, 300]),
            aligned_per_mille: *chance.pick(&[1000, 700, 300]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_stay_inside_the_volume_and_reach_its_far_places() {
        let mut far = false;
        for seed in 0..200 {
            let mut chance = Prng::new(seed);
            let volume = VolumeSpec::draw("v".into(), &mut chance);
            let mix = Mix::draw(&mut chance);
            for _ in 0..50 {
                match volume.wish(&mix, &mut chance) {
                    Wish::Read { offset, len }
                    | Wish::Write { offset, len, .. }
                    | Wish::Zero { offset, len, .. }
                    | Wish::Status { offset, len } => {
                        assert!(len > 0 && offset + len <= volume.size, "seed {seed}: {offset} + {len} in {}", volume.size);
                        far |= offset > EDGES[1];
                    }
                    Wish::Flush => {}
                }
            }
        }
        assert!(far, "some request lies beyond 16 TiB");
    }
}
