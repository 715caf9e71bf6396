//! What goes wrong in a run, and when.

use super::disks::LostBlock;
use super::hurt::Hurting;
use super::{Event, Phase, Process, World};
use crate::canary::Canary;
use crate::disk::{Fate, Operation, Request};
use crate::history::Mark;
use crate::network::{Party, ProcessIndex};
use crate::plan::Every;
use sds_core::replica::interface::Input;
use sds_core::unit::Nanos;

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Crash,
    PowerCut,
    LinkLoss,
    Pause,
    MdmLoss,
    ControlLoss,
    CleanRestart,
    SlowDisk,
    Flip,
    LostWrite,
    MisdirectedWrite,
    LatentError,
    WriteError,
    Reopen,
    DamagedPayload,
    Cut,
}

impl Trouble {
    pub(crate) const ALL: [Self; 16] = [
        Self::Crash,
        Self::PowerCut,
        Self::LinkLoss,
        Self::Pause,
        Self::MdmLoss,
        Self::ControlLoss,
        Self::CleanRestart,
        Self::SlowDisk,
        Self::Flip,
        Self::LostWrite,
        Self::MisdirectedWrite,
        Self::LatentError,
        Self::WriteError,
        Self::Reopen,
        Self::DamagedPayload,
        Self::Cut,
    ];
}

/// A fault that the next fitting request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Armed {
    /// The next data write is lost.
    Lost,
    /// The next data write goes elsewhere.
    Misdirected,
    /// The next write or flush of this disk fails.
    Error { disk: usize, short: bool },
    /// The next payload is damaged.
    Payload,
}

impl World {
    fn every(&self, trouble: Trouble) -> Every {
        let troubles = &self.plan.troubles;
        match trouble {
            Trouble::Crash => troubles.crash,
            Trouble::PowerCut => troubles.power_cut,
            Trouble::LinkLoss => troubles.link_loss,
            Trouble::Pause => troubles.pause,
            Trouble::MdmLoss => troubles.mdm_loss,
            Trouble::ControlLoss => troubles.control_loss,
            Trouble::CleanRestart => troubles.clean_restart,
            Trouble::SlowDisk => troubles.slow_disk,
            Trouble::Flip => troubles.flip,
            Trouble::LostWrite => troubles.lost_write,
            Trouble::MisdirectedWrite => troubles.misdirected_write,
            Trouble::LatentError => troubles.latent_error,
            Trouble::WriteError => troubles.write_error,
            Trouble::Reopen => troubles.reopen,
            Trouble::DamagedPayload => troubles.damaged_payload,
            Trouble::Cut => troubles.cut,
        }
    }

    pub(super) fn schedule_trouble(&mut self, trouble: Trouble) {
        if let Some(every) = self.every(trouble) {
            let wait = every / 2 + self.chance.below(every);
            self.schedule.after(wait, Event::Trouble(trouble));
        }
    }

    pub(super) fn trouble(&mut self, trouble: Trouble) {
        if self.phase != Phase::Troubled {
            return;
        }
        self.schedule_trouble(trouble);
        match trouble {
            Trouble::Crash => self.crash_some(),
            Trouble::PowerCut => self.cut_some_power(),
            Trouble::LinkLoss => {
                let links = self.network.whole();
                if !links.is_empty() {
                    let link = *self.chance.pick(&links);
                    self.break_link(link);
                }
            }
            Trouble::Pause => {
                let process = self.some_process();
                let nanos = *self.chance.pick(&[20_000_000, 300_000_000, 2_000_000_000, 6_000_000_000]);
                self.pause(process, self.now().plus(Nanos::new(nanos)));
            }
            Trouble::MdmLoss => {
                if self.mdm.is_up() {
                    self.stop_mdm();
                }
            }
            Trouble::ControlLoss => {
                let connections = self.mdm.whole();
                if !connections.is_empty() {
                    let connection = *self.chance.pick(&connections);
                    self.break_control(connection);
                }
            }
            Trouble::CleanRestart => {
                let server = self.chance.index(self.servers.len());
                if self.may_end(self.servers[server].process) {
                    self.ask_to_stop(server);
                }
            }
            Trouble::SlowDisk => {
                let disk = self.chance.index(self.disks.len());
                let times = *self.chance.pick(&[5, 50, 500]);
                self.disks[disk].set_slowness(times);
                let nanos = self.chance.below(3_000_000_000);
                self.schedule.after(nanos, Event::Hasten { disk });
            }
            Trouble::Flip => self.flip_some(),
            Trouble::LostWrite => self.armed.push(Armed::Lost),
            Trouble::MisdirectedWrite => self.armed.push(Armed::Misdirected),
            Trouble::LatentError => {
                if let Some((disk, piece, block)) = self.some_data_piece().filter(|(disk, _, block)| self.may_hurt(*disk, *block)) {
                    self.counts.faults += 1;
                    self.hurt(disk, block, Hurting::AtRest);
                    self.disks[disk].medium_mut().make_unreadable(piece);
                }
            }
            Trouble::WriteError => {
                let disk = self.chance.index(self.disks.len());
                let short = self.chance.chance(1, 3);
                let process = self.servers[self.server_of_disk(disk)].process;
                if !self.may_end(process) {
                    return;
                }
                self.armed.push(Armed::Error { disk, short });
            }
            Trouble::Reopen => {
                let client = self.chance.index(self.clients.len());
                self.clients[client].user.leave = true;
            }
            // One at a time: a client gives up after several damaged answers to one request.
            Trouble::DamagedPayload if self.armed.contains(&Armed::Payload) => {}
            Trouble::DamagedPayload => self.armed.push(Armed::Payload),
            Trouble::Cut => self.cut_some(),
        }
    }

