//! Conformance: uploads that can be resumed.

use std::time::Duration;

use gristmill_protocol::{
    Digest, TokenId, UploadId,
    tenancy::{TenantRetention, TenantView},
};
use gristmill_server::{
    clock::Clock,
    store::{
        Store,
        upload::{UploadPut, UploadRecord, UploadRoom, UploadStep},
    },
};

use crate::backend::Bench;

const ROOM: UploadRoom = UploadRoom { count_max: 3, bytes_max: 1_000 };

pub(crate) fn upload_id(number: u8) -> UploadId {
    UploadId::from_parts(u64::from(number), [number; 10])
}

fn token(number: u8) -> TokenId {
    TokenId::from_parts(1, [number; 10])
}

fn digest(number: u8) -> Digest {
    Digest::from_bytes([number; 32])
}

/// An upload of the tenant `a` that lasts a minute.
pub(crate) fn upload(bench: &Bench, number: u8, length: Option<u64>) -> UploadRecord {
    UploadRecord {
        id: upload_id(number),
        tenant: "a".into(),
        token: token(1),
        length,
        received: 0,
        declared: None,
        metadata: None,
        digest: None,
        completed_at: None,
        created_at: bench.clock.now(),
        expires_at: bench.clock.now() + Duration::from_secs(60),
    }
}

pub(crate) async fn with_tenants(bench: &Bench) -> std::sync::Arc<dyn Store> {
    let store = bench.open().await;
    for name in ["a", "b"] {
        let created_at = bench.clock.now();
        let tenant = TenantView {
            name: name.into(),
            queue_depth_max: 1,
            retention: TenantRetention::default(),
            created_at,
            version: 1,
        };
        assert!(store.tenant_create(tenant).await.expect("is stored"));
    }
    store
}

fn step(bench: &Bench, number: u8, from: u64, to: u64, length: Option<u64>) -> UploadStep {
    let expires_at = bench.clock.now() + Duration::from_secs(90);
    UploadStep { id: upload_id(number), from, to, length, expires_at }
}

#[track_caller]
fn record(put: UploadPut) -> UploadRecord {
    match put {
        UploadPut::Done(record) => *record,
        other => panic!("refused: {other:?}"),
    }
}

pub(crate) async fn an_upload_is_read_back_as_it_was_begun_and_moves_on_from_its_end_only(bench: Bench) {
    let store = with_tenants(&bench).await;
    let declared = Some(digest(9));
    let begun = UploadRecord { declared, metadata: Some("k dg==".into()), ..upload(&bench, 1, None) };
    assert_eq!(
        store.upload_create(begun.clone(), ROOM).await.expect("runs"),
        UploadPut::Done(Box::new(begun.clone()))
    );
    let store = bench.reopen(store).await;
    assert_eq!(store.upload_get(upload_id(1)).await.expect("runs"), Some(begun.clone()));
    assert_eq!(store.upload_get(upload_id(2)).await.expect("runs"), None);
    bench.clock.advance_s(5);
    let moved = record(store.upload_advance(step(&bench, 1, 0, 10, None), ROOM).await.expect("runs"));
    let expires_at = bench.clock.now() + Duration::from_secs(90);
    assert_eq!(moved, UploadRecord { received: 10, expires_at, ..begun });
    let before = bench.backend.dump().await;
    for (from, to, length) in [(0, 10, None), (0, 20, None), (11, 20, None), (9, 12, Some(12))] {
        let stale = store.upload_advance(step(&bench, 1, from, to, length), ROOM).await;
        assert_eq!(stale.expect("runs"), UploadPut::Stale, "{from}..{to}");
    }
    let absent = store.upload_advance(step(&bench, 2, 0, 1, None), ROOM).await.expect("runs");
    assert_eq!(absent, UploadPut::Stale);
    assert_eq!(bench.backend.dump().await, before);
    let longer = record(store.upload_advance(step(&bench, 1, 10, 10, Some(12)), ROOM).await.expect("runs"));
    assert_eq!((longer.received, longer.length), (10, Some(12)));
    let other = store.upload_advance(step(&bench, 1, 10, 11, Some(13)), ROOM).await.expect("runs");
    assert_eq!(other, UploadPut::Stale);
    let full = record(store.upload_advance(step(&bench, 1, 10, 12, Some(12)), ROOM).await.expect("runs"));
    assert_eq!(full.received, 12);
}

