//! What a joining replica is given, and when it may be proposed (I4, I8).
//!
//! The order of growing: the joiner is *needed* first (acknowledgements, leases and FLUSH wait for it from then on), then
//! flushes, then is proposed. Were it flushed first, a FLUSH in between would leave a write in its cache only. A copied block holds
//! its range lock until the joiner has completed it, and is applied there whatever version the joiner has.

use crate::id::ShardSequence;

/// Whether a block must be copied to the joiner: it is newer than the last sequence known complete there, or the joiner's
/// (version, checksum) in an extent that either copy holds unsettled is another. Checksums only add blocks.
#[must_use]
pub fn must_copy(block: ShardSequence, complete_on_joiner: ShardSequence, differs_in_settle: bool) -> bool {
    block > complete_on_joiner || differs_in_settle
}

/// How far a joiner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Blocks still to be copied, or written and not complete on it.
    pub missing: u64,
    /// It flushed its device after the last of them.
    pub flushed: bool,
    /// The primary acknowledges nothing without it any more, and answers no read without its lease.
    pub needed: bool,
}

impl Progress {
    /// Whether it may be proposed as in sync. From the commit on it vouches for every write acknowledged before.
    #[must_use]
    pub fn may_propose(&self) -> bool {
        self.missing == 0 && self.flushed && self.needed
    }
}
