//! What the MDM commits for one shard (I1, I6, I7, I13), and who may ask for what.
//!
//! Every change names the epoch it starts from and is committed only on that one: a compare-and-swap. Whoever does not
//! know what became of its proposal looks at the entry: it is there, or it can no longer come.

use super::settle;
use crate::bugs::{self, Bug};
use crate::id::{BootId, DeviceId, Epoch, Incarnation, MapVersion, ShardSequence};
use crate::limits::IN_SYNC_MAX;
use crate::map::{InSync, Lapsed, Member, ShardEntry};
use serde::{Deserialize, Serialize};

/// What a replica knows of itself before it asks for a set without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It is an in-sync member of its newest known epoch, in this process life.
    pub in_sync: bool,
    /// It owes no settling.
    pub settled: bool,
}

impl Standing {
    /// Whether it may ask for {itself}. The MDM's check of the incarnation covers "has not restarted in this epoch".
    #[must_use]
    pub fn may_ask_to_shrink(self) -> bool {
        self.in_sync && self.settled
    }
}

/// A change of a shard's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Change {
    /// The proposer goes on without the other member. If that was the primary, this is the failover.
    Shrink {
        /// Last sequence known complete on the other.
        complete: ShardSequence,
    },
    /// The proposer gives up (its device failed): the other goes on without it.
    Yield {
        /// Last sequence known complete on the proposer.
        complete: ShardSequence,
    },
    /// The joiner has everything: it becomes the secondary.
    Grow,
    /// Primary and secondary change roles. The primary has drained and stopped.
    Swap,
    /// The MDM's own: a registered replica starts to join a sole copy.
    Join {
        /// Who.
        joiner: Member,
    },
    /// All members have restarted, or the proposer is still unsettled and the other has restarted: same devices, newest lives,
    /// all of them unsettled.
    Reform,
    /// Both members have settled and flushed after one of them had lost its volatile cache: the next epoch may be served. Asked for
    /// by the primary ([`settle::is_for_settling`]).
    Settled,
    /// The MDM's own: a copy goes on alone, because the others are held for gone. Without force only one that is in sync, and
    /// that has not forgotten; what it had in a lost cache is gone with it. By force (an operator's, I7) also a copy that
    /// fell out, or has forgotten: what it lacks is lost.
    Alone {
        /// Which, in its newest life.
        member: Member,
        /// Whether an operator says so.
        forced: bool,
    },
    /// The sole copy gives its joiner up after it was proposed: it is lost, or refuses. One of the two is committed (I4).
    Drop,
}

/// A proposal to the MDM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Proposal {
    /// Epoch it starts from.
    pub base: Epoch,
    /// Who asks; `None` when the MDM itself does.
    pub proposer: Option<Member>,
    /// For what.
    pub change: Change,
}

/// What the MDM knows of a device besides the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its newest process life.
    pub incarnation: Incarnation,
    /// It serves in that life; one that failed may still give up.
    pub open: bool,
    /// Its log ends before the newest flushed position that it or its partner reported (I13).
    pub amnesic: bool,
    /// Its volatile cache was lost since the life in which it is a member: a life after that one began without the cache of the
    /// one before ([`cache_is_kept`]).
    pub cache_lost: bool,
    /// Nobody has heard of it for long enough, by policy or in an operator's judgement; only [`Change::Alone`] asks.
    pub gone: bool,
}

/// Whether a device that served with one cache, and serves again with another, still has what was in the first. A cache is
/// named by the boot of the host whose power it lives on; nil where it is not volatile.
#[must_use]
pub fn cache_is_kept(before: BootId, now: BootId) -> bool {
    before.is_nil() || before == now || bugs::is(Bug::CacheLossNotSeen)
}

/// What the MDM gives an epoch to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Its first sequence: above every one that any earlier epoch can have used (durably reserved), so that none is used twice.
    pub first_sequence: ShardSequence,
    /// The version of the map that will have it.
    pub made_at: MapVersion,
}

/// Why a proposal is refused. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It starts from another epoch than the newest (I1).
    OtherEpoch,
    /// The proposer is not in the in-sync set (I6), or not in the role the change asks for.
    NotInSync,
    /// The proposer has begun another life since, or does not serve (I6): what it asked for then is not what it knows now.
    OtherLife,
    /// It would leave no in-sync copy (I7).
    LastCopy,
    /// A named replica is not registered in that life.
    NotRegistered,
    /// A member is still alive, so it is for that one to ask.
    StillAlive,
    /// The set has no room for a joiner, or has it already.
    NoRoom,
    /// There is no joiner to be grown by.
    NoJoiner,
    /// No member had lost its cache: the epoch is served as it is.
    NothingToSettle,
    /// It holds no copy of the shard, old or new.
    NoCopy,
    /// Both copies would be in one fault set (I11).
    SameFaultSet,
}

