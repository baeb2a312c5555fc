//! Conformance: what is removed when it is too old, and what stays.

use gristmill_lifecycle::{
    command::{SubmitJob, SubmitReply},
    placement::ClassSpec,
};
use gristmill_protocol::{Digest, JobId, Outcome, Reason, attempt::LogStream, reason::OutcomeState};
use gristmill_server::{
    clock::Clock,
    store::{
        Store,
        job::LogRange,
        retention::{EndMark, EndedJob, Step},
    },
};

use crate::{
    backend::Bench,
    commands::{
        Script, TENANT, acquire, append, cancel, class, digest, events_after, job_id, keyed, node_id,
        outcome, output, report, submit, success,
    },
    history::judge,
};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// A submit of a job that reads blobs, which come with it.
fn reading(n: u64, texts: &[&str]) -> SubmitJob {
    let blobs: Vec<_> = texts.iter().map(|text| (digest(text), text.len() as u64)).collect();
    SubmitJob { inputs: blobs.iter().map(|(digest, _)| *digest).collect(), blobs, ..submit(n) }
}

/// Runs a job that succeeds with one output.
async fn succeed(bench: &Bench, store: &dyn Store, command: SubmitJob, path: &str) -> JobId {
    let script = Script(store);
    let lease = script.run(command).await;
    let made = output(path);
    let now = bench.clock.now();
    store.blob_record_output(lease.job, lease.attempt, made.digest, made.size, now).await.expect("stored");
    script.update(1, &lease, report(path, outcome(OutcomeState::Succeeded, None), vec![made])).await;
    lease.job
}

/// Purges jobs that have ended by now, a few rows at a time.
async fn purge_jobs(bench: &Bench, store: &dyn Store) -> u64 {
    let now = bench.clock.now();
    let mut total = 0;
    loop {
        match store.job_purge(TENANT, EndMark::of_time(now), now, 2).await.expect("purge") {
            0 => return total,
            removed => total += removed,
        }
    }
}

/// Forgets every blob that may go now.
async fn forget_blobs(bench: &Bench, store: &dyn Store) -> Vec<Digest> {
    let now = bench.clock.now();
    let mut found = Vec::new();
    while let Some(next) = {
        let page = store.blob_unused(now, found.last().copied(), 1).await.expect("look");
        page.first().copied()
    } {
        found.push(next);
    }
    let asked: Vec<_> = found.iter().map(|blob| blob.digest).collect();
    let mut gone: Vec<_> =
        store.blob_forget(&asked, now).await.expect("forget").into_iter().map(|(digest, _)| digest).collect();
    gone.sort_unstable();
    gone
}

fn sorted<const N: usize>(texts: [&str; N]) -> Vec<Digest> {
    let mut digests: Vec<_> = texts.into_iter().map(digest).collect();
    digests.sort_unstable();
    digests
}

pub(crate) async fn a_purged_job_leaves_nothing_behind_and_the_others_alone(bench: Bench) {
    let mut store = bench.open().await;
    let script = Script(&*store);
    let running = script.run(reading(1, &["shared"])).await;
    script.submit(reading(2, &["waits"])).await;
    let before = bench.backend.dump().await;
    for n in 10..15 {
        succeed(&bench, &*store, reading(n, &["shared", "own"]), "a").await;
    }
    let failed = script.run(submit(15)).await;
    script.update(1, &failed, report("trap", Outcome::failed(Reason::Trap, ""), Vec::new())).await;
    let newest = script.job(job_id(15)).await.seq;
    bench.clock.advance_s(1);
    assert_eq!(purge_jobs(&bench, &*store).await, 6);
    for n in 10..16 {
        assert!(store.job_get(job_id(n)).await.expect("read").is_none());
    }
    let apart =
        |row: &String| !row.starts_with("events") && !row.starts_with("blob") && !row.starts_with("meta");
    let left: Vec<_> = bench.backend.dump().await.into_iter().filter(apart).collect();
    let kept: Vec<_> = before.into_iter().filter(apart).collect();
    assert_eq!(left, kept, "all that was about the purged jobs is gone, and nothing else");
    assert_eq!(store.job_counts().await.expect("counts").queue_depth, 1);

    store = bench.reopen(store).await;
    let script = Script(&*store);
    let next = script.submit(submit(16)).await;
    assert!(next.seq > newest, "the number of a purged job is not given again: {next:?}");
    script.update(1, &running, success("done")).await;
    store.job_cancel(cancel(job_id(2))).await.expect("cancel");
    store.job_cancel(cancel(next.id)).await.expect("cancel");
    bench.clock.advance_s(1);
    assert_eq!(purge_jobs(&bench, &*store).await, 3);
    assert_eq!(bench.backend.column("SELECT count(*) || '' FROM attempts").await, ["0"]);
}

