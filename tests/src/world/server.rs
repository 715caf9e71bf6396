//! The shell of a data server: what `sds` does around its machine, in virtual time.

use super::disks::Ask;
use super::{Event, World};
use crate::buffers::Pin;
use crate::disk::Disk;
use crate::history::Mark;
use crate::mdm::{Role, Up};
use crate::network::ProcessIndex;
use sds_core::collections::OpId;
use sds_core::control::{CONTROL_VERSION, Capacity, DeviceReport, SdsToMdm};
use sds_core::id::{BootId, DeviceUuid, SdsUuid, SystemId};
use sds_core::machine::LinkId;
use sds_core::protocol::membership::Change;
use sds_core::replica::Replica;
use sds_core::replica::interface::{DeviceSlot, Effect, Event as Told, Input, ReplicaOptions};
use sds_core::store::format::{FormatOptions, plan};
use sds_core::store::interface::{Event as StoreEvent, OpenFault, StoreOptions};
use sds_core::stripe::Place;
use sds_core::unit::{ByteCount, Nanos};

/// A data server and what its shell keeps.
#[derive(Debug)]
pub(crate) struct ServerNode {
    pub(crate) process: ProcessIndex,
    pub(crate) uuid: SdsUuid,
    pub(crate) disks: Vec<usize>,
    pub(crate) machine: Option<Box<Replica>>,
    pub(crate) wake_at: Option<Nanos>,
    pub(crate) control: Option<LinkId>,
    /// It has registered over it.
    pub(crate) greeted: bool,
    pub(super) life_mark: u128,
    /// When it last proposed to go on without another copy.
    pub(super) shrank: Option<Nanos>,
    steps: u64,
    /// It was told to stop, and has said that it has.
    pub(crate) stopping: bool,
    pub(crate) stopped: bool,
}

/// A completion that a canary invents.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) slot: DeviceSlot,
    pub(crate) op: OpId,
    pub(crate) pin: Option<Pin>,
}

/// Space that devices claim beside their own, so that thin volumes may reach beyond 16 TiB.
const CLAIMED: u64 = 4 << 40;
const HEARTBEAT_NS: u64 = 500_000_000;

impl ServerNode {
    pub(crate) fn new(process: ProcessIndex, uuid: SdsUuid) -> Self {
        Self {
            process,
            uuid,
            disks: Vec::new(),
            machine: None,
            wake_at: None,
            control: None,
            greeted: false,
            life_mark: 0,
            shrank: None,
            steps: 0,
            stopping: false,
            stopped: false,
        }
    }
}

/// Makes a device a store, as the shell's formatting does.
pub(crate) fn format(disk: &mut Disk, system: SystemId, device: DeviceUuid, boot: BootId, log_blocks: u32) {
    let options = FormatOptions { device_bytes: disk.bytes(), system, device, boot, log_blocks: Some(log_blocks) };
    let plan = plan(&options).expect("the plan's devices are large enough");
    for (offset, block) in plan.index_blocks().chain(plan.superblocks()) {
        disk.medium_mut().write(offset.get() / 4096, Box::new(block), true);
    }
}

impl World {
    pub(super) fn store_options(&self, server: usize, disk: usize) -> StoreOptions {
        let process = self.servers[server].process;
        StoreOptions {
            device_bytes: self.disks[disk].bytes(),
            system: self.system,
            boot: self.hosts[self.processes[process.0].host].boot,
            volatile_cache: self.plan.profile.volatile_cache,
            descriptor_cache_bytes: self.plan.descriptor_cache_bytes,
            requests_max: 256,
            group_commit_wait: self.plan.group_commit_wait,
            seal_after: self.plan.seal_after,
        }
    }

    pub(super) fn start_server(&mut self, server: usize, life: u64) {
        let fresh = u128::from(self.fresh()) | 1;
        let process = self.servers[server].process;
        for disk in self.servers[server].disks.clone() {
            self.doomed.remove(&disk);
            self.wounds.remove(&disk);
            if let Some((device, _)) = self.mdm.cluster().device_by_uuid(self.uuids[disk]) {
                self.failed_devices.remove(&device);
            }
        }
        let options = ReplicaOptions {
            boot: self.hosts[self.processes[process.0].host].boot,
            links_max: 64,
            requests_max: 512,
            map_wait: Nanos::from_millis(2_000),
            disk_hang: ReplicaOptions::DISK_HANG_DEFAULT,
            trust_refused: true,
        };
        let node = &mut self.servers[server];
        node.machine = Some(Box::new(Replica::new(options)));
        node.life_mark = fresh;
        node.stopping = false;
        node.stopped = false;
        node.wake_at = None;
        for slot in 0..node.disks.len() {
            self.schedule.after(0, Event::OpenDevice { server, life, slot });
        }
        let delay = self.chance.below(20_000_000);
        self.schedule.after(delay, Event::ConnectControl { role: Role::Server(server), life });
        self.schedule.after(HEARTBEAT_NS, Event::Heartbeat { server, life });
    }

