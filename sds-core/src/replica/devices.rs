//! The devices of this node and the stores that run them.
//!
//! A store is stepped in the same turn as whatever made it necessary; what it says comes back through
//! one queue ([`Devices::next`]), so no store ever calls into the node.
//! Invariants: a store never has more requests than it was opened for, with some kept for the node's
//! own; sequences are given out only below a durably reserved ceiling.
//!
//! Must not know: clients, sessions, epochs.

use super::Turn;
use super::admit::{DeviceTable, Serving};
use super::interface::{DeviceSlot, Effect, Event};
use super::resync::ASKS_PER_STORE_MAX;
use super::status::{DeviceStatus, RECENT_FAULTS_MAX};
use crate::buffer::Buffers;
use crate::collections::{Map, OpId};
use crate::control::DeviceState;
use crate::id::{BootId, DeviceId, DeviceUuid, ShardSequence, SystemId, TreeId, Version};
use crate::limits::{DEVICES_PER_SDS_MAX, SEQUENCE_RESERVATION};
use crate::machine::{DiskResult, Outbox, Token};
use crate::store::Store;
use crate::store::interface as store;
use crate::store::interface::ExtentKey;
use crate::unit::Nanos;
use crate::wire::CacheId;
use std::collections::VecDeque;

/// Requests of each store kept for the node's own errands: one of each [`Errand`], and questions of resyncs.
const ERRANDS_MAX: usize = 4 + ASKS_PER_STORE_MAX;

/// What the node itself asks of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Settle what recovery left unsettled, from this copy alone.
    Settle,
    /// Raise the sequence ceiling.
    Reserve,
    /// Free the extents of a deleted tree, or make that durable.
    Free,
    /// Close the store.
    Close,
}

/// Whose request a store's reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client's request.
    Request(OpId),
    /// The node.
    Errand(Errand),
    /// A resync.
    Resync(OpId),
}

impl Asker {
    const ERRAND: u64 = 1 << OpId::BITS;
    const RESYNC: u64 = 2 << OpId::BITS;

    const fn token(self) -> Token {
        Token::new(match self {
            Self::Request(op) => op.bits(),
            Self::Errand(Errand::Settle) => Self::ERRAND,
            Self::Errand(Errand::Reserve) => Self::ERRAND + 1,
            Self::Errand(Errand::Free) => Self::ERRAND + 2,
            Self::Errand(Errand::Close) => Self::ERRAND + 3,
            Self::Resync(id) => Self::RESYNC + id.bits(),
        })
    }

    fn of(token: Token) -> Self {
        if token.get() >= Self::RESYNC {
            return Self::Resync(OpId::from_bits(token.get() - Self::RESYNC));
        }
        match token.get().checked_sub(Self::ERRAND) {
            None => Self::Request(OpId::from_bits(token.get())),
            Some(0) => Self::Errand(Errand::Settle),
            Some(1) => Self::Errand(Errand::Reserve),
            Some(2) => Self::Errand(Errand::Free),
            Some(3) => Self::Errand(Errand::Close),
            Some(other) => unreachable!("a store gives back the tokens it was given, not errand {other}"),
        }
    }
}

/// What a store says.
#[derive(Debug)]
pub(super) enum Saying {
    Reply { slot: DeviceSlot, asker: Asker, result: Result<store::Outcome, store::StoreError> },
    Event { slot: DeviceSlot, event: store::Event },
}

/// The life of a device in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Opening {
        done_per_mille: u16,
    },
    /// Recovered; whether it settles alone or with other copies is for the view to say.
    Recovered,
    Settling,
    Open,
    Closing,
    Closed,
    Failed {
        reason: String,
    },
}

