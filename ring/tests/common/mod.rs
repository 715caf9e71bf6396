//! A role that does what the test thread says and tells it what happened.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::large_enum_variant, reason = "a test's record of events")]

use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::machine::{DiskResult, LinkId};
use sds_core::unit::Nanos;
use sds_core::wire::{Body, Frame, Header, Opcode};
use sds_ring::{
    Address, Closed, LinkEvent, LoopOptions, LoopStatus, LoopThread, PoolOptions, Protocol, RingError, Role, StreamEvent, StreamId, Turn,
    Wake, Waker, spawn,
};
use std::sync::mpsc;
use std::time::Duration;

/// What a scripted role has seen.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Disk(u64, DiskResult),
    Linked(LinkId, Option<u64>),
    ConnectFailed(u64, Closed),
    /// A frame and its payload's bytes; the buffer was given back unless the role keeps them.
    Frame(LinkId, Frame, Vec<u8>),
    LinkWritable(LinkId),
    Unlinked(LinkId, Option<Closed>),
    Accepted(StreamId),
    Connected(StreamId, u64),
    /// All bytes that were available; consumed.
    Bytes(StreamId, Vec<u8>),
    Received(StreamId, Span, Vec<u8>),
    StreamWritable(StreamId),
    StreamClosed(StreamId, Option<Closed>),
    Buffers,
}

type Command = Box<dyn FnOnce(&mut Turn<'_>) + Send>;

pub struct Scripted {
    commands: mpsc::Receiver<Option<Command>>,
    events: mpsc::Sender<Seen>,
    stopped: bool,
    /// Keep buffers of frames instead of giving them back.
    hoard: bool,
    /// After a first `Bytes`, ask for payloads of this many bytes.
    payload: Option<u32>,
}

impl Scripted {
    fn see(&self, seen: Seen) {
        let _ = self.events.send(seen);
    }
}

impl Role for Scripted {
    fn start(&mut self, _cx: &mut Turn<'_>) {}

    fn on_disk(&mut self, _cx: &mut Turn<'_>, tag: u64, result: DiskResult) {
        self.see(Seen::Disk(tag, result));
    }

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        let seen = match event {
            LinkEvent::Linked { connect } => Seen::Linked(link, connect),
            LinkEvent::ConnectFailed { connect, reason } => Seen::ConnectFailed(connect, reason),
            LinkEvent::Frame(frame) => {
                let mut bytes = Vec::new();
                if let Body::Payload { span, .. } = &frame.body {
                    bytes.extend_from_slice(cx.pool().bytes(*span));
                    if !self.hoard {
                        cx.pool().release(span.buffer);
                    }
                }
                Seen::Frame(link, *frame, bytes)
            }
            LinkEvent::Writable => Seen::LinkWritable(link),
            LinkEvent::Unlinked { reason } => Seen::Unlinked(link, reason),
        };
        self.see(seen);
    }

    fn on_stream(&mut self, cx: &mut Turn<'_>, stream: StreamId, event: StreamEvent) {
        let seen = match event {
            StreamEvent::Accepted { .. } => Seen::Accepted(stream),
            StreamEvent::Connected { connect } => Seen::Connected(stream, connect),
            StreamEvent::ConnectFailed { connect, reason } => Seen::ConnectFailed(connect, reason),
            StreamEvent::Readable => match self.payload {
                Some(len) => match cx.receive(stream, BufferClass::Client, 512, len) {
                    Some(span) => return self.on_stream(cx, stream, StreamEvent::Received(span)),
                    None => return,
                },
                None => {
                    let bytes = cx.available(stream).to_vec();
                    cx.consume(stream, bytes.len());
                    Seen::Bytes(stream, bytes)
                }
            },
            StreamEvent::Received(span) => {
                let bytes = cx.pool().bytes(span).to_vec();
                if !self.hoard {
                    cx.pool().release(span.buffer);
                }
                Seen::Received(stream, span, bytes)
            }
            StreamEvent::Writable => Seen::StreamWritable(stream),
            StreamEvent::Closed { reason } => Seen::StreamClosed(stream, reason),
        };
        self.see(seen);
    }

    fn on_wake(&mut self, cx: &mut Turn<'_>, wake: Wake) {
        match wake {
            Wake::Deadline => {}
            Wake::Buffers => self.see(Seen::Buffers),
            Wake::Notified => {
                while let Ok(command) = self.commands.try_recv() {
                    match command {
                        Some(command) => command(cx),
                        None => self.stopped = true,
                    }
                }
            }
        }
    }

    fn end_of_turn(&mut self, _cx: &mut Turn<'_>) {}

    fn deadline(&self) -> Option<Nanos> {
        None
    }

    fn stopped(&self) -> bool {
        self.stopped
    }
}

/// The test thread's side of a scripted role.
pub struct Node {
    commands: mpsc::Sender<Option<Command>>,
    events: mpsc::Receiver<Seen>,
    waker: Waker,
}

impl Node {
    /// Runs something in the role's next turn and brings its result.
    pub fn run<T: Send + 'static>(&self, command: impl FnOnce(&mut Turn<'_>) -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let command: Command = Box::new(move |cx| drop(sender.send(command(cx))));
        self.commands.send(Some(command)).expect("the loop runs");
        self.waker.wake();
        receiver.recv_timeout(Duration::from_secs(10)).expect("the loop makes turns")
    }

    /// Ends the role.
    pub fn end(&self) {
        let _ = self.commands.send(None);
        self.waker.wake();
    }

    /// The next thing that happened.
    pub fn next(&self) -> Seen {
        self.events.recv_timeout(Duration::from_secs(10)).expect("something happens")
    }

    /// The next thing that happened, if it happens soon.
    pub fn try_next(&self) -> Result<Seen, mpsc::RecvTimeoutError> {
        self.events.recv_timeout(Duration::from_millis(300))
    }

    /// Nothing happens for a while.
    pub fn assert_quiet(&self) {
        let seen = self.events.recv_timeout(Duration::from_millis(100));
        assert!(seen.is_err(), "unexpected: {seen:?}");
    }

    pub fn linked(&self) -> LinkId {
        match self.next() {
            Seen::Linked(link, _) => link,
            other => panic!("not linked but {other:?}"),
        }
    }

    pub fn frame(&self) -> (LinkId, Frame, Vec<u8>) {
        match self.next() {
            Seen::Frame(link, frame, bytes) => (link, frame, bytes),
            other => panic!("no frame but {other:?}"),
        }
    }

    pub fn unlinked(&self) -> (LinkId, Option<Closed>) {
        match self.next() {
            Seen::Unlinked(link, reason) => (link, reason),
            other => panic!("not unlinked but {other:?}"),
        }
    }

    pub fn listen(&self, address: &str, protocol: Protocol) -> Address {
        let address: Address = address.parse().expect("an address");
        self.run(move |cx| cx.listen(&address, protocol)).expect("can listen").1
    }

    pub fn connect(&self, address: &Address, protocol: Protocol, number: u64) {
        let addresses = vec![address.clone()];
        self.run(move |cx| cx.connect(protocol, number, addresses));
    }

    pub fn used_bytes(&self) -> u64 {
        self.run(|cx| cx.pool().statistics().used_bytes)
    }

    pub fn wait_for_used_bytes(&self, expected: u64) {
        for _ in 0..200 {
            if self.used_bytes() == expected {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} bytes are in use, not {expected}", self.used_bytes());
    }

    pub fn status(&self) -> LoopStatus {
        self.waker.status()
    }
}

/// A loop with some scripted roles; stops them at the end.
pub struct TestLoop {
    pub nodes: Vec<Node>,
    thread: Option<LoopThread>,
}

#[derive(Clone, Copy)]
pub struct Shape {
    pub roles: usize,
    pub pool_bytes: usize,
    pub optional: bool,
    pub hoard: bool,
    pub payload: Option<u32>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { roles: 1, pool_bytes: 8 << 20, optional: true, hoard: false, payload: None }
    }
}

