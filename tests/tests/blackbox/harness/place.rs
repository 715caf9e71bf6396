//! Where a test runs: binaries, a directory of its own, ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory on a real file system that is removed when its test has passed.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
}

impl Place {
    /// An empty directory for this test.
    pub(crate) fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
        let kind = Command::new("stat").args(["-f", "-c", "%T"]).arg(&dir).output().expect("stat runs");
        let kind = String::from_utf8_lossy(&kind.stdout).trim().to_owned();
        assert!(
            kind != "tmpfs" && kind != "ramfs",
            "{} is on {kind}: O_DIRECT and crashes mean nothing there; set CARGO_TARGET_DIR",
            dir.display()
        );
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.dir.display());
        } else {
            let _gone = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A program of ours.
pub(crate) fn program(name: &str) -> PathBuf {
    let dir = std::env::var_os("SDS_BIN_DIR").map_or_else(
        || {
            let test = std::env::current_exe().expect("this test is a file");
            test.parent().and_then(Path::parent).expect("target/PROFILE/deps").to_owned()
        },
        PathBuf::from,
    );
    let path = dir.join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` (or set SDS_BIN_DIR)", path.display());
    path
}

/// A port on loopback that is this test's until it ends.
pub(crate) fn free_port() -> u16 {
    sds_benches::port::free_port().expect("a free port")
}
