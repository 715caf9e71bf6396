//! Questions of sweeps and visits to our own stores and to peers, and the way of their answers.
//!
//! Invariants: whoever asks has one question out; an answer to a question of somebody who is gone only gives its buffer
//! back; a buffer asked with is given back here, once.
//!
//! Must not know: what the answers mean.

use super::{PAUSE, PAUSE_LONG, RETRY, Resync};
use crate::buffer::{BufferClass, BufferId, Buffers, Span};
use crate::checksum::ChecksumList;
use crate::collections::OpId;
use crate::error::Status;
use crate::id::RequestId;
use crate::replica::interface::{DeviceSlot, Effect, Event};
use crate::replica::locks::LockId;
use crate::replica::peer::PeerIndex;
use crate::replica::{Replica, Turn};
use crate::store::interface as store;
use crate::store::interface::{Outcome, StoreError};
use crate::wire::{Body, Frame, Header};

/// Tells a question's number from that of a forwarded write, on one link.
const QUESTION: u64 = 1 << 63;

const _: () = assert!(OpId::BITS < 63, "numbers leave the bit alone");

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Sweep(OpId),
    Visit(OpId),
    /// Gone; only a store's buffer is waited for.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Store,
    Peer(PeerIndex),
}

/// A question under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    owner: Owner,
    place: Place,
    /// What our store reads from or writes into.
    buffer: Option<(BufferId, u32)>,
    /// Of a visit that is gone: others are kept off its extent until our store is done with it.
    lock: Option<LockId>,
}

/// Whether a request's answer, by its number, is one to a question.
pub(in crate::replica) const fn is_question(request: RequestId) -> bool {
    request.get() & QUESTION != 0
}

impl Resync {
    /// Whether a store of ours still has something of a sweep or a visit that is gone.
    pub(in crate::replica) fn has_orphans(&self) -> bool {
        self.asks.iter().any(|(_, ask)| ask.owner == Owner::Nobody)
    }
}

impl Replica {
    /// Asks our store something that needs room of so many bytes; `false` when there is none now.
    pub(super) fn ask_own(
        &mut self,
        owner: Owner,
        slot: DeviceSlot,
        room: u32,
        request: impl FnOnce(Span) -> store::Request,
        turn: &mut Turn<'_, impl Buffers>,
    ) -> bool {
        let Some(buffer) = turn.buffers.allocate(BufferClass::Internal, room) else { return false };
        self.ask_own_with(owner, slot, Span::whole(buffer, room), request, turn)
    }

    /// The same with a buffer that is there; a use of it passes. `false` when too many questions are out.
    pub(super) fn ask_own_with(
        &mut self,
        owner: Owner,
        slot: DeviceSlot,
        span: Span,
        request: impl FnOnce(Span) -> store::Request,
        turn: &mut Turn<'_, impl Buffers>,
    ) -> bool {
        let ask = Ask { owner, place: Place::Store, buffer: Some((span.buffer, span.len)), lock: None };
        let Ok(id) = self.resync.asks.insert(ask) else {
            turn.buffers.release(span.buffer);
            return false;
        };
        self.devices.ask(slot, id, request(span), turn);
        true
    }

    /// Asks a peer; a use of the payload's buffer passes. `false` when its link is not there.
    pub(super) fn ask_other(
        &mut self,
        owner: Owner,
        peer: PeerIndex,
        mut header: Header,
        payload: Option<(Span, ChecksumList)>,
        turn: &mut Turn<'_, impl Buffers>,
    ) -> bool {
        let place = if self.resync.asks.is_full() { None } else { self.peers.take_place(peer) };
        let Some((link, number)) = place else {
            if let Some((span, _)) = payload {
                turn.buffers.release(span.buffer);
            }
            return false;
        };
        let Ok(id) = self.resync.asks.insert(Ask { owner, place: Place::Peer(peer), buffer: None, lock: None }) else {
            unreachable!("not full")
        };
        header.connection = number;
        header.request = RequestId::new(QUESTION | id.bits());
        header.map_version = self.view.version();
        let frame = match payload {
            Some((span, checksums)) => Frame::with_payload(header, span, checksums),
            None => Frame::bare(header),
        };
        turn.out.push(Effect::Send { link, frame });
        true
    }

    /// A store has answered a question.
    pub(in crate::replica) fn take_asked_own(&mut self, id: OpId, result: Result<Outcome, StoreError>, turn: &mut Turn<'_, impl Buffers>) {
        let Some(ask) = self.resync.asks.remove(id) else { unreachable!("questions to stores stay until they are answered") };
        let span = ask.buffer.map(|(buffer, len)| Span::whole(buffer, len));
        if let Some(lock) = ask.lock {
            self.locks.release(lock);
        }
        match (ask.owner, result) {
            (Owner::Nobody, _) => {}
            (Owner::Sweep(sweep), Ok(Outcome::Extents { count, next })) => {
                let Some(span) = span else { unreachable!("lists have room") };
                self.take_own_list(sweep, count, next, span, turn);
            }
            (Owner::Sweep(sweep), Ok(_) | Err(_)) => self.give_up(sweep, PAUSE_LONG, turn),
            (Owner::Visit(visit), result) => self.visit_answered_own(visit, result, span, turn),
        }
        if let Some(span) = span {
            turn.buffers.release(span.buffer);
        }
    }

