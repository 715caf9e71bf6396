//! One storage node: shard table, sessions, range locks; drives one [`crate::store`] a device.
//!
//! This file only dispatches: an input is taken in, then whatever became possible by it (replies of
//! stores, granted locks, freed buffers, deadlines) is carried on until nothing is left to do.
//!
//! A request's way: [`intake`] (link, bounds) → [`admit`] (session, range, shard, epoch) → [`path`]
//! (room, lock, sequence, store) → [`answer`]. Other servers' copies: [`peer`], [`resync`]. The node's own errands: [`control`] (views,
//! registration, devices), [`hang`] (disks that do not answer), [`trees`] (deleted volumes), [`stop`].
//!
//! Must not know: sockets, disks, who stores the bytes.

mod admit;
mod answer;
mod control;
mod devices;
mod hang;
mod intake;
pub mod interface;
mod links;
mod locks;
mod path;
mod peer;
mod request;
mod resync;
pub mod status;
mod stop;
mod trees;
mod view;

use crate::buffer::Buffers;
use crate::collections::{OpId, SlotTable};
use crate::id::{Incarnation, MapVersion, PoolId, SdsId, ShardId, SystemId, TreeId};
use crate::machine::Outbox;
use crate::unit::Nanos;
use devices::Devices;
use interface::{Effect, Input, ReplicaOptions};
use links::Links;
use locks::{Holder, RangeLocks};
use peer::Peers;
use request::{Request, Stage};
use resync::{Resync, VISITS_MAX};
pub use status::{DeviceStatus, NodeStatus, ResyncCounts};
use std::collections::VecDeque;
use view::View;

/// What a step brings along.
#[derive(Debug)]
struct Turn<'a, B> {
    now: Nanos,
    buffers: &'a mut B,
    out: &'a mut Outbox<Effect>,
}

/// What the MDM calls this node.
#[derive(Clone, Copy, Debug)]
struct Identity {
    system: SystemId,
    sds: SdsId,
    incarnation: Incarnation,
}

/// The life of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It serves.
    Running,
    /// New requests are refused, accepted ones finished, errands ended.
    Draining,
    /// Stores are closing.
    Closing,
    /// All said.
    Stopped,
}

/// A storage node.
#[derive(Debug)]
pub struct Replica {
    options: ReplicaOptions,
    now: Nanos,
    phase: Phase,
    identity: Option<Identity>,
    view: View,
    devices: Devices,
    links: Links,
    peers: Peers,
    requests: SlotTable<Request>,
    /// Of them, those of peers: they have a half of the table to themselves, so that two servers that are each
    /// other's secondaries cannot wait for each other.
    peer_requests: usize,
    locks: RangeLocks,
    resync: Resync,
    /// Shards that are being given to their secondaries.
    hand_over: Vec<(PoolId, ShardId)>,
    /// Requests that wait for a newer view, by deadline; entries of dropped requests may be among them.
    parked: VecDeque<OpId>,
    /// Requests that wait for room for what they read.
    readers_without_room: VecDeque<OpId>,
    /// Fragments that wait for room to be merged in.
    fragments_without_room: VecDeque<OpId>,
    /// Whether a fragment has the one buffer of the reserve.
    reserve_taken: bool,
    /// Trees of deleted volumes, to be freed here.
    deleted: Vec<TreeId>,
    /// Whether some device may still hold extents of them.
    trees_pending: bool,
    /// The last version asked for, and when.
    pulled: Option<(MapVersion, Nanos)>,
    /// Memory for lists of requests.
    scratch: Vec<OpId>,
}

