//! Sealing: telling the log that an extent is quiet and durable, so that a mismatch in it is corruption.
//!
//! A batch of quiet extents is chosen, the device flushed, and those that were not written since get
//! their `sealed` record. On a quiet device (no write for `seal_after`) everything goes in one batch;
//! under load an extent stays active, because at one write at a time over a large set each would pay
//! an activation's wait otherwise. Beyond the soft bound the longest quiet ones go; after a minute any.
//!
//! Invariants: a `sealed` record follows a flush that was sent when nothing of the extent was in
//! flight; a write after the record's place in the log waits for a new activation.
//! What this must not know: requests; the checkpoint.

use super::flush::Waiter;
use super::options::{ACTIVE_MAX, ACTIVE_PER_LOG_BLOCK, SEAL_BATCH, SEAL_LATEST};
use super::pages::Activity;
use super::slots::Standing;
use super::{Context, Phase, Store};
use crate::buffer::Buffers;
use crate::bugs::{self, Bug};
use crate::format::record;
use crate::unit::Nanos;

/// Log blocks that sealing leaves free.
const LEFT_FREE: u64 = 4;

/// What the sealer is doing.
#[derive(Clone, Debug, Default)]
pub(super) struct Sealer {
    state: State,
    /// Frames of the batch and the write they had seen.
    batch: Vec<(u32, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// A flush that covers the batch is wanted or in flight.
    Flushing,
    /// It is done.
    Flushed,
}

impl Sealer {
    pub(super) fn flushed(&mut self) {
        if self.state == State::Flushing {
            self.state = State::Flushed;
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.state == State::Idle
    }
}

impl Store {
    fn active_bound(&self) -> u32 {
        let frames = u32::try_from(self.pages.capacity() / 2).unwrap_or(u32::MAX);
        frames.min(ACTIVE_MAX).min(self.geometry().log_blocks().saturating_mul(ACTIVE_PER_LOG_BLOCK)).max(1)
    }

    /// When sealing is next due by the clock.
    pub(super) fn seal_due(&self) -> Option<Nanos> {
        // Without room only a checkpoint helps, and that brings the store round again.
        if !self.sealer.is_quiet() || self.log.room() <= LEFT_FREE {
            return None;
        }
        let quietest = self.pages.get(self.pages.quietest()?);
        let quiet = (self.outstanding == 0).then(|| self.last_write.max(quietest.last_write).plus(self.options.seal_after));
        let latest = (quietest.in_flight == 0).then(|| quietest.last_write.plus(SEAL_LATEST));
        [quiet, latest].into_iter().flatten().min()
    }

    pub(super) fn pump_seal<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        match self.sealer.state {
            State::Flushing => false,
            State::Flushed => self.write_seals(),
            State::Idle => self.choose_batch(cx.now),
        }
    }

    fn choose_batch(&mut self, now: Nanos) -> bool {
        let active = self.pages.active_count();
        if active == 0 || self.log.room() <= LEFT_FREE {
            return false;
        }
        let closing = matches!(self.phase, Phase::Closing(_));
        let quiet = self.outstanding == 0 && now >= self.last_write.plus(self.options.seal_after);
        let crowded = active >= self.active_bound() || (self.short_of_frames && self.stalled.len() > self.loads.len());
        let bound = SEAL_BATCH.min(if closing || quiet { active as usize } else { (active as usize).div_ceil(4) });
        let mut next = self.pages.quietest();
        self.sealer.batch.clear();
        while let Some(frame) = next {
            if self.sealer.batch.len() == bound {
                break;
            }
            let entry = self.pages.get(frame);
            next = self.pages.after(frame);
            let aged = now >= entry.last_write.plus(SEAL_LATEST);
            let rested = quiet && now >= entry.last_write.plus(self.options.seal_after);
            if !(closing || rested || crowded || aged) {
                break;
            }
            if entry.in_flight == 0 && (closing || rested || aged || entry.pins == 0) {
                self.sealer.batch.push((frame, entry.stamp));
            }
        }
        if self.sealer.batch.is_empty() {
            return false;
        }
        self.sealer.state = if bugs::is(Bug::SealedBeforeFlush) { State::Flushed } else { State::Flushing };
        if self.sealer.state == State::Flushing {
            self.flusher.want(0, Waiter::Seal);
        }
        true
    }

    fn write_seals(&mut self) -> bool {
        if self.log.room() <= LEFT_FREE {
            return false;
        }
        let batch = core::mem::take(&mut self.sealer.batch);
        for (frame, stamp) in &batch {
            let entry = self.pages.get(*frame);
            let written = (entry.in_flight > 0 || entry.stamp != *stamp) && !bugs::is(Bug::SealedWhileWritten);
            if entry.activity != Activity::Active || written {
                continue;
            }
            let slot = entry.slot;
            // An extent that waits to be settled goes idle and stays unsettled.
            if self.slots.get(slot).standing == Standing::Settled {
                let (_, pending) = self.log.place(5);
                record::put_sealed(&mut pending.records, slot);
                pending.count += 1;
                (pending.durable, pending.urgent) = (true, true);
            }
            self.pages.set_activity(*frame, Activity::Idle);
        }
        self.sealer.batch = batch;
        self.sealer.state = State::Idle;
        self.retry = true;
        true
    }
}
