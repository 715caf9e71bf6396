//! The command line against a real MDM, with a data server played over its real protocol.

use mdm::{Mdm, MdmConfig};
use sds_core::codec::encode_framed;
use sds_core::control::{CONTROL_VERSION, Capacity, DeviceReport, DeviceState, FaultCounts, SdsToMdm, Speaker};
use sds_core::id::{DeviceUuid, SdsUuid, ShardSequence, SystemId};
use sds_core::unit::ByteCount;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

struct Test {
    mdm: Mdm,
    _sds: TcpStream,
    _directory: tempfile::TempDir,
}

impl Test {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mdm = Mdm::start(MdmConfig { control: any, api: any, ..MdmConfig::new(directory.path()) }).expect("starts");
        let mut sds = TcpStream::connect(mdm.control_address()).expect("connects");
        let register = SdsToMdm::Register {
            version: CONTROL_VERSION,
            sds: SdsUuid::new(1),
            system: SystemId::default(),
            name: "node-1".to_owned(),
            addresses: vec!["127.0.0.1:9710".to_owned()],
            fault_set: "node-1".to_owned(),
            life: 1,
            devices: vec![DeviceReport {
                uuid: DeviceUuid::new(1),
                path: "/data/disk0".to_owned(),
                pool: "default".to_owned(),
                state: DeviceState::Open,
                capacity: Capacity { total: ByteCount::new(1 << 30), ..Capacity::default() },
                sequence_ceiling: ShardSequence::default(),
                flushed: sds_core::id::LogSequence::default(),
                log_end: sds_core::id::LogSequence::default(),
                cache: sds_core::id::BootId::default(),
                faults: FaultCounts { data_mismatches: 2, ..FaultCounts::default() },
                recent_faults: vec!["volume 1 extent 2 block 3".to_owned()],
            }],
        };
        sds.write_all(&Speaker::Sds.preamble()).expect("sends");
        sds.write_all(&encode_framed(&register).expect("encodes")).expect("sends");
        // It is registered when it is answered.
        sds.read_exact(&mut [0; 1]).expect("an answer");
        Self { mdm, _sds: sds, _directory: directory }
    }

    /// Runs a command line: exit code, standard output, standard error.
    fn run(&self, line: &str) -> (i32, String, String) {
        run(&self.mdm.api_address().to_string(), line)
    }

    fn good(&self, line: &str) -> String {
        let (code, out, error) = self.run(line);
        assert_eq!((code, error.as_str()), (0, ""), "{line}");
        out
    }

    fn refused(&self, line: &str) -> String {
        let (code, out, error) = self.run(line);
        assert_eq!((code, out.as_str()), (1, ""), "{line}: {error}");
        error
    }
}

fn run(api: &str, line: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sdsctl")).env("SDSCTL_API", api).args(line.split_whitespace()).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("ends by itself"), text(output.stdout), text(output.stderr))
}

#[test]
fn volumes_are_made_listed_shown_and_deleted() {
    let test = Test::new();
    assert!(test.good("volume list").contains("sdsctl volume create"));
    assert_eq!(test.good("volume create one --size 1GiB"), "volume \"one\" of 1 GiB is there\n");
    test.good("volume create two --size 512M --stripe-unit 64KiB --stripe-width 16");
    let list = test.good("volume list");
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[1].starts_with("one") && lines[2].starts_with("two"), "{list}");
    assert!(lines[2].contains("512 MiB") && lines[2].contains("64 KiB × 16"), "{list}");
    assert!(test.good("volume show one").contains("open by    nobody"));
    let shown: serde_json::Value = serde_json::from_str(&test.good("volume show two --output json")).expect("JSON");
    assert_eq!((&shown["stripe_unit"], &shown["size_bytes"]), (&65536.into(), &(512_u64 << 20).into()));
    assert_eq!(test.good("volume delete one"), "volume \"one\" is deleted\n");
    let list: serde_json::Value = serde_json::from_str(&test.good("--output json volume list")).expect("JSON");
    assert_eq!(list.as_array().expect("a list").len(), 1);
}

