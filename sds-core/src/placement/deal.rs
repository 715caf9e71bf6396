//! Deals the shards out: one after the other, each to whom the most is owed at that point.
//!
//! Works on servers first, then on the devices of the chosen server, so that consecutive shards are on
//! different servers whenever the quotas allow it.
//!
//! Why it never gets stuck with two copies: let P and S be what a fault set is still owed as primary
//! and secondary, and N the shards left. The quotas give P + S ≤ N for every fault set. One with
//! P + S = N (*tight*; there are two at most, since all P and S add up to 2N) is given one of the two
//! copies of this shard, all others have room, so P + S ≤ N holds again with N − 1.

use super::quota::Quota;
use super::{Homes, Target};
use crate::id::SdsId;
use std::collections::BTreeMap;

/// A server, or a device of one, and what it is owed.
#[derive(Clone, Debug)]
struct Party {
    quota: u64,
    left: u64,
}

impl Party {
    const fn new(quota: u64) -> Self {
        Self { quota, left: quota }
    }

    /// How far it is behind its even share after `step` of `steps` (scaled by `steps`).
    fn behind(&self, step: u64, steps: u64) -> i128 {
        i128::from(self.quota) * i128::from(step + 1) - i128::from(self.quota - self.left) * i128::from(steps)
    }
}

struct Server {
    fault_set: usize,
    primary: Party,
    secondary: Party,
    /// Index into the targets, with what the device is owed in each role.
    devices: Vec<(usize, Party, Party)>,
}

/// What a fault set is still owed.
#[derive(Clone, Copy, Default)]
struct Owed {
    primary: u64,
    secondary: u64,
}

struct Dealer {
    servers: Vec<Server>,
    fault_sets: Vec<Owed>,
    shards: u64,
    /// How often server `a` had `b` as its partner.
    pairs: BTreeMap<(usize, usize), u64>,
}

pub(super) fn deal(targets: &[Target], quotas: &[Quota], shards: u32, copies: usize) -> Vec<Homes> {
    let mut dealer = Dealer::new(targets, quotas, u64::from(shards));
    let (mut last_primary, mut last_device) = (None, None);
    let mut homes = Vec::with_capacity(shards as usize);
    for step in 0..u64::from(shards) {
        let tight = if copies == 2 { dealer.tight(step) } else { Vec::new() };
        let primary = dealer.choose_primary(step, last_primary, &tight, copies);
        let device = dealer.take_primary(primary, last_device);
        let secondary = (copies == 2).then(|| {
            let secondary = dealer.choose_secondary(primary, &tight);
            targets[dealer.take_secondary(primary, secondary)].device
        });
        (last_primary, last_device) = (Some(primary), Some(device));
        homes.push(Homes { primary: targets[device].device, secondary });
    }
    homes
}

impl Dealer {
    fn new(targets: &[Target], quotas: &[Quota], shards: u64) -> Self {
        let mut by_server: BTreeMap<SdsId, Vec<usize>> = BTreeMap::new();
        for (index, target) in targets.iter().enumerate() {
            by_server.entry(target.sds).or_default().push(index);
        }
        let mut numbers: BTreeMap<u32, usize> = BTreeMap::new();
        for target in targets {
            let next = numbers.len();
            numbers.entry(target.fault_set).or_insert(next);
        }
        let mut fault_sets = vec![Owed::default(); numbers.len()];
        let servers = by_server
            .into_values()
            .map(|members| {
                let sum = |of: fn(&Quota) -> u64| members.iter().map(|index| of(&quotas[*index])).sum::<u64>();
                let (primary, secondary) = (sum(|quota| quota.primary), sum(|quota| quota.secondary));
                let fault_set = numbers[&targets[members[0]].fault_set];
                fault_sets[fault_set].primary += primary;
                fault_sets[fault_set].secondary += secondary;
                let device = |index: usize| (index, Party::new(quotas[index].primary), Party::new(quotas[index].secondary));
                let devices = members.iter().map(|index| device(*index)).collect();
                Server { fault_set, primary: Party::new(primary), secondary: Party::new(secondary), devices }
            })
            .collect();
        Self { servers, fault_sets, shards, pairs: BTreeMap::new() }
    }

    /// Fault sets that must get a copy of this shard.
    fn tight(&self, step: u64) -> Vec<usize> {
        let left = self.shards - step;
        let tight: Vec<usize> = (0..self.fault_sets.len())
            .filter(|set| {
                let owed = self.fault_sets[*set];
                assert!(owed.primary + owed.secondary <= left, "I11: a fault set is owed more than one copy of a shard");
                owed.primary + owed.secondary == left
            })
            .collect();
        assert!(tight.len() <= 2, "all that is owed is two copies of what is left");
        tight
    }

