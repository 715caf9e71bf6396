//! The requests a connection is working on, and the results of their pieces that wait for their turn.
//!
//! Invariants: a slot is used again only when every piece of its request has been completed; after
//! the table has seen its busiest moment, nothing here allocates. A [`PieceName`] fits the 48 bits
//! below a connection's tag.

use super::WINDOW;
use super::request::Action;
use sds_core::buffer::{Buffers, Span};
use sds_core::error::Status;

/// One piece of a request, as named to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceName {
    pub(super) slot: u16,
    pub(super) generation: u16,
    /// For reads sent in chunks: blocks between the request's first block and the piece's; for all
    /// others: its number in issue order.
    pub(super) piece: u16,
}

impl PieceName {
    pub(super) const fn bits(self) -> u64 {
        ((self.generation as u64) << 32) | ((self.slot as u64) << 16) | self.piece as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes the bits apart")]
    pub(super) const fn from_bits(raw: u64) -> Self {
        Self { generation: (raw >> 32) as u16, slot: (raw >> 16) as u16, piece: raw as u16 }
    }
}

/// A piece's result that waits for those before it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    /// No piece, or one whose turn has been.
    Empty,
    /// With the volume.
    Issued {
        len: u32,
    },
    Data(Span),
    Zeroes {
        len: u32,
    },
    Status {
        len: u32,
        data: [u64; 4],
    },
    Failed,
}

pub(super) type Window = [Held; WINDOW];

/// Why a request failed: the first piece that did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) status: Status,
    pub(super) offset: u64,
}

/// A request being worked on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) generation: u16,
    pub(super) cookie: u64,
    pub(super) action: Action,
    /// Range asked for.
    pub(super) offset: u64,
    pub(super) len: u32,
    /// First byte not yet issued, and where issuing ends.
    pub(super) next: u64,
    pub(super) end: u64,
    /// Pieces issued, completed, and (in order) sent or merged.
    pub(super) issued: u32,
    pub(super) done: u32,
    pub(super) emitted: u32,
    /// Bytes of the pieces in `emitted`.
    pub(super) emitted_bytes: u64,
    pub(super) failure: Option<Failure>,
    /// Results that wait, if the request has more than one piece and needs them in order.
    pub(super) window: Option<u16>,
}

impl Pending {
    /// Whether no piece is in flight and none will be issued.
    pub(super) const fn is_complete(&self) -> bool {
        self.next == self.end && self.done == self.issued
    }
}

/// All requests of a connection.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Option<Pending>>,
    generations: Vec<u16>,
    free: Vec<u16>,
    windows: Vec<Window>,
    windows_free: Vec<u16>,
}

impl Table {
    pub(super) fn new(requests: u16) -> Self {
        Self {
            slots: vec![None; usize::from(requests)],
            generations: vec![0; usize::from(requests)],
            free: (0..requests).rev().collect(),
            windows: Vec::with_capacity(usize::from(requests)),
            windows_free: Vec::with_capacity(usize::from(requests)),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a free slot. `windowed` gives it a window.
    pub(super) fn insert(&mut self, mut pending: Pending, windowed: bool) -> u16 {
        let slot = self.free.pop().unwrap_or_else(|| unreachable!("a request is admitted only while a slot is free"));
        let index = usize::from(slot);
        pending.generation = self.generations[index];
        pending.window = windowed.then(|| self.take_window());
        self.slots[index] = Some(pending);
        slot
    }

    fn take_window(&mut self) -> u16 {
        self.windows_free.pop().unwrap_or_else(|| {
            self.windows.push([Held::Empty; WINDOW]);
            #[expect(clippy::cast_possible_truncation, reason = "at most one window a slot")]
            let window = (self.windows.len() - 1) as u16;
            window
        })
    }

    pub(super) fn get_mut(&mut self, slot: u16) -> &mut Pending {
        self.slots[usize::from(slot)].as_mut().unwrap_or_else(|| unreachable!("queues name requests of the table"))
    }

    /// The request of a piece, if that is the one it belongs to.
    pub(super) fn of_piece(&mut self, name: PieceName) -> Option<&mut Pending> {
        self.slots.get_mut(usize::from(name.slot))?.as_mut().filter(|pending| pending.generation == name.generation)
    }

    /// Place for the result of the piece with this number.
    pub(super) fn held(&mut self, window: u16, number: u32) -> &mut Held {
        &mut self.windows[usize::from(window)][number as usize % WINDOW]
    }

    /// Ends a request; its pieces have all been completed.
    pub(super) fn remove(&mut self, slot: u16) -> Pending {
        let index = usize::from(slot);
        let pending = self.slots[index].take().unwrap_or_else(|| unreachable!("queues name requests of the table"));
        assert!(pending.done == pending.issued, "a slot is reused only when nothing of its request is in flight");
        if let Some(window) = pending.window {
            self.windows_free.push(window);
        }
        self.generations[index] = self.generations[index].wrapping_add(1);
        self.free.push(slot);
        pending
    }

    /// Gives back whatever windows still hold of buffers; returns the bytes they were charged.
    pub(super) fn release_window(&mut self, window: u16, buffers: &mut impl Buffers) -> u64 {
        let mut bytes = 0;
        for held in &mut self.windows[usize::from(window)] {
            if let Held::Data(span) = core::mem::replace(held, Held::Empty) {
                bytes += super::held_bytes(span.len);
                buffers.release(span.buffer);
            }
        }
        bytes
    }

    /// Gives back what all windows hold: the connection has ended.
    pub(super) fn release_all(&mut self, buffers: &mut impl Buffers) {
        for held in self.windows.iter_mut().flatten() {
            if let Held::Data(span) = core::mem::replace(held, Held::Empty) {
                buffers.release(span.buffer);
            }
        }
    }
}
