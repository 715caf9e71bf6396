//! What the MDM and the devices tell this node.
//!
//! Invariants: a view is confirmed only after it is applied (what it fences is refused from then on,
//! I3); a device serves only settled (I8) and in the incarnation that the shard map names (I6).

use super::answer::Answer;
use super::devices::{Asker, Errand, Saying, State, tell};
use super::interface::{DeviceSlot, Effect};
use super::trees::prune;
use super::view::is_member;
use super::{Identity, Phase, Replica, Turn};
use crate::buffer::Buffers;
use crate::error::Status;
use crate::id::{DeviceId, DeviceUuid, MapVersion};
use crate::store::interface as store;
use crate::store::interface::{ExtentKey, Outcome, StoreError};
use crate::view::ViewUpdate;

impl Replica {
    pub(super) fn take_registration(&mut self, identity: Identity, devices: &[(DeviceUuid, DeviceId)], turn: &mut Turn<'_, impl Buffers>) {
        self.identity = Some(identity);
        let serving: Vec<DeviceUuid> = self.devices.iter().filter(|device| !device.is_failed()).map(|device| device.uuid).collect();
        for device in self.devices.iter_mut().filter(|device| !device.uuid.is_nil()) {
            if device.is_failed() && serving.contains(&device.uuid) {
                // A copy that could not be opened; the other one is the device.
                device.id = None;
            } else if let Some((_, id)) = devices.iter().find(|(uuid, _)| *uuid == device.uuid) {
                device.id = Some(*id);
            }
        }
        self.tell_freed(turn);
        self.look_again(turn);
    }

    pub(super) fn take_view(&mut self, update: &ViewUpdate, turn: &mut Turn<'_, impl Buffers>) {
        if self.view.apply(update) {
            if let Some(deleted) = &update.deleted_trees {
                self.deleted.clone_from(deleted);
                prune(&mut self.devices, deleted);
                self.tell_freed(turn);
            }
            self.look_again(turn);
            self.links.forget_clients(|client| self.view.has_session(client));
        }
        turn.out.push(Effect::Confirm { version: self.view.version() });
    }

    /// Asks the MDM for a view, once a version and then once in a while.
    pub(super) fn pull(&mut self, at_least: MapVersion, turn: &mut Turn<'_, impl Buffers>) {
        let asked = self.pulled.is_some_and(|(version, at)| version >= at_least && turn.now.since(at) < self.options.map_wait);
        if !asked {
            self.pulled = Some((at_least, turn.now));
            // By our own count: what a frame claims may be nobody's version, and the MDM would take it for its own past.
            turn.out.push(Effect::Pull { at_least: self.view.version() });
        }
    }

    /// Works out what is served here now, and looks again at whatever has waited for that.
    fn look_again(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if let Some(identity) = self.identity {
            let devices = &self.devices;
            let slot_of = |member| {
                let ours = |id: &DeviceId| is_member(member, *id, identity.incarnation);
                devices.iter().find(|device| device.id.as_ref().is_some_and(ours)).map(|device| device.slot)
            };
            let is_clean = |slot| devices.get(slot).is_some_and(|device| device.is_open() && !device.is_unsettled);
            self.view.localize(slot_of, is_clean, &mut self.peers, turn.now);
            self.release_former(turn);
            self.check_sweeps(turn);
            self.choose_settling(turn);
        }
        for slot in self.devices.slots() {
            if let Some(next) = self.view.highest_next(slot) {
                self.reserve(slot, next, turn);
            }
        }
        for slot in self.devices.slots() {
            if self.devices.get(slot).is_some_and(super::devices::Device::is_failed) {
                self.break_pairs_of(slot);
            }
        }
        self.trees_pending = !self.deleted.is_empty();
        self.ask_again(turn);
        self.pairs_changed(turn);
        self.unpark(turn);
    }

    pub(super) fn take_saying(&mut self, saying: Saying, turn: &mut Turn<'_, impl Buffers>) {
        match saying {
            Saying::Reply { slot, asker: Asker::Request(op), result } => self.take_outcome(slot, op, result, turn),
            Saying::Reply { asker: Asker::Resync(id), result, .. } => self.take_asked_own(id, result, turn),
            Saying::Reply { slot, asker: Asker::Errand(errand), result } => self.take_errand(slot, errand, result, turn),
            Saying::Event { slot, event } => {
                self.take_event(slot, &event, turn);
                tell(slot, event, turn.out);
            }
        }
    }

    fn take_errand(&mut self, slot: DeviceSlot, errand: Errand, result: Result<Outcome, StoreError>, turn: &mut Turn<'_, impl Buffers>) {
        match (errand, result) {
            (Errand::Settle, Ok(_)) => self.device_open(slot, turn),
            (Errand::Settle, Err(error)) => self.device_failed(slot, format!("settling after recovery failed: {error}"), turn),
            (Errand::Reserve, result) => self.reserved(slot, result.is_ok(), turn),
            (Errand::Free, result) => self.tree_step_done(slot, result.is_ok(), turn),
            (Errand::Close, result) => self.device_closed(slot, result),
        }
    }

