//! Pauses between attempts.

use std::time::Duration;

use jiff::Timestamp;
use rand::Rng as _;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);
/// Looks at the clock at least so often: it may be set while we sleep.
const GLANCE: Duration = Duration::from_secs(30);

/// Growing pauses with jitter, so that subscriptions of one broken sink do not come back at one moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The next pause: between half and the whole of a length that doubles.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

/// Ends when the clock shows `at`; never without one.
pub(crate) async fn until(at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    while let Ok(left) = Duration::try_from(at.duration_since(Timestamp::now())) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(GLANCE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_start_again() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..12).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= FIRST && pauses[11] >= LONGEST / 2 && pauses[11] <= LONGEST, "{pauses:?}");
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
