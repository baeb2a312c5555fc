//! Where a job may run: classes of jobs that are alike to placement, and what stands against one on
//! a node.

use std::{collections::BTreeMap, fmt};

use gristmill_protocol::{
    OuterLimit,
    units::format_bytes,
    zone::{Runnable, ZonePolicy},
};
use serde::{Deserialize, Serialize};

/// All of a job that placement looks at. Jobs of one class can run in the same places, so that a
/// claim decides once for each class and never looks at single jobs that it cannot run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClassSpec {
    /// Who the jobs belong to.
    pub tenant: String,
    /// The only zone they run in, if they name one.
    pub zone: Option<String>,
    /// Labels that the node must carry.
    pub labels: BTreeMap<String, String>,
    /// WASM features that the node must have, sorted.
    pub features: Vec<String>,
    /// CPU, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Weakest outer limit that the jobs accept. Left out of the text when absent, so that classes
    /// kept before there was a choice are the same classes still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<OuterLimit>,
}

/// A zone, as far as placement cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneProfile {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub policy: ZonePolicy,
}

/// A node, as far as placement cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProfile {
    /// What jobs may ask for.
    pub labels: BTreeMap<String, String>,
    /// WASM features that it can run.
    pub features: Vec<String>,
    /// The level of isolation that it proved; `None` if that is weak, or not known yet.
    pub level: Option<OuterLimit>,
}

/// CPU and memory, free or in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// CPU, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

impl Room {
    /// Whether a job of the class fits in.
    pub fn fits(self, class: &ClassSpec) -> bool {
        self.cpus_milli >= class.cpus_milli && self.memory_bytes >= class.memory_bytes
    }

    /// What is left beside a job of the class.
    #[must_use]
    pub fn without(self, class: &ClassSpec) -> Self {
        Self {
            cpus_milli: self.cpus_milli.saturating_sub(class.cpus_milli),
            memory_bytes: self.memory_bytes.saturating_sub(class.memory_bytes),
        }
    }
}

/// One thing that stands against running a job in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The job names another zone.
    OtherZone {
        /// The zone that the job names.
        asked: String,
    },
    /// The zone's policy does not admit the tenant.
    TenantNotAdmitted {
        /// The tenant.
        tenant: String,
    },
    /// The job asks for more CPU than the zone's largest slot.
    ZoneCpus {
        /// Asked for, in thousandths of a core.
        asked: u32,
        /// Allowed, in thousandths of a core.
        allowed: u32,
    },
    /// The job asks for more memory than the zone's largest slot.
    ZoneMemory {
        /// Asked for, in bytes.
        asked: u64,
        /// Allowed, in bytes.
        allowed: u64,
    },
    /// The node does not carry a label.
    Label {
        /// The label's key.
        key: String,
        /// The value asked for.
        asked: String,
        /// The node's value, if it has one.
        found: Option<String>,
    },
    /// The node cannot run a WASM feature of the module.
    Feature {
        /// The feature.
        name: String,
    },
    /// The node's isolation is weaker than the job accepts.
    JobIsolation {
        /// Asked for.
        asked: OuterLimit,
        /// Of the node.
        has: Option<OuterLimit>,
    },
    /// The node's isolation is weaker than its zone requires.
    ZoneIsolation {
        /// Required.
        required: OuterLimit,
        /// Of the node.
        has: Option<OuterLimit>,
    },
    /// The whole node has less CPU than the job asks for.
    NodeCpus {
        /// Asked for, in thousandths of a core.
        asked: u32,
        /// Of the node, in thousandths of a core.
        has: u32,
    },
    /// The whole node has less memory than the job asks for.
    NodeMemory {
        /// Asked for, in bytes.
        asked: u64,
        /// Of the node, in bytes.
        has: u64,
    },
    /// The node's identity was taken back.
    Revoked,
    /// The node takes nothing new for now.
    Draining,
    /// The node has not been heard of for longer than a lease lasts.
    Away,
    /// Other jobs fill the node.
    Full {
        /// What is free.
        free: Room,
    },
    /// The node's own zone does not take the job.
    Zone,
    /// The zone has no node yet.
    NoNode,
    /// Every node of the zone was revoked.
    AllRevoked,
    /// No node of the zone has been heard of for longer than a lease lasts.
    NonePresent,
}

