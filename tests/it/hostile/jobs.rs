//! Jobs that flood, forge and spy, on one server and node. Each ends with its reason, nothing of the host
//! is told, and honest jobs go on.

use std::time::{Duration, Instant};

use gristmill_protocol::{AttemptState, JobId, JobState, JobView, Reason};
use gristmill_tests::{
    api::Api,
    cli::Home,
    cluster::TestCluster,
    eventually,
    guests::{computes, spins_for_ever},
    process::{Process, children_running, cpu_ticks},
    repository,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::guests;
use crate::e2e::{run_at, small_job};

const LIMIT: Duration = Duration::from_secs(120);

/// Everything that a terminal or a log reader might obey.
const EVIL_TEXT: &[u8] = b"\x1b[2J\x1b]52;c;ZXZpbA==\x07\x1b]0;title\x07\r\nover\rwritten\x08\x08\x00\x7f\
    \xe2\x80\xaegpj.exe\xe2\x80\xac\xff\xfe\xc3\x28 ##done\n{\"level\":\"error\",\"message\":\"forged\"}\n\
    <script>alert(1)</script>\ngristmill: succeeded; exit code 0\n";

struct Mill {
    cluster: TestCluster,
    node: Process,
    home: Home,
}

impl Mill {
    fn api(&self) -> &Api {
        &self.cluster.api
    }

    async fn ended(&self, module: &str, wasm: Vec<u8>) -> JobView {
        self.api().publish(module, wasm).await.expect("a module");
        let job = self.api().submit(&small_job(module)).await.expect("a job");
        self.api().finished(&job.id, LIMIT).await.expect("it ends")
    }

    /// What the command line prints about something, as text.
    fn shown(&self, args: &[&str]) -> String {
        let ended = tokio::task::block_in_place(|| run_at(&self.cluster, &self.home, &self.api().url, args));
        format!("{}{}", ended.text(), ended.stderr)
    }
}

/// Insists that a text does nothing to a terminal and forges no line.
#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    let dangerous =
        |c: char| (c.is_control() && c != '\n' && c != '\t') || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(dangerous), "{what}: {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("forged")), "{what}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_jobs_end_with_their_reasons_and_honest_ones_go_on() {
    let (cluster, node) = TestCluster::with_node().await;
    let mut mill = Mill { cluster, node, home: Home::default() };
    tokio::join!(
        h57_outputs_with_evil_names_are_listed_and_fetched_as_they_are(&mill),
        h60_escape_sequences_are_kept_raw_and_shown_inert(&mill),
        h63_a_forged_end_is_only_text(&mill),
        h19_a_module_whose_import_has_another_type_is_published_and_ends_as_a_link_error(&mill),
    );
    h59_a_flood_of_output_slows_a_neighbour_no_more_than_quiet_work_does(&mill).await;
    h59_a_flood_ends_at_its_limit_and_the_cut_is_told(&mill).await;
    h82_guests_have_clocks_and_two_tenants_never_share_a_process(&mill).await;
    assert!(mill.node.is_alive() && mill.cluster.server.is_alive());
    for (name, log) in [("node", mill.node.log()), ("server", mill.cluster.server.log())] {
        assert_harmless(name, &log);
        assert!(!log.contains("panicked"), "{name}: {log}");
    }
}

async fn h19_a_module_whose_import_has_another_type_is_published_and_ends_as_a_link_error(mill: &Mill) {
    let ended = mill.ended("wrong-type", guests::imports_another_type()).await;
    assert_eq!((ended.state, ended.reason), (JobState::Failed, Some(Reason::LinkError)), "{ended:#?}");
    assert!(ended.message.is_some_and(|message| message.contains("proc_exit") && !message.contains("/home")));
    assert_eq!(ended.attempt, 1, "it is not tried again");
}

async fn h57_outputs_with_evil_names_are_listed_and_fetched_as_they_are(mill: &Mill) {
    let mut names =
        ["con", "a\nb", "<b>x<script>", "..x", "%2e%2e", "q?w#e", "esc\u{1b}[31m", "\u{202e}gpj", " "];
    names.sort_unstable();
    let ended = mill.ended("names", guests::makes_outputs(&names)).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    let listed = mill.api().outputs(&ended.id).await.expect("the outputs").outputs;
    let mut found: Vec<_> = listed.iter().map(|output| output.path.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, names);
    let id = ended.id.to_string();
    assert_harmless("outputs", &mill.shown(&["job", "outputs", &id]));
    mill.shown(&["job", "outputs", &id, "--out", "fetched"]);
    for name in names {
        let path = mill.home.path().join("fetched").join(name);
        assert_eq!(std::fs::read(path).expect("the output"), name.as_bytes(), "{name:?}");
        let encoded: String = name.bytes().flat_map(|byte| ["%".to_owned(), hex::encode([byte])]).collect();
        let request = mill.api().request(Method::GET, &format!("/v1/jobs/{id}/outputs/{encoded}"));
        let answer = request.send().await.expect("an answer");
        let header =
            |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap_or("").to_owned());
        assert_eq!(answer.status(), 200, "{name:?}");
        assert_eq!(header("content-type").as_deref(), Some("application/octet-stream"));
        let disposition = header("content-disposition").unwrap_or_default();
        assert!(disposition.starts_with("attachment; filename=\""), "{disposition}");
        let inert = |c: char| c.is_ascii_alphanumeric() || "; =\"*'%._-".contains(c);
        assert!(disposition.chars().all(inert), "the name is encoded: {disposition}");
        assert_eq!(disposition.matches('"').count(), 2, "nothing ends the name early: {disposition}");
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"));
    }
}