pub(crate) async fn a_job_is_kept_as_long_as_its_idempotency_key(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    script.submit(keyed(1, "once", "same")).await;
    store.job_cancel(cancel(job_id(1))).await.expect("cancel");
    bench.clock.advance_s(HOUR);
    assert_eq!(purge_jobs(&bench, &*store).await, 0);
    let again = store.job_submit(keyed(2, "once", "same")).await.expect("submit");
    assert_eq!(again, SubmitReply::Existing(job_id(1)), "the key stands for it");
    assert_eq!(store.idempotency_prune(bench.clock.now(), 10).await.expect("prune"), 1);
    assert_eq!(purge_jobs(&bench, &*store).await, 1);
    assert_eq!(script.submit(keyed(2, "once", "same")).await.id, job_id(2), "then the name is free again");
    store.event_purge(0, bench.clock.now(), 100).await.expect("purge");
    judge(&*store).await;
}

pub(crate) async fn jobs_that_ended_are_told_the_latest_first_with_what_they_hold(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let speaks = script.run(submit(1)).await;
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        store.log_append(append(1, &speaks, stream, 0, b"four")).await.expect("append");
    }
    let first = succeed(&bench, &*store, submit(2), "an output").await;
    bench.clock.advance_s(1);
    script.update(1, &speaks, success("done")).await;
    bench.clock.advance_s(1);
    let last = succeed(&bench, &*store, submit(3), "").await;
    script.run(submit(4)).await;
    let other = SubmitJob { tenant: "umbra".to_owned(), class: class("umbra"), ..submit(5) };
    script.submit(other).await;
    store.job_cancel(cancel(job_id(5))).await.expect("cancel");

    let mut expected = Vec::new();
    for (id, bytes) in [(last, 0), (speaks.job, 8), (first, 9)] {
        let job = script.job(id).await;
        let mark = EndMark { at: job.finished_at.expect("it has ended"), seq: job.seq };
        expected.push(EndedJob { mark, bytes });
    }
    let ended = async |before, limit| store.ended_jobs(TENANT, before, limit).await.expect("read");
    assert_eq!(ended(None, 10).await, expected);
    assert_eq!(ended(None, 2).await, expected[..2]);
    assert_eq!(ended(Some(expected[1].mark), 2).await, expected[2..]);
    store.log_purge(speaks.job, 10).await.expect("purge");
    assert_eq!(ended(Some(expected[0].mark), 1).await[0].bytes, 0, "its log is gone");
}

pub(crate) async fn jobs_that_ended_at_once_go_in_the_order_of_their_numbers(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let waits = script.submit(submit(1)).await;
    let other = SubmitJob { tenant: "umbra".to_owned(), class: class("umbra"), ..submit(2) };
    script.submit(other).await;
    for n in [3, 4, 5] {
        script.submit(submit(n)).await;
    }
    for n in [5, 2, 3, 4] {
        store.job_cancel(cancel(job_id(n))).await.expect("cancel");
    }
    let now = bench.clock.now();
    let middle = EndMark { at: now, seq: script.job(job_id(4)).await.seq };
    for (before, removed) in [(EndMark::of_time(now), 0), (middle, 1), (middle.behind(), 1)] {
        assert_eq!(store.job_purge(TENANT, before, now, 10).await.expect("purge"), removed, "{before:?}");
    }
    for (n, is_kept) in [(1, true), (2, true), (3, false), (4, false), (5, true)] {
        assert_eq!(store.job_get(job_id(n)).await.expect("read").is_some(), is_kept, "{n}");
    }
    let end = EndMark { at: now, seq: u64::from(u32::MAX) };
    assert_eq!(store.job_purge(TENANT, end, now, 10).await.expect("purge"), 1);
    assert_eq!(script.job(waits.id).await.finished_at, None, "it has not ended");
}

