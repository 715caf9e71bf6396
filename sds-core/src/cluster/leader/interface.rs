//! What a leader is told and what it wants done. Shared by the machine, its shell and the simulator.

use crate::cluster::report::{AuditStatus, MdmStatus, PoolStatus, ShardState, ShardStatus, SystemStatus, VolumeStatus};
use crate::cluster::{self, Command, CreateVolume, Refusal};
use crate::control::{ClientToMdm, MdmToClient, MdmToSds, SdsToMdm};
use crate::id::{DeviceId, MapVersion, SdsId, SystemId};
use crate::machine::{LinkId, Token};
use crate::map::Copies;
use crate::unit::Nanos;

/// Policy of a leader, and what it cannot know by itself.
#[derive(Clone, Debug)]
pub struct LeaderOptions {
    /// Names the system if it has no name yet; drawn at random by the shell.
    pub system_if_new: SystemId,
    /// This member, for the status.
    pub member: MdmStatus,
    /// How old a server's last sign of life may be before it is down.
    pub sds_down_after: Nanos,
    /// How long a client may be silent before its sessions are orphaned.
    pub client_silence: Nanos,
    /// How long an open waits for data servers to confirm.
    pub confirm_wait: Nanos,
    /// How long a copy that is back waits for the other before it goes on alone; `None`: until an operator says so.
    pub lone_start_wait: Option<Nanos>,
}

/// How long a copy waits for the other, unless the configuration says otherwise.
pub const LONE_START_WAIT: Nanos = Nanos::from_millis(600_000);

impl LeaderOptions {
    /// The defaults.
    #[must_use]
    pub fn new(system_if_new: SystemId) -> Self {
        Self {
            system_if_new,
            member: MdmStatus::default(),
            sds_down_after: Nanos::from_millis(3_000),
            client_silence: Nanos::from_millis(60_000),
            confirm_wait: Nanos::from_millis(10_000),
            lone_start_wait: Some(LONE_START_WAIT),
        }
    }
}

/// The two clocks of a step: one that never goes back, one that people read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Monotonic.
    pub now: Nanos,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// Names a proposal; given back with its fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(u64);

impl ProposalId {
    /// From its number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What an operator asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiRequest {
    /// Make a volume.
    CreateVolume(CreateVolume),
    /// Delete a volume.
    DeleteVolume {
        /// Its name.
        name: String,
    },
    /// Describe a volume.
    Volume {
        /// Its name.
        name: String,
    },
    /// Describe all volumes.
    Volumes,
    /// Make a pool.
    CreatePool {
        /// Its name.
        name: String,
        /// How many shards it will have.
        shards: u32,
        /// How many copies of each.
        copies: Copies,
    },
    /// Describe all pools.
    Pools,
    /// Describe shards.
    Shards(ShardQuery),
    /// Describe one shard.
    Shard {
        /// Its pool, by name.
        pool: String,
        /// Its number.
        shard: u32,
    },
    /// Make a copy the only one of its shard.
    ForceShard {
        /// The pool, by name.
        pool: String,
        /// The shard.
        shard: u32,
        /// The device that has the copy.
        device: DeviceId,
        /// Why, for the audit log.
        reason: String,
    },
    /// What was done that somebody may want to know of later.
    Audit,
    /// Describe everything.
    Status,
}

/// Which shards an operator asks for; all that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardQuery {
    /// Of this pool, by name.
    pub pool: Option<String>,
    /// In this state.
    pub state: Option<ShardState>,
    /// With this device, as a member, joiner, or one that fell out.
    pub device: Option<DeviceId>,
    /// At most so many.
    pub limit: usize,
}

/// What an operator is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiReply {
    /// The volume is there.
    VolumeCreated {
        /// It.
        volume: VolumeStatus,
        /// Whether this request made it.
        new: bool,
    },
    /// The volume is gone.
    VolumeDeleted,
    /// A volume.
    Volume(VolumeStatus),
    /// All volumes, by name.
    Volumes(Vec<VolumeStatus>),
    /// The pool is there.
    PoolCreated(PoolStatus),
    /// All pools.
    Pools(Vec<PoolStatus>),
    /// Shards, and how many fit the question beyond them.
    Shards {
        /// By pool and number.
        shards: Vec<ShardStatus>,
        /// Left out.
        more: u64,
    },
    /// A shard.
    Shard(Box<ShardStatus>),
    /// Everything that is kept, oldest first.
    Audit(Vec<AuditStatus>),
    /// Everything.
    Status(Box<SystemStatus>),
    /// The request cannot be done.
    Refused(Refusal),
    /// Too much is being done already; nothing has changed.
    Overloaded,
    /// Whether it was done is unknown: this member no longer leads, or lost its log.
    Unknown,
}

