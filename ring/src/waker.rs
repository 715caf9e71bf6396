//! What other threads may do to a loop: wake a role, and read how it is.
//!
//! Invariant: a wake that happens after a role looked at its queue is seen by the role's next turn.

use crate::error::RingError;
use crate::role::RoleIndex;
use sds_core::unit::Nanos;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Shared {
    eventfd: OwnedFd,
    /// A bit for each role that was woken and has not been told.
    roles: AtomicU64,
    turns: AtomicU64,
    /// Start of the oldest disk request in flight, `u64::MAX` for none.
    oldest_disk_request: AtomicU64,
}

impl Shared {
    pub(crate) fn new() -> Result<Arc<Self>, RingError> {
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let eventfd = rustix::event::eventfd(0, flags).map_err(|error| RingError::system("eventfd", error))?;
        Ok(Arc::new(Self { eventfd, roles: AtomicU64::new(0), turns: AtomicU64::new(0), oldest_disk_request: AtomicU64::new(u64::MAX) }))
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Takes the roles that were woken.
    pub(crate) fn take_roles(&self) -> u64 {
        self.roles.swap(0, Ordering::AcqRel)
    }

    pub(crate) fn publish(&self, turns: u64, oldest: Option<Nanos>) {
        self.turns.store(turns, Ordering::Relaxed);
        self.oldest_disk_request.store(oldest.map_or(u64::MAX, Nanos::get), Ordering::Relaxed);
    }

    fn wake(&self, role: RoleIndex) {
        // Only the first of several wakes costs a system call: the loop takes all bits after it has read the eventfd.
        if self.roles.fetch_or(1 << role.get(), Ordering::AcqRel) == 0 {
            // It can only fail when the counter is at its end, and then the loop is awake anyway.
            let _ = rustix::io::write(self.eventfd.as_fd(), &1_u64.to_ne_bytes());
        }
    }
}

/// Wakes one role of a loop from another thread.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
    role: RoleIndex,
}

impl Waker {
    pub(crate) const fn new(shared: Arc<Shared>, role: RoleIndex) -> Self {
        Self { shared, role }
    }

    /// The role gets [`crate::Wake::Notified`] in a turn that begins after this call. Cheap to repeat.
    pub fn wake(&self) {
        self.shared.wake(self.role);
    }

    /// How the loop is doing.
    #[must_use]
    pub fn status(&self) -> LoopStatus {
        LoopStatus::new(self.shared.clone())
    }
}

/// Signs of life of a loop, for heartbeats.
#[derive(Clone, Debug)]
pub struct LoopStatus {
    shared: Arc<Shared>,
}

impl LoopStatus {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Turns made so far. A loop with nothing to do makes none: compare after a wake.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// Age of the oldest disk request in flight; zero for none.
    #[must_use]
    pub fn oldest_disk_request(&self) -> Nanos {
        match self.shared.oldest_disk_request.load(Ordering::Relaxed) {
            u64::MAX => Nanos::ZERO,
            start => crate::clock::now().since(Nanos::new(start)),
        }
    }
}
