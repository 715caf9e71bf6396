//! What a storage node is told and what it wants done. Shared by the replica, its shell and the simulator.

use crate::buffer::Span;
use crate::collections::OpId;
use crate::error::Status;
use crate::id::{BootId, DeviceId, DeviceUuid, Epoch, Incarnation, MapVersion, PoolId, SdsId, ShardId, SystemId, TreeId};
use crate::machine::{DiskResult, LinkId};
use crate::protocol::membership::Proposal;
use crate::store::interface as store;
use crate::unit::{ByteOffset, Nanos};
use crate::view::ViewUpdate;
use crate::wire::Frame;

/// Place of a device in its SDS's list (0..=63); the shell's name for it, stable for a process life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceSlot(pub u16);

/// Policy and bounds of a storage node.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// The host's boot.
    pub boot: BootId,
    /// Most client links at once.
    pub links_max: usize,
    /// Most requests in flight over all links.
    pub requests_max: usize,
    /// How long a request waits for a newer map before it is answered `NotReady`.
    pub map_wait: Nanos,
    /// A disk request older than this hangs: the shards of its device go on without it.
    pub disk_hang: Nanos,
    /// Whether a peer's port that refuses means that its process has ended. If not, its last lease is waited out: for networks in which
    /// something else may refuse for a host that lives.
    pub trust_refused: bool,
}

impl ReplicaOptions {
    /// Policy for [`Self::disk_hang`] unless an operator says otherwise: longer than a disk's own retries usually take.
    pub const DISK_HANG_DEFAULT: Nanos = Nanos::from_millis(10_000);
}

/// Input of a step.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A device is there: open its store.
    AddDevice {
        /// Its slot, unused so far.
        slot: DeviceSlot,
        /// How.
        options: store::StoreOptions,
    },
    /// The MDM registered us; repeated after each Register.
    Registered {
        /// The system.
        system: SystemId,
        /// Our id.
        sds: SdsId,
        /// Our process life.
        incarnation: Incarnation,
        /// Ids of our devices.
        devices: &'a [(DeviceUuid, DeviceId)],
    },
    /// Newer state from the MDM.
    View(&'a ViewUpdate),
    /// The MDM asks us to give the role of these shards' primary to their secondary.
    HandOver {
        /// Which, at which epochs.
        shards: &'a [(PoolId, ShardId, Epoch)],
    },
    /// A party connected; its first frame must be a `Hello`.
    Linked {
        /// The link.
        link: LinkId,
    },
    /// A link that [`Effect::Connect`] asked for is there.
    PeerLinked {
        /// To which server.
        sds: SdsId,
        /// The link.
        link: LinkId,
    },
    /// A link that [`Effect::Connect`] asked for could not be had.
    PeerConnectFailed {
        /// To which server.
        sds: SdsId,
        /// Every address refused the connection: no process listens there any more.
        refused: bool,
    },
    /// A link is gone.
    Unlinked {
        /// The link.
        link: LinkId,
    },
    /// A frame came; one use of its buffer passes to the machine.
    Frame {
        /// Over which link.
        link: LinkId,
        /// The frame.
        frame: &'a Frame,
    },
    /// A disk request ended.
    Disk {
        /// Of which device.
        slot: DeviceSlot,
        /// Which.
        op: OpId,
        /// How.
        result: DiskResult,
    },
    /// The deadline has come, or buffers were freed.
    Wake,
    /// Refuse new requests (`Stopping`), finish the rest, close the stores, then report `Stopped`.
    Stop,
}

