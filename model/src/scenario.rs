//! Bounded worlds: each switches on the part of the protocol that it is about, and little else.
//!
//! One model with everything on would not finish. The bounds are on what the adversary may do; within them every
//! order of events is explored.

use crate::monitor::Op;
use crate::state::CLIENTS;

/// How a scenario's shard begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Servers 0 (primary) and 1 in sync.
    Pair,
    /// Server 0 alone in sync; server 1 joins, complete up to nothing.
    Joining,
    /// Server 0 alone in sync.
    Sole,
}

/// One bounded world.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// How the shard begins.
    pub start: Start,
    /// What each client does, in order.
    pub scripts: [&'static [Op]; CLIENTS],
    /// Client 1 begins without a session and may take over client 0's.
    pub exclusive: bool,
    /// Highest epoch.
    pub epochs: u32,
    /// Servers that may join (bit each).
    pub joiners: u8,
    /// Process crashes of servers.
    pub crashes: u8,
    /// Power cuts of servers.
    pub power_cuts: u8,
    /// A crash may leave half of a write.
    pub halves: bool,
    /// Whether crashed servers come back.
    pub restarts: bool,
    /// Retries over a new connection, of all clients together.
    pub retries: u8,
    /// New connections between peers.
    pub reconnects: u8,
    /// Sessions opened.
    pub opens: u8,
    /// Client crashes.
    pub client_crashes: u8,
    /// The MDM lets a copy go on alone when the other has not come back.
    pub lone_starts: bool,
    /// Role swaps.
    pub swaps: u8,
    /// Devices that forget what was flushed.
    pub amnesia: u8,
    /// Servers seal quiet extents.
    pub seals: bool,
    /// Leases, graces and clocks are played out; else reads are covered exactly until a newer primary serves.
    pub leases: bool,
    /// A read's disk request and its answer are two events.
    pub slow_reads: bool,
    /// Clients may go by an old map.
    pub stale_clients: bool,
    /// Proposals may arrive late.
    pub late: bool,
    /// Ends when the clients have had all their answers.
    pub until_answered: bool,
    /// Highest clock value.
    pub ticks: u8,
    /// Leases granted.
    pub grants: u8,
}

impl Scenario {
    /// More of everything the adversary has any of.
    pub fn deepen(&mut self) {
        self.epochs += 1;
        self.ticks += u8::from(self.leases);
        for bound in [&mut self.crashes, &mut self.power_cuts, &mut self.retries, &mut self.reconnects, &mut self.swaps, &mut self.grants] {
            *bound += u8::from(*bound > 0);
        }
    }
}

const QUIET: Scenario = Scenario {
    name: "",
    about: "",
    start: Start::Pair,
    scripts: [&[], &[]],
    exclusive: false,
    epochs: 1,
    joiners: 0,
    crashes: 0,
    power_cuts: 0,
    halves: false,
    restarts: false,
    retries: 0,
    reconnects: 0,
    opens: 0,
    client_crashes: 0,
    lone_starts: false,
    swaps: 0,
    amnesia: 0,
    seals: false,
    leases: false,
    slow_reads: false,
    stale_clients: false,
    late: false,
    until_answered: false,
    ticks: 0,
    grants: 0,
};

/// Reads under leases, by clocks that tick a little, as long as somebody waits for an answer.
const LEASED: Scenario = Scenario { retries: 0, leases: true, ticks: 3, grants: 1, until_answered: true, stale_clients: true, ..QUIET };

use Op::{Flush, Read, Write};

