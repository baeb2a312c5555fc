//! Moving bytes: inputs to the node; outputs and logs to the server. Never a whole blob in memory.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use gristmill_protocol::{Digest, attempt::LogStream, node_api::LeaseRef};
use reqwest::{Body, Method, Response, StatusCode, header::CONTENT_RANGE};
use tokio_util::io::ReaderStream;

use super::{
    CallError, NodeClient,
    calls::{Call, is_servers_success, refusal},
};

/// How long a transfer may stand still before it counts as broken.
const STALL_TIME: Duration = Duration::from_secs(30);

/// The bytes of a blob on their way to the node.
#[derive(Debug)]
pub struct BlobBody {
    response: Response,
}

impl BlobBody {
    /// The next piece, or `None` at the end. A transfer that stands still for 30 seconds is an
    /// unknown answer; ask again from where it stopped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        match tokio::time::timeout(STALL_TIME, self.response.chunk()).await {
            Ok(chunk) => Ok(chunk?),
            Err(_) => Err(CallError::unknown("the transfer stood still for 30 seconds")),
        }
    }
}

impl NodeClient {
    /// Fetches the module, stdin or an input of the leased attempt from `offset` on. `size` is the
    /// blob's whole size: an answer of another length is not the server's.
    pub async fn blob(
        &self,
        lease: &LeaseRef,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Result<BlobBody, CallError> {
        let path = format!("/v1/node/attempts/{}/{}/blobs/{digest}", lease.job, lease.attempt);
        let mut call = attempt_call(Method::GET, path, lease);
        call.range_start = offset;
        let response = tokio::time::timeout(STALL_TIME, self.send(&call))
            .await
            .map_err(|_| CallError::unknown("the server did not begin to answer for 30 seconds"))??;
        let expected = if offset == 0 { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
        if response.status() != expected {
            return Err(if response.status().is_success() {
                CallError::unknown(format!("status {} instead of {expected}", response.status()))
            } else {
                refusal(response).await
            });
        }
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let starts = offset == 0 || range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")));
        if !starts || response.content_length().is_some_and(|length| length != size - offset) {
            return Err(CallError::unknown("the answer has another length than the blob"));
        }
        Ok(BlobBody { response })
    }

    /// Whether the server has an output's bytes already.
    pub async fn output_is_stored(&self, lease: &LeaseRef, digest: &Digest) -> Result<bool, CallError> {
        let mut call = attempt_call(Method::HEAD, output_path(lease, digest), lease);
        call.timeout = Some(Duration::from_secs(10));
        let response = self.send(&call).await?;
        // A HEAD answer has no body that could say more than its status.
        match response.status() {
            StatusCode::OK if is_servers_success(&response) => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(CallError::unknown(format!("status {status}"))),
        }
    }

    /// Stores an output's bytes, read from `file`, which must hold exactly `size` bytes.
    pub async fn put_output(
        &self,
        lease: &LeaseRef,
        digest: &Digest,
        size: u64,
        file: &Path,
    ) -> Result<(), CallError> {
        let opened = tokio::fs::File::open(file)
            .await
            .map_err(|error| CallError::unknown(format!("failed to read the output again: {error}")))?;
        let stream = ReaderStream::with_capacity(opened, 256 << 10);
        let call = attempt_call(Method::PUT, output_path(lease, digest), lease);
        let response = self.send_once(&call, Some(Body::wrap_stream(stream)), size).await?;
        // The body is gone; a corrected clock helps the next try.
        self.learns_from(&response);
        if is_servers_success(&response) { Ok(()) } else { Err(refused(response).await) }
    }

    /// Appends to a log stream at `offset`, the number of bytes sent before; at most 256 KiB.
    /// `elapsed_us` says when the first byte was written, in microseconds after the attempt's start.
    /// Sending the same bytes again does no harm.
    pub async fn put_log(
        &self,
        lease: &LeaseRef,
        stream: LogStream,
        offset: u64,
        elapsed_us: u64,
        bytes: Vec<u8>,
    ) -> Result<(), CallError> {
        let path = format!("/v1/node/attempts/{}/{}/logs/{stream}", lease.job, lease.attempt);
        let mut call = attempt_call(Method::PUT, path, lease);
        call.query = format!("offset={offset}&elapsed_us={elapsed_us}");
        call.signed_body = Some((bytes, "application/octet-stream"));
        call.timeout = Some(Duration::from_secs(15));
        let response = self.send(&call).await?;
        if is_servers_success(&response) { Ok(()) } else { Err(refused(response).await) }
    }
}

async fn refused(response: Response) -> CallError {
    if response.status().is_success() {
        CallError::unknown("a page of something between node and server")
    } else {
        refusal(response).await
    }
}

fn output_path(lease: &LeaseRef, digest: &Digest) -> String {
    format!("/v1/node/attempts/{}/{}/outputs/{digest}", lease.job, lease.attempt)
}

fn attempt_call(method: Method, path: String, lease: &LeaseRef) -> Call<'_> {
    Call {
        method,
        path,
        query: String::new(),
        lease: Some(lease.lease_token.as_str()),
        range_start: 0,
        signed_body: None,
        timeout: None,
    }
}
