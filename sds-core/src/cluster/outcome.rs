//! What applying a command came to: an outcome or a refusal, and events to tell.
//!
//! Invariant: a refusal names what was asked, why not, and the way out; the refused command changed
//! nothing.

use crate::control::Opened;
use crate::id::{
    DeviceId, DeviceUuid, Epoch, Incarnation, LogSequence, PoolId, SdsId, SdsUuid, SessionGeneration, ShardId, SystemId, TreeId, VolumeId,
};
use crate::limits::{
    DELETED_TREES_MAX, DEVICES_MAX, DEVICES_PER_SDS_MAX, NAME_BYTES_MAX, OVER_PROVISIONING_MAX, POOLS_MAX, SDS_ADDRESSES_MAX, SDS_MAX,
    SESSIONS_PER_VOLUME_MAX, SHARDS_MAX, SHARDS_PER_POOL_MAX, TEXT_BYTES_MAX, VOLUME_BYTES_MAX, VOLUMES_MAX,
};
use crate::placement::PlacementError;
use crate::protocol::membership::Refused;
use crate::stripe::StripeError;
use crate::unit::ByteCount;

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The system has a name.
    Initialised {
        /// It; the one given first, if there were several.
        system: SystemId,
    },
    /// The server is in.
    Registered {
        /// The system.
        system: SystemId,
        /// Its id.
        sds: SdsId,
        /// Its process life.
        incarnation: Incarnation,
        /// The id of each device it reported and that is known, by UUID.
        devices: Vec<(DeviceUuid, DeviceId)>,
    },
    /// The pool is there.
    PoolCreated {
        /// Its id.
        pool: PoolId,
    },
    /// The volume is there.
    VolumeCreated {
        /// Its id.
        volume: VolumeId,
        /// False when the key showed that it had been made before.
        new: bool,
    },
    /// The volume is gone.
    VolumeDeleted {
        /// Its id.
        volume: VolumeId,
    },
    /// The session is committed; it may be used once data servers have confirmed its version.
    SessionOpened(Opened),
    /// The session is gone.
    SessionClosed,
    /// Noted.
    TreesFreed,
    /// Decided, shard by shard.
    Proposed {
        /// How many were committed.
        committed: u32,
        /// How many were refused.
        refused: u32,
    },
    /// Shards go on with one copy.
    WentAlone {
        /// How many.
        shards: u32,
    },
    /// The shard has the copy that was asked for, alone.
    ShardForced {
        /// Of which pool.
        pool: PoolId,
        /// Which.
        shard: u32,
    },
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// It has no character.
    #[error("is empty")]
    Empty,
    /// It is too long.
    #[error("has {0} bytes, and {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Its first character is not a letter or digit.
    #[error("starts with {0:?}; start it with a letter or a digit")]
    Start(char),
    /// A character that is not allowed.
    #[error("has the character {0:?}; use letters, digits, '.', '_' and '-'")]
    Character(char),
}

/// Why a proposal for a shard is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalFault {
    /// No such pool or shard.
    #[error("there is no such shard")]
    NoShard,
    /// The proposing device is not at this server.
    #[error("the proposing device is not at that server")]
    NotOwner,
    /// The rules do not allow it.
    #[error("the rules do not allow it: {0:?}")]
    Rule(Refused),
}

/// Why a copy cannot be forced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForceFault {
    /// It is nothing of the shard.
    #[error("it holds no copy of the shard; `sdsctl shard show` names those that do")]
    NoCopy,
    /// It could not go on.
    #[error("it does not serve; bring its data server and the device up first")]
    NotServing,
    /// Nothing is to be forced.
    #[error("it is the shard's only copy in sync and serves already")]
    Serves,
    /// A copy in sync can still come.
    #[error(
        "device {device} of {server} is in sync and there, or was a moment ago; the shard goes on by itself. \
         If that device is lost for good, stop its data server first"
    )]
    InSync {
        /// Which.
        device: DeviceId,
        /// Where.
        server: String,
    },
}

