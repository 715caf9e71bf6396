//! Other data servers: what this node knows of each, and what is on its way to it.
//!
//! A write's way: [`send`] (to the other copy, and its answer) beside the local store; at the other
//! server [`receive`] (fences, each sequence once), then the same path as a client's request.
//! [`first_write`]: room on both copies; [`hand_over`]: roles that change without a failure; [`link`]: connections to servers;
//! [`lease`]: beacons, grants, silence and what is proposed then; [`window`]: which of a shard's latest writes are over.
//!
//! Invariants: what is on its way to a peer is sent again, in the order it was made, until it is
//! answered or the shard's configuration no longer asks for it; connection numbers only rise (I10).
//!
//! Must not know: how a server is reached.

mod first_write;
mod hand_over;
mod lease;
mod link;
mod receive;
mod send;
pub(super) mod window;

use super::view::pair::Side;
use crate::collections::{OpId, SlotTable};
use crate::id::{ConnectionNumber, Epoch, Incarnation, MapVersion, SdsId};
use crate::limits::{REPLICATE_FANOUT_MAX, REQUESTS_PER_CONNECTION_MAX};
use crate::machine::LinkId;
use crate::map::Member;
use crate::protocol::lease::{Granted, Lease, Terms};
use crate::unit::Nanos;
use std::collections::VecDeque;

/// A server's number at this node: dense, given once, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerIndex(usize);

/// Our link to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Down { not_before: Nanos },
    Connecting,
    Greeting { link: LinkId, number: ConnectionNumber, give_up_at: Nanos },
    Ready { link: LinkId, number: ConnectionNumber },
}

/// A server that has the other copy of some shard of ours.
#[derive(Debug)]
pub(super) struct Peer {
    sds: SdsId,
    state: LinkState,
    /// The life of it that we mean to reach.
    addressed: Incarnation,
    /// The life that our last link was meant for: what that says of itself says nothing of a newer one.
    linked_to: Incarnation,
    /// Shards that we are the primary of, and it the secondary.
    leads: usize,
    /// Shards that it is the primary of, and we the secondary.
    follows: usize,
    led_before: bool,
    followed_before: bool,
    /// When it last answered, or became of interest.
    answered: Nanos,
    /// When it last asked, or became of interest.
    asked: Nanos,
    /// The life of it that we mean has ended, or is about to: it has said so.
    ended: bool,
    /// Newest version that it has confirmed by a request of its own.
    pub(super) confirmed: MapVersion,
    /// Writes on their way to it.
    waiting: usize,
    /// Its port refused our last try: its process has ended.
    pub(super) refused: bool,
    /// What it has granted us.
    lease: Lease,
    /// What we have granted it.
    pub(super) granted: Granted,
    granted_at: Nanos,
    /// Newest version that changed a shard of the two.
    pub(super) changed_at: MapVersion,
    beacon_due: Nanos,
    /// Newest change of the shards of the two that its view has, as its grants say.
    seen_change: MapVersion,
    /// Its secondaries are to be told what is over.
    tell_due: bool,
    /// Newest change of our shards that it has been told of although we lead none with it any more.
    confirms: MapVersion,
    /// Not before then is anything proposed (again).
    pub(super) propose_due: Nanos,
    /// Some shard's copies have come apart, here or there.
    broken: bool,
    /// What is to be sent, in order.
    queue: VecDeque<OpId>,
    /// Frames on the link without an answer.
    outstanding: usize,
    /// It said "not now".
    paused_until: Nanos,
}

impl Peer {
    /// Whether our link to it is there.
    pub(super) const fn is_ready(&self) -> bool {
        matches!(self.state, LinkState::Ready { .. })
    }
}

/// What is on its way to a peer for one request.
#[derive(Clone, Copy, Debug)]
struct Forward {
    op: OpId,
    peer: PeerIndex,
    member: Member,
    /// Epoch with which the pair began, of a write.
    since: Epoch,
    /// Order in which they were made.
    serial: u64,
    is_flush: bool,
    /// On the present link.
    sent: bool,
}

