//! What the leader reports, as log lines.

use sds_core::cluster;
use sds_core::cluster::leader::Event;

pub(crate) fn log(event: &Event) {
    match event {
        Event::Cluster(event) => log_cluster(event),
        Event::SdsUp { sds, name } => tracing::info!(%sds, name, "data server is up"),
        Event::SdsDown { sds, name, left: true } => tracing::info!(%sds, name, "data server has left"),
        Event::SdsDown { sds, name, left: false } => tracing::warn!(%sds, name, "data server is down"),
        Event::SdsStalled { sds, name, stalled: true } => tracing::warn!(%sds, name, "the data loop of a server makes no turns"),
        Event::SdsStalled { sds, name, stalled: false } => tracing::info!(%sds, name, "the data loop of a server makes turns again"),
        Event::RolesUneven { pool, shards } => tracing::info!(pool, shards, "primaries are evened out over the devices"),
        Event::RegistrationWaits { link, name } => {
            tracing::warn!(link = link.get(), name, "a registration waits: another live server has the same identity or device");
        }
        Event::Refused { link, reason } => tracing::warn!(link = link.get(), reason, "refused"),
        Event::WentBack { link, theirs, ours } => {
            tracing::error!(link = link.get(), %theirs, %ours, "mdm-went-back: somebody has seen newer metadata than this member has");
        }
        Event::ClientConnected { link, name } => tracing::info!(link = link.get(), name, "client connected"),
        Event::OpenNotConfirmed { volume, waiting } => {
            tracing::warn!(volume, ?waiting, "an open was given up: data servers did not confirm it in time");
        }
        Event::OpenRefused { volume, reason } => tracing::warn!(volume, reason, "an open was refused"),
    }
}

fn log_cluster(event: &cluster::Event) {
    match event {
        cluster::Event::SdsRegistered { sds, name, incarnation } => tracing::info!(%sds, name, %incarnation, "data server registered"),
        cluster::Event::SdsRetired { sds, name } => {
            tracing::warn!(%sds, name, "data server forgotten: its last device is at another one");
        }
        cluster::Event::DeviceAdded { device, uuid, sds } => tracing::info!(%device, %uuid, %sds, "device added"),
        cluster::Event::DeviceMoved { device, from, to } => tracing::warn!(%device, %from, %to, "device moved to another server"),
        cluster::Event::DeviceClosed { device } => tracing::warn!(%device, "device does not serve any more"),
        cluster::Event::DeviceWentBack { device } => {
            tracing::error!(%device, "device went back in time: its sequence ceiling is lower than it was");
        }
        cluster::Event::DeviceForgot { device, flushed, found } => {
            tracing::error!(%device, %flushed, %found, "device has forgotten: its log ends before what it had flushed");
        }
        cluster::Event::ShardsAdvanced { device, shards } => tracing::info!(%device, shards, "shards have a new epoch"),
        cluster::Event::ShardsChanged { sds, shards } => tracing::info!(%sds, shards, "shards have a new configuration"),
        cluster::Event::ShardsJoining { device, shards } => tracing::info!(%device, shards, "device joins shards it fell out of"),
        cluster::Event::ShardsAlone { device, absent, shards, unflushed } => {
            tracing::warn!(%device, %absent, shards, unflushed, "a device goes on alone: the other has not come back");
        }
        cluster::Event::ShardForced { pool, shard, device, epoch, lost } => {
            tracing::error!(%pool, shard, %device, %epoch, lost, "an operator forced a copy of a shard");
        }
        cluster::Event::ProposalsRefused { sds, fault, shards, first: (pool, shard) } => {
            tracing::warn!(%sds, %fault, shards, %pool, %shard, "proposals for shards were refused");
        }
        cluster::Event::ShardsPlaced { pool, devices } => tracing::info!(%pool, devices, "shards of the pool placed"),
        cluster::Event::PoolCreated { pool, name } => tracing::info!(%pool, name, "pool created"),
        cluster::Event::VolumeCreated { volume, name } => tracing::info!(%volume, name, "volume created"),
        cluster::Event::VolumeDeleted { volume, name } => tracing::info!(%volume, name, "volume deleted"),
        cluster::Event::SessionOpened { volume, generation, holder } => tracing::info!(%volume, %generation, holder, "session opened"),
        cluster::Event::SessionFenced { volume, generation, holder } => tracing::warn!(%volume, %generation, holder, "session fenced"),
        cluster::Event::SessionClosed { volume, generation } => tracing::info!(%volume, %generation, "session closed"),
        cluster::Event::TreeFreed { tree } => tracing::info!(%tree, "a deleted volume's space is free on every device"),
    }
}
