//! What the client knows of the system: the newest view, in the form that routing needs.
//!
//! Invariants: the version only rises; a route is looked up without hashing a shard; device numbers
//! are dense, so per-device state of a session is a plain vector.
//!
//! Must not know: links, requests, sessions' state.

use super::server::{ServerIndex, Servers};
use crate::bugs::{self, Bug};
use crate::collections::Map;
use crate::id::{
    ClientId, DeviceId, Epoch, ExtentIndex, Incarnation, MapVersion, PoolId, SdsId, SessionGeneration, ShardId, SystemId, TreeId, VolumeId,
};
use crate::shard::shard_of;
use crate::stripe::Stripe;
use crate::unit::ByteCount;
use crate::view::{ViewUpdate, VolumeView};

/// A device's number at this client: dense, given once, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DeviceIndex(u32);

impl DeviceIndex {
    pub(super) const fn new(raw: u32) -> Self {
        Self(raw)
    }

    pub(super) const fn get(self) -> usize {
        self.0 as usize
    }
}

/// A pool's number at this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolIndex(usize);

#[derive(Clone, Copy, Debug)]
struct KnownDevice {
    id: DeviceId,
    server: Option<ServerIndex>,
}

#[derive(Clone, Copy, Debug)]
struct ShardRoute {
    epoch: Epoch,
    /// And the life in which it serves.
    primary: Option<(DeviceIndex, Incarnation)>,
    /// Newest epoch that began with no copy's volatile cache kept.
    cache_lost_in: Epoch,
}

#[derive(Debug)]
struct Pool {
    id: PoolId,
    /// The version that changed its shards last.
    changed: MapVersion,
    shards: Vec<ShardRoute>,
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    pub(super) device: DeviceIndex,
    pub(super) server: ServerIndex,
}

/// A volume, as far as a client cares.
#[derive(Clone, Copy, Debug)]
pub(super) struct KnownVolume {
    pub(super) tree: TreeId,
    pub(super) pool: PoolIndex,
    pub(super) size: ByteCount,
    pub(super) stripe: Stripe,
    /// Generation of this client's own session, if it has one.
    pub(super) own: Option<SessionGeneration>,
}

#[derive(Debug, Default)]
pub(super) struct Topology {
    system: Option<SystemId>,
    version: MapVersion,
    pools: Vec<Pool>,
    devices: Vec<KnownDevice>,
    device_numbers: Map<DeviceId, DeviceIndex>,
    volumes: Map<VolumeId, KnownVolume>,
}

impl Topology {
    pub(super) const fn system(&self) -> Option<SystemId> {
        self.system
    }

    /// Takes the system's id from the MDM; `false` if another one is known already.
    pub(super) fn meet(&mut self, system: SystemId) -> bool {
        *self.system.get_or_insert(system) == system
    }

    pub(super) const fn version(&self) -> MapVersion {
        self.version
    }

    pub(super) fn volume(&self, id: VolumeId) -> Option<&KnownVolume> {
        self.volumes.get(&id)
    }

    pub(super) fn device_id(&self, device: DeviceIndex) -> DeviceId {
        self.devices[device.get()].id
    }

    pub(super) fn server_of(&self, device: DeviceIndex) -> Option<ServerIndex> {
        self.devices[device.get()].server
    }

