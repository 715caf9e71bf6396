//! The data server as a role on a loop: the replica machine and the bytes around it.
//!
//! Invariant: every decision is the machine's; here effects become requests and events become inputs.
//!
//! User data of a disk request: device slot in the top 16 bits, the machine's operation id below.

use crate::report::{FromRole, ToRole};
use crossbeam::queue::ArrayQueue;
use sds_core::collections::OpId;
use sds_core::id::SdsId;
use sds_core::machine::{DiskResult, LinkId, Outbox};
use sds_core::replica::Replica;
use sds_core::replica::interface::{DeviceSlot, Effect, Event, Input, ReplicaOptions};
use sds_core::store::interface::Event as StoreEvent;
use sds_core::unit::Nanos;
use sds_ring::{Address, Closed, DiskId, LinkEvent, Protocol, RingError, Role, StreamEvent, StreamId, Turn, Wake};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// `ECONNREFUSED`.
const CONNECTION_REFUSED: i32 = rustix::io::Errno::CONNREFUSED.raw_os_error();

/// Where the role listens, or why it cannot.
pub(crate) type Listening = Result<Address, RingError>;

/// What a role is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) options: ReplicaOptions,
    pub(crate) listen: Address,
    pub(crate) advertise: Vec<Address>,
    pub(crate) inbox: Arc<ArrayQueue<ToRole>>,
    pub(crate) outbox: Sender<FromRole>,
    pub(crate) listening: SyncSender<Listening>,
}

/// A data server on a loop. Made by [`crate::Prepared::attach`].
#[derive(Debug)]
pub struct SdsRole {
    parts: Parts,
    replica: Replica,
    effects: Outbox<Effect>,
    /// By slot.
    disks: Vec<Option<DiskId>>,
    /// Messages that did not fit the queue yet.
    backlog: VecDeque<FromRole>,
    /// Servers that are being connected to, and whether a refusal speaks for the server.
    connects: Vec<(SdsId, bool)>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Stopping,
    Stopped,
}

fn disk_tag(slot: DeviceSlot, op: OpId) -> u64 {
    (u64::from(slot.0) << OpId::BITS) | op.bits()
}

fn disk_of_tag(tag: u64) -> (DeviceSlot, OpId) {
    let slot = (tag >> OpId::BITS) as u16;
    (DeviceSlot(slot), OpId::from_bits(tag))
}

impl SdsRole {
    pub(crate) fn new(parts: Parts) -> Self {
        let replica = Replica::new(parts.options.clone());
        Self {
            parts,
            replica,
            effects: Outbox::new(),
            disks: Vec::new(),
            backlog: VecDeque::new(),
            connects: Vec::new(),
            state: State::Running,
        }
    }

    fn step(&mut self, cx: &mut Turn<'_>, input: Input<'_>) {
        self.replica.step(cx.now(), input, cx.pool(), &mut self.effects);
        if self.effects.is_empty() {
            return;
        }
        let Self { effects, disks, backlog, connects, parts, replica, state } = self;
        for effect in effects.drain() {
            match effect {
                Effect::DiskRead { slot, op, offset, span } => match disk(disks, slot) {
                    Some(disk) => cx.disk_read(disk, offset, span, disk_tag(slot, op)),
                    None => tracing::error!(slot = slot.0, "a read of a device that is not there"),
                },
                Effect::DiskWrite { slot, op, offset, span, durable } => match disk(disks, slot) {
                    Some(disk) => cx.disk_write(disk, offset, span, durable, disk_tag(slot, op)),
                    None => tracing::error!(slot = slot.0, "a write to a device that is not there"),
                },
                Effect::DiskFlush { slot, op } => match disk(disks, slot) {
                    Some(disk) => cx.disk_flush(disk, disk_tag(slot, op)),
                    None => tracing::error!(slot = slot.0, "a flush of a device that is not there"),
                },
                Effect::Send { link, frame } => cx.send_frame(link, &frame),
                Effect::Close { link } => cx.close_link(link),
                Effect::Connect { sds, addresses } => {
                    // Of several addresses only the last one's answer is told: the others may have kept silent.
                    connects.retain(|(other, _)| *other != sds);
                    connects.push((sds, addresses.len() == 1));
                    let addresses: Vec<Address> = addresses.iter().filter_map(|text| text.parse().ok()).collect();
                    cx.connect(Protocol::Frames, u64::from(sds.get()), addresses);
                }
                Effect::Propose { proposals } => backlog.push_back(FromRole::Propose(replica.devices(), proposals)),
                Effect::Register => backlog.push_back(FromRole::Register(replica.devices())),
                Effect::Confirm { version } => backlog.push_back(FromRole::Confirm(version)),
                Effect::Pull { at_least } => backlog.push_back(FromRole::Pull(at_least)),
                Effect::TreesFreed { device, trees } => backlog.push_back(FromRole::TreesFreed(device, trees)),
                Effect::Event(event) => {
                    if log(&parts.name, &event) {
                        *state = State::Stopped;
                        backlog.push_back(FromRole::Stopped);
                    }
                }
            }
        }
    }

