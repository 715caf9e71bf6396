//! A cluster as a program sees it: connect, list, open, serve, stop.
//!
//! Invariant: a handle does no I/O itself: it hands commands to the client's loop, which may be a thread
//! of its own or one shared with data servers.

use crate::command::{ClientStatus, Command, MdmState, Shared};
use crate::control;
use crate::error::Error;
use crate::identity::Identity;
use crate::role::ClientRole;
use crate::serve::NbdOptions;
use crate::volume::Volume;
use sds_core::limits::VOLUME_REQUESTS_MAX;
use sds_core::unit::Nanos;
use sds_core::view::SessionMode;
use sds_core::volume::interface::ClientOptions;
use sds_ring::{Address, Loop, LoopOptions, PoolOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Buffer memory of a client with a loop of its own.
pub const MEMORY_DEFAULT: usize = 64 << 20;
/// Pause before a data server is tried again, first and longest.
const RECONNECT_PAUSE: (Nanos, Nanos) = (Nanos::from_millis(10), Nanos::from_millis(1000));
/// How long a stop waits for servers and the MDM.
pub const STOP_PATIENCE_DEFAULT: Duration = Duration::from_secs(30);

/// Where the cluster is and who this client is.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// `host:port` of each MDM.
    pub mdm: Vec<String>,
    /// Where the durable identity is kept; without one the client is a new one each time, and a volume
    /// that it had open when it crashed stays busy until the MDM counts it as orphaned.
    pub state_dir: Option<PathBuf>,
    /// Host and process, as `busy` answers name this client.
    pub name: String,
    /// Bytes of buffers (only for a client with a loop of its own).
    pub memory: usize,
}

impl ClusterConfig {
    /// A client without durable identity, named after its host and process.
    #[must_use]
    pub fn new<A: Into<String>>(mdm: impl IntoIterator<Item = A>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            mdm: mdm.into_iter().map(Into::into).collect(),
            state_dir: None,
            name: format!("{host}:{}", std::process::id()),
            memory: MEMORY_DEFAULT,
        }
    }

    /// Keeps the identity in a directory.
    #[must_use]
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(directory.into());
        self
    }

    /// Bytes of buffers.
    #[must_use]
    pub const fn memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }
}

/// How a volume is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    mode: Option<SessionMode>,
    force: bool,
    io_timeout: Option<Duration>,
}

impl OpenOptions {
    /// For this client alone; refused while another has the volume open.
    #[must_use]
    pub const fn new() -> Self {
        Self { mode: None, force: false, io_timeout: None }
    }

    /// For reading only; other clients may write meanwhile.
    #[must_use]
    pub const fn read_only(self) -> Self {
        Self { mode: Some(SessionMode::ReadOnly), ..self }
    }

    /// Together with other clients that open it shared. What is guaranteed is guaranteed for each
    /// 4 KiB block by itself.
    #[must_use]
    pub const fn shared(self) -> Self {
        Self { mode: Some(SessionMode::Shared), ..self }
    }

    /// Takes the volume over from a client that has it open. That client's requests fail from then on.
    #[must_use]
    pub const fn force(self) -> Self {
        Self { force: true, ..self }
    }

    /// Requests that are not served within this time, because no good copy can be reached, fail with [`Error::TimedOut`]; without it
    /// they wait for ever. A write that failed so may have been done or not, or be done yet. Of several handles of one
    /// `Cluster` to a volume the most patient decides.
    #[must_use]
    pub const fn io_timeout(self, limit: Duration) -> Self {
        Self { io_timeout: Some(limit), ..self }
    }

    const fn mode(self) -> SessionMode {
        match self.mode {
            Some(mode) => mode,
            None => SessionMode::Exclusive,
        }
    }
}

/// A volume of the cluster, as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VolumeSummary {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Who else has it open.
    pub busy: Option<String>,
}

/// A connection to a cluster. Clones are the same connection; it is given up when the last of them and
/// of its volumes is gone, or by [`Cluster::stop`].
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.command(Command::Stop { patience: STOP_PATIENCE_DEFAULT });
    }
}

