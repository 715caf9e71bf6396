//! Data servers: registration, heartbeats, confirmations, and who is down.
//!
//! Invariant: an identity or a device that a live server holds is not given to another one. Who
//! claims it waits until the holder speaks (then it is refused) or is silent for long enough.

use super::{Effect, Event, Leader, Party, Pending};
use crate::cluster::{Change, Heard, Outcome, Refusal, RegisterDevice, RegisterSds};
use crate::control::{CONTROL_VERSION, DeviceReport, DeviceState, MdmToSds, SdsToMdm};
use crate::id::{DeviceId, DeviceUuid, MapVersion, PoolId, SdsId, SdsUuid, ShardId, TreeId};
use crate::limits::{DEVICES_PER_SDS_MAX, PROPOSALS_PER_MESSAGE_MAX, TEXT_BYTES_MAX};
use crate::machine::{LinkId, Outbox};
use crate::map::Member;
use crate::protocol::membership::Proposal;
use crate::unit::Nanos;
use std::collections::BTreeSet;

/// A data loop that makes no turn for this long is stalled.
const STALLED_AFTER: Nanos = Nanos::from_millis(2_000);
/// Who lives speaks every half second: a longer pause than this, and it may have died in it.
const PAUSE_LONG: Nanos = Nanos::from_millis(1_000);
/// Who has spoken for so long lives.
const SPEAKS_FOR: Nanos = Nanos::from_millis(400);
/// Recent faults of a device that are kept.
const RECENT_FAULTS_MAX: usize = 16;

/// A link to a data server.
#[derive(Debug)]
pub(super) struct SdsLink {
    uuid: SdsUuid,
    life: u128,
    name: String,
    heard: Nanos,
    /// It has spoken since then without a long pause.
    speaks_since: Nanos,
    /// Devices it serves or is about to.
    claims: BTreeSet<DeviceUuid>,
    devices: Vec<DeviceReport>,
    /// Its id, once its registration is committed.
    pub(super) sds: Option<SdsId>,
    pub(super) sent: MapVersion,
}

impl SdsLink {
    fn hear(&mut self, now: Nanos) {
        if now.since(self.heard) >= PAUSE_LONG {
            self.speaks_since = now;
        }
        self.heard = now;
    }

    /// Whether it lives, to judge from what came after `since`. What a server had sent before it died may come late, all at once.
    fn has_spoken_since(&self, since: Nanos) -> bool {
        self.heard.since(since.max(self.speaks_since)) >= SPEAKS_FOR
    }
}

/// What is known of a data server beyond the committed state.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) link: Option<LinkId>,
    life: u128,
    pub(super) confirmed: MapVersion,
    pub(super) heard: Nanos,
    pub(super) up: bool,
    pub(super) leaving: bool,
    loop_turns: u64,
    turned: Nanos,
    pub(super) stalled: bool,
    pub(super) oldest_disk_request_ms: u64,
    pub(super) devices: Vec<DeviceReport>,
}

/// A registration that waits for another server to speak or to be silent.
#[derive(Debug)]
pub(super) struct WaitingRegistration {
    register: RegisterSds,
    since: Nanos,
}

/// What stands between a registration and the log.
enum Obstacle {
    None,
    /// Somebody may still live.
    Wait,
    /// Somebody does live.
    Refuse(String),
}

impl Leader {
    pub(super) fn sds_said(&mut self, link: LinkId, message: SdsToMdm, out: &mut Outbox<Effect>) {
        if let Some(Party::Sds(server)) = self.links.get_mut(&link) {
            server.hear(self.clock.now);
        }
        match message {
            SdsToMdm::Register { version, sds, system, name, addresses, fault_set, life, devices } => {
                if version != CONTROL_VERSION {
                    let reason =
                        format!("it speaks control protocol {version}, this MDM speaks {CONTROL_VERSION}; install matching versions");
                    return self.refuse_sds(link, reason, out);
                }
                let devices = bounded(devices);
                let known = |report: &&DeviceReport| self.counts(sds, report, &devices);
                let register = RegisterSds {
                    sds,
                    system,
                    name,
                    addresses,
                    fault_set,
                    life,
                    devices: devices.iter().filter(known).map(register_device).collect(),
                    movable: devices.iter().filter(known).map(|report| report.uuid).collect(),
                    heard: Vec::new(),
                };
                self.register(link, register, devices, out);
            }
            SdsToMdm::Heartbeat { loop_turns, oldest_disk_request_ms, devices } => {
                self.heartbeat(link, loop_turns, oldest_disk_request_ms, devices, out);
                self.tick_waiting(out);
            }
            SdsToMdm::Confirm { version } => self.confirm(link, version, out),
            SdsToMdm::Pull { at_least } => self.pull_sds(link, at_least, out),
            SdsToMdm::Leaving => {
                if let Some(node) = self.node_of(link) {
                    node.leaving = true;
                }
            }
            SdsToMdm::TreesFreed { device, trees } => self.trees_freed(link, device, trees, out),
            SdsToMdm::Propose { proposals } => self.shards_proposed(link, proposals, out),
        }
    }

