//! A resource that is away for longer than deletes are kept: what was deleted meanwhile goes all the same.

use std::time::Duration;

use guitong_log::ExchangeLog;
use guitong_normalise::{NormaliserStatus, RebuildPhase, RebuildReport};

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
    let mut revision = world.resource.revision;
    loop {
        revision += 1;
        world.resource.revision = revision;
        let stage = world.start();
        // Another one, where it is done before it is seen on its way.
        let status = stage.until(|status| is_made_again(status, revision - 1) || is_half_read(status)).await;
        stage.kill().await;
        if is_half_read(&status) {
            break;
        }
    }
    world.delete(1).await;
    grow_old(&world.log).await;
    let stage = world.start();
    made_again(&world, &stage, revision - 1).await;
    assert!(!world.names().await.contains_key(&uscc(1)), "it was read before it was deleted");
    assert_eq!(world.names().await.len(), 59);
    stage.stop().await;
}

fn is_half_read(status: &NormaliserStatus) -> bool {
    status.rebuild.as_ref().is_some_and(|rebuild| rebuild.phase == RebuildPhase::Reading && (1..60).contains(&rebuild.done))
}
