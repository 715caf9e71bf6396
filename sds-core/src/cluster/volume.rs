//! Volumes: making and deleting them.
//!
//! Invariants: a name is unique; tree ids are never reused; a deleted volume's tree is remembered
//! until every device that can hold its extents has said that it freed them.

use super::outcome::{Bound, Event, Outcome, Refusal};
use super::state::{DeletedTree, Volume};
use super::{Cluster, CreateVolume, name, rfc3339};
use crate::id::{PoolId, SessionGeneration, TreeId, VolumeId};
use crate::limits::{DELETED_TREES_MAX, NAME_BYTES_MAX, OVER_PROVISIONING_MAX, VOLUME_BYTES_MAX, VOLUMES_MAX};
use crate::stripe::Stripe;
use crate::unit::{BLOCK_BYTES, ByteCount};

impl Cluster {
    pub(super) fn create_volume(&mut self, now_ms: u64, create: &CreateVolume, events: &mut Vec<Event>) -> Result<Outcome, Refusal> {
        name::check("volume", &create.name)?;
        check_size(create.size)?;
        let stripe = Stripe::new(create.stripe_unit, create.stripe_width).map_err(Refusal::Stripe)?;
        let pool = self.known_pool(&create.pool)?;
        if let Some(volume) = self.made_before(create, pool, stripe)? {
            return Ok(Outcome::VolumeCreated { volume, new: false });
        }
        if self.state.volume_names.contains_key(&create.name) {
            return Err(Refusal::VolumeExists { name: create.name.clone() });
        }
        if self.state.volumes.len() >= VOLUMES_MAX {
            return Err(Refusal::TooMany(Bound::Volumes));
        }
        let unplaced = self.state.pools.get(&pool).is_some_and(|pool| pool.map.shards.is_empty());
        let shards = if unplaced { self.place(pool)? } else { Vec::new() };
        self.check_room(create, pool)?;

        let version = self.next_version();
        self.state.versions.volumes = version;
        if unplaced {
            events.push(Event::ShardsPlaced { pool, devices: u32::try_from(self.pool_devices(pool).len()).unwrap_or(u32::MAX) });
            if let Some(pool) = self.state.pools.get_mut(&pool) {
                pool.map.shards = shards;
                pool.changed = version;
            }
        }
        self.state.issued.volume += 1;
        self.state.issued.tree += 1;
        let id = VolumeId::new(self.state.issued.volume);
        let volume = Volume {
            name: create.name.clone(),
            tree: TreeId::new(self.state.issued.tree),
            pool,
            size: create.size,
            stripe,
            key: create.key.clone(),
            created_ms: now_ms,
            sessions: Vec::new(),
        };
        self.state.volumes.insert(id, volume);
        self.state.volume_names.insert(create.name.clone(), id);
        events.push(Event::VolumeCreated { volume: id, name: create.name.clone() });
        Ok(Outcome::VolumeCreated { volume: id, new: true })
    }

    /// The volume that an earlier request with the same key made.
    fn made_before(&self, create: &CreateVolume, pool: PoolId, stripe: Stripe) -> Result<Option<VolumeId>, Refusal> {
        let Some(key) = &create.key else { return Ok(None) };
        if key.is_empty() || key.len() > NAME_BYTES_MAX {
            return Err(Refusal::KeyLength { bytes: key.len() });
        }
        let Some((id, volume)) = self.state.volumes.iter().find(|(_, volume)| volume.key.as_ref() == Some(key)) else { return Ok(None) };
        if volume.name == create.name && volume.size == create.size && volume.pool == pool && volume.stripe == stripe {
            return Ok(Some(*id));
        }
        Err(Refusal::KeyReused { name: volume.name.clone() })
    }

    fn check_room(&self, create: &CreateVolume, pool: PoolId) -> Result<(), Refusal> {
        let (raw, provisioned) = (self.pool_raw(pool), self.pool_provisioned(pool));
        let copies = self.state.pools.get(&pool).map(|pool| pool.copies).unwrap_or_default();
        let once = raw.get() / copies.count() as u64;
        let room = once.saturating_mul(OVER_PROVISIONING_MAX).saturating_sub(provisioned.get());
        if create.size.get() > room {
            let room = ByteCount::new(room - room % u64::from(BLOCK_BYTES));
            return Err(Refusal::OverProvisioned {
                size: create.size,
                pool: create.pool.clone(),
                raw,
                copies: copies.into(),
                provisioned,
                room,
            });
        }
        Ok(())
    }

    pub(super) fn delete_volume(
        &mut self,
        volume_name: &str,
        orphans: &[SessionGeneration],
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        let Some((id, volume)) = self.volume_by_name(volume_name) else {
            return Err(Refusal::NoVolume { name: volume_name.to_owned() });
        };
        if let Some(session) = volume.sessions.iter().find(|session| !orphans.contains(&session.generation)) {
            let (holder, since) = (session.holder.clone(), rfc3339(session.since_ms));
            return Err(Refusal::DeleteOpen { name: volume_name.to_owned(), holder, since });
        }
        let (tree, pool) = (volume.tree, volume.pool);
        let pending = self.pool_writers(pool);
        if self.state.deleted_trees.len() >= DELETED_TREES_MAX {
            return Err(Refusal::TooMany(Bound::DeletedTrees));
        }
        let version = self.next_version();
        self.state.versions.volumes = version;
        self.state.versions.deleted_trees = version;
        self.state.volume_names.remove(volume_name);
        if let Some(volume) = self.state.volumes.remove(&id) {
            events.extend(volume.sessions.into_iter().map(|session| Event::SessionFenced {
                volume: id,
                generation: session.generation,
                holder: session.holder,
            }));
        }
        self.state.deleted_trees.insert(tree, DeletedTree { pool, pending });
        events.push(Event::VolumeDeleted { volume: id, name: volume_name.to_owned() });
        Ok(Outcome::VolumeDeleted { volume: id })
    }
}

fn check_size(size: ByteCount) -> Result<(), Refusal> {
    if size == ByteCount::ZERO {
        return Err(Refusal::SizeZero);
    }
    if size.get() > VOLUME_BYTES_MAX {
        return Err(Refusal::SizeTooLarge { size });
    }
    if !size.is_block_aligned() {
        let below = size.get() - size.get() % u64::from(BLOCK_BYTES);
        return Err(Refusal::SizeUnaligned { size, below: ByteCount::new(below), above: ByteCount::new(below + u64::from(BLOCK_BYTES)) });
    }
    Ok(())
}
