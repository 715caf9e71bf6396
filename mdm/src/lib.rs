//! The metadata manager around the `cluster` machine of `sds-core`: its log, its sockets, its API.
//!
//! It embeds as a library: [`Mdm::start`] gives an [`Mdm`] with its addresses, an [`Api`] and an end.
//! The program `mdm` is this and a command line.
//!
//! ```no_run
//! let config = mdm::MdmConfig::new("/var/lib/sds/mdm");
//! let mdm = mdm::Mdm::start(config)?;
//! println!("data servers and clients: {}, operators: http://{}", mdm.control_address(), mdm.api_address());
//! mdm.stop()?;
//! # Ok::<(), mdm::MdmError>(())
//! ```
//!
//! Layering: [`log`] makes commands durable and orders them; `member` feeds them, and what the sockets
//! bring, to the leader machine and carries out what it wants; `control` and `rest` are the sockets.
//! No decision is made here: an `if` about epochs, sessions or health belongs into `sds_core::cluster`.

pub mod config;
pub mod log;
pub mod rest;

mod control;
mod events;
mod mdm;
mod member;

pub use config::{ConfigError, MdmConfig};
pub use mdm::{Mdm, MdmError};
pub use member::Api;
