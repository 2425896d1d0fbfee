//! A resource that is away for longer than deletes are kept: what was deleted meanwhile goes all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use guitong_log::embedded::EmbeddedLog;
use guitong_log::{
    Bounds, ExchangeLog, LogError, LogId, LogReader, OwnedLog, OwnerId, Placement, ReadBatch, ReadBudget, TopicPartition,
    TopicSpec,
};
use guitong_normalise::{NormaliserStatus, RebuildReport};
use tokio::sync::watch;

use super::harness::{RAW, Stage, World, uscc};

/// For how long deletes are relied on here.
pub(crate) const KEPT: Duration = Duration::from_secs(2);

/// What was written so far is older than deletes are surely kept, and deletes among it leave the log.
pub(crate) async fn grow_old(log: &dyn ExchangeLog) {
    tokio::time::sleep(KEPT + KEPT / 8).await;
    log.maintain(jiff::Timestamp::now().as_millisecond() + 3 * 86_400_000).await.unwrap();
}

/// Whether the stage is past a rebuild later than `last`.
fn is_made_again(status: &NormaliserStatus, last: u32) -> bool {
    status.rebuild.is_none() && status.rebuilt.is_some_and(|report| report.revision > last)
}

async fn made_again(world: &World, stage: &Stage, last: u32) -> RebuildReport {
    let report = stage.until(|status| is_made_again(status, last)).await.rebuilt.unwrap();
    world.settled(stage).await;
    report
}

async fn rows(world: &World) -> Vec<String> {
    world.names().await.into_values().collect()
}

#[tokio::test]
async fn deletes_that_left_the_log_unread_are_found() {
    let mut world = World::keeping_deletes_for(KEPT).await;
    for (id, name) in [(1, "甲"), (2, "乙"), (3, "丙"), (4, "丁"), (5, "戊")] {
        world.create(id, &uscc(id), &[("qymc", Some(name))]).await;
    }
    let stage = world.start();
    world.settled(&stage).await;
    stage.stop().await;
    world.delete(2).await;
    world.update(3, &uscc(3), &[("qymc", Some("又"))]).await;
    world.delete(4).await;
    world.create(4, &uscc(4), &[("qymc", Some("新"))]).await;
    world.delete(5).await;
    grow_old(&world.log).await;
    assert!(world.records(RAW).await.iter().all(|record| record.value.is_some()), "the deletes are gone");

    let stage = world.start();
    let report = made_again(&world, &stage, 0).await;
    assert_eq!((report.deleted, report.left), (2, 0));
    let standing = rows(&world).await;
    assert_eq!((standing.len(), stage.handle.status().borrow().entities), (3, 3), "{standing:?}");
    assert!(["甲", "又", "新"].iter().all(|name| standing.contains(&(*name).to_owned())), "{standing:?}");
    // Where it stands at the end of the log there is nothing to miss, however long it is away.
    stage.stop().await;
    grow_old(&world.log).await;
    let stage = world.start();
    world.settled(&stage).await;
    world.create(6, &uscc(6), &[]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.rebuilt, status.rebuild, status.entities), (Some(report), None, 4));
    stage.stop().await;
}

/// A resource reads for the first time what is older than any delete: nothing of it was missed.
#[tokio::test]
async fn a_first_reading_of_old_events_is_whole() {
    let mut world = World::keeping_deletes_for(KEPT).await;
    world.create(1, &uscc(1), &[]).await;
    world.create(2, &uscc(2), &[]).await;
    world.delete(2).await;
    grow_old(&world.log).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.rebuild, status.rebuilt), (1, None, None));
    stage.stop().await;
}

/// What a rebuild had read when it stood still may have been deleted since, with nothing left that says so. A crash after it began anew
/// finds that it did.
#[tokio::test]
async fn a_rebuild_that_stood_still_for_as_long_begins_anew() {
    let mut world = World::keeping_deletes_for(KEPT).await;
    for id in 1..=60 {
        world.create(id, &uscc(id), &[("lxr", Some("甲"))]).await;
    }
    let stage = world.start();
    world.settled(&stage).await;
    stage.stop().await;
    world.resource.map.remove("contact");
    world.resource.revision += 1;
    let revision = world.resource.revision;
    let (whole, rest) = (Arc::new(AtomicU64::new(HALF)), AtomicU64::new(u64::MAX));
    let stage = world.start_over(Arc::new(Limited { log: world.log.clone(), whole: Arc::clone(&whole), rest: rest.into() }));
    let is_at = |status: &NormaliserStatus, done| status.rebuild.as_ref().is_some_and(|rebuild| rebuild.done == done);
    stage.until(|status| is_at(status, HALF)).await;
    whole.store(0, Ordering::SeqCst);
    // The resource itself goes on meanwhile, and so has missed nothing.
    world.delete(1).await;
    world.settled(&stage).await;
    grow_old(&world.log).await;
    world.create(61, &uscc(61), &[]).await;
    world.settled(&stage).await;
    stage.until(|status| is_at(status, 0)).await;
    stage.kill().await;
    let stage = world.start();
    made_again(&world, &stage, revision - 1).await;
    assert!(!world.names().await.contains_key(&uscc(1)), "it was read before it was deleted");
    assert_eq!(world.names().await.len(), 60);
    stage.stop().await;
}

