//! Where jobs may run, and how it is explained.

use std::collections::BTreeMap;

use gristmill_lifecycle::{
    explain::{NodePicture, ZonePicture, explain},
    placement::{ClassSpec, NodeProfile, Presence, Room, ZoneProfile, admits, zone_refusals},
};
use gristmill_protocol::{
    NodeId, OuterLimit,
    limits::SlotSize,
    zone::{PlacementView, Runnable, ZonePolicy},
};

const GIB: u64 = 1 << 30;

fn class() -> ClassSpec {
    ClassSpec {
        tenant: "acme".into(),
        zone: None,
        labels: BTreeMap::new(),
        features: Vec::new(),
        cpus_milli: 2_000,
        memory_bytes: 8 * GIB,
        isolation: None,
    }
}

fn zone(name: &str, policy: ZonePolicy) -> ZoneProfile {
    ZoneProfile { name: name.into(), policy }
}

fn node(seed: u8) -> NodePicture {
    let room = Room { cpus_milli: 4_000, memory_bytes: 16 * GIB };
    NodePicture {
        id: NodeId::from_parts(1, [seed; 10]),
        name: format!("n{seed}"),
        profile: NodeProfile {
            labels: BTreeMap::from([("gpu".into(), "no".into())]),
            features: vec!["memory64".into()],
            level: Some(OuterLimit::Process),
        },
        offers: room,
        free: room,
        presence: Presence::Active,
    }
}

fn verdict(class: &ClassSpec, nodes: Vec<NodePicture>) -> (Runnable, Vec<String>) {
    let zone = zone("here", ZonePolicy::default());
    let view = explain(class, &[ZonePicture { zone, nodes }]);
    let zone = &view.zones[0];
    let why = zone.why_not.iter().chain(zone.nodes.iter().flat_map(|node| &node.why_not)).cloned().collect();
    (view.runnable, why)
}

#[test]
fn a_zone_refuses_other_tenants_larger_slots_and_jobs_for_other_zones() {
    let policy = ZonePolicy {
        tenants: vec!["other".into()],
        slot_max: Some(SlotSize { cpus_milli: 1_000, memory_bytes: GIB }),
        ..ZonePolicy::default()
    };
    let asked = ClassSpec { zone: Some("there".into()), ..class() };
    let why: Vec<_> = zone_refusals(&asked, &zone("here", policy)).iter().map(ToString::to_string).collect();
    assert_eq!(
        why,
        [
            "the job asks for zone there",
            "the zone's policy does not admit tenant acme",
            "the job asks for 2 cpus, the zone allows 1",
            "the job asks for 8.0 GiB of memory, the zone allows 1.0 GiB",
        ]
    );
}

#[test]
fn a_node_must_carry_every_label_and_every_feature() {
    let open = zone("here", ZonePolicy::default());
    let profile = node(1).profile;
    let with = |labels: &[(&str, &str)], features: &[&str]| ClassSpec {
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        ..class()
    };
    assert!(admits(&with(&[("gpu", "no")], &["memory64"]), &open, &profile));
    assert!(!admits(&with(&[("gpu", "yes")], &[]), &open, &profile));
    assert!(!admits(&with(&[("disk", "fast")], &[]), &open, &profile));
    assert!(!admits(&with(&[], &["gc"]), &open, &profile));
    let (runnable, why) = verdict(&with(&[("gpu", "yes"), ("disk", "fast")], &["gc"]), vec![node(1)]);
    assert_eq!(runnable, Runnable::Never);
    assert_eq!(
        why,
        [
            "the job asks for label disk=fast, the node carries no disk",
            "the job asks for label gpu=yes, the node carries gpu=no",
            "the module uses gc, which the node cannot run",
        ]
    );
}

#[test]
fn a_node_takes_a_job_only_if_its_isolation_is_as_strong_as_job_and_zone_ask_for() {
    let levels = || [None].into_iter().chain(OuterLimit::ALL.iter().copied().map(Some));
    for asked in levels() {
        for isolation in levels() {
            let zone = zone("here", ZonePolicy { isolation, ..ZonePolicy::default() });
            for level in levels() {
                let profile = NodeProfile { level, ..node(1).profile };
                let has = |wanted: Option<OuterLimit>| {
                    wanted.is_none_or(|wanted| level.is_some_and(|level| level >= wanted))
                };
                let is_strong = has(asked) && has(isolation);
                let class = ClassSpec { isolation: asked, ..class() };
                assert_eq!(
                    admits(&class, &zone, &profile),
                    is_strong,
                    "asked {asked:?}, zone {isolation:?}, node {level:?}"
                );
            }
        }
    }
}

