//! What the variables say.

use std::{fmt::Display, path::Path, str::FromStr, time::Duration};

use gristmill_protocol::trace::Sampling;
use percent_encoding::percent_decode_str;
use reqwest::{
    Certificate, Client, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use crate::{OtlpError, collector::Collector};

pub(crate) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How spans are gathered.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) sampling: Sampling,
    /// What the spans are of: names and values.
    pub(crate) resource: Vec<(String, String)>,
    /// Spans that wait at most.
    pub(crate) queue_max: usize,
    /// Spans that are sent at a time.
    pub(crate) batch_max: usize,
    /// How long a span waits for others.
    pub(crate) delay: Duration,
    /// What of the variables is wrong.
    pub(crate) complaints: Vec<String>,
}

impl Settings {
    /// Reads all but where the collector is. `service` is the name that counts when there is no other.
    pub(crate) fn read(variable: Variable<'_>, service: &str) -> Self {
        let mut complaints = Vec::new();
        let (sampling, complaint) = sampling_and_complaint(variable);
        complaints.extend(complaint);
        for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
            if set(variable, name).is_some_and(|protocol| protocol != "http/protobuf") {
                complaints.push(wrong(name, "other protocols are not spoken", "http/protobuf"));
            }
        }
        let mut number = |name: &str, otherwise: usize| {
            let (number, complaint) = read_or(variable, name, otherwise);
            complaints.extend(complaint);
            number
        };
        let queue_max = number("OTEL_BSP_MAX_QUEUE_SIZE", 2_048).clamp(1, 1 << 20);
        let batch_max = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512).clamp(1, queue_max);
        let delay = Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5_000) as u64);
        let resource = resource(variable, service);
        Self { sampling, resource, queue_max, batch_max, delay, complaints }
    }
}

