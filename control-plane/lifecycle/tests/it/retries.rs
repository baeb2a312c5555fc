//! The retry rule and its backoff.

use std::time::Duration;

use gristmill_lifecycle::{
    Settings,
    retry::{Followup, RetryBudget, backoff, follow_up},
};
use gristmill_protocol::Reason;
use proptest::prelude::*;

fn budget(retries: u32, retry_on: &[Reason]) -> RetryBudget<'_> {
    RetryBudget { retries, retry_on, guest_retries: 0, infrastructure_losses: 0 }
}

#[test]
fn a_guest_failure_is_retried_only_when_it_asks_and_the_job_allows() {
    let settings = Settings::default();
    let rule = |reason, budget| follow_up(reason, budget, &settings, 0);
    assert_eq!(rule(Reason::ExitCode, budget(3, &[])), Followup::End(Reason::ExitCode));
    assert_eq!(rule(Reason::Trap, budget(3, &[])), Followup::End(Reason::Trap));
    assert_eq!(rule(Reason::RetryRequested, budget(0, &[])), Followup::End(Reason::RetryRequested));
    assert!(matches!(rule(Reason::RetryRequested, budget(1, &[])), Followup::RetryGuest(_)));
    assert!(matches!(rule(Reason::Trap, budget(1, &[Reason::Trap])), Followup::RetryGuest(_)));
    let used = RetryBudget { guest_retries: 1, ..budget(1, &[Reason::Trap]) };
    assert_eq!(rule(Reason::Trap, used), Followup::End(Reason::Trap));
    let late = budget(5, &[Reason::DeadlineExceeded]);
    assert_eq!(rule(Reason::DeadlineExceeded, late), Followup::End(Reason::DeadlineExceeded));
}

#[test]
fn what_infrastructure_lost_is_retried_five_times_whatever_the_job_allows() {
    let settings = Settings::default();
    for reason in [Reason::LeaseExpired, Reason::ExecutorCrashed, Reason::NodeDrained] {
        for infrastructure_losses in 0..5 {
            let budget = RetryBudget { infrastructure_losses, ..budget(0, &[]) };
            assert!(matches!(follow_up(reason, budget, &settings, 9), Followup::RetryInfrastructure(_)));
        }
        let named = [reason];
        let spent = RetryBudget { infrastructure_losses: 5, ..budget(9, &named) };
        assert_eq!(follow_up(reason, spent, &settings, 9), Followup::End(Reason::AttemptsExhausted));
    }
}

proptest! {
    #[test]
    fn a_backoff_lies_between_half_and_all_of_a_doubling_time(earlier in 0u32..200, random: u64) {
        let settings = Settings::default();
        let all = settings.backoff_base.saturating_mul(1 << earlier.min(20)).min(settings.backoff_max);
        let wait = backoff(earlier, &settings, random);
        prop_assert!(wait >= all / 2 && wait <= all, "{wait:?} of {all:?}");
    }
}

#[test]
fn the_first_retry_after_a_lost_lease_comes_within_the_promised_time() {
    let settings = Settings::default();
    let longest = (0..1_000).map(|random| backoff(0, &settings, random)).max().unwrap_or_default();
    assert!(settings.lease_ttl + settings.sweep_period * 2 + longest <= Duration::from_secs(35));
}
