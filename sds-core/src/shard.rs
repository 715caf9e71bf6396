//! Extent → shard: a stable hash with neighbours spread apart.
//!
//! Consecutive extents take consecutive shards (placement puts consecutive shards on different
//! devices), and every lap round the shards starts at another, hashed one. Snapshots share their
//! tree's placement, so the tree and not the volume is hashed.
//!
//! Invariant: the function never changes for a given format version; data would be lost from sight.

use crate::id::{ExtentIndex, ShardId, TreeId};

/// The shard an extent belongs to, among `shards` of its pool.
///
/// # Panics
/// If `shards` is zero.
#[must_use]
pub fn shard_of(tree: TreeId, extent: ExtentIndex, shards: u32) -> ShardId {
    assert!(shards > 0, "a pool in use has shards");
    let lap = extent.get() / shards;
    let start = mix((u64::from(tree.get()) << 32) | u64::from(lap)) % u64::from(shards);
    #[expect(clippy::cast_possible_truncation, reason = "below `shards`")]
    let shard = ((start + u64::from(extent.get() % shards)) % u64::from(shards)) as u32;
    ShardId::new(shard)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
