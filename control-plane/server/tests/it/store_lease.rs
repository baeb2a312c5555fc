//! Conformance: what a lease allows, and for how long.

use std::time::Duration;

use gristmill_lifecycle::{
    command::{AppendReply, EndLeases, ExpireLeases, LeaseGranted, UpdateChange},
    job::JobPhase,
};
use gristmill_protocol::{
    AttemptState, JobState, LeaseToken, Reason,
    attempt::LogStream,
    node_api::{LeaseVerdict, UpdateVerdict},
};
use gristmill_server::{clock::Clock, store::Store};

use crate::{
    backend::Bench,
    commands::{Script, acquire, append, cancel, failure, job_id, node_id, renew, submit, success},
    history::judge,
};

/// Everything that a node can ask for under a lease that it does not hold is refused and changes
/// no row.
async fn expect_powerless(bench: &Bench, store: &dyn Store, node: u8, lease: &LeaseGranted) {
    let before = bench.backend.dump().await;
    let script = Script(store);
    for change in [
        UpdateChange::Started,
        UpdateChange::Released,
        success("late"),
        failure("late", Reason::Trap),
        failure("late", Reason::ExecutorCrashed),
    ] {
        assert_eq!(script.update(node, lease, change).await, UpdateVerdict::LeaseLost);
    }
    let verdicts = store.lease_renew(renew(node, lease)).await.expect("renew");
    assert!(matches!(verdicts[..], [LeaseVerdict::Lost]), "{verdicts:?}");
    for offset in [0, 3] {
        let reply = store.log_append(append(node, lease, LogStream::Stdout, offset, b"late")).await;
        assert_eq!(reply.expect("append"), AppendReply::LeaseLost);
    }
    assert_eq!(bench.backend.dump().await, before);
}

pub(crate) async fn a_stale_lease_has_no_effect_anywhere(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let stale = script.run(submit(1)).await;
    store.log_append(append(1, &stale, LogStream::Stdout, 0, b"abc")).await.expect("append");
    script.lose(&bench.clock).await;
    expect_powerless(&bench, &*store, 1, &stale).await;
    let current = script.lease(1).await;
    assert_eq!((current.job, current.attempt), (stale.job, 2));
    expect_powerless(&bench, &*store, 1, &stale).await;
    script.update(1, &current, UpdateChange::Started).await;
    expect_powerless(&bench, &*store, 1, &stale).await;
    assert_eq!(script.update(1, &current, success("done")).await, UpdateVerdict::Accepted);
    expect_powerless(&bench, &*store, 1, &stale).await;
    judge(&*store).await;
}

pub(crate) async fn a_lease_is_worth_nothing_to_another_node_or_with_another_token(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    expect_powerless(&bench, &*store, 2, &lease).await;
    let guess = |token: &str| LeaseGranted { token: LeaseToken::from_text(token), ..lease.clone() };
    let token = lease.token.as_str();
    for wrong in ["", "0", &token[1..], &token.to_uppercase(), &format!("{token}0"), &"0".repeat(32)] {
        if wrong != token {
            expect_powerless(&bench, &*store, 1, &guess(wrong)).await;
        }
    }
    expect_powerless(&bench, &*store, 1, &LeaseGranted { attempt: 2, ..lease.clone() }).await;
    expect_powerless(&bench, &*store, 1, &LeaseGranted { job: job_id(9), ..lease.clone() }).await;
    assert_eq!(script.update(1, &lease, success("done")).await, UpdateVerdict::Accepted);
}

pub(crate) async fn a_renewed_lease_lasts_its_full_time_from_the_renewal(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    bench.clock.advance_s(20);
    let verdicts = store.lease_renew(renew(1, &lease)).await.expect("renew");
    assert!(matches!(verdicts[..], [LeaseVerdict::Held { ttl_ms: 30_000, cancel: false }]), "{verdicts:?}");
    bench.clock.advance(Duration::from_micros(29_999_999));
    assert_eq!(script.expire(&bench.clock).await, 0);
    bench.clock.advance(Duration::from_micros(1));
    assert_eq!(script.expire(&bench.clock).await, 1);
    let job = script.job(job_id(1)).await;
    assert_eq!((job.phase, job.reason), (JobPhase::BackingOff, Some(Reason::LeaseExpired)));
    let attempt = store.attempt_get(job.id, 1).await.expect("read").expect("attempt");
    assert_eq!(attempt.phase.state(), AttemptState::Lost);
    judge(&*store).await;
}

