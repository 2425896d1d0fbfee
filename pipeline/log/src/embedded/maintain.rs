//! What leaves the log: records whose time or room is up, older values of a key, free pages.
//!
//! Everything is done in steps of about [`STEP_BYTES`], each a piece of work among the owners' commits, so that none of them waits long.
//! A process that dies in between leaves a log that is whole; the next run goes on.
//!
//! Compaction takes the newest offset of each key among the records that are old enough and were not looked at before, as many keys as
//! fit in [`KEYS`], and then goes once over everything below: superseded records go, and small blocks become large ones. Records
//! younger than `after` neither go nor supersede, so each value stays readable that long after it was replaced.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use sqlx::Row;

use super::Inner;
use super::block::{BLOCK_BYTES, Block, BlockBuilder, RawRecords, unpack};
use super::rows::{Shape, signed, unsigned};
use super::topics::{Extent, Partition};
use super::writer::{Tx, Work, WorkError};
use crate::contract::{LogError, Retention};

/// Bytes of blocks that one step removes or rewrites.
const STEP_BYTES: u64 = 2 << 20;
/// Blocks that one step removes or rewrites.
const STEP_BLOCKS: usize = 512;
/// Blocks whose keys one compaction pass takes.
const PASS_BLOCKS: usize = 100_000;
/// Keys of one compaction pass, at 24 bytes each.
const KEYS: usize = 400_000;
/// Up to this size a partition is compacted whenever something is superseded; beyond, when that may be a third of it.
const SMALL: u64 = 4 << 20;
/// Free pages given back to the disk in one step.
const VACUUM_PAGES: i64 = 256;

pub(crate) async fn run(inner: &Arc<Inner>, now_ms: i64) -> Result<(), LogError> {
    // One at a time: steps rely on what the one before has seen.
    let _alone = inner.maintaining.lock().await;
    for topic in inner.topics.all() {
        for partition in &topic.partitions {
            match topic.retention() {
                Retention::Expire { age, bytes } => expire(inner, partition, age.map(|age| before(now_ms, age)), bytes).await?,
                Retention::Compact { after, tombstones } => compact(inner, partition, now_ms, after, tombstones).await?,
            }
        }
    }
    vacuum(inner).await
}

fn before(now_ms: i64, age: Duration) -> i64 {
    now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX))
}

/// A block without its data.
struct Stub {
    row: i64,
    bytes: u64,
    max_ms: i64,
}

/// Stubs from `from` on, as long as `take` wants them; `end`: no block behind them.
async fn stubs(
    inner: &Inner,
    partition: &Partition,
    from: u64,
    mut take: impl FnMut(&Stub, usize) -> bool,
) -> Result<(Vec<Stub>, Option<i64>), LogError> {
    let fault = |error: sqlx::Error| inner.file.error(error);
    let mut rows = sqlx::query("SELECT id, bytes, max_ms FROM block WHERE id >= ? AND id <= ? ORDER BY id")
        .bind(partition.row(from))
        .bind(partition.row(Partition::OFFSETS))
        .fetch(&inner.readers);
    let mut taken = Vec::new();
    while let Some(row) = rows.try_next().await.map_err(fault)? {
        let stub = Stub {
            row: row.try_get(0).map_err(fault)?,
            bytes: unsigned(row.try_get(1).map_err(fault)?),
            max_ms: row.try_get(2).map_err(fault)?,
        };
        if !take(&stub, taken.len()) {
            return Ok((taken, Some(stub.row)));
        }
        taken.push(stub);
    }
    Ok((taken, None))
}

