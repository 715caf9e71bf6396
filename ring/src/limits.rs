//! Every bound of the loop, with what relates it to its neighbours.
//!
//! Invariant: reaching a bound is answered (back-pressure or an error), never grown past.

use sds_core::limits::{FRAME_PAYLOAD_BYTES_MAX, RECEIVE_IN_PLACE_BYTES};

/// Submission entries: a turn that needs more submits early.
pub const SUBMISSIONS: u32 = 512;
/// Completion entries; the kernel keeps what does not fit (`IORING_FEAT_NODROP`).
pub const COMPLETIONS: u32 = 4096;
/// Disk requests in flight of one loop; more wait in the role's machine, whose own bounds are lower.
pub const DISK_REQUESTS_MAX: usize = 8192;
/// Disks of one loop.
pub const DISKS_MAX: usize = 256;
/// Listening sockets of one loop.
pub const LISTENERS_MAX: usize = 64;
/// Places in the table of registered files: disks and streams.
pub const REGISTERED_FILES: u32 = 4096;
/// Roles on one loop: a bit each in the waker's word.
pub const ROLES_MAX: usize = 64;
/// Bytes a stream reads ahead of its owner. Holds several small frames and the largest head.
pub const STAGING_BYTES: usize = 64 * 1024;
/// What is read ahead after a payload that went straight to its place: probably only a head follows.
pub const STAGING_AFTER_PAYLOAD_BYTES: usize = 1024;
/// Longest head (everything before a frame's payload) a stream sends in one piece.
pub const HEAD_BYTES_MAX: usize = 512;
/// Queued outgoing bytes from which a stream reads no more requests and its owner should pause.
pub const OUTGOING_HIGH_BYTES: usize = 2 << 20;
/// Queued outgoing bytes below which it goes on.
pub const OUTGOING_LOW_BYTES: usize = 512 << 10;
/// Outgoing bytes from which a stream is closed: its owner ignored the pause.
pub const OUTGOING_MAX_BYTES: usize = 64 << 20;
/// Pieces gathered in one send; `UIO_MAXIOV` is 1024.
pub const GATHER_MAX: usize = 1000;
/// Zero bytes that can be sent without a buffer, in one piece.
pub const ZERO_AREA_BYTES: u32 = FRAME_PAYLOAD_BYTES_MAX;
/// Messages handed between roles of one loop before sockets and disks get their turn again.
pub const LOCAL_MESSAGES_PER_TURN: usize = 4096;
/// Completions handled before what they caused is submitted.
pub const COMPLETIONS_PER_TURN: usize = 256;

const _: () = {
    assert!(STAGING_BYTES >= RECEIVE_IN_PLACE_BYTES as usize, "what is not received in place fits the staging area");
    assert!(HEAD_BYTES_MAX < STAGING_AFTER_PAYLOAD_BYTES);
    assert!(OUTGOING_LOW_BYTES < OUTGOING_HIGH_BYTES && OUTGOING_HIGH_BYTES < OUTGOING_MAX_BYTES);
    assert!(SUBMISSIONS as usize >= COMPLETIONS_PER_TURN);
};
