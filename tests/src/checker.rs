//! Checks a server's whole history in its database: what was acknowledged is there, every job took
//! only steps that are allowed, what is stored has the bytes that its digest says, and the bytes of every
//! output are stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
};

use gristmill_protocol::JobId;
use sha2::{Digest as _, Sha256};
use sqlx::{Connection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

/// One row of the record of transitions.
#[derive(Debug, Clone)]
struct Event {
    kind: String,
    attempt: Option<i64>,
    fence: Option<i64>,
    state: String,
}

/// One file that a job made, as the tables name it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Output {
    job: String,
    path: String,
    digest: String,
    size: i64,
}

/// What the tables say about one job at the end.
#[derive(Debug, Default)]
struct Final {
    state: String,
    succeeded_attempts: i64,
    outputs: i64,
}

/// Checks the data directory of a server, which may be running.
///
/// # Panics
/// At the first rule that does not hold; the panic shows the job's history.
pub async fn check(data_dir: &Path, acknowledged: &[JobId]) {
    let database = find(data_dir, &|path| {
        let mut head = [0; 15];
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
        read.is_ok() && &head == b"SQLite format 3"
    });
    let [database] = database.as_slice() else { panic!("expected one database, found {database:?}") };
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let mut reader = SqliteConnection::connect_with(&options).await.expect("the database opens");

    let sound: String = sqlx::query("PRAGMA integrity_check")
        .fetch_one(&mut reader)
        .await
        .and_then(|row| row.try_get(0))
        .expect("the check runs");
    assert_eq!(sound, "ok", "the database is damaged");
    // One transaction, so that history and tables are of the same moment.
    let mut reader = reader.begin().await.expect("a read transaction");
    let histories = read_histories(&mut reader).await;
    let finals = read_finals(&mut reader).await;
    let outputs = read_outputs(&mut reader).await;
    drop(reader);

    for id in acknowledged {
        assert!(finals.contains_key(&id.to_string()), "{id} was acknowledged and is lost");
    }
    for (job, at_end) in &finals {
        let history = histories.get(job).map(Vec::as_slice).unwrap_or_default();
        if let Err(broken) = follow(history, at_end) {
            panic!("{job}: {broken}\n{at_end:?}\n{history:#?}");
        }
    }
    let missing = missing(&outputs, &sound_blobs(data_dir));
    assert!(missing.is_empty(), "outputs without their bytes: {missing:#?}");
}

async fn read_histories(reader: &mut SqliteConnection) -> BTreeMap<String, Vec<Event>> {
    let rows = sqlx::query("SELECT job, kind, attempt, fence, state FROM events ORDER BY seq")
        .fetch_all(reader)
        .await
        .expect("the record of transitions");
    let mut histories = BTreeMap::<String, Vec<Event>>::new();
    for row in rows {
        let event = Event {
            kind: row.get("kind"),
            attempt: row.get("attempt"),
            fence: row.get("fence"),
            state: row.get("state"),
        };
        histories.entry(row.get("job")).or_default().push(event);
    }
    histories
}

async fn read_finals(reader: &mut SqliteConnection) -> BTreeMap<String, Final> {
    let rows = sqlx::query(
        "SELECT id, state,
           (SELECT count(*) FROM attempts WHERE job = jobs.id AND state = 'succeeded') AS succeeded,
           (SELECT count(*) FROM outputs WHERE job = jobs.id) AS outputs
         FROM jobs",
    )
    .fetch_all(reader)
    .await
    .expect("the jobs");
    let read = |row: &sqlx::sqlite::SqliteRow| Final {
        state: row.get("state"),
        succeeded_attempts: row.get("succeeded"),
        outputs: row.get("outputs"),
    };
    rows.iter().map(|row| (row.get("id"), read(row))).collect()
}

