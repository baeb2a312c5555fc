//! What does not change of a job after its submit, and how jobs and attempts are shown.

use std::{collections::BTreeSet, sync::Arc};

use gristmill_lifecycle::record::{AttemptRecord, JobRecord};
use gristmill_protocol::{
    AttemptView, Digest, JobId, JobSpec, JobView, Limits,
    job::ModuleRef,
    module::ModuleWorld,
    node_api::{BlobGrant, InputGrant},
};
use serde::{Deserialize, Serialize};

use crate::{app::App, error::ApiError, principal::Principal};

/// What does not change of a job after its submit. The store keeps it as JSON text.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JobDocument {
    /// What was asked for; inline bytes are replaced by their digests.
    pub(crate) spec: JobSpec,
    /// Limits with every default filled in.
    pub(crate) limits: Limits,
    /// The module as resolved at submit.
    pub(crate) module: ModuleRef,
    /// The module's number of bytes.
    pub(crate) module_size: u64,
    /// The module's contract.
    pub(crate) world: ModuleWorld,
    /// `argv[0]`.
    pub(crate) program: String,
    /// Standard input.
    pub(crate) stdin: Option<BlobGrant>,
    /// Files and trees, `/in/params.json` among them.
    pub(crate) inputs: Vec<InputGrant>,
}

impl JobDocument {
    pub(crate) fn read(text: &str) -> Result<Self, ApiError> {
        serde_json::from_str(text).map_err(ApiError::internal)
    }

    pub(crate) fn write(&self) -> Result<Arc<str>, ApiError> {
        Ok(serde_json::to_string(self).map_err(ApiError::internal)?.into())
    }

    /// The blobs that the job reads, its module left out: versions are kept for ever.
    pub(crate) fn reads(&self) -> Vec<Digest> {
        let inputs = self.inputs.iter().map(|input| &input.blob);
        let digests: BTreeSet<_> = self.stdin.iter().chain(inputs).map(|blob| blob.digest).collect();
        digests.into_iter().collect()
    }

    /// The blob with this digest, if an attempt of the job may read it.
    pub(crate) fn blob(&self, digest: Digest) -> Option<BlobGrant> {
        if self.module.digest == digest {
            return Some(BlobGrant { digest, size: self.module_size });
        }
        let inputs = self.inputs.iter().map(|input| &input.blob);
        self.stdin.iter().chain(inputs).find(|blob| blob.digest == digest).cloned()
    }
}

/// A job as the API shows it.
pub(crate) fn job_view(app: &App, job: JobRecord) -> Result<JobView, ApiError> {
    let (phase, phase_since) = app.phases.of_job(job.phase, job.node, (job.id, job.attempt));
    let document = JobDocument::read(job.document.as_deref().unwrap_or_default())?;
    Ok(JobView {
        id: job.id,
        tenant: job.tenant,
        state: job.phase.state(),
        reason: job.reason,
        trap_kind: job.trap_kind,
        hint: job.reason.map(|reason| reason.hint().to_owned()),
        message: job.message,
        exit_code: job.exit_code,
        module: document.module,
        spec: document.spec,
        limits: document.limits,
        attempt: job.attempt,
        phase,
        phase_since,
        zone: job.zone,
        node: job.node,
        created_at: job.created_at,
        started_at: job.started_at,
        finished_at: job.finished_at,
        cancel_requested_at: job.cancel_requested_at,
        not_before: job.not_before,
        usage: job.usage,
        output_count: job.output_count,
        output_bytes: job.output_bytes,
        version: job.version,
    })
}

/// An attempt as the API shows it.
pub(crate) fn attempt_view(app: &App, attempt: AttemptRecord) -> AttemptView {
    let (phase, phase_since) = app.phases.of_attempt(attempt.phase, attempt.node, attempt.key());
    AttemptView {
        number: attempt.number,
        fence: attempt.fence,
        state: attempt.phase.state(),
        phase,
        phase_since,
        reason: attempt.reason,
        trap_kind: attempt.trap_kind,
        message: attempt.message,
        exit_code: attempt.exit_code,
        node: attempt.node,
        zone: attempt.zone,
        leased_at: attempt.leased_at,
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        usage: attempt.usage,
        stdout_bytes: attempt.stdout_bytes,
        stderr_bytes: attempt.stderr_bytes,
        log_truncated: attempt.log_truncated,
    }
}

/// A job with its document, if the caller may see it; `not_found` otherwise.
pub(crate) async fn visible_job(app: &App, who: &Principal, id: JobId) -> Result<JobRecord, ApiError> {
    app.store
        .job_get(id)
        .await?
        .filter(|job| job.tenant == who.tenant || who.is_admin())
        .ok_or_else(|| ApiError::not_found("job"))
}
