//! Two copies under a verified write load: servers are killed, stand still, and come back; each copy is read alone in the end.
//!
//! `SDS_COPY_ROUNDS` says how many kill rounds (default 6); `SDS_PAUSE_SECONDS` how long a server stands still at most (default 10; try 30).

use crate::harness::cluster::{ALL, Cluster, Process, RESTART};
use crate::harness::load::{Load, Region, regions};
use crate::harness::nbd::Client;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Longest pause of client I/O that a dead server may cause here: the machine may be busy with other tests. What is aimed at is 0.5 s.
const GAP_MAX: Duration = Duration::from_secs(5);

fn rounds() -> u64 {
    std::env::var("SDS_COPY_ROUNDS").map_or(6, |rounds| rounds.parse().expect("SDS_COPY_ROUNDS is a number"))
}

/// How long a server stands still at most.
pub(crate) fn pause_seconds() -> u64 {
    std::env::var("SDS_PAUSE_SECONDS").map_or(10, |seconds| seconds.parse().expect("SDS_PAUSE_SECONDS is a number"))
}

pub(crate) fn verify(cluster: &Cluster, regions: &mut [Region]) {
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("the export is there");
    for region in regions {
        region.verify(&mut client);
    }
}

fn wait_until_degraded(cluster: &mut Cluster) {
    cluster.wait_for_status("shards with a copy less", RESTART, |status| {
        let pools = status["pools"].as_array().cloned().unwrap_or_default();
        let pool = pools.iter().find(|pool| pool["name"] == "two");
        pool.is_some_and(|pool| pool["shards"]["clean"].as_u64() < pool["shards"]["total"].as_u64())
    });
}

pub(crate) fn wait_until_clean(cluster: &mut Cluster) {
    cluster.wait_for_status("clean shards", RESTART, |status| {
        let pools = status["pools"].as_array().cloned().unwrap_or_default();
        let pool = pools.iter().find(|pool| pool["name"] == "two");
        pool.is_some_and(|pool| pool["shards"]["total"].as_u64() > Some(0) && pool["shards"]["total"] == pool["shards"]["clean"])
    });
}

/// Lets the load go on for a while; gives the longest time without an answer.
pub(crate) fn longest_gap(load: &Load, span: Duration) -> Duration {
    let start = Instant::now();
    let (mut last, mut since, mut longest) = (load.acknowledged(), start, Duration::ZERO);
    while start.elapsed() < span {
        std::thread::sleep(Duration::from_millis(2));
        let now = load.acknowledged();
        longest = longest.max(since.elapsed());
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    longest
}

/// Reads everything while each server in turn is down: every copy is seen alone.
pub(crate) fn verify_each_copy(cluster: &mut Cluster, areas: &mut [Region]) {
    for number in 0..3 {
        wait_until_clean(cluster);
        cluster.kill(Process::Sds(number));
        // Before that is known, all would look clean still when the server is back, and the next one would be killed beside it.
        wait_until_degraded(cluster);
        verify(cluster, areas);
        cluster.begin(Process::Sds(number));
    }
    wait_until_clean(cluster);
}

#[test]
fn killed_servers_are_not_noticed_and_come_back() {
    let mut cluster = Cluster::start_with_two_copies("copies", 128 * MIB, "disk", 128 * MIB);
    let mut areas = regions(128 * MIB, 4, 77);
    let mut gaps = Vec::new();
    for round in 0..rounds() {
        wait_until_clean(&mut cluster);
        let load = Load::start(&cluster.nbd_address(), "disk", std::mem::take(&mut areas), 16);
        load.wait_for(200 + round * 997 % 3000, 120);
        let everything = round % 4 == 3;
        if everything {
            cluster.kill_all();
            for process in ALL {
                cluster.begin(process);
            }
            areas = load.cut();
        } else {
            let victim = Process::Sds((round % 3) as usize);
            cluster.kill(victim);
            gaps.push(longest_gap(&load, Duration::from_millis(3000)));
            cluster.begin(victim);
            load.wait_for(500, RESTART);
            areas = load.finish();
        }
        cluster.wait_for_export("disk", RESTART);
        verify(&cluster, &mut areas);
        cluster.check();
    }
    gaps.sort_unstable();
    eprintln!("longest gap of client I/O for each kill of a server: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "{gaps:?}");
    verify_each_copy(&mut cluster, &mut areas);
}

#[test]
fn a_server_that_stands_still_is_done_without_and_never_answers_wrongly() {
    let mut cluster = Cluster::start_with_two_copies("copies-pause", 128 * MIB, "disk", 96 * MIB);
    let mut areas = regions(96 * MIB, 4, 78);
    for (victim, seconds) in [(0, 1), (1, 4), (2, 2), (0, pause_seconds())] {
        wait_until_clean(&mut cluster);
        let load = Load::start(&cluster.nbd_address(), "disk", std::mem::take(&mut areas), 16);
        load.wait_for(300, 60);
        cluster.daemon(Process::Sds(victim)).signal(rustix::process::Signal::STOP);
        let gap = longest_gap(&load, Duration::from_secs(seconds));
        cluster.daemon(Process::Sds(victim)).signal(rustix::process::Signal::CONT);
        load.wait_for(300, RESTART);
        areas = load.finish();
        eprintln!("server {victim} stood still for {seconds} s: longest gap {gap:?}");
        verify(&cluster, &mut areas);
    }
    verify_each_copy(&mut cluster, &mut areas);
}

#[test]
fn without_the_mdm_io_goes_on_and_a_server_is_waited_for() {
    let mut cluster = Cluster::start_with_two_copies("copies-mdm", 128 * MIB, "disk", 96 * MIB);
    wait_until_clean(&mut cluster);
    let load = Load::start(&cluster.nbd_address(), "disk", regions(96 * MIB, 4, 79), 16);
    load.wait_for(300, 60);
    cluster.kill(Process::Mdm);
    let gap = longest_gap(&load, Duration::from_secs(3));
    eprintln!("MDM down: longest gap {gap:?}");
    assert!(gap < Duration::from_secs(2), "steady I/O needs no MDM: {gap:?}");
    cluster.kill(Process::Sds(1));
    std::thread::sleep(Duration::from_secs(1));
    cluster.begin(Process::Mdm);
    load.wait_for(500, RESTART);
    cluster.begin(Process::Sds(1));
    load.wait_for(500, RESTART);
    let mut areas = load.finish();
    verify(&cluster, &mut areas);
    verify_each_copy(&mut cluster, &mut areas);
}