    /// Whether a report says something about a device that the cluster may act on. One that failed is
    /// spoken for only by the server it belongs to: it may be a damaged copy of one that serves.
    fn counts(&self, sds: SdsUuid, report: &DeviceReport, all: &[DeviceReport]) -> bool {
        if report.uuid.is_nil() {
            return false;
        }
        match report.state {
            DeviceState::Open | DeviceState::Opening { .. } | DeviceState::Hung => true,
            DeviceState::Failed { .. } => {
                let owner = self.cluster.device_by_uuid(report.uuid).and_then(|(_, device)| self.cluster.server(device.sds));
                let alone = all.iter().filter(|other| other.uuid == report.uuid).count() == 1;
                alone && owner.is_some_and(|server| server.uuid == sds)
            }
        }
    }

    fn register(&mut self, link: LinkId, register: RegisterSds, devices: Vec<DeviceReport>, out: &mut Outbox<Effect>) {
        let claims = devices.iter().filter(|report| is_claimed(report)).map(|report| report.uuid).collect();
        match self.links.get_mut(&link) {
            None => {
                let server = SdsLink {
                    uuid: register.sds,
                    life: register.life,
                    name: register.name.clone(),
                    heard: self.clock.now,
                    speaks_since: self.clock.now,
                    claims,
                    devices,
                    sds: None,
                    sent: MapVersion::default(),
                };
                self.links.insert(link, Party::Sds(server));
            }
            Some(Party::Sds(server)) if server.uuid == register.sds && server.life == register.life => {
                server.name.clone_from(&register.name);
                server.claims = claims;
                server.devices = devices;
            }
            Some(Party::Sds(_) | Party::Client(_)) => {
                return self.refuse_sds(link, "it changed its identity on one connection".to_owned(), out);
            }
        }
        // The same process over an older link: that one is dead, whatever its socket says.
        let same = |party: &Party| matches!(party, Party::Sds(other) if other.uuid == register.sds && other.life == register.life);
        let older: Vec<LinkId> =
            self.links.iter().filter(|(other, party)| **other != link && same(party)).map(|(other, _)| *other).collect();
        for other in older {
            self.drop_link(other, out);
        }
        self.admit(link, WaitingRegistration { register, since: self.clock.now }, out);
    }

    /// Proposes a registration, or lets it wait, or refuses it.
    fn admit(&mut self, link: LinkId, registration: WaitingRegistration, out: &mut Outbox<Effect>) {
        match self.obstacle(link, &registration) {
            Obstacle::None => {
                let mut registration = registration;
                let register = &mut registration.register;
                register.heard = self.heard_of(self.devices_of(register));
                if let Err(pending) = self.propose(Change::RegisterSds(registration.register), Pending::Register { link }, out) {
                    self.give_up(pending, out);
                }
            }
            Obstacle::Wait => {
                if !self.waiting.contains_key(&link) {
                    out.push(Effect::Event(Event::RegistrationWaits { link, name: registration.register.name.clone() }));
                }
                self.waiting.insert(link, registration);
            }
            Obstacle::Refuse(reason) => self.refuse_sds(link, reason, out),
        }
    }

