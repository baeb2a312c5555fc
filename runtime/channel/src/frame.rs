//! The framing between node and executor: one kind byte, a length of four bytes (little endian), and
//! so many bytes of payload. Pure, so that it can be fuzzed.

use std::io;

use bytes::{Buf as _, BytesMut};

/// Longest payload, in bytes. A request carries at most a job's arguments and environment, an event at most
/// 64 KiB of log.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
const HEAD_BYTES: usize = 5;

/// One message on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: u8,
    /// The payload.
    pub payload: BytesMut,
}

/// A peer that does not keep to the framing; nothing after it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Its length, in bytes.
    #[error("a frame of {0} bytes is longer than allowed")]
    TooLong(usize),
}

/// Lays out a frame whose payload comes in parts.
///
/// # Errors
/// When the parts together are longer than [`PAYLOAD_BYTES_MAX`].
pub fn encode(kind: u8, parts: &[&[u8]]) -> Result<Vec<u8>, FrameError> {
    let len = parts.iter().map(|part| part.len()).sum();
    if len > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong(len));
    }
    let mut bytes = Vec::with_capacity(HEAD_BYTES + len);
    bytes.push(kind);
    bytes.extend_from_slice(&(len as u32).to_le_bytes());
    for part in parts {
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

/// Takes the first whole frame out of what was received; `None` if more has to be read first.
///
/// # Errors
/// When a frame says that it is longer than [`PAYLOAD_BYTES_MAX`].
pub fn decode(received: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(head) = received.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let [kind, len @ ..] = *head;
    let len = u32::from_le_bytes(len) as usize;
    if len > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong(len));
    }
    if received.len() < HEAD_BYTES + len {
        received.reserve(HEAD_BYTES + len - received.len());
        return Ok(None);
    }
    received.advance(HEAD_BYTES);
    Ok(Some(Frame { kind, payload: received.split_to(len) }))
}

/// The error for a frame that nobody knows.
pub(crate) fn unknown(kind: u8) -> io::Error {
    io::Error::other(format!("a frame of the unknown kind {kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_whole_however_the_bytes_are_cut() {
        let mut wire = encode(1, &[b"ab", b"", b"c"]).expect("short");
        wire.extend(encode(2, &[]).expect("short"));
        for cut in 0..=wire.len() {
            let mut received = BytesMut::new();
            let mut frames = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                received.extend_from_slice(part);
                while let Some(frame) = decode(&mut received).expect("well-formed") {
                    frames.push((frame.kind, frame.payload.to_vec()));
                }
            }
            assert_eq!(frames, [(1, b"abc".to_vec()), (2, vec![])], "cut at {cut}");
            assert!(received.is_empty());
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
        let mut received = BytesMut::from(&[1, 255, 255, 255, 255][..]);
        assert_eq!(decode(&mut received), Err(FrameError::TooLong(u32::MAX as usize)));
        let long = vec![0; PAYLOAD_BYTES_MAX + 1];
        assert_eq!(encode(1, &[&long]), Err(FrameError::TooLong(PAYLOAD_BYTES_MAX + 1)));
        assert!(encode(1, &[&long[1..]]).is_ok());
    }
}
