//! Two storage nodes and the wires between them: what one sends the other gets, in order, until a wire is cut.
//!
//! What this must not know: any rule of the nodes.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test harness")]

mod checks;
pub mod mdm;
pub mod user;

use crate::replica_rig::*;
use mdm::Mdm;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::id::*;
use sds_core::machine::LinkId;
use sds_core::map::{InSync, Lapsed, Member, ShardEntry, ShardMap};
use sds_core::replica::interface::Input;
use sds_core::unit::*;
use sds_core::view::{DeviceView, SdsView};
use sds_core::wire::*;
use std::collections::VecDeque;

pub struct Pair {
    pub nodes: [Node; 2],
    /// Frames under way to each node.
    pub flights: [VecDeque<Flight>; 2],
    /// Links that live.
    pub links: Vec<LinkId>,
    /// Whether a node's port refuses.
    pub refuses: [bool; 2],
    /// Whether frames to a node are held back, and its port does not answer.
    pub held: [bool; 2],
    /// Nodes whose disk does not answer.
    pub hung: [bool; 2],
    /// Nodes whose process has ended.
    pub dead: [bool; 2],
    pub version: u64,
    /// Carries out what the nodes propose, if set.
    pub mdm: Option<Mdm>,
    next_link: u64,
}

pub fn member(node: usize) -> Member {
    Member { device: DeviceId::new(DEVICE_ID.get() + node as u32 * 10), incarnation: Incarnation::new(1 + node as u64) }
}

pub fn sds(node: usize) -> SdsId {
    SdsId::new(1 + node as u32)
}

impl Pair {
    /// Two nodes with every shard, the first its primary; linked, leases granted.
    pub fn serving() -> Self {
        Self::apart().placed()
    }

    /// Nodes without shards are given them all, the first as primary.
    pub fn placed(self) -> Self {
        let mut pair = self;
        pair.place(1, InSync::pair(member(0), member(1)), 1, None);
        pair.push_to(&[0, 1]);
        pair.run();
        pair
    }

    /// Two registered nodes without shards.
    pub fn apart() -> Self {
        Self::apart_of([DEVICE_BYTES; 2])
    }

    /// The same, with devices of these sizes.
    pub fn apart_of(bytes: [u64; 2]) -> Self {
        Self::apart_trusting(bytes, true)
    }

    /// The same, with that policy about ports that refuse.
    pub fn apart_trusting(bytes: [u64; 2], trust_refused: bool) -> Self {
        Self::apart_with(bytes, trust_refused, 64, 256)
    }

    /// Nodes whose stores take few requests at a time.
    pub fn apart_few(requests_max: usize) -> Self {
        Self::apart_with([DEVICE_BYTES; 2], true, 64, requests_max)
    }

    fn apart_with(bytes: [u64; 2], trust_refused: bool, requests_max: usize, store_requests: usize) -> Self {
        let node = |number: usize| {
            let mut node = Node::trusting(vec![Disk::formatted_of(bytes[number])], 1 + number as u64, requests_max, trust_refused);
            node.store_requests = store_requests;
            node.add_devices();
            node.drain();
            node.sds = sds(number);
            node.first_device = member(number).device;
            let servers = [0, 1].map(|at| SdsView { id: sds(at), name: format!("node{at}"), addresses: vec![format!("node{at}:1")] });
            let devices = [0, 1].map(|at| DeviceView { id: member(at).device, sds: sds(at) });
            node.view.servers = Some((devices.to_vec(), servers.to_vec()));
            node.register();
            node
        };
        Self {
            nodes: [node(0), node(1)],
            flights: Default::default(),
            links: Vec::new(),
            refuses: [false; 2],
            held: [false; 2],
            hung: [false; 2],
            dead: [false; 2],
            version: 10,
            mdm: None,
            next_link: PEER_LINKS,
        }
    }

    /// Gives all shards this configuration, in a view that is yet to be pushed.
    pub fn place(&mut self, epoch: u32, in_sync: InSync, first: u64, lapsed: Option<Lapsed>) {
        let first_sequence = ShardSequence::new(first);
        let entry = ShardEntry { epoch: Epoch::new(epoch), in_sync, first_sequence, lapsed, ..ShardEntry::default() };
        self.version += 1;
        for node in &mut self.nodes {
            node.view.pools = vec![ShardMap { pool: POOL, shards: vec![entry; SHARDS as usize] }];
        }
    }

    pub fn push_to(&mut self, nodes: &[usize]) {
        for at in nodes {
            let node = &mut self.nodes[*at];
            node.view.version = MapVersion::new(self.version);
            let view = node.view.clone();
            node.input(Input::View(&view));
        }
    }

    pub fn now(&self) -> Nanos {
        self.nodes[0].now.max(self.nodes[1].now)
    }

    /// Carries out what takes no time to speak of.
    pub fn run(&mut self) {
        self.run_for(Nanos::from_millis(2));
    }

