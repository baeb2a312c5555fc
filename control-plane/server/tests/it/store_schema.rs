//! Conformance: what the database itself refuses, so that a wrong statement cannot break a promise.

use gristmill_lifecycle::command::UpdateChange;
use gristmill_server::store::upload::UploadRoom;

use crate::{
    backend::Bench,
    commands::{Script, job_id, submit, success},
    store_upload::{upload, with_tenants},
};

/// Runs a statement that must be refused and must change nothing.
async fn expect_refused(bench: &Bench, sql: &str) {
    let before = bench.backend.dump().await;
    let refused = bench.backend.run(sql).await;
    assert!(refused.is_err(), "{sql} changed {refused:?} rows");
    assert_eq!(bench.backend.dump().await, before);
}

const COPY: &str = "SELECT job, number + 1, fence + 1, 'forged', state, node, zone, incarnation, cpus_milli,
    memory_bytes, leased_at, expires_at, started_at, ended_at, reason, trap_kind, message, exit_code, usage,
    report, stdout_bytes, stderr_bytes, log_truncated FROM attempts";

pub(crate) async fn a_second_live_lease_of_a_job_cannot_be_written(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    script.submit(submit(1)).await;
    let lease = script.lease(1).await;
    expect_refused(&bench, &format!("INSERT INTO attempts {COPY}")).await;
    script.update(1, &lease, UpdateChange::Started).await;
    expect_refused(&bench, &format!("INSERT INTO attempts {COPY}")).await;
    script.update(1, &lease, success("done")).await;
    // The same statement works once the first lease has ended, so it was refused for that reason.
    let ended = format!("INSERT INTO attempts {COPY}");
    assert_eq!(bench.backend.run(&ended).await, Ok(1));
}

pub(crate) async fn a_final_state_cannot_be_left(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    script.update(1, &lease, success("done")).await;
    for phase in ["ready", "running", "failed", "cancelled"] {
        expect_refused(&bench, &format!("UPDATE jobs SET phase = '{phase}', finished_at = NULL")).await;
        expect_refused(&bench, &format!("UPDATE jobs SET phase = '{phase}'")).await;
    }
    expect_refused(&bench, "UPDATE attempts SET state = 'running', ended_at = NULL").await;
    expect_refused(&bench, "UPDATE attempts SET exit_code = 1").await;
    expect_refused(&bench, "UPDATE jobs SET cancel_requested_at = 1").await;
}

pub(crate) async fn a_fence_cannot_be_used_again(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    script.submit(submit(1)).await;
    for _ in 0..2 {
        let lease = script.lease(1).await;
        script.update(1, &lease, UpdateChange::Released).await;
    }
    for fence in ["fence", "fence - 1"] {
        let copy = COPY.replace("fence + 1", fence).replace("number + 1", "number + 7");
        expect_refused(&bench, &format!("INSERT INTO attempts {copy} WHERE number = 2")).await;
    }
}

pub(crate) async fn the_log_of_events_cannot_be_changed(bench: Bench) {
    let store = bench.open().await;
    Script(&*store).submit(submit(1)).await;
    expect_refused(&bench, "UPDATE events SET actor = 'somebody else'").await;
    expect_refused(&bench, "DELETE FROM events").await;
}

pub(crate) async fn a_job_that_has_not_ended_cannot_be_deleted(bench: Bench) {
    let store = bench.open().await;
    Script(&*store).submit(submit(1)).await;
    expect_refused(&bench, "DELETE FROM jobs").await;
    assert!(store.job_get(job_id(1)).await.expect("read").is_some());
}

pub(crate) async fn a_cancelled_job_cannot_be_written_as_succeeded(bench: Bench) {
    let store = bench.open().await;
    let lease = Script(&*store).run(submit(1)).await;
    store.job_cancel(crate::commands::cancel(lease.job)).await.expect("cancel");
    expect_refused(&bench, "UPDATE jobs SET phase = 'succeeded', finished_at = 1").await;
}

pub(crate) async fn an_offset_cannot_be_taken_back(bench: Bench) {
    let store = with_tenants(&bench).await;
    let room = UploadRoom { count_max: 9, bytes_max: 100 };
    store.upload_create(upload(&bench, 1, Some(10)), room).await.expect("runs");
    assert_eq!(bench.backend.run("UPDATE uploads SET received = 7").await, Ok(1));
    for received in ["received - 1", "0", "11", "-1"] {
        expect_refused(&bench, &format!("UPDATE uploads SET received = {received}")).await;
    }
    expect_refused(&bench, "UPDATE uploads SET digest = 'x', completed_at = 1").await;
    assert_eq!(bench.backend.run("UPDATE uploads SET received = 8, declared = 'x'").await, Ok(1));
    expect_refused(&bench, "UPDATE uploads SET digest = 'y'").await;
    assert_eq!(bench.backend.run("UPDATE uploads SET digest = 'x'").await, Ok(1));
    expect_refused(&bench, "UPDATE uploads SET received = 9").await;
}
