//! The loop: one thread, one io_uring, its memory, its roles.
//!
//! A turn: reap completions → deliver → hand messages between roles until quiet → deadlines → end of
//! turn → submit everything and sleep until a completion or a deadline, in one `io_uring_enter`.
//!
//! Invariants: a role is called with one event at a time; what a role submits in a turn is submitted
//! together; memory is dropped only when no request that names it is in flight.

mod core;
mod deliver;
mod endpoints;
mod turn;

use self::core::Core;
use crate::error::RingError;
use crate::limits::{COMPLETIONS_PER_TURN, ROLES_MAX};
use crate::pool::{BufferPool, PoolOptions};
use crate::ring::{Completion, Features};
use crate::role::{Role, RoleIndex, Wake};
use crate::spin::{SpinPolicy, Spinner};
use crate::waker::{LoopStatus, Shared, Waker};
use sds_core::unit::Nanos;
use std::mem::ManuallyDrop;
use std::sync::Arc;

pub use turn::{ListenerId, Turn};

/// How a loop is made.
#[derive(Clone, Debug)]
pub struct LoopOptions {
    /// Memory of payloads.
    pub pool: PoolOptions,
    /// Most streams at once, in and out, sockets and local links.
    pub streams_max: usize,
    /// How long to look for completions before sleeping.
    pub spin: SpinPolicy,
    /// Use kernel features that are not necessary (off: for tests, and to rule them out in the field).
    pub optional_features: bool,
}

impl Default for LoopOptions {
    fn default() -> Self {
        Self { pool: PoolOptions::default(), streams_max: 1024, spin: SpinPolicy::default(), optional_features: true }
    }
}

/// A loop and what lives on it. Made, run and dropped on one thread.
#[derive(Debug)]
pub struct Loop {
    /// Dropped only when nothing is in flight, else leaked: the kernel would write into it.
    core: ManuallyDrop<Core>,
    roles: Roles,
    shared: Arc<Shared>,
    spinner: Spinner,
    turns: u64,
    /// Roles that have ended, a bit each.
    retired: u64,
    completions: Vec<Completion>,
}

#[derive(Default)]
struct Roles(Vec<Box<dyn Role>>);

impl std::fmt::Debug for Roles {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} roles", self.0.len())
    }
}

/// Rounds of messages between roles before disks and sockets get their turn again.
const ROUNDS_PER_TURN: usize = 8;

impl Loop {
    /// A loop without roles, on the calling thread.
    ///
    /// # Errors
    /// When the kernel or a profile forbids io_uring, or memory cannot be had; the text names the way out.
    pub fn new(options: &LoopOptions) -> Result<Self, RingError> {
        let shared = Shared::new()?;
        let pool = BufferPool::new(&options.pool)?;
        let core = Core::new(options, pool, shared.clone())?;
        Ok(Self {
            core: ManuallyDrop::new(core),
            roles: Roles::default(),
            shared,
            spinner: Spinner::new(options.spin),
            turns: 0,
            retired: 0,
            completions: Vec::with_capacity(COMPLETIONS_PER_TURN),
        })
    }

