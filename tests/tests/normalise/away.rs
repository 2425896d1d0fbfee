//! A resource that is away for longer than deletes are kept: what was deleted meanwhile goes all the same.

use std::sync::Arc;
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

/// What a rebuild had read when it stood still may have been deleted since, with nothing left that says so.
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
    let stage = world.start_over(Arc::new(HalfRead(world.log.clone())));
    stage.until(|status| status.rebuild.as_ref().is_some_and(|rebuild| rebuild.done == HALF)).await;
    // The resource itself goes on meanwhile, and so has missed nothing.
    world.delete(1).await;
    world.settled(&stage).await;
    grow_old(&world.log).await;
    world.create(61, &uscc(61), &[]).await;
    world.settled(&stage).await;
    stage.kill().await;
    let stage = world.start();
    made_again(&world, &stage, revision - 1).await;
    assert!(!world.names().await.contains_key(&uscc(1)), "it was read before it was deleted");
    assert_eq!(world.names().await.len(), 60);
    stage.stop().await;
}

/// Events of the raw topic that a reading from its beginning gets.
const HALF: u64 = 30;

/// A log that stands still when a reading from the beginning has come half-way.
#[derive(Debug)]
struct HalfRead(EmbeddedLog);

#[derive(Debug)]
struct HalfReader {
    inner: Box<dyn LogReader>,
    stands: bool,
}

#[async_trait]
impl LogReader for HalfReader {
    async fn read(&mut self, budget: ReadBudget) -> Result<ReadBatch, LogError> {
        if self.stands {
            tokio::time::sleep(budget.wait).await;
            return Ok(ReadBatch::default());
        }
        let mut batch = self.inner.read(budget).await?;
        batch.records.retain(|record| record.offset < HALF);
        batch.next.iter_mut().for_each(|(_, next)| *next = HALF.min(*next));
        self.stands = batch.next.iter().any(|(_, next)| *next == HALF);
        Ok(batch)
    }
}

#[async_trait]
impl ExchangeLog for HalfRead {
    fn id(&self) -> &LogId {
        self.0.id()
    }

    async fn ensure_topic(&self, topic: &TopicSpec) -> Result<(), LogError> {
        self.0.ensure_topic(topic).await
    }

    async fn partitions(&self, topic: &str) -> Result<Option<u32>, LogError> {
        self.0.partitions(topic).await
    }

    fn placement(&self) -> watch::Receiver<Placement> {
        self.0.placement()
    }

    async fn open(&self, owner: &OwnerId) -> Result<Box<dyn OwnedLog>, LogError> {
        self.0.open(owner).await
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, LogError> {
        self.0.bounds(at).await
    }

    async fn written(&self, at: &TopicPartition) -> Result<u64, LogError> {
        self.0.written(at).await
    }

    async fn offset_at(&self, at: &TopicPartition, timestamp_ms: i64) -> Result<u64, LogError> {
        self.0.offset_at(at, timestamp_ms).await
    }

    async fn reader(&self, from: Vec<(TopicPartition, u64)>) -> Result<Box<dyn LogReader>, LogError> {
        let is_whole = from.iter().any(|(at, next)| &*at.topic == RAW && *next == 0);
        let inner = self.0.reader(from).await?;
        Ok(if is_whole { Box::new(HalfReader { inner, stands: false }) } else { inner })
    }

    async fn maintain(&self, now_ms: i64) -> Result<(), LogError> {
        self.0.maintain(now_ms).await
    }

    async fn size(&self) -> Result<Option<u64>, LogError> {
        self.0.size().await
    }
}
