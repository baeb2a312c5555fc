//! The node's side of the protocol.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gristmill_executor::ExecutorConfig;
use gristmill_node::{Node, NodeConfig, RunOnceEnd, run_once};
use gristmill_protocol::{
    Digest, JobId, LeaseToken, LimitsSpec, NodeId, Reason,
    job::{InputKind, InputMode},
    limits::SlotSize,
    module::ModuleWorld,
    node_api::{BlobGrant, InputGrant, LeaseGrant, SIGNATURE_INPUT_HEADER},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::fake_server::{FakeServer, Reply, Seen};

const PATIENCE: Duration = Duration::from_secs(20);

/// Children that can be confined, and are killed before they do anything.
fn executor_child() -> std::path::PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let exe = test.ancestors().nth(2).expect("the target directory").join("examples/executor_child");
    assert!(exe.exists(), "{}: `cargo build --release --workspace --examples` makes it", exe.display());
    exe
}

fn config(server: &FakeServer, state: &Path) -> NodeConfig {
    let executor = ExecutorConfig { exe: executor_child(), prefix_args: vec!["killed".into()] };
    let mut config = NodeConfig::offering(SlotSize::default(), &server.url, state, executor);
    config.join_token = Some("gmj_secret".into());
    config
}

fn module() -> Vec<u8> {
    (0..200_000u32).map(|n| (n % 251) as u8).collect()
}

fn grant() -> LeaseGrant {
    let bytes = module();
    LeaseGrant {
        job: JobId::from_parts(1, [1; 10]),
        attempt: 1,
        fence: 1,
        lease_token: LeaseToken::from_text("lease-token"),
        ttl_ms: 30_000,
        renew_ms: 10_000,
        stop_ms: 25_000,
        tenant: "default".into(),
        module: Digest::from_bytes(Sha256::digest(&bytes).into()),
        module_size: bytes.len() as u64,
        world: ModuleWorld::WasiP1,
        program: "module".into(),
        args: Vec::new(),
        env: std::collections::BTreeMap::new(),
        bare_env: false,
        stdin: None,
        inputs: Vec::new(),
        limits: LimitsSpec::default().resolve(SlotSize::default()).expect("defaults"),
        success_exit_codes: Vec::new(),
        reproducible: false,
        deadline_left_ms: None,
        deadline_text: None,
        traceparent: None,
    }
}

/// What a healthy server answers when it has nothing to do.
fn healthy(request: &Seen) -> Reply {
    match request.path.as_str() {
        "/v1/node/enroll" => Reply::Json(json!({
            "node": NodeId::from_parts(5, [5; 10]), "zone": "lab", "protocol_version": 1,
            "server_unix_ms": 1_800_000_000_000_i64,
        })),
        "/v1/node/heartbeat" => Reply::Json(json!({
            "drain": false, "next_ms": 10_000, "server_unix_ms": 1_800_000_000_000_i64,
        })),
        "/v1/node/leases/acquire" | "/v1/node/leases/watch" => Reply::Hang,
        "/v1/node/leases/renew" => {
            let count = request.json()["leases"].as_array().map_or(0, Vec::len);
            let held = json!({"verdict": "held", "ttl_ms": 30_000, "cancel": false});
            Reply::Json(json!({ "leases": vec![held; count] }))
        }
        "/v1/node/updates" => {
            let count = request.json()["updates"].as_array().map_or(0, Vec::len);
            Reply::Json(json!({ "verdicts": vec!["accepted"; count] }))
        }
        _ => Reply::Problem(404, "not_found", None),
    }
}

#[tokio::test]
async fn a_node_that_cannot_confine_its_executors_starts_only_if_that_is_allowed() {
    let server = FakeServer::start(healthy).await;
    let temp = tempfile::tempdir().expect("a directory");
    let mut config = config(&server, temp.path());
    config.executor.prefix_args = vec!["without-landlock".into()];
    let refused = Node::start(config.clone()).await.expect_err("executors could read the node's files");
    assert!(refused.to_string().contains("no landlock") && refused.to_string().contains("weak"), "{refused}");
    assert!(server.requests("").is_empty(), "it does not even enrol");
    config.isolation_min = None;
    let node = Node::start(config).await.expect("it was allowed");
    assert_eq!(node.isolation().level(), None, "and it says what it is");
    node.stop().await;
}

