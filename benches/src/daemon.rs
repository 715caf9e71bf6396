//! A process under test: started with its output in a log, watched for its ready line, stopped cleanly.
//!
//! Invariant: a process started here has ended when its value is dropped.

use crate::error::BenchError;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a process may take to stop when asked.
const STOP_SECONDS: u64 = 20;

/// A running process.
#[derive(Debug)]
pub struct Daemon {
    program: String,
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; its standard output and error go to `log`.
    ///
    /// # Errors
    /// When the program or the log cannot be opened.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self, BenchError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut file = File::create(log).map_err(BenchError::file("create", log))?;
        let errors = file.try_clone().map_err(BenchError::file("open", log))?;
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = spawned.map_err(|cause| BenchError::Start { program: program.clone(), cause })?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            // Reads to the end whatever happens, so that the process never blocks on a full pipe.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _logged = writeln!(file, "{line}");
                    let _received = sender.send(line);
                }
            });
        }
        Ok(Self { program, child, lines, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of its standard output that starts with `prefix`.
    ///
    /// # Errors
    /// When it ends or `seconds` pass first.
    pub fn wait_for_line(&mut self, prefix: &str, seconds: u64) -> Result<String, BenchError> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(prefix) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(BenchError::NotReady { program: self.program.clone(), seconds, log: self.log.clone() });
                }
            }
        }
    }

    /// Calls `ready` until it says yes.
    ///
    /// # Errors
    /// When the process ends or `seconds` pass first.
    pub fn wait_until(&mut self, seconds: u64, mut ready: impl FnMut() -> bool) -> Result<(), BenchError> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < deadline {
            self.check()?;
            if ready() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(BenchError::NotReady { program: self.program.clone(), seconds, log: self.log.clone() })
    }

    /// Ends it as a crash would: kill -9.
    pub fn kill(mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&mut self) -> Result<(), BenchError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(BenchError::Ended { program: self.program.clone(), log: self.log.clone() }),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        terminate(self.child.id());
        let deadline = Instant::now() + Duration::from_secs(STOP_SECONDS);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!(
            "{} did not stop within {STOP_SECONDS} s of SIGTERM and is killed; its output is in {}",
            self.program,
            self.log.display()
        );
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Asks a process of ours to stop.
pub(crate) fn terminate(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _gone_already = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// Runs a short program to its end.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<String, BenchError> {
    let program = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(|cause| BenchError::Start { program: program.clone(), cause })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(BenchError::Failed { program, output: format!("{text}{}", String::from_utf8_lossy(&output.stderr)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, log: &str) -> (Daemon, PathBuf) {
        let log = std::env::temp_dir().join(format!("sds-benches-{}-{log}.log", std::process::id()));
        (Daemon::start(Command::new("sh").args(["-c", script]), &log).expect("sh starts"), log)
    }

    #[test]
    fn ready_line_is_found_among_others_and_logged() {
        let (mut daemon, log) = shell("echo hello; echo ready here; exec sleep 30", "ready");
        assert_eq!(daemon.wait_for_line("ready ", 10).expect("it says so"), "ready here");
        daemon.check().expect("still running");
        drop(daemon);
        assert!(std::fs::read_to_string(&log).expect("logged").contains("hello"));
        std::fs::remove_file(log).expect("there");
    }

    #[test]
    fn a_process_that_ends_is_not_ready() {
        let (mut daemon, log) = shell("echo nothing", "ends");
        assert!(matches!(daemon.wait_for_line("ready ", 10), Err(BenchError::NotReady { .. })));
        std::fs::remove_file(log).expect("there");
    }
}
