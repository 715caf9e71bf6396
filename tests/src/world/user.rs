//! The users of the volumes: they open, ask in bursts, rest, are fenced, and come back.
//!
//! Every piece that a request is cut into is an operation of the history by itself: pieces have no
//! order among each other, as an NBD request over several of them has none.

use super::{Event, Phase, World};
use crate::history::{Action, Answer, Mark, Op, OpIndex, Seen, SessionSerial};
use crate::pattern::{self, Stamp, digest};
use crate::prng::Prng;
use crate::workload::Wish;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::control::OpenError;
use sds_core::error::Status;
use sds_core::id::VolumeId;
use sds_core::machine::Token;
use sds_core::stripe::Stripe;
use sds_core::unit::{BLOCK_BYTES, ByteOffset};
use sds_core::view::SessionMode;
use sds_core::volume::interface::{Input, OpenVolume, Outcome, Request};
use sds_core::volume::piece::{self, ZeroPiece};
use std::collections::{BTreeMap, VecDeque};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// How long a user without a buffer waits at most.
const NO_BUFFER_NS: u64 = 500_000;

/// Most changes of one block that a user has outstanding: the checker's search grows with two to the
/// power of them.
const CHANGES_OF_A_BLOCK_MAX: usize = 5;

/// What a user is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserState {
    /// Its process is down, or it has nothing open.
    Idle,
    /// It waits for an open.
    Opening {
        /// Of the question.
        token: u64,
    },
    /// It has a volume.
    Open {
        /// It.
        volume: OpenVolume,
        /// In this session.
        session: SessionSerial,
    },
    /// Its volume was taken over; it waits for its requests, then closes.
    Fenced {
        /// Which.
        volume: VolumeId,
    },
    /// It waits for a close.
    Closing {
        /// Of the question.
        token: u64,
    },
}

/// A request cut to what one frame can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Read { offset: u64, len: u32 },
    Write { offset: u64, len: u32, durable: bool, zero: bool },
    Zero { offset: u64, len: u64, trim: bool, durable: bool },
    Flush,
    Status { offset: u64, len: u32 },
}

/// A user.
#[derive(Debug)]
pub(crate) struct User {
    pub(super) state: UserState,
    pub(super) outstanding: BTreeMap<u64, OpIndex>,
    backlog: VecDeque<Piece>,
    burst: u64,
    pub(super) asked: u64,
    /// Wishes so far.
    pub(super) wished: u64,
    chance: Prng,
    /// What the MDM last said it has: volume, generation.
    pub(super) granted: Option<(u32, u64)>,
    /// A look is scheduled.
    looking: bool,
    /// Operations made for a script, to be told.
    pub(super) made: Vec<OpIndex>,
    /// It wants to be the holder whoever is in the way.
    pub(super) force: bool,
    /// Works on this volume instead of its own.
    pub(super) visits: Option<usize>,
    /// Gives its volume back when it has a moment.
    pub(super) leave: bool,
    /// Does only what a script tells it.
    pub(super) scripted: bool,
    /// The script wants it to have its volume open.
    pub(super) summoned: bool,
}

impl User {
    pub(crate) fn new(chance: Prng) -> Self {
        Self {
            state: UserState::Idle,
            outstanding: BTreeMap::new(),
            backlog: VecDeque::new(),
            burst: 0,
            asked: 0,
            wished: 0,
            chance,
            granted: None,
            looking: false,
            made: Vec::new(),
            force: false,
            visits: None,
            leave: false,
            scripted: false,
            summoned: false,
        }
    }

    pub(super) fn process_started(&mut self) {
        self.looking = false;
    }

    pub(super) fn process_died(&mut self) {
        self.state = UserState::Idle;
        self.outstanding.clear();
        self.backlog.clear();
        self.burst = 0;
        self.granted = None;
    }

    /// Whether it has nothing to do and nothing open.
    pub(super) fn is_at_rest(&self) -> bool {
        self.state == UserState::Idle && self.outstanding.is_empty() && self.backlog.is_empty()
    }

    /// Reads this when it is next open.
    pub(super) fn shall_read(&mut self, offset: u64, len: u32) {
        self.backlog.push_back(Piece::Read { offset, len });
    }

    /// How many pieces it has still to ask for.
    pub(super) fn waiting(&self) -> usize {
        self.backlog.len()
    }

