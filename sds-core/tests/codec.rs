//! Control messages: whatever bytes come, a value or an error; whatever is sent comes back.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use proptest::prelude::*;
use sds_core::codec::{CodecError, decode, encode};
use sds_core::control::*;
use sds_core::id::*;
use sds_core::limits::*;
use sds_core::map::{InSync, Lapsed, Member, ShardEntry, ShardMap};
use sds_core::protocol::membership::{Change, Proposal};
use sds_core::stripe::Stripe;
use sds_core::unit::ByteCount;
use sds_core::view::*;

fn register() -> SdsToMdm {
    SdsToMdm::Register {
        version: CONTROL_VERSION,
        sds: SdsUuid::new(7 << 90),
        system: SystemId::new(9),
        name: "node-a".to_owned(),
        addresses: vec!["127.0.0.1:9710".to_owned()],
        fault_set: "rack-1".to_owned(),
        life: u128::MAX,
        devices: vec![DeviceReport {
            uuid: DeviceUuid::new(3),
            path: "/dev/sdb".to_owned(),
            pool: "default".to_owned(),
            state: DeviceState::Failed { reason: "gone".to_owned() },
            capacity: Capacity { total: ByteCount::new(1 << 40), ..Capacity::default() },
            sequence_ceiling: ShardSequence::new(1 << 50),
            flushed: LogSequence::new(1 << 40),
            log_end: LogSequence::new(1 << 39),
            cache: BootId::new(5 << 100),
            faults: FaultCounts { data_mismatches: 1, ..FaultCounts::default() },
            recent_faults: vec!["volume 3 extent 1 block 2".to_owned()],
        }],
    }
}

fn proposals(count: usize) -> SdsToMdm {
    let member = Member { device: DeviceId::new(u32::MAX), incarnation: Incarnation::new(u64::MAX) };
    let change = Change::Shrink { complete: ShardSequence::new(u64::MAX) };
    let proposal = Proposal { base: Epoch::new(u32::MAX), proposer: Some(member), change };
    SdsToMdm::Propose { proposals: vec![(PoolId::new(u32::MAX), ShardId::new(u32::MAX), proposal); count] }
}

#[test]
fn proposals_are_these_bytes() {
    let member = Member { device: DeviceId::new(3), incarnation: Incarnation::new(4) };
    let of = |change| Proposal { base: Epoch::new(2), proposer: Some(member), change };
    let complete = ShardSequence::new(9);
    let changes = [
        (Change::Shrink { complete }, vec![0, 9]),
        (Change::Yield { complete }, vec![1, 9]),
        (Change::Grow, vec![2]),
        (Change::Swap, vec![3]),
        (Change::Join { joiner: member }, vec![4, 3, 4]),
        (Change::Reform, vec![5]),
        (Change::Settled, vec![6]),
        (Change::Alone { member, forced: true }, vec![7, 3, 4, 1]),
    ];
    for (change, tail) in changes {
        let message = SdsToMdm::Propose { proposals: vec![(PoolId::new(7), ShardId::new(8), of(change))] };
        // Kind of message, one proposal, pool, shard, epoch, there is a proposer: device and incarnation, then the change.
        let bytes = [vec![6, 1, 7, 8, 2, 1, 3, 4], tail].concat();
        assert_eq!(encode(&message).unwrap(), bytes);
        assert_eq!(decode::<SdsToMdm>(&bytes).unwrap(), message);
    }
}

#[test]
fn the_most_proposals_fit_what_the_control_port_reads_from_a_server() {
    let bytes = encode(&proposals(PROPOSALS_PER_MESSAGE_MAX)).unwrap();
    assert!(bytes.len() < 4 << 20, "{}", bytes.len());
    assert_eq!(decode::<SdsToMdm>(&bytes).unwrap(), proposals(PROPOSALS_PER_MESSAGE_MAX));
}

fn largest_view() -> ViewUpdate {
    let member = |number| Member { device: DeviceId::new(number), incarnation: Incarnation::new(u64::MAX) };
    let entry = ShardEntry {
        epoch: Epoch::new(u32::MAX),
        in_sync: InSync::pair(member(u32::MAX), member(u32::MAX - 1)),
        joining: Some(member(u32::MAX - 2)),
        lapsed: Some(Lapsed { device: DeviceId::new(u32::MAX), complete: ShardSequence::new(u64::MAX) }),
        first_sequence: ShardSequence::new(u64::MAX),
        made_at: MapVersion::new(u64::MAX),
        cache_lost_in: Epoch::new(u32::MAX),
        cache_lost: [true; IN_SYNC_MAX],
    };
    let pool = |number| ShardMap { pool: PoolId::new(number), shards: vec![entry; SHARDS_PER_POOL_DEFAULT as usize] };
    let volume = VolumeView {
        id: VolumeId::new(u32::MAX),
        name: "x".repeat(NAME_BYTES_MAX),
        tree: TreeId::new(u32::MAX),
        pool: PoolId::new(u32::MAX),
        size: ByteCount::new(u64::MAX),
        stripe: Stripe::default(),
        sessions: vec![SessionView {
            client: ClientId::new(u128::MAX),
            ticket: Ticket::new(u128::MAX),
            generation: SessionGeneration::new(u64::MAX),
            mode: SessionMode::Exclusive,
        }],
    };
    ViewUpdate {
        system: SystemId::new(u128::MAX),
        version: MapVersion::new(u64::MAX),
        pools: (0..64).map(pool).collect(),
        volumes: Some(vec![volume; 1000]),
        servers: None,
        deleted_trees: Some(vec![TreeId::new(u32::MAX); 1000]),
    }
}

