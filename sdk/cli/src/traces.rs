//! The export of traces by OTLP, when a variable of OpenTelemetry names a collector and this build has the
//! feature `otlp`.

use gristmill_protocol::trace::Sampling;

use crate::{args::Command, environment, logging::BoxedLayer};

/// What to do when they cannot be exported.
pub(crate) const ADVICE: &str =
    "correct the variable, or take a build that exports traces: cargo build --release --features otlp";

/// The export of one process.
#[derive(Default)]
pub(crate) struct Traces {
    layer: Option<BoxedLayer>,
    #[cfg(feature = "otlp")]
    sending: Option<gristmill_otlp::Sending>,
    /// Why there is no export although somebody wants one.
    problem: Option<String>,
}

/// Whether the variables ask for export, which they do when they name a collector.
fn is_wanted(variable: &dyn Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let is_disabled = set("OTEL_SDK_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let is_by_otlp = set("OTEL_TRACES_EXPORTER")
        .is_none_or(|exporters| exporters.split(',').any(|exporter| exporter.trim() == "otlp"));
    let names_collector = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
    !is_disabled && is_by_otlp && names_collector.iter().any(|name| set(name).is_some())
}

/// Whether a server or a node with this environment exports its traces, or why it cannot. `None` when nobody
/// wants that.
pub(crate) fn exporting() -> Option<Result<(), String>> {
    is_wanted(&environment::variable).then(|| open("gristmill").problem.map_or(Ok(()), Err))
}

/// Which traces are recorded.
#[cfg(feature = "otlp")]
pub(crate) fn sampling() -> Sampling {
    if is_wanted(&environment::variable) {
        gristmill_otlp::sampling(&environment::variable)
    } else {
        Sampling::default()
    }
}

/// Which traces are recorded: by others, as they say.
#[cfg(not(feature = "otlp"))]
pub(crate) fn sampling() -> Sampling {
    Sampling::default()
}

#[cfg(feature = "otlp")]
fn open(service: &str) -> Traces {
    match gristmill_otlp::open(&environment::variable, service) {
        Ok((layer, sending)) => Traces { layer: Some(layer), sending: Some(sending), problem: None },
        Err(error) => Traces { problem: Some(error.to_string()), ..Traces::default() },
    }
}

#[cfg(not(feature = "otlp"))]
fn open(_service: &str) -> Traces {
    let problem = "traces are not exported: OTEL_EXPORTER_OTLP_ENDPOINT is set, but this build has no export";
    Traces { problem: Some(problem.into()), ..Traces::default() }
}

impl Traces {
    /// The export of a command: of services alone, and only if it is wanted.
    pub(crate) fn of(command: &Command) -> Self {
        if !command.is_service() || !is_wanted(&environment::variable) {
            return Self::default();
        }
        open(match command {
            Command::Server(_) => "gristmill-server",
            Command::Node(_) => "gristmill-node",
            _ => "gristmill",
        })
    }

    /// What has to be in force for spans to be made. It is given once.
    pub(crate) fn layer(&mut self) -> Option<BoxedLayer> {
        self.layer.take()
    }

    /// Says in the log why nothing is exported.
    pub(crate) fn say_what_is_wrong(&self) {
        if let Some(problem) = &self.problem {
            tracing::warn!("{problem}; {ADVICE}");
        }
    }

    /// Exports spans while the work lasts, and sends the last ones when it has ended.
    #[cfg(feature = "otlp")]
    pub(crate) async fn while_running<T>(self, work: impl Future<Output = T>) -> T {
        let running = self.sending.map(gristmill_otlp::Sending::start);
        let done = work.await;
        if let Some(running) = running {
            running.finish().await;
        }
        done
    }

    /// Nothing but the work.
    #[cfg(not(feature = "otlp"))]
    pub(crate) async fn while_running<T>(self, work: impl Future<Output = T>) -> T {
        work.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_exported_when_a_collector_is_named_and_nothing_speaks_against_it() {
        let wanted = |set: &[(&str, &str)]| {
            is_wanted(&|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
            })
        };
        let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert!(wanted(&[collector]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")]));
        assert!(wanted(&[collector, ("OTEL_TRACES_EXPORTER", "console, otlp")]));
        assert!(wanted(&[collector, ("OTEL_SDK_DISABLED", "false")]));
        assert!(!wanted(&[]) && !wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]));
        assert!(!wanted(&[collector, ("OTEL_SDK_DISABLED", "TRUE")]));
        assert!(!wanted(&[collector, ("OTEL_TRACES_EXPORTER", "none")]));
    }
}
