//! A data server's process announces itself: its life, its devices, and the new epochs of their shards.
//!
//! Invariants: one process life has one incarnation (I6); every shard whose members have all opened in
//! another life gets its next epoch in the same command (I1), with a first sequence above everything they can have used,
//! and so does one of a single member that opened again; of two members, the one that lives on asks for a shard
//! without the other; a device joins the shards it fell out of; a device that failed keeps its shards.

use super::membership::Known;
use super::outcome::{Bound, Event, Outcome, Refusal};
use super::state::{Device, Server, State};
use super::{Cluster, RegisterDevice, RegisterSds, name};
use crate::bugs::{self, Bug};
use crate::id::{DeviceId, DeviceUuid, Incarnation, PoolId, SdsId};
use crate::limits::{DEVICES_MAX, DEVICES_PER_SDS_MAX, SDS_ADDRESSES_MAX, SDS_MAX};
use crate::map::Copies;
use crate::protocol::membership::cache_is_kept;
use std::collections::{BTreeMap, BTreeSet};

/// What a registration has done so far.
#[derive(Default)]
struct Done {
    /// Others see a change of the servers or devices.
    visible: bool,
    /// Devices that opened in this life, or opened again.
    opened: BTreeSet<DeviceId>,
    /// Servers that lost a device to this one.
    robbed: BTreeSet<SdsId>,
}

impl Cluster {
    pub(super) fn register_sds(&mut self, register: &RegisterSds, events: &mut Vec<Event>) -> Result<Outcome, Refusal> {
        let pools = self.check_register(register)?;
        self.note_heard(&register.heard);
        let before = self.server_by_uuid(register);
        let sds = before.unwrap_or_else(|| {
            self.state.issued.sds += 1;
            SdsId::new(self.state.issued.sds)
        });
        let mut done = Done { visible: self.write_server(sds, register, events), ..Done::default() };
        let incarnation = self.state.servers.get(&sds).map(|server| server.incarnation).unwrap_or_default();
        for (device, pool) in register.devices.iter().zip(&pools) {
            self.write_device(sds, incarnation, device, *pool, &mut done, events);
        }
        self.close_missing(sds, register, events);
        self.retire_emptied(&mut done, events);
        let advanced = self.advance_shards(sds, &done.opened, events);
        if done.visible || !advanced.is_empty() {
            let version = self.next_version();
            if done.visible {
                self.state.versions.servers = version;
            }
            for pool in advanced {
                if let Some(pool) = self.state.pools.get_mut(&pool) {
                    pool.changed = version;
                }
            }
        }
        let known = |device: &RegisterDevice| Some((device.uuid, *self.state.device_uuids.get(&device.uuid)?));
        let devices = register.devices.iter().filter_map(known).collect();
        Ok(Outcome::Registered { system: self.state.system, sds, incarnation, devices })
    }

    pub(super) fn server_by_uuid(&self, register: &RegisterSds) -> Option<SdsId> {
        self.state.servers.iter().find(|(_, server)| server.uuid == register.sds).map(|(id, _)| *id)
    }

    /// Everything that can be refused, before anything is changed. Gives the pool of each device.
    fn check_register(&self, register: &RegisterSds) -> Result<Vec<PoolId>, Refusal> {
        name::check_label("data server", &register.name)?;
        name::check_label("fault set", &register.fault_set)?;
        if register.sds.is_nil() {
            return Err(Refusal::SdsNil { name: register.name.clone() });
        }
        if !register.system.is_nil() && register.system != self.state.system {
            return Err(Refusal::OtherSystem { name: register.name.clone(), theirs: register.system, ours: self.state.system });
        }
        if register.addresses.is_empty() || register.addresses.len() > SDS_ADDRESSES_MAX {
            return Err(Refusal::Addresses { name: register.name.clone(), count: register.addresses.len() });
        }
        for address in &register.addresses {
            name::check_text("an address", address)?;
        }
        if register.devices.len() > DEVICES_PER_SDS_MAX {
            return Err(Refusal::TooMany(Bound::DevicesOfSds));
        }
        let owner = self.server_by_uuid(register);
        if owner.is_none() && self.state.servers.len() >= SDS_MAX {
            return Err(Refusal::TooMany(Bound::Sds));
        }
        let unknown = register.devices.iter().filter(|device| !self.state.device_uuids.contains_key(&device.uuid)).count();
        if self.state.devices.len() + unknown > DEVICES_MAX {
            return Err(Refusal::TooMany(Bound::Devices));
        }
        let mut seen: BTreeMap<DeviceUuid, &str> = BTreeMap::new();
        register
            .devices
            .iter()
            .map(|device| {
                if let Some(first) = seen.insert(device.uuid, &device.path) {
                    let (first, second) = (first.to_owned(), device.path.clone());
                    return Err(Refusal::DeviceTwice { name: register.name.clone(), device: device.uuid, first, second });
                }
                self.check_device(register, owner, device)
            })
            .collect()
    }

