//! The metadata manager: committed commands in, state and events out. No clock: time comes inside commands.
