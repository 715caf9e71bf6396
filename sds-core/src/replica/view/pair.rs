//! Shards of two copies of which this node has one: who has the other, and what is known of its writes.
//!
//! Invariants: a pair goes on into another epoch only if it is of the same two in the same roles; who is promoted gives out no sequence that the
//! former primary can have used, whatever the MDM knew of it: the window bounds how far that was ahead
//! of what came here.

use super::{LocalShard, View};
use crate::bugs::{self, Bug};
use crate::id::{DeviceId, Epoch, Incarnation, PoolId, SdsId, ShardId, ShardSequence};
use crate::limits::REPLICATE_WINDOW;
use crate::map::{Member, ShardEntry};
use crate::protocol::settle::is_for_settling;
use crate::replica::interface::DeviceSlot;
use crate::replica::peer::window::Window;
use crate::replica::peer::{PeerIndex, Peers};
use crate::replica::resync::{Need, Needy};
use crate::store::interface::ExtentKey;
use crate::unit::Nanos;
use crate::view::SdsView;

/// Which of the two copies is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::replica) enum Side {
    Primary,
    Secondary,
}

/// Which of the two copies has refused what the other may have applied, and so has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::replica) enum Broken {
    Own,
    Other,
}

/// How far a joining copy is, at its primary; a joiner itself is told by its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::replica) enum JoinStage {
    /// It is given nothing.
    Apart,
    /// It is given what it misses, and writes to whatever it has been given.
    Sweeping,
    /// It has everything: nothing is acknowledged without it, and it makes that durable.
    Flushing,
    /// The MDM has been asked to make it a member: that cannot be taken back (I4).
    Proposed,
}

/// How far a shard is that is given to its secondary without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::replica) enum HandOver {
    /// Nothing new is begun; what is under way ends, by then.
    Draining { until: Nanos },
    /// All is over and nothing is served: the MDM has been asked. That cannot be taken back.
    Proposed,
}

/// A shard of two copies, one of them here.
#[derive(Clone, Debug)]
pub(in crate::replica) struct Pair {
    pub(in crate::replica) side: Side,
    /// Ours.
    pub(in crate::replica) slot: DeviceSlot,
    pub(in crate::replica) own: Member,
    pub(in crate::replica) other: Member,
    /// Server of the other.
    pub(in crate::replica) peer: PeerIndex,
    pub(in crate::replica) window: Window,
    pub(in crate::replica) broken: Option<Broken>,
    /// Epoch it began with: what was sent for a former pair of the two is not of this one.
    pub(in crate::replica) since: Epoch,
    /// The epoch is for settling only, and that is done: the next is asked for.
    pub(in crate::replica) settle_done: bool,
    /// Set while it is given to its secondary.
    pub(in crate::replica) hand_over: Option<HandOver>,
    /// Set while one of the two is not in sync but joins.
    pub(in crate::replica) joiner: Option<JoinStage>,
    /// Writes here that the other copy may lack, for all that is known: their extents are held.
    unresolved: Vec<(ShardSequence, ExtentKey)>,
    /// Up to where the secondary has been told that all is over, and how often.
    told: (ShardSequence, u8),
}

impl Pair {
    /// The joiner, if nothing may be acknowledged or read without it any more.
    pub(in crate::replica) fn needed_joiner(&self) -> Option<Member> {
        match self.joiner {
            Some(JoinStage::Flushing | JoinStage::Proposed) => Some(self.other),
            Some(JoinStage::Apart | JoinStage::Sweeping) | None => None,
        }
    }

    /// A write is under way that the other copy may lack until `resolved` has passed it.
    pub(in crate::replica) fn hold(&mut self, sequence: ShardSequence, key: ExtentKey) {
        self.unresolved.push((sequence, key));
    }

    /// Calls `release` for every held write that is over.
    pub(in crate::replica) fn release_resolved(&mut self, mut release: impl FnMut(ExtentKey, ShardSequence)) {
        let resolved = self.window.resolved();
        self.unresolved.retain(|(sequence, key)| {
            if *sequence <= resolved {
                release(*key, resolved);
            }
            *sequence > resolved
        });
    }

    /// What the secondary is to be told now, if anything.
    pub(in crate::replica) fn next_telling(&mut self) -> Option<ShardSequence> {
        let resolved = self.window.resolved();
        if self.told.0 != resolved {
            self.told = (resolved, 0);
        }
        self.told.1 += u8::from(self.told.1 < TELLINGS);
        (self.told.1 < TELLINGS).then_some(resolved)
    }

    /// Tells the secondary again: the link is new.
    pub(in crate::replica) fn tell_again(&mut self) {
        self.told.1 = 0;
    }
}

