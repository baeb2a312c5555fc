//! From a child to the node: JSON for what happened, raw bytes for log.

use std::io;

use gristmill_protocol::attempt::LogStream;

use crate::{
    frame::{self, Frame},
    spec::{CompileReport, Confinement, RunEnd, RunEvent},
};

const STARTED: u8 = 16;
const STDOUT: u8 = 17;
const STDERR: u8 = 18;
const LOG_TRUNCATED: u8 = 19;
const END: u8 = 20;
const PROBED: u8 = 21;
const COMPILED: u8 = 22;
const RESTED: u8 = 23;

/// From a child to the node. A run's events come in order, then its end, then that it rested.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// What confines the child.
    Probed(Confinement),
    /// What became of the compilation.
    Compiled(CompileReport),
    /// Something happened while the guest runs.
    Event(RunEvent),
    /// The run is over.
    End(Box<RunEnd>),
    /// What the run held has been freed; the last word about it. Whether the process holds as little
    /// as before its first run.
    Rested(bool),
}

impl Report {
    /// Lays it out as one frame.
    ///
    /// # Errors
    /// When it is longer than a frame may be.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Probed(confinement) => frame::encode(PROBED, &[&serde_json::to_vec(confinement)?]),
            Self::Compiled(report) => frame::encode(COMPILED, &[&serde_json::to_vec(report)?]),
            Self::Event(RunEvent::Started) => frame::encode(STARTED, &[]),
            Self::Event(RunEvent::Log { stream, bytes, elapsed_us }) => {
                let kind = if *stream == LogStream::Stdout { STDOUT } else { STDERR };
                frame::encode(kind, &[&elapsed_us.to_le_bytes(), bytes])
            }
            Self::Event(RunEvent::LogTruncated) => frame::encode(LOG_TRUNCATED, &[]),
            Self::End(end) => frame::encode(END, &[&serde_json::to_vec(end)?]),
            Self::Rested(as_before) => frame::encode(RESTED, &[&serde_json::to_vec(as_before)?]),
        }
        .map_err(io::Error::other)
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// When the kind is unknown or the payload is not what the kind asks for.
    pub fn decode(frame: &Frame) -> io::Result<Self> {
        Ok(match frame.kind {
            PROBED => Self::Probed(serde_json::from_slice(&frame.payload)?),
            COMPILED => Self::Compiled(serde_json::from_slice(&frame.payload)?),
            STARTED => Self::Event(RunEvent::Started),
            STDOUT | STDERR => {
                let (elapsed_us, bytes) = frame
                    .payload
                    .split_first_chunk()
                    .ok_or_else(|| io::Error::other("a log frame is too short"))?;
                Self::Event(RunEvent::Log {
                    stream: if frame.kind == STDOUT { LogStream::Stdout } else { LogStream::Stderr },
                    bytes: bytes.to_vec(),
                    elapsed_us: u64::from_le_bytes(*elapsed_us),
                })
            }
            LOG_TRUNCATED => Self::Event(RunEvent::LogTruncated),
            END => Self::End(serde_json::from_slice(&frame.payload)?),
            RESTED => Self::Rested(serde_json::from_slice(&frame.payload)?),
            kind => return Err(frame::unknown(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use gristmill_protocol::{Outcome, Reason};

    use super::*;

    #[test]
    fn every_report_survives_the_wire() {
        let end = RunEnd { outcome: Outcome::failed(Reason::Trap, "x"), reusable: true };
        let log = |stream, bytes: &[u8]| RunEvent::Log { stream, bytes: bytes.to_vec(), elapsed_us: 1 << 40 };
        for report in [
            Report::Probed(Confinement { seccomp: true, landlock_abi: 7, own_uid: false }),
            Report::Compiled(CompileReport::Refused("why".into())),
            Report::Event(RunEvent::Started),
            Report::Event(log(LogStream::Stdout, b"\0\xff")),
            Report::Event(log(LogStream::Stderr, b"")),
            Report::Event(RunEvent::LogTruncated),
            Report::End(Box::new(end)),
            Report::Rested(true),
        ] {
            let mut wire = BytesMut::from(&report.encode().expect("encodes")[..]);
            let frame = frame::decode(&mut wire).expect("well-formed").expect("whole");
            assert_eq!(Report::decode(&frame).expect("known"), report);
        }
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        for kind in 0..=255 {
            let frame = Frame { kind, payload: BytesMut::from(&b"{\"x\":"[..]) };
            if !matches!(kind, STARTED | LOG_TRUNCATED) {
                assert!(Report::decode(&frame).is_err(), "{kind}");
            }
        }
    }
}
