//! Requests of a primary at its secondary: fences, and each sequence applied once.
//!
//! Invariants: fences in the order of [`crate::protocol::fence`]: life and connection at the hello, the
//! epoch for each frame, before anything of it is applied (I3); a sequence that was applied is answered
//! and not applied again; nothing at or above the device's durable ceiling is applied.

use super::super::admit::{DeviceTable, Serving, Verdict, blocks_around};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::collections::OpId;
use crate::error::Status;
use crate::id::{Incarnation, PoolId, TreeId, Version};
use crate::limits::{SEQUENCE_HEADROOM, SEQUENCE_MAX};
use crate::map::Member;
use crate::protocol::fence::{self, EpochFence};
use crate::replica::interface::DeviceSlot;
use crate::replica::links::PartyId;
use crate::replica::request::{Kind, Request, Route, Stage};
use crate::replica::view::pair::{Pair, Side};
use crate::replica::{Replica, Turn};
use crate::shard::shard_of;
use crate::store::interface::{BlockRange, ExtentKey};
use crate::unit::{BlockIndex, EXTENT_BYTES};
use crate::wire::{Flags, Header};

impl Replica {
    /// Checks a request of a peer. Its shape ([`crate::wire::Frame::check`]) was checked before.
    pub(in crate::replica) fn check_peer(&self, request: &Request) -> Verdict {
        let header = &request.header;
        let seen_by_now = header.map_version.max(self.view.version());
        let Some(slot) = self.devices.slot_of(header.device) else {
            // A registration may be on its way.
            return Verdict::Park { pull: None, late: Status::NotReady };
        };
        let serving = self.devices.serving(slot);
        if matches!(request.kind, Kind::ReplicateFlush | Kind::Extents) {
            // Asked only by who has the other copy of something on it.
            let is_partner = self.view.pairs().any(|(.., pair)| pair.slot == slot && self.is_from(request.party, pair.other));
            if !is_partner {
                return Verdict::Park { pull: Some(seen_by_now), late: Status::NotReady };
            }
            if request.kind == Kind::Extents && header.map_version > self.view.version() {
                // Until that view is here, this node may take writes that the asker would not be told of.
                return Verdict::Park { pull: Some(seen_by_now), late: Status::NotReady };
            }
            let goes_on = || self.has_former_writes(slot) || self.has_leftovers(request) || self.resync.has_orphans();
            if request.kind == Kind::Extents && goes_on() {
                return Verdict::Refuse(Status::NotReady);
            }
            let key = ExtentKey::default();
            let range = BlockRange { first: BlockIndex::ZERO, count: 1 };
            let route = Route { slot, key, range, pool: PoolId::default(), shard: header.shard, epoch: header.epoch };
            return serve(serving, route);
        }
        let ahead = Verdict::Park { pull: Some(seen_by_now), late: Status::NotReady };
        let Some(pool) = self.view.pool_of(header.device, header.shard) else {
            return if header.map_version > self.view.version() { ahead } else { Verdict::Refuse(Status::MapStale) };
        };
        match fence::epoch(self.view.epoch(pool, header.shard), header.epoch) {
            EpochFence::Older => return Verdict::Refuse(Status::MapStale),
            EpochFence::Newer => return ahead,
            EpochFence::Same => {}
        }
        let Some(pair) = self.view.pair(pool, header.shard) else { return Verdict::Park { pull: None, late: Status::NotReady } };
        let tree = TreeId::new(header.volume.get());
        if shard_of(tree, header.extent, self.view.shard_count(pool)) != header.shard || self.is_beyond(pool, header) {
            return Verdict::Refuse(Status::Invalid);
        }
        if pair.side != Side::Secondary || pair.slot != slot || !self.is_from(request.party, pair.other) {
            // At one epoch there is one primary, and it is not this sender.
            return Verdict::Refuse(Status::Invalid);
        }
        let key = ExtentKey { tree: TreeId::new(header.volume.get()), extent: header.extent, layer: header.layer };
        // Of the extent as a whole, where no blocks are named.
        let range = blocks_around(header.offset % EXTENT_BYTES, header.length.clamp(1, EXTENT_BYTES - header.offset % EXTENT_BYTES));
        serve(serving, Route { slot, key, range, pool, shard: header.shard, epoch: header.epoch })
    }

    /// Whether the store of a device still works on writes of former configurations. What it holds is told only when these are
    /// over: they would land behind the back of whoever makes the copies equal.
    fn has_former_writes(&self, slot: DeviceSlot) -> bool {
        self.requests.iter().any(|(_, request)| {
            let former = |route: Route| route.slot == slot && route.epoch < self.view.epoch(route.pool, route.shard);
            request.kind.changes() && request.stage == Stage::InStore && request.route.is_some_and(former)
        })
    }

