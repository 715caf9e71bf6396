//! `sds`: a data server as a daemon.

use clap::Parser;
use sds_server::{Node, NodeConfig, Size};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  sds --config /etc/sds/sds.toml
  sds --config sds.toml --listen 10.0.0.5:9710 --mdm 10.0.0.1:9700 --mdm 10.0.0.2:9700
  sds --state-dir ./sds1 --device ./sds1/disk0=16GiB --mdm 127.0.0.1:9700
  sds --config sds.toml --check        # says what is wrong with the file, touches nothing

SIGTERM and SIGINT stop it in order: requests are finished, devices flushed and closed.
The annotated example of the file is docs/operating/sds.toml.";

/// A data server: gives its devices to the pool and serves clients.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file (TOML). Flags override it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
    /// Data address, IP:PORT.
    #[arg(long)]
    listen: Option<sds_ring::Address>,
    /// Control address of an MDM member, HOST:PORT; may be repeated.
    #[arg(long)]
    mdm: Vec<String>,
    /// Directory of its identity.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Fault set.
    #[arg(long)]
    fault_set: Option<String>,
    /// Memory for buffers and metadata.
    #[arg(long)]
    memory: Option<Size>,
    /// A device, PATH or PATH=SIZE for a file to be created; may be repeated, adds to those of the file.
    #[arg(long = "device")]
    devices: Vec<String>,
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
}

fn configuration(arguments: &Arguments) -> Result<NodeConfig, Box<dyn std::error::Error>> {
    let mut config = match (&arguments.config, &arguments.state_dir) {
        (Some(path), _) => NodeConfig::from_file(path)?,
        (None, Some(directory)) => NodeConfig::new(directory.clone()),
        (None, None) => return Err("give --config FILE, or at least --state-dir DIRECTORY".into()),
    };
    if let Some(directory) = &arguments.state_dir {
        config.state_dir.clone_from(directory);
    }
    if let Some(name) = &arguments.name {
        config.name.clone_from(name);
    }
    if let Some(listen) = &arguments.listen {
        config.listen = listen.clone();
    }
    if !arguments.mdm.is_empty() {
        config.mdm.clone_from(&arguments.mdm);
    }
    if arguments.fault_set.is_some() {
        config.fault_set.clone_from(&arguments.fault_set);
    }
    if let Some(memory) = arguments.memory {
        config.memory = memory;
    }
    for device in &arguments.devices {
        let (path, size) = match device.split_once('=') {
            Some((path, size)) => (path, Some(size.parse::<Size>()?)),
            None => (device.as_str(), None),
        };
        let mut made = sds_server::DeviceConfig::file(path, Size::default());
        made.size = size;
        config.devices.push(made);
    }
    config.check()?;
    Ok(config)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("SDS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if arguments.log_json {
        logs.json().init();
    } else {
        logs.init();
    }
    match configuration(&arguments).and_then(|config| if arguments.check { Ok(()) } else { run(config) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sds: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: NodeConfig) -> Result<(), Box<dyn std::error::Error>> {
    // Signals are caught before the first thread starts, so none is lost while devices are being opened.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _guard = runtime.enter();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let node = Node::start(config)?;
    tracing::info!(address = %node.address(), "listening");
    notify("READY=1");
    let mut state = node.state();
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
            // The sender is gone: the server has ended by itself.
            () = async { while state.changed().await.is_ok() {} } => {}
        }
    });
    notify("STOPPING=1");
    node.stop()?;
    Ok(())
}

/// Tells systemd (`Type=notify`), if it asks to be told; see sd_notify(3).
fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        Some(_) | None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd could not be told");
    }
}
