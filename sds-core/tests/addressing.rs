//! Volume bytes → extents → shards: both ways, to the end of the address space, and for ever the same.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use proptest::prelude::*;
use sds_core::id::{ExtentIndex, TreeId};
use sds_core::limits::*;
use sds_core::shard::shard_of;
use sds_core::stripe::{Place, Stripe, StripeError};
use sds_core::unit::*;
use std::collections::BTreeMap;

fn stripes() -> impl Strategy<Value = Stripe> {
    (12_u32..=20, 1_u32..=STRIPE_WIDTH_MAX).prop_map(|(bits, width)| Stripe::new(1 << bits, width).unwrap())
}

/// Offsets everywhere, with the places where 2 TiB, 16 TiB and the end of the space lie drawn often.
fn offsets() -> impl Strategy<Value = u64> {
    let near = |at: u64| (at.saturating_sub(1 << 22)..(at + (1 << 22)).min(VOLUME_BYTES_MAX)).boxed();
    prop_oneof![near(0), near(2 << 40), near(16 << 40), near(1 << 44), near(VOLUME_BYTES_MAX), (0..VOLUME_BYTES_MAX).boxed()]
}

proptest! {
    #[test]
    fn locate_and_volume_offset_undo_each_other(stripe in stripes(), offset in offsets()) {
        let place = stripe.locate(ByteOffset::new(offset));
        prop_assert!(place.offset < EXTENT_BYTES);
        prop_assert_eq!(stripe.volume_offset(place).get(), offset);
        // By the words of the layout: sets of `width` extents, units going round them.
        let set_bytes = u64::from(stripe.width()) << 20;
        prop_assert_eq!(u64::from(place.extent.get()) / u64::from(stripe.width()), offset / set_bytes);
        let unit = offset % set_bytes / u64::from(stripe.unit());
        prop_assert_eq!(u64::from(place.extent.get()) % u64::from(stripe.width()), unit % u64::from(stripe.width()));
    }

    #[test]
    fn volume_offset_and_locate_undo_each_other(stripe in stripes(), extent in any::<u32>(), offset in 0..EXTENT_BYTES) {
        let place = Place { extent: ExtentIndex::new(extent), offset };
        let at = stripe.volume_offset(place);
        // Only the last stripe set of the space can stick out of it.
        if at.get() < VOLUME_BYTES_MAX {
            prop_assert_eq!(stripe.locate(at), place);
        } else {
            prop_assert!(extent >= u32::MAX - 2 * STRIPE_WIDTH_MAX);
        }
    }

    #[test]
    fn a_later_byte_of_an_extent_is_a_later_byte_of_the_volume(stripe in stripes(), extent in any::<u32>(), pair in (0..EXTENT_BYTES, 0..EXTENT_BYTES)) {
        let at = |offset| stripe.volume_offset(Place { extent: ExtentIndex::new(extent), offset });
        prop_assert_eq!(at(pair.0).cmp(&at(pair.1)), pair.0.cmp(&pair.1));
    }

    #[test]
    fn a_piece_is_contiguous_on_one_extent_and_ends_on_a_boundary(stripe in stripes(), offset in offsets()) {
        let room = stripe.piece_room(ByteOffset::new(offset));
        prop_assert!((1..=FRAME_PAYLOAD_BYTES_MAX.min(stripe.unit())).contains(&room));
        let end = offset + u64::from(room);
        prop_assert_eq!(end % u64::from(stripe.unit().min(FRAME_PAYLOAD_BYTES_MAX)), 0);
        let (first, last) = (stripe.locate(ByteOffset::new(offset)), stripe.locate(ByteOffset::new(end - 1)));
        prop_assert_eq!((first.extent, first.offset + room - 1), (last.extent, last.offset));
    }

    #[test]
    fn neighbours_never_share_a_shard(tree in any::<u32>(), extent in 0..u32::MAX, bits in 3_u32..=16) {
        let shards = 1 << bits;
        let at = |extent| shard_of(TreeId::new(tree), ExtentIndex::new(extent), shards).get();
        prop_assert!(at(extent) < shards);
        let apart = (at(extent + 1) + shards - at(extent)) % shards;
        if (extent + 1).is_multiple_of(shards) {
            // The next lap starts anywhere.
            prop_assert!(apart < shards);
        } else {
            prop_assert_eq!(apart, 1);
        }
    }
}

