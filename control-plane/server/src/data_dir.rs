//! Where a server keeps everything, and who may have it open.

use std::{
    fs::File,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    clock::{Clock, SystemClock},
    store::sqlite::{self, Schema},
};

/// A server's data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The directory at a path, whether it is there or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The database's file.
    pub fn database(&self) -> PathBuf {
        self.0.join("gristmill.db")
    }

    /// The directory of the bytes.
    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    /// The file with the first admin token's secret. Without it, the next start makes a new one.
    pub fn admin_token(&self) -> PathBuf {
        self.0.join("admin.token")
    }

    /// Makes the directory, with mode 0700, if it is not there, and takes it for this process for as
    /// long as the file is open. Fails when another process has it.
    pub fn lock(&self) -> anyhow::Result<File> {
        make_private(&self.0)
            .with_context(|| format!("failed to make the data directory {}", self.0.display()))?;
        let path = self.0.join("server.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("failed to open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => anyhow::bail!(
                "another server has {} open: stop it first, or give this one another --data directory",
                self.0.display()
            ),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("failed to lock {}", path.display()))
            }
        }
    }

    /// Fails unless a server has kept its data here.
    pub fn expect_database(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.database().is_file(),
            "{} holds no server's data: there is no gristmill.db; give the --data directory of the server",
            self.0.display()
        );
        Ok(())
    }

    /// Which tables the database has. Changes nothing, and a server may be running.
    pub async fn schema(&self) -> anyhow::Result<Schema> {
        self.expect_database()?;
        sqlite::read_schema(&self.database())
            .await
            .with_context(|| format!("failed to read {}", self.database().display()))
    }

    /// Brings the database up to date, as the server does at its start. Returns the path of the copy of
    /// before, if there was anything to do. Fails when a server is running.
    pub async fn migrate(&self) -> anyhow::Result<Option<PathBuf>> {
        self.expect_database()?;
        let _lock = self.lock()?;
        sqlite::upgrade(&self.database(), SystemClock::start().now())
            .await
            .with_context(|| format!("failed to bring {} up to date", self.database().display()))
    }
}

/// Makes a directory, and those above it, that only its owner may look into.
pub(crate) fn make_private(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
