//! Conformance: how attempts and jobs end.

use futures_util::future::join_all;
use gristmill_lifecycle::{
    command::{ApplyUpdates, CancelReply, Finish, Update, UpdateChange},
    job::{JobPhase, StopCause},
};
use gristmill_protocol::{
    AttemptState, JobState, Outcome, Reason, Usage, event::EventKind, node_api::UpdateVerdict,
    reason::OutcomeState,
};
use gristmill_server::clock::Clock;

use crate::{
    backend::Bench,
    commands::{
        Script, TENANT, append, cancel, digest, events_after, failure, job_id, lease_ref, node_id, outcome,
        output, report, submit, success, update,
    },
    history::judge,
};

pub(crate) async fn the_same_report_again_is_accepted_and_changes_nothing(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    assert_eq!(script.update(1, &lease, success("report")).await, UpdateVerdict::Accepted);
    let before = bench.backend.dump().await;
    assert_eq!(script.update(1, &lease, success("report")).await, UpdateVerdict::Accepted);
    assert_eq!(script.update(1, &lease, UpdateChange::Started).await, UpdateVerdict::Accepted);
    assert_eq!(script.update(1, &lease, success("another")).await, UpdateVerdict::LeaseLost);
    let fail = failure("another", Reason::Trap);
    assert_eq!(script.update(1, &lease, fail).await, UpdateVerdict::LeaseLost);
    assert_eq!(bench.backend.dump().await, before);
}

pub(crate) async fn the_same_report_again_is_accepted_also_after_the_next_lease(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    let crash = || failure("crash", Reason::ExecutorCrashed);
    assert_eq!(script.update(1, &lease, crash()).await, UpdateVerdict::Accepted);
    bench.clock.advance_s(61);
    assert_eq!(script.promote(&bench.clock).await, 1);
    let next = script.lease(2).await;
    let before = bench.backend.dump().await;
    assert_eq!(script.update(1, &lease, crash()).await, UpdateVerdict::Accepted);
    assert_eq!(bench.backend.dump().await, before);
    assert_eq!(script.update(2, &next, success("done")).await, UpdateVerdict::Accepted);
    judge(&*store).await;
}

pub(crate) async fn a_report_without_a_start_implies_the_start(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    script.submit(submit(1)).await;
    let lease = script.lease(1).await;
    bench.clock.advance_s(3);
    assert_eq!(script.update(1, &lease, success("done")).await, UpdateVerdict::Accepted);
    let job = script.job(job_id(1)).await;
    assert_eq!((job.phase, job.started_at), (JobPhase::Succeeded, Some(bench.clock.now())));
    let kinds: Vec<_> = store
        .event_list(events_after(0, 10))
        .await
        .expect("events")
        .events
        .into_iter()
        .map(|event| event.kind)
        .collect();
    let all = [
        EventKind::JobSubmitted,
        EventKind::AttemptLeased,
        EventKind::AttemptStarted,
        EventKind::AttemptEnded,
        EventKind::JobFinished,
    ];
    assert_eq!(kinds, all);
    judge(&*store).await;
}

pub(crate) async fn a_batch_of_updates_is_applied_in_its_order(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..3 {
        script.submit(submit(n)).await;
    }
    let leases = script.acquire(crate::commands::acquire(1, 3)).await;
    let mut updates = Vec::new();
    for lease in &leases {
        for change in [UpdateChange::Started, success("done"), UpdateChange::Malformed] {
            updates.push(Update { lease: lease_ref(lease), change });
        }
    }
    updates.push(Update { lease: lease_ref(&leases[0]), change: UpdateChange::Released });
    let before = store.counters();
    let verdicts = store.attempt_update(ApplyUpdates { node: node_id(1), updates }).await.expect("updates");
    assert_eq!(store.counters().commits - before.commits, 1);
    let each = [UpdateVerdict::Accepted, UpdateVerdict::Accepted, UpdateVerdict::Rejected];
    assert_eq!(verdicts[..9], [each, each, each].concat());
    assert_eq!(verdicts[9..], [UpdateVerdict::LeaseLost]);
    judge(&*store).await;
}

