//! What the clients asked and what they were told, in the order in which it happened; plus the few
//! things a checker must know of the world (power cuts, take-overs, planted faults).
//!
//! Invariant: moments are unique and rise with the run, so the history is one sequence.
//! Must not know: machines, disks, networks.

use crate::pattern::Stamp;
use core::fmt;
use sds_core::error::Status;
use sds_core::unit::Nanos;

/// A point in the run's one order of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Place in the order.
    pub order: u64,
    /// Virtual time, for people.
    pub time: Nanos,
}

/// A session of one client on one volume: the generation the MDM gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionSerial(pub u32);

/// Place of an operation in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpIndex(pub u32);

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bytes, please.
    Read,
    /// These bytes.
    Write(Stamp),
    /// Zeroes (a trim too: it reads back zero).
    Zero,
    /// Make durable.
    Flush,
    /// Which blocks hold data?
    Status,
}

/// What a read brought of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The block, counted from the volume's start.
    pub lba: u64,
    /// First byte of it that was read.
    pub start: u32,
    /// Bytes of it that were read.
    pub len: u32,
    /// [`crate::pattern::digest`] of them.
    pub digest: u64,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Written, zeroed, flushed.
    Done,
    /// What a read saw, block by block.
    Data(Vec<Seen>),
    /// Blocks (from the volume's start) that are said to hold no data.
    Holes(Vec<u64>),
    /// It failed.
    Failed(Status),
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Who asked, for people.
    pub client: u16,
    /// In which session.
    pub session: SessionSerial,
    /// Which volume.
    pub volume: u32,
    /// First byte.
    pub offset: u64,
    /// Bytes; zero for a flush.
    pub len: u64,
    /// What.
    pub action: Action,
    /// Durable before the answer.
    pub durable: bool,
    /// When it was asked.
    pub asked: Moment,
    /// When and how it was answered; `None` when its client died first or the run ended.
    pub answered: Option<(Moment, Answer)>,
}

/// Something that happened to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Every copy of the blocks of this place has lost its volatile cache.
    PowerCut {
        /// Which place: a number that some blocks share.
        place: u32,
    },
    /// An exclusive session on a volume was answered: every one before it is fenced (I3).
    Opened {
        /// Which volume.
        volume: u32,
        /// The new session; lower ones are fenced.
        session: SessionSerial,
    },
    /// A client asked for the volume: sessions of others may be fenced from here on.
    TakeOver {
        /// Which volume.
        volume: u32,
        /// Who asked.
        client: u16,
    },
    /// A storage fault destroyed the block's bytes: an error is right, other bytes are not.
    Damaged {
        /// Which volume.
        volume: u32,
        /// Which block.
        lba: u64,
    },
    /// A store settled alone and kept bytes of this block that match no record, or took its first write for one that never landed.
    Kept {
        /// Which volume.
        volume: u32,
        /// Which block.
        lba: u64,
    },
    /// From here on requests to this place may fail with a device error.
    DeviceTrouble {
        /// Which place.
        place: u32,
    },
}

/// The whole story as the checkers see it.
#[derive(Clone, Debug, Default)]
pub struct History {
    ops: Vec<Op>,
    marks: Vec<(Moment, Mark)>,
    order: u64,
}

impl History {
    /// The next moment.
    pub fn moment(&mut self, time: Nanos) -> Moment {
        self.order += 1;
        Moment { order: self.order, time }
    }

    /// An operation was asked for.
    ///
    /// # Panics
    /// If there are 2³² of them.
    pub fn ask(&mut self, op: Op) -> OpIndex {
        let index = OpIndex(u32::try_from(self.ops.len()).expect("a run has fewer operations"));
        self.ops.push(op);
        index
    }

    /// It was answered.
    ///
    /// # Panics
    /// If it had been answered before: every request is answered once.
    pub fn answer(&mut self, time: Nanos, index: OpIndex, answer: Answer) {
        let moment = self.moment(time);
        let op = &mut self.ops[index.0 as usize];
        assert!(op.answered.is_none(), "operation {index:?} was answered twice");
        op.answered = Some((moment, answer));
    }

    /// Something happened to the world.
    pub fn mark(&mut self, time: Nanos, mark: Mark) {
        let moment = self.moment(time);
        self.marks.push((moment, mark));
    }

    /// All operations, in the order in which they were asked.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Writes that were not answered, and not asked earlier than so many nanoseconds before `now`: volume, first byte, end.
    pub fn unanswered_writes(&self, now: Nanos, within: Nanos) -> impl Iterator<Item = (u32, u64, u64)> {
        let recent = self.ops.iter().rev().take_while(move |op| now.since(op.asked.time) < within);
        let is_write = |op: &&Op| op.answered.is_none() && matches!(op.action, Action::Write(_));
        recent.filter(is_write).map(|op| (op.volume, op.offset, op.offset + op.len))
    }

    /// All operations, for doctoring in tests of the checkers.
    pub fn ops_mut(&mut self) -> &mut Vec<Op> {
        &mut self.ops
    }

    /// All marks, in order.
    #[must_use]
    pub fn marks(&self) -> &[(Moment, Mark)] {
        &self.marks
    }

    /// All marks, for doctoring in tests of the checkers.
    pub fn marks_mut(&mut self) -> &mut Vec<(Moment, Mark)> {
        &mut self.marks
    }
}

impl fmt::Display for Op {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, session, volume, offset, len, action, durable, asked, answered } = self;
        write!(
            formatter,
            "client {client} session {} volume {volume} {action:?}{} [{offset}, +{len}) asked {}",
            session.0,
            if *durable { " durable" } else { "" },
            crate::trace::Stamp(asked.time)
        )?;
        match answered {
            None => write!(formatter, ", never answered"),
            Some((moment, answer)) => {
                let what = match answer {
                    Answer::Done => "done".to_owned(),
                    Answer::Data(_) => "data".to_owned(),
                    Answer::Holes(holes) => format!("{} holes", holes.len()),
                    Answer::Failed(status) => format!("{status:?}"),
                };
                write!(formatter, ", answered {} {what}", crate::trace::Stamp(moment.time))
            }
        }
    }
}