    fn some_process(&mut self) -> ProcessIndex {
        ProcessIndex(self.chance.index(self.processes.len()))
    }

    fn crash_some(&mut self) {
        let process = self.some_process();
        if !self.processes[process.0].alive || !self.may_end(process) {
            return;
        }
        self.counts.crashes += 1;
        if self.chance.chance(1, 2) {
            self.kill_process(process);
            self.restart_later(process);
        } else {
            // In the middle of what its next step wants done.
            self.processes[process.0].dies_in_step = true;
        }
    }

    /// Nothing gets from somebody to somebody else for a while, or from somebody to anybody.
    fn cut_some(&mut self) {
        let process = self.some_process();
        let nanos = *self.chance.pick(&[100_000_000, 900_000_000, 2_500_000_000, 7_000_000_000]);
        let until = self.now().plus(Nanos::new(nanos));
        let others: Vec<Party> =
            (0..self.processes.len()).map(ProcessIndex).filter(|other| *other != process).map(Party::Process).chain([Party::Mdm]).collect();
        let others = if self.chance.chance(1, 4) { others } else { vec![*self.chance.pick(&others)] };
        let (out, back) = *self.chance.pick(&[(true, true), (true, false), (false, true)]);
        for other in others {
            self.cut_way(Party::Process(process), other, until, out, back);
        }
        self.counts.cuts += 1;
    }

    /// Cuts the way there, the way back, or both.
    pub(super) fn cut_way(&mut self, one: Party, other: Party, until: Nanos, there: bool, back: bool) {
        let now = self.now();
        self.trace.note(now, &[42, u64::from(there), u64::from(back)], || {
            format!("cut: {one:?} to {other:?} {there}, back {back}, until {}", crate::trace::Stamp(until))
        });
        if there {
            self.network.cut(one, other, until);
        }
        if back {
            self.network.cut(other, one, until);
        }
    }

    fn cut_some_power(&mut self) {
        let hosts: Vec<usize> =
            if self.chance.chance(1, 3) { (0..self.hosts.len()).collect() } else { vec![self.chance.index(self.hosts.len())] };
        for host in hosts {
            let of_host = |process: &Process| process.host == host;
            if !(0..self.processes.len())
                .filter(|process| of_host(&self.processes[*process]))
                .all(|process| self.may_end(ProcessIndex(process)))
            {
                continue;
            }
            self.cut_power(host);
            for process in 0..self.processes.len() {
                if self.processes[process].host == host {
                    self.restart_later(ProcessIndex(process));
                }
            }
        }
    }

    /// A process does nothing until then; the world goes on.
    pub(crate) fn pause(&mut self, process: ProcessIndex, until: Nanos) {
        let now = self.now();
        self.trace.note(now, &[40, process.0 as u64], || format!("process {} pauses until {}", process.0, crate::trace::Stamp(until)));
        self.processes[process.0].paused_until = until;
    }

    pub(super) fn ask_to_stop(&mut self, server: usize) {
        let process = self.servers[server].process;
        // The whole process ends, so every server in it is asked.
        for server in self.processes[process.0].servers.clone() {
            if self.servers[server].machine.is_some() && !self.servers[server].stopping {
                let now = self.now();
                self.trace.note(now, &[41, server as u64], || format!("server {server} is asked to stop"));
                self.servers[server].stopping = true;
                self.step_server(server, Input::Stop);
            }
        }
    }

    /// A piece at rest that holds a known block.
    fn some_data_piece(&mut self) -> Option<(usize, u64, (u32, u64))> {
        let disk = self.chance.index(self.disks.len());
        let known: Vec<(u64, (u32, u64))> =
            self.disks[disk].medium().settled().filter_map(|(number, piece)| Some((number, self.atlas.identify(piece)?))).collect();
        if known.is_empty() {
            return None;
        }
        let (number, key) = *self.chance.pick(&known);
        Some((disk, number, key))
    }

