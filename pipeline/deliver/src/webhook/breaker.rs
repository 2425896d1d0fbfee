//! A circuit breaker for each endpoint: after some failures in a row nobody calls it for a while, however many subscriptions deliver
//! there; then one call tries it for all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row after which it is left alone.
const FAILURES: u32 = 5;
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody calls before.
    until: Option<Instant>,
    /// One call is trying it.
    tried: bool,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is, or was until now, left alone: one call is to show that it answers.
    pub(crate) fn is_suspect(&self) -> bool {
        self.state().until.is_some()
    }

    /// Whether somebody may call now; else how long not. Who may when the time is over tries it for all.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state();
        let Some(until) = state.until else { return Ok(()) };
        if let Some(left) = until.checked_duration_since(now).filter(|left| !left.is_zero()) {
            return Err(left);
        }
        // Should that call be dropped, another one may when this is over.
        state.until = Some(now + pause(state.failures));
        state.tried = true;
        Ok(())
    }

    pub(crate) fn succeeded(&self) {
        *self.state() = State::default();
    }

    pub(crate) fn failed(&self, now: Instant) {
        let mut state = self.state();
        // Calls that were under way beside the one that counted tell nothing new.
        if !state.tried && state.until.is_some_and(|until| until > now) {
            return;
        }
        state.tried = false;
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.until = Some(now + pause(state.failures));
        }
    }
}

/// Doubles with every failure from the one that opens it.
fn pause(failures: u32) -> Duration {
    let doubled = failures.saturating_sub(FAILURES).min(16);
    (FIRST * 2_u32.saturating_pow(doubled)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_failures_in_a_row_one_call_tries_it_for_all() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES {
            breaker.failed(now);
            assert_eq!(breaker.admit(now), Ok(()));
        }
        // Eight at once count as the fifth.
        (0..8).for_each(|_| breaker.failed(now));
        assert_eq!(breaker.admit(now), Err(FIRST));
        let later = now + FIRST;
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(breaker.admit(later).is_err(), "one tries");
        breaker.failed(later);
        assert_eq!(breaker.admit(later), Err(2 * FIRST));
        assert!(breaker.is_suspect());
        breaker.succeeded();
        assert_eq!((breaker.admit(later), breaker.is_suspect()), (Ok(()), false));
    }

    #[test]
    fn it_is_never_left_alone_for_longer_than_a_minute() {
        assert_eq!((pause(FAILURES), pause(u32::MAX)), (FIRST, LONGEST));
    }
}
