//! One request: from 28 bytes to what is to be done, and how it is cut into pieces. Pure.
//!
//! Invariant: whatever leaves [`judge`] as [`Verdict::Run`] lies inside the export and keeps to the
//! limits that [`super::export`] advertises.

use super::constants::{COMMAND_DF, COMMAND_FUA, COMMAND_NO_HOLE, COMMAND_REQ_ONE, Command, ErrorCode, REQUEST_MAGIC};
use super::export::{ExportInfo, PAYLOAD_BYTES_MAX};
use sds_core::stripe::Stripe;
use sds_core::unit::{BLOCK_BYTES, ByteOffset};
use sds_core::volume::piece;

/// Bytes of a request before its payload.
pub const REQUEST_BYTES: usize = 28;
const BLOCK: u64 = BLOCK_BYTES as u64;

/// A request as sent; nothing in it is checked but its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRequest {
    /// Command flags.
    pub flags: u16,
    /// Command number.
    pub command: u16,
    /// The client's name for it.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

impl RawRequest {
    /// From its bytes; `None` if they do not start with the request magic.
    #[must_use]
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        let (command, rest) = rest.split_first_chunk::<2>()?;
        let (cookie, rest) = rest.split_first_chunk::<8>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let len = rest.first_chunk::<4>()?;
        (u32::from_be_bytes(*magic) == REQUEST_MAGIC).then(|| Self {
            flags: u16::from_be_bytes(*flags),
            command: u16::from_be_bytes(*command),
            cookie: u64::from_be_bytes(*cookie),
            offset: u64::from_be_bytes(*offset),
            len: u32::from_be_bytes(*len),
        })
    }

    /// Bytes of payload that follow it.
    #[must_use]
    pub const fn payload_len(&self) -> u32 {
        if self.command == Command::Write as u16 { self.len } else { 0 }
    }
}

/// What a connection has negotiated that decides what requests mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Structured replies.
    pub structured: bool,
    /// Block status of `base:allocation` for the export in use.
    pub block_status: bool,
}

/// What to do, on which bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read.
    Read {
        /// How the bytes are sent back.
        delivery: Delivery,
    },
    /// Write the payload that follows.
    Write {
        /// Durable before the reply.
        durable: bool,
    },
    /// Make zero.
    Zero {
        /// Space may be freed.
        trim: bool,
        /// Durable before the reply.
        durable: bool,
    },
    /// Flush.
    Flush,
    /// Say which blocks hold data.
    Status {
        /// One descriptor only.
        one: bool,
    },
}

/// How the bytes of a read are sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Each piece in a chunk of its own, as it comes.
    Chunks,
    /// All together once the last has come: an error can still be reported.
    Whole,
    /// In order as they come; an error after the first ends the connection.
    Stream,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it, on this range (whole blocks for [`Action::Zero`] with `trim` of a `TRIM`).
    Run {
        /// What.
        action: Action,
        /// First byte.
        offset: u64,
        /// Bytes; never 0 except for a flush.
        len: u32,
    },
    /// There is nothing to do; say so.
    Nothing,
    /// Answer with an error.
    Refuse(ErrorCode, &'static str),
    /// The client leaves.
    Disconnect,
}

