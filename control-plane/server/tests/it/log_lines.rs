//! What an operator finds in the log at the default level, with the fields that lead from one line to
//! the other.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gristmill_server::{ops, retention::Retention, sweep::Sweep};
use serde_json::json;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::http_api::{Api, call};

/// The fields of a line, its text as `message` and those of its span among them.
type Line = BTreeMap<String, String>;

#[derive(Default)]
struct State {
    spans: Vec<Line>,
    entered: Vec<u64>,
    lines: Vec<Line>,
}

/// Keeps what is logged from `info` up by one thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<State>>);

struct Fields<'a>(&'a mut Line);

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Log {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The lines with this text, which are taken out.
    fn take(&self, message: &str) -> Vec<Line> {
        self.with(|state| {
            let lines = std::mem::take(&mut state.lines);
            let (found, rest) = lines.into_iter().partition(|line| line["message"] == message);
            state.lines = rest;
            found
        })
    }

    #[track_caller]
    fn only(&self, message: &str) -> Line {
        let mut found = self.take(message);
        assert_eq!(
            found.len(),
            1,
            "{message}: {found:?}, beside {:?}",
            self.with(|state| state.lines.clone())
        );
        found.remove(0)
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("gristmill")
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut fields = Line::new();
        attributes.record(&mut Fields(&mut fields));
        self.with(|state| {
            state.spans.push(fields);
            span::Id::from_u64(state.spans.len() as u64)
        })
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.with(|state| {
            let innermost = state.entered.last().map(|id| state.spans[*id as usize - 1].clone());
            let mut line = innermost.unwrap_or_default();
            event.record(&mut Fields(&mut line));
            state.lines.push(line);
        });
    }

    fn enter(&self, span: &span::Id) {
        self.with(|state| state.entered.push(span.into_u64()));
    }

    fn exit(&self, span: &span::Id) {
        self.with(|state| {
            let last = state.entered.iter().rposition(|entered| *entered == span.into_u64());
            if let Some(last) = last {
                state.entered.remove(last);
            }
        });
    }
}

fn acquire() -> crate::http_api::Call {
    call("POST", "/v1/node/leases/acquire").json(&json!({
        "incarnation": "a", "cpus_milli_free": 4000, "memory_bytes_free": 17_179_869_184_u64,
        "leases_max": 1, "wait_ms": 0,
    }))
}

// All tasks of this test are on this thread, and so is the log.
#[tokio::test]
async fn at_the_default_level_the_log_tells_a_jobs_way_and_who_comes_and_goes() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let api = Api::start().await;
    api.publish("mill", "1.0.0").await;
    let node = api.enroll("grinder").await;
    let id = node.id.to_string();
    let enrolled = log.only("a node is enrolled");
    assert_eq!((&enrolled["node"], enrolled["zone"].as_str()), (&id, "default"));
    let mut sweep = Sweep::default();
    sweep.round(&api.app).await;
    assert_eq!(log.only("a node is there")["node"], id);

    let submitted = api.admin(call("POST", "/v1/jobs").json(&json!({"module": "mill"}))).await;
    let job = submitted.json()["id"].as_str().expect("an id").to_owned();
    let accepted = log.only("the job was accepted");
    assert_eq!(accepted["job"], job);
    assert_eq!(Some(accepted["request_id"].as_str()), submitted.header("x-request-id"));
    assert_eq!(accepted["trace_id"].len(), 32, "{accepted:?}");

    api.signed(&node, acquire()).await;
    api.clock.advance(Duration::from_secs(31));
    ops::expire_leases(&api.app).await.expect("leases");
    for (message, state) in [("a lease ran out", "lost"), ("the job waits again", "queued")] {
        let line = log.only(message);
        let found = [&line["job"], &line["attempt"], &line["node"], &line["zone"], &line["state"]];
        assert_eq!(found, [&job, "1", &id, "default", state], "{line:?}");
        assert_eq!(line["reason"], "lease_expired");
    }
    // A round that is late extends leases; the node is away all the same.
    sweep.round(&api.app).await;
    assert_eq!(log.only("a node is away")["node"], id);

    api.clock.advance(Duration::from_mins(10));
    ops::sweep_jobs(&api.app, gristmill_lifecycle::command::JobDue::Backoff).await.expect("jobs");
    let lease = api.signed(&node, acquire()).await.json()["leases"][0].clone();
    let update = json!({"updates": [{
        "job": job, "attempt": 2, "lease_token": lease["lease_token"],
        "change": {"kind": "finished", "outcome": {"state": "failed", "reason": "exit_code", "exit_code": 3}, "outputs": []},
    }]});
    let told = api.signed(&node, call("POST", "/v1/node/updates").json(&update)).await.json();
    assert_eq!(told["verdicts"][0], "accepted", "{told}");
    let ended = log.only("the job ended");
    let found = [&ended["job"], &ended["attempt"], &ended["node"], &ended["state"], &ended["reason"]];
    assert_eq!(found, [&job, "2", &id, "failed", "exit_code"], "{ended:?}");

    // What nodes do all the time is not told: no line for asking, renewing or reporting.
    let requests = log.take("request");
    assert!(requests.iter().all(|line| line["route"] == "/v1/node/enroll" || !line.contains_key("node")));
}

#[tokio::test]
async fn refused_logins_and_what_was_removed_are_told() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let api = Api::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let refused = api.send(call("GET", "/v1/jobs").token("gmu_guessed")).await;
        assert_eq!(refused.code(), "unauthenticated");
        ids.push(refused.header("x-request-id").expect("an id").to_owned());
    }
    let denied = log.only("a request was denied");
    assert_eq!((&denied["request_id"], denied["code"].as_str()), (&ids[0], "unauthenticated"));

    api.admin(call("POST", "/v1/tenants").json(&json!({"name": "third"}))).await;
    api.clock.advance(Duration::from_hours(2 * 366 * 24));
    Retention::default().round(&api.app).await;
    let removed = log.only("what is kept no longer was removed");
    assert_eq!((removed["duty"].as_str(), removed["count"].as_str()), ("purge_audit", "1"));
}