async fn read_outputs(reader: &mut SqliteConnection) -> Vec<Output> {
    let rows = sqlx::query("SELECT job, path, digest, size FROM outputs")
        .fetch_all(reader)
        .await
        .expect("the outputs");
    let read = |row: &sqlx::sqlite::SqliteRow| Output {
        job: row.get("job"),
        path: row.get("path"),
        digest: row.get("digest"),
        size: row.get("size"),
    };
    rows.iter().map(read).collect()
}

/// Follows one job through its history.
fn follow(history: &[Event], at_end: &Final) -> Result<(), String> {
    let terminal = ["succeeded", "failed", "cancelled"];
    let mut finished: Option<&str> = None;
    let mut cancel_requested = false;
    let mut live: Option<i64> = None;
    let mut fence_before = 0;
    let mut ended = BTreeSet::new();
    if history.first().is_none_or(|event| event.kind != "job_submitted") {
        return Err("the history does not begin with the submit".to_owned());
    }
    for (index, event) in history.iter().enumerate() {
        let after_end = finished.is_some();
        match event.kind.as_str() {
            "job_submitted" if index > 0 => return Err("submitted twice".to_owned()),
            "attempt_leased" => {
                let fence = event.fence.ok_or("a lease without a fence")?;
                if after_end || live.is_some() {
                    return Err(format!(
                        "attempt {:?} was leased beside another or after the end",
                        event.attempt
                    ));
                }
                if fence <= fence_before {
                    return Err(format!("fence {fence} does not rise above {fence_before}"));
                }
                fence_before = fence;
                live = event.attempt;
            }
            "attempt_started" if live != event.attempt || after_end => {
                return Err(format!("attempt {:?} started without its lease", event.attempt));
            }
            "attempt_ended" => {
                if live != event.attempt || !ended.insert(event.attempt) {
                    return Err(format!("attempt {:?} ended without its lease, or twice", event.attempt));
                }
                live = None;
            }
            "job_requeued" if after_end => return Err("queued again after its end".to_owned()),
            "job_cancel_requested" => cancel_requested = true,
            "job_finished" => {
                if after_end {
                    return Err("a second terminal state".to_owned());
                }
                if cancel_requested && event.state == "succeeded" {
                    return Err("succeeded after an acknowledged cancel".to_owned());
                }
                finished = Some(&event.state);
            }
            _ => {}
        }
    }
    if terminal.contains(&at_end.state.as_str()) != finished.is_some() {
        return Err("state and history disagree on whether the job has ended".to_owned());
    }
    if finished.is_some_and(|state| state != at_end.state) {
        return Err("state and history disagree on how the job ended".to_owned());
    }
    if finished.is_some() && live.is_some() {
        return Err("a lease outlives its job".to_owned());
    }
    let expected = i64::from(at_end.state == "succeeded");
    if at_end.succeeded_attempts != expected {
        return Err(format!("{} accepted results instead of {expected}", at_end.succeeded_attempts));
    }
    if at_end.outputs > 0 && expected == 0 {
        return Err("outputs of a job that did not succeed are visible".to_owned());
    }
    Ok(())
}

/// Sizes of all stored blobs by digest, in hex. Panics if one has other bytes than its name says.
fn sound_blobs(data_dir: &Path) -> BTreeMap<String, i64> {
    let mut sizes = BTreeMap::new();
    for blob in find(data_dir, &|path| digest_in(path).is_some()) {
        let mut hasher = Sha256::new();
        let mut file = std::fs::File::open(&blob).expect("a stored blob opens");
        let mut block = vec![0; 1 << 20];
        let mut size = 0;
        loop {
            let read = file.read(&mut block).expect("a stored blob can be read");
            if read == 0 {
                break;
            }
            size += read as i64;
            hasher.update(&block[..read]);
        }
        let digest = hex::encode(hasher.finalize());
        assert_eq!(Some(&digest), digest_in(&blob).as_ref(), "a stored blob is damaged");
        sizes.insert(digest, size);
    }
    sizes
}

