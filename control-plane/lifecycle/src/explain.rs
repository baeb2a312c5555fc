//! Why a job can or cannot run, in sentences, for every zone and node.

use std::cmp::Reverse;

use gristmill_protocol::{
    NodeId,
    zone::{NodePlacement, PlacementView, Runnable, ZonePlacement},
};

use crate::placement::{
    ClassSpec, NodeProfile, Presence, Refusal, Room, ZoneProfile, absence, best, node_refusals, worst,
    zone_refusals,
};

/// Most reasons that the summary names.
const REASONS_SHOWN: usize = 6;

/// A zone and its nodes at one moment.
#[derive(Debug, Clone)]
pub struct ZonePicture {
    /// The zone.
    pub zone: ZoneProfile,
    /// Its nodes.
    pub nodes: Vec<NodePicture>,
}

/// A node at one moment.
#[derive(Debug, Clone)]
pub struct NodePicture {
    /// The node.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Labels, features and isolation.
    pub profile: NodeProfile,
    /// What it offers in all.
    pub offers: Room,
    /// What is not under lease.
    pub free: Room,
    /// Whether it is there.
    pub presence: Presence,
}

/// What stands against the job on one node.
struct NodeVerdict<'a> {
    node: &'a NodePicture,
    runnable: Runnable,
    refusals: Vec<Refusal>,
}

/// What stands against the job in one zone.
struct ZoneVerdict<'a> {
    zone: &'a ZoneProfile,
    runnable: Runnable,
    refusals: Vec<Refusal>,
    nodes: Vec<NodeVerdict<'a>>,
}

fn node_verdict<'a>(
    class: &ClassSpec,
    zone: &ZoneProfile,
    zone_refuses: bool,
    node: &'a NodePicture,
) -> NodeVerdict<'a> {
    let mut refusals = node_refusals(class, zone, &node.profile);
    if class.cpus_milli > node.offers.cpus_milli {
        refusals.push(Refusal::NodeCpus { asked: class.cpus_milli, has: node.offers.cpus_milli });
    }
    if class.memory_bytes > node.offers.memory_bytes {
        refusals.push(Refusal::NodeMemory { asked: class.memory_bytes, has: node.offers.memory_bytes });
    }
    refusals.extend(node.presence.refusal());
    if refusals.is_empty() && !node.free.fits(class) {
        refusals.push(Refusal::Full { free: node.free });
    }
    if zone_refuses {
        refusals.push(Refusal::Zone);
    }
    NodeVerdict { node, runnable: worst(&refusals), refusals }
}

fn zone_verdict<'a>(class: &ClassSpec, picture: &'a ZonePicture) -> ZoneVerdict<'a> {
    let mut refusals = zone_refusals(class, &picture.zone);
    let refuses = !refusals.is_empty();
    let nodes: Vec<_> =
        picture.nodes.iter().map(|node| node_verdict(class, &picture.zone, refuses, node)).collect();
    refusals.extend(absence(picture.nodes.iter().map(|node| node.presence)));
    let runnable = match worst(&refusals) {
        Runnable::Now => best(nodes.iter().map(|node| node.runnable)),
        other => other,
    };
    ZoneVerdict { zone: &picture.zone, runnable, refusals, nodes }
}

fn sentences(refusals: &[Refusal]) -> Vec<String> {
    refusals.iter().map(ToString::to_string).collect()
}

impl ZoneVerdict<'_> {
    fn placement(&self) -> ZonePlacement {
        let node = |verdict: &NodeVerdict<'_>| NodePlacement {
            node: verdict.node.id,
            name: verdict.node.name.clone(),
            runnable: verdict.runnable,
            why_not: sentences(&verdict.refusals),
        };
        ZonePlacement {
            zone: self.zone.name.clone(),
            runnable: self.runnable,
            why_not: sentences(&self.refusals),
            nodes: self.nodes.iter().map(node).collect(),
        }
    }
}

/// Explains, for every zone and node, whether a job of the class can run there.
pub fn explain(class: &ClassSpec, zones: &[ZonePicture]) -> PlacementView {
    let verdicts: Vec<_> = zones.iter().map(|zone| zone_verdict(class, zone)).collect();
    let runnable = best(verdicts.iter().map(|zone| zone.runnable));
    let summary = match runnable {
        Runnable::Now => able(&verdicts),
        Runnable::Waiting => format!("the job waits: {}", shortened(waits_for(&verdicts))),
        _ => format!("the job can never run as it is: {}", shortened(rules_out(class, &verdicts))),
    };
    PlacementView { runnable, summary, zones: verdicts.iter().map(ZoneVerdict::placement).collect() }
}

