//! What lives on a loop: the contract between a loop and the data servers and clients it hosts.
//!
//! A role owns its machine; the loop owns time, memory, disks, sockets and links. The loop calls a
//! role with one event at a time and a [`Turn`]; the role steps its machine and hands the effects to
//! the turn, which submits everything at the end of the turn as one batch.
//!
//! Two kinds of stream: *links* speak the data protocol and carry [`Frame`]s (over a socket, or
//! without one to a role of the same loop; a role cannot tell), *raw* streams carry bytes (NBD).

use crate::address::Address;
use crate::reactor::{ListenerId, Turn};
use sds_core::buffer::Span;
use sds_core::machine::{DiskResult, LinkId};
use sds_core::unit::Nanos;
use sds_core::wire::{Frame, WireError};

/// Place of a role on its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleIndex(u8);

impl RoleIndex {
    pub(crate) fn new(index: usize) -> Self {
        Self(u8::try_from(index).unwrap_or(u8::MAX))
    }

    pub(crate) const fn get(self) -> usize {
        self.0 as usize
    }
}

/// A raw stream; never reused in one process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub(crate) u64);

/// What is spoken on a listener or stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Frames of the data protocol: the role gets [`LinkEvent`]s.
    Frames,
    /// Bytes: the role gets [`StreamEvent`]s.
    Raw,
}

/// Why a link or stream is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The other side closed it, or its process ended.
    #[error("closed by the other side")]
    Peer,
    /// A system call on it failed.
    #[error("error {errno}")]
    Error {
        /// Linux error number.
        errno: i32,
    },
    /// The other side sent what is no frame.
    #[error("it sent what is no frame: {0}")]
    Frame(WireError),
    /// The role left more bytes unread than are kept.
    #[error("more than {} bytes stayed unread", crate::limits::STAGING_BYTES)]
    Unread,
    /// A `connect` had no address that can be used, or none answered in time.
    #[error("no answer")]
    NoAnswer,
    /// More was queued for it than the bound allows.
    #[error("the other side does not read what is sent to it")]
    Overrun,
}

/// What happened on a link.
#[derive(Clone, Copy, Debug)]
pub enum LinkEvent<'a> {
    /// A listener of this role got a connection, or [`Turn::connect`] has come through.
    Linked {
        /// The `connect`'s own number; `None` when the other side connected.
        connect: Option<u64>,
    },
    /// None of the addresses of a `connect` answered. The link id was never alive.
    ConnectFailed {
        /// The `connect`'s own number.
        connect: u64,
        /// What the last one said.
        reason: Closed,
    },
    /// A frame came; one use of its buffer passes to the role.
    Frame(&'a Frame),
    /// Queued bytes have gone below the low mark after [`Turn::wants_pause`] said yes.
    Writable,
    /// The link is gone. Comes once, also after the role's own [`Turn::close`].
    Unlinked {
        /// Why; `None` after the role's own close.
        reason: Option<Closed>,
    },
}

/// What happened on a raw stream.
#[derive(Clone, Copy, Debug)]
pub enum StreamEvent {
    /// A listener got a connection.
    Accepted {
        /// Which listener.
        listener: ListenerId,
    },
    /// [`Turn::connect`] has come through.
    Connected {
        /// Its own number.
        connect: u64,
    },
    /// None of the addresses of a `connect` answered. The stream id was never alive.
    ConnectFailed {
        /// The `connect`'s own number.
        connect: u64,
        /// What the last one said.
        reason: Closed,
    },
    /// There are bytes ([`Turn::available`]) that have not been offered before.
    Readable,
    /// The bytes asked for by [`Turn::receive`] are there; one use of the buffer passes to the role.
    Received(Span),
    /// Queued bytes have gone below the low mark after [`Turn::wants_pause`] said yes.
    Writable,
    /// The stream is gone. Comes once, also after the role's own [`Turn::close`].
    Closed {
        /// Why; `None` after the role's own close.
        reason: Option<Closed>,
    },
}

/// Why a role is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Its deadline has come.
    Deadline,
    /// Buffers were freed after an allocation had failed.
    Buffers,
    /// Another thread called its [`crate::Waker`].
    Notified,
}

/// A data server, a client, … on a loop.
pub trait Role {
    /// Once, before anything else.
    fn start(&mut self, cx: &mut Turn<'_>);
    /// A disk request ended; `tag` is what it was submitted with.
    fn on_disk(&mut self, cx: &mut Turn<'_>, tag: u64, result: DiskResult);
    /// Something happened on a link of the data protocol.
    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>);
    /// Something happened on a raw stream.
    fn on_stream(&mut self, cx: &mut Turn<'_>, stream: StreamId, event: StreamEvent);
    /// Time, memory or another thread.
    fn on_wake(&mut self, cx: &mut Turn<'_>, wake: Wake);
    /// Everything of this turn has been delivered: the place for what is done once a turn.
    fn end_of_turn(&mut self, cx: &mut Turn<'_>);
    /// When [`Wake::Deadline`] is due at the latest. O(1).
    fn deadline(&self) -> Option<Nanos>;
    /// Whether it has ended. A loop of which all roles have ended ends.
    fn stopped(&self) -> bool;
}

/// Where a `connect` shall go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Targets {
    pub(crate) addresses: Vec<Address>,
    pub(crate) next: usize,
}
