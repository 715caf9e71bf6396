//! The rules of two copies, at the edges that a reader asks about first. `sds-model` explores what they allow together.

use sds_core::checksum::Checksum;
use sds_core::id::{BootId, DeviceId, Epoch, Incarnation, MapVersion, ShardSequence, Version};
use sds_core::map::{InSync, Lapsed, Member, ShardEntry};
use sds_core::protocol::membership::{Beginning, Change, Proposal, Refused, Registered, cache_is_kept, commit};
use sds_core::protocol::settle::{Exhibit, Plan, Record, Side, is_for_settling, settle, settle_joiner};

fn member(device: u32, life: u64) -> Member {
    Member { device: DeviceId::new(device), incarnation: Incarnation::new(life) }
}

fn entry(in_sync: InSync) -> ShardEntry {
    ShardEntry { epoch: Epoch::new(3), in_sync, ..ShardEntry::default() }
}

fn decide(
    entry: &ShardEntry,
    proposer: Option<Member>,
    change: Change,
    lives: [u64; 2],
    amnesic: [bool; 2],
) -> Result<ShardEntry, Refused> {
    let registered = |device: DeviceId| {
        let at = device.get() as usize - 1;
        Some(Registered { incarnation: Incarnation::new(lives[at]), open: true, amnesic: amnesic[at], cache_lost: false, gone: false })
    };
    commit(entry, &Proposal { base: entry.epoch, proposer, change }, registered, BEGINNING)
}

const BEGINNING: Beginning = Beginning { first_sequence: ShardSequence::new(100), made_at: MapVersion::new(17) };

/// Forms the set again, every member in its next life; `lost` are the caches lost since the life before.
fn form_again(entry: &ShardEntry, lost: [bool; 2]) -> ShardEntry {
    let registered = |device: DeviceId| {
        let member = entry.in_sync.members().iter().find(|member| member.device == device)?;
        let incarnation = Incarnation::new(member.incarnation.get() + 1);
        Some(Registered { incarnation, open: true, amnesic: false, cache_lost: lost[device.get() as usize - 1], gone: false })
    };
    let proposal = Proposal { base: entry.epoch, proposer: None, change: Change::Reform };
    commit(entry, &proposal, registered, BEGINNING).expect("all have restarted")
}

fn record(sequence: u64, checksum: u32) -> Record {
    let version = Version { sequence: ShardSequence::new(sequence), epoch: Epoch::new(1) };
    Record { version, checksum: Checksum::new(checksum) }
}

const SHRINK: Change = Change::Shrink { complete: ShardSequence::new(7) };

#[test]
fn a_member_goes_on_alone_above_every_used_sequence() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    let next = decide(&pair, Some(member(2, 1)), SHRINK, [1, 1], [false; 2]).expect("a member may");
    assert_eq!(next.in_sync, InSync::sole(member(2, 1)));
    assert_eq!(next.epoch, Epoch::new(4));
    assert_eq!((next.first_sequence, next.made_at), (ShardSequence::new(100), MapVersion::new(17)));
    assert_eq!(next.lapsed, Some(Lapsed { device: DeviceId::new(1), complete: ShardSequence::new(7) }));
}

/// Simulator seed 9002526: a promoted copy counts numbers as complete that it has skipped. In its next life, or another's, they must not be
/// given out: a copy that returns is not given what is not above what was complete on it.
#[test]
fn an_epoch_begins_above_what_is_complete_on_a_copy_that_fell_out() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    let skipped = Change::Shrink { complete: ShardSequence::new(1_123) };
    let next = decide(&pair, Some(member(2, 1)), skipped, [1, 1], [false; 2]).expect("a member may");
    assert_eq!(next.first_sequence, ShardSequence::new(1_124));
    let again = form_again(&next, [false; 2]);
    assert_eq!((again.lapsed, again.first_sequence), (next.lapsed, next.first_sequence), "also when no more was reserved");
    let all = Change::Shrink { complete: ShardSequence::new(u64::MAX) };
    let next = decide(&pair, Some(member(2, 1)), all, [1, 1], [false; 2]).expect("a member may");
    assert_eq!(next.first_sequence, ShardSequence::new(u64::MAX), "what cannot be is no overflow");
}

