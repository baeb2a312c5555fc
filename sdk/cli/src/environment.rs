//! The one place that reads the process's environment.

use std::{env, path::PathBuf, time::Duration};

use anyhow::Context as _;
use gristmill_protocol::{TraceContext, units::parse_duration_ms};

/// A variable, if it is set to a text.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

/// The trace that this command is part of, in `TRACEPARENT`; what is no trace context is ignored.
pub(crate) fn trace() -> Option<TraceContext> {
    env::var("TRACEPARENT").ok()?.parse().ok()
}

/// How long the private instance outlives its last use, from `GRISTMILL_INSTANCE_IDLE`.
pub(crate) fn instance_idle() -> Option<Duration> {
    let text = env::var("GRISTMILL_INSTANCE_IDLE").ok()?;
    parse_duration_ms(&text).ok().map(Duration::from_millis)
}

/// `$XDG_DATA_HOME/gristmill`, by default `~/.local/share/gristmill`.
pub(crate) fn data_dir() -> anyhow::Result<PathBuf> {
    Ok(base_dir("XDG_DATA_HOME", ".local/share")?.join("gristmill"))
}

/// `$XDG_CONFIG_HOME/gristmill`, by default `~/.config/gristmill`.
pub(crate) fn config_dir() -> anyhow::Result<PathBuf> {
    Ok(base_dir("XDG_CONFIG_HOME", ".config")?.join("gristmill"))
}

fn base_dir(variable: &str, below_home: &str) -> anyhow::Result<PathBuf> {
    // The specification wants relative paths to be ignored.
    if let Some(dir) = env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        return Ok(dir);
    }
    let home = env::home_dir().filter(|dir| dir.is_absolute());
    let home = home.with_context(|| format!("neither HOME nor {variable} names a directory"))?;
    Ok(home.join(below_home))
}

/// This program, for starting it again. On Linux the name keeps working after the file was
/// replaced by a newer build.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    let linux = PathBuf::from("/proc/self/exe");
    if linux.exists() {
        return Ok(linux);
    }
    env::current_exe().context("cannot find this program's own file")
}

/// Tells builds of this program apart, so that a new one does not talk to an old background process.
pub(crate) fn build_fingerprint() -> String {
    let stamp = program().and_then(|path| Ok(std::fs::metadata(path)?)).ok().map(|meta| {
        let changed = meta.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        format!("{}-{}", meta.len(), changed.map_or(0, |at| at.as_nanos()))
    });
    format!("{}-{}", env!("CARGO_PKG_VERSION"), stamp.unwrap_or_default())
}

/// Makes every file that this process creates from now on readable by its own user alone: the data
/// directory may be one that others can enter.
pub(crate) fn keep_files_private() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// Raises the limit of open files as far as it goes: each connection takes one.
pub(crate) fn allow_many_connections() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}
