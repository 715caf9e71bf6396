//! sds-client

pub mod nbd;
