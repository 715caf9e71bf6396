//! Devices in the wrong server, with two copies: another server's, a copy of one that serves, another system's, an old image of its own.
//! Each is refused by name or taken for what it is; what is stored is read from the copies that are right.

use crate::copies::{verify, wait_until_clean};
use crate::harness::cluster::{Cluster, Process, RESTART};
use crate::harness::load::{Load, Region, regions};
use crate::harness::nbd::Client;
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const DEVICE: u64 = 64 * MIB;
const VOLUME: u64 = 32 * MIB;

/// A system that has something stored, on both copies: a busy machine may lose one for a moment.
fn loaded(name: &str, seed: u64) -> (Cluster, Vec<Region>) {
    let mut cluster = Cluster::start_with_two_copies(name, DEVICE, "disk", VOLUME);
    let areas = more(&cluster, regions(VOLUME, 2, seed), 2000);
    wait_until_clean(&mut cluster);
    (cluster, areas)
}

/// So many requests more, and all of it flushed.
fn more(cluster: &Cluster, areas: Vec<Region>, requests: u64) -> Vec<Region> {
    let load = Load::start(&cluster.nbd_address(), "disk", areas, 16);
    load.wait_for(requests, RESTART);
    let areas = load.finish();
    Client::open(&cluster.nbd_address(), "disk").expect("the export is there").flush();
    areas
}

/// Until no shard counts on the copy of this server: a partner that stops before it has said so would wait for it, for minutes.
fn wait_until_fallen_out(cluster: &Cluster, sds: &str) {
    let shards =
        |cluster: &Cluster| cluster.api("GET", "shards?pool=two", "").ok().filter(|(code, _)| *code == 200).map(|(_, answer)| answer);
    let counted = |shard: &Value| shard["in_sync"].as_array().is_some_and(|copies| copies.iter().any(|copy| copy["sds"] == sds));
    let patience = Instant::now() + Duration::from_secs(RESTART);
    loop {
        let answer = shards(cluster);
        let all = answer.as_ref().and_then(|answer| answer["shards"].as_array()).filter(|all| !all.is_empty());
        if all.is_some_and(|all| !all.iter().any(counted)) {
            return;
        }
        assert!(Instant::now() < patience, "shards still count on {sds}: {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_copy_of_a_device_that_serves_is_refused_by_name() {
    let (mut cluster, mut areas) = loaded("copied-device", 61);
    cluster.stop(Process::Sds(0));
    wait_until_fallen_out(&cluster, "sds0");
    let own = cluster.place.path("own.img");
    fs::rename(cluster.device(0), &own).expect("renamed");
    // While it is at rest: a copy is of one moment.
    cluster.stop(Process::Sds(1));
    fs::copy(cluster.device(1), cluster.device(0)).expect("copied");
    cluster.begin(Process::Sds(1));
    cluster.wait_for_devices(2, RESTART);
    cluster.begin(Process::Sds(0));
    let said = cluster.daemon(Process::Sds(0)).wait_for("is served by live data server", RESTART);
    assert!(said.contains("sds1"), "{said}");
    verify(&cluster, &mut areas);
    areas = more(&cluster, areas, 300);
    // With its own it is welcome.
    cluster.kill(Process::Sds(0));
    fs::rename(&own, cluster.device(0)).expect("renamed");
    cluster.begin(Process::Sds(0));
    wait_until_clean(&mut cluster);
    crate::copies::verify_each_copy(&mut cluster, &mut areas);
}

#[test]
fn devices_that_were_swapped_are_known_and_lose_nothing() {
    let (mut cluster, mut areas) = loaded("swapped-devices", 62);
    (0..2).for_each(|number| cluster.stop(Process::Sds(number)));
    let aside = cluster.place.path("aside.img");
    fs::rename(cluster.device(0), &aside).expect("renamed");
    fs::rename(cluster.device(1), cluster.device(0)).expect("renamed");
    fs::rename(&aside, cluster.device(1)).expect("renamed");
    (0..2).for_each(|number| cluster.begin(Process::Sds(number)));
    wait_until_clean(&mut cluster);
    verify(&cluster, &mut areas);
    areas = more(&cluster, areas, 300);
    crate::copies::verify_each_copy(&mut cluster, &mut areas);
}

#[test]
fn a_device_of_another_system_of_two_copies_is_refused_by_name() {
    let (mut first, mut of_first) = loaded("pairs-one", 63);
    let (mut second, mut areas) = loaded("pairs-two", 64);
    first.stop(Process::Sdc);
    first.stop(Process::Sds(0));
    second.stop(Process::Sds(0));
    let own = second.place.path("own.img");
    fs::rename(second.device(0), &own).expect("renamed");
    fs::copy(first.device(0), second.device(0)).expect("copied");
    second.begin(Process::Sds(0));
    second.daemon(Process::Sds(0)).wait_for("system", RESTART);
    verify(&second, &mut areas);
    areas = more(&second, areas, 300);
    second.kill(Process::Sds(0));
    // At home it is what it was.
    fs::rename(second.device(0), first.device(0)).expect("renamed");
    fs::rename(&own, second.device(0)).expect("renamed");
    second.begin(Process::Sds(0));
    wait_until_clean(&mut second);
    crate::copies::verify_each_copy(&mut second, &mut areas);
    first.begin(Process::Sds(0));
    first.begin(Process::Sdc);
    wait_until_clean(&mut first);
    first.wait_for_export("disk", RESTART);
    crate::copies::verify_each_copy(&mut first, &mut of_first);
}

#[test]
fn an_old_image_of_its_own_device_is_no_copy_in_sync() {
    let (mut cluster, areas) = loaded("old-image", 65);
    cluster.stop(Process::Sds(0));
    let old = cluster.place.path("old.img");
    fs::copy(cluster.device(0), &old).expect("copied");
    cluster.begin(Process::Sds(0));
    wait_until_clean(&mut cluster);
    let mut areas = more(&cluster, areas, 2000);
    // All at once: nobody is left who could say that this one missed anything, but the positions that were heard of.
    cluster.kill_all();
    fs::rename(&old, cluster.device(0)).expect("renamed");
    for process in crate::harness::cluster::ALL {
        cluster.begin(process);
    }
    cluster.wait_for_export("disk", RESTART);
    wait_until_clean(&mut cluster);
    verify(&cluster, &mut areas);
    crate::copies::verify_each_copy(&mut cluster, &mut areas);
}
