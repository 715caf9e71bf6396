//! Requests go to the primary of their extent's shard, in the shape the wire wants, and come back whole.
use super::world::*;
use crate::error::Status;
use crate::id::{ConnectionNumber, DeviceId, Epoch, MapVersion, SessionGeneration, TreeId};
use crate::machine::Token;
use crate::shard::shard_of;
use crate::unit::{BLOCK_BYTES, ByteOffset};
use crate::volume::interface::{Outcome, Request};
use crate::volume::piece::{self, ZeroPiece};
use crate::wire::{Flags, Opcode};
use proptest::prelude::*;

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

#[test]
fn a_frame_names_shard_device_epoch_version_and_generation() {
    let mut world = World::open();
    let offset = 300 << 10;
    world.write(offset, &pattern(4096, 1));
    world.connect_all();
    let (_, frame) = world.take_sent();
    let place = stripe().locate(ByteOffset::new(offset));
    let shard = shard_of(TreeId::new(4), place.extent, SHARDS);
    let header = frame.header;
    assert_eq!((header.opcode, header.extent, header.offset, header.length), (Opcode::Write, place.extent, place.offset, 4096));
    assert_eq!((header.shard, header.device, header.epoch), (shard, DeviceId::new(1 + shard.get() % SERVERS), Epoch::new(3)));
    assert_eq!((header.generation, header.map_version), (SessionGeneration::new(1), MapVersion::new(world.version)));
    assert_eq!(header.connection, ConnectionNumber::new(FIRST_CONNECTION));
}

#[test]
fn servers_are_connected_on_first_need_only() {
    let mut world = World::open();
    assert!(world.connects.is_empty());
    world.read(0, 4096);
    assert_eq!(world.connects.len(), 1);
    world.read(0, 4096);
    assert_eq!(world.connects.len(), 1, "a second request waits for the same link");
    world.settle();
    assert_eq!(world.completed.len(), 2);
}

#[test]
fn an_unaligned_read_returns_its_part_of_the_blocks() {
    let mut world = World::open();
    let bytes = pattern(16384, 3);
    world.write(8192, &bytes);
    world.settle();
    let read = world.read(8192 + 100, 9000);
    let (link, frame) = world.take_sent();
    assert_eq!((frame.header.offset % BLOCK_BYTES, frame.header.length), (0, 12288));
    world.answer((link, frame));
    assert_eq!(world.bytes_read(read, 9000), &bytes[100..9100]);
    world.completed.clear();
    world.assert_idle();
}

#[test]
fn unwritten_blocks_read_as_zeroes_without_a_buffer() {
    let mut world = World::open();
    let read = world.read(4096, 4096);
    world.settle();
    assert_eq!(world.outcome(read), Some(Ok(Outcome::Zeroes)));
    world.assert_idle();
}

#[test]
fn a_write_inside_a_block_is_a_fragment() {
    let mut world = World::open();
    world.write(4096 + 512, &pattern(1024, 9));
    world.connect_all();
    let (link, frame) = world.take_sent();
    assert_eq!((frame.header.opcode, frame.header.length), (Opcode::WriteFragment, 1024));
    world.answer((link, frame));
    assert_eq!(world.completed.pop().expect("complete").1, Ok(Outcome::Done));
    world.assert_idle();
}

#[test]
fn a_zero_goes_to_every_extent_of_the_stripe_set_it_touches() {
    let mut world = World::open();
    let zero = world.request(Request::Zero { offset: ByteOffset::new(60 << 10), len: 200 << 10, trim: true, durable: true });
    world.connect_all();
    assert_eq!(world.sent.len(), 4, "units 0 to 4 of four extents");
    let mut bytes = 0;
    while !world.sent.is_empty() {
        assert_eq!(world.outcome(zero), None, "not before all have answered");
        let (link, frame) = world.take_sent();
        assert_eq!(frame.header.flags, Flags::TRIM.with(Flags::DURABLE));
        bytes += frame.header.length;
        world.answer((link, frame));
    }
    assert_eq!(bytes, 200 << 10);
    assert_eq!(world.outcome(zero), Some(Ok(Outcome::Done)));
    world.assert_idle();
}

#[test]
fn block_status_is_numbered_from_the_range() {
    let mut world = World::open();
    world.write(64 * 1024 * 4 + 8192, &pattern(4096, 1));
    world.settle();
    let status = world.request(Request::Status { offset: ByteOffset::new(64 * 1024 * 4 + 4096), len: 16384 });
    world.settle();
    assert_eq!(world.outcome(status), Some(Ok(Outcome::Status([0b10, 0, 0, 0]))));
    world.completed.clear();
    world.assert_idle();
}

