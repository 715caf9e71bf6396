//! Tells the checker of invariants what the MDM commits and what data servers say, and looks at devices now and then.
//!
//! Must not know: what is right; that is the checker's.

use super::World;
use crate::autopsy::Autopsy;
use crate::checker::invariants::{Blocks, Cause, Home};
use crate::mdm::Role;
use sds_core::error::Status;
use sds_core::id::{DeviceId, PoolId, ShardId, TreeId};
use sds_core::machine::LinkId;
use sds_core::map::{Copies, Member, ShardEntry};
use sds_core::protocol::membership::Proposal;
use sds_core::store::interface::ExtentKey;
use sds_core::unit::BLOCK_BYTES;
use sds_core::wire::{Frame, Header, Opcode};

/// Of so many acknowledged writes one is looked for on the devices.
const LOOKED_FOR_EVERY: u64 = 128;

impl World {
    fn home_of(&self, device: DeviceId) -> Option<Home> {
        let cluster = self.mdm.cluster();
        let server = cluster.server(cluster.device(device)?.sds)?;
        let number = self.servers.iter().position(|known| known.uuid == server.uuid)?;
        Some(Home { server: number, fault_set: server.fault_set.clone(), incarnation: server.incarnation })
    }

    /// The MDM has applied a command.
    pub(super) fn watch_commit(&mut self, cause: &Cause) {
        self.watch_commit_of(&self.shards(), cause);
    }

    pub(super) fn watch_commit_of(&mut self, shards: &[ShardEntry], cause: &Cause) {
        let mut known = core::mem::take(&mut self.invariants);
        known.committed(shards, cause, |device| self.home_of(device));
        self.invariants = known;
        self.tell_broken();
    }

    /// A data server proposes changes.
    pub(super) fn watch_proposals(&mut self, server: usize, proposals: &[(PoolId, ShardId, Proposal)]) {
        for (_, shard, proposal) in proposals {
            self.invariants.proposed(server, *shard, proposal);
        }
        self.tell_broken();
    }

    fn tell_broken(&mut self) {
        for story in self.invariants.take_found() {
            self.violate(story);
        }
    }

    /// A role has said something; `heard`: the link is there, so that it can be heard.
    pub(super) fn watch_frame(&mut self, role: Role, link: LinkId, frame: &Frame, heard: bool) {
        let header = &frame.header;
        let server = match role {
            Role::Server(server) => server,
            Role::Client(_) if header.opcode == Opcode::Zero => {
                self.zeroes.insert((link, header.request));
                return;
            }
            Role::Client(_) => return,
        };
        let comes_again = matches!(header.status, Status::NotReady | Status::MapStale | Status::Stopping | Status::PayloadDamaged);
        if header.opcode == Opcode::ReplicateReply && !comes_again {
            self.invariants.is_over(header.shard, header.epoch, header.sequence);
        }
        if header.status != Status::Ok {
            return;
        }
        let now = self.now();
        let mut known = core::mem::take(&mut self.invariants);
        if let (Opcode::ReadReply, Some(volume)) = (header.opcode, self.mdm.cluster().volume(header.volume)) {
            known.told(header.shard, &blocks_of(volume.tree, header));
        }
        if matches!(header.opcode, Opcode::WriteReply | Opcode::ReadReply | Opcode::BlockStatusReply) {
            known.answered(server, header.shard, header.epoch);
        }
        match header.opcode {
            Opcode::Replicate | Opcode::ReplicateZero => {
                let blocks = blocks_of(TreeId::new(header.volume.get()), header);
                known.sent(header.shard, header.epoch, header.sequence, blocks);
            }
            Opcode::ResyncReply => known.given(header.device, header.shard),
            Opcode::ReplicateFlushReply => known.flushed(header.device),
            Opcode::ReplicateReply => known.replicated(header.device, header.shard, header.sequence),
            Opcode::Grant => {
                if let Some(Role::Server(to)) = self.network.get(link).map(|known| known.end(known.side_of(role).other()).role) {
                    known.granted(server, to, now);
                }
            }
            Opcode::WriteReply if heard => {
                known.acknowledged(server, header.shard, header.sequence, |device| self.home_of(device));
            }
            Opcode::ReadReply | Opcode::BlockStatusReply if heard => known.read(server, header.shard, now, |device| self.home_of(device)),
            _ => {}
        }
        self.invariants = known;
        self.tell_broken();
        if header.opcode == Opcode::WriteReply && heard {
            let is_zero = self.zeroes.remove(&(link, header.request));
            self.acknowledged += 1;
            if self.plan.copies == Copies::Two && self.acknowledged.is_multiple_of(LOOKED_FOR_EVERY) {
                self.look_for(header, is_zero);
            }
        }
    }

    /// An acknowledged write is on every copy in sync, were its process to end now (I2).
    fn look_for(&mut self, header: &Header, is_zero: bool) {
        let Some(entry) = self.shards().get(header.shard.get() as usize).copied() else { return };
        for member in entry.in_sync.members() {
            if let Err(story) = self.look_on(*member, header, is_zero) {
                self.violate(format!("I2: sequence {} of shard {} on {member:?}: {story}: {entry:?}", header.sequence, header.shard));
            }
        }
        self.counts.looked_for += 1;
    }

    fn look_on(&self, member: Member, header: &Header, is_zero: bool) -> Result<(), String> {
        let cluster = self.mdm.cluster();
        let shard = header.shard.get() as usize;
        let (Some(disk), Some(server), Some(volume)) =
            (self.disk_of(member.device), self.server_of(member.device), cluster.volume(header.volume))
        else {
            return Ok(());
        };
        let in_trouble = self.troubled_hosts.contains(&self.processes[self.servers[server].process.0].host);
        if in_trouble || self.fallen.contains(&(shard, member.device)) {
            return Ok(());
        }
        let tree: TreeId = volume.tree;
        let key = ExtentKey { tree, extent: header.extent, layer: header.layer };
        let held = Autopsy::of(&self.disks[disk], self.store_options(server, disk))?.blocks(key)?;
        let (first, end) = (header.offset / BLOCK_BYTES, (header.offset + header.length).div_ceil(BLOCK_BYTES));
        for block in first..end {
            if self.is_hurt(disk, key, block) {
                continue;
            }
            if held.iter().any(|(number, held)| u32::from(*number) == block && !held.sound) {
                return Err(format!("block {block} of {key:?} is not what is recorded"));
            }
            let found = held.iter().find(|(number, _)| u32::from(*number) == block).map(|(_, held)| held.version);
            match found {
                Some(version) if version >= header.sequence => {}
                None if is_zero => {}
                other => return Err(format!("block {block} of {key:?} is at {other:?}")),
            }
        }
        Ok(())
    }
}

/// The whole blocks that a frame is about.
fn blocks_of(tree: TreeId, header: &Header) -> Blocks {
    let end = (header.offset + header.length).next_multiple_of(BLOCK_BYTES);
    Blocks { key: ExtentKey { tree, extent: header.extent, layer: header.layer }, bytes: header.offset / BLOCK_BYTES * BLOCK_BYTES..end }
}
