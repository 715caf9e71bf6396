//! One extent made the same on both copies: what they hold is compared, bytes are copied, plans are taken.
//!
//! Invariants: of a shard that is served (for a joiner, or a repair) the extent's range lock is held meanwhile, whole; bytes are in place on a copy before
//! it takes its plan; **a copy that has the extent settled takes its plan before one that has it unsettled, or did not have it**, since
//! after a crash between the two nobody would look at it otherwise; every step can be done again.
//!
//! Must not know: how sweeps find their extents.

use super::ask::Owner;
use super::decide::{self, Decision, List, Run, decode_list, encode_plan, not_held};
use super::{Need, PAUSE, PAUSE_LONG, RETRY, Replica, Seen, Step as SweepStep, VISITS_MAX};
use crate::buffer::{BufferClass, Buffers, Span};
use crate::bugs::{self, Bug};
use crate::checksum::ChecksumList;
use crate::collections::OpId;
use crate::error::Status;
use crate::exchange::{BLOCKS_BYTES, PLAN_BYTES};
use crate::format::descriptor::Content;
use crate::id::{Epoch, ShardId, ShardSequence, Version, VolumeId};
use crate::map::Member;
use crate::replica::Turn;
use crate::replica::interface::{Effect, Event};
use crate::replica::locks::{Access, Holder, LockId};
use crate::replica::view::pair::Broken;
use crate::shard::shard_of;
use crate::store::interface as store;
use crate::store::interface::{BlockRange, BlockSet, Bond, ExtentKey, Outcome, StoreError};
use crate::unit::{BLOCK_BYTES, BLOCKS_PER_EXTENT, BlockIndex};
use crate::wire::{Frame, Header, Opcode};

/// How far a visit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Others have some of the blocks.
    Locking,
    OwnBlocks,
    OtherBlocks,
    /// For a repair: which of the blocks that were asked for are damaged.
    Checking,
    Deciding,
    /// The bytes of this run are fetched.
    Fetching(usize),
    /// They are on their way to where they lack.
    Placing(usize),
    /// The first plan of two, then the second.
    Plan(u8),
    /// A joiner of which nothing can be known, or that has what the copy in sync does not have, is freed first.
    FreeOther,
}

/// An extent that is being made the same.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) sweep: OpId,
    pub(super) key: ExtentKey,
    shard: ShardId,
    epoch: Epoch,
    seen: Seen,
    lock: Option<LockId>,
    step: Step,
    pub(super) asking: bool,
    own: List,
    own_held: bool,
    /// Our descriptor of it is lost.
    own_damaged: bool,
    other: List,
    other_held: bool,
    decision: Option<Box<Decision>>,
    /// Bytes that were not where they were said to be, so often.
    spoilt: u32,
    /// What it settles in doubt was told.
    told: bool,
    /// For a repair: our blocks that are not what is recorded, once that is known.
    damaged: Option<BlockSet>,
}

impl Replica {
    /// Visits as many of a sweep's extents as may be at once, or ends the sweep.
    pub(super) fn begin_visits(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        loop {
            let Some(sweep) = self.resync.sweeps.get_mut(id) else { return };
            if sweep.work.is_empty() {
                if sweep.pending.is_empty() {
                    self.all_visited(id, turn);
                }
                return;
            }
            if self.resync.visits.len() >= VISITS_MAX {
                // Those of other sweeps; looked at again when one ends.
                self.resync.retry_by(turn.now.plus(RETRY));
                return;
            }
            let Some((key, seen)) = sweep.work.pop_front() else { unreachable!("looked at above") };
            let (need, pool) = (sweep.need, sweep.pool);
            let shard = shard_of(key.tree, key.extent, self.view.shard_count(pool));
            let Some(epoch) = sweep.shards.get(&shard).copied() else { continue };
            let visit = Visit {
                sweep: id,
                key,
                shard,
                epoch,
                seen,
                lock: None,
                step: Step::Locking,
                asking: false,
                own: not_held(),
                own_held: false,
                own_damaged: false,
                other: not_held(),
                other_held: false,
                decision: None,
                spoilt: 0,
                told: false,
                damaged: None,
            };
            let Ok(visit) = self.resync.visits.insert(visit) else { unreachable!("looked at above") };
            self.resync.counts.extents += 1;
            let granted = !matches!(need, Need::Join | Need::Repair) || bugs::is(Bug::VisitWithoutLock) || {
                let (lock, granted) = self.locks.acquire(Holder::Visit(visit), key, BlockRange::WHOLE, Access::Exclusive);
                if let Some(visit) = self.resync.visits.get_mut(visit) {
                    visit.lock = Some(lock);
                }
                granted
            };
            if granted {
                self.visit_locked(visit, turn);
            }
        }
    }

