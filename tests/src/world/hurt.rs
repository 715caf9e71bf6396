//! Storage faults with two copies: which blocks were damaged on which copy, and from when on the other may not help.
//!
//! Never both copies of one block, and no block twice. Until the other copy is gone a damaged block is nothing that a client may
//! see, so the checker is told of it only when it is *exposed*: the damaged copy is alone in sync (two faults at once), or the power
//! cut that took the other's cache may have taken the only good bytes. Then an error is right; other bytes never are.
//!
//! Must not know: how the servers repair.

use super::{Phase, World};
use crate::atlas::BlockKey;
use crate::autopsy::Holdings;
use crate::disk::Piece;
use crate::history::Mark;
use crate::plan::Replication;
use sds_core::id::{DeviceId, VolumeId};
use sds_core::map::Copies;
use sds_core::store::interface::ExtentKey;
use sds_core::unit::{BLOCK_BYTES, ByteOffset, Nanos};

/// A block that was damaged on one copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hurt {
    disk: usize,
    how: Hurting,
    /// The checker was told: the other copy may not help.
    exposed: bool,
}

/// How a block was damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hurting {
    /// At rest, when the other copy had the same bytes durably.
    AtRest,
    /// Its write was lost: the other copy's may still sit in a cache.
    Written,
}

/// What a scenario does to one copy of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// A bit of this byte changes.
    Flip(usize),
    /// It cannot be read until it is written.
    Unreadable,
}

/// A write that nobody waits for any more is over after this.
const WRITE_TIME: Nanos = Nanos::from_millis(20_000);

impl World {
    /// Whether a block at rest may be damaged on a disk: with two copies, if the other one has the same bytes at rest.
    pub(super) fn may_hurt(&self, disk: usize, block: BlockKey) -> bool {
        if self.plan.copies == Copies::One {
            return true;
        }
        let Some(other) = self.other_disk(disk, block) else { return false };
        let pieces = |disk: usize| {
            let at_rest = self.disks[disk].medium().settled();
            at_rest.filter(|(_, piece)| self.atlas.identify(piece) == Some(block)).map(|(_, piece)| piece).collect::<Vec<&Piece>>()
        };
        match (pieces(disk).as_slice(), pieces(other).as_slice()) {
            // Were there more, which is the present one could not be said.
            ([here], [there]) => here == there,
            _ => false,
        }
    }

    /// Whether a write of a block may be lost on a disk: with two copies, if the other one gets it as well.
    pub(super) fn may_lose(&self, disk: usize, block: BlockKey) -> bool {
        self.plan.copies == Copies::One || self.other_disk(disk, block).is_some()
    }

    /// The disk with the other copy of a block, if both are in sync and nothing happened to either.
    fn other_disk(&self, disk: usize, block: BlockKey) -> Option<usize> {
        if self.plan.replication < Replication::Returns || self.hurt.contains_key(&block) {
            return None;
        }
        let entry = self.shards().get(self.place_of(block.0, block.1)? as usize).copied()?;
        let [first, second] = *entry.in_sync.members() else { return None };
        let (first, second) = (self.disk_of(first.device)?, self.disk_of(second.device)?);
        let other = if first == disk { second } else { first };
        if self.disks[other].held_until() > self.now() {
            return None;
        }
        (self.is_clean(&entry) && [first, second].contains(&disk)).then_some(other)
    }

    /// A block is damaged on a disk.
    pub(super) fn hurt(&mut self, disk: usize, block: BlockKey, how: Hurting) {
        let (volume, lba) = block;
        if self.plan.copies == Copies::One {
            return self.mark(Mark::Damaged { volume, lba });
        }
        if let Some(known) = self.hurt.get(&block).copied() {
            // A misdirected write has met what came in its way since it was drawn.
            if known.disk != disk && !known.exposed {
                self.mark(Mark::Damaged { volume, lba });
            }
        }
        let now = self.now();
        self.trace.tell(now, || format!("block {lba} of volume {volume} is damaged on disk {disk}: {how:?}"));
        self.hurt.insert(block, Hurt { disk, how, exposed: false });
    }