#[test]
fn messages_come_back_as_they_were() {
    let message = register();
    assert_eq!(decode::<SdsToMdm>(&encode(&message).unwrap()).unwrap(), message);
    let shards: usize = largest_view().pools.iter().map(|pool| pool.shards.len()).sum();
    let bytes = encode(&largest_view().pools).unwrap().len() as u64;
    assert!(bytes <= shards as u64 * SHARD_ENTRY_BYTES_MAX, "{} bytes a shard", bytes / shards as u64);
    let message = MdmToSds::View(largest_view());
    let bytes = encode(&message).unwrap();
    assert!(bytes.len() < CONTROL_MESSAGE_BYTES_MAX as usize, "the view that the limit is made for fits: {}", bytes.len());
    assert_eq!(decode::<MdmToSds>(&bytes).unwrap(), message);
}

#[test]
fn every_cut_of_a_message_and_every_byte_too_many_is_an_error() {
    let bytes = encode(&register()).unwrap();
    for end in 0..bytes.len() {
        assert!(matches!(decode::<SdsToMdm>(&bytes[..end]), Err(CodecError::Decode(_))), "{end} bytes");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(decode::<SdsToMdm>(&longer), Err(CodecError::TooLong(1))));
}

#[test]
fn a_length_is_not_believed_before_its_bytes_are_there() {
    // A list that claims 2^60 elements in ten bytes: refused without taking memory for them.
    let mut bytes = vec![253];
    bytes.extend((1_u64 << 60).to_le_bytes());
    assert!(decode::<Vec<u64>>(&bytes).is_err());
    assert!(decode::<String>(&bytes).is_err());
}

/// These few bytes had room made for 60 MiB before the text was missed (fuzz target `control_sds`).
#[test]
fn room_for_a_text_is_made_by_the_length_of_the_message() {
    let mut bytes = vec![252];
    bytes.extend((60_u32 << 20).to_le_bytes());
    let Err(CodecError::Decode(refusal)) = decode::<String>(&bytes) else { panic!("there is no text") };
    assert_eq!(refusal.to_string(), bincode::error::DecodeError::LimitExceeded.to_string());
}

/// The limit counted a number by its type, not by its bytes: what was encoded within it was refused when it was read back.
#[test]
fn a_large_list_of_small_numbers_comes_back() {
    let numbers = vec![1_u128; 5 << 20];
    let bytes = encode(&numbers).unwrap();
    assert!(bytes.len() < CONTROL_MESSAGE_BYTES_MAX as usize / 8);
    assert_eq!(decode::<Vec<u128>>(&bytes).unwrap(), numbers);
}

#[test]
fn what_is_over_the_limit_is_refused_both_ways() {
    let over = vec![0_u8; CONTROL_MESSAGE_BYTES_MAX as usize + 1];
    assert!(matches!(decode::<Vec<u8>>(&over), Err(CodecError::TooLarge(_))));
    assert!(encode(&over).is_err());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode::<SdsToMdm>(&bytes);
        let _ = decode::<MdmToSds>(&bytes);
        let _ = decode::<ClientToMdm>(&bytes);
        let _ = decode::<MdmToClient>(&bytes);
    }

    /// Changed messages decode to something that encodes to what was decoded, or not at all.
    #[test]
    fn changed_bytes_never_panic(place in any::<proptest::sample::Index>(), value in any::<u8>()) {
        let mut bytes = encode(&register()).unwrap();
        let place = place.index(bytes.len());
        bytes[place] = value;
        if let Ok(message) = decode::<SdsToMdm>(&bytes) {
            prop_assert_eq!(decode::<SdsToMdm>(&encode(&message).unwrap()).unwrap(), message);
        }
    }
}

/// A stripe of no bytes would be divided by.
#[test]
fn a_stripe_that_cannot_be_is_not_decoded() {
    for (unit, width) in [(0_u32, 8_u32), (4096, 0), (4095, 8), (2 << 20, 8), (4096, u32::MAX)] {
        let bytes = encode(&(unit, width)).unwrap();
        assert!(decode::<Stripe>(&bytes).is_err(), "{unit} over {width}");
    }
    let bytes = encode(&Stripe::default()).unwrap();
    assert_eq!(decode::<Stripe>(&bytes).unwrap(), Stripe::default());
}
