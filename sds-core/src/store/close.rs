//! Closing: finish what was asked, seal everything, checkpoint, answer.
//!
//! Invariant: after the reply the log holds nothing that the checkpoint does not contain but seals
//! and positions, and no extent is unsettled but those with writes
//! that the other copy may lack. What this must not know: how any of that is done.

use super::interface::Outcome;
use super::slots::Standing;
use super::{Context, OpId, Phase, Store};
use crate::buffer::Buffers;

/// How far closing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    /// The request to answer at the end.
    request: OpId,
    checkpoint: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Requests finish, extents are sealed.
    Sealing,
    /// The last checkpoint is under way.
    Checkpointing,
}

impl Store {
    pub(super) fn close_requested(&mut self, id: OpId) {
        self.phase = Phase::Closing(Closing { request: id, checkpoint: Step::Sealing });
        // What the other copy may lack cannot be vouched for by a seal: it is settled with it after the next start.
        for slot in self.pages.release_all() {
            self.slots.get_mut(slot).standing = Standing::Unsettled;
        }
        self.retry = true;
    }

    pub(super) fn pump_close<B: Buffers>(&mut self, cx: &mut Context<'_, B>) -> bool {
        let Phase::Closing(closing) = self.phase else { return false };
        let quiet = self.works.len() == 1
            && self.pages.active_count() == 0
            && self.sealer.is_quiet()
            && self.log.is_quiet()
            && self.flusher.is_quiet()
            && self.checkpoint.is_quiet();
        if !quiet {
            return false;
        }
        match closing.checkpoint {
            Step::Sealing => {
                self.checkpoint.force();
                self.phase = Phase::Closing(Closing { checkpoint: Step::Checkpointing, ..closing });
            }
            Step::Checkpointing => {
                self.phase = Phase::Closed;
                self.reply(cx, closing.request, Ok(Outcome::Done));
            }
        }
        true
    }
}