/// Hands out one lease, then nothing more.
struct OneLease(AtomicUsize);

impl OneLease {
    fn answer(&self) -> Reply {
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            Reply::Json(json!({ "leases": [grant()] }))
        } else {
            Reply::Hang
        }
    }
}

fn changes(requests: &[Seen]) -> Vec<Value> {
    requests
        .iter()
        .flat_map(|request| request.json()["updates"].as_array().cloned().unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn a_broken_transfer_is_resumed_and_a_report_without_an_answer_is_repeated() {
    let (leases, blobs, updates) = (OneLease(AtomicUsize::new(0)), AtomicUsize::new(0), AtomicUsize::new(0));
    let server = FakeServer::start(move |request| match request.path.as_str() {
        "/v1/node/leases/acquire" => leases.answer(),
        "/v1/node/updates" if updates.fetch_add(1, Ordering::Relaxed) == 0 => Reply::ProxyPage,
        path if path.contains("/blobs/") => match blobs.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::ProxyPage,
            1 => Reply::Bytes(module(), 120_000),
            _ => Reply::Bytes(module(), usize::MAX),
        },
        _ => healthy(request),
    })
    .await;
    let state = tempfile::tempdir().expect("a directory");
    let node = Node::start(config(&server, state.path())).await.expect("started");
    assert_eq!((node.zone(), node.id()), ("lab", NodeId::from_parts(5, [5; 10])));
    let reports = server.wait_for("/updates", 2).await;
    assert_eq!(reports[0].body, reports[1].body, "the very same report");
    let change = &changes(&reports[1..])[0];
    assert_eq!(change["lease_token"], "lease-token");
    assert_eq!(change["change"]["kind"], "finished");
    let reason = change["change"]["outcome"]["reason"].as_str().expect("a reason");
    assert!(reason.parse::<Reason>().is_ok_and(Reason::is_infrastructure), "{reason}: no executor here");
    let transfers = server.requests("/blobs/");
    let ranges: Vec<_> = transfers.iter().map(|request| request.headers.get("range").cloned()).collect();
    assert_eq!(ranges[..2], [None, None]);
    let resumed = ranges[2].as_deref().and_then(|range| range.strip_prefix("bytes="));
    assert!(resumed.is_some(), "the third call goes on where the second was cut: {ranges:?}");
    assert_eq!(transfers[0].headers["gristmill-lease"], "lease-token");
    node.stop().await;
    let blobs = std::fs::read_dir(state.path().join("cache/blobs")).expect("listed").count();
    assert_eq!(blobs, 1, "the verified module is kept");
    assert_eq!(std::fs::read_dir(state.path().join("attempts")).expect("listed").count(), 0);
}

#[tokio::test]
async fn a_drain_gives_back_what_has_not_started() {
    let leases = OneLease(AtomicUsize::new(0));
    let server = FakeServer::start(move |request| match request.path.as_str() {
        "/v1/node/leases/acquire" => leases.answer(),
        path if path.contains("/blobs/") => Reply::Hang,
        _ => healthy(request),
    })
    .await;
    let state = tempfile::tempdir().expect("a directory");
    let node = Node::start(config(&server, state.path())).await.expect("started");
    server.wait_for("/blobs/", 1).await;
    assert_eq!(node.attempt_count(), 1);
    tokio::time::timeout(PATIENCE, node.drain()).await.expect("drained");
    let changes = changes(&server.requests("/updates"));
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0]["change"]["kind"], "released");
    let heartbeats = server.requests("/heartbeat");
    assert_eq!(heartbeats.last().expect("one").json()["draining"], true, "the server is told");
    node.stop().await;
}

