//! A data server that keeps its extents in memory and answers at once.

use super::FakeMdm;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::error::Status;
use sds_core::id::ExtentIndex;
use sds_core::machine::{DiskResult, LinkId};
use sds_core::unit::{EXTENT_BYTES, Nanos};
use sds_core::wire::{BLOCK_STATUS_BYTES, Body, CacheId, CacheIds, Flags, Frame, Header, Opcode};
use sds_ring::{Address, LinkEvent, Protocol, Role, StreamEvent, StreamId, Turn, Wake, Waker};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

/// What survives a server's end.
#[derive(Default)]
pub struct Store {
    extents: Mutex<HashMap<ExtentIndex, Vec<u8>>>,
    pub flushes: AtomicU64,
    pub requests: AtomicU64,
}

pub struct FakeSds {
    address: Address,
    store: Arc<Store>,
    mdm: FakeMdm,
    listening: mpsc::Sender<Address>,
    stop: Arc<AtomicBool>,
    stopped: bool,
    /// Requests that wait for a buffer for their answer.
    starved: VecDeque<(LinkId, Frame)>,
}

pub struct Handle {
    address: mpsc::Receiver<Address>,
    stop: Arc<AtomicBool>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Handle {
    /// Where it listens; once.
    pub fn address(&self) -> Address {
        self.address.recv().expect("listens")
    }

    pub fn waker(&self) -> Arc<Mutex<Option<Waker>>> {
        self.waker.clone()
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.waker.lock().expect("not poisoned").as_ref().expect("runs").wake();
    }
}

impl FakeSds {
    pub fn new(address: Address, store: Arc<Store>, mdm: FakeMdm) -> (Self, Handle) {
        let (listening, receiver) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let handle = Handle { address: receiver, stop: stop.clone(), waker: Arc::default() };
        (Self { address, store, mdm, listening, stop, stopped: false, starved: VecDeque::new() }, handle)
    }

    /// The answer, or `None` while there is no buffer for it.
    fn answer(&self, frame: &Frame, cx: &mut Turn<'_>) -> Option<Frame> {
        let header = frame.header;
        let range = header.offset as usize..(header.offset + header.length) as usize;
        let reply = |opcode, status| Frame::bare(Header { opcode, status, flags: Flags::NONE, ..header });
        let answer_to = match header.opcode {
            Opcode::Hello => return Some(Frame::bare(Header { opcode: Opcode::HelloReply, length: 1, ..header })),
            Opcode::Read => Opcode::ReadReply,
            Opcode::Flush => Opcode::FlushReply,
            Opcode::BlockStatus => Opcode::BlockStatusReply,
            Opcode::Write | Opcode::WriteFragment | Opcode::Zero => Opcode::WriteReply,
            other => panic!("a client does not send {other:?}"),
        };
        if !self.mdm.allows(header.generation) {
            return Some(reply(answer_to, Status::Fenced));
        }
        self.store.requests.fetch_add(1, Ordering::Relaxed);
        let mut extents = self.store.extents.lock().expect("not poisoned");
        let extent = extents.entry(header.extent).or_insert_with(|| vec![0; EXTENT_BYTES as usize]);
        match header.opcode {
            Opcode::Write | Opcode::WriteFragment => {
                let Body::Payload { span, checksums } = frame.body else { panic!("a write has bytes") };
                let bytes = cx.pool().bytes(span);
                assert!(checksums.match_blocks(bytes));
                extent[range].copy_from_slice(bytes);
            }
            Opcode::Zero => extent[range].fill(0),
            Opcode::Read => {
                if extent[range.clone()].iter().all(|byte| *byte == 0) {
                    return Some(Frame::bare(Header { opcode: Opcode::ReadReply, flags: Flags::ALL_ZERO, ..header }));
                }
                return with_bytes(Header { opcode: Opcode::ReadReply, ..header }, &extent[range], cx);
            }
            Opcode::BlockStatus => {
                let mut set = [0; BLOCK_STATUS_BYTES as usize];
                for (block, bytes) in extent.chunks(4096).enumerate() {
                    set[block / 8] |= u8::from(bytes.iter().any(|byte| *byte != 0)) << (block % 8);
                }
                return with_bytes(Header { opcode: Opcode::BlockStatusReply, ..header }, &set, cx);
            }
            _ => {
                self.store.flushes.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut done = reply(answer_to, Status::Ok);
        if answer_to == Opcode::WriteReply {
            done.cache_ids = CacheIds::one(CacheId { device: header.device, boot: 1 });
        }
        Some(done)
    }

    fn serve(&mut self, link: LinkId, frame: &Frame, cx: &mut Turn<'_>) {
        let Some(answer) = self.answer(frame, cx) else { return self.starved.push_back((link, *frame)) };
        if let Body::Payload { span, .. } = frame.body {
            cx.pool().release(span.buffer);
        }
        cx.send_frame(link, &answer);
    }
}

fn with_bytes(header: Header, bytes: &[u8], cx: &mut Turn<'_>) -> Option<Frame> {
    let len = u32::try_from(bytes.len()).expect("a frame's payload");
    let buffer = cx.pool().allocate(BufferClass::Internal, len)?;
    let span = Span::whole(buffer, len);
    cx.pool().bytes_mut(span).copy_from_slice(bytes);
    Some(Frame::with_payload(header, span, ChecksumList::of_blocks(bytes)))
}

impl Role for FakeSds {
    fn start(&mut self, cx: &mut Turn<'_>) {
        let (_, bound) = cx.listen(&self.address, Protocol::Frames).expect("listens");
        self.listening.send(bound).expect("the test waits");
    }

    fn on_disk(&mut self, _: &mut Turn<'_>, _: u64, _: DiskResult) {}

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        if let LinkEvent::Frame(frame) = event {
            self.serve(link, frame, cx);
        }
    }

    fn on_stream(&mut self, _: &mut Turn<'_>, _: StreamId, _: StreamEvent) {}

    fn on_wake(&mut self, cx: &mut Turn<'_>, _: Wake) {
        for _ in 0..self.starved.len() {
            if let Some((link, frame)) = self.starved.pop_front() {
                self.serve(link, &frame, cx);
            }
        }
        self.stopped |= self.stop.load(Ordering::SeqCst);
    }

    fn end_of_turn(&mut self, _: &mut Turn<'_>) {}

    fn deadline(&self) -> Option<Nanos> {
        None
    }

    fn stopped(&self) -> bool {
        self.stopped
    }
}
