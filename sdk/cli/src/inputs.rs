//! `--in`: what an input is called, where its bytes come from, and how they get to the server.

use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use anyhow::Context as _;
use base64::Engine as _;
use gristmill_client::user::{Client, OnSent};
use gristmill_protocol::job::{BlobSource, InputKind, InputMode, InputSpec};
use gristmill_tree::{PackError, Tree};

use crate::{failure::Failure, progress::Progress, tree_stream::tree_stream_from};

/// Files up to this size travel inside the submit itself.
const INLINE_FILE_BYTES: u64 = 8 << 10;
/// All of them together; a submit holds at most 1 MiB.
const INLINE_ALL_BYTES: u64 = 256 << 10;

/// One `--in NAME=PATH[:rw]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InputArg {
    /// A name below `/in`, or an absolute guest path.
    pub(crate) name: String,
    /// A file or directory here.
    pub(crate) path: PathBuf,
    /// Whether the guest gets a writable copy.
    pub(crate) mode: InputMode,
}

impl FromStr for InputArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or("write NAME=PATH, such as data.csv=./data.csv")?;
        let (path, mode) = match path.strip_suffix(":rw") {
            Some(path) => (path, InputMode::Rw),
            None => (path.strip_suffix(":ro").unwrap_or(path), InputMode::Ro),
        };
        check_name(name)?;
        if path.is_empty() {
            return Err("the path is empty".into());
        }
        Ok(Self { name: name.to_owned(), path: path.into(), mode })
    }
}

impl InputArg {
    /// The absolute path at which the guest sees it.
    pub(crate) fn guest_path(&self) -> String {
        if self.name.starts_with('/') { self.name.clone() } else { format!("/in/{}", self.name) }
    }
}

/// The rules of the server, told before anything is uploaded.
fn check_name(name: &str) -> Result<(), String> {
    let relative = name.strip_prefix('/').unwrap_or(name);
    if relative.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(format!("{name:?} is no clean path: it may hold no empty part, no `.` and no `..`"));
    }
    if name.chars().any(char::is_control) || name.len() > 1_024 {
        return Err("a name holds no control characters and at most 1,024 bytes".into());
    }
    if matches!(name, "/in" | "/out" | "/tmp") {
        return Err(format!("{name} itself belongs to the job; choose a path below /in or another one"));
    }
    if name == "params.json" || name == "/in/params.json" {
        return Err("params.json is reserved; give params with --params FILE".into());
    }
    Ok(())
}

/// Refuses two inputs that the guest would see at one place.
pub(crate) fn check_distinct(inputs: &[InputArg]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for input in inputs {
        let guest_path = input.guest_path();
        if !seen.insert(guest_path.clone()) {
            return Err(Failure::usage(format!("--in: two inputs are called {guest_path}")));
        }
    }
    Ok(())
}

/// Refuses what is neither a file nor a directory: reading a device would never end, or give
/// nothing. A pipe can be standard input, but not an input, which may be read at any place.
pub(crate) fn check_source(option: &str, path: &Path, takes: Takes) -> anyhow::Result<()> {
    use std::os::unix::fs::FileTypeExt as _;
    let about = format!("{option}{}", path.display());
    let kind = std::fs::metadata(path).map_err(|error| Failure::file(about.clone(), &error))?.file_type();
    let is_taken = kind.is_file()
        || (kind.is_dir() && takes == Takes::FileOrDirectory)
        || (kind.is_fifo() && takes == Takes::FileOrPipe);
    if is_taken {
        return Ok(());
    }
    let found = match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let (wanted, hint) = match takes {
        Takes::FileOrDirectory => ("a file or a directory", "write its bytes to a file first"),
        Takes::FileOrPipe => {
            ("a file or a pipe", "name a file, or `-` for this command's own standard input")
        }
    };
    Err(Failure::local(format!("{about} is {found}, not {wanted}")).hint(hint).into())
}

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// An input.
    FileOrDirectory,
    /// Standard input, or params.
    FileOrPipe,
}

/// Uploads what the server lacks and returns the inputs as the job names them. Small files become
/// part of the job itself.
pub(crate) async fn upload(
    client: &Client,
    inputs: &[InputArg],
    progress: &Progress,
) -> anyhow::Result<Vec<InputSpec>> {
    check_distinct(inputs)?;
    let mut specs = Vec::with_capacity(inputs.len());
    let mut inline_left = INLINE_ALL_BYTES;
    for input in inputs {
        let about = || format!("--in {}={}", input.name, input.path.display());
        let meta = std::fs::metadata(&input.path).map_err(|error| Failure::file(about(), &error))?;
        let what = format!("input {}", input.name);
        progress.phase(&what);
        let (kind, source) = if meta.is_dir() {
            let tree = scan(input.path.clone()).await.with_context(about)?;
            (
                InputKind::Tree,
                BlobSource::Digest(upload_tree(client, tree, &what, progress).await.with_context(about)?),
            )
        } else {
            let told = progress.sending(&what, meta.len());
            let source = upload_file(client, &input.path, meta.len(), &mut inline_left, &told).await;
            (InputKind::File, source.with_context(about)?)
        };
        specs.push(InputSpec { name: input.name.clone(), source, kind, mode: input.mode });
    }
    Ok(specs)
}

async fn scan(path: PathBuf) -> anyhow::Result<Tree> {
    tokio::task::spawn_blocking(move || Tree::scan(&path)).await?.map_err(|error| match error {
        PackError::Refused { detail, hint } => Failure::local(detail).hint(hint).into(),
        other => other.into(),
    })
}

