//! A write load that remembers what was acknowledged.
//!
//! Every 512-byte sector written says which sector it is and by which write; so a read tells which
//! write it sees. A region's model holds, per sector, the last value known and the values that may
//! be there because their write was never answered. Invariant checked: a sector reads as its last
//! acknowledged value or as one that was outstanding after it, and once read it stays.

use super::nbd::{Client, FLUSH, FUA, READ, WRITE, WRITE_ZEROES};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) const SECTOR: usize = 512;

/// The part of a volume that one connection works on.
#[derive(Debug)]
pub(crate) struct Region {
    first_sector: u64,
    /// Value of each sector: 0 reads zero, else the number of the write.
    known: Vec<u64>,
    /// Values whose writes were not answered, by sector.
    possible: BTreeMap<usize, Vec<u64>>,
    next_value: u64,
    chance: u64,
}

#[derive(Debug)]
struct Outstanding {
    first: usize,
    count: usize,
    /// `None`: a read.
    value: Option<u64>,
}

/// Counts over all regions of a load.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) stop: AtomicBool,
}

impl Region {
    /// A region that reads zero.
    pub(crate) fn new(first_sector: u64, sectors: usize, seed: u64) -> Self {
        Self { first_sector, known: vec![0; sectors], possible: BTreeMap::new(), next_value: 1, chance: seed | 1 }
    }

    fn random(&mut self, below: usize) -> usize {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        usize::try_from(self.chance >> 20).expect("64-bit") % below
    }

    fn offset(&self, sector: usize) -> u64 {
        (self.first_sector + sector as u64) * SECTOR as u64
    }

    /// Writes, zeroes, reads and flushes at random until told to stop or the connection fails, with
    /// `depth` requests outstanding. No two outstanding requests overlap.
    ///
    /// # Panics
    /// When a reply is wrong.
    pub(crate) fn work(&mut self, client: &mut Client, depth: usize, progress: &Arc<Progress>) -> io::Result<()> {
        let mut outstanding = BTreeMap::new();
        let result = self.work_until_failure(client, depth, progress, &mut outstanding);
        for request in outstanding.into_values() {
            let Some(value) = request.value else { continue };
            for sector in request.first..request.first + request.count {
                self.possible.entry(sector).or_default().push(value);
            }
        }
        result
    }

