//! The floor of the data path: NBD in front, the data protocol in the middle, a file behind, and no
//! machine between. What the real daemons cost above this is the cost of their decisions.
//!
//! ```text
//! floor back FILE ADDRESS            a stand-in for a data server
//! floor front NBD-ADDRESS ADDRESS…   a stand-in for a client; blocks are spread over the servers
//! floor both NBD-ADDRESS FILE…       all in one loop
//! ```
//! The export is `floor`, as large as the first file (1 GiB in `front`); offsets are 4 KiB aligned, requests
//! at most 128 KiB. `SPIN_US` and `PLAIN=1` vary the loop. Prints enters per request at the end of a connection.

use sds_core::buffer::{BufferClass, Buffers, Span};
use sds_core::checksum::ChecksumList;
use sds_core::id::RequestId;
use sds_core::machine::{DiskResult, LinkId};
use sds_core::unit::{ByteOffset, Nanos};
use sds_core::wire::{Body, Flags, Frame, Header, Opcode};
use sds_ring::{
    Address, DiskId, LinkEvent, Loop, LoopOptions, Payload, PoolOptions, Protocol, Role, SpinPolicy, StreamEvent, StreamId, Turn, Wake,
};
use std::os::unix::fs::OpenOptionsExt;

type Failure = Box<dyn std::error::Error>;

/// A data server without a machine. The address of a block travels in the header's sequence field.
struct Back {
    file: Option<std::os::fd::OwnedFd>,
    listen: Address,
    disk: Option<DiskId>,
    requests: Vec<(LinkId, Frame, Span)>,
    free: Vec<usize>,
}

impl Role for Back {
    fn start(&mut self, cx: &mut Turn<'_>) {
        self.disk = self.file.take().and_then(|file| cx.add_disk(file).ok());
        let (_, bound) = cx.listen(&self.listen, Protocol::Frames).expect("the address is free");
        eprintln!("back on {bound}");
    }

