//! The simulator: the whole store in one thread, from one seed.
//!
//! It drives the machines of `sds-core` that the daemons run, unchanged, with a virtual clock, a
//! seeded network and seeded disks, and checks what the clients saw. `docs/simulation.md` tells how
//! to use it.
//!
//! Must not know: any rule of the protocol. The simulator delivers, delays, loses and damages; what
//! follows from it is the machines' business, and whether it was right is the checkers'.
#![forbid(unsafe_code)]

pub mod atlas;
pub mod autopsy;
pub mod buffers;
pub mod canary;
pub mod checker;
pub mod disk;
pub mod history;
pub mod marks;
pub mod mdm;
pub mod network;
pub mod pattern;
pub mod pipe;
pub mod plan;
pub mod prng;
pub mod retell;
pub mod run;
pub mod schedule;
pub mod seed_file;
pub mod shrink;
pub mod trace;
pub mod workload;
pub mod world;
