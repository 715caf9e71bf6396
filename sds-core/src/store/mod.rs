//! One device: the extent store. Knows no epoch rule, no peer, no session.
//!
//! In-place 4 KiB data, external checksums, one record log. See `docs/on-disk-format.md`.

pub mod interface;
