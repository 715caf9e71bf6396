//! The small model of two copies: every sequence of a few operations on two blocks of one extent, sent to two stores and
//! acknowledged when both are done; a crash of both at every point, by process or power, with every subset of what was not
//! flushed; then the exchange, `protocol::settle` and its plan.
//!
//! The two stores meet only in what was issued and done where, so the images of one store are enumerated once and
//! every pair of them that can occur together is joined. After settling:
//! - (b) both lost power: a block reads as its last flushed value or one written or in flight after it;
//! - (c) no more than one lost power: as its last acknowledged value or one in flight;
//! - both copies read the same, also after another power cut, and after one in the middle of settling.
//!
//! What is not here yet: storage faults, and a copy that crashes while the other serves (a).
//! More operations: `SDS_PAIR_DEPTH=3 cargo test --release -p sds-core --test store_pair`.
#![expect(clippy::disallowed_methods, reason = "the bound comes from the environment")]
#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, reason = "a test's own small numbers")]

mod store_rig;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::Checksum;
use sds_core::exchange::{BLOCK_ENTRY_BYTES, BLOCKS_BYTES, BlockEntry, EXTENT_ENTRY_BYTES, ExtentEntry, PLAN_BYTES, PlanEntry};
use sds_core::exchange::{Medium, PLAN_ENTRY_BYTES};
use sds_core::format::Geometry;
use sds_core::format::descriptor::Content;
use sds_core::id::{BootId, ShardSequence};
use sds_core::protocol::settle::{Exhibit, Plan, Side, settle};
use sds_core::store::interface::*;
use sds_core::unit::*;
use std::collections::BTreeSet;
use store_rig::*;

const LOG_BLOCKS: u32 = 32;

fn device_bytes() -> u64 {
    (4 + u64::from(LOG_BLOCKS) + 2 + 2 * 258) * 4096
}

fn pair_options(boot: u128) -> StoreOptions {
    StoreOptions { boot: BootId::new(boot), requests_max: 8, ..options(device_bytes()) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Write {
        first: u8,
        count: u8,
    },
    Zero,
    /// The whole extent, to be freed.
    Trim,
    Flush,
}

const W0: Op = Op::Write { first: 0, count: 1 };
const W1: Op = Op::Write { first: 1, count: 1 };
const W01: Op = Op::Write { first: 0, count: 2 };
const ALL: &[Op] = &[W0, W1, W01, Op::Zero, Op::Trim, Op::Flush];

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Each copy settles alone.
    NoSettle,
    /// The copy that has the extent unsettled takes its plan first.
    UnsettledFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Crash {
    Process,
    Power,
}

fn touched(op: Op) -> [bool; 2] {
    match op {
        Op::Write { first, count } => [first == 0, first + count > 1],
        Op::Zero => [true, false],
        Op::Trim => [true, true],
        Op::Flush => [false; 2],
    }
}

fn overlap(one: Op, other: Op) -> bool {
    (0..2).any(|block| touched(one)[block] && touched(other)[block])
}

fn value_of(op: usize, block: usize) -> u64 {
    (op as u64 + 1) * 10 + block as u64 + 1
}

/// What had happened at a copy when it crashed, as far as the other copy and the user can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    issued: usize,
    /// Operations this copy had answered.
    done: u8,
    /// Those answered when the last operation was issued.
    seen: u8,
}

/// What a copy brings to the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary {
    held: bool,
    unsettled: bool,
    entries: [BlockEntry; 2],
}

/// The images of one store that differ in nothing the other copy can learn: one stands for all.
#[derive(Clone)]
struct Image {
    crash: Crash,
    moment: Moment,
    summary: Summary,
    disk: Disk,
}

#[derive(Clone)]
struct Node {
    rig: Rig,
    asked: Vec<(usize, u64)>,
    moment: Moment,
}

#[derive(Default)]
struct Single {
    seen: BTreeSet<(u64, Crash, Moment)>,
    images: Vec<Image>,
}

