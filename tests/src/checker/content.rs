//! What a block can hold, as the checker thinks of it: runs of bytes, each from one write.
//!
//! Contents are interned: equal contents have equal ids, so the search compares numbers.

use crate::pattern::{self, Stamp};
use sds_core::unit::BLOCK_BYTES;
use std::collections::BTreeMap;

/// Where some bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// Never written, zeroed or trimmed.
    Zero,
    /// That write.
    Write(Stamp),
    /// Nobody can say any more: any bytes match.
    Wild,
}

/// A run of bytes of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    start: u32,
    end: u32,
    source: Source,
}

/// Names a content of one block.
pub(super) type ContentId = u32;

/// All contents that one block was ever thought to hold.
pub(super) struct Contents {
    volume: u32,
    lba: u64,
    list: Vec<(Vec<Run>, Option<u64>)>,
    index: BTreeMap<Vec<Run>, ContentId>,
    /// Digest of each partial range of each content that was asked for.
    parts: BTreeMap<(ContentId, u32, u32), Option<u64>>,
}

/// The content of a block that was never written.
pub(super) const ZERO: ContentId = 0;

impl Contents {
    pub(super) fn new(volume: u32, lba: u64) -> Self {
        let mut contents = Self { volume, lba, list: Vec::new(), index: BTreeMap::new(), parts: BTreeMap::new() };
        let zero = contents.intern(vec![Run { start: 0, end: BLOCK_BYTES, source: Source::Zero }]);
        assert_eq!(zero, ZERO, "the first content is the unwritten one");
        contents
    }

    fn intern(&mut self, runs: Vec<Run>) -> ContentId {
        if let Some(id) = self.index.get(&runs) {
            return *id;
        }
        let id = ContentId::try_from(self.list.len()).expect("a block has fewer contents");
        self.list.push((runs.clone(), None));
        self.index.insert(runs, id);
        let digest = self.compute(id, 0, BLOCK_BYTES);
        self.list[id as usize].1 = digest;
        id
    }

    /// `content` after bytes `start .. end` came from `source`.
    pub(super) fn apply(&mut self, content: ContentId, start: u32, end: u32, source: Source) -> ContentId {
        let old = &self.list[content as usize].0;
        let mut runs: Vec<Run> = Vec::with_capacity(old.len() + 2);
        let mut push = |run: Run| {
            if run.start >= run.end {
                return;
            }
            match runs.last_mut() {
                Some(last) if last.source == run.source => last.end = run.end,
                Some(_) | None => runs.push(run),
            }
        };
        for run in old {
            push(Run { end: run.end.min(start), ..*run });
        }
        push(Run { start, end, source });
        for run in old {
            push(Run { start: run.start.max(end), ..*run });
        }
        self.intern(runs)
    }

    /// The content nobody can know.
    pub(super) fn wild(&mut self) -> ContentId {
        self.intern(vec![Run { start: 0, end: BLOCK_BYTES, source: Source::Wild }])
    }

    fn compute(&self, content: ContentId, start: u32, len: u32) -> Option<u64> {
        let mut bytes = [0_u8; BLOCK_BYTES as usize];
        for run in &self.list[content as usize].0 {
            let (from, to) = (run.start.max(start), run.end.min(start + len));
            if from >= to {
                continue;
            }
            match run.source {
                Source::Zero => {}
                Source::Write(stamp) => {
                    let offset = self.lba * u64::from(BLOCK_BYTES) + u64::from(from);
                    pattern::fill(&mut bytes[from as usize..to as usize], stamp, self.volume, offset);
                }
                Source::Wild => return None,
            }
        }
        Some(pattern::digest(&bytes[start as usize..(start + len) as usize]))
    }

    /// Whether a read of a part of `content` can have this digest.
    pub(super) fn matches(&mut self, content: ContentId, start: u32, len: u32, digest: u64) -> bool {
        let known = if start == 0 && len == BLOCK_BYTES {
            self.list[content as usize].1
        } else if let Some(known) = self.parts.get(&(content, start, len)) {
            *known
        } else {
            let known = self.compute(content, start, len);
            self.parts.insert((content, start, len), known);
            known
        };
        known.is_none_or(|known| known == digest)
    }

    /// A content in words.
    pub(super) fn describe(&self, content: ContentId) -> String {
        let runs: Vec<String> = self.list[content as usize]
            .0
            .iter()
            .map(|run| match run.source {
                Source::Zero => format!("{}..{} zero", run.start, run.end),
                Source::Write(stamp) => format!("{}..{} write {}", run.start, run.end, stamp.0),
                Source::Wild => format!("{}..{} unknown", run.start, run.end),
            })
            .collect();
        runs.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_split_and_join_runs() {
        let mut contents = Contents::new(1, 5);
        let a = contents.apply(ZERO, 100, 200, Source::Write(Stamp(1)));
        assert_eq!(contents.describe(a), "0..100 zero, 100..200 write 1, 200..4096 zero");
        let b = contents.apply(a, 150, 300, Source::Write(Stamp(2)));
        assert_eq!(contents.describe(b), "0..100 zero, 100..150 write 1, 150..300 write 2, 300..4096 zero");
        assert_eq!(contents.apply(b, 0, BLOCK_BYTES, Source::Zero), ZERO);
        let mut bytes = [0_u8; 100];
        pattern::fill(&mut bytes, Stamp(1), 1, 5 * 4096 + 100);
        assert!(contents.matches(a, 100, 100, pattern::digest(&bytes)));
        assert!(!contents.matches(b, 100, 100, pattern::digest(&bytes)));
    }
}
