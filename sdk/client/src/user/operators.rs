//! What operators need: zones, nodes, join tokens, tenants and user tokens.

use gristmill_protocol::{
    NodeId, Page, TokenId,
    node::{JoinTokenCreated, JoinTokenSpec, NodeView},
    tenancy::{TenantSpec, TenantView, TokenCreated, TokenSpec, TokenView},
    zone::{ZoneSpec, ZoneView},
};
use reqwest::{Method, header};
use serde::de::DeserializeOwned;

use super::{Client, ClientError, request::Repeat};

impl Client {
    /// Every page of a list, one after the other.
    async fn list_all<T: DeserializeOwned>(&self, what: &str) -> Result<Vec<T>, ClientError> {
        let mut items = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let query: Vec<_> = token.iter().map(|token| ("page_token", token)).collect();
            let page: Page<T> = self.get_with(&[what], &query).await?;
            items.extend(page.items);
            token = page.next_page_token;
            if token.is_none() {
                return Ok(items);
            }
        }
    }

    /// Every zone.
    pub async fn zone_list(&self) -> Result<Vec<ZoneView>, ClientError> {
        self.list_all("zones").await
    }

    /// One zone.
    pub async fn zone_get(&self, name: &str) -> Result<ZoneView, ClientError> {
        self.get(&["zones", name]).await
    }

    /// Makes a zone.
    pub async fn zone_create(&self, spec: &ZoneSpec) -> Result<ZoneView, ClientError> {
        self.json(Repeat::Unsafe, || self.call(Method::POST, &["zones"]).json(spec)).await
    }

    /// Changes a zone if it is still at this version; else `precondition_failed`.
    pub async fn zone_set(&self, spec: &ZoneSpec, version: u64) -> Result<ZoneView, ClientError> {
        self.json(Repeat::Unsafe, || {
            self.call(Method::PUT, &["zones", &spec.name])
                .header(header::IF_MATCH, format!("\"{version}\""))
                .json(spec)
        })
        .await
    }

    /// Every node.
    pub async fn node_list(&self) -> Result<Vec<NodeView>, ClientError> {
        self.list_all("nodes").await
    }

    /// One node.
    pub async fn node_get(&self, node: &NodeId) -> Result<NodeView, ClientError> {
        self.get(&["nodes", &node.to_string()]).await
    }

    /// Asks a node to finish what runs and take nothing new.
    pub async fn node_drain(&self, node: &NodeId) -> Result<NodeView, ClientError> {
        self.node_change(node, "drain").await
    }

    /// Lets a drained node take work again.
    pub async fn node_resume(&self, node: &NodeId) -> Result<NodeView, ClientError> {
        self.node_change(node, "resume").await
    }

    /// Takes a node's identity back, for good. What it runs is tried again elsewhere.
    pub async fn node_revoke(&self, node: &NodeId) -> Result<NodeView, ClientError> {
        self.node_change(node, "revoke").await
    }

    async fn node_change(&self, node: &NodeId, verb: &str) -> Result<NodeView, ClientError> {
        self.json(Repeat::Safe, || self.call(Method::POST, &["nodes", &node.to_string(), verb])).await
    }

    /// Makes a join token; the only time that its secret is shown.
    pub async fn join_token_create(&self, spec: &JoinTokenSpec) -> Result<JoinTokenCreated, ClientError> {
        self.json(Repeat::Unsafe, || self.call(Method::POST, &["join-tokens"]).json(spec)).await
    }

    /// Every tenant.
    pub async fn tenant_list(&self) -> Result<Vec<TenantView>, ClientError> {
        self.list_all("tenants").await
    }

    /// One tenant.
    pub async fn tenant_get(&self, name: &str) -> Result<TenantView, ClientError> {
        self.get(&["tenants", name]).await
    }

    /// Makes a tenant.
    pub async fn tenant_create(&self, spec: &TenantSpec) -> Result<TenantView, ClientError> {
        self.json(Repeat::Unsafe, || self.call(Method::POST, &["tenants"]).json(spec)).await
    }

    /// Changes a tenant if it is still at this version; else `precondition_failed`.
    pub async fn tenant_set(&self, spec: &TenantSpec, version: u64) -> Result<TenantView, ClientError> {
        self.json(Repeat::Unsafe, || {
            self.call(Method::PUT, &["tenants", &spec.name])
                .header(header::IF_MATCH, format!("\"{version}\""))
                .json(spec)
        })
        .await
    }

    /// Every token that this token may see.
    pub async fn token_list(&self) -> Result<Vec<TokenView>, ClientError> {
        self.list_all("tokens").await
    }

    /// Makes a token; the only time that its secret is shown.
    pub async fn token_create(&self, spec: &TokenSpec) -> Result<TokenCreated, ClientError> {
        self.json(Repeat::Unsafe, || self.call(Method::POST, &["tokens"]).json(spec)).await
    }

    /// Takes a token back, at once and for good.
    pub async fn token_revoke(&self, token: &TokenId) -> Result<(), ClientError> {
        self.send(Repeat::Safe, || self.call(Method::DELETE, &["tokens", &token.to_string()])).await?;
        Ok(())
    }

    /// The server's counters as Prometheus text.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let mut url = self.url(&[]);
        url.set_path(&format!("{}/metrics", self.base.path().trim_end_matches('/')));
        let response = self.send(Repeat::Safe, || self.call_url(Method::GET, url.clone())).await?;
        response.text().await.map_err(|error| self.unreachable(&error))
    }
}
