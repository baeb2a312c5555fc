//! The program's own log, on standard error: lines for people on a terminal, JSON elsewhere, or as
//! the command line says.

use std::io::IsTerminal as _;

use gristmill_protocol::trace::SPAN_TARGET;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{args::LogFormat, failure::Failure, terminal::colors_stderr};

/// A part of what takes note of spans and events.
pub(crate) type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts logging. Services log from `info` up, other commands from `warn` up, unless `level` says
/// otherwise: a level, or a filter such as `warn,gristmill_node=debug`. What `traces` wants beside the log
/// is its own matter.
pub(crate) fn start(
    level: Option<&str>,
    format: Option<LogFormat>,
    is_service: bool,
    traces: Option<BoxedLayer>,
) -> Result<(), Failure> {
    let default = if is_service { "info" } else { "warn" };
    // What it says of each bad certificate is in the error of the call, with what to do. Spans for export
    // would say twice what the log's own spans do. A filter of the command line that names either counts.
    let filter = format!("rustls_platform_verifier=off,{SPAN_TARGET}=off,{}", level.unwrap_or(default));
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("--log-level: {error}")).hint("write error, warn, info, debug or trace")
    })?;
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let is_colored = colors_stderr();
    let customary = if terminal || !is_service { LogFormat::Text } else { LogFormat::Json };
    let log = if format.unwrap_or(customary) == LogFormat::Text {
        log.with_ansi(is_colored).with_target(false).with_filter(filter).boxed()
    } else {
        log.json().flatten_event(true).with_filter(filter).boxed()
    };
    let layers: Vec<_> = std::iter::once(log).chain(traces).collect();
    let started = tracing_subscriber::registry().with(layers).try_init();
    started.map_err(|error| Failure::local(format!("cannot start logging: {error}")))
}
