//! A buffer pool and a disk in memory, without faults or delays: what is left is the machine's own cost.

use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::id::{BootId, DeviceUuid, SystemId};
use sds_core::machine::{DiskResult, Outbox, Token};
use sds_core::store::Store;
use sds_core::store::format::{FormatOptions, plan};
use sds_core::store::interface::{Effect, Event, Input, Outcome, Request, StoreError, StoreOptions};
use sds_core::unit::{BLOCK_BYTES, ByteCount, ByteOffset, Nanos};

const BUFFER_BYTES: u32 = 128 << 10;
const DEVICE_BYTES: u64 = 512 << 20;

/// Buffers of one size, each aligned as far as offsets inside one allocation go.
pub(crate) struct Pool {
    bytes: Vec<u8>,
    uses: Vec<u32>,
    free: Vec<u32>,
}

impl Pool {
    fn new(buffers: u32) -> Self {
        let count = buffers as usize;
        Self { bytes: vec![0; count * BUFFER_BYTES as usize], uses: vec![0; count], free: (0..buffers).collect() }
    }

    fn range(span: Span) -> std::ops::Range<usize> {
        let start = span.buffer.get() as usize * BUFFER_BYTES as usize + span.start as usize;
        start..start + span.len as usize
    }
}

impl Buffers for Pool {
    fn allocate(&mut self, _class: BufferClass, len: u32) -> Option<BufferId> {
        assert!(len <= BUFFER_BYTES);
        let id = self.free.pop()?;
        self.uses[id as usize] = 1;
        Some(BufferId::new(id))
    }

    fn retain(&mut self, buffer: BufferId) {
        self.uses[buffer.get() as usize] += 1;
    }

    fn release(&mut self, buffer: BufferId) {
        let uses = &mut self.uses[buffer.get() as usize];
        *uses -= 1;
        if *uses == 0 {
            self.free.push(buffer.get());
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.bytes[Self::range(span)]
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.bytes[Self::range(span)]
    }
}

/// A store on a disk in memory, driven until nothing is left to do.
pub(crate) struct Rig {
    store: Store,
    pub(crate) pool: Pool,
    disk: Vec<u8>,
    out: Outbox<Effect>,
    now: Nanos,
}

impl Rig {
    /// A formatted, opened store.
    pub(crate) fn new() -> Self {
        let options = FormatOptions {
            device_bytes: ByteCount::new(DEVICE_BYTES),
            system: SystemId::new(1),
            device: DeviceUuid::new(2),
            boot: BootId::new(3),
            log_blocks: None,
        };
        let formatted = plan(&options).expect("512 MiB are enough");
        let mut disk = vec![0; usize::try_from(DEVICE_BYTES).expect("fits")];
        for (offset, block) in formatted.index_blocks().chain(formatted.superblocks()) {
            at(&mut disk, offset, BLOCK_BYTES).copy_from_slice(&block);
        }
        let store = Store::new(StoreOptions {
            device_bytes: options.device_bytes,
            system: options.system,
            boot: options.boot,
            volatile_cache: true,
            descriptor_cache_bytes: 16 << 20,
            requests_max: 256,
            group_commit_wait: Nanos::from_micros(300),
            seal_after: Nanos::from_millis(1000),
        });
        let mut rig = Self { store, pool: Pool::new(512), disk, out: Outbox::new(), now: Nanos::from_millis(1) };
        rig.run(&[], |_, _| {});
        assert!(rig.store.is_open(), "a fresh store opens");
        rig
    }

    /// Makes the requests at once and runs until all are answered; `answered` gets each reply.
    pub(crate) fn run(&mut self, requests: &[Request], mut answered: impl FnMut(Token, Result<Outcome, StoreError>)) {
        let mut waiting = requests.len();
        if !self.store.is_open() {
            self.store.step(self.now, Input::Open, &mut self.pool, &mut self.out);
        }
        for (index, request) in requests.iter().enumerate() {
            let input = Input::Request { token: Token::new(index as u64), request: *request };
            self.store.step(self.now, input, &mut self.pool, &mut self.out);
        }
        let mut effects: Vec<Effect> = Vec::with_capacity(64);
        loop {
            effects.extend(self.out.drain());
            if effects.is_empty() {
                let due = self.store.deadline();
                match due {
                    Some(due) if waiting > 0 => self.now = self.now.max(due),
                    _ if waiting == 0 => return,
                    _ => panic!("the store waits for nothing with {waiting} requests unanswered"),
                }
                self.store.step(self.now, Input::Wake, &mut self.pool, &mut self.out);
                continue;
            }
            for effect in effects.drain(..) {
                let op = match effect {
                    Effect::Read { op, offset, span } => {
                        self.pool.bytes_mut(span).copy_from_slice(at(&mut self.disk, offset, span.len));
                        op
                    }
                    Effect::Write { op, offset, span, durable: _ } => {
                        at(&mut self.disk, offset, span.len).copy_from_slice(self.pool.bytes(span));
                        op
                    }
                    Effect::Flush { op } => op,
                    Effect::Reply { token, result } => {
                        waiting -= 1;
                        answered(token, result);
                        continue;
                    }
                    Effect::Event(Event::OpenFailed(fault)) => panic!("{fault}"),
                    Effect::Event(_) => continue,
                };
                self.now = self.now.plus(Nanos::from_micros(1));
                self.store.step(self.now, Input::Disk { op, result: DiskResult::Done }, &mut self.pool, &mut self.out);
            }
        }
    }
}

fn at(disk: &mut [u8], offset: ByteOffset, len: u32) -> &mut [u8] {
    let start = usize::try_from(offset.get()).expect("inside a disk in memory");
    &mut disk[start..start + len as usize]
}
