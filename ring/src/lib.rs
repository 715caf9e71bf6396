//! sds-ring
