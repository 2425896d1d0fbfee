//! What the department allows: rows a second of all workers together, hours, and how much log its server may keep meanwhile.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use guitong_schemas::contract::system::{Limits, SnapshotConfig, Window};
use jiff::Timestamp;

/// Hands out rows a second to everybody who reads.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: Option<u32>,
    /// When all rows that were handed out have been paid for.
    paid: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: Option<u32>) -> Self {
        Self { per_second, paid: Mutex::new(Instant::now()) }
    }

    /// At most so many rows at a time: a second's.
    pub(crate) fn cap(&self, rows: usize) -> usize {
        self.per_second.map_or(rows, |rate| rows.min(rate.max(1) as usize))
    }

    /// When rows may be read.
    pub(crate) fn due(&self) -> Instant {
        *self.paid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes rows before they are read; give back with [`Pace::settle`] what was not needed.
    pub(crate) fn take(&self, rows: usize) {
        self.move_by(rows as f64);
    }

    pub(crate) fn settle(&self, taken: usize, read: u64) {
        self.move_by(read as f64 - taken as f64);
    }

    fn move_by(&self, rows: f64) {
        let Some(rate) = self.per_second else { return };
        let time = Duration::from_secs_f64(rows.abs() / f64::from(rate.max(1)));
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *paid = if rows < 0.0 { paid.checked_sub(time).unwrap_or(now) } else { (*paid).max(now) + time };
    }
}

/// Why nothing is read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    Paused,
    Closed { opens: Timestamp },
    Retained { bytes: u64, limit: u64 },
}

impl Hold {
    /// As an operator reads it.
    pub(crate) fn words(&self, window: Option<&Window>) -> String {
        match self {
            Self::Paused => "paused by an operator".to_owned(),
            Self::Closed { opens } => match window {
                Some(window) => format!("waits for {}", opens.to_zoned(window.zone.clone()).strftime("%Y-%m-%d %H:%M %Z")),
                None => format!("waits for {opens}"),
            },
            Self::Retained { bytes, limit } => {
                format!("waits while the server keeps {bytes} bytes of log, more than the {limit} of limits.retained_log")
            }
        }
    }
}

/// The first reason not to read, if there is one.
pub(crate) fn hold(snapshot: &SnapshotConfig, limits: &Limits, paused: bool, retained: Option<u64>) -> Option<Hold> {
    if paused {
        return Some(Hold::Paused);
    }
    if let Some(opens) = snapshot.window.as_ref().and_then(|window| window.opens(Timestamp::now())) {
        return Some(Hold::Closed { opens });
    }
    match (limits.retained_log, retained) {
        (Some(limit), Some(bytes)) if bytes > limit => Some(Hold::Retained { bytes, limit }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_paid_for_once() {
        let pace = Pace::new(Some(1_000));
        let began = Instant::now();
        assert!(pace.due() <= began);
        pace.take(500);
        pace.take(500);
        pace.settle(500, 100);
        let wait = pace.due().duration_since(began);
        assert!(wait >= Duration::from_millis(600) && wait < Duration::from_millis(700), "{wait:?}");
        assert_eq!(pace.cap(5_000), 1_000);
        assert_eq!(Pace::new(None).cap(5_000), 5_000);
    }

    #[test]
    fn the_department_decides_when_tables_are_read() {
        let (snapshot, limits) = (SnapshotConfig::default(), Limits { retained_log: Some(10) });
        assert_eq!(hold(&snapshot, &limits, false, Some(10)), None);
        assert_eq!(hold(&snapshot, &limits, false, Some(11)), Some(Hold::Retained { bytes: 11, limit: 10 }));
        assert_eq!(hold(&snapshot, &limits, true, None), Some(Hold::Paused));
    }
}
