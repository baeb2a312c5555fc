//! The tables `nodes` and `join_tokens`.

use async_trait::async_trait;
use gristmill_protocol::{JoinTokenId, NodeId, Timestamp, node::JoinTokenView};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    SqliteStore,
    audit::{AuditRow, audit_insert},
    convert::{failed, from_json, micros, parse, time, time_opt, to_json},
};
use crate::store::{
    Changed, StoreError,
    audit::{AuditNote, Audited},
    node::{JoinTokenRecord, NodeRecord, NodeStore, Redeemed},
    token::SecretHash,
};

fn record(row: &SqliteRow) -> Result<NodeRecord, StoreError> {
    let text = |name| row.try_get::<String, _>(name).map_err(failed("node_read"));
    let number = |name| row.try_get::<i64, _>(name).map_err(failed("node_read"));
    let number_opt = |name| row.try_get::<Option<i64>, _>(name).map_err(failed("node_read"));
    let mut public_key = [0; 32];
    hex::decode_to_slice(text("public_key")?, &mut public_key).map_err(StoreError::inconsistent)?;
    Ok(NodeRecord {
        id: parse(&text("id")?)?,
        name: text("name")?,
        zone: text("zone")?,
        public_key,
        labels: from_json(&text("labels")?)?,
        capabilities: from_json(&text("capabilities")?)?,
        drain: number("drain")? != 0,
        draining: number("draining")? != 0,
        revoked_at: time_opt(number_opt("revoked_at")?)?,
        created_at: time(number("created_at")?)?,
        heartbeat_at: time_opt(number_opt("heartbeat_at")?)?,
        incarnation: row.try_get("incarnation").map_err(failed("node_read"))?,
        version: number("version")?.unsigned_abs(),
    })
}

/// What is shown of a join token.
type JoinTokenRow = (String, Option<String>, i64, i64, Option<i64>, Option<String>);

/// What is needed of a join token to redeem it.
type JoinRow = (String, String, Option<String>, i64, Option<String>);

async fn node_insert(connection: &mut SqliteConnection, node: &NodeRecord) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "/* node_insert */ INSERT INTO nodes (id, name, zone, public_key, labels, capabilities,
             drain, draining, created_at, version)
         VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?, 1) ON CONFLICT (public_key) DO NOTHING",
    )
    .bind(node.id.to_string())
    .bind(&node.name)
    .bind(&node.zone)
    .bind(hex::encode(node.public_key))
    .bind(to_json(&node.labels)?)
    .bind(to_json(&node.capabilities)?)
    .bind(micros(node.created_at))
    .execute(connection)
    .await
    .map_err(failed("node_insert"))?;
    Ok(done.rows_affected() == 1)
}

async fn node_by_key(
    connection: &mut SqliteConnection,
    key: &[u8; 32],
) -> Result<Option<NodeRecord>, StoreError> {
    sqlx::query("/* node_by_key */ SELECT * FROM nodes WHERE public_key = ?")
        .bind(hex::encode(key))
        .fetch_optional(connection)
        .await
        .map_err(failed("node_by_key"))?
        .map(|row| record(&row))
        .transpose()
}

/// Redeems a join token. The record names it as the one who did it.
async fn enroll(
    connection: &mut SqliteConnection,
    secret: SecretHash,
    node: NodeRecord,
    told: Option<&AuditNote>,
) -> Result<Redeemed, StoreError> {
    let found = sqlx::query_as::<_, JoinRow>(
        "/* node_enroll */ SELECT id, zone, node_name, expires_at, used_by FROM join_tokens
         WHERE secret_sha256 = ?",
    )
    .bind(hex::encode(secret))
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("node_enroll"))?;
    // What no join token is goes to the log alone: whoever makes one up could fill the record.
    let Some(token) = found else { return Ok(Redeemed::Invalid) };
    let (actor, at) = (token.0.clone(), node.created_at);
    let redeemed = redeem(&mut *connection, token, node).await?;
    if let Some((told, verdict)) = told.zip(redeemed.verdict()) {
        let told = AuditNote { actor, ..told.clone() };
        audit_insert(connection, &[AuditRow::of(&told, verdict, at)]).await?;
    }
    Ok(redeemed)
}

async fn redeem(
    connection: &mut SqliteConnection,
    (id, zone, node_name, expires_at, used_by): JoinRow,
    mut node: NodeRecord,
) -> Result<Redeemed, StoreError> {
    let known = node_by_key(connection, &node.public_key).await?;
    if let Some(used_by) = used_by {
        let again = known.filter(|known| known.id.to_string() == used_by && known.revoked_at.is_none());
        return Ok(again.map_or(Redeemed::Invalid, Redeemed::Again));
    }
    if expires_at <= micros(node.created_at) {
        return Ok(Redeemed::Invalid);
    }
    if known.is_some() {
        return Ok(Redeemed::KeyInUse);
    }
    if let Some(other) = node_name.filter(|name| *name != node.name) {
        return Ok(Redeemed::OtherName(other));
    }
    node.zone = zone;
    if !node_insert(connection, &node).await? {
        return Ok(Redeemed::KeyInUse);
    }
    let used = sqlx::query(
        "/* node_enroll */ UPDATE join_tokens SET used_at = ?, used_by = ? WHERE id = ? AND used_at IS NULL",
    )
    .bind(micros(node.created_at))
    .bind(node.id.to_string())
    .bind(&id)
    .execute(connection)
    .await
    .map_err(failed("node_enroll"))?;
    if used.rows_affected() == 1 {
        Ok(Redeemed::Enrolled(node))
    } else {
        Err(StoreError::inconsistent(format!("join token {id} was used within its own transaction")))
    }
}

