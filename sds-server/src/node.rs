//! A data server as a whole: made, started, watched, stopped.
//!
//! Invariant: when `stop` has returned in order, every device has been flushed and closed.

use crate::config::{ConfigError, NodeConfig};
use crate::control::Control;
use crate::identity::{self, Identity, IdentityError};
use crate::report::{FROM_ROLE_MAX, FromRole, TO_ROLE_MAX, ToRole};
use crate::role::{Listening, Parts, SdsRole};
use crossbeam::queue::ArrayQueue;
use sds_core::replica::DeviceStatus;
use sds_core::replica::interface::ReplicaOptions;
use sds_core::unit::Nanos;
use sds_ring::{Address, LoopOptions, LoopThread, PoolOptions, RingError, Waker};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;
use tokio::sync::watch;

/// How long a data loop may take to say where it listens.
const LISTEN_WAIT: Duration = Duration::from_secs(60);
/// How long a request may wait for a newer map before it is answered `NotReady`.
const MAP_WAIT: Nanos = Nanos::from_millis(1_000);

/// Why a server does not run (any more).
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its state directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its loop.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A thread or runtime cannot be made.
    #[error("cannot start the control thread: {0}")]
    Control(std::io::Error),
    /// The data loop has ended by itself.
    #[error("the data loop has ended unexpectedly")]
    LoopEnded,
    /// Devices did not close in time.
    #[error("devices were not closed within {0:?}; they are recovered at the next start")]
    StopTimeout(Duration),
}

/// What a server is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Its devices are being looked at.
    Starting,
    /// It waits for the MDM; why, for people.
    Waiting {
        /// What the last try said.
        reason: String,
    },
    /// The MDM knows it.
    Registered,
    /// It finishes what it has accepted.
    Stopping,
    /// It has ended.
    Stopped,
}

/// A checked configuration and an identity: everything short of a loop.
#[derive(Debug)]
pub struct Prepared {
    config: NodeConfig,
    identity: Identity,
}

impl Prepared {
    /// Checks the configuration and takes the identity.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn new(config: NodeConfig) -> Result<Self, NodeError> {
        config.check()?;
        let identity = Identity::open(&config.state_dir)?;
        Ok(Self { config, identity })
    }

    /// What the loop it will live on needs for it.
    #[must_use]
    pub fn loop_options(&self) -> LoopOptions {
        LoopOptions {
            pool: PoolOptions { bytes: self.config.pool_bytes(), ..PoolOptions::default() },
            streams_max: self.config.connections_max,
            ..LoopOptions::default()
        }
    }

    /// The role, to put on a loop, and the rest, to start once the loop runs.
    #[must_use]
    pub fn attach(self, waker: Waker) -> (SdsRole, NodeShell) {
        let Self { config, identity } = self;
        let inbox = Arc::new(ArrayQueue::new(TO_ROLE_MAX));
        let (outbox, from_role) = tokio::sync::mpsc::channel(FROM_ROLE_MAX);
        let (listening, listening_receiver) = mpsc::sync_channel(1);
        let options = ReplicaOptions {
            boot: identity::boot(),
            links_max: config.connections_max,
            requests_max: config.requests_max,
            map_wait: MAP_WAIT,
            disk_hang: Nanos::from_millis(config.hung_disk_seconds * 1000),
            trust_refused: config.trust_refused,
        };
        let role = SdsRole::new(Parts {
            name: config.name.clone(),
            options,
            listen: config.listen.clone(),
            advertise: config.advertise.clone(),
            inbox: inbox.clone(),
            outbox,
            listening,
        });
        (role, NodeShell { config, identity, inbox, waker, from_role, listening: listening_receiver })
    }
}

/// The part of a server beside its loop: devices on their way in, and the control connection.
#[derive(Debug)]
pub struct NodeShell {
    pub(crate) config: NodeConfig,
    pub(crate) identity: Identity,
    pub(crate) inbox: Arc<ArrayQueue<ToRole>>,
    pub(crate) waker: Waker,
    pub(crate) from_role: tokio::sync::mpsc::Receiver<FromRole>,
    listening: Receiver<Listening>,
}