/// All peers.
#[derive(Debug)]
pub(super) struct Peers {
    list: Vec<Peer>,
    forwards: SlotTable<Forward>,
    /// Of them, those of flushes; at most [`REPLICATE_FANOUT_MAX`].
    flushes: usize,
    next_serial: u64,
    /// Of all peers together.
    next_connection: u64,
    /// When [`super::Replica::tend_peers`] has something to do; never too late.
    due: Nanos,
    /// When this life of the process began: what its former ones granted is not known, but was granted before.
    begun: Option<Nanos>,
    /// When the last grace is over.
    grace_due: Option<Nanos>,
    /// A peer has confirmed a newer version: a grace may be over before that.
    confirmed_more: bool,
    pub(super) terms: Terms,
    queue_capacity: usize,
}

impl Peers {
    pub(super) fn new(requests_max: usize) -> Self {
        Self {
            list: Vec::new(),
            forwards: SlotTable::with_capacity(requests_max + REPLICATE_FANOUT_MAX),
            flushes: 0,
            next_serial: 0,
            next_connection: 1,
            due: Nanos::NEVER,
            begun: None,
            grace_due: None,
            confirmed_more: false,
            terms: Terms::DEFAULT,
            queue_capacity: requests_max,
        }
    }

    /// A server's number, new if need be.
    pub(super) fn index(&mut self, sds: SdsId, now: Nanos) -> PeerIndex {
        let found = self.list.iter().position(|peer| peer.sds == sds).unwrap_or(self.list.len());
        if found == self.list.len() {
            self.list.push(Peer {
                sds,
                state: LinkState::Down { not_before: Nanos::ZERO },
                addressed: Incarnation::new(0),
                linked_to: Incarnation::new(0),
                leads: 0,
                follows: 0,
                led_before: false,
                followed_before: false,
                answered: now,
                asked: now,
                ended: false,
                confirmed: MapVersion::default(),
                waiting: 0,
                refused: false,
                lease: Lease::default(),
                granted: Granted::default(),
                granted_at: Nanos::ZERO,
                changed_at: MapVersion::default(),
                beacon_due: Nanos::ZERO,
                seen_change: MapVersion::default(),
                tell_due: false,
                confirms: MapVersion::default(),
                propose_due: Nanos::ZERO,
                broken: false,
                queue: VecDeque::with_capacity(self.queue_capacity),
                outstanding: 0,
                paused_until: Nanos::ZERO,
            });
        }
        PeerIndex(found)
    }

    pub(super) fn get(&self, index: PeerIndex) -> &Peer {
        &self.list[index.0]
    }

    pub(super) fn get_mut(&mut self, index: PeerIndex) -> &mut Peer {
        &mut self.list[index.0]
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// When time alone changes something.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        (self.due < Nanos::NEVER).then_some(self.due)
    }

    /// Something is to be done by then.
    fn wake_by(&mut self, at: Nanos) {
        self.due = self.due.min(at);
    }

    /// A place on a peer's link for one more frame that has an answer; `None` when it is not there or full.
    pub(super) fn take_place(&mut self, index: PeerIndex) -> Option<(LinkId, ConnectionNumber)> {
        let peer = self.get_mut(index);
        let LinkState::Ready { link, number } = peer.state else { return None };
        if peer.outstanding >= REQUESTS_PER_CONNECTION_MAX {
            return None;
        }
        peer.outstanding += 1;
        Some((link, number))
    }

    /// An answer has come.
    pub(super) fn give_place(&mut self, index: PeerIndex) {
        let peer = self.get_mut(index);
        peer.outstanding = peer.outstanding.saturating_sub(1);
    }

    /// A peer asks something of us.
    pub(super) fn heard(&mut self, sds: SdsId, now: Nanos) {
        if let Some(index) = self.find(sds) {
            self.get_mut(index).asked = now;
        }
    }

