//! What the MDM's log holds: every change of the cluster's state, as a value.
//!
//! Invariants: a command carries its own time and every observation it depends on, so that applying
//! it needs nothing else; an entry starts with [`COMMAND_VERSION`], and new changes go to the end of
//! [`Change`], so that an old log stays readable.

use crate::codec::{self, CodecError};
use crate::control::Capacity;
use crate::id::{
    BootId, ClientId, DeviceId, DeviceUuid, LogSequence, PoolId, SdsId, SdsUuid, SessionGeneration, ShardId, ShardSequence, SystemId,
    Ticket, TreeId, VolumeId,
};
use crate::map::{Copies, Member};
use crate::protocol::membership::Proposal;
use crate::unit::ByteCount;
use crate::view::SessionMode;
use serde::{Deserialize, Serialize};

/// Version of an encoded command.
pub const COMMAND_VERSION: u16 = 6;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// When it was proposed: milliseconds since 1970 by the proposer's clock. The state's time never
    /// goes back, whatever this says.
    pub unix_ms: u64,
    /// What it does.
    pub change: Change,
}

/// A change of the cluster's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// First of all: names the system and makes the pool "default". Repeating it changes nothing.
    Initialise {
        /// The system's identity.
        system: SystemId,
    },
    /// A data server's process announces itself and its devices.
    RegisterSds(RegisterSds),
    /// Make a storage pool.
    CreatePool {
        /// Its name.
        name: String,
        /// How many shards it will have.
        shards: u32,
        /// How many copies of each.
        copies: Copies,
    },
    /// Make a volume.
    CreateVolume(CreateVolume),
    /// Delete a volume that nobody has open.
    DeleteVolume {
        /// Its name.
        name: String,
        /// Sessions whose clients have been silent for too long: they do not count as open.
        orphans: Vec<SessionGeneration>,
    },
    /// Give a client a session.
    OpenSession(OpenSession),
    /// Take a session back. Closing one that is gone changes nothing.
    CloseSession {
        /// Of which volume.
        volume: VolumeId,
        /// Whose.
        client: ClientId,
        /// Which.
        generation: SessionGeneration,
    },
    /// A device holds nothing of these deleted trees any more.
    TreesFreed {
        /// Who says so; must own the device.
        sds: SdsId,
        /// The device.
        device: DeviceId,
        /// The trees.
        trees: Vec<TreeId>,
    },
    /// New configurations of shards; each is decided alone.
    Propose {
        /// Who asks; must own the proposing devices.
        sds: SdsId,
        /// What the devices concerned have said since.
        heard: Vec<Heard>,
        /// Which shard of which pool, and what.
        proposals: Vec<(PoolId, ShardId, Proposal)>,
    },
    /// A device goes on alone with all shards that it shares with one that has not come back for too long.
    GoOnAlone {
        /// Which, in its present life.
        survivor: Member,
        /// The other, in the life in which it was registered last.
        absent: Member,
        /// What the two have said since.
        heard: Vec<Heard>,
    },
    /// An operator makes a copy the only one of its shard.
    ForceShard {
        /// The pool, by name.
        pool: String,
        /// The shard.
        shard: u32,
        /// The device that has the copy.
        device: DeviceId,
        /// Its members, and the device, as far as they are held for gone, in the lives in which they were registered last.
        gone: Vec<Member>,
        /// What its devices have said since.
        heard: Vec<Heard>,
        /// Why, in the operator's words.
        reason: String,
    },
}

/// A data server's process, as it announces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterSds {
    /// Its durable identity.
    pub sds: SdsUuid,
    /// System its devices belong to; nil if they are all blank.
    pub system: SystemId,
    /// Its name, for people.
    pub name: String,
    /// `host:port`s of its data port, best first.
    pub addresses: Vec<String>,
    /// Fault set it is in.
    pub fault_set: String,
    /// One random number a process life.
    pub life: u128,
    /// Its devices that could be identified.
    pub devices: Vec<RegisterDevice>,
    /// Devices that are known not to be served by another live server: these may move here.
    pub movable: Vec<DeviceUuid>,
    /// What its devices had said before, those too that it does not bring yet.
    pub heard: Vec<Heard>,
}

/// What a device has said since it registered, as the proposer has heard it. Recorded whenever something is decided about the device, so that
/// another leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The device, in the life in which it is registered.
    pub member: Member,
    /// No sequence at or above this has been used on it.
    pub ceiling: ShardSequence,
    /// Its newest flushed position, in whatever life up to this one; 0: not known.
    pub flushed: LogSequence,
}

/// A device in a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterDevice {
    /// Its identity; not nil.
    pub uuid: DeviceUuid,
    /// Where it is on its host, for people.
    pub path: String,
    /// Pool it is meant for, by name.
    pub pool: String,
    /// Whether it serves.
    pub open: bool,
    /// Its space.
    pub capacity: Capacity,
    /// No sequence at or above this has been used on it.
    pub sequence_ceiling: ShardSequence,
    /// Its flushed position; 0: not known.
    pub flushed: LogSequence,
    /// Where its log ended when it opened; 0: it is not open, or its log was empty.
    pub log_end: LogSequence,
    /// Its volatile cache, named by the boot of its host; nil: it has none.
    pub cache: BootId,
}

/// A volume to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: ByteCount,
    /// Its pool, by name.
    pub pool: String,
    /// Stripe unit in bytes.
    pub stripe_unit: u32,
    /// Extents of a stripe set.
    pub stripe_width: u32,
    /// The same request repeated with the same key is answered as the first time.
    pub key: Option<String>,
}

/// A session asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Which volume, by name.
    pub volume: String,
    /// Who.
    pub client: ClientId,
    /// What it will show to data servers.
    pub ticket: Ticket,
    /// Host and process, for people.
    pub holder: String,
    /// How.
    pub mode: SessionMode,
    /// Fence whoever is in the way.
    pub force: bool,
    /// Sessions whose clients have been silent for too long: they may be fenced without force.
    pub orphans: Vec<SessionGeneration>,
}

impl Command {
    /// As the log keeps it.
    ///
    /// # Errors
    /// When it is larger than a control message may be.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(&(COMMAND_VERSION, self))
    }

    /// From what the log kept.
    ///
    /// # Errors
    /// When the bytes are not a command, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let version = stated_version(bytes)?;
        if version != COMMAND_VERSION {
            return Err(FormatError::Version { found: version, known: COMMAND_VERSION });
        }
        let (_, command): (u16, Self) = codec::decode(bytes)?;
        Ok(command)
    }
}

/// Why a stored command or snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Written by another version of this program.
    #[error("this program knows metadata of format {known}, and this is of format {found}; run the version that wrote it")]
    Version {
        /// What the bytes say.
        found: u16,
        /// What this program knows.
        known: u16,
    },
    /// Not metadata.
    #[error("stored metadata cannot be decoded: {0}")]
    Codec(#[from] CodecError),
    /// It cannot have come from applying commands.
    #[error("stored metadata contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// The version an encoded value starts with, before anything else of it is believed.
pub(super) fn stated_version(bytes: &[u8]) -> Result<u16, CodecError> {
    // A small number is one byte in the codec's integer encoding, and versions will stay small.
    codec::decode(bytes.get(..1).unwrap_or(bytes))
}
