//! The state of the modelled world: the MDM's register, three data servers, two clients, the network, the clocks.

use crate::copy::{Copy, Stamp};
use crate::monitor::{Monitor, Op};
use sds_core::id::{ConnectionNumber, DeviceId, Epoch, Incarnation, MapVersion, SessionGeneration};
use sds_core::map::{Member, ShardEntry};
use sds_core::protocol::lease::{Granted, Lease};
use sds_core::protocol::membership::Proposal;
use std::sync::Arc;

/// Data servers of the model.
pub const SERVERS: usize = 3;
/// Clients of the model.
pub const CLIENTS: usize = 2;

/// The device of a server, each of which has one.
#[must_use]
pub fn device(server: usize) -> DeviceId {
    DeviceId::new(u32::try_from(server).unwrap_or(u32::MAX) + 1)
}

/// The server of a device.
#[must_use]
pub fn server(device: DeviceId) -> usize {
    device.get() as usize - 1
}

/// The MDM: a compare-and-swap register, and who is registered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mdm {
    /// Every configuration, the first being epoch 1.
    pub history: Arc<Vec<ShardEntry>>,
    /// Version of all it tells.
    pub map: MapVersion,
    /// Generation of the volume's exclusive session.
    pub generation: SessionGeneration,
    /// Registered lives.
    pub lives: [Incarnation; SERVERS],
    /// Registered as having forgotten flushed writes.
    pub amnesic: [bool; SERVERS],
    /// The life in which each server lost its volatile cache last, or will begin without it.
    pub cache_lost_in: [Incarnation; SERVERS],
}

impl Mdm {
    /// The newest configuration.
    #[must_use]
    pub fn newest(&self) -> &ShardEntry {
        &self.history[self.history.len() - 1]
    }

    /// The configuration of an epoch.
    #[must_use]
    pub fn at(&self, epoch: Epoch) -> &ShardEntry {
        &self.history[epoch.get() as usize - 1]
    }
}

/// Where a write came from, to answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Client.
    pub client: usize,
    /// Over which of its connections.
    pub connection: ConnectionNumber,
    /// Which operation of its script.
    pub serial: u8,
}

/// A write (or a copy to a joiner) under its range lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// Whom to answer; `None` for a copy, or once answered.
    pub origin: Option<Origin>,
    /// The write.
    pub stamp: Stamp,
    /// Complete here.
    pub local: bool,
    /// Bit of each server it was sent to at this epoch and peer connection.
    pub sent: u8,
    /// Bit of each server that completed it.
    pub complete: u8,
    /// A copy of what is here, not a new write.
    pub copy: bool,
    /// Answered; held until resolved everywhere.
    pub answered: bool,
}

/// A read between disk and reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Whom to answer.
    pub origin: Origin,
}

/// A flush under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flushing {
    /// Whom to answer.
    pub origin: Origin,
    /// Epoch of the oldest write it covers.
    pub oldest: Epoch,
    /// Bit of each server that flushed.
    pub done: u8,
}

/// A data server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Its process runs.
    pub up: bool,
    /// Its process life.
    pub life: Incarnation,
    /// Newest epoch it knows.
    pub epoch: Epoch,
    /// Version of its map.
    pub map: MapVersion,
    /// Session generation of that map.
    pub generation: SessionGeneration,
    /// Owes no settling.
    pub settled: bool,
    /// The cache was lost and this has not been settled yet.
    pub cache_lost: bool,
    /// Its device.
    pub copy: Copy,
    /// Highest sequence used or applied.
    pub last: u64,
    /// Highest sequence known resolved on both.
    pub resolved: u64,
    /// Highest sequence known complete on the other.
    pub partner_complete: u64,
    /// Writes under their lock.
    pub pending: Vec<Pending>,
    /// A read under way.
    pub reading: Option<Reading>,
    /// A flush under way.
    pub flushing: Option<Flushing>,
    /// Highest connection of each client.
    pub connections: [ConnectionNumber; CLIENTS],
    /// Its connection to the peer.
    pub peer_out: ConnectionNumber,
    /// Highest connection from the peer.
    pub peer_seen: ConnectionNumber,
    /// Has proposed a set without the other in this epoch.
    pub shrinking: bool,
    /// The joiner it has proposed in this epoch.
    pub growing: Option<Member>,
    /// Drained and stopped, to swap roles.
    pub stopped: bool,
    /// The joiner has every block that it lacked.
    pub copied: bool,
    /// The joiner flushed after the last of them.
    pub joiner_flushed: bool,
    /// The lease it holds.
    pub lease: Lease,
    /// The lease it granted.
    pub granted: Granted,
}

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Its session; 0 for none.
    pub generation: SessionGeneration,
    /// Waits for its session to be enforced.
    pub opening: bool,
    /// Another has taken over; it does not know.
    pub fenced: bool,
    /// Operations of its script that have begun.
    pub begun: u8,
    /// The one under way.
    pub op: Option<Op>,
    /// Its newest connection.
    pub connection: ConnectionNumber,
    /// Epoch of its oldest acknowledged write that was not flushed.
    pub unflushed: Option<Epoch>,
}

