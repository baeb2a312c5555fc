//! The table `tokens`.

use async_trait::async_trait;
use gristmill_protocol::{
    Timestamp, TokenId,
    tenancy::{Scope, TokenView},
};

use super::{
    SqliteStore,
    convert::{failed, micros, parse, time, time_opt},
};
use crate::store::{
    Changed, StoreError,
    token::{SecretHash, TokenStore},
};

type TokenRow = (String, String, String, String, i64, i64, Option<i64>);

fn view(row: TokenRow) -> Result<TokenView, StoreError> {
    let (id, name, tenant, scopes, created_at, expires_at, revoked_at) = row;
    Ok(TokenView {
        id: parse(&id)?,
        name,
        tenant,
        scopes: scopes.split_whitespace().map(parse).collect::<Result<Vec<Scope>, _>>()?,
        created_at: time(created_at)?,
        expires_at: time(expires_at)?,
        revoked_at: time_opt(revoked_at)?,
    })
}

#[async_trait]
impl TokenStore for SqliteStore {
    async fn token_create(&self, token: TokenView, secret: SecretHash) -> Result<bool, StoreError> {
        self.write("token_create", move |connection| {
            Box::pin(async move {
                let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
                let done = sqlx::query(
                    "/* token_create */ INSERT INTO tokens
                         (id, secret_sha256, name, tenant, scopes, created_at, expires_at)
                     SELECT ?, ?, ?, tenants.name, ?, ?, ? FROM tenants WHERE tenants.name = ?",
                )
                .bind(token.id.to_string())
                .bind(hex::encode(secret))
                .bind(token.name)
                .bind(scopes.join(" "))
                .bind(micros(token.created_at))
                .bind(micros(token.expires_at))
                .bind(token.tenant)
                .execute(connection)
                .await
                .map_err(failed("token_create"))?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    async fn token_by_secret(&self, secret: SecretHash) -> Result<Option<TokenView>, StoreError> {
        sqlx::query_as::<_, TokenRow>(
            "/* token_by_secret */ SELECT id, name, tenant, scopes, created_at, expires_at, revoked_at
             FROM tokens WHERE secret_sha256 = ?",
        )
        .bind(hex::encode(secret))
        .fetch_optional(self.reads())
        .await
        .map_err(failed("token_by_secret"))?
        .map(view)
        .transpose()
    }

    async fn token_get(&self, tenant: Option<String>, id: TokenId) -> Result<Option<TokenView>, StoreError> {
        sqlx::query_as::<_, TokenRow>(
            "/* token_get */ SELECT id, name, tenant, scopes, created_at, expires_at, revoked_at
             FROM tokens WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)",
        )
        .bind(id.to_string())
        .bind(tenant)
        .fetch_optional(self.reads())
        .await
        .map_err(failed("token_get"))?
        .map(view)
        .transpose()
    }

    async fn token_list(
        &self,
        tenant: Option<String>,
        before: Option<TokenId>,
        limit: u32,
    ) -> Result<Vec<TokenView>, StoreError> {
        sqlx::query_as::<_, TokenRow>(
            "/* token_list */ SELECT id, name, tenant, scopes, created_at, expires_at, revoked_at
             FROM tokens
             WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR id < ?2)
             ORDER BY id DESC LIMIT ?3",
        )
        .bind(tenant)
        .bind(before.map(|id| id.to_string()))
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("token_list"))?
        .into_iter()
        .map(view)
        .collect()
    }

    async fn token_revoke(
        &self,
        tenant: Option<String>,
        id: TokenId,
        at: Timestamp,
        if_revision: Option<u64>,
    ) -> Result<Changed<TokenView>, StoreError> {
        self.write("token_revoke", move |connection| {
            Box::pin(async move {
                let row = sqlx::query_as::<_, TokenRow>(
                    "/* token_revoke */ UPDATE tokens SET revoked_at = coalesce(revoked_at, ?1)
                     WHERE id = ?2 AND (?3 IS NULL OR tenant = ?3)
                       AND (?4 IS NULL OR 1 + (revoked_at IS NOT NULL) = ?4)
                     RETURNING id, name, tenant, scopes, created_at, expires_at, revoked_at",
                )
                .bind(micros(at))
                .bind(id.to_string())
                .bind(&tenant)
                .bind(if_revision.map(|revision| revision as i64))
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed("token_revoke"))?;
                if let Some(row) = row {
                    return view(row).map(Changed::Done);
                }
                let revision = sqlx::query_scalar::<_, i64>(
                    "/* token_revoke */ SELECT 1 + (revoked_at IS NOT NULL) FROM tokens
                     WHERE id = ?1 AND (?2 IS NULL OR tenant = ?2)",
                )
                .bind(id.to_string())
                .bind(tenant)
                .fetch_optional(connection)
                .await
                .map_err(failed("token_revoke"))?;
                Ok(revision.map_or(Changed::Absent, |revision| Changed::Stale(revision.unsigned_abs())))
            })
        })
        .await
    }
}
