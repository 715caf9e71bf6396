//! What must hold between the parts of the state, whatever was applied.

use super::Cluster;
use super::state::{State, Volume};
use crate::limits::{SESSIONS_PER_VOLUME_MAX, VOLUME_BYTES_MAX};
use crate::map::{Copies, ShardEntry};
use crate::stripe::Stripe;
use crate::view::SessionMode;
use std::collections::BTreeSet;

impl Cluster {
    /// The first contradiction in the state, in words; `None` in a sound one. For tests, the
    /// simulator, and snapshots that come from a disk.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let state = &self.state;
        if state.system.is_nil() {
            return (*state != State::default()).then_some("there is state before the system has a name");
        }
        shards(state).or_else(|| devices(state)).or_else(|| volumes(state)).or_else(|| trees(state)).or_else(|| versions(state))
    }
}

fn shards(state: &State) -> Option<&'static str> {
    for (id, pool) in &state.pools {
        if pool.map.pool != *id || id.get() > state.issued.pool {
            return Some("a pool's map names another pool");
        }
        if !pool.map.shards.is_empty() && pool.map.shards.len() != pool.shards as usize {
            return Some("a pool has more or fewer shards than it was made with");
        }
        for entry in &pool.map.shards {
            let members = entry.in_sync.members();
            if members.is_empty() || entry.epoch.get() == 0 || entry.first_sequence.get() == 0 {
                return Some("I1: a placed shard has an epoch, a member and a first sequence");
            }
            if entry.made_at > pool.changed || entry.made_at.get() == 0 {
                return Some("I3: an epoch is newer than the map that has it");
            }
            if entry.cache_lost_in > entry.epoch || (members.len() < 2 && entry.cache_lost.contains(&true)) {
                return Some("caches were lost in an epoch to come, or by no member");
            }
            for member in members.iter().chain(&entry.joining) {
                let Some(device) = state.devices.get(&member.device) else { return Some("a shard is on a device nobody knows") };
                if device.pool != *id {
                    return Some("a shard is on a device of another pool");
                }
                if device.incarnation < member.incarnation {
                    return Some("I6: a member is of a life in which its device never opened");
                }
            }
            if entry.lapsed.is_some_and(|lapsed| !state.devices.contains_key(&lapsed.device)) {
                return Some("a device that nobody knows fell out of a shard");
            }
            if let Some(fault) = copies(pool.copies, entry) {
                return Some(fault);
            }
        }
    }
    None
}

fn copies(copies: Copies, entry: &ShardEntry) -> Option<&'static str> {
    let members = entry.in_sync.members();
    if members.len() > copies.count() || (copies == Copies::One && (entry.joining.is_some() || entry.lapsed.is_some())) {
        return Some("a shard has more copies than its pool keeps");
    }
    if let [primary, secondary] = members
        && (primary.device == secondary.device || entry.joining.is_some() || entry.lapsed.is_some())
    {
        return Some("a shard's copies are on one device, or more than there may be");
    }
    if entry.lapsed.is_some_and(|lapsed| members.iter().any(|member| member.device == lapsed.device)) {
        return Some("I6: a device fell out of a shard and is a member of it");
    }
    let joins_itself = entry.joining.is_some_and(|joining| members.iter().any(|member| member.device == joining.device));
    joins_itself.then_some("a device joins a shard that it holds")
}

fn devices(state: &State) -> Option<&'static str> {
    if state.device_uuids.len() != state.devices.len() {
        return Some("the table of device identities does not fit the devices");
    }
    for (id, device) in &state.devices {
        if state.device_uuids.get(&device.uuid) != Some(id) || id.get() > state.issued.device {
            return Some("a device's identity names another device");
        }
        let Some(server) = state.servers.get(&device.sds) else { return Some("a device is at a server nobody knows") };
        if device.open && device.incarnation != server.incarnation {
            return Some("I6: a device serves in a life its server is not in");
        }
        if device.forgot_in.max(device.cache_lost_in) > Some(device.incarnation) {
            return Some("a device lost what it had in a life to come");
        }
        if device.incarnation.get() > state.issued.incarnation {
            return Some("I6: an incarnation was never issued");
        }
        if !state.pools.contains_key(&device.pool) {
            return Some("a device is in a pool nobody knows");
        }
    }
    let uuids: BTreeSet<_> = state.servers.values().map(|server| server.uuid).collect();
    (uuids.len() != state.servers.len()).then_some("two servers have one identity")
}

fn volumes(state: &State) -> Option<&'static str> {
    if state.volume_names.len() != state.volumes.len() {
        return Some("the table of volume names does not fit the volumes");
    }
    let mut trees = BTreeSet::new();
    for (id, volume) in &state.volumes {
        if state.volume_names.get(&volume.name) != Some(id) || id.get() > state.issued.volume {
            return Some("a volume's name names another volume");
        }
        if !trees.insert(volume.tree) || volume.tree.get() > state.issued.tree || state.deleted_trees.contains_key(&volume.tree) {
            return Some("a tree belongs to two volumes");
        }
        if volume.size.get() == 0 || volume.size.get() > VOLUME_BYTES_MAX || !volume.size.is_block_aligned() {
            return Some("a volume has a size that it cannot have");
        }
        if Stripe::new(volume.stripe.unit(), volume.stripe.width()).is_err() {
            return Some("a volume has a layout that it cannot have");
        }
        if state.pools.get(&volume.pool).is_none_or(|pool| pool.map.shards.is_empty()) {
            return Some("a volume is in a pool without shards");
        }
        if let Some(fault) = sessions(state, volume) {
            return Some(fault);
        }
    }
    None
}

fn sessions(state: &State, volume: &Volume) -> Option<&'static str> {
    let clients: BTreeSet<_> = volume.sessions.iter().map(|session| session.client).collect();
    if clients.len() != volume.sessions.len() || clients.len() > SESSIONS_PER_VOLUME_MAX {
        return Some("a client has two sessions of one volume");
    }
    let exclusive = volume.sessions.iter().filter(|session| session.mode == SessionMode::Exclusive).count();
    let shared = volume.sessions.iter().filter(|session| session.mode == SessionMode::Shared).count();
    if exclusive > 1 || (exclusive == 1 && shared > 0) {
        return Some("an exclusive session is not alone");
    }
    let mut last = 0;
    for session in &volume.sessions {
        if session.generation.get() <= last || session.generation.get() > state.issued.generation {
            return Some("I3: session generations only rise");
        }
        last = session.generation.get();
    }
    None
}

fn trees(state: &State) -> Option<&'static str> {
    for (id, tree) in &state.deleted_trees {
        if tree.pending.is_empty() || id.get() > state.issued.tree {
            return Some("a deleted tree waits for nobody");
        }
        if tree.pending.iter().any(|device| !state.devices.contains_key(device)) {
            return Some("a deleted tree waits for a device nobody knows");
        }
    }
    None
}

fn versions(state: &State) -> Option<&'static str> {
    let parts = [state.versions.volumes, state.versions.servers, state.versions.deleted_trees];
    let pools = state.pools.values().map(|pool| pool.changed);
    pools.chain(parts).any(|part| part > state.versions.current).then_some("a part is newer than the whole")
}
