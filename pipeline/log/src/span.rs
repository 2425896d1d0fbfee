//! A partition read up to an end that is known when reading begins.
//!
//! A read that gives nothing means that nothing came in time, not that nothing is there: brokers under load, or one that takes over,
//! answer late. The end is reached once a read says so, by where the partition is to be read next.

use std::time::{Duration, Instant};

use crate::contract::{ExchangeLog, LogError, LogReader, ReadBudget, Record, TopicPartition};

/// A log that gives nothing for so long is away.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one read waits.
const WAIT: Duration = Duration::from_secs(1);

/// What is left of a partition up to an end.
#[derive(Debug)]
pub struct Span {
    at: TopicPartition,
    reader: Box<dyn LogReader>,
    next: u64,
    end: u64,
}

impl Span {
    /// From `next` up to `end`, which the partition has reached.
    ///
    /// # Errors
    /// [`LogError::Gap`] where the log does not hold `next`; others where it cannot be read.
    pub async fn open(log: &dyn ExchangeLog, at: TopicPartition, next: u64, end: u64) -> Result<Self, LogError> {
        let reader = log.reader(vec![(at.clone(), next)]).await?;
        Ok(Self { at, reader, next, end })
    }

    /// The next records, about `bytes` of them; an empty list where what was passed holds none, `None` at the end.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] where the log gives nothing for half a minute.
    pub async fn read(&mut self, bytes: usize) -> Result<Option<Vec<Record>>, LogError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let began = Instant::now();
        loop {
            let batch = self.reader.read(ReadBudget { bytes, wait: WAIT }).await?;
            if let Some((_, next)) = batch.next.into_iter().find(|(at, _)| *at == self.at) {
                self.next = next;
                return Ok(Some(batch.records.into_iter().filter(|record| record.offset < self.end).collect()));
            }
            if began.elapsed() > PATIENCE {
                let detail = format!("{} gives nothing from {} on, and was written up to {}", self.at, self.next, self.end);
                return Err(LogError::Unavailable { detail });
            }
        }
    }
}

/// The record at an offset; `None` where the log holds it no longer.
///
/// # Errors
/// [`LogError`] where the log cannot be read.
pub async fn record_at(log: &dyn ExchangeLog, at: TopicPartition, offset: u64) -> Result<Option<Record>, LogError> {
    let end = offset.saturating_add(1);
    let bounds = log.bounds(&at).await?;
    if offset < bounds.earliest || end > bounds.end {
        return Ok(None);
    }
    let read = async {
        let mut span = Span::open(log, at, offset, end).await?;
        while let Some(records) = span.read(1).await? {
            if let Some(record) = records.into_iter().next() {
                return Ok(Some(record));
            }
        }
        Ok(None)
    };
    match read.await {
        // It went since the bounds were asked for.
        Err(LogError::Gap { .. }) => Ok(None),
        read => read,
    }
}
