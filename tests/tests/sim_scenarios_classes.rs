//! Classes of bugs that stores with two copies have shipped, each played here on purpose; `docs/simulation.md` has the table.
//!
//! The checkers of the whole history and of every step have the last word; what a story alone can see is asserted in it.

mod sim_rig;

use sds_core::cluster::leader::{ApiReply, ApiRequest};
use sds_core::error::Status;
use sds_tests::history::Answer;
use sds_tests::network::ProcessIndex;
use sds_tests::plan::Plan;
use sds_tests::workload::{VolumeSpec, Wish};
use sds_tests::world::{Harm, UserState, World};
use sim_rig::*;

/// A world whose users do only what the scenario says; the first one has its volume open.
fn world(plan: Plan, seed: u64) -> World {
    opened(lasting(plan, 5_000), seed)
}

fn volume(world: &World) -> u32 {
    let UserState::Open { volume, .. } = world.user(0) else { panic!("client 0 has its volume open") };
    volume.id.get()
}

/// The servers with the copies of a block, the primary first.
fn copies(world: &World, lba: u64) -> Vec<usize> {
    world.servers_of(volume(world), lba)
}

fn kill(world: &mut World, server: usize) -> ProcessIndex {
    let process = world.process_of_server(server);
    world.kill(process);
    process
}

fn start(world: &mut World, server: usize) {
    let process = world.process_of_server(server);
    world.start(process);
}

#[track_caller]
fn becomes_whole(world: &mut World, seed: u64) {
    assert!(world.wait_until(World::is_whole), "seed {seed}: every shard gets its second copy back: {:?}", world.violations());
}

/// The only copy in sync dies; the one that fell out before is there again, and must not speak for the shard (I6, I7).
#[test]
fn last_copy_is_waited_for_and_not_replaced_by_a_stale_one() {
    for seed in 0..10 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 4 * BLOCK));
        let both = copies(&world, 0);
        kill(&mut world, both[1]);
        done(&mut world, 0, write(0, 4 * BLOCK));
        kill(&mut world, both[0]);
        start(&mut world, both[1]);
        let asked = world.ask(0, read(0, 4 * BLOCK));
        world.pass(20 * SECOND);
        assert!(!asked.iter().any(|op| world.is_answered(*op)), "seed {seed}: nobody there may answer");
        assert_eq!(copies(&world, 0), [both[0]], "seed {seed}: the last copy stays the last copy");
        start(&mut world, both[0]);
        assert!(world.answers(&asked).iter().all(Option::is_some), "seed {seed}: {:?}", world.violations());
        becomes_whole(&mut world, seed);
        ends_well(world, seed);
    }
}

/// One copy went on alone; then everything loses power, and the one that had fallen out is up first.
#[test]
fn good_copy_is_not_evicted_by_a_restart_after_a_power_cut() {
    for seed in 0..10 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 4 * BLOCK));
        let both = copies(&world, 0);
        kill(&mut world, both[1]);
        done(&mut world, 0, write(0, 4 * BLOCK));
        done(&mut world, 0, Wish::Flush);
        both.iter().for_each(|server| world.cut_power_of_server(*server));
        start(&mut world, both[1]);
        world.pass((1 + seed) * SECOND);
        start(&mut world, both[0]);
        done(&mut world, 0, read(0, 4 * BLOCK));
        becomes_whole(&mut world, seed);
        kill(&mut world, both[0]);
        done(&mut world, 0, read(0, 4 * BLOCK));
        start(&mut world, both[0]);
        ends_well(world, seed);
    }
}

