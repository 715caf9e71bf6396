//! The client of the block store: volumes for programs, and for everybody else over NBD.
//!
//! ```no_run
//! use bytes::Bytes;
//! use sds_client::{Cluster, ClusterConfig, OpenOptions};
//!
//! # async fn example() -> Result<(), sds_client::Error> {
//! let cluster = Cluster::connect(ClusterConfig::new(["127.0.0.1:9700"])).await?;
//! let volume = cluster.open("demo", OpenOptions::new()).await?;
//! volume.write_at(4096, Bytes::from_static(b"any length, any alignment")).await?;
//! volume.flush().await?;
//! assert_eq!(&volume.read_at(4100, 6).await?[..], b"length");
//! volume.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything is decided by [`sds_core::volume::Client`]; this crate moves the bytes. One loop
//! ([`sds_ring::Loop`]) carries the connections to data servers, the NBD server and the requests of
//! programs; the conversation with the MDM runs on tokio. Layers, each knowing only the one below:
//! [`Volume`] and [`Cluster`] (handles) → commands → the role on the loop → the machine.
//!
//! What this crate must not know: what is on a device, how the MDM decides.

mod cluster;
mod command;
mod control;
mod error;
mod events;
mod identity;
mod library;
pub mod nbd;
mod role;
mod serve;
mod users;
mod volume;

pub use cluster::{Cluster, ClusterConfig, MEMORY_DEFAULT, OpenOptions, STOP_PATIENCE_DEFAULT, VolumeSummary};
pub use command::ClientStatus;
pub use error::Error;
pub use identity::{Identity, IdentityError};
pub use role::ClientRole;
pub use sds_core::view::SessionMode;
pub use sds_core::volume::{Stuck, WaitsFor};
pub use serve::{Exports, NBD_CONNECTIONS_DEFAULT, NbdOptions};
pub use volume::Volume;
