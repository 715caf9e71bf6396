//! Shards as operators see them: their state, who holds them, and what they wait for, in words.
//!
//! Must not know: how any of it is decided; it reads the committed state and who is there.

use super::status::report_of;
use super::{ApiReply, Leader, ShardQuery};
use crate::cluster::Refusal;
use crate::cluster::report::{AuditStatus, CopyStatus, ShardCounts, ShardState, ShardStatus};
use crate::cluster::rfc3339;
use crate::cluster::state::Pool;
use crate::control::DeviceState;
use crate::id::{DeviceId, Incarnation};
use crate::limits::SHARDS_LISTED_MAX;
use crate::map::{Member, ShardEntry};
use crate::protocol::settle;
use std::collections::BTreeSet;

/// How a device does, as the life that an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Serves,
    /// It serves, in a newer life than the entry names.
    Restarted,
    Opening,
    Failed,
    /// A disk request of it does not end.
    Hung,
    Gone,
}

impl Leader {
    /// Members that do their part now.
    fn serving_members(&self, pool: &Pool) -> BTreeSet<Member> {
        let members = pool.map.shards.iter().flat_map(|entry| entry.in_sync.members().iter().copied().chain(entry.joining));
        let members: BTreeSet<Member> = members.collect();
        // A device that has restarted is there, but not as the member it was.
        members.into_iter().filter(|member| self.part(*member) == Part::Serves).collect()
    }

    pub(super) fn shard_counts(&self, pool: &Pool) -> ShardCounts {
        let serving = self.serving_members(pool);
        let mut counts = ShardCounts { total: pool.map.shard_count(), ..ShardCounts::default() };
        for entry in &pool.map.shards {
            *match state(entry, pool, &serving) {
                ShardState::Clean => &mut counts.clean,
                ShardState::Degraded => &mut counts.degraded,
                ShardState::Rebuilding => &mut counts.rebuilding,
                ShardState::Unavailable => &mut counts.unavailable,
            } += 1;
        }
        counts
    }

    pub(super) fn shards_listed(&self, query: &ShardQuery) -> ApiReply {
        let named = |name: &String| self.cluster.pool_by_name(name).is_some();
        if let Some(name) = query.pool.as_ref().filter(|name| !named(name)) {
            let known = self.cluster.pools().map(|(_, pool)| pool.name.clone()).collect();
            return ApiReply::Refused(Refusal::NoPool { name: name.clone(), known });
        }
        if let Some(device) = query.device.filter(|device| self.cluster.device(*device).is_none()) {
            return ApiReply::Refused(Refusal::NoDevice { device });
        }
        let limit = query.limit.min(SHARDS_LISTED_MAX);
        let (mut shards, mut more) = (Vec::new(), 0_u64);
        for (_, pool) in self.cluster.pools().filter(|(_, pool)| query.pool.as_ref().is_none_or(|name| *name == pool.name)) {
            let serving = self.serving_members(pool);
            for (entry, number) in pool.map.shards.iter().zip(0_u32..) {
                let state = state(entry, pool, &serving);
                let fits = query.state.is_none_or(|wanted| wanted == state) && query.device.is_none_or(|device| names(entry, device));
                if !fits {
                    continue;
                }
                if shards.len() < limit {
                    shards.push(self.shard_status(pool, number, entry, state));
                } else {
                    more += 1;
                }
            }
        }
        ApiReply::Shards { shards, more }
    }

    pub(super) fn shard_shown(&self, name: &str, number: u32) -> ApiReply {
        let Some((_, pool)) = self.cluster.pool_by_name(name) else {
            let known = self.cluster.pools().map(|(_, pool)| pool.name.clone()).collect();
            return ApiReply::Refused(Refusal::NoPool { name: name.to_owned(), known });
        };
        let Some(entry) = pool.map.shards.get(number as usize) else {
            return ApiReply::Refused(Refusal::NoShard { pool: name.to_owned(), shard: number, shards: pool.map.shard_count() });
        };
        let state = state(entry, pool, &self.serving_members(pool));
        ApiReply::Shard(Box::new(self.shard_status(pool, number, entry, state)))
    }

