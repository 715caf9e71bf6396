//! `sdsctl`: what operators type.
//!
//! It asks the MDM's API and prints what it answers: tables for people, JSON for programs. It decides
//! nothing, and every error says what to do. Exit codes: 0 done, 1 refused or failed, 2 wrong usage,
//! 3 the API cannot be reached.

mod api;
mod cli;
mod pool;
mod shard;
mod status;
mod table;
mod up;
mod volume;

use api::{Api, ApiError};
use clap::{CommandFactory, Parser};
use cli::{Cli, Command, Output};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Up(args) = &cli.command {
        return run_cluster(args);
    }
    let api = Api::new(&cli.api);
    let done = match &cli.command {
        Command::Volume { command } => volume::run(&api, cli.output, command),
        Command::Pool { command } => pool::run(&api, cli.output, command),
        Command::Shard { command } => shard::run(&api, cli.output, command),
        Command::Audit => shard::audit(&api, cli.output),
        Command::Status => status::run(&api, cli.output),
        Command::Up(_) => unreachable!("handled above"),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "sdsctl", &mut script);
            Ok(String::from_utf8_lossy(&script).into_owned())
        }
    };
    match done {
        Ok(text) => print(&text),
        Err(error) => {
            match cli.output {
                Output::Table => eprintln!("sdsctl: {error}"),
                Output::Json => eprintln!("{}", error.as_json()),
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs an embedded cluster in this process until a signal ends it.
fn run_cluster(args: &up::UpArgs) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SDS_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    match up::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sdsctl: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{newline}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sdsctl: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was answered, as a program reads it.
fn json(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

/// An answer as its type, for a table.
fn typed<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(value).map_err(|error| ApiError::Answer { reason: error.to_string() })
}
