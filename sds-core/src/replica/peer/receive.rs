//! Requests of a primary at its secondary: fences, and each sequence applied once.
//!
//! Invariants: fences in the order of [`crate::protocol::fence`]: life and connection at the hello, the
//! epoch for each frame, before anything of it is applied (I3); a sequence that was applied is answered
//! and not applied again; nothing at or above the device's durable ceiling is applied.

use super::super::admit::{DeviceTable, Serving, Verdict, blocks_around};
use crate::collections::OpId;
use crate::error::Status;
use crate::id::{Incarnation, TreeId, Version};
use crate::map::Member;
use crate::protocol::fence::{self, EpochFence};
use crate::replica::Replica;
use crate::replica::interface::DeviceSlot;
use crate::replica::links::PartyId;
use crate::replica::request::{Kind, Request, Route};
use crate::replica::view::pair::Side;
use crate::store::interface::{BlockRange, ExtentKey};
use crate::unit::BlockIndex;

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
        if request.kind == Kind::ReplicateFlush {
            let key = ExtentKey::default();
            let range = BlockRange { first: BlockIndex::ZERO, count: 1 };
            let route = Route { slot, key, range, pool: crate::id::PoolId::default(), shard: header.shard, epoch: header.epoch };
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
        if pair.side != Side::Secondary || pair.slot != slot || !self.is_from(request.party, pair.other) {
            // At one epoch there is one primary, and it is not this sender.
            return Verdict::Refuse(Status::Invalid);
        }
        let key = ExtentKey { tree: TreeId::new(header.volume.get()), extent: header.extent, layer: header.layer };
        let range = blocks_around(header.offset, header.length);
        serve(serving, Route { slot, key, range, pool, shard: header.shard, epoch: header.epoch })
    }

    fn is_from(&self, party: PartyId, member: Member) -> bool {
        let PartyId::Peer(sds) = party else { return false };
        let life = self.links.of(party).map(|(_, life)| life);
        self.view.owner(member.device) == Some(sds) && life == Some(member.incarnation)
    }

    /// What was checked is held against what was applied: `Some` when the answer is known already.
    pub(in crate::replica) fn take_replicate(&mut self, op: OpId, route: &Route) -> Option<Result<(), Status>> {
        let request = self.requests.get_mut(op)?;
        if !matches!(request.kind, Kind::Replicate | Kind::ReplicateZero) {
            return None;
        }
        let (sequence, resolved) = (request.header.sequence, request.header.resolved);
        request.version = Some(Version { sequence, epoch: route.epoch });
        let pair = self.view.pair_mut(route.pool, route.shard)?;
        pair.window.advance_to(resolved);
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
        Serving::Failed => Verdict::Refuse(Status::DeviceFailed),
        Serving::Stopping => Verdict::Refuse(Status::Stopping),
        Serving::Yes { .. } => Verdict::Serve(route),
    }
}
