//! Where the copies of each shard are, by what the MDM has committed: what may be taken away without
//! taking a last copy, which blocks a power cut has taken the last cache of, and whether copies are equal.
//!
//! Must not know: how the servers keep copies equal.

use super::World;
use crate::atlas::BlockKey;
use crate::autopsy::{Autopsy, Held, Holdings};
use crate::checker::invariants::Cause;
use crate::history::Mark;
use crate::network::ProcessIndex;
use crate::plan::Replication;
use sds_core::cluster::{Change, Cluster, Command};
use sds_core::id::{DeviceId, Epoch, LogSequence, VolumeId};
use sds_core::map::{Copies, Member, ShardEntry};
use sds_core::protocol::settle::is_for_settling;
use sds_core::shard::shard_of;
use sds_core::unit::{BLOCK_BYTES, ByteOffset};
use std::collections::BTreeMap;

/// A block of which a copy has failed a write, in a shard that had another copy in sync then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wound {
    shard: usize,
    epoch: Epoch,
    block: BlockKey,
}

/// Differences between two copies that are told.
const DIFFERENCES_TOLD: usize = 3;

impl World {
    /// The shards of the pool, once placed.
    pub(super) fn shards(&self) -> Vec<ShardEntry> {
        shards_of(self.mdm.cluster())
    }

    /// The disk that a device is.
    pub(super) fn disk_of(&self, device: DeviceId) -> Option<usize> {
        let uuid = self.mdm.cluster().device(device)?.uuid;
        self.uuids.iter().position(|known| *known == uuid)
    }

    /// The server whose device it is.
    pub(super) fn server_of(&self, device: DeviceId) -> Option<usize> {
        let cluster = self.mdm.cluster();
        let uuid = cluster.server(cluster.device(device)?.sds)?.uuid;
        self.servers.iter().position(|server| server.uuid == uuid)
    }

    /// Whether a member serves, in the life that it is a member in, and was not asked to stop.
    fn is_well(&self, member: Member) -> bool {
        let cluster = self.mdm.cluster();
        let (Some(server), Some(device)) = (self.server_of(member.device), cluster.device(member.device)) else { return false };
        let (node, known) = (&self.servers[server], cluster.server(device.sds));
        let is_present_life = known.is_some_and(|known| known.life == node.life_mark && known.incarnation == member.incarnation);
        let is_doomed = self.doomed.iter().any(|disk| self.uuids[*disk] == device.uuid);
        let is_wounded = self.disk_of(member.device).is_some_and(|disk| self.is_wounded(disk));
        let has_failed = is_doomed || is_wounded || self.failed_devices.contains(&member.device);
        node.machine.is_some() && !node.stopping && !has_failed && is_present_life && device.open
    }

    /// Whether a write has failed on a disk, and the shard still counts it as in sync as then.
    fn is_wounded(&self, disk: usize) -> bool {
        let Some(wounds) = self.wounds.get(&disk) else { return false };
        let shards = self.shards();
        wounds.iter().any(|wound| shards.get(wound.shard).is_some_and(|entry| entry.epoch == wound.epoch))
    }

    /// A write of a block will fail on a disk, and the other copy of the block goes on.
    pub(super) fn wound(&mut self, disk: usize, volume: u32, lba: u64) {
        let Some(shard) = self.place_of(volume, lba).map(|shard| shard as usize) else { return };
        if let Some(entry) = self.shards().get(shard) {
            self.wounds.entry(disk).or_default().push(Wound { shard, epoch: entry.epoch, block: (volume, lba) });
        }
    }

    /// The MDM has applied commands: what is wounded and alone in sync now has nobody to take the write from.
    pub(super) fn tell_wounded(&mut self) {
        if self.wounds.is_empty() {
            return;
        }
        let shards = self.shards();
        let is_sole = |disk: usize, wound: &Wound| match shards.get(wound.shard).map(|entry| entry.in_sync) {
            Some(in_sync) => matches!(in_sync.members(), [sole] if self.disk_of(sole.device) == Some(disk)),
            None => false,
        };
        let all = self.wounds.iter().flat_map(|(disk, wounds)| wounds.iter().map(|wound| (*disk, *wound)));
        let exposed: Vec<BlockKey> = all.filter(|(disk, wound)| is_sole(*disk, wound)).map(|(_, wound)| wound.block).collect();
        for (volume, lba) in exposed {
            self.mark(Mark::Damaged { volume, lba });
        }
        for wounds in self.wounds.values_mut() {
            wounds.retain(|wound| shards.get(wound.shard).is_some_and(|entry| entry.epoch == wound.epoch));
        }
        self.wounds.retain(|_, wounds| !wounds.is_empty());
    }