/// How often, less one, a secondary is told the same: its view may be late.
const TELLINGS: u8 = 4;

/// What pairs that are no more leave behind.
#[derive(Debug, Default)]
pub(in crate::replica) struct Left {
    /// Held writes that need not be held any more.
    pub(in crate::replica) released: Vec<(DeviceSlot, ExtentKey, ShardSequence)>,
    /// Devices of ours that go on without another copy of something.
    pub(in crate::replica) parted: Vec<DeviceSlot>,
}

/// A device whose flush must be one of a device of ours too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::replica) struct Partner {
    pub(in crate::replica) slot: DeviceSlot,
    pub(in crate::replica) other: Member,
    pub(in crate::replica) peer: PeerIndex,
}

impl View {
    /// A shard's configuration.
    pub(in crate::replica) fn entry(&self, pool: PoolId, shard: ShardId) -> Option<&ShardEntry> {
        self.pools.get(&pool)?.map.entry(shard)
    }

    /// The pair a shard is here, if it is one.
    pub(in crate::replica) fn pair(&self, pool: PoolId, shard: ShardId) -> Option<&Pair> {
        self.pools.get(&pool)?.local.get(shard.get() as usize)?.pair.as_deref()
    }

    /// Whether a shard owes no settling here.
    pub(in crate::replica) fn is_settled(&self, pool: PoolId, shard: ShardId) -> bool {
        self.pools.get(&pool).and_then(|pool| pool.local.get(shard.get() as usize)).is_some_and(|local| local.settled)
    }

    /// A sweep has settled a shard here and at the other copy, if it is still at this epoch. It is served at once, unless the epoch is
    /// for settling only.
    pub(in crate::replica) fn sweep_settled(&mut self, pool: PoolId, shard: ShardId, epoch: Epoch) {
        let for_settling = self.entry(pool, shard).is_some_and(is_for_settling);
        match self.pair_mut(pool, shard) {
            Some(pair) if for_settling => pair.settle_done |= pair.joiner.is_none(),
            Some(_) | None => self.set_settled(pool, shard, epoch),
        }
    }

    /// A shard owes no settling any more, if it is still at this epoch.
    pub(in crate::replica) fn set_settled(&mut self, pool: PoolId, shard: ShardId, epoch: Epoch) {
        let local = self.pools.get_mut(&pool).and_then(|pool| pool.local.get_mut(shard.get() as usize));
        if let Some(local) = local.filter(|local| local.epoch == epoch) {
            local.settled = true;
        }
    }

    /// How far the joiner of a shard is from now on. What was proposed cannot be taken back.
    pub(in crate::replica) fn set_join_stage(&mut self, pool: PoolId, shard: ShardId, epoch: Epoch, stage: JoinStage) {
        let local = self.pools.get_mut(&pool).and_then(|pool| pool.local.get_mut(shard.get() as usize));
        let pair = local.filter(|local| local.epoch == epoch).and_then(|local| local.pair.as_deref_mut());
        if let Some(joiner) = pair.and_then(|pair| pair.joiner.as_mut())
            && *joiner != JoinStage::Proposed
        {
            *joiner = stage;
        }
    }

    /// Shards that this node is to settle or to bring another copy into.
    pub(in crate::replica) fn needy(&self) -> impl Iterator<Item = Needy> {
        self.pools.iter().flat_map(|(id, pool)| {
            pool.local.iter().enumerate().filter_map(|(shard, local)| {
                let shard = ShardId::new(u32::try_from(shard).ok()?);
                let needy = |need, slot, other| Needy { need, slot, other, pool: *id, shard, epoch: local.epoch };
                match (local.pair.as_deref(), local.slot) {
                    (Some(pair), Some(slot)) if pair.side == Side::Primary && pair.broken.is_none() => {
                        let other = Some((pair.other, pair.peer));
                        match (pair.joiner, local.settled) {
                            (None, false) if pair.settle_done => None,
                            (None, false) => Some(needy(Need::Pair, slot, other)),
                            (Some(_), false) => Some(needy(Need::Alone, slot, None)),
                            (Some(JoinStage::Apart), true) => Some(needy(Need::Join, slot, other)),
                            (Some(JoinStage::Sweeping | JoinStage::Flushing | JoinStage::Proposed) | None, true) => None,
                        }
                    }
                    (None, Some(slot)) if !local.settled => Some(needy(Need::Alone, slot, None)),
                    (Some(_) | None, _) => None,
                }
            })
        })
    }

