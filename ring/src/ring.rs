//! The io_uring itself: set-up with fallbacks, registered files and buffers, submit and wait.
//!
//! Invariants: entries are pushed only through `push`, whose caller keeps the entry's memory alive
//! until its completion; optional kernel features change the cost of a request, never its meaning.
//!
//! What this must not know: what the requests are for.

use crate::error::RingError;
use crate::limits::{COMPLETIONS, REGISTERED_FILES, SUBMISSIONS};
use crate::tag::Tag;
use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use sds_core::unit::Nanos;
use std::io;
use std::os::fd::RawFd;

/// What the kernel gave beyond the necessary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a list of independent facts")]
pub struct Features {
    /// SINGLE_ISSUER + DEFER_TASKRUN (Linux 6.1): completions run in our own wait only.
    pub deferred_taskrun: bool,
    /// A table of registered files.
    pub registered_files: bool,
    /// The buffer pool is registered; needs RLIMIT_MEMLOCK or CAP_IPC_LOCK.
    pub registered_buffers: bool,
    /// One accept request serves many connections (Linux 5.19).
    pub multishot_accept: bool,
}

/// A descriptor as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Plain(RawFd),
    Registered(u32),
}

/// Builds an entry for either kind of descriptor.
macro_rules! with_target {
    ($target:expr, |$fd:ident| $build:expr) => {
        match $target {
            $crate::ring::Target::Plain(raw) => {
                let $fd = io_uring::types::Fd(raw);
                $build
            }
            $crate::ring::Target::Registered(index) => {
                let $fd = io_uring::types::Fixed(index);
                $build
            }
        }
    };
}
pub(crate) use with_target;

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) user_data: u64,
    pub(crate) result: i32,
    pub(crate) flags: u32,
}

impl Completion {
    pub(crate) fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    pub(crate) fn socket_has_more(self) -> bool {
        cqueue::sock_nonempty(self.flags)
    }
}

/// Bytes of one registered buffer; the kernel takes at most 1 GiB in one.
const REGISTERED_PART_BYTES: usize = 1 << 30;

pub(crate) struct Ring {
    io: IoUring,
    features: Features,
    free_files: Vec<u32>,
    /// Entries pushed whose completion has not been seen (a multishot one counts once).
    in_flight: usize,
    enters: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ring").field("features", &self.features).field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring; `optional = false` does without every optional feature (for tests, and to rule them out in the field).
    pub(crate) fn new(optional: bool) -> Result<Self, RingError> {
        let (io, deferred_taskrun) = Self::build(optional)?;
        Self::check_operations(&io)?;
        let mut features = Features { deferred_taskrun, ..Features::default() };
        let mut free_files = Vec::new();
        if optional {
            features.registered_files = io.submitter().register_files_sparse(REGISTERED_FILES).is_ok();
            features.multishot_accept = io.params().is_feature_linked_file() || deferred_taskrun;
        }
        if features.registered_files {
            free_files.extend((0..REGISTERED_FILES).rev());
        }
        Ok(Self { io, features, free_files, in_flight: 0, enters: 0 })
    }

    fn build(optional: bool) -> Result<(IoUring, bool), RingError> {
        type Setup = fn(&mut io_uring::Builder);
        // Best first; an older kernel answers EINVAL to a flag it does not know.
        let ladder: [(Setup, bool); 3] = [
            (
                |builder| {
                    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
                },
                true,
            ),
            (
                |builder| {
                    builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
                },
                false,
            ),
            (|_| {}, false),
        ];
        let mut last = io::Error::from_raw_os_error(libc::EINVAL);
        for (setup, deferred) in &ladder[if optional { 0 } else { 2 }..] {
            let mut builder = IoUring::builder();
            builder.setup_clamp().setup_cqsize(COMPLETIONS).dontfork();
            setup(&mut builder);
            match builder.build(SUBMISSIONS) {
                Ok(io) => return Ok((io, *deferred)),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
                Err(error) => return Err(refusal(error)),
            }
        }
        Err(refusal(last))
    }

