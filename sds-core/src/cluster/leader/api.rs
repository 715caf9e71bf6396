//! Operators: each request is answered from the committed state, or when its command is committed.

use super::{ApiReply, ApiRequest, Effect, Leader, Pending};
use crate::cluster::{Change, Outcome, Refusal};
use crate::id::DeviceId;
use crate::machine::{Outbox, Token};
use std::collections::BTreeSet;

impl Leader {
    pub(super) fn operator_asks(&mut self, token: Token, request: ApiRequest, out: &mut Outbox<Effect>) {
        let change = match request {
            ApiRequest::CreateVolume(create) => Change::CreateVolume(create),
            ApiRequest::DeleteVolume { name } => Change::DeleteVolume { orphans: self.orphans_of(&name), name },
            ApiRequest::CreatePool { name, shards, copies } => Change::CreatePool { name, shards, copies },
            ApiRequest::Volume { name } => {
                let found = self.cluster.volume_by_name(&name).map(|(id, volume)| self.volume_status(id, volume));
                let reply = found.map_or_else(|| ApiReply::Refused(Refusal::NoVolume { name }), ApiReply::Volume);
                return out.push(Effect::Answer { token, reply });
            }
            ApiRequest::Volumes => return out.push(Effect::Answer { token, reply: ApiReply::Volumes(self.volume_statuses()) }),
            ApiRequest::Pools => return out.push(Effect::Answer { token, reply: ApiReply::Pools(self.pool_statuses()) }),
            ApiRequest::Shards(query) => return out.push(Effect::Answer { token, reply: self.shards_listed(&query) }),
            ApiRequest::Shard { pool, shard } => return out.push(Effect::Answer { token, reply: self.shard_shown(&pool, shard) }),
            ApiRequest::Audit => return out.push(Effect::Answer { token, reply: self.audit_listed() }),
            ApiRequest::ForceShard { pool, shard, device, reason } => self.force(pool, shard, device, reason),
            ApiRequest::Status => return out.push(Effect::Answer { token, reply: ApiReply::Status(Box::new(self.status())) }),
        };
        if self.propose(change, Pending::Api { token }, out).is_err() {
            out.push(Effect::Answer { token, reply: ApiReply::Overloaded });
        }
    }

    /// What is forced, with those of its shard's members, and of itself, that are held for gone.
    fn force(&self, pool: String, shard: u32, device: DeviceId, reason: String) -> Change {
        let entry = self.cluster.pool_by_name(&pool).and_then(|(_, pool)| pool.map.shards.get(shard as usize));
        let members = entry.iter().flat_map(|entry| entry.in_sync.members()).map(|member| member.device);
        let members: BTreeSet<DeviceId> = members.chain([device]).collect();
        let gone = members.iter().filter(|member| self.is_gone(**member)).filter_map(|member| self.registered_member(*member)).collect();
        let heard = self.heard_of(members);
        Change::ForceShard { pool, shard, device, gone, heard, reason }
    }

    /// What a committed command means to the operator who asked for it.
    pub(super) fn api_reply(&self, result: Result<Outcome, Refusal>) -> ApiReply {
        match result {
            Ok(Outcome::VolumeCreated { volume, new }) => match self.cluster.volume(volume) {
                Some(record) => ApiReply::VolumeCreated { volume: self.volume_status(volume, record), new },
                None => ApiReply::Unknown,
            },
            Ok(Outcome::VolumeDeleted { .. }) => ApiReply::VolumeDeleted,
            Ok(Outcome::PoolCreated { pool }) => match self.cluster.pool(pool) {
                Some(record) => ApiReply::PoolCreated(self.pool_status(pool, record)),
                None => ApiReply::Unknown,
            },
            Ok(Outcome::ShardForced { pool, shard }) => {
                let name = self.cluster.pool(pool).map(|pool| pool.name.clone()).unwrap_or_default();
                self.shard_shown(&name, shard)
            }
            Ok(
                other @ (Outcome::Initialised { .. }
                | Outcome::Registered { .. }
                | Outcome::SessionOpened(_)
                | Outcome::SessionClosed
                | Outcome::TreesFreed
                | Outcome::WentAlone { .. }
                | Outcome::Proposed { .. }),
            ) => unreachable!("an operator's command was answered with {other:?}"),
            Err(refusal) => ApiReply::Refused(refusal),
        }
    }
}
