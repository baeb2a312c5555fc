//! Keeps leases: renews them, hears of cancels, and stops guests whose lease is about to be lost.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gristmill_client::node::{Backoff, CallError, NodeClient};
use gristmill_executor::{RunOrders, request::StopReason};
use gristmill_protocol::{
    JobId, WorkPhase,
    node_api::{LeaseGrant, LeaseRef, LeaseVerdict, PhaseNote, RenewRequest, WatchGrant, WatchRequest},
};
use rand::RngExt;
use tokio::sync::{Notify, watch};

use crate::{clock::Moment, lease::LeaseTimes, work::Work};

/// How often the clock is compared with the leases.
const TICK: Duration = Duration::from_millis(200);
/// Leases that are due within this time are renewed with those that are due now.
const BATCH_AHEAD: Duration = Duration::from_secs(2);
/// How long one renewal call may take: several fit before the stop time.
const RENEW_TIME: Duration = Duration::from_secs(5);
/// How long a new lease waits to be watched: most small jobs have ended by then, and need no call.
const WATCH_DELAY: Duration = Duration::from_millis(30);
/// Shortest time between two watch calls of which the later one is made only to tell phases.
const TELL_GAP: Duration = Duration::from_millis(250);
/// How long the server holds a watch call.
const WATCH_WAIT_MS: u64 = 25_000;

/// How much later than this process an executor stops a guest by itself. Stop time and this together
/// stay below the lease time.
const SELF_STOP_GRACE: Duration = Duration::from_secs(1);

/// One attempt of one job.
pub(crate) type AttemptKey = (JobId, u32);

struct Held {
    lease: LeaseRef,
    times: LeaseTimes,
    since: Moment,
    work: Work,
    stop: watch::Sender<Option<StopReason>>,
    until: watch::Sender<Option<Duration>>,
}

/// All leases that this node holds.
#[derive(Default)]
pub(crate) struct Keeper {
    held: Mutex<HashMap<AttemptKey, Held>>,
    changed: Notify,
    phased: Notify,
}

/// An attempt's hold on its lease. The lease is kept until this is dropped.
pub(crate) struct Lease {
    keeper: Arc<Keeper>,
    reference: LeaseRef,
    stop: watch::Receiver<Option<StopReason>>,
    until: watch::Receiver<Option<Duration>>,
}

impl Lease {
    /// What the executor hears: why the guest must stop, and until when the lease lasts, so that a
    /// guest ends in time even if this process hangs.
    pub(crate) fn orders(&self) -> RunOrders {
        RunOrders { stop: self.stop.clone(), until: self.until.clone() }
    }

    pub(crate) fn reference(&self) -> &LeaseRef {
        &self.reference
    }

    /// A receiver that hears why the guest must stop.
    pub(crate) fn stop_signal(&self) -> watch::Receiver<Option<StopReason>> {
        self.stop.clone()
    }

    /// Notes what is done for this attempt from now on. The server hears of it if it lasts.
    pub(crate) fn enter(&self, phase: WorkPhase) {
        if let Some(held) = self.keeper.lock().get_mut(&self.key()) {
            held.work.enter(phase, Moment::now());
        }
        if phase != WorkPhase::Running {
            self.keeper.phased.notify_waiters();
        }
    }

    /// Stops this attempt. The first reason counts, but a lost lease counts more than any.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.keeper.stop(self.key(), reason);
    }

    /// Why the attempt must stop, if it must. The clock is asked too: after a pause of the whole
    /// process nobody else may have done so yet.
    pub(crate) fn stopped(&self) -> Option<StopReason> {
        self.keeper.stop_overdue(Moment::now());
        *self.stop.borrow()
    }

    fn key(&self) -> AttemptKey {
        (self.reference.job, self.reference.attempt)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.lock().remove(&self.key());
        self.keeper.changed.notify_waiters();
    }
}

/// When an executor ends its guest by itself: a moment after this process should have stopped it.
fn last_moment(times: &LeaseTimes) -> Duration {
    times.stop_at().after(SELF_STOP_GRACE).since_start()
}