    /// It has said hello: whatever its port said before, it lives.
    pub(super) fn lives(&mut self, sds: SdsId) {
        if let Some(index) = self.find(sds) {
            self.get_mut(index).refused = false;
        }
    }

    /// A link has come or gone.
    pub(super) fn look_soon(&mut self) {
        if !self.list.is_empty() {
            self.due = Nanos::ZERO;
        }
    }

    fn find(&self, sds: SdsId) -> Option<PeerIndex> {
        self.indices().find(|index| self.get(*index).sds == sds)
    }

    fn remove_forward(&mut self, id: OpId) {
        let Some(forward) = self.forwards.remove(id) else { return };
        self.flushes -= usize::from(forward.is_flush);
        self.get_mut(forward.peer).waiting -= usize::from(!forward.is_flush);
        if !forward.sent {
            self.get_mut(forward.peer).queue.retain(|queued| *queued != id);
        }
    }

    /// The peer that a link of ours goes to.
    pub(super) fn by_link(&self, wanted: LinkId) -> Option<PeerIndex> {
        self.indices().find(|index| match self.get(*index).state {
            LinkState::Greeting { link, .. } | LinkState::Ready { link, .. } => link == wanted,
            LinkState::Down { .. } | LinkState::Connecting => false,
        })
    }

    fn indices(&self) -> impl Iterator<Item = PeerIndex> + use<> {
        (0..self.list.len()).map(PeerIndex)
    }

    /// Roles are about to be worked out anew.
    pub(super) fn forget_roles(&mut self) {
        for peer in &mut self.list {
            (peer.led_before, peer.followed_before) = (peer.leads > 0, peer.follows > 0);
            (peer.leads, peer.follows) = (0, 0);
        }
        self.due = Nanos::ZERO;
    }

    /// A shard of ours has its other copy there.
    pub(super) fn take_role(&mut self, index: PeerIndex, side: Side, life: Incarnation, now: Nanos) {
        let peer = self.get_mut(index);
        // Of two shards' lives of it the older one is over: whoever is left with that is to be looked after.
        let known = peer.addressed > Incarnation::new(0);
        peer.broken |= known && life != peer.addressed;
        if life > peer.addressed {
            peer.addressed = life;
            peer.lease = Lease::default();
            (peer.answered, peer.asked, peer.refused, peer.ended) = (now, now, false, false);
        }
        let (count, before, heard) = match side {
            Side::Primary => (&mut peer.leads, peer.led_before, &mut peer.answered),
            Side::Secondary => (&mut peer.follows, peer.followed_before, &mut peer.asked),
        };
        // Nothing was to be heard of it until now.
        if *count == 0 && !before {
            *heard = now;
        }
        *count += 1;
    }

    /// A peer goes by a view of this version.
    pub(super) fn confirmed(&mut self, index: PeerIndex, version: MapVersion) {
        let peer = self.get_mut(index);
        if version > peer.confirmed {
            peer.confirmed = version;
            // A grace of its shards may be over by this; those of other peers' go on.
            self.confirmed_more = true;
            self.due = Nanos::ZERO;
        }
    }

    /// The process has begun, at the latest now.
    pub(super) fn life_begins(&mut self, now: Nanos) {
        self.begun.get_or_insert(now);
    }

    /// A shard goes on alone here that a former life may have taken over: what that granted, and was not waited out, is unknown.
    pub(super) fn grace_of_former_lives(&mut self) -> Granted {
        let begun = self.begun.unwrap_or_default();
        let over = begun.plus(self.terms.grace);
        self.grace_due = self.grace_due.max(Some(over));
        self.wake_by(over);
        Granted::by_former_lives(begun)
    }

    /// Shards were taken over from this peer: they are served when its last lease is over.
    pub(super) fn grace_begins(&mut self, index: PeerIndex) {
        let over = self.get(index).granted_at.plus(self.terms.grace);
        self.grace_due = self.grace_due.max(Some(over));
        self.wake_by(over);
    }
}
