//! A frame as bytes: all but its payload, which the shell sends from where it lies.
//!
//! Must not know: where payload bytes are.

use super::frame::{Body, Frame};
use super::header::{HEADER_BYTES, Header, PROTOCOL_VERSION};
use super::hello::{Hello, Party};
use super::layout::{
    CACHE_ID_BYTES, CHECKSUM_BYTES, HEAD_BYTES_MAX, HEADER_COVERED_BYTES, HELLO_BYTES, HELLO_KIND_CLIENT, HELLO_KIND_PEER, MAGIC,
    RawHeader, RawHello,
};
use crate::checksum::Checksum;
use zerocopy::IntoBytes;

/// Room for any frame's head.
pub type HeadBytes = [u8; HEAD_BYTES_MAX];

/// Writes everything of `frame` that stands before its payload; the first `n` bytes of `out` are the
/// head, and the payload's bytes follow it on the wire.
///
/// # Panics
/// If the frame breaks the rules of its opcode ([`Frame::check`]): machines make none such.
#[must_use]
pub fn encode_head(frame: &Frame, out: &mut HeadBytes) -> usize {
    if let Err(error) = frame.check() {
        panic!("a machine made a frame that is none: {error}");
    }
    let (header_bytes, tail) = out.split_at_mut(HEADER_BYTES);
    let mut used = 0;
    let mut payload = 0;
    let mut checksum_count = 0;
    match &frame.body {
        Body::Empty => {}
        Body::Payload { span, checksums } => {
            for checksum in checksums.as_slice() {
                tail[used..used + CHECKSUM_BYTES].copy_from_slice(&checksum.get().to_le_bytes());
                used += CHECKSUM_BYTES;
            }
            payload = span.len;
            #[expect(clippy::cast_possible_truncation, reason = "a list holds at most 32")]
            let count = checksums.len() as u8;
            checksum_count = count;
        }
        Body::Hello(hello) => {
            tail[..HELLO_BYTES].copy_from_slice(raw_hello(hello).as_bytes());
            used = HELLO_BYTES;
        }
    }
    let mut cache_id_count = 0;
    for id in frame.cache_ids.as_slice() {
        tail[used..used + 4].copy_from_slice(&id.device.get().to_le_bytes());
        tail[used + 4..used + CACHE_ID_BYTES].copy_from_slice(&id.boot.to_le_bytes());
        used += CACHE_ID_BYTES;
        cache_id_count += 1;
    }
    let mut raw = raw_header(&frame.header);
    raw.payload = payload.into();
    raw.checksums = checksum_count;
    raw.cache_ids = cache_id_count;
    raw.tail_checksum = Checksum::of(&tail[..used]).get().into();
    raw.header_checksum = Checksum::of(&raw.as_bytes()[..HEADER_COVERED_BYTES]).get().into();
    header_bytes.copy_from_slice(raw.as_bytes());
    HEADER_BYTES + used
}

fn raw_header(header: &Header) -> RawHeader {
    RawHeader {
        magic: MAGIC,
        version: PROTOCOL_VERSION,
        opcode: header.opcode.to_wire(),
        flags: header.flags.bits().into(),
        connection: header.connection.get().into(),
        request: header.request.get().into(),
        generation: header.generation.get().into(),
        volume: header.volume.get().into(),
        layer: header.layer.get().into(),
        extent: header.extent.get().into(),
        offset: header.offset.into(),
        length: header.length.into(),
        epoch: header.epoch.get().into(),
        sequence: header.sequence.get().into(),
        resolved: header.resolved.get().into(),
        map_version: header.map_version.get().into(),
        shard: header.shard.get().into(),
        device: header.device.get().into(),
        payload: 0.into(),
        status: header.status.to_wire().into(),
        checksums: 0,
        cache_ids: 0,
        tail_checksum: 0.into(),
        header_checksum: 0.into(),
    }
}

fn raw_hello(hello: &Hello) -> RawHello {
    let (kind, party, proof) = match hello.party {
        Party::Client { client, ticket } => (HELLO_KIND_CLIENT, client.get(), ticket.get()),
        Party::Peer { sds, incarnation, addressed } => {
            let lives = u128::from(incarnation.get()) | (u128::from(addressed.get()) << 64);
            (HELLO_KIND_PEER, lives, u128::from(sds.get()))
        }
    };
    RawHello {
        version_min: hello.version_min,
        version_max: hello.version_max,
        kind,
        reserved: [0; 5],
        system: hello.system.get().into(),
        party: party.into(),
        proof: proof.into(),
    }
}
