//! What the committed state gives [`crate::protocol::membership`] to decide with.
//!
//! Invariants: a shard's entry changes only by [`membership::commit`]; no sequence is used twice, whoever becomes the
//! primary; a replica joins only from another fault set than the copy it joins (I11).
//! Must not know: who asks, and why.

use super::state::{Device, Server};
use crate::id::{DeviceId, Incarnation, MapVersion, SdsId, ShardSequence};
use crate::limits::SEQUENCE_HEADROOM;
use crate::map::{Copies, Member, ShardEntry};
use crate::protocol::membership::{self, Beginning, Change, Proposal, Refused, Registered};
use std::collections::BTreeMap;

/// Devices and their servers, as registered.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) devices: &'a BTreeMap<DeviceId, Device>,
    pub(super) servers: &'a BTreeMap<SdsId, Server>,
    /// How many copies the shards in question have.
    pub(super) copies: Copies,
    /// The version that the command makes, if it changes anything.
    pub(super) made_at: MapVersion,
    /// Devices, in these lives, that are held for gone.
    pub(super) gone: &'a [Member],
}

impl Known<'_> {
    /// The device in its present life, if it serves.
    pub(super) fn serving(&self, device: DeviceId) -> Option<Member> {
        let record = self.devices.get(&device).filter(|record| record.open)?;
        Some(Member { device, incarnation: record.incarnation })
    }

    /// The entry that a proposal makes of this one.
    pub(super) fn commit(&self, entry: &ShardEntry, proposal: &Proposal) -> Result<ShardEntry, Refused> {
        let registered = |device: DeviceId| {
            let record = self.devices.get(&device)?;
            // One that failed is of the life that its server is in, not of the one in which it opened last.
            let incarnation = if record.open { record.incarnation } else { self.servers.get(&record.sds)?.incarnation };
            let (amnesic, cache_lost) = (self.has_forgotten(entry, device), self.has_lost_cache(entry, device));
            let gone = self.gone.contains(&Member { device, incarnation: record.incarnation });
            Some(Registered { incarnation, open: record.open, amnesic, cache_lost, gone })
        };
        let alone = if let Change::Alone { member, .. } = proposal.change { Some(member) } else { None };
        let used = entry.in_sync.members().iter().chain(&alone).filter_map(|member| self.devices.get(&member.device));
        let ceiling = used.map(|device| device.sequence_ceiling).fold(entry.first_sequence, ShardSequence::max);
        let beginning = Beginning { first_sequence: ceiling, made_at: self.made_at };
        let mut next = membership::commit(entry, proposal, registered, beginning)?;
        if let (Change::Grow, [first, second]) = (proposal.change, next.in_sync.members())
            && self.fault_set(first.device) == self.fault_set(second.device)
        {
            return Err(Refused::SameFaultSet);
        }
        let device_of_primary = |entry: &ShardEntry| entry.in_sync.primary().map(|member| member.device);
        // Who is forced may have forgotten what it reserved itself.
        let forced = matches!(proposal.change, Change::Alone { forced: true, .. });
        if forced || device_of_primary(&next) != device_of_primary(entry) {
            next.first_sequence = next.first_sequence.max(ShardSequence::new(ceiling.get().saturating_add(SEQUENCE_HEADROOM)));
        }
        Ok(next)
    }

    /// All members of the shard have restarted, the last of them now: forms it again, if so. `opened` are the devices that
    /// opened just now, perhaps in the life they had.
    pub(super) fn reform(&self, entry: &mut ShardEntry, opened: impl Fn(DeviceId) -> bool) -> Option<DeviceId> {
        let member = entry.in_sync.members().iter().copied().find(|member| opened(member.device))?;
        let again = entry.in_sync.members().len() == 1 && self.serving(member.device) == Some(member);
        let proposal = Proposal { base: entry.epoch, proposer: again.then_some(member), change: Change::Reform };
        *entry = self.commit(entry, &proposal).ok()?;
        Some(member.device)
    }

    /// Lets the replica that fell out of a shard join its sole copy, if it serves and nobody else joins already.
    pub(super) fn rejoin(&self, entry: &mut ShardEntry) -> Option<DeviceId> {
        let [sole] = entry.in_sync.members() else { return None };
        let joiner = self.serving(entry.lapsed?.device)?;
        let is_taken = entry.joining.is_some_and(|joining| joining.device != joiner.device);
        if is_taken || self.fault_set(joiner.device) == self.fault_set(sole.device) {
            return None;
        }
        let proposal = Proposal { base: entry.epoch, proposer: None, change: Change::Join { joiner } };
        *entry = self.commit(entry, &proposal).ok()?;
        Some(joiner.device)
    }

    /// Whether the device has forgotten what it flushed since it became a member (I13). Of one that is no member it is not known
    /// when it was one: if it ever forgot anything, it has. A sole copy of a pool that keeps one is all there is, and goes on.
    pub(super) fn has_forgotten(&self, entry: &ShardEntry, device: DeviceId) -> bool {
        let forgot_in = self.devices.get(&device).and_then(|record| record.forgot_in);
        self.copies == Copies::Two && forgot_in.is_some_and(|life| life > member_since(entry, device))
    }

    /// Whether the device's volatile cache was lost since it became a member.
    fn has_lost_cache(&self, entry: &ShardEntry, device: DeviceId) -> bool {
        let lost_in = self.devices.get(&device).and_then(|record| record.cache_lost_in);
        lost_in.is_some_and(|life| life > member_since(entry, device))
    }

    fn fault_set(&self, device: DeviceId) -> Option<&str> {
        let server = self.servers.get(&self.devices.get(&device)?.sds)?;
        Some(&server.fault_set)
    }
}

/// The life in which the device is a member; before all of them, if it is none.
fn member_since(entry: &ShardEntry, device: DeviceId) -> Incarnation {
    let member = entry.in_sync.members().iter().find(|member| member.device == device);
    member.map(|member| member.incarnation).unwrap_or_default()
}