/// Input of a step.
#[derive(Clone, Debug)]
pub enum Input {
    /// A data server said something; the first message on a link is `Register`.
    Sds {
        /// Over which link.
        link: LinkId,
        /// What.
        message: SdsToMdm,
    },
    /// A client said something; the first message on a link is `Hello`.
    Client {
        /// Over which link.
        link: LinkId,
        /// What.
        message: ClientToMdm,
    },
    /// A link is gone.
    Unlinked {
        /// Which.
        link: LinkId,
    },
    /// An operator asks.
    Api {
        /// Comes back with the answer.
        token: Token,
        /// What.
        request: ApiRequest,
    },
    /// The log has this command as its next entry; in the order of the log.
    Committed {
        /// Our name for it, if we proposed it.
        proposal: Option<ProposalId>,
        /// It.
        command: Command,
    },
    /// A proposal will not be in the log, or nobody can tell.
    Lost {
        /// Which.
        proposal: ProposalId,
    },
    /// The deadline has come.
    Wake,
}

/// What a step wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Put a command into the log.
    Propose {
        /// Comes back with its fate.
        proposal: ProposalId,
        /// The command.
        command: Command,
    },
    /// Tell a data server. Dropped if the link is gone.
    ToSds {
        /// Over which link.
        link: LinkId,
        /// What.
        message: MdmToSds,
    },
    /// Tell a client. Dropped if the link is gone.
    ToClient {
        /// Over which link.
        link: LinkId,
        /// What.
        message: MdmToClient,
    },
    /// Close a link once what was sent on it is out.
    Close {
        /// Which.
        link: LinkId,
    },
    /// Answer an operator.
    Answer {
        /// Of the request.
        token: Token,
        /// What.
        reply: ApiReply,
    },
    /// Something to tell.
    Event(Event),
}

/// What a leader reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command changed something.
    Cluster(cluster::Event),
    /// A data server is there (again).
    SdsUp {
        /// Its id.
        sds: SdsId,
        /// Its name.
        name: String,
    },
    /// A data server was not heard of for too long, or left.
    SdsDown {
        /// Its id.
        sds: SdsId,
        /// Its name.
        name: String,
        /// It had said that it was stopping.
        left: bool,
    },
    /// A server's data loop makes no turns, or makes turns again.
    SdsStalled {
        /// Its id.
        sds: SdsId,
        /// Its name.
        name: String,
        /// Which of the two.
        stalled: bool,
    },
    /// Some devices lead more shards than they follow: so many are to change roles.
    RolesUneven {
        /// Of which pool.
        pool: String,
        /// How many now.
        shards: usize,
    },
    /// A registration waits until it is certain that nobody else lives under the same identity.
    RegistrationWaits {
        /// Its link.
        link: LinkId,
        /// Its name.
        name: String,
    },
    /// A party was refused, and why.
    Refused {
        /// Its link.
        link: LinkId,
        /// Why.
        reason: String,
    },
    /// Somebody has seen a newer version than we have: our metadata went back in time.
    WentBack {
        /// Their link.
        link: LinkId,
        /// What they have seen.
        theirs: MapVersion,
        /// What we have.
        ours: MapVersion,
    },
    /// A client connected.
    ClientConnected {
        /// Its link.
        link: LinkId,
        /// Its name.
        name: String,
    },
    /// An open was given up: these servers did not confirm it.
    OpenNotConfirmed {
        /// The volume.
        volume: String,
        /// Who was waited for.
        waiting: Vec<String>,
    },
    /// A session could not be given for a reason that the client cannot act on.
    OpenRefused {
        /// The volume.
        volume: String,
        /// Why.
        reason: String,
    },
}
