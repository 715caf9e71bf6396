//! What a frame of each opcode must look like: one set of rules for what is sent, for what is decoded,
//! and for what a role of the same process hands over.
//!
//! Invariant: a frame that passes is one frame's worth of work: its range lies inside one extent, its
//! payload is bounded and has one checksum a block.

use super::error::WireError;
use super::frame::{Body, Frame};
use super::header::{Flags, Header, Opcode};
use crate::error::Status;
use crate::exchange::{BLOCKS_BYTES, EXTENT_ENTRY_BYTES, PLAN_BYTES};
use crate::limits::FRAME_PAYLOAD_BYTES_MAX;
use crate::unit::{BLOCK_BYTES, EXTENT_BYTES};

/// Bytes of a `BlockStatusReply` payload: bit `i` (byte `i / 8`, bit `i % 8`) says that block `i` of the
/// extent holds data.
pub const BLOCK_STATUS_BYTES: u32 = EXTENT_BYTES / BLOCK_BYTES / 8;

/// Counts of a frame's parts, as the header states them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) payload: u32,
    pub(super) checksums: u8,
    pub(super) cache_ids: u8,
}

impl Frame {
    /// Whether this frame keeps to the rules of its opcode; decoded frames do.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), WireError> {
        let opcode = self.header.opcode;
        let (payload, checksums) = match &self.body {
            Body::Empty if opcode == Opcode::Hello => return Err(WireError::Body { opcode }),
            Body::Empty => (0, 0),
            Body::Hello(_) if opcode == Opcode::Hello => (0, 0),
            Body::Hello(_) => return Err(WireError::Body { opcode }),
            Body::Payload { span, checksums } => {
                if span.len == 0 {
                    return Err(WireError::Body { opcode });
                }
                #[expect(clippy::cast_possible_truncation, reason = "a list holds at most 32")]
                let count = checksums.len() as u8;
                (span.len, count)
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "at most two")]
        let cache_ids = self.cache_ids.as_slice().len() as u8;
        check(&self.header, Parts { payload, checksums, cache_ids })
    }
}

/// The rules. `Header` being typed, opcode, flags and status are known ones already.
pub(super) fn check(header: &Header, parts: Parts) -> Result<(), WireError> {
    let opcode = header.opcode;
    if header.flags.bits() & !flags_allowed(opcode).bits() != 0 {
        return Err(WireError::Flags { opcode, found: header.flags.bits() });
    }
    let is_request = is_request(opcode);
    if is_request && header.status != Status::Ok {
        return Err(WireError::Status { opcode, found: header.status.to_wire() });
    }
    let all_zero = header.flags.contains(Flags::ALL_ZERO);
    if all_zero && header.status != Status::Ok {
        return Err(WireError::Flags { opcode, found: header.flags.bits() });
    }
    check_range(header)?;
    let payload = match opcode {
        Opcode::Write | Opcode::WriteFragment | Opcode::Replicate | Opcode::Copy => header.length,
        Opcode::Settle => PLAN_BYTES,
        Opcode::ExtentsReply | Opcode::BlocksReply | Opcode::MediumReply if header.status == Status::Ok => header.length,
        Opcode::ReadReply if header.status == Status::Ok && !all_zero => header.length,
        Opcode::BlockStatusReply if header.status == Status::Ok => BLOCK_STATUS_BYTES,
        Opcode::Hello
        | Opcode::HelloReply
        | Opcode::Read
        | Opcode::ReadReply
        | Opcode::WriteReply
        | Opcode::Zero
        | Opcode::Flush
        | Opcode::FlushReply
        | Opcode::BlockStatus
        | Opcode::BlockStatusReply
        | Opcode::ReplicateZero
        | Opcode::ReplicateReply
        | Opcode::ReplicateFlush
        | Opcode::ReplicateFlushReply
        | Opcode::Beacon
        | Opcode::Grant
        | Opcode::Extents
        | Opcode::ExtentsReply
        | Opcode::Blocks
        | Opcode::BlocksReply
        | Opcode::Medium
        | Opcode::MediumReply
        | Opcode::FreeExtent
        | Opcode::ResyncReply
        | Opcode::Resolved => 0,
    };
    if parts.payload != payload || payload > FRAME_PAYLOAD_BYTES_MAX {
        return Err(WireError::PayloadLength { opcode, found: parts.payload, length: header.length });
    }
    if u32::from(parts.checksums) != payload.div_ceil(BLOCK_BYTES) {
        return Err(WireError::ChecksumCount { opcode, found: parts.checksums, payload });
    }
    let cache_ids_max = match opcode {
        Opcode::ReadReply | Opcode::BlockStatusReply | Opcode::WriteReply | Opcode::Flush | Opcode::FlushReply => 2,
        // One copy answers for itself.
        Opcode::ReplicateReply | Opcode::ReplicateFlushReply => 1,
        Opcode::Hello | Opcode::HelloReply | Opcode::Read | Opcode::Write | Opcode::WriteFragment | Opcode::Zero | Opcode::BlockStatus => 0,
        Opcode::Replicate | Opcode::ReplicateZero | Opcode::ReplicateFlush | Opcode::Beacon | Opcode::Grant => 0,
        Opcode::Extents | Opcode::ExtentsReply | Opcode::Blocks | Opcode::BlocksReply | Opcode::Medium | Opcode::MediumReply => 0,
        Opcode::Copy | Opcode::Settle | Opcode::FreeExtent | Opcode::ResyncReply | Opcode::Resolved => 0,
    };
    if parts.cache_ids > cache_ids_max {
        return Err(WireError::CacheIdCount { opcode, found: parts.cache_ids });
    }
    Ok(())
}

