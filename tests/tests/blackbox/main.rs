//! Black-box tests: the real daemons as processes, real sockets, real files opened with O_DIRECT, and
//! clients that nobody here wrote.
//!
//! Nothing here knows how the store works; what is checked is what users and operators see. A test
//! whose tools are missing fails and says which (those of `namespaces` are skipped, by name, with `SDS_CI_ALLOW_SKIPS=1`). Binaries come from `SDS_BIN_DIR`, else from the
//! build directory this test was built in (`cargo build --workspace` first).

mod bad_commands;
mod bad_configuration;
mod bad_requests;
mod block_devices;
mod clients;
mod copies;
mod corruption;
mod filesystems;
mod full_pool;
mod harness;
mod kills;
mod lifecycle;
mod namespaces;
mod swapped_devices;
mod up;
mod verifier;