fn start(settled: bool) -> Node {
    let geometry = Geometry::for_device(ByteCount::new(device_bytes()), LOG_BLOCKS).unwrap();
    let mut disk = formatted(device_bytes(), LOG_BLOCKS);
    for slot in 0..2 {
        for block in 0..2 {
            // A former owner's bytes.
            disk.write(geometry.data(slot, BlockIndex::new(block)).get() / 4096, piece_of(&fill(0xdead)), true);
        }
    }
    let mut rig = Rig::open(disk, pair_options(1));
    if settled {
        rig.write(key(0), 0, &[fill(5001), fill(5002)].concat(), 1).unwrap();
        rig.close().unwrap();
        rig = Rig::open(rig.disk, pair_options(1));
        rig.disk.flush();
    }
    rig.bond = Bond::Held;
    Node { rig, asked: Vec::new(), moment: Moment { issued: 0, done: 0, seen: 0 } }
}

impl Node {
    fn issue(&mut self, ops: &[Op]) {
        let number = self.moment.issued;
        let sequence = 1000 + number as u64;
        let token = match ops[number] {
            Op::Write { first, count } => {
                let bytes: Vec<u8> = (first..first + count).flat_map(|block| fill(value_of(number, usize::from(block)))).collect();
                self.rig.send_write(key(0), first, &bytes, sequence, false)
            }
            Op::Zero => self.rig.send_zero(key(0), 0, 1, sequence, false),
            Op::Trim => self.rig.send_zero(key(0), 0, 256, sequence, true),
            Op::Flush => self.rig.request(Request::Flush),
        };
        self.moment.seen = self.moment.done;
        self.moment.issued += 1;
        self.asked.push((number, token));
    }

    fn take_replies(&mut self) {
        for (number, token) in core::mem::take(&mut self.asked) {
            if self.rig.replies.contains_key(&token) {
                assert_eq!(self.rig.reply(token), Ok(Outcome::Done));
                self.moment.done |= 1 << number;
            } else {
                self.asked.push((number, token));
            }
        }
    }

    fn wake_due(&self) -> Option<Nanos> {
        self.rig.store.deadline().filter(|due| *due <= self.rig.now.plus(Nanos::from_millis(1)))
    }
}

impl Single {
    fn explore(&mut self, mut node: Node, ops: &[Op]) {
        while let Some(read) = node.rig.sent.iter().position(|sent| matches!(sent, Sent::Read { .. })) {
            node.rig.complete(read);
        }
        node.take_replies();
        for crash in [Crash::Process, Crash::Power] {
            self.crash(&node, crash);
        }
        let next = node.moment.issued;
        let may_issue =
            next < ops.len() && (0..next).all(|earlier| node.moment.done & (1 << earlier) != 0 || !overlap(ops[earlier], ops[next]));
        if may_issue {
            let mut issued = node.clone();
            issued.issue(ops);
            self.explore(issued, ops);
        }
        for index in 0..node.rig.sent.len() {
            let mut completed = node.clone();
            completed.rig.complete(index);
            self.explore(completed, ops);
        }
        if let Some(due) = node.wake_due() {
            node.rig.now = node.rig.now.max(due);
            node.rig.input(Input::Wake);
            self.explore(node, ops);
        }
    }

    fn crash(&mut self, node: &Node, crash: Crash) {
        let disk = &node.rig.disk;
        let mut choices: Vec<(u64, Vec<Option<Piece>>)> = Vec::new();
        for (piece, values) in disk.cached() {
            let mut options: Vec<Option<Piece>> = vec![values.last().cloned()];
            if crash == Crash::Power {
                options.push(disk.get_durable(*piece));
                options.extend(values[..values.len() - 1].iter().cloned().map(Some));
            }
            choices.push((*piece, options));
        }
        for (piece, bytes) in node.rig.sent.iter().flat_map(|sent| node.rig.pieces_of(sent)) {
            match choices.iter_mut().find(|(place, _)| *place == piece) {
                Some((_, options)) => options.push(Some(bytes)),
                None => choices.push((piece, vec![disk.read(piece).cloned(), Some(bytes)])),
            }
        }
        let total: usize = choices.iter().map(|(_, options)| options.len()).product();
        assert!(total <= 1 << 14, "{total} images at one point are too many to try all");
        let mut flushed = disk.clone();
        flushed.flush();
        for image in 0..total {
            let mut disk = flushed.clone();
            let mut rest = image;
            for (piece, options) in &choices {
                disk.put(*piece, options[rest % options.len()].clone());
                rest /= options.len();
            }
            if self.seen.insert((disk.sum, crash, node.moment)) {
                let summary = Copy::open(disk.clone(), crash, 2).summary();
                let known = |other: &Image| (other.crash, other.moment, other.summary) == (crash, node.moment, summary);
                if !self.images.iter().any(known) {
                    self.images.push(Image { crash, moment: node.moment, summary, disk });
                }
            }
        }
    }
}

