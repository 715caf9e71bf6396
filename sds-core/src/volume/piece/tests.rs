//! Properties of the cutters: complete, in order, inside their bounds.
use super::*;
use crate::id::ExtentIndex;
use proptest::prelude::*;

fn stripes() -> impl Strategy<Value = Stripe> {
    (12_u32..=20, prop_oneof![1_u32..=9, Just(1024_u32)]).prop_map(|(unit, width)| Stripe::new(1 << unit, width).expect("in range"))
}

/// Small offsets, and some beyond 2 TiB and 16 TiB.
fn offsets() -> impl Strategy<Value = u64> {
    (prop_oneof![Just(0_u64), Just(2_u64 << 40), Just(17_u64 << 40)], 0_u64..64 << 20).prop_map(|(base, more)| base + more)
}

fn lens() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..20_000, 0_u64..40 << 20]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn writes_are_whole_blocks_or_fragments_inside_one_window(stripe in stripes(), offset in offsets(), len in lens()) {
        let mut at = offset;
        for piece in writes(stripe, ByteOffset::new(offset), len) {
            prop_assert_eq!(piece.offset.get(), at);
            prop_assert!(piece.len > 0 && piece.len <= stripe.piece_room(piece.offset));
            let last = at + u64::from(piece.len) - 1;
            prop_assert!(piece.is_whole_blocks() || at / BLOCK == last / BLOCK);
            at = last + 1;
        }
        prop_assert_eq!(at, offset + len);
    }

    #[test]
    fn aligned_writes_have_no_fragment(stripe in stripes(), offset in offsets(), len in lens()) {
        let (offset, len) = (offset / BLOCK * BLOCK, len / BLOCK * BLOCK);
        prop_assert!(writes(stripe, ByteOffset::new(offset), len).all(DataPiece::is_whole_blocks));
    }

    #[test]
    fn reads_lie_in_one_window_each(stripe in stripes(), offset in offsets(), len in lens()) {
        let mut at = offset;
        for piece in reads(stripe, ByteOffset::new(offset), len) {
            prop_assert_eq!(piece.offset.get(), at);
            prop_assert!(piece.len > 0 && piece.len <= stripe.piece_room(piece.offset));
            at += u64::from(piece.len);
        }
        prop_assert_eq!(at, offset + len);
    }

    #[test]
    fn zeroes_cover_and_trims_are_their_whole_blocks(stripe in stripes(), offset in offsets(), len in lens()) {
        let mut at = offset;
        let mut trimmed = trims(stripe, ByteOffset::new(offset), len);
        for piece in zeroes(stripe, ByteOffset::new(offset), len) {
            match piece {
                ZeroPiece::Blocks { offset, len } => {
                    prop_assert_eq!(offset.get(), at);
                    prop_assert!(len > 0 && at % BLOCK == 0 && len % BLOCK == 0);
                    prop_assert_eq!(at / stripe.set_bytes(), (at + len - 1) / stripe.set_bytes());
                    prop_assert_eq!(trimmed.next(), Some(TrimPiece { offset, len }));
                    at += len;
                }
                ZeroPiece::Fragment { offset, len } => {
                    prop_assert_eq!(offset.get(), at);
                    prop_assert!(len > 0 && len < BLOCK_BYTES);
                    prop_assert_eq!(at / BLOCK, (at + u64::from(len) - 1) / BLOCK);
                    at += u64::from(len);
                }
            }
        }
        prop_assert_eq!(at, offset + len);
        prop_assert_eq!(trimmed.next(), None);
    }

    #[test]
    fn statuses_cover_rounded_out(stripe in stripes(), offset in offsets(), len in lens()) {
        let mut at = offset / BLOCK * BLOCK;
        for piece in statuses(stripe, ByteOffset::new(offset), len) {
            prop_assert_eq!(piece.offset.get(), at);
            prop_assert!(piece.len > 0 && at.is_multiple_of(BLOCK) && piece.len.is_multiple_of(BLOCK_BYTES));
            prop_assert_eq!(at / u64::from(stripe.unit()), (at + u64::from(piece.len) - 1) / u64::from(stripe.unit()));
            at += u64::from(piece.len);
        }
        prop_assert_eq!(at, if len == 0 { offset / BLOCK * BLOCK } else { (offset + len).next_multiple_of(BLOCK) });
    }

    #[test]
    fn extent_ranges_are_what_locate_says(unit in 12_u32..=20, width in 1_u32..=9, set in 0_u64..3, start in 0_u64..2304, blocks in 1_u64..2304) {
        let stripe = Stripe::new(1 << unit, width).expect("in range");
        let in_set = stripe.set_bytes() / BLOCK;
        let start = start % in_set;
        let blocks = blocks.min(in_set - start);
        let offset = ByteOffset::new(set * stripe.set_bytes() + start * BLOCK);
        // By brute force: the blocks of each extent, in order of first touch.
        let mut expected: Vec<(ExtentIndex, ByteOffset, u32, u32)> = Vec::new();
        for block in 0..blocks {
            let at = ByteOffset::new(offset.get() + block * BLOCK);
            let place = stripe.locate(at);
            match expected.iter_mut().find(|known| known.0 == place.extent) {
                Some(known) => {
                    prop_assert_eq!(known.2 + known.3, place.offset, "contiguous");
                    known.3 += BLOCK_BYTES;
                }
                None => expected.push((place.extent, at, place.offset, BLOCK_BYTES)),
            }
        }
        prop_assert_eq!(extents_touched(stripe, offset, blocks * BLOCK) as usize, expected.len());
        for (nth, (extent, first, from, len)) in (0..).zip(expected) {
            let range = extent_range(stripe, offset, blocks * BLOCK, nth);
            prop_assert_eq!(range, ExtentRange { first, offset: from, len });
            prop_assert_eq!(stripe.locate(range.first).extent, extent);
            prop_assert_eq!(stripe.locate(range.first).offset, from);
        }
    }
}

#[test]
fn a_range_at_the_end_of_the_number_line_does_not_overflow() {
    let stripe = Stripe::default();
    assert!(statuses(stripe, ByteOffset::new(u64::MAX - 5000), 5000).count() > 0);
    assert_eq!(writes(stripe, ByteOffset::new(u64::MAX), 10).count(), 0);
}
