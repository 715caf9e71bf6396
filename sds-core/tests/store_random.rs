//! Random load against the store: any order of completions, few buffers, few descriptor frames, small
//! logs, crashes and power cuts; every block is held against what it may be. Prints its seed.
//!
//! `SDS_RANDOM_SEEDS=N` tries N seeds, `SDS_RANDOM_SEED=X` one.
#![expect(clippy::disallowed_methods, reason = "the seed comes from the environment")]
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "a test's own small numbers")]

mod store_rig;
use sds_core::id::BootId;
use sds_core::store::interface::*;
use sds_core::unit::*;
use std::collections::BTreeMap;
use store_rig::*;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

type Place = (u32, u8);

/// What a block may be: values from the last flushed one on; the last acknowledged among them.
#[derive(Clone, Debug)]
struct Block {
    values: Vec<u64>,
    acknowledged: usize,
    flushed: usize,
}

impl Default for Block {
    fn default() -> Self {
        Self { values: vec![0], acknowledged: 0, flushed: 0 }
    }
}

enum Asked {
    Change { places: Vec<(Place, usize)>, durable: bool },
    Flush { seen: BTreeMap<Place, usize> },
    Read { place: Place, span: sds_core::buffer::Span },
    Tree,
}

struct World {
    rig: Rig,
    random: Random,
    blocks: BTreeMap<Place, Block>,
    busy: BTreeMap<Place, u32>,
    asked: BTreeMap<u64, Asked>,
    sequence: u64,
    extents: u32,
    boot: u128,
    options: StoreOptions,
    full: u64,
    seen: [u64; 4],
    /// One turn in so many completes something.
    pace: u64,
}

fn matches(bytes: &[u8], value: u64) -> bool {
    if value == 0 { bytes.iter().all(|byte| *byte == 0) } else { bytes == fill(value) }
}

impl World {
    fn place(&mut self) -> Place {
        (self.random.below(u64::from(self.extents)) as u32, self.random.below(6) as u8 * 3)
    }

    fn is_free(&self, extent: u32, first: u8, count: u16) -> bool {
        let end = u16::from(first) + count;
        !self.busy.keys().any(|(other, block)| *other == extent && (u16::from(first)..end).contains(&u16::from(*block)))
    }

    fn ask(&mut self) {
        let (extent, block) = self.place();
        self.sequence += 1;
        let sequence = self.sequence;
        match self.random.below(20) {
            0..=9 if self.is_free(extent, block, 1) => {
                let durable = self.random.one_in(5);
                let state = self.blocks.entry((extent, block)).or_default();
                state.values.push(sequence);
                let places = vec![((extent, block), state.values.len() - 1)];
                self.busy.insert((extent, block), 0);
                let token = self.rig.send_write(key(extent), block, &fill(sequence), sequence, durable);
                self.asked.insert(token, Asked::Change { places, durable });
            }
            10 | 11 => {
                let (first, count, free) = if self.random.one_in(2) { (0, 256, true) } else { (block, 4, self.random.one_in(2)) };
                if !self.is_free(extent, first, count) {
                    return;
                }
                let mut places = Vec::new();
                for block in (0..18).step_by(3) {
                    if (u16::from(first)..u16::from(first) + count).contains(&u16::from(block)) {
                        let state = self.blocks.entry((extent, block)).or_default();
                        state.values.push(0);
                        places.push(((extent, block), state.values.len() - 1));
                        self.busy.insert((extent, block), 0);
                    }
                }
                let token = self.rig.send_zero(key(extent), first, count, sequence, free);
                self.asked.insert(token, Asked::Change { places, durable: false });
            }
            12 => {
                let seen = self.blocks.iter().map(|(place, block)| (*place, block.acknowledged)).collect();
                let token = self.rig.request(Request::Flush);
                self.asked.insert(token, Asked::Flush { seen });
            }
            13 if self.random.one_in(40) => {
                let token = self.rig.request(Request::ReserveSequence { ceiling: sds_core::id::ShardSequence::new(sequence + 1000) });
                self.asked.insert(token, Asked::Tree);
            }
            14..=19 if self.is_free(extent, block, 1) => {
                use sds_core::buffer::{BufferClass, Buffers, Span};
                let Some(buffer) = self.rig.pool.allocate(BufferClass::Client, BLOCK_BYTES) else { return };
                let span = Span::whole(buffer, BLOCK_BYTES);
                self.busy.insert((extent, block), 1);
                let range = BlockRange { first: BlockIndex::new(block), count: 1 };
                let token = self.rig.request(Request::Read { key: key(extent), range, span });
                self.asked.insert(token, Asked::Read { place: (extent, block), span });
            }
            _ => {}
        }
        self.take_replies();
    }

