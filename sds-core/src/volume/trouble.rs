//! Devices that do not serve although their server answers, and when that was told.
//!
//! Invariants: a failed device is told once, until it serves again; one that only has requests wait is
//! told when that lasts, and then once in a while. Bounded by the devices of the system.
//!
//! Must not know: what is asked of a device.

use super::interface::{Effect, Event};
use super::route::{TELL_EVERY, TELL_FIRST};
use super::server::ServerIndex;
use super::topology::DeviceIndex;
use super::{Client, Turn};
use crate::collections::{Map, OpId};
use crate::unit::Nanos;

#[derive(Clone, Copy, Debug)]
enum Trouble {
    /// Its server says `NotReady`; when to tell.
    NotReady { tell_at: Nanos },
    /// Told.
    Failed,
}

#[derive(Debug, Default)]
pub(super) struct Troubles {
    devices: Map<DeviceIndex, Trouble>,
}

impl Client {
    /// A server lets a request wait. It is asked again before long, so no timer is needed.
    pub(super) fn note_not_ready<B>(&mut self, id: OpId, server: ServerIndex, turn: &mut Turn<'_, B>) {
        let Some(device) = self.exchanges.get(id).map(|exchange| exchange.device) else { return };
        let first = Trouble::NotReady { tell_at: turn.now.plus(TELL_FIRST) };
        let trouble = self.troubles.devices.entry(device).or_insert(first);
        match *trouble {
            Trouble::NotReady { tell_at } if turn.now >= tell_at => {
                *trouble = Trouble::NotReady { tell_at: turn.now.plus(TELL_EVERY) };
                let (device, sds) = (self.topology.device_id(device), self.servers.get(server).id);
                turn.out.push(Effect::Event(Event::DeviceNotReady { device, sds }));
            }
            Trouble::NotReady { .. } => {}
            // Its server has been started again.
            Trouble::Failed => *trouble = first,
        }
    }

    /// A device has failed.
    pub(super) fn note_failed<B>(&mut self, id: OpId, server: ServerIndex, turn: &mut Turn<'_, B>) {
        let Some(device) = self.exchanges.get(id).map(|exchange| exchange.device) else { return };
        if !matches!(self.troubles.devices.insert(device, Trouble::Failed), Some(Trouble::Failed)) {
            let (device, sds) = (self.topology.device_id(device), self.servers.get(server).id);
            turn.out.push(Effect::Event(Event::DeviceFailed { device, sds }));
        }
    }

    /// A device has done what it was asked.
    pub(super) fn note_serves(&mut self, id: OpId) {
        if self.troubles.devices.is_empty() {
            return;
        }
        if let Some(exchange) = self.exchanges.get(id) {
            self.troubles.devices.remove(&exchange.device);
        }
    }
}
