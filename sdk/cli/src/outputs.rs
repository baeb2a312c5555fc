//! Writes a job's outputs below a directory: only there, whole or not at all, checked by digest.

use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use cap_std::{ambient_authority, fs::Dir};
use futures_util::{StreamExt as _, TryStreamExt as _};
use gristmill_client::user::Client;
use gristmill_protocol::{JobId, job::OutputEntry, units::format_bytes};
use serde_json::json;

use crate::{failure::Failure, printer::Printer};

/// Downloads at a time.
const PARALLEL: usize = 4;

/// Fetches all outputs of a job into `dir`, which is made if need be. Existing files of the same
/// names are replaced, each at once when its bytes are complete. Links in `dir` are not followed
/// out of it.
pub(crate) async fn fetch_all(
    client: &Client,
    job: &JobId,
    outputs: &[OutputEntry],
    dir: &Path,
) -> anyhow::Result<()> {
    let root = open(dir)?;
    futures_util::stream::iter(outputs)
        .map(|output| fetch(client, job, output, &root))
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

fn open(dir: &Path) -> anyhow::Result<Dir> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::file(format!("cannot {what} the directory {}", dir.display()), &error)
    };
    std::fs::create_dir_all(dir).map_err(|error| failed("make", error))?;
    Ok(Dir::open_ambient_dir(dir, ambient_authority()).map_err(|error| failed("open", error))?)
}

/// Makes the directory if need be and checks that files can be made in it, before a job is run for
/// them.
pub(crate) fn check_writable(dir: &Path) -> anyhow::Result<()> {
    let root = open(dir).context("--out")?;
    let refused =
        |error: std::io::Error| Failure::file(format!("--out: cannot write into {}", dir.display()), &error);
    let (part, _) = create_part(&root, Path::new("outputs")).map_err(refused)?;
    root.remove_file(part).map_err(refused)?;
    Ok(())
}

async fn fetch(client: &Client, job: &JobId, output: &OutputEntry, root: &Dir) -> anyhow::Result<()> {
    let about = || format!("cannot save the output {:?}", output.path);
    let path = safe_path(&output.path)?;
    let (part, file) = create_part(root, &path).with_context(about)?;
    let mut file = tokio::fs::File::from_std(file.into_std());
    let fetched = client.job_output_fetch(job, output, &mut file).await;
    match fetched {
        Ok(_) => root.rename(&part, root, &path).with_context(about),
        Err(error) => {
            let _ = root.remove_file(&part);
            Err(error).with_context(about)
        }
    }
}

/// Writes all outputs of a job as one tar archive to a file, which appears when it is complete, or to
/// standard output (`-`).
pub(crate) async fn save_tar(client: &Client, job: &JobId, file: &Path, json: bool) -> anyhow::Result<()> {
    if file == Path::new("-") {
        if json {
            return Err(Failure::usage("--tar - and --output json both want standard output").into());
        }
        client.job_outputs_tar(job, &mut tokio::io::stdout()).await?;
        return Ok(());
    }
    let about = || format!("cannot save the archive {}", file.display());
    let name = file.file_name().map(Path::new).with_context(about)?;
    let parent = file.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let dir = Dir::open_ambient_dir(parent, ambient_authority()).with_context(about)?;
    let (part, saved) = create_part(&dir, name).with_context(about)?;
    let fetched = client.job_outputs_tar(job, &mut tokio::fs::File::from_std(saved.into_std())).await;
    match fetched {
        Ok(size) => {
            dir.rename(&part, &dir, name).with_context(about)?;
            Printer::new(json).show(&json!({ "file": file, "size": size }), |_| {
                format!("{}: {}", file.display(), format_bytes(size))
            })
        }
        Err(error) => {
            let _ = dir.remove_file(&part);
            Err(error).with_context(about)
        }
    }
}

/// Makes the parent directories and a new file beside the final name, to be renamed when complete.
pub(crate) fn create_part(root: &Dir, path: &Path) -> std::io::Result<(PathBuf, cap_std::fs::File)> {
    let parent = path.parent().unwrap_or(Path::new(""));
    if parent != Path::new("") {
        root.create_dir_all(parent)?;
    }
    let part = parent.join(format!(".gristmill-{}.part", hex::encode(rand::random::<[u8; 8]>())));
    let mut options = cap_std::fs::OpenOptions::new();
    let file = root.open_with(&part, options.write(true).create_new(true))?;
    Ok((part, file))
}

/// The path of an output as one below a directory; the server is not trusted with it.
pub(crate) fn safe_path(text: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(text);
    let clean = !text.is_empty()
        && !text.contains('\0')
        && !text.ends_with('/')
        && path.components().all(|part| matches!(part, Component::Normal(_)));
    if clean {
        return Ok(path.to_owned());
    }
    Err(Failure::local(format!("the output {text:?} has no safe path; nothing was written for it"))
        .hint("the node that reported it is at fault; please report this with the job's id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_directory_are_written() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "a/..", "./a", "a/", "a\0b", "."] {
            assert!(safe_path(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b.txt", "..a", "a b\n"] {
            assert_eq!(safe_path(good).ok(), Some(PathBuf::from(good)));
        }
    }

    #[test]
    fn a_directory_for_outputs_is_made_and_left_as_it_was_and_a_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let new = dir.path().join("new/deep");
        check_writable(&new).expect("made");
        assert_eq!(std::fs::read_dir(&new).expect("readable").count(), 0);
        let file = dir.path().join("file");
        std::fs::write(&file, b"kept").expect("written");
        for bad in [file.clone(), file.join("below")] {
            let text = format!("{:#}", check_writable(&bad).expect_err("no directory"));
            assert!(text.contains("--out") && text.contains("file"), "{text}");
        }
        assert_eq!(std::fs::read(&file).expect("readable"), b"kept");
    }

    #[test]
    fn a_link_that_leaves_the_directory_is_not_followed() {
        let outside = tempfile::tempdir().expect("a directory");
        let dir = tempfile::tempdir().expect("a directory");
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).expect("linked");
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).expect("opened");
        assert!(create_part(&root, Path::new("link/file")).is_err());
        assert!(create_part(&root, Path::new("deep/er/file")).is_ok());
        assert_eq!(std::fs::read_dir(outside.path()).expect("readable").count(), 0);
    }
}
