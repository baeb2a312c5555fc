//! What a node and its child processes send to each other: frames come out the same however the bytes
//! are cut, no message makes a reader panic, and what was read is written and read again as the same.
//!
//! The first two bytes of an input say where it is cut.
#![no_main]

use bytes::BytesMut;
use gristmill_channel::{Frame, FrameError, Order, PAYLOAD_BYTES_MAX, Report, decode, encode};
use libfuzzer_sys::fuzz_target;

/// All frames of what arrives in these parts, and what was left over.
fn frames(parts: &[&[u8]]) -> Result<(Vec<Frame>, usize), FrameError> {
    let mut received = BytesMut::new();
    let mut frames = Vec::new();
    for part in parts {
        received.extend_from_slice(part);
        while let Some(frame) = decode(&mut received)? {
            assert!(frame.payload.len() <= PAYLOAD_BYTES_MAX);
            frames.push(frame);
        }
    }
    Ok((frames, received.len()))
}

/// The one frame of a message that was laid out.
fn one(wire: &[u8]) -> Frame {
    let (frames, left) = frames(&[wire]).expect("what was written can be read");
    assert_eq!((frames.len(), left), (1, 0));
    frames.into_iter().next().expect("there is one")
}

fn messages(frame: &Frame) {
    if let Ok(order) = Order::decode(frame) {
        // How many descriptors to expect is asked before anything is believed.
        let descriptors = order.descriptors();
        let again =
            Order::decode(&one(&order.encode().expect("short"))).expect("what was written can be read");
        assert_eq!(order, again);
        assert_eq!(descriptors, again.descriptors());
    }
    if let Ok(report) = Report::decode(frame) {
        let again =
            Report::decode(&one(&report.encode().expect("short"))).expect("what was written can be read");
        assert_eq!(report, again);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, wire)) = bytes.split_first_chunk() else { return };
    let (first, second) = wire.split_at(usize::from(u16::from_le_bytes(*cut)) % (wire.len() + 1));
    let whole = frames(&[wire]);
    assert_eq!(whole, frames(&[first, second]), "it matters where the bytes are cut");
    let Ok((frames, left)) = whole else { return };
    let mut written = Vec::new();
    for frame in &frames {
        written.extend(encode(frame.kind, &[&frame.payload]).expect("it was not too long"));
        messages(frame);
    }
    assert_eq!(written, wire[..wire.len() - left], "frames are written as they were read");
});
