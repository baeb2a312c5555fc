//! Traces by OTLP over HTTP, set up by the variables of OpenTelemetry's specification.
//!
//! Server and node make spans with `tracing` under one target and know nothing of the export. Here a layer
//! gives each its place in its trace and puts it into a bounded queue when it ends; a task sends what is in
//! the queue. Whoever makes spans never waits: what finds the queue full is dropped and counted.

mod collector;
mod encode;
mod layer;
mod sending;
mod settings;
mod span;
#[cfg(test)]
mod tests;

use gristmill_protocol::trace::SPAN_TARGET;
use tracing_subscriber::{Layer, Registry, filter::Targets};

use self::{layer::SpanLayer, settings::Settings};
pub use self::{
    sending::{Running, Sending},
    settings::sampling,
};

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
#[error("traces are not exported: {0}")]
pub struct OtlpError(String);

/// A part of a subscriber.
pub type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The export as the variables want it: `OTEL_EXPORTER_OTLP_…`, `OTEL_BSP_…`, `OTEL_TRACES_SAMPLER`,
/// `OTEL_SERVICE_NAME`, by default `service`, and `OTEL_RESOURCE_ATTRIBUTES`. Spans go into the layer's queue
/// from the moment when the layer is in force, and are sent once the second part has been started. A number or
/// a sampler that is wrong is told in the log then, and the default counts; what is wrong about the
/// collector is an error.
pub fn open(
    variable: &dyn Fn(&str) -> Option<String>,
    service: &str,
) -> Result<(BoxedLayer, Sending), OtlpError> {
    let collector = settings::collector(variable)?;
    let settings = Settings::read(variable, service);
    let sampling = settings.sampling;
    let (queue, sending) = sending::queue(collector, settings);
    let only_spans = Targets::new().with_target(SPAN_TARGET, tracing::Level::INFO);
    Ok((SpanLayer::new(queue, sampling).with_filter(only_spans).boxed(), sending))
}
