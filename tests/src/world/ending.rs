//! The end of a run: everything heals, everybody finishes, closes and stops; then all is started
//! again and read back.
//!
//! What is checked here needs an end: every request was answered, no lock and no buffer is left, a
//! clean close works, servers come to rest, and what is read afterwards is what the history says.

use super::{Event, UserState, World};
use crate::history::Action;
use crate::network::ProcessIndex;
use crate::plan::{LIVE_COPIES_REJOIN, Replication};
use sds_core::control::DeviceState;
use sds_core::map::Copies;
use sds_core::replica::NodeStatus;
use sds_core::unit::{BLOCK_BYTES, Nanos};
use std::collections::BTreeSet;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Things go wrong.
    Troubled,
    /// Nothing goes wrong any more; users finish and close.
    Healing,
    /// Servers stop cleanly.
    Stopping,
    /// All is started again.
    Starting,
    /// Everything that was ever touched is read.
    Reading,
    /// Servers stop cleanly once more.
    Closing,
    /// Done.
    Over,
}

const LOOK_NS: u64 = 100_000_000;
const REGISTER_AGAIN_NS: u64 = 10_000_000_000;
/// How long a phase of the end may take before the run is held to be stuck.
const STUCK: Nanos = Nanos::from_millis(180_000);

impl World {
    /// Looks whether the phase is over.
    pub(super) fn look(&mut self) {
        if self.phase == Phase::Over {
            return;
        }
        self.schedule.after(LOOK_NS, Event::Look);
        self.reap_stopped();
        let for_so_long = self.now().since(self.phase_since);
        match self.phase {
            Phase::Troubled => {
                if for_so_long >= self.plan.duration {
                    self.heal();
                }
            }
            Phase::Healing => {
                self.revive();
                if !LIVE_COPIES_REJOIN && for_so_long.get() % REGISTER_AGAIN_NS < LOOK_NS && !self.all_is_clean() {
                    self.register_all_again();
                }
                let up = self.processes.iter().all(|process| process.alive) && self.servers.iter().all(|server| !server.stopping);
                let users_rest = self.clients.iter().all(|client| client.user.is_at_rest());
                // Where a device is full a copy may have no room to come back.
                let returns = self.plan.replication >= Replication::Returns && !self.plan.may_be_full;
                let clean = !returns || self.plan.copies == Copies::One || self.all_is_clean();
                if up && users_rest && clean && self.removal.is_none() && self.all_is_quiet() {
                    self.enter(Phase::Stopping);
                    self.pairs_at_rest = self.whole_pairs();
                    self.stop_all();
                }
            }
            Phase::Stopping => {
                // A trouble that was armed before may end a process that stops; it comes back, and is asked again.
                let is_up = self.processes.iter().all(|process| process.alive);
                if is_up && self.servers.iter().any(|server| server.machine.is_some() && !server.stopping && !server.stopped) {
                    self.stop_all();
                }
                if self.servers.iter().all(|server| server.stopped) {
                    self.check_memory();
                    let pairs = core::mem::take(&mut self.pairs_at_rest);
                    self.check_copies(&pairs);
                    for process in 0..self.processes.len() {
                        self.kill_process(ProcessIndex(process));
                        self.processes[process].starting = true;
                        self.schedule.after(1_000_000, Event::Start(ProcessIndex(process)));
                    }
                    self.enter(Phase::Starting);
                }
            }
            Phase::Starting => {
                if self.processes.iter().all(|process| process.alive) {
                    self.enter(Phase::Reading);
                    self.read_back(0);
                }
            }
            Phase::Reading => {
                let user = &self.clients[0].user;
                if user.is_at_rest() {
                    let next = user.visits.map_or(0, |volume| volume + 1);
                    if next < self.volumes_made {
                        self.read_back(next);
                    } else {
                        self.enter(Phase::Closing);
                        self.stop_all();
                    }
                }
            }
            Phase::Closing => {
                if self.servers.iter().all(|server| server.stopped) {
                    self.check_memory();
                    (0..self.servers.len()).for_each(|server| self.count_repairs(server));
                    self.enter(Phase::Over);
                }
            }
            Phase::Over => {}
        }
        if self.phase != Phase::Troubled && self.phase != Phase::Over && self.now().since(self.phase_since) > STUCK {
            let story = self.what_is_stuck();
            self.violate(format!("{:?} does not end: {story}", self.phase));
        }
    }

    fn enter(&mut self, phase: Phase) {
        let now = self.now();
        self.trace.note(now, &[50, phase as u64], || format!("==== {phase:?}"));
        self.phase = phase;
        self.phase_since = now;
    }

    /// A process whose servers have all stopped has ended, and is started again where the run goes on.
    fn reap_stopped(&mut self) {
        if !matches!(self.phase, Phase::Troubled | Phase::Healing) {
            return;
        }
        for process in 0..self.processes.len() {
            let known = &self.processes[process];
            let over = known.alive && !known.servers.is_empty() && known.servers.iter().all(|server| self.servers[*server].stopped);
            if over {
                self.kill_process(ProcessIndex(process));
                self.restart_later(ProcessIndex(process));
            }
        }
    }