pub(crate) async fn a_log_goes_from_its_beginning_in_small_steps(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let (over, live) = (script.run(submit(1)).await, script.run(submit(2)).await);
    for lease in [&over, &live] {
        for n in 0..5 {
            store.log_append(append(1, lease, LogStream::Stdout, n * 2, b"ab")).await.expect("append");
        }
    }
    script.update(1, &over, success("done")).await;
    bench.clock.advance_s(1);
    let now = bench.clock.now();
    assert_eq!(purge_jobs(&bench, &*store).await, 0, "its log goes first");
    let end = EndMark::of_time(now);
    assert_eq!(store.logged_jobs(TENANT, None, end, 10).await.expect("look"), [over.job]);
    assert_eq!(store.logged_jobs(TENANT, Some(end), end, 10).await.expect("look"), []);
    assert_eq!(store.logged_jobs("umbra", None, end, 10).await.expect("look"), []);
    assert_eq!(store.log_purge(over.job, 3).await.expect("purge"), (3, Vec::new()));
    let range = |job| LogRange { job, attempt: 1, stream: None, offset: 0, limit: 10 };
    let left = store.log_list(range(over.job)).await.expect("read");
    assert_eq!(left.iter().map(|piece| piece.position).collect::<Vec<_>>(), [6, 8]);
    assert_eq!(store.log_purge(over.job, 3).await.expect("purge").0, 2);
    assert_eq!(store.log_purge(live.job, 3).await.expect("purge").0, 0, "it has not ended");
    assert_eq!(store.log_list(range(live.job)).await.expect("read").len(), 5);
    assert_eq!(purge_jobs(&bench, &*store).await, 1);
}

pub(crate) async fn events_are_kept_as_long_as_their_job(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    script.submit(submit(1)).await;
    script.submit(submit(2)).await;
    store.job_cancel(cancel(job_id(1))).await.expect("cancel");
    bench.clock.advance_s(DAY);
    let now = bench.clock.now();
    script.submit(submit(3)).await;
    let jobs = async || {
        let events = store.event_list(events_after(0, 100)).await.expect("events").events;
        events.into_iter().map(|event| event.job).collect::<Vec<_>>()
    };
    let purge = async || {
        let (mut after, mut total) = (0, 0);
        loop {
            let Step { removed, next } = store.event_purge(after, now, 1).await.expect("purge");
            total += removed;
            match next {
                Some(next) => after = next,
                None => return total,
            }
        }
    };
    let before = jobs().await;
    assert_eq!(purge().await, 0);
    assert_eq!(jobs().await, before);
    assert_eq!(purge_jobs(&bench, &*store).await, 1);
    assert_eq!(purge().await, before.iter().filter(|job| **job == job_id(1)).count() as u64);
    assert_eq!(jobs().await, [job_id(2), job_id(3)]);
    judge(&*store).await;
}

pub(crate) async fn a_class_goes_with_its_last_job_and_its_number_is_not_given_again(bench: Bench) {
    let store = bench.open().await;
    let of = |n: u64, cpus_milli: u32| {
        let command = submit(n);
        SubmitJob { class: ClassSpec { cpus_milli, ..command.class.clone() }, ..command }
    };
    let script = Script(&*store);
    let kept = script.submit(of(1, 100)).await.class;
    let (first, second) = (script.submit(of(2, 200)).await, script.submit(of(3, 200)).await);
    assert_eq!(first.class, second.class);
    for job in [&first, &second] {
        assert_eq!(store.class_purge(10).await.expect("purge"), 0, "a job refers to each");
        store.job_cancel(cancel(job.id)).await.expect("cancel");
        bench.clock.advance_s(1);
        assert_eq!(purge_jobs(&bench, &*store).await, 1);
    }
    assert_eq!(store.class_purge(10).await.expect("purge"), 1);
    assert!(store.class_get(first.class).await.expect("read").is_none());
    assert!(store.class_get(kept).await.expect("read").is_some());

    let (again, other) = (script.submit(of(4, 200)).await, script.submit(of(5, 300)).await);
    let numbers = [kept, first.class, again.class, other.class];
    assert!(numbers.is_sorted_by(|a, b| a < b), "each class has a number of its own: {numbers:?}");
    assert_eq!(script.submit(of(6, 200)).await.class, again.class);
    let leases = script.acquire(acquire(1, 10)).await;
    assert_eq!(leases.len(), 4, "all of them can be claimed: {leases:?}");
    let store = bench.reopen(store).await;
    assert_eq!(Script(&*store).submit(of(7, 300)).await.class, other.class);
}