    /// Puts a role on the loop. `make` gets the waker for the role's other threads.
    ///
    /// # Errors
    /// When there are as many as fit.
    pub fn add_role<R: Role + 'static>(&mut self, make: impl FnOnce(Waker) -> R) -> Result<RoleIndex, RingError> {
        let index = RoleIndex::new(self.roles.0.len());
        if index.get() >= ROLES_MAX {
            return Err(RingError::TooMany { what: "roles", limit: ROLES_MAX });
        }
        self.roles.0.push(Box::new(make(Waker::new(self.shared.clone(), index))));
        Ok(index)
    }

    /// What the kernel gave.
    #[must_use]
    pub fn features(&self) -> Features {
        self.core.ring.features()
    }

    /// Signs of life, for other threads.
    #[must_use]
    pub fn status(&self) -> LoopStatus {
        LoopStatus::new(self.shared.clone())
    }

    /// Runs until every role has stopped.
    ///
    /// # Errors
    /// When the ring itself fails; single requests fail to their roles.
    pub fn run(mut self) -> Result<(), RingError> {
        self.core.now = crate::clock::now();
        self.core.watch_wakes();
        for index in 0..self.roles.0.len() {
            let (role, mut turn) = self.role(RoleIndex::new(index));
            role.start(&mut turn);
        }
        loop {
            self.turn();
            if let Some(fault) = self.core.fault.take() {
                return Err(fault);
            }
            if self.retire_stopped() {
                return Ok(());
            }
            self.wait()?;
        }
    }

    fn role(&mut self, index: RoleIndex) -> (&mut dyn Role, Turn<'_>) {
        (self.roles.0[index.get()].as_mut(), Turn::new(&mut self.core, index))
    }

    /// Takes from roles that have ended what they had; `true` if none is left.
    fn retire_stopped(&mut self) -> bool {
        let mut all = true;
        for (index, role) in self.roles.0.iter().enumerate() {
            let stopped = role.stopped();
            all &= stopped;
            if stopped && self.retired & (1 << index) == 0 {
                self.retired |= 1 << index;
                self.core.retire(RoleIndex::new(index));
            }
        }
        all
    }

    /// Everything between two waits.
    fn turn(&mut self) {
        self.core.now = crate::clock::now();
        let mut completions = std::mem::take(&mut self.completions);
        self.core.ring.reap(&mut completions, COMPLETIONS_PER_TURN);
        for completion in completions.drain(..) {
            self.dispatch(completion);
        }
        self.completions = completions;
        self.deliver_all();
        if self.core.pool.take_relief() {
            self.core.retry_starved();
            self.wake_all(Wake::Buffers);
        }
        self.deadlines();
        for _ in 0..ROUNDS_PER_TURN {
            self.deliver_all();
            for index in 0..self.roles.0.len() {
                let (role, mut turn) = self.role(RoleIndex::new(index));
                role.end_of_turn(&mut turn);
            }
            if self.core.is_quiet() {
                break;
            }
        }
        self.core.begin_dirty();
        self.turns += 1;
        self.shared.publish(self.turns, self.core.requests.oldest());
    }

    fn wake_all(&mut self, wake: Wake) {
        for index in 0..self.roles.0.len() {
            let (role, mut turn) = self.role(RoleIndex::new(index));
            role.on_wake(&mut turn, wake);
        }
    }

    fn deadlines(&mut self) {
        let now = self.core.now;
        self.core.expire();
        for index in 0..self.roles.0.len() {
            if self.roles.0[index].deadline().is_some_and(|deadline| deadline <= now) {
                let (role, mut turn) = self.role(RoleIndex::new(index));
                role.on_wake(&mut turn, Wake::Deadline);
            }
        }
    }

    /// Submits, then waits for a completion or the next deadline.
    fn wait(&mut self) -> Result<(), RingError> {
        let core = &mut *self.core;
        if !core.is_quiet() || core.pool.has_relief() || core.ring.has_completions() {
            return core.ring.submit_if_needed();
        }
        let next = self.roles.0.iter().filter_map(|role| role.deadline()).chain(core.next_expiry()).min();
        let before = crate::clock::now();
        let timeout = next.map(|deadline| deadline.since(before));
        if timeout == Some(Nanos::ZERO) {
            return core.ring.submit();
        }
        if let Some(budget) = self.spinner.budget() {
            core.ring.submit_if_needed()?;
            let end = before.plus(timeout.map_or(budget, |timeout| budget.min(timeout)));
            loop {
                if core.ring.has_completions() {
                    self.spinner.waited(crate::clock::now().since(before), true);
                    return core.ring.submit_if_needed();
                }
                if crate::clock::now() >= end {
                    break;
                }
                std::hint::spin_loop();
            }
            self.spinner.missed();
        }
        core.ring.submit_and_wait(timeout)?;
        self.spinner.waited(crate::clock::now().since(before), false);
        Ok(())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.core.drain();
        if self.core.ring.in_flight() == 0 {
            // SAFETY: dropped once, here, and not used again; no request is in flight, so the kernel names none of its memory.
            unsafe { ManuallyDrop::drop(&mut self.core) };
        } else {
            tracing::error!(in_flight = self.core.ring.in_flight(), "requests did not end; their memory is kept");
        }
    }
}
