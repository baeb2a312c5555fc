//! The HTTP interface in this process: a router on a scratch store, calls as users and as nodes, and
//! a transcript for snapshots in which chance and secrets are left out.

use std::{fmt::Write, sync::Arc};

use ::http::{HeaderMap, Request, StatusCode};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::{Router, body::Body};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gristmill_lifecycle::Settings;
use gristmill_protocol::{
    NodeId, TokenId,
    node_api::{
        CONTENT_DIGEST_HEADER, EnrollGrant, LEASE_HEADER, SIGNATURE_HEADER, SIGNATURE_INPUT_HEADER,
        signature_base, signature_params,
    },
    tenancy::{Scope, TenantRetention, TenantView, TokenView},
    zone::ZoneSpec,
};
use gristmill_server::{
    app::App,
    auth::secret_hash,
    blob::BlobStore,
    clock::Clock,
    entropy::Entropy,
    http,
    store::{
        sqlite::{SqliteStore, StoreOptions},
        token::TokenPut,
        zone::ZonePut,
    },
    wake::Wakes,
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{
    backend::{SqliteBackend, scratch_dir},
    conformance,
    event_stream::EventStream,
    stand_ins::{ManualClock, SeededEntropy},
};

/// The token of the tenant `default` that may do everything.
pub(crate) const ADMIN: &str = "gmu_admin";

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    async fn whole(answer: axum::response::Response) -> Self {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The code of a problem document.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A call to be made.
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) target: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

/// A call without a token or body.
pub(crate) fn call(method: &'static str, target: impl Into<String>) -> Call {
    Call { method, target: target.into(), headers: Vec::new(), body: Bytes::new() }
}

impl Call {
    pub(crate) fn token(self, secret: &str) -> Self {
        self.header("authorization", format!("Bearer {secret}"))
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        self.header("content-type", "application/json")
    }

    /// The same call, headers and all, to another path.
    pub(crate) fn retarget(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    pub(crate) fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// A server without a network.
pub(crate) struct Api {
    pub(crate) app: Arc<App>,
    pub(crate) clock: Arc<ManualClock>,
    router: Router,
    transcript: String,
    dir: TempDir,
}

impl Api {
    /// A server with the tenants `default` and `other`, the zone `default` and the token [`ADMIN`].
    pub(crate) async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    /// As [`Api::start`], with other settings.
    pub(crate) async fn start_with(settings: Settings) -> Self {
        let dir = scratch_dir();
        let clock = Arc::new(ManualClock::default());
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(7));
        let wakes = Arc::new(Wakes::default());
        let options = StoreOptions {
            clock: clock.clone(),
            entropy: Arc::clone(&entropy),
            settings: settings.clone(),
            wakes: Arc::clone(&wakes),
        };
        let store =
            SqliteStore::open(&dir.path().join("gristmill.db"), options).await.expect("the store opens");
        let blobs = BlobStore::open_local(&dir.path().join("objects"), Arc::clone(&entropy))
            .expect("the blob store opens");
        let app = App::assemble(store, clock.clone(), entropy, Arc::new(blobs), wakes, settings)
            .await
            .expect("the parts fit");
        let app = Arc::new(app);
        let api = Self { router: http::router(Arc::clone(&app)), app, clock, transcript: String::new(), dir };
        for tenant in ["default", "other"] {
            api.tenant(tenant).await;
        }
        let zone = ZoneSpec {
            name: "default".into(),
            description: String::new(),
            policy: gristmill_protocol::zone::ZonePolicy::default(),
        };
        let ZonePut::Done(zone) = api.app.store.zone_create(zone, api.clock.now()).await.expect("is stored")
        else {
            panic!("the first zone is new")
        };
        api.app.registry.put_zone(zone);
        api.token(ADMIN, "default", Scope::ALL).await;
        api
    }

    async fn tenant(&self, name: &str) {
        let view = TenantView {
            name: name.into(),
            queue_depth_max: 10_000,
            retention: TenantRetention::default(),
            created_at: self.clock.now(),
            version: 1,
        };
        assert!(self.app.store.tenant_create(view).await.expect("is stored"));
    }

    /// Makes a token with a known secret.
    pub(crate) async fn token(&self, secret: &str, tenant: &str, scopes: &[Scope]) -> TokenId {
        let now = self.clock.now();
        let token = TokenView {
            id: TokenId::from_parts(self.app.unix_ms(), self.app.entropy.bytes()),
            name: "test".into(),
            tenant: tenant.into(),
            scopes: scopes.to_vec(),
            created_at: now,
            expires_at: now + std::time::Duration::from_secs(1_000),
            revoked_at: None,
        };
        let id = token.id;
        let made = self.app.store.token_create(token, secret_hash(secret), None).await.expect("is stored");
        assert_eq!(made, TokenPut::Done);
        id
    }

    /// The database, behind the server's back.
    pub(crate) fn backend(&self) -> SqliteBackend {
        SqliteBackend::in_dir(self.dir.path())
    }

    /// Makes a call and reads the answer as a stream of events.
    pub(crate) async fn stream(&self, call: Call) -> EventStream {
        let asked = conformance::Asked::from(&call);
        let answer = self.answer(call.header("accept", "text/event-stream")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        let (parts, body) = answer.into_parts();
        let head = Answer { status: parts.status, headers: parts.headers, body: Bytes::new() };
        EventStream::new(body, conformance::messages(&asked, &head))
    }

    async fn answer(&self, call: Call) -> axum::response::Response {
        let mut request = Request::builder().method(call.method).uri(&call.target).header("host", "x");
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if !call.body.is_empty() {
            request = request.header("content-length", call.body.len());
        }
        self.pass(request.body(Body::from(call.body)).expect("the call is well-formed")).await
    }

    /// Makes a call as the admin whose body comes as a stream, without a declared length.
    pub(crate) async fn send_stream(&self, call: Call, body: Body) -> Answer {
        let asked = conformance::Asked::from(&call);
        let mut request = Request::builder().method(call.method).uri(&call.target).header("host", "x");
        for (name, value) in &call.token(ADMIN).headers {
            request = request.header(*name, value);
        }
        let request = request.body(body).expect("the call is well-formed");
        let answer = Answer::whole(self.pass(request).await).await;
        conformance::check(&asked, &answer);
        answer
    }

    async fn pass(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.expect("the router always answers")
    }

    /// Makes a call and holds it against the description of the API.
    pub(crate) async fn send(&self, call: Call) -> Answer {
        let asked = conformance::Asked::from(&call);
        let answer = Answer::whole(self.answer(call).await).await;
        conformance::check(&asked, &answer);
        answer
    }

    /// Makes a call as the admin.
    pub(crate) async fn admin(&self, call: Call) -> Answer {
        self.send(call.token(ADMIN)).await
    }

    /// Makes a call and writes it into the transcript.
    pub(crate) async fn note(&mut self, title: &str, call: Call) -> Answer {
        let line = format!("{} {}", call.method, redact(&call.target));
        let answer = self.send(call).await;
        let _ = writeln!(self.transcript, "## {title}\n{line}\n{}", answer.status.as_u16());
        for name in [
            "location",
            "etag",
            "content-type",
            "content-length",
            "content-range",
            "content-disposition",
            "cache-control",
            "retry-after",
            "allow",
            "www-authenticate",
            "gristmill-log-next",
            "gristmill-log-end",
            "gristmill-digest",
            "repr-digest",
            "tus-resumable",
            "tus-version",
            "tus-extension",
            "tus-max-size",
            "tus-checksum-algorithm",
            "upload-complete",
            "upload-offset",
            "upload-length",
            "upload-defer-length",
            "upload-limit",
            "upload-expires",
            "upload-metadata",
        ] {
            if let Some(value) = answer.header(name) {
                let _ = writeln!(self.transcript, "{name}: {}", redact(value));
            }
        }
        let text = match answer.json() {
            Value::Null => String::from_utf8_lossy(&answer.body).into_owned(),
            json => serde_json::to_string_pretty(&json).expect("JSON can be written"),
        };
        let _ = writeln!(self.transcript, "{}\n", redact(&text));
        answer
    }

    /// Makes a call as the admin and writes it into the transcript.
    pub(crate) async fn note_admin(&mut self, title: &str, call: Call) -> Answer {
        self.note(title, call.token(ADMIN)).await
    }

    /// Files in the blob store, those being written included, once what goes away has gone.
    pub(crate) async fn files_left(&self) -> usize {
        fn count(dir: &std::path::Path) -> usize {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
        }
        let objects = self.dir.path().join("objects");
        for _ in 0..100 {
            if count(&objects) == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        count(&objects)
    }

    /// Takes away the directory in which bytes are staged.
    pub(crate) fn remove_staging(&self) {
        std::fs::remove_dir_all(self.dir.path().join("objects/staging")).expect("it was there");
    }

    /// What was noted so far.
    pub(crate) fn transcript(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }

    /// Publishes the smallest command under a name.
    pub(crate) async fn publish(&self, name: &str, version: &str) -> Answer {
        let target = format!("/v1/modules/{name}/versions/{version}");
        self.admin(call("PUT", target).bytes(command())).await
    }

    /// Enrols a node of the zone `default`.
    pub(crate) async fn enroll(&self, name: &str) -> Node {
        self.enroll_able(name, &[]).await
    }

    /// Enrols a node whose engine has these features.
    pub(crate) async fn enroll_able(&self, name: &str, features: &[&str]) -> Node {
        let token = self.admin(call("POST", "/v1/join-tokens").json(&json!({"zone": "default"}))).await;
        let join_token = token.json()["secret"].as_str().expect("is created").to_owned();
        let node = Node::new(name.bytes().fold(1, u8::wrapping_add));
        let mut request = node.enroll_request(name, &join_token);
        request["capabilities"]["features"] = json!(features);
        let answer = self.send(call("POST", "/v1/node/enroll").json(&request)).await;
        let grant: EnrollGrant = serde_json::from_slice(&answer.body).expect("the node is enrolled");
        Node { id: grant.node, ..node }
    }

    /// Makes a call signed by the node, with the time of the server's clock and a fresh nonce.
    pub(crate) async fn signed(&self, node: &Node, call: Call) -> Answer {
        let nonce = hex::encode(self.app.entropy.bytes::<16>());
        self.send(node.sign(call, self.clock.now().as_second(), &nonce)).await
    }
}

/// A command that does nothing.
pub(crate) fn command() -> Vec<u8> {
    wat::parse_str("(module (func (export \"_start\")))").expect("is valid")
}

/// `sha256:…` of some bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A node's key and name.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) key: Ed25519KeyPair,
}

impl Node {
    pub(crate) fn new(seed: u8) -> Self {
        let key = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any seed is a key");
        Self { id: NodeId::from_parts(0, [seed; 10]), key }
    }

    pub(crate) fn enroll_request(&self, name: &str, join_token: &str) -> Value {
        json!({
            "protocol_versions": [1, 1],
            "join_token": join_token,
            "public_key": STANDARD.encode(self.key.public_key().as_ref()),
            "name": name,
            "labels": {"disk": "fast"},
            "capabilities": {
                "cpus_milli": 4000, "memory_bytes": 17_179_869_184_u64, "features": [],
                "platform": "x86_64-linux", "version": "0.1.0", "engine": "test", "isolation": "none",
            },
        })
    }

    /// Signs a call; a body is covered by its digest unless it is a blob's.
    pub(crate) fn sign(&self, mut call: Call, created_unix_s: i64, nonce: &str) -> Call {
        let is_blob = call.target.contains("/outputs/");
        let content_digest = (!call.body.is_empty() && !is_blob)
            .then(|| format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&call.body))));
        let lease =
            call.headers.iter().find(|(name, _)| *name == LEASE_HEADER).map(|(_, value)| value.clone());
        let params =
            signature_params(content_digest.is_some(), lease.is_some(), created_unix_s, nonce, &self.id);
        let (path, query) = call.target.split_once('?').unwrap_or((&call.target, ""));
        let base =
            signature_base(call.method, path, query, content_digest.as_deref(), lease.as_deref(), &params);
        let signature = STANDARD.encode(self.key.sign(base.as_bytes()));
        if let Some(value) = content_digest {
            call.headers.push((CONTENT_DIGEST_HEADER, value));
        }
        call.headers.push((SIGNATURE_INPUT_HEADER, format!("sig1={params}")));
        call.headers.push((SIGNATURE_HEADER, format!("sig1=:{signature}:")));
        call
    }
}

/// Leaves out what chance decides: the part of ids and secrets after their prefix.
fn redact(text: &str) -> String {
    let mut text = text.to_owned();
    for prefix in ["job_", "node_", "up_", "tok_", "join_", "req_", "gmu_", "gmj_"] {
        let mut from = 0;
        while let Some(at) = text[from..].find(prefix) {
            let start = from + at + prefix.len();
            let length =
                text[start..].find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len() - start);
            if length >= 20 {
                text.replace_range(start..start + length, "…");
            }
            from = start;
        }
    }
    text
}