/// A copy that has come back and is not settled.
struct Copy {
    rig: Rig,
    lost: bool,
}

impl Copy {
    fn open(disk: Disk, crash: Crash, boot: u128) -> Self {
        let lost = crash == Crash::Power;
        let mut rig = Rig::new(disk, pair_options(if lost { boot } else { 1 }));
        rig.input(Input::Open);
        rig.drain();
        assert_eq!(rig.open_fault(), None);
        if rig.opened().unwrap().unsettled > 0 {
            let token = rig.request(Request::SettleLater);
            rig.drain();
            assert_eq!(rig.reply(token), Ok(Outcome::Done));
        }
        Self { rig, lost }
    }

    fn ask(&mut self, bytes: u32, request: impl Fn(Span) -> Request) -> (Outcome, Vec<u8>) {
        let span = Span::whole(self.rig.pool.allocate(BufferClass::Replicate, bytes).unwrap(), bytes);
        let token = self.rig.request(request(span));
        self.rig.drain();
        let bytes = self.rig.pool.bytes(span).to_vec();
        self.rig.pool.release(span.buffer);
        (self.rig.reply(token).unwrap(), bytes)
    }

    fn summary(&mut self) -> Summary {
        let (outcome, bytes) = self.ask(4 * EXTENT_ENTRY_BYTES, |span| Request::Extents { from: 0, span });
        let Outcome::Extents { count, next: None } = outcome else { panic!("a small device's list has one part") };
        let mut listed = bytes.chunks(EXTENT_ENTRY_BYTES as usize).take(count as usize).map(|bytes| ExtentEntry::decode(bytes).unwrap());
        let unsettled = listed.any(|entry| entry.key == key(0) && entry.unsettled);
        let (outcome, bytes) = self.ask(BLOCKS_BYTES, |span| Request::Blocks { key: key(0), span });
        let Outcome::Blocks { held } = outcome else { panic!("a block list") };
        let entry = |block: usize| BlockEntry::decode(&bytes[block * BLOCK_ENTRY_BYTES as usize..]).unwrap();
        let entries = [entry(0), entry(1)];
        if unsettled {
            assert_eq!(self.rig.read(key(0), 0, 1), Err(StoreError::Unsettled));
        } else {
            assert!(entries.iter().all(|entry| entry.medium == Medium::NotAsked));
        }
        Summary { held, unsettled, entries }
    }

    fn medium(&mut self, block: u8) -> Vec<u8> {
        let range = BlockRange { first: BlockIndex::new(block), count: 1 };
        self.ask(4096, |span| Request::Medium { key: key(0), range, span }).1
    }

    fn write(&mut self, block: u8, bytes: &[u8], sequence: u64) {
        self.rig.bond = Bond::Settling;
        assert_eq!(self.rig.write(key(0), block, bytes, sequence), Ok(Outcome::Done));
    }

    fn settle(&mut self, plan: &[PlanEntry; 2]) {
        let span = Span::whole(self.rig.pool.allocate(BufferClass::Replicate, PLAN_BYTES).unwrap(), PLAN_BYTES);
        for block in 0..256_u32 {
            let part = self.rig.pool.bytes_mut(span.part(block * PLAN_ENTRY_BYTES, PLAN_ENTRY_BYTES));
            plan.get(block as usize).copied().unwrap_or_default().encode(part);
        }
        let token = self.rig.request(Request::Settle { key: key(0), span });
        self.rig.drain();
        assert_eq!(self.rig.reply(token), Ok(Outcome::Done));
        self.rig.pool.release(span.buffer);
    }
}

