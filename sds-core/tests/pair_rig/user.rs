//! A user of the two nodes: writes where the primary is, and knows what each block may hold.

use super::Pair;
use crate::replica_rig::*;
use sds_core::error::Status;
use sds_core::id::*;
use sds_core::machine::LinkId;
use sds_core::unit::*;
use sds_core::wire::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a block may hold.
#[derive(Clone, Debug, Default)]
struct Block {
    /// Any of these: what was last known, and what was sent since and may have landed.
    may: BTreeSet<u8>,
    /// What it has held since the last flush, for after a power cut of everything.
    since_flush: BTreeSet<u8>,
}

#[derive(Default)]
pub struct User {
    blocks: BTreeMap<(u32, u32), Block>,
    open: Vec<(usize, RequestId, u32, u32, u8)>,
    links: [Option<(LinkId, u64)>; 2],
    next: u8,
    number: u64,
    /// Writes that were refused for space.
    pub no_space: usize,
}

impl User {
    /// The node that is an extent's primary.
    pub fn primary(pair: &Pair, extent: u32) -> (usize, Epoch) {
        let mdm = pair.mdm.as_ref().unwrap();
        let entry = mdm.entries[shard(extent).get() as usize];
        let device = entry.in_sync.primary().unwrap().device;
        (mdm.lives.iter().position(|life| life.device == device).unwrap(), entry.epoch)
    }

    fn link(&mut self, pair: &mut Pair, at: usize) -> (LinkId, u64) {
        if let Some(link) = self.links[at] {
            return link;
        }
        self.number += 1;
        let link = pair.nodes[at].connect();
        pair.nodes[at].hello(link, ALICE, self.number);
        self.links[at] = Some((link, self.number));
        (link, self.number)
    }

    /// A node is gone, and with it what it was asked.
    pub fn forget(&mut self, at: usize) {
        self.links[at] = None;
        self.open.retain(|(node, ..)| *node != at);
    }

    fn header(&mut self, pair: &mut Pair, opcode: Opcode, extent: u32, block: u32) -> Option<(usize, LinkId, Header)> {
        let (at, epoch) = Self::primary(pair, extent);
        if pair.refuses[at] {
            return None;
        }
        let (link, number) = self.link(pair, at);
        let header = pair.nodes[at].header(opcode, extent, block * BLOCK_BYTES, BLOCK_BYTES);
        Some((at, link, Header { epoch, connection: ConnectionNumber::new(number), ..header }))
    }

    /// Sends a write of one block of a value never used there before.
    pub fn write(&mut self, pair: &mut Pair, extent: u32, block: u32) {
        if self.open.iter().any(|(_, _, e, b, _)| (*e, *b) == (extent, block)) {
            return;
        }
        let Some((at, link, header)) = self.header(pair, Opcode::Write, extent, block) else { return };
        self.next = self.next.checked_add(1).unwrap_or(1);
        let value = self.next;
        let entry = self.blocks.entry((extent, block)).or_default();
        if entry.may.is_empty() {
            entry.may.insert(0);
            entry.since_flush.insert(0);
        }
        entry.may.insert(value);
        entry.since_flush.insert(value);
        let request = pair.nodes[at].send_bytes(link, header, &vec![value; BLOCK]);
        self.open.push((at, request, extent, block, value));
    }

    /// Sends a trim of one block.
    pub fn trim(&mut self, pair: &mut Pair, extent: u32, block: u32) {
        if self.open.iter().any(|(_, _, e, b, _)| (*e, *b) == (extent, block)) {
            return;
        }
        let Some((at, link, header)) = self.header(pair, Opcode::Zero, extent, block) else { return };
        let entry = self.blocks.entry((extent, block)).or_default();
        entry.may.insert(0);
        entry.since_flush.insert(0);
        let request = pair.nodes[at].send(link, Header { flags: Flags::TRIM, ..header });
        self.open.push((at, request, extent, block, 0));
    }

    /// Requests without an answer.
    pub fn waits(&self) -> usize {
        self.open.len()
    }

