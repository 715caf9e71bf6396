//! How many replicas each device is owed.
//!
//! Invariants: the quotas add up to shards × copies; a device's quota is its exact share rounded down
//! or up (largest remainder, Hamilton 1792), so with 20 replicas or more it is within 1.05 of it; with
//! two copies no fault set is owed more than one replica of each shard.

use super::Target;
use std::collections::BTreeMap;

/// What one device is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quota {
    /// Primaries.
    pub(super) primary: u64,
    /// Secondaries.
    pub(super) secondary: u64,
}

/// The quota of each target, in the order given.
pub(super) fn quotas(targets: &[Target], shards: u64, copies: usize) -> Vec<Quota> {
    if copies == 1 {
        let weights: Vec<u64> = targets.iter().map(|target| target.weight).collect();
        return shares(&weights, shards).into_iter().map(|primary| Quota { primary, secondary: 0 }).collect();
    }
    split_roles(&replicas(targets, shards), shards)
}

/// Two copies: shares by weight, but no fault set more than `shards`; what it cannot take goes to the others.
fn replicas(targets: &[Target], shards: u64) -> Vec<u64> {
    let mut sets: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, target) in targets.iter().enumerate() {
        sets.entry(target.fault_set).or_default().push(index);
    }
    let weight_of = |members: &[usize]| members.iter().map(|index| u128::from(targets[*index].weight)).sum::<u128>();
    // At most one fault set can weigh more than half: of two copies only one can be in it.
    let total: u128 = sets.values().map(|members| weight_of(members)).sum();
    let heavy = sets.iter().find(|(_, members)| weight_of(members) * 2 > total).map(|(set, _)| *set);
    let mut owed = vec![0; targets.len()];
    let mut give = |members: &[usize], amount: u64| {
        let weights: Vec<u64> = members.iter().map(|index| targets[*index].weight).collect();
        for (index, share) in members.iter().zip(shares(&weights, amount)) {
            owed[*index] = share;
        }
    };
    match heavy {
        Some(heavy) => {
            let rest: Vec<usize> = (0..targets.len()).filter(|index| targets[*index].fault_set != heavy).collect();
            give(&sets[&heavy], shards);
            give(&rest, shards);
        }
        None => give(&(0..targets.len()).collect::<Vec<_>>(), 2 * shards),
    }
    trim(&mut owed, targets, &sets, shards);
    owed
}

/// Rounding can owe a fault set of just half the weight a few replicas too many: they go to whoever
/// else has least for its weight.
fn trim(owed: &mut [u64], targets: &[Target], sets: &BTreeMap<u32, Vec<usize>>, shards: u64) {
    let over = |owed: &[u64], members: &[usize]| members.iter().map(|index| owed[*index]).sum::<u64>().saturating_sub(shards);
    for (set, members) in sets {
        for _ in 0..over(owed, members) {
            let fullest = members.iter().copied().max_by(|a, b| by_fullness(owed, targets, *a, *b).then(b.cmp(a)));
            let emptiest = (0..owed.len())
                .filter(|index| targets[*index].fault_set != *set)
                .filter(|index| sets[&targets[*index].fault_set].iter().map(|member| owed[*member]).sum::<u64>() < shards)
                .min_by(|a, b| by_fullness(owed, targets, *a, *b).then(a.cmp(b)));
            if let (Some(fullest), Some(emptiest)) = (fullest, emptiest) {
                owed[fullest] -= 1;
                owed[emptiest] += 1;
            }
        }
    }
}

/// Compares replicas per weight.
fn by_fullness(owed: &[u64], targets: &[Target], a: usize, b: usize) -> core::cmp::Ordering {
    let cross = |x: usize, y: usize| u128::from(owed[x]) * u128::from(targets[y].weight);
    cross(a, b).cmp(&cross(b, a))
}

/// Half of each device's replicas are primaries; of the odd ones every second gets one more.
fn split_roles(owed: &[u64], shards: u64) -> Vec<Quota> {
    let mut extra = true;
    let quotas: Vec<Quota> = owed
        .iter()
        .map(|replicas| {
            let mut primary = replicas / 2;
            if replicas % 2 == 1 {
                primary += u64::from(extra);
                extra = !extra;
            }
            Quota { primary, secondary: replicas - primary }
        })
        .collect();
    debug_assert_eq!(quotas.iter().map(|quota| quota.primary).sum::<u64>(), shards, "an even number of odd quotas");
    quotas
}

/// `amount` whole things shared by weight, the largest remainders rounded up.
pub(super) fn shares(weights: &[u64], amount: u64) -> Vec<u64> {
    let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    assert!(total > 0, "targets have weight");
    let exact = |weight: u64| (u128::from(weight) * u128::from(amount) / total, u128::from(weight) * u128::from(amount) % total);
    #[expect(clippy::cast_possible_truncation, reason = "a share is at most the amount")]
    let mut given: Vec<u64> = weights.iter().map(|weight| exact(*weight).0 as u64).collect();
    let mut left = amount - given.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|index| (core::cmp::Reverse(exact(weights[*index]).1), *index));
    for index in order {
        if left == 0 {
            break;
        }
        given[index] += 1;
        left -= 1;
    }
    given
}
