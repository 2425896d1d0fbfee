//! One owner's hold: its appends, its position and offsets, its keyed state.
//!
//! A batch is packed into blocks before the writer gets it, so that packing uses every core and the writer only writes. An
//! append that is dropped half-way may have reached the writer: the holder then answers Unknown until it is opened again.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::Inner;
use super::block::{BLOCK_BYTES, Block, BlockBuilder};
use super::rows::{Shape, signed, stamped, unstamped};
use super::state::{self, Change, GetError, State};
use super::topics::{Extent, Partition, Topic, pick};
use super::writer::{Taken, Tx, Work, WorkError};
use crate::contract::{
    AppendError, Batch, Committed, KeyedState, LogError, NewRecord, OwnedLog, OwnerId, StateChange, StoredOffset, TopicPartition,
};
use crate::partition::partition_for;

/// Bytes of a batch whose records are packed by another thread, while the task that appends them makes the next batch ready.
const MUCH: usize = 512 << 10;

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
        let Taken { epoch, stand } = inner.queue.fence(owner).await?;
        let position = stand.position.map(unstamped).transpose()?;
        Ok(Self { inner, owner: owner.clone(), epoch, position, offsets: stand.offsets, in_doubt: false })
    }

    /// The batch, whose records are taken out, as the writer takes it.
    async fn prepare(&self, batch: &mut Batch, is_large: bool) -> Result<Append, LogError> {
        let mut consumed = Vec::with_capacity(batch.offsets.len());
        for (at, next) in &batch.offsets {
            consumed.push((self.inner.topics.partition(at)?.id, *next));
        }
        let changes = self.changes(std::mem::take(&mut batch.state)).await?;
        let (blocks, (run, changes)) = self.pack(std::mem::take(&mut batch.records), changes, is_large).await?;
        let bytes = run.len() + blocks.iter().flat_map(|part| &part.1).map(|block| block.data.len()).sum::<usize>();
        Ok(Append {
            owner: self.owner.to_string(),
            blocks,
            consumed,
            position: batch.position.as_deref().map(stamped),
            state: Arc::clone(&self.inner.state),
            changes,
            run,
            run_id: 0,
            bytes,
        })
    }

    async fn pack(&self, records: Vec<NewRecord>, changes: Vec<Change>, is_large: bool) -> Result<(Vec<Packed>, Run), LogError> {
        if !is_large {
            return Ok((pack(&self.inner, &records)?, run(changes)));
        }
        let inner = Arc::clone(&self.inner);
        let packed = tokio::task::spawn_blocking(move || Ok((pack(&inner, &records)?, run(changes)))).await;
        packed.map_err(|error| LogError::Other(error.to_string()))?
    }

    /// The changes with the ids of their maps.
    async fn changes(&self, changes: Vec<StateChange>) -> Result<Vec<Change>, LogError> {
        let mut known: HashMap<Arc<str>, i64> = HashMap::new();
        let mut out = Vec::with_capacity(changes.len());
        for StateChange { map, key, value } in changes {
            let map = match known.get(&map) {
                Some(id) => *id,
                None => {
                    let id = self.inner.map(&self.owner, &map).await?;
                    known.insert(map, id);
                    id
                }
            };
            out.push(Change { map, key, value });
        }
        Ok(out)
    }
}

/// An owner's maps, beside its hold.
#[derive(Debug)]
struct OwnerMaps {
    inner: Arc<Inner>,
    owner: OwnerId,
}

#[async_trait]
impl KeyedState for OwnerMaps {
    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        self.inner.get(&self.owner, map, keys).await
    }
}

impl Inner {
    async fn get(&self, owner: &OwnerId, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        let Some(map) = self.maps.known(owner, map) else { return Ok(vec![None; keys.len()]) };
        self.state.get(&self.readers, map, keys).await.map_err(|error| self.fault(error))
    }

    fn fault(&self, error: GetError) -> LogError {
        match error {
            GetError::Sql(error) => self.file.error(error),
            GetError::Log(error) => error,
        }
    }
}

/// A batch's changes of keyed state as they lie in the file, and as slices of that.
type Run = (Bytes, Vec<Change>);

fn run(mut changes: Vec<Change>) -> Run {
    let run = if changes.is_empty() { Bytes::new() } else { state::encode(&mut changes) };
    (run, changes)
}

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
    state: Arc<State>,
    changes: Vec<Change>,
    /// The changes as they lie in the file.
    run: Bytes,
    run_id: i64,
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
        if !self.run.is_empty() {
            self.run_id = self.state.take_run();
            sqlx::query("INSERT INTO state_run (id, data) VALUES (?, ?)")
                .bind(self.run_id)
                .bind(&*self.run)
                .execute(&mut *tx.conn)
                .await?;
        }
        Ok(())
    }

    fn committed(&mut self) {
        if !self.run.is_empty() {
            self.state.committed(self.run_id, &self.run, std::mem::take(&mut self.changes));
        }
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

    async fn append(&mut self, mut batch: Batch) -> Result<Committed, AppendError> {
        if self.in_doubt {
            let detail = format!("an earlier append of {} had no answer; open it again", self.owner);
            return Err(AppendError::Unknown(LogError::Other(detail)));
        }
        let (records, bytes) = (batch.records.len(), batch.size());
        let room = self.inner.room(bytes).await.map_err(AppendError::Refused)?;
        let work = self.prepare(&mut batch, bytes >= MUCH).await.map_err(AppendError::Refused)?;
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

    fn state(&self) -> Arc<dyn KeyedState> {
        Arc::new(OwnerMaps { inner: Arc::clone(&self.inner), owner: self.owner.clone() })
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        self.inner.get(&self.owner, map, keys).await
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let Some(map) = self.inner.maps.known(&self.owner, map) else { return Ok(Vec::new()) };
        self.inner.state.scan(&self.inner.readers, map, prefix, after, limit).await.map_err(|error| self.inner.fault(error))
    }
}
