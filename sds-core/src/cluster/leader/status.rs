//! The state as operators read it, made from the committed and the soft state together.
//!
//! Where a server has not been heard of, what it registered with last is shown, and the device is
//! `unreachable`.

use super::Leader;
use super::sds::Node;
use crate::cluster::report::{
    DeviceStateStatus, DeviceStatus, LossCounts, PoolStatus, SdsState, SdsStatus, SessionStatus, SystemStatus, VolumeStatus,
};
use crate::cluster::rfc3339;
use crate::cluster::state::{Device, Pool, Server, Volume};
use crate::control::{Capacity, DeviceReport, DeviceState};
use crate::id::{DeviceId, PoolId, SdsId, VolumeId};
use crate::map::ShardEntry;
use crate::view::SessionMode;
use std::collections::{BTreeMap, BTreeSet};

/// A disk request older than this is hung.
const HUNG_AFTER_MS: u64 = 10_000;
/// A pool used to this share of its raw space is nearly full, in percent.
const NEARLY_FULL_PERCENT: u64 = 80;

impl Leader {
    pub(super) fn status(&self) -> SystemStatus {
        let mut status = SystemStatus {
            system: self.cluster.system().to_string(),
            version: self.cluster.version().get(),
            mdm: vec![self.options.member.clone()],
            sds: self.sds_statuses(),
            pools: self.pool_statuses(),
            volumes: self.volume_statuses(),
            alerts: Vec::new(),
        };
        status.alerts = alerts(&status);
        status
    }

    fn sds_statuses(&self) -> Vec<SdsStatus> {
        let mut shards: BTreeMap<DeviceId, u32> = BTreeMap::new();
        for (_, pool) in self.cluster.pools() {
            for device in pool.map.shards.iter().flat_map(ShardEntry::devices) {
                *shards.entry(device).or_default() += 1;
            }
        }
        self.cluster.servers().map(|(id, server)| self.sds_status(id, server, &shards)).collect()
    }

    fn sds_status(&self, id: SdsId, server: &Server, shards: &BTreeMap<DeviceId, u32>) -> SdsStatus {
        let node = self.nodes.get(&id);
        let up = node.filter(|node| node.up);
        SdsStatus {
            id: id.get(),
            name: server.name.clone(),
            uuid: server.uuid.to_string(),
            addresses: server.addresses.clone(),
            fault_set: server.fault_set.clone(),
            state: match up {
                Some(node) if node.leaving => SdsState::Stopping,
                Some(_) => SdsState::Up,
                None => SdsState::Down,
            },
            incarnation: server.incarnation.get(),
            last_heartbeat_ms: node.map(|node| self.clock.now.since(node.heard).get() / 1_000_000),
            loop_stalled: up.is_some_and(|node| node.stalled),
            oldest_disk_request_ms: up.map_or(0, |node| node.oldest_disk_request_ms),
            up_to_date: up.is_some_and(|node| node.confirmed == self.cluster.version()),
            devices: self.device_statuses(id, node, shards),
        }
    }

    fn device_statuses(&self, sds: SdsId, node: Option<&Node>, shards: &BTreeMap<DeviceId, u32>) -> Vec<DeviceStatus> {
        let reports: &[DeviceReport] = node.map_or(&[], |node| &node.devices);
        let up = node.is_some_and(|node| node.up);
        let mut statuses: Vec<DeviceStatus> = Vec::new();
        // By path, those whose identity is not read yet.
        let mut shown: BTreeSet<String> = BTreeSet::new();
        let mut known = BTreeSet::new();
        for (id, device) in self.cluster.devices().filter(|(_, device)| device.sds == sds) {
            known.insert(device.uuid);
            let report = find_report(reports, device);
            shown.extend(report.filter(|report| report.uuid.is_nil()).map(|report| report.path.clone()));
            statuses.push(self.known_device(id, device, report, up, shards.get(&id).copied().unwrap_or(0)));
        }
        let is_shown =
            |report: &DeviceReport| if report.uuid.is_nil() { shown.contains(&report.path) } else { known.contains(&report.uuid) };
        let unknown = reports.iter().filter(|report| !is_shown(report));
        statuses.extend(unknown.map(|report| DeviceStatus {
            id: None,
            uuid: report.uuid.to_string(),
            path: report.path.clone(),
            pool: report.pool.clone(),
            state: if up { state_status(&report.state) } else { DeviceStateStatus::Unreachable },
            raw_bytes: report.capacity.total.get(),
            used_bytes: report.capacity.used.get(),
            reclaimable_bytes: report.capacity.reclaimable.get(),
            shards: 0,
            faults: report.faults,
            recent_faults: report.recent_faults.clone(),
        }));
        statuses
    }