/// Applies a proposal to an entry: the entry that is committed, or why not.
///
/// # Errors
/// If the rules do not allow it; see [`Refused`].
pub fn commit(
    entry: &ShardEntry,
    proposal: &Proposal,
    registered: impl Fn(DeviceId) -> Option<Registered>,
    beginning: Beginning,
) -> Result<ShardEntry, Refused> {
    if proposal.base != entry.epoch && !bugs::is(Bug::ProposalOfOtherEpoch) {
        return Err(Refused::OtherEpoch);
    }
    let members = entry.in_sync.members();
    let proposer = match proposal.proposer {
        Some(proposer) if !members.contains(&proposer) => return Err(Refused::NotInSync),
        other => other,
    };
    let is_life = |member: Member| registered(member.device).is_some_and(|known| known.open && known.incarnation == member.incarnation);
    if let Some(proposer) = proposer {
        let known = registered(proposer.device).filter(|known| known.incarnation == proposer.incarnation);
        if !known.is_some_and(|known| known.open || matches!(proposal.change, Change::Yield { .. })) {
            return Err(Refused::OtherLife);
        }
    }
    let mut next = *entry;
    next.epoch.advance_to(Epoch::new(entry.epoch.get() + 1));
    next.first_sequence = beginning.first_sequence;
    next.made_at = beginning.made_at;
    match (proposal.change, proposer) {
        (Change::Shrink { complete }, Some(proposer)) => {
            let other = other_of(members, proposer).ok_or(Refused::LastCopy)?;
            next.in_sync = InSync::sole(proposer);
            next.cache_lost = KEPT;
            next.lapsed = Some(Lapsed { device: other.device, complete });
        }
        (Change::Yield { complete }, Some(proposer)) => {
            let other = other_of(members, proposer).ok_or(Refused::LastCopy)?;
            if !is_life(other) {
                return Err(Refused::LastCopy);
            }
            next.in_sync = InSync::sole(other);
            next.cache_lost = KEPT;
            // It may not have settled, and then nobody has what it lost.
            if entry.has_lost_cache(other) {
                next.cache_lost_in = next.epoch;
            }
            next.lapsed = Some(Lapsed { device: proposer.device, complete });
        }
        (Change::Grow, Some(proposer)) => {
            let joiner = entry.joining.ok_or(Refused::NoJoiner)?;
            if members.len() != 1 {
                return Err(Refused::NoRoom);
            }
            if !is_life(joiner) {
                return Err(Refused::NotRegistered);
            }
            next.in_sync = InSync::pair(proposer, joiner);
            next.joining = None;
            next.lapsed = None;
        }
        (Change::Drop, Some(proposer)) => {
            if entry.in_sync.primary() != Some(proposer) {
                return Err(Refused::NotInSync);
            }
            if next.joining.take().is_none() {
                return Err(Refused::NoJoiner);
            }
        }
        (Change::Swap, Some(proposer)) => {
            let other = other_of(members, proposer).ok_or(Refused::LastCopy)?;
            if entry.in_sync.primary() != Some(proposer) {
                return Err(Refused::NotInSync);
            }
            next.in_sync = InSync::pair(other, proposer);
            next.cache_lost.reverse();
        }
        (Change::Settled, Some(proposer)) => {
            if entry.in_sync.primary() != Some(proposer) {
                return Err(Refused::NotInSync);
            }
            if !settle::is_for_settling(entry) {
                return Err(Refused::NothingToSettle);
            }
            next.cache_lost = KEPT;
        }
        (Change::Join { joiner }, None) => {
            if members.len() != 1 || members.iter().any(|member| member.device == joiner.device) || entry.joining == Some(joiner) {
                return Err(Refused::NoRoom);
            }
            if !is_life(joiner) {
                return Err(Refused::NotRegistered);
            }
            // What was complete on a copy that has forgotten is complete no more.
            if let (Some(lapsed), true) = (&mut next.lapsed, registered(joiner.device).is_some_and(|known| known.amnesic))
                && lapsed.device == joiner.device
            {
                lapsed.complete = ShardSequence::new(0);
            }
            next.joining = Some(joiner);
        }
        (Change::Alone { member, forced }, None) => alone(&mut next, member, forced, registered)?,
        (Change::Reform, proposer) => reform(&mut next, proposer, registered)?,
        (Change::Shrink { .. } | Change::Yield { .. } | Change::Grow | Change::Drop | Change::Swap | Change::Settled, None)
        | (Change::Join { .. } | Change::Alone { .. }, Some(_)) => {
            return Err(Refused::NotInSync);
        }
    }
    // What is told complete may be above all numbers that were given out, or reserved: who leads next must not give out one below it, which
    // would not be given to the copy that fell out when it returns (I8).
    let complete = next.lapsed.map(|lapsed| lapsed.complete).unwrap_or_default();
    next.first_sequence = next.first_sequence.max(ShardSequence::new(complete.get().saturating_add(1)));
    Ok(next)
}

