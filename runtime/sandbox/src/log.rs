//! The guest's stdout and stderr on their way out: coalesced, bounded, in order within a stream.
//!
//! Bytes wait in one buffer per stream until it is full, until the ticker passes, or until the guest
//! ends. A full buffer waits for the reader, so a slow reader slows the guest and memory stays bounded.
//! What exceeds the log limit over both streams is dropped; the guest goes on and never notices.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use gristmill_channel::{Report, RunEvent};
use gristmill_protocol::attempt::LogStream;
use tokio::{
    io::AsyncWrite,
    sync::mpsc::{Permit, Sender, error::TrySendError},
};
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use crate::traffic::Traffic;

/// Bytes that wait in one stream's buffer, and the most in one event.
const BUFFER_BYTES: usize = 64 << 10;
/// How long a write that cannot wait otherwise sleeps until it looks for room again.
const READER_NAP: Duration = Duration::from_millis(1);

pub(crate) struct Log {
    state: Mutex<State>,
    events: Sender<Report>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
}

struct State {
    bytes_left: u64,
    truncated: bool,
    truncation_sent: bool,
    /// The two streams' bytes that wait, the one that began first in front.
    pending: Vec<Pending>,
}

struct Pending {
    stream: LogStream,
    bytes: Vec<u8>,
    since_us: u64,
}

impl Log {
    /// `clock` gives the microseconds since the start of the run.
    pub(crate) fn new(
        limit_bytes: u64,
        events: Sender<Report>,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            bytes_left: limit_bytes,
            truncated: false,
            truncation_sent: false,
            pending: Vec::with_capacity(2),
        };
        Self { state: Mutex::new(state), events, clock: Box::new(clock) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that a stream takes without waiting.
    fn room(&self, stream: LogStream) -> usize {
        let state = self.lock();
        let waiting = state.pending.iter().find(|p| p.stream == stream).map_or(0, |p| p.bytes.len());
        BUFFER_BYTES.saturating_sub(waiting)
    }

    /// Adds bytes to a stream's buffer, at most as many as there is [`room`](Self::room) for;
    /// returns how many.
    fn add(&self, stream: LogStream, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let index = state.pending.iter().position(|p| p.stream == stream).unwrap_or_else(|| {
            let since_us = (self.clock)();
            state.pending.push(Pending { stream, bytes: Vec::new(), since_us });
            state.pending.len() - 1
        });
        let room = BUFFER_BYTES - state.pending[index].bytes.len();
        let taken = bytes.len().min(room);
        let kept = taken.min(usize::try_from(state.bytes_left).unwrap_or(usize::MAX));
        state.pending[index].bytes.extend_from_slice(&bytes[..kept]);
        state.bytes_left -= kept as u64;
        state.truncated |= kept < taken;
        taken
    }

    /// Writes all bytes, waiting for the reader as needed. Cancel-safe in that what was taken is sent.
    pub(crate) async fn write_all(&self, stream: LogStream, mut bytes: &[u8]) {
        loop {
            let taken = self.add(stream, bytes);
            bytes = &bytes[taken..];
            if bytes.is_empty() {
                return;
            }
            self.flush().await;
        }
    }

    /// Sends what waits, waiting for the reader as needed.
    pub(crate) async fn flush(&self) {
        while self.has_pending() {
            // A reader that is gone is told nothing; the bytes are dropped.
            let permit = self.events.reserve().await.ok();
            self.send_one(permit);
        }
    }

    /// Sends what waits as far as the reader has room, without waiting.
    pub(crate) fn try_flush(&self) {
        while self.has_pending() {
            match self.events.try_reserve() {
                Ok(permit) => self.send_one(Some(permit)),
                Err(TrySendError::Closed(())) => self.send_one(None),
                Err(TrySendError::Full(())) => return,
            }
        }
    }

    fn has_pending(&self) -> bool {
        let state = self.lock();
        !state.pending.is_empty() || state.truncated != state.truncation_sent
    }

    /// Takes and sends under one lock, so that two flushers never swap the order.
    fn send_one(&self, permit: Option<Permit<'_, Report>>) {
        let mut state = self.lock();
        let event = if state.pending.is_empty() {
            if !state.truncated || state.truncation_sent {
                return;
            }
            state.truncation_sent = true;
            RunEvent::LogTruncated
        } else {
            let Pending { stream, bytes, since_us } = state.pending.remove(0);
            if bytes.is_empty() {
                return;
            }
            RunEvent::Log { stream, bytes, elapsed_us: since_us }
        };
        if let Some(permit) = permit {
            permit.send(Report::Event(event));
        }
    }
}

/// One stream of the log as a guest's standard stream.
#[derive(Clone)]
pub(crate) struct LogWriter {
    log: Arc<Log>,
    stream: LogStream,
    traffic: Arc<Traffic>,
}

impl LogWriter {
    pub(crate) fn new(log: &Arc<Log>, stream: LogStream, traffic: &Arc<Traffic>) -> Self {
        Self { log: Arc::clone(log), stream, traffic: Arc::clone(traffic) }
    }
}

impl IsTerminal for LogWriter {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogWriter {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only the third preview asks for this form, and it is not linked.
        Box::new(tokio::io::sink())
    }
}

#[async_trait]
impl Pollable for LogWriter {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for LogWriter {
    /// Waits here for a slow reader, on the guest's own thread: how much a stream takes at a time is
    /// then the same whatever the reader does, and so is what the guest computes.
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.traffic.note_written(bytes.len());
        let mut rest = &bytes[..];
        loop {
            rest = &rest[self.log.add(self.stream, rest)..];
            if rest.is_empty() {
                return Ok(());
            }
            self.log.try_flush();
            if self.log.room(self.stream) == 0 {
                std::thread::sleep(READER_NAP);
            }
        }
    }

