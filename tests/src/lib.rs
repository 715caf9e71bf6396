//! sds-tests
