//! Disk requests of the servers, on their way to the device and back.

use super::hurt::Hurting;
use super::{Event, World};
use crate::atlas::BlockKey;
use crate::canary::Canary;
use crate::disk::{Fate, Operation, Piece, Request, RequestNumber};
use crate::history::{Mark, Moment};
use crate::world::server::Fake;
use sds_core::buffer::Span;
use sds_core::collections::OpId;
use sds_core::machine::DiskResult;
use sds_core::replica::interface::{DeviceSlot, Input};
use sds_core::unit::{BLOCK_BYTES, ByteOffset};

/// The life of requests that were answered before they were done (a canary).
pub(super) const GHOST_LIFE: u64 = u64::MAX;

/// A block whose newest write was acknowledged and not done. What its device holds is an older content,
/// which settling alone may take for the right one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LostBlock {
    pub(super) disk: usize,
    pub(super) block: BlockKey,
    pub(super) since: Moment,
}

/// What a server asks of a device.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Read { offset: ByteOffset, span: Span },
    Write { offset: ByteOffset, span: Span, durable: bool },
    Flush,
}

impl World {
    pub(super) fn ask_disk(&mut self, server: usize, slot: DeviceSlot, op: OpId, ask: Ask) {
        let process = self.servers[server].process;
        let life = self.processes[process.0].life;
        let Some(number) = self.servers[server].disks.get(usize::from(slot.0)).copied() else {
            return self.violate(format!("server {server} uses device slot {}, which it does not have", slot.0));
        };
        let (first, len) = match ask {
            Ask::Read { offset, span } | Ask::Write { offset, span, .. } => match self.disks[number].place(offset, span.len) {
                Ok(first) => (first, span.len),
                Err(story) => return self.violate(format!("server {server}: {story}")),
            },
            Ask::Flush => (0, 0),
        };
        let now = self.now();
        self.trace.note(now, &[3, server as u64, op.bits(), first, u64::from(len)], || {
            let what = match ask {
                Ask::Read { .. } => "reads",
                Ask::Write { durable: true, .. } => "writes durably",
                Ask::Write { durable: false, .. } => "writes",
                Ask::Flush => "flushes",
            };
            format!("server {server} disk {number} op {:x} {what} {} pieces from {first}", op.bits(), len / BLOCK_BYTES)
        });
        let buffers = &mut self.processes[process.0].buffers;
        let mut request = Request { op, life, first, len, operation: Operation::Read, pin: None, fate: Fate::Well, orphaned: false };
        match ask {
            Ask::Read { span, .. } => request.pin = Some(buffers.begin_filling(span)),
            Ask::Write { span, durable, .. } => {
                let pieces: Vec<Box<Piece>> = buffers
                    .peek(span)
                    .chunks_exact(BLOCK_BYTES as usize)
                    .map(|piece| Box::new(piece.try_into().expect("exact chunks")))
                    .collect();
                request.pin = Some(buffers.begin_reading(span));
                self.await_blow(process, durable);
                let durable = durable && self.canary != Some(Canary::DurableFlagDropped);
                request.operation = Operation::Write { pieces, durable };
            }
            Ask::Flush => request.operation = Operation::Flush { order: self.disks[number].medium().completed() },
        }
        request.fate = self.fate_of(server, number, &request);
        if self.canary == Some(Canary::FlushIgnored) && matches!(ask, Ask::Flush) {
            request.operation = Operation::Flush { order: 0 };
        }
        if self.canary == Some(Canary::AcknowledgedEarly) && matches!(ask, Ask::Write { .. }) {
            let fake = Fake { slot, op, pin: request.pin.take() };
            request.life = GHOST_LIFE;
            self.schedule.after(1_000, Event::FakeDone { server, life, fake });
        }
        let (request, time) = self.disks[number].submit(request);
        let at = self.now().plus(time).max(self.disks[number].held_until());
        self.schedule.at(at, Event::Disk { disk: number, number: request });
        let faults = self.disks[number].take_faults();
        if self.canary != Some(Canary::AcknowledgedEarly) {
            for fault in faults {
                self.violate(format!("server {server} disk {number}: {fault}"));
            }
        }
    }

