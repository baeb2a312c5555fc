//! Whoever follows events or a log gets everything once and in order, whatever breaks meanwhile.

use std::time::Duration;

use gristmill_protocol::{JobId, JobState};
use gristmill_tests::{
    api::Api,
    checker,
    cluster::{NodeOptions, TestCluster},
    eventually, guests,
    stream::Stream,
};
use serde_json::Value;
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

use tokio_util::task::TaskTracker;

use super::{RECOVERY, small_job};

const PAUSE: Duration = Duration::from_millis(20);

/// Numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// How a reader reads.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Stream,
    Poll,
    Both,
}

/// Follows all events until the last one of a job, breaking off at random; a server that is away is
/// asked again.
async fn follow_events(api: Api, by: By, seed: u64, last: JobId) -> Vec<Value> {
    let mut dice = Dice(seed);
    let (mut told, mut position) = (Vec::<Value>::new(), 0_u64);
    let is_last = |event: &Value| event["kind"] == "job_finished" && event["job"] == last.to_string();
    while !told.last().is_some_and(is_last) {
        if by == By::Poll || (by == By::Both && dice.below(2) == 0) {
            let size = 1 + dice.below(50);
            let path = format!("/v1/events?after={position}&page_size={size}&wait=2s");
            match api.get::<Value>(&path).await {
                Ok(mut view) => {
                    position = view["next"].as_u64().expect("where to go on");
                    told.append(view["events"].as_array_mut().expect("events"));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
            continue;
        }
        let id = position.to_string();
        let Ok(mut stream) = Stream::open(&api, "/v1/events?after=0", Some(&id)).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        for _ in 0..=dice.below(60) {
            let Ok(message) = stream.next().await else { break };
            if let Some(id) = message.id {
                position = id.parse().expect("a number");
            }
            told.extend(message.data);
            if told.last().is_some_and(is_last) {
                break;
            }
        }
    }
    told
}

/// Numbers and kinds of all events, as they are in the database.
async fn recorded(cluster: &TestCluster) -> Vec<(u64, String)> {
    let options =
        SqliteConnectOptions::new().filename(cluster.data_dir().join("gristmill.db")).read_only(true);
    let mut reader = SqliteConnection::connect_with(&options).await.expect("the database opens");
    let rows = sqlx::query("SELECT seq, kind FROM events ORDER BY seq").fetch_all(&mut reader).await;
    let row = |row: &sqlx::sqlite::SqliteRow| (row.get::<i64, _>(0).unsigned_abs(), row.get(1));
    rows.expect("the events").iter().map(row).collect()
}

/// Submits a job; a server that is away is asked again.
async fn submit(api: &Api, module: &str, key: &str) -> JobId {
    eventually("the job to be accepted", RECOVERY, || async {
        api.submit_with_key(&small_job(module), key).await.ok().map(|job| job.id)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_every_event_once_in_order_over_broken_connections_and_kills_of_the_server() {
    let mut cluster = TestCluster::start().await;
    let _node = cluster.node(&NodeOptions::named("node-1")).await;
    let api = cluster.api.clone();
    api.publish("noop", guests::noop()).await.expect("a module");
    // Known before it is submitted, because its key is: the readers end with it.
    let first = submit(&api, "noop", "first").await;
    let mut jobs = vec![first];
    let (announce, announced) = tokio::sync::watch::channel(None::<JobId>);
    let readers: Vec<_> = [By::Stream, By::Poll, By::Both, By::Both]
        .into_iter()
        .enumerate()
        .map(|(seed, by)| {
            let (api, mut announced) = (api.clone(), announced.clone());
            TaskTracker::new().spawn(async move {
                // A part of the readers joins late and catches up.
                if seed > 1 {
                    announced.changed().await.expect("it is announced");
                }
                let last = *announced.wait_for(Option::is_some).await.expect("it is announced");
                follow_events(api, by, seed as u64 + 1, last.expect("a job")).await
            })
        })
        .collect();
    // The last job waits for its cancel, so that its end comes when all others have ended.
    api.publish("spins", guests::spins_for_ever()).await.expect("a module");
    let last = submit(&api, "spins", "last").await;
    announce.send_replace(Some(last));
    for round in 0..3 {
        for n in 0..12 {
            let id = submit(&api, "noop", &format!("{round}-{n}")).await;
            jobs.push(id);
            if n % 4 == 0 {
                let _ = api.cancel(&id).await;
            }
        }
        if round < 2 {
            cluster.restart_server().await;
        }
    }
    for job in &jobs {
        api.finished(job, RECOVERY).await.expect("it ends");
    }
    eventually("the cancel to be heard", RECOVERY, || async { api.cancel(&last).await.ok() }).await;
    assert_eq!(api.finished(&last, RECOVERY).await.expect("it ends").state, JobState::Cancelled);
    let recorded = recorded(&cluster).await;
    for reader in readers {
        let seen = tokio::time::timeout(RECOVERY, reader).await.expect("in time").expect("the reader ends");
        let seen: Vec<_> = seen
            .iter()
            .map(|event| {
                (event["id"].as_u64().expect("an id"), event["kind"].as_str().expect("a kind").to_owned())
            })
            .collect();
        assert_eq!(seen, recorded);
    }
    jobs.push(last);
    checker::check(&cluster.data_dir(), &jobs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_every_byte_of_a_log_once_over_broken_connections_and_a_kill_of_the_server() {
    const TIMES: u32 = 3_000;
    let mut cluster = TestCluster::start().await;
    let _node = cluster.node(&NodeOptions::named("node-1")).await;
    let api = cluster.api.clone();
    api.publish("speaks", guests::speaks_on_both(TIMES, 1_000_000)).await.expect("a module");
    let job = submit(&api, "speaks", "once").await;
    let (grown, mut growth) = tokio::sync::watch::channel(0);
    let follower = {
        let api = api.clone();
        TaskTracker::new().spawn(async move {
            let path = format!("/v1/jobs/{job}/attempts/1/logs");
            let mut dice = Dice(3);
            let (mut out, mut err, mut id) = (String::new(), String::new(), None::<String>);
            loop {
                let Ok(mut stream) = Stream::open(&api, &path, id.as_deref()).await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                for _ in 0..=dice.below(20) {
                    let Ok(message) = stream.next().await else { break };
                    id = message.id.or(id);
                    let Some(data) = message.data else { continue };
                    if message.event == "end" {
                        return (out, err, data);
                    }
                    let whole = if data["stream"] == "stdout" { &mut out } else { &mut err };
                    assert_eq!(data["offset"], whole.len() as u64);
                    whole.push_str(data["text"].as_str().expect("it is text"));
                    grown.send_replace(out.len());
                }
            }
        })
    };
    growth.wait_for(|length| *length > 400).await.expect("the follower lives");
    cluster.restart_server().await;
    let ended = api.finished(&job, RECOVERY).await.expect("it ends");
    assert_eq!((ended.state, ended.attempt), (JobState::Succeeded, 1), "{ended:#?}");
    let (out, err, end) = tokio::time::timeout(RECOVERY, follower).await.expect("in time").expect("it ends");
    assert!(out == "out.".repeat(TIMES as usize) && err == "err.".repeat(TIMES as usize));
    assert_eq!((&end["state"], &end["stdout_bytes"]), (&"succeeded".into(), &(4 * TIMES).into()));
}