/// How far a deleted tree's freeing has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freeing {
    /// Its extents are being freed.
    Extents(TreeId),
    /// The records of that are being made durable.
    Flush(TreeId),
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) slot: DeviceSlot,
    store: Store,
    boot: BootId,
    volatile_cache: bool,
    /// Most client requests in the store at once.
    requests_max: usize,
    /// Client requests in the store.
    submitted: usize,
    pub(super) state: State,
    pub(super) uuid: DeviceUuid,
    pub(super) system: SystemId,
    pub(super) id: Option<DeviceId>,
    /// Sequences below it may be given out.
    pub(super) ceiling: ShardSequence,
    /// The ceiling that is being reserved.
    pub(super) reserving: Option<ShardSequence>,
    /// Requests that the other copy has, and that go to the store before all others.
    pub(super) owed: VecDeque<OpId>,
    /// Requests that the store takes as soon as it has room.
    pub(super) queue: VecDeque<OpId>,
    /// Requests that wait for sequences.
    pub(super) unsequenced: VecDeque<OpId>,
    /// Deleted trees of which nothing is left here.
    pub(super) freed: Vec<TreeId>,
    pub(super) freeing: Option<Freeing>,
    /// Its store had unsettled extents, and they are settled shard by shard.
    pub(super) is_unsettled: bool,
    /// Extents that will be given their place here when the other copy has given them one, and for how many requests.
    promised: Map<ExtentKey, usize>,
    /// A disk request does not end ([`super::hang`]).
    pub(super) is_hung: bool,
    recent_faults: VecDeque<String>,
}

impl Device {
    /// Takes over whose device it is from a superblock that was found good although the rest cannot be
    /// used: what was on it is then known to be on a failed device.
    pub(super) fn identify(&mut self) {
        if let Some((uuid, system)) = self.store.identity() {
            (self.uuid, self.system) = (uuid, system);
        }
    }

    /// Whether it has failed for this process life.
    pub(super) fn is_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }

    /// Whether it serves.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// When its oldest disk request in flight was made.
    pub(super) fn oldest_disk_request(&self) -> Option<Nanos> {
        self.store.oldest_disk_request()
    }

    /// Whether the store takes another client request now.
    pub(super) const fn has_room(&self) -> bool {
        self.submitted < self.requests_max
    }

    /// A client request has come back from the store.
    pub(super) fn came_back(&mut self) {
        assert!(self.submitted > 0, "as many replies as requests");
        self.submitted -= 1;
    }

    /// What its acknowledgements rely on.
    pub(super) fn cache_id(&self) -> CacheId {
        CacheId { device: self.id.unwrap_or_default(), boot: if self.volatile_cache { fold(self.boot) } else { 0 } }
    }

    /// Whether an extent has its place here.
    pub(super) fn holds(&self, key: ExtentKey) -> bool {
        self.store.holds(key)
    }

    /// Whether there is a place for an extent that has none yet.
    pub(super) fn has_place_for(&self, key: ExtentKey) -> bool {
        self.promised.contains_key(&key) || (self.promised.len() as u64) < self.store.free_extents()
    }

    /// Keeps a place for a request's extent.
    pub(super) fn promise(&mut self, key: ExtentKey) {
        *self.promised.entry(key).or_default() += 1;
    }

    /// Gives back what [`Self::promise`] kept.
    pub(super) fn take_back_promise(&mut self, key: ExtentKey) {
        let Some(count) = self.promised.get_mut(&key) else { unreachable!("as many as were promised") };
        *count -= 1;
        if *count == 0 {
            self.promised.remove(&key);
        }
    }

    /// Keeps a fault for people to read.
    pub(super) fn note_fault(&mut self, text: String) {
        if self.recent_faults.len() == RECENT_FAULTS_MAX {
            self.recent_faults.pop_front();
        }
        self.recent_faults.push_back(text);
    }

    /// The ceiling to reserve next, if it is time: less than half a reservation is left above `next`.
    pub(super) fn ceiling_wanted(&self, next: ShardSequence) -> Option<ShardSequence> {
        let low = next.get().saturating_add(SEQUENCE_RESERVATION / 2) > self.ceiling.get();
        let wanted = next.get().max(self.ceiling.get()).saturating_add(SEQUENCE_RESERVATION);
        (low && self.reserving.is_none() && self.state == State::Open).then_some(ShardSequence::new(wanted))
    }

    pub(super) fn status(&self) -> DeviceStatus {
        let statistics = self.store.statistics();
        DeviceStatus {
            slot: self.slot,
            uuid: self.uuid,
            system: self.system,
            device: self.id,
            state: match &self.state {
                State::Opening { done_per_mille } => DeviceState::Opening { done_per_mille: *done_per_mille },
                State::Recovered | State::Settling | State::Open if self.is_hung => DeviceState::Hung,
                // Registered as open before it serves: only then is it known how it is to be settled.
                State::Recovered | State::Settling | State::Open => DeviceState::Open,
                State::Closing | State::Closed => DeviceState::Failed { reason: "the server is stopping".to_owned() },
                State::Failed { reason } => DeviceState::Failed { reason: reason.clone() },
            },
            capacity: statistics.capacity,
            sequence_ceiling: self.ceiling,
            cache: if self.volatile_cache { self.boot } else { BootId::default() },
            faults: statistics.faults,
            recent_faults: self.recent_faults.iter().cloned().collect(),
            statistics,
        }
    }
}

