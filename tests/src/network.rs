//! Links of clients and servers to servers: ordered, delayed, and gone at any time.
//!
//! As TCP gives it: frames of one link arrive in order or not at all; when a link breaks, each side
//! learns of it in its own time, and what had been sent before may still arrive until then, even
//! while the next link is up already. While a way is cut nothing that is sent that way arrives; it comes
//! when the cut is over, if the link is still there. Frames cross as the bytes that the daemons would send (the
//! codec is the real one), except between roles of one process, which hand them over.
//!
//! Must not know: what a frame means.

use crate::mdm::Role;
use crate::pipe::Pipe;
use sds_core::buffer::Buffers;
use sds_core::id::SdsId;
use sds_core::machine::LinkId;
use sds_core::unit::Nanos;
use sds_core::wire::{Body, Frame, HEAD_BYTES_MAX, encode_head};
use std::collections::BTreeMap;

/// Place of a process in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessIndex(pub usize);

/// Which end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The one that connected.
    Caller,
    /// The one that was connected to.
    Listener,
}

impl Side {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Caller => Self::Listener,
            Self::Listener => Self::Caller,
        }
    }
}

/// What arrives at an end.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "few are in flight, and a simulator may copy")]
pub enum Arrival {
    /// The link is up.
    Linked,
    /// A frame as bytes.
    Bytes {
        /// All but the payload.
        head: Vec<u8>,
        /// The payload.
        payload: Vec<u8>,
    },
    /// A frame of another role of the process, with its buffer's use.
    Handed(Frame),
    /// The link is gone.
    Unlinked,
}

/// Who sits at an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Which process.
    pub process: ProcessIndex,
    /// Which client or server of the world.
    pub role: Role,
    /// In which life.
    pub life: u64,
    /// It was told that the link is up and not that it is gone.
    pub open: bool,
}

/// A link.
#[derive(Debug)]
pub struct Link {
    ends: [End; 2],
    pipes: [Pipe<Arrival>; 2],
    /// The server that the caller meant.
    pub sds: SdsId,
    /// Nothing that is sent arrives any more.
    pub broken: bool,
}

impl Link {
    /// Who sits at a side.
    #[must_use]
    pub const fn end(&self, side: Side) -> End {
        self.ends[side as usize]
    }

    /// At which side a role sits that is at one of the two; no server connects to itself.
    #[must_use]
    pub fn side_of(&self, role: Role) -> Side {
        if self.ends[Side::Caller as usize].role == role { Side::Caller } else { Side::Listener }
    }

    /// Who sits at a side, to change.
    pub fn end_mut(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    /// What is under way to a side.
    pub fn pipe_to(&mut self, side: Side) -> &mut Pipe<Arrival> {
        &mut self.pipes[side as usize]
    }

    /// Whether both ends are in one process life: frames are handed over.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.ends[0].process == self.ends[1].process && self.ends[0].life == self.ends[1].life
    }
}

/// Who is on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A process.
    Process(ProcessIndex),
    /// The MDM.
    Mdm,
}

/// All links, by number, and the ways that are cut.
#[derive(Debug, Default)]
pub struct Network {
    links: BTreeMap<LinkId, Link>,
    next: u64,
    /// From whom to whom, and until when.
    cuts: BTreeMap<(Party, Party), Nanos>,
}

impl Network {
    /// Makes a link; nobody is told yet.
    pub fn connect(&mut self, caller: End, listener: End, sds: SdsId) -> LinkId {
        self.next += 1;
        let id = LinkId::new(self.next);
        self.links.insert(id, Link { ends: [caller, listener], pipes: [Pipe::default(), Pipe::default()], sds, broken: false });
        id
    }

    /// A link.
    #[must_use]
    pub fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id)
    }

    /// A link, to use.
    pub fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    /// Links that are not broken, oldest first.
    #[must_use]
    pub fn whole(&self) -> Vec<LinkId> {
        self.links.iter().filter(|(_, link)| !link.broken).map(|(id, _)| *id).collect()
    }

    /// Links with an end in a process, oldest first.
    #[must_use]
    pub fn of(&self, process: ProcessIndex) -> Vec<LinkId> {
        let touches = |link: &Link| link.ends.iter().any(|end| end.process == process);
        self.links.iter().filter(|(_, link)| touches(link)).map(|(id, _)| *id).collect()
    }

    /// Forgets a link of which nothing is under way and both ends know that it is gone.
    pub fn forget_if_over(&mut self, id: LinkId) {
        let over = |link: &Link| link.broken && link.pipes.iter().all(Pipe::is_empty) && link.ends.iter().all(|end| !end.open);
        if self.links.get(&id).is_some_and(over) {
            self.links.remove(&id);
        }
    }

    /// From here on nothing that `from` sends reaches `to` before `until`.
    pub fn cut(&mut self, from: Party, to: Party, until: Nanos) {
        let known = self.cuts.entry((from, to)).or_default();
        *known = until.max(*known);
    }

    /// Ends all cuts. What was sent before stays late.
    pub fn mend(&mut self) {
        self.cuts.clear();
    }

    /// Until when a way is cut; `None` if it is not.
    #[must_use]
    pub fn cut_until(&self, from: Party, to: Party, now: Nanos) -> Option<Nanos> {
        self.cuts.get(&(from, to)).copied().filter(|until| *until > now)
    }

    /// How many links there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

/// A frame as the bytes that cross a socket.
#[must_use]
pub fn to_bytes(frame: &Frame, buffers: &impl Buffers) -> Arrival {
    let mut head = [0; HEAD_BYTES_MAX];
    let used = encode_head(frame, &mut head);
    let payload = match &frame.body {
        Body::Payload { span, .. } => buffers.bytes(*span).to_vec(),
        Body::Empty | Body::Hello(_) => Vec::new(),
    };
    Arrival::Bytes { head: head[..used].to_vec(), payload }
}