    /// A disk request ends: the device changes now; its process hears of it when it is not paused.
    pub(super) fn disk_done(&mut self, disk: usize, number: RequestNumber) {
        let server = self.server_of_disk(disk);
        let process = self.servers[server].process;
        if self.processes[process.0].paused_until > self.now() {
            // The kernel is done, and nobody looks; for the machine that is the same as a slow disk.
            let until = self.processes[process.0].paused_until;
            return self.schedule.at(until, Event::Disk { disk, number });
        }
        if let Some(to) = self.disks[disk].misdirected_to(number) {
            // What lies there now may have come since the fault was planted.
            let mut piece: Piece = [0; BLOCK_BYTES as usize];
            self.disks[disk].medium().read(to, &mut piece);
            if let Some(block) = self.atlas.identify(&piece) {
                self.hurt(disk, block, Hurting::Written);
            }
        }
        let Some((request, result)) = self.disks[disk].complete(number) else { return };
        if request.orphaned || request.life == GHOST_LIFE || !self.is_alive(process, request.life) {
            return;
        }
        let slot = self.slot_of_disk(server, disk);
        let buffers = &mut self.processes[process.0].buffers;
        if let Some(pin) = request.pin {
            if matches!(request.operation, Operation::Read) && result == DiskResult::Done {
                let medium = self.disks[disk].medium();
                buffers.fill(pin, |bytes| {
                    for (index, piece) in bytes.chunks_exact_mut(BLOCK_BYTES as usize).enumerate() {
                        medium.read(request.first + index as u64, piece);
                    }
                    if let Fate::WrongBit { bit } = request.fate {
                        bytes[usize::try_from(bit / 8).expect("inside the request")] ^= 1 << (bit % 8);
                    }
                });
            }
            buffers.end(pin);
        }
        if result != DiskResult::Done {
            let now = self.now();
            self.trace.tell(now, || format!("server {server} disk {disk} op {:x} fails: {result:?}", request.op.bits()));
        }
        if result != DiskResult::Done {
            self.doomed.remove(&disk);
        }
        let counted = (result != DiskResult::Done).then(|| self.io_errors_of(server, slot)).flatten();
        self.step_server(server, Input::Disk { slot, op: request.op, result });
        if counted.is_some() && self.io_errors_of(server, slot) == counted {
            self.violate(format!(
                "server {server} disk {disk} op {:x} failed ({result:?}), and its store took it for done",
                request.op.bits()
            ));
        }
    }

    /// Disk requests that a store has seen fail; `None` when its server is gone.
    fn io_errors_of(&self, server: usize, slot: DeviceSlot) -> Option<u64> {
        let devices = self.servers[server].machine.as_ref()?.devices();
        devices.iter().find(|device| device.slot == slot).map(|device| device.faults.io_errors)
    }

    /// The shell says that a request is done which is not (a canary).
    pub(super) fn fake_done(&mut self, server: usize, life: u64, fake: &Fake) {
        let Fake { slot, op, pin } = *fake;
        let process = self.servers[server].process;
        if !self.is_alive(process, life) {
            return;
        }
        if let Some(pin) = pin {
            self.processes[process.0].buffers.end(pin);
        }
        self.step_server(server, Input::Disk { slot, op, result: DiskResult::Done });
    }

    pub(super) fn server_of_disk(&self, disk: usize) -> usize {
        self.servers.iter().position(|server| server.disks.contains(&disk)).expect("every disk has a server")
    }

    fn slot_of_disk(&self, server: usize, disk: usize) -> DeviceSlot {
        let slot = self.servers[server].disks.iter().position(|known| *known == disk).expect("it is this server's");
        DeviceSlot(u16::try_from(slot).expect("few devices"))
    }

    /// Tries to open a device: its lock may still be held by requests of the process's former life.
    pub(super) fn open_device(&mut self, server: usize, life: u64, slot: usize) {
        let process = self.servers[server].process;
        if !self.is_alive(process, life) {
            return;
        }
        let disk = self.servers[server].disks[slot];
        if self.disks[disk].is_locked() {
            return self.schedule.after(5_000_000, Event::OpenDevice { server, life, slot });
        }
        let options = self.store_options(server, disk);
        let slot_number = DeviceSlot(u16::try_from(slot).expect("few devices"));
        self.step_server(server, Input::AddDevice { slot: slot_number, options });
    }

    /// A store has opened: first writes that a fault had lost may have become unwritten blocks.
    pub(super) fn device_opened(&mut self, disk: usize) {
        let lost: Vec<BlockKey> = self.lost_blocks.iter().filter(|lost| lost.disk == disk).map(|lost| lost.block).collect();
        for (volume, lba) in lost {
            self.mark(Mark::Kept { volume, lba });
        }
    }
}
