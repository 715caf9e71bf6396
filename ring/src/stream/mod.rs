//! One byte stream (TCP or unix): what it has received, what it sends, which requests it has in flight.
//!
//! Invariants: at most one receive and one send are in flight; memory they name (the staging area, a
//! pool buffer with a use of its own, the gather list) is not touched until they complete; a stream
//! that is closed keeps all of it until then.
//!
//! What this must not know: roles, frames, NBD; which stream it is.

mod incoming;
mod outgoing;
pub(crate) mod socket;

pub use outgoing::Payload;

pub(crate) use incoming::{Arrival, Incoming, Taken};
pub(crate) use outgoing::Outgoing;

use crate::error::RingError;
use crate::pool::BufferPool;
use crate::ring::{Completion, Ring, Target};
use crate::role::{Closed, Protocol, RoleIndex, Targets};
use sds_core::unit::Nanos;
use sds_core::wire::DecodedHead;
use std::os::fd::{AsFd, OwnedFd};

/// Where a stream is in its life.
#[derive(Debug)]
pub(crate) enum State {
    /// Waiting for a connection; `number` is the role's own.
    Connecting { number: u64, targets: Targets, expires: Nanos },
    /// In use.
    Open,
    /// Its role has let go of it; what is queued is still sent, until the time given.
    Finishing { expires: Nanos },
    /// Nothing may begin any more; it waits for what is in flight.
    Dead,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) role: RoleIndex,
    pub(crate) protocol: Protocol,
    pub(crate) state: State,
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) target: Target,
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    /// A connection attempt is being waited for.
    pub(crate) connecting: bool,
    /// A decoded head whose payload has not come yet (frames only).
    pub(crate) head: Option<DecodedHead>,
    /// The role wants no more for now.
    pub(crate) paused: bool,
    /// Too much is queued to it: nothing more is read from it.
    pub(crate) throttled: bool,
    /// The role was told to pause and wants to hear when it may go on.
    pub(crate) wants_writable: bool,
    /// Stands in the loop's list of streams to look at before sleeping.
    pub(crate) dirty: bool,
}

impl Stream {
    pub(crate) fn new(role: RoleIndex, protocol: Protocol, state: State, incoming: Incoming) -> Self {
        Self {
            role,
            protocol,
            state,
            fd: None,
            target: Target::Plain(-1),
            incoming,
            outgoing: Outgoing::new(),
            connecting: false,
            head: None,
            paused: false,
            throttled: false,
            wants_writable: false,
            dirty: false,
        }
    }

    /// Takes a connected socket.
    pub(crate) fn open(&mut self, ring: &mut Ring, fd: OwnedFd) {
        use std::os::fd::AsRawFd;
        self.target = ring.register_file(fd.as_raw_fd());
        self.fd = Some(fd);
        self.state = State::Open;
    }

    /// Whether the role may still use it.
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Whether any request of it is in flight.
    pub(crate) const fn is_busy(&self) -> bool {
        self.connecting || self.incoming.is_in_flight() || self.outgoing.is_in_flight()
    }

    /// Submits what can begin now: a receive, a send.
    pub(crate) fn begin(&mut self, slot: u32, ring: &mut Ring, pool: &mut BufferPool) -> Result<(), RingError> {
        match self.state {
            State::Open => {
                if !self.paused && !self.throttled {
                    self.incoming.begin(slot, self.target, ring, pool)?;
                }
                self.outgoing.begin(slot, self.target, ring, pool)
            }
            State::Finishing { .. } => self.outgoing.begin(slot, self.target, ring, pool),
            State::Connecting { .. } | State::Dead => Ok(()),
        }
    }

    /// A receive has ended.
    pub(crate) fn on_received(&mut self, completion: Completion, pool: &mut BufferPool) -> Result<Arrival, Closed> {
        self.incoming.complete(completion, pool)
    }

    /// Makes everything in flight end soon and gives back what is not in flight.
    pub(crate) fn kill(&mut self, pool: &mut BufferPool) {
        self.state = State::Dead;
        if let Some(fd) = &self.fd {
            // Wakes a waiting receive and a blocked send; an unconnected socket has nothing to wake.
            let _ = rustix::net::shutdown(fd.as_fd(), rustix::net::Shutdown::Both);
        }
        self.incoming.abandon(pool);
        self.outgoing.abandon(pool);
        self.head = None;
    }
}
