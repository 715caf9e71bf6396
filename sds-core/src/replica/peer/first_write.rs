//! A write into an extent that has no place here yet: room on both copies, or on neither.
//!
//! A copy that is full refuses what needs a new place, before it changes anything. If the other copy had taken the write by then, one of them would have to
//! leave the set for want of space. So the primary keeps a place of its own and asks the other copy first; its own follows
//! when that has the write. Only the first writes into an extent take this longer way; the places that are kept are the credits that bound it.
//!
//! Invariants: what the other copy refuses for space has changed neither; a write that the other copy may have is seen to its end here, as one
//! that is in the store (I10): it goes there before all that waits for room; while it waits for the other copy it holds no room that that one's
//! writes need here; a place that is promised is given to nobody else.
//!
//! Must not know: how a store finds places.

use crate::buffer::Buffers;
use crate::collections::OpId;
use crate::error::Status;
use crate::replica::answer::Answer;
use crate::replica::request::{Half, Request, Route, Stage};
use crate::replica::view::pair::{Broken, Side};
use crate::replica::{Replica, Turn};

impl Replica {
    /// Whether a write would be its extent's first here, with another copy in sync.
    pub(in crate::replica) fn is_first_write(&self, route: &Route) -> bool {
        let in_sync = self.view.pair(route.pool, route.shard).is_some_and(|pair| pair.side == Side::Primary && pair.joiner.is_none());
        in_sync && self.devices.get(route.slot).is_some_and(|device| !device.holds(route.key))
    }

    /// Whether our device has a place for its extent, or can give it one.
    pub(in crate::replica) fn has_place_for(&self, route: &Route) -> bool {
        self.devices.get(route.slot).is_some_and(|device| device.holds(route.key) || device.has_place_for(route.key))
    }

    /// A first write that is on its way to the other copy waits for what that says; `false` if it is not on its way.
    pub(in crate::replica) fn wait_for_other(&mut self, op: OpId) -> bool {
        let Some(request) = self.requests.get_mut(op).filter(|request| request.forward.is_some()) else { return false };
        let Some(route) = request.route else { unreachable!("routed before") };
        request.stage = Stage::InStore;
        request.other_first = true;
        if let Some(device) = self.devices.get_mut(route.slot) {
            device.promise(route.key);
        }
        true
    }

    /// What was kept for a request that waits no longer is given back.
    pub(in crate::replica) fn end_wait_for_other(&mut self, request: &mut Request) {
        if let (true, Some(route)) = (core::mem::take(&mut request.other_first), request.route)
            && let Some(device) = self.devices.get_mut(route.slot)
        {
            device.take_back_promise(route.key);
        }
    }

    /// The store has room for a request that the other copy has.
    pub(in crate::replica) fn submit_owed(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        if self.requests.get(op).is_some_and(|request| request.other_first) {
            self.progress_first_write(op, turn);
        }
    }

    /// The other copy has answered, or is not asked any more.
    pub(super) fn progress_first_write(&mut self, op: OpId, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get(op) else { return };
        let (Some(route), remote, other) = (request.route, request.remote, request.other) else { unreachable!("routed before") };
        let entry = self.view.entry(route.pool, route.shard);
        let leads = self.own_member(route.slot).is_some_and(|own| entry.is_some_and(|entry| entry.in_sync.primary() == Some(own)));
        let is_of_this_pair =
            self.view.pair(route.pool, route.shard).is_some_and(|pair| other == Some((pair.other, pair.since)) && pair.joiner.is_none());
        match remote {
            // Another is the primary now: it is for the client to ask there.
            _ if !leads => self.finish(op, Answer::Refused(Status::MapStale), turn),
            Half::Pending if is_of_this_pair => {}
            Half::Refused(Status::NoSpace) if is_of_this_pair => self.resolve(op, Answer::Refused(Status::NoSpace), turn),
            Half::Refused(_) if is_of_this_pair => self.break_pair(route.pool, route.shard, Broken::Other),
            Half::Done | Half::Idle | Half::Pending | Half::Refused(_) => {
                let mut waited = *request;
                if self.devices.get(route.slot).is_none_or(|device| !device.has_room()) {
                    // Its promise holds until it goes there.
                    if let Some(device) = self.devices.get_mut(route.slot)
                        && !device.owed.contains(&op)
                    {
                        device.owed.push_back(op);
                    }
                    return;
                }
                self.end_wait_for_other(&mut waited);
                if !is_of_this_pair && let Some(forward) = waited.forward.take() {
                    // Nobody will say that it is over: it is not held for that.
                    self.peers.remove_forward(forward);
                }
                if let Some(request) = self.requests.get_mut(op) {
                    *request = waited;
                }
                self.submit_here(op, turn);
            }
        }
    }
}
