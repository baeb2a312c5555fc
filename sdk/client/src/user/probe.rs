//! Asks a server whether it is there, without a token.

use std::time::{Duration, Instant};

use gristmill_protocol::Timestamp;
use reqwest::{Method, header::DATE};
use serde::Deserialize;

use super::{Client, ClientError, request::Repeat};

/// What a server says to anybody.
#[derive(Debug, Clone)]
pub struct ServerProbe {
    /// Whether it takes work, rather than only answering.
    pub is_ready: bool,
    /// Its clock, to the second.
    pub clock: Option<Timestamp>,
    /// How long the answer took, a connection included.
    pub round_trip: Duration,
    /// Its version, from its description of its own API, if it has one.
    pub version: Option<String>,
}

#[derive(Deserialize)]
struct Description {
    info: Info,
}

#[derive(Deserialize)]
struct Info {
    version: String,
}

impl Client {
    /// Asks `/livez` and `/readyz`. Fails when nobody answers, or something that is no server.
    pub async fn probe(&self) -> Result<ServerProbe, ClientError> {
        let started = Instant::now();
        let answer = self.send(Repeat::Safe, || self.call_url(Method::GET, self.top("livez"))).await?;
        let round_trip = started.elapsed();
        let date = answer.headers().get(DATE).and_then(|value| value.to_str().ok());
        let clock = date.and_then(|text| jiff::fmt::rfc2822::parse(text).ok()).map(|zoned| zoned.timestamp());
        if answer.bytes().await.map_err(|error| self.unreachable(&error))?.trim_ascii() != b"ok" {
            return Err(self.unexpected("its health is told in words that are not a Gristmill server's"));
        }
        let is_ready =
            self.send(Repeat::Safe, || self.call_url(Method::GET, self.top("readyz"))).await.is_ok();
        let described =
            self.json(Repeat::Safe, || self.call_url(Method::GET, self.top("openapi.json"))).await;
        let version = described.ok().map(|Description { info }| info.version);
        Ok(ServerProbe { is_ready, clock, round_trip, version })
    }

    /// The URL of what lies beside the versioned API.
    fn top(&self, name: &str) -> reqwest::Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{name}", url.path().trim_end_matches('/')));
        url
    }
}