/// A message under way. The network is a set: any of them may come next, late, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// From a client.
    Request {
        /// To.
        to: usize,
        /// Its life.
        life: Incarnation,
        /// Whom to answer.
        origin: Origin,
        /// The client's session.
        generation: SessionGeneration,
        /// The configuration the client went by.
        epoch: Epoch,
        /// For writes acknowledged since then a flush vouches.
        oldest: Epoch,
        /// What.
        op: Op,
    },
    /// A write to a secondary or joiner.
    Replicate {
        /// From.
        from: usize,
        /// To.
        to: usize,
        /// Its life.
        life: Incarnation,
        /// Connection of the two.
        connection: ConnectionNumber,
        /// The sender's.
        epoch: Epoch,
        /// The write.
        stamp: Stamp,
        /// Resolved up to.
        resolved: u64,
        /// A copy of a block, to be taken whatever the joiner has.
        copy: bool,
    },
    /// It is complete there.
    Complete {
        /// From.
        from: usize,
        /// To.
        to: usize,
        /// Connection of the two.
        connection: ConnectionNumber,
        /// The completer's epoch.
        epoch: Epoch,
        /// Which.
        sequence: u64,
    },
    /// A lease.
    Grant {
        /// To.
        to: usize,
        /// For this epoch.
        epoch: Epoch,
        /// The clock of the request it answers.
        echoed: u8,
    },
    /// To the MDM.
    Propose(Proposal),
}

/// What the adversary has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spent {
    /// Process crashes.
    pub crashes: u8,
    /// Power cuts.
    pub power_cuts: u8,
    /// Clients' connections beyond the first for each operation.
    pub retries: u8,
    /// New connections between peers.
    pub reconnects: u8,
    /// Sessions opened.
    pub opens: u8,
    /// Client crashes.
    pub client_crashes: u8,
    /// Devices that forgot.
    pub amnesia: u8,
    /// Role swaps proposed.
    pub swaps: u8,
    /// Leases granted.
    pub grants: u8,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The metadata manager.
    pub mdm: Mdm,
    /// Data servers.
    pub servers: [Server; SERVERS],
    /// Clients.
    pub clients: [Client; CLIENTS],
    /// Messages under way, sorted.
    pub network: Vec<Message>,
    /// Clocks of the servers, in ticks.
    pub clocks: [u8; SERVERS],
    /// Clocks that have run ahead by a tick.
    pub drifted: [bool; SERVERS],
    /// The adversary's bill.
    pub spent: Spent,
    /// Highest sequence acknowledged that no loss of all caches excuses.
    pub acknowledged: u64,
    /// Highest sequence made before the last loss of all caches.
    pub excused: u64,
    /// Settling found a block that no healthy history leads to.
    pub quarantined: bool,
    /// The judge.
    pub monitor: Monitor,
}

impl State {
    /// Puts a message under way; whether it was not there already.
    pub fn send(&mut self, message: Message) -> bool {
        match self.network.binary_search(&message) {
            Ok(_) => false,
            Err(at) => {
                self.network.insert(at, message);
                true
            }
        }
    }

    /// A server as a member in its present life.
    #[must_use]
    pub fn member(&self, server: usize) -> Member {
        Member { device: device(server), incarnation: self.servers[server].life }
    }

    /// The entry of the epoch that a server knows.
    #[must_use]
    pub fn entry(&self, server: usize) -> &ShardEntry {
        self.mdm.at(self.servers[server].epoch)
    }
}