    /// Adds what a request is cut into.
    pub(super) fn shall(&mut self, wish: Wish, stripe: Stripe) {
        match wish {
            Wish::Read { offset, len } => self.backlog.extend(
                piece::reads(stripe, ByteOffset::new(offset), len).map(|piece| Piece::Read { offset: piece.offset.get(), len: piece.len }),
            ),
            Wish::Write { offset, len, durable } => {
                self.backlog.extend(piece::writes(stripe, ByteOffset::new(offset), len).map(|piece| Piece::Write {
                    offset: piece.offset.get(),
                    len: piece.len,
                    durable,
                    zero: false,
                }));
            }
            Wish::Zero { offset, len, trim: false, durable } => {
                self.backlog.extend(piece::zeroes(stripe, ByteOffset::new(offset), len).map(|piece| match piece {
                    ZeroPiece::Blocks { offset, len } => Piece::Zero { offset: offset.get(), len, trim: false, durable },
                    ZeroPiece::Fragment { offset, len } => Piece::Write { offset: offset.get(), len, durable, zero: true },
                }));
            }
            Wish::Zero { offset, len, trim: true, durable } => {
                self.backlog.extend(piece::trims(stripe, ByteOffset::new(offset), len).map(|piece| Piece::Zero {
                    offset: piece.offset.get(),
                    len: piece.len,
                    trim: true,
                    durable,
                }));
            }
            Wish::Flush => self.backlog.push_back(Piece::Flush),
            Wish::Status { offset, len } => self.backlog.extend(
                piece::statuses(stripe, ByteOffset::new(offset), len)
                    .map(|piece| Piece::Status { offset: piece.offset.get(), len: piece.len }),
            ),
        }
    }
}

impl World {
    /// Makes a user look for work soon.
    pub(super) fn nudge_user(&mut self, client: usize, nanos: u64) {
        let user = &mut self.clients[client].user;
        if nanos == 0 && core::mem::replace(&mut user.looking, true) {
            return;
        }
        let life = self.processes[self.clients[client].process.0].life;
        self.schedule.after(nanos, Event::User { client, life });
    }

    fn token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    pub(super) fn volume_index(&self, client: usize) -> usize {
        self.clients[client].user.visits.unwrap_or(self.plan.works_on[client])
    }

    /// A user looks whether it has something to do.
    pub(super) fn user_looks(&mut self, client: usize, life: u64) {
        self.clients[client].user.looking = false;
        if !self.is_alive(self.clients[client].process, life) {
            return;
        }
        match self.clients[client].user.state {
            UserState::Idle => self.user_may_open(client),
            UserState::Opening { .. } | UserState::Closing { .. } => {}
            UserState::Open { volume, session } => self.user_asks(client, volume, session),
            UserState::Fenced { volume } => self.user_may_close(client, volume),
        }
    }

    fn wants_to_work(&self, client: usize) -> bool {
        let user = &self.clients[client].user;
        let more = match self.phase {
            Phase::Troubled if user.scripted => user.summoned,
            Phase::Troubled => user.asked < self.plan.requests_per_client,
            Phase::Healing | Phase::Stopping | Phase::Starting | Phase::Reading | Phase::Closing | Phase::Over => false,
        };
        (more && !user.leave && !self.is_being_removed(self.volume_index(client))) || !user.backlog.is_empty()
    }

    fn user_may_open(&mut self, client: usize) {
        let index = self.volume_index(client);
        if !self.wants_to_work(client) {
            return;
        }
        if index >= self.volumes_made {
            return self.nudge_user(client, 50_000_000);
        }
        let token = self.token();
        let user = &mut self.clients[client].user;
        let force = user.force || (!user.scripted && user.chance.chance(1, 4));
        user.state = UserState::Opening { token };
        user.granted = None;
        let name = self.plan.volumes[index].name.clone();
        let mode = if self.plan.read_only[client] { SessionMode::ReadOnly } else { SessionMode::Exclusive };
        let Some((id, _)) = self.mdm.cluster().volume_by_name(&name) else { return };
        if mode == SessionMode::Exclusive {
            self.mark(Mark::TakeOver { volume: id.get(), client: u16::try_from(client).unwrap_or(u16::MAX) });
        }
        let now = self.now();
        self.trace
            .note(now, &[30, client as u64], || format!("user {client} opens {name} {mode:?}{}", if force { " by force" } else { "" }));
        self.step_client(client, Input::Open { token: Token::new(token), volume: &name, mode, force, io_timeout: None });
    }

