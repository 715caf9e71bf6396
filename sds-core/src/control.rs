//! Control messages between the MDM and data servers and clients; serde + bincode through [`crate::codec`].
//!
//! On the stream: the connecting side sends eight bytes that say what it is ([`Speaker::preamble`]);
//! then both sides send messages, each as [`crate::codec::encode_framed`] makes it (length, then body).
//! The first message of the connecting side is `Register` or `Hello`; after it both sides send whenever
//! they have something. Messages on one connection arrive in order or not at all.
//! Invariant: nothing here is on the I/O path.

use crate::id::{
    BootId, ClientId, DeviceId, DeviceUuid, Epoch, Incarnation, LogSequence, MapVersion, PoolId, SdsId, SdsUuid, SessionGeneration,
    ShardId, ShardSequence, SystemId, Ticket, TreeId, VolumeId,
};
use crate::protocol::membership::Proposal;
use crate::unit::ByteCount;
use crate::view::{SessionMode, ViewUpdate, VolumeView};
use serde::{Deserialize, Serialize};

/// Version of the control protocol; both sides must agree.
pub const CONTROL_VERSION: u32 = 4;

/// Who opens a control connection, and so which messages it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// A data server: [`SdsToMdm`] one way, [`MdmToSds`] the other.
    Sds,
    /// A client: [`ClientToMdm`] one way, [`MdmToClient`] the other.
    Client,
}

impl Speaker {
    /// Bytes of a preamble.
    pub const PREAMBLE_BYTES: usize = 8;

    /// The first bytes of the connection.
    #[must_use]
    pub const fn preamble(self) -> [u8; Self::PREAMBLE_BYTES] {
        match self {
            Self::Sds => *b"SDSctl1S",
            Self::Client => *b"SDSctl1C",
        }
    }

    /// Who sent these first bytes; `None`: something else talks to this port.
    #[must_use]
    pub fn from_preamble(bytes: [u8; Self::PREAMBLE_BYTES]) -> Option<Self> {
        [Self::Sds, Self::Client].into_iter().find(|speaker| speaker.preamble() == bytes)
    }
}

/// What a device is doing, as its SDS says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Its store is being recovered or formatted; a number from 0 to 1000.
    Opening {
        /// How far, in thousandths.
        done_per_mille: u16,
    },
    /// It serves.
    Open,
    /// It does not serve.
    Failed {
        /// Why, and the way out, for people.
        reason: String,
    },
    /// A disk request of it has not ended for longer than the server's policy allows: its shards go on without it, where they can.
    Hung,
}

/// Space on a device, in bytes; exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// All extents.
    pub total: ByteCount,
    /// Extents that hold a block.
    pub used: ByteCount,
    /// Freed, not yet given out again.
    pub reclaimable: ByteCount,
}

/// Faults a device has shown in this process life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts {
    /// Data blocks that did not match their checksum.
    pub data_mismatches: u64,
    /// Descriptor pages that were not what the index names.
    pub metadata_mismatches: u64,
    /// Unsettled blocks whose bytes were kept though no record names them, at the last start.
    pub unsettled_kept: u64,
    /// Requests the device failed.
    pub io_errors: u64,
}

/// A device as its SDS reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Its identity; nil when it could not be read.
    pub uuid: DeviceUuid,
    /// Where it is on its host, for people.
    pub path: String,
    /// Pool it is meant for, by name.
    pub pool: String,
    /// What it is doing.
    pub state: DeviceState,
    /// Its space.
    pub capacity: Capacity,
    /// No sequence at or above this has been used on it.
    pub sequence_ceiling: ShardSequence,
    /// Its flushed position: the newest block of its log known to be on the medium. 0 where that is not known.
    pub flushed: LogSequence,
    /// Where its log ended when it opened in this process life: if that is before a flushed position it has told, it has forgotten
    /// (I13). 0 where it is not open, or its log was empty.
    pub log_end: LogSequence,
    /// Its volatile cache, named by the boot of its host: as long as it is the same, no write that was complete is lost. Nil where the
    /// device has no volatile cache.
    pub cache: BootId,
    /// What went wrong so far.
    pub faults: FaultCounts,
    /// The most recent data faults, for people (`volume 3 extent 17 block 4 …`).
    pub recent_faults: Vec<String>,
}

/// From a data server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SdsToMdm {
    /// First message. Sent again whenever a device opens, fails or is added.
    Register {
        /// [`CONTROL_VERSION`].
        version: u32,
        /// Who.
        sds: SdsUuid,
        /// System its devices belong to; nil if they are all blank.
        system: SystemId,
        /// Its name, for people.
        name: String,
        /// `host:port`s of its data port.
        addresses: Vec<String>,
        /// Fault set it is in; its own name by default.
        fault_set: String,
        /// One random number a process life: a repeated Register of one life is recognised by it.
        life: u128,
        /// Its devices. Only `Open` ones are made members.
        devices: Vec<DeviceReport>,
    },
    /// Alive, every 500 ms.
    Heartbeat {
        /// Turns its data loop has made.
        loop_turns: u64,
        /// Age of the oldest disk request, in milliseconds.
        oldest_disk_request_ms: u64,
        /// State of each device now.
        devices: Vec<DeviceReport>,
    },
    /// Every view up to this version is applied and enforced by the data loop.
    Confirm {
        /// The version.
        version: MapVersion,
    },
    /// Tell me the view, at least this version.
    Pull {
        /// The version.
        at_least: MapVersion,
    },
    /// Stopping; will close its port.
    Leaving,
    /// A device holds no extent of these trees any more (their volumes were deleted); repeated at will.
    TreesFreed {
        /// The device.
        device: DeviceId,
        /// The trees, of those named by [`ViewUpdate::deleted_trees`].
        trees: Vec<TreeId>,
    },
    /// New configurations of shards, each asked for by a device of this server; at most
    /// [`crate::limits::PROPOSALS_PER_MESSAGE_MAX`]. There is no answer but the next view: who does not know what became of one
    /// looks at the shard's entry, or asks again. Goes after a `Heartbeat`, whose ceilings the new epochs begin above.
    Propose {
        /// Which shard of which pool, and what.
        proposals: Vec<(PoolId, ShardId, Proposal)>,
    },
}