pub(crate) async fn a_blob_goes_only_when_nothing_refers_to_it(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let now = bench.clock.now();
    store.blob_record(TENANT, digest("unused"), 6, now).await.expect("stored");
    let running = script.run(reading(1, &["input"])).await;
    store.blob_record_output(running.job, 1, digest("made"), 4, now).await.expect("stored");
    store.blob_record(TENANT, digest("had"), 3, now).await.expect("stored");
    let had = store.blob_output_sizes(TENANT, running.job, 1, &[digest("had")]).await.expect("look");
    assert_eq!(had[&digest("had")], 3, "the node need not send it, and may rely on it");
    let ended = succeed(&bench, &*store, reading(2, &["input", "second"]), "output").await;
    assert_eq!(forget_blobs(&bench, &*store).await, [], "all are fresh");
    bench.clock.advance_s(1);
    assert_eq!(forget_blobs(&bench, &*store).await, sorted(["unused"]));
    assert!(store.blob_visible(TENANT, &[digest("unused")]).await.expect("look").is_empty());

    assert_eq!(purge_jobs(&bench, &*store).await, 1);
    assert!(store.job_get(ended).await.expect("read").is_none());
    assert_eq!(forget_blobs(&bench, &*store).await, [], "they were in use until a moment ago");
    bench.clock.advance_s(1);
    assert_eq!(forget_blobs(&bench, &*store).await, sorted(["second", "output"]));

    script.update(1, &running, report("trap", Outcome::failed(Reason::Trap, ""), Vec::new())).await;
    assert_eq!(forget_blobs(&bench, &*store).await, sorted(["made", "had"]), "nobody will name them now");
    bench.clock.advance_s(1);
    assert_eq!(purge_jobs(&bench, &*store).await, 1);
    bench.clock.advance_s(1);
    assert_eq!(forget_blobs(&bench, &*store).await, sorted(["input"]));
    assert_eq!(store.blob_totals().await.expect("totals"), (0, 0));
}

pub(crate) async fn a_blob_that_was_said_to_be_there_stays_for_half_of_the_grace(bench: Bench) {
    let store = bench.open().await;
    let grace = bench.settings.retention.blob_grace;
    let (asked, other) = (digest("asked for"), digest("other"));
    for blob in [asked, other] {
        store.blob_record(TENANT, blob, 1, bench.clock.now()).await.expect("stored");
    }
    let before = |clock: &crate::stand_ins::ManualClock| clock.now() - grace;
    bench.clock.advance(grace / 10 * 9);
    assert_eq!(store.blob_visible(TENANT, &[asked]).await.expect("look").len(), 1);
    bench.clock.advance(grace / 2);
    let unused = store.blob_unused(before(&bench.clock), None, 10).await.expect("look");
    assert_eq!(unused.iter().map(|blob| blob.digest).collect::<Vec<_>>(), [other]);
    // Whoever looked before it was asked for removes nothing.
    let gone = store.blob_forget(&[asked, other], before(&bench.clock)).await.expect("forget");
    assert_eq!(gone, [(other, 1)]);
    assert!(store.blob_visible(TENANT, &[other]).await.expect("look").is_empty());
    assert!(store.blob_visible("umbra", &[asked]).await.expect("look").is_empty());
}

pub(crate) async fn a_job_whose_input_is_gone_is_refused(bench: Bench) {
    let store = bench.open().await;
    let mut command = submit(1);
    command.inputs = vec![digest("gone")];
    let before = bench.backend.dump().await;
    store.job_submit(command).await.expect_err("the database itself refuses it");
    assert_eq!(bench.backend.dump().await, before);
    Script(&*store).submit(reading(1, &["gone"])).await;
}

pub(crate) async fn bytes_that_no_row_knows_are_told_from_the_others(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    store.blob_record(TENANT, digest("known"), 5, bench.clock.now()).await.expect("stored");
    let unknown = store.blob_unknown(&[digest("known"), digest("unknown")]).await.expect("look");
    assert_eq!(unknown, [digest("unknown")]);

    let (over, live) = (script.run(submit(1)).await, script.run(submit(2)).await);
    let key = |job: JobId, piece: &str| format!("logs/{job}/1-7/stdout-{piece}");
    let mut stored = append(1, &over, LogStream::Stdout, 0, b"");
    stored.piece.body = gristmill_lifecycle::record::LogBody::Stored { key: key(over.job, "0-9"), skip: 0 };
    stored.piece.stored_len = 9;
    store.log_append(stored).await.expect("append");
    script.update(1, &over, success("done")).await;
    let keys = [
        key(over.job, "0-9"),
        key(over.job, "9-9"),
        key(live.job, "0-9"),
        key(job_id(99), "0-9"),
        format!("logs/{}/elsewhere", node_id(1)),
    ];
    let unknown = store.log_unknown(&keys).await.expect("look");
    assert_eq!(
        unknown,
        [key(over.job, "9-9"), key(job_id(99), "0-9")],
        "the live attempt may still need its"
    );
    let (pieces, purged) = store.log_purge(over.job, 10).await.expect("purge");
    assert_eq!((pieces, purged), (1, vec![key(over.job, "0-9")]));
}
