//! A running server: opened, served, and shut down in order.

use std::{
    fmt, io, io::Write, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::Duration,
};

use anyhow::Context;
use gristmill_protocol::{
    TokenId,
    audit::AuditOperation,
    node::JoinTokenSpec,
    tenancy::{Scope, TenantRetention, TenantView, TokenSpec, TokenView},
    zone::{ZonePolicy, ZoneSpec},
};
use tokio_util::task::TaskTracker;

use crate::{
    app::App,
    auth::{USER_SECRET_PREFIX, new_secret, secret_hash},
    blob::BlobStore,
    clock::SystemClock,
    config::ServerConfig,
    data_dir::DataDir,
    entropy::{Entropy, SystemEntropy},
    http,
    listener::Listener,
    ops, retention,
    store::{
        audit::AuditNote,
        sqlite::{SqliteStore, StoreOptions},
        zone::ZonePut,
    },
    sweep,
    wake::Wakes,
};

/// The tenant, and the zone, that a new server begins with.
const FIRST: &str = "default";
const ADMIN_TOKEN_TTL: Duration = Duration::from_hours(3_650 * 24);

/// A running server. Dropping it without [`Server::shutdown`] leaves its tasks to the runtime.
pub struct Server {
    app: Arc<App>,
    tasks: TaskTracker,
    local_addr: SocketAddr,
    node_addr: Option<SocketAddr>,
    is_tls: bool,
    // Held for as long as the server runs; the lock goes with the file.
    _lock: std::fs::File,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the data directory and serves. At the first start it makes the tenant and the zone
    /// `default` and an admin token, whose secret is in `admin.token` in the data directory, readable
    /// by its owner alone. Fails when another server has the directory open, when the address is
    /// taken, or when plain HTTP would leave the machine.
    pub async fn start(config: ServerConfig) -> anyhow::Result<Self> {
        config.check()?;
        let data = DataDir::new(&config.data_dir);
        let lock = data.lock()?;
        // The address comes first: with a taken one, nothing is touched.
        let listener = Listener::bind(&config).await?;
        let local_addr = listener.local_addr().context("failed to learn the address")?;
        let for_nodes = Listener::bind_for_nodes(&config).await?;
        let node_addr = for_nodes.as_ref().map(Listener::local_addr).transpose();
        let node_addr = node_addr.context("failed to learn the nodes' address")?;
        let app = Arc::new(open_app(&config, &data).await?);
        first_start(&app, &data).await?;
        // Leases from before a restore are over before anybody can use them.
        ops::expire_leases(&app).await.context("failed to end leases from before a restore")?;
        let tasks = TaskTracker::new();
        let router = http::router(Arc::clone(&app));
        let denied = |app: &Arc<App>| {
            let app = Arc::clone(app);
            move || app.denials.note_connection()
        };
        if let Some(for_nodes) = for_nodes {
            tasks.spawn(for_nodes.serve(router.clone(), app.shutdown.clone(), denied(&app)));
        }
        tasks.spawn(listener.serve(router, app.shutdown.clone(), denied(&app)));
        sweep::start(&app, &tasks);
        retention::start(&app, &tasks);
        tasks.close();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            %local_addr,
            node_addr = node_addr.map(tracing::field::display),
            is_tls = config.tls.is_some(),
            data = %config.data_dir.display(),
            "serving"
        );
        Ok(Self { app, tasks, local_addr, node_addr, is_tls: config.tls.is_some(), _lock: lock })
    }

    /// The address that is listened on, with the port that was taken for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The second address, which serves only nodes.
    pub fn node_addr(&self) -> Option<SocketAddr> {
        self.node_addr
    }

    /// The URL of the API for clients on this machine.
    pub fn base_url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        let mut address = self.local_addr;
        if address.ip().is_unspecified() {
            let loopback: std::net::IpAddr = if address.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
            address.set_ip(loopback);
        }
        format!("{scheme}://{address}")
    }

    /// The parts, for those who run a server within their own process.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Makes a token of the tenant `default` with every scope, valid for 90 days, and returns its
    /// secret. Durable when it returns.
    pub async fn issue_admin_token(&self, name: &str) -> anyhow::Result<String> {
        let spec = TokenSpec {
            name: name.to_owned(),
            tenant: Some(FIRST.to_owned()),
            scopes: Some(Scope::ALL.to_vec()),
            ttl_ms: None,
        };
        Ok(ops::issue_token(&self.app, spec, None).await?.secret)
    }

    /// Makes a join token for one node of a zone and returns its secret, which is good for 15
    /// minutes and one use.
    pub async fn issue_join_token(&self, zone: &str) -> anyhow::Result<String> {
        let spec = JoinTokenSpec { zone: zone.to_owned(), ttl_ms: None, node_name: None };
        Ok(ops::issue_join_token(&self.app, spec, None).await?.secret)
    }

    /// Stops in order: accepts nothing new, ends long polls, finishes requests under way (within the
    /// drain timeout), stops the sweeps, drains the writer and closes the store.
    pub async fn shutdown(self) {
        tracing::info!("stopping: requests under way are finished");
        self.app.shutdown.cancel();
        self.tasks.wait().await;
        self.app.uploads.close().await;
        self.app.store.close().await;
        tracing::info!("stopped");
    }
}

