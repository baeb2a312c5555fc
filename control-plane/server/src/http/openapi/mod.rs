//! The description of the API (OpenAPI 3.1): made from the very list of operations that the router serves,
//! from the types of the protocol, and from samples.

mod document;
mod operation;
mod samples;
mod schemas;
pub(super) mod words;

pub(super) use document::document;
pub(super) use operation::{KNOWN, Operation, Tag, group};
