//! Uploads that can be resumed: both protocols as reviewed transcripts, and whoever misuses them.

use std::{io, sync::Arc};

use axum::body::Body;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use gristmill_protocol::{UploadId, tenancy::Scope};
use gristmill_server::ops;
use insta::assert_snapshot;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::http_api::{ADMIN, Answer, Api, Call, call, digest};

const UPLOADS: &str = "/v1/uploads";

fn tus(method: &'static str, target: &str) -> Call {
    call(method, target).header("tus-resumable", "1.0.0")
}

fn tus_piece(target: &str, offset: u64, bytes: &'static str) -> Call {
    let piece = tus("PATCH", target).header("upload-offset", offset.to_string()).bytes(bytes);
    piece.header("content-type", "application/offset+octet-stream")
}

fn piece(target: &str, offset: &str, complete: &str) -> Call {
    let piece = call("PATCH", target).header("content-type", "application/partial-upload");
    piece.header("upload-offset", offset).header("upload-complete", complete)
}

#[track_caller]
fn location(answer: &Answer) -> String {
    answer.header("location").unwrap_or_else(|| panic!("no location: {answer:?}")).to_owned()
}

/// Begins an upload in the IETF's way and answers its path.
async fn begin(api: &Api, length: u64) -> String {
    let begin = call("POST", UPLOADS).header("upload-complete", "?0");
    let begin = begin.header("upload-length", length.to_string()).header("content-length", "0");
    location(&api.admin(begin).await)
}

async fn offset(api: &Api, target: &str) -> Option<u64> {
    let answer = api.admin(call("HEAD", target)).await;
    answer.header("upload-offset").and_then(|text| text.parse().ok())
}

#[tokio::test]
async fn tus_is_spoken() {
    let mut api = Api::start().await;
    api.note("what there is", call("OPTIONS", UPLOADS)).await;
    let declared = STANDARD.encode(digest(b"hello tus"));
    let begin = tus("POST", UPLOADS).header("upload-length", "9");
    let begin = begin.header("upload-metadata", format!("filename d29ybGQ=,digest {declared}"));
    let at = location(&api.note_admin("begin", begin).await);
    api.note_admin("how far", tus("HEAD", &at)).await;
    api.note_admin("a piece", tus_piece(&at, 0, "hello ")).await;
    api.note_admin("a wrong offset", tus_piece(&at, 3, "tus")).await;
    api.note_admin("too many bytes", tus_piece(&at, 6, "tus and more")).await;
    api.note_admin("no offset", tus("PATCH", &at).header("content-type", "application/offset+octet-stream"))
        .await;
    api.note_admin("no piece", tus("PATCH", &at).header("upload-offset", "6").bytes("tus")).await;
    let sum = |text: &str| format!("sha256 {}", STANDARD.encode(Sha256::digest(text)));
    let checked = |text: &str| tus_piece(&at, 6, "tus").header("upload-checksum", sum(text));
    api.note_admin("a wrong checksum", checked("tuz")).await;
    api.note_admin("an unknown checksum", tus_piece(&at, 6, "tus").header("upload-checksum", "crc32 AA=="))
        .await;
    api.note_admin("still as far", tus("HEAD", &at)).await;
    api.note_admin("the last piece", checked("tus")).await;
    api.note_admin("complete", tus("HEAD", &at)).await;
    let blob = format!("/v1/blobs/{}", digest(b"hello tus"));
    api.note_admin("the blob", call("GET", blob)).await;
    api.note_admin("throw it away", tus("DELETE", &at)).await;
    api.note_admin("gone", tus("HEAD", &at)).await;
    let wrong = call("POST", UPLOADS).header("tus-resumable", "0.2.2");
    api.note_admin("another version", wrong).await;
    api.note("no token", tus("POST", UPLOADS).header("upload-length", "9")).await;
    let at_once = tus("POST", UPLOADS).header("upload-defer-length", "1").bytes("he");
    let at_once = at_once.header("content-type", "application/offset+octet-stream");
    let at = location(&api.note_admin("begin with bytes and without a length", at_once).await);
    api.note_admin("how far without a length", tus("HEAD", &at)).await;
    let sha1 = tus_piece(&at, 2, "llo").header("upload-length", "5");
    let sha1 = sha1.header("upload-checksum", "sha1 FetSFarWc0hhpaW7mXI5j96puNA=");
    api.note_admin("the length comes with the end", sha1).await;
    api.note_admin("nothing at all", tus("POST", UPLOADS).header("upload-length", "0")).await;
    let over = tus("POST", UPLOADS).header("upload-length", "1").header("x-http-method-override", "PATCH");
    let at = location(&api.admin(over).await);
    let over = tus("POST", &at).header("x-http-method-override", "PATCH").header("upload-offset", "0");
    let over = over.header("content-type", "application/offset+octet-stream").bytes("x");
    api.note_admin("by another method", over).await;
    assert_snapshot!(api.transcript());
}

