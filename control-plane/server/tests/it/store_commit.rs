//! Conformance: what is durable, when, and at what cost.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::join_all;
use gristmill_lifecycle::command::{ApplyUpdates, SubmitReply, Update, UpdateChange};
use gristmill_server::store::{Store, StoreError, job::StoreCounters};

use crate::{
    backend::Bench,
    commands::{Script, TENANT, acquire, cancel, job_id, lease_ref, node_id, submit, success, update},
    history::judge,
};

fn cost(store: &dyn Store, before: &StoreCounters) -> (u64, u64) {
    let after = store.counters();
    (after.commits - before.commits, after.statements - before.statements)
}

pub(crate) async fn what_waits_together_is_committed_together(bench: Bench) {
    let store = bench.open().await;
    for round in 0..3 {
        let before = store.counters();
        let replies = join_all((0..500).map(|n| store.job_submit(submit(round * 1_000 + n)))).await;
        assert!(replies.iter().all(|reply| matches!(reply, Ok(SubmitReply::Created(_)))));
        let (commits, _) = cost(&*store, &before);
        assert!(commits <= 50, "{commits} commits for 500 jobs");
    }
    judge(&*store).await;
}

pub(crate) async fn a_transaction_has_few_statements_however_much_it_does(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for (first, n) in [(0, 4), (1_000, 400)] {
        join_all((first..first + n).map(|n| store.job_submit(submit(n)))).await;
        let leases = script.acquire(acquire(1, n as u32)).await;
        assert_eq!(leases.len() as u64, n);
        let (half, rest) = leases.split_at(leases.len() / 2);
        let updates = half.iter().map(|lease| Update { lease: lease_ref(lease), change: success("done") });
        let updates = ApplyUpdates { node: node_id(1), updates: updates.collect() };
        // What comes together: jobs that are accepted, start and end, are cancelled, and are leased.
        let before = store.counters();
        tokio::join!(
            join_all((first + n..first + 2 * n).map(|n| store.job_submit(submit(n)))),
            async { store.attempt_update(updates).await.expect("updates") },
            join_all(rest.iter().map(|lease| store.job_cancel(cancel(lease.job)))),
            script.acquire(acquire(2, n as u32)),
        );
        let (commits, statements) = cost(&*store, &before);
        assert!(commits <= 8, "{commits} commits");
        assert!(statements <= 12 * commits, "{statements} statements in {commits} commits");
        while !script.acquire(acquire(3, 1_000)).await.is_empty() {}
    }
    judge(&*store).await;
}

pub(crate) async fn a_change_whose_caller_went_away_still_happens(bench: Bench) {
    let store = bench.open().await;
    for n in 0..20 {
        let mut submitted = Box::pin(store.job_submit(submit(n)));
        // One poll hands the change to the writer.
        assert!(futures_util::poll!(&mut submitted).is_pending());
        drop(submitted);
    }
    Script(&*store).submit(submit(20)).await;
    let ids: BTreeSet<_> = Script(&*store).jobs(TENANT).await.iter().map(|job| job.id).collect();
    assert_eq!(ids, (0..=20).map(job_id).collect());
    judge(&*store).await;
}

pub(crate) async fn a_closed_store_refuses_instead_of_hanging(bench: Bench) {
    let store = bench.open().await;
    Script(&*store).submit(submit(1)).await;
    store.close().await;
    assert!(matches!(store.job_submit(submit(2)).await, Err(StoreError::Closed)));
    assert!(matches!(store.job_get(job_id(1)).await, Err(StoreError::Closed)));
    let hold = Box::pin(std::future::pending());
    assert!(matches!(store.lease_acquire(acquire(1, 1), Some(hold)).await, Err(StoreError::Closed)));
    store.close().await;
    let store = bench.open().await;
    assert_eq!(Script(&*store).jobs(TENANT).await.len(), 1);
}

/// What a process did before it was killed: jobs whose submit and success were acknowledged.
#[derive(Default)]
struct Acknowledged {
    submitted: Vec<u64>,
    succeeded: Vec<u64>,
}

/// Works on the store until the process is killed after a number of the writer's statements.
async fn work_until(store: &Arc<dyn Store>, statements: u64, round: u64) -> Acknowledged {
    let mut done = Acknowledged::default();
    let work = async {
        for n in round * 1_000.. {
            let Ok(SubmitReply::Created(_)) = store.job_submit(submit(n)).await else { break };
            done.submitted.push(n);
            let mut claim = acquire(1, 1);
            claim.job = Some(job_id(n));
            let Ok(mut leases) = store.lease_acquire(claim, None).await else { break };
            let Some(lease) = leases.pop() else { break };
            if store.attempt_update(update(1, &lease, UpdateChange::Started)).await.is_err() {
                break;
            }
            if store.attempt_update(update(1, &lease, success("done"))).await.is_err() {
                break;
            }
            done.succeeded.push(n);
        }
    };
    let end = store.counters().statements + statements;
    let killed = async {
        while store.counters().statements < end {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = killed => {}
        () = work => panic!("the store failed by itself"),
    }
    done
}

pub(crate) async fn a_process_killed_between_any_two_statements_loses_nothing_acknowledged(bench: Bench) {
    let bench = Arc::new(bench);
    let (mut submitted, mut succeeded) = (Vec::new(), Vec::new());
    for round in 0..60 {
        let inside = Arc::clone(&bench);
        // A process of its own: a thread with a runtime that is dropped with everything in it.
        let life = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            let done = runtime.block_on(async {
                let store = inside.open().await;
                work_until(&store, 1 + round * 7 % 59, round).await
            });
            drop(runtime);
            done
        });
        let done = life.join().expect("the process ran");
        submitted.extend(done.submitted);
        succeeded.extend(done.succeeded);
        bench.backend.settle().await;
    }
    assert!(submitted.len() > 20 && succeeded.len() > 10, "{} {}", submitted.len(), succeeded.len());
    let store = bench.open().await;
    for n in submitted {
        assert!(store.job_get(job_id(n)).await.expect("read").is_some(), "job {n} is lost");
    }
    for n in succeeded {
        let (state, _) = Script(&*store).state(job_id(n)).await;
        assert_eq!(state, gristmill_protocol::JobState::Succeeded, "the result of job {n} is lost");
    }
    judge(&*store).await;
}
