//! A circuit breaker for each endpoint's address: after some failures in a row nobody calls it for a while, however many
//! subscriptions deliver there; then one call tries it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that open it.
const FAILURES: u32 = 5;
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody calls before.
    closed_until: Option<Instant>,
}

impl Breaker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody may call now; else how long not. Who may when the time is over tries it for all.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state();
        let Some(until) = state.closed_until else { return Ok(()) };
        if let Some(left) = until.checked_duration_since(now).filter(|left| !left.is_zero()) {
            return Err(left);
        }
        state.closed_until = Some(now + pause(state.failures));
        Ok(())
    }

    pub(crate) fn succeeded(&self) {
        *self.state() = State::default();
    }

    pub(crate) fn failed(&self, now: Instant) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.closed_until = Some(now + pause(state.failures));
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
        breaker.failed(now);
        assert_eq!(breaker.admit(now), Err(FIRST));
        let later = now + FIRST;
        assert_eq!(breaker.admit(later), Ok(()));
        assert!(breaker.admit(later).is_err(), "one tries");
        breaker.failed(later);
        assert_eq!(breaker.admit(later), Err(2 * FIRST));
        breaker.succeeded();
        assert_eq!(breaker.admit(later), Ok(()));
    }
}
