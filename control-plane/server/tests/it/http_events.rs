//! Events over HTTP: streams and their long-poll twin.

use std::{sync::Arc, time::Duration};

use gristmill_lifecycle::{Settings, settings::Retention as Ages};
use gristmill_protocol::tenancy::Scope;
use gristmill_server::retention::Retention;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

use crate::{
    backend::Backend as _,
    http_api::{ADMIN, Api, call},
    http_node::leased,
};

async fn submit(api: &Api, spec: &Value) -> String {
    let answer = api.admin(call("POST", "/v1/jobs").json(spec)).await;
    assert_eq!(answer.status, 201, "{:?}", answer.json());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn cancel(api: &Api, job: &str) {
    assert_eq!(api.admin(call("POST", format!("/v1/jobs/{job}/cancel"))).await.status, 200);
}

/// The long poll, which is to have nothing to wait for.
async fn list(api: &Api, query: &str) -> Value {
    let answer = api.admin(call("GET", format!("/v1/events?{query}"))).await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    answer.json()
}

fn events(view: &Value) -> Vec<Value> {
    view["events"].as_array().expect("events").clone()
}

async fn api() -> Api {
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    api
}

#[tokio::test]
async fn a_stream_and_the_long_poll_tell_the_same_events() {
    let api = api().await;
    let head = list(&api, "").await;
    assert_eq!(head, json!({"events": [], "next": 0}));
    let mut stream = api.stream(call("GET", "/v1/events").token(ADMIN)).await;
    let first = submit(&api, &json!({"module": "mill"})).await;
    cancel(&api, &first).await;
    let polled = events(&list(&api, "after=0").await);
    assert_eq!(polled.len(), 3);
    for expected in &polled {
        let message = stream.message().await.expect("a message");
        assert_eq!(&message.json(), expected);
        assert_eq!(message.id, Some(expected["id"].to_string()));
        assert_eq!(message.event.as_deref(), expected["kind"].as_str());
    }
    assert_eq!(
        (&polled[0]["kind"], &polled[0]["state"], &polled[0]["tenant"], &polled[0]["job"]),
        (&json!("job_submitted"), &json!("queued"), &json!("default"), &json!(first))
    );
    assert_eq!(
        (&polled[2]["kind"], &polled[2]["from"], &polled[2]["state"], &polled[2]["reason"]),
        (&json!("job_finished"), &json!("queued"), &json!("cancelled"), &json!("cancelled_by_user"))
    );
    let again = call("GET", "/v1/events?after=0").header("last-event-id", polled[1]["id"].to_string());
    let message = api.stream(again.token(ADMIN)).await.message().await.expect("a message");
    assert_eq!(message.json(), polled[2], "the header outweighs the address");
}

#[tokio::test]
async fn a_long_poll_is_answered_with_the_event_that_it_waits_for() {
    let api = Arc::new(api().await);
    let holders = Arc::strong_count(&api.app);
    let waiting = {
        let api = api.clone();
        TaskTracker::new().spawn(async move { list(&api, "after=0&wait=50s").await })
    };
    // The call and its reader.
    while Arc::strong_count(&api.app) < holders + 2 {
        tokio::task::yield_now().await;
    }
    let job = submit(&api, &json!({"module": "mill"})).await;
    let told = waiting.await.expect("an answer");
    assert_eq!(events(&told)[0]["job"], json!(job));
    assert_eq!(told["next"], events(&told)[0]["id"]);
    assert_eq!(list(&api, &format!("after={}&wait=10ms", told["next"])).await["events"], json!([]));
}

#[tokio::test]
async fn filters_choose_and_the_position_still_moves_on() {
    let api = api().await;
    api.publish("other", "1.0.0").await;
    let node = api.enroll("grinder").await;
    let labelled = submit(&api, &json!({"module": "other", "labels": {"disk": "fast"}})).await;
    cancel(&api, &labelled).await;
    let lease = leased(&api, &node, &json!({"module": "mill"})).await;
    let all = list(&api, "after=0").await;
    let ids = |view: &Value| events(view).iter().map(|event| event["id"].as_u64().expect("an id")).collect();
    let check = async |query: &str, expected: &[u64]| {
        let view = list(&api, &format!("after=0&{query}")).await;
        let found: Vec<u64> = ids(&view);
        assert_eq!(found, expected, "{query}: {view:#?}");
        assert_eq!(view["next"], all["next"], "{query}");
    };
    assert_eq!(ids(&all), [1, 2, 3, 4, 5]);
    check(&format!("job={labelled}"), &[1, 2, 3]).await;
    check(&format!("job={}", lease.job), &[4, 5]).await;
    check("module=mill", &[4, 5]).await;
    check("label=disk:fast", &[1, 2, 3]).await;
    check("label=disk:slow", &[]).await;
    check("zone=default", &[5]).await;
    check("kind=job_submitted,attempt_leased", &[1, 4, 5]).await;
    check("state=leased", &[5]).await;
    check(&format!("state=queued&module=other&job={labelled}"), &[1]).await;
    for wrong in
        ["kind=lost", "state=dead", "label=x", "job=1", "after=-1", "limit=3", "page_size=0", "wait=soon"]
    {
        let answer = api.admin(call("GET", format!("/v1/events?{wrong}"))).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"), "{wrong}");
    }
    let odd = call("GET", "/v1/events").header("last-event-id", "12-7");
    assert_eq!(api.admin(odd).await.code(), "invalid_request");
}

#[tokio::test]
async fn a_tenant_hears_of_its_own_jobs_alone_and_an_operator_of_all() {
    let api = api().await;
    api.token("gmu_user", "default", &[Scope::Read]).await;
    api.token("gmu_other", "other", &[Scope::Read]).await;
    api.token("gmu_blind", "default", &[Scope::Submit]).await;
    let as_token = |token: &str| call("GET", "/v1/events?after=0").token(token);
    let (mut user, mut other) =
        (api.stream(as_token("gmu_user")).await, api.stream(as_token("gmu_other")).await);
    let job = submit(&api, &json!({"module": "mill"})).await;
    assert_eq!(user.message().await.expect("told").json()["job"], json!(job));
    let hidden = api.send(as_token("gmu_other")).await.json();
    assert_eq!(hidden["events"], json!([]));
    let by_id = call("GET", format!("/v1/events?after=0&job={job}")).token("gmu_other");
    assert_eq!(api.send(by_id).await.json()["events"], json!([]));
    api.token(
        "gmu_owner",
        "other",
        Scope::ALL.iter().copied().filter(|s| *s != Scope::Admin).collect::<Vec<_>>().as_slice(),
    )
    .await;
    let put = call("PUT", "/v1/modules/mine/versions/1.0.0").bytes(crate::http_api::command());
    assert_eq!(api.send(put.token("gmu_owner")).await.status, 201);
    let own = api.send(call("POST", "/v1/jobs").json(&json!({"module": "mine"})).token("gmu_owner")).await;
    let told = other.message().await.expect("told").json();
    assert_eq!((&told["job"], &told["tenant"]), (&own.json()["id"], &json!("other")));
    assert_eq!(events(&list(&api, "after=0").await).len(), 2);
    assert_eq!(api.send(as_token("gmu_blind")).await.code(), "forbidden");
    assert_eq!(api.send(call("GET", "/v1/events")).await.code(), "unauthenticated");
}

#[tokio::test]
async fn events_that_are_gone_are_named_with_the_oldest_that_is_kept() {
    let mut api = api().await;
    for _ in 0..5 {
        submit(&api, &json!({"module": "mill"})).await;
    }
    api.backend().run("DROP TRIGGER events_are_kept").await.expect("dropped");
    api.backend().run("DELETE FROM events WHERE seq <= 3").await.expect("deleted");
    api.note_admin("gone", call("GET", "/v1/events?after=2")).await;
    api.note_admin("not there yet", call("GET", "/v1/events?after=6").header("accept", "text/event-stream"))
        .await;
    insta::assert_snapshot!(api.transcript());
    for fits in [0, 3] {
        assert_eq!(events(&list(&api, &format!("after={fits}")).await)[0]["id"], 4);
    }
}

#[tokio::test]
async fn who_goes_on_before_a_purged_event_is_refused_and_who_goes_on_after_it_misses_nothing() {
    let age = Duration::from_secs(100);
    let retention = Ages { job_ttl: age, log_ttl: age, event_ttl: age, ..Ages::default() };
    let settings = Settings { retention, idempotency_ttl: age, ..Settings::default() };
    let api = Api::start_with(settings).await;
    api.publish("mill", "1.0.0").await;
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(submit(&api, &json!({"module": "mill"})).await);
    }
    cancel(&api, &jobs[1]).await;
    // The first two events are of jobs 0 and 1; the last two, 5 and 6, end job 1.
    api.clock.advance(age + Duration::from_secs(1));
    Retention::default().round(&api.app).await;
    assert_eq!(api.admin(call("GET", format!("/v1/jobs/{}", jobs[1]))).await.status, 404);
    let later = submit(&api, &json!({"module": "mill"})).await;
    for after in [1, 2, 5] {
        let polled = api.admin(call("GET", format!("/v1/events?after={after}"))).await;
        assert_eq!((polled.status.as_u16(), polled.code().as_str()), (410, "events_gone"), "{after}");
        let stream = call("GET", "/v1/events").header("accept", "text/event-stream");
        let streamed = api.admin(stream.header("last-event-id", after.to_string())).await;
        assert_eq!((streamed.status.as_u16(), streamed.code().as_str()), (410, "events_gone"), "{after}");
    }
    for after in [0, 6] {
        let view = list(&api, &format!("after={after}")).await;
        let told: Vec<_> = events(&view).into_iter().map(|event| event["job"].clone()).collect();
        assert_eq!(told, [json!(later)], "{view:#?}");
        let resumed = call("GET", "/v1/events?after=0").header("last-event-id", after.to_string());
        let message = api.stream(resumed.token(ADMIN)).await.message().await.expect("a message");
        assert_eq!(message.json()["job"], json!(later));
    }
    // A job that is kept has all its events, and a reader of it is never refused.
    let own = list(&api, &format!("after=0&job={}", jobs[0])).await;
    assert_eq!((events(&own).len(), &events(&own)[0]["id"]), (1, &json!(1)));
    assert_eq!(events(&list(&api, &format!("after=1&job={}", jobs[0])).await), Vec::<Value>::new());
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_and_says_how_far_it_is() {
    let keep_alive = Duration::from_millis(20);
    let api = Api::start_with(Settings { stream_keep_alive: keep_alive, ..Settings::default() }).await;
    api.publish("mill", "1.0.0").await;
    let mut stream = api.stream(call("GET", "/v1/events?kind=job_retried&after=0").token(ADMIN)).await;
    submit(&api, &json!({"module": "mill"})).await;
    loop {
        let comment = stream.next().await.expect("a comment");
        assert_eq!((comment.data, comment.comment.as_deref()), (None, Some("keep-alive")));
        if comment.id.as_deref() == Some("1") {
            break;
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_with_the_server() {
    let keep_alive = Duration::from_millis(20);
    let api = Api::start_with(Settings { stream_keep_alive: keep_alive, ..Settings::default() }).await;
    let token = api.token("gmu_short", "default", &[Scope::Read]).await;
    let mut revoked = api.stream(call("GET", "/v1/events").token("gmu_short")).await;
    let mut stream = api.stream(call("GET", "/v1/events").token(ADMIN)).await;
    assert_eq!(api.admin(call("DELETE", format!("/v1/tokens/{token}"))).await.status, 200);
    let mut last = None;
    while let Some(message) = revoked.next().await {
        last = message.comment;
    }
    assert_eq!(last.as_deref(), Some("the token is no longer valid"));
    assert!(stream.next().await.is_some());
    api.app.shutdown.cancel();
    while let Some(message) = stream.next().await {
        last = message.comment;
    }
    assert_eq!(last.as_deref(), Some("the server stops; connect again with Last-Event-ID"));
}

#[tokio::test]
async fn a_slow_client_is_cut_in_words_and_goes_on_where_it_was() {
    let slow = Duration::from_secs(1);
    let api = Api::start_with(Settings { stream_slow_max: slow, ..Settings::default() }).await;
    api.publish("mill", "1.0.0").await;
    for _ in 0..3 {
        submit(&api, &json!({"module": "mill"})).await;
    }
    let mut stream = api.stream(call("GET", "/v1/events?after=0").token(ADMIN)).await;
    let first = stream.message().await.expect("a message");
    // The client does not read for longer than it may.
    tokio::time::sleep(slow + slow / 2).await;
    let mut rest = Vec::new();
    while let Some(message) = stream.next().await {
        rest.push(message);
    }
    let cut = rest.pop().expect("a last message").comment.expect("a comment");
    assert!(cut.starts_with("cut: the client was too slow"), "{cut}");
    let seen = rest.last().and_then(|message| message.id.clone()).or(first.id).expect("an id");
    let resumed = call("GET", "/v1/events").header("last-event-id", seen.clone()).token(ADMIN);
    let next = api.stream(resumed).await.message().await.expect("a message");
    assert_eq!(next.id, seen.parse().map(|id: u64| (id + 1).to_string()).ok());
}

/// Reads a stream or the long poll, breaking off at random, until an event of `last` has come.
async fn read_with_breaks(api: &Api, seed: u64, query: &str, last: &str) -> Vec<Value> {
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut told, mut position) = (Vec::<Value>::new(), 0);
    let is_over = |told: &[Value]| told.last().is_some_and(|event| event["job"] == last);
    while !is_over(&told) {
        if dice.random_bool(0.3) {
            let size = dice.random_range(1..20);
            let view = list(api, &format!("after={position}&page_size={size}&wait=1s&{query}")).await;
            told.extend(events(&view));
            position = view["next"].as_u64().expect("a position");
            continue;
        }
        let request =
            call("GET", format!("/v1/events?after=0&{query}")).header("last-event-id", position.to_string());
        let mut stream = api.stream(request.token(ADMIN)).await;
        for _ in 0..dice.random_range(0..30) {
            let message = stream.next().await.expect("the stream goes on");
            position = message.id.as_deref().map_or(position, |id| id.parse().expect("a number"));
            if message.data.is_some() {
                told.push(message.json());
            }
            if is_over(&told) {
                break;
            }
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_break_off_at_random_see_every_event_once_in_order() {
    let settings = Settings { stream_keep_alive: Duration::from_millis(5), ..Settings::default() };
    let api = Arc::new(Api::start_with(settings).await);
    api.publish("mill", "1.0.0").await;
    let last = gristmill_protocol::JobId::from_parts(1, [9; 10]);
    let readers: Vec<_> = ["", "", "state=cancelled,queued", "module=mill", "kind=job_submitted,job_retried"]
        .into_iter()
        .enumerate()
        .map(|(seed, query)| {
            let api = api.clone();
            let last = last.to_string();
            TaskTracker::new()
                .spawn(async move { (query, read_with_breaks(&api, seed as u64, query, &last).await) })
        })
        .collect();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let api = api.clone();
            TaskTracker::new().spawn(async move {
                for n in 0..40 {
                    let job = submit(&api, &json!({"module": "mill"})).await;
                    if n % 3 == 0 {
                        cancel(&api, &job).await;
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("the writer ends");
    }
    let mut command = crate::commands::submit(1);
    (command.id, command.tenant) = (last, "default".into());
    command.document = r#"{"module":{"name":"mill"},"spec":{"labels":{}}}"#.into();
    api.app.store.job_submit(command).await.expect("accepted");
    let all = events(&list(&api, "after=0").await);
    assert_eq!(all.len(), 4 * (40 + 14 * 2) + 1);
    for reader in readers {
        let (query, seen) = reader.await.expect("the reader ends");
        let expected: Vec<_> = all
            .iter()
            .filter(|event| !query.starts_with("kind") || event["kind"] == "job_submitted")
            .cloned()
            .collect();
        assert_eq!(seen, expected, "{query}");
    }
}