/// I9: what was read at one primary is read at the next, whatever was under way, and the MDM away.
#[test]
fn new_primary_rolls_nothing_back() {
    for seed in 0..20 {
        let mut world = world(Plan::quiet_pair(), seed);
        for round in 0..6 {
            becomes_whole(&mut world, seed);
            let writes = world.ask(0, write(0, 4 * BLOCK));
            let reads = world.ask(0, read(0, 4 * BLOCK));
            world.pass((seed * 53 + round * 97) % 700 * 1_000);
            let primary = copies(&world, 0)[0];
            kill(&mut world, primary);
            if round % 2 == 1 {
                world.lose_mdm();
            }
            world.answers(&writes);
            world.answers(&reads);
            done(&mut world, 0, read(0, 4 * BLOCK));
            start(&mut world, primary);
        }
        ends_well(world, seed);
    }
}

/// A secondary whose cache a power cut took is back before anybody missed it; it is no copy until it was given what it lost.
#[test]
fn copy_that_lost_its_cache_counts_only_when_it_was_made_good() {
    for seed in 0..10 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 16 * BLOCK));
        let both = copies(&world, 0);
        world.cut_power_of_server(both[1]);
        start(&mut world, both[1]);
        done(&mut world, 0, write(8 * BLOCK, BLOCK));
        becomes_whole(&mut world, seed);
        kill(&mut world, both[0]);
        done(&mut world, 0, read(0, 16 * BLOCK));
        start(&mut world, both[0]);
        ends_well(world, seed);
    }
}

/// Unflushed writes that one copy has lost are sent to it again, so a flush that succeeds later is true of both copies.
#[test]
fn flush_covers_what_one_copy_had_lost_and_was_given_again() {
    for seed in 0..10 {
        for lost in 0..2 {
            let mut world = world(Plan::quiet_pair(), seed);
            done(&mut world, 0, write(0, 16 * BLOCK));
            let both = copies(&world, 0);
            world.cut_power_of_server(both[lost]);
            start(&mut world, both[lost]);
            becomes_whole(&mut world, seed);
            done(&mut world, 0, Wish::Flush);
            both.iter().for_each(|server| world.cut_power_of_server(*server));
            both.iter().for_each(|server| start(&mut world, *server));
            done(&mut world, 0, read(0, 16 * BLOCK));
            done(&mut world, 0, Wish::Flush);
            ends_well(world, seed);
        }
    }
}

/// Both copies lose their caches: what was acknowledged and not flushed may be gone, and the next flush says so, once.
#[test]
fn flush_fails_once_when_both_copies_have_lost_their_caches() {
    for seed in 0..10 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, BLOCK));
        let both = copies(&world, 0);
        both.iter().for_each(|server| world.cut_power_of_server(*server));
        both.iter().for_each(|server| start(&mut world, *server));
        assert_eq!(world.ask_and_wait(0, Wish::Flush), [Some(Answer::Failed(Status::FlushLost))], "seed {seed}");
        done(&mut world, 0, Wish::Flush);
        done(&mut world, 0, read(0, BLOCK));
        ends_well(world, seed);
    }
}

/// A secondary that cannot hear of a take-over becomes the primary, and the former holder has not heard of it either (I3).
#[test]
fn promoted_copy_knows_every_take_over() {
    for seed in 0..20 {
        let plan = Plan { clients: 2, works_on: vec![0, 0], read_only: vec![false, false], ..Plan::quiet_pair() };
        let mut world = world(plan, seed);
        done(&mut world, 0, write(0, 4 * BLOCK));
        let both = copies(&world, 0);
        let (secondary, old) = (world.process_of_server(both[1]), world.process_of_client(0));
        world.cut(secondary, None, 4 * SECOND);
        world.cut(old, None, 30 * SECOND);
        assert!(world.open(1, true), "seed {seed}: {:?}", world.violations());
        done(&mut world, 1, write(0, 4 * BLOCK));
        kill(&mut world, both[0]);
        let late = world.ask(0, write(0, 4 * BLOCK));
        done(&mut world, 1, read(0, 4 * BLOCK));
        world.pass(2 * SECOND);
        done(&mut world, 1, read(0, 4 * BLOCK));
        for op in late {
            assert!(!matches!(world.answers(&[op])[0], Some(Answer::Done)), "seed {seed}: it was fenced");
        }
        start(&mut world, both[0]);
        ends_well(world, seed);
    }
}

