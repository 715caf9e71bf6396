//! Why a loop cannot be made or cannot go on, each with its cause and the way out.

use crate::address::Address;
use std::io;

/// What went wrong outside of single requests.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `io_uring_setup` is not there.
    #[error(
        "this kernel or container profile offers no io_uring (ENOSYS): Linux 5.19 or newer is needed, and a seccomp profile must \
         allow io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Missing,
    /// The sysctl forbids it.
    #[error(
        "io_uring is switched off by kernel.io_uring_disabled = {value}: run `sysctl -w kernel.io_uring_disabled=0` (with 1, \
         being root or in the group of kernel.io_uring_group is enough)"
    )]
    Disabled {
        /// What the sysctl says.
        value: u8,
    },
    /// A security profile forbids it.
    #[error(
        "io_uring is forbidden by a security profile (EPERM, and kernel.io_uring_disabled allows it): allow io_uring_setup, \
         io_uring_enter and io_uring_register in the container's seccomp profile (docker: --security-opt seccomp=PROFILE.json), \
         or in the SELinux/AppArmor policy"
    )]
    Profile,
    /// The limit on locked memory is too small for the ring itself.
    #[error(
        "the limit on locked memory (RLIMIT_MEMLOCK, {limit} bytes) is too small for an io_uring (ENOMEM): raise it with \
         `ulimit -l`, LimitMEMLOCK= in the systemd unit, or docker --ulimit memlock=-1"
    )]
    Memlock {
        /// The limit now.
        limit: u64,
    },
    /// An operation is missing.
    #[error("this kernel's io_uring cannot {operation}: Linux 5.19 or newer is needed")]
    TooOld {
        /// What it cannot do.
        operation: &'static str,
    },
    /// The memory for payloads cannot be had.
    #[error("cannot get {bytes} bytes of memory for buffers: {source}; lower the memory setting")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pool is too small to make progress with.
    #[error("{bytes} bytes of buffer memory are too few; at least {minimum} are needed")]
    PoolTooSmall {
        /// What was asked for.
        bytes: usize,
        /// The least that works.
        minimum: usize,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// More of something than the loop has room for.
    #[error("the loop has room for {limit} {what} only")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many fit.
        limit: usize,
    },
    /// Any other system call.
    #[error("{call} failed: {source}")]
    System {
        /// Which.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl RingError {
    /// A system call's failure.
    pub(crate) fn system(call: &'static str, source: impl Into<io::Error>) -> Self {
        Self::System { call, source: source.into() }
    }
}
