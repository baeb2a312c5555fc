//! What a node does for a job is seen while it lasts.

use std::{process::Stdio, time::Duration};

use gristmill_protocol::{AttemptState, JobState, JobView, WorkPhase};
use gristmill_tests::{cli::Home, cluster::TestCluster, eventually, guests};
use reqwest::{Method, StatusCode, header};

use super::small_job;

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_compilation_that_lasts_is_seen_in_the_api_in_tables_and_on_a_terminal() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("slow", guests::with_functions(1_000)).await.expect("a module");
    let job = api.submit(&small_job("slow")).await.expect("a job");
    let home = Home::default();
    let at = |mut command: std::process::Command| {
        command.env("GRISTMILL_SERVER", &api.url).env("GRISTMILL_TOKEN", &api.token);
        command
    };
    let mut waiting = at(home.terminal_command(120, &["job", "wait", &job.id.to_string()]));
    let waiting = waiting.env("TERM", "xterm").stdout(Stdio::piped()).spawn().expect("there is a `script`");

    let path = format!("/v1/jobs/{}?wait=25s", job.id);
    let tag = std::sync::Mutex::new("\"0\"".to_owned());
    let seen: JobView = eventually("the compilation to be told", LIMIT, || async {
        // Each call waits for a change, so that nothing is polled.
        let asked = api
            .request(Method::GET, &path)
            .header(header::IF_NONE_MATCH, tag.lock().expect("not poisoned").clone());
        let answer = asked.send().await.expect("an answer");
        if answer.status() == StatusCode::NOT_MODIFIED {
            return None;
        }
        let new_tag = answer.headers()[header::ETAG].to_str().expect("text").to_owned();
        *tag.lock().expect("not poisoned") = new_tag;
        let view: JobView = answer.json().await.expect("a job");
        assert!(!view.state.is_terminal(), "it ended unseen: {view:#?}");
        Some(view).filter(|view| view.phase == Some(WorkPhase::Compiling))
    })
    .await;
    assert_eq!(seen.state, JobState::Queued);
    assert!(seen.phase_since.expect("it lasts") >= seen.created_at);
    let attempt = api.attempts(&job.id).await.expect("attempts").remove(0);
    assert_eq!((attempt.state, attempt.phase), (AttemptState::Leased, Some(WorkPhase::Compiling)));
    let listed = at(home.command(["job", "list"])).output().expect("it starts");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("compiling "), "{listed}");

    let ended = api.finished(&job.id, LIMIT).await.expect("an end");
    assert_eq!((ended.state, ended.phase, ended.phase_since), (JobState::Succeeded, None, None));
    let waited = waiting.wait_with_output().expect("it ends");
    let shown = String::from_utf8_lossy(&waited.stdout).into_owned();
    assert!(shown.contains("a node compiles its module, "), "{shown:?}");
}
