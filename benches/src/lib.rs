//! sds-benches