    fn end_connect(&mut self, number: u64) -> Option<(SdsId, bool)> {
        let place = self.connects.iter().position(|(sds, _)| u64::from(sds.get()) == number)?;
        Some(self.connects.swap_remove(place))
    }

    fn take_messages(&mut self, cx: &mut Turn<'_>) {
        while let Some(message) = self.parts.inbox.pop() {
            match message {
                ToRole::AddDevice { slot, file, options } => match cx.add_disk(file) {
                    Ok(disk) => {
                        let index = usize::from(slot.0);
                        if self.disks.len() <= index {
                            self.disks.resize(index + 1, None);
                        }
                        self.disks[index] = Some(disk);
                        self.step(cx, Input::AddDevice { slot, options });
                    }
                    Err(error) => tracing::error!(node = self.parts.name, slot = slot.0, %error, "a device cannot be added"),
                },
                ToRole::Registered { system, sds, incarnation, devices } => {
                    self.step(cx, Input::Registered { system, sds, incarnation, devices: &devices });
                }
                ToRole::View(view) => self.step(cx, Input::View(&view)),
                ToRole::HandOver(shards) => self.step(cx, Input::HandOver { shards: &shards }),
                ToRole::Report => self.backlog.push_back(FromRole::Report(self.replica.devices())),
                ToRole::Stop => {
                    if self.state == State::Running {
                        self.state = State::Stopping;
                        self.step(cx, Input::Stop);
                    }
                }
            }
        }
    }
}

fn disk(disks: &[Option<DiskId>], slot: DeviceSlot) -> Option<DiskId> {
    disks.get(usize::from(slot.0)).copied().flatten()
}

impl Role for SdsRole {
    fn start(&mut self, cx: &mut Turn<'_>) {
        for address in &self.parts.advertise {
            cx.announce(address.clone());
        }
        let listening = cx.listen(&self.parts.listen, Protocol::Frames).map(|(_, bound)| bound);
        if listening.is_err() {
            self.state = State::Stopped;
        }
        // Nobody asks any more if the start was given up.
        let _ = self.parts.listening.send(listening);
    }

    fn on_disk(&mut self, cx: &mut Turn<'_>, tag: u64, result: DiskResult) {
        let (slot, op) = disk_of_tag(tag);
        self.step(cx, Input::Disk { slot, op, result });
    }

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        match event {
            LinkEvent::Linked { connect: None } => self.step(cx, Input::Linked { link }),
            LinkEvent::Linked { connect: Some(number) } => {
                if let Some((sds, _)) = self.end_connect(number) {
                    self.step(cx, Input::PeerLinked { sds, link });
                }
            }
            LinkEvent::Frame(frame) => self.step(cx, Input::Frame { link, frame }),
            LinkEvent::Unlinked { reason } => {
                if let Some(reason) = reason {
                    tracing::debug!(node = self.parts.name, link = link.get(), %reason, "link closed");
                }
                self.step(cx, Input::Unlinked { link });
            }
            LinkEvent::ConnectFailed { connect, reason } => {
                if let Some((sds, sole)) = self.end_connect(connect) {
                    let refused = sole && reason == Closed::Error { errno: CONNECTION_REFUSED };
                    tracing::debug!(node = self.parts.name, %sds, %reason, refused, "a peer cannot be reached");
                    self.step(cx, Input::PeerConnectFailed { sds, refused });
                }
            }
            // A data server asks for no pause: links that do not read are not read from.
            LinkEvent::Writable => {}
        }
    }

    fn on_stream(&mut self, cx: &mut Turn<'_>, stream: StreamId, _event: StreamEvent) {
        cx.close(stream);
    }

    fn on_wake(&mut self, cx: &mut Turn<'_>, wake: Wake) {
        match wake {
            Wake::Deadline | Wake::Buffers => self.step(cx, Input::Wake),
            Wake::Notified => self.take_messages(cx),
        }
    }

    fn end_of_turn(&mut self, _cx: &mut Turn<'_>) {
        while let Some(message) = self.backlog.pop_front() {
            match self.parts.outbox.try_send(message) {
                // The other side has ended: so will this one.
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(message)) => {
                    // The next report that is asked for brings the next turn.
                    self.backlog.push_front(message);
                    return;
                }
            }
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        self.replica.deadline()
    }

    fn stopped(&self) -> bool {
        self.state == State::Stopped && self.backlog.is_empty()
    }
}

