//! Making two copies one again: settling after restarts, bringing a joiner up to date, settling alone.
//!
//! One [`Sweep`] for a device of ours and one other copy's device takes all shards that need the same: both sides list
//! their extents ([`list`]), what has to be looked at is visited extent by extent ([`visit`], [`decide`]), and a
//! joiner is then flushed and proposed ([`grow`]). Questions to stores and peers, and their answers: [`ask`]. Settling
//! is driven by the primary; the other side only answers ([`serve`]).
//!
//! Invariants: a shard with unsettled extents serves nobody (I8); a joiner is given every write from the moment its
//! extent has been visited, and no acknowledgement misses it from before its proposal until another epoch (I4); a
//! sweep that meets a change of configuration, a lost link or a refusal is given up whole and begun anew: what it
//! has done so far is right by itself.
//!
//! Must not know: how the bytes of an extent are kept.

pub(super) mod ask;
mod decide;
mod grow;
pub(super) mod list;
mod repair;
mod serve;
mod visit;

use super::interface::{DeviceSlot, Event};
use super::peer::PeerIndex;
use super::status::ResyncCounts;
use super::view::pair::JoinStage;
use super::{Phase, Replica, Turn};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::collections::{Map, OpId, Set, SlotTable};
use crate::id::{Epoch, PoolId, ShardId};
use crate::map::Member;
use crate::store::interface::{BlockRange, ExtentKey};
use crate::unit::Nanos;
use ask::Ask;
use std::collections::VecDeque;
use visit::Visit;

/// Most extents being visited at once.
pub(super) const VISITS_MAX: usize = 16;
/// Most sweeps at once; more wait.
const SWEEPS_MAX: usize = 1024;
/// Questions at once: one a visit, one a sweep, and those of visits and sweeps that are gone.
const ASKS_MAX: usize = 2 * (VISITS_MAX + SWEEPS_MAX);
/// Most questions of sweeps in a device's store at once.
pub(super) const ASKS_PER_STORE_MAX: usize = VISITS_MAX + 1;
/// Pause before a sweep that was given up is begun anew.
const PAUSE: Nanos = Nanos::from_millis(100);
/// The same after a refusal that will not go away soon.
const PAUSE_LONG: Nanos = Nanos::from_millis(2000);
/// Pause before a step that lacked memory, a sequence, or the other's readiness is tried again.
const RETRY: Nanos = Nanos::from_millis(10);

/// What shards of a sweep need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Need {
    /// The only copy has restarted.
    Alone,
    /// Both copies have restarted, or have never met.
    Pair,
    /// The other copy joins.
    Join,
    /// Some blocks here are damaged, and the other copy has them.
    Repair,
}

/// A shard that needs something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needy {
    pub(super) need: Need,
    pub(super) slot: DeviceSlot,
    pub(super) other: Option<(Member, PeerIndex)>,
    pub(super) pool: PoolId,
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
}

/// How far a sweep is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The other copy lists its extents, from this slot of its device on.
    ListOther { from: u64 },
    /// Ours are listed.
    ListOwn { from: u32 },
    /// Extents are visited.
    Visiting,
    /// All is the same; the joiner makes it durable.
    Flushing,
}

/// What the lists said of an extent.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    own: Option<list::Held>,
    other: Option<list::Held>,
}

/// The shards of one device that need the same with one other.
#[derive(Debug)]
struct Sweep {
    need: Need,
    slot: DeviceSlot,
    other: Option<(Member, PeerIndex)>,
    pool: PoolId,
    shards: Map<ShardId, Epoch>,
    step: Step,
    seen: Map<ExtentKey, Seen>,
    /// Extents written to while the lists were made.
    touched: Set<ExtentKey>,
    work: VecDeque<(ExtentKey, Seen)>,
    /// Those of `work`, and those being visited: writes to them do not go to the joiner yet.
    pending: Set<ExtentKey>,
    /// A question of the sweep itself is out.
    asking: bool,
    /// Bytes given to the other copy.
    sent: u64,
    /// What is to be repaired, of the one extent.
    repair: Option<(ExtentKey, BlockRange)>,
    /// The other copy had something that was wanted.
    helped: bool,
}

impl Sweep {
    /// What is to be told at its end.
    fn done(&self) -> Event {
        let other = self.other.map(|(member, _)| member.device);
        Event::Resynced { slot: self.slot, other, shards: self.shards.len(), bytes: self.sent }
    }
}

/// All sweeps of a node.
#[derive(Debug)]
pub(super) struct Resync {
    sweeps: SlotTable<Sweep>,
    visits: SlotTable<Visit>,
    asks: SlotTable<Ask>,
    /// Not before then is a sweep begun.
    begin_at: Nanos,
    /// When something that could not go on is tried again.
    retry_at: Nanos,
    /// Something has changed that may allow or need a sweep.
    look: bool,
    /// Joiners that have come apart from their primary's copy.
    pub(super) refused: Vec<PeerIndex>,
    pub(super) counts: ResyncCounts,
}