impl Refusal {
    /// Whether it passes by itself with time, or never.
    pub fn runnable(&self) -> Runnable {
        match self {
            Self::Draining
            | Self::Away
            | Self::Full { .. }
            | Self::NoNode
            | Self::AllRevoked
            | Self::NonePresent => Runnable::Waiting,
            Self::OtherZone { .. }
            | Self::TenantNotAdmitted { .. }
            | Self::ZoneCpus { .. }
            | Self::ZoneMemory { .. }
            | Self::Label { .. }
            | Self::Feature { .. }
            | Self::JobIsolation { .. }
            | Self::ZoneIsolation { .. }
            | Self::NodeCpus { .. }
            | Self::NodeMemory { .. }
            | Self::Revoked
            | Self::Zone => Runnable::Never,
        }
    }
}

/// Whether a node is there, as far as placement cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It takes work.
    Active,
    /// It is there and takes nothing new for now.
    Draining,
    /// It has not been heard of for longer than a lease lasts; it may never come back, as a node that
    /// was started for one job.
    Away,
    /// Its identity was taken back.
    Revoked,
}

impl Presence {
    /// Whether what the node can and cannot do says what its zone can and cannot do.
    pub fn is_evidence(self) -> bool {
        matches!(self, Self::Active | Self::Draining)
    }

    /// What stands against a job for this alone.
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Active => None,
            Self::Draining => Some(Refusal::Draining),
            Self::Away => Some(Refusal::Away),
            Self::Revoked => Some(Refusal::Revoked),
        }
    }
}

/// Whether a zone without any node that is there can still get one that fits: it always can, and this
/// says how it stands. `None` when a node is there. Only such nodes are evidence that a job can never
/// run in the zone.
pub fn absence(nodes: impl IntoIterator<Item = Presence>) -> Option<Refusal> {
    let mut absence = Refusal::NoNode;
    for presence in nodes {
        match presence {
            Presence::Active | Presence::Draining => return None,
            Presence::Away => absence = Refusal::NonePresent,
            Presence::Revoked if absence == Refusal::NoNode => absence = Refusal::AllRevoked,
            Presence::Revoked => {}
        }
    }
    Some(absence)
}

/// The verdict over several places: the best of them; `Never` over none.
pub fn best(verdicts: impl Iterator<Item = Runnable>) -> Runnable {
    let rank = |verdict: &Runnable| match verdict {
        Runnable::Now => 2,
        Runnable::Waiting => 1,
        _ => 0,
    };
    verdicts.max_by_key(rank).unwrap_or(Runnable::Never)
}

/// The verdict over several things that stand against one place: the worst of them.
pub fn worst(refusals: &[Refusal]) -> Runnable {
    if refusals.is_empty() {
        Runnable::Now
    } else if refusals.iter().any(|refusal| refusal.runnable() == Runnable::Never) {
        Runnable::Never
    } else {
        Runnable::Waiting
    }
}