impl TestLoop {
    pub fn new(shape: Shape) -> Self {
        let options = LoopOptions {
            pool: PoolOptions { bytes: shape.pool_bytes, ..PoolOptions::default() },
            optional_features: shape.optional,
            ..LoopOptions::default()
        };
        let (thread, nodes) = spawn("test-loop", options, move |on| {
            let mut nodes = Vec::new();
            for _ in 0..shape.roles {
                let (command_sender, commands) = mpsc::channel();
                let (events, event_receiver) = mpsc::channel();
                let mut node = None;
                on.add_role(|waker| {
                    node = Some(Node { commands: command_sender, events: event_receiver, waker });
                    Scripted { commands, events, stopped: false, hoard: shape.hoard, payload: shape.payload }
                })?;
                nodes.extend(node);
            }
            Ok::<_, RingError>(nodes)
        })
        .expect("a loop");
        Self { nodes, thread: Some(thread) }
    }

    pub fn one() -> Self {
        Self::new(Shape::default())
    }

    pub fn node(&self) -> &Node {
        &self.nodes[0]
    }

    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        for node in &self.nodes {
            node.end();
        }
        thread.join().expect("the loop ends in order");
    }
}

impl Drop for TestLoop {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// A write frame with stamped bytes in a buffer of the loop; sends it.
pub fn send_write(cx: &mut Turn<'_>, link: LinkId, len: u32, stamp: u64) {
    let buffer = cx.pool().allocate(BufferClass::Client, len).expect("a buffer");
    let span = Span::whole(buffer, len);
    fill(cx.pool().bytes_mut(span), stamp);
    let checksums = ChecksumList::of_blocks(cx.pool().bytes(span));
    let mut header = Header::new(Opcode::Write);
    header.length = len;
    header.request = sds_core::id::RequestId::new(stamp);
    cx.send_frame(link, &Frame::with_payload(header, span, checksums));
}

/// Bytes that tell where they come from.
pub fn fill(bytes: &mut [u8], stamp: u64) {
    for (index, piece) in bytes.chunks_mut(8).enumerate() {
        let word = (stamp.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index as u64).to_le_bytes();
        piece.copy_from_slice(&word[..piece.len()]);
    }
}

pub fn stamped(len: usize, stamp: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill(&mut bytes, stamp);
    bytes
}
