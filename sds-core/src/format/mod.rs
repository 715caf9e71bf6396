//! What is on a device, byte by byte: pure encoders and total decoders, one file per kind of block.
//!
//! Invariant: any 4 KiB give a value or a typed [`BlockFault`], never a panic; a checksum covers the
//! block's kind, its device and its location, so a misdirected block is as bad as a damaged one.
//! What this must not know: when a block is written or why. See `docs/on-disk-format.md`.

pub mod block;
pub mod descriptor;
pub mod geometry;
pub mod index_page;
pub mod log_block;
pub mod record;
pub mod superblock;

pub use block::BlockFault;
pub use geometry::Geometry;
