//! Micro-benchmarks of the core: what each piece costs per I/O.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sds_core::checksum::{Checksum, ChecksumList};
use sds_core::id::{ExtentIndex, TreeId};
use sds_core::limits::SHARDS_PER_POOL_DEFAULT;
use sds_core::shard::shard_of;
use sds_core::stripe::Stripe;
use sds_core::unit::ByteOffset;
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
    group.finish();
}

criterion_group!(benches, checksum, addressing);
criterion_main!(benches);
