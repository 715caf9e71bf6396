//! Links to peers: connecting, greeting, losing them.
//!
//! Invariants: every connection gets a number above all before it (I10); on the loss of a link all that
//! was sent on it and is unanswered goes back to the head of the queue, in the order it was made, and
//! is sent again on the next; a peer of interest is tried again after a pause, never given up.

use super::{LinkState, PeerIndex};
use crate::buffer::Buffers;
use crate::collections::OpId;
use crate::error::Status;
use crate::id::{ConnectionNumber, SdsId};
use crate::machine::LinkId;
use crate::replica::intake::CONNECTIONS_MAX;
use crate::replica::interface::Effect;
use crate::replica::links::PartyId;
use crate::replica::resync::ask::is_question;
use crate::replica::{Phase, Replica, Turn};
use crate::unit::Nanos;
use crate::wire::{Body, CacheIds, Frame, Header, Hello, Opcode, Party};

/// How long a peer may take to answer the greeting.
const GREETING_MAX: Nanos = Nanos::from_millis(1000);
/// Pause between two tries.
const PAUSE: Nanos = Nanos::from_millis(100);

impl Replica {
    /// A link that we asked for is there: say who we are.
    pub(in crate::replica) fn peer_linked(&mut self, sds: SdsId, link: LinkId, turn: &mut Turn<'_, impl Buffers>) {
        let awaited = self.peers.find(sds).filter(|index| self.peers.get(*index).state == LinkState::Connecting);
        let (Some(index), Some(identity)) = (awaited, self.identity) else {
            return turn.out.push(Effect::Close { link });
        };
        let number = ConnectionNumber::new(self.peers.next_connection);
        self.peers.next_connection = self.peers.next_connection.saturating_add(1);
        let give_up_at = turn.now.plus(GREETING_MAX);
        self.peers.wake_by(give_up_at);
        let peer = self.peers.get_mut(index);
        peer.state = LinkState::Greeting { link, number, give_up_at };
        peer.refused = false;
        peer.linked_to = peer.addressed;
        let party = Party::Peer { sds: identity.sds, incarnation: identity.incarnation, addressed: peer.addressed };
        let header = Header { connection: number, map_version: self.view.version(), ..Header::new(Opcode::Hello) };
        let frame = Frame { header, cache_ids: CacheIds::NONE, body: Body::Hello(Hello::ours(identity.system, party)) };
        turn.out.push(Effect::Send { link, frame });
    }

    pub(in crate::replica) fn peer_connect_failed(&mut self, sds: SdsId, refused: bool, turn: &mut Turn<'_, impl Buffers>) {
        let Some(index) = self.peers.find(sds) else { return };
        let refused = refused && self.options.trust_refused;
        if self.peers.get(index).state == LinkState::Connecting {
            self.peers.get_mut(index).refused = refused;
            self.peer_link_failed(index, turn);
            if refused {
                // A grace may be over by this.
                self.unpark(turn);
            }
        }
    }

    /// Our link to a peer is gone.
    pub(in crate::replica) fn peer_link_failed(&mut self, index: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let not_before = turn.now.plus(PAUSE);
        let peer = self.peers.get_mut(index);
        // A link that broke is tried again at once: a refused port tells more than silence.
        let was_ready = matches!(peer.state, LinkState::Ready { .. });
        peer.state = LinkState::Down { not_before: if was_ready { turn.now } else { not_before } };
        peer.outstanding = 0;
        self.peers.due = Nanos::ZERO;
        let sent = self.peers.forwards.iter().filter(|(_, forward)| forward.peer == index && forward.sent);
        let mut sent: Vec<(u64, OpId)> = sent.map(|(id, forward)| (forward.serial, id)).collect();
        sent.sort_unstable();
        for (_, id) in sent.into_iter().rev() {
            if let Some(forward) = self.peers.forwards.get_mut(id) {
                forward.sent = false;
            }
            self.peers.get_mut(index).queue.push_front(id);
        }
        self.abandon_sweeps(index, turn);
    }

    /// Closes a link of ours and goes on without it.
    fn drop_peer_link(&mut self, index: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        match self.peers.get(index).state {
            LinkState::Greeting { link, .. } | LinkState::Ready { link, .. } => turn.out.push(Effect::Close { link }),
            LinkState::Down { .. } | LinkState::Connecting => {}
        }
        self.peer_link_failed(index, turn);
    }