    /// Nobody else has blocks of the extent any more.
    pub(in crate::replica) fn visit_locked(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(visit) = self.resync.visits.get_mut(id).filter(|visit| visit.step == Step::Locking) {
            visit.step = Step::OwnBlocks;
            self.perform(id, turn);
        }
    }

    pub(super) fn retry_visits(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let waiting: Vec<OpId> = self.resync.visits.iter().filter(|(_, visit)| !visit.asking).map(|(id, _)| id).collect();
        for id in waiting {
            self.perform(id, turn);
        }
    }

    /// Whether a deleted volume's tree is being looked at.
    pub(in crate::replica) fn visits_tree(&self, tree: crate::id::TreeId) -> bool {
        self.resync.visits.iter().any(|(_, visit)| visit.key.tree == tree)
    }

    fn step_to(&mut self, id: OpId, step: Step, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(visit) = self.resync.visits.get_mut(id) {
            visit.step = step;
            visit.asking = false;
            self.perform(id, turn);
        }
    }

    /// Does a visit's present step (again).
    fn perform(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.get(id) else { return };
        let Some(sweep) = self.resync.sweeps.get(visit.sweep) else { unreachable!("a sweep takes its visits with it") };
        let (slot, other, key, owner) = (sweep.slot, sweep.other, visit.key, Owner::Visit(id));
        let asked = match visit.step {
            Step::Locking => return,
            Step::OwnBlocks => self.ask_own(owner, slot, BLOCKS_BYTES, |span| store::Request::Blocks { key, span }, turn),
            Step::OtherBlocks if other.is_none() => return self.step_to(id, Step::Deciding, turn),
            Step::OtherBlocks => self.ask_about(id, Opcode::Blocks, None, turn),
            Step::Checking => {
                let range = sweep.repair.map_or(BlockRange::WHOLE, |(_, range)| range);
                let room = u32::from(range.count) * BLOCK_BYTES;
                self.ask_own(owner, slot, room, |span| store::Request::Medium { key, range, span }, turn)
            }
            Step::Deciding => return self.decide(id, turn),
            Step::Fetching(at) => match visit.decision.as_ref().and_then(|decision| decision.runs.get(at).copied()) {
                None => return self.step_to(id, Step::Plan(0), turn),
                Some(run) if run.from_own => {
                    let range = range_of(run);
                    let room = u32::from(run.count) * BLOCK_BYTES;
                    self.ask_own(owner, slot, room, |span| store::Request::Medium { key, range, span }, turn)
                }
                Some(run) => self.ask_about(id, Opcode::Medium, Some(run), turn),
            },
            // The bytes have gone: they are fetched again.
            Step::Placing(at) => return self.step_to(id, Step::Fetching(at), turn),
            Step::Plan(place) => return self.give_plan(id, place, turn),
            Step::FreeOther => self.ask_about(id, Opcode::FreeExtent, None, turn),
        };
        if let Some(visit) = self.resync.visits.get_mut(id) {
            visit.asking = asked;
        }
        if !asked {
            self.resync.retry_by(turn.now.plus(RETRY));
        }
    }

