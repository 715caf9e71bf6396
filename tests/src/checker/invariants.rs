//! What holds at every step, whatever the users see: I1, I2, I4 to I7 and I11 of the shards, and the lease that reads need.
//!
//! It is told what the MDM commits, and what data servers say to clients and to one another when they say it. "Complete" on a
//! copy is what its server has told the primary; that it is true is looked at on the devices now and then.
//!
//! Must not know: machines, networks, disks.

use crate::plan::DRIFT_MAX;
use core::ops::{Range, RangeInclusive};
use sds_core::id::{DeviceId, Epoch, Incarnation, ShardId, ShardSequence};
use sds_core::map::{Member, ShardEntry};
use sds_core::protocol::lease::Terms;
use sds_core::protocol::membership::{Change, Proposal};
use sds_core::store::interface::ExtentKey;
use sds_core::unit::Nanos;
use std::collections::{BTreeMap, BTreeSet};

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Number of its server.
    pub server: usize,
    /// Fault set of its server.
    pub fault_set: String,
    /// The newest life of it that is registered.
    pub incarnation: Incarnation,
}

/// Bytes of an extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// The extent.
    pub key: ExtentKey,
    /// The bytes, in whole blocks.
    pub bytes: Range<u32>,
}

/// How a configuration came to be committed.
#[derive(Clone, Debug)]
pub enum Cause {
    /// Servers had proposed it.
    Proposals(Vec<(ShardId, Proposal)>),
    /// A registration, or the placing of a pool.
    Other,
}

/// What is known of one shard.
#[derive(Clone, Debug, Default)]
struct Shard {
    entry: ShardEntry,
    /// Newest epoch whose primary has answered anything.
    answered: Epoch,
    /// By server that led it: the server that could be promoted then.
    led: BTreeMap<usize, Option<usize>>,
    /// A joiner that was proposed from this epoch.
    growing: Option<(Epoch, Member)>,
    /// A server that has asked for roles to be swapped from this epoch.
    swapping: Option<(Epoch, usize)>,
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct Invariants {
    shards: Vec<Shard>,
    /// Sequences that a copy has told it has.
    complete: BTreeSet<(ShardId, ShardSequence, DeviceId)>,
    /// Sequences that a primary has sent to the other copy, which has not answered, with the epoch, and the blocks that they are for.
    under_way: BTreeMap<(ShardId, Epoch, ShardSequence), Blocks>,
    acknowledged: BTreeSet<(ShardId, ShardSequence)>,
    /// What a copy was given and has not made durable yet.
    unflushed: BTreeSet<(DeviceId, ShardId)>,
    /// When a server last granted another one a lease.
    granted: BTreeMap<(usize, usize), Nanos>,
    found: Vec<String>,
}

impl Invariants {
    /// What was broken since this was last asked.
    pub fn take_found(&mut self) -> Vec<String> {
        core::mem::take(&mut self.found)
    }

    /// The MDM has applied a command: these are the shards now.
    pub fn committed(&mut self, shards: &[ShardEntry], cause: &Cause, home: impl Fn(DeviceId) -> Option<Home>) {
        self.shards.resize(self.shards.len().max(shards.len()), Shard::default());
        for (number, entry) in shards.iter().enumerate() {
            let old = self.shards[number].entry;
            if *entry == old {
                continue;
            }
            let shard = ShardId::new(u32::try_from(number).unwrap_or(u32::MAX));
            let mut found = check_change(shard, &old, entry, cause, &home);
            found.extend(check_members(&old, entry, cause, &home));
            self.found.extend(found.into_iter().map(|fault| format!("shard {number}: {fault}: {old:?} became {entry:?}")));
            let known = &mut self.shards[number];
            known.entry = *entry;
            let server = |member: &Member| home(member.device).map(|home| home.server);
            if let Some(primary) = entry.in_sync.primary().as_ref().and_then(server) {
                known.led.insert(primary, entry.in_sync.members().get(1).and_then(server));
            }
        }
    }

    /// A primary sends a write to the other copy.
    pub fn sent(&mut self, shard: ShardId, epoch: Epoch, sequence: ShardSequence, blocks: Blocks) {
        self.under_way.insert((shard, epoch, sequence), blocks);
    }

