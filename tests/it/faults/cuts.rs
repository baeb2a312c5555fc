//! Connections break at random places, and the server dies in between: what was sent arrives whole, and
//! what is fetched is what was made.

use std::{
    fs,
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use gristmill_protocol::{JobId, JobState, job::BlobSource};
use gristmill_tests::{
    api::digest,
    cli::Home,
    cluster::TestCluster,
    cutter::{Cutter, Seeded},
    eventually, guests, repository, skip,
};
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{RECOVERY, small_job};
use crate::e2e::{file_input, text};

const BIG_BYTES: usize = 40 << 20;
/// Far fewer than the file has, so that only who goes on where it was cut ever comes to its end.
const CUT_BYTES_MAX: u64 = 6 << 20;
const LIMIT: Duration = Duration::from_secs(300);

fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut seeded = Seeded::new(seed);
    (0..count / 8).flat_map(|_| seeded.below(u64::MAX).to_le_bytes()).collect()
}

/// A command against the server behind `url`, started and not awaited.
fn start(cluster: &TestCluster, home: &Home, url: &str, args: &[&str]) -> Child {
    let mut command = home.command(args);
    command.env("GRISTMILL_SERVER", url).env("GRISTMILL_TOKEN", &cluster.api.token);
    let (out, err) = (home.path().join("stdout"), home.path().join("stderr"));
    command.stdout(fs::File::create(out).expect("a file")).stderr(fs::File::create(err).expect("a file"));
    command.spawn().expect("the binary starts")
}

/// Waits for the command's end and kills the server each time that so many more connections were cut.
async fn finish_while_killing(
    cluster: &mut TestCluster,
    home: &Home,
    cutter: &Cutter,
    mut child: Child,
    kills: &[u64],
) -> String {
    let give_up = Instant::now() + LIMIT;
    let mut kills = kills.iter();
    let mut next = kills.next();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if next.is_some_and(|cuts| cutter.cuts() >= *cuts) {
            cluster.restart_server().await;
            next = kills.next();
        }
        assert!(Instant::now() < give_up, "the command has not ended; {} cuts", cutter.cuts());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let read = |name| fs::read_to_string(home.path().join(name)).unwrap_or_default();
    assert!(status.success(), "{status} after {} cuts: {}", cutter.cuts(), read("stderr"));
    assert!(next.is_none(), "the server lived: there were only {} cuts", cutter.cuts());
    read("stdout")
}