async fn expire(
    inner: &Arc<Inner>,
    partition: &Arc<Partition>,
    before_ms: Option<i64>,
    limit: Option<u64>,
) -> Result<(), LogError> {
    loop {
        let extent = *partition.extent.borrow();
        let mut freed = 0;
        let (gone, following) = stubs(inner, partition, extent.earliest, |stub, count| {
            let old = before_ms.is_some_and(|before_ms| stub.max_ms < before_ms);
            let over = limit.is_some_and(|limit| extent.bytes - freed.min(extent.bytes) > limit);
            let take = (old || over) && count < STEP_BLOCKS && freed < STEP_BYTES;
            freed += if take { stub.bytes } else { 0 };
            take
        })
        .await?;
        let Some(last) = gone.last() else { return Ok(()) };
        let work = Expire { partition: Arc::clone(partition), last: last.row, following, freed };
        inner.queue.perform(Box::new(work)).await?;
    }
}

/// Removes the blocks up to `last` from a partition's front.
struct Expire {
    partition: Arc<Partition>,
    last: i64,
    following: Option<i64>,
    freed: u64,
}

#[async_trait]
impl Work for Expire {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError> {
        sqlx::query("DELETE FROM block WHERE id BETWEEN ? AND ?")
            .bind(self.partition.row(0))
            .bind(self.last)
            .execute(&mut *tx.conn)
            .await?;
        let mut extent = tx.extent(&self.partition);
        // What was appended since begins where the partition ended then, so the block that followed is still the first.
        let first: Option<i64> = match self.following {
            Some(row) => Some(row),
            None => {
                sqlx::query_scalar("SELECT min(id) FROM block WHERE id > ? AND id <= ?")
                    .bind(self.last)
                    .bind(self.partition.row(Partition::OFFSETS))
                    .fetch_one(&mut *tx.conn)
                    .await?
            }
        };
        extent.earliest = first.map_or(extent.next, Partition::base);
        extent.bytes = extent.bytes.saturating_sub(self.freed);
        tx.set_extent(&self.partition, extent);
        Ok(())
    }
}

async fn compact(
    inner: &Arc<Inner>,
    partition: &Arc<Partition>,
    now_ms: i64,
    after: Duration,
    tombstones: Duration,
) -> Result<(), LogError> {
    let old_ms = before(now_ms, after);
    let gone_ms = before(now_ms, tombstones);
    let mut begun = false;
    loop {
        let extent = *partition.extent.borrow();
        let (dirty, following) =
            stubs(inner, partition, extent.cleaned, |stub, count| stub.max_ms <= old_ms && count < PASS_BLOCKS).await?;
        let bytes: u64 = dirty.iter().map(|stub| stub.bytes).sum();
        // A pass that began goes to the end, however little is left of it.
        let superseding = !dirty.is_empty()
            && (begun || dirty.len() == PASS_BLOCKS || extent.clean_bytes + bytes <= SMALL || bytes >= extent.clean_bytes / 2);
        // Tombstones of a large partition wait for one another: each pass reads all of it.
        let slack = if extent.clean_bytes <= SMALL { Duration::ZERO } else { tombstones / 8 };
        let overdue = !begun && extent.tombstone_ms.is_some_and(|oldest| oldest < before(gone_ms, slack));
        if !superseding && !overdue {
            return Ok(());
        }
        begun = true;
        let end = following.map_or(extent.next, Partition::base);
        let (newest, upto) = newest(inner, partition, &dirty, end.max(extent.cleaned)).await?;
        Pass::new(inner, partition, &newest, gone_ms).over(extent.earliest, upto).await?;
    }
}

type Newest = HashMap<[u8; 16], u64>;

/// Keys are compared by half a SHA-256: two that collide would lose one, and nobody can make them.
fn digest(key: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&Sha256::digest(key)[..16]);
    half
}

/// The newest offset of each key in `dirty`, and the offset up to which that holds: `end`, or less where there are too many keys.
async fn newest(inner: &Inner, partition: &Partition, dirty: &[Stub], end: u64) -> Result<(Newest, u64), LogError> {
    let mut newest = Newest::new();
    for (n, stub) in dirty.iter().enumerate() {
        let Some((data, _)) = block(inner, stub.row).await? else { continue };
        for raw in RawRecords::new(&data)? {
            let raw = raw?;
            if let Some(key) = raw.key() {
                newest.insert(digest(key), Partition::base(stub.row) + u64::from(raw.relative));
            }
        }
        if newest.len() >= KEYS {
            return Ok((newest, dirty.get(n + 1).map_or(end, |next| Partition::base(next.row))));
        }
    }
    tracing::debug!(partition = %partition.at, keys = newest.len(), "compacting");
    Ok((newest, end))
}

