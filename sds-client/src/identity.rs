//! Who this client is, across its processes: id, ticket, connection numbers; kept in a state directory.
//!
//! Invariants: the file is replaced as a whole and is durable before it is used; connection numbers of a
//! new process are above all of the ones before it (I10), even when the wall clock was set back; one
//! process at a time uses a state directory (an flock, which ends with the process).
//!
//! The file `client` is three lines of `name = hex`: it holds a secret, so its mode is 0600.

use rustix::fs::{FlockOperation, Mode, OFlags};
use sds_core::id::{ClientId, Ticket};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Connections that one process may make before its numbers could meet a successor's.
const CONNECTIONS_PER_LIFE: u64 = 1 << 32;
const FILE: &str = "client";

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory or a file in it cannot be used.
    #[error("state directory {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("state directory {} is in use by another process; stop it, or name another directory", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The file is not what was written.
    #[error("{} line {line} is damaged: restore it, or delete the file to become a new client (a volume held by the old one must then be taken over by force)", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// A client's identity for the life of this process.
#[derive(Debug)]
pub struct Identity {
    /// Who.
    pub client: ClientId,
    /// The proof of it.
    pub ticket: Ticket,
    /// Number of the first connection of this process.
    pub first_connection: u64,
    /// Keeps others out of the state directory.
    _lock: Option<OwnedFd>,
}

impl Identity {
    /// A new one that ends with this process.
    ///
    /// # Errors
    /// When the kernel has no random bytes.
    pub fn random() -> Result<Self, IdentityError> {
        Ok(Self { client: ClientId::new(random()?), ticket: Ticket::new(random()?), first_connection: clock(), _lock: None })
    }

    /// The one kept in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be used, is in use, or its content is damaged.
    pub fn in_directory(directory: &Path) -> Result<Self, IdentityError> {
        let io_error = |source: io::Error| IdentityError::Io { path: directory.to_owned(), source };
        make_directory(directory).map_err(io_error)?;
        let handle = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| io_error(error.into()))?;
        let lock = rustix::fs::openat(&handle, "lock", OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .map_err(|error| io_error(error.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(IdentityError::InUse { path: directory.to_owned() }),
            Err(error) => return Err(io_error(error.into())),
        }
        let kept = match File::open(directory.join(FILE)) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(io_error)?;
                parse(&String::from_utf8_lossy(&bytes)).map_err(|line| IdentityError::Damaged { path: directory.join(FILE), line })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept { client: random()?, ticket: random()?, next_connection: 0 },
            Err(error) => return Err(io_error(error)),
        };
        let first_connection = clock().max(kept.next_connection);
        let next = Kept { next_connection: first_connection.saturating_add(CONNECTIONS_PER_LIFE), ..kept };
        keep(directory, &handle, &next).map_err(io_error)?;
        Ok(Self { client: ClientId::new(kept.client), ticket: Ticket::new(kept.ticket), first_connection, _lock: Some(lock) })
    }
}

/// Makes a directory and those above it, so that their names survive a power cut.
fn make_directory(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(directory)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// What the file says.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kept {
    client: u128,
    ticket: u128,
    next_connection: u64,
}

/// The content of a file, or the line that is not right.
fn parse(text: &str) -> Result<Kept, usize> {
    let mut lines = text.lines();
    let mut value = |line: usize, name: &str| {
        let text = lines.next().and_then(|text| text.strip_prefix(name)).and_then(|text| text.strip_prefix(" = "));
        text.and_then(|hex| u128::from_str_radix(hex, 16).ok()).ok_or(line)
    };
    let (client, ticket) = (value(1, "client")?, value(2, "ticket")?);
    let next_connection = u64::try_from(value(3, "next_connection")?).map_err(|_| 3_usize)?;
    if client == 0 {
        return Err(1);
    }
    if lines.next().is_some() { Err(4) } else { Ok(Kept { client, ticket, next_connection }) }
}

fn keep(directory: &Path, handle: &OwnedFd, kept: &Kept) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(handle, "client.new", flags, Mode::RUSR | Mode::WUSR)?);
    let Kept { client, ticket, next_connection } = kept;
    write!(file, "client = {client:032x}\nticket = {ticket:032x}\nnext_connection = {next_connection:016x}\n")?;
    file.sync_all()?;
    std::fs::rename(directory.join("client.new"), directory.join(FILE))?;
    rustix::fs::fsync(handle)?;
    Ok(())
}

fn random() -> Result<u128, IdentityError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| IdentityError::Random(error.to_string()))?;
    Ok(u128::from_le_bytes(bytes))
}

/// Wall clock in nanoseconds.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX >> 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_found_again_with_higher_connection_numbers() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/state");
        let first = Identity::in_directory(&path).expect("made");
        let (client, ticket, connection) = (first.client, first.ticket, first.first_connection);
        drop(first);
        let second = Identity::in_directory(&path).expect("found");
        assert!((second.client, second.ticket) == (client, ticket));
        assert!(second.first_connection >= connection + CONNECTIONS_PER_LIFE, "even at once after the first");
        assert_eq!(std::fs::metadata(path.join(FILE)).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let _first = Identity::in_directory(directory.path()).expect("made");
        assert!(matches!(Identity::in_directory(directory.path()), Err(IdentityError::InUse { .. })));
    }

    #[test]
    fn a_damaged_file_is_named_and_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        drop(Identity::in_directory(directory.path()).expect("made"));
        for (text, damaged) in [("", 1), ("client = 12\nticket = xyz\n", 2), ("client = 1\nticket = 2\nnext_connection = 3\nmore\n", 4)] {
            std::fs::write(directory.path().join(FILE), text).expect("written");
            assert!(matches!(Identity::in_directory(directory.path()), Err(IdentityError::Damaged { line, .. }) if line == damaged));
            assert_eq!(std::fs::read_to_string(directory.path().join(FILE)).expect("there"), text);
        }
    }

    #[test]
    fn the_ticket_is_never_printed() {
        let identity = Identity::random().expect("random");
        assert!(!format!("{identity:?}").contains(&identity.ticket.get().to_string()));
    }
}