fn decide(copies: &mut [Copy; 2]) -> Option<([Plan; 2], [Summary; 2])> {
    let summaries = [copies[0].summary(), copies[1].summary()];
    // An extent that one copy alone holds may have been freed by a trim that the other has not seen.
    if !summaries.iter().any(|summary| summary.unsettled) && summaries[0].held == summaries[1].held {
        return None;
    }
    let lost = [copies[0].lost, copies[1].lost];
    let plans = [0, 1].map(|block| {
        let records = [0, 1].map(|copy| [summaries[copy].entries[block].record()]);
        let exhibit =
            |copy: usize| Exhibit { records: &records[copy], medium: summaries[copy].entries[block].bytes_held(), cache_lost: lost[copy] };
        settle(&exhibit(0), &exhibit(1))
    });
    Some((plans, summaries))
}

/// Settles the extent, at most so many requests that change something; whether it is done.
fn exchange(copies: &mut [Copy; 2], sequence: u64, mut steps: usize, fault: Fault) -> bool {
    let Some((plans, summaries)) = decide(copies) else { return true };
    let mut entries = [[PlanEntry::AsRecorded; 2]; 2];
    for (block, plan) in plans.into_iter().enumerate() {
        let version = ShardSequence::new(sequence + block as u64);
        for copy in 0..2 {
            entries[copy][block] = match plan {
                Plan::Quarantine => PlanEntry::Quarantined(version),
                Plan::Take { from, checksum, .. } => {
                    let from = usize::from(from == Side::Secondary);
                    let holds_data = |copy: usize| summaries[copy].entries[block].info.content.holds_data();
                    let mine = summaries[copy].entries[block];
                    if !holds_data(from) {
                        assert_eq!(checksum, Checksum::ZERO_BLOCK);
                        PlanEntry::Zero(version)
                    } else {
                        if !(holds_data(copy) && mine.bytes_held() == Some(checksum)) {
                            if steps == 0 {
                                return false;
                            }
                            steps -= 1;
                            let bytes = copies[from].medium(block as u8);
                            assert_eq!(Checksum::of(&bytes), checksum);
                            copies[copy].write(block as u8, &bytes, version.get());
                        }
                        PlanEntry::Data(version, checksum)
                    }
                }
            };
        }
    }
    // The copy that has the extent settled comes first: while the other's plan is not durable, the extent stays in the
    // exchange whatever happens.
    let mut order = [0, 1];
    order.sort_by_key(|copy| summaries[*copy].unsettled != (fault == Fault::UnsettledFirst));
    for copy in order {
        if steps == 0 {
            return false;
        }
        steps -= 1;
        copies[copy].settle(&entries[copy]);
    }
    true
}

struct Pair<'a> {
    ops: &'a [Op],
    settled: bool,
    fault: Fault,
    seen: BTreeSet<String>,
    joined: u64,
    violation: Option<String>,
}