#[tokio::test]
async fn a_lost_lease_is_dropped_without_a_word_and_a_cancelled_one_is_reported() {
    for (news, expected) in [("lost", None), ("cancelled", Some("cancelled_by_user"))] {
        let (leases, watches) = (OneLease(AtomicUsize::new(0)), AtomicUsize::new(0));
        let server = FakeServer::start(move |request| match request.path.as_str() {
            "/v1/node/leases/acquire" => leases.answer(),
            "/v1/node/leases/watch" if watches.fetch_add(1, Ordering::Relaxed) == 0 => {
                let mut grant = json!({ "cancelled": [], "lost": [] });
                grant[news] = json!([[JobId::from_parts(1, [1; 10]), 1]]);
                Reply::Json(grant)
            }
            path if path.contains("/blobs/") => Reply::Hang,
            _ => healthy(request),
        })
        .await;
        let state = tempfile::tempdir().expect("a directory");
        let node = Node::start(config(&server, state.path())).await.expect("started");
        server.wait_for("/leases/watch", 1).await;
        for _ in 0..500 {
            if node.attempt_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(node.attempt_count(), 0, "{news}");
        let changes = changes(&server.requests("/updates"));
        let reason = changes.first().map(|change| change["change"]["outcome"]["reason"].clone());
        assert_eq!(reason, expected.map(Value::from), "{news}");
        node.stop().await;
    }
}

#[tokio::test]
async fn h22_wrong_bytes_and_a_missing_input_each_have_their_reason() {
    for (bytes, expected) in [(None, "input_missing"), (Some(vec![0u8; 200_000]), "digest_mismatch")] {
        let leases = OneLease(AtomicUsize::new(0));
        let server = FakeServer::start(move |request| match request.path.as_str() {
            "/v1/node/leases/acquire" => leases.answer(),
            path if path.contains("/blobs/") => match &bytes {
                Some(bytes) => Reply::Bytes(bytes.clone(), usize::MAX),
                None => Reply::Problem(404, "not_found", None),
            },
            _ => healthy(request),
        })
        .await;
        let state = tempfile::tempdir().expect("a directory");
        let node = Node::start(config(&server, state.path())).await.expect("started");
        let changes = changes(&server.wait_for("/updates", 1).await);
        assert_eq!(changes[0]["change"]["outcome"]["reason"], expected);
        node.stop().await;
    }
}

/// How an attempt ends whose every blob gets this answer: the reported outcome.
async fn outcome_of(grant: LeaseGrant, blobs: impl Fn() -> Reply + Send + Sync + 'static) -> Value {
    let leased = AtomicUsize::new(0);
    let server = FakeServer::start(move |request| match request.path.as_str() {
        "/v1/node/leases/acquire" if leased.fetch_add(1, Ordering::Relaxed) == 0 => {
            Reply::Json(json!({ "leases": [grant] }))
        }
        path if path.contains("/blobs/") => blobs(),
        _ => healthy(request),
    })
    .await;
    let state = tempfile::tempdir().expect("a directory");
    let node = Node::start(config(&server, state.path())).await.expect("started");
    let outcome = changes(&server.wait_for("/updates", 1).await)[0]["change"]["outcome"].clone();
    node.stop().await;
    outcome
}

#[tokio::test]
async fn what_the_server_forbids_is_a_policy_and_what_it_refuses_otherwise_is_not() {
    let forbidden = outcome_of(grant(), || Reply::Problem(403, "forbidden", None)).await;
    assert_eq!(forbidden["reason"], "policy_denied", "{forbidden:#}");
    // The job goes on elsewhere: this is between this node and its server.
    let refused = outcome_of(grant(), || Reply::Problem(400, "invalid_request", None)).await;
    assert_eq!(refused["reason"], "executor_crashed", "{refused:#}");
    assert!(refused["message"].to_string().contains("the server refuses to give"), "{refused:#}");
}

#[tokio::test]
async fn inputs_that_do_not_come_in_time_end_the_attempt_by_the_stage_time() {
    let mut slow = grant();
    slow.limits.stage_time_ms = 200;
    let outcome = outcome_of(slow, || Reply::Hang).await;
    assert_eq!((&outcome["state"], &outcome["reason"]), (&json!("timed_out"), &json!("stage_timeout")));
    assert!(outcome["message"].to_string().contains("200 ms"), "{outcome:#}");
}

#[tokio::test]
async fn a_tree_that_is_none_and_inputs_in_each_others_way_are_inputs_that_cannot_be_given() {
    let bytes = module();
    let blob =
        BlobGrant { digest: Digest::from_bytes(Sha256::digest(&bytes).into()), size: bytes.len() as u64 };
    let input = |guest_path: &str, kind| InputGrant {
        guest_path: guest_path.into(),
        blob: blob.clone(),
        kind,
        mode: InputMode::Ro,
    };
    for (inputs, message) in [
        (vec![input("/in/tree", InputKind::Tree)], "no tar archive"),
        (vec![input("/in/a", InputKind::File), input("/in/a", InputKind::File)], "claim the same path"),
    ] {
        let outcome =
            outcome_of(LeaseGrant { inputs, ..grant() }, || Reply::Bytes(module(), usize::MAX)).await;
        assert_eq!(outcome["reason"], "input_missing", "{outcome:#}");
        assert!(outcome["message"].to_string().contains(message), "{outcome:#}");
    }
}

#[tokio::test]
async fn a_revoked_node_says_so_and_stops() {
    let server = FakeServer::start(|request| match request.path.as_str() {
        "/v1/node/heartbeat" => Reply::Problem(403, "forbidden", None),
        _ => healthy(request),
    })
    .await;
    let state = tempfile::tempdir().expect("a directory");
    let node = Node::start(config(&server, state.path())).await.expect("started");
    let why = tokio::time::timeout(PATIENCE, node.failed()).await.expect("failed");
    assert!(why.contains("revoked") && why.contains("enrol"), "{why}");
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_any_call_says_is_revoked_stops_its_guests_at_once() {
    for refused in ["/v1/node/leases/acquire", "/v1/node/leases/watch", "/v1/node/leases/renew"] {
        let leases = OneLease(AtomicUsize::new(0));
        let server = FakeServer::start(move |request| match request.path.as_str() {
            path if path == refused => Reply::Problem(403, "forbidden", None),
            "/v1/node/leases/acquire" => match leases.answer() {
                Reply::Json(mut answer) => {
                    answer["leases"][0]["renew_ms"] = json!(50);
                    answer["leases"][0]["stop_ms"] = json!(29_900);
                    Reply::Json(answer)
                }
                other => other,
            },
            path if path.contains("/blobs/") => Reply::Hang,
            _ => healthy(request),
        })
        .await;
        let state = tempfile::tempdir().expect("a directory");
        let node = Node::start(config(&server, state.path())).await.expect("started");
        let why = tokio::time::timeout(PATIENCE, node.failed()).await.expect(refused);
        assert!(why.contains("revoked"), "{refused}: {why}");
        for _ in 0..500 {
            if node.attempt_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(node.attempt_count(), 0, "{refused}");
        assert_eq!(server.requests("/heartbeat").len(), 1, "nobody waited for the next heartbeat");
        node.stop().await;
    }
}

#[tokio::test]
async fn a_cached_blob_that_changed_while_the_node_was_down_is_fetched_again() {
    let wanted = JobId::from_parts(1, [1; 10]);
    let server = FakeServer::start(move |request| match request.path.as_str() {
        "/v1/node/leases/acquire" => Reply::Json(json!({ "leases": [grant()] })),
        path if path.contains("/blobs/") => Reply::Bytes(module(), usize::MAX),
        _ => healthy(request),
    })
    .await;
    let state = tempfile::tempdir().expect("a directory");
    let blob = state.path().join("cache/blobs").join(grant().module.hex());
    for transfers in [1, 1, 2] {
        let cancel = CancellationToken::new();
        let end = run_once(config(&server, state.path()), Some(wanted), PATIENCE, cancel).await;
        assert!(matches!(end, Ok(RunOnceEnd::Ran(_))), "{end:?}");
        assert_eq!(server.requests("/blobs/").len(), transfers);
        assert_eq!(std::fs::read(&blob).expect("kept"), module());
        if server.requests("/leases/acquire").len() == 2 {
            std::fs::remove_file(&blob).expect("removed");
            std::fs::write(&blob, vec![0; module().len()]).expect("rotten bytes of the same length");
        }
    }
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_signs_by_the_servers_clock() {
    let refusals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refusals);
    let server = FakeServer::start(move |request| {
        let input = request.headers.get(SIGNATURE_INPUT_HEADER).cloned().unwrap_or_default();
        let is_right = input.contains(";created=41024448");
        if request.path == "/v1/node/enroll" || is_right {
            return healthy(request);
        }
        counted.fetch_add(1, Ordering::Relaxed);
        Reply::Problem(401, "clock_skew", Some("Fri, 01 Jan 2100 00:00:00 GMT"))
    })
    .await;
    let state = tempfile::tempdir().expect("a directory");
    let node = Node::start(config(&server, state.path())).await.expect("started");
    let heartbeats = server.wait_for("/heartbeat", 2).await;
    assert_eq!(refusals.load(Ordering::Relaxed), 1, "one refusal is enough to learn");
    let nonce = |request: &Seen| {
        let input = &request.headers[SIGNATURE_INPUT_HEADER];
        input.split("nonce=\"").nth(1).map(|rest| rest[..32].to_owned())
    };
    assert_ne!(nonce(&heartbeats[0]), nonce(&heartbeats[1]));
    node.stop().await;
}

#[tokio::test]
async fn an_enrolled_node_needs_no_token_and_a_new_one_does() {
    let server = FakeServer::start(healthy).await;
    let state = tempfile::tempdir().expect("a directory");
    let first = Node::start(config(&server, state.path())).await.expect("enrolled");
    first.stop().await;
    let mut without = config(&server, state.path());
    without.join_token = None;
    let again = Node::start(without.clone()).await.expect("known already");
    assert_eq!(again.zone(), "lab");
    again.stop().await;
    assert_eq!(server.requests("/enroll").len(), 1);
    let empty = tempfile::tempdir().expect("a directory");
    without.state_dir = empty.path().to_owned();
    let error = Node::start(without).await.expect_err("no token");
    assert!(error.to_string().contains("join token"), "{error}");
}

#[tokio::test]
async fn a_node_for_one_job_runs_it_and_ends_or_ends_without_one() {
    let leases = OneLease(AtomicUsize::new(0));
    let wanted = JobId::from_parts(1, [1; 10]);
    let server = FakeServer::start(move |request| match request.path.as_str() {
        "/v1/node/leases/acquire" if request.json()["job"] == json!(wanted) => leases.answer(),
        "/v1/node/leases/acquire" => Reply::Json(json!({ "leases": [] })),
        path if path.contains("/blobs/") => Reply::Problem(404, "not_found", None),
        _ => healthy(request),
    })
    .await;
    let state = tempfile::tempdir().expect("a directory");
    let cancel = CancellationToken::new();
    let end = run_once(config(&server, state.path()), Some(wanted), PATIENCE, cancel.clone()).await;
    let RunOnceEnd::Ran(ran) = end.expect("no error") else { panic!("the job was there") };
    assert_eq!((ran.job, ran.is_accepted), (wanted, true));
    assert_eq!(ran.outcome.and_then(|outcome| outcome.reason), Some(Reason::InputMissing));
    let wait = Duration::from_millis(300);
    let end = run_once(config(&server, state.path()), None, wait, cancel).await.expect("no error");
    assert_eq!(end, RunOnceEnd::NoJob);
}