/// Why a command is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no system yet.
    #[error("the system is not initialised yet")]
    NotInitialised,
    /// A name of a volume, pool, server or fault set.
    #[error("{what} name {name:?} {fault}")]
    Name {
        /// Of what.
        what: &'static str,
        /// As given, cut to a readable length.
        name: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// A text for people is too long.
    #[error("{what} has {bytes} bytes, and {TEXT_BYTES_MAX} are allowed")]
    TextTooLong {
        /// Of what.
        what: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// The name is taken.
    #[error("a volume named {name:?} exists already; choose another name, or delete it first")]
    VolumeExists {
        /// The name.
        name: String,
    },
    /// The name is taken.
    #[error("a pool named {name:?} exists already; choose another name")]
    PoolExists {
        /// The name.
        name: String,
    },
    /// No such volume.
    #[error("no volume is named {name:?}")]
    NoVolume {
        /// What was asked for.
        name: String,
    },
    /// No such pool.
    #[error("no pool is named {name:?}; the pools are {known:?}")]
    NoPool {
        /// What was asked for.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// A volume of nothing.
    #[error("a volume of 0 bytes cannot be made; give it a size of 4096 bytes or more")]
    SizeZero,
    /// Not whole blocks.
    #[error("size {size} is not a multiple of 4096 bytes; the nearest that are: {below} and {above}")]
    SizeUnaligned {
        /// What was asked for.
        size: ByteCount,
        /// The next lower multiple.
        below: ByteCount,
        /// The next higher multiple.
        above: ByteCount,
    },
    /// Larger than any volume can be.
    #[error("size {size} is over the largest a volume can have, {VOLUME_BYTES_MAX} bytes")]
    SizeTooLarge {
        /// What was asked for.
        size: ByteCount,
    },
    /// The pool has promised too much already.
    #[error(
        "size {size} is more than pool {pool:?} allows: {raw} bytes raw ÷ {copies} (copies) × {OVER_PROVISIONING_MAX} (thin), of which {provisioned} are \
         promised to volumes; make it at most {room} bytes, delete volumes or add devices"
    )]
    OverProvisioned {
        /// What was asked for.
        size: ByteCount,
        /// The pool.
        pool: String,
        /// Its raw bytes.
        raw: ByteCount,
        /// How many copies of each block it keeps.
        copies: u8,
        /// Bytes of its volumes.
        provisioned: ByteCount,
        /// What a volume may have at most now.
        room: ByteCount,
    },
    /// Not a layout.
    #[error("{0}")]
    Stripe(StripeError),
    /// Nowhere to put a volume.
    #[error("pool {pool:?} has no device that serves; start a data server (sds) with a device for this pool, see `sdsctl status`")]
    PoolWithoutDevices {
        /// The pool.
        pool: String,
    },
    /// The pool's shards cannot be placed.
    #[error("the shards of pool {pool:?} cannot be placed: {error}")]
    Placement {
        /// The pool.
        pool: String,
        /// Why.
        error: PlacementError,
    },
    /// A pool of no or too many shards.
    #[error("a pool of {shards} shards cannot be made; give it 1 to {SHARDS_PER_POOL_MAX}")]
    ShardCount {
        /// What was asked for.
        shards: u32,
    },
    /// Somebody has the volume open.
    #[error("volume {name:?} is open by {holder} since {since}; close it there, or take it over by force")]
    Busy {
        /// The volume.
        name: String,
        /// Who.
        holder: String,
        /// Since when (RFC 3339, UTC).
        since: String,
    },
    /// Somebody has the volume open.
    #[error("volume {name:?} cannot be deleted: it is open by {holder} since {since}; close it there first")]
    DeleteOpen {
        /// The volume.
        name: String,
        /// Who.
        holder: String,
        /// Since when (RFC 3339, UTC).
        since: String,
    },
    /// A bound of the system.
    #[error("{0}")]
    TooMany(Bound),
    /// A key of another request.
    #[error("the idempotency key was used before for volume {name:?} with other parameters; use a new key for a new request")]
    KeyReused {
        /// The volume made with it.
        name: String,
    },
    /// Not a key.
    #[error("an idempotency key has 1 to {NAME_BYTES_MAX} bytes, this one has {bytes}")]
    KeyLength {
        /// How long it is.
        bytes: usize,
    },
    /// Devices of another system.
    #[error(
        "data server {name:?} holds devices of system {theirs}, and this is system {ours}; \
         point it at its own MDM, or give it other devices"
    )]
    OtherSystem {
        /// The server.
        name: String,
        /// Its devices' system.
        theirs: SystemId,
        /// This one.
        ours: SystemId,
    },
    /// A server nobody can reach.
    #[error("data server {name:?} gave {count} addresses; give it 1 to {SDS_ADDRESSES_MAX}")]
    Addresses {
        /// The server.
        name: String,
        /// How many it gave.
        count: usize,
    },
    /// No identity.
    #[error("data server {name:?} has no identity (its UUID is nil); give it a state directory")]
    SdsNil {
        /// The server.
        name: String,
    },
    /// One device twice.
    #[error("data server {name:?} has device {device} twice ({first:?} and {second:?}); a copied device must be formatted anew")]
    DeviceTwice {
        /// The server.
        name: String,
        /// The device.
        device: DeviceUuid,
        /// Where once.
        first: String,
        /// Where again.
        second: String,
    },
    /// One device at two servers.
    #[error(
        "device {device} ({path:?}) is served by live data server {elsewhere:?}; \
         it is a copy, or the other server must be stopped first"
    )]
    DeviceElsewhere {
        /// The device.
        device: DeviceUuid,
        /// Where it was found now.
        path: String,
        /// Who has it.
        elsewhere: String,
    },
    /// A device that would change its pool.
    #[error("device {device} ({path:?}) belongs to pool {pool:?}, and the configuration says {configured:?}; correct the configuration")]
    DevicePool {
        /// The device.
        device: DeviceUuid,
        /// Where it is.
        path: String,
        /// Its pool.
        pool: String,
        /// What it was reported with.
        configured: String,
    },
    /// No such device.
    #[error("there is no device {device}; `sdsctl status` names those there are")]
    NoDevice {
        /// What was asked for.
        device: DeviceId,
    },
    /// No such shard.
    #[error("pool {pool:?} has no shard {shard}: it has {shards}, numbered from 0 (none before its first volume is made)")]
    NoShard {
        /// The pool.
        pool: String,
        /// What was asked for.
        shard: u32,
        /// How many there are.
        shards: u32,
    },
    /// A copy that cannot be forced.
    #[error("shard {pool}/{shard} cannot be forced to device {device}: {fault}")]
    Force {
        /// The pool.
        pool: String,
        /// The shard.
        shard: u32,
        /// The device.
        device: DeviceId,
        /// Why not.
        fault: ForceFault,
    },
    /// A report about somebody else's device.
    #[error("data server {sds} does not own device {device}")]
    NotOwner {
        /// Who reported.
        sds: SdsId,
        /// Which device.
        device: DeviceId,
    },
}

