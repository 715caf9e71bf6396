//! Programs nobody here wrote, run to their end within a time limit.

use super::daemon::tail;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a program ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    /// Standard output and error, one after the other.
    pub(crate) output: String,
}

/// Runs a program. It must be installed, and end within `seconds`.
pub(crate) fn attempt(command: &mut Command, seconds: u64) -> Ended {
    let shown = format!("{command:?}");
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("this test cannot run: {shown}: {error}; ci/install installs what is missing"));
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ended = pipe.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if start.elapsed() > Duration::from_secs(seconds) {
            let _gone = child.kill();
            let _reaped = child.wait();
            panic!("{shown} has not ended in {seconds} s");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let output = format!("{}{}", out.join().unwrap_or_default(), err.join().unwrap_or_default());
    Ended { success: status.success(), output }
}

/// Runs a program that must succeed; what it printed.
pub(crate) fn run(command: &mut Command, seconds: u64) -> String {
    let shown = format!("{command:?}");
    let ended = attempt(command, seconds);
    assert!(ended.success, "{shown} failed:\n{}", tail(&ended.output));
    ended.output
}

/// Runs a program that must fail; what it printed.
pub(crate) fn refuse(command: &mut Command, seconds: u64) -> String {
    let shown = format!("{command:?}");
    let ended = attempt(command, seconds);
    assert!(!ended.success, "{shown} should have failed:\n{}", tail(&ended.output));
    ended.output
}

/// fio through NBD, with verification; fails on any error.
pub(crate) fn fio_verify(uri: &str, more: &[&str], seconds: u64) -> String {
    let engines = run(Command::new("fio").arg("--enghelp"), 20);
    assert!(engines.split_whitespace().any(|engine| engine == "nbd"), "this test cannot run: this fio has no nbd engine");
    let mut command = Command::new("fio");
    command
        .args([
            "--name=verify",
            "--ioengine=nbd",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_dump=0",
            "--verify_state_save=0",
            "--do_verify=1",
            "--group_reporting",
        ])
        .arg(format!("--uri={uri}"))
        .args(more);
    let output = run(&mut command, seconds);
    assert!(output.contains("err= 0"), "fio reports errors:\n{}", tail(&output));
    output
}

/// A file of this many bytes that looks random.
pub(crate) fn random_file(path: &Path, bytes: u64, seed: u64) {
    let mut state = seed | 1;
    let mut content = Vec::with_capacity(usize::try_from(bytes).expect("fits memory"));
    while (content.len() as u64) < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(usize::try_from(bytes).expect("fits memory"));
    std::fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