impl Replica {
    /// A node without devices.
    #[must_use]
    pub fn new(options: ReplicaOptions) -> Self {
        let requests_max = options.requests_max.max(2);
        Self {
            now: Nanos::ZERO,
            phase: Phase::Running,
            identity: None,
            view: View::default(),
            devices: Devices::new(requests_max, options.disk_hang),
            links: Links::new(options.links_max),
            peers: Peers::new(requests_max),
            requests: SlotTable::with_capacity(requests_max * 2),
            peer_requests: 0,
            locks: RangeLocks::with_capacity(requests_max * 2 + VISITS_MAX),
            resync: Resync::new(),
            hand_over: Vec::new(),
            parked: VecDeque::with_capacity(requests_max),
            readers_without_room: VecDeque::with_capacity(requests_max),
            fragments_without_room: VecDeque::with_capacity(requests_max),
            reserve_taken: false,
            deleted: Vec::new(),
            trees_pending: false,
            pulled: None,
            scratch: Vec::with_capacity(requests_max),
            options,
        }
    }

    /// The one entry; see [`crate::machine`].
    pub fn step(&mut self, now: Nanos, input: Input<'_>, buffers: &mut impl Buffers, out: &mut Outbox<Effect>) {
        self.now = self.now.max(now);
        let mut turn = Turn { now: self.now, buffers, out };
        let turn = &mut turn;
        match input {
            Input::AddDevice { slot, options } => {
                self.peers.life_begins(turn.now);
                self.devices.add(slot, options, turn);
            }
            Input::Registered { system, sds, incarnation, devices } => {
                self.take_registration(Identity { system, sds, incarnation }, devices, turn);
            }
            Input::View(update) => self.take_view(update, turn),
            Input::HandOver { shards } => self.hand_over(shards, turn),
            Input::Linked { link } => self.take_link(link, turn),
            Input::PeerLinked { sds, link } => self.peer_linked(sds, link, turn),
            Input::PeerConnectFailed { sds, refused } => self.peer_connect_failed(sds, refused, turn),
            Input::Unlinked { link } => self.lose_link(link, turn),
            Input::Frame { link, frame } => self.take_frame(link, frame, turn),
            Input::Disk { slot, op, result } => self.devices.disk(slot, op, result, turn),
            Input::Wake => self.devices.wake(turn),
            Input::Stop => self.begin_stop(turn),
        }
        self.carry_on(turn);
    }

    /// When [`Input::Wake`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        let parked = self.parked.front().and_then(|op| self.requests.get(*op)).and_then(|request| match request.stage {
            Stage::Parked { deadline } => Some(deadline),
            Stage::New | Stage::NeedsRoom | Stage::NeedsLock | Stage::Queued | Stage::InStore => None,
        });
        [self.devices.deadline(), self.links.deadline(), self.peers.deadline(), self.resync.deadline(), self.hand_over_deadline(), parked]
            .into_iter()
            .flatten()
            .min()
    }

    /// The devices, by slot. Allocates: for heartbeats and registration, not for I/O.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceStatus> {
        self.devices.iter().map(devices::Device::status).collect()
    }

    /// The node.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            version: self.view.version(),
            links: self.links.len(),
            requests: self.requests.len(),
            parked: self.parked.len(),
            locked: self.locks.lines(),
            sweeps: self.resync.sweeps_under_way(),
            epochs_refused: self.view.epochs_refused(),
            oldest_disk_request: self.devices.oldest_disk_request(self.now),
            resync: self.resync.counts,
        }
    }

    /// Does what has become possible, until nothing is left.
    fn carry_on(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        self.expire(turn);
        self.look_for_hung(turn);
        self.tend_peers(turn);
        self.tend_hand_over(turn);
        loop {
            if let Some(saying) = self.devices.next() {
                self.take_saying(saying, turn);
            } else if let Some(holder) = self.locks.next_granted() {
                match holder {
                    Holder::Request(op) => self.resume(op, Stage::NeedsLock, turn),
                    Holder::Visit(visit) => self.visit_locked(visit, turn),
                }
            } else if self.tend_resync(turn) {
                // Looked at once after each change.
            } else if !self.give_room(turn) && !self.continue_trees(turn) && !self.continue_stop(turn) {
                break;
            }
        }
        while self.parked.front().is_some_and(|op| !self.is_parked(*op)) {
            self.parked.pop_front();
        }
    }

    fn is_parked(&self, op: OpId) -> bool {
        self.requests.get(op).is_some_and(|request| matches!(request.stage, Stage::Parked { .. }))
    }
}
