//! What a client machine is asked and what it wants done. Shared by the machine, its shell and the simulator.
//!
//! Users of the machine (the NBD server, the library) cut their requests into *pieces* first: see
//! [`crate::volume::piece`]. A data piece lies in one stripe unit and has at most one frame's
//! payload; a piece to write is either whole blocks or inside one block. So a data piece is one
//! frame, and its buffer is never copied.

use crate::buffer::Span;
use crate::control::{ClientToMdm, MdmToClient, OpenError, VolumeLine};
use crate::error::Status;
use crate::id::{ClientId, DeviceId, SdsId, Ticket, VolumeId};
use crate::machine::{LinkId, Token};
use crate::stripe::Stripe;
use crate::unit::{ByteCount, ByteOffset, Nanos};
use crate::view::SessionMode;
use crate::wire::Frame;

/// Identity, policy and bounds of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Durable identity.
    pub client: ClientId,
    /// Its proof.
    pub ticket: Ticket,
    /// Host and process, for people.
    pub name: String,
    /// Number of this process's first connection to any SDS; above every one used before (the shell
    /// takes it from the wall clock in nanoseconds, kept monotonic in the state directory).
    pub first_connection: u64,
    /// Most requests at once, over all volumes; at most [`crate::limits::VOLUME_REQUESTS_MAX`]. Ask
    /// [`crate::volume::Client::free_requests`] before a request: one too many is answered `NotReady`.
    pub requests_max: usize,
    /// Pause before a failed connection is tried again, first and longest.
    pub reconnect_pause: (Nanos, Nanos),
}

/// An open volume, as its user needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenVolume {
    /// Its id; names it in requests.
    pub id: VolumeId,
    /// Its size.
    pub size: ByteCount,
    /// Its layout, for cutting pieces.
    pub stripe: Stripe,
    /// What the session allows.
    pub mode: SessionMode,
}

/// A request on an open volume. Ranges lie inside the volume, else `PastEnd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// One data piece, of any alignment: the whole blocks that cover it are read and verified, the
    /// part asked for is returned.
    Read {
        /// First byte.
        offset: ByteOffset,
        /// Bytes.
        len: u32,
    },
    /// One data piece. The machine takes one use of the buffer and releases it before completion.
    Write {
        /// First byte.
        offset: ByteOffset,
        /// The bytes. For whole blocks the span starts at a multiple of 4 KiB in its buffer.
        span: Span,
        /// Durable before completion.
        durable: bool,
    },
    /// Any range of whole blocks inside one stripe set.
    Zero {
        /// First byte.
        offset: ByteOffset,
        /// Bytes.
        len: u64,
        /// Space may be freed.
        trim: bool,
        /// Durable before completion.
        durable: bool,
    },
    /// All that was completed before is durable after.
    Flush,
    /// Which blocks hold data: a range of whole blocks inside one stripe unit.
    Status {
        /// First byte.
        offset: ByteOffset,
        /// Bytes.
        len: u32,
    },
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written, zeroed, flushed.
    Done,
    /// Bytes read; one use of the buffer passes to the user.
    Data(Span),
    /// The bytes read are all zero; there is no buffer.
    Zeroes,
    /// Blocks of the range that hold data: bit i is block i of the range (at most 256).
    Status([u64; 4]),
}

/// Input of a step.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The control connection to the MDM is up (send `Hello`, resume sessions) or down.
    Mdm {
        /// Whether it is up.
        up: bool,
    },
    /// The MDM said something.
    Control(&'a MdmToClient),
    /// Open a volume. Opening it again in the same mode shares the session.
    Open {
        /// Comes back with the answer.
        token: Token,
        /// Which, by name.
        volume: &'a str,
        /// How.
        mode: SessionMode,
        /// Take it over.
        force: bool,
        /// Requests that have not been served for so long end with `NotReady`; `None`: they wait for ever. Of several users of one session
        /// the most patient decides.
        io_timeout: Option<Nanos>,
    },
    /// Finish a volume's requests, flush, and give the session back. Each `Open` that succeeded needs
    /// one; only the last does anything. Whoever must know that the flush succeeded flushes first.
    Close {
        /// Comes back with the answer.
        token: Token,
        /// Which.
        volume: VolumeId,
    },
    /// List volumes.
    List {
        /// Comes back with the answer.
        token: Token,
    },
    /// I/O.
    Request {
        /// Comes back with the completion.
        token: Token,
        /// Where.
        volume: VolumeId,
        /// What.
        request: Request,
    },
    /// A connection asked for by `Connect` is up.
    Linked {
        /// To which server.
        sds: SdsId,
        /// Its name from now on.
        link: LinkId,
    },
    /// It could not be made.
    ConnectFailed {
        /// To which server.
        sds: SdsId,
    },
    /// A link is gone.
    Unlinked {
        /// Which.
        link: LinkId,
    },
    /// A frame came; one use of its buffer passes to the machine.
    Frame {
        /// Over which link.
        link: LinkId,
        /// The frame.
        frame: &'a Frame,
    },
    /// The deadline has come, or buffers were freed.
    Wake,
}

