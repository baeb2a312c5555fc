//! Conformance: who gets which lease.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::join_all;
use gristmill_lifecycle::{
    command::{AcquireLeases, LeaseGranted, UpdateChange},
    job::JobPhase,
    placement::Room,
};
use gristmill_protocol::{AttemptState, OuterLimit};
use gristmill_server::store::{Store, StoreError};
use tokio::sync::{Barrier, oneshot};

use crate::{
    backend::Bench,
    commands::{Script, acquire, cancel, job_id, submit},
    history::judge,
};

/// A claim that waits until the sender speaks or is dropped.
fn hold(
    store: &Arc<dyn Store>,
    command: AcquireLeases,
) -> (oneshot::Sender<()>, tokio::task::JoinHandle<Result<Vec<LeaseGranted>, StoreError>>) {
    let (stop, stopped) = oneshot::channel();
    let store = Arc::clone(store);
    let held = tokio::runtime::Handle::current().spawn(async move {
        let until = Box::pin(async move {
            let _ = stopped.await;
        });
        store.lease_acquire(command, Some(until)).await
    });
    (stop, held)
}

/// Waits until all claims made before are with the writer.
async fn settle(store: &Arc<dyn Store>) {
    for _ in 0..20 {
        tokio::task::yield_now().await;
        Script(&**store).acquire(acquire(200, 0)).await;
    }
}

pub(crate) async fn concurrent_claimers_never_get_the_same_job(bench: Bench) {
    let store = bench.open().await;
    for n in 0..200 {
        Script(&*store).submit(submit(n)).await;
    }
    let barrier = Arc::new(Barrier::new(8));
    let claimers = (1..=8).map(|node| {
        let (store, barrier) = (Arc::clone(&store), Arc::clone(&barrier));
        tokio::runtime::Handle::current().spawn(async move {
            let mut got = Vec::new();
            barrier.wait().await;
            loop {
                let leases = Script(&*store).acquire(acquire(node, u32::from(node))).await;
                if leases.is_empty() {
                    return got;
                }
                got.extend(leases);
            }
        })
    });
    let got: Vec<_> = join_all(claimers).await.into_iter().flat_map(|got| got.expect("claimer")).collect();
    let jobs: BTreeSet<_> = got.iter().map(|lease| lease.job).collect();
    let tokens: BTreeSet<_> = got.iter().map(|lease| lease.token.as_str()).collect();
    assert_eq!((got.len(), jobs.len(), tokens.len()), (200, 200, 200));
    judge(&*store).await;
}

pub(crate) async fn higher_priority_goes_first_and_then_whoever_came_first(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for (n, priority) in [0, 5, -5, 5, 0, 100, -100].into_iter().enumerate() {
        let mut command = submit(n as u64);
        command.priority = priority;
        // Every second job is of another class, which must make no difference.
        command.class.cpus_milli += n as u32 % 2;
        script.submit(command).await;
    }
    let mut order = Vec::new();
    for _ in 0..2 {
        order.extend(script.acquire(acquire(1, 2)).await.iter().map(|lease| lease.job));
    }
    order.extend(script.acquire(acquire(1, 9)).await.iter().map(|lease| lease.job));
    assert_eq!(order, [5, 1, 3, 0, 4, 2, 6].map(job_id));
}

pub(crate) async fn jobs_that_the_node_cannot_run_do_not_block_those_behind_them(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..300 {
        let mut command = submit(n);
        command.priority = 100;
        match n % 3 {
            0 => command.class.labels = [("gpu".to_owned(), "yes".to_owned())].into(),
            1 => command.class.zone = Some("elsewhere".to_owned()),
            _ => command.class.memory_bytes = u64::MAX >> 2,
        }
        script.submit(command).await;
    }
    script.submit(submit(300)).await;
    let got: Vec<_> = script.acquire(acquire(1, 9)).await.iter().map(|lease| lease.job).collect();
    assert_eq!(got, [job_id(300)]);
    assert!(script.acquire(acquire(1, 9)).await.is_empty());
}