    fn on_disk(&mut self, cx: &mut Turn<'_>, tag: u64, result: DiskResult) {
        let slot = usize::try_from(tag).expect("small");
        let (link, request, span) = self.requests[slot];
        self.free.push(slot);
        assert_eq!(result, DiskResult::Done);
        let mut header = request.header;
        if header.opcode == Opcode::Read {
            header.opcode = Opcode::ReadReply;
            let checksums = ChecksumList::of_blocks(cx.pool().bytes(span));
            cx.send_frame(link, &Frame::with_payload(header, span, checksums));
        } else {
            cx.pool().release(span.buffer);
            header.opcode = Opcode::WriteReply;
            header.flags = Flags::NONE;
            cx.send_frame(link, &Frame::bare(header));
        }
    }

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        let LinkEvent::Frame(frame) = event else { return };
        let Some(disk) = self.disk else { return };
        let slot = self.free.pop().unwrap_or(self.requests.len());
        let offset = ByteOffset::new(frame.header.sequence.get());
        let span = match &frame.body {
            Body::Payload { span, checksums } => {
                assert!(checksums.match_blocks(cx.pool().bytes(*span)));
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
        if slot == self.requests.len() {
            self.requests.push((link, *frame, span));
        } else {
            self.requests[slot] = (link, *frame, span);
        }
    }

    fn on_stream(&mut self, _cx: &mut Turn<'_>, _stream: StreamId, _event: StreamEvent) {}
    fn on_wake(&mut self, _cx: &mut Turn<'_>, _wake: Wake) {}
    fn end_of_turn(&mut self, _cx: &mut Turn<'_>) {}
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    fn stopped(&self) -> bool {
        false
    }
}

enum Reading {
    ClientFlags,
    Options,
    Requests,
    /// A write's payload is on its way.
    Payload {
        cookie: u64,
        offset: u64,
        len: u32,
    },
}

/// An NBD server without a machine.
struct Front {
    listen: Address,
    servers: Vec<Address>,
    links: Vec<Option<LinkId>>,
    bytes: u64,
    streams: Vec<(StreamId, Reading)>,
    requests: Vec<(StreamId, u64)>,
    free: Vec<usize>,
    served: u64,
    enters: u64,
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("in range")
}

impl Front {
    fn option(&mut self, cx: &mut Turn<'_>, stream: StreamId, option: u32, data: &[u8]) -> bool {
        let mut reply = |kind: u32, body: &[u8]| {
            let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            bytes.extend(option.to_be_bytes());
            bytes.extend(kind.to_be_bytes());
            bytes.extend(u32::try_from(body.len()).expect("small").to_be_bytes());
            bytes.extend(body);
            cx.send(stream, &bytes, Payload::None);
        };
        // GO and INFO
        if option == 6 || option == 7 {
            let mut info = vec![0, 0];
            info.extend(self.bytes.to_be_bytes());
            // has flags, flush, fua, multi-connection
            info.extend((1_u16 | 1 << 2 | 1 << 3 | 1 << 8).to_be_bytes());
            reply(3, &info);
            let mut sizes = vec![0, 3];
            for size in [4096_u32, 4096, 128 << 10] {
                sizes.extend(size.to_be_bytes());
            }
            reply(3, &sizes);
            reply(1, &[]);
            return option == 7;
        }
        let _ = data;
        reply(0x8000_0001, &[]);
        false
    }

    /// Takes as much as has come.
    fn read(&mut self, cx: &mut Turn<'_>, stream: StreamId) {
        loop {
            let place = self.streams.iter().position(|(id, _)| *id == stream).expect("known");
            match self.streams[place].1 {
                Reading::ClientFlags => {
                    if cx.available(stream).len() < 4 {
                        return;
                    }
                    cx.consume(stream, 4);
                    self.streams[place].1 = Reading::Options;
                }
                Reading::Options => {
                    let bytes = cx.available(stream);
                    if bytes.len() < 16 {
                        return;
                    }
                    let option = u32::from_be_bytes(be(bytes, 8));
                    let len = u32::from_be_bytes(be(bytes, 12)) as usize;
                    if bytes.len() < 16 + len {
                        return;
                    }
                    let data = bytes[16..16 + len].to_vec();
                    cx.consume(stream, 16 + len);
                    if self.option(cx, stream, option, &data) {
                        self.streams[place].1 = Reading::Requests;
                    }
                }
                Reading::Requests => {
                    let bytes = cx.available(stream);
                    if bytes.len() < 28 {
                        return;
                    }
                    let kind = u16::from_be_bytes(be(bytes, 6));
                    let cookie = u64::from_be_bytes(be(bytes, 8));
                    let offset = u64::from_be_bytes(be(bytes, 16));
                    let len = u32::from_be_bytes(be(bytes, 24));
                    cx.consume(stream, 28);
                    match kind {
                        READ => self.request(cx, stream, cookie, offset, len, None),
                        WRITE => match cx.receive(stream, BufferClass::Client, 0, len) {
                            Some(span) => self.request(cx, stream, cookie, offset, len, Some(span)),
                            None => {
                                self.streams[place].1 = Reading::Payload { cookie, offset, len };
                                return;
                            }
                        },
                        DISCONNECT => return cx.close(stream),
                        _ => reply(cx, stream, cookie, Payload::None),
                    }
                }
                Reading::Payload { .. } => return,
            }
        }
    }

    fn request(&mut self, cx: &mut Turn<'_>, stream: StreamId, cookie: u64, offset: u64, len: u32, data: Option<Span>) {
        let slot = self.free.pop().unwrap_or(self.requests.len());
        if slot == self.requests.len() {
            self.requests.push((stream, cookie));
        } else {
            self.requests[slot] = (stream, cookie);
        }
        let server = usize::try_from(offset / (128 << 10)).expect("small") % self.links.len();
        let link = self.links[server].expect("connected");
        let mut header = Header::new(if data.is_some() { Opcode::Write } else { Opcode::Read });
        header.request = RequestId::new(slot as u64);
        header.length = len;
        header.sequence = sds_core::id::ShardSequence::new(offset);
        let frame = match data {
            Some(span) => Frame::with_payload(header, span, ChecksumList::of_blocks(cx.pool().bytes(span))),
            None => Frame::bare(header),
        };
        cx.send_frame(link, &frame);
    }
}

fn reply(cx: &mut Turn<'_>, stream: StreamId, cookie: u64, payload: Payload) {
    let mut head = [0; 16];
    head[..4].copy_from_slice(&0x6744_6698_u32.to_be_bytes());
    head[8..].copy_from_slice(&cookie.to_be_bytes());
    cx.send(stream, &head, payload);
}

impl Role for Front {
    fn start(&mut self, cx: &mut Turn<'_>) {
        for (number, server) in self.servers.iter().enumerate() {
            cx.connect(Protocol::Frames, number as u64, vec![server.clone()]);
        }
        cx.listen(&self.listen, Protocol::Raw).expect("the address is free");
    }

    fn on_disk(&mut self, _cx: &mut Turn<'_>, _tag: u64, _result: DiskResult) {}

    fn on_link(&mut self, cx: &mut Turn<'_>, link: LinkId, event: LinkEvent<'_>) {
        match event {
            LinkEvent::Linked { connect: Some(number) } => {
                self.links[usize::try_from(number).expect("small")] = Some(link);
                eprintln!("linked {number}");
            }
            LinkEvent::Frame(frame) => {
                let slot = usize::try_from(frame.header.request.get()).expect("small");
                let (stream, cookie) = self.requests[slot];
                self.free.push(slot);
                self.served += 1;
                let payload = match &frame.body {
                    Body::Payload { span, checksums } => {
                        assert!(checksums.match_blocks(cx.pool().bytes(*span)));
                        Payload::Span(*span)
                    }
                    Body::Empty | Body::Hello(_) => Payload::None,
                };
                reply(cx, stream, cookie, payload);
            }
            other => eprintln!("{other:?}"),
        }
    }

    fn on_stream(&mut self, cx: &mut Turn<'_>, stream: StreamId, event: StreamEvent) {
        match event {
            StreamEvent::Accepted { .. } => {
                self.streams.push((stream, Reading::ClientFlags));
                let mut hello = b"NBDMAGICIHAVEOPT".to_vec();
                hello.extend(3_u16.to_be_bytes());
                cx.send(stream, &hello, Payload::None);
            }
            StreamEvent::Readable => self.read(cx, stream),
            StreamEvent::Received(span) => {
                let place = self.streams.iter().position(|(id, _)| *id == stream).expect("known");
                if let Reading::Payload { cookie, offset, len } = self.streams[place].1 {
                    self.streams[place].1 = Reading::Requests;
                    self.request(cx, stream, cookie, offset, len, Some(span));
                }
                self.read(cx, stream);
            }
            StreamEvent::Closed { .. } => {
                self.streams.retain(|(id, _)| *id != stream);
                if self.streams.is_empty() {
                    let enters = cx.enters() - self.enters;
                    eprintln!("served {} enters {enters}", self.served);
                    (self.enters, self.served) = (cx.enters(), 0);
                }
            }
            other => eprintln!("{other:?}"),
        }
    }

    fn on_wake(&mut self, _cx: &mut Turn<'_>, _wake: Wake) {}
    fn end_of_turn(&mut self, _cx: &mut Turn<'_>) {}
    fn deadline(&self) -> Option<Nanos> {
        None
    }
    fn stopped(&self) -> bool {
        false
    }
}

fn back(path: &str, listen: &str) -> Result<Back, Failure> {
    let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path)?;
    Ok(Back { file: Some(file.into()), listen: listen.parse()?, disk: None, requests: Vec::new(), free: Vec::new() })
}

fn front(listen: &str, servers: Vec<Address>, bytes: u64) -> Result<Front, Failure> {
    Ok(Front {
        listen: listen.parse()?,
        links: vec![None; servers.len()],
        servers,
        bytes,
        streams: Vec::new(),
        requests: Vec::new(),
        free: Vec::new(),
        served: 0,
        enters: 0,
    })
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let spin = std::env::var("SPIN_US").ok().and_then(|text| text.parse().ok());
    let options = LoopOptions {
        pool: PoolOptions { bytes: 64 << 20, ..PoolOptions::default() },
        spin: spin.map_or_else(SpinPolicy::default, |micros| SpinPolicy { budget: Nanos::from_micros(micros) }),
        optional_features: std::env::var("PLAIN").is_err(),
        ..LoopOptions::default()
    };
    let mut on = Loop::new(&options)?;
    eprintln!("{:?}", on.features());
    match words.as_slice() {
        ["back", file, listen] => {
            let role = back(file, listen)?;
            on.add_role(|_| role)?;
        }
        ["front", listen, servers @ ..] => {
            let servers = servers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
            let role = front(listen, servers, 1 << 30)?;
            on.add_role(|_| role)?;
        }
        ["both", listen, files @ ..] => {
            let mut servers = Vec::new();
            for (index, file) in files.iter().enumerate() {
                let address = format!("127.0.0.1:{}", 19_710 + index);
                let role = back(file, &address)?;
                on.add_role(|_| role)?;
                servers.push(address.parse()?);
            }
            let bytes = std::fs::metadata(files.first().ok_or("name a file")?)?.len();
            let role = front(listen, servers, bytes)?;
            on.add_role(|_| role)?;
        }
        _ => return Err("see the head of examples/floor.rs".into()),
    }
    on.run()?;
    Ok(())
}