#[test]
fn a_level_that_no_node_of_the_zone_has_is_never_runnable_and_named() {
    let asked = ClassSpec { isolation: Some(OuterLimit::CgroupV1), ..class() };
    let (runnable, why) = verdict(&asked, vec![node(1)]);
    assert_eq!(runnable, Runnable::Never);
    assert_eq!(why, ["the job asks for isolation cgroup_v1 or stronger, the node has process"]);
    let mut strong = node(2);
    strong.profile.level = Some(OuterLimit::CgroupV2);
    assert_eq!(verdict(&asked, vec![node(1), strong.clone()]).0, Runnable::Now);
    strong.free.cpus_milli = 0;
    assert_eq!(verdict(&asked, vec![node(1), strong]).0, Runnable::Waiting);
    assert_eq!(verdict(&asked, vec![]).0, Runnable::Waiting);

    let mut weak = node(3);
    weak.profile.level = None;
    let any_level = ClassSpec { isolation: Some(OuterLimit::Process), ..class() };
    let (runnable, why) = verdict(&any_level, vec![weak]);
    assert_eq!(runnable, Runnable::Never);
    assert_eq!(
        why,
        ["the job asks for isolation process or stronger, the node's isolation is weak or not proved yet"]
    );

    let policy = ZonePolicy { isolation: Some(OuterLimit::CgroupV2), ..ZonePolicy::default() };
    let view = explain(&class(), &[ZonePicture { zone: zone("strict", policy), nodes: vec![node(1)] }]);
    assert_eq!(view.runnable, Runnable::Never);
    assert_eq!(
        view.zones[0].nodes[0].why_not,
        ["the zone requires isolation cgroup_v2 or stronger, the node has process"]
    );
}

#[test]
fn a_class_that_asks_for_no_level_keeps_the_text_it_had_before_there_were_levels() {
    let text = serde_json::to_string(&class()).expect("a class is JSON");
    assert_eq!(
        text,
        r#"{"tenant":"acme","zone":null,"labels":{},"features":[],"cpus_milli":2000,"memory_bytes":8589934592}"#
    );
    assert_eq!(serde_json::from_str::<ClassSpec>(&text).expect("a class of before"), class());
}

#[test]
fn waiting_for_room_is_told_apart_from_never() {
    assert_eq!(verdict(&class(), vec![node(1)]), (Runnable::Now, vec![]));
    let full = NodePicture { free: Room { cpus_milli: 1_500, memory_bytes: 16 * GIB }, ..node(1) };
    let (runnable, why) = verdict(&class(), vec![full.clone()]);
    assert_eq!(runnable, Runnable::Waiting);
    assert_eq!(why, ["the node is busy: 1.5 cpus and 16.0 GiB are free"]);
    let huge = ClassSpec { cpus_milli: 5_000, ..class() };
    assert_eq!(verdict(&huge, vec![full.clone()]).0, Runnable::Never);
    for presence in [Presence::Away, Presence::Draining] {
        let waiting = NodePicture { presence, ..node(2) };
        assert_eq!(verdict(&class(), vec![waiting.clone()]).0, Runnable::Waiting);
        // The best node decides.
        assert_eq!(verdict(&class(), vec![waiting, node(3)]).0, Runnable::Now);
    }
}

#[test]
fn only_nodes_that_are_there_are_evidence_that_a_job_can_never_run() {
    let huge = ClassSpec { cpus_milli: 5_000, ..class() };
    let with = |presence| NodePicture { presence, ..node(4) };
    let (away, revoked) = (with(Presence::Away), with(Presence::Revoked));
    for (nodes, runnable) in [
        (vec![], Runnable::Waiting),
        (vec![revoked.clone()], Runnable::Waiting),
        (vec![away.clone()], Runnable::Waiting),
        (vec![away.clone(), revoked.clone()], Runnable::Waiting),
        (vec![away.clone(), node(5)], Runnable::Never),
        (vec![revoked.clone(), with(Presence::Draining)], Runnable::Never),
    ] {
        assert_eq!(verdict(&huge, nodes.clone()).0, runnable, "{nodes:?}");
    }
    // An away node that fits is worth waiting for, whatever the others lack.
    let small = NodePicture { offers: Room { cpus_milli: 1_000, memory_bytes: GIB }, ..node(6) };
    assert_eq!(verdict(&class(), vec![away, small]).0, Runnable::Waiting);
}

fn explained(class: &ClassSpec, policy: ZonePolicy, nodes: Vec<NodePicture>) -> PlacementView {
    explain(class, &[ZonePicture { zone: zone("here", policy), nodes }])
}

