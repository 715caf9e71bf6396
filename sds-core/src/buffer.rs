//! The seam between machines and memory: machines name buffers, shells (or the simulator) own the bytes.
//!
//! Invariant: a buffer is handed out again only when its last use has been released. Whoever holds a
//! use may read; only a sole holder may write. A disk request holds its machine's use until its
//! completion arrives; a frame in a `Send` effect carries one use, which passes to the shell
//! (and, when the receiver is in the same process, to the receiving machine).

/// A buffer of the pool. Contiguous and 4 KiB aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(u32);

impl BufferId {
    /// From its number in the pool.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// Its number in the pool.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Some bytes of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The buffer.
    pub buffer: BufferId,
    /// First byte.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Span {
    /// The first `len` bytes of a buffer.
    #[must_use]
    pub const fn whole(buffer: BufferId, len: u32) -> Self {
        Self { buffer, start: 0, len }
    }

    /// A part of this span.
    ///
    /// # Panics
    /// If the part does not lie inside it.
    #[must_use]
    pub fn part(self, start: u32, len: u32) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a part lies inside its span");
        Self { buffer: self.buffer, start: self.start + start, len }
    }
}

/// Whose budget a buffer is taken from; no class waits for a lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BufferClass {
    /// Payload of client requests.
    Client,
    /// Payload from or for a peer.
    Replicate,
    /// Log blocks, pages, index, superblocks, acknowledgements, repair of a locked block.
    Internal,
}

/// Memory as a machine sees it.
pub trait Buffers {
    /// A buffer of at least `len` bytes with one use, or `None` when the class has used up its
    /// budget: then the caller queues and tries again at its next step. Contents are unspecified.
    fn allocate(&mut self, class: BufferClass, len: u32) -> Option<BufferId>;
    /// Adds a use.
    fn retain(&mut self, buffer: BufferId);
    /// Ends a use; at zero the buffer is free.
    fn release(&mut self, buffer: BufferId);
    /// The bytes of a span.
    fn bytes(&self, span: Span) -> &[u8];
    /// The bytes of a span, to write.
    fn bytes_mut(&mut self, span: Span) -> &mut [u8];
}
