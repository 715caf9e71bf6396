//! A data server: the shell around [`sds_core::replica::Replica`].
//!
//! It opens devices, listens for clients, keeps the control connection to the MDM, and moves bytes;
//! the machine decides. Two ways to embed it: [`Node::start`] runs one on threads of its own;
//! [`Prepared`] gives a [`SdsRole`] to put on a loop shared with others (`sdsctl up`).
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = sds_server::NodeConfig::from_toml(r#"
//!     state_dir = "/var/lib/sds"
//!     mdm = ["127.0.0.1:9700"]
//!     [[device]]
//!     path = "/var/lib/sds/device0"
//!     size = "16 GiB"
//! "#)?;
//! let node = sds_server::Node::start(config)?;
//! println!("serving on {}", node.address());
//! node.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! What this crate must not know: epochs, sequences, sessions (an `if` about one of them here is a
//! bug); clients' and the MDM's insides.

pub mod config;
mod control;
pub mod device;
mod identity;
mod node;
mod report;
mod role;

pub use config::{ConfigError, DeviceConfig, FormatPolicy, NodeConfig, Size};
pub use device::DeviceError;
pub use identity::IdentityError;
pub use node::{Node, NodeError, NodeShell, NodeState, Prepared};
pub use role::SdsRole;
