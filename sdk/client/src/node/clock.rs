//! The server's clock as the node knows it. A node's own clock may be wrong by days; only request
//! signatures need the time, and they use the server's.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// How far the server's clock is ahead of this machine's.
#[derive(Debug, Default)]
pub struct ServerClock {
    offset_ms: AtomicI64,
}

impl ServerClock {
    /// The server's time in seconds since 1970, as well as it is known.
    pub fn now_unix_s(&self) -> i64 {
        (local_unix_ms() + self.offset_ms.load(Ordering::Relaxed)).div_euclid(1_000)
    }

    /// Learns the server's time, in milliseconds since 1970, from an answer that just arrived.
    pub fn learn(&self, server_unix_ms: i64) {
        self.offset_ms.store(server_unix_ms.saturating_sub(local_unix_ms()), Ordering::Relaxed);
    }

    /// Learns from an HTTP `Date` header (RFC 9110). Returns whether it was understood.
    pub fn learn_date(&self, date: &str) -> bool {
        let parsed = jiff::fmt::rfc2822::parse(date);
        if let Ok(time) = &parsed {
            self.learn(time.timestamp().as_millisecond());
        }
        parsed.is_ok()
    }
}

fn local_unix_ms() -> i64 {
    // A clock before 1970 is as wrong as any other; the offset makes up for it.
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        Err(before) => -(before.duration().as_millis() as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_whose_clock_is_days_off_signs_with_the_servers_time() {
        let clock = ServerClock::default();
        assert!(clock.learn_date("Fri, 01 Jan 2100 00:00:00 GMT"));
        assert!((clock.now_unix_s() - 4_102_444_800).abs() <= 2);
        clock.learn(1_000_000);
        assert!((clock.now_unix_s() - 1_000).abs() <= 2);
        assert!(!clock.learn_date("<html>"));
        assert!((clock.now_unix_s() - 1_000).abs() <= 2, "a strange date changes nothing");
    }
}
