//! Bytes flipped by hand on a device: noticed, named, never handed out as data.
//!
//! Of the format only this is used: a block that is not data starts with eight letters that say what
//! it is (`docs/on-disk-format.md`).

use crate::harness::cluster::{Cluster, Process, RESTART, devices};
use crate::harness::nbd::{Client, READ};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
const BLOCK_LEN: u32 = 4096;
const SIZE: u64 = 24 * MIB;

/// Offsets of the 4 KiB blocks of a device that satisfy a condition.
fn blocks_where(path: &Path, mut wanted: impl FnMut(&[u8]) -> bool) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let blocks = (0..).step_by(BLOCK).zip(bytes.chunks_exact(BLOCK));
    blocks.filter_map(|(offset, block)| wanted(block).then_some(offset)).collect()
}

/// Changes one bit.
fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).expect("the device's file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("inside");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).expect("inside");
    file.sync_all().expect("on the medium");
}

/// Content of a block that is like no other.
fn content(number: u64) -> Vec<u8> {
    (0..BLOCK as u64 / 8)
        .flat_map(|word| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(word * 3 + 1).to_le_bytes())
        .collect()
}

/// A volume whose every block was written, flushed and sealed.
fn filled(name: &str) -> (Cluster, Client) {
    fill(Cluster::start(name, 64 * MIB, "disk", SIZE))
}

/// The same with two copies of each block.
fn filled_twice(name: &str) -> (Cluster, Client) {
    fill(Cluster::start_with_two_copies(name, 64 * MIB, "disk", SIZE))
}

fn fill(mut cluster: Cluster) -> (Cluster, Client) {
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    for first in (0..SIZE).step_by(1 << 20) {
        let bytes: Vec<u8> = (first..first + MIB).step_by(BLOCK).flat_map(|at| content(at / BLOCK as u64)).collect();
        client.write(first, &bytes);
    }
    client.flush();
    // Extents are sealed one second after their last write.
    std::thread::sleep(Duration::from_secs(3));
    cluster.check();
    (cluster, client)
}

/// Device and offset of a block of the volume.
fn find(cluster: &Cluster, number: u64) -> (usize, u64) {
    let found = find_all(cluster, number);
    assert_eq!(found.len(), 1, "one copy of block {number}");
    found[0]
}

/// The same for every copy of it.
fn find_all(cluster: &Cluster, number: u64) -> Vec<(usize, u64)> {
    let wanted = content(number);
    (0..3)
        .flat_map(|device| blocks_where(&cluster.device(device), |block| block == wanted).into_iter().map(move |at| (device, at)))
        .collect()
}

/// Reads every block by itself; the numbers of those that cannot be read.
fn unreadable(client: &mut Client) -> Vec<u64> {
    let mut bad = Vec::new();
    for number in 0..SIZE / BLOCK as u64 {
        match client.read(number * BLOCK as u64, BLOCK_LEN) {
            Ok(bytes) => assert!(bytes == content(number), "block {number} reads as something else than was written"),
            Err(error) => {
                assert_eq!(error, 5, "block {number}");
                bad.push(number);
            }
        }
    }
    bad
}

/// Sum of a fault count over all devices, as status tells it.
fn faults(cluster: &Cluster, name: &str) -> u64 {
    let status = cluster.status().expect("the MDM answers");
    devices(&status).iter().map(|device| device["faults"][name].as_u64().unwrap_or_else(|| panic!("no count of {name}: {status:#?}"))).sum()
}

