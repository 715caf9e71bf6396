//! The deterministic core of the block store.
//!
//! Everything that decides lives here and nothing that touches the world: no I/O, no clock, no
//! threads, no `async`, no `unsafe`, no randomly seeded hasher. Four machines carry every decision:
//! [`store`] (one device), [`replica`] (one storage node), [`volume`] (one client) and [`cluster`]
//! (the metadata manager). Each is a function `step(now, input, buffers, out)`; shells move the bytes.
//!
//! What this crate must not know: sockets, files, io_uring, tokio, NBD, REST.
#![forbid(unsafe_code)]

pub mod buffer;
pub mod bugs;
pub mod checksum;
pub mod cluster;
pub mod codec;
pub mod collections;
pub mod control;
pub mod error;
pub mod exchange;
pub mod format;
pub mod id;
pub mod limits;
pub mod machine;
pub mod map;
pub mod placement;
pub mod protocol;
pub mod replica;
pub mod shard;
pub mod store;
pub mod stripe;
pub mod unit;
pub mod view;
pub mod volume;
pub mod wire;
