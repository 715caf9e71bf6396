//! kill -9 in the middle of a verified write load: nothing acknowledged is lost.
//!
//! `SDS_KILL_ROUNDS` says how many rounds (default 6); each kills one process in turn, or everything.

use crate::harness::cluster::{ALL, Cluster, Process, RESTART};
use crate::harness::load::{Load, Region, regions};
use crate::harness::nbd::Client;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const CONNECTIONS: u64 = 4;

fn rounds() -> u64 {
    std::env::var("SDS_KILL_ROUNDS").map_or(6, |rounds| rounds.parse().expect("SDS_KILL_ROUNDS is a number"))
}

fn verify(cluster: &Cluster, regions: &mut [Region]) {
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("the export is there");
    for region in regions {
        region.verify(&mut client);
    }
}

/// What is killed in a round.
fn victims(round: u64) -> &'static [Process] {
    match round % 6 {
        0 => &[Process::Sds(0)],
        1 => &ALL,
        2 => &[Process::Sdc],
        3 => &[Process::Sds(1)],
        4 => &[Process::Mdm],
        _ => &[Process::Sds(2), Process::Mdm],
    }
}

fn kill_round(cluster: &mut Cluster, round: u64, mut areas: Vec<Region>) -> Vec<Region> {
    let victims = victims(round);
    let load = Load::start(&cluster.nbd_address(), "disk", std::mem::take(&mut areas), 16);
    // Some rounds find the load young, some old: extents active, sealed, log wrapped.
    load.wait_for(200 + round * 997 % 3000, 120);
    eprintln!("round {round}: kill -9 of {victims:?} after {} answers", load.acknowledged());
    if victims.len() == ALL.len() {
        cluster.kill_all();
    } else {
        for victim in victims {
            cluster.kill(*victim);
        }
    }
    if victims == [Process::Mdm] {
        // Steady I/O needs no MDM.
        load.wait_for(500, 60);
    }
    std::thread::sleep(Duration::from_millis(round * 37 % 300));
    for victim in victims {
        cluster.begin(*victim);
    }
    let cut = victims.contains(&Process::Sdc);
    let mut areas = if cut {
        load.cut()
    } else {
        // The same connections go on, without an error.
        load.wait_for(500, RESTART);
        load.finish()
    };
    cluster.wait_for_export("disk", RESTART);
    verify(cluster, &mut areas);
    areas
}

#[test]
fn nothing_acknowledged_is_lost_when_processes_are_killed() {
    let mut cluster = Cluster::start("kills", 128 * MIB, "disk", 128 * MIB);
    let mut areas = regions(128 * MIB, CONNECTIONS, 41);
    for round in 0..rounds() {
        areas = kill_round(&mut cluster, round, areas);
        cluster.check();
    }
    // Stopped cleanly and started again, it is all still there.
    for process in [Process::Sdc, Process::Sds(0), Process::Sds(1), Process::Sds(2), Process::Mdm] {
        cluster.stop(process);
    }
    for process in ALL {
        cluster.begin(process);
    }
    cluster.wait_for_export("disk", RESTART);
    verify(&cluster, &mut areas);
}

#[test]
fn a_data_server_killed_again_while_it_recovers_recovers() {
    let mut cluster = Cluster::start("kill-twice", 128 * MIB, "disk", 96 * MIB);
    let load = Load::start(&cluster.nbd_address(), "disk", regions(96 * MIB, CONNECTIONS, 5), 16);
    for pause in [0, 5, 20, 60, 150] {
        load.wait_for(300, RESTART);
        cluster.kill(Process::Sds(1));
        cluster.begin(Process::Sds(1));
        std::thread::sleep(Duration::from_millis(pause));
        cluster.kill(Process::Sds(1));
        cluster.begin(Process::Sds(1));
    }
    load.wait_for(300, RESTART);
    let mut areas = load.finish();
    verify(&cluster, &mut areas);
}

#[test]
fn a_data_server_that_stands_still_is_waited_for() {
    let mut cluster = Cluster::start("pause", 128 * MIB, "disk", 96 * MIB);
    let load = Load::start(&cluster.nbd_address(), "disk", regions(96 * MIB, CONNECTIONS, 6), 16);
    for victim in [Process::Sds(0), Process::Sdc, Process::Mdm] {
        load.wait_for(300, 60);
        cluster.daemon(victim).signal(rustix::process::Signal::STOP);
        std::thread::sleep(Duration::from_secs(3));
        cluster.daemon(victim).signal(rustix::process::Signal::CONT);
    }
    load.wait_for(300, RESTART);
    let mut areas = load.finish();
    verify(&cluster, &mut areas);
}
