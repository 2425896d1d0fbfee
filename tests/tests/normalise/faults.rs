//! Damaged events, missing columns, a registry that is away, stops and rivals.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use guitong_log::{ExchangeLog, NewRecord, OwnerId, Role};
use guitong_normalise::{Filter, NormaliseError, Phase, QuarantineStore};

use super::harness::{QUARANTINE, RAW, STD, World, uscc};

fn vandal(key: Option<&'static [u8]>, value: &'static [u8], version: Option<&'static str>) -> NewRecord {
    let header = |version: &'static str| ("guitong-version".into(), Bytes::from_static(version.as_bytes()));
    NewRecord {
        topic: RAW.into(),
        partition: Some(0),
        key: key.map(Bytes::from_static),
        value: Some(Bytes::from_static(value)),
        headers: version.map(header).into_iter().collect(),
        timestamp_ms: 1,
    }
}

#[tokio::test]
async fn poison_is_kept_and_stops_nothing() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &[]).await;
    let version = Some("1/5/1/0/0");
    let good = world.records(RAW).await.remove(0);
    let keyless = |key| NewRecord { value: good.value.clone(), ..vandal(key, b"", version) };
    let unkeyed = ("guitong-unkeyed".into(), Bytes::from_static(b"id"));
    let unkeyed = NewRecord { headers: [keyless(None).headers, vec![unkeyed]].concat(), ..keyless(Some(b"\0\0\0\0\0\x69")) };
    let poison = vec![
        vandal(Some(b"\0\0\0\0\0\x63"), b"\0\0\0\0\x01\xff\xff", version),
        vandal(Some(b"\0\0\0\0\0\x64"), b"\0\0\0\x03\xe7\x00", version),
        vandal(Some(b"\0\0\0\0\0\x65"), b"no frame", version),
        vandal(Some(b"\0\0\0\0\0\x66"), b"", version),
        keyless(Some(b"k")),
        keyless(None),
        vandal(Some(b"\0\0\0\0\0\x67"), b"\0\0\0\0\x01\x00", Some("not/a/version")),
        vandal(Some(b"\0\0\0\0\0\x68"), b"\0\0\0\0\0\x02", version),
        unkeyed,
    ];
    world.append_raw(poison.clone()).await;
    world.create(2, &uscc(2), &[]).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.entities), (poison.len() as u64, 2));
    let list = stage.handle.list(Filter::default(), None, 100).await.unwrap();
    let rules: Vec<_> = list.items.iter().map(|item| item.rejections[0].rule.as_str()).collect();
    let wanted =
        ["decode", "schema", "frame", "frame", "key", "key", "version", "schema", "key"].map(|rule| format!("event.{rule}"));
    assert_eq!(rules, wanted);
    let kept: Vec<_> = world.records(QUARANTINE).await.into_iter().map(|record| record.value).collect();
    assert_eq!(kept, poison.iter().map(|record| record.value.clone()).collect::<Vec<_>>());
    let report = stage.handle.replay(Filter::default()).await.unwrap();
    assert_eq!((report.tried, report.kept), (9, 9));
    assert_eq!(world.metric("guitong_normalise_findings_total", ("rule", "event.frame")), 4.0, "two, and two run again");
    stage.stop().await;
}

#[tokio::test]
async fn a_schema_that_the_registry_knows_later_is_read_by_a_replay() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &[]).await;
    let hidden = world.registry.hide_values();
    let stage = world.start();
    assert_eq!(world.settled(&stage).await.quarantined, 1);
    world.registry.show(hidden);
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap().released, 1);
    assert_eq!(world.names().await.len(), 1);
    stage.stop().await;
}

#[tokio::test]
async fn a_truncate_deletes_every_row_before_it_and_none_after() {
    let mut world = World::new().await;
    for id in 1..=5 {
        world.create(id, &uscc(id), &[]).await;
    }
    world.update(5, &uscc(5), &[("djzt", Some("不明"))]).await;
    world.truncate().await;
    world.create(2, &uscc(2), &[("qymc", Some("重建"))]).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.entities, status.quarantined, status.held_back, status.received), (1, 0, 0, 8));
    assert_eq!(world.names().await.into_values().collect::<Vec<_>>(), ["重建"]);
    world.truncate().await;
    assert_eq!(world.settled(&stage).await.entities, 0);
    stage.stop().await;
    let stage = world.start();
    assert_eq!(world.settled(&stage).await.received, 9, "a truncate is consumed once");
    stage.stop().await;
}

#[tokio::test]
async fn a_mapping_that_does_not_compile_is_refused_and_the_old_one_stays() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &[]).await;
    let stage = world.start();
    world.settled(&stage).await;
    let mut resource = world.resource.clone();
    resource.entity = "NoSuch".into();
    assert!(stage.handle.reload(Arc::new(resource)).await.unwrap_err().to_string().contains("NoSuch"));
    world.create(2, &uscc(2), &[]).await;
    assert_eq!(world.settled(&stage).await.entities, 2);
    stage.stop().await;
}

