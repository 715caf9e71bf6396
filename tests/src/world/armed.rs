//! Faults that wait for a moment that they fit: a write, a frame, a proposal.
//!
//! Invariant: what has waited is used up by the first moment that it fits, and what a fault destroys is told to the checker before
//! anybody can see it.

use super::disks::LostBlock;
use super::hurt::Hurting;
use super::{Event, Phase, Trouble, World};
use crate::canary::Canary;
use crate::disk::{Fate, Operation, Request};
use crate::history::Mark;
use crate::network::{Party, ProcessIndex};
use sds_core::format::geometry::Geometry;
use sds_core::id::ShardId;
use sds_core::machine::LinkId;
use sds_core::unit::{BLOCK_BYTES, BlockIndex, ByteOffset, Nanos};

/// A proposal that takes longer has been lost.
const SHRINK_TIME: Nanos = Nanos::from_millis(5_000);

/// A fault that the next fitting request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Armed {
    /// The next data write is lost.
    Lost,
    /// The next data write goes elsewhere.
    Misdirected,
    /// The next write or flush of this disk fails.
    Error { disk: usize, short: bool },
    /// The next payload is damaged.
    Payload,
    /// The next proposal of a data server is a bad moment.
    Ambush,
    /// The link of the next frame that changes blocks breaks while it is under way, or soon after.
    LinkLoss,
    /// The next read goes wrong once.
    Read(Glitch),
    /// The process of the next disk write (or durable one) dies before, at or soon after its end; or its host loses power.
    Blow { power: bool, durable: bool },
}

/// What goes wrong with a read that is right when it is done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glitch {
    /// It fails.
    Error,
    /// It ends early.
    Short,
    /// It brings a wrong bit.
    Bit,
}

/// A read of the same disk within this time may be one that is done again.
const AGAIN_TIME: Nanos = Nanos::from_millis(60_000);

impl World {
    /// A server has proposed changes of shards: if this is to be a bad moment, it is one for it or for the other copy's server. What
    /// nobody hears of is committed all the same.
    pub(super) fn ambush(&mut self, server: usize, shards: impl Iterator<Item = ShardId>) {
        let Some(position) = self.armed.iter().position(|armed| *armed == Armed::Ambush) else { return };
        let process = self.servers[server].process;
        let known = self.shards();
        let entries = shards.filter_map(|shard| known.get(shard.get() as usize).copied());
        let devices = entries.flat_map(|entry| entry.in_sync.members().iter().copied().chain(entry.joining).collect::<Vec<_>>());
        let servers = devices.filter_map(|member| self.server_of(member.device)).map(|server| self.servers[server].process);
        let Some(other) = servers.into_iter().find(|other| *other != process) else { return };
        self.armed.remove(position);
        let until = self.now().plus(Nanos::from_millis(*self.chance.pick(&[400, 2_500, 5_000])));
        let (own, others) = (Party::Process(process), Party::Process(other));
        match self.chance.below(7) {
            0 => self.cut_way(own, Party::Mdm, until, false, true),
            1 => {
                self.cut_way(own, Party::Mdm, until, false, true);
                self.cut_way(own, others, until, true, true);
            }
            2 => self.cut_way(own, others, until, true, false),
            3 => self.processes[process.0].dies_in_step = self.may_end(process),
            4 => self.processes[other.0].dies_in_step = self.may_end(other),
            5 => self.pause(process, until),
            _ => self.pause(other, until),
        }
        self.counts.ambushes += 1;
        self.seen(&Trouble::Ambush);
    }

    /// A disk write begins: what has waited for one comes about when it ends.
    pub(super) fn await_blow(&mut self, process: ProcessIndex, is_durable: bool) {
        let waits = |armed: &Armed| matches!(armed, Armed::Blow { durable, .. } if is_durable || !durable);
        let Some(position) = self.armed.iter().position(waits) else { return };
        let Armed::Blow { power, .. } = self.armed.remove(position) else { return };
        let longest = *self.chance.pick(&[200_000, 2_000_000, 20_000_000]);
        let delay = self.chance.below(longest);
        self.schedule.after(delay, Event::Blow { process, power });
    }

