//! Pools of two copies: where the copies go, what is committed for their shards, and over random histories.

use super::*;
use crate::placement::PlacementError;
use std::collections::BTreeSet;

pub(super) const PAIRS: &str = "pairs";
const SHARDS: u32 = 16;

fn paired(uuid: u128) -> RegisterDevice {
    RegisterDevice { pool: PAIRS.to_owned(), ..device(uuid) }
}

impl Test {
    /// A pool of two copies over servers of one device each; device and server have the same number.
    fn pairs(servers: u128) -> Self {
        let mut test = Self::bare();
        test.apply(Change::CreatePool { name: PAIRS.to_owned(), shards: SHARDS, copies: Copies::Two }).expect("a pool");
        for sds in 1..=servers {
            test.register(register(sds, 100, vec![paired(10 + sds)])).expect("registers");
        }
        test
    }

    fn pairs_with_volume(servers: u128) -> Self {
        let mut test = Self::pairs(servers);
        test.create(CreateVolume { pool: PAIRS.to_owned(), ..create("one", GIB) }).expect("is made");
        test
    }

    fn entries(&self) -> Vec<crate::map::ShardEntry> {
        self.cluster.pool_by_name(PAIRS).expect("there").1.map.shards.clone()
    }
}

#[test]
fn two_copies_are_in_different_fault_sets() {
    let test = Test::pairs_with_volume(3);
    let entries = test.entries();
    assert_eq!(entries.len(), SHARDS as usize);
    let mut primaries = BTreeSet::new();
    for entry in entries {
        let [primary, secondary] = entry.in_sync.members() else { panic!("{entry:?}") };
        assert_ne!(primary.device, secondary.device, "I11");
        primaries.insert(primary.device);
    }
    assert_eq!(primaries.len(), 3, "every device is primary of some");
}

#[test]
fn too_few_fault_sets_are_refused_by_name() {
    let mut test = Test::pairs(2);
    for sds in 1..=2 {
        let together = RegisterSds { fault_set: "rack".to_owned(), ..register(sds, 100, vec![paired(10 + sds)]) };
        test.register(together).expect("registers");
    }
    let refusal = test.create(CreateVolume { pool: PAIRS.to_owned(), ..create("one", GIB) }).expect_err("one fault set");
    assert!(matches!(refusal, Refusal::Placement { error: PlacementError::TooFewFaultSets { copies: 2, have: 1 }, .. }), "{refusal:?}");
    assert!(refusal.to_string().contains(r#"pool "pairs""#) && refusal.to_string().contains("2 copies need 2 fault sets, and there are 1"));
}

#[test]
fn two_copies_halve_the_room() {
    let mut test = Test::pairs(3);
    let volume = |size| CreateVolume { pool: PAIRS.to_owned(), ..create("one", size) };
    match test.create(volume(16 * GIB)) {
        Err(Refusal::OverProvisioned { room, copies: 2, .. }) => assert_eq!(room.get(), 15 * GIB),
        other => panic!("{other:?}"),
    }
    test.create(volume(15 * GIB)).expect("what it said would fit");
}
