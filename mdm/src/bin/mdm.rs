//! `mdm`: a member of the metadata manager as a daemon.

use clap::Parser;
use mdm::{Mdm, MdmConfig};
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "\
Examples:
  mdm --config /etc/sds/mdm.toml
  mdm --config mdm.toml --control 10.0.0.1:9700 --api 127.0.0.1:9780
  mdm --data-dir ./mdm-data            # everything else by default
  mdm --config mdm.toml --check        # says what is wrong with the file, touches nothing

SIGTERM and SIGINT stop it; everything acknowledged is on its disk before. SDS_LOG sets the log level.
The annotated example of the file is docs/operating/mdm.toml.";

/// The metadata manager: decides where data is, who may write it, and tells data servers and clients.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// Configuration file (TOML). Flags override it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of its metadata.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name, for people.
    #[arg(long)]
    name: Option<String>,
    /// Address for data servers and clients.
    #[arg(long, value_name = "IP:PORT")]
    control: Option<SocketAddr>,
    /// Address of the API.
    #[arg(long, value_name = "IP:PORT")]
    api: Option<SocketAddr>,
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
}

fn configuration(arguments: &Arguments) -> Result<MdmConfig, Box<dyn std::error::Error>> {
    let mut config = match (&arguments.config, &arguments.data_dir) {
        (Some(path), _) => MdmConfig::from_file(path)?,
        (None, Some(directory)) => MdmConfig::new(directory),
        (None, None) => return Err("give --config FILE, or at least --data-dir DIR; see mdm --help".into()),
    };
    if let Some(directory) = &arguments.data_dir {
        config.data_dir.clone_from(directory);
    }
    if let Some(name) = &arguments.name {
        config.name.clone_from(name);
    }
    config.control = arguments.control.unwrap_or(config.control);
    config.api = arguments.api.unwrap_or(config.api);
    config.log_json |= arguments.log_json;
    config.check()?;
    Ok(config)
}

/// Thousands of parties may be connected: as many descriptors as the system allows, not as a shell happens to give.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused, the limit stays what it was; what does not fit waits to be accepted.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    raise_descriptor_limit();
    let result = configuration(&arguments).and_then(|config| {
        let filter = EnvFilter::try_from_env("SDS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        let logs = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        if config.log_json {
            logs.json().init();
        } else {
            logs.init();
        }
        if arguments.check { Ok(()) } else { run(config) }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mdm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: MdmConfig) -> Result<(), Box<dyn std::error::Error>> {
    // Signals are caught before the first thread starts, so that none is lost.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    drop(guard);
    let data_dir = config.data_dir.clone();
    let mdm = Mdm::start(config)?;
    tracing::info!(control = %mdm.control_address(), api = %mdm.api_address(), ?data_dir, "listening");
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
            result = mdm.ended() => return result,
        }
        Ok(())
    })?;
    mdm.stop()?;
    tracing::info!("stopped");
    Ok(())
}
