//! Repair on read: a block that is not what is recorded takes the bytes of the other copy, and whoever asked for it gets them.
//!
//! Invariant I12: only bytes that match what our own record says, at the same version, are taken.
//!
//! Must not know: how bytes are fetched and compared ([`super::visit`]).

use super::{Need, Replica, Seen, Step, Sweep};
use crate::buffer::Buffers;
use crate::collections::{Map, OpId, Set};
use crate::error::Status;
use crate::limits::REPAIRS_PER_READ_MAX;
use crate::replica::Turn;
use crate::replica::request::{Kind, Route};
use crate::replica::view::pair::{Broken, JoinStage, Pair, Side};
use crate::store::interface::{ExtentKey, StoreError};
use std::collections::VecDeque;

impl Replica {
    /// Whether a read that failed here may be answered after a repair from the other copy.
    pub(in crate::replica) fn may_repair(&self, op: OpId, error: StoreError) -> bool {
        let Some(request) = self.requests.get(op) else { return false };
        let Some(route) = request.route else { return false };
        let is_of_block = matches!(error, StoreError::Mismatch { .. } | StoreError::Device { .. });
        let reads = matches!(request.kind, Kind::Read | Kind::Fragment) && request.version.is_none() && request.link.is_some();
        let is_open = self.devices.get(route.slot).is_some_and(crate::replica::devices::Device::is_open);
        let pair = self.view.pair(route.pool, route.shard);
        // A joiner that was proposed has everything, and may have been taken in.
        let is_whole = |pair: &Pair| pair.joiner.is_none_or(|stage| stage == JoinStage::Proposed);
        let has_other = pair.is_some_and(|pair| pair.side == Side::Primary && is_whole(pair) && pair.broken.is_none());
        // What the other copy cannot help with is an error. But a repair that is under way is waited for.
        let may_help = request.repairs < REPAIRS_PER_READ_MAX || self.is_being_repaired(route.key);
        is_of_block && reads && is_open && has_other && may_help
    }

    /// Whether a read is for the other copy in sync to answer: nobody here knows any more what an extent holds, or a block of it is damaged while the shard
    /// is being given up anyway, and nothing is fetched any more.
    pub(in crate::replica) fn is_for_the_other(&self, op: OpId, error: StoreError) -> bool {
        let Some(request) = self.requests.get(op) else { return false };
        let reads = matches!(request.kind, Kind::Read | Kind::BlockStatus | Kind::Fragment) && request.version.is_none();
        let pair = request.route.and_then(|route| self.view.pair(route.pool, route.shard));
        let Some(pair) = pair.filter(|pair| pair.side == Side::Primary && pair.joiner.is_none()) else { return false };
        let is_damaged = matches!(error, StoreError::Mismatch { .. } | StoreError::Device { .. });
        let is_lost = error == StoreError::Descriptor || (is_damaged && pair.broken == Some(Broken::Own));
        is_lost && reads && request.link.is_some()
    }

    /// The other copy takes the shard over; this one joins it, and is given what it has lost.
    pub(in crate::replica) fn give_shard_up(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(route) = self.requests.get(op).and_then(|request| request.route) {
            self.break_pair(route.pool, route.shard, Broken::Own);
        }
        self.park(op, None, None, Status::NotReady, turn);
    }

    /// The other copy asks about an extent that nobody here can describe any more, or brings bytes for which there is no room: it goes on
    /// alone, and this one joins it. Who joins already is given the extent anew.
    pub(in crate::replica) fn cannot_settle(&mut self, op: OpId) {
        let Some(route) = self.requests.get(op).and_then(|request| request.route) else { return };
        if self.view.pair(route.pool, route.shard).is_some_and(|pair| pair.joiner.is_none()) {
            self.break_pair(route.pool, route.shard, Broken::Own);
        }
    }

    fn is_being_repaired(&self, key: ExtentKey) -> bool {
        self.resync.sweeps.iter().any(|(_, sweep)| sweep.need == Need::Repair && sweep.pending.contains(&key))
    }

    /// Puts a read aside until its blocks have been repaired.
    pub(in crate::replica) fn repair(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(route) = self.requests.get(op).and_then(|request| request.route) else { return };
        let is_under_way = self.is_being_repaired(route.key);
        let is_ready = self.view.pair(route.pool, route.shard).is_some_and(|pair| self.peers.get(pair.peer).is_ready());
        let begins = !is_under_way && is_ready && !self.resync.sweeps.is_full();
        // Of one that could not be begun, or is given up, nothing is remembered: it is tried again.
        // Without its lock, which the repair needs.
        self.park(op, None, None, Status::NotReady, turn);
        if begins {
            self.begin_repair(&route, turn);
        }
    }

    /// A repair has come to its end: what it could not help with is an error from now on.
    pub(super) fn repair_is_over(&mut self, id: OpId) {
        let Some(sweep) = self.resync.sweeps.get(id) else { return };
        let (Some(repaired), helped) = (sweep.repair, sweep.helped) else { return };
        let is_of_it = |route: Route| (route.key, route.range) == repaired;
        let waiting = self.requests.iter().filter(|(_, request)| request.route.is_some_and(is_of_it));
        let waiting: Vec<OpId> = waiting.map(|(op, _)| op).collect();
        for op in waiting {
            if let Some(request) = self.requests.get_mut(op) {
                // Another block of it may be damaged by the time it is read again.
                request.repairs = if helped { request.repairs.saturating_add(1) } else { REPAIRS_PER_READ_MAX };
            }
        }
    }

    fn begin_repair(&mut self, route: &Route, turn: &mut Turn<'_, impl Buffers>) {
        let Some(pair) = self.view.pair(route.pool, route.shard) else { return };
        let sweep = Sweep {
            need: Need::Repair,
            slot: route.slot,
            other: Some((pair.other, pair.peer)),
            pool: route.pool,
            shards: core::iter::once((route.shard, route.epoch)).collect(),
            step: Step::Visiting,
            seen: Map::default(),
            touched: Set::default(),
            work: VecDeque::from([(route.key, Seen::default())]),
            pending: core::iter::once(route.key).collect(),
            asking: false,
            sent: 0,
            repair: Some((route.key, route.range)),
            helped: false,
        };
        let Ok(id) = self.resync.sweeps.insert(sweep) else { unreachable!("looked at before") };
        self.begin_visits(id, turn);
    }
}
