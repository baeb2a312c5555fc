//! A backup: everything that a server keeps, as of one moment, in a directory that can be checked
//! with `sha256sum` alone.
//!
//! The database is copied first; the bytes that it refers to never change, and stay for the grace of
//! unused blobs at least, so that they can follow one by one while the server works on.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use gristmill_protocol::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    blob::blob_path,
    checksums::{self, FILE as SUMS},
    data_dir::{DataDir, make_private},
    store::sqlite::{Snapshot, logs_referred_to},
};

/// Name of the manifest in a backup.
const MANIFEST: &str = "manifest.json";
/// The form of backups that this version writes and reads.
const FORMAT: u32 = 1;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of the backup.
    pub format: u32,
    /// The version of gristmill that made it.
    pub version: String,
    /// The schema of its database.
    pub schema: i64,
    /// When it was begun.
    pub created_at: Timestamp,
    /// Number of files, this one and the list left out.
    pub files: u64,
    /// Number of their bytes.
    pub bytes: u64,
    /// Digest of the list of all files with their digests, `SHA256SUMS`.
    pub sums: Digest,
}

/// How a backup is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupOptions {
    /// Copies all bytes. Otherwise blobs, which never change, are shared with the server by hard
    /// links where both lie on one file system.
    pub copy: bool,
    /// The present time.
    pub now: Timestamp,
}

/// Makes a backup of a data directory, with which a server may work meanwhile, into a directory that
/// does not exist yet. It appears all at once, complete and durable. Blocks for file work; run it
/// where that disturbs nobody.
pub async fn back_up(data: &DataDir, to: &Path, options: BackupOptions) -> anyhow::Result<Manifest> {
    data.expect_database()?;
    ensure!(!to.exists(), "{} exists already: give a directory that does not", to.display());
    let partial = beside(to, "partial")?;
    let lock = clear(&partial)?;
    let database = DataDir::new(&partial).database();
    let mut snapshot = Snapshot::take(&data.database(), &database)
        .await
        .with_context(|| format!("failed to copy {}", data.database().display()))?;
    let mut list = List::begin(&partial, data.path(), options.copy)?;
    add_blobs(&mut list, &mut snapshot).await?;
    add_logs(&mut list, &mut snapshot, data).await?;
    snapshot.check().await?;
    let schema = snapshot.schema();
    snapshot.close().await?;
    list.add_here(Path::new("gristmill.db"))?;
    if data.admin_token().is_file() {
        list.add(Path::new("admin.token"), None, true)?;
    }
    let (files, bytes) = (list.files, list.bytes);
    let manifest = Manifest {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema,
        created_at: options.now,
        files,
        bytes,
        sums: list.finish()?,
    };
    let text = serde_json::to_string_pretty(&manifest)?;
    write_durably(&partial.join(MANIFEST), text.as_bytes())?;
    unmark(&partial, lock)?;
    publish(&partial, to)?;
    Ok(manifest)
}

/// Name of the file by which a process holds a directory that it fills.
const LOCK: &str = "in-progress.lock";

/// A hidden name beside a directory, where its content is gathered.
pub(crate) fn beside(directory: &Path, what: &str) -> anyhow::Result<PathBuf> {
    let name = directory.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{} names no directory", directory.display()))?;
    Ok(directory.with_file_name(format!(".{name}.{what}")))
}

/// Makes an empty directory, in place of what a process that was killed has left there, and takes it.
pub(crate) fn clear(directory: &Path) -> anyhow::Result<File> {
    let doing = || format!("failed to make {}", directory.display());
    make_private(directory).with_context(doing)?;
    let lock = File::create(directory.join(LOCK)).with_context(doing)?;
    if lock.try_lock().is_err() {
        bail!("another process fills {} at this moment: wait for it", directory.display());
    }
    for entry in std::fs::read_dir(directory).with_context(doing)? {
        let path = entry.with_context(doing)?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).with_context(doing)?;
        } else if !path.ends_with(LOCK) {
            std::fs::remove_file(&path).with_context(doing)?;
        }
    }
    Ok(lock)
}

