//! The tables `modules` and `module_versions`.

use async_trait::async_trait;
use gristmill_protocol::{
    Digest,
    module::{ModuleMetadata, ModuleVersionView, ModuleView, Visibility},
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{
    SqliteStore,
    blob::blob_insert,
    convert::{failed, from_json, micros, parse, time, to_json},
};
use crate::{
    store::{
        Changed, StoreError,
        module::{ModuleStore, ModuleVersionPut, ModuleVersionSpec, ResolvedModule},
    },
    versions::{Candidate, latest, newest_first},
};

fn version_view(row: &SqliteRow) -> Result<ModuleVersionView, StoreError> {
    let text = |name| row.try_get::<String, _>(name).map_err(failed("module_read"));
    let number = |name| row.try_get::<i64, _>(name).map_err(failed("module_read"));
    Ok(ModuleVersionView {
        name: text("name")?,
        owner: text("owner")?,
        version: text("version")?,
        digest: parse(&text("digest")?)?,
        size: number("size")?.unsigned_abs(),
        metadata: from_json::<ModuleMetadata>(&text("metadata")?)?,
        deprecated: number("deprecated")? != 0,
        created_at: time(number("created_at")?)?,
    })
}

fn resolved(version: ModuleVersionView) -> ResolvedModule {
    ResolvedModule {
        name: version.name,
        owner: version.owner,
        version: version.version,
        digest: version.digest,
        size: version.size,
        metadata: version.metadata,
    }
}

fn candidate(version: &ModuleVersionView) -> Candidate<'_> {
    Candidate { version: &version.version, is_deprecated: version.deprecated, created_at: version.created_at }
}

fn latest_of(versions: &[ModuleVersionView]) -> Option<&str> {
    latest(&versions.iter().map(candidate).collect::<Vec<_>>())
}

type ModuleRow = (String, String, String, i64, i64);

fn module_view((owner, name, visibility, created_at, revision): ModuleRow) -> Result<ModuleView, StoreError> {
    Ok(ModuleView {
        name,
        owner,
        visibility: parse::<Visibility>(&visibility)?,
        latest: None,
        versions: Vec::new(),
        created_at: time(created_at)?,
        revision: revision.unsigned_abs(),
    })
}

impl SqliteStore {
    /// Every version of one module that the tenant may see, newest first.
    async fn module_versions(
        &self,
        tenant: &str,
        owner: &str,
        name: &str,
    ) -> Result<Vec<ModuleVersionView>, StoreError> {
        let rows = sqlx::query(
            "/* module_versions */ SELECT v.* FROM module_versions AS v
             JOIN modules AS m ON m.owner = v.owner AND m.name = v.name
             WHERE v.owner = ?1 AND v.name = ?2 AND (m.owner = ?3 OR m.visibility = 'public')",
        )
        .bind(owner)
        .bind(name)
        .bind(tenant)
        .fetch_all(self.reads())
        .await
        .map_err(failed("module_versions"))?;
        let mut versions = rows.iter().map(version_view).collect::<Result<Vec<_>, _>>()?;
        versions.sort_by(|a, b| newest_first(&candidate(a), &candidate(b)));
        Ok(versions)
    }

    /// A visible version with these bytes; the tenant's own first, then the newest.
    async fn module_by_digest(
        &self,
        tenant: &str,
        digest: Digest,
    ) -> Result<Option<ModuleVersionView>, StoreError> {
        sqlx::query(
            "/* module_by_digest */ SELECT v.* FROM module_versions AS v
             JOIN modules AS m ON m.owner = v.owner AND m.name = v.name
             WHERE v.digest = ?1 AND (m.owner = ?2 OR m.visibility = 'public')
             ORDER BY v.owner = ?2 DESC, v.created_at DESC LIMIT 1",
        )
        .bind(digest.to_string())
        .bind(tenant)
        .fetch_optional(self.reads())
        .await
        .map_err(failed("module_by_digest"))?
        .map(|row| version_view(&row))
        .transpose()
    }
}

