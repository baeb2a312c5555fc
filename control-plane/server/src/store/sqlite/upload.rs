//! The table `uploads`.

use async_trait::async_trait;
use gristmill_protocol::{Digest, Timestamp, TokenId, UploadId};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    SqliteStore,
    blob::blob_insert,
    convert::{failed, micros, parse, time, time_opt},
};
use crate::store::{
    StoreError,
    upload::{UploadPut, UploadRecord, UploadRoom, UploadStep, UploadStore},
};

fn record(row: &SqliteRow) -> Result<UploadRecord, StoreError> {
    let text = |name| row.try_get::<String, _>(name).map_err(failed("upload_read"));
    let text_opt = |name| row.try_get::<Option<String>, _>(name).map_err(failed("upload_read"));
    let number = |name| row.try_get::<i64, _>(name).map_err(failed("upload_read"));
    let number_opt = |name| row.try_get::<Option<i64>, _>(name).map_err(failed("upload_read"));
    Ok(UploadRecord {
        id: parse(&text("id")?)?,
        tenant: text("tenant")?,
        token: parse(&text("token")?)?,
        length: number_opt("length")?.map(i64::unsigned_abs),
        received: number("received")?.unsigned_abs(),
        declared: text_opt("declared")?.as_deref().map(parse).transpose()?,
        metadata: text_opt("metadata")?,
        digest: text_opt("digest")?.as_deref().map(parse).transpose()?,
        completed_at: time_opt(number_opt("completed_at")?)?,
        created_at: time(number("created_at")?)?,
        expires_at: time(number("expires_at")?)?,
    })
}

/// `Done` with the changed row, `Stale` without one.
fn changed(row: Option<&SqliteRow>) -> Result<UploadPut, StoreError> {
    row.map_or(Ok(UploadPut::Stale), |row| Ok(UploadPut::Done(Box::new(record(row)?))))
}

/// Number and bytes of a tenant's unfinished uploads, one of them left out.
async fn usage(
    connection: &mut SqliteConnection,
    tenant: &str,
    except: UploadId,
) -> Result<(u64, u64), StoreError> {
    let (count, bytes) = sqlx::query_as::<_, (i64, i64)>(
        "/* upload_usage */ SELECT count(*), coalesce(sum(coalesce(length, received)), 0)
         FROM uploads WHERE tenant = ? AND id <> ? AND completed_at IS NULL",
    )
    .bind(tenant)
    .bind(except.to_string())
    .fetch_one(connection)
    .await
    .map_err(failed("upload_usage"))?;
    Ok((count.unsigned_abs(), bytes.unsigned_abs()))
}

async fn find(connection: &mut SqliteConnection, id: UploadId) -> Result<Option<UploadRecord>, StoreError> {
    sqlx::query("/* upload_find */ SELECT * FROM uploads WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await
        .map_err(failed("upload_find"))?
        .map(|row| record(&row))
        .transpose()
}

async fn create(
    connection: &mut SqliteConnection,
    upload: UploadRecord,
    room: UploadRoom,
) -> Result<UploadPut, StoreError> {
    let (count, bytes) = usage(connection, &upload.tenant, upload.id).await?;
    if count >= room.count_max {
        return Ok(UploadPut::TooMany(count));
    }
    let bytes = bytes.saturating_add(upload.length.unwrap_or(0));
    if bytes > room.bytes_max {
        return Ok(UploadPut::TooMuch(bytes));
    }
    let row = sqlx::query(
        "/* upload_create */ INSERT INTO uploads
             (id, tenant, token, length, received, declared, metadata, created_at, expires_at)
         VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?) RETURNING *",
    )
    .bind(upload.id.to_string())
    .bind(upload.tenant)
    .bind(upload.token.to_string())
    .bind(upload.length.map(|length| length as i64))
    .bind(upload.declared.map(|digest| digest.to_string()))
    .bind(upload.metadata)
    .bind(micros(upload.created_at))
    .bind(micros(upload.expires_at))
    .fetch_one(connection)
    .await
    .map_err(failed("upload_create"))?;
    changed(Some(&row))
}