#[test]
fn refusals_say_the_way_out() {
    let test = Test::new();
    test.good("volume create one --size 1M");
    let cases = [
        ("volume create one --size 1M", "exists already"),
        ("volume create a/b --size 1M", "'/'"),
        ("volume create a --size 0", "4096 bytes or more"),
        ("volume create a --size 5000", "4096 and 8192"),
        ("volume create a --size 100G", "at most"),
        ("volume create a --size 1M --pool x", r#"["default"]"#),
        ("volume create a --size 1M --stripe-unit 5", "power of two"),
        ("volume show a", r#"no volume is named "a""#),
        ("volume show a/b", r#"no volume is named "a/b""#),
        ("volume delete ..", r#"no volume is named "..""#),
    ];
    for (line, says) in cases {
        let error = test.refused(line);
        assert!(error.starts_with("sdsctl: ") && error.contains(says), "{line}: {error}");
    }
    let error: serde_json::Value = serde_json::from_str(&test.refused("volume show a --output json")).expect("JSON");
    assert_eq!(error["type"], "urn:sds:problem:no-volume");
}

#[test]
fn shards_are_listed_shown_and_not_forced_without_need() {
    let test = Test::new();
    assert!(test.good("shard list").contains("no shard fits"));
    assert!(test.good("audit").contains("nothing was done"));
    test.good("volume create one --size 1M");
    let list = test.good("shard list --pool default --state clean --device 1 --limit 3");
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("SHARD") && lines[1].starts_with("default/0") && lines[1].contains("1 (node-1)"), "{list}");
    assert!(lines[4].contains("and 4093 more"), "{list}");
    let listed: serde_json::Value = serde_json::from_str(&test.good("shard list --limit 2 --output json")).expect("JSON");
    assert_eq!((&listed["shards"][1]["shard"], &listed["more"]), (&1.into(), &4094.into()));
    let shown = test.good("shard show default/17");
    for part in ["shard      default/17", "state      clean", "epoch      1 (of metadata version", "primary", "/data/disk0", "serves"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let shown: serde_json::Value = serde_json::from_str(&test.good("shard show default/17 --output json")).expect("JSON");
    assert_eq!((&shown["in_sync"][0]["device"], &shown["waits_for"]), (&1.into(), &serde_json::Value::Null));
    let cases = [
        ("shard show default/4096", "it has 4096, numbered from 0"),
        ("shard show none/1", r#"the pools are ["default"]"#),
        ("shard list --pool none", r#"the pools are ["default"]"#),
        ("shard list --device 9", "there is no device 9"),
        ("shard force default/1 --device 1", "it is the shard's only copy in sync and serves already"),
        ("shard force default/1 --device 9", "it does not serve"),
        ("shard force default/9999 --device 1", "has no shard 9999"),
    ];
    for (line, says) in cases {
        let error = test.refused(line);
        assert!(error.contains(says), "{line}: {error}");
    }
    for line in
        ["shard", "shard show 17", "shard show default/x", "shard list --state broken", "shard list --limit 0", "shard force default/1"]
    {
        assert_eq!(test.run(line).0, 2, "{line}");
    }
    assert!(test.good("audit").contains("nothing was done"), "refused commands leave no trace");
}

#[test]
fn wrong_usage_is_told_from_refusal_and_silence() {
    let test = Test::new();
    for line in ["", "volume", "volume create", "volume create a", "volume create a --size 1Q", "status --output xml", "frobnicate"] {
        let (code, out, error) = test.run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}");
        assert!(!error.is_empty());
    }
    let (code, _, error) = run("127.0.0.1:1", "status");
    assert_eq!(code, 3);
    assert!(error.contains("cannot reach the MDM's API at 127.0.0.1:1") && error.contains("--api"), "{error}");
    // Something else listens there.
    let (code, _, error) = run(&test.mdm.control_address().to_string(), "status");
    assert!(code == 3 || code == 1, "{error}");
}

#[test]
fn the_status_shows_everything() {
    let test = Test::new();
    test.good("volume create one --size 1M");
    let status = test.good("status");
    for part in [
        "system ",
        "mdm-1",
        "node-1",
        "/data/disk0",
        "default",
        "4096 clean",
        "one",
        "! device \"/data/disk0\"",
        "! /data/disk0: volume 1 extent 2 block 3",
    ] {
        assert!(status.contains(part), "{part} is not in\n{status}");
    }
    let status: serde_json::Value = serde_json::from_str(&test.good("status --output json")).expect("JSON");
    assert_eq!(status["sds"][0]["devices"][0]["faults"]["data_mismatches"], 2);
    assert_eq!(status["sds"][0]["devices"][0]["recent_faults"][0], "volume 1 extent 2 block 3");
}

#[test]
fn pools_are_made_and_listed() {
    let test = Test::new();
    assert!(test.good("pool create fast --shards 64").contains("pool = \"fast\""));
    assert!(test.refused("pool create fast").contains("exists already"));
    let list = test.good("pool list");
    assert!(list.contains("fast") && list.contains("placed with the first volume"), "{list}");
}

#[test]
fn shells_complete() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run("127.0.0.1:1", &format!("completion {shell}"));
        assert!(code == 0 && script.contains("sdsctl") && script.contains("volume"), "{shell}");
    }
}