/// The last stripe set of the largest volume sticks out of it; its extents once wrapped round to
/// those of the volume's start, for widths that do not divide 2^32.
#[test]
fn the_last_stripe_set_has_extents_of_its_own() {
    for width in 1..=STRIPE_WIDTH_MAX {
        for unit in [4096, 1 << 20] {
            let stripe = Stripe::new(unit, width).unwrap();
            let first_of_set = (VOLUME_BYTES_MAX - 1) / (u64::from(width) << 20) * (u64::from(width) << 20);
            for offset in [VOLUME_BYTES_MAX - 1, VOLUME_BYTES_MAX - 4096, first_of_set, first_of_set - 1] {
                assert_eq!(stripe.volume_offset(stripe.locate(ByteOffset::new(offset))).get(), offset, "width {width}");
            }
        }
    }
}

#[test]
fn layouts_out_of_range_are_refused() {
    for unit in [0, 1, 2048, 4095, 4097, 12288, 2 << 20] {
        assert_eq!(Stripe::new(unit, 8), Err(StripeError::Unit(unit)));
    }
    for width in [0, STRIPE_WIDTH_MAX + 1, u32::MAX] {
        assert_eq!(Stripe::new(4096, width), Err(StripeError::Width(width)));
    }
}

#[test]
fn places_far_out_are_where_they_always_were() {
    let stripe = Stripe::default();
    let cases = [
        (0_u64, 0_u32, 0_u32),
        (131_072, 1, 0),
        (1 << 20, 0, 131_072),
        ((8 << 20) + 5, 8, 5),
        ((2 << 40) + 131_072 + 7, 2_097_153, 7),
        ((16 << 40) + (1 << 20) + 4096, 16_777_216, 131_072 + 4096),
    ];
    for (offset, extent, within) in cases {
        assert_eq!(stripe.locate(ByteOffset::new(offset)), Place { extent: ExtentIndex::new(extent), offset: within }, "{offset}");
    }
}

/// Data would be lost from sight if this ever changed.
#[test]
fn shards_are_what_they_always_were() {
    let cases = [
        (1, 0, 4096),
        (1, 1, 4096),
        (1, 4095, 4096),
        (1, 4096, 4096),
        (2, 0, 4096),
        (77, 16_777_216, 4096),
        (77, u32::MAX, 65_536),
        (u32::MAX, u32::MAX, 3),
        (5, 123, 1),
    ];
    let shards: Vec<u32> =
        cases.iter().map(|(tree, extent, shards)| shard_of(TreeId::new(*tree), ExtentIndex::new(*extent), *shards).get()).collect();
    assert_eq!(shards, SHARDS_GOLDEN);
}

const SHARDS_GOLDEN: [u32; 9] = [2367, 2368, 2366, 2401, 638, 3094, 9647, 2, 0];

#[test]
fn volumes_large_and_small_are_spread_evenly() {
    // One volume of 16 TiB: whole laps, so exactly even.
    let mut count = vec![0_u32; 4096];
    for extent in 0..1 << 20 {
        count[shard_of(TreeId::new(1), ExtentIndex::new(extent), 4096).get() as usize] += 1;
    }
    assert!(count.iter().all(|count| *count == 256));
    // 10,000 volumes of 100 extents: as even as chance.
    let mut count = BTreeMap::new();
    for tree in 1..=10_000 {
        for extent in 0..100 {
            *count.entry(shard_of(TreeId::new(tree), ExtentIndex::new(extent), 4096).get()).or_insert(0_u32) += 1;
        }
    }
    let (least, most) = (count.values().min().unwrap(), count.values().max().unwrap());
    assert_eq!(count.len(), 4096);
    // The mean is 244; runs of 100 make the spread of some 15.6 draws a shard ten times one draw's.
    assert!(*least > 244 - 6 * 16 * 2 && *most < 244 + 6 * 16 * 2, "{least} to {most}");
}