    fn flip_some(&mut self) {
        if let Some((disk, piece, block)) = self.some_data_piece().filter(|(disk, _, block)| self.may_hurt(*disk, *block)) {
            self.counts.faults += 1;
            self.hurt(disk, block, Hurting::AtRest);
            let (byte, bit) = (self.chance.index(4096), self.chance.below(8));
            self.disks[disk].medium_mut().flip(piece, byte, 1 << bit);
        }
    }

    /// What will go wrong with a disk request.
    pub(super) fn fate_of(&mut self, server: usize, disk: usize, request: &Request) -> Fate {
        self.canary_fate(disk, request).unwrap_or_else(|| self.armed_fate(server, disk, request))
    }

    fn data_pieces_of(&self, request: &Request) -> Vec<(usize, (u32, u64))> {
        let Operation::Write { pieces, .. } = &request.operation else { return Vec::new() };
        pieces.iter().enumerate().filter_map(|(index, piece)| Some((index, self.atlas.identify(piece)?))).collect()
    }

    fn data_piece_of(&mut self, request: &Request) -> Option<(usize, (u32, u64))> {
        let known = self.data_pieces_of(request);
        if known.is_empty() { None } else { Some(*self.chance.pick(&known)) }
    }

    fn canary_fate(&mut self, disk: usize, request: &Request) -> Option<Fate> {
        match self.canary {
            Some(Canary::WriteLost) => {
                let (piece, _) = self.data_piece_of(request)?;
                self.chance.chance(1, 100).then_some(Fate::Lost { piece })
            }
            Some(Canary::ByteFlipped) => {
                if matches!(request.operation, Operation::Flush { .. })
                    && let Some((on, piece, _)) = self.some_data_piece()
                {
                    let _ = disk;
                    self.disks[on].medium_mut().flip(piece, 100, 4);
                }
                None
            }
            Some(
                Canary::DurableFlagDropped
                | Canary::FlushIgnored
                | Canary::ChecksumForged
                | Canary::FenceLifted
                | Canary::AcknowledgedEarly
                | Canary::GhostDelivered,
            )
            | None => None,
        }
    }

    fn armed_fate(&mut self, server: usize, disk: usize, request: &Request) -> Fate {
        let Some(position) = self.armed.iter().position(|armed| match armed {
            Armed::Lost | Armed::Misdirected => matches!(request.operation, Operation::Write { .. }),
            Armed::Error { disk: on, .. } => *on == disk && !matches!(request.operation, Operation::Read),
            Armed::Payload => false,
        }) else {
            return Fate::Well;
        };
        let fate = match self.armed[position] {
            Armed::Lost => {
                let Some((piece, block)) = self.data_piece_of(request) else { return Fate::Well };
                if !self.may_lose(disk, block) {
                    return Fate::Well;
                }
                self.hurt(disk, block, Hurting::Written);
                let since = self.history.moment(self.now());
                self.lost_blocks.push(LostBlock { disk, block, since });
                Fate::Lost { piece }
            }
            Armed::Misdirected => {
                let Some((piece, block)) = self.data_piece_of(request) else { return Fate::Well };
                let Some((on, to, victim)) = self.some_data_piece().filter(|(on, ..)| *on == disk) else { return Fate::Well };
                let inside = to >= request.first && to < request.first + u64::from(request.len) / 4096;
                if inside || !self.may_lose(disk, block) || !self.may_hurt(disk, victim) {
                    return Fate::Well;
                }
                self.hurt(disk, block, Hurting::Written);
                self.hurt(disk, victim, Hurting::AtRest);
                let since = self.history.moment(self.now());
                self.lost_blocks.push(LostBlock { disk: on, block, since });
                Fate::Misdirected { piece, to }
            }
            Armed::Error { short, .. } => {
                let process = self.servers[server].process;
                if !self.may_end(process) {
                    return Fate::Well;
                }
                self.device_in_trouble(server);
                // The only copy of a block whose write failed reads as an error until it is written again, in this life of
                // the process (`DeviceFailed`) and, its record being on the device and its data not, in the next (`Corrupt`).
                for (_, (volume, lba)) in self.data_pieces_of(request) {
                    if !self.has_another_copy(volume, lba) {
                        self.mark(Mark::Damaged { volume, lba });
                    }
                }
                if short { Fate::Short } else { Fate::Error }
            }
            Armed::Payload => return Fate::Well,
        };
        self.armed.remove(position);
        self.counts.faults += 1;
        let now = self.now();
        self.trace.tell(now, || format!("disk {disk} op {:x} will meet {fate:?}", request.op.bits()));
        fate
    }

    /// Whether the next payload is to be damaged.
    pub(super) fn take_armed_payload(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return false;
        }
        let Some(position) = self.armed.iter().position(|armed| *armed == Armed::Payload) else { return false };
        self.armed.remove(position);
        self.counts.faults += 1;
        true
    }
}