    /// Header of a question to the other copy about a visit's extent.
    fn header_about(&self, id: OpId, opcode: Opcode, run: Option<Run>) -> Option<Header> {
        let visit = self.resync.visits.get(id)?;
        let (other, _) = self.resync.sweeps.get(visit.sweep)?.other?;
        let version = run.map(|run| run.version).or(visit.decision.as_ref().map(|decision| decision.version));
        let run = run.unwrap_or(Run { from_own: false, first: 0, count: 0, version: ShardSequence::default() });
        Some(Header {
            device: other.device,
            shard: visit.shard,
            epoch: visit.epoch,
            volume: VolumeId::new(visit.key.tree.get()),
            layer: visit.key.layer,
            extent: visit.key.extent,
            offset: u32::from(run.first) * BLOCK_BYTES,
            length: u32::from(run.count) * BLOCK_BYTES,
            sequence: version.unwrap_or_default(),
            ..Header::new(opcode)
        })
    }

    fn ask_about(&mut self, id: OpId, opcode: Opcode, run: Option<Run>, turn: &mut Turn<'_, impl Buffers>) -> bool {
        let peer = self.resync.visits.get(id).and_then(|visit| self.resync.sweeps.get(visit.sweep)?.other);
        let (Some(header), Some((_, peer))) = (self.header_about(id, opcode, run), peer) else { return false };
        self.ask_other(Owner::Visit(id), peer, header, None, turn)
    }

    /// Compares the two lists.
    fn decide(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.get(id) else { return };
        let Some(sweep) = self.resync.sweeps.get(visit.sweep) else { return };
        let (need, pool) = (sweep.need, sweep.pool);
        let unsettled = |held: Option<super::list::Held>| held.is_some_and(|held| held.unsettled);
        let decision = match need {
            Need::Repair => match visit.damaged {
                None => return self.step_to(id, Step::Checking, turn),
                Some(damaged) => decide::repair(&visit.own, &visit.other, &damaged),
            },
            Need::Join if visit.own_damaged => Decision::quarantine_other(self.view.next_sequence(pool, visit.shard)),
            Need::Join if !visit.own_held && visit.other_held && !bugs::is(Bug::TrimWhileAwayForgotten) => {
                return self.step_to(id, Step::FreeOther, turn);
            }
            Need::Join if !visit.own_held => return self.end_visit(id, turn),
            Need::Join => {
                let complete = super::list::complete(&self.view, pool, visit.shard, sweep.other.map(|(member, _)| member.device));
                let must_take = visit.other_held && unsettled(visit.seen.other);
                let decision = decide::join(&visit.own, &visit.other, complete, must_take);
                // Blocks that are lost here must not read as zeroes there.
                if decision.other.is_none() || (!visit.other_held && decision.runs.is_empty() && decision.lost == 0) {
                    return self.end_visit(id, turn);
                }
                decision
            }
            Need::Pair if visit.own_damaged => {
                // The other copy settles alone, and this one joins it. Were the extent freed here, nobody could tell it from
                // one that was trimmed.
                let (sweep, shard) = (visit.sweep, visit.shard);
                turn.out.push(Effect::Event(Event::ExtentGivenUp { key: visit.key }));
                self.break_pair(pool, shard, Broken::Own);
                return self.give_up(sweep, PAUSE, turn);
            }
            Need::Pair | Need::Alone if !visit.own_held && !visit.other_held => return self.end_visit(id, turn),
            Need::Pair | Need::Alone => {
                let Some(version) = self.new_version(id, turn) else { return };
                let Some(visit) = self.resync.visits.get(id) else { return };
                let entry = self.view.entry(pool, visit.shard).copied().unwrap_or_default();
                let (own, other) = self.members_of(visit);
                let lost = |member: Option<Member>| member.is_some_and(|member| entry.has_lost_cache(member));
                if need == Need::Alone {
                    decide::alone(&visit.own, version)
                } else {
                    let own = decide::Party { list: &visit.own, cache_lost: lost(own), unsettled: unsettled(visit.seen.own) };
                    let other = decide::Party { list: &visit.other, cache_lost: lost(other), unsettled: unsettled(visit.seen.other) };
                    decide::pair(&own, &other, version)
                }
            }
        };
        if let Some(visit) = self.resync.visits.get_mut(id) {
            visit.decision = Some(Box::new(decision));
        }
        self.step_to(id, Step::Fetching(0), turn);
    }

