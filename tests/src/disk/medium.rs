//! The bytes of one device: what is durable, and what still sits in its volatile cache.
//!
//! Assumption about the media (failure-model): a 4 KiB piece is old or new after a power cut, never
//! a mixture; pieces of one write are independent of each other.

use crate::prng::Prng;
use sds_core::unit::BLOCK_BYTES;
use std::collections::{BTreeMap, BTreeSet};

/// 4 KiB of a device.
pub type Piece = [u8; BLOCK_BYTES as usize];

/// Number of a piece on its device.
pub type PieceNumber = u64;

#[derive(Clone, Debug, Default)]
struct Cell {
    durable: Option<Box<Piece>>,
    /// Written since, oldest first, with the order of the completion.
    cached: Vec<(u64, Box<Piece>)>,
}

/// The bytes of one device.
#[derive(Clone, Debug, Default)]
pub struct Medium {
    cells: BTreeMap<PieceNumber, Cell>,
    unflushed: BTreeSet<PieceNumber>,
    /// Pieces that cannot be read until they are written again.
    unreadable: BTreeSet<PieceNumber>,
    order: u64,
}

impl Medium {
    /// The piece as a read sees it; never-written ones are zero.
    pub fn read(&self, number: PieceNumber, into: &mut [u8]) {
        match self.cells.get(&number) {
            Some(Cell { cached, durable }) => match cached.last().map(|(_, piece)| piece).or(durable.as_ref()) {
                Some(piece) => into.copy_from_slice(&piece[..]),
                None => into.fill(0),
            },
            None => into.fill(0),
        }
    }

    /// A write of a piece has completed. Durable if asked for, or if the device has no volatile cache.
    pub fn write(&mut self, number: PieceNumber, piece: Box<Piece>, durable: bool) {
        self.unreadable.remove(&number);
        let cell = self.cells.entry(number).or_default();
        if durable {
            cell.durable = Some(piece);
            cell.cached.clear();
            self.unflushed.remove(&number);
        } else {
            self.order += 1;
            cell.cached.push((self.order, piece));
            self.unflushed.insert(number);
        }
    }

    /// The order up to which writes have completed; what a flush that starts now will cover.
    #[must_use]
    pub const fn completed(&self) -> u64 {
        self.order
    }

    /// Everything completed up to `order` becomes durable.
    pub fn flush(&mut self, order: u64) {
        let cells = &mut self.cells;
        self.unflushed.retain(|number| {
            let Some(cell) = cells.get_mut(number) else { return false };
            let covered = cell.cached.iter().take_while(|(written, _)| *written <= order).count();
            if let Some((_, piece)) = cell.cached.drain(..covered).next_back() {
                cell.durable = Some(piece);
            }
            !cell.cached.is_empty()
        });
    }

    /// Power is lost: each unflushed piece falls to what was durable or to any version since.
    /// `keep_per_mille` is how likely a version is to have reached the medium.
    pub fn power_cut(&mut self, chance: &mut Prng, keep_per_mille: u64) {
        for number in core::mem::take(&mut self.unflushed) {
            let Some(cell) = self.cells.get_mut(&number) else { continue };
            let mut versions: Vec<Box<Piece>> = cell.cached.drain(..).map(|(_, piece)| piece).collect();
            if chance.chance(keep_per_mille, 1000) {
                // Mostly the newest; sometimes one that was overwritten in the cache later.
                let newest = versions.len() - 1;
                let pick = if chance.chance(1, 4) { chance.index(versions.len()) } else { newest };
                cell.durable = Some(versions.swap_remove(pick));
            }
        }
    }

    /// What would be there if the cache fell now.
    #[must_use]
    pub fn durable(&self) -> Self {
        let durable = |(number, cell): (&PieceNumber, &Cell)| {
            cell.durable.as_ref().map(|piece| (*number, Cell { durable: Some(piece.clone()), cached: Vec::new() }))
        };
        Self { cells: self.cells.iter().filter_map(durable).collect(), order: self.order, ..Self::default() }
    }

    /// Flips bits of a byte of what is on the medium now. The piece must not be in the cache.
    ///
    /// # Panics
    /// If `byte` does not lie in a piece.
    pub fn flip(&mut self, number: PieceNumber, byte: usize, mask: u8) {
        let durable = &mut self.cells.entry(number).or_default().durable;
        durable.get_or_insert_with(|| Box::new([0; BLOCK_BYTES as usize]))[byte] ^= mask;
    }

    /// Makes a piece fail to be read until it is written again.
    pub fn make_unreadable(&mut self, number: PieceNumber) {
        self.unreadable.insert(number);
    }

    /// Whether a piece fails to be read.
    #[must_use]
    pub fn is_unreadable(&self, number: PieceNumber) -> bool {
        self.unreadable.contains(&number)
    }

    /// Pieces that were ever written and have nothing in the cache, in order.
    pub fn settled(&self) -> impl Iterator<Item = (PieceNumber, &Piece)> {
        self.cells.iter().filter_map(|(number, cell)| match &cell.durable {
            Some(piece) if cell.cached.is_empty() => Some((*number, &**piece)),
            Some(_) | None => None,
        })
    }

    /// How many pieces hold something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// How many pieces a power cut may lose.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.unflushed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(byte: u8) -> Box<Piece> {
        Box::new([byte; BLOCK_BYTES as usize])
    }

    fn read(medium: &Medium, number: PieceNumber) -> u8 {
        let mut bytes = [9; BLOCK_BYTES as usize];
        medium.read(number, &mut bytes);
        bytes[0]
    }

    #[test]
    fn a_flush_covers_what_was_completed_before_it_and_nothing_later() {
        let mut medium = Medium::default();
        medium.write(1, piece(1), false);
        let order = medium.completed();
        medium.write(1, piece(2), false);
        medium.write(2, piece(3), false);
        medium.flush(order);
        medium.power_cut(&mut Prng::new(1), 0);
        assert_eq!((read(&medium, 1), read(&medium, 2)), (1, 0));
    }

    #[test]
    fn a_power_cut_leaves_old_or_new_by_piece_and_durable_writes_alone() {
        let mut seen = BTreeSet::new();
        for seed in 0..64 {
            let mut medium = Medium::default();
            medium.write(1, piece(7), true);
            for number in [2, 3] {
                medium.write(number, piece(1), false);
                medium.write(number, piece(2), false);
            }
            medium.power_cut(&mut Prng::new(seed), 500);
            assert_eq!(read(&medium, 1), 7);
            seen.insert((read(&medium, 2), read(&medium, 3)));
        }
        assert_eq!(seen.len(), 9, "each piece is old, in between or new by itself: {seen:?}");
    }

    #[test]
    fn an_unreadable_piece_is_cured_by_writing_it() {
        let mut medium = Medium::default();
        medium.make_unreadable(4);
        assert!(medium.is_unreadable(4));
        medium.write(4, piece(1), false);
        assert!(!medium.is_unreadable(4));
    }
}
