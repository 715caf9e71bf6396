//! The `sds` program: its help, its answers to a bad configuration, its ends.

mod common;

use common::{Client, FakeMdm, directory};
use sds_core::error::Status;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn sds() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sds"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A running daemon; killed at the end whatever happens.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Daemon {
    fn start(directory: &Path, mdm: &FakeMdm) -> Self {
        let config = format!(
            "state_dir = \"{0}/state\"\nlisten = \"127.0.0.1:0\"\nmemory = \"32 MiB\"\nmdm = [\"{1}\"]\n\
             [[device]]\npath = \"{0}/disk\"\nsize = \"64 MiB\"\nallow_small_sectors = true\n",
            directory.display(),
            mdm.address()
        );
        let path = directory.join("sds.toml");
        std::fs::write(&path, config).expect("written");
        Self(sds().arg("--config").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts"))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.0.id()).expect("a pid");
        let process = rustix::process::Pid::from_raw(id).expect("a pid");
        rustix::process::kill_process(process, signal).expect("it lives");
    }
}

fn output(arguments: &[&str]) -> (bool, String) {
    let output = sds().args(arguments).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn help_has_examples() {
    let (success, text) = output(&["--help"]);
    assert!(success && text.contains("Examples:") && text.contains("sds --config"), "{text}");
}

#[test]
fn a_bad_configuration_is_named_and_nothing_is_made() {
    let directory = directory();
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, format!("state_dir = \"{}/state\"\ncolour = 3\n", directory.path().display())).expect("written");
    let (success, text) = output(&["--config", path.to_str().expect("ascii")]);
    assert!(!success && text.contains("colour"), "{text}");
    assert!(!directory.path().join("state").exists());
    let (success, text) = output(&["--config", "/nowhere.toml"]);
    assert!(!success && text.contains("/nowhere.toml"), "{text}");
    let (success, text) = output(&[]);
    assert!(!success && text.contains("--config"), "{text}");
    let state = directory.path().join("state2");
    let (success, text) = output(&["--state-dir", state.to_str().expect("ascii"), "--device", "d=1 GiB", "--check"]);
    assert!(success, "{text}");
    assert!(!state.exists());
}

#[test]
fn sigterm_and_sigint_end_it_in_order() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    for (version, signal) in [(1, rustix::process::Signal::TERM), (2, rustix::process::Signal::INT)] {
        let mut daemon = Daemon::start(directory.path(), &mdm);
        let mut control = mdm.accept();
        let registration = control.bring_up(version);
        let mut client = Client::hello(&registration.addresses[0], version, version);
        assert_eq!(client.write(0, 0, &[9; 4096]), Status::Ok);
        daemon.signal(signal);
        let status = daemon.0.wait().expect("ends");
        assert!(status.success(), "{status}");
    }
}

#[test]
fn systemd_is_told() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    let socket = directory.path().join("notify");
    let receiver = std::os::unix::net::UnixDatagram::bind(&socket).expect("bound");
    receiver.set_read_timeout(Some(common::WAIT)).expect("set");
    let state = directory.path().join("state");
    let daemon = Daemon(
        sds()
            .env("NOTIFY_SOCKET", &socket)
            .args(["--listen", "127.0.0.1:0", "--mdm", &mdm.address(), "--state-dir"])
            .arg(&state)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts"),
    );
    let mut bytes = [0; 64];
    let told = receiver.recv(&mut bytes).expect("told");
    assert_eq!(&bytes[..told], b"READY=1");
    daemon.signal(rustix::process::Signal::TERM);
    let told = receiver.recv(&mut bytes).expect("told");
    assert_eq!(&bytes[..told], b"STOPPING=1");
}

#[test]
fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let (directory, mdm) = (directory(), FakeMdm::new());
    // The last acknowledged stamp of each block.
    let mut kept = vec![0_u8; 256];
    for round in 1..=4_u8 {
        let version = u64::from(round);
        let daemon = Daemon::start(directory.path(), &mdm);
        let mut control = mdm.accept();
        let registration = control.bring_up(version);
        let mut client = Client::hello(&registration.addresses[0], version, version);
        for (block, stamp) in kept.iter().enumerate() {
            let offset = u32::try_from(block).expect("small") * 4096;
            let found = client.read(0, offset, 4096).expect("reads");
            // A write that was not acknowledged may have landed; an acknowledged one is never lost.
            let fine = found.iter().all(|byte| byte == stamp) || (round > 1 && found.iter().all(|byte| *byte == round - 1));
            assert!(fine, "block {block}: {} instead of {stamp}", found[0]);
        }
        let blocks = 64 * usize::from(round);
        for (block, stamp) in kept.iter_mut().enumerate().take(blocks) {
            let offset = u32::try_from(block).expect("small") * 4096;
            assert_eq!(client.write(0, offset, &[round; 4096]), Status::Ok);
            *stamp = round;
        }
        // Some more are under way when it is killed.
        for block in blocks..kept.len().min(blocks + 16) {
            client.begin_write(0, u32::try_from(block).expect("small") * 4096, &[round; 4096]);
        }
        daemon.signal(rustix::process::Signal::KILL);
        drop(daemon);
    }
}