    pub(super) fn audit_listed(&self) -> ApiReply {
        let entry = |entry: &crate::cluster::state::AuditEntry| AuditStatus {
            time: rfc3339(entry.unix_ms),
            action: entry.action.clone(),
            reason: entry.reason.clone(),
        };
        ApiReply::Audit(self.cluster.audit().map(entry).collect())
    }

    fn shard_status(&self, pool: &Pool, shard: u32, entry: &ShardEntry, state: ShardState) -> ShardStatus {
        let member = |member: &Member| self.copy(*member, entry.has_lost_cache(*member));
        let lapsed = |device: DeviceId| self.copy(Member { device, incarnation: Incarnation::default() }, false);
        ShardStatus {
            pool: pool.name.clone(),
            shard,
            state,
            epoch: entry.epoch.get(),
            made_at: entry.made_at.get(),
            in_sync: entry.in_sync.members().iter().map(member).collect(),
            joining: entry.joining.as_ref().map(member),
            lapsed: entry.lapsed.map(|fell_out| lapsed(fell_out.device)),
            lapsed_complete: entry.lapsed.map(|fell_out| fell_out.complete.get()),
            cache_lost_in: entry.cache_lost_in.get(),
            waits_for: (state != ShardState::Clean || settle::is_for_settling(entry)).then(|| self.waits_for(entry)),
        }
    }

    fn copy(&self, member: Member, cache_lost: bool) -> CopyStatus {
        let record = self.cluster.device(member.device);
        let state = match self.part(member) {
            Part::Serves => "serves",
            Part::Restarted => "restarted",
            Part::Opening => "opening",
            Part::Failed => "failed",
            Part::Hung => "hung",
            Part::Gone => "gone",
        };
        CopyStatus {
            device: member.device.get(),
            path: record.map(|record| record.path.clone()).unwrap_or_default(),
            sds: self.server_name(member.device),
            incarnation: member.incarnation.get(),
            incarnation_now: record.map(|record| record.incarnation.get()).unwrap_or_default(),
            state: state.to_owned(),
            cache_lost,
        }
    }

    fn part(&self, member: Member) -> Part {
        let Some(record) = self.cluster.device(member.device) else { return Part::Gone };
        if self.serves(record) {
            return if record.incarnation == member.incarnation { Part::Serves } else { Part::Restarted };
        }
        let Some(node) = self.nodes.get(&record.sds).filter(|node| node.up) else { return Part::Gone };
        match report_of(node, record).map(|report| &report.state) {
            None => Part::Gone,
            Some(DeviceState::Failed { .. }) => Part::Failed,
            Some(DeviceState::Hung) => Part::Hung,
            // Open and not serving: its server's loop is stalled, or its registration is on its way.
            Some(DeviceState::Opening { .. } | DeviceState::Open) => Part::Opening,
        }
    }

    fn server_name(&self, device: DeviceId) -> String {
        let server = self.cluster.device(device).and_then(|record| self.cluster.server(record.sds));
        server.map(|server| server.name.clone()).unwrap_or_default()
    }

    fn fault_set(&self, device: DeviceId) -> Option<&str> {
        let server = self.cluster.device(device).and_then(|record| self.cluster.server(record.sds))?;
        Some(&server.fault_set)
    }

    fn name_of(&self, device: DeviceId) -> String {
        format!("device {device} of {:?}", self.server_name(device))
    }