    /// A copy says that it has taken what it was given of a shard by a resync.
    pub fn given(&mut self, device: DeviceId, shard: ShardId) {
        self.unflushed.insert((device, shard));
    }

    /// A copy says that it has flushed.
    pub fn flushed(&mut self, device: DeviceId) {
        self.unflushed.retain(|(of, _)| *of != device);
    }

    /// The other copy has said what became of a write that it was sent.
    pub fn is_over(&mut self, shard: ShardId, epoch: Epoch, sequence: ShardSequence) {
        self.under_way.remove(&(shard, epoch, sequence));
    }

    /// A server proposes a change: from then on it needs the joiner (I4), or serves nothing more in this epoch (I8).
    pub fn proposed(&mut self, server: usize, shard: ShardId, proposal: &Proposal) {
        let Some(known) = self.shards.get_mut(shard.get() as usize) else { return };
        let base = proposal.base;
        match proposal.change {
            Change::Grow if known.entry.epoch == base => {
                known.growing = known.entry.joining.map(|joiner| (base, joiner));
                if known.entry.joining.is_some_and(|joiner| self.unflushed.contains(&(joiner.device, shard))) {
                    self.found.push(format!(
                        "shard {shard}: I4: a joiner was proposed that has not flushed what it was given: {:?}",
                        known.entry
                    ));
                }
            }
            Change::Swap => {
                known.swapping = Some((base, server));
                if let Some(((.., sequence), _)) = self.under_way.range(all_of(shard, base)).next() {
                    self.found.push(format!(
                        "shard {shard}: I8: server {server} asked for roles to be swapped, and sequence {sequence} is not over: {:?}",
                        known.entry
                    ));
                }
            }
            _ => {}
        }
    }

    /// A server tells a client what blocks of a shard hold: nothing that is on one copy only (I9).
    pub fn told(&mut self, shard: ShardId, blocks: &Blocks) {
        let Some(known) = self.shards.get(shard.get() as usize) else { return };
        let overlaps =
            |other: &Blocks| other.key == blocks.key && other.bytes.start < blocks.bytes.end && blocks.bytes.start < other.bytes.end;
        // What a joiner was sent and will never answer is over with its sweep.
        let both_in_sync = known.entry.in_sync.members().len() > 1;
        let mut under_way = self.under_way.range(all_of(shard, known.entry.epoch));
        if both_in_sync && let Some(((.., sequence), _)) = under_way.find(|(_, other)| overlaps(other)) {
            self.found.push(format!("shard {shard}: I9: {blocks:?} were read, and sequence {sequence} is not over: {:?}", known.entry));
        }
    }

    /// A server answers a client in the epoch of its request.
    pub fn answered(&mut self, server: usize, shard: ShardId, epoch: Epoch) {
        let Some(known) = self.shards.get(shard.get() as usize) else { return };
        if known.swapping == Some((epoch, server)) {
            self.found.push(format!("shard {shard}: I8: server {server} has asked for roles to be swapped, and serves: {:?}", known.entry));
        }
        if known.entry.epoch == epoch && known.entry.cache_lost.contains(&true) {
            self.found.push(format!("shard {shard}: I8: server {server} serves in an epoch for settling: {:?}", known.entry));
        }
    }

    /// A copy tells its primary that it has a write.
    pub fn replicated(&mut self, device: DeviceId, shard: ShardId, sequence: ShardSequence) {
        self.complete.insert((shard, sequence, device));
    }

    /// A server grants another one a lease.
    pub fn granted(&mut self, by: usize, to: usize, now: Nanos) {
        self.granted.insert((by, to), now);
    }

