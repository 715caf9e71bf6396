//! Micro-benchmarks of the core: what each piece costs per I/O.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sds_core::buffer::{BufferId, Span};
use sds_core::checksum::{Checksum, ChecksumList};
use sds_core::id::{DeviceId, ExtentIndex, RequestId, SdsId, TreeId};
use sds_core::limits::SHARDS_PER_POOL_DEFAULT;
use sds_core::placement::{Target, place};
use sds_core::shard::shard_of;
use sds_core::stripe::Stripe;
use sds_core::unit::ByteOffset;
use sds_core::volume::piece::writes;
use sds_core::wire::{Frame, HEAD_BYTES_MAX, Header, Opcode, decode_head, encode_head};
use std::hint::black_box;

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for bytes in [4 << 10, 128 << 10] {
        let data: Vec<u8> = (0..bytes).map(|index: u32| index.to_le_bytes()[0]).collect();
        group.throughput(Throughput::Bytes(u64::from(bytes)));
        group.bench_function(format!("of {} KiB, a block at a time", bytes >> 10), |bench| {
            bench.iter(|| ChecksumList::of_blocks(black_box(&data)));
        });
    }
    let header = [7_u8; 100];
    group.throughput(Throughput::Bytes(100));
    group.bench_function("of a header", |bench| bench.iter(|| Checksum::of(black_box(&header))));
    group.finish();
}

fn addressing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("addressing");
    let stripe = Stripe::default();
    let mut offset = 0_u64;
    group.bench_function("volume offset to place and back", |bench| {
        bench.iter(|| {
            offset = (offset + 0x1357_9000) % (1 << 44);
            let place = stripe.locate(ByteOffset::new(black_box(offset)));
            assert_eq!(stripe.volume_offset(place).get(), offset);
        });
    });
    let mut extent = 0_u32;
    group.bench_function("extent to shard", |bench| {
        bench.iter(|| {
            extent = extent.wrapping_add(0x9e37);
            shard_of(TreeId::new(3), ExtentIndex::new(black_box(extent)), SHARDS_PER_POOL_DEFAULT)
        });
    });
    group.bench_function("1 MiB request to pieces", |bench| {
        bench.iter(|| writes(stripe, ByteOffset::new(black_box(1 << 30)), 1 << 20).map(|piece| u64::from(piece.len)).sum::<u64>());
    });
    group.finish();
}

fn wire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wire");
    for bytes in [4_u32 << 10, 128 << 10] {
        let mut header = Header::new(Opcode::Write);
        header.request = RequestId::new(7);
        header.length = bytes;
        let checksums = ChecksumList::of_blocks(&vec![1; bytes as usize]);
        let frame = Frame::with_payload(header, Span::whole(BufferId::new(3), bytes), checksums);
        let mut head = [0; HEAD_BYTES_MAX];
        let name = format!("head of a {} KiB write", bytes >> 10);
        group.bench_function(format!("encode {name}"), |bench| bench.iter(|| encode_head(black_box(&frame), &mut head)));
        let used = encode_head(&frame, &mut head);
        group.bench_function(format!("decode {name}"), |bench| bench.iter(|| decode_head(black_box(&head[..used]))));
    }
    group.finish();
}

fn placement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("placement");
    group.sample_size(20);
    for servers in [3_u32, 100] {
        let targets: Vec<Target> = (0..servers * 4)
            .map(|device| Target {
                device: DeviceId::new(device + 1),
                sds: SdsId::new(device / 4 + 1),
                fault_set: device / 4,
                weight: 1 << 40,
            })
            .collect();
        group.bench_function(format!("plan of a pool over {servers} servers, 4 devices each"), |bench| {
            bench.iter(|| place(black_box(&targets), SHARDS_PER_POOL_DEFAULT, 2));
        });
    }
    group.finish();
}

criterion_group!(benches, checksum, addressing, wire, placement);
criterion_main!(benches);
