//! An open volume as a program sees it: bytes at offsets, of any alignment.
//!
//! Invariant: a future that is dropped leaves its operation to end by itself: a dropped write may or may
//! not take place, as if the process had crashed at that point; a dropped read has no effect.

use crate::cluster::Cluster;
use crate::command::{Command, Io, IoAsk};
use crate::error::Error;
use bytes::Bytes;
use sds_core::error::Status;
use sds_core::unit::ByteOffset;
use sds_core::volume::interface::OpenVolume;
use std::sync::Arc;
use tokio::sync::oneshot;

/// An open volume. Clones are the same handle; the session ends when the last is dropped or
/// [`Volume::close`]d. All operations may run at once; those that overlap take place one after the
/// other in some order, each 4 KiB block as a whole.
#[derive(Clone, Debug)]
pub struct Volume {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    name: String,
    volume: OpenVolume,
    closed: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.closed {
            self.cluster.shared().command(Command::Close { volume: self.volume.id, reply: None });
        }
    }
}

impl Volume {
    pub(crate) fn new(cluster: Cluster, name: String, volume: OpenVolume) -> Self {
        Self { inner: Arc::new(Inner { cluster, name, volume, closed: false }) }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its size in bytes, when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inner.volume.size.get()
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        let size = self.size();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            Some(_) | None => Err(Error::PastEnd { offset, len, size }),
        }
    }

    async fn io<T>(&self, offset: u64, len: u64, ask: impl FnOnce(oneshot::Sender<Result<T, Status>>) -> IoAsk) -> Result<T, Error> {
        let shared = self.inner.cluster.shared();
        let permit = shared.permits.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let OpenVolume { id: volume, stripe, .. } = self.inner.volume;
        let io = Io { volume, stripe, offset: ByteOffset::new(offset), len, ask: ask(reply), permit };
        shared.command(Command::Io(Box::new(io)));
        let result = answer.await.map_err(|_| Error::Stopped)?;
        result.map_err(|status| Error::of_request(status, offset, len, self.size()))
    }

    /// Reads `len` bytes. What was never written reads as zero.
    ///
    /// # Errors
    /// [`Error::PastEnd`], [`Error::Corrupt`], [`Error::Fenced`], …
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        self.check(offset, len as u64)?;
        let mut into = Vec::new();
        into.try_reserve_exact(len).map_err(|_| Error::NoMemory { bytes: len as u64 })?;
        into.resize(len, 0);
        let bytes = self.io(offset, len as u64, |reply| IoAsk::Read { into, reply }).await?;
        Ok(Bytes::from(bytes))
    }

    /// Writes bytes. When this returns they are read by everybody, and survive the crash of any process;
    /// [`Volume::flush`] makes them survive a power cut. Single 4 KiB blocks are written as a whole or
    /// not at all, longer writes need not be.
    ///
    /// # Errors
    /// [`Error::PastEnd`], [`Error::NoSpace`], [`Error::ReadOnly`], [`Error::Fenced`], …
    pub async fn write_at(&self, offset: u64, bytes: Bytes) -> Result<(), Error> {
        self.write(offset, bytes, false).await
    }

    /// As [`Volume::write_at`], durable (as after a flush) when it returns.
    ///
    /// # Errors
    /// As of [`Volume::write_at`].
    pub async fn write_durably_at(&self, offset: u64, bytes: Bytes) -> Result<(), Error> {
        self.write(offset, bytes, true).await
    }

    async fn write(&self, offset: u64, from: Bytes, durable: bool) -> Result<(), Error> {
        let len = from.len() as u64;
        self.check(offset, len)?;
        self.io(offset, len, |reply| IoAsk::Write { from, durable, reply }).await
    }

    /// Makes the range read as zero.
    ///
    /// # Errors
    /// As of [`Volume::write_at`].
    pub async fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.check(offset, len)?;
        self.io(offset, len, |reply| IoAsk::Zero { durable: false, reply }).await
    }

    /// Says that the range is not needed any more: its whole blocks read as zero and their space is
    /// given back; parts of blocks at its ends stay as they are.
    ///
    /// # Errors
    /// As of [`Volume::write_at`].
    pub async fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.check(offset, len)?;
        self.io(offset, len, |reply| IoAsk::Trim { reply }).await
    }

    /// Makes everything durable that was completed, through any handle of this client, before the call.
    ///
    /// # Errors
    /// [`Error::FlushLost`] once, if a server has lost some of it; [`Error::Fenced`], …
    pub async fn flush(&self) -> Result<(), Error> {
        self.io(0, 0, |reply| IoAsk::Flush { reply }).await
    }

    /// Flushes and closes. Other clones of this handle keep the session; each must be closed or dropped.
    ///
    /// # Errors
    /// As of [`Volume::flush`]; the volume is closed all the same.
    pub async fn close(self) -> Result<(), Error> {
        let flushed = self.flush().await;
        let Some(mut inner) = Arc::into_inner(self.inner) else { return flushed };
        inner.closed = true;
        let volume = inner.volume.id;
        let closed = inner.cluster.ask(|reply| Command::Close { volume, reply: Some(reply) }).await;
        flushed.and(closed)
    }
}