    /// A server tells a client that a write is done (I2, I4, I5).
    pub fn acknowledged(&mut self, server: usize, shard: ShardId, sequence: ShardSequence, home: impl Fn(DeviceId) -> Option<Home>) {
        if !self.acknowledged.insert((shard, sequence)) {
            self.found.push(format!("shard {shard}: sequence {sequence} was acknowledged twice"));
        }
        let Some(known) = self.shards.get_mut(shard.get() as usize) else { return };
        let lacks = |member: &&Member| {
            home(member.device).is_none_or(|home| home.server != server) && !self.complete.contains(&(shard, sequence, member.device))
        };
        let growing = known.growing.filter(|(base, _)| *base == known.entry.epoch).map(|(_, joiner)| joiner);
        if let Some(member) = known.entry.in_sync.members().iter().chain(&growing).find(lacks) {
            self.found.push(format!(
                "shard {shard}: I2: server {server} acknowledged sequence {sequence}, which {member:?}, in sync at the newest epoch or proposed, does not have: {:?}",
                known.entry
            ));
        }
        if known.entry.in_sync.primary().and_then(|primary| home(primary.device)).is_some_and(|home| home.server == server) {
            known.answered = known.entry.epoch;
        }
    }

    /// A server answers a read (I6, I9).
    pub fn read(&mut self, server: usize, shard: ShardId, now: Nanos, home: impl Fn(DeviceId) -> Option<Home>) {
        let Some(known) = self.shards.get_mut(shard.get() as usize) else { return };
        let leads = known.entry.in_sync.primary().and_then(|primary| home(primary.device)).is_some_and(|home| home.server == server);
        if leads {
            known.answered = known.entry.epoch;
        } else if known.answered == known.entry.epoch {
            self.found.push(format!("shard {shard}: I6: server {server} answered a read after its successor had begun: {:?}", known.entry));
        }
        let holds = |granter: &usize| {
            let last = self.granted.get(&(*granter, server));
            // As long as the slowest clock makes it.
            last.is_some_and(|last| now.since(*last).get() < Terms::DEFAULT.lease.get() * 1_000 / (1_000 - DRIFT_MAX))
        };
        let growing = known.growing.filter(|(base, _)| *base == known.entry.epoch);
        let growing = growing.and_then(|(_, joiner)| home(joiner.device)).map(|home| home.server);
        let lease = match known.led.get(&server) {
            None => Err("has never led it".to_owned()),
            // A sole copy needs none, and nobody can have been promoted beside it.
            Some(None) if leads => match growing {
                Some(joiner) if !holds(&joiner) => Err(format!("has proposed a joiner, and had no lease of server {joiner}")),
                Some(_) | None => Ok(()),
            },
            Some(None) => Err("was its only copy once, and is not now".to_owned()),
            Some(Some(granter)) => {
                let last = self.granted.get(&(*granter, server));
                if holds(granter) { Ok(()) } else { Err(format!("had its last lease of server {granter} at {last:?}, and it is {now:?}")) }
            }
        };
        if let Err(why) = lease {
            self.found.push(format!("shard {shard}: I6: server {server} answered a read and {why}: {:?}", known.entry));
        }
    }
}

/// All writes of an epoch of a shard.
const fn all_of(shard: ShardId, epoch: Epoch) -> RangeInclusive<(ShardId, Epoch, ShardSequence)> {
    RangeInclusive::new((shard, epoch, ShardSequence::new(0)), (shard, epoch, ShardSequence::new(u64::MAX)))
}

/// I1, I7, I11, and the numbers that I8 relies on.
fn check_change(shard: ShardId, old: &ShardEntry, new: &ShardEntry, cause: &Cause, home: impl Fn(DeviceId) -> Option<Home>) -> Vec<String> {
    let mut found = Vec::new();
    if new.epoch <= old.epoch {
        found.push("I1: its configuration changed, and its epoch did not rise".to_owned());
    }
    if let Cause::Proposals(proposals) = cause
        && !proposals.iter().any(|(of, proposal)| *of == shard && proposal.base == old.epoch)
    {
        found.push("I1: nobody had proposed that from the epoch before".to_owned());
    }
    let (before, after) = (old.in_sync.members(), new.in_sync.members());
    let stays = before.iter().any(|member| after.iter().any(|other| other.device == member.device));
    if !before.is_empty() && !stays {
        found.push("I7: no copy that was in sync is left".to_owned());
    }
    let sets: Vec<String> = after.iter().chain(&new.joining).filter_map(|member| home(member.device)).map(|home| home.fault_set).collect();
    if sets.iter().collect::<BTreeSet<_>>().len() < sets.len() {
        found.push(format!("I11: its copies are in fault sets {sets:?}"));
    }
    if let Some(lapsed) = new.lapsed.filter(|lapsed| lapsed.complete >= new.first_sequence) {
        found.push(format!("I8: it begins at {}, which counts as complete already on {lapsed:?}", new.first_sequence));
    }
    found
}

/// I6: who is in sync was so before, has joined, or was formed again in its newest life.
fn check_members(old: &ShardEntry, new: &ShardEntry, cause: &Cause, home: impl Fn(DeviceId) -> Option<Home>) -> Vec<String> {
    let before = old.in_sync.members();
    let mut found = Vec::new();
    for member in new.in_sync.members().iter().filter(|member| !before.is_empty() && !before.contains(member)) {
        let newest = home(member.device).is_some_and(|home| home.incarnation == member.incarnation);
        let again = before.iter().any(|other| other.device == member.device && other.incarnation < member.incarnation);
        let may_be_formed_again = match cause {
            Cause::Other => true,
            Cause::Proposals(proposals) => proposals.iter().any(|(_, proposal)| proposal.change == Change::Reform),
        };
        if !newest {
            found.push(format!("I6: {member:?} is not of its server's newest life"));
        }
        if old.joining != Some(*member) && !(again && may_be_formed_again) {
            found.push(format!("I6: {member:?} neither joined nor was formed again"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use sds_core::map::{InSync, Lapsed};

    const SHARD: ShardId = ShardId::new(0);
    const MS: u64 = 1_000_000;

    fn member(device: u32, life: u64) -> Member {
        Member { device: DeviceId::new(device), incarnation: Incarnation::new(life) }
    }

    /// Device *n* is of server *n* in fault set *n*, but 9, which is in that of 1; all in life 1, but 3, which is in life 2.
    fn home(device: DeviceId) -> Option<Home> {
        let number = device.get();
        let set = if number == 9 { 1 } else { number };
        let incarnation = Incarnation::new(if number == 3 { 2 } else { 1 });
        Some(Home { server: number as usize, fault_set: set.to_string(), incarnation })
    }

    fn entry(epoch: u32, in_sync: InSync) -> ShardEntry {
        ShardEntry { epoch: Epoch::new(epoch), in_sync, ..ShardEntry::default() }
    }

    fn pair(first: u32, second: u32) -> InSync {
        InSync::pair(member(first, 1), member(second, 1))
    }

    fn by(base: u32, change: Change) -> Cause {
        Cause::Proposals(vec![(SHARD, Proposal { base: Epoch::new(base), proposer: Some(member(1, 1)), change })])
    }

    const SHRINK: Change = Change::Shrink { complete: ShardSequence::new(0) };

    /// Two copies, on devices 1 and 2.
    fn placed() -> Invariants {
        let mut known = Invariants::default();
        known.committed(&[entry(1, pair(1, 2))], &Cause::Other, home);
        assert_eq!(known.take_found(), [""; 0]);
        known
    }

    /// What is found when the shard of [`placed`] becomes this.
    fn found(new: ShardEntry, cause: &Cause) -> Vec<String> {
        let mut known = placed();
        known.committed(&[new], cause, home);
        known.take_found()
    }

    #[track_caller]
    fn names(found: &[String], rule: &str) {
        assert!(found.iter().any(|fault| fault.contains(rule)), "{rule} in {found:?}");
    }

    #[test]
    fn a_shard_that_loses_its_second_copy_and_gets_it_back_is_in_order() {
        let mut known = placed();
        let sole = entry(2, InSync::sole(member(1, 1)));
        known.committed(&[sole], &by(1, SHRINK), home);
        known.committed(&[ShardEntry { joining: Some(member(3, 2)), epoch: Epoch::new(3), ..sole }], &Cause::Other, home);
        let grown = InSync::pair(member(1, 1), member(3, 2));
        known.committed(&[entry(4, grown)], &by(3, Change::Grow), home);
        assert_eq!(known.take_found(), [""; 0]);
    }

    #[test]
    fn i1_an_epoch_that_does_not_rise_or_was_not_proposed_is_found() {
        names(&found(entry(1, InSync::sole(member(1, 1))), &by(1, SHRINK)), "I1");
        names(&found(entry(0, pair(1, 2)), &Cause::Other), "I1");
        names(&found(entry(2, InSync::sole(member(1, 1))), &by(0, SHRINK)), "I1");
    }

    #[test]
    fn i6_a_member_that_never_joined_or_is_of_a_former_life_is_found() {
        names(&found(entry(2, InSync::pair(member(1, 1), member(3, 2))), &by(1, Change::Grow)), "I6");
        let formed = InSync::pair(member(1, 1), member(2, 2));
        names(&found(entry(2, formed), &Cause::Other), "newest life");
        names(&found(entry(2, formed), &by(1, Change::Grow)), "neither joined");
    }

    #[test]
    fn i8_an_epoch_that_begins_with_what_counts_as_complete_is_found() {
        let lapsed = Some(Lapsed { device: DeviceId::new(2), complete: ShardSequence::new(7) });
        let begins = |first| ShardEntry { lapsed, first_sequence: ShardSequence::new(first), ..entry(2, InSync::sole(member(1, 1))) };
        names(&found(begins(7), &by(1, SHRINK)), "I8");
        assert_eq!(found(begins(8), &by(1, SHRINK)), [""; 0]);
    }

    #[test]
    fn i7_a_lost_last_copy_is_found() {
        names(&found(entry(2, InSync::sole(member(3, 2))), &Cause::Other), "I7");
        names(&found(entry(2, InSync::default()), &Cause::Other), "I7");
    }

    #[test]
    fn i11_two_copies_in_one_fault_set_are_found() {
        let mut known = Invariants::default();
        known.committed(&[entry(1, pair(1, 9))], &Cause::Other, home);
        names(&known.take_found(), "I11");
        let joining = ShardEntry { joining: Some(member(9, 1)), ..entry(2, InSync::sole(member(1, 1))) };
        names(&found(joining, &Cause::Other), "I11");
    }

    #[test]
    fn i2_an_acknowledgement_without_the_other_copy_or_the_mdm_is_found() {
        let mut known = placed();
        let sequence = ShardSequence::new(5);
        known.replicated(DeviceId::new(2), SHARD, sequence);
        known.acknowledged(1, SHARD, sequence, home);
        assert_eq!(known.take_found(), [""; 0]);
        known.acknowledged(1, SHARD, sequence, home);
        names(&known.take_found(), "twice");
        known.acknowledged(1, SHARD, ShardSequence::new(6), home);
        names(&known.take_found(), "I2");
        // I5: alone, once the MDM knows.
        known.committed(&[entry(2, InSync::sole(member(1, 1)))], &by(1, SHRINK), home);
        known.acknowledged(1, SHARD, ShardSequence::new(7), home);
        assert_eq!(known.take_found(), [""; 0]);
    }

    /// A sole copy with a joiner that it has proposed.
    fn growing() -> Invariants {
        let mut known = placed();
        let joining = ShardEntry { joining: Some(member(2, 1)), ..entry(2, InSync::sole(member(1, 1))) };
        known.committed(&[joining], &by(1, SHRINK), home);
        let proposal = Proposal { base: Epoch::new(2), proposer: Some(member(1, 1)), change: Change::Grow };
        known.proposed(1, SHARD, &proposal);
        assert_eq!(known.take_found(), [""; 0]);
        known
    }

    #[test]
    fn i4_a_joiner_that_is_proposed_before_it_has_flushed_is_found() {
        let mut known = growing();
        let proposal = Proposal { base: Epoch::new(2), proposer: Some(member(1, 1)), change: Change::Grow };
        known.given(DeviceId::new(2), SHARD);
        known.proposed(1, SHARD, &proposal);
        names(&known.take_found(), "flushed");
        known.flushed(DeviceId::new(2));
        known.proposed(1, SHARD, &proposal);
        assert_eq!(known.take_found(), [""; 0]);
    }

    #[test]
    fn i4_a_joiner_that_was_proposed_is_needed_before_it_is_committed() {
        let mut known = growing();
        known.acknowledged(1, SHARD, ShardSequence::new(5), home);
        names(&known.take_found(), "I2");
        known.replicated(DeviceId::new(2), SHARD, ShardSequence::new(6));
        known.acknowledged(1, SHARD, ShardSequence::new(6), home);
        assert_eq!(known.take_found(), [""; 0]);
        known.read(1, SHARD, Nanos::new(MS), home);
        names(&known.take_found(), "lease");
        known.granted(2, 1, Nanos::new(2 * MS));
        known.read(1, SHARD, Nanos::new(3 * MS), home);
        assert_eq!(known.take_found(), [""; 0]);
        // It is given up.
        known.committed(&[entry(3, InSync::sole(member(1, 1)))], &by(2, Change::Drop), home);
        known.acknowledged(1, SHARD, ShardSequence::new(7), home);
        known.read(1, SHARD, Nanos::new(5000 * MS), home);
        assert_eq!(known.take_found(), [""; 0]);
    }

    #[test]
    fn i8_an_epoch_for_settling_that_is_served_is_found() {
        let mut known = placed();
        let formed = ShardEntry { cache_lost: [false, true], ..entry(2, pair(1, 2)) };
        known.committed(&[formed], &Cause::Other, home);
        known.answered(1, SHARD, Epoch::new(1));
        assert_eq!(known.take_found(), [""; 0]);
        known.answered(1, SHARD, Epoch::new(2));
        names(&known.take_found(), "for settling");
    }

    fn blocks(bytes: Range<u32>) -> Blocks {
        Blocks { key: ExtentKey::default(), bytes }
    }

    #[test]
    fn i9_a_read_of_what_is_on_one_copy_only_is_found() {
        let mut known = placed();
        let (epoch, sequence) = (Epoch::new(1), ShardSequence::new(5));
        known.sent(SHARD, epoch, sequence, blocks(4096..8192));
        known.told(SHARD, &blocks(0..4096));
        assert_eq!(known.take_found(), [""; 0]);
        known.told(SHARD, &blocks(4096..12288));
        names(&known.take_found(), "I9");
        known.is_over(SHARD, epoch, sequence);
        known.told(SHARD, &blocks(4096..12288));
        assert_eq!(known.take_found(), [""; 0]);
    }

    #[test]
    fn i8_a_swap_of_what_is_not_drained_or_is_served_on_is_found() {
        let mut known = placed();
        let swap = Proposal { base: Epoch::new(1), proposer: Some(member(1, 1)), change: Change::Swap };
        let sequence = ShardSequence::new(5);
        known.sent(SHARD, Epoch::new(1), sequence, blocks(0..4096));
        known.proposed(1, SHARD, &swap);
        names(&known.take_found(), "is not over");
        known.is_over(SHARD, Epoch::new(1), sequence);
        known.proposed(1, SHARD, &swap);
        known.answered(2, SHARD, Epoch::new(1));
        known.answered(1, SHARD, Epoch::new(2));
        assert_eq!(known.take_found(), [""; 0]);
        known.answered(1, SHARD, Epoch::new(1));
        names(&known.take_found(), "serves");
    }

    #[test]
    fn i6_a_read_without_a_lease_or_after_the_successor_has_begun_is_found() {
        let mut known = placed();
        let at = |ms: u64| Nanos::new(ms * MS);
        known.read(1, SHARD, at(1), home);
        names(&known.take_found(), "lease");
        known.granted(2, 1, at(10));
        known.read(1, SHARD, at(700), home);
        assert_eq!(known.take_found(), [""; 0]);
        known.read(1, SHARD, at(952), home);
        names(&known.take_found(), "lease");
        known.read(2, SHARD, at(700), home);
        names(&known.take_found(), "never led");
        // The other is promoted; the former primary may read until its lease ends, but not after the other has begun.
        known.granted(2, 1, at(1000));
        known.committed(&[entry(2, InSync::sole(member(2, 1)))], &by(1, SHRINK), home);
        known.read(1, SHARD, at(1700), home);
        assert_eq!(known.take_found(), [""; 0]);
        known.read(2, SHARD, at(1701), home);
        assert_eq!(known.take_found(), [""; 0]);
        known.read(1, SHARD, at(1702), home);
        names(&known.take_found(), "successor");
    }
}
