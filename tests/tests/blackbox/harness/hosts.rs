//! What is done from a host: one thread goes into its name space.
//!
//! A `Witness` reads blocks there, over and over, that another client counts up from outside. Invariant checked: a read shows no less than
//! what was acknowledged when it was sent, and no more than what was sent when it is answered (each block is linearizable, also across clients).

use super::nbd::{Client, READ, WRITE};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sds_benches::network::Network;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const BLOCK: u32 = 4096;
/// Writes outstanding.
const WRITES: usize = 6;

/// Runs something in a thread on a host.
pub(crate) fn on_host<T: Send + 'static>(network: &Network, host: usize, action: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let space: PathBuf = network.space_file(host);
    std::thread::spawn(move || {
        let file = File::open(&space).unwrap_or_else(|error| panic!("{}: {error}", space.display()));
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
        action()
    })
}

/// A block's count, as the two sides of a wire know it.
#[derive(Debug, Default)]
struct Count {
    sent: AtomicU64,
    acknowledged: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    counts: Vec<Count>,
    /// Bytes from one block to the next.
    stride: u64,
    counting: AtomicBool,
    reading: AtomicBool,
    writes: AtomicU64,
    reads: AtomicU64,
}

/// What was read; `stale` is what had been overwritten, and that acknowledged, before it was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) reads: u64,
    pub(crate) stale: u64,
    /// From the first such read to the last.
    pub(crate) stale_for: Duration,
}

/// Blocks that are counted up outside, and read on a host.
#[derive(Debug)]
pub(crate) struct Witness {
    shared: Arc<Shared>,
    writer: JoinHandle<()>,
    reader: JoinHandle<Seen>,
}

impl Witness {
    /// Counts blocks spread over the volume at one address, and reads them at the other, on a host.
    pub(crate) fn start(network: &Network, writer: &str, (host, reader): (usize, &str), export: &str, bytes: u64) -> Self {
        const BLOCKS: u64 = 48;
        let shared = Arc::new(Shared {
            counts: (0..BLOCKS).map(|_| Count::default()).collect(),
            stride: bytes / BLOCKS / u64::from(BLOCK) * u64::from(BLOCK),
            counting: AtomicBool::new(true),
            reading: AtomicBool::new(true),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        });
        let mut client = Client::open(writer, export).expect("the export is there");
        let whole = Arc::clone(&shared);
        let writer = std::thread::spawn(move || whole.count(&mut client));
        let (whole, address, export) = (Arc::clone(&shared), reader.to_owned(), export.to_owned());
        let reader = on_host(network, host, move || whole.read(&mut Client::open(&address, &export).expect("the reader's export")));
        Self { shared, writer, reader }
    }

    /// Waits until all counts have gone on, and been read, so many times more.
    pub(crate) fn wait_for(&self, more: u64, seconds: u64) {
        let (start, blocks) = (Instant::now(), self.shared.counts.len() as u64);
        let before = (self.shared.writes.load(Ordering::Relaxed), self.shared.reads.load(Ordering::Relaxed));
        loop {
            let now = (self.shared.writes.load(Ordering::Relaxed) - before.0, self.shared.reads.load(Ordering::Relaxed) - before.1);
            if now.0 >= more * blocks && now.1 >= more * blocks {
                return;
            }
            assert!(!self.writer.is_finished() && !self.reader.is_finished(), "the witness has ended by itself");
            assert!(start.elapsed().as_secs() < seconds, "{now:?} writes and reads in {seconds} s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Writes and reads answered so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.shared.writes.load(Ordering::Relaxed), self.shared.reads.load(Ordering::Relaxed))
    }

    /// Ends both; what was seen.
    pub(crate) fn finish(self) -> Seen {
        self.shared.counting.store(false, Ordering::SeqCst);
        self.writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.shared.reading.store(false, Ordering::SeqCst);
        self.reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Shared {
    fn offset(&self, block: usize) -> u64 {
        block as u64 * self.stride
    }

    /// A few writes are always outstanding, of one block after the other: reads of the rest need not wait for one.
    fn count(&self, client: &mut Client) {
        let next = |client: &mut Client, block: usize| {
            let value = self.counts[block].sent.fetch_add(1, Ordering::SeqCst) + 1;
            let bytes: Vec<u8> = value.to_le_bytes().into_iter().cycle().take(BLOCK as usize).collect();
            client.request(WRITE, 0, block as u64, self.offset(block), BLOCK, &bytes).expect("sent");
        };
        let mut resting: VecDeque<usize> = (0..self.counts.len()).collect();
        resting.drain(..WRITES).for_each(|block| next(client, block));
        while resting.len() < self.counts.len() {
            let (block, error) = client.reply().expect("answered");
            assert_eq!(error, 0, "write of block {block}");
            let block = usize::try_from(block).expect("64-bit");
            self.counts[block].acknowledged.store(self.counts[block].sent.load(Ordering::SeqCst), Ordering::SeqCst);
            self.writes.fetch_add(1, Ordering::Relaxed);
            resting.push_back(block);
            if self.counting.load(Ordering::SeqCst)
                && let Some(block) = resting.pop_front()
            {
                next(client, block);
            }
        }
    }

    /// One read of each block is always outstanding.
    fn read(&self, client: &mut Client) -> Seen {
        let (mut seen, mut floors, mut first) = (Seen::default(), vec![0; self.counts.len()], None);
        let next = |client: &mut Client, floors: &mut Vec<u64>, block: usize| {
            floors[block] = self.counts[block].acknowledged.load(Ordering::SeqCst);
            client.request(READ, 0, block as u64, self.offset(block), BLOCK, &[]).expect("sent");
        };
        (0..self.counts.len()).for_each(|block| next(client, &mut floors, block));
        let mut outstanding = self.counts.len();
        while outstanding > 0 {
            let (block, error) = client.reply().expect("answered");
            assert_eq!(error, 0, "read of block {block}");
            let block = usize::try_from(block).expect("64-bit");
            let bytes = client.data(BLOCK as usize).expect("data follows");
            let value = u64::from_le_bytes(*bytes.first_chunk().expect("eight"));
            assert!(bytes.chunks_exact(8).all(|word| word == value.to_le_bytes()), "block {block}: a mixture");
            assert!(value <= self.counts[block].sent.load(Ordering::SeqCst), "block {block}: {value} was never written");
            seen.reads += 1;
            if value < floors[block] {
                seen.stale += 1;
                seen.stale_for = first.get_or_insert_with(Instant::now).elapsed();
            }
            self.reads.fetch_add(1, Ordering::Relaxed);
            if self.reading.load(Ordering::SeqCst) {
                next(client, &mut floors, block);
            } else {
                outstanding -= 1;
            }
        }
        seen
    }
}
