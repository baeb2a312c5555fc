//! The calls of the node protocol, each signed.

use std::{sync::Arc, time::Duration};

use gristmill_protocol::{
    ErrorCode, NodeId, Problem,
    node_api::{
        AcquireGrant, AcquireRequest, EnrollGrant, EnrollRequest, HeartbeatGrant, HeartbeatRequest,
        RenewGrant, RenewRequest, UpdatesGrant, UpdatesRequest, WatchGrant, WatchRequest,
    },
};
use reqwest::{
    Body, Method, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, RANGE, RETRY_AFTER},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{CallError, NodeKey, ServerClock, Transport, key::Unsigned};

/// Largest JSON answer that is read; whatever is longer is not the server's.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How much longer than the server's own wait a long poll may take before it counts as lost.
const POLL_SLACK: Duration = Duration::from_secs(5);
/// How long an ordinary call may take.
const CALL_TIME: Duration = Duration::from_secs(10);

/// Redeems a join token. The call may be repeated with the same key when its answer got lost.
/// It is not signed: the token is the credential.
pub async fn enroll(transport: &Transport, request: &EnrollRequest) -> Result<EnrollGrant, CallError> {
    let body = serde_json::to_vec(request).map_err(|error| CallError::unknown(error.to_string()))?;
    let sending = transport
        .http()
        .post(transport.url("/v1/node/enroll", ""))
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .timeout(CALL_TIME);
    json_answer(sending.send().await?).await
}

/// An enrolled node's connection to its server. Cheap to clone; clones share connections and clock.
///
/// Every method is one HTTP call without repetition. Dropping its future gives the call up; it
/// may still take effect.
#[derive(Debug, Clone)]
pub struct NodeClient {
    transport: Transport,
    key: Arc<NodeKey>,
    node: NodeId,
    clock: Arc<ServerClock>,
}

/// One signed request before it is sent.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) lease: Option<&'a str>,
    /// Ask for the bytes from here on.
    pub(super) range_start: u64,
    /// Covered by the signature; blob bodies are not, their digest is in the path.
    pub(super) signed_body: Option<(Vec<u8>, &'static str)>,
    pub(super) timeout: Option<Duration>,
}

impl NodeClient {
    /// Speaks as `node`, which enrolled with the public half of `key`.
    pub fn connect(transport: Transport, key: Arc<NodeKey>, node: NodeId) -> Self {
        Self { transport, key, node, clock: Arc::new(ServerClock::default()) }
    }

    /// The node's id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The server's clock, learnt from its answers.
    pub fn clock(&self) -> &ServerClock {
        &self.clock
    }

