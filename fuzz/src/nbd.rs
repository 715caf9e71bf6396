//! What an NBD client sends: options, requests, and whole connections.

use crate::memory::{Allowance, NOTHING, bounded};
use sds_client::nbd::constants::CONTEXT_ALLOCATION;
use sds_client::nbd::export::{ExportError, PAYLOAD_BYTES_MAX};
use sds_client::nbd::option::{decode_info, decode_meta_context, text};
use sds_client::nbd::request::{Action, Negotiated, REQUEST_BYTES, RawRequest, Verdict, judge, read_piece, write_piece};
use sds_client::nbd::{Connection, Effect, ExportInfo, Limits, OUTPUT_SEGMENTS_HIGH, Out, Want};
use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::error::Status;
use sds_core::limits::FRAME_PAYLOAD_BYTES_MAX;
use sds_core::machine::{Outbox, Token};
use sds_core::stripe::Stripe;
use sds_core::unit::BLOCK_BYTES;
use sds_core::volume::interface::{Outcome, Request};
use std::collections::BTreeMap;

/// Payloads of options; the first byte says of which.
pub fn option(data: &[u8]) {
    let Some((kind, payload)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            if let Ok((name, _)) = bounded(payload, NOTHING, || decode_info(payload)) {
                assert!(name.len() + 6 <= payload.len());
            }
        }
        1 | 2 => {
            if let Ok((name, found)) = bounded(payload, NOTHING, || decode_meta_context(payload, kind % 4 == 1)) {
                let lists = kind % 4 == 1;
                let asked = payload.windows(CONTEXT_ALLOCATION.len()).any(|window| window == CONTEXT_ALLOCATION.as_bytes());
                assert!(name.len() + 8 <= payload.len());
                assert!(!found || asked || lists, "a context that nobody asked for");
            }
        }
        _ => {
            if let Ok(name) = bounded(payload, NOTHING, || text(payload)) {
                assert!(name.as_bytes() == payload && !name.contains('\0'));
            }
        }
    }
}

fn export(size: u64, read_only: bool) -> ExportInfo {
    let stripe = Stripe::new(16 * 1024, 2).unwrap_or_default();
    ExportInfo { name: "disk".to_owned(), description: "a volume".to_owned(), size, read_only, stripe }
}

/// One request: the first byte is what was negotiated, then the size of the export in blocks (8), then the request.
pub fn request(data: &[u8]) {
    let Some((flags, rest)) = data.split_first() else { return };
    let Some((size, rest)) = rest.split_first_chunk() else { return };
    let Some(bytes) = rest.first_chunk::<REQUEST_BYTES>() else { return };
    let Some(raw) = bounded(data, NOTHING, || RawRequest::decode(bytes)) else { return };
    let size = (u64::from_be_bytes(*size) % (sds_core::limits::VOLUME_BYTES_MAX / u64::from(BLOCK_BYTES))) * u64::from(BLOCK_BYTES);
    let export = export(size, flags & 1 != 0);
    let negotiated = Negotiated { structured: flags & 2 != 0, block_status: flags & 4 != 0 };
    let Verdict::Run { action, offset, len } = judge(&raw, &export, negotiated, flags & 8 != 0) else { return };
    assert!(offset.checked_add(u64::from(len)).is_some_and(|end| end <= size), "a request stays inside its export");
    assert!(!export.read_only || !matches!(action, Action::Write { .. } | Action::Zero { .. }));
    let piece = match action {
        Action::Read { .. } => read_piece(export.stripe, offset, len),
        Action::Write { .. } => write_piece(export.stripe, offset, len),
        Action::Zero { .. } | Action::Flush | Action::Status { .. } => return,
    };
    assert!(len <= PAYLOAD_BYTES_MAX && (1..=len.min(FRAME_PAYLOAD_BYTES_MAX)).contains(&piece));
}

