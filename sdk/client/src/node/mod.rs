//! The node's side of the node protocol: signed calls over plain HTTPS/1.1.
//!
//! Everything here only dials out. A call either brings the server's own answer, or ends in
//! [`CallError::Unknown`]: it may or may not have taken effect, and may be repeated as it is.

mod backoff;
mod calls;
mod clock;
mod error;
mod key;
mod transfer;
mod transport;

pub use backoff::Backoff;
pub use calls::{NodeClient, enroll};
pub use clock::ServerClock;
pub use error::CallError;
pub use key::{InvalidKey, NodeKey};
pub use transfer::BlobBody;
pub use transport::{Transport, TransportError};
