//! A pool without space: writers are told, reads go on, nothing is lost, and trim gives space back.

use crate::harness::cluster::Cluster;
use crate::harness::nbd::{Client, TRIM, WRITE};

const MIB: u64 = 1 << 20;

#[test]
fn a_full_pool_refuses_first_writes_and_serves_everything_else() {
    // 3 × 64 MiB of devices, and a volume of 1 GiB that may be written nowhere near in full.
    let mut cluster = Cluster::start("full", 64 * MIB, "disk", 1 << 30);
    let mut client = Client::open(&cluster.nbd_address(), "disk").expect("ready");
    let mut written = Vec::new();
    let mut refused = 0;
    for number in 0..1024_u64 {
        let bytes = vec![number.to_le_bytes()[0] | 1; 1 << 20];
        match client.call(WRITE, 0, number * MIB, 1 << 20, &bytes).expect("the connection lives") {
            0 => written.push(number),
            28 => refused += 1,
            other => panic!("error {other} at {number} MiB"),
        }
        if refused >= 64 {
            break;
        }
    }
    assert!(refused >= 64, "the pool cannot hold 1 GiB");
    assert!(written.len() >= 90, "only {} MiB of 192 could be written", written.len());
    for number in &written {
        let bytes = client.read(number * MIB, 1 << 20).unwrap_or_else(|error| panic!("read at {number} MiB: error {error}"));
        assert!(bytes.iter().all(|byte| *byte == number.to_le_bytes()[0] | 1), "at {number} MiB");
    }
    // What has space may be written again.
    for number in &written {
        client.write(number * MIB + 8192, &[0xee; 4096]);
    }
    client.flush();
    // Space that is given back can be used again.
    for number in &written[..32] {
        assert_eq!(client.call(TRIM, 0, number * MIB, 1 << 20, &[]).expect("answered"), 0);
    }
    client.flush();
    let start = std::time::Instant::now();
    let mut again = 0;
    while again < 16 {
        for number in &written[..32] {
            again += u64::from(client.call(WRITE, 0, number * MIB, 4096, &[0x77; 4096]).expect("answered") == 0);
        }
        assert!(start.elapsed().as_secs() < 30, "trimmed space has not come back: {again} extents");
    }
    cluster.check();
}