    /// The primary of an extent's shard, or `None` while there is nobody to ask.
    pub(super) fn route(&self, pool: PoolIndex, tree: TreeId, extent: ExtentIndex) -> Option<Route> {
        let shards = &self.pools[pool.0].shards;
        if shards.is_empty() {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most SHARDS_PER_POOL_MAX")]
        let shard = shard_of(tree, extent, shards.len() as u32);
        self.route_shard(pool, shard)
    }

    /// The primary of a shard, likewise.
    pub(super) fn route_shard(&self, pool: PoolIndex, shard: ShardId) -> Option<Route> {
        let ShardRoute { epoch, primary, .. } = *self.pools[pool.0].shards.get(shard.get() as usize)?;
        let (device, _) = primary?;
        Some(Route { shard, epoch, device, server: self.server_of(device)? })
    }

    /// How many shards a pool has; 0 while they are not placed.
    pub(super) fn shard_count(&self, pool: PoolIndex) -> usize {
        self.pools[pool.0].shards.len()
    }

    /// The version that changed a pool's shards last.
    pub(super) fn changed(&self, pool: PoolIndex) -> MapVersion {
        self.pools[pool.0].changed
    }

    /// If a flush asked about `asked` covered `shard` as well, by the newest map: the newest epoch of that which began without caches.
    pub(super) fn flushed_with(&self, pool: PoolIndex, asked: ShardId, shard: ShardId) -> Option<Epoch> {
        let shards = &self.pools[pool.0].shards;
        let primary = |shard: ShardId| shards.get(shard.get() as usize).and_then(|route| route.primary);
        let route = shards.get(shard.get() as usize)?;
        (route.primary.is_some() && (route.primary == primary(asked) || bugs::is(Bug::FlushAsksOneDevice))).then_some(route.cache_lost_in)
    }

    /// Takes a newer view; `false` (and nothing changed) if it is not newer.
    pub(super) fn apply(&mut self, update: &ViewUpdate, me: ClientId, servers: &mut Servers) -> bool {
        if update.version <= self.version || !self.meet(update.system) {
            return false;
        }
        self.version = update.version;
        if let Some((devices, sdss)) = &update.servers {
            for sds in sdss {
                servers.learn(sds);
            }
            for known in &mut self.devices {
                known.server = None;
            }
            for device in devices {
                self.place_device(device.id, device.sds, servers);
            }
        }
        for map in &update.pools {
            let shards = map
                .shards
                .iter()
                .map(|entry| ShardRoute {
                    epoch: entry.epoch,
                    primary: entry
                        .in_sync
                        .primary()
                        .map(|member| (Self::number(&mut self.devices, &mut self.device_numbers, member.device), member.incarnation)),
                    cache_lost_in: entry.cache_lost_in,
                })
                .collect();
            let index = self.pool_index(map.pool);
            let pool = &mut self.pools[index.0];
            (pool.shards, pool.changed) = (shards, update.version);
        }
        if let Some(volumes) = &update.volumes {
            self.volumes.clear();
            for volume in volumes {
                self.learn_volume(volume, me);
            }
        }
        true
    }

    fn learn_volume(&mut self, volume: &VolumeView, me: ClientId) {
        let pool = self.pool_index(volume.pool);
        let own = volume.sessions.iter().filter(|session| session.client == me).map(|session| session.generation).max();
        let known = KnownVolume { tree: volume.tree, pool, size: volume.size, stripe: volume.stripe, own };
        self.volumes.insert(volume.id, known);
    }

    fn place_device(&mut self, id: DeviceId, sds: SdsId, servers: &Servers) {
        let index = Self::number(&mut self.devices, &mut self.device_numbers, id);
        self.devices[index.get()].server = servers.find(sds);
    }

    fn number(devices: &mut Vec<KnownDevice>, numbers: &mut Map<DeviceId, DeviceIndex>, id: DeviceId) -> DeviceIndex {
        *numbers.entry(id).or_insert_with(|| {
            devices.push(KnownDevice { id, server: None });
            DeviceIndex(u32::try_from(devices.len() - 1).expect("a system has fewer devices than device ids"))
        })
    }

    fn pool_index(&mut self, id: PoolId) -> PoolIndex {
        if let Some(index) = self.pools.iter().position(|pool| pool.id == id) {
            return PoolIndex(index);
        }
        self.pools.push(Pool { id, changed: MapVersion::default(), shards: Vec::new() });
        PoolIndex(self.pools.len() - 1)
    }
}