    fn take_replies(&mut self) {
        use sds_core::buffer::Buffers;
        let tokens: Vec<u64> = self.rig.replies.keys().copied().collect();
        for token in tokens {
            let result = self.rig.reply(token);
            match self.asked.remove(&token).expect("asked") {
                Asked::Change { places, durable } => {
                    for (place, index) in places {
                        self.busy.remove(&place);
                        let block = self.blocks.get_mut(&place).unwrap();
                        match result {
                            Ok(_) => {
                                block.acknowledged = index;
                                if durable {
                                    block.flushed = index;
                                }
                            }
                            Err(StoreError::NoSpace) => {
                                self.full += 1;
                                block.values[index] = block.values[block.acknowledged];
                                block.acknowledged = index;
                            }
                            Err(error) => panic!("a write failed: {error}"),
                        }
                    }
                }
                Asked::Flush { seen } => {
                    assert_eq!(result, Ok(Outcome::Done));
                    for (place, index) in seen {
                        let block = self.blocks.get_mut(&place).unwrap();
                        block.flushed = block.flushed.max(index);
                    }
                }
                Asked::Read { place, span } => {
                    self.busy.remove(&place);
                    let block = self.blocks.entry(place).or_default();
                    let value = block.values[block.acknowledged];
                    result.unwrap_or_else(|error| panic!("a read failed: {error}"));
                    assert!(matches(self.rig.pool.bytes(span), value), "{place:?} should read {value}");
                    self.rig.pool.release(span.buffer);
                }
                Asked::Tree => assert_eq!(result, Ok(Outcome::Done)),
            }
        }
    }

    fn turn(&mut self) {
        if self.random.one_in(200) {
            self.pace = 1 + self.random.below(8);
        }
        if !self.rig.sent.is_empty() && self.random.one_in(self.pace) {
            let index = self.random.below(self.rig.sent.len() as u64) as usize;
            self.rig.complete(index);
        } else if self.asked.len() < 40 && self.random.one_in(2) {
            self.ask();
        } else {
            self.rig.now = self.rig.now.plus(Nanos::from_micros(self.random.below(400)));
            if self.random.one_in(300) {
                self.rig.now = self.rig.now.plus(Nanos::from_millis(1500));
            }
            self.rig.input(Input::Wake);
        }
        self.take_replies();
    }

    fn quiesce(&mut self) {
        for _ in 0..200_000 {
            if self.asked.is_empty() && self.rig.sent.is_empty() {
                return;
            }
            if self.rig.sent.is_empty() {
                self.rig.now = self.rig.store.deadline().unwrap_or(self.rig.now).max(self.rig.now);
                self.rig.input(Input::Wake);
            } else {
                let index = self.random.below(self.rig.sent.len() as u64) as usize;
                self.rig.complete(index);
            }
            self.take_replies();
        }
        panic!("{} requests are never answered", self.asked.len());
    }

