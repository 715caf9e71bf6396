//! Configurations and devices that cannot be used: the daemon says what is wrong and leaves everything as it was.

use crate::harness::cluster::{Cluster, Process, devices};
use crate::harness::daemon::Daemon;
use crate::harness::place::{Place, program};
use crate::harness::tools::{random_file, refuse, run};
use std::fs;
use std::process::Command;

const MIB: u64 = 1 << 20;

/// A configuration that is wrong in one way; what `daemon` says about it.
fn refused(place: &Place, daemon: &str, text: &str) -> String {
    let config = place.write("bad.toml", text);
    let said = refuse(Command::new(program(daemon)).arg("--config").arg(config).current_dir(place.path("")), 30);
    assert!(!said.contains("panicked"), "{daemon}: {said}");
    said
}

/// Tries configurations that are wrong in one way each, and what must be named.
fn all_refused(place: &Place, daemon: &str, cases: &[(String, &str)]) {
    for (text, says) in cases {
        let said = refused(place, daemon, text);
        assert!(said.contains(says), "{daemon} about {says}: {said}");
    }
    let said = refuse(Command::new(program(daemon)).args(["--config", "/nonexistent/file.toml"]), 30);
    assert!(said.contains("/nonexistent/file.toml"), "{said}");
}

#[test]
fn wrong_mdm_configurations_are_refused_by_key() {
    let place = Place::new("bad-mdm-config");
    let good = format!("data_dir = {:?}\ncontrol = \"127.0.0.1:0\"\napi = \"127.0.0.1:0\"\n", place.path("d"));
    let cases = [
        (format!("{good}colour = 3\n"), "colour"),
        (format!("{good}control = \"127.0.0.1:1\"\n"), "control"),
        (good.replacen("\"127.0.0.1:0\"", "7", 1), "control"),
        (good.replacen("127.0.0.1:0", "nonsense", 1), "control"),
        (good.replace("data_dir", "# data_dir"), "data_dir"),
        ("data_dir = [".to_owned(), "bad.toml"),
        ("\u{0}\u{1}".to_owned(), "bad.toml"),
    ];
    all_refused(&place, "mdm", &cases);
    assert!(!place.path("d").exists(), "nothing was made");
}

#[test]
fn wrong_sds_configurations_are_refused_by_key() {
    let place = Place::new("bad-sds-config");
    let base = format!("name = \"a\"\nstate_dir = {:?}\nlisten = \"127.0.0.1:0\"\nmdm = [\"127.0.0.1:1\"]\n", place.path("d"));
    let device = format!("[[device]]\npath = {:?}\nsize = 67108864\nformat = \"if-blank\"\n", place.path("x"));
    let cases = [
        (format!("{base}colour = 3\n{device}"), "colour"),
        (format!("{base}{device}speed = 1\n"), "speed"),
        (format!("{base}{device}{device}"), "device[1].path"),
        (format!("{base}{device}").replace("[\"127.0.0.1:1\"]", "5"), "mdm"),
        (format!("{base}{device}").replace("127.0.0.1:1", "nowhere"), "nowhere"),
        (format!("{base}{device}").replace("127.0.0.1:0", "nonsense"), "nonsense"),
        (format!("{base}{device}").replace("67108864", "\"a lot\""), "a lot"),
        (format!("{base}{device}").replace("67108864", "67108865"), "size"),
        (format!("{base}{device}").replace("67108864", "-1"), "size"),
        (format!("{base}{device}").replace("67108864", "\"9E\""), "9E"),
        (format!("{base}{device}").replace("if-blank", "maybe"), "maybe"),
        (format!("{base}memory = \"1 KiB\"\n{device}"), "memory"),
        ("name = ".to_owned(), "bad.toml"),
    ];
    all_refused(&place, "sds", &cases);
    assert!(!place.path("x").exists() && !place.path("d").exists(), "nothing was made");
}

#[test]
fn devices_that_cannot_be_used_are_named_and_untouched() {
    let mut cluster = Cluster::configure("bad-devices", 64 * MIB, &[]);
    cluster.begin(Process::Mdm);
    // Something else's data.
    random_file(&cluster.device(0), 64 * MIB, 3);
    let before = fs::read(cluster.device(0)).expect("written");
    cluster.begin(Process::Sds(0));
    let path = cluster.device(0).display().to_string();
    cluster.daemon(Process::Sds(0)).wait_for(&path, 30);
    cluster.wait_for_status("failed device", 30, |status| devices(status).iter().any(|device| device["state"]["is"] == "failed"));
    assert_eq!(fs::read(cluster.device(0)).expect("there"), before, "a device that holds something is not formatted");
    // Too small.
    let small = cluster.sds_config(1, 64 * MIB).replace("67108864", "65536");
    cluster.place.write("sds1.toml", &small);
    let said = fails_or_reports(&mut cluster, 1);
    assert!(said.contains("small") || said.contains("least"), "{said}");
    // Missing, and not to be made.
    let missing = cluster.sds_config(2, 64 * MIB).replace("size = 67108864\n", "").replace("format = \"if-blank\"\n", "");
    cluster.place.write("sds2.toml", &missing);
    let said = fails_or_reports(&mut cluster, 2);
    assert!(said.contains("device2.img"), "{said}");
}

