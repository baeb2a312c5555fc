//! The table `audit`.

use async_trait::async_trait;
use gristmill_protocol::{
    Timestamp,
    audit::{AuditOperation, AuditView},
};
use serde::Serialize;
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    SqliteStore,
    convert::{failed, micros, parse, time, to_json},
};
use crate::store::{
    StoreError,
    audit::{AuditNote, AuditQuery, AuditStore, Verdict},
};

/// An entry to be written.
#[derive(Debug, Serialize)]
pub(super) struct AuditRow {
    at: i64,
    actor: String,
    tenant: Option<String>,
    peer: Option<String>,
    request_id: Option<String>,
    operation: &'static str,
    object: String,
    outcome: &'static str,
    version_before: Option<u64>,
    version_after: Option<u64>,
}

impl AuditRow {
    pub(super) fn of(note: &AuditNote, (outcome, version_after): Verdict, at: Timestamp) -> Self {
        Self {
            at: micros(at),
            actor: note.actor.clone(),
            tenant: note.tenant.clone(),
            peer: note.peer.map(|peer| peer.to_string()),
            request_id: note.request_id.clone(),
            operation: note.operation.as_str(),
            object: note.object.clone(),
            outcome: outcome.as_str(),
            version_before: note.version_before,
            version_after,
        }
    }

    /// The same entry about another object, if one is named.
    pub(super) fn about(self, object: Option<String>) -> Self {
        Self { object: object.unwrap_or(self.object), ..self }
    }
}

/// Writes entries in the transaction that is open.
pub(super) async fn audit_insert(
    connection: &mut SqliteConnection,
    rows: &[AuditRow],
) -> Result<(), StoreError> {
    sqlx::query(
        "/* audit_insert */ INSERT INTO audit
             (at, actor, tenant, peer, request_id, operation, object, outcome, version_before, version_after)
         SELECT value ->> 'at', value ->> 'actor', value ->> 'tenant', value ->> 'peer',
             value ->> 'request_id', value ->> 'operation', value ->> 'object', value ->> 'outcome',
             value ->> 'version_before', value ->> 'version_after'
         FROM jsonb_each(?1) ORDER BY key",
    )
    .bind(to_json(&rows)?)
    .execute(connection)
    .await
    .map_err(failed("audit_insert"))?;
    Ok(())
}

fn view(row: &SqliteRow) -> Result<AuditView, StoreError> {
    let text = |name| row.try_get::<String, _>(name).map_err(failed("audit_list"));
    let text_opt = |name| row.try_get::<Option<String>, _>(name).map_err(failed("audit_list"));
    let number = |name| row.try_get::<i64, _>(name).map_err(failed("audit_list"));
    let number_opt = |name| row.try_get::<Option<i64>, _>(name).map_err(failed("audit_list"));
    Ok(AuditView {
        seq: number("seq")?.unsigned_abs(),
        at: time(number("at")?)?,
        actor: text("actor")?,
        tenant: text_opt("tenant")?,
        peer: text_opt("peer")?.as_deref().map(parse).transpose()?,
        request_id: text_opt("request_id")?,
        operation: parse(&text("operation")?)?,
        object: text("object")?,
        outcome: parse(&text("outcome")?)?,
        version_before: number_opt("version_before")?.map(i64::unsigned_abs),
        version_after: number_opt("version_after")?.map(i64::unsigned_abs),
    })
}

#[async_trait]
impl AuditStore for SqliteStore {
    async fn audit_refusal(&self) -> Result<(), StoreError> {
        self.write("audit_refusal", |_| Box::pin(async { Ok(false) })).await.map(drop)
    }

    async fn audit_list(&self, query: AuditQuery) -> Result<Vec<AuditView>, StoreError> {
        sqlx::query(
            "/* audit_list */ SELECT * FROM audit
             WHERE (?1 IS NULL OR actor = ?1) AND (?2 IS NULL OR tenant = ?2)
                 AND (?3 IS NULL OR operation = ?3) AND (?4 IS NULL OR object = ?4)
                 AND (?5 IS NULL OR at >= ?5) AND (?6 IS NULL OR at < ?6) AND (?7 IS NULL OR seq < ?7)
             ORDER BY seq DESC LIMIT ?8",
        )
        .bind(query.actor)
        .bind(query.tenant)
        .bind(query.operation.map(AuditOperation::as_str))
        .bind(query.object)
        .bind(query.since.map(micros))
        .bind(query.until.map(micros))
        .bind(query.before_seq.map(|seq| i64::try_from(seq).unwrap_or(i64::MAX)))
        .bind(query.limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("audit_list"))?
        .iter()
        .map(view)
        .collect()
    }
}
