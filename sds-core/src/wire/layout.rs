//! The bytes of a head as structs; the table with the reasons is in `docs/wire-protocol.md`.
//!
//! Invariant: little-endian, no padding, sizes held at compile time.

use super::header::HEADER_BYTES;
use crate::limits::FRAME_BLOCKS_MAX;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"SDS1";
/// Bytes of a checksum.
pub(super) const CHECKSUM_BYTES: usize = 4;
/// Bytes of a cache id: device (4), boot (8).
pub(super) const CACHE_ID_BYTES: usize = 12;
/// Bytes of a hello.
pub const HELLO_BYTES: usize = 56;
/// Most bytes a frame can have before its payload.
pub const HEAD_BYTES_MAX: usize = HEADER_BYTES + FRAME_BLOCKS_MAX as usize * CHECKSUM_BYTES + 2 * CACHE_ID_BYTES;
/// Bytes of the header that its checksum covers.
pub(super) const HEADER_COVERED_BYTES: usize = HEADER_BYTES - CHECKSUM_BYTES;

const _: () = {
    assert!(size_of::<RawHeader>() == HEADER_BYTES);
    assert!(size_of::<RawHello>() == HELLO_BYTES);
    assert!(HEADER_BYTES + HELLO_BYTES <= HEAD_BYTES_MAX, "a hello stands where checksums and cache ids would");
    assert!(HEAD_BYTES_MAX == 256, "four cache lines; shells keep one such area a frame");
};

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 4],
    pub(super) version: u8,
    pub(super) opcode: u8,
    pub(super) flags: U16,
    pub(super) connection: U64,
    pub(super) request: U64,
    pub(super) generation: U64,
    pub(super) volume: U32,
    pub(super) layer: U32,
    pub(super) extent: U32,
    pub(super) offset: U32,
    pub(super) length: U32,
    pub(super) epoch: U32,
    pub(super) sequence: U64,
    pub(super) resolved: U64,
    pub(super) map_version: U64,
    pub(super) shard: U32,
    pub(super) device: U32,
    pub(super) payload: U32,
    pub(super) status: U16,
    pub(super) checksums: u8,
    pub(super) cache_ids: u8,
    pub(super) tail_checksum: U32,
    pub(super) header_checksum: U32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHello {
    pub(super) version_min: u8,
    pub(super) version_max: u8,
    pub(super) kind: u8,
    pub(super) reserved: [u8; 5],
    pub(super) system: U128,
    /// Client id; of a peer its incarnation (low half) and the one it addresses (high half).
    pub(super) party: U128,
    /// Ticket; of a peer its server id, below 2^32.
    pub(super) proof: U128,
}

pub(super) const HELLO_KIND_CLIENT: u8 = 1;
pub(super) const HELLO_KIND_PEER: u8 = 2;
