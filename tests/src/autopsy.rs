//! What a store would find on a device if its process ended now: opened with the real store, on a copy of
//! the device's bytes.
//!
//! Must not know: who has the other copy, and what either should hold.

use crate::buffers::{Budgets, SimBuffers};
use crate::disk::{Disk, EIO, Medium, Piece};
use sds_core::buffer::{BufferClass, BufferId, Buffers, Span};
use sds_core::checksum::Checksum;
use sds_core::exchange::{BLOCK_ENTRY_BYTES, BLOCKS_BYTES, BlockEntry, EXTENT_ENTRY_BYTES, ExtentEntry};
use sds_core::format::descriptor::Content;
use sds_core::id::ShardSequence;
use sds_core::machine::{DiskResult, Outbox, Token};
use sds_core::store::Store;
use sds_core::store::interface::{BlockRange, Effect, Event, ExtentKey, Input, Outcome, Request, StoreOptions};
use sds_core::unit::{BLOCK_BYTES, BlockIndex, Nanos};
use std::collections::BTreeMap;

/// A block with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Of the write that brought it.
    pub version: ShardSequence,
    /// Of its bytes, as recorded.
    pub checksum: Checksum,
    /// It can be read, and is what is recorded.
    pub sound: bool,
}

impl Held {
    /// What is recorded.
    #[must_use]
    pub const fn recorded(&self) -> (ShardSequence, Checksum) {
        (self.version, self.checksum)
    }
}

/// Blocks with data, by extent and number.
pub type Holdings = BTreeMap<(ExtentKey, u8), Held>;

/// Entries of an extent list that are asked for at once.
const LIST_BYTES: u32 = 128 * EXTENT_ENTRY_BYTES;

/// A store on a copy of a device.
#[derive(Debug)]
pub struct Autopsy {
    store: Store,
    medium: Medium,
    buffers: SimBuffers,
    now: Nanos,
    out: Outbox<Effect>,
    opened: Option<u32>,
    replies: Vec<Result<Outcome, String>>,
}

