//! Disks that do not answer.
//!
//! A device with a disk request older than the policy says is *hung*: the MDM is told, what it shares with other servers goes on
//! without it, and peers that wait for it are answered. What has no other copy waits on: the disk may answer yet. When the request has
//! ended after all, the device is as good as one whose server was cut off: it is registered as open again, and joins.
//!
//! Invariants: what is in the store of a hung device is seen to its end there before its party's next link, or another configuration's
//! questions, are served (I10); a hung device's shards are left only by a committed change (I5).
//!
//! Must not know: why a disk does not answer.

use super::interface::{DeviceSlot, Effect, Event};
use super::request::Stage;
use super::{Phase, Replica, Turn};
use crate::buffer::Buffers;
use crate::collections::OpId;
use crate::error::Status;
use crate::unit::Nanos;
use crate::wire::Frame;

impl Replica {
    /// Looks for disk requests that are too old, when one may be.
    pub(super) fn look_for_hung(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if turn.now < self.devices.hang_due {
            return;
        }
        self.devices.hang_due = Nanos::NEVER;
        let limit = self.devices.hang_after;
        for slot in self.devices.slots() {
            let Some(device) = self.devices.get_mut(slot) else { continue };
            let since = device.oldest_disk_request();
            let age = since.map(|since| turn.now.since(since)).unwrap_or_default();
            let hung = age >= limit;
            let changed = core::mem::replace(&mut device.is_hung, hung) != hung;
            if let (Some(since), false) = (since, hung) {
                self.devices.hang_due = self.devices.hang_due.min(since.plus(limit));
            }
            if changed {
                turn.out.push(Effect::Event(Event::DeviceHung { slot, hung, age }));
                self.hung_changed(slot, hung, age, turn);
            }
        }
    }

    fn hung_changed(&mut self, slot: DeviceSlot, hung: bool, age: Nanos, turn: &mut Turn<'_, impl Buffers>) {
        if hung && let Some(device) = self.devices.get_mut(slot) {
            device.note_fault(format!("a disk request has not ended for {} s", age.get() / 1_000_000_000));
        }
        if matches!(self.phase, Phase::Running | Phase::Draining) {
            turn.out.push(Effect::Register);
        }
        if hung {
            self.break_pairs_of(slot);
            self.answer_peers_of(slot, turn);
        } else {
            self.unpark(turn);
        }
    }

    /// Peers hear that the device does not do what they asked: they wait no longer, and it may still be done.
    fn answer_peers_of(&mut self, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) {
        let of_peers: Vec<(OpId, Stage)> = self
            .requests
            .iter()
            .filter(|(_, request)| request.kind.is_of_peer() && request.link.is_some())
            .filter(|(_, request)| request.route.is_some_and(|route| route.slot == slot))
            .map(|(op, request)| (op, request.stage))
            .collect();
        for (op, stage) in of_peers {
            match stage {
                Stage::InStore => self.answer_early(op, Status::DeviceFailed, turn),
                Stage::Queued | Stage::NeedsLock => self.finish(op, super::answer::Answer::Refused(Status::DeviceFailed), turn),
                // Checked again, and refused, when what they wait for has come.
                Stage::New | Stage::Parked { .. } | Stage::NeedsRoom => {}
            }
        }
        if let Some(device) = self.devices.get_mut(slot) {
            device.queue.retain(|op| self.requests.get(*op).is_some());
            device.unsequenced.retain(|op| self.requests.get(*op).is_some());
        }
    }

    /// Answers a request that stays in the store, as if its link had been lost after that.
    fn answer_early(&mut self, op: OpId, status: Status, turn: &mut Turn<'_, impl Buffers>) {
        let Some(request) = self.requests.get_mut(op) else { return };
        let Some(link) = request.link.take() else { return };
        let (kind, header, party) = (request.kind, request.header, request.party);
        let frame = Frame::bare(self.reply_header(kind, &header, status));
        turn.out.push(Effect::Send { link, frame });
        if let Some(link) = self.links.get_mut(link) {
            link.outstanding -= 1;
        }
        self.links.orphaned(party);
    }
}
