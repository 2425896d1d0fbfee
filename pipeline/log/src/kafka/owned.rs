//! One owner's hold: prepares its batches for the committer and answers from the local copy.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::changelog::{self, Change};
use super::committer::{Ahead, Command, Commands, Prepared, Ticket};
use super::group::Assignments;
use super::store::Store;
use super::topics::Topics;
use crate::contract::{
    AppendError, Batch, Committed, KeyedState, LogError, LogId, MAX_RECORD, NewRecord, OwnedLog, OwnerId, StoredOffset,
    TopicPartition,
};
use crate::metrics::Metrics;
use crate::partition::partition_for;

#[derive(Debug)]
pub(crate) struct KafkaOwned {
    pub(crate) ticket: Ticket,
    pub(crate) log: LogId,
    pub(crate) topics: Arc<Topics>,
    pub(crate) store: Arc<Store>,
    pub(crate) assignments: Arc<Assignments>,
    pub(crate) commands: Commands,
    pub(crate) position: Option<Bytes>,
    pub(crate) offsets: HashMap<TopicPartition, StoredOffset>,
    /// Number of the last transaction of this hold.
    pub(crate) written: u64,
    pub(crate) metrics: Metrics,
    /// Whether this hold is of no more use.
    pub(crate) over: bool,
}

/// An owner's maps, beside its hold.
#[derive(Debug)]
struct OwnerMaps {
    ticket: Ticket,
    store: Arc<Store>,
    assignments: Arc<Assignments>,
    ahead: Arc<Ahead>,
}

#[async_trait]
impl KeyedState for OwnerMaps {
    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        let owner = &self.ticket.owner;
        let keys: Result<Vec<_>, _> = keys.iter().map(|key| changelog::state_key(&owner.name, map, key)).collect();
        let keys = keys?;
        let ahead = self.ahead.changed(&self.ticket, &keys);
        let missing: Vec<Bytes> =
            keys.iter().zip(&ahead).filter(|(_, found)| found.is_none()).map(|(key, _)| key.clone()).collect();
        let mut copied = self.store.get(self.ticket.slot, &missing).await?.into_iter();
        // Afterwards: a hold that ended while the copy was read may have read another's.
        if !self.assignments.holds(self.ticket.slot, self.ticket.slot_epoch) {
            return Err(LogError::Fenced { owner: OwnerId::clone(owner) });
        }
        Ok(ahead.into_iter().map(|found| found.or_else(|| copied.next()).flatten()).collect())
    }
}

impl KafkaOwned {
    fn maps(&self) -> OwnerMaps {
        OwnerMaps {
            ticket: self.ticket.clone(),
            store: Arc::clone(&self.store),
            assignments: Arc::clone(&self.assignments),
            ahead: Arc::clone(&self.commands.ahead),
        }
    }

    fn name(&self) -> &str {
        &self.ticket.owner.name
    }

    fn fenced(&self) -> LogError {
        LogError::Fenced { owner: (*self.ticket.owner).clone() }
    }

    fn check_hold(&self) -> Result<(), LogError> {
        let holds = !self.over && self.assignments.holds(self.ticket.slot, self.ticket.slot_epoch);
        if holds { Ok(()) } else { Err(self.fenced()) }
    }

    /// Waits until the local copy holds what was committed; what it says counts only while the hold lasts.
    async fn settled(&self) -> Result<(), LogError> {
        let mut copied = self.commands.copied.clone();
        self.commands.ahead.want(self.written);
        copied.wait_for(|copied| *copied >= self.written).await.map_err(|_| closed())?;
        Ok(())
    }

    async fn place(&self, record: &NewRecord) -> Result<u32, LogError> {
        let size = record.size();
        if size > MAX_RECORD {
            return Err(LogError::TooLarge { topic: Arc::clone(&record.topic), size, limit: MAX_RECORD });
        }
        let count = self.topics.count(&record.topic).await?;
        match (record.partition, &record.key) {
            (Some(partition), _) if partition < count => Ok(partition),
            (Some(partition), _) => {
                Err(LogError::Other(format!("topic {} has no partition {partition}: it has {count}", record.topic)))
            }
            (None, Some(key)) => Ok(partition_for(key, count)),
            (None, None) => Ok(0),
        }
    }

