//! What a node and its child processes say to each other, and how it is framed.
//!
//! Orders go to a child over a Unix socket, because some of them carry open descriptors; reports come
//! back over a pipe. Everything here is pure: bytes in, values out, so that it can be fuzzed.

mod frame;
mod order;
mod report;
mod spec;

pub use frame::{Frame, FrameError, PAYLOAD_BYTES_MAX, decode, encode};
pub use order::Order;
pub use report::Report;
pub use spec::{
    AssignSpec, CompileReport, CompileSpec, Confinement, MountSpec, RunEnd, RunEvent, RunSpec, StopReason,
};
