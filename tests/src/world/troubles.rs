//! What goes wrong in a run, and when.

use super::armed::{Armed, Glitch};
use super::hurt::Hurting;
use super::{Event, Phase, Process, World};
use crate::network::{Party, ProcessIndex};
use crate::plan::Every;
use crate::retell::Firing;
use sds_core::format::geometry::{Geometry, SUPERBLOCK_COPIES};
use sds_core::id::ShardId;
use sds_core::map::{Member, ShardEntry};
use sds_core::replica::interface::{Input, ReplicaOptions};
use sds_core::unit::{BLOCK_BYTES, Nanos};

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// A process is killed.
    Crash,
    /// A host loses power.
    PowerCut,
    /// A link breaks.
    LinkLoss,
    /// A process does nothing for a while.
    Pause,
    /// The MDM is away for a while.
    MdmLoss,
    /// A control connection breaks.
    ControlLoss,
    /// A server is stopped cleanly.
    CleanRestart,
    /// A device is slow for a while.
    SlowDisk,
    /// A device answers nothing for longer than is waited for it.
    HungDisk,
    /// A device whose host lost power is found as it was a while before.
    OldDisk,
    /// A bit of a data block at rest changes.
    Flip,
    /// A data write is acknowledged and not done.
    LostWrite,
    /// A data write goes to another data block.
    MisdirectedWrite,
    /// A data block at rest cannot be read.
    LatentError,
    /// A write or flush fails.
    WriteError,
    /// A user gives its volume back.
    Reopen,
    /// A payload changes under way.
    DamagedPayload,
    /// Nothing gets from somebody to somebody else for a while.
    Cut,
    /// The next proposal of a data server is a bad moment.
    Ambush,
    /// A secondary wakes up and takes its primary for silent.
    FalseSilence,
    /// A server is asked to give shards to their secondaries, however things stand.
    HandOver,
    /// A read fails, ends early or brings a wrong bit, once.
    TransientRead,
    /// One of a device's superblocks is damaged.
    DamagedSuperblock,
    /// A volume is deleted and made anew.
    Deletion,
}

