//! What a block may read as, by what was issued and answered where: the promises of the extent store's design.
//!
//! What this must not know: stores, images, how copies settle.

use crate::histories::{BLOCKS, Moment, Op, Start, overlap, touched, value_after, value_at};

/// Whether the two moments can be those of one history: an operation is sent when those it overlaps are acknowledged.
pub(crate) fn can_meet(ops: &[Op], one: &Moment, other: &Moment) -> bool {
    let waited = |issued: &Moment, done: &Moment| {
        (0..issued.issued).all(|later| (0..later).all(|earlier| !overlap(ops[earlier], ops[later]) || done.has_done(earlier)))
    };
    waited(one, other) && waited(other, one)
}

/// What each block may be. Without a power cut of both: its last acknowledged value, or one in flight after it. With one: its last
/// flushed value, or any that was written or in flight after it.
pub(crate) fn allowed(start: Start, ops: &[Op], moments: [&Moment; 2], both_lost_power: bool) -> [Vec<u64>; 2] {
    let issued = moments[0].issued.max(moments[1].issued);
    let stands = |number: usize| {
        let acknowledged = |number| moments.iter().all(|moment| moment.has_done(number));
        let is_flush = |flush: &usize| ops[*flush] == Op::Flush;
        let covers = |flush: usize| moments.iter().all(|moment| moment.flush_covers(flush, number));
        if both_lost_power { (number..issued).filter(is_flush).any(covers) } else { acknowledged(number) }
    };
    BLOCKS.map(|block| {
        let mut values = vec![value_at(start, block)];
        let mut first = 0;
        for (number, op) in ops.iter().enumerate().take(issued).filter(|(_, op)| touched(**op)[block]) {
            values.push(value_after(*op, number, block));
            if stands(number) {
                first = values.len() - 1;
            }
        }
        values.split_off(first)
    })
}

/// Every value that a block had in a history.
pub(crate) fn ever(start: Start, ops: &[Op], block: usize) -> Vec<u64> {
    let written = ops.iter().enumerate().filter(|(_, op)| touched(**op)[block]).map(|(number, op)| value_after(*op, number, block));
    core::iter::once(value_at(start, block)).chain(written).collect()
}
