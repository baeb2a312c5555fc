//! Conformance: what time does to jobs.

use std::time::Duration;

use gristmill_lifecycle::{
    command::{JobDue, SweepJobs},
    job::{JobPhase, StopCause},
};
use gristmill_protocol::{JobState, Reason, node_api::UpdateVerdict};
use gristmill_server::{clock::Clock, store::Store};

use crate::{
    backend::Bench,
    commands::{Script, acquire, cancel, failure, job_id, submit, success},
    history::judge,
};

/// Sweeps one kind of duty in pages of one row until nothing is due. Returns how many were handled.
async fn sweep_one_by_one(bench: &Bench, store: &dyn Store, due: JobDue) -> u64 {
    let mut handled = 0;
    for _ in 0..100 {
        let jobs = store.job_due(due, bench.clock.now(), 1).await.expect("due");
        if jobs.is_empty() {
            return handled;
        }
        handled += store.job_sweep(SweepJobs { due, jobs }).await.expect("sweep");
    }
    panic!("a row that the sweep cannot handle hides those behind it");
}

pub(crate) async fn a_job_that_waits_too_long_fails_with_queue_timeout(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..4 {
        let mut command = submit(n);
        command.queue_timeout = Some(Duration::from_secs(10));
        script.submit(command).await;
    }
    script.submit(submit(4)).await;
    let leased = script.lease(1).await;
    let started = script.lease(1).await;
    script.update(1, &started, failure("crash", Reason::ExecutorCrashed)).await;
    bench.clock.advance_s(9);
    assert_eq!(sweep_one_by_one(&bench, &*store, JobDue::QueueTimeout).await, 0);
    bench.clock.advance_s(1);
    assert_eq!(sweep_one_by_one(&bench, &*store, JobDue::QueueTimeout).await, 2);
    for n in [2, 3] {
        assert_eq!(script.state(job_id(n)).await, (JobState::Failed, Some(Reason::QueueTimeout)));
    }
    assert_eq!(script.job(job_id(4)).await.phase, JobPhase::Ready);
    assert_eq!(script.job(leased.job).await.phase, JobPhase::Leased);
    assert_eq!(script.job(started.job).await.phase, JobPhase::BackingOff, "it has been started once");
    judge(&*store).await;
}

pub(crate) async fn a_deadline_fails_a_queued_job_and_stops_a_running_one(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let with_deadline = |n| {
        let mut command = submit(n);
        command.deadline = Some(Duration::from_secs(20));
        command
    };
    let running = script.run(with_deadline(1)).await;
    script.submit(with_deadline(2)).await;
    let leased = script.lease(1).await;
    script.submit(with_deadline(3)).await;
    let crashed = script.run(with_deadline(4)).await;
    script.update(1, &crashed, failure("crash", Reason::ExecutorCrashed)).await;
    bench.clock.advance_s(20);
    assert_eq!(sweep_one_by_one(&bench, &*store, JobDue::Deadline).await, 4);
    for n in [2, 3, 4] {
        assert_eq!(script.state(job_id(n)).await, (JobState::Failed, Some(Reason::DeadlineExceeded)));
    }
    assert_eq!(script.update(1, &leased, success("late")).await, UpdateVerdict::LeaseLost);
    assert_eq!(script.job(running.job).await.phase, JobPhase::Stopping(StopCause::Deadline));
    assert_eq!(script.update(1, &running, success("late")).await, UpdateVerdict::Accepted);
    assert_eq!(script.state(running.job).await, (JobState::Failed, Some(Reason::DeadlineExceeded)));
    judge(&*store).await;
}

pub(crate) async fn a_cancel_after_the_deadline_still_cancels(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let mut command = submit(1);
    command.deadline = Some(Duration::from_secs(5));
    let lease = script.run(command).await;
    bench.clock.advance_s(5);
    assert_eq!(sweep_one_by_one(&bench, &*store, JobDue::Deadline).await, 1);
    store.job_cancel(cancel(lease.job)).await.expect("cancel");
    bench.clock.advance_s(30);
    assert_eq!(script.expire(&bench.clock).await, 1);
    assert_eq!(script.state(lease.job).await, (JobState::Cancelled, Some(Reason::CancelledByUser)));
    judge(&*store).await;
}

pub(crate) async fn backoffs_end_one_page_after_the_other(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..5 {
        let lease = script.run(submit(n)).await;
        script.update(1, &lease, failure("crash", Reason::ExecutorCrashed)).await;
    }
    assert_eq!(store.job_counts().await.expect("counts").queue_depth, 5);
    assert!(script.acquire(acquire(1, 9)).await.is_empty());
    bench.clock.advance_s(61);
    assert_eq!(sweep_one_by_one(&bench, &*store, JobDue::Backoff).await, 5);
    assert_eq!(script.acquire(acquire(1, 9)).await.len(), 5);
    judge(&*store).await;
}

pub(crate) async fn a_sweep_acts_only_on_what_is_still_due(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let mut command = submit(1);
    command.queue_timeout = Some(Duration::from_secs(5));
    command.deadline = Some(Duration::from_secs(50));
    script.submit(command).await;
    let early = vec![job_id(1), job_id(99)];
    let lease = script.lease(1).await;
    bench.clock.advance_s(6);
    let before = bench.backend.dump().await;
    assert_eq!(
        store.job_sweep(SweepJobs { due: JobDue::QueueTimeout, jobs: early.clone() }).await.expect("sweep"),
        0
    );
    assert_eq!(
        store.job_sweep(SweepJobs { due: JobDue::Deadline, jobs: early.clone() }).await.expect("sweep"),
        0
    );
    assert_eq!(
        store.job_sweep(SweepJobs { due: JobDue::Backoff, jobs: early.clone() }).await.expect("sweep"),
        0
    );
    assert_eq!(bench.backend.dump().await, before);
    script.update(1, &lease, failure("crash", Reason::ExecutorCrashed)).await;
    let before = bench.backend.dump().await;
    assert_eq!(
        store.job_sweep(SweepJobs { due: JobDue::Backoff, jobs: early.clone() }).await.expect("sweep"),
        0
    );
    assert_eq!(bench.backend.dump().await, before, "its backoff is not over");
    store.job_cancel(cancel(lease.job)).await.expect("cancel");
    bench.clock.advance_s(60);
    let before = bench.backend.dump().await;
    assert_eq!(
        store.job_sweep(SweepJobs { due: JobDue::Deadline, jobs: early.clone() }).await.expect("sweep"),
        0
    );
    assert_eq!(store.job_sweep(SweepJobs { due: JobDue::Backoff, jobs: early }).await.expect("sweep"), 0);
    assert_eq!(bench.backend.dump().await, before);
}

pub(crate) async fn leases_expire_one_page_after_the_other_oldest_first(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let mut order = Vec::new();
    for n in 0..4 {
        order.push((script.run(submit(n)).await.job, 1));
        bench.clock.advance_s(1);
    }
    bench.clock.advance_s(40);
    let mut ended = Vec::new();
    loop {
        let attempts = store.lease_due(bench.clock.now(), 1).await.expect("due");
        if attempts.is_empty() {
            break;
        }
        ended.extend(attempts.clone());
        let command = gristmill_lifecycle::command::ExpireLeases { attempts };
        assert_eq!(store.lease_expire(command).await.expect("expire"), 1);
    }
    assert_eq!(ended, order);
    judge(&*store).await;
}
