//! A batch is read, mapped and settled while the one before it is written, and thrown away where that one is not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use guitong_log::embedded::EmbeddedLog;
use guitong_log::{
    AppendError, Batch, Bounds, Committed, ExchangeLog, KeyedState, LogError, LogId, LogReader, OwnedLog, OwnerId, Placement,
    Record, StoredOffset, TopicPartition, TopicSpec,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Notify, watch};

use super::harness::{STD, World, headers, uscc};

const PATIENCE: Duration = Duration::from_secs(30);

/// How an append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Refused,
    /// It is written, its answer lost.
    AnswerLost,
    /// It is not written, and nobody is told.
    Lost,
}

/// A log of which one append fails, and only once the state was read for the batch behind it.
#[derive(Debug)]
struct FailingLog {
    inner: EmbeddedLog,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    failure: Failure,
    /// Appends with records until the one that fails.
    left: AtomicUsize,
    /// State was read while an append waited.
    was_read: Notify,
    failed: AtomicUsize,
}

#[derive(Debug)]
struct FailingOwner {
    inner: Box<dyn OwnedLog>,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct WatchedState {
    inner: Arc<dyn KeyedState>,
    plan: Arc<Plan>,
}

#[async_trait]
impl KeyedState for WatchedState {
    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        if self.plan.left.load(Ordering::SeqCst) == 0 {
            self.plan.was_read.notify_one();
        }
        self.inner.get(map, keys).await
    }
}

#[async_trait]
impl OwnedLog for FailingOwner {
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
        let is_it = !batch.records.is_empty() && self.plan.failed.load(Ordering::SeqCst) == 0;
        if !is_it || self.plan.left.fetch_sub(1, Ordering::SeqCst) > 1 {
            return self.inner.append(batch).await;
        }
        let read = tokio::time::timeout(PATIENCE, self.plan.was_read.notified()).await;
        read.expect("the next batch is made while this one is written");
        self.plan.failed.fetch_add(1, Ordering::SeqCst);
        let error = LogError::Unavailable { detail: "as planned".into() };
        match self.plan.failure {
            Failure::Refused => Err(AppendError::Refused(error)),
            Failure::Lost => Err(AppendError::Unknown(error)),
            Failure::AnswerLost => {
                self.inner.append(batch).await?;
                Err(AppendError::Unknown(error))
            }
        }
    }

    fn state(&self) -> Arc<dyn KeyedState> {
        Arc::new(WatchedState { inner: self.inner.state(), plan: Arc::clone(&self.plan) })
    }

    async fn get(&self, map: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LogError> {
        self.inner.get(map, keys).await
    }

    async fn scan(&self, map: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>, LogError> {
        self.inner.scan(map, prefix, after, limit).await
    }
}

#[async_trait]
impl ExchangeLog for FailingLog {
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
        Ok(Box::new(FailingOwner { inner: self.inner.open(owner).await?, plan: Arc::clone(&self.plan) }))
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

/// A backlog of many batches, in which rows change, swap their codes and go. Whichever batch fails, and however, what is published is what a
/// stage that never failed publishes; that no event is there twice and versions rise is checked on the way.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_made_on_top_of_one_that_failed_is_thrown_away() {
    let mut random = StdRng::seed_from_u64(guitong_tests::seed());
    for failure in [Failure::Refused, Failure::AnswerLost, Failure::Lost] {
        let mut world = World::new().await;
        for step in 0..120 {
            let (id, code) = (random.random_range(1..12), uscc(random.random_range(1..12)));
            match random.random_range(0..8) {
                0 => world.delete(id).await,
                1 => world.update(id, "bad", &[]).await,
                _ => world.update(id, &code, &[("qymc", Some(&format!("示例{step}公司")))]).await,
            }
        }
        let plan = Plan {
            failure,
            left: AtomicUsize::new(random.random_range(1..5)),
            was_read: Notify::new(),
            failed: AtomicUsize::new(0),
        };
        let plan = Arc::new(plan);
        let failing = FailingLog { inner: world.log.clone(), plan: Arc::clone(&plan) };
        let stage = world.start_over(Arc::new(failing));
        let status = world.settled(&stage).await;
        assert_eq!(plan.failed.load(Ordering::SeqCst), 1, "{failure:?}: it did fail");
        assert_eq!(status.received, 120, "{failure:?}");
        stage.stop().await;
        world.standing().await;
        assert_eq!(published(&world, STD).await, fresh(&world).await, "{failure:?}");
    }
}

/// Every record of a topic by its version: none may be missing, however soon a later one replaces it.
async fn published(world: &World, topic: &str) -> BTreeMap<(String, String), Option<Bytes>> {
    let of = |record: Record| {
        let headers = headers(&record);
        ((headers["guitong-version"].clone(), headers["ce_subject"].clone()), record.value)
    };
    world.records(topic).await.into_iter().map(of).collect()
}

/// What a stage publishes that is never disturbed: the same rows under another name.
async fn fresh(world: &World) -> BTreeMap<(String, String), Option<Bytes>> {
    let mut resource = world.resource.clone();
    resource.name = guitong_schemas::contract::Name::parse("undisturbed").unwrap();
    let topic = format!("std.{}", resource.name);
    let stage = world.start_as(resource);
    world.settled(&stage).await;
    stage.stop().await;
    published(world, &topic).await
}