    /// Whether something of a sweep that its primary gave up is still to be done here: writes to the joiner that this was, copies, plans. Nobody
    /// waits for them, and they would land behind the back of the sweep that asks now.
    fn has_leftovers(&self, asks: &Request) -> bool {
        let partner = |header: &Header| {
            let pool = self.view.pool_of(header.device, header.shard)?;
            let in_question = |pair: &&Pair| pair.joiner.is_some() || !self.view.is_settled(pool, header.shard);
            self.view.pair(pool, header.shard).filter(in_question).map(|pair| pair.other)
        };
        let asker = partner(&asks.header);
        self.requests.iter().any(|(_, request)| {
            let changes = request.kind.is_of_peer() && request.kind.changes() && request.header.device == asks.header.device;
            changes && partner(&request.header).is_some_and(|other| asker.is_none_or(|asker| asker == other))
        })
    }

    /// Whether a primary's numbers are such as no primary of this epoch gives out: further ahead than it may be.
    fn is_beyond(&self, pool: PoolId, header: &Header) -> bool {
        let entry = self.view.entry(pool, header.shard);
        let known = self.view.next_sequence(pool, header.shard).max(entry.map(|entry| entry.first_sequence).unwrap_or_default());
        if header.sequence.get().max(header.resolved.get()) >= SEQUENCE_MAX {
            return true;
        }
        if entry.is_some_and(|entry| entry.joining.is_some()) {
            // What was written meanwhile without the joiner has been numbered, too, however much it is.
            return header.resolved > header.sequence.max(known);
        }
        header.sequence.get() > known.get().saturating_add(SEQUENCE_HEADROOM) || header.resolved > header.sequence.max(known)
    }

    pub(in crate::replica) fn is_from(&self, party: PartyId, member: Member) -> bool {
        let PartyId::Peer(sds) = party else { return false };
        let life = self.links.of(party).map(|(_, life)| life);
        self.view.owner(member.device) == Some(sds) && life == Some(member.incarnation)
    }

    /// What was checked is held against what was applied: `Some` when the answer is known already.
    pub(in crate::replica) fn take_replicate(
        &mut self,
        op: OpId,
        route: &Route,
        turn: &mut Turn<'_, impl Buffers>,
    ) -> Option<Result<(), Status>> {
        let request = self.requests.get_mut(op)?;
        let (sequence, resolved) = (request.header.sequence, request.header.resolved);
        if matches!(request.kind, Kind::Copy | Kind::Settle) {
            request.version = Some(Version { sequence, epoch: route.epoch });
            self.view.saw_sequence(route.pool, route.shard, sequence);
        }
        if !request.kind.is_replicate() {
            return None;
        }
        request.version = Some(Version { sequence, epoch: route.epoch });
        if self.deleted.contains(&route.key.tree) {
            // Its extents have been freed here, and nobody will ever name them again.
            return Some(Ok(()));
        }
        let is_trim = request.header.flags.contains(Flags::TRIM);
        if request.kind == Kind::ReplicateZero && bugs::is(if is_trim { Bug::TrimNotReplicated } else { Bug::ZeroNotReplicated }) {
            return Some(Ok(()));
        }
        self.heard_resolved(route.pool, route.shard, resolved, turn);
        let pair = self.view.pair_mut(route.pool, route.shard)?;
        if pair.window.contains(sequence) {
            return Some(Ok(()));
        }
        if !pair.window.has_room(sequence) {
            return Some(Err(Status::NotReady));
        }
        self.view.saw_sequence(route.pool, route.shard, sequence);
        None
    }

    /// A sequence is applied here.
    pub(in crate::replica) fn applied(&mut self, route: &Route, version: Version) {
        if let Some(pair) = self.view.pair_mut(route.pool, route.shard)
            && pair.side == Side::Secondary
        {
            pair.window.insert(version.sequence);
            pair.hold(version.sequence, route.key);
        }
    }

    /// Whether a sequence may not be applied yet: the device's durable ceiling is not above it.
    pub(in crate::replica) fn is_above_ceiling(&self, slot: DeviceSlot, version: Version) -> bool {
        self.devices.get(slot).is_some_and(|device| version.sequence >= device.ceiling)
    }

    /// Whether a hello means this life of ours.
    pub(in crate::replica) fn is_for_us(&self, addressed: Incarnation) -> bool {
        self.identity.is_some_and(|identity| fence::is_for_this_life(identity.incarnation, addressed))
    }
}

const fn serve(serving: Serving, route: Route) -> Verdict {
    match serving {
        Serving::NotYet => Verdict::Park { pull: None, late: Status::NotReady },
        Serving::Failed | Serving::Hung { .. } => Verdict::Refuse(Status::DeviceFailed),
        Serving::Stopping => Verdict::Refuse(Status::Stopping),
        Serving::Yes { .. } => Verdict::Serve(route),
    }
}
