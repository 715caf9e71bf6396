//! The NBD server's side of one connection, without the socket: bytes in, requests to a volume out,
//! replies out. Follows `doc/proto.md` of NetworkBlockDevice/nbd.
//!
//! # How a shell drives a [`Connection`]
//!
//! ```text
//!            bytes ──► receive() ──► Effect::ListExports / OpenExport ──► MDM ──► listed() / opened()
//!                          │
//!                          └───────► Effect::Request{token, request} ──► volume::Client
//!                                                                            │
//!   sendmsg ◄── take_output() ◄── replies ◄──────────── complete(token, result)
//! ```
//!
//! * After accepting a socket: `Connection::new(tag, …)`. The greeting is already in its output.
//! * [`Connection::want`] says what to receive: into the **staging** buffer, **in place** (a span of a
//!   pool buffer in which the rest of a write's payload belongs; then call `received_in_place`),
//!   nothing for now, or close the socket.
//! * [`Connection::receive`] takes staged bytes and says how many it used. It uses all of them unless
//!   it is at a bound (requests, pieces, buffers, queued replies) or awaits the MDM. What is left the
//!   shell keeps, and gives again, first, when something has changed: after `complete`, after
//!   `take_output`, after `listed`/`opened`, and when buffers were freed after an allocation had
//!   failed. It is right to call `receive(&[])` then if nothing is left: it goes on with what waits.
//!   A shell may stage more while `want` says nothing, but need not; either way its staging is bounded.
//! * While a receive in place is in flight the shell keeps a use of its own of that buffer: the
//!   connection may end, and give back its use, before the kernel is done.
//! * Every [`Effect::Request`] must be answered by exactly one [`Connection::complete`] with its
//!   token, also after the socket is gone. The top 16 bits of a token are the connection's tag, so a
//!   shell with several connections finds the right one. A tag may be used again once the connection
//!   that had it [`Connection::is_idle`].
//! * [`Connection::take_output`] once a turn when no send is in flight on the socket: it fills a batch
//!   for one `sendmsg` (header bytes inline, spans of buffers, runs of zeroes). Each
//!   [`Out::Data`] carries one use of its buffer, which the shell releases when the send (all of it:
//!   short sends are continued) has completed.
//! * When the socket ends or fails: [`Connection::disconnect`]; then `complete` what is outstanding;
//!   then drop the connection once it is idle. The export was in use from the moment
//!   `opened(Ok)` was called for [`Purpose::Use`] until then.
//! * Stopping: [`Connection::shut_down`], then go on until `want` says close: what was accepted is
//!   finished, what comes after is answered `ESHUTDOWN`.
//!
//! # Invariants
//!
//! * Memory is bounded: at most [`Limits::requests`] requests and [`Limits::pieces`] pieces in flight,
//!   [`Limits::read_bytes`] of buffers held by reads that are issued and not yet taken as output, one
//!   partly filled write buffer, and a bounded queue of replies. At a bound the connection stops
//!   looking at requests; a client that never reads its replies stops being read.
//! * Steady I/O allocates nothing.
//! * A read is issued in pieces of which each is one frame, and its buffers go out as they came.
//!
//! What this must not know: sockets, rings, MDM sessions, retries.

mod connection;
pub mod constants;
mod deliver;
pub mod export;
mod handshake;
mod inflight;
mod issue;
pub mod option;
pub mod reply;
pub mod request;
mod status;
#[cfg(test)]
mod tests;

pub use connection::Connection;
pub use export::{ExportError, ExportInfo};
pub use reply::{HeaderBytes, Out};

use sds_core::buffer::Span;
use sds_core::limits::{FRAME_PAYLOAD_BYTES_MAX, VOLUME_REQUESTS_MAX};
use sds_core::machine::Token;
use sds_core::volume::interface::Request;

/// Pieces of one request that may wait for an earlier one; a longer read is streamed in order.
pub const WINDOW: usize = 32;
/// Queued reply segments at which a connection stops looking at requests.
pub const OUTPUT_SEGMENTS_HIGH: usize = 1024;

/// Bounds of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests being worked on.
    pub requests: u16,
    /// Pieces of them that the volume is working on.
    pub pieces: usize,
    /// Buffer bytes of reads, from issue until taken as output. What a client that does not read its
    /// replies keeps from the others, so no more than bandwidth needs: 4 MiB are 32 full frames.
    pub read_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 256, pieces: 256, read_bytes: READ_BYTES_MIN }
    }
}

/// The least [`Limits::read_bytes`]: a read that is sent as a whole fits in it.
pub const READ_BYTES_MIN: u64 = WINDOW as u64 * FRAME_PAYLOAD_BYTES_MAX as u64;

const _: () = {
    assert!(256 <= VOLUME_REQUESTS_MAX);
};

/// Memory that a piece of this many bytes occupies: pool buffers are of 4, 32 and 128 KiB.
#[must_use]
pub const fn held_bytes(len: u32) -> u64 {
    if len <= 4096 {
        4096
    } else if len <= 32 * 1024 {
        32 * 1024
    } else {
        128 * 1024
    }
}

/// What a connection wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Which exports are there? Answer with `listed` or `opened(Err)`.
    ListExports,
    /// Look an export up, or open it; the empty name is the default one. Answer with `opened`.
    OpenExport {
        /// As the client wrote it.
        name: String,
        /// What for.
        purpose: Purpose,
    },
    /// A request for the volume of the export in use. For a write, one use of the buffer passes along.
    Request {
        /// Comes back in `complete`.
        token: Token,
        /// What.
        request: Request,
    },
}

/// What an export is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be described (`INFO`); no session is needed.
    Describe,
    /// To be used from now on (`GO`, `EXPORT_NAME`).
    Use,
}

/// What to receive next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Anything, into the staging buffer.
    Staging,
    /// At most this span's bytes, straight into it.
    InPlace(Span),
    /// Nothing until something else has happened.
    Nothing,
    /// Close the socket. Output that is left may be dropped.
    Close,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// It said so.
    #[error("the client disconnected")]
    Finished,
    /// The socket ended.
    #[error("the connection was lost")]
    Lost,
    /// This server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// Not a client flag that exists.
    #[error("client flags {flags:#x} are unknown; this is not an NBD client, or a newer one")]
    UnknownClientFlags {
        /// What was sent.
        flags: u32,
    },
    /// Bytes where an option should start are not one.
    #[error("not an NBD option: bad magic number")]
    BadOptionMagic,
    /// Bytes where a request should start are not one.
    #[error("not an NBD request: bad magic number")]
    BadRequestMagic,
    /// `EXPORT_NAME` cannot be answered with an error.
    #[error("the export asked for by EXPORT_NAME cannot be used")]
    ExportRefused,
    /// A long read without structured replies failed after its first bytes were sent.
    #[error("a read failed after part of its simple reply had been sent")]
    LateReadError,
}