pub(crate) async fn a_blob_is_visible_to_the_tenant_with_its_upload_and_not_before(bench: Bench) {
    let store = with_tenants(&bench).await;
    record(store.upload_create(upload(&bench, 1, Some(4)), ROOM).await.expect("runs"));
    let visible = async |tenant: &str| {
        store.blob_visible(tenant, &[digest(3)]).await.expect("runs").get(&digest(3)).copied()
    };
    assert_eq!(store.upload_seal(upload_id(1), digest(3)).await.expect("runs"), UploadPut::Stale);
    assert_eq!(store.upload_complete(upload_id(1), bench.clock.now()).await.expect("runs"), UploadPut::Stale);
    record(store.upload_advance(step(&bench, 1, 0, 4, None), ROOM).await.expect("runs"));
    for _ in 0..2 {
        let sealed = record(store.upload_seal(upload_id(1), digest(3)).await.expect("runs"));
        assert_eq!((sealed.digest, sealed.completed_at), (Some(digest(3)), None));
    }
    assert_eq!(store.upload_seal(upload_id(1), digest(4)).await.expect("runs"), UploadPut::Stale);
    let more = store.upload_advance(step(&bench, 1, 4, 4, None), ROOM).await.expect("runs");
    assert_eq!(more, UploadPut::Stale);
    assert_eq!(visible("a").await, None);
    let at = bench.clock.now();
    for _ in 0..2 {
        let done = record(store.upload_complete(upload_id(1), bench.clock.now()).await.expect("runs"));
        assert_eq!(done.completed_at, Some(at));
        bench.clock.advance_s(1);
    }
    assert_eq!((visible("a").await, visible("b").await), (Some(4), None));
    assert!(store.upload_delete(upload_id(1)).await.expect("runs"));
    assert_eq!(visible("a").await, Some(4));
}

pub(crate) async fn the_room_of_a_tenant_counts_what_was_declared_and_what_has_come(bench: Bench) {
    let store = with_tenants(&bench).await;
    record(store.upload_create(upload(&bench, 1, Some(600)), ROOM).await.expect("runs"));
    let second = store.upload_create(upload(&bench, 2, Some(401)), ROOM).await.expect("runs");
    assert_eq!(second, UploadPut::TooMuch(1_001));
    let elsewhere = UploadRecord { tenant: "b".into(), ..upload(&bench, 2, Some(1_000)) };
    record(store.upload_create(elsewhere, ROOM).await.expect("runs"));
    record(store.upload_create(upload(&bench, 3, None), ROOM).await.expect("runs"));
    let grown = store.upload_advance(step(&bench, 3, 0, 401, None), ROOM).await.expect("runs");
    assert_eq!(grown, UploadPut::TooMuch(1_001));
    let told = store.upload_advance(step(&bench, 3, 0, 0, Some(401)), ROOM).await.expect("runs");
    assert_eq!(told, UploadPut::TooMuch(1_001));
    record(store.upload_advance(step(&bench, 3, 0, 400, None), ROOM).await.expect("runs"));
    record(store.upload_create(upload(&bench, 4, Some(0)), ROOM).await.expect("runs"));
    let fourth = store.upload_create(upload(&bench, 5, Some(0)), ROOM).await.expect("runs");
    assert_eq!(fourth, UploadPut::TooMany(3));
    // A complete one holds no room any more.
    record(store.upload_seal(upload_id(4), digest(4)).await.expect("runs"));
    record(store.upload_complete(upload_id(4), bench.clock.now()).await.expect("runs"));
    record(store.upload_create(upload(&bench, 5, Some(0)), ROOM).await.expect("runs"));
}

pub(crate) async fn uploads_are_listed_expire_and_are_forgotten(bench: Bench) {
    let store = with_tenants(&bench).await;
    record(store.upload_create(upload(&bench, 1, None), ROOM).await.expect("runs"));
    bench.clock.advance_s(10);
    let other = UploadRecord { token: token(2), ..upload(&bench, 2, None) };
    record(store.upload_create(other, ROOM).await.expect("runs"));
    let list = async |tenant: &str, token| {
        let found = store.upload_list(tenant, token).await.expect("runs");
        found.into_iter().map(|upload| upload.id).collect::<Vec<_>>()
    };
    assert_eq!(list("a", None).await, [upload_id(1), upload_id(2)]);
    assert_eq!(list("a", Some(token(2))).await, [upload_id(2)]);
    assert!(list("b", None).await.is_empty());
    let due = async || store.upload_due(bench.clock.now(), 10).await.expect("runs");
    bench.clock.advance_s(49);
    assert!(due().await.is_empty());
    bench.clock.advance_s(1);
    assert_eq!(due().await, [upload_id(1)]);
    bench.clock.advance_s(10);
    assert_eq!(due().await, [upload_id(1), upload_id(2)]);
    assert_eq!(store.upload_due(bench.clock.now(), 1).await.expect("runs"), [upload_id(1)]);
    assert!(store.upload_delete(upload_id(1)).await.expect("runs"));
    assert!(!store.upload_delete(upload_id(1)).await.expect("runs"));
    assert_eq!(list("a", None).await, [upload_id(2)]);
}