/// The outputs whose bytes are not stored, or not all of them.
fn missing(outputs: &[Output], stored: &BTreeMap<String, i64>) -> Vec<Output> {
    let is_whole = |output: &&Output| {
        let hex = output.digest.strip_prefix("sha256:").unwrap_or(&output.digest);
        stored.get(hex) == Some(&output.size)
    };
    outputs.iter().filter(|output| !is_whole(output)).cloned().collect()
}

/// The digest by which a path `…/sha256/ab/cdef…` names its bytes.
fn digest_in(path: &Path) -> Option<String> {
    let parts: Vec<&str> = path.iter().rev().take(3).map(|part| part.to_str()).collect::<Option<_>>()?;
    let [rest, start, "sha256"] = parts[..] else { return None };
    let digest = format!("{start}{rest}");
    (digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digest)
}

fn find(dir: &Path, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(find(&path, wanted));
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, attempt: i64, state: &str) -> Event {
        let of_attempt = kind.starts_with("attempt").then_some(attempt);
        Event { kind: kind.to_owned(), attempt: of_attempt, fence: of_attempt, state: state.to_owned() }
    }

    fn succeeded() -> Final {
        Final { state: "succeeded".to_owned(), succeeded_attempts: 1, outputs: 1 }
    }

    fn good() -> Vec<Event> {
        vec![
            event("job_submitted", 0, "queued"),
            event("attempt_leased", 1, "leased"),
            event("attempt_ended", 1, "lost"),
            event("job_requeued", 0, "queued"),
            event("attempt_leased", 2, "leased"),
            event("attempt_started", 2, "running"),
            event("attempt_ended", 2, "succeeded"),
            event("job_finished", 0, "succeeded"),
        ]
    }

    #[test]
    fn a_good_history_passes() {
        assert_eq!(follow(&good(), &succeeded()), Ok(()));
    }

    #[test]
    fn every_broken_rule_is_found() {
        let without = |index: usize| {
            let mut history = good();
            history.remove(index);
            history
        };
        let with = |index: usize, extra: Event| {
            let mut history = good();
            history.insert(index, extra);
            history
        };
        let broken = [
            without(0),
            without(2),
            without(4),
            without(7),
            with(8, event("job_finished", 0, "succeeded")),
            with(8, event("job_requeued", 0, "queued")),
            with(8, event("attempt_leased", 3, "leased")),
            with(6, event("job_cancel_requested", 0, "running")),
            with(7, event("attempt_ended", 2, "succeeded")),
        ];
        for history in broken {
            assert!(follow(&history, &succeeded()).is_err(), "{history:#?}");
        }
        let mut stale = good();
        stale[4].fence = Some(1);
        assert!(follow(&stale, &succeeded()).is_err(), "a fence that does not rise");
        let two = Final { succeeded_attempts: 2, ..succeeded() };
        assert!(follow(&good(), &two).is_err());
    }

    #[test]
    fn an_output_whose_file_is_gone_or_cut_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = |bytes: &[u8]| {
            let hex = hex::encode(Sha256::digest(bytes));
            let folder = dir.path().join("objects/blobs/sha256").join(&hex[..2]);
            std::fs::create_dir_all(&folder).expect("a directory");
            std::fs::write(folder.join(&hex[2..]), bytes).expect("a file");
            Output {
                job: "job_1".into(),
                path: "result".into(),
                digest: format!("sha256:{hex}"),
                size: bytes.len() as i64,
            }
        };
        let (whole, also) = (store(b"result"), store(b"another"));
        let stored = sound_blobs(dir.path());
        assert_eq!(missing(&[whole.clone(), also.clone()], &stored), []);
        let gone = Output { digest: format!("sha256:{}", "0".repeat(64)), ..whole.clone() };
        let cut = Output { size: 7, ..whole.clone() };
        assert_eq!(missing(&[gone.clone(), whole, cut.clone(), also], &stored), [gone, cut]);
    }
}
