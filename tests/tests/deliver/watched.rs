//! A log that counts what is read of it, and of which a read can be held.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use guitong_deliver::{Counted, SharedReads};
use guitong_log::{
    Bounds, ExchangeLog, LogError, LogId, LogReader, OwnedLog, OwnerId, Placement, ReadBatch, ReadBudget, TopicPartition,
    TopicSpec,
};
use prometheus::IntCounter;
use tokio::sync::{Notify, watch};

pub(crate) fn counted() -> Counted {
    let counter = |name: &str| IntCounter::new(name, name).unwrap();
    Counted { log: counter("log"), shared: counter("shared") }
}

/// Readers that read beside those that are tested.
type Company = Mutex<Vec<Box<dyn LogReader>>>;

#[derive(Debug)]
pub(crate) struct Watched {
    id: LogId,
    inner: Mutex<Arc<dyn ExchangeLog>>,
    seen: Arc<Seen>,
    /// Readers read with others through this, and have company.
    through: Option<(SharedReads, Company)>,
}

#[derive(Debug, Default)]
struct Seen {
    opened: AtomicUsize,
    records: AtomicUsize,
    hold: AtomicBool,
    held: Notify,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn ExchangeLog>) -> Self {
        Self { id: inner.id().clone(), inner: Mutex::new(inner), seen: Arc::default(), through: None }
    }

    /// Every reader shares what it reads with one that stays where it began.
    pub(crate) fn shared(inner: Arc<dyn ExchangeLog>) -> Self {
        Self { through: Some((SharedReads::default(), Mutex::default())), ..Self::new(inner) }
    }

    fn inner(&self) -> Arc<dyn ExchangeLog> {
        Arc::clone(&self.inner.lock().unwrap())
    }

    /// Goes on with another one, as if its topics had been made anew.
    pub(crate) fn replace(&self, by: Arc<dyn ExchangeLog>) {
        *self.inner.lock().unwrap() = by;
    }

    /// Readers that were opened and records that they gave.
    pub(crate) fn seen(&self) -> (usize, usize) {
        (self.seen.opened.load(Ordering::SeqCst), self.seen.records.load(Ordering::SeqCst))
    }

    /// The next read never ends.
    pub(crate) fn hold_next(&self) {
        self.seen.hold.store(true, Ordering::SeqCst);
    }

    /// No read is held that has not begun.
    pub(crate) fn hold_none(&self) {
        self.seen.hold.store(false, Ordering::SeqCst);
    }

    /// Waits until that read has begun.
    pub(crate) async fn holds(&self) {
        tokio::time::timeout(Duration::from_secs(30), self.seen.held.notified()).await.expect("a read that is held");
    }
}

#[derive(Debug)]
struct WatchedReader {
    inner: Box<dyn LogReader>,
    seen: Arc<Seen>,
}

#[async_trait]
impl LogReader for WatchedReader {
    async fn read(&mut self, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        if self.seen.hold.swap(false, Ordering::SeqCst) {
            self.seen.held.notify_one();
            std::future::pending::<()>().await;
        }
        let batch = self.inner.read(budget).await?;
        self.seen.records.fetch_add(batch.records.len(), Ordering::SeqCst);
        Ok(batch)
    }
}

#[async_trait]
impl ExchangeLog for Watched {
    fn id(&self) -> &LogId {
        &self.id
    }

    async fn ensure_topic(&self, topic: &TopicSpec) -> Result<(), LogError> {
        self.inner().ensure_topic(topic).await
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        self.inner().partitions(topic).await
    }

    fn placement(&self) -> watch::Receiver<Placement> {
        self.inner().placement()
    }

    async fn open(&self, owner: &OwnerId) -> Result<Box<dyn OwnedLog>, LogError> {
        self.inner().open(owner).await
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        self.inner().bounds(at).await
    }

    async fn written(&self, at: &TopicPartition) -> Result<u64, LogError> {
        self.inner().written(at).await
    }

    async fn offset_at(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<u64, LogError> {
        self.inner().offset_at(at, timestamp_ms).await
    }

    async fn reader(&self, from: Vec<(TopicPartition, u64)>) -> Result<Box<dyn LogReader>, LogError> {
        let inner = self.inner();
        if let Some((reads, company)) = &self.through {
            let stays = reads.reader(&inner, from.clone(), counted()).await?;
            company.lock().unwrap().push(stays);
            return reads.reader(&inner, from, counted()).await;
        }
        let reader = inner.reader(from).await?;
        self.seen.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(WatchedReader { inner: reader, seen: Arc::clone(&self.seen) }))
    }

    async fn maintain(&self, now_ms: i64) -> Result<(), LogError> {
        self.inner().maintain(now_ms).await
    }

    async fn size(&self) -> Result<Option<u64>, LogError> {
        self.inner().size().await
    }
}