/// I12: a damaged copy is repaired from the other one, never the other from it, whoever is primary and whoever was away.
#[test]
fn corrupt_copy_is_no_source_of_repair() {
    for seed in 0..6 {
        for (damaged, harm) in [(0, Harm::Flip(99)), (1, Harm::Flip(4095)), (0, Harm::Unreadable), (1, Harm::Unreadable)] {
            let mut world = world(Plan::quiet_pair(), seed);
            done(&mut world, 0, write(0, 8 * BLOCK));
            done(&mut world, 0, Wish::Flush);
            world.pass(4 * SECOND);
            let both = copies(&world, 3);
            let number = volume(&world);
            assert!(world.harm(both[damaged], number, 3, harm), "seed {seed}: there is something to damage");
            // The good one was away, and missed a write beside it; the damaged one was alone meanwhile.
            kill(&mut world, both[1 - damaged]);
            done(&mut world, 0, write(0, BLOCK));
            start(&mut world, both[1 - damaged]);
            becomes_whole(&mut world, seed);
            done(&mut world, 0, read(0, 8 * BLOCK));
            let primary = copies(&world, 3)[0];
            kill(&mut world, primary);
            start(&mut world, primary);
            becomes_whole(&mut world, seed);
            done(&mut world, 0, read(0, 8 * BLOCK));
            ends_well(world, seed);
        }
    }
}

/// One host loses power, the other only its process: the second copy settles alone. What was damaged there in an extent that is not sealed yet
/// must not be taken for an overwrite that was under way (found by seed 240 of its day).
#[test]
fn damage_of_the_copy_that_kept_its_cache_is_not_believed() {
    for seed in 0..6 {
        for (damaged, harm) in [(0, Harm::Flip(99)), (1, Harm::Flip(4095)), (0, Harm::Unreadable), (1, Harm::Unreadable)] {
            let mut world = world(Plan::quiet_pair(), seed);
            // Sealed, and written again: of a first write it would be said that it never happened.
            done(&mut world, 0, write(0, 8 * BLOCK));
            world.pass(4 * SECOND);
            done(&mut world, 0, write(0, 8 * BLOCK));
            done(&mut world, 0, Wish::Flush);
            let both = copies(&world, 3);
            let number = volume(&world);
            assert!(world.harm(both[damaged], number, 3, harm), "seed {seed}: there is something to damage");
            kill(&mut world, both[damaged]);
            world.cut_power_of_server(both[1 - damaged]);
            both.iter().for_each(|server| start(&mut world, *server));
            becomes_whole(&mut world, seed);
            done(&mut world, 0, read(0, 8 * BLOCK));
            ends_well(world, seed);
        }
    }
}

/// A damaged block is read right, written again where it was damaged, and counted.
#[test]
fn damaged_block_of_one_copy_is_repaired_when_it_is_read() {
    for seed in 0..10 {
        for harm in [Harm::Flip(0), Harm::Unreadable] {
            let mut world = world(Plan::quiet_pair(), seed);
            done(&mut world, 0, write(0, 8 * BLOCK));
            done(&mut world, 0, Wish::Flush);
            world.pass(4 * SECOND);
            let (primary, number) = (copies(&world, 3)[0], volume(&world));
            assert!(world.harm(primary, number, 3, harm), "seed {seed}: there is something to damage");
            done(&mut world, 0, read(0, 8 * BLOCK));
            // Of a read that fails it is not known which block it was, so all that was asked for is taken.
            let repaired = if harm == Harm::Unreadable { 8 } else { 1 };
            assert_eq!(world.repaired(), repaired, "seed {seed}");
            done(&mut world, 0, read(0, 8 * BLOCK));
            assert_eq!(world.repaired(), repaired, "seed {seed}: once");
            ends_well(world, seed);
        }
    }
}