impl NodeShell {
    /// Starts it on a runtime of the caller's, which must have time and I/O enabled. The loop must run by now.
    ///
    /// # Errors
    /// When the data port cannot be had.
    pub fn start_on(self, runtime: &tokio::runtime::Handle) -> Result<Node, NodeError> {
        let address = self.wait_for_port()?;
        let (control, node) = Node::with(self, address, None);
        runtime.spawn(control);
        Ok(node)
    }

    fn wait_for_port(&self) -> Result<Address, NodeError> {
        match self.listening.recv_timeout(LISTEN_WAIT) {
            Ok(listening) => Ok(listening?),
            Err(_) => Err(NodeError::LoopEnded),
        }
    }
}

/// A running server. Dropping it asks it to stop.
#[derive(Debug)]
pub struct Node {
    address: Address,
    stop: watch::Sender<bool>,
    state: watch::Receiver<NodeState>,
    devices: watch::Receiver<Vec<DeviceStatus>>,
    ended: Receiver<Result<(), NodeError>>,
    data_loop: Option<LoopThread>,
}

impl Node {
    /// Starts a server on threads of its own: one data loop, one for control. Returns once its port is
    /// open; devices and MDM may still be waited for ([`Self::state`]).
    ///
    /// # Errors
    /// What is wrong with configuration, state directory, io_uring or port.
    pub fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let prepared = Prepared::new(config)?;
        let options = prepared.loop_options();
        let (data_loop, shell) = sds_ring::spawn("sds-loop", options, move |on| {
            let mut shell = None;
            on.add_role(|waker| {
                let (role, rest) = prepared.attach(waker);
                shell = Some(rest);
                role
            })?;
            tracing::debug!(features = ?on.features(), "io_uring");
            shell.ok_or(NodeError::LoopEnded)
        })?;
        let address = match shell.wait_for_port() {
            Ok(address) => address,
            Err(error) => {
                data_loop.join()?;
                return Err(error);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NodeError::Control)?;
        let (control, node) = Self::with(shell, address, Some(data_loop));
        std::thread::Builder::new().name("sds-control".to_owned()).spawn(move || runtime.block_on(control)).map_err(NodeError::Control)?;
        Ok(node)
    }

    fn with(shell: NodeShell, address: Address, data_loop: Option<LoopThread>) -> (impl Future<Output = ()> + Send, Self) {
        let (stop, stop_receiver) = watch::channel(false);
        let (state_sender, state) = watch::channel(NodeState::Starting);
        let (devices_sender, devices) = watch::channel(Vec::new());
        let (ended_sender, ended) = mpsc::sync_channel(1);
        let control = Control::new(shell, &address, state_sender, devices_sender);
        let body = async move {
            let result = control.run(stop_receiver).await;
            // Nobody asks any more if the handle was dropped.
            let _ = ended_sender.send(result);
        };
        (body, Self { address, stop, state, devices, ended, data_loop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What it is doing; changes can be waited for.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<NodeState> {
        self.state.clone()
    }

    /// Its devices as the data loop last told, twice a second.
    #[must_use]
    pub fn devices(&self) -> watch::Receiver<Vec<DeviceStatus>> {
        self.devices.clone()
    }

    /// Asks it to stop; does not wait.
    pub fn request_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Stops it in order: refuses new requests, finishes the rest, closes its devices. Waits.
    ///
    /// # Errors
    /// What kept it from ending in order.
    pub fn stop(self) -> Result<(), NodeError> {
        self.request_stop();
        self.wait()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What ended it, if not a stop.
    pub fn wait(self) -> Result<(), NodeError> {
        let result = self.ended.recv().unwrap_or(Err(NodeError::LoopEnded));
        match self.data_loop {
            // A loop that does not end after a failed stop is not waited for: the process is about to end.
            Some(data_loop) if result.is_ok() || data_loop.is_finished() => data_loop.join()?,
            Some(_) | None => {}
        }
        result
    }
}