    /// Takes the answers that have come.
    pub fn collect(&mut self, pair: &mut Pair) {
        let (blocks, no_space) = (&mut self.blocks, &mut self.no_space);
        self.open.retain(|(at, request, extent, block, value)| {
            let Some(answer) = pair.nodes[*at].answer(*request) else { return true };
            match answer.status() {
                Status::Ok => blocks.get_mut(&(*extent, *block)).unwrap().may = BTreeSet::from([*value]),
                // Refused for space: neither copy was touched.
                Status::NoSpace => {
                    *no_space += 1;
                    blocks.get_mut(&(*extent, *block)).unwrap().may.remove(value);
                }
                _ => {}
            }
            false
        });
    }

    /// Flushes at the primary of everything, as far as it gets; `true` if it was done.
    pub fn flush(&mut self, pair: &mut Pair) -> bool {
        self.collect(pair);
        let Some((at, link, header)) = self.header(pair, Opcode::Flush, 0, 0) else { return false };
        let device = super::member(at).device;
        let covered: Vec<_> = self.open.iter().map(|(_, _, extent, block, _)| (*extent, *block)).collect();
        let request = pair.nodes[at].send(link, Header { device, offset: 0, length: 0, ..header });
        pair.run();
        let done = pair.nodes[at].answer(request).is_some_and(|answer| answer.status() == Status::Ok);
        for (place, block) in &mut self.blocks {
            if done && !covered.contains(place) {
                block.since_flush.clone_from(&block.may);
            }
        }
        done
    }

    /// Sends a flush to the primary of everything, and does not wait.
    pub fn begin_flush(&mut self, pair: &mut Pair) -> (usize, RequestId) {
        let (at, link, header) = self.header(pair, Opcode::Flush, 0, 0).expect("its primary is there");
        let device = super::member(at).device;
        (at, pair.nodes[at].send(link, Header { device, offset: 0, length: 0, ..header }))
    }

    /// Everything has been flushed, or everything has lost its power.
    pub fn flushed(&mut self) {
        assert!(self.open.is_empty(), "flushed at rest");
        for block in self.blocks.values_mut() {
            block.since_flush.clone_from(&block.may);
        }
    }

    pub fn power_lost(&mut self) {
        for block in self.blocks.values_mut() {
            block.may.clone_from(&block.since_flush);
        }
    }

    /// A block holds this, written by somebody else.
    pub fn expect(&mut self, extent: u32, block: u32, value: u8) {
        self.blocks.insert((extent, block), Block { may: [value].into(), since_flush: [value].into() });
    }

    /// Reads a block and holds it against what it may be.
    pub fn check(&mut self, pair: &mut Pair, extent: u32, block: u32) {
        for _ in 0..40 {
            let (at, link, header) = self.header(pair, Opcode::Read, extent, block).expect("its primary is there");
            let request = pair.nodes[at].send(link, header);
            for _ in 0..20 {
                pair.run_for(Nanos::from_millis(100));
                if let Some(answer) = pair.nodes[at].answer(request) {
                    if answer.status() != Status::Ok {
                        assert!(
                            matches!(answer.status(), Status::NotReady | Status::MapStale),
                            "{:?} of {extent}.{block}",
                            answer.status()
                        );
                        break;
                    }
                    let value = if answer.header.flags.contains(Flags::ALL_ZERO) { 0 } else { answer.bytes[0] };
                    assert!(answer.bytes.iter().all(|byte| *byte == value), "no mixture");
                    let known = self.blocks.entry((extent, block)).or_insert_with(|| Block { may: [0].into(), since_flush: [0].into() });
                    assert!(known.may.contains(&value), "{extent}.{block} holds {value}, not one of {:?}", known.may);
                    known.may = BTreeSet::from([value]);
                    return;
                }
            }
            self.collect(pair);
        }
        panic!("nobody answers for {extent}.{block}");
    }

    pub fn check_all(&mut self, pair: &mut Pair) {
        let all: Vec<_> = self.blocks.keys().copied().collect();
        for (extent, block) in all {
            self.check(pair, extent, block);
        }
    }
}