impl Resync {
    pub(super) fn new() -> Self {
        Self {
            sweeps: SlotTable::with_capacity(SWEEPS_MAX),
            visits: SlotTable::with_capacity(VISITS_MAX),
            asks: SlotTable::with_capacity(ASKS_MAX),
            begin_at: Nanos::ZERO,
            retry_at: Nanos::NEVER,
            look: false,
            refused: Vec::new(),
            counts: ResyncCounts::default(),
        }
    }

    /// When time alone changes something.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        (self.retry_at < Nanos::NEVER).then_some(self.retry_at)
    }

    /// Something has changed that a sweep may depend on.
    pub(super) fn look_soon(&mut self) {
        self.look = true;
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.asks.is_empty()
    }

    /// How many sweeps there are.
    pub(super) fn sweeps_under_way(&self) -> usize {
        self.sweeps.iter().count()
    }

    /// Shards that some sweep is about.
    pub(super) fn shards_under_way(&self) -> impl Iterator<Item = (PoolId, ShardId)> {
        self.sweeps.iter().flat_map(|(_, sweep)| sweep.shards.keys().map(|shard| (sweep.pool, *shard)))
    }

    fn retry_by(&mut self, at: Nanos) {
        self.retry_at = self.retry_at.min(at);
    }

    fn find(&self, need: Need, slot: DeviceSlot, other: Option<Member>) -> Option<OpId> {
        let matches = |sweep: &Sweep| sweep.need == need && sweep.slot == slot && sweep.other.map(|(member, _)| member) == other;
        self.sweeps.iter().find(|(_, sweep)| matches(sweep)).map(|(id, _)| id)
    }

    /// Whether a write to an extent of a joining shard goes to the joiner, too: its extent has been visited.
    pub(super) fn goes_to_joiner(&mut self, slot: DeviceSlot, joiner: Member, shard: ShardId, key: ExtentKey) -> bool {
        let Some(id) = self.find(Need::Join, slot, Some(joiner)) else { return false };
        let Some(sweep) = self.sweeps.get_mut(id).filter(|sweep| sweep.shards.contains_key(&shard)) else { return false };
        match sweep.step {
            Step::ListOther { .. } | Step::ListOwn { .. } => {
                sweep.touched.insert(key);
                false
            }
            Step::Visiting => !sweep.pending.contains(&key) && !bugs::is(Bug::JoinerNotWritten),
            Step::Flushing => true,
        }
    }
}

impl Replica {
    /// Begins sweeps that are needed and possible, and goes on with what had to wait. `false` when nothing was done.
    pub(super) fn tend_resync(&mut self, turn: &mut Turn<'_, impl Buffers>) -> bool {
        if turn.now >= self.resync.retry_at {
            self.resync.retry_at = Nanos::NEVER;
            self.resync.look = true;
            self.retry_visits(turn);
            self.retry_sweeps(turn);
        }
        if !self.resync.look {
            return false;
        }
        self.resync.look = false;
        for peer in core::mem::take(&mut self.resync.refused) {
            self.abandon_sweeps(peer, turn);
        }
        if self.phase != Phase::Running {
            return false;
        }
        if turn.now < self.resync.begin_at {
            let at = self.resync.begin_at;
            self.resync.retry_by(at);
            return false;
        }
        if self.resync.has_orphans() {
            self.resync.retry_by(turn.now.plus(RETRY));
            return false;
        }
        self.begin_sweeps(turn);
        true
    }

    fn begin_sweeps(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let mut groups: Vec<Needy> = self.view.needy().filter(|needy| self.may_sweep(needy)).collect();
        groups.sort_unstable_by_key(|needy| (needy.slot, needy.need, needy.other.map(|(member, _)| member), needy.pool, needy.shard));
        let same = |a: &Needy, b: &Needy| (a.slot, a.need, a.other, a.pool) == (b.slot, b.need, b.other, b.pool);
        for group in groups.chunk_by(same) {
            let first = group[0];
            if self.resync.sweeps.is_full() || self.resync.find(first.need, first.slot, first.other.map(|(member, _)| member)).is_some() {
                continue;
            }
            let touched = if first.need == Need::Join { self.under_way(group) } else { Set::default() };
            let sweep = Sweep {
                need: first.need,
                slot: first.slot,
                other: first.other,
                pool: first.pool,
                shards: group.iter().map(|needy| (needy.shard, needy.epoch)).collect(),
                step: if first.other.is_some() { Step::ListOther { from: 0 } } else { Step::ListOwn { from: 0 } },
                seen: Map::default(),
                touched,
                work: VecDeque::new(),
                pending: Set::default(),
                asking: false,
                sent: 0,
                repair: None,
                helped: false,
            };
            let Ok(id) = self.resync.sweeps.insert(sweep) else { unreachable!("looked at above") };
            self.resync.counts.begun += 1;
            if first.need == Need::Join {
                self.set_join_stage(id, JoinStage::Sweeping);
            }
            self.go_on(id, turn);
        }
    }

