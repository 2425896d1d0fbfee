//! A log whose answers to an owner's appends can be lost, or come late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_log::{
    AppendError, Batch, Bounds, Committed, ExchangeLog, KeyedState, LogError, LogId, LogReader, OwnedLog, OwnerId, Placement,
    StoredOffset, TopicPartition, TopicSpec,
};
use tokio::sync::{Notify, watch};

/// What happens to the next append that holds records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Lose {
    Nothing,
    /// It never reaches the log.
    Append,
    /// It is in the log, and nobody hears of it.
    Answer,
}

#[derive(Debug)]
pub(crate) struct LosingLog {
    inner: Arc<dyn ExchangeLog>,
    next: Arc<AtomicU8>,
    late: Arc<Late>,
}

/// Appends without records wait for their answers while it is closed.
#[derive(Debug, Default)]
struct Late {
    closed: watch::Sender<bool>,
    waiting: Notify,
}

impl LosingLog {
    pub(crate) fn new(inner: Arc<dyn ExchangeLog>) -> Self {
        Self { inner, next: Arc::default(), late: Arc::default() }
    }

    /// No append without records is answered, until they all are.
    pub(crate) fn answers_late(&self, late: bool) {
        self.late.closed.send_replace(late);
    }

    /// Waits until an append waits for its answer.
    pub(crate) async fn is_late(&self) {
        tokio::time::timeout(Duration::from_secs(30), self.late.waiting.notified()).await.expect("an append that waits");
    }

    pub(crate) fn lose(&self, what: Lose) {
        self.next.store(what as u8, Ordering::SeqCst);
    }

    /// Whether what was to be lost is lost.
    pub(crate) fn lost(&self) -> bool {
        self.next.load(Ordering::SeqCst) == Lose::Nothing as u8
    }
}

#[derive(Debug)]
struct LosingOwner {
    inner: Box<dyn OwnedLog>,
    next: Arc<AtomicU8>,
    late: Arc<Late>,
    /// An append was given up, or its answer lost: as every owner, it writes nothing more.
    in_doubt: bool,
}

fn lost() -> AppendError {
    AppendError::Unknown(LogError::Unavailable { detail: "the answer was lost".into() })
}

impl LosingOwner {
    async fn append_or_lose(&mut self, batch: Batch) -> Result<Committed, AppendError> {
        if batch.records.is_empty() {
            let appended = self.inner.append(batch).await;
            if *self.late.closed.borrow() {
                self.late.waiting.notify_one();
                let _ = self.late.closed.subscribe().wait_for(|closed| !closed).await;
            }
            return appended;
        }
        match self.next.swap(Lose::Nothing as u8, Ordering::SeqCst) {
            lose if lose == Lose::Append as u8 => Err(lost()),
            lose if lose == Lose::Answer as u8 => {
                self.inner.append(batch).await?;
                Err(lost())
            }
            _ => self.inner.append(batch).await,
        }
    }
}

#[async_trait]
impl OwnedLog for LosingOwner {
    fn owner(&self) -> &OwnerId {
        self.inner.owner()
    }

    fn position(&self) -> Option<Bytes> {
        self.inner.position()
    }

    fn offset(&self, at: &TopicPartition) -> Option<StoredOffset> {
        self.inner.offset(at)
    }

    async fn append(&mut self, batch: Batch) -> Result<Committed, AppendError> {
        if std::mem::replace(&mut self.in_doubt, true) {
            return Err(lost());
        }
        let appended = self.append_or_lose(batch).await;
        self.in_doubt = appended.is_err();
        appended
    }

    fn state(&self) -> Arc<dyn KeyedState> {
        self.inner.state()
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        self.inner.get(map, keys).await
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        self.inner.scan(map, prefix, after, limit).await
    }
}

#[async_trait]
impl ExchangeLog for LosingLog {
    fn id(&self) -> &LogId {
        self.inner.id()
    }

    async fn ensure_topic(&self, topic: &TopicSpec) -> Result<(), LogError> {
        self.inner.ensure_topic(topic).await
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        self.inner.partitions(topic).await
    }

    fn placement(&self) -> watch::Receiver<Placement> {
        self.inner.placement()
    }

    async fn open(&self, owner: &OwnerId) -> Result<Box<dyn OwnedLog>, LogError> {
        let (next, late) = (Arc::clone(&self.next), Arc::clone(&self.late));
        Ok(Box::new(LosingOwner { inner: self.inner.open(owner).await?, next, late, in_doubt: false }))
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        self.inner.bounds(at).await
    }

    async fn written(&self, at: &TopicPartition) -> Result<u64, LogError> {
        self.inner.written(at).await
    }

    async fn offset_at(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<u64, LogError> {
        self.inner.offset_at(at, timestamp_ms).await
    }

    async fn reader(&self, from: Vec<(TopicPartition, u64)>) -> Result<Box<dyn LogReader>, LogError> {
        self.inner.reader(from).await
    }

    async fn maintain(&self, now_ms: i64) -> Result<(), LogError> {
        self.inner.maintain(now_ms).await
    }

    async fn size(&self) -> Result<Option<u64>, LogError> {
        self.inner.size().await
    }
}
