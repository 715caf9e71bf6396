//! Copies that go on alone: those whose partner has not come back for too long, and those that an operator forces.
//!
//! Invariants: decided by [`crate::protocol::membership::commit`], shard by shard; who was held for gone is named with the life
//! in which it was registered, and one that has registered since is not gone; what may be lost is counted with the pool, and
//! there is an entry in the audit log (I7).
//! Must not know: why a device is held for gone, and how long somebody waited.

use super::membership::Known;
use super::outcome::{Event, ForceFault, Outcome, Refusal};
use super::state::{AuditEntry, State};
use super::{Cluster, Heard, name};
use crate::id::{DeviceId, ShardSequence};
use crate::limits::AUDIT_ENTRIES_MAX;
use crate::map::{Copies, Member, ShardEntry};
use crate::protocol::membership::{Change, Proposal, Refused};
use std::collections::BTreeSet;

/// What an operator forces.
pub(super) struct Force<'a> {
    pub(super) pool: &'a str,
    pub(super) shard: u32,
    pub(super) device: DeviceId,
    pub(super) gone: &'a [Member],
    pub(super) heard: &'a [Heard],
    pub(super) reason: &'a str,
}

impl Cluster {
    /// Whether going on alone would change anything: a copy that has forgotten needs an operator's word.
    pub(super) fn may_go_alone(&self, survivor: Member, absent: Member) -> bool {
        let State { pools, devices, servers, .. } = &self.state;
        let change = Change::Alone { member: survivor, forced: false };
        pools.values().any(|pool| {
            let known = Known { devices, servers, copies: pool.copies, made_at: self.coming_version(), gone: &[absent] };
            let mut pairs = pool.map.shards.iter().filter(|entry| is_pair_of(entry, survivor.device, absent.device));
            pairs.any(|entry| known.commit(entry, &Proposal { base: entry.epoch, proposer: None, change }).is_ok())
        })
    }

    /// Whether a member has forgotten what it had flushed (I13).
    pub(super) fn has_forgotten(&self, entry: &ShardEntry, device: DeviceId) -> bool {
        let State { devices, servers, .. } = &self.state;
        Known { devices, servers, copies: Copies::Two, made_at: self.coming_version(), gone: &[] }.has_forgotten(entry, device)
    }

    pub(super) fn go_on_alone(
        &mut self,
        now_ms: u64,
        survivor: Member,
        absent: Member,
        heard: &[Heard],
        events: &mut Vec<Event>,
    ) -> Result<Outcome, Refusal> {
        self.note_heard(heard);
        let made_at = self.coming_version();
        let State { pools, devices, servers, .. } = &mut self.state;
        let (mut touched, mut shards, mut unflushed) = (BTreeSet::new(), 0_u32, 0_u32);
        for (id, pool) in pools {
            let known = Known { devices, servers, copies: pool.copies, made_at, gone: &[absent] };
            for entry in &mut pool.map.shards {
                if !is_pair_of(entry, survivor.device, absent.device) {
                    continue;
                }
                let change = Change::Alone { member: survivor, forced: false };
                let Ok(next) = known.commit(entry, &Proposal { base: entry.epoch, proposer: None, change }) else { continue };
                let lost = next.cache_lost_in == next.epoch;
                *entry = next;
                touched.insert(*id);
                shards += 1;
                unflushed += u32::from(lost);
                pool.losses.alone += 1;
                pool.losses.unflushed += u64::from(lost);
            }
        }
        if shards > 0 {
            self.pools_changed(&touched);
            events.push(Event::ShardsAlone { device: survivor.device, absent: absent.device, shards, unflushed });
            let action = format!(
                "{} of device {} went on alone with {shards} shards; {unflushed} of them without what was not flushed",
                self.describe(survivor.device),
                survivor.device
            );
            let reason = format!("{} of device {} has not come back", self.describe(absent.device), absent.device);
            self.note(now_ms, action, reason);
        }
        Ok(Outcome::WentAlone { shards })
    }

    pub(super) fn force_shard(&mut self, now_ms: u64, force: &Force<'_>, events: &mut Vec<Event>) -> Result<Outcome, Refusal> {
        name::check_text("a reason", force.reason)?;
        let id = self.known_pool(force.pool)?;
        let made_at = self.coming_version();
        let refused = |fault| Refusal::Force { pool: force.pool.to_owned(), shard: force.shard, device: force.device, fault };
        let State { pools, devices, servers, .. } = &self.state;
        let Some((copies, entry)) = pools.get(&id).and_then(|pool| Some((pool.copies, pool.map.shards.get(force.shard as usize)?))) else {
            let shards = pools.get(&id).map_or(0, |pool| pool.map.shard_count());
            return Err(Refusal::NoShard { pool: force.pool.to_owned(), shard: force.shard, shards });
        };
        let known = Known { devices, servers, copies, made_at, gone: force.gone };
        let member = known.serving(force.device).filter(|member| !force.gone.contains(member));
        let member = member.ok_or_else(|| refused(ForceFault::NotServing))?;
        // What the others have used counts, too.
        let mut entry = *entry;
        let heard = force.heard.iter().map(|heard| heard.ceiling).fold(ShardSequence::default(), ShardSequence::max);
        entry.first_sequence = entry.first_sequence.max(heard);
        let proposal = Proposal { base: entry.epoch, proposer: None, change: Change::Alone { member, forced: true } };
        let next = known.commit(&entry, &proposal).map_err(|rule| refused(self.force_fault(&entry, member, rule)))?;
        let lost = next.cache_lost_in == next.epoch;
        let (epoch, server) = (next.epoch, self.describe(force.device));
        if let Some(pool) = self.state.pools.get_mut(&id) {
            pool.map.shards[force.shard as usize] = next;
            pool.losses.forced += u64::from(lost);
        }
        self.pools_changed(&BTreeSet::from([id]));
        events.push(Event::ShardForced { pool: id, shard: force.shard, device: force.device, epoch, lost });
        let what = if lost { "what this copy lacks is lost" } else { "this copy had everything" };
        let action =
            format!("shard {}/{} was forced to {server} of device {} at epoch {epoch}; {what}", force.pool, force.shard, force.device);
        self.note(now_ms, action, force.reason.to_owned());
        Ok(Outcome::ShardForced { pool: id, shard: force.shard })
    }

    fn force_fault(&self, entry: &ShardEntry, member: Member, rule: Refused) -> ForceFault {
        match rule {
            Refused::NoCopy => ForceFault::NoCopy,
            _ if entry.in_sync.members() == [member] => ForceFault::Serves,
            _ => {
                let other = entry.in_sync.members().iter().find(|other| other.device != member.device);
                let device = other.map(|other| other.device).unwrap_or_default();
                ForceFault::InSync { device, server: self.describe(device) }
            }
        }
    }

    fn describe(&self, device: DeviceId) -> String {
        let server = self.state.devices.get(&device).and_then(|device| self.state.servers.get(&device.sds));
        server.map_or_else(|| "a server nobody knows".to_owned(), |server| format!("data server {:?}", server.name))
    }

    fn note(&mut self, unix_ms: u64, action: String, reason: String) {
        if self.state.audit.len() >= AUDIT_ENTRIES_MAX {
            self.state.audit.pop_front();
        }
        self.state.audit.push_back(AuditEntry { unix_ms, action, reason });
    }
}

pub(super) fn is_pair_of(entry: &ShardEntry, first: DeviceId, second: DeviceId) -> bool {
    let members = entry.in_sync.members();
    members.len() == 2 && [first, second].iter().all(|device| members.iter().any(|member| member.device == *device))
}
