//! One client: splits, routes, retries and fences the I/O of its volumes.

pub mod interface;
pub mod piece;

use crate::buffer::Buffers;
use crate::error::Status;
use crate::machine::Outbox;
use crate::unit::Nanos;
use interface::{ClientOptions, Effect, Input, OpenVolume};

/// The client machine.
#[derive(Debug)]
pub struct Client {
    options: ClientOptions,
}

impl Client {
    /// A client that knows nothing yet.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        Self { options }
    }

    /// One step.
    pub fn step(&mut self, now: Nanos, input: Input<'_>, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        let _ = (now, buffers);
        if let Input::Request { token, .. } = input {
            out.push(Effect::Complete { token, result: Err(Status::NoVolume) });
        }
    }

    /// When to call `step` with [`Input::Wake`] at the latest.
    #[must_use]
    pub const fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// How many more requests it takes now.
    #[must_use]
    pub const fn free_requests(&self) -> usize {
        self.options.requests_max
    }

    /// Requests taken and not completed.
    #[must_use]
    pub const fn requests_in_flight(&self) -> usize {
        0
    }

    /// Volumes open now.
    pub fn volumes(&self) -> impl Iterator<Item = OpenVolume> {
        core::iter::empty()
    }
}
