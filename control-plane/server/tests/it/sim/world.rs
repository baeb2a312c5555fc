//! The simulated world: one server, some nodes, some clients, one clock, and a seed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use gristmill_lifecycle::{
    Settings,
    placement::ClassSpec,
    record::{AttemptKey, ClassId},
};
use gristmill_protocol::{
    JobId, JoinTokenId, NodeId, Timestamp, TokenId,
    event::{EventKind, EventView},
    job::OutputEntry,
    module::{ModuleMetadata, ModuleWorld},
    node::NodeCapabilities,
    node_api::{AcquireGrant, AttemptReport, LeaseRef, RenewRequest, UpdatesRequest},
    tenancy::{Scope, TenantRetention, TenantView},
    zone::{ZonePolicy, ZoneSpec},
};
use gristmill_server::{
    clock::Clock,
    principal::Principal,
    store::{
        Store,
        module::ModuleVersionSpec,
        node::{JoinTokenRecord, NodeRecord},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::{
    life::{Ground, Life},
    node::FakeNode,
};
use crate::{
    backend::scratch_dir,
    commands::digest,
    history::{History, Violation, demand},
    stand_ins::{ManualClock, SeededEntropy},
};

pub(super) const TENANTS: [&str; 2] = ["acme", "umbra"];
pub(super) const ZONES: [&str; 2] = ["hall", "lab"];

/// A submit that a client wants to be done.
#[derive(Debug, Clone)]
pub(super) struct Intent {
    pub(super) tenant: usize,
    pub(super) key: Option<String>,
    pub(super) spec: gristmill_protocol::JobSpec,
    /// The job, once the client knows.
    pub(super) job: Option<JobId>,
    /// How often it was asked for.
    pub(super) tries: u32,
}

/// A message that is delivered again, later.
#[derive(Debug, Clone)]
pub(super) enum Letter {
    Updates(usize, UpdatesRequest),
    Renew(usize, RenewRequest),
    Log(usize, LeaseRef, u64, Vec<u8>),
}

/// Everything of one run.
pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) clock: Arc<ManualClock>,
    pub(super) settings: Settings,
    pub(super) nodes: Vec<FakeNode>,
    pub(super) intents: Vec<Intent>,
    /// Jobs whose cancel was acknowledged before their end.
    pub(super) cancelled: Vec<JobId>,
    pub(super) bag: Vec<Letter>,
    pub(super) history: History,
    /// No lease may run out before.
    pub(super) promised: HashMap<AttemptKey, Timestamp>,
    /// Outputs of every success that was ever reported.
    pub(super) reported: HashMap<AttemptKey, Vec<OutputEntry>>,
    /// Successes that were reported after their job had to stop.
    pub(super) stopped_successes: u64,
    /// The report that ended each attempt.
    pub(super) accepted: HashMap<AttemptKey, AttemptReport>,
    pub(super) classes: HashMap<ClassId, ClassSpec>,
    /// What was done, for whoever has to find out why it went wrong.
    pub(super) trace: Vec<String>,
    pub(super) dir: TempDir,
    ground: Ground,
    life: Option<Life>,
}

/// What a node offers.
pub(super) fn capabilities(cpus_milli: u32) -> NodeCapabilities {
    NodeCapabilities { cpus_milli, memory_bytes: 1 << 45, ..NodeCapabilities::default() }
}

