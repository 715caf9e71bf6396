//! sds-client
