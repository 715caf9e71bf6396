//! Clients nobody here wrote, against five processes.

use crate::harness::cluster::Cluster;
use crate::harness::tools::{fio_verify, random_file, refuse, run};
use std::process::Command;

const MIB: u64 = 1 << 20;

fn cluster(name: &str) -> Cluster {
    Cluster::start(name, 256 * MIB, "disk", 384 * MIB)
}

#[test]
fn fio_verifies_random_4_kib() {
    let cluster = cluster("fio-random");
    let load = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--numjobs=4", "--size=48m", "--offset_increment=64m", "--randseed=7"];
    fio_verify(&cluster.uri("disk"), &load, 300);
}

#[test]
fn fio_verifies_mixed_64_kib() {
    let cluster = cluster("fio-mixed");
    let load = ["--rw=randrw", "--rwmixread=30", "--bs=64k", "--iodepth=32", "--numjobs=4", "--size=64m", "--offset_increment=64m"];
    fio_verify(&cluster.uri("disk"), &load, 300);
}

#[test]
fn fio_verifies_sequential_1_mib_with_flushes() {
    let cluster = cluster("fio-sequential");
    let load = ["--rw=write", "--bs=1m", "--iodepth=32", "--numjobs=4", "--size=80m", "--offset_increment=80m", "--fsync=16"];
    fio_verify(&cluster.uri("disk"), &load, 300);
}

#[test]
fn fio_verifies_odd_sizes_and_trims() {
    let cluster = cluster("fio-odd");
    let load = ["--rw=randwrite", "--bsrange=512-40k", "--blockalign=512", "--bs_unaligned=1", "--iodepth=16", "--size=32m"];
    fio_verify(&cluster.uri("disk"), &load, 300);
    let load = ["--rw=randtrimwrite", "--bs=16k", "--iodepth=16", "--size=32m", "--offset=64m"];
    fio_verify(&cluster.uri("disk"), &load, 300);
}

#[test]
fn nbdcopy_in_and_out_gives_the_same_bytes() {
    let cluster = cluster("nbdcopy");
    let (image, back) = (cluster.place.path("in.img"), cluster.place.path("out.img"));
    random_file(&image, 384 * MIB - 40_960, 3);
    run(Command::new("truncate").args(["-s", &(384 * MIB).to_string()]).arg(&image), 20);
    run(Command::new("nbdcopy").args(["--flush", "--connections=4"]).arg(&image).arg(cluster.uri("disk")), 300);
    run(Command::new("nbdcopy").arg("--connections=4").arg(cluster.uri("disk")).arg(&back), 300);
    run(Command::new("cmp").arg(&image).arg(&back), 60);
    // And without structured replies or several connections, as old clients do.
    std::fs::remove_file(&back).expect("written above");
    run(Command::new("nbdcopy").args(["--synchronous", "--no-extents"]).arg(cluster.uri("disk")).arg(&back), 300);
    run(Command::new("cmp").arg(&image).arg(&back), 60);
}

