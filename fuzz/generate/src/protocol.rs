//! One message of each kind; the first byte says which, as in the target.

use std::collections::BTreeMap;

use gristmill_protocol::{
    Digest, ErrorCode, FieldError, JobId, LeaseToken, LimitsSpec, NodeId, Outcome, Problem, Reason, TrapKind,
    WorkPhase,
    attempt::LogStream,
    job::{InputKind, InputMode, OutputEntry},
    limits::SlotSize,
    module::ModuleWorld,
    node::NodeCapabilities,
    node_api::{
        AcquireGrant, AcquireRequest, AttemptChange, AttemptReport, AttemptUpdate, BlobGrant, EnrollGrant,
        EnrollRequest, HeartbeatGrant, HeartbeatRequest, InputGrant, LeaseGrant, LeaseRef, LeaseVerdict,
        LogChunk, PhaseNote, RenewGrant, RenewRequest, UpdateVerdict, UpdatesGrant, UpdatesRequest,
        WatchGrant, WatchRequest, signature_params,
    },
};
use serde::Serialize;

fn job() -> JobId {
    JobId::from_parts(1, [1; 10])
}

fn node() -> NodeId {
    NodeId::from_parts(2, [2; 10])
}

fn lease() -> LeaseRef {
    LeaseRef { job: job(), attempt: 1, lease_token: LeaseToken::from_random([3; 16]) }
}

fn phase() -> PhaseNote {
    PhaseNote { job: job(), attempt: 1, phase: WorkPhase::Compiling, elapsed_ms: 700 }
}

fn blob() -> BlobGrant {
    BlobGrant { digest: Digest::from_bytes([4; 32]), size: 5 }
}

fn map() -> BTreeMap<String, String> {
    BTreeMap::from([("k".into(), "v".into())])
}

fn grant() -> LeaseGrant {
    LeaseGrant {
        job: job(),
        attempt: 1,
        fence: 2,
        lease_token: lease().lease_token,
        ttl_ms: 30_000,
        renew_ms: 10_000,
        stop_ms: 25_000,
        tenant: "t".into(),
        module: blob().digest,
        module_size: 9,
        world: ModuleWorld::WasiP1,
        program: "p".into(),
        args: vec!["a".into()],
        env: map(),
        stdin: Some(blob()),
        inputs: vec![InputGrant {
            guest_path: "/in/x".into(),
            blob: blob(),
            kind: InputKind::Tree,
            mode: InputMode::Rw,
        }],
        limits: LimitsSpec::default().resolve(SlotSize::default()).expect("the defaults are in range"),
        success_exit_codes: vec![10, -1],
        reproducible: true,
        deadline_left_ms: Some(1),
        deadline_text: Some("2026-01-01T00:00:00Z".into()),
        traceparent: None,
    }
}

fn outcome() -> Outcome {
    Outcome {
        trap_kind: Some(TrapKind::Unreachable),
        exit_code: Some(-1),
        ..Outcome::failed(Reason::Trap, "é")
    }
}

fn report() -> AttemptReport {
    AttemptReport {
        outcome: outcome(),
        outputs: vec![OutputEntry { path: "a/b".into(), digest: blob().digest, size: 1 }],
        log_tail: vec![LogChunk {
            stream: LogStream::Stderr,
            offset: 1,
            elapsed_us: 2,
            base64: "eA==".into(),
        }],
        log_truncated: true,
    }
}

fn finished() -> AttemptUpdate {
    AttemptUpdate { lease: lease(), change: AttemptChange::Finished(Box::new(report())) }
}

fn problem() -> Problem {
    Problem {
        kind: "about:blank".into(),
        title: "t".into(),
        status: 409,
        detail: "d".into(),
        code: ErrorCode::LeaseLost,
        hint: Some("h".into()),
        request_id: None,
        errors: vec![FieldError { pointer: "/a".into(), detail: "b".into() }],
    }
}

fn signature() -> Vec<u8> {
    let params = signature_params(true, true, 1_700_000_000, &"0a".repeat(16), &node());
    format!("sPOST\n/v1/node/updates\na=b\nsha-256=:AA==:\nffff\n{params}").into_bytes()
}

fn seed(kind: u8, message: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![kind];
    serde_json::to_writer(&mut bytes, message).expect("written to memory");
    bytes
}

fn from_node() -> Vec<(&'static str, Vec<u8>)> {
    let capabilities = NodeCapabilities::default();
    let enroll = EnrollRequest {
        protocol_versions: (1, 1),
        join_token: "gmj_x".into(),
        public_key: "AA==".into(),
        name: "n".into(),
        labels: map(),
        capabilities: capabilities.clone(),
    };
    let heartbeat = HeartbeatRequest {
        incarnation: "i".into(),
        sequence: 1,
        draining: false,
        labels: map(),
        capabilities,
    };
    let acquire = AcquireRequest {
        incarnation: "i".into(),
        cpus_milli_free: 2_000,
        memory_bytes_free: 8 << 30,
        leases_max: 1,
        wait_ms: 25_000,
        job: Some(job()),
    };
    let released = AttemptUpdate { lease: lease(), change: AttemptChange::Released };
    let updates = UpdatesRequest { updates: vec![released.clone(), finished()] };
    vec![
        ("enroll", seed(b'a', &enroll)),
        ("heartbeat", seed(b'c', &heartbeat)),
        ("acquire", seed(b'e', &acquire)),
        ("renew", seed(b'h', &RenewRequest { leases: vec![lease()] })),
        ("watch", seed(b'j', &WatchRequest { leases: vec![lease()], wait_ms: 1, phases: vec![phase()] })),
        ("updates", seed(b'l', &updates)),
        ("update", seed(b'n', &released)),
        ("change", seed(b'o', &AttemptChange::Started)),
        ("report", seed(b'p', &report())),
        ("outcome", seed(b'q', &outcome())),
        ("signature", signature()),
        ("node_id", format!("t{}", node()).into_bytes()),
        ("digest", format!("t{}", blob().digest).into_bytes()),
    ]
}

fn from_server() -> Vec<(&'static str, Vec<u8>)> {
    let enrolled = EnrollGrant { node: node(), zone: "z".into(), protocol_version: 1, server_unix_ms: -1 };
    let verdicts = vec![LeaseVerdict::Held { ttl_ms: 1, cancel: true }, LeaseVerdict::Lost];
    let watched = WatchGrant { cancelled: vec![(job(), 1)], lost: vec![(job(), 2)], drain: true };
    let updated = UpdatesGrant { verdicts: vec![UpdateVerdict::Accepted, UpdateVerdict::LeaseLost] };
    vec![
        ("enrolled", seed(b'b', &enrolled)),
        ("heard", seed(b'd', &HeartbeatGrant { drain: true, next_ms: 1, server_unix_ms: 2 })),
        ("acquired", seed(b'f', &AcquireGrant { leases: vec![grant()], drain: false })),
        ("grant", seed(b'g', &grant())),
        ("renewed", seed(b'i', &RenewGrant { leases: verdicts })),
        ("watched", seed(b'k', &watched)),
        ("updated", seed(b'm', &updated)),
        ("problem", seed(b'r', &problem())),
    ]
}

/// Names and bytes.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    [from_node(), from_server()].concat()
}