impl Cluster {
    /// Starts a client with a loop (a thread) of its own and waits until the MDM has accepted it. While no
    /// MDM answers, this waits, and says so in the log. Must be called on a tokio runtime, which then
    /// carries the conversation with the MDM; volumes stay usable without it.
    ///
    /// # Errors
    /// When io_uring or memory cannot be had, the identity cannot be read, or the MDM refuses.
    pub async fn connect(config: ClusterConfig) -> Result<Self, Error> {
        let runtime = tokio::runtime::Handle::current();
        let options = LoopOptions { pool: PoolOptions { bytes: config.memory, ..PoolOptions::default() }, ..LoopOptions::default() };
        let start = move || sds_ring::spawn("sds-client", options, move |on| Self::start_on(on, &config, &runtime));
        let (_thread, cluster) = tokio::task::spawn_blocking(start).await.map_err(|_| Error::Stopped)??;
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Puts a client on a loop that is being made, beside other roles: what it says to data servers of the
    /// same loop needs no socket. Does not wait for anything.
    ///
    /// # Errors
    /// When the loop is full or the identity cannot be read.
    pub fn start_on(on: &mut Loop, config: &ClusterConfig, runtime: &tokio::runtime::Handle) -> Result<Self, Error> {
        if config.mdm.is_empty() {
            return Err(Error::Config { reason: "no MDM address is given: name at least one as host:port".to_owned() });
        }
        let identity = match &config.state_dir {
            Some(directory) => Identity::in_directory(directory)?,
            None => Identity::random()?,
        };
        let options = ClientOptions {
            client: identity.client,
            ticket: identity.ticket,
            name: config.name.clone(),
            first_connection: identity.first_connection,
            requests_max: VOLUME_REQUESTS_MAX,
            reconnect_pause: RECONNECT_PAUSE,
        };
        let mut made = None;
        on.add_role(|waker| {
            let shared = Shared::new(waker.clone());
            made = Some(shared.clone());
            let control = control::start(runtime, config.mdm.clone(), Arc::new(move || waker.wake()));
            ClientRole::new(options, identity, control, shared)
        })?;
        match made {
            Some(shared) => Ok(Self { inner: Arc::new(Inner { shared }) }),
            None => Err(Error::Stopped),
        }
    }

    /// Waits until the MDM has accepted this client.
    ///
    /// # Errors
    /// When it refuses, or the client has stopped.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut mdm = self.shared().mdm.subscribe();
        let mut ended = self.shared().ended.subscribe();
        let state = tokio::select! {
            state = mdm.wait_for(|state| *state != MdmState::Waiting) => state.map(|state| state.clone()),
            _ = ended.wait_for(|ended| *ended) => return Err(Error::Stopped),
        };
        match state {
            Ok(MdmState::Up) => Ok(()),
            Ok(MdmState::Refused(reason)) => Err(Error::Refused { reason }),
            Ok(MdmState::Waiting) | Err(_) => Err(Error::Stopped),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Hands a command over and waits for its answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.shared().command(command(reply));
        answer.await.map_err(|_| Error::Stopped)
    }

    /// The volumes there are.
    ///
    /// # Errors
    /// When the client has stopped.
    pub async fn volumes(&self) -> Result<Vec<VolumeSummary>, Error> {
        let lines = self.ask(|reply| Command::List { reply }).await?;
        let summary =
            |line: sds_core::control::VolumeLine| VolumeSummary { name: line.volume.name, size: line.volume.size.get(), busy: line.busy };
        Ok(lines.into_iter().map(summary).collect())
    }

    /// Opens a volume. Opened more than once by one `Cluster` (in the same mode), it is one session, which
    /// ends with the last handle.
    ///
    /// # Errors
    /// [`Error::NoVolume`], [`Error::Busy`], and whatever else keeps it from being opened.
    pub async fn open(&self, name: &str, options: OpenOptions) -> Result<Volume, Error> {
        let (name, mode, force) = (name.to_owned(), options.mode(), options.force);
        let io_timeout = options.io_timeout.map(nanos);
        let shared = self.shared().clone();
        let opened = self.ask(|reply| Command::Open { name: name.clone(), mode, force, io_timeout, shared, reply }).await?;
        Ok(Volume::new(self.clone(), name, opened?.take()))
    }

    /// Serves volumes over NBD from this client's loop; the addresses with their real ports.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn serve_nbd(&self, options: NbdOptions) -> Result<Vec<Address>, Error> {
        Ok(self.ask(|reply| Command::ServeNbd { options, reply }).await??)
    }

    /// How it is doing.
    ///
    /// # Errors
    /// When the client has stopped.
    pub async fn status(&self) -> Result<ClientStatus, Error> {
        self.ask(|reply| Command::Status { reply }).await
    }

    /// Finishes what is in flight, closes NBD connections and sessions, and ends the client. Gives up on
    /// servers that do not answer after `patience`.
    pub async fn stop(&self, patience: Duration) {
        let mut ended = self.shared().ended.subscribe();
        self.shared().command(Command::Stop { patience });
        // It can only fail when the sender is gone, and then the client has ended.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

/// A span as the machines count it.
pub(crate) fn nanos(span: Duration) -> Nanos {
    Nanos::new(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}