/// 64 bits of a boot id, never 0, which means "no volatile cache".
fn fold(boot: BootId) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "folding")]
    let folded = (boot.get() ^ (boot.get() >> 64)) as u64;
    folded.max(1)
}

/// All devices, by slot.
#[derive(Debug)]
pub(super) struct Devices {
    list: Vec<Option<Box<Device>>>,
    outbox: Outbox<store::Effect>,
    sayings: VecDeque<Saying>,
    requests_max: usize,
    /// After which a disk request hangs.
    pub(super) hang_after: Nanos,
    /// When one may.
    pub(super) hang_due: Nanos,
}

impl Devices {
    pub(super) fn new(requests_max: usize, hang_after: Nanos) -> Self {
        Self {
            hang_after,
            hang_due: Nanos::NEVER,
            list: Vec::with_capacity(DEVICES_PER_SDS_MAX),
            outbox: Outbox::new(),
            sayings: VecDeque::with_capacity(requests_max + 64),
            requests_max,
        }
    }

    /// Takes a device in and starts to open its store.
    pub(super) fn add(&mut self, slot: DeviceSlot, options: store::StoreOptions, turn: &mut Turn<'_, impl Buffers>) {
        let index = usize::from(slot.0);
        assert!(index < DEVICES_PER_SDS_MAX, "a server has at most {DEVICES_PER_SDS_MAX} devices");
        if self.list.len() <= index {
            self.list.resize_with(index + 1, || None);
        }
        assert!(self.list[index].is_none(), "a slot is given to one device in a process life");
        let device = Device {
            slot,
            boot: options.boot,
            volatile_cache: options.volatile_cache,
            requests_max: options.requests_max.saturating_sub(ERRANDS_MAX).max(1),
            submitted: 0,
            state: State::Opening { done_per_mille: 0 },
            uuid: DeviceUuid::default(),
            system: SystemId::default(),
            id: None,
            ceiling: ShardSequence::default(),
            reserving: None,
            owed: VecDeque::new(),
            queue: VecDeque::with_capacity(self.requests_max),
            unsequenced: VecDeque::with_capacity(self.requests_max),
            freed: Vec::new(),
            freeing: None,
            is_unsettled: false,
            promised: Map::default(),
            is_hung: false,
            recent_faults: VecDeque::new(),
            store: Store::new(options),
        };
        self.list[index] = Some(Box::new(device));
        self.step(slot, store::Input::Open, turn);
    }

    pub(super) fn get(&self, slot: DeviceSlot) -> Option<&Device> {
        self.list.get(usize::from(slot.0))?.as_deref()
    }