#[tokio::test]
async fn a_registry_that_is_away_is_waited_for() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &[]).await;
    world.registry.is_down.store(true, Ordering::SeqCst);
    let stage = world.start();
    stage.until(|status| matches!(status.phase, Phase::Retrying(_))).await;
    let answer = stage.handle.list(Filter::default(), None, 1).await.unwrap_err().to_string();
    assert!(answer.contains("registry is not reachable"), "{answer}");
    world.registry.is_down.store(false, Ordering::SeqCst);
    assert_eq!(world.settled(&stage).await.entities, 1);
    // In mid-stream: known schemas go on, a new one waits.
    world.drop_column("lxdh");
    world.create(2, &uscc(2), &[]).await;
    world.settled(&stage).await;
    world.drop_column("zczb");
    let mut resource = world.resource.clone();
    resource.map.remove("reg_capital");
    stage.handle.reload(Arc::new(resource)).await.unwrap();
    stage.until(|status| status.phase == Phase::Running).await;
    world.create(3, &uscc(3), &[]).await;
    assert_eq!(world.settled(&stage).await.entities, 3);
    stage.stop().await;
}

#[tokio::test]
async fn it_waits_for_a_connector_that_has_not_begun() {
    let mut world = World::new().await;
    let stage = world.start();
    stage.until(|status| status.phase == Phase::WaitingForTopic).await;
    world.create(1, &uscc(1), &[]).await;
    assert_eq!(world.settled(&stage).await.entities, 1);
    stage.stop().await;
}

#[tokio::test]
async fn two_rivals_publish_everything_once() {
    let mut world = World::new().await;
    let rivals = [world.start(), world.start()];
    for id in 1..=60 {
        world.create(id % 10, &uscc(id % 7 + 1), &[("qymc", Some(&format!("示例{id}公司")))]).await;
    }
    world.delete(3).await;
    let end = world.log.bounds(&guitong_log::TopicPartition::new(RAW, 0)).await.unwrap().end;
    let either = async {
        tokio::select! {
            _ = rivals[0].until(|status| status.offset >= end) => {},
            _ = rivals[1].until(|status| status.offset >= end) => {},
        }
    };
    either.await;
    for rival in rivals {
        rival.stop().await;
    }
    // `standing` finds doubled events and versions that fall.
    assert_eq!(world.names().await.len(), 7);
}

#[tokio::test]
async fn a_higher_revision_reads_everything_again() {
    let mut world = World::new().await;
    let (a, b) = (uscc(1), uscc(2));
    world.create(1, &a, &[("lxr", Some("甲"))]).await;
    world.create(2, &b, &[("djzt", Some("不明"))]).await;
    world.update(1, &a, &[("lxr", Some("乙"))]).await;
    world.create(3, &uscc(3), &[]).await;
    world.delete(3).await;
    let stage = world.start();
    assert_eq!(world.settled(&stage).await.quarantined, 1);
    assert!(world.standing().await[&a].fields.contains_key("contact"));
    let mut resource = world.resource.clone();
    resource.revision += 1;
    resource.map.remove("contact");
    resource.map.get_mut("status").unwrap().codes.insert("不明".into(), "9".into());
    stage.handle.reload(Arc::new(resource)).await.unwrap();
    let status = stage.until(|status| status.quarantined == 0 && status.offset >= 6).await;
    assert_eq!(status.entities, 2);
    let standing = world.standing().await;
    assert_eq!(standing.keys().collect::<Vec<_>>(), [&a, &b], "what was deleted is deleted again");
    assert!(!standing[&a].fields.contains_key("contact"), "a rebuild replaces what it corrects");
    stage.stop().await;
}

#[tokio::test]
async fn an_offset_of_another_log_is_a_gap_for_a_person() {
    let mut world = World::new().await;
    world.create(1, &uscc(1), &[]).await;
    let stage = world.start();
    world.settled(&stage).await;
    stage.stop().await;
    let mut owner = world.log.open(&OwnerId::new(Role::Normalise, "enterprise")).await.unwrap();
    let beyond =
        guitong_log::Batch { offsets: vec![(guitong_log::TopicPartition::new(RAW, 0), 1_000)], ..guitong_log::Batch::default() };
    owner.append(beyond).await.unwrap();
    let error = world.start().failure().await;
    assert!(matches!(&error, NormaliseError::Gap { .. }), "{error}");
    assert!(error.to_string().contains("new snapshot"), "{error}");
}

#[tokio::test]
async fn the_quarantine_reads_without_a_running_stage() {
    let mut world = World::new().await;
    world.create(1, "bad", &[]).await;
    let stage = world.start();
    world.settled(&stage).await;
    stage.stop().await;
    let owner = world.log.open(&OwnerId::new(Role::Normalise, "enterprise")).await.unwrap();
    let list = QuarantineStore::new(&*owner).list(&Filter::default(), None, 10).await.unwrap();
    assert_eq!(list.items.len(), 1);
    assert!(world.records(STD).await.is_empty());
}
