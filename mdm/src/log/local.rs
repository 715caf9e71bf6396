//! A log of one member, on a redb file in its data directory.
//!
//! A thread of its own takes proposals as they come and commits all that are waiting in one durable
//! transaction, so that a burst costs one fsync. An entry is its CRC-32 (u32, little-endian) and its
//! bytes: what comes back from the disk is verified before it is believed.
//!
//! Invariants: told as committed only after the durable commit; after a failed commit nothing more is
//! told (fail-stop: the kernel may have dropped the dirty pages, so a retry proves nothing).
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format` | version of this layout, u32 |
//! | `meta` | `cut` | index of the last entry in the snapshot, u64; absent without one |
//! | `meta` | `snapshot` | CRC-32, then the snapshot |
//! | `log` | index | CRC-32, then the entry |

use super::{Leadership, LogEvent, LogIndex, ProposeError, ReadBarrier, Recovered, ReplicatedLog};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use sds_core::checksum::Checksum;
use sds_core::cluster::leader::{PROPOSALS_MAX, ProposalId};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

/// Version of the layout.
pub const FORMAT_VERSION: u32 = 1;
/// Name of the file in the data directory.
pub const FILE_NAME: &str = "mdm.redb";

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");
/// Memory for redb's pages: the metadata is small.
const CACHE_BYTES: usize = 16 << 20;
/// Most bytes of entries in one transaction.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Requests on their way to the thread: all proposals and a few cuts.
const QUEUE: usize = PROPOSALS_MAX + 16;

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made.
    #[error("data directory {path:?} cannot be made or read: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Another process has it.
    #[error("{path:?} is in use by another process; one MDM member needs a data directory of its own")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Written by a newer program.
    #[error("{path:?} has format {found}, and this program knows {FORMAT_VERSION}; run the version that wrote it")]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is damaged, or not ours.
    #[error("{path:?} is damaged: {what}; restore it from a copy, it will not be overwritten")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The disk failed.
    #[error("{path:?} cannot be used: {error}")]
    Store {
        /// Which.
        path: PathBuf,
        /// Why.
        error: Box<redb::Error>,
    },
}

enum Request {
    Propose { proposal: ProposalId, entry: Vec<u8> },
    Cut { index: LogIndex, snapshot: Vec<u8> },
}

/// The log.
#[derive(Debug)]
pub struct LocalLog {
    requests: mpsc::Sender<Request>,
    events: mpsc::Receiver<LogEvent>,
    failed: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    in_flight: usize,
}

impl LocalLog {
    /// Opens the log of a data directory, makes it if there is none, and starts its thread.
    ///
    /// # Errors
    /// When the directory is in use, damaged, of a newer format, or cannot be used.
    pub fn open(directory: &Path) -> Result<(Self, Recovered), OpenError> {
        let path = directory.join(FILE_NAME);
        make_directory(directory)?;
        let database = open_database(&path)?;
        let recovered = recover(&database, &path)?;
        let last = recovered.entries.last().map(|(index, _)| *index).or(recovered.snapshot.as_ref().map(|(index, _)| *index));
        let (requests, request_receiver) = mpsc::channel(QUEUE);
        let (event_sender, events) = mpsc::channel(QUEUE);
        let failed = Arc::new(AtomicBool::new(false));
        let writer = Writer { database, last: last.unwrap_or_default(), events: event_sender, failed: failed.clone() };
        let thread = std::thread::Builder::new()
            .name("mdm-log".to_owned())
            .spawn(move || writer.run(request_receiver))
            .map_err(|error| OpenError::Directory { path, error })?;
        Ok((Self { requests, events, failed, thread: Some(thread), in_flight: 0 }, recovered))
    }
}

impl ReplicatedLog for LocalLog {
    type Barrier = LocalBarrier;

    fn propose(&mut self, proposal: ProposalId, entry: Vec<u8>) -> Result<(), ProposeError> {
        if self.in_flight >= PROPOSALS_MAX {
            return Err(ProposeError::Full);
        }
        self.requests.try_send(Request::Propose { proposal, entry }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => ProposeError::Full,
            mpsc::error::TrySendError::Closed(_) => ProposeError::NotLeader,
        })?;
        self.in_flight += 1;
        Ok(())
    }

    async fn next(&mut self) -> LogEvent {
        let Some(event) = self.events.recv().await else {
            return LogEvent::Failed { reason: "the log's thread ended".to_owned() };
        };
        match &event {
            LogEvent::Committed { .. } | LogEvent::Lost { .. } => self.in_flight = self.in_flight.saturating_sub(1),
            LogEvent::Leadership(_) | LogEvent::Failed { .. } => {}
        }
        event
    }

    fn cut(&mut self, index: LogIndex, snapshot: Vec<u8>) {
        // Without room the log stays longer until the next one.
        let _ = self.requests.try_send(Request::Cut { index, snapshot });
    }

    fn barrier(&self) -> LocalBarrier {
        LocalBarrier { failed: self.failed.clone() }
    }

    async fn close(mut self) {
        drop(self.requests);
        // The thread may be telling the last commits.
        while self.events.recv().await.is_some() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One member always leads, as long as its log works.
#[derive(Clone, Debug)]
pub struct LocalBarrier {
    failed: Arc<AtomicBool>,
}

impl ReadBarrier for LocalBarrier {
    async fn wait(&self) -> Result<(), ProposeError> {
        if self.failed.load(Ordering::Acquire) { Err(ProposeError::NotLeader) } else { Ok(()) }
    }
}

struct Writer {
    database: Database,
    last: LogIndex,
    events: mpsc::Sender<LogEvent>,
    failed: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        if self.events.blocking_send(LogEvent::Leadership(Leadership::Leader)).is_err() {
            return;
        }
        let mut batch = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            let mut next = Some(first);
            let mut bytes = 0;
            let mut cut = None;
            while let Some(request) = next {
                match request {
                    Request::Propose { proposal, entry } => {
                        bytes += entry.len();
                        batch.push((proposal, entry));
                    }
                    Request::Cut { index, snapshot } => cut = Some((index, snapshot)),
                }
                next = if bytes < BATCH_BYTES_MAX { requests.try_recv().ok() } else { None };
            }
            if let Err(error) = self.commit(&batch, cut) {
                self.failed.store(true, Ordering::Release);
                let _ = self.events.blocking_send(LogEvent::Failed { reason: format!("the log cannot be written: {error}") });
                return;
            }
            for (proposal, entry) in batch.drain(..) {
                self.last = LogIndex(self.last.0 + 1);
                let event = LogEvent::Committed { index: self.last, proposal: Some(proposal), entry };
                if self.events.blocking_send(event).is_err() {
                    return;
                }
            }
        }
    }

    fn commit(&self, batch: &[(ProposalId, Vec<u8>)], cut: Option<(LogIndex, Vec<u8>)>) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut log = transaction.open_table(LOG)?;
            let mut index = self.last.0;
            for (_, entry) in batch {
                index += 1;
                log.insert(index, sealed(entry).as_slice())?;
            }
            if let Some((cut, snapshot)) = cut {
                log.retain_in(..=cut.0, |_, _| false)?;
                let mut meta = transaction.open_table(META)?;
                meta.insert("cut", cut.0.to_le_bytes().as_slice())?;
                meta.insert("snapshot", sealed(&snapshot).as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn make_directory(directory: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::Directory { path: directory.to_owned(), error };
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    // What is kept there proves who clients are: nobody else is to read it.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    // The names of new directories must survive, too.
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    }
    Ok(())
}

fn open_database(path: &Path) -> Result<Database, OpenError> {
    let is_new = !path.exists();
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen | redb::DatabaseError::LockProtocolMismatch => OpenError::InUse { path: path.to_owned() },
        redb::DatabaseError::Storage(redb::StorageError::Corrupted(what)) => OpenError::Damaged { path: path.to_owned(), what },
        redb::DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            OpenError::Damaged { path: path.to_owned(), what: format!("it is not a redb file ({error})") }
        }
        other => OpenError::Store { path: path.to_owned(), error: Box::new(other.into()) },
    })?;
    if is_new {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mine = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, mine).map_err(|error| OpenError::Directory { path: path.to_owned(), error })?;
        let synced = std::fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| OpenError::Directory { path: directory.to_owned(), error })?;
    }
    Ok(database)
}

fn recover(database: &Database, path: &Path) -> Result<Recovered, OpenError> {
    let format = check_format(database).map_err(|error| OpenError::Store { path: path.to_owned(), error: Box::new(error) })?;
    if format > FORMAT_VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), found: format });
    }
    let damaged = |what: &str| OpenError::Damaged { path: path.to_owned(), what: what.to_owned() };
    if format == 0 {
        return Err(damaged("its format is not readable"));
    }
    let (cut, snapshot, entries) = read(database).map_err(|error| OpenError::Store { path: path.to_owned(), error: Box::new(error) })?;
    let mut recovered = Recovered::default();
    let mut last = 0;
    if let Some(cut) = cut {
        let snapshot = snapshot.as_deref().and_then(opened).ok_or_else(|| damaged("its snapshot does not match its checksum"))?;
        last = <[u8; 8]>::try_from(cut.as_slice()).map(u64::from_le_bytes).map_err(|_| damaged("its snapshot has no index"))?;
        recovered.snapshot = Some((LogIndex(last), snapshot.to_vec()));
    }
    for (index, entry) in entries {
        if index != last + 1 {
            return Err(damaged(&format!("entry {} is missing from its log", last + 1)));
        }
        let entry = opened(&entry).ok_or_else(|| damaged(&format!("entry {index} of its log does not match its checksum")))?;
        recovered.entries.push((LogIndex(index), entry.to_vec()));
        last = index;
    }
    Ok(recovered)
}

/// The format of the database, written into it first if it is new.
fn check_format(database: &Database) -> Result<u32, redb::Error> {
    let transaction = database.begin_write()?;
    let found = {
        let mut meta = transaction.open_table(META)?;
        let is_new = meta.first()?.is_none();
        if is_new {
            meta.insert("format", FORMAT_VERSION.to_le_bytes().as_slice())?;
        }
        let found = meta.get("format")?;
        found.and_then(|value| <[u8; 4]>::try_from(value.value()).ok()).map_or(0, u32::from_le_bytes)
    };
    if found == FORMAT_VERSION {
        transaction.open_table(LOG)?;
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(found)
}

type Stored = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(u64, Vec<u8>)>);

fn read(database: &Database) -> Result<Stored, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let log = transaction.open_table(LOG)?;
    let bytes = |key| -> Result<Option<Vec<u8>>, redb::Error> { Ok(meta.get(key)?.map(|value| value.value().to_vec())) };
    let mut entries = Vec::new();
    for entry in log.iter()? {
        let (index, entry) = entry?;
        entries.push((index.value(), entry.value().to_vec()));
    }
    Ok((bytes("cut")?, bytes("snapshot")?, entries))
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = Checksum::of(bytes).get().to_le_bytes().to_vec();
    sealed.extend_from_slice(bytes);
    sealed
}

fn opened(sealed: &[u8]) -> Option<&[u8]> {
    let (checksum, bytes) = sealed.split_first_chunk::<4>()?;
    (Checksum::of(bytes).get() == u32::from_le_bytes(*checksum)).then_some(bytes)
}

#[cfg(test)]
mod tests;
