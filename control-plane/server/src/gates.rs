//! What clients may take of the server at a time and over time. Users and nodes have budgets of their
//! own, so that no number of users' requests keeps a node from renewing its leases; no single token
//! holds more than half of a budget; and who is not known yet is counted by address.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as RateClock, Reference as _},
    middleware::StateInformationMiddleware,
    state::keyed::HashMapStateStore,
};
use gristmill_protocol::{ErrorCode, TokenId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    clock::Clock,
    entropy::Entropy,
    error::ApiError,
    pace::PaceRule,
    tally::{Held, Tally},
};

/// A refused client is asked to wait this long at least and at most, so that many do not return at once.
const RETRY_AFTER_S: std::ops::RangeInclusive<u64> = 1..=5;
/// How many checks pass before keys that are fresh again are forgotten.
const FORGET_EVERY: u64 = 4_096;

/// So many requests a second on average, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests a second.
    pub per_second: NonZeroU32,
    /// Requests at once; at least `per_second` makes sense.
    pub burst: NonZeroU32,
}

impl Rate {
    /// A rate whose burst is what comes together in ten seconds. `None` for no limit when it is zero.
    pub fn of(per_second: u32) -> Option<Self> {
        let per_second = NonZeroU32::new(per_second)?;
        Some(Self { per_second, burst: per_second.saturating_mul(NonZeroU32::MIN.saturating_add(9)) })
    }
}

/// Limits of what clients may take. The defaults suit one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLimits {
    /// Requests of users that are handled at a time, apart from the next two.
    pub requests_max: usize,
    /// Requests of users that wait for something to happen, at a time.
    pub polls_max: usize,
    /// Uploads and downloads of users at a time.
    pub transfers_max: usize,
    /// Requests of nodes at a time, those that wait among them.
    pub node_requests_max: usize,
    /// Requests of one token; no limit when absent.
    pub token_rate: Option<Rate>,
    /// Requests of one address whose token or signature is not known, or that have none; no limit when
    /// absent.
    pub stranger_rate: Option<Rate>,
    /// The least speed of who sends a body. Who reads an answer is judged by the same speed over
    /// longer windows.
    pub pace: PaceRule,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            requests_max: 1_024,
            polls_max: 8_192,
            transfers_max: 512,
            node_requests_max: 16_384,
            token_rate: Rate::of(500),
            stranger_rate: Rate::of(50),
            pace: PaceRule { window: Duration::from_secs(30), bytes_min: 30 << 10 },
        }
    }
}

/// What a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A user's request that is answered at once.
    Request,
    /// A user's request that waits.
    Poll,
    /// A user's upload or download.
    Transfer,
    /// A node's request.
    Node,
}

/// What is left of a token's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests at once after a pause.
    pub(crate) burst: u32,
    /// Seconds in which a spent burst comes back.
    pub(crate) window_s: u32,
    /// Requests that are left right now.
    pub(crate) left: u32,
}

/// The server's clock as the rate limiter reads it.
#[derive(Debug, Clone)]
struct Ticks(Arc<dyn Clock>);

impl RateClock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_micros(self.0.now().as_microsecond().max(0).unsigned_abs())
    }
}

type Keyed<K> = RateLimiter<K, HashMapStateStore<K>, Ticks, StateInformationMiddleware>;

/// A rate for each key, forgotten when it is fresh again.
#[derive(Debug)]
struct Limiter<K: std::hash::Hash + Eq + Clone> {
    keyed: Keyed<K>,
    rate: Rate,
    clock: Ticks,
    checks: AtomicU64,
}

impl<K: std::hash::Hash + Eq + Clone> Limiter<K> {
    fn new(rate: Rate, clock: Ticks) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        let keyed = RateLimiter::new(quota, HashMapStateStore::new(HashMap::default()), clock.clone());
        Self { keyed, rate, clock, checks: AtomicU64::new(0) }
    }

    /// What is left after this request, or how long to wait for the next one.
    fn check(&self, key: &K) -> Result<Allowance, Duration> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.keyed.retain_recent();
        }
        let burst = self.rate.burst.get();
        match self.keyed.check_key(key) {
            Ok(state) => Ok(Allowance {
                burst,
                window_s: burst.div_ceil(self.rate.per_second.get()),
                left: state.remaining_burst_capacity(),
            }),
            Err(refused) => {
                let wait = refused.earliest_possible().duration_since(self.clock.now());
                Err(Duration::from(wait))
            }
        }
    }
}

