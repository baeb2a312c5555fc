//! Many jobs in one call.

use gristmill_protocol::bulk::{BulkCancelView, BulkCountView, BulkItem, BulkSelection, BulkSubmitView};
use reqwest::Method;
use serde::Serialize;

use super::{Client, ClientError, request::Repeat};

impl Client {
    /// Submits jobs; each gets its own result, in their order, and all that are accepted are durable
    /// in one commit. If every item has an idempotency key, a lost answer is asked for again and
    /// nothing is queued twice.
    pub async fn jobs_submit(&self, items: &[BulkItem]) -> Result<BulkSubmitView, ClientError> {
        let mut lines = Vec::new();
        for item in items {
            serde_json::to_writer(&mut lines, item)
                .map_err(|error| ClientError::Settings { detail: error.to_string() })?;
            lines.push(b'\n');
        }
        let lines = bytes::Bytes::from(lines);
        let has_keys = items.iter().all(|item| item.idempotency_key.is_some());
        self.json(if has_keys { Repeat::Safe } else { Repeat::Unsafe }, || {
            self.call(Method::POST, &["bulk", "jobs", "submit"])
                .header("content-type", "application/x-ndjson")
                .body(lines.clone())
        })
        .await
    }

    /// Cancels the chosen jobs that have not ended. When the answer has a `next_page_token`, more
    /// match: pass it in the filter of a further call.
    pub async fn jobs_cancel(&self, selection: &BulkSelection) -> Result<BulkCancelView, ClientError> {
        self.json(Repeat::Safe, || self.call(Method::POST, &["bulk", "jobs", "cancel"]).json(selection)).await
    }

    /// Submits the chosen jobs that have ended again, as new jobs. With the same key and selection,
    /// the same new jobs are the answer again. When the answer has a `next_page_token`, more match.
    pub async fn jobs_retry(
        &self,
        selection: &BulkSelection,
        idempotency_key: &str,
    ) -> Result<BulkSubmitView, ClientError> {
        self.json(Repeat::Safe, || {
            self.call(Method::POST, &["bulk", "jobs", "retry"])
                .header("idempotency-key", idempotency_key)
                .json(selection)
        })
        .await
    }

    /// How many jobs [`Client::jobs_cancel`] would be about, over all pages; nothing is changed.
    pub async fn jobs_cancel_count(&self, selection: &BulkSelection) -> Result<u64, ClientError> {
        self.bulk_count("cancel", selection).await
    }

    /// How many jobs [`Client::jobs_retry`] would be about, over all pages; nothing is changed.
    pub async fn jobs_retry_count(&self, selection: &BulkSelection) -> Result<u64, ClientError> {
        self.bulk_count("retry", selection).await
    }

    async fn bulk_count(&self, verb: &str, selection: &impl Serialize) -> Result<u64, ClientError> {
        let view: BulkCountView = self
            .json(Repeat::Safe, || {
                self.call(Method::POST, &["bulk", "jobs", verb]).query(&[("dry_run", "true")]).json(selection)
            })
            .await?;
        Ok(view.matched)
    }
}
