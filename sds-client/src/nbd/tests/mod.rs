//! Behaviour of a connection, by the specification's chapters.
