//! Properties of every plan: complete, even by weight, spread, apart (I11), the same each time.
#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers in tests")]

use super::{Homes, PlacementError, Target, place};
use crate::id::{DeviceId, SdsId};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Servers with these devices' weights, `per_set` servers to a fault set.
fn targets(servers: &[Vec<u64>], per_set: usize) -> Vec<Target> {
    let mut all = Vec::new();
    for (index, weights) in servers.iter().enumerate() {
        for weight in weights {
            let device = DeviceId::new(all.len() as u32 + 1);
            let (sds, fault_set) = (SdsId::new(index as u32 + 1), (index / per_set) as u32);
            all.push(Target { device, sds, fault_set, weight: *weight });
        }
    }
    all
}

fn home_of(targets: &[Target]) -> BTreeMap<DeviceId, Target> {
    targets.iter().map(|target| (target.device, *target)).collect()
}

fn count(homes: &[Homes]) -> BTreeMap<DeviceId, (u64, u64)> {
    let mut counts: BTreeMap<DeviceId, (u64, u64)> = BTreeMap::new();
    for home in homes {
        counts.entry(home.primary).or_default().0 += 1;
        if let Some(secondary) = home.secondary {
            counts.entry(secondary).or_default().1 += 1;
        }
    }
    counts
}

/// Fullest device by weight ÷ mean.
fn quality(targets: &[Target], homes: &[Homes], copies: u64) -> f64 {
    let counts = count(homes);
    let total: u128 = targets.iter().map(|target| u128::from(target.weight)).sum();
    let mean = (homes.len() as u64 * copies) as f64 / total as f64;
    targets
        .iter()
        .map(|target| {
            let (primaries, secondaries) = counts.get(&target.device).copied().unwrap_or_default();
            (primaries + secondaries) as f64 / target.weight as f64 / mean
        })
        .fold(0.0, f64::max)
}

#[test]
fn equal_servers_take_turns() {
    let targets = targets(&[vec![5, 5], vec![5, 5], vec![5, 5]], 1);
    let homes = place(&targets, 4096, 1).expect("a plan");
    let server = home_of(&targets);
    for pair in homes.windows(2) {
        assert_ne!(server[&pair[0].primary].sds, server[&pair[1].primary].sds);
    }
    for pair in homes.windows(4) {
        assert_ne!(pair[0].primary, pair[3].primary, "a server's devices take turns");
    }
    let counts = count(&homes);
    assert!(counts.values().all(|(primaries, _)| (682..=683).contains(primaries)), "{counts:?}");
}

#[test]
fn one_device_takes_all() {
    let homes = place(&targets(&[vec![1]], 1), 7, 1).expect("a plan");
    assert_eq!(homes, vec![Homes { primary: DeviceId::new(1), secondary: None }; 7]);
}

#[test]
fn impossible_plans_say_why() {
    assert_eq!(place(&[], 8, 1), Err(PlacementError::NoDevice));
    assert_eq!(place(&targets(&[vec![0, 0]], 1), 8, 1), Err(PlacementError::NoDevice));
    assert_eq!(place(&targets(&[vec![1], vec![1]], 2), 8, 2), Err(PlacementError::TooFewFaultSets { copies: 2, have: 1 }));
    assert_eq!(place(&targets(&[vec![1]], 1), 8, 3), Err(PlacementError::Copies(3)));
    assert_eq!(place(&targets(&[vec![1]], 1), 8, 0), Err(PlacementError::Copies(0)));
}

#[test]
fn a_servers_secondaries_are_spread_over_all_others() {
    let targets = targets(&vec![vec![10, 10]; 5], 1);
    let homes = place(&targets, 4096, 2).expect("a plan");
    let server = home_of(&targets);
    let mut pairs: BTreeMap<(SdsId, SdsId), u32> = BTreeMap::new();
    for home in &homes {
        let secondary = home.secondary.expect("two copies");
        *pairs.entry((server[&home.primary].sds, server[&secondary].sds)).or_default() += 1;
    }
    assert_eq!(pairs.len(), 20, "every pair of servers is used");
    let even = 4096 / 20;
    assert!(pairs.values().all(|count| (even / 2..=even * 2).contains(count)), "{pairs:?}");
}

