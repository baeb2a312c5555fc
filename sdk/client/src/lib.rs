//! Typed HTTP clients of a Gristmill server: the users' API and the node protocol.

mod connection;
pub mod node;
pub mod user;

pub use connection::ConnectionFault;
