//! The table `probe`.

use async_trait::async_trait;
use gristmill_protocol::Timestamp;

use super::{
    SqliteStore,
    convert::{failed, micros},
};
use crate::store::{StoreError, health::HealthStore};

#[async_trait]
impl HealthStore for SqliteStore {
    async fn store_probe(&self, at: Timestamp) -> Result<(), StoreError> {
        self.write("store_probe", move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "/* store_probe */ INSERT INTO probe (id, at) VALUES (1, ?)
                     ON CONFLICT DO UPDATE SET at = excluded.at",
                )
                .bind(micros(at))
                .execute(connection)
                .await
                .map_err(failed("store_probe"))?;
                Ok(())
            })
        })
        .await
    }
}
