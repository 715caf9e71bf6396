//! Raw block devices, and a file system without room. Needs root and loop devices.

use crate::harness::daemon::Daemon;
use crate::harness::place::{Place, free_port, program};
use crate::harness::tools::{attempt, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

/// A file as a block device.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path, options: &[&str]) -> Self {
        let output = run(Command::new("losetup").args(["-f", "--show"]).args(options).arg(file), 20);
        Self(PathBuf::from(output.trim()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _tried = attempt(Command::new("losetup").arg("-d").arg(&self.0), 20);
    }
}

struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _tried = attempt(Command::new("umount").arg("-l").arg(&self.0), 20);
    }
}

fn image(place: &Place, name: &str, bytes: u64) -> PathBuf {
    let path = place.path(name);
    fs::File::create(&path).and_then(|file| file.set_len(bytes)).expect("writable");
    path
}

/// An MDM, so that blank devices can be formatted.
fn mdm(place: &Place) -> (Daemon, String) {
    let control = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(program("mdm"));
    command.arg("--data-dir").arg(place.path("mdm")).args(["--control", &control, "--api", "127.0.0.1:0"]);
    let mut daemon = Daemon::start("mdm", &mut command, &place.path("mdm.log"));
    daemon.wait_for(&control, 20);
    (daemon, control)
}

/// A data server with one device says this, and stops in order.
fn says(place: &Place, control: &str, name: &str, device: &str, text: &str) {
    let file = format!(
        "name = \"{name}\"\nlisten = \"127.0.0.1:0\"\nmdm = [\"{control}\"]\nstate_dir = \"{}\"\nmemory = \"32 MiB\"\n[[device]]\n{device}\n",
        place.path(name).display()
    );
    let file = place.write(&format!("{name}.toml"), &file);
    let log = place.path(&format!("{name}-{}.log", free_port()));
    let mut daemon = Daemon::start(name, Command::new(program("sds")).arg("--config").arg(file), &log);
    daemon.wait_for(text, 60);
    daemon.stop();
}

#[test]
fn a_block_device_serves_or_says_why_not() {
    let place = Place::new("block-devices");
    let (_mdm, control) = mdm(&place);
    let large_sectors = Loop::new(&image(&place, "large-disk", 64 * MIB), &["--sector-size", "4096"]);
    let path = |device: &Loop| format!("path = \"{}\"", device.0.display());
    says(&place, &control, "large", &path(&large_sectors), "device is open");
    says(&place, &control, "large", &path(&large_sectors), "device is open");

    let file = image(&place, "small-disk", 64 * MIB);
    let small_sectors = Loop::new(&file, &["--sector-size", "512"]);
    says(&place, &control, "small", &path(&small_sectors), "allow_small_sectors = true");
    assert!(fs::read(&file).expect("readable").iter().all(|byte| *byte == 0), "a refused device is left as it was");
    let allowed = format!("{}\nallow_small_sectors = true", path(&small_sectors));
    says(&place, &control, "small", &allowed, "device is open");
    drop(small_sectors);
    let read_only = Loop::new(&file, &["-r"]);
    let before = fs::read(&file).expect("readable");
    says(&place, &control, "small", &format!("{}\nallow_small_sectors = true", path(&read_only)), "read-only");
    assert!(fs::read(&file).expect("readable") == before);
}

#[test]
fn a_file_system_without_room_is_named_and_what_is_there_is_no_device() {
    let place = Place::new("no-room");
    let (_mdm, control) = mdm(&place);
    let disk = Loop::new(&image(&place, "fs", 64 * MIB), &["--sector-size", "4096"]);
    run(Command::new("mkfs.ext4").arg("-q").arg(&disk.0), 60);
    let mounted = Mounted(place.path("mnt"));
    fs::create_dir(&mounted.0).expect("creatable");
    run(Command::new("mount").arg(&disk.0).arg(&mounted.0), 60);
    let path = mounted.0.join("device");
    let device = format!("path = \"{}\"\nsize = \"200 MiB\"", path.display());
    says(&place, &control, "sds", &device, "has no room for 200 MiB");
    assert!(path.metadata().map_or(0, |file| file.len()) < 64 * MIB);
    // Not taken for whole at the next start either.
    says(&place, &control, "sds", &device, "has no room for 200 MiB");
}
