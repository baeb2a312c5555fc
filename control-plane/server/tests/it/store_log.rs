//! Conformance: logs.

use gristmill_lifecycle::{
    command::{AppendReply, LogPiece},
    record::LogBody,
};
use gristmill_protocol::attempt::LogStream::{self, Stderr, Stdout};
use gristmill_server::store::{
    Store,
    job::{LogChunkRecord, LogRange},
};

use crate::{
    backend::Bench,
    commands::{Script, append, job_id, submit},
    history::judge,
};

async fn read(store: &dyn Store, stream: Option<LogStream>, offset: u64) -> Vec<LogChunkRecord> {
    let range = LogRange { job: job_id(1), attempt: 1, stream, offset, limit: 100 };
    store.log_list(range).await.expect("the log can be read")
}

fn text(pieces: &[LogChunkRecord]) -> String {
    let bytes = pieces.iter().flat_map(|piece| piece.bytes.clone().expect("inline")).collect();
    String::from_utf8(bytes).expect("tests write text")
}

pub(crate) async fn an_append_is_placed_by_its_offset_and_repeated_without_harm(bench: Bench) {
    let store = bench.open().await;
    let lease = Script(&*store).run(submit(1)).await;
    let add = async |offset, bytes: &[u8]| {
        store.log_append(append(1, &lease, Stdout, offset, bytes)).await.expect("append")
    };
    assert_eq!(add(0, b"abc").await, AppendReply::Appended { stored: 3 });
    assert_eq!(add(4, b"gap").await, AppendReply::Gap { stored: 3 });
    let before = bench.backend.dump().await;
    assert_eq!(add(0, b"abc").await, AppendReply::Appended { stored: 3 });
    assert_eq!(add(1, b"b").await, AppendReply::Appended { stored: 3 });
    assert_eq!(add(3, b"").await, AppendReply::Appended { stored: 3 });
    assert_eq!(bench.backend.dump().await, before);
    assert_eq!(add(1, b"bcdef").await, AppendReply::Appended { stored: 6 });
    assert_eq!(text(&read(&*store, Some(Stdout), 0).await), "abcdef");
    let attempt = store.attempt_get(job_id(1), 1).await.expect("read").expect("attempt");
    assert_eq!(attempt.stdout_bytes, 6);
    judge(&*store).await;
}

pub(crate) async fn streams_are_kept_apart_and_merge_in_the_order_of_arrival(bench: Bench) {
    let store = bench.open().await;
    let lease = Script(&*store).run(submit(1)).await;
    for (stream, offset, bytes) in
        [(Stdout, 0, "o1 "), (Stderr, 0, "e1 "), (Stderr, 3, "e2 "), (Stdout, 3, "o2 ")]
    {
        store.log_append(append(1, &lease, stream, offset, bytes.as_bytes())).await.expect("append");
    }
    assert_eq!(text(&read(&*store, Some(Stdout), 0).await), "o1 o2 ");
    assert_eq!(text(&read(&*store, Some(Stderr), 0).await), "e1 e2 ");
    let merged = read(&*store, None, 0).await;
    assert_eq!(text(&merged), "o1 e1 e2 o2 ");
    let positions: Vec<_> = merged.iter().map(|piece| (piece.position, piece.len)).collect();
    assert_eq!(positions, [(0, 3), (3, 3), (6, 3), (9, 3)]);
    // A read begins with the piece that holds the offset.
    assert_eq!(text(&read(&*store, Some(Stderr), 4).await), "e2 ");
    assert_eq!(text(&read(&*store, None, 5).await), "e1 e2 o2 ");
    assert_eq!(text(&read(&*store, None, 6).await), "e2 o2 ");
}

pub(crate) async fn bytes_that_are_kept_elsewhere_are_named_with_what_to_skip(bench: Bench) {
    let store = bench.open().await;
    let lease = Script(&*store).run(submit(1)).await;
    store.log_append(append(1, &lease, Stdout, 0, b"12345")).await.expect("append");
    let mut command = append(1, &lease, Stdout, 2, b"");
    command.piece = LogPiece {
        stream: Stdout,
        offset: 2,
        elapsed_us: 0,
        body: LogBody::Stored { key: "logs/a".to_owned(), skip: 0 },
        stored_len: 10,
    };
    let reply = store.log_append(command).await.expect("append");
    assert_eq!(reply, AppendReply::Appended { stored: 12 });
    let pieces = read(&*store, Some(Stdout), 5).await;
    assert_eq!(pieces.len(), 1);
    assert_eq!((pieces[0].offset, pieces[0].len), (5, 7));
    assert_eq!(pieces[0].stored, Some(("logs/a".to_owned(), 3)));
}

pub(crate) async fn any_bytes_survive(bench: Bench) {
    let store = bench.open().await;
    let lease = Script(&*store).run(submit(1)).await;
    let bytes: Vec<u8> = (0..=255).cycle().take(8_192).collect();
    store.log_append(append(1, &lease, Stdout, 0, &bytes)).await.expect("append");
    assert_eq!(read(&*store, None, 0).await[0].bytes, Some(bytes));
}
