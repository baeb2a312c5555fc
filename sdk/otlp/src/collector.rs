//! The collector: where it is, and how spans are given to it.

use std::{fmt, time::Duration};

use reqwest::{
    Client, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER},
};

/// Tries of one batch, when the collector is not there or has no room.
const TRIES_MAX: u32 = 3;
/// The pause after the first try; it doubles.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that a collector is granted.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A collector.
pub(crate) struct Collector {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

/// Why a batch was not taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// No answer came.
    Silence(reqwest::Error),
    /// The answer.
    Status(StatusCode),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence(error) => {
                write!(f, "{error}")?;
                let mut cause = std::error::Error::source(error);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
            Self::Status(status) => write!(f, "the collector answered {status}"),
        }
    }
}

impl fmt::Debug for Collector {
    /// Neither the address nor the headers, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

impl Collector {
    pub(crate) fn new(client: Client, url: Url, headers: HeaderMap) -> Self {
        Self { client, url, headers }
    }

    /// Gives a request to the collector, a few times if it asks for that or does not answer.
    pub(crate) async fn take(&self, body: Vec<u8>) -> Result<(), Refusal> {
        let mut pause = PAUSE;
        for _ in 1..TRIES_MAX {
            let asked = match self.try_once(body.clone()).await {
                Ok(()) => return Ok(()),
                Err((refusal, None)) => return Err(refusal),
                Err((_, Some(asked))) => asked,
            };
            tokio::time::sleep(asked.max(pause).min(PAUSE_MAX)).await;
            pause *= 2;
        }
        self.try_once(body).await.map_err(|(refusal, _)| refusal)
    }

    /// The error comes with the pause that the collector asks for, if it makes sense to try again.
    async fn try_once(&self, body: Vec<u8>) -> Result<(), (Refusal, Option<Duration>)> {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone());
        let request = request.header(CONTENT_TYPE, "application/x-protobuf").body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Err((Refusal::Silence(error.without_url()), Some(Duration::ZERO))),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let after = response.headers().get(RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let is_passing = matches!(status.as_u16(), 429 | 502 | 503 | 504);
        Err((Refusal::Status(status), is_passing.then(|| after.unwrap_or_default())))
    }
}
