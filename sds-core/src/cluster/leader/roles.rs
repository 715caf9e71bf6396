//! Which of a shard's two copies leads: primaries are evened out over the devices while all is well.
//!
//! A server that was away has lost the role of primary for all its shards; without this it would never lead any again.
//!
//! Invariants: nothing is asked of a pool of which any shard is not clean, or whose map changed within [`CALM`]: roles are never evened out while
//! degraded, and never many at once; each exchange brings the two devices nearer to leading half of what they hold, so it ends.
//!
//! Must not know: how a shard is handed over.

use super::{Effect, Event, Leader, Party};
use crate::control::MdmToSds;
use crate::id::{DeviceId, Epoch, MapVersion, PoolId, SdsId, ShardId};
use crate::limits::HAND_OVERS_PER_MESSAGE_MAX;
use crate::machine::Outbox;
use crate::map::{Copies, ShardEntry};
use crate::unit::Nanos;
use std::collections::BTreeMap;

/// How often roles are looked at.
const LOOK_EVERY: Nanos = Nanos::from_millis(1_000);
/// How long all shards of a pool must have been as they are.
const CALM: Nanos = Nanos::from_millis(5_000);

/// Since when a pool's shards are as they are, by this leader's clock.
#[derive(Clone, Copy, Debug)]
struct Calm {
    version: MapVersion,
    since: Nanos,
}

/// Roles as they are and as they are looked after.
#[derive(Debug, Default)]
pub(super) struct Roles {
    looked: Nanos,
    calm: BTreeMap<PoolId, Calm>,
}

impl Leader {
    /// Asks for a few roles to be exchanged where they are uneven.
    pub(super) fn tick_roles(&mut self, out: &mut Outbox<Effect>) {
        let now = self.clock.now;
        if now < self.roles.looked.plus(LOOK_EVERY) {
            return;
        }
        self.roles.looked = now;
        let pools: Vec<PoolId> = self.cluster.pools().filter(|(_, pool)| pool.copies == Copies::Two).map(|(id, _)| id).collect();
        self.roles.calm.retain(|pool, _| pools.contains(pool));
        for id in pools {
            let Some(pool) = self.cluster.pool(id) else { continue };
            let version = pool.changed;
            let counts = self.shard_counts(pool);
            let calm = self.roles.calm.entry(id).or_insert(Calm { version, since: now });
            if calm.version != version || counts.clean < counts.total {
                *calm = Calm { version, since: now };
            }
            if counts.total == 0 || now.since(calm.since) < CALM {
                continue;
            }
            calm.since = now;
            let Some(pool) = self.cluster.pool(id) else { continue };
            let exchanges = exchanges(&pool.map.shards);
            if !exchanges.is_empty() {
                out.push(Effect::Event(Event::RolesUneven { pool: pool.name.clone(), shards: exchanges.len() }));
                self.ask_for(id, exchanges, out);
            }
        }
    }

    fn ask_for(&self, pool: PoolId, exchanges: Vec<(ShardId, Epoch, DeviceId)>, out: &mut Outbox<Effect>) {
        let mut by_server: BTreeMap<SdsId, Vec<(PoolId, ShardId, Epoch)>> = BTreeMap::new();
        for (shard, epoch, primary) in exchanges {
            if let Some(device) = self.cluster.device(primary) {
                by_server.entry(device.sds).or_default().push((pool, shard, epoch));
            }
        }
        for (link, party) in &self.links {
            if let Party::Sds(server) = party
                && let Some(shards) = server.sds.and_then(|sds| by_server.remove(&sds))
            {
                out.push(Effect::ToSds { link: *link, message: MdmToSds::HandOver { shards } });
            }
        }
    }
}

/// How many more shards a device leads than it follows.
fn excess(shards: &[ShardEntry]) -> BTreeMap<DeviceId, i64> {
    let mut excess: BTreeMap<DeviceId, i64> = BTreeMap::new();
    for entry in shards {
        for (place, member) in entry.in_sync.members().iter().enumerate() {
            *excess.entry(member.device).or_default() += if place == 0 { 1 } else { -1 };
        }
    }
    excess
}

/// Shards whose primary leads more than half of what it holds, and whose secondary less, with their primaries.
fn exchanges(shards: &[ShardEntry]) -> Vec<(ShardId, Epoch, DeviceId)> {
    let mut excess = excess(shards);
    let mut asked = Vec::new();
    for (entry, shard) in shards.iter().zip(0_u32..) {
        let [primary, secondary] = entry.in_sync.members() else { continue };
        let of = |device: DeviceId| excess.get(&device).copied().unwrap_or_default();
        if asked.len() < HAND_OVERS_PER_MESSAGE_MAX && of(primary.device) - of(secondary.device) > 2 {
            *excess.entry(primary.device).or_default() -= 2;
            *excess.entry(secondary.device).or_default() += 2;
            asked.push((ShardId::new(shard), entry.epoch, primary.device));
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;
    use crate::map::{InSync, Member};
    use proptest::prelude::*;

    fn pair(first: u32, second: u32) -> ShardEntry {
        let member = |device| Member { device: DeviceId::new(device), incarnation: Incarnation::new(1) };
        ShardEntry { in_sync: InSync::pair(member(first), member(second)), ..ShardEntry::default() }
    }

    fn spread(shards: &[ShardEntry]) -> i64 {
        excess(shards).values().map(|excess| excess * excess).sum()
    }

    fn exchange(shards: &mut [ShardEntry]) -> usize {
        let asked = exchanges(shards);
        for (shard, ..) in &asked {
            let entry = &mut shards[shard.get() as usize];
            let [first, second] = entry.in_sync.members() else { panic!("pairs") };
            entry.in_sync = InSync::pair(*second, *first);
        }
        asked.len()
    }

    #[test]
    fn a_device_that_leads_nothing_is_given_half_of_what_it_holds() {
        let mut shards: Vec<ShardEntry> =
            (0..300).map(|shard| if shard % 3 == 0 { pair(1, 2) } else { pair(1 + shard % 3 % 2, 3) }).collect();
        while exchange(&mut shards) > 0 {}
        let led =
            |device| shards.iter().filter(|entry| entry.in_sync.primary().is_some_and(|member| member.device.get() == device)).count();
        for device in 1..=3 {
            assert!((98..=102).contains(&led(device)), "{device} leads {}", led(device));
        }
    }

    proptest! {
        #[test]
        fn it_ends_and_every_step_evens_out(pairs in proptest::collection::vec((1_u32..6, 1_u32..6), 0..400)) {
            let mut shards: Vec<ShardEntry> = pairs.iter().filter(|(a, b)| a != b).map(|(a, b)| pair(*a, *b)).collect();
            let mut before = spread(&shards);
            for _ in 0..100 {
                let asked = exchange(&mut shards);
                prop_assert!(asked <= HAND_OVERS_PER_MESSAGE_MAX);
                if asked == 0 {
                    return Ok(());
                }
                prop_assert!(spread(&shards) < before);
                before = spread(&shards);
            }
            prop_assert!(false, "it does not end");
        }
    }
}
