//! The daemon: what it prints, how it stops, how it fails.

mod common;

use common::FakeCluster;
use sds_client::OpenOptions;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

fn sdc(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdc"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn failure(arguments: &[&str]) -> String {
    let Output { status, stderr, .. } = timeout(PATIENCE, sdc(arguments).output()).await.expect("in time").expect("runs");
    assert!(!status.success());
    String::from_utf8_lossy(&stderr).into_owned()
}

/// The first line on standard output.
async fn ready(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    timeout(PATIENCE, BufReader::new(stdout).read_line(&mut line)).await.expect("in time").expect("a line");
    line.trim().to_owned()
}

async fn terminate(mut child: Child) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().expect("runs")).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert!(timeout(PATIENCE, child.wait()).await.expect("in time").expect("ended").success(), "SIGTERM is no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_when_it_is_ready_and_gives_everything_back_on_sigterm() {
    let cluster = FakeCluster::remote(1).await;
    let directory = tempfile::tempdir().expect("a directory");
    let (state, socket) = (directory.path().join("state"), directory.path().join("sock"));
    let listen = format!("127.0.0.1:0,unix:{}", socket.display());
    let arguments = ["nbd", "--mdm", &cluster.mdm.address(), "--listen", &listen, "--state-dir", &state.display().to_string(), "demo"];
    let mut child = sdc(&arguments).spawn().expect("runs");
    let line = ready(&mut child).await;
    assert!(line.starts_with("ready nbd://127.0.0.1:") && line.ends_with("/demo") && !line.contains(":0/"), "{line}");
    assert_eq!(cluster.mdm.sessions(), 1, "a named volume is held");
    let second = failure(&["nbd", "--mdm", &cluster.mdm.address(), "--listen", "127.0.0.1:0", "demo"]).await;
    assert!(second.contains("is open by") && second.contains("force"), "{second}");
    terminate(child).await;
    assert_eq!(cluster.mdm.sessions(), 0);
    assert!(!socket.exists(), "its socket is taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_client_takes_its_own_volume_back() {
    let cluster = FakeCluster::remote(1).await;
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().display().to_string();
    let arguments = ["nbd", "--mdm", &cluster.mdm.address(), "--listen", "127.0.0.1:0", "--state-dir", &state, "demo"];
    let mut child = sdc(&arguments).spawn().expect("runs");
    ready(&mut child).await;
    child.kill().await.expect("killed");
    let mut child = sdc(&arguments).spawn().expect("runs");
    ready(&mut child).await;
    terminate(child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_in_one_line_that_names_it() {
    let cluster = FakeCluster::remote(1).await;
    let mdm = cluster.mdm.address();
    let unknown = failure(&["nbd", "--mdm", &mdm, "--listen", "127.0.0.1:0", "nobody"]).await;
    assert!(unknown.contains("sdc: no volume is named \"nobody\""), "{unknown}");
    let taken = failure(&["nbd", "--mdm", &mdm, "--listen", &mdm]).await;
    assert!(taken.contains("cannot listen on") && taken.contains(&mdm), "{taken}");
    let taken = failure(&["nbd", "--mdm", &mdm, "--listen", &mdm, "demo"]).await;
    assert!(taken.contains("cannot listen on"), "{taken}");
    assert_eq!(cluster.mdm.sessions(), 0, "what was opened is given back");
    let nonsense = failure(&["nbd", "--mdm", &mdm, "--listen", "somewhere"]).await;
    assert!(nonsense.contains("somewhere") && nonsense.contains("unix:"), "{nonsense}");
    let small = failure(&["nbd", "--mdm", &mdm, "--listen", "127.0.0.1:0", "--memory", "1M"]).await;
    assert!(small.contains("at least"), "{small}");
    assert!(failure(&["nbd"]).await.contains("--mdm"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_mdm_it_waits_says_so_and_still_stops() {
    let mut child = sdc(&["nbd", "--mdm", "127.0.0.1:1", "--listen", "127.0.0.1:0"]).spawn().expect("runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let waits = async {
        while let Some(line) = lines.next_line().await.expect("read") {
            if line.contains("waiting for the MDM") && line.contains("127.0.0.1:1") {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, waits).await.expect("in time"));
    terminate(child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn force_takes_a_volume_over() {
    let cluster = FakeCluster::remote(1).await;
    let other = cluster.client().await;
    let held = other.open("demo", OpenOptions::new()).await.expect("opens");
    let arguments = ["nbd", "--mdm", &cluster.mdm.address(), "--listen", "127.0.0.1:0", "--force", "demo"];
    let mut child = sdc(&arguments).spawn().expect("runs");
    ready(&mut child).await;
    assert!(matches!(held.read_at(0, 1).await, Err(sds_client::Error::Fenced)));
    terminate(child).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_offer_one_volume_shared() {
    let cluster = FakeCluster::remote(1).await;
    let arguments = ["nbd", "--mdm", &cluster.mdm.address(), "--listen", "127.0.0.1:0", "--shared", "demo"];
    let mut first = sdc(&arguments).spawn().expect("runs");
    ready(&mut first).await;
    let mut second = sdc(&arguments).spawn().expect("runs");
    ready(&mut second).await;
    assert_eq!(cluster.mdm.sessions(), 2);
    let alone = failure(&["nbd", "--mdm", &cluster.mdm.address(), "--listen", "127.0.0.1:0", "demo"]).await;
    assert!(alone.contains("is open by"), "{alone}");
    terminate(first).await;
    assert_eq!(cluster.mdm.sessions(), 1);
    terminate(second).await;
    assert!(failure(&["nbd", "--mdm", "127.0.0.1:1", "--shared", "--read-only"]).await.contains("cannot be used with"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_that_is_taken_leaves_none_listening() {
    let cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("sock");
    // An address of its own: nothing else on the machine uses its ports.
    let free = std::net::TcpListener::bind("127.5.3.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let taken = cluster.mdm.address();
    let mut options = sds_client::NbdOptions::on(sds_ring::Address::Tcp(free));
    options.listen.push(sds_ring::Address::Unix(socket.clone()));
    options.listen.push(taken.parse().expect("an address"));
    let error = client.serve_nbd(options.clone()).await.expect_err("taken").to_string();
    assert!(error.contains("cannot listen on") && error.contains(&taken), "{error}");
    // The client lives on, so only what it took back is free.
    assert!(tokio::net::TcpStream::connect(free).await.is_err(), "nobody listens");
    assert!(!socket.exists(), "its socket is taken away");
    options.listen.pop();
    assert_eq!(client.serve_nbd(options).await.expect("free again").len(), 2);
}
