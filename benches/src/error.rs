//! What can go wrong while measuring; every text says what was attempted.

use std::path::PathBuf;

/// Why a comparison stopped.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or directory.
    #[error("cannot {attempt} {path}: {cause}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {cause}; is it installed (`ci/install`) or built (`cargo build --release`)?")]
    Start {
        /// Which.
        program: String,
        /// Why not.
        cause: std::io::Error,
    },
    /// A program ended or kept silent when it should have become ready.
    #[error("{program} did not become ready within {seconds} s; its output is in {log}")]
    NotReady {
        /// Which.
        program: String,
        /// How long it was given.
        seconds: u64,
        /// Its output.
        log: PathBuf,
    },
    /// A program under test ended in the middle.
    #[error("{program} ended while it was measured; its output is in {log}")]
    Ended {
        /// Which.
        program: String,
        /// Its output.
        log: PathBuf,
    },
    /// A helper program failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// Which, with its arguments.
        program: String,
        /// What it printed.
        output: String,
    },
    /// Output was not what it should be.
    #[error("cannot make sense of {what}: {detail}")]
    Parse {
        /// Of what.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl BenchError {
    /// For `map_err` on file operations.
    pub fn file(attempt: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |cause| Self::File { attempt, path, cause }
    }

    /// For anything that was read and not understood.
    pub fn parse(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Parse { what: what.into(), detail: detail.into() }
    }
}
