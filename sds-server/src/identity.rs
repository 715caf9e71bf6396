//! Who this server is: kept in its state directory, which one process holds at a time.
//!
//! Invariant: the identity is drawn once and is durable before it is shown to anybody; two processes
//! never run with the same one.

use sds_core::id::{BootId, SdsUuid};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error("state directory {} is in use by another process; give each server its own `state_dir`", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no server identity (32 hexadecimal digits); restore it, or remove it to become a new server", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// An identity and the lock that makes it ours.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) sds: SdsUuid,
    /// One random number a process life.
    pub(crate) life: u128,
    /// Held until the process ends.
    _lock: File,
}

impl Identity {
    /// Opens the state directory, making it (0700) and the identity (0600) if they are not there.
    pub(crate) fn open(directory: &Path) -> Result<Self, IdentityError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        make_directory(directory).map_err(io(directory))?;
        let lock_path = directory.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&lock_path).map_err(io(&lock_path))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(IdentityError::InUse { path: directory.to_owned() }),
            Err(error) => return Err(io(&lock_path)(error.into())),
        }
        let path = directory.join("sds-id");
        let sds = match File::open(&path) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(io(&path))?;
                let text = String::from_utf8_lossy(&bytes);
                let parsed = u128::from_str_radix(text.trim(), 16).ok().filter(|id| *id != 0 && text.trim().len() == 32);
                SdsUuid::new(parsed.ok_or(IdentityError::Damaged { path })?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = random();
                write_durably(directory, &path, &format!("{id:032x}\n")).map_err(io(&path))?;
                SdsUuid::new(id)
            }
            Err(error) => return Err(io(&path)(error)),
        };
        Ok(Self { sds, life: random(), _lock: lock })
    }
}

/// Makes a directory and those above it, so that their names survive a power cut.
fn make_directory(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn write_durably(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// 128 bits that nobody else has; never zero.
pub(crate) fn random() -> u128 {
    loop {
        let mut bytes = [0; 16];
        // The kernel's generator cannot fail once it has been seeded, and blocks until then.
        if getrandom::fill(&mut bytes).is_ok() {
            let id = u128::from_le_bytes(bytes);
            if id != 0 {
                return id;
            }
        }
    }
}

/// The host's boot; one that equals no other if the kernel does not tell, so that a power cut is assumed.
pub(crate) fn boot() -> BootId {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    BootId::new(u128::from_str_radix(&digits, 16).ok().filter(|id| *id != 0).unwrap_or_else(random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_identity_is_durable_private_and_held_by_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state");
        let first = Identity::open(&path).expect("fresh");
        assert!(matches!(Identity::open(&path), Err(IdentityError::InUse { .. })));
        let sds = first.sds;
        let life = first.life;
        drop(first);
        let again = Identity::open(&path).expect("kept");
        assert_eq!(again.sds, sds);
        assert_ne!(again.life, life);
        let mode = std::fs::metadata(path.join("sds-id")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_identity_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("sds-id"), "nonsense").expect("written");
        assert!(matches!(Identity::open(directory.path()), Err(IdentityError::Damaged { .. })));
        assert_eq!(std::fs::read_to_string(directory.path().join("sds-id")).expect("there"), "nonsense");
    }

    #[test]
    fn this_boot_has_a_name() {
        assert_eq!(boot(), boot());
        assert!(!boot().is_nil());
    }
}
