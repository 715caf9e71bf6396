//! One device: the extent store. Knows no epoch rule, no peer, no session.
//!
//! In-place 4 KiB data, external checksums, one record log. See `docs/on-disk-format.md`.

pub mod format;
pub mod interface;

use crate::buffer::Buffers;
use crate::machine::Outbox;
use crate::unit::Nanos;
use interface::{Effect, Input, Statistics, StoreError, StoreOptions};

/// The machine of one device.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
}

impl Store {
    /// A store that has not looked at its device yet; `Input::Open` comes first.
    #[must_use]
    pub fn new(options: StoreOptions) -> Self {
        Self { options }
    }

    /// Takes one input.
    pub fn step(&mut self, _now: Nanos, input: Input, _buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        match input {
            Input::Request { token, .. } => out.push(Effect::Reply { token, result: Err(StoreError::NotOpen) }),
            Input::Open | Input::Disk { .. } | Input::Wake => {}
        }
    }

    /// When `Input::Wake` is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// Numbers about itself.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    /// Whether it takes reads and writes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.options.requests_max == 0
    }

    /// Age of the oldest disk request in flight; zero when there is none.
    #[must_use]
    pub fn oldest_disk_request(&self, _now: Nanos) -> Nanos {
        Nanos::ZERO
    }
}
