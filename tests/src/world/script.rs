//! What a named scenario does to the world, step by step, instead of leaving it to chance.

use super::{Event, Phase, UserState, World};
use crate::checker::{self, Allowance, Verdict};
use crate::disk::{Medium, Piece};
use crate::history::{Answer, OpIndex};
use crate::network::{Party, ProcessIndex};
use crate::plan::FLUSHES_FOLLOW_SHARDS;
use crate::workload::Wish;
use sds_core::id::DeviceId;
use sds_core::map::{Copies, Member};
use sds_core::unit::Nanos;

impl World {
    /// Lets the run go to its end, whatever happens.
    pub fn run(&mut self) {
        while self.phase != Phase::Over && self.turn() {}
        if self.phase != Phase::Over && self.violations.is_empty() {
            self.violate("nothing is going to happen any more, and the run is not over".to_owned());
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, nanos: u64) {
        let until = self.now().plus(Nanos::new(nanos));
        while self.now() < until && self.turn() {}
    }

    /// Lets things happen until `done` or for at most a minute; says whether it came to be.
    pub fn wait_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let until = self.now().plus(Nanos::from_millis(60_000));
        while !done(self) {
            if self.now() > until || !self.turn() {
                return false;
            }
        }
        true
    }

    /// How many clients there are.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.len()
    }

    /// How many copies of every block there are.
    #[must_use]
    pub fn copies(&self) -> Copies {
        self.plan.copies
    }

    /// What is durable on a server's first device now.
    #[must_use]
    pub fn image(&self, server: usize) -> Medium {
        self.disks[self.servers[server].disks[0]].medium().durable()
    }

    /// A server's host loses power, and its first device is found as it once was.
    pub fn bring_back(&mut self, server: usize, image: Medium) {
        self.cut_power_of_server(server);
        *self.disks[self.servers[server].disks[0]].medium_mut() = image;
    }

    /// From here on a user does only what the script says.
    pub fn take_over_user(&mut self, client: usize) {
        self.clients[client].user.scripted = true;
    }

    /// Opens a user's volume (by force if told so) and waits until it has it.
    pub fn open(&mut self, client: usize, force: bool) -> bool {
        self.clients[client].user.scripted = true;
        self.clients[client].user.force = force;
        self.clients[client].user.summoned = true;
        self.nudge_user(client, 1);
        self.wait_until(|world| matches!(world.clients[client].user.state, UserState::Open { .. }))
    }

    /// What a user is doing.
    #[must_use]
    pub fn user(&self, client: usize) -> UserState {
        self.clients[client].user.state
    }

    /// Asks for something and does not wait; gives the operations it was cut into.
    ///
    /// # Panics
    /// If the user has no open volume.
    pub fn ask(&mut self, client: usize, wish: Wish) -> Vec<OpIndex> {
        let UserState::Open { volume, .. } = self.user(client) else { panic!("the script's user {client} has its volume open") };
        let user = &mut self.clients[client].user;
        user.made.clear();
        user.shall(wish, volume.stripe);
        let life = self.processes[self.clients[client].process.0].life;
        while self.clients[client].user.waiting() > 0 && self.violations.is_empty() {
            self.user_looks(client, life);
            if self.clients[client].user.waiting() > 0 && !self.turn() {
                break;
            }
        }
        core::mem::take(&mut self.clients[client].user.made)
    }

    /// Asks for something and waits for the answers.
    pub fn ask_and_wait(&mut self, client: usize, wish: Wish) -> Vec<Option<Answer>> {
        let ops = self.ask(client, wish);
        self.answers(&ops)
    }

    /// Waits for operations; `None` for those that are not answered within a minute.
    pub fn answers(&mut self, ops: &[OpIndex]) -> Vec<Option<Answer>> {
        let answer = |world: &Self, op: &OpIndex| world.history.ops()[op.0 as usize].answered.clone().map(|(_, answer)| answer);
        self.wait_until(|world| ops.iter().all(|op| answer(world, op).is_some()));
        ops.iter().map(|op| answer(self, op)).collect()
    }

    /// The process of a server.
    #[must_use]
    pub fn process_of_server(&self, server: usize) -> ProcessIndex {
        self.servers[server].process
    }

    /// The process of a client.
    #[must_use]
    pub fn process_of_client(&self, client: usize) -> ProcessIndex {
        self.clients[client].process
    }

    /// The first device of a server.
    #[must_use]
    pub fn device_of_server(&self, server: usize) -> Option<DeviceId> {
        self.mdm.cluster().device_by_uuid(self.uuids[self.servers[server].disks[0]]).map(|(device, _)| device)
    }

    /// Kills a process.
    pub fn kill(&mut self, process: ProcessIndex) {
        self.kill_process(process);
    }

    /// Starts a process.
    pub fn start(&mut self, process: ProcessIndex) {
        self.schedule.after(1, Event::Start(process));
    }

    /// Cuts the power of a server's host.
    pub fn cut_power_of_server(&mut self, server: usize) {
        self.cut_power(self.processes[self.servers[server].process.0].host);
    }

    /// Pauses a process for so many nanoseconds.
    pub fn pause_for(&mut self, process: ProcessIndex, nanos: u64) {
        self.pause(process, self.now().plus(Nanos::new(nanos)));
    }

    /// The servers with the copies of a block that are in sync, the primary first.
    #[must_use]
    pub fn servers_of(&self, volume: u32, lba: u64) -> Vec<usize> {
        let shard = self.place_of(volume, lba).map(|shard| shard as usize);
        let entry = shard.and_then(|shard| self.shards().get(shard).copied()).unwrap_or_default();
        entry.in_sync.members().iter().filter_map(|member| self.server_of(member.device)).collect()
    }

    /// Whether no shard has a copy of this server in sync or joining.
    #[must_use]
    pub fn is_out(&self, server: usize) -> bool {
        let is_its = |member: &Member| self.server_of(member.device) == Some(server);
        !self.shards().iter().any(|entry| entry.in_sync.members().iter().chain(&entry.joining).any(is_its))
    }

    /// Whether every shard has all its copies.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.all_is_clean()
    }

    /// Every server registers with the MDM again, as it does after a lost connection.
    pub fn register_again(&mut self) {
        self.register_all_again();
    }

    /// Whether an operation was answered.
    #[must_use]
    pub fn is_answered(&self, op: OpIndex) -> bool {
        self.history.ops()[op.0 as usize].answered.is_some()
    }

    /// Nothing gets from one to the other, either way, for so many nanoseconds; `None` is the MDM.
    pub fn cut(&mut self, one: ProcessIndex, other: Option<ProcessIndex>, nanos: u64) {
        let until = self.now().plus(Nanos::new(nanos));
        self.cut_way(Party::Process(one), other.map_or(Party::Mdm, Party::Process), until, true, true);
    }

    /// Makes a server's disks so many times slower, or as fast as before with 1.
    pub fn slow_disks(&mut self, server: usize, times: u64) {
        for disk in self.servers[server].disks.clone() {
            self.disks[disk].set_slowness(times);
        }
    }

    /// Breaks every link.
    pub fn break_links(&mut self) {
        for link in self.network.whole() {
            self.break_link(link);
        }
    }

    /// Changes a bit of every copy of a block that lies on a device; says how many there were. The
    /// checker is told.
    pub fn flip_block(&mut self, volume: u32, lba: u64, byte: usize) -> usize {
        self.damage_block(volume, lba, |medium, piece| medium.flip(piece, byte, 1))
    }

    /// Makes every copy of a block that lies on a device unreadable; says how many there were. The
    /// checker is told.
    pub fn spoil_block(&mut self, volume: u32, lba: u64) -> usize {
        self.damage_block(volume, lba, Medium::make_unreadable)
    }

    fn damage_block(&mut self, volume: u32, lba: u64, damage: impl Fn(&mut Medium, u64)) -> usize {
        let mut damaged = 0;
        for disk in &mut self.disks {
            let is_the_block = |piece: &Piece| self.atlas.identify(piece) == Some((volume, lba));
            let pieces: Vec<u64> = disk.medium().settled().filter(|(_, piece)| is_the_block(piece)).map(|(number, _)| number).collect();
            for piece in pieces {
                damage(disk.medium_mut(), piece);
                damaged += 1;
            }
        }
        if damaged > 0 {
            self.mark(crate::history::Mark::Damaged { volume, lba });
        }
        damaged
    }

    /// Takes the MDM away; it comes back by itself within eight seconds.
    pub fn lose_mdm(&mut self) {
        self.stop_mdm();
    }

    /// Whether the MDM can be reached.
    #[must_use]
    pub fn mdm_is_up(&self) -> bool {
        self.mdm.is_up()
    }

    /// A disk, to look at.
    #[must_use]
    pub fn disk(&self, disk: usize) -> &crate::disk::Disk {
        &self.disks[disk]
    }

    /// Numbers of a server's first store.
    #[must_use]
    pub fn statistics(&self, server: usize) -> Option<sds_core::store::interface::Statistics> {
        Some(self.servers[server].machine.as_ref()?.devices().first()?.statistics)
    }

    /// Ends the troubles now, so that `run` goes through the end of the run.
    pub fn end_troubles(&mut self) {
        self.plan.duration = Nanos::ZERO;
    }

    /// Checks what the users saw.
    #[must_use]
    pub fn check(&self) -> Verdict {
        let needless_flush_failure = self.plan.copies == Copies::Two && !FLUSHES_FOLLOW_SHARDS;
        let allowance = Allowance { no_space: self.plan.may_be_full, needless_flush_failure };
        checker::check(&self.history, allowance, |volume, lba| self.place_of(volume, lba))
    }
}