    /// Our member of a visit's shard, and the other one.
    fn members_of(&self, visit: &Visit) -> (Option<Member>, Option<Member>) {
        let sweep = self.resync.sweeps.get(visit.sweep);
        (sweep.and_then(|sweep| self.own_member(sweep.slot)), sweep.and_then(|sweep| sweep.other).map(|(other, _)| other))
    }

    /// A sequence for the outcomes of a visit; `None` while the device's ceiling is being raised.
    fn new_version(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) -> Option<ShardSequence> {
        let visit = self.resync.visits.get(id)?;
        let (shard, sweep) = (visit.shard, self.resync.sweeps.get(visit.sweep)?);
        let (pool, slot) = (sweep.pool, sweep.slot);
        let version = self.take_sequence_of(pool, shard, slot, turn);
        match (version, self.view.pair_mut(pool, shard)) {
            (None, _) => self.stall_visit(id, turn),
            // No write has this number: it is over for those that count writes.
            (Some(version), Some(pair)) => pair.window.resolve(version),
            (Some(_), None) => {}
        }
        version
    }

    /// Hands a copy its plan, in the order that a crash allows.
    fn give_plan(&mut self, id: OpId, place: u8, turn: &mut Turn<'_, impl Buffers>) {
        if place == 0 {
            self.tell_doubt(id, turn);
        }
        let Some(visit) = self.resync.visits.get(id) else { return };
        let (Some(sweep), Some(decision)) = (self.resync.sweeps.get(visit.sweep), visit.decision.as_deref()) else { return };
        // Whoever keeps the extent in the exchange until its own plan: it has it unsettled, or did not have it.
        let keeps = |held: Option<super::list::Held>, is_held: bool| !is_held || held.is_some_and(|held| held.unsettled);
        let other_first = keeps(visit.seen.own, visit.own_held) && !keeps(visit.seen.other, visit.other_held);
        let (slot, other, key, owner) = (sweep.slot, sweep.other, visit.key, Owner::Visit(id));
        let to_own = match place {
            0 => !other_first,
            1 => other_first,
            _ => return self.end_visit(id, turn),
        };
        let Some(plan) = (if to_own { &decision.own } else { &decision.other }) else {
            return self.step_to(id, Step::Plan(place + 1), turn);
        };
        let Some(buffer) = turn.buffers.allocate(BufferClass::Internal, PLAN_BYTES) else { return self.stall_visit(id, turn) };
        let span = Span::whole(buffer, PLAN_BYTES);
        encode_plan(plan, turn.buffers.bytes_mut(span));
        let asked = match (to_own, other) {
            (true, _) => self.ask_own_with(owner, slot, span, |span| store::Request::Settle { key, span }, turn),
            (false, Some((_, peer))) => {
                let checksums = ChecksumList::of_blocks(turn.buffers.bytes(span));
                match self.header_about(id, Opcode::Settle, None) {
                    Some(header) => self.ask_other(owner, peer, header, Some((span, checksums)), turn),
                    None => unreachable!("the visit is there"),
                }
            }
            (false, None) => unreachable!("who is alone has no plan for another"),
        };
        if let Some(visit) = self.resync.visits.get_mut(id) {
            visit.asking = asked;
        }
        if !asked {
            self.resync.retry_by(turn.now.plus(RETRY));
        }
    }

    /// Says, once, what is about to be settled in doubt: a plan that has been handed out is carried out whatever becomes of the visit.
    fn tell_doubt(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.get_mut(id) else { return };
        let is_repair = self.resync.sweeps.get(visit.sweep).is_some_and(|sweep| sweep.need == Need::Repair);
        let Some(decision) = visit.decision.as_deref().filter(|_| !is_repair) else { return };
        let (key, unrecorded, lost) = (visit.key, decision.unrecorded, decision.lost);
        if unrecorded + lost > 0 && !core::mem::replace(&mut visit.told, true) {
            self.resync.counts.unrecorded += u64::from(unrecorded);
            self.resync.counts.lost += u64::from(lost);
            turn.out.push(Effect::Event(Event::SettledInDoubt { key, unrecorded, lost }));
        }
    }