fn check_range(header: &Header) -> Result<(), WireError> {
    let (offset, length) = (header.offset, header.length);
    let whole_blocks = offset.is_multiple_of(BLOCK_BYTES) && length.is_multiple_of(BLOCK_BYTES);
    let inside = length > 0 && offset.checked_add(length).is_some_and(|end| end <= EXTENT_BYTES);
    let fine = match header.opcode {
        Opcode::Read | Opcode::Write | Opcode::Replicate | Opcode::Copy | Opcode::Medium => {
            inside && whole_blocks && length <= FRAME_PAYLOAD_BYTES_MAX
        }
        Opcode::Zero | Opcode::BlockStatus | Opcode::ReplicateZero => inside && whole_blocks,
        Opcode::WriteFragment => inside && length < BLOCK_BYTES && offset % BLOCK_BYTES + length <= BLOCK_BYTES,
        // An answer's range is its request's; what of it matters is held against the payload.
        Opcode::ReadReply | Opcode::WriteReply | Opcode::BlockStatusReply | Opcode::ReplicateReply => true,
        Opcode::Hello | Opcode::HelloReply | Opcode::Flush | Opcode::FlushReply => true,
        Opcode::ReplicateFlush | Opcode::ReplicateFlushReply | Opcode::Beacon | Opcode::Grant => true,
        Opcode::ExtentsReply => length.is_multiple_of(EXTENT_ENTRY_BYTES),
        Opcode::BlocksReply => length == 0 || length == BLOCKS_BYTES,
        Opcode::Extents | Opcode::Blocks | Opcode::MediumReply | Opcode::ResyncReply | Opcode::Resolved => true,
        Opcode::Settle | Opcode::FreeExtent => true,
    };
    if fine { Ok(()) } else { Err(WireError::Range { opcode: header.opcode, offset, length }) }
}

const fn flags_allowed(opcode: Opcode) -> Flags {
    match opcode {
        Opcode::Write | Opcode::WriteFragment | Opcode::Replicate => Flags::DURABLE,
        Opcode::Zero | Opcode::ReplicateZero => Flags::DURABLE.with(Flags::TRIM),
        Opcode::ReadReply => Flags::ALL_ZERO,
        Opcode::Hello
        | Opcode::HelloReply
        | Opcode::Read
        | Opcode::WriteReply
        | Opcode::Flush
        | Opcode::FlushReply
        | Opcode::BlockStatus
        | Opcode::BlockStatusReply
        | Opcode::ReplicateReply
        | Opcode::ReplicateFlush
        | Opcode::ReplicateFlushReply
        | Opcode::Beacon
        | Opcode::Grant
        | Opcode::Extents
        | Opcode::ExtentsReply
        | Opcode::Blocks
        | Opcode::BlocksReply
        | Opcode::Medium
        | Opcode::MediumReply
        | Opcode::Copy
        | Opcode::Settle
        | Opcode::FreeExtent
        | Opcode::ResyncReply
        | Opcode::Resolved => Flags::NONE,
    }
}

const fn is_request(opcode: Opcode) -> bool {
    match opcode {
        Opcode::Hello | Opcode::Read | Opcode::Write | Opcode::WriteFragment | Opcode::Zero | Opcode::Flush | Opcode::BlockStatus => true,
        Opcode::Replicate | Opcode::ReplicateZero | Opcode::ReplicateFlush | Opcode::Beacon => true,
        Opcode::Extents | Opcode::Blocks | Opcode::Medium | Opcode::Copy | Opcode::Settle | Opcode::FreeExtent | Opcode::Resolved => true,
        Opcode::HelloReply | Opcode::ReadReply | Opcode::WriteReply | Opcode::FlushReply | Opcode::BlockStatusReply => false,
        Opcode::ReplicateReply | Opcode::ReplicateFlushReply | Opcode::Grant => false,
        Opcode::ExtentsReply | Opcode::BlocksReply | Opcode::MediumReply | Opcode::ResyncReply => false,
    }
}
