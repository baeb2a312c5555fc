//! Conformance: the record of transitions as it is read.

use std::collections::BTreeSet;

use gristmill_protocol::event::{EventKind, EventView};
use gristmill_server::clock::Clock as _;
use gristmill_server::store::{
    Store,
    event::{EventPage, EventQuery},
    retention::EndMark,
};
use tokio_util::task::TaskTracker;

use crate::{
    backend::Bench,
    commands::{Script, TENANT, cancel, class, events_after, job_id, submit, success},
};

fn of(tenant: &str, n: u64) -> gristmill_lifecycle::command::SubmitJob {
    gristmill_lifecycle::command::SubmitJob { tenant: tenant.to_owned(), class: class(tenant), ..submit(n) }
}

/// Reads to the end in pages of a size and checks that they fit together.
async fn read_all(store: &dyn Store, query: EventQuery) -> Vec<EventView> {
    let mut all = Vec::<EventView>::new();
    let mut query = query;
    loop {
        let page = store.event_list(query.clone()).await.expect("a page");
        assert!(page.events.len() <= query.limit as usize && page.next >= query.after);
        assert!(page.events.iter().all(|event| event.id > query.after && event.id <= page.next), "{page:?}");
        all.extend(page.events);
        query.after = page.next;
        if page.next == page.newest {
            assert!(all.is_sorted_by_key(|event| event.id));
            return all;
        }
    }
}

pub(crate) async fn events_tell_whom_they_concern_and_what_changed(bench: Bench) {
    let store = bench.open().await;
    let script = Script(&*store);
    let lease = script.run(submit(1)).await;
    script.update(1, &lease, success("done")).await;
    let told: Vec<_> = read_all(&*store, events_after(0, 100))
        .await
        .into_iter()
        .map(|event| (event.kind, event.tenant, event.zone, event.from, event.state))
        .collect();
    let zone = Some("default".to_owned());
    let row = |kind, zone, from: Option<&str>, state: &str| {
        (kind, TENANT.to_owned(), zone, from.map(str::to_owned), state.to_owned())
    };
    assert_eq!(
        told,
        [
            row(EventKind::JobSubmitted, None, None, "queued"),
            row(EventKind::AttemptLeased, zone.clone(), None, "leased"),
            row(EventKind::AttemptStarted, zone.clone(), Some("leased"), "running"),
            row(EventKind::AttemptEnded, zone.clone(), Some("running"), "succeeded"),
            row(EventKind::JobFinished, zone, Some("running"), "succeeded"),
        ]
    );
}

pub(crate) async fn pages_follow_each_other_without_gap_or_overlap_under_every_condition(bench: Bench) {
    let store = bench.open().await;
    for n in 0..60 {
        store.job_submit(of(["acme", "other", "third"][(n % 3) as usize], n)).await.expect("accepted");
    }
    for n in [3, 4, 6] {
        store.job_cancel(cancel(job_id(n))).await.expect("cancelled");
    }
    let all = read_all(&*store, events_after(0, 1_000)).await;
    assert_eq!(all.len(), 60 + 3 * 2);
    for limit in [1, 7, 66] {
        assert_eq!(read_all(&*store, events_after(0, limit)).await, all);
        let after = all[20].id;
        assert_eq!(read_all(&*store, events_after(after, limit)).await, all[21..]);
        let other = EventQuery { tenant: Some("other".into()), ..events_after(0, limit) };
        let expected: Vec<_> = all.iter().filter(|event| event.tenant == "other").cloned().collect();
        assert_eq!(read_all(&*store, other.clone()).await, expected);
        let job = EventQuery { job: Some(job_id(4)), ..other.clone() };
        let expected: Vec<_> = all.iter().filter(|event| event.job == job_id(4)).cloned().collect();
        assert_eq!((read_all(&*store, job.clone()).await, expected.len()), (expected, 3));
        let foreign = EventQuery { tenant: Some("acme".into()), ..job };
        assert_eq!(read_all(&*store, foreign).await, []);
        let labelled = EventQuery { label: Some(("n".into(), "6".into())), ..events_after(0, limit) };
        let expected: Vec<_> = all.iter().filter(|event| event.job == job_id(6)).cloned().collect();
        assert_eq!(read_all(&*store, labelled).await, expected);
        let module = |name: &str| EventQuery { module: Some(name.to_owned()), ..other.clone() };
        assert_eq!(read_all(&*store, module("echo")).await, read_all(&*store, other.clone()).await);
        assert_eq!(read_all(&*store, module("nothing")).await, []);
    }
}

