//! A device as the kernel shows it: requests that take time, complete in any order, may fail, and may
//! outlive the process that made them.
//!
//! Faults are armed by the run's plan; each says what it destroyed, so that the checker knows where an
//! error is right. Must not know: what the store keeps where.

mod medium;

pub use medium::{Medium, Piece, PieceNumber};

use crate::buffers::Pin;
use crate::prng::Prng;
use sds_core::collections::OpId;
use sds_core::machine::DiskResult;
use sds_core::unit::{BLOCK_BYTES, ByteCount, ByteOffset, Nanos};
use std::collections::BTreeMap;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Linux's number for an input/output error.
pub const EIO: i32 = 5;

/// How fast a device is, and whether it may lose what it has acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Mean nanoseconds of a read.
    pub read_ns: u64,
    /// Mean nanoseconds of a write.
    pub write_ns: u64,
    /// Mean nanoseconds of a flush, and more for a durable write.
    pub flush_ns: u64,
    /// A power cut may lose what was not flushed.
    pub volatile_cache: bool,
}

/// What is asked.
#[derive(Debug)]
pub enum Operation {
    /// Bytes.
    Read,
    /// These pieces, durable or not.
    Write {
        /// The bytes, as they were when the request was made.
        pieces: Vec<Box<Piece>>,
        /// FUA.
        durable: bool,
    },
    /// Make durable what was completed up to this order.
    Flush {
        /// Of [`Medium::completed`] at the start.
        order: u64,
    },
}

/// What will go wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing.
    Well,
    /// It fails and changes nothing (or, for a write, some pieces).
    Error,
    /// It ends early and says so.
    Short,
    /// A read brings its bytes with one bit wrong.
    WrongBit {
        /// Which, of the request.
        bit: u64,
    },
    /// One piece (of the request) is acknowledged and not written.
    Lost {
        /// Which.
        piece: usize,
    },
    /// One piece (of the request) goes to another place.
    Misdirected {
        /// Which.
        piece: usize,
        /// Where to.
        to: PieceNumber,
    },
}

/// A request in flight.
#[derive(Debug)]
pub struct Request {
    /// The machine's name for it.
    pub op: OpId,
    /// The process life that made it.
    pub life: u64,
    /// First piece.
    pub first: PieceNumber,
    /// Bytes.
    pub len: u32,
    /// What.
    pub operation: Operation,
    /// The hold on the process's buffer.
    pub pin: Option<Pin>,
    /// What will go wrong.
    pub fate: Fate,
    /// Its process is gone.
    pub orphaned: bool,
}

/// Names a request in flight on one disk.
pub type RequestNumber = u64;

/// One device.
#[derive(Debug)]
pub struct Disk {
    medium: Medium,
    bytes: ByteCount,
    profile: Profile,
    /// Everything takes this many times as long.
    slowness: u64,
    held_until: Nanos,
    in_flight: BTreeMap<RequestNumber, Request>,
    next: RequestNumber,
    chance: Prng,
    faults: Vec<String>,
    writes: u64,
}

impl Disk {
    /// An all-zero device.
    #[must_use]
    pub fn new(bytes: ByteCount, profile: Profile, chance: Prng) -> Self {
        Self {
            medium: Medium::default(),
            bytes,
            profile,
            slowness: 1,
            held_until: Nanos::ZERO,
            in_flight: BTreeMap::new(),
            next: 0,
            chance,
            faults: Vec::new(),
            writes: 0,
        }
    }

    /// Its size.
    #[must_use]
    pub const fn bytes(&self) -> ByteCount {
        self.bytes
    }

    /// Its kind.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// Its bytes.
    #[must_use]
    pub const fn medium(&self) -> &Medium {
        &self.medium
    }

    /// Its bytes, to damage or format.
    pub fn medium_mut(&mut self) -> &mut Medium {
        &mut self.medium
    }

    /// Everything takes `times` as long from here on.
    pub fn set_slowness(&mut self, times: u64) {
        self.slowness = times.max(1);
    }

    /// Write requests so far.
    #[must_use]
    pub const fn writes(&self) -> u64 {
        self.writes
    }

    /// Misuse noticed since this was last asked.
    pub fn take_faults(&mut self) -> Vec<String> {
        core::mem::take(&mut self.faults)
    }

    /// The piece at an offset.
    ///
    /// # Errors
    /// If the range is not 4 KiB aligned or not inside the device.
    pub fn place(&self, offset: ByteOffset, len: u32) -> Result<PieceNumber, String> {
        let end = offset.get().checked_add(u64::from(len));
        if !offset.is_block_aligned() || !len.is_multiple_of(BLOCK_BYTES) || len == 0 {
            return Err(format!("disk request of {len} bytes at {offset} is not made of 4 KiB pieces"));
        }
        if end.is_none_or(|end| end > self.bytes.get()) {
            return Err(format!("disk request of {len} bytes at {offset} is past the device's end {}", self.bytes));
        }
        Ok(offset.get() / BLOCK)
    }