#[tokio::test]
async fn the_ietf_draft_is_spoken() {
    let mut api = Api::start().await;
    let repr = |text: &str| format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(text)));
    let begin = || call("POST", UPLOADS).header("upload-complete", "?0").header("content-length", "0");
    let at = location(
        &api.note_admin("begin", begin().header("upload-length", "5").header("repr-digest", repr("hello")))
            .await,
    );
    api.note_admin("how far", call("HEAD", &at)).await;
    api.note_admin("a piece", piece(&at, "0", "?0").bytes("he")).await;
    api.note_admin("a wrong offset", piece(&at, "0", "?0").bytes("he")).await;
    api.note_admin("the end comes too early", piece(&at, "2", "?1").bytes("l")).await;
    api.note_admin("another length", piece(&at, "2", "?0").header("upload-length", "6").bytes("l")).await;
    let content = piece(&at, "2", "?1").header("content-digest", repr("llo")).bytes("llo");
    api.note_admin("the rest", content).await;
    api.note_admin("the same answer again", piece(&at, "5", "?1").header("content-length", "0")).await;
    api.note_admin("more than all", piece(&at, "5", "?1").bytes("!")).await;
    api.note_admin("as a document", call("GET", &at)).await;
    let at_once = call("POST", UPLOADS).header("upload-complete", "?1").bytes("all at once");
    api.note_admin("all at once", at_once).await;
    let nothing = call("POST", UPLOADS).header("upload-complete", "?1").header("content-length", "0");
    api.note_admin("nothing at all", nothing).await;
    let other = call("POST", UPLOADS).header("upload-complete", "?1").header("repr-digest", repr("a"));
    api.note_admin("another digest than declared", other.bytes("b")).await;
    let at = location(&api.note_admin("begin without a length", begin()).await);
    api.note_admin("list", call("GET", UPLOADS)).await;
    for wrong in ["-1", "1.5", "99999999999999999999", "a"] {
        api.note_admin("no offset", piece(&at, wrong, "?0").bytes("a")).await;
    }
    api.note_admin("no switch", piece(&at, "0", "yes").bytes("a")).await;
    let mismatch = call("POST", UPLOADS).header("upload-complete", "?1").header("upload-length", "2");
    api.note_admin("two lengths", mismatch.bytes("a")).await;
    api.note_admin("too large", begin().header("upload-length", "99999999999999")).await;
    api.note_admin("no piece", call("PATCH", &at).header("upload-offset", "0").bytes("a")).await;
    api.note_admin("cancel", call("DELETE", &at)).await;
    api.note_admin("cancelled", call("HEAD", &at)).await;
    api.note_admin("no such name", call("HEAD", "/v1/uploads/7")).await;
    api.note_admin("which protocol", call("POST", UPLOADS).bytes("a")).await;
    assert_snapshot!(api.transcript());
}

/// A body that a test feeds.
fn fed() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    (sender, Body::from_stream(pieces))
}

