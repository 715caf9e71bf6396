//! What programs ask of the client's loop, and how it gets there.
//!
//! Invariants: every command is answered, or its answer's sender is dropped (then the client has
//! stopped); the queue is bounded by what is counted elsewhere: a request holds one of a fixed number
//! of permits until it is complete, a close belongs to a volume handle, an open or list to who waits for it.
//!
//! What this must not know: the machine.

use crate::serve::NbdOptions;
use bytes::Bytes;
use crossbeam::queue::SegQueue;
use sds_core::control::{OpenError, VolumeLine};
use sds_core::error::Status;
use sds_core::id::VolumeId;
use sds_core::stripe::Stripe;
use sds_core::unit::{ByteOffset, Nanos};
use sds_core::view::SessionMode;
use sds_core::volume::interface::OpenVolume;
use sds_core::volume::{ServerStatus, Stuck};
use sds_ring::{Address, RingError, Waker};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// Requests of programs at once; more wait where they are asked.
pub(crate) const OPERATIONS_MAX: usize = 1024;

/// How it stands with the MDM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MdmState {
    /// Not connected, or not accepted yet.
    Waiting,
    /// Accepted.
    Up,
    /// Not accepted.
    Refused(String),
}

/// A client's state, for status pages.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    /// Whether the MDM is connected.
    pub mdm_is_up: bool,
    /// Version of the newest view.
    pub map_version: u64,
    /// Volumes open.
    pub volumes: Vec<OpenVolume>,
    /// Requests in flight.
    pub requests: usize,
    /// Age of the oldest of them.
    pub oldest_request: Option<Duration>,
    /// The oldest request of each volume that has waited for a second, and for what.
    pub stuck: Vec<Stuck>,
    /// Data servers.
    pub servers: Vec<ServerStatus>,
    /// NBD connections.
    pub nbd_connections: usize,
    /// Bytes of buffers in use, of how many. Shared by everything on the loop.
    pub buffer_bytes: (u64, u64),
}

/// A read, write, …, of any alignment.
#[derive(Debug)]
pub(crate) struct Io {
    pub(crate) volume: VolumeId,
    pub(crate) stripe: Stripe,
    pub(crate) offset: ByteOffset,
    pub(crate) len: u64,
    pub(crate) ask: IoAsk,
    /// Counts it against [`OPERATIONS_MAX`] until it is complete.
    pub(crate) permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(crate) enum IoAsk {
    /// Into these bytes, which are zero.
    Read { into: Vec<u8>, reply: oneshot::Sender<Result<Vec<u8>, Status>> },
    /// These bytes.
    Write { from: Bytes, durable: bool, reply: oneshot::Sender<Result<(), Status>> },
    /// The range reads as zero.
    Zero { durable: bool, reply: oneshot::Sender<Result<(), Status>> },
    /// The range's whole blocks may be freed.
    Trim { reply: oneshot::Sender<Result<(), Status>> },
    /// Everything completed so far is durable.
    Flush { reply: oneshot::Sender<Result<(), Status>> },
}

/// An open volume on its way to who asked. Lost on the way, because the asker gave up, it is closed again.
#[derive(Debug)]
pub(crate) struct Granted {
    volume: OpenVolume,
    shared: Option<Arc<Shared>>,
}

impl Granted {
    pub(crate) const fn new(volume: OpenVolume, shared: Arc<Shared>) -> Self {
        Self { volume, shared: Some(shared) }
    }

    /// It has arrived: closing it is the receiver's business now.
    pub(crate) fn take(mut self) -> OpenVolume {
        self.shared = None;
        self.volume
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.command(Command::Close { volume: self.volume.id, reply: None });
        }
    }
}

#[derive(Debug)]
pub(crate) enum Command {
    Open {
        name: String,
        mode: SessionMode,
        force: bool,
        io_timeout: Option<Nanos>,
        shared: Arc<Shared>,
        reply: oneshot::Sender<Result<Granted, OpenError>>,
    },
    Close {
        volume: VolumeId,
        reply: Option<oneshot::Sender<()>>,
    },
    List {
        reply: oneshot::Sender<Vec<VolumeLine>>,
    },
    Io(Box<Io>),
    ServeNbd {
        options: NbdOptions,
        reply: oneshot::Sender<Result<Vec<Address>, RingError>>,
    },
    Status {
        reply: oneshot::Sender<ClientStatus>,
    },
    /// Finish what is in flight, close everything, end the role; give up after a while.
    Stop {
        patience: Duration,
    },
}

/// What handles and the role share.
#[derive(Debug)]
pub(crate) struct Shared {
    commands: SegQueue<Command>,
    waker: Waker,
    stopped: AtomicBool,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) mdm: watch::Sender<MdmState>,
    /// Becomes true when the role has ended.
    pub(crate) ended: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(waker: Waker) -> Arc<Self> {
        Arc::new(Self {
            commands: SegQueue::new(),
            waker,
            stopped: AtomicBool::new(false),
            permits: Arc::new(Semaphore::new(OPERATIONS_MAX)),
            mdm: watch::Sender::new(MdmState::Waiting),
            ended: watch::Sender::new(false),
        })
    }

    /// Hands a command to the loop. After the role has ended it is dropped, and with it its reply.
    pub(crate) fn command(&self, command: Command) {
        self.commands.push(command);
        if self.stopped.load(Ordering::SeqCst) {
            self.drop_commands();
        } else {
            self.waker.wake();
        }
    }

    /// The next command.
    pub(crate) fn next(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// The role has ended: nobody will look at commands any more.
    pub(crate) fn end(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.drop_commands();
        self.permits.close();
        self.ended.send_replace(true);
    }

    fn drop_commands(&self) {
        while self.commands.pop().is_some() {}
    }
}
