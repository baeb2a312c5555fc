//! Jobs: submit, look at, wait for, stop, and their outputs.

use std::time::Duration;

use gristmill_protocol::{
    AttemptView, JobId, JobSpec, JobView, Page,
    job::{JobFilter, JobTag, OutputEntry, OutputsView},
    zone::PlacementView,
};
use reqwest::{Method, StatusCode};

use super::{
    Client, ClientError,
    request::{Repeat, wait_text},
};

impl Client {
    /// Submits a job. When it returns, the job is accepted durably. With the same key and body, the
    /// same job is returned and nothing is queued a second time; use one key for all tries of one
    /// intention. `wait` lets the server hold its answer until the job ends, at most that long.
    pub async fn job_submit(
        &self,
        spec: &JobSpec,
        idempotency_key: &str,
        wait: Option<Duration>,
    ) -> Result<JobView, ClientError> {
        self.json(Repeat::Safe, || {
            let request =
                self.call(Method::POST, &["jobs"]).header("idempotency-key", idempotency_key).json(spec);
            // The job knows its trace from the spec; this is for the request itself.
            let request = match spec.traceparent {
                Some(trace) => request.header("traceparent", trace.to_string()),
                None => request,
            };
            match wait {
                Some(wait) => request.query(&[("wait", wait_text(wait))]),
                None => request,
            }
        })
        .await
    }

    /// Checks a job as submit would and says where it could run; nothing is queued.
    pub async fn job_validate(&self, spec: &JobSpec) -> Result<PlacementView, ClientError> {
        self.json(Repeat::Safe, || {
            self.call(Method::POST, &["jobs"]).query(&[("validate_only", "true")]).json(spec)
        })
        .await
    }

    /// A job as it is now.
    pub async fn job_get(&self, job: &JobId) -> Result<JobView, ClientError> {
        self.get(&["jobs", &job.to_string()]).await
    }

    /// A job when it has ended, or as it is after `wait`, at most 25 seconds.
    pub async fn job_wait(&self, job: &JobId, wait: Duration) -> Result<JobView, ClientError> {
        self.get_with(&["jobs", &job.to_string()], &[("wait", wait_text(wait))]).await
    }

    /// A job as soon as its version or its phase is another one than was `seen`, or when it has ended;
    /// `None` when that was not so after `wait`, at most 25 seconds.
    pub async fn job_wait_change(
        &self,
        seen: &JobView,
        wait: Duration,
    ) -> Result<Option<JobView>, ClientError> {
        let (id, tag) = (seen.id.to_string(), format!("\"{}\"", JobTag::of(seen)));
        let build = || {
            let request = self.call(Method::GET, &["jobs", &id]).query(&[("wait", wait_text(wait))]);
            request.header(reqwest::header::IF_NONE_MATCH, &tag)
        };
        let response = self.send(Repeat::Safe, build).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        self.read_json(response).await.map(Some)
    }

    /// One page of jobs, newest first.
    pub async fn job_list(&self, filter: &JobFilter) -> Result<Page<JobView>, ClientError> {
        self.get_with(&["jobs"], filter).await
    }

    /// Asks for a job to be cancelled. It is final: once this returned, the job never succeeds. A
    /// job that had ended before stays as it is.
    pub async fn job_cancel(&self, job: &JobId) -> Result<JobView, ClientError> {
        self.json(Repeat::Safe, || self.call(Method::POST, &["jobs", &job.to_string(), "cancel"])).await
    }

    /// Submits an ended job again, as a new job with the same module digest.
    pub async fn job_retry(&self, job: &JobId) -> Result<JobView, ClientError> {
        self.json(Repeat::Unsafe, || self.call(Method::POST, &["jobs", &job.to_string(), "retry"])).await
    }

    /// Every attempt of a job, the first one first.
    pub async fn job_attempts(&self, job: &JobId) -> Result<Vec<AttemptView>, ClientError> {
        let page: Page<AttemptView> = self.get(&["jobs", &job.to_string(), "attempts"]).await?;
        let mut attempts = page.items;
        attempts.sort_by_key(|attempt| attempt.number);
        Ok(attempts)
    }

    /// Why the job can or cannot run, for every zone and node.
    pub async fn job_placement(&self, job: &JobId) -> Result<PlacementView, ClientError> {
        self.get(&["jobs", &job.to_string(), "placement"]).await
    }

    /// The outputs of a job, sorted by path; empty unless it succeeded.
    pub async fn job_outputs(&self, job: &JobId) -> Result<Vec<OutputEntry>, ClientError> {
        let view: OutputsView = self.get(&["jobs", &job.to_string(), "outputs"]).await?;
        Ok(view.outputs)
    }

    /// Writes all outputs of a job that succeeded to the sink, as one tar archive, and returns its size. A
    /// broken connection is resumed where it broke. The server checks every file as it sends it and
    /// breaks off at a damaged one.
    pub async fn job_outputs_tar(
        &self,
        job: &JobId,
        sink: &mut (impl tokio::io::AsyncWrite + Unpin),
    ) -> Result<u64, ClientError> {
        let mut url = self.url(&["jobs", &job.to_string(), "outputs"]);
        url.set_query(Some("format=tar"));
        self.download(url, sink, |_| ()).await
    }

    /// Writes one output to `file`, from its present position, and checks its digest. A broken
    /// connection is resumed where it broke. Nothing is synced to disk.
    pub async fn job_output_fetch(
        &self,
        job: &JobId,
        output: &OutputEntry,
        file: &mut tokio::fs::File,
    ) -> Result<u64, ClientError> {
        let job = job.to_string();
        let mut segments = vec!["jobs", &job, "outputs"];
        segments.extend(output.path.split('/'));
        self.fetch(self.url(&segments), &output.digest, file).await
    }
}