    pub(super) fn stop_server(&mut self, server: usize) {
        self.count_repairs(server);
        let node = &mut self.servers[server];
        node.machine = None;
        node.control = None;
        node.wake_at = None;
    }

    pub(super) fn step_server(&mut self, server: usize, input: Input<'_>) {
        let process = self.servers[server].process;
        let now = self.clock_of(process);
        let node = &mut self.servers[server];
        let Some(machine) = &mut node.machine else { return };
        node.steps += 1;
        let mut out = core::mem::take(&mut self.server_out);
        machine.step(now, input, &mut self.processes[process.0].buffers, &mut out);
        self.after_step(process);
        let dies = core::mem::take(&mut self.processes[process.0].dies_in_step) && self.may_end(process);
        let survive = if dies { self.chance.index(out.len() + 1) } else { usize::MAX };
        for (number, effect) in out.drain().enumerate() {
            if number < survive {
                self.server_effect(server, effect);
            }
        }
        self.server_out = out;
        if dies {
            self.kill_process(process);
            self.restart_later(process);
            return;
        }
        let deadline = self.servers[server].machine.as_ref().and_then(|machine| machine.deadline());
        self.wake_server_by(server, deadline);
    }

    fn wake_server_by(&mut self, server: usize, deadline: Option<Nanos>) {
        let Some(at) = deadline else { return };
        // A timer fires after its time, never at it.
        let at = self.processes[self.servers[server].process.0].clock.when(at).max(self.now()).plus(Nanos::new(1_000));
        let node = &mut self.servers[server];
        if node.wake_at.is_none_or(|known| at < known) {
            node.wake_at = Some(at);
            let life = self.processes[node.process.0].life;
            self.schedule.at(at, Event::Wake { role: Role::Server(server), life });
        }
    }

    fn server_effect(&mut self, server: usize, effect: Effect) {
        match effect {
            Effect::DiskRead { slot, op, offset, span } => self.ask_disk(server, slot, op, Ask::Read { offset, span }),
            Effect::DiskWrite { slot, op, offset, span, durable } => {
                self.ask_disk(server, slot, op, Ask::Write { offset, span, durable });
            }
            Effect::DiskFlush { slot, op } => self.ask_disk(server, slot, op, Ask::Flush),
            Effect::Send { link, frame } => self.send_frame(Role::Server(server), link, frame),
            Effect::Close { link } => self.close_link(link, Role::Server(server)),
            Effect::Connect { sds, addresses } => self.connect(Role::Server(server), sds, &addresses),
            Effect::Propose { proposals } => {
                // The new epochs begin above the ceilings that the MDM knows of.
                self.say_alive(server);
                self.watch_proposals(server, &proposals);
                if proposals.iter().any(|(_, _, proposal)| matches!(proposal.change, Change::Shrink { .. })) {
                    self.servers[server].shrank = Some(self.now());
                    self.spare_doomed(server);
                }
                let shards: Vec<_> = proposals.iter().map(|(_, shard, _)| *shard).collect();
                self.tell_mdm(Role::Server(server), Up::Sds(SdsToMdm::Propose { proposals }));
                self.ambush(server, shards.into_iter());
            }
            Effect::Register => self.register(server),
            Effect::Confirm { version } => self.tell_mdm(Role::Server(server), Up::Sds(SdsToMdm::Confirm { version })),
            Effect::Pull { at_least } => self.tell_mdm(Role::Server(server), Up::Sds(SdsToMdm::Pull { at_least })),
            Effect::TreesFreed { device, trees } => {
                self.tell_mdm(Role::Server(server), Up::Sds(SdsToMdm::TreesFreed { device, trees }));
            }
            Effect::Event(event) => self.server_told(server, event),
        }
    }

    fn server_told(&mut self, server: usize, event: Told) {
        let now = self.now();
        self.trace.note(now, &[10, server as u64], || format!("server {server}: {event:?}"));
        self.seen(&event);
        match event {
            Told::Store { slot, event } => {
                let disk = self.servers[server].disks[usize::from(slot.0)];
                self.store_told(server, disk, event);
            }
            Told::LinkRefused { .. } => {}
            Told::SettledInDoubt { key, unrecorded, .. } => {
                if unrecorded > 0 {
                    self.kept_unrecorded(server, key);
                }
            }
            Told::Resynced { .. }
            | Told::ResyncRefused { .. }
            | Told::ExtentGivenUp { .. }
            | Told::Repaired { .. }
            | Told::DeviceHung { .. } => {}
            Told::PayloadDamaged { .. } => {
                if self.plan.troubles.damaged_payload.is_none() {
                    self.violate(format!("server {server} saw a damaged payload, and none was damaged"));
                }
            }
            Told::Stopped => {
                self.servers[server].stopped = true;
                self.tell_mdm(Role::Server(server), Up::Sds(SdsToMdm::Leaving));
            }
        }
    }