    /// Whether every shard has as many copies as it should, each in sync in its present life, and nothing is left to be done.
    pub(super) fn all_is_clean(&self) -> bool {
        self.shards().iter().all(|entry| self.is_clean(entry))
    }

    pub(super) fn is_clean(&self, entry: &ShardEntry) -> bool {
        let members = entry.in_sync.members();
        !is_for_settling(entry)
            && members.len() == self.plan.copies.count()
            && entry.joining.is_none()
            && members.iter().all(|member| self.is_well(*member))
    }

    /// Shards whose copies are both in sync in their present lives.
    pub(super) fn whole_pairs(&self) -> Vec<Option<ShardEntry>> {
        let is_whole = |entry: &ShardEntry| !is_for_settling(entry) && entry.in_sync.members().iter().all(|member| self.is_well(*member));
        self.shards().into_iter().map(|entry| (entry.in_sync.members().len() == 2 && is_whole(&entry)).then_some(entry)).collect()
    }

    /// Whether a process may end, by the rule that two copies always leave a good one.
    pub(super) fn may_end(&self, process: ProcessIndex) -> bool {
        if self.plan.copies == Copies::One || self.processes[process.0].servers.is_empty() {
            return true;
        }
        match self.plan.replication {
            Replication::Whole => false,
            Replication::Degrades | Replication::Returns => self.shards().iter().all(|entry| self.survives(entry, process)),
            Replication::Settles => true,
        }
    }

    /// Whether a device may have forgotten something: another copy of everything it holds is in sync and well, and nothing of it was
    /// damaged on purpose.
    pub(super) fn may_forget(&self, disk: usize) -> bool {
        let server = self.server_of_disk(disk);
        let process = self.servers[server].process;
        let alone_on_host = self.processes[process.0].servers.len() == 1 && self.servers[server].disks.len() == 1;
        let survives = |entry: &ShardEntry| {
            let members = entry.in_sync.members();
            let is_it = |member: &Member| self.disk_of(member.device) == Some(disk);
            !members.iter().any(is_it) || members.iter().any(|member| !is_it(member) && self.is_well(*member))
        };
        self.plan.copies == Copies::Two
            && self.plan.replication == Replication::Settles
            && alone_on_host
            && !self.is_damaged(disk)
            && self.shards().iter().all(survives)
    }

    /// Whether the MDM has heard of all that a device has made durable: only then can it see that something was forgotten.
    pub(super) fn mdm_knows_of(&self, disk: usize) -> bool {
        let Some(machine) = self.servers[self.server_of_disk(disk)].machine.as_ref() else { return false };
        machine
            .devices()
            .iter()
            .filter_map(|status| Some((status.device?, status.statistics.flushed)))
            .all(|(device, flushed)| self.mdm.flushed_of(device) >= flushed && self.mdm.is_up())
    }

    /// The newest flushed positions that the MDM has heard of a device of a disk.
    pub(super) fn positions_heard(&self, disk: usize) -> Vec<(Member, LogSequence)> {
        let devices = self.mdm.cluster().devices().filter(|(id, _)| self.disk_of(*id) == Some(disk));
        devices.map(|(device, record)| (Member { device, incarnation: record.incarnation }, self.mdm.flushed_of(device))).collect()
    }

    /// Whether what is heard of a device that goes back in time is recorded, or the device has come back: then the MDM may be lost.
    pub(super) fn mdm_may_go(&mut self) -> bool {
        let cluster = self.mdm.cluster();
        self.only_heard.retain(|(member, flushed)| {
            cluster.device(member.device).is_some_and(|record| record.incarnation == member.incarnation && record.flushed < *flushed)
        });
        self.only_heard.is_empty()
    }

