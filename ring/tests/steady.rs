//! What a loop costs once it runs: nothing is allocated and no page is touched anew for a request, and
//! an idle loop makes no turns.
#![allow(unsafe_code, reason = "page faults of a thread are asked of libc")]

mod counting;

use counting::allocations;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::machine::{DiskResult, LinkId};
use sds_core::unit::{ByteOffset, Nanos};
use sds_core::wire::{Body, Flags, Frame, Header, Opcode};
use sds_ring::{Address, DiskId, LinkEvent, LoopOptions, PoolOptions, Protocol, RingError, Role, StreamEvent, StreamId, Turn, Wake, spawn};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc;
use std::time::Duration;

/// Minor faults of this thread so far.
fn faults() -> i64 {
    // SAFETY: all-zero is a valid `rusage`, and the call fills it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `rusage` of our own.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) }, 0);
    usage.ru_minflt
}

#[derive(Clone, Copy, Debug)]
struct Cost {
    requests: u64,
    allocations: u64,
    faults: i64,
    enters: u64,
}

/// Answers reads and writes from a disk.
struct Server {
    file: Option<std::os::fd::OwnedFd>,
    disk: Option<DiskId>,
    listen: Address,
    requests: Vec<Option<(LinkId, Header, Span)>>,
    free: Vec<usize>,
    ended: bool,
}

impl Role for Server {
    fn start(&mut self, cx: &mut Turn<'_>) {
        self.disk = self.file.take().and_then(|file| cx.add_disk(file).ok());
        cx.listen(&self.listen, Protocol::Frames).expect("free");
    }