pub(crate) async fn a_sweep_that_read_before_a_renewal_does_not_end_the_lease(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    bench.clock.advance_s(31);
    let attempts = store.lease_due(bench.clock.now(), 10).await.expect("due");
    assert_eq!(attempts, [(lease.job, 1)]);
    store.lease_renew(renew(1, &lease)).await.expect("renew");
    let before = bench.backend.dump().await;
    assert_eq!(store.lease_expire(ExpireLeases { attempts }).await.expect("expire"), 0);
    assert_eq!(bench.backend.dump().await, before);
}

pub(crate) async fn after_a_restart_every_live_lease_lasts_its_full_time(bench: Bench) {
    let store = bench.open().await;
    let lease = Script(&*store).run(submit(1)).await;
    store.close().await;
    bench.clock.advance_s(3_600);
    let store = bench.open().await;
    let script = Script(&*store);
    assert_eq!(script.expire(&bench.clock).await, 0);
    bench.clock.advance_s(29);
    assert_eq!(script.expire(&bench.clock).await, 0);
    let verdicts = store.lease_renew(renew(1, &lease)).await.expect("renew");
    assert!(matches!(verdicts[..], [LeaseVerdict::Held { .. }]));
    bench.clock.advance_s(20);
    assert_eq!(store.lease_grace().await.expect("grace"), 1);
    bench.clock.advance_s(29);
    assert_eq!(script.expire(&bench.clock).await, 0);
    bench.clock.advance_s(1);
    assert_eq!(script.expire(&bench.clock).await, 1);
    judge(&*store).await;
}

pub(crate) async fn leases_of_a_former_incarnation_end_and_those_of_the_present_stay(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    for n in 0..4 {
        script.submit(submit(n)).await;
    }
    let old = script.acquire(acquire(1, 2)).await;
    let mut anew = acquire(1, 1);
    anew.incarnation = "second".into();
    let kept = script.acquire(anew).await.pop().expect("a job");
    let foreign = script.lease(2).await;
    let mut leases = store.lease_of_node(node_id(1)).await.expect("leases");
    assert_eq!(leases.len(), 3);
    leases.push(((foreign.job, 1), "first".to_owned()));
    let command = EndLeases {
        node: node_id(1),
        attempts: leases.into_iter().map(|(key, _)| key).collect(),
        incarnation_kept: Some("second".to_owned()),
        actor: node_id(1).to_string(),
    };
    assert_eq!(store.lease_end(command.clone()).await.expect("end"), 2);
    assert_eq!(store.lease_end(command).await.expect("end"), 0);
    for lease in &old {
        expect_powerless(&bench, &*store, 1, lease).await;
        assert_eq!(script.job(lease.job).await.phase, JobPhase::BackingOff);
    }
    assert_eq!(script.update(1, &kept, success("done")).await, UpdateVerdict::Accepted);
    assert_eq!(script.update(2, &foreign, success("done")).await, UpdateVerdict::Accepted);
    judge(&*store).await;
}

pub(crate) async fn the_sixth_lost_attempt_is_the_last(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    script.submit(submit(1)).await;
    for _ in 0..5 {
        script.lease(1).await;
        script.lose(&bench.clock).await;
    }
    script.lease(1).await;
    bench.clock.advance_s(31);
    assert_eq!(script.expire(&bench.clock).await, 1);
    assert_eq!(script.state(job_id(1)).await, (JobState::Failed, Some(Reason::AttemptsExhausted)));
    judge(&*store).await;
}

pub(crate) async fn a_released_lease_does_not_count_as_an_attempt(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    script.submit(submit(1)).await;
    for _ in 0..20 {
        let lease = script.lease(1).await;
        assert_eq!(script.update(1, &lease, UpdateChange::Released).await, UpdateVerdict::Accepted);
        assert_eq!(script.update(1, &lease, UpdateChange::Released).await, UpdateVerdict::Accepted);
        assert_eq!(script.job(job_id(1)).await.phase, JobPhase::Ready, "no backoff after a release");
    }
    let job = script.job(job_id(1)).await;
    assert_eq!((job.infrastructure_losses, job.guest_retries), (0, 0));
    judge(&*store).await;
}

pub(crate) async fn a_lease_state_says_whether_the_guest_has_to_stop(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    let key = (lease.job, lease.attempt);
    let states = store.lease_states(&[key, (job_id(5), 1)]).await.expect("states");
    assert_eq!(states.len(), 1);
    assert!(!states[&key].stop && states[&key].attempt.token == lease.token);
    store.job_cancel(cancel(lease.job)).await.expect("cancel");
    assert!(store.lease_states(&[key]).await.expect("states")[&key].stop);
    let verdicts = store.lease_renew(renew(1, &lease)).await.expect("renew");
    assert!(matches!(verdicts[..], [LeaseVerdict::Held { cancel: true, .. }]), "{verdicts:?}");
}