    fn check_device(&self, register: &RegisterSds, owner: Option<SdsId>, device: &RegisterDevice) -> Result<PoolId, Refusal> {
        name::check_text("a device's path", &device.path)?;
        let pool = self.known_pool(&device.pool)?;
        let Some((_, known)) = self.device_by_uuid(device.uuid) else { return Ok(pool) };
        if known.pool != pool {
            return Err(Refusal::DevicePool {
                device: device.uuid,
                path: device.path.clone(),
                pool: self.state.pools.get(&known.pool).map(|pool| pool.name.clone()).unwrap_or_default(),
                configured: device.pool.clone(),
            });
        }
        if owner != Some(known.sds) && !register.movable.contains(&device.uuid) {
            let elsewhere = self.state.servers.get(&known.sds).map(|server| server.name.clone()).unwrap_or_default();
            return Err(Refusal::DeviceElsewhere { device: device.uuid, path: device.path.clone(), elsewhere });
        }
        Ok(pool)
    }

    /// Whether a serving device comes here whose last server had a later incarnation than this one: then
    /// the present one would go back for its shards (I6).
    fn takes_from_a_later_life(&self, sds: SdsId, incarnation: Incarnation, register: &RegisterSds) -> bool {
        register.devices.iter().filter(|device| device.open).any(|device| {
            let known = self.device_by_uuid(device.uuid);
            known.is_some_and(|(_, known)| known.sds != sds && known.incarnation > incarnation)
        })
    }

    /// Writes the server's record; a new life gets a new incarnation, and so does one that takes a device
    /// over from a later life. True if others see a change.
    fn write_server(&mut self, sds: SdsId, register: &RegisterSds, events: &mut Vec<Event>) -> bool {
        let before = self.state.servers.get(&sds);
        let visible = before.is_none_or(|server| server.name != register.name || server.addresses != register.addresses);
        let incarnation = match before {
            Some(server) if server.life == register.life && !self.takes_from_a_later_life(sds, server.incarnation, register) => {
                server.incarnation
            }
            Some(_) | None => {
                self.state.issued.incarnation += 1;
                let incarnation = Incarnation::new(self.state.issued.incarnation);
                assert!(before.is_none_or(|server| server.incarnation < incarnation), "I6: incarnations only rise");
                events.push(Event::SdsRegistered { sds, name: register.name.clone(), incarnation });
                incarnation
            }
        };
        let record = Server {
            uuid: register.sds,
            name: register.name.clone(),
            addresses: register.addresses.clone(),
            fault_set: register.fault_set.clone(),
            life: register.life,
            incarnation,
        };
        self.state.servers.insert(sds, record);
        visible
    }