/// Decides on a request.
#[must_use]
pub fn judge(raw: &RawRequest, export: &ExportInfo, negotiated: Negotiated, stopping: bool) -> Verdict {
    let Some(command) = Command::from_wire(raw.command) else {
        return Verdict::Refuse(ErrorCode::Invalid, "unknown command");
    };
    if command == Command::Disconnect {
        return Verdict::Disconnect;
    }
    if stopping {
        return Verdict::Refuse(ErrorCode::Shutdown, "the server is stopping");
    }
    if raw.flags & !command.flags_allowed() != 0 {
        return Verdict::Refuse(ErrorCode::Invalid, "a flag that this command does not have");
    }
    let durable = raw.flags & COMMAND_FUA != 0;
    let inside = raw.offset.checked_add(u64::from(raw.len)).is_some_and(|end| end <= export.size);
    let too_long = raw.len > PAYLOAD_BYTES_MAX;
    match command {
        Command::Read => {
            let whole = raw.flags & COMMAND_DF != 0;
            if whole && !negotiated.structured {
                return Verdict::Refuse(ErrorCode::Invalid, "DF needs structured replies");
            }
            if !inside {
                return Verdict::Refuse(ErrorCode::Invalid, "read past the end");
            }
            if too_long {
                return Verdict::Refuse(ErrorCode::Overflow, "a read may have at most 32 MiB");
            }
            if raw.len == 0 {
                return Verdict::Nothing;
            }
            // One piece is gathered trivially; a chunk is for it what it is for many.
            let fits = piece_count(export.stripe, raw.offset, raw.len, super::WINDOW + 1) <= super::WINDOW;
            let delivery = match (negotiated.structured, whole, fits) {
                (true, true, false) => return Verdict::Refuse(ErrorCode::Overflow, "too long to be sent unfragmented"),
                (true, true, true) | (false, false | true, true) => Delivery::Whole,
                (true, false, false | true) => Delivery::Chunks,
                (false, false | true, false) => Delivery::Stream,
            };
            Verdict::Run { action: Action::Read { delivery }, offset: raw.offset, len: raw.len }
        }
        Command::Write => {
            if let Some(refusal) = refuse_change(export, inside, ErrorCode::NoSpace, "write past the end") {
                return refusal;
            }
            if too_long {
                return Verdict::Refuse(ErrorCode::Invalid, "a write may have at most 32 MiB");
            }
            if raw.len == 0 {
                return Verdict::Nothing;
            }
            Verdict::Run { action: Action::Write { durable }, offset: raw.offset, len: raw.len }
        }
        Command::Flush => {
            if raw.offset != 0 || raw.len != 0 {
                return Verdict::Refuse(ErrorCode::Invalid, "a flush has no range");
            }
            Verdict::Run { action: Action::Flush, offset: 0, len: 0 }
        }
        Command::Trim => {
            if let Some(refusal) = refuse_change(export, inside, ErrorCode::Invalid, "trim past the end") {
                return refusal;
            }
            // Whole blocks only; the rest of the range is left as it is, as the specification allows.
            let first = raw.offset.next_multiple_of(BLOCK);
            let end = (raw.offset + u64::from(raw.len)) / BLOCK * BLOCK;
            match u32::try_from(end.saturating_sub(first)) {
                Ok(len) if len > 0 => Verdict::Run { action: Action::Zero { trim: true, durable }, offset: first, len },
                Ok(_) | Err(_) => Verdict::Nothing,
            }
        }
        Command::WriteZeroes => {
            if let Some(refusal) = refuse_change(export, inside, ErrorCode::NoSpace, "write past the end") {
                return refusal;
            }
            if raw.len == 0 {
                return Verdict::Nothing;
            }
            // `FAST_ZERO` needs no look: zeroing is always faster than writing here.
            let trim = raw.flags & COMMAND_NO_HOLE == 0;
            Verdict::Run { action: Action::Zero { trim, durable }, offset: raw.offset, len: raw.len }
        }
        Command::BlockStatus => {
            if !negotiated.block_status {
                return Verdict::Refuse(ErrorCode::Invalid, "no metadata context was negotiated for this export");
            }
            if !inside {
                return Verdict::Refuse(ErrorCode::Invalid, "status past the end");
            }
            if raw.len == 0 {
                return Verdict::Refuse(ErrorCode::Invalid, "status of no bytes");
            }
            Verdict::Run { action: Action::Status { one: raw.flags & COMMAND_REQ_ONE != 0 }, offset: raw.offset, len: raw.len }
        }
        Command::Disconnect => Verdict::Disconnect,
    }
}

fn refuse_change(export: &ExportInfo, inside: bool, past_end: ErrorCode, message: &'static str) -> Option<Verdict> {
    if export.read_only {
        return Some(Verdict::Refuse(ErrorCode::Permission, "the export is read only"));
    }
    (!inside).then_some(Verdict::Refuse(past_end, message))
}

/// Length of the piece of a read that starts at `offset` when `left` bytes are left.
#[must_use]
pub fn read_piece(stripe: Stripe, offset: u64, left: u32) -> u32 {
    piece::reads(stripe, ByteOffset::new(offset), u64::from(left)).next().map_or(0, |piece| piece.len)
}

/// Length of the piece of a write that starts at `offset` when `left` bytes are left.
#[must_use]
pub fn write_piece(stripe: Stripe, offset: u64, left: u32) -> u32 {
    piece::writes(stripe, ByteOffset::new(offset), u64::from(left)).next().map_or(0, |piece| piece.len)
}

/// How many pieces a read has; stops counting at `enough`.
fn piece_count(stripe: Stripe, offset: u64, len: u32, enough: usize) -> usize {
    piece::reads(stripe, ByteOffset::new(offset), u64::from(len)).take(enough).count()
}