pub(crate) async fn a_page_says_what_is_still_kept(bench: Bench) {
    let store = bench.open().await;
    let page = store.event_list(events_after(0, 10)).await.expect("a page");
    assert_eq!((page.oldest, page.newest, page.next), (1, 0, 0));
    for n in 0..5 {
        store.job_submit(submit(n)).await.expect("accepted");
    }
    bench.backend.run("DROP TRIGGER events_are_kept").await.expect("dropped");
    bench.backend.run("DELETE FROM events WHERE seq <= 3").await.expect("deleted");
    let page = store.event_list(events_after(0, 10)).await.expect("a page");
    assert_eq!((page.oldest, page.newest, page.next, page.events.len()), (4, 5, 5, 2));
    bench.backend.run("DELETE FROM events").await.expect("deleted");
    let page = store.event_list(events_after(0, 10)).await.expect("a page");
    assert_eq!((page.oldest, page.newest, page.next), (6, 5, 5), "ids are not given out again");
    let store = bench.reopen(store).await;
    store.job_submit(submit(9)).await.expect("accepted");
    let page = store.event_list(events_after(5, 10)).await.expect("a page");
    assert_eq!((page.events[0].id, page.oldest, page.newest), (6, 6, 6));
}

pub(crate) async fn a_gap_is_remembered_though_older_events_are_kept(bench: Bench) {
    let store = bench.open().await;
    for n in 0..4 {
        store.job_submit(submit(n)).await.expect("accepted");
    }
    // Events 5 and 6 end job 2, whose first one is event 3.
    store.job_cancel(cancel(job_id(2))).await.expect("cancelled");
    bench.clock.advance_s(1);
    let now = bench.clock.now();
    store.job_submit(submit(4)).await.expect("accepted");
    assert_eq!(store.job_purge(TENANT, EndMark::of_time(now), now, 10).await.expect("purge"), 1);
    let purged = store.event_purge(0, now, 100).await.expect("purge").removed;
    let ids = |page: &EventPage| page.events.iter().map(|event| event.id).collect::<Vec<_>>();
    let check = async |store: &dyn Store| {
        let page = store.event_list(events_after(2, 10)).await.expect("a page");
        assert_eq!(ids(&page), [4, purged + 4], "{page:?}");
        assert_eq!((page.oldest, page.newest), (purged + 4, purged + 4));
        let of_job = |job| EventQuery { job: Some(job), ..events_after(0, 10) };
        let page = store.event_list(of_job(job_id(0))).await.expect("a page");
        assert_eq!((ids(&page), page.oldest), (vec![1], 1), "a job that is kept has all its events");
        let foreign = EventQuery { tenant: Some("other".into()), ..of_job(job_id(0)) };
        let gone = store.event_list(of_job(job_id(2))).await.expect("a page");
        let hidden = store.event_list(foreign).await.expect("a page");
        assert_eq!((gone.events, gone.oldest), (Vec::new(), purged + 4));
        assert_eq!((hidden.events, hidden.oldest), (Vec::new(), purged + 4), "as if it were not there");
    };
    assert_eq!(purged, 3);
    check(&*store).await;
    check(&*bench.reopen(store).await).await;
}

pub(crate) async fn a_reader_beside_the_writer_misses_nothing(bench: Bench) {
    let store = bench.open().await;
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let store = store.clone();
            TaskTracker::new().spawn(async move {
                for n in 0..40 {
                    store.job_submit(submit(writer * 1_000 + n)).await.expect("accepted");
                }
            })
        })
        .collect();
    let (mut seen, mut after) = (Vec::new(), 0);
    while seen.len() < 320 {
        let page = store.event_list(events_after(after, 16)).await.expect("a page");
        seen.extend(page.events.into_iter().map(|event| (event.id, event.job)));
        after = page.next;
    }
    for writer in writers {
        writer.await.expect("the writer ends");
    }
    assert!(seen.is_sorted_by_key(|(id, _)| *id));
    let jobs: BTreeSet<_> = seen.iter().map(|(_, job)| *job).collect();
    assert_eq!(jobs.len(), 320);
}
