//! Log block: a header that chains it to the block before, and records.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..12 | frame (magic `sdsRECLG`, checksum) |
//! | 12..14 | bytes of records |
//! | 14..16 | records |
//! | 16..24 | sequence: its place in the ring is sequence modulo ring length |
//! | 24..32 | store incarnation |
//! | 32..40 | flushed position: every log block up to it, and the data its records speak of, was durable when this was written |
//! | 40..48 | resolved position: the same, but completed |
//! | 48..52 | checksum of the block with the sequence before |
//! | 52..60 | low half of the device UUID: tells a damaged block of this device from a leftover of another life |
//! | 60..64 | zero |
//! | 64..4096 | records, then zero |
//!
//! What this must not know: when blocks are written; what the records do.

use crate::checksum::Checksum;
use crate::format::block::{self, BlockFault, Kind, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::format::record::{self, RECORD_BYTES_MAX, Record};
use crate::id::DeviceUuid;
use crate::unit::ByteOffset;

const RECORDS_START: usize = 64;
/// Room for records in one block.
pub const RECORDS_BYTES: usize = block::BYTES - RECORDS_START;

const _: () = assert!(RECORD_BYTES_MAX <= RECORDS_BYTES);

/// A log block's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHeader {
    /// Place in the log.
    pub sequence: u64,
    /// Store life that wrote it.
    pub incarnation: u64,
    /// Durable up to here.
    pub flushed: u64,
    /// Completed up to here.
    pub resolved: u64,
    /// Checksum of the block before.
    pub previous: Checksum,
    /// Records in it.
    pub records: u16,
}

/// Encodes a block and gives its checksum, which the next block states.
///
/// # Panics
/// If the records do not fit: the log writer opens another block first.
pub fn encode(block: &mut [u8], header: &LogHeader, records: &[u8], device: DeviceUuid, location: ByteOffset) -> Checksum {
    block.fill(0);
    let bytes = u16::try_from(records.len()).unwrap_or(u16::MAX);
    put_u16(block, 12, bytes);
    put_u16(block, 14, header.records);
    put_u64(block, 16, header.sequence);
    put_u64(block, 24, header.incarnation);
    put_u64(block, 32, header.flushed);
    put_u64(block, 40, header.resolved);
    put_u32(block, 48, header.previous.get());
    put_u64(block, 52, low_half(device));
    block[RECORDS_START..RECORDS_START + records.len()].copy_from_slice(records);
    block::seal(block, Kind::Log, device, location)
}

/// A decoded log block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBlock<'a> {
    /// Its header.
    pub header: LogHeader,
    /// Its own checksum.
    pub checksum: Checksum,
    /// Its records, packed; [`records`] walks them and cannot fail on them.
    pub packed: &'a [u8],
}

/// Decodes a block read from a place, and checks every record in it.
///
/// # Errors
/// What is wrong with it; never panics.
pub fn decode(bytes: &[u8], device: DeviceUuid, location: ByteOffset) -> Result<LogBlock<'_>, BlockFault> {
    let checksum = block::check(bytes, Kind::Log, device, location)?;
    let length = usize::from(get_u16(bytes, 12));
    let header = LogHeader {
        sequence: get_u64(bytes, 16),
        incarnation: get_u64(bytes, 24),
        flushed: get_u64(bytes, 32),
        resolved: get_u64(bytes, 40),
        previous: Checksum::new(get_u32(bytes, 48)),
        records: get_u16(bytes, 14),
    };
    let packed = bytes.get(RECORDS_START..RECORDS_START + length).ok_or(BlockFault::Field("record bytes"))?;
    let mut rest = packed;
    for _ in 0..header.records {
        rest = record::decode(rest)?.1;
    }
    if !rest.is_empty() {
        return Err(BlockFault::Field("record count"));
    }
    Ok(LogBlock { header, checksum, packed })
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low_half(device: DeviceUuid) -> u64 {
    device.get() as u64
}

/// Whether a block that does not decode was once a log block of this device.
#[must_use]
pub fn is_of_device(bytes: &[u8], device: DeviceUuid) -> bool {
    bytes.len() == block::BYTES && bytes[..8] == Kind::Log.magic() && get_u64(bytes, 52) == low_half(device)
}

/// Walks packed records, each with its offset; stops at the first that is none.
pub fn records(packed: &[u8]) -> impl Iterator<Item = (usize, Record<'_>)> {
    let mut rest = packed;
    core::iter::from_fn(move || {
        let at = packed.len() - rest.len();
        let (record, after) = record::decode(rest).ok()?;
        rest = after;
        Some((at, record))
    })
}
