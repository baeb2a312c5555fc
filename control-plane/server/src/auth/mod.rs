//! Credentials: secrets and their hashes, the tokens of users seen lately, and the signatures of
//! nodes.

pub mod signature;

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use gristmill_protocol::{NodeId, Timestamp, TokenId, tenancy::TokenView};
use sha2::{Digest as _, Sha256};

use crate::{
    entropy::Entropy,
    principal::{Origin, Principal},
    store::token::SecretHash,
};

/// What the secret of a user token starts with.
pub const USER_SECRET_PREFIX: &str = "gmu_";
/// What the secret of a join token starts with.
pub const JOIN_SECRET_PREFIX: &str = "gmj_";

/// Tokens that are remembered at a time.
const TOKENS_MAX: usize = 10_000;
/// How long a token is remembered before the store is asked again.
const TOKEN_REMEMBERED: Duration = Duration::from_secs(30);
/// How long a nonce is remembered at least: twice the allowed skew.
const NONCE_REMEMBERED: Duration =
    Duration::from_secs(2 * gristmill_protocol::node_api::SIGNATURE_SKEW_SECONDS.unsigned_abs());

/// Makes a secret of 256 random bits behind a prefix that scanners of leaked secrets can find.
pub fn new_secret(prefix: &str, entropy: &dyn Entropy) -> String {
    format!("{prefix}{}", hex::encode(entropy.bytes::<32>()))
}

/// What is kept of a secret.
pub fn secret_hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct CachedToken {
    principal: Principal,
    expires_at: Timestamp,
    cached_at: Timestamp,
}

#[derive(Debug, Default)]
struct Tokens {
    by_secret: HashMap<SecretHash, CachedToken>,
    /// Rises with every revocation, so that a lookup that began before it is not remembered.
    revocations: u64,
}

/// User tokens seen lately, so that a request costs no query.
#[derive(Debug, Default)]
pub struct TokenCache {
    tokens: Mutex<Tokens>,
}

impl TokenCache {
    /// Who the secret belongs to, if that is remembered; else a ticket for [`Self::put`].
    pub fn get(&self, secret: &SecretHash, now: Timestamp) -> Result<Principal, u64> {
        let tokens = lock(&self.tokens);
        match tokens.by_secret.get(secret) {
            Some(found)
                if now < found.expires_at
                    && now.duration_since(found.cached_at).unsigned_abs() < TOKEN_REMEMBERED =>
            {
                Ok(found.principal.clone())
            }
            _ => Err(tokens.revocations),
        }
    }

    /// Remembers a valid token that was looked up with the ticket of [`Self::get`], unless a token
    /// was revoked meanwhile.
    pub fn put(&self, secret: SecretHash, token: &TokenView, now: Timestamp, ticket: u64) -> Principal {
        let principal = Principal {
            token: token.id,
            tenant: token.tenant.clone(),
            scopes: token.scopes.clone(),
            origin: Origin::default(),
        };
        let mut tokens = lock(&self.tokens);
        if tokens.revocations == ticket {
            if tokens.by_secret.len() >= TOKENS_MAX {
                tokens.by_secret.clear();
            }
            let cached =
                CachedToken { principal: principal.clone(), expires_at: token.expires_at, cached_at: now };
            tokens.by_secret.insert(secret, cached);
        }
        principal
    }

    /// Forgets revoked tokens. Call it after the revocation is durable.
    pub fn forget(&self, revoked: &[TokenId]) {
        let mut tokens = lock(&self.tokens);
        tokens.revocations += 1;
        tokens.by_secret.retain(|_, cached| !revoked.contains(&cached.principal.token));
    }
}

#[derive(Debug, Default)]
struct Nonces {
    recent: HashSet<(NodeId, String)>,
    older: HashSet<(NodeId, String)>,
    turned_at: Option<Timestamp>,
}

/// Nonces of signed requests seen lately: a request is served once.
#[derive(Debug, Default)]
pub struct ReplayCache {
    nonces: Mutex<Nonces>,
}

impl ReplayCache {
    /// Remembers a nonce of a verified request; `false` when it was used before.
    pub fn admit(&self, node: NodeId, nonce: &str, now: Timestamp) -> bool {
        let mut nonces = lock(&self.nonces);
        let turned_at = *nonces.turned_at.get_or_insert(now);
        if now.duration_since(turned_at).unsigned_abs() >= NONCE_REMEMBERED {
            nonces.older = std::mem::take(&mut nonces.recent);
            nonces.turned_at = Some(now);
        }
        let entry = (node, nonce.to_owned());
        !nonces.older.contains(&entry) && nonces.recent.insert(entry)
    }
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::tenancy::Scope;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn a_token_that_is_looked_up_while_another_is_revoked_is_not_remembered() {
        let cache = TokenCache::default();
        let token = TokenView {
            id: TokenId::from_parts(1, [1; 10]),
            name: "t".into(),
            tenant: "default".into(),
            scopes: vec![Scope::Read],
            created_at: at(0),
            expires_at: at(1_000),
            revoked_at: None,
        };
        let ticket = cache.get(&[1; 32], at(1)).expect_err("is not remembered yet");
        cache.forget(&[token.id]);
        cache.put([1; 32], &token, at(1), ticket);
        let ticket = cache.get(&[1; 32], at(1)).expect_err("a revocation came between");
        cache.put([1; 32], &token, at(1), ticket);
        assert!(cache.get(&[1; 32], at(2)).is_ok());
        assert!(cache.get(&[1; 32], at(32)).is_err(), "the store is asked again after a while");
        cache.forget(&[token.id]);
        assert!(cache.get(&[1; 32], at(2)).is_err());
    }

    #[test]
    fn a_nonce_is_admitted_once_within_twice_the_skew() {
        let cache = ReplayCache::default();
        let node = NodeId::from_parts(1, [1; 10]);
        assert!(cache.admit(node, "a", at(0)));
        assert!(!cache.admit(node, "a", at(1)));
        assert!(cache.admit(NodeId::from_parts(1, [2; 10]), "a", at(1)));
        assert!(cache.admit(node, "b", at(599)));
        assert!(cache.admit(node, "c", at(601)), "the sets turn here");
        assert!(!cache.admit(node, "b", at(1_198)));
    }
}
