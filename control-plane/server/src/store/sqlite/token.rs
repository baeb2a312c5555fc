//! The table `tokens`.

use async_trait::async_trait;
use gristmill_protocol::{
    Timestamp, TokenId,
    tenancy::{Scope, TokenView},
};
use sqlx::SqliteConnection;

use super::{
    SqliteStore,
    convert::{failed, micros, parse, time, time_opt},
};
use crate::store::{
    Changed, StoreError,
    token::{Revoked, SecretHash, TOKENS_MADE_MAX, TokenPut, TokenStore},
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

/// Why a token cannot be made, in the transaction that makes it; `Done` when it can.
async fn refusal(
    connection: &mut SqliteConnection,
    token: &TokenView,
    maker: Option<TokenId>,
) -> Result<TokenPut, StoreError> {
    let (has_tenant, is_maker_live, made) = sqlx::query_as::<_, (bool, bool, i64)>(
        "/* token_create */ SELECT EXISTS (SELECT 1 FROM tenants WHERE name = ?1),
             EXISTS (SELECT 1 FROM tokens WHERE id = ?2 AND revoked_at IS NULL AND expires_at > ?3),
             (SELECT count(*) FROM tokens
              WHERE tenant = ?1 AND maker IS NOT NULL AND revoked_at IS NULL AND expires_at > ?3)",
    )
    .bind(&token.tenant)
    .bind(maker.map(|maker| maker.to_string()))
    .bind(micros(token.created_at))
    .fetch_one(connection)
    .await
    .map_err(failed("token_create"))?;
    Ok(match maker {
        _ if !has_tenant => TokenPut::NoTenant,
        Some(_) if !is_maker_live => TokenPut::MakerEnded,
        Some(_) if made >= i64::from(TOKENS_MADE_MAX) => TokenPut::TooMany,
        _ => TokenPut::Done,
    })
}

#[async_trait]
impl TokenStore for SqliteStore {
    async fn token_create(
        &self,
        token: TokenView,
        secret: SecretHash,
        maker: Option<TokenId>,
    ) -> Result<TokenPut, StoreError> {
        self.write("token_create", move |connection| {
            Box::pin(async move {
                let refusal = refusal(connection, &token, maker).await?;
                if refusal != TokenPut::Done {
                    return Ok(refusal);
                }
                let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
                sqlx::query(
                    "/* token_create */ INSERT INTO tokens
                         (id, secret_sha256, name, tenant, scopes, created_at, expires_at, maker)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                )
                .bind(token.id.to_string())
                .bind(hex::encode(secret))
                .bind(token.name)
                .bind(token.tenant)
                .bind(scopes.join(" "))
                .bind(micros(token.created_at))
                .bind(micros(token.expires_at))
                .bind(maker.map(|maker| maker.to_string()))
                .execute(connection)
                .await
                .map_err(failed("token_create"))?;
                Ok(TokenPut::Done)
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
    ) -> Result<Changed<Revoked>, StoreError> {
        self.write("token_revoke", move |connection| {
            Box::pin(async move {
                // What has ended by itself made nothing that outlives it, so that the line ends there.
                let rows = sqlx::query_as::<_, TokenRow>(
                    "/* token_revoke */ WITH RECURSIVE line (id) AS (
                         SELECT id FROM tokens
                         WHERE id = ?2 AND (?3 IS NULL OR tenant = ?3)
                           AND (?4 IS NULL OR 1 + (revoked_at IS NOT NULL) = ?4)
                         UNION
                         SELECT made.id FROM line JOIN tokens made ON made.maker = line.id
                         WHERE made.revoked_at IS NULL AND made.expires_at > ?1)
                     UPDATE tokens SET revoked_at = coalesce(revoked_at, ?1)
                     WHERE id IN (SELECT id FROM line)
                     RETURNING id, name, tenant, scopes, created_at, expires_at, revoked_at",
                )
                .bind(micros(at))
                .bind(id.to_string())
                .bind(&tenant)
                .bind(if_revision.map(|revision| revision as i64))
                .fetch_all(&mut *connection)
                .await
                .map_err(failed("token_revoke"))?;
                let tokens = rows.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
                let (named, made): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|token| token.id == id);
                if let Some(token) = named.into_iter().next() {
                    let with_it = made.iter().map(|token| token.id).collect();
                    return Ok(Changed::Done(Revoked { token, with_it }));
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
