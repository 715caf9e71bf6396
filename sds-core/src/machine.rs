//! The machine contract: what a step takes and gives, for all four machines.
//!
//! ```text
//! fn step(&mut self, now: Nanos, input: Input<'_>, buffers: &mut impl Buffers, out: &mut Outbox<Effect>)
//! fn deadline(&self) -> Option<Nanos>
//! ```
//!
//! A step is synchronous and bounded, never blocks, and on the data path allocates nothing once the
//! machine has warmed up. `now` never goes back. The shell submits the whole outbox after each step
//! (or after several), then sleeps until a completion or the deadline, and calls `Input::Wake` at or
//! after the deadline, and also when buffers were freed after an allocation had failed.
//!
//! What this must not know: any machine's own inputs and effects.

/// Effects of the steps of one turn, in order. Keeps its memory between turns.
#[derive(Debug)]
pub struct Outbox<E> {
    effects: Vec<E>,
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        Self { effects: Vec::with_capacity(256) }
    }
}

impl<E> Outbox<E> {
    /// An empty outbox with room for a busy turn.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an effect.
    pub fn push(&mut self, effect: E) {
        self.effects.push(effect);
    }

    /// Takes all effects out, in order, keeping the memory.
    pub fn drain(&mut self) -> impl Iterator<Item = E> + '_ {
        self.effects.drain(..)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }

    /// How many effects wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.effects.len()
    }
}

/// What became of a disk request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskResult {
    /// All bytes done.
    Done,
    /// The kernel or the device said no; `errno` as Linux numbers it.
    Error {
        /// Linux error number.
        errno: i32,
    },
    /// Fewer bytes than asked for: an error by the rules of the store.
    Short {
        /// Bytes done.
        bytes: u32,
    },
}

/// Names a connection between a machine and another party; the shell makes it and never reuses it
/// in one process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

impl LinkId {
    /// From the shell's number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The shell's number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The requester's name for a request; given back with its completion, never interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// Any number the requester likes.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