#[test]
fn bad_requests_are_refused_at_once() {
    let mut world = World::open();
    let at = ByteOffset::new;
    let long = world.buffer_of(&[1; 8192]);
    let cases = [
        (Request::Read { offset: at(SIZE - 4096), len: 8192 }, Status::PastEnd),
        (Request::Read { offset: at(u64::MAX), len: 8192 }, Status::PastEnd),
        (Request::Read { offset: at(0), len: 0 }, Status::Invalid),
        (Request::Read { offset: at(4096), len: 64 << 10 }, Status::Invalid),
        (Request::Write { offset: at(100), span: long, durable: false }, Status::Invalid),
        (Request::Zero { offset: at(100), len: 4096, trim: false, durable: false }, Status::Invalid),
        (Request::Zero { offset: at(0), len: 5 << 20, trim: false, durable: false }, Status::Invalid),
        (Request::Zero { offset: at(0), len: SIZE + 4096, trim: false, durable: false }, Status::PastEnd),
        (Request::Status { offset: at(0), len: 128 << 10 }, Status::Invalid),
    ];
    for (request, status) in cases {
        let token = world.request(request);
        assert_eq!(world.outcome(token), Some(Err(status)), "{request:?}");
    }
    let token = Token::new(99);
    let request = Request::Flush;
    world.step(crate::volume::interface::Input::Request { token, volume: crate::id::VolumeId::new(1234), request });
    assert_eq!(world.outcome(token), Some(Err(Status::NoVolume)));
    world.assert_idle();
}

#[derive(Clone, Debug)]
enum Op {
    Write { offset: u64, len: usize, seed: u8 },
    Zero { offset: u64, len: u64 },
    Trim { offset: u64, len: u64 },
    Read { offset: u64, len: u64 },
}

fn ops() -> impl Strategy<Value = Op> {
    let offset = 0_u64..1 << 20;
    let len = prop_oneof![1_u64..6000, 1_u64..400_000];
    prop_oneof![
        (offset.clone(), len.clone(), any::<u8>()).prop_map(|(offset, len, seed)| Op::Write { offset, len: len as usize, seed }),
        (offset.clone(), len.clone()).prop_map(|(offset, len)| Op::Zero { offset, len }),
        (offset.clone(), len.clone()).prop_map(|(offset, len)| Op::Trim { offset, len }),
        (offset, len).prop_map(|(offset, len)| Op::Read { offset, len }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn requests_of_any_alignment_do_what_a_flat_array_does(ops in proptest::collection::vec(ops(), 1..24)) {
        let mut world = World::open();
        let mut model = vec![0_u8; 2 << 20];
        for op in ops {
            match op {
                Op::Write { offset, len, seed } => {
                    let bytes = pattern(len, seed);
                    for piece in piece::writes(stripe(), ByteOffset::new(offset), len as u64) {
                        let from = (piece.offset.get() - offset) as usize;
                        world.write(piece.offset.get(), &bytes[from..from + piece.len as usize]);
                    }
                    model[offset as usize..offset as usize + len].copy_from_slice(&bytes);
                }
                Op::Zero { offset, len } => {
                    for piece in piece::zeroes(stripe(), ByteOffset::new(offset), len) {
                        match piece {
                            ZeroPiece::Blocks { offset, len } => world.request(Request::Zero { offset, len, trim: false, durable: false }),
                            ZeroPiece::Fragment { offset, len } => world.write(offset.get(), &vec![0; len as usize]),
                        };
                    }
                    model[offset as usize..(offset + len) as usize].fill(0);
                }
                Op::Trim { offset, len } => {
                    for piece in piece::trims(stripe(), ByteOffset::new(offset), len) {
                        world.request(Request::Zero { offset: piece.offset, len: piece.len, trim: true, durable: false });
                        model[piece.offset.get() as usize..(piece.offset.get() + piece.len) as usize].fill(0);
                    }
                }
                Op::Read { offset, len } => {
                    for piece in piece::reads(stripe(), ByteOffset::new(offset), len) {
                        let read = world.read(piece.offset.get(), piece.len);
                        world.settle();
                        let bytes = world.bytes_read(read, piece.len as usize);
                        let at = piece.offset.get() as usize;
                        prop_assert!(bytes == model[at..at + piece.len as usize], "read of {piece:?}");
                    }
                }
            }
            world.settle();
            prop_assert!(world.completed.drain(..).all(|(_, result)| result.is_ok()));
        }
        world.assert_idle();
    }
}
