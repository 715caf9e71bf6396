//! Gives back the space of deleted volumes.
//!
//! The MDM names the trees of deleted volumes until every device has said that it holds nothing of
//! them; so a tree is never freed because it is unknown, only because it was named. One tree at a time
//! a device: its extents are freed, then the records of that are made durable, then the MDM is told.
//! Invariant: no request on the tree is in the node when it is freed.

use super::devices::{Devices, Errand, Freeing, State};
use super::interface::{DeviceSlot, Effect};
use super::{Phase, Replica, Turn};
use crate::buffer::Buffers;
use crate::id::TreeId;
use crate::store::interface as store;

impl Replica {
    /// Starts what can be started; `false` when there is nothing to start.
    pub(super) fn continue_trees(&mut self, turn: &mut Turn<'_, impl Buffers>) -> bool {
        if !self.trees_pending || self.phase != Phase::Running {
            return false;
        }
        self.trees_pending = false;
        let mut started = false;
        for slot in self.devices.slots() {
            let Some(device) = self.devices.get(slot) else { continue };
            if device.state != State::Open || device.id.is_none() || device.freeing.is_some() {
                continue;
            }
            let mut wanted = self.deleted.iter().copied().filter(|tree| !device.freed.contains(tree));
            let Some(tree) = wanted.find(|tree| self.view.volume_of_tree(*tree).is_none()) else { continue };
            let asked = self.requests.iter().any(|(_, request)| request.route.is_some_and(|route| route.key.tree == tree));
            if asked || self.visits_tree(tree) {
                // Looked at again at the next step.
                self.trees_pending = true;
                continue;
            }
            if let Some(device) = self.devices.get_mut(slot) {
                device.freeing = Some(Freeing::Extents(tree));
            }
            self.devices.run(slot, Errand::Free, store::Request::FreeTree { tree }, turn);
            started = true;
        }
        started
    }

    /// A store has done a step of freeing, or could not.
    pub(super) fn tree_step_done(&mut self, slot: DeviceSlot, done: bool, turn: &mut Turn<'_, impl Buffers>) {
        let Some(device) = self.devices.get_mut(slot) else { return };
        match device.freeing.take() {
            // Tried again when the next view or registration comes.
            Some(Freeing::Extents(_) | Freeing::Flush(_)) if !done => {}
            Some(Freeing::Extents(tree)) => {
                device.freeing = Some(Freeing::Flush(tree));
                self.devices.run(slot, Errand::Free, store::Request::Flush, turn);
            }
            Some(Freeing::Flush(tree)) => {
                device.freed.push(tree);
                if let Some(device) = device.id {
                    turn.out.push(Effect::TreesFreed { device, trees: vec![tree] });
                }
                self.trees_pending = true;
            }
            // The device failed meanwhile.
            None => {}
        }
    }

    /// Tells (again) what has been freed.
    pub(super) fn tell_freed(&self, turn: &mut Turn<'_, impl Buffers>) {
        for device in self.devices.iter() {
            if let Some(id) = device.id
                && !device.freed.is_empty()
            {
                turn.out.push(Effect::TreesFreed { device: id, trees: device.freed.clone() });
            }
        }
    }
}

/// Forgets freed trees that the MDM has stopped naming.
pub(super) fn prune(devices: &mut Devices, deleted: &[TreeId]) {
    for device in devices.iter_mut() {
        device.freed.retain(|tree| deleted.contains(tree));
    }
}
