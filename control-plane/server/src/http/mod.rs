//! The HTTP API: one route table, thin handlers, one form of errors.

mod access;
mod body;
mod conditions;
mod context;
mod download;
mod extract;
mod items;
mod json_fault;
mod metrics;
mod node;
mod objects;
mod openapi;
mod problem;
mod ranges;
mod reference;
mod router;
mod routes;
mod segments;
mod signed;
mod sse;
mod system;
mod tar;
mod traced;
mod user;

pub use reference::description;
pub use router::router;
