//! Modules and their versions as the API shows them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, Timestamp, reason::closed_list};

closed_list! {
    /// Who may see and run a module.
    Visibility {
        /// The tenant that published it.
        Tenant = "tenant",
        /// Every tenant.
        Public = "public",
    }
}

closed_list! {
    /// The contract that a module is built for.
    ModuleWorld {
        /// A core module with `_start` and WASI preview 1 imports.
        WasiP1 = "wasi_p1",
        /// A component that exports `wasi:cli/run` of WASI 0.2.
        WasiP2 = "wasi_p2",
    }
}

/// How the version of a build begins that was published without a version of its own.
const BUILD_VERSION: &str = "0.0.0-sha256-";

/// The version under which a client publishes a file that was given no version: only these bytes have
/// it. A pre-release, so that it never comes before a version that somebody named.
pub fn build_version(digest: &Digest) -> String {
    format!("{BUILD_VERSION}{}", &digest.hex()[..16])
}

/// Whether the version is one of [`build_version`]. Such builds are ordered by their age.
pub fn is_build_version(version: &str) -> bool {
    version.starts_with(BUILD_VERSION)
}

/// What the server read from the module's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleMetadata {
    /// The contract.
    pub world: ModuleWorld,
    /// From the module's own `description` section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// From the module's own `licenses` section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licenses: Option<String>,
    /// From the module's own `source` section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What it imports, as `module.name` or an interface name, sorted.
    pub imports: Vec<String>,
    /// What it exports, sorted; at most 100 names.
    pub exports: Vec<String>,
    /// WASM features beyond the baseline that a node must have, such as `memory64`.
    pub features: Vec<String>,
    /// JSON Schema of the job's params.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params_schema: Option<serde_json::Value>,
}

/// One published version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleVersionView {
    /// Module name.
    pub name: String,
    /// Tenant that published it.
    pub owner: String,
    /// Semantic version 2.0.0, immutable.
    pub version: String,
    /// The bytes' digest.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
    /// What the server read from the bytes.
    pub metadata: ModuleMetadata,
    /// Whether `latest` skips it. It still runs when named.
    pub deprecated: bool,
    /// When it was published.
    pub created_at: Timestamp,
}

impl ModuleVersionView {
    /// The number in the ETag: it tells what can change, which is the deprecation alone.
    pub fn revision(&self) -> u64 {
        1 + u64::from(self.deprecated)
    }
}

/// A module: all versions under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleView {
    /// Module name.
    pub name: String,
    /// Tenant that published it.
    pub owner: String,
    /// Who may see and run it.
    pub visibility: Visibility,
    /// The newest version that is not deprecated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
    /// Its versions, newest first. Absent in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<ModuleVersionView>,
    /// When the first version was published.
    pub created_at: Timestamp,
    /// Rises with every change to the module or its versions; the ETag.
    #[serde(default)]
    pub revision: u64,
}

/// Body of `PATCH /v1/modules/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModulePatch {
    /// Who may see and run it.
    pub visibility: Visibility,
}

/// Body of `PATCH /v1/modules/{name}/versions/{version}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModuleVersionPatch {
    /// Whether `latest` skips it.
    pub deprecated: bool,
}

/// The answer of `PUT /v1/blobs/{digest}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlobView {
    /// The bytes' digest.
    pub digest: Digest,
    /// The bytes' number.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_version_has_no_numeric_part_that_could_begin_with_zero() {
        let version = build_version(&Digest::from_bytes([0; 32]));
        assert_eq!(version, "0.0.0-sha256-0000000000000000");
        assert!(is_build_version(&version) && !is_build_version("0.0.0-rc.1"));
    }
}