    /// Our store has answered a visit.
    pub(super) fn visit_answered_own(
        &mut self,
        id: OpId,
        result: Result<Outcome, StoreError>,
        span: Option<Span>,
        turn: &mut Turn<'_, impl Buffers>,
    ) {
        let Some(visit) = self.resync.visits.get_mut(id) else { return };
        visit.asking = false;
        let (sweep, step, shard) = (visit.sweep, visit.step, visit.shard);
        match (step, result) {
            (_, Err(StoreError::Busy)) => self.stall_visit(id, turn),
            (Step::OwnBlocks, Ok(Outcome::Blocks { held })) => {
                let Some(Ok(list)) = span.map(|span| decode_list(turn.buffers.bytes(span))) else {
                    unreachable!("our own store writes block lists")
                };
                (visit.own, visit.own_held) = (list, held);
                self.step_to(id, Step::OtherBlocks, turn);
            }
            (Step::OwnBlocks, Err(StoreError::Descriptor)) => {
                visit.own_damaged = true;
                self.step_to(id, Step::OtherBlocks, turn);
            }
            (Step::Fetching(at), Ok(Outcome::Read { checksums, .. })) => self.fetched(id, at, span, &checksums, turn),
            (Step::Fetching(at), Err(_)) => self.not_fetched(id, at, None, turn),
            (Step::Checking, result) => self.checked(id, result, turn),
            (Step::Placing(at), Ok(Outcome::Done)) => self.step_to(id, Step::Fetching(at + 1), turn),
            (Step::Placing(_), Err(StoreError::NoSpace)) => {
                // What was freed here was not there, and something else has its place. The other copy has room for what it
                // has: it goes on alone, and this one joins it.
                if let Some(pool) = self.resync.sweeps.get(sweep).filter(|sweep| sweep.need == Need::Pair).map(|sweep| sweep.pool) {
                    self.break_pair(pool, shard, Broken::Own);
                }
                self.tell_refused(sweep, Status::NoSpace, turn);
                self.give_up(sweep, PAUSE_LONG, turn);
            }
            (Step::Plan(place), Ok(Outcome::Done)) => self.step_to(id, Step::Plan(place + 1), turn),
            (_, Ok(_) | Err(_)) => {
                self.tell_refused(sweep, Status::DeviceFailed, turn);
                self.give_up(sweep, PAUSE_LONG, turn);
            }
        }
    }

    /// The other copy has answered a visit, and it was fine.
    pub(super) fn visit_answered_other(&mut self, id: OpId, frame: &Frame, span: Option<Span>, turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.get_mut(id) else { return };
        visit.asking = false;
        let sweep = visit.sweep;
        match (visit.step, frame.header.opcode) {
            (Step::OtherBlocks, Opcode::BlocksReply) => {
                match span.map(|span| decode_list(turn.buffers.bytes(span))) {
                    Some(Ok(list)) => (visit.other, visit.other_held) = (list, true),
                    Some(Err(_)) => return self.give_up(sweep, PAUSE_LONG, turn),
                    None => (visit.other, visit.other_held) = (not_held(), false),
                }
                self.step_to(id, Step::Deciding, turn);
            }
            (Step::Fetching(at), Opcode::MediumReply) => match frame.body {
                crate::wire::Body::Payload { checksums, .. } => self.fetched(id, at, span, &checksums, turn),
                crate::wire::Body::Empty | crate::wire::Body::Hello(_) => self.give_up(sweep, PAUSE_LONG, turn),
            },
            (Step::Placing(at), Opcode::ResyncReply) => self.step_to(id, Step::Fetching(at + 1), turn),
            (Step::Plan(place), Opcode::ResyncReply) => self.step_to(id, Step::Plan(place + 1), turn),
            (Step::FreeOther, Opcode::ResyncReply) => {
                visit.other_held = false;
                visit.other = not_held();
                self.step_to(id, Step::Deciding, turn);
            }
            (
                Step::Locking
                | Step::OwnBlocks
                | Step::OtherBlocks
                | Step::Checking
                | Step::Deciding
                | Step::Fetching(_)
                | Step::Placing(_)
                | Step::Plan(_)
                | Step::FreeOther,
                _,
            ) => self.give_up(sweep, PAUSE_LONG, turn),
        }
    }

