//! Bytes as a frame: total, and bounded before anything is believed.
//!
//! Order of belief: magic (at the first byte that differs), header checksum, version, opcode, flags,
//! status, range, payload length and counts, then the tail's checksum, then what the tail says. So a
//! flipped bit anywhere in a head is found before any of it is used, and a length never leads to
//! waiting for more than [`HEAD_BYTES_MAX`] bytes of head or a payload above its bound.

use super::error::WireError;
use super::frame::{Body, Frame};
use super::header::{CacheId, CacheIds, Flags, HEADER_BYTES, Header, Opcode, PROTOCOL_VERSION};
use super::hello::{Hello, Party};
use super::layout::{
    CACHE_ID_BYTES, CHECKSUM_BYTES, HEAD_BYTES_MAX, HEADER_COVERED_BYTES, HELLO_BYTES, HELLO_KIND_CLIENT, HELLO_KIND_PEER, MAGIC,
    RawHeader, RawHello,
};
use super::shape::{Parts, check};
use crate::buffer::Span;
use crate::checksum::{Checksum, ChecksumList};
use crate::error::Status;
use crate::id::{
    ClientId, ConnectionNumber, DeviceId, Epoch, ExtentIndex, Incarnation, LayerId, MapVersion, RequestId, SdsId, SessionGeneration,
    ShardId, ShardSequence, SystemId, Ticket, VolumeId,
};
use zerocopy::{FromBytes, IntoBytes};

/// All of a frame but its payload's bytes, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedHead {
    header: Header,
    checksums: ChecksumList,
    cache_ids: CacheIds,
    hello: Option<Hello>,
    payload_len: u32,
}

impl DecodedHead {
    /// The fixed part.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of payload that follow, at most [`crate::limits::FRAME_PAYLOAD_BYTES_MAX`]; often 0.
    #[must_use]
    pub const fn payload_len(&self) -> u32 {
        self.payload_len
    }

    /// The frame, with its payload in `span`, or `None` where there is no payload.
    ///
    /// # Panics
    /// If `span` is not of [`Self::payload_len`] bytes.
    #[must_use]
    pub fn into_frame(self, span: Option<Span>) -> Frame {
        assert_eq!(span.map_or(0, |span| span.len), self.payload_len, "the shell brings the whole payload and nothing else");
        let body = match (span, self.hello) {
            (Some(span), _) if span.len > 0 => Body::Payload { span, checksums: self.checksums },
            (_, Some(hello)) => Body::Hello(hello),
            (_, None) => Body::Empty,
        };
        Frame { header: self.header, cache_ids: self.cache_ids, body }
    }
}

/// The head at the start of `bytes` and its length, or `None` when more bytes are needed (never
/// more than [`HEAD_BYTES_MAX`] in all).
///
/// # Errors
/// When no continuation of these bytes is a frame; the connection is of no more use.
pub fn decode_head(bytes: &[u8]) -> Result<Option<(DecodedHead, usize)>, WireError> {
    check_magic(bytes)?;
    let Ok((raw, rest)) = RawHeader::read_from_prefix(bytes) else { return Ok(None) };
    let found = Checksum::of(&raw.as_bytes()[..HEADER_COVERED_BYTES]).get();
    if found != raw.header_checksum.get() {
        return Err(WireError::HeaderChecksum { expected: raw.header_checksum.get(), found });
    }
    let header = decode_header(&raw)?;
    let parts = Parts { payload: raw.payload.get(), checksums: raw.checksums, cache_ids: raw.cache_ids };
    check(&header, parts)?;

    let hello_bytes = if header.opcode == Opcode::Hello { HELLO_BYTES } else { 0 };
    let checksum_bytes = usize::from(parts.checksums) * CHECKSUM_BYTES;
    let tail_bytes = checksum_bytes + usize::from(parts.cache_ids) * CACHE_ID_BYTES + hello_bytes;
    assert!(HEADER_BYTES + tail_bytes <= HEAD_BYTES_MAX, "counts were checked against the opcode");
    let Some(tail) = rest.get(..tail_bytes) else { return Ok(None) };
    let found = Checksum::of(tail).get();
    if found != raw.tail_checksum.get() {
        return Err(WireError::TailChecksum { expected: raw.tail_checksum.get(), found });
    }
    let hello = match header.opcode {
        Opcode::Hello => Some(decode_hello(tail)?),
        Opcode::HelloReply
        | Opcode::Read
        | Opcode::ReadReply
        | Opcode::Write
        | Opcode::WriteFragment
        | Opcode::WriteReply
        | Opcode::Zero
        | Opcode::Flush
        | Opcode::FlushReply
        | Opcode::BlockStatus
        | Opcode::BlockStatusReply
        | Opcode::Replicate
        | Opcode::ReplicateZero
        | Opcode::ReplicateReply
        | Opcode::ReplicateFlush
        | Opcode::ReplicateFlushReply
        | Opcode::Beacon
        | Opcode::Grant
        | Opcode::Extents
        | Opcode::ExtentsReply
        | Opcode::Blocks
        | Opcode::BlocksReply
        | Opcode::Medium
        | Opcode::MediumReply
        | Opcode::Copy
        | Opcode::Settle
        | Opcode::FreeExtent
        | Opcode::ResyncReply
        | Opcode::Resolved => None,
    };
    let (checksum_part, cache_id_part) = if hello.is_some() { (&tail[..0], &tail[..0]) } else { tail.split_at(checksum_bytes) };
    let head = DecodedHead {
        header,
        checksums: decode_checksums(checksum_part),
        cache_ids: decode_cache_ids(cache_id_part),
        hello,
        payload_len: parts.payload,
    };
    Ok(Some((head, HEADER_BYTES + tail_bytes)))
}

