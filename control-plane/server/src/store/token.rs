//! User tokens as they are kept: hashed, never in clear.

use async_trait::async_trait;
use gristmill_protocol::{Timestamp, TokenId, tenancy::TokenView};

use super::{Changed, StoreError};

/// SHA-256 of a secret.
pub type SecretHash = [u8; 32];

/// Keeps user tokens.
#[async_trait]
pub trait TokenStore {
    /// Makes a token. `false` when its tenant does not exist. Durable when it returns.
    async fn token_create(&self, token: TokenView, secret: SecretHash) -> Result<bool, StoreError>;

    /// The token of a secret, revoked and expired ones included.
    async fn token_by_secret(&self, secret: SecretHash) -> Result<Option<TokenView>, StoreError>;

    /// One token of a tenant, or of any when `tenant` is `None`.
    async fn token_get(&self, tenant: Option<String>, id: TokenId) -> Result<Option<TokenView>, StoreError>;

    /// Tokens of one tenant, or of all, newest first, older than the given one.
    async fn token_list(
        &self,
        tenant: Option<String>,
        before: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<TokenView>, StoreError>;

    /// Takes a token back, if its revision is `if_revision` or that is `None`. A second call changes
    /// nothing. `Absent` when there is no such token in that tenant (any tenant when `None`). Durable
    /// when it returns.
    async fn token_revoke(
        &self,
        tenant: Option<String>,
        id: TokenId,
        at: Timestamp,
        if_revision: Option<u64>,
    ) -> Result<Changed<TokenView>, StoreError>;
}