    fn choose_primary(&self, step: u64, last: Option<usize>, tight: &[usize], copies: usize) -> usize {
        let left = self.shards - step;
        let allowed = |index: &usize| {
            let server = &self.servers[*index];
            if server.primary.left == 0 {
                return false;
            }
            // Whoever is tight and does not get the primary must be able to get the secondary.
            let others_fit = tight.iter().filter(|set| **set != server.fault_set).all(|set| self.fault_sets[*set].secondary > 0);
            let one_role_is_enough = tight.len() < 2 || tight.contains(&server.fault_set);
            let partner =
                copies == 1 || self.fault_sets.iter().enumerate().any(|(set, owed)| set != server.fault_set && owed.secondary > 0);
            others_fit && one_role_is_enough && partner
        };
        let candidates: Vec<usize> = (0..self.servers.len()).filter(allowed).collect();
        // Who is owed more than half of what is left must come now, or it will have to follow itself.
        let pressing = candidates.iter().find(|index| self.servers[**index].primary.left * 2 > left && Some(**index) != last);
        let best = |candidates: &[usize], skip: Option<usize>| {
            let owed = |index: usize| self.servers[index].primary.behind(step, self.shards);
            candidates.iter().copied().filter(|index| Some(*index) != skip).max_by(|a, b| owed(*a).cmp(&owed(*b)).then(b.cmp(a)))
        };
        let chosen = pressing.copied().or_else(|| best(&candidates, last)).or_else(|| best(&candidates, None));
        chosen.expect("as the module says, somebody can always take the primary")
    }

    fn take_primary(&mut self, server: usize, last_device: Option<usize>) -> usize {
        let server = &mut self.servers[server];
        self.fault_sets[server.fault_set].primary -= 1;
        let (taken, of) = (server.primary.quota - server.primary.left, server.primary.quota);
        server.primary.left -= 1;
        let open = |(index, primary, _): &(usize, Party, Party), skip: Option<usize>| primary.left > 0 && Some(*index) != skip;
        let best = |skip: Option<usize>| {
            let owed = |at: usize| server.devices[at].1.behind(taken, of);
            (0..server.devices.len()).filter(|at| open(&server.devices[*at], skip)).max_by(|a, b| owed(*a).cmp(&owed(*b)).then(b.cmp(a)))
        };
        let at = best(last_device).or_else(|| best(None)).expect("a server's quota is the sum of its devices'");
        server.devices[at].1.left -= 1;
        server.devices[at].0
    }

    /// The partner that this primary has had least for what it is owed (highest averages, Sainte-Laguë
    /// 1910), so that a server's failure is made good by all the others.
    fn choose_secondary(&self, primary: usize, tight: &[usize]) -> usize {
        let fault_set = self.servers[primary].fault_set;
        let must = tight.iter().copied().find(|set| *set != fault_set);
        let allowed = |index: &usize| {
            let server = &self.servers[*index];
            server.secondary.left > 0 && server.fault_set != fault_set && must.is_none_or(|set| set == server.fault_set)
        };
        let had = |index: usize| u128::from(2 * self.pairs.get(&(primary, index)).copied().unwrap_or(0) + 1);
        let better = |a: usize, b: usize| {
            let left = |index: usize| u128::from(self.servers[index].secondary.quota);
            (left(a) * had(b)).cmp(&(left(b) * had(a)))
        };
        let best = (0..self.servers.len()).filter(allowed).max_by(|a, b| better(*a, *b).then(b.cmp(a)));
        best.expect("the primary was chosen so that it has a partner")
    }

    fn take_secondary(&mut self, primary: usize, server: usize) -> usize {
        *self.pairs.entry((primary, server)).or_default() += 1;
        let server = &mut self.servers[server];
        self.fault_sets[server.fault_set].secondary -= 1;
        let (taken, of) = (server.secondary.quota - server.secondary.left, server.secondary.quota);
        server.secondary.left -= 1;
        let owed = |at: usize| server.devices[at].2.behind(taken, of);
        let open = |at: &usize| server.devices[*at].2.left > 0;
        let best = (0..server.devices.len()).filter(open).max_by(|a, b| owed(*a).cmp(&owed(*b)).then(b.cmp(a)));
        let at = best.expect("a server's quota is the sum of its devices'");
        server.devices[at].2.left -= 1;
        server.devices[at].0
    }
}
