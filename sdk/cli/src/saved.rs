//! Saved contexts: names for servers and their tokens, in one private file.

use std::{
    collections::BTreeMap,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use gristmill_client::user::{Endpoint, Secret};
use serde::{Deserialize, Serialize};

use crate::{environment, failure::Failure};

/// All saved contexts.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Contexts {
    /// The one that is used when nothing else is said.
    pub(crate) current: Option<String>,
    /// By name.
    pub(crate) contexts: BTreeMap<String, SavedContext>,
}

/// A server and who to be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedContext {
    /// Base URL.
    pub(crate) server: String,
    /// The token's secret; the file is readable by its owner only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Extra certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
}

impl SavedContext {
    /// What a client needs.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint {
            server: self.server.clone(),
            token: self.token.as_deref().map(Secret::new),
            ca_file: self.ca_file.clone(),
        }
    }
}

/// Where the contexts are kept.
pub(crate) fn contexts_file() -> anyhow::Result<PathBuf> {
    Ok(environment::config_dir()?.join("contexts.json"))
}

impl Contexts {
    /// Reads the file; there are no contexts when there is no file.
    pub(crate) fn load() -> anyhow::Result<Self> {
        Self::load_from(&contexts_file()?)
    }

    fn load_from(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        serde_json::from_slice(&text).map_err(|error| {
            Failure::local(format!("{} is damaged: {error}", path.display()))
                .hint("correct it, or remove it and log in again")
                .into()
        })
    }

    /// Changes the file under a lock, so that two commands at a time lose nothing.
    pub(crate) fn change<T>(change: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        Self::change_in(&contexts_file()?, change)
    }

    fn change_in<T>(path: &Path, change: impl FnOnce(&mut Self) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let dir = path.parent().context("the file of contexts has no directory")?;
        private_dir(dir)?;
        let lock = std::fs::File::create(dir.join("contexts.lock"))?;
        lock.lock().context("cannot lock the saved contexts")?;
        let mut contexts = Self::load_from(path)?;
        let result = change(&mut contexts)?;
        write_private(path, &serde_json::to_vec_pretty(&contexts)?)?;
        Ok(result)
    }

    /// A context by name.
    pub(crate) fn named(&self, name: &str) -> Result<&SavedContext, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let known = self.contexts.keys().cloned().collect::<Vec<_>>().join(", ");
            let hint = if known.is_empty() {
                "there is none yet; make one with `gristmill context set NAME --server URL --token-file FILE`"
                    .to_owned()
            } else {
                format!("known are: {known}")
            };
            Failure::usage(format!("there is no context {name:?}")).hint(hint)
        })
    }
}

/// Makes a directory that only its owner may enter, and its parents as needed.
pub(crate) fn private_dir(dir: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make the directory {}", dir.display()))
}

/// Writes a file that only its owner may read: whole, or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let about = || format!("cannot write {}", path.display());
    let dir = path.parent().with_context(about)?;
    // Temporary files are made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(about)?;
    file.write_all(bytes).with_context(about)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600)).with_context(about)?;
    file.as_file().sync_all().with_context(about)?;
    file.persist(path).with_context(about)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(server: &str) -> SavedContext {
        SavedContext { server: server.into(), token: Some("gmu_x".into()), ca_file: None }
    }

    #[test]
    fn contexts_survive_and_only_their_owner_can_read_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/contexts.json");
        let set = |name: &'static str| {
            Contexts::change_in(&path, |contexts| {
                contexts.contexts.insert(name.into(), saved("http://h"));
                Ok(())
            })
        };
        set("a").and_then(|()| set("b")).expect("saved");
        let contexts = Contexts::load_from(&path).expect("loaded");
        assert_eq!(contexts.contexts.len(), 2);
        assert_eq!(contexts.named("a").expect("known"), &saved("http://h"));
        assert!(contexts.named("c").is_err());
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_named_and_never_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("contexts.json");
        std::fs::write(&path, "{").expect("written");
        let error = Contexts::change_in(&path, |_| Ok(())).expect_err("refused");
        assert!(error.to_string().contains("damaged"));
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "{");
    }
}
