//! Big uploads, many small jobs and long polls at the same time.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use gristmill_protocol::{JobId, JobState, JobView};
use gristmill_tests::{
    api::{Api, digest},
    cluster::TestCluster,
    guests,
};

use super::small_job;

const UPLOADS: u8 = 4;
const UPLOAD_BYTES: usize = 192 << 20;
const JOBS: usize = 100;
const POLLS: usize = 200;
/// Longest time that a submit may take beside all that.
const SUBMIT_MAX: Duration = Duration::from_secs(5);
/// How often longer than alone the uploads may take, all of them together, beside all that.
const UPLOAD_FACTOR: u32 = 20;
/// After this a poll is answered, whether its job has ended or not.
const POLL_WAIT: Duration = Duration::from_secs(40);
/// Longest time in which all polls are answered after the job's end: far from the end of their wait, so that a
/// poll that nobody woke is told from one that was.
const WAKE_MAX: Duration = Duration::from_secs(10);

/// A file of equal bytes, and its digest.
fn file_of(byte: u8) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().expect("a temp file");
    let bytes = vec![byte; UPLOAD_BYTES];
    std::fs::write(file.path(), &bytes).expect("there is room for the test's file");
    (file, digest(&bytes))
}

/// When the poll began that each poller waits for; `None` when it has seen the end.
type Polls = Mutex<Vec<Option<Instant>>>;

/// Polls one after the other until the job has ended; when the last one was answered.
async fn poll(api: &Api, job: JobId, polls: &Polls, number: usize) -> Instant {
    loop {
        polls.lock().expect("not poisoned")[number] = Some(Instant::now());
        let wait = POLL_WAIT.as_secs();
        let seen: JobView = api.get(&format!("/v1/jobs/{job}?wait={wait}s")).await.expect("an answer");
        if seen.state.is_terminal() {
            assert_eq!(seen.state, JobState::Cancelled);
            polls.lock().expect("not poisoned")[number] = None;
            return Instant::now();
        }
    }
}

/// Waits until every poll has longer to wait than twice [`WAKE_MAX`].
async fn until_all_wait_for_long(polls: &Polls) {
    gristmill_tests::eventually("polls that have long to wait", 3 * POLL_WAIT, || async {
        let began = polls.lock().expect("not poisoned").clone();
        let fresh = |began: &Option<Instant>| began.is_some_and(|at| at.elapsed() + 2 * WAKE_MAX < POLL_WAIT);
        began.iter().all(fresh).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn big_uploads_small_jobs_and_long_polls_do_not_hinder_each_other() {
    let (cluster, _node) = TestCluster::with_node().await;
    let api = &cluster.api;
    api.publish("noop", guests::noop()).await.expect("a module");
    // A job that does not end by itself, for the polls to wait on.
    api.publish("spins", guests::spins_for_ever()).await.expect("a module");
    let endless = api.submit(&small_job("spins")).await.expect("a job").id;
    let files: Vec<_> = (0..=UPLOADS).map(file_of).collect();
    let began = Instant::now();
    let (file, digest) = &files[usize::from(UPLOADS)];
    api.put_file(file.path(), digest).await.expect("an upload");
    let alone = began.elapsed();

    let began = Instant::now();
    let waiting: Polls = Mutex::new(vec![None; POLLS]);
    let polls = join_all((0..POLLS).map(|number| poll(api, endless, &waiting, number)));
    let uploads = async {
        let others = &files[..usize::from(UPLOADS)];
        try_join_all(others.iter().map(|(file, digest)| api.put_file(file.path(), digest))).await?;
        anyhow::Ok(Instant::now())
    };
    let jobs = async {
        let mut answered = Vec::new();
        let mut submitted = Vec::new();
        let mut slowest = Duration::ZERO;
        for _ in 0..JOBS {
            let asked = Instant::now();
            submitted.push(api.submit(&small_job("noop")).await?.id);
            slowest = slowest.max(asked.elapsed());
            answered.push(Instant::now());
        }
        for id in &submitted {
            let ended = api.finished(id, Duration::from_secs(120)).await?;
            anyhow::ensure!(ended.state == JobState::Succeeded, "{ended:#?}");
        }
        until_all_wait_for_long(&waiting).await;
        let cancelled = Instant::now();
        api.cancel(&endless).await?;
        anyhow::Ok((answered, slowest, cancelled))
    };
    let (jobs, uploaded, woken) = tokio::join!(jobs, uploads, polls);
    let (answered, slowest, cancelled) = jobs.expect("every job succeeds");
    let uploaded = uploaded.expect("every upload succeeds");

    let beside = answered.iter().filter(|at| **at < uploaded).count();
    let last = woken.iter().max().expect("there are polls").saturating_duration_since(cancelled);
    println!(
        "{UPLOADS} uploads of {} MiB in {:?} (one alone: {alone:?}), {beside} of {JOBS} submits beside them, slowest \
         {slowest:?}, the last of {POLLS} polls woken after {last:?}",
        UPLOAD_BYTES >> 20,
        uploaded - began,
    );
    assert!(beside >= JOBS / 10, "only {beside} of {JOBS} submits came while bytes were on the way");
    assert!(slowest < SUBMIT_MAX, "a submit took {slowest:?} while uploads went on");
    let allowed = UPLOAD_FACTOR * u32::from(UPLOADS) * alone;
    assert!(uploaded - began < allowed, "the uploads took {:?}, one alone {alone:?}", uploaded - began);
    assert!(last < WAKE_MAX, "a poll was answered {last:?} after the cancel");
}