/// Blocks that were trimmed while a copy was away do not come back with it.
#[test]
fn trim_that_a_copy_missed_reaches_it() {
    for seed in 0..10 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 2 << 20));
        done(&mut world, 0, Wish::Flush);
        let both = copies(&world, 0);
        kill(&mut world, both[1]);
        done(&mut world, 0, Wish::Zero { offset: 0, len: 1 << 20, trim: true, durable: false });
        done(&mut world, 0, Wish::Zero { offset: 1 << 20, len: 64 * BLOCK, trim: false, durable: false });
        start(&mut world, both[1]);
        becomes_whole(&mut world, seed);
        kill(&mut world, both[0]);
        done(&mut world, 0, read(0, 2 << 20));
        start(&mut world, both[0]);
        ends_well(world, seed);
    }
}

/// The other devices have freed everything, and the MDM has forgotten the volume, by the time the copy is back.
#[test]
fn volume_deleted_while_a_copy_was_away_leaves_nothing_on_it() {
    for seed in 0..10 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 2 << 20));
        let both = copies(&world, 0);
        // Its server starts at once and its device opens for long: that falls out while nobody holds it for there, so that it does not join yet.
        world.slow_disks(both[1], 500);
        kill(&mut world, both[1]);
        start(&mut world, both[1]);
        assert!(world.wait_until(|world| world.is_out(both[1])), "seed {seed}: {:?}", world.violations());
        kill(&mut world, both[1]);
        world.slow_disks(both[1], 1);
        assert!(world.replace_volume(0), "seed {seed}: {:?}", world.violations());
        assert!(world.wait_until(|world| world.volumes_being_freed() == 0), "seed {seed}: it is not waited for who fell out");
        assert!(world.open(0, false), "seed {seed}: {:?}", world.violations());
        done(&mut world, 0, write(0, 4 * BLOCK));
        start(&mut world, both[1]);
        becomes_whole(&mut world, seed);
        done(&mut world, 0, read(0, 2 << 20));
        ends_well(world, seed);
    }
}

#[test]
fn offsets_beyond_16_tib_are_not_mixed_up_on_either_copy() {
    let edge = 16_u64 << 40;
    let size = edge + (64 << 20);
    let spots = vec![(edge - 2 * BLOCK, 4 * BLOCK)];
    let volumes = vec![VolumeSpec { name: "volume-0".into(), size, stripe_unit: 8192, stripe_width: 3, spots }];
    let mut world = world(Plan { volumes, servers: 3, fault_sets: vec![0, 1, 2], ..Plan::quiet_pair() }, 5);
    // The same distance from the volume's start, modulo 2⁴¹ and 2⁴⁴: must not be the same place.
    let places = [0, 2 << 40, edge - 2 * BLOCK, size - 4 * BLOCK];
    for offset in places {
        done(&mut world, 0, write(offset, 4 * BLOCK));
    }
    for server in 0..3 {
        kill(&mut world, server);
        for offset in places {
            done(&mut world, 0, read(offset, 4 * BLOCK));
            done(&mut world, 0, write(offset, BLOCK));
        }
        start(&mut world, server);
        becomes_whole(&mut world, 5);
    }
    ends_well(world, 5);
}

/// A disk that takes requests and does not answer, under a server that is as lively as ever.
#[test]
fn wedged_disk_costs_one_copy_and_not_the_shard() {
    for seed in 0..4 {
        for wedged in 0..2 {
            let mut world = world(Plan::quiet_pair(), seed);
            done(&mut world, 0, write(0, 4 * BLOCK));
            let both = copies(&world, 0);
            world.slow_disks(both[wedged], 50_000);
            let since = world.now();
            done(&mut world, 0, write(0, 4 * BLOCK));
            assert!(world.now().since(since).get() < 20 * SECOND, "seed {seed}: a hung disk is given up");
            done(&mut world, 0, read(0, 4 * BLOCK));
            world.slow_disks(both[wedged], 1);
            world.pass(300 * SECOND);
            ends_well(world, seed);
        }
    }
}

