//! What one store is asked, and every point at which it may stop: each order of issues and completions of a few
//! operations on two blocks of one extent.
//!
//! Both copies are asked the same, so one exploration stands for either. A copy knows of the other only through what
//! was issued and done where: its [`Moment`].
//!
//! What this must not know: what a crash leaves, what the copies do when they meet.

use crate::store_rig::*;
use sds_core::format::Geometry;
use sds_core::id::BootId;
use sds_core::store::interface::*;
use sds_core::unit::*;

const LOG_BLOCKS: u32 = 32;
/// The boot in which histories happen.
pub(crate) const FIRST_BOOT: u128 = 1;

pub(crate) fn device_bytes() -> u64 {
    // Two extents: one for the blocks under test, one that a freed one's successor gets.
    (4 + u64::from(LOG_BLOCKS) + 2 + 2 * 258) * 4096
}

pub(crate) fn geometry() -> Geometry {
    Geometry::for_device(ByteCount::new(device_bytes()), LOG_BLOCKS).unwrap()
}

pub(crate) fn pair_options(boot: u128) -> StoreOptions {
    StoreOptions { boot: BootId::new(boot), requests_max: 8, ..options(device_bytes()) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Write {
        first: u8,
        count: u8,
    },
    Zero,
    /// The whole extent, to be freed.
    Trim,
    Flush,
}

pub(crate) const W0: Op = Op::Write { first: 0, count: 1 };
pub(crate) const W1: Op = Op::Write { first: 1, count: 1 };
pub(crate) const W01: Op = Op::Write { first: 0, count: 2 };
pub(crate) const ALL: &[Op] = &[W0, W1, W01, Op::Zero, Op::Trim, Op::Flush];
pub(crate) const BLOCKS: [usize; 2] = [0, 1];

/// Where a history begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Start {
    /// Nothing was written.
    Fresh,
    /// Both blocks hold data; the store was closed and opened, more than once: their records are in a descriptor page, and
    /// older ones lie about.
    Closed,
    /// Both blocks hold data and the extent is sealed: their records are in the log only.
    Sealed,
}

pub(crate) fn touched(op: Op) -> [bool; 2] {
    match op {
        Op::Write { first, count } => [first == 0, first + count > 1],
        Op::Zero => [true, false],
        Op::Trim => [true, true],
        Op::Flush => [false; 2],
    }
}

pub(crate) fn overlap(one: Op, other: Op) -> bool {
    BLOCKS.into_iter().any(|block| touched(one)[block] && touched(other)[block])
}

fn value_of(op: usize, block: usize) -> u64 {
    (op as u64 + 1) * 10 + block as u64 + 1
}

/// What a block is after an operation that touches it; 0 is zeroes.
pub(crate) fn value_after(op: Op, number: usize, block: usize) -> u64 {
    match op {
        Op::Write { .. } => value_of(number, block),
        Op::Zero | Op::Trim | Op::Flush => 0,
    }
}

pub(crate) fn value_at(start: Start, block: usize) -> u64 {
    match start {
        Start::Fresh => 0,
        Start::Closed | Start::Sealed => 5001 + block as u64,
    }
}

pub(crate) fn bytes_of(value: u64) -> Vec<u8> {
    if value == 0 { zeroes() } else { fill(value) }
}

pub(crate) fn sequence_of(number: usize) -> u64 {
    1000 + number as u64
}

/// Of the data that a history starts with.
pub(crate) const FIRST_SEQUENCE: u64 = 4;

/// Sends an operation of a history.
pub(crate) fn send(rig: &mut Rig, op: Op, number: usize) -> u64 {
    let sequence = sequence_of(number);
    match op {
        Op::Write { first, count } => {
            let bytes: Vec<u8> = (first..first + count).flat_map(|block| fill(value_of(number, usize::from(block)))).collect();
            rig.send_write(key(0), first, &bytes, sequence, false)
        }
        Op::Zero => rig.send_zero(key(0), 0, 1, sequence, false),
        Op::Trim => rig.send_zero(key(0), 0, 256, sequence, true),
        Op::Flush => rig.request(Request::Flush),
    }
}

/// The other copy has everything so far.
pub(crate) fn resolve(rig: &mut Rig, sequence: u64) {
    rig.input(Input::Resolved { key: key(0), version: version(sequence) });
}