#[test]
fn who_restarted_may_not_go_on_alone() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    assert_eq!(decide(&pair, Some(member(1, 2)), SHRINK, [2, 1], [false; 2]), Err(Refused::NotInSync));
}

#[test]
fn what_a_former_life_asked_for_is_refused_and_who_failed_may_only_give_up() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    let gives_up = Change::Yield { complete: ShardSequence::new(0) };
    for change in [SHRINK, gives_up, Change::Swap, Change::Settled] {
        assert_eq!(decide(&pair, Some(member(1, 1)), change, [2, 1], [false; 2]), Err(Refused::OtherLife), "{change:?}");
    }
    let of = |change| {
        let registered = |device: DeviceId| {
            let open = device == DeviceId::new(2);
            Some(Registered { incarnation: Incarnation::new(1), open, amnesic: false, cache_lost: false, gone: false })
        };
        commit(&pair, &Proposal { base: pair.epoch, proposer: Some(member(1, 1)), change }, registered, BEGINNING)
    };
    assert_eq!(of(SHRINK), Err(Refused::OtherLife));
    assert_eq!(of(gives_up).expect("the other serves").in_sync, InSync::sole(member(2, 1)));
}

#[test]
fn the_last_copy_is_not_dropped() {
    let sole = entry(InSync::sole(member(1, 1)));
    assert_eq!(
        decide(&sole, Some(member(1, 1)), Change::Yield { complete: ShardSequence::new(0) }, [1, 1], [false; 2]),
        Err(Refused::LastCopy)
    );
}

#[test]
fn a_proposal_from_another_epoch_is_refused() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    let proposal = Proposal { base: Epoch::new(2), proposer: Some(member(1, 1)), change: SHRINK };
    assert_eq!(commit(&pair, &proposal, |_| None, BEGINNING), Err(Refused::OtherEpoch));
}

#[test]
fn the_set_is_formed_anew_only_when_all_have_restarted() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    assert_eq!(decide(&pair, None, Change::Reform, [2, 1], [false; 2]), Err(Refused::StillAlive));
    let next = decide(&pair, None, Change::Reform, [2, 5], [false; 2]).expect("both have");
    assert_eq!(next.in_sync, InSync::pair(member(1, 2), member(2, 5)));
}

#[test]
fn who_has_forgotten_is_left_out_and_joins_complete_up_to_nothing() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    let next = decide(&pair, None, Change::Reform, [2, 2], [true, false]).expect("one remembers");
    assert_eq!(next.in_sync, InSync::sole(member(2, 2)));
    assert_eq!(decide(&pair, None, Change::Reform, [2, 2], [true, true]), Err(Refused::LastCopy));

    let lapsed = Some(Lapsed { device: DeviceId::new(1), complete: ShardSequence::new(9) });
    let sole = ShardEntry { lapsed, ..entry(InSync::sole(member(2, 1))) };
    let joins = |amnesic| decide(&sole, None, Change::Join { joiner: member(1, 2) }, [2, 1], [amnesic, false]).expect("it may join").lapsed;
    assert_eq!(joins(false), lapsed);
    assert_eq!(joins(true), Some(Lapsed { device: DeviceId::new(1), complete: ShardSequence::new(0) }));
}

#[test]
fn a_cache_is_kept_while_its_host_stays_up_or_where_it_is_not_volatile() {
    let (none, one, two) = (BootId::default(), BootId::new(1), BootId::new(2));
    assert!(cache_is_kept(one, one) && cache_is_kept(none, one) && cache_is_kept(none, none));
    assert!(!cache_is_kept(one, two) && !cache_is_kept(one, none));
}

