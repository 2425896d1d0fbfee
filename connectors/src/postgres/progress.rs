//! How fast tables are being read.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The rate is that of so long.
const SPAN: Duration = Duration::from_secs(30);
/// Moments closer together are one.
const STEP: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Progress {
    /// Rows read, yielded ones included.
    pub(crate) rows: u64,
    seen: VecDeque<(Instant, u64)>,
}

impl Progress {
    pub(crate) fn new(rows: u64) -> Self {
        Self { rows, seen: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, rows: u64) {
        self.add_at(rows, Instant::now());
    }

    fn add_at(&mut self, rows: u64, now: Instant) {
        if self.seen.back().is_none_or(|(at, _)| now.duration_since(*at) >= STEP) {
            self.seen.push_back((now, self.rows));
        }
        self.rows += rows;
        while self.seen.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SPAN) {
            self.seen.pop_front();
        }
    }

    /// Rows a second of late; `None` before there is a second to tell it from.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate_at(Instant::now())
    }

    fn rate_at(&self, now: Instant) -> Option<f64> {
        let (at, rows) = self.seen.front()?;
        let seconds = now.duration_since(*at).as_secs_f64();
        (seconds >= 1.0).then(|| (self.rows - rows) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_half_minute() {
        let begun = Instant::now();
        let mut progress = Progress::new(500);
        assert_eq!(progress.rate_at(begun), None);
        for second in 0..100 {
            progress.add_at(if second < 50 { 1_000 } else { 10 }, begun + Duration::from_secs(second));
        }
        let rate = progress.rate_at(begun + Duration::from_secs(100)).unwrap();
        assert!((9.0..11.0).contains(&rate), "{rate}");
        assert!(progress.seen.len() < 70);
    }
}