fn check_magic(bytes: &[u8]) -> Result<(), WireError> {
    let came = bytes.len().min(MAGIC.len());
    if bytes[..came] == MAGIC[..came] {
        return Ok(());
    }
    let mut found = [0; 4];
    found[..came].copy_from_slice(&bytes[..came]);
    Err(WireError::Magic { found })
}

fn decode_header(raw: &RawHeader) -> Result<Header, WireError> {
    if raw.version != PROTOCOL_VERSION {
        return Err(WireError::Version { found: raw.version });
    }
    let Some(opcode) = Opcode::from_wire(raw.opcode) else { return Err(WireError::Opcode { found: raw.opcode }) };
    let flags = Flags::from_bits(raw.flags.get());
    if flags.bits() & !Flags::KNOWN.bits() != 0 {
        return Err(WireError::Flags { opcode, found: flags.bits() });
    }
    let Some(status) = Status::from_wire(raw.status.get()) else { return Err(WireError::Status { opcode, found: raw.status.get() }) };
    Ok(Header {
        opcode,
        flags,
        connection: ConnectionNumber::new(raw.connection.get()),
        request: RequestId::new(raw.request.get()),
        generation: SessionGeneration::new(raw.generation.get()),
        volume: VolumeId::new(raw.volume.get()),
        layer: LayerId::new(raw.layer.get()),
        extent: ExtentIndex::new(raw.extent.get()),
        offset: raw.offset.get(),
        length: raw.length.get(),
        epoch: Epoch::new(raw.epoch.get()),
        sequence: ShardSequence::new(raw.sequence.get()),
        resolved: ShardSequence::new(raw.resolved.get()),
        map_version: MapVersion::new(raw.map_version.get()),
        shard: ShardId::new(raw.shard.get()),
        device: DeviceId::new(raw.device.get()),
        status,
    })
}

fn decode_checksums(bytes: &[u8]) -> ChecksumList {
    let mut list = ChecksumList::EMPTY;
    let (words, _) = bytes.as_chunks::<CHECKSUM_BYTES>();
    for word in words {
        list.push(Checksum::new(u32::from_le_bytes(*word)));
    }
    list
}

fn decode_cache_ids(bytes: &[u8]) -> CacheIds {
    let mut ids = CacheIds::NONE;
    let (items, _) = bytes.as_chunks::<CACHE_ID_BYTES>();
    for item in items {
        let [d0, d1, d2, d3, boot @ ..] = *item;
        let id = CacheId { device: DeviceId::new(u32::from_le_bytes([d0, d1, d2, d3])), boot: u64::from_le_bytes(boot) };
        let kept = ids.push(id);
        assert!(kept, "the count was checked against the opcode");
    }
    ids
}

fn decode_hello(tail: &[u8]) -> Result<Hello, WireError> {
    let Ok(raw) = RawHello::read_from_bytes(tail) else { unreachable!("the tail of a hello has its length") };
    let refusal = WireError::Hello { kind: raw.kind, reserved: raw.reserved };
    if raw.reserved != [0; 5] {
        return Err(refusal);
    }
    let party = match raw.kind {
        HELLO_KIND_CLIENT => Party::Client { client: ClientId::new(raw.party.get()), ticket: Ticket::new(raw.proof.get()) },
        HELLO_KIND_PEER => {
            let Ok(sds) = u32::try_from(raw.proof.get()) else { return Err(refusal) };
            let lives = raw.party.get();
            #[expect(clippy::cast_possible_truncation, reason = "two halves")]
            let (incarnation, addressed) = (Incarnation::new(lives as u64), Incarnation::new((lives >> 64) as u64));
            Party::Peer { sds: SdsId::new(sds), incarnation, addressed }
        }
        _ => return Err(refusal),
    };
    Ok(Hello { version_min: raw.version_min, version_max: raw.version_max, system: SystemId::new(raw.system.get()), party })
}
