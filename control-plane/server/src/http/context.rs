//! What is known of a request beside its content: where it came from, what it takes of the server,
//! and, once that is found out, who makes it.

use std::{
    any::Any,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use axum::{
    extract::{MatchedPath, Request},
    http::{Extensions, HeaderMap, Method},
};
use gristmill_protocol::{JobId, NodeId, TokenId};

use super::sse;
use crate::{
    app::App,
    error::ApiError,
    gates::{Allowance, Kind},
    listener::{Peer, Reach},
    principal::{NodePrincipal, Origin, Principal},
};

/// Who makes a request.
#[derive(Debug)]
pub(super) enum Caller {
    User { token: TokenId, tenant: String },
    Node(NodeId),
}

/// One request on its way through the server.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) origin: Origin,
    /// The route's template; `unknown` when there is none.
    pub(super) route: String,
    /// What the request takes; monitoring takes nothing.
    pub(super) kind: Option<Kind>,
    /// Whom its connection serves.
    pub(super) reach: Reach,
    pub(super) caller: OnceLock<Caller>,
    pub(super) allowance: OnceLock<Allowance>,
    held: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Context {
    pub(super) fn new(request_id: &str, request: &Request) -> Arc<Self> {
        let extensions = request.extensions();
        let route = extensions.get::<MatchedPath>().map_or("unknown", MatchedPath::as_str);
        let peer = extensions.get::<Peer>();
        Arc::new(Self {
            origin: Origin {
                request_id: request_id.into(),
                peer: peer.map(|peer| address(peer, request.headers())),
            },
            route: route.to_owned(),
            kind: kind(request.method(), route, request.uri().query().unwrap_or(""), request.headers()),
            reach: peer.map_or(Reach::Everybody, |peer| peer.reach),
            caller: OnceLock::new(),
            allowance: OnceLock::new(),
            held: Mutex::default(),
        })
    }

    /// The context of a request that came through the outermost layer.
    pub(super) fn of(extensions: &Extensions) -> Result<Arc<Self>, ApiError> {
        let found = extensions.get::<Arc<Self>>().cloned();
        found.ok_or_else(|| ApiError::internal(anyhow::anyhow!("a request has no context")))
    }

    /// Keeps something until the answer has been sent.
    pub(super) fn hold(&self, what: impl Any + Send) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(what));
    }

    /// Notes which user makes the request, counts it and takes a part of the token's share.
    pub(super) fn is_of_user(&self, app: &App, user: &Principal) -> Result<(), ApiError> {
        let caller = Caller::User { token: user.token, tenant: user.tenant.clone() };
        if self.caller.set(caller).is_err() {
            return Ok(());
        }
        if let Some(allowance) = app.gates.count_token(user.token)? {
            // Set once, as the caller was.
            let _ = self.allowance.set(allowance);
        }
        if let Some(kind) = self.kind {
            self.hold(app.gates.share(user.token, kind)?);
        }
        Ok(())
    }

    /// Notes which node makes the request.
    pub(super) fn is_of_node(&self, node: &NodePrincipal) {
        let _ = self.caller.set(Caller::Node(node.node));
    }
}

/// The address of the client: what the proxy wrote last, if there is one.
fn address(peer: &Peer, headers: &HeaderMap) -> IpAddr {
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back();
    let last = forwarded.filter(|_| peer.is_proxy).and_then(|value| value.to_str().ok()?.rsplit(',').next());
    last.and_then(|text| text.trim().parse().ok()).unwrap_or_else(|| peer.address.ip())
}

/// What a request takes of the server.
fn kind(method: &Method, route: &str, query: &str, headers: &HeaderMap) -> Option<Kind> {
    let moves_bytes = ["/blobs", "/uploads", "/wasm", "/outputs/", "/outputs.", "/bulk/"];
    let waits = query.split('&').any(|pair| pair == "wait" || pair.starts_with("wait="));
    match route {
        "/livez" | "/readyz" | "/metrics" => None,
        _ if route.starts_with("/v1/node/") => Some(Kind::Node),
        _ if waits || route.starts_with("/v1/events") || sse::is_asked_for(headers) => Some(Kind::Poll),
        _ if method == Method::PUT && route.starts_with("/v1/modules") => Some(Kind::Transfer),
        // All outputs of a job as one archive.
        _ if route.ends_with("/outputs") && query.contains("format=tar") => Some(Kind::Transfer),
        _ if moves_bytes.iter().any(|part| route.contains(part)) => Some(Kind::Transfer),
        _ => Some(Kind::Request),
    }
}

