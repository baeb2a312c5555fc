//! Every route of the users' API: its main answers and its refusals, as reviewed transcripts.

use gristmill_protocol::tenancy::Scope;
use insta::assert_snapshot;
use serde_json::json;

use crate::http_api::{Api, call, command, digest};

#[tokio::test]
async fn modules_are_published_shown_and_changed() {
    let mut api = Api::start().await;
    let put = |version: &str| call("PUT", format!("/v1/modules/mill/versions/{version}"));
    api.note_admin("publish", put("1.0.0").bytes(command())).await;
    api.note_admin("the same bytes again", put("1.0.0").bytes(command())).await;
    let other = wat::parse_str("(module (func (export \"_start\") nop))").expect("is valid");
    api.note_admin("other bytes", put("1.0.0").bytes(other.clone())).await;
    api.note_admin("no module", put("1.1.0").bytes("hello")).await;
    api.note_admin("nothing", put("1.1.0")).await;
    api.note_admin("bad version", put("1.1").bytes(command())).await;
    api.note_admin("bad name", call("PUT", "/v1/modules/Mill/versions/1.0.0").bytes(command())).await;
    api.note_admin("json", put("1.1.0").json(&json!({}))).await;
    api.note_admin("a pre-release", put("2.0.0-rc.1").bytes(other)).await;
    let schema = br#"{"type": "object", "required": ["rows"]}"#;
    api.note_admin("schema", call("PUT", format!("/v1/blobs/{}", digest(schema))).bytes(&schema[..])).await;
    let target = format!("/v1/modules/mill/versions/1.1.0?params_schema_digest={}", digest(schema));
    api.note_admin("with a schema", call("PUT", target).bytes(command())).await;
    api.note_admin("one", call("GET", "/v1/modules/mill")).await;
    api.note_admin("one version", call("GET", "/v1/modules/default:mill/versions/1.0.0")).await;
    api.note_admin(
        "its bytes",
        call("GET", "/v1/modules/mill/versions/1.0.0/wasm").header("range", "bytes=1-3"),
    )
    .await;
    let patch = call("PATCH", "/v1/modules/mill/versions/1.1.0").json(&json!({"deprecated": true}));
    api.note_admin("deprecate", patch).await;
    api.note_admin("list", call("GET", "/v1/modules")).await;
    api.token("gmu_other", "other", &[Scope::Read, Scope::Submit, Scope::Publish]).await;
    api.note("not visible", call("GET", "/v1/modules/default:mill").token("gmu_other")).await;
    let patch = |body| call("PATCH", "/v1/modules/mill").json(&body);
    api.note_admin("publish to all", patch(json!({"visibility": "public"}))).await;
    api.note("visible", call("GET", "/v1/modules").token("gmu_other")).await;
    api.note(
        "not theirs",
        call("PATCH", "/v1/modules/default:mill").json(&json!({"visibility": "tenant"})).token("gmu_other"),
    )
    .await;
    api.note_admin("unknown value", patch(json!({"visibility": "all"}))).await;
    assert_snapshot!(api.transcript());
}

#[tokio::test]
async fn blobs_go_in_and_come_out() {
    let mut api = Api::start().await;
    let target = format!("/v1/blobs/{}", digest(b"hello, mill"));
    api.note_admin("put", call("PUT", &target).bytes("hello, mill")).await;
    api.note_admin("put again", call("PUT", &target).bytes("hello, mill")).await;
    api.note_admin("other bytes", call("PUT", &target).bytes("hello, bill")).await;
    api.note_admin("no digest", call("PUT", "/v1/blobs/sha256:abc").bytes("hello")).await;
    api.note_admin("compressed", call("PUT", &target).header("content-encoding", "gzip").bytes("x")).await;
    api.note_admin("get", call("GET", &target)).await;
    api.note_admin("head", call("HEAD", &target)).await;
    api.note_admin("range", call("GET", &target).header("range", "bytes=7-")).await;
    api.note_admin("outside", call("GET", &target).header("range", "bytes=11-")).await;
    let etag = format!("\"{}\"", digest(b"hello, mill"));
    api.note_admin("known", call("GET", &target).header("if-none-match", etag)).await;
    let stale = call("GET", &target).header("range", "bytes=7-").header("if-range", "\"other\"");
    api.note_admin("range of something else", stale).await;
    api.token("gmu_other", "other", &[Scope::Read, Scope::Submit, Scope::Publish]).await;
    api.note("not visible", call("GET", &target).token("gmu_other")).await;
    api.note("head of what is not visible", call("HEAD", &target).token("gmu_other")).await;
    api.note("their own copy", call("PUT", &target).bytes("hello, mill").token("gmu_other")).await;
    api.note("visible", call("HEAD", &target).token("gmu_other")).await;
    assert_snapshot!(api.transcript());
}

