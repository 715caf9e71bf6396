//! sdsctl