impl World {
    /// A world with its first server life, two tenants, two zones, a module and three nodes.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let clock: Arc<ManualClock> = Arc::default();
        let settings = Settings {
            queue_depth_max: [6, 25, 100_000][rng.random_range(0..3)],
            infrastructure_retries_max: rng.random_range(1..=5),
            ..Settings::default()
        };
        let ground = Ground {
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(seed)),
            settings: settings.clone(),
        };
        let dir = scratch_dir();
        let life = Life::start(dir.path(), &ground);
        let nodes = life.run(populate(&*life.app.store, clock.now()));
        let mut world = Self {
            rng,
            clock,
            settings,
            nodes,
            intents: Vec::new(),
            cancelled: Vec::new(),
            bag: Vec::new(),
            history: History::default(),
            promised: HashMap::new(),
            reported: HashMap::new(),
            stopped_successes: 0,
            accepted: HashMap::new(),
            classes: HashMap::new(),
            trace: Vec::new(),
            dir,
            ground,
            life: Some(life),
        };
        // The registry reads nodes and zones at the start.
        world.restart();
        world
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        let line = format!("{} {}", self.clock.now(), text());
        self.trace.push(line);
    }

    pub(super) fn life(&self) -> &Life {
        self.life.as_ref().expect("the server is up between steps")
    }

    pub(super) fn life_mut(&mut self) -> &mut Life {
        self.life.as_mut().expect("the server is up between steps")
    }

    pub(super) fn take_life(&mut self) -> Life {
        self.life.take().expect("the server is up between steps")
    }

    /// Begins a new life after the last one has ended; waiting claims are cut off.
    pub(super) fn revive(&mut self) {
        for node in &mut self.nodes {
            node.parked = None;
        }
        self.life = Some(Life::start(self.dir.path(), &self.ground));
        self.promise_grace();
        for index in 0..self.nodes.len() {
            self.introduce(index);
        }
    }

    /// Nobody could renew while the server was away: every live lease has its full time from now on.
    fn promise_grace(&mut self) {
        let until = self.now() + self.settings.lease_ttl;
        for index in 0..self.nodes.len() {
            let life = self.life();
            let bound = life.run(life.app.store.lease_of_node(self.nodes[index].id)).expect("leases");
            self.promised.extend(bound.into_iter().map(|(key, _)| (key, until)));
        }
    }

    /// Stops the server in order and starts it again.
    pub(super) fn restart(&mut self) {
        self.take_life().stop();
        self.revive();
    }

    /// A node sends its heartbeat, if it can.
    pub(super) fn introduce(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.is_up && node.is_linked {
            let (request, who) = (node.heartbeat(), node.principal());
            let app = self.life().app.clone();
            self.life()
                .run(gristmill_server::ops::heartbeat_node(&app, &who, request))
                .expect("the heartbeat is taken");
        }
    }

    /// A user of one tenant.
    pub(super) fn user(tenant: usize) -> Principal {
        Principal {
            token: TokenId::from_parts(1, [tenant as u8; 10]),
            tenant: TENANTS[tenant].to_owned(),
            scopes: vec![Scope::Read, Scope::Submit],
            origin: gristmill_server::principal::Origin::default(),
        }
    }

    /// Takes leases that a node was granted, and remembers what was promised.
    pub(super) fn take_grant(&mut self, index: usize, grant: &AcquireGrant) -> Result<(), Violation> {
        let now = self.now();
        for lease in &grant.leases {
            let key = (lease.job, lease.attempt);
            self.promised.insert(key, now + self.settings.lease_ttl);
            self.nodes[index].hold(lease, now);
        }
        let used: u32 = self.nodes[index].held.values().map(|held| held.cpus_milli).sum();
        demand!(used <= self.nodes[index].cpus_milli, "I15: a node got more than it offered");
        Ok(())
    }

    /// Judges what the log has gained, and hands over what waiting claims were granted.
    pub(super) fn follow(&mut self) -> Result<(), Violation> {
        let mut history = std::mem::take(&mut self.history);
        let life = self.life();
        let gained = life.run(history.follow(&*life.app.store));
        self.history = history;
        for event in gained? {
            self.judge_event(&event)?;
        }
        Ok(())
    }

    fn judge_event(&mut self, event: &EventView) -> Result<(), Violation> {
        let key = (event.job, event.attempt.unwrap_or(0));
        if event.kind == EventKind::AttemptEnded
            && event.actor == "sweep"
            && event.reason == Some(gristmill_protocol::Reason::LeaseExpired)
        {
            let promised = self.promised.get(&key).copied();
            demand!(
                promised.is_none_or(|at| at <= event.at),
                "I16: a lease ended early: {event:?} {promised:?}"
            );
        }
        let parked = self.nodes.iter().position(|node| Some(node.id) == event.node && node.parked.is_some());
        if let (EventKind::AttemptLeased, Some(index)) = (event.kind, parked) {
            let claim = self.nodes[index].parked.take();
            if let Some(claim) = claim {
                let answer = self.life().run(claim).map_err(|error| error.to_string())?;
                let grant = answer.map_err(|error| format!("a waiting claim failed: {error}"))?;
                self.note(|| format!("waiting node {index} gets {:?}", keys(&grant)));
                self.take_grant(index, &grant)?;
            }
        }
        Ok(())
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, by: Duration) {
        self.clock.advance(by);
        let (now, stop) = (self.now(), self.settings.lease_stop);
        for node in &mut self.nodes {
            node.stop_overdue(now, stop);
        }
    }
}

