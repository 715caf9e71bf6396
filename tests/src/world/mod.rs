//! The world of one run: hosts, processes, disks, links, the MDM and the users, and the loop that
//! lets one thing happen after the other.
//!
//! Invariants: everything that happens is drawn from the seed and told to the trace; effects of a
//! step never step another machine directly, they schedule it. Must not know: rules of the protocol.

mod armed;
mod client;
mod control;
mod copies;
mod disks;
mod ending;
mod hurt;
mod links;
mod operator;
mod process;
mod script;
mod server;
mod troubles;
mod user;
mod watch;

pub use ending::Phase;
pub use hurt::Harm;
pub use troubles::Trouble;
pub use user::UserState;

use crate::atlas::{Atlas, BlockKey};
use crate::buffers::{Pin, SimBuffers};
use crate::canary::Canary;
use crate::checker::invariants::Invariants;
use crate::disk::{Disk, Medium, RequestNumber};
use crate::history::{History, Mark};
use crate::marks::{Marked, Marks};
use crate::mdm::{Mdm, Role};
use crate::network::{Network, ProcessIndex, Side};
use crate::plan::{Layout, Plan};
use crate::prng::{Prng, mix};
use crate::retell::{Firing, Recording, Retelling};
use crate::schedule::{Drifting, Schedule};
use crate::trace::{Telling, Trace};
use client::ClientNode;
use links::Connecting;
use operator::Removal;
use sds_core::cluster::leader::ApiReply;
use sds_core::cluster::state::Volume;
use sds_core::id::{BootId, ClientId, DeviceId, DeviceUuid, LogSequence, RequestId, SdsUuid, SystemId, Ticket, VolumeId};
use sds_core::machine::{LinkId, Outbox};
use sds_core::map::{Member, ShardEntry};
use sds_core::unit::{ByteCount, Nanos};
use sds_core::{replica, volume};
use server::{Fake, ServerNode};
use std::collections::{BTreeMap, BTreeSet};
use user::User;

/// What is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A process starts.
    Start(ProcessIndex),
    /// A process with a failed device is killed, to be started again.
    GiveUp { process: ProcessIndex, life: u64 },
    /// A disk request ends.
    Disk { disk: usize, number: RequestNumber },
    /// A disk request that the shell pretends has ended (a canary).
    FakeDone { server: usize, life: u64, fake: Fake },
    /// A device's lock is tried (again).
    OpenDevice { server: usize, life: u64, slot: usize },
    /// Something arrives on a link.
    Link { link: LinkId, side: Side },
    /// A connect reaches its server, or not.
    Connect(Connecting),
    /// A socket has taken a frame's payload.
    Sent { process: ProcessIndex, life: u64, pin: Pin },
    /// A machine's deadline.
    Wake { role: Role, life: u64 },
    /// A role connects to the MDM.
    ConnectControl { role: Role, life: u64 },
    /// Something arrives at the MDM.
    ControlUp(LinkId),
    /// Something arrives at a party.
    ControlDown(LinkId),
    /// A server's sign of life.
    Heartbeat { server: usize, life: u64 },
    /// A proposal gets into the log.
    Commit { term: u64 },
    /// The MDM's deadline.
    WakeMdm { term: u64 },
    /// The MDM is back.
    StartMdm,
    /// An operator asks the MDM.
    Operate,
    /// A user looks whether it has something to do.
    User { client: usize, life: u64 },
    /// Something goes wrong.
    Trouble(Trouble),
    /// What went wrong when the run was told first, by number.
    Retold(usize),
    /// A link breaks over which a request goes that this has waited for.
    Break { link: LinkId },
    /// A process dies, or its host loses power, at a write that this has waited for.
    Blow { process: ProcessIndex, power: bool },
    /// A slow device is fast again.
    Hasten { disk: usize },
    /// The run looks whether its phase is over.
    Look,
}

/// What must have power to live.
#[derive(Debug)]
pub(crate) struct Host {
    boot: BootId,
    /// It has had no power since its last process died.
    is_dark: bool,
}

