//! Bounds and policy of the store that its caller does not set, each with its reason.

use crate::format::log_block::RECORDS_BYTES;
use crate::unit::Nanos;

/// An extent is sealed at the latest this long after its last write, however busy the device.
pub(super) const SEAL_LATEST: Nanos = Nanos::from_millis(60_000);
/// Most extents sealed by one flush: their records fill at most two log blocks.
pub(super) const SEAL_BATCH: usize = 1024;
/// Most extents active at once, whatever the cache: a sole copy reads all of them (4 GiB) when it settles.
pub(super) const ACTIVE_MAX: u32 = 4096;
/// Active extents per log block of the ring, so that their seals always fit the log's reserve.
pub(super) const ACTIVE_PER_LOG_BLOCK: u32 = 32;
/// Descriptor pages imaged per step of a checkpoint: some 40 µs of work.
pub(super) const IMAGES_PER_STEP: usize = 16;
/// Pages in one image buffer of 128 KiB.
pub(super) const IMAGES_PER_BUFFER: usize = 32;
/// Most image buffers of a checkpoint: one flush per 128 descriptor pages.
pub(super) const IMAGE_BUFFERS: usize = 4;
/// Checkpoint writes in flight: few, so that client writes do not queue behind them.
pub(super) const CHECKPOINT_WRITES: usize = 8;
/// Index chunks (128 KiB) in flight.
pub(super) const INDEX_WRITES: usize = 2;
/// Slots looked at per step when a tree is freed.
pub(super) const FREE_TREE_SLOTS: u32 = 1024;
/// Slots looked at for one answer when extents are listed.
pub(super) const EXTENTS_SLOTS: u32 = 4096;
/// Reads in flight while recovering.
pub(super) const RECOVERY_READS: usize = 4;
/// Bytes of one recovery read or index write.
pub(super) const CHUNK_BYTES: u32 = 128 * 1024;
/// Durable writes outstanding from which a shared flush costs less than writing each through.
pub(super) const DURABLE_SHARED: u32 = 4;
/// Operations on the device besides those of requests.
pub(super) const INTERNAL_OPS: usize = 512;

const _: () = assert!(SEAL_BATCH * 5 <= 2 * RECORDS_BYTES, "a seal batch fits two log blocks");
