//! Conformance: accepting jobs.

use std::time::Duration;

use futures_util::future::join_all;
use gristmill_lifecycle::{
    command::{SubmitReply, UpdateChange},
    job::JobPhase,
};
use gristmill_protocol::event::EventKind;
use gristmill_server::clock::Clock;

use crate::{
    backend::Bench,
    commands::{Script, TENANT, acquire, class, digest, events_after, job_id, keyed, submit, success},
    history::judge,
};

pub(crate) async fn an_accepted_job_is_read_back_as_it_was_accepted(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let mut command = submit(1);
    command.priority = -3;
    command.retries = 2;
    command.retry_on = vec![gristmill_protocol::Reason::Trap];
    command.queue_timeout = Some(Duration::from_secs(60));
    command.deadline = Some(Duration::from_secs(90));
    let accepted = script.submit(command.clone()).await;
    assert_eq!(script.job(accepted.id).await, accepted);
    assert_eq!((accepted.phase, accepted.attempt, accepted.priority), (JobPhase::Ready, 0, -3));
    assert_eq!(accepted.deadline_at, Some(bench.clock.now() + Duration::from_secs(90)));
    assert_eq!(store.class_get(accepted.class).await.expect("read"), Some(command.class));
    assert_eq!(store.job_document(accepted.id).await.expect("read"), Some(command.document));
    assert_eq!(store.job_get(job_id(2)).await.expect("read"), None);
    judge(&*store).await;
}

pub(crate) async fn a_key_gives_the_same_job_for_the_same_request_only(bench: Bench) {
    let store = bench.open().await;
    let first = store.job_submit(keyed(1, "nightly", "body")).await.expect("submit");
    assert!(matches!(first, SubmitReply::Created(_)));
    let before = bench.backend.dump().await;
    let again = store.job_submit(keyed(2, "nightly", "body")).await.expect("submit");
    assert_eq!(again, SubmitReply::Existing(job_id(1)));
    let other = store.job_submit(keyed(3, "nightly", "another body")).await.expect("submit");
    assert_eq!(other, SubmitReply::KeyMismatch);
    assert_eq!(bench.backend.dump().await, before);
    let mut foreign = keyed(4, "nightly", "another body");
    foreign.tenant = "umbra".into();
    foreign.class = class("umbra");
    assert!(matches!(store.job_submit(foreign).await.expect("submit"), SubmitReply::Created(_)));
}