/// The budgets and rates of a running server.
#[derive(Debug)]
pub struct Gates {
    requests: Budget,
    polls: Budget,
    transfers: Budget,
    nodes: Budget,
    shares: Arc<Tally<(TokenId, Kind)>>,
    tokens: Option<Limiter<TokenId>>,
    strangers: Option<Limiter<IpAddr>>,
    pace: PaceRule,
    entropy: Arc<dyn Entropy>,
}

#[derive(Debug)]
struct Budget {
    room: Arc<Semaphore>,
    max: usize,
}

impl Budget {
    fn new(max: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(max)), max }
    }
}

impl Gates {
    pub(crate) fn new(limits: &ClientLimits, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        let clock = Ticks(clock);
        Self {
            requests: Budget::new(limits.requests_max),
            polls: Budget::new(limits.polls_max),
            transfers: Budget::new(limits.transfers_max),
            nodes: Budget::new(limits.node_requests_max),
            shares: Arc::default(),
            tokens: limits.token_rate.map(|rate| Limiter::new(rate, clock.clone())),
            strangers: limits.stranger_rate.map(|rate| Limiter::new(rate, clock)),
            pace: limits.pace,
            entropy,
        }
    }

    /// The least speed of a sender.
    pub(crate) fn pace(&self) -> PaceRule {
        self.pace
    }

    fn budget(&self, kind: Kind) -> &Budget {
        match kind {
            Kind::Request => &self.requests,
            Kind::Poll => &self.polls,
            Kind::Transfer => &self.transfers,
            Kind::Node => &self.nodes,
        }
    }

    /// Takes room for a request, held until the permit is dropped. Fails with `unavailable` when there
    /// is none.
    pub(crate) fn enter(&self, kind: Kind) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.budget(kind).room).try_acquire_owned().map_err(|_| {
            self.come_back(ErrorCode::Unavailable, "the server handles as many requests as it can")
        })
    }

    /// Takes a part of the token's own share of the budget. Fails with `rate_limited` when it holds
    /// half of the budget already.
    pub(crate) fn share(&self, token: TokenId, kind: Kind) -> Result<impl Send + Sync + use<>, ApiError> {
        let max = self.budget(kind).max.div_ceil(2);
        let held: Option<Held<_>> = self.shares.take((token, kind), max);
        held.ok_or_else(|| {
            let what = match kind {
                Kind::Request | Kind::Node => "requests under way",
                Kind::Poll => "requests that wait",
                Kind::Transfer => "uploads and downloads under way",
            };
            self.come_back(ErrorCode::RateLimited, &format!("this token has {max} {what}, its whole share"))
        })
    }

    /// Counts a request of a token. Fails with `rate_limited` when there were too many lately. `None`
    /// without a limit.
    pub(crate) fn count_token(&self, token: TokenId) -> Result<Option<Allowance>, ApiError> {
        let Some(tokens) = &self.tokens else { return Ok(None) };
        tokens.check(&token).map(Some).map_err(|wait| {
            let rate = tokens.rate.per_second;
            limited(wait, format!("this token makes more than {rate} requests a second"))
        })
    }

    /// Counts a request whose sender is not known. Fails with `rate_limited` when there were too many
    /// from its address lately.
    pub(crate) fn count_stranger(&self, address: Option<IpAddr>) -> Result<(), ApiError> {
        let (Some(strangers), Some(address)) = (&self.strangers, address) else { return Ok(()) };
        let client = crate::listener::client(address);
        strangers.check(&client).map(drop).map_err(|wait| {
            limited(wait, "too many requests with unknown credentials came from this address".into())
        })
    }

    fn come_back(&self, code: ErrorCode, detail: &str) -> ApiError {
        let mut error =
            ApiError::new(code, detail).with_hint("repeat the request after the time in Retry-After");
        let spread = RETRY_AFTER_S.end() - RETRY_AFTER_S.start() + 1;
        let chance = u64::from(self.entropy.bytes::<1>()[0]);
        error.retry_after_s = Some(RETRY_AFTER_S.start() + chance % spread);
        error
    }
}

