//! What broke a rule waits, and what waits never overtakes what is newer.

use std::sync::Arc;

use guitong_normalise::{Filter, ReplayReport};
use guitong_schemas::contract::Resource;

use super::harness::{QUARANTINE, RAW, World, headers, uscc};

/// The resource with one more state in its code list.
fn corrected(resource: &Resource) -> Arc<Resource> {
    let mut resource = resource.clone();
    resource.map.get_mut("status").unwrap().codes.insert("不明".into(), "9".into());
    Arc::new(resource)
}

#[tokio::test]
async fn a_bad_version_waits_while_the_last_good_one_stands() {
    let mut world = World::new().await;
    let code = uscc(1);
    world.create(1, &code, &[("qymc", Some("第一版"))]).await;
    world.update(1, &code, &[("qymc", Some("第二版")), ("djzt", Some("不明"))]).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back, status.entities), (1, 1, 1));
    assert_eq!(world.names().await[&code], "第一版");

    let list = stage.handle.list(Filter::default(), None, 10).await.unwrap();
    let [item] = list.items.as_slice() else { panic!("{list:?}") };
    assert_eq!((item.key.as_str(), item.version.as_str(), item.held_back), ("id=1", "1/2/1/0/1", true));
    assert_eq!((item.topic.as_str(), item.offset), (RAW, 1));
    let [rejection] = item.rejections.as_slice() else { panic!("{item:?}") };
    assert_eq!((rejection.rule.as_str(), rejection.field.as_str()), ("code.unknown", "status"));
    assert_eq!(rejection.value.as_deref(), Some("不明"));
    assert!(rejection.zh.starts_with("经营状态") || rejection.zh.contains("不在代码表内"), "{}", rejection.zh);
    assert_eq!(stage.handle.show(item.id.clone()).await.unwrap().as_ref(), Some(item));
    assert_eq!(stage.handle.show("ffff".into()).await.unwrap(), None);

    let kept = world.records(QUARANTINE).await;
    let raw = world.records(RAW).await;
    assert_eq!(kept[0].value, raw[1].value, "the whole event is there");
    assert_eq!(headers(&kept[0])["guitong-version"], "1/2/1/0/0");
    assert!(headers(&kept[0])["guitong-quarantine-findings"].contains("code.unknown"));

    world.update(1, &code, &[("qymc", Some("第三版"))]).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back), (0, 0), "a later good version releases it");
    assert_eq!(world.names().await[&code], "第三版");
    assert!(world.records(QUARANTINE).await.last().unwrap().value.is_none(), "a released entry is a tombstone");
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap(), ReplayReport::default());
    stage.stop().await;
}

#[tokio::test]
async fn a_replay_after_a_correction_ends_with_the_newest_version() {
    let mut world = World::new().await;
    let (a, b, c) = (uscc(1), uscc(2), uscc(3));
    let bad = |name: &'static str| [("qymc", Some(name)), ("djzt", Some("不明"))];
    world.create(1, &a, &[("qymc", Some("甲一"))]).await;
    world.update(1, &a, &bad("甲二")).await;
    world.update(1, &a, &bad("甲三")).await;
    // Bad, and its code was taken by a newer row since.
    world.create(2, &b, &bad("乙一")).await;
    world.create(3, &b, &[("qymc", Some("丙一"))]).await;
    // Bad for good.
    world.create(4, "91450100", &[]).await;
    // Bad, and its key was published and deleted by another row since.
    world.create(5, &c, &bad("戊一")).await;
    world.create(6, &c, &[("qymc", Some("己一"))]).await;
    world.delete(6).await;
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back, status.entities), (5, 1, 2));

    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap(), ReplayReport { tried: 5, released: 0, kept: 5 });
    stage.handle.reload(corrected(&world.resource)).await.unwrap();
    let one = stage.until(|status| status.quarantined == 5).await;
    assert_eq!(one.entities, 2, "a new mapping alone publishes nothing");
    assert_eq!(
        stage.handle.replay(Filter { ids: vec!["0".into()], ..Filter::default() }).await.unwrap(),
        ReplayReport { tried: 1, released: 1, kept: 0 }
    );
    assert_eq!(world.names().await[&a], "甲二", "what was asked for");
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap(), ReplayReport { tried: 4, released: 3, kept: 1 });
    let names = world.names().await;
    assert_eq!((names[&a].as_str(), names[&b].as_str(), names[&c].as_str()), ("甲三", "丙一", "戊一"));
    let status = stage.until(|status| status.quarantined == 1).await;
    assert_eq!((status.held_back, status.entities), (0, 3));
    world.delete(3).await;
    world.settled(&stage).await;
    assert_eq!(world.names().await[&b], "乙一", "the replayed row is a claimant");
    stage.stop().await;
}

#[tokio::test]
async fn a_delete_releases_what_waits() {
    let mut world = World::new().await;
    let code = uscc(1);
    world.create(1, &code, &[]).await;
    world.update(1, &code, &[("djzt", None)]).await;
    world.create(2, "bad", &[]).await;
    let stage = world.start();
    assert_eq!(world.settled(&stage).await.quarantined, 2);
    world.delete(1).await;
    world.delete(2).await;
    let status = world.settled(&stage).await;
    assert_eq!((status.quarantined, status.held_back, status.entities), (0, 0, 0));
    assert!(world.standing().await.is_empty());
    stage.handle.reload(corrected(&world.resource)).await.unwrap();
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap().tried, 0, "a deleted row does not come back");
    assert!(world.standing().await.is_empty());
    stage.stop().await;
}

#[tokio::test]
async fn entries_outlive_a_restart_and_lists_go_on() {
    let mut world = World::new().await;
    for id in 1..=7 {
        world.create(id, &uscc(id), &[("djzt", Some("不明"))]).await;
    }
    let stage = world.start();
    let status = world.settled(&stage).await;
    assert_eq!(status.quarantined, 7);
    stage.stop().await;
    let stage = world.start();
    let first = stage.handle.list(Filter::default(), None, 5).await.unwrap();
    let rest = stage.handle.list(Filter::default(), first.next.clone(), 5).await.unwrap();
    let ids: Vec<_> = first.items.iter().chain(&rest.items).map(|item| item.id.as_str()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(rest.next, None);
    let status = stage.until(|status| status.oldest_quarantine_us.is_some()).await;
    assert_eq!(status.oldest_quarantine_us, Some(first.items[0].at_us));
    stage.handle.reload(corrected(&world.resource)).await.unwrap();
    assert_eq!(stage.handle.replay(Filter::default()).await.unwrap(), ReplayReport { tried: 7, released: 7, kept: 0 });
    assert_eq!(world.names().await.len(), 7);
    stage.stop().await;
}