    fn heal(&mut self) {
        self.enter(Phase::Healing);
        self.armed.clear();
        self.network.mend();
        for disk in &mut self.disks {
            disk.set_slowness(1);
            disk.hold(Nanos::ZERO);
        }
        for process in &mut self.processes {
            process.dies_in_step = false;
        }
        for client in 0..self.clients.len() {
            self.clients[client].user.force = true;
            self.nudge_user(client, 1);
        }
    }

    /// Every server connects to the MDM anew.
    pub(super) fn register_all_again(&mut self) {
        for server in 0..self.servers.len() {
            if let Some(link) = self.servers[server].control.filter(|_| self.servers[server].greeted) {
                self.break_control(link);
            }
        }
    }

    /// While the run heals, whoever is down comes back.
    fn revive(&mut self) {
        for process in 0..self.processes.len() {
            self.restart_later(ProcessIndex(process));
        }
        for client in 0..self.clients.len() {
            self.nudge_user(client, 1);
        }
    }

    /// Nothing of a deleted volume is left. No server has a request, a lock or a sweep any more, nothing waits, every device is open, and all enforce the MDM's newest view, so the same
    /// epoch of every shard. What is leaked anywhere keeps the run from its end.
    fn all_is_quiet(&self) -> bool {
        let newest = self.mdm.cluster().version();
        let all_freed = self.mdm.cluster().deleted_trees().next().is_none();
        all_freed
            && self.servers.iter().filter_map(|server| server.machine.as_ref()).map(|machine| machine.status()).all(|status| {
                let NodeStatus { version, requests, parked, locked, sweeps, .. } = status;
                version == newest && requests + parked + locked + sweeps == 0
            })
            && self.servers.iter().filter_map(|server| server.machine.as_ref()).all(|machine| {
                // A store that is stopped while it opens leaves what it had asked its device.
                machine.devices().iter().all(|device| !matches!(device.state, DeviceState::Opening { .. }))
            })
    }

    fn stop_all(&mut self) {
        for server in 0..self.servers.len() {
            self.ask_to_stop(server);
        }
    }

    /// After a clean stop nobody holds memory.
    fn check_memory(&mut self) {
        for index in 0..self.processes.len() {
            let left: Vec<String> = self.processes[index]
                .buffers
                .held()
                .take(5)
                .map(|(buffer, class, bytes, uses)| format!("{buffer:?} ({class:?}, {bytes} bytes, {uses} uses)"))
                .collect();
            if !left.is_empty() {
                self.violate(format!("process {index} has leaked buffers: {}", left.join(", ")));
            }
        }
    }

    /// The first client reads every block of a volume that anybody ever asked for.
    fn read_back(&mut self, volume: usize) {
        let name = &self.plan.volumes[volume].name;
        let Some((id, _)) = self.mdm.cluster().volume_by_name(name) else { return };
        let block = u64::from(BLOCK_BYTES);
        let mut blocks = BTreeSet::new();
        for op in self.history.ops().iter().filter(|op| op.volume == id.get()) {
            match op.action {
                Action::Read | Action::Write(_) => blocks.extend(op.offset / block..(op.offset + op.len).div_ceil(block)),
                Action::Zero | Action::Flush | Action::Status => {}
            }
        }
        self.plan.read_only[0] = false;
        let user = &mut self.clients[0].user;
        user.visits = Some(volume);
        user.force = true;
        for lba in blocks {
            user.shall_read(lba * block, BLOCK_BYTES);
        }
        self.nudge_user(0, 1);
    }

    fn what_is_stuck(&self) -> String {
        let mut stories = Vec::new();
        for (number, client) in self.clients.iter().enumerate() {
            let user = &client.user;
            if user.state != UserState::Idle || !user.outstanding.is_empty() || user.waiting() > 0 {
                let oldest = user.outstanding.values().next().map(|index| self.history.ops()[index.0 as usize].to_string());
                let servers: Vec<String> =
                    client.machine.iter().flat_map(|machine| machine.servers()).map(|server| format!("{server:?}")).collect();
                stories.push(format!(
                    "client {number} is {:?}, {} requests outstanding, {} waiting, oldest: {}; control {:?}; servers: {}",
                    user.state,
                    user.outstanding.len(),
                    user.waiting(),
                    oldest.unwrap_or_default(),
                    client.control,
                    servers.join(", ")
                ));
            }
        }
        for (number, server) in self.servers.iter().enumerate() {
            let status = server.machine.as_ref().map(|machine| format!("{:?}", machine.status()));
            let devices = server.machine.as_ref().map(|machine| {
                machine.devices().into_iter().map(|device| format!("{:?} {:?}", device.device, device.state)).collect::<Vec<_>>().join(", ")
            });
            let (stopping, stopped) = (server.stopping, server.stopped);
            stories.push(format!("server {number} stopping {stopping} stopped {stopped}: {status:?}, devices {devices:?}"));
        }
        for (shard, entry) in self.shards().iter().enumerate().filter(|(_, entry)| !self.is_clean(entry)) {
            let (members, joining, lapsed) = (entry.in_sync.members(), entry.joining, entry.lapsed);
            stories.push(format!("shard {shard}: epoch {}, {members:?}, joining {joining:?}, lapsed {lapsed:?}", entry.epoch.get()));
        }
        stories.truncate(self.servers.len() + self.clients.len() + 2);
        stories.join("\n    ")
    }
}
