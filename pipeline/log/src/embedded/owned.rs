//! One owner's hold: its appends, its position and offsets, its keyed state.
//!
//! A batch is packed into blocks by the task that appends it, so that packing uses every core and the writer only writes. An
//! append that is dropped half-way may have reached the writer: the holder then answers Unknown until it is opened again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{QueryBuilder, Row};

use super::Inner;
use super::block::{BLOCK_BYTES, Block, BlockBuilder};
use super::rows::{Shape, signed, stamped, unsigned, unstamped};
use super::topics::{Extent, Partition, Topic, pick};
use super::writer::{Tx, Work, WorkError};
use crate::contract::{
    AppendError, Batch, Committed, LogError, NewRecord, OwnedLog, OwnerId, StateChange, StoredOffset, TopicPartition,
};
use crate::partition::partition_for;

/// Keys of one query of [`OwnedLog::get`].
const KEYS: usize = 250;

#[derive(Debug)]
pub(crate) struct Hold {
    inner: Arc<Inner>,
    owner: OwnerId,
    epoch: u64,
    position: Option<Bytes>,
    offsets: HashMap<TopicPartition, u64>,
    /// An append began whose answer this holder has not seen.
    in_doubt: bool,
}

impl Hold {
    pub(crate) async fn open(inner: Arc<Inner>, owner: &OwnerId) -> Result<Self, LogError> {
        let epoch = inner.queue.fence(owner).await?;
        let key = owner.to_string();
        let stored: Option<Vec<u8>> = sqlx::query_scalar("SELECT value FROM position WHERE owner = ?")
            .bind(&key)
            .fetch_optional(&inner.readers)
            .await
            .map_err(|error| inner.file.error(error))?;
        let position = stored.map(unstamped).transpose()?;
        let rows = sqlx::query(
            "SELECT topic.name, partition.number, consumed.next FROM consumed
             JOIN partition ON partition.id = consumed.partition JOIN topic ON topic.id = partition.topic WHERE owner = ?",
        )
        .bind(&key)
        .fetch_all(&inner.readers)
        .await
        .map_err(|error| inner.file.error(error))?;
        let offset = |row: &sqlx::sqlite::SqliteRow| {
            Ok((TopicPartition::new(row.try_get::<String, _>(0)?, row.try_get(1)?), unsigned(row.try_get(2)?)))
        };
        let offsets = rows.iter().map(offset).collect::<Result<_, _>>().map_err(|error| inner.file.error(error))?;
        Ok(Self { inner, owner: owner.clone(), epoch, position, offsets, in_doubt: false })
    }

    /// The batch as the writer takes it.
    async fn prepare(&self, batch: &Batch) -> Result<Append, LogError> {
        let mut consumed = Vec::with_capacity(batch.offsets.len());
        for (at, next) in &batch.offsets {
            consumed.push((self.inner.topics.partition(at)?.id, *next));
        }
        let (set, removed) = self.state(&batch.state).await?;
        let blocks = pack(&self.inner, &batch.records)?;
        let bytes = blocks.iter().flat_map(|part| &part.1).map(|block| block.data.len()).sum::<usize>()
            + set.iter().map(|(_, key, value)| key.len() + value.len()).sum::<usize>();
        Ok(Append {
            owner: self.owner.to_string(),
            blocks,
            consumed,
            position: batch.position.as_deref().map(stamped),
            set,
            removed,
            bytes,
        })
    }

    /// The last change of each key, sorted as the table is.
    async fn state(&self, changes: &[StateChange]) -> Result<(Vec<SetRow>, Vec<(i64, Bytes)>), LogError> {
        let (mut set, mut removed) = (Vec::new(), Vec::new());
        let mut seen = HashSet::with_capacity(changes.len());
        for change in changes.iter().rev() {
            let map = self.inner.map(&self.owner, &change.map).await?;
            if !seen.insert((map, &change.key)) {
                continue;
            }
            match &change.value {
                Some(value) => set.push((map, change.key.clone(), stamped(value))),
                None => removed.push((map, change.key.clone())),
            }
        }
        set.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        removed.sort_unstable();
        Ok((set, removed))
    }
}

