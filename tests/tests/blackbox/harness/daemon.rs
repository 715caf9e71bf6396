//! One process under test. It has ended, and was waited for, when its value is dropped.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, read_to_string};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; what it prints is added to `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let errors = file.try_clone().expect("a second handle");
        let spawned = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = spawned.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// All it has printed, in this life and those before it.
    pub(crate) fn output(&self) -> String {
        read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has printed this.
    pub(crate) fn wait_for(&mut self, text: &str, seconds: u64) -> String {
        self.wait_for_any(&[text], seconds)
    }

    /// Waits until it has printed one of these; the line.
    pub(crate) fn wait_for_any(&mut self, texts: &[&str], seconds: u64) -> String {
        let start = Instant::now();
        loop {
            let ended = self.exited();
            let output = self.output();
            if let Some(line) = output.lines().find(|line| texts.iter().any(|text| line.contains(text))) {
                return line.to_owned();
            }
            let text = texts.join("\" or \"");
            if let Some(status) = ended {
                panic!("{} ended with {status} before it printed {text:?}:\n{}", self.name, tail(&output));
            }
            assert!(
                start.elapsed() < Duration::from_secs(seconds),
                "{} has not printed {text:?} in {seconds} s:\n{}",
                self.name,
                tail(&output)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }

    /// SIGTERM; it must end by itself, with success.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait(20);
        assert!(status.success(), "{} ended with {status} after SIGTERM:\n{}", self.name, tail(&self.output()));
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(&mut self, seconds: u64) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(
                start.elapsed() < Duration::from_secs(seconds),
                "{} has not ended in {seconds} s:\n{}",
                self.name,
                tail(&self.output())
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {} ({})\n{}", self.name, self.log.display(), tail(&self.output()));
        }
        if self.exited().is_none() {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// The last lines of an output.
pub(crate) fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
