//! Whom an acknowledgement waits for (I2, I4, I5), and what a FLUSH may claim.
//!
//! Invariant I4: the set returned here contains every set that the MDM could promote from. It shrinks only by a
//! configuration that was *learnt* as committed, and grows before the proposal that makes a joiner a member is sent.

use crate::bugs::{self, Bug};
use crate::id::Epoch;
use crate::map::{Member, ShardEntry};

/// Members whose copy must be complete before a write of the entry's epoch is acknowledged: all in sync and, from before
/// its proposal until another epoch is learnt, the joiner. A proposal with unknown outcome counts as pending.
pub fn needed(entry: &ShardEntry, proposed_joiner: Option<Member>) -> impl Iterator<Item = Member> + '_ {
    entry.in_sync.members().iter().copied().chain(proposed_joiner)
}

/// Whether a write accepted at `accepted` may be acknowledged now, `complete` telling which copies hold it, data and
/// record, each having accepted it at that epoch.
#[must_use]
pub fn may_acknowledge(entry: &ShardEntry, proposed_joiner: Option<Member>, complete: impl Fn(Member) -> bool) -> bool {
    entry.in_sync.primary().is_some()
        && needed(entry, proposed_joiner)
            .all(|member| complete(member) || (bugs::is(Bug::SecondCopyNotAwaited) && entry.in_sync.primary() != Some(member)))
}

/// Whether a FLUSH, complete on all of [`needed`], may succeed for writes of which the oldest was acknowledged at epoch
/// `oldest_write`. `cache_lost_in` is the newest epoch that began with no in-sync copy's volatile cache
/// kept ([`ShardEntry::cache_lost_in`], set by [`super::membership::commit`]); what was acknowledged before it and not flushed may be gone, and the FLUSH fails once.
#[must_use]
pub fn flush_may_succeed(oldest_write: Epoch, cache_lost_in: Epoch) -> bool {
    cache_lost_in <= oldest_write || bugs::is(Bug::FlushLossIgnored)
}

/// Whether a copy may record an extent as sealed: all of it flushed here, and no write to it unresolved on the other copy.
/// A sealed extent is left out of the settle exchange, so an unresolved write under a seal would never be found again.
#[must_use]
pub fn may_seal(flushed: bool, resolved_everywhere: bool) -> bool {
    flushed && resolved_everywhere
}