/// What a step wants done.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a boxed frame would be an allocation per I/O")]
pub enum Effect {
    /// Read device bytes into a span.
    DiskRead {
        /// Device.
        slot: DeviceSlot,
        /// Comes back with the completion.
        op: OpId,
        /// Where on the device.
        offset: ByteOffset,
        /// Into.
        span: Span,
    },
    /// Write a span.
    DiskWrite {
        /// Device.
        slot: DeviceSlot,
        /// Comes back with the completion.
        op: OpId,
        /// Where on the device.
        offset: ByteOffset,
        /// From.
        span: Span,
        /// Durable before completion.
        durable: bool,
    },
    /// Make everything completed so far durable.
    DiskFlush {
        /// Device.
        slot: DeviceSlot,
        /// Comes back with the completion.
        op: OpId,
    },
    /// Send a frame; one use of its buffer passes to the shell. Dropped if the link is gone.
    Send {
        /// Over which link.
        link: LinkId,
        /// The frame.
        frame: Frame,
    },
    /// Close a link once what was sent on it is out.
    Close {
        /// Which.
        link: LinkId,
    },
    /// Open a link to another data server; answered by [`Input::PeerLinked`] or [`Input::PeerConnectFailed`].
    Connect {
        /// Which.
        sds: SdsId,
        /// `host:port`, best first.
        addresses: Vec<String>,
    },
    /// Ask the MDM to change the configuration of shards. There is no answer but a view.
    Propose {
        /// One for each shard; at most [`crate::limits::PROPOSALS_PER_MESSAGE_MAX`].
        proposals: Vec<(PoolId, ShardId, Proposal)>,
    },
    /// (Re-)register with the MDM: a device opened or failed.
    Register,
    /// Tell the MDM that this version is enforced.
    Confirm {
        /// The version.
        version: MapVersion,
    },
    /// Ask the MDM for a view of at least this version.
    Pull {
        /// The version.
        at_least: MapVersion,
    },
    /// Tell the MDM that a device holds nothing of these deleted trees any more.
    TreesFreed {
        /// The device.
        device: DeviceId,
        /// The trees.
        trees: Vec<TreeId>,
    },
    /// Something to tell.
    Event(Event),
}

/// What a storage node reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// From a device's store.
    Store {
        /// Device.
        slot: DeviceSlot,
        /// What.
        event: store::Event,
    },
    /// A link was refused or dropped, and why.
    LinkRefused {
        /// Which.
        link: LinkId,
        /// Why, for people.
        reason: &'static str,
    },
    /// A payload arrived damaged.
    PayloadDamaged {
        /// Over which link.
        link: LinkId,
    },
    /// Shards of a device are settled, or their other copy has all of them.
    Resynced {
        /// Device.
        slot: DeviceSlot,
        /// The other copy's device, if there is one.
        other: Option<DeviceId>,
        /// How many shards.
        shards: usize,
        /// Bytes of blocks that were sent to the other copy for that.
        bytes: u64,
    },
    /// The other copy's device, or ours, refused what settling or resyncing needs; it is tried again.
    ResyncRefused {
        /// Device.
        slot: DeviceSlot,
        /// The other copy's device.
        other: DeviceId,
        /// The answer.
        status: Status,
    },
    /// Settling an extent found blocks that no healthy history leads to.
    SettledInDoubt {
        /// Whose.
        key: store::ExtentKey,
        /// Kept although no record names their bytes.
        unrecorded: u32,
        /// Of which no copy has good bytes: reads fail until they are written.
        lost: u32,
    },
    /// Damaged blocks of an extent were read, and repaired from the other copy.
    Repaired {
        /// Whose.
        key: store::ExtentKey,
        /// How many.
        blocks: u32,
        /// Of which the other copy has no good bytes either: reads fail until they are written.
        lost: u32,
    },
    /// One copy's description of an extent is lost: what the other has replaces it.
    ExtentGivenUp {
        /// Whose.
        key: store::ExtentKey,
    },
    /// A disk request of a device does not end, or all have ended that did not.
    DeviceHung {
        /// Device.
        slot: DeviceSlot,
        /// Whether it hangs.
        hung: bool,
        /// Age of its oldest request.
        age: Nanos,
    },
    /// All stores are closed.
    Stopped,
}