/// A process: its memory and its life.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) host: usize,
    pub(crate) life: u64,
    pub(crate) alive: bool,
    pub(crate) paused_until: Nanos,
    /// When its pause is over it looks at its clock before it looks at what has come meanwhile.
    pub(crate) timers_first: bool,
    pub(crate) clock: Drifting,
    pub(crate) buffers: SimBuffers,
    pub(crate) servers: Vec<usize>,
    pub(crate) clients: Vec<usize>,
    /// A start is scheduled.
    pub(crate) starting: bool,
    /// The next step of this process will not get all its effects out.
    pub(crate) dies_in_step: bool,
}

/// Counts for the last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that users made.
    pub ops: u64,
    /// Of them, answered with success.
    pub done: u64,
    /// Process crashes.
    pub crashes: u64,
    /// Shards that servers were asked to give to their secondaries.
    pub hand_overs: u64,
    /// Volumes that were deleted and made anew.
    pub deletions: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Take-overs and openings.
    pub opens: u64,
    /// Storage faults planted.
    pub faults: u64,
    /// Blocks that were repaired from the other copy.
    pub repaired: u64,
    /// Blocks that were damaged when everybody had stopped, and right on the other copy.
    pub damaged_at_rest: u64,
    /// Links broken.
    pub link_losses: u64,
    /// Ways cut.
    pub cuts: u64,
    /// Proposals that were bad moments.
    pub ambushes: u64,
    /// Changes of shards that servers proposed and the MDM made.
    pub changes: u64,
    /// Acknowledged writes that were looked for on their devices.
    pub looked_for: u64,
    /// Shards whose two copies were compared.
    pub copies_compared: u64,
}

/// The world.
#[derive(Debug)]
pub struct World {
    pub(crate) plan: Plan,
    pub(crate) canary: Option<Canary>,
    pub(crate) schedule: Schedule<Event>,
    pub(crate) chance: Prng,
    pub(crate) trace: Trace,
    pub(crate) history: History,
    pub(crate) atlas: Atlas,
    pub(crate) hosts: Vec<Host>,
    pub(crate) processes: Vec<Process>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) servers: Vec<ServerNode>,
    pub(crate) clients: Vec<ClientNode>,
    pub(crate) network: Network,
    pub(crate) mdm: Mdm,
    pub(crate) mdm_wake: Option<Nanos>,
    pub(crate) system: SystemId,
    pub(crate) phase: Phase,
    pub(crate) phase_since: Nanos,
    pub(crate) lives: u64,
    pub(crate) stamps: u64,
    pub(crate) tokens: u64,
    pub(crate) volumes_made: usize,
    pub(crate) pool_made: bool,
    pub(crate) operating: Option<u64>,
    /// Answers to what a scenario's operator asked.
    by_hand: BTreeMap<u64, ApiReply>,
    pub(crate) newest_session: Vec<u64>,
    pub(crate) lost_blocks: Vec<disks::LostBlock>,
    /// Blocks of two copies that were damaged on one of them.
    hurt: BTreeMap<BlockKey, hurt::Hurt>,
    invariants: Invariants,
    /// Requests for zeroes under way.
    zeroes: BTreeSet<(LinkId, RequestId)>,
    /// Writes acknowledged so far.
    acknowledged: u64,
    /// Who the disks are.
    uuids: Vec<DeviceUuid>,
    /// Copies in sync (shard, device) that have lost their cache, where another had not.
    fallen: BTreeSet<(usize, DeviceId)>,
    /// Hosts with a device that was made to fail.
    troubled_hosts: BTreeSet<usize>,
    /// Devices that have failed in their process's life.
    failed_devices: BTreeSet<DeviceId>,
    /// Disks with a request in flight that will fail: as good as failed for whoever may end.
    doomed: BTreeSet<usize>,
    /// Disks that have failed a write of one copy of two: in these shards, at these epochs, the other copy is the only whole one.
    wounds: BTreeMap<usize, Vec<copies::Wound>>,
    /// The shards that had two copies in sync when everybody had finished.
    pairs_at_rest: Vec<Option<ShardEntry>>,
    pub(crate) ghosts: Vec<links::Ghost>,
    pub(crate) armed: Vec<armed::Armed>,
    /// What went wrong so far.
    firings: Vec<Firing>,
    /// The run was told before.
    retelling: Option<Retelling>,
    /// What was durable on a device a while ago.
    image: Option<(usize, Medium)>,
    /// Its host is without power, and it will be found like that.
    is_going_back: bool,
    /// Flushed positions that only the MDM's leader has heard, and that are needed: of devices in these lives.
    only_heard: Vec<(Member, LogSequence)>,
    /// When a read of a disk last went wrong once.
    glitched: BTreeMap<usize, Nanos>,
    /// A volume that is to be deleted and made anew.
    removal: Option<Removal>,
    /// Volumes that were to be deleted, as they were.
    former_volumes: BTreeMap<VolumeId, Volume>,
    /// Disks of which a superblock was damaged.
    lost_superblocks: BTreeSet<usize>,
    pub(crate) counts: Counts,
    pub(crate) marks: Marks,
    pub(crate) violations: Vec<String>,
    server_out: Outbox<replica::interface::Effect>,
    client_out: Outbox<volume::interface::Effect>,
}