    /// The MDM has applied commands: where a damaged copy is alone in sync, its other copy does not help any more.
    pub(super) fn tell_exposed(&mut self) {
        if self.hurt.is_empty() {
            return;
        }
        let shards = self.shards();
        self.expose(|world, (volume, lba), hurt| {
            let entry = world.place_of(volume, lba).and_then(|shard| shards.get(shard as usize));
            entry.is_some_and(|entry| match entry.in_sync.members() {
                [sole] => world.disk_of(sole.device) == Some(hurt.disk),
                _ => false,
            })
        });
    }

    /// A host's caches have fallen: writes that were lost on a disk may have been whole only on another of this host's.
    pub(super) fn other_copies_fall(&mut self, host: usize) {
        let of_host = self.servers.iter().filter(|server| self.processes[server.process.0].host == host);
        let fallen: Vec<usize> = of_host.flat_map(|server| server.disks.clone()).collect();
        self.expose(|_, _, hurt| hurt.how == Hurting::Written && fallen.iter().any(|disk| *disk != hurt.disk));
    }

    /// A disk will not answer for longer than is waited for it, or fails: what is damaged elsewhere cannot be read from it.
    pub(super) fn other_copies_hang(&mut self, disk: usize) {
        self.expose(|_, _, hurt| hurt.disk != disk);
    }

    /// A process has died. Where that was the last of both copies of a damaged block that was being written to, the whole copy may have bytes that
    /// no record names, and the other one too: nobody knows what is right.
    pub(super) fn tell_overwritten(&mut self) {
        if self.hurt.is_empty() {
            return;
        }
        let (shards, now) = (self.shards(), self.now());
        let is_dead = |device: DeviceId| {
            let server = self.server_of(device);
            server.is_none_or(|server| !self.processes[self.servers[server].process.0].alive)
        };
        let both_dead: Vec<bool> = shards.iter().map(|entry| entry.in_sync.members().iter().all(|member| is_dead(member.device))).collect();
        let writes: Vec<(u32, u64, u64)> = self.history.unanswered_writes(now, WRITE_TIME).collect();
        self.expose(|world, (volume, lba), _| {
            let shard = world.place_of(volume, lba).map(|shard| shard as usize);
            let bytes = lba * u64::from(BLOCK_BYTES)..(lba + 1) * u64::from(BLOCK_BYTES);
            shard.and_then(|shard| both_dead.get(shard)).is_some_and(|dead| *dead)
                && writes.iter().any(|(of, from, to)| *of == volume && *from < bytes.end && bytes.start < *to)
        });
    }

    fn expose(&mut self, is_exposed: impl Fn(&Self, BlockKey, &Hurt) -> bool) {
        let exposed: Vec<BlockKey> =
            self.hurt.iter().filter(|(block, hurt)| !hurt.exposed && is_exposed(self, **block, hurt)).map(|(block, _)| *block).collect();
        for (volume, lba) in exposed {
            if let Some(hurt) = self.hurt.get_mut(&(volume, lba)) {
                hurt.exposed = true;
            }
            self.mark(Mark::Damaged { volume, lba });
        }
    }

    /// Where a block lies in its extent.
    fn home_of_block(&self, (volume, lba): BlockKey) -> Option<(ExtentKey, u32)> {
        let known = self.mdm.cluster().volume(VolumeId::new(volume))?;
        let at = known.stripe.locate(ByteOffset::new(lba * u64::from(BLOCK_BYTES)));
        Some((ExtentKey { tree: known.tree, extent: at.extent, ..ExtentKey::default() }, at.offset / BLOCK_BYTES))
    }

    /// Whether anything was damaged on a disk.
    pub(super) fn is_damaged(&self, disk: usize) -> bool {
        self.hurt.values().any(|hurt| hurt.disk == disk)
    }

    /// Whether a block was damaged on a disk.
    pub(super) fn is_hurt(&self, disk: usize, key: ExtentKey, block: u32) -> bool {
        self.hurt.iter().any(|(at, hurt)| hurt.disk == disk && self.home_of_block(*at) == Some((key, block)))
    }

