//! The metadata manager: committed commands in, state and events out.
//!
//! [`Cluster`] is what survives: [`Cluster::apply`] is deterministic and knows no clock (time comes
//! inside commands), so every member that applied the same log has the same state. What is only
//! observed (connections, heartbeats, confirmations) is the soft state of [`leader::Leader`], which
//! proposes the commands and answers data servers, clients and operators.
//!
//! Invariants: epochs, incarnations, session generations, versions and ids only rise and are never
//! reused (I1, I3, I6); a refused command changes nothing; one command is one step of the view, however
//! much it changes.
//! Must not know: sockets, the log's storage, REST.

pub mod command;
pub mod leader;
pub mod outcome;
pub mod report;
pub mod state;

mod alone;
mod check;
mod membership;
mod name;
mod pool;
mod propose;
mod register;
mod session;
mod snapshot;
mod text;
mod view;
mod volume;

#[cfg(test)]
mod tests;

pub use command::{Change, Command, CreateVolume, FormatError, Heard, OpenSession, RegisterDevice, RegisterSds};
pub use outcome::{Bound, Event, ForceFault, NameFault, Outcome, ProposalFault, Refusal};
pub use text::rfc3339;
pub use view::Recipient;

use crate::id::{DeviceId, DeviceUuid, MapVersion, PoolId, SdsId, SystemId, TreeId, VolumeId};
use crate::limits::SHARDS_PER_POOL_DEFAULT;
use crate::map::Copies;
use state::{AuditEntry, DeletedTree, Device, Pool, Server, State, Volume};

/// Name of the pool that every system has.
pub const DEFAULT_POOL: &str = "default";

/// The state of the cluster: what the MDM must not forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    state: State,
}

impl Cluster {
    /// Before the first command.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a committed command. The same commands in the same order give the same state and
    /// answers anywhere.
    ///
    /// # Errors
    /// The refusal, when the command could not be done; then nothing has changed and there are no events.
    pub fn apply(&mut self, command: &Command) -> (Result<Outcome, Refusal>, Vec<Event>) {
        let now_ms = command.unix_ms.max(self.state.unix_ms);
        let mut events = Vec::new();
        let result = self.change(now_ms, &command.change, &mut events);
        if result.is_ok() {
            self.state.unix_ms = now_ms;
        }
        debug_assert!(result.is_ok() || events.is_empty(), "a refused command changes nothing");
        (result, events)
    }

    fn change(&mut self, now_ms: u64, change: &Change, events: &mut Vec<Event>) -> Result<Outcome, Refusal> {
        if self.state.system.is_nil() && !matches!(change, Change::Initialise { .. }) {
            return Err(Refusal::NotInitialised);
        }
        match change {
            Change::Initialise { system } => Ok(self.initialise(*system, events)),
            Change::RegisterSds(register) => self.register_sds(register, events),
            Change::CreatePool { name, shards, copies } => self.create_pool(name, *shards, *copies, events),
            Change::CreateVolume(create) => self.create_volume(now_ms, create, events),
            Change::DeleteVolume { name, orphans } => self.delete_volume(name, orphans, events),
            Change::OpenSession(open) => self.open_session(now_ms, open, events),
            Change::CloseSession { volume, client, generation } => Ok(self.close_session(*volume, *client, *generation, events)),
            Change::Propose { sds, heard, proposals } => Ok(self.propose(*sds, heard, proposals, events)),
            Change::GoOnAlone { survivor, absent, heard } => self.go_on_alone(now_ms, *survivor, *absent, heard, events),
            Change::ForceShard { pool, shard, device, gone, heard, reason } => {
                self.force_shard(now_ms, &alone::Force { pool, shard: *shard, device: *device, gone, heard, reason }, events)
            }
            Change::TreesFreed { sds, device, trees } => self.trees_freed(*sds, *device, trees, events),
        }
    }

    fn initialise(&mut self, system: SystemId, events: &mut Vec<Event>) -> Outcome {
        if self.state.system.is_nil() && !system.is_nil() {
            self.state.system = system;
            self.next_version();
            self.add_pool(DEFAULT_POOL, SHARDS_PER_POOL_DEFAULT, Copies::One, events);
        }
        Outcome::Initialised { system: self.state.system }
    }

    /// The version that the command in hand makes, if it changes anything that others see.
    fn coming_version(&self) -> MapVersion {
        MapVersion::new(self.state.versions.current.get() + 1)
    }

    /// Moves the whole to its next version; each change calls it once at most.
    fn next_version(&mut self) -> MapVersion {
        self.state.versions.current = self.coming_version();
        self.state.versions.current
    }

    /// The system; nil before `Initialise`.
    #[must_use]
    pub const fn system(&self) -> SystemId {
        self.state.system
    }

    /// The version of everything the MDM tells.
    #[must_use]
    pub const fn version(&self) -> MapVersion {
        self.state.versions.current
    }

    /// The time of the last command, in milliseconds since 1970.
    #[must_use]
    pub const fn unix_ms(&self) -> u64 {
        self.state.unix_ms
    }

    /// All pools, by id.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, &Pool)> {
        self.state.pools.iter().map(|(id, pool)| (*id, pool))
    }

    /// A pool.
    #[must_use]
    pub fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.state.pools.get(&id)
    }

    /// All data servers, by id.
    pub fn servers(&self) -> impl Iterator<Item = (SdsId, &Server)> {
        self.state.servers.iter().map(|(id, server)| (*id, server))
    }

    /// A data server.
    #[must_use]
    pub fn server(&self, id: SdsId) -> Option<&Server> {
        self.state.servers.get(&id)
    }

    /// All devices, by id.
    pub fn devices(&self) -> impl Iterator<Item = (DeviceId, &Device)> {
        self.state.devices.iter().map(|(id, device)| (*id, device))
    }

    /// A device.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> Option<&Device> {
        self.state.devices.get(&id)
    }

    /// A device, by its own identity.
    #[must_use]
    pub fn device_by_uuid(&self, uuid: DeviceUuid) -> Option<(DeviceId, &Device)> {
        let id = *self.state.device_uuids.get(&uuid)?;
        Some((id, self.state.devices.get(&id)?))
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, &Volume)> {
        self.state.volume_names.values().filter_map(|id| Some((*id, self.state.volumes.get(id)?)))
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, id: VolumeId) -> Option<&Volume> {
        self.state.volumes.get(&id)
    }

    /// A volume, by name.
    #[must_use]
    pub fn volume_by_name(&self, name: &str) -> Option<(VolumeId, &Volume)> {
        let id = *self.state.volume_names.get(name)?;
        Some((id, self.state.volumes.get(&id)?))
    }

    /// What was done that somebody may want to know of later, oldest first.
    pub fn audit(&self) -> impl Iterator<Item = &AuditEntry> {
        self.state.audit.iter()
    }

    /// Trees of deleted volumes that some device has not freed yet.
    pub fn deleted_trees(&self) -> impl Iterator<Item = (TreeId, &DeletedTree)> {
        self.state.deleted_trees.iter().map(|(id, tree)| (*id, tree))
    }
}
