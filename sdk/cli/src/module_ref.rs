//! MODULE on the command line: the name of a published module, a digest, or a local file that is
//! published as needed.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gristmill_client::user::{Client, digest_file};
use gristmill_protocol::{Digest, module::build_version};

use crate::{failure::Failure, progress::Progress};

/// What MODULE names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ModuleArg {
    /// A published module, as the server resolves it.
    Published(String),
    /// A file here.
    Local(PathBuf),
}

impl ModuleArg {
    /// A text that ends with `.wasm`, holds a slash or cannot be a name is a file; anything else is a
    /// name or digest.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let ends_as_file = Path::new(text).extension().is_some_and(|end| end.eq_ignore_ascii_case("wasm"));
        if is_reference(text) && !ends_as_file {
            return Ok(Self::Published(text.to_owned()));
        }
        if Path::new(text).is_file() {
            return Ok(Self::Local(text.into()));
        }
        Err(Failure::local(format!("there is no file {text}"))
            .hint("MODULE is NAME[@VERSION], sha256:DIGEST, or the path of a .wasm file"))
    }

    /// The reference to submit. A local file is published first, unless the server has it.
    pub(crate) async fn resolve(&self, client: &Client, progress: &Progress) -> anyhow::Result<String> {
        match self {
            Self::Published(reference) => Ok(reference.clone()),
            Self::Local(path) => publish_as_needed(client, path, progress).await,
        }
    }
}

/// Whether the text can be `[OWNER:]NAME[@VERSION]` or a digest.
fn is_reference(text: &str) -> bool {
    let name = text.split_once('@').map_or(text, |(name, _)| name);
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    match name.split_once(':') {
        Some(("sha256", _)) => true,
        Some((owner, name)) => is_name(owner) && is_name(name),
        None => is_name(name),
    }
}

async fn publish_as_needed(client: &Client, path: &Path, progress: &Progress) -> anyhow::Result<String> {
    progress.phase("reading the module");
    let digest = file_digest(path).await?;
    let (name, version) = (name_from_file(path), build_version(&digest));
    match client.module_version_get(&name, &version).await {
        Ok(known) if known.digest == digest => {}
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {
            progress.phase(&format!("publishing {name}"));
            let published = client.module_publish(&name, &version, path, None).await;
            published.with_context(|| format!("cannot publish {}", path.display()))?;
        }
    }
    Ok(format!("{name}@{version}"))
}

/// Digest of a file here.
pub(crate) async fn file_digest(path: &Path) -> anyhow::Result<Digest> {
    let owned = path.to_owned();
    let work = move || std::fs::File::open(owned).and_then(|mut file| digest_file(&mut file));
    let (digest, _) = tokio::task::spawn_blocking(work)
        .await?
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(digest)
}

/// A module name made from a file's name.
pub(crate) fn name_from_file(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let mut name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "m-");
    }
    name.truncate(63);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_digests_and_files_are_told_apart() {
        let published = |text: &str| Ok(ModuleArg::Published(text.into()));
        for text in ["yosys", "yosys@1.0.0-rc.1", "acme:yosys@1.0.0", "sha256:ab"] {
            assert_eq!(ModuleArg::parse(text).map_err(|error| error.to_string()), published(text));
        }
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.wasm");
        std::fs::write(&file, b"").expect("written");
        let text = file.to_str().expect("a text");
        assert_eq!(ModuleArg::parse(text).ok(), Some(ModuleArg::Local(file.clone())));
        assert!(ModuleArg::parse("missing.wasm").is_err());
        assert!(ModuleArg::parse("./yosys").is_err());
        assert!(ModuleArg::parse("Yosys").is_err(), "no module can have this name");
    }

    #[test]
    fn any_file_name_becomes_a_module_name() {
        for (file, name) in [
            ("csv-summary.wasm", "csv-summary"),
            ("My Tool_2.wasm", "my-tool-2"),
            ("7zip.wasm", "m-7zip"),
            ("ü.wasm", "m--"),
            (".wasm", "m--wasm"),
        ] {
            assert_eq!(name_from_file(Path::new(file)), name);
        }
        assert_eq!(name_from_file(Path::new(&"x".repeat(99))).len(), 63);
    }
}