    /// Extents with writes that went out before the joiner was to be given any: no list knows of them yet.
    fn under_way(&self, group: &[Needy]) -> Set<ExtentKey> {
        let numbered =
            self.requests.iter().map(|(_, request)| request).filter(|request| request.kind.changes() && request.version.is_some());
        let routes = numbered.filter_map(|request| request.route);
        let joins = |pool, shard| group.iter().any(|needy| (needy.pool, needy.shard) == (pool, shard));
        routes.filter(|route| joins(route.pool, route.shard)).map(|route| route.key).collect()
    }

    fn may_sweep(&self, needy: &Needy) -> bool {
        let is_open = self.devices.get(needy.slot).is_some_and(super::devices::Device::is_open);
        is_open && needy.other.is_none_or(|(_, peer)| self.peers.get(peer).is_ready())
    }

    /// Does a sweep's next step.
    fn go_on(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(sweep) = self.resync.sweeps.get(id) else { return };
        if sweep.asking {
            return;
        }
        match sweep.step {
            Step::ListOther { from } => self.list_other(id, from, turn),
            Step::ListOwn { from } => self.list_own(id, from, turn),
            Step::Visiting => self.begin_visits(id, turn),
            Step::Flushing => self.flush_joiner(id, turn),
        }
    }

    fn retry_sweeps(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let waiting: Vec<OpId> = self.resync.sweeps.iter().filter(|(_, sweep)| !sweep.asking).map(|(id, _)| id).collect();
        for id in waiting {
            self.go_on(id, turn);
        }
    }

    /// Gives a sweep up; it is begun anew after `pause`, if it is still needed.
    fn give_up(&mut self, id: OpId, pause: Nanos, turn: &mut Turn<'_, impl Buffers>) {
        self.set_join_stage(id, if bugs::is(Bug::InterruptedResyncCounts) { JoinStage::Proposed } else { JoinStage::Apart });
        if self.end_sweep(id, turn) {
            self.resync.begin_at = self.resync.begin_at.max(turn.now.plus(pause));
            self.resync.look = true;
            // A joiner that is not needed any more is not flushed any more.
            self.drop_flushes_of_former_partners(turn);
            self.progress_all(turn);
        }
    }

    /// Takes a sweep out, with its visits and questions; `false` when there is none.
    fn end_sweep(&mut self, id: OpId, turn: &mut Turn<'_, impl Buffers>) -> bool {
        if self.resync.sweeps.remove(id).is_none() {
            return false;
        }
        let visits: Vec<OpId> = self.resync.visits.iter().filter(|(_, visit)| visit.sweep == id).map(|(visit, _)| visit).collect();
        for visit in visits {
            self.drop_visit(visit, turn);
        }
        self.drop_asks(ask::Owner::Sweep(id), None);
        true
    }

    /// The view has changed: sweeps of shards that stand otherwise now are given up.
    pub(super) fn check_sweeps(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let view = &self.view;
        let stands = |sweep: &Sweep| sweep.shards.iter().all(|(shard, epoch)| view.epoch(sweep.pool, *shard) == *epoch);
        let fallen: Vec<OpId> = self.resync.sweeps.iter().filter(|(_, sweep)| !stands(sweep)).map(|(id, _)| id).collect();
        for id in fallen {
            self.give_up(id, Nanos::ZERO, turn);
        }
        self.resync.look = true;
    }

    /// The server stops.
    pub(super) fn end_sweeps(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        let all: Vec<OpId> = self.resync.sweeps.iter().map(|(id, _)| id).collect();
        for id in all {
            self.give_up(id, Nanos::ZERO, turn);
        }
    }

    /// A peer's link is gone or it has gone quiet: what was being done with it is given up.
    pub(super) fn abandon_sweeps(&mut self, peer: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let with = |sweep: &Sweep| sweep.other.is_some_and(|(_, other)| other == peer);
        let lost: Vec<OpId> = self.resync.sweeps.iter().filter(|(_, sweep)| with(sweep)).map(|(id, _)| id).collect();
        for id in lost {
            self.give_up(id, PAUSE, turn);
        }
    }

    fn set_join_stage(&mut self, id: OpId, stage: JoinStage) {
        let Some(sweep) = self.resync.sweeps.get(id).filter(|sweep| sweep.need == Need::Join) else { return };
        for (shard, epoch) in &sweep.shards {
            self.view.set_join_stage(sweep.pool, *shard, *epoch, stage);
        }
        self.view.find_partners();
    }
}