#[tokio::test]
async fn jobs_are_submitted_shown_and_cancelled() {
    let mut api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api.enroll("grinder").await;
    let submit = |body| call("POST", "/v1/jobs").json(&body);
    let spec = json!({
        "module": "mill", "args": ["a"], "env": {"K": "v"}, "params": {"rows": 1},
        "inputs": [{"name": "data.csv", "source": {"text": "a,b\n"}}],
        "limits": {"wall_time_ms": 5000}, "labels": {"disk": "fast"},
    });
    let keyed = submit(spec.clone()).header("idempotency-key", "k1");
    let first = api.note_admin("submit", keyed).await;
    let job = first.json()["id"].as_str().expect("is accepted").to_owned();
    let again = api.note_admin("the same key", submit(spec).header("idempotency-key", "k1")).await;
    assert_eq!(again.json()["id"], first.json()["id"]);
    let other = submit(json!({"module": "mill"})).header("idempotency-key", "k1");
    api.note_admin("the same key, another body", other).await;
    api.note_admin("unknown module", submit(json!({"module": "bill"}))).await;
    api.note_admin("unknown field", submit(json!({"module": "mill", "limits": {"memory": 1}}))).await;
    let wrong = json!({
        "module": "mill", "retries": 101, "limits": {"cpus_milli": 1},
        "inputs": [{"name": "/tmp", "source": {"text": ""}}], "env": {"GRISTMILL_X": "1"},
    });
    api.note_admin("wrong values", submit(wrong)).await;
    let never = json!({"module": "mill", "labels": {"gpu": "yes"}});
    api.note_admin("never runnable", submit(never.clone())).await;
    let ask = call("POST", "/v1/jobs?validate_only=true").json(&never);
    api.note_admin("validate only", ask).await;
    let get = |rest: &str| call("GET", format!("/v1/jobs/{job}{rest}"));
    api.note_admin("placement", get("/placement")).await;
    let etag = first.header("etag").expect("jobs have an entity tag").to_owned();
    api.note_admin("known", get("").header("if-none-match", etag)).await;
    api.note_admin("attempts", get("/attempts")).await;
    api.note_admin("log of the attempt to come", get("/attempts/1/logs?stream=stdout")).await;
    api.note_admin("no such attempt", get("/attempts/2/logs")).await;
    api.note_admin("no such stream", get("/attempts/1/logs?stream=both")).await;
    api.note_admin("outputs", get("/outputs")).await;
    api.note_admin("no such output", get("/outputs/a/b.txt")).await;
    api.note_admin("too early", call("POST", format!("/v1/jobs/{job}/retry"))).await;
    api.token("gmu_other", "other", &[Scope::Read, Scope::Submit, Scope::Publish]).await;
    api.note("not theirs", get("").token("gmu_other")).await;
    api.note("not theirs to cancel", call("POST", format!("/v1/jobs/{job}/cancel")).token("gmu_other")).await;
    api.note_admin("cancel", call("POST", format!("/v1/jobs/{job}/cancel"))).await;
    api.note_admin("wait for the end", get("?wait=5s")).await;
    api.note_admin("retry", call("POST", format!("/v1/jobs/{job}/retry"))).await;
    api.note_admin("list", call("GET", "/v1/jobs?state=cancelled&page_size=1")).await;
    api.note_admin("bad filter", call("GET", "/v1/jobs?state=gone")).await;
    api.note_admin("bad id", call("GET", "/v1/jobs/job_1")).await;
    assert_snapshot!(api.transcript());
}

#[tokio::test]
async fn zones_are_made_and_changed_under_their_entity_tag() {
    let mut api = Api::start().await;
    let post = |body| call("POST", "/v1/zones").json(&body);
    api.note_admin("create", post(json!({"name": "lab", "description": "behind glass"}))).await;
    api.note_admin("again", post(json!({"name": "lab"}))).await;
    api.note_admin("bad name", post(json!({"name": "La b"}))).await;
    api.note_admin("unknown field", post(json!({"name": "b", "policy": {"tenant": []}}))).await;
    let put = |body| call("PUT", "/v1/zones/lab").json(&body);
    let closed = json!({"name": "lab", "policy": {"tenants": ["default"]}});
    api.note_admin("change", put(closed.clone()).header("if-match", "\"1\"")).await;
    api.note_admin("stale", put(closed.clone()).header("if-match", "\"1\"")).await;
    api.note_admin("no tag", put(closed.clone()).header("if-match", "yesterday")).await;
    api.note_admin("renamed", put(json!({"name": "lab2"}))).await;
    api.note_admin("absent", call("PUT", "/v1/zones/none").json(&json!({"name": "none"}))).await;
    api.note_admin("list", call("GET", "/v1/zones")).await;
    api.token("gmu_other", "other", &[Scope::Read]).await;
    api.note("what others see", call("GET", "/v1/zones").token("gmu_other")).await;
    api.note("hidden", call("GET", "/v1/zones/lab").token("gmu_other")).await;
    api.note("not allowed", post(json!({"name": "x"})).token("gmu_other")).await;
    let slot = json!({"cpus_milli": 1, "memory_bytes": 1, "gpus": 1});
    let unknown = put(json!({"name": "lab", "policy": {"slot_max": slot}}));
    assert_eq!(api.admin(unknown).await.json()["errors"][0]["pointer"], "/policy/slot_max/gpus");
    let several = put(closed.clone()).header("if-match", "\"1\", \"2\"");
    assert_eq!(api.admin(several).await.status, 200, "one of several tags is enough");
    let foreign = put(closed.clone()).header("if-match", "W/\"3\", \"abc\"");
    assert_eq!(api.admin(foreign).await.code(), "precondition_failed");
    assert_snapshot!(api.transcript());
}