#[test]
fn a_cache_that_survived_answers_for_what_was_acknowledged() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    for (lost, epoch) in [([false, false], 0), ([true, false], 0), ([false, true], 0), ([true, true], 4)] {
        let next = form_again(&pair, lost);
        assert_eq!((next.cache_lost, next.cache_lost_in), (lost, Epoch::new(epoch)));
        assert_eq!(is_for_settling(&next), lost != [false, false]);
        assert_eq!(next.has_lost_cache(member(1, 2)), lost[0]);
    }
    let sole = entry(InSync::sole(member(1, 1)));
    let next = form_again(&sole, [true, false]);
    assert_eq!((next.cache_lost, next.cache_lost_in), ([false, false], Epoch::new(4)), "a copy alone needs nobody's bytes");
    assert_eq!(form_again(&sole, [false, false]).cache_lost_in, Epoch::new(0));
}

#[test]
fn caches_lost_one_after_the_other_before_settling_are_lost_together() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    let first = form_again(&pair, [true, false]);
    let second = form_again(&first, [false, true]);
    assert_eq!((second.cache_lost, second.cache_lost_in), ([true, true], Epoch::new(5)));
    // Had they settled between, the one that kept its cache the second time has everything.
    let settled = decide(&first, Some(member(1, 2)), Change::Settled, [2, 2], [false; 2]).expect("the primary says so");
    assert_eq!((settled.in_sync, settled.cache_lost, settled.epoch), (first.in_sync, [false; 2], Epoch::new(5)));
    let second = form_again(&settled, [false, true]);
    assert_eq!((second.cache_lost, second.cache_lost_in), ([false, true], Epoch::new(0)));
}

#[test]
fn settled_is_said_by_the_primary_and_where_there_was_something_to_settle() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    assert_eq!(decide(&pair, Some(member(1, 1)), Change::Settled, [1, 1], [false; 2]), Err(Refused::NothingToSettle));
    let lost = form_again(&pair, [true, false]);
    assert_eq!(decide(&lost, Some(member(2, 2)), Change::Settled, [2, 2], [false; 2]), Err(Refused::NotInSync));
    assert_eq!(decide(&lost, None, Change::Settled, [2, 2], [false; 2]), Err(Refused::NotInSync));
}

#[test]
fn who_gives_up_before_settling_takes_along_what_the_other_had_lost() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    let gives_up = Change::Yield { complete: ShardSequence::new(0) };
    for (lost, epoch) in [([true, false], 0), ([false, true], 5)] {
        let next = decide(&form_again(&pair, lost), Some(member(1, 2)), gives_up, [2, 2], [false; 2]).expect("its device failed");
        assert_eq!((next.cache_lost, next.cache_lost_in), ([false; 2], Epoch::new(epoch)), "{lost:?}");
    }
}

/// Asks for this copy alone, of devices 1 to 3 in these lives, of which these are gone, have forgotten, have lost their caches.
fn go_alone(
    entry: &ShardEntry,
    change: Change,
    lives: [u64; 3],
    gone: [bool; 3],
    amnesic: [bool; 3],
    lost: [bool; 3],
) -> Result<ShardEntry, Refused> {
    let registered = |device: DeviceId| {
        let at = device.get() as usize - 1;
        let incarnation = Incarnation::new(lives[at]);
        Some(Registered { incarnation, open: !gone[at], amnesic: amnesic[at], cache_lost: lost[at], gone: gone[at] })
    };
    commit(entry, &Proposal { base: entry.epoch, proposer: None, change }, registered, BEGINNING)
}

const NOT: [bool; 3] = [false; 3];