async fn h60_escape_sequences_are_kept_raw_and_shown_inert(mill: &Mill) {
    let ended = mill.ended("evil-text", guests::says(EVIL_TEXT, 0)).await;
    let id = ended.id.to_string();
    assert_harmless("job get", &mill.shown(&["job", "get", &id]));
    h61_markup_is_text(mill, &ended.id).await;
    h62_bytes_that_are_no_text_are_kept(mill, &ended.id).await;
    // The name of a function reaches the job's message.
    let name = "f\u{1b}]0;owned\u{7}\nforged: line\r\u{202e}<script>";
    let ended = mill.ended("evil-name", guests::traps_in(name)).await;
    assert_eq!(ended.reason, Some(Reason::Trap), "{ended:#?}");
    assert!(ended.message.as_deref().is_some_and(|message| message.contains("owned")), "{ended:#?}");
    let id = ended.id.to_string();
    for args in [&["job", "get", &id][..], &["job", "list"], &["run", "evil-name"], &["job", "wait", &id]] {
        assert_harmless(args[0], &mill.shown(args));
    }
}

async fn h61_markup_is_text(mill: &Mill, id: &JobId) {
    for stream in ["stdout", "stderr"] {
        let request =
            mill.api().request(Method::GET, &format!("/v1/jobs/{id}/attempts/1/logs?stream={stream}"));
        let answer = request.send().await.expect("an answer");
        let header =
            |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap_or("").to_owned());
        let kind = header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/plain") || kind == "application/octet-stream", "{kind}");
        assert_eq!(header("x-content-type-options").as_deref(), Some("nosniff"));
        assert_eq!(header("content-disposition").as_deref(), Some("attachment"));
    }
    // Names that people choose come back as JSON, and only where such a name is allowed.
    let named = json!({"module": "<script>alert(1)</script>"});
    let request = mill.api().request(Method::POST, "/v1/jobs").json(&named);
    let answer = request.send().await.expect("an answer");
    let kind = answer.headers().get("content-type").and_then(|value| value.to_str().ok()).map(str::to_owned);
    assert!(answer.status().is_client_error());
    assert_eq!(kind.as_deref(), Some("application/problem+json"));
}

async fn h62_bytes_that_are_no_text_are_kept(mill: &Mill, id: &JobId) {
    for stream in ["stdout", "stderr"] {
        assert_eq!(mill.api().log(id, 1, stream).await.expect("the log"), EVIL_TEXT, "{stream}");
    }
}

async fn h63_a_forged_end_is_only_text(mill: &Mill) {
    let forged =
        b"##done\n##[endgroup]\n\0\0\0\x10{\"End\":{\"outcome\":{\"state\":\"succeeded\"}}}\nexit code 0\n";
    let ended = mill.ended("forger", guests::says(forged, 3)).await;
    assert_eq!((ended.state, ended.reason), (JobState::Failed, Some(Reason::ExitCode)), "{ended:#?}");
    assert_eq!(ended.exit_code, Some(3));
    assert_eq!(mill.api().log(&ended.id, 1, "stdout").await.expect("the log"), forged);
}

/// Starts a job with so much room for its log, and returns when it runs.
async fn runs(api: &Api, module: &str, log_bytes: u64) -> JobId {
    let mut spec = small_job(module);
    spec.limits.log_bytes = Some(log_bytes);
    let id = api.submit(&spec).await.expect("a job").id;
    let running =
        || async { api.job(&id).await.ok().filter(|job| job.state == JobState::Running).map(|_| ()) };
    eventually("the job to run", LIMIT, running).await;
    id
}

async fn cancelled(api: &Api, id: &JobId) {
    api.cancel(id).await.expect("a cancel");
    let ended = api.finished(id, LIMIT).await.expect("it ends");
    assert_eq!(ended.state, JobState::Cancelled, "{ended:#?}");
}