    fn flush(&mut self) -> StreamResult<()> {
        // The ticker sends what waits; a flush by the guest need not cost an event of its own.
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(BUFFER_BYTES)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.traffic.note_written(bytes.len());
        self.log.write_all(self.stream, &bytes).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn log(limit: u64, capacity: usize) -> (Log, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(capacity);
        (Log::new(limit, sender, || 7), receiver)
    }

    fn drain(receiver: &mut mpsc::Receiver<Report>) -> (Vec<u8>, Vec<u8>, usize, usize) {
        let (mut out, mut err, mut cuts, mut events) = (Vec::new(), Vec::new(), 0, 0);
        while let Ok(Report::Event(event)) = receiver.try_recv() {
            events += 1;
            match event {
                RunEvent::Log { stream: LogStream::Stdout, bytes, .. } => out.extend(bytes),
                RunEvent::Log { bytes, .. } => err.extend(bytes),
                RunEvent::LogTruncated => cuts += 1,
                RunEvent::Started => panic!("nothing starts here"),
            }
        }
        (out, err, cuts, events)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn small_writes_become_one_event_per_stream() {
        let (log, mut receiver) = log(1_000, 10);
        for _ in 0..50 {
            log.write_all(LogStream::Stdout, b"o").await;
            log.write_all(LogStream::Stderr, b"e").await;
        }
        log.flush().await;
        assert_eq!(drain(&mut receiver), (vec![b'o'; 50], vec![b'e'; 50], 0, 2));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_limit_holds_over_both_streams_and_the_cut_is_told_once() {
        let (log, mut receiver) = log(10, 10);
        log.write_all(LogStream::Stdout, b"1234567").await;
        log.write_all(LogStream::Stderr, b"1234567").await;
        log.flush().await;
        log.write_all(LogStream::Stdout, b"more").await;
        log.flush().await;
        assert_eq!(drain(&mut receiver), (b"1234567".to_vec(), b"123".to_vec(), 1, 3));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn exactly_the_limit_is_no_cut() {
        let (log, mut receiver) = log(4, 10);
        log.write_all(LogStream::Stdout, b"1234").await;
        log.flush().await;
        assert_eq!(drain(&mut receiver), (b"1234".to_vec(), vec![], 0, 1));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_slow_reader_slows_the_writer_and_loses_nothing() {
        let (log, mut receiver) = log(u64::MAX, 1);
        let data: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
        let writer = async {
            log.write_all(LogStream::Stdout, &data).await;
            log.flush().await;
        };
        let reader = async {
            let mut got = Vec::new();
            while got.len() < data.len() {
                if let Some(Report::Event(RunEvent::Log { bytes, .. })) = receiver.recv().await {
                    assert!(bytes.len() <= BUFFER_BYTES);
                    got.extend(bytes);
                }
            }
            got
        };
        let ((), got) = tokio::join!(writer, reader);
        assert!(got == data);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reader_that_is_gone_does_not_block_the_writer() {
        let (log, receiver) = log(u64::MAX, 1);
        drop(receiver);
        log.write_all(LogStream::Stdout, &vec![0; 300_000]).await;
        log.flush().await;
        assert!(!log.has_pending());
    }
}