    fn obstacle(&self, link: LinkId, registration: &WaitingRegistration) -> Obstacle {
        let Some(Party::Sds(me)) = self.links.get(&link) else { return Obstacle::None };
        let mut obstacle = Obstacle::None;
        for (other, party) in &self.links {
            let Party::Sds(rival) = party else { continue };
            let twin = rival.uuid == me.uuid && rival.life != me.life;
            let device = rival.claims.iter().find(|device| rival.uuid != me.uuid && me.claims.contains(device));
            // Who waits itself stands in nobody's way: first come, first served.
            if *other == link
                || self.waiting.contains_key(other)
                || !(twin || device.is_some())
                || self.clock.now.since(rival.heard) >= self.options.sds_down_after
            {
                continue;
            }
            if rival.has_spoken_since(registration.since) {
                let rival = &rival.name;
                return Obstacle::Refuse(match device {
                    Some(device) => format!(
                        "device {device} is served by live data server {rival:?}; it is a copy, or the other server must be stopped first"
                    ),
                    None => format!(
                        "a live data server ({rival:?}) has the same identity {}; stop it, or give this one a state directory of its own",
                        me.uuid
                    ),
                });
            }
            obstacle = Obstacle::Wait;
        }
        // Right after our own start the owner of a device may live and not have come to us yet.
        let young = self.clock.now.since(self.started) < self.options.sds_down_after;
        let moves = |uuid: &DeviceUuid| {
            let owner = self.cluster.device_by_uuid(*uuid).and_then(|(_, device)| Some((device.sds, self.cluster.server(device.sds)?)));
            owner.is_some_and(|(sds, server)| server.uuid != me.uuid && !self.nodes.contains_key(&sds))
        };
        if young && me.claims.iter().any(moves) {
            obstacle = Obstacle::Wait;
        }
        obstacle
    }

    pub(super) fn tick_waiting(&mut self, out: &mut Outbox<Effect>) {
        let links: Vec<LinkId> = self.waiting.keys().copied().collect();
        for link in links {
            let Some(registration) = self.waiting.get(&link) else { continue };
            if matches!(self.obstacle(link, registration), Obstacle::Wait) {
                continue;
            }
            if let Some(registration) = self.waiting.remove(&link) {
                self.admit(link, registration, out);
            }
        }
    }

    /// The log has decided about a registration.
    pub(super) fn registered(&mut self, link: LinkId, result: Result<Outcome, Refusal>, out: &mut Outbox<Effect>) {
        let (system, sds, incarnation, devices) = match result {
            Ok(Outcome::Registered { system, sds, incarnation, devices }) => (system, sds, incarnation, devices),
            Ok(other) => unreachable!("a registration was answered with {other:?}"),
            Err(refusal) => return self.refuse_sds(link, refusal.to_string(), out),
        };
        let Some(Party::Sds(server)) = self.links.get_mut(&link) else { return };
        server.sds = Some(sds);
        let (now, life) = (self.clock.now, server.life);
        let node = self.nodes.entry(sds).or_insert_with(|| Node::new(life, now));
        let before = node.link.replace(link).filter(|before| *before != link);
        if node.life != life {
            // A new life has confirmed nothing yet.
            *node = Node { link: Some(link), up: node.up, ..Node::new(life, now) };
        }
        node.heard = now;
        node.leaving = false;
        node.devices.clone_from(&server.devices);
        if !node.up {
            node.up = true;
            out.push(Effect::Event(Event::SdsUp { sds, name: server.name.clone() }));
        }
        out.push(Effect::ToSds { link, message: MdmToSds::Registered { system, sds, incarnation, devices } });
        if let Some(before) = before {
            self.drop_link(before, out);
        }
        self.nodes.retain(|id, _| self.cluster.server(*id).is_some());
    }

    fn heartbeat(
        &mut self,
        link: LinkId,
        loop_turns: u64,
        oldest_disk_request_ms: u64,
        devices: Vec<DeviceReport>,
        out: &mut Outbox<Effect>,
    ) {
        let now = self.clock.now;
        let devices = bounded(devices);
        let Some(Party::Sds(server)) = self.links.get_mut(&link) else {
            return self.refuse_sds(link, "its first message is not Register".to_owned(), out);
        };
        server.claims = devices.iter().filter(|report| is_claimed(report)).map(|report| report.uuid).collect();
        server.devices = devices;
        let (Some(sds), name) = (server.sds, server.name.clone()) else { return };
        let devices = server.devices.clone();
        self.note_flushed(sds, &devices);
        let Some(node) = self.nodes.get_mut(&sds) else { return };
        node.heard = now;
        node.devices = devices;
        node.oldest_disk_request_ms = oldest_disk_request_ms;
        if node.loop_turns != loop_turns {
            node.loop_turns = loop_turns;
            node.turned = now;
        }
        let stalled = now.since(node.turned) >= STALLED_AFTER;
        if stalled != node.stalled {
            node.stalled = stalled;
            out.push(Effect::Event(Event::SdsStalled { sds, name: name.clone(), stalled }));
        }
        if !node.up {
            node.up = true;
            out.push(Effect::Event(Event::SdsUp { sds, name }));
        }
    }

