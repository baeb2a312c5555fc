//! How long requests took, by route, method and status: what `/metrics` shows of the HTTP API.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use gristmill_lifecycle::totals::{Histogram, LATENCY_BOUNDS};

/// A route's pattern, a method, and a status. There are as many as the router has, whatever clients send.
pub type RequestKind = (String, &'static str, u16);

/// Durations of requests since the server's start.
#[derive(Debug, Default)]
pub struct RequestTimes(Mutex<BTreeMap<RequestKind, Histogram>>);

impl RequestTimes {
    /// Adds one request: from its head to the head of its answer, in microseconds.
    pub fn note(&self, kind: RequestKind, us: u64) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(kind)
            .or_default()
            .note(us, &LATENCY_BOUNDS);
    }

    /// All durations so far.
    pub fn read(&self) -> Vec<(RequestKind, Histogram)> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        times.iter().map(|(kind, histogram)| (kind.clone(), *histogram)).collect()
    }
}
