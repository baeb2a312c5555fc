//! Output streams of components on files, with the disk limit around them.

use std::{
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use wasmtime_wasi::{
    async_trait,
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::{
    disk::{Disk, FileId},
    traffic::Traffic,
};

/// Most bytes of one write.
const WRITE_BYTES: usize = 64 << 10;

/// A file that is written through a stream. It counts as a handle on the file. It is written on the
/// guest's own thread, so it is always ready, and a guest cannot pile up writes in the background.
pub(crate) struct LimitedStream {
    file: Arc<File>,
    disk: Arc<Mutex<Disk>>,
    traffic: Arc<Traffic>,
    id: FileId,
    /// Where the next byte goes; the file's end when absent.
    position: Option<u64>,
    is_broken: bool,
}

impl LimitedStream {
    pub(crate) fn new(
        file: Arc<File>,
        disk: Arc<Mutex<Disk>>,
        traffic: Arc<Traffic>,
        id: FileId,
        position: Option<u64>,
    ) -> Self {
        {
            let mut disk = lock(&disk);
            let size = disk.size(id);
            disk.opened(id, size, size);
        }
        Self { file, disk, traffic, id, position, is_broken: false }
    }

    /// Counts a write before it is done; answers where it begins.
    fn charge(&mut self, len: usize) -> StreamResult<u64> {
        let mut disk = lock(&self.disk);
        let start = self.position.unwrap_or_else(|| disk.size(self.id));
        let end = start.saturating_add(len as u64);
        disk.extend(self.id, end).map_err(|halt| StreamError::Trap(halt.into()))?;
        self.position = self.position.is_some().then_some(end);
        Ok(start)
    }

    fn settle(&self) {
        if let Ok(metadata) = self.file.metadata() {
            lock(&self.disk).settle(self.id, metadata.len());
        }
    }

    fn check(&self) -> StreamResult<()> {
        if self.is_broken { Err(StreamError::Closed) } else { Ok(()) }
    }
}

fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for LimitedStream {
    fn drop(&mut self) {
        lock(&self.disk).closed(self.id);
    }
}

#[async_trait]
impl Pollable for LimitedStream {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LimitedStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.check()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut at = self.charge(bytes.len())?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let result = match self.file.write_at(rest, at) {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                other => other,
            };
            match result {
                Ok(count) => {
                    self.traffic.note_written(count);
                    at = at.saturating_add(count as u64);
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_broken = true;
                    self.settle();
                    return Err(StreamError::LastOperationFailed(error.into()));
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.check()?;
        Ok(WRITE_BYTES)
    }
}