pub(crate) async fn a_report_keeps_what_the_guest_did_and_used(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    let usage = Usage { fuel: Some(12), cpu_us: Some(34), ..Usage::default() };
    let full = Outcome {
        state: OutcomeState::Failed,
        reason: Some(Reason::Trap),
        trap_kind: Some(gristmill_protocol::TrapKind::StackOverflow),
        exit_code: Some(-1),
        message: Some("it's \"quoted\"\0 and \u{1f980}".to_owned()),
        usage: usage.clone(),
    };
    script.update(1, &lease, report("full", full.clone(), Vec::new())).await;
    let job = script.job(job_id(1)).await;
    let attempt = store.attempt_get(job_id(1), 1).await.expect("read").expect("attempt");
    assert_eq!((job.reason, attempt.reason), (full.reason, full.reason));
    assert_eq!((job.trap_kind, attempt.trap_kind), (full.trap_kind, full.trap_kind));
    assert_eq!((job.exit_code, attempt.exit_code), (full.exit_code, full.exit_code));
    assert_eq!((&job.message, &attempt.message), (&full.message, &full.message));
    assert_eq!((job.usage, attempt.usage), (Some(usage.clone()), Some(usage)));
    assert_eq!(attempt.report, Some(digest("full")));
}

pub(crate) async fn outputs_become_visible_with_the_success_and_belong_to_the_tenant(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    let outputs = vec![output("b/2"), output("a"), output("c")];
    for entry in &outputs {
        store
            .blob_record_output(lease.job, lease.attempt, entry.digest, entry.size, bench.clock.now())
            .await
            .expect("stored");
    }
    let wanted: Vec<_> = outputs.iter().map(|entry| entry.digest).collect();
    assert!(store.output_list(lease.job).await.expect("outputs").is_empty());
    assert!(store.blob_visible(TENANT, &wanted).await.expect("read").is_empty());
    let done = report("done", outcome(OutcomeState::Succeeded, None), outputs.clone());
    script.update(1, &lease, done).await;
    let listed = store.output_list(lease.job).await.expect("outputs");
    assert_eq!(listed, [output("a"), output("b/2"), output("c")]);
    assert_eq!(store.output_get(lease.job, "b/2").await.expect("read"), Some(output("b/2")));
    assert_eq!(store.output_get(lease.job, "b").await.expect("read"), None);
    assert_eq!(store.blob_visible(TENANT, &wanted).await.expect("read").len(), 3);
    assert!(store.blob_visible("umbra", &wanted).await.expect("read").is_empty());
    let job = script.job(lease.job).await;
    assert_eq!((job.output_count, job.output_bytes), (3, 5));
}

pub(crate) async fn outputs_of_an_attempt_that_did_not_succeed_never_show(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let outputs = || vec![output("a")];
    let failed = script.run(submit(1)).await;
    let trap = report("trap", Outcome::failed(Reason::Trap, ""), outputs());
    assert_eq!(script.update(1, &failed, trap).await, UpdateVerdict::Accepted);
    let cancelled = script.run(submit(2)).await;
    store.job_cancel(cancel(cancelled.job)).await.expect("cancel");
    let late = report("late", outcome(OutcomeState::Succeeded, None), outputs());
    assert_eq!(script.update(1, &cancelled, late).await, UpdateVerdict::Accepted);
    for (id, state) in [(1, JobState::Failed), (2, JobState::Cancelled)] {
        let job = script.job(job_id(id)).await;
        assert_eq!((job.phase.state(), job.output_count, job.output_bytes), (state, 0, 0));
        assert!(store.output_list(job_id(id)).await.expect("outputs").is_empty());
    }
    assert!(store.blob_visible(TENANT, &[digest("a")]).await.expect("read").is_empty());
    judge(&*store).await;
}

