//! A copy that has come back after a crash, or serves: asked through its store's exchange interface, as its own node or the
//! other one would.
//!
//! What is asked may be cut short after a number of disk operations: then the answer is `None` and the process is to be
//! taken for dead.
//!
//! What this must not know: what is decided from the answers.

use crate::decide::{self, List};
use crate::histories::{BLOCKS, FIRST_BOOT, bytes_of, pair_options};
use crate::images::Crash;
use crate::store_rig::*;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::Checksum;
use sds_core::exchange::{BLOCKS_BYTES, EXTENT_ENTRY_BYTES, ExtentEntry, PLAN_BYTES, PlanEntry};
use sds_core::store::interface::*;
use sds_core::unit::*;

/// How many disk writes and flushes are still done, by both copies together.
pub(crate) struct Steps {
    pub(crate) left: usize,
    pub(crate) done: usize,
}

impl Steps {
    pub(crate) fn all() -> Self {
        Self::only(usize::MAX)
    }

    pub(crate) fn only(left: usize) -> Self {
        Self { left, done: 0 }
    }
}

/// What a copy's list says of the extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) unsettled: bool,
    pub(crate) newest: Option<u64>,
}

/// The store of one copy.
#[derive(Clone)]
pub(crate) struct Copy {
    pub(crate) rig: Rig,
    /// It has lost its cache since it was last known to be good.
    pub(crate) lost: bool,
}

impl Copy {
    /// Starts a store after a crash; what is unsettled stays so. `None` if the device cannot be opened.
    pub(crate) fn open(disk: Disk, crash: Crash, boot: u128) -> Option<Self> {
        let lost = crash == Crash::Power;
        let mut rig = Rig::new(disk, pair_options(if lost { boot } else { FIRST_BOOT }));
        rig.input(Input::Open);
        rig.drain();
        if rig.open_fault().is_some() {
            return None;
        }
        if rig.opened().unwrap().unsettled > 0 {
            let token = rig.request(Request::SettleLater);
            rig.drain();
            assert_eq!(rig.reply(token), Ok(Outcome::Done));
        }
        rig.pool = Pool::new(4096);
        Some(Self { rig, lost })
    }

    fn finish(&mut self, token: u64, steps: &mut Steps) -> Option<Result<Outcome, StoreError>> {
        while !self.rig.replies.contains_key(&token) {
            match self.rig.sent.front() {
                Some(Sent::Read { .. }) => self.rig.complete(0),
                Some(Sent::Write { .. } | Sent::Flush { .. }) => {
                    steps.left = steps.left.checked_sub(1)?;
                    steps.done += 1;
                    self.rig.complete(0);
                }
                None => {
                    let due = self.rig.store.deadline().unwrap();
                    self.rig.now = self.rig.now.max(due);
                    self.rig.input(Input::Wake);
                }
            }
        }
        Some(self.rig.reply(token))
    }

    fn ask(&mut self, bytes: u32, request: impl Fn(Span) -> Request) -> (Result<Outcome, StoreError>, Vec<u8>) {
        let span = Span::whole(self.rig.pool.allocate(BufferClass::Replicate, bytes).unwrap(), bytes);
        let token = self.rig.request(request(span));
        self.rig.drain();
        let bytes = self.rig.pool.bytes(span).to_vec();
        self.rig.pool.release(span.buffer);
        (self.rig.reply(token), bytes)
    }

    /// What it says of the extent in its list, if it has it. A damaged one is as good as unsettled, as for `resync::list`.
    pub(crate) fn listed(&mut self) -> Option<Listed> {
        let (outcome, bytes) = self.ask(4 * EXTENT_ENTRY_BYTES, |span| Request::Extents { from: 0, span });
        let Ok(Outcome::Extents { count, next: None }) = outcome else { panic!("a small device's list has one part") };
        let mut listed = bytes.chunks(EXTENT_ENTRY_BYTES as usize).take(count as usize).map(|bytes| ExtentEntry::decode(bytes).unwrap());
        let entry = listed.find(|entry| entry.key == key(0))?;
        Some(Listed { unsettled: entry.unsettled || entry.damaged, newest: entry.newest.map(sds_core::id::ShardSequence::get) })
    }

    /// Its blocks, and whether it has the extent; an error if it cannot say.
    pub(crate) fn blocks(&mut self) -> Result<(List, bool), StoreError> {
        let (outcome, bytes) = self.ask(BLOCKS_BYTES, |span| Request::Blocks { key: key(0), span });
        match outcome {
            Ok(Outcome::Blocks { held }) => Ok((decide::decode_list(&bytes).unwrap(), held)),
            Ok(other) => panic!("a block list is answered {other:?}"),
            Err(error) => Err(error),
        }
    }

    /// The bytes on the medium, compared with nothing.
    pub(crate) fn medium(&mut self, block: usize) -> Vec<u8> {
        let range = BlockRange { first: BlockIndex::new(block as u8), count: 1 };
        self.ask(4096, |span| Request::Medium { key: key(0), range, span }).1
    }

    pub(crate) fn write(&mut self, block: usize, bytes: &[u8], sequence: u64, bond: Bond, steps: &mut Steps) -> Option<()> {
        self.rig.bond = bond;
        let token = self.rig.send_write(key(0), block as u8, bytes, sequence, false);
        assert_eq!(self.finish(token, steps)?, Ok(Outcome::Done));
        Some(())
    }

    pub(crate) fn take_plan(&mut self, plan: &[PlanEntry; 256], steps: &mut Steps) -> Option<()> {
        let span = Span::whole(self.rig.pool.allocate(BufferClass::Replicate, PLAN_BYTES).unwrap(), PLAN_BYTES);
        decide::encode_plan(plan, self.rig.pool.bytes_mut(span));
        let token = self.rig.request(Request::Settle { key: key(0), span });
        assert_eq!(self.finish(token, steps)?, Ok(Outcome::Done));
        self.rig.pool.release(span.buffer);
        Some(())
    }

    pub(crate) fn free(&mut self, steps: &mut Steps) -> Option<()> {
        let token = self.rig.request(Request::FreeExtent { key: key(0) });
        assert_eq!(self.finish(token, steps)?, Ok(Outcome::Done));
        Some(())
    }

    pub(crate) fn flush(&mut self, steps: &mut Steps) -> Option<()> {
        let token = self.rig.request(Request::Flush);
        assert_eq!(self.finish(token, steps)?, Ok(Outcome::Done));
        Some(())
    }

    pub(crate) fn read(&mut self, block: usize) -> Result<Vec<u8>, StoreError> {
        self.rig.read(key(0), block as u8, 1)
    }

    /// Which of these values its block has.
    pub(crate) fn value(&mut self, block: usize, values: &[u64]) -> Result<Option<u64>, StoreError> {
        let bytes = self.read(block)?;
        Ok(values.iter().copied().find(|value| bytes == bytes_of(*value)))
    }

    /// What the medium holds of blocks with data, whatever is recorded.
    pub(crate) fn sums(&mut self) -> [Checksum; 2] {
        BLOCKS.map(|block| Checksum::of(&self.medium(block)))
    }
}
