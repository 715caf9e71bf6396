//! One storage node: shard table, sessions, range locks; drives one [`crate::store`] a device.

pub mod interface;
