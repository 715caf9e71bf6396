//! One device's copy of the block: what is durable, what a power cut may take, and what a crash leaves.
//!
//! Data and record are two requests; a crash may leave either without the other. A power cut leaves any of the data
//! written since the last flush and any subset of the records. A flush makes all of it durable.

use crate::monitor::Value;
use sds_core::checksum::Checksum;
use sds_core::id::{Epoch, ShardSequence, Version};
use sds_core::protocol::settle::{Exhibit, Record};

/// A written content and its version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The version.
    pub version: Version,
    /// The content.
    pub value: Value,
}

impl Stamp {
    /// A stamp.
    #[must_use]
    pub fn new(sequence: u64, epoch: Epoch, value: Value) -> Self {
        Self { version: Version { sequence: ShardSequence::new(sequence), epoch }, value }
    }

    /// Its sequence.
    #[must_use]
    pub fn sequence(self) -> u64 {
        self.version.sequence.get()
    }

    /// As its record in a log.
    #[must_use]
    pub fn record(self) -> Record {
        Record { version: self.version, checksum: checksum(self.value) }
    }
}

/// The checksum that stands for a content.
#[must_use]
pub fn checksum(value: Value) -> Checksum {
    Checksum::new(u32::from(value))
}

/// Half of a write that was at the device when its process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// The data landed, the record did not.
    Data(Stamp),
    /// The record landed, the data did not.
    Record(Stamp),
}

/// What a crash left, until it is settled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// Records, oldest first.
    pub records: Vec<Stamp>,
    /// Bytes on the medium.
    pub medium: Value,
    /// Read back after a power cut: no further one takes any of it.
    pub durable: bool,
}

/// One copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Copy {
    /// Durable, data and record.
    pub base: Stamp,
    /// Complete and not flushed, oldest first.
    pub cached: Vec<Stamp>,
    /// Activated and not sealed.
    pub active: bool,
    /// Settled alone: stays in the settle exchange, through any later seal.
    pub held: bool,
    /// After a crash.
    pub image: Option<Image>,
}

impl Copy {
    /// What it holds, when nothing is in doubt.
    #[must_use]
    pub fn current(&self) -> Stamp {
        self.cached.last().copied().unwrap_or(self.base)
    }

    /// A write, data and record.
    pub fn write(&mut self, stamp: Stamp) {
        self.image = None;
        self.active = true;
        self.cached.push(stamp);
    }

    /// A device flush.
    pub fn flush(&mut self) {
        self.base = self.current();
        self.cached.clear();
    }

    /// Forgets what is newer than this sequence.
    pub fn roll_back(&mut self, sequence: u64) {
        self.cached.retain(|stamp| stamp.sequence() <= sequence);
    }

    /// Takes a settled outcome, durably.
    pub fn settle(&mut self, stamp: Stamp) {
        *self = Self { base: stamp, cached: Vec::new(), active: false, held: false, image: None };
    }

    /// Goes on with what a crash left, as if nothing were in doubt.
    pub fn adopt(&mut self) {
        if let Some(image) = self.image.take() {
            let version = image.records.last().map_or(self.base.version, |newest| newest.version);
            let stamp = Stamp { version, value: image.medium };
            if image.durable {
                self.base = stamp;
                self.cached.clear();
            } else if self.current() != stamp {
                self.cached.push(stamp);
            }
        }
    }

    /// A process crash: the cache stays.
    #[must_use]
    pub fn crash(&self, half: Option<Half>) -> Self {
        let mut records = self.records();
        let mut medium = self.medium();
        match half {
            Some(Half::Data(stamp)) => medium = stamp.value,
            Some(Half::Record(stamp)) => records.push(stamp),
            None => {}
        }
        let durable = half.is_none() && self.image.as_ref().is_some_and(|image| image.durable);
        Self { active: self.active || half.is_some(), image: Some(Image { records, medium, durable }), ..self.clone() }
    }

    /// A power cut: every way it can end.
    #[must_use]
    pub fn power_cuts(&self, half: Option<Half>) -> Vec<Self> {
        let crashed = self.crash(half);
        let Some(image) = &crashed.image else { return Vec::new() };
        if image.durable {
            return vec![crashed];
        }
        let mut media = vec![self.base.value, image.medium];
        media.extend(self.cached.iter().map(|stamp| stamp.value));
        media.sort_unstable();
        media.dedup();
        let loose: Vec<Stamp> = image.records.iter().copied().filter(|record| *record != self.base).collect();
        let mut ends = Vec::new();
        for medium in media {
            for kept in 0..1_u32 << loose.len() {
                let mut records = vec![self.base];
                records.extend(loose.iter().enumerate().filter(|(at, _)| kept & (1 << at) != 0).map(|(_, record)| *record));
                ends.push(Self {
                    base: self.base,
                    cached: Vec::new(),
                    active: crashed.active,
                    held: crashed.held,
                    image: Some(Image { records, medium, durable: true }),
                });
            }
        }
        ends
    }

    /// Records, oldest first.
    #[must_use]
    pub fn records(&self) -> Vec<Stamp> {
        match &self.image {
            Some(image) => image.records.clone(),
            None => core::iter::once(self.base).chain(self.cached.iter().copied()).collect(),
        }
    }

    /// Bytes on the medium.
    #[must_use]
    pub fn medium(&self) -> Value {
        self.image.as_ref().map_or_else(|| self.current().value, |image| image.medium)
    }

    /// What it brings to a settle exchange.
    pub fn exhibit<T>(&self, cache_lost: bool, look: impl FnOnce(&Exhibit<'_>) -> T) -> T {
        let records: Vec<Record> = self.records().into_iter().map(Stamp::record).collect();
        look(&Exhibit { records: &records, medium: Some(checksum(self.medium())), cache_lost })
    }
}
