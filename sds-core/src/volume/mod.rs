//! One client: splits, routes, retries and fences the I/O of its volumes.

pub mod interface;