    pub(super) fn blow(&mut self, process: ProcessIndex, power: bool) {
        if self.phase != Phase::Troubled {
            return;
        }
        if power {
            self.cut_power_around(self.processes[process.0].host);
        } else if self.processes[process.0].alive && self.may_end(process) {
            self.counts.crashes += 1;
            self.seen(&Trouble::Crash);
            self.kill_process(process);
            self.restart_later(process);
        }
    }

    /// A frame that changes blocks goes out: its link may have waited for that to break.
    pub(super) fn await_link_loss(&mut self, link: LinkId) {
        let Some(position) = self.armed.iter().position(|armed| *armed == Armed::LinkLoss) else { return };
        self.armed.remove(position);
        let delay = self.network_delay() + self.network_delay();
        self.schedule.after(delay, Event::Break { link });
    }

    pub(super) fn break_if_whole(&mut self, link: LinkId) {
        if self.phase == Phase::Troubled && self.network.get(link).is_some_and(|known| !known.broken) {
            self.seen(&Trouble::LinkLoss);
            self.break_link(link);
        }
    }

    /// What will go wrong with a disk request.
    pub(super) fn fate_of(&mut self, server: usize, disk: usize, request: &Request) -> Fate {
        self.canary_fate(disk, request).unwrap_or_else(|| self.armed_fate(server, disk, request))
    }

    fn data_pieces_of(&self, request: &Request) -> Vec<(usize, (u32, u64))> {
        let Operation::Write { pieces, .. } = &request.operation else { return Vec::new() };
        pieces.iter().enumerate().filter_map(|(index, piece)| Some((index, self.atlas.identify(piece)?))).collect()
    }

    fn data_piece_of(&mut self, request: &Request) -> Option<(usize, (u32, u64))> {
        let known = self.data_pieces_of(request);
        if known.is_empty() { None } else { Some(*self.chance.pick(&known)) }
    }

    fn canary_fate(&mut self, disk: usize, request: &Request) -> Option<Fate> {
        match self.canary {
            Some(Canary::WriteLost) => {
                let (piece, _) = self.data_piece_of(request)?;
                self.chance.chance(1, 100).then_some(Fate::Lost { piece })
            }
            Some(Canary::ByteFlipped) => {
                if matches!(request.operation, Operation::Flush { .. })
                    && let Some((on, piece, _)) = self.some_data_piece()
                {
                    let _ = disk;
                    self.disks[on].medium_mut().flip(piece, 100, 4);
                }
                None
            }
            Some(
                Canary::DurableFlagDropped
                | Canary::FlushIgnored
                | Canary::ChecksumForged
                | Canary::FenceLifted
                | Canary::AcknowledgedEarly
                | Canary::GhostDelivered
                | Canary::Rule(_),
            )
            | None => None,
        }
    }

    /// What is in flight on a server's disks does not fail after all.
    pub(super) fn spare_doomed(&mut self, server: usize) {
        for disk in self.servers[server].disks.clone() {
            if self.doomed.remove(&disk) {
                self.wounds.remove(&disk);
                self.disks[disk].spare();
            }
        }
    }