fn files_below(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_at_random_places_arrives_whole_though_the_server_is_killed_twice() {
    let mut cluster = TestCluster::start().await;
    cluster.api.publish("noop", guests::noop()).await.expect("a module");
    let home = Home::default();
    let bytes = random_bytes(11, BIG_BYTES);
    let file = text(&home.file("big", &bytes));
    let cutter = Cutter::start(&cluster.api.url, 4_711, CUT_BYTES_MAX).await;
    let input = format!("big={file}");
    let args = ["job", "submit", "noop", "--in", &input];
    let child = start(&cluster, &home, &cutter.url, &args);
    let stdout = finish_while_killing(&mut cluster, &home, &cutter, child, &[2, 5]).await;
    let job: JobId = stdout.trim().parse().expect("the id of the job");

    let submitted = cluster.api.job(&job).await.expect("it is there");
    let expected: BlobSource = BlobSource::Digest(digest(&bytes).parse().expect("a digest"));
    assert_eq!(submitted.spec.inputs[0].source, expected);
    let path = format!("/v1/blobs/{}", digest(&bytes));
    let stored = cluster.api.request(Method::GET, &path).send().await.expect("an answer");
    assert_eq!(digest(&stored.bytes().await.expect("the blob")), digest(&bytes));
    let most = BIG_BYTES as u64 * 3;
    assert!(cutter.bytes() < most, "{} bytes were carried for {BIG_BYTES}", cutter.bytes());
    let uploads: serde_json::Value = cluster.api.get("/v1/uploads").await.expect("the list");
    assert_eq!(uploads["items"], serde_json::json!([]));
    assert_eq!(files_below(&cluster.data_dir().join("objects/uploads")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_cut_at_random_places_are_what_the_job_made() {
    let (mut cluster, _node) = TestCluster::with_node().await;
    let api = cluster.api.clone();
    api.publish("copies", guests::copies()).await.expect("a module");
    let bytes = random_bytes(12, BIG_BYTES);
    let input = api.put_blob(bytes.clone()).await.expect("stored");
    let mut spec = small_job("copies");
    spec.inputs.push(file_input("big", &input));
    let job = api.submit(&spec).await.expect("a job");
    let ended = api.finished(&job.id, RECOVERY).await.expect("the job ends");
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");

    let home = Home::default();
    let id = job.id.to_string();
    let cutter = Cutter::start(&api.url, 815, CUT_BYTES_MAX).await;
    let child = start(&cluster, &home, &cutter.url, &["job", "outputs", &id, "--out", "fetched"]);
    finish_while_killing(&mut cluster, &home, &cutter, child, &[2]).await;
    assert_eq!(digest(&fs::read(home.path().join("fetched/big")).expect("fetched")), digest(&bytes));

    let cutter = Cutter::start(&api.url, 816, CUT_BYTES_MAX).await;
    let child = start(&cluster, &home, &cutter.url, &["job", "outputs", &id, "--tar", "all.tar"]);
    finish_while_killing(&mut cluster, &home, &cutter, child, &[3]).await;
    let unpacked = std::process::Command::new("tar")
        .args(["-xf", "all.tar"])
        .current_dir(home.path())
        .status()
        .expect("tar runs");
    assert!(unpacked.success());
    assert_eq!(digest(&fs::read(home.path().join("big")).expect("unpacked")), digest(&bytes));
    let listed = api.request(Method::HEAD, &format!("/v1/jobs/{id}/outputs?format=tar")).send().await;
    let length = listed.expect("an answer").headers()["content-length"].to_str().map(str::to_owned);
    let size = fs::metadata(home.path().join("all.tar")).expect("saved").len();
    assert_eq!(length.expect("text"), size.to_string());
}

/// What a client by others does: a part, an interruption, and the rest in another process.
const TUS_CLIENT: &str = r#"
import base64, hashlib, sys
from tusclient import client
url, token, path, stop_at = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
upload = sys.argv[5] if len(sys.argv) > 5 else None
digest = "sha256:" + hashlib.sha256(open(path, "rb").read()).hexdigest()
tus = client.TusClient(url + "/v1/uploads", headers={"Authorization": "Bearer " + token})
uploader = tus.uploader(path, chunk_size=1 << 20, url=upload, upload_checksum=True,
                        metadata={"digest": digest, "filename": "big"}, retries=3, retry_delay=1)
uploader.upload(stop_at=stop_at or None)
print(uploader.url, uploader.offset)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_tus_client_by_others_uploads_in_parts_and_goes_on_after_the_server_was_killed() {
    let python = repository().join(".cache/tus/bin/python");
    if !python.exists() {
        return skip::without("TUS", "there is no tuspy, a client by others");
    }
    let mut cluster = TestCluster::start().await;
    let home = Home::default();
    let bytes = random_bytes(13, 9 << 20);
    let file = text(&home.file("big", &bytes));
    let run = |api: &gristmill_tests::api::Api, stop_at: &str, upload: &[&str]| {
        let args = [&["-c", TUS_CLIENT, &api.url, &api.token, &file, stop_at], upload].concat();
        let output = std::process::Command::new(&python).args(args).output().expect("python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let first = run(&cluster.api, &(4 << 20).to_string(), &[]);
    let (upload, offset) = first.rsplit_once(' ').expect("an address and an offset");
    assert_eq!(offset, (4 << 20).to_string());
    cluster.restart_server().await;
    let last = run(&cluster.api, "0", &[upload]);
    assert_eq!(last, format!("{upload} {}", bytes.len()));
    let path = format!("/v1/blobs/{}", digest(&bytes));
    eventually("the blob", Duration::from_secs(10), || async {
        let stored = cluster.api.request(Method::GET, &path).send().await.ok()?;
        let stored = stored.bytes().await.ok()?;
        (digest(&stored) == digest(&bytes)).then_some(())
    })
    .await;
}

/// Sends a piece with a declared length of its own and other bytes than that, and hangs up.
async fn lie(cluster: &TestCluster, upload: &str, offset: u64, length: u64, bytes: &[u8]) {
    let (url, token) = (&cluster.api.url, &cluster.api.token);
    let host = url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(host).await.expect("the server listens");
    let head = format!(
        "PATCH {upload} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/partial-upload\r\nUpload-Complete: ?0\r\nUpload-Offset: {offset}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), bytes].concat()).await.expect("it is read");
    if (bytes.len() as u64) < length {
        stream.shutdown().await.expect("it is open");
    }
    // Whatever the server says, it ends the connection.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_length_that_lies_adds_neither_more_nor_other_bytes_than_came() {
    let cluster = TestCluster::start().await;
    let begin = cluster.api.request(Method::POST, "/v1/uploads").header("upload-complete", "?0");
    let answer = begin.header("content-length", 0).send().await.expect("an answer");
    let upload = answer.headers()["location"].to_str().expect("a path").to_owned();
    let reached = async |expected: u64| {
        eventually("the offset", Duration::from_secs(30), || async {
            let answer = cluster.api.request(Method::HEAD, &upload).send().await.ok()?;
            (answer.headers()["upload-offset"] == expected.to_string().as_str()).then_some(())
        })
        .await;
    };
    lie(&cluster, &upload, 0, 100, b"0123456789").await;
    reached(10).await;
    lie(&cluster, &upload, 10, 5, b"abcdefghij").await;
    reached(15).await;
    lie(&cluster, &upload, 15, u64::MAX, b"x").await;
    lie(&cluster, &upload, 15, 1, b"y").await;
    reached(16).await;
    let last = cluster.api.request(Method::PATCH, &upload).header("upload-complete", "?1");
    let last = last.header("upload-offset", 16).header("content-type", "application/partial-upload");
    let stored: serde_json::Value =
        last.body("!").send().await.expect("an answer").json().await.expect("a blob");
    assert_eq!(stored["digest"], digest(b"0123456789abcdey!"), "{stored}");
}