    pub(super) fn user_opened(&mut self, client: usize, token: Token, result: Result<OpenVolume, OpenError>) {
        let now = self.now();
        self.trace.note(now, &[31, client as u64], || format!("user {client} is answered: {result:?}"));
        if self.clients[client].user.state != (UserState::Opening { token: token.get() }) {
            return self.violate(format!("user {client} got an answer to an open that it had not asked for"));
        }
        match result {
            Ok(volume) => {
                let granted = self.clients[client].user.granted.take();
                let Some((_, generation)) = granted.filter(|(id, _)| *id == volume.id.get()) else {
                    return self.violate(format!("client {client} has volume {} open, and the MDM gave it no session", volume.id));
                };
                let session = SessionSerial(u32::try_from(generation).unwrap_or(u32::MAX));
                match volume.mode {
                    SessionMode::Exclusive => self.mark(Mark::Opened { volume: volume.id.get(), session }),
                    SessionMode::Shared | SessionMode::ReadOnly => {}
                }
                self.counts.opens += 1;
                self.clients[client].user.state = UserState::Open { volume, session };
                self.nudge_user(client, 0);
            }
            Err(error) => {
                self.clients[client].user.state = UserState::Idle;
                let pause = match error {
                    OpenError::Busy { .. } => 300_000_000 + self.chance.below(3_000_000_000),
                    OpenError::NotConfirmed { .. } | OpenError::NotRecorded { .. } => 100_000_000,
                    OpenError::NoVolume { .. } | OpenError::TooManySessions { .. } | OpenError::Refused { .. } => {
                        return self.violate(format!("user {client} cannot open its volume: {error}"));
                    }
                };
                self.nudge_user(client, pause);
            }
        }
    }

    /// Asks for as much as it may.
    fn user_asks(&mut self, client: usize, volume: OpenVolume, session: SessionSerial) {
        let depth = self.plan.depth;
        loop {
            let room = {
                let node = &self.clients[client];
                node.user.state == (UserState::Open { volume, session })
                    && node.user.outstanding.len() < depth
                    && node.machine.as_ref().is_some_and(|machine| machine.free_requests() > 0)
            };
            if !room {
                return;
            }
            let Some(piece) = self.next_piece(client, volume) else {
                if self.clients[client].user.outstanding.is_empty() {
                    self.user_rests(client, volume);
                }
                return;
            };
            if self.is_crowded(client, piece) {
                self.clients[client].user.backlog.push_front(piece);
                return;
            }
            if !self.ask_piece(client, volume, session, piece) {
                self.clients[client].user.backlog.push_front(piece);
                return self.nudge_user(client, NO_BUFFER_NS);
            }
        }
    }

    /// Whether as many changes of the piece's blocks are outstanding as the checker can look through.
    fn is_crowded(&self, client: usize, piece: Piece) -> bool {
        let (offset, len) = match piece {
            Piece::Write { offset, len, .. } => (offset, u64::from(len)),
            Piece::Zero { offset, len, .. } => (offset, len),
            Piece::Read { .. } | Piece::Flush | Piece::Status { .. } => return false,
        };
        let (first, end) = (offset / BLOCK, (offset + len).div_ceil(BLOCK));
        let ops = self.history.ops();
        let overlapping = self.clients[client].user.outstanding.values().filter(|index| {
            let op = &ops[index.0 as usize];
            let changes = match op.action {
                Action::Write(_) | Action::Zero => true,
                Action::Read | Action::Flush | Action::Status => false,
            };
            changes && op.offset / BLOCK < end && first < (op.offset + op.len).div_ceil(BLOCK)
        });
        overlapping.count() >= CHANGES_OF_A_BLOCK_MAX
    }

    fn next_piece(&mut self, client: usize, volume: OpenVolume) -> Option<Piece> {
        let wants = self.wants_to_work(client);
        let index = self.volume_index(client);
        let read_only = self.plan.read_only[client];
        let user = &mut self.clients[client].user;
        while user.backlog.is_empty() {
            if user.burst == 0 || !wants || user.scripted {
                return None;
            }
            user.burst -= 1;
            let wish = self.plan.volumes[index].wish(&self.plan.mix, &mut user.chance);
            let wish = match wish {
                Wish::Write { offset, len, .. } | Wish::Zero { offset, len, .. } if read_only => Wish::Read { offset, len },
                // Who writes nothing has nothing to flush: what others wrote is not theirs to vouch for.
                Wish::Flush if read_only => continue,
                Wish::Read { .. } | Wish::Write { .. } | Wish::Zero { .. } | Wish::Flush | Wish::Status { .. } => wish,
            };
            user.shall(wish, volume.stripe);
            let number = user.wished;
            user.wished += 1;
            if self.retelling.as_ref().is_some_and(|told| !told.kept.wishes.contains(&(client, number))) {
                user.asked += user.backlog.len() as u64;
                user.backlog.clear();
            }
        }
        user.backlog.pop_front()
    }

