//! Starting in any order, stopping cleanly, finding everything again; sessions; several exports.

use crate::harness::cluster::{ALL, Cluster, Process, RESTART};
use crate::harness::nbd::{Client, DISC, Refusal};
use crate::harness::place::free_port;
use crate::harness::tools::{refuse, run};
use std::process::Command;

const MIB: u64 = 1 << 20;

fn seconds_of_cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<_> = stat.rsplit(')').next().expect("after its name").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    ticks as f64 / 100.0
}

#[test]
fn any_start_order_works_and_each_says_what_it_waits_for() {
    let mut cluster = Cluster::configure("start-order", 64 * MIB, &["disk"]);
    // Data servers before the MDM.
    cluster.begin(Process::Sds(0));
    let mdm = cluster.control_address();
    cluster.daemon(Process::Sds(0)).wait_for(&mdm, 30);
    cluster.begin(Process::Sds(1));
    cluster.begin(Process::Mdm);
    cluster.wait_for_devices(2, RESTART);
    cluster.begin(Process::Sds(2));
    cluster.wait_for_devices(3, RESTART);
    cluster.create("disk", 64 * MIB);
    cluster.begin(Process::Sdc);
    cluster.wait_for_export("disk", RESTART);
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    client.write(0, b"first life");
    client.flush();
    drop(client);
    for process in [Process::Sdc, Process::Mdm, Process::Sds(0), Process::Sds(1), Process::Sds(2)] {
        cluster.stop(process);
    }
    // As a host that boots may do it: the client first, then the MDM, the data servers last.
    cluster.begin(Process::Sdc);
    cluster.daemon(Process::Sdc).wait_for(&mdm, 30);
    std::thread::sleep(std::time::Duration::from_secs(2));
    cluster.begin(Process::Mdm);
    std::thread::sleep(std::time::Duration::from_secs(2));
    for number in [2, 0, 1] {
        cluster.begin(Process::Sds(number));
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    cluster.wait_for_export("disk", RESTART);
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    assert_eq!(client.read(0, 10).expect("readable"), b"first life");
}

#[test]
fn what_was_flushed_is_found_again_after_a_clean_stop() {
    let mut cluster = Cluster::start("restart", 64 * MIB, "disk", 64 * MIB);
    let pattern: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    client.write(12_345, &pattern);
    client.flush();
    assert_eq!(client.call(DISC, 0, 0, 0, &[]).map_err(|error| error.kind()), Err(std::io::ErrorKind::UnexpectedEof));
    for process in [Process::Sdc, Process::Mdm, Process::Sds(2), Process::Sds(0), Process::Sds(1)] {
        cluster.stop(process);
    }
    for process in ALL {
        cluster.begin(process);
    }
    cluster.wait_for_export("disk", RESTART);
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    assert_eq!(client.read(12_345, 100_000).expect("readable"), pattern);
}

#[test]
fn a_second_client_is_told_who_has_the_volume_open() {
    let mut cluster = Cluster::start("busy", 64 * MIB, "disk", 32 * MIB);
    cluster.create("other", 32 * MIB);
    let mut first = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    first.write(0, b"mine");
    // A second process that is to hold it does not start, and says who has it.
    let address = format!("127.0.0.1:{}", free_port());
    let mut second = cluster.second_client(&address, &["disk"]);
    let status = second.wait(60);
    let said = second.output();
    assert!(!status.success() && said.contains("disk") && said.contains("open by"), "{said}");
    // One that offers what is free refuses it by NBD.
    let mut second = cluster.second_client(&address, &[]);
    second.wait_for("ready nbd://", 60);
    match Client::open(&address, "disk") {
        Err(Refusal::Refused(0x8000_0002, text)) => assert!(text.contains("disk") && text.contains("open by"), "{text}"),
        other => panic!("{other:?}"),
    }
    let mut other = Client::open(&address, "other").unwrap_or_else(|refusal| panic!("a free volume is refused: {refusal:?}"));
    other.write(0, b"also mine");
    assert_eq!(first.read(0, 4).expect("undisturbed"), b"mine");
    // Neither may be deleted while it is open.
    let text = refuse(&mut cluster.sdsctl(&["volume", "delete", "disk"]), 60);
    assert!(text.contains("open"), "{text}");
    cluster.check();
}

#[test]
fn without_names_all_free_volumes_are_exported_also_on_a_unix_socket() {
    let mut cluster = Cluster::start("exports", 64 * MIB, "disk", 16 * MIB);
    for name in ["alpha", "beta"] {
        cluster.create(name, 16 * MIB);
    }
    let mut first = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    let socket = cluster.place.path("nbd.sock");
    let mut second = cluster.second_client(&format!("unix:{}", socket.display()), &[]);
    second.wait_for("ready nbd+unix://", 60);
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let list = run(Command::new("nbdinfo").args(["--list", &uri]), 60);
    assert!(list.contains("export=\"alpha\"") && list.contains("export=\"beta\""), "{list}");
    assert!(!list.contains("export=\"disk\""), "somebody else has it open: {list}");
    let alpha = format!("nbd+unix:///alpha?socket={}", socket.display());
    run(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 9 0 1M", "-c", "read -P 9 0 1M", &alpha]), 60);
    first.write(0, b"still there");
    second.stop();
    assert!(!socket.exists(), "a socket file is removed at a clean stop");
    cluster.check();
}

#[test]
fn volumes_are_created_listed_shown_and_deleted() {
    let cluster = Cluster::start("volumes", 64 * MIB, "disk", 16 * MIB);
    run(&mut cluster.sdsctl(&["volume", "create", "striped", "--size", "32M", "--stripe-unit", "64K", "--stripe-width", "4"]), 60);
    let list = run(&mut cluster.sdsctl(&["volume", "list"]), 60);
    assert!(list.contains("disk") && list.contains("striped"), "{list}");
    let shown = run(&mut cluster.sdsctl(&["volume", "show", "striped"]), 60);
    assert!(shown.contains("striped") && shown.contains("32"), "{shown}");
    run(&mut cluster.sdsctl(&["volume", "delete", "striped"]), 60);
    let list = run(&mut cluster.sdsctl(&["volume", "list"]), 60);
    assert!(!list.contains("striped"), "{list}");
    // The name is free again, and the new volume is empty.
    run(&mut cluster.sdsctl(&["volume", "create", "striped", "--size", "16M"]), 60);
}

#[test]
fn idle_daemons_use_no_processor() {
    let mut cluster = Cluster::start("idle", 64 * MIB, "disk", 32 * MIB);
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    client.write(0, &[1; 65_536]);
    client.flush();
    // Seals, heartbeats and whatever the start has left.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let before: Vec<_> = ALL.map(|process| seconds_of_cpu(cluster.daemon(process).pid())).into();
    std::thread::sleep(std::time::Duration::from_secs(10));
    for (process, before) in ALL.into_iter().zip(before) {
        let used = seconds_of_cpu(cluster.daemon(process).pid()) - before;
        assert!(used <= 0.1, "{process:?} used {used:.2} s of CPU in 10 s of doing nothing");
    }
}
