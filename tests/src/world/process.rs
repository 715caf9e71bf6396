//! Life and death of processes and hosts.

use super::{Event, World};
use crate::buffers::SimBuffers;
use crate::network::ProcessIndex;
use sds_core::id::BootId;
use sds_core::unit::Nanos;

impl World {
    /// A process starts, with everything it had in memory gone.
    pub(crate) fn start_process(&mut self, index: ProcessIndex) {
        let process = &mut self.processes[index.0];
        if process.alive {
            return;
        }
        self.lives += 1;
        process.starting = false;
        process.alive = true;
        process.life = self.lives;
        process.paused_until = Nanos::ZERO;
        process.timers_first = false;
        process.dies_in_step = false;
        process.buffers = SimBuffers::new(self.plan.budgets, self.lives);
        let (life, host) = (process.life, process.host);
        let (servers, clients) = (process.servers.clone(), process.clients.clone());
        self.hosts[host].is_dark = false;
        self.go_back(index);
        let now = self.now();
        self.trace.note(now, &[1, index.0 as u64, life], || format!("process {} starts, life {life}", index.0));
        for server in servers {
            self.start_server(server, life);
        }
        for client in clients {
            self.start_client(client, life);
        }
    }

    /// A process ends at once, wherever it is. What it had given to its disks may still land; what it
    /// had sent may still arrive.
    pub(crate) fn kill_process(&mut self, index: ProcessIndex) {
        let process = &mut self.processes[index.0];
        if !process.alive {
            return;
        }
        process.alive = false;
        process.dies_in_step = false;
        let life = process.life;
        let (servers, clients) = (process.servers.clone(), process.clients.clone());
        let now = self.now();
        self.trace.note(now, &[2, index.0 as u64], || format!("process {} dies", index.0));
        self.tell_overwritten();
        self.break_links_of(index);
        self.break_controls_of(&servers, &clients);
        for server in servers {
            for disk in self.servers[server].disks.clone() {
                self.disks[disk].orphan(life);
                self.disks[disk].orphan(super::disks::GHOST_LIFE);
            }
            self.stop_server(server);
        }
        for client in clients {
            self.stop_client(client);
        }
    }

    /// A process that is down starts again after a while.
    pub(crate) fn restart_later(&mut self, index: ProcessIndex) {
        if self.processes[index.0].alive || self.processes[index.0].starting {
            return;
        }
        let delay = match self.chance.below(4) {
            0 => self.chance.below(20_000_000),
            1..=2 => self.chance.below(500_000_000),
            _ => self.chance.below(5_000_000_000),
        };
        self.processes[index.0].starting = true;
        self.schedule.after(delay, Event::Start(index));
    }

    /// A host loses power: its processes end and its devices' caches fall.
    pub(crate) fn cut_power(&mut self, host: usize) {
        let of_host: Vec<ProcessIndex> =
            (0..self.processes.len()).filter(|index| self.processes[*index].host == host).map(ProcessIndex).collect();
        self.hosts[host].is_dark = true;
        for process in &of_host {
            self.kill_process(*process);
        }
        for process in &of_host {
            for server in self.processes[process.0].servers.clone() {
                for disk in self.servers[server].disks.clone() {
                    self.disks[disk].power_cut();
                }
            }
        }
        self.hosts[host].boot = BootId::new(u128::from(self.fresh()) | 1);
        self.counts.power_cuts += 1;
        self.caches_fall(host);
    }
}