const EXTENT: u64 = 1 << 20;

impl World {
    /// The world of a plan, before anything has happened.
    #[must_use]
    pub fn new(plan: Plan, seed: u64, canary: Option<Canary>, telling: Telling) -> Self {
        Self::told(plan, seed, canary, telling, None)
    }

    /// The same, if it was told before, with what is kept of that.
    #[must_use]
    pub fn told(plan: Plan, seed: u64, canary: Option<Canary>, telling: Telling, retelling: Option<Retelling>) -> Self {
        let mut chance = Prng::new(seed);
        let uuid = |chance: &mut Prng| (u128::from(chance.next_u64()) << 64) | u128::from(chance.next_u64()) | 1;
        let system = SystemId::new(uuid(&mut chance));
        let mut world = Self {
            canary,
            schedule: Schedule::default(),
            trace: Trace::new(telling),
            history: History::default(),
            atlas: Atlas::default(),
            hosts: Vec::new(),
            processes: Vec::new(),
            disks: Vec::new(),
            servers: Vec::new(),
            clients: Vec::new(),
            network: Network::default(),
            mdm: Mdm::new(system, Drifting::draw(plan.drift, &mut chance.fork(2))),
            mdm_wake: None,
            system,
            phase: Phase::Troubled,
            phase_since: Nanos::ZERO,
            lives: 0,
            stamps: 0,
            tokens: 0,
            volumes_made: 0,
            pool_made: false,
            operating: None,
            by_hand: BTreeMap::new(),
            newest_session: vec![0; plan.volumes.len() + 2],
            lost_blocks: Vec::new(),
            hurt: BTreeMap::new(),
            invariants: Invariants::default(),
            zeroes: BTreeSet::new(),
            acknowledged: 0,
            uuids: Vec::new(),
            fallen: BTreeSet::new(),
            troubled_hosts: BTreeSet::new(),
            failed_devices: BTreeSet::new(),
            doomed: BTreeSet::new(),
            wounds: BTreeMap::new(),
            pairs_at_rest: Vec::new(),
            ghosts: Vec::new(),
            armed: Vec::new(),
            firings: Vec::new(),
            retelling,
            image: None,
            is_going_back: false,
            only_heard: Vec::new(),
            glitched: BTreeMap::new(),
            removal: None,
            former_volumes: BTreeMap::new(),
            lost_superblocks: BTreeSet::new(),
            counts: Counts::default(),
            marks: Marks::default(),
            violations: Vec::new(),
            server_out: Outbox::new(),
            client_out: Outbox::new(),
            chance: chance.fork(1),
            plan,
        };
        world.people(&mut chance, uuid);
        world.schedule.after(0, Event::StartMdm);
        world.schedule.after(1, Event::Operate);
        for process in 0..world.processes.len() {
            let delay = world.chance.below(50_000_000);
            world.processes[process].starting = true;
            world.schedule.after(delay, Event::Start(ProcessIndex(process)));
        }
        for trouble in Trouble::ALL {
            world.schedule_trouble(trouble);
        }
        let times: Vec<Nanos> = world.retelling.iter().flat_map(|told| &told.firings).map(|firing| firing.at).collect();
        for (number, at) in times.into_iter().enumerate() {
            world.schedule.at(at, Event::Retold(number));
        }
        world.schedule.after(100_000_000, Event::Look);
        world
    }

