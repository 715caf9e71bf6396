//! A client, a pool and a volume around one connection. Everything is visible, nothing is timed.

use crate::nbd::constants::{CHUNK_MAGIC, GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC};
use crate::nbd::{Connection, Effect, ExportInfo, Limits, Out, Purpose, Want};
use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::error::Status;
use sds_core::machine::{Outbox, Token};
use sds_core::stripe::Stripe;
use sds_core::volume::interface::{Outcome, Request};
use std::collections::{BTreeMap, VecDeque};

/// A pool that counts uses and refuses beyond its budget.
#[derive(Default)]
pub(super) struct Pool {
    next: u32,
    live: BTreeMap<u32, (u32, Vec<u8>)>,
    pub(super) budget: usize,
    pub(super) bytes_max: usize,
}

impl Pool {
    pub(super) fn in_use(&self) -> usize {
        self.live.len()
    }

    pub(super) fn total(&self) -> usize {
        self.live.values().map(|(_, bytes)| bytes.len()).sum()
    }
}

impl Buffers for Pool {
    fn allocate(&mut self, _class: BufferClass, len: u32) -> Option<BufferId> {
        assert!(len > 0 && len <= 128 * 1024);
        if self.live.len() >= self.budget {
            return None;
        }
        self.next += 1;
        self.live.insert(self.next, (1, vec![0xee; len as usize]));
        self.bytes_max = self.bytes_max.max(self.total());
        Some(BufferId::new(self.next))
    }

    fn retain(&mut self, buffer: BufferId) {
        self.live.get_mut(&buffer.get()).expect("live").0 += 1;
    }

    fn release(&mut self, buffer: BufferId) {
        let uses = &mut self.live.get_mut(&buffer.get()).expect("released once").0;
        *uses -= 1;
        if *uses == 0 {
            self.live.remove(&buffer.get());
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.live[&span.buffer.get()].1[span.start as usize..(span.start + span.len) as usize]
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.live.get_mut(&span.buffer.get()).expect("live").1[span.start as usize..(span.start + span.len) as usize]
    }
}

/// A reply to an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OptReply {
    pub(super) option: u32,
    pub(super) kind: u32,
    pub(super) body: Vec<u8>,
}

/// A message of the transmission phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Simple { cookie: u64, error: u32, data: Vec<u8> },
    Chunk { cookie: u64, done: bool, kind: u16, payload: Vec<u8> },
}

pub(super) struct Rig {
    pub(super) connection: Connection,
    pub(super) pool: Pool,
    out: Outbox<Effect>,
    pub(super) asked: VecDeque<Effect>,
    /// Pieces in flight.
    pub(super) requests: VecDeque<(Token, Request)>,
    /// The volume's bytes and which of its blocks hold data.
    pub(super) volume: Vec<u8>,
    pub(super) holds: Vec<bool>,
    /// Sent by the client, not yet used by the connection.
    unused: Vec<u8>,
    /// Sent by the server, not yet read by the client.
    pub(super) incoming: Vec<u8>,
    /// Lengths of reads whose simple reply is awaited, by cookie.
    reads: BTreeMap<u64, u32>,
    pub(super) log: Vec<Request>,
}

pub(super) fn export(size: u64) -> ExportInfo {
    ExportInfo {
        name: "disk".to_owned(),
        description: "a volume".to_owned(),
        size,
        read_only: false,
        stripe: Stripe::new(16 * 1024, 2).expect("valid"),
    }
}

impl Rig {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            connection: Connection::new(7, limits),
            pool: Pool { budget: 4096, ..Pool::default() },
            out: Outbox::new(),
            asked: VecDeque::new(),
            requests: VecDeque::new(),
            volume: Vec::new(),
            holds: Vec::new(),
            unused: Vec::new(),
            incoming: Vec::new(),
            reads: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// A rig in transmission on an export.
    pub(super) fn ready(info: ExportInfo, structured: bool, limits: Limits) -> Self {
        let mut rig = Self::new(limits);
        rig.greet(3);
        if structured {
            rig.option(8, &[]);
            rig.option(10, &meta_payload("disk", &["base:allocation"]));
        }
        rig.option(7, &info_payload("disk", &[]));
        rig.open(info);
        rig.collect();
        rig.incoming.clear();
        rig
    }

    pub(super) fn simple(size: u64) -> Self {
        Self::ready(export(size), false, Limits::default())
    }

    pub(super) fn structured(size: u64) -> Self {
        Self::ready(export(size), true, Limits::default())
    }

    /// Answers the question for an export with this one.
    pub(super) fn open(&mut self, info: ExportInfo) {
        let Some(Effect::OpenExport { purpose: Purpose::Use, .. }) = self.asked.pop_front() else { panic!("no question") };
        self.volume = vec![0; usize::try_from(info.size.min(64 << 20)).expect("small")];
        self.holds = vec![false; self.volume.len() / 4096];
        assert!(self.connection.opened(Ok(info), &mut self.pool));
        self.collect();
    }

