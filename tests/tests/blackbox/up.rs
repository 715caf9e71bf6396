//! `sdsctl up`: the whole store in one process.

use crate::harness::daemon::Daemon;
use crate::harness::load::{Load, regions};
use crate::harness::nbd::Client;
use crate::harness::place::{Place, free_port, program};
use crate::harness::tools::{fio_verify, refuse, run};
use std::process::Command;

const MIB: u64 = 1 << 20;

struct Up {
    place: Place,
    nbd: String,
    rest: String,
}

impl Up {
    fn new(name: &str) -> Self {
        let [nbd, rest] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
        Self { place: Place::new(name), nbd, rest }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program("sdsctl"));
        command.args(["up", "--sds", "3", "--devices-per-sds", "2", "--device-size", "96M"]);
        command.args(["--volume", "demo=128M", "--volume", "second=32M", "--nbd", &self.nbd, "--rest", &self.rest]);
        command.arg("--dir").arg(self.place.path("data")).current_dir(self.place.path(""));
        command
    }

    fn start(&self) -> Daemon {
        let log = self.place.path("up.log");
        // Each life has a log of its own: the ready lines are waited for again.
        let _none_yet = std::fs::remove_file(&log);
        let mut daemon = Daemon::start("up", &mut self.command(), &log);
        for volume in ["demo", "second"] {
            let line = daemon.wait_for(&format!("ready nbd://{}/{volume}", self.nbd), 90);
            assert!(line.starts_with("ready nbd://"), "the line is the first word's: {line}");
            Client::open(&self.nbd, volume).unwrap_or_else(|refusal| panic!("{volume} is not ready though it was said: {refusal:?}"));
        }
        daemon
    }
}

#[test]
fn up_serves_verified_io_and_keeps_its_data() {
    let up = Up::new("up");
    let daemon = up.start();
    let load = ["--rw=randwrite", "--bs=4k", "--iodepth=32", "--numjobs=4", "--size=16m", "--offset_increment=32m"];
    fio_verify(&format!("nbd://{}/demo", up.nbd), &load, 300);
    let mut client = Client::open(&up.nbd, "second").expect("ready");
    client.write(5000, b"kept over restarts");
    drop(client);
    let status = run(Command::new(program("sdsctl")).args(["--api", &up.rest, "status"]), 60);
    assert!(!status.is_empty());
    daemon.stop();
    let daemon = up.start();
    let mut client = Client::open(&up.nbd, "second").expect("ready");
    assert_eq!(client.read(5000, 18).expect("readable"), b"kept over restarts");
    daemon.stop();
}

#[test]
fn up_killed_under_load_loses_nothing_acknowledged() {
    let up = Up::new("up-kill");
    let mut areas = regions(96 * MIB, 4, 77);
    for round in 0..4 {
        let daemon = up.start();
        if round > 0 {
            let mut client = Client::open(&up.nbd, "demo").expect("ready");
            for area in &mut areas {
                area.verify(&mut client);
            }
        }
        let load = Load::start(&up.nbd, "demo", areas, 16);
        load.wait_for(1000, 120);
        daemon.kill();
        areas = load.cut();
    }
}

#[test]
fn a_second_up_in_the_same_directory_says_so() {
    let up = Up::new("up-twice");
    let _daemon = up.start();
    let [nbd, rest] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let mut command = Command::new(program("sdsctl"));
    command.args(["up", "--nbd", &nbd, "--rest", &rest, "--dir"]).arg(up.place.path("data"));
    let text = refuse(&mut command, 60);
    assert!(text.contains("data"), "the error names the directory: {text}");
    // A port that is taken is named as well.
    let mut command = Command::new(program("sdsctl"));
    command.args(["up", "--device-size", "64M", "--volume", "x=16M", "--nbd", &up.nbd, "--rest", &rest]);
    let text = refuse(command.arg("--dir").arg(up.place.path("elsewhere")), 60);
    assert!(text.contains(&up.nbd), "the error names the address: {text}");
}