/// Takes away the sign that a directory is being filled.
pub(crate) fn unmark(directory: &Path, lock: File) -> io::Result<()> {
    std::fs::remove_file(directory.join(LOCK))?;
    drop(lock);
    Ok(())
}

/// Gives a directory its name. All of it is durable when it returns.
pub(crate) fn publish(partial: &Path, to: &Path) -> anyhow::Result<()> {
    sync_directories(partial).with_context(|| format!("failed to sync {}", partial.display()))?;
    std::fs::rename(partial, to).with_context(|| {
        format!("failed to rename {} to {}: neither may be a mount point", partial.display(), to.display())
    })?;
    let above = to.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(above).and_then(|above| above.sync_all()).context("failed to sync the directory above")
}

fn sync_directories(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_directories(&entry.path())?;
        }
    }
    File::open(directory)?.sync_all()
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The list of files as it grows, with the files that it names.
struct List {
    to: PathBuf,
    from: PathBuf,
    copy: bool,
    sums: checksums::Hashing<BufWriter<File>>,
    files: u64,
    bytes: u64,
}

impl List {
    fn begin(to: &Path, from: &Path, copy: bool) -> anyhow::Result<Self> {
        let sums = checksums::Hashing::new(BufWriter::new(File::create_new(to.join(SUMS))?));
        Ok(Self { to: to.to_owned(), from: from.to_owned(), copy, sums, files: 0, bytes: 0 })
    }

    fn note(&mut self, path: &Path, digest: Digest, size: u64) -> io::Result<()> {
        self.files += 1;
        self.bytes += size;
        checksums::write_line(&mut self.sums, digest, path)
    }

    /// Adds a file that lies in the backup already.
    fn add_here(&mut self, path: &Path) -> anyhow::Result<()> {
        let (digest, size) = checksums::digest_of(&self.to.join(path))?;
        Ok(self.note(path, digest, size)?)
    }

    /// Adds a file of the server; its digest is taken unless it is known. False when there is no such
    /// file.
    fn add(&mut self, path: &Path, known: Option<(Digest, u64)>, copy: bool) -> anyhow::Result<bool> {
        let (from, to) = (self.from.join(path), self.to.join(path));
        if let Some(above) = to.parent() {
            make_private(above).with_context(|| format!("failed to make {}", above.display()))?;
        }
        let taken = take_file(&from, &to, known, copy || self.copy);
        match taken {
            Ok((digest, size)) => {
                self.note(path, digest, size)?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("failed to back up {}", from.display())),
        }
    }

    /// Ends the list; its digest.
    fn finish(self) -> anyhow::Result<Digest> {
        let (list, digest, _) = self.sums.finish();
        list.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(digest)
    }
}

fn take_file(from: &Path, to: &Path, known: Option<(Digest, u64)>, copy: bool) -> io::Result<(Digest, u64)> {
    if !copy && let Some(known) = known {
        match std::fs::hard_link(from, to) {
            Ok(()) => return Ok(known),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            // Another file system, or one without hard links.
            Err(_) => {}
        }
    }
    let mut source = File::open(from)?;
    let mut target = checksums::Hashing::new(File::create_new(to)?);
    checksums::copy(&mut source, &mut target)?;
    let (target, digest, size) = target.finish();
    target.sync_all()?;
    if known.is_some_and(|(known, _)| known != digest) {
        return Err(io::Error::other("its bytes are damaged: they do not have the digest of its name"));
    }
    Ok((digest, size))
}

async fn add_blobs(list: &mut List, snapshot: &mut Snapshot) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let blobs = snapshot.blobs(after).await?;
        let Some((end, _)) = blobs.last() else { return Ok(()) };
        after = Some(*end);
        let mut gone = Vec::new();
        for (digest, size) in blobs {
            let path = Path::new("objects").join(blob_path(digest));
            if !list.add(&path, Some((digest, size)), false)? {
                gone.push(digest);
            }
        }
        // The server has collected them since the moment of the copy.
        snapshot.forget_blobs(&gone).await.context(
            "the backup is not complete: if it took longer than unused blobs are kept, make another one",
        )?;
    }
}