fn servers() -> impl Strategy<Value = Vec<Vec<u64>>> {
    prop::collection::vec(prop::collection::vec(1_u64..=8, 1..=4), 1..=9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn one_copy_is_even_and_spread(servers in servers(), shards in 1_u32..3000, scale in prop::sample::select(vec![1_u64, 1 << 30, 1 << 58])) {
        let servers: Vec<Vec<u64>> = servers.iter().map(|weights| weights.iter().map(|weight| weight * scale).collect()).collect();
        let targets = targets(&servers, 1);
        let homes = place(&targets, shards, 1).expect("a plan");
        prop_assert_eq!(homes.len(), shards as usize);
        prop_assert_eq!(&homes, &place(&targets, shards, 1).expect("a plan"));
        let total: u128 = targets.iter().map(|target| u128::from(target.weight)).sum();
        let lightest = targets.iter().map(|target| u128::from(target.weight)).min().unwrap_or(0);
        if lightest * u128::from(shards) >= 20 * total {
            prop_assert!(quality(&targets, &homes, 1) <= 1.05 + 1e-9);
        }
        // No server follows itself if none has more than half (and one more, for rounding).
        let server = home_of(&targets);
        let mut per_server: BTreeMap<SdsId, u64> = BTreeMap::new();
        for home in &homes {
            *per_server.entry(server[&home.primary].sds).or_default() += 1;
        }
        if per_server.values().all(|count| count * 2 <= u64::from(shards) + 1) {
            prop_assert!(homes.windows(2).all(|pair| server[&pair[0].primary].sds != server[&pair[1].primary].sds));
        }
    }

    #[test]
    fn two_copies_are_apart_and_even(servers in servers(), per_set in 1_usize..=3, shards in 1_u32..1500) {
        let targets = targets(&servers, per_set);
        let have = servers.len().div_ceil(per_set);
        let plan = place(&targets, shards, 2);
        if have < 2 {
            prop_assert_eq!(plan, Err(PlacementError::TooFewFaultSets { copies: 2, have }));
            return Ok(());
        }
        let homes = plan.expect("a plan");
        prop_assert_eq!(homes.len(), shards as usize);
        let home = home_of(&targets);
        for homes in &homes {
            let secondary = homes.secondary.expect("two copies");
            prop_assert_ne!(home[&homes.primary].fault_set, home[&secondary].fault_set, "I11");
        }
        for (primaries, secondaries) in count(&homes).values() {
            prop_assert!(primaries.abs_diff(*secondaries) <= 1, "primaries are even");
        }
        let total: u64 = targets.iter().map(|target| target.weight).sum();
        let mut sets: BTreeMap<u32, u64> = BTreeMap::new();
        for target in &targets {
            *sets.entry(target.fault_set).or_default() += target.weight;
        }
        let lightest = targets.iter().map(|target| target.weight).min().unwrap_or(0);
        // What a fault set of more than half the weight cannot take, the others must.
        if sets.values().all(|weight| weight * 2 < total) && lightest * u64::from(shards) * 2 >= 20 * total {
            prop_assert!(quality(&targets, &homes, 2) <= 1.05 + 1e-9, "{}", quality(&targets, &homes, 2));
        }
        prop_assert_eq!(&homes, &place(&targets, shards, 2).expect("a plan"));
    }

    #[test]
    fn order_of_targets_does_not_matter(servers in servers(), shards in 1_u32..300) {
        let targets = targets(&servers, 1);
        let mut reversed = targets.clone();
        reversed.reverse();
        prop_assert_eq!(place(&targets, shards, 1), place(&reversed, shards, 1));
    }
}
