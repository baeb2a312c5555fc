//! What the server knows of nodes and zones right now, in memory, so that neither authentication
//! nor placement asks the database. Every change is durable before it is made here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use gristmill_protocol::{NodeId, Timestamp, node::NodeState, node_api::HeartbeatRequest, zone::ZoneView};

use crate::store::{Store, StoreError, node::NodeRecord};

/// How many former incarnations of a node are remembered, to refuse them.
const FORMER_INCARNATIONS_MAX: usize = 8;

/// A node as it is known right now.
#[derive(Debug, Clone)]
pub struct LiveNode {
    /// What is kept of it, with the newest labels and capabilities.
    pub record: NodeRecord,
    /// When it was last heard of; absent since the server's start.
    pub seen_at: Option<Timestamp>,
    /// The newest heartbeat's sequence within its incarnation.
    sequence: u64,
    /// Incarnations that ended.
    former: Vec<String>,
    /// When the record was last written down.
    written_at: Option<Timestamp>,
}

impl LiveNode {
    fn loaded(record: NodeRecord) -> Self {
        Self { record, seen_at: None, sequence: 0, former: Vec::new(), written_at: None }
    }

    /// Whether another process has replaced the one with this incarnation.
    pub fn is_former(&self, incarnation: &str) -> bool {
        self.former.iter().any(|former| former == incarnation)
    }

    /// What the node is doing. It is away when nothing was heard of it for `away_after`.
    pub fn state(&self, now: Timestamp, away_after: std::time::Duration) -> NodeState {
        let is_heard = self.seen_at.is_some_and(|at| now.duration_since(at).unsigned_abs() <= away_after);
        if self.record.revoked_at.is_some() {
            NodeState::Revoked
        } else if !is_heard {
            NodeState::Away
        } else if self.record.drain || self.record.draining {
            NodeState::Draining
        } else {
            NodeState::Active
        }
    }
}

/// What to do about a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeartbeatNote {
    /// Nothing changed that must be kept.
    Noted,
    /// Write this down.
    Write(Box<NodeRecord>),
    /// It comes from a process that another one has replaced.
    Replaced,
    /// There is no such node, or its identity was taken back.
    Unknown,
}

/// All nodes and zones.
#[derive(Debug, Default)]
pub struct Registry {
    nodes: RwLock<HashMap<NodeId, LiveNode>>,
    zones: RwLock<BTreeMap<String, Arc<ZoneView>>>,
    tenant_depths: RwLock<HashMap<String, u64>>,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Reads all nodes and zones once.
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let registry = Self::default();
        for record in store.node_list().await? {
            registry.put_node(record);
        }
        for zone in store.zone_list().await? {
            registry.put_zone(zone);
        }
        Ok(registry)
    }

    /// Most waiting jobs of a tenant, if it was put in before.
    pub fn tenant_depth(&self, tenant: &str) -> Option<u64> {
        read(&self.tenant_depths).get(tenant).copied()
    }

    /// Remembers a tenant's limit.
    pub fn put_tenant_depth(&self, tenant: &str, queue_depth_max: u64) {
        write(&self.tenant_depths).insert(tenant.to_owned(), queue_depth_max);
    }

    /// One node, revoked ones included.
    pub fn node(&self, id: NodeId) -> Option<LiveNode> {
        read(&self.nodes).get(&id).cloned()
    }

    /// Every node, revoked ones included, by id.
    pub fn nodes(&self) -> Vec<LiveNode> {
        let mut nodes: Vec<_> = read(&self.nodes).values().cloned().collect();
        nodes.sort_by_key(|node| node.record.id);
        nodes
    }

    /// Runs `f` on every node, revoked ones included, in any order and without copies.
    pub fn each(&self, f: impl FnMut(&LiveNode)) {
        read(&self.nodes).values().for_each(f);
    }

    /// Runs `f` on one node without a copy.
    pub fn with_node<T>(&self, id: NodeId, f: impl FnOnce(&LiveNode) -> T) -> Option<T> {
        read(&self.nodes).get(&id).map(f)
    }

    /// One zone.
    pub fn zone(&self, name: &str) -> Option<Arc<ZoneView>> {
        read(&self.zones).get(name).cloned()
    }

    /// Every zone, by name.
    pub fn zones(&self) -> Vec<Arc<ZoneView>> {
        read(&self.zones).values().cloned().collect()
    }

    /// Takes over a zone as it was just kept.
    pub fn put_zone(&self, zone: ZoneView) {
        let mut zones = write(&self.zones);
        let is_newer = zones.get(&zone.name).is_none_or(|known| known.version < zone.version);
        if is_newer {
            zones.insert(zone.name.clone(), Arc::new(zone));
        }
    }

    /// Takes over what an operator or an enrolment changed, as it was just kept. What the node
    /// said of itself since then stays.
    pub fn put_node(&self, record: NodeRecord) {
        let mut nodes = write(&self.nodes);
        match nodes.get_mut(&record.id) {
            None => {
                nodes.insert(record.id, LiveNode::loaded(record));
            }
            Some(node) if node.record.version < record.version => {
                node.record.drain = record.drain;
                node.record.revoked_at = record.revoked_at;
                node.record.version = record.version;
            }
            Some(_) => {}
        }
    }

    /// Notes that a node was heard of.
    pub fn touch(&self, id: NodeId, now: Timestamp) {
        if let Some(node) = write(&self.nodes).get_mut(&id) {
            node.seen_at = Some(now);
        }
    }

    /// Takes a heartbeat. A late or repeated one of the present incarnation changes nothing but the
    /// time at which the node was last heard of. What is unchanged is asked to be written down
    /// only when `write_every` has passed.
    pub fn heartbeat(
        &self,
        id: NodeId,
        request: &HeartbeatRequest,
        now: Timestamp,
        write_every: std::time::Duration,
    ) -> HeartbeatNote {
        let mut nodes = write(&self.nodes);
        let Some(node) = nodes.get_mut(&id).filter(|node| node.record.revoked_at.is_none()) else {
            return HeartbeatNote::Unknown;
        };
        if node.former.contains(&request.incarnation) {
            return HeartbeatNote::Replaced;
        }
        node.seen_at = Some(now);
        let is_same = node.record.incarnation.as_deref() == Some(request.incarnation.as_str());
        if is_same && request.sequence <= node.sequence {
            return HeartbeatNote::Noted;
        }
        node.sequence = request.sequence;
        let record = &mut node.record;
        let is_changed = !is_same
            || record.draining != request.draining
            || record.labels != request.labels
            || record.capabilities != request.capabilities;
        if !is_same && let Some(former) = record.incarnation.replace(request.incarnation.clone()) {
            node.former.push(former);
            let surplus = node.former.len().saturating_sub(FORMER_INCARNATIONS_MAX);
            node.former.drain(..surplus);
        }
        if is_changed {
            record.draining = request.draining;
            record.labels.clone_from(&request.labels);
            record.capabilities.clone_from(&request.capabilities);
        }
        let is_due = node.written_at.is_none_or(|at| now.duration_since(at).unsigned_abs() >= write_every);
        if !is_changed && !is_due {
            return HeartbeatNote::Noted;
        }
        node.written_at = Some(now);
        node.record.heartbeat_at = Some(now);
        HeartbeatNote::Write(Box::new(node.record.clone()))
    }
}