/// Tells people; `true` if it was the end.
fn log(node: &str, event: &Event) -> bool {
    match event {
        Event::Store { slot, event } => log_store(node, slot.0, event),
        Event::LinkRefused { link, reason } => tracing::warn!(node, link = link.get(), reason, "link refused"),
        Event::PayloadDamaged { link } => tracing::warn!(node, link = link.get(), "a payload arrived damaged; it is asked for again"),
        Event::Resynced { slot, other, shards, bytes } => {
            tracing::info!(
                node,
                slot = slot.0,
                other = other.map(sds_core::id::DeviceId::get),
                shards,
                bytes,
                "shards are the same on both devices again"
            );
        }
        Event::ResyncRefused { slot, other, status } => {
            tracing::warn!(node, slot = slot.0, %other, ?status, "a copy cannot be brought up to date; tried again in 2 s");
        }
        Event::SettledInDoubt { key, unrecorded, lost } => tracing::error!(
            node,
            tree = key.tree.get(),
            extent = key.extent.get(),
            unrecorded,
            lost,
            "settling an extent: blocks kept whose bytes no record names, and blocks of which no copy has good bytes (reads of these fail until they are written)"
        ),
        Event::Repaired { key, blocks, lost } => tracing::warn!(
            node,
            tree = key.tree.get(),
            extent = key.extent.get(),
            blocks,
            lost,
            "damaged blocks were repaired from the other copy; those that are lost there too fail to be read until they are written"
        ),
        Event::ExtentGivenUp { key } => tracing::error!(
            node,
            tree = key.tree.get(),
            extent = key.extent.get(),
            "one copy's description of the extent is lost; the other copy replaces it"
        ),
        Event::DeviceHung { slot, hung: true, age } => tracing::error!(
            node,
            slot = slot.0,
            age_ms = age.get() / 1_000_000,
            "a disk request does not end: the device's shards go on without it where they have another copy, and wait for it where not"
        ),
        Event::DeviceHung { slot, hung: false, .. } => {
            tracing::warn!(node, slot = slot.0, "the disk answers again: the device is given what it missed");
        }
        Event::Stopped => return true,
    }
    false
}

fn log_store(node: &str, slot: u16, event: &StoreEvent) {
    match event {
        StoreEvent::Opening { done_per_mille } => tracing::info!(node, slot, done_per_mille, "opening device"),
        StoreEvent::Opened(opened) => tracing::info!(
            node,
            slot,
            device = %opened.device,
            system = %opened.system,
            unsettled = opened.unsettled,
            power_lost = opened.power_lost,
            "device is open"
        ),
        StoreEvent::OpenFailed(fault) => tracing::error!(node, slot, %fault, "device cannot be opened"),
        StoreEvent::DataMismatch { key, block } => {
            tracing::error!(node, slot, ?key, block, "a data block is not what was written; it reads as an error");
        }
        StoreEvent::DescriptorMismatch { key } => {
            tracing::error!(node, slot, ?key, "a descriptor page is damaged or lost; its extent reads as an error");
        }
        StoreEvent::UnsettledKept { key, block } => {
            tracing::warn!(node, slot, ?key, block, "bytes of an unfinished write were kept though no record names them");
        }
        StoreEvent::UnsettledDismissed { key, block } => {
            tracing::debug!(node, slot, ?key, block, "a first write never landed; the block is unwritten again");
        }
        StoreEvent::DeviceFailed { errno } => tracing::error!(node, slot, errno, "the device failed and is given up"),
        StoreEvent::StaleCompletion => tracing::warn!(node, slot, "a completion that the store did not wait for"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_tag_names_device_and_operation() {
        let op = OpId::from_bits(0xffff_1234_5678);
        for slot in [0, 63, u16::MAX] {
            assert_eq!(disk_of_tag(disk_tag(DeviceSlot(slot), op)), (DeviceSlot(slot), op));
        }
    }
}