    /// Says that the node lives; learns the server's time.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> Result<HeartbeatGrant, CallError> {
        let grant: HeartbeatGrant = self.post("/v1/node/heartbeat", request, CALL_TIME).await?;
        self.clock.learn(grant.server_unix_ms);
        Ok(grant)
    }

    /// Asks for work; waits up to the request's `wait_ms` and five seconds.
    pub async fn acquire(&self, request: &AcquireRequest) -> Result<AcquireGrant, CallError> {
        self.post("/v1/node/leases/acquire", request, poll_time(request.wait_ms)).await
    }

    /// Prolongs leases; answers within `timeout` or counts as lost.
    pub async fn renew(&self, request: &RenewRequest, timeout: Duration) -> Result<RenewGrant, CallError> {
        let grant: RenewGrant = self.post("/v1/node/leases/renew", request, timeout).await?;
        if grant.leases.len() == request.leases.len() {
            Ok(grant)
        } else {
            Err(CallError::unknown("the answer has another number of leases than the request"))
        }
    }

    /// Waits for cancels of held leases, up to the request's `wait_ms` and five seconds.
    pub async fn watch(&self, request: &WatchRequest) -> Result<WatchGrant, CallError> {
        self.post("/v1/node/leases/watch", request, poll_time(request.wait_ms)).await
    }

    /// Reports what happened to attempts; the verdicts are in the order of the updates.
    pub async fn updates(&self, request: &UpdatesRequest) -> Result<UpdatesGrant, CallError> {
        let grant: UpdatesGrant = self.post("/v1/node/updates", request, CALL_TIME * 3).await?;
        if grant.verdicts.len() == request.updates.len() {
            Ok(grant)
        } else {
            Err(CallError::unknown("the answer has another number of verdicts than the request"))
        }
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        request: &Q,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let body = serde_json::to_vec(request).map_err(|error| CallError::unknown(error.to_string()))?;
        let call = Call {
            method: Method::POST,
            path: path.to_owned(),
            query: String::new(),
            lease: None,
            range_start: 0,
            signed_body: Some((body, "application/json")),
            timeout: Some(timeout),
        };
        json_answer(self.send(&call).await?).await
    }

    /// Sends a call and, when the server says that the clocks differ, once more by its clock.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Response, CallError> {
        let mut response = self.send_once(call, None, 0).await?;
        if self.learns_from(&response) {
            let refusal = refusal(response).await;
            if refusal.code() != Some(ErrorCode::ClockSkew) {
                return Err(refusal);
            }
            response = self.send_once(call, None, 0).await?;
        }
        Ok(response)
    }

    /// Signs and sends once. `stream` is an unsigned body of `length` bytes.
    pub(super) async fn send_once(
        &self,
        call: &Call<'_>,
        stream: Option<Body>,
        length: u64,
    ) -> Result<Response, CallError> {
        let url = self.transport.url(&call.path, &call.query);
        let headers = self.key.sign(&Unsigned {
            method: call.method.as_str(),
            path: url.path(),
            query: url.query().unwrap_or_default(),
            body: call.signed_body.as_ref().map(|(body, _)| body.as_slice()),
            lease: call.lease,
            created_unix_s: self.clock.now_unix_s(),
            node: &self.node,
        });
        let mut sending = self.transport.http().request(call.method.clone(), url);
        for (name, value) in headers {
            sending = sending.header(name, value);
        }
        if call.range_start > 0 {
            sending = sending.header(RANGE, format!("bytes={}-", call.range_start));
        }
        if let Some(timeout) = call.timeout {
            sending = sending.timeout(timeout);
        }
        if let Some((body, content_type)) = &call.signed_body {
            sending = sending.header(CONTENT_TYPE, *content_type).body(body.clone());
        } else if let Some(stream) = stream {
            sending = sending
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, length)
                .body(stream);
        }
        Ok(sending.send().await?)
    }

    /// Takes the server's time from a refused signature. Only then: a `Date` that a proxy made is
    /// no reason to change the clock.
    pub(super) fn learns_from(&self, response: &Response) -> bool {
        response.status() == StatusCode::UNAUTHORIZED
            && is_problem(response)
            && response
                .headers()
                .get(DATE)
                .and_then(|date| date.to_str().ok())
                .is_some_and(|date| self.clock.learn_date(date))
    }
}

fn poll_time(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms.min(25_000)) + POLL_SLACK
}

fn content_type(response: &Response) -> &str {
    response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn is_problem(response: &Response) -> bool {
    content_type(response).starts_with("application/problem+json")
}

/// Whether a success without a JSON body can be the server's: a login page of a captive proxy is not.
pub(super) fn is_servers_success(response: &Response) -> bool {
    response.status().is_success() && !content_type(response).starts_with("text/html")
}

async fn json_answer<A: DeserializeOwned>(response: Response) -> Result<A, CallError> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let bytes = read_all(response).await?;
    serde_json::from_slice(&bytes).map_err(|_| {
        CallError::unknown("the answer is not the server's: something between node and server replaced it")
    })
}

/// Turns an answer without success into an error: the server's own, or an unknown one.
pub(super) async fn refusal(response: Response) -> CallError {
    let status = response.status();
    if !is_problem(&response) {
        return CallError::unknown(format!("status {status} from something that is not the server"));
    }
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|seconds| seconds.trim().parse().ok())
        .map(Duration::from_secs);
    match read_all(response).await {
        Ok(bytes) => match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => CallError::Refused { problem: Box::new(problem), retry_after },
            Err(_) => CallError::unknown(format!("status {status} with a problem of an unknown kind")),
        },
        Err(error) => error,
    }
}

async fn read_all(mut response: Response) -> Result<Vec<u8>, CallError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(CallError::unknown("the answer is too long to be the server's"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
