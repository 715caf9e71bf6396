//! Shards of two copies of which this node has one: who has the other, and what is known of its writes.
//!
//! Invariants: a pair is made anew with each epoch; who is promoted gives out no sequence that the
//! former primary can have used, whatever the MDM knew of it: the window bounds how far that was ahead
//! of what came here.

use super::{LocalShard, View};
use crate::id::{DeviceId, Epoch, PoolId, SdsId, ShardId, ShardSequence};
use crate::limits::REPLICATE_WINDOW;
use crate::map::{Member, ShardEntry};
use crate::replica::interface::DeviceSlot;
use crate::replica::peer::window::Window;
use crate::replica::peer::{PeerIndex, Peers};
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

    /// Devices of other servers that have second copies of what is served here.
    pub(in crate::replica) fn partners(&self) -> &[Partner] {
        &self.partners
    }

    /// The pool in which a device holds a shard; a device is in one pool.
    pub(in crate::replica) fn pool_of(&self, device: DeviceId, shard: ShardId) -> Option<PoolId> {
        let holds = |entry: &ShardEntry| entry.in_sync.members().iter().any(|member| member.device == device);
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
        let Some((peer, granted)) = local.and_then(|local| local.grace) else { return true };
        granted.grace_is_over(now, &peers.terms, peers.get(peer).refused)
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

    /// Whether a server is known by this view.
    pub(in crate::replica) fn knows_server(&self, sds: SdsId) -> bool {
        self.servers.iter().any(|known| known.id == sds)
    }

    /// Where a server can be reached.
    pub(in crate::replica) fn addresses(&self, sds: SdsId) -> Vec<String> {
        self.servers.iter().find(|known: &&SdsView| known.id == sds).map(|known| known.addresses.clone()).unwrap_or_default()
    }

    /// Works out anew which shards are pairs here. `own` names our device that is this member now.
    pub(super) fn pair_up(&mut self, own: impl Fn(Member) -> Option<DeviceSlot>, peers: &mut Peers, now: Nanos) {
        let Self { pools, owners, partners, version, .. } = self;
        partners.clear();
        peers.forget_roles();
        let peer_of = |member: Member, peers: &mut Peers| owners.get(&member.device).map(|sds| peers.index(*sds, now));
        for pool in pools.values_mut() {
            for (entry, local) in pool.map.shards.iter().zip(&mut pool.local) {
                let kept = local.pair.as_ref().is_some() && local.epoch == entry.epoch;
                if !kept {
                    let found = match *entry.in_sync.members() {
                        [first, second] => match (own(first), own(second)) {
                            (Some(slot), None) => peer_of(second, peers).map(|peer| (Side::Primary, slot, first, second, peer)),
                            (None, Some(slot)) => peer_of(first, peers).map(|peer| (Side::Secondary, slot, second, first, peer)),
                            (None, None) | (Some(_), Some(_)) => None,
                        },
                        _ => None,
                    };
                    change(local, entry, peers, *version);
                    local.pair = found.map(|(side, slot, own, other, peer)| {
                        peers.get_mut(peer).changed_at = *version;
                        let resolved = match side {
                            Side::Primary => local.next.get().saturating_sub(1),
                            Side::Secondary => entry.first_sequence.get().saturating_sub(1),
                        };
                        let window = Window::above(ShardSequence::new(resolved));
                        Box::new(Pair { side, slot, own, other, peer, window, broken: None })
                    });
                }
                if entry.in_sync.members().len() > 1 && local.pair.is_none() {
                    // Nobody can be told of its writes (yet): its server is not known, or is this one.
                    local.slot = None;
                }
                let Some(pair) = local.pair.as_deref() else { continue };
                peers.take_role(pair.peer, pair.side, pair.other.incarnation, now);
                let partner = Partner { slot: pair.slot, other: pair.other, peer: pair.peer };
                if pair.side == Side::Primary && !partners.contains(&partner) {
                    partners.push(partner);
                }
            }
        }
    }
}

/// A shard's configuration has changed: what its former pair leaves behind.
fn change(local: &mut LocalShard, entry: &ShardEntry, peers: &mut Peers, version: crate::id::MapVersion) {
    if let Some(former) = local.pair.take() {
        let peer = peers.get_mut(former.peer);
        peer.changed_at = version;
        peer.propose_due = Nanos::ZERO;
        if former.side == Side::Secondary && local.slot.is_some() {
            local.next = ShardSequence::new(local.next.get().saturating_add(REPLICATE_WINDOW));
            local.grace = Some((former.peer, peer.granted));
            peers.grace_begins(former.peer);
        }
    }
    if local.slot.is_none() {
        local.grace = None;
    }
    local.epoch = entry.epoch;
}
