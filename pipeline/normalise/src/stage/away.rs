//! A resource that was away for longer than deletes are kept may never read some: what it has to read again, whole, it learns here.

use std::time::Duration;

use guitong_log::{ExchangeLog, LogError, TopicPartition, deletes_kept, holds_deletes};

/// How a resource comes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Away {
    /// When it read last, microseconds since 1970-01-01T00:00:00Z; 0 where that is not known.
    pub(crate) read_us: i64,
    /// How long the raw topics keep deletes.
    pub(crate) trace: Duration,
}

impl Away {
    /// Whether it was away for longer than deletes are surely kept.
    pub(crate) fn is_long(&self) -> bool {
        let kept_us = i64::try_from(deletes_kept(self.trace).as_micros()).unwrap_or(i64::MAX);
        self.read_us > 0 && jiff::Timestamp::now().as_microsecond().saturating_sub(self.read_us) > kept_us
    }

    /// Whether deletes may be gone that follow `next`, so that the topic is to be read again from its beginning: what it holds no longer
    /// is deleted.
    pub(crate) async fn has_missed(&self, log: &dyn ExchangeLog, at: &TopicPartition, next: u64) -> Result<bool, LogError> {
        if !self.is_long() {
            return Ok(false);
        }
        match holds_deletes(log, at, next, self.trace).await {
            Ok(()) => return Ok(false),
            Err(LogError::Stale { .. }) => {}
            Err(error) => return Err(error),
        }
        let earliest = log.bounds(at).await?.earliest;
        if earliest > 0 {
            // What expires goes from its beginning, where it would be a gap; and rows that are there may have gone with it.
            tracing::warn!(
                topic = %at.topic, next, earliest,
                "the topic was not read for very long; if it expired before it was compacted, rows that were deleted since still stand"
            );
            return Ok(false);
        }
        tracing::warn!(topic = %at.topic, next, "deletes that were not read may be gone from the log; the topic is read again, whole");
        Ok(true)
    }
}
