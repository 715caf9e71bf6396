//! Every bound of the system, by name, each held against its neighbours at compile time.
//!
//! Invariant: reaching a bound is answered (back-pressure or an error), never grown past.

use crate::unit::{BLOCK_BYTES, EXTENT_BYTES};

/// Largest payload of one wire frame, in bytes. One frame touches one extent.
pub const FRAME_PAYLOAD_BYTES_MAX: u32 = 128 * 1024;
/// Blocks in the largest payload.
pub const FRAME_BLOCKS_MAX: u32 = FRAME_PAYLOAD_BYTES_MAX / BLOCK_BYTES;
/// From this payload size on, the bytes are received straight into their aligned buffer.
pub const RECEIVE_IN_PLACE_BYTES: u32 = 64 * 1024;
/// Largest control message (MDM ↔ SDS, MDM ↔ SDC), in bytes: a view of 64 pools of 4,096 shards fits.
pub const CONTROL_MESSAGE_BYTES_MAX: u32 = 64 << 20;
/// Shards of a pool unless it says otherwise.
pub const SHARDS_PER_POOL_DEFAULT: u32 = 4096;
/// Most shards a pool may have.
pub const SHARDS_PER_POOL_MAX: u32 = 65_536;
/// Most devices one SDS serves.
pub const DEVICES_PER_SDS_MAX: usize = 64;
/// Members of an in-sync set.
pub const IN_SYNC_MAX: usize = 2;
/// Stripe unit of a volume unless it says otherwise, in bytes.
pub const STRIPE_UNIT_BYTES_DEFAULT: u32 = 128 * 1024;
/// Extents in one stripe set unless the volume says otherwise.
pub const STRIPE_WIDTH_DEFAULT: u32 = 8;
/// Most extents in one stripe set.
pub const STRIPE_WIDTH_MAX: u32 = 1024;
/// Longest name of a volume or pool, in bytes of ASCII.
pub const NAME_BYTES_MAX: usize = 63;
/// Most volumes of a system.
pub const VOLUMES_MAX: usize = 65_536;
/// Most storage pools of a system; with the shards a pool may have this bounds the largest view.
pub const POOLS_MAX: usize = 64;
/// Entries of the audit log that are kept; the oldest go first.
pub const AUDIT_ENTRIES_MAX: usize = 1024;
/// Shards in one answer of the API.
pub const SHARDS_LISTED_MAX: usize = 65_536;
/// Most data servers of a system.
pub const SDS_MAX: usize = 4096;
/// Most devices of a system.
pub const DEVICES_MAX: usize = 65_536;
/// Most addresses of one data server.
pub const SDS_ADDRESSES_MAX: usize = 8;
/// Longest text kept for people (an address, a path, a holder's name), in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Most sessions of one volume.
pub const SESSIONS_PER_VOLUME_MAX: usize = 256;
/// Most deleted trees that wait to be freed; more deletes are refused until some are.
pub const DELETED_TREES_MAX: usize = 65_536;
/// How many times its raw space a pool may promise to volumes (they are thin).
pub const OVER_PROVISIONING_MAX: u64 = 10;
/// Largest volume: extent indices are 32 bits of 1 MiB each, and its last stripe set, which may stick
/// out by all but one extent of the widest, needs indices too.
pub const VOLUME_BYTES_MAX: u64 = ((u32::MAX - STRIPE_WIDTH_MAX) as u64) * (EXTENT_BYTES as u64);
/// Requests one connection to an SDS may have outstanding; the client keeps to it.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 256;
/// Requests one volume machine holds at once, from all of its users.
pub const VOLUME_REQUESTS_MAX: usize = 1024;
/// Frames a volume machine may have in flight beyond one a request: what zero and flush requests,
/// which go to many extents or devices, share to run in parallel.
pub const VOLUME_FANOUT_MAX: usize = 256;
/// Control questions (open, close, list) a volume machine holds at once.
pub const VOLUME_QUESTIONS_MAX: usize = 4096;
/// How often a client asks again for bytes that arrived damaged, or sends them again.
pub const PAYLOAD_RETRIES_MAX: u8 = 3;
/// How far a shard's primary may run ahead of its oldest write that is not complete on both copies.
pub const REPLICATE_WINDOW: u64 = 1024;
/// Frames on their way to other servers beyond one a request: what flushes, which go to many devices, share.
pub const REPLICATE_FANOUT_MAX: usize = 256;
/// Writes between two durable reservations of a device's sequence ceiling.
pub const SEQUENCE_RESERVATION: u64 = 1 << 20;
/// How far above the ceilings known to the MDM a new primary's sequences begin. The survivor may have reserved once more since
/// it reported, and the old primary may have used as many beyond what the survivor got as it may have outstanding.
pub const SEQUENCE_HEADROOM: u64 = 2 * SEQUENCE_RESERVATION;
/// No sequence is this high, whatever a peer says: numbering can go on from any that is believed.
pub const SEQUENCE_MAX: u64 = 1 << 62;
/// Most proposals of one control message: one for each shard of a pool.
pub const PROPOSALS_PER_MESSAGE_MAX: usize = 65_536;

/// Most shards of all pools together: a view of them all, each with everything an entry may have, is one control message.
pub const SHARDS_MAX: u64 = 8 * SHARDS_PER_POOL_MAX as u64;
/// Bytes of a shard's entry at most, as [`crate::codec`] writes it.
pub const SHARD_ENTRY_BYTES_MAX: u64 = 96;
/// Most shards of one pool that change roles at once, without a failure.
pub const HAND_OVERS_PER_MESSAGE_MAX: usize = 128;

/// How often blocks of one read are repaired from the other copy before it fails: a device that loses what repairs write would be
/// repaired for ever. A repair that does not help is the last.
pub const REPAIRS_PER_READ_MAX: u8 = 4;

const _: () = {
    assert!(FRAME_PAYLOAD_BYTES_MAX.is_multiple_of(BLOCK_BYTES));
    assert!(FRAME_PAYLOAD_BYTES_MAX <= EXTENT_BYTES);
    assert!(FRAME_BLOCKS_MAX <= u8::MAX as u32, "ChecksumList counts in a u8");
    assert!(RECEIVE_IN_PLACE_BYTES <= FRAME_PAYLOAD_BYTES_MAX);
    assert!(STRIPE_UNIT_BYTES_DEFAULT * STRIPE_WIDTH_DEFAULT == EXTENT_BYTES, "a default stripe row is one extent long");
    assert!(REPLICATE_WINDOW.is_multiple_of(64), "a ring of words");
    assert!(REPLICATE_WINDOW >= REQUESTS_PER_CONNECTION_MAX as u64, "a link is filled before the window is");
    assert!(SHARDS_PER_POOL_DEFAULT <= SHARDS_PER_POOL_MAX);
    assert!(SEQUENCE_HEADROOM > SEQUENCE_RESERVATION + (REQUESTS_PER_CONNECTION_MAX * VOLUME_REQUESTS_MAX) as u64);
    assert!(SHARDS_MAX * SHARD_ENTRY_BYTES_MAX <= CONTROL_MESSAGE_BYTES_MAX as u64 * 3 / 4);
    assert!(PROPOSALS_PER_MESSAGE_MAX >= SHARDS_PER_POOL_MAX as usize);
};
