//! The newest view applied: volumes with their sessions, pools with their shard maps, and which shards
//! this node serves from which device.
//!
//! Invariants: the version only rises; a shard's epoch only rises (I1); a shard is served only where
//! its primary is one of our devices in our present incarnation (I6); a shard's sequences are never
//! given out twice in a process life.
//!
//! Must not know: links, requests, stores.

pub(super) mod pair;

use super::interface::DeviceSlot;
use super::peer::{PeerIndex, Peers};
use crate::bugs::{self, Bug};
use crate::collections::Map;
use crate::id::{ClientId, DeviceId, Epoch, Incarnation, MapVersion, PoolId, SdsId, ShardId, ShardSequence, Ticket, TreeId, VolumeId};
use crate::map::{Member, ShardEntry, ShardMap};
use crate::protocol::fence::may_serve_epoch;
use crate::protocol::lease::Granted;
use crate::unit::Nanos;
use crate::view::{SdsView, ViewUpdate, VolumeView};
use pair::{Pair, Partner};

/// A shard as this node has it.
#[derive(Clone, Debug, Default)]
struct LocalShard {
    /// Device that serves it; `None` when it is not ours.
    slot: Option<DeviceSlot>,
    /// Next sequence to give out, if it is ours; above all that have come, if we are its secondary.
    next: ShardSequence,
    /// Epoch that the rest was worked out for.
    epoch: Epoch,
    /// Whether every extent of it here is settled; a shard that is not serves nobody (I8).
    settled: bool,
    /// With another server's copy.
    pair: Option<Box<Pair>>,
    /// Whom it was taken over from, what lease that server then had, and the version that said so.
    grace: Option<(PeerIndex, Granted, MapVersion)>,
}

#[derive(Debug, Default)]
struct Pool {
    map: ShardMap,
    /// Version that changed its map last.
    changed: MapVersion,
    local: Vec<LocalShard>,
}

/// How a shard stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No such pool or shard in this view.
    Unknown,
    /// Somebody else is its primary.
    Elsewhere {
        /// At this epoch.
        epoch: Epoch,
    },
    /// Our device is its primary, but in a former process life: a newer configuration is on its way; or it is not settled yet.
    Former {
        /// At this epoch.
        epoch: Epoch,
        /// Which of ours.
        device: DeviceId,
    },
    /// Served here.
    Here {
        /// At this epoch.
        epoch: Epoch,
        /// From this device.
        slot: DeviceSlot,
    },
}

/// The view.
#[derive(Debug, Default)]
pub(super) struct View {
    version: MapVersion,
    volumes: Map<VolumeId, VolumeView>,
    pools: Map<PoolId, Pool>,
    epochs_refused: u64,
    /// Servers, and whose the devices are.
    servers: Vec<SdsView>,
    owners: Map<DeviceId, SdsId>,
    partners: Vec<Partner>,
    /// What former pairs have left behind, for the stores.
    left: pair::Left,
}

impl View {
    /// Version applied; 0 before the first.
    pub(super) const fn version(&self) -> MapVersion {
        self.version
    }

    /// Configurations refused because their epoch was lower than the one applied.
    pub(super) const fn epochs_refused(&self) -> u64 {
        self.epochs_refused
    }

    /// A volume.
    pub(super) fn volume(&self, id: VolumeId) -> Option<&VolumeView> {
        self.volumes.get(&id)
    }

    /// All volumes.
    pub(super) fn volumes(&self) -> impl Iterator<Item = &VolumeView> {
        self.volumes.values()
    }

    /// A volume that owns a tree.
    pub(super) fn volume_of_tree(&self, tree: TreeId) -> Option<&VolumeView> {
        self.volumes.values().find(|volume| volume.tree == tree)
    }

    /// Whether any session knows this client by this ticket.
    pub(super) fn knows(&self, client: ClientId, ticket: Ticket) -> bool {
        self.volumes.values().flat_map(|volume| &volume.sessions).any(|session| session.client == client && session.ticket == ticket)
    }

    /// Whether a client has any session.
    pub(super) fn has_session(&self, client: ClientId) -> bool {
        self.volumes.values().flat_map(|volume| &volume.sessions).any(|session| session.client == client)
    }

    /// Shards of a pool; 0 while they are not placed or the pool is not known.
    pub(super) fn shard_count(&self, pool: PoolId) -> u32 {
        self.pools.get(&pool).map_or(0, |pool| pool.map.shard_count())
    }

