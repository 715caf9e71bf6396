//! The only part of the system that touches the kernel on the data path, and the only one with `unsafe`.
//!
//! One thread, one io_uring, one [`Loop`]: it owns the memory of all payloads ([`BufferPool`]), the
//! disks, the sockets and the links between the [`Role`]s that live on it (a data server, a client).
//! Roles drive the machines of `sds_core` and hand their effects to a [`Turn`]; they see no file
//! descriptor, no raw pointer and no completion queue.
//!
//! Invariants: no buffer is used again before the last disk or socket request that refers to it has
//! completed, however its connection ended; every queue and all memory are bounded when the loop is
//! made; one `io_uring_enter` a turn; nothing is allocated per request in steady state.
//!
//! What this crate must not know: epochs, sessions, volumes, NBD.
#![expect(unsafe_code, reason = "this crate is where the kernel's memory contract is kept; each block says how")]

pub mod address;
pub mod clock;
pub mod error;
pub mod limits;
pub mod pool;
pub mod role;
pub mod runner;

mod disk;
mod reactor;
mod region;
mod ring;
mod spin;
mod stream;
mod tag;
mod waker;

pub use address::Address;
pub use disk::DiskId;
pub use error::RingError;
pub use pool::{BufferPool, PoolOptions};
pub use reactor::{ListenerId, Loop, LoopOptions, Turn};
pub use ring::Features;
pub use role::{Closed, LinkEvent, Protocol, Role, RoleIndex, StreamEvent, StreamId, Wake};
pub use runner::{LoopThread, spawn};
pub use spin::SpinPolicy;
pub use stream::Payload;
pub use waker::{LoopStatus, Waker};
