//! A setting's value: how it is read from text and from TOML, and how it is shown.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum as _;
use gristmill_client::user::Secret;
use gristmill_protocol::OuterLimit;
use toml::de::DeValue;

use crate::{
    args::LogFormat,
    job_args::{bytes, cpus_milli, duration_ms, from_str, parse_label},
    printer,
    terminal::ColorChoice,
};

/// The place of a value in the settings. What is optional is absent until it is set.
pub(crate) enum Field<'a> {
    /// Any text.
    Text(&'a mut Option<String>),
    /// A text that is never shown.
    Secret(&'a mut Option<Secret>),
    /// A file or directory.
    Path(&'a mut Option<PathBuf>),
    /// IP address and port.
    Address(&'a mut SocketAddr),
    /// IP address and port, if there are any.
    OptionalAddress(&'a mut Option<SocketAddr>),
    /// Yes or no.
    Flag(&'a mut bool),
    /// A time of at least a millisecond.
    Duration(&'a mut Duration),
    /// A size in bytes.
    Bytes(&'a mut u64),
    /// A size in bytes that has no fixed default.
    OptionalBytes(&'a mut Option<u64>),
    /// A number from 1.
    Count(&'a mut u64),
    /// A number from 1, in memory.
    Size(&'a mut usize),
    /// A number from 0.
    Small(&'a mut u32),
    /// A number from 1 that has no fixed default.
    OptionalCount(&'a mut Option<u32>),
    /// Thousandths of a core.
    Cores(&'a mut u32),
    /// Thousandths of a core, without a fixed default.
    OptionalCores(&'a mut Option<u32>),
    /// Keys with values.
    Labels(&'a mut BTreeMap<String, String>),
    /// A level of the outer limit.
    Level(&'a mut OuterLimit),
    /// How to log.
    LogFormat(&'a mut Option<LogFormat>),
    /// When to colour.
    Color(&'a mut ColorChoice),
}

fn count<T>(text: &str, least: &T) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let number = text.replace('_', "").parse::<T>().ok().filter(|number| number >= least);
    number.ok_or_else(|| format!("{text:?} is not understood; write a whole number from {least}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    match duration_ms(text)? {
        0 => Err("must be at least 1 ms".into()),
        ms => Ok(Duration::from_millis(ms)),
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("{text:?} is not understood; write true or false")),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address with a port, such as 127.0.0.1:7070"))
}

fn not_empty(text: &str) -> Result<&str, String> {
    if text.trim().is_empty() { Err("is empty".into()) } else { Ok(text.trim()) }
}

impl Field<'_> {
    /// Sets the value from its texts: one, or any number for labels.
    pub(crate) fn set(&mut self, texts: &[String]) -> Result<(), String> {
        if let Self::Labels(labels) = self {
            **labels = texts.iter().map(|text| parse_label(text)).collect::<Result<_, _>>()?;
            return Ok(());
        }
        let text = texts.last().map_or("", String::as_str);
        match self {
            Self::Text(place) => **place = Some(not_empty(text)?.to_owned()),
            Self::Secret(place) => **place = Some(Secret::new(not_empty(text)?)),
            Self::Path(place) => **place = Some(not_empty(text)?.into()),
            Self::Address(place) => **place = address(text)?,
            Self::OptionalAddress(place) => **place = Some(address(text)?),
            Self::LogFormat(place) => **place = Some(LogFormat::from_str(text, false)?),
            Self::Flag(place) => **place = flag(text)?,
            Self::Duration(place) => **place = duration(text)?,
            Self::Bytes(place) => **place = bytes(text)?,
            Self::OptionalBytes(place) => **place = Some(bytes(text)?),
            Self::Count(place) => **place = count(text, &1)?,
            Self::Size(place) => **place = count(text, &1)?,
            Self::Small(place) => **place = count(text, &0)?,
            Self::OptionalCount(place) => **place = Some(count(text, &1)?),
            Self::Cores(place) => **place = cpus_milli(text)?,
            Self::OptionalCores(place) => **place = Some(cpus_milli(text)?),
            Self::Level(place) => **place = level(text)?,
            Self::Color(place) => **place = from_str(text)?,
            Self::Labels(_) => {}
        }
        Ok(())
    }

    /// The value as it is written in a file or an option, secrets excepted; `None` when there is none.
    pub(crate) fn show(&self) -> Option<String> {
        match self {
            Self::Text(place) => (**place).as_deref().map(without_password),
            Self::Secret(place) => place.is_some().then(|| "(not shown)".to_owned()),
            Self::Path(place) => place.as_ref().map(|path| path.display().to_string()),
            Self::Address(place) => Some(place.to_string()),
            Self::OptionalAddress(place) => place.map(|address| address.to_string()),
            Self::LogFormat(place) => place.map(|format| format.name().to_owned()),
            Self::Flag(place) => Some(place.to_string()),
            Self::Duration(place) => Some(duration_text(**place)),
            Self::Bytes(place) => Some(bytes_text(**place)),
            Self::OptionalBytes(place) => place.map(bytes_text),
            Self::Count(place) => Some(place.to_string()),
            Self::Size(place) => Some(place.to_string()),
            Self::Small(place) => Some(place.to_string()),
            Self::OptionalCount(place) => place.map(|number| number.to_string()),
            Self::Cores(place) => Some(printer::cpus(**place)),
            Self::OptionalCores(place) => place.map(printer::cpus),
            Self::Labels(place) => (!place.is_empty()).then(|| printer::labels(place)),
            Self::Level(place) => Some(place.to_string()),
            Self::Color(place) => Some(place.to_string()),
        }
    }

    /// Whether TOML writes the value without quotes.
    pub(crate) fn is_bare(&self) -> bool {
        matches!(
            self,
            Self::Flag(_)
                | Self::Count(_)
                | Self::Size(_)
                | Self::Small(_)
                | Self::OptionalCount(_)
                | Self::Cores(_)
                | Self::OptionalCores(_)
        )
    }

    /// The texts of a TOML value, or what should stand there instead.
    pub(crate) fn texts_of(&self, value: &DeValue<'_>) -> Result<Vec<String>, String> {
        let wrong = |wanted: &str| Err(format!("{wanted} should stand here, not {}", kind(value)));
        let one = |text: &str| Ok(vec![text.to_owned()]);
        match (self, value) {
            (Self::Labels(_), DeValue::Table(table)) => table
                .iter()
                .map(|(key, value)| match value.get_ref() {
                    DeValue::String(text) => Ok(format!("{}={text}", key.get_ref())),
                    other => Err(format!("a text in quotes should stand here, not {}", kind(other))),
                })
                .collect(),
            (Self::Labels(_), _) => wrong("a table such as { gpu = \"no\" }"),
            (Self::Flag(_), DeValue::Boolean(flag)) => one(&flag.to_string()),
            (Self::Flag(_), _) => wrong("true or false, without quotes,"),
            (Self::Bytes(_) | Self::OptionalBytes(_) | Self::Duration(_), DeValue::String(text)) => one(text),
            (Self::Bytes(_) | Self::OptionalBytes(_), _) => wrong("a size in quotes, such as \"8GiB\","),
            (Self::Duration(_), _) => wrong("a duration in quotes, such as \"30s\","),
            (Self::Cores(_) | Self::OptionalCores(_), DeValue::Float(number)) => one(number.as_str()),
            (_, DeValue::Integer(number)) if self.is_bare() && number.radix() == 10 => one(number.as_str()),
            (_, _) if self.is_bare() => wrong("a number without quotes"),
            (_, DeValue::String(text)) => one(text),
            (_, _) => wrong("a text in quotes"),
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn level(text: &str) -> Result<OuterLimit, String> {
    text.parse().map_err(|_| {
        let known: Vec<_> = OuterLimit::ALL.iter().map(|level| level.as_str()).collect();
        format!("{text:?} is no level; write one of {}", known.join(", "))
    })
}

/// An address without the password that does not belong there.
fn without_password(text: &str) -> String {
    match (text.split_once("://"), text.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://(not shown){}", &text[at..]),
        _ => text.to_owned(),
    }
}

/// A duration in the largest unit that divides it.
pub(crate) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.iter().find(|(size, _)| ms >= *size && ms.is_multiple_of(*size));
    unit.map_or_else(|| format!("{ms}ms"), |(size, name)| format!("{}{name}", ms / size))
}

/// A size in the largest binary unit that divides it.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, name)| format!("{}{name}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_written_as_they_are_read() {
        for text in ["30s", "1500ms", "2d", "90m", "1h"] {
            assert_eq!(duration_text(duration(text).expect("a duration")), text);
        }
        for text in ["20GiB", "1MiB", "1000", "0"] {
            assert_eq!(bytes_text(bytes(text).expect("a size")), text);
        }
        assert!(duration("0s").is_err());
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        let mut address = Some("https://user:p@ss@host:1/".to_owned());
        assert_eq!(Field::Text(&mut address).show().as_deref(), Some("https://(not shown)@host:1/"));
    }
}
