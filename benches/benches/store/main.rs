//! Micro-benchmarks of the store: what the machine itself costs per request, on a disk in memory (the copy
//! to and from that disk, 0.1–0.3 µs per 4 KiB, is part of the figure).

mod memory;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use memory::Rig;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::id::{Epoch, ExtentIndex, LayerId, ShardSequence, TreeId, Version};
use sds_core::store::interface::{BlockRange, Bond, ExtentKey, Request};
use sds_core::unit::{BLOCK_BYTES, BlockIndex};

/// Extents that requests go round: all fit the descriptor cache.
const EXTENTS: u32 = 64;

struct Requests {
    spans: Vec<Span>,
    checksums: ChecksumList,
    sequence: u64,
}

impl Requests {
    fn new(rig: &mut Rig, count: usize) -> Self {
        let spans: Vec<Span> = (0..count)
            .map(|_| Span::whole(rig.pool.allocate(BufferClass::Client, BLOCK_BYTES).expect("the pool is large enough"), BLOCK_BYTES))
            .collect();
        for span in &spans {
            rig.pool.bytes_mut(*span).fill(0xa5);
        }
        let checksums = ChecksumList::of_blocks(rig.pool.bytes(spans[0]));
        Self { spans, checksums, sequence: 0 }
    }

    /// A place no other request of the same batch has.
    fn place(&mut self) -> (ExtentKey, BlockRange) {
        self.sequence += 1;
        let extent = u32::try_from(self.sequence % u64::from(EXTENTS)).expect("below 64");
        let block = (self.sequence / u64::from(EXTENTS)).to_le_bytes()[0];
        let key = ExtentKey { tree: TreeId::new(1), extent: ExtentIndex::new(extent), layer: LayerId::new(0) };
        (key, BlockRange { first: BlockIndex::new(block), count: 1 })
    }

    fn writes(&mut self) -> Vec<Request> {
        (0..self.spans.len())
            .map(|index| {
                let (key, range) = self.place();
                let version = Version { epoch: Epoch::new(1), sequence: ShardSequence::new(self.sequence) };
                Request::Write { key, range, span: self.spans[index], checksums: self.checksums, version, durable: false, bond: Bond::None }
            })
            .collect()
    }

    fn reads(&mut self) -> Vec<Request> {
        (0..self.spans.len())
            .map(|index| {
                let (key, range) = self.place();
                Request::Read { key, range, span: self.spans[index] }
            })
            .collect()
    }
}

fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    for depth in [1_usize, 32] {
        let mut rig = Rig::new();
        let mut requests = Requests::new(&mut rig, depth);
        // Every block is written once before, so that nothing is measured but steady state.
        for _ in 0..(EXTENTS as usize * 256).div_ceil(depth) {
            rig.run(&requests.writes(), |_, result| assert!(result.is_ok(), "{result:?}"));
        }
        group.throughput(Throughput::Elements(depth as u64));
        group.bench_function(format!("4 KiB writes, {depth} at once"), |bench| {
            bench.iter(|| rig.run(&requests.writes(), |_, result| assert!(result.is_ok(), "{result:?}")));
        });
        group.bench_function(format!("4 KiB verified reads, {depth} at once"), |bench| {
            bench.iter(|| rig.run(&requests.reads(), |_, result| assert!(result.is_ok(), "{result:?}")));
        });
    }
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
