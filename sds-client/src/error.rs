//! Why something on a cluster or volume failed, for the program that embeds this crate.
//!
//! Invariant: whatever a caller may want to tell apart is a variant or a field, not text.

use crate::identity::IdentityError;
use sds_core::control::OpenError;
use sds_core::error::Status;
use sds_ring::RingError;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No volume has this name.
    #[error("no volume is named {name:?}")]
    NoVolume {
        /// What was asked for; empty for an operation on a volume that was deleted or closed.
        name: String,
    },
    /// Somebody else has the volume open.
    #[error("volume {name:?} is open by {holder} since {since}; close it there, or take it over by force")]
    Busy {
        /// Which volume.
        name: String,
        /// Who has it.
        holder: String,
        /// Since when (RFC 3339, UTC).
        since: String,
    },
    /// The volume cannot be opened for another reason, which the source names.
    #[error(transparent)]
    CannotOpen(OpenError),
    /// The MDM does not accept this client.
    #[error("the MDM refused this client: {reason}")]
    Refused {
        /// Why, and the way out.
        reason: String,
    },
    /// The range reaches past the end of the volume. Nothing was done.
    #[error("range {offset}+{len} reaches past the end of the volume ({size} bytes)")]
    PastEnd {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Bytes of the volume.
        size: u64,
    },
    /// The pool is full. Blocks of the range may have been written or not; each holds its old or new content.
    #[error("no space left in the pool of the volume; delete volumes, trim, or add devices")]
    NoSpace,
    /// There is no memory for an answer of this size. Nothing was done.
    #[error("no memory for {bytes} bytes; read less at once")]
    NoMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// Another client has taken the volume over: this handle is of no use any more.
    #[error("the volume was taken over by another client")]
    Fenced,
    /// Bytes do not match their checksum and there is no good copy of them.
    #[error("data of the range {offset}+{len} is damaged and no good copy is reachable")]
    Corrupt {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// A device failed.
    #[error("a device that holds the range {offset}+{len} has failed")]
    DeviceFailed {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// No good copy could be reached within the volume's `io_timeout`. A write may have been done or not, or be done yet.
    #[error("the range {offset}+{len} was not served within the io_timeout; the client's log names who is waited for")]
    TimedOut {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// Writes that were completed but not yet flushed are gone (a host lost power). Said once.
    #[error("writes since the last flush were lost by a server; what was flushed is safe")]
    FlushLost,
    /// The volume was opened for reading only.
    #[error("the volume is open for reading only")]
    ReadOnly,
    /// The servers refused the request as malformed: a bug of this library or of a server.
    #[error("the request {offset}+{len} was refused as invalid; please report this")]
    Invalid {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
    },
    /// The client was stopped.
    #[error("the client is stopped")]
    Stopped,
    /// The loop cannot run here.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The durable identity cannot be had.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration does not fit.
    #[error("{reason}")]
    Config {
        /// What, and the way out.
        reason: String,
    },
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NoVolume { name } => Self::NoVolume { name },
            OpenError::Busy { name, holder, since } => Self::Busy { name, holder, since },
            OpenError::NotConfirmed { .. }
            | OpenError::TooManySessions { .. }
            | OpenError::NotRecorded { .. }
            | OpenError::Refused { .. } => Self::CannotOpen(error),
        }
    }
}

impl Error {
    /// What a failed request on a range means to its user.
    pub(crate) fn of_request(status: Status, offset: u64, len: u64, size: u64) -> Self {
        match status {
            Status::PastEnd => Self::PastEnd { offset, len, size },
            Status::NoVolume => Self::NoVolume { name: String::new() },
            Status::NoSpace => Self::NoSpace,
            Status::Fenced => Self::Fenced,
            Status::Corrupt | Status::PayloadDamaged => Self::Corrupt { offset, len },
            Status::DeviceFailed => Self::DeviceFailed { offset, len },
            Status::FlushLost => Self::FlushLost,
            Status::ReadOnly => Self::ReadOnly,
            // Everything else that is not ready is waited for.
            Status::NotReady => Self::TimedOut { offset, len },
            // The machine retries the last three; that one reaches a user is as much a bug as a bad request.
            Status::Invalid | Status::Ok | Status::MapStale | Status::Stopping => Self::Invalid { offset, len },
        }
    }
}