    fn confirm(&mut self, link: LinkId, version: MapVersion, out: &mut Outbox<Effect>) {
        if let Some(reason) = self.is_ahead(link, version, out) {
            return self.refuse_sds(link, reason, out);
        }
        let Some(node) = self.node_of(link) else { return };
        node.confirmed = node.confirmed.max(version);
        self.check_opens(out);
    }

    fn pull_sds(&mut self, link: LinkId, at_least: MapVersion, out: &mut Outbox<Effect>) {
        if let Some(reason) = self.is_ahead(link, at_least, out) {
            return self.refuse_sds(link, reason, out);
        }
        let confirmed = self.node_of(link).map(|node| node.confirmed).unwrap_or_default();
        if let Some(Party::Sds(server)) = self.links.get_mut(&link) {
            server.sent = server.sent.min(confirmed);
        }
        self.push_views(out);
    }

    fn trees_freed(&mut self, link: LinkId, device: DeviceId, trees: Vec<TreeId>, out: &mut Outbox<Effect>) {
        let Some(Party::Sds(SdsLink { sds: Some(sds), .. })) = self.links.get(&link) else { return };
        let sds = *sds;
        // It is told again and again until it is known; only news goes into the log.
        let waits: BTreeSet<TreeId> =
            self.cluster.deleted_trees().filter(|(_, tree)| tree.pending.contains(&device)).map(|(id, _)| id).collect();
        let trees: Vec<TreeId> = trees.into_iter().filter(|tree| waits.contains(tree)).collect();
        if !trees.is_empty() {
            // If there is no room for the proposal, the server will say it again.
            let _ = self.propose(Change::TreesFreed { sds, device, trees }, Pending::Nothing, out);
        }
    }

    /// A server asks for new configurations of shards. What it may ask for is decided when the command is applied.
    fn shards_proposed(&mut self, link: LinkId, proposals: Vec<(PoolId, ShardId, Proposal)>, out: &mut Outbox<Effect>) {
        let Some(Party::Sds(server)) = self.links.get(&link) else {
            return self.refuse_sds(link, "its first message is not Register".to_owned(), out);
        };
        if proposals.len() > PROPOSALS_PER_MESSAGE_MAX {
            let reason = format!("it sent {} proposals at once, and {PROPOSALS_PER_MESSAGE_MAX} are allowed", proposals.len());
            return self.refuse_sds(link, reason, out);
        }
        // Before its registration is committed it has no incarnation to ask in.
        let Some(sds) = server.sds.filter(|_| !proposals.is_empty()) else { return };
        let heard = self.heard_of_members(&proposals);
        self.note_reform_wishes(&proposals);
        // If there is no room for the proposal, the server will say it again.
        let _ = self.propose(Change::Propose { sds, heard, proposals }, Pending::Nothing, out);
    }

    /// What the devices of these shards have said since they registered.
    fn heard_of_members(&self, proposals: &[(PoolId, ShardId, Proposal)]) -> Vec<Heard> {
        let entries = proposals.iter().filter_map(|(pool, shard, _)| self.cluster.pool(*pool)?.map.entry(*shard));
        self.heard_of(entries.flat_map(|entry| entry.in_sync.members()).map(|member| member.device).collect())
    }

    /// What these devices have said since they registered, as far as it is news.
    pub(super) fn heard_of(&self, devices: BTreeSet<DeviceId>) -> Vec<Heard> {
        let heard = |id: DeviceId| {
            let device = self.cluster.device(id)?;
            let reports = self.nodes.get(&device.sds).map(|node| node.devices.iter());
            let report = reports.and_then(|mut reports| reports.find(|report| report.uuid == device.uuid));
            let ceiling = report.map(|report| report.sequence_ceiling).unwrap_or_default().max(device.sequence_ceiling);
            let flushed = self.flushed_heard(id);
            let is_news = ceiling > device.sequence_ceiling || flushed > device.flushed;
            is_news.then_some(Heard { member: Member { device: id, incarnation: device.incarnation }, ceiling, flushed })
        };
        devices.into_iter().filter_map(heard).collect()
    }

