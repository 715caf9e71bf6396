//! Starting, watching and killing what is under test.

pub(crate) mod cluster;
pub(crate) mod daemon;
pub(crate) mod hosts;
pub(crate) mod load;
pub(crate) mod nbd;
pub(crate) mod place;
pub(crate) mod tools;