/// A block, unpacked, and its running timestamp.
async fn block(inner: &Inner, row: i64) -> Result<Option<(Vec<u8>, i64)>, LogError> {
    let found: Option<(Vec<u8>, i64)> = sqlx::query_as("SELECT data, high_ms FROM block WHERE id = ?")
        .bind(row)
        .fetch_optional(&inner.readers)
        .await
        .map_err(|error| inner.file.error(error))?;
    found.map(|(data, high_ms)| Ok((unpack(data)?, high_ms))).transpose()
}

/// One way over the blocks of a partition.
struct Pass<'a> {
    inner: &'a Inner,
    partition: &'a Arc<Partition>,
    newest: &'a Newest,
    /// Tombstones older than this go.
    gone_ms: i64,
    /// Blocks whose records are in `builder`, the first of them `builder`'s base.
    sources: Vec<(i64, u64)>,
    builder: BlockBuilder,
    high_ms: i64,
    /// Whether something of `sources` was left out.
    changed: bool,
    step: Rewrite,
    oldest_tombstone: Option<i64>,
    kept_bytes: u64,
}

impl<'a> Pass<'a> {
    fn new(inner: &'a Inner, partition: &'a Arc<Partition>, newest: &'a Newest, gone_ms: i64) -> Self {
        Self {
            inner,
            partition,
            newest,
            gone_ms,
            sources: Vec::new(),
            builder: BlockBuilder::default(),
            high_ms: 0,
            changed: false,
            step: Rewrite::new(partition),
            oldest_tombstone: None,
            kept_bytes: 0,
        }
    }

    async fn over(mut self, from: u64, upto: u64) -> Result<(), LogError> {
        let end = self.partition.row(upto);
        let mut at = from;
        loop {
            let (some, following) =
                stubs(self.inner, self.partition, at, |stub, count| stub.row < end && count < STEP_BLOCKS).await?;
            for stub in &some {
                self.take(stub).await?;
            }
            match following {
                Some(row) if row < end => at = Partition::base(row),
                _ => break,
            }
        }
        self.flush().await?;
        self.step.done = Some(Cleaned { upto, tombstone_ms: self.oldest_tombstone, bytes: self.kept_bytes });
        self.submit().await
    }

    async fn take(&mut self, stub: &Stub) -> Result<(), LogError> {
        let Some((data, high_ms)) = block(self.inner, stub.row).await? else { return Ok(()) };
        let base = Partition::base(stub.row);
        let far = |first: u64| base + u64::from(u32::MAX / 2) > first + u64::from(u32::MAX);
        if self.sources.first().is_some_and(|(row, _)| far(Partition::base(*row))) {
            self.flush().await?;
        }
        let first = self.sources.first().map_or(base, |(row, _)| Partition::base(*row));
        for raw in RawRecords::new(&data)? {
            let raw = raw?;
            let offset = base + u64::from(raw.relative);
            let superseded = raw.key().is_some_and(|key| self.newest.get(&digest(key)).is_some_and(|newest| offset < *newest));
            if superseded || (raw.is_tombstone() && raw.timestamp_ms < self.gone_ms) {
                self.changed = true;
                continue;
            }
            if raw.is_tombstone() {
                self.oldest_tombstone =
                    Some(self.oldest_tombstone.map_or(raw.timestamp_ms, |oldest| oldest.min(raw.timestamp_ms)));
            }
            let relative = u32::try_from(offset - first)
                .map_err(|_| LogError::Corrupt { detail: format!("{}: a block spans too many offsets", self.partition.at) })?;
            self.builder.copy(relative, &raw);
        }
        self.sources.push((stub.row, stub.bytes));
        self.high_ms = high_ms;
        if self.builder.len() >= BLOCK_BYTES || self.sources.len() >= STEP_BLOCKS {
            self.flush().await?;
        }
        Ok(())
    }