    /// Nothing outstanding, nothing to do: rests, or gives the volume back.
    fn user_rests(&mut self, client: usize, volume: OpenVolume) {
        if self.clients[client].user.scripted && !self.clients[client].user.leave && self.phase == Phase::Troubled {
            return;
        }
        if !self.wants_to_work(client) {
            return self.user_closes(client, volume.id);
        }
        let user = &mut self.clients[client].user;
        user.burst = match user.chance.below(4) {
            0 => 1,
            1 => user.chance.within(2..8),
            _ => user.chance.within(8..80),
        };
        let rest = match user.chance.below(10) {
            0..=4 => user.chance.below(200_000_000),
            5..=8 => user.chance.below(1_500_000_000),
            _ => user.chance.below(6_000_000_000),
        };
        self.nudge_user(client, rest + 1);
    }

    fn user_closes(&mut self, client: usize, volume: VolumeId) {
        let token = self.token();
        let user = &mut self.clients[client].user;
        user.state = UserState::Closing { token };
        let now = self.now();
        self.trace.note(now, &[32, client as u64], || format!("user {client} closes volume {volume}"));
        self.step_client(client, Input::Close { token: Token::new(token), volume });
    }

    fn user_may_close(&mut self, client: usize, volume: VolumeId) {
        if self.clients[client].user.outstanding.is_empty() {
            self.user_closes(client, volume);
        }
    }

    pub(super) fn user_closed(&mut self, client: usize, token: Token) {
        if self.clients[client].user.state != (UserState::Closing { token: token.get() }) {
            return self.violate(format!("user {client} got an answer to a close that it had not asked for"));
        }
        let now = self.now();
        self.trace.note(now, &[33, client as u64], || format!("user {client} has closed"));
        let user = &mut self.clients[client].user;
        user.state = UserState::Idle;
        user.leave = false;
        let rest = 1 + self.chance.below(2_000_000_000);
        self.nudge_user(client, rest);
    }

    pub(super) fn user_fenced(&mut self, client: usize, volume: VolumeId) {
        let user = &mut self.clients[client].user;
        match user.state {
            UserState::Open { volume: open, .. } if open.id == volume => {
                user.state = UserState::Fenced { volume };
                user.summoned = false;
                // Where others take turns, what was not asked yet is not asked any more.
                if !user.scripted && self.phase == Phase::Troubled {
                    user.backlog.clear();
                }
                self.nudge_user(client, 0);
            }
            UserState::Open { .. } | UserState::Closing { .. } | UserState::Fenced { .. } | UserState::Opening { .. } | UserState::Idle => {
            }
        }
    }

    /// Sends one piece; false if there is no buffer for it.
    fn ask_piece(&mut self, client: usize, volume: OpenVolume, session: SessionSerial, piece: Piece) -> bool {
        let process = self.clients[client].process;
        let id = volume.id.get();
        let (request, offset, len, action, durable) = match piece {
            Piece::Read { offset, len } => {
                (Request::Read { offset: ByteOffset::new(offset), len }, offset, u64::from(len), Action::Read, false)
            }
            Piece::Write { offset, len, durable, zero } => {
                let Some(buffer) = self.processes[process.0].buffers.allocate(BufferClass::Client, len) else { return false };
                let span = Span::whole(buffer, len);
                let bytes = self.processes[process.0].buffers.bytes_mut(span);
                let action = if zero {
                    bytes.fill(0);
                    Action::Zero
                } else {
                    self.stamps += 1;
                    let stamp = Stamp(self.stamps);
                    pattern::fill(bytes, stamp, id, offset);
                    self.atlas.note(stamp, id, offset, u64::from(len));
                    Action::Write(stamp)
                };
                (Request::Write { offset: ByteOffset::new(offset), span, durable }, offset, u64::from(len), action, durable)
            }
            Piece::Zero { offset, len, trim, durable } => {
                (Request::Zero { offset: ByteOffset::new(offset), len, trim, durable }, offset, len, Action::Zero, durable)
            }
            Piece::Flush => (Request::Flush, 0, 0, Action::Flush, false),
            Piece::Status { offset, len } => {
                (Request::Status { offset: ByteOffset::new(offset), len }, offset, u64::from(len), Action::Status, false)
            }
        };
        let token = self.token();
        let now = self.now();
        let asked = self.history.moment(now);
        let number = u16::try_from(client).unwrap_or(u16::MAX);
        let op = Op { client: number, session, volume: id, offset, len, action, durable, asked, answered: None };
        let index = self.history.ask(op);
        self.trace
            .note(now, &[34, client as u64, offset, len], || format!("user {client} asks op {}: {action:?} [{offset}, +{len})", index.0));
        self.counts.ops += 1;
        let user = &mut self.clients[client].user;
        user.asked += 1;
        user.outstanding.insert(token, index);
        user.made.push(index);
        self.step_client(client, Input::Request { token: Token::new(token), volume: volume.id, request });
        true
    }