pub(crate) async fn concurrent_submits_under_one_key_make_one_job(bench: Bench) {
    let store = bench.open().await;
    let replies = join_all((0..40).map(|n| store.job_submit(keyed(n, "once", "body")))).await;
    let mut created = Vec::new();
    let mut existing = Vec::new();
    for reply in replies {
        match reply.expect("submit") {
            SubmitReply::Created(job) => created.push(job.id),
            SubmitReply::Existing(id) => existing.push(id),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!((created.len(), existing.len()), (1, 39));
    assert!(existing.iter().all(|id| *id == created[0]));
    assert_eq!(Script(&*store).jobs(TENANT).await.len(), 1);
}

pub(crate) async fn a_key_survives_a_reopening_and_is_forgotten_when_pruned(bench: Bench) {
    let store = bench.open().await;
    store.job_submit(keyed(1, "k", "body")).await.expect("submit");
    let store = bench.reopen(store).await;
    let again = store.job_submit(keyed(2, "k", "body")).await.expect("submit");
    assert_eq!(again, SubmitReply::Existing(job_id(1)));
    assert_eq!(store.idempotency_prune(bench.clock.now(), 10).await.expect("prune"), 0);
    bench.clock.advance_s(1);
    assert_eq!(store.idempotency_prune(bench.clock.now(), 10).await.expect("prune"), 1);
    let anew = store.job_submit(keyed(3, "k", "body")).await.expect("submit");
    assert!(matches!(anew, SubmitReply::Created(_)));
}

pub(crate) async fn the_depth_limit_over_all_tenants_counts_every_waiting_job(mut bench: Bench) {
    bench.settings.queue_depth_max = 3;
    let mut store = bench.open().await;
    let replies = join_all((0..5).map(|n| store.job_submit(submit(n)))).await;
    let full = replies.iter().filter(|reply| matches!(reply, Ok(SubmitReply::QueueFull { max: 3 }))).count();
    assert_eq!(full, 2, "{replies:?}");
    assert_eq!(store.job_counts().await.expect("counts").queue_depth, 3);
    for round in 0..3 {
        let script = Script(&*store);
        // A leased job does not wait; its place is free, and stays taken when the job comes back.
        let lease = script.lease(1).await;
        script.submit(submit(10 + round)).await;
        assert_eq!(store.job_submit(submit(20)).await.expect("submit"), SubmitReply::QueueFull { max: 3 });
        script.update(1, &lease, UpdateChange::Released).await;
        assert_eq!(store.job_counts().await.expect("counts").queue_depth, 4);
        store = bench.reopen(store).await;
        assert_eq!(store.job_submit(submit(20)).await.expect("submit"), SubmitReply::QueueFull { max: 3 });
        let script = Script(&*store);
        let lease = script.lease(1).await;
        script.update(1, &lease, success("done")).await;
        assert_eq!(store.job_counts().await.expect("counts").queue_depth, 3);
    }
    judge(&*store).await;
}

pub(crate) async fn the_depth_limit_of_one_tenant_leaves_the_others_alone(bench: Bench) {
    let store = bench.open().await;
    let limited = |n| {
        let mut command = submit(n);
        command.queue_depth_tenant_max = 2;
        command
    };
    for n in 0..2 {
        Script(&*store).submit(limited(n)).await;
    }
    let before = bench.backend.dump().await;
    let refused = store.job_submit(limited(2)).await.expect("submit");
    assert_eq!(refused, SubmitReply::TenantQueueFull { max: 2 });
    assert_eq!(bench.backend.dump().await, before, "a refused job leaves nothing behind");
    let mut foreign = limited(3);
    foreign.tenant = "umbra".into();
    foreign.class = class("umbra");
    Script(&*store).submit(foreign).await;
    Script(&*store).acquire(acquire(1, 1)).await;
    Script(&*store).submit(limited(4)).await;
}

pub(crate) async fn a_retried_job_is_a_new_job_and_the_log_names_the_former(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    script.update(1, &lease, success("done")).await;
    let former = script.job(job_id(1)).await;
    let mut again = submit(2);
    again.retry_of = Some(job_id(1));
    script.submit(again).await;
    assert_eq!(script.job(job_id(1)).await, former);
    let events = store.event_list(events_after(0, 100)).await.expect("events").events;
    assert!(events.iter().any(|event| event.kind == EventKind::JobRetried && event.job == job_id(1)));
    judge(&*store).await;
}

pub(crate) async fn inline_blobs_of_a_job_belong_to_its_tenant_only(bench: Bench) {
    let store = bench.open().await;
    let mut command = submit(1);
    command.blobs = vec![(digest("inline"), 6)];
    Script(&*store).submit(command).await;
    let wanted = [digest("inline"), digest("never seen")];
    let own = store.blob_visible(TENANT, &wanted).await.expect("read");
    assert_eq!(own.into_iter().collect::<Vec<_>>(), [(digest("inline"), 6)]);
    assert!(store.blob_visible("umbra", &wanted).await.expect("read").is_empty());
}

pub(crate) async fn lists_are_newest_first_filtered_and_paged(bench: Bench) {
    use gristmill_protocol::JobState;
    use gristmill_server::store::job::JobQuery;
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..7 {
        script.submit(submit(n)).await;
        bench.clock.advance_s(1);
    }
    let lease = script.lease(1).await;
    script.update(1, &lease, success("done")).await;
    let all = JobQuery { tenant: Some(TENANT.to_owned()), limit: 3, ..JobQuery::default() };
    let mut seen = Vec::new();
    let mut before_seq = None;
    loop {
        let page = store.job_list(JobQuery { before_seq, ..all.clone() }).await.expect("list");
        let Some(last) = page.last() else { break };
        before_seq = Some(last.seq);
        seen.extend(page.iter().map(|job| job.id));
    }
    assert_eq!(seen, (0..7).rev().map(job_id).collect::<Vec<_>>());
    let ids = async |query: JobQuery| -> Vec<_> {
        store.job_list(query).await.expect("list").iter().map(|job| job.id).collect()
    };
    let all = JobQuery { limit: 100, ..all };
    assert_eq!(ids(JobQuery { state: Some(JobState::Succeeded), ..all.clone() }).await, [job_id(0)]);
    assert_eq!(ids(JobQuery { zone: Some("default".into()), ..all.clone() }).await, [job_id(0)]);
    let label = Some(("n".to_owned(), "4".to_owned()));
    assert_eq!(ids(JobQuery { label, ..all.clone() }).await, [job_id(4)]);
    assert_eq!(ids(JobQuery { module: Some("echo".into()), ..all.clone() }).await.len(), 7);
    assert_eq!(ids(JobQuery { module: Some("other".into()), ..all.clone() }).await.len(), 0);
    let created_after = Some(script.job(job_id(5)).await.created_at);
    assert_eq!(ids(JobQuery { created_after, ..all.clone() }).await, [job_id(6)]);
    assert_eq!(ids(JobQuery { tenant: Some("umbra".into()), ..all }).await.len(), 0);
}