    /// Writes a device's record.
    fn write_device(
        &mut self,
        sds: SdsId,
        incarnation: Incarnation,
        report: &RegisterDevice,
        pool: PoolId,
        done: &mut Done,
        events: &mut Vec<Event>,
    ) {
        let known = self.state.device_uuids.get(&report.uuid).copied();
        if known.is_none() && !report.open {
            return; // Only devices that serve are made members.
        }
        let id = known.unwrap_or_else(|| {
            self.state.issued.device += 1;
            let id = DeviceId::new(self.state.issued.device);
            self.state.device_uuids.insert(report.uuid, id);
            events.push(Event::DeviceAdded { device: id, uuid: report.uuid, sds });
            id
        });
        let before = self.state.devices.get(&id);
        let moved_from = before.map(|device| device.sds).filter(|from| *from != sds);
        if let Some(from) = moved_from {
            done.robbed.insert(from);
            events.push(Event::DeviceMoved { device: id, from, to: sds });
        }
        let opens = report.open && before.is_none_or(|device| !device.open || device.incarnation != incarnation);
        // One that was hung serves again in the life it had: where its log ended when that began says nothing new.
        let begins = opens && before.is_none_or(|device| device.incarnation != incarnation);
        let (mut capacity, mut ceiling) = (report.capacity, report.sequence_ceiling);
        let (mut flushed, mut forgot_in) = (report.flushed, None);
        let (mut cache, mut cache_lost_in) = (report.cache, None);
        if let Some(before) = before {
            let had = before.flushed;
            (forgot_in, cache_lost_in) = (before.forgot_in, before.cache_lost_in);
            if begins && !cache_is_kept(before.cache, report.cache) && !bugs::is(Bug::CacheLossNotRecorded) {
                cache_lost_in = Some(incarnation);
            }
            if begins && report.log_end < had {
                events.push(Event::DeviceForgot { device: id, flushed: had, found: report.log_end });
                forgot_in = Some(incarnation);
            } else {
                flushed = had.max(report.flushed);
            }
            if report.open && ceiling < before.sequence_ceiling {
                events.push(Event::DeviceWentBack { device: id });
            }
            // One that does not serve cannot say what it holds.
            if !report.open {
                (capacity, cache) = (before.capacity, before.cache);
                if before.open {
                    events.push(Event::DeviceClosed { device: id });
                }
            }
            ceiling = ceiling.max(before.sequence_ceiling);
        }
        let record = Device {
            uuid: report.uuid,
            sds,
            path: report.path.clone(),
            pool,
            incarnation: if report.open { incarnation } else { before.map(|device| device.incarnation).unwrap_or_default() },
            open: report.open,
            capacity,
            sequence_ceiling: ceiling,
            flushed,
            forgot_in,
            cache,
            cache_lost_in,
        };
        if opens {
            done.opened.insert(id);
        }
        self.state.devices.insert(id, record);
        done.visible |= known.is_none() || moved_from.is_some();
    }

    /// Devices of the server that it does not report any more do not serve.
    fn close_missing(&mut self, sds: SdsId, register: &RegisterSds, events: &mut Vec<Event>) {
        let reported: BTreeSet<DeviceUuid> = register.devices.iter().map(|device| device.uuid).collect();
        for (id, device) in &mut self.state.devices {
            if device.sds == sds && device.open && !reported.contains(&device.uuid) {
                device.open = false;
                events.push(Event::DeviceClosed { device: *id });
            }
        }
    }

    /// Forgets servers whose last device has moved away. Who comes back with nothing registers anew.
    fn retire_emptied(&mut self, done: &mut Done, events: &mut Vec<Event>) {
        for from in &done.robbed {
            if self.state.devices.values().any(|device| device.sds == *from) {
                continue;
            }
            if let Some(server) = self.state.servers.remove(from) {
                events.push(Event::SdsRetired { sds: server.uuid, name: server.name });
                done.visible = true;
            }
        }
    }

    /// Gives every shard its next epoch whose members have all opened in newer lives, and lets the server's devices join the
    /// shards they fell out of. Returns the pools touched.
    fn advance_shards(&mut self, sds: SdsId, opened: &BTreeSet<DeviceId>, events: &mut Vec<Event>) -> BTreeSet<PoolId> {
        let made_at = self.coming_version();
        let State { pools, devices, servers, .. } = &mut self.state;
        let known = Known { devices, servers, copies: Copies::One, made_at, gone: &[] };
        let is_ours = |device: DeviceId| known.devices.get(&device).is_some_and(|device| device.sds == sds);
        let mut touched = BTreeSet::new();
        let mut advanced: BTreeMap<DeviceId, u32> = BTreeMap::new();
        let mut joining: BTreeMap<DeviceId, u32> = BTreeMap::new();
        for (id, pool) in pools {
            let known = Known { copies: pool.copies, ..known };
            for entry in &mut pool.map.shards {
                let reformed = known.reform(entry, |device| opened.contains(&device));
                // One that has forgotten falls out when the shard is formed again, wherever it is.
                let returns = reformed.is_some() || entry.lapsed.is_some_and(|lapsed| is_ours(lapsed.device));
                let joiner = if returns { known.rejoin(entry) } else { None };
                reformed.into_iter().for_each(|device| *advanced.entry(device).or_default() += 1);
                joiner.into_iter().for_each(|device| *joining.entry(device).or_default() += 1);
                if reformed.is_some() || joiner.is_some() {
                    touched.insert(*id);
                }
            }
        }
        events.extend(advanced.into_iter().map(|(device, shards)| Event::ShardsAdvanced { device, shards }));
        events.extend(joining.into_iter().map(|(device, shards)| Event::ShardsJoining { device, shards }));
        touched
    }
}
