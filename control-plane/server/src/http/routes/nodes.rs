//! Nodes and join tokens.

use gristmill_protocol::{
    ErrorCode::{Conflict, NotFound},
    JoinTokenId, NodeId, Page,
    node::{JoinTokenCreated, JoinTokenSpec, JoinTokenView, NodeView},
    tenancy::Scope,
};

use crate::http::{
    openapi::{Operation, Tag, group},
    user::nodes,
};

const NODE: &str = "The node.";
const TAG: (&str, &str) = (
    "The version in quotes, followed by a dot and a digest of all that is shown, which heartbeats and leases change. For `If-Match`, the version alone counts where something is changed.",
    "^\"[0-9]+\\.[0-9a-f]{16}\"$",
);

pub(super) fn operations() -> Vec<Operation> {
    let operations = vec![
        Operation::get("/v1/nodes", nodes::list)
            .named("listNodes", "List nodes", "Nodes of the zones that the caller may see, with what each offers and what is under lease.")
            .needs(Scope::Read)
            .query::<nodes::NodeQuery>()
            .answers::<Page<NodeView>>(200, "One page."),
        Operation::get("/v1/nodes/{id}", nodes::get)
            .named("getNode", "Show a node", "One node.")
            .needs(Scope::Read)
            .at::<NodeId>("id", NODE)
            .answers::<NodeView>(200, "The node.")
            .tagged_as(TAG.0, TAG.1)
            .refuses(&[NotFound]),
        changes_node(
            Operation::post("/v1/nodes/{id}/drain", nodes::drain)
                .named("drainNode", "Drain a node", "It finishes what runs and takes nothing new. A second call changes nothing."),
        )
        .refuses(&[Conflict]),
        changes_node(
            Operation::post("/v1/nodes/{id}/resume", nodes::resume)
                .named("resumeNode", "End a node's drain", "It takes work again."),
        )
        .refuses(&[Conflict]),
        changes_node(
            Operation::post("/v1/nodes/{id}/revoke", nodes::revoke)
                .named("revokeNode", "Take a node's identity back", "Its calls are refused from now on, and it cannot return; its jobs run elsewhere when their leases have ended."),
        ),
        Operation::post("/v1/join-tokens", nodes::create_join_token)
            .named("createJoinToken", "Make a join token", "A node redeems it once, within 15 minutes at most, and belongs to the token's zone from then on. The secret is shown only now.")
            .needs(Scope::Admin)
            .takes::<JoinTokenSpec>()
            .answers::<JoinTokenCreated>(201, "The new token with its secret.")
            .located()
            .refuses(&[NotFound]),
        Operation::get("/v1/join-tokens/{id}", nodes::get_join_token)
            .named("getJoinToken", "Show a join token", "Whether it was redeemed, and by whom; never its secret.")
            .needs(Scope::Admin)
            .at::<JoinTokenId>("id", "The join token.")
            .answers::<JoinTokenView>(200, "The join token.")
            .refuses(&[NotFound]),
    ];
    group(Tag::Nodes, operations)
}

/// An operator's change to one node.
fn changes_node(operation: Operation) -> Operation {
    operation
        .needs(Scope::Admin)
        .at::<NodeId>("id", NODE)
        .under_condition()
        .answers::<NodeView>(200, "The node as it is now.")
        .tagged_as(TAG.0, TAG.1)
        .refuses(&[NotFound])
}