pub(crate) async fn a_success_whose_outputs_cannot_all_be_kept_is_no_success(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    let before = bench.backend.dump().await;
    // The same path twice: the second row cannot be written after the first one was.
    let twice = report("twice", outcome(OutcomeState::Succeeded, None), vec![output("a"), output("a")]);
    // Neighbours in the same transaction are not harmed.
    let (bad, good) = tokio::join!(
        store.attempt_update(update(1, &lease, twice)),
        join_all((2..10).map(|n| store.job_submit(submit(n))))
    );
    assert!(bad.is_err(), "{bad:?}");
    assert!(good.iter().all(Result::is_ok), "{good:?}");
    let after = bench.backend.dump().await;
    assert!(before.iter().all(|row| after.contains(row)), "the failed report changed a row");
    assert_eq!(script.jobs(TENANT).await.len(), 9);
    let once = report("once", outcome(OutcomeState::Succeeded, None), vec![output("a")]);
    assert_eq!(script.update(1, &lease, once).await, UpdateVerdict::Accepted);
    judge(&*store).await;
}

pub(crate) async fn guest_failures_are_retried_as_the_job_asks(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let mut command = submit(1);
    command.retries = 2;
    command.retry_on = vec![Reason::WallTimeExceeded];
    script.submit(command).await;
    for (reason, waits) in
        [(Reason::RetryRequested, true), (Reason::WallTimeExceeded, true), (Reason::RetryRequested, false)]
    {
        let lease = script.lease(1).await;
        script.update(1, &lease, failure("asks", reason)).await;
        let job = script.job(job_id(1)).await;
        assert_eq!(job.phase == JobPhase::BackingOff, waits, "{job:?}");
        assert_eq!(job.reason, Some(reason));
        if waits {
            assert!(job.not_before.is_some_and(|at| at > bench.clock.now()));
            assert!(script.acquire(crate::commands::acquire(1, 1)).await.is_empty());
            assert_eq!(script.promote(&bench.clock).await, 0, "its time has not come");
            bench.clock.advance_s(61);
            assert_eq!(script.promote(&bench.clock).await, 1);
        }
    }
    assert_eq!(script.state(job_id(1)).await, (JobState::Failed, Some(Reason::RetryRequested)));
    judge(&*store).await;
}

pub(crate) async fn a_failure_that_nobody_named_is_not_retried(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for (n, reason) in
        [Reason::Trap, Reason::ExitCode, Reason::FuelExhausted, Reason::LinkError].into_iter().enumerate()
    {
        let mut command = submit(n as u64);
        command.retries = 5;
        let lease = script.run(command).await;
        script.update(1, &lease, failure("bad", reason)).await;
        assert_eq!(script.state(job_id(n as u64)).await, (JobState::Failed, Some(reason)));
    }
    judge(&*store).await;
}

pub(crate) async fn a_waiting_or_leased_job_is_cancelled_at_once(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    script.submit(submit(1)).await;
    let lease = script.lease(1).await;
    script.submit(submit(2)).await;
    for n in [1, 2] {
        let CancelReply::Job(job) = store.job_cancel(cancel(job_id(n))).await.expect("cancel") else {
            panic!("the job exists");
        };
        assert_eq!((job.phase, job.reason), (JobPhase::Cancelled, Some(Reason::CancelledByUser)));
        assert_eq!(script.job(job_id(n)).await.phase, JobPhase::Cancelled);
    }
    let attempt = store.attempt_get(job_id(1), 1).await.expect("read").expect("attempt");
    assert_eq!(attempt.phase.state(), AttemptState::Cancelled);
    assert_eq!(script.update(1, &lease, success("late")).await, UpdateVerdict::LeaseLost);
    let before = bench.backend.dump().await;
    store.job_cancel(cancel(job_id(1))).await.expect("a second cancel");
    assert_eq!(bench.backend.dump().await, before);
    assert_eq!(store.job_cancel(cancel(job_id(9))).await.expect("cancel"), CancelReply::NotFound);
    judge(&*store).await;
}

