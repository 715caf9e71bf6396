//! Two copies on hosts whose wires are cut: from everybody, from each other, from the MDM, one way, or with refusals.
//! Nothing acknowledged is lost, nothing wrong is read, and the copies are the same when the wires are mended. Needs root.
//!
//! `SDS_CUT_ROUNDS` says how often a host is cut off silently (default 3); `SDS_PAUSE_SECONDS` how long a server stands still at most (10).

use crate::copies::{longest_gap, pause_seconds, verify, verify_each_copy, wait_until_clean};
use crate::harness::cluster::{Cluster, Process, RESTART};
use crate::harness::hosts::{Seen, Witness, on_host};
use crate::harness::load::{Load, regions};
use rustix::process::Signal;
use sds_benches::network::Cut;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const DEVICE: u64 = 128 * MIB;
const VOLUME: u64 = 96 * MIB;
/// Longest pause of client I/O that a host that is cut off may cause.
const GAP_MAX: Duration = Duration::from_millis(2500);
/// The host that has no server.
const SPARE: usize = 3;

fn rounds() -> usize {
    std::env::var("SDS_CUT_ROUNDS").map_or(3, |rounds| rounds.parse().expect("SDS_CUT_ROUNDS is a number"))
}

/// Cuts hosts one after the other under load, each in its way, and mends them; gives the longest gap of each.
fn cut_one_by_one(name: &str, more: &str, seed: u64, cuts: &[(usize, Cut)], span: Duration) -> Option<Vec<Duration>> {
    let mut cluster = Cluster::start_on_hosts(more, name, DEVICE, "disk", VOLUME)?;
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
    Some(gaps)
}

fn bounded(gaps: Option<Vec<Duration>>) {
    let gaps = gaps.unwrap_or_default();
    assert!(gaps.iter().all(|gap| *gap < GAP_MAX), "{gaps:?}");
}

#[test]
fn a_host_that_is_cut_off_silently_is_done_without() {
    let cuts: Vec<_> = (0..rounds()).map(|round| (round % 3, Cut::Off)).collect();
    bounded(cut_one_by_one("cut-off", "", 91, &cuts, Duration::from_secs(5)));
}

#[test]
fn a_host_that_only_hears_or_only_speaks_is_done_without() {
    let cuts = [(0, Cut::Deaf), (1, Cut::Mute), (2, Cut::Deaf), (0, Cut::Mute)];
    bounded(cut_one_by_one("cut-one-way", "", 92, &cuts, Duration::from_secs(5)));
}

#[test]
fn hosts_that_do_not_reach_each_other_do_not_diverge() {
    bounded(cut_one_by_one("cut-peers", "", 93, &[(0, Cut::FromPeers), (1, Cut::FromPeers)], Duration::from_secs(5)));
}

#[test]
fn refusals_for_a_host_that_lives_do_not_make_copies_diverge() {
    let cuts = [(0, Cut::Refusing), (1, Cut::Refusing), (2, Cut::RefusingAlone), (0, Cut::RefusingAlone)];
    bounded(cut_one_by_one("cut-refusing", "trust_refused = false\n", 95, &cuts, Duration::from_secs(4)));
}

#[test]
fn refusals_that_are_trusted_do_not_make_copies_diverge_either() {
    let cuts = [(0, Cut::Refusing), (1, Cut::Refusing), (2, Cut::RefusingAlone), (0, Cut::RefusingAlone)];
    bounded(cut_one_by_one("cut-trusted", "", 96, &cuts, Duration::from_secs(4)));
}

/// What nobody but clients and the MDM miss stays as it is: their requests wait, and go on.
#[test]
fn a_host_that_only_its_peers_reach_makes_clients_wait_and_loses_nothing() {
    let cuts = [(0, Cut::FromOutside), (1, Cut::FromOutside)];
    cut_one_by_one("cut-outside", "", 97, &cuts, Duration::from_secs(3));
}

