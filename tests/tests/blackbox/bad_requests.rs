//! Wrong, hostile or vanishing peers on every port: each gets a clear answer or none, and nobody else notices.

use crate::harness::cluster::{Cluster, RESTART};
use crate::harness::nbd::{Client, FLUSH, READ, Refusal, TRIM, WRITE, WRITE_ZEROES};
use std::io::Write;
use std::net::TcpStream;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;

fn cluster(name: &str) -> Cluster {
    Cluster::start(name, 96 * MIB, "disk", SIZE)
}

#[test]
fn bad_nbd_requests_get_their_error_and_the_connection_lives() {
    let mut cluster = cluster("bad-nbd");
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    client.write(0, &[0x5a; 65_536]);
    for (command, flags, offset, len, error) in [
        (READ, 0, SIZE, 1, 22),
        (READ, 0, SIZE - 1, 2, 22),
        (READ, 0, u64::MAX, 4096, 22),
        (READ, 0, 0, 33 << 20, 22),
        (READ, 4, 0, 4096, 22),
        (WRITE_ZEROES, 0, SIZE - 4096, 8192, 28),
        (TRIM, 0, SIZE, 4096, 22),
        (FLUSH, 0, 4096, 0, 22),
        (7, 0, 0, 4096, 22),
        (5, 0, 0, 4096, 22),
        (4711, 0, 0, 0, 22),
        (READ, 0x4000, 0, 4096, 22),
    ] {
        let said = client.call(command, flags, offset, len, &[]).expect("the connection lives");
        // The largest read that is refused may be called too long as well.
        assert!(said == error || (said == 75 && len > 32 << 20), "command {command} at {offset}+{len}: error {said}, not {error}");
    }
    assert_eq!(client.call(WRITE, 0, SIZE - 512, 1024, &[1; 1024]).expect("the connection lives"), 28);
    assert_eq!(client.read(0, 65_536).expect("untouched"), [0x5a; 65_536]);
    assert_eq!(client.read(SIZE - 512, 512).expect("untouched"), [0; 512]);
    cluster.check();
}

#[test]
fn garbage_on_every_port_disturbs_nobody() {
    let mut cluster = cluster("garbage");
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    client.write(0, &[0x5a; 65_536]);
    let ports = [
        cluster.nbd_address(),
        cluster.control_address(),
        cluster.rest_address(),
        cluster.data_address(0),
        cluster.data_address(1),
        cluster.data_address(2),
    ];
    let garbage: [Vec<u8>; 7] = [
        Vec::new(),
        vec![0],
        vec![0; 100_000],
        vec![0xff; 100_000],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        (0..50_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect(),
        b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff".to_vec(),
    ];
    for round in 0..3 {
        for port in &ports {
            for bytes in &garbage {
                let mut stream = TcpStream::connect(port).unwrap_or_else(|error| panic!("{port}: {error}"));
                // It may close while we are still talking.
                let _sent = stream.write_all(&bytes[..bytes.len() * (round + 1) / 3]);
            }
        }
        assert_eq!(client.read(0, 65_536).expect("undisturbed"), [0x5a; 65_536]);
        client.write(1 << 20, &[round.to_le_bytes()[0]; 8192]);
        client.flush();
    }
    cluster.check();
    assert!(cluster.status().is_some(), "the REST answers");
}

#[test]
fn peers_that_stop_in_the_middle_hold_nothing_up() {
    let mut cluster = cluster("half-sent");
    let address = cluster.nbd_address();
    let mut kept = Vec::new();
    for cut in [0, 3, 4, 12, 19, 20] {
        // Half an option.
        let mut half = Client::greet(&address).expect("greeted");
        half.send(&b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0"[..cut]).expect("sent");
        kept.push(half);
    }
    for cut in [1_usize, 27, 28, 29, 4000, 70_000, 200_000] {
        // Half a write: nothing of the block it ends in may be seen, and its client vanishes.
        let mut half = Client::open(&address, "disk").expect("ready");
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]);
        bytes.extend((32 * MIB).to_be_bytes());
        bytes.extend(262_144_u32.to_be_bytes());
        bytes.resize(28 + 262_144, 0xcc);
        half.send(&bytes[..cut]).expect("sent");
        if cut % 2 == 0 {
            kept.push(half);
        }
    }
    for number in 0..3 {
        // A data server is told half of something.
        let mut stream = TcpStream::connect(cluster.data_address(number)).expect("listens");
        stream.write_all(&[0x53; 17]).expect("sent");
        std::mem::forget(stream);
    }
    let mut client = Client::open(&address, "disk").expect("ready");
    client.write(0, &[0x5a; 65_536]);
    client.flush();
    assert_eq!(client.read(0, 65_536).expect("readable"), [0x5a; 65_536]);
    drop(kept);
    cluster.check();
    cluster.wait_for_export("disk", RESTART);
}