    /// How a shard stands here.
    pub(super) fn standing(&self, pool: PoolId, shard: ShardId, ours: impl Fn(DeviceId) -> bool) -> Standing {
        let Some(pool) = self.pools.get(&pool) else { return Standing::Unknown };
        let Some(entry) = pool.map.entry(shard) else { return Standing::Unknown };
        let epoch = entry.epoch;
        match pool.local.get(shard.get() as usize).and_then(|local| local.slot.filter(|_| local.settled)) {
            Some(slot) => Standing::Here { epoch, slot },
            None => match entry.in_sync.primary() {
                Some(primary) if ours(primary.device) => Standing::Former { epoch, device: primary.device },
                Some(_) | None => Standing::Elsewhere { epoch },
            },
        }
    }

    /// The version that changed a pool's shards last.
    pub(super) fn changed(&self, pool: PoolId) -> MapVersion {
        self.pools.get(&pool).map(|pool| pool.changed).unwrap_or_default()
    }

    /// A shard's epoch; 0 when the shard is not known.
    pub(super) fn epoch(&self, pool: PoolId, shard: ShardId) -> Epoch {
        self.pools.get(&pool).and_then(|pool| pool.map.entry(shard)).map(|entry| entry.epoch).unwrap_or_default()
    }

    /// Gives out a shard's next sequence if it is below `ceiling`.
    ///
    /// # Errors
    /// The sequence it would have been, which needs a higher ceiling.
    pub(super) fn take_sequence(&mut self, pool: PoolId, shard: ShardId, ceiling: ShardSequence) -> Result<ShardSequence, ShardSequence> {
        let local = self.pools.get_mut(&pool).and_then(|pool| pool.local.get_mut(shard.get() as usize));
        let Some(local) = local else { unreachable!("a request is routed to a known shard, and shards do not vanish") };
        let sequence = local.next;
        if sequence >= ceiling {
            return Err(sequence);
        }
        local.next = ShardSequence::new(sequence.get() + 1);
        Ok(sequence)
    }

    /// The highest sequence that a shard of this device will give out next; `None` when it serves none.
    pub(super) fn highest_next(&self, slot: DeviceSlot) -> Option<ShardSequence> {
        let local = self.pools.values().flat_map(|pool| &pool.local);
        local.filter(|local| local.slot == Some(slot)).map(|local| local.next).max()
    }

    /// Takes in an update; `false` when it is not newer than what is applied.
    pub(super) fn apply(&mut self, update: &ViewUpdate) -> bool {
        if update.version <= self.version {
            return false;
        }
        self.version = update.version;
        for map in &update.pools {
            let pool = self.pools.entry(map.pool).or_default();
            pool.changed = update.version;
            self.epochs_refused += pool.replace(map, update.version);
        }
        let leads = |pool: &Pool| pool.local.iter().any(|local| local.slot.is_some());
        let takes_in = !bugs::is(Bug::SessionsOfSecondaryOld) || self.volumes.is_empty() || self.pools.values().any(leads);
        if let Some(volumes) = update.volumes.as_ref().filter(|_| takes_in) {
            self.volumes.clear();
            self.volumes.extend(volumes.iter().map(|volume| (volume.id, volume.clone())));
        }
        if let Some((devices, servers)) = &update.servers {
            self.servers.clone_from(servers);
            self.owners.clear();
            self.owners.extend(devices.iter().map(|device| (device.id, device.sds)));
        }
        true
    }

    /// Works out anew which shards are served here. `slot_of` names our device that is this member now.
    pub(super) fn localize(
        &mut self,
        slot_of: impl Fn(Member) -> Option<DeviceSlot>,
        is_clean: impl Fn(DeviceSlot) -> bool,
        peers: &mut Peers,
        now: Nanos,
    ) {
        for pool in self.pools.values_mut() {
            for (entry, local) in pool.map.shards.iter().zip(&mut pool.local) {
                local.slot = entry.in_sync.primary().and_then(&slot_of);
            }
        }
        self.pair_up(slot_of, is_clean, peers, now);
    }
}

impl Pool {
    /// Takes in a map, except for shards whose epoch would go back (I1), or is of a later version than the map's (a session
    /// made before it would not be known here, I3); returns how many those are.
    fn replace(&mut self, map: &ShardMap, version: MapVersion) -> u64 {
        let mut refused = 0;
        let known: &[ShardEntry] = &self.map.shards;
        let mut shards = map.shards.clone();
        // Number of shards never changes once placed; a shorter list leaves the rest as they were.
        shards.extend(known.iter().skip(shards.len()));
        for (place, new) in shards.iter_mut().enumerate() {
            let old = known.get(place).copied().unwrap_or_default();
            if new.epoch < old.epoch || !may_serve_epoch(version, new.made_at) {
                *new = old;
                refused += 1;
            }
        }
        self.local.resize(shards.len(), LocalShard::default());
        self.map = ShardMap { pool: map.pool, shards };
        refused
    }
}

/// Whether a member is this device in this life (I6).
pub(super) fn is_member(member: Member, device: DeviceId, incarnation: Incarnation) -> bool {
    member.device == device && member.incarnation == incarnation
}