fn cores(milli: u32) -> String {
    format!("{}", f64::from(milli) / 1_000.0)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherZone { asked } => write!(f, "the job asks for zone {asked}"),
            Self::TenantNotAdmitted { tenant } => {
                write!(f, "the zone's policy does not admit tenant {tenant}")
            }
            Self::ZoneCpus { asked, allowed } => {
                write!(f, "the job asks for {} cpus, the zone allows {}", cores(*asked), cores(*allowed))
            }
            Self::ZoneMemory { asked, allowed } => write!(
                f,
                "the job asks for {} of memory, the zone allows {}",
                format_bytes(*asked),
                format_bytes(*allowed)
            ),
            Self::Label { key, asked, found: Some(found) } => {
                write!(f, "the job asks for label {key}={asked}, the node carries {key}={found}")
            }
            Self::Label { key, asked, found: None } => {
                write!(f, "the job asks for label {key}={asked}, the node carries no {key}")
            }
            Self::Feature { name } => write!(f, "the module uses {name}, which the node cannot run"),
            Self::JobIsolation { asked, has } => {
                write!(f, "the job asks for isolation {asked} or stronger, {}", proved(*has))
            }
            Self::ZoneIsolation { required, has } => {
                write!(f, "the zone requires isolation {required} or stronger, {}", proved(*has))
            }
            Self::NodeCpus { asked, has } => {
                write!(f, "the job asks for {} cpus, the node offers {}", cores(*asked), cores(*has))
            }
            Self::NodeMemory { asked, has } => write!(
                f,
                "the job asks for {} of memory, the node offers {}",
                format_bytes(*asked),
                format_bytes(*has)
            ),
            Self::Revoked => f.write_str("the node's identity was revoked"),
            Self::Draining => f.write_str("the node drains"),
            Self::Away => f.write_str("the node has not been heard of lately"),
            Self::Full { free } => write!(
                f,
                "the node is busy: {} cpus and {} are free",
                cores(free.cpus_milli),
                format_bytes(free.memory_bytes)
            ),
            Self::Zone => f.write_str("its zone does not take the job"),
            Self::NoNode => f.write_str("the zone has no node yet"),
            Self::AllRevoked => f.write_str("every node of the zone was revoked"),
            Self::NonePresent => f.write_str("no node of the zone has been heard of lately"),
        }
    }
}

/// What the zone itself holds against jobs of the class; empty if nothing.
pub fn zone_refusals(class: &ClassSpec, zone: &ZoneProfile) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if let Some(asked) = class.zone.as_ref().filter(|asked| **asked != zone.name) {
        refusals.push(Refusal::OtherZone { asked: asked.clone() });
    }
    if !zone.policy.tenants.is_empty() && !zone.policy.tenants.contains(&class.tenant) {
        refusals.push(Refusal::TenantNotAdmitted { tenant: class.tenant.clone() });
    }
    if let Some(slot) = zone.policy.slot_max {
        if class.cpus_milli > slot.cpus_milli {
            refusals.push(Refusal::ZoneCpus { asked: class.cpus_milli, allowed: slot.cpus_milli });
        }
        if class.memory_bytes > slot.memory_bytes {
            refusals.push(Refusal::ZoneMemory { asked: class.memory_bytes, allowed: slot.memory_bytes });
        }
    }
    refusals
}

/// What the node lacks for the job or for its own zone, whatever its load; empty if nothing.
pub fn node_refusals(class: &ClassSpec, zone: &ZoneProfile, node: &NodeProfile) -> Vec<Refusal> {
    let has = node.level;
    let labels = class.labels.iter().filter(|(key, asked)| node.labels.get(*key) != Some(*asked)).map(
        |(key, asked)| Refusal::Label {
            key: key.clone(),
            asked: asked.clone(),
            found: node.labels.get(key).cloned(),
        },
    );
    let features = class
        .features
        .iter()
        .filter(|name| !node.features.contains(name))
        .map(|name| Refusal::Feature { name: name.clone() });
    let asked =
        class.isolation.filter(|asked| has < Some(*asked)).map(|asked| Refusal::JobIsolation { asked, has });
    let required = zone
        .policy
        .isolation
        .filter(|required| has < Some(*required))
        .map(|required| Refusal::ZoneIsolation { required, has });
    labels.chain(features).chain(asked).chain(required).collect()
}

/// What a node has of isolation, in words.
fn proved(level: Option<OuterLimit>) -> String {
    match level {
        Some(level) => format!("the node has {level}"),
        None => "the node's isolation is weak or not proved yet".to_owned(),
    }
}

/// Whether a node of the zone may run jobs of the class, room aside.
pub fn admits(class: &ClassSpec, zone: &ZoneProfile, node: &NodeProfile) -> bool {
    zone_refusals(class, zone).is_empty() && node_refusals(class, zone, node).is_empty()
}
