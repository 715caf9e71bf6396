//! A running member: started, addressed, stopped.

use crate::config::{ConfigError, MdmConfig};
use crate::log::local::{LocalLog, OpenError};
use crate::member::{Api, Member};
use crate::{control, rest};
use sds_core::cluster::FormatError;
use sds_core::cluster::leader::LeaderOptions;
use sds_core::cluster::report::MdmStatus;
use sds_core::id::SystemId;
use sds_core::unit::Nanos;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

/// How long open API requests may take when the member stops.
const API_STOP_WAIT: Duration = Duration::from_secs(2);

/// Why a member did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum MdmError {
    /// The configuration says something that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// What the log keeps cannot be used.
    #[error("the metadata in the data directory cannot be used: {0}")]
    Metadata(#[from] FormatError),
    /// An address cannot be used.
    #[error("cannot listen on {address} (`{key}`): {error}; is another MDM running there?")]
    Listen {
        /// Which key of the configuration.
        key: &'static str,
        /// Which address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// A thread or its runtime could not be started, or no random numbers could be had.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// The log failed: the process must not go on.
    #[error("stopped: {0}")]
    Failed(String),
}

/// A running member of the MDM, on threads of its own. Dropping it stops it.
#[derive(Debug)]
pub struct Mdm {
    control: SocketAddr,
    api_address: SocketAddr,
    api: Api,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<Option<Result<(), String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Mdm {
    /// Starts a member: recovers its metadata, listens. Blocks until it can be reached; may be called
    /// from anywhere but an asynchronous task.
    ///
    /// # Errors
    /// When the configuration, the data directory or an address cannot be used.
    pub fn start(config: MdmConfig) -> Result<Self, MdmError> {
        config.check()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MdmError::Start)?;
        let control = runtime.block_on(listen("control", config.control))?;
        let api_listener = runtime.block_on(listen("api", config.api))?;
        let address = |listener: &TcpListener| listener.local_addr().map_err(MdmError::Start);
        let (control_address, api_address) = (address(&control)?, address(&api_listener)?);
        let (log, recovered) = LocalLog::open(&config.data_dir)?;
        let mut options = LeaderOptions::new(draw_system()?);
        options.lone_start_wait = (config.lone_start_wait_seconds > 0).then(|| Nanos::from_millis(config.lone_start_wait_seconds * 1_000));
        options.member = MdmStatus {
            name: config.name,
            role: "primary".to_owned(),
            control_address: control_address.to_string(),
            api_address: api_address.to_string(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (member, inputs, api) = Member::new(log, &recovered, options, config.snapshot_entries)?;
        let (stop, stop_receiver) = watch::channel(false);
        let (ended_sender, ended) = watch::channel(None);
        let (started, has_started) = oneshot::channel();
        let (routes, member_stop, mut api_stop) = (rest::router(api.clone()), stop_receiver.clone(), stop_receiver);
        let run = move || {
            runtime.block_on(async move {
                let control = tokio::spawn(control::serve(control, inputs));
                let graceful = async move {
                    let _ = api_stop.wait_for(|stop| *stop).await;
                };
                let api =
                    tokio::spawn(async { axum::serve(rest::Bounded::new(api_listener), routes).with_graceful_shutdown(graceful).await });
                let _ = started.send(());
                let result = member.run(member_stop).await;
                control.abort();
                let aborting = api.abort_handle();
                if tokio::time::timeout(API_STOP_WAIT, api).await.is_err() {
                    aborting.abort();
                }
                if let Err(reason) = &result {
                    tracing::error!(reason, "the MDM stops");
                }
                let _ = ended_sender.send(Some(result));
            });
        };
        let thread = std::thread::Builder::new().name("mdm".to_owned()).spawn(run).map_err(MdmError::Start)?;
        let _ = has_started.blocking_recv();
        Ok(Self { control: control_address, api_address, api, stop, ended, thread: Some(thread) })
    }

    /// Where data servers and clients reach it.
    #[must_use]
    pub const fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// Where operators reach it.
    #[must_use]
    pub const fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// What operators can ask, without HTTP.
    #[must_use]
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// Why it ended, if not because it was told to stop.
    pub async fn ended(&self) -> Result<(), MdmError> {
        let mut ended = self.ended.clone();
        let result = match ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Ok(())),
            Err(_) => Err("its thread ended".to_owned()),
        };
        result.map_err(MdmError::Failed)
    }

    /// Stops it and waits for its end. What was acknowledged is durable.
    ///
    /// # Errors
    /// When it had ended by itself before.
    pub fn stop(mut self) -> Result<(), MdmError> {
        self.end();
        let result = self.ended.borrow().clone();
        result.unwrap_or_else(|| Err("its thread ended".to_owned())).map_err(MdmError::Failed)
    }

    fn end(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Mdm {
    fn drop(&mut self) {
        self.end();
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, MdmError> {
    TcpListener::bind(address).await.map_err(|error| MdmError::Listen { key, address, error })
}

/// A name for the system, should it have none yet.
fn draw_system() -> Result<SystemId, MdmError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| MdmError::Start(std::io::Error::other(error.to_string())))?;
    // A random UUID as RFC 9562 lays it out (version 4).
    let raw = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    Ok(SystemId::new(raw))
}
