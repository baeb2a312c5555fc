//! A migration that is killed leaves the database as it was, or done.

use std::{fs, path::Path, time::Duration};

use gristmill_tests::{cli::Home, repository};
use sqlx::{Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::e2e::text;

/// More jobs than a migration handles in a moment, each with an input.
const MANY: &str = "
    INSERT INTO jobs (seq, id, tenant, phase, class, priority, retries, retry_on, attempt, guest_retries,
        infrastructure_losses, created_at, output_count, output_bytes, version)
    WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
    SELECT i, 'job_' || i, tenant, 'ready', class, 0, 0, '', 0, 0, 0, created_at, 0, 0, 1
    FROM n, jobs WHERE jobs.seq = 1;
    INSERT INTO job_documents (seq, document)
    SELECT j.seq, d.document FROM jobs j, job_documents d WHERE d.seq = 1 AND j.seq >= 100;";

async fn open(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.expect("the database opens")
}

async fn column(path: &Path, sql: &'static str) -> Vec<String> {
    let mut connection = open(path).await;
    let found = sqlx::query_scalar(sql).fetch_all(&mut connection).await.expect("the query runs");
    connection.close().await.expect("closes");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_killed_is_not_begun_or_done() {
    let home = Home::default();
    let old = home.path().join("old.db");
    let mut connection = open(&old).await;
    let dump = repository().join("control-plane/server/tests/fixtures/schema-2.sql");
    let dump = fs::read_to_string(dump).expect("the dump");
    connection.execute(sqlx::AssertSqlSafe(dump)).await.expect("the dump is whole");
    connection.execute(MANY).await.expect("many jobs");
    connection.close().await.expect("closes");
    let data = home.path().join("data");
    let database = data.join("gristmill.db");
    let (mut untouched, mut killed) = (0, 0);
    for delay_ms in (0..400).step_by(25) {
        let _ = fs::remove_dir_all(&data);
        fs::create_dir(&data).expect("a directory");
        fs::copy(&old, &database).expect("a copy");
        let mut child = home.command(["migrate", "--data", &text(&data)]).spawn().expect("starts");
        // Any moment of the work is as good as any other.
        std::thread::sleep(Duration::from_millis(delay_ms));
        killed += u32::from(matches!(child.try_wait(), Ok(None)));
        let _ = child.kill();
        let _ = child.wait();
        assert_eq!(column(&database, "PRAGMA integrity_check").await, ["ok"]);
        let steps = column(&database, "SELECT version || '' FROM _sqlx_migrations ORDER BY version").await;
        let tables = column(&database, "SELECT name FROM sqlite_master WHERE name = 'job_blobs'").await;
        if steps == ["1", "2"] {
            untouched += 1;
            assert!(tables.is_empty(), "half of a migration is there");
        } else {
            assert_eq!(tables, ["job_blobs"], "{steps:?}");
            assert!(steps.contains(&"6".to_owned()), "{steps:?}");
        }
        home.run(["migrate", "--data", &text(&data)]).expect_code(0);
        home.run(["migrate", "--data", &text(&data), "--check"]).expect_code(0);
        let inputs = column(&database, "SELECT count(*) || '' FROM job_blobs").await;
        assert_eq!(inputs, ["19906"], "every job is tied to its input");
    }
    assert!(untouched > 0 && killed > 0, "some were killed in time: {untouched} of {killed}");
    fs::copy(&old, &database).expect("a copy");
    home.run(["migrate", "--data", &text(&data), "--check"]).expect_code(1);
}