pub(crate) async fn a_running_job_is_cancelled_when_its_guest_has_stopped(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let ends: [fn() -> UpdateChange; 4] = [
        || success("won the race"),
        || failure("crashed", Reason::ExecutorCrashed),
        || failure("asks", Reason::RetryRequested),
        || UpdateChange::Released,
    ];
    for (n, end) in ends.into_iter().enumerate() {
        let mut command = submit(n as u64);
        command.retries = 9;
        let lease = script.run(command).await;
        store.job_cancel(cancel(lease.job)).await.expect("cancel");
        let job = script.job(lease.job).await;
        assert_eq!(job.phase, JobPhase::Stopping(StopCause::Cancel));
        assert_eq!(script.update(1, &lease, UpdateChange::Started).await, UpdateVerdict::Cancelled);
        assert_eq!(script.update(1, &lease, end()).await, UpdateVerdict::Accepted);
        assert_eq!(script.state(lease.job).await, (JobState::Cancelled, Some(Reason::CancelledByUser)));
    }
    let lease = script.run(submit(9)).await;
    store.job_cancel(cancel(lease.job)).await.expect("cancel");
    bench.clock.advance_s(31);
    assert_eq!(script.expire(&bench.clock).await, 1);
    assert_eq!(script.state(lease.job).await, (JobState::Cancelled, Some(Reason::CancelledByUser)));
    judge(&*store).await;
}

pub(crate) async fn of_a_cancel_and_a_success_that_race_exactly_one_wins(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let mut winners = [0, 0];
    for n in 0..60 {
        let lease = script.run(submit(n)).await;
        let id = lease.job;
        let finish = async {
            if n % 3 == 0 {
                tokio::task::yield_now().await;
            }
            store.attempt_update(update(1, &lease, success("done"))).await.expect("finish")
        };
        let stop = async {
            if n % 3 == 1 {
                tokio::task::yield_now().await;
            }
            store.job_cancel(cancel(id)).await.expect("cancel")
        };
        let (verdicts, reply) = if n % 2 == 0 {
            tokio::join!(finish, stop)
        } else {
            let (reply, verdicts) = tokio::join!(stop, finish);
            (verdicts, reply)
        };
        assert_eq!(verdicts, [UpdateVerdict::Accepted]);
        let CancelReply::Job(answer) = reply else { panic!("the job exists") };
        let job = script.job(id).await;
        if answer.phase == JobPhase::Succeeded {
            assert_eq!((job.phase, job.cancel_requested_at), (JobPhase::Succeeded, None));
            winners[0] += 1;
        } else {
            assert_eq!(answer.phase, JobPhase::Stopping(StopCause::Cancel));
            assert_eq!(job.phase, JobPhase::Cancelled);
            winners[1] += 1;
        }
    }
    assert!(winners.iter().all(|count| *count > 5), "both orders were tried: {winners:?}");
    judge(&*store).await;
}

pub(crate) async fn a_report_brings_the_end_of_its_log(bench: Bench) {
    use gristmill_lifecycle::{command::LogPiece, record::LogBody};
    use gristmill_protocol::attempt::LogStream;
    use gristmill_server::store::job::LogRange;
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    store.log_append(append(1, &lease, LogStream::Stdout, 0, b"head ")).await.expect("append");
    let tail = LogPiece {
        stream: LogStream::Stdout,
        offset: 3,
        elapsed_us: 9,
        body: LogBody::Inline(b"d tail".to_vec()),
        stored_len: 0,
    };
    let finish = || {
        UpdateChange::Finished(Box::new(Finish {
            report: digest("done"),
            outcome: outcome(OutcomeState::Succeeded, None),
            outputs: Vec::new(),
            log: vec![tail.clone()],
            log_truncated: true,
        }))
    };
    for _ in 0..2 {
        assert_eq!(script.update(1, &lease, finish()).await, UpdateVerdict::Accepted);
    }
    let range = LogRange { job: lease.job, attempt: 1, stream: None, offset: 0, limit: 10 };
    let pieces = store.log_list(range).await.expect("log");
    let text: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.bytes.expect("inline")).collect();
    assert_eq!(text, b"head tail");
    let attempt = store.attempt_get(lease.job, 1).await.expect("read").expect("attempt");
    assert_eq!((attempt.stdout_bytes, attempt.stderr_bytes, attempt.log_truncated), (9, 0, true));
}
