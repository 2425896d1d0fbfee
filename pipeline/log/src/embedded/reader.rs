//! Reading: committed blocks, at most as many bytes as the budget, woken by the commit that brings more.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::select_all;
use sqlx::{Row, SqliteConnection};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Inner;
use super::block::{self, Names, RawRecords};
use super::rows::unsigned;
use super::topics::{Extent, Partition};
use crate::contract::{LogError, LogReader, ReadBatch, ReadBudget, Record, TopicPartition};

#[derive(Debug)]
pub(crate) struct Reader {
    inner: Arc<Inner>,
    parts: Vec<Part>,
    /// Which partition is read first, in turn, so that a busy one does not starve the others.
    first: usize,
    names: Names,
}

#[derive(Debug)]
struct Part {
    partition: Arc<Partition>,
    extent: watch::Receiver<Extent>,
    next: u64,
}

impl Part {
    fn gap(&self, extent: &Extent) -> LogError {
        LogError::Gap { at: self.partition.at.clone(), wanted: self.next, earliest: extent.earliest, end: extent.next, of: None }
    }

    /// Marks what it sees as seen.
    fn has_more(&mut self) -> Result<bool, LogError> {
        let extent = *self.extent.borrow_and_update();
        if self.next < extent.earliest || self.next > extent.next {
            return Err(self.gap(&extent));
        }
        Ok(self.next < extent.next)
    }
}

impl Reader {
    pub(crate) fn new(inner: Arc<Inner>, from: Vec<(TopicPartition, u64)>) -> Result<Self, LogError> {
        let mut parts = Vec::with_capacity(from.len());
        for (at, next) in from {
            let partition = inner.topics.partition(&at)?;
            let mut part = Part { extent: partition.extent.subscribe(), partition, next };
            part.has_more()?;
            parts.push(part);
        }
        Ok(Self { inner, parts, first: 0, names: Names::default() })
    }

    /// Returns when one of the partitions may have more, or at `until`.
    async fn wait(&mut self, until: Instant) -> bool {
        let changes = self.parts.iter_mut().map(|part| Box::pin(part.extent.changed()));
        if changes.len() == 0 {
            tokio::time::sleep_until(until).await;
            return false;
        }
        // A closed channel cannot be seen: the partition that holds the sender is held here.
        tokio::time::timeout_at(until, select_all(changes)).await.is_ok()
    }