    /// The other copy cannot say what it holds. A joiner's is freed, and given what we have; a member gives the shard up by itself
    /// ([`Replica::cannot_settle`]). `false` when that was not asked.
    pub(super) fn other_is_damaged(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) -> bool {
        let Some(visit) = self.resync.visits.get(id).filter(|visit| visit.step == Step::OtherBlocks) else { return false };
        let (key, sweep) = (visit.key, visit.sweep);
        match self.resync.sweeps.get(sweep).map(|sweep| sweep.need) {
            Some(Need::Join) => {
                turn.out.push(Effect::Event(Event::ExtentGivenUp { key }));
                self.step_to(id, Step::FreeOther, turn);
            }
            Some(Need::Pair | Need::Alone | Need::Repair) | None => self.give_up(sweep, PAUSE, turn),
        }
        true
    }

    /// A run's bytes are here: to where they lack, if they are what they were said to be.
    fn fetched(&mut self, id: OpId, at: usize, span: Option<Span>, checksums: &ChecksumList, turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.get(id) else { return };
        let (Some(decision), Some(sweep)) = (visit.decision.as_deref(), self.resync.sweeps.get(visit.sweep)) else { return };
        let (Some(run), Some(span)) = (decision.runs.get(at).copied(), span) else { return };
        let wanted = decision.checksums.iter().skip(usize::from(run.first)).take(usize::from(run.count));
        if checksums.len() != usize::from(run.count) || !checksums.as_slice().iter().eq(wanted) {
            return self.not_fetched(id, at, Some(checksums), turn);
        }
        let (key, slot, other, owner) = (visit.key, sweep.slot, sweep.other, Owner::Visit(id));
        let version = Version { sequence: run.version, epoch: visit.epoch };
        turn.buffers.retain(span.buffer);
        let asked = match (run.from_own, other) {
            (true, Some((_, peer))) => {
                self.resync.counts.bytes_sent += u64::from(span.len);
                let sweep = visit.sweep;
                if let Some(sweep) = self.resync.sweeps.get_mut(sweep) {
                    sweep.sent += u64::from(span.len);
                }
                match self.header_about(id, Opcode::Copy, Some(run)) {
                    Some(header) => self.ask_other(owner, peer, header, Some((span, *checksums)), turn),
                    None => unreachable!("the visit is there"),
                }
            }
            (true, None) => unreachable!("who is alone copies nothing"),
            (false, _) => {
                self.resync.counts.bytes_taken += u64::from(span.len);
                let (range, checksums) = (range_of(run), *checksums);
                // A copy in sync that takes what it lacks of its own records takes no plan: nothing would let it go.
                let bond = if decision.own.is_some() { Bond::Settling } else { Bond::None };
                let write = |span| store::Request::Write { key, range, span, checksums, version, durable: false, bond };
                self.ask_own_with(owner, slot, span, write, turn)
            }
        };
        if let Some(visit) = self.resync.visits.get_mut(id) {
            visit.step = Step::Placing(at);
            visit.asking = asked;
        }
        if !asked {
            self.resync.retry_by(turn.now.plus(RETRY));
        }
    }

    /// For a repair only: the other copy's device cannot read what it was asked for. It is asked for less, down to a block; what it cannot read is
    /// lost there, too. `false` when that was not asked.
    pub(super) fn other_cannot_read(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) -> bool {
        let Some(visit) = self.resync.visits.get(id) else { return false };
        let is_repair = self.resync.sweeps.get(visit.sweep).is_some_and(|sweep| sweep.need == Need::Repair);
        let Step::Fetching(at) = visit.step else { return false };
        if !is_repair || visit.decision.as_deref().and_then(|decision| decision.runs.get(at)).is_none_or(|run| run.from_own) {
            return false;
        }
        self.not_fetched(id, at, None, turn);
        true
    }