    /// The devices that a server is known to have, and those that it brings.
    fn devices_of(&self, register: &RegisterSds) -> BTreeSet<DeviceId> {
        let sds = self.cluster.server_by_uuid(register);
        let had = self.cluster.devices().filter(|(_, device)| Some(device.sds) == sds).map(|(id, _)| id);
        let brings = register.devices.iter().filter_map(|device| self.cluster.device_by_uuid(device.uuid)).map(|(id, _)| id);
        had.chain(brings).collect()
    }

    /// The node behind a link whose registration is committed.
    fn node_of(&mut self, link: LinkId) -> Option<&mut Node> {
        let Some(Party::Sds(SdsLink { sds: Some(sds), .. })) = self.links.get(&link) else { return None };
        self.nodes.get_mut(sds)
    }

    fn refuse_sds(&mut self, link: LinkId, reason: String, out: &mut Outbox<Effect>) {
        out.push(Effect::Event(Event::Refused { link, reason: reason.clone() }));
        out.push(Effect::ToSds { link, message: MdmToSds::Refused { reason } });
        self.drop_link(link, out);
    }

    pub(super) fn sds_unlinked(&mut self, link: LinkId, server: &SdsLink, out: &mut Outbox<Effect>) {
        let Some(sds) = server.sds else { return };
        let Some(node) = self.nodes.get_mut(&sds) else { return };
        if node.link == Some(link) {
            node.link = None;
            self.tick_nodes(out);
        }
    }

    /// Holds for down who was not heard of for too long, or left and is gone.
    pub(super) fn tick_nodes(&mut self, out: &mut Outbox<Effect>) {
        for (sds, node) in &mut self.nodes {
            let silent = self.clock.now.since(node.heard) >= self.options.sds_down_after;
            let left = node.leaving && node.link.is_none();
            if node.up && (silent || left) {
                node.up = false;
                let name = self.cluster.server(*sds).map(|server| server.name.clone()).unwrap_or_default();
                out.push(Effect::Event(Event::SdsDown { sds: *sds, name, left }));
            }
        }
    }
}

impl Node {
    const fn new(life: u128, now: Nanos) -> Self {
        Self {
            link: None,
            life,
            confirmed: MapVersion::new(0),
            heard: now,
            up: false,
            leaving: false,
            loop_turns: 0,
            turned: now,
            stalled: false,
            oldest_disk_request_ms: 0,
            devices: Vec::new(),
        }
    }
}

/// Whether the report claims the device: nobody else may serve it then.
fn is_claimed(report: &DeviceReport) -> bool {
    match report.state {
        DeviceState::Open | DeviceState::Opening { .. } | DeviceState::Hung => !report.uuid.is_nil(),
        DeviceState::Failed { .. } => false,
    }
}

fn register_device(report: &DeviceReport) -> RegisterDevice {
    RegisterDevice {
        uuid: report.uuid,
        path: report.path.clone(),
        pool: report.pool.clone(),
        open: match report.state {
            DeviceState::Open => true,
            DeviceState::Opening { .. } | DeviceState::Failed { .. } | DeviceState::Hung => false,
        },
        capacity: report.capacity,
        sequence_ceiling: report.sequence_ceiling,
        flushed: report.flushed,
        log_end: report.log_end,
        cache: report.cache,
    }
}

/// Reports cut to what is kept: one device more than allowed stays, so that its registration is refused.
fn bounded(mut devices: Vec<DeviceReport>) -> Vec<DeviceReport> {
    devices.truncate(DEVICES_PER_SDS_MAX + 1);
    for device in &mut devices {
        device.recent_faults.truncate(RECENT_FAULTS_MAX);
        for fault in &mut device.recent_faults {
            cut(fault);
        }
        cut(&mut device.path);
        if let DeviceState::Failed { reason } = &mut device.state {
            cut(reason);
        }
    }
    devices
}

fn cut(text: &mut String) {
    if text.len() > TEXT_BYTES_MAX {
        let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
}
