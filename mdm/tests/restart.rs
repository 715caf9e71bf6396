//! What survives: restarts, kills, a full file of entries, an embedding program.

mod support;

use mdm::{Mdm, MdmError};
use sds_core::cluster::leader::{ApiReply, ApiRequest};
use sds_core::control::SdsToMdm;
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Sds, call, config, start};

#[test]
fn everything_acknowledged_is_there_after_restarts() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut system, mut version) = (json!(null), 0);
    for round in 0..4_u64 {
        let mdm = start(directory.path());
        let mut sds = Sds::register(&mdm, 1, u128::from(round));
        // More than fit between two snapshots.
        for number in 0..6 {
            let body = format!(r#"{{"name": "v{round}.{number}", "size_bytes": 4096}}"#);
            assert_eq!(call(&mdm, "POST", "/api/v1/volumes", Some(&body)).status, 201);
            sds.view();
        }
        let status = call(&mdm, "GET", "/api/v1/status", None).body;
        assert!(round == 0 || status["system"] == system, "the system keeps its name");
        system = status["system"].clone();
        let now = status["version"].as_u64().expect("a number");
        assert!(now > version, "versions only rise");
        version = now;
        assert_eq!(status["volumes"].as_array().expect("a list").len() as u64, (round + 1) * 6);
        assert_eq!(status["sds"][0]["incarnation"], round + 1, "one incarnation a life");
        mdm.stop().expect("stops");
    }
}

#[test]
fn a_server_of_the_same_life_keeps_its_incarnation_over_a_restart_of_the_mdm() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let mut sds = Sds::register(&mdm, 1, 42);
    assert_eq!(call(&mdm, "POST", "/api/v1/volumes", Some(r#"{"name": "one", "size_bytes": 4096}"#)).status, 201);
    let map = sds.view().pools;
    mdm.stop().expect("stops");
    assert!(sds.connection.is_closed());
    let mdm = start(directory.path());
    let mut sds = Sds::register(&mdm, 1, 42);
    sds.connection.send(&SdsToMdm::Leaving);
    let status = call(&mdm, "GET", "/api/v1/status", None).body;
    assert_eq!(status["sds"][0]["incarnation"], 1);
    drop(mdm);
    let mdm = start(directory.path());
    let mut sds = Sds::register(&mdm, 1, 43);
    assert_eq!(call(&mdm, "DELETE", "/api/v1/volumes/one", None).status, 204);
    let view = sds.view();
    assert_eq!(view.deleted_trees.expect("changed").len(), 1);
    assert_eq!(map[0].shards[0].epoch.get(), 1);
}

#[test]
fn the_library_answers_without_http() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let api = mdm.api();
    let reply = runtime.block_on(api.request(ApiRequest::Volumes)).expect("answers");
    assert_eq!(reply, ApiReply::Volumes(Vec::new()));
    mdm.stop().expect("stops");
    assert!(runtime.block_on(api.request(ApiRequest::Volumes)).is_err());
}

#[test]
fn a_data_directory_and_an_address_belong_to_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let mdm = start(directory.path());
    assert!(matches!(Mdm::start(config(directory.path())), Err(MdmError::Log(_))));
    let other = tempfile::tempdir().expect("a directory");
    let mut taken = config(other.path());
    taken.control = mdm.control_address();
    let error = Mdm::start(taken).expect_err("in use");
    assert!(error.to_string().contains("`control`"), "{error}");
}

/// The daemon, killed when the test ends.
struct Daemon {
    child: std::process::Child,
    api: String,
}

impl Daemon {
    fn start(directory: &std::path::Path) -> Self {
        let path = directory.join("mdm.toml");
        let text = format!("data_dir = {:?}\ncontrol = \"127.0.0.1:0\"\napi = \"127.0.0.1:0\"\n", directory.join("data"));
        std::fs::write(&path, text).expect("writes");
        let log = directory.join("mdm.log");
        let stderr = std::fs::File::create(&log).expect("makes its log");
        let child = Command::new(env!("CARGO_BIN_EXE_mdm")).arg("--config").arg(path).stderr(stderr).spawn().expect("starts");
        let begin = Instant::now();
        // It says where it listens.
        let api = loop {
            let said = std::fs::read_to_string(&log).expect("its log");
            let address = said.lines().find_map(|line| line.split_once(" api=")?.1.split_once(' '));
            if let Some((address, _)) = address {
                break address.to_owned();
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not come up: {said}");
            std::thread::sleep(Duration::from_millis(20));
        };
        Self { child, api: format!("http://{api}/api/v1") }
    }

    fn get(&self, path: &str) -> Option<serde_json::Value> {
        ureq::get(format!("{}{path}", self.api)).call().ok()?.body_mut().read_json().ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_daemon_keeps_what_it_acknowledged_when_it_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    for round in 0..3 {
        let mut daemon = Daemon::start(directory.path());
        let pools = daemon.get("/pools").expect("answers");
        assert_eq!(pools["pools"].as_array().expect("a list").len(), 1 + round);
        let body = json!({"name": format!("p{round}"), "shards": 8});
        let made = ureq::post(format!("{}/pools", daemon.api)).send_json(body).expect("is made");
        assert_eq!(made.status(), 201);
        daemon.child.kill().expect("kills");
    }
}

#[test]
fn the_daemon_stops_cleanly_and_refuses_bad_configurations() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut daemon = Daemon::start(directory.path());
    let pid = rustix::process::Pid::from_child(&daemon.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signals");
    assert!(daemon.child.wait().expect("ends").success());
    let run = |text: &str| {
        let path = directory.path().join("bad.toml");
        std::fs::write(&path, text).expect("writes");
        let output = Command::new(env!("CARGO_BIN_EXE_mdm")).arg("--check").arg("--config").arg(path).output().expect("runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (text, says) in [("data_dir = 1", "data_dir"), ("data_dir = \"x\"\ncolour = 3", "unknown field `colour`"), ("=", "line 1")] {
        let (success, error) = run(text);
        assert!(!success && error.contains(says), "{error}");
    }
    assert!(run("data_dir = \"x\"").0);
}