/// A state row: map, key, stamped value.
type SetRow = (i64, Bytes, Vec<u8>);
/// Blocks of one partition.
type Packed = (Arc<Partition>, Vec<Block>);

/// Packs records, in their order, into blocks of each partition.
fn pack(inner: &Inner, records: &[NewRecord]) -> Result<Vec<Packed>, LogError> {
    let mut parts: Vec<(Arc<Partition>, Vec<Block>, BlockBuilder)> = Vec::new();
    let mut places: HashMap<u32, usize> = HashMap::new();
    let mut topic: Option<Arc<Topic>> = None;
    for record in records {
        let topic = match &mut topic {
            Some(topic) if Arc::ptr_eq(&topic.name, &record.topic) || topic.name == record.topic => topic,
            other => other.insert(inner.topics.get(&record.topic)?),
        };
        let number = record.partition.unwrap_or_else(|| {
            let count = topic.partitions.len() as u32;
            record.key.as_ref().map_or(0, |key| partition_for(key, count))
        });
        let partition = pick(topic, number)?;
        let place = *places.entry(partition.id).or_insert_with(|| {
            parts.push((Arc::clone(partition), Vec::new(), BlockBuilder::default()));
            parts.len() - 1
        });
        let Some((_, blocks, builder)) = parts.get_mut(place) else { continue };
        builder.push(record)?;
        if builder.len() >= BLOCK_BYTES {
            blocks.extend(builder.finish());
        }
    }
    Ok(parts
        .into_iter()
        .map(|(partition, mut blocks, mut builder)| {
            blocks.extend(builder.finish());
            (partition, blocks)
        })
        .collect())
}

/// A batch on its way into the file.
struct Append {
    owner: String,
    blocks: Vec<Packed>,
    consumed: Vec<(u32, u64)>,
    position: Option<Vec<u8>>,
    set: Vec<SetRow>,
    removed: Vec<(i64, Bytes)>,
    bytes: usize,
}