#[test]
fn a_host_without_the_mdm_goes_on_until_a_copy_is_lost() {
    let Some(mut cluster) = Cluster::start_on_hosts("", "cut-mdm", DEVICE, "disk", VOLUME) else { return };
    wait_until_clean(&mut cluster);
    let load = Load::start(&cluster.nbd_address(), "disk", regions(VOLUME, 4, 94), 16);
    load.wait_for(300, 60);
    let port = cluster.control_port();
    cluster.network().cut(0, Cut::FromPort(port)).expect("cut");
    let gap = longest_gap(&load, Duration::from_secs(8));
    eprintln!("a host without the MDM: longest gap {gap:?}");
    assert!(gap < Duration::from_secs(2), "steady I/O needs no MDM: {gap:?}");
    (1..3).for_each(|host| cluster.network().cut(host, Cut::FromPort(port)).expect("cut"));
    let gap = longest_gap(&load, Duration::from_secs(12));
    eprintln!("all hosts without the MDM: longest gap {gap:?}");
    assert!(gap < Duration::from_secs(2), "steady I/O needs no MDM: {gap:?}");
    (1..3).for_each(|host| cluster.network().mend(host).expect("mended"));
    wait_until_known(&mut cluster, 2);
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

/// Waits until the MDM hears of so many servers.
fn wait_until_known(cluster: &mut Cluster, count: usize) {
    cluster.wait_for_status("servers that are up", RESTART, |status| {
        let servers = status["sds"].as_array().cloned().unwrap_or_default();
        servers.iter().filter(|server| server["state"] == "up").count() >= count
    });
}

/// A reader on a host of a primary that is cut off: it sees nothing that was overwritten, though its server still lives.
fn read_beside_the_cut(name: &str, more: &str, cuts: &[Cut]) -> Option<Seen> {
    let mut cluster = Cluster::start_on_hosts(more, name, DEVICE, "disk", VOLUME)?;
    let (_reader, address) = cluster.reader_on(0, "disk");
    let witness = wait_for_reader(&cluster, 0, &address);
    for cut in cuts {
        wait_until_clean(&mut cluster);
        witness.wait_for(20, RESTART);
        let before = witness.progress();
        cluster.network().cut(0, *cut).expect("cut");
        std::thread::sleep(Duration::from_secs(4));
        let during = witness.progress();
        cluster.network().mend(0).expect("mended");
        eprintln!("{name}, {cut:?}: {} writes and {} reads while it was cut off", during.0 - before.0, during.1 - before.1);
        assert!(during.0 > before.0, "the writer goes on without that host");
        witness.wait_for(20, RESTART);
        cluster.check();
    }
    let seen = witness.finish();
    eprintln!("{name}: {seen:?}");
    Some(seen)
}

fn wait_for_reader(cluster: &Cluster, host: usize, address: &str) -> Witness {
    let listening = address.to_owned();
    let opened = on_host(cluster.network(), host, move || {
        (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            crate::harness::nbd::Client::open(&listening, "disk").is_ok_and(|mut client| client.read(0, 4096).is_ok())
        })
    });
    assert!(opened.join().expect("no panic"), "the reader does not serve");
    Witness::start(cluster.network(), &cluster.nbd_address(), (host, address), "disk", VOLUME)
}

#[test]
fn a_reader_beside_a_primary_that_is_cut_off_sees_nothing_old() {
    let cuts = [Cut::Off, Cut::Deaf, Cut::Mute, Cut::FromPeers];
    let Some(seen) = read_beside_the_cut("read-beside", "", &cuts) else { return };
    assert_eq!(seen.stale, 0, "{seen:?}");
}

#[test]
fn a_reader_beside_a_primary_that_is_refused_sees_nothing_old_where_refusals_are_not_trusted() {
    let cuts = [Cut::RefusingAlone, Cut::Refusing, Cut::RefusingAlone];
    let Some(seen) = read_beside_the_cut("read-refused", "trust_refused = false\n", &cuts) else { return };
    assert_eq!(seen.stale, 0, "{seen:?}");
}

