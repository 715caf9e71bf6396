//! The exhaustive small model of one store: every sequence of a few operations on two blocks, every
//! order of completions, a crash at every point, every subset of what was not flushed.
//!
//! After recovery and `SettleAlone`:
//! - power cut: a block reads as its last flushed value or as one written or in flight after it;
//! - process death: as its last acknowledged value or the one in flight;
//! - with one storage fault on data that was flushed and sealed: right, or an error.
//!
//! Every data block of the device starts with a former owner's bytes, so bytes that were never
//! written to a block are noticed. By default: two operations of all kinds from every start, three of
//! the kinds that interact most from a fresh store. Minutes instead of seconds for three of all kinds:
//! `SDS_MODEL_DEPTH=3 cargo test --release -p sds-core --test store_model`.
#![expect(clippy::disallowed_methods, reason = "the bound comes from the environment")]
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "a test's own small numbers")]

mod store_rig;
use sds_core::collections::Set;
use sds_core::format::Geometry;
use sds_core::id::BootId;
use sds_core::store::interface::*;
use sds_core::unit::*;
use std::collections::BTreeSet;
use store_rig::*;

const LOG_BLOCKS: u32 = 32;
const OLD_OWNER: u64 = 0xdead;

fn device_bytes() -> u64 {
    // Two extents: one for the blocks under test, one that a freed one's successor may get.
    (4 + u64::from(LOG_BLOCKS) + 2 + 2 * 258) * 4096
}