/// Everything loses power at once and comes back in any order, the MDM last or not.
#[test]
fn volume_is_not_stuck_after_everything_was_rebooted() {
    for seed in 0..20 {
        let mut world = world(Plan { servers: 3, fault_sets: vec![0, 1, 2], shards: 16, ..Plan::quiet_pair() }, seed);
        for round in 0..3 {
            world.ask(0, write(0, 64 * BLOCK));
            world.pass((seed * 37 + round * 91) % 3_000 * 1_000);
            (0..3).for_each(|server| world.cut_power_of_server(server));
            if (seed + round) % 2 == 0 {
                world.lose_mdm();
            }
            for server in 0..3_u64 {
                start(&mut world, usize::try_from((server + seed) % 3).expect("small"));
                world.pass((seed * 7 + server) % 5 * 300 * MILLISECOND);
            }
            becomes_whole(&mut world, seed);
            done(&mut world, 0, read(0, 64 * BLOCK));
        }
        ends_well(world, seed);
    }
}

/// Everything lost power, and one of two hosts does not come back: after the wait the other goes on alone, and the client's flush
/// says that something may be gone. The host that was thought lost is back in the end, and is given everything.
#[test]
fn survivor_goes_on_alone_after_the_wait_and_flush_tells() {
    for seed in 0..4 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 16 * BLOCK));
        let both = copies(&world, 0);
        let survivor = both[usize::from(seed % 2 == 1)];
        both.iter().for_each(|server| world.cut_power_of_server(*server));
        start(&mut world, survivor);
        let asked = world.ask(0, read(0, 16 * BLOCK));
        world.pass(590 * SECOND);
        assert!(!asked.iter().any(|op| world.is_answered(*op)), "seed {seed}: one of two unsettled copies does not speak for both");
        world.pass(30 * SECOND);
        assert!(world.answers(&asked).iter().all(Option::is_some), "seed {seed}: the survivor serves: {:?}", world.violations());
        assert_eq!(copies(&world, 0), [survivor], "seed {seed}");
        assert_eq!(world.ask_and_wait(0, Wish::Flush), [Some(Answer::Failed(Status::FlushLost))], "seed {seed}: not silently");
        done(&mut world, 0, Wish::Flush);
        done(&mut world, 0, write(0, 4 * BLOCK));
        ends_well(world, seed);
    }
}

fn force(world: &mut World, shard: u32, server: usize) -> ApiReply {
    let device = world.device_of_server(server).expect("the MDM knows it");
    let request = ApiRequest::ForceShard { pool: "sim".to_owned(), shard, device, reason: "the other host has burnt".to_owned() };
    world.command(request).expect("the MDM answers")
}

#[track_caller]
fn refused(reply: &ApiReply) -> String {
    let ApiReply::Refused(refusal) = reply else { panic!("refused, not {reply:?}") };
    refusal.to_string()
}

/// An operator does not wait: the copy that is there is forced, shard by shard; the flush tells of what may be gone.
#[test]
fn forced_copy_serves_at_once_and_flush_tells() {
    for seed in 0..4 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 16 * BLOCK));
        let both = copies(&world, 0);
        both.iter().for_each(|server| world.cut_power_of_server(*server));
        start(&mut world, both[1]);
        world.pass(10 * SECOND);
        assert!(refused(&force(&mut world, 0, both[0])).contains("it does not serve"), "seed {seed}: the lost one cannot be forced");
        for shard in 0..4 {
            let reply = force(&mut world, shard, both[1]);
            assert!(matches!(reply, ApiReply::Shard(_)), "seed {seed}: {reply:?}");
        }
        done(&mut world, 0, read(0, 16 * BLOCK));
        assert_eq!(world.ask_and_wait(0, Wish::Flush), [Some(Answer::Failed(Status::FlushLost))], "seed {seed}: not silently");
        done(&mut world, 0, Wish::Flush);
        let Some(ApiReply::Audit(entries)) = world.command(ApiRequest::Audit) else { panic!("seed {seed}: the audit log") };
        assert_eq!(entries.len(), 4, "seed {seed}: each is on record: {entries:?}");
        start(&mut world, both[0]);
        becomes_whole(&mut world, seed);
        ends_well(world, seed);
    }
}

