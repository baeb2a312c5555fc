//! Modules: publish, list, show, deprecate.

use std::path::Path;

use gristmill_protocol::{
    Digest, Page,
    module::{ModulePatch, ModuleVersionPatch, ModuleVersionView, ModuleView, Visibility},
};
use reqwest::{Method, header};

use super::{
    Client, ClientError,
    blobs::{digest_path, file_stream},
    request::Repeat,
};

impl Client {
    /// Publishes a file as a version of a module. The same bytes again change nothing; other bytes
    /// under a version that exists are refused (`version_exists`). `params_schema` names an uploaded
    /// blob with the JSON Schema of the module's params.
    pub async fn module_publish(
        &self,
        name: &str,
        version: &str,
        wasm: &Path,
        params_schema: Option<&Digest>,
    ) -> Result<ModuleVersionView, ClientError> {
        let (_, size) = digest_path(wasm.to_owned()).await?;
        self.json(Repeat::Safe, || {
            let request = self
                .call(Method::PUT, &["modules", name, "versions", version])
                .header(header::CONTENT_TYPE, "application/wasm")
                .header(header::CONTENT_LENGTH, size)
                .body(reqwest::Body::wrap_stream(file_stream(wasm.to_owned(), 0)));
            match params_schema {
                Some(digest) => request.query(&[("params_schema_digest", digest.to_string())]),
                None => request,
            }
        })
        .await
    }

    /// One page of the modules that this token may run, sorted by name.
    pub async fn module_list(&self, page_token: Option<&str>) -> Result<Page<ModuleView>, ClientError> {
        let query: Vec<_> = page_token.map(|token| ("page_token", token)).into_iter().collect();
        self.get_with(&["modules"], &query).await
    }

    /// A module with all its versions, by `NAME` or `OWNER:NAME`.
    pub async fn module_get(&self, name: &str) -> Result<ModuleView, ClientError> {
        self.get(&["modules", name]).await
    }

    /// One version of a module.
    pub async fn module_version_get(
        &self,
        name: &str,
        version: &str,
    ) -> Result<ModuleVersionView, ClientError> {
        self.get(&["modules", name, "versions", version]).await
    }

    /// Marks a version so that it is no longer picked by default, or takes the mark away. A
    /// deprecated version still runs when it is named.
    pub async fn module_version_deprecate(
        &self,
        name: &str,
        version: &str,
        deprecated: bool,
    ) -> Result<ModuleVersionView, ClientError> {
        let patch = ModuleVersionPatch { deprecated };
        self.json(Repeat::Safe, || {
            self.call(Method::PATCH, &["modules", name, "versions", version]).json(&patch)
        })
        .await
    }

    /// Sets who may see and run a module.
    pub async fn module_set_visibility(
        &self,
        name: &str,
        visibility: Visibility,
    ) -> Result<ModuleView, ClientError> {
        let patch = ModulePatch { visibility };
        self.json(Repeat::Safe, || self.call(Method::PATCH, &["modules", name]).json(&patch)).await
    }
}
