//! Nothing grows past its bound, and nobody starves at it.
use super::world::*;
use crate::error::Status;
use crate::limits::{REQUESTS_PER_CONNECTION_MAX, VOLUME_FANOUT_MAX};
use crate::unit::{ByteOffset, Nanos};
use crate::volume::interface::{Outcome, Request};

#[test]
fn one_request_too_many_is_refused_and_its_buffer_released() {
    let mut world = World::with_requests_max(4).opened();
    for at in 0..4 {
        world.write(at * 4096, &[1; 4096]);
    }
    assert_eq!(world.client.free_requests(), 0);
    let extra = world.write(0, &[2; 4096]);
    assert_eq!(world.outcome(extra), Some(Err(Status::NotReady)));
    world.settle();
    assert_eq!(world.completed.len(), 4);
    assert_eq!(world.client.free_requests(), 4);
    world.assert_idle();
}

#[test]
fn a_link_carries_no_more_than_its_window() {
    let mut world = World::with_requests_max(1000).opened();
    // All in the first extent, so for one server.
    for at in 0..1000_u64 {
        world.read(at % 16 * 4096, 4096);
    }
    world.connect_all();
    assert_eq!(world.sent.len(), REQUESTS_PER_CONNECTION_MAX);
    let mut most = 0;
    while !world.sent.is_empty() {
        let sent = world.take_sent();
        world.answer(sent);
        most = most.max(world.sent.len());
    }
    assert_eq!(most, REQUESTS_PER_CONNECTION_MAX);
    assert_eq!(world.completed.len(), 1000);
    world.assert_idle();
}

#[test]
fn answers_owed_to_a_fenced_session_still_count_against_the_window() {
    let mut world = World::with_requests_max(1000).opened();
    for _ in 0..REQUESTS_PER_CONNECTION_MAX {
        world.read(0, 4096);
    }
    world.connect_all();
    let first = world.take_sent();
    world.refuse(first, Status::Fenced);
    let owed: usize = world.client.servers().map(|server| server.outstanding).sum();
    assert_eq!(owed, REQUESTS_PER_CONNECTION_MAX - 1);
    world.settle();
    assert_eq!(world.client.servers().map(|server| server.outstanding).sum::<usize>(), 0);
}

#[test]
fn many_wide_zeroes_share_the_spare_exchanges_and_all_end() {
    let mut world = World::with_requests_max(512).opened();
    for set in 0..16 {
        for _ in 0..32 {
            world.request(Request::Zero { offset: ByteOffset::new(set * (4 << 20)), len: 4 << 20, trim: false, durable: false });
        }
    }
    world.connect_all();
    assert!(world.client.exchanges.len() <= 512 + VOLUME_FANOUT_MAX);
    world.settle();
    assert_eq!(world.completed.len(), 512);
    assert!(world.completed.iter().all(|(_, result)| *result == Ok(Outcome::Done)));
    world.assert_idle();
}

#[test]
fn queues_do_not_keep_what_a_fence_has_ended() {
    let mut world = World::open();
    for _ in 0..60 {
        world.read(0, 4096);
    }
    assert_eq!(world.client.servers().map(|server| server.waiting).sum::<usize>(), 60);
    world.show(view(world.version + 1, 2));
    assert_eq!(world.client.servers().map(|server| server.waiting).sum::<usize>(), 0);
    world.pass(Nanos::from_millis(10));
    world.assert_idle();
}