/// I7: no copy is forced past one that is in sync and there, whether the other is a member or fell out.
#[test]
fn copy_that_is_not_the_last_is_not_forced() {
    for seed in 0..4 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 16 * BLOCK));
        becomes_whole(&mut world, seed);
        let both = copies(&world, 0);
        for shard in 0..4 {
            for server in &both {
                assert!(refused(&force(&mut world, shard, *server)).contains("is in sync and there"), "seed {seed}");
            }
        }
        kill(&mut world, both[1]);
        done(&mut world, 0, write(0, BLOCK));
        world.pass(5 * SECOND);
        assert!(refused(&force(&mut world, 0, both[1])).contains("it does not serve"), "seed {seed}");
        assert_eq!(world.ask_and_wait(0, Wish::Flush), [Some(Answer::Done)], "seed {seed}: nothing was lost");
        start(&mut world, both[1]);
        becomes_whole(&mut world, seed);
        ends_well(world, seed);
    }
}

/// I13: a device comes back as an image of before, with extents that were in use then. It has forgotten what it had flushed, and is no copy
/// until it was given everything (simulator seeds 3000090 and 3002486: it told where its log ended only when it had settled).
#[test]
fn device_of_an_older_image_is_no_copy() {
    for seed in 0..6 {
        for settled in [false, true] {
            for of in 0..2 {
                let mut world = world(Plan::quiet_pair(), seed);
                done(&mut world, 0, write(0, 16 * BLOCK));
                done(&mut world, 0, Wish::Flush);
                world.pass(if settled { 4 * SECOND } else { 100 * MILLISECOND });
                let old = copies(&world, 0)[of];
                let image = world.image(old);
                (0..4).for_each(|round| done(&mut world, 0, write(round * BLOCK, 2 * BLOCK)));
                done(&mut world, 0, Wish::Zero { offset: 8 * BLOCK, len: BLOCK, trim: true, durable: false });
                done(&mut world, 0, Wish::Flush);
                world.pass(4 * SECOND);
                world.bring_back(old, image);
                start(&mut world, old);
                done(&mut world, 0, read(0, 16 * BLOCK));
                becomes_whole(&mut world, seed);
                let other = copies(&world, 0).into_iter().find(|server| *server != old).expect("two copies");
                kill(&mut world, other);
                done(&mut world, 0, read(0, 16 * BLOCK));
                start(&mut world, other);
                ends_well(world, seed);
            }
        }
    }
}

/// The other side of that: a device that comes back with all it had, in the middle of its writes, has forgotten nothing.
#[test]
fn device_that_restarts_among_its_writes_has_forgotten_nothing() {
    for seed in 0..6 {
        let mut world = world(Plan::quiet_pair(), seed);
        done(&mut world, 0, write(0, 16 * BLOCK));
        done(&mut world, 0, Wish::Flush);
        // Its flushed position is heard of, and its extents are not sealed yet.
        world.pass(600 * MILLISECOND);
        done(&mut world, 0, write(0, 4 * BLOCK));
        let restarted = copies(&world, 0)[usize::from(seed % 2 == 1)];
        if seed % 3 == 0 {
            world.cut_power_of_server(restarted);
        } else {
            kill(&mut world, restarted);
        }
        start(&mut world, restarted);
        becomes_whole(&mut world, seed);
        assert_eq!(world.marks().count("cluster/DeviceForgot"), 0, "seed {seed}");
        ends_well(world, seed);
    }
}