#[async_trait]
impl Work for Append {
    async fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), WorkError> {
        for (partition, blocks) in &self.blocks {
            let mut extent = tx.extent(partition);
            let mut rows = Vec::with_capacity(blocks.len());
            for block in blocks {
                rows.push((place(partition, &mut extent, block)?, block));
            }
            tx.set_extent(partition, extent);
            tx.statements
                .write(tx.conn, Shape::Block, rows, |binds, ((row, high_ms), block)| {
                    binds.add(row).add(signed(block.data.len() as u64)).add(block.max_ms).add(high_ms).add(block.data.as_slice());
                })
                .await?;
        }
        let owner = self.owner.as_str();
        tx.statements
            .write(tx.conn, Shape::Consumed, &self.consumed, |binds, (partition, next)| {
                binds.add(owner).add(i64::from(*partition)).add(signed(*next));
            })
            .await?;
        if let Some(position) = self.position.as_deref() {
            sqlx::query("INSERT INTO position VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET value = excluded.value")
                .bind(owner)
                .bind(position)
                .execute(&mut *tx.conn)
                .await?;
        }
        tx.statements
            .write(tx.conn, Shape::State, &self.set, |binds, (map, key, value)| {
                binds.add(*map).add(&**key).add(value.as_slice());
            })
            .await?;
        tx.statements
            .write(tx.conn, Shape::Unstate, &self.removed, |binds, (map, key)| {
                binds.add(*map).add(&**key);
            })
            .await?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Gives a block its place at the end of the partition: its row, and the latest timestamp up to its end.
fn place(partition: &Partition, extent: &mut Extent, block: &Block) -> Result<(i64, i64), LogError> {
    let base = extent.next;
    extent.next = base + u64::from(block.span);
    if extent.next > Partition::OFFSETS {
        return Err(LogError::Other(format!("{} is full: it cannot hold offsets beyond {}", partition.at, Partition::OFFSETS)));
    }
    extent.high_ms = if base == 0 { block.max_ms } else { extent.high_ms.max(block.max_ms) };
    extent.bytes += block.data.len() as u64;
    Ok((partition.row(base), extent.high_ms))
}

#[async_trait]
impl OwnedLog for Hold {
    fn owner(&self) -> &OwnerId {
        &self.owner
    }

    fn position(&self) -> Option<Bytes> {
        self.position.clone()
    }

    fn offset(&self, at: &TopicPartition) -> Option<StoredOffset> {
        self.offsets.get(at).map(|next| StoredOffset { log: self.inner.id.clone(), next: *next })
    }

    async fn append(&mut self, batch: Batch) -> Result<Committed, AppendError> {
        if self.in_doubt {
            let detail = format!("an earlier append of {} had no answer; open it again", self.owner);
            return Err(AppendError::Unknown(LogError::Other(detail)));
        }
        let room = self.inner.room(&batch).await.map_err(AppendError::Refused)?;
        let work = self.prepare(&batch).await.map_err(AppendError::Refused)?;
        let (records, bytes) = (batch.records.len(), work.bytes());
        drop(batch.records);
        self.in_doubt = true;
        let ended = self.inner.queue.submit(Box::new(work), Some((self.owner.clone(), self.epoch))).await;
        drop(room);
        self.in_doubt = matches!(ended, Err(AppendError::Unknown(_)));
        self.inner.metrics.ended(ended.as_ref().map(|()| (records, bytes)));
        ended?;
        if batch.position.is_some() {
            self.position = batch.position;
        }
        self.offsets.extend(batch.offsets);
        Ok(Committed::new(records))
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        let Some(map) = self.inner.maps.known(&self.owner, map) else { return Ok(vec![None; keys.len()]) };
        let mut found: HashMap<Vec<u8>, Bytes> = HashMap::with_capacity(keys.len());
        for some in keys.chunks(KEYS) {
            let mut query = QueryBuilder::new("SELECT key, value FROM state WHERE map = ");
            query.push_bind(map).push(" AND key IN (");
            let mut list = query.separated(",");
            for key in some {
                list.push_bind(&**key);
            }
            query.push(")");
            let rows = query.build().fetch_all(&self.inner.readers).await.map_err(|error| self.inner.file.error(error))?;
            for row in rows {
                let (key, value) = entry(&row).map_err(|error| self.inner.file.error(error))?;
                found.insert(key, unstamped(value)?);
            }
        }
        Ok(keys.iter().map(|key| found.get(&**key).cloned()).collect())
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let Some(map) = self.inner.maps.known(&self.owner, map) else { return Ok(Vec::new()) };
        let mut query = QueryBuilder::new("SELECT key, value FROM state WHERE map = ");
        query.push_bind(map).push(" AND key >= ").push_bind(prefix);
        if let Some(after) = after {
            query.push(" AND key > ").push_bind(after);
        }
        if let Some(end) = prefix_end(prefix) {
            query.push(" AND key < ").push_bind(end);
        }
        query.push(" ORDER BY key LIMIT ").push_bind(signed(limit as u64));
        let rows = query.build().fetch_all(&self.inner.readers).await.map_err(|error| self.inner.file.error(error))?;
        rows.iter()
            .map(|row| {
                let (key, value) = entry(row).map_err(|error| self.inner.file.error(error))?;
                Ok((key.into(), unstamped(value)?))
            })
            .collect()
    }
}

fn entry(row: &sqlx::sqlite::SqliteRow) -> Result<(Vec<u8>, Vec<u8>), sqlx::Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// The first bytes that sort after everything that starts with `prefix`; `None` where nothing does.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=keep)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::prefix_end;

    #[test]
    fn a_prefix_ends_where_the_next_begins() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255]), None);
        assert_eq!(prefix_end(b""), None);
    }
}