fn limited(wait: Duration, detail: String) -> ApiError {
    let mut error = ApiError::new(ErrorCode::RateLimited, detail)
        .with_hint("wait as long as Retry-After says; ?wait= replaces many polls by one");
    error.retry_after_s = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
    error
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use gristmill_protocol::Timestamp;

    use super::*;
    use crate::entropy::SystemEntropy;

    #[derive(Debug, Default)]
    struct HandClock(Mutex<Timestamp>);

    impl HandClock {
        fn advance(&self, by: Duration) {
            let mut now = self.0.lock().expect("not poisoned");
            *now += by;
        }
    }

    impl Clock for HandClock {
        fn now(&self) -> Timestamp {
            *self.0.lock().expect("not poisoned")
        }
    }

    fn gates(limits: &ClientLimits) -> (Gates, Arc<HandClock>) {
        let clock = Arc::new(HandClock::default());
        (Gates::new(limits, clock.clone(), Arc::new(SystemEntropy)), clock)
    }

    fn token(number: u8) -> TokenId {
        TokenId::from_parts(1, [number; 10])
    }

    #[test]
    fn a_token_has_its_burst_and_then_its_rate() {
        let limits = ClientLimits { token_rate: Rate::of(2), ..ClientLimits::default() };
        let (gates, clock) = gates(&limits);
        for left in (0..20).rev() {
            let allowance = gates.count_token(token(1)).expect("within the burst").expect("a limit");
            assert_eq!(allowance, Allowance { burst: 20, window_s: 10, left });
        }
        let refused = gates.count_token(token(1)).expect_err("the burst is spent");
        assert_eq!((refused.code, refused.retry_after_s), (ErrorCode::RateLimited, Some(1)));
        gates.count_token(token(2)).expect("another token has its own");
        clock.advance(Duration::from_millis(500));
        gates.count_token(token(1)).expect("one came back");
        gates.count_token(token(1)).expect_err("and only one");
    }

    #[test]
    fn keys_that_are_fresh_again_are_forgotten() {
        let rate = Rate::of(1_000).expect("a rate");
        let clock = Arc::new(HandClock::default());
        let limiter = Limiter::new(rate, Ticks(clock.clone()));
        for key in 0..FORGET_EVERY - 1 {
            limiter.check(&key).expect("each key is new");
        }
        assert_eq!(limiter.keyed.len() as u64, FORGET_EVERY - 1);
        clock.advance(Duration::from_secs(60));
        limiter.check(&0).expect("fresh");
        assert_eq!(limiter.keyed.len(), 1);
    }

    #[test]
    fn half_of_a_budget_is_the_share_of_a_token_and_nodes_have_their_own() {
        let limits = ClientLimits { requests_max: 4, node_requests_max: 1, ..ClientLimits::default() };
        let (gates, _) = gates(&limits);
        let greedy: Vec<_> = (0..2).map(|_| gates.share(token(1), Kind::Request).expect("a share")).collect();
        let refused = gates.share(token(1), Kind::Request).err().expect("its share is spent");
        assert_eq!(refused.code, ErrorCode::RateLimited);
        gates.share(token(2), Kind::Request).map(drop).expect("another token has its own");
        gates.share(token(1), Kind::Poll).map(drop).expect("so has another budget");
        drop(greedy);
        gates.share(token(1), Kind::Request).map(drop).expect("it was given back");

        let users: Vec<_> = (0..4).map(|_| gates.enter(Kind::Request).expect("room")).collect();
        let shed = gates.enter(Kind::Request).expect_err("the budget is spent");
        assert_eq!(shed.code, ErrorCode::Unavailable);
        assert!(shed.retry_after_s.is_some_and(|seconds| RETRY_AFTER_S.contains(&seconds)));
        gates.enter(Kind::Node).map(drop).expect("nodes have their own budget");
        drop(users);
        gates.enter(Kind::Request).map(drop).expect("it was given back");
    }

    #[test]
    fn strangers_are_counted_by_the_network_they_come_from() {
        let limits = ClientLimits { stranger_rate: Rate::of(1), ..ClientLimits::default() };
        let (gates, _) = gates(&limits);
        let from = |text: &str| gates.count_stranger(Some(text.parse().expect("an address")));
        for host in 0..10 {
            from(&format!("2001:db8::{host}")).expect("within the burst");
        }
        assert_eq!(from("2001:db8::99").expect_err("the same network").code, ErrorCode::RateLimited);
        from("10.0.0.1").expect("another one");
    }
}