impl Pair<'_> {
    /// Whether the two moments can be those of one history: an operation is sent when those it overlaps are acknowledged.
    fn can_meet(&self, one: &Moment, other: &Moment) -> bool {
        let waited = |issued: &Moment, done: &Moment| {
            (0..issued.issued)
                .all(|later| (0..later).all(|earlier| !overlap(self.ops[earlier], self.ops[later]) || done.done & (1 << earlier) != 0))
        };
        waited(one, other) && waited(other, one)
    }

    fn allowed(&self, one: &Image, other: &Image) -> [BTreeSet<u64>; 2] {
        let both_lost = one.crash == Crash::Power && other.crash == Crash::Power;
        let acknowledged = one.moment.done & other.moment.done;
        [0, 1].map(|block| {
            let mut values = vec![if self.settled { 5001 + block as u64 } else { 0 }];
            let mut first = 0;
            for (number, op) in self.ops.iter().enumerate().take(one.moment.issued.max(other.moment.issued)) {
                let last = number + 1 == one.moment.issued.max(other.moment.issued);
                if *op == Op::Flush && acknowledged & (1 << number) != 0 {
                    // The last operation knows what had been answered before it; an earlier flush is taken to cover nothing.
                    let covered = if last { one.moment.seen & other.moment.seen } else { 0 };
                    let mut place = 0;
                    for (earlier, op) in self.ops.iter().enumerate().take(number).filter(|(_, op)| touched(**op)[block]) {
                        let _ = op;
                        place += 1;
                        if covered & (1 << earlier) != 0 && both_lost {
                            first = first.max(place);
                        }
                    }
                }
                if touched(*op)[block] {
                    values.push(if let Op::Write { .. } = op { value_of(number, block) } else { 0 });
                    if !both_lost && acknowledged & (1 << number) != 0 {
                        first = values.len() - 1;
                    }
                }
            }
            values[first..].iter().copied().collect()
        })
    }

    fn read_both(&mut self, copies: &mut [Copy; 2], allowed: &[BTreeSet<u64>; 2], what: &str) -> Option<[u64; 2]> {
        let mut found = [0; 2];
        for block in 0..2 {
            let bytes = [0, 1].map(|copy: usize| copies[copy].rig.read(key(0), block as u8, 1));
            let is = |value: u64| if value == 0 { zeroes() } else { fill(value) };
            let value = allowed[block].iter().copied().find(|value| bytes.iter().all(|bytes| bytes.as_ref() == Ok(&is(*value))));
            let Some(value) = value else {
                let short = bytes.map(|bytes| bytes.map(|bytes| bytes[..8].to_vec()));
                self.violation = Some(format!("{what}: block {block} reads {short:x?}, allowed {allowed:?}"));
                return None;
            };
            found[block] = value;
        }
        Some(found)
    }

    fn join(&mut self, one: &Image, other: &Image) {
        let allowed = self.allowed(one, other);
        if !self.seen.insert(format!("{:?}", (one.crash, one.summary, other.crash, other.summary, &allowed))) {
            return;
        }
        self.joined += 1;
        let open = || [Copy::open(one.disk.clone(), one.crash, 2), Copy::open(other.disk.clone(), other.crash, 2)];
        let mut copies = if self.fault == Fault::NoSettle {
            [one, other].map(|image| {
                let boot = if image.crash == Crash::Power { 2 } else { 1 };
                Copy { rig: Rig::open(image.disk.clone(), pair_options(boot)), lost: false }
            })
        } else {
            let mut copies = open();
            assert!(exchange(&mut copies, 2000, usize::MAX, self.fault));
            copies
        };
        let what = format!("{:?}\n{:?} {:?}\n{:?} {:?}", self.ops, one.moment, one.summary, other.moment, other.summary);
        let Some(found) = self.read_both(&mut copies, &allowed, &format!("{what}\nsettled")) else { return };
        if self.fault == Fault::NoSettle {
            return;
        }
        // Settled is settled: a power cut takes nothing of it.
        let only = found.map(|value| BTreeSet::from([value]));
        for copy in &mut copies {
            copy.rig.disk.cut(|_, _| 0);
            copy.rig = Rig::open(copy.rig.disk.clone(), pair_options(3));
        }
        self.read_both(&mut copies, &only, &format!("{what}\nafter a second power cut"));
        if self.fault == Fault::None && !self.joined.is_multiple_of(8) {
            return;
        }
        // Settling is cut short after each step, and done again.
        for steps in 0.. {
            let mut copies = open();
            let finished = exchange(&mut copies, 2000, steps, self.fault);
            let again = copies.map(|mut copy| {
                copy.rig.disk.cut(|_, options| if steps % 2 == 0 { 0 } else { options - 1 });
                let mut next = Copy::open(copy.rig.disk, Crash::Power, 3);
                next.lost = copy.lost;
                next
            });
            let mut copies = again;
            if finished {
                break;
            }
            assert!(exchange(&mut copies, 3000, usize::MAX, self.fault));
            if self.read_both(&mut copies, &allowed, &format!("{what}\ncut short after {steps} steps")).is_none() {
                return;
            }
        }
    }
}

fn sequences(length: usize) -> Vec<Vec<Op>> {
    let mut out = vec![Vec::new()];
    for _ in 0..length {
        out = out.into_iter().flat_map(|ops: Vec<Op>| ALL.iter().map(move |op| [ops.clone(), vec![*op]].concat())).collect();
    }
    out
}

fn run(settled: bool, ops: &[Op], fault: Fault) -> (u64, Option<String>) {
    let mut single = Single::default();
    single.explore(start(settled), ops);
    let mut pair = Pair { ops, settled, fault, seen: BTreeSet::new(), joined: 0, violation: None };
    for one in &single.images {
        for other in &single.images {
            if pair.can_meet(&one.moment, &other.moment) {
                pair.join(one, other);
            }
            if pair.violation.is_some() {
                return (pair.joined, pair.violation);
            }
        }
    }
    (pair.joined, None)
}