pub(crate) async fn a_job_is_never_leased_to_a_node_whose_isolation_is_weaker(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for (n, isolation) in OuterLimit::ALL.iter().copied().enumerate() {
        let mut command = submit(n as u64);
        command.class.isolation = Some(isolation);
        script.submit(command).await;
    }
    let ask = |level: Option<OuterLimit>, required: Option<OuterLimit>| {
        let mut command = acquire(1, 9);
        command.profile.level = level;
        command.zone.policy.isolation = required;
        command
    };
    let named = AcquireLeases { job: Some(job_id(2)), ..ask(Some(OuterLimit::CgroupV1), None) };
    assert!(script.acquire(named).await.is_empty());
    let strict = ask(Some(OuterLimit::CgroupV1), Some(OuterLimit::CgroupV2));
    assert!(script.acquire(strict).await.is_empty());
    assert!(script.acquire(ask(None, None)).await.is_empty(), "weak isolation is no level");
    for (n, level) in OuterLimit::ALL.iter().copied().enumerate() {
        let got: Vec<_> =
            script.acquire(ask(Some(level), None)).await.iter().map(|lease| lease.job).collect();
        assert_eq!(got, [job_id(n as u64)], "{level}");
    }
}

pub(crate) async fn a_claim_costs_the_same_however_long_the_queue_is(bench: Bench) {
    let store = bench.open().await;
    let mut costs = Vec::new();
    for depth in [10, 3_000] {
        join_all((0..depth).map(|n| store.job_submit(submit(depth * 10 + n)))).await;
        let before = store.counters();
        Script(&*store).lease(1).await;
        let after = store.counters();
        costs.push((after.statements - before.statements, after.commits - before.commits));
    }
    assert_eq!(costs[0], costs[1]);
    assert_eq!(costs[0].1, 1);
}

pub(crate) async fn a_claim_takes_no_more_than_fits_into_its_room(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..10 {
        let mut command = submit(n);
        command.class.cpus_milli = if n == 0 { 3_000 } else { 1_000 };
        script.submit(command).await;
    }
    let mut command = acquire(1, 10);
    command.free = Room { cpus_milli: 4_500, memory_bytes: 100 << 30 };
    let got: Vec<_> = script.acquire(command.clone()).await.iter().map(|lease| lease.job).collect();
    assert_eq!(got, [0, 1].map(job_id), "3 cores and 1 core fill 4.5 cores");
    command.free = Room { cpus_milli: 100_000, memory_bytes: 3 << 30 };
    assert_eq!(script.acquire(command).await.len(), 3, "three times 1 GiB");
    let loads = store.lease_loads().await.expect("loads");
    assert_eq!(loads[&crate::commands::node_id(1)], (7_000, 5 << 30));
}

pub(crate) async fn a_zone_gets_only_jobs_that_it_admits(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for (n, zone) in [Some("lab"), None, Some("default")].into_iter().enumerate() {
        let mut command = submit(n as u64);
        command.class.zone = zone.map(str::to_owned);
        script.submit(command).await;
    }
    let mut lab = acquire(1, 9);
    lab.zone.name = "lab".into();
    lab.zone.policy.tenants = vec!["umbra".to_owned()];
    assert!(script.acquire(lab.clone()).await.is_empty(), "the zone admits another tenant only");
    lab.zone.policy.tenants.clear();
    let got: Vec<_> = script.acquire(lab).await.iter().map(|lease| lease.job).collect();
    assert_eq!(got, [0, 1].map(job_id));
    assert_eq!(script.lease(2).await.job, job_id(2));
    judge(&*store).await;
}

pub(crate) async fn a_claim_for_one_job_gets_that_job_or_nothing(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..3 {
        script.submit(submit(n)).await;
    }
    let mut command = acquire(1, 1);
    command.job = Some(job_id(1));
    let got: Vec<_> = script.acquire(command.clone()).await.iter().map(|lease| lease.job).collect();
    assert_eq!(got, [job_id(1)]);
    assert!(script.acquire(command.clone()).await.is_empty());
    command.job = Some(job_id(77));
    assert!(script.acquire(command).await.is_empty());
}

pub(crate) async fn a_held_claim_gets_its_job_in_the_commit_that_accepts_it(bench: Bench) {
    let store = bench.open().await;
    let (_stop, held) = hold(&store, acquire(1, 1));
    settle(&store).await;
    let before = store.counters();
    let job = Script(&*store).submit(submit(1)).await;
    let leases = held.await.expect("claimer").expect("claim");
    assert_eq!(leases.iter().map(|lease| lease.job).collect::<Vec<_>>(), [job.id]);
    assert!(leases[0].document.is_some());
    assert_eq!(store.counters().commits - before.commits, 1);
    judge(&*store).await;
}