    fn known_device(&self, id: DeviceId, device: &Device, report: Option<&DeviceReport>, up: bool, shards: u32) -> DeviceStatus {
        let capacity = self.capacity_of(device);
        DeviceStatus {
            id: Some(id.get()),
            uuid: device.uuid.to_string(),
            path: device.path.clone(),
            pool: self.cluster.pool(device.pool).map(|pool| pool.name.clone()).unwrap_or_default(),
            state: match report {
                _ if !up => DeviceStateStatus::Unreachable,
                Some(report) => state_status(&report.state),
                None => DeviceStateStatus::Missing,
            },
            raw_bytes: capacity.total.get(),
            used_bytes: capacity.used.get(),
            reclaimable_bytes: capacity.reclaimable.get(),
            shards,
            faults: report.map(|report| report.faults).unwrap_or_default(),
            recent_faults: report.map(|report| report.recent_faults.clone()).unwrap_or_default(),
        }
    }

    /// The newest that its server said while the device served.
    fn capacity_of(&self, device: &Device) -> Capacity {
        let reports = self.nodes.get(&device.sds).map_or(&[][..], |node| &node.devices);
        let report = reports.iter().find(|report| report.uuid == device.uuid && matches!(report.state, DeviceState::Open));
        report.map_or(device.capacity, |report| report.capacity)
    }

    /// Whether a device serves its shards now, as far as is known.
    pub(super) fn serves(&self, device: &Device) -> bool {
        let Some(node) = self.nodes.get(&device.sds) else { return false };
        let open = |report: &DeviceReport| report.uuid == device.uuid && matches!(report.state, DeviceState::Open);
        device.open && node.up && !node.stalled && node.devices.iter().any(open)
    }

    pub(super) fn pool_statuses(&self) -> Vec<PoolStatus> {
        self.cluster.pools().map(|(id, pool)| self.pool_status(id, pool)).collect()
    }

    pub(super) fn pool_status(&self, id: PoolId, pool: &Pool) -> PoolStatus {
        let devices = self.cluster.pool_devices(id);
        let records: Vec<&Device> = devices.iter().filter_map(|device| self.cluster.device(*device)).collect();
        let sum = |of: fn(&Capacity) -> u64| records.iter().map(|device| of(&self.capacity_of(device))).sum::<u64>();
        let (raw, used, reclaimable) =
            (sum(|capacity| capacity.total.get()), sum(|capacity| capacity.used.get()), sum(|capacity| capacity.reclaimable.get()));
        PoolStatus {
            id: id.get(),
            name: pool.name.clone(),
            copies: pool.copies,
            devices: u32::try_from(devices.len()).unwrap_or(u32::MAX),
            raw_bytes: raw,
            used_bytes: used,
            reclaimable_bytes: reclaimable,
            free_bytes: raw.saturating_sub(used).saturating_sub(reclaimable),
            provisioned_bytes: self.cluster.pool_provisioned(id).get(),
            shards: self.shard_counts(pool),
            losses: LossCounts { alone: pool.losses.alone, unflushed: pool.losses.unflushed, forced: pool.losses.forced },
        }
    }

    pub(super) fn volume_statuses(&self) -> Vec<VolumeStatus> {
        self.cluster.volumes().map(|(id, volume)| self.volume_status(id, volume)).collect()
    }

    pub(super) fn volume_status(&self, id: VolumeId, volume: &Volume) -> VolumeStatus {
        let mode = |mode: SessionMode| match mode {
            SessionMode::Exclusive => "exclusive",
            SessionMode::Shared => "shared",
            SessionMode::ReadOnly => "read_only",
        };
        let session = |session: &crate::cluster::state::Session| SessionStatus {
            client: session.client.to_string(),
            holder: session.holder.clone(),
            mode: mode(session.mode).to_owned(),
            generation: session.generation.get(),
            since: rfc3339(session.since_ms),
            orphaned: self.is_silent(session.client),
        };
        VolumeStatus {
            id: id.get(),
            name: volume.name.clone(),
            pool: self.cluster.pool(volume.pool).map(|pool| pool.name.clone()).unwrap_or_default(),
            size_bytes: volume.size.get(),
            allocated_bytes: None,
            stripe_unit: volume.stripe.unit(),
            stripe_width: volume.stripe.width(),
            created: rfc3339(volume.created_ms),
            sessions: volume.sessions.iter().map(session).collect(),
        }
    }
}