    /// What is there now. Positions move only when everything was read, so that a cancelled read loses nothing.
    async fn gather(&mut self, bytes: usize) -> Result<ReadBatch, LogError> {
        let mut batch = ReadBatch::default();
        let mut left = bytes;
        let mut moved = Vec::new();
        let count = self.parts.len();
        for turn in 0..count {
            let place = (self.first + turn) % count;
            let Some(part) = self.parts.get_mut(place) else { continue };
            if !part.has_more()? {
                continue;
            }
            let before = batch.records.len();
            let next = read_partition(&self.inner, part, left, &mut self.names, &mut batch.records).await?;
            left = left.saturating_sub(batch.records.iter().skip(before).map(Record::size).sum());
            batch.next.push((part.partition.at.clone(), next));
            moved.push((place, next));
            // A last few bytes are not worth the blocks that would be read for them.
            if left <= bytes / 8 {
                break;
            }
        }
        for (place, next) in moved {
            if let Some(part) = self.parts.get_mut(place) {
                // Whose next record found no room has its turn still.
                self.first = if part.next == next { place } else { place + 1 };
                part.next = next;
            }
        }
        Ok(batch)
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn read(&mut self, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        let until = Instant::now() + budget.wait.min(Duration::from_secs(86_400));
        // Holes that compaction left are told of with whatever follows.
        let mut skipped: Vec<(TopicPartition, u64)> = Vec::new();
        loop {
            let mut batch = Box::pin(self.gather(budget.bytes)).await?;
            let moved = !batch.next.is_empty();
            skipped.retain(|(at, _)| batch.next.iter().all(|(further, _)| further != at));
            skipped.append(&mut batch.next);
            if !batch.records.is_empty() || (!moved && !self.wait(until).await) {
                return Ok(ReadBatch { records: batch.records, next: skipped });
            }
        }
    }
}

/// Reads blocks of one partition from where it stands; gives the offset after what was read.
async fn read_partition(
    inner: &Inner,
    part: &Part,
    budget: usize,
    names: &mut Names,
    out: &mut Vec<Record>,
) -> Result<u64, LogError> {
    let fault = |error: sqlx::Error| inner.file.error(error);
    // One snapshot for all that follows: what retention removes meanwhile is still there, or the gap is seen.
    let mut tx = inner.readers.begin().await.map_err(fault)?;
    let stand: Option<(i64, i64)> = sqlx::query_as("SELECT earliest, next FROM partition WHERE id = ?")
        .bind(i64::from(part.partition.id))
        .fetch_optional(&mut *tx)
        .await
        .map_err(fault)?;
    let (earliest, end) = stand.map(|(earliest, end)| (unsigned(earliest), unsigned(end))).unwrap_or_default();
    if part.next < earliest || part.next > end {
        return Err(part.gap(&Extent { earliest, next: end, ..Extent::default() }));
    }
    // A commit is in the file a moment before it is announced. Who read it then would stand beyond the end that everybody is told.
    let end = end.min(part.extent.borrow().next);
    let Some(chosen) = choose(&mut tx, part, end, budget).await.map_err(fault)? else { return Ok(end) };
    let mut rows = sqlx::query("SELECT id, data FROM block WHERE id BETWEEN ? AND ? ORDER BY id")
        .bind(chosen.first)
        .bind(chosen.last)
        .fetch(&mut *tx);
    let (mut used, mut next) = (0, part.next);
    while let Some(row) = rows.try_next().await.map_err(fault)? {
        let base = Partition::base(row.try_get(0).map_err(fault)?);
        let data = Bytes::from(block::unpack(row.try_get(1).map_err(fault)?)?);
        for raw in RawRecords::new(&data)? {
            let raw = raw?;
            if base + u64::from(raw.relative) < part.next {
                continue;
            }
            let record = block::record(&raw, &data, base, &part.partition.at, names)?;
            used += record.size();
            if used > budget && !out.is_empty() {
                return Ok(next);
            }
            next = record.offset + 1;
            out.push(record);
        }
    }
    Ok(if chosen.all { end } else { next })
}

/// Row ids of the first and the last block to read; `all`: no block lies behind them.
struct Chosen {
    first: i64,
    last: i64,
    all: bool,
}

/// Chooses blocks by their sizes: their data stays where it is until then.
async fn choose(conn: &mut SqliteConnection, part: &Part, end: u64, budget: usize) -> Result<Option<Chosen>, sqlx::Error> {
    let (zero, from, to) = (part.partition.row(0), part.partition.row(part.next), part.partition.row(end));
    let mut rows = sqlx::query(
        "SELECT id, bytes FROM block WHERE id >= coalesce((SELECT max(id) FROM block WHERE id BETWEEN ? AND ?), ?) AND id < ? ORDER BY id",
    )
    .bind(zero)
    .bind(from)
    .bind(from)
    .bind(to)
    .fetch(conn);
    let mut chosen: Option<Chosen> = None;
    let mut bytes = 0;
    while let Some(row) = rows.try_next().await? {
        let id = row.try_get(0)?;
        match &mut chosen {
            // It may lie before the wanted offset, or hold it in its middle: it does not count.
            None => chosen = Some(Chosen { first: id, last: id, all: true }),
            Some(chosen) if bytes > budget => {
                chosen.all = false;
                break;
            }
            Some(chosen) => {
                chosen.last = id;
                bytes += unsigned(row.try_get(1)?) as usize;
            }
        }
    }
    Ok(chosen)
}

/// Offset of the first record at or after a time; the end where there is none.
///
/// Each block knows the latest timestamp up to its own end, which never falls from block to block: a binary search finds the
/// first block that can hold the record. Retention may have taken that record, so the search goes on from there by the blocks'
/// own timestamps.
pub(crate) async fn offset_at(inner: &Inner, partition: &Partition, timestamp_ms: i64) -> Result<u64, LogError> {
    let fault = |error: sqlx::Error| inner.file.error(error);
    let bounds = partition.bounds();
    let mut tx = inner.readers.begin().await.map_err(fault)?;
    let (mut low, mut high) = (bounds.earliest, bounds.end);
    while low < high {
        let middle = low + (high - low) / 2;
        let block: Option<(i64, i64)> =
            sqlx::query_as("SELECT id, high_ms FROM block WHERE id >= ? AND id < ? ORDER BY id LIMIT 1")
                .bind(partition.row(middle))
                .bind(partition.row(high))
                .fetch_optional(&mut *tx)
                .await
                .map_err(fault)?;
        match block {
            Some((id, high_ms)) if high_ms < timestamp_ms => low = Partition::base(id) + 1,
            // The first block that reaches the time is this one or one before.
            _ => high = middle,
        }
    }
    let found: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT id, data FROM block WHERE id >= ? AND id < ? AND max_ms >= ? ORDER BY id LIMIT 1")
            .bind(partition.row(low))
            .bind(partition.row(bounds.end))
            .bind(timestamp_ms)
            .fetch_optional(&mut *tx)
            .await
            .map_err(fault)?;
    let Some((id, data)) = found else { return Ok(bounds.end) };
    let data = block::unpack(data)?;
    for raw in RawRecords::new(&data)? {
        let raw = raw?;
        if raw.timestamp_ms >= timestamp_ms {
            return Ok(Partition::base(id) + u64::from(raw.relative));
        }
    }
    Ok(bounds.end)
}
