//! From when to when a primary may answer reads (I9).
//!
//! Besides the lease: a read waits for unresolved writes of its blocks, and a write for reads of them that are at the disk.
//! The primary asks, naming its own clock; the secondary's data loop grants and echoes that value; the lease runs from
//! it on the primary's clock. A promoted secondary waits out the grace from the last grant it sent. As long as the two
//! clocks drift less than `grace / lease` over a lease, the old primary's last read ends before the new one's first write.

use crate::bugs::{self, Bug};
use crate::map::{Member, ShardEntry};
use crate::unit::Nanos;

/// How long leases and graces last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// From the primary's request, on its clock.
    pub lease: Nanos,
    /// From the last grant sent, on the granter's clock.
    pub grace: Nanos,
}

impl Terms {
    /// What is deployed: 800 ms and 1.2 s.
    pub const DEFAULT: Self = Self { lease: Nanos::from_millis(800), grace: Nanos::from_millis(1200) };
}

/// The lease a primary holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    echoed: Option<Nanos>,
}

impl Lease {
    /// A grant came, echoing the clock value of the request it answers.
    pub fn renew(&mut self, echoed: Nanos) {
        self.echoed = self.echoed.max(Some(echoed));
    }

    /// Whether it covers this moment. Asked after the disk read and before the reply, not only at acceptance.
    #[must_use]
    pub fn covers(&self, now: Nanos, terms: &Terms) -> bool {
        self.echoed.is_some_and(|echoed| now.since(echoed) < terms.lease || bugs::is(Bug::LeaseNeverExpires))
    }
}

/// What a granter remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Granted {
    last: Option<Nanos>,
}

impl Granted {
    /// What a life of a process must take its former ones to have granted: something at its very beginning.
    #[must_use]
    pub const fn by_former_lives(begun: Nanos) -> Self {
        Self { last: Some(begun) }
    }

    /// A grant goes out.
    pub fn grant(&mut self, now: Nanos) {
        self.last = Some(now);
    }

    /// Whether a promoted copy may serve: the grace is over, or the old primary has confirmed the newer epoch or is known
    /// to be dead (`old_is_stopped`).
    #[must_use]
    pub fn grace_is_over(&self, now: Nanos, terms: &Terms, old_is_stopped: bool) -> bool {
        old_is_stopped || self.last.is_none_or(|last| now.since(last) >= terms.grace)
    }
}

/// Whose lease a primary needs: every other member's that could be promoted. None for a sole copy, until it proposes a joiner.
#[must_use]
pub fn granter(entry: &ShardEntry, own: Member, proposed_joiner: Option<Member>) -> Option<Member> {
    entry.in_sync.members().iter().copied().find(|member| *member != own).or(proposed_joiner)
}

/// Whether a read may be answered now.
#[must_use]
pub fn may_answer_read(entry: &ShardEntry, own: Member, proposed_joiner: Option<Member>, lease: &Lease, now: Nanos, terms: &Terms) -> bool {
    entry.in_sync.primary() == Some(own)
        && (granter(entry, own, proposed_joiner).is_none() || lease.covers(now, terms) || bugs::is(Bug::LeaseNotNeeded))
}
