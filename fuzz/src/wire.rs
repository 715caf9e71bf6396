//! Frames of the data protocol, and what two copies tell each other inside them.
//!
//! Mutation does not find a CRC, so each input is decoded as it is and once more with its checksums made right
//! (`docs/wire-protocol.md` has the table of bytes).

use crate::memory::{NOTHING, bounded};
use sds_core::buffer::{BufferId, Span};
use sds_core::checksum::Checksum;
use sds_core::exchange::{BLOCK_ENTRY_BYTES, BlockEntry, EXTENT_ENTRY_BYTES, ExtentEntry, PLAN_ENTRY_BYTES, PlanEntry};
use sds_core::limits::FRAME_PAYLOAD_BYTES_MAX;
use sds_core::wire::{HEAD_BYTES_MAX, HEADER_BYTES, HELLO_BYTES, Opcode, decode_head, encode_head};

/// A frame's head.
pub fn head(data: &[u8]) {
    check_head(data);
    let mut mended = data.to_vec();
    if mend(&mut mended) {
        check_head(&mended);
    }
}

/// Makes the two checksums of a head right; false if there is no whole one.
fn mend(bytes: &mut [u8]) -> bool {
    let Some((header, rest)) = bytes.split_at_mut_checked(HEADER_BYTES) else { return false };
    let hello = if header[5] == Opcode::Hello.to_wire() { HELLO_BYTES } else { 0 };
    let tail = hello + 4 * usize::from(header[94]) + 12 * usize::from(header[95]);
    let Some(tail) = rest.get(..tail) else { return false };
    header[96..100].copy_from_slice(&Checksum::of(tail).get().to_le_bytes());
    let sum = Checksum::of(&header[..100]).get().to_le_bytes();
    header[100..].copy_from_slice(&sum);
    true
}

fn check_head(bytes: &[u8]) {
    let (head, used) = match bounded(bytes, NOTHING, || decode_head(bytes)) {
        Ok(Some(found)) => found,
        Ok(None) => return assert!(bytes.len() < HEAD_BYTES_MAX, "more bytes are asked for than any head has"),
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert!(used <= bytes.len() && used <= HEAD_BYTES_MAX);
    assert!(head.payload_len() <= FRAME_PAYLOAD_BYTES_MAX);
    for shorter in [0, 1, 4, HEADER_BYTES - 1, used - 1] {
        assert_eq!(decode_head(&bytes[..shorter]), Ok(None), "the start of a head is no fault");
    }
    let span = (head.payload_len() > 0).then(|| Span::whole(BufferId::new(1), head.payload_len()));
    let frame = head.into_frame(span);
    assert_eq!(frame.check(), Ok(()), "a decoded frame keeps to the rules of its opcode");
    let mut again = [0; HEAD_BYTES_MAX];
    let written = encode_head(&frame, &mut again);
    assert_eq!(&again[..written], &bytes[..used], "a head encodes to the bytes it came from");
}

/// Entries of extent lists, block lists and plans: the first byte says which.
pub fn exchange(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            if let Ok(entry) = bounded(bytes, NOTHING, || ExtentEntry::decode(bytes)) {
                let mut again = [0xff; EXTENT_ENTRY_BYTES as usize];
                entry.encode(&mut again);
                assert_eq!(again, bytes[..again.len()], "an extent entry encodes to the bytes it came from");
            }
        }
        1 => {
            if let Ok(entry) = bounded(bytes, NOTHING, || BlockEntry::decode(bytes)) {
                let mut again = [0xff; BLOCK_ENTRY_BYTES as usize];
                entry.encode(&mut again);
                assert_eq!(BlockEntry::decode(&again), Ok(entry), "a block entry comes back");
                let _ = (entry.record(), entry.bytes_held());
            }
        }
        _ => {
            if let Ok(entry) = bounded(bytes, NOTHING, || PlanEntry::decode(bytes)) {
                let mut again = [0xff; PLAN_ENTRY_BYTES as usize];
                entry.encode(&mut again);
                assert_eq!(PlanEntry::decode(&again), Ok(entry), "a plan entry comes back");
                let _ = entry.info();
            }
        }
    }
}
