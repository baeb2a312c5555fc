//! Every operation: its method, path and handler, and what callers read of it in the API reference.

mod events;
mod jobs;
mod modules;
mod node_protocol;
mod nodes;
mod system;
mod tenancy;
mod uploads;
mod zones;

use super::openapi::Operation;

/// All operations, in the order of the reference.
pub(super) fn operations() -> Vec<Operation> {
    [
        modules::operations(),
        uploads::operations(),
        jobs::operations(),
        events::operations(),
        zones::operations(),
        nodes::operations(),
        tenancy::operations(),
        system::operations(),
        node_protocol::operations(),
    ]
    .concat()
}
