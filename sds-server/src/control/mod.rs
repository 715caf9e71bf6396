//! The control side of a server: brings devices in, keeps the connection to the MDM, reports.
//!
//! Invariants: a server registers only when every device has been looked at, so the MDM hears of its
//! system; a confirmed version is repeated after each registration, so an MDM that restarted hears it.
//!
//! What this must not know: what a view says.

mod bring;
mod connection;

use crate::config::NodeConfig;
use crate::identity::Identity;
use crate::node::{NodeError, NodeShell, NodeState};
use crate::report::{FromRole, Stage, ToRole, device_reports};
use bring::{Brought, SystemCell};
use connection::{Connection, Incoming};
use crossbeam::queue::ArrayQueue;
use sds_core::control::{CONTROL_VERSION, MdmToSds, SdsToMdm};
use sds_core::id::{Epoch, MapVersion, PoolId, ShardId, SystemId};
use sds_core::replica::DeviceStatus;
use sds_core::replica::interface::DeviceSlot;
use sds_core::store::interface::StoreOptions;
use sds_core::unit::Nanos;
use sds_ring::{Address, LoopStatus, Waker};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

/// How often the MDM hears from us.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long a stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before the role's full queue is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);
/// How long a log block may wait for company (extent-store design: at most 300 µs).
const GROUP_COMMIT_WAIT: Nanos = Nanos::from_micros(300);
/// How long after its last write an extent is sealed.
const SEAL_AFTER: Nanos = Nanos::from_millis(1_000);

/// Everything the control task owns.
#[derive(Debug)]
pub(crate) struct Control {
    config: NodeConfig,
    identity: Identity,
    addresses: Vec<String>,
    inbox: Arc<ArrayQueue<ToRole>>,
    waker: Waker,
    status: LoopStatus,
    from_role: mpsc::Receiver<FromRole>,
    state: watch::Sender<NodeState>,
    system: Arc<SystemCell>,
    stages: Vec<Stage>,
    /// Devices that wait until all have been looked at.
    held: Vec<(DeviceSlot, bring::Ready)>,
    /// What each device that has been looked at belongs to.
    looked_at: Vec<Option<Option<SystemId>>>,
    /// As the role last told; shared with whoever holds the node.
    statuses: watch::Sender<Vec<DeviceStatus>>,
    connection: Option<Connection>,
    confirmed: Option<MapVersion>,
}

enum Next {
    Stop,
    Brought(Brought),
    Role(Option<FromRole>),
    Mdm(Incoming),
    Heartbeat,
}

impl Control {
    pub(crate) fn new(
        shell: NodeShell,
        address: &Address,
        state: watch::Sender<NodeState>,
        statuses: watch::Sender<Vec<DeviceStatus>>,
    ) -> Self {
        let NodeShell { config, identity, inbox, waker, from_role, .. } = shell;
        let advertise = if config.advertise.is_empty() { std::slice::from_ref(address) } else { &config.advertise };
        let addresses = advertise.iter().map(ToString::to_string).collect();
        let devices = config.devices.len();
        Self {
            addresses,
            identity,
            inbox,
            status: waker.status(),
            waker,
            from_role,
            state,
            system: Arc::new(SystemCell::default()),
            stages: vec![Stage::Opening { done_per_mille: 0 }; devices],
            held: Vec::new(),
            looked_at: vec![None; devices],
            statuses,
            connection: None,
            confirmed: None,
            config,
        }
    }