/// Blocks of the volume a connection works on.
const VOLUME_BYTES: u64 = 1 << 20;
/// Buffers a connection may have at once.
const BUFFERS_MAX: usize = 64;
/// Memory of a connection at most, beside its buffers: tables and queues of [`Limits`], and the replies that are waiting.
const CONNECTION: Allowance = Allowance { per_byte: 8, fixed: 2 << 20 };

/// How often a client that insists repeats itself: a short input reaches the bound of queued replies.
const REPEATED: usize = 64;

/// Buffers that count their uses.
#[derive(Default)]
struct Pool {
    next: u32,
    live: BTreeMap<u32, (u32, Vec<u8>)>,
}

impl Buffers for Pool {
    fn allocate(&mut self, _class: BufferClass, len: u32) -> Option<BufferId> {
        assert!(len > 0 && len <= FRAME_PAYLOAD_BYTES_MAX);
        if self.live.len() >= BUFFERS_MAX {
            return None;
        }
        self.next += 1;
        self.live.insert(self.next, (1, vec![0xee; len as usize]));
        Some(BufferId::new(self.next))
    }

    fn retain(&mut self, buffer: BufferId) {
        self.live.entry(buffer.get()).and_modify(|(uses, _)| *uses += 1);
    }

    fn release(&mut self, buffer: BufferId) {
        let Some((uses, _)) = self.live.get_mut(&buffer.get()) else { panic!("a buffer is released that nobody has") };
        *uses -= 1;
        if *uses == 0 {
            self.live.remove(&buffer.get());
        }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        &self.live[&span.buffer.get()].1[span.start as usize..][..span.len as usize]
    }

    fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        let Some((_, bytes)) = self.live.get_mut(&span.buffer.get()) else { panic!("a buffer that nobody has") };
        &mut bytes[span.start as usize..][..span.len as usize]
    }
}

/// A whole connection: the first byte says how the client behaves (bit 0 never reads what it is sent, bit 1 is greeted
/// and has chosen an export already, bit 2 with structured replies, bit 3 says everything [`REPEATED`] times), the second how many bytes come at a time, the rest
/// is what it sends.
pub fn connection(data: &[u8]) {
    let [mode, cut, stream @ ..] = data else { return };
    bounded(data, Allowance { fixed: CONNECTION.fixed + BUFFERS_MAX * (FRAME_PAYLOAD_BYTES_MAX as usize), ..CONNECTION }, || {
        let mut shell = Shell::new(mode & 1 == 0);
        if mode & 2 != 0 {
            shell.send(&3_u32.to_be_bytes());
            if mode & 4 != 0 {
                shell.send(&crate::seed::nbd_option_bytes(8, &[]));
                shell.send(&crate::seed::nbd_option_bytes(10, &crate::seed::nbd_meta_payload("disk", &[CONTEXT_ALLOCATION])));
            }
            shell.send(&crate::seed::nbd_option_bytes(7, &crate::seed::nbd_info_payload("disk", &[])));
        }
        // What follows the client's flags, once more each time.
        let (once, again) = stream.split_at(stream.len().min(4));
        let times = if mode & 8 == 0 { 1 } else { REPEATED };
        let parts = std::iter::once(once).chain((0..times).flat_map(|_| again.chunks(usize::from(*cut).max(1) * 8)));
        for part in parts {
            if !shell.send(part) {
                break;
            }
        }
        shell.end();
    });
}

/// What a shell does around a connection.
struct Shell {
    connection: Connection,
    pool: Pool,
    out: Outbox<Effect>,
    requests: Vec<(Token, Request)>,
    reads: bool,
}

impl Shell {
    fn new(reads: bool) -> Self {
        Self { connection: Connection::new(7, Limits::default()), pool: Pool::default(), out: Outbox::new(), requests: Vec::new(), reads }
    }