#[test]
fn unknown_exports_and_options_are_refused_by_name() {
    let cluster = cluster("unknown");
    for name in ["nothing", "Disk", "disk ", "../disk", "\u{1f980}", &"n".repeat(255)] {
        match Client::open(&cluster.nbd_address(), name) {
            Err(Refusal::Refused(0x8000_0006, text)) => assert!(text.contains(name) || name.len() > 200, "{name:?}: {text}"),
            other => panic!("{name:?}: {other:?}"),
        }
    }
    let mut client = Client::greet(&cluster.nbd_address()).expect("greeted");
    client.option(4711, b"what?").expect("sent");
    assert_eq!(client.option_reply().expect("answered").0, 0x8000_0001);
    client.option(5, &[]).expect("sent");
    assert_eq!(client.option_reply().expect("answered").0, 0x8000_0001);
    client.option(7, b"malformed").expect("sent");
    assert_eq!(client.option_reply().expect("answered").0, 0x8000_0003);
    client.option(2, &[]).expect("sent");
    assert_eq!(client.option_reply().expect("answered").0, 1);
    assert!(client.is_closed(10));
    let mut client = Client::greet(&cluster.nbd_address()).expect("greeted");
    client.send(b"this is no option at all, is it?").expect("sent");
    assert!(client.is_closed(10));
}

#[test]
fn ten_thousand_requests_and_a_client_that_never_reads_grow_nothing() {
    let mut cluster = cluster("never-reads");
    let address = cluster.nbd_address();
    let mut client = Client::open(&address, "disk").expect("ready");
    for offset in (0..4 * MIB).step_by(1 << 20) {
        client.write(offset, &vec![0x5a; 1 << 20]);
    }
    let pid = cluster.daemon(crate::harness::cluster::Process::Sdc).pid();
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB")
    };
    // What a busy connection needs is needed once.
    for _ in 0..64 {
        client.read(0, 1 << 20).expect("readable");
    }
    let before = resident();
    let hogs: Vec<_> = (0..3)
        .map(|_| {
            let address = address.clone();
            std::thread::spawn(move || {
                let mut hog = Client::open(&address, "disk").expect("ready");
                hog.limit_writes(std::time::Duration::from_millis(500));
                // 10 GiB of replies that nobody reads; at some point not even requests are taken.
                (0..10_000).take_while(|cookie| hog.request(READ, 0, *cookie, cookie % 4 * MIB, 1 << 20, &[]).is_ok()).count();
                hog
            })
        })
        .collect();
    let hogs: Vec<_> = hogs.into_iter().map(|hog| hog.join().expect("no panic")).collect();
    let grown = resident().saturating_sub(before);
    assert!(grown < 128 * 1024, "resident memory of sdc grew by {grown} KiB");
    // Others are served meanwhile.
    for _ in 0..8 {
        assert_eq!(client.read(MIB, 4096).expect("served"), [0x5a; 4096]);
        client.write(8 * MIB, &[7; 65_536]);
    }
    client.flush();
    drop(hogs);
    // 10,000 requests outstanding at once, and read in the end.
    let mut many = Client::open(&address, "disk").expect("ready");
    let mut writer = many.second_handle();
    let sender = std::thread::spawn(move || {
        for cookie in 0..10_000 {
            writer.request(READ, 0, cookie, cookie % 1000 * 4096, 4096, &[]).expect("taken");
        }
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    for _ in 0..10_000 {
        let (_, error) = many.reply().expect("answered");
        assert_eq!(error, 0);
        assert_eq!(many.data(4096).expect("bytes follow"), [0x5a; 4096]);
    }
    sender.join().expect("no panic");
    cluster.check();
}
