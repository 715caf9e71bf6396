//! Every decoder of bytes that others made, as a function that any bytes can be thrown at.
//!
//! A target decodes and then holds the value against what the decoder promises: that it is total, asks for no more
//! memory than the input's length justifies, and that a decoded value encodes to bytes that give it back. A broken
//! promise is a panic. The same table serves the engine (`ci/fuzz`, `src/bin/target.rs`), the test that replays
//! the committed corpus, and the program that writes its seeds.
//!
//! What this crate must not know: how inputs come about.

pub mod control;
pub mod disk;
pub mod memory;
pub mod metadata;
pub mod nbd;
pub mod seed;
pub mod text;
pub mod wire;

/// Everything this crate allocates is counted; [`memory`] reads the counter.
#[global_allocator]
static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// One decoder, or a family that shares its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of its directory in `fuzz/corpus`.
    pub name: &'static str,
    /// Panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to start from, made by the real encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "wire", run: wire::head, seeds: seed::wire },
    Target { name: "exchange", run: wire::exchange, seeds: seed::exchange },
    Target { name: "superblock", run: disk::superblock, seeds: seed::superblock },
    Target { name: "log_block", run: disk::log_block, seeds: seed::log_block },
    Target { name: "index_page", run: disk::index_page, seeds: seed::index_page },
    Target { name: "descriptor", run: disk::descriptor, seeds: seed::descriptor },
    Target { name: "control_sds", run: control::sds, seeds: seed::control_sds },
    Target { name: "control_client", run: control::client, seeds: seed::control_client },
    Target { name: "command", run: metadata::command, seeds: seed::command },
    Target { name: "snapshot", run: metadata::snapshot, seeds: seed::snapshot },
    Target { name: "nbd_option", run: nbd::option, seeds: seed::nbd_option },
    Target { name: "nbd_request", run: nbd::request, seeds: seed::nbd_request },
    Target { name: "nbd_connection", run: nbd::connection, seeds: seed::nbd_connection },
    Target { name: "config_sds", run: text::config_sds, seeds: seed::config_sds },
    Target { name: "config_mdm", run: text::config_mdm, seeds: seed::config_mdm },
    Target { name: "rest", run: text::rest, seeds: seed::rest },
    Target { name: "values", run: text::values, seeds: seed::values },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
