//! An MDM of one pool for two nodes: the rules of `protocol::membership`, and nothing else.

use super::{Pair, member};
use crate::replica_rig::*;
use sds_core::control::DeviceState;
use sds_core::id::*;
use sds_core::map::{InSync, Member, ShardEntry, ShardMap};
use sds_core::protocol::membership::{Beginning, Change, Proposal, Registered, commit};

pub struct Mdm {
    pub entries: Vec<ShardEntry>,
    /// The newest life of each node.
    pub lives: [Member; 2],
    /// Whether a node is up and hears of views.
    pub hears: [bool; 2],
    /// Whether a node's device serves.
    pub open: [bool; 2],
    /// Whether proposals get through.
    pub decides: bool,
    pub refused: usize,
    /// The life of a node that began without the volatile cache of the one before.
    pub lost_in: [u64; 2],
    ceiling: u64,
}

impl Mdm {
    fn propose(&mut self, shard: usize, proposal: &Proposal) -> bool {
        let (lives, lost_in, open, entry) = (self.lives, self.lost_in, self.open, self.entries[shard]);
        let registered = |device| {
            let at = lives.iter().position(|life| life.device == device)?;
            let member = entry.in_sync.members().iter().find(|member| member.device == device);
            let cache_lost = member.is_some_and(|member| lost_in[at] > member.incarnation.get());
            Some(Registered { incarnation: lives[at].incarnation, open: open[at], amnesic: false, cache_lost, gone: false })
        };
        // Above everything used: in tests nobody uses a million.
        self.ceiling += 1 << 21;
        let beginning = Beginning { first_sequence: ShardSequence::new(self.ceiling), made_at: MapVersion::new(1) };
        match commit(&self.entries[shard], proposal, registered, beginning) {
            Ok(entry) => {
                self.entries[shard] = entry;
                true
            }
            Err(_) => {
                self.refused += 1;
                false
            }
        }
    }

    /// What the MDM does by itself: forms shards again whose members have all restarted, lets the lapsed join.
    fn tend(&mut self) -> bool {
        let mut changed = false;
        for shard in 0..self.entries.len() {
            let entry = self.entries[shard];
            let restarted =
                |member: &Member| self.lives.iter().any(|life| life.device == member.device && life.incarnation > member.incarnation);
            let present =
                |member: &Member| self.lives.iter().position(|life| life.device == member.device).is_some_and(|at| self.hears[at]);
            if entry.in_sync.members().iter().all(|member| restarted(member) && present(member)) {
                changed |= self.propose(shard, &Proposal { base: entry.epoch, proposer: None, change: Change::Reform });
            }
            let entry = self.entries[shard];
            let lapsed = entry.lapsed.and_then(|lapsed| self.lives.iter().position(|life| life.device == lapsed.device));
            if let Some(at) = lapsed.filter(|at| self.hears[*at] && self.open[*at] && entry.joining != Some(self.lives[*at])) {
                let change = Change::Join { joiner: self.lives[at] };
                changed |= self.propose(shard, &Proposal { base: entry.epoch, proposer: None, change });
            }
        }
        changed
    }

    /// Whether every shard has two copies in sync, in the present lives.
    pub fn is_clean(&self) -> bool {
        let present = |entry: &ShardEntry| entry.in_sync.members().iter().all(|member| self.lives.contains(member));
        self.entries.iter().all(|entry| entry.in_sync.members().len() == 2 && present(entry) && !entry.cache_lost.contains(&true))
    }
}

impl Pair {
    /// Two nodes, an MDM, every shard's primary at the first node.
    pub fn governed() -> Self {
        Self::governed_of([DEVICE_BYTES; 2])
    }

    /// The same, with devices of these sizes.
    pub fn governed_of(bytes: [u64; 2]) -> Self {
        Self::apart_of(bytes).governed_now()
    }

    /// The same, with stores that take so many requests at a time.
    pub fn governed_of_few(requests_max: usize) -> Self {
        Self::apart_few(requests_max).governed_now()
    }

    fn governed_now(self) -> Self {
        let mut pair = self;
        let entry = ShardEntry {
            epoch: Epoch::new(1),
            in_sync: InSync::pair(member(0), member(1)),
            first_sequence: ShardSequence::new(1),
            ..ShardEntry::default()
        };
        let entries = vec![entry; SHARDS as usize];
        let lives = [member(0), member(1)];
        pair.mdm = Some(Mdm { entries, lives, hears: [true; 2], open: [true; 2], decides: true, refused: 0, lost_in: [0; 2], ceiling: 1 });
        pair.publish();
        pair.run();
        pair
    }

    pub fn governor(&mut self) -> &mut Mdm {
        self.mdm.as_mut().unwrap()
    }

    /// Pushes the shard map to every node that hears.
    pub fn publish(&mut self) {
        let mdm = self.mdm.as_ref().unwrap();
        let (entries, hears) = (mdm.entries.clone(), mdm.hears);
        self.version += 1;
        for node in &mut self.nodes {
            node.view.pools = vec![ShardMap { pool: POOL, shards: entries.clone() }];
        }
        let hearing: Vec<_> = (0..2).filter(|at| hears[*at]).collect();
        self.push_to(&hearing);
    }

    /// Carries out what was proposed.
    pub fn step_mdm(&mut self) -> bool {
        let Some(mdm) = &mut self.mdm else { return false };
        if !mdm.decides {
            return false;
        }
        let mut changed = false;
        mdm.open = [0, 1].map(|at| self.nodes[at].replica.devices().iter().all(|device| device.state != DeviceState::Hung));
        for (node, hears) in self.nodes.iter_mut().zip(mdm.hears) {
            for (_, shard, proposal) in node.proposals.drain(..) {
                changed |= hears && mdm.propose(shard.get() as usize, &proposal);
            }
        }
        changed |= mdm.tend();
        if changed {
            self.publish();
        }
        changed
    }

    /// Ends a node's process, and its power with it if `power`.
    pub fn kill(&mut self, at: usize, power: bool) {
        self.cut();
        self.refuses[at] = true;
        self.dead[at] = true;
        self.governor().hears[at] = false;
        if power {
            self.nodes[at].disks[0].cut();
            self.nodes[at].boot += 1;
        }
        // What was at the disk is lost with the process.
        self.nodes[at].sent.clear();
        self.nodes[at].connects.clear();
    }

    /// Starts a killed node in its next life.
    pub fn start(&mut self, at: usize) {
        let mdm = self.mdm.as_mut().unwrap();
        let next = mdm.lives.iter().map(|life| life.incarnation.get()).max().unwrap() + 1;
        let old = &mut self.nodes[at];
        let mut node = Node::new(core::mem::take(&mut old.disks), next, 64);
        (node.boot, node.boot_before) = (old.boot, old.boot);
        let lost = old.boot != old.boot_before;
        (node.sds, node.first_device, node.now) = (old.sds, old.first_device, old.now);
        node.view = old.view.clone();
        node.view.version = MapVersion::new(self.version);
        node.next_numbers_from(old);
        node.add_devices();
        node.drain();
        node.register();
        self.nodes[at] = node;
        self.refuses[at] = false;
        self.dead[at] = false;
        mdm.lives[at].incarnation = Incarnation::new(next);
        if lost {
            mdm.lost_in[at] = next;
        }
        mdm.hears[at] = true;
        let _ = mdm.tend();
        self.publish();
    }
}