#[test]
fn a_copy_goes_on_alone_only_when_the_other_is_gone() {
    let pair = entry(InSync::pair(member(1, 1), member(2, 1)));
    let alone = |member| Change::Alone { member, forced: false };
    assert_eq!(go_alone(&pair, alone(member(2, 2)), [1, 2, 1], NOT, NOT, NOT), Err(Refused::StillAlive));
    let gone = [true, false, false];
    let next = go_alone(&pair, alone(member(2, 2)), [1, 2, 1], gone, NOT, NOT).expect("the other is gone");
    assert_eq!((next.in_sync, next.cache_lost_in), (InSync::sole(member(2, 2)), Epoch::new(0)), "it kept its cache: nothing is lost");
    assert_eq!(next.lapsed, Some(Lapsed { device: DeviceId::new(1), complete: ShardSequence::new(0) }));
    let next = go_alone(&pair, alone(member(2, 2)), [1, 2, 1], gone, NOT, [false, true, false]).expect("the other is gone");
    assert_eq!(next.cache_lost_in, next.epoch, "what was not flushed may be lost");
    // A life that is not the newest, one that has forgotten, one that is no member, one that serves alone already.
    assert_eq!(go_alone(&pair, alone(member(2, 1)), [1, 2, 1], gone, NOT, NOT), Err(Refused::NotRegistered));
    assert_eq!(go_alone(&pair, alone(member(2, 2)), [1, 2, 1], gone, [false, true, false], NOT), Err(Refused::LastCopy));
    assert_eq!(go_alone(&pair, alone(member(3, 1)), [1, 2, 1], [true, true, false], NOT, NOT), Err(Refused::NoCopy));
    let sole = entry(InSync::sole(member(2, 2)));
    assert_eq!(go_alone(&sole, alone(member(2, 2)), [1, 2, 1], gone, NOT, NOT), Err(Refused::StillAlive));
}

#[test]
fn a_stale_copy_is_forced_only_when_no_copy_in_sync_can_come_and_flushes_say_so() {
    let lapsed = Some(Lapsed { device: DeviceId::new(1), complete: ShardSequence::new(9) });
    let sole = ShardEntry { lapsed, ..entry(InSync::sole(member(2, 1))) };
    let stale = |forced| Change::Alone { member: member(1, 2), forced };
    assert_eq!(go_alone(&sole, stale(true), [2, 1, 1], NOT, NOT, NOT), Err(Refused::StillAlive), "I7");
    let gone = [false, true, false];
    assert_eq!(go_alone(&sole, stale(false), [2, 1, 1], gone, NOT, NOT), Err(Refused::LastCopy), "only an operator may");
    for (gone, amnesic) in [(gone, NOT), (NOT, gone)] {
        let next = go_alone(&sole, stale(true), [2, 1, 1], gone, amnesic, NOT).expect("nobody else can come");
        assert_eq!((next.in_sync, next.cache_lost_in), (InSync::sole(member(1, 2)), next.epoch));
        assert_eq!(next.lapsed, Some(Lapsed { device: DeviceId::new(2), complete: ShardSequence::new(0) }));
    }
    assert_eq!(go_alone(&sole, Change::Alone { member: member(3, 1), forced: true }, [2, 1, 1], gone, NOT, NOT), Err(Refused::NoCopy));
    // The only copy, which has forgotten.
    let forced = Change::Alone { member: member(2, 2), forced: true };
    let next = go_alone(&sole, forced, [2, 2, 1], NOT, gone, NOT).expect("it is all there is");
    assert_eq!((next.in_sync, next.cache_lost_in), (InSync::sole(member(2, 2)), next.epoch));
    let nothing = Some(Lapsed { device: DeviceId::new(1), complete: ShardSequence::new(0) });
    assert_eq!(next.lapsed, nothing, "it may write other bytes at the versions that the other has");
}

#[test]
fn a_proposed_joiner_is_dropped_by_its_primary_alone() {
    let joining = ShardEntry { joining: Some(member(1, 2)), ..entry(InSync::sole(member(2, 1))) };
    let base = joining.epoch;
    let drop = |proposer| Proposal { base, proposer, change: Change::Drop };
    let registered = |device: DeviceId| {
        Some(Registered {
            incarnation: Incarnation::new(if device.get() == 1 { 2 } else { 1 }),
            open: true,
            amnesic: false,
            cache_lost: false,
            gone: false,
        })
    };
    let beginning = Beginning { first_sequence: ShardSequence::new(100), made_at: MapVersion::new(9) };
    let next = commit(&joining, &drop(Some(member(2, 1))), registered, beginning).expect("its own");
    assert_eq!((next.in_sync, next.joining, next.epoch.get()), (joining.in_sync, None, base.get() + 1));
    let grow = Proposal { base, proposer: Some(member(2, 1)), change: Change::Grow };
    assert_eq!(commit(&next, &grow, registered, beginning), Err(Refused::OtherEpoch), "one of the two");
    for (entry, proposer, fault) in [
        (&joining, Some(member(1, 2)), Refused::NotInSync),
        (&joining, None, Refused::NotInSync),
        (&ShardEntry { joining: None, ..joining }, Some(member(2, 1)), Refused::NoJoiner),
    ] {
        assert_eq!(commit(entry, &drop(proposer), registered, beginning), Err(fault));
    }
}

