//! W3C trace context: which trace a job belongs to, as the header `traceparent` says it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The target of the spans that are exported. They are apart from the log: a build or a process that
/// exports nothing does not make them.
///
/// Their fields `otel.name`, `otel.kind` and `otel.status_code` stand for the name, the kind and the status
/// of the span; `otel.context` for its own [`TraceContext`], when others have to know it, and `otel.parent`
/// for that of its parent in another process. The other fields are its attributes.
pub const SPAN_TARGET: &str = "gristmill::span";

/// A trace, a span in it, and the trace's flags. Neither id is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

/// Why a text is no trace context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a W3C traceparent such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct TraceContextError;

impl TraceContext {
    /// The flag that says that the caller may have recorded the trace.
    pub const SAMPLED: u8 = 1;

    /// A trace of its own, sampled. Ids are made of digests or random bytes; zero is replaced.
    pub fn of(trace: [u8; 16], span: [u8; 8]) -> Self {
        let trace = if trace == [0; 16] { [1; 16] } else { trace };
        Self { trace, span: not_zero(span), flags: Self::SAMPLED }
    }

    /// The same trace with another span.
    #[must_use]
    pub fn with_span(self, span: [u8; 8]) -> Self {
        Self { span: not_zero(span), ..self }
    }

    /// The same context, recorded or not.
    #[must_use]
    pub fn with_sampled(self, is_sampled: bool) -> Self {
        Self { flags: if is_sampled { Self::SAMPLED } else { 0 }, ..self }
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    /// The trace's id in hex, for logs.
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace)
    }

    /// The trace's id.
    pub fn trace(&self) -> [u8; 16] {
        self.trace
    }

    /// The span's id.
    pub fn span(&self) -> [u8; 8] {
        self.span
    }
}

/// Which traces are recorded. Every process with the same rule decides alike about the same trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    heeds_parent: bool,
    /// Of all trace ids, cut to 63 bits, those below are recorded.
    bound: u64,
}

impl Sampling {
    /// Every trace, unless its parent is not recorded.
    pub const ALL: Self = Self { heeds_parent: true, bound: Self::BOUND_MAX };
    const BOUND_MAX: u64 = 1 << 63;

    /// Records this part of all traces, from 0 to 1. With `heeds_parent` that counts only where a trace
    /// begins; elsewhere what the parent says does.
    pub fn new(part: f64, heeds_parent: bool) -> Self {
        let bound = (part.clamp(0.0, 1.0) * Self::BOUND_MAX as f64) as u64;
        Self { heeds_parent, bound }
    }

    /// The context as this rule has it; `is_child` says whether it came from a parent.
    #[must_use]
    pub fn decide(self, context: TraceContext, is_child: bool) -> TraceContext {
        if is_child && self.heeds_parent {
            return context;
        }
        let low = u128::from_be_bytes(context.trace) as u64;
        context.with_sampled(low >> 1 < self.bound)
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self::ALL
    }
}

fn not_zero(span: [u8; 8]) -> [u8; 8] {
    if span == [0; 8] { [1; 8] } else { span }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the flags, version 00 knows the lowest bit alone; the others are not passed on.
        let flags = self.flags & Self::SAMPLED;
        write!(f, "00-{}-{}-{flags:02x}", hex::encode(self.trace), hex::encode(self.span))
    }
}

impl FromStr for TraceContext {
    type Err = TraceContextError;

    /// Reads the header as the specification says: what a later version appends is not looked at.
    fn from_str(text: &str) -> Result<Self, TraceContextError> {
        let (head, rest) = text.split_at_checked(55).ok_or(TraceContextError)?;
        let parts: Vec<&str> = head.split('-').collect();
        let [version, trace, span, flags] = parts[..] else { return Err(TraceContextError) };
        let version: [u8; 1] = lower_hex(version)?;
        let follows_well =
            if version == [0] { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
        let (trace, span, [flags]) = (lower_hex(trace)?, lower_hex(span)?, lower_hex::<1>(flags)?);
        if version == [0xff] || !follows_well || trace == [0; 16] || span == [0; 8] {
            return Err(TraceContextError);
        }
        Ok(Self { trace, span, flags })
    }
}

fn lower_hex<const N: usize>(text: &str) -> Result<[u8; N], TraceContextError> {
    let mut bytes = [0; N];
    let is_lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if is_lower => Ok(bytes),
        _ => Err(TraceContextError),
    }
}

impl schemars::JsonSchema for TraceContext {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TraceContext".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        crate::schema::text(
            "^(?!ff)(?!00-.{52}-)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$",
            "A W3C trace context, as the header `traceparent` says it: version, trace, span and flags.",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_and_written_and_passed_on_with_a_span_of_its_own() {
        let context: TraceContext = GOOD.parse().expect("the example of the specification");
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let child = context.with_span([0xab; 8]).to_string();
        assert_eq!(child, "00-4bf92f3577b34da6a3ce929d0e0e4736-abababababababab-01");
        assert_eq!(
            TraceContext::of([0; 16], [0; 8]).to_string().parse(),
            Ok(TraceContext::of([1; 16], [1; 8]))
        );
        let not_sampled = GOOD.replace("-01", "-00");
        assert_eq!(not_sampled.parse::<TraceContext>().map(|read| read.to_string()), Ok(not_sampled));
    }

    #[test]
    fn what_breaks_the_specification_is_no_context() {
        let zero_trace = GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_span = GOOD.replace("00f067aa0ba902b7", &"0".repeat(16));
        for text in [
            "",
            "00",
            &zero_trace,
            &zero_span,
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0", 1),
            &format!("{GOOD}-more"),
            &format!("{GOOD} "),
            &GOOD.replace('-', "_"),
            &GOOD.replace("-01", "-0g"),
            &format!("{}é", &GOOD[..54]),
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(TraceContextError), "{text:?}");
        }
    }

    #[test]
    fn a_part_of_the_traces_is_recorded_and_a_parent_may_decide() {
        let trace = |id: u64| {
            let id = [[0xff; 8], id.to_be_bytes()].concat();
            TraceContext::of(std::array::from_fn(|at| id[at]), [1; 8])
        };
        let (low, high) = (trace(u64::MAX / 4 - 9), trace(u64::MAX / 4 + 9));
        let quarter = Sampling::new(0.25, true);
        assert!(quarter.decide(low, false).is_sampled() && !quarter.decide(high, false).is_sampled());
        assert_eq!(quarter.decide(high, true), high, "the parent is recorded");
        assert!(!quarter.decide(low.with_sampled(false), true).is_sampled());
        assert!(!Sampling::new(0.25, false).decide(high, true).is_sampled(), "whatever the parent says");
        for context in [low, high, trace(u64::MAX)] {
            assert!(Sampling::default().decide(context.with_sampled(false), false).is_sampled());
            assert!(!Sampling::new(0.0, false).decide(context, true).is_sampled());
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = GOOD.replacen("00", "cc", 1);
        for text in [later.clone(), format!("{later}-what-comes"), later.replace("-01", "-09")] {
            assert_eq!(text.parse::<TraceContext>().map(|read| read.to_string()), Ok(GOOD.to_owned()));
        }
        assert!(format!("{later}.more").parse::<TraceContext>().is_err());
    }
}
