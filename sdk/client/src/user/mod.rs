//! The users' API as typed calls: modules, blobs, jobs, logs, outputs, and what operators need.
//!
//! A [`Client`] is cheap to clone and safe to use from many tasks. Dropping a call's future
//! abandons the call; what the server has already accepted stays accepted. No call holds a file in
//! memory.

mod blobs;
mod bulk;
mod error;
mod events;
mod jobs;
mod logs;
mod modules;
mod operators;
mod probe;
mod request;
mod retry;
#[cfg(test)]
mod scripted_tests;
mod sse;
mod uploads;

use std::{fmt, path::PathBuf, time::Duration};

pub use blobs::{BlobUpload, digest_file};
pub use error::ClientError;
pub use events::EventFollower;
pub use logs::{LogFollower, LogNews, LogPiece, LogSelection};
pub use probe::ServerProbe;
pub use retry::RetryPolicy;
pub use uploads::OnSent;

/// A token's secret. It is never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text of a token; surrounding white space is not part of it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// The text, to send or to store.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Which server to talk to, and as whom.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Base URL, `http://…` or `https://…`.
    pub server: String,
    /// The user token.
    pub token: Option<Secret>,
    /// A PEM file with certificate authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// The users' API of one server.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: reqwest::Url,
    token: Option<Secret>,
    retry: RetryPolicy,
}

/// How long the server is asked to hold a long poll.
pub const LONG_POLL: Duration = Duration::from_secs(25);

impl Client {
    /// Prepares the calls; nothing is sent yet. Proxies are taken from the environment
    /// (`HTTPS_PROXY`, `NO_PROXY`), except for loopback addresses.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let base = parse_base(&endpoint.server)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("gristmill/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(90))
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .tcp_nodelay(true);
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        if let Some(path) = &endpoint.ca_file {
            builder = builder.tls_certs_merge(read_certificates(path)?);
        } else if base.scheme() == "http" {
            // A machine without any system certificates must still reach a plain listener.
            builder = builder.tls_certs_only([]);
        }
        let http =
            builder.build().map_err(|error| ClientError::Settings { detail: request::innermost(&error) })?;
        Ok(Self { http, base, token: endpoint.token.clone(), retry: RetryPolicy::default() })
    }

    /// The same client with another patience.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// The server's base URL, without a slash at its end.
    pub fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }
}

fn parse_base(server: &str) -> Result<reqwest::Url, ClientError> {
    let wrong = |why: &str| ClientError::Settings {
        detail: format!("{server:?} is no server address: {why}; write http://HOST:PORT or https://HOST"),
    };
    let mut text = server.trim().to_owned();
    if !text.ends_with('/') {
        text.push('/');
    }
    let url = reqwest::Url::parse(&text).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("it does not begin with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(wrong("it may hold neither a password nor a query"));
    }
    Ok(url)
}

fn is_loopback(url: &reqwest::Url) -> bool {
    url.host_str().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn read_certificates(path: &std::path::Path) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let pem = std::fs::read(path)
        .map_err(|error| ClientError::file(format!("cannot read the CA file {}", path.display()), error))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).ok().filter(|list| !list.is_empty());
    found.ok_or_else(|| ClientError::Settings {
        detail: format!("{} holds no certificate in PEM form", path.display()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_a_scheme_and_a_host_and_holds_no_secret() {
        for bad in ["", "localhost:7070", "ftp://x", "http://", "http://user:pw@host", "http://h/?q=1"] {
            assert!(parse_base(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_base("http://h:1/base").map(String::from).ok(), Some("http://h:1/base/".into()));
    }

    #[test]
    fn loopback_is_recognised_by_name_and_number() {
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example.com", false),
        ] {
            assert_eq!(parse_base(url).map(|url| is_loopback(&url)).ok(), Some(expected), "{url}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("gmu_abc\n")), "Secret(…)");
        assert_eq!(Secret::new(" gmu_abc\n").expose(), "gmu_abc");
    }
}