    /// A server has kept bytes that no record names in an extent. Of an exposed block, settled alone, they are the damaged ones.
    pub(super) fn kept_unrecorded(&mut self, server: usize, key: ExtentKey) {
        let disks = &self.servers[server].disks;
        let is_it = |at: &BlockKey, hurt: &Hurt| {
            hurt.exposed && disks.contains(&hurt.disk) && self.home_of_block(*at).is_some_and(|(extent, _)| extent == key)
        };
        let kept: Vec<BlockKey> = self.hurt.iter().filter(|(at, hurt)| is_it(at, hurt)).map(|(at, _)| *at).collect();
        for (volume, lba) in kept {
            self.mark(Mark::Kept { volume, lba });
        }
    }

    /// A clean stop may leave an extent unsettled, and an autopsy settles alone: bytes that were damaged on purpose in it look as if they
    /// were recorded. Of equal versions they are left out; what a client gets is seen when everything is read.
    pub(super) fn leave_out_hurt(&mut self, devices: [DeviceId; 2], ours: &mut Holdings, theirs: &mut Holdings) {
        let disks: Vec<usize> = devices.iter().filter_map(|device| self.disk_of(*device)).collect();
        for (at, hurt) in &self.hurt {
            let Some((key, block)) = self.home_of_block(*at).filter(|_| disks.contains(&hurt.disk)) else { continue };
            let Ok(block) = u8::try_from(block) else { continue };
            // No copy need have an exposed one right, and each settles it by itself here.
            if hurt.exposed {
                ours.remove(&(key, block));
                theirs.remove(&(key, block));
                continue;
            }
            let (Some(mine), Some(other)) = (ours.get(&(key, block)), theirs.get(&(key, block))) else { continue };
            if mine.sound && other.sound && mine.version == other.version && mine.checksum != other.checksum {
                ours.remove(&(key, block));
                theirs.remove(&(key, block));
                self.counts.damaged_at_rest += 1;
            }
        }
    }

    /// What is damaged on a copy was damaged on purpose, and is right on the other.
    pub(super) fn check_damage(&mut self, device: DeviceId, held: &Holdings, others: &Holdings) {
        let Some(disk) = self.disk_of(device) else { return };
        for ((key, block), _) in held.iter().filter(|(_, held)| !held.sound) {
            self.counts.damaged_at_rest += 1;
            let is_exposed = self.hurt.iter().any(|(at, hurt)| hurt.exposed && self.home_of_block(*at) == Some((*key, u32::from(*block))));
            let is_there = others.get(&(*key, *block)).is_some_and(|other| other.sound);
            let hurt = is_there && self.is_hurt(disk, *key, u32::from(*block));
            if !is_exposed && !hurt {
                self.violate(format!("{key:?} block {block} on disk {disk} is not what is recorded, and right elsewhere: {is_there}"));
            }
        }
    }

    /// A server's machine is about to be gone.
    pub(super) fn count_repairs(&mut self, server: usize) {
        self.counts.repaired += self.servers[server].machine.as_ref().map_or(0, |machine| machine.status().resync.repaired);
    }

    /// Blocks repaired from the other copy so far, by servers that live.
    #[must_use]
    pub fn repaired(&self) -> u64 {
        self.servers.iter().filter_map(|server| server.machine.as_ref()).map(|machine| machine.status().resync.repaired).sum()
    }

    /// Damages a block at rest on one server's copy; `false` if the other one is not as good as it.
    pub fn harm(&mut self, server: usize, volume: u32, lba: u64, harm: Harm) -> bool {
        debug_assert_eq!(self.phase, Phase::Troubled);
        let block = (volume, lba);
        for disk in self.servers[server].disks.clone() {
            let mut pieces = self.disks[disk].medium().settled().filter(|(_, piece)| self.atlas.identify(piece) == Some(block));
            let Some(piece) = pieces.next().map(|(number, _)| number) else { continue };
            drop(pieces);
            if self.may_hurt(disk, block) {
                self.hurt(disk, block, Hurting::AtRest);
                self.counts.faults += 1;
                let medium = self.disks[disk].medium_mut();
                match harm {
                    Harm::Flip(byte) => medium.flip(piece, byte, 1),
                    Harm::Unreadable => medium.make_unreadable(piece),
                }
                return true;
            }
        }
        false
    }
}