#[test]
fn nbdinfo_tells_size_limits_and_features() {
    let cluster = cluster("nbdinfo");
    let text = run(Command::new("nbdinfo").arg("--json").arg(cluster.uri("disk")), 60);
    let info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let export = &info["exports"][0];
    assert_eq!(info["structured"], true);
    assert_eq!(export["export-size"], 384 * MIB);
    for feature in ["can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero", "can_multi_conn", "can_df"] {
        assert_eq!(export[feature], true, "{feature}");
    }
    assert_eq!(export["is_read_only"], false);
    let limits = [("block_size_minimum", 1_u64), ("block_size_preferred", 4096), ("block_size_maximum", 32 * MIB)];
    for (name, bytes) in limits {
        assert_eq!(export[name], bytes, "{name}");
    }
    let list = run(Command::new("nbdinfo").args(["--list", &format!("nbd://{}", cluster.nbd_address())]), 60);
    assert!(list.contains("export=\"disk\""), "{list}");
    // An empty volume is one hole; what was written is data.
    let map = run(Command::new("nbdinfo").args(["--map", "--totals"]).arg(cluster.uri("disk")), 60);
    assert!(map.contains("100.0%") && map.contains("hole,zero"), "{map}");
    run(Command::new("qemu-io").args(["-f", "raw", "-c", "write -P 7 1M 64k", "-c", "flush"]).arg(cluster.uri("disk")), 60);
    let map = run(Command::new("nbdinfo").arg("--map").arg(cluster.uri("disk")), 60);
    let data: Vec<_> = map.lines().filter(|line| line.trim_end().ends_with("data")).collect();
    assert_eq!(data.len(), 1, "{map}");
    assert_eq!(data[0].split_whitespace().take(2).collect::<Vec<_>>(), ["1048576", "65536"], "{map}");
    let unknown = refuse(Command::new("qemu-img").arg("info").arg(cluster.uri("nothing")), 60);
    assert!(unknown.contains("nothing"), "the error names the export: {unknown}");
}

#[test]
fn qemu_img_converts_from_and_to_qcow2() {
    let cluster = cluster("qemu-img");
    let place = &cluster.place;
    let (raw, image, back) = (place.path("in.raw"), place.path("in.qcow2"), place.path("out.qcow2"));
    random_file(&raw, 40 * MIB, 11);
    run(Command::new("truncate").args(["-s", &(384 * MIB).to_string()]).arg(&raw), 20);
    run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&image), 120);
    run(Command::new("qemu-img").args(["convert", "-n", "-f", "qcow2", "-O", "raw"]).arg(&image).arg(cluster.uri("disk")), 300);
    run(Command::new("qemu-img").args(["compare", "-f", "qcow2", "-F", "raw"]).arg(&image).arg(cluster.uri("disk")), 300);
    run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(cluster.uri("disk")).arg(&back), 300);
    run(Command::new("qemu-img").args(["compare", "-f", "qcow2", "-F", "raw"]).arg(&back).arg(&raw), 300);
}

#[test]
fn qemu_io_patterns_hold_at_any_alignment() {
    let cluster = cluster("qemu-io");
    let io = |commands: &[&str]| {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw", "-t", "none"]);
        for text in commands {
            command.args(["-c", text]);
        }
        let output = run(command.arg(cluster.uri("disk")), 120);
        assert!(!output.contains("fail") && !output.contains("error"), "{output}");
        output
    };
    // Across a stripe unit, across a stripe set, one sector, one byte, the last byte.
    io(&["write -P 0x11 0 1M", "write -P 0x22 130560 1024", "write -P 0x33 8388096 1024", "write -P 0x44 512 512"]);
    io(&["read -P 0x11 0 512", "read -P 0x44 512 512", "read -P 0x11 1024 129536", "read -P 0x22 130560 1024", "read -P 0x11 131584 4096"]);
    io(&["read -P 0 8387584 512", "read -P 0x33 8388096 1024", "read -P 0 8389120 512"]);
    io(&["write -P 0x55 4097 1", "write -P 0x66 402653183 1", "flush"]);
    io(&["read -P 0x11 4096 1", "read -P 0x55 4097 1", "read -P 0x11 4098 100", "read -P 0x66 402653183 1", "read -P 0 402653182 1"]);
    io(&["write -z 8192 8192", "discard 16384 8192", "write -z -u 100000 5001"]);
    io(&["read -P 0x11 4200 3992", "read -P 0 8192 16384", "read -P 0x11 24576 75424", "read -P 0 100000 5001", "read -P 0x11 105001 100"]);
    io(&["write -f -P 0x77 3M 2M", "aio_write -P 0x88 6M 512k", "aio_write -P 0x99 7M 64k", "aio_flush", "read -P 0x88 6M 512k"]);
    io(&["read -P 0x77 3M 2M", "read -P 0x99 7M 64k"]);
}
