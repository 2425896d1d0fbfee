//! Who may ask, and how much at a time.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use guitong_deliver::pull::{PullError, Puller};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use crate::node::Shared;

/// Requests a second of one subscription; twice as many in a burst.
const PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(499);
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);
/// Answers under way for one subscription. Each holds one page at most.
const ANSWERS: usize = 8;
/// Between two looks at whether a subscription that waits may still have what comes.
const LOOK: Duration = Duration::from_millis(500);

/// What each subscription has under way, by its name, and what it was given. Only who was let in has an entry.
#[derive(Debug)]
pub(crate) struct Limits {
    known: Mutex<HashMap<String, Arc<Limit>>>,
    records: IntCounterVec,
}

#[derive(Debug)]
struct Limit {
    rate: DefaultDirectRateLimiter,
    answers: Arc<Semaphore>,
}

impl Limits {
    /// # Errors
    /// When `registry` has metrics of these names already.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let records = Opts::new("guitong_pull_records_total", "Changes and records given to who pulled them.");
        let records = IntCounterVec::new(records, &["subscription"])?;
        registry.register(Box::new(records.clone()))?;
        Ok(Self { known: Mutex::default(), records })
    }

    fn take(&self, name: &str) -> Result<OwnedSemaphorePermit, Problem> {
        let limit = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Limit {
                rate: RateLimiter::direct(Quota::per_second(PER_SECOND).allow_burst(BURST)),
                answers: Arc::new(Semaphore::new(ANSWERS)),
            };
            Arc::clone(known.entry(name.to_owned()).or_insert_with(|| Arc::new(new())))
        };
        if let Err(until) = limit.rate.check() {
            let wait = until.wait_time_from(DefaultClock::default().now());
            return Err(Problem::too_often(wait.as_secs() + 1));
        }
        Arc::clone(&limit.answers).try_acquire_owned().map_err(|_| Problem::too_many(ANSWERS))
    }
}

/// A subscription that is pulled.
pub(crate) struct Pulled {
    /// Department that subscribes.
    pub(crate) holder: String,
    /// What reads its outbox, and what is cancelled when the subscription is changed, withdrawn, or stopped with the node. `None` while
    /// it does not run.
    pub(crate) running: Option<(Puller, CancellationToken)>,
}

/// Somebody who was let in.
pub(super) struct Caller {
    name: String,
    pub(super) puller: Puller,
    stop: CancellationToken,
    records: IntCounter,
    /// Held until the answer was sent.
    _answer: OwnedSemaphorePermit,
}

impl Caller {
    /// Lets in who has the subscription's token.
    pub(super) async fn admit(shared: &Shared, name: String, headers: &HeaderMap) -> Result<Self, Problem> {
        let pulled = shared.pulled(&name).await;
        let holder = pulled.as_ref().map_or("", |pulled| pulled.holder.as_str());
        let admitted = match (shared.outboxes().await, bearer(headers)) {
            (Some(outboxes), Some(token)) => outboxes.admits(&name, holder, token).await?,
            _ => false,
        };
        let pulled = pulled.filter(|_| admitted).ok_or_else(Problem::unauthorized)?;
        let answer = shared.limits.take(&name)?;
        let (puller, stop) = pulled.running.ok_or_else(Problem::ended)?;
        let records = shared.limits.records.with_label_values(&[&name]);
        Ok(Self { name, puller, stop, records, _answer: answer })
    }

    /// Counts what is about to leave.
    pub(super) fn count(&self, records: usize) {
        self.records.inc_by(records as u64);
    }

    /// Whether what was read may still leave.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.stop.is_cancelled() {
            return Err(Problem::ended());
        }
        self.puller.gate().map_err(|error| self.problem(error))
    }

    pub(super) fn problem(&self, error: PullError) -> Problem {
        Problem::of(error, &self.name)
    }

    /// Waits until something was entered, or until a moment.
    pub(super) async fn changed(&self, changes: &mut watch::Receiver<()>, until: Instant) -> Result<(), Problem> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Err(Problem::ended()),
                // The one who rings is there as long as the outbox.
                _ = changes.changed() => return Ok(()),
                () = sleep_until(until.min(Instant::now() + LOOK)) => self.check()?,
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}

/// The token of `Authorization: Bearer` (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse as _;

    use super::*;

    #[test]
    fn who_asks_more_often_than_he_may_is_told_when_to_come_back_and_others_are_let_in() {
        let limits = Limits::register(&Registry::new()).unwrap();
        // As fast as this, a burst is over long before a second's share of new ones has come.
        let asked = (0..10 * BURST.get()).map(|_| limits.take("busy").map(drop)).take_while(Result::is_ok).count();
        assert!(asked >= BURST.get() as usize && asked < 10 * BURST.get() as usize, "{asked}");
        let refused = loop {
            if let Err(problem) = limits.take("busy") {
                break problem.into_response();
            }
        };
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.headers().contains_key(header::RETRY_AFTER));
        assert!(limits.take("quiet").is_ok());
    }
}
