//! The protocol model: one shard, the MDM as a compare-and-swap register, three data servers, two clients.
//!
//! It calls the rules of `sds_core::protocol` and explores, with stateright, every order of events within the bounds of a
//! [`scenario`]. With all [`rule`]s on no property may fail; with any one of them off some scenario must show a
//! counterexample. `docs/model.md` says what is modelled and what is not.
//!
//! What this must not know: frames, disks, machines. It holds no rule of its own that the core lacks.
#![forbid(unsafe_code)]

mod change;
mod client;
pub mod copy;
mod fault;
pub mod model;
pub mod monitor;
pub mod rule;
pub mod run;
pub mod scenario;
mod serve;
pub mod state;
pub mod table;
mod tell;
