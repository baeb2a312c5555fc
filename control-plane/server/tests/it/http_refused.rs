//! What is refused: it leaves no bytes behind, and the text says what is really wrong.

use gristmill_lifecycle::Settings;
use gristmill_protocol::tenancy::Scope;
use serde_json::{Value, json};

use crate::http_api::{Api, call, command, digest};

async fn is_stored(api: &Api, bytes: &[u8]) -> bool {
    let digest = digest(bytes).parse().expect("is a digest");
    api.app.blobs.size(digest).await.expect("the blob store answers").is_some()
}

/// A command that is another one for each number.
fn other_command(number: u32) -> Vec<u8> {
    wat::parse_str(format!("(module (func (export \"_start\")) (func (export \"f{number}\")))"))
        .expect("is valid")
}

#[tokio::test]
async fn other_bytes_for_a_version_that_is_there_are_not_stored() {
    let api = Api::start().await;
    assert_eq!(api.publish("mill", "1.0.0").await.status, 201);
    let publish = |bytes: &[u8]| call("PUT", "/v1/modules/mill/versions/1.0.0").bytes(bytes.to_vec());
    let refused = api.admin(publish(&other_command(1))).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "version_exists"));
    assert!(!is_stored(&api, &other_command(1)).await);
    assert_eq!(api.admin(publish(&command())).await.status, 200, "the same bytes again");
    assert!(is_stored(&api, &command()).await);
}

