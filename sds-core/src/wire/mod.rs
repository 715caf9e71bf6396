//! The data protocol between clients and data servers (and, later, between data servers).
//!
//! One fixed little-endian header, the payload's block checksums, cache ids, the payload; no serde.
//! Decoding is total: any bytes give a [`Frame`] (or a [`Hello`]) or a typed error.

pub mod frame;
pub mod header;
pub mod hello;

pub use frame::{Body, Frame};
pub use header::{CacheId, CacheIds, Flags, Header, Opcode};
pub use hello::Hello;