async fn advance(
    connection: &mut SqliteConnection,
    step: UploadStep,
    room: UploadRoom,
) -> Result<UploadPut, StoreError> {
    let Some(upload) = find(connection, step.id).await? else { return Ok(UploadPut::Stale) };
    if upload.length.is_none() {
        let (_, others) = usage(connection, &upload.tenant, step.id).await?;
        let bytes = others.saturating_add(step.length.unwrap_or(step.to));
        if bytes > room.bytes_max {
            return Ok(UploadPut::TooMuch(bytes));
        }
    }
    let row = sqlx::query(
        "/* upload_advance */ UPDATE uploads
         SET received = ?1, length = coalesce(length, ?2), expires_at = ?3
         WHERE id = ?4 AND received = ?5 AND digest IS NULL AND (?2 IS NULL OR length IS NULL OR length = ?2)
         RETURNING *",
    )
    .bind(step.to as i64)
    .bind(step.length.map(|length| length as i64))
    .bind(micros(step.expires_at))
    .bind(step.id.to_string())
    .bind(step.from as i64)
    .fetch_optional(connection)
    .await
    .map_err(failed("upload_advance"))?;
    changed(row.as_ref())
}

async fn complete(
    connection: &mut SqliteConnection,
    id: UploadId,
    at: Timestamp,
) -> Result<UploadPut, StoreError> {
    let row = sqlx::query(
        "/* upload_complete */ UPDATE uploads SET completed_at = coalesce(completed_at, ?)
         WHERE id = ? AND digest IS NOT NULL RETURNING *",
    )
    .bind(micros(at))
    .bind(id.to_string())
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("upload_complete"))?;
    let put = changed(row.as_ref())?;
    if let UploadPut::Done(upload) = &put
        && let Some(digest) = upload.digest
    {
        blob_insert(connection, Some(&upload.tenant), digest, upload.received, at).await?;
    }
    Ok(put)
}

#[async_trait]
impl UploadStore for SqliteStore {
    async fn upload_create(&self, upload: UploadRecord, room: UploadRoom) -> Result<UploadPut, StoreError> {
        self.write("upload_create", move |connection| Box::pin(create(connection, upload, room))).await
    }

    async fn upload_get(&self, id: UploadId) -> Result<Option<UploadRecord>, StoreError> {
        sqlx::query("/* upload_get */ SELECT * FROM uploads WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(self.reads())
            .await
            .map_err(failed("upload_get"))?
            .map(|row| record(&row))
            .transpose()
    }

    async fn upload_list(
        &self,
        tenant: &str,
        token: Option<TokenId>,
    ) -> Result<Vec<UploadRecord>, StoreError> {
        sqlx::query(
            "/* upload_list */ SELECT * FROM uploads
             WHERE tenant = ?1 AND (?2 IS NULL OR token = ?2) AND completed_at IS NULL ORDER BY id",
        )
        .bind(tenant)
        .bind(token.map(|token| token.to_string()))
        .fetch_all(self.reads())
        .await
        .map_err(failed("upload_list"))?
        .iter()
        .map(record)
        .collect()
    }

    async fn upload_advance(&self, step: UploadStep, room: UploadRoom) -> Result<UploadPut, StoreError> {
        self.write("upload_advance", move |connection| Box::pin(advance(connection, step, room))).await
    }

    async fn upload_seal(&self, id: UploadId, digest: Digest) -> Result<UploadPut, StoreError> {
        self.write("upload_seal", move |connection| {
            Box::pin(async move {
                let row = sqlx::query(
                    "/* upload_seal */ UPDATE uploads SET digest = ?1, length = received
                     WHERE id = ?2 AND (length IS NULL OR length = received)
                       AND (digest IS NULL OR digest = ?1) RETURNING *",
                )
                .bind(digest.to_string())
                .bind(id.to_string())
                .fetch_optional(connection)
                .await
                .map_err(failed("upload_seal"))?;
                changed(row.as_ref())
            })
        })
        .await
    }

    async fn upload_complete(&self, id: UploadId, at: Timestamp) -> Result<UploadPut, StoreError> {
        self.write("upload_complete", move |connection| Box::pin(complete(connection, id, at))).await
    }

    async fn upload_delete(&self, id: UploadId) -> Result<bool, StoreError> {
        self.write("upload_delete", move |connection| {
            Box::pin(async move {
                let done = sqlx::query("/* upload_delete */ DELETE FROM uploads WHERE id = ?")
                    .bind(id.to_string())
                    .execute(connection)
                    .await
                    .map_err(failed("upload_delete"))?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }

    async fn upload_due(&self, now: Timestamp, limit: u32) -> Result<Vec<UploadId>, StoreError> {
        sqlx::query_scalar::<_, String>(
            "/* upload_due */ SELECT id FROM uploads WHERE expires_at <= ? ORDER BY expires_at LIMIT ?",
        )
        .bind(micros(now))
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("upload_due"))?
        .iter()
        .map(|id| parse(id))
        .collect()
    }
}