impl Autopsy {
    /// Opens the device as a process that starts now would.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn of(disk: &Disk, options: StoreOptions) -> Result<Self, String> {
        let budgets = Budgets { client: 1 << 20, replicate: 1 << 20, internal: 64 << 20 };
        let mut autopsy = Self {
            store: Store::new(options),
            medium: disk.medium().clone(),
            buffers: SimBuffers::new(budgets, 7),
            now: Nanos::new(1),
            out: Outbox::new(),
            opened: None,
            replies: Vec::new(),
        };
        autopsy.run(Input::Open)?;
        match autopsy.opened {
            None => Err("it does not open".to_owned()),
            Some(0) => Ok(autopsy),
            Some(_) => autopsy.ask(Request::SettleAlone).map(|_| autopsy),
        }
    }

    /// Every block with data, each read and compared with its checksum.
    ///
    /// # Errors
    /// What cannot be listed.
    pub fn holdings(&mut self) -> Result<Holdings, String> {
        let mut held = Holdings::new();
        for key in self.extents()? {
            held.extend(self.blocks(key)?.into_iter().map(|(block, found)| ((key, block), found)));
        }
        Ok(held)
    }

    fn extents(&mut self) -> Result<Vec<ExtentKey>, String> {
        let span = self.room(LIST_BYTES);
        let mut keys = Vec::new();
        let mut from = 0;
        loop {
            let Outcome::Extents { count, next } = self.ask(Request::Extents { from, span })? else {
                return Err("a list of extents was answered with something else".to_owned());
            };
            let bytes = self.buffers.peek(span).to_vec();
            for entry in bytes.chunks(EXTENT_ENTRY_BYTES as usize).take(count as usize) {
                keys.push(ExtentEntry::decode(entry).map_err(|fault| fault.to_string())?.key);
            }
            let Some(next) = next else { break };
            from = next;
        }
        self.buffers.release(span.buffer);
        Ok(keys)
    }

    /// The blocks of one extent that have data.
    ///
    /// # Errors
    /// What cannot be listed.
    pub fn blocks(&mut self, key: ExtentKey) -> Result<Vec<(u8, Held)>, String> {
        let list = self.room(BLOCKS_BYTES);
        self.ask(Request::Blocks { key, span: list })?;
        let bytes = self.buffers.peek(list).to_vec();
        self.buffers.release(list.buffer);
        let span = self.room(BLOCK_BYTES);
        let mut found = Vec::new();
        for (block, entry) in (0_u8..=255).zip(bytes.chunks(BLOCK_ENTRY_BYTES as usize)) {
            let entry = BlockEntry::decode(entry).map_err(|fault| fault.to_string())?;
            if entry.info.content != Content::Data {
                continue;
            }
            let range = BlockRange { first: BlockIndex::new(block), count: 1 };
            let is_read = self.ask(Request::Read { key, range, span }).is_ok();
            let checksum = entry.info.checksum;
            let sound = is_read && Checksum::of(self.buffers.peek(span)) == checksum;
            found.push((block, Held { version: entry.info.version, checksum, sound }));
        }
        self.buffers.release(span.buffer);
        Ok(found)
    }

    fn room(&mut self, len: u32) -> Span {
        let buffer: BufferId = self.buffers.allocate(BufferClass::Client, len).expect("one at a time");
        Span::whole(buffer, len)
    }

    fn ask(&mut self, request: Request) -> Result<Outcome, String> {
        self.run(Input::Request { token: Token::new(1), request })?;
        // What waits for time to pass gets it.
        for _ in 0..64 {
            if let Some(reply) = self.replies.pop() {
                return reply;
            }
            let Some(at) = self.store.deadline() else { break };
            self.now = self.now.max(at);
            self.run(Input::Wake)?;
        }
        self.replies.pop().unwrap_or_else(|| Err(format!("{request:?} is never answered")))
    }

    /// Takes a step, and lets every disk request end at once.
    fn run(&mut self, input: Input) -> Result<(), String> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            self.now = self.now.plus(Nanos::new(1_000));
            self.store.step(self.now, input, &mut self.buffers, &mut self.out);
            let effects: Vec<Effect> = self.out.drain().collect();
            for effect in effects {
                match effect {
                    Effect::Read { op, offset, span } => {
                        let medium = &self.medium;
                        let first = offset.get() / u64::from(BLOCK_BYTES);
                        if (first..first + u64::from(span.len / BLOCK_BYTES)).any(|piece| medium.is_unreadable(piece)) {
                            inputs.push(Input::Disk { op, result: DiskResult::Error { errno: EIO } });
                            continue;
                        }
                        let pin = self.buffers.begin_filling(span);
                        self.buffers.fill(pin, |bytes| {
                            for (index, piece) in bytes.chunks_exact_mut(BLOCK_BYTES as usize).enumerate() {
                                medium.read(first + index as u64, piece);
                            }
                        });
                        self.buffers.end(pin);
                        inputs.push(Input::Disk { op, result: DiskResult::Done });
                    }
                    Effect::Write { op, offset, span, durable } => {
                        for (index, bytes) in self.buffers.peek(span).chunks_exact(BLOCK_BYTES as usize).enumerate() {
                            let piece: Box<Piece> = Box::new(bytes.try_into().expect("exact chunks"));
                            self.medium.write(offset.get() / u64::from(BLOCK_BYTES) + index as u64, piece, durable);
                        }
                        inputs.push(Input::Disk { op, result: DiskResult::Done });
                    }
                    Effect::Flush { op } => inputs.push(Input::Disk { op, result: DiskResult::Done }),
                    Effect::Reply { result, .. } => self.replies.push(result.map_err(|error| error.to_string())),
                    Effect::Event(Event::Opened(opened)) => self.opened = Some(opened.unsettled),
                    Effect::Event(Event::OpenFailed(fault)) => return Err(fault.to_string()),
                    Effect::Event(_) => {}
                }
            }
        }
        Ok(())
    }
}