/// To a data server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MdmToSds {
    /// Answer to `Register`.
    Registered {
        /// The system.
        system: SystemId,
        /// Its id.
        sds: SdsId,
        /// Its process life.
        incarnation: Incarnation,
        /// The id of each device, by UUID.
        devices: Vec<(DeviceUuid, DeviceId)>,
    },
    /// Not this one: another system, another protocol version, a second copy of a known identity.
    Refused {
        /// Why and the way out, for people.
        reason: String,
    },
    /// Newer state.
    View(ViewUpdate),
    /// Please give the role of these shards' primary to their secondary, each at this epoch, when nothing of it is under way:
    /// nobody has failed. At most [`crate::limits::HAND_OVERS_PER_MESSAGE_MAX`]. What comes of it is a `Propose` of each, or nothing.
    HandOver {
        /// Which shards of which pools, at which epochs.
        shards: Vec<(PoolId, ShardId, Epoch)>,
    },
}

/// From a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientToMdm {
    /// First message.
    Hello {
        /// [`CONTROL_VERSION`].
        version: u32,
        /// Who.
        client: ClientId,
        /// What it will show to data servers.
        ticket: Ticket,
        /// Host and process, for people (`busy` answers name it).
        name: String,
    },
    /// Open a volume.
    Open {
        /// Echoed in the answer.
        request: u64,
        /// Which, by name.
        volume: String,
        /// How.
        mode: SessionMode,
        /// Take it over from a live session.
        force: bool,
    },
    /// Give a session back.
    Close {
        /// Echoed in the answer.
        request: u64,
        /// Which volume.
        volume: VolumeId,
        /// Which session of it.
        generation: SessionGeneration,
    },
    /// Which volumes are there, and which are open?
    List {
        /// Echoed in the answer.
        request: u64,
    },
    /// Tell me the view, at least this version.
    Pull {
        /// The version.
        at_least: MapVersion,
    },
    /// Alive, every 500 ms.
    Heartbeat,
}

/// Why an open is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpenError {
    /// No such volume.
    #[error("no volume is named {name:?}")]
    NoVolume {
        /// What was asked for.
        name: String,
    },
    /// Somebody has it.
    #[error("volume {name:?} is open by {holder} since {since}; close it there, or take it over by force")]
    Busy {
        /// What was asked for.
        name: String,
        /// Who has it.
        holder: String,
        /// Since when (RFC 3339, UTC).
        since: String,
    },
    /// The MDM waits for data servers to confirm and gave up.
    #[error("data servers {waiting:?} have not confirmed the session of volume {name:?} in time; are they up?")]
    NotConfirmed {
        /// What was asked for.
        name: String,
        /// Who is waited for.
        waiting: Vec<String>,
    },
    /// The volume has as many sessions as it may.
    #[error("volume {name:?} has {max} sessions, the most allowed; close one of them")]
    TooManySessions {
        /// What was asked for.
        name: String,
        /// The bound.
        max: u32,
    },
    /// The MDM could not commit it; nothing is known to have changed.
    #[error("the MDM could not record the session of volume {name:?}; try again")]
    NotRecorded {
        /// What was asked for.
        name: String,
    },
    /// This client cannot have it: the MDM refused the client, or it holds the volume in another mode.
    #[error("volume {name:?} cannot be opened: {reason}")]
    Refused {
        /// What was asked for.
        name: String,
        /// Why and the way out, for people.
        reason: String,
    },
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The volume.
    pub volume: VolumeId,
    /// The session.
    pub generation: SessionGeneration,
    /// How.
    pub mode: SessionMode,
    /// The view that data servers have confirmed.
    pub version: MapVersion,
}

/// A line of a volume list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeLine {
    /// The volume; sessions' tickets are blanked.
    pub volume: VolumeView,
    /// Who has it open, if not the asker.
    pub busy: Option<String>,
}

/// To a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MdmToClient {
    /// Answer to `Hello`.
    Welcome {
        /// The system.
        system: SystemId,
    },
    /// Not this one.
    Refused {
        /// Why and the way out, for people.
        reason: String,
    },
    /// Answer to `Open`; the view up to `version` has been sent before it on this connection.
    Opened {
        /// Of the question.
        request: u64,
        /// The session.
        result: Result<Opened, OpenError>,
    },
    /// Answer to `Close`.
    Closed {
        /// Of the question.
        request: u64,
    },
    /// Answer to `List`.
    Volumes {
        /// Of the question.
        request: u64,
        /// By name.
        volumes: Vec<VolumeLine>,
    },
    /// Newer state; sessions of other clients are left out.
    View(ViewUpdate),
}

/// What an SDS has of a shard, in a refusal: so a stale sender learns what it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardAt {
    /// Epoch served.
    pub epoch: Epoch,
    /// Version that made it.
    pub version: MapVersion,
}
