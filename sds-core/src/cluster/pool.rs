//! Pools: making them, and placing their shards when the first volume needs them.

use super::outcome::{Bound, Event, Outcome, Refusal};
use super::state::{DeletedTree, Losses, Pool};
use super::{Cluster, name};
use crate::bugs::{self, Bug};
use crate::id::{DeviceId, Epoch, PoolId, SdsId, ShardSequence, TreeId};
use crate::limits::{POOLS_MAX, SHARDS_MAX, SHARDS_PER_POOL_MAX};
use crate::map::{Copies, InSync, Member, ShardEntry, ShardMap};
use crate::placement;
use crate::unit::ByteCount;
use std::collections::{BTreeMap, BTreeSet};

impl Cluster {
    pub(super) fn create_pool(
        &mut self,
        pool_name: &str,
        shards: u32,
        copies: Copies,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        name::check("pool", pool_name)?;
        if shards == 0 || shards > SHARDS_PER_POOL_MAX {
            return Err(Refusal::ShardCount { shards });
        }
        if self.pool_by_name(pool_name).is_some() {
            return Err(Refusal::PoolExists { name: pool_name.to_owned() });
        }
        if self.state.pools.len() >= POOLS_MAX {
            return Err(Refusal::TooMany(Bound::Pools));
        }
        let promised: u64 = self.state.pools.values().map(|pool| u64::from(pool.shards)).sum();
        if promised + u64::from(shards) > SHARDS_MAX {
            return Err(Refusal::TooMany(Bound::Shards));
        }
        self.next_version();
        Ok(Outcome::PoolCreated { pool: self.add_pool(pool_name, shards, copies, events) })
    }

    pub(super) fn add_pool(&mut self, pool_name: &str, shards: u32, copies: Copies, events: &mut Vec<Event>) -> PoolId {
        self.state.issued.pool += 1;
        let id = PoolId::new(self.state.issued.pool);
        let map = ShardMap { pool: id, shards: Vec::new() };
        self.state
            .pools
            .insert(id, Pool { name: pool_name.to_owned(), shards, copies, map, changed: self.version(), losses: Losses::default() });
        events.push(Event::PoolCreated { pool: id, name: pool_name.to_owned() });
        id
    }

    /// A pool, by name. There are few.
    #[must_use]
    pub fn pool_by_name(&self, pool_name: &str) -> Option<(PoolId, &Pool)> {
        self.state.pools.iter().find(|(_, pool)| pool.name == pool_name).map(|(id, pool)| (*id, pool))
    }

    pub(super) fn known_pool(&self, pool_name: &str) -> Result<PoolId, Refusal> {
        self.pool_by_name(pool_name).map(|(id, _)| id).ok_or_else(|| Refusal::NoPool {
            name: pool_name.to_owned(),
            known: self.state.pools.values().map(|pool| pool.name.clone()).collect(),
        })
    }

    /// Devices that hold (or will hold) a pool's shards, in sync or not: those in its map, or if there is none yet,
    /// those that serve now.
    #[must_use]
    pub fn pool_devices(&self, pool: PoolId) -> BTreeSet<DeviceId> {
        let placed = self.state.pools.get(&pool).map_or(&[][..], |pool| &pool.map.shards);
        if placed.is_empty() {
            return self.state.devices.iter().filter(|(_, device)| device.pool == pool && device.open).map(|(id, _)| *id).collect();
        }
        placed.iter().flat_map(ShardEntry::devices).collect()
    }

    /// Devices that receive a pool's writes: in sync or joining. Those that fell out free what is gone when they return.
    pub(super) fn pool_writers(&self, pool: PoolId) -> BTreeSet<DeviceId> {
        let placed = self.state.pools.get(&pool).map_or(&[][..], |pool| &pool.map.shards);
        placed.iter().flat_map(|entry| entry.in_sync.members().iter().copied().chain(entry.joining)).map(|member| member.device).collect()
    }