    /// A run's bytes cannot be had, or are others (`found`): for each block of which that is so, as if that copy had none.
    fn not_fetched(&mut self, id: OpId, at: usize, found: Option<&ChecksumList>, turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.get_mut(id) else { return };
        let Some(decision) = visit.decision.as_deref_mut() else { return };
        let Some(run) = decision.runs.get(at).copied() else { return };
        if found.is_none() && run.count > 1 {
            decision.split(at);
            return self.step_to(id, Step::Fetching(at), turn);
        }
        let list = if run.from_own { &mut visit.own } else { &mut visit.other };
        let first = usize::from(run.first);
        for block in first..first + usize::from(run.count) {
            let is_right = found.is_some_and(|found| found.as_slice().get(block - first) == Some(&decision.checksums[block]));
            if !is_right {
                decide::spoil(list, block);
                visit.spoilt += 1;
            }
        }
        visit.decision = None;
        let sweep = visit.sweep;
        // Each block of each copy at most once.
        if visit.spoilt > 2 * BLOCKS_PER_EXTENT {
            return self.give_up(sweep, PAUSE_LONG, turn);
        }
        self.step_to(id, Step::Deciding, turn);
    }

    /// Our blocks as they are on the medium, for a repair.
    fn checked(&mut self, id: OpId, result: Result<Outcome, StoreError>, turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.get_mut(id) else { return };
        let Some((_, range)) = self.resync.sweeps.get(visit.sweep).and_then(|sweep| sweep.repair) else { return };
        let mut damaged = BlockSet::default();
        for (place, block) in (0..range.count).filter_map(|place| Some((place, range.first.get().checked_add(u8::try_from(place).ok()?)?)))
        {
            let info = visit.own[usize::from(block)].info;
            let found = match &result {
                Ok(Outcome::Read { checksums, .. }) => checksums.as_slice().get(usize::from(place)).copied(),
                // Which of them cannot be read is not known.
                Ok(_) | Err(_) => None,
            };
            if info.content == Content::Data && found != Some(info.checksum) {
                damaged.insert(block);
            }
        }
        visit.damaged = Some(damaged);
        self.step_to(id, Step::Deciding, turn);
    }

    fn end_visit(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.get(id) else { return };
        let (sweep, key) = (visit.sweep, visit.key);
        let is_repair = self.resync.sweeps.get(sweep).is_some_and(|sweep| sweep.need == Need::Repair);
        if let (true, Some(decision)) = (is_repair, visit.decision.as_deref()) {
            let blocks = decision.runs.iter().map(|run| u32::from(run.count)).sum::<u32>();
            self.resync.counts.repaired += u64::from(blocks);
            turn.out.push(Effect::Event(Event::Repaired { key, blocks, lost: decision.lost }));
        }
        let helps =
            self.resync.visits.get(id).and_then(|visit| visit.decision.as_deref()).is_some_and(|decision| !decision.runs.is_empty());
        if let Some(sweep) = self.resync.sweeps.get_mut(sweep) {
            sweep.helped |= helps;
            sweep.pending.remove(&key);
            assert!(sweep.step == SweepStep::Visiting, "visits are of sweeps that visit");
            if sweep.need == Need::Join {
                self.devices.compared(sweep.slot, key, turn);
            }
        }
        self.drop_visit(id, turn);
        self.begin_visits(sweep, turn);
    }

    /// Forgets a visit, whatever it was at.
    pub(super) fn drop_visit(&mut self, id: OpId, _turn: &mut Turn<'_, impl Buffers>) {
        let Some(visit) = self.resync.visits.remove(id) else { return };
        self.drop_asks(Owner::Visit(id), visit.lock);
    }
}

fn range_of(run: Run) -> BlockRange {
    BlockRange { first: BlockIndex::new(run.first), count: run.count }
}
