//! The client machine against data servers that a test plays by hand, frame by frame.
#![expect(clippy::cast_possible_truncation, reason = "small numbers")]

mod bounds;
mod failover;
mod flush;
mod links;
mod order;
mod patience;
mod retry;
mod routing;
mod sessions;
mod silence;
mod world;
