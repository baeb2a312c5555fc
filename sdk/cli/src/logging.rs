//! The program's own log, on standard error: lines for people on a terminal, JSON elsewhere, or as
//! the command line says.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::{args::LogFormat, failure::Failure, terminal::colors_stderr};

/// Starts logging. Services log from `info` up, other commands from `warn` up, unless `level` says
/// otherwise: a level, or a filter such as `warn,gristmill_node=debug`.
pub(crate) fn start(level: Option<&str>, format: Option<LogFormat>, is_service: bool) -> Result<(), Failure> {
    let default = if is_service { "info" } else { "warn" };
    // What it says of each bad certificate is in the error of the call, with what to do. A filter of
    // the command line that names it counts.
    let filter = format!("rustls_platform_verifier=off,{}", level.unwrap_or(default));
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("--log-level: {error}")).hint("write error, warn, info, debug or trace")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let is_colored = colors_stderr();
    let customary = if terminal || !is_service { LogFormat::Text } else { LogFormat::Json };
    let started = if format.unwrap_or(customary) == LogFormat::Text {
        builder.with_ansi(is_colored).with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    started.map_err(|error| Failure::local(format!("cannot start logging: {error}")))
}