    /// Sends bytes as far as they are taken; false if the connection does not go on.
    fn send(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let used = match self.connection.want() {
                Want::Close => return false,
                Want::InPlace(span) if !bytes.is_empty() => {
                    let len = span.len.min(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                    self.pool.bytes_mut(span.part(0, len)).copy_from_slice(&bytes[..len as usize]);
                    self.connection.received_in_place(len, &mut self.pool, &mut self.out);
                    len as usize
                }
                Want::Staging | Want::InPlace(_) | Want::Nothing => self.connection.receive(bytes, &mut self.pool, &mut self.out),
            };
            bytes = &bytes[used..];
            let moved = self.turn();
            if bytes.is_empty() {
                return true;
            }
            if used == 0 && !moved {
                return false;
            }
        }
    }

    /// Answers everything that was asked; whether there was anything.
    fn turn(&mut self) -> bool {
        let mut moved = false;
        loop {
            self.take_output();
            let effects: Vec<Effect> = self.out.drain().collect();
            for effect in effects {
                moved = true;
                match effect {
                    Effect::Request { token, request } => self.requests.push((token, request)),
                    Effect::ListExports => self.connection.listed(&[("disk".to_owned(), "a volume".to_owned())]),
                    Effect::OpenExport { name, .. } if name.is_empty() || name == "disk" => {
                        self.connection.opened(Ok(export(VOLUME_BYTES, false)), &mut self.pool);
                    }
                    Effect::OpenExport { name, .. } => {
                        self.connection.opened(Err(ExportError::Unknown(format!("no export {name:?}"))), &mut self.pool);
                    }
                }
            }
            let Some((token, request)) = self.requests.pop() else { return moved };
            moved = true;
            let result = self.perform(request);
            self.connection.complete(token, result, &mut self.pool, &mut self.out);
        }
    }

    fn perform(&mut self, request: Request) -> Result<Outcome, Status> {
        let inside = |offset: u64, len: u64| assert!(len > 0 && offset + len <= VOLUME_BYTES, "a piece stays inside its volume");
        match request {
            Request::Read { offset, len } => {
                inside(offset.get(), u64::from(len));
                if offset.get() % 3 == 0 {
                    return Ok(Outcome::Zeroes);
                }
                let Some(buffer) = self.pool.allocate(BufferClass::Client, len) else { return Err(Status::DeviceFailed) };
                Ok(Outcome::Data(Span::whole(buffer, len)))
            }
            Request::Write { offset, span, .. } => {
                inside(offset.get(), u64::from(span.len));
                self.pool.release(span.buffer);
                Ok(Outcome::Done)
            }
            Request::Zero { offset, len, .. } => {
                inside(offset.get(), len);
                Ok(Outcome::Done)
            }
            Request::Flush => Ok(Outcome::Done),
            Request::Status { offset, len } => {
                inside(offset.get(), u64::from(len));
                Ok(Outcome::Status([0x5555_5555_0000_ffff; 4]))
            }
        }
    }

    fn take_output(&mut self) {
        // A read that is sent as a whole, a list, a reply to an option of text: what one step may add.
        const STEP_SEGMENTS_MAX: usize = 1024;
        assert!(self.connection.output_segments() <= OUTPUT_SEGMENTS_HIGH + STEP_SEGMENTS_MAX, "a client that does not read is not read");
        while self.reads {
            let mut batch = Vec::new();
            self.connection.take_output(&mut batch);
            if batch.is_empty() {
                return;
            }
            for segment in batch {
                assert!(segment.len() > 0, "a segment has bytes");
                if let Out::Data(span) = segment {
                    self.pool.release(span.buffer);
                }
            }
        }
    }

    /// The socket is gone.
    fn end(mut self) {
        self.connection.disconnect(&mut self.pool);
        self.turn();
        assert!(self.connection.is_idle(), "what was asked has been answered");
        self.reads = true;
        self.take_output();
        assert!(self.pool.live.is_empty(), "a connection that has ended holds no buffer");
    }
}
