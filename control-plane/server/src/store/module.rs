//! Modules and their versions as they are kept.

use async_trait::async_trait;
use gristmill_protocol::{
    Digest, Timestamp,
    module::{ModuleMetadata, ModuleVersionView, ModuleView, Visibility},
};

use super::{Changed, StoreError};

/// A module version as a job refers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModule {
    /// Module name.
    pub name: String,
    /// Tenant that published it.
    pub owner: String,
    /// The version.
    pub version: String,
    /// The bytes' digest.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
    /// What the server read from the bytes.
    pub metadata: ModuleMetadata,
}

/// A version to be published; its bytes are in the blob store already.
#[derive(Debug, Clone)]
pub struct ModuleVersionSpec {
    /// Tenant that publishes it.
    pub owner: String,
    /// Module name.
    pub name: String,
    /// The version.
    pub version: semver::Version,
    /// The bytes' digest.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
    /// What the server read from the bytes.
    pub metadata: ModuleMetadata,
    /// The token that publishes it.
    pub published_by: String,
    /// When it is published.
    pub created_at: Timestamp,
}

impl ModuleVersionSpec {
    /// Whether a version that was found is this one: the same bytes and the same params schema.
    pub fn is_same_as(&self, found: &ModuleVersionView) -> bool {
        found.digest == self.digest && found.metadata.params_schema == self.metadata.params_schema
    }
}

/// What became of a version to be published.
#[derive(Debug, Clone)]
pub enum ModuleVersionPut {
    /// It is new.
    Created(ModuleVersionView),
    /// It was there before, with the same bytes and params schema.
    Same(ModuleVersionView),
    /// It was there before, with other bytes or another params schema.
    Other(ModuleVersionView),
}

/// Keeps modules. A name is unique per tenant; "visible" means owned by the tenant or public.
#[async_trait]
pub trait ModuleStore {
    /// Publishes a version, with its module if that is new, and records the tenant as an owner of
    /// the bytes. Durable when it returns.
    async fn module_version_put(&self, spec: ModuleVersionSpec) -> Result<ModuleVersionPut, StoreError>;

    /// Finds what a job names: `NAME`, `NAME@VERSION`, `OWNER:NAME[@VERSION]` or `sha256:…`. A name
    /// without owner is the tenant's own. Without a version the highest one counts that is neither
    /// deprecated nor a pre-release; a pre-release only if there is nothing else. A digest must be
    /// that of a visible version. `None` when there is nothing visible.
    async fn module_resolve(
        &self,
        tenant: &str,
        reference: &str,
    ) -> Result<Option<ResolvedModule>, StoreError>;

    /// Other tenants with a public module of this name, by name, at most `limit`.
    async fn module_public_owners(
        &self,
        tenant: &str,
        name: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError>;

    /// A visible module with all its versions, newest first.
    async fn module_get(
        &self,
        tenant: &str,
        owner: &str,
        name: &str,
    ) -> Result<Option<ModuleView>, StoreError>;

    /// One version of a visible module.
    async fn module_version_get(
        &self,
        tenant: &str,
        owner: &str,
        name: &str,
        version: &str,
    ) -> Result<Option<ModuleVersionView>, StoreError>;

    /// Visible modules without their versions, by owner and name, after the given pair.
    async fn module_list(
        &self,
        tenant: &str,
        after: Option<(String, String)>,
        limit: u32,
    ) -> Result<Vec<ModuleView>, StoreError>;

    /// Changes who may see a module, if its revision is `if_revision` or that is `None`. `Absent` when
    /// the tenant owns no such module.
    async fn module_set_visibility(
        &self,
        owner: &str,
        name: &str,
        visibility: Visibility,
        if_revision: Option<u64>,
    ) -> Result<Changed<ModuleView>, StoreError>;

    /// Marks a version as deprecated or not, if its revision is `if_revision` or that is `None`.
    /// `Absent` when the tenant owns no such version.
    async fn module_version_set_deprecated(
        &self,
        owner: &str,
        name: &str,
        version: &str,
        deprecated: bool,
        if_revision: Option<u64>,
    ) -> Result<Changed<ModuleVersionView>, StoreError>;
}