    /// Puts what was gathered into the step, unless it is one block that stays as it was.
    async fn flush(&mut self) -> Result<(), LogError> {
        let sources = std::mem::take(&mut self.sources);
        let made = self.builder.finish();
        self.kept_bytes += made.as_ref().map_or(0, |block| block.data.len() as u64);
        if sources.len() > 1 || std::mem::take(&mut self.changed) {
            self.changed = false;
            self.step.freed += sources.iter().map(|(_, bytes)| bytes).sum::<u64>();
            self.step.blocks += sources.len();
            let (Some((first, _)), Some((last, _))) = (sources.first(), sources.last()) else { return Ok(()) };
            self.step.ranges.push((*first, *last));
            if let Some(block) = made {
                self.step.added += block.data.len() as u64;
                self.step.made.push((*first, self.high_ms, block));
            }
        }
        if self.step.freed >= STEP_BYTES || self.step.blocks >= STEP_BLOCKS {
            self.submit().await?;
        }
        Ok(())
    }

    async fn submit(&mut self) -> Result<(), LogError> {
        let step = std::mem::replace(&mut self.step, Rewrite::new(self.partition));
        self.inner.queue.perform(Box::new(step)).await
    }
}

/// What a finished pass knows about everything below `upto`.
#[derive(Debug, Clone, Copy)]
struct Cleaned {
    upto: u64,
    tombstone_ms: Option<i64>,
    bytes: u64,
}

/// Puts new blocks in the place of old ones.
struct Rewrite {
    partition: Arc<Partition>,
    /// First and last row of runs that go.
    ranges: Vec<(i64, i64)>,
    /// Row, running timestamp and content of blocks that come.
    made: Vec<(i64, i64, Block)>,
    blocks: usize,
    freed: u64,
    added: u64,
    done: Option<Cleaned>,
}

impl Rewrite {
    fn new(partition: &Arc<Partition>) -> Self {
        Self { partition: Arc::clone(partition), ranges: Vec::new(), made: Vec::new(), blocks: 0, freed: 0, added: 0, done: None }
    }
}

#[async_trait]
impl Work for Rewrite {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError> {
        for (first, last) in &self.ranges {
            sqlx::query("DELETE FROM block WHERE id BETWEEN ? AND ?").bind(first).bind(last).execute(&mut *tx.conn).await?;
        }
        tx.statements
            .write(tx.conn, Shape::Block, &self.made, |binds, (row, high_ms, block)| {
                binds.add(*row).add(signed(block.data.len() as u64)).add(block.max_ms).add(*high_ms).add(block.data.as_slice());
            })
            .await?;
        let mut extent: Extent = tx.extent(&self.partition);
        extent.bytes = (extent.bytes + self.added).saturating_sub(self.freed);
        if let Some(done) = self.done {
            extent.cleaned = done.upto;
            extent.tombstone_ms = done.tombstone_ms;
            extent.clean_bytes = done.bytes;
        }
        tx.set_extent(&self.partition, extent);
        Ok(())
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.added).unwrap_or(usize::MAX)
    }
}

/// Gives free pages back to the disk, where they are more than a tenth of the file: fewer are soon used again.
async fn vacuum(inner: &Arc<Inner>) -> Result<(), LogError> {
    let fault = |error: sqlx::Error| inner.file.error(error);
    loop {
        let free: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(&inner.readers).await.map_err(fault)?;
        let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&inner.readers).await.map_err(fault)?;
        if free <= pages / 10 || free < VACUUM_PAGES {
            return Ok(());
        }
        inner.queue.perform(Box::new(Vacuum)).await?;
    }
}

struct Vacuum;

#[async_trait]
impl Work for Vacuum {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError> {
        let sql = format!("PRAGMA incremental_vacuum({VACUUM_PAGES})");
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *tx.conn).await?;
        Ok(())
    }
}
