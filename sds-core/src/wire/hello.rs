//! The first frame's payload: version negotiation and authentication.

use crate::id::{ClientId, Incarnation, SystemId, Ticket};

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
        /// Its process life.
        incarnation: Incarnation,
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