#[tokio::test]
async fn a_submit_that_is_refused_or_only_validated_stores_no_inline_bytes() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api.enroll("grinder").await;
    let spec = |labels: Value, limits: Value| {
        json!({
            "module": "mill", "labels": labels, "limits": limits, "stdin": {"text": "from stdin"},
            "params": {"rows": 7}, "inputs": [{"name": "a", "source": {"text": "from an input"}}],
        })
    };
    let fine = || spec(json!({"disk": "fast"}), json!({}));
    let inline: [&[u8]; 3] = [b"from stdin", b"{\"rows\":7}", b"from an input"];
    let never = api.admin(call("POST", "/v1/jobs").json(&spec(json!({"gpu": "yes"}), json!({})))).await;
    assert_eq!(never.code(), "never_runnable");
    let validated = api.admin(call("POST", "/v1/jobs?validate_only=true").json(&fine())).await;
    assert_eq!(validated.json()["runnable"], "now");
    let mut invisible = fine();
    let unseen = json!({"name": "b", "source": {"digest": digest(b"of nobody")}});
    invisible["inputs"].as_array_mut().expect("a list").push(unseen);
    assert_eq!(api.admin(call("POST", "/v1/jobs").json(&invisible)).await.code(), "not_found");
    for bytes in inline {
        assert!(!is_stored(&api, bytes).await, "{:?}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(api.admin(call("POST", "/v1/jobs").json(&fine())).await.status, 201);
    for bytes in inline {
        assert!(is_stored(&api, bytes).await, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[tokio::test]
async fn a_module_that_cannot_be_used_is_told_apart_from_one_that_is_not_there() {
    let api = Api::start().await;
    for version in ["1.0.0", "1.1.0"] {
        api.publish("mill", version).await;
    }
    let why = async |token: &str, module: &str| {
        let answer = api.send(call("POST", "/v1/jobs").json(&json!({"module": module})).token(token)).await;
        assert_eq!(answer.code(), "not_found");
        let text = |name: &str| answer.json()[name].as_str().unwrap_or_default().to_owned();
        (text("detail"), text("hint"))
    };
    let admin = crate::http_api::ADMIN;
    assert_eq!(
        why(admin, "mill@9.9.9").await,
        ("module mill has no version \"9.9.9\"".into(), "the newest is mill@1.1.0".into())
    );
    for version in ["1.0.0", "1.1.0"] {
        let target = format!("/v1/modules/mill/versions/{version}");
        let done = api.admin(call("PATCH", target).json(&json!({"deprecated": true}))).await;
        assert_eq!(done.status, 200);
    }
    assert_eq!(why(admin, "mill").await.0, "every version of mill is deprecated; name one: mill@1.1.0");
    let named = api.admin(call("POST", "/v1/jobs").json(&json!({"module": "mill@1.1.0"}))).await;
    assert_eq!(named.status, 201, "a deprecated version runs when it is named");

    api.token("gmu_other", "other", &[Scope::Submit]).await;
    let (detail, hint) = why("gmu_other", "mill").await;
    assert!(detail.starts_with("there is no module \"mill\"") && !hint.contains("default"), "{hint}");
    api.admin(call("PATCH", "/v1/modules/mill").json(&json!({"visibility": "public"}))).await;
    let (_, hint) = why("gmu_other", "mill").await;
    assert!(hint.ends_with("default:mill"), "{hint}");
    let (detail, _) = why("gmu_other", "default:mill").await;
    assert_eq!(detail, "every version of default:mill is deprecated; name one: default:mill@1.1.0");
}

#[tokio::test]
async fn a_label_that_only_a_node_to_come_will_have_waits_while_no_node_is_there() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api.enroll("once").await;
    let submit = || call("POST", "/v1/jobs").json(&json!({"module": "mill", "labels": {"gpu": "yes"}}));
    assert_eq!(api.admin(submit()).await.code(), "never_runnable", "a node is there and lacks the label");
    // A node for one job ends and stays enrolled.
    api.clock.advance_s(31);
    let accepted = api.admin(submit()).await;
    assert_eq!(accepted.status, 201);
    let target = format!("/v1/jobs/{}/placement", accepted.json()["id"].as_str().expect("an id"));
    let placement = api.admin(call("GET", target)).await.json();
    assert_eq!(placement["runnable"], "waiting");
    assert_eq!(
        placement["summary"],
        "the job waits: zone default: no node of the zone has been heard of lately"
    );
    let why = placement["zones"][0]["nodes"][0]["why_not"].as_array().expect("a list").len();
    assert_eq!(why, 2, "the label and the absence: {placement:#}");
}

#[tokio::test]
async fn a_full_queue_is_429_with_the_time_after_which_to_ask_again() {
    let api = Api::start_with(Settings { queue_depth_max: 2, ..Settings::default() }).await;
    api.publish("mill", "1.0.0").await;
    let submit = || call("POST", "/v1/jobs").json(&json!({"module": "mill"}));
    let first = api.admin(submit()).await;
    assert_eq!(first.status, 201);
    assert_eq!(api.admin(submit()).await.status, 201);
    let full = api.admin(submit()).await;
    assert_eq!((full.status.as_u16(), full.code().as_str()), (429, "queue_full"));
    assert_eq!(full.header("content-type"), Some("application/problem+json"));
    let seconds: u64 = full.header("retry-after").and_then(|text| text.parse().ok()).expect("whole seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    // A place that becomes free is given to the next one.
    let cancel = format!("/v1/jobs/{}/cancel", first.json()["id"].as_str().expect("an id"));
    assert_eq!(api.admin(call("POST", cancel)).await.status, 200);
    assert_eq!(api.admin(submit()).await.status, 201);
    assert_eq!(api.admin(submit()).await.status, 429);
}

#[tokio::test]
async fn a_job_that_runs_is_explained_by_where_and_since_when() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    let node = api.enroll("grinder").await;
    let job = api.admin(call("POST", "/v1/jobs").json(&json!({"module": "mill"}))).await.json();
    let acquire = json!({
        "incarnation": "a", "cpus_milli_free": 4000, "memory_bytes_free": 17_179_869_184_u64,
        "leases_max": 1, "wait_ms": 0,
    });
    let grant = api.signed(&node, call("POST", "/v1/node/leases/acquire").json(&acquire)).await.json();
    let lease = &grant["leases"][0];
    let placement = async || {
        let target = format!("/v1/jobs/{}/placement", job["id"].as_str().expect("an id"));
        let view = api.admin(call("GET", target)).await.json();
        assert_eq!(view["runnable"], "running", "{view:#}");
        view["summary"].as_str().expect("a sentence").to_owned()
    };
    let at = "on node grinder in zone default, where it is since 2026-01-01T00:00";
    assert_eq!(placement().await, format!("the job is being prepared {at}:00Z"));
    api.clock.advance_s(5);
    let started = json!({"updates": [{
        "job": job["id"], "attempt": 1, "lease_token": lease["lease_token"], "change": {"kind": "started"},
    }]});
    let told = api.signed(&node, call("POST", "/v1/node/updates").json(&started)).await.json();
    assert_eq!(told["verdicts"][0], "accepted");
    assert_eq!(placement().await, format!("the job runs {at}:05Z"));
    api.admin(call("POST", format!("/v1/jobs/{}/cancel", job["id"].as_str().expect("an id")))).await;
    assert_eq!(placement().await, format!("the job is being stopped {at}:05Z"));
}

#[tokio::test]
async fn a_job_that_has_ended_is_explained_by_its_end() {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api.enroll("grinder").await;
    let job = api.admin(call("POST", "/v1/jobs").json(&json!({"module": "mill"}))).await.json();
    let id = job["id"].as_str().expect("an id").to_owned();
    let placement = || call("GET", format!("/v1/jobs/{id}/placement"));
    assert_eq!(api.admin(placement()).await.json()["runnable"], "now");
    assert_eq!(api.admin(call("POST", format!("/v1/jobs/{id}/cancel"))).await.status, 200);
    let after = api.admin(placement()).await.json();
    assert_eq!(after["runnable"], "ended");
    assert_eq!(after["summary"], "the job has ended: cancelled (cancelled_by_user)");
    assert_eq!(after["zones"][0]["runnable"], "now", "where one like it could run: {after:#}");
}