impl Keeper {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AttemptKey, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to keep a lease that was asked for at `sent` and came at `received`. `None` when it is
    /// held already: the server sent the same grant twice.
    pub(crate) fn hold(
        self: &Arc<Self>,
        grant: &LeaseGrant,
        sent: Moment,
        received: Moment,
    ) -> Option<Lease> {
        let reference =
            LeaseRef { job: grant.job, attempt: grant.attempt, lease_token: grant.lease_token.clone() };
        let times = LeaseTimes::granted(grant, sent, received);
        let (sender, stop) = watch::channel(None);
        let (until_sender, until) = watch::channel(Some(last_moment(&times)));
        let held = Held {
            lease: reference.clone(),
            times,
            since: received,
            work: Work::staging(received),
            stop: sender,
            until: until_sender,
        };
        let key = (grant.job, grant.attempt);
        let mut leases = self.lock();
        if leases.contains_key(&key) {
            return None;
        }
        leases.insert(key, held);
        drop(leases);
        self.changed.notify_waiters();
        Some(Lease { keeper: Arc::clone(self), reference, stop, until })
    }

    /// Number of leases held.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Waits until no lease is held.
    pub(crate) async fn empty(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }

    fn stop(&self, key: AttemptKey, reason: StopReason) {
        if let Some(held) = self.lock().get(&key) {
            stop_held(held, reason);
        }
    }

    /// Stops every guest without a report: the node's identity is gone.
    pub(crate) fn stop_all(&self) {
        for held in self.lock().values() {
            stop_held(held, StopReason::LeaseLost);
        }
    }

    fn stop_overdue(&self, now: Moment) {
        for held in self.lock().values().filter(|held| held.times.is_over(now)) {
            if stop_held(held, StopReason::LeaseLost) {
                tracing::warn!(
                    job = %held.lease.job,
                    attempt = held.lease.attempt,
                    "the lease could not be renewed in time; stopping the guest"
                );
            }
        }
    }

    /// The leases to renew now, and when to look again if there are none.
    fn due(&self, now: Moment) -> (Vec<LeaseRef>, Duration) {
        let leases = self.lock();
        let live = || leases.values().filter(|held| !is_lost(held));
        if !live().any(|held| held.times.is_due(now)) {
            let next = live().map(|held| held.times.renew_at().since(now)).min();
            return (Vec::new(), next.unwrap_or(Duration::from_mins(1)));
        }
        let soon = now.after(BATCH_AHEAD);
        let due = live().filter(|held| held.times.is_due(soon)).map(|held| held.lease.clone()).collect();
        (due, Duration::ZERO)
    }

    fn take_verdicts(&self, sent: Moment, asked: &[LeaseRef], verdicts: &[LeaseVerdict]) {
        let mut leases = self.lock();
        for (lease, verdict) in asked.iter().zip(verdicts) {
            let Some(held) = leases.get_mut(&(lease.job, lease.attempt)) else { continue };
            match verdict {
                LeaseVerdict::Held { cancel, .. } => {
                    held.times.renewed(sent);
                    held.until.send_replace(Some(last_moment(&held.times)));
                    if *cancel {
                        stop_held(held, StopReason::Cancelled);
                    }
                }
                LeaseVerdict::Lost => {
                    stop_held(held, StopReason::LeaseLost);
                }
            }
        }
    }

    /// The leases worth watching, and how long until a younger one joins them. A lease whose guest
    /// has been told to stop needs no watch.
    fn watched(&self, now: Moment) -> (Vec<LeaseRef>, Option<Duration>) {
        let leases = self.lock();
        let mut ready = Vec::new();
        let mut wait = None;
        for held in leases.values().filter(|held| held.stop.borrow().is_none()) {
            let age = now.since(held.since);
            if age >= WATCH_DELAY {
                ready.push(held.lease.clone());
            } else {
                let rest = WATCH_DELAY.saturating_sub(age);
                wait = Some(wait.map_or(rest, |now: Duration| now.min(rest)));
            }
        }
        (ready, wait)
    }

    /// What is done for the leases that are watched.
    fn tell(&self, now: Moment) -> Vec<PhaseNote> {
        let mut leases = self.lock();
        let watched = leases.values_mut().filter(|held| is_watched(held, now));
        watched.filter_map(|held| held.work.tell(&held.lease, now)).collect()
    }

    /// How long until a phase has lasted that the server does not know.
    fn untold(&self, now: Moment) -> Option<Duration> {
        let leases = self.lock();
        leases.values().filter(|held| is_watched(held, now)).filter_map(|held| held.work.untold(now)).min()
    }

    fn take_news(&self, news: &WatchGrant) {
        for &(job, attempt) in &news.cancelled {
            self.stop((job, attempt), StopReason::Cancelled);
        }
        for &(job, attempt) in &news.lost {
            self.stop((job, attempt), StopReason::LeaseLost);
        }
    }

    /// Compares the clock with the leases, for ever.
    pub(crate) async fn run_clock(&self) {
        loop {
            self.stop_overdue(Moment::now());
            tokio::time::sleep(TICK).await;
        }
    }

