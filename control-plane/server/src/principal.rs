//! Who makes a request, as the authentication layer found out. Nothing here comes from what a
//! caller merely says.

use std::{net::IpAddr, sync::Arc};

use gristmill_protocol::{ErrorCode, NodeId, TokenId, audit::AuditOperation, tenancy::Scope};

use crate::{error::ApiError, store::audit::AuditNote};

/// Where a request came from.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// Finds the request in the log.
    pub request_id: Arc<str>,
    /// The client's address.
    pub peer: Option<IpAddr>,
}

impl Origin {
    /// What the record says of a change that the server makes at somebody's request.
    pub fn note(&self, operation: AuditOperation, object: impl std::fmt::Display) -> AuditNote {
        AuditNote {
            peer: self.peer,
            request_id: Some(&*self.request_id).filter(|id| !id.is_empty()).map(str::to_owned),
            ..AuditNote::of_server(operation, object)
        }
    }
}

/// A user, by the token on the request.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The token's public name; the actor in events.
    pub token: TokenId,
    /// The tenant that the token acts for.
    pub tenant: String,
    /// What the token may do.
    pub scopes: Vec<Scope>,
    /// Where this request of his came from.
    pub origin: Origin,
}

impl Principal {
    /// Whether the token may do this. `admin` may do everything.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.is_admin()
    }

    /// Fails with `forbidden`, naming the scope, unless the token may do this.
    pub fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.may(scope) {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::Forbidden, format!("this token lacks the scope {scope}"))
            .with_hint(format!("ask for a token with the scope {scope}: gristmill token create")))
    }

    /// What the record says of a change by this user.
    pub fn note(&self, operation: AuditOperation, object: impl std::fmt::Display) -> AuditNote {
        AuditNote {
            actor: self.token.to_string(),
            tenant: Some(self.tenant.clone()),
            ..self.origin.note(operation, object)
        }
    }

    /// Whether the token acts on the whole system.
    pub fn is_admin(&self) -> bool {
        self.scopes.contains(&Scope::Admin)
    }
}

/// A node, by the signature on the request. Its zone comes from its enrolment.
#[derive(Debug, Clone)]
pub struct NodePrincipal {
    /// The node.
    pub node: NodeId,
    /// The zone that it was enrolled into.
    pub zone: String,
    /// Where this request of its came from.
    pub origin: Origin,
}

impl NodePrincipal {
    /// What the record says of something that this node does or tries.
    pub fn note(&self, operation: AuditOperation, object: impl std::fmt::Display) -> AuditNote {
        AuditNote { actor: self.node.to_string(), ..self.origin.note(operation, object) }
    }
}
