//! Devices on their way in, each on a thread of its own: opening may wait for a lock, writing once may
//! take minutes, formatting may wait for the MDM to name the system.
//!
//! Invariant: a device is formatted only once the system is known.

use crate::config::{DeviceConfig, NodeConfig};
use crate::device::{self, Content, DeviceError};
use sds_core::id::SystemId;
use sds_core::replica::interface::DeviceSlot;
use sds_core::unit::ByteCount;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tokio::sync::mpsc::Sender;

/// The system, once it is known.
#[derive(Debug, Default)]
pub(super) struct SystemCell {
    inner: Mutex<Cell>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    system: Option<SystemId>,
    stopped: bool,
}

impl SystemCell {
    fn with<T>(&self, act: impl FnOnce(&mut Cell) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn get(&self) -> Option<SystemId> {
        self.with(|cell| cell.system)
    }

    /// The first to know it says it.
    pub(super) fn set(&self, system: SystemId) {
        self.with(|cell| {
            cell.system.get_or_insert(system);
        });
        self.changed.notify_all();
    }

    /// Makes everything that waits give up.
    pub(super) fn stop(&self) {
        self.with(|cell| cell.stopped = true);
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.with(|cell| cell.stopped)
    }

    /// Waits until it is known; `None` when stopped.
    fn wait(&self) -> Option<SystemId> {
        let mut cell = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if cell.stopped {
                return None;
            }
            if cell.system.is_some() {
                return cell.system;
            }
            cell = self.changed.wait(cell).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A device that its store can be opened on.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) file: OwnedFd,
    pub(super) bytes: ByteCount,
    pub(super) volatile_cache: bool,
}

/// What has become of a device.
#[derive(Debug)]
pub(super) enum Brought {
    /// It has been looked at; its system, if it holds a store to be kept.
    LookedAt { slot: DeviceSlot, system: Option<SystemId> },
    /// It is being written once.
    Progress { slot: DeviceSlot, done_per_mille: u16 },
    /// It can be opened.
    Ready { slot: DeviceSlot, ready: Ready },
    /// It cannot be used.
    Failed { slot: DeviceSlot, error: DeviceError },
}

impl Brought {
    pub(super) const fn slot(&self) -> DeviceSlot {
        match self {
            Self::LookedAt { slot, .. } | Self::Progress { slot, .. } | Self::Ready { slot, .. } | Self::Failed { slot, .. } => *slot,
        }
    }
}

/// Starts a thread for each device.
pub(super) fn start(config: &NodeConfig, system: &Arc<SystemCell>, out: &Sender<Brought>) {
    for (device, slot) in config.devices.iter().zip(0_u16..) {
        let (device, system, out) = (device.clone(), system.clone(), out.clone());
        let slot = DeviceSlot(slot);
        let failed = out.clone();
        let path = device.path.clone();
        let body = move || {
            let brought = match bring(slot, &device, &system, &out) {
                Ok(ready) => Brought::Ready { slot, ready },
                Err(error) => Brought::Failed { slot, error },
            };
            // The control task has ended if nobody takes it.
            let _ = out.blocking_send(brought);
        };
        if let Err(source) = std::thread::Builder::new().name(format!("sds-device-{}", slot.0)).spawn(body) {
            let error = DeviceError::Io { path, what: "starting a thread for it", source };
            let _ = failed.try_send(Brought::Failed { slot, error });
        }
    }
}

fn bring(slot: DeviceSlot, config: &DeviceConfig, system: &SystemCell, out: &Sender<Brought>) -> Result<Ready, DeviceError> {
    let stopped = || DeviceError::Stopped { path: config.path.clone() };
    let mut opened = device::open(config, &|| system.is_stopped())?;
    let content = device::judge(&opened, config)?;
    let kept = match content {
        Content::Ours(system) => Some(system),
        Content::Blank | Content::Condemned(_) => None,
    };
    let _ = out.blocking_send(Brought::LookedAt { slot, system: kept });
    let format = match content {
        Content::Ours(_) => None,
        Content::Blank => {
            let mut logged = 0;
            device::write_once(&mut opened, config, &mut |done_per_mille| {
                if done_per_mille / 100 > logged {
                    logged = done_per_mille / 100;
                    tracing::info!(device = %config.path.display(), percent = done_per_mille / 10, "writing the file once");
                }
                // A report that does not fit is followed by another.
                let _ = out.try_send(Brought::Progress { slot, done_per_mille });
                !system.is_stopped()
            })?;
            Some(system.wait().ok_or_else(stopped)?)
        }
        Content::Condemned(found) => {
            let ours = system.wait().ok_or_else(stopped)?;
            if found == Some(ours) {
                None
            } else {
                tracing::warn!(device = %config.path.display(), "format = \"force\": what the device holds is lost now");
                device::write_once(&mut opened, config, &mut |_| !system.is_stopped())?;
                Some(ours)
            }
        }
    };
    if let Some(ours) = format {
        device::format(&opened, config, ours, crate::identity::boot())?;
    }
    let volatile_cache = super::volatile_cache(config.volatile_cache, opened.medium.volatile_cache);
    Ok(Ready { bytes: opened.bytes, volatile_cache, file: opened.file.into() })
}
