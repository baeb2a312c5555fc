//! A guest's output on its way to the server: small pieces are gathered, large ones sent at once,
//! and what a small job wrote in its last moments travels with its report.

use std::{collections::VecDeque, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use gristmill_client::node::{Backoff, NodeClient};
use gristmill_protocol::{
    ErrorCode,
    attempt::LogStream,
    node_api::{LeaseRef, LogChunk},
};

/// Most bytes in one call.
const CALL_BYTES_MAX: usize = 256 << 10;
/// Bytes that wait at most; above this the guest waits.
pub(crate) const WAITING_BYTES_MAX: usize = 1 << 20;
/// Most bytes that travel with the report.
pub(crate) const TAIL_BYTES_MAX: usize = 32 << 10;
/// Most pieces that travel with the report.
const TAIL_PIECES_MAX: usize = 64;
/// How long output waits for more before it is sent.
pub(crate) const GATHER_TIME: Duration = Duration::from_millis(200);
/// Largest piece.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Consecutive bytes of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    stream: LogStream,
    offset: u64,
    elapsed_us: u64,
    bytes: Vec<u8>,
}

/// What was written and not yet sent, in the order of writing.
#[derive(Debug, Default)]
pub(crate) struct LogBuffer {
    pieces: VecDeque<Piece>,
    waiting_bytes: usize,
    written: [u64; 2],
    is_cut: bool,
}

fn place(stream: LogStream) -> usize {
    usize::from(stream == LogStream::Stderr)
}

impl LogBuffer {
    /// Takes what the guest wrote.
    pub(crate) fn push(&mut self, stream: LogStream, bytes: &[u8], elapsed_us: u64) {
        for part in bytes.chunks(PIECE_BYTES_MAX) {
            let offset = self.written[place(stream)];
            self.written[place(stream)] += part.len() as u64;
            self.waiting_bytes += part.len();
            match self.pieces.back_mut() {
                Some(last) if last.stream == stream && last.bytes.len() + part.len() <= PIECE_BYTES_MAX => {
                    last.bytes.extend_from_slice(part);
                }
                _ => self.pieces.push_back(Piece { stream, offset, elapsed_us, bytes: part.to_vec() }),
            }
        }
    }

    /// Notes that a stream was cut.
    pub(crate) fn cut(&mut self) {
        self.is_cut = true;
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether the rest is too much to travel with the report.
    pub(crate) fn exceeds_tail(&self) -> bool {
        self.waiting_bytes > TAIL_BYTES_MAX || self.pieces.len() > TAIL_PIECES_MAX
    }

    /// Takes the oldest stream's bytes for one call, up to the call's size.
    fn take_call(&mut self) -> Option<Piece> {
        let mut call = self.pieces.pop_front()?;
        let mut others = VecDeque::new();
        while let Some(next) = self.pieces.pop_front() {
            let fits = next.stream == call.stream && call.bytes.len() + next.bytes.len() <= CALL_BYTES_MAX;
            if fits {
                call.bytes.extend_from_slice(&next.bytes);
            } else {
                let is_full = next.stream == call.stream;
                others.push_back(next);
                if is_full {
                    break;
                }
            }
        }
        others.append(&mut self.pieces);
        self.pieces = others;
        self.waiting_bytes -= call.bytes.len();
        Some(call)
    }

    /// The rest, to travel with the report.
    pub(crate) fn into_tail(self) -> Vec<LogChunk> {
        let chunk = |piece: Piece| LogChunk {
            stream: piece.stream,
            offset: piece.offset,
            elapsed_us: piece.elapsed_us,
            base64: STANDARD.encode(&piece.bytes),
        };
        self.pieces.into_iter().map(chunk).collect()
    }
}

/// How sending went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All that waited when the call began has arrived.
    All,
    /// The lease is lost.
    LeaseLost,
    /// The server does not want this log; the rest is dropped.
    Refused,
}