async fn h59_a_flood_of_output_slows_a_neighbour_no_more_than_quiet_work_does(mill: &Mill) {
    /// More than a flood writes here, so that it never becomes quiet.
    const FLOOD_BYTES: u64 = 4 << 30;
    let api = mill.api();
    api.publish("flood", guests::floods()).await.expect("a module");
    api.publish("quiet", spins_for_ever()).await.expect("a module");
    api.publish("honest", computes(50_000_000)).await.expect("a module");
    // In turn, so that whatever else this machine does slows both.
    let mut times = [Duration::ZERO; 2];
    for _ in 0..4 {
        for (time, neighbour) in times.iter_mut().zip(["quiet", "flood"]) {
            let others = [runs(api, neighbour, FLOOD_BYTES).await, runs(api, neighbour, FLOOD_BYTES).await];
            for _ in 0..3 {
                let began = Instant::now();
                let job = api.submit(&small_job("honest")).await.expect("a job");
                let ended = api.finished(&job.id, LIMIT).await.expect("it ends");
                assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
                *time += began.elapsed();
            }
            for id in &others {
                let attempt = &api.attempts(id).await.expect("the attempts")[0];
                assert_eq!(attempt.state, AttemptState::Running, "{attempt:#?}");
                cancelled(api, id).await;
                let attempt = &api.attempts(id).await.expect("the attempts")[0];
                let bytes = attempt.stdout_bytes + attempt.stderr_bytes;
                println!("{neighbour}: {bytes} bytes");
                assert!(!attempt.log_truncated, "it spoke all the time: {attempt:#?}");
                assert_eq!(neighbour == "flood", bytes > 256 << 10, "{neighbour}: {bytes} bytes");
            }
        }
    }
    let [quiet, flood] = times;
    println!("honest jobs: {quiet:?} beside quiet ones, {flood:?} beside floods");
    assert!(flood < quiet * 3, "{flood:?} beside floods, {quiet:?} beside quiet ones");
}

async fn h59_a_flood_ends_at_its_limit_and_the_cut_is_told(mill: &Mill) {
    let api = mill.api();
    let id = runs(api, "flood", 4 << 20).await;
    eventually("the flood to reach its limit", LIMIT, || async {
        let attempts = api.attempts(&id).await.ok()?;
        (attempts[0].stdout_bytes + attempts[0].stderr_bytes == 4 << 20).then_some(())
    })
    .await;
    cancelled(api, &id).await;
    let attempt = &api.attempts(&id).await.expect("the attempts")[0];
    assert!(attempt.log_truncated, "the cut is told: {attempt:#?}");
    assert!(attempt.stdout_bytes + attempt.stderr_bytes <= 4 << 20, "{attempt:#?}");
}

/// The process in which a tenant's guest computes: that of the node's which uses CPU time meanwhile.
async fn process_of(mill: &Mill, api: &Api) -> u32 {
    let id = runs(api, "clock", 0).await;
    let used = || {
        let all = children_running(mill.node.pid(), "executor").into_iter();
        all.filter_map(|pid| Some((pid, cpu_ticks(pid)?))).collect::<Vec<_>>()
    };
    let before = used();
    let busy = eventually("a process to compute", LIMIT, || async {
        let grown = |pid, ticks| {
            let known = before.iter().find(|(of, _)| *of == pid);
            ticks - known.map_or(0, |(_, ticks)| *ticks)
        };
        let mut busy = used().into_iter().filter(|&(pid, ticks)| grown(pid, ticks) >= 20);
        let found = busy.next();
        assert!(busy.next().is_none(), "one guest computes, in one process");
        found
    })
    .await;
    cancelled(api, &id).await;
    busy.0
}

async fn h82_guests_have_clocks_and_two_tenants_never_share_a_process(mill: &Mill) {
    // That guests can time what they share with their neighbours is documented, not prevented.
    let told = std::fs::read_to_string(repository().join("SECURITY.md")).expect("is there");
    let side_channels = told.split("- **Side channels.**").nth(1).expect("an entry");
    assert!(side_channels.split("\n- **").next().is_some_and(|entry| entry.contains("have clocks")));

    let api = mill.api();
    let _: Value = api.post("/v1/tenants", &json!({"name": "rival"})).await.expect("a tenant");
    let made: Value =
        api.post("/v1/tokens", &json!({"name": "rival", "tenant": "rival"})).await.expect("a token");
    let rival = Api::new(&api.url, made["secret"].as_str().expect("a secret"));
    for tenant in [api, &rival] {
        tenant.publish("clock", guests::looks_at_the_clock()).await.expect("a module");
    }
    // Each finds a process of the other one idle, which just served the same module.
    let mut served = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (number, tenant) in [api, &rival].into_iter().enumerate() {
            let idle = children_running(mill.node.pid(), "executor");
            let pid = process_of(mill, tenant).await;
            let foreign = &served[1 - number];
            assert!(!foreign.contains(&pid), "{pid} served another tenant: {foreign:?}");
            if let Some(last) = foreign.last() {
                assert!(idle.contains(last), "{last} could have been taken, of {idle:?}");
            }
            served[number].push(pid);
        }
    }
    println!("processes of two tenants: {served:?}");
    let again = served.iter().any(|pids| pids.windows(2).any(|pair| pair[0] == pair[1]));
    assert!(again, "a tenant's own are used again: {served:?}");
}