    /// Runs until it is told to stop and the role has stopped.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Result<(), NodeError> {
        let (brought_sender, mut brought) = mpsc::channel(64);
        bring::start(&self.config, &self.system, &brought_sender);
        drop(brought_sender);
        let (mdm_sender, mut mdm) = mpsc::channel(16);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut connecting = false;
        loop {
            if !connecting && self.all_looked_at() {
                connecting = true;
                self.all_are_known().await;
                connection::keep(self.config.mdm.clone(), mdm_sender.clone());
            }
            let next = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => Next::Stop,
                message = self.from_role.recv() => Next::Role(message),
                Some(message) = mdm.recv() => Next::Mdm(message),
                Some(message) = brought.recv() => Next::Brought(message),
                _ = heartbeat.tick() => Next::Heartbeat,
            };
            match next {
                Next::Stop => return self.stop().await,
                Next::Role(None) => return Err(NodeError::LoopEnded),
                Next::Role(Some(message)) => self.on_role(message).await?,
                Next::Mdm(message) => self.on_mdm(message).await,
                Next::Brought(message) => self.on_brought(message).await,
                Next::Heartbeat => self.heartbeat().await,
            }
        }
    }

    fn all_looked_at(&self) -> bool {
        self.looked_at.iter().all(Option::is_some)
    }

    /// Every device has been looked at: the first store tells the system, and the held ones go in.
    async fn all_are_known(&mut self) {
        if let Some(system) = self.looked_at.iter().find_map(|system| system.flatten()) {
            self.system.set(system);
        }
        for (slot, ready) in std::mem::take(&mut self.held) {
            self.add(slot, ready).await;
        }
    }

    async fn on_brought(&mut self, message: Brought) {
        let slot = message.slot();
        let index = usize::from(slot.0);
        match message {
            Brought::LookedAt { system, .. } => self.looked_at[index] = Some(system),
            Brought::Progress { done_per_mille, .. } => self.stages[index] = Stage::Opening { done_per_mille },
            Brought::Failed { error, .. } => {
                tracing::error!(node = self.config.name, %error, "device cannot be used");
                self.stages[index] = Stage::Failed { reason: error.to_string() };
                self.looked_at[index].get_or_insert(None);
                self.register().await;
            }
            Brought::Ready { ready, .. } if self.all_looked_at() => self.add(slot, ready).await,
            Brought::Ready { ready, .. } => self.held.push((slot, ready)),
        }
    }

    async fn add(&mut self, slot: DeviceSlot, ready: bring::Ready) {
        let options = StoreOptions {
            device_bytes: ready.bytes,
            system: self.system.get().unwrap_or_default(),
            boot: crate::identity::boot(),
            volatile_cache: ready.volatile_cache,
            descriptor_cache_bytes: self.config.descriptor_cache_bytes(),
            requests_max: self.config.requests_max,
            group_commit_wait: GROUP_COMMIT_WAIT,
            seal_after: SEAL_AFTER,
        };
        self.stages[usize::from(slot.0)] = Stage::Added;
        self.tell(ToRole::AddDevice { slot, file: ready.file, options }).await;
    }

    /// Gives the role a message, waiting for room.
    async fn tell(&self, mut message: ToRole) {
        while let Err(back) = self.inbox.push(message) {
            message = back;
            self.waker.wake();
            tokio::time::sleep(QUEUE_PAUSE).await;
        }
        self.waker.wake();
    }

    async fn on_role(&mut self, message: FromRole) -> Result<(), NodeError> {
        match message {
            FromRole::Register(statuses) => {
                self.statuses.send_replace(statuses);
                self.register().await;
            }
            FromRole::Report(statuses) => {
                log_counters(&self.config.name, &statuses);
                self.statuses.send_replace(statuses);
            }
            FromRole::Confirm(version) => {
                self.confirmed = self.confirmed.max(Some(version));
                self.send(&SdsToMdm::Confirm { version }).await;
            }
            FromRole::Pull(at_least) => self.send(&SdsToMdm::Pull { at_least }).await,
            FromRole::TreesFreed(device, trees) => self.send(&SdsToMdm::TreesFreed { device, trees }).await,
            FromRole::Propose(statuses, proposals) => {
                // The new epochs begin above the ceilings that the MDM knows of.
                self.statuses.send_replace(statuses);
                self.heartbeat().await;
                self.send(&SdsToMdm::Propose { proposals }).await;
            }
            FromRole::Stopped => return Err(NodeError::LoopEnded),
        }
        Ok(())
    }

    async fn on_mdm(&mut self, message: Incoming) {
        match message {
            Incoming::Up(connection) => {
                tracing::info!(node = self.config.name, mdm = connection.address(), "connected to the MDM");
                self.connection = Some(connection);
                self.register().await;
            }
            Incoming::Down { reason } => {
                self.connection = None;
                self.state.send_replace(NodeState::Waiting { reason });
            }
            Incoming::Message(message) => self.on_mdm_message(message).await,
        }
    }

    async fn on_mdm_message(&mut self, message: MdmToSds) {
        match message {
            MdmToSds::Registered { system, sds, incarnation, devices } => {
                tracing::info!(node = self.config.name, %system, %sds, %incarnation, devices = devices.len(), "registered with the MDM");
                self.state.send_replace(NodeState::Registered);
                self.system.set(system);
                self.tell(ToRole::Registered { system, sds, incarnation, devices }).await;
                if let Some(version) = self.confirmed {
                    self.send(&SdsToMdm::Confirm { version }).await;
                }
            }
            MdmToSds::Refused { reason } => {
                tracing::error!(node = self.config.name, reason, "the MDM refuses this server; trying again");
                self.state.send_replace(NodeState::Waiting { reason: format!("refused by the MDM: {reason}") });
                if let Some(connection) = self.connection.take() {
                    connection.refuse();
                }
            }
            MdmToSds::HandOver { shards } => self.hand_over(shards),
            // A view that does not fit is dropped: the version gap makes the machine pull.
            MdmToSds::View(view) => {
                if self.inbox.push(ToRole::View(Box::new(view))).is_err() {
                    tracing::warn!(node = self.config.name, "the data loop is behind; a view was dropped and will be asked for");
                }
                self.waker.wake();
            }
        }
    }

    /// A wish of the MDM's that it repeats: dropped when the data loop is behind.
    fn hand_over(&mut self, shards: Vec<(PoolId, ShardId, Epoch)>) {
        if self.inbox.push(ToRole::HandOver(shards)).is_ok() {
            self.waker.wake();
        }
    }

    async fn register(&mut self) {
        if !self.all_looked_at() {
            return;
        }
        let message = SdsToMdm::Register {
            version: CONTROL_VERSION,
            sds: self.identity.sds,
            system: self.system.get().unwrap_or_default(),
            name: self.config.name.clone(),
            addresses: self.addresses.clone(),
            fault_set: self.config.fault_set.clone().unwrap_or_else(|| self.config.name.clone()),
            life: self.identity.life,
            devices: device_reports(&self.config.devices, &self.stages, &self.statuses.borrow()),
        };
        self.send(&message).await;
    }

    async fn heartbeat(&mut self) {
        // The question also makes an idle loop turn: a loop that does not is stalled.
        if self.inbox.push(ToRole::Report).is_ok() {
            self.waker.wake();
        }
        if self.connection.is_none() {
            return;
        }
        let message = SdsToMdm::Heartbeat {
            loop_turns: self.status.turns(),
            oldest_disk_request_ms: self.status.oldest_disk_request().get() / 1_000_000,
            devices: device_reports(&self.config.devices, &self.stages, &self.statuses.borrow()),
        };
        self.send(&message).await;
    }

    async fn send(&mut self, message: &SdsToMdm) {
        if let Some(connection) = &mut self.connection
            && let Err(reason) = connection.send(message).await
        {
            tracing::warn!(node = self.config.name, reason, "lost the MDM");
            self.connection = None;
        }
    }

    /// Finishes: refuse new requests, close the devices, leave.
    async fn stop(mut self) -> Result<(), NodeError> {
        tracing::info!(node = self.config.name, "stopping");
        self.state.send_replace(NodeState::Stopping);
        self.system.stop();
        self.send(&SdsToMdm::Leaving).await;
        self.tell(ToRole::Stop).await;
        let end = Instant::now() + STOP_TIMEOUT;
        loop {
            match tokio::time::timeout_at(end, self.from_role.recv()).await {
                Ok(Some(FromRole::Stopped)) => break,
                Ok(Some(_)) => {}
                Ok(None) => return Err(NodeError::LoopEnded),
                Err(_) => return Err(NodeError::StopTimeout(STOP_TIMEOUT)),
            }
        }
        self.state.send_replace(NodeState::Stopped);
        tracing::info!(node = self.config.name, "stopped: all devices are closed");
        Ok(())
    }
}

/// What each device's store has done so far, for whoever counts what an I/O costs (`SDS_LOG=info,counters=debug`).
fn log_counters(node: &str, statuses: &[DeviceStatus]) {
    for status in statuses {
        let counted = &status.statistics;
        tracing::debug!(
            target: "counters",
            node,
            slot = status.slot.0,
            data_writes = counted.data_writes,
            log_writes = counted.log_writes,
            metadata_writes = counted.metadata_writes,
            flushes = counted.flushes,
            activations = counted.activations,
            active_extents = counted.active_extents,
            "device counters"
        );
    }
}

/// Whether a device's cache is volatile: the operator knows best, then the kernel; else it is assumed.
pub(crate) fn volatile_cache(configured: Option<bool>, found: Option<bool>) -> bool {
    configured.or(found).unwrap_or(true)
}