    /// The entries of the assignment topic that a batch changes.
    fn changes(&self, batch: &mut Batch) -> Result<Vec<Change>, LogError> {
        let room = batch.offsets.len() + batch.state.len() + usize::from(batch.position.is_some());
        let mut changes = Vec::with_capacity(room);
        if let Some(position) = &batch.position {
            changes.push((changelog::position_key(self.name())?, Some(position.clone())));
        }
        for (at, next) in &batch.offsets {
            changes.push(changelog::offset(self.name(), at, &StoredOffset { log: self.log.clone(), next: *next })?);
        }
        for change in batch.state.drain(..) {
            changes.push((changelog::state_key(self.name(), &change.map, &change.key)?, change.value));
        }
        for size in changes.iter().map(changelog::size) {
            if size > MAX_RECORD {
                return Err(LogError::TooLarge { topic: "keyed state".into(), size, limit: MAX_RECORD });
            }
        }
        Ok(changes)
    }

    async fn prepare(&self, batch: &mut Batch) -> Result<(Vec<(u32, NewRecord)>, Vec<Change>, usize), LogError> {
        let changes = self.changes(batch)?;
        let mut records = Vec::with_capacity(batch.records.len());
        let mut bytes: usize = changes.iter().map(changelog::size).sum();
        for record in batch.records.drain(..) {
            let partition = self.place(&record).await?;
            bytes += record.size();
            records.push((partition, record));
        }
        Ok((records, changes, bytes))
    }
}

impl KafkaOwned {
    /// Writes the batch; gives its bytes.
    async fn write(&mut self, mut batch: Batch) -> Result<usize, AppendError> {
        self.check_hold().map_err(AppendError::Refused)?;
        let (records, changes, bytes) = self.prepare(&mut batch).await.map_err(AppendError::Refused)?;
        let (reply, answer) = oneshot::channel();
        let prepared = Prepared { ticket: self.ticket.clone(), records, changes, bytes, reply };
        // Where the caller goes away before the answer, the outcome is not known to this hold.
        self.over = true;
        if self.commands.sender.send(Command::Append(prepared)).await.is_err() {
            return Err(AppendError::Refused(closed()));
        }
        match answer.await {
            Ok(Ok(number)) => self.written = number,
            Ok(Err(error)) => {
                self.over = !matches!(&error, AppendError::Refused(error) if !matches!(error, LogError::Fenced { .. }));
                return Err(error);
            }
            // The committer ended with the batch in its hands or before it came to it.
            Err(_) => return Err(AppendError::Unknown(closed())),
        }
        self.over = false;
        if batch.position.is_some() {
            self.position = batch.position;
        }
        for (at, next) in batch.offsets {
            self.offsets.insert(at, StoredOffset { log: self.log.clone(), next });
        }
        Ok(bytes)
    }
}

#[async_trait]
impl OwnedLog for KafkaOwned {
    fn owner(&self) -> &OwnerId {
        &self.ticket.owner
    }

    fn position(&self) -> Option<Bytes> {
        self.position.clone()
    }

    fn offset(&self, at: &TopicPartition) -> Option<StoredOffset> {
        self.offsets.get(at).cloned()
    }

    async fn append(&mut self, batch: Batch) -> Result<Committed, AppendError> {
        let count = batch.records.len();
        let ended = self.write(batch).await;
        self.metrics.ended(ended.as_ref().map(|bytes| (count, *bytes)));
        ended.map(|_| Committed::new(count))
    }

    fn state(&self) -> Arc<dyn KeyedState> {
        Arc::new(self.maps())
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        let values = self.maps().get(map, keys).await?;
        self.check_hold()?;
        Ok(values)
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        let whole = |part: &[u8]| {
            let mut key = changelog::map_prefix(self.name(), map, part.len())?;
            key.extend_from_slice(part);
            Ok::<_, LogError>(key.freeze())
        };
        let cut = whole(&[])?.len();
        let after = after.map(whole).transpose()?;
        self.settled().await?;
        let found = self.store.scan(self.ticket.slot, &whole(prefix)?, after.as_deref(), limit).await?;
        self.check_hold()?;
        Ok(found.into_iter().map(|(key, value)| (key.slice(cut.min(key.len())..), value)).collect())
    }
}

fn closed() -> LogError {
    LogError::Unavailable { detail: "this log was closed".to_owned() }
}