/// The resource: the service's name and version, and whatever else is said about it.
fn resource(variable: Variable<'_>, service: &str) -> Vec<(String, String)> {
    let mut resource = vec![
        ("service.name".to_owned(), service.to_owned()),
        ("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let given = pairs(&set(variable, "OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
    let name = set(variable, "OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name));
    for (key, value) in given.into_iter().chain(name) {
        resource.retain(|(known, _)| *known != key);
        resource.push((key, value));
    }
    resource
}

/// The collector that the variables name.
pub(crate) fn collector(variable: Variable<'_>) -> Result<Collector, OtlpError> {
    let of_traces = |name: &str| {
        set(variable, &format!("OTEL_EXPORTER_OTLP_TRACES_{name}"))
            .or_else(|| set(variable, &format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(&of_traces("HEADERS").unwrap_or_default()) {
        let wrong = || OtlpError(format!("OTEL_EXPORTER_OTLP_HEADERS: {name:?} cannot be a header"));
        let mut secret = HeaderValue::from_str(&value).map_err(|_| wrong())?;
        secret.set_sensitive(true);
        headers.insert(HeaderName::from_str(&name).map_err(|_| wrong())?, secret);
    }
    let (timeout_ms, _) = read_or(&|_| of_traces("TIMEOUT"), "OTEL_EXPORTER_OTLP_TIMEOUT", 10_000);
    let mut client = Client::builder().timeout(Duration::from_millis(timeout_ms));
    if let Some(path) = of_traces("CERTIFICATE") {
        client = client.tls_certs_merge(authorities(Path::new(&path))?);
    }
    let client = client.build().map_err(|error| OtlpError(error.to_string()))?;
    Ok(Collector::new(client, url(variable)?, headers))
}

fn url(variable: Variable<'_>) -> Result<Url, OtlpError> {
    let of_traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let of_all = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let (name, text) = if let Some(text) = set(variable, of_traces) {
        (of_traces, text)
    } else {
        let base = set(variable, of_all).unwrap_or_default();
        (of_all, format!("{}/v1/traces", base.trim_end_matches('/')))
    };
    let url = Url::parse(&text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| OtlpError(format!("{name} is no address such as http://collector:4318")))
}

fn authorities(path: &Path) -> Result<Vec<Certificate>, OtlpError> {
    let told = |why: &dyn Display| OtlpError(format!("OTEL_EXPORTER_OTLP_CERTIFICATE: {why}"));
    let pem = std::fs::read(path).map_err(|error| told(&error))?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| told(&error))?;
    if found.is_empty() { Err(told(&"there is no certificate in PEM form in the file")) } else { Ok(found) }
}

/// `key=value` with commas between; values are percent-encoded.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| {
            (key.trim().to_owned(), percent_decode_str(value.trim()).decode_utf8_lossy().into_owned())
        })
        .filter(|(key, _)| !key.is_empty())
        .collect()
}

/// Which traces `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` want to be recorded.
pub fn sampling(variable: Variable<'_>) -> Sampling {
    sampling_and_complaint(variable).0
}

fn sampling_and_complaint(variable: Variable<'_>) -> (Sampling, Option<String>) {
    const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
    const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
    let name = set(variable, SAMPLER).unwrap_or_else(|| "parentbased_always_on".into());
    let (kind, heeds_parent) =
        name.strip_prefix("parentbased_").map_or((name.as_str(), false), |kind| (kind, true));
    match kind {
        "always_on" => (Sampling::new(1.0, heeds_parent), None),
        "always_off" => (Sampling::new(0.0, heeds_parent), None),
        "traceidratio" => {
            let (part, complaint) = read_or(variable, ARGUMENT, 1.0_f64);
            if (0.0..=1.0).contains(&part) {
                return (Sampling::new(part, heeds_parent), complaint);
            }
            (Sampling::new(1.0, heeds_parent), Some(wrong(ARGUMENT, "it goes from 0 to 1", 1.0)))
        }
        _ => {
            let known =
                "it is always_on, always_off or traceidratio, as it is or with parentbased_ before it";
            (Sampling::ALL, Some(wrong(SAMPLER, known, "parentbased_always_on")))
        }
    }
}

/// A variable that is not empty; an empty one is as good as none.
fn set(variable: Variable<'_>, name: &str) -> Option<String> {
    variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn read_or<T: FromStr + Display>(variable: Variable<'_>, name: &str, otherwise: T) -> (T, Option<String>) {
    match set(variable, name).map(|text| text.parse()) {
        None => (otherwise, None),
        Some(Ok(value)) => (value, None),
        Some(Err(_)) => {
            let complaint = wrong(name, "it is a number", &otherwise);
            (otherwise, Some(complaint))
        }
    }
}

fn wrong(name: &str, what: &str, instead: impl Display) -> String {
    format!("{name} is wrong: {what}; {instead} counts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::variables;

    #[test]
    fn samplers_are_those_of_the_specification() {
        for (sampler, argument, expected) in [
            ("", "0.5", Sampling::ALL),
            ("parentbased_always_on", "", Sampling::ALL),
            ("always_on", "0.1", Sampling::new(1.0, false)),
            ("always_off", "", Sampling::new(0.0, false)),
            ("parentbased_always_off", "", Sampling::new(0.0, true)),
            ("traceidratio", "0.25", Sampling::new(0.25, false)),
            ("parentbased_traceidratio", "0.25", Sampling::new(0.25, true)),
            ("parentbased_traceidratio", "", Sampling::new(1.0, true)),
        ] {
            let set = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            let settings = Settings::read(&variables(&set), "gristmill");
            assert_eq!(settings.sampling, expected, "{sampler} {argument}");
            assert!(settings.complaints.is_empty(), "{:?}", settings.complaints);
        }
    }

    #[test]
    fn what_is_wrong_is_told_and_the_default_counts() {
        let set = [
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ];
        let settings = Settings::read(&variables(&set), "gristmill");
        assert_eq!(settings.sampling, Sampling::new(1.0, false));
        assert_eq!((settings.queue_max, settings.batch_max), (2_048, 512));
        assert_eq!(settings.delay, Duration::from_millis(100));
        assert_eq!(settings.complaints.len(), 3, "{:?}", settings.complaints);
        assert!(settings.complaints[0].starts_with("OTEL_TRACES_SAMPLER_ARG is wrong"));
        let unknown = [("OTEL_TRACES_SAMPLER", "jaeger_remote")];
        assert_eq!(Settings::read(&variables(&unknown), "gristmill").complaints.len(), 1);
    }

    #[test]
    fn the_resource_is_what_the_variables_say_it_is() {
        let of = |set: &[(&'static str, &'static str)]| {
            let resource = Settings::read(&variables(set), "gristmill-node").resource;
            let value = |key: &str| {
                let found: Vec<_> = resource.iter().filter(|(known, _)| known == key).collect();
                assert!(found.len() < 2, "{resource:?}");
                found.first().map(|(_, value)| value.clone())
            };
            (value("service.name"), value("service.version").is_some(), value("deployment.environment.name"))
        };
        assert_eq!(of(&[]), (Some("gristmill-node".into()), true, None));
        let attributes =
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=mill, deployment.environment.name=lab%2C 2,nonsense");
        assert_eq!(of(&[attributes]), (Some("mill".into()), true, Some("lab, 2".into())));
        let name = ("OTEL_SERVICE_NAME", "other");
        assert_eq!(of(&[attributes, name]), (Some("other".into()), true, Some("lab, 2".into())));
    }

    #[test]
    fn the_address_is_that_of_traces_or_below_that_of_all() {
        let of = |set: &[(&'static str, &'static str)]| url(&variables(set)).map(|url| url.to_string()).ok();
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example/in");
        assert_eq!(of(&[all]).as_deref(), Some("http://collector:4318/v1/traces"));
        assert_eq!(of(&[all, traces]).as_deref(), Some("https://traces.example/in"));
        for wrong in ["collector:4318", "grpc://collector", "/v1"] {
            let error = url(&variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", wrong)])).expect_err(wrong);
            assert!(error.to_string().contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{error}");
        }
        let secret = [all, ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")];
        assert!(!format!("{:?}", collector(&variables(&secret))).contains("s3cret"));
        assert!(collector(&variables(&[all, ("OTEL_EXPORTER_OTLP_HEADERS", "a b=1")])).is_err());
        assert!(collector(&variables(&[all, ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem")])).is_err());
    }
}