    /// Carries out everything, with the clock moved on by so much.
    pub fn run_for(&mut self, span: Nanos) {
        let until = self.now().plus(span);
        loop {
            while self.step() {}
            let dead = self.dead;
            let alive = |at: &usize| !dead[*at];
            let due = (0..2).filter(alive).filter_map(|at| self.nodes[at].replica.deadline()).min();
            let at = due.unwrap_or(Nanos::NEVER).max(self.now());
            if at > until {
                break;
            }
            for (_, node) in self.nodes.iter_mut().enumerate().filter(|(at, _)| !dead[*at]) {
                node.now = at;
                if node.replica.deadline().is_some_and(|due| due <= at) {
                    node.input(Input::Wake);
                }
            }
        }
        for node in &mut self.nodes {
            node.now = until;
        }
    }

    /// One disk request, frame or connection; `false` when there is none.
    pub fn step(&mut self) -> bool {
        self.step_mdm() || (0..2).any(|at| self.step_disk(at)) || (0..2).any(|at| self.connect(at)) || (0..2).any(|to| self.deliver(to))
    }

    pub fn step_disk(&mut self, at: usize) -> bool {
        let some = !self.dead[at] && !self.hung[at] && !self.nodes[at].sent.is_empty();
        if some {
            self.nodes[at].complete(0);
        }
        some
    }

    /// Answers a node's wish for a link.
    pub fn connect(&mut self, from: usize) -> bool {
        if self.dead[from] {
            return false;
        }
        let Some(place) =
            self.nodes[from].connects.iter().position(|wanted| self.refuses[1 - from] || !self.held[usize::from(*wanted == sds(1))])
        else {
            return false;
        };
        let wanted = self.nodes[from].connects.remove(place);
        if self.refuses[1 - from] {
            self.nodes[from].input(Input::PeerConnectFailed { sds: wanted, refused: true });
            return true;
        }
        let link = LinkId::new(self.next_link);
        self.next_link += 1;
        self.links.push(link);
        self.nodes[1 - from].input(Input::Linked { link });
        self.nodes[from].input(Input::PeerLinked { sds: wanted, link });
        true
    }

    /// Takes what the nodes have sent, closes what they closed.
    pub fn collect(&mut self) {
        for from in 0..2 {
            for flight in self.nodes[from].flights.drain(..) {
                if self.links.contains(&flight.link) {
                    self.flights[1 - from].push_back(flight);
                }
            }
        }
        for at in 0..2 {
            let closed: Vec<_> = self.nodes[at].closed.drain(..).collect();
            for link in closed {
                if let Some(place) = self.links.iter().position(|known| *known == link) {
                    // What was sent before is still delivered.
                    while let Some(place) = self.flights[1 - at].iter().position(|flight| flight.link == link) {
                        let flight = self.flights[1 - at].remove(place).unwrap();
                        self.arrive(1 - at, &flight);
                    }
                    self.links.remove(place);
                    self.flights[at].retain(|flight| flight.link != link);
                    self.nodes[1 - at].input(Input::Unlinked { link });
                }
            }
        }
    }

    /// Delivers the oldest frame to a node.
    pub fn deliver(&mut self, to: usize) -> bool {
        self.collect();
        if self.held[to] {
            return false;
        }
        let Some(flight) = self.flights[to].pop_front() else { return false };
        self.arrive(to, &flight);
        self.collect();
        true
    }

    pub fn arrive(&mut self, to: usize, flight: &Flight) {
        let node = &mut self.nodes[to];
        let mut frame = flight.frame;
        if let Body::Payload { checksums, .. } = flight.frame.body {
            let buffer = node.pool.allocate(BufferClass::Replicate, flight.bytes.len() as u32).unwrap();
            let span = Span::whole(buffer, flight.bytes.len() as u32);
            node.pool.bytes_mut(span).copy_from_slice(&flight.bytes);
            frame.body = Body::Payload { span, checksums };
        }
        node.input(Input::Frame { link: flight.link, frame: &frame });
    }

    /// Cuts all wires: what is under way is lost.
    pub fn cut(&mut self) {
        self.collect();
        for link in core::mem::take(&mut self.links) {
            for node in &mut self.nodes {
                node.input(Input::Unlinked { link });
            }
        }
        for at in 0..2 {
            self.nodes[at].flights.clear();
            self.flights[at].clear();
        }
    }

    /// Block contents as a sole copy of this node would read them.
    pub fn contents_alone(&mut self, at: usize, epoch: u32, extents: u32, blocks: u32) -> Vec<Vec<u8>> {
        let number = u64::from(epoch) * 100 + 50;
        let link = self.nodes[at].login(ALICE, number);
        let mut all = Vec::new();
        for extent in 0..extents {
            let mut header = self.nodes[at].header(Opcode::Read, extent, 0, blocks * BLOCK_BYTES);
            header.connection = ConnectionNumber::new(number);
            header.epoch = Epoch::new(epoch);
            let request = self.nodes[at].send(link, header);
            let answer = self.nodes[at].finish(request);
            assert_eq!(answer.status(), sds_core::error::Status::Ok);
            let zero = answer.header.flags.contains(Flags::ALL_ZERO);
            all.push(if zero { vec![0; (blocks * BLOCK_BYTES) as usize] } else { answer.bytes });
        }
        all
    }
}