fn able(zones: &[ZoneVerdict<'_>]) -> String {
    let nodes = zones.iter().flat_map(|zone| &zone.nodes);
    match nodes.filter(|node| node.runnable == Runnable::Now).count() {
        1 => "one node can take the job now".to_owned(),
        several => format!("{several} nodes can take the job now"),
    }
}

fn shortened(mut reasons: Vec<String>) -> String {
    let surplus = reasons.len().saturating_sub(REASONS_SHOWN);
    reasons.truncate(REASONS_SHOWN);
    let more = if surplus > 0 { format!("; and {surplus} more reasons") } else { String::new() };
    reasons.join("; ") + &more
}

/// What may change with time: nodes that could run the job, counted by what keeps them from it, and
/// zones that may get a node. Without figures, so that the text is the same while nothing happens.
fn waits_for(zones: &[ZoneVerdict<'_>]) -> Vec<String> {
    let waiting: Vec<_> =
        zones.iter().flat_map(|zone| &zone.nodes).filter(|node| node.runnable == Runnable::Waiting).collect();
    let counted = |presence: Presence, one: &str, several: &str| {
        let mut found = waiting.iter().filter(|node| node.node.presence == presence);
        match (found.next(), found.count()) {
            (None, _) => None,
            (Some(only), 0) => Some(format!("node {} {one}", only.node.name)),
            (Some(_), others) => Some(format!("{} nodes {several}", others + 1)),
        }
    };
    let mut reasons = Vec::new();
    reasons.extend(counted(Presence::Active, "is busy with other jobs", "are busy with other jobs"));
    reasons.extend(counted(Presence::Draining, "drains", "drain"));
    let away = ("has not been heard of lately", "have not been heard of lately");
    reasons.extend(counted(Presence::Away, away.0, away.1));
    for zone in zones.iter().filter(|zone| zone.runnable == Runnable::Waiting) {
        // A node that is away and could run the job was counted above.
        let is_told = zone.nodes.iter().any(|node| node.runnable == Runnable::Waiting);
        let absent = zone.refusals.iter().filter(|_| !is_told);
        reasons.extend(absent.map(|refusal| format!("zone {}: {refusal}", zone.zone.name)));
    }
    if waiting.is_empty() {
        reasons.extend(nearest(zones));
    }
    reasons
}

/// Where only zones without nodes are left to wait for: the node elsewhere that lacks least, and what.
fn nearest(zones: &[ZoneVerdict<'_>]) -> Option<String> {
    let open = zones.iter().filter(|zone| zone.refusals.is_empty());
    let nodes = open.flat_map(|zone| zone.nodes.iter().map(move |node| (zone.zone, node)));
    let lacking = nodes.filter(|(_, node)| node.node.presence.is_evidence()).map(|(zone, node)| {
        let lacks: Vec<_> =
            node.refusals.iter().filter(|refusal| refusal.runnable() == Runnable::Never).collect();
        (zone, node.node, lacks)
    });
    let least = |(_, node, lacks): &(&ZoneProfile, &NodePicture, Vec<&Refusal>)| {
        (lacks.len(), Reverse((node.offers.cpus_milli, node.offers.memory_bytes)))
    };
    let (zone, node, lacks) = lacking.min_by_key(least)?;
    let lacks: Vec<_> = lacks.iter().map(ToString::to_string).collect();
    Some(format!("node {} in zone {} does not fit: {}", node.name, zone.name, lacks.join(", ")))
}

/// What rules the job out: in the zone that it names, or everywhere.
fn rules_out(class: &ClassSpec, zones: &[ZoneVerdict<'_>]) -> Vec<String> {
    let asked = class.zone.as_ref();
    if let Some(asked) = asked.filter(|asked| zones.iter().all(|zone| zone.zone.name != **asked)) {
        return vec![format!("there is no zone {asked}")];
    }
    if zones.is_empty() {
        return vec!["there is no zone that admits it".to_owned()];
    }
    let is_never = |refusal: &&Refusal| refusal.runnable() == Runnable::Never;
    let mut reasons = Vec::new();
    for zone in zones.iter().filter(|zone| asked.is_none_or(|asked| *asked == zone.zone.name)) {
        let own = zone.refusals.iter().filter(is_never);
        reasons.extend(own.map(|refusal| format!("zone {}: {refusal}", zone.zone.name)));
        if zone.refusals.iter().any(|refusal| is_never(&refusal)) {
            continue;
        }
        for node in zone.nodes.iter().filter(|node| node.node.presence.is_evidence()) {
            let own = node.refusals.iter().filter(is_never);
            reasons.extend(own.map(|refusal| format!("node {}: {refusal}", node.node.name)));
        }
    }
    reasons
}