fn model_options(boot: u128) -> StoreOptions {
    StoreOptions { boot: BootId::new(boot), requests_max: 8, ..options(device_bytes()) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Write {
        first: u8,
        count: u8,
        durable: bool,
    },
    Zero {
        first: u8,
        free: bool,
    },
    /// The first block of another extent.
    Other,
    Flush,
    Rest,
    Close,
}

const W0: Op = Op::Write { first: 0, count: 1, durable: false };
const W1: Op = Op::Write { first: 1, count: 1, durable: false };
const W01: Op = Op::Write { first: 0, count: 2, durable: false };
const D0: Op = Op::Write { first: 0, count: 1, durable: true };
const Z0: Op = Op::Zero { first: 0, free: false };
const TRIM: Op = Op::Zero { first: 0, free: true };
const ALL: &[Op] = &[W0, W1, W01, D0, Z0, TRIM, Op::Flush];

/// The blocks under test: two of one extent, one of another that may get a freed one's slot.
const PLACES: [(u32, u8); 3] = [(0, 0), (0, 1), (1, 0)];
const NUMBERS: [usize; 3] = [0, 1, 2];

/// What a block has been, in the order of the writes to it; 0 is zeroes.
#[derive(Clone, Debug, Default)]
struct Block {
    values: Vec<u64>,
    acknowledged: usize,
    flushed: usize,
    in_flight: bool,
}

#[derive(Clone, Debug)]
struct Asked {
    token: u64,
    op: Op,
    /// Acknowledged writes when it was made, for a flush.
    seen: [usize; 3],
}

#[derive(Clone)]
struct Node {
    rig: Rig,
    blocks: [Block; 3],
    asked: Vec<Asked>,
    next: usize,
    rest: Option<Nanos>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Crash {
    Process,
    Power,
}

#[derive(Default)]
struct Model {
    seen: Set<u64>,
    nodes: u64,
    images: u64,
    recoveries: u64,
    interrupted: u64,
    /// A superblock was written by the last history.
    checkpointed: bool,
    violations: Vec<String>,
    trace: Vec<String>,
    label: String,
}

fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

fn touched(op: Op) -> [bool; 3] {
    match op {
        Op::Write { first, count, .. } => [first == 0, first + count > 1, false],
        Op::Zero { free: false, .. } => [true, false, false],
        Op::Zero { free: true, .. } => [true, true, false],
        Op::Other => [false, false, true],
        Op::Flush | Op::Rest | Op::Close => [false; 3],
    }
}

fn value_of(op: usize, block: usize) -> u64 {
    (op as u64 + 1) * 10 + block as u64 + 1
}

fn allowed(node: &Node, crash: Crash) -> [BTreeSet<u64>; 3] {
    NUMBERS.map(|number| {
        let block = &node.blocks[number];
        match crash {
            Crash::Process => block.values[block.acknowledged..].iter().copied().collect(),
            Crash::Power => block.values[block.flushed..].iter().copied().collect(),
        }
    })
}

impl Node {
    fn can_issue(&self, ops: &[Op]) -> bool {
        let Some(op) = ops.get(self.next) else { return false };
        let clear = NUMBERS.iter().all(|&block| !(touched(*op)[block] && self.blocks[block].in_flight));
        match op {
            Op::Write { .. } | Op::Zero { .. } | Op::Other | Op::Flush => clear && self.rest.is_none(),
            Op::Rest | Op::Close => self.asked.is_empty() && self.rest.is_none(),
        }
    }

    fn issue(&mut self, ops: &[Op]) {
        let number = self.next;
        let op = ops[number];
        self.next += 1;
        let sequence = 1000 + number as u64;
        for block in NUMBERS {
            if touched(op)[block] {
                let value = if matches!(op, Op::Write { .. } | Op::Other) { value_of(number, block) } else { 0 };
                self.blocks[block].values.push(value);
                self.blocks[block].in_flight = true;
            }
        }
        let seen = NUMBERS.map(|block| self.blocks[block].acknowledged);
        let token = match op {
            Op::Write { first, count, durable } => {
                let bytes: Vec<u8> = (first..first + count).flat_map(|block| fill(value_of(number, usize::from(block)))).collect();
                self.rig.send_write(key(0), first, &bytes, sequence, durable)
            }
            Op::Zero { first, free } => self.rig.send_zero(key(0), first, if free { 256 } else { 1 }, sequence, free),
            Op::Other => self.rig.send_write(key(1), 0, &fill(value_of(number, 2)), sequence, false),
            Op::Flush => self.rig.request(Request::Flush),
            Op::Close => self.rig.request(Request::Close),
            Op::Rest => {
                self.rest = Some(self.rig.now.plus(Nanos::from_millis(3000)));
                return;
            }
        };
        self.asked.push(Asked { token, op, seen });
        self.take_replies();
    }

    fn take_replies(&mut self) {
        let asked = core::mem::take(&mut self.asked);
        for request in asked {
            if !self.rig.replies.contains_key(&request.token) {
                self.asked.push(request);
                continue;
            }
            assert_eq!(self.rig.reply(request.token), Ok(Outcome::Done), "no request fails here");
            for block in NUMBERS {
                let state = &mut self.blocks[block];
                if touched(request.op)[block] {
                    state.acknowledged = state.values.len() - 1;
                    state.in_flight = false;
                    if let Op::Write { durable: true, .. } = request.op {
                        state.flushed = state.acknowledged;
                    }
                }
                if request.op == Op::Flush || request.op == Op::Close {
                    state.flushed = state.flushed.max(request.seen[block]);
                }
            }
        }
    }

    fn wake_due(&self) -> Option<Nanos> {
        let until = self.rest.unwrap_or(self.rig.now.plus(Nanos::from_millis(1)));
        self.rig.store.deadline().filter(|due| *due <= until)
    }

    fn finished(&self, ops: &[Op]) -> bool {
        self.next == ops.len() && self.asked.is_empty() && self.rig.sent.is_empty() && self.wake_due().is_none()
    }
}

impl Model {
    fn explore(&mut self, mut node: Node, ops: &[Op], ends: &mut dyn FnMut(&mut Self, &Node)) {
        // A read changes nothing that a crash could show.
        while let Some(read) = node.rig.sent.iter().position(|sent| matches!(sent, Sent::Read { .. })) {
            node.rig.complete(read);
        }
        node.take_replies();
        if node.rest.is_some() && node.rig.sent.is_empty() && node.wake_due().is_none() {
            node.rest = None;
        }
        self.nodes += 1;
        self.checkpointed |= node.rig.sent.iter().any(|sent| matches!(sent, Sent::Write { offset: 0, .. }));
        self.crash_everywhere(&node);
        if !self.violations.is_empty() {
            return;
        }
        if node.finished(ops) {
            ends(self, &node);
            return;
        }
        if node.can_issue(ops) {
            let mut next = node.clone();
            next.issue(ops);
            self.step(format!("issue {:?}", ops[node.next]), next, ops, ends);
        }
        // Superblock writes only count down: their order cannot matter, and a crash before the first
        // completes tries every subset of them.
        let superblock = |sent: &Sent| matches!(sent, Sent::Write { offset, .. } if is_superblock(*offset));
        let first = node.rig.sent.iter().position(superblock);
        for index in 0..node.rig.sent.len() {
            if superblock(&node.rig.sent[index]) && Some(index) != first {
                continue;
            }
            let mut next = node.clone();
            next.rig.complete(index);
            self.step(format!("complete {:?}", node.rig.sent[index]), next, ops, ends);
        }
        if let Some(due) = node.wake_due()
            && (node.rig.sent.is_empty() || node.rest.is_none())
        {
            let mut next = node;
            next.rig.now = next.rig.now.max(due);
            next.rig.input(Input::Wake);
            self.step("wake".to_owned(), next, ops, ends);
        }
    }

    fn step(&mut self, label: String, next: Node, ops: &[Op], ends: &mut dyn FnMut(&mut Self, &Node)) {
        self.trace.push(label);
        self.explore(next, ops, ends);
        self.trace.pop();
    }

    fn crash_everywhere(&mut self, node: &Node) {
        for crash in [Crash::Process, Crash::Power] {
            self.crash(node, crash);
        }
    }

    /// Every image that a crash here may leave, recovered once each.
    fn crash(&mut self, node: &Node, crash: Crash) {
        let allowed = allowed(node, crash);
        let mut settled = node.rig.disk.sum;
        let mut choices: Vec<(u64, Vec<Option<Piece>>)> = Vec::new();
        let disk = &node.rig.disk;
        for (piece, values) in disk.cached() {
            if let Some(old) = disk.durable().get(piece) {
                settled = settled.wrapping_sub(part_of(*piece, old));
            }
            let mut options: Vec<Option<Piece>> = vec![values.last().cloned()];
            if crash == Crash::Power {
                options.push(disk.get_durable(*piece));
                options.extend(values[..values.len() - 1].iter().cloned().map(Some));
            }
            choices.push((*piece, options));
        }
        for sent in &node.rig.sent {
            for (piece, bytes) in node.rig.pieces_of(sent) {
                match choices.iter_mut().find(|(place, _)| *place == piece) {
                    Some((_, options)) => options.push(Some(bytes)),
                    None => {
                        let old = disk.read(piece).cloned();
                        if let Some(old) = &old {
                            settled = settled.wrapping_sub(part_of(piece, old));
                        }
                        choices.push((piece, vec![old, Some(bytes)]));
                    }
                }
            }
        }
        let names: Vec<Vec<u64>> = choices
            .iter()
            .map(|(piece, options)| options.iter().map(|bytes| bytes.as_ref().map_or(0, |bytes| part_of(*piece, bytes))).collect())
            .collect();
        let total: usize = names.iter().map(Vec::len).product();
        assert!(total <= 1 << 14, "{total} images at one point are too many to try all");
        let mut salt = mix(crash as u64 + 1, 7);
        for (number, set) in allowed.iter().enumerate() {
            for value in set {
                salt = mix(salt, value * 2 + number as u64);
            }
        }
        for image in 0..total {
            self.images += 1;
            let mut rest = image;
            let mut hash = settled;
            for options in &names {
                hash = hash.wrapping_add(options[rest % options.len()]);
                rest /= options.len();
            }
            if !self.seen.insert(mix(hash, salt)) {
                continue;
            }
            let mut disk = disk.clone();
            disk.flush();
            let mut rest = image;
            for (piece, options) in &choices {
                disk.put(*piece, options[rest % options.len()].clone());
                rest /= options.len();
            }
            let sabotage = node.rig.sabotage;
            self.judge(&disk, crash, sabotage, &allowed, image);
            if !self.violations.is_empty() {
                return;
            }
        }
    }

    fn judge(&mut self, disk: &Disk, crash: Crash, sabotage: Sabotage, allowed: &[BTreeSet<u64>; 3], image: usize) {
        self.recoveries += 1;
        let boot = if crash == Crash::Power && sabotage != Sabotage::SameBoot { 2 } else { 1 };
        let mut rig = Rig::open(disk.clone(), model_options(boot));
        let mut found = [0; 3];
        for (block, (extent, place)) in PLACES.into_iter().enumerate() {
            match rig.open_fault().cloned() {
                Some(fault) => self.violated(crash, image, &format!("open: {fault}")),
                None => match rig.read(key(extent), place, 1) {
                    Err(error) => self.violated(crash, image, &format!("block {block}: {error}")),
                    Ok(bytes) => {
                        let value = allowed[block].iter().find(|value| is_value(&bytes, **value));
                        match value {
                            Some(value) => found[block] = *value,
                            None => self.violated(crash, image, &format!("block {block} reads {:x?}, allowed {allowed:?}", &bytes[..8])),
                        }
                    }
                },
            }
        }
        // Settled once, settled for good; and a recovery may itself be cut short anywhere.
        if self.violations.is_empty() && self.recoveries.is_multiple_of(16) {
            self.judge_again(rig, found, image);
            self.interrupt(disk, crash, boot, allowed, image);
        }
    }

    fn judge_again(&mut self, mut rig: Rig, found: [u64; 3], image: usize) {
        rig.disk.cut(|_, _| 0);
        let mut rig = Rig::open(rig.disk, model_options(3));
        for (block, (extent, place)) in PLACES.into_iter().enumerate() {
            if rig.read(key(extent), place, 1).map(|bytes| is_value(&bytes, found[block])) != Ok(true) {
                self.violated(Crash::Power, image, &format!("block {block} changed between two recoveries"));
            }
        }
    }

    fn interrupt(&mut self, disk: &Disk, crash: Crash, boot: u128, allowed: &[BTreeSet<u64>; 3], image: usize) {
        for steps in 0.. {
            let mut rig = Rig::new(disk.clone(), model_options(boot));
            rig.input(Input::Open);
            let mut asked = false;
            let mut done = 0;
            while done < steps && !rig.sent.is_empty() {
                rig.complete(0);
                done += 1;
                if rig.sent.is_empty() && !asked && !rig.store.is_open() && rig.opened().is_some() {
                    asked = true;
                    rig.request(Request::SettleAlone);
                }
            }
            if rig.sent.is_empty() {
                break;
            }
            self.interrupted += 1;
            // Every other write that was not flushed is lost.
            let mut odd = steps % 2 == 0;
            rig.disk.cut(|_, options| {
                odd = !odd;
                if odd { options - 1 } else { 0 }
            });
            // The power cut, or the process death before the power cut, is the one to be judged.
            let mut rig = Rig::open(rig.disk, model_options(if crash == Crash::Power { 2 } else { boot }));
            for (block, (extent, place)) in PLACES.into_iter().enumerate() {
                let right = rig.read(key(extent), place, 1).is_ok_and(|bytes| allowed[block].iter().any(|value| is_value(&bytes, *value)));
                if !right {
                    self.violated(crash, image, &format!("block {block} is wrong after a recovery cut short at step {steps}"));
                    return;
                }
            }
        }
    }

    fn violated(&mut self, crash: Crash, image: usize, what: &str) {
        self.violations.push(format!("{}\n{}\n{crash:?} crash, image {image}: {what}", self.label, self.trace.join("\n")));
    }

    fn report(&self, name: &str) {
        println!(
            "{name}: nodes={} images={} distinct={} recoveries={} interrupted={} violations={}",
            self.nodes,
            self.images,
            self.seen.len(),
            self.recoveries,
            self.interrupted,
            self.violations.len()
        );
    }
}

fn is_superblock(offset: u64) -> bool {
    offset < 2 * 4096 || offset >= device_bytes() - 2 * 4096
}

fn is_value(bytes: &[u8], value: u64) -> bool {
    if value == 0 { bytes.iter().all(|byte| *byte == 0) } else { bytes == fill(value) }
}

/// A device whose data area holds a former owner's bytes.
fn used_device() -> Disk {
    let geometry = Geometry::for_device(ByteCount::new(device_bytes()), LOG_BLOCKS).unwrap();
    assert_eq!(geometry.extents(), 2);
    let mut disk = formatted(device_bytes(), LOG_BLOCKS);
    for (slot, block) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let piece = geometry.data(slot, BlockIndex::new(block)).get() / 4096;
        disk.write(piece, piece_of(&fill(OLD_OWNER + u64::from(slot))), true);
    }
    disk
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nothing written.
    Fresh,
    /// Both blocks hold data, the store was closed and opened.
    Settled,
    /// Block 0 was written and then zeroed: its old bytes are still on the medium.
    Zeroed,
    /// The log is so full that the next record begins a checkpoint.
    LogFull,
}

fn start(start: Start, sabotage: Sabotage) -> Node {
    let block = |value| Block { values: vec![value], ..Block::default() };
    let mut rig = Rig::open(used_device(), model_options(1));
    let mut blocks = [block(0), block(0), block(0)];
    if start != Start::Fresh {
        rig.write(key(0), 0, &[fill(5001), fill(5002)].concat(), 1).unwrap();
        blocks = [block(5001), block(5002), block(0)];
        if start == Start::Zeroed {
            rig.zero(key(0), 0, 1, 2, false).unwrap();
            blocks[0] = block(0);
        }
        rig.close().unwrap();
        rig = Rig::open(rig.disk, model_options(1));
        rig.disk.flush();
    }
    if start == Start::LogFull {
        for round in 0..19 {
            rig.write(key(0), 9, &fill(round), 10 + round).unwrap();
        }
        rig.flush().unwrap();
    }
    rig.pool = Pool::new(4096);
    rig.sabotage = sabotage;
    Node { rig, blocks, asked: Vec::new(), next: 0, rest: None }
}

fn sequences(alphabet: &[Op], length: usize) -> Vec<Vec<Op>> {
    let mut out = vec![Vec::new()];
    for _ in 0..length {
        out = out.into_iter().flat_map(|ops: Vec<Op>| alphabet.iter().map(move |op| [ops.clone(), vec![*op]].concat())).collect();
    }
    out
}

fn run(model: &mut Model, from: Start, sabotage: Sabotage, ops: &[Op]) {
    model.checkpointed = false;
    model.label = format!("{from:?} {ops:?}");
    model.explore(start(from, sabotage), ops, &mut |_, _| {});
}

fn depth(default: usize) -> usize {
    std::env::var("SDS_MODEL_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(default)
}

fn all(from: Start, length: usize, tail: &[Op]) {
    all_of(ALL, from, length, tail);
}

fn all_of(alphabet: &[Op], from: Start, length: usize, tail: &[Op]) {
    let mut model = Model::default();
    for ops in sequences(alphabet, length) {
        run(&mut model, from, Sabotage::None, &[ops.as_slice(), tail].concat());
        if from == Start::LogFull && ops.iter().all(|op| *op != Op::Flush) {
            assert!(model.checkpointed, "{ops:?} should have begun a checkpoint");
        }
        assert!(model.violations.is_empty(), "{}", model.violations[0]);
    }
    model.report(&format!("{from:?} depth {length} {tail:?}"));
}

#[test]
fn every_crash_of_a_fresh_store_leaves_a_value_that_may_be_there() {
    all(Start::Fresh, depth(2), &[]);
}

#[test]
fn every_crash_of_three_operations_leaves_a_value_that_may_be_there() {
    all_of(&[W0, TRIM, Op::Flush], Start::Fresh, 3, &[]);
}

#[test]
fn a_slot_given_to_another_extent_never_serves_two() {
    all_of(&[TRIM, Op::Other, Op::Flush], Start::Settled, 3, &[]);
}

/// A flush that is answered while an older write is unresolved must still be vouched for: the flushed
/// position only covers what is resolved below it.
#[test]
fn a_flush_beside_a_slow_write_holds_for_the_writes_it_covers() {
    let mut model = Model::default();
    run(&mut model, Start::Fresh, Sabotage::None, &[W1, W0, Op::Flush, W0]);
    assert!(model.violations.is_empty(), "{}", model.violations[0]);
    model.report("slow write");
}

#[test]
fn every_crash_of_a_settled_store_leaves_a_value_that_may_be_there() {
    all(Start::Settled, depth(2), &[]);
}

#[test]
fn every_crash_above_zeroed_blocks_leaves_a_value_that_may_be_there() {
    all(Start::Zeroed, depth(2), &[]);
}

#[test]
fn every_crash_of_a_checkpoint_under_writes_leaves_a_value_that_may_be_there() {
    all(Start::LogFull, depth(2).saturating_sub(1), &[]);
}

#[test]
fn every_crash_of_sealing_and_closing_leaves_a_value_that_may_be_there() {
    for tail in [&[Op::Rest, W0][..], &[Op::Close]] {
        all(Start::Fresh, depth(2).saturating_sub(1), tail);
        all(Start::Settled, depth(2).saturating_sub(1), tail);
    }
}

/// A broken rule must be noticed, or the model says nothing.
fn catches(sabotage: Sabotage, from: Start, length: usize) {
    let mut model = Model::default();
    for ops in sequences(ALL, length) {
        run(&mut model, from, sabotage, &ops);
        if !model.violations.is_empty() {
            println!("{sabotage:?} is caught: {}", model.violations[0]);
            return;
        }
    }
    panic!("{sabotage:?} was not noticed in {} recoveries", model.recoveries);
}

#[test]
fn a_flush_that_does_nothing_is_noticed() {
    catches(Sabotage::FlushLies, Start::Settled, 2);
}

#[test]
fn a_durable_write_that_is_not_is_noticed() {
    catches(Sabotage::DurableLies, Start::Settled, 1);
}

#[test]
fn a_log_that_states_no_positions_is_noticed() {
    catches(Sabotage::NoPositions, Start::Fresh, 3);
}

#[test]
fn a_power_cut_taken_for_a_process_death_is_noticed() {
    catches(Sabotage::SameBoot, Start::Fresh, 2);
}

/// One storage fault on a store whose data was flushed and sealed: right, or an error.
fn one_fault(from: Start, length: usize, tail: &[Op]) {
    let mut model = Model::default();
    let mut faults = 0_u64;
    let mut noticed = 0_u64;
    for ops in sequences(&[W0, W01, Z0, TRIM], length) {
        let ops = [ops.as_slice(), tail].concat();
        // One order of completions is enough here: the end is what counts.
        let mut node = start(from, Sabotage::None);
        while !node.finished(&ops) {
            if node.can_issue(&ops) {
                node.issue(&ops);
            }
            let until = node.rest.take().unwrap_or(node.rig.now.plus(Nanos::from_millis(1)));
            node.rig.run_until(until);
            node.take_replies();
        }
        node.rig.disk.flush();
        let expected = NUMBERS.map(|block| node.blocks[block].values[node.blocks[block].acknowledged]);
        for piece in node.rig.disk.pieces() {
            for fault in 0..4_usize {
                let mut disk = node.rig.disk.clone();
                let done = match fault {
                    0 => disk.flip(piece, 3),
                    1 => disk.flip(piece, 70),
                    2 => disk.lose(piece),
                    _ => disk.misdirect(piece),
                };
                if !done {
                    continue;
                }
                faults += 1;
                for boot in [1, 2] {
                    let mut rig = Rig::open(disk.clone(), model_options(boot));
                    if rig.open_fault().is_some() {
                        noticed += 1;
                        continue;
                    }
                    for (block, (extent, place)) in PLACES.into_iter().enumerate() {
                        match rig.read(key(extent), place, 1) {
                            Err(_) => noticed += 1,
                            Ok(bytes) => assert!(
                                is_value(&bytes, expected[block]),
                                "{from:?} {ops:?}: fault {fault} of piece {piece}: block {block} reads {:x?}, not {expected:?}",
                                &bytes[..8]
                            ),
                        }
                    }
                }
            }
        }
        model.nodes += 1;
    }
    println!("{from:?} {tail:?} with one fault: histories={} faults={faults} noticed={noticed}", model.nodes);
    assert!(noticed > 0, "some faults must be seen");
}

#[test]
fn one_storage_fault_after_closing_gives_the_right_bytes_or_an_error() {
    one_fault(Start::Fresh, 2, &[Op::Close]);
    one_fault(Start::Settled, 2, &[Op::Close]);
}

#[test]
fn one_storage_fault_on_sealed_data_gives_the_right_bytes_or_an_error() {
    one_fault(Start::Fresh, 2, &[Op::Rest]);
    one_fault(Start::Settled, 2, &[Op::Rest]);
}
