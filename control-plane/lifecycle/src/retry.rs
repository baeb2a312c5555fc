//! When an ended attempt is followed by another one, and how long after.

use std::time::Duration;

use gristmill_protocol::Reason;

use crate::settings::Settings;

/// What a job allows, and what it has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget<'a> {
    /// How often a guest failure that asks for it is tried again.
    pub retries: u32,
    /// Reasons beside `retry_requested` that ask for a retry.
    pub retry_on: &'a [Reason],
    /// Retries after guest failures so far.
    pub guest_retries: u32,
    /// Attempts that infrastructure lost so far.
    pub infrastructure_losses: u32,
}

/// What follows an attempt that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followup {
    /// The job ends, for this reason.
    End(Reason),
    /// Another attempt on the guest's account, after this wait.
    RetryGuest(Duration),
    /// Another attempt on the infrastructure's account, after this wait.
    RetryInfrastructure(Duration),
}

/// Whether the guest had no part in the end of the attempt.
pub fn is_infrastructure(reason: Reason) -> bool {
    matches!(reason, Reason::LeaseExpired | Reason::ExecutorCrashed | Reason::NodeDrained)
}

/// What follows an attempt that ended for a reason. `random` is any number; it spreads the wait.
pub fn follow_up(reason: Reason, budget: RetryBudget<'_>, settings: &Settings, random: u64) -> Followup {
    if is_infrastructure(reason) {
        if budget.infrastructure_losses >= settings.infrastructure_retries_max {
            return Followup::End(Reason::AttemptsExhausted);
        }
        return Followup::RetryInfrastructure(backoff(budget.infrastructure_losses, settings, random));
    }
    let asks = reason == Reason::RetryRequested || budget.retry_on.contains(&reason);
    // A deadline that has passed has passed for every further attempt too.
    if asks && reason != Reason::DeadlineExceeded && budget.guest_retries < budget.retries {
        return Followup::RetryGuest(backoff(budget.guest_retries, settings, random));
    }
    Followup::End(reason)
}

/// The wait before the retry that follows `earlier` retries: between half and all of a time that
/// doubles with each, up to the greatest.
pub fn backoff(earlier: u32, settings: &Settings, random: u64) -> Duration {
    let ceiling_ms = u64::try_from(settings.backoff_base.as_millis())
        .unwrap_or(u64::MAX)
        .saturating_mul(1u64 << earlier.min(32))
        .min(u64::try_from(settings.backoff_max.as_millis()).unwrap_or(u64::MAX));
    let half_ms = ceiling_ms / 2;
    Duration::from_millis(half_ms + random % (ceiling_ms - half_ms + 1))
}
