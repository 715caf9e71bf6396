//! Behaviour of a connection, by the specification's chapters.

mod bounds;
mod handshake;
mod properties;
mod rig;
mod transmission;