#[test]
fn settling_takes_the_newest_record_wherever_its_bytes_lie() {
    let (old, new) = (record(1, 10), record(2, 20));
    let (log, short) = ([old, new], [old]);
    let knows = Exhibit { records: &log, medium: Some(old.checksum), cache_lost: true };
    let holds = Exhibit { records: &short, medium: Some(new.checksum), cache_lost: true };
    assert_eq!(settle(&knows, &holds), Plan::Take { from: Side::Secondary, checksum: new.checksum, unrecorded: false });
}

#[test]
fn a_cache_that_survived_settles_alone() {
    let (old, new) = (record(1, 10), record(2, 20));
    let (log, short) = ([old, new], [old]);
    // In the middle of an overwrite: its bytes are those of no record.
    let survivor = Exhibit { records: &log, medium: Some(Checksum::new(30)), cache_lost: false };
    let lost = Exhibit { records: &short, medium: Some(old.checksum), cache_lost: true };
    assert_eq!(settle(&survivor, &lost), Plan::Take { from: Side::Primary, checksum: Checksum::new(30), unrecorded: true });
}

/// The other copy has recorded a later write, and its bytes; found by the pair model.
#[test]
fn damage_beside_a_later_write_of_the_other_copy_is_not_taken_for_an_overwrite() {
    let (first, both) = ([record(1, 10)], [record(1, 10), record(2, 20)]);
    let damaged = Exhibit { records: &first, medium: Some(Checksum::new(30)), cache_lost: false };
    let lost = Exhibit { records: &both, medium: Some(Checksum::new(20)), cache_lost: true };
    let good = Checksum::new(20);
    assert_eq!(settle(&damaged, &lost), Plan::Take { from: Side::Secondary, checksum: good, unrecorded: false });
    assert_eq!(settle(&lost, &damaged), Plan::Take { from: Side::Primary, checksum: good, unrecorded: false });
}

/// A freed extent has no record left; the other copy has lost the trim with its cache.
#[test]
fn a_trim_that_survived_is_not_undone_by_a_record_of_a_copy_that_lost_its_cache() {
    let (nothing, log) = ([record(0, Checksum::ZERO_BLOCK.get())], [record(1, 10)]);
    let freed = Exhibit { records: &nothing, medium: Some(Checksum::ZERO_BLOCK), cache_lost: false };
    let lost = Exhibit { records: &log, medium: Some(Checksum::new(10)), cache_lost: true };
    assert_eq!(settle(&freed, &lost), Plan::Take { from: Side::Primary, checksum: Checksum::ZERO_BLOCK, unrecorded: false });
}

#[test]
fn damage_of_a_survivor_gives_way_to_what_it_recorded_last() {
    let log = [record(1, 10)];
    let damaged = Exhibit { records: &log, medium: Some(Checksum::new(30)), cache_lost: false };
    let lost = Exhibit { records: &log, medium: Some(Checksum::new(10)), cache_lost: true };
    let right = |from| Plan::Take { from, checksum: Checksum::new(10), unrecorded: false };
    assert_eq!(settle(&damaged, &lost), right(Side::Secondary));
    assert_eq!(settle(&lost, &damaged), right(Side::Primary));
}

#[test]
fn bytes_that_no_healthy_history_leaves_are_quarantined() {
    let log = [record(1, 10)];
    let odd = |checksum| Exhibit { records: &log, medium: Some(Checksum::new(checksum)), cache_lost: false };
    assert_eq!(settle(&odd(30), &odd(40)), Plan::Quarantine);
}

#[test]
fn a_joiners_own_record_does_not_count() {
    let in_sync = record(1, 10);
    let log = [in_sync, record(2, 20)];
    let joiner = Exhibit { records: &log, medium: Some(Checksum::new(20)), cache_lost: false };
    assert!(settle_joiner(in_sync, &joiner));
}