    fn check_operations(io: &IoUring) -> Result<(), RingError> {
        let mut probe = Probe::new();
        // A profile may forbid io_uring_register alone: then nothing is known, and a missing operation fails when it is used.
        let known = io.submitter().register_probe(&mut probe).is_ok();
        let needed = [
            (opcode::Read::CODE, "read files"),
            (opcode::Write::CODE, "write files"),
            (opcode::Fsync::CODE, "flush files"),
            (opcode::Accept::CODE, "accept connections"),
            (opcode::Recv::CODE, "receive"),
            (opcode::SendMsg::CODE, "send"),
            (opcode::PollAdd::CODE, "wait for connections"),
            (opcode::AsyncCancel::CODE, "cancel requests"),
        ];
        match needed.iter().find(|(code, _)| known && !probe.is_supported(*code)) {
            Some((_, operation)) => Err(RingError::TooOld { operation }),
            None if !io.params().is_feature_ext_arg() => Err(RingError::TooOld { operation: "wait with a time limit" }),
            None if !io.params().is_feature_nodrop() => Err(RingError::TooOld { operation: "keep every completion" }),
            None => Ok(()),
        }
    }

    pub(crate) const fn features(&self) -> Features {
        self.features
    }

    /// Requests whose completion has not been seen.
    pub(crate) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// `io_uring_enter` calls so far.
    pub(crate) const fn enters(&self) -> u64 {
        self.enters
    }

    /// Registers memory for READ_FIXED and WRITE_FIXED. Failing leaves everything working without it.
    ///
    /// # Safety
    /// The memory must stay mapped until the ring is dropped.
    pub(crate) unsafe fn register_memory(&mut self, base: *mut u8, bytes: usize) -> io::Result<()> {
        let parts: Vec<libc::iovec> = (0..bytes)
            .step_by(REGISTERED_PART_BYTES)
            .map(|start| libc::iovec { iov_base: base.wrapping_add(start).cast(), iov_len: REGISTERED_PART_BYTES.min(bytes - start) })
            .collect();
        // SAFETY: the parts lie in memory that the caller keeps mapped.
        unsafe { self.io.submitter().register_buffers(&parts) }?;
        self.features.registered_buffers = true;
        Ok(())
    }

    /// Index of the registered part that a position of the region lies in, when the whole range does.
    pub(crate) fn registered_part(&self, position: usize, len: usize) -> Option<u16> {
        let part = position / REGISTERED_PART_BYTES;
        let whole = (position + len - 1) / REGISTERED_PART_BYTES == part;
        if self.features.registered_buffers && whole { u16::try_from(part).ok() } else { None }
    }

    /// Registers a descriptor if there is room; the caller keeps the descriptor open until `forget_file`.
    pub(crate) fn register_file(&mut self, fd: RawFd) -> Target {
        if let Some(index) = self.free_files.pop() {
            if self.io.submitter().register_files_update(index, &[fd]).is_ok() {
                return Target::Registered(index);
            }
            self.free_files.push(index);
        }
        Target::Plain(fd)
    }

    /// Undoes `register_file`.
    pub(crate) fn forget_file(&mut self, target: Target) {
        if let Target::Registered(index) = target
            && self.io.submitter().register_files_update(index, &[-1]).is_ok()
        {
            self.free_files.push(index);
        }
    }

