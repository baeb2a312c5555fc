//! What one token can do to others: who may take which back, what goes with it, and how long and how
//! many a token can make.

use gristmill_protocol::tenancy::Scope;
use serde_json::{Value, json};

use crate::{
    backend::Backend,
    http_api::{ADMIN, Answer, Api, call},
};

async fn make(api: &Api, by: &str, body: Value) -> Answer {
    api.send(call("POST", "/v1/tokens").json(&body).token(by)).await
}

/// Makes a token; returns its id, its secret and its end.
async fn made(api: &Api, by: &str, body: Value) -> (String, String, String) {
    let answer = make(api, by, body).await;
    assert_eq!(answer.status, 201, "{}", answer.json());
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let body = answer.json();
    (text(&body["token"]["id"]), text(&body["secret"]), text(&body["token"]["expires_at"]))
}

async fn revoke(api: &Api, by: &str, id: impl std::fmt::Display) -> Answer {
    api.send(call("POST", format!("/v1/tokens/{id}/revoke")).token(by)).await
}

async fn is_served(api: &Api, secret: &str) -> bool {
    api.send(call("GET", "/v1/tenants").token(secret)).await.status == 200
}

#[tokio::test]
async fn a_token_takes_back_only_what_may_do_no_more_than_it() {
    let api = Api::start().await;
    for by in Scope::ALL {
        for target in Scope::ALL {
            let (own, secret) = (format!("gmu_{by}_{target}"), format!("gmu_of_{by}_{target}"));
            api.token(&own, "default", &[*by]).await;
            let id = api.token(&secret, "default", &[*target]).await;
            let is_allowed = by == target || *by == Scope::Admin;
            let answer = revoke(&api, &own, id).await;
            assert_eq!(answer.status == 200, is_allowed, "{by} {target}: {}", answer.json());
            assert_eq!(is_served(&api, &secret).await, !is_allowed, "{by} {target}");
            if !is_allowed {
                assert_eq!(answer.code(), "forbidden");
                assert!(answer.json()["hint"].is_string(), "{}", answer.json());
            }
        }
    }
    let two = api.token("gmu_two", "default", &[Scope::Read, Scope::Submit]).await;
    api.token("gmu_one", "default", &[Scope::Read]).await;
    assert_eq!(revoke(&api, "gmu_one", two).await.code(), "forbidden");
    api.token("gmu_else", "other", Scope::ALL.split_last().expect("some").1).await;
    assert_eq!(revoke(&api, "gmu_else", two).await.code(), "not_found");
    assert_eq!(revoke(&api, "gmu_two", two).await.status, 200, "itself");
    assert!(!is_served(&api, "gmu_two").await && is_served(&api, ADMIN).await);
}

#[tokio::test]
async fn a_token_makes_none_that_ends_after_it_unless_it_is_an_admin() {
    let api = Api::start().await;
    let (_, parent, end) = made(&api, ADMIN, json!({"name": "parent", "ttl_ms": 60_000})).await;
    api.clock.advance_s(20);
    let (_, child, same) = made(&api, &parent, json!({"name": "default"})).await;
    assert_eq!(same, end);
    made(&api, &parent, json!({"name": "to the end", "ttl_ms": 40_000})).await;
    let late = make(&api, &parent, json!({"name": "late", "ttl_ms": 40_001})).await;
    assert_eq!((late.status.as_u16(), late.code().as_str()), (400, "invalid_request"));
    assert_eq!(late.json()["errors"][0]["pointer"], "/ttl_ms");
    assert!(late.json()["hint"].is_string(), "{}", late.json());
    made(&api, ADMIN, json!({"name": "long", "ttl_ms": 10_000_000_000_u64})).await;
    api.clock.advance_s(40);
    assert!(!is_served(&api, &child).await);
}

#[tokio::test]
async fn what_a_token_made_goes_with_it_and_what_an_admin_made_stays() {
    let api = Api::start().await;
    let all = json!(["read", "submit", "admin"]);
    let (admin, admin_secret, _) = made(&api, ADMIN, json!({"name": "admin", "scopes": all})).await;
    let (parent, parent_secret, _) = made(&api, &admin_secret, json!({"name": "parent"})).await;
    let (child, child_secret, _) = made(&api, &parent_secret, json!({"name": "child"})).await;
    let (grandchild, secret, _) = made(&api, &child_secret, json!({"name": "grandchild"})).await;
    let (_, sibling, _) = made(&api, &admin_secret, json!({"name": "sibling"})).await;
    for secret in [&parent_secret, &child_secret, &secret, &sibling] {
        assert!(is_served(&api, secret).await, "is remembered from now on");
    }

    assert_eq!(revoke(&api, ADMIN, &admin).await.status, 200);
    assert!(!is_served(&api, &admin_secret).await && is_served(&api, &parent_secret).await);

    let stale = call("POST", format!("/v1/tokens/{parent}/revoke")).header("if-match", "\"2\"");
    assert_eq!(api.admin(stale).await.status, 412);
    assert!(is_served(&api, &secret).await, "a refused revocation takes nothing back");
    assert_eq!(revoke(&api, ADMIN, &parent).await.status, 200);
    for secret in [&parent_secret, &child_secret, &secret] {
        assert!(!is_served(&api, secret).await);
    }
    assert!(is_served(&api, &sibling).await);
    let audit = api.admin(call("GET", "/v1/audit?operation=token_revoke&page_size=3")).await.json();
    let entries = audit["items"].as_array().expect("a page");
    assert!(entries.iter().all(|entry| entry["outcome"] == "done"), "{audit}");
    for id in [parent, child, grandchild] {
        assert!(entries.iter().any(|entry| entry["object"] == *id), "{id}: {audit}");
    }
}

#[tokio::test]
async fn a_tenant_has_a_bounded_number_of_tokens_that_its_tokens_made() {
    let api = Api::start().await;
    let maker = api.token("gmu_maker", "default", &[Scope::Read, Scope::Metrics]).await;
    let (first, ..) = made(&api, "gmu_maker", json!({"name": "first", "scopes": ["read"]})).await;
    let copies = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
         INSERT INTO tokens (id, secret_sha256, name, tenant, scopes, created_at, expires_at, maker)
         SELECT 'tok_' || i, 'sha' || i, name, tenant, scopes, created_at, expires_at, '{maker}'
         FROM tokens, n WHERE id = '{first}'"
    );
    assert_eq!(api.backend().run(&copies).await, Ok(999));
    let many = make(&api, "gmu_maker", json!({"name": "one more", "scopes": ["read"]})).await;
    assert_eq!((many.status.as_u16(), many.code().as_str()), (409, "conflict"), "{}", many.json());
    assert!(many.json()["hint"].is_string(), "{}", many.json());
    made(&api, ADMIN, json!({"name": "an admin's"})).await;
    api.token("gmu_else", "other", &[Scope::Read]).await;
    made(&api, "gmu_else", json!({"name": "another tenant's", "scopes": ["read"]})).await;
    assert_eq!(revoke(&api, "gmu_maker", &first).await.status, 200);
    made(&api, "gmu_maker", json!({"name": "there is room again", "scopes": ["read"]})).await;
}
