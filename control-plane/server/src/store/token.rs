//! User tokens as they are kept: hashed, never in clear.

use async_trait::async_trait;
use gristmill_protocol::{Timestamp, TokenId, tenancy::TokenView};

use super::{Changed, StoreError};

/// SHA-256 of a secret.
pub type SecretHash = [u8; 32];

/// Most live tokens of one tenant that were made by tokens without the scope `admin`. Each token has
/// a rate of its own, so that their number bounds what a tenant can ask for.
pub const TOKENS_MADE_MAX: u32 = 1_000;

/// What became of a new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPut {
    /// It was made.
    Done,
    /// Its tenant does not exist.
    NoTenant,
    /// The token that makes it was revoked or has expired meanwhile.
    MakerEnded,
    /// The tenant has [`TOKENS_MADE_MAX`] of its kind.
    TooMany,
}

/// A token that was taken back, and what went with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// The token.
    pub token: TokenView,
    /// The live tokens that it had made, and those that they had made, and so on.
    pub with_it: Vec<TokenId>,
}

/// Keeps user tokens.
#[async_trait]
pub trait TokenStore {
    /// Makes a token. `maker` is the token that makes it, if that lacks the scope `admin`; it has to
    /// be live. Durable when it returns.
    async fn token_create(
        &self,
        token: TokenView,
        secret: SecretHash,
        maker: Option<TokenId>,
    ) -> Result<TokenPut, StoreError>;

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

    /// Takes a token back, if its revision is `if_revision` or that is `None`, and with it all live
    /// tokens that go back to it as their maker. A second call changes nothing. `Absent` when there is no such token in that tenant (any tenant when `None`). Durable
    /// when it returns.
    async fn token_revoke(
        &self,
        tenant: Option<String>,
        id: TokenId,
        at: Timestamp,
        if_revision: Option<u64>,
    ) -> Result<Changed<Revoked>, StoreError>;
}