#[tokio::test]
async fn what_came_before_a_cut_is_kept_and_the_digest_is_right_also_after_a_restart() {
    let api = Api::start().await;
    let at = begin(&api, 8).await;
    let id: UploadId = at.trim_start_matches("/v1/uploads/").parse().expect("an id");
    for (start, bytes) in [(0, "abc"), (3, "de")] {
        let (sender, body) = fed();
        let feeding = async move {
            sender.send(Ok(Bytes::from(bytes))).await.expect("is read");
            sender.send(Err(io::Error::other("cut"))).await.expect("is read");
        };
        let (answer, ()) = tokio::join!(api.send_stream(piece(&at, &start.to_string(), "?1"), body), feeding);
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"));
        assert_eq!(offset(&api, &at).await, Some(start + bytes.len() as u64));
        // A restarted server has forgotten the running hash.
        api.app.uploads.forget(id);
    }
    let (sender, body) = fed();
    let checked = piece(&at, "5", "?1")
        .header("content-digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:");
    let feeding = async move {
        sender.send(Ok(Bytes::from_static(b"xyz"))).await.expect("is read");
        sender.send(Err(io::Error::other("cut"))).await.expect("is read");
    };
    let (answer, ()) = tokio::join!(api.send_stream(checked, body), feeding);
    assert_eq!(answer.status.as_u16(), 400);
    assert_eq!(offset(&api, &at).await, Some(5), "nothing is kept of a cut piece with a checksum");
    let done = api.admin(piece(&at, "5", "?1").bytes("fgh")).await;
    assert_eq!(done.json()["digest"], digest(b"abcdefgh"));
    let blob = api.admin(call("GET", format!("/v1/blobs/{}", digest(b"abcdefgh")))).await;
    assert_eq!(&blob.body[..], b"abcdefgh");
}

#[tokio::test]
async fn who_comes_last_has_the_upload_and_what_the_former_sent_is_kept() {
    let api = Arc::new(Api::start().await);
    let at = begin(&api, 6).await;
    let tasks = TaskTracker::new();
    for method in ["HEAD", "PATCH", "DELETE"] {
        let start = offset(&api, &at).await.expect("an offset");
        let (sender, body) = fed();
        let call_it = piece(&at, &start.to_string(), "?0");
        let former = tasks.spawn({
            let api = Arc::clone(&api);
            async move { api.send_stream(call_it, body).await }
        });
        sender.send(Ok(Bytes::from_static(b"ab"))).await.expect("is read");
        // A second send is taken only when the first one was read.
        sender.reserve().await.expect("the first one is read");
        match method {
            "HEAD" => assert_eq!(offset(&api, &at).await, Some(start + 2)),
            "PATCH" => {
                let late = api.admin(piece(&at, &start.to_string(), "?0").bytes("ab")).await;
                assert_eq!(late.code(), "upload_offset_mismatch");
                assert_eq!(late.json()["expected-offset"], start + 2);
            }
            _ => assert_eq!(api.admin(call("DELETE", &at)).await.status.as_u16(), 204),
        }
        drop(sender);
        let former = former.await.expect("no panic");
        assert_eq!((former.status.as_u16(), former.code().as_str()), (409, "conflict"), "{method}");
    }
    assert_eq!(offset(&api, &at).await, None);
    assert_eq!(api.files_left().await, 0);
}

#[tokio::test]
async fn an_upload_is_nobody_elses() {
    let api = Api::start().await;
    api.token("gmu_one", "default", &[Scope::Submit]).await;
    api.token("gmu_two", "default", &[Scope::Submit]).await;
    api.token("gmu_other", "other", &[Scope::Submit]).await;
    api.token("gmu_reader", "default", &[Scope::Read]).await;
    let begin = || call("POST", UPLOADS).header("upload-complete", "?0").header("content-length", "0");
    assert_eq!(api.send(begin().token("gmu_reader")).await.code(), "forbidden");
    let at = location(&api.send(begin().token("gmu_one")).await);
    for secret in ["gmu_two", "gmu_other"] {
        for attempt in [
            call("HEAD", &at),
            call("GET", &at),
            call("DELETE", &at),
            piece(&at, "0", "?1").bytes("theirs"),
            tus("HEAD", &at),
            tus("DELETE", &at),
            tus_piece(&at, 0, "theirs"),
        ] {
            assert_eq!(api.send(attempt.token(secret)).await.status.as_u16(), 404, "{secret}");
        }
        let list = api.send(call("GET", UPLOADS).token(secret)).await;
        assert_eq!(list.json()["items"].as_array().map(Vec::len), Some(0));
    }
    let done = api.send(piece(&at, "0", "?1").bytes("mine").token("gmu_one")).await;
    assert_eq!(done.status.as_u16(), 201);
    let blob = format!("/v1/blobs/{}", digest(b"mine"));
    assert_eq!(api.send(call("HEAD", &blob).token("gmu_two")).await.status.as_u16(), 200);
    assert_eq!(api.send(call("HEAD", &blob).token("gmu_other")).await.status.as_u16(), 404);
}