    /// Renews leases as they become due, until `is_refused` says that an error is the end.
    pub(crate) async fn run_renewals(&self, client: &NodeClient, is_refused: impl Fn(&CallError) -> bool) {
        let mut backoff = Backoff::between(Duration::from_millis(250), Duration::from_secs(2));
        loop {
            let changed = self.changed.notified();
            let sent = Moment::now();
            let (leases, wait) = self.due(sent);
            if leases.is_empty() {
                let _ = tokio::time::timeout(wait, changed).await;
                continue;
            }
            let request = RenewRequest { leases };
            match client.renew(&request, RENEW_TIME).await {
                Ok(grant) => {
                    backoff.reset();
                    self.take_verdicts(sent, &request.leases, &grant.leases);
                }
                Err(error) if is_refused(&error) => return,
                Err(error) => {
                    tracing::debug!(%error, "a renewal failed; trying again");
                    tokio::time::sleep(backoff.next_delay(None)).await;
                }
            }
        }
    }

    /// Listens for cancels while leases are held, and tells what is done for them, until `is_refused`
    /// says that an error is the end.
    /// `drained` hears whether an operator asks the node to drain.
    pub(crate) async fn run_watch(
        &self,
        client: &NodeClient,
        drained: impl Fn(bool),
        is_refused: impl Fn(&CallError) -> bool,
    ) {
        let mut backoff = Backoff::between(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let changed = self.changed.notified();
            let now = Moment::now();
            let (leases, wait) = self.watched(now);
            if leases.is_empty() {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => changed.await,
                }
                continue;
            }
            let jitter = rand::rng().random_range(0..WATCH_WAIT_MS / 5);
            let request = WatchRequest { leases, wait_ms: WATCH_WAIT_MS - jitter, phases: self.tell(now) };
            let grew = self.until_more_than(&request.leases, now.after(TELL_GAP));
            let answer = tokio::select! {
                answer = client.watch(&request) => answer,
                () = grew => continue,
            };
            match answer {
                Ok(news) => {
                    backoff.reset();
                    drained(news.drain);
                    self.take_news(&news);
                    self.pause_after(&request.leases, &news).await;
                }
                Err(error) if is_refused(&error) => return,
                Err(error) => {
                    tracing::debug!(%error, "the watch for cancels broke; listening again");
                    tokio::time::sleep(backoff.next_delay(error.retry_after())).await;
                }
            }
        }
    }

    /// Waits until a lease is worth watching that is not in `watched`, or a phase is worth telling, but
    /// for that not before `tell_at`.
    async fn until_more_than(&self, watched: &[LeaseRef], tell_at: Moment) {
        let known: std::collections::HashSet<AttemptKey> =
            watched.iter().map(|lease| (lease.job, lease.attempt)).collect();
        loop {
            let (changed, phased) = (self.changed.notified(), self.phased.notified());
            let now = Moment::now();
            let (ready, wait) = self.watched(now);
            let untold = self.untold(now).map(|wait| wait.max(tell_at.since(now)));
            let is_more = ready.iter().any(|lease| !known.contains(&(lease.job, lease.attempt)));
            if is_more || untold == Some(Duration::ZERO) {
                return;
            }
            if let Some(wait) = wait {
                tokio::time::sleep(wait.min(untold.unwrap_or(wait))).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(untold.unwrap_or_default()), if untold.is_some() => {}
                () = changed => {}
                () = phased => {}
            }
        }
    }

    /// A server that answers at once and says nothing new must not be asked in a tight loop.
    async fn pause_after(&self, asked: &[LeaseRef], news: &WatchGrant) {
        if news.cancelled.is_empty() && news.lost.is_empty() {
            let (now, _) = self.watched(Moment::now());
            if now.len() == asked.len() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Whether the lease has lasted, and its guest was not told to stop.
fn is_watched(held: &Held, now: Moment) -> bool {
    held.stop.borrow().is_none() && now.since(held.since) >= WATCH_DELAY
}

fn is_lost(held: &Held) -> bool {
    *held.stop.borrow() == Some(StopReason::LeaseLost)
}

/// Returns whether this was news.
fn stop_held(held: &Held, reason: StopReason) -> bool {
    held.stop.send_if_modified(|now| {
        let counts = now.is_none() || (reason == StopReason::LeaseLost && *now != Some(reason));
        if counts {
            *now = Some(reason);
        }
        counts
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::tests::grant;

    fn held_at(ms: u64) -> (Arc<Keeper>, Lease) {
        let keeper = Arc::new(Keeper::default());
        let lease = keeper.hold(&grant(), Moment::at_ms(ms), Moment::at_ms(ms)).expect("a new lease");
        (keeper, lease)
    }

    fn signal(lease: &Lease) -> Option<StopReason> {
        *lease.stop_signal().borrow()
    }

    #[test]
    fn a_guest_is_stopped_when_its_lease_was_not_renewed_in_time() {
        let (keeper, lease) = held_at(0);
        keeper.stop_overdue(Moment::at_ms(24_999));
        assert_eq!(signal(&lease), None);
        keeper.stop_overdue(Moment::at_ms(25_000));
        assert_eq!(signal(&lease), Some(StopReason::LeaseLost));
        let (due, _) = keeper.due(Moment::at_ms(25_000));
        assert!(due.is_empty(), "a lease that was given up is not renewed");
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_asked_for() {
        let (keeper, lease) = held_at(0);
        let (due, _) = keeper.due(Moment::at_ms(10_000));
        assert_eq!(due.len(), 1);
        let verdict = LeaseVerdict::Held { ttl_ms: 30_000, cancel: false };
        keeper.take_verdicts(Moment::at_ms(10_000), &due, &[verdict]);
        keeper.stop_overdue(Moment::at_ms(34_999));
        assert_eq!(signal(&lease), None);
        keeper.stop_overdue(Moment::at_ms(35_000));
        assert_eq!(signal(&lease), Some(StopReason::LeaseLost));
    }

    #[test]
    fn the_first_reason_counts_but_a_lost_lease_counts_more() {
        let (keeper, lease) = held_at(0);
        keeper.take_news(&WatchGrant { cancelled: vec![lease.key()], lost: vec![], drain: false });
        lease.stop(StopReason::Deadline);
        assert_eq!(signal(&lease), Some(StopReason::Cancelled));
        let asked = [lease.reference().clone()];
        keeper.take_verdicts(Moment::at_ms(1), &asked, &[LeaseVerdict::Lost]);
        assert_eq!(signal(&lease), Some(StopReason::LeaseLost));
        lease.stop(StopReason::Cancelled);
        assert_eq!(signal(&lease), Some(StopReason::LeaseLost));
    }

    #[test]
    fn a_cancel_in_a_renewal_stops_the_guest_and_keeps_the_lease() {
        let (keeper, lease) = held_at(0);
        let asked = [lease.reference().clone()];
        let verdict = LeaseVerdict::Held { ttl_ms: 30_000, cancel: true };
        keeper.take_verdicts(Moment::at_ms(9_000), &asked, &[verdict]);
        assert_eq!(signal(&lease), Some(StopReason::Cancelled));
        assert_eq!(keeper.due(Moment::at_ms(19_000)).0.len(), 1, "until the report is answered");
    }

    #[test]
    fn only_leases_that_last_are_watched_and_only_until_they_are_stopped() {
        let (keeper, lease) = held_at(1_000);
        let (ready, wait) = keeper.watched(Moment::at_ms(1_010));
        assert!(ready.is_empty());
        assert_eq!(wait, Some(Duration::from_millis(20)));
        assert_eq!(keeper.watched(Moment::at_ms(1_030)).0.len(), 1);
        lease.stop(StopReason::Cancelled);
        assert!(keeper.watched(Moment::at_ms(1_030)).0.is_empty());
    }

    #[test]
    fn a_call_tells_every_phase_and_only_one_that_lasts_asks_for_a_call() {
        let (keeper, lease) = held_at(1_000);
        assert_eq!(keeper.untold(Moment::at_ms(1_010)), None, "it is not watched yet");
        assert_eq!(keeper.untold(Moment::at_ms(1_100)), Some(Duration::from_millis(400)));
        let told = keeper.tell(Moment::at_ms(1_100));
        let [note] = &told[..] else { panic!("{told:?}") };
        assert_eq!((note.job, note.phase, note.elapsed_ms), (lease.key().0, WorkPhase::Staging, 100));
        assert_eq!(keeper.untold(Moment::at_ms(9_000)), None);
        lease.stop(StopReason::Cancelled);
        assert_eq!(keeper.tell(Moment::at_ms(9_000)), []);
    }

    #[tokio::test]
    async fn a_grant_that_comes_twice_is_held_once_and_dropping_it_ends_the_hold() {
        let (keeper, lease) = held_at(0);
        assert!(keeper.hold(&grant(), Moment::at_ms(1), Moment::at_ms(1)).is_none());
        assert_eq!(keeper.count(), 1);
        drop(lease);
        keeper.empty().await;
    }
}