    /// Takes a request; gives its number and how long it will take.
    pub fn submit(&mut self, request: Request) -> (RequestNumber, Nanos) {
        let end = request.first + u64::from(request.len) / BLOCK;
        let changes = |operation: &Operation| matches!(operation, Operation::Write { .. });
        for other in self.in_flight.values() {
            let overlaps = request.first < other.first + u64::from(other.len) / BLOCK && other.first < end;
            if overlaps && (changes(&request.operation) || changes(&other.operation)) && self.faults.len() < 16 {
                self.faults.push(format!(
                    "requests {:?} and {:?} of pieces from {} and {} overlap in flight",
                    other.op, request.op, other.first, request.first
                ));
            }
        }
        let mean = match &request.operation {
            Operation::Read => self.profile.read_ns,
            Operation::Write { durable, .. } => {
                self.writes += 1;
                self.profile.write_ns + if *durable { self.profile.flush_ns } else { 0 }
            }
            Operation::Flush { .. } => self.profile.flush_ns,
        };
        let time = self.chance.delay(mean).saturating_mul(self.slowness);
        self.next += 1;
        self.in_flight.insert(self.next, request);
        (self.next, Nanos::new(time))
    }

    /// Nothing that is asked from here on is answered before then.
    pub fn hold(&mut self, until: Nanos) {
        self.held_until = until;
    }

    /// Before when nothing is answered.
    #[must_use]
    pub const fn held_until(&self) -> Nanos {
        self.held_until
    }

    /// Where a write in flight will go instead of where it was sent.
    #[must_use]
    pub fn misdirected_to(&self, number: RequestNumber) -> Option<PieceNumber> {
        match self.in_flight.get(&number)?.fate {
            Fate::Misdirected { to, .. } => Some(to),
            Fate::Well | Fate::Error | Fate::Short | Fate::WrongBit { .. } | Fate::Lost { .. } => None,
        }
    }

    /// Requests in flight that were to fail succeed.
    pub fn spare(&mut self) {
        for request in self.in_flight.values_mut() {
            if matches!(request.fate, Fate::Error | Fate::Short) {
                request.fate = Fate::Well;
            }
        }
    }

    /// A request has come to its end: the medium changes now. The caller fills the reader's buffer.
    /// `None` if it was swept away by a power cut.
    pub fn complete(&mut self, number: RequestNumber) -> Option<(Request, DiskResult)> {
        let mut request = self.in_flight.remove(&number)?;
        if request.orphaned {
            self.land_some(&mut request);
            return Some((request, DiskResult::Error { errno: EIO }));
        }
        let all_durable = !self.profile.volatile_cache;
        let result = match (&mut request.operation, request.fate) {
            (Operation::Read, Fate::Error) => DiskResult::Error { errno: EIO },
            (Operation::Read, Fate::Short) => DiskResult::Short { bytes: request.len / 2 },
            (Operation::Read, Fate::Well | Fate::WrongBit { .. } | Fate::Lost { .. } | Fate::Misdirected { .. }) => {
                let bad = (0..u64::from(request.len) / BLOCK).any(|piece| self.medium.is_unreadable(request.first + piece));
                if bad { DiskResult::Error { errno: EIO } } else { DiskResult::Done }
            }
            (Operation::Write { .. }, Fate::Error) => {
                self.land_some(&mut request);
                DiskResult::Error { errno: EIO }
            }
            (Operation::Write { .. }, Fate::Short) => {
                self.land_some(&mut request);
                DiskResult::Short { bytes: request.len / 2 / BLOCK_BYTES * BLOCK_BYTES }
            }
            (Operation::Write { pieces, durable }, Fate::Well | Fate::WrongBit { .. } | Fate::Lost { .. } | Fate::Misdirected { .. }) => {
                for (index, piece) in pieces.drain(..).enumerate() {
                    let to = match request.fate {
                        Fate::Lost { piece } if piece == index => continue,
                        Fate::Misdirected { piece, to } if piece == index => to,
                        Fate::Lost { .. } | Fate::Misdirected { .. } | Fate::Well | Fate::Error | Fate::Short | Fate::WrongBit { .. } => {
                            request.first + index as u64
                        }
                    };
                    self.medium.write(to, piece, *durable || all_durable);
                }
                DiskResult::Done
            }
            (Operation::Flush { .. }, Fate::Error | Fate::Short) => DiskResult::Error { errno: EIO },
            (Operation::Flush { order }, Fate::Well | Fate::WrongBit { .. } | Fate::Lost { .. } | Fate::Misdirected { .. }) => {
                self.medium.flush(*order);
                DiskResult::Done
            }
        };
        Some((request, result))
    }

