//! The rules by which two copies of a shard stay one: pure decisions, each written once.
//!
//! The machines call these functions and so does the protocol model (package `sds-model`), which switches
//! one rule off at a time and shows what breaks; `docs/model.md` has the table. So a rule is changed here,
//! and then the model says whether the protocol still holds. What each file decides:
//!
//! - [`fence`] (I3, I10): what a receiver does with a frame of another epoch, incarnation, session generation or
//!   connection; from which map on an epoch may be served.
//! - [`membership`] (I1, I4, I6, I7, I13): what the MDM commits, and who may ask for what.
//! - [`acknowledge`] (I2, I4, I5): whose copies an acknowledgement waits for; what FLUSH may claim.
//! - [`lease`] (I9): from when to when a primary may answer reads.
//! - [`resync`] (I4, I8): what a joiner is given, and when it may be proposed.
//! - [`settle`] (I8, I12): which bytes of a block win when copies meet after a crash.
//!
//! What this must not know: frames, links, disks, queues; how anybody learnt what is passed in.

pub mod acknowledge;
pub mod fence;
pub mod lease;
pub mod membership;
pub mod resync;
pub mod settle;