/// All scenarios, cheapest first.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "failover",
            about: "either copy is lost or suspected while two clients write and read",
            scripts: [&[Write(1)], &[Read, Read]],
            epochs: 2,
            crashes: 1,
            retries: 1,
            late: true,
            until_answered: true,
            slow_reads: true,
            ..QUIET
        },
        Scenario {
            name: "retry",
            about: "a client and the peers send again over new connections",
            scripts: [&[Write(1), Write(2)], &[Read]],
            epochs: 2,
            retries: 2,
            reconnects: 1,
            until_answered: true,
            ..QUIET
        },
        Scenario {
            name: "swap",
            about: "the roles change and change back while requests are late",
            scripts: [&[Write(1), Write(2)], &[Read]],
            epochs: 3,
            swaps: 2,
            retries: 1,
            until_answered: true,
            ..QUIET
        },
        Scenario {
            name: "takeover",
            about: "a session is taken over while its writes are late and the primary fails",
            scripts: [&[Write(1)], &[Read, Read]],
            exclusive: true,
            epochs: 2,
            crashes: 1,
            opens: 1,
            retries: 2,
            until_answered: true,
            ..QUIET
        },
        Scenario {
            name: "client-crash",
            about: "a client crashes and takes its session back",
            scripts: [&[Write(1), Write(2), Read], &[]],
            exclusive: true,
            epochs: 2,
            opens: 1,
            client_crashes: 1,
            retries: 2,
            until_answered: true,
            ..QUIET
        },
        Scenario {
            name: "leases",
            about: "reads under leases, clocks that drift, a primary that does not know it was replaced",
            scripts: [&[Read], &[Write(1)]],
            epochs: 2,
            ..LEASED
        },
        Scenario {
            name: "lease-restart",
            about: "a secondary that was promoted restarts while the old primary may still have its lease",
            scripts: [&[Read], &[Write(1)]],
            epochs: 3,
            crashes: 1,
            restarts: true,
            ..LEASED
        },
        Scenario {
            name: "joiner-leases",
            about: "a joiner is promoted by a primary that does not know its proposal was committed",
            start: Start::Joining,
            scripts: [&[Read], &[Write(1)]],
            epochs: 3,
            joiners: 0b010,
            ..LEASED
        },
        Scenario {
            name: "joining",
            about: "a replica joins under writes, and the primary fails",
            start: Start::Joining,
            scripts: [&[Write(1), Write(2)], &[Read]],
            epochs: 3,
            joiners: 0b010,
            crashes: 1,
            retries: 1,
            reconnects: 1,
            ..QUIET
        },
        Scenario {
            name: "return",
            about: "a copy is lost, comes back and joins",
            scripts: [&[Write(1), Write(2)], &[]],
            epochs: 4,
            joiners: 0b011,
            crashes: 1,
            restarts: true,
            retries: 1,
            seals: true,
            ..QUIET
        },
        Scenario {
            name: "elsewhere",
            about: "a copy is lost and a third server gets one, then the second fails",
            scripts: [&[Write(1)], &[]],
            epochs: 4,
            joiners: 0b100,
            crashes: 1,
            retries: 1,
            ..QUIET
        },
        Scenario {
            name: "both-restart",
            about: "the processes of both copies die and come back",
            scripts: [&[Write(1), Write(2), Read], &[]],
            epochs: 3,
            crashes: 2,
            halves: true,
            restarts: true,
            retries: 2,
            ..QUIET
        },
        Scenario {
            name: "power",
            about: "the power of both copies is cut under writes and flushes",
            scripts: [&[Write(1), Flush, Write(2), Read], &[]],
            epochs: 3,
            power_cuts: 2,
            restarts: true,
            retries: 1,
            halves: true,
            ..QUIET
        },
        Scenario {
            name: "mixed",
            about: "one copy loses its power, the other only its process",
            scripts: [&[Write(1), Write(2)], &[Read]],
            epochs: 4,
            crashes: 1,
            power_cuts: 1,
            restarts: true,
            halves: true,
            ..QUIET
        },
        Scenario {
            name: "flush",
            about: "flushes, power cuts and failovers",
            scripts: [&[Write(1), Flush, Read], &[]],
            epochs: 3,
            crashes: 0,
            power_cuts: 2,
            restarts: true,
            retries: 1,
            until_answered: true,
            ..QUIET
        },
        Scenario {
            name: "joined-power",
            about: "a joiner takes over and loses its power",
            start: Start::Joining,
            scripts: [&[Write(1), Flush, Read], &[]],
            epochs: 4,
            joiners: 0b010,
            crashes: 0,
            power_cuts: 1,
            restarts: true,
            retries: 1,
            until_answered: true,
            ..QUIET
        },
        Scenario {
            name: "amnesia",
            about: "a device comes back without what it had flushed",
            scripts: [&[Write(1), Flush, Write(2), Read], &[]],
            epochs: 3,
            joiners: 0,
            power_cuts: 2,
            amnesia: 1,
            restarts: true,
            retries: 1,
            until_answered: true,
            ..QUIET
        },
        Scenario {
            name: "forgotten",
            about: "a copy is lost, forgets what was flushed, comes back and joins",
            scripts: [&[Write(1), Flush], &[]],
            epochs: 4,
            joiners: 0b011,
            power_cuts: 1,
            amnesia: 1,
            restarts: true,
            seals: true,
            ..QUIET
        },
        Scenario {
            name: "late-proposal",
            about: "a proposal arrives after the replica it was for has restarted",
            start: Start::Joining,
            scripts: [&[Write(1), Write(2)], &[]],
            epochs: 3,
            joiners: 0b010,
            crashes: 1,
            restarts: true,
            late: true,
            ..QUIET
        },
        Scenario {
            name: "lone-start",
            about: "both copies are lost and one goes on alone; the other comes back and joins",
            scripts: [&[Write(1), Flush, Write(2), Read], &[]],
            epochs: 4,
            joiners: 0b011,
            crashes: 1,
            power_cuts: 1,
            halves: true,
            restarts: true,
            lone_starts: true,
            ..QUIET
        },
        Scenario {
            name: "late-power",
            about: "a member asks to go on alone, its power is cut, and it is back before its proposal arrives",
            scripts: [&[Write(1)], &[Read]],
            epochs: 3,
            power_cuts: 1,
            restarts: true,
            late: true,
            ..QUIET
        },
        Scenario {
            name: "sole-power",
            about: "the remaining copy loses its power and settles alone; the absent one comes back",
            scripts: [&[Write(1)], &[]],
            epochs: 5,
            joiners: 0b011,
            crashes: 1,
            power_cuts: 1,
            restarts: true,
            seals: true,
            ..QUIET
        },
    ]
}
