//! One HTTP call: address, credential, retries, and the problem document when it is refused.

use std::{fmt::Write as _, time::Duration};

use gristmill_protocol::Problem;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use super::{Client, ClientError, retry::is_passing};
use crate::ConnectionFault;

/// Longest problem document that is read.
const PROBLEM_BYTES_MAX: usize = 256 << 10;

/// How a call may be treated when no answer came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Repeating it has no effect beyond that of the first time.
    Safe,
    /// It may have had its effect; only a refused connection is tried again.
    Unsafe,
}

impl Client {
    /// The URL of a path given as segments. Each is percent-encoded here, because URL builders drop
    /// line ends and tabs, which names of outputs may hold.
    pub(super) fn url(&self, segments: &[&str]) -> reqwest::Url {
        let mut url = self.base.clone();
        let mut path = format!("{}/v1", url.path().trim_end_matches('/'));
        for segment in segments {
            path.push('/');
            for byte in segment.bytes() {
                match byte {
                    b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                        path.push(char::from(byte));
                    }
                    _ => {
                        // Writing to a string cannot fail.
                        let _ = write!(path, "%{byte:02X}");
                    }
                }
            }
        }
        url.set_path(&path);
        url
    }

    pub(super) fn call(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.call_url(method, self.url(segments))
    }

    pub(super) fn call_url(&self, method: Method, url: reqwest::Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// Sends what `build` makes, again and again as the policy allows, until an answer comes.
    /// Statuses of refusal become [`ClientError::Api`]; 304 is let through.
    pub(super) async fn send(
        &self,
        repeat: Repeat,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Response, ClientError> {
        let mut number = 0;
        loop {
            number += 1;
            let (error, again) = match build().send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::NOT_MODIFIED => return Ok(response),
                Ok(response) => {
                    let passing = is_passing(response.status().as_u16())
                        || response.status() == StatusCode::TOO_MANY_REQUESTS;
                    let error = self.refusal(response).await;
                    let full = error.code() == Some(gristmill_protocol::ErrorCode::QueueFull);
                    (error, passing && !full && repeat == Repeat::Safe)
                }
                Err(error) => {
                    let again = (repeat == Repeat::Safe || error.is_connect()) && !error.is_builder();
                    let error = self.unreachable(&error);
                    let is_passing = matches!(error, ClientError::Unreachable { .. });
                    (error, again && is_passing)
                }
            };
            let retry_after_s = match &error {
                ClientError::Api { retry_after_s, .. } => *retry_after_s,
                _ => None,
            };
            let wait =
                if again { self.retry.wait_after(number, retry_after_s, rand::random()) } else { None };
            let Some(wait) = wait else { return Err(error) };
            tracing::debug!(%error, wait_ms = wait.as_millis() as u64, "the call is tried again");
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends and reads a JSON answer.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        repeat: Repeat,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<T, ClientError> {
        let response = self.send(repeat, build).await?;
        self.read_json(response).await
    }

    pub(super) async fn read_json<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            self.unexpected(format!("status {status}, but the body is no such document: {error}"))
        })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, segments: &[&str]) -> Result<T, ClientError> {
        self.json(Repeat::Safe, || self.call(Method::GET, segments)).await
    }

    pub(super) async fn get_with<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &(impl Serialize + ?Sized),
    ) -> Result<T, ClientError> {
        self.json(Repeat::Safe, || self.call(Method::GET, segments).query(query)).await
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let server = self.server().to_owned();
        match ConnectionFault::of(error) {
            Some(fault) => ClientError::Connection { server, fault },
            None => ClientError::Unreachable { server, detail: innermost(error) },
        }
    }

    pub(super) fn unexpected(&self, detail: impl Into<String>) -> ClientError {
        ClientError::UnexpectedAnswer { server: self.server().to_owned(), detail: detail.into() }
    }

    /// Turns an answer with a status of refusal into an error.
    pub(super) async fn refusal(&self, mut response: Response) -> ClientError {
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after_s = header("retry-after").and_then(|text| text.parse().ok());
        let request_id = header("x-request-id").map(str::to_owned);
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > PROBLEM_BYTES_MAX {
                break;
            }
        }
        let problem = serde_json::from_slice::<Problem>(&body).ok().or_else(|| bodyless(status, request_id));
        match problem {
            Some(problem) => ClientError::Api { problem: Box::new(problem), retry_after_s },
            None => self.unexpected(format!("status {status}")),
        }
    }
}

/// The problem that stands for an answer without a body, as HEAD gives it.
fn bodyless(status: StatusCode, request_id: Option<String>) -> Option<Problem> {
    use gristmill_protocol::ErrorCode;
    // Without a request id the answer is not one of ours.
    let request_id = request_id?;
    let code = match status.as_u16() {
        401 => ErrorCode::Unauthenticated,
        403 => ErrorCode::Forbidden,
        404 => ErrorCode::NotFound,
        503 => ErrorCode::Unavailable,
        _ => return None,
    };
    Some(Problem {
        kind: "about:blank".into(),
        title: code.title().into(),
        status: status.as_u16(),
        detail: code.title().into(),
        code,
        hint: None,
        request_id: Some(request_id),
        errors: Vec::new(),
    })
}

/// The text of the innermost cause, which is the one that says something.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// A duration as the API's query parameters write it.
pub(super) fn wait_text(wait: Duration) -> String {
    format!("{}ms", wait.as_millis())
}
