//! A database of the oldest schema is brought up to date with everything in it, and nothing of it is
//! changed when that fails.

use std::path::{Path, PathBuf};

use gristmill_lifecycle::job::JobPhase;
use gristmill_protocol::{JobId, JobState, Timestamp};
use gristmill_server::store::{
    job::JobQuery,
    sqlite::{SqliteStore, read_schema, upgrade},
};
use sqlx::{Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::{
    backend::{Backend, Bench, SqliteBackend, scratch_dir},
    commands::{Script, acquire},
};

/// What the oldest release's server had written when it was killed.
const OLDEST: &str = include_str!("../fixtures/schema-2.sql");

async fn oldest() -> (TempDir, PathBuf) {
    let dir = scratch_dir();
    let path = dir.path().join("gristmill.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.expect("a new file");
    connection.execute(OLDEST).await.expect("the dump is whole");
    connection.close().await.expect("closes");
    (dir, path)
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

/// Every table, index and trigger, as it was made, without the spaces.
async fn shape(backend: &dyn Backend) -> Vec<String> {
    let sql = "SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_master
               WHERE name NOT LIKE '\\_sqlx%' ESCAPE '\\' ORDER BY 1";
    let all = backend.column(sql).await;
    all.iter().map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn copies(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("before-migration")).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn the_oldest_database_is_brought_up_to_date_with_everything_in_it() {
    let (dir, path) = oldest().await;
    let before = read_schema(&path).await.expect("reads");
    assert_eq!(before.found, Some(2));
    assert!(!before.pending.is_empty());
    let bench = Bench::sqlite();
    let store = SqliteStore::open(&path, bench.options()).await.expect("opens");
    assert_eq!(read_schema(&path).await.expect("reads").pending, []);
    let query = JobQuery { limit: 100, ..JobQuery::default() };
    let jobs = gristmill_server::store::job::JobStore::job_list(&*store, query).await.expect("jobs");
    let states: Vec<_> = jobs.iter().map(|job| job.phase.state()).collect();
    let (queued, over) = (JobState::Queued, [JobState::Succeeded, JobState::Cancelled, JobState::Failed]);
    assert_eq!(states, [queued, over[0], over[1], queued, over[2]]);
    let store: std::sync::Arc<dyn gristmill_server::store::Store> = store;
    let script = Script(&*store);
    let leases = script.acquire(acquire(1, 10)).await;
    assert_eq!(leases.len(), 1, "the waiting job is ready, the leased one is not");
    assert_eq!(jobs[0].phase, JobPhase::Leased);
    let done: JobId = jobs[1].id;
    assert_eq!(store.output_list(done).await.expect("outputs").len(), 1);
    let known = store.idempotency_find("default", &["once".to_owned()]).await.expect("reads");
    assert_eq!(known["once"].job, done);
    store.close().await;

    let backend = SqliteBackend::in_dir(dir.path());
    backend.settle().await;
    assert!(backend.column("SELECT 'broken' FROM pragma_foreign_key_check").await.is_empty());
    let (fresh_dir, fresh) = (scratch_dir(), Bench::sqlite());
    SqliteStore::open(&fresh_dir.path().join("gristmill.db"), fresh.options()).await.expect("opens");
    let new = SqliteBackend::in_dir(fresh_dir.path());
    assert_eq!(shape(&backend).await, shape(&new).await, "the tables are those of a new database");
    // Inputs of kept jobs are tied to them.
    assert_eq!(backend.column("SELECT count(*) || '' FROM job_blobs").await, ["5"]);

    let record =
        "SELECT actor || ' ' || operation || ' ' || version_before || ' ' || version_after FROM audit";
    let expected = format!("server schema_migrate 2 {}", before.latest);
    assert_eq!(backend.column(record).await, [expected], "the record tells of it");
    assert!(new.column(record).await.is_empty(), "a new database was not migrated");

    assert_eq!(copies(dir.path()), ["schema-2.db"]);
    let copy = read_schema(&dir.path().join("before-migration/schema-2.db")).await.expect("reads");
    assert_eq!(copy.found, Some(2), "the copy is as it was before");
    assert!(copies(fresh_dir.path()).is_empty(), "a new database needs no copy");
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing() {
    let (dir, path) = oldest().await;
    let backend = SqliteBackend::in_dir(dir.path());
    // A later migration makes this table too; all that come before it succeed.
    backend.run("CREATE TABLE job_blobs (in_the_way TEXT)").await.expect("runs");
    let (tables, rows) = (shape(&backend).await, backend.dump().await);
    let error = upgrade(&path, now()).await.expect_err("the last step fails");
    let texts: Vec<_> = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source())
        .map(ToString::to_string)
        .collect();
    assert!(texts.iter().any(|text| text.contains("nothing was changed")), "{texts:?}");
    assert_eq!((shape(&backend).await, backend.dump().await), (tables, rows));
    assert_eq!(read_schema(&path).await.expect("reads").found, Some(2));
    backend.run("DROP TABLE job_blobs").await.expect("runs");
    let copy = upgrade(&path, now()).await.expect("succeeds now").expect("with a copy");
    assert_eq!(copy, dir.path().join("before-migration/schema-2.db"));
    assert_eq!(upgrade(&path, now()).await.expect("again"), None, "there is nothing to do");
}

#[tokio::test]
async fn what_an_earlier_version_purged_of_the_events_stays_known() {
    for (purged, newest) in [("0", 0), ("seq = 1", 1), ("seq IN (2, 4)", 4), ("seq >= 3", i64::MAX)] {
        let (dir, path) = oldest().await;
        let backend = SqliteBackend::in_dir(dir.path());
        let count = backend.column("SELECT max(seq) || '' FROM events").await;
        let count: i64 = count[0].parse().expect("a number");
        assert!(count > 4);
        backend.run("DROP TRIGGER events_are_kept").await.expect("runs");
        backend.run(&format!("DELETE FROM events WHERE {purged}")).await.expect("runs");
        upgrade(&path, now()).await.expect("succeeds");
        let known = backend.column("SELECT value || '' FROM meta WHERE name = 'purged_event'").await;
        assert_eq!(known, [newest.min(count).to_string()], "{purged}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let (dir, path) = oldest().await;
    upgrade(&path, now()).await.expect("succeeds");
    let backend = SqliteBackend::in_dir(dir.path());
    let newer = "INSERT INTO _sqlx_migrations SELECT 9999, 'later', installed_on, success, checksum,
                 execution_time FROM _sqlx_migrations WHERE version = 1";
    backend.run(newer).await.expect("runs");
    let before = backend.dump().await;
    let error = SqliteStore::open(&path, Bench::sqlite().options()).await.expect_err("is refused");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("newer version") && cause.contains("9999"), "{cause}");
    assert_eq!(backend.dump().await, before);
}

#[tokio::test]
async fn copies_of_the_three_newest_schemas_are_kept() {
    let (dir, path) = oldest().await;
    let folder = dir.path().join("before-migration");
    std::fs::create_dir(&folder).expect("a folder");
    for name in ["schema-0.db", "schema-1.db", "schema-10.db", "schema-9.db", "notes.txt", "schema-2.partial"]
    {
        std::fs::write(folder.join(name), "old").expect("a file");
    }
    upgrade(&path, now()).await.expect("succeeds");
    assert_eq!(copies(dir.path()), ["notes.txt", "schema-10.db", "schema-2.db", "schema-9.db"]);
}
