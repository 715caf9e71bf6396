//! The operator: makes the pool and the volumes, and sometimes deletes a volume that nobody has open and makes it anew.
//!
//! Invariant: what is asked is asked again until it is seen to be done, whatever became of the MDM meanwhile.
//!
//! Must not know: who keeps what.

use super::control::{POOL, short};
use super::{Event, Trouble, UserState, World};
use sds_core::cluster::leader::{ApiReply, ApiRequest, Input};
use sds_core::cluster::{CreateVolume, Refusal};
use sds_core::id::VolumeId;
use sds_core::machine::Token;
use sds_core::unit::ByteCount;

/// How often the operator looks.
const LOOK_NS: u64 = 200_000_000;

/// A volume that is to be deleted and made anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    /// Number of the volume.
    volume: usize,
    /// What it was.
    id: VolumeId,
}

impl World {
    /// Does what is to be done next, and looks again until all is there.
    pub(super) fn operate(&mut self) {
        let all_made = self.pool_made && self.volumes_made == self.plan.volumes.len();
        if all_made && self.removal.is_none() {
            return;
        }
        self.schedule.after(LOOK_NS, Event::Operate);
        if !self.mdm.is_up() || self.operating.is_some() {
            return;
        }
        if let Some(removal) = self.removal {
            return self.replace(removal);
        }
        if !self.pool_made {
            self.ask_operator(ApiRequest::CreatePool { name: POOL.to_owned(), shards: self.plan.shards, copies: self.plan.copies });
            return;
        }
        // Shards are placed over the devices that are there at the first volume: wait for all.
        let devices = self.mdm.cluster().devices().filter(|(_, device)| device.open).count();
        if devices < self.plan.servers * self.plan.devices && self.volumes_made == 0 {
            return;
        }
        self.create(self.volumes_made);
    }

    /// Its users give a volume back; then it is deleted and made anew, with another identity and nothing in it.
    pub(super) fn remove_some_volume(&mut self) {
        let volume = self.chance.index(self.plan.volumes.len());
        self.begin_removal(volume);
    }

    /// A script has a volume deleted and made anew; `false` if that takes too long.
    pub fn replace_volume(&mut self, volume: usize) -> bool {
        self.begin_removal(volume);
        for client in 0..self.clients.len() {
            self.clients[client].user.leave |= self.volume_index(client) == volume;
            self.nudge_user(client, 1);
        }
        self.wait_until(|world| world.removal.is_none())
    }

    /// Volumes that were deleted, and of which some device has not said yet that it holds nothing of them.
    #[must_use]
    pub fn volumes_being_freed(&self) -> usize {
        self.mdm.cluster().deleted_trees().count()
    }

    fn begin_removal(&mut self, volume: usize) {
        let known = self.mdm.cluster().volume_by_name(&self.plan.volumes[volume].name).map(|(id, _)| id);
        let Some(id) = known.filter(|_| self.volumes_made == self.plan.volumes.len() && self.removal.is_none()) else { return };
        self.seen(&Trouble::Deletion);
        self.removal = Some(Removal { volume, id });
        self.former_volumes.extend(self.mdm.cluster().volume(id).map(|record| (id, record.clone())));
        self.schedule.after(LOOK_NS, Event::Operate);
    }

    /// Whether a volume is about to be deleted, so that nobody should work on it.
    pub(super) fn is_being_removed(&self, volume: usize) -> bool {
        self.removal.is_some_and(|removal| removal.volume == volume)
    }

    fn replace(&mut self, removal: Removal) {
        let name = &self.plan.volumes[removal.volume].name;
        match self.mdm.cluster().volume_by_name(name).map(|(id, _)| id) {
            Some(id) if id == removal.id => {
                let users = (0..self.clients.len()).filter(|client| self.volume_index(*client) == removal.volume);
                if users.map(|client| &self.clients[client].user).all(|user| user.state == UserState::Idle) {
                    self.ask_operator(ApiRequest::DeleteVolume { name: name.clone() });
                }
            }
            None => self.create(removal.volume),
            Some(_) => self.end_removal(),
        }
    }

    fn end_removal(&mut self) {
        self.removal = None;
        for client in 0..self.clients.len() {
            self.nudge_user(client, 1);
        }
    }

    fn create(&mut self, volume: usize) {
        let spec = &self.plan.volumes[volume];
        // Asked for again it is the same one; made anew it is another.
        let before = self.removal.map_or(0, |removal| removal.id.get());
        let create = CreateVolume {
            name: spec.name.clone(),
            size: ByteCount::new(spec.size),
            pool: POOL.to_owned(),
            stripe_unit: spec.stripe_unit,
            stripe_width: spec.stripe_width,
            key: Some(format!("{} after {before}", spec.name)),
        };
        self.ask_operator(ApiRequest::CreateVolume(create));
    }

    /// An operator asks for something by hand; `None`: the MDM does not answer.
    pub fn command(&mut self, request: ApiRequest) -> Option<ApiReply> {
        self.tokens += 1;
        let token = self.tokens;
        self.step_mdm(Input::Api { token: Token::new(token), request });
        self.wait_until(|world| world.by_hand.contains_key(&token));
        self.by_hand.remove(&token)
    }

    fn ask_operator(&mut self, request: ApiRequest) {
        self.tokens += 1;
        self.operating = Some(self.tokens);
        self.step_mdm(Input::Api { token: Token::new(self.tokens), request });
    }

    pub(super) fn operator_answered(&mut self, token: Token, reply: ApiReply) {
        if self.operating != Some(token.get()) {
            self.by_hand.insert(token.get(), reply);
            return;
        }
        self.operating = None;
        let now = self.now();
        self.trace.note(now, &[28], || format!("mdm to operator: {}", short(&reply)));
        match reply {
            ApiReply::PoolCreated(_) => self.pool_made = true,
            ApiReply::VolumeCreated { .. } if self.removal.is_none() => self.volumes_made += 1,
            ApiReply::VolumeCreated { .. } => self.end_removal(),
            ApiReply::Refused(Refusal::PoolExists { .. }) => self.pool_made = true,
            ApiReply::Refused(Refusal::NotInitialised) | ApiReply::Unknown | ApiReply::Overloaded => {}
            // A user that has died had it open, and is not held for dead yet.
            ApiReply::Refused(Refusal::DeleteOpen { .. }) if self.removal.is_some() => self.end_removal(),
            ApiReply::Refused(refusal) => self.violate(format!("the operator was refused: {refusal}")),
            ApiReply::VolumeDeleted => self.counts.deletions += 1,
            ApiReply::Volume(_) | ApiReply::Volumes(_) | ApiReply::Pools(_) | ApiReply::Status(_) => {}
            ApiReply::Shards { .. } | ApiReply::Shard(_) | ApiReply::Audit(_) => {}
        }
        if self.pool_made {
            self.schedule.after(1_000_000, Event::Operate);
        }
    }
}