fn depth(default: usize) -> usize {
    std::env::var("SDS_PAIR_DEPTH").ok().and_then(|depth| depth.parse().ok()).unwrap_or(default)
}

fn all(settled: bool, length: usize) {
    let mut joined = 0;
    for ops in sequences(length) {
        let (pairs, violation) = run(settled, &ops, Fault::None);
        joined += pairs;
        assert!(violation.is_none(), "{}", violation.unwrap());
    }
    println!("settled {settled} depth {length}: {joined} pairs");
}

#[test]
fn two_fresh_copies_settle_on_one_value_that_may_be_there() {
    all(false, depth(1));
}

#[test]
fn two_copies_with_data_settle_on_one_value_that_may_be_there() {
    all(true, depth(1));
}

#[test]
fn two_copies_settle_overlapping_writes_and_flushes() {
    for ops in [[W0, W0], [W0, Op::Flush]] {
        let (joined, violation) = run(true, &ops, Fault::None);
        assert!(violation.is_none(), "{}", violation.unwrap());
        println!("{ops:?}: {joined} pairs");
    }
}

#[test]
fn copies_that_settle_each_alone_differ() {
    let (_, violation) = run(true, &[W0], Fault::NoSettle);
    assert!(violation.is_some_and(|what| what.contains("reads")), "an unacknowledged write is on one copy only");
}

#[test]
fn an_extent_whose_only_unsettled_copy_is_settled_first_is_forgotten() {
    let (_, violation) = run(true, &[Op::Zero], Fault::UnsettledFirst);
    assert!(violation.is_some_and(|what| what.contains("cut short")), "nobody lists it any more after a crash between the two");
}

#[test]
fn a_quarantined_block_is_unreadable_until_it_is_written() {
    let mut node = start(true);
    node.rig.write(key(0), 0, &fill(1), 50).unwrap();
    let mut copy = Copy::open(node.rig.disk, Crash::Process, 2);
    assert!(copy.summary().unsettled);
    copy.settle(&[PlanEntry::Quarantined(ShardSequence::new(2000)), PlanEntry::AsRecorded]);
    copy.rig.disk.cut(|_, _| 0);
    let mut rig = Rig::open(copy.rig.disk, pair_options(3));
    assert_eq!(rig.opened().unwrap().unsettled, 0);
    assert_eq!(rig.read(key(0), 0, 1), Err(StoreError::Device { errno: 5 }));
    assert_eq!(rig.read(key(0), 1, 1).unwrap(), fill(5002));
    rig.write(key(0), 0, &fill(2), 3000).unwrap();
    assert_eq!(rig.read(key(0), 0, 1).unwrap(), fill(2));
}

#[test]
fn an_unsettled_extent_stays_so_through_a_clean_stop_and_others_serve() {
    let mut node = start(false);
    node.rig.write(key(0), 0, &fill(1), 50).unwrap();
    let mut copy = Copy::open(node.rig.disk, Crash::Process, 2);
    copy.rig.write(key(1), 0, &fill(9), 51).unwrap();
    copy.write(1, &fill(3), 52);
    copy.rig.rest();
    assert_eq!(copy.rig.store.statistics().active_extents, 0);
    copy.rig.bond = Bond::None;
    assert_eq!(copy.rig.zero(key(0), 0, 1, 60, false), Err(StoreError::Unsettled));
    copy.rig.close().unwrap();
    let mut copy = Copy::open(copy.rig.disk, Crash::Process, 2);
    let summary = copy.summary();
    assert!(summary.unsettled);
    assert_eq!(
        summary.entries.map(|entry| (entry.info.content, entry.bytes_held())),
        [(Content::Data, Some(Checksum::of(&fill(1)))), (Content::Data, Some(Checksum::of(&fill(3))))]
    );
    assert_eq!(copy.rig.read(key(1), 0, 1).unwrap(), fill(9));
    copy.settle(&[PlanEntry::AsRecorded; 2]);
    assert_eq!(copy.rig.read(key(0), 1, 1).unwrap(), fill(3));
}
