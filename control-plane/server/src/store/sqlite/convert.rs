//! Between rows and values: times, JSON and errors.

use gristmill_protocol::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use crate::store::StoreError;

/// Names the operation that a database error stopped.
pub(super) fn failed(name: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| super::classified(name, error)
}

/// Microseconds since 1970, as they are kept.
pub(super) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// A kept time.
pub(super) fn time(micros: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(micros).map_err(StoreError::inconsistent)
}

/// A kept time that may be absent.
pub(super) fn time_opt(micros: Option<i64>) -> Result<Option<Timestamp>, StoreError> {
    micros.map(time).transpose()
}

/// A value as JSON text.
pub(super) fn to_json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::inconsistent)
}

/// A value from kept JSON text.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(StoreError::inconsistent)
}

/// A value from its kept text form.
pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(StoreError::inconsistent)
}