    fn store_told(&mut self, server: usize, disk: usize, event: StoreEvent) {
        self.seen(&event);
        match event {
            StoreEvent::Opening { .. } => {}
            StoreEvent::Opened(_) => self.device_opened(disk),
            StoreEvent::OpenFailed(OpenFault::Device { .. }) if self.is_in_trouble(server) => self.give_up_process(server),
            StoreEvent::OpenFailed(fault) => self.violate(format!("server {server} cannot open disk {disk}: {fault}")),
            StoreEvent::UnsettledKept { key, block } | StoreEvent::UnsettledDismissed { key, block } => {
                let found = self.mdm.cluster().volumes().find(|(_, volume)| volume.tree == key.tree);
                let Some((id, volume)) = found else { return };
                let place = Place { extent: key.extent, offset: u32::from(block) * 4096 };
                let (volume, lba) = (id.get(), volume.stripe.volume_offset(place).get() / 4096);
                self.mark(Mark::Kept { volume, lba });
            }
            StoreEvent::DataMismatch { key, block } => {
                let now = self.now();
                self.trace.tell(now, || format!("server {server} disk {disk}: block {block} of {key:?} is not what was written"));
            }
            StoreEvent::DescriptorMismatch { key } => {
                self.violate(format!("server {server} disk {disk}: descriptor page of {key:?} is damaged, and nothing damaged it"));
            }
            StoreEvent::DeviceFailed { errno } => {
                if !self.is_in_trouble(server) {
                    self.violate(format!("server {server} disk {disk}: failed with error {errno}, and nothing was wrong with it"));
                }
                self.device_failed(disk);
                self.give_up_process(server);
            }
            StoreEvent::StaleCompletion => self.violate(format!("server {server} disk {disk}: a completion was not in flight")),
        }
    }

    /// Whether a device of this server's host was made to fail.
    fn is_in_trouble(&self, server: usize) -> bool {
        self.troubled_hosts.contains(&self.processes[self.servers[server].process.0].host)
    }

    /// A device's life in this process is over: an operator restarts the process.
    fn give_up_process(&mut self, server: usize) {
        let process = self.servers[server].process;
        let delay = self.chance.below(2_000_000_000);
        let life = self.processes[process.0].life;
        self.schedule.after(delay, Event::GiveUp { process, life });
    }

    pub(super) fn reports(&self, server: usize) -> Vec<DeviceReport> {
        let node = &self.servers[server];
        let Some(machine) = &node.machine else { return Vec::new() };
        let report = |status: sds_core::replica::DeviceStatus| DeviceReport {
            uuid: status.uuid,
            path: format!("/dev/sim{}", node.disks[usize::from(status.slot.0)]),
            pool: super::control::POOL.to_owned(),
            state: status.state,
            capacity: Capacity { total: ByteCount::new(status.capacity.total.get() + CLAIMED), ..status.capacity },
            sequence_ceiling: status.sequence_ceiling,
            flushed: status.statistics.flushed,
            log_end: status.statistics.log_end,
            cache: status.cache,
            faults: status.faults,
            recent_faults: status.recent_faults,
        };
        machine.devices().into_iter().map(report).collect()
    }

    pub(super) fn register(&mut self, server: usize) {
        let devices = self.reports(server);
        let node = &self.servers[server];
        let name = format!("sds-{server}");
        let message = SdsToMdm::Register {
            version: CONTROL_VERSION,
            sds: node.uuid,
            system: self.system,
            addresses: vec![format!("{name}:9710")],
            fault_set: format!("rack-{}", self.plan.fault_sets[server]),
            name,
            life: node.life_mark,
            devices,
        };
        self.tell_mdm(Role::Server(server), Up::Sds(message));
    }

    pub(super) fn heartbeat(&mut self, server: usize, life: u64) {
        if self.is_alive(self.servers[server].process, life) {
            self.say_alive(server);
            self.schedule.after(HEARTBEAT_NS, Event::Heartbeat { server, life });
        }
    }

    fn say_alive(&mut self, server: usize) {
        let devices = self.reports(server);
        let Some(machine) = &self.servers[server].machine else { return };
        let oldest = machine.status().oldest_disk_request.get() / 1_000_000;
        // The shell's question makes an idle loop turn, too.
        self.servers[server].steps += 1;
        let loop_turns = self.servers[server].steps;
        self.tell_mdm(Role::Server(server), Up::Sds(SdsToMdm::Heartbeat { loop_turns, oldest_disk_request_ms: oldest, devices }));
    }
}