    /// Why a shard is not clean, and what would change that.
    fn waits_for(&self, entry: &ShardEntry) -> String {
        let members = entry.in_sync.members();
        let part = |member: &Member| self.part(*member);
        if let Some(missing) = members.iter().find(|member| !matches!(part(member), Part::Serves | Part::Restarted)) {
            let other = members.iter().find(|other| *other != missing);
            return self.waits_for_member(entry, *missing, other.copied());
        }
        if let Some(restarted) = members.iter().find(|member| part(member) == Part::Restarted) {
            let name = self.name_of(restarted.device);
            return if members.len() == 1 || self.cluster.has_forgotten(entry, restarted.device) {
                format!(
                    "{name}, {} in sync, is back without what it had flushed (I13); \
                     `sdsctl shard force` lets it go on, and what it lacks is lost",
                    if members.len() == 1 { "its only copy" } else { "a copy" }
                )
            } else {
                format!("{name} has restarted: the other copy is to go on without it, and it joins then")
            };
        }
        if settle::is_for_settling(entry) {
            return "its copies to settle: a cache was lost with power".to_owned();
        }
        if let Some(joining) = entry.joining {
            let name = self.name_of(joining.device);
            return match self.part(joining) {
                Part::Serves => format!("{name} to be brought up to date"),
                Part::Hung => format!("{name}, which fell out: its disk does not answer"),
                Part::Failed => format!("{name}, which fell out and failed: to be replaced or brought back"),
                Part::Opening | Part::Restarted => format!("{name}, which fell out, to be open"),
                Part::Gone => format!("{name}, which fell out, to come back"),
            };
        }
        let shares_fault_set = |lapsed: DeviceId| members.iter().any(|member| self.fault_set(member.device) == self.fault_set(lapsed));
        match entry.lapsed {
            Some(lapsed) if shares_fault_set(lapsed.device) => {
                format!("{}, which fell out: it is in the fault set of the other copy now (I11)", self.name_of(lapsed.device))
            }
            Some(lapsed) if self.is_gone(lapsed.device) => format!("{}, which fell out, to come back", self.name_of(lapsed.device)),
            Some(lapsed) => format!("{}, which fell out: it joins when its server registers again", self.name_of(lapsed.device)),
            None => "another copy: none is known".to_owned(),
        }
    }

    fn waits_for_member(&self, entry: &ShardEntry, missing: Member, other: Option<Member>) -> String {
        let name = self.name_of(missing.device);
        let what = match self.part(missing) {
            Part::Opening => "to be open",
            Part::Failed => "which failed, to be replaced or brought back",
            Part::Hung => "whose disk does not answer, to answer or to be replaced",
            Part::Gone | Part::Serves | Part::Restarted => "to come back",
        };
        let Some(other) = other else {
            let stale = entry.joining.map(|joining| joining.device).or(entry.lapsed.map(|lapsed| lapsed.device));
            let way_out = stale.map_or_else(String::new, |stale| {
                format!("; if it is lost for good, `sdsctl shard force` makes {} its copy, without what that lacks", self.name_of(stale))
            });
            return format!("{name}, its only copy in sync, {what}{way_out}");
        };
        let alone = self.waits_since(other.device, missing.device).zip(self.options.lone_start_wait).map(|(since, patience)| {
            let left = patience.get().saturating_sub(self.clock.now.since(since).get()) / 1_000_000_000;
            format!("; {} goes on alone in {left} s at the latest, or by `sdsctl shard force`", self.name_of(other.device))
        });
        format!("{name} {what}{}", alone.unwrap_or_default())
    }
}

fn state(entry: &ShardEntry, pool: &Pool, serving: &BTreeSet<Member>) -> ShardState {
    let members = entry.in_sync.members();
    if settle::is_for_settling(entry) || !entry.in_sync.primary().is_some_and(|primary| serving.contains(&primary)) {
        ShardState::Unavailable
    } else if members.len() >= pool.copies.count() && members.iter().all(|member| serving.contains(member)) {
        ShardState::Clean
    } else if entry.joining.is_some_and(|joining| serving.contains(&joining)) {
        ShardState::Rebuilding
    } else {
        ShardState::Degraded
    }
}

fn names(entry: &ShardEntry, device: DeviceId) -> bool {
    entry.devices().any(|other| other == device)
}