    pub(super) fn user_completed(&mut self, client: usize, token: Token, result: Result<Outcome, Status>) {
        let process = self.clients[client].process;
        let Some(index) = self.clients[client].user.outstanding.remove(&token.get()) else {
            return self.violate(format!("client {client} completed a request that is not outstanding: {result:?}"));
        };
        let op = self.history.ops()[index.0 as usize].clone();
        let answer = match result {
            Ok(Outcome::Done) => Answer::Done,
            Ok(Outcome::Data(span)) => {
                if u64::from(span.len) != op.len {
                    self.violate(format!("operation {} asked for {} bytes and got {}", index.0, op.len, span.len));
                }
                let seen = seen_blocks(&op, |start, len| digest(self.processes[process.0].buffers.peek(span.part(start, len))));
                self.processes[process.0].buffers.release(span.buffer);
                Answer::Data(seen)
            }
            Ok(Outcome::Zeroes) => {
                let zeroes = [0; BLOCK_BYTES as usize];
                Answer::Data(seen_blocks(&op, |_, len| digest(&zeroes[..len as usize])))
            }
            Ok(Outcome::Status(bits)) => {
                let holds = |block: u64| bits[usize::try_from(block / 64).unwrap_or(3).min(3)] & (1 << (block % 64)) != 0;
                Answer::Holes((0..op.len / BLOCK).filter(|block| !holds(*block)).map(|block| op.offset / BLOCK + block).collect())
            }
            Err(status) => Answer::Failed(status),
        };
        let fits = matches!(
            (&op.action, &answer),
            (_, Answer::Failed(_))
                | (Action::Read, Answer::Data(_))
                | (Action::Write(_) | Action::Zero | Action::Flush, Answer::Done)
                | (Action::Status, Answer::Holes(_))
        );
        if !fits {
            self.violate(format!("operation {} ({op}) got an answer of another kind: {answer:?}", index.0));
        }
        let now = self.now();
        self.trace.note(now, &[35, client as u64, u64::from(index.0)], || match &answer {
            Answer::Failed(status) => format!("user {client} op {} fails: {status:?}", index.0),
            Answer::Done | Answer::Data(_) | Answer::Holes(_) => format!("user {client} op {} is done", index.0),
        });
        match &answer {
            Answer::Failed(_) => {}
            Answer::Done | Answer::Data(_) | Answer::Holes(_) => self.counts.done += 1,
        }
        if answer == Answer::Done
            && matches!(op.action, Action::Write(_))
            && op.offset.is_multiple_of(BLOCK)
            && op.len.is_multiple_of(BLOCK)
            && (op.durable || !self.plan.profile.volatile_cache)
        {
            // Written whole again, durably: what a fault had done to these blocks is undone. Of what a power cut eats, the fault is what is left.
            let (first, end) = (op.offset / BLOCK, (op.offset + op.len) / BLOCK);
            self.lost_blocks.retain(|lost| {
                let (volume, lba) = lost.block;
                volume != op.volume || lba < first || lba >= end || lost.since > op.asked
            });
        }
        self.history.answer(now, index, answer);
        self.nudge_user(client, 0);
    }
}

/// The blocks of a read, each digested: the function is given the part of the read's bytes.
fn seen_blocks(op: &Op, digest_of: impl Fn(u32, u32) -> u64) -> Vec<Seen> {
    let end = op.offset + op.len;
    let short = |value: u64| u32::try_from(value).expect("inside one frame's payload");
    (op.offset / BLOCK..end.div_ceil(BLOCK))
        .map(|lba| {
            let (from, to) = (op.offset.max(lba * BLOCK), end.min((lba + 1) * BLOCK));
            let len = short(to - from);
            Seen { lba, start: short(from - lba * BLOCK), len, digest: digest_of(short(from - op.offset), len) }
        })
        .collect()
}