/// What a server says of a device of its: by its identity, or by its path while that is not read, or cannot be.
pub(super) fn report_of<'a>(node: &'a Node, device: &Device) -> Option<&'a DeviceReport> {
    find_report(&node.devices, device)
}

fn find_report<'a>(reports: &'a [DeviceReport], device: &Device) -> Option<&'a DeviceReport> {
    let known = reports.iter().find(|report| report.uuid == device.uuid);
    known.or_else(|| reports.iter().find(|report| report.uuid.is_nil() && report.path == device.path))
}

fn state_status(state: &DeviceState) -> DeviceStateStatus {
    match state {
        DeviceState::Opening { done_per_mille } => DeviceStateStatus::Opening { done_per_mille: *done_per_mille },
        DeviceState::Open => DeviceStateStatus::Open,
        DeviceState::Failed { reason } => DeviceStateStatus::Failed { reason: reason.clone() },
        DeviceState::Hung => DeviceStateStatus::Hung,
    }
}

/// What needs attention, in words.
fn alerts(status: &SystemStatus) -> Vec<String> {
    let mut alerts = Vec::new();
    for sds in &status.sds {
        let name = &sds.name;
        match sds.state {
            SdsState::Down => alerts.push(format!("data server {name:?} is down")),
            SdsState::Stopping => alerts.push(format!("data server {name:?} is stopping")),
            SdsState::Up => {}
        }
        if sds.loop_stalled {
            alerts.push(format!("data server {name:?}: its data loop is stalled"));
        }
        if sds.oldest_disk_request_ms >= HUNG_AFTER_MS {
            alerts.push(format!("data server {name:?}: a disk request hangs since {} ms", sds.oldest_disk_request_ms));
        }
        sds.devices.iter().for_each(|device| device_alerts(name, device, status, &mut alerts));
    }
    for pool in &status.pools {
        let name = &pool.name;
        if pool.shards.unavailable > 0 {
            alerts.push(format!("pool {name:?}: {} of {} shards are unavailable", pool.shards.unavailable, pool.shards.total));
        }
        if pool.shards.degraded + pool.shards.rebuilding > 0 {
            let (degraded, rebuilding) = (pool.shards.degraded, pool.shards.rebuilding);
            alerts.push(format!("pool {name:?}: shards have one copy only: {degraded} are degraded, {rebuilding} are rebuilding"));
        }
        if pool.losses.unflushed > 0 {
            let count = pool.losses.unflushed;
            alerts.push(format!(
                "pool {name:?}: {count} times a shard went on alone and may lack writes that were not flushed; see `sdsctl audit`"
            ));
        }
        if pool.losses.forced > 0 {
            let count = pool.losses.forced;
            alerts.push(format!("pool {name:?}: {count} times a shard was forced to a copy that may lack writes; see `sdsctl audit`"));
        }
        let taken = pool.raw_bytes - pool.free_bytes;
        if pool.raw_bytes > 0 && taken >= pool.raw_bytes / 100 * NEARLY_FULL_PERCENT {
            alerts.push(format!("pool {name:?} is {} % full", u128::from(taken) * 100 / u128::from(pool.raw_bytes)));
        }
    }
    alerts
}

fn device_alerts(sds: &str, device: &DeviceStatus, status: &SystemStatus, alerts: &mut Vec<String>) {
    let path = &device.path;
    match &device.state {
        DeviceStateStatus::Failed { reason } => alerts.push(format!("device {path:?} of {sds:?} failed: {reason}")),
        DeviceStateStatus::Hung => {
            alerts.push(format!("device {path:?} of {sds:?} hangs: a request does not end; look at the disk, or replace it"));
        }
        DeviceStateStatus::Missing => alerts.push(format!("device {path:?} of {sds:?} is missing")),
        DeviceStateStatus::Open | DeviceStateStatus::Opening { .. } | DeviceStateStatus::Unreachable => {}
    }
    let faults = &device.faults;
    let counts = [
        (faults.data_mismatches, "data blocks did not match their checksum"),
        (faults.metadata_mismatches, "metadata pages were not what they should be"),
        (faults.unsettled_kept, "unsettled blocks were kept as found at the last start"),
        (faults.io_errors, "requests failed"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        alerts.push(format!("device {path:?} of {sds:?}: {count} {what}"));
    }
    let placed = status.pools.iter().any(|pool| pool.name == device.pool && pool.shards.total > 0);
    if placed && device.id.is_some() && device.shards == 0 {
        alerts
            .push(format!("device {path:?} of {sds:?} holds no shard: it came after the first volume of pool {:?} was made", device.pool));
    }
}
