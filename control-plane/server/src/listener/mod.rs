//! Connections: bounded in number, for each address and in all, in the time and size of their request
//! heads, in the time they take to read an answer, and drained at the end.

mod admission;
mod stream;

pub(crate) use admission::client;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use self::{
    admission::{Admission, Ticket},
    stream::{Io, Stream},
};
use crate::{
    config::{ServerConfig, TlsFiles},
    pace::PaceRule,
};

/// Most headers of a request; one with more is answered 431.
const HEADERS_MAX: usize = 100;
/// Most bytes of a request's head, from the request line to the empty line after the headers; a longer
/// one is answered 431. It is also the size of a connection's read buffer.
const HEAD_BYTES_MAX: usize = 64 << 10;
const TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed accept, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection of the reserve may take for a head, which is also how long it may be idle.
const RESERVE_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What the kernel buffers for a slow reader hides its pace for a while, so it is judged over longer
/// windows than a sender.
const READER_WINDOWS: u32 = 4;
/// Descriptors that are kept for files, the database and the rest.
const DESCRIPTORS_KEPT: usize = 256;

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// The other end of the connection; a proxy's, if one stands between.
    pub(crate) address: SocketAddr,
    /// Whether `X-Forwarded-For` can be trusted.
    pub(crate) is_proxy: bool,
    /// Who is served on this connection.
    pub(crate) reach: Reach,
}

/// Who is served on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Users and nodes.
    Everybody,
    /// Nodes: it came to their address.
    Nodes,
    /// Nodes: the other connections were all taken.
    Reserve,
}

/// A bound address, ready to accept.
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    admission: Admission,
    nodes_only: bool,
    is_proxy: bool,
    reader_pace: PaceRule,
    head_timeout: Duration,
    drain_timeout: Duration,
}

/// Reads the certificate and key.
fn acceptor(files: &TlsFiles) -> anyhow::Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("failed to read the certificate {}", files.cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("failed to read the private key {}", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .context("the certificate and the private key do not belong together")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// As many connections as are wanted and as the process has descriptors for.
fn fitting(connections_max: usize) -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = descriptors.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let fits = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(descriptors / 2);
    if fits < connections_max {
        tracing::debug!(connections_max, fits, "the limit of open files allows fewer connections");
    }
    connections_max.min(fits)
}

impl Listener {
    /// Binds the address of the API and reads the certificate.
    pub(crate) async fn bind(config: &ServerConfig) -> anyhow::Result<Self> {
        Self::bind_to(config, config.listen, false).await
    }

    /// Binds the address that serves only nodes, if the configuration has one.
    pub(crate) async fn bind_for_nodes(config: &ServerConfig) -> anyhow::Result<Option<Self>> {
        match config.node_listen {
            Some(address) => Self::bind_to(config, address, true).await.map(Some),
            None => Ok(None),
        }
    }

    async fn bind_to(config: &ServerConfig, address: SocketAddr, nodes_only: bool) -> anyhow::Result<Self> {
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let tcp =
            TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
        let connections_max = fitting(config.connections_max);
        // Behind a proxy, and where nodes come from one address, everybody is the same peer.
        let is_shared = config.behind_proxy || nodes_only;
        let peer_max = if is_shared { connections_max } else { config.connections_peer_max };
        let pace = config.clients.pace;
        Ok(Self {
            tcp,
            tls,
            admission: Admission::new(connections_max, peer_max),
            nodes_only,
            is_proxy: config.behind_proxy,
            reader_pace: PaceRule {
                window: pace.window * READER_WINDOWS,
                bytes_min: pace.bytes_min * u64::from(READER_WINDOWS),
            },
            head_timeout: config.head_timeout,
            drain_timeout: config.drain_timeout,
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts connections until `shutdown`, then waits for the requests under way, for as long as
    /// the configuration says. A connection beyond the limits is closed at once, and `denied` hears of it.
    pub(crate) async fn serve<S, B>(self, service: S, shutdown: CancellationToken, denied: impl Fn() + Send)
    where
        S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let connections = TaskTracker::new();
        let graceful = GracefulShutdown::new();
        let abort = CancellationToken::new();
        while let Some((tcp, address)) = self.accept(&shutdown).await {
            let Some(ticket) = self.admission.admit(address.ip()) else {
                tracing::debug!(%address, "a connection beyond the limits was closed");
                denied();
                continue;
            };
            let reach = match (ticket.is_reserved, self.nodes_only) {
                (true, _) => Reach::Reserve,
                (false, true) => Reach::Nodes,
                (false, false) => Reach::Everybody,
            };
            let peer = Peer { address, is_proxy: self.is_proxy, reach };
            let is_served = Arc::new(AtomicBool::new(false));
            let service = service.clone().map_request({
                let is_served = Arc::clone(&is_served);
                move |mut request: Request<Incoming>| {
                    is_served.store(true, Ordering::Relaxed);
                    request.extensions_mut().insert(peer);
                    request
                }
            });
            let builder = self.builder(&ticket);
            let (watcher, abort) = (graceful.watcher(), abort.clone());
            let (tls, reader_pace) = (self.tls.clone(), self.reader_pace);
            connections.spawn(async move {
                let _ticket = ticket;
                let serving = async {
                    let Some(io) = handshake(tcp, tls).await else { return };
                    let io = TokioIo::new(Stream::new(io, reader_pace, is_served));
                    let connection = builder.serve_connection(io, TowerToHyperService::new(service));
                    if let Err(error) = watcher.watch(connection).await {
                        tracing::debug!(%error, "a connection ended early");
                    }
                };
                tokio::select! {
                    () = serving => {}
                    () = abort.cancelled() => tracing::debug!("a connection was cut at the end"),
                }
            });
        }
        drop(self.tcp);
        connections.close();
        if tokio::time::timeout(self.drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were still under way at the end of the drain");
        }
        abort.cancel();
        connections.wait().await;
    }

    fn builder(&self, ticket: &Ticket) -> http1::Builder {
        let longest = if ticket.is_reserved { RESERVE_HEAD_TIMEOUT } else { Duration::MAX };
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout.min(longest))
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        builder
    }

    async fn accept(&self, shutdown: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
        let accepting = async {
            loop {
                match self.tcp.accept().await {
                    Ok((tcp, address)) => {
                        if let Err(error) = tcp.set_nodelay(true) {
                            tracing::debug!(%error, "failed to set TCP_NODELAY");
                        }
                        return (tcp, address);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            accepted = accepting => Some(accepted),
        }
    }
}

async fn handshake(tcp: TcpStream, tls: Option<TlsAcceptor>) -> Option<Box<dyn Io>> {
    let Some(tls) = tls else { return Some(Box::new(tcp)) };
    match tokio::time::timeout(TLS_HANDSHAKE_MAX, tls.accept(tcp)).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}
