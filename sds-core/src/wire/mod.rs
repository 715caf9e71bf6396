//! The data protocol between clients and data servers, and between data servers.
//!
//! One fixed little-endian header, the payload's block checksums, cache ids, the payload; no serde, no
//! allocation. Decoding is total: any bytes give a frame's head or a typed error.
//! The table of bytes and its reasons: `docs/wire-protocol.md`.

mod decode;
mod encode;
mod error;
pub mod frame;
pub mod header;
pub mod hello;
mod layout;
mod shape;

pub use decode::{DecodedHead, decode_head};
pub use encode::{HeadBytes, encode_head};
pub use error::WireError;
pub use frame::{Body, Frame};
pub use header::{CacheId, CacheIds, Flags, HEADER_BYTES, Header, Opcode, PROTOCOL_VERSION};
pub use hello::{Hello, Party};
pub use layout::{HEAD_BYTES_MAX, HELLO_BYTES, MAGIC};
pub use shape::BLOCK_STATUS_BYTES;
