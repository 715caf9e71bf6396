//! `sdsctl up`: a whole cluster in one process.
//!
//! The metadata manager runs on threads of its own; all data servers and the client share one data
//! loop, so a request goes from the NBD socket to the disk and back without another thread, socket or
//! copy. Each part is the same library that the daemons are made of; nothing is decided here.
//!
//! Invariant: what is started is stopped, client first, then data servers, then the metadata manager,
//! also when something in the middle cannot be started.

mod args;
mod volumes;

pub(crate) use args::UpArgs;

use sds_client::{Cluster, ClusterConfig, Exports, NBD_CONNECTIONS_DEFAULT, NbdOptions, SessionMode};
use sds_ring::{Address, LoopOptions, LoopThread, PoolOptions};
use sds_server::{DeviceConfig, Node, NodeConfig, NodeShell, Prepared, Size};
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

/// Buffers and descriptor pages of one embedded server; its payload buffers are the loop's.
const SDS_MEMORY: Size = Size::new(64 << 20);
/// How long a stop waits for requests in flight.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Why a cluster could not be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpError {
    /// Its directory.
    #[error("cannot make directory {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Threads or signals.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// The metadata manager.
    #[error("metadata manager: {0}")]
    Mdm(#[from] mdm::MdmError),
    /// A data server.
    #[error("data server: {0}")]
    Node(#[from] sds_server::NodeError),
    /// The client.
    #[error("client: {0}")]
    Client(#[from] sds_client::Error),
    /// The data loop.
    #[error("data loop: {0}")]
    Ring(#[from] sds_ring::RingError),
    /// A volume.
    #[error(transparent)]
    Volume(#[from] volumes::VolumeError),
}

/// Everything that runs.
#[derive(Debug)]
struct Up {
    mdm: mdm::Mdm,
    data_loop: LoopThread,
    nodes: Vec<Node>,
    cluster: Cluster,
}

/// Runs a cluster until SIGINT or SIGTERM.
///
/// # Errors
/// What could not be started, or did not stop in order.
pub(crate) fn run(args: &UpArgs) -> Result<(), UpError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("sds-control").enable_all().build()?;
    let mut signals = Signals::catch(runtime.handle())?;
    let up = start(args, &runtime)?;
    let serving = runtime.block_on(async {
        tokio::select! {
            result = serve(args, &up) => result.map(|()| true),
            () = signals.next() => Ok(false),
        }
    });
    if let Ok(true) = serving {
        runtime.block_on(signals.next());
    }
    eprintln!("stopping");
    let stopped = up.stop(&runtime);
    serving?;
    stopped?;
    eprintln!("stopped; the data is in {}", args.dir.display());
    Ok(())
}

fn start(args: &UpArgs, runtime: &Runtime) -> Result<Up, UpError> {
    std::fs::create_dir_all(&args.dir).map_err(|source| UpError::Directory { path: args.dir.clone(), source })?;
    let mut config = mdm::MdmConfig::new(args.dir.join("mdm"));
    config.control = args.control;
    config.api = args.rest;
    let mdm = mdm::Mdm::start(config)?;
    runtime.block_on(volumes::make_pool(args, &mdm))?;
    let control = mdm.control_address().to_string();
    let prepared = (1..=args.sds).map(|number| Prepared::new(node_config(args, number, &control))).collect::<Result<Vec<_>, _>>()?;
    let client = ClusterConfig::new([control]).state_dir(args.dir.join("client"));
    let (data_loop, (shells, cluster)) = spawn_loop(args, prepared, client, runtime.handle().clone())?;
    let nodes = shells.into_iter().map(|shell| shell.start_on(runtime.handle())).collect::<Result<Vec<_>, _>>()?;
    Ok(Up { mdm, data_loop, nodes, cluster })
}

fn node_config(args: &UpArgs, number: u16, control: &str) -> NodeConfig {
    let directory = args.dir.join(format!("sds{number}"));
    let device = |index: u16| {
        let mut device = DeviceConfig::file(directory.join(format!("device{index}")), args.device_size);
        volumes::pool(args).clone_into(&mut device.pool);
        device
    };
    let mut config = NodeConfig::new(directory.clone());
    config.name = format!("sds{number}");
    config.listen = Address::Tcp(([127, 0, 0, 1], 0).into());
    config.mdm = vec![control.to_owned()];
    config.memory = SDS_MEMORY;
    config.devices = (1..=args.devices_per_sds).map(device).collect();
    config
}

fn spawn_loop(
    args: &UpArgs,
    prepared: Vec<Prepared>,
    client: ClusterConfig,
    runtime: Handle,
) -> Result<(LoopThread, (Vec<NodeShell>, Cluster)), UpError> {
    let pool = PoolOptions { bytes: usize::try_from(args.memory.bytes()).unwrap_or(usize::MAX), ..PoolOptions::default() };
    let options = LoopOptions { pool, ..LoopOptions::default() };
    sds_ring::spawn("sds-loop", options, move |on| {
        let mut shells = Vec::with_capacity(prepared.len());
        for server in prepared {
            on.add_role(|waker| {
                let (role, shell) = server.attach(waker);
                shells.push(shell);
                role
            })?;
        }
        let cluster = Cluster::start_on(on, &client, &runtime)?;
        Ok((shells, cluster))
    })
}

/// Waits for the servers, makes the volumes, opens the NBD port, and says so.
async fn serve(args: &UpArgs, up: &Up) -> Result<(), UpError> {
    let api = up.mdm.api_address();
    eprintln!("starting {} data servers in {}; new devices are written once", args.sds, args.dir.display());
    volumes::make(args, &up.mdm).await?;
    up.cluster.ready().await?;
    let mut listen = vec![Address::Tcp(args.nbd)];
    listen.extend(args.nbd_socket.clone().map(Address::Unix));
    let options = NbdOptions {
        listen,
        exports: Exports::All,
        mode: SessionMode::Exclusive,
        force: false,
        io_timeout: None,
        connections_max: NBD_CONNECTIONS_DEFAULT,
    };
    let addresses = up.cluster.serve_nbd(options).await?;
    let first = args.volumes.first().map_or("demo", |volume| volume.name.as_str());
    for volume in &args.volumes {
        for address in &addresses {
            println!("ready {}", uri(address, &volume.name));
        }
    }
    println!("control {}", up.mdm.control_address());
    println!("api http://{api}/api/v1/status   (sdsctl --api {api} status)");
    if let Some(address) = addresses.first() {
        println!(
            "try  fio --name=try --ioengine=nbd --uri={} --rw=randwrite --bs=4k --iodepth=32 --size=256m --verify=crc32c",
            uri(address, first)
        );
    }
    println!("Ctrl-C stops; the data stays in {}", args.dir.display());
    Ok(())
}

/// An NBD URI, as the URI specification of the NBD project writes it.
fn uri(address: &Address, volume: &str) -> String {
    match address {
        Address::Tcp(address) => format!("nbd://{address}/{volume}"),
        Address::Unix(path) => format!("nbd+unix:///{volume}?socket={}", path.display()),
    }
}

impl Up {
    fn stop(self, runtime: &Runtime) -> Result<(), UpError> {
        runtime.block_on(self.cluster.stop(STOP_PATIENCE));
        for node in &self.nodes {
            node.request_stop();
        }
        let nodes = self.nodes.into_iter().map(Node::wait).fold(Ok(()), Result::and);
        if nodes.is_ok() {
            self.data_loop.join()?;
        }
        self.mdm.stop()?;
        Ok(nodes?)
    }
}

/// SIGINT and SIGTERM, caught before the first thread starts.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch(runtime: &Handle) -> Result<Self, std::io::Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let _guard = runtime.enter();
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