async fn open_app(config: &ServerConfig, data: &DataDir) -> anyhow::Result<App> {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let clock = Arc::new(SystemClock::start());
    let wakes = Arc::new(Wakes::default());
    let blobs = BlobStore::open_local(&data.objects(), Arc::clone(&entropy))
        .context("failed to open the blob store")?;
    let options = StoreOptions {
        clock: clock.clone(),
        entropy: Arc::clone(&entropy),
        settings: config.settings.clone(),
        wakes: Arc::clone(&wakes),
    };
    let store = SqliteStore::open(&data.database(), options).await.context("failed to open the database")?;
    let app = App::assemble(store, clock, entropy, Arc::new(blobs), wakes, config.settings.clone())
        .await
        .context("failed to read nodes and zones")?;
    Ok(app.with_clients(&config.clients).with_sampling(config.sampling))
}

/// Makes what a new server begins with. Each step is skipped when it was done before, so that a
/// first start that was cut off is completed by the next one.
async fn first_start(app: &App, data: &DataDir) -> anyhow::Result<()> {
    let tenant = TenantView {
        name: FIRST.to_owned(),
        queue_depth_max: app.settings.queue_depth_tenant_max,
        retention: TenantRetention::default(),
        created_at: app.clock.now(),
        version: 1,
    };
    let first = |operation, object: &dyn std::fmt::Display| {
        app.store.audited(AuditNote::of_server(operation, object))
    };
    if app.store.tenant_get(FIRST).await?.is_none() {
        first(AuditOperation::TenantCreate, &FIRST).tenant_create(tenant).await?;
    }
    if app.registry.zones().is_empty() {
        let spec = ZoneSpec {
            name: FIRST.to_owned(),
            description: "the first zone".into(),
            policy: ZonePolicy::default(),
        };
        let store = first(AuditOperation::ZoneCreate, &FIRST);
        if let ZonePut::Done(zone) = store.zone_create(spec, app.clock.now()).await? {
            app.registry.put_zone(zone);
        }
    }
    admin_token(app, data).await
}

/// Makes the token in `admin.token`, unless it is there. Who may write into the data directory is
/// the operator: without that file, he gets a new one. What was revoked or has expired stays so.
async fn admin_token(app: &App, data: &DataDir) -> anyhow::Result<()> {
    let path = data.admin_token();
    let secret = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = new_secret(USER_SECRET_PREFIX, &*app.entropy);
            write_secret(&path, &secret).with_context(|| format!("failed to write {}", path.display()))?;
            secret
        }
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
    };
    let file = path.display();
    if !secret.starts_with(USER_SECRET_PREFIX) {
        tracing::warn!(%file, "the file holds no token; remove it and start again for a new administrator's token");
        return Ok(());
    }
    let (hash, now) = (secret_hash(&secret), app.clock.now());
    if let Some(token) = app.store.token_by_secret(hash).await? {
        if token.revoked_at.is_some() || now >= token.expires_at {
            tracing::warn!(
                %file, token = %token.id,
                "the token in the file was revoked or has expired; remove the file and start again for a new one"
            );
        }
    } else {
        let is_first = app.store.token_list(None, None, 1).await?.is_empty();
        let token = TokenView {
            id: TokenId::from_parts(app.unix_ms(), app.entropy.bytes()),
            name: "admin".into(),
            tenant: FIRST.to_owned(),
            scopes: Scope::ALL.to_vec(),
            created_at: now,
            expires_at: now + ADMIN_TOKEN_TTL,
            revoked_at: None,
        };
        let (id, note) = (token.id, AuditNote::of_server(AuditOperation::TokenCreate, token.id));
        app.store.audited(note).token_create(token, hash, None).await?;
        if !is_first {
            tracing::warn!(%file, token = %id, "made a new administrator's token, whose secret is in the file");
        }
    }
    Ok(())
}

/// Writes a secret to a file that only its owner may read, all at once.
fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file =
        std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&partial)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&partial, path)
}
