//! Why bytes are not a frame.
//!
//! Invariant: each variant keeps its meaning; any of them ends the connection, since the place of the
//! next frame is no longer known (or its sender does not keep to the protocol).

use super::header::Opcode;

/// Why bytes are not a frame of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The first bytes are not the magic: something else talks to this port.
    #[error("not a frame: it starts with {found:02x?} instead of \"SDS1\"")]
    Magic {
        /// The first four bytes; zero where they have not come.
        found: [u8; 4],
    },
    /// The header's checksum does not match: it was damaged, or the stream is out of step.
    #[error("frame header is damaged: checksum {found:#010x} instead of {expected:#010x}")]
    HeaderChecksum {
        /// In the header.
        expected: u32,
        /// Of its bytes.
        found: u32,
    },
    /// A protocol version that was not agreed on.
    #[error("frame of protocol version {found}; this side speaks {}", super::header::PROTOCOL_VERSION)]
    Version {
        /// In the header.
        found: u8,
    },
    /// An opcode without a meaning.
    #[error("unknown opcode {found}")]
    Opcode {
        /// In the header.
        found: u8,
    },
    /// A flag without a meaning, or one that this opcode does not take.
    #[error("flags {found:#06x} do not go with {opcode:?}")]
    Flags {
        /// In the header.
        opcode: Opcode,
        /// In the header.
        found: u16,
    },
    /// A status without a meaning, or not Ok in a request.
    #[error("status {found} does not go with {opcode:?}")]
    Status {
        /// In the header.
        opcode: Opcode,
        /// In the header.
        found: u16,
    },
    /// More checksums than a frame may carry, or not as many as its payload has blocks.
    #[error("{found} checksums for a payload of {payload} bytes in {opcode:?}")]
    ChecksumCount {
        /// In the header.
        opcode: Opcode,
        /// In the header.
        found: u8,
        /// In the header.
        payload: u32,
    },
    /// More cache ids than there are copies, or some where none belong.
    #[error("{found} cache ids do not go with {opcode:?}")]
    CacheIdCount {
        /// In the header.
        opcode: Opcode,
        /// In the header.
        found: u8,
    },
    /// A payload longer than a frame may carry, or not of the length its opcode calls for.
    #[error("payload of {found} bytes does not go with {opcode:?} of {length} bytes")]
    PayloadLength {
        /// In the header.
        opcode: Opcode,
        /// In the header.
        found: u32,
        /// Bytes asked for or written, in the header.
        length: u32,
    },
    /// A range that is empty, too long, misaligned or leaves its extent.
    #[error("range of {length} bytes at byte {offset} of an extent does not go with {opcode:?}")]
    Range {
        /// In the header.
        opcode: Opcode,
        /// In the header.
        offset: u32,
        /// In the header.
        length: u32,
    },
    /// What stands between header and payload (checksums, cache ids, hello) was damaged.
    #[error("checksums, cache ids or hello of a frame are damaged: checksum {found:#010x} instead of {expected:#010x}")]
    TailChecksum {
        /// In the header.
        expected: u32,
        /// Of the bytes.
        found: u32,
    },
    /// A hello that names neither a client nor a peer, or has reserved bits set.
    #[error("hello of party kind {kind} with reserved bytes {reserved:02x?}")]
    Hello {
        /// In the hello.
        kind: u8,
        /// In the hello.
        reserved: [u8; 5],
    },
    /// A body that its opcode does not have (only when a frame is made, never when one is decoded).
    #[error("{opcode:?} does not have such a body")]
    Body {
        /// Of the frame.
        opcode: Opcode,
    },
}