/// What a data server with a bad device says, whether it ends or goes on without it.
fn fails_or_reports(cluster: &mut Cluster, number: usize) -> String {
    cluster.begin(Process::Sds(number));
    let start = std::time::Instant::now();
    let path = cluster.device(number).display().to_string();
    loop {
        let daemon = cluster.daemon(Process::Sds(number));
        let output = daemon.output();
        if daemon.exited().is_some() || output.contains(&path) {
            assert!(!output.contains("panicked"), "{output}");
            return output;
        }
        assert!(start.elapsed().as_secs() < 30, "nothing is said about {path}:\n{output}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_device_of_another_system_is_refused() {
    let mut first = Cluster::start("system-one", 64 * MIB, "disk", 16 * MIB);
    first.stop(Process::Sdc);
    first.stop(Process::Sds(0));
    let mut second = Cluster::configure("system-two", 64 * MIB, &[]);
    fs::copy(first.device(0), second.device(0)).expect("copied");
    second.begin(Process::Mdm);
    second.begin(Process::Sds(1));
    second.wait_for_devices(1, 60);
    second.begin(Process::Sds(0));
    let line = second.daemon(Process::Sds(0)).wait_for("system", 30);
    assert!(!line.is_empty());
    let status = second.status().expect("the MDM answers");
    let open = devices(&status).iter().filter(|device| device["state"]["is"] == "open").count();
    assert_eq!(open, 1, "the foreign device is no member: {status:#?}");
}

#[test]
fn a_read_only_device_is_refused() {
    let mut cluster = Cluster::start("read-only", 64 * MIB, "disk", 16 * MIB);
    cluster.stop(Process::Sds(0));
    // For root a mode means nothing; an immutable file does.
    run(Command::new("chattr").arg("+i").arg(cluster.device(0)), 20);
    let said = fails_or_reports(&mut cluster, 0);
    run(Command::new("chattr").arg("-i").arg(cluster.device(0)), 20);
    assert!(said.contains("device0.img"), "{said}");
}

#[test]
fn a_device_in_use_by_another_process_is_refused() {
    let cluster = Cluster::start("in-use", 64 * MIB, "disk", 16 * MIB);
    let config = cluster.sds_config(0, 64 * MIB).replace(&cluster.data_address(0), "127.0.0.1:0");
    let config = config.replace("name = \"sds0\"", "name = \"thief\"").replace("/sds0\"", "/thief\"");
    let path = cluster.place.write("thief.toml", &config);
    let mut command = Command::new(program("sds"));
    let mut thief = Daemon::start("thief", command.arg("--config").arg(path), &cluster.place.path("thief.log"));
    thief.wait_for("device0.img", 30);
    let mut client = crate::harness::nbd::Client::open(&cluster.nbd_address(), "disk").expect("undisturbed");
    client.write(0, b"undisturbed");
    client.flush();
}

#[test]
fn a_missing_io_uring_or_memlock_limit_names_the_cause_and_the_way_out() {
    let mut cluster = Cluster::configure("limits", 64 * MIB, &[]);
    cluster.begin(Process::Mdm);
    // 64 KiB of locked memory and no right to exceed it: what many distributions give a user.
    let config = cluster.place.path("sds0.toml");
    run(Command::new("chmod").args(["-R", "a+rwX"]).arg(cluster.place.path("")), 20);
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "prlimit",
        "--memlock=65536:65536",
    ]);
    command.arg(program("sds")).arg("--config").arg(config);
    let mut daemon = Daemon::start("sds", &mut command, &cluster.place.path("limited.log"));
    let start = std::time::Instant::now();
    loop {
        // Either it goes without registered buffers and serves, or it says which limit to raise.
        let open = cluster.status().map(|status| devices(&status).iter().any(|device| device["state"]["is"] == "open"));
        if open == Some(true) {
            break;
        }
        if daemon.exited().is_some() {
            let output = daemon.output();
            assert!(output.to_lowercase().contains("memlock") && !output.contains("panicked"), "{output}");
            break;
        }
        assert!(start.elapsed().as_secs() < 60, "neither serves nor explains:\n{}", daemon.output());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