#[test]
fn every_node_is_listed_also_where_the_zone_refuses_or_all_were_revoked() {
    let closed = ZonePolicy { tenants: vec!["other".into()], ..ZonePolicy::default() };
    let busy = NodePicture { free: Room { cpus_milli: 0, memory_bytes: 0 }, ..node(2) };
    let view = explained(&class(), closed, vec![node(1), busy]);
    let zone = &view.zones[0];
    assert_eq!(zone.why_not, ["the zone's policy does not admit tenant acme"]);
    assert_eq!(zone.nodes[0].why_not, ["its zone does not take the job"]);
    assert_eq!(
        zone.nodes[1].why_not,
        ["the node is busy: 0 cpus and 0 B are free", "its zone does not take the job"]
    );
    assert!(zone.nodes.iter().all(|node| node.runnable == Runnable::Never));

    let revoked = NodePicture { presence: Presence::Revoked, ..node(3) };
    let view = explained(&class(), ZonePolicy::default(), vec![revoked]);
    assert_eq!(view.zones[0].why_not, ["every node of the zone was revoked"]);
    assert_eq!(view.zones[0].nodes[0].why_not, ["the node's identity was revoked"]);
}

#[test]
fn the_summary_says_what_the_places_say() {
    let open = ZonePolicy::default;
    let summary = |class: &ClassSpec, nodes: Vec<NodePicture>| explained(class, open(), nodes).summary;
    let with = |seed, presence| NodePicture { presence, ..node(seed) };
    let busy = |seed| NodePicture { free: Room { cpus_milli: 0, memory_bytes: 0 }, ..node(seed) };
    assert_eq!(summary(&class(), vec![node(1), node(2)]), "2 nodes can take the job now");
    assert_eq!(summary(&class(), vec![]), "the job waits: zone here: the zone has no node yet");
    assert_eq!(
        summary(&class(), vec![busy(1), busy(2), with(3, Presence::Draining), with(4, Presence::Away)]),
        "the job waits: 2 nodes are busy with other jobs; node n3 drains; node n4 has not been heard of lately"
    );
    let labelled = ClassSpec { labels: BTreeMap::from([("gpu".into(), "yes".into())]), ..class() };
    assert_eq!(
        summary(&labelled, vec![with(1, Presence::Away)]),
        "the job waits: zone here: no node of the zone has been heard of lately"
    );
    assert_eq!(
        summary(&labelled, vec![node(1), with(2, Presence::Away)]),
        "the job can never run as it is: node n1: the job asks for label gpu=yes, the node carries gpu=no"
    );
    let many = summary(&labelled, (1..10).map(node).collect());
    assert!(
        many.ends_with(
            "node n6: the job asks for label gpu=yes, the node carries gpu=no; and 3 more reasons"
        )
    );
}

#[test]
fn a_job_that_waits_for_a_zone_without_nodes_is_told_which_node_elsewhere_comes_nearest() {
    let picture = |name, nodes| ZonePicture { zone: zone(name, ZonePolicy::default()), nodes };
    let huge = ClassSpec { cpus_milli: 64_000, ..class() };
    let small = NodePicture { offers: Room { cpus_milli: 2_000, memory_bytes: GIB }, ..node(1) };
    let bare = picture("default", vec![]);
    let view = explain(&huge, &[bare.clone(), picture("lab", vec![small.clone(), node(2)])]);
    assert_eq!(view.runnable, Runnable::Waiting);
    assert_eq!(
        view.summary,
        "the job waits: zone default: the zone has no node yet; node n2 in zone lab does not fit: \
         the job asks for 64 cpus, the node offers 4"
    );
    // Not where the job asks for the zone, nor where a node that fits is only busy.
    let asked = ClassSpec { zone: Some("default".into()), ..huge };
    let view = explain(&asked, &[bare.clone(), picture("lab", vec![node(2)])]);
    assert_eq!(view.summary, "the job waits: zone default: the zone has no node yet");
    let busy = NodePicture { free: Room { cpus_milli: 0, memory_bytes: 0 }, ..node(2) };
    let view = explain(&class(), &[bare, picture("lab", vec![small, busy])]);
    assert!(!view.summary.contains("does not fit"), "{}", view.summary);
}

#[test]
fn an_unknown_zone_is_named_in_the_summary() {
    let asked = ClassSpec { zone: Some("mars".into()), ..class() };
    let view = explained(&asked, ZonePolicy::default(), vec![node(1)]);
    assert_eq!(view.runnable, Runnable::Never);
    assert_eq!(view.summary, "the job can never run as it is: there is no zone mars");
}

#[test]
fn h84_a_node_that_lacks_a_modules_feature_never_gets_its_jobs_and_the_feature_is_named() {
    // The module runs on one node and would trap on the other.
    let asked = ClassSpec { features: vec!["exceptions".into(), "memory64".into()], ..class() };
    let mut able = node(1);
    able.profile.features = vec!["exceptions".into(), "memory64".into(), "tail_call".into()];
    let lacking = node(2);
    let open = zone("here", ZonePolicy::default());
    assert!(admits(&asked, &open, &able.profile));
    assert!(!admits(&asked, &open, &lacking.profile));
    let named = "the module uses exceptions, which the node cannot run".to_owned();
    assert_eq!(verdict(&asked, vec![lacking.clone(), able]), (Runnable::Now, vec![named.clone()]));
    assert_eq!(verdict(&asked, vec![lacking]), (Runnable::Never, vec![named]));
}