    /// Reads the greeting and answers with client flags.
    pub(super) fn greet(&mut self, flags: u32) {
        self.collect();
        let mut expected = GREETING_MAGIC.to_be_bytes().to_vec();
        expected.extend(OPTION_MAGIC.to_be_bytes());
        expected.extend([0, 3]);
        assert_eq!(self.incoming, expected);
        self.incoming.clear();
        self.send(&flags.to_be_bytes());
    }

    /// Sends an option; its replies so far.
    pub(super) fn option(&mut self, option: u32, payload: &[u8]) -> Vec<OptReply> {
        let bytes = option_bytes(option, payload);
        self.send(&bytes);
        self.option_replies()
    }

    pub(super) fn option_replies(&mut self) -> Vec<OptReply> {
        let mut replies = Vec::new();
        while !self.incoming.is_empty() {
            let rest = &self.incoming;
            assert_eq!(rest[..8], OPTION_REPLY_MAGIC.to_be_bytes());
            let (option, kind, len) = (be32(&rest[8..]), be32(&rest[12..]), be32(&rest[16..]) as usize);
            replies.push(OptReply { option, kind, body: rest[20..20 + len].to_vec() });
            self.incoming.drain(..20 + len);
        }
        replies
    }

    /// Sends bytes as a shell would: staged, or in place when that is wanted.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.unused.extend_from_slice(bytes);
        self.push();
    }

    /// Gives the connection what it takes of the bytes sent. Says whether anything moved.
    pub(super) fn push(&mut self) -> bool {
        let sent = std::mem::take(&mut self.unused);
        let mut staged = &sent[..];
        loop {
            let used = match self.connection.want() {
                Want::InPlace(span) if !staged.is_empty() => {
                    let count = staged.len().min(span.len as usize);
                    self.pool.bytes_mut(span.part(0, u32::try_from(count).expect("small"))).copy_from_slice(&staged[..count]);
                    self.connection.received_in_place(u32::try_from(count).expect("small"), &mut self.pool, &mut self.out);
                    count
                }
                Want::Staging | Want::InPlace(_) | Want::Nothing | Want::Close => {
                    // A staging buffer of 4 KiB.
                    let offered = &staged[..staged.len().min(4096)];
                    self.connection.receive(offered, &mut self.pool, &mut self.out)
                }
            };
            staged = &staged[used..];
            self.collect();
            if used == 0 {
                break;
            }
        }
        self.unused = staged.to_vec();
        self.unused.len() != sent.len()
    }

    pub(super) fn backlog(&self) -> usize {
        self.unused.len()
    }

    /// Sorts effects and takes all output.
    fn collect(&mut self) {
        self.sort_effects();
        self.take_output();
    }

    fn sort_effects(&mut self) {
        for effect in self.out.drain() {
            match effect {
                Effect::Request { token, request } => {
                    assert_eq!(token.get() >> 48, 7);
                    self.log.push(request);
                    self.requests.push_back((token, request));
                }
                Effect::ListExports | Effect::OpenExport { .. } => self.asked.push_back(effect),
            }
        }
    }

    pub(super) fn take_output(&mut self) {
        loop {
            let mut batch = Vec::new();
            self.connection.take_output(&mut batch);
            if batch.is_empty() {
                return;
            }
            for segment in batch {
                match segment {
                    Out::Header(header) => self.incoming.extend_from_slice(header.as_slice()),
                    Out::Data(span) => {
                        self.incoming.extend_from_slice(self.pool.bytes(span));
                        self.pool.release(span.buffer);
                    }
                    Out::Zeroes(count) => self.incoming.extend(std::iter::repeat_n(0, count as usize)),
                }
            }
        }
    }

    pub(super) fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, len: u32, payload: &[u8]) {
        if command == 0 {
            self.reads.insert(cookie, len);
        }
        let bytes = request_bytes(command, flags, cookie, offset, len, payload);
        self.send(&bytes);
    }

    /// The simple reply to this cookie carries that many bytes if it is no error.
    pub(super) fn expect_read(&mut self, cookie: u64, len: u32) {
        self.reads.insert(cookie, len);
    }

    /// Completes the `nth` piece in flight against the volume, or with an error.
    pub(super) fn complete(&mut self, nth: usize, failure: Option<Status>) {
        self.complete_untaken(nth, failure);
        self.collect();
        self.push();
    }

    /// The same, the client not reading.
    pub(super) fn complete_untaken(&mut self, nth: usize, failure: Option<Status>) {
        let (token, request) = self.requests.remove(nth).expect("in flight");
        let result = match failure {
            Some(status) => {
                if let Request::Write { span, .. } = request {
                    self.pool.release(span.buffer);
                }
                Err(status)
            }
            None => Ok(self.perform(request)),
        };
        self.connection.complete(token, result, &mut self.pool, &mut self.out);
        self.sort_effects();
    }

    fn perform(&mut self, request: Request) -> Outcome {
        let range = |offset: u64, len: u64| usize::try_from(offset).expect("small")..usize::try_from(offset + len).expect("small");
        let blocks = |offset: u64, len: u64| range(offset / 4096, (offset + len).div_ceil(4096) - offset / 4096);
        match request {
            Request::Read { offset, len } => {
                let bytes = self.volume[range(offset.get(), u64::from(len))].to_vec();
                if self.holds[blocks(offset.get(), u64::from(len))].iter().all(|holds| !holds) {
                    return Outcome::Zeroes;
                }
                let budget = std::mem::replace(&mut self.pool.budget, usize::MAX);
                let buffer = self.pool.allocate(BufferClass::Client, len).expect("unbounded for the volume");
                self.pool.budget = budget;
                let span = Span::whole(buffer, len);
                self.pool.bytes_mut(span).copy_from_slice(&bytes);
                Outcome::Data(span)
            }
            Request::Write { offset, span, .. } => {
                let bytes = self.pool.bytes(span).to_vec();
                self.volume[range(offset.get(), u64::from(span.len))].copy_from_slice(&bytes);
                self.holds[blocks(offset.get(), u64::from(span.len))].fill(true);
                self.pool.release(span.buffer);
                Outcome::Done
            }
            Request::Zero { offset, len, .. } => {
                assert!(offset.get() % 4096 == 0 && len % 4096 == 0 && len > 0);
                self.volume[range(offset.get(), len)].fill(0);
                self.holds[blocks(offset.get(), len)].fill(false);
                Outcome::Done
            }
            Request::Flush => Outcome::Done,
            Request::Status { offset, len } => {
                let mut bits = [0; 4];
                for (index, holds) in self.holds[blocks(offset.get(), u64::from(len))].iter().enumerate() {
                    bits[index / 64] |= u64::from(*holds) << (index % 64);
                }
                Outcome::Status(bits)
            }
        }
    }

    /// Completes everything.
    pub(super) fn run(&mut self) {
        while !self.requests.is_empty() {
            self.complete(0, None);
        }
    }

    /// Takes the next message off the incoming bytes.
    pub(super) fn reply(&mut self) -> Option<Reply> {
        let rest = &self.incoming;
        if rest.is_empty() {
            return None;
        }
        if be32(rest) == SIMPLE_REPLY_MAGIC {
            let (error, cookie) = (be32(&rest[4..]), be64(&rest[8..]));
            let len = self.reads.remove(&cookie).filter(|_| error == 0).unwrap_or(0) as usize;
            let data = rest[16..16 + len].to_vec();
            self.incoming.drain(..16 + len);
            return Some(Reply::Simple { cookie, error, data });
        }
        assert_eq!(be32(rest), CHUNK_MAGIC);
        let flags = u16::from_be_bytes([rest[4], rest[5]]);
        let kind = u16::from_be_bytes([rest[6], rest[7]]);
        let (cookie, len) = (be64(&rest[8..]), be32(&rest[16..]) as usize);
        let payload = rest[20..20 + len].to_vec();
        self.incoming.drain(..20 + len);
        assert!(flags < 2, "only DONE");
        Some(Reply::Chunk { cookie, done: flags == 1, kind, payload })
    }

    pub(super) fn replies(&mut self) -> Vec<Reply> {
        std::iter::from_fn(|| self.reply()).collect()
    }

    /// The one simple reply there is: its error.
    pub(super) fn error(&mut self) -> u32 {
        match self.replies().as_slice() {
            [Reply::Simple { error, .. }] => *error,
            [Reply::Chunk { done: true, kind, payload, .. }] if kind >> 15 == 1 => be32(payload),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn data(&mut self) -> Vec<u8> {
        match self.replies().as_mut_slice() {
            [Reply::Simple { error: 0, data, .. }] => std::mem::take(data),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn request_bytes(command: u16, flags: u16, cookie: u64, offset: u64, len: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(super) fn option_bytes(option: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(u32::try_from(payload.len()).expect("small").to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(super) fn info_payload(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut bytes = u32::try_from(name.len()).expect("small").to_be_bytes().to_vec();
    bytes.extend(name.bytes());
    bytes.extend(u16::try_from(requests.len()).expect("small").to_be_bytes());
    bytes.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    bytes
}

pub(super) fn meta_payload(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut bytes = u32::try_from(name.len()).expect("small").to_be_bytes().to_vec();
    bytes.extend(name.bytes());
    bytes.extend(u32::try_from(queries.len()).expect("small").to_be_bytes());
    for query in queries {
        bytes.extend(u32::try_from(query.len()).expect("small").to_be_bytes());
        bytes.extend(query.bytes());
    }
    bytes
}

pub(super) fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().expect("four bytes"))
}

pub(super) fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(*bytes.first_chunk().expect("eight bytes"))
}

/// Bytes that tell where they belong.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| at.wrapping_mul(0x9e37_79b9).wrapping_add(seed * 77).to_le_bytes()[1] | 1).collect()
}