pub(crate) async fn held_claims_cost_nothing_while_there_is_no_work(bench: Bench) {
    let store = bench.open().await;
    let before = store.counters();
    let held: Vec<_> = (1..=50).map(|node| hold(&store, acquire(node, 1))).collect();
    settle(&store).await;
    let after = store.counters();
    assert_eq!((after.statements, after.commits), (before.statements, before.commits));
    for (stop, held) in held {
        drop(stop);
        assert!(held.await.expect("claimer").expect("claim").is_empty());
    }
    assert_eq!(store.counters().commits, before.commits);
}

pub(crate) async fn a_held_claim_is_served_by_whatever_makes_a_job_ready(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = {
        script.submit(submit(1)).await;
        script.lease(1).await
    };
    let (_stop, held) = hold(&store, acquire(2, 1));
    settle(&store).await;
    script.update(1, &lease, UpdateChange::Released).await;
    let second = held.await.expect("claimer").expect("claim").pop().expect("the released job");
    assert_eq!((second.job, second.attempt), (job_id(1), 2));
    let (_stop, held) = hold(&store, acquire(3, 1));
    settle(&store).await;
    script.lose(&bench.clock).await;
    let third = held.await.expect("claimer").expect("claim").pop().expect("the promoted job");
    assert_eq!((third.job, third.attempt), (job_id(1), 3));
    judge(&*store).await;
}

pub(crate) async fn one_new_job_goes_to_one_of_many_held_claims(bench: Bench) {
    let store = bench.open().await;
    let held: Vec<_> = (1..=10).map(|node| hold(&store, acquire(node, 1))).collect();
    settle(&store).await;
    for n in 0..3 {
        Script(&*store).submit(submit(n)).await;
    }
    let mut got = Vec::new();
    for (stop, held) in held {
        drop(stop);
        got.extend(held.await.expect("claimer").expect("claim").into_iter().map(|lease| lease.job));
    }
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2].map(job_id));
    judge(&*store).await;
}

pub(crate) async fn a_lease_for_a_claimer_that_went_away_is_given_back(bench: Bench) {
    let store = bench.open().await;
    let (_stop, held) = hold(&store, acquire(1, 1));
    settle(&store).await;
    held.abort();
    let _ = held.await;
    let script = Script(&*store);
    script.submit(submit(1)).await;
    settle(&store).await;
    let attempts = store.attempt_list(job_id(1)).await.expect("attempts");
    assert!(attempts.iter().all(|row| row.phase.state() == AttemptState::Released), "{attempts:?}");
    assert_eq!(script.job(job_id(1)).await.phase, JobPhase::Ready);
    assert_eq!(script.lease(2).await.job, job_id(1));
    judge(&*store).await;
}

pub(crate) async fn a_claim_whose_first_choice_is_cancelled_beside_it_gets_the_next(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..20 {
        script.submit(submit(n)).await;
    }
    for n in (0..20).step_by(2) {
        // Both reach the writer together and are decided in one transaction.
        let (reply, leases) =
            tokio::join!(store.job_cancel(cancel(job_id(n))), store.lease_acquire(acquire(1, 1), None));
        reply.expect("cancel");
        let leases = leases.expect("claim");
        assert_eq!(leases.iter().map(|lease| lease.job).collect::<Vec<_>>(), [job_id(n + 1)]);
    }
    judge(&*store).await;
}

pub(crate) async fn the_fence_only_rises_also_over_a_restore(bench: Bench) {
    let mut store = bench.open().await;
    Script(&*store).submit(submit(1)).await;
    let mut fences = Vec::new();
    for round in 0..6 {
        let script = Script(&*store);
        let lease = script.lease(1).await;
        fences.push(lease.fence);
        script.update(1, &lease, UpdateChange::Released).await;
        if round == 2 {
            store = bench.reopen(store).await;
        }
        if round == 3 {
            store.close().await;
            bench
                .backend
                .run("UPDATE meta SET value = value + 1 WHERE name = 'generation'")
                .await
                .expect("bump");
            store = bench.open().await;
        }
    }
    assert!(fences.is_sorted_by(|a, b| a < b), "{fences:?}");
    assert!(fences[4] >> 32 > fences[3] >> 32, "a restore raises the high half: {fences:?}");
    judge(&*store).await;
}