    /// Whether a device has, or has had, a copy of a shard that has or has had another one.
    pub(in crate::replica) fn has_copies_elsewhere(&self, device: DeviceId) -> bool {
        let names = |entry: &&ShardEntry| {
            let joining = entry.joining.is_some_and(|member| member.device == device);
            let lapsed = entry.lapsed.is_some_and(|lapsed| lapsed.device == device);
            joining || lapsed || entry.in_sync.members().iter().any(|member| member.device == device)
        };
        let alone = |entry: &ShardEntry| entry.in_sync.members().len() == 1 && entry.joining.is_none() && entry.lapsed.is_none();
        self.pools.values().flat_map(|pool| &pool.map.shards).filter(names).any(|entry| !alone(entry))
    }

    /// The same, to change.
    pub(in crate::replica) fn pair_mut(&mut self, pool: PoolId, shard: ShardId) -> Option<&mut Pair> {
        self.pools.get_mut(&pool)?.local.get_mut(shard.get() as usize)?.pair.as_deref_mut()
    }

    /// All pairs, with the epochs they are of.
    pub(in crate::replica) fn pairs(&self) -> impl Iterator<Item = (PoolId, ShardId, Epoch, &Pair)> {
        self.pools.iter().flat_map(|(id, pool)| {
            pool.local.iter().enumerate().filter_map(|(shard, local)| {
                let shard = ShardId::new(u32::try_from(shard).ok()?);
                Some((*id, shard, local.epoch, local.pair.as_deref()?))
            })
        })
    }

