//! Two copies on three hosts whose wires are cut: from everybody, from each other, from the MDM, one way, or with refusals.
//! Nothing acknowledged is lost, nothing wrong is read, and the copies are the same when the wires are mended. Needs root.
//!
//! `SDS_CUT_ROUNDS` says how often a host is cut off silently (default 3).

use crate::copies::{longest_gap, verify, verify_each_copy, wait_until_clean};
use crate::harness::cluster::{Cluster, Process, RESTART};
use crate::harness::load::{Load, regions};
use sds_benches::network::Cut;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const DEVICE: u64 = 128 * MIB;
const VOLUME: u64 = 96 * MIB;
/// Longest pause of client I/O that a host that is cut off may cause here; what is aimed at is 2.5 s.
const GAP_MAX: Duration = Duration::from_secs(8);

fn rounds() -> usize {
    std::env::var("SDS_CUT_ROUNDS").map_or(3, |rounds| rounds.parse().expect("SDS_CUT_ROUNDS is a number"))
}

/// Cuts hosts one after the other under load, each in its way, and mends them; gives the longest gap of each.
fn cut_one_by_one(name: &str, more: &str, seed: u64, cuts: &[(usize, Cut)], span: Duration) -> Vec<Duration> {
    let mut cluster = Cluster::start_on_hosts(more, name, DEVICE, "disk", VOLUME);
    let mut areas = regions(VOLUME, 4, seed);
    let mut gaps = Vec::new();
    for (host, cut) in cuts {
        wait_until_clean(&mut cluster);
        let load = Load::start(&cluster.nbd_address(), "disk", std::mem::take(&mut areas), 16);
        load.wait_for(300, 60);
        cluster.network().cut(*host, *cut).expect("cut");
        let gap = longest_gap(&load, span);
        cluster.network().mend(*host).expect("mended");
        eprintln!("host {host}, {cut:?} for {span:?}: longest gap {gap:?}");
        gaps.push(gap);
        load.wait_for(300, RESTART);
        areas = load.finish();
        verify(&cluster, &mut areas);
        cluster.check();
    }
    verify_each_copy(&mut cluster, &mut areas);
    gaps
}

#[test]
fn a_host_that_is_cut_off_silently_is_done_without() {
    let cuts: Vec<_> = (0..rounds()).map(|round| (round % 3, Cut::Off)).collect();
    let mut gaps = cut_one_by_one("cut-off", "", 91, &cuts, Duration::from_secs(5));
    gaps.sort_unstable();
    eprintln!("longest gap of client I/O for each host cut off: {gaps:?}");
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "{gaps:?}");
}

#[test]
fn a_host_that_only_hears_or_only_speaks_is_done_without() {
    let cuts = [(0, Cut::Deaf), (1, Cut::Mute), (2, Cut::Deaf), (0, Cut::Mute)];
    let gaps = cut_one_by_one("cut-one-way", "", 92, &cuts, Duration::from_secs(5));
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "{gaps:?}");
}

#[test]
fn hosts_that_do_not_reach_each_other_do_not_diverge() {
    let gaps = cut_one_by_one("cut-peers", "", 93, &[(0, Cut::FromPeers), (1, Cut::FromPeers)], Duration::from_secs(5));
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "{gaps:?}");
}

#[test]
fn a_host_without_the_mdm_goes_on_until_a_copy_is_lost() {
    let mut cluster = Cluster::start_on_hosts("", "cut-mdm", DEVICE, "disk", VOLUME);
    wait_until_clean(&mut cluster);
    let load = Load::start(&cluster.nbd_address(), "disk", regions(VOLUME, 4, 94), 16);
    load.wait_for(300, 60);
    let port = cluster.control_port();
    cluster.network().cut(0, Cut::FromPort(port)).expect("cut");
    let gap = longest_gap(&load, Duration::from_secs(8));
    eprintln!("a host without the MDM: longest gap {gap:?}");
    assert!(gap < Duration::from_secs(2), "steady I/O needs no MDM: {gap:?}");
    // Those that reach the MDM go on without a server that dies; this one waits for the MDM.
    cluster.kill(Process::Sds(1));
    std::thread::sleep(Duration::from_secs(2));
    cluster.network().mend(0).expect("mended");
    load.wait_for(500, RESTART);
    cluster.begin(Process::Sds(1));
    load.wait_for(300, RESTART);
    let mut areas = load.finish();
    verify(&cluster, &mut areas);
    verify_each_copy(&mut cluster, &mut areas);
}

#[test]
fn refusals_for_a_host_that_lives_do_not_make_copies_diverge() {
    let cuts = [(0, Cut::Refusing), (1, Cut::Refusing), (2, Cut::Refusing)];
    let gaps = cut_one_by_one("cut-refusing", "trust_refused = false\n", 95, &cuts, Duration::from_secs(4));
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "{gaps:?}");
}
