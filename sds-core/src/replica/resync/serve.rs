//! The side that is settled or brought up to date: it tells what it holds and takes what it is given.
//!
//! Invariants: fences as for a primary's writes (I3); nothing is taken for a volume that this node knows to be deleted:
//! its extents have been freed, or are about to be.
//!
//! Must not know: what is decided from its answers.

use super::Replica;
use crate::buffer::Buffers;
use crate::error::Status;
use crate::limits::SEQUENCE_MAX;
use crate::replica::Turn;
use crate::replica::admit::Verdict;
use crate::replica::links::PartyId;
use crate::replica::request::{Kind, Request};
use crate::replica::view::pair::Side;
use crate::wire::Header;

impl Replica {
    /// What a question of a peer must meet beyond what its writes must.
    pub(in crate::replica) fn check_question(&self, request: &Request, verdict: Verdict) -> Verdict {
        let tree = crate::id::TreeId::new(request.header.volume.get());
        match (request.kind, verdict) {
            (Kind::Copy | Kind::Settle, Verdict::Serve(_)) if self.deleted.contains(&tree) => Verdict::Refuse(Status::NoVolume),
            (_, verdict) => verdict,
        }
    }

    /// The primary says that a shard is settled, and up to where all is over.
    pub(in crate::replica) fn take_resolved(&mut self, party: PartyId, header: &Header, turn: &mut Turn<'_, impl Buffers>) {
        let PartyId::Peer(sds) = party else { unreachable!("clients do not say that") };
        self.peers.heard(sds, turn.now);
        let Some(pool) = self.view.pool_of(header.device, header.shard) else { return };
        if self.view.epoch(pool, header.shard) != header.epoch || header.resolved.get() >= SEQUENCE_MAX {
            return;
        }
        let is_its = self.view.pair(pool, header.shard).is_some_and(|pair| pair.side == Side::Secondary && self.is_from(party, pair.other));
        if is_its {
            self.heard_resolved(pool, header.shard, header.resolved, turn);
        }
    }
}