#[tokio::test]
async fn more_bytes_than_declared_end_the_upload_and_an_expired_one_is_swept_away() {
    let api = Api::start().await;
    let at = begin(&api, 4).await;
    let overlong = api.send_stream(
        piece(&at, "0", "?0"),
        Body::from_stream(stream::iter((0..3).map(|_| Ok::<_, io::Error>(Bytes::from_static(b"ab"))))),
    );
    assert_eq!(overlong.await.code(), "body_too_large");
    assert_eq!(offset(&api, &at).await, None);
    let at = begin(&api, 4).await;
    assert_eq!(api.admin(piece(&at, "0", "?0").bytes("ab")).await.status.as_u16(), 204);
    api.clock.advance_s(api.app.settings.upload_ttl.as_secs() - 1);
    api.token("gmu_late", "default", Scope::ALL).await;
    let late = async |call: Call| api.send(call.token("gmu_late")).await;
    let head = late(call("HEAD", &at)).await;
    assert_eq!(
        (head.header("upload-offset"), ops::expire_uploads(&api.app).await.ok()),
        (Some("2"), Some(0))
    );
    assert!(head.header("upload-limit").is_some_and(|text| text.ends_with("max-age=1")), "{head:?}");
    api.clock.advance_s(1);
    assert_eq!(late(call("HEAD", &at)).await.status.as_u16(), 404);
    assert_eq!(late(piece(&at, "2", "?1").bytes("cd")).await.status.as_u16(), 404);
    assert_eq!(ops::expire_uploads(&api.app).await.ok(), Some(1));
    assert_eq!(api.files_left().await, 0);
}

#[tokio::test]
async fn a_tenant_has_only_so_many_unfinished_uploads() {
    let api = Api::start().await;
    let room = api.app.settings.upload_bytes_tenant_max;
    let most = gristmill_protocol::limits::BLOB_BYTES_MAX;
    for _ in 0..room / most {
        begin(&api, most).await;
    }
    let begin = call("POST", UPLOADS).header("upload-complete", "?0").header("upload-length", "1");
    let full = api.send(begin.header("content-length", "0").token(ADMIN)).await;
    assert_eq!((full.status.as_u16(), full.code().as_str()), (429, "upload_limit"));
    assert!(full.header("retry-after").is_some());
}

#[tokio::test]
async fn a_file_that_lost_bytes_ends_its_upload_and_one_without_an_upload_is_removed() {
    let api = Api::start().await;
    let at = begin(&api, 4).await;
    assert_eq!(api.admin(piece(&at, "0", "?0").bytes("abc")).await.status.as_u16(), 204);
    let id: UploadId = at.trim_start_matches("/v1/uploads/").parse().expect("an id");
    api.app.blobs.uploads().remove(id).await.expect("is removed");
    let lost = api.admin(piece(&at, "3", "?1").bytes("d")).await;
    assert_eq!((lost.status.as_u16(), lost.code().as_str()), (404, "not_found"));
    assert_eq!(offset(&api, &at).await, None);
    let at = begin(&api, 4).await;
    assert_eq!(api.admin(piece(&at, "0", "?0").bytes("abc")).await.status.as_u16(), 204);
    let id: UploadId = at.trim_start_matches("/v1/uploads/").parse().expect("an id");
    assert_eq!(ops::remove_lost_uploads(&api.app).await.ok(), Some(0));
    assert!(api.app.store.upload_delete(id).await.expect("runs"));
    assert_eq!(ops::remove_lost_uploads(&api.app).await.ok(), Some(1));
    assert_eq!(api.files_left().await, 0);
}
