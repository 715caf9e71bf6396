//! A whole frame: header and body.

use super::header::{CacheIds, Header};
use super::hello::Hello;
use crate::buffer::Span;
use crate::checksum::ChecksumList;

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    Empty,
    /// Bytes with one checksum a block (the last one may cover less than a block). The frame carries
    /// one use of the span's buffer.
    Payload {
        /// The bytes.
        span: Span,
        /// Their checksums.
        checksums: ChecksumList,
    },
    /// Of a `Hello`.
    Hello(Hello),
}

/// A frame as machines see it; on the wire only when it has to cross a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The fixed part.
    pub header: Header,
    /// Copies that hold an acknowledged write, or that a flush relies on.
    pub cache_ids: CacheIds,
    /// The rest.
    pub body: Body,
}

impl Frame {
    /// A frame of a header only.
    #[must_use]
    pub const fn bare(header: Header) -> Self {
        Self { header, cache_ids: CacheIds::NONE, body: Body::Empty }
    }

    /// A frame with bytes.
    #[must_use]
    pub const fn with_payload(header: Header, span: Span, checksums: ChecksumList) -> Self {
        Self { header, cache_ids: CacheIds::NONE, body: Body::Payload { span, checksums } }
    }
}