    /// Bytes of a pool's devices.
    #[must_use]
    pub fn pool_raw(&self, pool: PoolId) -> ByteCount {
        let devices = self.pool_devices(pool);
        ByteCount::new(devices.iter().filter_map(|id| self.state.devices.get(id)).map(|device| device.capacity.total.get()).sum())
    }

    /// Bytes that a pool has promised to its volumes.
    #[must_use]
    pub fn pool_provisioned(&self, pool: PoolId) -> ByteCount {
        let sizes = self.state.volumes.values().filter(|volume| volume.pool == pool).map(|volume| volume.size.get());
        ByteCount::new(sizes.fold(0, u64::saturating_add))
    }

    /// The shards of a pool that has none yet, at their first epoch; the caller commits to them.
    pub(super) fn place(&self, pool: PoolId) -> Result<Vec<ShardEntry>, Refusal> {
        let Some(record) = self.state.pools.get(&pool) else { return Ok(Vec::new()) };
        let fault_sets: BTreeSet<&str> = self.state.servers.values().map(|server| server.fault_set.as_str()).collect();
        let numbers: BTreeMap<&str, u32> = fault_sets.into_iter().zip(0..).collect();
        let fault_set = |sds: SdsId| self.state.servers.get(&sds).and_then(|server| numbers.get(server.fault_set.as_str()));
        let targets: Vec<_> = self
            .pool_devices(pool)
            .into_iter()
            .filter_map(|id| Some((id, self.state.devices.get(&id)?)))
            .map(|(id, device)| placement::Target {
                device: id,
                sds: device.sds,
                fault_set: if bugs::is(Bug::OneFaultSet) { device.sds.get() } else { fault_set(device.sds).copied().unwrap_or(u32::MAX) },
                weight: device.capacity.total.get(),
            })
            .collect();
        if targets.is_empty() {
            return Err(Refusal::PoolWithoutDevices { pool: record.name.clone() });
        }
        let placed = placement::place(&targets, record.shards, record.copies.count())
            .map_err(|error| Refusal::Placement { pool: record.name.clone(), error })?;
        Ok(placed.iter().map(|homes| self.first_epoch(homes)).collect())
    }

    fn first_epoch(&self, homes: &placement::Homes) -> ShardEntry {
        let member = |device: DeviceId| Member {
            device,
            incarnation: self.state.devices.get(&device).map(|record| record.incarnation).unwrap_or_default(),
        };
        let ceiling = |device: DeviceId| self.state.devices.get(&device).map(|record| record.sequence_ceiling).unwrap_or_default();
        let (in_sync, ceiling) = match homes.secondary {
            None => (InSync::sole(member(homes.primary)), ceiling(homes.primary)),
            Some(secondary) => (InSync::pair(member(homes.primary), member(secondary)), ceiling(homes.primary).max(ceiling(secondary))),
        };
        // Sequence 0 is before the first.
        let first_sequence = ceiling.max(ShardSequence::new(1));
        ShardEntry { epoch: Epoch::new(1), in_sync, first_sequence, made_at: self.coming_version(), ..ShardEntry::default() }
    }

    pub(super) fn trees_freed(
        &mut self,
        sds: SdsId,
        device: DeviceId,
        trees: &[TreeId],
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        if self.state.devices.get(&device).is_none_or(|record| record.sds != sds) {
            return Err(Refusal::NotOwner { sds, device });
        }
        let mut gone = Vec::new();
        for tree in trees {
            let Some(DeletedTree { pending, .. }) = self.state.deleted_trees.get_mut(tree) else { continue };
            pending.remove(&device);
            if pending.is_empty() {
                gone.push(*tree);
            }
        }
        if !gone.is_empty() {
            self.state.versions.deleted_trees = self.next_version();
        }
        for tree in gone {
            self.state.deleted_trees.remove(&tree);
            events.push(Event::TreeFreed { tree });
        }
        Ok(Outcome::TreesFreed)
    }
}