async fn add_logs(list: &mut List, snapshot: &mut Snapshot, data: &DataDir) -> anyhow::Result<()> {
    let mut after = 0;
    loop {
        let pieces = snapshot.logs(after).await?;
        let Some((end, _)) = pieces.last() else { return Ok(()) };
        after = *end;
        let mut gone = Vec::new();
        for (_, key) in pieces {
            if !list.add(&Path::new("objects").join(&key), None, true)? {
                gone.push(key);
            }
        }
        let missing = logs_referred_to(&data.database(), &gone).await?;
        if let Some(key) = missing.first() {
            bail!("the backup is not complete: the bytes of a log are missing: objects/{key}");
        }
        for key in gone {
            snapshot.forget_log(&key).await?;
        }
    }
}

/// Reads what a backup says of itself. Fails when this version does not know its form.
pub fn read_manifest(backup: &Path) -> anyhow::Result<Manifest> {
    let path = backup.join(MANIFEST);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} is no backup: {MANIFEST} cannot be read", backup.display()))?;
    let read: serde_json::Value = serde_json::from_str(&text).context("the manifest is damaged")?;
    let format = read["format"].as_u64().unwrap_or(0);
    ensure!(
        format == u64::from(FORMAT),
        "the backup has the form {format}, this version of gristmill reads the form {FORMAT}: use a newer version"
    );
    serde_json::from_value(read).context("the manifest is damaged")
}

/// Checks a backup: that every file is there with its digest, that the database is sound, and that
/// everything it refers to is in the backup. Reads all bytes, and blocks.
pub async fn verify(backup: &Path) -> anyhow::Result<Manifest> {
    let manifest = read_manifest(backup)?;
    let (sums, _) = checksums::digest_of(&backup.join(SUMS)).context("the list of files cannot be read")?;
    ensure!(sums == manifest.sums, "{SUMS} is damaged: it does not have the digest in the manifest");
    let (mut files, mut bytes, mut paths) = (0, 0, HashSet::new());
    for line in checksums::lines(&backup.join(SUMS))? {
        let (expected, path) = line?;
        let (found, size) = checksums::digest_of(&backup.join(&path))
            .with_context(|| format!("{} cannot be read", path.display()))?;
        ensure!(found == expected, "{} is damaged: it does not have its digest", path.display());
        files += 1;
        bytes += size;
        paths.insert(path);
    }
    ensure!((files, bytes) == (manifest.files, manifest.bytes), "{SUMS} does not go with the manifest");
    let mut snapshot = Snapshot::open_read_only(&DataDir::new(backup).database())
        .await
        .context("the database cannot be used")?;
    snapshot.check().await?;
    expect_complete(&mut snapshot, &paths).await?;
    snapshot.close().await?;
    Ok(manifest)
}

/// Fails unless everything that the database refers to is among the paths.
async fn expect_complete(snapshot: &mut Snapshot, paths: &HashSet<PathBuf>) -> anyhow::Result<()> {
    let has = |path: String| {
        let path = Path::new("objects").join(path);
        ensure!(paths.contains(&path), "{} is missing in the backup", path.display());
        Ok(())
    };
    let mut after = None;
    loop {
        let blobs = snapshot.blobs(after).await?;
        let Some((end, _)) = blobs.last() else { break };
        after = Some(*end);
        blobs.into_iter().try_for_each(|(digest, _)| has(blob_path(digest)))?;
    }
    let mut after = 0;
    loop {
        let pieces = snapshot.logs(after).await?;
        let Some((end, _)) = pieces.last() else { return Ok(()) };
        after = *end;
        pieces.into_iter().try_for_each(|(_, key)| has(key))?;
    }
}
