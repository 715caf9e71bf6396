//! `sdc`: the client as a daemon.
//!
//! Must not know: anything but flags, signals and exit codes; the rest is [`sds_client`].

use clap::{Args, Parser, Subcommand};
use sds_client::{Cluster, ClusterConfig, Error, Exports, NBD_CONNECTIONS_DEFAULT, NbdOptions, OpenOptions, SessionMode, Volume};
use sds_core::control::OpenError;
use sds_ring::Address;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Between two tries to open a volume whose servers are not up yet.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Client of the block store.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Log as JSON lines. Logs go to standard error; the environment variable SDS_LOG sets the level.
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves volumes over NBD, on TCP or a unix socket.
    Nbd(NbdArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sdc nbd --mdm 127.0.0.1:9700                                  every volume nobody else has open, on 127.0.0.1:10809
  sdc nbd --mdm a:9700,b:9700,c:9700 --listen 0.0.0.0:10809 db  volume `db`, held open while this runs
  sdc nbd --mdm 127.0.0.1:9700 --listen unix:/run/sdc.sock      on a unix socket
  nbdinfo --list nbd://127.0.0.1                                what is offered
  qemu-img info nbd://127.0.0.1/db                              use it

SIGTERM and SIGINT finish what is in flight, flush, and give the volumes back; a second one ends at once.")]
struct NbdArguments {
    /// Where the MDMs are; names or IP addresses.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    mdm: Vec<String>,
    /// Where to listen; may be given several times.
    #[arg(long, value_name = "IP:PORT|unix:PATH", value_delimiter = ',', default_value = "127.0.0.1:10809")]
    listen: Vec<Address>,
    /// Offer the volumes for reading only.
    #[arg(long)]
    read_only: bool,
    /// Open the volumes together with other clients that open them shared; what is guaranteed is guaranteed for each 4 KiB block
    /// by itself. For cluster file systems and the like: an ordinary file system on a volume that two hosts write is destroyed.
    #[arg(long, conflicts_with = "read_only")]
    shared: bool,
    /// Take volumes over that others have open; their requests fail from then on.
    #[arg(long)]
    force: bool,
    /// Fail requests with EIO that no good copy has served for so many seconds. Without it they wait until one is back, as on a disk
    /// that is mounted hard: file systems turn read-only at an error, so set it only where an error is better than waiting.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    io_timeout: Option<u64>,
    /// Keep this client's identity here, so that after a crash it takes its own volumes back at once.
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
    /// Memory for payloads in flight (suffixes K, M, G).
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "64M")]
    memory: usize,
    /// Most NBD connections at once.
    #[arg(long, value_name = "NUMBER", default_value_t = NBD_CONNECTIONS_DEFAULT, value_parser = connections)]
    connections: usize,
    /// How long a stop waits for servers that do not answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    stop_timeout: u64,
    /// Volumes to offer; each is opened now and held. Without any, every volume that nobody else has
    /// open (every one, with --shared or --read-only) is offered, and opened while it is used.
    #[arg(value_name = "VOLUME")]
    volumes: Vec<String>,
}

fn size(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        Some(_) | None => (text, 0),
    };
    let number: usize = digits.parse().map_err(|_| format!("{text:?} is no size: write bytes, or a number with K, M or G"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too much"))
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=65_534) => Ok(number),
        Ok(_) | Err(_) => Err(format!("{text:?} is not a number from 1 to 65534")),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log(arguments.log_json);
    let Command::Nbd(nbd) = arguments.command;
    // One thread is plenty: it only talks to the MDM and waits for signals.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("sdc: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve(nbd)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sdc: {error}");
            ExitCode::FAILURE
        }
    }
}

fn log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SDS_LOG").unwrap_or_else(|_| "info".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    if json {
        builder.json().init();
    } else {
        builder.with_target(false).init();
    }
}

/// The two signals that stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