/// The attempts of a grant, for the trace.
pub(super) fn keys(grant: &AcquireGrant) -> Vec<AttemptKey> {
    grant.leases.iter().map(|lease| (lease.job, lease.attempt)).collect()
}

/// Puts tenants, zones, a module and nodes into an empty store.
async fn populate(store: &dyn Store, at: Timestamp) -> Vec<FakeNode> {
    for (name, queue_depth_max) in TENANTS.into_iter().zip([1_000, 5]) {
        let retention = TenantRetention::default();
        let tenant =
            TenantView { name: name.to_owned(), queue_depth_max, retention, created_at: at, version: 1 };
        store.tenant_create(tenant).await.expect("the tenant is made");
        let spec = ModuleVersionSpec {
            owner: name.to_owned(),
            name: "echo".to_owned(),
            version: semver::Version::new(1, 0, 0),
            digest: digest("echo"),
            size: 4,
            metadata: ModuleMetadata {
                world: ModuleWorld::WasiP1,
                description: None,
                licenses: None,
                source: None,
                imports: Vec::new(),
                exports: Vec::new(),
                features: Vec::new(),
                params_schema: None,
            },
            published_by: "tok_test".to_owned(),
            created_at: at,
        };
        store.module_version_put(spec).await.expect("the module is published");
    }
    for name in ZONES {
        let spec =
            ZoneSpec { name: name.to_owned(), description: String::new(), policy: ZonePolicy::default() };
        store.zone_create(spec, at).await.expect("the zone is made");
    }
    let mut nodes = Vec::new();
    for n in 0..3u8 {
        let zone = ZONES[usize::from(n) / 2];
        let labels: BTreeMap<_, _> =
            [("disk".to_owned(), if n == 1 { "big" } else { "small" }.to_owned())].into();
        let id = NodeId::from_parts(1, [n; 10]);
        let join = JoinTokenRecord {
            id: JoinTokenId::from_parts(1, [n; 10]),
            secret: [n; 32],
            zone: zone.to_owned(),
            node_name: None,
            created_at: at,
            expires_at: at + Duration::from_secs(600),
            created_by: "server".to_owned(),
        };
        store.join_token_create(join).await.expect("the join token is made");
        let cpus_milli = 3_000 + 1_000 * u32::from(n);
        let record = NodeRecord {
            id,
            name: format!("node{n}"),
            zone: String::new(),
            public_key: [n; 32],
            labels: labels.clone(),
            capabilities: capabilities(cpus_milli),
            drain: false,
            draining: false,
            revoked_at: None,
            created_at: at,
            heartbeat_at: None,
            incarnation: None,
            version: 1,
        };
        store.node_enroll([n; 32], record).await.expect("the node is enrolled");
        nodes.push(FakeNode::enrolled(id, format!("node{n}"), zone, labels, cpus_milli));
    }
    nodes
}