    fn crash(&mut self) {
        let power = self.random.one_in(2);
        let told = self.rig.store.statistics().flushed;
        let mut disk = core::mem::take(&mut self.rig.disk);
        let sent: Vec<Sent> = self.rig.sent.drain(..).collect();
        for sent in &sent {
            for (piece, bytes) in self.rig.pieces_of(sent) {
                if self.random.one_in(2) {
                    disk.write(piece, bytes, false);
                }
            }
        }
        if power && self.options.volatile_cache {
            let mode = self.random.below(3);
            let random = &mut self.random;
            disk.cut(|_, options| match mode {
                0 => 0,
                1 => options - 1,
                _ => random.below(options as u64) as usize,
            });
        }
        if power {
            self.boot += 1;
        }
        self.asked.clear();
        self.busy.clear();
        let options = StoreOptions { boot: BootId::new(self.boot), ..self.options.clone() };
        self.rig = Rig::open(disk, options);
        assert_eq!(self.rig.open_fault(), None);
        let found = self.rig.store.statistics();
        assert!(found.log_end >= told && found.flushed >= found.log_end, "I13: told {told}, opened at {}", found.log_end);
        let lost = power && self.options.volatile_cache;
        let places: Vec<Place> = self.blocks.keys().copied().collect();
        for place in places {
            let bytes = self.rig.read(key(place.0), place.1, 1).unwrap_or_else(|error| panic!("{place:?} after a crash: {error}"));
            let block = self.blocks.get_mut(&place).unwrap();
            let from = if lost { block.flushed } else { block.acknowledged };
            let allowed = &block.values[from..];
            let found = allowed.iter().rev().find(|value| matches(&bytes, **value)).copied();
            let found = found.unwrap_or_else(|| panic!("{place:?} reads {:x?}, allowed {allowed:?}, lost {lost}", &bytes[..8]));
            // Recovery leaves everything durable.
            *block = Block { values: vec![found], acknowledged: 0, flushed: 0 };
        }
        self.rig.pool.internal_limit = 2 + self.random.below(20) as usize;
    }
}

fn run(seed: u64) {
    println!("seed {seed}: replay with SDS_RANDOM_SEED={seed} cargo test -p sds-core --test store_random");
    let mut random = Random(seed);
    let (device, log_blocks, extents) = match random.below(4) {
        0 => (4 << 20, 32, 5),
        1 => (16 << 20, 32, 14),
        2 => (24 << 20, 256, 30),
        _ => (400 << 20, 64, 380),
    };
    let options = StoreOptions {
        volatile_cache: !random.one_in(4),
        descriptor_cache_bytes: 0,
        requests_max: 48,
        group_commit_wait: Nanos::from_micros(random.below(400)),
        seal_after: Nanos::from_millis(1 + random.below(1000)),
        ..options(device)
    };
    let rig = Rig::open(formatted(device, log_blocks), StoreOptions { boot: BootId::new(1), ..options.clone() });
    let mut world = World {
        rig,
        random,
        blocks: BTreeMap::new(),
        busy: BTreeMap::new(),
        asked: BTreeMap::new(),
        sequence: 0,
        extents,
        boot: 1,
        options,
        full: 0,
        seen: [0; 4],
        pace: 2,
    };
    for _ in 0..5 {
        let turns = 300 + world.random.below(4000);
        for _ in 0..turns {
            world.turn();
        }
        if world.random.one_in(3) {
            world.quiesce();
        }
        if world.random.one_in(4) {
            world.quiesce();
            assert_eq!(world.rig.close(), Ok(Outcome::Done));
            assert_eq!(world.rig.pool.in_use, 0, "closing gives every buffer back");
            let disk = core::mem::take(&mut world.rig.disk);
            world.rig = Rig::open(disk, StoreOptions { boot: BootId::new(world.boot), ..world.options.clone() });
            assert_eq!(world.rig.opened().map(|opened| opened.unsettled), Some(0));
        }
        let statistics = world.rig.store.statistics();
        world.seen[0] += statistics.data_writes;
        world.seen[1] += statistics.metadata_writes;
        world.seen[2] += statistics.activations;
        world.seen[3] += statistics.flushes;
        world.crash();
    }
    let [writes, pages, activations, flushes] = world.seen;
    println!("  writes {writes}, metadata pages {pages}, activations {activations}, flushes {flushes}, refused for space {}", world.full);
}

#[test]
fn random_load_with_crashes_keeps_every_block_within_what_it_may_be() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("SDS_RANDOM_SEED") {
        return run(seed);
    }
    for seed in 0..number("SDS_RANDOM_SEEDS").unwrap_or(24) {
        run(seed);
    }
}
