//! `gristmill backup`, `restore` and `migrate`: what is done to a server's data directory on the
//! machine where it lies.

use std::path::{Path, PathBuf};

use clap::Args;
use gristmill_protocol::units::format_bytes;
use gristmill_server::{
    backup::{self, BackupOptions, Manifest},
    clock::{Clock as _, SystemClock},
    data_dir::DataDir,
    restore,
};
use serde_json::json;

use crate::{
    args::Global,
    environment::keep_files_private,
    failure::{Exit, Failure},
    printer::{Printer, grouped, pairs, time},
};

/// Make a backup of a server's data, or check one
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The server's data directory, or that of `dev`; the server may be running
    #[arg(long, value_name = "DIR", requires = "out", required_unless_present = "verify")]
    data: Option<PathBuf>,
    /// Directory to make; it must not exist
    #[arg(long, value_name = "DIR", requires = "data")]
    out: Option<PathBuf>,
    /// Copy blobs also where a hard link would do
    #[arg(long, requires = "out")]
    copy: bool,
    /// Check a backup instead: every digest, the database, and that nothing is missing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data", "out"])]
    verify: Option<PathBuf>,
}

/// Restore a backup into an empty directory
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The data directory to make; it must be empty or not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Bring a server's database up to date
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The server's data directory, or that of `dev`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Change nothing; exit with 1 when there is something to do
    #[arg(long)]
    check: bool,
}

/// Runs `backup`.
pub(crate) async fn back_up(args: BackupArgs, global: &Global) -> anyhow::Result<Exit> {
    let printer = Printer::new(global.json());
    if let Some(dir) = args.verify {
        let manifest = backup::verify(&dir).await.map_err(|error| about_backup(&dir, error))?;
        let document = json!({ "backup": dir, "sound": true, "manifest": manifest });
        printer.show(&document, |_| details(None, &manifest, &[("sound", "yes".to_owned())]))?;
        return Ok(Exit::Ok);
    }
    let (Some(data), Some(out)) = (args.data, args.out) else {
        return Err(Failure::usage("give --data and --out, or --verify").into());
    };
    keep_files_private();
    let out = std::path::absolute(out)?;
    let options = BackupOptions { copy: args.copy, now: SystemClock::start().now() };
    let data = server_data(data)?;
    if out.exists() {
        let detail = format!("{} exists already", out.display());
        return Err(Failure::local(detail).hint("let --out name a directory that is not there yet").into());
    }
    let manifest = backup::back_up(&data, &out, options).await?;
    let document = json!({ "backup": out, "manifest": manifest });
    printer.show(&document, |_| details(Some(("backup", &out)), &manifest, &[]))?;
    Ok(Exit::Ok)
}

/// Which directory this is about, what the manifest says, and more, in one column.
fn details(directory: Option<(&str, &Path)>, manifest: &Manifest, more: &[(&str, String)]) -> String {
    let mut lines = Vec::new();
    lines.extend(directory.map(|(name, path)| (name, Some(path.display().to_string()))));
    lines.extend([
        ("made", Some(time(manifest.created_at))),
        ("version", Some(manifest.version.clone())),
        ("schema", Some(manifest.schema.to_string())),
        ("files", Some(grouped(manifest.files))),
        ("size", Some(format_bytes(manifest.bytes))),
    ]);
    lines.extend(more.iter().map(|(name, value)| (*name, Some(value.clone()))));
    pairs(&lines)
}

/// The data directory that is meant. `dev` keeps its server's in `server`, below the directory that it
/// prints.
fn server_data(named: PathBuf) -> anyhow::Result<DataDir> {
    let named = std::path::absolute(named)?;
    let (data, below) = (DataDir::new(&named), DataDir::new(named.join("server")));
    if !data.database().is_file() && below.database().is_file() {
        return Ok(below);
    }
    data.expect_database().map_err(|error| {
        Failure::local(error.to_string())
            .hint("`gristmill server run` and `gristmill dev` print it as `data`")
    })?;
    Ok(data)
}

/// An error of reading a backup, with what to do.
fn about_backup(dir: &Path, error: anyhow::Error) -> anyhow::Error {
    let hint = match backup::read_manifest(dir) {
        // A full disk is not the backup's fault.
        Ok(_) if error.chain().any(<dyn std::error::Error>::is::<std::io::Error>) => return error,
        Ok(_) => "take another backup; this one was changed or is damaged since it was made",
        Err(_) => "name the directory that `gristmill backup --out` made",
    };
    Failure::local(format!("{error:#}")).hint(hint).into()
}

/// Runs `restore`.
pub(crate) async fn restore(args: RestoreArgs, global: &Global) -> anyhow::Result<Exit> {
    keep_files_private();
    let data = std::path::absolute(args.data)?;
    let now = SystemClock::start().now();
    let is_filled = std::fs::read_dir(&data).is_ok_and(|mut entries| entries.next().is_some());
    if is_filled {
        let detail =
            format!("{} is not empty: a backup is restored into a directory of its own", data.display());
        let hint = "let --data name an empty directory, or one that is not there yet";
        return Err(Failure::local(detail).hint(hint).into());
    }
    let restored = restore::restore(&args.from, &DataDir::new(&data), now).await;
    let (manifest, generation) = restored.map_err(|error| about_backup(&args.from, error))?;
    let document = json!({ "data_dir": data, "generation": generation, "manifest": manifest });
    Printer::new(global.json()).show(&document, |_| {
        let leases = "those of before are over; nodes acquire anew".to_owned();
        let next = format!("gristmill server run --data {}", data.display());
        details(Some(("data", &data)), &manifest, &[("leases", leases), ("next", next)])
    })?;
    Ok(Exit::Ok)
}

/// Runs `migrate`.
pub(crate) async fn migrate(args: MigrateArgs, global: &Global) -> anyhow::Result<Exit> {
    keep_files_private();
    let data = server_data(args.data)?;
    let schema = data.schema().await?;
    let copy = if args.check || schema.pending.is_empty() { None } else { data.migrate().await? };
    let pending: Vec<_> = if copy.is_some() { Vec::new() } else { schema.pending.clone() };
    let document = json!({
        "found": schema.found, "latest": schema.latest, "copy": copy,
        "pending": pending.iter().map(|(number, name)| json!({ "number": number, "name": name })).collect::<Vec<_>>(),
    });
    Printer::new(global.json()).show(&document, |_| {
        let now = schema.found.filter(|_| copy.is_none()).unwrap_or(schema.latest);
        let waiting: Vec<_> = pending.iter().map(|(number, name)| format!("{number} {name}")).collect();
        pairs(&[
            ("schema", Some(format!("{now} of {}", schema.latest))),
            ("pending", (!waiting.is_empty()).then(|| waiting.join(", "))),
            ("copy", copy.as_ref().map(|copy| copy.display().to_string())),
        ])
    })?;
    Ok(if pending.is_empty() { Exit::Ok } else { Exit::Error })
}
