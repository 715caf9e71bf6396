//! Numbers of the NBD protocol, by the names of its specification.
//!
//! Source: `doc/proto.md` of NetworkBlockDevice/nbd (commit 014ba1aa). All numbers travel in network
//! byte order. Invariant: a number that came from a client becomes one of these enums or is refused.

use sds_core::error::Status;

/// First eight bytes a server sends (`NBDMAGIC`).
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Starts the newstyle greeting and each option (`IHAVEOPT`).
pub const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
/// Starts each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Starts each request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts each simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts each chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag and client flag: fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag and client flag: no 124 bytes of zero after `EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Transmission flag: the flags mean something.
pub const TRANSMIT_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: writes are refused.
pub const TRANSMIT_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: `FLUSH` works.
pub const TRANSMIT_FLUSH: u16 = 1 << 2;
/// Transmission flag: `FUA` works.
pub const TRANSMIT_FUA: u16 = 1 << 3;
/// Transmission flag: `TRIM` works.
pub const TRANSMIT_TRIM: u16 = 1 << 5;
/// Transmission flag: `WRITE_ZEROES` works.
pub const TRANSMIT_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: reads with `DF` work (structured replies only).
pub const TRANSMIT_DF: u16 = 1 << 7;
/// Transmission flag: a flush on one connection covers what any completed.
pub const TRANSMIT_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: `FAST_ZERO` is understood.
pub const TRANSMIT_FAST_ZERO: u16 = 1 << 11;

/// Command flag: durable before the reply.
pub const COMMAND_FUA: u16 = 1 << 0;
/// Command flag of `WRITE_ZEROES`: keep the space.
pub const COMMAND_NO_HOLE: u16 = 1 << 1;
/// Command flag of `READ`: at most one content chunk.
pub const COMMAND_DF: u16 = 1 << 2;
/// Command flag of `BLOCK_STATUS`: one descriptor only.
pub const COMMAND_REQ_ONE: u16 = 1 << 3;
/// Command flag of `WRITE_ZEROES`: fail rather than be slow.
pub const COMMAND_FAST_ZERO: u16 = 1 << 4;

/// Chunk flag: the last of its reply.
pub const CHUNK_DONE: u16 = 1 << 0;

/// Block status: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// Block status: reads as zero.
pub const STATE_ZERO: u32 = 1 << 1;

/// The one metadata context there is.
pub const CONTEXT_ALLOCATION: &str = "base:allocation";
/// Its number in block status replies.
pub const CONTEXT_ALLOCATION_ID: u32 = 1;

/// What a client may ask while haggling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionCode {
    /// Choose an export without a way to refuse.
    ExportName = 1,
    /// Leave.
    Abort = 2,
    /// Which exports are there?
    List = 3,
    /// Encrypt.
    StartTls = 5,
    /// What is this export like?
    Info = 6,
    /// Choose an export.
    Go = 7,
    /// Use structured replies.
    StructuredReply = 8,
    /// Which metadata contexts are there?
    ListMetaContext = 9,
    /// Choose metadata contexts.
    SetMetaContext = 10,
}

impl OptionCode {
    /// From its number; `None` for options this server does not know.
    #[must_use]
    pub const fn from_wire(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            _ => return None,
        })
    }
}

/// Kinds of reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OptionReply {
    /// Accepted; the last reply.
    Ack = 1,
    /// One export of a list.
    Server = 2,
    /// One piece of information on an export.
    Info = 3,
    /// One metadata context.
    MetaContext = 4,
    /// Unknown option.
    Unsupported = (1 << 31) + 1,
    /// Forbidden here.
    Policy = (1 << 31) + 2,
    /// Malformed.
    Invalid = (1 << 31) + 3,
    /// No such export.
    Unknown = (1 << 31) + 6,
    /// The server is stopping.
    Shutdown = (1 << 31) + 7,
    /// Too long to look at.
    TooBig = (1 << 31) + 9,
}

/// Kinds of information on an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum InfoType {
    /// Size and transmission flags.
    Export = 0,
    /// Canonical name.
    Name = 1,
    /// Text for people.
    Description = 2,
    /// Size constraints.
    BlockSize = 3,
}

/// What a client may ask in transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Read bytes.
    Read = 0,
    /// Write bytes.
    Write = 1,
    /// Leave.
    Disconnect = 2,
    /// Make what was completed durable.
    Flush = 3,
    /// Give space back.
    Trim = 4,
    /// Make bytes zero.
    WriteZeroes = 6,
    /// Which bytes hold data?
    BlockStatus = 7,
}

impl Command {
    /// From its number; `None` for commands this server does not know.
    #[must_use]
    pub const fn from_wire(raw: u16) -> Option<Self> {
        Some(match raw {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            _ => return None,
        })
    }

    /// The command flags it may carry. `FUA` is allowed on all, as the specification demands.
    #[must_use]
    pub const fn flags_allowed(self) -> u16 {
        match self {
            Self::Read => COMMAND_FUA | COMMAND_DF,
            Self::Write | Self::Disconnect | Self::Flush | Self::Trim => COMMAND_FUA,
            Self::WriteZeroes => COMMAND_FUA | COMMAND_NO_HOLE | COMMAND_FAST_ZERO,
            Self::BlockStatus => COMMAND_FUA | COMMAND_REQ_ONE,
        }
    }
}

/// Kinds of chunk of a structured reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ChunkType {
    /// Nothing more.
    None = 0,
    /// Bytes.
    OffsetData = 1,
    /// A run of zeroes.
    OffsetHole = 2,
    /// Block status descriptors.
    BlockStatus = 5,
    /// It failed.
    Error = (1 << 15) + 1,
    /// It failed here.
    ErrorOffset = (1 << 15) + 2,
}

/// Errors a reply may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// Not permitted.
    Permission = 1,
    /// It went wrong.
    Io = 5,
    /// The request is wrong.
    Invalid = 22,
    /// No space, or a write past the end.
    NoSpace = 28,
    /// Longer than this server takes in one go.
    Overflow = 75,
    /// The server, or this client's right to the volume, is going away.
    Shutdown = 108,
}

/// What a failed request is answered with: the code for programs, the text for people.
#[must_use]
pub const fn error_of(status: Status) -> (ErrorCode, &'static str) {
    match status {
        Status::Ok => (ErrorCode::Io, "internal error: a failure without a reason"),
        Status::Invalid => (ErrorCode::Invalid, "the request is invalid"),
        Status::PastEnd => (ErrorCode::Invalid, "the range lies past the end of the volume"),
        Status::NoVolume => (ErrorCode::Io, "the volume no longer exists"),
        Status::NoSpace => (ErrorCode::NoSpace, "no space is left in the storage pool"),
        Status::Fenced => (ErrorCode::Shutdown, "another client has taken over the volume"),
        Status::MapStale => (ErrorCode::Io, "the data server is not ready"),
        Status::NotReady => (ErrorCode::Io, "no good copy could be reached within the io timeout"),
        Status::Corrupt => (ErrorCode::Io, "the stored bytes do not match their checksum and no good copy is reachable"),
        Status::DeviceFailed => (ErrorCode::Io, "the device that holds these bytes has failed or is gone"),
        Status::PayloadDamaged => (ErrorCode::Io, "the bytes were damaged on their way"),
        Status::FlushLost => (ErrorCode::Io, "acknowledged writes were lost before this flush"),
        Status::ReadOnly => (ErrorCode::Permission, "the volume is open for reading only"),
        Status::Stopping => (ErrorCode::Shutdown, "the server is stopping"),
    }
}