async fn upload_tree(
    client: &Client,
    tree: Tree,
    what: &str,
    progress: &Progress,
) -> anyhow::Result<gristmill_protocol::Digest> {
    let (tree, digest) = tokio::task::spawn_blocking(move || {
        let digest = tree.digest();
        (tree, digest)
    })
    .await?;
    let (digest, size) = digest?;
    let tree = Arc::new(tree);
    let told = progress.sending(what, size);
    let open = |offset| tree_stream_from(Arc::clone(&tree), offset);
    let upload = client.blob_put(digest, size, open, &told).await?;
    tracing::debug!(%digest, size, sent = upload.sent, "packed tree");
    Ok(digest)
}

async fn upload_file(
    client: &Client,
    path: &Path,
    size: u64,
    inline_left: &mut u64,
    told: &OnSent,
) -> anyhow::Result<BlobSource> {
    if size <= INLINE_FILE_BYTES.min(*inline_left) && path.is_file() {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(INLINE_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == size {
            *inline_left -= size;
            return Ok(inline(&bytes));
        }
    }
    if !path.is_file() {
        // A pipe can be read only once, so it is written to a file first.
        let spooled = spool(tokio::fs::File::open(path).await?).await?;
        return Ok(BlobSource::Digest(client.blob_put_file(spooled.path(), told).await?.digest));
    }
    Ok(BlobSource::Digest(client.blob_put_file(path, told).await?.digest))
}

fn inline(bytes: &[u8]) -> BlobSource {
    BlobSource::Base64(base64::engine::general_purpose::STANDARD.encode(bytes))
}

/// Brings `--stdin FILE|-` to the server. A pipe is read to its end.
pub(crate) async fn upload_stdin(
    client: &Client,
    path: &Path,
    progress: &Progress,
) -> anyhow::Result<BlobSource> {
    if path == Path::new("-") {
        let spooled = spool(tokio::io::stdin()).await.context("cannot read standard input")?;
        let size = spooled.as_file().metadata()?.len();
        let told = progress.sending("standard input", size);
        return upload_file(client, spooled.path(), size, &mut { INLINE_ALL_BYTES }, &told).await;
    }
    let meta = std::fs::metadata(path)
        .map_err(|error| Failure::file(format!("--stdin: cannot read {}", path.display()), &error))?;
    let told = progress.sending("standard input", meta.len());
    upload_file(client, path, meta.len(), &mut { INLINE_ALL_BYTES }, &told)
        .await
        .with_context(|| format!("--stdin {}", path.display()))
}

/// Copies what can be read only once to a temporary file.
pub(crate) async fn spool(
    mut from: impl tokio::io::AsyncRead + Unpin,
) -> anyhow::Result<tempfile::NamedTempFile> {
    let spooled = tempfile::NamedTempFile::new()?;
    let mut file = tokio::fs::File::from_std(spooled.reopen()?);
    tokio::io::copy(&mut from, &mut file).await?;
    tokio::io::AsyncWriteExt::flush(&mut file).await?;
    Ok(spooled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_a_name_a_path_and_a_mode() {
        let input =
            |name: &str, path: &str, mode| Ok(InputArg { name: name.into(), path: path.into(), mode });
        assert_eq!("a.csv=./x=y.csv".parse(), input("a.csv", "./x=y.csv", InputMode::Ro));
        assert_eq!("/work=dir:rw".parse(), input("/work", "dir", InputMode::Rw));
        assert_eq!("sub/a=dir:ro".parse(), input("sub/a", "dir", InputMode::Ro));
    }

    #[test]
    fn names_that_the_server_would_refuse_are_refused_at_once() {
        for bad in [
            "x",
            "=p",
            "a=",
            "../a=p",
            "a//b=p",
            "/=p",
            "/in=p",
            "/out=p",
            "/tmp=p",
            "./a=p",
            "params.json=p",
            "/in/params.json=p",
            "a\u{1b}=p",
            "a/=p",
            "a=:rw",
        ] {
            assert!(bad.parse::<InputArg>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_place_is_taken_only_once() {
        let inputs: Vec<InputArg> = ["a=x", "/in/a=y"].iter().filter_map(|text| text.parse().ok()).collect();
        assert_eq!(inputs.len(), 2);
        assert!(check_distinct(&inputs).is_err());
        assert!(check_distinct(&inputs[..1]).is_ok());
    }

    #[test]
    fn inputs_are_files_or_directories_and_standard_input_may_be_a_pipe() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").expect("written");
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        let check =
            |path: &Path, takes| check_source("--in a=", path, takes).map_err(|error| error.to_string());
        for (path, as_input, as_stdin) in [
            (file.as_path(), true, true),
            (dir.path(), true, false),
            (&pipe, false, true),
            (Path::new("/dev/zero"), false, false),
            (Path::new("/dev/null"), false, false),
            (&dir.path().join("missing"), false, false),
        ] {
            assert_eq!(check(path, Takes::FileOrDirectory).is_ok(), as_input, "{}", path.display());
            assert_eq!(check(path, Takes::FileOrPipe).is_ok(), as_stdin, "{}", path.display());
        }
        let refused = check(Path::new("/dev/zero"), Takes::FileOrDirectory).expect_err("refused");
        assert_eq!(refused, "--in a=/dev/zero is a device, not a file or a directory");
    }

    #[tokio::test]
    async fn what_can_be_read_only_once_is_copied_whole() {
        let bytes = vec![7u8; 300_000];
        let spooled = spool(bytes.as_slice()).await.expect("copied");
        assert_eq!(std::fs::read(spooled.path()).expect("readable"), bytes);
    }
}