    /// Some pieces of a write that nobody waits for any more reach the device: all, none or any.
    fn land_some(&mut self, request: &mut Request) {
        let keep = *self.chance.pick(&[0, 500, 1000]);
        match &mut request.operation {
            Operation::Write { pieces, durable } => {
                let durable = *durable || !self.profile.volatile_cache;
                for (index, piece) in pieces.drain(..).enumerate() {
                    if self.chance.chance(keep, 1000) {
                        self.medium.write(request.first + index as u64, piece, durable);
                    }
                }
            }
            Operation::Flush { order } if keep > 0 => self.medium.flush(*order),
            Operation::Flush { .. } | Operation::Read => {}
        }
    }

    /// The process with this life is gone; what it had in flight may still land, and holds the
    /// device's lock until it has.
    pub fn orphan(&mut self, life: u64) {
        for request in self.in_flight.values_mut().filter(|request| request.life == life) {
            request.orphaned = true;
            request.pin = None;
        }
    }

    /// Whether a dead process's requests still hold the device's lock.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.in_flight.values().any(|request| request.orphaned)
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Power is lost: what was in flight lands piece by piece or not, and the cache falls.
    pub fn power_cut(&mut self) {
        for (_, mut request) in core::mem::take(&mut self.in_flight) {
            self.land_some(&mut request);
        }
        let keep = *self.chance.pick(&[0, 100, 500, 900, 1000]);
        self.medium.power_cut(&mut self.chance, keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: Profile = Profile { read_ns: 100, write_ns: 100, flush_ns: 100, volatile_cache: true };

    fn disk(seed: u64) -> Disk {
        Disk::new(ByteCount::new(1 << 20), PROFILE, Prng::new(seed))
    }

    fn write(first: PieceNumber, byte: u8, fate: Fate) -> Request {
        let pieces = vec![Box::new([byte; BLOCK_BYTES as usize]); 2];
        let operation = Operation::Write { pieces, durable: false };
        Request { op: OpId::from_bits(1), life: 1, first, len: 8192, operation, pin: None, fate, orphaned: false }
    }

    fn bytes(disk: &Disk, number: PieceNumber) -> u8 {
        let mut bytes = [9; BLOCK_BYTES as usize];
        disk.medium().read(number, &mut bytes);
        bytes[0]
    }

    #[test]
    fn a_write_is_seen_from_its_completion_on() {
        let mut disk = disk(1);
        let (number, _) = disk.submit(write(3, 7, Fate::Well));
        assert_eq!(bytes(&disk, 3), 0);
        let (_, result) = disk.complete(number).expect("in flight");
        assert_eq!((result, bytes(&disk, 3), bytes(&disk, 4)), (DiskResult::Done, 7, 7));
        assert!(disk.complete(number).is_none(), "it ends once");
    }

    #[test]
    fn a_lost_write_is_acknowledged_and_a_misdirected_one_lands_elsewhere() {
        let mut disk = disk(1);
        let (number, _) = disk.submit(write(3, 7, Fate::Lost { piece: 1 }));
        let (_, result) = disk.complete(number).expect("in flight");
        assert_eq!((result, bytes(&disk, 3), bytes(&disk, 4)), (DiskResult::Done, 7, 0));
        let (number, _) = disk.submit(write(3, 8, Fate::Misdirected { piece: 0, to: 20 }));
        disk.complete(number).expect("in flight");
        assert_eq!((bytes(&disk, 3), bytes(&disk, 4), bytes(&disk, 20)), (7, 8, 8));
    }

    #[test]
    fn a_dead_process_keeps_the_lock_until_its_requests_are_over() {
        let mut disk = disk(1);
        let (number, _) = disk.submit(write(3, 7, Fate::Well));
        disk.orphan(2);
        assert!(!disk.is_locked());
        disk.orphan(1);
        assert!(disk.is_locked());
        disk.complete(number).expect("still under way");
        assert!(!disk.is_locked());
    }

    #[test]
    fn in_flight_pieces_of_a_power_cut_land_or_not_by_themselves() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut disk = disk(seed);
            disk.submit(write(3, 7, Fate::Well));
            disk.power_cut();
            seen.insert((bytes(&disk, 3), bytes(&disk, 4)));
            assert_eq!(disk.in_flight(), 0);
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn overlapping_writes_in_flight_are_noticed() {
        let mut disk = disk(1);
        disk.submit(write(3, 7, Fate::Well));
        disk.submit(write(5, 7, Fate::Well));
        assert!(disk.take_faults().is_empty());
        disk.submit(write(4, 7, Fate::Well));
        assert_eq!(disk.take_faults().len(), 2);
    }
}