/// The job, and the number of the attempt, that a path names.
pub(super) fn subject(path: &str) -> (Option<JobId>, Option<u32>) {
    let mut parts = path.split('/').skip_while(|part| !part.starts_with("job_"));
    let job = parts.next().and_then(|part| part.parse().ok());
    let next = parts.next();
    let number = if next == Some("attempts") { parts.next() } else { next };
    (job, job.and(number.and_then(|part| part.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_takes_from_the_budget_it_belongs_to() {
        let of = |method: Method, route: &str, query: &str| kind(&method, route, query, &HeaderMap::new());
        assert_eq!(of(Method::GET, "/readyz", "verbose"), None);
        assert_eq!(of(Method::POST, "/v1/node/leases/acquire", ""), Some(Kind::Node));
        assert_eq!(of(Method::GET, "/v1/jobs/{id}", "wait=5s"), Some(Kind::Poll));
        assert_eq!(of(Method::POST, "/v1/jobs", "validate_only&wait=5s"), Some(Kind::Poll));
        assert_eq!(of(Method::POST, "/v1/jobs", "await=5s"), Some(Kind::Request));
        assert_eq!(of(Method::PUT, "/v1/blobs/{digest}", ""), Some(Kind::Transfer));
        assert_eq!(of(Method::GET, "/v1/jobs/{id}/outputs/{*path}", ""), Some(Kind::Transfer));
        assert_eq!(of(Method::GET, "/v1/jobs/{id}/outputs", ""), Some(Kind::Request));
        assert_eq!(of(Method::GET, "/v1/jobs/{id}/outputs", "format=tar"), Some(Kind::Transfer));
        assert_eq!(of(Method::PATCH, "/v1/uploads/{id}", ""), Some(Kind::Transfer));
        assert_eq!(of(Method::PUT, "/v1/modules/{name}/versions/{version}", ""), Some(Kind::Transfer));
        assert_eq!(of(Method::GET, "unknown", ""), Some(Kind::Request));
        assert_eq!(of(Method::GET, "/v1/events", ""), Some(Kind::Poll));
        assert_eq!(of(Method::POST, "/v1/bulk/jobs/submit", ""), Some(Kind::Transfer));
        let streams = HeaderMap::from_iter([(
            http::header::ACCEPT,
            http::HeaderValue::from_static("text/event-stream"),
        )]);
        let log = "/v1/jobs/{id}/attempts/{number}/logs";
        assert_eq!(kind(&Method::GET, log, "", &streams), Some(Kind::Poll));
        assert_eq!(of(Method::GET, log, ""), Some(Kind::Request));
    }

    #[test]
    fn a_path_names_its_job_and_attempt() {
        let job = JobId::from_parts(1, [1; 10]);
        assert_eq!(subject(&format!("/v1/jobs/{job}/cancel")), (Some(job), None));
        assert_eq!(subject(&format!("/v1/jobs/{job}/attempts/3/logs")), (Some(job), Some(3)));
        assert_eq!(subject(&format!("/v1/node/attempts/{job}/2/logs/stdout")), (Some(job), Some(2)));
        assert_eq!(subject("/v1/jobs/job_none/3"), (None, None));
        assert_eq!(subject("/v1/modules/a/versions/1.0.0"), (None, None));
    }

    #[test]
    fn only_a_proxy_is_believed_about_addresses() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "192.0.2.1, 198.51.100.7".parse().expect("a header"));
        let peer = |is_proxy| Peer {
            address: std::net::SocketAddr::from(([10, 0, 0, 1], 5)),
            is_proxy,
            reach: Reach::Everybody,
        };
        assert_eq!(address(&peer(false), &headers).to_string(), "10.0.0.1");
        assert_eq!(address(&peer(true), &headers).to_string(), "198.51.100.7");
        assert_eq!(address(&peer(true), &HeaderMap::new()).to_string(), "10.0.0.1");
    }
}
