//! One storage node: shard table, sessions, range locks; drives one [`crate::store`] a device.

pub mod interface;
pub mod status;

use crate::buffer::Buffers;
use crate::machine::Outbox;
use crate::unit::Nanos;
use interface::{Effect, Input, ReplicaOptions};
pub use status::{DeviceStatus, NodeStatus};

/// A storage node.
#[derive(Debug)]
pub struct Replica {
    options: ReplicaOptions,
}

impl Replica {
    /// A node without devices.
    #[must_use]
    pub fn new(options: ReplicaOptions) -> Self {
        Self { options }
    }

    /// The one entry; see [`crate::machine`].
    pub fn step(&mut self, now: Nanos, input: Input<'_>, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        let _ = (now, input, buffers, out, &self.options);
    }

    /// When [`Input::Wake`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// The devices, by slot. Allocates: for heartbeats and registration, not for I/O.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceStatus> {
        Vec::new()
    }

    /// The node.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus::default()
    }
}
