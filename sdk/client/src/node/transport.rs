//! The HTTP connection pool of a node: proxy, private authority, keep-alive, no redirects.

use std::{path::Path, time::Duration};

use reqwest::{Certificate, Client, Url};

/// A server address or certificate file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The address is no http or https URL.
    #[error("{0:?} is not a server address; write http://HOST:PORT or https://HOST[:PORT]")]
    Address(String),
    /// The authority file cannot be read.
    #[error("failed to read the certificate authority file {path}: {cause}")]
    Authority {
        /// The file.
        path: String,
        /// Why.
        cause: String,
    },
    /// The TLS library refused to start.
    #[error("failed to set up HTTP: {0}")]
    Setup(String),
}

/// A connection pool to one server. Cheap to clone; clones share the pool.
#[derive(Debug, Clone)]
pub struct Transport {
    http: Client,
    base: Url,
}

impl Transport {
    /// Prepares connections to `server` (`http://…` or `https://…`); nothing is dialled yet.
    ///
    /// `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured. `ca_file` is a PEM file with
    /// authorities that are trusted beside the system's own.
    pub fn open(server: &str, ca_file: Option<&Path>) -> Result<Self, TransportError> {
        let bad_address = || TransportError::Address(server.chars().take(200).collect());
        let base = Url::parse(server.trim_end_matches('/')).map_err(|_| bad_address())?;
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() || base.query().is_some() {
            return Err(bad_address());
        }
        let authorities = ca_file.map(read_authorities).transpose()?.unwrap_or_default();
        // Plain HTTP needs no authorities at all, and a machine without any must still reach an
        // https server through its private one.
        let http = if base.scheme() == "http" {
            client().tls_certs_only(authorities).build()
        } else {
            let merged = client().tls_certs_merge(authorities.clone()).build();
            match merged {
                Err(_) if !authorities.is_empty() => client().tls_certs_only(authorities).build(),
                other => other,
            }
        };
        let http = http.map_err(|error| TransportError::Setup(format!("{error:?}")))?;
        Ok(Self { http, base })
    }

    pub(crate) fn http(&self) -> &Client {
        &self.http
    }

    /// The whole URL of a path such as `/v1/node/updates`, below the server's own path if any.
    pub(crate) fn url(&self, path: &str, query: &str) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}{path}"));
        url.set_query((!query.is_empty()).then_some(query));
        url
    }
}

fn client() -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(concat!("gristmill-node/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        // A signature covers one path of one server: following a redirect can never be right.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(15))
        .tcp_keepalive_interval(Duration::from_secs(5))
        .pool_idle_timeout(Duration::from_secs(30))
}

fn read_authorities(path: &Path) -> Result<Vec<Certificate>, TransportError> {
    let failed = |cause: String| TransportError::Authority { path: path.display().to_string(), cause };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("it holds no PEM certificate".into()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_are_servers() {
        for bad in ["", "localhost:7070", "ftp://host", "http://", "https://host/?a=b", "/path"] {
            assert!(Transport::open(bad, None).is_err(), "{bad}");
        }
        let transport = Transport::open("http://host:7070/base/", None).expect("an address");
        assert_eq!(transport.url("/v1/x", "a=1").as_str(), "http://host:7070/base/v1/x?a=1");
        assert_eq!(transport.url("/v1/x", "").as_str(), "http://host:7070/base/v1/x");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = std::env::temp_dir().join(format!("gristmill-ca-{}", std::process::id()));
        std::fs::write(&file, "no certificate").expect("a file");
        let error = Transport::open("https://host", Some(&file)).expect_err("no certificate");
        assert!(error.to_string().contains("certificate"), "{error}");
        std::fs::remove_file(&file).expect("removed");
        assert!(Transport::open("https://host", Some(&file)).is_err());
    }
}
