//! Real file systems on a volume, by nbdfuse and a loop mount. Needs root, FUSE and loop devices.

use crate::harness::cluster::Cluster;
use crate::harness::daemon::Daemon;
use crate::harness::tools::{attempt, random_file, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// A volume as a file, by nbdfuse.
struct Attached {
    daemon: Option<Daemon>,
    dir: PathBuf,
}

impl Attached {
    fn new(cluster: &Cluster, volume: &str) -> Self {
        let dir = cluster.place.path("fuse");
        fs::create_dir_all(&dir).expect("creatable");
        let mut command = Command::new("nbdfuse");
        command.arg("--connections=4").arg(dir.join("disk")).arg(cluster.uri(volume));
        // nbdfuse wants a file to mount on, or a directory in which it makes one.
        fs::write(dir.join("disk"), "").expect("writable");
        let daemon = Daemon::start("nbdfuse", &mut command, &cluster.place.path("nbdfuse.log"));
        let mut attached = Self { daemon: Some(daemon), dir };
        let start = Instant::now();
        while fs::metadata(attached.file()).is_ok_and(|file| file.len() == 0) {
            let daemon = attached.daemon.as_mut().expect("just started");
            assert!(daemon.exited().is_none(), "this test cannot run: nbdfuse ended:\n{}", daemon.output());
            assert!(start.elapsed() < Duration::from_secs(30), "nbdfuse shows no volume:\n{}", daemon.output());
            std::thread::sleep(Duration::from_millis(20));
        }
        attached
    }

    fn file(&self) -> PathBuf {
        self.dir.join("disk")
    }

    fn detach(mut self) {
        run(Command::new("fusermount3").arg("-u").arg(self.file()), 60);
        let status = self.daemon.take().expect("runs").wait(60);
        assert!(status.success(), "nbdfuse ended with {status}");
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let _tried = attempt(Command::new("fusermount3").args(["-u", "-z"]).arg(self.file()), 20);
        }
    }
}

struct Mounted(PathBuf);

impl Mounted {
    fn new(file: &Path, dir: PathBuf, kind: &str) -> Self {
        fs::create_dir_all(&dir).expect("creatable");
        run(Command::new("mount").args(["-t", kind, "-o", "loop"]).arg(file).arg(&dir), 60);
        Self(dir)
    }

    fn unmount(self) {
        run(Command::new("umount").arg(&self.0), 120);
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _tried = attempt(Command::new("umount").args(["-l"]).arg(&self.0), 20);
    }
}

/// A tree of files: many small, some large, some names that are not plain.
fn grow_tree(dir: &Path) {
    for number in 0..400_u64 {
        let sub = dir.join(format!("d{}/ü {}", number % 7, number % 3));
        fs::create_dir_all(&sub).expect("creatable");
        let bytes = if number % 50 == 0 { 3 * MIB + number } else { (number * 7919) % 40_000 };
        random_file(&sub.join(format!("file {number}")), bytes, number + 1);
    }
    std::os::unix::fs::symlink("d0", dir.join("link")).expect("creatable");
}

fn carries_a_tree(kind: &str, check: &[&str]) {
    let cluster = Cluster::start(&format!("fs-{kind}"), 384 * MIB, "disk", 640 * MIB);
    let tree = cluster.place.path("tree");
    grow_tree(&tree);
    let attached = Attached::new(&cluster, "disk");
    run(Command::new(format!("mkfs.{kind}")).args(if kind == "ext4" { ["-q", "-F"] } else { ["-q", "-f"] }).arg(attached.file()), 120);
    let mount = cluster.place.path("mnt");
    let mounted = Mounted::new(&attached.file(), mount.clone(), kind);
    run(Command::new("cp").arg("-a").arg(&tree).arg(&mount), 300);
    // Some churn, so that blocks are freed and written again.
    fs::remove_dir_all(mount.join("tree/d3")).expect("removable");
    run(Command::new("cp").arg("-a").arg(tree.join("d3")).arg(mount.join("tree")), 300);
    run(Command::new("fstrim").arg(&mount), 300);
    mounted.unmount();
    attached.detach();

    let attached = Attached::new(&cluster, "disk");
    run(Command::new(check[0]).args(&check[1..]).arg(attached.file()), 300);
    let mounted = Mounted::new(&attached.file(), mount.clone(), kind);
    run(Command::new("diff").args(["-r", "--no-dereference"]).arg(&tree).arg(mount.join("tree")), 300);
    mounted.unmount();
    run(Command::new(check[0]).args(&check[1..]).arg(attached.file()), 300);
    attached.detach();
}

#[test]
fn ext4_carries_a_tree() {
    carries_a_tree("ext4", &["e2fsck", "-f", "-n"]);
}

#[test]
fn xfs_carries_a_tree() {
    carries_a_tree("xfs", &["xfs_repair", "-n"]);
}