/// What it costs to trust where a firewall lies (`docs/failure-model.md`): bytes that were overwritten are read beside the old primary, for as long as its
/// lease lasts. It is also what shows that these tests would notice.
#[test]
fn refusals_that_are_trusted_cost_old_reads_for_a_lease_at_most() {
    let Some(seen) = read_beside_the_cut("read-trusted", "", &[Cut::RefusingAlone]) else { return };
    assert!(seen.stale_for < Duration::from_millis(1000), "a lease is 0.8 s: {seen:?}");
}

/// The reader asks a primary that stood still, and has heard of no other: it does not hear from the MDM.
#[test]
fn a_primary_that_stood_still_answers_nobody_with_old_bytes() {
    let Some(mut cluster) = Cluster::start_on_hosts("", "read-pause", DEVICE, "disk", VOLUME) else { return };
    let (_reader, address) = cluster.reader_on(SPARE, "disk");
    let witness = wait_for_reader(&cluster, SPARE, &address);
    for (victim, seconds) in [(0, 1), (1, 3), (2, pause_seconds())] {
        wait_until_clean(&mut cluster);
        witness.wait_for(20, RESTART);
        let port = cluster.control_port();
        cluster.network().cut(SPARE, Cut::FromPort(port)).expect("cut");
        let before = witness.progress();
        cluster.daemon(Process::Sds(victim)).signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(seconds));
        cluster.daemon(Process::Sds(victim)).signal(Signal::CONT);
        std::thread::sleep(Duration::from_secs(2));
        let during = witness.progress();
        cluster.network().mend(SPARE).expect("mended");
        eprintln!("server {victim} stood still for {seconds} s: {} writes, {} reads", during.0 - before.0, during.1 - before.1);
        witness.wait_for(20, RESTART);
    }
    let seen = witness.finish();
    assert_eq!(seen.stale, 0, "{seen:?}");
}

/// Whether a data server's port is reached from another host, or from outside.
fn reach(cluster: &Cluster, from: Option<usize>, to: usize) -> Result<(), ErrorKind> {
    let address: SocketAddr = cluster.data_address(to).parse().expect("an address");
    let connect = move || TcpStream::connect_timeout(&address, Duration::from_millis(700)).map(|_| ()).map_err(|error| error.kind());
    match from {
        Some(host) => on_host(cluster.network(), host, connect).join().expect("no panic"),
        None => connect(),
    }
}

/// A cut that does not cut would make all of these tests pass.
#[test]
fn cuts_cut_what_they_say() {
    let Some(cluster) = Cluster::start_on_hosts("", "cuts", DEVICE, "disk", VOLUME) else { return };
    const SILENT: Result<(), ErrorKind> = Err(ErrorKind::TimedOut);
    const REFUSED: Result<(), ErrorKind> = Err(ErrorKind::ConnectionRefused);
    // From outside, from a peer, to a peer.
    let cases = [
        (Cut::Off, [SILENT, SILENT, SILENT]),
        (Cut::Deaf, [SILENT, SILENT, SILENT]),
        (Cut::Mute, [SILENT, SILENT, SILENT]),
        (Cut::FromPeers, [Ok(()), SILENT, SILENT]),
        (Cut::FromOutside, [SILENT, Ok(()), Ok(())]),
        (Cut::FromPort(cluster.control_port()), [Ok(()); 3]),
        (Cut::Refusing, [Ok(()), REFUSED, REFUSED]),
        (Cut::RefusingAlone, [SILENT, REFUSED, REFUSED]),
    ];
    let all = |cluster: &Cluster| [reach(cluster, None, 0), reach(cluster, Some(1), 0), reach(cluster, Some(0), 1)];
    for (cut, expected) in cases {
        cluster.network().cut(0, cut).expect("cut");
        assert_eq!(all(&cluster), expected, "{cut:?}");
        assert_eq!(reach(&cluster, Some(0), 0), Ok(()), "a host reaches itself: {cut:?}");
        cluster.network().mend(0).expect("mended");
        assert_eq!(all(&cluster), [Ok(()); 3], "mended: {cut:?}");
    }
}
