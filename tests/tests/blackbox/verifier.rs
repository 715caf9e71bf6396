//! The load's own verifier is tried on a server that is known to be right, and on one that forgets:
//! a verifier that cannot fail would prove nothing.

use crate::harness::daemon::Daemon;
use crate::harness::load::{Load, Region, regions};
use crate::harness::nbd::Client;
use crate::harness::place::{Place, free_port};
use std::process::Command;

const SIZE: u64 = 16 << 20;

fn nbdkit(place: &Place, port: u16) -> Daemon {
    let mut command = Command::new("nbdkit");
    command.args(["--foreground", "--ipaddr=127.0.0.1", &format!("--port={port}"), "memory", &SIZE.to_string()]);
    let daemon = Daemon::start("nbdkit", &mut command, &place.path("nbdkit.log"));
    for _ in 0..500 {
        if Client::open(&format!("127.0.0.1:{port}"), "").is_ok() {
            return daemon;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("nbdkit does not serve:\n{}", daemon.output());
}

fn loaded(address: &str) -> Vec<Region> {
    let load = Load::start(address, "", regions(SIZE, 3, 9), 16);
    load.wait_for(5000, 120);
    load.finish()
}

fn verify(address: &str, areas: &mut [Region]) {
    let mut client = Client::open(address, "").expect("serves");
    for area in areas {
        area.verify(&mut client);
    }
}

#[test]
fn a_server_that_is_right_passes() {
    let (place, port) = (Place::new("verifier-right"), free_port());
    let _daemon = nbdkit(&place, port);
    let address = format!("127.0.0.1:{port}");
    let mut areas = loaded(&address);
    verify(&address, &mut areas);
    let load = Load::start(&address, "", areas, 16);
    load.wait_for(1000, 60);
    verify(&address, &mut load.finish());
}

#[test]
#[should_panic(expected = "reads write")]
fn a_lost_acknowledged_write_is_noticed() {
    let (place, port) = (Place::new("verifier-lost"), free_port());
    let daemon = nbdkit(&place, port);
    let address = format!("127.0.0.1:{port}");
    let mut areas = loaded(&address);
    // All of its memory is forgotten.
    daemon.kill();
    let _daemon = nbdkit(&place, port);
    verify(&address, &mut areas);
}

#[test]
#[should_panic(expected = "bytes that nobody wrote")]
fn a_single_changed_byte_is_noticed() {
    let (place, port) = (Place::new("verifier-byte"), free_port());
    let _daemon = nbdkit(&place, port);
    let address = format!("127.0.0.1:{port}");
    let mut areas = loaded(&address);
    let mut client = Client::open(&address, "").expect("serves");
    let (offset, byte) =
        (0..SIZE).step_by(4096).map(|at| (at, client.read(at + 100, 1).expect("readable")[0])).find(|(_, byte)| *byte != 0).expect("data");
    client.write(offset + 100, &[byte ^ 1]);
    verify(&address, &mut areas);
}