/// What a step wants done.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most effects are frames, and the outbox keeps its memory: a box would allocate per frame")]
pub enum Effect {
    /// Tell the MDM.
    Control(ClientToMdm),
    /// Connect to a server (any of these addresses, in order); answer with `Linked` or `ConnectFailed`.
    Connect {
        /// Which.
        sds: SdsId,
        /// `host:port`, best first.
        addresses: Vec<String>,
    },
    /// Send a frame; one use of its buffer passes to the shell.
    Send {
        /// Over which link.
        link: LinkId,
        /// The frame.
        frame: Frame,
    },
    /// Close a link.
    CloseLink {
        /// Which.
        link: LinkId,
    },
    /// Answer to `Request`.
    Complete {
        /// Of the request.
        token: Token,
        /// How it went. Only final outcomes: everything that can be retried has been.
        result: Result<Outcome, Status>,
    },
    /// Answer to `Open`.
    Opened {
        /// Of the question.
        token: Token,
        /// The volume.
        result: Result<OpenVolume, OpenError>,
    },
    /// Answer to `Close`.
    Closed {
        /// Of the question.
        token: Token,
    },
    /// Answer to `List`.
    Volumes {
        /// Of the question.
        token: Token,
        /// By name.
        volumes: Vec<VolumeLine>,
    },
    /// Something to tell.
    Event(Event),
}

/// What a client reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session was taken over by somebody else; its requests end with `Fenced`.
    Fenced {
        /// Which volume.
        volume: VolumeId,
    },
    /// Requests wait for a server that cannot be reached.
    Waiting {
        /// Which.
        sds: SdsId,
        /// How many requests.
        requests: usize,
    },
    /// A server leaves everything unanswered though its connection stands: its host is cut off, or its process stopped. The MDM has
    /// been asked whether it knows more.
    Silent {
        /// Which.
        sds: SdsId,
        /// How many requests wait for it.
        requests: usize,
    },
    /// Requests wait for a device whose server can be reached but does not serve it (yet).
    DeviceNotReady {
        /// Which.
        device: DeviceId,
        /// Its server.
        sds: SdsId,
    },
    /// A device has failed, its server says; requests for it end with `DeviceFailed`. Told once until it serves again.
    DeviceFailed {
        /// Which.
        device: DeviceId,
        /// Its server.
        sds: SdsId,
    },
    /// A server can be reached, or answers, again.
    Reached {
        /// Which.
        sds: SdsId,
    },
    /// Bytes arrived that do not match their checksum; asked for again.
    PayloadDamaged {
        /// Over which link.
        link: LinkId,
    },
    /// Requests of a volume were not served within its `io_timeout` and have been given up.
    TimedOut {
        /// Which volume.
        volume: VolumeId,
    },
    /// A flush failed: writes that it covers were acknowledged, and a power cut has eaten them.
    FlushLost {
        /// Which volume.
        volume: VolumeId,
    },
    /// The MDM refused this client.
    Refused {
        /// Why.
        reason: String,
    },
    /// A server refused a connection; it is tried again after a pause.
    LinkRefused {
        /// Which.
        sds: SdsId,
        /// What it said.
        status: Status,
    },
    /// Writes of a volume could not be made durable when it was closed.
    CloseFlushFailed {
        /// Which.
        volume: VolumeId,
        /// Why.
        status: Status,
    },
    /// A block is unreadable for good.
    Unreadable {
        /// Which volume.
        volume: VolumeId,
        /// First byte of the piece.
        offset: ByteOffset,
    },
}
