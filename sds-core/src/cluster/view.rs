//! The state as data servers and clients see it, as updates from any version they have.
//!
//! Invariant: a recipient at version `v` that applies `view_since(v)` has what one that applied
//! `view_since(0)` has. Tickets of a client are shown to data servers and to that client only.

use super::Cluster;
use super::state::{Session, Volume};
use crate::id::{ClientId, MapVersion, SdsId, VolumeId};
use crate::view::{DeviceView, SdsView, SessionView, ViewUpdate, VolumeView};
use std::collections::BTreeSet;

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// A data server.
    Sds,
    /// A client: it sees no session but its own.
    Client(ClientId),
}

impl Cluster {
    /// What changed since `since` (0 is before everything); `None` if nothing did.
    #[must_use]
    pub fn view_since(&self, since: MapVersion, recipient: Recipient) -> Option<ViewUpdate> {
        let versions = self.state.versions;
        if versions.current <= since {
            return None;
        }
        // Who has nothing is told everything, also where that is empty.
        let changed = |part: MapVersion| part > since || since == MapVersion::default();
        let deleted_trees = match recipient {
            Recipient::Sds => changed(versions.deleted_trees).then(|| self.state.deleted_trees.keys().copied().collect()),
            Recipient::Client(_) => None,
        };
        Some(ViewUpdate {
            system: self.state.system,
            version: versions.current,
            pools: self.state.pools.values().filter(|pool| changed(pool.changed)).map(|pool| pool.map.clone()).collect(),
            volumes: changed(versions.volumes)
                .then(|| self.state.volumes.iter().map(|(id, volume)| volume_view(*id, volume, recipient)).collect()),
            servers: changed(versions.servers).then(|| self.servers_view()),
            deleted_trees,
        })
    }

    fn servers_view(&self) -> (Vec<DeviceView>, Vec<SdsView>) {
        let devices = self.state.devices.iter().map(|(id, device)| DeviceView { id: *id, sds: device.sds }).collect();
        let view = |(id, server): (&SdsId, &super::state::Server)| SdsView {
            id: *id,
            name: server.name.clone(),
            addresses: server.addresses.clone(),
        };
        (devices, self.state.servers.iter().map(view).collect())
    }

    /// A volume as one client sees it.
    #[must_use]
    pub fn volume_view_for(&self, id: VolumeId, client: ClientId) -> Option<VolumeView> {
        self.state.volumes.get(&id).map(|volume| volume_view(id, volume, Recipient::Client(client)))
    }

    /// Servers that are primary for a shard of the volume's pool: those who must enforce a session
    /// before it is used.
    #[must_use]
    pub fn primaries_of(&self, id: VolumeId) -> BTreeSet<SdsId> {
        let Some(pool) = self.state.volumes.get(&id).and_then(|volume| self.state.pools.get(&volume.pool)) else {
            return BTreeSet::new();
        };
        let devices: BTreeSet<_> = pool.map.shards.iter().filter_map(|entry| entry.in_sync.primary()).map(|member| member.device).collect();
        devices.iter().filter_map(|device| self.state.devices.get(device)).map(|device| device.sds).collect()
    }
}

fn volume_view(id: VolumeId, volume: &Volume, recipient: Recipient) -> VolumeView {
    let shown = |session: &&Session| match recipient {
        Recipient::Sds => true,
        Recipient::Client(client) => session.client == client,
    };
    let view = |session: &Session| SessionView {
        client: session.client,
        ticket: session.ticket,
        generation: session.generation,
        mode: session.mode,
    };
    VolumeView {
        id,
        name: volume.name.clone(),
        tree: volume.tree,
        pool: volume.pool,
        size: volume.size,
        stripe: volume.stripe,
        sessions: volume.sessions.iter().filter(shown).map(view).collect(),
    }
}