    /// Queues an entry; submits early when the queue is full.
    ///
    /// # Safety
    /// Memory and descriptor that the entry names must stay valid until its completion has been reaped.
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry, tag: Tag) -> Result<(), RingError> {
        let entry = entry.user_data(tag.to_user_data());
        self.in_flight += 1;
        loop {
            // SAFETY: the caller keeps what the entry names alive.
            if unsafe { self.io.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Submits what is queued, runs deferred work if there is any, does not wait.
    pub(crate) fn submit(&mut self) -> Result<(), RingError> {
        self.enters += 1;
        Self::accept(self.io.submit())
    }

    /// As `submit`, but only if an enter has something to do.
    pub(crate) fn submit_if_needed(&mut self) -> Result<(), RingError> {
        let queue = self.io.submission();
        let needed = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if needed { self.submit() } else { Ok(()) }
    }

    /// Submits what is queued and waits for a completion or the timeout.
    pub(crate) fn submit_and_wait(&mut self, timeout: Option<Nanos>) -> Result<(), RingError> {
        self.enters += 1;
        let result = match timeout {
            None => self.io.submit_and_wait(1),
            Some(timeout) => {
                let (seconds, nanos) = (timeout.get() / 1_000_000_000, timeout.get() % 1_000_000_000);
                #[expect(clippy::cast_possible_truncation, reason = "below 10^9")]
                let timespec = types::Timespec::new().sec(seconds).nsec(nanos as u32);
                let args = types::SubmitArgs::new().timespec(&timespec);
                self.io.submitter().submit_with_args(1, &args)
            }
        };
        Self::accept(result)
    }

    fn accept(result: io::Result<usize>) -> Result<(), RingError> {
        match result {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The time is up; a signal came; completions must be reaped before more is taken.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(RingError::system("io_uring_enter", error)),
            },
        }
    }

    /// Whether there is something to reap, or would be after an enter.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.io.completion().is_empty() || self.io.submission().taskrun()
    }

    /// Takes up to `limit` completions.
    pub(crate) fn reap(&mut self, into: &mut Vec<Completion>, limit: usize) {
        let mut queue = self.io.completion();
        queue.sync();
        into.extend(queue.take(limit).map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        self.in_flight -= into.iter().filter(|completion| !completion.more()).count();
    }
}

/// Why `io_uring_setup` said no.
fn refusal(error: io::Error) -> RingError {
    explain(error, disabled_sysctl())
}

/// As `refusal`, given what kernel.io_uring_disabled says.
fn explain(error: io::Error, disabled: Option<u8>) -> RingError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => RingError::Missing,
        Some(libc::EPERM | libc::EACCES) => match disabled {
            Some(value) if value > 0 => RingError::Disabled { value },
            _ => RingError::Profile,
        },
        Some(libc::ENOMEM) => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current.unwrap_or(u64::MAX);
            RingError::Memlock { limit }
        }
        Some(libc::EINVAL) => RingError::TooOld { operation: "be set up with plain options" },
        _ => RingError::system("io_uring_setup", error),
    }
}

fn disabled_sysctl() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tag::Kind;

    fn nop_round_trip(optional: bool) -> Features {
        let mut ring = Ring::new(optional).expect("io_uring works here");
        let tag = Tag::new(Kind::Cancel, 5);
        // SAFETY: a no-op names no memory.
        unsafe { ring.push(opcode::Nop::new().build(), tag) }.expect("room");
        ring.submit_and_wait(Some(Nanos::from_millis(1000))).expect("entered");
        let mut completions = Vec::new();
        ring.reap(&mut completions, 16);
        assert_eq!(completions.len(), 1);
        assert_eq!(Tag::from_user_data(completions[0].user_data), Some(tag));
        assert_eq!(ring.in_flight(), 0);
        ring.features()
    }

    #[test]
    fn works_with_and_without_optional_features() {
        let _ = nop_round_trip(true);
        assert_eq!(nop_round_trip(false), Features::default());
    }

    #[test]
    fn a_wait_ends_with_its_time() {
        let mut ring = Ring::new(true).expect("io_uring works here");
        let before = crate::clock::now();
        ring.submit_and_wait(Some(Nanos::from_millis(5))).expect("entered");
        assert!(crate::clock::now().since(before) >= Nanos::from_millis(4));
    }

    #[test]
    fn the_sysctl_is_told_from_a_profile() {
        let forbidden = || io::Error::from_raw_os_error(libc::EPERM);
        assert!(matches!(explain(forbidden(), Some(0)), RingError::Profile));
        assert!(matches!(explain(forbidden(), None), RingError::Profile));
        let error = explain(forbidden(), Some(2));
        assert!(error.to_string().contains("kernel.io_uring_disabled = 2"), "{error}");
    }

    #[test]
    fn refusals_name_the_way_out() {
        for (errno, word) in [(libc::ENOSYS, "seccomp"), (libc::EPERM, "profile"), (libc::ENOMEM, "LimitMEMLOCK"), (libc::EINVAL, "5.19")] {
            let text = refusal(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(word), "{errno}: {text}");
        }
    }
}