/// The changed node, or why no row was changed: it is gone, or of another version.
async fn changed(
    connection: &mut SqliteConnection,
    id: NodeId,
    row: Option<SqliteRow>,
) -> Result<Changed<NodeRecord>, StoreError> {
    if let Some(row) = row {
        return record(&row).map(Changed::Done);
    }
    let version = sqlx::query_scalar::<_, i64>("/* node_changed */ SELECT version FROM nodes WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed("node_changed"))?;
    Ok(version.map_or(Changed::Absent, |version| Changed::Stale(version.unsigned_abs())))
}

#[async_trait]
impl NodeStore for SqliteStore {
    async fn join_token_create(&self, token: JoinTokenRecord) -> Result<bool, StoreError> {
        self.write("join_token_create", move |connection| {
            Box::pin(async move {
                let done = sqlx::query(
                    "/* join_token_create */ INSERT INTO join_tokens
                         (id, secret_sha256, zone, node_name, created_at, expires_at, created_by)
                     SELECT ?, ?, zones.name, ?, ?, ?, ? FROM zones WHERE zones.name = ?",
                )
                .bind(token.id.to_string())
                .bind(hex::encode(token.secret))
                .bind(token.node_name)
                .bind(micros(token.created_at))
                .bind(micros(token.expires_at))
                .bind(token.created_by)
                .bind(token.zone)
                .execute(connection)
                .await
                .map_err(failed("join_token_create"))?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    async fn join_token_get(&self, id: JoinTokenId) -> Result<Option<JoinTokenView>, StoreError> {
        let Some(row) = sqlx::query_as::<_, JoinTokenRow>(
            "/* join_token_get */ SELECT zone, node_name, created_at, expires_at, used_at, used_by
             FROM join_tokens WHERE id = ?",
        )
        .bind(id.to_string())
        .fetch_optional(self.reads())
        .await
        .map_err(failed("join_token_get"))?
        else {
            return Ok(None);
        };
        let (zone, node_name, created_at, expires_at, used_at, used_by) = row;
        Ok(Some(JoinTokenView {
            id,
            zone,
            node_name,
            created_at: time(created_at)?,
            expires_at: time(expires_at)?,
            used_at: time_opt(used_at)?,
            used_by: used_by.as_deref().map(parse).transpose()?,
        }))
    }

    async fn node_enroll(&self, secret: SecretHash, node: NodeRecord) -> Result<Redeemed, StoreError> {
        let told = self.note.clone();
        self.write_unrecorded("node_enroll", move |connection| {
            Box::pin(async move { enroll(connection, secret, node, told.as_deref()).await })
        })
        .await
    }

    async fn node_list(&self) -> Result<Vec<NodeRecord>, StoreError> {
        sqlx::query("/* node_list */ SELECT * FROM nodes ORDER BY id")
            .fetch_all(self.reads())
            .await
            .map_err(failed("node_list"))?
            .iter()
            .map(record)
            .collect()
    }

    async fn node_heartbeat(&self, node: NodeRecord) -> Result<(), StoreError> {
        self.write("node_heartbeat", move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "/* node_heartbeat */ UPDATE nodes
                     SET labels = ?, capabilities = ?, draining = ?, heartbeat_at = ?, incarnation = ?
                     WHERE id = ? AND revoked_at IS NULL",
                )
                .bind(to_json(&node.labels)?)
                .bind(to_json(&node.capabilities)?)
                .bind(node.draining)
                .bind(node.heartbeat_at.map(micros))
                .bind(node.incarnation)
                .bind(node.id.to_string())
                .execute(connection)
                .await
                .map_err(failed("node_heartbeat"))?;
                Ok(())
            })
        })
        .await
    }

    async fn node_set_drain(
        &self,
        id: NodeId,
        drain: bool,
        if_version: Option<u64>,
    ) -> Result<Changed<NodeRecord>, StoreError> {
        self.write("node_set_drain", move |connection| {
            Box::pin(async move {
                let row = sqlx::query(
                    "/* node_set_drain */ UPDATE nodes
                     SET drain = ?1, version = version + (drain <> ?1)
                     WHERE id = ?2 AND revoked_at IS NULL AND (?3 IS NULL OR version = ?3) RETURNING *",
                )
                .bind(drain)
                .bind(id.to_string())
                .bind(if_version.map(|version| version as i64))
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed("node_set_drain"))?;
                changed(connection, id, row).await
            })
        })
        .await
    }

    async fn node_revoke(
        &self,
        id: NodeId,
        at: Timestamp,
        if_version: Option<u64>,
    ) -> Result<Changed<NodeRecord>, StoreError> {
        self.write("node_revoke", move |connection| {
            Box::pin(async move {
                let row = sqlx::query(
                    "/* node_revoke */ UPDATE nodes
                     SET version = version + (revoked_at IS NULL), revoked_at = coalesce(revoked_at, ?1)
                     WHERE id = ?2 AND (?3 IS NULL OR version = ?3) RETURNING *",
                )
                .bind(micros(at))
                .bind(id.to_string())
                .bind(if_version.map(|version| version as i64))
                .fetch_optional(&mut *connection)
                .await
                .map_err(failed("node_revoke"))?;
                changed(connection, id, row).await
            })
        })
        .await
    }
}