#[tokio::test]
async fn nodes_are_listed_drained_and_revoked() {
    let mut api = Api::start().await;
    let join = |body| call("POST", "/v1/join-tokens").json(&body);
    let made = api.note_admin("join token", join(json!({"zone": "default", "ttl_ms": 60_000}))).await;
    let made = made.header("location").expect("what was made has a place").to_owned();
    api.note_admin("show the join token", call("GET", &made)).await;
    api.note_admin("too long", join(json!({"zone": "default", "ttl_ms": 900_001}))).await;
    api.note_admin("no such zone", join(json!({"zone": "moon"}))).await;
    let node = api.enroll("grinder").await;
    let path = format!("/v1/nodes/{}", node.id);
    api.note_admin("list", call("GET", "/v1/nodes?zone=default")).await;
    api.note_admin("drain", call("POST", format!("{path}/drain"))).await;
    api.note_admin("drain again", call("POST", format!("{path}/drain"))).await;
    api.note_admin("resume", call("POST", format!("{path}/resume"))).await;
    api.clock.advance_s(31);
    api.note_admin("away", call("GET", &path)).await;
    api.note_admin("revoke", call("POST", format!("{path}/revoke"))).await;
    api.note_admin("resume what is revoked", call("POST", format!("{path}/resume"))).await;
    api.note_admin("absent", call("POST", "/v1/nodes/node_00000000000000000000000000/drain")).await;
    api.token("gmu_reader", "default", &[Scope::Read]).await;
    api.note("not allowed", call("POST", format!("{path}/drain")).token("gmu_reader")).await;
    api.note("not theirs to see", call("GET", &made).token("gmu_reader")).await;
    assert_snapshot!(api.transcript());
}

#[tokio::test]
async fn tenants_and_tokens_are_made_and_taken_back() {
    let mut api = Api::start().await;
    let tenant = |body| call("POST", "/v1/tenants").json(&body);
    api.note_admin("tenant", tenant(json!({"name": "acme", "queue_depth_max": 5}))).await;
    api.note_admin("again", tenant(json!({"name": "acme"}))).await;
    api.note_admin("too deep", tenant(json!({"name": "deep", "queue_depth_max": 100_001}))).await;
    api.note_admin("list", call("GET", "/v1/tenants?page_size=2")).await;
    let token = |body| call("POST", "/v1/tokens").json(&body);
    let made = api
        .note_admin("token", token(json!({"name": "ci", "tenant": "acme", "scopes": ["submit", "read"]})))
        .await;
    let secret = made.json()["secret"].as_str().expect("is shown once").to_owned();
    let place = made.header("location").expect("what was made has a place").to_owned();
    api.note_admin("show it", call("GET", &place)).await;
    api.token("gmu_stranger", "other", &[Scope::Read]).await;
    api.note("not theirs", call("GET", &place).token("gmu_stranger")).await;
    api.note_admin("no such tenant", token(json!({"name": "ci", "tenant": "moon"}))).await;
    api.note_admin("no scope", token(json!({"name": "ci", "scopes": []}))).await;
    api.note("use it", call("GET", "/v1/tenants").token(&secret)).await;
    api.note("more than it has", token(json!({"name": "x", "scopes": ["admin"]})).token(&secret)).await;
    api.note("for somebody else", token(json!({"name": "x", "tenant": "default"})).token(&secret)).await;
    api.note("what it sees", call("GET", "/v1/tokens").token(&secret)).await;
    api.note("not its tenant", call("GET", "/v1/tenants/default").token(&secret)).await;
    let id = made.json()["token"]["id"].as_str().expect("has an id").to_owned();
    api.note_admin("revoke", call("DELETE", format!("/v1/tokens/{id}"))).await;
    api.note("use it after", call("GET", "/v1/tenants").token(&secret)).await;
    api.note_admin("revoke again", call("POST", format!("/v1/tokens/{id}/revoke"))).await;
    assert_snapshot!(api.transcript());
}