    fn survives(&self, entry: &ShardEntry, without: ProcessIndex) -> bool {
        let is_there = |member: &Member| self.server_of(member.device).is_some_and(|server| self.servers[server].process == without);
        let members = entry.in_sync.members();
        members.len() < 2 || !members.iter().any(is_there) || members.iter().any(|member| !is_there(member) && self.is_well(*member))
    }

    /// A host's caches have fallen.
    pub(super) fn caches_fall(&mut self, host: usize) {
        for (shard, entry) in self.shards().iter().enumerate() {
            for member in entry.in_sync.members() {
                let of_host = |server: usize| self.processes[self.servers[server].process.0].host == host;
                if self.server_of(member.device).is_some_and(of_host) {
                    self.fallen.insert((shard, member.device));
                }
            }
        }
        self.other_copies_fall(host);
        self.tell_lost_caches();
    }

    /// The MDM has applied commands.
    pub(super) fn configuration_may_have_changed(&mut self) {
        self.tell_exposed();
        self.tell_wounded();
        if self.fallen.is_empty() {
            return;
        }
        let shards = self.shards();
        let is_member = |shard: usize, device: DeviceId| {
            shards.get(shard).is_some_and(|entry| entry.in_sync.members().iter().any(|member| member.device == device))
        };
        self.fallen.retain(|(shard, device)| is_member(*shard, *device));
        self.tell_lost_caches();
    }

    /// Tells the checker of the shards whose every copy in sync has lost its cache since it was equal to one that had not.
    pub(super) fn tell_lost_caches(&mut self) {
        if self.fallen.is_empty() {
            return;
        }
        for (shard, entry) in self.shards().iter().enumerate() {
            let members = entry.in_sync.members();
            if !members.is_empty() && members.iter().all(|member| self.fallen.contains(&(shard, member.device))) {
                self.fallen.retain(|(of, _)| *of != shard);
                self.mark(Mark::PowerCut { place: place(shard) });
            }
        }
    }

    /// A server's device fails: requests to shards that it has the only copy of may fail.
    pub(super) fn device_in_trouble(&mut self, server: usize) {
        let _ = self.troubled_hosts.insert(self.processes[self.servers[server].process.0].host);
        for (shard, entry) in self.shards().iter().enumerate() {
            if let [sole] = entry.in_sync.members()
                && self.server_of(sole.device) == Some(server)
            {
                self.mark(Mark::DeviceTrouble { place: place(shard) });
            }
        }
    }

    /// A device's life in its process is over.
    pub(super) fn device_failed(&mut self, disk: usize) {
        if let Some((device, _)) = self.mdm.cluster().device_by_uuid(self.uuids[disk]) {
            self.failed_devices.insert(device);
        }
    }

    /// Whether the other copy of a block goes on when this server's is lost.
    pub(super) fn has_another_copy(&self, volume: u32, lba: u64) -> bool {
        let shard = self.place_of(volume, lba).map(|shard| shard as usize);
        shard.and_then(|shard| self.shards().get(shard).copied()).is_some_and(|entry| entry.in_sync.members().len() == 2)
    }

    /// The shard that a block belongs to.
    pub(super) fn place_of(&self, volume: u32, lba: u64) -> Option<u32> {
        let cluster = self.mdm.cluster();
        let volume = VolumeId::new(volume);
        let known = cluster.volume(volume).or_else(|| self.former_volumes.get(&volume))?;
        let pool = cluster.pool(known.pool)?;
        if pool.map.shard_count() == 0 {
            return None;
        }
        let at = known.stripe.locate(ByteOffset::new(lba * u64::from(BLOCK_BYTES)));
        Some(shard_of(known.tree, at.extent, pool.map.shard_count()).get())
    }

