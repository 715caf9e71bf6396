//! The NBD server with clients that nobody here wrote, against a cluster made of little.

mod common;

use common::{FakeCluster, SIZE};
use sds_client::{Cluster, Exports, NbdOptions, OpenOptions};
use sds_ring::Address;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Runs a tool that must be there (ci/install brings it) and must succeed; its output.
async fn run(program: &str, arguments: &[&str]) -> String {
    let (name, owned) = (program.to_owned(), arguments.iter().map(ToString::to_string).collect::<Vec<_>>());
    let task = tokio::task::spawn_blocking(move || Command::new(&name).args(owned).output());
    let output = tokio::time::timeout(Duration::from_secs(120), task).await.expect("in time").expect("no panic");
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be run ({error}): run ci/install"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// Runs `nbdinfo`, which may fail; what it said.
async fn refusal(arguments: &[&str]) -> String {
    let owned = arguments.iter().map(ToString::to_string).collect::<Vec<_>>();
    let task = tokio::task::spawn_blocking(move || Command::new("nbdinfo").args(owned).env("LIBNBD_DEBUG", "1").output());
    let output = task.await.expect("no panic").expect("nbdinfo runs: run ci/install");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

async fn serve(client: &Cluster) -> String {
    let options = NbdOptions::on("127.0.0.1:0".parse().expect("an address"));
    client.serve_nbd(options).await.expect("listens")[0].to_string()
}

fn file_of(path: &Path, len: usize) {
    let mut bytes = vec![0_u8; len];
    // Some of it stays zero, so that holes are copied too.
    for (at, chunk) in bytes.chunks_mut(4096).enumerate().filter(|(at, _)| at % 5 != 0) {
        for (index, byte) in chunk.iter_mut().enumerate() {
            *byte = u8::try_from((at * 31 + index * 7 + index / 256) % 256).expect("a byte");
        }
    }
    std::fs::write(path, bytes).expect("written");
}

async fn copies_in_and_out(client: &Cluster) {
    let address = serve(client).await;
    let uri = format!("nbd://{address}/demo");
    let info = run("nbdinfo", &[&uri]).await;
    assert!(info.contains(&format!("export-size: {SIZE}")) && info.contains("can_multi_conn: true"), "{info}");
    let directory = tempfile::tempdir().expect("a directory");
    let (source, copy) = (directory.path().join("source"), directory.path().join("copy"));
    file_of(&source, usize::try_from(SIZE).expect("fits"));
    let (source, copy) = (source.display().to_string(), copy.display().to_string());
    run("nbdcopy", &["--connections=4", &source, &uri]).await;
    run("nbdcopy", &["--connections=4", &uri, &copy]).await;
    run("cmp", &[&source, &copy]).await;
    let map = run("nbdinfo", &["--map", "--totals", &uri]).await;
    assert!(map.contains("hole"), "{map}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_over_sockets() {
    let cluster = FakeCluster::remote(3).await;
    let client = cluster.client().await;
    copies_in_and_out(&client).await;
    let gone = async {
        while cluster.mdm.sessions() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the session ends with the last connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_within_one_loop() {
    let (_cluster, client) = FakeCluster::local(3, 32 << 20).await;
    copies_in_and_out(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_with_little_memory() {
    let cluster = FakeCluster::remote(2).await;
    let client = Cluster::connect(cluster.config().memory(4 << 20)).await.expect("connects");
    copies_in_and_out(&client).await;
    let status = client.status().await.expect("runs");
    assert_eq!(status.buffer_bytes.0, 0, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_of_qemu_io_at_any_alignment() {
    let cluster = FakeCluster::remote(2).await;
    let client = cluster.client().await;
    let uri = format!("nbd://{}/demo", serve(&client).await);
    let mut arguments = vec!["-f", "raw"];
    for command in [
        "write -P 1 0 1M",
        "write -P 2 512 512",
        "write -P 3 4095 4098",
        "read -P 1 0 512",
        "read -P 2 512 512",
        "read -P 3 4095 4098",
        "read -P 1 8193 100000",
        "write -z 100000 200000",
        "read -P 0 100000 200000",
        "read -P 1 300000 100",
        "discard 512k 256k",
        "read -P 0 512k 256k",
        "write -f -P 5 2M 64k",
        "flush",
        "read -P 5 2M 64k",
        "write -P 6 10M 20M",
        "read -P 6 10M 20M",
    ] {
        arguments.extend(["-c", command]);
    }
    arguments.push(&uri);
    let output = run("qemu-io", &arguments).await;
    assert!(!output.contains("verification failed"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fio_verifies_at_depth_over_four_connections() {
    let cluster = FakeCluster::remote(3).await;
    let client = cluster.client().await;
    let uri = format!("--uri=nbd://{}/demo", serve(&client).await);
    for (pattern, block) in [("--rw=randwrite", "--bs=4k"), ("--rw=write", "--bs=1M")] {
        let common = ["--name=verify", "--ioengine=nbd", "--iodepth=32", "--size=16M", "--verify=crc32c", "--verify_fatal=1"];
        let jobs = ["--numjobs=4", "--offset_increment=16M", "--group_reporting"];
        run("fio", &[&common[..], &jobs, &[&uri, pattern, block]].concat()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn named_exports_and_a_unix_socket() {
    let cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("nbd.sock");
    let held = client.open("demo", OpenOptions::new()).await.expect("opens");
    let mut options = NbdOptions::on(Address::Unix(path.clone()));
    options.exports = Exports::Named(vec!["demo".into()]);
    client.serve_nbd(options).await.expect("listens");
    let uri = format!("nbd+unix:///?socket={}", path.display());
    assert!(run("nbdinfo", &["--list", &uri]).await.contains("demo"));
    assert_eq!(run("nbdinfo", &["--size", &uri]).await.trim(), SIZE.to_string(), "the default export");
    let unknown = refusal(&["--size", &format!("nbd+unix:///other?socket={}", path.display())]).await;
    assert!(unknown.contains("there are: demo"), "{unknown}");
    held.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_somebody_else_has_is_not_offered() {
    let cluster = FakeCluster::remote(1).await;
    let (other, client) = (cluster.client().await, cluster.client().await);
    let held = other.open("demo", OpenOptions::new()).await.expect("opens");
    let address = serve(&client).await;
    let list = refusal(&["--list", &format!("nbd://{address}")]).await;
    assert!(!list.contains("demo"), "{list}");
    let refused = refusal(&["--size", &format!("nbd://{address}/demo")]).await;
    assert!(refused.contains("is open by"), "{refused}");
    held.close().await.expect("closed");
    assert_eq!(run("nbdinfo", &["--size", &format!("nbd://{address}/demo")]).await.trim(), SIZE.to_string());
}

/// A client that sends rubbish, half a message, or nothing, and one that vanishes in the middle, leave
/// the server as it was.
#[tokio::test(flavor = "multi_thread")]
async fn bad_clients_leave_nothing_behind() {
    let cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    let address = serve(&client).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100_000], b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0"] {
        let mut socket = std::net::TcpStream::connect(&address).expect("connects");
        // It may be closed before all is sent.
        let _ = socket.write_all(bytes);
        let mut greeting = [0; 18];
        socket.read_exact(&mut greeting).expect("greeted");
        drop(socket);
    }
    let uri = format!("nbd://{address}/demo");
    let mut victim = Command::new("nbdcopy").args(["/dev/zero", &uri]).spawn().expect("nbdcopy runs: run ci/install");
    tokio::time::sleep(Duration::from_millis(200)).await;
    victim.kill().expect("killed");
    victim.wait().expect("gone");
    assert_eq!(run("nbdinfo", &["--size", &uri]).await.trim(), SIZE.to_string());
    for _ in 0..200 {
        let status = client.status().await.expect("runs");
        if (status.nbd_connections, status.buffer_bytes.0, status.requests) == (0, 0, 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("something is left: {:?}", client.status().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_closes_connections_in_order() {
    let cluster = FakeCluster::remote(1).await;
    let client = cluster.client().await;
    let uri = format!("nbd://{}/demo", serve(&client).await);
    let mut busy = Command::new("nbdcopy").args(["/dev/zero", &uri]).stderr(std::process::Stdio::null()).spawn().expect("nbdcopy runs");
    tokio::time::sleep(Duration::from_millis(200)).await;
    tokio::time::timeout(Duration::from_secs(20), client.stop(Duration::from_secs(10))).await.expect("in time");
    assert_eq!(cluster.mdm.sessions(), 0, "given back");
    busy.kill().expect("killed");
    busy.wait().expect("gone");
}
