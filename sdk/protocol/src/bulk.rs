//! Many jobs in one call: submit, cancel and retry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{JobId, JobSpec, Problem, job::JobFilter};

/// One job of a bulk submit: the spec's own fields, and beside them the key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct BulkItem {
    /// Names this one submit, as the header `Idempotency-Key` does for a single one.
    #[schemars(length(min = 1, max = 255))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The job.
    #[serde(flatten)]
    pub spec: JobSpec,
}

/// What became of one job of a bulk call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BulkResult {
    /// Place of the item in the request, from 0. In a retry, place among the jobs that were chosen.
    pub index: u64,
    /// The status that a single call would have had: 201 for a new job, 200 for one that the same
    /// idempotency key had made before, otherwise that of the problem.
    pub status: u16,
    /// The job, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// In a retry, the job that was to be run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<JobId>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// The answer of `POST /v1/bulk/jobs/submit` and of `POST /v1/bulk/jobs/retry`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BulkSubmitView {
    /// New jobs.
    pub accepted: u64,
    /// Jobs that an earlier call had made under the same key.
    pub existing: u64,
    /// Items that were refused.
    pub refused: u64,
    /// What became of each item, in their order.
    pub results: Vec<BulkResult>,
    /// In a retry: where to go on, when more jobs match than one call takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Which jobs a bulk cancel or retry is about: exactly one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["jobs"]}, {"required": ["filter"]}, {"required": ["all"]}]))]
pub struct BulkSelection {
    /// These jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Vec<JobId>>,
    /// Jobs that the filter of the list matches; at least one condition. `page_size` bounds the
    /// jobs of one call, `page_token` goes on where the call before ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<JobFilter>,
    /// Every job that the token may see; the filter may then be without a condition.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// The answer of `POST /v1/bulk/jobs/cancel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BulkCancelView {
    /// Jobs that were chosen and could be cancelled when they were looked at.
    pub matched: u64,
    /// Jobs that this call cancelled; the others had ended by themselves.
    pub cancelled: u64,
    /// Where to go on, when more jobs match than one call takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// The answer of a bulk cancel or retry with `?dry_run=true`, which changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BulkCountView {
    /// Jobs that the call would be about, over all pages.
    pub matched: u64,
}
