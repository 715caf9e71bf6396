//! Proposals: data servers ask for new configurations of shards, many in one command.
//!
//! Invariants: each is decided alone, a compare-and-swap on its shard's epoch (I1); what is refused changes nothing, and
//! is told as an event; only the server that has the proposing device in its present life may ask for it (I6).

use super::membership::Known;
use super::outcome::{Event, Outcome, ProposalFault};
use super::state::State;
use super::{Cluster, Heard};
use crate::id::{DeviceId, PoolId, SdsId, ShardId};
use crate::map::ShardEntry;
use crate::protocol::membership::{Change, Proposal};
use std::collections::{BTreeMap, BTreeSet};

impl Cluster {
    pub(super) fn propose(
        &mut self,
        sds: SdsId,
        heard: &[Heard],
        proposals: &[(PoolId, ShardId, Proposal)],
        events: &mut Vec<Event>,
    ) -> Outcome {
        self.note_heard(heard);
        let made_at = self.coming_version();
        let State { pools, devices, servers, .. } = &mut self.state;
        let (mut touched, mut committed) = (BTreeSet::new(), 0_u32);
        let mut joining: BTreeMap<DeviceId, u32> = BTreeMap::new();
        let mut refused: Vec<(ProposalFault, u32, (PoolId, ShardId))> = Vec::new();
        for (pool, shard, proposal) in proposals {
            let of = pools.get_mut(pool).and_then(|pool| Some((pool.copies, pool.map.shards.get_mut(shard.get() as usize)?)));
            let decided = of.ok_or(ProposalFault::NoShard);
            match decided.and_then(|(copies, entry)| decide(Known { devices, servers, copies, made_at, gone: &[] }, sds, entry, proposal)) {
                Ok(joiner) => {
                    committed += 1;
                    touched.insert(*pool);
                    joiner.into_iter().for_each(|joiner| *joining.entry(joiner).or_default() += 1);
                }
                Err(fault) => match refused.iter_mut().find(|(other, ..)| *other == fault) {
                    Some((_, count, _)) => *count += 1,
                    None => refused.push((fault, 1, (*pool, *shard))),
                },
            }
        }
        if committed > 0 {
            events.push(Event::ShardsChanged { sds, shards: committed });
            self.pools_changed(&touched);
        }
        events.extend(joining.into_iter().map(|(device, shards)| Event::ShardsJoining { device, shards }));
        let count = refused.iter().map(|(_, count, _)| count).sum();
        events.extend(refused.into_iter().map(|(fault, shards, first)| Event::ProposalsRefused { sds, fault, shards, first }));
        Outcome::Proposed { committed, refused: count }
    }

    /// What devices have said since they registered. A position of a life that is over by now says nothing of the one that has begun: if that
    /// began with less, it is known (I13).
    pub(super) fn note_heard(&mut self, heard: &[Heard]) {
        for Heard { member, ceiling, flushed } in heard {
            let Some(device) = self.state.devices.get_mut(&member.device) else { continue };
            device.sequence_ceiling = device.sequence_ceiling.max(*ceiling);
            if device.incarnation == member.incarnation {
                device.flushed = device.flushed.max(*flushed);
            }
        }
    }

    pub(super) fn pools_changed(&mut self, pools: &BTreeSet<PoolId>) {
        let version = self.next_version();
        for pool in pools {
            if let Some(pool) = self.state.pools.get_mut(pool) {
                pool.changed = version;
            }
        }
    }
}

/// Commits one proposal. Gives the device that joins in the same command: the one that fell out, if it serves.
fn decide(known: Known<'_>, sds: SdsId, entry: &mut ShardEntry, proposal: &Proposal) -> Result<Option<DeviceId>, ProposalFault> {
    let proposer = proposal.proposer.ok_or(ProposalFault::NotOwner)?;
    let device = known.devices.get(&proposer.device).ok_or(ProposalFault::NotOwner)?;
    if device.sds != sds {
        return Err(ProposalFault::NotOwner);
    }
    let mut next = known.commit(entry, proposal).map_err(ProposalFault::Rule)?;
    let fell_out = entry.in_sync.members().iter().find(|member| next.lapsed.is_some_and(|lapsed| lapsed.device == member.device));
    let is_dropped = matches!(proposal.change, Change::Drop);
    let joiner = if fell_out.is_some() || is_dropped { known.rejoin(&mut next) } else { None };
    *entry = next;
    Ok(joiner)
}
