//! What a server is started with.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use gristmill_lifecycle::Settings;
pub use gristmill_lifecycle::settings::Retention;
use gristmill_protocol::trace::Sampling;

pub use crate::{
    gates::{ClientLimits, Rate},
    pace::PaceRule,
};

/// A certificate chain and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then the intermediate ones.
    pub cert: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// What a server is started with. [`ServerConfig::new`] has the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Where everything is kept; made if absent, with mode 0700. One server at a time.
    pub data_dir: PathBuf,
    /// Address and port to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A second address that serves only the node protocol, with connections of its own; port 0 takes
    /// a free one. The first address serves it too.
    pub node_listen: Option<SocketAddr>,
    /// Serves HTTPS with these files; plain HTTP when absent.
    pub tls: Option<TlsFiles>,
    /// Whether a proxy in front does TLS, so that plain HTTP beyond loopback is wanted. The last address
    /// in `X-Forwarded-For`, which the proxy wrote, is then the client's.
    pub behind_proxy: bool,
    /// Times, depths and defaults of the rules.
    pub settings: Settings,
    /// Most connections of an address to listen on, as far as the limit of open files allows. An
    /// eighth of them serve only nodes; further ones are closed at once.
    pub connections_max: usize,
    /// Most connections of one client, an IPv4 address or an IPv6 /64; more serve only nodes. It does
    /// not apply behind a proxy, which is one client for all.
    pub connections_peer_max: usize,
    /// What clients may take at a time and over time.
    pub clients: ClientLimits,
    /// How long a client may take to send the head of a request, which is also how long a connection
    /// may be idle.
    pub head_timeout: Duration,
    /// How long requests under way may take to finish when the server stops.
    pub drain_timeout: Duration,
    /// Which traces of jobs are recorded, by this server and, unless they have another rule, by nodes and guests.
    pub sampling: Sampling,
}

impl ServerConfig {
    /// The defaults, for a data directory and an address.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            node_listen: None,
            tls: None,
            behind_proxy: false,
            settings: Settings::default(),
            connections_max: 10_000,
            connections_peer_max: 1_000,
            clients: ClientLimits::default(),
            head_timeout: Duration::from_mins(1),
            drain_timeout: Duration::from_secs(20),
            sampling: Sampling::default(),
        }
    }

    /// Refuses plain HTTP that others could listen to.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let mut addresses = std::iter::once(self.listen).chain(self.node_listen);
        let exposed = addresses.find(|address| !address.ip().is_loopback());
        let Some(exposed) = exposed.filter(|_| self.tls.is_none() && !self.behind_proxy) else {
            return Ok(());
        };
        anyhow::bail!(
            "refused to serve plain HTTP on {exposed}, which is not a loopback address: give --tls-cert \
             and --tls-key, or --behind-proxy if a proxy in front does TLS"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_beyond_loopback_needs_a_proxy() {
        let mut config = ServerConfig::new("data", "0.0.0.0:7070".parse().expect("an address"));
        assert!(config.check().is_err());
        config.behind_proxy = true;
        assert!(config.check().is_ok());
        let mut loopback = ServerConfig::new("data", "[::1]:7070".parse().expect("an address"));
        assert!(loopback.check().is_ok());
        loopback.node_listen = Some("10.0.0.1:7071".parse().expect("an address"));
        assert!(loopback.check().expect_err("nodes' traffic too").to_string().contains("10.0.0.1:7071"));
    }
}
