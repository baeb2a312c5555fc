//! When a lease must be renewed, and when its guest must have stopped: rules without a clock.
//!
//! The server may lease the job again `ttl` after it last *sent* a grant or a renewal. The node does
//! not know that moment, only that it lies after the node *asked*. So everything counts from the
//! moment of asking, which errs on the safe side.
//!
//! A new lease is the exception: the call that brings it may have waited for work for a long time.
//! Its guest may start at once, but only for a short probation, in which a first renewal has to
//! succeed. Even when the grant was under way for as long as the node waits for it, the end of the
//! probation comes before the lease can go to another node.

use std::time::Duration;

use gristmill_protocol::node_api::LeaseGrant;

use crate::clock::Moment;

/// Longest time that an acquire call is held by the server, plus the time that the node waits for
/// its late answer, is this. With the probation of `ttl - stop` it stays below the lease time.
pub(crate) const ACQUIRE_HOLD_MAX: Duration = Duration::from_secs(20);

/// The clockwork of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseTimes {
    renew: Duration,
    stop: Duration,
    renew_at: Moment,
    stop_at: Moment,
}

impl LeaseTimes {
    /// A lease that was asked for at `sent` and granted by an answer that came at `received`.
    pub(crate) fn granted(grant: &LeaseGrant, sent: Moment, received: Moment) -> Self {
        let stop = Duration::from_millis(grant.stop_ms);
        let renew = Duration::from_millis(grant.renew_ms);
        let probation = Duration::from_millis(grant.ttl_ms.saturating_sub(grant.stop_ms));
        Self {
            renew,
            stop,
            // A job that ends within a fifth of the probation costs no renewal at all.
            renew_at: sent.after(renew).max(received.after(probation / 5)),
            stop_at: sent.after(stop).max(received.after(probation)),
        }
    }

    /// A renewal that was asked for at `sent` has been granted.
    pub(crate) fn renewed(&mut self, sent: Moment) {
        self.renew_at = self.renew_at.max(sent.after(self.renew));
        self.stop_at = self.stop_at.max(sent.after(self.stop));
    }

    /// Whether it is time to renew.
    pub(crate) fn is_due(&self, now: Moment) -> bool {
        now >= self.renew_at
    }

    /// Whether the guest must have stopped by now.
    pub(crate) fn is_over(&self, now: Moment) -> bool {
        now >= self.stop_at
    }

    /// When the guest must have stopped.
    pub(crate) fn stop_at(&self) -> Moment {
        self.stop_at
    }

    /// When to look again, at the latest.
    pub(crate) fn renew_at(&self) -> Moment {
        self.renew_at
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use gristmill_protocol::{Digest, JobId, LeaseToken, LimitsSpec, limits::SlotSize, module::ModuleWorld};

    use super::*;

    /// A grant with the default times of the product: 30 s, renew after 10 s, stop after 25 s.
    pub(crate) fn grant() -> LeaseGrant {
        LeaseGrant {
            job: JobId::from_parts(1, [1; 10]),
            attempt: 1,
            fence: 1,
            lease_token: LeaseToken::from_text("token"),
            ttl_ms: 30_000,
            renew_ms: 10_000,
            stop_ms: 25_000,
            tenant: "default".into(),
            module: Digest::from_bytes([1; 32]),
            module_size: 1,
            world: ModuleWorld::WasiP1,
            program: "module".into(),
            args: Vec::new(),
            env: std::collections::BTreeMap::new(),
            bare_env: false,
            stdin: None,
            inputs: Vec::new(),
            limits: LimitsSpec::default().resolve(SlotSize::default()).expect("defaults are in range"),
            success_exit_codes: Vec::new(),
            reproducible: false,
            deadline_left_ms: None,
            deadline_text: None,
            traceparent: None,
        }
    }

    const TTL_MS: u64 = 30_000;

    #[test]
    fn a_lease_that_came_at_once_lasts_until_its_stop_time() {
        let times = LeaseTimes::granted(&grant(), Moment::at_ms(1_000), Moment::at_ms(1_002));
        assert!(!times.is_due(Moment::at_ms(10_999)) && times.is_due(Moment::at_ms(11_000)));
        assert!(!times.is_over(Moment::at_ms(25_999)) && times.is_over(Moment::at_ms(26_000)));
    }

    #[test]
    fn a_lease_from_a_long_poll_must_be_confirmed_soon() {
        let mut times = LeaseTimes::granted(&grant(), Moment::at_ms(0), Moment::at_ms(20_000));
        assert!(!times.is_over(Moment::at_ms(20_000)), "the guest may start");
        assert!(times.is_due(Moment::at_ms(21_000)));
        assert!(times.is_over(Moment::at_ms(25_000)));
        times.renewed(Moment::at_ms(21_000));
        assert!(!times.is_due(Moment::at_ms(30_999)) && !times.is_over(Moment::at_ms(45_999)));
    }

    #[test]
    fn the_guest_always_stops_before_the_server_may_lease_again() {
        // The server grants somewhere between asking and the answer; the answer may be late by
        // whatever the node's patience with the call allows.
        let patience_ms = ACQUIRE_HOLD_MAX.as_millis() as u64 + 5_000;
        for answer_ms in (0..=patience_ms).step_by(500) {
            let times = LeaseTimes::granted(&grant(), Moment::at_ms(0), Moment::at_ms(answer_ms));
            for granted_ms in (0..=answer_ms).step_by(500) {
                let again = Moment::at_ms(granted_ms + TTL_MS);
                assert!(times.is_over(again), "granted at {granted_ms}, answered at {answer_ms}");
            }
        }
    }

    #[test]
    fn renewals_never_shorten_a_lease() {
        let mut times = LeaseTimes::granted(&grant(), Moment::at_ms(5_000), Moment::at_ms(5_000));
        let before = times;
        times.renewed(Moment::at_ms(1_000));
        assert_eq!(times, before);
    }
}