    fn take_event(&mut self, slot: DeviceSlot, event: &store::Event, turn: &mut Turn<'_, impl Buffers>) {
        match event {
            store::Event::Opening { done_per_mille } => {
                if let Some(device) = self.devices.get_mut(slot)
                    && matches!(device.state, State::Opening { .. })
                {
                    device.state = State::Opening { done_per_mille: *done_per_mille };
                }
            }
            store::Event::Opened(opened) => self.device_opened(slot, opened, turn),
            store::Event::OpenFailed(fault) => self.device_failed(slot, fault.to_string(), turn),
            store::Event::DeviceFailed { errno } => {
                let reason = format!("a write or flush failed with device error {errno}; replace the device or restart the server");
                self.device_failed(slot, reason, turn);
            }
            store::Event::DataMismatch { key, block } => {
                self.note(slot, *key, &format!("block {block}: the data does not match its checksum"));
            }
            store::Event::DescriptorMismatch { key } => self.note(slot, *key, "the descriptor page is damaged or lost"),
            store::Event::UnsettledKept { key, block } => {
                self.note(slot, *key, &format!("block {block}: bytes that no record names were kept after a power cut"));
            }
            store::Event::UnsettledDismissed { .. } | store::Event::StaleCompletion => {}
        }
    }

    fn note(&mut self, slot: DeviceSlot, key: ExtentKey, what: &str) {
        let place = match self.view.volume_of_tree(key.tree) {
            Some(volume) => format!("volume {} ({}) extent {} {what}", volume.id, volume.name, key.extent),
            None => format!("tree {} extent {} {what}", key.tree, key.extent),
        };
        if let Some(device) = self.devices.get_mut(slot) {
            device.note_fault(place);
        }
    }

    fn device_opened(&mut self, slot: DeviceSlot, opened: &store::Opened, turn: &mut Turn<'_, impl Buffers>) {
        if matches!(self.phase, Phase::Closing | Phase::Stopped) {
            // Too late to be closed with the others; it is as recovery found it.
            return;
        }
        let Some(device) = self.devices.get_mut(slot) else { return };
        device.uuid = opened.device;
        device.system = opened.system;
        device.ceiling = opened.sequence_ceiling;
        if opened.unsettled > 0 {
            device.state = State::Recovered;
            if self.phase == Phase::Running {
                turn.out.push(Effect::Register);
            }
            self.choose_settling(turn);
        } else {
            self.device_open(slot, turn);
        }
    }

    /// Devices that wait for that begin to settle: alone, if there has never been another copy of what they hold; else what is
    /// unsettled is left so until the copies compare, shard by shard (I8).
    fn choose_settling(&mut self, turn: &mut Turn<'_, impl Buffers>) {
        if self.view.version() == MapVersion::default() {
            return;
        }
        for slot in self.devices.slots() {
            let Some(device) = self.devices.get_mut(slot) else { continue };
            let (State::Recovered, Some(id)) = (&device.state, device.id) else { continue };
            device.state = State::Settling;
            device.is_unsettled = self.view.has_copies_elsewhere(id);
            let request = if device.is_unsettled { store::Request::SettleLater } else { store::Request::SettleAlone };
            self.devices.run(slot, Errand::Settle, request, turn);
        }
    }

    fn device_open(&mut self, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) {
        let Some(device) = self.devices.get_mut(slot) else { return };
        device.state = State::Open;
        if self.phase == Phase::Running {
            turn.out.push(Effect::Register);
        }
        self.look_again(turn);
    }

    fn device_failed(&mut self, slot: DeviceSlot, reason: String, turn: &mut Turn<'_, impl Buffers>) {
        let Some(device) = self.devices.get_mut(slot) else { return };
        device.state = State::Failed { reason };
        device.identify();
        device.reserving = None;
        device.freeing = None;
        turn.out.push(Effect::Register);
        self.break_pairs_of(slot);
        self.wake_unsequenced(slot, turn);
        self.look_again(turn);
    }

    fn device_closed(&mut self, slot: DeviceSlot, result: Result<Outcome, StoreError>) {
        let Some(device) = self.devices.get_mut(slot) else { return };
        device.state = match result {
            Ok(_) => State::Closed,
            Err(error) => State::Failed { reason: format!("closing failed: {error}") },
        };
    }

    fn reserved(&mut self, slot: DeviceSlot, done: bool, turn: &mut Turn<'_, impl Buffers>) {
        let Some(device) = self.devices.get_mut(slot) else { return };
        let Some(ceiling) = device.reserving.take() else { return };
        if done {
            device.ceiling = device.ceiling.max(ceiling);
            return self.wake_unsequenced(slot, turn);
        }
        // Not tried again for the same requests, so that a refusing store cannot keep a step going.
        while let Some(op) = self.devices.get_mut(slot).and_then(|device| device.unsequenced.pop_front()) {
            self.finish(op, Answer::Refused(Status::NotReady), turn);
        }
    }

    /// Sends those that wait for a sequence, or for room in the store of a failed device, on their way.
    fn wake_unsequenced(&mut self, slot: DeviceSlot, turn: &mut Turn<'_, impl Buffers>) {
        let Some(device) = self.devices.get_mut(slot) else { return };
        let failed = matches!(device.state, State::Failed { .. });
        while let Some(op) = device.unsequenced.pop_back() {
            device.queue.push_front(op);
        }
        if !failed {
            return self.pump(slot, turn);
        }
        while let Some(op) = self.devices.get_mut(slot).and_then(|device| device.queue.pop_front()) {
            self.resume(op, super::Stage::Queued, turn);
        }
    }
}