fn wait_for_faults(cluster: &Cluster, name: &str) {
    let start = Instant::now();
    while faults(cluster, name) == 0 {
        assert!(start.elapsed() < Duration::from_secs(15), "status counts no {name}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Stops a data server, does something to its device, starts it again; whether the device then opens,
/// and what is said about it.
fn while_stopped(cluster: &mut Cluster, number: usize, action: impl FnOnce(&Path)) -> (bool, String) {
    cluster.stop(Process::Sds(number));
    action(&cluster.device(number));
    restart(cluster, number)
}

fn restart(cluster: &mut Cluster, number: usize) -> (bool, String) {
    cluster.begin(Process::Sds(number));
    let line =
        cluster.daemon(Process::Sds(number)).wait_for_any(&["device is open", "device cannot be opened", "device cannot be used"], RESTART);
    (line.contains("is open"), line)
}

#[test]
fn a_flipped_data_byte_is_an_error_of_that_block_only() {
    let (mut cluster, mut client) = filled("flip-data");
    assert_eq!(unreadable(&mut client), [0_u64; 0]);
    let victim = 1234;
    let (device, offset) = find(&cluster, victim);
    flip(&cluster.device(device), offset + 1000);
    assert_eq!(unreadable(&mut client), [victim]);
    // A longer read that holds it fails as a whole (simple replies), and the connection lives.
    assert_eq!(client.call(READ, 0, (victim - 8) * BLOCK as u64, 65_536, &[]).expect("answered"), 5);
    // So does a write of part of it: there is nothing good to merge with.
    assert_eq!(client.call(1, 0, victim * BLOCK as u64 + 512, 512, &[1; 512]).expect("answered"), 5);
    wait_for_faults(&cluster, "data_mismatches");
    let status = cluster.status().expect("the MDM answers").to_string();
    assert!(status.contains("extent"), "status names the place: {status}");
    let log = cluster.daemon(Process::Sds(device)).output();
    assert!(log.contains("extent"), "the log names the place:\n{log}");
    // A restart changes nothing; a full overwrite heals.
    assert!(while_stopped(&mut cluster, device, |_| {}).0);
    assert_eq!(unreadable(&mut client), [victim]);
    client.write(victim * BLOCK as u64, &content(victim));
    client.flush();
    assert_eq!(unreadable(&mut client), [0_u64; 0]);
    cluster.check();
}

#[test]
fn a_data_block_in_the_place_of_another_is_noticed() {
    let (cluster, mut client) = filled("misdirected");
    let (from, to) = (find(&cluster, 40), find(&cluster, 41));
    let bytes = std::fs::read(cluster.device(from.0)).expect("readable");
    let at = usize::try_from(from.1).expect("64-bit");
    let file = File::options().write(true).open(cluster.device(to.0)).expect("the device's file");
    file.write_all_at(&bytes[at..at + BLOCK], to.1).expect("inside");
    file.sync_all().expect("on the medium");
    assert_eq!(unreadable(&mut client), [41]);
}

#[test]
fn flipped_descriptor_pages_are_noticed_and_never_give_wrong_data() {
    let (mut cluster, mut client) = filled("flip-descriptor");
    let (device, _) = find(&cluster, 0);
    // A clean stop has written every descriptor page that is needed.
    let (opens, line) = while_stopped(&mut cluster, device, |path| {
        let pages = blocks_where(path, |block| block.starts_with(b"sdsDESCR"));
        assert!(!pages.is_empty(), "a used device has descriptor pages");
        for page in pages {
            flip(path, page + 2000);
        }
    });
    assert!(opens, "damaged pages cost their extents, not the device: {line}");
    let bad = unreadable(&mut client);
    assert!(!bad.is_empty(), "descriptors are gone, so blocks must be");
    assert!((bad.len() as u64) < SIZE / BLOCK as u64, "the other devices are as they were");
    wait_for_faults(&cluster, "metadata_mismatches");
    cluster.check();
}

#[test]
fn one_damaged_superblock_is_survived_and_three_are_not() {
    let (mut cluster, mut client) = filled("flip-superblock");
    let superblocks = |path: &Path| blocks_where(path, |block| block.starts_with(b"sdsSUPER"));
    let (opens, line) = while_stopped(&mut cluster, 0, |path| {
        let copies = superblocks(path);
        assert_eq!(copies.len(), 4, "two at the head, two at the tail");
        flip(path, copies[0] + 100);
    });
    assert!(opens, "{line}");
    assert_eq!(unreadable(&mut client), [0_u64; 0]);
    let mut damaged = Vec::new();
    let (opens, line) = while_stopped(&mut cluster, 0, |path| {
        for copy in superblocks(path).into_iter().skip(1) {
            flip(path, copy + 100);
            damaged.push(copy);
        }
    });
    assert!(!opens && line.contains("superblock"), "{line}");
    cluster.wait_for_status("failed device", 30, |status| {
        devices(status).iter().any(|device| device["state"]["is"] == "failed" && device.to_string().contains("superblock"))
    });
    // Put right by hand, everything is there again: nothing was formatted or guessed.
    let (opens, line) = while_stopped(&mut cluster, 0, |path| {
        for copy in damaged {
            flip(path, copy + 100);
        }
    });
    assert!(opens, "{line}");
    assert_eq!(unreadable(&mut client), [0_u64; 0]);
}

#[test]
fn a_damaged_log_is_noticed_and_never_gives_wrong_data() {
    let (mut cluster, mut client) = filled("flip-log");
    // Flushed writes that only the log knows of: then the process dies.
    for number in 0..64 {
        client.write(number * 37 * BLOCK as u64, &content(number * 37));
        client.flush();
    }
    let (device, _) = find(&cluster, 0);
    cluster.kill(Process::Sds(device));
    let path = cluster.device(device);
    let blocks = blocks_where(&path, |block| block.starts_with(b"sdsRECLG"));
    assert!(blocks.len() > 2, "a used log");
    // One in the middle of what came last, and flushed blocks after it that say what was there.
    let newest: Vec<_> = blocks.iter().rev().skip(8).take(1).copied().collect();
    for block in &newest {
        flip(&path, block + 40);
    }
    let (opens, line) = restart(&mut cluster, device);
    if opens {
        // Before the checkpoint a block of the log matters to nobody; then all is as it was.
        assert_eq!(unreadable(&mut client), [0_u64; 0]);
    } else {
        assert!(line.contains("log block"), "it says what is wrong: {line}");
    }
    cluster.check();
}

#[test]
fn with_two_copies_a_flipped_byte_is_repaired_and_only_both_are_an_error() {
    let (mut cluster, mut client) = filled_twice("flip-two");
    let (once, twice) = (1234, 4321);
    // Which copy is the primary's nobody can see from here: one of these is, and it is repaired; the other is never read.
    for (device, offset) in find_all(&cluster, once) {
        flip(&cluster.device(device), offset + 1000);
        assert_eq!(unreadable(&mut client), [0_u64; 0], "the other copy has it");
        let copies = find_all(&cluster, once);
        if copies.len() < 2 {
            flip(&cluster.device(device), offset + 1000);
        }
    }
    assert_eq!(find_all(&cluster, once).len(), 2);
    wait_for_faults(&cluster, "data_mismatches");
    for (device, offset) in find_all(&cluster, twice) {
        flip(&cluster.device(device), offset + 9);
    }
    assert_eq!(unreadable(&mut client), [twice], "nothing is invented");
    client.write(twice * BLOCK as u64, &content(twice));
    client.flush();
    assert_eq!(unreadable(&mut client), [0_u64; 0]);
    cluster.check();
}

#[test]
fn with_two_copies_a_device_that_was_cut_short_or_overwritten_is_done_without() {
    let (mut cluster, mut client) = filled_twice("swap-two");
    let (opens, said) = while_stopped(&mut cluster, 1, |path| File::options().write(true).open(path).unwrap().set_len(32 * MIB).unwrap());
    assert!(!opens && said.contains("truncated"), "{said}");
    assert_eq!(unreadable(&mut client), [0_u64; 0]);
    let (opens, said) = while_stopped(&mut cluster, 1, |path| std::fs::write(path, vec![0xee; 64 << 20]).unwrap());
    assert!(!opens, "{said}");
    assert_eq!(unreadable(&mut client), [0_u64; 0]);
    client.write(0, &content(0));
    client.flush();
    cluster.check();
}
