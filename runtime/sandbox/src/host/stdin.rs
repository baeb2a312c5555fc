//! Regular files as input streams: standard input, and what components read.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::io::AsyncRead;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdinStream},
    p2::{InputStream, Pollable, StreamError, StreamResult},
};

use crate::traffic::Traffic;

/// Most bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// A regular file as an input stream. It is read on the guest's own thread, so it is always ready
/// and what the guest sees does not depend on how busy the machine is. Copies share the position:
/// every stream made of standard input reads on where the last one was.
#[derive(Clone)]
pub(crate) struct FileInput {
    file: Arc<File>,
    position: Arc<AtomicU64>,
    traffic: Arc<Traffic>,
}

impl FileInput {
    /// Reads an open file from `position` on.
    pub(crate) fn at(file: Arc<File>, position: u64, traffic: Arc<Traffic>) -> Self {
        Self { file, position: Arc::new(AtomicU64::new(position)), traffic }
    }

    /// What is to be standard input.
    pub(crate) fn of(file: File, traffic: Arc<Traffic>) -> Result<Self, String> {
        // A read from anything else could block for ever.
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err("standard input is not a regular file".to_owned());
        }
        Ok(Self::at(Arc::new(file), 0, traffic))
    }
}

impl IsTerminal for FileInput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for FileInput {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        // Only the third preview asks for this form, and it is not linked.
        Box::new(tokio::io::empty())
    }
}

#[async_trait]
impl Pollable for FileInput {
    async fn ready(&mut self) {}
}

#[async_trait]
impl InputStream for FileInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut buffer = vec![0; size.min(READ_BYTES)];
        if buffer.is_empty() {
            return Ok(Bytes::new());
        }
        let position = self.position.load(Ordering::Relaxed);
        let count = self
            .file
            .read_at(&mut buffer, position)
            .map_err(|error| StreamError::LastOperationFailed(error.into()))?;
        if count == 0 {
            return Err(StreamError::Closed);
        }
        self.position.store(position + count as u64, Ordering::Relaxed);
        self.traffic.note_read(count);
        buffer.truncate(count);
        Ok(buffer.into())
    }
}