    /// All pairs, to change.
    pub(in crate::replica) fn pairs_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.pools.values_mut().flat_map(|pool| &mut pool.local).filter_map(|local| local.pair.as_deref_mut())
    }

    /// What a peer's secondaries are to be told, as `to_tell` says of each settled pair with it.
    pub(in crate::replica) fn tell_with(
        &mut self,
        peer: PeerIndex,
        to_tell: impl Fn(&mut Pair) -> Option<ShardSequence>,
    ) -> impl Iterator<Item = (ShardId, Epoch, Member, ShardSequence)> {
        self.pools.values_mut().flat_map(|pool| pool.local.iter_mut().enumerate()).filter_map(move |(shard, local)| {
            let (epoch, settled) = (local.epoch, local.settled);
            let pair = local.pair.as_deref_mut().filter(|pair| settled && pair.peer == peer)?;
            let resolved = to_tell(pair)?;
            Some((ShardId::new(u32::try_from(shard).ok()?), epoch, pair.other, resolved))
        })
    }

    /// Devices of other servers that have second copies of what is served here.
    pub(in crate::replica) fn partners(&self) -> &[Partner] {
        &self.partners
    }

    /// The pool in which a device holds a shard; a device is in one pool.
    pub(in crate::replica) fn pool_of(&self, device: DeviceId, shard: ShardId) -> Option<PoolId> {
        let holds = |entry: &ShardEntry| entry.in_sync.members().iter().chain(&entry.joining).any(|member| member.device == device);
        self.pools.iter().find(|(_, pool)| pool.map.entry(shard).is_some_and(holds)).map(|(id, _)| *id)
    }

    /// A sequence of the primary has come to its secondary.
    pub(in crate::replica) fn saw_sequence(&mut self, pool: PoolId, shard: ShardId, sequence: ShardSequence) {
        let local = self.pools.get_mut(&pool).and_then(|pool| pool.local.get_mut(shard.get() as usize));
        if let Some(local) = local {
            local.next = local.next.max(ShardSequence::new(sequence.get().saturating_add(1)));
        }
    }

    /// Whether a shard that was taken over may be served: the old primary's last lease is over.
    pub(in crate::replica) fn grace_is_over(&self, pool: PoolId, shard: ShardId, now: Nanos, peers: &Peers) -> bool {
        let local = self.pools.get(&pool).and_then(|pool| pool.local.get(shard.get() as usize));
        let Some((peer, granted, made_at)) = local.and_then(|local| local.grace) else { return true };
        let peer = peers.get(peer);
        bugs::is(Bug::GraceNotWaitedOut) || granted.grace_is_over(now, &peers.terms, peer.refused || peer.confirmed >= made_at)
    }

    /// The sequence that a shard gives out next.
    pub(in crate::replica) fn next_sequence(&self, pool: PoolId, shard: ShardId) -> ShardSequence {
        let local = self.pools.get(&pool).and_then(|pool| pool.local.get(shard.get() as usize));
        local.map(|local| local.next).unwrap_or_default()
    }

    /// Whose a device is.
    pub(in crate::replica) fn owner(&self, device: DeviceId) -> Option<SdsId> {
        self.owners.get(&device).copied()
    }

    /// Whether a server has, in this life, the other copy of some shard here.
    pub(in crate::replica) fn shares_with(&self, sds: SdsId, life: Incarnation) -> bool {
        self.pairs().any(|(.., pair)| pair.other.incarnation == life && self.owner(pair.other.device) == Some(sds))
    }

    /// Where a server can be reached.
    pub(in crate::replica) fn addresses(&self, sds: SdsId) -> Vec<String> {
        self.servers.iter().find(|known: &&SdsView| known.id == sds).map(|known| known.addresses.clone()).unwrap_or_default()
    }

    /// Devices whose flush must be one of a device of ours too, as the pairs stand now.
    pub(in crate::replica) fn find_partners(&mut self) {
        let Self { pools, partners, .. } = self;
        partners.clear();
        for pair in pools.values().flat_map(|pool| &pool.local).filter_map(|local| local.pair.as_deref()) {
            let partner = Partner { slot: pair.slot, other: pair.other, peer: pair.peer };
            let counts = pair.joiner.is_none() || pair.needed_joiner().is_some();
            if pair.side == Side::Primary && counts && !partners.contains(&partner) {
                partners.push(partner);
            }
        }
    }

    /// Works out anew which shards are pairs here. `own` names our device that is this member now; `is_clean` says of one
    /// that its store had nothing unsettled, or has settled it alone. What former pairs leave behind is noted.
    pub(super) fn pair_up(
        &mut self,
        own: impl Fn(Member) -> Option<DeviceSlot>,
        is_clean: impl Fn(DeviceSlot) -> bool,
        peers: &mut Peers,
        now: Nanos,
    ) {
        let Self { pools, owners, version, left, .. } = self;
        peers.forget_roles();
        for pool in pools.values_mut() {
            for (entry, local) in pool.map.shards.iter().zip(&mut pool.local) {
                let found = find_pair(entry, &own, |member| owners.get(&member.device).map(|sds| peers.index(*sds, now)));
                // A joiner begins anew in each epoch: what it was given for the last one may have been given up.
                let joins_anew = local.epoch != entry.epoch && found.is_some_and(|found| found.joins);
                let is_same = |pair: &Pair| found.is_some_and(|found| pair.is_the_same_as(&found));
                // From one epoch to the next the same two go on (grown, or settled). Beyond that they were parted meanwhile, which this node was not
                // told: the other one counts from the first sequence of the newest epoch, and takes anything below for done.
                let missed_epochs = entry.epoch.get() > local.epoch.get().saturating_add(1);
                let goes_on = !joins_anew && !missed_epochs && local.pair.as_deref().is_some_and(is_same);
                if !goes_on {
                    // A new epoch names its first sequence; ours may have run ahead of it already. Sequence 0 is before the first.
                    local.next = local.next.max(entry.first_sequence).max(ShardSequence::new(1));
                }
                if goes_on && let Some(pair) = local.pair.as_deref_mut() {
                    // The same two: what is under way goes on, and so do the numbers, without a gap.
                    if local.epoch != entry.epoch {
                        local.epoch = entry.epoch;
                        let grown = pair.joiner.is_some() && entry.joining.is_none();
                        local.settled |= grown || (pair.settle_done && !is_for_settling(entry));
                        pair.settle_done = false;
                        pair.hand_over = None;
                        pair.joiner = pair.joiner.filter(|_| entry.joining.is_some());
                        pair.tell_again();
                        let peer = peers.get_mut(pair.peer);
                        (peer.changed_at, peer.propose_due) = (*version, Nanos::ZERO);
                    }
                } else if local.epoch != entry.epoch || (local.pair.is_none() && found.is_some()) {
                    change(local, entry, peers, *version, left, &own);
                    if let Some(former) = former_leader(entry, &own)
                        && local.grace.is_none()
                        && let Some(sds) = owners.get(&former)
                        && !bugs::is(Bug::RestartForgetsGrants)
                    {
                        local.grace = Some((peers.index(*sds, now), peers.grace_of_former_lives(), entry.made_at));
                    }
                    local.pair = found.map(|found| {
                        peers.get_mut(found.peer).changed_at = *version;
                        Box::new(found.begin(entry, local.next))
                    });
                }
                settle_by_entry(local, entry, &own, &is_clean);
                if entry.in_sync.members().len() > 1 && local.pair.is_none() {
                    // Nobody can be told of its writes (yet): its server is not known, or is this one.
                    local.slot = None;
                }
                let Some(pair) = local.pair.as_deref() else { continue };
                peers.take_role(pair.peer, pair.side, pair.other.incarnation, now);
            }
        }
        self.find_partners();
    }

    /// What pairs that are no more have left behind.
    pub(in crate::replica) fn take_left(&mut self) -> Left {
        core::mem::take(&mut self.left)
    }
}