    /// While the servers are down: copies in sync hold the same.
    pub(super) fn check_copies(&mut self, shards: &[Option<ShardEntry>]) {
        let mut known: BTreeMap<DeviceId, Holdings> = BTreeMap::new();
        let members = shards.iter().flatten().flat_map(|entry| entry.in_sync.members());
        for device in members.map(|member| member.device).collect::<Vec<_>>() {
            if known.contains_key(&device) {
                continue;
            }
            let (Some(disk), Some(server)) = (self.disk_of(device), self.server_of(device)) else { continue };
            match Autopsy::of(&self.disks[disk], self.store_options(server, disk)).and_then(|mut autopsy| autopsy.holdings()) {
                Ok(holdings) => drop(known.insert(device, holdings)),
                Err(error) => return self.violate(format!("disk {disk} of server {server} does not show what it holds: {error}")),
            }
        }
        for (shard, entry) in shards.iter().enumerate() {
            let Some(entry) = entry else { continue };
            let [first, second] = *entry.in_sync.members() else { continue };
            let of_shard = |device: DeviceId| -> Option<Holdings> {
                let count = u32::try_from(shards.len()).ok()?;
                let here = |key: &sds_core::store::interface::ExtentKey| shard_of(key.tree, key.extent, count).get() == place(shard);
                Some(known.get(&device)?.iter().filter(|((key, _), _)| here(key)).map(|(at, held)| (*at, *held)).collect())
            };
            let (Some(ours), Some(theirs)) = (of_shard(first.device), of_shard(second.device)) else { continue };
            let (mut ours, mut theirs) = (ours, theirs);
            self.leave_out_hurt([first.device, second.device], &mut ours, &mut theirs);
            self.counts.copies_compared += 1;
            if let Some(story) = difference(&ours, &theirs) {
                self.violate(format!("shard {shard} of {entry:?}: the copies differ: {story}"));
            }
            for (device, held, others) in [(first.device, &ours, &theirs), (second.device, &theirs, &ours)] {
                self.check_damage(device, held, others);
            }
        }
    }
}

/// The shards of the pool, once placed.
pub(super) fn shards_of(cluster: &Cluster) -> Vec<ShardEntry> {
    let pool = cluster.pools().find(|(_, pool)| pool.name == super::control::POOL);
    pool.map(|(_, pool)| pool.map.shards.clone()).unwrap_or_default()
}

/// What a command may change shards by.
pub(super) fn cause_of(command: &Command) -> Cause {
    match &command.change {
        Change::Propose { proposals, .. } => Cause::Proposals(proposals.iter().map(|(_, shard, proposal)| (*shard, *proposal)).collect()),
        Change::Initialise { .. }
        | Change::RegisterSds(_)
        | Change::CreatePool { .. }
        | Change::CreateVolume(_)
        | Change::DeleteVolume { .. }
        | Change::OpenSession(_)
        | Change::CloseSession { .. }
        | Change::TreesFreed { .. }
        | Change::GoOnAlone { .. }
        | Change::ForceShard { .. } => Cause::Other,
    }
}

fn place(shard: usize) -> u32 {
    u32::try_from(shard).expect("few shards")
}

/// What one copy has and the other has not; `None` if they are equal.
fn difference(primary: &Holdings, secondary: &Holdings) -> Option<String> {
    let keys: std::collections::BTreeSet<_> = primary.keys().chain(secondary.keys()).collect();
    let differ: Vec<String> = keys
        .into_iter()
        .filter(|at| primary.get(at).map(Held::recorded) != secondary.get(at).map(Held::recorded))
        .map(|at| format!("{at:?}: {:?} and {:?}", primary.get(at), secondary.get(at)))
        .collect();
    let count = differ.len();
    (count > 0).then(|| format!("{count} blocks, {}", differ.into_iter().take(DIFFERENCES_TOLD).collect::<Vec<_>>().join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sds_core::checksum::Checksum;
    use sds_core::id::ShardSequence;
    use sds_core::store::interface::ExtentKey;

    fn held(version: u64, byte: u8) -> Held {
        Held { version: ShardSequence::new(version), checksum: Checksum::of(&[byte; 16]), sound: true }
    }

    #[test]
    fn copies_differ_by_a_block_a_version_or_a_byte() {
        let one: Holdings = [((ExtentKey::default(), 3), held(1, 1))].into();
        assert_eq!(difference(&one, &one), None);
        for other in [Holdings::new(), [((ExtentKey::default(), 3), held(2, 1))].into(), [((ExtentKey::default(), 3), held(1, 2))].into()] {
            assert!(difference(&one, &other).is_some_and(|story| story.starts_with("1 blocks")));
            assert!(difference(&other, &one).is_some());
        }
    }
}
