//! The seam to consensus: an ordered, durable log that one member at a time may append to.
//!
//! Behind it is one member on a local store ([`local::LocalLog`]) for now, a Raft group later, and in
//! tests a log that loses proposals and leadership.
//!
//! Invariants: an entry is told as committed only once it survives a power cut; every member is told
//! the same entries in the same order, each once; the fate of each accepted proposal is told once.
//! Must not know: what an entry means.

pub mod local;

use sds_core::cluster::leader::ProposalId;
use std::future::Future;

/// Place of an entry in the log; the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogIndex(pub u64);

/// What a log tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEvent {
    /// The next entry.
    Committed {
        /// Its place; one above that of the one before.
        index: LogIndex,
        /// Its proposal, if it was made here.
        proposal: Option<ProposalId>,
        /// Its bytes.
        entry: Vec<u8>,
    },
    /// A proposal will not be in the log, or nobody can tell.
    Lost {
        /// Which.
        proposal: ProposalId,
    },
    /// Who leads has changed.
    Leadership(Leadership),
    /// The log cannot go on: this process must end, its metadata may not be what is on the disk.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Whether this member may propose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It leads: everything committed before has been told.
    Leader,
    /// Another member leads, or none.
    Follower,
}

/// Why a proposal was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// As many as may be are in flight.
    #[error("too many proposals are in flight")]
    Full,
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeader,
}

/// A log, as the member uses it.
pub trait ReplicatedLog: Send + 'static {
    /// The kind of its barriers.
    type Barrier: ReadBarrier;

    /// Hands an entry over; its fate is told by [`Self::next`].
    ///
    /// # Errors
    /// When it was not taken; then nothing more is heard of it.
    fn propose(&mut self, proposal: ProposalId, entry: Vec<u8>) -> Result<(), ProposeError>;

    /// What happens next. May be dropped before it is ready without losing anything.
    fn next(&mut self) -> impl Future<Output = LogEvent> + Send;

    /// Replaces the entries up to `index`, all told already, by a snapshot.
    fn cut(&mut self, index: LogIndex, snapshot: Vec<u8>);

    /// For reads that must see everything acknowledged before them.
    fn barrier(&self) -> Self::Barrier;

    /// Ends it; what was committed is durable.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Waits until a read here sees whatever was acknowledged anywhere before.
pub trait ReadBarrier: Clone + Send + Sync + 'static {
    /// Waits.
    ///
    /// # Errors
    /// When this member does not lead.
    fn wait(&self) -> impl Future<Output = Result<(), ProposeError>> + Send;
}

/// What a member starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The newest snapshot and the index of the last entry in it.
    pub snapshot: Option<(LogIndex, Vec<u8>)>,
    /// All entries after it, in order.
    pub entries: Vec<(LogIndex, Vec<u8>)>,
}