/// At least so long a host is without power whose device goes back.
const GOING_BACK_NS: u64 = 1_500_000_000;
impl Trouble {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Crash,
        Self::PowerCut,
        Self::LinkLoss,
        Self::Pause,
        Self::MdmLoss,
        Self::ControlLoss,
        Self::CleanRestart,
        Self::SlowDisk,
        Self::HungDisk,
        Self::OldDisk,
        Self::Flip,
        Self::LostWrite,
        Self::MisdirectedWrite,
        Self::LatentError,
        Self::WriteError,
        Self::Reopen,
        Self::DamagedPayload,
        Self::Cut,
        Self::Ambush,
        Self::FalseSilence,
        Self::HandOver,
        Self::TransientRead,
        Self::DamagedSuperblock,
        Self::Deletion,
    ];
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
            Trouble::HungDisk => troubles.hung_disk,
            Trouble::OldDisk => troubles.old_disk,
            Trouble::Flip => troubles.flip,
            Trouble::LostWrite => troubles.lost_write,
            Trouble::MisdirectedWrite => troubles.misdirected_write,
            Trouble::LatentError => troubles.latent_error,
            Trouble::WriteError => troubles.write_error,
            Trouble::Reopen => troubles.reopen,
            Trouble::DamagedPayload => troubles.damaged_payload,
            Trouble::Cut => troubles.cut,
            Trouble::Ambush => troubles.ambush,
            Trouble::FalseSilence => troubles.false_silence,
            Trouble::HandOver => troubles.hand_over,
            Trouble::TransientRead => troubles.transient_read,
            Trouble::DamagedSuperblock => troubles.damaged_superblock,
            Trouble::Deletion => troubles.deletion,
        }
    }

    pub(super) fn schedule_trouble(&mut self, trouble: Trouble) {
        if let Some(every) = self.every(trouble) {
            let wait = every / 2 + self.chance.below(every);
            // A run that is told again has them when it had them.
            if self.retelling.is_none() {
                self.schedule.after(wait, Event::Trouble(trouble));
            }
        }
    }

    pub(super) fn trouble(&mut self, trouble: Trouble) {
        if self.phase != Phase::Troubled {
            return;
        }
        let (at, before) = (self.now(), self.chance.clone());
        self.go_wrong(trouble);
        self.firings.push(Firing { at, trouble, before, after: self.chance.clone() });
    }

    /// Something went wrong here when the run was told first: again, by the chance it had then, if it is kept.
    pub(super) fn trouble_again(&mut self, number: usize) {
        let Some(told) = &self.retelling else { return };
        let Some(firing) = told.firings.get(number).filter(|_| self.phase == Phase::Troubled) else { return };
        let (Firing { trouble, before, after, .. }, is_kept) = (firing.clone(), told.kept.faults.contains(&number));
        let as_told = self.chance == before;
        let own = core::mem::replace(&mut self.chance, before);
        if is_kept {
            self.go_wrong(trouble);
        }
        // As long as nothing was left out before, the world goes on with what it went on with.
        if !as_told {
            self.chance = own;
        } else if !is_kept {
            self.chance = after;
        }
    }

    fn go_wrong(&mut self, trouble: Trouble) {
        self.schedule_trouble(trouble);
        match trouble {
            // Most of a run its users rest, and where nothing is on its way a crash shows little.
            Trouble::Crash | Trouble::PowerCut if self.chance.chance(1, 2) => {
                let durable = self.plan.profile.volatile_cache && self.chance.chance(1, 2);
                self.armed.push(Armed::Blow { power: trouble == Trouble::PowerCut, durable });
            }
            Trouble::Crash => self.crash_some(),
            Trouble::PowerCut => {
                let host = self.chance.index(self.hosts.len());
                self.cut_power_around(host);
            }
            Trouble::LinkLoss if self.chance.chance(1, 2) => self.armed.push(Armed::LinkLoss),
            Trouble::LinkLoss => {
                let links = self.network.whole();
                if !links.is_empty() {
                    let link = *self.chance.pick(&links);
                    self.seen(&trouble);
                    self.break_link(link);
                }
            }
            Trouble::Pause => {
                let process = self.some_process();
                let nanos = *self.chance.pick(&[20_000_000, 300_000_000, 2_000_000_000, 6_000_000_000]);
                self.seen(&trouble);
                self.pause(process, self.now().plus(Nanos::new(nanos)));
            }
            Trouble::MdmLoss => {
                if self.mdm.is_up() && self.mdm_may_go() {
                    self.seen(&trouble);
                    self.stop_mdm();
                }
            }
            Trouble::ControlLoss => {
                let connections = self.mdm.whole();
                if !connections.is_empty() {
                    let connection = *self.chance.pick(&connections);
                    self.seen(&trouble);
                    self.break_control(connection);
                }
            }
            Trouble::CleanRestart => {
                let server = self.chance.index(self.servers.len());
                if self.may_end(self.servers[server].process) {
                    self.seen(&trouble);
                    self.ask_to_stop(server);
                }
            }
            Trouble::SlowDisk => {
                let disk = self.chance.index(self.disks.len());
                let times = *self.chance.pick(&[5, 50, 500]);
                self.seen(&trouble);
                self.disks[disk].set_slowness(times);
                let nanos = self.chance.below(3_000_000_000);
                self.schedule.after(nanos, Event::Hasten { disk });
            }
            Trouble::HungDisk => self.hang_some(),
            Trouble::OldDisk => self.bring_back_some(),
            Trouble::Flip => self.flip_some(),
            Trouble::LostWrite => self.armed.push(Armed::Lost),
            Trouble::MisdirectedWrite => self.armed.push(Armed::Misdirected),
            Trouble::LatentError => {
                if let Some((disk, piece, block)) = self.some_data_piece().filter(|(disk, _, block)| self.may_hurt(*disk, *block)) {
                    self.counts.faults += 1;
                    self.seen(&trouble);
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
                self.seen(&trouble);
                self.clients[client].user.leave = true;
            }
            // One at a time: a client gives up after several damaged answers to one request.
            Trouble::DamagedPayload if self.armed.contains(&Armed::Payload) => {}
            Trouble::DamagedPayload => self.armed.push(Armed::Payload),
            Trouble::Cut => self.cut_some(),
            Trouble::Ambush if self.armed.contains(&Armed::Ambush) => {}
            Trouble::Ambush => self.armed.push(Armed::Ambush),
            Trouble::FalseSilence => self.mislead_some_secondary(),
            Trouble::HandOver => self.ask_for_some_shards(),
            Trouble::TransientRead if self.armed.iter().any(|armed| matches!(armed, Armed::Read(_))) => {}
            Trouble::TransientRead => {
                let glitch = *self.chance.pick(&[Glitch::Error, Glitch::Short, Glitch::Bit, Glitch::Bit]);
                self.armed.push(Armed::Read(glitch));
            }
            Trouble::DamagedSuperblock => self.damage_some_superblock(),
            Trouble::Deletion => self.remove_some_volume(),
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
        self.seen(&Trouble::Crash);
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
        self.seen(&Trouble::Cut);
    }

    /// A secondary that wakes up may look at its clock before it looks at its sockets, where its primary's beacons wait: it takes that for lost. The
    /// primary is cut off from the MDM, its clients are not cut off from it.
    fn mislead_some_secondary(&mut self) {
        let pairs: Vec<ShardEntry> = self.whole_pairs().into_iter().flatten().collect();
        if pairs.is_empty() {
            return;
        }
        let [primary, secondary] = *self.chance.pick(&pairs).in_sync.members() else { return };
        let process = |member: Member| self.server_of(member.device).map(|server| self.servers[server].process);
        let (Some(primary), Some(secondary)) = (process(primary), process(secondary)) else { return };
        if primary == secondary {
            return;
        }
        self.seen(&Trouble::FalseSilence);
        let now = self.now();
        self.cut_way(Party::Process(primary), Party::Mdm, now.plus(Nanos::from_millis(5_000)), true, true);
        let silence = Nanos::from_millis(1_050 + self.chance.below(1_500));
        self.pause(secondary, now.plus(silence));
        self.processes[secondary.0].timers_first = true;
    }

    /// The MDM asks for roles to be changed in calm times only; a server must bear it at any time.
    fn ask_for_some_shards(&mut self) {
        let server = self.chance.index(self.servers.len());
        let Some(pool) = self.mdm.cluster().pool_by_name(super::control::POOL).map(|(id, _)| id) else { return };
        let leads = |entry: &ShardEntry| entry.in_sync.primary().and_then(|primary| self.server_of(primary.device)) == Some(server);
        let led = self.shards().into_iter().zip(0..).filter(|(entry, _)| leads(entry));
        let shards: Vec<_> = led.map(|(entry, shard)| (pool, ShardId::new(shard), entry.epoch)).take(4).collect();
        let is_awake = self.processes[self.servers[server].process.0].paused_until <= self.now();
        if is_awake && self.servers[server].machine.is_some() && !self.servers[server].stopping && !shards.is_empty() {
            self.counts.hand_overs += shards.len() as u64;
            self.seen(&Trouble::HandOver);
            self.step_server(server, Input::HandOver { shards: &shards });
        }
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

    /// A host loses power, or all of them.
    pub(super) fn cut_power_around(&mut self, host: usize) {
        let hosts: Vec<usize> = if self.chance.chance(1, 3) { (0..self.hosts.len()).collect() } else { vec![host] };
        for host in hosts {
            let of_host = |process: &Process| process.host == host;
            if !(0..self.processes.len())
                .filter(|process| of_host(&self.processes[*process]))
                .all(|process| self.may_end(ProcessIndex(process)))
            {
                continue;
            }
            self.seen(&Trouble::PowerCut);
            self.cut_power(host);
            for process in 0..self.processes.len() {
                if self.processes[process].host == host {
                    self.restart_later(ProcessIndex(process));
                }
            }
        }
    }

    /// A device takes requests and does not answer for a while, and then answers all.
    fn hang_some(&mut self) {
        let disk = self.chance.index(self.disks.len());
        let process = self.servers[self.server_of_disk(disk)].process;
        if self.may_end(process) {
            self.seen(&Trouble::HungDisk);
            let nanos = ReplicaOptions::DISK_HANG_DEFAULT.get() + self.chance.below(15_000_000_000);
            let until = self.now().plus(Nanos::new(nanos));
            self.disks[disk].hold(until);
            self.other_copies_hang(disk);
        }
    }

    /// First what is durable on a device is remembered; the next time its host loses power, and the device is found as it was then.
    fn bring_back_some(&mut self) {
        if self.is_going_back {
            return;
        }
        let Some((disk, image)) = self.image.take() else {
            let disk = self.chance.index(self.disks.len());
            self.image = Some((disk, self.disks[disk].medium().durable()));
            return;
        };
        let process = self.servers[self.server_of_disk(disk)].process;
        if self.processes[process.0].alive && self.mdm_knows_of(disk) && self.may_forget(disk) {
            self.only_heard = self.positions_heard(disk);
            self.cut_power(self.processes[process.0].host);
            // What its server had proposed is decided by then.
            let delay = GOING_BACK_NS + self.chance.below(GOING_BACK_NS);
            self.processes[process.0].starting = true;
            self.schedule.after(delay, Event::Start(process));
            self.image = Some((disk, image));
            self.is_going_back = true;
        }
    }

    /// A process starts: its device may be found as it once was.
    pub(super) fn go_back(&mut self, process: ProcessIndex) {
        let of_process = |disk: usize| self.servers[self.server_of_disk(disk)].process == process;
        if !self.is_going_back || !self.image.as_ref().is_some_and(|(disk, _)| of_process(*disk)) {
            return;
        }
        self.is_going_back = false;
        let Some((disk, image)) = self.image.take() else { return };
        if self.phase == Phase::Troubled && self.may_forget(disk) {
            self.seen(&Trouble::OldDisk);
            *self.disks[disk].medium_mut() = image;
        }
    }

    /// A process does nothing until then; the world goes on.
    pub(crate) fn pause(&mut self, process: ProcessIndex, until: Nanos) {
        let now = self.now();
        self.trace.note(now, &[40, process.0 as u64], || format!("process {} pauses until {}", process.0, crate::trace::Stamp(until)));
        self.processes[process.0].paused_until = until;
        self.processes[process.0].timers_first = false;
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
    pub(super) fn some_data_piece(&mut self) -> Option<(usize, u64, (u32, u64))> {
        let disk = self.chance.index(self.disks.len());
        let known: Vec<(u64, (u32, u64))> =
            self.disks[disk].medium().settled().filter_map(|(number, piece)| Some((number, self.atlas.identify(piece)?))).collect();
        if known.is_empty() {
            return None;
        }
        let (number, key) = *self.chance.pick(&known);
        Some((disk, number, key))
    }

    /// A device bears to lose one of its superblocks, so it loses one once.
    fn damage_some_superblock(&mut self) {
        let disk = self.chance.index(self.disks.len());
        let copy = u32::try_from(self.chance.below(u64::from(SUPERBLOCK_COPIES))).expect("few");
        let (byte, bit, unreadable) = (self.chance.index(BLOCK_BYTES as usize), self.chance.below(8), self.chance.chance(1, 3));
        let piece = Geometry::superblock_of(self.disks[disk].bytes(), copy).get() / u64::from(BLOCK_BYTES);
        let at_rest = self.disks[disk].medium().settled().any(|(number, _)| number == piece);
        if !at_rest || !self.lost_superblocks.insert(disk) {
            return;
        }
        let now = self.now();
        self.trace.tell(now, || format!("superblock {copy} of disk {disk} is damaged"));
        self.counts.faults += 1;
        self.seen(&Trouble::DamagedSuperblock);
        let medium = self.disks[disk].medium_mut();
        if unreadable { medium.make_unreadable(piece) } else { medium.flip(piece, byte, 1 << bit) }
    }

    fn flip_some(&mut self) {
        if let Some((disk, piece, block)) = self.some_data_piece().filter(|(disk, _, block)| self.may_hurt(*disk, *block)) {
            self.counts.faults += 1;
            self.seen(&Trouble::Flip);
            self.hurt(disk, block, Hurting::AtRest);
            let (byte, bit) = (self.chance.index(4096), self.chance.below(8));
            self.disks[disk].medium_mut().flip(piece, byte, 1 << bit);
        }
    }
}
