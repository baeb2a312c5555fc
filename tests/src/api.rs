//! The users' HTTP API as any script would speak it, without the product's own client.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use gristmill_protocol::{
    JobId,
    attempt::AttemptView,
    job::{JobSpec, JobView, OutputsView},
    node::NodeView,
    zone::PlacementView,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header::RANGE};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// One server and the token to speak to it with.
#[derive(Debug, Clone)]
pub struct Api {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// A secret `gmu_…`.
    pub token: String,
    http: reqwest::Client,
}

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

impl Api {
    /// Speaks to `url` with `token`.
    ///
    /// # Panics
    /// When the HTTP client cannot be made.
    pub fn new(url: &str, token: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without options");
        Self { url: url.to_owned(), token: token.to_owned(), http }
    }

    /// A request with the token on it.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// GET of a JSON document.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        answer(self.request(Method::GET, path).send().await?).await
    }

    /// POST of a JSON document.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T> {
        answer(self.request(Method::POST, path).json(body).send().await?).await
    }

    /// Whether the server answers that it is ready.
    pub async fn is_ready(&self) -> bool {
        let asked = self.request(Method::GET, "/readyz").timeout(Duration::from_secs(2)).send().await;
        asked.is_ok_and(|response| response.status().is_success())
    }

    /// Publishes a module, by default version 1.0.0.
    pub async fn publish(&self, name: &str, wasm: Vec<u8>) -> Result<Value> {
        let path = format!("/v1/modules/{name}/versions/1.0.0");
        let request = self.request(Method::PUT, &path).header("content-type", "application/wasm");
        answer(request.body(wasm).send().await?).await
    }

    /// Stores a blob; answers its digest.
    pub async fn put_blob(&self, bytes: Vec<u8>) -> Result<String> {
        let digest = digest(&bytes);
        let request = self.request(Method::PUT, &format!("/v1/blobs/{digest}"));
        let sent = request.header("content-type", "application/octet-stream").body(bytes).send().await?;
        let _: Value = answer(sent).await?;
        Ok(digest)
    }

    /// Submits a job.
    pub async fn submit(&self, spec: &JobSpec) -> Result<JobView> {
        self.post("/v1/jobs", &serde_json::to_value(spec)?).await
    }

    /// Submits a job under an idempotency key; may be repeated when the answer got lost.
    pub async fn submit_with_key(&self, spec: &JobSpec, key: &str) -> Result<JobView> {
        let request = self.request(Method::POST, "/v1/jobs").header("idempotency-key", key).json(spec);
        answer(request.send().await?).await
    }

    /// A job as it is now.
    pub async fn job(&self, id: &JobId) -> Result<JobView> {
        self.get(&format!("/v1/jobs/{id}")).await
    }

    /// A job once it is in its terminal state. A server that is away meanwhile is asked again.
    pub async fn finished(&self, id: &JobId, limit: Duration) -> Result<JobView> {
        let give_up = tokio::time::Instant::now() + limit;
        loop {
            let asked = self.get::<JobView>(&format!("/v1/jobs/{id}?wait=10s")).await;
            match asked {
                Ok(job) if job.state.is_terminal() => return Ok(job),
                Ok(job) if tokio::time::Instant::now() > give_up => {
                    let attempts = self.attempts(id).await;
                    bail!("the job is still {} after {limit:?}: {job:#?}\n{attempts:#?}", job.state)
                }
                Err(error) if tokio::time::Instant::now() > give_up => return Err(error),
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Asks to cancel a job.
    pub async fn cancel(&self, id: &JobId) -> Result<JobView> {
        self.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await
    }

    /// All attempts of a job, oldest first.
    pub async fn attempts(&self, id: &JobId) -> Result<Vec<AttemptView>> {
        let mut list: Value = self.get(&format!("/v1/jobs/{id}/attempts")).await?;
        serde_json::from_value(list["items"].take()).context("the list of attempts")
    }

    /// The whole of one stream (`stdout` or `stderr`) of an ended attempt; it comes in pieces.
    pub async fn log(&self, id: &JobId, attempt: u32, stream: &str) -> Result<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            let offset = whole.len();
            let path = format!("/v1/jobs/{id}/attempts/{attempt}/logs?stream={stream}&offset={offset}");
            let piece = bytes(self.request(Method::GET, &path).send().await?).await?;
            if piece.is_empty() {
                return Ok(whole);
            }
            whole.extend(piece);
        }
    }

    /// The outputs of a job.
    pub async fn outputs(&self, id: &JobId) -> Result<OutputsView> {
        self.get(&format!("/v1/jobs/{id}/outputs")).await
    }

    /// The bytes of one output.
    pub async fn output(&self, id: &JobId, path: &str) -> Result<Vec<u8>> {
        bytes(self.request(Method::GET, &format!("/v1/jobs/{id}/outputs/{path}")).send().await?).await
    }

    /// A range of the bytes of one output, such as `bytes=0-9`.
    pub async fn output_range(&self, id: &JobId, path: &str, range: &str) -> Result<Vec<u8>> {
        let request =
            self.request(Method::GET, &format!("/v1/jobs/{id}/outputs/{path}")).header(RANGE, range);
        let response = request.send().await?;
        anyhow::ensure!(response.status() == StatusCode::PARTIAL_CONTENT, "{}", response.status());
        bytes(response).await
    }

    /// Where a job can and cannot run.
    pub async fn placement(&self, id: &JobId) -> Result<PlacementView> {
        self.get(&format!("/v1/jobs/{id}/placement")).await
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>> {
        let mut list: Value = self.get("/v1/nodes").await?;
        serde_json::from_value(list["items"].take()).context("the list of nodes")
    }

    /// A new single-use join token for a zone; the secret.
    pub async fn join_token(&self, zone: &str) -> Result<String> {
        let made: Value = self.post("/v1/join-tokens", &json!({ "zone": zone })).await?;
        made["secret"].as_str().map(str::to_owned).context("the join token's secret")
    }

    /// Value of one metric without labels.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = bytes(self.request(Method::GET, "/metrics").send().await?).await?;
        let text = String::from_utf8(text)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("no metric {name} in:\n{text}"))?.parse().context("a number")
    }

    /// Streams a file into the blob store; answers its digest.
    pub async fn put_file(&self, path: &Path, digest: &str) -> Result<()> {
        let file = tokio::fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::with_capacity(file, 1 << 18));
        let request = self.request(Method::PUT, &format!("/v1/blobs/{digest}"));
        let sent = request
            .header("content-type", "application/octet-stream")
            .header("content-length", length)
            .body(body)
            .send()
            .await?;
        let _: Value = answer(sent).await?;
        Ok(())
    }
}

async fn answer<T: DeserializeOwned>(response: Response) -> Result<T> {
    let bytes = bytes(response).await?;
    serde_json::from_slice(&bytes).with_context(|| format!("in {}", String::from_utf8_lossy(&bytes)))
}

async fn bytes(response: Response) -> Result<Vec<u8>> {
    let status = response.status();
    let bytes = response.bytes().await?;
    anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&bytes));
    Ok(bytes.into())
}