    fn on_disk(&mut self, cx: &mut Turn<'_>, tag: u64, result: DiskResult) {
        assert_eq!(result, DiskResult::Done);
        let slot = usize::try_from(tag).expect("small");
        let (link, mut header, span) = self.requests[slot].take().expect("in flight");
        self.free.push(slot);
        if header.opcode == Opcode::Read {
            header.opcode = Opcode::ReadReply;
            let checksums = ChecksumList::of_blocks(cx.pool().bytes(span));
            cx.send_frame(link, &Frame::with_payload(header, span, checksums));
        } else {
            header.opcode = Opcode::WriteReply;
            header.flags = Flags::NONE;
            cx.pool().release(span.buffer);
            cx.send_frame(link, &Frame::bare(header));
        }
    }

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        self.ended |= matches!(event, LinkEvent::Unlinked { .. });
        let (LinkEvent::Frame(frame), Some(disk)) = (event, self.disk) else { return };
        let slot = self.free.pop().expect("bounded by the client");
        let offset = ByteOffset::new(frame.header.request.get() % 64 * 131_072);
        let span = match &frame.body {
            Body::Payload { span, .. } => {
                cx.disk_write(disk, offset, *span, false, slot as u64);
                *span
            }
            Body::Empty | Body::Hello(_) => {
                let len = frame.header.length;
                let span = Span::whole(cx.pool().allocate(BufferClass::Client, len).expect("a buffer"), len);
                cx.disk_read(disk, offset, span, slot as u64);
                span
            }
        };
        self.requests[slot] = Some((link, frame.header, span));
    }

    fn on_stream(&mut self, _cx: &mut Turn<'_>, _stream: StreamId, _event: StreamEvent) {}
    fn on_wake(&mut self, _cx: &mut Turn<'_>, _wake: Wake) {}
    fn end_of_turn(&mut self, _cx: &mut Turn<'_>) {}
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    fn stopped(&self) -> bool {
        self.ended
    }
}

const DEPTH: usize = 32;
const WARM_UP: u64 = 4_000;
const MEASURED: u64 = 8_000;

/// Keeps 32 requests of mixed kinds going, and notes what its thread has cost.
struct Client {
    server: Address,
    sent: u64,
    done: u64,
    before: Option<Cost>,
    report: mpsc::Sender<Cost>,
    ended: bool,
}

impl Client {
    fn cost(&self, cx: &Turn<'_>) -> Cost {
        Cost { requests: self.done, allocations: allocations(), faults: faults(), enters: cx.enters() }
    }

    fn send(&mut self, cx: &mut Turn<'_>, link: LinkId) {
        let request = self.sent;
        self.sent += 1;
        let len = if request.is_multiple_of(16) { 131_072 } else { 4096 };
        let mut header = Header::new(if request.is_multiple_of(2) { Opcode::Write } else { Opcode::Read });
        header.length = len;
        header.request = sds_core::id::RequestId::new(request);
        let frame = if header.opcode == Opcode::Write {
            let span = Span::whole(cx.pool().allocate(BufferClass::Client, len).expect("a buffer"), len);
            Frame::with_payload(header, span, ChecksumList::of_blocks(cx.pool().bytes(span)))
        } else {
            Frame::bare(header)
        };
        cx.send_frame(link, &frame);
    }
}

impl Role for Client {
    fn start(&mut self, cx: &mut Turn<'_>) {
        cx.connect(Protocol::Frames, 0, vec![self.server.clone()]);
    }

    fn on_disk(&mut self, _cx: &mut Turn<'_>, _tag: u64, _result: DiskResult) {}

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        match event {
            LinkEvent::Linked { .. } => {
                for _ in 0..DEPTH {
                    self.send(cx, link);
                }
            }
            LinkEvent::Frame(frame) => {
                if let Body::Payload { span, checksums } = &frame.body {
                    assert!(checksums.match_blocks(cx.pool().bytes(*span)));
                    cx.pool().release(span.buffer);
                }
                self.done += 1;
                if self.done == WARM_UP {
                    self.before = Some(self.cost(cx));
                }
                if let (Some(before), true) = (self.before, self.done == WARM_UP + MEASURED) {
                    let now = self.cost(cx);
                    let cost = Cost {
                        requests: now.requests - before.requests,
                        allocations: now.allocations - before.allocations,
                        faults: now.faults - before.faults,
                        enters: now.enters - before.enters,
                    };
                    self.report.send(cost).expect("the test waits");
                    self.ended = true;
                    return;
                }
                self.send(cx, link);
            }
            LinkEvent::Unlinked { reason: None } if self.ended => {}
            other => panic!("{other:?}"),
        }
    }

    fn on_stream(&mut self, _cx: &mut Turn<'_>, _stream: StreamId, _event: StreamEvent) {}
    fn on_wake(&mut self, _cx: &mut Turn<'_>, _wake: Wake) {}
    fn end_of_turn(&mut self, _cx: &mut Turn<'_>) {}
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    fn stopped(&self) -> bool {
        self.ended
    }
}

fn steady_state(by_socket: bool) -> Cost {
    let temp = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    std::fs::write(temp.path(), vec![1; 64 * 131_072]).expect("room");
    let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(temp.path()).expect("opens");
    let directory = tempfile::tempdir().expect("a directory");
    let listen: Address = format!("unix:{}/socket", directory.path().display()).parse().expect("an address");
    // By another name the server is not known to be on the same loop.
    let alias = directory.path().join("alias");
    std::os::unix::fs::symlink(directory.path().join("socket"), &alias).expect("linked");
    let server = if by_socket { format!("unix:{}", alias.display()).parse().expect("an address") } else { listen.clone() };
    let (report, receiver) = mpsc::channel();
    let options = LoopOptions { pool: PoolOptions { bytes: 32 << 20, ..PoolOptions::default() }, ..LoopOptions::default() };
    let (thread, ()) = spawn("steady", options, move |on| {
        on.add_role(|_| Server {
            file: Some(file.into()),
            disk: None,
            listen,
            requests: vec![None; DEPTH],
            free: (0..DEPTH).collect(),
            ended: false,
        })?;
        on.add_role(|_| Client { server, sent: 0, done: 0, before: None, report, ended: false })?;
        Ok::<_, RingError>(())
    })
    .expect("a loop");
    let cost = receiver.recv_timeout(Duration::from_secs(60)).expect("requests are answered");
    thread.join().expect("in order");
    cost
}

#[test]
fn a_request_over_a_socket_allocates_nothing_and_faults_nothing() {
    let cost = steady_state(true);
    assert_eq!(cost.allocations, 0, "{cost:?}");
    assert!(cost.faults < 8, "{cost:?}");
    assert!(cost.enters < cost.requests * 2, "{cost:?}");
}

#[test]
fn a_request_inside_a_loop_allocates_nothing_and_faults_nothing() {
    let cost = steady_state(false);
    assert_eq!(cost.allocations, 0, "{cost:?}");
    assert!(cost.faults < 8, "{cost:?}");
    assert!(cost.enters < cost.requests, "{cost:?}");
}

/// Does nothing until it is told to end.
struct Idle {
    stop: mpsc::Receiver<()>,
    ended: bool,
}

impl Role for Idle {
    fn start(&mut self, _cx: &mut Turn<'_>) {}
    fn on_disk(&mut self, _cx: &mut Turn<'_>, _tag: u64, _result: DiskResult) {}
    fn on_link(&mut self, _cx: &mut Turn<'_>, _link: LinkId, _event: LinkEvent<'_>) {}
    fn on_stream(&mut self, _cx: &mut Turn<'_>, _stream: StreamId, _event: StreamEvent) {}
    fn on_wake(&mut self, _cx: &mut Turn<'_>, _wake: Wake) {
        self.ended = self.stop.try_recv().is_ok();
    }
    fn end_of_turn(&mut self, _cx: &mut Turn<'_>) {}
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    fn stopped(&self) -> bool {
        self.ended
    }
}

#[test]
fn an_idle_loop_makes_no_turns() {
    let (sender, stop) = mpsc::channel();
    let (thread, waker) = spawn("idle", LoopOptions::default(), move |on| {
        let mut kept = None;
        on.add_role(|waker| {
            kept = Some(waker);
            Idle { stop, ended: false }
        })?;
        Ok::<_, RingError>(kept.expect("made"))
    })
    .expect("a loop");
    waker.wake();
    std::thread::sleep(Duration::from_millis(50));
    let before = waker.status().turns();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(waker.status().turns(), before);
    waker.wake();
    std::thread::sleep(Duration::from_millis(50));
    assert!(waker.status().turns() > before);
    sender.send(()).expect("it runs");
    waker.wake();
    thread.join().expect("in order");
}