    fn work_until_failure(
        &mut self,
        client: &mut Client,
        depth: usize,
        progress: &Progress,
        outstanding: &mut BTreeMap<u64, Outstanding>,
    ) -> io::Result<()> {
        let mut cookie = 0;
        loop {
            let stop = progress.stop.load(Ordering::Relaxed);
            while !stop && outstanding.len() < depth {
                cookie += 1;
                let Some(request) = self.choose(outstanding) else { continue };
                let (offset, len) = (self.offset(request.first), u32::try_from(request.count * SECTOR).expect("short"));
                let flags = if self.random(16) == 0 { FUA } else { 0 };
                // Before it is sent: a write that fails half-sent may have been done.
                let sent = match request.value {
                    None if request.count == 0 => client.request(FLUSH, 0, cookie, 0, 0, &[]),
                    None => client.request(READ, 0, cookie, offset, len, &[]),
                    Some(0) => client.request(WRITE_ZEROES, flags, cookie, offset, len, &[]),
                    Some(value) => {
                        let sectors = request.first..request.first + request.count;
                        let bytes: Vec<u8> = sectors.flat_map(|sector| stamp(self.first_sector + sector as u64, value)).collect();
                        client.request(WRITE, flags, cookie, offset, len, &bytes)
                    }
                };
                outstanding.insert(cookie, request);
                sent?;
            }
            if outstanding.is_empty() {
                return Ok(());
            }
            let (cookie, error) = client.reply()?;
            // Taken out only when all of it has come.
            let request = outstanding.get(&cookie).expect("the cookie of a request");
            assert_eq!(error, 0, "request for sectors {}+{} of region {}", request.first, request.count, self.first_sector);
            match request.value {
                None => {
                    let bytes = client.data(request.count * SECTOR)?;
                    self.check(request.first, &bytes);
                }
                Some(value) => {
                    self.known[request.first..request.first + request.count].fill(value);
                    for sector in request.first..request.first + request.count {
                        self.possible.remove(&sector);
                    }
                }
            }
            outstanding.remove(&cookie);
            progress.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request that overlaps no outstanding one.
    fn choose(&mut self, outstanding: &BTreeMap<u64, Outstanding>) -> Option<Outstanding> {
        let kind = self.random(100);
        if kind < 3 {
            return Some(Outstanding { first: 0, count: 0, value: None });
        }
        // Mostly whole blocks; some parts of blocks; some long.
        let count = match self.random(20) {
            0..12 => 8,
            12..15 => 1 + self.random(20),
            15..18 => 32,
            _ => 8 * (1 + self.random(64)),
        };
        let count = count.min(self.known.len());
        let align = if count % 8 == 0 { 8 } else { 1 };
        let first = self.random((self.known.len() - count) / align + 1) * align;
        if outstanding.values().any(|other| first < other.first + other.count && other.first < first + count) {
            return None;
        }
        let value = match kind {
            3..20 => None,
            20..25 => Some(0),
            _ => {
                self.next_value += 1;
                Some(self.next_value)
            }
        };
        Some(Outstanding { first, count, value })
    }

    fn check(&mut self, first: usize, bytes: &[u8]) {
        for (sector, content) in (first..).zip(bytes.chunks_exact(SECTOR)) {
            let number = self.first_sector + sector as u64;
            let value = unstamp(number, content);
            let known = self.known[sector];
            let possible = self.possible.remove(&sector).unwrap_or_default();
            match value {
                Some(value) if value == known || possible.contains(&value) => self.known[sector] = value,
                Some(value) => panic!("sector {number}: reads write {value}; acknowledged is {known}, outstanding were {possible:?}"),
                None => panic!("sector {number}: reads bytes that nobody wrote: {:02x?}…", &content[..32]),
            }
        }
    }

    /// Reads all of it and holds it against the model.
    ///
    /// # Panics
    /// When something acknowledged is gone, or something is there that was never written.
    pub(crate) fn verify(&mut self, client: &mut Client) {
        for first in (0..self.known.len()).step_by(2048) {
            let count = (self.known.len() - first).min(2048);
            let (offset, len) = (self.offset(first), u32::try_from(count * SECTOR).expect("short"));
            match client.read(offset, len) {
                Ok(bytes) => self.check(first, &bytes),
                Err(error) => panic!("read of {len} bytes at {offset}: error {error}"),
            }
        }
    }
}

/// A sector's bytes: its number and its write, over and over, with a checksum-like mix so that no
/// part of it can be mistaken for another's.
fn stamp(sector: u64, value: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        let mixed = match index {
            0 => sector,
            1 => value,
            _ => (sector ^ value.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64),
        };
        word.copy_from_slice(&mixed.to_le_bytes());
    }
    bytes
}

/// The write a sector's bytes come from; 0 for zeroes; `None` if they are no whole sector of this place.
fn unstamp(sector: u64, bytes: &[u8]) -> Option<u64> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let value = u64::from_le_bytes(*bytes[8..].first_chunk()?);
    (bytes == stamp(sector, value)).then_some(value)
}

/// A load over several connections, each with a region of its own, in threads of its own.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) progress: Arc<Progress>,
    workers: Vec<std::thread::JoinHandle<(Region, io::Result<()>)>>,
}

impl Load {
    /// Starts working on the regions of an export.
    pub(crate) fn start(address: &str, export: &str, regions: Vec<Region>, depth: usize) -> Self {
        let progress = Arc::new(Progress::default());
        let workers = regions
            .into_iter()
            .map(|mut region| {
                let mut client = Client::open(address, export).unwrap_or_else(|refusal| panic!("{export} at {address}: {refusal:?}"));
                let progress = Arc::clone(&progress);
                std::thread::spawn(move || {
                    let result = region.work(&mut client, depth, &progress);
                    (region, result)
                })
            })
            .collect();
        Self { progress, workers }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many more requests were answered.
    pub(crate) fn wait_for(&self, more: u64, seconds: u64) {
        let (start, goal) = (std::time::Instant::now(), self.acknowledged() + more);
        while self.acknowledged() < goal {
            assert!(!self.workers.iter().all(std::thread::JoinHandle::is_finished), "the load has ended by itself");
            assert!(start.elapsed().as_secs() < seconds, "{} of {goal} requests answered after {seconds} s", self.acknowledged());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Stops; no request may have failed.
    pub(crate) fn finish(self) -> Vec<Region> {
        self.progress.stop.store(true, Ordering::Relaxed);
        let ended = self.workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.map(|(region, result)| result.map(|()| region).unwrap_or_else(|error| panic!("a connection failed: {error}"))).collect()
    }

    /// Stops; connections may have been cut, replies may not have been wrong.
    pub(crate) fn cut(self) -> Vec<Region> {
        self.progress.stop.store(true, Ordering::Relaxed);
        let ended = self.workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.map(|(region, _)| region).collect()
    }
}

/// The regions of a volume of this size for so many connections.
pub(crate) fn regions(bytes: u64, connections: u64, seed: u64) -> Vec<Region> {
    let sectors = bytes / SECTOR as u64 / connections / 8 * 8;
    (0..connections)
        .map(|number| Region::new(number * sectors, usize::try_from(sectors).expect("64-bit"), seed.wrapping_mul(31) + number * 7919 + 1))
        .collect()
}
