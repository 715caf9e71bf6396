//! What one data server costs a request: a server with one device and a stand-in for the MDM in this
//! process, and a load on a loop of its own over TCP. Prints CPU time of the data loop per request.
//!
//! ```text
//! cargo run --release -p sds-server --example cost -- DIRECTORY read|write DEPTH SECONDS [BYTES]
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use common::FakeMdm;
use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::error::Status;
use sds_core::id::{ClientId, ConnectionNumber, Epoch, ExtentIndex, MapVersion, RequestId, SessionGeneration, Ticket, TreeId, VolumeId};
use sds_core::machine::{DiskResult, LinkId};
use sds_core::shard::shard_of;
use sds_core::unit::Nanos;
use sds_core::wire::hello::Party;
use sds_core::wire::{Body, CacheIds, Frame, Header, Hello, Opcode};
use sds_ring::{Address, LinkEvent, LoopOptions, Protocol, RingError, Role, StreamEvent, StreamId, Turn, Wake, spawn};
use sds_server::{Node, NodeConfig, Size};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const EXTENTS: u32 = 8;

struct Load {
    server: Address,
    write: bool,
    depth: u64,
    len: u32,
    next: u64,
    random: u64,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    stopped: bool,
}

impl Load {
    fn send(&mut self, cx: &mut Turn<'_>, link: LinkId) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let opcode = if self.write { Opcode::Write } else { Opcode::Read };
        let mut header = Header::new(opcode);
        let slots = (1 << 20) / self.len;
        let pick = u32::try_from(self.random >> 33).expect("31 bits");
        let extent = pick % EXTENTS;
        header.connection = ConnectionNumber::new(1);
        header.request = RequestId::new(self.next);
        self.next += 1;
        header.generation = SessionGeneration::new(1);
        header.volume = VolumeId::new(1);
        header.extent = ExtentIndex::new(extent);
        header.offset = (pick / EXTENTS) % slots * self.len;
        header.length = self.len;
        header.epoch = Epoch::new(1);
        header.map_version = MapVersion::new(1);
        header.shard = shard_of(TreeId::new(1), ExtentIndex::new(extent), common::SHARDS);
        let frame = if self.write {
            let span = Span::whole(cx.pool().allocate(BufferClass::Client, self.len).expect("a buffer"), self.len);
            Frame::with_payload(header, span, ChecksumList::of_blocks(cx.pool().bytes(span)))
        } else {
            Frame::bare(header)
        };
        cx.send_frame(link, &frame);
    }
}

impl Role for Load {
    fn start(&mut self, cx: &mut Turn<'_>) {
        cx.connect(Protocol::Frames, 0, vec![self.server.clone()]);
    }

    fn on_disk(&mut self, _cx: &mut Turn<'_>, _tag: u64, _result: DiskResult) {}

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        match event {
            LinkEvent::Linked { .. } => {
                let mut header = Header::new(Opcode::Hello);
                header.connection = ConnectionNumber::new(1);
                let party = Party::Client { client: ClientId::new(77), ticket: Ticket::new(78) };
                let hello = Hello { version_min: 1, version_max: 1, system: common::SYSTEM, party };
                cx.send_frame(link, &Frame { header, cache_ids: CacheIds::NONE, body: Body::Hello(hello) });
            }
            LinkEvent::Frame(frame) => {
                assert_eq!(frame.header.status, Status::Ok, "{frame:?}");
                if let Body::Payload { span, .. } = &frame.body {
                    cx.pool().release(span.buffer);
                }
                let count = if frame.header.opcode == Opcode::HelloReply { self.depth } else { 1 };
                self.done.fetch_add(1, Ordering::Relaxed);
                self.stopped = self.stop.load(Ordering::Relaxed);
                for _ in 0..count {
                    self.send(cx, link);
                }
            }
            other => eprintln!("{other:?}"),
        }
    }

    fn on_stream(&mut self, _cx: &mut Turn<'_>, _stream: StreamId, _event: StreamEvent) {}
    fn on_wake(&mut self, _cx: &mut Turn<'_>, _wake: Wake) {}
    fn end_of_turn(&mut self, _cx: &mut Turn<'_>) {}
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    fn stopped(&self) -> bool {
        self.stopped
    }
}

/// CPU microseconds of the threads of this process whose names begin so.
fn cpu(prefix: &str) -> f64 {
    let mut total = 0.0;
    for task in std::fs::read_dir("/proc/self/task").expect("linux").flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        if name.starts_with(prefix) {
            total += stat.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 1000.0;
        }
    }
    total
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, kind, depth, seconds, rest @ ..] = arguments.as_slice() else { panic!("see the head of examples/cost.rs") };
    let len: u32 = rest.first().map_or(4096, |text| text.parse().expect("bytes"));
    let mdm = FakeMdm::new();
    let directory = std::path::Path::new(directory);
    let mut config: NodeConfig = common::config(directory, 1, &mdm);
    config.memory = Size::new(128 << 20);
    config.devices[0].size = Some(Size::new(256 << 20));
    let node = Node::start(config).expect("starts");
    let mut control = mdm.accept();
    control.bring_up(1);
    let listener = std::thread::spawn(move || while control.try_receive().is_ok() {});
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let load = Load {
        server: node.address().clone(),
        write: kind == "write",
        depth: depth.parse().expect("a number"),
        len,
        next: 1,
        random: 0x9e37_79b9_7f4a_7c15,
        done: done.clone(),
        stop: stop.clone(),
        stopped: false,
    };
    let (thread, ()) = spawn("load", LoopOptions::default(), move |on| {
        on.add_role(|_| load)?;
        Ok::<_, RingError>(())
    })
    .expect("a loop");
    std::thread::sleep(Duration::from_secs(1));
    let span: u64 = seconds.parse().expect("seconds");
    let (begin, count, before, workers) = (Instant::now(), done.load(Ordering::Relaxed), cpu("sds-loop"), cpu("iou-"));
    std::thread::sleep(Duration::from_secs(span));
    let count = done.load(Ordering::Relaxed) - count;
    let (after, workers) = (cpu("sds-loop"), cpu("iou-") - workers);
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds")]
    let requests = count as f64;
    println!(
        "{kind} {len} depth {depth}: {:.0}/s, data loop {:.2} us a request, kernel workers {:.2} us",
        requests / begin.elapsed().as_secs_f64(),
        (after - before) / requests,
        workers / requests
    );
    println!("{:?}", node.devices().borrow().first().map(|device| device.statistics));
    stop.store(true, Ordering::Relaxed);
    thread.join().expect("in order");
    node.stop().expect("in order");
    drop(listener);
}