/// Sends everything in `buffer`, repeating calls without an answer until the future is dropped.
/// The bytes of a call that was given up are lost: drop only when nothing more is reported.
pub(crate) async fn send_all(client: &NodeClient, lease: &LeaseRef, mut buffer: LogBuffer) -> Sent {
    let mut backoff = Backoff::between(Duration::from_millis(100), Duration::from_secs(5));
    while let Some(piece) = buffer.take_call() {
        loop {
            let sending =
                client.put_log(lease, piece.stream, piece.offset, piece.elapsed_us, piece.bytes.clone());
            match sending.await {
                Ok(()) => break,
                Err(error) if error.code() == Some(ErrorCode::LeaseLost) => return Sent::LeaseLost,
                Err(error) if error.is_worth_repeating() => {
                    tracing::debug!(%error, "log bytes got no answer; sending them again");
                    tokio::time::sleep(backoff.next_delay(error.retry_after())).await;
                }
                Err(error) => {
                    tracing::warn!(%error, job = %lease.job, attempt = lease.attempt, "the server refuses log bytes");
                    return Sent::Refused;
                }
            }
        }
        backoff.reset();
    }
    Sent::All
}

impl LogBuffer {
    /// Takes out what waits, for [`send_all`]; offsets go on from here.
    pub(crate) fn take_waiting(&mut self) -> Self {
        Self {
            pieces: std::mem::take(&mut self.pieces),
            waiting_bytes: std::mem::take(&mut self.waiting_bytes),
            written: self.written,
            is_cut: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use LogStream::{Stderr, Stdout};

    #[test]
    fn pieces_keep_their_order_and_their_offsets() {
        let mut buffer = LogBuffer::default();
        buffer.push(Stdout, b"one ", 1);
        buffer.push(Stdout, b"two", 2);
        buffer.push(Stderr, b"oops", 3);
        buffer.push(Stdout, b"three", 4);
        let tail = buffer.into_tail();
        let seen: Vec<_> = tail.iter().map(|chunk| (chunk.stream, chunk.offset, chunk.elapsed_us)).collect();
        assert_eq!(seen, [(Stdout, 0, 1), (Stderr, 0, 3), (Stdout, 7, 4)]);
        assert_eq!(STANDARD.decode(&tail[0].base64).expect("base64"), b"one two");
    }

    #[test]
    fn a_call_takes_one_stream_up_to_its_size_and_loses_nothing() {
        let mut buffer = LogBuffer::default();
        for round in 0..10u8 {
            buffer.push(Stdout, &vec![round; 100 << 10], u64::from(round));
            buffer.push(Stderr, &[round], u64::from(round));
        }
        let total = buffer.waiting_bytes();
        let (mut streams, mut sizes) = ([Vec::new(), Vec::new()], Vec::new());
        while let Some(call) = buffer.take_call() {
            assert_eq!(call.offset, streams[place(call.stream)].len() as u64, "no gap");
            assert!(call.bytes.len() <= CALL_BYTES_MAX);
            sizes.push(call.bytes.len());
            streams[place(call.stream)].extend_from_slice(&call.bytes);
        }
        assert_eq!(buffer.waiting_bytes(), 0);
        assert_eq!(sizes.iter().sum::<usize>(), total);
        assert_eq!(streams[1], (0..10u8).collect::<Vec<_>>());
        assert_eq!(streams[0].len(), 10 * (100 << 10));
        assert!(streams[0].is_sorted());
    }

    #[test]
    fn what_is_taken_out_does_not_disturb_later_offsets() {
        let mut buffer = LogBuffer::default();
        buffer.push(Stdout, b"12345", 0);
        assert_eq!(buffer.take_waiting().waiting_bytes(), 5);
        buffer.push(Stdout, b"6", 1);
        assert_eq!(buffer.into_tail()[0].offset, 5);
    }

    #[test]
    fn only_a_little_travels_with_the_report() {
        let mut buffer = LogBuffer::default();
        buffer.push(Stdout, &vec![0; TAIL_BYTES_MAX], 0);
        assert!(!buffer.exceeds_tail());
        buffer.push(Stderr, b"x", 0);
        assert!(buffer.exceeds_tail());
        let mut scattered = LogBuffer::default();
        for _ in 0..40 {
            scattered.push(Stdout, b"o", 0);
            scattered.push(Stderr, b"e", 0);
        }
        assert!(scattered.exceeds_tail(), "many small pieces are as bad");
    }
}