    /// Makes hosts, processes, disks and roles.
    fn people(&mut self, chance: &mut Prng, uuid: impl Fn(&mut Prng) -> u128) {
        let (servers, clients) = (self.plan.servers, self.plan.clients);
        for server in 0..servers {
            let process = match self.plan.layout {
                Layout::Embedded if server > 0 => ProcessIndex(0),
                Layout::Embedded | Layout::Apart | Layout::HyperConverged => self.add_process(chance),
            };
            let host = self.processes[process.0].host;
            let mut node = ServerNode::new(process, SdsUuid::new(uuid(chance)));
            for _ in 0..self.plan.devices {
                let number = self.disks.len();
                let bytes =
                    ByteCount::new((u64::from(self.plan.extents) * (EXTENT + 8192) + u64::from(self.plan.log_blocks) * 4096) + 64 * 4096);
                let mut disk = Disk::new(bytes, self.plan.profile, chance.fork(number as u64));
                let device = DeviceUuid::new(uuid(chance));
                server::format(&mut disk, self.system, device, self.hosts[host].boot, self.plan.log_blocks);
                self.disks.push(disk);
                self.uuids.push(device);
                node.disks.push(number);
            }
            self.processes[process.0].servers.push(server);
            self.servers.push(node);
        }
        for client in 0..clients {
            let process = match self.plan.layout {
                Layout::Embedded if client == 0 => ProcessIndex(0),
                Layout::HyperConverged if client < servers => self.servers[client].process,
                Layout::Embedded | Layout::Apart | Layout::HyperConverged => self.add_process(chance),
            };
            self.processes[process.0].clients.push(client);
            let (id, ticket) = (ClientId::new(uuid(chance)), Ticket::new(uuid(chance)));
            self.clients.push(ClientNode::new(process, id, ticket, User::new(chance.fork(client as u64))));
        }
    }

    fn add_process(&mut self, chance: &mut Prng) -> ProcessIndex {
        let host = self.hosts.len();
        self.hosts.push(Host { boot: BootId::new(u128::from(chance.next_u64()) | 1), is_dark: false });
        self.processes.push(Process {
            host,
            life: 0,
            alive: false,
            paused_until: Nanos::ZERO,
            timers_first: false,
            clock: Drifting::draw(self.plan.drift, chance),
            buffers: SimBuffers::new(self.plan.budgets, 0),
            servers: Vec::new(),
            clients: Vec::new(),
            starting: false,
            dies_in_step: false,
        });
        ProcessIndex(self.processes.len() - 1)
    }

    /// The virtual time.
    #[must_use]
    pub const fn now(&self) -> Nanos {
        self.schedule.now()
    }

    /// What the clock of a process's host shows.
    fn clock_of(&self, process: ProcessIndex) -> Nanos {
        self.processes[process.0].clock.shows(self.now())
    }

    /// What was counted.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// What was reached.
    #[must_use]
    pub const fn marks(&self) -> &Marks {
        &self.marks
    }

    pub(crate) fn seen(&mut self, what: &impl Marked) {
        self.marks.hit(what.mark());
    }

    /// What the users saw.
    #[must_use]
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// What of the run can be left out when it is told again.
    #[must_use]
    pub fn recording(&self) -> Recording {
        Recording { firings: self.firings.clone(), wishes: self.clients.iter().map(|client| client.user.wished).collect() }
    }

    /// The story's hash and length.
    #[must_use]
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What must not have happened, so far.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn violate(&mut self, story: String) {
        let now = self.now();
        self.trace.tell(now, || format!("VIOLATION: {story}"));
        if self.violations.len() < 16 {
            self.violations.push(story);
        }
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        let now = self.now();
        self.trace.note(now, &[90], || format!("mark: {mark:?}"));
        self.history.mark(now, mark);
    }

    /// Lets the next thing happen. False when nothing is left or something is wrong already.
    pub(crate) fn turn(&mut self) -> bool {
        if !self.violations.is_empty() {
            return false;
        }
        let Some(event) = self.schedule.next_event() else { return false };
        if let Some(process) = self.process_of(&event) {
            let until = self.processes[process.0].paused_until;
            if until > self.now() {
                // Later, in the same order, or timers first.
                let waits = self.processes[process.0].timers_first && !matches!(event, Event::Wake { .. });
                self.schedule.at(until.plus(Nanos::new(u64::from(waits))), event);
                return true;
            }
        }
        self.happen(event);
        true
    }