    /// A peer has answered a question.
    pub(in crate::replica) fn take_asked_other(&mut self, index: PeerIndex, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
        self.peers.give_place(index);
        let span = match frame.body {
            Body::Payload { span, .. } => Some(span),
            Body::Empty | Body::Hello(_) => None,
        };
        let id = OpId::from_bits(frame.header.request.get() & !QUESTION);
        let known = self.resync.asks.get(id).filter(|ask| ask.place == Place::Peer(index)).map(|ask| ask.owner);
        if let Some(owner) = known {
            let _ = self.resync.asks.remove(id);
            let intact = match frame.body {
                Body::Payload { span, checksums } => checksums.match_blocks(turn.buffers.bytes(span)),
                Body::Empty | Body::Hello(_) => true,
            };
            let status = if intact { frame.header.status } else { Status::PayloadDamaged };
            self.answered(owner, status, frame, span, turn);
        }
        if let Some(span) = span {
            turn.buffers.release(span.buffer);
        }
        self.send_forwards(index, turn);
    }

    fn answered(&mut self, owner: Owner, status: Status, frame: &Frame, span: Option<Span>, turn: &mut Turn<'_, impl Buffers>) {
        let sweep = match owner {
            Owner::Sweep(sweep) => sweep,
            Owner::Visit(visit) => match self.resync.visits.get(visit) {
                Some(visit) => visit.sweep,
                None => return,
            },
            Owner::Nobody => return,
        };
        match (status, owner) {
            (Status::Ok, Owner::Sweep(_)) => self.sweep_answered(sweep, &frame.header, span, turn),
            (Status::Ok, Owner::Visit(visit)) => self.visit_answered_other(visit, frame, span, turn),
            (Status::Corrupt, Owner::Visit(visit)) if self.other_is_damaged(visit, turn) => {}
            (Status::DeviceFailed, Owner::Visit(visit)) if self.other_cannot_read(visit, turn) => {}
            (Status::NotReady | Status::PayloadDamaged, Owner::Visit(visit)) => self.stall_visit(visit, turn),
            (Status::NotReady | Status::PayloadDamaged | Status::Stopping | Status::MapStale, _) => {
                if frame.header.map_version > self.view.version() {
                    self.pull(frame.header.map_version, turn);
                }
                self.give_up(sweep, PAUSE, turn);
            }
            _ => {
                self.tell_refused(sweep, status, turn);
                self.give_up(sweep, PAUSE_LONG, turn);
            }
        }
    }

    fn sweep_answered(&mut self, sweep: OpId, header: &Header, span: Option<Span>, turn: &mut Turn<'_, impl Buffers>) {
        match self.resync.sweeps.get(sweep).map(|sweep| sweep.step) {
            Some(super::Step::ListOther { .. }) => self.take_other_list(sweep, header, span, turn),
            Some(super::Step::Flushing) => self.joiner_flushed(sweep, turn),
            Some(super::Step::ListOwn { .. } | super::Step::Visiting) | None => {}
        }
    }

    pub(super) fn tell_refused(&self, sweep: OpId, status: Status, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(sweep) = self.resync.sweeps.get(sweep)
            && let Some((other, _)) = sweep.other
        {
            turn.out.push(Effect::Event(Event::ResyncRefused { slot: sweep.slot, other: other.device, status }));
        }
    }

    /// Forgets questions of somebody who is gone, and lets go of the lock as soon as our store has nothing to do under it.
    pub(super) fn drop_asks(&mut self, owner: Owner, mut lock: Option<LockId>) {
        let of: Vec<OpId> = self.resync.asks.iter().filter(|(_, ask)| ask.owner == owner).map(|(id, _)| id).collect();
        for id in of {
            match self.resync.asks.get_mut(id) {
                // The store still has its buffer.
                Some(ask) if ask.place == Place::Store => (ask.owner, ask.lock) = (Owner::Nobody, lock.take()),
                Some(_) | None => {
                    let _ = self.resync.asks.remove(id);
                }
            }
        }
        if let Some(lock) = lock {
            self.locks.release(lock);
        }
    }

    /// A visit lacks something that comes by itself: it goes on in a while.
    pub(super) fn stall_visit(&mut self, visit: OpId, turn: &Turn<'_, impl Buffers>) {
        if let Some(visit) = self.resync.visits.get_mut(visit) {
            visit.asking = false;
        }
        self.resync.retry_by(turn.now.plus(RETRY));
    }
}