/// The other member of a pair.
#[must_use]
pub fn other_of(members: &[Member], own: Member) -> Option<Member> {
    members.iter().copied().find(|member| *member != own)
}

/// No cache of a member was lost.
const KEPT: [bool; IN_SYNC_MAX] = [false; IN_SYNC_MAX];

fn alone(next: &mut ShardEntry, member: Member, forced: bool, registered: impl Fn(DeviceId) -> Option<Registered>) -> Result<(), Refused> {
    let old = *next;
    let known = registered(member.device).filter(|known| known.open && known.incarnation == member.incarnation);
    let known = known.ok_or(Refused::NotRegistered)?;
    if old.in_sync == InSync::sole(member) {
        return Err(Refused::StillAlive);
    }
    let held = old.in_sync.members().iter().copied().find(|held| held.device == member.device);
    let other = old.in_sync.members().iter().copied().find(|other| other.device != member.device);
    let is_gone = |other: Member| registered(other.device).is_none_or(|known| known.gone || (forced && known.amnesic));
    if other.is_some_and(|other| !is_gone(other)) {
        return Err(Refused::StillAlive);
    }
    let had = old.joining.map(|joining| joining.device).into_iter().chain(old.lapsed.map(|lapsed| lapsed.device));
    if held.is_none() && !had.into_iter().any(|device| device == member.device) {
        return Err(Refused::NoCopy);
    }
    let lacks = held.is_none() || known.amnesic;
    if lacks && !forced {
        return Err(Refused::LastCopy);
    }
    next.in_sync = InSync::sole(member);
    next.joining = None;
    next.cache_lost = KEPT;
    // Nobody knows any more what was complete on the other, nor, if this one has forgotten, on one that fell out before.
    if let Some(other) = other {
        next.lapsed = Some(Lapsed { device: other.device, complete: ShardSequence::new(0) });
    } else if let (true, Some(lapsed)) = (lacks, &mut next.lapsed) {
        lapsed.complete = ShardSequence::new(0);
    }
    if lacks || known.cache_lost || held.is_some_and(|held| old.has_lost_cache(held)) {
        next.cache_lost_in = next.epoch;
    }
    Ok(())
}

fn reform(next: &mut ShardEntry, unsettled: Option<Member>, registered: impl Fn(DeviceId) -> Option<Registered>) -> Result<(), Refused> {
    let old = *next;
    let mut lives = Vec::with_capacity(old.in_sync.members().len());
    for member in old.in_sync.members() {
        let known = registered(member.device).filter(|known| known.open).ok_or(Refused::NotRegistered)?;
        if known.incarnation == member.incarnation && unsettled != Some(*member) {
            return Err(Refused::StillAlive);
        }
        // What was lost before an epoch that was never served is still missing.
        let lost = known.cache_lost || old.has_lost_cache(*member);
        lives.push((Member { device: member.device, incarnation: known.incarnation }, known.amnesic, lost));
    }
    // I13: who has forgotten is out, unless nobody remembers more.
    let sound: Vec<(Member, bool)> = lives.iter().filter(|(_, amnesic, _)| !amnesic).map(|(member, _, lost)| (*member, *lost)).collect();
    next.cache_lost = KEPT;
    next.in_sync = match (sound.as_slice(), lives.as_slice()) {
        ([(primary, first), (secondary, second)], _) => {
            next.cache_lost = [*first, *second];
            InSync::pair(*primary, *secondary)
        }
        ([(sound, _)], [_]) => InSync::sole(*sound),
        ([(sound, _)], [(first, ..), (second, ..)]) => {
            let forgotten = if first == sound { second } else { first };
            next.lapsed = Some(Lapsed { device: forgotten.device, complete: ShardSequence::new(0) });
            InSync::sole(*sound)
        }
        // Forcing a copy that has forgotten is an operator's command (I7).
        _ => return Err(Refused::LastCopy),
    };
    // A copy that kept its cache has all that was acknowledged.
    if sound.iter().all(|(_, lost)| *lost) {
        next.cache_lost_in = next.epoch;
    }
    Ok(())
}
