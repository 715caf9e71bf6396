//! The systems under test: how each is started, filled once, reached and stopped.
//!
//! Invariant: every system serves one volume of the same size whose bytes were *written* once before
//! anything is measured. The raw file and qemu-nbd (both O_DIRECT) share a file; nbdkit, which goes
//! through the page cache, has its own, so that neither pays for the other's cached pages.

use crate::daemon::{Daemon, run};
use crate::error::BenchError;
use crate::fio;
use crate::ours;
use crate::port::free_port;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum SystemKind {
    /// fio straight on a file: what no server can beat.
    Bound,
    /// `qemu-nbd --cache=none --aio=io_uring` on a file: the baseline of all ratios.
    QemuNbd,
    /// `nbdkit file`: through the page cache, so its writes are to memory.
    Nbdkit,
    /// One `mdm`, three `sds`, one `sdc nbd`.
    OursFive,
    /// `sdsctl up`: everything in one process.
    OursOne,
    /// The five with two copies of each block.
    OursFiveTwo,
    /// The one with two copies.
    OursOneTwo,
}

impl SystemKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Bound, Self::QemuNbd, Self::Nbdkit, Self::OursFive, Self::OursOne, Self::OursFiveTwo, Self::OursOneTwo];

    /// Its name in tables.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Bound => "bound: fio on the file",
            Self::QemuNbd => "qemu-nbd",
            Self::Nbdkit => "nbdkit file (page cache)",
            Self::OursFive => "ours, five processes",
            Self::OursOne => "ours, one process",
            Self::OursFiveTwo => "ours, two copies, five processes",
            Self::OursOneTwo => "ours, two copies, one process",
        }
    }

    /// Its key in JSON and on the command line.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::QemuNbd => "qemu-nbd",
            Self::Nbdkit => "nbdkit",
            Self::OursFive => "ours-five",
            Self::OursOne => "ours-one",
            Self::OursFiveTwo => "ours-five-two",
            Self::OursOneTwo => "ours-one-two",
        }
    }

    /// Whether it is this project.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        match self {
            Self::Bound | Self::QemuNbd | Self::Nbdkit => false,
            Self::OursFive | Self::OursOne | Self::OursFiveTwo | Self::OursOneTwo => true,
        }
    }
}

/// What fio is pointed at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, opened with O_DIRECT.
    File(PathBuf),
    /// An NBD export.
    Nbd(String),
}

/// Where things are and how large.
#[derive(Clone, Debug)]
pub struct Place {
    /// Directory of test files, devices, logs.
    pub dir: PathBuf,
    /// Directory of our binaries.
    pub bin_dir: PathBuf,
    /// Bytes of the volume.
    pub size: u64,
}

impl Place {
    /// A log file.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

/// A system that is up.
#[derive(Debug)]
pub struct System {
    /// Which.
    pub kind: SystemKind,
    /// How it is reached.
    pub target: Target,
    /// Its processes, the last started first to stop.
    daemons: Vec<Daemon>,
}

impl System {
    /// Starts it and fills its volume.
    ///
    /// # Errors
    /// When a program is missing, does not become ready, or the fill fails.
    pub fn start(kind: SystemKind, place: &Place) -> Result<Self, BenchError> {
        match kind {
            SystemKind::Bound => {
                let file = written_file(&place.dir.join("direct.img"), place.size)?;
                Ok(Self { kind, target: Target::File(file), daemons: Vec::new() })
            }
            SystemKind::QemuNbd => {
                let file = written_file(&place.dir.join("direct.img"), place.size)?;
                let port = free_port()?;
                let mut command = Command::new("qemu-nbd");
                command.args(["--persistent", "--cache=none", "--aio=io_uring", "--format=raw", "--shared=16", "--export-name=bench"]);
                command.args(["--bind=127.0.0.1", &format!("--port={port}")]).arg(file);
                Self::served(kind, command, format!("nbd://127.0.0.1:{port}/bench"), place)
            }
            SystemKind::Nbdkit => {
                let file = written_file(&place.dir.join("cached.img"), place.size)?;
                let port = free_port()?;
                let mut command = Command::new("nbdkit");
                command.args(["--foreground", "--exit-with-parent", "--ipaddr=127.0.0.1", &format!("--port={port}"), "file"]).arg(file);
                Self::served(kind, command, format!("nbd://127.0.0.1:{port}/"), place)
            }
            SystemKind::OursFive => {
                let (daemons, uri) = ours::five_processes(place, 1)?;
                Self::filled(kind, daemons, uri, place)
            }
            SystemKind::OursOne => {
                let (daemons, uri) = ours::one_process(place, 1)?;
                Self::filled(kind, daemons, uri, place)
            }
            SystemKind::OursFiveTwo => {
                let (daemons, uri) = ours::five_processes(place, 2)?;
                Self::filled(kind, daemons, uri, place)
            }
            SystemKind::OursOneTwo => {
                let (daemons, uri) = ours::one_process(place, 2)?;
                Self::filled(kind, daemons, uri, place)
            }
        }
    }

    /// Its process ids.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.daemons.iter().map(Daemon::pid).collect()
    }

    /// Whether all of its processes still run.
    ///
    /// # Errors
    /// When one does not.
    pub fn check(&mut self) -> Result<(), BenchError> {
        self.daemons.iter_mut().try_for_each(Daemon::check)
    }

    fn served(kind: SystemKind, mut command: Command, uri: String, place: &Place) -> Result<Self, BenchError> {
        let mut daemon = Daemon::start(&mut command, &place.log(kind.key()))?;
        daemon.wait_until(20, || answers(&uri))?;
        Ok(Self { kind, target: Target::Nbd(uri), daemons: vec![daemon] })
    }

    fn filled(kind: SystemKind, daemons: Vec<Daemon>, uri: String, place: &Place) -> Result<Self, BenchError> {
        let target = Target::Nbd(uri);
        fio::prefill(&target, place.size)?;
        Ok(Self { kind, target, daemons })
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // The client before the data servers, those before the metadata manager.
        while let Some(daemon) = self.daemons.pop() {
            drop(daemon);
        }
    }
}

/// Whether an NBD export can be used.
#[must_use]
pub fn answers(uri: &str) -> bool {
    run(Command::new("nbdinfo").args(["--size", uri])).is_ok()
}

/// A file of exactly `size` bytes, every block of which has been written; kept from run to run.
fn written_file(path: &Path, size: u64) -> Result<PathBuf, BenchError> {
    let marker = path.with_extension("written");
    let wanted = size.to_string();
    let there = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == size);
    if !there || std::fs::read_to_string(&marker).ok().as_deref() != Some(&wanted) {
        let _absent = std::fs::remove_file(path);
        fio::prefill(&Target::File(path.to_owned()), size)?;
        std::fs::write(&marker, wanted).map_err(BenchError::file("write", &marker))?;
    }
    Ok(path.to_owned())
}