/// A bound that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bound {
    /// Volumes.
    #[error("the system has {VOLUMES_MAX} volumes, the most allowed; delete some first")]
    Volumes,
    /// Pools.
    #[error("the system has {POOLS_MAX} pools, the most allowed")]
    Pools,
    /// Shards of all pools.
    #[error("all pools together have at most {SHARDS_MAX} shards; make this one with fewer (`--shards`)")]
    Shards,
    /// Data servers.
    #[error("the system has {SDS_MAX} data servers, the most allowed")]
    Sds,
    /// Devices.
    #[error("the system has {DEVICES_MAX} devices, the most allowed")]
    Devices,
    /// Devices of one server.
    #[error("a data server has at most {DEVICES_PER_SDS_MAX} devices; start another one for the rest")]
    DevicesOfSds,
    /// Sessions of one volume.
    #[error("the volume has {SESSIONS_PER_VOLUME_MAX} sessions, the most allowed; close some first")]
    Sessions,
    /// Deleted trees.
    #[error("{DELETED_TREES_MAX} deleted volumes still wait to be freed by data servers; bring all data servers up")]
    DeletedTrees,
}

/// Something a command changed, to be told to people and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server came, or came back in a new process life.
    SdsRegistered {
        /// Its id.
        sds: SdsId,
        /// Its name.
        name: String,
        /// Its life.
        incarnation: Incarnation,
    },
    /// A server whose last device moved away is no longer known.
    SdsRetired {
        /// Its identity.
        sds: SdsUuid,
        /// Its name.
        name: String,
    },
    /// A device was seen for the first time.
    DeviceAdded {
        /// Its id.
        device: DeviceId,
        /// Its identity.
        uuid: DeviceUuid,
        /// Its server.
        sds: SdsId,
    },
    /// A device is at another server.
    DeviceMoved {
        /// Its id.
        device: DeviceId,
        /// Where it was.
        from: SdsId,
        /// Where it is.
        to: SdsId,
    },
    /// A device that served does not any more.
    DeviceClosed {
        /// Its id.
        device: DeviceId,
    },
    /// A device came back with a lower sequence ceiling than it had: it lost what it once held (I13).
    DeviceWentBack {
        /// Its id.
        device: DeviceId,
    },
    /// A device opened with less of its log than it had flushed: it is in no set of two copies until it has everything again (I13).
    DeviceForgot {
        /// Its id.
        device: DeviceId,
        /// What it had flushed.
        flushed: LogSequence,
        /// Where its log ends.
        found: LogSequence,
    },
    /// Shards of a device got a new epoch.
    ShardsAdvanced {
        /// Its id.
        device: DeviceId,
        /// How many shards.
        shards: u32,
    },
    /// A server's proposals for shards were committed.
    ShardsChanged {
        /// Who asked.
        sds: SdsId,
        /// How many shards.
        shards: u32,
    },
    /// A device that fell out of shards joins them again.
    ShardsJoining {
        /// Its id.
        device: DeviceId,
        /// How many shards.
        shards: u32,
    },
    /// A device goes on alone with shards whose other copy has not come back for too long.
    ShardsAlone {
        /// Which.
        device: DeviceId,
        /// Who has not come back.
        absent: DeviceId,
        /// How many shards.
        shards: u32,
        /// Of these, how many may lack writes that were acknowledged and not flushed.
        unflushed: u32,
    },
    /// An operator made a copy a shard's only one.
    ShardForced {
        /// The pool.
        pool: PoolId,
        /// The shard.
        shard: u32,
        /// The copy's device.
        device: DeviceId,
        /// Its epoch now.
        epoch: Epoch,
        /// Whether it lacks acknowledged writes, or may.
        lost: bool,
    },
    /// Proposals for shards were refused.
    ProposalsRefused {
        /// Who asked.
        sds: SdsId,
        /// Why.
        fault: ProposalFault,
        /// How many for this reason.
        shards: u32,
        /// The first of them.
        first: (PoolId, ShardId),
    },
    /// A pool's shards were placed.
    ShardsPlaced {
        /// The pool.
        pool: PoolId,
        /// Over how many devices.
        devices: u32,
    },
    /// A pool was made.
    PoolCreated {
        /// Its id.
        pool: PoolId,
        /// Its name.
        name: String,
    },
    /// A volume was made.
    VolumeCreated {
        /// Its id.
        volume: VolumeId,
        /// Its name.
        name: String,
    },
    /// A volume was deleted.
    VolumeDeleted {
        /// Its id.
        volume: VolumeId,
        /// Its name.
        name: String,
    },
    /// A session was given.
    SessionOpened {
        /// Of which volume.
        volume: VolumeId,
        /// Its generation.
        generation: SessionGeneration,
        /// To whom.
        holder: String,
    },
    /// A session was taken away by another.
    SessionFenced {
        /// Of which volume.
        volume: VolumeId,
        /// Its generation.
        generation: SessionGeneration,
        /// From whom.
        holder: String,
    },
    /// A session was given back.
    SessionClosed {
        /// Of which volume.
        volume: VolumeId,
        /// Its generation.
        generation: SessionGeneration,
    },
    /// No device holds anything of a deleted tree any more.
    TreeFreed {
        /// The tree.
        tree: TreeId,
    },
}