/// Events of the raw topic that the rebuild gets.
const HALF: u64 = 30;

/// A row whose newest event the resource itself has not read yet is not one that is gone: the older ones may have left the log.
#[tokio::test]
async fn a_rebuild_waits_for_what_is_newer_than_what_it_met() {
    let mut world = World::keeping_deletes_for(KEPT).await;
    for id in 1..=4 {
        world.create(id, &uscc(id), &[]).await;
    }
    let stage = world.start();
    let read = world.settled(&stage).await.received;
    stage.stop().await;
    world.delete(2).await;
    world.update(3, &uscc(3), &[("qymc", Some("又"))]).await;
    grow_old(&world.log).await;
    let (whole, rest) = (AtomicU64::new(u64::MAX), Arc::new(AtomicU64::new(read)));
    let stage = world.start_over(Arc::new(Limited { log: world.log.clone(), whole: whole.into(), rest: Arc::clone(&rest) }));
    stage.until(|status| status.rebuild.as_ref().is_some_and(|rebuild| rebuild.done == rebuild.of)).await;
    rest.store(u64::MAX, Ordering::SeqCst);
    let report = made_again(&world, &stage, 0).await;
    assert_eq!((report.deleted, rows(&world).await.len()), (1, 3));
    stage.stop().await;
}

/// A log that gives the raw topic up to a limit: one for readings from its beginning, and one for others. A limit may be raised before
/// it is reached, and lowered.
#[derive(Debug)]
struct Limited {
    log: EmbeddedLog,
    whole: Arc<AtomicU64>,
    rest: Arc<AtomicU64>,
}

#[derive(Debug)]
struct LimitedReader {
    inner: Box<dyn LogReader>,
    next: u64,
    limit: Arc<AtomicU64>,
}

#[async_trait]
impl LogReader for LimitedReader {
    async fn read(&mut self, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        let limit = self.limit.load(Ordering::SeqCst);
        if self.next >= limit {
            tokio::time::sleep(budget.wait).await;
            return Ok(ReadBatch::default());
        }
        let mut batch = self.inner.read(budget).await?;
        batch.records.retain(|record| record.offset < limit);
        batch.next.iter_mut().for_each(|(_, next)| *next = limit.min(*next));
        self.next = batch.next.iter().map(|(_, next)| *next).max().unwrap_or(self.next);
        Ok(batch)
    }
}

#[async_trait]
impl ExchangeLog for Limited {
    fn id(&self) -> &LogId {
        self.log.id()
    }

    async fn ensure_topic(&self, topic: &TopicSpec) -> Result<(), LogError> {
        self.log.ensure_topic(topic).await
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        self.log.partitions(topic).await
    }

    fn placement(&self) -> watch::Receiver<Placement> {
        self.log.placement()
    }

    async fn open(&self, owner: &OwnerId) -> Result<Box<dyn OwnedLog>, LogError> {
        self.log.open(owner).await
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        self.log.bounds(at).await
    }

    async fn written(&self, at: &TopicPartition) -> Result<u64, LogError> {
        self.log.written(at).await
    }

    async fn offset_at(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<u64, LogError> {
        self.log.offset_at(at, timestamp_ms).await
    }

    async fn reader(&self, from: Vec<(TopicPartition, u64)>) -> Result<Box<dyn LogReader>, LogError> {
        let next = from.iter().find(|(at, _)| &*at.topic == RAW).map(|(_, next)| *next);
        let inner = self.log.reader(from).await?;
        let Some(next) = next else { return Ok(inner) };
        let limit = Arc::clone(if next == 0 { &self.whole } else { &self.rest });
        Ok(Box::new(LimitedReader { inner, next, limit }))
    }

    async fn maintain(&self, now_ms: i64) -> Result<(), LogError> {
        self.log.maintain(now_ms).await
    }

    async fn size(&self) -> Result<Option<u64>, LogError> {
        self.log.size().await
    }
}
