//! Places in the machines and in the simulated world that runs are to reach, and how often they did.
//!
//! A run that never loses a cache says nothing about lost caches: what a set of runs has not reached it has not tested. Every
//! variant of what the machines say and send has a mark here, by exhaustive lists: whoever adds one is asked by the compiler.
//!
//! Must not know: what is right.

use sds_core::cluster::leader::Event as LeaderEvent;
use sds_core::cluster::{Change as Command, Event as ClusterEvent};
use sds_core::error::Status;
use sds_core::protocol::membership::Change;
use sds_core::replica::interface::Event as ReplicaEvent;
use sds_core::store::interface::Event as StoreEvent;
use sds_core::volume::interface::Event as VolumeEvent;
use sds_core::wire::Opcode;
use std::collections::BTreeMap;

use crate::world::Trouble;

/// How often each mark was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(BTreeMap<&'static str, u64>);

impl Marks {
    /// Something was reached.
    pub fn hit(&mut self, mark: &'static str) {
        *self.0.entry(mark).or_default() += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (mark, count) in &other.0 {
            *self.0.entry(mark).or_default() += count;
        }
    }

    /// How often a mark was reached.
    #[must_use]
    pub fn count(&self, mark: &str) -> u64 {
        self.0.get(mark).copied().unwrap_or_default()
    }

    /// Those that begin with an area's name, and how often.
    pub fn area<'a>(&'a self, area: &'a str) -> impl Iterator<Item = (&'a str, u64)> + 'a {
        let of_area = move |(mark, count): (&&'static str, &u64)| Some((mark.strip_prefix(area)?.strip_prefix('/')?, *count));
        self.0.iter().filter_map(of_area)
    }

    /// Marks that ought to be reached and were not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        expected().filter(|mark| self.count(mark) == 0).collect()
    }
}

/// Something that has a mark.
pub trait Marked {
    /// Its mark: its area and its name.
    fn mark(&self) -> &'static str;
}

/// For each type: its area, the variants that runs are to reach, and those that they cannot, with why.
macro_rules! marks {
    ($($type:ident in $area:literal: $($variant:ident)+ $(, never $($never:ident: $why:literal),+)?;)+) => {
        $(impl Marked for $type {
            fn mark(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => concat!($area, "/", stringify!($variant)),)+
                    $($(Self::$never { .. } => concat!($area, "/", stringify!($never)),)+)?
                }
            }
        })+

        /// What runs are to reach.
        const EXPECTED: &[&[&str]] = &[$(&[$(concat!($area, "/", stringify!($variant))),+]),+];

        /// What they do not, and why.
        pub const NEVER: &[(&str, &str)] = &[$($($((concat!($area, "/", stringify!($never)), $why),)+)?)+];
    };
}

marks! {
    Trouble in "fault": Crash PowerCut LinkLoss Pause MdmLoss ControlLoss CleanRestart SlowDisk HungDisk OldDisk Flip LostWrite
        MisdirectedWrite LatentError WriteError Reopen DamagedPayload Cut Ambush FalseSilence HandOver
        TransientRead DamagedSuperblock Deletion;
    ReplicaEvent in "server": Store LinkRefused PayloadDamaged Resynced ResyncRefused SettledInDoubt Repaired DeviceHung Stopped,
        never ExtentGivenUp: "descriptor pages are damaged at two storage nodes only (sds-core/tests/replica_repair.rs)";
    StoreEvent in "store": Opening Opened OpenFailed DataMismatch UnsettledKept UnsettledDismissed DeviceFailed,
        never DescriptorMismatch: "as server/ExtentGivenUp", StaleCompletion: "a violation";
    LeaderEvent in "mdm": Cluster SdsUp SdsDown RolesUneven RegistrationWaits Refused ClientConnected,
        never SdsStalled: "a loop that makes no turns is a thread's, and there is none", WentBack: "the log loses nothing",
            OpenNotConfirmed: "a server that is reached does not keep a view to itself for so long",
            OpenRefused: "there are fewer clients than sessions of a volume";
    ClusterEvent in "cluster": SdsRegistered DeviceAdded DeviceClosed DeviceWentBack DeviceForgot ShardsAdvanced ShardsChanged ShardsJoining
        ProposalsRefused ShardsPlaced PoolCreated VolumeCreated VolumeDeleted TreeFreed SessionOpened SessionFenced SessionClosed,
        never SdsRetired: "disks stay in their servers (black box: swapped_devices)", DeviceMoved: "as cluster/SdsRetired",
            ShardsAlone: "in named scenarios: it may lose what was not flushed", ShardForced: "as cluster/ShardsAlone";
    Command in "command": Initialise RegisterSds CreatePool CreateVolume DeleteVolume TreesFreed OpenSession CloseSession Propose,
        never GoOnAlone: "as cluster/ShardsAlone",
            ForceShard: "as cluster/ShardsAlone";
    Change in "proposal": Shrink Yield Grow Swap Reform Settled Drop,
        never Join: "the MDM's own, at registrations (cluster/ShardsJoining)", Alone: "as cluster/ShardsAlone";
    VolumeEvent in "client": Fenced Waiting Silent DeviceNotReady DeviceFailed Reached PayloadDamaged FlushLost LinkRefused CloseFlushFailed
        Unreadable,
        never TimedOut: "requests of a run wait without end", Refused: "a violation";
    Opcode in "frame": Hello HelloReply Read ReadReply Write WriteFragment WriteReply Zero Flush FlushReply BlockStatus BlockStatusReply
        Replicate ReplicateZero ReplicateReply ReplicateFlush ReplicateFlushReply Beacon Grant Extents ExtentsReply Blocks BlocksReply Medium
        MediumReply Copy Settle FreeExtent ResyncReply Resolved;
    Status in "status": Ok NoSpace Fenced MapStale NotReady Corrupt DeviceFailed PayloadDamaged Stopping,
        never Invalid: "clients ask for nothing that is", PastEnd: "a client refuses it itself", NoVolume: "a volume is deleted when nobody has it open",
            FlushLost: "a client finds out itself", ReadOnly: "a client refuses it itself";
}

/// Every mark that runs are to reach.
pub fn expected() -> impl Iterator<Item = &'static str> {
    EXPECTED.iter().flat_map(|area| area.iter().copied())
}