/// Two copies of a shard of which one is here, as its entry says.
#[derive(Clone, Copy, Debug)]
struct Found {
    side: Side,
    slot: DeviceSlot,
    own: Member,
    other: Member,
    peer: PeerIndex,
    joins: bool,
}

impl Found {
    fn begin(&self, entry: &ShardEntry, next: ShardSequence) -> Pair {
        let resolved = match self.side {
            Side::Primary => next.get().saturating_sub(1),
            Side::Secondary => entry.first_sequence.get().saturating_sub(1),
        };
        Pair {
            side: self.side,
            slot: self.slot,
            own: self.own,
            other: self.other,
            peer: self.peer,
            window: Window::above(ShardSequence::new(resolved)),
            broken: None,
            since: entry.epoch,
            settle_done: false,
            hand_over: None,
            joiner: self.joins.then_some(JoinStage::Apart),
            unresolved: Vec::new(),
            told: (ShardSequence::new(0), 0),
        }
    }
}

impl Pair {
    fn is_the_same_as(&self, found: &Found) -> bool {
        (self.side, self.slot, self.own, self.other, self.peer) == (found.side, found.slot, found.own, found.other, found.peer)
            && (self.joiner.is_some() || !found.joins)
    }
}

fn find_pair(
    entry: &ShardEntry,
    own: impl Fn(Member) -> Option<DeviceSlot>,
    mut peer_of: impl FnMut(Member) -> Option<PeerIndex>,
) -> Option<Found> {
    let (first, second, joins) = match (entry.in_sync.members(), entry.joining) {
        ([first, second], _) => (*first, *second, false),
        ([first], Some(joining)) => (*first, joining, true),
        _ => return None,
    };
    let (side, slot, own, other) = match (own(first), own(second)) {
        (Some(slot), None) => (Side::Primary, slot, first, second),
        (None, Some(slot)) => (Side::Secondary, slot, second, first),
        (None, None) | (Some(_), Some(_)) => return None,
    };
    Some(Found { side, slot, own, other, peer: peer_of(other)?, joins })
}

/// What the entry alone says about settling: who is no member owes it again, and a sole copy on a clean device owes none.
fn settle_by_entry(
    local: &mut LocalShard,
    entry: &ShardEntry,
    own: impl Fn(Member) -> Option<DeviceSlot>,
    is_clean: impl Fn(DeviceSlot) -> bool,
) {
    let members = entry.in_sync.members();
    match members.iter().find_map(|member| own(*member)) {
        None => local.settled = false,
        Some(slot) => local.settled |= members.len() == 1 && is_clean(slot),
    }
}

/// The device that may have led a shard of which only our copy is in sync now, under a lease of a former life of ours: it fell out when that
/// life was promoted, which did not live to wait out the grace.
fn former_leader(entry: &ShardEntry, own: impl Fn(Member) -> Option<DeviceSlot>) -> Option<DeviceId> {
    let [only] = entry.in_sync.members() else { return None };
    own(*only).and(entry.lapsed).map(|lapsed| lapsed.device)
}

/// A shard's configuration has changed: what its former pair leaves behind.
fn change(
    local: &mut LocalShard,
    entry: &ShardEntry,
    peers: &mut Peers,
    version: crate::id::MapVersion,
    left: &mut Left,
    own: impl Fn(Member) -> Option<DeviceSlot>,
) {
    if let Some(former) = local.pair.take() {
        let peer = peers.get_mut(former.peer);
        peer.changed_at = version;
        peer.propose_due = Nanos::ZERO;
        if former.side == Side::Secondary && local.slot.is_some() {
            local.next = ShardSequence::new(local.next.get().saturating_add(REPLICATE_WINDOW));
            local.grace = Some((former.peer, peer.granted, version));
            peers.grace_begins(former.peer);
        }
        // Who goes on vouches for its own: all of it is above what is known complete on the other. Who is out does not.
        if entry.in_sync.members().iter().any(|member| own(*member).is_some()) {
            left.released.extend(former.unresolved.iter().map(|(sequence, key)| (former.slot, *key, *sequence)));
            if former.joiner.is_none() && entry.in_sync.members().len() == 1 && !left.parted.contains(&former.slot) {
                left.parted.push(former.slot);
            }
        }
    }
    if local.slot.is_none() {
        local.grace = None;
    }
    local.epoch = entry.epoch;
}
