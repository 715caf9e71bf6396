//! The first frame's content: version negotiation and authentication.
//!
//! Invariant: `Hello` and `HelloReply` keep their bytes in every protocol version (their header says
//! version 1), so that parties of any two versions can tell each other that they do not fit.

use super::header::PROTOCOL_VERSION;
use crate::id::{ClientId, Incarnation, SdsId, SystemId, Ticket};

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A client, with the ticket that the MDM knows it by.
    Client {
        /// Who.
        client: ClientId,
        /// What proves it.
        ticket: Ticket,
    },
    /// A data server of the same system (replication).
    Peer {
        /// Which.
        sds: SdsId,
        /// Its process life.
        incarnation: Incarnation,
        /// The process life it means to reach (I3); no other serves it.
        addressed: Incarnation,
    },
}

/// What the connecting side says first. The connection number is in the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Lowest protocol version it speaks.
    pub version_min: u8,
    /// Highest protocol version it speaks.
    pub version_max: u8,
    /// System it means to reach; anything else is refused.
    pub system: SystemId,
    /// Who it is.
    pub party: Party,
}

impl Hello {
    /// What this code says of itself.
    #[must_use]
    pub const fn ours(system: SystemId, party: Party) -> Self {
        Self { version_min: PROTOCOL_VERSION, version_max: PROTOCOL_VERSION, system, party }
    }

    /// The highest version that both sides speak; the answer's `length` carries it.
    #[must_use]
    pub const fn agreed_version(&self) -> Option<u8> {
        if self.version_min <= PROTOCOL_VERSION && PROTOCOL_VERSION <= self.version_max { Some(PROTOCOL_VERSION) } else { None }
    }
}