    /// Whose turn an event is, if it waits while that process is paused.
    fn process_of(&self, event: &Event) -> Option<ProcessIndex> {
        match event {
            Event::OpenDevice { server, .. } | Event::Heartbeat { server, .. } => Some(self.servers[*server].process),
            Event::User { client, .. } => Some(self.clients[*client].process),
            Event::Wake { role, .. } | Event::ConnectControl { role, .. } => Some(self.process_of_role(*role)),
            Event::Link { link, side } => self.network.get(*link).map(|link| link.end(*side).process),
            // What the kernel and the world do goes on; completions are handed over later (see `disks`).
            Event::Start(_)
            | Event::GiveUp { .. }
            | Event::Disk { .. }
            | Event::FakeDone { .. }
            | Event::Connect(_)
            | Event::Sent { .. }
            | Event::ControlUp(_)
            | Event::ControlDown(_)
            | Event::Commit { .. }
            | Event::WakeMdm { .. }
            | Event::StartMdm
            | Event::Operate
            | Event::Trouble(_)
            | Event::Retold(_)
            | Event::Break { .. }
            | Event::Blow { .. }
            | Event::Hasten { .. }
            | Event::Look => None,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(process) => self.start_process(process),
            Event::GiveUp { process, life } => {
                if self.is_alive(process, life) {
                    self.kill_process(process);
                    self.restart_later(process);
                }
            }
            Event::Disk { disk, number } => self.disk_done(disk, number),
            Event::FakeDone { server, life, fake } => self.fake_done(server, life, &fake),
            Event::OpenDevice { server, life, slot } => self.open_device(server, life, slot),
            Event::Link { link, side } => self.link_arrives(link, side),
            Event::Connect(connecting) => self.connect_arrives(connecting),
            Event::Sent { process, life, pin } => self.sent(process, life, pin),
            Event::Wake { role, life } => self.wake(role, life),
            Event::ConnectControl { role, life } => self.connect_control(role, life),
            Event::ControlUp(connection) => self.control_up(connection),
            Event::ControlDown(connection) => self.control_down(connection),
            Event::Heartbeat { server, life } => self.heartbeat(server, life),
            Event::Commit { term } => self.commit(term),
            Event::WakeMdm { term } => self.wake_mdm(term),
            Event::StartMdm => self.start_mdm(),
            Event::Operate => self.operate(),
            Event::User { client, life } => self.user_looks(client, life),
            Event::Trouble(trouble) => self.trouble(trouble),
            Event::Retold(number) => self.trouble_again(number),
            Event::Break { link } => self.break_if_whole(link),
            Event::Blow { process, power } => self.blow(process, power),
            Event::Hasten { disk } => self.disks[disk].set_slowness(1),
            Event::Look => self.look(),
        }
    }

    pub(crate) fn is_alive(&self, process: ProcessIndex, life: u64) -> bool {
        let process = &self.processes[process.0];
        process.alive && process.life == life
    }

    /// A one-way delay between two processes.
    pub(crate) fn network_delay(&mut self) -> u64 {
        self.chance.delay(self.plan.network_ns)
    }

    /// Something to sign things with, unlike any other in the run.
    pub(crate) fn fresh(&mut self) -> u64 {
        mix(self.chance.next_u64())
    }

    /// After a step: misuse of memory, and memory that somebody waits for.
    pub(crate) fn after_step(&mut self, process: ProcessIndex) {
        for fault in self.processes[process.0].buffers.take_faults() {
            self.violate(format!("process {}: {fault}", process.0));
        }
        if self.processes[process.0].buffers.take_freed_after_starving() {
            let life = self.processes[process.0].life;
            for index in 0..self.processes[process.0].servers.len() {
                let server = self.processes[process.0].servers[index];
                self.schedule.after(0, Event::Wake { role: Role::Server(server), life });
            }
            for index in 0..self.processes[process.0].clients.len() {
                let client = self.processes[process.0].clients[index];
                self.schedule.after(0, Event::Wake { role: Role::Client(client), life });
                self.schedule.after(0, Event::User { client, life });
            }
        }
    }
}