async fn put(
    connection: &mut SqliteConnection,
    spec: ModuleVersionSpec,
) -> Result<ModuleVersionPut, StoreError> {
    let present = sqlx::query(
        "/* module_version_put */ SELECT * FROM module_versions WHERE owner = ? AND name = ? AND version = ?",
    )
    .bind(&spec.owner)
    .bind(&spec.name)
    .bind(spec.version.to_string())
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("module_version_put"))?;
    if let Some(row) = present {
        let found = version_view(&row)?;
        let is_same = spec.is_same_as(&found);
        return Ok(if is_same { ModuleVersionPut::Same(found) } else { ModuleVersionPut::Other(found) });
    }
    blob_insert(connection, Some(&spec.owner), spec.digest, spec.size, spec.created_at).await?;
    sqlx::query(
        "/* module_version_put */ INSERT INTO modules (owner, name, visibility, created_at)
         VALUES (?, ?, 'tenant', ?) ON CONFLICT DO UPDATE SET revision = revision + 1",
    )
    .bind(&spec.owner)
    .bind(&spec.name)
    .bind(micros(spec.created_at))
    .execute(&mut *connection)
    .await
    .map_err(failed("module_version_put"))?;
    let row = sqlx::query(
        "/* module_version_put */ INSERT INTO module_versions
             (owner, name, version, digest, size, metadata, deprecated, published_by, created_at)
         VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?) RETURNING *",
    )
    .bind(&spec.owner)
    .bind(&spec.name)
    .bind(spec.version.to_string())
    .bind(spec.digest.to_string())
    .bind(spec.size as i64)
    .bind(to_json(&spec.metadata)?)
    .bind(&spec.published_by)
    .bind(micros(spec.created_at))
    .fetch_one(connection)
    .await
    .map_err(failed("module_version_put"))?;
    Ok(ModuleVersionPut::Created(version_view(&row)?))
}

async fn set_deprecated(
    connection: &mut SqliteConnection,
    [owner, name, version]: [String; 3],
    deprecated: bool,
    if_revision: Option<u64>,
) -> Result<Changed<ModuleVersionView>, StoreError> {
    let present = sqlx::query(
        "/* module_version_set_deprecated */ SELECT * FROM module_versions
         WHERE owner = ? AND name = ? AND version = ?",
    )
    .bind(&owner)
    .bind(&name)
    .bind(&version)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("module_version_set_deprecated"))?;
    let Some(row) = present else { return Ok(Changed::Absent) };
    let mut view = version_view(&row)?;
    if if_revision.is_some_and(|revision| revision != view.revision()) {
        return Ok(Changed::Stale(view.revision()));
    }
    if view.deprecated == deprecated {
        return Ok(Changed::Done(view));
    }
    let statement = "/* module_version_set_deprecated */ UPDATE module_versions SET deprecated = ?
                     WHERE owner = ? AND name = ? AND version = ?";
    let version = sqlx::query(statement).bind(deprecated).bind(&owner).bind(&name).bind(&version);
    version.execute(&mut *connection).await.map_err(failed("module_version_set_deprecated"))?;
    let statement = "/* module_version_set_deprecated */ UPDATE modules SET revision = revision + 1
                     WHERE owner = ? AND name = ?";
    let module = sqlx::query(statement).bind(&owner).bind(&name);
    module.execute(connection).await.map_err(failed("module_version_set_deprecated"))?;
    view.deprecated = deprecated;
    Ok(Changed::Done(view))
}

#[async_trait]
impl ModuleStore for SqliteStore {
    async fn module_version_put(&self, spec: ModuleVersionSpec) -> Result<ModuleVersionPut, StoreError> {
        self.write("module_version_put", move |connection| Box::pin(put(connection, spec))).await
    }

    async fn module_resolve(
        &self,
        tenant: &str,
        reference: &str,
    ) -> Result<Option<ResolvedModule>, StoreError> {
        if let Ok(digest) = reference.parse::<Digest>() {
            return Ok(self.module_by_digest(tenant, digest).await?.map(resolved));
        }
        let (module, version) = match reference.split_once('@') {
            Some((module, version)) => (module, Some(version)),
            None => (reference, None),
        };
        let (owner, name) = module.split_once(':').unwrap_or((tenant, module));
        if let Some(version) = version.filter(|version| *version != "latest") {
            return Ok(self.module_version_get(tenant, owner, name, version).await?.map(resolved));
        }
        let versions = self.module_versions(tenant, owner, name).await?;
        let newest = latest_of(&versions).map(str::to_owned);
        Ok(versions.into_iter().find(|v| Some(&v.version) == newest.as_ref()).map(resolved))
    }

    async fn module_get(
        &self,
        tenant: &str,
        owner: &str,
        name: &str,
    ) -> Result<Option<ModuleView>, StoreError> {
        let row = sqlx::query_as::<_, ModuleRow>(
            "/* module_get */ SELECT owner, name, visibility, created_at, revision FROM modules
             WHERE owner = ?1 AND name = ?2 AND (owner = ?3 OR visibility = 'public')",
        )
        .bind(owner)
        .bind(name)
        .bind(tenant)
        .fetch_optional(self.reads())
        .await
        .map_err(failed("module_get"))?;
        let Some(row) = row else { return Ok(None) };
        let mut module = module_view(row)?;
        module.versions = self.module_versions(tenant, owner, name).await?;
        module.latest = latest_of(&module.versions).map(str::to_owned);
        Ok(Some(module))
    }