    /// A frame came over a link of ours.
    pub(in crate::replica) fn take_peer_frame(&mut self, index: PeerIndex, frame: &Frame, turn: &mut Turn<'_, impl Buffers>) {
        let header = &frame.header;
        let is_question = is_question(header.request);
        let sound = frame.check().is_ok() && (is_question || matches!(frame.body, Body::Empty));
        match (self.peers.get(index).state, header.opcode) {
            (LinkState::Greeting { link, number, .. }, Opcode::HelloReply) if sound => self.peer_greeted(index, link, number, header, turn),
            (LinkState::Ready { number, .. }, _) if !sound || header.connection != number => {
                crate::replica::intake::release_body(frame, turn);
                self.drop_peer_link(index, turn);
            }
            (LinkState::Ready { .. }, Opcode::ExtentsReply | Opcode::BlocksReply | Opcode::MediumReply | Opcode::ResyncReply)
                if is_question =>
            {
                self.take_asked_other(index, frame, turn);
            }
            (LinkState::Ready { .. }, Opcode::ReplicateFlushReply) if is_question => self.take_asked_other(index, frame, turn),
            (LinkState::Ready { .. }, Opcode::ReplicateReply | Opcode::ReplicateFlushReply) => self.take_forwarded(index, frame, turn),
            (LinkState::Ready { .. }, Opcode::Grant) => self.take_grant(index, header, turn),
            (LinkState::Ready { .. } | LinkState::Greeting { .. }, _) => {
                crate::replica::intake::release_body(frame, turn);
                self.drop_peer_link(index, turn);
            }
            (LinkState::Down { .. } | LinkState::Connecting, _) => unreachable!("a link that is not there brings no frame"),
        }
    }

    fn peer_greeted(
        &mut self,
        index: PeerIndex,
        link: LinkId,
        number: ConnectionNumber,
        header: &Header,
        turn: &mut Turn<'_, impl Buffers>,
    ) {
        if header.status != Status::Ok {
            // Another life than the one we mean, or one that takes no more: it is lost to the shards we share.
            if matches!(header.status, Status::MapStale | Status::Stopping) {
                self.peer_has_ended(index);
            }
            // What it has had before counts: this life of ours may have been here under a clock set back.
            self.peers.next_connection = self.peers.next_connection.max(header.connection.get().saturating_add(1)).min(CONNECTIONS_MAX);
            if header.map_version > self.view.version() {
                self.pull(header.map_version, turn);
            }
            return self.drop_peer_link(index, turn);
        }
        let peer = self.peers.get_mut(index);
        peer.answered = turn.now;
        peer.state = LinkState::Ready { link, number };
        peer.beacon_due = turn.now;
        peer.paused_until = turn.now;
        self.peers.due = Nanos::ZERO;
        for pair in self.view.pairs_mut().filter(|pair| pair.peer == index) {
            pair.tell_again();
        }
        self.resync.look_soon();
        self.send_forwards(index, turn);
    }

    /// The life of a peer that our link was meant for has ended, or is about to: no shard we share waits for it.
    pub(super) fn peer_has_ended(&mut self, index: PeerIndex) {
        let peer = self.peers.get_mut(index);
        if !peer.ended && peer.linked_to == peer.addressed {
            (peer.ended, peer.propose_due) = (true, Nanos::ZERO);
            self.peers.due = Nanos::ZERO;
        }
    }

    /// Opens, closes and gives up links as time and roles ask for it.
    pub(super) fn tend_peer_link(&mut self, index: PeerIndex, turn: &mut Turn<'_, impl Buffers>) {
        let peer = self.peers.get(index);
        let comes_to_us = self.links.of(PartyId::Peer(peer.sds)).is_some();
        // A primary that has gone quiet is tried, too: only a refused port says that its process has ended.
        let wanted = (peer.leads > 0 || (peer.follows > 0 && !comes_to_us)) && matches!(self.phase, Phase::Running | Phase::Draining);
        match peer.state {
            LinkState::Down { not_before } if wanted && turn.now >= not_before => {
                let (sds, addresses) = (peer.sds, self.view.addresses(peer.sds));
                self.peers.get_mut(index).state = LinkState::Connecting;
                turn.out.push(Effect::Connect { sds, addresses });
            }
            LinkState::Down { not_before } if wanted => self.peers.wake_by(not_before),
            LinkState::Greeting { give_up_at, .. } if turn.now >= give_up_at => self.drop_peer_link(index, turn),
            LinkState::Greeting { give_up_at, .. } => self.peers.wake_by(give_up_at),
            LinkState::Ready { .. } if !wanted => self.drop_peer_link(index, turn),
            LinkState::Down { .. } | LinkState::Connecting | LinkState::Ready { .. } => {}
        }
    }
}
