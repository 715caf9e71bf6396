//! The side-by-side measurement of this project and its peers: same machine, same run, alternately.
//!
//! Absolute figures drift on a shared machine, so the unit of the result is the *pairwise ratio*: within
//! each round every system runs the same job right after the others, and what is quoted is the median
//! over the rounds of each system's figure divided by the baseline's of the same round.
//!
//! What this package must not know: anything about a system under test that its users cannot see.

pub mod counters;
pub mod daemon;
pub mod error;
pub mod fio;
pub mod goals;
pub mod host;
pub mod measure;
pub mod network;
pub mod ours;
pub mod plot;
pub mod port;
pub mod report;
pub mod statistics;
pub mod system;
pub mod usage;
pub mod workload;
pub mod writes;