    fn armed_fate(&mut self, server: usize, disk: usize, request: &Request) -> Fate {
        let Some(position) = self.armed.iter().position(|armed| match armed {
            Armed::Lost | Armed::Misdirected => matches!(request.operation, Operation::Write { .. }),
            Armed::Error { disk: on, .. } => *on == disk && !matches!(request.operation, Operation::Read),
            Armed::Read(_) => matches!(request.operation, Operation::Read),
            Armed::Payload | Armed::Ambush | Armed::LinkLoss | Armed::Blow { .. } => false,
        }) else {
            return Fate::Well;
        };
        let fate = match self.armed[position] {
            Armed::Lost => {
                let Some((piece, block)) = self.data_piece_of(request) else { return Fate::Well };
                if !self.may_lose(disk, block) {
                    return Fate::Well;
                }
                self.hurt(disk, block, Hurting::Written);
                let since = self.history.moment(self.now());
                self.lost_blocks.push(LostBlock { disk, block, since });
                self.seen(&Trouble::LostWrite);
                Fate::Lost { piece }
            }
            Armed::Misdirected => {
                let Some((piece, block)) = self.data_piece_of(request) else { return Fate::Well };
                let Some((on, to, victim)) = self.some_data_piece().filter(|(on, ..)| *on == disk) else { return Fate::Well };
                let inside = to >= request.first && to < request.first + u64::from(request.len) / 4096;
                if inside || !self.may_lose(disk, block) || !self.may_hurt(disk, victim) {
                    return Fate::Well;
                }
                self.hurt(disk, block, Hurting::Written);
                self.hurt(disk, victim, Hurting::AtRest);
                let since = self.history.moment(self.now());
                self.lost_blocks.push(LostBlock { disk: on, block, since });
                self.seen(&Trouble::MisdirectedWrite);
                Fate::Misdirected { piece, to }
            }
            Armed::Error { short, .. } => {
                // Whose bytes these are must be known, to say what is lost with them.
                if !self.is_all_known(disk, request) {
                    return Fate::Well;
                }
                // One that has just asked for the other copy to go may be about to have the only one.
                let shrinks = self.servers[server].shrank.is_some_and(|at| self.now() < at.plus(SHRINK_TIME));
                if shrinks || !self.may_end(self.servers[server].process) {
                    return Fate::Well;
                }
                self.seen(&Trouble::WriteError);
                self.device_in_trouble(server);
                self.doomed.insert(disk);
                self.other_copies_hang(disk);
                // The only copy of a block whose write failed reads as an error until it is written again, in this life of
                // the process (`DeviceFailed`) and, its record being on the device and its data not, in the next (`Corrupt`).
                for (_, (volume, lba)) in self.data_pieces_of(request) {
                    if self.has_another_copy(volume, lba) {
                        self.wound(disk, volume, lba);
                    } else {
                        self.mark(Mark::Damaged { volume, lba });
                    }
                }
                if short { Fate::Short } else { Fate::Error }
            }
            Armed::Read(glitch) => match self.glitch_of(disk, request, glitch) {
                Some(fate) => fate,
                None => return Fate::Well,
            },
            Armed::Payload | Armed::Ambush | Armed::LinkLoss | Armed::Blow { .. } => return Fate::Well,
        };
        self.armed.remove(position);
        self.counts.faults += 1;
        let now = self.now();
        self.trace.tell(now, || format!("disk {disk} op {:x} will meet {fate:?}", request.op.bits()));
        fate
    }

    /// Whether every data block that a request writes is known by its bytes: one that begins with zeroes is not.
    fn is_all_known(&self, disk: usize, request: &Request) -> bool {
        let Operation::Write { pieces, .. } = &request.operation else { return true };
        let Ok(geometry) = Geometry::for_device(self.disks[disk].bytes(), self.plan.log_blocks) else { return true };
        let piece_at = |offset: ByteOffset| offset.get() / u64::from(BLOCK_BYTES);
        let data = piece_at(geometry.data(0, BlockIndex::new(0)))..piece_at(geometry.superblock(2));
        (request.first..).zip(pieces).filter(|(number, _)| data.contains(number)).all(|(_, piece)| self.atlas.identify(piece).is_some())
    }

    /// What goes wrong with a read, if it is not one that is done again.
    fn glitch_of(&mut self, disk: usize, request: &Request, glitch: Glitch) -> Option<Fate> {
        // One of the disk that is done again may be under way; one that opens is read again as a whole, once.
        let now = self.now();
        if self.glitched.get(&disk).is_some_and(|at| now.since(*at) < AGAIN_TIME) {
            return None;
        }
        self.glitched.insert(disk, now);
        self.seen(&Trouble::TransientRead);
        Some(match glitch {
            Glitch::Error => Fate::Error,
            Glitch::Short => Fate::Short,
            Glitch::Bit => Fate::WrongBit { bit: self.chance.below(u64::from(request.len) * 8) },
        })
    }

    /// Whether the next payload is to be damaged.
    pub(super) fn take_armed_payload(&mut self, bytes: usize) -> bool {
        if bytes == 0 {
            return false;
        }
        let Some(position) = self.armed.iter().position(|armed| *armed == Armed::Payload) else { return false };
        self.armed.remove(position);
        self.counts.faults += 1;
        self.seen(&Trouble::DamagedPayload);
        true
    }
}