    pub(super) fn get_mut(&mut self, slot: DeviceSlot) -> Option<&mut Device> {
        self.list.get_mut(usize::from(slot.0))?.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.list.iter().filter_map(|device| device.as_deref())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Device> {
        self.list.iter_mut().filter_map(|device| device.as_deref_mut())
    }

    /// Slots in use, in order; by number, so that devices can be changed while going through them.
    pub(super) fn slots(&self) -> impl Iterator<Item = DeviceSlot> + use<> {
        #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
        (0..self.list.len() as u16).map(DeviceSlot)
    }

    /// A client's request to a store that has room for it.
    pub(super) fn submit(&mut self, slot: DeviceSlot, op: OpId, request: store::Request, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(device) = self.get_mut(slot) {
            assert!(device.has_room(), "callers look first");
            device.submitted += 1;
        }
        self.step(slot, store::Input::Request { token: Asker::Request(op).token(), request }, turn);
    }

    /// An errand of the node's own; never two of a kind at once on one device.
    pub(super) fn run(&mut self, slot: DeviceSlot, errand: Errand, request: store::Request, turn: &mut Turn<'_, impl Buffers>) {
        self.step(slot, store::Input::Request { token: Asker::Errand(errand).token(), request }, turn);
    }

    /// A question of a resync.
    pub(super) fn ask(&mut self, slot: DeviceSlot, id: OpId, request: store::Request, turn: &mut Turn<'_, impl Buffers>) {
        self.step(slot, store::Input::Request { token: Asker::Resync(id).token(), request }, turn);
    }

    /// Held writes of an extent are over, up to a version.
    pub(super) fn resolved(&mut self, slot: DeviceSlot, key: ExtentKey, version: Version, turn: &mut Turn<'_, impl Buffers>) {
        self.step(slot, store::Input::Resolved { key, version }, turn);
    }

    /// Another copy of something on a device is gone.
    pub(super) fn parted(&mut self, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) {
        self.step(slot, store::Input::Parted, turn);
    }

    /// An extent has been made the same on the other copy.
    pub(super) fn compared(&mut self, slot: DeviceSlot, key: ExtentKey, turn: &mut Turn<'_, impl Buffers>) {
        self.step(slot, store::Input::Compared { key }, turn);
    }

    /// A disk request ended.
    pub(super) fn disk(&mut self, slot: DeviceSlot, op: OpId, result: DiskResult, turn: &mut Turn<'_, impl Buffers>) {
        if self.get(slot).is_some_and(|device| device.is_hung) {
            self.hang_due = turn.now;
        }
        self.step(slot, store::Input::Disk { op, result }, turn);
    }

    /// Time has passed or buffers were freed.
    pub(super) fn wake(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        for slot in self.slots() {
            self.step(slot, store::Input::Wake, turn);
        }
    }

    /// The next thing a store has said.
    pub(super) fn next(&mut self) -> Option<Saying> {
        self.sayings.pop_front()
    }

    /// The earliest deadline of a store, or of a disk request.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let hang = Some(self.hang_due).filter(|due| *due < Nanos::NEVER);
        self.iter().filter_map(|device| device.store.deadline()).chain(hang).min()
    }

    /// Age of the oldest disk request in flight.
    pub(super) fn oldest_disk_request(&self, now: Nanos) -> Nanos {
        self.iter().filter_map(|device| device.store.oldest_disk_request()).min().map(|since| now.since(since)).unwrap_or_default()
    }

    fn step(&mut self, slot: DeviceSlot, input: store::Input, turn: &mut Turn<'_, impl Buffers>) {
        let Self { list, outbox, sayings, hang_after, hang_due, .. } = self;
        let Some(device) = list.get_mut(usize::from(slot.0)).and_then(|device| device.as_deref_mut()) else { return };
        device.store.step(turn.now, input, turn.buffers, outbox);
        if !outbox.is_empty() {
            *hang_due = (*hang_due).min(turn.now.plus(*hang_after));
        }
        for effect in outbox.drain() {
            match effect {
                store::Effect::Read { op, offset, span } => turn.out.push(Effect::DiskRead { slot, op, offset, span }),
                store::Effect::Write { op, offset, span, durable } => {
                    turn.out.push(Effect::DiskWrite { slot, op, offset, span, durable });
                }
                store::Effect::Flush { op } => turn.out.push(Effect::DiskFlush { slot, op }),
                store::Effect::Reply { token, result } => sayings.push_back(Saying::Reply { slot, asker: Asker::of(token), result }),
                store::Effect::Event(event) => sayings.push_back(Saying::Event { slot, event }),
            }
        }
    }
}

impl DeviceTable for Devices {
    fn slot_of(&self, device: DeviceId) -> Option<DeviceSlot> {
        self.iter().find(|candidate| candidate.id == Some(device)).map(|found| found.slot)
    }

    fn serving(&self, slot: DeviceSlot) -> Serving {
        let Some(device) = self.get(slot) else { return Serving::NotYet };
        match device.state {
            State::Opening { .. } | State::Recovered | State::Settling => Serving::NotYet,
            State::Open if device.is_hung => Serving::Hung { cache: device.cache_id() },
            State::Open => Serving::Yes { cache: device.cache_id() },
            State::Closing | State::Closed => Serving::Stopping,
            State::Failed { .. } => Serving::Failed,
        }
    }
}

/// Passes a store's event on to the shell.
pub(super) fn tell(slot: DeviceSlot, event: store::Event, out: &mut Outbox<Effect>) {
    out.push(Effect::Event(Event::Store { slot, event }));
}