    async fn module_version_get(
        &self,
        tenant: &str,
        owner: &str,
        name: &str,
        version: &str,
    ) -> Result<Option<ModuleVersionView>, StoreError> {
        sqlx::query(
            "/* module_version_get */ SELECT v.* FROM module_versions AS v
             JOIN modules AS m ON m.owner = v.owner AND m.name = v.name
             WHERE v.owner = ?1 AND v.name = ?2 AND v.version = ?3
               AND (m.owner = ?4 OR m.visibility = 'public')",
        )
        .bind(owner)
        .bind(name)
        .bind(version)
        .bind(tenant)
        .fetch_optional(self.reads())
        .await
        .map_err(failed("module_version_get"))?
        .map(|row| version_view(&row))
        .transpose()
    }

    async fn module_public_owners(
        &self,
        tenant: &str,
        name: &str,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar(
            "/* module_public_owners */ SELECT owner FROM modules
             WHERE name = ?1 AND owner <> ?2 AND visibility = 'public' ORDER BY owner LIMIT ?3",
        )
        .bind(name)
        .bind(tenant)
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("module_public_owners"))
    }

    async fn module_list(
        &self,
        tenant: &str,
        after: Option<(String, String)>,
        limit: u32,
    ) -> Result<Vec<ModuleView>, StoreError> {
        let (owner, name) = after.unwrap_or_default();
        let rows = sqlx::query_as::<_, (String, String, String, i64, i64, String)>(
            "/* module_list */ SELECT m.owner, m.name, m.visibility, m.created_at, m.revision,
                 (SELECT json_group_array(json_array(v.version, v.deprecated, v.created_at)) FROM module_versions AS v
                  WHERE v.owner = m.owner AND v.name = m.name)
             FROM modules AS m
             WHERE (m.owner, m.name) > (?1, ?2) AND (m.owner = ?3 OR m.visibility = 'public')
             ORDER BY m.owner, m.name LIMIT ?4",
        )
        .bind(owner)
        .bind(name)
        .bind(tenant)
        .bind(limit)
        .fetch_all(self.reads())
        .await
        .map_err(failed("module_list"))?;
        rows.into_iter()
            .map(|(owner, name, visibility, created_at, revision, versions)| {
                let versions: Vec<(String, i64, i64)> = from_json(&versions)?;
                let mut module = module_view((owner, name, visibility, created_at, revision))?;
                let candidates = versions.iter().map(|(version, deprecated, created_at)| {
                    let (is_deprecated, created_at) = (*deprecated != 0, time(*created_at)?);
                    Ok(Candidate { version, is_deprecated, created_at })
                });
                let candidates = candidates.collect::<Result<Vec<_>, StoreError>>()?;
                module.latest = latest(&candidates).map(str::to_owned);
                Ok(module)
            })
            .collect()
    }

    async fn module_set_visibility(
        &self,
        owner: &str,
        name: &str,
        visibility: Visibility,
        if_revision: Option<u64>,
    ) -> Result<Changed<ModuleView>, StoreError> {
        let (at_owner, at_name) = (owner.to_owned(), name.to_owned());
        let changed = self
            .write("module_set_visibility", move |connection| {
                Box::pin(async move {
                    let done = sqlx::query(
                        "/* module_set_visibility */ UPDATE modules
                         SET revision = revision + (visibility <> ?1), visibility = ?1
                         WHERE owner = ?2 AND name = ?3 AND (?4 IS NULL OR revision = ?4)",
                    )
                    .bind(visibility.as_str())
                    .bind(&at_owner)
                    .bind(&at_name)
                    .bind(if_revision.map(|revision| revision as i64))
                    .execute(&mut *connection)
                    .await
                    .map_err(failed("module_set_visibility"))?;
                    if done.rows_affected() == 1 {
                        return Ok(Changed::Done(()));
                    }
                    let revision = sqlx::query_scalar::<_, i64>(
                        "/* module_set_visibility */ SELECT revision FROM modules WHERE owner = ? AND name = ?",
                    )
                    .bind(at_owner)
                    .bind(at_name)
                    .fetch_optional(connection)
                    .await
                    .map_err(failed("module_set_visibility"))?;
                    Ok(revision.map_or(Changed::Absent, |revision| Changed::Stale(revision.unsigned_abs())))
                })
            })
            .await?;
        Ok(match changed {
            Changed::Done(()) => {
                self.module_get(owner, owner, name).await?.map_or(Changed::Absent, Changed::Done)
            }
            Changed::Absent => Changed::Absent,
            Changed::Stale(revision) => Changed::Stale(revision),
        })
    }

    async fn module_version_set_deprecated(
        &self,
        owner: &str,
        name: &str,
        version: &str,
        deprecated: bool,
        if_revision: Option<u64>,
    ) -> Result<Changed<ModuleVersionView>, StoreError> {
        let at = [owner.to_owned(), name.to_owned(), version.to_owned()];
        self.write("module_version_set_deprecated", move |connection| {
            Box::pin(async move { set_deprecated(connection, at, deprecated, if_revision).await })
        })
        .await
    }
}