async fn serve(arguments: NbdArguments) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(|error| Error::Config { reason: format!("cannot wait for signals: {error}") })?;
    let mut config = ClusterConfig::new(arguments.mdm.clone()).memory(arguments.memory);
    config.state_dir.clone_from(&arguments.state_dir);
    tracing::info!(mdm = arguments.mdm.join(","), "connecting");
    let cluster = tokio::select! {
        cluster = Cluster::connect(config) => cluster?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before an MDM answered");
            return Ok(());
        }
    };
    let served = serve_until_signal(&cluster, &arguments, &mut signals).await;
    // Also after a failure: sessions that were opened are given back, after the last connection.
    let patience = Duration::from_secs(arguments.stop_timeout);
    tokio::select! {
        () = cluster.stop(patience) => {}
        name = signals.next() => tracing::warn!(signal = name, "ending at once"),
    }
    let bound = served?;
    for address in &bound {
        if let Address::Unix(path) = address {
            // Gone already if somebody else cleaned up.
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(())
}

/// Serves until a signal comes; where it listened.
async fn serve_until_signal(cluster: &Cluster, arguments: &NbdArguments, signals: &mut Signals) -> Result<Vec<Address>, Error> {
    let started = async {
        let volumes = hold(cluster, arguments).await?;
        let bound = cluster.serve_nbd(offer(arguments)).await?;
        Ok::<_, Error>((volumes, bound))
    };
    let (_volumes, bound) = tokio::select! {
        started = started => started?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before anything was served");
            return Ok(Vec::new());
        }
    };
    for address in &bound {
        announce(address, &arguments.volumes);
    }
    let name = signals.next().await;
    tracing::info!(signal = name, "stopping: finishing what is in flight");
    Ok(bound)
}

/// Opens the volumes that are named, so that nobody else does.
async fn hold(cluster: &Cluster, arguments: &NbdArguments) -> Result<Vec<Volume>, Error> {
    let mut options = match mode(arguments) {
        SessionMode::Exclusive => OpenOptions::new(),
        SessionMode::Shared => OpenOptions::new().shared(),
        SessionMode::ReadOnly => OpenOptions::new().read_only(),
    };
    if arguments.force {
        options = options.force();
    }
    if let Some(limit) = io_timeout(arguments) {
        options = options.io_timeout(limit);
    }
    let mut volumes = Vec::with_capacity(arguments.volumes.len());
    for name in &arguments.volumes {
        volumes.push(open_patiently(cluster, name, options).await?);
    }
    Ok(volumes)
}

/// Opens a volume, waiting for servers that are not up yet; whatever will not pass by itself is an error.
async fn open_patiently(cluster: &Cluster, name: &str, options: OpenOptions) -> Result<Volume, Error> {
    loop {
        match cluster.open(name, options).await {
            Err(Error::CannotOpen(reason @ (OpenError::NotConfirmed { .. } | OpenError::NotRecorded { .. }))) => {
                tracing::warn!(volume = name, %reason, "trying again");
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

const fn mode(arguments: &NbdArguments) -> SessionMode {
    match (arguments.read_only, arguments.shared) {
        (true, _) => SessionMode::ReadOnly,
        (false, true) => SessionMode::Shared,
        (false, false) => SessionMode::Exclusive,
    }
}

fn io_timeout(arguments: &NbdArguments) -> Option<Duration> {
    arguments.io_timeout.map(Duration::from_secs)
}

fn offer(arguments: &NbdArguments) -> NbdOptions {
    let exports = if arguments.volumes.is_empty() { Exports::All } else { Exports::Named(arguments.volumes.clone()) };
    NbdOptions {
        listen: arguments.listen.clone(),
        exports,
        mode: mode(arguments),
        force: arguments.force,
        io_timeout: io_timeout(arguments),
        connections_max: arguments.connections,
    }
}

/// Says on standard output that the address can be used.
fn announce(address: &Address, volumes: &[String]) {
    let uri = |volume: &str| match address {
        Address::Tcp(tcp) => format!("nbd://{tcp}/{volume}"),
        Address::Unix(path) => format!("nbd+unix:///{volume}?socket={}", path.display()),
    };
    if volumes.is_empty() {
        println!("ready {}", uri(""));
    }
    for volume in volumes {
        println!("ready {}", uri(volume));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_size_or_none(text in "[0-9+-]{0,21}[KMGkmg]?\\PC{0,3}") {
            if let Ok(bytes) = size(&text) {
                proptest::prop_assert_eq!(size(&bytes.to_string()), Ok(bytes));
            }
            proptest::prop_assert!(connections(&text).is_ok_and(|number| (1..=65_534).contains(&number)) || connections(&text).is_err());
        }
    }

    #[test]
    fn sizes_have_suffixes() {
        assert_eq!((size("4096"), size("64M"), size("1g")), (Ok(4096), Ok(64 << 20), Ok(1 << 30)));
        assert!(size("").is_err() && size("x").is_err() && size("M").is_err() && size("99999999999G").is_err());
    }
}