/// What had happened at a copy when it crashed, as far as the other copy and the user can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub(crate) issued: usize,
    /// Operations this copy had answered.
    pub(crate) done: u8,
    /// Those answered when each flush was issued, a byte an operation.
    pub(crate) seen: u32,
}

impl Moment {
    pub(crate) fn has_done(&self, number: usize) -> bool {
        self.done & (1 << number) != 0
    }

    /// Whether the flush with this number covers that operation here.
    pub(crate) fn flush_covers(&self, flush: usize, number: usize) -> bool {
        self.has_done(flush) && self.seen >> (8 * flush) & (1 << number) != 0
    }
}

/// A store in the midst of a history.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) rig: Rig,
    asked: Vec<(usize, u64)>,
    pub(crate) moment: Moment,
}

/// A device whose data area holds a former owner's bytes.
fn used_device() -> Disk {
    let mut disk = formatted(device_bytes(), LOG_BLOCKS);
    for slot in 0..2 {
        for block in 0..2 {
            disk.write(geometry().data(slot, BlockIndex::new(block)).get() / 4096, piece_of(&fill(0xdead)), true);
        }
    }
    disk
}

/// A device that takes the place of one that could not be opened.
pub(crate) fn blank_device() -> Disk {
    used_device()
}

pub(crate) fn start(start: Start) -> Node {
    let mut rig = Rig::open(used_device(), pair_options(FIRST_BOOT));
    let write = |rig: &mut Rig, sequence: u64| {
        let age = FIRST_SEQUENCE - sequence;
        rig.write(key(0), 0, &[fill(5001 - 100 * age), fill(5002 - 100 * age)].concat(), sequence).unwrap()
    };
    match start {
        Start::Fresh => {}
        Start::Closed => {
            for sequence in 1..=FIRST_SEQUENCE {
                write(&mut rig, sequence);
                rig.close().unwrap();
                rig = Rig::open(rig.disk, pair_options(FIRST_BOOT));
            }
        }
        Start::Sealed => {
            write(&mut rig, FIRST_SEQUENCE);
            rig.rest();
            assert_eq!(rig.store.statistics().active_extents, 0);
        }
    }
    if start != Start::Fresh {
        rig.flush().unwrap();
        rig.disk.flush();
    }
    rig.pool = Pool::new(4096);
    rig.bond = Bond::Held;
    Node { rig, asked: Vec::new(), moment: Moment { issued: 0, done: 0, seen: 0 } }
}

impl Node {
    /// Sends the next operation.
    pub(crate) fn issue(&mut self, ops: &[Op]) {
        let number = self.moment.issued;
        let token = send(&mut self.rig, ops[number], number);
        if ops[number] == Op::Flush {
            self.moment.seen |= u32::from(self.moment.done) << (8 * number);
        }
        self.moment.issued += 1;
        self.asked.push((number, token));
    }

    pub(crate) fn take_replies(&mut self) {
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

/// Every point of a history at one copy is shown to `visit`, some more than once.
pub(crate) fn explore(mut node: Node, ops: &[Op], visit: &mut dyn FnMut(&Node)) {
    // A read changes nothing that a crash could show.
    while let Some(read) = node.rig.sent.iter().position(|sent| matches!(sent, Sent::Read { .. })) {
        node.rig.complete(read);
    }
    node.take_replies();
    visit(&node);
    let next = node.moment.issued;
    let may_issue = next < ops.len() && (0..next).all(|earlier| node.moment.has_done(earlier) || !overlap(ops[earlier], ops[next]));
    if may_issue {
        let mut issued = node.clone();
        issued.issue(ops);
        explore(issued, ops, visit);
    }
    for index in 0..node.rig.sent.len() {
        let mut completed = node.clone();
        completed.rig.complete(index);
        explore(completed, ops, visit);
    }
    if let Some(due) = node.wake_due() {
        node.rig.now = node.rig.now.max(due);
        node.rig.input(Input::Wake);
        explore(node, ops, visit);
    }
}

/// All sequences of so many operations.
pub(crate) fn sequences(alphabet: &[Op], length: usize) -> Vec<Vec<Op>> {
    let mut out = vec![Vec::new()];
    for _ in 0..length {
        out = out.into_iter().flat_map(|ops: Vec<Op>| alphabet.iter().map(move |op| [ops.clone(), vec![*op]].concat())).collect();
    }
    out
}
