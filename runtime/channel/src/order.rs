//! From the node to a child.

use std::{io, time::Duration};

use crate::{
    frame::{self, Frame},
    spec::{AssignSpec, CompileSpec, RunSpec, StopReason},
};

const RUN: u8 = 1;
const STOP: u8 = 2;
const ASSIGN: u8 = 3;
const PROBE: u8 = 4;
const COMPILE: u8 = 5;
const KEEP: u8 = 6;

/// From the node to a child.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// Serve one tenant from now on: the first order of an executor.
    Assign(AssignSpec),
    /// Take an assignment, say what confines you, and end.
    Probe(AssignSpec),
    /// Compile a module and end: the one order of a compiler.
    Compile(CompileSpec),
    /// Run this guest.
    Run(Box<RunSpec>),
    /// Stop the guest that was ordered last.
    Stop(StopReason),
    /// End this process, if it runs a guest, at this time after the machine's start; `None` for never.
    /// Replaces what was said before.
    KeepUntil(Option<Duration>),
}

impl Order {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Assign(spec) | Self::Probe(spec) => spec.descriptors(),
            Self::Compile(_) => 2,
            Self::Run(spec) => spec.descriptors(),
            Self::Stop(_) | Self::KeepUntil(_) => 0,
        }
    }

    /// Lays it out as one frame.
    ///
    /// # Errors
    /// When it is longer than a frame may be.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let (kind, json) = match self {
            Self::Assign(spec) => (ASSIGN, serde_json::to_vec(spec)?),
            Self::Probe(spec) => (PROBE, serde_json::to_vec(spec)?),
            Self::Compile(spec) => (COMPILE, serde_json::to_vec(spec)?),
            Self::Run(spec) => (RUN, serde_json::to_vec(spec)?),
            Self::Stop(reason) => (STOP, serde_json::to_vec(reason)?),
            Self::KeepUntil(until) => (KEEP, serde_json::to_vec(until)?),
        };
        frame::encode(kind, &[&json]).map_err(io::Error::other)
    }

    /// Reads one frame.
    ///
    /// # Errors
    /// When the kind is unknown or the payload is not what the kind asks for.
    pub fn decode(frame: &Frame) -> io::Result<Self> {
        let json = &frame.payload;
        Ok(match frame.kind {
            ASSIGN => Self::Assign(serde_json::from_slice(json)?),
            PROBE => Self::Probe(serde_json::from_slice(json)?),
            COMPILE => Self::Compile(serde_json::from_slice(json)?),
            RUN => Self::Run(serde_json::from_slice(json)?),
            STOP => Self::Stop(serde_json::from_slice(json)?),
            KEEP => Self::KeepUntil(serde_json::from_slice(json)?),
            kind => return Err(frame::unknown(kind)),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn every_order_survives_the_wire() {
        let keep = Order::KeepUntil(Some(Duration::from_millis(5)));
        let assign = AssignSpec { readable: 2, writable: 1, ..AssignSpec::default() };
        for order in
            [Order::Assign(assign.clone()), Order::Probe(assign), Order::Stop(StopReason::Deadline), keep]
        {
            let mut wire = BytesMut::from(&order.encode().expect("encodes")[..]);
            let frame = frame::decode(&mut wire).expect("well-formed").expect("whole");
            assert_eq!(Order::decode(&frame).expect("known"), order);
        }
    }

    #[test]
    fn nonsense_is_an_error_and_no_panic() {
        for kind in 0..=255 {
            let frame = Frame { kind, payload: BytesMut::from(&b"{\"x\":"[..]) };
            assert!(Order::decode(&frame).is_err(), "{kind}");
        }
    }
}
